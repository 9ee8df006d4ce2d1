package mesh

import "testing"

// TestAssemble begins with what cutting and rounding leave: edges without length
// and facets that look both ways, beside a solid.
func TestAssemble(t *testing.T) {
	m := &Mesh{
		Vertices: []Vec{{0, 0, 0}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 0, 1}},
		Facets: []Facet{
			{0, 2, 1},
			{0, 1, 3},
			{1, 2, 4},
			{1, 4, 3}, // 3 and 4 are at one place
			{2, 0, 3},
			{2, 3, 4},
			{0, 1, 2}, // a facet and its back
			{2, 1, 0},
		},
	}
	a := &arrangement{grid: newGrid(m.Bounds()), mesh: &Mesh{Vertices: m.Vertices}}
	if seams := a.assemble(m, true); seams != 0 || len(m.Facets) != 4 || len(m.Vertices) != 4 || !Analyse(m).Solid() {
		t.Errorf("%d seams, %v", seams, m)
	}
}
