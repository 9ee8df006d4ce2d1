package mesh_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"inshape/mesh"
)

// table stands on four legs: 40 × 40 × 3 on legs of 5 × 5 × 30.
func table(t *testing.T) *mesh.Mesh {
	t.Helper()
	parts := []*mesh.Mesh{moved(cuboid(40, 40, 3), 0, 0, 29.5)}
	for k := range 4 {
		parts = append(parts, moved(cuboid(5, 5, 30), 35*float64(k&1), 35*float64(k>>1), 0))
	}
	u, err := mesh.Union(t.Context(), joined(parts...), mesh.UnionOptions{})
	if err != nil || u.Reason != "" {
		t.Fatal(err, u.Reason)
	}
	return u.Mesh
}

func TestSupportVolume(t *testing.T) {
	up := mesh.Vec{0, 0, 1}
	m := table(t)
	under := 29.5 * (40*40 - 4*25)
	if s := m.SupportVolume(up, math.Pi/4, 0); math.Abs(s.Volume-under) > 0.02*under || s.OnPart != 0 {
		t.Errorf("below a table there are %+v, not %v", s, under)
	}
	if s := m.SupportVolume(mesh.Vec{0, 0, -2}, math.Pi/4, 0.3); s.Volume != 0 || s.Pitch != 0.3 {
		t.Errorf("on its head it needs %+v", s)
	}
	// The same in any direction, and on a floor of its own.
	turn := mesh.Rotation(mesh.Vec{1, 2, 3}, 1.1)
	if s := m.Transformed(turn).SupportVolume(turn.Apply(up), math.Pi/4, 0); math.Abs(s.Volume-under) > 0.02*under {
		t.Errorf("turned it needs %+v, not %v", s, under)
	}
	floor := joined(m, moved(cuboid(40, 40, 2), 0, 0, -10))
	if s := floor.SupportVolume(up, math.Pi/4, 0); math.Abs(s.OnPart-s.Volume) > 1e-9 || math.Abs(s.Volume-under-8*40*40) > 0.02*under {
		t.Errorf("above a floor it needs %+v, not %v", s, under)
	}
	// A cone on its tip: half the angle is 26.6°, so nothing overhangs by 45°,
	// all of it by 20°.
	c := cone(10, 20, 128)
	if s := c.SupportVolume(mesh.Vec{0, 0, -1}, math.Pi/4, 0); s.Volume != 0 {
		t.Errorf("a steep cone needs %+v", s)
	}
	// Cylinder less cone.
	want := math.Pi * 100 * 20 * 2 / 3
	if s := c.SupportVolume(mesh.Vec{0, 0, -1}, 20*math.Pi/180, 0.1); math.Abs(s.Volume-want) > 0.02*want {
		t.Errorf("a cone on its tip needs %+v, not %v", s, want)
	}
	if s := (&mesh.Mesh{}).SupportVolume(up, 1, 0); s != (mesh.Support{}) {
		t.Errorf("nothing needs %+v", s)
	}
	if s := m.SupportVolume(mesh.Vec{}, 1, 0); s != (mesh.Support{}) {
		t.Errorf("no direction needs %+v", s)
	}
}

func TestOrient(t *testing.T) {
	tests := map[string]struct {
		m       *mesh.Mesh
		weights mesh.OrientWeights
		up      []mesh.Vec // one of these, within 2°
	}{
		"table, filament":     {table(t), mesh.WeightsFDM(), []mesh.Vec{{0, 0, -1}}},
		"plate, filament":     {cuboid(60, 40, 3), mesh.WeightsFDM(), []mesh.Vec{{0, 0, 1}, {0, 0, -1}}},
		"cone, filament":      {cone(10, 30, 64), mesh.WeightsFDM(), []mesh.Vec{{0, 0, 1}}},
		"rod, powder":         {prism(48, 3, 0, 80), mesh.OrientWeights{Height: 1}, nil},
		"cone, metal":         {cone(10, 10, 64), mesh.WeightsMetal(), []mesh.Vec{{0, 0, 1}}},
		"table, only support": {table(t), mesh.OrientWeights{Limit: math.Pi / 4, Support: 1, Bottom: 0.01}, []mesh.Vec{{0, 0, -1}}},
	}
	for name, test := range tests {
		for i := range 3 {
			turn := mesh.Rotation(mesh.Vec{1, float64(i), 0.5}, float64(i)*0.9)
			found, err := mesh.Orient(t.Context(), test.m.Transformed(turn), test.weights, 3)
			if err != nil || len(found) != 3 {
				t.Fatal(name, found, err)
			}
			best := found[0]
			ok := test.up == nil
			for _, up := range test.up {
				ok = ok || best.Up.Dot(turn.Apply(up)) > math.Cos(2*math.Pi/180)
			}
			if !ok {
				t.Errorf("%s %d: the best is %+v", name, i, best)
			}
			for k, o := range found {
				if k > 0 && (o.Score < found[k-1].Score || o.Up.Dot(best.Up) > math.Cos(9*math.Pi/180)) {
					t.Errorf("%s %d: %d is %+v after %+v", name, i, k, o, found[k-1])
				}
				box := test.m.Transformed(turn).Transformed(o.Transform).Bounds()
				if size := box.Size(); math.Abs(box.Min[2]) > 1e-6 || !near(size[2], o.Height, 1e-6) || !near(size[0]*size[1], o.Footprint, 1e-6) {
					t.Errorf("%s %d: it stands in %v, not %v high on %v mm²", name, i, box, o.Height, o.Footprint)
				}
				if d := o.Transform.Determinant(); !near(d, 1, 1e-9) {
					t.Errorf("%s %d: determinant %v", name, i, d)
				}
			}
		}
	}
	// A rod that only height matters for lies down.
	found, err := mesh.Orient(t.Context(), turned(prism(48, 3, 0, 80), 0.4), mesh.OrientWeights{Height: 1}, 1)
	if err != nil || found[0].Height > 6.1 {
		t.Errorf("the rod is %+v %v", found, err)
	}
}

// What the candidates leave out: no direction of a fine search is much better.
func TestOrientFindsTheMinimum(t *testing.T) {
	for name, m := range map[string]*mesh.Mesh{
		"bent":  joined(cuboid(50, 8, 5), cuboid(8, 8, 40).Transformed(mesh.Rotation(mesh.Vec{0, 1, 0}, 0.5))),
		"torus": torus(20, 5, 24, 12),
		"wedge": wedge(30, 0.5),
	} {
		for _, w := range []mesh.OrientWeights{mesh.WeightsFDM(), mesh.WeightsResin(), mesh.WeightsPowder()} {
			found, err := mesh.Orient(t.Context(), turned(m, 0.2), w, 1)
			if err != nil {
				t.Fatal(err)
			}
			score, least := mesh.Scorer(turned(m, 0.2), w), math.Inf(1)
			for i := range 24 {
				for k := range 48 {
					s, c := math.Sincos(math.Pi * float64(i) / 24)
					u, v := math.Sincos(math.Pi * float64(k) / 24)
					least = min(least, score(mesh.Vec{s * v, s * u, c}))
				}
			}
			if found[0].Score > least*1.03+1e-3 {
				t.Errorf("%s: the best of a search is %v, found was %v", name, least, found[0].Score)
			}
		}
	}
}

func TestOrientOfNothing(t *testing.T) {
	for name, m := range map[string]*mesh.Mesh{
		"empty":  {},
		"sliver": {Vertices: []mesh.Vec{{}, {1, 0, 0}, {2, 0, 0}}, Facets: []mesh.Facet{{0, 1, 2}}},
	} {
		if found, err := mesh.Orient(t.Context(), m, mesh.WeightsFDM(), 3); err != nil || len(found) != 0 {
			t.Errorf("%s: %v %v", name, found, err)
		}
	}
	flat := &mesh.Mesh{Vertices: []mesh.Vec{{}, {1, 0, 0}, {0, 1, 0}}, Facets: []mesh.Facet{{0, 1, 2}}}
	if found, err := mesh.Orient(t.Context(), flat, mesh.WeightsFDM(), 1); err != nil || len(found) != 1 {
		t.Errorf("one facet: %v %v", found, err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := mesh.Orient(ctx, cuboid(1, 1, 1), mesh.WeightsFDM(), 1); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkOrient(b *testing.B) {
	m := torus(40, 12, 402, 100) // 80,400 facets
	for b.Loop() {
		if _, err := mesh.Orient(b.Context(), m, mesh.WeightsFDM(), 3); err != nil {
			b.Fatal(err)
		}
	}
}
