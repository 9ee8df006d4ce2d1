package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
)

// pair is two nodes, n1 with a stamp that is to move to n2, and what the servers would
// tell them.
type pair struct {
	t     *testing.T
	nodes map[bulkhead.NodeName]*moveNode
	stamp bulkhead.Stamp
	rate  int64 // of the policy
}

// moveNode is one of them. What is on it outlives its agent.
type moveNode struct {
	pair *pair
	name bulkhead.NodeName
	m    *machine
	s    *arrivals
	dir  string
	data *moveData
	life life

	mu sync.Mutex // guards what others dial
	at *Agent
	// alive ends with the agent's life.
	alive context.Context
}

// reached is the agent that who dials the node reaches, and how long it lives.
func (n *moveNode) reached() (*Agent, context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at, n.alive
}

// moveData are the volumes of a node: a text for each stamp.
type moveData struct {
	volumes
	mu       sync.Mutex        // guards what follows
	texts    map[string]string // by UID
	coming   map[string]string // by move
	whole    map[string]bool   // moves whose copy is complete
	wrong    []string
	troubles int          // passes that fail
	unswept  int          // sweeps that fail
	bulk     int64        // bytes that every pass gives beside the text
	got      atomic.Int64 // bytes of these that have come
}

func (d *moveData) write(uid, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.texts[uid] = text
}

func (d *moveData) read(uid string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.texts[uid]
}

func (d *moveData) Send(_ context.Context, conn io.ReadWriter, s bulkhead.StampRef, last bool) error {
	if n := d.running(); last && n > 0 {
		d.mu.Lock()
		d.wrong = append(d.wrong, fmt.Sprintf("the last copy is given while %d tasks run", n))
		d.mu.Unlock()
	}
	if err := writeMessage(conn, d.read(s.UID)); err != nil {
		return err
	}
	d.mu.Lock()
	bulk := d.bulk
	d.mu.Unlock()
	if err := writeMessage(conn, bulk); err != nil {
		return err
	}
	_, err := io.CopyN(conn, zeros{}, bulk)
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func (d *moveData) Fetch(_ context.Context, conn io.ReadWriter, _ bulkhead.StampRef, move string, last bool, told func(int64)) (int64, int, error) {
	d.mu.Lock()
	if d.troubles > 0 {
		d.troubles--
		d.mu.Unlock()
		return 0, 0, errors.New("the connection broke")
	}
	d.mu.Unlock()
	var text string
	if err := readMessage(conn, &text); err != nil {
		return 0, 0, err
	}
	var bulk int64
	if err := readMessage(conn, &bulk); err != nil {
		return 0, 0, err
	}
	for left := bulk; left > 0; {
		n, err := io.CopyN(io.Discard, conn, min(left, 64<<10))
		d.got.Add(n)
		if left -= n; err != nil {
			return 0, 0, err
		}
	}
	told(int64(len(text)))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.coming[move], d.whole[move] = text, last
	return int64(len(text)), 1, nil
}

func (d *moveData) Install(s bulkhead.StampRef, move string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.whole[move] {
		return bulkhead.Errorf(bulkhead.ErrNotFound, "no copy %s", move)
	}
	d.texts[s.UID] = d.coming[move]
	delete(d.coming, move)
	return d.volumes.Install(s, move)
}

func (d *moveData) Leave(s bulkhead.StampRef) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.texts, s.UID)
	return nil
}

func (d *moveData) Sweep(keep func(string) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unswept > 0 {
		d.unswept--
		return errors.New("the disk does not answer")
	}
	maps.DeleteFunc(d.coming, func(move, _ string) bool { return !keep(move) })
	return nil
}

// running are the tasks that run on a machine.
func (m *machine) running() (n int) {
	for _, o := range m.list() {
		if o.State == bulkhead.TaskRunning {
			n++
		}
	}
	return n
}

// arrivals is a server that remembers what it hears of arrivals.
type arrivals struct {
	*server
	mu    sync.Mutex
	heard []bulkhead.Arrival // guarded by mu
}

func (a *arrivals) Connect(ctx context.Context, hello bulkhead.NodeReport) (Session, error) {
	s, err := a.server.Connect(ctx, hello)
	if err != nil {
		return nil, err
	}
	return arrivalSession{s, a}, nil
}

type arrivalSession struct {
	Session
	a *arrivals
}

func (s arrivalSession) Send(r bulkhead.NodeReport) error {
	if r.Arrival != nil {
		s.a.mu.Lock()
		s.a.heard = append(s.a.heard, *r.Arrival)
		s.a.mu.Unlock()
	}
	return s.Session.Send(r)
}

// last is the latest that was heard.
func (a *arrivals) last() (latest bulkhead.Arrival) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.heard) > 0 {
		latest = a.heard[len(a.heard)-1]
	}
	return latest
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, nodes: map[bulkhead.NodeName]*moveNode{}, stamp: shop()}
	p.stamp.Node, p.stamp.Epoch = "n1", 1
	for _, name := range []bulkhead.NodeName{"n1", "n2"} {
		m := newMachine()
		n := &moveNode{
			pair: p, name: name, m: m, s: &arrivals{server: newServer()}, dir: t.TempDir(),
			data: &moveData{volumes: volumes{m}, texts: map[string]string{}, coming: map[string]string{}, whole: map[string]bool{}},
		}
		p.nodes[name] = n
		n.boot()
	}
	p.tell("n1", assign(p.stamp), bulkhead.NodeOrder{Synced: true})
	p.tell("n2", bulkhead.NodeOrder{Synced: true})
	p.nodes["n1"].data.write(p.stamp.UID, "first")
	p.settle(time.Minute)
	if n := p.nodes["n1"].m.running(); n != 2 {
		t.Fatalf("%d tasks run before the move", n)
	}
	return p
}

// boot begins a life of the node's agent.
func (n *moveNode) boot() {
	t := n.pair.t
	a := New(Config{
		Node: func() bulkhead.Node { return bulkhead.Node{Name: n.name} }, Dir: n.dir, Run: t.TempDir(),
		Control: n.s, Runtime: n.m, Network: network{n.m}, Volumes: n.data, Logs: outputs{n.m}, Files: bundles{}, Keys: plain{},
		Dial: func(_ context.Context, peer bulkhead.Peer) (net.Conn, error) {
			at, alive := n.pair.nodes[peer.Node].reached()
			a, b := net.Pipe()
			go at.Serve(alive, b, n.name, "uid-"+string(n.name))
			return a, nil
		},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	n.mu.Lock()
	n.at, n.alive = a, ctx
	n.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n.life = life{a, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})}
	t.Cleanup(n.life.kill)
}

// again ends the agent's life and begins another.
func (n *moveNode) again() {
	n.life.kill()
	n.boot()
	n.pair.settle(time.Second)
}

// tell replaces all that the servers would say to a node, and says it.
func (p *pair) tell(node bulkhead.NodeName, orders ...bulkhead.NodeOrder) {
	s := p.nodes[node].s.server
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders = orders
	for _, o := range orders {
		s.tellLocked(o)
	}
}

func (p *pair) settle(d time.Duration) {
	time.Sleep(d) // pretended
	synctest.Wait()
}

// phase takes the move to a phase, as the servers would tell it.
func (p *pair) phase(phase bulkhead.TransferPhase) {
	p.stamp.Transfer = &bulkhead.Transfer{ID: "m1", From: "n1", To: "n2", ToUID: "uid-n2", Phase: phase}
	fetch := bulkhead.NodeOrder{Fetch: &bulkhead.Fetch{StampRef: ref(p.stamp), Move: "m1", From: bulkhead.Peer{Node: "n1"}, Rate: p.rate}}
	switch synced := (bulkhead.NodeOrder{Synced: true}); phase {
	case bulkhead.TransferSwitching:
		p.stamp.Epoch++
		fetch.Fetch.Last = true
		fallthrough
	case bulkhead.TransferCopying:
		p.tell("n1", assign(p.stamp), synced)
		p.tell("n2", fetch, synced)
	case bulkhead.TransferStarting:
		p.stamp.Epoch++
		p.stamp.Node, p.stamp.Copy = "n2", "m1"
		gone := ref(p.stamp)
		p.tell("n1", bulkhead.NodeOrder{Forget: &gone}, synced)
		p.tell("n2", assign(p.stamp), synced)
	}
}

// giveUp ends the move where it began.
func (p *pair) giveUp() {
	p.stamp.Transfer = nil
	p.stamp.Epoch++
	p.tell("n1", assign(p.stamp), bulkhead.NodeOrder{Synced: true})
	p.tell("n2", bulkhead.NodeOrder{Unfetch: "m1"}, bulkhead.NodeOrder{Synced: true})
}

// ask asks a node for data, as another node would, and returns why it is refused.
func (p *pair) ask(node, caller bulkhead.NodeName, uid string, want copyRequest) string {
	p.t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go p.nodes[node].life.Serve(p.t.Context(), b, caller, uid)
	if err := writeMessage(a, want); err != nil {
		p.t.Fatal(err)
	}
	_ = a.SetReadDeadline(time.Now().Add(time.Minute))
	var answer copyAnswer
	if err := readMessage(a, &answer); err != nil {
		return err.Error()
	}
	return answer.Refused
}

// expect checks how many tasks run where, and with which data.
func (p *pair) expect(what string, n1, n2 int, data string) {
	p.t.Helper()
	synctest.Wait()
	one, two := p.nodes["n1"], p.nodes["n2"]
	if a, b := one.m.running(), two.m.running(); a != n1 || b != n2 {
		p.t.Errorf("%s: %d tasks run at n1 and %d at n2, want %d and %d", what, a, b, n1, n2)
	}
	if got := one.data.read(p.stamp.UID) + two.data.read(p.stamp.UID); got != data {
		p.t.Errorf("%s: the data is %q, want %q", what, got, data)
	}
	for _, n := range p.nodes {
		for _, wrong := range append(n.data.wrong, n.m.wrong...) {
			p.t.Errorf("%s at %s: %s", what, n.name, wrong)
		}
	}
}

func movePair(t *testing.T, test func(p *pair)) {
	synctest.Test(t, func(t *testing.T) { test(newPair(t)) })
}

// TestMove_Agents: the stamp runs until it stands still, the last copy is made of what
// is there then, and it runs on that at the other node.
func TestMove_Agents(t *testing.T) {
	movePair(t, func(p *pair) {
		one, two := p.nodes["n1"], p.nodes["n2"]
		two.data.troubles = 3
		p.phase(bulkhead.TransferCopying)
		p.settle(5 * time.Second)
		if got := two.s.last(); got.State != bulkhead.ArrivalReady || got.Bytes != 5 || got.Passes != 1 {
			t.Errorf("after the first pass n2 says %+v", got)
		}
		p.expect("while it is copied", 2, 0, "first")
		one.data.write(p.stamp.UID, "second")
		p.settle(time.Second)
		p.phase(bulkhead.TransferSwitching)
		p.settle(5 * time.Second)
		if got := two.s.last(); got.State != bulkhead.ArrivalComplete || got.Passes != 2 {
			t.Errorf("after the last pass n2 says %+v", got)
		}
		p.expect("before anybody has it", 0, 0, "second")
		p.phase(bulkhead.TransferStarting)
		p.settle(time.Minute)
		p.expect("at n2", 0, 2, "second")
		if status := two.s.of("acme"); status.Phase != bulkhead.PhaseRunning || status.Epoch != 3 {
			t.Errorf("n2 says %s under epoch %d", status.Phase, status.Epoch)
		}
		if got := len(two.s.heard); got > 6 {
			t.Errorf("n2 has reported %d times", got)
		}
	})
}

// TestMove_Paced: what comes keeps to the rate of the farm's policy, as it is by now, and
// is as fast as it can be once the stamp stands still.
func TestMove_Paced(t *testing.T) {
	movePair(t, func(p *pair) {
		one, two := p.nodes["n1"], p.nodes["n2"]
		const rate = 4 << 20
		one.data.bulk, p.rate = 64<<20, rate
		came := func(d time.Duration, rate float64) {
			t.Helper()
			before := two.data.got.Load()
			p.settle(d)
			if got := float64(two.data.got.Load() - before); got < 0.9*rate*d.Seconds() || got > 1.1*rate*d.Seconds() {
				t.Errorf("%.1f MiB came in %s, at a rate of %.1f MiB a second", got/(1<<20), d, rate/(1<<20))
			}
		}
		p.phase(bulkhead.TransferCopying)
		came(5*time.Second, rate)
		p.rate = 2 * rate
		p.phase(bulkhead.TransferCopying)
		came(5*time.Second, 2*rate)
		if s := two.s.last().State; s != bulkhead.ArrivalCopying {
			t.Errorf("after 60 of 64 MiB n2 says %s", s)
		}
		p.settle(time.Second)
		if s := two.s.last().State; s != bulkhead.ArrivalReady {
			t.Errorf("after 64 MiB n2 says %s", s)
		}
		p.settle(passAgain) // another pass has begun
		if two.data.got.Load() == 64<<20 {
			t.Error("nothing came to keep the copy fresh")
		}
		p.phase(bulkhead.TransferSwitching)
		p.settle(time.Second)
		if s, got := two.s.last().State, two.data.got.Load(); s != bulkhead.ArrivalComplete || got != 3*64<<20 {
			t.Errorf("a second after the switch n2 says %s, and %d MiB have come in all", s, got>>20)
		}
	})
}

// TestMove_PlacedAnew: a stamp that had come with a copy, and is then placed as if new
// before its node has heard that it was elsewhere, waits for no copy.
func TestMove_PlacedAnew(t *testing.T) {
	movePair(t, func(p *pair) {
		for _, phase := range []bulkhead.TransferPhase{bulkhead.TransferCopying, bulkhead.TransferSwitching, bulkhead.TransferStarting} {
			p.phase(phase)
			p.settle(time.Minute)
		}
		p.stamp.Transfer, p.stamp.Copy = nil, ""
		p.stamp.Epoch += 2
		p.tell("n2", assign(p.stamp), bulkhead.NodeOrder{Synced: true})
		p.settle(time.Minute)
		if status := p.nodes["n2"].s.of("acme"); status.Phase != bulkhead.PhaseRunning || status.Epoch != p.stamp.Epoch {
			t.Errorf("n2 says %s %q under epoch %d", status.Phase, status.Message, status.Epoch)
		}
	})
}

// TestMove_GivenUp: whenever the move ends before the stamp was handed over, it runs on
// where it was, and the copy is dropped, though not at the first attempt.
func TestMove_GivenUp(t *testing.T) {
	for _, phase := range []bulkhead.TransferPhase{bulkhead.TransferCopying, bulkhead.TransferSwitching} {
		t.Run(string(phase), func(t *testing.T) {
			movePair(t, func(p *pair) {
				p.phase(bulkhead.TransferCopying)
				p.settle(time.Second)
				p.phase(phase)
				p.settle(5 * time.Second)
				p.nodes["n2"].data.unswept = 3
				p.giveUp()
				p.settle(time.Minute)
				p.expect("given up", 2, 0, "first")
				if left := p.nodes["n2"].data.coming; len(left) > 0 {
					t.Errorf("the copy is left: %v", left)
				}
			})
		})
	}
}

// TestMove_Kills: agents that are killed at any step go on with it when they are back,
// also while no server answers.
func TestMove_Kills(t *testing.T) {
	for _, victim := range []bulkhead.NodeName{"n1", "n2"} {
		for _, when := range []bulkhead.TransferPhase{bulkhead.TransferCopying, bulkhead.TransferSwitching, bulkhead.TransferStarting} {
			t.Run(fmt.Sprint(victim, " ", when), func(t *testing.T) {
				movePair(t, func(p *pair) {
					for _, phase := range []bulkhead.TransferPhase{bulkhead.TransferCopying, bulkhead.TransferSwitching, bulkhead.TransferStarting} {
						p.phase(phase)
						if phase == when {
							p.nodes[victim].again()
						}
						p.settle(30 * time.Second)
						switch phase {
						case bulkhead.TransferCopying:
							p.expect("copying", 2, 0, "first")
						case bulkhead.TransferSwitching:
							for _, n := range p.nodes {
								n.s.leave(true)
							}
							p.nodes[victim].again() // nobody tells it anything
							p.settle(time.Minute)
							p.expect("switching, without servers", 0, 0, "first")
							for _, n := range p.nodes {
								n.s.leave(false)
							}
							p.settle(time.Minute)
							p.expect("switching", 0, 0, "first")
							if got := p.nodes["n2"].s.last(); got.State != bulkhead.ArrivalComplete {
								t.Fatalf("n2 says %+v", got)
							}
						}
					}
					p.settle(time.Minute)
					p.expect("in the end", 0, 2, "first")
				})
			})
		}
	}
}

// TestMove_StaleServer: a server that is behind does not let a stamp run again that was
// stopped to be moved.
func TestMove_StaleServer(t *testing.T) {
	movePair(t, func(p *pair) {
		p.phase(bulkhead.TransferCopying)
		behind := p.stamp
		p.settle(5 * time.Second)
		p.phase(bulkhead.TransferSwitching)
		p.settle(5 * time.Second)
		for range 2 {
			p.tell("n1", assign(behind), bulkhead.NodeOrder{Synced: true})
			p.settle(10 * time.Second)
			p.expect("told of what was", 0, 0, "first")
			p.nodes["n1"].again()
		}
	})
}

// TestServe_Refuses: data is for the node that the stamp moves to, and for nobody else.
func TestServe_Refuses(t *testing.T) {
	movePair(t, func(p *pair) {
		want := copyRequest{StampRef: ref(p.stamp), Move: "m1"}
		if why := p.ask("n1", "n2", "uid-n2", want); why != "stamp acme does not move from here to node n2" {
			t.Errorf("before the move: %q", why)
		}
		p.phase(bulkhead.TransferCopying)
		p.settle(5 * time.Second)
		other, life, another := want, want, want
		other.Name, life.UID, another.Move = "bolt", "u9", "m2"
		for what, c := range map[string]struct {
			caller bulkhead.NodeName
			uid    string
			want   copyRequest
		}{
			"a third node":                {"n3", "uid-n3", want},
			"another machine of the name": {"n2", "uid-of-before", want},
			"another stamp":               {"n2", "uid-n2", other},
			"another life of the stamp":   {"n2", "uid-n2", life},
			"another move":                {"n2", "uid-n2", another},
		} {
			if why := p.ask("n1", c.caller, c.uid, c.want); !strings.HasPrefix(why, "stamp ") || !strings.Contains(why, "does not move from here to node") || strings.Contains(why, "\n") {
				t.Errorf("%s is answered %q", what, why)
			}
		}
		if p.nodes["n1"].life.Expects("n3", "uid-n3") || p.nodes["n1"].life.Expects("n2", "uid-of-before") || !p.nodes["n1"].life.Expects("n2", "uid-n2") {
			t.Error("it expects others than the one that the stamp goes to")
		}
		if why := p.ask("n1", "n2", "uid-n2", want); why != "" {
			t.Errorf("who may have it is refused: %s", why)
		}
		last := want
		last.Last = true
		if why := p.ask("n1", "n2", "uid-n2", last); !strings.Contains(why, "timeout") && !strings.Contains(why, "i/o") { // it waits
			t.Errorf("the last copy, while it runs: %q", why)
		}
		p.expect("after all that", 2, 0, "first")
	})
}
