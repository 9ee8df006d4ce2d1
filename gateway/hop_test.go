package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

// TestHop_Moved: a request with a body that another gateway handed over, and that is
// held for longer than any client would keep its body back, is whole when the stamp goes
// elsewhere: it is the first gateway that holds it then, and takes it there.
func TestHop_Moved(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, len(b))
	}))
	defer backend.Close()
	address := netip.MustParseAddrPort(backend.Listener.Addr().String())
	here := func(epoch int64, backends ...netip.AddrPort) []bulkhead.Route {
		return []bulkhead.Route{{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: epoch, Backends: backends}}
	}
	n2 := serve(t, Config{Hold: 10 * time.Second}, here(3)...) // it stops there
	other := httptest.NewServer(n2.HopHandler())
	t.Cleanup(func() { other.CloseClientConnections(); other.Close() })
	n1 := serve(t, Config{Hold: 10 * time.Second, Hop: func(ctx context.Context, _ bulkhead.NodeName, _ ...string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", other.Listener.Addr().String())
	}}, elsewhere("acme.localhost", 3))

	answers := make(chan string, 2)
	for _, size := range []int{0, 300 << 10} {
		go func() {
			status, got := post(t, n1, strings.Repeat("x", size))
			answers <- fmt.Sprint(status, " ", got)
		}()
	}
	for n2.hold.held.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(1500 * time.Millisecond) // longer than transports wait for "100 Continue" by themselves
	n2.SetRoutes([]bulkhead.Route{{Host: "acme.localhost", Stamp: "acme", UID: "u", Epoch: 5, Node: "n1"}})
	n1.SetRoutes(here(5)) // not up yet
	time.Sleep(50 * time.Millisecond)
	n1.SetRoutes(here(5, address))
	got := []string{<-answers, <-answers}
	slices.Sort(got)
	if fmt.Sprint(got) != "[200 0 200 307200]" {
		t.Errorf("after it moved: %v", got)
	}
}

// pipes is a listener and the way to it, without a network.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p pipes) dial(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	p <- far
	return near, nil
}

// serve serves h to who dials, until the test ends.
func (p pipes) serve(h http.Handler) (stop func()) {
	s := &http.Server{Handler: h}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(p)
	}()
	return func() {
		_ = s.Close()
		<-ended
	}
}

// TestHop_TakenBack: a move is cut off while the stamp is nobody's. The servers take it
// back when the other node has been silent for their lease of ten seconds, and then it
// has to start where it was: what came in at any gateway waits for it that long, and not
// for ever.
func TestHop_TakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend, hop := make(pipes), make(pipes)
		defer backend.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, len(b))
		}))()
		address := netip.MustParseAddrPort("10.0.0.1:80")
		here := func(epoch int64, backends ...netip.AddrPort) []bulkhead.Route {
			return []bulkhead.Route{
				{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: epoch, Backends: backends},
				{Host: "globex.localhost", Path: "/", Stamp: "globex", UID: "v", Epoch: 3}, // never comes back
			}
		}
		open := func(c Config, routes []bulkhead.Route) *Gateway {
			c.HTTP = "127.0.0.1:0"
			g, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			g.http1.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return backend.dial(ctx) }
			g.SetRoutes(routes)
			return g
		}
		n2 := open(Config{}, here(3))
		defer n2.http1.CloseIdleConnections()
		defer hop.serve(n2.HopHandler())()
		n1 := open(Config{Hop: func(ctx context.Context, _ bulkhead.NodeName, _ ...string) (net.Conn, error) { return hop.dial(ctx) }},
			[]bulkhead.Route{elsewhere("acme.localhost", 3), {Host: "globex.localhost", Stamp: "globex", UID: "v", Epoch: 3, Node: "n2"}})
		defer n1.hop1.CloseIdleConnections()

		var asked sync.WaitGroup
		ask := func(door pipes, host, body string, status int, after time.Duration) {
			asked.Go(func() {
				began := time.Now()
				tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return door.dial(ctx) }}
				defer tr.CloseIdleConnections()
				resp, err := (&http.Client{Transport: tr}).Post("http://"+host+"/", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				got := bodyOf(t, resp)
				if took := time.Since(began); resp.StatusCode != status || took != after || status == 200 && got != fmt.Sprint(len(body)) {
					t.Errorf("%s, %d bytes: %d %q after %s, want %d after %s", host, len(body), resp.StatusCode, got, took, status, after)
				}
			})
		}
		const decided = 13 * time.Second // the lease, from the last word of a session on, and a start
		for _, g := range []*Gateway{n1, n2} {
			door := make(pipes)
			defer door.serve(g)()
			ask(door, "acme.localhost", "", 200, decided)
			ask(door, "acme.localhost", strings.Repeat("x", 300<<10), 200, decided)
			ask(door, "globex.localhost", "", 503, 15*time.Second)
		}
		time.Sleep(decided)
		n2.SetRoutes(here(5, address))
		asked.Wait()
	})
}

// TestHop_Gone: what was handed over and is held at a node that has nothing of the stamp
// any more goes back to the first gateway.
func TestHop_Gone(t *testing.T) {
	g := serve(t, Config{Hold: 5 * time.Second}, bulkhead.Route{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 3})
	status := make(chan int, 1)
	go func() {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "http://acme.localhost/", nil)
		g.HopHandler().ServeHTTP(w, r)
		status <- w.Code
	}()
	for g.hold.held.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	g.SetRoutes(nil)
	if got := <-status; got != http.StatusMisdirectedRequest {
		t.Errorf("answered %d", got)
	}
}

// TestRest: what is taken out of the table has its requests done when Rest returns, and
// gets none afterwards, however many come in at that moment.
func TestRest(t *testing.T) {
	var stopped [2]atomic.Bool
	var late atomic.Int32
	var addresses [2]netip.AddrPort
	for i := range addresses {
		b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if stopped[i].Load() {
				late.Add(1)
			}
			time.Sleep(time.Millisecond)
			if stopped[i].Load() {
				late.Add(1)
			}
		}))
		defer b.Close()
		addresses[i] = netip.MustParseAddrPort(b.Listener.Addr().String())
	}
	// One address per backend is what a task has; here only ports differ.
	route := func(i int) bulkhead.Route {
		return bulkhead.Route{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 3, Backends: []netip.AddrPort{addresses[i]}}
	}
	g := serve(t, Config{}, route(0))
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for ctx.Err() == nil {
				w := httptest.NewRecorder()
				g.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://acme.localhost/", nil))
				if w.Code != http.StatusOK {
					t.Errorf("answered %d", w.Code)
				}
			}
		})
	}
	for i := range 100 {
		time.Sleep(2 * time.Millisecond)
		old, now := i%2, (i+1)%2
		stopped[now].Store(false)
		g.SetRoutes([]bulkhead.Route{route(now)})
		g.Rest(t.Context(), addresses[old].Addr())
		stopped[old].Store(true)
	}
	cancel()
	clients.Wait()
	if n := late.Load(); n > 0 {
		t.Errorf("%d requests were at a backend that had come to rest", n)
	}
}

// TestSend_StaleTable: a request that has chosen a backend of a table that was replaced
// in between looks again, unless the backend is still the route's: Rest may have found
// nobody on the way there.
func TestSend_StaleTable(t *testing.T) {
	var asked atomic.Int32
	backend := backendOf(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	route := func(backends ...netip.AddrPort) []bulkhead.Route {
		return []bulkhead.Route{{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 3, Backends: backends}}
	}
	for name, c := range map[string]struct {
		next []bulkhead.Route
		want error
	}{"gone": {route(), errNoBackend}, "still there": {append(route(backend), bulkhead.Route{Host: "b.localhost", Stamp: "b"}), nil}} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, Config{}, route(backend)...)
			x := &exchange{gateway: g, host: "acme.localhost", table: g.table.Load(), start: time.Now()}
			x.route = x.table.route(x.host, "/")
			b := x.route.backends[0]
			g.SetRoutes(c.next)
			before := asked.Load()
			res, err := x.send(httptest.NewRequest(http.MethodGet, "http://acme.localhost/", nil))
			if err == nil {
				res.Body.Close()
			}
			if !errors.Is(err, c.want) || (asked.Load() == before) != (c.want != nil) {
				t.Errorf("%v, asked %d times", err, asked.Load()-before)
			}
			if c.want != nil && b.inFlight.Load() != 0 {
				t.Errorf("%d requests count as under way", b.inFlight.Load())
			}
		})
	}
}

// TestRest_Streams: answers without end are not waited for, those that have not begun
// are.
func TestRest_Streams(t *testing.T) {
	begun, end := make(chan struct{}, 2), make(chan struct{})
	address := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		begun <- struct{}{}
		<-end
	})
	g := serve(t, Config{}, bulkhead.Route{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 3, Backends: []netip.AddrPort{address}})
	var clients sync.WaitGroup
	defer clients.Wait()
	defer close(end)
	ask := func(path string) {
		clients.Go(func() {
			g.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://acme.localhost"+path, nil))
		})
		<-begun
	}
	ask("/events")
	b := g.table.Load().route("acme.localhost", "/").backends[0]
	for b.answering.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	g.SetRoutes(nil)
	began := time.Now()
	g.Rest(t.Context(), address.Addr())
	if took := time.Since(began); took < answerMost || took > 4*answerMost {
		t.Errorf("a feed of events was waited for %v", took)
	}
	g.SetRoutes([]bulkhead.Route{{Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 3, Backends: []netip.AddrPort{address}}})
	ask("/slow")
	g.SetRoutes(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*answerMost)
	defer cancel()
	g.Rest(ctx, address.Addr())
	if ctx.Err() == nil {
		t.Error("a request without an answer was not waited for")
	}
}

// TestHop_NodeThatDoesNotAnswer: all requests for the stamps of a node that stands still
// make few connections to it at a time, and are answered when it wakes.
func TestHop_NodeThatDoesNotAnswer(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "here") }))
	defer backend.Close()
	n2 := serve(t, Config{Hold: time.Second}, bulkhead.Route{
		Host: "acme.localhost", Path: "/", Stamp: "acme", UID: "u", Epoch: 3,
		Backends: []netip.AddrPort{netip.MustParseAddrPort(backend.Listener.Addr().String())},
	})
	other := httptest.NewServer(n2.HopHandler())
	t.Cleanup(func() { other.CloseClientConnections(); other.Close() })
	awake := make(chan struct{})
	var now, most, all atomic.Int32
	n1 := serve(t, Config{Hold: 20 * time.Second, Hop: func(ctx context.Context, _ bulkhead.NodeName, _ ...string) (net.Conn, error) {
		all.Add(1)
		for n := now.Add(1); n > most.Load(); n = now.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		select {
		case <-awake:
			return (&net.Dialer{}).DialContext(ctx, "tcp", other.Listener.Addr().String())
		case <-time.After(20 * time.Millisecond): // the daemon gives up after two seconds
			return nil, errors.New("it does not answer")
		}
	}}, elsewhere("acme.localhost", 3))
	const requests = 200
	var under sync.WaitGroup
	for range requests {
		under.Go(func() {
			if status, got := post(t, n1, "x"); status != 200 || got != "here" {
				t.Errorf("%d %s", status, got)
			}
		})
	}
	for all.Load() < 3*mostDials { // they ask again and again
		time.Sleep(time.Millisecond)
	}
	close(awake)
	under.Wait()
	if n := most.Load(); n != mostDials {
		t.Errorf("%d connections were being made at a time, want %d", n, mostDials)
	}
}
