package render

import "math"

// Each pixel looks at 10 points on a spiral around it, turned by one of 16
// angles in every 4×4 block of pixels, which a 4×4 mean evens out.
const (
	looks = 10
	turns = 16
)

// look is one point of the spiral, in whole pixels.
type look struct {
	x, y   int
	dx, dy float32 // the same, y up
	flat   float32 // squared distance
}

// spirals turns the spiral of a radius in pixels.
func spirals(radius float64) (s [turns][looks]look) {
	for t := range s {
		for i := range s[t] {
			r := radius * math.Pow((float64(i)+0.5)/looks, 1.4)
			a := 2*math.Pi*float64(t)/turns + 2.399963*float64(i) // the golden angle
			x, y := math.Round(r*math.Cos(a)), math.Round(r*math.Sin(a))
			s[t][i] = look{int(x), int(y), float32(x), float32(-y), float32(x*x + y*y)}
		}
	}
	return s
}

// occlude finds how open every pixel is to what is around it.
func (s *scene) occlude() {
	p, b := s.p, &s.samples
	w, h, n := p.Width, p.Height, p.Samples
	radius := 0.075 * float32(min(w, h))
	around := spirals(float64(radius))
	// All in pixels from here on; a pixel has the depth of the sample in its middle.
	depth, raw := make([]float32, w*h), make([]float32, w*h)
	for y := range h {
		for x := range w {
			depth[y*w+x] = b.z[(y*n+n/2)*b.w+x*n+n/2] / float32(n)
		}
	}
	fade := 1 / (4 * radius * radius)
	for y := range h {
		for x := range w {
			at := y*w + x
			facet := b.facet[(y*n+n/2)*b.w+x*n+n/2]
			if facet < 0 {
				continue
			}
			normal, _ := s.normal(facet, float32(x*n+n/2)+0.5, float32(y*n+n/2)+0.5)
			var sum float32
			for _, o := range &around[y&3<<2|(x+2*y)&3] {
				i, j := x+o.x, y+o.y
				if uint(i) >= uint(w) || uint(j) >= uint(h) {
					continue
				}
				d := vec{o.dx, o.dy, depth[j*w+i] - depth[at]}
				if d[2] < -radius || o.flat == 0 {
					continue // beside the part, or far below
				}
				rise := d.dot(normal)
				if rise <= 0 {
					continue
				}
				// The cosine to what rises there, fading with distance: something
				// far in front does not touch.
				far := o.flat + d[2]*d[2]
				sum += max(rise/float32(math.Sqrt(float64(far)))-0.12, 0) * max(1-far*fade, 0)
			}
			raw[at] = max(1-1.9*sum/looks, 0)
		}
	}
	// The 4×4 mean, over what is at about the same depth.
	s.open = make([]float32, w*h)
	for y := range h {
		for x := range w {
			at := y*w + x
			own := depth[at]
			if own < -math.MaxFloat32 {
				// Its middle is beside the part; what it shows of it is an outline.
				s.open[at] = 1
				continue
			}
			var sum, weight float32
			for j := max(y-2, 0); j < min(y+2, h); j++ {
				for i := max(x-2, 0); i < min(x+2, w); i++ {
					if d := depth[j*w+i] - own; d < 6 && d > -6 {
						sum, weight = sum+raw[j*w+i], weight+1
					}
				}
			}
			s.open[at] = sum / weight
		}
	}
}
