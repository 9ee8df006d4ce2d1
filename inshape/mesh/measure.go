package mesh

import (
	"math"
	"runtime"
	"sync/atomic"
)

// Box is an axis-parallel box.
type Box struct{ Min, Max Vec }

// Size is the box's extent.
func (b Box) Size() Vec { return b.Max.Sub(b.Min) }

// Bounds is the box around all vertices, zero for none. O(n).
func (m *Mesh) Bounds() Box {
	if len(m.Vertices) == 0 {
		return Box{}
	}
	b := Box{m.Vertices[0], m.Vertices[0]}
	for _, v := range m.Vertices {
		for k, x := range v {
			b.Min[k] = min(b.Min[k], x)
			b.Max[k] = max(b.Max[k], x)
		}
	}
	return b
}

// Measures are the integral properties of a mesh. Volume and centre mean
// something for a closed, oriented mesh alone; the volume of one that is
// inside out is negative.
type Measures struct {
	Volume float64 // mm³
	Area   float64 // mm²
	Centre Vec     // centre of mass of the solid, mm; of the box if the volume is 0
	Bounds Box
}

// Measure integrates over all facets: the volume by the divergence theorem as
// the sum of signed tetrahedra (Zhang and Chen, Efficient feature extraction
// for 2D/3D objects in mesh representation, ICIP 2001), from the middle of the
// box so that a part far from the origin loses no digits. Sums are taken in
// fixed blocks: the result does not depend on the number of CPUs. O(n).
func Measure(m *Mesh) Measures {
	box := m.Bounds()
	middle := box.Min.Add(box.Max).Mul(0.5)
	const block = 1 << 14
	type sums struct {
		volume, area float64
		moment       Vec
	}
	blocks := make([]sums, (len(m.Facets)+block-1)/block)
	var next atomic.Int64
	parallel(max(1, min(runtime.GOMAXPROCS(0), len(blocks))), func(int) {
		for {
			b := int(next.Add(1)) - 1
			if b >= len(blocks) {
				return
			}
			var s sums
			for f := b * block; f < min((b+1)*block, len(m.Facets)); f++ {
				p, q, r := m.Corners(f)
				p, q, r = p.Sub(middle), q.Sub(middle), r.Sub(middle)
				n := q.Sub(p).Cross(r.Sub(p))
				six := p.Dot(n) // = p·(q×r)
				s.volume += six
				s.area += n.Len()
				s.moment = s.moment.Add(p.Add(q).Add(r).Mul(six))
			}
			blocks[b] = s
		}
	})
	var t sums
	for _, s := range blocks {
		t.volume += s.volume
		t.area += s.area
		t.moment = t.moment.Add(s.moment)
	}
	r := Measures{Volume: t.volume / 6, Area: t.area / 2, Centre: middle, Bounds: box}
	if t.volume != 0 {
		r.Centre = middle.Add(t.moment.Mul(1 / (4 * t.volume)))
	}
	return r
}

// degenerate tells whether facet f has no area that float32 input could mean:
// its height is below 1e-7 of its longest side.
func (m *Mesh) degenerate(f int) bool {
	a, b, c := m.Corners(f)
	u, v, w := b.Sub(a), c.Sub(a), c.Sub(b)
	side := max(u.Dot(u), v.Dot(v), w.Dot(w))
	n := u.Cross(v)
	return !(n.Dot(n) > 1e-14*side*side)
}

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
		if l == 0 || -n.Dot(up) <= sine*l*(1+1e-9) {
			continue
		}
		if max(a.Dot(up), b.Dot(up), c.Dot(up)) <= lowest+0.01 {
			continue
		}
		area += l / 2
	}
	return area
}
