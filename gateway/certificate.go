package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"bulkhead"
)

// alpnACME is the protocol of ACME's TLS-ALPN challenge (RFC 8737, section 6.2).
const alpnACME = "acme-tls/1"

// certificates finds the certificate of a handshake: from the gateway's own
// authority for internal names, by ACME, at the first handshake, for the public
// ones that the table has.
type certificates struct {
	authority *authority
	known     func(bulkhead.Host) bool // tells whether the table has a host

	// Set by start.
	cache  *certmagic.Cache
	config *certmagic.Config
	issuer *certmagic.ACMEIssuer
}

// start begins the upkeep of ACME certificates, until stop.
func (c *certificates) start(cfg Config, plain, secure net.Addr, log *slog.Logger) {
	// CertMagic tells of what matters by events; its own log is for its authors.
	quiet := zap.NewNop()
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return c.config, nil },
		Capacity:         maxLeaves,
		Logger:           quiet,
	})
	c.config = certmagic.New(c.cache, certmagic.Config{
		Storage:  &certmagic.FileStorage{Path: filepath.Join(cfg.Data, "acme")},
		Logger:   quiet,
		OnDemand: &certmagic.OnDemandConfig{DecisionFunc: c.decide},
		OnEvent: func(_ context.Context, event string, data map[string]any) error {
			switch event {
			case "cert_obtained":
				log.Info("certificate obtained", "host", data["identifier"], "renewal", data["renewal"])
			case "cert_failed":
				log.Warn("certificate not obtained", "host", data["identifier"], "renewal", data["renewal"], "err", data["error"])
			}
			return nil
		},
	})
	template := certmagic.ACMEIssuer{
		CA: cfg.CA, Email: cfg.Email, Agreed: true, TrustedRoots: cfg.CARoots,
		AltTLSALPNPort: port(secure), DisableHTTPChallenge: plain == nil,
		Logger: quiet,
	}
	if plain != nil {
		template.AltHTTPPort = port(plain)
	}
	c.issuer = certmagic.NewACMEIssuer(c.config, template)
	c.config.Issuers = []certmagic.Issuer{c.issuer}
}

func (c *certificates) stop() { c.cache.Stop() }

func port(a net.Addr) int { return a.(*net.TCPAddr).Port }

// decide refuses certificates for hosts that nobody here serves.
func (c *certificates) decide(_ context.Context, name string) error {
	if host, ok := parseHost(name); !ok || !c.known(host) {
		return fmt.Errorf("host %q is not in the table", name)
	}
	return nil
}

// get is the certificate for a handshake.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		return c.authority.certificate("localhost", time.Now())
	}
	host, ok := parseHost(hello.ServerName)
	if !ok {
		return nil, fmt.Errorf("server name %q is not a host name", hello.ServerName)
	}
	if certmagic.SubjectIsInternal(string(host)) {
		return c.authority.certificate(host, time.Now())
	}
	return c.config.GetCertificate(hello)
}

// challenge answers the question of an ACME server, if r is one.
func (c *certificates) challenge(w http.ResponseWriter, r *http.Request) bool {
	return c.issuer.HandleHTTPChallenge(w, r)
}
