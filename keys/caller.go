package keys

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"bulkhead"
)

// Caller is who is at the other end of a connection, by its certificate.
type Caller struct {
	Role    Role
	Name    bulkhead.NodeName
	UID     string
	Proof   string // hash of its public key
	Expires time.Time
	Expired bool // the certificate has run out: good for renewing it, and for traffic between gateways
}

// Identify verifies the certificate of a connection's other end against the
// authority in pool. Its error is of kind ErrDenied. One that has run out is told
// by Caller.Expired: whether that matters depends on what is asked.
func Identify(c *tls.ConnectionState, pool *x509.CertPool, now time.Time) (Caller, error) {
	if c == nil {
		return Caller{}, bulkhead.Errorf(bulkhead.ErrDenied, "the connection is not encrypted")
	}
	if len(c.PeerCertificates) == 0 {
		return Caller{}, bulkhead.Errorf(bulkhead.ErrDenied, "the other end has no certificate of this farm")
	}
	leaf := c.PeerCertificates[0]
	options := x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	_, err := leaf.Verify(options)
	caller := Caller{Proof: proof(leaf.RawSubjectPublicKeyInfo), Expires: leaf.NotAfter}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired && now.After(leaf.NotAfter) {
		caller.Expired = true
		options.CurrentTime = leaf.NotAfter
		_, err = leaf.Verify(options)
	}
	if err != nil {
		return Caller{}, refusal(leaf, err, now)
	}
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" && leaf.URIs[0].Host == "bulkhead" {
		parts := strings.Split(leaf.URIs[0].Path, "/")
		if len(parts) == 4 {
			caller.UID, parts = parts[3], parts[:3]
		}
		if len(parts) == 3 && parts[0] == "" && parts[2] != "" && (parts[1] == string(RoleServer) || parts[1] == string(RoleNode)) {
			caller.Role, caller.Name = Role(parts[1]), bulkhead.NodeName(parts[2])
			return caller, nil
		}
	}
	return Caller{}, bulkhead.Errorf(bulkhead.ErrDenied, "the certificate of %q names no server or node", leaf.Subject.CommonName)
}

// refusal says in one line why a certificate does not pass.
func refusal(leaf *x509.Certificate, err error, now time.Time) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return bulkhead.Errorf(bulkhead.ErrDenied, "the certificate of %q is of another farm", leaf.Subject.CommonName)
	}
	if now.Before(leaf.NotBefore) {
		return bulkhead.Errorf(bulkhead.ErrDenied, "the certificate of %q begins in the future: the clocks of the two machines are apart", leaf.Subject.CommonName)
	}
	return bulkhead.Errorf(bulkhead.ErrDenied, "the certificate of %q is not valid: %w", leaf.Subject.CommonName, err)
}

func proof(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// peer is the other end of a connection if it has the role and, where time
// matters, a certificate that is valid now.
func peer(c tls.ConnectionState, pool *x509.CertPool, want Role) (Caller, error) {
	caller, err := Identify(&c, pool, time.Now())
	switch {
	case err != nil:
		return caller, err
	case caller.Role != want:
		return caller, bulkhead.Errorf(bulkhead.ErrDenied, "the other end is %s %s, not a %s", caller.Role, caller.Name, want)
	}
	return caller, nil
}
