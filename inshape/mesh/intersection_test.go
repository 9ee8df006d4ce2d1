package mesh_test

import (
	"slices"
	"testing"

	"inshape/mesh"
)

func TestSelfIntersectionsOfTwo(t *testing.T) {
	base := []mesh.Vec{{0, 0, 0}, {10, 0, 0}, {0, 10, 0}}
	tests := map[string]struct {
		other [3]mesh.Vec
		cross bool
	}{
		"through the inside":         {[3]mesh.Vec{{2, 2, -5}, {2, 2, 5}, {9, 9, 5}}, true},
		"edge across the inside":     {[3]mesh.Vec{{1, 1, 0}, {3, 3, 0}, {2, 2, 5}}, true},
		"through an edge":            {[3]mesh.Vec{{5, -1, -5}, {5, 3, -5}, {5, 1, 5}}, true},
		"lies on it":                 {[3]mesh.Vec{{1, 1, 0}, {3, 1, 0}, {1, 3, 0}}, true},
		"lies across it":             {[3]mesh.Vec{{-5, 3, 0}, {20, 3, 0}, {20, 4, 0}}, true},
		"is the same":                {[3]mesh.Vec{{0, 0, 0}, {10, 0, 0}, {0, 10, 0}}, true},
		"looks the other way":        {[3]mesh.Vec{{0, 0, 0}, {0, 10, 0}, {10, 0, 0}}, true},
		"folded on it":               {[3]mesh.Vec{{0, 0, 0}, {10, 0, 0}, {3, 1, 0}}, true},
		"from a corner":              {[3]mesh.Vec{{0, 0, 0}, {8, 8, 5}, {8, 8, -5}}, true},
		"from a corner, coplanar":    {[3]mesh.Vec{{0, 0, 0}, {8, 9, 0}, {9, 8, 0}}, true},
		"corner on the inside":       {[3]mesh.Vec{{2, 2, 0}, {3, 3, 5}, {2, 3, 5}}, false},
		"corner on an edge":          {[3]mesh.Vec{{5, 0, 0}, {5, -5, 0}, {6, -5, 0}}, false},
		"corner on a corner":         {[3]mesh.Vec{{0, 0, 0}, {-1, -5, 2}, {-5, -1, 1}}, false},
		"neighbour":                  {[3]mesh.Vec{{0, 0, 0}, {10, 0, 0}, {3, 1, 4}}, false},
		"coplanar neighbour":         {[3]mesh.Vec{{0, 0, 0}, {10, 0, 0}, {5, -5, 0}}, false},
		"coplanar, part of an edge":  {[3]mesh.Vec{{2, 0, 0}, {8, 0, 0}, {5, -5, 0}}, false},
		"upright on part of an edge": {[3]mesh.Vec{{2, 0, 0}, {8, 0, 0}, {5, 0, 5}}, false},
		"edge on edge":               {[3]mesh.Vec{{5, 0, 5}, {5, 0, -5}, {5, -5, 0}}, false},
		"above":                      {[3]mesh.Vec{{1, 1, 1e-300}, {3, 1, 1e-300}, {1, 3, 1e-300}}, false},
		"beside":                     {[3]mesh.Vec{{5, 6, 0}, {6, 5, 0}, {20, 20, 0}}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for turn := range 6 { // whichever corner or facet comes first
				a, b := slices.Clone(base), slices.Clone(test.other[:])
				a = append(a[turn%3:], a[:turn%3]...)
				if turn > 2 {
					a, b = b, a
				}
				m := &mesh.Mesh{Vertices: append(a, b...), Facets: []mesh.Facet{{0, 1, 2}, {3, 4, 5}}}
				if got := len(mesh.NewBVH(m).SelfIntersections(9)) == 1; got != test.cross {
					t.Errorf("turn %d: crossing is %v", turn, got)
				}
			}
		})
	}
}
