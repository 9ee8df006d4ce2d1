package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/registry"
)

// fakeEngine answers on a socket as the Docker engine does for one image.
func fakeEngine(t *testing.T, reference, id string, saved []byte) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/images/", func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/images/" + reference + "/json":
			_ = json.NewEncoder(w).Encode(map[string]string{"Id": id})
		case "/images/" + reference + "/get":
			_, _ = w.Write(saved)
		default:
			http.Error(w, `{"message":"No such image"}`, http.StatusNotFound)
		}
	})
	s := &http.Server{Handler: mux}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return socket
}

func TestEngine(t *testing.T) {
	s := serve(t, registry.Config{})
	saved := dockerArchive(t, "web:1", tarOf(t, file{name: "a", body: noise(1000)}))
	socket := fakeEngine(t, "docker.io/library/web:1", string(digestOf([]byte("id"))), saved)
	found := find(t, open(t, Options{Engine: socket, Own: s.Target, Offline: true}), "web:1")
	if found.Where != "Docker engine" {
		t.Errorf("found in %s", found.Where)
	}
	if _, err := Push(t.Context(), s.Target, found, nil); err != nil {
		t.Fatal(err)
	}
	// The engine's id is another than the one published: the user is warned.
	found = find(t, open(t, Options{Engine: socket, Own: s.Target, Offline: true}), "web:1")
	if found.Where != "Bulkhead's registry" || !strings.Contains(found.Note, "the Docker engine has another web:1") {
		t.Errorf("found in %s, note %q", found.Where, found.Note)
	}
	same := fakeEngine(t, "docker.io/library/web:1", string(found.manifest.Config.Digest), saved)
	if found = find(t, open(t, Options{Engine: same, Own: s.Target, Offline: true}), "web:1"); found.Note != "" {
		t.Errorf("note %q", found.Note)
	}
	if _, err := open(t, Options{Engine: socket, Offline: true}).Find(t.Context(), "web:2"); !errors.Is(err, bulkhead.ErrNotFound) ||
		!strings.Contains(err.Error(), "Docker engine: no such image") {
		t.Errorf("web:2: %v", err)
	}
	cut := fakeEngine(t, "docker.io/library/web:1", "", saved[:len(saved)/2])
	if _, err := open(t, Options{Engine: cut, Offline: true}).Find(t.Context(), "web:1"); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("cut off: %v", err)
	}
}

// TestRealEngine asks a Docker engine of its own, where one is installed.
func TestRealEngine(t *testing.T) {
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		t.Skip("dockerd is not installed (package docker.io): the engine's own answers are not tested")
	}
	if os.Getuid() != 0 {
		t.Skip("not root: dockerd cannot be started")
	}
	dir, err := os.MkdirTemp("", "bulkhead") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "d.sock")
	var output bytes.Buffer
	cmd := exec.Command(dockerd, "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"--host", "unix://"+socket, "--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs")
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}()
	e := newEngine(socket, DefaultLimits())
	defer e.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		resp, err := e.get(ctx, "/version")
		if err == nil {
			resp.Body.Close()
			break
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("dockerd: %v\n%s", err, output.String())
		case <-ctx.Done():
			t.Fatalf("dockerd does not answer: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	layer := tarOf(t, folderEntry("bin/"), file{name: "bin/app", body: noise(1000), Header: tar.Header{Mode: 0o755}})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker/images/load", bytes.NewReader(dockerArchive(t, "shop/web:1.0", layer)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-tar")
	resp, err := e.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(resp.Body)
	resp.Body.Close()

	s := serve(t, registry.Config{})
	found, err := open(t, Options{Engine: socket, Own: s.Target, Offline: true}).Find(ctx, "shop/web:1.0")
	if err != nil {
		t.Fatalf("%v (load answered %s)", err, answer)
	}
	image, err := Push(ctx, s.Target, found, nil)
	if err != nil {
		t.Fatal(err)
	}
	if has, err := s.Has(ctx, image.Repository, image.Digest); err != nil || !has || found.Where != "Docker engine" {
		t.Errorf("found in %s; in the registry: %v, %v", found.Where, has, err)
	}
	// The same image is not taken for another one.
	if found := find(t, open(t, Options{Engine: socket, Own: s.Target, Offline: true}), "shop/web:1.0"); found.Note != "" {
		t.Errorf("note %q", found.Note)
	}
}
