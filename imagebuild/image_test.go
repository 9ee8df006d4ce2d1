package imagebuild

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func spec() Spec {
	return Spec{
		Entrypoint: []string{"/bin/app"},
		Env:        []string{"A=1"},
		User:       "app",
		Ports:      []string{"8080/tcp", "9090/tcp"},
		Volumes:    []string{"/data"},
		Files: []File{
			{Path: "/bin/app", Mode: 0o755, Content: []byte("binary")},
			{Path: "/data", Mode: fs.ModeDir | fs.ModeSticky | 0o770, UID: 10, GID: 20},
			{Path: "/etc/passwd", Content: []byte("app:x:10:20::/:\n")},
			{Path: "/bin/sh", Link: "app"},
		},
	}
}

func TestBuild(t *testing.T) {
	image, err := Build(spec())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]tar.Header{}
	reader := tar.NewReader(mutate.Extract(image))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = *header
	}
	if h := got["data"]; h.Typeflag != tar.TypeDir || h.Mode != 0o1770 || h.Uid != 10 || h.Gid != 20 {
		t.Errorf("data = %+v", h)
	}
	if h := got["bin/sh"]; h.Typeflag != tar.TypeSymlink || h.Linkname != "app" {
		t.Errorf("bin/sh = %+v", h)
	}
	if h := got["etc/passwd"]; h.Mode != 0o644 || h.Size == 0 {
		t.Errorf("etc/passwd = %+v", h)
	}
	if h := got["bin"]; h.Typeflag != tar.TypeDir || h.Mode != 0o755 {
		t.Errorf("bin = %+v", h)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "app" || len(config.Config.ExposedPorts) != 2 || config.OS != "linux" || config.Architecture == "" {
		t.Errorf("configuration = %+v", config)
	}
}

func TestBuildIsReproducible(t *testing.T) {
	var digests []string
	for range 20 { // maps iterate differently each time
		image, err := Build(spec())
		if err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest.String())
	}
	for _, digest := range digests {
		if digest != digests[0] {
			t.Fatalf("digests differ: %s, %s", digest, digests[0])
		}
	}
}

func TestArchives(t *testing.T) {
	image, err := Build(spec())
	if err != nil {
		t.Fatal(err)
	}
	want, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}

	var docker bytes.Buffer
	if err := WriteDocker(&docker, "web:1", image); err != nil {
		t.Fatal(err)
	}
	loaded, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(docker.Bytes())), nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := loaded.ConfigName(); err != nil || got != want {
		t.Errorf("docker archive holds %s, %v; want %s", got, err, want)
	}

	var first, second bytes.Buffer
	for _, buffer := range []*bytes.Buffer{&first, &second} {
		if err := WriteOCI(buffer, "web:1", image); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two OCI archives of one image differ")
	}
	folder := t.TempDir()
	extract(t, &first, folder)
	path, err := layout.FromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := path.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(stored); err != nil {
		t.Errorf("OCI archive: %v", err)
	}
}

func TestGoBinary(t *testing.T) {
	folder := t.TempDir()
	files := map[string]string{"go.mod": "module x\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary, err := GoBinary(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(binary, []byte("\x7fELF")) {
		t.Errorf("binary begins with %q", binary[:4])
	}
	if err := os.WriteFile(filepath.Join(folder, "main.go"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := GoBinary(t.Context(), folder); err == nil {
		t.Error("nonsense compiles")
	}
}

func extract(t *testing.T, from io.Reader, folder string) {
	t.Helper()
	reader := tar.NewReader(from)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, header.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
