// Package controller runs the leader's loop: it watches the state, asks
// plan.Stamp what each stamp needs and plan.Nodes what the silence of nodes
// means, and writes the answers, many at a time.
//
// It decides nothing itself and touches no node: the agents hear of what it
// writes through their sessions (api/node.go). Only the elected leader runs it,
// and every write carries the leader's office as a condition.
package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"bulkhead"
	"bulkhead/plan"
	"bulkhead/store"
)

// Config is what a controller works with.
type Config struct {
	Store *store.Store
	Log   *slog.Logger
	Now   func() time.Time // default time.Now

	// Lease is how long a node may be silent before it is unreachable; default 10 s. The
	// gateways hold requests for longer (gateway.Config.Hold).
	Lease time.Duration
	// LostAfter is how long before its stamps without data go elsewhere; default 60 s.
	LostAfter time.Duration
}

// Controller is one candidate for leadership.
type Controller struct {
	c      Config
	office atomic.Pointer[office] // nil: it does not lead
}

// New makes a controller. It starts nothing.
func New(c Config) *Controller {
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Lease, c.LostAfter = cmp.Or(c.Lease, 10*time.Second), cmp.Or(c.LostAfter, time.Minute)
	return &Controller{c: c}
}

// Run leads whenever it is elected, until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := c.c.Store.Lead(ctx, c.lead)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

const (
	// retry is the pause after a step that could not be written.
	retry = time.Second
	// lookPause is at least between two looks at all nodes, of which there may be tens of
	// thousands: what follows from silence takes seconds, and many may fall silent or come
	// back at once.
	lookPause = 100 * time.Millisecond
	// mostSteps is how many steps are written in one transaction; each writes a stamp
	// and an event, and one that preempts writes more.
	mostSteps = 250
)

// reign is what one leader knows: the farm, and what is to be planned.
type reign struct {
	*Controller
	leader *store.Leader
	farm   *plan.Farm
	// todo are the stamps to plan now, wake when others are due, and waiting those
	// that have no place, or were preempted, and are planned again when a place may
	// have become free.
	todo    map[bulkhead.StampName]bool
	wake    map[bulkhead.StampName]time.Time
	waiting map[bulkhead.StampName]bool
	seen    uint64 // of farm.Loosened
	// look is when the nodes are looked at again, and pause is at least between two looks:
	// lookPause, or twenty times as long as one takes.
	look  time.Time
	pause time.Duration
	// depart is when nodes that are drained are looked at again; leaving tells that
	// something has changed that may let a stamp go.
	depart  time.Time
	leaving bool
	// rebalance is when to look next whether stamps stand badly; zero: never.
	rebalance time.Time

	creations chan *creation
}

// lead plans everything once, and then whatever changed.
func (c *Controller) lead(ctx context.Context, l *store.Leader) error {
	c.c.Log.Info("leading")
	view, changes := c.c.Store.WatchMany(ctx)
	r := &reign{Controller: c, leader: l, wake: map[bulkhead.StampName]time.Time{}, creations: make(chan *creation)}
	r.survey(view)
	over := make(chan struct{})
	c.office.Store(&office{r.creations, over})
	defer close(over)
	defer c.office.Store(nil)
	for {
		if !r.c.Now().Before(r.look) {
			var err error
			switch r.look, err = r.nodes(ctx); {
			case errors.Is(err, store.ErrDeposed) || ctx.Err() != nil:
				return err
			case err != nil:
				c.c.Log.Error("plan nodes", "err", err)
				r.look = c.c.Now().Add(retry)
			}
		}
		err := r.plan(ctx)
		if err == nil {
			err = r.departures(ctx)
		}
		switch {
		case errors.Is(err, store.ErrDeposed) || ctx.Err() != nil:
			return err
		case err != nil:
			c.c.Log.Error("plan stamps", "err", err)
			r.survey(c.c.Store.View()) // what was not written did not happen
			later := c.c.Now().Add(retry)
			for name := range r.todo {
				r.wake[name] = later
			}
			clear(r.todo)
		}
		if !r.next(ctx, changes) {
			return nil
		}
	}
}

// survey learns all of the state anew, and puts every stamp on the list.
func (r *reign) survey(view *store.Snapshot) {
	r.farm = plan.NewFarm(view.Policy())
	r.todo, r.waiting, r.seen = map[bulkhead.StampName]bool{}, map[bulkhead.StampName]bool{}, 0
	r.leaving, r.rebalance = true, time.Time{}
	if view.Policy().Rebalance {
		r.rebalance = r.c.Now().Add(plan.RebalanceEvery)
	}
	for n := range view.Nodes.All() {
		r.farm.SetNode(n)
	}
	for s := range view.Stamps.All() {
		r.farm.SetStamp(&s, plan.Releasing(&s, statusOf(view, s.Name)))
		r.todo[s.Name] = true
	}
}

// next waits for something to plan, and takes along whatever else has changed.
func (r *reign) next(ctx context.Context, changes <-chan []store.Change) bool {
	for len(r.todo) == 0 && r.c.Now().Before(r.look) && !r.leaving && !r.due(r.rebalance) {
		// A timer of at most an hour, so that a clock that jumps is noticed.
		pause := min(time.Hour, r.look.Sub(r.c.Now()))
		for _, at := range []time.Time{r.depart, r.rebalance} {
			if !at.IsZero() {
				pause = min(pause, max(0, at.Sub(r.c.Now())))
			}
		}
		for _, at := range r.wake {
			pause = min(pause, max(0, at.Sub(r.c.Now())))
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		case changed, open := <-changes:
			timer.Stop()
			if !open {
				return false
			}
			for _, change := range changed {
				r.note(change)
			}
		case w := <-r.creations:
			timer.Stop()
			w.done <- r.create(ctx, w)
		}
		for name, at := range r.wake {
			if !r.c.Now().Before(at) {
				r.todo[name] = true
			}
		}
		r.leaving = r.leaving || r.due(r.depart)
		if r.farm.Loosened() != r.seen {
			r.seen = r.farm.Loosened()
			for name := range r.waiting {
				r.todo[name] = true
			}
		}
	}
	return true
}

// due tells whether a time has come that is not zero.
func (r *reign) due(at time.Time) bool { return !at.IsZero() && !r.c.Now().Before(at) }

// note takes a change into account.
func (r *reign) note(change store.Change) {
	view := r.c.Store.View()
	if change.Everything() || change.Table == store.Nodes || change.Table == store.Present {
		if soon := r.c.Now().Add(r.pause); r.look.After(soon) {
			r.look = soon
		}
	}
	switch {
	case change.Everything() || change.Table == store.Policies:
		r.survey(view)
	case change.Table == store.Nodes:
		name := bulkhead.NodeName(change.Key)
		n, ok := view.Nodes.Get(name)
		if ok {
			r.farm.SetNode(n)
		} else {
			r.farm.RemoveNode(name)
		}
		for _, s := range r.farm.On(name) {
			if stamp, known := view.Stamps.Get(s); !ok || n.State == bulkhead.NodeLost || known && stamp.Transfer != nil {
				r.todo[s] = true
			}
		}
		r.leaving = true
	case change.Table == store.Stamps:
		name := bulkhead.StampName(change.Key)
		if s, ok := view.Stamps.Get(name); ok {
			r.farm.SetStamp(&s, plan.Releasing(&s, statusOf(view, name)))
		} else {
			r.farm.RemoveStamp(name)
			delete(r.waiting, name)
			delete(r.wake, name)
		}
		r.todo[name], r.leaving = true, true
	case change.Table == store.Statuses:
		name := bulkhead.StampName(change.Key)
		if s, ok := view.Stamps.Get(name); ok {
			if s.Preempted != "" { // it may have stopped
				r.farm.SetStamp(&s, plan.Releasing(&s, statusOf(view, name)))
			}
			if s.Preempted != "" || s.Desired == bulkhead.DesiredDeleted || s.Transfer != nil {
				r.todo[name] = true
			}
		}
	case change.Table == store.Arrivals:
		r.todo[bulkhead.StampName(change.Key)] = true
	}
}

func statusOf(view *store.Snapshot, name bulkhead.StampName) *bulkhead.StampStatus {
	if st, ok := view.Statuses.Get(name); ok {
		return &st
	}
	return nil
}

// step is what plan.Stamp says of a stamp as it was then.
type step struct {
	stamp *bulkhead.Stamp
	plan.StampStep
}

// plan plans what is on the list and writes the steps. Stamps that need a place, or
// room to go on, come in the order of plan.Queue; each is counted for those after it.
func (r *reign) plan(ctx context.Context) error {
	view := r.c.Store.View()
	now := r.c.Now()
	var steps []step
	var placeless []*bulkhead.Stamp
	flush := func(least int) error {
		if len(steps) < least {
			return nil
		}
		err := r.write(ctx, steps)
		steps = nil
		return err
	}
	one := func(s *bulkhead.Stamp) error {
		if s.Transfer != nil {
			return r.transfer(ctx, view, s, now)
		}
		st := r.decide(view, s, now)
		if st.Place == "" && !st.Purge && !st.Erase && !st.Resume && len(st.Evict) == 0 && (st.Reason == "" || st.Reason == s.Placement) {
			return nil
		}
		if steps = append(steps, st); len(st.Evict) > 0 {
			return flush(1) // nobody else takes the room that is being made
		}
		return flush(mostSteps)
	}
	for name := range r.todo { // what stays, its node being back, counts there for all others
		if s, ok := view.Stamps.Get(name); ok && r.waiting[name] && r.placed(&s) {
			r.farm.SetStamp(&s, plan.Releasing(&s, statusOf(view, name)))
		}
	}
	for name := range r.todo {
		delete(r.todo, name)
		s, ok := view.Stamps.Get(name)
		switch {
		case !ok:
		case s.Transfer != nil: // its move comes to an end first
			if err := one(&s); err != nil {
				return err
			}
		case r.farm.Adrift(&s): // what it has there counts no more, nor does it stand in its own way
			r.farm.RemoveStamp(name)
			placeless = append(placeless, &s)
		case !r.placed(&s):
			placeless = append(placeless, &s)
		default:
			if err := one(&s); err != nil {
				return err
			}
		}
	}
	for queue := r.farm.Queue(placeless); ; {
		s := queue.Next()
		if s == nil {
			return flush(1)
		}
		if err := one(s); err != nil {
			return err
		}
	}
}

// placed tells whether a stamp needs no place, and no room to go on.
func (r *reign) placed(s *bulkhead.Stamp) bool {
	return s.Desired == bulkhead.DesiredDeleted || s.Node != "" && s.Preempted == "" && !r.farm.Adrift(s)
}

// decide plans a stamp, and counts what comes of it.
func (r *reign) decide(view *store.Snapshot, s *bulkhead.Stamp, now time.Time) step {
	st := step{s, plan.Stamp(s, statusOf(view, s.Name), r.farm, now)}
	delete(r.wake, s.Name)
	if !st.Wake.IsZero() {
		r.wake[s.Name] = st.Wake
	}
	switch counted := *s; {
	case st.Place != "":
		counted.Node, counted.Units, counted.Preempted = st.Place, st.Units, ""
		r.farm.SetStamp(&counted, false)
	case st.Resume:
		counted.Units, counted.Preempted = st.Units, ""
		r.farm.SetStamp(&counted, false)
	}
	if st.Place == "" && !st.Resume && !r.placed(s) {
		r.waiting[s.Name] = true
	} else {
		delete(r.waiting, s.Name)
	}
	return st
}

// write writes steps in one transaction, or in several where one has not the room.
func (r *reign) write(ctx context.Context, steps []step) error {
	var stay []bulkhead.StampName
	err := r.leader.Update(ctx, func(tx *store.Tx) error {
		placed, nodes := 0, map[bulkhead.NodeName]bool{}
		stay = stay[:0]
		for _, s := range steps {
			switch written := s.write(tx, len(steps) >= manySteps); {
			case written && s.Place != "":
				placed++
				nodes[s.Place] = true
			case s.Place != "":
				stay = append(stay, s.stamp.Name)
			}
		}
		if len(steps) >= manySteps && placed > 0 {
			tx.Event(bulkhead.Event{Type: "stamps.placed", Message: fmt.Sprintf("%d stamps placed on %d nodes", placed, len(nodes))})
		}
		return nil
	})
	for _, name := range stay { // when what has changed was noted, each is counted where it is
		r.waiting[name], r.wake[name] = true, r.c.Now().Add(retry)
	}
	if errors.Is(err, bulkhead.ErrExhausted) && len(steps) > 1 {
		if err := r.write(ctx, steps[:len(steps)/2]); err != nil {
			return err
		}
		return r.write(ctx, steps[len(steps)/2:])
	}
	return err
}

// manySteps are so many that one event tells of all that were placed: the reason
// stands with each stamp, and the log has room for what else happened.
const manySteps = 50

// write makes the step, if the stamp is still the one that it was planned for, and
// tells whether it was. Of many, placing one is no event of its own.
func (s step) write(tx *store.Tx, many bool) bool {
	was := s.stamp
	now, ok := tx.Stamps.Peek(was.Name) // its own fields are all that changes
	if !ok || now.UID != was.UID || now.Generation != was.Generation || now.Node != was.Node || now.Transfer != nil {
		return false
	}
	if s.Place != "" && was.Node != "" { // a node that was lost may have come back meanwhile
		if n, ok := tx.Nodes.Peek(was.Node); ok {
			if n.State != bulkhead.NodeLost {
				return false
			}
			now.Leave(n)
		}
	}
	event := func(kind string, node bulkhead.NodeName, message string) {
		tx.Event(bulkhead.Event{Type: kind, Stamp: was.Name, Node: node, Message: message})
	}
	switch {
	case s.Erase:
		bury(tx, now)
		tx.Stamps.Delete(was.Name)
		tx.Statuses.Delete(was.Name)
		tx.Arrivals.Delete(was.Name)
		event("stamp.erased", "", s.Reason)
		return true
	case s.Purge:
		now.Purge = true
		now.Generation++
		event("stamp.expired", "", "its kept data is destroyed: "+s.Reason)
	case s.Place != "":
		s.place(&now)
		if !many {
			event("stamp.placed", s.Place, fmt.Sprintf("on %s: %s", s.Place, s.Reason))
		}
	case s.Resume:
		now.Units, now.Preempted = s.Units, ""
		now.Generation++
		event("stamp.resumed", now.Node, s.Reason)
	default:
		for _, name := range s.Evict {
			preempt(tx, name, was.Name)
		}
		if now.Placement == s.Reason {
			return true
		}
		now.Placement = s.Reason
		event("stamp.unplaced", "", s.Reason)
	}
	tx.Stamps.Put(now)
	return true
}

// bury has every node that had a stamp before told that it was purged. That the one which
// has it now keeps nothing of it is known.
func bury(tx *store.Tx, s bulkhead.Stamp) {
	for _, m := range s.Former {
		if n, ok := tx.Nodes.Peek(m.Node); ok && n.UID == m.UID && m.Node != s.Node {
			tx.Tombs.Put(bulkhead.Tomb{StampRef: bulkhead.StampRef{Name: s.Name, UID: s.UID, Epoch: s.Epoch}, Of: m})
		}
	}
}

// place grants a stamp to its node.
func (s step) place(now *bulkhead.Stamp) {
	now.Node, now.Units, now.Placement, now.Preempted, now.Copy = s.Place, s.Units, s.Reason, "", ""
	now.Epoch++
}

// preempt stops a stamp where it is for another one's sake.
func preempt(tx *store.Tx, name, by bulkhead.StampName) {
	victim, ok := tx.Stamps.Get(name)
	if !ok || victim.Preempted != "" || victim.Desired == bulkhead.DesiredDeleted || victim.Transfer != nil {
		return
	}
	victim.Preempted = fmt.Sprintf("stamp %s of a greater tier has taken its room", by)
	victim.Generation++
	tx.Stamps.Put(victim)
	tx.Event(bulkhead.Event{Type: "stamp.preempted", Stamp: name, Node: victim.Node, Message: victim.Preempted})
}

// Meetable refuses a stamp whose terms no node meets.
func Meetable(view *store.Snapshot, s *bulkhead.Stamp) error {
	return plan.Meetable(s, view.Nodes.All())
}

// Forecast answers what would be if the farm were another than it is in view.
func Forecast(view *store.Snapshot, what bulkhead.WhatIf) (bulkhead.Forecast, error) {
	var stamps []*bulkhead.Stamp
	for s := range view.Stamps.All() {
		stamps = append(stamps, &s)
	}
	return plan.Forecast(view.Policy(), slices.Collect(view.Nodes.All()), stamps, what)
}
