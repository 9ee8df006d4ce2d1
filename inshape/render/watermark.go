package render

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

var bold = sync.OnceValues(func() (*opentype.Font, error) { return opentype.Parse(gobold.TTF) })

// watermark writes text across img, again and again on slanted lines, light with
// a dark rim so that it shows on any ground.
func watermark(img *image.NRGBA, text string) error {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	parsed, err := bold()
	if err != nil {
		return fmt.Errorf("read font: %w", err)
	}
	face, err := opentype.NewFace(parsed, &opentype.FaceOptions{Size: max(float64(min(w, h))/15, 10), DPI: 72, Hinting: font.HintingNone})
	if err != nil {
		return fmt.Errorf("open font: %w", err)
	}
	wide, high := font.MeasureString(face, text).Ceil()+1, face.Metrics().Height.Ceil()
	strip := image.NewAlpha(image.Rect(0, 0, wide, high))
	d := font.Drawer{Dst: strip, Src: image.NewUniform(color.Alpha{255}), Face: face, Dot: fixed.P(0, face.Metrics().Ascent.Ceil())}
	d.DrawString(text)

	sin, cos := math.Sincos(-28 * math.Pi / 180)
	across, down := float64(wide+3*high), 2.7*float64(high)
	at := func(x, y float64) float32 {
		u, v := x*cos+y*sin, y*cos-x*sin
		row := math.Floor(v / down)
		v -= row * down
		u += row * across / 2 // every other line starts in the middle
		u -= math.Floor(u/across) * across
		return bilinear(strip, u, v)
	}
	for y := range h {
		for x := range w {
			fx, fy := float64(x), float64(y)
			letter, rim := at(fx, fy), at(fx-1, fy-1)
			over(img, x, y, [3]uint8{0, 0, 0}, 0.30*max(rim-letter, 0))
			over(img, x, y, [3]uint8{255, 255, 255}, 0.5*letter)
		}
	}
	return nil
}

func bilinear(a *image.Alpha, u, v float64) float32 {
	i, j := int(math.Floor(u)), int(math.Floor(v))
	fu, fv := float32(u-float64(i)), float32(v-float64(j))
	value := func(x, y int) float32 { return float32(a.AlphaAt(x, y).A) / 255 }
	return (value(i, j)*(1-fu)+value(i+1, j)*fu)*(1-fv) + (value(i, j+1)*(1-fu)+value(i+1, j+1)*fu)*fv
}
