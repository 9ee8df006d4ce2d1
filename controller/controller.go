// Package controller runs the leader's loop: it watches the state, asks
// plan.Stamp what each stamp needs, and writes the answer.
//
// It decides nothing itself and touches no node: the agents hear of what it
// writes through their sessions (api/node.go). Only the elected leader runs it,
// and every write carries the leader's office as a condition.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
}

// Controller is one candidate for leadership.
type Controller struct {
	c Config
}

// New makes a controller. It starts nothing.
func New(c Config) *Controller {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Controller{c}
}

// Run leads whenever it is elected, until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := c.c.Store.Lead(ctx, c.lead)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// retry is the pause after a step that could not be written.
const retry = time.Second

// lead plans everything once, and then whatever changed.
func (c *Controller) lead(ctx context.Context, l *store.Leader) error {
	c.c.Log.Info("leading")
	view, changes := c.c.Store.Watch(ctx)
	todo := everyStamp(view)
	wake := map[bulkhead.StampName]time.Time{}
	for {
		for _, name := range todo {
			delete(wake, name)
			at, err := c.stamp(ctx, l, name)
			switch {
			case errors.Is(err, store.ErrDeposed) || ctx.Err() != nil:
				return err
			case err != nil:
				c.c.Log.Error("plan stamp", "stamp", name, "err", err)
				wake[name] = c.c.Now().Add(retry)
			case !at.IsZero():
				wake[name] = at
			}
		}
		var ok bool
		if todo, ok = c.next(ctx, changes, wake); !ok {
			return nil
		}
	}
}

// next waits for something to plan again.
func (c *Controller) next(ctx context.Context, changes <-chan store.Change, wake map[bulkhead.StampName]time.Time) (todo []bulkhead.StampName, ok bool) {
	// A timer of at most an hour, so that a clock that jumps is noticed.
	pause := time.Hour
	for _, at := range wake {
		pause = min(pause, max(0, at.Sub(c.c.Now())))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case <-timer.C:
			for name, at := range wake {
				if !c.c.Now().Before(at) {
					todo = append(todo, name)
				}
			}
			return todo, true
		case change, open := <-changes:
			if !open {
				return nil, false
			}
			switch {
			case change.Everything():
				return everyStamp(c.c.Store.View()), true
			case change.Table == store.Stamps: // it may have left room for others
				return append(c.homeless(), bulkhead.StampName(change.Key)), true
			case change.Table == store.Statuses:
				return []bulkhead.StampName{bulkhead.StampName(change.Key)}, true
			case change.Table == store.Nodes:
				return c.homeless(), true
			}
		}
	}
}

func everyStamp(view *store.Snapshot) []bulkhead.StampName {
	var names []bulkhead.StampName
	for s := range view.Stamps.All() {
		names = append(names, s.Name)
	}
	return names
}

// homeless are the stamps that have no node.
func (c *Controller) homeless() []bulkhead.StampName {
	var names []bulkhead.StampName
	for s := range c.c.Store.View().Stamps.All() {
		if s.Node == "" {
			names = append(names, s.Name)
		}
	}
	return names
}

// stamp plans one stamp and writes the step.
func (c *Controller) stamp(ctx context.Context, l *store.Leader, name bulkhead.StampName) (wake time.Time, err error) {
	view := c.c.Store.View()
	s, ok := view.Stamps.Get(name)
	if !ok {
		return time.Time{}, nil
	}
	var status *bulkhead.StampStatus
	if st, ok := view.Statuses.Get(name); ok {
		status = &st
	}
	var nodes []bulkhead.Node
	var all []bulkhead.Stamp
	if s.Node == "" {
		nodes = slices.Collect(view.Nodes.All())
		all = slices.Collect(view.Stamps.All())
	}
	step := plan.Stamp(s, status, nodes, all, c.c.Now())
	if step.Place == "" && !step.Purge && !step.Erase && (s.Node != "" || step.Reason == s.Placement) {
		return step.Wake, nil
	}
	err = l.Update(ctx, func(tx *store.Tx) error {
		// The step was planned for this life and generation of the stamp only.
		now, ok := tx.Stamps.Get(name)
		if !ok || now.UID != s.UID || now.Generation != s.Generation || now.Node != s.Node {
			return nil
		}
		switch {
		case step.Erase:
			tx.Stamps.Delete(name)
			tx.Statuses.Delete(name)
			tx.Event(bulkhead.Event{Type: "stamp.erased", Stamp: name, Message: step.Reason})
			return nil
		case step.Purge:
			now.Purge = true
			now.Generation++
			tx.Event(bulkhead.Event{Type: "stamp.expired", Stamp: name, Message: "its kept data is destroyed: " + step.Reason})
		case step.Place != "":
			now.Node, now.Placement = step.Place, step.Reason
			now.Epoch++
			tx.Event(bulkhead.Event{Type: "stamp.placed", Stamp: name, Node: step.Place, Message: fmt.Sprintf("on %s: %s", step.Place, step.Reason)})
		default:
			now.Placement = step.Reason
			tx.Event(bulkhead.Event{Type: "stamp.unplaced", Stamp: name, Message: step.Reason})
		}
		tx.Stamps.Put(now)
		return nil
	})
	return step.Wake, err
}
