package plan

import (
	"cmp"
	"math"
	"slices"

	"bulkhead"
)

// Extras are what only some nodes have: GPUs, licences. They are counted in units,
// and a unit in thousandths.

// unit is one of an extra, in the thousandths in which it is counted.
const unit = 1000

// mostUnits is how many units of an extra are counted on one node.
const mostUnits = 1024

// extraRequest is what a stamp needs of one extra: whole units, and parts that
// each must come from one unit.
type extraRequest struct {
	kind  int // see Farm.kinds
	whole int
	parts []int64 // thousandths, largest first
}

// milli is all of it in thousandths.
func (e *extraRequest) milli() int64 {
	n := int64(e.whole) * unit
	for _, p := range e.parts {
		n += p
	}
	return n
}

// add takes one task's need along.
func (e *extraRequest) add(amount float64) {
	milli := thousandths(amount)
	e.whole += int(milli / unit)
	if part := milli % unit; part > 0 {
		i, _ := slices.BinarySearchFunc(e.parts, part, func(a, b int64) int { return cmp.Compare(b, a) })
		e.parts = slices.Insert(e.parts, i, part)
	}
}

// allot chooses units for a request: whole ones that nobody has a part of, then
// for each part, largest first, the fullest unit with room. ok tells whether
// there was room for all.
func (p *place) allot(e *extraRequest) (shares []bulkhead.UnitShare, ok bool) {
	if e.kind >= len(p.units) {
		return nil, false
	}
	units := p.units[e.kind]
	whole := e.whole
	for i, free := range units {
		if whole > 0 && free == unit {
			shares = append(shares, bulkhead.UnitShare{Unit: i, Milli: unit})
			whole--
		}
	}
	for _, part := range e.parts {
		best, left := -1, int64(math.MaxInt64)
		for i, free := range units {
			for _, s := range shares {
				if s.Unit == i {
					free -= s.Milli
				}
			}
			if free >= part && free < left {
				best, left = i, free
			}
		}
		if best < 0 {
			return shares, false
		}
		shares = append(shares, bulkhead.UnitShare{Unit: best, Milli: part})
	}
	return shares, whole == 0
}

// take takes shares of units, or gives them back.
func (p *place) take(kind int, shares []bulkhead.UnitShare, sign int64) {
	for _, s := range shares {
		p.units[kind][s.Unit] -= sign * s.Milli
	}
}

func (p *place) fitsExtra(e *extraRequest) bool {
	if e.kind >= len(p.units) {
		return false
	}
	units := p.units[e.kind]
	switch {
	case e.whole > 0 && len(e.parts) == 0:
		n := 0
		for _, free := range units {
			if free == unit {
				n++
			}
		}
		return n >= e.whole
	case e.whole == 0 && len(e.parts) == 1:
		for _, free := range units {
			if free >= e.parts[0] {
				return true
			}
		}
		return false
	}
	_, ok := p.allot(e)
	return ok
}

// freeMilli is what is free of an extra, thousandths.
func (p *place) freeMilli(kind int) int64 {
	var n int64
	if kind < len(p.units) {
		for _, free := range p.units[kind] {
			n += max(0, free)
		}
	}
	return n
}

// grant chooses the units of extras on a node that has room.
func (f *Farm) grant(p *place, r *request) map[string][]bulkhead.UnitShare {
	if len(r.extras) == 0 {
		return nil
	}
	units := map[string][]bulkhead.UnitShare{}
	for i := range r.extras {
		units[f.kinds[r.extras[i].kind]], _ = p.allot(&r.extras[i])
	}
	return units
}
