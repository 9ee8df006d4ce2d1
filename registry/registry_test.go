package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"bulkhead"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// client speaks the OCI distribution protocol with one repository.
type client struct {
	t    *testing.T
	url  string
	name string
}

func serve(t *testing.T, config Config) (*Registry, client) {
	t.Helper()
	if config.Dir == "" {
		config.Dir = t.TempDir()
	}
	r, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(r)
	t.Cleanup(func() {
		s.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, client{t, s.URL, "docker.io/library/redis"}
}

func (c client) do(method, path, mediaType string, body io.Reader) (*http.Response, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(text)
}

// patch begins an upload and sends body.
func (c client) patch(body io.Reader) (*http.Response, string) {
	c.t.Helper()
	resp, text := c.do("POST", "/v2/"+c.name+"/blobs/uploads/", "", nil)
	if resp.StatusCode != http.StatusAccepted {
		return resp, text
	}
	return c.do("PATCH", resp.Header.Get("Location"), "application/octet-stream", body)
}

func (c client) push(content []byte) bulkhead.Digest {
	c.t.Helper()
	resp, text := c.patch(bytes.NewReader(content))
	if resp.StatusCode != http.StatusAccepted {
		c.t.Fatalf("PATCH: %s: %s", resp.Status, text)
	}
	d := digestOf(content)
	if resp, text = c.do("PUT", resp.Header.Get("Location")+"&digest="+string(d), "", nil); resp.StatusCode != http.StatusCreated {
		c.t.Fatalf("PUT: %s: %s", resp.Status, text)
	}
	return d
}

// image pushes a manifest of layers and tags it.
func (c client) image(tag string, layers ...[]byte) bulkhead.Digest {
	c.t.Helper()
	describe := func(mediaType string, content []byte) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": c.push(content), "size": len(content)}
	}
	var l []any
	for _, content := range layers {
		l = append(l, describe("application/vnd.oci.image.layer.v1.tar", content))
	}
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "layers": l,
		"config": describe("application/vnd.oci.image.config.v1+json", []byte(`{"config":"`+tag+`"}`)),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if resp, text := c.do("PUT", "/v2/"+c.name+"/manifests/"+tag, manifestType, bytes.NewReader(raw)); resp.StatusCode != http.StatusCreated {
		c.t.Fatalf("PUT manifest: %s: %s", resp.Status, text)
	}
	return digestOf(raw)
}

func (c client) status(method, path string) int {
	c.t.Helper()
	resp, _ := c.do(method, path, "", nil)
	return resp.StatusCode
}

func digestOf(content []byte) bulkhead.Digest {
	sum := sha256.Sum256(content)
	return bulkhead.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestPushAndRead(t *testing.T) {
	ctx := t.Context()
	r, c := serve(t, Config{})
	layer := random(100_000)
	d := c.image("7", layer)

	m, err := r.Manifest(ctx, c.name, d)
	if err != nil || m.MediaType != manifestType || len(m.Refers) != 2 || digestOf(m.Raw) != d {
		t.Fatalf("Manifest = %+v, %v", m, err)
	}
	blob, size, err := r.Blob(ctx, c.name, digestOf(layer))
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if got, err := io.ReadAll(blob); err != nil || size != int64(len(layer)) || !bytes.Equal(got, layer) {
		t.Errorf("Blob: %d bytes, size %d, %v", len(got), size, err)
	}
	artifact, size, err := r.Artifact(ctx, c.name, d)
	if err != nil || size != int64(len(layer)) {
		t.Fatalf("Artifact: size %d, %v", size, err)
	}
	artifact.Close()

	for _, test := range []struct {
		name       string
		repository string
		digest     bulkhead.Digest
		has        bool
	}{
		{"there", c.name, d, true},
		{"other repository", "docker.io/library/other", d, false},
		{"never pushed", c.name, digestOf([]byte("never")), false},
		{"a layer", c.name, digestOf(layer), false},
	} {
		if has, err := r.Has(ctx, test.repository, test.digest); err != nil || has != test.has {
			t.Errorf("%s: Has = %v, %v", test.name, has, err)
		}
	}
	if _, _, err := r.Blob(ctx, "docker.io/library/other", digestOf(layer)); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("Blob of another repository: %v", err)
	}
	if _, err := r.Manifest(ctx, "../etc", d); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("Manifest of ../etc: %v", err)
	}
	if _, _, err := r.Blob(ctx, c.name, "sha256:../../x"); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("Blob of a bad digest: %v", err)
	}
	// A layer that is lost makes the whole release incomplete.
	if err := os.Remove(filepath.Join(r.config.Dir, data(digestOf(layer)))); err != nil {
		t.Fatal(err)
	}
	if has, err := r.Has(ctx, c.name, d); err != nil || has {
		t.Errorf("with a lost layer: Has = %v, %v", has, err)
	}
}

func TestCorruptUploadIsRefused(t *testing.T) {
	_, c := serve(t, Config{})
	resp, _ := c.patch(strings.NewReader("some content"))
	other := digestOf([]byte("other content"))
	if resp, text := c.do("PUT", resp.Header.Get("Location")+"&digest="+string(other), "", nil); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("PUT with a wrong digest: %s: %s", resp.Status, text)
	}
	if status := c.status("HEAD", "/v2/"+c.name+"/blobs/"+string(other)); status != http.StatusNotFound {
		t.Errorf("HEAD: %d", status)
	}
}

func TestBrokenUploadLeavesNothing(t *testing.T) {
	r, c := serve(t, Config{})
	resp, _ := c.do("POST", "/v2/"+c.name+"/blobs/uploads/", "", nil)
	body, w := io.Pipe()
	req, err := http.NewRequest("PATCH", c.url+resp.Header.Get("Location"), body)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = w.Write(random(1 << 20))
		w.CloseWithError(errors.New("broke off"))
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		t.Fatalf("PATCH: %s", resp.Status)
	}
	for deadline := time.Now().Add(10 * time.Second); ; { // until the server has noticed
		left, err := os.ReadDir(filepath.Join(r.config.Dir, root, "repositories", c.name, "_uploads"))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %v", left)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestTwoRegistries shows that nothing of a registry is global, and that its
// library says nothing behind our back.
func TestTwoRegistries(t *testing.T) {
	var global, debug bytes.Buffer
	logrus.SetOutput(&global)
	t.Cleanup(func() { logrus.SetOutput(os.Stderr) })
	_, one := serve(t, Config{Logger: slog.New(slog.NewTextHandler(&debug, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	_, two := serve(t, Config{})
	d := one.push([]byte("content"))
	two.image("7", random(10))
	if status := one.status("HEAD", "/v2/"+one.name+"/blobs/"+string(d)); status != http.StatusOK {
		t.Errorf("in the one: %d", status)
	}
	if status := two.status("HEAD", "/v2/"+two.name+"/blobs/"+string(d)); status != http.StatusNotFound {
		t.Errorf("in the other: %d", status)
	}
	if global.Len() > 0 {
		t.Errorf("the process's logger got %s", global.String())
	}
	if !strings.Contains(debug.String(), "response completed") || strings.Contains(debug.String(), "level=INFO") {
		t.Errorf("our logger got %q", debug.String())
	}
}

// smallDisk mounts a file system of so many bytes.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatalf("mount a small file system (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	for _, test := range []struct {
		name    string
		reserve int64
		body    io.Reader
	}{
		{"known size", 1 << 20, bytes.NewReader(random(16 << 20))},
		{"unknown size", 1 << 20, io.MultiReader(bytes.NewReader(random(16 << 20)))},
		{"no reserve, known size", -1, bytes.NewReader(random(16 << 20))},
		{"no reserve, unknown size", -1, io.MultiReader(bytes.NewReader(random(16 << 20)))},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, c := serve(t, Config{Dir: smallDisk(t, 8<<20), Reserve: test.reserve})
			resp, text := c.patch(test.body)
			if resp.StatusCode != http.StatusInsufficientStorage || !strings.Contains(text, "disk is full") {
				t.Errorf("PATCH: %s: %s", resp.Status, text)
			}
			var left []string
			_ = filepath.WalkDir(r.config.Dir, func(path string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					left = append(left, path)
				}
				return nil
			})
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			// What fits still goes in.
			c.image("7", random(100_000))
		})
	}
}

// TestKernelRefuses lets a write fail that the look at free space let through.
func TestKernelRefuses(t *testing.T) {
	r, c := serve(t, Config{Dir: smallDisk(t, 8<<20), Reserve: -1})
	resp, _ := c.do("POST", "/v2/"+c.name+"/blobs/uploads/", "", nil)
	// The body is shorter than a stride, so that nobody looks again.
	body := &gate{Reader: bytes.NewReader(random(stride / 2)), open: func() {
		if err := os.WriteFile(filepath.Join(r.config.Dir, "ballast"), random(8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("fill disk: %v", err)
		}
	}}
	resp, text := c.do("PATCH", resp.Header.Get("Location"), "application/octet-stream", body)
	if resp.StatusCode != http.StatusInsufficientStorage || !strings.Contains(text, "disk is full") {
		t.Errorf("PATCH: %s: %s", resp.Status, text)
	}
}

// gate calls open before the first byte is read.
type gate struct {
	io.Reader
	open func()
}

func (g *gate) Read(p []byte) (int, error) {
	if g.open != nil {
		g.open()
		g.open = nil
	}
	return g.Reader.Read(p)
}

func TestSweep(t *testing.T) {
	ctx := t.Context()
	r, c := serve(t, Config{Grace: -1})
	shared, first, second, loose := random(1000), random(2000), random(3000), random(4000)
	old := c.image("6", shared, first)
	kept := c.image("7", shared, second)
	other := client{t, c.url, "docker.io/library/other"}
	also := other.image("1", first) // the blob of old has another friend
	c.push(loose)
	c.patch(bytes.NewReader(random(5000))) // an upload that nobody ends

	swept, err := r.Sweep(ctx, func(repository string, d bulkhead.Digest) bool {
		return repository == c.name && d == kept || repository == other.name && d == also
	})
	if err != nil {
		t.Fatal(err)
	}
	if swept.Manifests != 1 || swept.Blobs != 3 { // old, its configuration, loose
		t.Errorf("swept %+v", swept)
	}
	for name, want := range map[string]int{
		"/v2/" + c.name + "/manifests/6":                          http.StatusNotFound,
		"/v2/" + c.name + "/manifests/" + string(old):             http.StatusNotFound,
		"/v2/" + c.name + "/blobs/" + string(digestOf(loose)):     http.StatusNotFound,
		"/v2/" + c.name + "/blobs/" + string(digestOf(shared)):    http.StatusOK,
		"/v2/" + c.name + "/blobs/" + string(digestOf(second)):    http.StatusOK,
		"/v2/" + other.name + "/blobs/" + string(digestOf(first)): http.StatusOK,
	} {
		req, _ := http.NewRequest("HEAD", c.url+name, nil)
		req.Header.Set("Accept", manifestType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("HEAD %s: %d, want %d", name, resp.StatusCode, want)
		}
	}
	for _, i := range []struct {
		repository string
		digest     bulkhead.Digest
	}{{c.name, kept}, {other.name, also}} {
		if has, err := r.Has(ctx, i.repository, i.digest); err != nil || !has {
			t.Errorf("%s is no longer whole: %v", i.repository, err)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(r.config.Dir, root, "repositories", c.name, "_uploads")); len(left) > 0 {
		t.Errorf("uploads left: %v", left)
	}
	// What was removed can be pushed again.
	if d := c.image("6", shared, first); d != old {
		t.Fatalf("pushed again: %s, want %s", d, old)
	}
	if has, err := r.Has(ctx, c.name, old); err != nil || !has {
		t.Errorf("pushed again: Has = %v, %v", has, err)
	}
}

func TestSweepOfNothing(t *testing.T) {
	r, _ := serve(t, Config{Grace: -1})
	swept, err := r.Sweep(t.Context(), func(string, bulkhead.Digest) bool { return false })
	if err != nil || swept != (Swept{}) {
		t.Errorf("Sweep = %+v, %v", swept, err)
	}
}

// TestSweepGrace: what somebody is being told about must not go, though no
// release names it yet.
func TestSweepGrace(t *testing.T) {
	r, c := serve(t, Config{Grace: time.Minute})
	d := c.image("7", random(1000))
	none := func(string, bulkhead.Digest) bool { return false }
	age := func() {
		past := time.Now().Add(-time.Hour)
		if err := filepath.WalkDir(r.config.Dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(path, past, past))
		}); err != nil {
			t.Fatal(err)
		}
	}
	ask := map[string]func(){
		"just pushed": func() {},
		"HEAD":        func() { age(); c.head("7") },
		"Has": func() {
			age()
			if has, err := r.Has(t.Context(), c.name, d); !has || err != nil {
				t.Fatalf("Has = %v, %v", has, err)
			}
		},
		"pushed again": func() {
			m, err := r.Manifest(t.Context(), c.name, d)
			if err != nil {
				t.Fatal(err)
			}
			age()
			c.do("PUT", "/v2/"+c.name+"/manifests/8", manifestType, bytes.NewReader(m.Raw))
		},
	}
	for name, ask := range ask {
		ask()
		if swept, err := r.Sweep(t.Context(), none); err != nil || swept.Blobs+swept.Manifests > 0 {
			t.Fatalf("%s: Sweep = %+v, %v", name, swept, err)
		}
	}
	age()
	if swept, err := r.Sweep(t.Context(), none); err != nil || swept.Manifests != 1 || swept.Blobs != 3 {
		t.Errorf("in the end: Sweep = %+v, %v", swept, err)
	}
}

func (c client) head(tag string) {
	c.t.Helper()
	req, _ := http.NewRequest("HEAD", c.url+"/v2/"+c.name+"/manifests/"+tag, nil)
	req.Header.Set("Accept", manifestType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		c.t.Fatalf("HEAD: %s", resp.Status)
	}
}

func TestSweepWaitsForUploads(t *testing.T) {
	r, c := serve(t, Config{Grace: -1})
	resp, _ := c.do("POST", "/v2/"+c.name+"/blobs/uploads/", "", nil)
	body, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.do("PATCH", resp.Header.Get("Location"), "application/octet-stream", body)
	}()
	if _, err := w.Write(random(1000)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); r.mu.TryLock(); { // until the request has arrived
		r.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("the request does not arrive")
		}
		time.Sleep(time.Millisecond)
	}
	none := func(string, bulkhead.Digest) bool { return false }
	if _, err := r.Sweep(context.Background(), none); !errors.Is(err, bulkhead.ErrUnavailable) {
		t.Errorf("while an upload runs: %v", err)
	}
	w.Close()
	<-done
	if _, err := r.Sweep(context.Background(), none); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
