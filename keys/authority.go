package keys

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
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
	// CertificateLife is how long the certificate of a server or node is valid,
	// unless Authority.Life says otherwise. Short lives take the place of revocation.
	CertificateLife = 24 * time.Hour
	// authorityLife is how long the authority's own is.
	authorityLife = 20 * 365 * 24 * time.Hour
	// skew is how much a clock may lag behind the authority's.
	skew = time.Hour
)

// Authority certifies the servers and nodes of one cluster to each other.
type Authority struct {
	// Life of certificates; zero: CertificateLife.
	Life time.Duration

	certificate *x509.Certificate
	key         crypto.Signer
	file        []byte
}

// Role is what the holder of a certificate is. A node's certificate does not
// let it pose as a server, nor the other way round.
type Role string

const (
	RoleServer Role = "server"
	RoleNode   Role = "node"
)

// hostName is a name that every certificate of the role carries, and no other:
// whoever dials asks for it, wherever the other end is. So addresses may change.
func (r Role) hostName() string { return string(r) + ".bulkhead.internal" }

// ServerHostName is in the certificates of servers only.
const ServerHostName = "server.bulkhead.internal"

// Subject is who a certificate is for.
type Subject struct {
	Role Role
	Name bulkhead.NodeName // of the machine
	// UID tells this membership from earlier ones of the same name. May be empty.
	UID string
	// Hosts are further host names and addresses, for users of a server's API. A
	// node has none.
	Hosts []string
}

// uri names a subject in its certificate: spiffe://bulkhead/ROLE/NAME or
// spiffe://bulkhead/ROLE/NAME/UID (SPIFFE-ID 1.0, section 2).
func (s Subject) uri() *url.URL {
	path := "/" + string(s.Role) + "/" + string(s.Name)
	if s.UID != "" {
		path += "/" + s.UID
	}
	return &url.URL{Scheme: "spiffe", Host: "bulkhead", Path: path}
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
	return &Authority{certificate: pair.Leaf, key: key, file: data}, nil
}

// Secret is the authority's file, certificate and key: what another server needs
// to certify too. Who has it is trusted with everything.
func (a *Authority) Secret() []byte { return a.file }

// Fingerprint tells this authority from every other: the SHA-256 of its
// certificate in hexadecimal.
func (a *Authority) Fingerprint() string { return fingerprint(a.certificate) }

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
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

// Issue makes a key and a certificate, good for both ends of a connection.
func (a *Authority) Issue(s Subject) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := a.sign(s, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Sign certifies the key of a request (PEM, see NewRequest) for a subject. Of the
// request only the key counts. The answer is a chain in PEM.
func (a *Authority) Sign(s Subject, request []byte) ([]byte, error) {
	key, err := requestKey(request)
	if err != nil {
		return nil, err
	}
	der, err := a.sign(s, key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.PEM()...), nil
}

func (a *Authority) sign(s Subject, key crypto.PublicKey) ([]byte, error) {
	if s.Role != RoleServer && s.Role != RoleNode {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "issue certificate: role %q is neither server nor node", s.Role)
	}
	name, err := bulkhead.ParseNodeName(string(s.Name))
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	if s.Name = name; strings.ContainsAny(s.UID, "/?#%") {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "issue certificate: %q is no UID", s.UID)
	}
	if s.Role == RoleNode && len(s.Hosts) > 0 {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "issue certificate: node %s asks for host names", name)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: string(name), OrganizationalUnit: []string{string(s.Role)}},
		NotBefore:    now.Add(-skew),
		NotAfter:     now.Add(cmp.Or(a.Life, CertificateLife)),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{s.uri()},
		DNSNames:     []string{s.Role.hostName()},
	}
	for _, host := range s.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s %s: %w", s.Role, name, err)
	}
	return der, nil
}
