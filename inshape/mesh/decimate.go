package mesh

import "math"

// Decimate is a coarser copy for a preview, of at most about facets facets: all
// vertices in a cell of a grid become one, which lies where the planes of the
// facets around them meet best, so that edges and corners stay sharp (Lindstrom,
// Out-of-core simplification of large polygonal models, SIGGRAPH 2000). The grid is
// as fine as the number allows. Decimate keeps the look, not the topology: never
// measure or print what it gives. O(n), about five times over.
func (m *Mesh) Decimate(facets int) *Mesh {
	if len(m.Facets) <= facets {
		return m.Clone()
	}
	size := m.Bounds().Size()
	longest := max(size[0], size[1], size[2])
	if facets <= 0 || longest == 0 {
		return &Mesh{}
	}
	// The number of facets grows with the square of the number of cells on a side.
	best, cells := newCells(m, longest/2), 64.
	for range 6 {
		c := newCells(m, longest/cells)
		n := float64(c.facets())
		if n <= float64(facets) {
			if best = c; n > 0.85*float64(facets) {
				break
			}
		}
		next := cells * math.Sqrt(0.95*float64(facets)/max(n, 1))
		next = min(max(next, 2), 1<<20)
		if math.Abs(next-cells) < 1 && n <= float64(facets) {
			break
		}
		cells = next
	}
	return best.mesh()
}

// cells puts the vertices of a mesh into cubes of a grid.
type cells struct {
	m     *Mesh
	pitch float64
	of    []int32 // by vertex: the number of its cell
	count int
}

func newCells(m *Mesh, pitch float64) *cells {
	origin := m.Bounds().Min
	number := map[[3]int32]int32{}
	c := &cells{m: m, pitch: pitch, of: make([]int32, len(m.Vertices))}
	for i, v := range m.Vertices {
		d := v.Sub(origin)
		key := [3]int32{int32(d[0] / pitch), int32(d[1] / pitch), int32(d[2] / pitch)}
		n, ok := number[key]
		if !ok {
			n = int32(len(number))
			number[key] = n
		}
		c.of[i] = n
	}
	c.count = len(number)
	return c
}

func (c *cells) facet(f Facet) Facet { return Facet{c.of[f[0]], c.of[f[1]], c.of[f[2]]} }

// facets is how many do not collapse.
func (c *cells) facets() (n int) {
	for _, f := range c.m.Facets {
		if !collapsed(c.facet(f)) {
			n++
		}
	}
	return n
}

// cellSum is what is added up over the facets and vertices of a cell.
type cellSum struct {
	a      [6]float64 // Σ n nᵀ over the facets' normals, weighted by area: xx, xy, xz, yy, yz, zz
	b      Vec        // Σ n (n·(p - middle of the vertices))
	middle Vec
	weight float64
}

func (c *cells) mesh() *Mesh {
	sums := make([]cellSum, c.count)
	for i, v := range c.m.Vertices {
		s := &sums[c.of[i]]
		s.middle = s.middle.Add(v)
		s.weight++
	}
	for i := range sums {
		sums[i].middle = sums[i].middle.Mul(1 / sums[i].weight)
	}
	for f, corners := range c.m.Facets {
		p, q, r := c.m.Corners(f)
		n := q.Sub(p).Cross(r.Sub(p)) // twice the area long: quadrics weigh by its square
		for _, v := range corners {
			s := &sums[c.of[v]]
			d := n.Dot(p.Sub(s.middle))
			s.a[0] += n[0] * n[0]
			s.a[1] += n[0] * n[1]
			s.a[2] += n[0] * n[2]
			s.a[3] += n[1] * n[1]
			s.a[4] += n[1] * n[2]
			s.a[5] += n[2] * n[2]
			s.b = s.b.Add(n.Mul(d))
		}
	}
	r := &Mesh{Vertices: make([]Vec, c.count)}
	for i := range sums {
		r.Vertices[i] = sums[i].place(c.pitch)
	}
	seen := make(map[Facet]bool, len(c.m.Facets)/8)
	for _, f := range c.m.Facets {
		if f = c.facet(f); collapsed(f) {
			continue
		}
		for f[0] > f[1] || f[0] > f[2] { // the lowest first, the direction kept
			f = Facet{f[1], f[2], f[0]}
		}
		if !seen[f] {
			seen[f] = true
			r.Facets = append(r.Facets, f)
		}
	}
	r.Compact()
	return r
}

// place solves (A + εI) x = b by Cramer's rule, x from the middle: where the
// planes leave a direction open, the ε keeps x in the middle.
func (s *cellSum) place(pitch float64) Vec {
	e := 1e-3 * (s.a[0] + s.a[3] + s.a[5])
	x := Vec{s.a[0] + e, s.a[1], s.a[2]}
	y := Vec{s.a[1], s.a[3] + e, s.a[4]}
	z := Vec{s.a[2], s.a[4], s.a[5] + e}
	det := x.Dot(y.Cross(z))
	if det == 0 {
		return s.middle
	}
	d := Vec{s.b.Dot(y.Cross(z)), x.Dot(s.b.Cross(z)), x.Dot(y.Cross(s.b))}.Mul(1 / det)
	if l := d.Len(); !(l <= pitch) { // planes that hardly meet would throw it far off
		return s.middle
	}
	return s.middle.Add(d)
}
