package render

import "math"

// The spiral that looks around a pixel: 16 points, turned by one of 16 angles in
// every 4×4 block of pixels, which a 4×4 mean evens out.
const (
	looks = 16
	turns = 16
)

var spiral = func() (s [turns][looks][2]float32) {
	for t := range s {
		for i := range s[t] {
			r := math.Pow((float64(i)+0.5)/looks, 1.4)
			a := 2*math.Pi*(float64(t)/turns) + 2.399963*float64(i) // the golden angle
			s[t][i] = [2]float32{float32(r * math.Cos(a)), float32(r * math.Sin(a))}
		}
	}
	return s
}()

// occlude finds how open every pixel is to what is around it.
func (s *scene) occlude() {
	p, b := s.p, &s.samples
	w, h, n := p.Width, p.Height, p.Samples
	raw := make([]float32, w*h)
	s.open = make([]float32, w*h)
	radius := 0.075 * float32(min(w, h)) // pixels
	// In pixels: depth of the sample in the middle of each.
	depth := make([]float32, w*h)
	for y := range h {
		for x := range w {
			depth[y*w+x] = b.z[(y*n+n/2)*b.w+x*n+n/2] / float32(n)
		}
	}
	for y := range h {
		for x := range w {
			at := y*w + x
			raw[at] = 1
			facet := b.facet[(y*n+n/2)*b.w+x*n+n/2]
			if facet < 0 {
				continue
			}
			normal, _ := s.normal(facet, float32(x*n+n/2)+0.5, float32(y*n+n/2)+0.5)
			var sum float32
			for _, o := range spiral[(y%4)*4+(x+2*y)%4] {
				dx, dy := o[0]*radius, o[1]*radius
				i, j := x+int(math.Round(float64(dx))), y+int(math.Round(float64(dy)))
				if i < 0 || j < 0 || i >= w || j >= h {
					continue
				}
				dz := depth[j*w+i] - depth[at]
				if dz < -radius {
					continue // beside the part, or far below
				}
				d := vec{dx, -dy, dz}
				far := d.dot(d)
				if far > 4*radius*radius {
					continue // something in front that doesn't touch
				}
				// The cosine to what rises there, fading with distance.
				c := d.dot(normal)/float32(math.Sqrt(float64(far)+0.25)) - 0.12
				sum += max(c, 0) * (1 - far/(4*radius*radius))
			}
			raw[at] = max(1-1.9*sum/looks, 0)
		}
	}
	// The 4×4 mean, over what is at about the same depth.
	for y := range h {
		for x := range w {
			at := y*w + x
			if math.IsInf(float64(depth[at]), -1) {
				continue
			}
			var sum, weight float32
			for j := max(y-2, 0); j < min(y+2, h); j++ {
				for i := max(x-2, 0); i < min(x+2, w); i++ {
					if d := depth[j*w+i] - depth[at]; d < 6 && d > -6 {
						sum, weight = sum+raw[j*w+i], weight+1
					}
				}
			}
			s.open[at] = sum / weight
		}
	}
}
