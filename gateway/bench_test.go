package gateway

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkGateway measures the gateway, with 10,000 hosts in its table, against
// a bare ReverseProxy, both in the way they would run, over the same backend.
// They take turns of a fraction of a second, so that whatever else the machine
// does meets both; the metric ratio is the median of the gateway's rate divided by
// the bare proxy's.
func BenchmarkGateway(b *testing.B) {
	answer := make([]byte, 1024)
	backend := backendOf(b, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) })
	g := serve(b, Config{}, manyRoutes(10_000, backend)...)
	bare := serveBare(b, backend)
	turn := func(a net.Addr, n int) time.Duration {
		const clients = 64
		var wg sync.WaitGroup
		begin := time.Now()
		for range clients {
			wg.Go(func() {
				c, br := raw(b, a, "")
				defer c.Close()
				for range n / clients {
					if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: stamp-4711.localhost\r\n\r\n"); err != nil {
						b.Error(err)
						return
					}
					res, err := http.ReadResponse(br, nil)
					if err != nil || res.StatusCode != 200 {
						b.Error(res, err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
				}
			})
		}
		wg.Wait()
		return time.Since(begin)
	}
	const requests = 1600
	turn(g.Addr(), requests)
	turn(bare, requests)
	var ours, theirs time.Duration
	var ratios []float64
	for b.Loop() {
		o, t := turn(g.Addr(), requests), turn(bare, requests)
		ours, theirs = ours+o, theirs+t
		ratios = append(ratios, t.Seconds()/o.Seconds())
	}
	slices.Sort(ratios)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.N*requests)/ours.Seconds(), "gateway-req/s")
	b.ReportMetric(float64(b.N*requests)/theirs.Seconds(), "bare-req/s")
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
}

// serveBare is the yardstick: httputil.ReverseProxy with what anybody would
// give it, a buffer pool and enough idle connections.
func serveBare(b *testing.B, backend netip.AddrPort) net.Addr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &http.Server{Handler: bareProxy(backend)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	b.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr()
}

func bareProxy(backend netip.AddrPort) *httputil.ReverseProxy {
	target := &url.URL{Scheme: "http", Host: backend.String()}
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 90 * time.Second, DisableCompression: true},
		BufferPool: new(buffers),
	}
}

// BenchmarkRoute is the lookup alone.
func BenchmarkRoute(b *testing.B) {
	g, err := New(Config{HTTP: ":0"})
	if err != nil {
		b.Fatal(err)
	}
	g.SetRoutes(manyRoutes(10_000, netip.MustParseAddrPort("127.0.0.1:1")))
	for b.Loop() {
		host, _ := parseHost("stamp-4711.localhost:8080")
		if g.table.Load().route(host, "/a/b").pick(nil, time.Time{}) == nil {
			b.Fatal("no backend")
		}
	}
}

// discard is a ResponseWriter for BenchmarkHandler.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkHandler is what the gateway adds to a request but for connections.
func BenchmarkHandler(b *testing.B) {
	backend := backendOf(b, say("x"))
	g := serve(b, Config{}, manyRoutes(10_000, backend)...)
	r, _ := http.NewRequest("GET", "http://stamp-4711.localhost/", nil)
	r.RemoteAddr = "127.0.0.1:1"
	for name, h := range map[string]http.Handler{"gateway": g, "bare": bareProxy(backend)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(discard{http.Header{}}, r)
			}
		})
	}
}
