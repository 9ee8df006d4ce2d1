package mesh_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"inshape/mesh"
)

// inverted looks inwards: a cavity, once it is appended to a solid around it.
func inverted(m *mesh.Mesh) *mesh.Mesh {
	m = m.Clone()
	for i, f := range m.Facets {
		m.Facets[i] = mesh.Facet{f[0], f[2], f[1]}
	}
	return m
}

// ball is a sphere between meridians and parallels, as CAD programs write it.
func ball(r float64, n int) *mesh.Mesh {
	return spun(n, func(t float64) (float64, float64) {
		s, c := math.Sincos(math.Pi * t)
		return r * s, -r * c
	}, n)
}

// spun turns the profile (radius, height), from the axis at t = 0 to the axis at
// t = 1, around z.
func spun(n int, profile func(t float64) (r, z float64), steps int) *mesh.Mesh {
	m := &mesh.Mesh{}
	_, z0 := profile(0)
	_, z1 := profile(1)
	m.Vertices = append(m.Vertices, mesh.Vec{0, 0, z0}, mesh.Vec{0, 0, z1})
	at := func(i, k int) int32 { return int32(2 + (i-1)*n + k%n) }
	for i := 1; i < steps; i++ {
		r, z := profile(float64(i) / float64(steps))
		for k := range n {
			s, c := math.Sincos(2 * math.Pi * float64(k) / float64(n))
			m.Vertices = append(m.Vertices, mesh.Vec{r * c, r * s, z})
		}
	}
	for k := range n {
		m.Facets = append(m.Facets, mesh.Facet{0, at(1, k+1), at(1, k)}, mesh.Facet{1, at(steps-1, k), at(steps-1, k+1)})
		for i := 1; i < steps-1; i++ {
			a, b, c, d := at(i, k), at(i, k+1), at(i+1, k+1), at(i+1, k)
			m.Facets = append(m.Facets, mesh.Facet{a, b, c}, mesh.Facet{a, c, d})
		}
	}
	return m
}

// torus has its ring in the plane across z.
func torus(ring, tube float64, n, k int) *mesh.Mesh {
	m := &mesh.Mesh{}
	for i := range n {
		s, c := math.Sincos(2 * math.Pi * float64(i) / float64(n))
		for j := range k {
			u, v := math.Sincos(2 * math.Pi * float64(j) / float64(k))
			m.Vertices = append(m.Vertices, mesh.Vec{(ring + tube*v) * c, (ring + tube*v) * s, tube * u})
		}
	}
	at := func(i, j int) int32 { return int32(i%n*k + j%k) }
	for i := range n {
		for j := range k {
			a, b, c, d := at(i, j), at(i+1, j), at(i+1, j+1), at(i, j+1)
			m.Facets = append(m.Facets, mesh.Facet{a, b, c}, mesh.Facet{a, c, d})
		}
	}
	return m
}

// wedge has its edge on the y axis, opens by angle towards x around z = 0 and is
// length long along both.
func wedge(length, angle float64) *mesh.Mesh {
	h := length * math.Tan(angle/2)
	return &mesh.Mesh{
		Vertices: []mesh.Vec{{0, 0, 0}, {0, length, 0}, {length, 0, -h}, {length, length, -h}, {length, 0, h}, {length, length, h}},
		Facets:   []mesh.Facet{{0, 1, 3}, {0, 3, 2}, {0, 4, 5}, {0, 5, 1}, {0, 2, 4}, {1, 5, 3}, {2, 3, 5}, {2, 5, 4}},
	}
}

func cone(r, h float64, n int) *mesh.Mesh {
	m := &mesh.Mesh{Vertices: []mesh.Vec{{0, 0, 0}, {0, 0, h}}}
	for i := range n {
		s, c := math.Sincos(2 * math.Pi * float64(i) / float64(n))
		m.Vertices = append(m.Vertices, mesh.Vec{r * c, r * s, 0})
	}
	for i := range n {
		a, b := int32(2+i), int32(2+(i+1)%n)
		m.Facets = append(m.Facets, mesh.Facet{0, b, a}, mesh.Facet{1, a, b})
	}
	return m
}

func facing(axis int, want float64) func(middle, normal mesh.Vec) float64 {
	return func(_, n mesh.Vec) float64 {
		if math.Abs(n[axis]) > 0.9 {
			return want
		}
		return 0
	}
}

func around(want float64) func(middle, normal mesh.Vec) float64 {
	return func(_, n mesh.Vec) float64 {
		if math.Abs(n[2]) < 0.1 {
			return want
		}
		return 0
	}
}

func always(want float64) func(middle, normal mesh.Vec) float64 {
	return func(mesh.Vec, mesh.Vec) float64 { return want }
}

// The width at a facet's middle in the solid's own place, 0 where nothing is
// asked.
var solids = map[string]struct {
	m    *mesh.Mesh
	want func(middle, normal mesh.Vec) float64
}{
	"plate":        {refined(refined(cuboid(30, 20, 1.5))), facing(2, 1.5)},
	"coarse plate": {cuboid(30, 20, 0.4), facing(2, 0.4)},
	"box across x": {refined(cuboid(10, 20, 30)), facing(0, 10)},
	"box across y": {refined(cuboid(10, 20, 30)), facing(1, 20)},
	"sphere":       {sphere(10, 4), always(20)},
	"ball":         {ball(10, 48), always(20)},
	"shell":        {joined(sphere(20, 5), inverted(sphere(18.8, 5))), always(1.2)},
	"thick shell":  {joined(ball(20, 64), inverted(sphere(15, 5))), always(5)},
	"cylinder":     {prism(96, 4, 0, 30), around(8)},
	"tube":         {refined(prism(64, 10, 8, 40)), around(2)},
	"coarse tube":  {prism(48, 10, 9.2, 60), around(0.8)},
	"torus":        {torus(20, 3, 96, 48), always(6)},
	"thin torus":   {torus(20, 0.4, 200, 24), always(0.8)},
	"wedge": {refined(refined(refined(wedge(20, 0.3)))), func(middle, n mesh.Vec) float64 {
		if math.Abs(n[2]) < 0.9 || middle[0] > 15 {
			return 0
		}
		// From the edge to where the ball touches, along the face.
		return 2 * math.Hypot(middle[0], middle[2]) * math.Tan(0.15)
	}},
	"cone": {refined(refined(refined(cone(3, 20, 64)))), func(middle, n mesh.Vec) float64 {
		if n[2] < -0.5 || middle[2] < 6 {
			return 0
		}
		slant := math.Hypot(math.Hypot(middle[0], middle[1]), 20-middle[2])
		return 2 * slant * 3 / 20
	}},
}

func TestThickness(t *testing.T) {
	for name, test := range solids {
		first := make([]float64, len(test.m.Facets))
		for i := range 3 {
			m := turned(test.m, float64(i)/2)
			w, err := mesh.NewBVH(m).Thickness(t.Context(), mesh.WidthOptions{})
			if err != nil {
				t.Fatal(err)
			}
			asked := 0
			for f, got := range w.Facets {
				a, b, c := test.m.Corners(f)
				want := test.want(a.Add(b).Add(c).Mul(1./3), test.m.Normal(f))
				if want == 0 {
					continue
				}
				asked++
				if math.Abs(got-want) > math.Max(0.05, 0.05*want) {
					t.Fatalf("%s %d: facet %d at %v is %v thick, not %v", name, i, f, a, got, want)
				}
				if i == 0 {
					first[f] = got
				} else if math.Abs(got-first[f]) > 0.02*want {
					t.Fatalf("%s: facet %d is %v thick in one place and %v in another", name, f, first[f], got)
				}
			}
			if asked == 0 {
				t.Fatalf("%s: no facet was asked about", name)
			}
		}
	}
}

// A gap is a wall of air: what is 1.2 between two parts is 1.2 in a solid that
// is their negative.
func TestClearance(t *testing.T) {
	tests := map[string]struct {
		m    *mesh.Mesh
		want float64
	}{
		"two plates":    {joined(cuboid(30, 20, 2), moved(cuboid(30, 20, 2), 0, 0, 2.35)), 0.35},
		"shaft in hole": {joined(prism(96, 10, 6, 20), moved(prism(96, 5.7, 0, 30), 0, 0, -5)), 0.3},
		"ball in shell": {joined(sphere(20, 5), inverted(sphere(15, 5)), sphere(14.2, 5)), 0.8},
		"cube":          {cuboid(1, 2, 3), math.Inf(1)},
	}
	for name, test := range tests {
		for i := range 2 {
			w, err := mesh.NewBVH(turned(test.m, float64(i)/3)).Clearance(t.Context(), mesh.WidthOptions{Limit: 1, Reach: 3, Samples: 10_000})
			if err != nil {
				t.Fatal(err)
			}
			if w.Least.Width != test.want && !(math.Abs(w.Least.Width-test.want) <= 0.02*test.want+0.01) {
				t.Errorf("%s %d: the least gap is %v, not %v", name, i, w.Least.Width, test.want)
			}
			if thin := test.want < 1; (len(w.Places) > 0) != thin || (w.Thin > 0) != thin {
				t.Errorf("%s %d: %d places, share %v", name, i, len(w.Places), w.Thin)
			}
		}
	}
}

// What a printability check would miss if it looked at facets' middles only, or
// took every edge for a thin wall.
func TestThinPlaces(t *testing.T) {
	plate := cuboid(60, 40, 5)
	fin := moved(cuboid(0.4, 30, 8), 20, 5, 5)
	rib := moved(cuboid(12, 0.5, 0.8), 40, 20, 5)
	tests := map[string]struct {
		m      *mesh.Mesh
		least  float64 // what Least must be, within 10 %; -1: below the limit
		places int
		area   float64 // what the thin places add up to, within 15 %
	}{
		"sound box":        {cuboid(30, 20, 10), 10, 0, 0},
		"prism of 60°":     {prism(3, 20, 0, 30), 20, 0, 0},
		"cone of 53°":      {cone(10, 20, 64), 10, 0, 0},
		"fin and rib":      {joined(plate, fin, rib), 0.4, 2, 2*30*8 + 2*12*0.8},
		"needle of 17°":    {cone(3, 20, 48), -1, 1, 0},
		"wedge of 17°":     {wedge(20, 0.3), -1, 1, 2 * 20 * 0.5 / math.Tan(0.15)},
		"triangular wire":  {prism(3, 0.4, 0, 30), 0.4, 1, 0},
		"box with a blade": {joined(cuboid(20, 20, 20), moved(wedge(20, 0.3), -20, 0, 10)), -1, 1, 2 * 20 * 0.5 / math.Tan(0.15)},
	}
	for name, test := range tests {
		for i := range 3 {
			m := turned(test.m, float64(i)/3)
			w, err := mesh.NewBVH(m).Thickness(t.Context(), mesh.WidthOptions{Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			if test.least < 0 && !(w.Least.Width < 0.2) {
				t.Errorf("%s %d: the least is %v", name, i, w.Least.Width)
			}
			if test.least > 0 && test.places > 0 && math.Abs(w.Least.Width-test.least) > 0.1*test.least {
				t.Errorf("%s %d: the least is %v, not %v", name, i, w.Least.Width, test.least)
			}
			if test.places == 0 && w.Least.Width < 0.9*test.least {
				t.Errorf("%s %d: the least is %v, not about %v", name, i, w.Least.Width, test.least)
			}
			if w.Found != test.places || len(w.Places) != test.places {
				t.Errorf("%s %d: %d places, not %d: %v", name, i, w.Found, test.places, w.Places)
			}
			area := 0.0
			for _, p := range w.Places {
				area += p.Area
			}
			if share := area / mesh.Measure(m).Area; !near(share, w.Thin, 1e-9) {
				t.Errorf("%s %d: the share is %v, its places have %v", name, i, w.Thin, share)
			}
			if test.area > 0 && math.Abs(area-test.area) > 0.15*test.area {
				t.Errorf("%s %d: %v mm² are thin, not %v", name, i, area, test.area)
			}
			if w.Least.Facet >= 0 && w.Found > 0 && w.Places[0].Spot != w.Least {
				t.Errorf("%s %d: the least spot %v is not of the first place %v", name, i, w.Least, w.Places[0].Spot)
			}
		}
	}
}

func TestThicknessDoesNotDependOnChance(t *testing.T) {
	b := mesh.NewBVH(turned(joined(sphere(10, 5), inverted(ball(9, 60))), 0.3))
	want, err := b.Thickness(t.Context(), mesh.WidthOptions{Limit: 1.1})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		got, err := b.Thickness(t.Context(), mesh.WidthOptions{Limit: 1.1})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Facets, want.Facets) || got.Least != want.Least || got.Thin != want.Thin {
			t.Fatal("the same mesh has two thicknesses")
		}
	}
}

func TestThicknessReach(t *testing.T) {
	b := mesh.NewBVH(joined(cuboid(30, 20, 8), moved(cuboid(30, 20, 2), 0, 0, 20)))
	w, err := b.Thickness(t.Context(), mesh.WidthOptions{Reach: 5})
	if err != nil {
		t.Fatal(err)
	}
	for f, got := range w.Facets {
		want := math.Inf(1)
		if f >= 12 && math.Abs(joined(cuboid(1, 1, 1)).Normal(f - 12)[2]) == 1 {
			want = 2
		}
		if got != want && math.Abs(got-want) > 0.01 {
			t.Errorf("facet %d: %v, not %v", f, got, want)
		}
	}
}

func TestThicknessOfNothing(t *testing.T) {
	for name, m := range map[string]*mesh.Mesh{
		"empty":      {},
		"degenerate": {Vertices: []mesh.Vec{{}, {1, 0, 0}, {2, 0, 0}}, Facets: []mesh.Facet{{0, 1, 2}, {0, 0, 1}}},
		"one facet":  {Vertices: []mesh.Vec{{}, {1, 0, 0}, {0, 1, 0}}, Facets: []mesh.Facet{{0, 1, 2}}},
	} {
		w, err := mesh.NewBVH(m).Thickness(t.Context(), mesh.WidthOptions{Limit: 1})
		if err != nil || w.Least.Facet != -1 || w.Found != 0 || w.Thin != 0 {
			t.Errorf("%s: %+v %v", name, w, err)
		}
		for _, x := range w.Facets {
			if !math.IsInf(x, 1) {
				t.Errorf("%s: thickness %v", name, x)
			}
		}
	}
}

func TestThicknessCancelled(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := mesh.NewBVH(cuboid(1, 1, 1)).Thickness(ctx, mesh.WidthOptions{}); !errors.Is(err, why) {
		t.Errorf("error is %v", err)
	}
}

// A finely tessellated ball, every facet of which is as near to its middle as
// every other.
func BenchmarkThicknessOfBall(b *testing.B) {
	m := ball(30, 201) // 80,400 facets
	for b.Loop() {
		if _, err := mesh.NewBVH(m).Thickness(b.Context(), mesh.WidthOptions{Limit: 1}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(m.Facets)*b.N)/b.Elapsed().Seconds(), "facets/s")
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
