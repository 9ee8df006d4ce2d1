package mesh

import "math"

// OverhangArea is the area of the facets that a printer must support when up
// points away from the plate: those that look down at more than limit radians
// from the vertical, the ones on the plate (within 0.01 mm of the lowest
// point) apart. A limit of π/4 is the usual 45° rule. O(n).
func (m *Mesh) OverhangArea(up Vec, limit float64) float64 {
	up = up.Unit()
	lowest := math.Inf(1)
	for _, v := range m.Vertices {
		lowest = min(lowest, v.Dot(up))
	}
	sine := math.Sin(limit)
	area := 0.0
	for f := range m.Facets {
		a, b, c := m.Corners(f)
		n := b.Sub(a).Cross(c.Sub(a))
		l := n.Len()
		if l == 0 || !overhangs(n.Dot(up), l, sine) {
			continue
		}
		if max(a.Dot(up), b.Dot(up), c.Dot(up)) <= lowest+onPlate {
			continue
		}
		area += l / 2
	}
	return area
}

const onPlate = 0.01 // mm above the lowest point

// overhangs tells whether a normal of length l that rises by rise looks down at
// more than the angle with that sine from the vertical.
func overhangs(rise, l, sine float64) bool { return -rise > sine*l*(1+1e-9) }

// Support is what holds up overhangs.
type Support struct {
	Volume float64 // mm³ of the columns below overhangs, solid
	OnPart float64 // of these, what stands on the part, mm³
	Pitch  float64 // mm between the columns that were looked at
}

// SupportVolume estimates the support that a printer needs when up points away
// from the plate: columns from each overhang (see OverhangArea) down to the
// plate or to the part below it. A printer fills a tenth to a third of them.
//
// Columns are sampled at a pitch in mm, at most about a million of them; 0: such
// that there are about 60,000. The result is off by no more than half a pitch
// along the outline of the overhangs.
// O(n + columns) for usual meshes, which must be closed.
func (m *Mesh) SupportVolume(up Vec, limit, pitch float64) Support {
	if len(m.Facets) == 0 || !(up.Unit().Dot(up) > 0) {
		return Support{}
	}
	m = m.Transformed(toZ(up))
	box := m.Bounds()
	low := box.Min[2]
	box.Max[2] = low
	size := box.Size()
	if !(pitch > 0) {
		pitch = max(math.Sqrt(size[0]*size[1]/60_000), 1e-6)
	}
	g := newLattice(box, pitch, 1, 4_000_000) // in one layer of three
	sine := math.Sin(limit)
	var s Support
	for _, crossings := range m.columns(g) {
		winding, floor, onPart := 0, low, false
		for _, x := range crossings {
			if x.up {
				if winding--; winding == 0 {
					floor, onPart = x.height, true
				}
				continue
			}
			if winding++; winding != 1 || x.height <= low+onPlate {
				continue
			}
			if n := m.Normal(int(x.facet)); overhangs(n[2], 1, sine) {
				s.Volume += x.height - floor
				if onPart {
					s.OnPart += x.height - floor
				}
			}
		}
	}
	s.Volume *= g.pitch * g.pitch
	s.OnPart *= g.pitch * g.pitch
	s.Pitch = g.pitch
	return s
}

// toZ turns up to z.
func toZ(up Vec) Transform {
	up = up.Unit()
	u, v := across(up)
	return Transform{Linear: [3]Vec{u, v, up}}
}
