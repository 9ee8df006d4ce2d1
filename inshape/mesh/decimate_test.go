package mesh_test

import (
	"testing"

	"inshape/mesh"
)

// A preview keeps edges sharp: a box that was cut fine is the same box again.
func TestDecimateKeepsEdges(t *testing.T) {
	whole := cuboid(10, 20, 30)
	for range 6 {
		whole = refined(whole)
	}
	whole = turned(whole, 0.4)
	tree := mesh.NewBVH(whole)
	for _, facets := range []int{300, 3000, 30_000} {
		d := whole.Decimate(facets)
		if n := len(d.Facets); n > facets || n < facets/2 {
			t.Errorf("%d facets of %d", n, facets)
		}
		if v := mesh.Measure(d).Volume; !near(v/6000, 1, 0.01) {
			t.Errorf("%d facets: volume %v", facets, v)
		}
		for _, v := range d.Vertices {
			if _, _, away := tree.Nearest(v, 100, nil); away > 0.02 {
				t.Fatalf("%d facets: %v is %v mm off", facets, v, away)
			}
		}
	}
}

func TestDecimateSmall(t *testing.T) {
	m := cuboid(1, 2, 3)
	if d := m.Decimate(12); len(d.Facets) != 12 {
		t.Errorf("%d facets", len(d.Facets))
	}
	if d := m.Decimate(0); len(d.Facets) != 0 {
		t.Errorf("%d facets", len(d.Facets))
	}
	point := &mesh.Mesh{Vertices: []mesh.Vec{{1, 1, 1}}, Facets: []mesh.Facet{{0, 0, 0}, {0, 0, 0}}}
	if d := point.Decimate(1); len(d.Facets) != 0 {
		t.Errorf("%d facets", len(d.Facets))
	}
}
