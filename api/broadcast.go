package api

import (
	"bytes"
	"encoding/json"
	"slices"
	"sync"

	"bulkhead"
	"bulkhead/store"
)

// broadcast tells gateways of the rest of the farm: where stamps are, and how nodes
// are reached. It is the same for all that listen, so it is computed and encoded once.
// Who is slow finds what it has missed in a log; if that is too much, it is told
// everything.
type broadcast struct {
	store *store.Store
	inner bool // for nodes that are

	mu        sync.Mutex // guards what follows
	listeners map[bulkhead.NodeName]listener
	told      *chart  // what everybody has heard who has heard all; nil while nobody listens
	log       []*news // the newest, oldest first
	size      int     // of log, in stamps and nodes
	next      int64   // the number of the news that comes next
	all       *news   // everything before number allAt; nil: to be made
	allAt     int64
}

// listener is a session, and the number of the news that it is to hear next.
type listener struct {
	session *nodeSession
	next    int64
}

// unheard is the number of who has heard nothing.
const unheard = -1

// leastLog is how many stamps and nodes a log may name, however small the farm is.
const leastLog = 1000

// chart is where everything is.
type chart struct {
	places map[bulkhead.StampName]bulkhead.Place
	peers  map[bulkhead.NodeName]bulkhead.Peer
}

// news is an order to many.
type news struct {
	order bulkhead.NodeOrder
	line  func() ([]byte, error) // made once, by who needs it first
}

func newNews(f bulkhead.FarmNews) *news {
	o := bulkhead.NodeOrder{Farm: &f}
	return &news{o, sync.OnceValues(func() ([]byte, error) {
		var b bytes.Buffer
		err := json.NewEncoder(&b).Encode(o)
		return b.Bytes(), err
	})}
}

func newBroadcast(s *store.Store, inner bool) *broadcast {
	return &broadcast{store: s, inner: inner, listeners: map[bulkhead.NodeName]listener{}}
}

// join has a session listen: it is to hear everything first. An earlier one of the node
// hears no more.
func (b *broadcast) join(s *nodeSession) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.told == nil {
		b.surveyLocked(b.store.View())
	}
	b.listeners[s.node] = listener{s, unheard}
}

// leave is the end of join.
func (b *broadcast) leave(s *nodeSession) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners[s.node].session == s {
		delete(b.listeners, s.node)
	}
	if len(b.listeners) == 0 {
		b.told, b.all = nil, nil
		b.forgetLocked()
	}
}

// take is what a session has not heard yet.
func (b *broadcast) take(s *nodeSession) []*news {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.listeners[s.node]
	if l.session != s {
		return nil
	}
	from := l.next
	b.listeners[s.node] = listener{s, b.next}
	first := b.next - int64(len(b.log))
	if from >= first {
		return slices.Clone(b.log[from-first:])
	}
	if b.all == nil || b.allAt < first {
		b.all, b.allAt = newNews(b.told.everything()), b.next
	}
	return slices.Concat([]*news{b.all}, b.log[b.allAt-first:])
}

// publish tells of changes that are in view.
func (b *broadcast) publish(view *store.Snapshot, changed []store.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.told == nil {
		return
	}
	var f bulkhead.FarmNews
	for _, c := range changed {
		switch {
		case c.Everything():
			b.surveyLocked(view)
			f = bulkhead.FarmNews{}
		case c.Table == store.Stamps && !b.inner:
			b.told.place(view, bulkhead.StampName(c.Key), &f)
		case c.Table == store.Nodes:
			b.told.peer(view, bulkhead.NodeName(c.Key), b.inner, &f)
		}
	}
	size := len(f.Places) + len(f.Left) + len(f.Peers) + len(f.Gone)
	if size > 0 {
		b.log = append(b.log, newNews(f))
		b.next++
		b.size += size
		if b.size > max(leastLog, len(b.told.places)+len(b.told.peers)) {
			b.forgetLocked() // everything is no more than that
		}
	}
	for _, l := range b.listeners {
		if l.next < b.next {
			l.session.inbox.poke()
		}
	}
}

// surveyLocked draws the chart anew. Everybody is to hear all of it.
func (b *broadcast) surveyLocked(view *store.Snapshot) {
	b.told = &chart{places: map[bulkhead.StampName]bulkhead.Place{}, peers: map[bulkhead.NodeName]bulkhead.Peer{}}
	var f bulkhead.FarmNews
	if !b.inner {
		for stamp := range view.Stamps.All() {
			b.told.place(view, stamp.Name, &f)
		}
	}
	for node := range view.Nodes.All() {
		b.told.peer(view, node.Name, b.inner, &f)
	}
	b.all = nil
	b.forgetLocked()
}

// forgetLocked empties the log: who has not read all of it hears everything.
func (b *broadcast) forgetLocked() {
	b.log, b.size = nil, 0
	b.next++
}

// everything is the whole chart.
func (c *chart) everything() bulkhead.FarmNews {
	f := bulkhead.FarmNews{All: true}
	for _, p := range c.places {
		f.Places = append(f.Places, p)
	}
	for _, p := range c.peers {
		f.Peers = append(f.Peers, p)
	}
	return f
}

// place notes where a stamp is, and in f if that is news.
func (c *chart) place(view *store.Snapshot, name bulkhead.StampName, f *bulkhead.FarmNews) {
	stamp, ok := view.Stamps.Get(name)
	was, had := c.places[name]
	if !ok || stamp.Node == "" || stamp.Desired == bulkhead.DesiredDeleted {
		if had {
			delete(c.places, name)
			f.Left = append(f.Left, name)
		}
		return
	}
	p := bulkhead.Place{
		StampRef: bulkhead.StampRef{Name: name, UID: stamp.UID, Epoch: stamp.Epoch}, Node: stamp.Node, Hosts: stamp.Addressed(),
	}
	if !had || was.StampRef != p.StampRef || was.Node != p.Node || !slices.Equal(was.Hosts, p.Hosts) {
		c.places[name] = p
		f.Places = append(f.Places, p)
	}
}

// peer notes how a node's gateway is reached, and in f if that is news. Inner nodes
// are called by those only that are not.
func (c *chart) peer(view *store.Snapshot, name bulkhead.NodeName, inner bool, f *bulkhead.FarmNews) {
	n, ok := view.Nodes.Get(name)
	was, had := c.peers[name]
	if !ok || n.Gateway == "" || inner && n.Inner {
		if had {
			delete(c.peers, name)
			f.Gone = append(f.Gone, name)
		}
		return
	}
	if p := (bulkhead.Peer{Node: n.Name, UID: n.UID, Gateway: n.Gateway}); !had || was != p {
		c.peers[name] = p
		f.Peers = append(f.Peers, p)
	}
}
