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
	x0, y0, z0 := m.Vertices[0][0], m.Vertices[0][1], m.Vertices[0][2]
	x1, y1, z1 := x0, y0, z0
	for i := range m.Vertices {
		v := &m.Vertices[i]
		x0, x1 = min(x0, v[0]), max(x1, v[0])
		y0, y1 = min(y0, v[1]), max(y1, v[1])
		z0, z1 = min(z0, v[2]), max(z1, v[2])
	}
	return Box{Vec{x0, y0, z0}, Vec{x1, y1, z1}}
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
			for _, t := range m.Facets[b*block : min((b+1)*block, len(m.Facets))] {
				// Written out: the compiler keeps numbers in registers, but not arrays.
				p, q, r := &m.Vertices[t[0]], &m.Vertices[t[1]], &m.Vertices[t[2]]
				px, py, pz := p[0]-middle[0], p[1]-middle[1], p[2]-middle[2]
				qx, qy, qz := q[0]-middle[0], q[1]-middle[1], q[2]-middle[2]
				rx, ry, rz := r[0]-middle[0], r[1]-middle[1], r[2]-middle[2]
				ux, uy, uz := qx-px, qy-py, qz-pz
				vx, vy, vz := rx-px, ry-py, rz-pz
				nx, ny, nz := uy*vz-uz*vy, uz*vx-ux*vz, ux*vy-uy*vx
				six := px*nx + py*ny + pz*nz // = p·(q×r)
				s.volume += six
				s.area += math.Sqrt(nx*nx + ny*ny + nz*nz)
				s.moment[0] += (px + qx + rx) * six
				s.moment[1] += (py + qy + ry) * six
				s.moment[2] += (pz + qz + rz) * six
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
	t := &m.Facets[f]
	a, b, c := &m.Vertices[t[0]], &m.Vertices[t[1]], &m.Vertices[t[2]]
	ux, uy, uz := b[0]-a[0], b[1]-a[1], b[2]-a[2]
	vx, vy, vz := c[0]-a[0], c[1]-a[1], c[2]-a[2]
	wx, wy, wz := vx-ux, vy-uy, vz-uz
	nx, ny, nz := uy*vz-uz*vy, uz*vx-ux*vz, ux*vy-uy*vx
	side := max(ux*ux+uy*uy+uz*uz, vx*vx+vy*vy+vz*vz, wx*wx+wy*wy+wz*wz)
	return !(nx*nx+ny*ny+nz*nz > 1e-14*side*side)
}
