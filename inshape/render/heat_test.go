package render

import (
	"image/color"
	"math"
	"testing"
)

// TestScaleForAllEyes: also for those who see no red, green or blue, no colour
// below the limit looks like one above it, and neighbours in a legend differ.
// The matrices on linear RGB are those of Machado, Oliveira and Fernandes, A
// Physiologically-based Model for Simulation of Color Vision Deficiency (2009).
func TestScaleForAllEyes(t *testing.T) {
	for name, eye := range map[string][3][3]float64{
		"usual":        {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
		"protanopia":   {{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216}, {-0.003882, -0.048116, 1.051998}},
		"deuteranopia": {{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413}, {-0.011820, 0.042940, 0.968881}},
		"tritanopia":   {{1.255528, -0.076749, -0.178779}, {-0.078411, 0.930809, 0.147602}, {0.004733, 0.691367, 0.303900}},
	} {
		ticks := Scale{Limit: 0.8}.Legend(9)
		for i, a := range ticks {
			for j, b := range ticks[:i] {
				d := distance(lab(eye, a.Colour), lab(eye, b.Colour))
				if d < 0.035 {
					t.Errorf("%s: %.1f mm and %.1f mm look alike (%.3f)", name, a.Value, b.Value, d)
				}
				if i > 5 && j < 3 && d < 0.10 {
					t.Errorf("%s: thick, %.1f mm, looks like thin, %.1f mm (%.3f)", name, a.Value, b.Value, d)
				}
			}
		}
	}
}

// lab is Oklab (Ottosson, 2020) of what an eye sees of a colour.
func lab(eye [3][3]float64, c color.NRGBA) [3]float64 {
	in := [3]float64{float64(linear[c.R]), float64(linear[c.G]), float64(linear[c.B])}
	var s [3]float64
	for i := range s {
		s[i] = max(eye[i][0]*in[0]+eye[i][1]*in[1]+eye[i][2]*in[2], 0)
	}
	l := math.Cbrt(0.4122214708*s[0] + 0.5363325363*s[1] + 0.0514459929*s[2])
	m := math.Cbrt(0.2119034982*s[0] + 0.6806995451*s[1] + 0.1073969566*s[2])
	n := math.Cbrt(0.0883024619*s[0] + 0.2817188376*s[1] + 0.6299787005*s[2])
	return [3]float64{
		0.2104542553*l + 0.7936177850*m - 0.0040720468*n,
		1.9779984951*l - 2.4285922050*m + 0.4505937099*n,
		0.0259040371*l + 0.7827717662*m - 0.8086757660*n,
	}
}

func distance(a, b [3]float64) float64 {
	return math.Sqrt((a[0]-b[0])*(a[0]-b[0]) + (a[1]-b[1])*(a[1]-b[1]) + (a[2]-b[2])*(a[2]-b[2]))
}

func TestScale(t *testing.T) {
	s := Scale{Limit: 0.8}
	for _, c := range []struct {
		x  float64
		as float64
	}{{-1, 0}, {1.6, 5}, {math.Inf(1), 1.6}} {
		if s.Colour(c.x) != s.Colour(c.as) {
			t.Errorf("%g is not coloured as %g", c.x, c.as)
		}
	}
	if c := s.Colour(math.NaN()); c.R != c.G || c.G != c.B {
		t.Errorf("what was not measured is %v, not grey", c)
	}
	if thin, thick := s.Colour(0.1), s.Colour(1.5); thin.R <= thin.B || thick.B <= thick.R {
		t.Errorf("thin is %v, thick is %v", thin, thick)
	}
	heat := s.Heat([]float64{0.1, 1.5})
	if len(heat) != 2 || heat[0] != s.Colour(0.1) || heat[1] != s.Colour(1.5) {
		t.Errorf("%v", heat)
	}
	l := s.Legend(3)
	if l[0].Value != 0 || l[1].Value != 0.8 || l[2].Value != 1.6 || l[1].Hex != "#f6e8c8" {
		t.Errorf("%v", l)
	}
}
