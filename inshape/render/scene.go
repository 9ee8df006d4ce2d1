package render

import (
	"math"

	"inshape/mesh"
)

// axes are the directions of right and up in each view.
var axes = map[View][2]mesh.Vec{
	Isometric: {{math.Sqrt2 / 2, math.Sqrt2 / 2, 0}, {-1 / math.Sqrt(6), 1 / math.Sqrt(6), 2 / math.Sqrt(6)}},
	Front:     {{1, 0, 0}, {0, 0, 1}},
	Back:      {{-1, 0, 0}, {0, 0, 1}},
	Left:      {{0, -1, 0}, {0, 0, 1}},
	Right:     {{0, 1, 0}, {0, 0, 1}},
	Top:       {{1, 0, 0}, {0, 1, 0}},
	Bottom:    {{1, 0, 0}, {0, -1, 0}},
}

// vec is a direction or a point on the screen: x to the right, y up (a
// direction) or down (a point), z towards the viewer.
type vec [3]float32

func (v vec) dot(w vec) float32 { return v[0]*w[0] + v[1]*w[1] + v[2]*w[2] }

func (v vec) unit() vec {
	l := v.dot(v)
	if l == 0 {
		return v
	}
	l = 1 / float32(math.Sqrt(float64(l)))
	return vec{v[0] * l, v[1] * l, v[2] * l}
}

// camera maps a part to samples. Depths have the scale of the screen.
type camera struct {
	right, up, toward mesh.Vec
	scale             float64  // samples per mm
	centre            mesh.Vec // of the part; shown in the middle of the screen
	shift             [2]float64
}

// newCamera frames the box of m, seen as p wants it, in the middle.
func newCamera(p *Picture, m *mesh.Mesh) camera {
	a := axes[p.View]
	c := camera{right: a[0], up: a[1], toward: a[0].Cross(a[1]), scale: 1}
	box := m.Bounds()
	c.centre = box.Min.Add(box.Max).Mul(0.5)
	lo, hi := [2]float64{math.Inf(1), math.Inf(1)}, [2]float64{math.Inf(-1), math.Inf(-1)}
	for _, v := range m.Vertices {
		v = v.Sub(c.centre)
		for k, x := range [2]float64{v.Dot(c.right), v.Dot(c.up)} {
			lo[k], hi[k] = min(lo[k], x), max(hi[k], x)
		}
	}
	w, h := float64(p.Width*p.Samples), float64(p.Height*p.Samples)
	c.shift = [2]float64{w / 2, h / 2}
	if len(m.Vertices) == 0 {
		return c
	}
	const margin = 0.09
	wide, high := max(hi[0]-lo[0], 1e-9), max(hi[1]-lo[1], 1e-9)
	c.scale = min(w*(1-2*margin)/wide, h*(1-2*margin)/high)
	c.shift = [2]float64{w/2 - c.scale*(lo[0]+hi[0])/2, h/2 + c.scale*(lo[1]+hi[1])/2}
	return c
}

func (c *camera) project(v mesh.Vec) vec {
	v = v.Sub(c.centre)
	return vec{
		float32(c.shift[0] + c.scale*v.Dot(c.right)),
		float32(c.shift[1] - c.scale*v.Dot(c.up)),
		float32(c.scale * v.Dot(c.toward)),
	}
}

// direction turns a direction of the part into one of the screen, y up.
func (c *camera) direction(v mesh.Vec) vec {
	return vec{float32(v.Dot(c.right)), float32(v.Dot(c.up)), float32(v.Dot(c.toward))}
}

// scene is a picture in the making.
type scene struct {
	p       *Picture
	m       *mesh.Mesh
	camera  camera
	points  []vec // of the vertices, on the screen
	normals *normals
	samples buffer

	edge   []bool    // of every sample: on a crease or an outline
	open   []float32 // of every pixel: 1 where nothing encloses it, 0 in a deep hole
	shadow []float32 // of every pixel: how dark the ground is; nil for no ground
}

func newScene(p *Picture, m *mesh.Mesh) *scene {
	s := &scene{p: p, m: m, camera: newCamera(p, m), points: make([]vec, len(m.Vertices))}
	for i, v := range m.Vertices {
		s.points[i] = s.camera.project(v)
	}
	s.normals = newNormals(m, &s.camera)
	s.samples = newBuffer(p.Width*p.Samples, p.Height*p.Samples)
	s.samples.draw(m.Facets, s.points)
	return s
}

// normal gives the smoothed normal of a facet at the sample x, y (the middles are
// at .5), towards the viewer, and whether it is the inside that is seen.
func (s *scene) normal(facet int32, x, y float32) (n vec, inside bool) {
	t := s.m.Facets[facet]
	p, q, r := s.points[t[0]], s.points[t[1]], s.points[t[2]]
	c := s.normals.corners(facet)
	area := (q[0]-p[0])*(r[1]-p[1]) - (r[0]-p[0])*(q[1]-p[1])
	if area == 0 {
		return s.normals.flat[facet], false
	}
	area = 1 / area
	v := min(max(((x-p[0])*(r[1]-p[1])-(r[0]-p[0])*(y-p[1]))*area, 0), 1)
	w := min(max(((q[0]-p[0])*(y-p[1])-(x-p[0])*(q[1]-p[1]))*area, 0), 1-v)
	u := 1 - v - w
	for k := range n {
		n[k] = u*c[0][k] + v*c[1][k] + w*c[2][k]
	}
	n = n.unit()
	if s.normals.flat[facet][2] < 0 {
		return vec{-n[0], -n[1], -n[2]}, true
	}
	return n, false
}

// outline marks the samples on creases and at steps in depth.
func (s *scene) outline() {
	b := &s.samples
	s.edge = make([]bool, len(b.z))
	step := 0.02 * float32(min(b.w, b.h))
	for y := range b.h - 1 {
		for x := range b.w - 1 {
			at := y*b.w + x
			f := b.facet[at]
			for _, next := range [2]int{at + 1, at + b.w} {
				g := b.facet[next]
				if f == g {
					continue
				}
				d := b.z[at] - b.z[next] // ±Inf beside the part, NaN never: one of them is a facet
				switch {
				case d > step:
					s.edge[at] = true // the nearer one has the outline
				case d < -step:
					s.edge[next] = true
				case s.normals.flat[f].dot(s.normals.flat[g]) < 0.7:
					s.edge[at] = true
				}
			}
		}
	}
}
