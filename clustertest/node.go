// Package clustertest runs whole Bulkheads on one machine, as real processes,
// and uses them as their users do: by the command line, the API and HTTP. It is
// for tests only. What needs no running system is tested beside its code.
//
// Start with Start in a test, then Node's methods.
package clustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bulkhead/imagebuild"
)

// Node is one Bulkhead on this machine, with a data folder and ports of its own.
type Node struct {
	T    testing.TB
	Dir  string // data, configuration and products
	HTTP string // address of the gateway
	API  string // address of the API
	env  []string
	wrap []string // what its commands are run by; empty: nothing
	cmd  *exec.Cmd

	mounted bool // the data folder is a file system of its own
}

var (
	binDir string // made by build
	build  = sync.OnceValues(buildBinary)
)

func buildBinary() (_ string, err error) {
	if bin := os.Getenv("BULKHEAD_TEST_BINARY"); bin != "" {
		return bin, nil // where there is no Go: scripts/guest
	}
	if binDir, err = os.MkdirTemp("", "bulkhead-bin-"); err != nil {
		return "", err
	}
	bin := filepath.Join(binDir, "bulkhead")
	cmd := exec.Command("go", "build", "-o", bin, "bulkhead/cmd/bulkhead")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build bulkhead: %w\n%s", err, out)
	}
	return bin, nil
}

// Binary is the bulkhead program of this source tree.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Clean removes what Binary built.
func Clean() {
	if binDir != "" {
		os.RemoveAll(binDir)
	}
}

// Start runs a Bulkhead until the test ends; flags are added to its command line.
func Start(t testing.TB, flags ...string) *Node {
	t.Helper()
	n := New(t)
	n.Up(flags...)
	return n
}

// New prepares a Bulkhead that does not run yet.
func New(t testing.TB) *Node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("whole systems need root: containers and networks are made")
	}
	dir, err := os.MkdirTemp("", "bh")
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{T: t, Dir: dir, API: freeAddr(t), HTTP: freeAddr(t)}
	n.env = append(os.Environ(),
		"HOME="+dir, "BULKHEAD_CONFIG="+filepath.Join(dir, "config.yaml"), "BULKHEAD_DATA="+n.Data(),
		"BULKHEAD_API="+n.API, "BULKHEAD_HTTP="+n.HTTP, "BULKHEAD_NODE_API="+freeAddr(t), "NO_COLOR=1",
	)
	t.Cleanup(n.destroy)
	return n
}

// Data is the node's data folder.
func (n *Node) Data() string { return filepath.Join(n.Dir, "data") }

// Up starts the process and waits until it answers.
func (n *Node) Up(flags ...string) {
	n.T.Helper()
	log, err := os.OpenFile(filepath.Join(n.Dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		n.T.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(Binary(n.T), append([]string{"up"}, flags...)...)
	n.cmd.Env, n.cmd.Stdout, n.cmd.Stderr = n.env, log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := n.cmd.Start(); err != nil {
		n.T.Fatal(err)
	}
	exited := make(chan struct{})
	go func(cmd *exec.Cmd) { cmd.Wait(); close(exited) }(n.cmd)
	n.Until(30*time.Second, "Bulkhead answers", func() error {
		select {
		case <-exited:
			n.T.Fatalf("bulkhead up ended:\n%s", n.Log())
		default:
		}
		resp, err := http.Get("http://" + n.API + "/readyz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// Pid is the process of Bulkhead itself.
func (n *Node) Pid() int { return n.cmd.Process.Pid }

// Kill ends Bulkhead with SIGKILL; its tasks stay.
func (n *Node) Kill() {
	n.cmd.Process.Kill()
	n.waitGone()
}

// Stop ends Bulkhead with SIGTERM; its tasks stay.
func (n *Node) Stop() {
	n.cmd.Process.Signal(syscall.SIGTERM)
	n.waitGone()
}

func (n *Node) waitGone() {
	n.Until(20*time.Second, "Bulkhead has ended", func() error {
		if syscall.Kill(n.Pid(), 0) == nil {
			return errors.New("it lives")
		}
		return nil
	})
}

// Log is what Bulkhead has said.
func (n *Node) Log() string {
	b, _ := os.ReadFile(filepath.Join(n.Dir, "log"))
	if len(b) > 20_000 {
		b = b[len(b)-20_000:]
	}
	return string(b)
}

// Instance is the id that names this Bulkhead's bridges, cgroups and containers.
func (n *Node) Instance() string {
	b, err := os.ReadFile(filepath.Join(n.Data(), "instance"))
	if err != nil {
		n.T.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// Run executes a command line and fails the test if it fails.
func (n *Node) Run(args ...string) string {
	n.T.Helper()
	out, code := n.Try(args...)
	if code != 0 {
		n.T.Fatalf("bulkhead %s: exit code %d\n%s\nlog:\n%s", strings.Join(args, " "), code, out, n.Log())
	}
	return out
}

// Try executes a command line and returns what it printed and its exit code.
func (n *Node) Try(args ...string) (output string, code int) {
	n.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute*patience())
	defer cancel()
	cmd := n.command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return out.String(), exit.ExitCode()
	case err != nil:
		n.T.Fatal(err)
	}
	return out.String(), 0
}

// command is a command line of bulkhead's on this node.
func (n *Node) command(ctx context.Context, args ...string) *exec.Cmd {
	line := append(append(append([]string(nil), n.wrap...), Binary(n.T)), args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env, cmd.Dir = n.env, n.Dir
	return cmd
}

// Get asks the gateway for a path of a host below localhost, such as "acme" and "/".
func (n *Node) Get(host, path string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+n.HTTP+path, nil)
	if err != nil {
		return "", err
	}
	req.Host = host + ".localhost"
	resp, err := (&http.Client{Timeout: 90 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s%s: %s: %s", req.Host, path, resp.Status, strings.TrimSpace(string(b)))
	}
	return string(b), nil
}

// MustGet is Get for what has to answer.
func (n *Node) MustGet(host, path string) string {
	n.T.Helper()
	got, err := n.Get(host, path)
	if err != nil {
		n.T.Fatalf("%v\nlog:\n%s", err, n.Log())
	}
	return got
}

// patience stretches what tests wait for, on machines that are only emulated.
func patience() time.Duration {
	factor, err := strconv.Atoi(os.Getenv("BULKHEAD_TEST_PATIENCE"))
	if err != nil {
		return 1
	}
	return time.Duration(max(1, factor))
}

// Until waits for a condition, and fails the test after most.
func (n *Node) Until(most time.Duration, what string, ok func() error) {
	n.T.Helper()
	most *= patience()
	var err error
	began := time.Now()
	for time.Since(began) < most {
		if err = ok(); err == nil {
			return
		}
		time.Sleep(max(20*time.Millisecond, time.Since(began)/20)) // it tells the time within a twentieth
	}
	n.T.Fatalf("not within %s: %s: %v\nlog:\n%s", most, what, err, n.Log())
}

// File writes a file below the node's folder and returns its path.
func (n *Node) File(name, text string) string {
	n.T.Helper()
	path := filepath.Join(n.Dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		n.T.Fatal(err)
	}
	return path
}

var probe = sync.OnceValues(func() ([]byte, error) {
	if program := os.Getenv("BULKHEAD_TEST_PROBE"); program != "" {
		return os.ReadFile(program)
	}
	return imagebuild.GoBinary(context.Background(), "./testdata/probe")
})

// ProbeImage writes an archive with the probe program as image "probe:1" and
// returns its path. See testdata/probe.
func (n *Node) ProbeImage() string {
	n.T.Helper()
	return n.ProbeImageAs("probe:1", nil)
}

// ProbeImageAs is ProbeImage under another reference, with change applied to
// what the image is made from.
func (n *Node) ProbeImageAs(reference string, change func(*imagebuild.Spec)) string {
	n.T.Helper()
	path := filepath.Join(n.Dir, strings.NewReplacer(":", "-", "/", "-").Replace(reference)+".tar")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	program, err := probe()
	if err != nil {
		n.T.Fatal(err)
	}
	spec := imagebuild.Spec{
		Entrypoint: []string{"/probe"}, Command: []string{"serve"}, Ports: []string{"8080/tcp"},
		Files: []imagebuild.File{
			{Path: "/probe", Mode: 0o755, Content: program},
			{Path: "/etc/passwd", Content: []byte("root:x:0:0:root:/:/probe\napp:x:1000:1000:app:/:/probe\n")},
			{Path: "/etc/group", Content: []byte("root:x:0:\napp:x:1000:\n")},
			{Path: "/tmp", Mode: os.ModeDir | 0o777},
			{Path: "/data", Mode: os.ModeDir | 0o755, UID: 1000, GID: 1000},
			{Path: "/data/seed", Content: []byte("from the image\n"), UID: 1000, GID: 1000},
		},
	}
	if change != nil {
		change(&spec)
	}
	image, err := imagebuild.Build(spec)
	if err != nil {
		n.T.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		n.T.Fatal(err)
	}
	if err := errors.Join(imagebuild.WriteDocker(f, reference, image), f.Close()); err != nil {
		n.T.Fatal(err)
	}
	return path
}

// Publish publishes a Compose file whose services run probe:1.
func (n *Node) Publish(product, compose string, flags ...string) string {
	n.T.Helper()
	file := n.File(product+"/compose.yaml", compose)
	return n.Run(append([]string{"release", "publish", file, "--images", n.ProbeImage()}, flags...)...)
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// destroy ends everything of this Bulkhead: stamps, engine, networks, folders.
func (n *Node) destroy() {
	if n.T.Failed() {
		n.T.Logf("log of %s:\n%s", n.Dir, n.Log())
	}
	if n.cmd != nil {
		if syscall.Kill(n.Pid(), 0) != nil {
			n.T.Log("Bulkhead was not running at the end")
		}
		if out, code := n.Try("down", "--destroy", "--yes"); code != 0 {
			n.T.Errorf("down --destroy: exit code %d, %s", code, out)
		}
	}
	if n.mounted {
		if err := syscall.Unmount(n.Data(), syscall.MNT_DETACH); err != nil {
			n.T.Errorf("unmount data folder: %v", err)
		}
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		n.T.Errorf("left behind: %v", err)
	}
}

// Processes are the ids of the node's task processes by container, as the
// kernel's cgroups list them.
func (n *Node) Processes() map[string][]int {
	out := map[string][]int{}
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		top := filepath.Join(root, "bulkhead-"+n.Instance())
		filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil
			}
			b, _ := os.ReadFile(path)
			for _, line := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(line); err == nil {
					name := filepath.Base(filepath.Dir(path))
					out[name] = append(out[name], pid)
				}
			}
			return nil
		})
		if len(out) > 0 {
			break
		}
	}
	return out
}

// grepData says in which file below the data folder a text stands in clear, or "".
func (n *Node) grepData(text string) string {
	found := ""
	filepath.WalkDir(n.Data(), func(path string, d os.DirEntry, err error) error {
		if err != nil || found != "" || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > 64<<20 {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(text)) {
			found = path
		}
		return nil
	})
	return found
}
