package mesh

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
)

// grid is where an arrangement computes: whole multiples of a unit that is a
// power of two, 2⁻³² to 2⁻³¹ of the mesh's largest extent, around its middle. Whole
// numbers make exact arithmetic cheap, and float64 is some 2²⁰ times finer, so
// that rounding what was computed seldom turns anything over.
type grid struct {
	origin Vec
	unit   float64
}

func newGrid(b Box) grid {
	size := b.Size()
	_, exponent := math.Frexp(max(size[0], size[1], size[2], 1e-60))
	g := grid{unit: math.Ldexp(1, exponent-32)}
	for k := range g.origin {
		g.origin[k] = math.RoundToEven((b.Min[k]+b.Max[k])/2/g.unit) * g.unit
	}
	return g
}

// snap gives the nearest point of the grid, in units.
func (g grid) snap(p Vec) Vec {
	p = p.Sub(g.origin)
	return Vec{math.RoundToEven(p[0] / g.unit), math.RoundToEven(p[1] / g.unit), math.RoundToEven(p[2] / g.unit)}
}

// place is the way back.
func (g grid) place(p Vec) Vec { return p.Mul(g.unit).Add(g.origin) }

// sliver is how long edges that cutting makes have to be, in units of the grid.
const sliver = 1 << 11

// arrangement is a mesh cut along all lines where its facets meet. What lies on
// each other is there once.
type arrangement struct {
	grid   grid
	mesh   *Mesh // on the grid
	tree   *BVH  // of mesh
	points []spot
	met    []meeting
	laid   bool // some facets lie on others
	apart  bool // nothing was cut: the pieces are the facets

	surface *Mesh   // between points, on the grid but for their rounding
	pieces  []piece // of its facets
}

// piece is a triangle of an arrangement. Its weight, positive, is by how much
// the winding number behind it exceeds that before it.
type piece struct {
	facet  int32 // of the mesh: one that it is a part of
	turned bool  // it looks the other way than this facet
	weight int32
}

// region is one facet or several that lie on each other, to be triangulated
// together.
type region struct {
	facets []int32
	points []int32
	lines  []line

	made    []spot // crossings of lines; their ids are from frame-1 down
	corners []Facet
	pieces  []piece // with these corners
	err     error
}

// line is where a facet of another plane meets a region.
type line struct {
	from, to int32
	wall     *plane
}

// arrange cuts m, whose tree is b. Above limit contacts it refuses to.
func arrange(ctx context.Context, m *Mesh, b *BVH, limit int) (*arrangement, error) {
	a := onGrid(m, b)
	var err error
	a.met, err = a.tree.meetings(ctx, limit, func(c *contact) bool { return c.area || c.n > 0 })
	switch {
	case err != nil:
		return nil, err
	case len(a.met) > limit:
		return nil, unjoinable(fmt.Sprintf("more than %d pairs of facets meet: the shells are too entangled to be joined", limit))
	}
	regions, of := a.regions()
	r := registry{arrangement: a, named: map[[4]int32]int32{}, cells: map[[3]int64][]int32{}, planes: map[int32]*plane{}}
	r.mark(regions, of)
	if err := a.triangulate(ctx, regions); err != nil {
		return nil, err
	}
	r.collect(regions, of)
	return a, nil
}

// stack is arrange for a mesh whose facets do not meet, but whose shells may be
// inside each other.
func stack(m *Mesh, b *BVH) *arrangement {
	a := onGrid(m, b)
	a.apart = true
	a.surface = a.mesh
	a.pieces = make([]piece, len(m.Facets))
	for f := range a.pieces {
		a.pieces[f] = piece{facet: int32(f), weight: 1}
	}
	return a
}

func onGrid(m *Mesh, b *BVH) *arrangement {
	a := &arrangement{grid: newGrid(m.Bounds()), surface: &Mesh{}}
	a.mesh = &Mesh{make([]Vec, len(m.Vertices)), slices.Clone(m.Facets)}
	for i, v := range m.Vertices {
		a.mesh.Vertices[i] = a.grid.snap(v)
	}
	a.mesh.Weld(0)
	a.tree = b.onto(a.mesh, a.grid)
	a.points = make([]spot, len(a.mesh.Vertices))
	for i, v := range a.mesh.Vertices {
		a.points[i].at = v
	}
	return a
}

// onto is the tree for a mesh whose vertices are those of the tree's, snapped.
func (b *BVH) onto(m *Mesh, g grid) *BVH {
	t := &BVH{mesh: m, order: b.order, nodes: slices.Clone(b.nodes)}
	for i := range t.nodes {
		box := &t.nodes[i].box
		box.Min, box.Max = g.snap(box.Min), g.snap(box.Max)
	}
	return t
}

// regions makes a region of every facet that meets another, one of those that
// lie on each other. of is -1 for facets in none.
func (a *arrangement) regions() (regions []*region, of []int32) {
	lead := make([]int32, len(a.mesh.Facets))
	for f := range lead {
		lead[f] = int32(f)
	}
	find := func(f int32) int32 {
		for lead[f] != f {
			lead[f] = lead[lead[f]]
			f = lead[f]
		}
		return f
	}
	of = slices.Repeat([]int32{-1}, len(lead))
	for _, m := range a.met {
		if m.area {
			a.laid = true
			f, g := find(m.pair[0]), find(m.pair[1])
			lead[max(f, g)] = min(f, g)
		}
	}
	for _, m := range a.met {
		for _, f := range m.pair {
			of[f] = find(f)
		}
	}
	number := map[int32]int32{}
	for f, l := range of {
		if l < 0 {
			continue
		}
		n, ok := number[l]
		if !ok {
			n = int32(len(regions))
			number[l] = n
			regions = append(regions, &region{})
		}
		of[f] = n
		regions[n].facets = append(regions[n].facets, int32(f))
	}
	return regions, of
}

// mark gives every region the points and lines on it.
func (r *registry) mark(regions []*region, of []int32) {
	for f, n := range of {
		if n >= 0 {
			for _, v := range r.mesh.Facets[f] {
				r.enter(v)
			}
		}
	}
	for i := range r.met {
		m := &r.met[i]
		f, g := m.pair[0], m.pair[1]
		own, other := regions[of[f]], regions[of[g]]
		var ends [2]int32
		for k, p := range m.points[:m.n] {
			ends[k] = r.locate(f, g, p)
			own.points = append(own.points, ends[k])
			other.points = append(other.points, ends[k])
		}
		if m.n == 2 && !m.planar && ends[0] != ends[1] {
			own.lines = append(own.lines, line{ends[0], ends[1], r.plane(g)})
			other.lines = append(other.lines, line{ends[0], ends[1], r.plane(f)})
		}
	}
}

// registry gives equal points one number.
type registry struct {
	*arrangement
	named  map[[4]int32]int32 // an edge and a facet (and -1), or two edges
	cells  map[[3]int64][]int32
	planes map[int32]*plane
}

func (r *registry) plane(f int32) *plane {
	p := r.planes[f]
	if p == nil {
		p = newPlane(r.mesh.Corners(int(f)))
		r.planes[f] = p
	}
	return p
}

// cellsPerUnit is so that points of the grid are in the middle of cells and
// their blur never leaves them.
const cellsPerUnit = 16

func cellOf(x float64) int64 { return int64(math.Floor(x*cellsPerUnit + 0.5)) }

// enter makes a vertex of the mesh known.
func (r *registry) enter(v int32) {
	at := r.points[v].at
	cell := [3]int64{cellOf(at[0]), cellOf(at[1]), cellOf(at[2])}
	if !slices.Contains(r.cells[cell], v) {
		r.cells[cell] = append(r.cells[cell], v)
	}
}

// number finds a point among those known or makes it known.
func (r *registry) number(p spot) int32 {
	var low, high [3]int64
	for k, x := range p.at {
		low[k], high[k] = cellOf(x-2*blur), cellOf(x+2*blur)
	}
	for x := low[0]; x <= high[0]; x++ {
		for y := low[1]; y <= high[1]; y++ {
			for z := low[2]; z <= high[2]; z++ {
				for _, q := range r.cells[[3]int64{x, y, z}] {
					if r.points[q].same(&p) {
						return q
					}
				}
			}
		}
	}
	n := int32(len(r.points))
	r.points = append(r.points, p)
	cell := [3]int64{cellOf(p.at[0]), cellOf(p.at[1]), cellOf(p.at[2])}
	r.cells[cell] = append(r.cells[cell], n)
	return n
}

// locate numbers a point that is on the facets f and g.
func (r *registry) locate(f, g int32, p [2]site) int32 {
	if p[0] < 3 {
		return r.mesh.Facets[f][p[0]]
	}
	if p[1] < 3 {
		return r.mesh.Facets[g][p[1]]
	}
	edge := func(f int32, s site) (int32, int32) {
		c := r.mesh.Facets[f]
		a, b := c[s-3], c[(s-2)%3]
		return min(a, b), max(a, b)
	}
	var key [4]int32
	switch {
	case p[1] == inside:
		key[0], key[1] = edge(f, p[0])
		key[2], key[3] = g, -1
	case p[0] == inside:
		key[0], key[1] = edge(g, p[1])
		key[2], key[3] = f, -1
	default:
		key[0], key[1] = edge(f, p[0])
		key[2], key[3] = edge(g, p[1])
		if key[2] < key[0] || (key[2] == key[0] && key[3] < key[1]) {
			key = [4]int32{key[2], key[3], key[0], key[1]}
		}
	}
	if n, ok := r.named[key]; ok {
		return n
	}
	pass := func(f int32, s site, g int32) (spot, bool) {
		a, b := edge(f, s)
		return r.plane(g).pass(r.mesh.Vertices[a], r.mesh.Vertices[b])
	}
	var at spot
	ok := false
	if p[0] != inside {
		at, ok = pass(f, p[0], g)
	}
	if !ok { // f's edge is inside, or in g's plane
		at, _ = pass(g, p[1], f)
	}
	n := r.number(at)
	r.named[key] = n
	return n
}

// triangulate cuts the regions, on all CPUs.
func (a *arrangement) triangulate(ctx context.Context, regions []*region) error {
	var next atomic.Int64
	parallel(runtime.GOMAXPROCS(0), func(int) {
		for ctx.Err() == nil {
			n := int(next.Add(1)) - 1
			if n >= len(regions) {
				return
			}
			r := regions[n]
			if len(r.facets) == 1 {
				r.err = a.cut(ctx, r)
			} else {
				r.err = a.overlay(ctx, r)
			}
		}
	})
	for _, r := range regions {
		if r.err != nil {
			return r.err
		}
	}
	return context.Cause(ctx)
}

func (a *arrangement) node(id int32) node { return node{spot: a.points[id], id: id} }

// cut triangulates a region of one facet.
func (a *arrangement) cut(ctx context.Context, r *region) error {
	f := r.facets[0]
	c := a.mesh.Facets[f]
	corners := [3]Vec{a.mesh.Vertices[c[0]], a.mesh.Vertices[c[1]], a.mesh.Vertices[c[2]]}
	axis := projection(&corners)
	up := orient2d(flat(corners[0], axis), flat(corners[1], axis), flat(corners[2], axis)) > 0
	if !up {
		c[1], c[2] = c[2], c[1]
	}
	t := newTriangulation(axis, newPlane(corners[0], corners[1], corners[2]), a.node(c[0]), a.node(c[1]), a.node(c[2]))
	if err := t.fill(ctx, a, r); err != nil {
		return err
	}
	weight := int32(1)
	if !up {
		weight = -1
	}
	for h := int32(0); h < int32(len(t.origin)); h += 3 {
		r.take(t, h, f, weight, up)
	}
	return nil
}

// overlay triangulates facets that lie on each other: all their edges are
// forced in, each with the jump of the covering that it makes.
func (a *arrangement) overlay(ctx context.Context, r *region) error {
	f := r.facets[0]
	var corners [3]Vec
	corners[0], corners[1], corners[2] = a.mesh.Corners(int(f))
	axis := projection(&corners)
	up := orient2d(flat(corners[0], axis), flat(corners[1], axis), flat(corners[2], axis)) > 0
	const far = 1 << 36 // beyond the grid
	corner := func(x, y float64) node {
		n := node{id: frame}
		n.at[(axis+1)%3], n.at[(axis+2)%3] = x, y
		return n
	}
	t := newTriangulation(axis, newPlane(corners[0], corners[1], corners[2]), corner(-far, -far), corner(far, -far), corner(0, far))
	for _, f := range r.facets {
		r.points = append(r.points, a.mesh.Facets[f][:]...)
		for k := range 3 {
			p, q := a.mesh.Facets[f][k], a.mesh.Facets[f][(k+1)%3]
			r.lines = append(r.lines, line{p, q, nil})
		}
	}
	if err := t.fill(ctx, a, r); err != nil {
		return err
	}
	cover, err := t.covering()
	if err != nil {
		return err
	}
	for n, weight := range cover {
		if weight != 0 {
			r.take(t, int32(3*n), f, weight, up)
		}
	}
	return nil
}

// fill puts the points and lines of a region in. Lines without a wall are
// edges of the region's facets.
func (t *triangulation) fill(ctx context.Context, a *arrangement, r *region) error {
	at := make(map[int32]int32, len(r.points)+3)
	for v, n := range t.nodes {
		at[n.id] = int32(v)
	}
	for _, p := range r.points {
		if _, ok := at[p]; ok {
			continue
		}
		v, err := t.add(a.node(p))
		if err != nil {
			return err
		}
		at[p] = v
	}
	for _, l := range r.lines {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wall, jump := l.wall, int32(0)
		if wall == nil {
			wall, jump = upright(a.mesh.Vertices[l.from], a.mesh.Vertices[l.to], t.axis), 1
		}
		if err := t.force(at[l.from], at[l.to], wall, jump); err != nil {
			return err
		}
	}
	t.finish()
	for v := range t.nodes {
		if n := &t.nodes[v]; n.id == made {
			r.made = append(r.made, n.spot)
			n.id = frame - int32(len(r.made))
		}
	}
	return nil
}

// take adds the triangle of half-edge h to the region's pieces.
func (r *region) take(t *triangulation, h, facet, weight int32, up bool) {
	p := piece{facet: facet, weight: weight, turned: !up}
	c := Facet{t.nodes[t.origin[h]].id, t.nodes[t.origin[h+1]].id, t.nodes[t.origin[h+2]].id}
	if weight < 0 {
		p.weight, p.turned = -weight, up
		c[1], c[2] = c[2], c[1]
	}
	r.pieces = append(r.pieces, p)
	r.corners = append(r.corners, c)
}

// collect numbers the crossings and joins all pieces with the facets that meet
// nothing.
func (r *registry) collect(regions []*region, of []int32) {
	for f, n := range of {
		if c := r.mesh.Facets[f]; n < 0 && r.mesh.flat(c) {
			continue
		} else if n < 0 {
			r.surface.Facets = append(r.surface.Facets, c)
			r.pieces = append(r.pieces, piece{facet: int32(f), weight: 1})
		}
	}
	for _, n := range regions {
		made := make([]int32, len(n.made))
		for i, p := range n.made {
			made[i] = r.number(p)
		}
		for i, c := range n.corners {
			for k, v := range c {
				if v < frame {
					c[k] = made[frame-1-v]
				}
			}
			r.surface.Facets = append(r.surface.Facets, c)
			r.pieces = append(r.pieces, n.pieces[i])
		}
	}
	r.surface.Vertices = make([]Vec, len(r.points))
	for i, p := range r.points {
		r.surface.Vertices[i] = p.at
	}
}

// flat tells whether a facet has no area at all.
func (m *Mesh) flat(c Facet) bool {
	return projection(&[3]Vec{m.Vertices[c[0]], m.Vertices[c[1]], m.Vertices[c[2]]}) < 0
}
