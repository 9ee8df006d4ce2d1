package mesh

import (
	"math"
	"runtime"
	"sync/atomic"
)

// Thickness is the wall thickness at the middle of every facet, mm, +Inf where
// nothing is opposite.
//
// It is the diameter of the largest sphere inside the solid that touches the
// surface there, found by shrinking a large one (Ma, Bae and Choi, 3D medial
// axis point approximation using nearest neighbors and the normal field, The
// Visual Computer 28, 2012). Only facets that look away from the touching point
// by more than 100° can stop the sphere: walls that stand on each other, as at
// the edge of a box, are corners and not thin. The mesh must be a solid.
// O(n log n) for usual meshes, on all CPUs, and O(n²) for a ball, where every
// facet is as near to the middle as every other.
func (b *BVH) Thickness() []float64 {
	m := b.mesh
	normals := make([]Vec, len(m.Facets))
	for f := range m.Facets {
		normals[f] = m.Normal(f)
	}
	largest := m.Bounds().Size().Len()
	thickness := make([]float64, len(m.Facets))
	const block = 256
	var next atomic.Int64
	parallel(runtime.GOMAXPROCS(0), func(int) {
		for {
			from := int(next.Add(block)) - block
			if from >= len(m.Facets) {
				return
			}
			for f := from; f < min(from+block, len(m.Facets)); f++ {
				p, q, r := m.Corners(f)
				middle := p.Add(q).Add(r).Mul(1. / 3)
				thickness[f] = 2 * b.ball(middle, normals[f], largest, normals)
			}
		}
	})
	return thickness
}

// ball is the radius of the largest sphere that touches p from inside, at most
// limit. A point q on it satisfies |q-p|² = 2r (p-q)·n, which gives the radius of
// the sphere through q.
func (b *BVH) ball(p, normal Vec, limit float64, normals []Vec) float64 {
	if normal == (Vec{}) {
		return math.Inf(1)
	}
	opposed := math.Cos(100 * math.Pi / 180)
	radius, found := limit, false
	for range 64 {
		centre := p.Sub(normal.Mul(radius))
		q, facet, _ := b.Nearest(centre, radius*(1-1e-9), func(f int32) bool { return normals[f].Dot(normal) < opposed })
		if facet < 0 {
			break
		}
		found = true
		d := p.Sub(q)
		depth := d.Dot(normal)
		if depth <= 0 {
			break
		}
		smaller := d.Dot(d) / (2 * depth)
		if !(smaller < radius) {
			break
		}
		done := radius-smaller < 1e-7*radius
		radius = smaller
		if done {
			break
		}
	}
	if !found {
		return math.Inf(1)
	}
	return radius
}
