package plan

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"

	"bulkhead"
)

// Decision is where a stamp goes, and why.
type Decision struct {
	Node  bulkhead.NodeName
	Units map[string][]bulkhead.UnitShare // of the node's extras
	// Evict names stamps whose room is needed: they must have stopped before this one
	// is placed.
	Evict  []bulkhead.StampName
	Reason string // for people
}

// defaultSample is how many nodes are compared for one stamp in a farm that is
// larger than smallFarm.
const (
	defaultSample = 32
	smallFarm     = 256
)

// search is one question for a place.
type search struct {
	stamp   *bulkhead.Stamp
	request request
	terms   terms
	limits  limits
	// even tells that all candidates have the same value of what is spread first.
	even bool
	kept []taken
}

// taken are the domains of a scope in which stamps to keep apart from are.
type taken struct {
	scope   int // an index of scopes
	domains map[*domain]int
}

// limits are what the blast radius allows one node and one zone to carry.
type limits struct {
	node, zone bound
	floor      int
}

// bound is the most that something may carry.
type bound struct {
	count   int
	revenue int64
}

var unbounded = bound{math.MaxInt, math.MaxInt64}

// Place chooses a node for a stamp that has none. It changes nothing: who acts on
// the decision tells the farm by SetStamp. The error is of kind ErrExhausted and
// says what was short where.
func (f *Farm) Place(s *bulkhead.Stamp) (Decision, error) {
	q := search{stamp: s, request: f.request(s), terms: f.terms(s)}
	key := ""
	if len(f.refused) > 0 {
		key = f.refusalKey(&q)
		if err := f.refused[key]; err != nil {
			return Decision{}, err
		}
	}
	d, err := f.choose(&q)
	if err != nil {
		if key == "" {
			key = f.refusalKey(&q)
		}
		if len(f.refused) >= mostRefused {
			clear(f.refused)
		}
		f.refused[key] = err
		return Decision{}, err
	}
	return d, nil
}

// mostRefused bounds the refusals that are remembered: as long as nothing is given
// back, the same question has the same answer.
const mostRefused = 1024

func (f *Farm) refusalKey(q *search) string {
	return fmt.Sprint(q.stamp.Product, q.request, string(q.terms.demands.appendKey(nil)), q.terms.apart, q.terms.priority, q.terms.ring, q.terms.revenue)
}

func (f *Farm) choose(q *search) (Decision, *bulkhead.Error) {
	if err := f.quota(q); err != nil {
		return Decision{}, err
	}
	f.bounds(q)
	if err := f.ring(q); err != nil {
		return Decision{}, err
	}
	f.learn()
	v := f.view(&q.terms.demands, &q.request)
	looked := f.candidates(v, q)
	if len(looked) == 0 {
		return f.preempt(q)
	}
	best := f.best(looked, q)
	return Decision{Node: best.node.Name, Units: f.grant(best, &q.request), Reason: f.reason(best, q, v, len(looked))}, nil
}

// candidates are nodes that will do: all of them in a small farm, else those that
// are fullest in one way or the other, or emptiest if that is asked for. With a
// spread they are of the value that has fewest of the product's stamps.
func (f *Farm) candidates(v *view, q *search) []*place {
	f.search++
	f.found = f.found[:0]
	l, stamps := &v.whole, counts(nil)
	if len(q.terms.spread) > 0 {
		if over := v.layer(f, q.terms.spread[0]); over != nil {
			l, stamps, q.even = over, over.spread.counts[q.stamp.Product], true
		}
	}
	var tried []bool
	for range l.values {
		next, least := -1, 0
		for i := range l.values {
			if tried != nil && tried[i] {
				continue
			}
			n := stamps.of(l.values[i].number)
			if next < 0 || n < least {
				next, least = i, n
			}
		}
		f.look(l.values[next].grid, v, q)
		if len(f.found) > 0 {
			break
		}
		if tried == nil {
			tried = make([]bool, len(l.values))
		}
		tried[next] = true
	}
	return f.found
}

// look adds nodes of a grid that will do to found. If there is one, it finds one.
func (f *Farm) look(g *grid, v *view, q *search) {
	if g == nil {
		return
	}
	sample := f.policy.Sample
	if sample == 0 {
		sample = defaultSample
		if f.open <= smallFarm {
			sample = smallFarm
		}
	}
	row, column := v.least(&q.request)
	emptiest := q.terms.empty || len(q.terms.spread) > 0 && q.terms.spread[0] == "node.hostname"
	start := hash(q.stamp.Name)
	// Nodes that look as if they had room may be taken by those to keep apart from,
	// or lack what the grid does not show: so many are passed before this gives up
	// on comparing many, and is content with the first.
	patience := 4*sample + 64
	for pass := range 3 {
		most := sample
		if pass == 0 {
			most = (sample + 1) / 2
		}
		if pass == 2 {
			if len(f.found) > 0 {
				return
			}
			most, patience = 1, math.MaxInt
		}
		passed := 0
		g.cells(row, column, pass == 1, emptiest, func(nodes []*place) bool {
			at := int(start % uint64(len(nodes)))
			for range nodes {
				p := nodes[at]
				if at++; at == len(nodes) {
					at = 0
				}
				if p.seen == f.search {
					continue
				}
				p.seen = f.search
				if !f.suits(p, q) {
					if passed++; passed > patience {
						return false
					}
					continue
				}
				if f.found = append(f.found, p); len(f.found) >= most {
					return false
				}
			}
			return true
		})
	}
}

func hash(name bulkhead.StampName) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum64()
}

// suits tells whether a node of the right view has room and may have the stamp.
func (f *Farm) suits(p *place, q *search) bool {
	return p.fits(&q.request) && f.keeps(p, q) == ""
}

// keeps says why a node may not have the stamp though it has room; empty: it may.
func (f *Farm) keeps(p *place, q *search) string {
	for _, k := range q.kept {
		if k.domains[p.domains[k.scope]] > 0 {
			return "apart"
		}
	}
	l := &q.limits
	if !l.node.admits(&p.load, q, l.floor) {
		return "node"
	}
	if l.zone != unbounded && !l.zone.admits(p.zone(), q, l.floor) {
		return "zone"
	}
	return ""
}

func (b *bound) admits(l *load, q *search, floor int) bool {
	return l.count < floor || l.count < b.count && l.revenue+q.terms.revenue <= b.revenue
}

// bounds works out what a node and a zone may carry once the stamp is placed, and
// which domains are closed to it.
func (f *Farm) bounds(q *search) {
	q.limits = limits{unbounded, unbounded, f.policy.BlastRadius.Floor}
	if share := f.policy.BlastRadius.Node; share > 0 {
		q.limits.node = f.bound(q, share, f.open)
	}
	if share := f.policy.BlastRadius.Zone; share > 0 {
		zones := 0
		for _, z := range f.zones {
			if z.load.nodes > 0 {
				zones++
			}
		}
		q.limits.zone = f.bound(q, share, zones)
	}
	for _, a := range q.terms.apart {
		b := breadth(a.Scope)
		if in := f.apart[apartKey{a.Key, false}]; len(in) > 0 {
			q.kept = append(q.kept, taken{b, in})
		}
		if in := f.apart[apartKey{a.Key, true}]; len(in) > 0 {
			for i := b + 1; i < len(scopes); i++ {
				q.kept = append(q.kept, taken{i, in})
			}
		}
	}
}

// bound is share of all that is placed once the stamp is, or an even part of it
// if that is more.
func (f *Farm) bound(q *search, share float64, parts int) bound {
	even := 1 / float64(max(1, parts))
	share = max(share, even)
	return bound{
		count:   int(math.Ceil(share * float64(f.count+1))),
		revenue: int64(math.Ceil(share * float64(f.revenue+q.terms.revenue))),
	}
}

// ring refuses a stamp whose release ring is full.
func (f *Farm) ring(q *search) *bulkhead.Error {
	share := f.policy.BlastRadius.Ring
	if share == 0 || q.terms.ring == "" {
		return nil
	}
	rings := len(f.rings)
	l := f.rings[q.terms.ring]
	if l == nil {
		return nil
	}
	b := f.bound(q, share, rings)
	if b.admits(l, q, f.policy.BlastRadius.Floor) {
		return nil
	}
	return bulkhead.Errorf(bulkhead.ErrExhausted, "ring %s carries %d stamps and %d of revenue: a ring may carry at most %d and %d (%g %% of all)",
		q.terms.ring, l.count, l.revenue, b.count, b.revenue, share*100).WithHint("put the stamp into another ring, or raise blastRadius.ring of the policy")
}

// quota refuses a stamp with which its product would have more than its quota.
func (f *Farm) quota(q *search) *bulkhead.Error {
	quota, ok := f.policy.Quotas[q.stamp.Product]
	if !ok {
		return nil
	}
	used := f.products[q.stamp.Product]
	if used == nil {
		used = &usage{}
	}
	refuse := func(format string, args ...any) *bulkhead.Error {
		return bulkhead.Errorf(bulkhead.ErrExhausted, "product %s is at its quota: %s", q.stamp.Product, fmt.Sprintf(format, args...)).
			WithHint("raise quotas.%s of the policy, or delete stamps of the product", q.stamp.Product)
	}
	if quota.Stamps > 0 && used.count+1 > quota.Stamps {
		return refuse("%d of %d stamps", used.count, quota.Stamps)
	}
	limit := amountsOf(quota.Limit)
	for r, n := range q.request.amounts {
		if limit[r] > 0 && used.amounts[r]+n > limit[r] {
			return refuse("%s more than %s of %s", text(r, n), text(r, used.amounts[r]), text(r, limit[r]))
		}
	}
	for i := range q.request.extras {
		e := &q.request.extras[i]
		name := f.kinds[e.kind]
		var has int64
		if e.kind < len(used.extras) {
			has = used.extras[e.kind]
		}
		if most := thousandths(quota.Limit.Extras[name]); most > 0 && has+e.milli() > most {
			return refuse("%s %s more than %s of %s", inUnits(e.milli()), name, inUnits(has), inUnits(most))
		}
	}
	return nil
}

// best is the candidate with the fewest stamps in the values that stamps are
// spread over, and of those the one that costs least; of equal ones the first by
// name.
func (f *Farm) best(candidates []*place, q *search) *place {
	var best *place
	least := math.Inf(1)
	attributes := q.terms.spread
	if q.even {
		attributes = attributes[1:]
	}
	var fewest []int
	for _, p := range candidates {
		if len(attributes) > 0 {
			counts := f.crowd(p, q, attributes)
			switch c := slices.Compare(counts, fewest); {
			case best != nil && c > 0:
				continue
			case best == nil || c < 0:
				fewest, least = counts, math.Inf(1)
			}
		}
		cost := 0.0
		if q.terms.empty {
			cost = -f.room(p)
		} else {
			cost = f.cost(p, &q.request)
		}
		if cost < least || cost == least && best != nil && p.node.Name < best.node.Name {
			best, least = p, cost
		}
	}
	return best
}

// crowd is how many stamps of the product share the node's value of each attribute.
func (f *Farm) crowd(p *place, q *search, attributes []string) []int {
	crowd := make([]int, len(attributes))
	for i, attribute := range attributes {
		s := f.spread(attribute)
		crowd[i] = s.counts[q.stamp.Product].of(s.number(p.node.Attribute(attribute)))
	}
	return crowd
}

// room is the smaller share of CPU and memory that is free.
func (f *Farm) room(p *place) float64 {
	return min(float64(p.free[cpu])/float64(max(1, p.capacity[cpu])), float64(p.free[memory])/float64(max(1, p.capacity[memory])))
}

// reason says why that node.
func (f *Farm) reason(p *place, q *search, v *view, looked int) string {
	b := make([]byte, 0, 256)
	if q.terms.empty {
		b = append(b, "most room"...)
	} else {
		b = append(b, "best fit"...)
	}
	b = append(b, " of "...)
	b = strconv.AppendInt(b, int64(looked), 10)
	if looked == 1 {
		b = append(b, " node for "...)
	} else {
		b = append(b, " nodes for "...)
	}
	b = f.appendRequest(b, &q.request)
	b = append(b, v.where...)
	for i, n := range f.crowd(p, q, q.terms.spread) {
		attribute := q.terms.spread[i]
		b = append(b, "; "...)
		b = append(b, strings.TrimPrefix(attribute, "node.")...)
		b = append(b, ' ')
		b = append(b, cmp.Or(p.node.Attribute(attribute), "(none)")...)
		b = append(b, " had "...)
		b = strconv.AppendInt(b, int64(n), 10)
		b = append(b, " of product "...)
		b = append(b, q.stamp.Product...)
	}
	left := p.free.minus(q.request.amounts)
	b = append(b, "; leaves "...)
	b = appendText(b, cpu, left[cpu])
	b = append(b, " and "...)
	b = appendText(b, memory, left[memory])
	return string(b)
}

// appendRequest writes what is asked for: "0.5 cores, 1 GiB and 2 gpu".
func (f *Farm) appendRequest(b []byte, r *request) []byte {
	b = appendText(b, cpu, r.amounts[cpu])
	more := len(r.extras) > 0 || r.amounts[disk] > 0
	if more {
		b = append(b, ", "...)
	} else {
		b = append(b, " and "...)
	}
	b = appendText(b, memory, r.amounts[memory])
	if r.amounts[disk] > 0 {
		if len(r.extras) > 0 {
			b = append(b, ", "...)
		} else {
			b = append(b, " and "...)
		}
		b = appendText(b, disk, r.amounts[disk])
	}
	for i := range r.extras {
		if i == len(r.extras)-1 {
			b = append(b, " and "...)
		} else {
			b = append(b, ", "...)
		}
		b = appendUnits(b, r.extras[i].milli())
		b = append(b, ' ')
		b = append(b, f.kinds[r.extras[i].kind]...)
	}
	return b
}

// appendText writes an amount for people.
func appendText(b []byte, resource int, n int64) []byte {
	switch resource {
	case cpu:
		return append(appendUnits(b, n), " cores"...)
	case pids:
		b = strconv.AppendInt(b, n, 10)
		return append(b, " processes"...)
	case disk:
		return append(appendBytes(b, n), " of disk"...)
	default:
		return appendBytes(b, n)
	}
}

func text(resource int, n int64) string { return string(appendText(nil, resource, n)) }

// inUnits writes thousandths: "1.5".
func inUnits(milli int64) string { return string(appendUnits(nil, milli)) }

func appendUnits(b []byte, milli int64) []byte {
	return strconv.AppendFloat(b, float64(milli)/unit, 'f', -1, 64)
}
