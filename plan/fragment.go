package plan

import (
	"cmp"
	"fmt"
	"slices"
)

// A node that has room left for nothing that usually comes is wasted, whatever
// its free amounts are. Place therefore weighs how much of the resource that is
// scarce in the farm a placement makes useless for the requests that usually
// come: the gradient of fragmentation (Weng et al., "Beware of Fragmentation:
// Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX
// ATC 2023), here for any resource, and beside how well the request fits.

// sizes are the requests that usually come, learned from the stamps that are
// placed.
type sizes struct {
	classes map[sizeKey]*sizeClass
	total   int // stamps counted
	changes int // since usual was worked out
	epoch   uint64
	usual   []usualSize
	weight  float64 // of all usual sizes: 1, but for rounding
	extras  bool    // one of them needs some
	// Room for less than least in one resource is of use to no usual size; room for most
	// in each is of use to all that need no extras. Most nodes are the one or the other.
	least, most amounts
	// scarce is the resource of which the usual sizes ask most, compared with what
	// the farm has: an index of amounts, or resources and an extra's kind.
	scarce int
}

// mostSizes is how many usual sizes are told apart. On the trace that
// docs/placement.md names, more make no difference.
const mostSizes = 32

// sizeKey puts requests of about the same size together.
type sizeKey struct {
	cpu, memory int
	extras      string
}

type sizeClass struct {
	count   int
	sum     amounts
	request request // the first one: extras are the same in all
}

// usualSize is a size and its share of all stamps.
type usualSize struct {
	request
	weight float64
}

func newSizes() sizes { return sizes{classes: map[sizeKey]*sizeClass{}} }

// count adds a request, or takes it away.
func (s *sizes) count(r *request, sign int) {
	key := sizeKey{cpu: level(r.amounts[cpu], shiftCPU), memory: level(r.amounts[memory], shiftMemory)}
	if len(r.extras) > 0 {
		key.extras = fmt.Sprint(r.extras)
	}
	c := s.classes[key]
	if c == nil {
		c = &sizeClass{request: *r}
		s.classes[key] = c
	}
	c.count += sign
	for i := range c.sum {
		c.sum[i] += int64(sign) * r.amounts[i]
	}
	if c.count == 0 {
		delete(s.classes, key)
	}
	s.total += sign
	s.changes++
}

// learn works out the usual sizes when enough has changed since the last time.
func (f *Farm) learn() {
	s := &f.sizes
	if s.changes == 0 || s.changes*8 < s.total {
		return
	}
	s.changes = 0
	s.epoch++
	type entry struct {
		key sizeKey
		c   *sizeClass
	}
	all := make([]entry, 0, len(s.classes))
	for key, c := range s.classes {
		all = append(all, entry{key, c})
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(b.c.count-a.c.count, a.key.cpu-b.key.cpu, a.key.memory-b.key.memory, cmp.Compare(a.key.extras, b.key.extras))
	})
	all = all[:min(len(all), mostSizes)]
	total := 0
	for _, e := range all {
		total += e.c.count
	}
	s.usual, s.weight, s.extras = s.usual[:0], 0, false
	asked, extras := [resources]float64{}, make([]float64, len(f.kinds))
	for _, e := range all {
		u := usualSize{request: e.c.request, weight: float64(e.c.count) / float64(total)}
		for i := range u.amounts {
			u.amounts[i] = e.c.sum[i] / int64(e.c.count)
			asked[i] += u.weight * float64(u.amounts[i])
		}
		for i := range u.extras {
			extras[u.extras[i].kind] += u.weight * float64(u.extras[i].milli())
		}
		if len(s.usual) == 0 {
			s.least, s.most = u.amounts, u.amounts
		}
		for i, n := range u.amounts {
			s.least[i], s.most[i] = min(s.least[i], n), max(s.most[i], n)
		}
		s.weight += u.weight
		s.extras = s.extras || len(u.extras) > 0
		s.usual = append(s.usual, u)
	}
	s.scarce = cpu
	most := asked[cpu] / float64(max(1, f.total[cpu]))
	if m := asked[memory] / float64(max(1, f.total[memory])); m > most {
		s.scarce, most = memory, m
	}
	for k, e := range extras {
		if f.extras[k] > 0 && e/float64(f.extras[k]) > most {
			s.scarce, most = resources+k, e/float64(f.extras[k])
		}
	}
}

// waste is how much of a node is useless for the usual sizes, as it was worked
// out last.
type waste struct {
	value float64
	epoch uint64 // of the sizes; 0: never
}

func (w *waste) stale() { w.epoch = 0 }

// wasteOf is the part of the scarce resource free on a node that is of no use to
// the usual sizes, each weighed by how usual it is. 1 is all that the largest
// node has.
func (f *Farm) wasteOf(p *place) float64 {
	if p.waste.epoch != f.sizes.epoch {
		p.waste = waste{f.useless(&p.free, p), f.sizes.epoch}
	}
	return p.waste.value
}

// useless is wasteOf for a node with so much free.
func (f *Farm) useless(free *amounts, p *place) float64 {
	s := &f.sizes
	if s.scarce >= resources {
		return f.uselessExtra(free, p, s.scarce-resources)
	}
	if free[s.scarce] <= 0 {
		return 0
	}
	return s.lost(free, p) * float64(free[s.scarce]) / float64(f.largest[s.scarce])
}

// lost is the weight of the usual sizes that do not fit.
func (s *sizes) lost(free *amounts, p *place) float64 {
	if !s.least.within(free) {
		return s.weight
	}
	if s.most.within(free) && !s.extras {
		return 0
	}
	lost := 0.0
	for i := range s.usual {
		u := &s.usual[i]
		ok := u.amounts.within(free)
		for j := 0; ok && j < len(u.extras); j++ {
			ok = p.fitsExtra(&u.extras[j])
		}
		if !ok {
			lost += u.weight
		}
	}
	return lost
}

// uselessExtra counts, of an extra, what is free on units that a size cannot use;
// all of it where the size does not fit at all. Sizes without the extra do not count.
func (f *Farm) uselessExtra(free *amounts, p *place, kind int) float64 {
	all := p.freeMilli(kind)
	if all == 0 {
		return 0
	}
	lost := 0.0
	for i := range f.sizes.usual {
		u := &f.sizes.usual[i]
		for j := range u.extras {
			e := &u.extras[j]
			switch {
			case e.kind != kind:
			case !u.amounts.within(free) || !p.fitsExtra(e):
				lost += u.weight * float64(all)
			default:
				least := int64(unit)
				if e.whole == 0 {
					least = e.parts[len(e.parts)-1]
				}
				for _, n := range p.units[kind] {
					if n > 0 && n < least {
						lost += u.weight * float64(n)
					}
				}
			}
		}
	}
	return lost / float64(f.richest[kind])
}

// fragmentWeight is what a share of waste counts against a share of room left.
// On the trace that docs/placement.md names, values from 30 to 130 do about
// equally well.
const fragmentWeight = 64

// cost is what is lost when a request is placed on a node that has room for it,
// least being best: fragments that it makes, and room that it leaves.
func (f *Farm) cost(p *place, r *request) float64 {
	left := p.free.minus(r.amounts)
	before := f.wasteOf(p)
	for i := range r.extras {
		shares, _ := p.allot(&r.extras[i])
		p.take(r.extras[i].kind, shares, 1)
		f.tried = append(f.tried, shares)
	}
	rest := float64(left[cpu])/float64(f.largest[cpu]) + float64(left[memory])/float64(f.largest[memory])
	for kind := range p.units {
		rest += float64(p.freeMilli(kind)) / float64(f.richest[kind])
	}
	after := f.useless(&left, p)
	for i := range r.extras {
		p.take(r.extras[i].kind, f.tried[i], -1)
	}
	f.tried = f.tried[:0]
	return fragmentWeight*(after-before) + rest
}
