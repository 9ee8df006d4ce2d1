package mesh

import (
	"math"
	"runtime"
	"sync"
)

// BVH is a tree of boxes over a mesh's facets, for questions about nearness. It
// keeps the mesh, which must not change. Safe for concurrent use.
type BVH struct {
	mesh    *Mesh
	order   []int32 // facets, leaf by leaf
	nodes   []bvhNode
	normals []Vec // of every facet, zero for slivers
}

// bvhNode bounds its facets by a box, by a slab across their mean normal (which
// is far tighter than the box on a smooth surface, the middle of a ball being
// the case that needs it) and by a cone around it that holds their normals.
type bvhNode struct {
	box         Box
	left, right int32 // nodes; left < 0: a leaf
	from, to    int32 // facets in order

	axis      Vec     // mean normal
	low, high float64 // the slab: axis·x of all corners
	cos, sin  float64 // of the cone's half angle, up to π
}

const (
	bvhLeaf      = 4
	sliverHeight = 1e-5 // mm: lower facets have a normal of rounding errors
)

// NewBVH splits at the median of the facets' middles along the longest side, on
// all CPUs. O(n log n) expected.
func NewBVH(m *Mesh) *BVH {
	n := int32(len(m.Facets))
	b := &BVH{mesh: m, order: make([]int32, n), normals: make([]Vec, n)}
	if n == 0 {
		return b
	}
	middles := make([]Vec, n)
	for f := range n {
		b.order[f] = f
		p, q, r := m.Corners(int(f))
		middles[f] = p.Add(q).Add(r)
		n := q.Sub(p).Cross(r.Sub(p))
		if l := n.Len(); l > sliverHeight*longestSide(p, q, r) {
			b.normals[f] = n.Mul(1 / l)
		}
	}
	sizes := map[int32]int32{}
	b.nodes = make([]bvhNode, treeSize(n, sizes))
	tasks := 1
	for tasks < 4*runtime.GOMAXPROCS(0) {
		tasks *= 2
	}
	b.split(middles, sizes, 0, 0, n, tasks)
	return b
}

// treeSize is the number of nodes over n facets. A level of the tree knows two
// numbers of facets at most, so that sizes stays small.
func treeSize(n int32, sizes map[int32]int32) int32 {
	if n <= bvhLeaf {
		return 1
	}
	if s, ok := sizes[n]; ok {
		return s
	}
	s := 1 + treeSize(n/2, sizes) + treeSize(n-n/2, sizes)
	sizes[n] = s
	return s
}

// split fills the node at, and those behind it, with the facets from to to of
// order, in parallel while tasks is above 1.
func (b *BVH) split(middles []Vec, sizes map[int32]int32, at, from, to int32, tasks int) {
	n := &b.nodes[at]
	b.bound(n, from, to)
	if to-from <= bvhLeaf {
		return
	}
	size, axis := n.box.Size(), 0
	for k := range 3 {
		if size[k] > size[axis] {
			axis = k
		}
	}
	half := from + (to-from)/2
	selectNth(b.order[from:to], int(half-from), middles, axis)
	n.left = at + 1
	n.right = n.left + 1
	if half-from > bvhLeaf {
		n.right = n.left + sizes[half-from]
	}
	if tasks <= 1 {
		b.split(middles, sizes, n.left, from, half, 1)
		b.split(middles, sizes, n.right, half, to, 1)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.split(middles, sizes, n.left, from, half, tasks/2) })
	b.split(middles, sizes, n.right, half, to, tasks/2)
	wg.Wait()
}

func (b *BVH) bound(n *bvhNode, from, to int32) {
	inf := math.Inf(1)
	*n = bvhNode{box: emptyBox(), left: -1, from: from, to: to, low: inf, high: -inf, cos: 1}
	for _, f := range b.order[from:to] {
		n.axis = n.axis.Add(b.normals[f])
		for _, v := range b.mesh.Facets[f] {
			n.box.add(b.mesh.Vertices[v])
		}
	}
	n.axis = n.axis.Unit()
	for _, f := range b.order[from:to] {
		for _, v := range b.mesh.Facets[f] {
			d := b.mesh.Vertices[v].Dot(n.axis)
			n.low, n.high = min(n.low, d), max(n.high, d)
		}
		if b.normals[f] != (Vec{}) {
			n.cos = min(n.cos, b.normals[f].Dot(n.axis))
		}
	}
	n.cos = max(n.cos, -1)
	if n.axis == (Vec{}) {
		n.cos = -1 // normals that cancel out have no mean
	}
	n.sin = math.Sqrt(1 - n.cos*n.cos)
}

// beyond tells whether all of the node is at least √limit2 from p.
func (n *bvhNode) beyond(p Vec, limit2 float64) bool {
	if n.box.distance2(p) >= limit2 {
		return true
	}
	d := p.Dot(n.axis)
	d = max(n.low-d, d-n.high, 0)
	return d*d >= limit2
}

// selectNth puts the n-th facet by its middle along axis where sorting would,
// the lesser before it and the greater behind (Hoare, Algorithm 65: Find, CACM
// 4(7), 1961). Ties go by the facet's number: the order of the input does not
// matter to which facets are where.
func selectNth(order []int32, n int, middles []Vec, axis int) {
	less := func(f, g int32) bool {
		a, b := middles[f][axis], middles[g][axis]
		return a < b || (a == b && f < g)
	}
	low, high := 0, len(order)-1
	for low < high {
		mid := low + (high-low)/2
		a, b, c := order[low], order[mid], order[high]
		if less(b, a) {
			a, b = b, a
		}
		if less(c, b) {
			b = c
			if less(b, a) {
				b = a
			}
		}
		pivot := b
		i, j := low, high
		for i <= j {
			for less(order[i], pivot) {
				i++
			}
			for less(pivot, order[j]) {
				j--
			}
			if i <= j {
				order[i], order[j] = order[j], order[i]
				i, j = i+1, j-1
			}
		}
		switch {
		case n <= j:
			high = j
		case n >= i:
			low = i
		default:
			return
		}
	}
}

func longestSide(p, q, r Vec) float64 {
	u, v, w := q.Sub(p), r.Sub(q), p.Sub(r)
	return math.Sqrt(max(u.Dot(u), v.Dot(v), w.Dot(w)))
}

func emptyBox() Box {
	inf := math.Inf(1)
	return Box{Vec{inf, inf, inf}, Vec{-inf, -inf, -inf}}
}

func (b *Box) add(p Vec) {
	for k, x := range p {
		b.Min[k], b.Max[k] = min(b.Min[k], x), max(b.Max[k], x)
	}
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
	if accept == nil {
		return b.nearest(p, limit, nil)
	}
	return b.nearest(p, limit, func(f int32, _ Vec) bool { return accept(f) })
}

// nearest is Nearest for a choice that also looks at the facet's nearest point.
func (b *BVH) nearest(p Vec, limit float64, accept func(facet int32, at Vec) bool) (at Vec, facet int32, distance float64) {
	facet, best := int32(-1), limit*limit
	if len(b.nodes) == 0 {
		return at, facet, limit
	}
	stack := make([]int32, 1, 64)
	for len(stack) > 0 {
		n := &b.nodes[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		if n.beyond(p, best) {
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
			if d := q.Sub(p); d.Dot(d) < best && (accept == nil || accept(f, q)) {
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
