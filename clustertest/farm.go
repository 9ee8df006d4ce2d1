package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/api"
)

// Farm is several machines on this one: each is a network namespace with an
// address of its own on a common bridge, a data folder and a process. What the
// kernel has only once (cgroups, the disk, the clock) they share.
type Farm struct {
	T   testing.TB
	dir string
	// net is the first three parts of the machines' addresses, bridge what they are on.
	net, bridge string
	machines    []*Machine
}

// Machine is one of a farm. It is a Node whose commands run in its namespace.
type Machine struct {
	*Node
	Name string
	IP   string
	farm *Farm
	ns   string // name of its network namespace
	args []string
}

// NewFarm makes the bridge between machines. It is gone when the test ends.
func NewFarm(t testing.TB) *Farm {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a farm needs root: it is made of network namespaces")
	}
	dir, err := os.MkdirTemp("", "bhfarm")
	if err != nil {
		t.Fatal(err)
	}
	third := os.Getpid() % 250
	f := &Farm{T: t, dir: dir, net: fmt.Sprintf("10.251.%d", third), bridge: fmt.Sprintf("bhf%d", third)}
	t.Cleanup(func() {
		f.ip("link", "delete", f.bridge)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	f.ip("link", "add", f.bridge, "type", "bridge")
	f.ip("addr", "add", f.net+".254/24", "dev", f.bridge)
	f.ip("link", "set", f.bridge, "up")
	return f
}

func (f *Farm) ip(args ...string) {
	f.T.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		f.T.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Machine makes the next machine; args are its command line, such as "agent".
func (f *Farm) Machine(name string, args ...string) *Machine {
	f.T.Helper()
	i := len(f.machines) + 1
	m := &Machine{Name: name, IP: fmt.Sprintf("%s.%d", f.net, i), farm: f, ns: fmt.Sprintf("%s-%d", f.bridge, i), args: args}
	m.Node = &Node{T: f.T, Dir: filepath.Join(f.dir, name), API: m.IP + ":7070", HTTP: m.IP + ":8080"}
	if err := os.Mkdir(m.Dir, 0o700); err != nil {
		f.T.Fatal(err)
	}
	m.env = append(os.Environ(),
		"HOME="+m.Dir, "BULKHEAD_CONFIG="+filepath.Join(m.Dir, "config.yaml"), "BULKHEAD_DATA="+m.Data(), "BULKHEAD_NODE="+name, "NO_COLOR=1",
	)
	m.wrap = []string{"nsenter", "--net=/run/netns/" + m.ns}
	f.machines = append(f.machines, m)
	outer := fmt.Sprintf("%sv%d", f.bridge, i)
	f.T.Cleanup(func() {
		m.destroy()
		f.ip("link", "delete", outer) // with its namespace it would go some time later, and its name be taken until then
		f.ip("netns", "delete", m.ns)
	})
	f.ip("netns", "add", m.ns)
	f.ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", m.ns)
	f.ip("link", "set", outer, "master", f.bridge, "up")
	for _, line := range []string{"addr add " + m.IP + "/24 dev eth0", "link set eth0 up", "link set lo up", "route add default via " + f.net + ".254"} {
		f.ip(append([]string{"-n", m.ns}, strings.Fields(line)...)...)
	}
	return m
}

// Disk puts a disk of that size in bytes under the machine's data folder, before it
// starts. It is a file system in memory: full when it is full, like any other.
func (m *Machine) Disk(size int64) {
	m.T.Helper()
	if err := os.Mkdir(m.Data(), 0o700); err != nil {
		m.T.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", m.Data(), "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		m.T.Fatalf("mount disk of %s: %v", m.Name, err)
	}
	m.mounted = true
}

// Fill leaves so many bytes of the machine's disk free; the file that does it is gone
// after Room.
func (m *Machine) Fill(left int64) {
	m.T.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(m.Data(), &fs); err != nil {
		m.T.Fatal(err)
	}
	f, err := os.Create(filepath.Join(m.Data(), "ballast"))
	if err != nil {
		m.T.Fatal(err)
	}
	defer f.Close()
	if size := int64(fs.Bavail)*fs.Bsize - left; size > 0 {
		if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
			m.T.Fatalf("fill disk of %s: %v", m.Name, err)
		}
	}
}

// Room undoes Fill.
func (m *Machine) Room() {
	m.T.Helper()
	if err := os.Remove(filepath.Join(m.Data(), "ballast")); err != nil {
		m.T.Fatal(err)
	}
}

// Start runs the machine's process; it does not wait until that is of use.
func (m *Machine) Start(flags ...string) {
	m.T.Helper()
	log, err := os.OpenFile(filepath.Join(m.Dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		m.T.Fatal(err)
	}
	defer log.Close()
	m.cmd = m.command(m.T.Context(), append(append([]string(nil), m.args...), flags...)...)
	m.cmd.Cancel = func() error { return nil } // destroy ends it, in good order
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := m.cmd.Start(); err != nil {
		m.T.Fatal(err)
	}
	go func(cmd *exec.Cmd) { _ = cmd.Wait() }(m.cmd)
}

// Signal sends a signal to the machine's process.
func (m *Machine) Signal(s syscall.Signal) {
	if err := syscall.Kill(m.Pid(), s); err != nil {
		m.T.Errorf("signal %s: %v", m.Name, err)
	}
}

// Read executes a command line that answers in JSON. What it says beside that, such as
// that its answer may be old, is not read.
func (m *Machine) Read(v any, args ...string) {
	m.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute*patience())
	defer cancel()
	out, err := m.command(ctx, append(args, "-o", "json")...).Output()
	if err == nil {
		err = json.Unmarshal(out, v)
	}
	if err != nil {
		m.T.Fatalf("bulkhead %s at %s: %v\n%s", strings.Join(args, " "), m.Name, err, out)
	}
}

// Token makes a join token for a role.
func (m *Machine) Token(role string, flags ...string) (t api.TokenView) {
	m.T.Helper()
	m.Read(&t, append([]string{"token", "create", "--role", role}, flags...)...)
	return t
}

// Nodes are the farm's nodes by name, as this machine is told.
func (m *Machine) Nodes() map[string]api.NodeView {
	m.T.Helper()
	out := map[string]api.NodeView{}
	var list []api.NodeView
	m.Read(&list, "node", "list")
	for _, n := range list {
		out[string(n.Name)] = n
	}
	return out
}

// Servers are the farm's servers by name.
func (m *Machine) Servers() map[string]api.ServerView {
	m.T.Helper()
	out := map[string]api.ServerView{}
	var list []api.ServerView
	m.Read(&list, "server", "list")
	for _, s := range list {
		out[string(s.Name)] = s
	}
	return out
}

// Client is a user's way to the API of a server, and to that of others too.
func (m *Machine) Client(others ...*Machine) *api.Client {
	m.T.Helper()
	token, err := os.ReadFile(filepath.Join(m.Data(), "token"))
	if err != nil {
		m.T.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(m.Data(), "keys", "authority.pem"))
	if err != nil {
		m.T.Fatal(err)
	}
	c := api.NewClient("https://"+m.API, strings.TrimSpace(string(token)))
	var servers []string
	for _, o := range others {
		servers = append(servers, "https://"+o.API)
	}
	if err := c.Farm(servers, authority, nil); err != nil {
		m.T.Fatal(err)
	}
	return c
}

// Cut drops what the machine sends to others ("out"), or gets from them ("in"), or
// both. Heal ends it.
func (m *Machine) Cut(direction string, others ...*Machine) {
	m.T.Helper()
	rules := "table inet cut {\n"
	for hook, field := range map[string]string{"input": "saddr", "output": "daddr"} {
		rules += fmt.Sprintf(" chain %s { type filter hook %s priority -300;\n", hook, hook)
		for _, o := range others {
			if direction == "both" || direction == "in" && hook == "input" || direction == "out" && hook == "output" {
				rules += fmt.Sprintf("  ip %s %s drop;\n", field, o.IP)
			}
		}
		rules += " }\n"
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+m.ns, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules + "}\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		m.T.Fatalf("nft: %v\n%s", err, out)
	}
}

// Heal ends what Cut began.
func (m *Machine) Heal() {
	m.T.Helper()
	if out, err := exec.Command("nsenter", "--net=/run/netns/"+m.ns, "nft", "delete", "table", "inet", "cut").CombinedOutput(); err != nil {
		m.T.Fatalf("nft: %v\n%s", err, out)
	}
}

// Watcher asks gateways for stamps, ten times a second each, as their users would.
type Watcher struct {
	stop chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex
	asked    int             // guarded by mu
	failed   int             // guarded by mu
	failures []string        // the first of them; guarded by mu
	took     []time.Duration // of those that did not fail; guarded by mu
}

// Watch begins to ask each of the gateways for each of the stamps.
func Watch(gateways []*Machine, stamps ...string) *Watcher {
	w := &Watcher{stop: make(chan struct{})}
	for _, g := range gateways {
		for _, stamp := range stamps {
			w.done.Go(func() {
				client := &http.Client{Timeout: 20 * time.Second} // longer than a gateway holds
				defer client.CloseIdleConnections()
				t := time.NewTicker(100 * time.Millisecond)
				defer t.Stop()
				for {
					select {
					case <-w.stop:
						return
					case <-t.C:
					}
					began := time.Now()
					err := ask(client, g.HTTP, stamp)
					took := time.Since(began)
					w.mu.Lock()
					w.asked++
					if err == nil {
						w.took = append(w.took, took)
					} else if w.failed++; len(w.failures) < 20 {
						w.failures = append(w.failures, fmt.Sprintf("%s at %s, %s after %s: %v", stamp, g.Name, began.Format("15:04:05.000"), took.Round(time.Millisecond), err))
					}
					w.mu.Unlock()
				}
			})
		}
	}
	return w
}

func ask(client *http.Client, gateway, stamp string) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+gateway+"/", nil)
	if err != nil {
		return err
	}
	req.Host = stamp + ".localhost"
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// End stops asking, and tells how often it asked and what failed.
func (w *Watcher) End() (asked, failed int, failures []string) {
	close(w.stop)
	w.done.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked, w.failed, w.failures
}

// Expect ends the watching and fails the test if a request failed.
func (w *Watcher) Expect(t testing.TB, what string) {
	t.Helper()
	asked, failed, failures := w.End()
	t.Logf("%s: %d of %d requests failed; 99 of 100 were answered within %v", what, failed, asked, quantile(w.took, 99).Round(100*time.Microsecond))
	if failed > 0 || asked == 0 {
		t.Errorf("%s: of %d requests %d failed: %s", what, asked, failed, strings.Join(failures, "\n"))
	}
}

// quantile is the time within which so many of a hundred are (the nearest rank); 0 of none.
func quantile(took []time.Duration, percent int) time.Duration {
	if len(took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(took))
	return sorted[(len(sorted)*percent+99)/100-1]
}

// Stamp is what the machine is told of a stamp.
func (m *Machine) Stamp(name string) (s api.Stamp) {
	m.T.Helper()
	m.Read(&s, "stamp", "show", name)
	return s
}

// tasks are the stamps that have a running process on the machine.
func (m *Machine) tasks() map[bulkhead.StampName]bool {
	out := map[bulkhead.StampName]bool{}
	for id := range m.Processes() {
		stamp, _, _ := strings.Cut(id, ".")
		out[bulkhead.StampName(stamp)] = true
	}
	return out
}
