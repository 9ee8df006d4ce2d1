package mesh_test

import (
	"testing"

	"inshape/mesh"
)

func join(t *testing.T, m *mesh.Mesh) *mesh.Unioned {
	t.Helper()
	u, err := mesh.Union(t.Context(), m, mesh.UnionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUnionExact(t *testing.T) {
	cube := func(x, y, z float64) *mesh.Mesh { return moved(cuboid(10, 10, 10), x, y, z) }
	tests := map[string]struct {
		m      *mesh.Mesh
		volume float64
	}{
		"corner in corner": {joined(cube(0, 0, 0), cube(4, 5, 6)), 2000 - 6*5*4},
		"shared face":      {joined(cube(0, 0, 0), cube(10, 0, 0)), 2000},
		"half a face":      {joined(cube(0, 0, 0), cube(10, 5, 0)), 2000},
		"part of a face":   {joined(cube(0, 0, 0), cube(10, 5, 3)), 2000},
		"flush":            {joined(cube(0, 0, 0), cube(4, 0, 0)), 1400},
		"flush at corner":  {joined(cube(0, 0, 0), cube(4, 4, 0)), 2000 - 360},
		"twice":            {joined(cube(0, 0, 0), cube(0, 0, 0)), 1000},
		"three":            {joined(cube(0, 0, 0), cube(5, 0, 0), cube(0, 5, 0)), 2000},
		"through":          {joined(cube(0, 0, 0), moved(cuboid(2, 2, 30), 4, 4, -10)), 1000 + 80},
		"inside":           {joined(cube(0, 0, 0), moved(cuboid(2, 2, 2), 4, 4, 4)), 1000},
		"inside on a face": {joined(cube(0, 0, 0), moved(cuboid(2, 2, 2), 4, 4, 0)), 1000},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			u := join(t, test.m)
			t.Logf("%d facets, %+v, %d seams, %d crossing, %s", len(u.Mesh.Facets), u.Overlaps, u.Seams, u.Crossing, u.Reason)
			if !u.Changed || !mesh.Analyse(u.Mesh).Solid() {
				t.Fatal("no solid")
			}
			if v := mesh.Measure(u.Mesh).Volume; !near(v, test.volume, 1e-12) {
				t.Errorf("volume is %v, not %v", v, test.volume)
			}
		})
	}
}
