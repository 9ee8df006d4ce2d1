package render

import (
	"math"

	"inshape/mesh"
)

// buffer is a z-buffer: of every sample the depth and the facet that is nearest.
type buffer struct {
	w, h  int
	z     []float32 // larger is nearer; -Inf where nothing is
	facet []int32   // -1 where nothing is
}

func newBuffer(w, h int) buffer {
	b := buffer{w: w, h: h, z: make([]float32, w*h), facet: make([]int32, w*h)}
	for i := range b.z {
		b.z[i], b.facet[i] = float32(math.Inf(-1)), -1
	}
	return b
}

// draw puts facets between points in: all of them for any part. Of a mesh that
// covers the buffer more than 100 times, made to keep a server busy, it draws
// every so many.
func (b *buffer) draw(facets []mesh.Facet, points []vec) {
	const layers = 100
	var area float64
	for _, t := range facets {
		p, q, r := points[t[0]], points[t[1]], points[t[2]]
		area += math.Abs(float64((q[0]-p[0])*(r[1]-p[1])-(r[0]-p[0])*(q[1]-p[1]))) / 2
	}
	stride := 1 + int(area/float64(layers*b.w*b.h))
	for f := 0; f < len(facets); f += stride {
		t := facets[f]
		b.fill(int32(f), points[t[0]], points[t[1]], points[t[2]])
	}
}

// fill puts a facet's samples in. A sample belongs to it if its middle does. A
// row's samples are an interval that the three edges bound, so a long thin facet
// costs its rows and not its box.
func (b *buffer) fill(facet int32, p, q, r vec) {
	top, bottom := min(p[1], q[1], r[1]), max(p[1], q[1], r[1])
	if !(bottom >= 0.5 && top < float32(b.h)) { // NaN, too
		return
	}
	area := float64(q[0]-p[0])*float64(r[1]-p[1]) - float64(r[0]-p[0])*float64(q[1]-p[1])
	if math.Abs(area) < 1e-9 {
		return // on edge: its neighbours are seen
	}
	// Depth is linear in x and y; on a steep facet rounding could leave it.
	near, far := max(p[2], q[2], r[2]), min(p[2], q[2], r[2])
	dzdx := (float64(q[2]-p[2])*float64(r[1]-p[1]) - float64(r[2]-p[2])*float64(q[1]-p[1])) / area
	dzdy := (float64(r[2]-p[2])*float64(q[0]-p[0]) - float64(q[2]-p[2])*float64(r[0]-p[0])) / area

	// Every edge that is not level bounds the rows' intervals on one side, at
	// slope·y + shift; one or two do so on each. An edge gives the same numbers in
	// both of its facets, bit by bit, so that there is no crack between them.
	type bound struct{ slope, shift float64 }
	left, right := bound{0, float64(min(p[0], q[0], r[0]))}, bound{0, float64(max(p[0], q[0], r[0]))}
	lefts, rights := [2]bound{left, left}, [2]bound{right, right}
	nl, nr := 0, 0
	for _, e := range [3][2]vec{{p, q}, {q, r}, {r, p}} {
		x0, y0, x1, y1 := float64(e[0][0]), float64(e[0][1]), float64(e[1][0]), float64(e[1][1])
		switch line := (bound{(x1 - x0) / (y1 - y0), (float64(x0*y1) - float64(x1*y0)) / (y1 - y0)}); {
		case y0 == y1:
		case (y0 > y1) == (area > 0):
			lefts[nl] = line
			nl++
		default:
			rights[nr] = line
			nr++
		}
	}
	last := min(int(math.Floor(float64(bottom)-0.5)), b.h-1)
	for row := max(int(math.Ceil(float64(top)-0.5)), 0); row <= last; row++ {
		y := float64(row) + 0.5
		lo := max(lefts[0].slope*y+lefts[0].shift, lefts[1].slope*y+lefts[1].shift)
		hi := min(rights[0].slope*y+rights[0].shift, rights[1].slope*y+rights[1].shift)
		from, to := max(int(math.Ceil(lo-0.5)), 0), min(int(math.Floor(hi-0.5)), b.w-1)
		if from > to {
			continue
		}
		z := float64(p[2]) + dzdx*(float64(from)+0.5-float64(p[0])) + dzdy*(y-float64(p[1]))
		at := row*b.w + from
		for range to - from + 1 {
			if d := min(max(float32(z), far), near); d > b.z[at] {
				b.z[at], b.facet[at] = d, facet
			}
			z += dzdx
			at++
		}
	}
}
