package keys

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
)

func openAuthority(t *testing.T, folder string) *Authority {
	t.Helper()
	a, err := OpenAuthority(folder)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func identity(t *testing.T, a *Authority, s Subject) *Identity {
	t.Helper()
	i, err := NewIdentity(t.Context(), func(context.Context) (*tls.Certificate, error) { return a.Issue(s) }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// serve answers with the name of the node that asks.
func serve(t *testing.T, config *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name, err := NodeOf(r.TLS)
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			_, _ = io.WriteString(w, string(name))
		}),
	}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return "https://" + l.Addr().String()
}

func ask(t *testing.T, url string, config *tls.Config) (string, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	r, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

func TestIdentity_NodesAndServersKnowEachOther(t *testing.T) {
	folder := t.TempDir()
	a := openAuthority(t, folder)
	again := openAuthority(t, folder) // as after a restart
	server := identity(t, a, Subject{Role: RoleServer, Name: "s1", Hosts: []string{"127.0.0.1", "localhost"}})
	node := identity(t, again, Subject{Role: RoleNode, Name: "n1"})
	url := serve(t, server.Server(a.Pool()))
	name, err := ask(t, url, node.Client(again.Pool()))
	if err != nil || name != "n1" {
		t.Errorf("got %q, %v", name, err)
	}
}

func TestIdentity_TurnsEverybodyElseAway(t *testing.T) {
	a, stranger := openAuthority(t, t.TempDir()), openAuthority(t, t.TempDir())
	local := []string{"127.0.0.1"}
	server := identity(t, a, Subject{Role: RoleServer, Name: "s1", Hosts: local})
	node := identity(t, a, Subject{Role: RoleNode, Name: "n1", Hosts: local})
	foreign := identity(t, stranger, Subject{Role: RoleNode, Name: "n1", Hosts: local})
	good := serve(t, server.Server(a.Pool()))

	old := node.Client(a.Pool())
	old.MaxVersion, old.MinVersion = tls.VersionTLS12, tls.VersionTLS12
	for what, config := range map[string]*tls.Config{
		"no certificate":               {RootCAs: a.Pool()},
		"another cluster's node":       foreign.Client(a.Pool()),
		"a server posing as a node":    server.Client(a.Pool()),
		"TLS 1.2":                      old,
		"a node that trusts another's": node.Client(stranger.Pool()),
	} {
		if got, err := ask(t, good, config); err == nil {
			t.Errorf("%s got in: %q", what, got)
		}
	}
	for what, url := range map[string]string{
		"a node posing as a server": serve(t, node.Server(a.Pool())),
		"another cluster's server":  serve(t, foreign.Server(a.Pool())),
		"a server at another place": serve(t, identity(t, a, Subject{Role: RoleServer, Name: "s2", Hosts: []string{"10.0.0.1"}}).Server(a.Pool())),
	} {
		if got, err := ask(t, url, node.Client(a.Pool())); err == nil {
			t.Errorf("a node talks to %s: %q", what, got)
		}
	}
	if _, err := NodeOf(nil); !errors.Is(err, bulkhead.ErrDenied) {
		t.Errorf("without encryption: %v", err)
	}
	// A certificate that was not verified names nobody.
	c, err := a.Issue(Subject{Role: RoleNode, Name: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NodeOf(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Leaf}}); !errors.Is(err, bulkhead.ErrDenied) {
		t.Errorf("without verification: %v", err)
	}
}

func TestIssue_ChecksTheSubject(t *testing.T) {
	a := openAuthority(t, t.TempDir())
	for _, s := range []Subject{{}, {Role: RoleNode}, {Role: "admin", Name: "n1"}, {Role: RoleNode, Name: "a/../server/x"}} {
		if _, err := a.Issue(s); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// A certificate is always valid, also when renewing it fails for hours, and old
// connections aside, it is the new one that is shown.
func TestIdentity_RenewsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openAuthority(t, t.TempDir())
		var issued atomic.Int32
		var broken atomic.Bool
		i, err := NewIdentity(t.Context(), func(context.Context) (*tls.Certificate, error) {
			if broken.Load() {
				return nil, errors.New("no server answers")
			}
			issued.Add(1)
			c, err := a.Issue(Subject{Role: RoleNode, Name: "n1"})
			c.Leaf = nil // as from elsewhere
			return c, err
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- i.Run(ctx) }()

		for hour := range 100 {
			broken.Store(hour >= 40 && hour < 46) // over one renewal
			time.Sleep(time.Hour)
			if left := time.Until(i.Expires()); left <= 0 || left > CertificateLife {
				t.Fatalf("after %d h the certificate has %v left", hour+1, left)
			}
			if hour == 14 && issued.Load() != 1 {
				t.Errorf("renewed before two thirds of its life")
			}
		}
		if n := issued.Load(); n < 6 || n > 8 { // every 16 h
			t.Errorf("issued %d in 100 h", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNewIdentity_NeedsAFirstCertificate(t *testing.T) {
	i, err := NewIdentity(t.Context(), func(context.Context) (*tls.Certificate, error) { return nil, net.ErrClosed }, slog.New(slog.DiscardHandler))
	if i != nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, %v", i, err)
	}
}

func TestAuthority_SignsNoAuthorities(t *testing.T) {
	a := openAuthority(t, t.TempDir())
	c, err := a.Issue(Subject{Role: RoleNode, Name: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Leaf.IsCA || !a.certificate.MaxPathLenZero || !strings.Contains(string(a.PEM()), "BEGIN CERTIFICATE") || strings.Contains(string(a.PEM()), "PRIVATE") {
		t.Error("a node's certificate could sign, or PEM shows more than the certificate")
	}
	if !time.Now().Before(c.Leaf.NotAfter) || time.Until(c.Leaf.NotAfter) > CertificateLife {
		t.Errorf("valid until %v", c.Leaf.NotAfter)
	}
}
