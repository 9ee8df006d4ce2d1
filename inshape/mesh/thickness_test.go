package mesh_test

import (
	"math"
	"testing"

	"inshape/mesh"
)

func TestThickness(t *testing.T) {
	tests := map[string]struct {
		m *mesh.Mesh
		// want is the thickness at a facet's middle in the solid's own place, 0
		// where nothing is asked.
		want func(middle, normal mesh.Vec) float64
	}{
		"slab": {refined(refined(cuboid(30, 20, 1.5))), func(_, n mesh.Vec) float64 {
			if math.Abs(n[2]) > 0.9 {
				return 1.5
			}
			return 0
		}},
		"sphere": {sphere(10, 3), func(mesh.Vec, mesh.Vec) float64 { return 20 }},
		"tube": {refined(prism(64, 10, 8, 40)), func(_, n mesh.Vec) float64 {
			if math.Abs(n[2]) < 0.1 {
				return 2
			}
			return 0
		}},
	}
	for name, test := range tests {
		for i := range 2 {
			m := turned(test.m, float64(i)/2)
			got := mesh.NewBVH(m).Thickness()
			asked := 0
			for f := range got {
				a, b, c := test.m.Corners(f)
				want := test.want(a.Add(b).Add(c).Mul(1./3), test.m.Normal(f))
				if want == 0 {
					continue
				}
				asked++
				if math.Abs(got[f]-want) > math.Max(0.05, 0.05*want) {
					t.Fatalf("%s %d: facet %d is %v thick, not %v", name, i, f, got[f], want)
				}
			}
			if asked == 0 {
				t.Fatalf("%s: no facet was asked about", name)
			}
		}
	}
}

func TestSelfIntersections(t *testing.T) {
	for name, m := range map[string]*mesh.Mesh{"cuboid": refined(cuboid(1, 2, 3)), "sphere": sphere(3, 4), "tube": prism(30, 4, 2, 6)} {
		if pairs := mesh.NewBVH(turned(m, 0.7)).SelfIntersections(10); len(pairs) != 0 {
			t.Errorf("%s crosses itself at %v", name, pairs)
		}
	}
	m, o := cuboid(10, 10, 10), cuboid(10, 10, 10)
	for i := range o.Vertices {
		o.Vertices[i] = o.Vertices[i].Add(mesh.Vec{4.1, 5.2, 6.3})
	}
	m.Append(o)
	if pairs := mesh.NewBVH(m).SelfIntersections(100); len(pairs) < 6 {
		t.Errorf("two overlapping cubes cross at %v only", pairs)
	}
}

func TestDecimate(t *testing.T) {
	m := sphere(10, 6)
	d := m.Decimate(2000)
	if len(d.Facets) > 2000 || len(d.Facets) < 500 {
		t.Errorf("%d facets", len(d.Facets))
	}
	if v := mesh.Measure(d).Volume; !near(v, mesh.Measure(m).Volume, 0.05) {
		t.Errorf("volume %v", v)
	}
}
