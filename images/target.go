package images

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"bulkhead"
)

// Target is Bulkhead's own registry, as a client sees it.
type Target struct {
	URL string // of the server, without /v2/: "http://127.0.0.1:7070"
	// Client adds what authorises. Default: http.DefaultClient.
	Client *http.Client
}

// do sends a request below /v2/. Its errors are for users and of a kind; a body
// of size bytes is sent when given.
func (t *Target) do(ctx context.Context, method, path string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(t.URL, "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("address registry: %w", err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	if body != nil {
		req.ContentLength = size
	}
	resp, err := cmp.Or(t.Client, http.DefaultClient).Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, bulkhead.Errorf(bulkhead.ErrUnavailable, "Bulkhead's registry does not answer: %s", oneLine(cause(err))).
			WithHint("is `bulkhead up` running at %s?", t.URL)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, failure(resp)
}

// failure is the error that a response stands for.
func failure(resp *http.Response) error {
	var answer struct {
		Errors []struct{ Message string }
	}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	message := resp.Status
	if json.Unmarshal(raw, &answer) == nil && len(answer.Errors) > 0 {
		message = answer.Errors[0].Message
	}
	kind := bulkhead.ErrInvalid
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound:
		return bulkhead.Errorf(bulkhead.ErrNotFound, "no such image")
	case code == http.StatusInsufficientStorage:
		return bulkhead.Errorf(bulkhead.ErrExhausted, "upload refused: %s", message).
			WithHint("free space on the server's data folder, or delete releases that no stamp uses")
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		kind = bulkhead.ErrDenied
	case code == http.StatusTooManyRequests || code >= 500:
		kind = bulkhead.ErrUnavailable
	}
	return bulkhead.Errorf(kind, "Bulkhead's registry refuses: %s", message)
}

// head tells whether something is there, and its digest.
func (t *Target) head(ctx context.Context, path string) (bulkhead.Digest, error) {
	resp, err := t.do(ctx, http.MethodHead, path, accept(), nil, 0)
	if err != nil {
		return "", err
	}
	return bulkhead.Digest(resp.Header.Get("Docker-Content-Digest")), resp.Body.Close()
}

func accept() http.Header {
	return http.Header{"Accept": {strings.Join([]string{typeManifest, typeDockerManifest, typeIndex, typeDockerList}, ",")}}
}

// get reads a manifest by tag or digest.
func (t *Target) get(ctx context.Context, repository, name string) (raw []byte, mediaType string, err error) {
	resp, err := t.do(ctx, http.MethodGet, manifestPath(repository, name), accept(), nil, 0)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest))
	if err != nil {
		return nil, "", bulkhead.Errorf(bulkhead.ErrUnavailable, "Bulkhead's registry broke off: %w", cause(err))
	}
	return raw, resp.Header.Get("Content-Type"), nil
}

func manifestPath(repository, name string) string {
	return "/v2/" + repository + "/manifests/" + name
}

func blobPath(repository string, d bulkhead.Digest) string {
	return "/v2/" + repository + "/blobs/" + string(d)
}

func (t *Target) lookup(ctx context.Context, r ref) (source, []descriptor, error) {
	name := r.tag
	if r.digest != "" {
		name = string(r.digest)
	}
	raw, mediaType, err := t.get(ctx, r.repository, name)
	if errors.Is(err, bulkhead.ErrNotFound) && r.digest != "" {
		raw, mediaType, err = t.get(ctx, r.repository, indexTag(r.digest))
	}
	if err != nil {
		return nil, nil, err
	}
	d := descriptor{MediaType: mediaType, Digest: digestOf(raw), Size: int64(len(raw))}
	return repository{t, r.repository}, []descriptor{d}, nil
}

// repository is a repository of Bulkhead's registry.
type repository struct {
	*Target
	name string
}

func (r repository) manifest(ctx context.Context, d bulkhead.Digest) ([]byte, error) {
	raw, _, err := r.get(ctx, r.name, string(d))
	return raw, err
}

func (r repository) blob(ctx context.Context, d bulkhead.Digest, _ int64) (io.ReadCloser, error) {
	resp, err := r.do(ctx, http.MethodGet, blobPath(r.name, d), nil, nil, 0)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// put stores a manifest under a tag or its digest.
func (r repository) put(ctx context.Context, name, mediaType string, raw []byte) error {
	return retry(ctx, func() error {
		resp, err := r.do(ctx, http.MethodPut, manifestPath(r.name, name), http.Header{"Content-Type": {mediaType}}, bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// has tells whether the repository holds a blob.
func (r repository) has(ctx context.Context, d bulkhead.Digest) (bool, error) {
	_, err := r.head(ctx, blobPath(r.name, d))
	if errors.Is(err, bulkhead.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// upload stores the content of body under digest d, once verify has read and
// accepted all of it: until then the registry has no such blob.
func (r repository) upload(ctx context.Context, d bulkhead.Digest, size int64, body io.Reader, verify func() error) error {
	resp, err := r.do(ctx, http.MethodPost, "/v2/"+r.name+"/blobs/uploads/", nil, nil, 0)
	if err != nil {
		return err
	}
	location, err := next(resp)
	if err != nil {
		return err
	}
	sent := &sending{Reader: body, done: make(chan struct{})}
	resp, err = r.do(ctx, http.MethodPatch, location, http.Header{"Content-Type": {"application/octet-stream"}}, sent, size)
	<-sent.done // the transport may still be reading when it has failed
	if fault := verify(); fault != nil {
		err = fault
	}
	if err != nil {
		if resp != nil { // sent, but not wanted
			r.cancel(ctx, resp)
		}
		return err
	}
	if location, err = next(resp); err != nil {
		return err
	}
	path, query, _ := strings.Cut(location, "?")
	resp, err = r.do(ctx, http.MethodPut, path+"?"+query+"&digest="+url.QueryEscape(string(d)), nil, nil, 0)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// cancel ends an upload whose content has been sent. It is best effort: what is
// left is invisible, and swept later.
func (t *Target) cancel(ctx context.Context, sent *http.Response) {
	location, err := next(sent)
	if err != nil {
		return
	}
	if resp, err := t.do(context.WithoutCancel(ctx), http.MethodDelete, location, nil, nil, 0); err == nil {
		_ = resp.Body.Close()
	}
}

// next is where an upload goes on.
func next(resp *http.Response) (string, error) {
	u, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || u.Path == "" {
		return "", errors.Join(errors.New("upload: the registry does not say where to go on"), resp.Body.Close())
	}
	return u.RequestURI(), resp.Body.Close()
}

// sending is a request's body; done is closed when the transport lets go of it.
type sending struct {
	io.Reader
	once sync.Once
	done chan struct{}
}

func (s *sending) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// retry calls do until it succeeds, fails for good, or has failed four times.
func retry(ctx context.Context, do func() error) error {
	pause := 100 * time.Millisecond
	for range 3 {
		err := do()
		if err == nil || !errors.Is(err, bulkhead.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause *= 3
	}
	return do()
}
