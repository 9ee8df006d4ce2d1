package mesh_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"inshape/mesh"
)

// flask is a ball of radius 15 with a cavity of radius 12 and a way out of the
// given diameter.
func flask(t *testing.T, neck float64) *mesh.Mesh {
	t.Helper()
	parts := []*mesh.Mesh{sphere(15, 4), inverted(sphere(12, 4))}
	if neck > 0 {
		parts = append(parts, inverted(moved(prism(32, neck/2/math.Cos(math.Pi/32), 0, 8), 0.01, 0.02, 8)))
	}
	u, err := mesh.Union(t.Context(), joined(parts...), mesh.UnionOptions{})
	if err != nil || u.Reason != "" || !mesh.Analyse(u.Mesh).Solid() {
		t.Fatal(err, u.Reason)
	}
	return u.Mesh
}

func TestTrappedVolumes(t *testing.T) {
	room := math.Pi * 4 / 3 * 12 * 12 * 12
	tests := map[string]struct {
		m      *mesh.Mesh
		volume float64 // of the only pocket; 0: none
		closed bool
	}{
		"closed":      {flask(t, 0), room, true},
		"narrow neck": {flask(t, 2), room, false},
		"just enough": {flask(t, 4), 0, false},
		"wide neck":   {flask(t, 6), 0, false},
		"solid":       {cuboid(30, 20, 10), 0, false},
		"tube":        {prism(48, 10, 1, 40), 0, false},
		"narrow slot": {joined(cuboid(20, 20, 5), moved(cuboid(20, 20, 5), 0, 0, 6.5)), 0, false},
	}
	for name, test := range tests {
		for i := range 2 {
			m := turned(test.m, 0.3*float64(i))
			r, err := mesh.TrappedVolumes(t.Context(), m, mesh.TrappedOptions{Opening: 4, MaxNodes: 2_000_000})
			if err != nil {
				t.Fatal(err)
			}
			if r.Pitch <= 0 || r.Pitch > 0.6 {
				t.Errorf("%s: pitch %v", name, r.Pitch)
			}
			if test.volume == 0 {
				if len(r.Pockets) != 0 {
					t.Errorf("%s %d: %+v", name, i, r.Pockets)
				}
				continue
			}
			if len(r.Pockets) != 1 {
				t.Errorf("%s %d: %d %+v", name, i, len(r.Pockets), r.Pockets[:min(len(r.Pockets), 8)])
				continue
			}
			p := r.Pockets[0]
			if math.Abs(p.Volume-test.volume) > 0.05*test.volume || p.Closed != test.closed {
				t.Errorf("%s %d: %+v, not %v mm³", name, i, p, test.volume)
			}
			if middle := turned(&mesh.Mesh{Vertices: []mesh.Vec{{}}}, 0.3*float64(i)).Vertices[0]; p.At.Sub(middle).Len() > 2 {
				t.Errorf("%s %d: it is at %v, not %v", name, i, p.At, middle)
			}
			if size := p.Box.Size(); !near(size[0], 24, 0.06) || !near(size[1], 24, 0.06) {
				t.Errorf("%s %d: its box is %v", name, i, p.Box)
			}
			if neck := map[bool]float64{true: 0, false: 2}[test.closed]; math.Abs(p.Neck-neck) > 1.2*r.Pitch {
				t.Errorf("%s %d: its neck is %v", name, i, p.Neck)
			}
		}
	}
}

func TestClosedVoids(t *testing.T) {
	// A ball in a void in a cube, with a void of its own, and a void beside.
	m := joined(cuboid(40, 40, 40),
		inverted(moved(cuboid(20, 20, 20), 5, 5, 5)), moved(cuboid(10, 10, 10), 8, 8, 8), inverted(moved(cuboid(4, 4, 4), 10, 10, 10)),
		inverted(moved(cuboid(6, 6, 6), 30, 30, 30)))
	r, err := mesh.TrappedVolumes(t.Context(), m, mesh.TrappedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []float64{20*20*20 - 10*10*10, 6 * 6 * 6, 4 * 4 * 4}
	if len(r.Pockets) != len(want) || r.Pitch != 0 {
		t.Fatalf("%+v", r)
	}
	tree := mesh.NewBVH(m)
	for i, p := range r.Pockets {
		if !near(p.Volume, want[i], 1e-9) || !p.Closed {
			t.Errorf("%d: %+v, not %v", i, p, want[i])
		}
		if at, facet, d := tree.Nearest(p.At, 100, nil); d < 0.5 || p.At.Sub(at).Dot(m.Normal(int(facet))) < 0 {
			t.Errorf("%d: %v is not in the void", i, p.At)
		}
	}
	// A shell that is inside out is no void, nor is a part beside another.
	for name, m := range map[string]*mesh.Mesh{
		"inside out": inverted(cuboid(5, 5, 5)),
		"beside":     joined(cuboid(5, 5, 5), moved(cuboid(5, 5, 5), 6, 0, 0)),
		"empty":      {},
	} {
		if r, err := mesh.TrappedVolumes(t.Context(), m, mesh.TrappedOptions{Opening: 2, MaxNodes: 100_000}); err != nil || len(r.Pockets) != 0 {
			t.Errorf("%s: %+v %v", name, r, err)
		}
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := mesh.TrappedVolumes(ctx, m, mesh.TrappedOptions{Opening: 4}); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}

// What Hollow leaves can be emptied, and is seen to be closed without holes.
func TestHollowedPartsCanBeEmptied(t *testing.T) {
	m := turned(cuboid(40, 30, 30), 0.3)
	for _, diameter := range []float64{0, 4} {
		h, err := mesh.Hollow(t.Context(), m, mesh.HollowOptions{Wall: 3, HoleDiameter: diameter})
		if err != nil {
			t.Fatal(err)
		}
		r, err := mesh.TrappedVolumes(t.Context(), h.Mesh, mesh.TrappedOptions{Opening: 4, MaxNodes: 2_000_000})
		if err != nil {
			t.Fatal(err)
		}
		if closed := diameter == 0; (len(r.Pockets) == 1) != closed || closed && (!r.Pockets[0].Closed || !near(r.Pockets[0].Volume, h.Saved, 1e-6)) {
			t.Errorf("holes of %v: %+v", diameter, r.Pockets)
		}
	}
}
