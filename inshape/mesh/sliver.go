package mesh

// tidy takes out what cutting leaves and nobody sees: edges shorter than size,
// and facets flat to the last digit. Only vertices that were made, from first
// on, are moved, by no more than size. The mesh is a solid and stays one; twin
// is that of every half-edge. O(n).
func (m *Mesh) tidy(twin []int32, first int32, size float64) {
	s := slivers{Mesh: m, twin: twin, first: first, size: size}
	for range 8 {
		before := s.changes
		for f := range int32(len(m.Facets)) {
			s.mend(f)
		}
		if s.changes == before {
			break
		}
	}
	kept := m.Facets[:0]
	for _, c := range m.Facets {
		if c != (Facet{}) {
			kept = append(kept, c)
		}
	}
	m.Facets = kept
}

type slivers struct {
	*Mesh
	twin    []int32
	first   int32
	size    float64
	changes int
}

// mend takes out an edge of f that is too short, or turns its longest one if it
// is flat.
func (s *slivers) mend(f int32) {
	c := s.Facets[f]
	if c == (Facet{}) {
		return
	}
	longest, length := int32(0), 0.0
	for k := range int32(3) {
		l := s.Vertices[c[k]].Sub(s.Vertices[c[(k+1)%3]]).Len()
		if l < s.size && (s.collapse(3*f+k) || s.collapse(s.twin[3*f+k])) {
			s.changes++
			return
		}
		if l > length {
			longest, length = 3*f+k, l
		}
	}
	if s.degenerate(int(f)) && s.flip(longest) {
		s.changes++
	}
}

// around gives the half-edges that begin where h does.
func (s *slivers) around(h int32) func(yield func(int32) bool) {
	return func(yield func(int32) bool) {
		for e := h; yield(e); {
			if e = s.twin[preceding(e)]; e == h {
				return
			}
		}
	}
}

// collapse moves the beginning of h, a made vertex, to its end, if that keeps
// the surface a manifold and turns no facet over.
func (s *slivers) collapse(h int32) bool {
	a, b := s.corner(h), s.corner(following(h))
	if a < s.first {
		return false
	}
	g := s.twin[h]
	// The neighbours that both ends have must be the two beside the edge.
	beside := map[int32]bool{}
	for e := range s.around(g) {
		beside[s.corner(following(e))] = true
	}
	common := 0
	for e := range s.around(h) {
		if beside[s.corner(following(e))] {
			common++
		}
	}
	if c, d := s.opposite(h), s.opposite(g); common != 2 || c == d {
		return false
	}
	for e := range s.around(h) {
		if f := e / 3; f != h/3 && f != g/3 && !s.bends(f, a, b) {
			return false
		}
	}
	var spokes []int32
	for e := range s.around(h) {
		spokes = append(spokes, e)
	}
	for _, e := range spokes {
		s.Facets[e/3][e%3] = b
	}
	for _, e := range [2]int32{h, g} {
		p, q := s.twin[following(e)], s.twin[preceding(e)]
		s.twin[p], s.twin[q] = q, p
		s.Facets[e/3] = Facet{}
	}
	return true
}

// bends tells whether facet f still looks where it did, unless it has no
// direction worth keeping, when vertex a moves to b.
func (s *slivers) bends(f, a, b int32) bool {
	p, q, r := s.Corners(int(f))
	before := q.Sub(p).Cross(r.Sub(p))
	c := s.Facets[f]
	for k := range c {
		if c[k] == a {
			c[k] = b
		}
	}
	p, q, r = s.Vertices[c[0]], s.Vertices[c[1]], s.Vertices[c[2]]
	after := q.Sub(p).Cross(r.Sub(p))
	longest := max(q.Sub(p).Len(), r.Sub(q).Len(), p.Sub(r).Len())
	if d := before.Dot(after); d > 0.9*before.Len()*after.Len() && d > 0 {
		return true
	}
	return before.Len() < s.size*longest && after.Len() > 0
}

// flip turns edge h, the longest of a flat facet, in the quadrangle of the facets
// beside it, if their surface stays where it is.
func (s *slivers) flip(h int32) bool {
	g := s.twin[h]
	a, b, c, d := s.corner(h), s.corner(g), s.opposite(h), s.opposite(g)
	if c == d {
		return false
	}
	for e := range s.around(preceding(h)) {
		if s.corner(following(e)) == d {
			return false
		}
	}
	p, q, r := s.Corners(int(g / 3))
	normal := q.Sub(p).Cross(r.Sub(p))
	for _, t := range [2]Facet{{a, d, c}, {b, c, d}} {
		p, q, r := s.Vertices[t[0]], s.Vertices[t[1]], s.Vertices[t[2]]
		if n := q.Sub(p).Cross(r.Sub(p)); n.Dot(normal) <= 0.9*n.Len()*normal.Len() {
			return false
		}
	}
	h1, h2, g1, g2 := following(h), preceding(h), following(g), preceding(g)
	tc, ta, td, tb := s.twin[h1], s.twin[h2], s.twin[g1], s.twin[g2]
	f, e := h/3, g/3
	s.Facets[f], s.Facets[e] = Facet{a, d, c}, Facet{b, c, d}
	link := func(p, q int32) { s.twin[p], s.twin[q] = q, p }
	link(3*f, td)
	link(3*f+1, 3*e+1)
	link(3*f+2, ta)
	link(3*e, tc)
	link(3*e+2, tb)
	return true
}
