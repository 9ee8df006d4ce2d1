package render

import (
	"image"
	"image/color"
	"math"
)

// The lights, y up and z towards the viewer: they stand still, the part turns.
var (
	key  = vec{-0.42, 0.66, 0.62}.unit()
	fill = vec{0.80, 0.10, 0.45}.unit()
	half = vec{key[0], key[1], key[2] + 1}.unit() // between the key light and the viewer
)

// linear and gamma map sRGB bytes to light and back (IEC 61966-2-1).
var linear = func() (t [256]float32) {
	for i := range t {
		if c := float64(i) / 255; c <= 0.04045 {
			t[i] = float32(c / 12.92)
		} else {
			t[i] = float32(math.Pow((c+0.055)/1.055, 2.4))
		}
	}
	return t
}()

var gamma = func() (t [4097]uint8) {
	for i := range t {
		c := float64(i) / 4096
		if c <= 0.0031308 {
			c *= 12.92
		} else {
			c = 1.055*math.Pow(c, 1/2.4) - 0.055
		}
		t[i] = uint8(math.Round(255 * c))
	}
	return t
}()

func encode(light float32) uint8 { return gamma[int(min(max(light, 0), 1)*4096+0.5)] }

// shine gives the light that a surface with normal n sends to the viewer: what
// it scatters, as a factor on its colour, and the gloss on top, which is what
// shows the shape of a dark part.
func shine(n vec, open float32) (scattered, gloss float32) {
	direct := max((n.dot(key)+0.12)/1.12, 0) * 0.86
	ambient := 0.27 + 0.13*n[1] + max(n.dot(fill), 0)*0.15
	edge := 1 - max(n[2], 0)
	edge *= edge * edge
	h := max(n.dot(half), 0)
	for range 5 {
		h *= h // to the 32nd
	}
	gloss = 0.13*h + 0.018*(1+n[1]) + 0.05*edge
	return (ambient+0.08*edge)*open + direct*(0.55+0.45*open), gloss * open
}

// develop shades the samples and makes pixels of them.
func (s *scene) develop() *image.NRGBA {
	p, b := s.p, &s.samples
	img := image.NewNRGBA(image.Rect(0, 0, p.Width, p.Height))
	n, share := p.Samples, 1/float32(p.Samples*p.Samples)
	for y := range p.Height {
		for x := range p.Width {
			at := y*p.Width + x
			var light, c vec
			var cover float32
			last := int32(-1) // the facet that was shaded; one is enough for those that look the same
			for j := y * n; j < (y+1)*n; j++ {
				for i := x * n; i < (x+1)*n; i++ {
					f := b.facet[j*b.w+i]
					if f < 0 {
						continue
					}
					if f != last && (last < 0 || !s.alike(f, last)) {
						c, last = s.shade(f, float32(i)+0.5, float32(j)+0.5, s.open[at]), f
					}
					ink := float32(1)
					if s.edge[j*b.w+i] {
						ink = 0.42
					}
					light = vec{light[0] + ink*c[0], light[1] + ink*c[1], light[2] + ink*c[2]}
					cover++
				}
			}
			if cover > 0 {
				light = vec{light[0] / cover, light[1] / cover, light[2] / cover}
			}
			var shade float32
			if s.shadow != nil {
				shade = 0.42 * s.shadow[at]
			}
			img.SetNRGBA(x, y, s.compose(light, cover*share, shade))
		}
	}
	return img
}

// alike tells whether facets in one pixel need not be shaded apart.
func (s *scene) alike(f, g int32) bool {
	return s.p.Facets == nil && s.normals.flat[f].dot(s.normals.flat[g]) > 0.985 // 10°
}

// shade gives the light that facet f sends from the sample position x, y.
func (s *scene) shade(f int32, x, y, open float32) vec {
	base := s.p.Colour
	if s.p.Facets != nil {
		base = s.p.Facets[f]
	}
	normal, inside := s.normal(f, x, y)
	scattered, gloss := shine(normal, open)
	if inside {
		// What should not be seen, as through a hole, is dark and reddish.
		base, gloss = color.NRGBA{0x8c, 0x4a, 0x52, 0xff}, 0
	}
	return vec{linear[base.R]*scattered + gloss, linear[base.G]*scattered + gloss, linear[base.B]*scattered + gloss}
}

// compose puts light, which covers a part of a pixel, over the shaded ground.
func (s *scene) compose(light vec, cover, shade float32) color.NRGBA {
	back := s.p.Background
	alpha := float32(back.A) / 255
	// The ground: black with opacity shade over the background.
	ground := alpha + shade*(1-alpha)
	total := cover + (1-cover)*ground
	switch {
	case total == 0:
		return color.NRGBA{}
	case cover == 0 && shade == 0:
		return back
	}
	blend := func(part float32, behind uint8) uint8 {
		under := linear[behind] * alpha * (1 - shade)
		return encode((part*cover + under*(1-cover)) / total)
	}
	return color.NRGBA{
		R: blend(light[0], back.R), G: blend(light[1], back.G), B: blend(light[2], back.B), A: uint8(total*255 + 0.5),
	}
}
