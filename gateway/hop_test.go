package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead"
)

// twoNodes are two gateways, of which n1's hops to n2's. TLS is left out: it is the
// daemon's.
func twoNodes(t *testing.T, first []bulkhead.Route, second ...bulkhead.Route) (n1 *Gateway, dials *atomic.Int32) {
	t.Helper()
	n2 := serve(t, Config{Hold: time.Second}, second...)
	other := httptest.NewServer(n2.HopHandler())
	t.Cleanup(func() { other.CloseClientConnections(); other.Close() })
	dials = &atomic.Int32{}
	n1 = serve(t, Config{Hold: time.Second, Hop: func(ctx context.Context, node bulkhead.NodeName, _ ...string) (net.Conn, error) {
		dials.Add(1)
		if node != "n2" {
			return nil, fmt.Errorf("node %s is not known", node)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", other.Listener.Addr().String())
	}}, first...)
	return n1, dials
}

func elsewhere(host bulkhead.Host, epoch int64) bulkhead.Route {
	return bulkhead.Route{Host: host, Stamp: "acme", UID: "u", Epoch: epoch, Node: "n2"}
}

func post(t *testing.T, g *Gateway, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+g.Addr().String()+"/x?a;b", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "acme.localhost"
	req.Header.Set("X-Forwarded-For", "6.6.6.6") // a client's claim
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestHop: a request for a stamp of another node gets there whole, once, and the
// backend hears of the client what the first gateway knows.
func TestHop(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %s %s %q", r.Method, r.URL.RequestURI(), len(b), r.Header.Get("X-Forwarded-For"), r.Host, r.Header.Get("Expect"))
	}))
	defer backend.Close()
	address := netip.MustParseAddrPort(backend.Listener.Addr().String())
	n1, _ := twoNodes(t, []bulkhead.Route{elsewhere("acme.localhost", 3)},
		bulkhead.Route{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 3, Backends: []netip.AddrPort{address}})
	for _, size := range []int{0, 10, 100 << 10} {
		status, got := post(t, n1, strings.Repeat("x", size))
		if want := fmt.Sprintf(`POST /x?a;b %d 127.0.0.1 acme.localhost ""`, size); status != 200 || got != want {
			t.Errorf("%d: %q, want %q", status, got, want)
		}
	}
}

// TestHop_NotThere: a node that does not have the stamp says so before it reads the
// body; the request is held, and goes where the next table says.
func TestHop_NotThere(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, len(b))
	}))
	defer backend.Close()
	address := netip.MustParseAddrPort(backend.Listener.Addr().String())
	n1, dials := twoNodes(t, []bulkhead.Route{elsewhere("acme.localhost", 3)}, elsewhere("acme.localhost", 3)) // each thinks of the other
	done := make(chan string, 1)
	go func() {
		status, got := post(t, n1, strings.Repeat("x", 50<<10))
		done <- fmt.Sprint(status, " ", got)
	}()
	for dials.Load() == 0 { // it has asked
		time.Sleep(time.Millisecond)
	}
	n1.SetRoutes([]bulkhead.Route{{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 4, Backends: []netip.AddrPort{address}}})
	if got := <-done; got != "200 51200" {
		t.Errorf("after it came here: %s", got)
	}
	if n := dials.Load(); n > 3 {
		t.Errorf("%d connections for one request", n)
	}
}

// TestEpochs: a table takes no route of an older epoch than it has seen, unless the
// stamp has begun another life.
func TestEpochs(t *testing.T) {
	g, err := New(Config{HTTP: ":0"})
	if err != nil {
		t.Fatal(err)
	}
	set := func(uid string, epoch int64) bool {
		g.SetRoutes([]bulkhead.Route{{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: uid, Epoch: epoch}})
		return g.table.Load().route("acme.localhost", "/") != nil
	}
	for i, c := range []struct {
		uid   string
		epoch int64
		taken bool
	}{{"u", 3, true}, {"u", 3, true}, {"u", 2, false}, {"u", 4, true}, {"u", 3, false}, {"v", 1, true}, {"v", 2, true}} {
		if got := set(c.uid, c.epoch); got != c.taken {
			t.Errorf("%d: epoch %d of life %s: taken %t", i, c.epoch, c.uid, got)
		}
	}
}

// TestEarlyAnswer: a backend that answers without reading the body is heard,
// whether it is here or at another node.
func TestEarlyAnswer(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "too much", http.StatusRequestEntityTooLarge)
	}))
	defer backend.Close()
	here := bulkhead.Route{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 3, Backends: []netip.AddrPort{netip.MustParseAddrPort(backend.Listener.Addr().String())}}
	far, _ := twoNodes(t, []bulkhead.Route{elsewhere("acme.localhost", 3)}, here)
	for name, g := range map[string]*Gateway{"here": serve(t, Config{}, here), "far": far} {
		got := map[string]int{}
		for range 100 {
			req, err := http.NewRequest(http.MethodPost, "http://"+g.Addr().String()+"/x", strings.NewReader(strings.Repeat("x", 8<<20)))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "acme.localhost"
			resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
			if err != nil {
				got[err.Error()]++
				continue
			}
			got[fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(bodyOf(t, resp)))]++
		}
		if got["413 too much"] != 100 {
			t.Errorf("%s: %v", name, got)
		}
	}
}
