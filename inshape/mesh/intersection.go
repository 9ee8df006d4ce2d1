package mesh

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// SelfIntersections gives pairs of facets that cross or lie on each other, in
// order, at most limit of them. Facets that meet along edges or in a point
// only touch; an edge that lies across the inside of a facet counts. The test
// is exact. O(n log n) plus the pairs whose boxes meet, on all CPUs.
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
	m := b.mesh
	var mu sync.Mutex // guards found
	var found []meeting
	var next, total atomic.Int64
	const block = 256
	parallel(runtime.GOMAXPROCS(0), func(int) {
		var mine []meeting
		stack := make([]int32, 0, 64)
		for ctx.Err() == nil {
			from := int(next.Add(block)) - block
			if from >= len(m.Facets) || total.Load() > int64(limit) {
				break
			}
			before := len(mine)
			for f := from; f < min(from+block, len(m.Facets)); f++ {
				mine = b.met(int32(f), stack, mine, wanted)
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

// met appends f's meetings with later facets.
func (b *BVH) met(f int32, stack []int32, found []meeting, wanted func(*contact) bool) []meeting {
	m := b.mesh
	p, q, r := m.Corners(int(f))
	corners := [3]Vec{p, q, r}
	if projection(&corners) < 0 || len(b.nodes) == 0 {
		return found
	}
	box := around(&corners)
	stack = append(stack[:0], 0)
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
			if g <= f {
				continue
			}
			p, q, r := m.Corners(int(g))
			other := [3]Vec{p, q, r}
			if !around(&other).meets(box) || projection(&other) < 0 {
				continue
			}
			if c := touch(&corners, &other); wanted(&c) {
				found = append(found, meeting{[2]int32{f, g}, c})
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
