package sim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead"
	"bulkhead/agent"
	"bulkhead/api"
	"bulkhead/keys"

	"golang.org/x/sync/errgroup"
)

// FleetConfig says what the nodes are.
type FleetConfig struct {
	Nodes  int
	Silent int // of them, those that join and open no session, as if with another server
	Edges  int // of them, those whose gateways would take traffic for the whole farm
	Zones  int // over which they are spread
	CPU    float64
	Memory int64 // bytes
}

func (c FleetConfig) validate() error {
	switch {
	case c.Nodes < 1 || c.Nodes > MostNodes:
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%d nodes: give 1 to %d with --nodes", c.Nodes, MostNodes)
	case c.Silent < 0 || c.Silent >= c.Nodes:
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%d silent nodes of %d: give 0 to %d with --silent", c.Silent, c.Nodes, c.Nodes-1)
	case c.Edges < 0 || c.Edges > c.Nodes:
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%d edges of %d nodes: give 0 to %d with --edges", c.Edges, c.Nodes, c.Nodes)
	case c.Zones < 1 || c.Zones > c.Nodes:
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%d zones for %d nodes: give 1 to %d with --zones", c.Zones, c.Nodes, c.Nodes)
	case c.CPU <= 0 || c.Memory <= 1<<30:
		return bulkhead.Errorf(bulkhead.ErrInvalid, "nodes of %g cores and %d bytes of memory: give some, and more than 1 GiB, with --cpu and --memory", c.CPU, c.Memory)
	}
	return nil
}

// live is how many nodes open sessions.
func (c FleetConfig) live() int { return c.Nodes - c.Silent }

// Stats is what the nodes are at.
type Stats struct {
	Joined   int   `json:"joined"`
	Synced   int   `json:"synced"`   // nodes that are in a session and know all that is their own
	Running  int   `json:"running"`  // stamps that run
	Sessions int64 `json:"sessions"` // opened, in all
	Refused  int64 `json:"refused"`  // attempts to open one that failed
	Changes  int64 `json:"changes"`  // to containers
}

// Fleet is many simulated nodes in one process.
type Fleet struct {
	c      FleetConfig
	dir    string
	client *api.Client
	log    *slog.Logger

	joined, synced, running, sessions, refused, changes atomic.Int64
}

const (
	// joinAtOnce is how many machines join at the same time.
	joinAtOnce = 32
	// joinAttempts is how often one asks.
	joinAttempts = 20
)

// NewFleet makes the nodes, which join the farm that client is an operator of. What
// they keep is below dir. It starts nothing.
func NewFleet(c FleetConfig, client *api.Client, dir string, log *slog.Logger) (*Fleet, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Fleet{c: c, dir: dir, client: client, log: log}, enoughFiles(c.live())
}

// Stats is what the nodes are at now.
func (f *Fleet) Stats() Stats {
	return Stats{
		Joined: int(f.joined.Load()), Synced: int(f.synced.Load()), Running: int(f.running.Load()),
		Sessions: f.sessions.Load(), Refused: f.refused.Load(), Changes: f.changes.Load(),
	}
}

// Run lets the nodes join and work until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	version, err := f.client.Version(ctx)
	if err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	turns := make(chan struct{}, joinAtOnce)
	for i := range f.c.Nodes {
		work.Go(func() error {
			n := &node{fleet: f, index: i, name: bulkhead.NodeName(fmt.Sprintf("sim-%06d", i)), version: version.Version}
			select {
			case turns <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			err := n.join(ctx)
			<-turns
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("join as %s: %w", n.name, err)
			}
			if err != nil {
				return nil //nolint:nilerr // it was interrupted
			}
			if i >= f.c.live() {
				return nil
			}
			return n.run(ctx)
		})
	}
	return work.Wait()
}

// node is one simulated node. It is the agent's Control.
type node struct {
	fleet   *Fleet
	index   int
	name    bulkhead.NodeName
	version string
	client  *api.NodeClient
}

// join makes a token for the node, as an operator would, and joins with it, as a
// machine would.
func (n *node) join(ctx context.Context) error {
	made, err := n.fleet.client.CreateToken(ctx, api.TokenSpec{Role: string(keys.RoleNode)})
	if err != nil {
		return err
	}
	token, err := keys.ParseJoinToken(made.Token)
	if err != nil {
		return err
	}
	request, err := keys.NewRequest()
	if err != nil {
		return err
	}
	address := n.address(strings.TrimPrefix(made.Join, "https://"))
	answer, err := n.ask(ctx, address, token, request)
	if err != nil {
		return err
	}
	certificate, err := request.Certificate(answer.Certificate)
	if err != nil {
		return err
	}
	pool, _, err := keys.ReadPool(answer.Authority)
	if err != nil {
		return err
	}
	// Nobody renews the certificate: a simulation does not last as long.
	identity, err := keys.NewIdentity(ctx, func(context.Context) (*tls.Certificate, error) { return certificate, nil }, n.fleet.log)
	if err != nil {
		return err
	}
	n.client = api.NewNodeClient(api.NewWay([]string{address}, identity.Client(pool)))
	n.fleet.joined.Add(1)
	return nil
}

// ask asks to join until a server answers, as who starts a machine does.
func (n *node) ask(ctx context.Context, address string, token keys.JoinToken, request *keys.Request) (api.JoinAnswer, error) {
	for attempt := 1; ; attempt++ {
		answer, err := api.Join(ctx, address, token, api.JoinRequest{Role: keys.RoleNode, Name: n.name, Version: n.version, Request: request.PEM})
		if !errors.Is(err, bulkhead.ErrUnavailable) || attempt == joinAttempts {
			return answer, err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return answer, context.Cause(ctx)
		}
	}
}

// nodesOfAddress is how many nodes call one address. Between two addresses of a
// machine there are some 28,000 connections at the most, so that more nodes call a
// server on this machine under several of its own.
const nodesOfAddress = 20_000

func (n *node) address(given string) string {
	host, port, err := net.SplitHostPort(given)
	if ip := net.ParseIP(host).To4(); err == nil && ip != nil && ip.IsLoopback() {
		ip[3] += byte(n.index / nodesOfAddress)
		return net.JoinHostPort(ip.String(), port)
	}
	return given
}

// run is the node's agent.
func (n *node) run(ctx context.Context) error {
	dir := filepath.Join(n.fleet.dir, string(n.name))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder of %s: %w", n.name, err)
	}
	sealer, err := keys.OpenSealer(dir)
	if err != nil {
		return err
	}
	return agent.New(agent.Config{
		Node: n.describe, Dir: dir, Run: dir, Control: n, Keys: sealer,
		Runtime: newMachine(&n.fleet.changes), Network: network{}, Volumes: volumes{}, Logs: logs{}, Files: storage{},
		Log: n.fleet.log.With("node", n.name),
	}).Run(ctx)
}

func (n *node) describe() bulkhead.Node {
	c := n.fleet.c
	return bulkhead.Node{
		Name: n.name, Region: "sim", Zone: fmt.Sprintf("z%d", n.index%c.Zones), Version: n.version, Platform: "linux/amd64", Kernel: "simulated", Runtime: "simulated",
		Capacity: bulkhead.Resources{CPU: c.CPU, Memory: c.Memory, Disk: 1 << 40, PIDs: 1 << 20}, Inner: n.index >= c.Edges, Joined: time.Now().UTC(),
	}
}

// Connect opens a session, and counts.
func (n *node) Connect(ctx context.Context, hello bulkhead.NodeReport) (agent.Session, error) {
	s, err := n.client.Connect(ctx, hello)
	if err != nil {
		n.fleet.refused.Add(1)
		return nil, err
	}
	n.fleet.sessions.Add(1)
	return &session{NodeSession: s, fleet: n.fleet}, nil
}

// session counts what passes.
type session struct {
	*api.NodeSession
	fleet *Fleet

	mu      sync.Mutex // guards what follows
	synced  bool
	closed  bool
	running map[bulkhead.StampName]bool
}

func (s *session) Receive() (bulkhead.NodeOrder, error) {
	o, err := s.NodeSession.Receive()
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.Synced && !s.synced && !s.closed {
		s.synced = true
		s.fleet.synced.Add(1)
	}
	return o, err
}

func (s *session) Send(r bulkhead.NodeReport) error {
	err := s.NodeSession.Send(r)
	if r.Status == nil || err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if runs := r.Status.Phase == bulkhead.PhaseRunning; !s.closed && runs != s.running[r.Status.Name] {
		if s.running == nil {
			s.running = map[bulkhead.StampName]bool{}
		}
		if runs {
			s.running[r.Status.Name] = true
			s.fleet.running.Add(1)
		} else {
			delete(s.running, r.Status.Name)
			s.fleet.running.Add(-1)
		}
	}
	return nil
}

func (s *session) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		if s.synced {
			s.fleet.synced.Add(-1)
		}
		s.fleet.running.Add(-int64(len(s.running)))
	}
	s.mu.Unlock()
	return s.NodeSession.Close()
}
