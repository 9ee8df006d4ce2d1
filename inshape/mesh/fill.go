package mesh

import (
	"cmp"
	"math"
	"slices"
)

const (
	// exactCap is the largest number of edges whose cap is the best of all.
	exactCap = 128
	// sheetRatio is the caps' part of a shell's area from which the shell may be an
	// open sheet: a bowl of half a sphere has 0.5, a sheet nearly 1. So has a plate
	// without one of its faces; but its rim lies in a plane, and closing it gives the
	// plate a thickness.
	sheetRatio = 0.6
	// sheetThickness is what such a plate has at least, of its diagonal.
	sheetThickness = 1e-3
	// looseSheet is the part of all area below which an open sheet is dropped.
	looseSheet = 0.01
)

// fill closes holes with facets between the points of their borders. Borders in
// one plane that lie in each other, like the two of a ring, are closed together.
// A shell that is an open sheet is not closed: a small one is dropped, a larger
// one is counted as unsolved.
func (r *Repaired) fill() {
	for range 3 { // what touched in a vertex can need a second look
		t := r.topology()
		if t.BoundaryEdges == 0 {
			return
		}
		loops, _ := t.Loops(r.Mesh)
		if len(loops) == 0 {
			return
		}
		for _, loop := range loops {
			slices.Reverse(loop)
		}
		if !r.fillLoops(t, loops) {
			return
		}
	}
}

// closure is a group of borders with the facets that close them.
type closure struct {
	facets []Facet
	loops  int
	shell  int32
}

func (r *Repaired) fillLoops(t *Topology, loops [][]int32) bool {
	m := r.Mesh
	shellOf := make([]int32, len(m.Vertices)) // of boundary points
	for h, twin := range t.Twin {
		if twin == boundary {
			shellOf[m.corner(int32(h))] = t.Shell[h/3]
		}
	}
	c := &capper{m: m, edges: map[[2]int32]bool{}}
	c.learn(loops)
	shells := measureShells(m, t)
	total := 0.0
	for _, s := range shells {
		total += s.area
	}
	caps := make([]shellMeasure, len(shells)) // by shell; open: not all are flat
	var all []closure
	for _, group := range nestLoops(m, loops) {
		vertices := len(m.Vertices)
		one := closure{c.close(group.loops), len(group.loops), shellOf[group.loops[0][0]]}
		if len(one.facets) == 0 {
			m.Vertices = m.Vertices[:vertices]
			continue
		}
		sum := &caps[one.shell]
		middle := shells[one.shell].box.Min.Add(shells[one.shell].box.Max).Mul(0.5)
		for _, f := range one.facets {
			p, q, s := m.Vertices[f[0]], m.Vertices[f[1]], m.Vertices[f[2]]
			n := q.Sub(p).Cross(s.Sub(p))
			sum.area += n.Len() / 2
			sum.volume += p.Sub(middle).Dot(n) / 6
		}
		sum.open = sum.open || !group.flat
		all = append(all, one)
	}
	sheet, drop := make([]bool, len(shells)), make([]bool, len(shells))
	loose := 0
	r.sheets = 0
	for i, s := range shells {
		if caps[i].area == 0 || caps[i].area < sheetRatio*s.area {
			continue
		}
		thickness := 2 * math.Abs(s.volume+caps[i].volume) / (s.area + caps[i].area)
		if !caps[i].open && thickness > sheetThickness*s.box.Size().Len() {
			continue
		}
		sheet[i] = true
		if s.area < looseSheet*total {
			drop[i] = true
			loose++
		} else {
			r.sheets++
		}
	}
	filled, area := 0, 0.0
	var added []Facet
	for _, one := range all {
		if !sheet[one.shell] {
			added = append(added, one.facets...)
			filled += one.loops
		}
	}
	for i := range shells {
		if !sheet[i] {
			area += caps[i].area
		}
	}
	if loose > 0 {
		m.dropShells(t, drop)
	}
	m.Facets = append(m.Facets, added...)
	r.did(Cleaned, loose, "dropped loose sheets that bound nothing")
	r.did(Filled, filled, "closed holes, with %.3g mm² of new surface", area)
	return filled > 0
}

// capper makes facets for holes.
type capper struct {
	m     *Mesh
	edges map[[2]int32]bool // between points of borders: a cap must not use them again inside
}

func (c *capper) learn(loops [][]int32) {
	onBorder := make([]bool, len(c.m.Vertices))
	for _, loop := range loops {
		for _, v := range loop {
			onBorder[v] = true
		}
	}
	for _, f := range c.m.Facets {
		for k, v := range f {
			if w := f[(k+1)%3]; onBorder[v] && onBorder[w] {
				c.edges[edgeKey(v, w)] = true
			}
		}
	}
}

// close gives the facets for a group of borders: one, or an outer one and those
// of islands in it, all in one plane. nil: it cannot be closed.
func (c *capper) close(group [][]int32) []Facet {
	var facets []Facet
	for _, loop := range group {
		if len(loop) < 3 {
			return nil
		}
	}
	if len(group) > 1 || len(group[0]) > exactCap {
		if facets = c.flat(group); facets == nil && len(group) > 1 {
			for _, loop := range group { // each for itself
				facets = append(facets, c.close([][]int32{loop})...)
			}
			return facets
		}
	}
	if facets == nil {
		facets = c.divide(group[0])
	}
	for _, f := range facets {
		for k, v := range f {
			c.edges[edgeKey(v, f[(k+1)%3])] = true
		}
	}
	return facets
}

// divide cuts a ring along short chords until the pieces are small enough for the
// best cap. A chord is good if it is short for the way around that it saves.
// O(k²) for rings up to 4096 points, O(k) beyond, by looking at a sample.
func (c *capper) divide(loop []int32) []Facet {
	n := len(loop)
	if n <= exactCap {
		if facets := c.best(loop); facets != nil {
			return facets
		}
		return c.star(loop)
	}
	along := make([]float64, n+1)
	for i, v := range loop {
		along[i+1] = along[i] + c.m.Vertices[v].Sub(c.m.Vertices[loop[(i+1)%n]]).Len()
	}
	step := max(1, n/4096*n/4096)
	bestI, bestJ, best := -1, -1, math.Inf(1)
	for i := 0; i < n; i += step {
		p := c.m.Vertices[loop[i]]
		for j := i + n/8; j < n && j-i <= n-n/8; j++ {
			way := along[j] - along[i]
			if score := p.Sub(c.m.Vertices[loop[j]]).Len() / min(way, along[n]-way); score < best && !c.edges[edgeKey(loop[i], loop[j])] {
				bestI, bestJ, best = i, j, score
			}
		}
	}
	if bestI < 0 {
		return c.star(loop)
	}
	c.edges[edgeKey(loop[bestI], loop[bestJ])] = true
	one := slices.Clone(loop[bestI : bestJ+1])
	two := append(slices.Clone(loop[bestJ:]), loop[:bestI+1]...)
	return append(c.divide(one), c.divide(two)...)
}

// star joins every edge to a new point in the middle.
func (c *capper) star(loop []int32) []Facet {
	var middle Vec
	for _, v := range loop {
		middle = middle.Add(c.m.Vertices[v])
	}
	centre := int32(len(c.m.Vertices))
	c.m.Vertices = append(c.m.Vertices, middle.Mul(1/float64(len(loop))))
	facets := make([]Facet, len(loop))
	for i, v := range loop {
		facets[i] = Facet{v, loop[(i+1)%len(loop)], centre}
	}
	return facets
}

// best is the cap of least weight: area, with a little of the sides' squares so
// that of equal areas the compact facets win (after Barequet and Sharir, Filling
// gaps in the boundary of a polyhedron, 1995). O(k³).
func (c *capper) best(loop []int32) []Facet {
	n := len(loop)
	points := make([]Vec, n)
	for i, v := range loop {
		points[i] = c.m.Vertices[v]
	}
	usable := make([]bool, n*n) // chords that are no edges yet
	for i := range n {
		for j := i + 1; j < n; j++ {
			usable[i*n+j] = j == i+1 || (i == 0 && j == n-1) || !c.edges[edgeKey(loop[i], loop[j])]
		}
	}
	weight := func(i, k, j int) float64 {
		u, v := points[k].Sub(points[i]), points[j].Sub(points[i])
		w := points[j].Sub(points[k])
		return u.Cross(v).Len() + 0.01*(u.Dot(u)+v.Dot(v)+w.Dot(w))
	}
	cost := make([]float64, n*n) // of the polygon from i to j
	via := make([]int, n*n)
	for span := 2; span < n; span++ {
		for i := 0; i+span < n; i++ {
			j := i + span
			best := math.Inf(1)
			if usable[i*n+j] {
				for k := i + 1; k < j; k++ {
					before := cost[i*n+k] + cost[k*n+j]
					if before >= best {
						continue
					}
					if w := before + weight(i, k, j); w < best {
						best, via[i*n+j] = w, k
					}
				}
			}
			cost[i*n+j] = best
		}
	}
	if math.IsInf(cost[n-1], 1) {
		return nil
	}
	var facets []Facet
	var emit func(i, j int)
	emit = func(i, j int) {
		if j-i < 2 {
			return
		}
		k := via[i*n+j]
		facets = append(facets, Facet{loop[i], loop[k], loop[j]})
		emit(i, k)
		emit(k, j)
	}
	emit(0, n-1)
	return facets
}

// flatLoop is a border that lies in a plane.
type flatLoop struct {
	normal   Vec // unit; the cap's outside
	area     float64
	height   float64 // of the plane along the normal
	flat     bool
	box      Box
	vertices []int32
}

// newFlatLoop fits a plane by Newell's method (Sutherland, Sproull and
// Schumacker, A characterization of ten hidden-surface algorithms, 1974).
func newFlatLoop(m *Mesh, loop []int32) flatLoop {
	p := flatLoop{vertices: loop}
	var sum, middle Vec
	origin := m.Vertices[loop[0]]
	p.box = Box{origin, origin}
	for i, v := range loop {
		a, b := m.Vertices[v], m.Vertices[loop[(i+1)%len(loop)]]
		sum = sum.Add(a.Sub(origin).Cross(b.Sub(origin)))
		middle = middle.Add(a)
		for k, x := range a {
			p.box.Min[k], p.box.Max[k] = min(p.box.Min[k], x), max(p.box.Max[k], x)
		}
	}
	p.area = sum.Len() / 2
	p.normal = sum.Unit()
	p.height = middle.Mul(1 / float64(len(loop))).Dot(p.normal)
	size := p.box.Size().Len()
	p.flat = p.area > 1e-6*size*size
	for _, v := range loop {
		p.flat = p.flat && math.Abs(m.Vertices[v].Dot(p.normal)-p.height) < 1e-4*size
	}
	return p
}

// loopGroup is what is closed together: a border, and borders of islands in it.
type loopGroup struct {
	loops [][]int32
	flat  bool
}

// nestLoops puts flat borders that lie directly in another one of the same plane,
// and run against it, into its group. All others are groups of one.
// O(k log k) for borders that are mostly apart.
func nestLoops(m *Mesh, loops [][]int32) []loopGroup {
	flats := make([]flatLoop, len(loops))
	boxes := &Mesh{}
	for i, loop := range loops {
		flats[i] = newFlatLoop(m, loop)
		n := int32(len(boxes.Vertices))
		boxes.Vertices = append(boxes.Vertices, flats[i].box.Min, flats[i].box.Max)
		boxes.Facets = append(boxes.Facets, Facet{n, n + 1, n + 1})
	}
	tree := NewBVH(boxes)
	outer := make([]int32, len(loops))
	work := 50_000_000 // points looked at
	for i := range flats {
		in := &flats[i]
		outer[i] = -1
		if !in.flat {
			continue
		}
		p := m.Vertices[in.vertices[0]]
		around := int32(-1) // the smallest one around it
		tree.overlapping(in.box, func(j int32) bool {
			work--
			out := &flats[j]
			if !out.flat || in.area >= out.area || around >= 0 && out.area >= flats[around].area ||
				!out.box.meets(in.box) || math.Abs(in.normal.Dot(out.normal)) < 0.999 ||
				math.Abs(p.Dot(out.normal)-out.height) > 1e-4*out.box.Size().Len() {
				return work > 0
			}
			work -= len(out.vertices)
			if out.contains(m, p) {
				around = j
			}
			return work > 0
		})
		if around >= 0 && in.normal.Dot(flats[around].normal) < 0 {
			outer[i] = around
		}
	}
	var groups []loopGroup
	at := make([]int, len(loops))
	for i, loop := range loops {
		if j := outer[i]; j < 0 || outer[j] >= 0 {
			at[i] = len(groups)
			groups = append(groups, loopGroup{[][]int32{loop}, flats[i].flat})
		}
	}
	for i, loop := range loops {
		if j := outer[i]; j >= 0 && outer[j] < 0 {
			g := &groups[at[j]]
			g.loops = append(g.loops, loop)
		}
	}
	return groups
}

// plane gives two directions that span the plane, anticlockwise around the normal.
func (p *flatLoop) plane() (x, y Vec) {
	x = Vec{1, 0, 0}
	if math.Abs(p.normal[0]) > 0.6 {
		x = Vec{0, 1, 0}
	}
	x = x.Sub(p.normal.Mul(x.Dot(p.normal))).Unit()
	return x, p.normal.Cross(x)
}

// contains counts crossings of a ray from q.
func (p *flatLoop) contains(m *Mesh, q Vec) bool {
	x, y := p.plane()
	qx, qy := q.Dot(x), q.Dot(y)
	in := false
	for i, v := range p.vertices {
		a, b := m.Vertices[v], m.Vertices[p.vertices[(i+1)%len(p.vertices)]]
		ax, ay, bx, by := a.Dot(x), a.Dot(y), b.Dot(x), b.Dot(y)
		if (ay > qy) != (by > qy) && qx < ax+(bx-ax)*(qy-ay)/(by-ay) {
			in = !in
		}
	}
	return in
}

// flatPoint is a corner of a polygon in its plane.
type flatPoint struct {
	x, y float64
	v    int32
}

func turnOf(a, b, c flatPoint) float64 { return (b.x-a.x)*(c.y-a.y) - (b.y-a.y)*(c.x-a.x) }

// flat triangulates a flat polygon with islands by clipping ears (Eberly,
// Triangulation by ear clipping, 2002): islands are joined to the border by
// bridges first. nil if the border is not flat or crosses itself.
// O(k²) usually; not tried beyond 20,000 points.
func (c *capper) flat(group [][]int32) []Facet {
	outer := newFlatLoop(c.m, group[0])
	points := 0
	for _, loop := range group {
		points += len(loop)
	}
	if !outer.flat || points > 20_000 {
		return nil
	}
	x, y := outer.plane()
	rings := make([][]flatPoint, len(group))
	for i, loop := range group {
		for _, v := range loop {
			p := c.m.Vertices[v]
			rings[i] = append(rings[i], flatPoint{p.Dot(x), p.Dot(y), v})
		}
	}
	ring := rings[0]
	islands := rings[1:]
	for len(islands) > 0 {
		var ok bool
		if ring, islands, ok = c.bridge(ring, islands); !ok {
			return nil
		}
	}
	return c.ears(ring)
}

// bridge joins the first island that reaches the border by a line which crosses
// nothing to the border, along the shortest such line from one of its points.
func (c *capper) bridge(ring []flatPoint, islands [][]flatPoint) (joined []flatPoint, rest [][]flatPoint, ok bool) {
	free := func(p, q flatPoint) bool {
		for _, r := range append([][]flatPoint{ring}, islands...) {
			for i, a := range r {
				b := r[(i+1)%len(r)]
				if a.v == p.v || a.v == q.v || b.v == p.v || b.v == q.v {
					continue
				}
				if turnOf(p, q, a)*turnOf(p, q, b) <= 0 && turnOf(a, b, p)*turnOf(a, b, q) <= 0 {
					return false
				}
			}
		}
		return !c.edges[edgeKey(p.v, q.v)]
	}
	for n, island := range islands {
		// The island's extreme point sees the border's side.
		at := 0
		for i, p := range island {
			if p.x > island[at].x {
				at = i
			}
		}
		from := island[at]
		order := make([]int, len(ring))
		for i := range order {
			order[i] = i
		}
		away := func(i int) float64 { return math.Hypot(ring[i].x-from.x, ring[i].y-from.y) }
		slices.SortFunc(order, func(i, j int) int { return cmp.Compare(away(i), away(j)) })
		for _, i := range order[:min(len(order), 256)] {
			if !inCone(ring, i, from) || !free(ring[i], from) {
				continue
			}
			joined = append(joined, ring[:i+1]...)
			joined = append(joined, island[at:]...)
			joined = append(joined, island[:at+1]...)
			joined = append(joined, ring[i:]...)
			return joined, slices.Delete(islands, n, n+1), true
		}
	}
	return nil, nil, false
}

// inCone tells whether q lies inside the polygon as seen from its corner i.
func inCone(ring []flatPoint, i int, q flatPoint) bool {
	n := len(ring)
	a, p, b := ring[(i+n-1)%n], ring[i], ring[(i+1)%n]
	if turnOf(a, p, b) > 0 {
		return turnOf(p, b, q) > 0 && turnOf(a, p, q) > 0
	}
	return turnOf(p, b, q) > 0 || turnOf(a, p, q) > 0
}

// ears cuts corners off that hold no other point.
func (c *capper) ears(ring []flatPoint) []Facet {
	n := len(ring)
	next, before := make([]int, n), make([]int, n)
	for i := range n {
		next[i], before[i] = (i+1)%n, (i+n-1)%n
	}
	reflex := make([]bool, n)
	bends := func(i int) bool { return turnOf(ring[before[i]], ring[i], ring[next[i]]) <= 0 }
	for i := range n {
		reflex[i] = bends(i)
	}
	facets := make([]Facet, 0, n-2)
	left := n
	ear := func(i int) bool {
		a, b, d := ring[before[i]], ring[i], ring[next[i]]
		if left > 3 && c.edges[edgeKey(a.v, d.v)] {
			return false
		}
		for j := next[next[i]]; j != before[i]; j = next[j] {
			p := ring[j]
			if !reflex[j] || p.v == a.v || p.v == b.v || p.v == d.v {
				continue
			}
			if turnOf(a, b, p) >= 0 && turnOf(b, d, p) >= 0 && turnOf(d, a, p) >= 0 {
				return false
			}
		}
		return true
	}
	for i, misses := 0, 0; left > 2; {
		if !reflex[i] && ear(i) {
			a, d := before[i], next[i]
			facets = append(facets, Facet{ring[a].v, ring[i].v, ring[d].v})
			next[a], before[d] = d, a
			reflex[a], reflex[d] = bends(a), bends(d)
			left--
			misses = 0
			i = next[d] // away from the new edge, so that no fans grow
			continue
		}
		i = next[i]
		if misses++; misses > left {
			return nil
		}
	}
	return facets
}
