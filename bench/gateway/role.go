package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/gateway"
)

// play is what this program does as one of the processes of its own bench.
func play(ctx context.Context, role, address, backend string) error {
	switch role {
	case "backend":
		answer := make([]byte, 1024)
		return listen(ctx, address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) }))
	case "bare":
		return listen(ctx, address, bare(backend))
	case "bulkhead":
		to, err := netip.ParseAddrPort(backend)
		if err != nil {
			return fmt.Errorf("read backend: %w", err)
		}
		g, err := gateway.New(gateway.Config{HTTP: address})
		if err != nil {
			return err
		}
		routes := make([]bulkhead.Route, 10_000)
		for i := range routes {
			stamp := fmt.Sprintf("stamp-%d", i)
			routes[i] = bulkhead.Route{
				Host: bulkhead.Host(stamp + ".localhost"), Path: "/",
				Stamp: bulkhead.StampName(stamp), Service: "web", Backends: []netip.AddrPort{to},
			}
		}
		g.SetRoutes(routes)
		return g.Run(ctx)
	}
	return fmt.Errorf("role %q is unknown", role)
}

// bare is the yardstick: httputil.ReverseProxy with what anybody would give it,
// a pool of buffers and enough idle connections. It has no limits, no metrics and
// one backend.
func bare(backend string) http.Handler {
	target := &url.URL{Scheme: "http", Host: backend}
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 90 * time.Second, DisableCompression: true},
		BufferPool: new(buffers),
		ErrorLog:   log.New(io.Discard, "", 0), // wrk leaves in the middle of requests
	}
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

func listen(ctx context.Context, address string, h http.Handler) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := &http.Server{Handler: h}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
