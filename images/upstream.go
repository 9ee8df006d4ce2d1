package images

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"bulkhead"
)

// upstream is the registry that a reference names, with the credentials of the
// user's Docker configuration.
type upstream struct{ puller *remote.Puller }

func newUpstream() (*upstream, error) {
	p, err := remote.NewPuller(remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("bulkhead"))
	return &upstream{p}, err
}

func (u *upstream) lookup(ctx context.Context, r ref) (source, []descriptor, error) {
	named, err := name.ParseReference(r.named.String())
	if err != nil {
		return nil, nil, bulkhead.Errorf(bulkhead.ErrNotFound, "%s", oneLine(err))
	}
	got, err := u.puller.Get(ctx, named)
	if err != nil {
		return nil, nil, refused(named.Context().RegistryStr(), err)
	}
	d := descriptor{MediaType: string(got.MediaType), Digest: bulkhead.Digest(got.Digest.String()), Size: got.Size}
	repo := &remoteRepository{upstream: u, repository: named.Context()}
	repo.manifests.Store(d.Digest, got.Manifest)
	return repo, []descriptor{d}, nil
}

// remoteRepository is a repository of a registry that is not ours.
type remoteRepository struct {
	*upstream
	repository name.Repository
	manifests  sync.Map // digest to content, of what has been read
}

func (r *remoteRepository) manifest(ctx context.Context, d bulkhead.Digest) ([]byte, error) {
	if raw, ok := r.manifests.Load(d); ok {
		return raw.([]byte), nil
	}
	got, err := r.puller.Get(ctx, r.repository.Digest(string(d)))
	if err != nil {
		return nil, refused(r.repository.RegistryStr(), err)
	}
	r.manifests.Store(d, got.Manifest)
	return got.Manifest, nil
}

func (r *remoteRepository) blob(ctx context.Context, d bulkhead.Digest, _ int64) (io.ReadCloser, error) {
	l, err := r.puller.Layer(ctx, r.repository.Digest(string(d)))
	if err != nil {
		return nil, refused(r.repository.RegistryStr(), err)
	}
	body, err := l.Compressed()
	if err != nil {
		return nil, refused(r.repository.RegistryStr(), err)
	}
	return body, nil
}

// refused says in one line what a registry answered.
func refused(registry string, err error) error {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "%s cannot be reached: %w", registry, cause(err))
	}
	switch answer.StatusCode {
	case http.StatusNotFound:
		return bulkhead.Errorf(bulkhead.ErrNotFound, "%s has no such image", registry)
	case http.StatusUnauthorized, http.StatusForbidden:
		return bulkhead.Errorf(bulkhead.ErrDenied, "%s has no such image or denies it (is `docker login` needed?)", registry)
	}
	return bulkhead.Errorf(bulkhead.ErrUnavailable, "%s answers %d %s", registry, answer.StatusCode, http.StatusText(answer.StatusCode))
}
