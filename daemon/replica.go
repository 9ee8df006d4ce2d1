package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/images"
	"bulkhead/store"
)

// A release is uploaded to one server. The others copy it: then nodes can pull it
// from any of them, and no server holds the only copy.

// replicaRetry is the pause after a release that could not be copied.
const replicaRetry = 5 * time.Second

// replicate keeps the registry of this server complete until ctx ends.
func (p *process) replicate(ctx context.Context, registry http.Handler, dial func(bulkhead.Server) *api.Way) error {
	own := &images.Target{URL: "http://registry", Client: &http.Client{Transport: within{registry}}}
	done := map[bulkhead.Digest]bool{} // releases that are here
	view, changes := p.state.Watch(ctx)
	for {
		failed := p.copyReleases(ctx, view, own, dial, done)
		var retry <-chan time.Time
		if failed {
			retry = time.After(replicaRetry)
		}
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				return nil
			case <-retry:
				wait = false
			case c, ok := <-changes:
				if !ok {
					return nil
				}
				wait = !c.Everything() && c.Table != store.Releases && c.Table != store.Servers
			}
		}
		view = p.state.View()
	}
}

// copyReleases copies what is missing; it tells whether something still is.
func (p *process) copyReleases(ctx context.Context, view *store.Snapshot, own *images.Target, dial func(bulkhead.Server) *api.Way, done map[bulkhead.Digest]bool) (failed bool) {
	if view.Servers.Len() < 2 {
		return false
	}
	for r := range view.Releases.All() {
		if done[r.Digest] {
			continue
		}
		err := errors.New("no other server")
		for server := range view.Servers.All() {
			if server.Name == p.c.Node {
				continue
			}
			way := dial(server)
			err = copyRelease(ctx, &images.Target{URL: way.URL(), Client: way.Client()}, own, r)
			way.Client().CloseIdleConnections()
			if err == nil {
				done[r.Digest] = true
				break
			}
		}
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			p.c.Log.Warn("copy release from other servers", "product", r.Product, "version", r.Version, "err", err)
			failed = true
		}
	}
	return failed
}

func copyRelease(ctx context.Context, from, to *images.Target, r bulkhead.Release) error {
	for _, image := range r.Images {
		if err := images.Copy(ctx, from, to, image.Repository, image.Digest); err != nil {
			return err
		}
	}
	return images.Copy(ctx, from, to, images.BundleRepository, r.Bundle)
}

// within asks a handler of this process. Its answers are small: what is read from
// it is whether something is there.
type within struct{ handler http.Handler }

func (w within) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.RequestURI = in.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	a := &answer{header: http.Header{}, status: http.StatusOK}
	w.handler.ServeHTTP(a, in)
	_ = in.Body.Close() // as a transport does
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Header: a.header, Body: io.NopCloser(&a.body), Request: r,
		ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(a.body.Len()),
	}, nil
}

// answer is a response that is kept.
type answer struct {
	header http.Header
	status int
	begun  bool
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if !a.begun {
		a.status, a.begun = status, true
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.body.Write(b)
}
