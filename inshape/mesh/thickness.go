package mesh

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
)

// WidthOptions say what of the walls or gaps matters. The zero value measures
// everything and calls nothing thin.
type WidthOptions struct {
	// Limit is the width below which a place is reported, mm. With one, facets
	// longer than that are looked at in several places: a wall that thins out
	// along a long facet is found. 0: facets' middles only, and no places.
	Limit float64
	// Reach bounds the width that is measured, mm: what is wider reads +Inf. A
	// few times the limit is several times faster than no bound. 0: no bound.
	Reach float64
	// Samples is about how many points are looked at beside the facets' middles,
	// at most three times as many where facets are long and narrow; 0: 50,000.
	// Where a part is so large that these stand further apart than half the
	// limit, Widths.Pitch says so.
	Samples int
	// Places bounds the number of places reported; 0: 16.
	Places int
}

// Widths are the widths of walls, or of gaps, all over a mesh.
type Widths struct {
	Facets []float64 // at the middle of every facet, mm; +Inf: nothing opposite
	Least  Spot      // the narrowest place that is no edge; Width +Inf and Facet -1 if there is none
	Thin   float64   // the share of the surface where the width is below the limit, 0 to 1
	Found  int       // how many places there are
	Places []Place   // the narrowest of them first, at most Options.Places
	Pitch  float64   // mm between the points looked at on long facets; 0: middles only
}

// Spot is a point of the surface and the width there.
type Spot struct {
	At    Vec
	Facet int32
	Width float64 // mm
}

// Place is a stretch of the surface that is narrower than the limit: points
// nearer to each other than about two limits are of one place.
type Place struct {
	Spot         // the narrowest point of it
	Area float64 // mm², of both sides of the wall or the gap where both belong to it
	Box  Box     // around the points of it
}

// How a ball is grown. The directions of facets that stand at less than
// opposed to each other make a corner, not a wall.
const (
	opposedDegrees = 100
	knifeDegrees   = 45   // faces that open further than this are an edge, not a knife
	ballTolerance  = 0.01 // of the radius: how much too large it may be
	touching       = 1e-3 // mm: what is as near is no wall or gap: shells that touch
)

// Thickness is the wall thickness all over a solid.
//
// At a point of the surface it is the diameter of the largest ball inside the
// solid that touches the surface there: the ball's radius is shrunk to the
// facets that it hits (Ma, Bae and Choi, 3D medial axis point approximation
// using nearest neighbors and the normal field, The Visual Computer 28, 2012).
// Shrunk balls lie inside each other, so one walk down the tree finds the last
// one. Only facets that look away from the touching point by more than 100° can
// stop it: walls that stand on each other, as at the edge of a box, are corners
// and not thin. It is at most 0.9 % too large for what it tolerates in the ball.
//
// In Least, Thin and Places an edge whose faces open by more than 45° is as wide
// as the widest ball between its faces, up to the limit: the edges of a large
// prism are not thin, those of a wire are as thin as the wire. Blades and tips
// that are more pointed are as thin as the ball at each point, up to their end.
//
// The mesh must be a solid; where shells overlap, what lies inside is measured
// as well. Faces within 1 µm of each other are taken for shells that touch. O((n + samples) log n) for usual meshes, on all CPUs. The result does
// not depend on the number of CPUs. The error is the context's.
func (b *BVH) Thickness(ctx context.Context, o WidthOptions) (*Widths, error) {
	w, err := b.widths(ctx, o, 1)
	if err != nil {
		return nil, fmt.Errorf("measure wall thickness: %w", err)
	}
	return w, nil
}

// Clearance is the width of the gaps all over a surface: what Thickness is, for
// balls outside the solid. Gaps inside cavities count.
func (b *BVH) Clearance(ctx context.Context, o WidthOptions) (*Widths, error) {
	w, err := b.widths(ctx, o, -1)
	if err != nil {
		return nil, fmt.Errorf("measure clearance: %w", err)
	}
	return w, nil
}

// sample is a point on a facet that stands for some of its area.
type sample struct {
	Spot
	area float64
}

// widths grows balls on the inside for side 1, on the outside for -1.
func (b *BVH) widths(ctx context.Context, o WidthOptions, side float64) (*Widths, error) {
	m := b.mesh
	w := &Widths{Facets: make([]float64, len(m.Facets)), Least: Spot{Facet: -1, Width: math.Inf(1)}}
	if !(o.Limit > 0) {
		o.Limit = 0
	}
	area, length := 0.0, 0.0
	for f := range m.Facets {
		p, q, r := m.Corners(f)
		area += q.Sub(p).Cross(r.Sub(p)).Len() / 2
		if l := longestSide(p, q, r); l > o.Limit {
			length += l
		}
	}
	if o.Limit > 0 {
		// A facet takes about area/pitch² points, a narrow one length/pitch.
		budget := float64(cmp.Or(o.Samples, 50_000))
		w.Pitch = max(o.Limit/2, math.Sqrt(area/budget), length/(2*budget))
	}
	reach := m.Bounds().Size().Len()
	if o.Reach > 0 {
		reach = min(reach, max(o.Reach, o.Limit)/2)
	}
	g := grower{
		tree: b, side: side, reach: reach, limit: o.Limit,
		opposed: math.Cos(opposedDegrees * math.Pi / 180),
		knife:   math.Cos((180 - knifeDegrees) * math.Pi / 180),
	}

	const block = 128 // facets of neighbouring leaves
	blocks := make([][]sample, (len(b.order)+block-1)/block)
	least := make([]Spot, len(blocks))
	var next atomic.Int64
	parallel(max(1, min(runtime.GOMAXPROCS(0), len(blocks))), func(int) {
		for ctx.Err() == nil {
			k := int(next.Add(1)) - 1
			if k >= len(blocks) {
				return
			}
			g := g // its memory of the last contact begins anew: no block knows of another
			g.last = -1
			least[k] = w.Least
			for _, f := range b.order[k*block : min((k+1)*block, len(b.order))] {
				blocks[k], least[k] = g.facet(f, w, blocks[k], least[k])
			}
		}
	})
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	var thin []sample
	for k, found := range blocks {
		thin = append(thin, found...)
		w.Least = narrower(w.Least, least[k])
	}
	for _, s := range thin {
		w.Thin += s.area / area
	}
	w.Places = places(thin, max(2*o.Limit, 2.5*w.Pitch))
	w.Found = len(w.Places)
	w.Places = w.Places[:min(w.Found, cmp.Or(o.Places, 16))]
	return w, nil
}

// narrower is the lesser of two spots, by the facet's number if they are equal.
func narrower(a, b Spot) Spot {
	if b.Width < a.Width || (b.Width == a.Width && b.Facet < a.Facet) {
		return b
	}
	return a
}

// grower grows balls at points of the surface.
type grower struct {
	tree    *BVH
	side    float64 // 1: inside, -1: outside
	reach   float64 // the largest radius
	limit   float64 // below it a diameter is thin
	opposed float64 // cosine between the normals of a wall's two sides, at most
	knife   float64 // cosine between the normals of a knife's two sides, at most
	last    int32   // the facet that stopped the ball before; -1: none
}

// facet measures a facet's middle and, if it is long, further points; it adds
// those that are thin.
func (g *grower) facet(f int32, w *Widths, thin []sample, least Spot) ([]sample, Spot) {
	b := g.tree
	p, q, r := b.mesh.Corners(int(f))
	cross := q.Sub(p).Cross(r.Sub(p)).Len()
	longest := longestSide(p, q, r)
	w.Facets[f] = math.Inf(1)
	if b.normals[f] == (Vec{}) {
		return thin, least
	}
	judge := func(at Vec, radius float64, stop int32, area float64) {
		width := 2 * radius
		if width >= least.Width && width >= g.limit {
			return
		}
		if stop >= 0 && b.normals[f].Dot(b.normals[stop]) > g.knife {
			// An edge. It is as wide as the widest ball between its faces.
			if width >= g.limit {
				return
			}
			if width = 2 * g.widest(at, f, radius, stop); width >= g.limit {
				return
			}
		}
		s := Spot{At: at, Facet: f, Width: width}
		least = narrower(least, s)
		if width < g.limit {
			thin = append(thin, sample{s, area})
		}
	}
	at := p.Add(q).Add(r).Mul(1. / 3)
	radius, stop := g.ball(at, f)
	w.Facets[f] = 2 * radius
	if w.Pitch == 0 || longest <= 2*w.Pitch {
		judge(at, radius, stop, cross/2)
		return thin, least
	}
	var halve func(p, q, r Vec, area float64)
	halve = func(p, q, r Vec, area float64) { // pq is the longest side
		if u, v, w := q.Sub(p), r.Sub(q), p.Sub(r); v.Dot(v) > max(u.Dot(u), w.Dot(w)) {
			p, q, r = q, r, p
		} else if w.Dot(w) > u.Dot(u) {
			p, q, r = r, p, q
		}
		if q.Sub(p).Len() <= 2*w.Pitch {
			at := p.Add(q).Add(r).Mul(1. / 3)
			radius, stop := g.ball(at, f)
			judge(at, radius, stop, area)
			return
		}
		half := p.Add(q).Mul(0.5)
		halve(r, p, half, area/2)
		halve(q, r, half, area/2)
	}
	halve(p, q, r, cross/2)
	return thin, least
}

// ball is the radius of the largest ball that touches p on facet f, and the facet
// that stops it, +Inf and -1 for none within reach.
//
// A ball through p and q whose middle is on the normal n has |q-p|² = 2r (p-q)·n.
func (g *grower) ball(p Vec, f int32) (radius float64, stop int32) {
	b, m := g.tree, g.tree.mesh
	n := b.normals[f].Mul(g.side) // points away from the ball
	normal := b.normals[f]
	radius, stop = g.reach, -1
	// The ball that nothing may stick into: a little smaller, through p as well.
	var centre Vec
	var inside2 float64
	set := func(r float64) {
		radius = r
		r *= 1 - ballTolerance
		centre, inside2 = p.Sub(n.Mul(r)), r*r
	}
	set(g.reach)
	shrink := func(f int32) {
		if !(b.normals[f].Dot(normal) < g.opposed) {
			return
		}
		for range 32 {
			if h := centre.Sub(m.Vertices[m.Facets[f][0]]).Dot(b.normals[f]); h*h >= inside2 {
				return // its plane is too far already
			}
			q := m.closest(int(f), centre)
			if d := q.Sub(centre); d.Dot(d) >= inside2 {
				return
			}
			d := p.Sub(q)
			smaller := d.Dot(d) / (2 * d.Dot(n))
			if !(smaller >= touching/2 && smaller < radius) {
				return
			}
			stop = f
			set(smaller)
		}
	}
	if g.last >= 0 {
		shrink(g.last)
	}
	sine := math.Sqrt(1 - g.opposed*g.opposed)
	var room [96]int32 // twice the depth of a tree over 2³¹ facets
	stack := append(room[:0], 0)
	for len(stack) > 0 {
		node := &b.nodes[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		// Are all normals of the node too near to this one? The angle to the axis
		// and the cone's add up to less than the opposed one: cos(a+c) > opposed,
		// while a+c < π, which is: a < opposed-c.
		if c := g.opposed*node.cos + sine*node.sin; node.cos > g.opposed && node.axis.Dot(normal) > c {
			continue
		}
		if node.beyond(centre, inside2) {
			continue
		}
		if node.left < 0 {
			for _, f := range b.order[node.from:node.to] {
				shrink(f)
			}
			continue
		}
		stack = append(stack, node.left, node.right) // the ball is nearly right from the start: no order is better
	}
	g.last = stop
	if stop < 0 {
		radius = math.Inf(1)
	}
	return radius, stop
}

// widest is about the radius of the largest ball, up to the limit's, that grows
// out of the one at p: the room behind an edge. A ball grows by moving away from
// what is nearest and from what is nearest on its other side, until there is no
// way to keep clear of everything.
func (g *grower) widest(p Vec, f int32, radius float64, stop int32) float64 {
	b := g.tree
	n, o := b.normals[f], b.normals[stop]
	wall := func(facet int32, _ Vec) bool { // not one that the edge ends at
		d := b.normals[facet]
		return d.Dot(n) < g.opposed || d.Dot(o) < g.opposed
	}
	want, growth := g.limit/2, 1.25
	centre := p.Sub(n.Mul(g.side * radius))
	at, facet, _ := b.nearest(centre, 2*radius, wall)
	for facet >= 0 && growth > 1.03 {
		u := at.Sub(centre).Unit()
		v := u
		if q, other, _ := b.nearest(centre, 1.1*radius, func(f int32, q Vec) bool {
			out := q.Sub(centre)
			return out.Dot(u) < g.opposed*out.Len() && wall(f, q)
		}); other >= 0 {
			v = q.Sub(centre).Unit()
		}
		half := u.Add(v).Len() / 2
		if half < 0.01 {
			break // between two walls
		}
		next := min(want, radius*growth)
		to := centre.Sub(u.Add(v).Unit().Mul((next - radius) / half))
		q, beside, distance := b.nearest(to, 2*next, wall)
		inside := func() bool { return beside < 0 || q.Sub(to).Dot(b.normals[beside])*g.side >= 0 }
		for range 8 { // away from whatever else is too near, as in the tip of a cone
			if beside < 0 || distance >= 0.97*next || distance == 0 || !inside() {
				break
			}
			to = to.Sub(q.Sub(to).Mul((next - distance) / distance))
			q, beside, distance = b.nearest(to, 2*next, wall)
		}
		if beside >= 0 && distance < 0.97*next || !inside() {
			growth = math.Sqrt(growth)
			continue
		}
		radius, centre, at, facet = next, to, q, beside
		if next >= want {
			break
		}
	}
	return radius
}

// places joins samples that are within about reach of each other, through the
// cells of a grid and their neighbours, the narrowest place first.
func places(thin []sample, reach float64) []Place {
	if len(thin) == 0 {
		return nil
	}
	type cell [3]int32
	cells := map[cell]int32{} // to an index of parent
	var parent []int32
	root := func(i int32) int32 {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	of := make([]int32, len(thin))
	origin := thin[0].At
	for i, s := range thin {
		d := s.At.Sub(origin).Mul(1 / reach)
		c := cell{int32(math.Floor(d[0])), int32(math.Floor(d[1])), int32(math.Floor(d[2]))}
		k, ok := cells[c]
		if !ok {
			k = int32(len(parent))
			cells[c] = k
			parent = append(parent, k)
			for n := range int32(27) {
				if o, ok := cells[cell{c[0] + n%3 - 1, c[1] + n/3%3 - 1, c[2] + n/9 - 1}]; ok {
					parent[root(o)] = root(k)
				}
			}
		}
		of[i] = k
	}
	index := map[int32]int{}
	var found []Place
	for i, s := range thin {
		k, ok := index[root(of[i])]
		if !ok {
			k = len(found)
			index[root(of[i])] = k
			found = append(found, Place{Spot: s.Spot, Box: emptyBox()})
		}
		p := &found[k]
		p.Spot = narrower(p.Spot, s.Spot)
		p.Area += s.area
		p.Box.add(s.At)
	}
	slices.SortFunc(found, func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Width, b.Width), cmp.Compare(a.Facet, b.Facet))
	})
	return found
}
