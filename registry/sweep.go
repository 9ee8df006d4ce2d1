package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bulkhead"
)

// Swept says what Sweep removed.
type Swept struct {
	Manifests int
	Blobs     int
	Bytes     int64 // of the blobs
}

// Sweep removes the manifests that keep does not name, the blobs that no manifest
// refers to any more, and forsaken uploads; all only when nobody has
// written or asked for them during the time of grace, so that a release that is
// just being published stays whole. While an upload runs it removes nothing and
// returns ErrUnavailable: the caller tries again later.
func (r *Registry) Sweep(ctx context.Context, keep func(repository string, manifest bulkhead.Digest) bool) (Swept, error) {
	if !r.mu.TryLock() {
		return Swept{}, bulkhead.Errorf(bulkhead.ErrUnavailable, "the registry is being written to: sweep later")
	}
	defer r.mu.Unlock()
	s := sweep{
		r:        r,
		vacuum:   storage.NewVacuum(logged{ctx, r.log}, r.driver),
		before:   time.Now().Add(-max(r.config.Grace, 0)),
		referred: map[digest.Digest]bool{},
	}
	ctx = logged{ctx, r.log}
	repositories, ok := r.namespace.(distribution.RepositoryEnumerator)
	if !ok {
		return Swept{}, errors.New("sweep registry: its repositories cannot be listed")
	}
	// Collected first: removing folders under a walk would disturb it.
	var names []string
	if err := known(repositories.Enumerate(ctx, func(name string) error {
		names = append(names, name)
		return nil
	})); err != nil {
		return Swept{}, fmt.Errorf("list repositories: %w", err)
	}
	for _, name := range names {
		if err := s.manifests(ctx, name, keep); err != nil {
			return s.swept, fmt.Errorf("sweep manifests of %s: %w", name, err)
		}
	}
	for _, name := range names {
		if err := s.links(ctx, name); err != nil {
			return s.swept, fmt.Errorf("sweep links of %s: %w", name, err)
		}
		if err := s.uploads(name); err != nil {
			return s.swept, fmt.Errorf("sweep uploads of %s: %w", name, err)
		}
	}
	if err := s.blobs(ctx); err != nil {
		return s.swept, fmt.Errorf("sweep blobs: %w", err)
	}
	return s.swept, nil
}

// sweep is one run of Sweep.
type sweep struct {
	r        *Registry
	vacuum   storage.Vacuum
	before   time.Time              // only older content goes
	referred map[digest.Digest]bool // by a manifest that stays
	swept    Swept
}

// young tells whether content was written or asked for during the time of grace.
func (s *sweep) young(d digest.Digest) bool {
	info, err := os.Stat(filepath.Join(s.r.config.Dir, data(bulkhead.Digest(d))))
	return err == nil && info.ModTime().After(s.before)
}

// manifests removes the manifests of a repository that nobody keeps, and marks
// what the others refer to.
func (s *sweep) manifests(ctx context.Context, name string, keep func(string, bulkhead.Digest) bool) error {
	repo, err := s.r.repository(ctx, name)
	if err != nil {
		return err
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return err
	}
	list, ok := manifests.(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("its manifests cannot be listed")
	}
	var drop []digest.Digest
	if err := known(list.Enumerate(ctx, func(d digest.Digest) error {
		if !keep(name, bulkhead.Digest(d)) && !s.young(d) {
			drop = append(drop, d)
			return nil
		}
		s.referred[d] = true
		m, err := manifests.Get(ctx, d)
		if unknown(err) {
			return nil // nothing is left of it that could refer to anything
		} else if err != nil {
			return fmt.Errorf("read manifest %s: %w", d, err)
		}
		for _, ref := range m.References() {
			s.referred[ref.Digest] = true
		}
		return nil
	})); err != nil {
		return err
	}
	for _, d := range drop {
		tags, err := repo.Tags(ctx).Lookup(ctx, ocispec.Descriptor{Digest: d})
		if err != nil && !unknown(err) {
			return err
		}
		for _, tag := range tags {
			if err := repo.Tags(ctx).Untag(ctx, tag); err != nil {
				return err
			}
		}
		if err := s.vacuum.RemoveManifest(name, d, nil); err != nil {
			return err
		}
		s.swept.Manifests++
	}
	return nil
}

// links removes what makes a repository claim blobs that are about to go.
func (s *sweep) links(ctx context.Context, name string) error {
	repo, err := s.r.repository(ctx, name)
	if err != nil {
		return err
	}
	list, ok := repo.Blobs(ctx).(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("its blobs cannot be listed")
	}
	var drop []digest.Digest
	if err := known(list.Enumerate(ctx, func(d digest.Digest) error {
		if !s.referred[d] && !s.young(d) {
			drop = append(drop, d)
		}
		return nil
	})); err != nil {
		return err
	}
	for _, d := range drop {
		if err := s.vacuum.RemoveLayer(name, d); err != nil {
			return err
		}
	}
	return nil
}

// uploads removes uploads that nobody has written to for the time of grace.
func (s *sweep) uploads(name string) error {
	dir := filepath.Join(s.r.config.Dir, root, "repositories", filepath.FromSlash(name), "_uploads")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		upload := filepath.Join(dir, e.Name())
		last, err := os.Stat(filepath.Join(upload, "data"))
		if err != nil {
			last, err = os.Stat(upload)
		}
		if err == nil && last.ModTime().Before(s.before) {
			if err := os.RemoveAll(upload); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sweep) blobs(ctx context.Context) error {
	var drop []digest.Digest
	if err := known(s.r.namespace.Blobs().Enumerate(ctx, func(d digest.Digest) error {
		if !s.referred[d] && !s.young(d) {
			drop = append(drop, d)
		}
		return nil
	})); err != nil {
		return err
	}
	for _, d := range drop {
		info, err := os.Stat(filepath.Join(s.r.config.Dir, data(bulkhead.Digest(d))))
		if err != nil {
			return err
		}
		if err := s.vacuum.RemoveBlob(string(d)); err != nil {
			return err
		}
		s.swept.Blobs++
		s.swept.Bytes += info.Size()
	}
	return nil
}

// known forgives that something does not exist yet: an empty registry, or
// a repository that an upload has only begun to fill.
func known(err error) error {
	if unknown(err) {
		return nil
	}
	return err
}

func unknown(err error) bool {
	var path driver.PathNotFoundError
	var repository distribution.ErrRepositoryUnknown
	var revision distribution.ErrManifestUnknownRevision
	return errors.As(err, &path) || errors.As(err, &repository) || errors.As(err, &revision)
}
