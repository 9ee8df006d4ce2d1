package containerd

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"bulkhead"
	"bulkhead/imagebuild"
)

// counter counts requests.
type counter struct{ requests atomic.Int64 }

func (c *counter) RoundTrip(request *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return http.DefaultTransport.RoundTrip(request)
}

func TestPull(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	transport := &counter{}
	n.runtime.config.Client = &http.Client{Transport: transport}
	i := n.push("two:1", probeImage(t, imagebuild.Spec{Files: []imagebuild.File{{Path: "/two", Content: []byte("2")}}}))

	var group errgroup.Group
	for range 8 {
		group.Go(func() error { return n.runtime.Pull(ctx, i) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	once := transport.requests.Load()
	if once == 0 || once > 4 { // manifest (twice: HEAD and GET), configuration, layer
		t.Errorf("8 pulls at once took %d requests", once)
	}
	n.registry.Close()
	n.open() // with nothing in memory
	if err := n.runtime.Pull(ctx, i); err != nil {
		t.Errorf("image that is here, without registry: %v", err)
	}
	c := n.container("acme", "read", "/two")
	c.Service.Image = i
	if got := n.output(c); got != "2" {
		t.Errorf("image has %q", got)
	}
	i.Digest = "sha256:" + bulkhead.Digest(strings.Repeat("0", 64))
	if err := n.runtime.Pull(ctx, i); err == nil {
		t.Error("pull without registry succeeds")
	}
}

func TestPullIndex(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	index := func(platforms ...string) bulkhead.Image {
		t.Helper()
		var all v1.ImageIndex = empty.Index
		for _, architecture := range platforms {
			spec := imagebuild.Spec{Architecture: architecture, Files: []imagebuild.File{{Path: "/arch", Content: []byte(architecture)}}}
			all = mutate.AppendManifests(all, mutate.IndexAddendum{
				Add:        probeImage(t, spec),
				Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
			})
		}
		digest, err := all.Digest()
		if err != nil {
			t.Fatal(err)
		}
		target, err := name.ParseReference(strings.TrimPrefix(n.registry.URL, "http://") + "/multi:1")
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(target, all); err != nil {
			t.Fatal(err)
		}
		return bulkhead.Image{Reference: "multi:1", Repository: "multi", Digest: bulkhead.Digest(digest.String())}
	}
	i := index("s390x", "amd64", "arm64")
	if err := n.runtime.Pull(ctx, i); err != nil {
		t.Fatal(err)
	}
	c := n.container("acme", "read", "/arch")
	c.Service.Image = i
	if got := n.output(c); got != "amd64" && got != "arm64" {
		t.Errorf("chosen architecture is %q", got)
	}
	if err := n.runtime.Pull(ctx, index("s390x")); !errors.Is(err, bulkhead.ErrInvalid) || !strings.HasPrefix(err.Error(), "image multi:1 has no variant for linux/") {
		t.Errorf("foreign platform: %v", err)
	}
	missing := i
	missing.Digest = "sha256:" + bulkhead.Digest(strings.Repeat("0", 64))
	if err := n.runtime.Pull(ctx, missing); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("missing image: %v", err)
	}
}

// TestPullCorrupt serves a layer with other content than its digest says.
func TestPullCorrupt(t *testing.T) {
	n := newNode(t)
	i := n.push("bad:1", probeImage(t, imagebuild.Spec{Files: []imagebuild.File{{Path: "/bad", Content: []byte("bad")}}}))
	good := n.registry.Config.Handler
	n.registry.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			good.ServeHTTP(&flipper{ResponseWriter: w}, r)
			return
		}
		good.ServeHTTP(w, r)
	})
	if err := n.runtime.Pull(t.Context(), i); err == nil {
		t.Fatal("a corrupt image was taken")
	}
	c := n.container("acme", "sleep")
	c.Service.Image = i
	if err := n.runtime.Prepare(t.Context(), c); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("prepare: %v", err)
	}
	n.registry.Config.Handler = good
	if err := n.runtime.Pull(t.Context(), i); err != nil {
		t.Errorf("pull of the mended image: %v", err)
	}
}

// flipper changes the last byte of every write.
type flipper struct{ http.ResponseWriter }

func (f *flipper) Write(p []byte) (int, error) {
	changed := append([]byte(nil), p...)
	changed[len(changed)-1] ^= 1
	return f.ResponseWriter.Write(changed)
}
