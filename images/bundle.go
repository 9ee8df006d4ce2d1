package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"bulkhead"
)

// BundleRepository is where the bundles of all products are kept in Bulkhead's
// registry: a bundle is addressed by nothing but its digest. No image has this
// repository, since those begin with a host.
const BundleRepository = "bundles"

const (
	typeBundle      = "application/vnd.bulkhead.bundle.v1"
	typeBundleLayer = typeBundle + ".tar"
)

// Bounds on a bundle.
const (
	maxBundle        = 256 << 20 // bytes, unpacked
	maxBundleEntries = 20_000
)

// PushBundle uploads the bundle of a release, a tar of regular files, folders
// and symbolic links that stay inside, unless it is there already. It returns the
// digest of the artifact that holds the tar, and the tar's size in bytes. Equal
// tars have equal digests. A tar that a node could not unpack is ErrInvalid.
func PushBundle(ctx context.Context, target *Target, r io.Reader) (bulkhead.Digest, int64, error) {
	f, err := spool(ctx, r, maxBundle)
	if err != nil {
		return "", 0, bulkhead.Errorf(bulkhead.ErrInvalid, "the project's files cannot be bundled: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	dir, err := os.MkdirTemp("", "bulkhead-*")
	if err != nil {
		return "", 0, fmt.Errorf("check bundle: %w", err)
	}
	defer os.RemoveAll(dir)
	hash := sha256.New()
	count := &counter{Reader: io.TeeReader(f, hash)}
	if err := unpack(count, dir); err != nil {
		return "", 0, err
	}
	layer := descriptor{MediaType: typeBundleLayer, Digest: bulkhead.Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))), Size: count.n}
	empty := []byte("{}") // as manifest.md of the OCI specification wants it
	m := manifest{
		SchemaVersion: 2,
		MediaType:     typeManifest,
		ArtifactType:  typeBundle,
		Config:        descriptor{MediaType: typeEmpty, Digest: digestOf(empty), Size: int64(len(empty))},
		Layers:        []descriptor{layer},
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return "", 0, fmt.Errorf("describe bundle: %w", err)
	}
	repo := repository{target, BundleRepository}
	d := digestOf(raw)
	switch _, err := repo.head(ctx, manifestPath(repo.name, string(d))); {
	case err == nil:
		return d, layer.Size, nil
	case !errors.Is(err, bulkhead.ErrNotFound):
		return "", 0, err
	}
	if err := repo.ensure(ctx, m.Config, func() io.Reader { return bytesBlob(empty) }); err != nil {
		return "", 0, err
	}
	if err := repo.ensure(ctx, layer, func() io.Reader { return io.NewSectionReader(f, 0, layer.Size) }); err != nil {
		return "", 0, err
	}
	return d, layer.Size, repo.put(ctx, string(d), m.MediaType, raw)
}

// ensure uploads content that is known to be right, if it is missing.
func (r repository) ensure(ctx context.Context, d descriptor, content func() io.Reader) error {
	return retry(ctx, func() error {
		if have, err := r.has(ctx, d.Digest); have || err != nil {
			return err
		}
		return r.upload(ctx, d.Digest, d.Size, content(), func() error { return nil })
	})
}

// Bundles keeps the bundles of releases unpacked on a node, each in a folder
// named after its digest. It is the agent's Files.
type Bundles struct {
	dir    string
	server *Target

	mu sync.RWMutex // held for writing by Sweep, which removes folders
}

// NewBundles keeps bundles below dir, which is made when needed, and gets them
// from server.
func NewBundles(dir string, server *Target) *Bundles { return &Bundles{dir: dir, server: server} }

// Bundle makes sure the bundle is on this node, unpacked and read-only, and
// returns its folder. A folder is whole or not there at all.
func (b *Bundles) Bundle(ctx context.Context, d bulkhead.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	dir := filepath.Join(b.dir, folderOf(d))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder of bundles: %w", err)
	}
	temp, err := os.MkdirTemp(b.dir, unfinished)
	if err != nil {
		return "", fmt.Errorf("make folder of bundle: %w", err)
	}
	defer os.RemoveAll(temp)
	if err := retry(ctx, func() error {
		return errors.Join(os.RemoveAll(temp), os.Mkdir(temp, 0o700), fetch(ctx, b.server, d, temp))
	}); err != nil {
		return "", fmt.Errorf("get bundle %s: %w", d.Short(), err)
	}
	if err := os.Rename(temp, dir); err != nil {
		if _, gone := os.Stat(dir); gone != nil { // else another call was first
			return "", fmt.Errorf("keep bundle %s: %w", d.Short(), err)
		}
	}
	return dir, nil
}

// Sweep removes the bundles that keep does not name, and leftovers.
func (b *Bundles) Sweep(keep func(bulkhead.Digest) bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	entries, err := os.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !keep(bulkhead.Digest(strings.Replace(e.Name(), "-", ":", 1))) {
			errs = append(errs, os.RemoveAll(filepath.Join(b.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// unfinished is the prefix of the folder that a bundle is unpacked into.
const unfinished = ".new-"

func folderOf(d bulkhead.Digest) string { return strings.Replace(string(d), ":", "-", 1) }

// fetch unpacks a bundle of server into the empty folder dir.
func fetch(ctx context.Context, server *Target, d bulkhead.Digest, dir string) error {
	repo := repository{server, BundleRepository}
	raw, err := repo.manifest(ctx, d)
	if err != nil {
		return err
	}
	var m manifest
	if digestOf(raw) != d || json.Unmarshal(raw, &m) != nil || len(m.Layers) != 1 || m.Layers[0].MediaType != typeBundleLayer {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%s is not a bundle", d)
	}
	layer := m.Layers[0]
	body, err := repo.blob(ctx, layer.Digest, layer.Size)
	if err != nil {
		return err
	}
	defer body.Close()
	hash := sha256.New()
	if err := unpack(io.TeeReader(body, hash), dir); err != nil {
		return err
	}
	if "sha256:"+hex.EncodeToString(hash.Sum(nil)) != string(layer.Digest) {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "the bundle arrived damaged")
	}
	return nil
}

// unpack reads a tar to its end and writes what it holds below dir, read-only.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack bundle: %w", err)
	}
	defer root.Close()
	u := unpacking{root: root}
	limited := &io.LimitedReader{R: r, N: maxBundle + 1<<20}
	for t, n := tar.NewReader(limited), 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "the bundle is truncated or corrupt: %s", oneLine(err))
		}
		if n == maxBundleEntries {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "the bundle has more than %d entries", maxBundleEntries)
		}
		if err := u.entry(h, t); errors.Is(err, syscall.ENOSPC) {
			return bulkhead.Errorf(bulkhead.ErrExhausted, "unpack bundle: the disk is full")
		} else if err != nil {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "bundle entry %q: %w", h.Name, err)
		}
	}
	if err := u.finish(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "reading the bundle broke off: %s", oneLine(cause(err)))
	}
	return nil
}

type unpacking struct {
	root    *os.Root
	folders []string
	links   []string
	bytes   int64
}

func (u *unpacking) entry(h *tar.Header, content io.Reader) error {
	name, ok := inside(h.Name)
	if !ok || len(name) > maxName {
		return errors.New("its name is absolute, too long or climbs above the root")
	}
	if u.bytes += h.Size; u.bytes > maxBundle {
		return fmt.Errorf("the bundle has more than %d bytes", maxBundle)
	}
	if dir := path.Dir(name); dir != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		u.folders = append(u.folders, name)
		return u.root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if _, err = io.Copy(f, content); errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the bundle is truncated")
		}
		mode := fs.FileMode(0o444)
		if h.Mode&0o111 != 0 {
			mode = 0o555
		}
		// Synced, because the folder's name promises that it is whole.
		return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	case tar.TypeSymlink:
		u.links = append(u.links, name)
		return u.root.Symlink(h.Linkname, name)
	}
	return errors.New("it is neither a file nor a folder nor a symbolic link")
}

// finish checks that links stay inside, now that all files are there, and takes
// the right to write away.
func (u *unpacking) finish() error {
	for _, name := range u.links {
		if _, err := u.root.Stat(name); err != nil {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "bundle entry %q is a symbolic link that leads nowhere or out of the project", name)
		}
	}
	for _, name := range slices.Backward(u.folders) {
		if err := u.root.Chmod(name, 0o555); err != nil {
			return fmt.Errorf("unpack bundle: %w", err)
		}
	}
	return nil
}
