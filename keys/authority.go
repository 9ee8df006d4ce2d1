package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"bulkhead"
)

const (
	// CertificateLife is how long the certificate of a server or node is valid.
	// Short lives take the place of revocation.
	CertificateLife = 24 * time.Hour
	// authorityLife is how long the authority's own is.
	authorityLife = 20 * 365 * 24 * time.Hour
	// skew is how much a clock may lag behind the authority's.
	skew = time.Hour
)

// Authority certifies the servers and nodes of one cluster to each other.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// Role is what the holder of a certificate is. A node's certificate does not
// let it pose as a server, nor the other way round.
type Role string

const (
	RoleServer Role = "server"
	RoleNode   Role = "node"
)

// Subject is who a certificate is for.
type Subject struct {
	Role Role
	Name bulkhead.NodeName // of the machine
	// Hosts are the host names and addresses under which others dial it. The
	// name is one of them without being listed.
	Hosts []string
}

// uri names a subject in its certificate: spiffe://bulkhead/ROLE/NAME (SPIFFE-ID
// 1.0, section 2).
func (s Subject) uri() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "bulkhead", Path: "/" + string(s.Role) + "/" + string(s.Name)}
}

// OpenAuthority reads the authority in folder/ca.pem, and makes one when there
// is none: an ECDSA P-256 key and a certificate of its own.
func OpenAuthority(folder string) (*Authority, error) {
	path := filepath.Join(folder, "ca.pem")
	data, err := readOrMake(path, generateAuthority)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, damaged(path, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, damaged(path, errors.New("not an authority"))
	}
	return &Authority{pair.Leaf, key}, nil
}

func generateAuthority() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key of authority: %w", err)
	}
	now := time.Now()
	certificate := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Bulkhead cluster " + Generate(8)},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of authority: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key of authority: %w", err)
	}
	var file bytes.Buffer // one file, so that there is no half of it
	_ = pem.Encode(&file, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	_ = pem.Encode(&file, &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return file.Bytes(), nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(fmt.Sprintf("keys: random number: %v", err)) // never fails
	}
	return n.Add(n, big.NewInt(1))
}

// PEM is the authority's certificate, for who has to trust it.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// Pool holds the authority's certificate alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Issue makes a key and a certificate for CertificateLife, good for both ends
// of a connection.
func (a *Authority) Issue(s Subject) (*tls.Certificate, error) {
	if s.Role != RoleServer && s.Role != RoleNode {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "issue certificate: role %q is neither server nor node", s.Role)
	}
	name, err := bulkhead.ParseNodeName(string(s.Name))
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	s.Name = name
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: string(name), OrganizationalUnit: []string{string(s.Role)}},
		NotBefore:    now.Add(-skew),
		NotAfter:     now.Add(CertificateLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{s.uri()},
		DNSNames:     []string{string(name)},
	}
	for _, host := range s.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s %s: %w", s.Role, name, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// Peer is who is at the other end of a connection whose certificate has been
// verified. Its error is of kind ErrDenied.
func Peer(c tls.ConnectionState) (Role, bulkhead.NodeName, error) {
	if len(c.VerifiedChains) == 0 {
		return "", "", bulkhead.Errorf(bulkhead.ErrDenied, "the other end has no certificate of this cluster")
	}
	leaf := c.VerifiedChains[0][0]
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" && leaf.URIs[0].Host == "bulkhead" {
		parts := strings.Split(leaf.URIs[0].Path, "/")
		if len(parts) == 3 && parts[0] == "" && parts[2] != "" {
			return Role(parts[1]), bulkhead.NodeName(parts[2]), nil
		}
	}
	return "", "", bulkhead.Errorf(bulkhead.ErrDenied, "the certificate of %q names no server or node", leaf.Subject.CommonName)
}

// NodeOf is the name of the node at the other end of a verified connection. Its
// error is of kind ErrDenied.
func NodeOf(c *tls.ConnectionState) (bulkhead.NodeName, error) {
	if c == nil {
		return "", bulkhead.Errorf(bulkhead.ErrDenied, "the connection is not encrypted")
	}
	return peer(*c, RoleNode)
}

func peer(c tls.ConnectionState, want Role) (bulkhead.NodeName, error) {
	role, name, err := Peer(c)
	if err == nil && role != want {
		err = bulkhead.Errorf(bulkhead.ErrDenied, "the other end is %s %s, not a %s", role, name, want)
	}
	return name, err
}
