package sim

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/api"
)

// process is a program that the simulation runs beside itself.
type process struct {
	what  string
	log   string // file of what it says
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
}

func (p *process) begin(cmd *exec.Cmd) error {
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer f.Close()
	cmd.Env = append(plainEnvironment(), cmd.Env...)
	cmd.Stderr = f
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.what, err)
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		_ = cmd.Wait() // the log says why
		close(ended)
	}(p.ended)
	return nil
}

// plainEnvironment is this process's, without what would be flags of bulkhead.
func plainEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BULKHEAD_") })
}

// failure says why the process has ended: its last words.
func (p *process) failure() error {
	b, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if said, ok := strings.CutPrefix(lines[i], "bulkhead: "); ok {
			return bulkhead.Errorf(bulkhead.ErrUnavailable, "%s ended: %s", p.what, said)
		}
	}
	return bulkhead.Errorf(bulkhead.ErrUnavailable, "%s ended: %s", p.what, lines[len(lines)-1])
}

// kill ends it at once, and waits.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // or it has ended
	<-p.ended
}

func (p *process) processor() float64 { return processorOf(p.cmd.Process.Pid) }
func (p *process) memory() int64      { return memoryOf(p.cmd.Process.Pid) }

// server is a server of a farm.
type server struct {
	process
	program, folder string
	config          string // of the command line
	api, nodes      string // HOST:PORT
	peer            string
	token           string
}

func newServer(program, folder string) (*server, error) {
	s := &server{
		process: process{what: "the server", log: filepath.Join(folder, "server.log")},
		program: program, folder: folder, config: filepath.Join(folder, "config.yaml"),
	}
	for _, address := range []*string{&s.api, &s.nodes, &s.peer} {
		var err error
		if *address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// freeAddress is an address on which nobody listens at the moment.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// upMost is how long a server may take to come up.
const upMost = 2 * time.Minute

// start starts the server and waits until it answers. It may be called again after
// kill.
func (s *server) start(ctx context.Context) (took time.Duration, err error) {
	began := time.Now()
	_, port, _ := net.SplitHostPort(s.nodes)
	cmd := exec.Command(s.program, "server", "--config", s.config, "--data", filepath.Join(s.folder, "server"),
		"--advertise", "127.0.0.1", "--api", s.api, "--node-api", ":"+port, "--peer", s.peer, "--node", "server", "--log-level", "warn")
	if err := s.begin(cmd); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, upMost)
	defer cancel()
	for {
		b, err := os.ReadFile(filepath.Join(s.folder, "server", "token"))
		if s.token = strings.TrimSpace(string(b)); err == nil && s.client().Ready(ctx) == nil {
			return time.Since(began), nil
		}
		select {
		case <-s.ended:
			return 0, s.failure()
		case <-ctx.Done():
			return 0, bulkhead.Errorf(bulkhead.ErrUnavailable, "the server does not answer: %w", context.Cause(ctx)).WithHint("see %s", s.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) client() *api.Client { return api.NewClient("http://"+s.api, s.token) }

// bulkhead runs one command against the server.
func (s *server) bulkhead(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.program, append([]string{"--config", s.config, "--api", s.api}, args...)...)
	cmd.Env = plainEnvironment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "bulkhead %s: %s", args[0], cmp.Or(strings.TrimSpace(string(out)), err.Error()))
	}
	return nil
}

// nodes is the process of the simulated nodes, which says every moment what they are
// at.
type nodes struct {
	process

	mu     sync.Mutex // guards what follows
	latest Stats
	heard  chan struct{} // closed at the next stats
}

// manyAgents is from how many on collecting the garbage of all of them in one heap takes the
// processor time that their sessions need. With fewer the memory would cost more than that.
const manyAgents = 10_000

// startNodes starts the nodes at low priority: in a farm they have machines of their
// own.
func startNodes(ctx context.Context, program, folder string, s *server, c FleetConfig) (*nodes, error) {
	n := &nodes{process: process{what: "the process of the nodes", log: filepath.Join(folder, "nodes.log")}, heard: make(chan struct{})}
	args := []string{
		program, "sim", "nodes", "--config", s.config, "--api", s.api, "--scratch", folder, "-o", "json",
		"--nodes", fmt.Sprint(c.Nodes), "--silent", fmt.Sprint(c.Silent), "--edges", fmt.Sprint(c.Edges), "--zones", fmt.Sprint(c.Zones),
		"--cpu", fmt.Sprint(c.CPU), "--memory", fmt.Sprint(c.Memory),
	}
	if nice, err := exec.LookPath("nice"); err == nil {
		args = append([]string{nice, "-n", "10"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = []string{"BULKHEAD_TOKEN=" + s.token} // not where others could read it
	if c.live() > manyAgents {
		cmd.Env = append(cmd.Env, "GOGC=400")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	cmd.Stdout = w
	err = n.begin(cmd)
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	go n.hear(r) // until the process ends
	return n, nil
}

func (n *nodes) hear(r *os.File) {
	defer r.Close()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var s Stats
		if json.Unmarshal(lines.Bytes(), &s) != nil {
			continue
		}
		n.mu.Lock()
		n.latest = s
		close(n.heard)
		n.heard = make(chan struct{})
		n.mu.Unlock()
	}
}

// stats is what was heard last.
func (n *nodes) stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.latest
}

// await waits until the nodes are at what ok wants, and says now and then how far they are.
func (n *nodes) await(ctx context.Context, say func(format string, args ...any), ok func(Stats) bool) (Stats, error) {
	now := time.NewTicker(sayEvery)
	defer now.Stop()
	for {
		n.mu.Lock()
		s, heard := n.latest, n.heard
		n.mu.Unlock()
		if ok(s) {
			return s, nil
		}
		select {
		case <-heard:
		case <-now.C:
			say("  %d nodes have joined, %d are in sessions, %d stamps run", s.Joined, s.Synced, s.Running)
		case <-n.ended:
			return s, n.failure()
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// sayEvery is how often somebody who waits hears how far it is.
const sayEvery = 30 * time.Second
