package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/store"
)

// pupil is a node that believes what it is told.
type pupil struct {
	own    map[bulkhead.StampName]int64 // epochs
	places map[bulkhead.StampName]bulkhead.NodeName
	synced int
	wrong  []string
}

func newPupil() *pupil {
	return &pupil{own: map[bulkhead.StampName]int64{}, places: map[bulkhead.StampName]bulkhead.NodeName{}}
}

func (p *pupil) hear(o bulkhead.NodeOrder) {
	switch {
	case o.Assign != nil:
		st := o.Assign.Stamp
		if st.Epoch < p.own[st.Name] {
			p.wrong = append(p.wrong, fmt.Sprintf("%s of epoch %d after %d", st.Name, st.Epoch, p.own[st.Name]))
		}
		p.own[st.Name] = st.Epoch
	case o.Forget != nil:
		delete(p.own, o.Forget.Name)
	case o.Synced:
		p.synced++
	case o.Farm != nil:
		if o.Farm.All {
			clear(p.places)
		}
		for _, place := range o.Farm.Places {
			p.places[place.Name] = place.Node
		}
		for _, name := range o.Farm.Left {
			delete(p.places, name)
		}
	}
}

// TestSessionsFollow: stamps are made, moved, and erased while sessions come and go.
// In the end every node has been told what is its own and nothing else, versions in
// their order, and where all else is.
func TestSessionsFollow(t *testing.T) {
	f := newFixture(t)
	dial := f.nodeListener()
	const nodes, stamps, moves = 5, 20, 400
	name := func(i int) bulkhead.NodeName { return bulkhead.NodeName(fmt.Sprint("n", i)) }
	var mu sync.Mutex // guards pupils
	pupils := map[bulkhead.NodeName]*pupil{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range nodes {
		client, inner := dial(name(i)), i == 0
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock() // what it has outlives the session
				p := pupils[name(i)]
				if p == nil {
					p = newPupil()
					pupils[name(i)] = p
				}
				var holds []bulkhead.StampRef
				for stamp, epoch := range p.own {
					holds = append(holds, bulkhead.StampRef{Name: stamp, UID: "uid-" + string(stamp), Epoch: epoch})
				}
				clear(p.places)
				mu.Unlock()
				hello := hello(holds...)
				hello.Node.Inner = inner
				s, err := client.Connect(ctx, hello)
				if err != nil {
					continue
				}
				// All but two lose their sessions again and again.
				for orders := 0; i < 2 || orders < 200; orders++ {
					o, err := s.Receive()
					if err != nil {
						break
					}
					mu.Lock()
					p.hear(o)
					mu.Unlock()
				}
				_ = s.Close()
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	for range moves {
		stamp := bulkhead.StampName(fmt.Sprintf("s%02d", random.IntN(stamps)))
		f.update(func(tx *store.Tx) {
			st, ok := tx.Stamps.Get(stamp)
			if ok && random.IntN(8) == 0 {
				tx.Stamps.Delete(stamp)
				return
			}
			st.Name, st.UID, st.Node = stamp, "uid-"+string(stamp), name(random.IntN(nodes))
			st.Epoch = f.store.View().Revision // grows, also from one life to the next
			tx.Stamps.Put(st)
		})
	}
	view := f.store.View()
	right := func() (wrong string) {
		mu.Lock()
		defer mu.Unlock()
		for i := range nodes {
			own, places := map[bulkhead.StampName]int64{}, map[bulkhead.StampName]bulkhead.NodeName{}
			for st := range view.Stamps.All() {
				if st.Node == name(i) {
					own[st.Name] = st.Epoch
				}
				if i > 0 {
					places[st.Name] = st.Node
				}
			}
			p := pupils[name(i)]
			if p == nil || !maps.Equal(p.own, own) {
				return fmt.Sprintf("%s has %v, want %v", name(i), p, own)
			}
			if !maps.Equal(p.places, places) {
				return fmt.Sprintf("%s believes in %v, want %v", name(i), p.places, places)
			}
			if len(p.wrong) > 0 {
				t.Fatalf("%s: %s", name(i), p.wrong)
			}
		}
		return ""
	}
	for end := time.Now().Add(20 * time.Second); ; {
		wrong := right()
		if wrong == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatal(wrong)
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	wg.Wait()
	f.holdsNothing()
}

// holdsNothing waits until the dispatcher has forgotten every session.
func (f *fixture) holdsNothing() {
	f.t.Helper()
	d := f.server.nodes.dispatch
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		d.mu.Lock()
		sessions, holders := len(d.sessions), len(d.holders)
		d.mu.Unlock()
		d.edge.mu.Lock()
		listeners, told := len(d.edge.listeners), d.edge.told
		d.edge.mu.Unlock()
		if sessions+holders+listeners == 0 && told == nil {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("sessions are gone, and %d sessions, %d holders, %d listeners are left", sessions, holders, listeners)
		}
	}
}

// TestDispatchConcernsFew: a change wakes those whom it concerns, and no others.
func TestDispatchConcernsFew(t *testing.T) {
	state := store.Memory()
	d := newDispatcher(state)
	sessions := map[bulkhead.NodeName]*nodeSession{}
	for i := range 100 {
		s := &nodeSession{node: bulkhead.NodeName(fmt.Sprint("n", i)), inbox: newInbox()}
		sessions[s.node] = s
		d.open(s)
	}
	put := func(node bulkhead.NodeName) {
		t.Helper()
		if err := state.Update(t.Context(), func(tx *store.Tx) error {
			tx.Stamps.Put(bulkhead.Stamp{Name: "acme", UID: "1", Node: node})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		d.dispatch([]store.Change{{Table: store.Stamps, Key: "acme"}})
	}
	woken := func() (names []string) {
		for name, s := range sessions {
			if p := s.inbox.take(); p.everything || len(p.stamps) > 0 {
				names = append(names, string(name))
			}
		}
		slices.Sort(names)
		return names
	}
	put("n7")
	if got := woken(); !slices.Equal(got, []string{"n7"}) {
		t.Errorf("a stamp of n7 wakes %v", got)
	}
	d.hold(sessions["n7"], "acme")
	put("n9")
	if got := woken(); !slices.Equal(got, []string{"n7", "n9"}) {
		t.Errorf("its move to n9 wakes %v", got)
	}
	d.release(sessions["n7"], "acme")
	put("")
	if got := woken(); len(got) > 0 {
		t.Errorf("when it is nowhere, %v are woken", got)
	}
}

// TestInboxIsBounded: of too many stamps an inbox remembers none.
func TestInboxIsBounded(t *testing.T) {
	i := newInbox()
	for n := range mostPending {
		i.stamp(bulkhead.StampName(fmt.Sprint(n)))
	}
	if p := i.take(); p.everything || len(p.stamps) != mostPending {
		t.Errorf("%d stamps, everything %v", len(p.stamps), p.everything)
	}
	for n := range 10 * mostPending {
		i.stamp(bulkhead.StampName(fmt.Sprint(n)))
	}
	if p := i.take(); !p.everything || len(p.stamps) > 0 {
		t.Errorf("of ten times as many: %d stamps, everything %v", len(p.stamps), p.everything)
	}
	if p := i.take(); p.everything || p.node || p.servers || len(p.stamps) > 0 {
		t.Errorf("an empty inbox has %+v", p)
	}
}

// TestBroadcast: who follows hears what differs, encoded once for all; who is slow, or
// new, hears everything once, and then what differs.
func TestBroadcast(t *testing.T) {
	state := store.Memory()
	b := newBroadcast(state, false)
	fast, slow := &nodeSession{node: "fast", inbox: newInbox()}, &nodeSession{node: "slow", inbox: newInbox()}
	hears := map[*nodeSession]*pupil{fast: newPupil(), slow: newPupil()}
	read := func(s *nodeSession) (all int, news []*news) {
		news = b.take(s)
		for _, n := range news {
			line, err := n.line()
			if err != nil {
				t.Fatal(err)
			}
			var o bulkhead.NodeOrder
			if err := json.Unmarshal(line, &o); err != nil {
				t.Fatal(err)
			}
			hears[s].hear(o)
			if o.Farm.All {
				all++
			}
		}
		return all, news
	}
	put := func(i int, node bulkhead.NodeName) {
		t.Helper()
		name := bulkhead.StampName(fmt.Sprint("s", i))
		if err := state.Update(t.Context(), func(tx *store.Tx) error {
			tx.Stamps.Put(bulkhead.Stamp{Name: name, UID: "1", Node: node})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b.publish(state.View(), []store.Change{{Table: store.Stamps, Key: string(name)}})
	}
	put(0, "n0")
	b.join(fast)
	b.join(slow)
	if all, _ := read(fast); all != 1 {
		t.Errorf("who is new hears everything %d times", all)
	}
	_, first := read(slow)
	for i := range 100 {
		put(i, "n1")
		if all, news := read(fast); all != 0 || len(news) != 1 {
			t.Fatalf("of one change: everything %d times, %d news", all, len(news))
		}
	}
	put(7, "n1") // nothing new
	if _, news := read(fast); len(news) != 0 {
		t.Errorf("of no change: %d news", len(news))
	}
	all, later := read(slow)
	if all != 0 || len(later) != 100 || !maps.Equal(hears[slow].places, hears[fast].places) {
		t.Errorf("who is a little slow hears everything %d times and %d news", all, len(later))
	}
	for i := range 3 * leastLog { // of half as many places
		put(i%(3*leastLog/2), bulkhead.NodeName(fmt.Sprint("n", i)))
		read(fast)
	}
	all, later = read(slow)
	if all != 1 || len(later) > 3*leastLog/2 || !maps.Equal(hears[slow].places, hears[fast].places) {
		t.Errorf("who is very slow hears everything %d times and %d news; it knows of %d places of %d", all, len(later), len(hears[slow].places), len(hears[fast].places))
	}
	if len(first) != 1 || len(b.log) > 3*leastLog/2 {
		t.Errorf("%d in the log", len(b.log))
	}
	b.leave(fast)
	b.leave(slow)
	if b.told != nil || len(b.log) > 0 {
		t.Error("something is kept for nobody")
	}
}

// TestInnerHearsOfNoPlaces: an inner node is told who may call its gateway.
func TestInnerHearsOfNoPlaces(t *testing.T) {
	f := newFixture(t)
	dial := f.nodeListener()
	f.update(func(tx *store.Tx) { tx.Stamps.Put(bulkhead.Stamp{Name: "acme", UID: "1", Node: "n9"}) })
	inner, edge, third := dial("inner"), dial("edge"), dial("third")
	for _, n := range []struct {
		client *NodeClient
		node   bulkhead.Node
		peers  []bulkhead.NodeName
		places int
	}{
		{edge, bulkhead.Node{Version: "v1.4.1", Gateway: "e:1"}, []bulkhead.NodeName{"edge"}, 1},
		{third, bulkhead.Node{Version: "v1.4.1", Gateway: "t:1", Inner: true}, []bulkhead.NodeName{"edge"}, 0},
		{inner, bulkhead.Node{Version: "v1.4.1", Gateway: "i:1", Inner: true}, []bulkhead.NodeName{"edge"}, 0},
		{edge, bulkhead.Node{Version: "v1.4.1", Gateway: "e:1"}, []bulkhead.NodeName{"edge", "inner", "third"}, 1},
	} {
		s, err := n.client.Connect(t.Context(), bulkhead.NodeReport{Node: &n.node})
		if err != nil {
			t.Fatal(err)
		}
		var peers []bulkhead.NodeName
		places := 0
		for o := receive(t, s); !o.Synced; o = receive(t, s) {
			if o.Farm != nil {
				places += len(o.Farm.Places)
				for _, p := range o.Farm.Peers {
					peers = append(peers, p.Node)
				}
			}
		}
		slices.Sort(peers)
		if places != n.places || !slices.Equal(peers, n.peers) {
			t.Errorf("%+v hears of %d places and of peers %v, want %d and %v", n.node, places, peers, n.places, n.peers)
		}
		_ = s.Close()
	}
}

// TestLedger: what many nodes report at once is written in few transactions, each
// node's in its order; what the state does not take costs nobody else anything.
func TestLedger(t *testing.T) {
	f := newFixture(t)
	const nodes, each = 50, 20
	f.update(func(tx *store.Tx) {
		for i := range nodes {
			node := bulkhead.NodeName(fmt.Sprint("n", i))
			tx.Nodes.Put(bulkhead.Node{Name: node, UID: "uid"})
			tx.Stamps.Put(bulkhead.Stamp{Name: bulkhead.StampName("of-" + node), UID: "1", Node: node})
		}
	})
	before := f.store.View().Revision
	var wg sync.WaitGroup
	removed := make(chan error, nodes)
	l := f.server.nodes.ledger
	l.mu.Lock() // as if it were writing: all of them wait
	l.writing = true
	l.mu.Unlock()
	for i := range nodes {
		node := bulkhead.NodeName(fmt.Sprint("n", i))
		uid := "uid"
		if i == 7 {
			uid = "former"
		}
		s := &nodeSession{node: node, uid: uid, cancel: func(err error) { removed <- err }}
		box := newPostbox(l, s)
		wg.Go(func() {
			for j := range each { // the first is on its way at once; of the others the last is kept
				st := bulkhead.StampStatus{Name: bulkhead.StampName("of-" + node), UID: "1", Node: node, Generation: int64(j + 1)}
				if i == 9 && j == 0 {
					st.Message = string(make([]byte, store.MaxObject)) // never taken
				}
				if err := box.add(t.Context(), bulkhead.NodeReport{Status: &st}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	l.write()
	f.await("all is written", func(v *store.Snapshot) bool {
		for i := range nodes {
			st, _ := v.Statuses.Get(bulkhead.StampName(fmt.Sprint("of-n", i)))
			if i != 7 && st.Generation != each {
				return false
			}
		}
		return true
	})
	if err := <-removed; !errors.Is(err, errRemoved) {
		t.Errorf("a node that is not of the farm any more: %v", err)
	}
	if st, _ := f.store.View().Statuses.Get("of-n9"); st.Generation != each {
		t.Errorf("after one that the state does not take, a node's reports are lost: the last is %d", st.Generation)
	}
	if st, ok := f.store.View().Statuses.Get("of-n7"); ok {
		t.Errorf("its report was taken: %+v", st)
	}
	if n := f.store.View().Revision - before; n > nodes/2 {
		t.Errorf("%d transactions for %d reports of %d nodes", n, nodes*each, nodes)
	}
}

// TestTwoServers: each hands to its own sessions what changes, whichever of them has
// changed it. A node that goes over to the other server is not silent when its first
// session ends.
func TestTwoServers(t *testing.T) {
	f := newFixture(t)
	second, err := NewServer(Config{
		Store: f.store, Sealer: f.server.c.Sealer, Name: "s2", Authority: f.authority, Version: "v1.4.0",
		Bundle: f.server.c.Bundle, HasImage: f.server.c.HasImage,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = second.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	other := *f
	other.server = second
	dial, dialOther := f.nodeListener(), other.nodeListener()
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false, false); err != nil {
		t.Fatal(err)
	}
	open := func(c *NodeClient) *NodeSession {
		t.Helper()
		s := synced(t, c, hello())
		return s
	}
	n1, n2 := open(dial("n1")), open(dialOther("n2"))
	defer n2.Close()
	f.place("acme", "n1")
	if o := next(t, n1); o.Assign == nil || o.Assign.Stamp.Name != "acme" {
		t.Errorf("at the first server n1 hears %+v", o)
	}
	f.place("acme", "n2")
	if o := next(t, n1); o.Forget == nil || o.Forget.Epoch != 2 {
		t.Errorf("at the first server n1 hears %+v", o)
	}
	if o := next(t, n2); o.Assign == nil || o.Assign.Stamp.Epoch != 2 {
		t.Errorf("at the second server n2 hears %+v", o)
	}

	moved := open(dialOther("n1"))
	defer moved.Close()
	f.await("n1 is with the second server", func(v *store.Snapshot) bool { n, _ := v.Nodes.Get("n1"); return n.Server == "s2" })
	_ = n1.Close()
	for end := time.Now().Add(10 * time.Second); f.server.nodes.dispatch.session("n1") != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the first session does not end")
		}
	}
	// The ledger writes in order: what follows the end of the session is after it.
	if err := f.server.nodes.ledger.record(t.Context(), &entry{node: "n2", uid: "uid-n2"}); err != nil {
		t.Fatal(err)
	}
	if n, _ := f.store.View().Nodes.Get("n1"); !n.Silent.IsZero() || n.Server != "s2" {
		t.Errorf("a node that went over to the other server passes for %+v", n)
	}
}

// TestRemovedWhileAway: a node that was removed while it had no session hears so when
// it calls.
func TestRemovedWhileAway(t *testing.T) {
	f := newFixture(t)
	client := f.nodeListener()("n1")
	if _, err := f.RemoveNode(t.Context(), "n1", false); err != nil {
		t.Fatal(err)
	}
	s, err := client.Connect(t.Context(), hello())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if o := receive(t, s); !o.Removed {
		t.Errorf("it hears %+v", o)
	}
	f.holdsNothing()
}

// TestBusyServer: a server that has too much to write asks nodes to come back later,
// and takes them when it has not.
func TestBusyServer(t *testing.T) {
	f := newFixture(t)
	client := f.nodeListener()("n1")
	l := f.server.nodes.ledger
	l.mu.Lock()
	l.waiting += mostWaiting + 1
	l.mu.Unlock()
	if _, err := client.Connect(t.Context(), hello()); !errors.Is(err, bulkhead.ErrUnavailable) || !strings.Contains(err.Error(), "come back later") {
		t.Errorf("a busy server answers %v", err)
	}
	l.mu.Lock()
	l.waiting -= mostWaiting + 1
	l.mu.Unlock()
	s, err := client.Connect(t.Context(), hello())
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}
