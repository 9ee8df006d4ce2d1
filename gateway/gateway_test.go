package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"bulkhead"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// A file lock of CertMagic's storage lets go a moment after its last use.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		// CertMagic never stops the limiter that it keeps for each ACME account.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
	)
}

// serve runs a gateway on a free port of the loopback until the test ends, and
// fails the test if it does not stop in good order.
func serve(t testing.TB, c Config, routes ...bulkhead.Route) *Gateway {
	t.Helper()
	g, _ := serveUntil(t, c, routes...)
	return g
}

func serveUntil(t testing.TB, c Config, routes ...bulkhead.Route) (g *Gateway, stop func()) {
	t.Helper()
	if c.HTTP == "" {
		c.HTTP = "127.0.0.1:0"
	}
	if c.Drain == 0 {
		c.Drain = 2 * time.Second
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	g.SetRoutes(routes)
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run did not end")
		}
	})
	t.Cleanup(stop)
	return g, stop
}

// backendOf starts a server for h, with HTTP/2 without TLS too.
func backendOf(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// unused is an address that refuses connections.
func unused(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

func to(host, path string, backends ...netip.AddrPort) bulkhead.Route {
	name, _, _ := strings.Cut(host, ".")
	return bulkhead.Route{Host: bulkhead.Host(host), Path: path, Stamp: bulkhead.StampName(name), Service: "web", Backends: backends}
}

// client speaks with g whatever the host of the URL.
func client(t testing.TB, g *Gateway) *http.Client {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := g.Addr()
			if _, p, _ := net.SplitHostPort(address); g.SecureAddr() != nil && p == "443" {
				to = g.SecureAddr()
			}
			return (&net.Dialer{}).DialContext(ctx, network, to.String())
		},
		MaxIdleConnsPerHost: 64,
	}
	if g.SecureAddr() != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: roots(t, g)}
		transport.ForceAttemptHTTP2 = true
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func roots(t testing.TB, g *Gateway) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(g.Root()) {
		t.Fatal("Root is no certificate")
	}
	return pool
}

func get(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	return res, bodyOf(t, res)
}

func bodyOf(t testing.TB, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// eventually waits until what holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func say(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

func TestRouting(t *testing.T) {
	a, b, c := backendOf(t, say("a")), backendOf(t, say("b")), backendOf(t, say("c"))
	g := serve(t, Config{}, to("acme.localhost", "/", a), to("acme.localhost", "/api", b), to("other.localhost", "/only", c))
	hc := client(t, g)
	for url, want := range map[string]string{
		"http://acme.localhost/":              "a",
		"http://ACME.localhost.:8080/x":       "a",
		"http://acme.localhost/api":           "b",
		"http://acme.localhost/api/v1?x=1;y":  "b",
		"http://acme.localhost/apix":          "a",
		"http://acme.localhost/%61pi/":        "b",
		"http://other.localhost/only/this":    "c",
		"http://other.localhost/":             "404",
		"http://nobody.localhost/":            "404",
		"http://x.acme.localhost/":            "404",
		"http://" + g.Addr().String() + "/":   "404",
		"http://[::1]:8080/":                  "400",
		"http://exa%20mple.localhost/":        "400",
		"http://acme.localhost:999999999999/": "400",
	} {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			// What Go will not send is sent by hand.
			req, _ = http.NewRequest("GET", "http://x/", nil)
			req.Host = strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")
		}
		res, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := bodyOf(t, res); got != want && fmt.Sprint(res.StatusCode) != want {
			t.Errorf("%s: %d %q, want %s", url, res.StatusCode, got, want)
		}
	}
}

// TestUnknownLeaksNothing compares all that a stranger gets for a host that is
// not there and for a host that is, without such a path.
func TestUnknownLeaksNothing(t *testing.T) {
	g := serve(t, Config{}, to("acme.localhost", "/only", unused(t)))
	var answers []string
	for _, url := range []string{"http://nobody.localhost/", "http://acme.localhost/"} {
		req, _ := http.NewRequest("GET", url, nil)
		req.Header.Set("Accept", "text/html")
		res, err := client(t, g).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Header.Del("Date")
		var b bytes.Buffer
		_ = res.Write(&b)
		answers = append(answers, b.String())
	}
	if answers[0] != answers[1] || !strings.Contains(answers[0], "404") || !strings.Contains(answers[0], "<h1>") {
		t.Errorf("answers differ or are no page:\n%s\n%s", answers[0], answers[1])
	}
	for _, leak := range []string{"acme", "nobody", "ulkhead", "Server:", "Go", "127.0"} {
		if strings.Contains(answers[0], leak) {
			t.Errorf("the page tells %q", leak)
		}
	}
}

func TestDownAnswersAtOnce(t *testing.T) {
	r := to("acme.localhost", "/", backendOf(t, say("x")))
	r.Down = "disk full on n4"
	g := serve(t, Config{}, r)
	res, page := get(t, client(t, g), "http://acme.localhost/")
	if res.StatusCode != 503 || strings.Contains(page, "disk") || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %q %v", res.StatusCode, page, res.Header)
	}
}

func TestForwardedHeaders(t *testing.T) {
	var last atomic.Pointer[http.Request]
	b := backendOf(t, func(_ http.ResponseWriter, r *http.Request) { last.Store(r) })
	claims := http.Header{
		"X-Forwarded-For": {"6.6.6.6", "7.7.7.7"}, "X-Forwarded-Host": {"bank.example"}, "X-Forwarded-Proto": {"https"},
		"X-Forwarded-Port": {"1"}, "X-Real-Ip": {"6.6.6.6"}, "Forwarded": {"for=6.6.6.6"}, "X_forwarded_for": {"6.6.6.6"},
		"Connection": {"X-Real-Ip, X-Forwarded-For, X-Private"}, "X-Private": {"1"}, "X-Kept": {"1"},
	}
	for _, tt := range []struct {
		name    string
		trusted []netip.Prefix
		want    map[string]string
	}{
		{"clients are not believed", nil, map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "acme.localhost:8080", "X-Forwarded-Proto": "http", "X-Real-Ip": "127.0.0.1",
		}},
		{"trusted proxies are", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("7.7.7.0/24")}, map[string]string{
			"X-Forwarded-For": "6.6.6.6, 7.7.7.7, 127.0.0.1", "X-Forwarded-Host": "bank.example", "X-Forwarded-Proto": "https", "X-Real-Ip": "6.6.6.6",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := serve(t, Config{TrustedProxies: tt.trusted}, to("acme.localhost", "/", b))
			req, _ := http.NewRequest("GET", "http://acme.localhost:8080/a%2Fb//c?q=%zz;x", nil)
			req.Header = claims.Clone()
			res, err := client(t, g).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			bodyOf(t, res)
			got := last.Load()
			for name, want := range tt.want {
				if v := got.Header[name]; len(v) != 1 || v[0] != want {
					t.Errorf("%s: %q, want %q", name, v, want)
				}
			}
			for _, name := range []string{"Forwarded", "X_forwarded_for", "X-Forwarded-Port", "X-Private", "Connection"} {
				if v := got.Header[name]; v != nil {
					t.Errorf("%s went through: %q", name, v)
				}
			}
			if got.Host != "acme.localhost:8080" || got.RequestURI != "/a%2Fb//c?q=%zz;x" || got.Header.Get("X-Kept") != "1" {
				t.Errorf("changed on its way: %s %s %v", got.Host, got.RequestURI, got.Header)
			}
		})
	}
}

func TestSwapUnderLoad(t *testing.T) {
	a, b := backendOf(t, say("a")), backendOf(t, say("b"))
	g := serve(t, Config{}, to("acme.localhost", "/", a))
	hc := client(t, g)
	stop := make(chan struct{})
	var seen [2]atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := hc.Post("http://acme.localhost/", "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				got := bodyOf(t, res)
				if res.StatusCode != 200 || got != "a" && got != "b" {
					t.Errorf("%d %q", res.StatusCode, got)
					return
				}
				seen[got[0]-'a'].Add(1)
			}
		})
	}
	// Moves to and fro, with a moment of no backend and of one that is gone.
	dead := unused(t)
	for i := range 200 {
		switch i % 4 {
		case 0:
			g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/", a)})
		case 1:
			g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/")})
		case 2:
			g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/", b, dead)})
		case 3:
			g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/", dead)})
		}
		time.Sleep(time.Millisecond)
	}
	g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/", b)})
	n := seen[1].Load()
	eventually(t, "b answers", func() bool { return seen[1].Load() > n+8 })
	close(stop)
	wg.Wait()
	if seen[0].Load() == 0 {
		t.Error("a never answered")
	}
}

func TestTenThousandHosts(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })
	g := serve(t, Config{}, manyRoutes(10_000, b)...)
	hc := client(t, g)
	for i := 0; i < 10_000; i += 97 {
		host := fmt.Sprintf("stamp-%d.localhost", i)
		if _, got := get(t, hc, "http://"+host+"/"); got != host {
			t.Fatalf("%s: %q", host, got)
		}
	}
	if res, _ := get(t, hc, "http://stamp-10000.localhost/"); res.StatusCode != 404 {
		t.Errorf("%d for one host too many", res.StatusCode)
	}
}

func manyRoutes(n int, backends ...netip.AddrPort) []bulkhead.Route {
	routes := make([]bulkhead.Route, n)
	for i := range routes {
		routes[i] = to(fmt.Sprintf("stamp-%d.localhost", i), "/", backends...)
	}
	return routes
}

func TestBalancing(t *testing.T) {
	var counts [3]atomic.Int64
	var backends []netip.AddrPort
	for i := range counts {
		backends = append(backends, backendOf(t, func(http.ResponseWriter, *http.Request) { counts[i].Add(1) }))
	}
	g := serve(t, Config{}, to("acme.localhost", "/", append(backends, unused(t))...))
	hc := client(t, g)
	for range 300 {
		if res, _ := get(t, hc, "http://acme.localhost/"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
	for i := range counts {
		if n := counts[i].Load(); n < 40 {
			t.Errorf("backend %d got %d of 300", i, n)
		}
	}
	for _, b := range g.table.Load().hosts["acme.localhost"].backends {
		eventually(t, "nothing in flight", func() bool { return b.inFlight.Load() == 0 })
	}
}

// TestLeastInFlight: a backend that is stuck gets nothing more when another is free.
func TestLeastInFlight(t *testing.T) {
	stuck, release := make(chan struct{}), make(chan struct{})
	var atSlow atomic.Int64
	slow := backendOf(t, func(http.ResponseWriter, *http.Request) {
		if atSlow.Add(1) == 1 {
			close(stuck)
		}
		<-release
	})
	fast := backendOf(t, say("fast"))
	g := serve(t, Config{}, to("acme.localhost", "/", slow))
	hc := client(t, g)
	first := make(chan error, 1)
	go func() {
		res, err := hc.Get("http://acme.localhost/")
		if err == nil {
			res.Body.Close()
		}
		first <- err
	}()
	<-stuck
	g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/", slow, fast)})
	for range 50 {
		if _, got := get(t, hc, "http://acme.localhost/"); got != "fast" {
			t.Errorf("%q", got)
		}
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
		}
	})
	var logged lockedBuffer
	g := serve(t, Config{Registerer: registry, Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))}, to("acme.localhost", "/", b))
	hc := client(t, g)
	for _, url := range []string{"http://acme.localhost/", "http://acme.localhost/bad", "http://nobody.localhost/"} {
		get(t, hc, url)
	}
	for want, got := range map[string]func() float64{
		"1 2xx":      func() float64 { return value(t, registry, "bulkhead_gateway_requests_total", "2xx", "acme") },
		"1 5xx":      func() float64 { return value(t, registry, "bulkhead_gateway_requests_total", "5xx", "acme") },
		"1 unrouted": func() float64 { return value(t, registry, "bulkhead_gateway_unrouted_requests_total", "4xx") },
		"2 observed": func() float64 { return value(t, registry, "bulkhead_gateway_request_duration_seconds") },
		"0 inflight": func() float64 { return value(t, registry, "bulkhead_gateway_requests_in_flight") },
	} {
		eventually(t, want, func() bool { return got() == float64(want[0]-'0') })
	}
	if !strings.Contains(logged.String(), "path=/bad") {
		t.Error("no access log at debug")
	}
	g.SetRoutes(nil)
	if v := value(t, registry, "bulkhead_gateway_requests_total", "2xx", "acme"); v != -1 {
		t.Errorf("series of a stamp that is gone: %v", v)
	}
}

// value is what a collector shows, -1 if it does not.
func value(t *testing.T, registry *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			var got []string
			for _, l := range m.Label {
				got = append(got, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(got, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return -1
}

// lockedBuffer is a buffer for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []Config{{HTTP: l.Addr().String()}, {HTTP: "127.0.0.1:0", HTTPS: l.Addr().String(), Data: t.TempDir()}} {
		g, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		err = g.Listen()
		if !errors.Is(err, bulkhead.ErrConflict) || !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("%v", err)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	_, err := New(Config{HTTP: "8080", HTTPS: ":443", Hold: -1})
	var e *bulkhead.Error
	if !errors.As(err, &e) || len(e.Faults) != 3 {
		t.Errorf("%v: %v", err, e)
	}
}

// TestDrain: a request in flight ends in peace, new connections are refused, a
// WebSocket does not hold up the end.
func TestDrain(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	b := backendOf(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	g, stop := serveUntil(t, Config{Drain: 5 * time.Second}, to("acme.localhost", "/", b))
	answer := make(chan string, 1)
	go func() {
		res, err := client(t, g).Get("http://acme.localhost/")
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- bodyOf(t, res)
	}()
	<-arrived
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	eventually(t, "new connections are refused", func() bool {
		c, err := net.Dial("tcp", g.Addr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("in flight: %q", got)
	}
	<-stopped
}

// TestDrainDeadline: a request that does not end is cut.
func TestDrainDeadline(t *testing.T) {
	arrived := make(chan struct{})
	b := backendOf(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	g, stop := serveUntil(t, Config{Drain: 100 * time.Millisecond}, to("acme.localhost", "/", b))
	ended := make(chan error, 1)
	go func() {
		res, err := client(t, g).Get("http://acme.localhost/")
		if err == nil {
			res.Body.Close()
		}
		ended <- err
	}()
	<-arrived
	start := time.Now()
	stop()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	<-ended
}

// raw writes a request by hand and returns the connection.
func raw(t testing.TB, a net.Addr, request string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}
