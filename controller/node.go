package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"bulkhead"
	"bulkhead/plan"
	"bulkhead/store"
)

// never stands for a time that does not come.
const never = 100 * 365 * 24 * time.Hour

// nodes plans what the silence of nodes means, writes it, and tells when to look
// again: not at once, or a farm whose nodes are silent by the thousand, each since another
// moment, would be looked through for every one of them.
func (r *reign) nodes(ctx context.Context) (wake time.Time, err error) {
	view, now := r.c.Store.View(), r.c.Now()
	silence := plan.Silence{Lease: r.c.Lease, LostAfter: r.c.LostAfter}
	began := time.Now()
	next := plan.Nodes(view.Nodes.All(), func(server bulkhead.NodeName) bool {
		_, ok := view.Present.Get(server)
		return ok
	}, silence, now)
	r.pause = max(lookPause, 20*time.Since(began))
	wake = now.Add(never)
	if soon := now.Add(r.pause); !next.Wake.IsZero() {
		wake = next.Wake
		if wake.Before(soon) {
			wake = soon
		}
	}
	for steps := range slices.Chunk(next.Steps, 200) {
		if err := r.leader.Update(ctx, func(tx *store.Tx) error { return stepNodes(tx, view, steps, now) }); err != nil {
			return now, err
		}
	}
	return wake, r.alarms(ctx, view, next.Alarms, now)
}

// stepNodes writes steps of nodes that are still as they were planned for.
func stepNodes(tx *store.Tx, view *store.Snapshot, steps []plan.NodeStep, now time.Time) error {
	for _, step := range steps {
		was, _ := view.Nodes.Get(step.Node)
		n, ok := tx.Nodes.Get(step.Node)
		if !ok || n.UID != was.UID || n.State != was.State || !n.Silent.Equal(was.Silent) || n.Server != was.Server {
			continue
		}
		if step.Silent {
			n.Silent = now.UTC()
			tx.Nodes.Put(n)
			continue
		}
		if step.Spared {
			n.Spared = now.UTC()
			tx.Nodes.Put(n)
			continue
		}
		n.State, n.Seen = step.State, now.UTC()
		tx.Nodes.Put(n)
		tx.Event(bulkhead.Event{Time: now, Type: "node." + string(step.State), Node: n.Name, Message: fmt.Sprintf("node %s is %s: %s", n.Name, step.State, step.Reason)})
	}
	return nil
}

// alarms makes the alarms in the state those that there should be.
func (r *reign) alarms(ctx context.Context, view *store.Snapshot, want []bulkhead.Alarm, now time.Time) error {
	same := len(want) == view.Alarms.Len()
	for _, a := range want {
		was, ok := view.Alarms.Get(a.Name)
		same = same && ok && was.Message == a.Message
	}
	if same {
		return nil
	}
	return r.leader.Update(ctx, func(tx *store.Tx) error {
		left := map[string]bulkhead.Alarm{}
		for a := range tx.Alarms.All() {
			left[a.Name] = a
		}
		for _, a := range want {
			was, ok := left[a.Name]
			delete(left, a.Name)
			a.Since = was.Since
			if !ok {
				a.Since = now.UTC()
				tx.Event(bulkhead.Event{Time: now, Type: "alarm.raised", Message: a.Message})
			}
			tx.Alarms.Put(a)
		}
		for name, a := range left {
			tx.Alarms.Delete(name)
			tx.Event(bulkhead.Event{Time: now, Type: "alarm.ended", Message: "no longer: " + a.Message})
		}
		return nil
	})
}
