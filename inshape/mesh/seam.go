package mesh

import (
	"cmp"
	"math"
	"slices"
)

// closeGaps joins the sides of gaps, the narrowest first: boundary edges that lie
// side by side; then it gives boundary edges the points of other boundaries that
// lie on them (T-junctions), which makes more edges that lie side by side.
func (r *Repaired) closeGaps(tolerance, diagonal float64) {
	var widths []float64
	for width := min(tolerance, 1e-6*diagonal); width > 0 && width < tolerance; width *= 4 {
		widths = append(widths, width)
	}
	widths = append(widths, tolerance)
	for _, width := range widths {
		r.stitch(width)
	}
	for _, width := range widths {
		for range 8 { // an edge of a facet at a time
			if !r.fit(width) {
				break
			}
			r.stitch(width)
		}
	}
}

// boundaryEdge is a half-edge without twin.
type boundaryEdge struct {
	h    int32
	a, b int32 // from, to
}

func boundaryEdges(m *Mesh, t *Topology) []boundaryEdge {
	edges := make([]boundaryEdge, 0, t.BoundaryEdges)
	for h, twin := range t.Twin {
		if twin == boundary && t.Shell[h/3] >= 0 {
			edges = append(edges, boundaryEdge{int32(h), m.corner(int32(h)), m.corner(following(int32(h)))})
		}
	}
	return edges
}

// stitch makes one of two boundary edges whose ends are at most width apart,
// nearest ones first. Edges shorter than four widths are left alone, so that
// nothing collapses. A step that does more harm than good is taken back.
// O(n) for usual boundaries: an edge looks at no more than 32 others.
func (r *Repaired) stitch(width float64) {
	m, t := r.Mesh, r.topology()
	if t.BoundaryEdges == 0 {
		return
	}
	edges := boundaryEdges(m, t)
	edges = slices.DeleteFunc(edges, func(e boundaryEdge) bool {
		return m.Vertices[e.a].Sub(m.Vertices[e.b]).Len() < 4*width
	})
	// Middles of edges that match are at most a width apart.
	grid := newPointGrid(width)
	type match struct {
		i, j     int32
		distance float64
		opposed  bool // as they should be
	}
	var matches []match
	for i, e := range edges {
		a, b := m.Vertices[e.a], m.Vertices[e.b]
		middle := a.Add(b).Mul(0.5)
		looked := 0
		grid.near(middle, func(j int32) bool {
			c, d := m.Vertices[edges[j].a], m.Vertices[edges[j].b]
			if distance := max(a.Sub(d).Len(), b.Sub(c).Len()); distance <= width {
				matches = append(matches, match{int32(i), j, distance, true})
			} else if distance := max(a.Sub(c).Len(), b.Sub(d).Len()); distance <= width {
				matches = append(matches, match{int32(i), j, distance, false})
			}
			looked++
			return looked < 32
		})
		grid.add(middle, int32(i))
	}
	if len(matches) == 0 {
		return
	}
	slices.SortFunc(matches, func(p, q match) int {
		switch {
		case p.opposed != q.opposed && p.opposed:
			return -1
		case p.opposed != q.opposed:
			return 1
		}
		return cmp.Or(cmp.Compare(p.distance, q.distance), cmp.Compare(p.i, q.i), cmp.Compare(p.j, q.j))
	})
	to := make([]int32, len(m.Vertices))
	for i := range to {
		to[i] = int32(i)
	}
	find := func(v int32) int32 {
		for to[v] != v {
			to[v] = to[to[v]]
			v = to[v]
		}
		return v
	}
	join := func(v, w int32) {
		v, w = find(v), find(w)
		to[max(v, w)] = min(v, w)
	}
	joined := make([]bool, len(edges))
	number := 0
	for _, p := range matches {
		if joined[p.i] || joined[p.j] {
			continue
		}
		joined[p.i], joined[p.j] = true, true
		e, f := edges[p.i], edges[p.j]
		if !p.opposed {
			f.a, f.b = f.b, f.a
		}
		join(e.a, f.b)
		join(e.b, f.a)
		number++
	}
	stitched := &Mesh{m.Vertices, make([]Facet, 0, len(m.Facets))}
	for _, f := range m.Facets {
		if f = (Facet{find(f[0]), find(f[1]), find(f[2])}); !collapsed(f) {
			stitched.Facets = append(stitched.Facets, f)
		}
	}
	after := Analyse(stitched)
	harm := func(t *Topology) int { return t.BoundaryEdges + 4*(t.NonManifoldEdges+t.Duplicate) }
	if harm(after) >= harm(t) {
		return
	}
	r.Mesh = stitched
	r.did(Stitched, number, "joined the sides of gaps")
	r.current = after
}

// fit gives boundary edges the boundary points that lie on them, at most width
// away and more than that from their ends, where one of the pieces then has a
// partner.
func (r *Repaired) fit(width float64) bool {
	m, t := r.Mesh, r.topology()
	if t.BoundaryEdges == 0 {
		return false
	}
	edges := boundaryEdges(m, t)
	lines := &Mesh{m.Vertices, make([]Facet, len(edges))}
	partner := make(map[[2]int32]bool, len(edges))
	for i, e := range edges {
		lines.Facets[i] = Facet{e.a, e.b, e.b}
		partner[edgeKey(e.a, e.b)] = true
	}
	tree := NewBVH(lines)
	type point struct {
		v     int32
		along float64 // 0 at the edge's begin, 1 at its end
	}
	found := make([][]point, len(edges))
	seen := map[int32]bool{}
	work := 20_000_000 // edges looked at: what has more on one spot is no seam
	for _, e := range edges {
		if seen[e.a] {
			continue
		}
		seen[e.a] = true
		p := m.Vertices[e.a]
		reach := Vec{width, width, width}
		tree.overlapping(Box{p.Sub(reach), p.Add(reach)}, func(i int32) bool {
			a, b := m.Vertices[edges[i].a], m.Vertices[edges[i].b]
			d := b.Sub(a)
			length := d.Len()
			along := p.Sub(a).Dot(d) / (length * length)
			if along*length > width && (1-along)*length > width && p.Sub(a.Add(d.Mul(along))).Len() <= width {
				if f := m.Facets[edges[i].h/3]; f[0] != e.a && f[1] != e.a && f[2] != e.a {
					found[i] = append(found[i], point{e.a, along})
				}
			}
			work--
			return work > 0
		})
		if work <= 0 {
			return false
		}
	}
	busy := map[int32]bool{} // facets with an edge divided already: their other edges wait for the next round
	divided := 0
	for i, points := range found {
		e := edges[i]
		if len(points) == 0 || busy[e.h/3] {
			continue
		}
		slices.SortFunc(points, func(p, q point) int {
			return cmp.Or(cmp.Compare(p.along, q.along), cmp.Compare(p.v, q.v))
		})
		useful := false
		last := e.a
		for _, p := range append(points, point{v: e.b}) {
			useful = useful || partner[edgeKey(last, p.v)]
			last = p.v
		}
		if !useful {
			continue
		}
		busy[e.h/3] = true
		// Backwards, so that the half-edge keeps its begin.
		for _, p := range slices.Backward(points) {
			m.insert(e.h, p.v)
			divided++
		}
	}
	r.did(Fitted, divided, "gave edges the points of their neighbours that lie on them")
	return divided > 0
}

// pointGrid finds numbered points by place.
type pointGrid struct {
	pitch float64
	first map[[3]int64]int32 // the last number of a cell
	next  []int32            // by entry: the entry before it, or -1
	what  []int32            // by entry: the number
}

func newPointGrid(pitch float64) *pointGrid {
	return &pointGrid{pitch: pitch, first: map[[3]int64]int32{}}
}

func (g *pointGrid) cell(p Vec) [3]int64 {
	return [3]int64{int64(math.Floor(p[0] / g.pitch)), int64(math.Floor(p[1] / g.pitch)), int64(math.Floor(p[2] / g.pitch))}
}

func (g *pointGrid) add(p Vec, number int32) {
	cell := g.cell(p)
	before, ok := g.first[cell]
	if !ok {
		before = -1
	}
	g.first[cell] = int32(len(g.next))
	g.next, g.what = append(g.next, before), append(g.what, number)
}

// near calls do with all points in the cells around p, which holds those at most
// a pitch away, until it gives false.
func (g *pointGrid) near(p Vec, do func(number int32) bool) {
	at := g.cell(p)
	for n := range int64(27) {
		entry, ok := g.first[[3]int64{at[0] + n%3 - 1, at[1] + n/3%3 - 1, at[2] + n/9 - 1}]
		for ; ok && entry >= 0; entry = g.next[entry] {
			if !do(g.what[entry]) {
				return
			}
		}
	}
}
