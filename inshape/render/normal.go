package render

import (
	"math"

	"inshape/mesh"
)

// crease is the cosine of the angle between facets from which their edge is sharp.
var crease = float32(math.Cos(35 * math.Pi / 180))

// normals are the normals of facets and, smoothed, of their corners.
type normals struct {
	m      *mesh.Mesh
	flat   []vec     // of the facets, y up
	area   []float32 // of the facets
	start  []int32   // the facets around vertex v are around[start[v]:start[v+1]]
	around []int32
	corner [][3]vec // of the facets that were asked for
	at     []int32  // where in corner a facet's are; -1: not yet
}

func newNormals(m *mesh.Mesh, c *camera) *normals {
	n := &normals{
		m: m, flat: make([]vec, len(m.Facets)), area: make([]float32, len(m.Facets)), at: make([]int32, len(m.Facets)),
		start: make([]int32, len(m.Vertices)+1), around: make([]int32, 3*len(m.Facets)),
	}
	for f, t := range m.Facets {
		p, q, r := m.Corners(f)
		double := q.Sub(p).Cross(r.Sub(p))
		n.flat[f], n.area[f], n.at[f] = c.direction(double.Unit()), float32(double.Len()), -1
		for _, v := range t {
			n.start[v+1]++
		}
	}
	for v := range m.Vertices {
		n.start[v+1] += n.start[v]
	}
	next := append([]int32(nil), n.start...)
	for f, t := range m.Facets {
		for _, v := range t {
			n.around[next[v]] = int32(f)
			next[v]++
		}
	}
	return n
}

// maxAround bounds the facets that are looked at around one vertex, evenly
// chosen: the tip of a fine cone has all of them, which would be quadratic.
const maxAround = 64

// corners gives the normals at the corners of a facet: there, the mean of the
// facets around that are no crease away from it, weighted by area.
func (n *normals) corners(facet int32) *[3]vec {
	if n.at[facet] >= 0 {
		return &n.corner[n.at[facet]]
	}
	own := n.flat[facet]
	var c [3]vec
	for k, v := range n.m.Facets[facet] {
		var sum vec
		around := n.around[n.start[v]:n.start[v+1]]
		for i := 0; i < len(around); i += 1 + len(around)/maxAround {
			g := around[i]
			if o := n.flat[g]; o.dot(own) > crease {
				w := n.area[g]
				sum = vec{sum[0] + w*o[0], sum[1] + w*o[1], sum[2] + w*o[2]}
			}
		}
		if c[k] = sum.unit(); c[k] == (vec{}) {
			c[k] = own
		}
	}
	n.at[facet] = int32(len(n.corner))
	n.corner = append(n.corner, c)
	return &n.corner[n.at[facet]]
}
