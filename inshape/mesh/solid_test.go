package mesh_test

import (
	"bytes"
	"fmt"
	"math"

	"inshape/mesh"
)

// The analytic solids: closed meshes whose volume and area are known exactly
// as polyhedra.

func cuboid(x, y, z float64) *mesh.Mesh {
	m := &mesh.Mesh{}
	for i := range 8 {
		m.Vertices = append(m.Vertices, mesh.Vec{x * float64(i&1), y * float64(i>>1&1), z * float64(i>>2)})
	}
	m.Facets = []mesh.Facet{
		{0, 2, 1},
		{1, 2, 3},
		{4, 5, 6},
		{5, 7, 6},
		{0, 1, 4},
		{1, 5, 4},
		{2, 6, 3},
		{3, 6, 7},
		{0, 4, 2},
		{2, 4, 6},
		{1, 3, 5},
		{3, 7, 5},
	}
	return m
}

// prism is a regular n-gon of circumradius r, height h, with a hole of
// circumradius hole (0: none).
func prism(n int, r, hole, h float64) *mesh.Mesh {
	m := &mesh.Mesh{}
	ring := func(r, z float64) {
		for i := range n {
			s, c := math.Sincos(2 * math.Pi * float64(i) / float64(n))
			m.Vertices = append(m.Vertices, mesh.Vec{r * c, r * s, z})
		}
	}
	ring(r, 0)
	ring(r, h)
	if hole > 0 {
		ring(hole, 0)
		ring(hole, h)
	} else {
		m.Vertices = append(m.Vertices, mesh.Vec{0, 0, 0}, mesh.Vec{0, 0, h})
	}
	N := int32(n)
	quad := func(a, b, c, d int32) { m.Facets = append(m.Facets, mesh.Facet{a, b, c}, mesh.Facet{a, c, d}) }
	for i := range N {
		j := (i + 1) % N
		quad(i, j, N+j, N+i)
		if hole > 0 {
			quad(2*N+j, 2*N+i, 3*N+i, 3*N+j)
			quad(N+i, N+j, 3*N+j, 3*N+i)
			quad(j, i, 2*N+i, 2*N+j)
		} else {
			m.Facets = append(m.Facets, mesh.Facet{j, i, 2 * N}, mesh.Facet{N + i, N + j, 2*N + 1})
		}
	}
	return m
}

// sphere is an octahedron refined depth times, 8·4^depth facets.
func sphere(r float64, depth int) *mesh.Mesh {
	m := &mesh.Mesh{
		Vertices: []mesh.Vec{{r, 0, 0}, {-r, 0, 0}, {0, r, 0}, {0, -r, 0}, {0, 0, r}, {0, 0, -r}},
		Facets:   []mesh.Facet{{0, 2, 4}, {2, 1, 4}, {1, 3, 4}, {3, 0, 4}, {2, 0, 5}, {1, 2, 5}, {3, 1, 5}, {0, 3, 5}},
	}
	for range depth {
		m = refined(m)
		for i, v := range m.Vertices {
			m.Vertices[i] = v.Unit().Mul(r)
		}
	}
	return m
}

// refined splits every facet in four; the surface stays where it is.
func refined(m *mesh.Mesh) *mesh.Mesh {
	r := &mesh.Mesh{Vertices: append([]mesh.Vec(nil), m.Vertices...)}
	middle := map[[2]int32]int32{}
	mid := func(a, b int32) int32 {
		key := [2]int32{min(a, b), max(a, b)}
		if i, ok := middle[key]; ok {
			return i
		}
		i := int32(len(r.Vertices))
		r.Vertices = append(r.Vertices, m.Vertices[a].Add(m.Vertices[b]).Mul(0.5))
		middle[key] = i
		return i
	}
	for _, f := range m.Facets {
		a, b, c := mid(f[0], f[1]), mid(f[1], f[2]), mid(f[2], f[0])
		r.Facets = append(r.Facets, mesh.Facet{f[0], a, c}, mesh.Facet{a, f[1], b}, mesh.Facet{c, b, f[2]}, mesh.Facet{a, b, c})
	}
	return r
}

// turned is an arbitrary rigid motion, the same for the same seed.
func turned(m *mesh.Mesh, seed float64) *mesh.Mesh {
	t := mesh.Rotation(mesh.Vec{1, seed, 0.3 - seed}, 1.1+2*seed)
	t.Shift = mesh.Vec{17 * seed, -31, 5 + seed}
	return m.Transformed(t)
}

func near(got, want, tolerance float64) bool {
	return math.Abs(got-want) <= tolerance*math.Max(1, math.Abs(want))
}

// The text formats, written as many programs do.

func asciiSTL(m *mesh.Mesh) []byte {
	var b bytes.Buffer
	b.WriteString("solid s\n")
	for f := range m.Facets {
		p, q, r := m.Corners(f)
		n := m.Normal(f)
		fmt.Fprintf(&b, "  facet normal %e %e %e\n    outer loop\n", n[0], n[1], n[2])
		for _, v := range []mesh.Vec{p, q, r} {
			fmt.Fprintf(&b, "      vertex %e %e %e\n", v[0], v[1], v[2])
		}
		b.WriteString("    endloop\n  endfacet\n")
	}
	b.WriteString("endsolid s\n")
	return b.Bytes()
}

func obj(m *mesh.Mesh) []byte {
	var b bytes.Buffer
	for _, v := range m.Vertices {
		fmt.Fprintf(&b, "v %.6f %.6f %.6f\n", v[0], v[1], v[2])
	}
	for _, f := range m.Facets {
		fmt.Fprintf(&b, "f %d %d %d\n", f[0]+1, f[1]+1, f[2]+1)
	}
	return b.Bytes()
}

func amf(m *mesh.Mesh) []byte {
	var b bytes.Buffer
	b.WriteString("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<amf unit=\"millimeter\">\n <object id=\"0\">\n  <mesh>\n   <vertices>\n")
	for _, v := range m.Vertices {
		fmt.Fprintf(&b, "    <vertex><coordinates><x>%.6f</x><y>%.6f</y><z>%.6f</z></coordinates></vertex>\n", v[0], v[1], v[2])
	}
	b.WriteString("   </vertices>\n   <volume>\n")
	for _, f := range m.Facets {
		fmt.Fprintf(&b, "    <triangle><v1>%d</v1><v2>%d</v2><v3>%d</v3></triangle>\n", f[0], f[1], f[2])
	}
	b.WriteString("   </volume>\n  </mesh>\n </object>\n</amf>\n")
	return b.Bytes()
}
