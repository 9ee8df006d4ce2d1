package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"bulkhead"
)

// leastGain is how much a move must save to be worth its while, in the unit of
// cost: the sixty-fourth part of the largest node made useful again.
const leastGain = 1.0

// Rebalance proposes at most the policy's number of moves: first of stamps that
// are where they may not be any more, then those that mend the worst fragments.
// It changes nothing. Each move is right once those before it are made.
func (f *Farm) Rebalance() []bulkhead.Move {
	var moves []bulkhead.Move
	var undo []*bulkhead.Stamp
	defer func() {
		for _, s := range slices.Backward(undo) {
			f.SetStamp(s, false)
		}
	}()
	try := func(t *tenant, must string) {
		if len(moves) >= f.policy.Moves || t.leaving || t.moving || t.stamp.Desired == bulkhead.DesiredDeleted {
			return
		}
		m := bulkhead.Move{Stamp: t.name, From: t.node, Data: len(t.stamp.Volumes) > 0, Must: must != "", Reason: must}
		f.RemoveStamp(t.name)
		here := 0.0
		if i, ok := f.byName[t.node]; ok && must == "" {
			f.learn()
			here = f.cost(f.nodes[i], &t.request)
		}
		d, err := f.Place(t.stamp)
		i := f.byName[d.Node]
		switch {
		case must != "" && (err != nil || len(d.Evict) > 0 || d.Node == t.node):
			if err != nil {
				m.Reason += "; " + err.Error()
				moves = append(moves, m)
			}
		case err != nil || len(d.Evict) > 0 || d.Node == t.node:
		case must != "" || here-f.cost(f.nodes[i], &t.request) >= leastGain:
			if m.To = d.Node; must == "" {
				m.Reason = fmt.Sprintf("mends fragments of %s: %s", t.node, d.Reason)
			}
			moves = append(moves, m)
			moved := *t.stamp
			moved.Node, moved.Units = d.Node, d.Units
			undo = append(undo, t.stamp)
			f.SetStamp(&moved, false)
			return
		}
		f.SetStamp(t.stamp, false)
	}
	all := f.tenants()
	for _, t := range all {
		if why := f.misplaced(t); why != "" {
			try(t, why)
		}
	}
	f.learn()
	var worst []*place
	for _, p := range f.nodes {
		if p != nil && p.open && f.wasteOf(p) > 0 {
			worst = append(worst, p)
		}
	}
	slices.SortFunc(worst, func(a, b *place) int {
		return cmp.Or(cmp.Compare(f.wasteOf(b), f.wasteOf(a)), cmp.Compare(a.node.Name, b.node.Name))
	})
	for _, p := range worst[:min(len(worst), 2*f.policy.Moves)] {
		var on []*tenant
		for _, t := range f.onNode[p.node.Name] {
			if !t.data && !t.moving {
				on = append(on, t)
			}
		}
		slices.SortFunc(on, func(a, b *tenant) int { // what is moved fastest first
			return cmp.Or(cmp.Compare(len(a.stamp.Volumes), len(b.stamp.Volumes)), cmp.Compare(a.request.amounts[disk], b.request.amounts[disk]), cmp.Compare(a.name, b.name))
		})
		for _, t := range on[:min(len(on), mostTried)] {
			try(t, "")
		}
	}
	return moves
}

// Bounds of what the farm moves by itself.
const (
	// RebalanceEvery is how often it looks whether something should move.
	RebalanceEvery = time.Minute
	// rest is how long a stamp that has moved, or could not, stays where it is, unless it
	// may not be there.
	rest = time.Hour
)

// Rebalancing are the moves of Rebalance that begin now, if the policy has the farm
// make them: at most as many as the policy says are under way at a time, and none while
// a node does not answer, because its stamps may need the room.
func (f *Farm) Rebalancing(now time.Time) []Departure {
	if !f.policy.Rebalance {
		return nil
	}
	for _, p := range f.nodes {
		if p != nil && p.node.State != bulkhead.NodeReady {
			return nil
		}
	}
	under := 0
	for _, t := range f.stamps {
		if t.moving {
			under++
		}
	}
	var next []Departure
	for _, m := range f.Rebalance() {
		s := f.stamps[m.Stamp].stamp
		last := s.Transferred
		pause := rest
		if m.Must {
			pause = moveAgain
		}
		if under >= f.policy.Moves || m.To == "" || last != nil && now.Before(last.Ended.Add(pause)) {
			continue
		}
		d, err := f.Target(s, m.To)
		if err != nil { // the moves before it are not made yet
			continue
		}
		next = append(next, f.depart(s, d, m.Reason))
		under++
	}
	return next
}

// mostTried bounds the stamps of one node that are considered for a move.
const mostTried = 16

// tenants are all stamps by name.
func (f *Farm) tenants() []*tenant {
	all := make([]*tenant, 0, len(f.stamps))
	for _, t := range f.stamps {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *tenant) int { return cmp.Compare(a.name, b.name) })
	return all
}

// misplaced says why a stamp may not be where it is; empty: it may.
func (f *Farm) misplaced(t *tenant) string {
	i, ok := f.byName[t.node]
	if !ok || t.data {
		return ""
	}
	p := f.nodes[i]
	for _, d := range t.terms.each() {
		if !d.met(p.node) {
			return fmt.Sprintf("node %s is not %s any more", t.node, d)
		}
	}
	if p.node.Labels[bulkhead.PoolLabel] != t.terms.pool {
		return fmt.Sprintf("node %s is in pool %s now", t.node, p.node.Labels[bulkhead.PoolLabel])
	}
	for r, n := range p.free {
		if n < 0 {
			return fmt.Sprintf("node %s has promised %s more than it has", t.node, text(r, -n))
		}
	}
	for _, a := range t.terms.apart {
		if b := breadth(a.Scope); f.apart[apartKey{a.Key, false}][p.domains[b]] > 1 {
			return fmt.Sprintf("%s %s has another stamp to keep apart from (%s)", scopes[b], p.domains[b].name, a.Key)
		}
	}
	if share := f.policy.BlastRadius.Node; share > 0 {
		q := search{stamp: t.stamp}
		if b := f.bound(&q, share, f.open); p.load.count > max(b.count, f.policy.BlastRadius.Floor) {
			return fmt.Sprintf("node %s carries %d stamps: at most %d (%g %% of all)", t.node, p.load.count, b.count, share*100)
		}
	}
	return ""
}
