package render

import (
	"math"

	"inshape/mesh"
)

// cube is 10 mm.
func cube() *mesh.Mesh {
	m := &mesh.Mesh{}
	for i := range 8 {
		m.Vertices = append(m.Vertices, mesh.Vec{float64(i&1) * 10, float64(i>>1&1) * 10, float64(i>>2) * 10})
	}
	for _, q := range [][4]int32{{0, 2, 3, 1}, {4, 5, 7, 6}, {0, 1, 5, 4}, {2, 6, 7, 3}, {0, 4, 6, 2}, {1, 3, 7, 5}} {
		m.Facets = append(m.Facets, mesh.Facet{q[0], q[1], q[2]}, mesh.Facet{q[0], q[2], q[3]})
	}
	return m
}

// knot is a trefoil with ripples, of 2·rings·sides facets, about 60 mm.
func knot(rings, sides int) *mesh.Mesh {
	m := &mesh.Mesh{}
	curve := func(t float64) mesh.Vec {
		return mesh.Vec{8 * (math.Sin(t) + 2*math.Sin(2*t)), 8 * (math.Cos(t) - 2*math.Cos(2*t)), -10 * math.Sin(3*t)}
	}
	for i := range rings {
		t := 2 * math.Pi * float64(i) / float64(rings)
		at := curve(t)
		along := curve(t + 1e-4).Sub(at).Unit()
		u := along.Cross(mesh.Vec{0, 0, 1}).Unit()
		v := along.Cross(u)
		for j := range sides {
			a := 2 * math.Pi * float64(j) / float64(sides)
			r := 4 + 0.5*math.Sin(40*t)
			m.Vertices = append(m.Vertices, at.Add(u.Mul(r*math.Cos(a))).Add(v.Mul(r*math.Sin(a))))
			p, q := int32(i*sides+j), int32(i*sides+(j+1)%sides)
			s, w := int32((i+1)%rings*sides+j), int32((i+1)%rings*sides+(j+1)%sides)
			m.Facets = append(m.Facets, mesh.Facet{p, q, w}, mesh.Facet{p, w, s})
		}
	}
	return m
}
