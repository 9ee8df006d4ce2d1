package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	gcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	gcrtar "github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"bulkhead"
	"bulkhead/registry"
)

// server is Bulkhead's registry, served on loopback.
type server struct {
	*registry.Registry
	*Target
	dir  string
	sent atomic.Int64 // bytes of request bodies
}

func serve(t *testing.T, config registry.Config) *server {
	t.Helper()
	if config.Dir == "" {
		config.Dir = t.TempDir()
	}
	r, err := registry.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Registry: r, dir: config.Dir}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := req.Body
		req.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(body, meter{&s.sent}), body}
		r.ServeHTTP(w, req)
	}))
	t.Cleanup(h.Close)
	s.Target = &Target{URL: h.URL, Client: h.Client()}
	return s
}

type meter struct{ n *atomic.Int64 }

func (m meter) Write(p []byte) (int, error) {
	m.n.Add(int64(len(p)))
	return len(p), nil
}

// manifests lists what is published.
func (s *server) manifests(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "link" && strings.Contains(path, "_manifests") {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// file is an entry of a layer or archive.
type file struct {
	name string
	body string
	tar.Header
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		h.Name, h.Size = f.name, int64(len(f.body))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstdOf(t testing.TB, raw []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(raw, nil)
}

func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return string(b)
}

// layerOf is a gzip-compressed layer.
func layerOf(t testing.TB, files ...file) v1.Layer {
	t.Helper()
	raw := tarOf(t, files...)
	l, err := gcrtar.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
		gcrtar.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, platform string, layers ...v1.Layer) v1.Image {
	t.Helper()
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Variant = p.OS, p.Architecture, p.Variant
	c.Config.StopSignal = "SIGQUIT"
	c.Config.Volumes = map[string]struct{}{"/data": {}, "/cache": {}}
	c.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}, "53/udp": {}, "443": {}, "x/tcp": {}}
	c.Config.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Second}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func plainImage(t testing.TB) v1.Image {
	t.Helper()
	return imageOf(t, "linux/amd64",
		layerOf(t, file{name: "bin/", Header: tar.Header{Typeflag: tar.TypeDir}}, file{name: "bin/app", body: noise(50_000)}),
		layerOf(t, file{name: "etc/app.conf", body: "colour=blue\n"}))
}

func digest(t testing.TB, x interface{ Digest() (v1.Hash, error) }) bulkhead.Digest {
	t.Helper()
	h, err := x.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return bulkhead.Digest(h.String())
}

// dockerArchive is what docker save wrote before version 25: plain layers, of
// which a second occurrence is a link to the first.
func dockerArchive(t testing.TB, tag string, layers ...[]byte) []byte {
	t.Helper()
	c := map[string]any{"os": "linux", "architecture": "amd64", "config": map[string]any{}}
	var diffIDs, paths []string
	var files []file
	for i, l := range layers {
		diffIDs = append(diffIDs, string(digestOf(l)))
		p := strings.Repeat(string(rune('a'+i)), 8)
		paths = append(paths, p+"/layer.tar")
		if i > 0 && bytes.Equal(l, layers[0]) {
			files = append(files, file{name: p + "/layer.tar", Header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "../aaaaaaaa/layer.tar"}})
			continue
		}
		files = append(files, file{name: p + "/layer.tar", body: string(l)})
	}
	c["rootfs"] = map[string]any{"type": "layers", "diff_ids": diffIDs}
	config := marshal(t, c)
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	files = append(files, file{name: "config.json", body: config},
		file{name: "manifest.json", body: marshal(t, []dockerImage{{Config: "config.json", RepoTags: tags, Layers: paths}})})
	return tarOf(t, files...)
}

func marshal(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func save(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// layoutDir is an OCI layout folder of images and indexes, by name.
func layoutDir(t testing.TB, named map[string]mutate.Appendable) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	p, err := gcrlayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for name, what := range named {
		var options []gcrlayout.Option
		if name != "" {
			options = append(options, gcrlayout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name}))
		}
		switch what := what.(type) {
		case v1.Image:
			err = p.AppendImage(what, options...)
		case v1.ImageIndex:
			err = p.AppendIndex(what, options...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func tarOfDir(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(t testing.TB, o Options) *Finder {
	t.Helper()
	if o.Engine == "" {
		o.Engine = "/nonexistent/docker.sock"
	}
	f, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func find(t testing.TB, f *Finder, reference string) Found {
	t.Helper()
	found, err := f.Find(context.Background(), reference)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReference(t *testing.T) {
	sha := "sha256:" + strings.Repeat("a", 64)
	for _, test := range []struct{ given, repository, tag, digest string }{
		{"redis", "docker.io/library/redis", "latest", ""},
		{"redis:7", "docker.io/library/redis", "7", ""},
		{"shop/web:1.0", "docker.io/shop/web", "1.0", ""},
		{"docker.io/library/redis:7", "docker.io/library/redis", "7", ""},
		{"index.docker.io/library/redis:7", "docker.io/library/redis", "7", ""},
		{"Registry.Example.com/a/b", "registry.example.com/a/b", "latest", ""},
		{"localhost:5000/web:1", "localhost_5000/web", "1", ""},
		{"redis@" + sha, "docker.io/library/redis", "", sha},
		{"redis:7@" + sha, "docker.io/library/redis", "7", sha},
		{"", "", "", ""},
		{"Redis", "", "", ""},
		{"a b", "", "", ""},
		{"redis:", "", "", ""},
		{"../x", "", "", ""},
		{"redis@sha512:" + strings.Repeat("a", 128), "", "", ""},
		{"redis@sha256:abc", "", "", ""},
		{"[::1]:5000/x", "", "", ""},
	} {
		r, err := parseReference(test.given)
		if test.repository == "" {
			if !errors.Is(err, bulkhead.ErrInvalid) {
				t.Errorf("%q: %+v, %v", test.given, r, err)
			}
			continue
		}
		if err != nil || r.repository != test.repository || r.tag != test.tag || string(r.digest) != test.digest {
			t.Errorf("%q: %+v, %v", test.given, r, err)
		}
	}
}

// TestArchives finds and pushes an image from every kind of archive.
func TestArchives(t *testing.T) {
	img := plainImage(t)
	tag, err := name.NewTag("shop/web:1.0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := name.NewTag("docker.io/shop/other:2")
	if err != nil {
		t.Fatal(err)
	}
	compressed := filepath.Join(t.TempDir(), "compressed.tar")
	if err := gcrtar.MultiWriteToFile(compressed, map[name.Tag]v1.Image{tag: img, other: plainImage(t)}); err != nil {
		t.Fatal(err)
	}
	dir := layoutDir(t, map[string]mutate.Appendable{"docker.io/shop/web:1.0": img, "": plainImage(t)})
	solo := layoutDir(t, map[string]mutate.Appendable{"": img})
	layer := tarOf(t, file{name: "a", body: noise(1000)})
	old := dockerArchive(t, "shop/web:1.0", layer, tarOf(t, file{name: "b", body: "b"}), layer)
	// Since version 25 docker save writes a layout with a manifest.json beside it.
	both := layoutDir(t, map[string]mutate.Appendable{"docker.io/shop/web:1.0": img})
	if err := os.WriteFile(filepath.Join(both, "manifest.json"), []byte(`[{"Config":"absent","RepoTags":["shop/web:1.0"]}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, arg string
		layers    int
		digest    bulkhead.Digest // "" where the archive has no manifest
	}{
		{"docker, plain layers", save(t, "old.tar", old), 3, ""},
		{"docker, plain layers, gzip", save(t, "old.tar.gz", gzipOf(t, old)), 3, ""},
		{"docker, podman's name", save(t, "podman.tar", dockerArchive(t, "localhost/shop/web:1.0", layer)), 1, ""},
		{"docker, compressed layers", compressed, 2, ""},
		{"docker, no name", save(t, "unnamed.tar", dockerArchive(t, "", layer)) + "=shop/web:1.0", 1, ""},
		{"docker and layout", save(t, "both.tar", tarOfDir(t, both)), 2, digest(t, img)},
		{"layout folder", dir, 2, digest(t, img)},
		{"layout tar", save(t, "oci.tar", tarOfDir(t, dir)), 2, digest(t, img)},
		{"layout tar, gzip", save(t, "oci.tgz", gzipOf(t, tarOfDir(t, dir))), 2, digest(t, img)},
		{"layout tar, zstd", save(t, "oci.tar.zst", zstdOf(t, tarOfDir(t, dir))), 2, digest(t, img)},
		{"layout folder, no name", solo + "=shop/web:1.0", 2, digest(t, img)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, registry.Config{})
			found := find(t, open(t, Options{Archives: []string{test.arg}, Own: s.Target, Offline: true}), "shop/web:1.0")
			if len(found.manifest.Layers) != test.layers || test.digest != "" && found.Digest != test.digest {
				t.Errorf("found %s with %d layers", found.Digest, len(found.manifest.Layers))
			}
			var last Progress
			image, err := Push(t.Context(), s.Target, found, func(p Progress) { last = p })
			if err != nil {
				t.Fatal(err)
			}
			if last.Done != found.Size || last.Total != found.Size || last.Image != "shop/web:1.0" {
				t.Errorf("last progress %+v of %d bytes", last, found.Size)
			}
			if has, err := s.Has(t.Context(), image.Repository, image.Digest); err != nil || !has {
				t.Errorf("in the registry: %v, %v", has, err)
			}
			if image.Repository != "docker.io/shop/web" || image.Digest != found.Digest {
				t.Errorf("image %+v", image)
			}
			// Pushed again, and then found in our own registry and pushed again.
			for _, o := range []Options{{Archives: []string{test.arg}, Offline: true}, {Own: s.Target, Offline: true}} {
				s.sent.Store(0)
				again := find(t, open(t, o), "shop/web:1.0")
				second, err := Push(t.Context(), s.Target, again, func(p Progress) { last = p })
				if err != nil {
					t.Fatal(err)
				}
				if n := s.sent.Load(); n != 0 {
					t.Errorf("sent %d bytes again", n)
				}
				if last.Done != found.Size || last.Skipped != found.Size {
					t.Errorf("last progress %+v", last)
				}
				if !reflect.DeepEqual(second, image) {
					t.Errorf("second %+v\nfirst  %+v", second, image)
				}
			}
		})
	}
}

func TestImage(t *testing.T) {
	s := serve(t, registry.Config{})
	img := plainImage(t)
	found := find(t, open(t, Options{Archives: []string{layoutDir(t, map[string]mutate.Appendable{"web": img})}}), "web")
	got, err := Push(t.Context(), s.Target, found, nil)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(m.Layers, m.Config) {
		size += d.Size
	}
	n, err := img.Size()
	if err != nil {
		t.Fatal(err)
	}
	want := bulkhead.Image{
		Reference:  "web",
		Repository: "docker.io/library/web",
		Digest:     digest(t, img),
		Size:       size + n,
		Health:     &bulkhead.Health{Test: []string{"CMD", "true"}, Interval: time.Second, Timeout: 30 * time.Second, Retries: 3},
		StopSignal: "SIGQUIT",
		Volumes:    []string{"/cache", "/data"},
		Ports:      []int{443, 8080},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestPlatform: only the nodes' platform is kept, wherever the image comes from.
func TestPlatform(t *testing.T) {
	amd, arm := plainImage(t), imageOf(t, "linux/arm64/v8", layerOf(t, file{name: "arm", body: "arm"}))
	attestation := imageOf(t, "linux/amd64")
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
	)
	upstream := serve(t, registry.Config{})
	host := strings.TrimPrefix(upstream.URL, "http://")
	tag, err := name.ParseReference(host + "/shop/web:1.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, idx); err != nil {
		t.Fatal(err)
	}
	s := serve(t, registry.Config{})
	dir := layoutDir(t, map[string]mutate.Appendable{"web": idx})
	byDigest := "@" + string(digest(t, idx))
	for _, test := range []struct {
		reference, where string
		archives         []string
	}{
		{"web", "archive " + dir, []string{dir}},
		{"web" + byDigest, "archive " + dir, []string{dir}},
		{"web" + byDigest, "Bulkhead's registry", nil},
		{host + "/shop/web:1.0", "the registry named in it", nil},
		{host + "/shop/web:1.0", "Bulkhead's registry", nil},
		{host + "/shop/web" + byDigest, "the registry named in it", nil},
		{host + "/shop/web" + byDigest, "Bulkhead's registry", nil},
	} {
		found := find(t, open(t, Options{Archives: test.archives, Own: s.Target}), test.reference)
		if found.Digest != digest(t, amd) || found.Where != test.where {
			t.Errorf("%s: %s in %s", test.reference, found.Digest, found.Where)
		}
		if test.where != "Bulkhead's registry" && found.Note != "only linux/amd64 is taken, 1 other platforms are left out" {
			t.Errorf("%s: note %q", test.reference, found.Note)
		}
		if _, err := Push(t.Context(), s.Target, found, nil); err != nil {
			t.Fatal(err)
		}
	}
	if has, err := s.Has(t.Context(), "docker.io/library/web", digest(t, arm)); err != nil || has {
		t.Errorf("the other platform was uploaded, too: %v", err)
	}
	f := open(t, Options{Archives: []string{dir}, Offline: true, Platform: Platform{OS: "linux", Architecture: "riscv64"}})
	_, err = f.Find(t.Context(), "web")
	if !errors.Is(err, bulkhead.ErrNotFound) || !strings.Contains(err.Error(), "has it for linux/arm64/v8, linux/amd64, not for linux/riscv64") {
		t.Errorf("for riscv64: %v", err)
	}
}

func TestNowhere(t *testing.T) {
	s := serve(t, registry.Config{})
	dir := layoutDir(t, map[string]mutate.Appendable{"web:1": plainImage(t), "": plainImage(t)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close() // nobody answers there
	_, err = open(t, Options{Archives: []string{dir}, Own: s.Target}).Find(t.Context(), host+"/web:2")
	want := "image " + host + "/web:2 is nowhere to be found: archive " + dir + ": holds an image without a name, web:1; " +
		"Bulkhead's registry: no such image; Docker engine: not running (no /nonexistent/docker.sock); " +
		"the registry named in it: " + host + " cannot be reached: connection refused"
	var user *bulkhead.Error
	if !errors.As(err, &user) || err.Error() != want || user.Hint == "" || !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err := open(t, Options{Offline: true}).Find(t.Context(), "A b"); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("a bad reference: %v", err)
	}
	if _, err := open(t, Options{Own: &Target{URL: "http://" + host}, Offline: true}).Find(t.Context(), "web"); err == nil ||
		!strings.Contains(err.Error(), "Bulkhead's registry does not answer: connection refused") {
		t.Errorf("no server: %v", err)
	}
}

func TestPatience(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := open(t, Options{Own: &Target{URL: "http://" + l.Addr().String()}, Offline: true, Patience: 50 * time.Millisecond})
	if _, err := f.Find(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "no answer in 50ms") {
		t.Errorf("Find: %v", err)
	}
}

func TestBadArchives(t *testing.T) {
	layer := tarOf(t, file{name: "a", body: "a"})
	two := layoutDir(t, map[string]mutate.Appendable{"a": plainImage(t), "b": plainImage(t)})
	for _, test := range []struct{ name, arg, want string }{
		{"absent", "/nonexistent/a.tar", "does not exist"},
		{"text", save(t, "a.txt", []byte("hello")), "not an archive of images"},
		{"empty", save(t, "a.tar", nil), "neither index.json nor manifest.json"},
		{"a folder", t.TempDir(), "neither index.json nor manifest.json"},
		{"some tar", save(t, "b.tar", layer), "neither index.json nor manifest.json"},
		{"no image", save(t, "c.tar", tarOf(t, file{name: "manifest.json", body: "[]"})), "holds no image"},
		{"not JSON", save(t, "d.tar", tarOf(t, file{name: "manifest.json", body: "{"})), "manifest.json"},
		{"gzip of nothing", save(t, "e.tgz", []byte{0x1f, 0x8b, 8, 0}), "unexpected EOF"},
		{"two images and a name", two + "=web", "holds several images"},
		{"a bad name", save(t, "f.tar", dockerArchive(t, "", layer)) + "=A b", "is not valid"},
		{"a bomb", save(t, "g.tgz", gzipOf(t, make([]byte, 3<<20))), "more than 2097152 bytes"},
	} {
		_, err := Open(t.Context(), Options{Archives: []string{test.arg}, Limits: Limits{Bytes: 2 << 20, Entries: 100, Ratio: 1000}})
		if !errors.Is(err, bulkhead.ErrInvalid) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestDamage publishes archives that are cut off or have a byte changed, at many
// places: each either is refused in one line, or was not harmed where it matters.
// Nothing becomes visible of what was refused.
func TestDamage(t *testing.T) {
	img := imageOf(t, "linux/amd64", layerOf(t, file{name: "bin/app", body: noise(6000)}), layerOf(t, file{name: "b", body: noise(3000)}))
	oci := tarOfDir(t, layoutDir(t, map[string]mutate.Appendable{"web": img}))
	docker := dockerArchive(t, "web", tarOf(t, file{name: "bin/app", body: noise(6000)}), tarOf(t, file{name: "b", body: noise(3000)}))
	want := map[string]bulkhead.Digest{}
	publish := func(t *testing.T, s *server, path string) (bulkhead.Image, error) {
		f, err := Open(t.Context(), Options{Archives: []string{path}, Offline: true, Engine: "/nonexistent"})
		if err != nil {
			return bulkhead.Image{}, err
		}
		defer f.Close()
		found, err := f.Find(t.Context(), "web")
		if err != nil {
			return bulkhead.Image{}, err
		}
		return Push(t.Context(), s.Target, found, nil)
	}
	archives := map[string][]byte{"oci.tar": oci, "docker.tar": docker, "oci.tgz": gzipOf(t, oci)}
	for name, whole := range archives {
		image, err := publish(t, serve(t, registry.Config{}), save(t, name, whole))
		if err != nil {
			t.Fatal(err)
		}
		want[name] = image.Digest
	}
	step := 499
	if testing.Short() {
		step = 997
	}
	for name, whole := range archives {
		for kind, damage := range map[string]func(at int) []byte{
			"cut":  func(at int) []byte { return whole[:at] },
			"flip": func(at int) []byte { b := bytes.Clone(whole); b[at] ^= 0x10; return b },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				s := serve(t, registry.Config{})
				path := save(t, name, nil)
				refused := 0
				for at := 0; at < len(whole); at += step {
					if err := os.WriteFile(path, damage(at), 0o600); err != nil {
						t.Fatal(err)
					}
					image, err := publish(t, s, path)
					if err == nil {
						// The changed byte was padding, or a part of an unused header.
						if image.Digest != want[name] {
							t.Errorf("at %d: published another image", at)
						}
						s = serve(t, registry.Config{})
						continue
					}
					refused++
					text := err.Error()
					if strings.Contains(text, "\n") || !strings.Contains(text, path) ||
						bulkhead.KindOf(err) != bulkhead.ErrInvalid && bulkhead.KindOf(err) != bulkhead.ErrNotFound {
						t.Errorf("at %d: %q is of kind %v", at, text, bulkhead.KindOf(err))
					}
					if left := s.manifests(t); len(left) > 0 {
						t.Fatalf("at %d: published %v although %q", at, left, text)
					}
				}
				if refused < len(whole)/step/2 {
					t.Errorf("only %d of %d were refused", refused, len(whole)/step)
				}
			})
		}
	}
}

// TestHostileLayer: a layer that is refused does not slip in by being there
// already when it is pushed again.
func TestHostileLayer(t *testing.T) {
	s := serve(t, registry.Config{})
	evil := tarOf(t, file{name: "ok", body: noise(100_000)}, file{name: "../../etc/cron.d/x", body: "x"})
	path := save(t, "evil.tar", dockerArchive(t, "web", tarOf(t, file{name: "a", body: "a"}), evil))
	found := find(t, open(t, Options{Archives: []string{path}, Offline: true}), "web")
	want := "image web (archive " + path + `): layer 2 of 2 (` + digestOf(evil).Short() + `): entry "../../etc/cron.d/x" has an absolute name or one that climbs with ..`
	for range 2 {
		if _, err := Push(t.Context(), s.Target, found, nil); err == nil || err.Error() != want || !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if left := s.manifests(t); len(left) > 0 {
		t.Errorf("published %v", left)
	}
}

// TestWrongDiffID: a layer that is whole, but not the one that the configuration
// names, would fail on the node.
func TestWrongDiffID(t *testing.T) {
	s := serve(t, registry.Config{})
	img := imageOf(t, "linux/amd64", layerOf(t, file{name: "a", body: "a"}))
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64)
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	found := find(t, open(t, Options{Archives: []string{layoutDir(t, map[string]mutate.Appendable{"web": img})}, Offline: true}), "web")
	for range 2 {
		if _, err := Push(t.Context(), s.Target, found, nil); !errors.Is(err, bulkhead.ErrInvalid) || !strings.Contains(err.Error(), "layer 1 of 1") {
			t.Errorf("Push: %v", err)
		}
	}
	if left := s.manifests(t); len(left) > 0 {
		t.Errorf("published %v", left)
	}
}

// TestSameLayerTwice: what an image names twice is sent once.
func TestSameLayerTwice(t *testing.T) {
	s := serve(t, registry.Config{})
	layer := tarOf(t, file{name: "a", body: noise(100_000)})
	path := save(t, "a.tar", dockerArchive(t, "web", layer, layer, layer))
	if _, err := Push(t.Context(), s.Target, find(t, open(t, Options{Archives: []string{path}, Offline: true}), "web"), nil); err != nil {
		t.Fatal(err)
	}
	if n := s.sent.Load(); n > int64(len(layer))*3/2 {
		t.Errorf("sent %d bytes of layers of %d", n, len(layer))
	}
}

// TestUnwantedUpload: content that was sent whole and then refused is dropped.
func TestUnwantedUpload(t *testing.T) {
	s := serve(t, registry.Config{})
	refused := errors.New("refused")
	content := []byte("content")
	err := repository{s.Target, "docker.io/library/web"}.upload(t.Context(), digestOf(content), int64(len(content)),
		bytes.NewReader(content), func() error { return refused })
	if !errors.Is(err, refused) {
		t.Errorf("upload: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "docker/registry/v2/repositories/docker.io/library/web/_uploads/*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestFullServer(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mount a small file system (needs root): %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	s := serve(t, registry.Config{Dir: dir, Reserve: 1 << 20})
	path := save(t, "big.tar", dockerArchive(t, "web", tarOf(t, file{name: "a", body: noise(16 << 20)})))
	_, err := Push(t.Context(), s.Target, find(t, open(t, Options{Archives: []string{path}, Offline: true}), "web"), nil)
	if !errors.Is(err, bulkhead.ErrExhausted) || !strings.Contains(err.Error(), "disk is full") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Push: %v", err)
	}
	if left := s.manifests(t); len(left) > 0 {
		t.Errorf("published %v", left)
	}
}

// TestTransient: a registry that fails a few times is asked again.
func TestTransient(t *testing.T) {
	r, err := registry.New(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var patches, failures atomic.Int64
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPatch && patches.Add(1) <= 2 {
			failures.Add(1)
			_, _ = io.CopyN(io.Discard, req.Body, 1000)
			http.Error(w, "try later", http.StatusServiceUnavailable)
			return
		}
		r.ServeHTTP(w, req)
	}))
	defer h.Close()
	path := save(t, "a.tar", dockerArchive(t, "web", tarOf(t, file{name: "a", body: noise(100_000)})))
	found := find(t, open(t, Options{Archives: []string{path}, Offline: true}), "web")
	var last Progress
	if _, err := Push(t.Context(), &Target{URL: h.URL}, found, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if failures.Load() != 2 || last.Done != found.Size {
		t.Errorf("%d failures, %+v", failures.Load(), last)
	}
}

func TestDenied(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"the token is not valid"}]}`, http.StatusUnauthorized)
	}))
	defer h.Close()
	found := find(t, open(t, Options{Archives: []string{save(t, "a.tar", dockerArchive(t, "web"))}, Offline: true}), "web")
	if _, err := Push(t.Context(), &Target{URL: h.URL}, found, nil); !errors.Is(err, bulkhead.ErrDenied) {
		t.Errorf("Push: %v", err)
	}
}

func TestCancelledPush(t *testing.T) {
	s := serve(t, registry.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	path := save(t, "a.tar", dockerArchive(t, "web", tarOf(t, file{name: "a", body: noise(4 << 20)})))
	found := find(t, open(t, Options{Archives: []string{path}, Offline: true}), "web")
	_, err := Push(ctx, s.Target, found, func(p Progress) {
		if p.Done > 1<<20 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Push: %v", err)
	}
	if left := s.manifests(t); len(left) > 0 {
		t.Errorf("published %v", left)
	}
}
