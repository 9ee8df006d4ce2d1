package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"bulkhead"
	"bulkhead/agent"
)

func TestLifecycle(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	c := n.container("acme", "sleep")
	for range 2 { // every step can be repeated
		if err := n.runtime.Prepare(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	if o, ok := n.observed(c.ID); !ok || o.State != bulkhead.TaskPrepared || o.Labels["hash"] != "1234" || len(o.Labels) != 1 {
		t.Fatalf("prepared task is %+v, %v", o, ok)
	}
	if log := n.log(c); log != "" {
		t.Fatalf("a task that was not started wrote %q", log)
	}
	for range 2 {
		if err := n.runtime.Start(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
	}
	n.ready(c)
	if o, _ := n.observed(c.ID); o.State != bulkhead.TaskRunning {
		t.Fatalf("started task is %+v", o)
	}
	for range 2 {
		if err := n.runtime.Stop(ctx, c.ID, "SIGUSR1", 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if o, _ := n.observed(c.ID); o.State != bulkhead.TaskComplete || time.Since(o.Ended) > time.Minute {
		t.Fatalf("stopped task is %+v", o)
	}
	if log := n.log(c); !strings.Contains(log, "ended by user defined signal 1") {
		t.Errorf("log is %q", log)
	}
	for range 2 {
		if err := n.runtime.Remove(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
	}
	n.absent(c)

	stubborn := n.ready(n.run(n.container("acme", "stubborn")))
	start := time.Now()
	if err := n.runtime.Stop(ctx, stubborn.ID, "", 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 100*time.Millisecond || took > 3*time.Second {
		t.Errorf("stop took %v", took)
	}
	if o, _ := n.observed(stubborn.ID); o.State != bulkhead.TaskFailed || o.ExitCode != 137 {
		t.Errorf("killed task is %+v", o)
	}
	if err := n.runtime.Stop(ctx, c.ID, "SIGNONE", 0); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("unknown signal: %v", err)
	}

	running := n.ready(n.run(n.container("acme", "sleep")))
	prepared := n.container("acme", "sleep")
	if err := n.runtime.Prepare(ctx, prepared); err != nil {
		t.Fatal(err)
	}
	for _, c := range []agent.Container{running, prepared} {
		if err := n.runtime.Remove(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		n.absent(c)
	}
}

func TestRefusals(t *testing.T) {
	n := newNode(t)
	for _, test := range []struct {
		name   string
		change func(*agent.Container)
		want   string
	}{
		{"missing command", func(c *agent.Container) { c.Service.Entrypoint = []string{"foo"} }, `command "foo" is not in image probe:1`},
		{"missing path", func(c *agent.Container) { c.Service.Entrypoint = []string{"/foo"} }, `command "/foo" is not in image probe:1`},
		{"no program", func(c *agent.Container) { c.Service.Entrypoint = []string{"/bin/text"} }, `command "/bin/text" in image probe:1 is not executable`},
		{"folder as command", func(c *agent.Container) { c.Service.Entrypoint = []string{"/bin"} }, `command "/bin" in image probe:1 is not executable`},
		{"unknown user", func(c *agent.Container) { c.Service.User = "nobody" }, `user "nobody" is not in image probe:1`},
		{"unknown group", func(c *agent.Container) { c.Service.User = "app:staff" }, `user "app:staff" is not in image probe:1`},
		{"folder is a file", func(c *agent.Container) { c.Service.WorkingDir = "/etc/passwd" }, `working directory "/etc/passwd" cannot be used in image probe:1`},
		{"relative folder", func(c *agent.Container) { c.Service.WorkingDir = "etc" }, `working directory "etc" of service web is not an absolute path`},
		{"unknown capability", func(c *agent.Container) { c.Service.CapDrop = []string{"FLY"} }, `capability "FLY" is unknown: use a name such as NET_RAW, or ALL`},
		{"unknown ulimit", func(c *agent.Container) { c.Service.Ulimits = map[string]bulkhead.Ulimit{"files": {}} }, `ulimit "files" is unknown: use one of`},
		{"impossible ulimit", func(c *agent.Container) {
			c.Service.Ulimits = map[string]bulkhead.Ulimit{"nofile": {Soft: 1 << 40, Hard: 1 << 40}}
		}, `ulimit nofile: 1099511627776 is above what this machine allows`},
		{"no init", func(c *agent.Container) { c.Service.Init = true }, `service web asks for an init process: the node's bulkhead cannot be one, as it is not a static program`},
		{"folder on a file", func(c *agent.Container) {
			c.Binds = []agent.Bind{{Source: n.folder, Target: "/etc/passwd"}}
		}, `a mount puts a folder where image probe:1 has a file, or a file where it has a folder`},
		{"mount on root", func(c *agent.Container) { c.Binds = []agent.Bind{{Source: n.folder, Target: "/x/.."}} }, `service web: mount target "/x/.." is not an absolute path below /`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := n.container("acme", "sleep")
			test.change(&c)
			err := n.runtime.Prepare(t.Context(), c)
			if !errors.Is(err, bulkhead.ErrInvalid) || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, test.want)
			}
			n.absent(c)
		})
	}
	c := n.container("acme", "sleep")
	c.Service.Image.Digest = "sha256:" + bulkhead.Digest(strings.Repeat("0", 64))
	if err := n.runtime.Prepare(t.Context(), c); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("image that was not pulled: %v", err)
	}
}

func TestProcess(t *testing.T) {
	n := newNode(t)
	c := n.container("acme", "id")
	c.Service.User, c.Service.WorkingDir, c.Service.Hostname = "app", "/made/here", "alpha"
	if got, want := n.output(c), "100 200 [300] /made/here alpha\n"; got != want {
		t.Errorf("id is %q, want %q", got, want)
	}
	c = n.container("acme", "id")
	c.Service.User, c.Service.Name = "7:8", "Web_App"
	if got, want := n.output(c), "7 8 [] / web-app\n"; got != want {
		t.Errorf("id is %q, want %q", got, want)
	}
	c = n.container("acme", "env")
	c.Service.Environment = map[string]string{"OVERRIDDEN": "service", "ADDED": "a=b"}
	env := n.output(c)
	for _, want := range []string{"FROM_IMAGE=1\n", "OVERRIDDEN=service\n", "ADDED=a=b\n", "PATH=/usr/local/sbin:", "HOSTNAME=web\n", "HOME=/root\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("environment lacks %q:\n%s", want, env)
		}
	}
	c = n.container("acme")
	c.Service.Entrypoint, c.Service.Command = nil, []string{"echo", "hello"}
	if got := n.output(c); got != "hello\n" {
		t.Errorf("image's entrypoint with the service's command wrote %q", got)
	}
	c = n.container("acme", "both")
	if got := n.output(c); got != "out\nerr\n" && got != "err\nout\n" {
		t.Errorf("log is %q", got)
	}
	if got := n.output(n.container("acme", "late")); got != "last words\n" {
		t.Errorf("log is %q", got)
	}
}

func TestCommand(t *testing.T) {
	i := &image{reference: "web:1"}
	i.config.Entrypoint, i.config.Cmd = []string{"entry"}, []string{"cmd"}
	for _, test := range []struct {
		entrypoint, command []string
		want                string
	}{
		{nil, nil, "entry cmd"},
		{nil, []string{"own"}, "entry own"},
		{[]string{"own"}, nil, "own"},
		{[]string{"own"}, []string{"arg"}, "own arg"},
	} {
		got, err := command(bulkhead.Service{Entrypoint: test.entrypoint, Command: test.command}, i)
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%q %q: %q, %v; want %s", test.entrypoint, test.command, got, err, test.want)
		}
	}
	if _, err := command(bulkhead.Service{}, &image{}); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("no command: %v", err)
	}
}

// TestIsolation reads back what the kernel says of a task.
func TestIsolation(t *testing.T) {
	n := newNode(t)
	status := func(drop ...string) map[string]string {
		c := n.container("acme", "sleep")
		c.Service.CapDrop = drop
		n.ready(n.run(c))
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pid(c)))
		if err != nil {
			t.Fatal(err)
		}
		score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", n.pid(c)))
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]string{"oom": strings.TrimSpace(string(score))}
		for line := range strings.Lines(string(content)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		return fields
	}
	const docker, withoutRaw, none = "00000000a80425fb", "00000000a80405fb", "0000000000000000"
	for _, test := range []struct {
		drop []string
		want string
	}{{nil, docker}, {[]string{"net_raw"}, withoutRaw}, {[]string{"CAP_NET_RAW"}, withoutRaw}, {[]string{"ALL"}, none}} {
		got := status(test.drop...)
		for _, set := range []string{"CapBnd", "CapPrm", "CapEff"} {
			if got[set] != test.want {
				t.Errorf("drop %q: %s is %s, want %s", test.drop, set, got[set], test.want)
			}
		}
		if got["CapAmb"] != none || got["CapInh"] != none || got["NoNewPrivs"] != "1" || got["Seccomp"] != "2" || got["oom"] != "200" {
			t.Errorf("process is %v", got)
		}
	}
	if got := n.output(n.container("acme", "unshare")); !strings.Contains(got, "not permitted") {
		t.Errorf("new user namespace: %q", got)
	}
	if got := n.output(n.container("acme", "read", "/proc/keys")); got != "" {
		t.Errorf("/proc/keys is readable: %q", got)
	}
	if got := n.output(n.container("acme", "write", "/proc/sys/kernel/hostname", "x")); !strings.Contains(got, "read-only") {
		t.Errorf("write to /proc/sys: %q", got)
	}
	if got := n.output(n.container("acme", "read", "/proc/self/mounts")); !strings.Contains(got, "/dev/shm tmpfs") || !strings.Contains(got, "size=65536k") {
		t.Errorf("mounts are\n%s", got)
	}
	c := n.container("acme", "write", "/tmp/x", "y")
	c.Service.ReadOnly = true
	if got := n.output(c); !strings.Contains(got, "read-only file system") {
		t.Errorf("write to a read-only root: %q", got)
	}
}

func TestLimits(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	exits := n.runtime.Exits(ctx)
	<-exits
	c := n.container("acme", "sleep")
	c.Service.Budget = bulkhead.Budget{CPU: 0.5, CPURequest: 0.25, Memory: 64 << 20, PIDs: 40}
	n.ready(n.run(c))
	group := n.runtime.cgroup(c.Stamp, c.ID)
	if !unified() {
		for file, want := range map[string]string{
			"memory/memory.limit_in_bytes": "67108864", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.shares": "256", "pids/pids.max": "40",
		} {
			expectCgroup(t, file, group, want)
		}
		if swapAccounting() {
			expectCgroup(t, "memory/memory.memsw.limit_in_bytes", group, "67108864")
		}
	} else {
		for file, want := range map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "40"} {
			expectCgroup(t, file, group, want)
		}
	}

	c = n.container("acme", "fork")
	c.Service.Budget.PIDs = 30
	n.run(c)
	n.eventually("the pids limit holds", func() bool { return strings.Contains(n.log(c), "forked") })
	if forked, _ := strconv.Atoi(strings.Fields(n.log(c))[1]); forked > 30 || forked < 1 {
		t.Errorf("log is %q", n.log(c))
	}

	c = n.container("acme", "eat")
	c.Service.Budget.Memory = 32 << 20
	n.run(c)
	if exit := <-exits; exit.ID != c.ID || exit.ExitCode != 137 || !exit.OOM {
		t.Errorf("exit is %+v", exit)
	}
	c = n.ready(n.run(n.container("acme", "stubborn")))
	if err := n.runtime.Stop(ctx, c.ID, "9", time.Second); err != nil {
		t.Fatal(err)
	}
	if exit := <-exits; exit.ID != c.ID || exit.ExitCode != 137 || exit.OOM {
		t.Errorf("exit is %+v", exit)
	}
	c = n.run(n.container("acme", "exit", "42"))
	if exit := <-exits; exit.ID != c.ID || exit.ExitCode != 42 || exit.OOM || time.Since(exit.Time) > time.Minute {
		t.Errorf("exit is %+v", exit)
	}
	if o, _ := n.observed(c.ID); o.State != bulkhead.TaskFailed || o.ExitCode != 42 {
		t.Errorf("task is %+v", o)
	}

	c = n.container("acme", "read", "/proc/self/limits")
	c.Service.Ulimits = map[string]bulkhead.Ulimit{"nofile": {Soft: 100, Hard: 200}, "core": {Soft: 0, Hard: 0}}
	if got := strings.Join(strings.Fields(n.output(c)), " "); !strings.Contains(got, " 200 files") || !strings.Contains(got, "Max core file size 0 0") {
		t.Errorf("limits are %s", got)
	}
}

func expectCgroup(t *testing.T, file, group, want string) {
	t.Helper()
	path := filepath.Join(cgroupMount, filepath.Dir(file), group, filepath.Base(file))
	content, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(content)) != want {
		t.Errorf("%s is %q, %v; want %s", path, content, err, want)
	}
}

// TestCeiling eats memory in a task that may have more than its stamp.
func TestCeiling(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	exits := n.runtime.Exits(ctx)
	<-exits
	for _, most := range []int64{64 << 20, 96 << 20, 48 << 20} { // up and down
		if err := n.runtime.Ceiling(ctx, "acme", bulkhead.Budget{CPU: 1.5, Memory: most, PIDs: 100}); err != nil {
			t.Fatal(err)
		}
	}
	group := n.runtime.cgroup("acme", "")
	if unified() {
		expectCgroup(t, "memory.max", group, "50331648")
		expectCgroup(t, "pids.max", group, "100")
		expectCgroup(t, "cpu.max", group, "150000 100000")
	} else {
		expectCgroup(t, "memory/memory.limit_in_bytes", group, "50331648")
		expectCgroup(t, "pids/pids.max", group, "100")
		expectCgroup(t, "cpu/cpu.cfs_quota_us", group, "150000")
	}
	c := n.container("acme", "eat")
	c.Service.Budget.Memory = 1 << 30
	n.run(c)
	if exit := <-exits; exit.ID != c.ID || exit.ExitCode != 137 || !exit.OOM {
		t.Errorf("exit is %+v", exit)
	}
	if err := n.runtime.Remove(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.runtime.Forget(ctx, "acme"); err != nil {
			t.Fatal(err)
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + group)
	more, _ := filepath.Glob("/sys/fs/cgroup/*/" + group)
	if err != nil || len(groups)+len(more) > 0 {
		t.Errorf("cgroups are left: %q %q", groups, more)
	}
}

func TestMounts(t *testing.T) {
	n := newNode(t)
	shared := filepath.Join(n.folder, "shared")
	if err := os.Mkdir(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	c := n.container("acme", "write", "/mnt/deep/x", "hello")
	c.Service.ReadOnly = true
	c.Binds = []agent.Bind{{Source: shared, Target: "/mnt/deep"}}
	if got := n.output(c); got != "" {
		t.Fatal(got)
	}
	if content, err := os.ReadFile(filepath.Join(shared, "x")); string(content) != "hello" {
		t.Errorf("written: %q, %v", content, err)
	}
	c = n.container("acme", "write", "/mnt/x", "bye")
	c.Binds = []agent.Bind{{Source: shared, Target: "/mnt", ReadOnly: true}}
	if got := n.output(c); !strings.Contains(got, "read-only file system") {
		t.Errorf("write to a read-only mount: %q", got)
	}
	c = n.container("acme", "read", "/proc/self/mounts")
	c.Service.Mounts = []bulkhead.Mount{{Kind: bulkhead.MountTmpfs, Target: "/scratch", Size: 1 << 20, Mode: 0o700, UID: 5}}
	got := n.output(c)
	for _, want := range []string{"tmpfs /scratch tmpfs rw,nosuid,nodev,noexec", "size=1024k", "mode=700", "uid=5"} {
		if !strings.Contains(got, want) {
			t.Errorf("mounts lack %q:\n%s", want, got)
		}
	}
}

func TestFill(t *testing.T) {
	n := newNode(t)
	volume := func(name string) string {
		path := filepath.Join(n.folder, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	full, through, empty, absent := volume("full"), volume("through"), volume("empty"), volume("absent")
	c := n.container("acme", "stat", "/v", "/v/file", "/v/link", "/w/file", "/e", "/a")
	c.Binds = []agent.Bind{
		{Source: absent, Target: "/a", Fill: true},
		{Source: full, Target: "/data", Fill: true},
		{Source: empty, Target: "/empty", Fill: true},
		{Source: through, Target: "/linked", Fill: true},
	}
	c.Service.Command = []string{"stat", "/data", "/data/file", "/data/link", "/linked/file", "/empty", "/a"}
	want := "drwxr-x--- 100 200\n-rw-r----- 100 200\nLrwxrwxrwx 0 0\n-rw-r----- 100 200\ndtrwx------ 100 300\ndrwxr-xr-x 0 0\n"
	if got := n.output(c); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if link, err := os.Readlink(filepath.Join(full, "link")); link != "/etc/passwd" {
		t.Errorf("link is %q, %v", link, err)
	}
	if err := os.WriteFile(filepath.Join(full, "file"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = n.container("acme", "read", "/data/file")
	c.Binds = []agent.Bind{{Source: full, Target: "/data", Fill: true}}
	if got := n.output(c); got != "changed" {
		t.Errorf("a volume in use was filled again: %q", got)
	}
}

// TestManyAtOnce prepares tasks of several stamps at the same time.
func TestManyAtOnce(t *testing.T) {
	n := newNode(t)
	var group errgroup.Group
	var all []agent.Container
	for stamp := range 4 {
		for range 3 {
			all = append(all, n.container(bulkhead.StampName(fmt.Sprintf("s--%d", stamp)), "sleep"))
		}
	}
	each := func(do func(context.Context, agent.Container) error) {
		t.Helper()
		for _, c := range all {
			group.Go(func() error { return do(t.Context(), c) })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		each(func(ctx context.Context, c agent.Container) error {
			if err := n.runtime.Prepare(ctx, c); err != nil {
				return err
			}
			return n.runtime.Start(ctx, c.ID)
		})
		for _, c := range all {
			if o, ok := n.observed(c.ID); !ok || o.State != bulkhead.TaskRunning {
				t.Errorf("%s is %+v", c.ID, o)
			}
		}
		each(func(ctx context.Context, c agent.Container) error { return n.runtime.Remove(ctx, c.ID) })
	}
}
