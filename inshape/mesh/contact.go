package mesh

import (
	"math"
	"slices"
)

// site is where in a facet a point lies: corner 0 to 2, edge 3 to 5 (3+k runs
// from corner k to the next one), or the inside.
type site int8

const inside site = 6

// contact is what two facets have in common: nothing, one point, the points
// between two, or an area of their common plane. A point is told by its sites
// in both facets; these are exact, so that two points are one if and only if
// their sites are the same.
type contact struct {
	area   bool
	planar bool // the facets lie in one plane
	n      int
	points [2][2]site
}

func (c *contact) add(f, g site) {
	p := [2]site{f, g}
	if !slices.Contains(c.points[:c.n], p) && c.n < 2 {
		c.points[c.n] = p
		c.n++
	}
}

// crossing tells whether the facets cross or lie on each other: whether they
// share an area, or points between two of which not all are on an edge of
// both. Facets that meet in a point or along edges touch only.
func (c *contact) crossing() bool {
	if c.area {
		return true
	}
	return c.n == 2 && !(onEdge(c.points[0][0], c.points[1][0]) && onEdge(c.points[0][1], c.points[1][1]))
}

// cuts tells whether the facets have more in common than one point. Where
// surfaces cross, and be it along edges of both, some facets do.
func (c *contact) cuts() bool { return c.area || c.n == 2 }

// onEdge tells whether two sites of a facet are on a common edge.
func onEdge(a, b site) bool {
	for k := range site(3) {
		on := func(s site) bool { return s == k || s == (k+1)%3 || s == 3+k }
		if on(a) && on(b) {
			return true
		}
	}
	return false
}

// touch finds what the facets f and g, both with an area, have in common.
// Corners at the same place are the same. What facets share as neighbours, a
// corner or a whole edge, is no contact.
func touch(f, g *[3]Vec) (c contact) {
	var mine, theirs [3]int // shared corners
	shared := 0
	for i := range f {
		for j := range g {
			if f[i] == g[j] {
				mine[shared], theirs[shared] = i, j
				shared++
				break
			}
		}
	}
	switch shared {
	case 3:
		return contact{area: true, planar: true}
	case 2:
		a, b := f[mine[0]], f[mine[1]]
		p, q := f[3-mine[0]-mine[1]], g[3-theirs[0]-theirs[1]]
		if unfolded(a, b, p, q) || orient3d(f[0], f[1], f[2], q) != 0 {
			return contact{}
		}
		axis := projection(f)
		c.planar = true
		c.area = orient2d(flat(a, axis), flat(b, axis), flat(p, axis)) == orient2d(flat(a, axis), flat(b, axis), flat(q, axis))
		return c
	case 1:
		if apart(f, g, mine[0], theirs[0]) {
			return contact{}
		}
	}
	var sf, sg [3]int
	if !straddles(g, f, &sf) || !straddles(f, g, &sg) {
		return contact{}
	}
	if sf == [3]int{} {
		c.planar = true
		c.coplanar(f, g)
	} else {
		c.pierced(f, g, &sf, &sg)
	}
	if c.n == 1 && shared == 1 && c.points[0] == [2]site{site(mine[0]), site(theirs[0])} {
		c.n = 0
	}
	return c
}

// straddles gives the sides of f's corners of g's plane, and whether they are
// not all on one. As they share a normal, a filter of its own comes first: its
// error is below 6e-15 of the bound's factors.
func straddles(g, f *[3]Vec, sides *[3]int) bool {
	u, v := g[1].Sub(g[0]), g[2].Sub(g[0])
	n := u.Cross(v)
	scale := 1e-14 * u.largest() * v.largest()
	low, high := 1, -1
	for k, p := range f {
		w := p.Sub(g[0])
		if d := n.Dot(w); math.Abs(d) > scale*w.largest() {
			sides[k] = sign(d)
		} else {
			sides[k] = orient3d(g[0], g[1], g[2], p)
		}
		low, high = min(low, sides[k]), max(high, sides[k])
	}
	return low <= 0 && high >= 0
}

// largest is the largest of v's components.
func (v Vec) largest() float64 { return max(math.Abs(v[0]), math.Abs(v[1]), math.Abs(v[2])) }

// pierced is touch for facets in different planes: their common points lie on
// the planes' line, and end where an edge of one passes the other's plane.
func (c *contact) pierced(f, g *[3]Vec, sf, sg *[3]int) {
	for k := range 3 {
		if sf[k] == 0 {
			if s, ok := locate(g, projection(g), f[k]); ok {
				c.add(site(k), s)
			}
		}
		if sg[k] == 0 {
			if s, ok := locate(f, projection(f), g[k]); ok {
				c.add(s, site(k))
			}
		}
		next := (k + 1) % 3
		if sf[k]*sf[next] < 0 {
			if s, ok := passes(f[k], f[next], g); ok {
				c.add(3+site(k), s)
			}
		}
		if sg[k]*sg[next] < 0 {
			if s, ok := passes(g[k], g[next], f); ok {
				c.add(s, 3+site(k))
			}
		}
	}
}

// passes tells where the line pq, which is not in g's plane, passes g: on the
// same side of its edges (Ericson, Real-Time Collision Detection, 2005, 5.3.4).
func passes(p, q Vec, g *[3]Vec) (site, bool) {
	var s [3]int
	for k := range 3 {
		s[k] = orient3d(p, q, g[k], g[(k+1)%3])
	}
	return between(s)
}

// between gives the site of a point from its sides of a facet's edges.
func between(s [3]int) (site, bool) {
	low, high := min(s[0], s[1], s[2]), max(s[0], s[1], s[2])
	if low < 0 && high > 0 {
		return 0, false
	}
	for k := range 3 {
		if s[k] == 0 && s[(k+2)%3] == 0 {
			return site(k), true
		}
	}
	for k := range 3 {
		if s[k] == 0 {
			return 3 + site(k), true
		}
	}
	return inside, true
}

// coplanar is touch for facets in one plane. Convex areas are apart if and only
// if an edge of one of them parts them.
func (c *contact) coplanar(f, g *[3]Vec) {
	axis := projection(f)
	if !parted(f, g, axis) && !parted(g, f, axis) {
		c.area = true
		return
	}
	for k := range 3 {
		if s, ok := locate(g, axis, f[k]); ok {
			c.add(site(k), s)
		}
		if s, ok := locate(f, axis, g[k]); ok {
			c.add(s, site(k))
		}
	}
}

func parted(f, g *[3]Vec, axis int) bool {
	turn := orient2d(flat(f[0], axis), flat(f[1], axis), flat(f[2], axis))
	for k := range 3 {
		beyond := true
		for _, p := range g {
			beyond = beyond && turn*orient2d(flat(f[k], axis), flat(f[(k+1)%3], axis), flat(p, axis)) <= 0
		}
		if beyond {
			return true
		}
	}
	return false
}

// locate gives the site of a point of g's plane in g.
func locate(g *[3]Vec, axis int, p Vec) (site, bool) {
	var s [3]int
	for k := range 3 {
		s[k] = orient2d(flat(g[k], axis), flat(g[(k+1)%3], axis), flat(p, axis))
	}
	return between(s)
}

// projection is the axis along which f's shadow has an area, the largest but
// for rounding; -1 for a facet whose corners are on a line.
func projection(f *[3]Vec) int {
	n := f[1].Sub(f[0]).Cross(f[2].Sub(f[0]))
	best := 0
	for k := range 3 {
		if math.Abs(n[k]) > math.Abs(n[best]) {
			best = k
		}
	}
	for i := range 3 {
		axis := (best + i) % 3
		if orient2d(flat(f[0], axis), flat(f[1], axis), flat(f[2], axis)) != 0 {
			return axis
		}
	}
	return -1
}

// flat drops a coordinate, so that what turns counter-clockwise seen from the
// axis' positive end still does.
func flat(p Vec, axis int) [2]float64 {
	switch axis {
	case 0:
		return [2]float64{p[1], p[2]}
	case 1:
		return [2]float64{p[2], p[0]}
	}
	return [2]float64{p[0], p[1]}
}

// unfolded tells, where rounding leaves no doubt, that the facets abp and abq
// do not lie on each other: most neighbours need no exact test.
func unfolded(a, b, p, q Vec) bool {
	e, u, v := b.Sub(a), p.Sub(a), q.Sub(a)
	m, n := e.Cross(u), e.Cross(v)
	mm, nn, ee := m.Dot(m), n.Dot(n), e.Dot(e)
	d := m.Dot(n)
	return mm > 1e-18*ee*u.Dot(u) && nn > 1e-18*ee*v.Dot(v) && (d < 0 || d*d < 0.9*mm*nn)
}

// apart tells, where rounding leaves no doubt, that facets have nothing but
// their corners i and j in common: g is beside f's plane, or a plane through
// these corners has the rest of f and g on different sides. It tries those that
// stand on an edge, tilted a little.
func apart(f, g *[3]Vec, i, j int) bool {
	at := f[i]
	a, b := f[(i+1)%3].Sub(at), f[(i+2)%3].Sub(at)
	c, d := g[(j+1)%3].Sub(at), g[(j+2)%3].Sub(at)
	n := a.Cross(b)
	p, q := n.Dot(c), n.Dot(d)
	if bound := 1e-14 * a.largest() * b.largest() * max(c.largest(), d.largest()); min(p, q) > bound || max(p, q) < -bound {
		return true
	}
	return standing(a, b, c, d) || standing(b, a, c, d) || standing(c, d, a, b) || standing(d, c, a, b)
}

// standing tries the plane on a, upright on ab.
func standing(a, b, c, d Vec) bool {
	m := a.Cross(b).Cross(a)
	if m.Dot(b) < 0 {
		m = m.Mul(-1)
	}
	m = m.Unit().Add(a.Unit().Mul(1e-6))
	clear := func(v Vec) float64 {
		s := m.Dot(v)
		if s*s < 1e-22*v.Dot(v) {
			return 0
		}
		return s
	}
	return clear(a) > 0 && clear(b) > 0 && clear(c) < 0 && clear(d) < 0
}
