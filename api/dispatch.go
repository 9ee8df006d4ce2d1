package api

import (
	"context"
	"slices"
	"strings"
	"sync"

	"bulkhead"
	"bulkhead/store"
)

// dispatcher hands every change of the state to the node sessions that it concerns,
// so that it costs the same however many nodes there are. It only says where to
// look: a session reads what there is from a view that is at least as new.
//
// A session that is about to tell its node of a stamp first says so (hold), and
// reads the stamp afterwards: so no change falls between.
type dispatcher struct {
	store *store.Store

	mu       sync.Mutex // guards what follows
	sessions map[bulkhead.NodeName]*nodeSession
	holders  map[bulkhead.StampName][]*nodeSession // whose nodes were told of a stamp

	// What is the same for many sessions is made once: news for the gateways that take
	// traffic for the whole farm, and for the others.
	edge, inner *broadcast
}

func newDispatcher(s *store.Store) *dispatcher {
	return &dispatcher{
		store: s, sessions: map[bulkhead.NodeName]*nodeSession{}, holders: map[bulkhead.StampName][]*nodeSession{},
		edge: newBroadcast(s, false), inner: newBroadcast(s, true),
	}
}

// run follows the state until ctx ends.
func (d *dispatcher) run(ctx context.Context) {
	_, changes := d.store.WatchMany(ctx)
	d.dispatch([]store.Change{{}}) // of those that came before
	for changed := range changes {
		d.dispatch(changed)
	}
}

// dispatch marks what changed at the sessions that are to look at it.
func (d *dispatcher) dispatch(changed []store.Change) {
	view := d.store.View()
	d.mu.Lock()
	for _, c := range changed {
		switch {
		case c.Everything():
			for _, s := range d.sessions {
				s.inbox.everything()
			}
		case c.Table == store.Stamps:
			d.stampLocked(view, bulkhead.StampName(c.Key))
		case c.Table == store.Policies: // it says how fast stamps that move are copied
			for stamp := range view.Stamps.All() {
				if m := stamp.Transfer; m != nil && d.sessions[m.To] != nil {
					d.sessions[m.To].inbox.stamp(stamp.Name)
				}
			}
		case c.Table == store.Nodes:
			if s := d.sessions[bulkhead.NodeName(c.Key)]; s != nil {
				s.inbox.node()
			}
		case c.Table == store.Tombs:
			node, _, _ := strings.Cut(c.Key, "/")
			if s := d.sessions[bulkhead.NodeName(node)]; s != nil {
				s.inbox.tombs()
			}
		case c.Table == store.Servers:
			for _, s := range d.sessions {
				s.inbox.servers()
			}
		}
	}
	d.mu.Unlock()
	d.edge.publish(view, changed)
	d.inner.publish(view, changed)
}

// stampLocked marks a stamp at the sessions that have told of it, and at those of the
// nodes that have it now or are to have it.
func (d *dispatcher) stampLocked(view *store.Snapshot, name bulkhead.StampName) {
	for _, s := range d.holders[name] {
		s.inbox.stamp(name)
	}
	if stamp, ok := view.Stamps.Get(name); ok {
		for _, node := range stamp.Nodes() {
			if s := d.sessions[node]; s != nil {
				s.inbox.stamp(name)
			}
		}
	}
}

// open enters a session and returns the one whose place it takes, if there is one.
func (d *dispatcher) open(s *nodeSession) (old *nodeSession) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old = d.sessions[s.node]
	d.sessions[s.node] = s
	return old
}

// close takes a session out, lets its stamps go, and tells whether it was the node's
// current one.
func (d *dispatcher) close(s *nodeSession) (current bool) {
	d.edge.leave(s)
	d.inner.leave(s)
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range s.told {
		d.releaseLocked(s, name)
	}
	for name := range s.asked {
		d.releaseLocked(s, name)
	}
	current = d.sessions[s.node] == s
	if current {
		delete(d.sessions, s.node)
	}
	return current
}

// session is the open session of a node, or nil.
func (d *dispatcher) session(node bulkhead.NodeName) *nodeSession {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions[node]
}

// hold has a session hear of every change of a stamp from now on.
func (d *dispatcher) hold(s *nodeSession, name bulkhead.StampName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.holders[name], s) {
		d.holders[name] = append(d.holders[name], s)
	}
}

// release is the end of hold.
func (d *dispatcher) release(s *nodeSession, name bulkhead.StampName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.releaseLocked(s, name)
}

func (d *dispatcher) releaseLocked(s *nodeSession, name bulkhead.StampName) {
	rest := slices.DeleteFunc(d.holders[name], func(other *nodeSession) bool { return other == s })
	if len(rest) == 0 {
		delete(d.holders, name)
		return
	}
	d.holders[name] = rest
}

// news is the broadcast for a node.
func (d *dispatcher) news(inner bool) *broadcast {
	if inner {
		return d.inner
	}
	return d.edge
}

// inbox is what a session has still to look at. Of each thing it only says that it
// changed, so a session whose node reads slowly finds the newest state, and holds
// nobody up.
type inbox struct {
	wake chan struct{} // holds one when there is something

	mu      sync.Mutex // guards pending
	pending pending
}

// pending is what an inbox holds.
type pending struct {
	everything bool // all of the node's stamps
	stamps     map[bulkhead.StampName]struct{}
	tombs      bool // of stamps that the node had
	node       bool // the node's own record
	servers    bool
}

// mostPending is how many stamps an inbox names; if more have changed, all are looked
// at.
const mostPending = 1000

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (i *inbox) everything() {
	i.mark(func(p *pending) { *p = pending{everything: true, node: true, servers: true} })
}
func (i *inbox) tombs()   { i.mark(func(p *pending) { p.tombs = true }) }
func (i *inbox) node()    { i.mark(func(p *pending) { p.node = true }) }
func (i *inbox) servers() { i.mark(func(p *pending) { p.servers = true }) }

func (i *inbox) stamp(name bulkhead.StampName) {
	i.mark(func(p *pending) {
		switch {
		case p.everything:
		case len(p.stamps) == mostPending:
			p.everything, p.stamps = true, nil
		default:
			if p.stamps == nil {
				p.stamps = map[bulkhead.StampName]struct{}{}
			}
			p.stamps[name] = struct{}{}
		}
	})
}

func (i *inbox) mark(what func(*pending)) {
	i.mu.Lock()
	what(&i.pending)
	i.mu.Unlock()
	i.poke()
}

// poke wakes the session.
func (i *inbox) poke() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (i *inbox) take() pending {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.pending
	i.pending = pending{}
	return p
}
