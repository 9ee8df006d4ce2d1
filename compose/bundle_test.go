package compose

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead"

	"github.com/rogpeppe/go-internal/txtar"
)

func plainProject(t testing.TB) string {
	t.Helper()
	archive, err := txtar.ParseFile("testdata/plain.txtar")
	if err != nil {
		t.Fatal(err)
	}
	return writeProject(t, archive.Files[1:])
}

func mustLoad(t testing.TB, dir string) *Project {
	t.Helper()
	p, err := Load(dir)
	if err != nil {
		t.Fatal(report(err))
	}
	return p
}

func bundle(t testing.TB, p *Project) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := p.Bundle(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBundleSurvives: what a server makes of the bundle is what the vendor saw.
func TestBundleSurvives(t *testing.T) {
	p := mustLoad(t, plainProject(t))
	q, err := Open(unpack(t, bundle(t, p)), p.Product)
	if err != nil {
		t.Fatal(report(err))
	}
	in := Inputs{Stamp: "acme", Domain: "example.com", Modules: []bulkhead.ModuleName{"debug"}, Settings: map[string]json.RawMessage{
		"DB_PASSWORD": json.RawMessage(`"pw"`), "REPLICAS": json.RawMessage(`"1"`),
	}}
	for name, pair := range map[string][2]any{
		"product":  {p.Product, q.Product},
		"modules":  {p.Modules, q.Modules},
		"settings": {string(p.Settings), string(q.Settings)},
		"routes":   {p.Routes, q.Routes},
		"images":   {p.Images, q.Images},
		"bundle":   {bundle(t, p), bundle(t, q)},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: loaded %s, opened %s", name, pair[0], pair[1])
		}
	}
	f, err := p.Freeze(in)
	if err != nil {
		t.Fatal(report(err))
	}
	g, err := q.Freeze(in)
	if err != nil {
		t.Fatal(report(err))
	}
	if !reflect.DeepEqual(f, g) {
		t.Errorf("loaded %+v\nopened %+v", f, g)
	}
}

// TestProjectIsShared: one project serves all requests of a server.
func TestProjectIsShared(t *testing.T) {
	p := mustLoad(t, plainProject(t))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			name := bulkhead.StampName("s" + strconv.Itoa(i))
			f, err := p.Freeze(Inputs{Stamp: name, Domain: "example.com", Settings: set("DB_PASSWORD", `"pw"`, "REPLICAS", `"1"`)})
			if err != nil {
				t.Error(report(err))
			} else if got := f.Services[0].Environment["ORIGIN"]; got != "https://"+string(name)+".example.com" {
				t.Errorf("stamp %s has %s", name, got)
			}
		})
	}
	group.Wait()
}

func TestBundleIsDeterministicAndSparing(t *testing.T) {
	dir := plainProject(t)
	first := bundle(t, mustLoad(t, dir))
	other := plainProject(t)
	for _, name := range []string{"static/index.html", "cache/redis.conf"} {
		long := time.Unix(1000, 0)
		if err := os.Chtimes(filepath.Join(other, name), long, long); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(other, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first, bundle(t, mustLoad(t, other))) {
		t.Error("the same project in another folder, with other times and owners' bits, gives another bundle")
	}
	for _, secret := range []string{"development", "stays-home"} {
		if bytes.Contains(first, []byte(secret)) {
			t.Errorf("the bundle holds %q of .env", secret)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "static/index.html"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first, bundle(t, mustLoad(t, dir))) {
		t.Error("another content gives the same bundle")
	}
}

func TestBundleFollowsLinksInside(t *testing.T) {
	dir := writeProject(t, []txtar.File{
		{Name: "compose.yaml", Data: []byte("services: {web: {image: nginx, volumes: ['./conf:/c:ro']}}\n")},
		{Name: "conf/run.sh", Data: []byte("#!/bin/sh\n")},
		{Name: "conf/.git/config", Data: []byte("history")},
		{Name: "shared/a.conf", Data: []byte("a")},
	})
	for _, err := range []error{
		os.Symlink("../shared", filepath.Join(dir, "conf/more")),
		os.Symlink("../shared/a.conf", filepath.Join(dir, "conf/b.conf")),
		os.Chmod(filepath.Join(dir, "conf/run.sh"), 0o700),
		os.Mkdir(filepath.Join(dir, "conf/empty"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	out := unpack(t, bundle(t, mustLoad(t, dir)))
	var got []string
	err := filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		name, _ := filepath.Rel(out, path)
		got = append(got, info.Mode().String()+" "+filepath.ToSlash(name))
		return err
	})
	want := []string{
		"drwxr-xr-x .", "-rw-r--r-- compose.yaml", "drwxr-xr-x conf", "-rw-r--r-- conf/b.conf", "drwxr-xr-x conf/empty",
		"drwxr-xr-x conf/more", "-rw-r--r-- conf/more/a.conf", "-rwxr-xr-x conf/run.sh",
	}
	got[0] = want[0] // of the test's own folder
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot:  %v\nwant: %v", err, got, want)
	}
}

func TestBundleNotices(t *testing.T) {
	dir := plainProject(t)
	p := mustLoad(t, dir)
	if err := os.Remove(filepath.Join(dir, "static/index.html")); err != nil {
		t.Fatal(err)
	}
	if err := p.Bundle(io.Discard); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("a file that went away: %v", err)
	}
	other := writeProject(t, []txtar.File{
		{Name: "prod.yaml", Data: []byte("include: [compose.yaml]\nservices: {web: {image: nginx}}\n")},
		{Name: "compose.yaml", Data: []byte("services: {db: {image: postgres}}\n")},
	})
	if _, err := Load(filepath.Join(other, "prod.yaml")); err == nil || !strings.Contains(err.Error(), "would both be compose.yaml") {
		t.Errorf("two files of one name: %v", err)
	}
}

// unpack writes a bundle into a new folder.
func unpack(t testing.TB, bundle []byte) string {
	t.Helper()
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(bundle)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		} else if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(name, 0o755)
		} else {
			content, _ := io.ReadAll(r)
			err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, fs.FileMode(h.Mode)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
