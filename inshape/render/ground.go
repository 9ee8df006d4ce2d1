package render

import "math"

// ground finds the soft shadow that the part throws on the plate below it, where
// the plate is seen. It is a map of the plate, dark where the part is near above,
// blurred, and looked up where each pixel's ray meets the plate.
func (s *scene) ground() {
	p, c := s.p, &s.camera
	slope := c.toward[2]
	if p.Flat || slope < 0.2 || slope > 0.99 || len(s.m.Facets) == 0 {
		return
	}
	const side = 192 // cells; the part takes the middle half
	box := s.m.Bounds()
	size := box.Size()
	cell := 2 * max(size[0], size[1], size[2]/2) / side
	low := box.Min[2]

	from := newBuffer(side, side) // seen from below: nearer is lower
	place := make([]vec, len(s.m.Vertices))
	for i, v := range s.m.Vertices {
		place[i] = vec{
			float32((v[0]-c.centre[0])/cell + side/2), float32((v[1]-c.centre[1])/cell + side/2), float32((low - v[2]) / cell),
		}
	}
	from.draw(s.m.Facets, place)
	dark := make([]float32, side*side)
	for i, z := range from.z {
		dark[i] = float32(math.Exp(float64(z) / (side / 10))) // 0 where nothing is
	}
	for range 3 { // three means in a row are close to a Gaussian
		dark = blur(dark, side, side/40)
	}

	// The cell of the plate that a pixel shows is an affine function of the pixel:
	// from the screen's plane through the centre along the ray down to the plate.
	cellOf := func(x, y float64) (u, v float64) {
		n := float64(p.Samples)
		at := c.centre.Add(c.right.Mul((x*n - c.shift[0]) / c.scale)).Add(c.up.Mul((c.shift[1] - y*n) / c.scale))
		at = at.Sub(c.toward.Mul((at[2] - low) / slope))
		return (at[0]-c.centre[0])/cell + side/2 - 0.5, (at[1]-c.centre[1])/cell + side/2 - 0.5
	}
	u0, v0 := cellOf(0.5, 0.5)
	ux, vx := cellOf(1.5, 0.5)
	uy, vy := cellOf(0.5, 1.5)
	s.shadow = make([]float32, p.Width*p.Height)
	for y := range p.Height {
		u, v := u0+float64(y)*(uy-u0), v0+float64(y)*(vy-v0)
		for x := range p.Width {
			s.shadow[y*p.Width+x] = lookUp(dark, side, u+float64(x)*(ux-u0), v+float64(x)*(vx-v0))
		}
	}
}

// lookUp interpolates between the cells around u, v; 0 outside.
func lookUp(cells []float32, side int, u, v float64) float32 {
	if u < 0 || v < 0 || u >= float64(side-1) || v >= float64(side-1) {
		return 0
	}
	i, j := int(u), int(v)
	fu, fv := float32(u-float64(i)), float32(v-float64(j))
	row := cells[j*side+i:]
	a, b := row[0]*(1-fu)+row[1]*fu, row[side]*(1-fu)+row[side+1]*fu
	return a*(1-fv) + b*fv
}

// blur is the mean over squares of 2·reach+1 cells, by rows and then by columns.
func blur(in []float32, side, reach int) []float32 {
	for range 2 {
		out := make([]float32, len(in))
		for y := range side {
			var sum float32
			for x := -reach; x < side; x++ {
				if x+reach < side {
					sum += in[y*side+x+reach]
				}
				if x-reach-1 >= 0 {
					sum -= in[y*side+x-reach-1]
				}
				if x >= 0 {
					out[x*side+y] = sum / float32(2*reach+1) // transposed
				}
			}
		}
		in = out
	}
	return in
}
