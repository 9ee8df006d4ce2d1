package keys

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"bulkhead"
)

// Identity is a certificate that renews itself. Connections in use keep the one
// that they began with.
type Identity struct {
	issue   func(context.Context) (*tls.Certificate, error)
	logger  *slog.Logger
	renewed []func()
	current atomic.Pointer[tls.Certificate]
}

// look is the longest pause between looks at the clock: a jump of it, or a
// suspended machine, does not let a certificate run out. It is also the pause
// after a renewal that failed. Certificates of less than an hour are looked at
// more often.
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

// Renewed has f called after every renewal: connections that are open go on with
// the certificate that they began with, so who keeps some opens new ones. Call it
// before Run.
func (i *Identity) Renewed(f func()) { i.renewed = append(i.renewed, f) }

// Run renews the certificate at two thirds of its life, until ctx ends. When
// that fails it tries again every minute, also after it has run out.
func (i *Identity) Run(ctx context.Context) error {
	for {
		leaf := i.current.Load().Leaf
		life := leaf.NotAfter.Sub(leaf.NotBefore.Add(skew))
		timer := time.NewTimer(min(look, max(life/60, 100*time.Millisecond)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if time.Now().Before(leaf.NotAfter.Add(-life / 3)) {
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
	for _, f := range i.renewed {
		f()
	}
	return nil
}

// Expires is when the present certificate does.
func (i *Identity) Expires() time.Time { return i.current.Load().Leaf.NotAfter }

// Server is how a server listens for nodes and other servers: TLS 1.3. Who shows
// a certificate must have it of an authority in pool, expired or not; who shows
// none can but join. Handlers ask Identify.
func (i *Identity) Server(pool *x509.CertPool) *tls.Config {
	c := i.listen()
	c.ClientAuth = tls.RequestClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return nil
		}
		_, err := Identify(&s, pool, time.Now())
		return err
	}
	return c
}

// Public is how a server listens for users, who have no certificates.
func (i *Identity) Public() *tls.Config { return i.listen() }

// Gateway is how a node listens for the gateways of other nodes: those that
// known knows. Certificates that have run out pass: they stop new work, and a
// request is none.
func (i *Identity) Gateway(pool *x509.CertPool, known func(Caller) bool) *tls.Config {
	c := i.listen()
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		caller, err := peer(s, pool, RoleNode)
		if err == nil && !known(caller) {
			err = bulkhead.Errorf(bulkhead.ErrDenied, "node %s is not of this farm any more, or not known yet", caller.Name)
		}
		return err
	}
	return c
}

func (i *Identity) listen() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.current.Load(), nil },
		// Every connection shows a certificate.
		SessionTicketsDisabled: true,
	}
}

// Client is how a node or server dials a server: TLS 1.3, and only one that has a
// server's certificate of an authority in pool, wherever it is.
func (i *Identity) Client(pool *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.current.Load(), nil },
		RootCAs:              pool,
		ServerName:           ServerHostName,
		VerifyConnection: func(c tls.ConnectionState) error {
			_, err := peer(c, pool, RoleServer)
			return err
		},
	}
}

// Hop is how a node's gateway dials that of another: only this one, also when its
// certificate has run out.
func (i *Identity) Hop(pool *x509.CertPool, node bulkhead.NodeName, uid string) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.current.Load(), nil },
		InsecureSkipVerify:   true, // VerifyConnection does it: of time it asks less, of names more
		VerifyConnection: func(c tls.ConnectionState) error {
			caller, err := peer(c, pool, RoleNode)
			if err == nil && (caller.Name != node || caller.UID != uid) {
				err = bulkhead.Errorf(bulkhead.ErrDenied, "where node %s should be is node %s", node, caller.Name)
			}
			return err
		},
	}
}
