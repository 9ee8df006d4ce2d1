// Package registry is the built-in OCI registry: it keeps the images and the
// bundles of releases on disk and serves them under /v2/, by distribution, the
// library behind most registries. It is the only package that imports it.
//
// It does not authorise anybody (the daemon puts that in front), and it does
// not know what a release is: Sweep asks what to keep. Start at New.
package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"bulkhead"
)

// DefaultReserve is how many bytes uploads leave free on the disk: the state of
// the cluster is kept on it, too.
const DefaultReserve = 256 << 20

// DefaultGrace is how long Sweep keeps what nobody refers to yet.
const DefaultGrace = time.Hour

// Config is what New needs.
type Config struct {
	Dir     string        // made if it does not exist
	Logger  *slog.Logger  // gets the library's lines at debug
	Reserve int64         // bytes uploads leave free; default DefaultReserve, below 0: none
	Grace   time.Duration // default DefaultGrace, below 0: none
}

// Registry keeps blobs and manifests below one folder. Its methods may be
// called at the same time.
type Registry struct {
	config    Config
	log       *logrus.Entry
	app       *handlers.App
	driver    *filesystem.Driver
	namespace distribution.Namespace

	// mu is held for reading while a request may add content or learn that content
	// exists, and for writing by Sweep, which takes content away.
	mu sync.RWMutex
}

// New opens the registry in config.Dir. It starts nothing.
func New(config Config) (*Registry, error) {
	config.Reserve = cmp.Or(config.Reserve, DefaultReserve)
	config.Grace = cmp.Or(config.Grace, DefaultGrace)
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the registry: %w", err)
	}
	log := newLog(config.Logger)
	ctx := logged{context.Background(), log}
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: config.Dir, MaxThreads: 100})
	namespace, err := storage.NewRegistry(ctx, driver, storage.EnableDelete)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	return &Registry{
		config: config,
		log:    log,
		app: handlers.NewApp(ctx, &configuration.Configuration{
			Storage: configuration.Storage{
				"filesystem": {"rootdirectory": config.Dir},
				"delete":     {"enabled": true},
				"redirect":   {"disable": true},
				// Sweep removes forsaken uploads; the library's purger is a goroutine.
				"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
			},
			HTTP: configuration.HTTP{
				Secret:       rand.Text(), // signs the state of uploads, which end with the process
				RelativeURLs: true,        // whatever name and scheme the daemon is reached by
			},
		}),
		driver:    driver,
		namespace: namespace,
	}, nil
}

// ServeHTTP serves the OCI distribution protocol under /v2/. An upload that
// would take the disk's last bytes ends with status 507. An upload that breaks off
// leaves nothing; it cannot be resumed.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	req = req.WithContext(logged{req.Context(), r.log})
	if req.Method == http.MethodGet {
		r.app.ServeHTTP(w, req) // a file that is open outlives its removal
		return
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	body := &meter{ReadCloser: req.Body, room: r.room}
	if req.Body == nil {
		body.ReadCloser = http.NoBody
	}
	ask, answer := *req, &answer{ResponseWriter: w}
	ask.Body = body
	if adds(req.Method) && r.room(max(req.ContentLength, 0)) != nil {
		body.full = true
	} else {
		r.app.ServeHTTP(answer, &ask)
	}
	if body.full || bytes.Contains(answer.held.Bytes(), []byte("no space left on device")) {
		r.refuse(w, req)
		return
	}
	if answer.status < 300 {
		r.touch(bulkhead.Digest(w.Header().Get("Docker-Content-Digest")))
	}
	if req.Method == http.MethodDelete || req.Method == http.MethodPatch && answer.status >= 400 {
		r.drop(req) // the sender is gone or gives up; the library would leave something
	}
	answer.release()
}

// drop removes the upload that a request belongs to.
func (r *Registry) drop(req *http.Request) {
	name, upload, ok := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/blobs/uploads/")
	if _, err := reference.WithName(name); ok && err == nil && upload != "" && filepath.IsLocal(upload) {
		_ = os.RemoveAll(filepath.Join(r.config.Dir, root, "repositories", name, "_uploads", upload))
	}
}

func adds(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// room says whether the disk has room for so many bytes more.
func (r *Registry) room(bytes int64) error {
	free, err := freeBytes(r.config.Dir)
	if err == nil && free-bytes < r.config.Reserve {
		return errFull
	}
	return nil // where free space is unknown, writing will tell
}

var errFull = errors.New("no space left on device")

// refuse answers an upload that does not fit, and drops what came of it.
func (r *Registry) refuse(w http.ResponseWriter, req *http.Request) {
	r.drop(req)
	// A client that is cut off while it writes may never read why.
	_, _ = io.Copy(io.Discard, req.Body)
	free, _ := freeBytes(r.config.Dir)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusInsufficientStorage)
	fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"the server's disk is full: %d MiB are free, of which %d MiB are kept back"}]}`+"\n",
		free>>20, max(r.config.Reserve, 0)>>20)
}

// meter reads a body and stops when the disk has no room for more.
type meter struct {
	io.ReadCloser
	room func(int64) error
	seen int64 // bytes since room was last asked
	full bool
}

// stride is how many bytes are taken between two looks at the disk.
const stride = 1 << 20

func (m *meter) Read(p []byte) (int, error) {
	if m.seen += int64(len(p)); m.seen >= stride {
		m.seen = 0
		if err := m.room(stride); err != nil {
			m.full = true
			return 0, err
		}
	}
	return m.ReadCloser.Read(p)
}

// answer holds an error back until it is known whether the disk is its cause.
type answer struct {
	http.ResponseWriter
	status int
	held   bytes.Buffer
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
		if status < 400 {
			a.ResponseWriter.WriteHeader(status)
		}
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.status >= 400 {
		return a.held.Write(p)
	}
	return a.ResponseWriter.Write(p)
}

func (a *answer) release() {
	if a.status >= 400 {
		a.ResponseWriter.WriteHeader(a.status)
		_, _ = a.ResponseWriter.Write(a.held.Bytes())
	}
}

// root is the folder of everything below Dir; distribution's storage/paths.go
// describes the layout.
const root = "docker/registry/v2"

// data is the file that holds the content of a digest, relative to Dir.
func data(d bulkhead.Digest) string {
	hex := strings.TrimPrefix(string(d), "sha256:")
	return root + "/blobs/sha256/" + hex[:2] + "/" + hex + "/data"
}

// touch makes content young, so that Sweep leaves time to refer to it to whoever
// has just been told that it is there. Called with mu held for reading.
func (r *Registry) touch(d bulkhead.Digest) {
	if d.Validate() == nil {
		now := time.Now()
		_ = os.Chtimes(filepath.Join(r.config.Dir, data(d)), now, now)
	}
}

func (r *Registry) repository(ctx context.Context, name string) (distribution.Repository, error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "repository name %q is not valid", name)
	}
	return r.namespace.Repository(ctx, named)
}

// Blob opens a blob of a repository and returns its size in bytes. It is
// ErrNotFound when the repository does not hold it.
func (r *Registry) Blob(ctx context.Context, repository string, d bulkhead.Digest) (io.ReadCloser, int64, error) {
	ctx = logged{ctx, r.log}
	if err := d.Validate(); err != nil {
		return nil, 0, err
	}
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return nil, 0, err
	}
	desc, err := repo.Blobs(ctx).Stat(ctx, digest.Digest(d))
	if err != nil {
		return nil, 0, missing(err, repository, d)
	}
	f, err := os.Open(filepath.Join(r.config.Dir, data(d)))
	if errors.Is(err, fs.ErrNotExist) {
		err = distribution.ErrBlobUnknown // swept since
	}
	if err != nil {
		return nil, 0, missing(err, repository, d)
	}
	return f, desc.Size, nil
}

// Manifest is what a repository holds under a digest.
type Manifest struct {
	MediaType string
	Raw       []byte
	Refers    []Descriptor // configuration and layers, or the manifests of an index
}

// Descriptor addresses a blob.
type Descriptor struct {
	MediaType string
	Digest    bulkhead.Digest
	Size      int64 // bytes
}

// Manifest reads a manifest of a repository. It is ErrNotFound when the
// repository does not hold it.
func (r *Registry) Manifest(ctx context.Context, repository string, d bulkhead.Digest) (Manifest, error) {
	ctx = logged{ctx, r.log}
	if err := d.Validate(); err != nil {
		return Manifest{}, err
	}
	repo, err := r.repository(ctx, repository)
	if err != nil {
		return Manifest{}, err
	}
	manifests, err := repo.Manifests(ctx)
	if err != nil {
		return Manifest{}, fmt.Errorf("open repository %s: %w", repository, err)
	}
	m, err := manifests.Get(ctx, digest.Digest(d))
	if err != nil {
		return Manifest{}, missing(err, repository, d)
	}
	out := Manifest{}
	if out.MediaType, out.Raw, err = m.Payload(); err != nil {
		return Manifest{}, fmt.Errorf("read manifest %s: %w", d, err)
	}
	for _, ref := range m.References() {
		out.Refers = append(out.Refers, Descriptor{ref.MediaType, bulkhead.Digest(ref.Digest), ref.Size})
	}
	return out, nil
}

// Has tells whether a repository holds a manifest and all that it refers to. If
// so, Sweep leaves them alone for the time of grace.
func (r *Registry) Has(ctx context.Context, repository string, d bulkhead.Digest) (bool, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	m, err := r.Manifest(ctx, repository, d)
	if errors.Is(err, bulkhead.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	for _, ref := range m.Refers {
		if ref.Digest.Validate() != nil {
			return false, nil
		}
		if info, err := os.Stat(filepath.Join(r.config.Dir, data(ref.Digest))); err != nil || info.Size() != ref.Size {
			return false, nil
		}
	}
	r.touch(d)
	return true, nil
}

// Artifact opens the one layer of an artifact, such as the bundle of a release,
// and returns its size in bytes.
func (r *Registry) Artifact(ctx context.Context, repository string, d bulkhead.Digest) (io.ReadCloser, int64, error) {
	m, err := r.Manifest(ctx, repository, d)
	if err != nil {
		return nil, 0, err
	}
	if len(m.Refers) != 2 { // configuration and layer
		return nil, 0, bulkhead.Errorf(bulkhead.ErrInvalid, "%s@%s is not an artifact of one layer", repository, d)
	}
	return r.Blob(ctx, repository, m.Refers[1].Digest)
}

func missing(err error, repository string, d bulkhead.Digest) error {
	var unknown distribution.ErrManifestUnknownRevision
	if errors.Is(err, distribution.ErrBlobUnknown) || errors.As(err, &unknown) {
		return bulkhead.Errorf(bulkhead.ErrNotFound, "the registry has no %s@%s", repository, d)
	}
	return fmt.Errorf("read %s@%s: %w", repository, d, err)
}

// Close ends what the registry holds open. Requests must have ended.
func (r *Registry) Close() error { return r.app.Shutdown() }
