package mesh

import (
	"cmp"
	"context"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// SelfIntersections gives pairs of facets that cross or lie on each other, in
// order, at most limit of them. Facets that meet along edges or in a point
// only touch; an edge that lies across the inside of a facet counts, a facet
// without area does not. The test is exact. O(n log n) plus the pairs whose boxes meet, on all CPUs.
func (b *BVH) SelfIntersections(limit int) [][2]int32 {
	limit = max(limit, 0)
	met, _ := b.meetings(context.Background(), limit, (*contact).crossing) // it ends by itself
	pairs := make([][2]int32, 0, min(len(met), limit))
	for _, m := range met[:min(len(met), limit)] {
		pairs = append(pairs, m.pair)
	}
	return pairs
}

// meeting is a pair of facets in contact.
type meeting struct {
	pair [2]int32
	contact
}

// meetings gives the pairs of facets whose contact is wanted, in order; it stops
// somewhere above limit. Facets without area take no part.
func (b *BVH) meetings(ctx context.Context, limit int, wanted func(*contact) bool) ([]meeting, error) {
	s := search{BVH: b, boxes: make([]Box, len(b.order)), wanted: wanted}
	var leaves []int32
	for i := range b.nodes {
		if b.nodes[i].left < 0 {
			leaves = append(leaves, int32(i))
		}
	}
	var mu sync.Mutex // guards found
	var found []meeting
	var boxed, next, total atomic.Int64
	const block = 64
	workers := runtime.GOMAXPROCS(0)
	parallel(workers, func(int) {
		for {
			n := int(boxed.Add(block)) - block
			if n >= len(leaves) {
				return
			}
			for _, leaf := range leaves[n:min(n+block, len(leaves))] {
				s.box(&b.nodes[leaf])
			}
		}
	})
	parallel(workers, func(int) {
		var mine []meeting
		stack := make([]int32, 0, 64)
		for ctx.Err() == nil {
			n := int(next.Add(block)) - block
			if n >= len(leaves) || total.Load() > int64(limit) {
				break
			}
			before := len(mine)
			for _, leaf := range leaves[n:min(n+block, len(leaves))] {
				mine = s.leaf(&b.nodes[leaf], stack, mine)
			}
			total.Add(int64(len(mine) - before))
		}
		mu.Lock()
		defer mu.Unlock()
		found = append(found, mine...)
	})
	slices.SortFunc(found, func(a, b meeting) int {
		return cmp.Or(cmp.Compare(a.pair[0], b.pair[0]), cmp.Compare(a.pair[1], b.pair[1]))
	})
	return found, context.Cause(ctx)
}

// search is a run of meetings.
type search struct {
	*BVH
	boxes  []Box // of the facets, in the tree's order; those without area meet none
	wanted func(*contact) bool
}

func (s *search) box(leaf *bvhNode) {
	for i := leaf.from; i < leaf.to; i++ {
		c := s.corners(i)
		s.boxes[i] = around(&c)
		if projection(&c) < 0 {
			s.boxes[i] = Box{Vec{math.Inf(1)}, Vec{math.Inf(-1)}}
		}
	}
}

// corners are those of the facet at place i of the tree's order.
func (s *search) corners(i int32) (c [3]Vec) {
	c[0], c[1], c[2] = s.mesh.Corners(int(s.order[i]))
	return c
}

// leaf appends the meetings of a leaf's facets with each other and with those in
// later leaves.
func (s *search) leaf(leaf *bvhNode, stack []int32, found []meeting) []meeting {
	stack = append(stack[:0], 0)
	for len(stack) > 0 {
		n := &s.nodes[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		if n.to <= leaf.from || !n.box.meets(leaf.box) {
			continue
		}
		if n.left >= 0 {
			stack = append(stack, n.left, n.right)
			continue
		}
		for i := leaf.from; i < leaf.to; i++ {
			for j := max(n.from, i+1); j < n.to; j++ {
				if !s.boxes[i].meets(s.boxes[j]) {
					continue
				}
				f, g := i, j
				if s.order[f] > s.order[g] {
					f, g = g, f
				}
				p, q := s.corners(f), s.corners(g)
				if c := touch(&p, &q); s.wanted(&c) {
					found = append(found, meeting{[2]int32{s.order[f], s.order[g]}, c})
				}
			}
		}
	}
	return found
}

// around is the box around three points.
func around(p *[3]Vec) (b Box) {
	for k := range 3 {
		b.Min[k] = min(p[0][k], p[1][k], p[2][k])
		b.Max[k] = max(p[0][k], p[1][k], p[2][k])
	}
	return b
}
