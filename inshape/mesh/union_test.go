package mesh_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"inshape/mesh"
)

// together does not weld: parts that touch keep vertices of their own.
func together(parts ...*mesh.Mesh) *mesh.Mesh {
	m := &mesh.Mesh{}
	for _, p := range parts {
		m.Append(p)
	}
	return m
}

func cube(x, y, z float64) *mesh.Mesh { return moved(cuboid(10, 10, 10), x, y, z) }

func union(t interface {
	Helper()
	Fatal(...any)
}, m *mesh.Mesh, winding int,
) *mesh.Unioned {
	t.Helper()
	u, err := mesh.Union(context.Background(), m, mesh.UnionOptions{Winding: winding})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUnionOfBoxes(t *testing.T) {
	overlap := func(a, b int32) mesh.Overlap { return mesh.Overlap{Shells: [2]int32{a, b}, Crossings: 1} }
	one := []mesh.Overlap{overlap(0, 1)}
	tests := map[string]struct {
		parts    []*mesh.Mesh
		volume   float64
		overlaps []mesh.Overlap // 1 crossing stands for any number
	}{
		"corner in corner":    {[]*mesh.Mesh{cube(0, 0, 0), cube(4, 5, 6)}, 2000 - 6*5*4, one},
		"shared face":         {[]*mesh.Mesh{cube(0, 0, 0), cube(10, 0, 0)}, 2000, one},
		"half a face":         {[]*mesh.Mesh{cube(0, 0, 0), cube(10, 5, 0)}, 2000, one},
		"part of a face":      {[]*mesh.Mesh{cube(0, 0, 0), cube(10, 5, 3)}, 2000, one},
		"flush on four sides": {[]*mesh.Mesh{cube(0, 0, 0), cube(4, 0, 0)}, 1400, one},
		"flush on two sides":  {[]*mesh.Mesh{cube(0, 0, 0), cube(4, 4, 0)}, 2000 - 360, one},
		"twice":               {[]*mesh.Mesh{cube(0, 0, 0), cube(0, 0, 0)}, 1000, one},
		"through":             {[]*mesh.Mesh{cube(0, 0, 0), moved(cuboid(2, 2, 30), 4, 4, -10)}, 1080, one},
		"inside":              {[]*mesh.Mesh{cube(0, 0, 0), moved(cuboid(2, 2, 2), 4, 4, 4)}, 1000, []mesh.Overlap{{Shells: [2]int32{0, 1}}}},
		"inside, on a face":   {[]*mesh.Mesh{cube(0, 0, 0), moved(cuboid(2, 2, 2), 4, 4, 0)}, 1000, one},
		"inside, on an edge":  {[]*mesh.Mesh{cube(0, 0, 0), moved(cuboid(2, 2, 2), 4, 0, 0)}, 1000, one},
		"inside, in a corner": {[]*mesh.Mesh{cube(0, 0, 0), cuboid(2, 2, 2)}, 1000, one},
		"three": {
			[]*mesh.Mesh{cube(0, 0, 0), cube(5, 0, 0), cube(0, 5, 0)},
			2000,
			[]mesh.Overlap{overlap(0, 1), overlap(0, 2), overlap(1, 2)},
		},
		"crossing along edges": {[]*mesh.Mesh{refined(cube(0, 0, 0)), moved(refined(cube(0, 0, 0)), 5, 0, 0)}, 1500, one},
		"four on an edge": {
			[]*mesh.Mesh{cube(0, 0, 0), cube(10, 0, 0), cube(0, 10, 0), cube(10, 10, 0)},
			4000,
			[]mesh.Overlap{overlap(0, 1), overlap(0, 2), overlap(1, 3), overlap(2, 3)},
		},
		"a plug in a cavity": {
			[]*mesh.Mesh{cube(0, 0, 0), inverted(moved(cuboid(4, 4, 4), 3, 3, 3)), moved(cuboid(4, 4, 2), 3, 3, 2)},
			1000 - 4*4*3,
			[]mesh.Overlap{{Shells: [2]int32{0, 2}}, overlap(1, 2)},
		},
	}
	for name, test := range tests {
		for _, way := range []string{"apart", "welded"} {
			t.Run(name+", "+way, func(t *testing.T) {
				m := together(test.parts...)
				if way == "welded" {
					m.Weld(0)
				}
				u := union(t, m, 1)
				if s := mesh.Analyse(u.Mesh); !u.Changed || !s.Solid() || !s.Manifold() || s.Degenerate > 0 || u.Reason != "" {
					t.Fatalf("solid %v, manifold %v, %d slivers, %s", s.Solid(), s.Manifold(), s.Degenerate, u.Reason)
				}
				if v := mesh.Measure(u.Mesh).Volume; !near(v, test.volume, 1e-12) || u.Volume[1] != v {
					t.Errorf("volume is %v and %v, not %v", v, u.Volume[1], test.volume)
				}
				if removed := u.Mesh.Clone().Weld(0); removed > 0 || u.Seams > 0 {
					t.Errorf("%d vertices are there twice, at %d seams", removed, u.Seams)
				}
				if way == "apart" {
					same := func(a, b mesh.Overlap) bool {
						return a.Shells == b.Shells && min(a.Crossings, 1) == b.Crossings
					}
					if !slices.EqualFunc(u.Overlaps, test.overlaps, same) {
						t.Errorf("overlaps are %v, not %v", u.Overlaps, test.overlaps)
					}
				}
				if again := union(t, u.Mesh, 1); again.Changed || again.Reason != "" {
					t.Errorf("joined again, it changes: %s", again.Reason)
				}
			})
		}
	}
}

func TestUnionLeavesSoundMeshesAlone(t *testing.T) {
	shell := together(cube(0, 0, 0), inverted(moved(cuboid(6, 6, 6), 2, 2, 2)))
	for name, m := range map[string]*mesh.Mesh{
		"cube":               cube(0, 0, 0),
		"sphere":             turned(sphere(5, 4), 0.3),
		"tube":               turned(prism(30, 5, 4, 7), 0.6),
		"apart":              together(cube(0, 0, 0), cube(10.001, 0, 0), turned(sphere(3, 2), 0.5)),
		"cavity":             shell,
		"part in a cavity":   together(shell, moved(cuboid(2, 2, 2), 4, 4, 4)),
		"touch on an edge":   together(cube(0, 0, 0), cube(10, 10, 0)),
		"touch in a corner":  together(cube(0, 0, 0), cube(10, 10, 10)),
		"corner on a face":   together(cube(0, 0, 0), moved(sphere(2, 0), 5, 5, 12)),
		"edge across a face": together(moved(cuboid(10, 10, 10), -5, -5, -10), moved(prism(4, 2, 0, 4).Transformed(mesh.Rotation(mesh.Vec{0, 1, 0}, math.Pi/2)), 0, 0, 2)),
		"dust":               together(cube(0, 0, 0), moved(cuboid(1e-9, 1e-9, 1e-9), 20, 5, 5)),
		"stray vertex":       {Vertices: append(cube(0, 0, 0).Vertices, mesh.Vec{1e8, 0, 0}), Facets: cube(0, 0, 0).Facets},
	} {
		u := union(t, m, 1)
		if u.Changed || u.Mesh != m || u.Reason != "" || u.Volume[0] != u.Volume[1] {
			t.Errorf("%s was changed: %v %s", name, u.Overlaps, u.Reason)
		}
	}
}

func TestUnionPartsWhatTouches(t *testing.T) {
	for name, test := range map[string]struct {
		m     *mesh.Mesh
		seams int
	}{
		"edge":        {together(cube(0, 0, 0), cube(10, 10, 0)), 1},
		"fine edge":   {together(refined(cube(0, 0, 0)), refined(cube(10, 10, 0))), 2},
		"two corners": {together(cube(0, 0, 0), cube(10, 10, 0), cube(10, 0, 10), cube(0, 10, 10)), 6},
		"closed ring": {together(cube(0, 0, 0), cube(10, 10, 0), cube(20, 0, 0), cube(10, -10, 0)), 4},
	} {
		m := test.m
		m.Weld(0)
		if mesh.Analyse(m).Solid() {
			t.Fatalf("%s: nothing to do", name)
		}
		u := union(t, m, 1)
		s := mesh.Analyse(u.Mesh)
		if !u.Changed || !s.Solid() || !s.Manifold() || u.Seams != test.seams || !near(u.Volume[1], u.Volume[0], 1e-12) {
			t.Errorf("%s: solid %v, %d seams, %s", name, s.Solid(), u.Seams, u.Reason)
		}
	}
}

func TestUnionRefuses(t *testing.T) {
	open := cube(0, 0, 0)
	open.Facets = open.Facets[1:]
	sheet := together(&mesh.Mesh{Vertices: []mesh.Vec{{}, {9, 0, 0}, {0, 9, 0}}, Facets: []mesh.Facet{{0, 1, 2}, {0, 2, 1}}})
	tests := map[string]struct {
		m      *mesh.Mesh
		limit  int
		reason string
	}{
		"open":       {together(open, cube(5, 5, 5)), 0, "open"},
		"inside out": {together(cube(0, 0, 0), inverted(cube(20, 0, 0))), 0, "shell 2 is inside out"},
		"all of it":  {inverted(cube(20, 0, 0)), 0, "shell 1 is inside out"},
		"entangled":  {together(sphere(5, 4), moved(sphere(5, 4), 1, 2, 1)), 100, "more than 100 pairs"},
		"sheet":      {sheet, 0, "no volume"},
		"not finite": {together(cube(0, 0, 0), cube(math.NaN(), 0, 0)), 0, "not finite"},
	}
	for name, test := range tests {
		u, err := mesh.Union(t.Context(), test.m, mesh.UnionOptions{MaxContacts: test.limit})
		if err != nil {
			t.Fatal(err)
		}
		if u.Changed || u.Mesh != test.m || !strings.Contains(u.Reason, test.reason) {
			t.Errorf("%s: changed %v, %q", name, u.Changed, u.Reason)
		}
	}
	if u := union(t, &mesh.Mesh{}, 1); u.Changed || len(u.Overlaps) > 0 {
		t.Errorf("of nothing came %+v", u)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the customer left")
	cancel(why)
	if _, err := mesh.Union(ctx, together(cube(0, 0, 0), cube(5, 5, 5)), mesh.UnionOptions{}); !errors.Is(err, why) {
		t.Errorf("a cancelled union gave %v", err)
	}
}

// TestUnionOfSpheres compares with the lens that two balls of radius r at a
// distance d have in common: π(4r+d)(2r-d)²/12.
func TestUnionOfSpheres(t *testing.T) {
	const r, d = 5.0, 4.0
	m := together(turned(sphere(r, 5), 0.1), moved(turned(sphere(r, 5), 0.1), d/3, 2*d/3, 2*d/3))
	ball, lens := 4*math.Pi*r*r*r/3, math.Pi*(4*r+d)*(2*r-d)*(2*r-d)/12
	if u := union(t, m, 1); !near(u.Volume[1], 2*ball-lens, 2e-3) {
		t.Errorf("the union's volume is %v, not about %v", u.Volume[1], 2*ball-lens)
	}
	if u := union(t, m, 2); !near(u.Volume[1], lens, 5e-3) {
		t.Errorf("the lens' volume is %v, not about %v", u.Volume[1], lens)
	}
}

// TestUnionProperties joins parts at random places and at places that make
// everything meet. Space is counted as often as it is covered: the volumes of
// what at least 1, 2, … parts cover add up to that of all parts.
func TestUnionProperties(t *testing.T) {
	size := rapid.Float64Range(3, 12)
	shape := rapid.Custom(func(t *rapid.T) *mesh.Mesh {
		switch rapid.IntRange(0, 4).Draw(t, "shape") {
		case 0:
			return cuboid(5, 5, 5)
		case 1:
			return cuboid(size.Draw(t, "x"), size.Draw(t, "y"), size.Draw(t, "z"))
		case 2:
			return refined(cuboid(4, 6, 8))
		case 3:
			return sphere(size.Draw(t, "radius")/2, rapid.IntRange(0, 3).Draw(t, "depth"))
		}
		return prism(rapid.IntRange(3, 30).Draw(t, "corners"), 5, rapid.Float64Range(1e-3, 4).Draw(t, "hole"), 6)
	})
	axis := rapid.Custom(func(t *rapid.T) mesh.Vec {
		n := rapid.Float64Range(-1, 1)
		return mesh.Vec{n.Draw(t, "x"), n.Draw(t, "y"), n.Draw(t, "z") + 2}
	})
	angle, step := rapid.Float64Range(0, 6), rapid.IntRange(0, 3)
	rapid.Check(t, func(t *rapid.T) {
		all := mesh.Rotation(axis.Draw(t, "axis of all"), angle.Draw(t, "angle of all"))
		if rapid.Bool().Draw(t, "straight") {
			all = mesh.Identity()
		}
		all = all.Then(mesh.Scaling(math.Exp(rapid.Float64Range(-6, 6).Draw(t, "scale"))))
		first := shape.Draw(t, "first shape")
		var parts []*mesh.Mesh
		largest := 0.0
		for range rapid.IntRange(2, 4).Draw(t, "parts") {
			m := first
			if rapid.Bool().Draw(t, "another shape") {
				m = shape.Draw(t, "shape")
			}
			place := mesh.Identity()
			switch rapid.IntRange(0, 2).Draw(t, "place") {
			case 0:
				place = mesh.Rotation(axis.Draw(t, "axis"), angle.Draw(t, "angle"))
				place.Shift = axis.Draw(t, "shift")
			case 1:
				place.Shift = mesh.Vec{float64(step.Draw(t, "x")), float64(step.Draw(t, "y")), float64(step.Draw(t, "z"))}
			case 2:
				place = mesh.Rotation(mesh.Vec{0, 0, 1}, float64(step.Draw(t, "twelfths"))*math.Pi/6)
			}
			m = m.Transformed(place.Then(all))
			largest = max(largest, mesh.Measure(m).Volume)
			parts = append(parts, m)
		}
		m := together(parts...)
		if rapid.Bool().Draw(t, "welded") {
			m.Weld(0)
		}
		u := union(t, m, 1)
		if s := mesh.Analyse(u.Mesh); !s.Solid() || u.Reason != "" || u.Crossing > 0 {
			t.Fatalf("solid %v, %s, %d pairs cross", s.Solid(), u.Reason, u.Crossing)
		}
		sum := 0.0
		for winding := 1; winding <= len(parts); winding++ {
			sum += union(t, m, winding).Volume[1]
		}
		if relative := func(a, b float64) bool { return math.Abs(a-b) <= 1e-6*b }; !relative(sum, u.Volume[0]) {
			t.Fatalf("volumes are %v together, not %v", sum, u.Volume[0])
		}
		if u.Volume[1] < largest*(1-1e-7) || u.Volume[1] > u.Volume[0]*(1+1e-7) {
			t.Fatalf("volume is %v, of parts up to %v and %v together", u.Volume[1], largest, u.Volume[0])
		}
		if again := union(t, u.Mesh, 1); again.Changed || again.Reason != "" {
			t.Fatalf("joined again, it changes: %s", again.Reason)
		}
	})
}

// TestCorpusUnion joins real parts with copies of themselves, and has admesh
// judge the outcome where it is installed.
func TestCorpusUnion(t *testing.T) {
	for _, file := range append(corpus(t, "3mf/core/*.3mf"), corpus(t, "so-arm100/*.[sS][tT][lL]")...) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			o := mesh.Options{}
			if mesh.FormatOf(file) == mesh.STL {
				o.Unit = mesh.Millimetre
			}
			model, err := mesh.Parse(data, o)
			if err != nil {
				t.Fatal(err)
			}
			m := model.Mesh
			size := m.Bounds().Size().Mul(0.137)
			for name, both := range map[string]*mesh.Mesh{
				"itself":  m,
				"shifted": together(m, moved(m, size[0], size[1], size[2])),
				"turned":  together(m, m.Transformed(mesh.Rotation(mesh.Vec{1, 2, 3}, 0.7))),
			} {
				u := union(t, both, 1)
				if u.Reason != "" {
					t.Errorf("%s: %s", name, u.Reason)
				}
				if !u.Changed {
					continue
				}
				if s := mesh.Analyse(u.Mesh); !s.Solid() || u.Crossing > 0 || u.Volume[1] > u.Volume[0]*(1+1e-9) || u.Volume[1] <= 0 {
					t.Errorf("%s: solid %v, %d pairs cross, volume %v", name, s.Solid(), u.Crossing, u.Volume)
				}
				if again := union(t, u.Mesh, 1); again.Changed || again.Reason != "" {
					t.Errorf("%s: joined again, it changes: %s", name, again.Reason)
				}
				if faults := admeshFaults(t, u.Mesh); faults != "" {
					t.Errorf("%s: admesh finds %s", name, faults)
				}
			}
		})
	}
}

// BenchmarkUnion joins three balls, 98304 facets; sound is what a mesh of that
// size costs that has nothing to join.
func BenchmarkUnion(b *testing.B) {
	ball := turned(sphere(10, 6), 0.2)
	for name, m := range map[string]*mesh.Mesh{
		"overlap": together(ball, moved(ball, 4, 5, 6), moved(ball, -3, 6, -5)),
		"sound":   together(ball, moved(ball, 21, 0, 0), moved(ball, -21, 0, 0)),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				u, err := mesh.Union(b.Context(), m, mesh.UnionOptions{})
				if err != nil || u.Changed != (name == "overlap") {
					b.Fatal(err, u)
				}
			}
			b.ReportMetric(float64(len(m.Facets))*float64(b.N)/b.Elapsed().Seconds(), "facets/s")
		})
	}
}
