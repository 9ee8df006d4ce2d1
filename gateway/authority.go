package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"bulkhead"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 7 * 24 * time.Hour
	// maxLeaves bounds the memory that made-up names can take; above it, the
	// cache starts anew.
	maxLeaves = 20_000
)

// internalDomains are the domains that no public authority certifies (RFC 6761,
// section 6.3; RFC 6762; RFC 8375; ICANN resolution 2024.07.29.06). The root may
// certify nothing else, so that whoever trusts it trusts it for no other site.
var internalDomains = []string{"localhost", "local", "internal", "home.arpa"}

// authority is the gateway's own certificate authority, for names that no
// public one certifies. Its root is kept; leaves live a week and only in memory.
type authority struct {
	root *x509.Certificate
	pem  []byte // of root
	key  *ecdsa.PrivateKey

	mu     sync.RWMutex // guards leaves
	leaves map[bulkhead.Host]*tls.Certificate
}

// openAuthority loads root.crt and root.key of dir, or makes them.
func openAuthority(dir string, now time.Time) (*authority, error) {
	cert, certErr := os.ReadFile(filepath.Join(dir, "root.crt"))
	key, keyErr := os.ReadFile(filepath.Join(dir, "root.key"))
	if errors.Is(certErr, fs.ErrNotExist) { // the last to be written
		return newAuthority(dir, now)
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority in %s: %w", dir, err)
	}
	signer, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("read certificate authority in %s: not an ECDSA authority", dir)
	}
	if now.After(pair.Leaf.NotAfter.Add(-leafLife)) {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "the gateway's own certificate authority in %s ends %s", dir, pair.Leaf.NotAfter.Format(time.DateOnly)).
			WithHint("remove root.crt and root.key there, start again and trust the new root.crt")
	}
	return &authority{root: pair.Leaf, pem: cert, key: signer, leaves: make(map[bulkhead.Host]*tls.Certificate)}, nil
}

func newAuthority(dir string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	root := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Bulkhead gateway root " + now.UTC().Format(time.DateOnly), Organization: []string{"Bulkhead"}},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,

		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         internalDomains,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign authority's root: %w", err)
	}
	if root, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("parse authority's root: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode authority's key: %w", err)
	}
	a := &authority{
		root: root, key: key,
		pem:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		leaves: make(map[bulkhead.Host]*tls.Certificate),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of authority: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"root.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})},
		{"root.crt", a.pem},
	} {
		if err := writeFile(filepath.Join(dir, f.name), f.data); err != nil {
			return nil, fmt.Errorf("keep authority: %w", err)
		}
	}
	return a, nil
}

// writeFile puts a whole file in place, for its owner only, or nothing.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)) // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// certificate is a certificate for host with a third of its life left.
func (a *authority) certificate(host bulkhead.Host, now time.Time) (*tls.Certificate, error) {
	a.mu.RLock()
	c := a.leaves[host]
	a.mu.RUnlock()
	if c != nil && now.Before(c.Leaf.NotAfter.Add(-leafLife/3)) {
		return c, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key for %s: %w", host, err)
	}
	leaf := &x509.Certificate{
		DNSNames:    []string{string(host)},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.root, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", host, err)
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("certify %s: %w", host, err)
	}
	c = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.leaves) >= maxLeaves {
		clear(a.leaves)
	}
	a.leaves[host] = c
	return c, nil
}
