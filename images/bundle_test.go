package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bulkhead"
	"bulkhead/registry"
)

func TestBundle(t *testing.T) {
	s := serve(t, registry.Config{Grace: -1})
	raw := tarOf(t,
		folderEntry("conf/"),
		file{name: "compose.yaml", body: "services: {}\n"},
		file{name: "conf/app.conf", body: "colour=blue\n"},
		file{name: "bin/run.sh", body: "#!/bin/sh\n", Header: tar.Header{Mode: 0o700}},
		link("conf/link", "../compose.yaml"))
	d, size, err := PushBundle(t.Context(), s.Target, bytes.NewReader(raw))
	if err != nil || size != int64(len(raw)) {
		t.Fatalf("PushBundle: %d bytes, %v", size, err)
	}
	s.sent.Store(0)
	if again, _, err := PushBundle(t.Context(), s.Target, bytes.NewReader(raw)); err != nil || again != d || s.sent.Load() != 0 {
		t.Errorf("again: %s, %v, %d bytes sent", again, err, s.sent.Load())
	}
	// It survives a sweep as long as a release names it, and the API can read it.
	if _, err := s.Sweep(t.Context(), func(repository string, m bulkhead.Digest) bool {
		return repository == BundleRepository && m == d
	}); err != nil {
		t.Fatal(err)
	}
	r, size, err := s.Artifact(t.Context(), BundleRepository, d)
	if err != nil || size != int64(len(raw)) {
		t.Fatalf("Artifact: %d bytes, %v", size, err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("Artifact: %d bytes, %v", len(got), err)
	}

	b := NewBundles(filepath.Join(t.TempDir(), "bundles"), s.Target)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			dir, err := b.Bundle(context.Background(), d)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(filepath.Join(dir, "conf/link")); err != nil || string(got) != "services: {}\n" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
	group.Wait()
	dir, err := b.Bundle(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"compose.yaml": 0o444, "bin/run.sh": 0o555, "conf": 0o555 | fs.ModeDir} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if err := b.Sweep(func(keep bulkhead.Digest) bool { return keep == d }); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
		t.Errorf("kept: %v, %v", entries, err)
	}
	// The node has it without the server.
	offline := NewBundles(filepath.Dir(dir), &Target{URL: "http://127.0.0.1:1"})
	if _, err := offline.Bundle(t.Context(), d); err != nil {
		t.Error(err)
	}
	if err := b.Sweep(func(bulkhead.Digest) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, err := b.Bundle(t.Context(), digestOf([]byte("never"))); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("never pushed: %v", err)
	}
	if _, err := b.Bundle(t.Context(), "../../etc"); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("no digest: %v", err)
	}
}

func TestBadBundle(t *testing.T) {
	s := serve(t, registry.Config{})
	good := tarOf(t, file{name: "compose.yaml", body: noise(2000)})
	for _, test := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"climbing name", tarOf(t, file{name: "../x"}), "climbs"},
		{"absolute name", tarOf(t, file{name: "/etc/x"}), "absolute"},
		{"absolute link", tarOf(t, link("a", "/etc/passwd")), "leads nowhere or out"},
		{"climbing link", tarOf(t, link("a", "../../etc/passwd")), "leads nowhere or out"},
		{"dangling link", tarOf(t, link("a", "b")), "leads nowhere or out"},
		{"through a link", tarOf(t, link("a", "/tmp"), file{name: "a/x"}), `"a/x"`},
		{"hard link", tarOf(t, file{name: "a"}, hardLink("b", "a")), "neither a file"},
		{"device", tarOf(t, device("a", tar.TypeChar, 1, 3)), "neither a file"},
		{"twice", tarOf(t, file{name: "a"}, file{name: "a"}), "file exists"},
		{"cut", good[:1000], "truncated"},
	} {
		_, _, err := PushBundle(t.Context(), s.Target, bytes.NewReader(test.raw))
		if !errors.Is(err, bulkhead.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		// A node does not trust the server to have looked.
		dir := t.TempDir()
		if err := unpack(bytes.NewReader(test.raw), dir); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("%s: unpack: %v", test.name, err)
		}
	}
	if left := s.manifests(t); len(left) > 0 {
		t.Errorf("published %v", left)
	}
	if _, err := os.Stat("/tmp/x"); err == nil {
		t.Error("something was written to /tmp")
	}
}
