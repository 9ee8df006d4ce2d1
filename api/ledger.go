package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/store"
)

// ledger writes what nodes report. Whatever comes in while it writes goes into the
// next transaction together, so that thousands of nodes that come back at once cost
// tens of transactions; a node that speaks alone is written at once.
type ledger struct {
	n *nodeAPI

	mu      sync.Mutex // guards what follows
	entries []*entry   // that wait, oldest first
	waiting int        // reports in entries
	writing bool
}

// entry is what one session has written at a time.
type entry struct {
	node    bulkhead.NodeName
	uid     string // of its membership
	session int64  // bulkhead.Node.Session; set by the entry that opens it
	opens   bool   // reports are the first word of a new session
	reports []bulkhead.NodeReport
	silent  time.Time       // when it was last heard, if its session has ended
	done    func(err error) // called once
}

const (
	// mostTogether is how many reports go into one transaction: each is compared with
	// up to three objects that were read for it (store.MaxChanges).
	mostTogether = 250
	// mostWaiting is how many reports may wait before nodes that call are asked to come
	// back later.
	mostWaiting = 20_000
)

// busy tells whether so much waits that no more should begin.
func (l *ledger) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting > mostWaiting
}

// record writes an entry and waits until it is on disk.
func (l *ledger) record(ctx context.Context, e *entry) error {
	done := make(chan error, 1)
	e.done = func(err error) { done <- err }
	l.submit(e)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// submit has an entry written, after those that wait already.
func (l *ledger) submit(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, e)
	l.waiting += max(1, len(e.reports))
	if !l.writing {
		l.writing = true
		go l.write() // until nothing waits, or the server ends
	}
}

// next takes what goes into one transaction.
func (l *ledger) next() []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for ; n < len(l.entries); n++ {
		if size += max(1, len(l.entries[n].reports)); n > 0 && size > mostTogether {
			break
		}
	}
	batch := slices.Clone(l.entries[:n])
	l.entries = slices.Delete(l.entries, 0, n)
	for _, e := range batch {
		l.waiting -= max(1, len(e.reports))
	}
	l.writing = n > 0
	return batch
}

func (l *ledger) write() {
	for batch := l.next(); len(batch) > 0; batch = l.next() {
		l.commit(batch)
	}
}

// commit writes a batch. One that has not the room, or in which one entry is not to be
// written, is written in halves: nobody suffers for another's sake.
func (l *ledger) commit(batch []*entry) {
	errs := make([]error, len(batch))
	err := l.n.s.c.Store.Update(l.n.s.ctx, func(tx *store.Tx) error {
		for i, e := range batch {
			errs[i] = l.n.enter(tx, e)
		}
		return nil
	})
	if len(batch) > 1 && refused(err) {
		l.commit(batch[:len(batch)/2])
		l.commit(batch[len(batch)/2:])
		return
	}
	for i, e := range batch {
		if err != nil {
			e.done(fmt.Errorf("record reports: %w", err))
		} else {
			e.done(errs[i])
		}
	}
}

// refused tells whether the state does not take what is to be written, as it is.
func refused(err error) bool {
	return errors.Is(err, bulkhead.ErrInvalid) || errors.Is(err, bulkhead.ErrExhausted)
}

// enter writes an entry, if the node is still of the farm.
func (n *nodeAPI) enter(tx *store.Tx, e *entry) error {
	node, ok := tx.Nodes.Peek(e.node)
	if !ok || node.UID != e.uid { // removed while it spoke
		return errRemoved
	}
	if e.opens {
		e.session = node.Session + 1 // recorded with what the node says of itself
	} else if len(e.reports) > 0 && e.session != node.Session {
		return errReplaced
	}
	for _, r := range e.reports {
		n.enterReport(tx, e, r)
	}
	if !e.silent.IsZero() && n.dispatch.session(e.node) == nil && node.Server == n.s.c.Name && node.Silent.IsZero() {
		node.Silent = e.silent.UTC()
		tx.Nodes.Put(node)
	}
	return nil
}

// enterReport writes one report. A status that does not fit (another life of the
// stamp, another node, an older epoch) is left out: its node will hear, or has heard,
// that the stamp is not its own.
func (n *nodeAPI) enterReport(tx *store.Tx, e *entry, r bulkhead.NodeReport) {
	name := e.node
	switch {
	case r.Node != nil:
		n.enterNode(tx, e, *r.Node)
	case r.Status != nil:
		st := *r.Status
		stamp, ok := tx.Stamps.Peek(st.Name)
		if ok && st.Node == name && stamp.Node == name && stamp.UID == st.UID && stamp.Epoch == st.Epoch {
			tx.Statuses.PutNew(st)
		}
	case r.Purged != nil:
		tx.Tombs.Delete(store.NewTombKey(name, r.Purged.UID))
	case r.Arrival != nil:
		enterArrival(tx, name, *r.Arrival)
	case r.Event != nil:
		event := *r.Event
		if event.Stamp != "" {
			if stamp, ok := tx.Stamps.Peek(event.Stamp); !ok || stamp.Node != name {
				return
			}
		}
		event.Node, event.Actor = name, "" // a node acts for nobody
		tx.Event(event)
	}
}

// enterNode takes a node's word for what it is; what operators and servers have set
// stays.
func (n *nodeAPI) enterNode(tx *store.Tx, e *entry, node bulkhead.Node) {
	name, now := e.node, n.s.c.Now().UTC()
	was, _ := tx.Nodes.Peek(name)
	err := node.CheckLabels()
	node.Bound, node.Said = was.Bound, bulkhead.Attributes{Region: node.Region, Zone: node.Zone, Labels: node.Labels}
	if err == nil {
		node.Settle()
		err = node.CheckLabels() // with those that are bound they may be too many
	}
	if err != nil {
		n.s.c.Logger.Warn("node with wrong labels: they are left out", "node", name, "err", err)
		node.Said, node.Region, node.Zone, node.Labels = was.Said, was.Region, was.Zone, was.Labels
	}
	if says := node.Said.Against(node.Bound).String(); says != "" && says != was.Said.Against(was.Bound).String() {
		holds := node.Bound.Against(node.Said).String()
		n.s.c.Logger.Warn("node says otherwise than what it is bound to, which holds", "node", name, "says", says, "bound", holds)
		tx.Event(bulkhead.Event{Time: now, Type: "node.disputed", Node: name, Message: fmt.Sprintf("node %s says %s; it is bound to %s, which holds", name, says, holds)})
	}
	node.Aside = node.Aside[:min(len(node.Aside), bulkhead.MostAside)]
	node.Name, node.UID, node.Joined = name, was.UID, was.Joined
	node.Cordoned, node.Draining, node.Session = was.Cordoned, was.Draining, e.session
	node.State, node.Seen, node.Server, node.Silent, node.Spared = bulkhead.NodeReady, now, n.s.c.Name, time.Time{}, time.Time{}
	tx.Nodes.Put(node)
	if was.State != bulkhead.NodeReady {
		tx.Event(bulkhead.Event{Time: now, Type: "node.ready", Node: name, Message: fmt.Sprintf("node %s answers", name)})
	}
	switch {
	case node.Full && !was.Full:
		tx.Event(bulkhead.Event{Time: now, Type: "node.full", Node: name, Message: fmt.Sprintf("the disk of node %s is full: it takes no new stamps", name)})
	case was.Full && !node.Full:
		tx.Event(bulkhead.Event{Time: now, Type: "node.room", Node: name, Message: fmt.Sprintf("there is room on the disk of node %s again", name)})
	}
}

// postbox holds what one session has still to have written: one entry at a time is in
// the ledger, and the rest waits here, in order.
type postbox struct {
	ledger *ledger
	of     *nodeSession
	lost   func(error)   // a new session brings the reports again
	room   chan struct{} // one for every report that fits

	mu      sync.Mutex // guards what follows
	reports []bulkhead.NodeReport
	sent    bool // an entry is in the ledger
}

// mostUnwritten is how many reports of one node wait, here and in the ledger, before it
// is read no further.
const mostUnwritten = 64

func newPostbox(l *ledger, s *nodeSession) *postbox {
	return &postbox{ledger: l, of: s, lost: s.cancel, room: make(chan struct{}, mostUnwritten)}
}

// add takes a report, once there is room for it. Of a stamp's statuses that wait only
// the last is kept.
func (p *postbox) add(ctx context.Context, r bulkhead.NodeReport) error {
	if p.renew(r) {
		return nil
	}
	select {
	case p.room <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p.mu.Lock()
	p.reports = append(p.reports, r)
	p.mu.Unlock()
	p.send()
	return nil
}

// renew puts a status in the place of an older one of the same stamp that waits, if
// there is one.
func (p *postbox) renew(r bulkhead.NodeReport) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.reports, func(old bulkhead.NodeReport) bool {
		return r.Status != nil && old.Status != nil && old.Status.Name == r.Status.Name
	})
	if i >= 0 {
		p.reports[i] = r
	}
	return i >= 0
}

// send puts what waits into the ledger, unless something of this node's is there.
func (p *postbox) send() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent || len(p.reports) == 0 {
		return
	}
	reports := p.reports
	p.reports, p.sent = nil, true
	e := p.of.entry(reports...)
	e.done = func(err error) { p.written(len(reports), err) }
	p.ledger.submit(e)
}

// written goes on after an entry.
func (p *postbox) written(reports int, err error) {
	p.mu.Lock()
	p.sent = false
	p.mu.Unlock()
	for range reports {
		<-p.room
	}
	if err != nil && p.ledger.n.s.ctx.Err() == nil {
		p.ledger.n.s.c.Logger.Warn("record node reports", "node", p.of.node, "err", err)
	}
	if err == nil || refused(err) { // the same would be refused again
		p.send()
		return
	}
	p.lost(err)
}
