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

// stroke draws one line between points in pixels.
func (s *scene) stroke(img *image.NRGBA, p, q vec) {
	const reach = 1.8 // pixels from the middle to where it is gone
	w, h := img.Rect.Dx(), img.Rect.Dy()
	dx, dy := q[0]-p[0], q[1]-p[1]
	length := dx*dx + dy*dy
	x0, x1 := span(p[0], q[0], reach, w)
	y0, y1 := span(p[1], q[1], reach, h)
	for y := y0; y <= y1; y++ {
		for x := x0; x <= x1; x++ {
			px, py := float32(x)+0.5-p[0], float32(y)+0.5-p[1]
			var along float32
			if length > 0 {
				along = min(max((px*dx+py*dy)/length, 0), 1)
			}
			ox, oy := px-along*dx, py-along*dy
			opacity := min(max(reach-float32(math.Sqrt(float64(ox*ox+oy*oy))), 0), 1)
			if opacity == 0 {
				continue
			}
			n := s.p.Samples
			at := (y*n+n/2)*s.samples.w + x*n + n/2
			if z := p[2] + along*(q[2]-p[2]); s.samples.z[at]/float32(n) > z+3 {
				opacity *= 0.3
			}
			over(img, x, y, [3]uint8{0xe6, 0x00, 0x7e}, opacity)
		}
	}
}

// span gives the pixels from a to b, reach more on both sides, within n.
func span(a, b, reach float32, n int) (from, to int) {
	lo, hi := min(a, b)-reach, max(a, b)+reach
	return int(min(max(lo, 0), float32(n))), int(min(max(hi, -1), float32(n-1)))
}

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
