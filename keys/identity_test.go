package keys

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
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

// serve answers with who asks, as Identify tells by pool.
func serve(t *testing.T, config *tls.Config, pool *x509.CertPool) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			caller, err := Identify(r.TLS, pool, time.Now())
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			_, _ = fmt.Fprintf(w, "%s %s %s %t", caller.Role, caller.Name, caller.UID, caller.Expired)
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
	if err == nil && r.StatusCode != http.StatusOK {
		err = errors.New(string(b))
	}
	return string(b), err
}

func TestIdentity_MachinesKnowEachOther(t *testing.T) {
	folder := t.TempDir()
	a := openAuthority(t, folder)
	again := openAuthority(t, folder) // as after a restart
	server := identity(t, a, Subject{Role: RoleServer, Name: "s1"})
	other := identity(t, again, Subject{Role: RoleServer, Name: "s2"})
	node := identity(t, again, Subject{Role: RoleNode, Name: "n1", UID: "u1"})
	url := serve(t, server.Server(a.Pool()), a.Pool())
	for want, who := range map[string]*Identity{"node n1 u1 false": node, "server s2  false": other} {
		if got, err := ask(t, url, who.Client(again.Pool())); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestIdentity_TurnsEverybodyElseAway(t *testing.T) {
	a, stranger := openAuthority(t, t.TempDir()), openAuthority(t, t.TempDir())
	server := identity(t, a, Subject{Role: RoleServer, Name: "s1"})
	node := identity(t, a, Subject{Role: RoleNode, Name: "n1"})
	foreign := identity(t, stranger, Subject{Role: RoleNode, Name: "n1"})
	good := serve(t, server.Server(a.Pool()), a.Pool())
	old := node.Client(a.Pool())
	old.MaxVersion, old.MinVersion = tls.VersionTLS12, tls.VersionTLS12
	for what, config := range map[string]*tls.Config{
		"no certificate":               {RootCAs: a.Pool(), ServerName: ServerHostName},
		"another cluster's node":       foreign.Client(a.Pool()),
		"TLS 1.2":                      old,
		"a node that trusts another's": node.Client(stranger.Pool()),
	} {
		if got, err := ask(t, good, config); err == nil {
			t.Errorf("%s got in: %q", what, got)
		}
	}
	for what, url := range map[string]string{
		"a node posing as a server": serve(t, node.Server(a.Pool()), a.Pool()),
		"another cluster's server":  serve(t, identity(t, stranger, Subject{Role: RoleServer, Name: "s1"}).Server(a.Pool()), a.Pool()),
	} {
		if got, err := ask(t, url, node.Client(a.Pool())); err == nil {
			t.Errorf("a node talks to %s: %q", what, got)
		}
	}
	if _, err := Identify(nil, a.Pool(), time.Now()); !errors.Is(err, bulkhead.ErrDenied) {
		t.Errorf("without encryption: %v", err)
	}
	// A certificate of another authority names nobody, whatever it says.
	c, err := stranger.Issue(Subject{Role: RoleNode, Name: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Identify(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Leaf}}, a.Pool(), time.Now()); !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "another farm") {
		t.Errorf("of another farm: %v", err)
	}
}

// A certificate that has run out is told as such, not refused: it may be renewed.
// One that begins in the future speaks of clocks.
func TestIdentify_TellsExpiry(t *testing.T) {
	a := openAuthority(t, t.TempDir())
	c, err := a.Issue(Subject{Role: RoleNode, Name: "n1", UID: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Leaf}}
	for after, expired := range map[time.Duration]bool{0: false, CertificateLife - time.Minute: false, CertificateLife + time.Minute: true, 1000 * time.Hour: true} {
		caller, err := Identify(state, a.Pool(), time.Now().Add(after))
		if err != nil || caller.Expired != expired || caller.Name != "n1" || caller.UID != "u1" {
			t.Errorf("after %v: %+v, %v", after, caller, err)
		}
	}
	if _, err := Identify(state, a.Pool(), time.Now().Add(-2*skew)); !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "clocks") {
		t.Errorf("from the past: %v", err)
	}
}

// Gateways speak with the very node that they mean, as long as it is of the farm,
// and also when a certificate has run out.
func TestIdentity_Gateways(t *testing.T) {
	a := openAuthority(t, t.TempDir())
	one := identity(t, a, Subject{Role: RoleNode, Name: "n1", UID: "u1"})
	a.Life = -time.Minute // run out
	two := identity(t, a, Subject{Role: RoleNode, Name: "n2", UID: "u2"})
	a.Life = 0
	known := func(c Caller) bool { return c.Name == "n2" && c.UID == "u2" }
	url := serve(t, one.Gateway(a.Pool(), known), a.Pool())
	if got, err := ask(t, url, two.Hop(a.Pool(), "n1", "u1")); err != nil || got != "node n2 u2 true" {
		t.Errorf("n2 at n1: %q, %v", got, err)
	}
	for what, config := range map[string]*tls.Config{
		"another node":                   two.Hop(a.Pool(), "n3", "u1"),
		"an earlier life of n1":          two.Hop(a.Pool(), "n1", "u0"),
		"by one that was removed":        identity(t, a, Subject{Role: RoleNode, Name: "n2", UID: "u0"}).Hop(a.Pool(), "n1", "u1"),
		"by a server":                    identity(t, a, Subject{Role: RoleServer, Name: "n2", UID: "u2"}).Hop(a.Pool(), "n1", "u1"),
		"by one that has no certificate": {InsecureSkipVerify: true},
	} {
		if got, err := ask(t, url, config); err == nil {
			t.Errorf("%s: %q", what, got)
		}
	}
}

func TestJoinToken(t *testing.T) {
	a := openAuthority(t, t.TempDir())
	token := a.NewJoinToken(RoleNode)
	again, err := ParseJoinToken(" " + token.String() + "\n")
	if err != nil || again != token || token.Fingerprint != a.Fingerprint() {
		t.Fatalf("%+v, %v", again, err)
	}
	for _, text := range []string{"", "bh_abc", token.String()[1:], token.String() + "0", strings.Replace(token.String(), "node", "admin", 1)} {
		_, err := ParseJoinToken(text)
		if !errors.Is(err, bulkhead.ErrInvalid) || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
	server := identity(t, a, Subject{Role: RoleServer, Name: "s1"})
	if _, err := ask(t, serve(t, server.Public(), a.Pool()), token.Stranger()); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("a stranger at a server: %v", err) // it got through to the handler
	}
	other := openAuthority(t, t.TempDir())
	for what, who := range map[string]*Identity{
		"a server of another farm":  identity(t, other, Subject{Role: RoleServer, Name: "s1"}),
		"a node posing as a server": identity(t, a, Subject{Role: RoleNode, Name: "n1"}),
	} {
		if _, err := ask(t, serve(t, who.Public(), a.Pool()), token.Stranger()); err == nil || strings.Contains(err.Error(), "no certificate") {
			t.Errorf("a stranger at %s: %v", what, err)
		}
	}
}

func TestRequest(t *testing.T) {
	a, folder := openAuthority(t, t.TempDir()), t.TempDir()
	one, err1 := OpenRequest(folder)
	two, err2 := OpenRequest(folder) // as after a crash
	if err := errors.Join(err1, err2); err != nil || one.Proof != two.Proof {
		t.Fatalf("%v; proofs %q and %q", err, one.Proof, two.Proof)
	}
	if proof, err := RequestProof(one.PEM); err != nil || proof != one.Proof {
		t.Errorf("proof is %q, %v", proof, err)
	}
	chain, err := a.Sign(Subject{Role: RoleNode, Name: "n1", UID: "u1"}, one.PEM)
	if err != nil {
		t.Fatal(err)
	}
	c, err := two.Certificate(chain)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "node.pem")
	if err := SavePair(path, c); err != nil {
		t.Fatal(err)
	}
	saved, err := LoadPair(path)
	if err != nil || !saved.Leaf.Equal(c.Leaf) {
		t.Errorf("read back: %v", err)
	}
	if _, err := LoadPair(path + "x"); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	for what, request := range map[string][]byte{"nothing": nil, "a certificate": a.PEM(), "half": one.PEM[:len(one.PEM)/2]} {
		if _, err := a.Sign(Subject{Role: RoleNode, Name: "n1"}, request); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := a.Sign(Subject{Role: RoleNode, Name: "n1", Hosts: []string{"server.bulkhead.internal"}}, one.PEM); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("a node with a host name: %v", err)
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
