package render

import (
	"cmp"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"

	"inshape/mesh"
)

// View is the side that a part is seen from. Z is up, and -Y in front.
type View string

// The views.
const (
	Isometric View = "isometric" // from the front, right and top
	Front     View = "front"
	Back      View = "back"
	Left      View = "left"
	Right     View = "right"
	Top       View = "top"
	Bottom    View = "bottom"
)

// Views are all views, in the order to offer them.
var Views = []View{Isometric, Front, Back, Left, Right, Top, Bottom}

// Picture says what is drawn, and how. The zero value is a light grey part in
// isometric view on a transparent ground, 640×480.
type Picture struct {
	Width, Height int  // pixels, 16 to 2048; 0: 640 and 480
	Samples       int  // per side of a pixel, 1 to 4; 0: 2
	View          View // empty: Isometric

	Colour     color.NRGBA   // of the part; zero: light grey
	Facets     []color.NRGBA // of each facet, taken for opaque; nil: Colour for all
	Background color.NRGBA   // zero: transparent
	Flat       bool          // no shadow on the ground

	Lines     [][2]mesh.Vec // marked on the part, as edges of a hole are; those behind it shine through
	Watermark string        // written across, at most 60 characters
}

// Limits of a picture.
const (
	maxSide    = 2048
	maxSamples = 16 << 20 // in all: 8 bytes each
	maxMark    = 60
)

// ErrInvalid is the kind of all errors of Draw: the picture or the mesh is not
// one that can be drawn.
var ErrInvalid = errors.New("invalid picture")

// Guarded is p in a form that tells what a part looks like and no more: at most
// 320×240, with mark written across.
func (p Picture) Guarded(mark string) Picture {
	p.Width, p.Height, p.Watermark = 320, 240, mark
	return p
}

// PNG draws m and writes it as PNG.
func (p Picture) PNG(w io.Writer, m *mesh.Mesh) error {
	img, err := p.Draw(m)
	if err != nil {
		return err
	}
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	if err := encoder.Encode(w, img); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	return nil
}

// Draw draws m. A mesh without facets gives the empty picture.
func (p Picture) Draw(m *mesh.Mesh) (*image.NRGBA, error) {
	if err := p.complete(m); err != nil {
		return nil, err
	}
	s := newScene(&p, m)
	s.outline()
	s.occlude()
	s.ground()
	img := s.develop()
	s.mark(img)
	if p.Watermark != "" {
		if err := watermark(img, p.Watermark); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// complete puts defaults in and refuses what is out of bounds.
func (p *Picture) complete(m *mesh.Mesh) error {
	p.Width, p.Height = cmp.Or(p.Width, 640), cmp.Or(p.Height, 480)
	p.Samples, p.View = cmp.Or(p.Samples, 2), cmp.Or(p.View, Isometric)
	p.Colour = cmp.Or(p.Colour, color.NRGBA{0xc4, 0xca, 0xd3, 0xff})
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case min(p.Width, p.Height) < 16 || max(p.Width, p.Height) > maxSide:
		return refuse("%d×%d pixels; give sides of 16 to %d", p.Width, p.Height, maxSide)
	case p.Samples < 1 || p.Samples > 4 || p.Width*p.Height*p.Samples*p.Samples > maxSamples:
		return refuse("%d samples a side for %d×%d pixels; give 1 to 4, and at most %d in all", p.Samples, p.Width, p.Height, maxSamples)
	case p.Facets != nil && len(p.Facets) != len(m.Facets):
		return refuse("%d colours for %d facets; give one for each, or none", len(p.Facets), len(m.Facets))
	case len([]rune(p.Watermark)) > maxMark:
		return refuse("a watermark of %d characters; give at most %d", len([]rune(p.Watermark)), maxMark)
	}
	if _, ok := axes[p.View]; !ok {
		return refuse("no view %q; choose one of %v", p.View, Views)
	}
	return nil
}
