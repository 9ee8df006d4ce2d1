package mesh

import (
	"math"
	"slices"
)

// splitEdges takes parts apart that touch along an edge or in a point. The
// facets of an edge of more than two are paired anew: by their shells, where each
// shell has two of them, else around the edge, so that each pair has solid between
// it. Each fan of facets at a vertex then gets a vertex of its own. The
// copies at edges are moved into their part by a few of float32's smallest steps,
// so that the parts stay apart in every file format; those in points stay where
// they are, because touching in a point is no fault of a solid.
func (r *Repaired) splitEdges() {
	for range 4 { // an edge that is still one between its ends gets a point in between, one facet's edge at a time
		t := r.topology()
		if t.Manifold() {
			return
		}
		edges, points, again := r.split(t)
		r.did(SplitEdge, edges, "took parts apart that touched along an edge")
		r.did(SplitPoint, points, "gave parts that touched in a point a point each")
		if !again {
			return
		}
	}
}

func (r *Repaired) split(t *Topology) (edges, points int, again bool) {
	m := r.Mesh
	fans := make([]int32, 3*len(m.Facets)) // union-find over corners
	for h := range fans {
		fans[h] = int32(h)
	}
	find := func(h int32) int32 {
		for fans[h] != h {
			fans[h] = fans[fans[h]]
			h = fans[h]
		}
		return h
	}
	join := func(h, o int32) { // the corners at both ends of two half-edges of one edge
		begin, end := o, following(o)
		if m.corner(begin) != m.corner(h) {
			begin, end = end, begin
		}
		fans[find(begin)] = find(h)
		fans[find(end)] = find(following(h))
	}
	for h, o := range t.Twin {
		if o > int32(h) {
			join(int32(h), o)
		}
	}
	var pairs [][2]int32
	touched := map[int32]bool{} // vertices at edges that are taken apart
	for _, group := range ambiguousEdges(m, t) {
		found, ok := pairsOf(m, t, group)
		if !ok {
			for _, o := range group[1:] {
				join(group[0], o)
			}
			continue
		}
		edges++
		for _, p := range found {
			join(p[0], p[1])
		}
		pairs = append(pairs, found...)
		touched[m.corner(group[0])], touched[m.corner(following(group[0]))] = true, true
	}

	// The first fan of a vertex keeps it, the others get copies.
	step := m.smallStep()
	taken := make([]bool, len(m.Vertices))
	own := map[int32]int32{} // by fan: its vertex, where that is a copy
	keeper := make(map[int32]bool)
	inward := map[int32]Vec{} // of copies at edges: against the normals of their fan
	beside := map[int32]Vec{} // and to its other points, where the normals cancel
	split := map[int32]bool{}
	for h := range int32(len(fans)) {
		if t.Shell[h/3] < 0 {
			continue
		}
		fan, v := find(h), m.Facets[h/3][h%3]
		copied, ok := own[fan]
		switch {
		case ok:
		case keeper[fan]:
			continue
		case !taken[v]:
			taken[v], keeper[fan] = true, true
			continue
		default:
			copied = int32(len(m.Vertices))
			own[fan] = copied
			m.Vertices = append(m.Vertices, m.Vertices[v])
			if !touched[v] {
				split[v] = true
			} else {
				inward[copied] = Vec{}
			}
		}
		if sum, ok := inward[copied]; ok {
			inward[copied] = sum.Sub(m.Normal(int(h / 3)))
			a, b, c := m.Corners(int(h / 3))
			beside[copied] = beside[copied].Add(a.Add(b).Add(c).Mul(1. / 3).Sub(m.Vertices[v]).Unit())
		}
	}
	for h := range int32(len(fans)) {
		if copied, ok := own[find(h)]; ok && t.Shell[h/3] >= 0 {
			m.Facets[h/3][h%3] = copied
		}
	}
	for v, way := range inward {
		if way.Len() < 0.1 {
			way = beside[v]
		}
		m.Vertices[v] = m.Vertices[v].Add(way.Unit().Mul(step))
	}

	// Pairs that still share both ends get a middle each.
	first := map[[2]int32]bool{}
	busy := map[int32]bool{}
	for _, p := range pairs {
		key := edgeKey(m.corner(p[0]), m.corner(following(p[0])))
		if !first[key] {
			first[key] = true
			continue
		}
		if busy[p[0]/3] || busy[p[1]/3] {
			again = true
			continue
		}
		busy[p[0]/3], busy[p[1]/3] = true, true
		way := m.Normal(int(p[0] / 3)).Add(m.Normal(int(p[1] / 3))).Unit().Mul(-step)
		middle := m.Vertices[key[0]].Add(m.Vertices[key[1]]).Mul(0.5).Add(way)
		m.Vertices = append(m.Vertices, middle)
		for _, h := range p {
			m.insert(h, int32(len(m.Vertices)-1))
		}
	}
	return edges, len(split), again
}

// insert puts vertex v on half-edge h of its facet, which becomes two.
func (m *Mesh) insert(h, v int32) {
	f, k := h/3, h%3
	rest := m.Facets[f]
	m.Facets[f][(k+1)%3] = v
	rest[k] = v
	m.Facets = append(m.Facets, rest)
}

// smallStep is a distance that float32 still tells apart anywhere in the mesh,
// even if it is split over three coordinates.
func (m *Mesh) smallStep() float64 {
	box := m.Bounds()
	far := 0.0
	for k := range 3 {
		far = max(far, math.Abs(box.Min[k]), math.Abs(box.Max[k]))
	}
	return 4 * far / (1 << 23)
}

// pairsOf pairs the half-edges of one edge; ok is false if it is open which
// belong together.
func pairsOf(m *Mesh, t *Topology, group []int32) (pairs [][2]int32, ok bool) {
	if len(group)%2 != 0 {
		return nil, false
	}
	// By shells.
	shells := map[int32][]int32{}
	for _, h := range group {
		s := t.Shell[h/3]
		if len(shells[s]) == 0 {
			pairs = append(pairs, [2]int32{h, -1})
		}
		shells[s] = append(shells[s], h)
	}
	whole := true
	for i, p := range pairs {
		two := shells[t.Shell[p[0]/3]]
		if len(two) != 2 || m.corner(two[0]) == m.corner(two[1]) {
			whole = false
			break
		}
		pairs[i][1] = two[1]
	}
	if whole {
		return pairs, true
	}
	// Around the edge. A half-edge against it has the solid anticlockwise of its facet,
	// one along it clockwise: the first opens a piece of solid and the second closes it.
	// Where surfaces cross they do not alternate, and pieces lie in each other like
	// brackets; every pairing bounds the same solid.
	a, b := m.Vertices[m.corner(group[0])], m.Vertices[m.corner(following(group[0]))]
	axis := b.Sub(a).Unit()
	var x, y Vec
	type ray struct {
		angle float64
		h     int32
		along bool
	}
	rays := make([]ray, 0, len(group))
	for i, h := range group {
		d := m.Vertices[m.opposite(h)].Sub(a)
		d = d.Sub(axis.Mul(d.Dot(axis)))
		if i == 0 {
			x = d.Unit()
			y = axis.Cross(x)
		}
		if d.Len() == 0 {
			return nil, false
		}
		rays = append(rays, ray{math.Atan2(d.Dot(y), d.Dot(x)), h, m.corner(h) == m.corner(group[0])})
	}
	slices.SortFunc(rays, func(p, q ray) int {
		if p.angle < q.angle {
			return -1
		}
		if p.angle > q.angle {
			return 1
		}
		return int(p.h - q.h)
	})
	depth, lowest, begin := 0, 0, 0
	for i, p := range rays {
		if p.along {
			depth--
		} else {
			depth++
		}
		if depth < lowest {
			lowest, begin = depth, i+1
		}
	}
	if depth != 0 {
		return nil, false
	}
	pairs = pairs[:0]
	var opened []int32
	for i := range rays {
		p := rays[(begin+i)%len(rays)]
		if !p.along {
			opened = append(opened, p.h)
			continue
		}
		last := len(opened) - 1
		pairs = append(pairs, [2]int32{opened[last], p.h})
		opened = opened[:last]
	}
	return pairs, true
}
