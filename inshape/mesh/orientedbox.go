package mesh

import (
	"cmp"
	"math"
	"slices"
)

// OrientedBox is a box in any direction.
type OrientedBox struct {
	Centre Vec
	Axes   [3]Vec // orthonormal
	Size   Vec    // full lengths along the axes, mm
}

// Volume is the box's volume, mm³.
func (b OrientedBox) Volume() float64 { return b.Size[0] * b.Size[1] * b.Size[2] }

// OrientedBounds is a small box around all vertices: for each of up to 19
// directions (the axes and the normals that carry the most area) the smallest
// rectangle around the projection, which has a side on an edge of its convex
// hull (Freeman and Shapira, Determining the minimum-area encasing rectangle,
// CACM 18(7), 1975). It is the smallest box of those with a face in one of the
// directions, so exact for parts that have a flat face on their smallest box.
// O(n log n).
func OrientedBounds(m *Mesh) OrientedBox {
	if len(m.Vertices) == 0 {
		return OrientedBox{Axes: [3]Vec(Identity().Linear)}
	}
	best, least := OrientedBox{}, math.Inf(1)
	for _, up := range boxDirections(m) {
		box := boxAlong(m.Vertices, up)
		// A flat mesh has volume 0 in several directions: the area decides.
		s := box.Size
		if size := box.Volume() + 1e-9*(s[0]*s[1]+s[1]*s[2]+s[2]*s[0]); size < least {
			best, least = box, size
		}
	}
	return best
}

func boxDirections(m *Mesh) []Vec {
	type cell [3]int8
	area := map[cell]Vec{}
	for f := range m.Facets {
		a, b, c := m.Corners(f)
		n := b.Sub(a).Cross(c.Sub(a))
		u := n.Unit()
		// A normal and its opposite are one direction.
		if u[0] < -1e-9 || (math.Abs(u[0]) <= 1e-9 && (u[1] < -1e-9 || (math.Abs(u[1]) <= 1e-9 && u[2] < 0))) {
			u, n = u.Mul(-1), n.Mul(-1)
		}
		key := cell{int8(math.Round(u[0] * 40)), int8(math.Round(u[1] * 40)), int8(math.Round(u[2] * 40))}
		area[key] = area[key].Add(n)
	}
	found := make([]Vec, 0, len(area))
	for _, n := range area {
		if n.Len() > 0 {
			found = append(found, n)
		}
	}
	slices.SortFunc(found, func(a, b Vec) int {
		return cmp.Or(cmp.Compare(b.Dot(b), a.Dot(a)), slices.Compare(a[:], b[:]))
	})
	directions := []Vec{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
	for _, n := range found[:min(16, len(found))] {
		directions = append(directions, n.Unit())
	}
	return directions
}

// boxAlong is the smallest box with a face across up.
func boxAlong(vertices []Vec, up Vec) OrientedBox {
	side := Vec{1, 0, 0}
	if math.Abs(up[0]) > 0.6 {
		side = Vec{0, 1, 0}
	}
	x := side.Sub(up.Mul(side.Dot(up))).Unit()
	y := up.Cross(x)
	flat := make([][2]float64, len(vertices))
	low, high := math.Inf(1), math.Inf(-1)
	for i, v := range vertices {
		flat[i] = [2]float64{v.Dot(x), v.Dot(y)}
		h := v.Dot(up)
		low, high = min(low, h), max(high, h)
	}
	hull := convexHull(flat)
	best, least := OrientedBox{}, math.Inf(1)
	for i := range hull {
		a, b := hull[i], hull[(i+1)%len(hull)]
		dx, dy := b[0]-a[0], b[1]-a[1]
		l := math.Hypot(dx, dy)
		if l == 0 {
			dx, dy, l = 1, 0, 1
		}
		dx, dy = dx/l, dy/l
		u0, u1, v0, v1 := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
		for _, p := range hull {
			u, v := p[0]*dx+p[1]*dy, p[1]*dx-p[0]*dy
			u0, u1, v0, v1 = min(u0, u), max(u1, u), min(v0, v), max(v1, v)
		}
		if area := (u1 - u0) * (v1 - v0); area < least {
			least = area
			u, v := x.Mul(dx).Add(y.Mul(dy)), y.Mul(dx).Sub(x.Mul(dy))
			best = OrientedBox{
				Centre: u.Mul((u0 + u1) / 2).Add(v.Mul((v0 + v1) / 2)).Add(up.Mul((low + high) / 2)),
				Axes:   [3]Vec{u, v, up},
				Size:   Vec{u1 - u0, v1 - v0, high - low},
			}
		}
	}
	return best
}

// convexHull is Andrew's monotone chain (1979), after dropping the points
// inside the octagon of the extreme ones (Akl and Toussaint, 1978). It turns
// points around.
func convexHull(points [][2]float64) [][2]float64 {
	points = outsideOctagon(points)
	slices.SortFunc(points, func(a, b [2]float64) int { return slices.Compare(a[:], b[:]) })
	points = slices.Compact(points)
	if len(points) < 3 {
		return points
	}
	cross := func(o, a, b [2]float64) float64 {
		return (a[0]-o[0])*(b[1]-o[1]) - (a[1]-o[1])*(b[0]-o[0])
	}
	var hull [][2]float64
	for pass := range 2 {
		base := len(hull)
		for i := range points {
			p := points[i]
			if pass == 1 {
				p = points[len(points)-1-i]
			}
			for len(hull) >= base+2 && cross(hull[len(hull)-2], hull[len(hull)-1], p) <= 0 {
				hull = hull[:len(hull)-1]
			}
			hull = append(hull, p)
		}
		hull = hull[:len(hull)-1]
	}
	return hull
}

func outsideOctagon(points [][2]float64) [][2]float64 {
	if len(points) < 64 {
		return points
	}
	var octagon [8][2]float64
	for k := range octagon {
		s, c := math.Sincos(float64(k) * math.Pi / 4)
		best := math.Inf(-1)
		for _, p := range points {
			if d := p[0]*c + p[1]*s; d > best {
				best, octagon[k] = d, p
			}
		}
	}
	kept := points[:0]
	for _, p := range points {
		for k, a := range octagon {
			b := octagon[(k+1)%8]
			if a != b && (b[0]-a[0])*(p[1]-a[1])-(b[1]-a[1])*(p[0]-a[0]) <= 0 {
				kept = append(kept, p)
				break
			}
		}
	}
	return kept
}
