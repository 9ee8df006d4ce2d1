package controller

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"bulkhead"
	"bulkhead/plan"
	"bulkhead/store"
)

// transfer plans the next step of a stamp's move and writes it at once: while a
// stamp moves its requests may wait.
func (r *reign) transfer(ctx context.Context, view *store.Snapshot, s *bulkhead.Stamp, now time.Time) error {
	var arrival *bulkhead.Arrival
	if a, ok := view.Arrivals.Get(s.Name); ok {
		arrival = &a
	}
	st := plan.Transfer(s, statusOf(view, s.Name), arrival, r.farm, now)
	delete(r.wake, s.Name)
	if !st.Wake.IsZero() {
		r.wake[s.Name] = st.Wake
	}
	if st.Phase == "" && !st.End && !st.GiveUp {
		return nil
	}
	var after *bulkhead.Stamp
	err := r.leader.Update(ctx, func(tx *store.Tx) error {
		after = stepTransfer(tx, s, st, now)
		return nil
	})
	if err == nil && after != nil {
		r.farm.SetStamp(after, false) // those that are planned next count it where it goes
	}
	return err
}

// stepTransfer makes a step of a move that is still as it was planned for, and
// returns the stamp as it is then; nil: it is another by now.
func stepTransfer(tx *store.Tx, was *bulkhead.Stamp, st plan.TransferStep, at time.Time) *bulkhead.Stamp {
	now, ok := tx.Stamps.Get(was.Name)
	if !ok || now.UID != was.UID || now.Node != was.Node || now.Epoch != was.Epoch || now.Desired != was.Desired ||
		now.Transfer == nil || now.Transfer.ID != was.Transfer.ID || now.Transfer.Phase != was.Transfer.Phase {
		return nil
	}
	m := now.Transfer
	arrival, _ := tx.Arrivals.Get(was.Name)
	if arrival.Move != m.ID {
		arrival = bulkhead.Arrival{}
	}
	event := func(kind string, node bulkhead.NodeName, format string, args ...any) {
		tx.Event(bulkhead.Event{Time: at, Type: "stamp." + kind, Stamp: was.Name, Node: node, Actor: m.Actor, Message: fmt.Sprintf(format, args...)})
	}
	end := func(givenUp string) {
		now.Transferred = &bulkhead.Transferred{
			ID: m.ID, From: m.From, To: m.To, Began: m.Began, Ended: at.UTC(), Bytes: max(m.Bytes, arrival.Bytes), Passes: max(m.Passes, arrival.Passes), GivenUp: givenUp,
		}
		if !m.Switched.IsZero() && now.Desired == bulkhead.DesiredRunning {
			now.Transferred.Held = at.Sub(m.Switched)
		}
		now.Transfer = nil
		tx.Arrivals.Delete(was.Name)
	}
	switch {
	case st.GiveUp:
		if m.Phase == bulkhead.TransferSwitching {
			now.Epoch++ // From has it again
		}
		end(st.Reason)
		event("move-given-up", m.From, "it stays on %s: %s", m.From, st.Reason)
	case st.End:
		end("")
		event("moved", m.To, "from %s to %s: %s; %s in %d passes, requests were held for %s",
			m.From, m.To, st.Reason, plan.Bytes(now.Transferred.Bytes), now.Transferred.Passes, now.Transferred.Held.Round(time.Millisecond))
	case st.Phase == bulkhead.TransferCopying:
		to, _ := tx.Nodes.Peek(st.To)
		m.To, m.ToUID, m.Units, m.Phase, m.Reason, m.Began = st.To, to.UID, st.Units, st.Phase, st.Reason, at.UTC()
		event("move-begun", m.To, "from %s to %s: %s", m.From, m.To, m.Reason)
	case st.Phase == bulkhead.TransferSwitching:
		m.Phase, m.Switched = st.Phase, at.UTC()
		now.Epoch++ // nobody has it
		event("switched", m.To, "it stops on %s: %s", m.From, st.Reason)
	case st.Phase == bulkhead.TransferStarting:
		m.Phase, m.Bytes, m.Passes = st.Phase, arrival.Bytes, arrival.Passes
		if from, ok := tx.Nodes.Peek(m.From); ok {
			now.Leave(from)
		}
		now.Node, now.Units, now.Copy, now.Placement = m.To, m.Units, m.ID, fmt.Sprintf("moved from %s: %s", m.From, m.Reason)
		now.Epoch++
		tx.Arrivals.Delete(was.Name)
		event("handed-over", m.To, "node %s has it: %s", m.To, st.Reason)
	}
	tx.Stamps.Put(now)
	return &now
}

// departures begins the moves that are due: of stamps on nodes that are drained, and
// now and then of those that stand badly.
func (r *reign) departures(ctx context.Context) error {
	now := r.c.Now()
	var next []plan.Departure
	if r.leaving {
		next, r.depart = r.farm.Departures(now)
		r.leaving = false
	}
	if r.due(r.rebalance) {
		next = append(next, r.farm.Rebalancing(now)...)
		r.rebalance = now.Add(plan.RebalanceEvery)
	}
	for _, d := range next {
		err := r.leader.Update(ctx, func(tx *store.Tx) error {
			s, ok := tx.Stamps.Get(d.Stamp.Name)
			if !ok || s.UID != d.Stamp.UID || s.Node != d.Stamp.Node || s.Transfer != nil || s.Desired == bulkhead.DesiredDeleted || s.Preempted != "" {
				return nil
			}
			to, _ := tx.Nodes.Peek(d.To)
			s.Transfer = &bulkhead.Transfer{
				ID: rand.Text(), From: s.Node, To: d.To, ToUID: to.UID, Units: d.Units, Phase: bulkhead.TransferCopying, Reason: d.Reason, Began: now.UTC(),
			}
			tx.Stamps.Put(s)
			tx.Event(bulkhead.Event{Time: now, Type: "stamp.move-begun", Stamp: s.Name, Node: d.To, Message: fmt.Sprintf("from %s to %s: %s", s.Node, d.To, d.Reason)})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Target says where a stamp could move: to that node, or for "" to the best of all
// others. It asks a farm of its own: the leader decides anew.
func Target(view *store.Snapshot, stamp *bulkhead.Stamp, to bulkhead.NodeName) (bulkhead.Transfer, error) {
	farm := plan.NewFarm(view.Policy())
	for n := range view.Nodes.All() {
		farm.SetNode(n)
	}
	for s := range view.Stamps.All() {
		farm.SetStamp(&s, true)
	}
	d, err := farm.Target(stamp, to)
	return bulkhead.Transfer{From: stamp.Node, To: d.Node, Units: d.Units, Reason: d.Reason}, err
}
