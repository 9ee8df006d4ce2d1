package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
	"bulkhead/agent"
	"bulkhead/api"
	"bulkhead/auth"
	"bulkhead/controller"
	"bulkhead/keys"
	"bulkhead/plan"
	"bulkhead/store"
	"bulkhead/volume"
)

const (
	serverCount = 3
	nodeCount   = 10
	nodeMemory  = 4 << 30
)

// farm is three servers and ten nodes.
type farm struct {
	t      testing.TB
	log    *slog.Logger
	folder string
	net    *network
	shared *store.Shared
	judge  *judge
	token  string

	calm    atomic.Bool // no more faults
	servers []*server
	nodes   []*node
	users   sync.WaitGroup // requests under way
}

func newFarm(t testing.TB, folder string, seed uint64, log *slog.Logger) *farm {
	f := &farm{t: t, log: log, folder: folder, net: newNetwork(seed)}
	f.judge = newJudge(f)
	f.shared = store.NewShared(f.judge.committed)
	token, hash := auth.New()
	f.token = token
	first := f.shared.Open(store.Config{}, nil)
	now := time.Now()
	err := first.Update(t.Context(), func(tx *store.Tx) error {
		tx.Tokens.Put(store.Token{Hash: hash, Operator: "ann", Role: string(auth.RoleAdmin)})
		for i := range serverCount {
			name := bulkhead.NodeName(fmt.Sprint("s", i+1))
			tx.Servers.Put(bulkhead.Server{Name: name, NodeAPI: string(name) + ":7443", API: "https://" + string(name)})
			f.servers = append(f.servers, &server{f: f, name: name})
		}
		for i := range nodeCount {
			name := bulkhead.NodeName(fmt.Sprintf("n%02d", i+1))
			n := &node{f: f, name: name, uid: "uid-" + string(name), region: []string{"east", "west"}[i%2]}
			n.machine = newMachine(f, name, filepath.Join(folder, string(name)), seed)
			f.nodes = append(f.nodes, n)
			tx.Nodes.Put(bulkhead.Node{Name: name, UID: n.uid, Joined: now, Seen: now, Silent: now, State: bulkhead.NodeUnreachable})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	return f
}

// trouble tells whether things may fail now.
func (f *farm) trouble() bool { return !f.calm.Load() }

func (f *farm) start() {
	for _, s := range f.servers {
		s.start()
	}
	for _, n := range f.nodes {
		n.start()
	}
}

func (f *farm) stop() {
	for _, n := range f.nodes {
		n.crash()
	}
	for _, s := range f.servers {
		s.crash()
	}
	f.users.Wait()
}

// server is a machine that is a server, again and again.
type server struct {
	f     *farm
	name  bulkhead.NodeName
	clock atomic.Int64               // by how many nanoseconds it is wrong
	life  atomic.Pointer[serverLife] // nil: down
}

// serverLife is one process.
type serverLife struct {
	s      *server
	store  *store.Store
	api    *api.Server
	cancel context.CancelFunc
	ended  chan struct{} // closed when it is killed
	parts  sync.WaitGroup
}

func (s *server) now() time.Time { return time.Now().Add(time.Duration(s.clock.Load())) }

func (s *server) start() {
	if s.life.Load() != nil {
		return
	}
	f := s.f
	ctx, cancel := context.WithCancel(context.Background())
	life := &serverLife{s: s, cancel: cancel, ended: make(chan struct{})}
	life.store = f.shared.Open(store.Config{Name: string(s.name)}, life)
	leader := controller.New(controller.Config{Store: life.store, Log: f.log.With("controller", s.name), Now: s.now})
	var err error
	life.api, err = api.NewServer(api.Config{
		Store: life.store, Sealer: seals{}, Name: s.name, Now: s.now, Version: "v1.4.0",
		Forecast: controller.Forecast, Meetable: controller.Meetable, Create: leader.Create, Target: controller.Target,
		Bundle:   func(_ context.Context, d bulkhead.Digest) (string, error) { return projects[d], nil },
		HasImage: func(context.Context, bulkhead.Image) error { return nil },
		Logger:   f.log.With("server", s.name),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, part := range []func(context.Context) error{
		life.store.Run, life.store.Attend, life.api.Run, leader.Run,
	} {
		life.parts.Go(func() {
			if err := part(ctx); err != nil {
				f.judge.fail(process, "server %s: %v", s.name, err)
			}
		})
	}
	s.life.Store(life)
}

// crash kills the server. Its connections break.
func (s *server) crash() {
	life := s.life.Swap(nil)
	if life == nil {
		return
	}
	close(life.ended)
	life.cancel()
	life.api.Close()
	life.parts.Wait()
	if err := life.store.Close(); err != nil {
		s.f.judge.fail(process, "server %s: %v", s.name, err)
	}
}

// Ask and Answer are its way to the state.
func (l *serverLife) Ask(ctx context.Context) error {
	return l.s.f.net.pass(ctx, l.ended, place(l.s.name), way{place(l.s.name), state})
}

func (l *serverLife) Answer(ctx context.Context) error {
	return l.s.f.net.pass(ctx, l.ended, place(l.s.name), way{state, place(l.s.name)})
}

// serves tells whether nodes and users are let in.
func (l *serverLife) serves() bool {
	_, ok := l.store.View().Present.Get(l.s.name)
	return ok
}

// RoundTrip is the users' way to the servers.
func (f *farm) RoundTrip(r *http.Request) (*http.Response, error) {
	i := slices.IndexFunc(f.servers, func(s *server) bool { return string(s.name) == r.URL.Host })
	s := f.servers[i]
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	if err := f.net.pass(ctx, nil, users, way{users, place(s.name)}); err != nil {
		return nil, err
	}
	life := s.life.Load()
	if life == nil {
		return nil, errors.New("connection refused")
	}
	w := httptest.NewRecorder()
	done := make(chan struct{})
	life.parts.Go(func() {
		defer close(done)
		life.api.ServeHTTP(w, r.WithContext(ctx))
	})
	select {
	case <-done:
	case <-life.ended:
		return nil, errEnded
	}
	if err := f.net.pass(ctx, life.ended, place(s.name), way{place(s.name), users}); err != nil {
		return nil, err
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// client is a user's, who begins with the i-th server.
func (f *farm) client(i int) *api.Client {
	var bases []string
	for j := range f.servers {
		bases = append(bases, (&url.URL{Scheme: "http", Host: string(f.servers[(i+j)%len(f.servers)].name)}).String())
	}
	c := api.NewClient(bases[0], f.token)
	if err := c.Farm(bases, nil, nil); err != nil {
		panic(err) // of an authority, and there is none
	}
	c.Via(f)
	return c
}

// node is a machine that runs agents, one after the other.
type node struct {
	f       *farm
	name    bulkhead.NodeName
	uid     string
	region  string
	machine *machine
	life    atomic.Pointer[nodeLife] // nil: down
	lives   int
}

type nodeLife struct {
	n      *node
	agent  *agent.Agent
	cancel context.CancelFunc
	ended  chan struct{} // closed when it is killed
	parts  sync.WaitGroup
	next   int // which server is asked next
	routes atomic.Pointer[[]bulkhead.Route]
	newest map[string]int64 // epochs of what was routed, by life of a stamp; of the goroutine that routes
}

func (n *node) dir(what string) string { return filepath.Join(n.machine.folder, what) }

func (n *node) start() {
	if n.life.Load() != nil {
		return
	}
	f := n.f
	ctx, cancel := context.WithCancel(context.Background())
	life := &nodeLife{n: n, cancel: cancel, ended: make(chan struct{}), next: n.lives, newest: map[string]int64{}}
	n.lives++
	volumes, err := volume.New(volume.Config{Dir: n.dir("volumes")})
	if err != nil {
		f.t.Fatal(err)
	}
	h := &hand{machine: n.machine, ended: life.ended, volumes: volumes}
	changed := make(chan struct{}, 1)
	life.agent = agent.New(agent.Config{
		Node: func() bulkhead.Node {
			return bulkhead.Node{
				Name: n.name, Region: n.region, Version: "v1.4.0", Platform: "linux/amd64", Gateway: string(n.name) + ":7444",
				Capacity: bulkhead.Resources{CPU: 16, Memory: nodeMemory, Disk: 1 << 40},
			}
		},
		Dir: n.dir("agent"), Run: n.dir("run"), Control: life, Dial: life.dial,
		Runtime: h, Network: bridges{h}, Volumes: disks{h}, Logs: outputs{h}, Files: bundles{h}, Keys: seals{},
		Changed: func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		},
		Log: f.log.With("node", n.name),
	})
	life.parts.Go(func() {
		if err := life.agent.Run(ctx); err != nil {
			f.judge.fail(process, "node %s: %v", n.name, err)
		}
	})
	life.parts.Go(func() { _ = volumes.Run(ctx) })
	life.parts.Go(func() { // as the daemon does
		select {
		case <-life.agent.Settled():
		case <-ctx.Done():
			return
		}
		for {
			life.route()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	n.life.Store(life)
}

// route makes the gateway's table. As the gateway does (gateway/table.go), it leaves out
// what is of an older epoch than it has seen.
func (l *nodeLife) route() {
	places := map[bulkhead.StampName]bulkhead.Place{}
	for _, p := range l.agent.Places() {
		places[p.Name] = p
	}
	var table []bulkhead.Route
	for _, r := range plan.Routes(l.agent.Stamps(), slices.Collect(maps.Values(places))) {
		if p := places[r.Stamp]; p.UID == r.UID && p.Epoch > r.Epoch {
			l.n.f.judge.fail(routing, "%s routes %s under epoch %d of %s, and knows of epoch %d on %q", l.n.name, r.Host, r.Epoch, r.Stamp, p.Epoch, p.Node)
		}
		if r.Epoch >= l.newest[r.UID] {
			l.newest[r.UID] = r.Epoch
			table = append(table, r)
		}
	}
	l.routes.Store(&table)
}

// crash kills the agent. What it has begun to write under its folder does not show.
func (n *node) crash() {
	life := n.life.Swap(nil)
	if life == nil {
		return
	}
	close(life.ended)
	was := n.dir("agent")
	if err := os.Rename(was, was+"-now"); err != nil && !errors.Is(err, os.ErrNotExist) {
		n.f.t.Fatal(err)
	}
	life.cancel()
	life.parts.Wait()
	if err := os.RemoveAll(was); err != nil {
		n.f.t.Fatal(err)
	}
	if err := os.Rename(was+"-now", was); err != nil && !errors.Is(err, os.ErrNotExist) {
		n.f.t.Fatal(err)
	}
}

// reboot is a loss of power: no task is left, nor any network.
func (n *node) reboot() {
	n.crash()
	m := n.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.containers {
		m.endLocked(c, 137)
	}
	clear(m.endpoints)
	clear(m.subnets)
}

// Connect is the agent's way to the servers: the next one that answers.
func (l *nodeLife) Connect(ctx context.Context, hello bulkhead.NodeReport) (agent.Session, error) {
	f := l.n.f
	here := place(l.n.name)
	within, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	s := f.servers[l.next%len(f.servers)]
	l.next++
	there := place(s.name)
	if err := f.net.pass(within, l.ended, here, way{here, there}); err != nil {
		return nil, fmt.Errorf("reach server %s: %w", s.name, err)
	}
	server := s.life.Load()
	if server == nil || !server.serves() {
		return nil, errors.New("connection refused")
	}
	w := &wire{
		up: newLane(f.net, way{here, there}, server.ended), down: newLane(f.net, way{there, here}, l.ended),
		clock: s.now, heard: func(o bulkhead.NodeOrder) { f.judge.heard(l.n.name, o) },
	}
	if err := f.net.pass(within, l.ended, here, way{there, here}); err != nil {
		return nil, fmt.Errorf("reach server %s: %w", s.name, err)
	}
	caller := keys.Caller{Role: keys.RoleNode, Name: l.n.name, UID: l.n.uid, Expires: s.now().Add(24 * time.Hour)}
	server.parts.Go(func() {
		stop := make(chan struct{})
		server.parts.Go(func() { // whose process ends first
			select {
			case <-server.ended:
				w.down.hangUp(true)
				w.up.leave()
			case <-l.ended:
				w.up.hangUp(true)
				w.down.leave()
			case <-stop:
			}
		})
		defer close(stop)
		defer serverEnd{w}.Close()
		_ = server.api.ServeNode(context.Background(), caller, serverEnd{w})
	})
	session := nodeEnd{w}
	return session, session.Send(hello)
}

// dial is the agent's way to other agents.
func (l *nodeLife) dial(ctx context.Context, peer bulkhead.Peer) (net.Conn, error) {
	f := l.n.f
	i := slices.IndexFunc(f.nodes, func(n *node) bool { return n.name == peer.Node })
	if i < 0 {
		return nil, fmt.Errorf("no node %s", peer.Node)
	}
	other := f.nodes[i]
	within, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	for _, w := range []way{{place(l.n.name), place(other.name)}, {place(other.name), place(l.n.name)}} {
		if err := f.net.pass(within, l.ended, place(l.n.name), w); err != nil {
			return nil, err
		}
	}
	life := other.life.Load()
	if life == nil || !life.agent.Expects(l.n.name, l.n.uid) {
		return nil, errors.New("connection refused")
	}
	c := f.net.connect(place(l.n.name), place(other.name))
	life.parts.Go(func() {
		defer f.net.hangUp(c)
		stop := make(chan struct{})
		defer close(stop)
		life.parts.Go(func() {
			select {
			case <-l.ended:
			case <-life.ended:
			case <-stop:
			}
			f.net.hangUp(c)
		})
		life.agent.Serve(context.Background(), c.far, l.n.name, l.n.uid)
	})
	return c.near, nil
}

// projects are the folders of the products, by bundle.
var projects = map[bulkhead.Digest]string{
	bundleOf("shop"): "testdata/shop", bundleOf("page"): "testdata/page",
}

func bundleOf(product string) bulkhead.Digest {
	return bulkhead.Digest("sha256:" + strings.Repeat(fmt.Sprintf("%02x", len(product)), 16) + strings.Repeat(fmt.Sprintf("%02x", product[0]), 16))
}

// publish publishes the products and waits until the farm is there.
func (f *farm) publish() {
	image := func(name string) bulkhead.Image {
		return bulkhead.Image{Reference: name + ":1", Repository: "docker.io/library/" + name, Digest: bulkhead.Digest("sha256:" + strings.Repeat("b", 64))}
	}
	for product, services := range map[string][]bulkhead.ServiceName{"shop": {"db", "web"}, "page": {"web"}} {
		images := map[bulkhead.ServiceName]bulkhead.Image{}
		for _, s := range services {
			images[s] = image(string(s))
		}
		_, err := f.client(0).Publish(f.t.Context(), api.ReleaseSpec{Version: "1", Bundle: bundleOf(product), Images: images})
		if err != nil {
			f.judge.fail(acked, "publish %s: %v", product, err)
		}
	}
	synctest.Wait()
}
