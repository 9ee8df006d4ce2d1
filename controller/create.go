package controller

import (
	"context"
	"errors"
	"fmt"

	"bulkhead"
	"bulkhead/store"
)

// creation are stamps that a server wants to be made and placed in one transaction.
// They are not in the state yet.
type creation struct {
	ctx    context.Context
	stamps []*bulkhead.Stamp
	check  func(tx *store.Tx) error
	done   chan error // gets one
}

// errStands says that a creation must go the other way: make first, place then.
var errStands = errors.New("some of the stamps are there already")

// office is open while this controller leads.
type office struct {
	creations chan *creation
	over      <-chan struct{}
}

// Create makes stamps and places them, all or none, in one transaction that check
// agrees to and may add to: half the work of making them first and placing them then.
// One that has no place yet is made without. False: this controller does not lead, or
// some of them are there already; nothing was done.
func (c *Controller) Create(ctx context.Context, stamps []*bulkhead.Stamp, check func(tx *store.Tx) error) (bool, error) {
	o := c.office.Load()
	if o == nil {
		return false, nil
	}
	w := &creation{ctx, stamps, check, make(chan error, 1)}
	select {
	case o.creations <- w:
	case <-o.over:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	err := <-w.done // it is under way: it always comes
	if errors.Is(err, store.ErrDeposed) || errors.Is(err, errStands) {
		return false, nil
	}
	return err == nil, err
}

// create decides where the stamps go and writes them. That does not end with the user's
// patience: for a moment nobody would know whether they are there, and another might get
// the same room.
func (r *reign) create(ctx context.Context, w *creation) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	view, now := r.c.Store.View(), r.c.Now()
	for _, s := range w.stamps {
		if _, ok := view.Stamps.Get(s.Name); ok {
			return errStands
		}
	}
	var steps []step
	queue := r.farm.Queue(w.stamps)
	for s := queue.Next(); s != nil; s = queue.Next() {
		steps = append(steps, r.decide(view, s, now))
	}
	err := r.leader.Update(ctx, func(tx *store.Tx) error {
		if err := w.check(tx); err != nil {
			return err
		}
		placed, nodes := 0, map[bulkhead.NodeName]bool{}
		for _, s := range steps {
			made := *s.stamp
			if was, ok := tx.Stamps.Peek(made.Name); ok && was.UID == made.UID {
				continue // it is the second time, after an election: see store.Update
			}
			if s.Place != "" {
				s.place(&made)
				placed++
				nodes[s.Place] = true
			}
			tx.Stamps.Put(made)
		}
		if placed > 0 {
			tx.Event(bulkhead.Event{Type: "stamps.placed", Message: fmt.Sprintf("%d stamps placed on %d nodes", placed, len(nodes))})
		}
		return nil
	})
	if err != nil { // what was not written did not happen
		for _, s := range w.stamps {
			r.note(store.Change{Table: store.Stamps, Key: string(s.Name)})
		}
	}
	return err
}
