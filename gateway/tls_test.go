package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"bulkhead"
)

func secureConfig(t *testing.T) Config {
	return Config{HTTPS: "127.0.0.1:0", Data: t.TempDir()}
}

func TestHTTPS(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
	})
	c := secureConfig(t)
	g := serve(t, c, to("acme.localhost", "/", b))
	res, got := get(t, client(t, g), "https://acme.localhost/")
	if got != "https" || res.ProtoMajor != 2 {
		t.Errorf("%s %q", res.Proto, got)
	}
	if want := fmt.Sprintf(`h3=":%d"; ma=86400`, port(g.SecureAddr())); res.Header.Get("Alt-Svc") != want {
		t.Errorf("Alt-Svc %q", res.Header.Get("Alt-Svc"))
	}
	leaf := res.TLS.PeerCertificates[0]
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 8*24*time.Hour || len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != "acme.localhost" {
		t.Errorf("leaf for %v lives %v", leaf.DNSNames, life)
	}
	// A host that is not there has a page too, not a warning of the browser.
	if res, _ := get(t, client(t, g), "https://nobody.localhost/"); res.StatusCode != 404 {
		t.Errorf("%d", res.StatusCode)
	}
	if _, err := client(t, g).Get("https://nobody.example.com/"); err == nil {
		t.Error("a certificate for a public host that is not in the table")
	}
	for _, file := range []string{"root.key", "root.crt"} {
		if info, err := os.Stat(filepath.Join(c.Data, "authority", file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, info, err)
		}
	}
}

// TestMisdirected: a connection that was opened for one host carries no requests
// to another, over HTTP/1.1 and HTTP/2.
func TestMisdirected(t *testing.T) {
	g := serve(t, secureConfig(t), to("acme.localhost", "/", backendOf(t, say("acme"))), to("globex.localhost", "/", backendOf(t, say("globex"))))
	for _, proto := range []string{"http/1.1", "h2"} {
		for name, want := range map[string]int{"acme.localhost": 200, "ACME.localhost": 200, "globex.localhost": 421, "nobody.localhost": 421} {
			transport := &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: roots(t, g), ServerName: "acme.localhost", NextProtos: []string{proto}},
				Protocols:       new(http.Protocols),
			}
			transport.Protocols.SetHTTP1(proto != "h2")
			transport.Protocols.SetHTTP2(proto == "h2")
			req, _ := http.NewRequest("GET", "https://"+g.SecureAddr().String()+"/", nil)
			req.Host = name
			res, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			bodyOf(t, res)
			if res.StatusCode != want {
				t.Errorf("%s, %s: %d, want %d", proto, name, res.StatusCode, want)
			}
			transport.CloseIdleConnections()
		}
	}
}

func TestHTTP3(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto"), " ", r.Header.Get("X-Real-Ip"), " ", n)
	})
	g := serve(t, secureConfig(t), to("acme.localhost", "/", b))
	transport := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots(t, g)},
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, g.SecureAddr().String(), tc, qc)
		},
	}
	defer transport.Close()
	hc := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	const size = 4 << 20
	res, err := hc.Post("https://acme.localhost/", "text/plain", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := bodyOf(t, res), fmt.Sprintf("https 127.0.0.1 %d", size); got != want || res.ProtoMajor != 3 {
		t.Errorf("%s %q, want %q", res.Proto, got, want)
	}
	if n := g.limit.open(); n != 1 {
		t.Errorf("%d connections are counted", n)
	}
	// Held like any other, and drained although the client keeps its connection.
	g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/")})
	answer := make(chan int, 1)
	go func() {
		res, err := hc.Get("https://acme.localhost/")
		if err != nil {
			t.Error(err)
			answer <- 0
			return
		}
		bodyOf(t, res)
		answer <- res.StatusCode
	}()
	held(t, g, 1)
	g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/", b)})
	if got := <-answer; got != 200 {
		t.Errorf("held: %d", got)
	}
	transport.Close()
	eventually(t, "none is counted", func() bool { return g.limit.open() == 0 })
}

// TestHTTP3Drain: an idle connection does not hold up the end.
func TestHTTP3Drain(t *testing.T) {
	c := secureConfig(t)
	c.Drain = 8 * time.Second
	g, stop := serveUntil(t, c, to("acme.localhost", "/", backendOf(t, say("x"))))
	transport := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots(t, g)},
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, g.SecureAddr().String(), tc, qc)
		},
	}
	defer transport.Close()
	get(t, &http.Client{Transport: transport}, "https://acme.localhost/")
	start := time.Now()
	stop()
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

func TestAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "authority")
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	a, err := openAuthority(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := openAuthority(dir, now)
	if err != nil || !bytes.Equal(a.pem, again.pem) {
		t.Fatalf("opened again: another root, %v", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	verify := func(host string, c *tls.Certificate, at time.Time) error {
		_, err := c.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, CurrentTime: at})
		return err
	}
	first, err := again.certificate("acme.localhost", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify("acme.localhost", first, now); err != nil {
		t.Error(err)
	}
	if c, _ := again.certificate("acme.localhost", now.Add(4*24*time.Hour)); c != first {
		t.Error("issued anew although there is time")
	}
	later := now.Add(5 * 24 * time.Hour)
	if c, _ := again.certificate("acme.localhost", later); c == first {
		t.Error("not issued anew in its last third")
	} else if err := verify("acme.localhost", c, later); err != nil {
		t.Error(err)
	}
	// Who has the key cannot speak for the rest of the world.
	bank, err := again.certificate("bank.example.com", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify("bank.example.com", bank, now); err == nil {
		t.Error("the root speaks for bank.example.com")
	}
	if _, err := openAuthority(dir, now.Add(rootLife)); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("root at its end: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "root.key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openAuthority(dir, now); err == nil {
		t.Error("opened with a broken key")
	}
}

// TestACME obtains a certificate at the first handshake, once by each challenge,
// and none for a host that nobody serves.
func TestACME(t *testing.T) {
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) {
			ca := newACME(t, challenge)
			c := secureConfig(t)
			c.CA, c.CARoots, c.Email = ca.server.URL+"/directory", ca.transportRoots, "ops@example.com"
			g := serve(t, c, to("shop.example.com", "/", backendOf(t, say("shop"))))
			ca.gateway.Store(g)
			hc := client(t, g)
			hc.Transport.(*http.Transport).TLSClientConfig.RootCAs = ca.roots
			for range 2 {
				if _, got := get(t, hc, "https://shop.example.com/"); got != "shop" {
					t.Errorf("%q", got)
				}
				hc.CloseIdleConnections()
			}
			if _, err := hc.Get("https://other.example.com/"); err == nil {
				t.Error("a host that nobody serves has a certificate")
			}
			if got := ca.issued.Load(); got != 1 {
				t.Errorf("%d certificates were issued", got)
			}
		})
	}
}

// acmeServer is an ACME authority (RFC 8555) as far as a client needs one. It
// believes all signatures, but does look whether a challenge is met.
type acmeServer struct {
	server         *httptest.Server
	transportRoots *x509.CertPool // for server itself
	roots          *x509.CertPool // for what it issues
	challenge      string
	gateway        atomic.Pointer[Gateway] // that host names lead to
	issued         atomic.Int64
	key            *ecdsa.PrivateKey
	root           *x509.Certificate

	mu          sync.Mutex // guards what follows: there is one order at a time
	host        string
	status      string // of the order
	certificate []byte
}

func newACME(t *testing.T, challenge string) *acmeServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 24 * 90),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, _ = x509.ParseCertificate(der)
	a := &acmeServer{challenge: challenge, key: key, root: root, roots: x509.NewCertPool(), transportRoots: x509.NewCertPool()}
	a.roots.AddCert(root)
	a.server = httptest.NewTLSServer(a)
	a.transportRoots.AddCert(a.server.Certificate())
	t.Cleanup(a.server.Close)
	return a
}

func (a *acmeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	url := a.server.URL
	w.Header().Set("Replay-Nonce", fmt.Sprint(time.Now().UnixNano()))
	var signed struct{ Payload, Protected string }
	_ = json.NewDecoder(r.Body).Decode(&signed)
	payload, _ := base64.RawURLEncoding.DecodeString(signed.Payload)
	reply := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	order := func() any {
		o := map[string]any{
			"status": a.status, "identifiers": []any{map[string]string{"type": "dns", "value": a.host}},
			"authorizations": []string{url + "/authz"}, "finalize": url + "/finalize",
		}
		if a.certificate != nil {
			o["certificate"] = url + "/cert"
		}
		return o
	}
	challenge := func() any {
		status := "pending"
		if a.status != "pending" {
			status = "valid"
		}
		return map[string]string{"type": a.challenge, "url": url + "/challenge", "token": "the-token", "status": status}
	}
	switch r.URL.Path {
	case "/directory":
		reply(200, map[string]string{"newNonce": url + "/nonce", "newAccount": url + "/account", "newOrder": url + "/order"})
	case "/nonce":
	case "/account":
		w.Header().Set("Location", url+"/account/1")
		reply(201, map[string]string{"status": "valid"})
	case "/order":
		var o struct{ Identifiers []struct{ Value string } }
		_ = json.Unmarshal(payload, &o)
		a.host, a.status, a.certificate = o.Identifiers[0].Value, "pending", nil
		w.Header().Set("Location", url+"/order/1")
		reply(201, order())
	case "/order/1":
		reply(200, order())
	case "/authz":
		status := "pending"
		if a.status != "pending" {
			status = "valid"
		}
		reply(200, map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": a.host}, "challenges": []any{challenge()}})
	case "/challenge":
		if err := a.validate(); err != nil {
			reply(400, map[string]string{"type": "urn:ietf:params:acme:error:unauthorized", "detail": err.Error()})
			return
		}
		a.status = "ready"
		reply(200, challenge())
	case "/finalize":
		var f struct{ CSR string }
		_ = json.Unmarshal(payload, &f)
		der, _ := base64.RawURLEncoding.DecodeString(f.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || a.status != "ready" {
			reply(400, map[string]string{"type": "urn:ietf:params:acme:error:malformed", "detail": fmt.Sprint(err, a.status)})
			return
		}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(80 * 24 * time.Hour)}
		der, _ = x509.CreateCertificate(rand.Reader, leaf, a.root, csr.PublicKey, a.key)
		a.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		a.status = "valid"
		a.issued.Add(1)
		reply(200, order())
	case "/cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_, _ = w.Write(a.certificate)
	default:
		reply(404, map[string]string{"detail": r.URL.Path})
	}
}

// validate asks the gateway, as an authority asks the host, from outside.
func (a *acmeServer) validate() error {
	g := a.gateway.Load()
	if a.challenge == "tls-alpn-01" {
		c, err := tls.Dial("tcp", g.SecureAddr().String(), &tls.Config{ServerName: a.host, NextProtos: []string{alpnACME}, InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		defer c.Close()
		leaf := c.ConnectionState().PeerCertificates[0]
		for _, e := range leaf.Extensions {
			if e.Id.String() == "1.3.6.1.5.5.7.1.31" && e.Critical && c.ConnectionState().NegotiatedProtocol == alpnACME {
				return nil
			}
		}
		return errors.New("no certificate of the challenge")
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, g.Addr().String())
	}}
	res, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("http://" + a.host + "/.well-known/acme-challenge/the-token")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && !strings.HasPrefix(string(b), "the-token.") {
		err = fmt.Errorf("%d %.80q", res.StatusCode, b)
	}
	return err
}
