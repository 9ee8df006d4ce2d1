package render

import (
	"errors"
	"image/color"
	"testing"

	"inshape/mesh"
)

func TestRefuses(t *testing.T) {
	box := cube()
	for name, p := range map[string]Picture{
		"too large":       {Width: 4000},
		"too small":       {Height: 3},
		"too many":        {Width: 2048, Height: 2048, Samples: 4},
		"samples":         {Samples: 9},
		"view":            {View: "inside"},
		"colours":         {Facets: make([]color.NRGBA, 3)},
		"watermark":       {Watermark: "a watermark that goes on and on and on and on and on and on and on"},
		"negative height": {Height: -480},
	} {
		if _, err := p.Draw(box); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEmptyMesh(t *testing.T) {
	img, err := Picture{Watermark: ""}.Draw(&mesh.Mesh{})
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range img.Pix {
		if b != 0 {
			t.Fatalf("byte %d is %d", i, b)
		}
	}
}

// cube is 10 mm.
func cube() *mesh.Mesh {
	m := &mesh.Mesh{}
	for i := range 8 {
		m.Vertices = append(m.Vertices, mesh.Vec{float64(i&1) * 10, float64(i>>1&1) * 10, float64(i>>2) * 10})
	}
	for _, q := range [][4]int32{{0, 2, 3, 1}, {4, 5, 7, 6}, {0, 1, 5, 4}, {2, 6, 7, 3}, {0, 4, 6, 2}, {1, 3, 7, 5}} {
		m.Facets = append(m.Facets, mesh.Facet{q[0], q[1], q[2]}, mesh.Facet{q[0], q[2], q[3]})
	}
	return m
}
