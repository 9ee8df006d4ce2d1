package mesh

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// SelfIntersections gives pairs of facets that cross each other, in order, at
// most limit of them. Neighbours that share an edge and coplanar overlaps are
// not looked at. O(n log n) plus the pairs whose boxes meet.
func (b *BVH) SelfIntersections(limit int) [][2]int32 {
	m := b.mesh
	var mu sync.Mutex // guards found
	var found [][2]int32
	var next, total atomic.Int64
	const block = 256
	parallel(runtime.GOMAXPROCS(0), func(int) {
		var mine [][2]int32
		for {
			from := int(next.Add(block)) - block
			if from >= len(m.Facets) || total.Load() > int64(max(limit, 0)) {
				break
			}
			for f := from; f < min(from+block, len(m.Facets)); f++ {
				before := len(mine)
				mine = b.crossing(int32(f), mine)
				total.Add(int64(len(mine) - before))
			}
		}
		mu.Lock()
		defer mu.Unlock()
		found = append(found, mine...)
	})
	slices.SortFunc(found, func(a, b [2]int32) int { return slices.Compare(a[:], b[:]) })
	return found[:min(len(found), max(limit, 0))]
}

func (b *BVH) crossing(f int32, found [][2]int32) [][2]int32 {
	m := b.mesh
	p, q, r := m.Corners(int(f))
	var box Box
	for k := range 3 {
		box.Min[k], box.Max[k] = min(p[k], q[k], r[k]), max(p[k], q[k], r[k])
	}
	stack := make([]int32, 1, 64)
	for len(stack) > 0 {
		n := &b.nodes[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		if !n.box.meets(box) {
			continue
		}
		if n.left >= 0 {
			stack = append(stack, n.left, n.right)
			continue
		}
		for _, g := range b.order[n.from:n.to] {
			if g > f && m.cross(f, g) {
				found = append(found, [2]int32{f, g})
			}
		}
	}
	return found
}

// cross tells whether an edge of one facet passes through the inside of the
// other. Edges that end in a vertex of the other facet cannot.
func (m *Mesh) cross(f, g int32) bool {
	shared := 0
	for _, v := range m.Facets[f] {
		if slices.Contains(m.Facets[g][:], v) {
			shared++
		}
	}
	if shared > 1 {
		return false
	}
	for range 2 {
		for k := range 3 {
			a, b := m.Facets[f][k], m.Facets[f][(k+1)%3]
			if slices.Contains(m.Facets[g][:], a) || slices.Contains(m.Facets[g][:], b) {
				continue
			}
			if m.pierces(m.Vertices[a], m.Vertices[b], g) {
				return true
			}
		}
		f, g = g, f
	}
	return false
}

// pierces compares signed volumes: p and q lie on opposite sides of g's plane
// and the line pq passes its three edges on the same side (Ericson 2005, 5.3.4).
func (m *Mesh) pierces(p, q Vec, g int32) bool {
	a, b, c := m.Corners(int(g))
	n := b.Sub(a).Cross(c.Sub(a))
	above, below := p.Sub(a).Dot(n), q.Sub(a).Dot(n)
	small := 1e-12 * n.Len() * (1 + p.Sub(a).Len() + q.Sub(a).Len())
	if above > below {
		above, below = below, above
	}
	if !(above < -small && below > small) {
		return false
	}
	d := q.Sub(p)
	u := d.Dot(a.Sub(p).Cross(b.Sub(p)))
	v := d.Dot(b.Sub(p).Cross(c.Sub(p)))
	w := d.Dot(c.Sub(p).Cross(a.Sub(p)))
	return (u > 0 && v > 0 && w > 0) || (u < 0 && v < 0 && w < 0)
}
