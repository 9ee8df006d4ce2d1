package mesh

import (
	"math"
	"slices"
)

// BVH is a tree of boxes over a mesh's facets, for questions about nearness. It
// keeps the mesh, which must not change. Safe for concurrent use.
type BVH struct {
	mesh  *Mesh
	order []int32 // facets, leaf by leaf
	nodes []bvhNode
}

type bvhNode struct {
	box         Box
	left, right int32 // nodes; left < 0: a leaf
	from, to    int32 // facets in order
}

const bvhLeaf = 4

// NewBVH splits at the median of the facets' middles along the longest side.
// O(n log² n).
func NewBVH(m *Mesh) *BVH {
	b := &BVH{mesh: m, order: make([]int32, len(m.Facets))}
	middles := make([]Vec, len(m.Facets))
	for f := range m.Facets {
		b.order[f] = int32(f)
		p, q, r := m.Corners(f)
		middles[f] = p.Add(q).Add(r)
	}
	if len(m.Facets) > 0 {
		b.split(middles, 0, int32(len(b.order)))
	}
	return b
}

func (b *BVH) split(middles []Vec, from, to int32) int32 {
	inf := math.Inf(1)
	n := bvhNode{box: Box{Vec{inf, inf, inf}, Vec{-inf, -inf, -inf}}, left: -1, from: from, to: to}
	for _, f := range b.order[from:to] {
		for _, v := range b.mesh.Facets[f] {
			for k, x := range b.mesh.Vertices[v] {
				n.box.Min[k], n.box.Max[k] = min(n.box.Min[k], x), max(n.box.Max[k], x)
			}
		}
	}
	at := int32(len(b.nodes))
	b.nodes = append(b.nodes, n)
	if to-from <= bvhLeaf {
		return at
	}
	size, axis := n.box.Size(), 0
	for k := range 3 {
		if size[k] > size[axis] {
			axis = k
		}
	}
	slices.SortFunc(b.order[from:to], func(f, g int32) int {
		switch d := middles[f][axis] - middles[g][axis]; {
		case d < 0:
			return -1
		case d > 0:
			return 1
		}
		return int(f - g)
	})
	half := (from + to) / 2
	left := b.split(middles, from, half)
	right := b.split(middles, half, to)
	b.nodes[at].left, b.nodes[at].right = left, right
	return at
}

// distance² from p to the box.
func (b Box) distance2(p Vec) float64 {
	d := 0.0
	for k, x := range p {
		if x < b.Min[k] {
			d += (b.Min[k] - x) * (b.Min[k] - x)
		} else if x > b.Max[k] {
			d += (x - b.Max[k]) * (x - b.Max[k])
		}
	}
	return d
}

func (b Box) meets(o Box) bool {
	for k := range 3 {
		if b.Min[k] > o.Max[k] || o.Min[k] > b.Max[k] {
			return false
		}
	}
	return true
}

// overlapping calls do with every facet of the leaves that meet the box, until it
// gives false.
func (b *BVH) overlapping(box Box, do func(facet int32) bool) {
	if len(b.nodes) == 0 {
		return
	}
	stack := make([]int32, 1, 64)
	for len(stack) > 0 {
		n := &b.nodes[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		switch {
		case !n.box.meets(box):
		case n.left >= 0:
			stack = append(stack, n.left, n.right)
		default:
			for _, f := range b.order[n.from:n.to] {
				if !do(f) {
					return
				}
			}
		}
	}
}

// Nearest gives the point of the surface nearest to p within limit mm, over the
// facets that accept takes (nil: all). facet is -1 if there is none. O(log n)
// for usual meshes.
func (b *BVH) Nearest(p Vec, limit float64, accept func(facet int32) bool) (at Vec, facet int32, distance float64) {
	facet, best := int32(-1), limit*limit
	if len(b.nodes) == 0 {
		return at, facet, limit
	}
	stack := make([]int32, 1, 64)
	for len(stack) > 0 {
		n := &b.nodes[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		if n.box.distance2(p) >= best {
			continue
		}
		if n.left >= 0 {
			near, far := n.left, n.right
			if b.nodes[far].box.distance2(p) < b.nodes[near].box.distance2(p) {
				near, far = far, near
			}
			stack = append(stack, far, near)
			continue
		}
		for _, f := range b.order[n.from:n.to] {
			q := b.mesh.closest(int(f), p)
			if d := q.Sub(p); d.Dot(d) < best && (accept == nil || accept(f)) {
				at, facet, best = q, f, d.Dot(d)
			}
		}
	}
	return at, facet, math.Sqrt(best)
}

// closest is the point of facet f nearest to p (Ericson, Real-Time Collision
// Detection, 2005, 5.1.5).
func (m *Mesh) closest(f int, p Vec) Vec {
	a, b, c := m.Corners(f)
	ab, ac, ap := b.Sub(a), c.Sub(a), p.Sub(a)
	d1, d2 := ab.Dot(ap), ac.Dot(ap)
	if d1 <= 0 && d2 <= 0 {
		return a
	}
	bp := p.Sub(b)
	d3, d4 := ab.Dot(bp), ac.Dot(bp)
	if d3 >= 0 && d4 <= d3 {
		return b
	}
	vc := d1*d4 - d3*d2
	if vc <= 0 && d1 >= 0 && d3 <= 0 && d1 != d3 {
		return a.Add(ab.Mul(d1 / (d1 - d3)))
	}
	cp := p.Sub(c)
	d5, d6 := ab.Dot(cp), ac.Dot(cp)
	if d6 >= 0 && d5 <= d6 {
		return c
	}
	vb := d5*d2 - d1*d6
	if vb <= 0 && d2 >= 0 && d6 <= 0 && d2 != d6 {
		return a.Add(ac.Mul(d2 / (d2 - d6)))
	}
	va := d3*d6 - d5*d4
	if va <= 0 && d4 >= d3 && d5 >= d6 && (d4-d3)+(d5-d6) != 0 {
		return b.Add(c.Sub(b).Mul((d4 - d3) / ((d4 - d3) + (d5 - d6))))
	}
	sum := va + vb + vc
	if sum == 0 {
		return a
	}
	return a.Add(ab.Mul(vb / sum)).Add(ac.Mul(vc / sum))
}
