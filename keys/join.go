package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"bulkhead"
)

// JoinToken lets one machine into a farm. It carries the fingerprint of the
// farm's authority, so that the machine knows the server before it trusts it.
type JoinToken struct {
	Role        Role
	ID          string // in clear in lists
	Secret      string // 32 random letters and digits, 190 bits
	Fingerprint string // of the authority
}

// joinPrefix begins every join token, so that people and scanners for leaked
// secrets know one when they see it.
const joinPrefix = "bhj"

// NewJoinToken makes one for a machine of that role.
func (a *Authority) NewJoinToken(role Role) JoinToken {
	return JoinToken{Role: role, ID: Generate(8), Secret: Generate(32), Fingerprint: a.Fingerprint()}
}

func (t JoinToken) String() string {
	return strings.Join([]string{joinPrefix, string(t.Role), t.ID, t.Secret, t.Fingerprint}, "_")
}

// Hash is under what the secret is kept. See auth.Hash for why that is enough.
func (t JoinToken) Hash() string {
	sum := sha256.Sum256([]byte(t.Secret))
	return hex.EncodeToString(sum[:])
}

var joinForm = regexp.MustCompile(`^bhj_(server|node)_([A-Za-z0-9]{8})_([A-Za-z0-9]{32})_([0-9a-f]{64})$`)

// ParseJoinToken reads what String wrote. Its error is of kind ErrInvalid and
// does not repeat the text, which may be a secret of another kind.
func ParseJoinToken(text string) (JoinToken, error) {
	m := joinForm.FindStringSubmatch(strings.TrimSpace(text))
	switch {
	case m != nil:
		return JoinToken{Role: Role(m[1]), ID: m[2], Secret: m[3], Fingerprint: m[4]}, nil
	case text == "":
		return JoinToken{}, bulkhead.Errorf(bulkhead.ErrInvalid, "joining needs a token").WithHint("make one on a machine of the farm: bulkhead token create")
	case strings.HasPrefix(text, "bh_"):
		return JoinToken{}, bulkhead.Errorf(bulkhead.ErrInvalid, "this is an operator's token, not one for joining").WithHint("make one on a machine of the farm: bulkhead token create")
	}
	return JoinToken{}, bulkhead.Errorf(bulkhead.ErrInvalid, "this is no token for joining: such begin with bhj_ and are given whole").WithHint("make one on a machine of the farm: bulkhead token create")
}

// Stranger is how a machine dials a server before it has a certificate: only one
// of the farm that the token names.
func (t JoinToken) Stranger() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it, against the fingerprint
		VerifyConnection: func(c tls.ConnectionState) error {
			for _, ca := range c.PeerCertificates[1:] {
				if fingerprint(ca) != t.Fingerprint {
					continue
				}
				// Of time the servers speak when they are asked: a clock that is wrong
				// is then told from a server that is.
				leaf := c.PeerCertificates[0]
				err := leaf.CheckSignatureFrom(ca)
				if err == nil {
					err = leaf.VerifyHostname(ServerHostName)
				}
				if err != nil {
					return bulkhead.Errorf(bulkhead.ErrDenied, "what answers is no server of the token's farm: %w", err)
				}
				return nil
			}
			return bulkhead.Errorf(bulkhead.ErrDenied, "the server is of another farm than the token").
				WithHint("give the address of a server of the farm that made the token")
		},
	}
}

// Request is a key that wants a certificate.
type Request struct {
	PEM   []byte // for the authority
	Proof string // hash of the public key

	key *ecdsa.PrivateKey
}

// NewRequest makes a key.
func NewRequest() (*Request, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return requestOf(key)
}

func requestOf(key *ecdsa.PrivateKey) (*Request, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return &Request{PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), Proof: proof(public), key: key}, nil
}

// OpenRequest is NewRequest with a key that is kept in folder/join.pem, so that a
// machine that was interrupted while it joined can ask again with the same.
func OpenRequest(folder string) (*Request, error) {
	path := filepath.Join(folder, "join.pem")
	data, err := readOrMake(path, func() ([]byte, error) {
		r, err := NewRequest()
		if err != nil {
			return nil, err
		}
		return r.keyPEM()
	})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, damaged(path, errors.New("not PEM"))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, damaged(path, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, damaged(path, errors.New("not an ECDSA key"))
	}
	return requestOf(ec)
}

func (r *Request) keyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Certificate joins the request's key with the chain that Sign made for it.
func (r *Request) Certificate(chain []byte) (*tls.Certificate, error) {
	key, err := r.keyPEM()
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "the certificate does not fit its key: %w", err)
	}
	return &pair, nil
}

// requestKey checks a request and takes the key out of it.
func requestKey(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "the certificate request is not PEM")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "the certificate request is not valid: %w", err)
	}
	if key, ok := r.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "the certificate request has no ECDSA P-256 key")
	}
	return r.PublicKey, nil
}

// RequestProof is the hash of the public key in a request.
func RequestProof(request []byte) (string, error) {
	key, err := requestKey(request)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	return proof(der), nil
}

// SavePair keeps a certificate with its key and chain in one file.
func SavePair(path string, c *tls.Certificate) error {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for _, certificate := range c.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})...)
	}
	return WriteFile(path, text)
}

// LoadPair reads what SavePair wrote; ErrNotFound when there is none. The
// certificate may have run out.
func LoadPair(path string) (*tls.Certificate, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bulkhead.Errorf(bulkhead.ErrNotFound, "there is no certificate at %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, damaged(path, err)
	}
	return &pair, nil
}

// ReadPool is the authority whose certificate is the given PEM, for who trusts it
// without being it, and its fingerprint.
func ReadPool(text []byte) (*x509.CertPool, string, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, "", bulkhead.Errorf(bulkhead.ErrInvalid, "the authority's certificate is not PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !c.IsCA {
		return nil, "", bulkhead.Errorf(bulkhead.ErrInvalid, "what should be the authority's certificate is none")
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool, fingerprint(c), nil
}
