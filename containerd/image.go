package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/moby/sys/user"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"bulkhead"
)

// image is what is known of an image that is on this node.
type image struct {
	reference string // as people wrote it
	chain     string // the snapshot that holds its file system
	config    ocispec.ImageConfig
	passwd    []byte // of its /etc; nil if it has none
	group     []byte
}

// imageCache holds images by digest; they never change. The zero value is ready.
type imageCache struct {
	mu     sync.Mutex
	images map[bulkhead.Digest]*image // guarded by mu
}

func (c *imageCache) get(digest bulkhead.Digest) *image {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.images[digest]
}

func (c *imageCache) put(digest bulkhead.Digest, i *image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images == nil || len(c.images) >= 1000 { // a bound, not a strategy
		c.images = map[bulkhead.Digest]*image{}
	}
	c.images[digest] = i
}

func (c *imageCache) delete(digest bulkhead.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.images, digest)
}

// imageName is an image's name in containerd. Its host stands for the built-in
// registry at whatever address that has today.
func imageName(i bulkhead.Image) string {
	return "registry.bulkhead.internal/" + i.Repository + "@" + string(i.Digest)
}

// Pull implements agent.Runtime. An image that is here takes no network. The
// image's name in containerd keeps the garbage collector away from it.
func (r *Runtime) Pull(ctx context.Context, i bulkhead.Image) error {
	if err := i.Digest.Validate(); err != nil {
		return err
	}
	unlock, err := r.locks.lock(ctx, string(i.Digest))
	if err != nil {
		return err
	}
	defer unlock()
	known, err := r.image(ctx, i)
	if err != nil && !errors.Is(err, bulkhead.ErrNotFound) {
		return err
	}
	if known != nil {
		_, err := r.client.SnapshotService(r.snapshotter).Stat(ctx, known.chain)
		if err == nil {
			return nil
		}
		if !errdefs.IsNotFound(err) {
			return fmt.Errorf("look for image %s: %w", i.Reference, fault(err))
		}
	}
	r.images.delete(i.Digest)
	_, err = r.client.Pull(quiet(ctx), imageName(i),
		client.WithResolver(r.resolver()),
		client.WithPlatformMatcher(platforms.Default()),
		client.WithPullUnpack,
		client.WithPullSnapshotter(r.snapshotter))
	if err != nil {
		r.dropBroken(context.WithoutCancel(ctx))
		return pullFault(i, err)
	}
	_, err = r.image(ctx, i)
	return err
}

// quiet keeps containerd's client from writing to standard error: what matters
// is in its errors.
func quiet(ctx context.Context) context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return log.WithLogger(ctx, logrus.NewEntry(logger))
}

// resolver finds every image in the built-in registry.
func (r *Runtime) resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: func(string) ([]docker.RegistryHost, error) {
			return []docker.RegistryHost{{
				Client:       r.config.Client,
				Scheme:       r.registry.Scheme,
				Host:         r.registry.Host,
				Path:         strings.TrimSuffix(r.registry.Path, "/") + "/v2",
				Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			}}, nil
		},
	})
}

// dropBroken drops downloads that are complete and yet were not taken: their
// content is not what it should be, and the next attempt would use it again.
func (r *Runtime) dropBroken(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	store := r.client.ContentStore()
	downloads, err := store.ListStatuses(ctx)
	if err != nil {
		r.log.Warn("list downloads", "error", err)
	}
	for _, d := range downloads {
		if d.Total > 0 && d.Offset >= d.Total {
			if err := store.Abort(ctx, d.Ref); err != nil && !errdefs.IsNotFound(err) {
				r.log.Warn("drop download", "download", d.Ref, "error", err)
			}
		}
	}
}

func pullFault(i bulkhead.Image, err error) error {
	message := err.Error()
	switch {
	case strings.Contains(message, "no match for platform"):
		fault := bulkhead.Errorf(bulkhead.ErrInvalid, "image %s has no variant for linux/%s", i.Reference, runtime.GOARCH)
		fault.Cause = err
		return fault.WithHint("publish the release with an image for this platform")
	case errdefs.IsNotFound(err):
		fault := bulkhead.Errorf(bulkhead.ErrNotFound, "image %s (%s) is not in the registry", i.Reference, i.Digest.Short())
		fault.Cause = err
		return fault.WithHint("publish the release again")
	}
	return fmt.Errorf("pull image %s: %w", i.Reference, fault(err))
}

// image is what is known of an image; ErrNotFound when it is not on this node.
func (r *Runtime) image(ctx context.Context, i bulkhead.Image) (*image, error) {
	if known := r.images.get(i.Digest); known != nil {
		return known, nil
	}
	known, err := r.readImage(ctx, i)
	if errdefs.IsNotFound(err) {
		return nil, bulkhead.Errorf(bulkhead.ErrNotFound, "image %s is not on this node", i.Reference)
	}
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", i.Reference, fault(err))
	}
	r.images.put(i.Digest, known)
	return known, nil
}

func (r *Runtime) readImage(ctx context.Context, i bulkhead.Image) (*image, error) {
	store := r.client.ContentStore()
	found, err := r.client.ImageService().Get(ctx, imageName(i))
	if err != nil {
		return nil, err
	}
	descriptor, err := images.Config(ctx, store, found.Target, platforms.Default())
	if err != nil {
		return nil, err
	}
	blob, err := content.ReadBlob(ctx, store, descriptor)
	if err != nil {
		return nil, err
	}
	var file ocispec.Image
	if err := json.Unmarshal(blob, &file); err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "image %s: its configuration is not readable", i.Reference)
	}
	known := &image{
		reference: i.Reference,
		chain:     identity.ChainID(file.RootFS.DiffIDs).String(),
		config:    file.Config,
	}
	err = r.view(ctx, known, func(root string) (err error) {
		if known.passwd, err = readBelow(root, "/etc/passwd"); err != nil {
			return err
		}
		known.group, err = readBelow(root, "/etc/group")
		return err
	})
	if err != nil {
		return nil, err
	}
	return known, nil
}

// view mounts an image's file system, read-only, while do looks at it.
func (r *Runtime) view(ctx context.Context, i *image, do func(root string) error) error {
	ctx, done, err := r.client.WithLease(ctx) // removes the snapshot even if we do not
	if err != nil {
		return fmt.Errorf("make lease: %w", err)
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	snapshots := r.client.SnapshotService(r.snapshotter)
	key := "view-" + randomName()
	mounts, err := snapshots.View(ctx, key, i.chain)
	if err != nil {
		return fmt.Errorf("view file system: %w", err)
	}
	defer func() { _ = snapshots.Remove(context.WithoutCancel(ctx), key) }()
	return mount.WithReadonlyTempMount(ctx, mounts, do)
}

// readBelow reads a file of an image. A missing file is nil; a link never leads
// out of root, and not more than 1 MiB are read.
func readBelow(root, path string) ([]byte, error) {
	file, err := openBelow(root, path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, 1<<20))
}

// openBelow opens a regular file of an image without leaving root.
func openBelow(root, path string) (*os.File, error) {
	real, err := continuity.RootPath(root, path)
	if err != nil {
		return nil, err
	}
	// Non-blocking, since an image may hold a pipe under any name.
	file, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, fs.ErrNotExist
	}
	return file, nil
}

// execUser is the user that a service runs as, with its groups, as Docker reads it.
func (i *image) execUser(spec string) (*user.ExecUser, error) {
	found, err := user.GetExecUser(spec, nil, bytes.NewReader(i.passwd), bytes.NewReader(i.group))
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "user %q is not in image %s", spec, i.reference).
			WithHint("name a user of the image's /etc/passwd, or a number")
	}
	return found, nil
}
