package plan

import (
	"cmp"
	"math"
	"slices"

	"bulkhead"
)

// preempt finds a node on which stamps of lesser tiers can make room, or says why
// there is none. The least is given up: victims of the lowest tiers, then as few
// and as little revenue as possible.
func (f *Farm) preempt(q *search) (Decision, *bulkhead.Error) {
	lesser := false
	for priority, n := range f.lesser {
		lesser = lesser || n > 0 && priority < q.terms.priority
	}
	if !lesser {
		return Decision{}, f.refuse(q)
	}
	type offer struct {
		p       *place
		victims []*tenant
		highest int // priority of those that are not leaving anyway
		count   int // theirs
		revenue int64
	}
	var best *offer
	for _, p := range f.nodes {
		if p == nil || !p.open || !q.terms.metBy(p.node) || f.keeps(p, q) != "" {
			continue
		}
		victims := f.victims(p, q)
		if len(victims) == 0 {
			continue
		}
		o := &offer{p: p, victims: victims, highest: math.MinInt}
		for _, t := range victims {
			if !t.leaving {
				o.highest, o.count, o.revenue = max(o.highest, t.terms.priority), o.count+1, o.revenue+t.terms.revenue
			}
		}
		if best == nil || cmp.Or(cmp.Compare(o.highest, best.highest), cmp.Compare(o.count, best.count),
			cmp.Compare(o.revenue, best.revenue), cmp.Compare(p.node.Name, best.p.node.Name)) < 0 {
			best = o
		}
	}
	if best == nil {
		return Decision{}, f.refuse(q)
	}
	d := Decision{Node: best.p.node.Name}
	var names []string
	for _, t := range best.victims {
		d.Evict = append(d.Evict, t.name)
		names = append(names, string(t.name))
	}
	d.Reason = "takes the room of " + listed(names) + " on " + string(d.Node) + ", of a lesser tier: " + f.refuse(q).Message
	return d, nil
}

// victims are stamps of lesser tiers on a node without which the request has
// room; none if that cannot be. Who is leaving anyway goes first, then the smallest
// tiers, and within one those that pay least; who turns out not to be needed stays.
func (f *Farm) victims(p *place, q *search) []*tenant {
	var all []*tenant
	for _, t := range f.onNode[p.node.Name] {
		if t.terms.preemptible && !t.data && !t.moving && t.terms.priority < q.terms.priority {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b *tenant) int {
		if a.leaving != b.leaving {
			if a.leaving {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.terms.priority, b.terms.priority), cmp.Compare(a.terms.revenue, b.terms.revenue), cmp.Compare(a.name, b.name))
	})
	gone := []*tenant{}
	give := func(t *tenant, sign int64) {
		for r, n := range t.request.amounts {
			if r != disk { // its data stays
				p.free[r] += sign * n
			}
		}
		for kind, shares := range t.taken {
			p.take(kind, shares, -sign)
		}
	}
	for _, t := range all {
		if p.fits(&q.request) {
			break
		}
		give(t, 1)
		gone = append(gone, t)
	}
	enough := p.fits(&q.request)
	needed := gone[:0:0]
	for i := len(gone) - 1; i >= 0; i-- { // the dearest first
		give(gone[i], -1)
		if !p.fits(&q.request) {
			give(gone[i], 1)
			needed = append(needed, gone[i])
		}
	}
	for _, t := range needed {
		give(t, -1)
	}
	if !enough {
		return nil
	}
	slices.Reverse(needed)
	return needed
}

// Resume tells whether a preempted stamp has room again where it is, and which
// units of extras it then gets.
func (f *Farm) Resume(s *bulkhead.Stamp) (units map[string][]bulkhead.UnitShare, ok bool) {
	i, known := f.byName[s.Node]
	if !known || f.nodes[i].node.State != bulkhead.NodeReady { // one that is cordoned keeps its stamps
		return nil, false
	}
	p, r := f.nodes[i], f.request(s)
	r.amounts[disk] = 0 // it has that
	if !p.fits(&r) {
		return nil, false
	}
	return f.grant(p, &r), true
}
