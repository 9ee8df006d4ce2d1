package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead"
)

// held waits until n requests are held.
func held(t *testing.T, g *Gateway, n int64) {
	t.Helper()
	eventually(t, "requests are held", func() bool { return g.hold.held.Load() == n })
}

func TestHoldAndRelease(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	g := serve(t, Config{}, to("acme.localhost", "/"))
	hc := client(t, g)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			res, err := hc.Post("http://acme.localhost/", "text/plain", strings.NewReader("kept"))
			if err != nil {
				t.Error(err)
				return
			}
			if got := bodyOf(t, res); res.StatusCode != 200 || got != "kept" {
				t.Errorf("%d %q", res.StatusCode, got)
			}
		})
	}
	held(t, g, 50)
	g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/"), to("other.localhost", "/", b)}) // says nothing new
	g.SetRoutes([]bulkhead.Route{to("acme.localhost", "/", b)})
	wg.Wait()
	held(t, g, 0)
}

// TestHoldRefused: the table names a backend, but it does not listen yet. No new
// table comes; the backend does.
func TestHoldRefused(t *testing.T) {
	a := unused(t)
	g := serve(t, Config{}, to("acme.localhost", "/", a))
	answer := make(chan string, 1)
	go func() {
		res, err := client(t, g).Post("http://acme.localhost/", "text/plain", strings.NewReader("kept"))
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- bodyOf(t, res)
	}()
	held(t, g, 1)
	l, err := net.Listen("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	if got := <-answer; got != "kept" {
		t.Errorf("%q", got)
	}
}

func TestHoldEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		config Config
		then   []bulkhead.Route
		status int
	}{
		"too long":    {Config{Hold: 50 * time.Millisecond}, nil, 503},
		"goes down":   {Config{}, []bulkhead.Route{{Host: "acme.localhost", Stamp: "acme", Down: "stopped"}}, 503},
		"is deleted":  {Config{}, []bulkhead.Route{}, 404},
		"other paths": {Config{}, []bulkhead.Route{to("acme.localhost", "/other")}, 404},
	} {
		t.Run(name, func(t *testing.T) {
			g := serve(t, tt.config, to("acme.localhost", "/"))
			hc := client(t, g)
			status := make(chan *http.Response, 1)
			go func() {
				res, err := hc.Get("http://acme.localhost/")
				if err != nil {
					t.Error(err)
				}
				status <- res
			}()
			if tt.then != nil {
				held(t, g, 1)
				g.SetRoutes(tt.then)
			}
			res := <-status
			defer res.Body.Close()
			if res.StatusCode != tt.status {
				t.Errorf("%d, want %d", res.StatusCode, tt.status)
			}
			if name == "too long" && res.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			held(t, g, 0)
		})
	}
}

func TestHoldIsBounded(t *testing.T) {
	g := serve(t, Config{HoldPerStamp: 2, HoldInAll: 3}, to("acme.localhost", "/"), to("globex.localhost", "/"))
	hc := client(t, g)
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	var full atomic.Int64
	var wg sync.WaitGroup
	ask := func(host string) {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+host+".localhost/", nil)
			res, err := hc.Do(req)
			if err == nil {
				bodyOf(t, res)
				if res.StatusCode == 503 && res.Header.Get("Retry-After") != "" {
					full.Add(1)
				}
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for range 3 {
		ask("acme")
	}
	eventually(t, "one too many of acme", func() bool { return full.Load() == 1 })
	for range 2 {
		ask("globex")
	}
	eventually(t, "one too many in all", func() bool { return full.Load() == 2 })
	held(t, g, 3)
	leave() // clients that give up free their places
	held(t, g, 0)
	wg.Wait()
}

// TestHeldAtTheEnd: the drain does not wait for what will not come.
func TestHeldAtTheEnd(t *testing.T) {
	g, stop := serveUntil(t, Config{Drain: 50 * time.Millisecond}, to("acme.localhost", "/"))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if res, err := client(t, g).Get("http://acme.localhost/"); err == nil {
			res.Body.Close()
		}
	}()
	held(t, g, 1)
	stop()
	<-ended
	held(t, g, 0)
}
