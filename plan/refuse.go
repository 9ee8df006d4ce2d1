package plan

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"bulkhead"
)

// refuse says why no node will do. It looks at every node, which a decision does
// not: Place remembers what it says until something is given back.
func (f *Farm) refuse(q *search) *bulkhead.Error {
	var ready, match []*place
	cordoned, full := 0, 0
	for _, p := range f.nodes {
		if p == nil {
			continue
		}
		if p.open {
			ready = append(ready, p)
			if q.terms.metBy(p.node) {
				match = append(match, p)
			}
			continue
		}
		switch {
		case p.node.State != bulkhead.NodeReady:
		case p.node.Cordoned, p.node.Draining:
			cordoned++
		case p.node.Full:
			full++
		}
	}
	known := len(f.byName)
	where := q.terms.demands.String()
	exhausted := func(format string, args ...any) *bulkhead.Error {
		return bulkhead.Errorf(bulkhead.ErrExhausted, format, args...)
	}
	switch {
	case len(ready) == 0 && cordoned+full > 0:
		return exhausted("no node takes new stamps (%d known, %d cordoned or draining, %d with a full disk)", known, cordoned, full)
	case len(ready) == 0:
		return exhausted("no node is ready (%d known)", known)
	case len(match) == 0:
		nodes := make([]*bulkhead.Node, len(ready))
		for i, p := range ready {
			nodes[i] = p.node
		}
		return q.terms.unmet(nodes, known, bulkhead.ErrExhausted)
	}
	counted := fmt.Sprintf("%d of %d nodes match", len(match), known)
	if q.terms.plain() {
		counted = fmt.Sprintf("%d of %d nodes ready", len(match), known)
	}
	// What no matching node has, each resource by itself.
	type need struct {
		have func(p *place) bool
		free func(p *place) int64
		text func(n int64) string
		want string
	}
	var needs []need
	for r := range resources {
		want := q.request.amounts[r]
		if want == 0 {
			continue
		}
		needs = append(needs, need{
			have: func(p *place) bool { return p.free[r] >= want },
			free: func(p *place) int64 { return p.free[r] },
			text: func(n int64) string { return text(r, n) }, want: text(r, want),
		})
	}
	for i := range q.request.extras {
		e := &q.request.extras[i]
		name := f.kinds[e.kind]
		needs = append(needs, need{
			have: func(p *place) bool { return p.fitsExtra(e) },
			free: func(p *place) int64 { return p.freeMilli(e.kind) },
			text: func(n int64) string { return inUnits(n) + " " + name }, want: inUnits(e.milli()) + " " + name,
		})
	}
	largest := func(n need) string {
		best := slices.MaxFunc(match, func(a, b *place) int {
			return cmp.Or(cmp.Compare(n.free(a), n.free(b)), cmp.Compare(b.node.Name, a.node.Name))
		})
		return fmt.Sprintf("%s on %s", n.text(max(0, n.free(best))), best.node.Name)
	}
	var short []need
	for _, n := range needs {
		if !slices.ContainsFunc(match, n.have) {
			short = append(short, n)
		}
	}
	together := ""
	if len(short) == 0 && !slices.ContainsFunc(match, func(p *place) bool { return p.fits(&q.request) }) {
		short, together = needs, " together"
	}
	if len(short) > 0 {
		var wants, most []string
		for _, n := range short {
			wants, most = append(wants, n.want), append(most, largest(n))
		}
		return exhausted("no node has %s free%s%s (%s; largest free: %s)", listed(wants), together, where, counted, strings.Join(most, ", ")).
			WithHint("add a node, move or delete stamps, or let the stamp request less")
	}
	return exhausted("%s", f.keptFrom(q, match, where, counted))
}

// unmet is the refusal of demands that none of the nodes meets. Of several it says
// how many meet each alone.
func (d *demands) unmet(nodes []*bulkhead.Node, known int, kind error) *bulkhead.Error {
	var parts []string
	for _, one := range d.each() {
		n := 0
		for _, node := range nodes {
			if one.met(node) {
				n++
			}
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, one))
	}
	counted := fmt.Sprintf(" (0 of %d nodes match; %s)", known, strings.Join(parts, ", "))
	switch len(parts) {
	case 0: // all nodes are in pools
		counted = fmt.Sprintf(" outside of pools (%d known)", known)
	case 1:
		counted = fmt.Sprintf(" (0 of %d nodes match)", known)
	}
	return bulkhead.Errorf(kind, "no node is%s%s", d, counted).WithHint("label a node, or change the terms of the stamp")
}

// Meetable refuses a stamp whose terms no node of the farm meets, whatever its
// state and room. In a farm without nodes everything is meetable: they come later.
func Meetable(s *bulkhead.Stamp, nodes iter.Seq[bulkhead.Node]) error {
	d := demandsOf(s)
	for n := range nodes {
		if d.metBy(&n) {
			return nil
		}
	}
	var all []*bulkhead.Node // only a refusal needs them
	for n := range nodes {
		all = append(all, &n)
	}
	if len(all) == 0 {
		return nil
	}
	return d.unmet(all, len(all), bulkhead.ErrConflict)
}

// keptFrom says what keeps the stamp from every node that has room.
func (f *Farm) keptFrom(q *search, match []*place, where, counted string) string {
	room, by := 0, map[string]int{}
	for _, p := range match {
		if p.fits(&q.request) {
			room++
			by[f.keeps(p, q)]++
		}
	}
	var parts []string
	if n := by["apart"]; n > 0 {
		var keys []string
		for _, a := range q.terms.apart {
			keys = append(keys, a.Key)
		}
		parts = append(parts, fmt.Sprintf("%d by stamps to keep apart from (%s)", n, strings.Join(keys, ", ")))
	}
	for _, b := range []struct {
		name  string
		bound bound
		share float64
	}{{"node", q.limits.node, f.policy.BlastRadius.Node}, {"zone", q.limits.zone, f.policy.BlastRadius.Zone}} {
		if n := by[b.name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d by the blast radius of a %s (at most %d stamps and %d of revenue, %g %% of all)",
				n, b.name, b.bound.count, b.bound.revenue, b.share*100))
		}
	}
	return fmt.Sprintf("no node with room%s may have the stamp (%s, %d with room): %s", where, counted, room, strings.Join(parts, ", "))
}

// listed is "a, b and c".
func listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
