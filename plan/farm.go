package plan

import (
	"cmp"
	"maps"
	"math"
	"reflect"
	"slices"

	"bulkhead"
)

// Farm is what placement knows of a farm: its nodes, what stamps take of them,
// and indexes over both, so that a decision costs about the same in a farm of a
// thousand nodes and in one of fifty thousand. The caller tells it of every
// change by SetNode, SetStamp and so on; Place and the other questions change
// nothing that can be seen.
//
// The order in which it is told does not matter to what it allows, and the same
// calls give the same answers. It is not for several goroutines at once.
type Farm struct {
	policy bulkhead.Policy

	nodes  []*place // by index; those that left are nil
	byName map[bulkhead.NodeName]int
	unused []int // indexes of nodes that left

	stamps map[bulkhead.StampName]*tenant
	// arriving are the stamps that move, as they count where they go to.
	arriving map[bulkhead.StampName]*tenant
	draining map[bulkhead.NodeName]bool
	onNode   map[bulkhead.NodeName][]*tenant // also of nodes that are not known

	kindOf map[string]int // names of extras
	kinds  []string

	total    amounts // of open nodes
	extras   []int64 // of open nodes, thousandths by kind
	richest  []int64 // the most that one node has of each, at least 1
	open     int     // nodes
	largest  amounts // of all nodes' capacities, at least 1
	count    int     // of placed stamps
	revenue  int64   // theirs
	products map[bulkhead.ProductName]*usage
	zones    map[zone]*domain
	regions  map[string]*domain
	rings    map[string]*load
	apart    map[apartKey]map[*domain]int // how many stamps with the key are in a domain
	spreads  map[string]*spread           // by attribute
	lesser   map[int]int                  // how many stamps that may be preempted, by priority

	views   map[string]*view
	clock   uint64 // of uses of views
	refused map[string]*bulkhead.Error
	looser  uint64 // how often a refusal may have ended
	sizes   sizes

	// What one search notes: its number, by which it knows the nodes that it has looked
	// at, those that will do, and room for what it puts together.
	search uint64
	found  []*place
	key    []byte
	tried  [][]bulkhead.UnitShare // of one node, while its cost is worked out
}

// usage is what the stamps of a product take together.
type usage struct {
	amounts
	extras []int64 // thousandths, by kind
	count  int
}

// place is a node and what is left of it. What is read of every node that is
// compared stands together, at the beginning: in a large farm most of it is not in
// the processor's cache.
type place struct {
	free     amounts
	waste    waste
	seen     uint64               // the last search that has looked at it
	units    [][]int64            // by kind: what is free of each unit, thousandths
	domains  [len(scopes)]*domain // by scope
	load     load
	capacity amounts
	node     *bulkhead.Node
	index    int  // in Farm.nodes
	open     bool // takes stamps
}

// tenant is a stamp as it was counted.
type tenant struct {
	name    bulkhead.StampName
	product bulkhead.ProductName
	node    bulkhead.NodeName
	request request
	units   map[string][]bulkhead.UnitShare
	taken   [][]bulkhead.UnitShare // by kind, as its node has it
	terms   terms
	stamp   *bulkhead.Stamp // as it was told
	data    bool            // only its data is counted
	leaving bool            // preempted, and not stopped yet
	moving  bool            // a move of it is under way
}

// terms are what of a stamp's terms is counted.
type terms struct {
	demands
	priority    int
	preemptible bool
	ring        string
	revenue     int64
}

// NewFarm is a farm without nodes.
func NewFarm(policy bulkhead.Policy) *Farm {
	if policy.CPUOvercommit == 0 {
		policy.CPUOvercommit = 1
	}
	if policy.BlastRadius.Floor == 0 {
		policy.BlastRadius.Floor = 10
	}
	if policy.Moves == 0 {
		policy.Moves = 8
	}
	return &Farm{
		policy: policy, byName: map[bulkhead.NodeName]int{},
		stamps: map[bulkhead.StampName]*tenant{}, arriving: map[bulkhead.StampName]*tenant{}, draining: map[bulkhead.NodeName]bool{}, onNode: map[bulkhead.NodeName][]*tenant{},
		kindOf: map[string]int{}, largest: amounts{1, 1, 1, 1},
		products: map[bulkhead.ProductName]*usage{}, zones: map[zone]*domain{}, regions: map[string]*domain{}, rings: map[string]*load{},
		apart: map[apartKey]map[*domain]int{}, spreads: map[string]*spread{}, lesser: map[int]int{},
		views: map[string]*view{}, refused: map[string]*bulkhead.Error{},
		sizes: newSizes(),
	}
}

// Loosened grows whenever a stamp that was refused may have a place now.
func (f *Farm) Loosened() uint64 { return f.looser }

func (f *Farm) loosen() {
	clear(f.refused)
	f.looser++
}

// Adrift tells whether a stamp has a node and has to get another: its own is lost
// or gone, and it leaves no data there.
func (f *Farm) Adrift(s *bulkhead.Stamp) bool {
	if s.Node == "" || len(s.Volumes) > 0 || s.Desired == bulkhead.DesiredDeleted {
		return false
	}
	i, known := f.byName[s.Node]
	return !known || f.nodes[i].node.State == bulkhead.NodeLost
}

// kind is the number of an extra.
func (f *Farm) kind(name string) int {
	if k, ok := f.kindOf[name]; ok {
		return k
	}
	k := len(f.kinds)
	f.kindOf[name] = k
	f.kinds = append(f.kinds, name)
	f.extras, f.richest = append(f.extras, 0), append(f.richest, 1)
	return k
}

// SetNode tells of a node that is new or has changed.
func (f *Farm) SetNode(n bulkhead.Node) {
	i, known := f.byName[n.Name]
	if known && sameForPlacement(f.nodes[i].node, &n) {
		return
	}
	if known {
		f.leave(f.nodes[i])
	} else if last := len(f.unused) - 1; last >= 0 {
		i, f.unused = f.unused[last], f.unused[:last]
	} else {
		i = len(f.nodes)
		f.nodes = append(f.nodes, nil)
	}
	f.byName[n.Name] = i
	if delete(f.draining, n.Name); n.Draining {
		f.draining[n.Name] = true
	}
	own := n // not n itself, which would cost its memory for a node that has not changed, too
	p := &place{node: &own, index: i, open: n.Takes(), domains: f.domains(&n)}
	p.capacity = amountsOf(n.Capacity).minus(amountsOf(f.policy.Reserve))
	p.capacity[cpu] = int64(float64(p.capacity[cpu]) * f.policy.CPUOvercommit)
	if n.Capacity.PIDs == 0 { // not reported: not counted
		p.capacity[pids] = math.MaxInt32
	}
	p.free = p.capacity
	for _, name := range slices.Sorted(maps.Keys(n.Capacity.Extras)) {
		k := f.kind(name)
		for len(p.units) <= k {
			p.units = append(p.units, nil)
		}
		// A node that reports more, or a part of a unit, is cut to what can be counted.
		p.units[k] = slices.Repeat([]int64{unit}, int(min(max(0, n.Capacity.Extras[name]), mostUnits)))
	}
	f.nodes[i] = p
	if p.open {
		f.open++
		f.total = f.total.plus(p.capacity)
		for k, units := range p.units {
			f.extras[k] += int64(len(units)) * unit
		}
		p.zone().nodes++
	}
	for r := range f.largest {
		f.largest[r] = max(f.largest[r], p.capacity[r])
	}
	for k, units := range p.units {
		f.richest[k] = max(f.richest[k], int64(len(units))*unit)
	}
	for _, t := range f.onNode[n.Name] {
		f.occupy(p, t)
	}
	f.attributed(p, 1)
	for _, v := range f.views {
		if p.open && v.wants(p) {
			v.put(p)
		}
	}
	f.loosen()
}

// sameForPlacement tells whether nothing has changed that placement looks at.
func sameForPlacement(a, b *bulkhead.Node) bool {
	return a.State == b.State && a.Takes() == b.Takes() && a.Draining == b.Draining && a.Region == b.Region && a.Zone == b.Zone && a.Platform == b.Platform && maps.Equal(a.Labels, b.Labels) &&
		amountsOf(a.Capacity) == amountsOf(b.Capacity) && maps.Equal(a.Capacity.Extras, b.Capacity.Extras)
}

// RemoveNode tells that a node is gone. Stamps that are said to be on it stay
// counted with their product, tier and ring.
func (f *Farm) RemoveNode(name bulkhead.NodeName) {
	i, known := f.byName[name]
	if !known {
		return
	}
	f.leave(f.nodes[i])
	f.nodes[i] = nil
	delete(f.byName, name)
	delete(f.draining, name)
	f.unused = append(f.unused, i)
	f.loosen()
}

// leave takes a node out of all that is added up over nodes.
func (f *Farm) leave(p *place) {
	for _, v := range f.views {
		v.drop(p)
	}
	for _, t := range f.onNode[p.node.Name] {
		t.taken = nil
		z := p.zone()
		z.count, z.revenue = z.count-1, z.revenue-t.terms.revenue
	}
	f.attributed(p, -1)
	if !p.open {
		return
	}
	f.open--
	f.total = f.total.minus(p.capacity)
	for k, units := range p.units {
		f.extras[k] -= int64(len(units)) * unit
	}
	p.zone().nodes--
}

// attributed counts what is on a node in the domains that its attributes put it in.
func (f *Farm) attributed(p *place, sign int) {
	for _, t := range f.onNode[p.node.Name] {
		f.separate(p, t, sign)
	}
}

// On names the stamps of a node and those that move to it, in any order.
func (f *Farm) On(node bulkhead.NodeName) []bulkhead.StampName {
	var out []bulkhead.StampName
	for _, t := range f.onNode[node] {
		out = append(out, t.name)
	}
	return out
}

// SetStamp tells of a stamp that is new or has changed. One without a node, or
// of which nothing is left, counts nowhere. releasing tells that a preempted
// stamp still runs.
func (f *Farm) SetStamp(s *bulkhead.Stamp, releasing bool) {
	if s.Node == "" {
		f.RemoveStamp(s.Name)
		return
	}
	t := &tenant{
		name: s.Name, product: s.Product, node: s.Node, request: f.request(s), units: s.Units, terms: f.terms(s),
		leaving: s.Preempted != "", moving: s.Transfer != nil,
	}
	if s.Desired == bulkhead.DesiredDeleted || s.Preempted != "" && !releasing {
		t.data = true
		t.request = request{amounts: amounts{disk: t.request.amounts[disk]}}
		t.terms.apart, t.terms.spread = nil, nil
	}
	if old, ok := f.stamps[s.Name]; ok {
		was := *old
		was.stamp, was.taken = nil, nil
		if reflect.DeepEqual(&was, t) { // nothing that counts has changed
			old.stamp = s
			f.setArriving(s)
			return
		}
		f.RemoveStamp(s.Name)
	}
	t.stamp = s
	f.stamps[s.Name] = t
	f.tally(t, 1)
	if b := &f.policy.BlastRadius; b.Node > 0 || b.Zone > 0 || b.Ring > 0 { // more in all is more for each
		f.loosen()
	}
	f.enter(t)
	f.setArriving(s)
}

// setArriving counts a stamp that moves on the node to which it goes, too: what it
// needs there is nobody else's.
func (f *Farm) setArriving(s *bulkhead.Stamp) {
	var t *tenant
	if m := s.Transfer; m != nil && m.To != "" && m.To != s.Node && m.Phase != bulkhead.TransferPlanned && s.Desired != bulkhead.DesiredDeleted {
		t = &tenant{name: s.Name, product: s.Product, node: m.To, request: f.request(s), units: m.Units, terms: f.terms(s), moving: true}
	}
	old := f.arriving[s.Name]
	if old != nil && t != nil {
		was := *old
		was.stamp, was.taken = nil, nil
		if reflect.DeepEqual(&was, t) {
			old.stamp = s
			return
		}
	}
	if old != nil {
		delete(f.arriving, s.Name)
		f.exit(old)
		f.loosen()
	}
	if t != nil {
		t.stamp = s
		f.arriving[s.Name] = t
		f.enter(t)
	}
}

// enter counts a tenant on its node.
func (f *Farm) enter(t *tenant) {
	f.onNode[t.node] = append(f.onNode[t.node], t)
	if i, ok := f.byName[t.node]; ok {
		p := f.nodes[i]
		f.occupy(p, t)
		f.separate(p, t, 1)
		f.moved(p)
	}
}

// exit undoes enter.
func (f *Farm) exit(t *tenant) {
	on := f.onNode[t.node]
	last := len(on) - 1
	on[slices.Index(on, t)] = on[last]
	on[last] = nil
	if f.onNode[t.node] = on[:last]; last == 0 {
		delete(f.onNode, t.node)
	}
	if i, ok := f.byName[t.node]; ok {
		p := f.nodes[i]
		f.vacate(p, t)
		f.separate(p, t, -1)
		f.moved(p)
	}
}

func (f *Farm) terms(s *bulkhead.Stamp) terms {
	tier := f.policy.Tiers[tierOf(s)]
	return terms{
		demands: demandsOf(s), priority: tier.Priority, preemptible: tier.Preemptible,
		ring: cmp.Or(s.Terms.Ring, s.ReleaseTerms.Ring), revenue: s.Terms.Revenue,
	}
}

// RemoveStamp tells that a stamp is gone.
func (f *Farm) RemoveStamp(name bulkhead.StampName) {
	t, ok := f.stamps[name]
	if !ok {
		return
	}
	delete(f.stamps, name)
	f.exit(t)
	f.tally(t, -1)
	if t := f.arriving[name]; t != nil {
		delete(f.arriving, name)
		f.exit(t)
	}
	f.loosen()
}

// tally counts a stamp where its node does not matter.
func (f *Farm) tally(t *tenant, sign int) {
	n := int64(sign)
	f.count += sign
	f.revenue += n * t.terms.revenue
	if t.terms.ring != "" {
		l := f.rings[t.terms.ring]
		if l == nil {
			l = &load{}
			f.rings[t.terms.ring] = l
		}
		l.count, l.revenue = l.count+sign, l.revenue+n*t.terms.revenue
	}
	if t.terms.preemptible && !t.data {
		f.lesser[t.terms.priority] += sign
	}
	u := f.products[t.product]
	if u == nil {
		u = &usage{}
		f.products[t.product] = u
	}
	u.count += sign
	for r, a := range t.request.amounts {
		u.amounts[r] += n * a
	}
	for i := range t.request.extras {
		e := &t.request.extras[i]
		for len(u.extras) <= e.kind {
			u.extras = append(u.extras, 0)
		}
		u.extras[e.kind] += n * e.milli()
	}
	if !t.data {
		f.sizes.count(&t.request, sign)
	}
}

// occupy takes a stamp's request from its node.
func (f *Farm) occupy(p *place, t *tenant) {
	p.free = p.free.minus(t.request.amounts)
	p.load.count++
	p.load.revenue += t.terms.revenue
	z := p.zone()
	z.count, z.revenue = z.count+1, z.revenue+t.terms.revenue
	t.taken = nil
	for i := range t.request.extras {
		e := &t.request.extras[i]
		for len(t.taken) <= e.kind {
			t.taken = append(t.taken, nil)
		}
		shares := t.units[f.kinds[e.kind]]
		if len(shares) == 0 { // it was placed by a version that granted none
			shares, _ = p.allot(e)
		}
		for _, s := range shares {
			if s.Unit >= 0 && e.kind < len(p.units) && s.Unit < len(p.units[e.kind]) { // else the node has lost it
				t.taken[e.kind] = append(t.taken[e.kind], s)
			}
		}
		p.take(e.kind, t.taken[e.kind], 1)
	}
	p.waste.stale()
}

// vacate gives back what occupy took.
func (f *Farm) vacate(p *place, t *tenant) {
	p.free = p.free.plus(t.request.amounts)
	p.load.count--
	p.load.revenue -= t.terms.revenue
	z := p.zone()
	z.count, z.revenue = z.count-1, z.revenue-t.terms.revenue
	for kind, shares := range t.taken {
		p.take(kind, shares, -1)
	}
	t.taken = nil
	p.waste.stale()
}

// moved puts a node where it belongs in the views after its room has changed.
func (f *Farm) moved(p *place) {
	if !p.open {
		return
	}
	for _, v := range f.views {
		v.move(p)
	}
}

// fits tells whether a request has room on a node.
func (p *place) fits(r *request) bool {
	if !r.amounts.within(&p.free) {
		return false
	}
	for i := range r.extras {
		if !p.fitsExtra(&r.extras[i]) {
			return false
		}
	}
	return true
}
