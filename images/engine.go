package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"bulkhead"
)

// engine is the local Docker engine, asked through its socket. Its images come
// as the archives that docker save writes.
type engine struct {
	client *http.Client
	limits Limits

	mu     sync.Mutex
	opened []*archive // guarded by mu; temporary
}

func newEngine(socket string, limits Limits) *engine {
	return &engine{limits: limits, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}}
}

func (e *engine) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrUnavailable, "does not answer: %w", cause(err))
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp, nil
	case http.StatusNotFound:
		err = bulkhead.Errorf(bulkhead.ErrNotFound, "no such image")
	default:
		err = bulkhead.Errorf(bulkhead.ErrUnavailable, "answers %s", resp.Status)
	}
	return nil, errors.Join(err, resp.Body.Close())
}

// inspect returns the engine's id of an image: the digest of its configuration
// or, with containerd's image store, of its manifest or index.
func (e *engine) inspect(ctx context.Context, r ref) (bulkhead.Digest, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := e.get(ctx, "/images/"+r.named.String()+"/json")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var image struct{ ID bulkhead.Digest }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxJSON)).Decode(&image); err != nil {
		return "", bulkhead.Errorf(bulkhead.ErrUnavailable, "answers what cannot be read: %w", err)
	}
	return image.ID, nil
}

func (e *engine) lookup(ctx context.Context, r ref) (source, []descriptor, error) {
	if _, err := e.inspect(ctx, r); err != nil {
		return nil, nil, err
	}
	resp, err := e.get(ctx, "/images/"+r.named.String()+"/get")
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	f, err := spool(ctx, resp.Body, e.limits.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("copy image: %w", err)
	}
	t := &tarball{file: f, temp: true, spans: map[string]span{}, links: map[string]string{}}
	a := &archive{name: "of the Docker engine", files: t}
	err = t.scan()
	if err == nil {
		err = a.read()
	}
	if err != nil {
		return nil, nil, errors.Join(a.broken(err), t.Close())
	}
	e.mu.Lock()
	e.opened = append(e.opened, a)
	e.mu.Unlock()
	src, d, err := a.images[0].open() // it was asked for one
	if err != nil {
		return nil, nil, a.broken(err)
	}
	return src, []descriptor{d}, nil
}

func (e *engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, a := range e.opened {
		errs = append(errs, a.Close())
	}
	e.opened = nil
	return errors.Join(errs...)
}

// cause is what is wrong with a request, without the URL before it.
func cause(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
