package mesh

import "math"

// Vec is a point or a direction: x, y, z in millimetres.
type Vec [3]float64

// Add is v + w.
func (v Vec) Add(w Vec) Vec { return Vec{v[0] + w[0], v[1] + w[1], v[2] + w[2]} }

// Sub is v - w.
func (v Vec) Sub(w Vec) Vec { return Vec{v[0] - w[0], v[1] - w[1], v[2] - w[2]} }

// Mul is v scaled by s.
func (v Vec) Mul(s float64) Vec { return Vec{v[0] * s, v[1] * s, v[2] * s} }

// Dot is the scalar product.
func (v Vec) Dot(w Vec) float64 { return v[0]*w[0] + v[1]*w[1] + v[2]*w[2] }

// Cross is the vector product.
func (v Vec) Cross(w Vec) Vec {
	return Vec{v[1]*w[2] - v[2]*w[1], v[2]*w[0] - v[0]*w[2], v[0]*w[1] - v[1]*w[0]}
}

// Len is the Euclidean length.
func (v Vec) Len() float64 { return math.Sqrt(v.Dot(v)) }

// Unit is v at length 1, and the zero vector for a v without direction.
func (v Vec) Unit() Vec {
	l := v.Len()
	if l == 0 {
		return Vec{}
	}
	return v.Mul(1 / l)
}

func (v Vec) finite() bool {
	const far = 1e9 // mm: beyond it, squares and products lose all meaning for a part
	for _, x := range v {
		if !(x >= -far && x <= far) {
			return false
		}
	}
	return true
}

// Facet is three indices into Mesh.Vertices, counter-clockwise from outside.
type Facet [3]int32

// Mesh is an indexed triangle mesh. The zero value is the empty mesh.
type Mesh struct {
	Vertices []Vec
	Facets   []Facet
}

// Corners are the three points of facet f.
func (m *Mesh) Corners(f int) (a, b, c Vec) {
	t := m.Facets[f]
	return m.Vertices[t[0]], m.Vertices[t[1]], m.Vertices[t[2]]
}

// Normal is facet f's outward unit normal, zero for a facet without area.
func (m *Mesh) Normal(f int) Vec {
	a, b, c := m.Corners(f)
	return b.Sub(a).Cross(c.Sub(a)).Unit()
}

// Clone is a deep copy.
func (m *Mesh) Clone() *Mesh {
	return &Mesh{append([]Vec(nil), m.Vertices...), append([]Facet(nil), m.Facets...)}
}

// Append adds the facets of o, not welded to those of m.
func (m *Mesh) Append(o *Mesh) {
	base := int32(len(m.Vertices))
	m.Vertices = append(m.Vertices, o.Vertices...)
	for _, f := range o.Facets {
		m.Facets = append(m.Facets, Facet{f[0] + base, f[1] + base, f[2] + base})
	}
}

// Transform is an affine map: p ↦ Linear·p + Shift, Linear in rows.
type Transform struct {
	Linear [3]Vec
	Shift  Vec
}

// Identity maps every point to itself.
func Identity() Transform { return Transform{Linear: [3]Vec{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}} }

// Scaling multiplies all lengths by s.
func Scaling(s float64) Transform {
	return Transform{Linear: [3]Vec{{s, 0, 0}, {0, s, 0}, {0, 0, s}}}
}

// Rotation turns by angle radians about axis, by the right-hand rule
// (Rodrigues' formula).
func Rotation(axis Vec, angle float64) Transform {
	u := axis.Unit()
	s, c := math.Sincos(angle)
	k := 1 - c
	return Transform{Linear: [3]Vec{
		{c + u[0]*u[0]*k, u[0]*u[1]*k - u[2]*s, u[0]*u[2]*k + u[1]*s},
		{u[1]*u[0]*k + u[2]*s, c + u[1]*u[1]*k, u[1]*u[2]*k - u[0]*s},
		{u[2]*u[0]*k - u[1]*s, u[2]*u[1]*k + u[0]*s, c + u[2]*u[2]*k},
	}}
}

// Apply maps one point.
func (t Transform) Apply(p Vec) Vec {
	return Vec{t.Linear[0].Dot(p), t.Linear[1].Dot(p), t.Linear[2].Dot(p)}.Add(t.Shift)
}

// Then is the map that applies t and then u.
func (t Transform) Then(u Transform) Transform {
	var r Transform
	for i := range 3 {
		for j := range 3 {
			for k := range 3 {
				r.Linear[i][j] += u.Linear[i][k] * t.Linear[k][j]
			}
		}
	}
	r.Shift = u.Apply(t.Shift)
	return r
}

// Determinant is the factor on volumes; negative for a mirror.
func (t Transform) Determinant() float64 {
	return t.Linear[0].Dot(t.Linear[1].Cross(t.Linear[2]))
}

// Transformed is a mapped copy; a mirror turns the facets, so that the outside
// stays outside. O(n).
func (m *Mesh) Transformed(t Transform) *Mesh {
	r := m.Clone()
	for i, v := range r.Vertices {
		r.Vertices[i] = t.Apply(v)
	}
	if t.Determinant() < 0 {
		for i, f := range r.Facets {
			r.Facets[i] = Facet{f[0], f[2], f[1]}
		}
	}
	return r
}
