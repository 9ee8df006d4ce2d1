package keys

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Identity is a certificate that renews itself. Connections in use keep the one
// that they began with.
type Identity struct {
	issue   func(context.Context) (*tls.Certificate, error)
	logger  *slog.Logger
	current atomic.Pointer[tls.Certificate]
}

// look is the longest pause between looks at the clock: a jump of it, or a
// suspended machine, does not let a certificate run out. It is also the pause
// after a renewal that failed.
const look = time.Minute

// NewIdentity gets a first certificate by issue, which Run calls again for each
// renewal.
func NewIdentity(ctx context.Context, issue func(context.Context) (*tls.Certificate, error), logger *slog.Logger) (*Identity, error) {
	i := &Identity{issue: issue, logger: logger}
	if err := i.renew(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

// Run renews the certificate at two thirds of its life, until ctx ends. When
// that fails it tries again every minute.
func (i *Identity) Run(ctx context.Context) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		leaf := i.current.Load().Leaf
		due := leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore.Add(skew)) / 3)
		if time.Now().Before(due) {
			continue
		}
		if err := i.renew(ctx); err != nil && ctx.Err() == nil {
			i.logger.Error("certificate not renewed", "expires", leaf.NotAfter, "error", err)
		}
	}
}

func (i *Identity) renew(ctx context.Context) error {
	certificate, err := i.issue(ctx)
	if err != nil {
		return fmt.Errorf("get certificate: %w", err)
	}
	if certificate.Leaf == nil {
		if certificate.Leaf, err = x509.ParseCertificate(certificate.Certificate[0]); err != nil {
			return fmt.Errorf("read new certificate: %w", err)
		}
	}
	i.current.Store(certificate)
	return nil
}

// Expires is when the present certificate does.
func (i *Identity) Expires() time.Time { return i.current.Load().Leaf.NotAfter }

// Server is how a server listens for nodes: TLS 1.3, and only for who has a
// node's certificate of an authority in pool.
func (i *Identity) Server(pool *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.current.Load(), nil },
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      pool,
		// Every connection shows a certificate that is valid now.
		SessionTicketsDisabled: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			_, err := peer(c, RoleNode)
			return err
		},
	}
}

// Client is how a node dials a server: TLS 1.3, and only one that has a server's
// certificate of an authority in pool, for the host that was dialled.
func (i *Identity) Client(pool *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.current.Load(), nil },
		RootCAs:              pool,
		VerifyConnection: func(c tls.ConnectionState) error {
			_, err := peer(c, RoleServer)
			return err
		},
	}
}
