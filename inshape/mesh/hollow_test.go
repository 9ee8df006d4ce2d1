package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"inshape/mesh"
)

// mustHollow hollows and checks what every hollowed part must be.
func mustHollow(t *testing.T, m *mesh.Mesh, o mesh.HollowOptions) *mesh.Hollowed {
	t.Helper()
	h, err := mesh.Hollow(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	top := mesh.Analyse(h.Mesh)
	if !top.Solid() || !top.Manifold() {
		t.Fatalf("not a solid: %d open edges, %d of more than two facets, %d vertices of more than one fan", top.BoundaryEdges, top.NonManifoldEdges, top.NonManifoldVertices)
	}
	if pairs := mesh.NewBVH(h.Mesh).SelfIntersections(5); len(pairs) != 0 {
		t.Errorf("it crosses itself at %v", pairs)
	}
	before, after := mesh.Measure(m).Volume, mesh.Measure(h.Mesh).Volume
	if !near(h.Saved, before-after, 1e-6) || h.Saved <= 0 {
		t.Errorf("%v mm³ are said to be saved, not %v", h.Saved, before-after)
	}
	if h.Wall < o.Wall-0.1 {
		t.Errorf("the wall is said to be %v", h.Wall)
	}
	return h
}

// wallOf looks for the thinnest wall at points all over the voids' surface.
func wallOf(outside *mesh.Mesh, h *mesh.Hollowed) float64 {
	tree := mesh.NewBVH(outside)
	least := math.Inf(1)
	r := rand.New(rand.NewPCG(1, 2))
	for f := range h.Mesh.Facets {
		a, b, c := h.Mesh.Corners(f)
		for range 2 {
			u, v := r.Float64(), r.Float64()
			if u+v > 1 {
				u, v = 1-u, 1-v
			}
			p := a.Add(b.Sub(a).Mul(u)).Add(c.Sub(a).Mul(v))
			if slices.ContainsFunc(h.Holes, func(o mesh.Hole) bool {
				d := p.Sub(o.At)
				return d.Sub(o.Axis.Mul(d.Dot(o.Axis))).Len() < 0.51*o.Diameter*1.02
			}) {
				continue
			}
			if _, facet, d := tree.Nearest(p, 4, nil); facet >= 0 && d > 1e-6 { // else on the outside
				least = min(least, d)
			}
		}
	}
	return least
}

func TestHollow(t *testing.T) {
	lshape := func() *mesh.Mesh {
		u, err := mesh.Union(context.Background(), joined(cuboid(40, 20, 20), moved(cuboid(20, 20, 50), 1e-3, 0, 0)), mesh.UnionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return u.Mesh
	}
	tests := map[string]struct {
		m         *mesh.Mesh
		wall      float64
		low, high float64 // the share of the volume that goes
	}{
		"ball":          {sphere(20, 5), 3, 0.60, 0.62}, // (17/20)³ = 0.614
		"cube":          {cuboid(40, 40, 40), 3, 0.60, 0.62},
		"cylinder":      {prism(48, 10, 0, 30), 2, 0.54, 0.56},
		"torus":         {torus(16, 8, 48, 24), 2, 0.55, 0.58},
		"angle":         {lshape(), 2, 0.59, 0.61},
		"slim wall":     {sphere(8, 4), 0.8, 0.72, 0.74},
		"cone":          {cone(20, 40, 64), 2, 0.4, 0.8},
		"already there": {joined(sphere(20, 4), inverted(sphere(8, 4))), 3, 0.47, 0.49},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := turned(test.m, 0.37)
			h := mustHollow(t, m, mesh.HollowOptions{Wall: test.wall})
			volume := mesh.Measure(m).Volume
			if share := h.Saved / volume; share < test.low || share > test.high {
				t.Errorf("%v of the volume is saved, not %v to %v", share, test.low, test.high)
			}
			if !slices.Equal(h.Mesh.Vertices[:len(m.Vertices)], m.Vertices) || !slices.Equal(h.Mesh.Facets[:len(m.Facets)], m.Facets) {
				t.Error("the outside was changed")
			}
			if least := wallOf(m, h); least < test.wall-0.1 {
				t.Errorf("the wall is %v somewhere", least)
			}
			if len(h.Voids) != 1 || len(h.Holes) != 0 {
				t.Errorf("%d voids, %d holes", len(h.Voids), len(h.Holes))
			}
			w, err := mesh.NewBVH(h.Mesh).Thickness(t.Context(), mesh.WidthOptions{Limit: test.wall - 0.1, Reach: test.wall, Samples: 1})
			if err != nil {
				t.Fatal(err)
			}
			if name != "cone" && w.Found > 0 { // a cone's tip is thin before and after
				t.Errorf("the wall is %v thick at %v", w.Least.Width, w.Least.At)
			}
		})
	}
}

func TestHollowWithHoles(t *testing.T) {
	up := mesh.Vec{0, 0, 1}
	for name, m := range map[string]*mesh.Mesh{
		"ball":     sphere(20, 5),
		"box":      cuboid(50, 40, 30),
		"turned":   turned(cuboid(50, 40, 30), 0.4),
		"cylinder": prism(96, 15, 0, 60),
		"torus":    torus(30, 12, 48, 24),
	} {
		t.Run(name, func(t *testing.T) {
			h := mustHollow(t, m, mesh.HollowOptions{Wall: 3, HoleDiameter: 4, Up: up})
			if len(h.Holes) != 2 || len(h.Notes) != 0 {
				t.Fatalf("holes %v, notes %v", h.Holes, h.Notes)
			}
			if shells := mesh.Analyse(h.Mesh).Shells; shells != 1 {
				t.Errorf("%d shells: the holes end somewhere", shells)
			}
			// A ball of nearly the holes' size passes through each of them.
			tree := mesh.NewBVH(h.Mesh)
			for i, o := range h.Holes {
				for depth := -0.5; depth <= o.Length+0.5; depth += 0.1 {
					if _, _, d := tree.Nearest(o.At.Add(o.Axis.Mul(depth)), 10, nil); d < 1.99 {
						t.Errorf("hole %d is %v narrow at depth %v", i, 2*d, depth)
						break
					}
				}
			}
			bounds := m.Bounds()
			if z := h.Holes[0].At[2]; z > bounds.Min[2]+0.35*bounds.Size()[2] {
				t.Errorf("the first hole is at height %v of %v", z, bounds)
			}
			if apart := h.Holes[0].At.Sub(h.Holes[1].At).Len(); apart < 0.4*bounds.Size().Len() {
				t.Errorf("the holes are %v apart", apart)
			}
			if least := wallOf(m, h); least < 2.9 {
				t.Errorf("the wall is %v somewhere", least)
			}
			admesh(t, h.Mesh)
		})
	}
}

func TestHollowWithHolesGiven(t *testing.T) {
	m := cuboid(50, 40, 30)
	h := mustHollow(t, m, mesh.HollowOptions{Wall: 3, HoleDiameter: 5, At: []mesh.Vec{{25, 20, -1}, {25, 20, 31}, {0, 0, 0}}})
	if len(h.Holes) != 2 || len(h.Notes) != 1 {
		t.Fatalf("holes %v, notes %v", h.Holes, h.Notes)
	}
	if at := h.Holes[0].At; at.Sub(mesh.Vec{25, 20, 0}).Len() > 1e-9 {
		t.Errorf("the hole is at %v", at)
	}
}

func TestHollowRefusals(t *testing.T) {
	open := cuboid(10, 10, 10)
	open.Facets = open.Facets[1:]
	tests := map[string]struct {
		m    *mesh.Mesh
		o    mesh.HollowOptions
		code mesh.Code
	}{
		"no wall":        {cuboid(10, 10, 10), mesh.HollowOptions{}, mesh.Invalid},
		"NaN":            {cuboid(10, 10, 10), mesh.HollowOptions{Wall: math.NaN()}, mesh.Invalid},
		"open":           {open, mesh.HollowOptions{Wall: 1}, mesh.NotSolid},
		"empty":          {&mesh.Mesh{}, mesh.HollowOptions{Wall: 1}, mesh.NotSolid},
		"inside out":     {inverted(cuboid(10, 10, 10)), mesh.HollowOptions{Wall: 1}, mesh.NotSolid},
		"wall too thick": {cuboid(10, 10, 10), mesh.HollowOptions{Wall: 5}, mesh.NothingToHollow},
		"little to save": {cuboid(40, 40, 7.5), mesh.HollowOptions{Wall: 3, MinSaving: 0.3}, mesh.NothingToHollow},
		"hole too large": {cuboid(40, 40, 40), mesh.HollowOptions{Wall: 3, HoleDiameter: 38}, mesh.NothingToHollow},
		"hole too wide":  {cuboid(20, 60, 20), mesh.HollowOptions{Wall: 2, HoleDiameter: 17}, mesh.NoEscape},
		"too large":      {cuboid(1e4, 1e4, 1e4), mesh.HollowOptions{Wall: 1}, mesh.TooLarge},
	}
	for name, test := range tests {
		h, err := mesh.Hollow(t.Context(), test.m, test.o)
		if !errors.Is(err, test.code) {
			t.Errorf("%s: %v %v, not %s", name, h, err, test.code)
		}
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := mesh.Hollow(ctx, sphere(20, 4), mesh.HollowOptions{Wall: 2}); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}

// admesh, where it is installed, is a second opinion on what is sound.
func admesh(t *testing.T, m *mesh.Mesh) {
	t.Helper()
	if _, err := exec.LookPath("admesh"); err != nil {
		t.Log("admesh is not installed: no second opinion")
		return
	}
	file := filepath.Join(t.TempDir(), "part.stl")
	var b bytes.Buffer
	if err := mesh.WriteSTL(&b, m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "admesh", "--no-check", "--exact", file).CombinedOutput()
	if err != nil {
		t.Fatalf("admesh: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "facets disconnected") || strings.Contains(line, "Total disconnected") {
			if fields := strings.Fields(line[strings.Index(line, ":")+1:]); fields[0] != "0" {
				t.Errorf("admesh: %s", line)
			}
		}
	}
}

func TestCorpusHollow(t *testing.T) {
	for _, file := range corpus(t, "so-arm100/*.[sS][tT][lL]") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		model, err := mesh.Parse(data, mesh.Options{Unit: mesh.Millimetre})
		if err != nil {
			t.Fatal(err)
		}
		r := mesh.Repair(model.Mesh, mesh.RepairOptions{})
		if !r.Solid {
			continue
		}
		began := time.Now()
		h, err := mesh.Hollow(t.Context(), r.Mesh, mesh.HollowOptions{Wall: 1.5, HoleDiameter: 3})
		took := time.Since(began).Round(time.Millisecond)
		if err != nil {
			t.Logf("%s: %v: %v", filepath.Base(file), took, err)
			continue
		}
		top := mesh.Analyse(h.Mesh)
		if !top.Solid() || !top.Manifold() {
			t.Errorf("%s: not a solid", filepath.Base(file))
		}
		if least := wallOf(r.Mesh, h); least < 1.4 {
			t.Errorf("%s: the wall is %v", filepath.Base(file), least)
		}
		t.Logf("%s: %v, %d voids, %d holes, %.3g of the volume saved, %v", filepath.Base(file), took, len(h.Voids), len(h.Holes), h.Saved/mesh.Measure(r.Mesh).Volume, h.Notes)
	}
}

func BenchmarkHollow(b *testing.B) {
	m := ball(30, 201) // 80,400 facets
	for b.Loop() {
		if _, err := mesh.Hollow(b.Context(), m, mesh.HollowOptions{Wall: 3, HoleDiameter: 4}); err != nil {
			b.Fatal(err)
		}
	}
}

// The net of a well-composed void is a manifold, whatever the void; without
// composing it is not.
func TestNetOfChanceIsManifold(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	broken := 0
	for i := range 60 {
		chance := float64(i%10+1) / 11
		m, err := mesh.NoiseNet(t.Context(), r, 8, chance, true)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Facets) == 0 {
			t.Fatalf("%d: nothing is left of a void of %.2g", i, chance)
		}
		if top := mesh.Analyse(m); !top.Solid() || !top.Manifold() {
			t.Errorf("%d: %d open edges, %d of more than two facets, %d vertices of more than one fan", i, top.BoundaryEdges, top.NonManifoldEdges, top.NonManifoldVertices)
		}
		if volume := mesh.Measure(m).Volume; volume >= 0 {
			t.Errorf("%d: the surface looks away from the void: %v", i, volume)
		}
		if m, err = mesh.NoiseNet(t.Context(), r, 8, chance, false); err != nil {
			t.Fatal(err)
		}
		if top := mesh.Analyse(m); !top.Manifold() {
			broken++
		}
	}
	if broken == 0 {
		t.Error("chance alone gives manifolds: this test tests nothing")
	}
}
