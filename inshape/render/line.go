package render

import (
	"image"
	"math"
)

// mark draws the picture's lines over it, 2 pixels wide in a magenta that no
// scale and no material has; what the part hides shines through faintly.
func (s *scene) mark(img *image.NRGBA) {
	n := float32(s.p.Samples)
	for _, l := range s.p.Lines {
		p, q := s.camera.project(l[0]), s.camera.project(l[1])
		for k := range p {
			p[k], q[k] = p[k]/n, q[k]/n
		}
		s.stroke(img, p, q)
	}
}

// stroke draws one line between points in pixels. It goes along the line's longer
// direction and looks at the few pixels across.
func (s *scene) stroke(img *image.NRGBA, p, q vec) {
	const reach = 1.8 // pixels from the middle to where it is gone
	long, across := 0, 1
	if math.Abs(float64(q[1]-p[1])) > math.Abs(float64(q[0]-p[0])) {
		long, across = 1, 0
	}
	if p[long] > q[long] {
		p, q = q, p
	}
	size := [2]int{img.Rect.Dx(), img.Rect.Dy()}
	d := [2]float32{q[0] - p[0], q[1] - p[1]}
	length := d[0]*d[0] + d[1]*d[1]
	for i := clamp(p[long]-reach, size[long]); i < clamp(q[long]+reach, size[long]); i++ {
		middle := p[across]
		if d[long] > 0 {
			middle += min(max((float32(i)+0.5-p[long])/d[long], 0), 1) * d[across]
		}
		// At 45° the line is √2 wider across than it is thick.
		for j := clamp(middle-1.5*reach, size[across]); j < clamp(middle+1.5*reach+1, size[across]); j++ {
			var at [2]int
			at[long], at[across] = i, j
			ox, oy := float32(at[0])+0.5-p[0], float32(at[1])+0.5-p[1]
			var along float32
			if length > 0 {
				along = min(max((ox*d[0]+oy*d[1])/length, 0), 1)
			}
			ox, oy = ox-along*d[0], oy-along*d[1]
			opacity := min(max(reach-float32(math.Sqrt(float64(ox*ox+oy*oy))), 0), 1)
			if opacity == 0 {
				continue
			}
			n := s.p.Samples
			front := s.samples.z[(at[1]*n+n/2)*s.samples.w+at[0]*n+n/2] / float32(n)
			if front > p[2]+along*(q[2]-p[2])+3 {
				opacity *= 0.3
			}
			over(img, at[0], at[1], [3]uint8{0xe6, 0x00, 0x7e}, opacity)
		}
	}
}

// clamp is the pixel of a position, within 0 and n.
func clamp(x float32, n int) int { return int(min(max(x, 0), float32(n))) }

// over puts a colour on a pixel.
func over(img *image.NRGBA, x, y int, c [3]uint8, opacity float32) {
	i := img.PixOffset(x, y)
	under := float32(img.Pix[i+3]) / 255
	total := opacity + under*(1-opacity)
	if total == 0 {
		return
	}
	for k := range c {
		was := linear[img.Pix[i+k]] * under * (1 - opacity)
		img.Pix[i+k] = encode((linear[c[k]]*opacity + was) / total)
	}
	img.Pix[i+3] = uint8(total*255 + 0.5)
}
