package mesh

import (
	"cmp"
	"math"
	"slices"
)

// drill is a hole and how far its tool goes beyond the wall.
type drill struct {
	Hole
	outside, inside float64
}

const drillSides = 32

// tool is the negative of the channel: a prism around the hole's circle that
// looks inwards.
func (d *drill) tool() *Mesh {
	u, v := across(d.Axis)
	radius := d.Diameter / 2 / math.Cos(math.Pi/drillSides)
	m := &Mesh{}
	for _, end := range [2]Vec{d.At.Sub(d.Axis.Mul(d.outside)), d.At.Add(d.Axis.Mul(d.Length + d.inside))} {
		for k := range drillSides {
			s, c := math.Sincos(2 * math.Pi * (float64(k) + 0.29) / drillSides)
			m.Vertices = append(m.Vertices, end.Add(u.Mul(radius*c)).Add(v.Mul(radius*s)))
		}
	}
	for k := range int32(drillSides) {
		l := (k + 1) % drillSides
		m.Facets = append(m.Facets, Facet{k, drillSides + l, l}, Facet{k, drillSides + k, drillSides + l})
		if k > 0 && l > 0 {
			m.Facets = append(m.Facets, Facet{0, k, l}, Facet{drillSides, drillSides + l, drillSides + k})
		}
	}
	return m
}

// across are two directions that make a right-handed frame with axis.
func across(axis Vec) (u, v Vec) {
	side := Vec{1, 0, 0}
	if math.Abs(axis[0]) > 0.6 {
		side = Vec{0, 1, 0}
	}
	u = side.Sub(axis.Mul(side.Dot(axis))).Unit()
	return u, axis.Cross(u)
}

// holes finds places for the holes of a void, apart from those taken.
func (h *hollower) holes(v cavity, taken []Hole) []drill {
	var found []drill
	room := func(d *drill) bool {
		near := func(o *Hole) bool { return o.At.Sub(d.At).Len() < 2*h.HoleDiameter }
		return !slices.ContainsFunc(taken, func(o Hole) bool { return near(&o) }) &&
			!slices.ContainsFunc(found, func(o drill) bool { return near(&o.Hole) })
	}
	if h.At != nil {
		for _, at := range h.At {
			if d, ok := h.drillAt(at, v); ok && room(&d) {
				found = append(found, d)
			}
		}
		return found
	}
	const tries = 2000
	var from []Vec
	for i := 0; i < len(v.mesh.Vertices); i += 1 + len(v.mesh.Vertices)/tries {
		from = append(from, v.mesh.Vertices[i])
	}
	for len(found) < h.Holes {
		// The lowest first, then the furthest from the holes that are there.
		rank := func(p Vec) float64 {
			if len(found) == 0 {
				return p.Dot(h.Up)
			}
			least := math.Inf(1)
			for _, d := range found {
				least = min(least, d.At.Sub(p).Len())
			}
			return -least
		}
		slices.SortStableFunc(from, func(a, b Vec) int { return cmp.Compare(rank(a), rank(b)) })
		before := len(found)
		for _, p := range from {
			q, facet, distance := h.tree.Nearest(p, 2*h.level, nil)
			if facet < 0 || distance == 0 {
				continue
			}
			axis := p.Sub(q).Mul(1 / distance)
			if d, ok := h.drill(q, axis, distance); ok && room(&d) {
				found = append(found, d)
				break
			}
		}
		if len(found) == before {
			break
		}
	}
	return found
}

// drillAt goes inwards from the point of the surface nearest to at until it finds
// the void.
func (h *hollower) drillAt(at Vec, v cavity) (drill, bool) {
	q, facet, _ := h.tree.Nearest(at, math.Inf(1), nil)
	if facet < 0 {
		return drill{}, false
	}
	axis := h.tree.normals[facet].Mul(-1)
	box := v.Box
	for k := range 3 {
		box.Min[k], box.Max[k] = box.Min[k]-h.grid.pitch, box.Max[k]+h.grid.pitch
	}
	for depth := h.level; depth < 4*h.level; depth += h.grid.pitch / 4 {
		if p := q.Add(axis.Mul(depth)); h.inVoid(p) && box.distance2(p) == 0 {
			return h.drill(q, axis, depth)
		}
	}
	return drill{}, false
}

// drill makes a hole from q on the outside through length of wall, if there is
// air all over its mouth, void all over its end, and solid all around it.
func (h *hollower) drill(q, axis Vec, length float64) (drill, bool) {
	u, v := across(axis)
	radius := h.HoleDiameter / 2
	ring := func(depth, radius float64, good func(Vec) bool) bool {
		middle := q.Add(axis.Mul(depth))
		for k := range 8 {
			s, c := math.Sincos(2 * math.Pi * float64(k) / 8)
			if !good(middle.Add(u.Mul(radius * c)).Add(v.Mul(radius * s))) {
				return false
			}
		}
		return true
	}
	d := drill{Hole: Hole{At: q, Axis: axis, Diameter: h.HoleDiameter, Length: length}}
	for _, beyond := range [...]float64{0.25, 0.6, 1.2} {
		e := beyond * radius
		air := func(p Vec) bool { return h.side(p) > 0.1*e }
		if d.outside == 0 && air(q.Sub(axis.Mul(e))) && ring(-e, 1.2*radius, air) {
			d.outside = e
		}
		e += h.grid.pitch
		if d.inside == 0 && h.inVoid(q.Add(axis.Mul(length+e))) && ring(length+e, radius, h.inVoid) {
			d.inside = e
		}
	}
	if d.outside == 0 || d.inside == 0 {
		return d, false
	}
	around := radius + min(h.level/2, 1)
	return d, ring(length/2, around, func(p Vec) bool { return h.side(p) < 0 })
}

// side is the distance to the surface, negative inside. Near a sharp edge it may
// take the outside for the inside, which costs a place for a hole and no more.
func (h *hollower) side(p Vec) float64 {
	q, facet, distance := h.tree.Nearest(p, math.Inf(1), nil)
	if facet >= 0 && p.Sub(q).Dot(h.tree.normals[facet]) < 0 {
		return -distance
	}
	return distance
}

// inVoid tells whether all nodes around p are void.
func (h *hollower) inVoid(p Vec) bool {
	g := &h.grid
	var at [3]int
	for k := range 3 {
		x := (p[k] - g.origin[k]) / g.pitch
		if !(x >= 0 && x < float64(g.n[k]-1)) {
			return false
		}
		at[k] = int(x)
	}
	return h.mask(g.index(at[0], at[1], at[2]), h.corners()) == 255
}
