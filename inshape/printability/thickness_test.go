package printability

import (
	"math"
	"testing"

	"inshape/mesh"
)

// strip is a row of right triangles of 1 mm² along x.
func strip(n int) *mesh.Mesh {
	m := &mesh.Mesh{}
	for i := range n {
		x, b := float64(2*i), int32(len(m.Vertices))
		m.Vertices = append(m.Vertices, mesh.Vec{x, 0, 0}, mesh.Vec{x + 1, 0, 0}, mesh.Vec{x, 2, 0})
		m.Facets = append(m.Facets, mesh.Facet{b, b + 1, b + 2})
	}
	return m
}

func TestThickness(t *testing.T) {
	values := []float64{0.5, 0.5, 1, 20, math.Inf(1), math.NaN(), 0.72, 3, 3, 3}
	th := NewThickness(strip(10), values)
	for _, c := range []struct{ limit, want float64 }{
		{0, 0}, {0.3, 0}, {0.55, 20}, {0.7, 20}, {0.75, 30}, {1.05, 40}, {2.9, 40}, {5, 70}, {10, 70}, {1000, 70},
	} {
		if got := th.Below(c.limit); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%.3g %% below %g mm, want %g", got, c.limit, c.want)
		}
	}
	// Between two points of the curve the share grows evenly.
	if got := th.Below(0.525); math.Abs(got-10) > 1e-9 {
		t.Errorf("%.3g %% below 0.525 mm", got)
	}
	if p := th.Places[0]; p.Value != 0.5 || p.Facet != 0 || p.At != (mesh.Vec{1. / 3, 2. / 3, 0}) {
		t.Errorf("thinnest %+v", p)
	}
	for i, p := range th.Places {
		if i > 0 && p.Value < th.Places[i-1].Value {
			t.Errorf("places are not in order: %v", th.Places)
		}
		if math.IsInf(p.Value, 0) || math.IsNaN(p.Value) {
			t.Errorf("%v", p)
		}
	}
}

func TestThicknessOfNothing(t *testing.T) {
	for _, m := range []*mesh.Mesh{{}, {Vertices: []mesh.Vec{{1, 1, 1}}, Facets: []mesh.Facet{{0, 0, 0}}}} {
		th := NewThickness(m, make([]float64, len(m.Facets)))
		if len(th.Places) != 0 || th.Below(1) != 0 {
			t.Errorf("%+v", th)
		}
	}
	if (&Thickness{}).Below(1) != 0 {
		t.Error("the zero value is thin")
	}
}

// TestSlivers: what has no area is no spot, however thin, and hides none.
func TestSlivers(t *testing.T) {
	m := strip(3)
	for i := range 3 {
		m.Vertices[3*i+2][1] = 0.002 // of the first three facets, 0.001 mm² each
	}
	m.Append(strip(40))
	values := make([]float64, len(m.Facets))
	for i := range values {
		values[i] = 4
	}
	values[0], values[1], values[2], values[3] = 0.001, 0.002, 0.003, 0.6
	if p := NewThickness(m, values).Places[0]; p.Value != 0.6 || p.Facet != 3 {
		t.Errorf("thinnest %+v", p)
	}
}

// TestRegions: far apart places are kept apart, and no more than a screen can show.
func TestRegions(t *testing.T) {
	m := strip(4000)
	values := make([]float64, 4000)
	for i := range values {
		values[i] = 5
	}
	values[10], values[3990] = 0.1, 0.2
	th := NewThickness(m, values)
	if len(th.Places) > maxRegions || th.Places[0].Facet != 10 || th.Places[1].Facet != 3990 {
		t.Errorf("%d places, first %+v", len(th.Places), th.Places[:2])
	}
}
