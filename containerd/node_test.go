package containerd

import (
	"context"
	"crypto/rand"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"bulkhead"
	"bulkhead/agent"
	"bulkhead/imagebuild"
)

// node is a private containerd with a registry and a Runtime, for one test.
type node struct {
	t        testing.TB
	instance string
	config   EngineConfig
	engine   *Engine
	runtime  *Runtime
	registry *httptest.Server
	folder   string
	netns    string // of all containers: the kernel may take seconds to make one
	image    bulkhead.Image
}

// newNode starts a node with an image of the probe. When the test ends, nothing
// of it is left.
func newNode(t testing.TB) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests run containers: run them as root")
	}
	if test, ok := t.(*testing.T); ok {
		test.Parallel() // nodes do not see each other
	}
	n := &node{t: t, instance: "t" + strings.ToLower(rand.Text()[:8]), folder: t.TempDir()}
	n.config = EngineConfig{Instance: n.instance, Folder: filepath.Join(n.folder, "containerd"), Private: true}
	n.netns = filepath.Join("/run/netns", "bulkhead-"+n.instance)
	ip(t, "netns", "add", filepath.Base(n.netns))
	t.Cleanup(func() { ip(t, "netns", "delete", filepath.Base(n.netns)) })
	n.registry = httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(n.registry.Close)
	n.open()
	t.Cleanup(n.clean)
	n.image = n.push("probe:1", probeImage(t, imagebuild.Spec{}))
	if err := n.runtime.Pull(t.Context(), n.image); err != nil {
		t.Fatal(err)
	}
	return n
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// open opens the engine, as a restart of Bulkhead does.
func (n *node) open() {
	n.t.Helper()
	logger := slog.New(slog.NewTextHandler(n.t.Output(), nil))
	engine, err := Open(n.t.Context(), n.config, logger)
	if err != nil {
		n.t.Fatal(err)
	}
	n.engine = engine
	n.runtime, err = New(engine, Config{Registry: n.registry.URL}, logger)
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.engine.ensure(ctx); err != nil {
		n.t.Error(err)
	}
	observed, err := n.runtime.List(ctx)
	if err != nil {
		n.t.Errorf("clean: %v", err)
	}
	stamps := map[bulkhead.StampName]bool{}
	for _, o := range observed {
		p, _ := n.runtime.known.find(containerID(o.ID))
		stamps[p.stamp] = true
		if err := n.runtime.Remove(ctx, o.ID); err != nil {
			n.t.Errorf("clean: %v", err)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + n.runtime.namespace)
	for _, group := range append(groups, "/sys/fs/cgroup/"+n.runtime.namespace) {
		if err := removeCgroup(ctx, group); err != nil {
			n.t.Errorf("clean: %v", err)
		}
	}
	if err := n.engine.Terminate(ctx); err != nil {
		n.t.Errorf("clean: %v", err)
	}
	n.engine.Close()
	if n.t.Failed() {
		n.t.Logf("containerd: %s", lastLine(n.engine.LogFile()))
	}
	if err := os.RemoveAll(filepath.Dir(n.engine.config.RunFolder)); err != nil {
		n.t.Errorf("clean: %v", err)
	}
}

// kill ends containerd as a crash does, and waits until it is gone.
func (n *node) kill() {
	n.t.Helper()
	pid := serving(n.engine.Socket())
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	if err := gone(n.t.Context(), pid); err != nil {
		n.t.Fatal(err)
	}
}

// restart starts containerd again and waits until the client has found it.
func (n *node) restart() {
	n.t.Helper()
	if err := n.engine.ensure(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	n.eventually("containerd answers", func() bool {
		_, err := n.engine.Version(n.t.Context())
		return err == nil
	})
}

func (n *node) push(reference string, i v1.Image) bulkhead.Image {
	n.t.Helper()
	digest, err := i.Digest()
	if err != nil {
		n.t.Fatal(err)
	}
	repository := "docker.io/library/" + strings.Split(reference, ":")[0]
	target, err := name.ParseReference(strings.TrimPrefix(n.registry.URL, "http://") + "/" + repository + ":1")
	if err != nil {
		n.t.Fatal(err)
	}
	if err := remote.Write(target, i); err != nil {
		n.t.Fatal(err)
	}
	return bulkhead.Image{Reference: reference, Repository: repository, Digest: bulkhead.Digest(digest.String())}
}

var probeBinary = sync.OnceValues(func() ([]byte, error) {
	return imagebuild.GoBinary(context.Background(), "testdata/probe")
})

// probeImage is an image with the probe, and with what spec adds.
func probeImage(t testing.TB, spec imagebuild.Spec) v1.Image {
	t.Helper()
	binary, err := probeBinary()
	if err != nil {
		t.Fatal(err)
	}
	spec.Entrypoint = []string{"/bin/probe"}
	if spec.Command == nil {
		spec.Command = []string{"sleep"}
	}
	spec.Env = append(spec.Env, "FROM_IMAGE=1", "OVERRIDDEN=image")
	spec.Files = append([]imagebuild.File{
		{Path: "/bin/probe", Mode: 0o755, Content: binary},
		{Path: "/bin/text", Mode: 0o644, Content: []byte("no program")},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/etc/passwd", Content: []byte("root:x:0:0::/root:/bin/sh\napp:x:100:200::/home/app:/bin/sh\n")},
		{Path: "/etc/group", Content: []byte("root:x:0:\napp:x:200:\nextra:x:300:app\n")},
		{Path: "/data", Mode: fs.ModeDir | 0o750, UID: 100, GID: 200},
		{Path: "/data/file", Mode: 0o640, UID: 100, GID: 200, Content: []byte("content")},
		{Path: "/data/link", Link: "/etc/passwd"},
		{Path: "/linked", Link: "/../../data"},
		{Path: "/empty", Mode: fs.ModeDir | fs.ModeSticky | 0o1700, UID: 100, GID: 300},
	}, spec.Files...)
	image, err := imagebuild.Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// container is a container that runs the probe with args.
func (n *node) container(stamp bulkhead.StampName, args ...string) agent.Container {
	id := bulkhead.NewTaskID(stamp, "web", 1, strings.ToLower(rand.Text()[:6]))
	return agent.Container{
		ID:    id,
		Stamp: stamp,
		Service: bulkhead.Service{
			Name: "web", Image: n.image, Command: args, Budget: bulkhead.DefaultBudget(),
			Entrypoint: []string{"/bin/probe"},
		},
		Netns:  n.netns,
		Labels: map[string]string{"hash": "1234"},
		Log:    filepath.Join(n.folder, string(id)+".log"),
	}
}

// run prepares and starts a container.
func (n *node) run(c agent.Container) agent.Container {
	n.t.Helper()
	if err := n.runtime.Prepare(n.t.Context(), c); err != nil {
		n.t.Fatal(err)
	}
	if err := n.runtime.Start(n.t.Context(), c.ID); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// output runs a container to its end and returns what it wrote.
func (n *node) output(c agent.Container) string {
	n.t.Helper()
	n.run(c)
	if err := n.runtime.wait(n.t.Context(), containerID(c.ID)); err != nil {
		n.t.Fatal(err)
	}
	if err := n.runtime.Remove(n.t.Context(), c.ID); err != nil { // flushes the log
		n.t.Fatal(err)
	}
	return n.log(c)
}

func (n *node) log(c agent.Container) string {
	n.t.Helper()
	content, err := os.ReadFile(c.Log)
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	return string(content)
}

// ready waits for what the probe writes when it is up.
func (n *node) ready(c agent.Container) agent.Container {
	n.t.Helper()
	n.eventually("probe is ready", func() bool { return strings.Contains(n.log(c), "ready") })
	return c
}

func (n *node) eventually(what string, holds func() bool) {
	n.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			n.t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (n *node) observed(id bulkhead.TaskID) (agent.Observed, bool) {
	n.t.Helper()
	all, err := n.runtime.List(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, o := range all {
		if o.ID == id {
			return o, true
		}
	}
	return agent.Observed{}, false
}

// pid is the task's first process, as the machine numbers it.
func (n *node) pid(c agent.Container) int {
	n.t.Helper()
	container, err := n.runtime.client.LoadContainer(n.t.Context(), containerID(c.ID))
	if err != nil {
		n.t.Fatal(err)
	}
	task, err := container.Task(n.t.Context(), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	return int(task.Pid())
}

// absent fails the test when a task has left anything behind.
func (n *node) absent(c agent.Container) {
	n.t.Helper()
	ctx, id := n.t.Context(), containerID(c.ID)
	if _, err := n.runtime.client.ContainerService().Get(ctx, id); err == nil {
		n.t.Errorf("container %s is left", id)
	}
	if _, err := n.runtime.client.SnapshotService(n.runtime.snapshotter).Stat(ctx, id); err == nil {
		n.t.Errorf("snapshot %s is left", id)
	}
	if groups, _ := filepath.Glob("/sys/fs/cgroup/*" + n.runtime.cgroup(c.Stamp, c.ID)); len(groups) > 0 {
		n.t.Errorf("cgroups are left: %q", groups)
	}
	out, err := exec.Command("runc", "--root", "/run/containerd/runc/"+n.runtime.namespace, "list", "-q").Output()
	if err == nil && strings.Contains(string(out), id) {
		n.t.Errorf("runc still knows %s", id)
	}
}
