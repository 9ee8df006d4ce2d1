package render

import (
	"fmt"
	"image/color"
	"math"
)

// Scale colours a measure such as wall thickness by a limit: below it warm, from
// vermilion at 0 to nearly white at the limit; above it cool, to blue at twice
// the limit and beyond. Orange and blue stay apart for the colour-blind.
type Scale struct {
	Limit float64 // above 0, in the measure's unit
}

// Tick is a value of a scale with its colour, for a legend.
type Tick struct {
	Value  float64     `json:"value"`
	Colour color.NRGBA `json:"-"`
	Hex    string      `json:"hex"` // #rrggbb
}

var stops = [...]color.NRGBA{
	{0xc0, 0x3a, 0x00, 0xff}, {0xe8, 0x7a, 0x1d, 0xff}, {0xf6, 0xe8, 0xc8, 0xff}, {0x8f, 0xbf, 0xe0, 0xff}, {0x1f, 0x5f, 0xa8, 0xff},
}

// Colour gives the colour of x; grey for NaN, which was not measured.
func (s Scale) Colour(x float64) color.NRGBA {
	if math.IsNaN(x) || s.Limit <= 0 {
		return color.NRGBA{0xb0, 0xb0, 0xb0, 0xff}
	}
	at := min(max(x/s.Limit, 0), 2) / 2 * float64(len(stops)-1)
	i := min(int(at), len(stops)-2)
	f := float32(at - float64(i))
	mix := func(a, b uint8) uint8 { return encode(linear[a]*(1-f) + linear[b]*f) }
	return color.NRGBA{mix(stops[i].R, stops[i+1].R), mix(stops[i].G, stops[i+1].G), mix(stops[i].B, stops[i+1].B), 0xff}
}

// Heat gives the colour of each value.
func (s Scale) Heat(values []float64) []color.NRGBA {
	c := make([]color.NRGBA, len(values))
	for i, x := range values {
		c[i] = s.Colour(x)
	}
	return c
}

// Legend gives n ≥ 2 evenly spaced ticks from 0 to twice the limit.
func (s Scale) Legend(n int) []Tick {
	ticks := make([]Tick, n)
	for i := range ticks {
		x := 2 * s.Limit * float64(i) / float64(n-1)
		c := s.Colour(x)
		ticks[i] = Tick{Value: x, Colour: c, Hex: fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B)}
	}
	return ticks
}
