package mesh_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"inshape/mesh"
)

func TestRepair(t *testing.T) {
	solid := func() *mesh.Mesh { return turned(refined(refined(cuboid(10, 20, 30))), 0.4) }
	tests := map[string]struct {
		damage func(m *mesh.Mesh)
		action mesh.ActionCode
	}{
		"hole":       {func(m *mesh.Mesh) { m.Facets = append(m.Facets[:20], m.Facets[26:]...) }, "fill"},
		"many holes": {func(m *mesh.Mesh) { m.Facets = append(m.Facets[:1], m.Facets[40:]...) }, "fill"},
		"flipped": {func(m *mesh.Mesh) {
			for i := range 30 {
				slices.Reverse(m.Facets[i][:])
			}
		}, "flip"},
		"inside out": {func(m *mesh.Mesh) {
			for i := range m.Facets {
				slices.Reverse(m.Facets[i][:])
			}
		}, "invert"},
		"duplicates": {func(m *mesh.Mesh) { m.Facets = append(m.Facets, m.Facets[:7]...) }, "duplicate"},
		"degenerate": {func(m *mesh.Mesh) { m.Facets = append(m.Facets, mesh.Facet{3, 3, 9}) }, "degenerate"},
		"debris": {func(m *mesh.Mesh) {
			m.Append(cuboid(10, 20, 30).Transformed(mesh.Scaling(1e-4)))
		}, "debris"},
		"gap": {func(m *mesh.Mesh) {
			f := &m.Facets[50]
			m.Vertices = append(m.Vertices, m.Vertices[f[0]].Add(mesh.Vec{1e-5, 0, 0}))
			f[0] = int32(len(m.Vertices) - 1)
		}, "stitch"},
		"unwelded": {func(m *mesh.Mesh) {
			for i, f := range m.Facets {
				for k, v := range f {
					m.Facets[i][k] = int32(len(m.Vertices))
					m.Vertices = append(m.Vertices, m.Vertices[v])
				}
			}
		}, "weld"},
		"doubled": {func(m *mesh.Mesh) {
			for _, f := range slices.Clone(m.Facets) {
				m.Facets = append(m.Facets, mesh.Facet{f[0], f[2], f[1]})
			}
		}, "duplicate"},
		"t-junctions": {func(m *mesh.Mesh) {
			for i := range 9 { // a facet in two; its neighbour stays as it is
				f := m.Facets[17*i]
				m.Vertices = append(m.Vertices, m.Vertices[f[0]].Add(m.Vertices[f[1]]).Mul(0.5))
				v := int32(len(m.Vertices) - 1)
				m.Facets[17*i] = mesh.Facet{f[0], v, f[2]}
				m.Facets = append(m.Facets, mesh.Facet{v, f[1], f[2]})
			}
		}, "t-junction"},
		"one shell inside out": {func(m *mesh.Mesh) {
			o := cuboid(0.5, 0.5, 0.5)
			for i := range o.Facets {
				slices.Reverse(o.Facets[i][:])
			}
			for i := range o.Vertices {
				o.Vertices[i] = o.Vertices[i].Add(mesh.Vec{100, 0, 0})
			}
			m.Append(o)
		}, "invert"},
		"loose sheet": {func(m *mesh.Mesh) {
			n := int32(len(m.Vertices))
			m.Vertices = append(m.Vertices, mesh.Vec{50, 50, 50}, mesh.Vec{52, 50, 50}, mesh.Vec{50, 52, 50})
			m.Facets = append(m.Facets, mesh.Facet{n, n + 1, n + 2})
		}, "debris"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := solid()
			test.damage(m)
			r := mesh.Repair(m, mesh.RepairOptions{})
			if !r.Solid {
				t.Fatalf("not mended: %s; %v", r.Reason, r.Actions)
			}
			if volume := mesh.Measure(r.Mesh).Volume; !near(volume, 6000, 1e-4) {
				t.Errorf("volume is %v, not 6000", volume)
			}
			if !slices.ContainsFunc(r.Actions, func(a mesh.Action) bool { return a.Code == test.action }) {
				t.Errorf("actions are %v, without %s", r.Actions, test.action)
			}
		})
	}
}

func TestRepairLeavesSoundMeshesAlone(t *testing.T) {
	cavity := cuboid(10, 10, 10)
	inner := cuboid(2, 2, 2)
	for i, f := range inner.Facets {
		inner.Facets[i] = mesh.Facet{f[0], f[2], f[1]}
	}
	for i := range inner.Vertices {
		inner.Vertices[i] = inner.Vertices[i].Add(mesh.Vec{4, 4, 4})
	}
	cavity.Append(inner)
	for name, m := range map[string]*mesh.Mesh{"cuboid": cuboid(1, 2, 3), "tube": prism(40, 5, 3, 9), "cavity": cavity, "sphere": sphere(4, 5)} {
		r := mesh.Repair(m, mesh.RepairOptions{})
		if !r.Solid || len(r.Actions) != 0 || !slices.Equal(r.Mesh.Facets, m.Facets) || !slices.Equal(r.Mesh.Vertices, m.Vertices) {
			t.Errorf("%s was changed: %v %s", name, r.Actions, r.Reason)
		}
	}
}

// moved is a cuboid away from the origin.
func moved(m *mesh.Mesh, x, y, z float64) *mesh.Mesh {
	return m.Transformed(mesh.Transform{Linear: mesh.Identity().Linear, Shift: mesh.Vec{x, y, z}})
}

func joined(parts ...*mesh.Mesh) *mesh.Mesh {
	m := &mesh.Mesh{}
	for _, p := range parts {
		m.Append(p)
	}
	m.Weld(0)
	return m
}

// What touches, is nested or is open in a way that has one answer.
func TestRepairTakesApart(t *testing.T) {
	tube := prism(24, 10, 6, 7)
	ring := tube.Clone()
	ring.Facets = slices.DeleteFunc(ring.Facets, func(f mesh.Facet) bool { // no upper face: two borders in one plane
		return ring.Vertices[f[0]][2] == 7 && ring.Vertices[f[1]][2] == 7 && ring.Vertices[f[2]][2] == 7
	})
	r := rand.New(rand.NewPCG(1, 2))
	whole := sphere(10, 4)
	soup := &mesh.Mesh{} // every facet for itself, a hair off
	for f := range whole.Facets {
		for _, v := range whole.Facets[f] {
			soup.Vertices = append(soup.Vertices, whole.Vertices[v].Add(mesh.Vec{r.Float64(), r.Float64(), r.Float64()}.Mul(1e-4)))
		}
		n := int32(3 * f)
		soup.Facets = append(soup.Facets, mesh.Facet{n, n + 1, n + 2})
	}
	plate := refined(cuboid(100, 100, 2))
	plate.Facets = slices.DeleteFunc(plate.Facets, func(f mesh.Facet) bool {
		return plate.Vertices[f[0]][2] == 2 && plate.Vertices[f[1]][2] == 2 && plate.Vertices[f[2]][2] == 2
	})
	many := prism(500, 10, 0, 7)
	many.Facets = slices.DeleteFunc(many.Facets, func(f mesh.Facet) bool { return many.Vertices[f[2]] == mesh.Vec{0, 0, 7} })
	wall := joined(cuboid(1, 1, 1), moved(cuboid(1, 1, 1), 1, 0, 0))
	seen := 0
	wall.Facets = slices.DeleteFunc(wall.Facets, func(f mesh.Facet) bool { // keep one of the two sheets between them
		if wall.Vertices[f[0]][0] == 1 && wall.Vertices[f[1]][0] == 1 && wall.Vertices[f[2]][0] == 1 {
			seen++
			return seen > 2
		}
		return false
	})
	tests := map[string]struct {
		m      *mesh.Mesh
		volume float64
		shells int
		action mesh.ActionCode
	}{
		"cubes on an edge":      {joined(cuboid(1, 1, 1), moved(cuboid(1, 1, 1), 1, 1, 0)), 2, 2, mesh.SplitEdge},
		"cubes on a corner":     {joined(cuboid(1, 1, 1), moved(cuboid(1, 1, 1), 1, 1, 1)), 2, 2, mesh.SplitPoint},
		"cubes on a face":       {joined(cuboid(1, 1, 1), moved(cuboid(1, 1, 1), 1, 0, 0)), 2, 1, mesh.Undoubled},
		"four cubes on an axis": {joined(cuboid(1, 1, 1), moved(cuboid(1, 1, 1), 1, 1, 0), moved(cuboid(1, 1, 1), 1, 0, 1), moved(cuboid(1, 1, 1), 0, 1, 1)), 4, 4, mesh.SplitEdge},
		"cubes with a wall":     {wall, 2, 1, mesh.Unwalled},
		"soup":                  {soup, mesh.Measure(whole).Volume, 1, mesh.Stitched},
		"plate without a face":  {plate, 20_000, 1, mesh.Filled},
		"ring":                  {ring, mesh.Measure(tube).Volume, 1, mesh.Filled},
		"round hole":            {many, mesh.Measure(prism(500, 10, 0, 7)).Volume, 1, mesh.Filled},
	}
	for name, test := range tests {
		for i := range 4 {
			t.Run(fmt.Sprint(name, i), func(t *testing.T) {
				m := turned(test.m, float64(i)/3)
				r := mesh.Repair(m, mesh.RepairOptions{})
				if !r.Solid {
					t.Fatalf("not mended: %s; %v", r.Reason, r.Actions)
				}
				got := mesh.Measure(r.Mesh)
				if !near(got.Volume, test.volume, 1e-4) || r.After.Shells != test.shells || !r.After.Manifold() {
					t.Errorf("volume %v, not %v; %d shells, not %d; %v", got.Volume, test.volume, r.After.Shells, test.shells, r.Actions)
				}
				if !slices.ContainsFunc(r.Actions, func(a mesh.Action) bool { return a.Code == test.action }) {
					t.Errorf("actions are %v, without %s", r.Actions, test.action)
				}
				if test.action != mesh.SplitPoint {
					survives(t, r.Mesh)
				}
			})
		}
	}
}

func TestRepairUnites(t *testing.T) {
	skewed := mesh.Rotation(mesh.Vec{1, 2, 3}, 0.3)
	for name, test := range map[string]struct {
		m      *mesh.Mesh
		volume float64
	}{
		"overlap":               {joined(cuboid(10, 10, 10), moved(cuboid(10, 10, 10), 4, 5, 6)), 2000 - 6*5*4},
		"overlap, turned":       {joined(cuboid(10, 10, 10), moved(cuboid(10, 10, 10), 4, 5, 6)).Transformed(skewed), 2000 - 6*5*4},
		"flush":                 {joined(cuboid(10, 10, 10), moved(cuboid(10, 10, 10), 4, 0, 0)), 1400},
		"part of a face":        {joined(cuboid(10, 10, 10), moved(cuboid(10, 10, 10), 10, 5, 3)), 2000},
		"inside":                {joined(cuboid(10, 10, 10), moved(cuboid(2, 2, 2), 4, 4, 4)), 1000},
		"overlap and edge":      {joined(cuboid(10, 10, 10), moved(cuboid(10, 10, 10), 10, 10, 0), moved(cuboid(4, 4, 4), 8, 3, 3)), 2000 + 32},
		"overlap and edge, two": {joined(cuboid(10, 10, 10), moved(cuboid(10, 10, 10), 5, 0, 0), moved(cuboid(10, 10, 10), 15, 10, 0)), 2500},
	} {
		t.Run(name, func(t *testing.T) {
			r := mesh.Repair(test.m, mesh.RepairOptions{})
			if !r.Solid {
				t.Fatalf("not united: %s", r.Reason)
			}
			i := slices.IndexFunc(r.Actions, func(a mesh.Action) bool { return a.Code == mesh.United })
			if i < 0 || !strings.Contains(r.Actions[i].Text, "overlapped") {
				t.Errorf("actions are %v", r.Actions)
			}
			if v := mesh.Measure(r.Mesh).Volume; !near(v, test.volume, 1e-4) {
				t.Errorf("volume is %v, not %v", v, test.volume)
			}
			if pairs := mesh.NewBVH(r.Mesh).SelfIntersections(9); len(pairs) > 0 {
				t.Errorf("%d pairs still cross", len(pairs))
			}
			survives(t, r.Mesh)
			if again := mesh.Repair(r.Mesh, mesh.RepairOptions{}); len(again.Actions) > 0 {
				t.Errorf("repaired again, it is changed by %v", again.Actions)
			}
			if r := mesh.Repair(test.m, mesh.RepairOptions{KeepOverlaps: true}); slices.ContainsFunc(r.Actions, func(a mesh.Action) bool { return a.Code == mesh.United }) {
				t.Errorf("overlaps that should be kept were joined: %v", r.Actions)
			}
		})
	}
}

// survives checks that a repaired mesh is still a solid behind a file of float32.
func survives(t *testing.T, m *mesh.Mesh) {
	t.Helper()
	back, err := mesh.Parse(binarySTL(m), mesh.Options{Unit: mesh.Millimetre})
	if err != nil {
		t.Fatal(err)
	}
	if bad := admeshFaults(t, m); bad != "" {
		t.Errorf("admesh finds %s", bad)
	}
	if top := mesh.Analyse(back.Mesh); !top.Solid() {
		t.Errorf("no solid behind STL: %d open, %d of more than two, %d turned, %d doubled", top.BoundaryEdges, top.NonManifoldEdges, top.InconsistentEdges, top.Duplicate)
	}
}

// admeshFaults is what admesh would change in m, empty for nothing, or where
// admesh is not installed.
func admeshFaults(t *testing.T, m *mesh.Mesh) string {
	t.Helper()
	path, err := exec.LookPath("admesh")
	if err != nil {
		return ""
	}
	file := filepath.Join(t.TempDir(), "repaired.stl")
	if err := os.WriteFile(file, binarySTL(m), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, file).Output()
	if err != nil {
		t.Fatal(err)
	}
	faults, found := "", 0
	for line := range strings.Lines(string(out)) {
		for _, what := range []string{"Total disconnected facets", "Edges fixed", "Facets removed", "Facets added", "Facets reversed", "Backwards edges"} {
			if rest, ok := strings.CutPrefix(line, what); ok {
				found++
				if n := strings.Fields(strings.TrimLeft(rest, " :")); len(n) == 0 || n[0] != "0" {
					faults += strings.TrimSpace(line) + "; "
				}
			}
		}
	}
	if found != 6 {
		t.Fatalf("admesh's report has changed: %s", out)
	}
	return faults
}

func TestRepairSaysWhyNot(t *testing.T) {
	moebius := &mesh.Mesh{}
	const n = 24
	for i := range n {
		s, c := math.Sincos(2 * math.Pi * float64(i) / n)
		hs, hc := math.Sincos(math.Pi * float64(i) / n)
		for _, w := range []float64{-2, 2} {
			moebius.Vertices = append(moebius.Vertices, mesh.Vec{(10 + w*hc) * c, (10 + w*hc) * s, w * hs})
		}
	}
	for i := range int32(n) {
		a, b, c, d := 2*i, 2*i+1, 2*i+2, 2*i+3
		if i == n-1 {
			c, d = 1, 0
		}
		moebius.Facets = append(moebius.Facets, mesh.Facet{a, b, c}, mesh.Facet{b, d, c})
	}
	sheet := refined(&mesh.Mesh{Vertices: []mesh.Vec{{}, {9, 0, 0}, {0, 9, 0}}, Facets: []mesh.Facet{{0, 1, 2}}})
	tests := map[string]struct {
		m      *mesh.Mesh
		reason string
	}{
		"möbius":       {moebius, "one side"},
		"sheet":        {sheet, "without thickness"},
		"nothing":      {&mesh.Mesh{}, "nothing is left"},
		"double sheet": {joined(sheet, sheet.Transformed(mesh.Transform{Linear: [3]mesh.Vec{{1, 0, 0}, {0, 1, 0}, {0, 0, -1}}})), "without thickness"},
	}
	for name, test := range tests {
		r := mesh.Repair(test.m, mesh.RepairOptions{})
		if r.Solid || !strings.Contains(r.Reason, test.reason) {
			t.Errorf("%s: solid %v, reason %q, %v", name, r.Solid, r.Reason, r.Actions)
		}
	}
}

// Solids and real models, broken at random in every way at once: what comes back
// is a solid, in memory and behind a file, of nearly the volume that it had; or a
// reason.
func TestRepairOfDamage(t *testing.T) {
	models := map[string]*mesh.Mesh{
		"cuboid": refined(refined(refined(cuboid(10, 20, 30)))),
		"tube":   refined(prism(40, 10, 6, 20)),
		"sphere": sphere(10, 4),
	}
	for _, file := range kept(t, "so-arm100/*.[sS][tT][lL]") {
		models[filepath.Base(file)] = mesh.Repair(load(t, file), mesh.RepairOptions{}).Mesh
	}
	damages := map[string]func(m *mesh.Mesh, r *rand.Rand){
		"delete": func(m *mesh.Mesh, r *rand.Rand) {
			for range 1 + r.IntN(20) {
				i := r.IntN(len(m.Facets))
				m.Facets = slices.Delete(m.Facets, i, i+1)
			}
		},
		"flip": func(m *mesh.Mesh, r *rand.Rand) {
			for range 1 + r.IntN(20) {
				slices.Reverse(m.Facets[r.IntN(len(m.Facets))][:])
			}
		},
		"duplicate": func(m *mesh.Mesh, r *rand.Rand) {
			for range 1 + r.IntN(20) {
				f := m.Facets[r.IntN(len(m.Facets))]
				if r.IntN(2) == 0 {
					slices.Reverse(f[:])
				}
				m.Facets = append(m.Facets, f)
			}
		},
		"jitter": func(m *mesh.Mesh, r *rand.Rand) { // facets that are torn off by a hair
			for range 1 + r.IntN(20) {
				i := r.IntN(len(m.Facets))
				a, b, c := m.Corners(i)
				tear := min(0.002, 0.02*min(a.Sub(b).Len(), b.Sub(c).Len(), c.Sub(a).Len()))
				for k, v := range m.Facets[i] {
					m.Facets[i][k] = int32(len(m.Vertices))
					m.Vertices = append(m.Vertices, m.Vertices[v].Add(mesh.Vec{r.NormFloat64(), r.NormFloat64(), r.NormFloat64()}.Unit().Mul(tear)))
				}
			}
		},
		"t-junction": func(m *mesh.Mesh, r *rand.Rand) {
			for range 1 + r.IntN(20) {
				i := r.IntN(len(m.Facets))
				f := m.Facets[i]
				m.Vertices = append(m.Vertices, m.Vertices[f[0]].Add(m.Vertices[f[1]]).Mul(0.5))
				v := int32(len(m.Vertices) - 1)
				m.Facets[i] = mesh.Facet{f[0], v, f[2]}
				m.Facets = append(m.Facets, mesh.Facet{v, f[1], f[2]})
			}
		},
	}
	names := slices.Sorted(maps.Keys(damages))
	solids, cases := 0, 0
	for model, m := range models {
		volume := mesh.Measure(m).Volume
		for seed := range uint64(12) {
			r := rand.New(rand.NewPCG(seed, 1))
			broken := m.Clone()
			var done []string
			for i, name := range names {
				if seed < uint64(len(names)) && uint64(i) != seed || r.IntN(2) == 0 && seed >= uint64(len(names)) {
					continue
				}
				damages[name](broken, r)
				done = append(done, name)
			}
			cases++
			repaired := mesh.Repair(broken, mesh.RepairOptions{})
			if !repaired.Solid {
				if repaired.Reason == "" {
					t.Errorf("%s seed %d %v: neither mended nor refused", model, seed, done)
				}
				t.Logf("%s seed %d %v: %s; %v", model, seed, done, repaired.Reason, repaired.Actions)
				continue
			}
			solids++
			if got := mesh.Measure(repaired.Mesh).Volume; !near(got/volume, 1, 0.02) {
				t.Errorf("%s seed %d %v: volume was %v and is %v; %v", model, seed, done, volume, got, repaired.Actions)
			}
			survives(t, repaired.Mesh)
		}
	}
	t.Logf("%d of %d mended", solids, cases)
	if 100*solids < 95*cases {
		t.Errorf("%d of %d mended", solids, cases)
	}
}

func TestCorpusRepair(t *testing.T) {
	for _, file := range corpus(t, "so-arm100/*.[sS][tT][lL]") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		model, err := mesh.Parse(data, mesh.Options{Unit: mesh.Millimetre})
		if err != nil {
			t.Fatal(err)
		}
		before := mesh.Measure(model.Mesh).Volume
		sound := mesh.Analyse(model.Mesh).Solid()
		r := mesh.Repair(model.Mesh, mesh.RepairOptions{})
		if !r.Solid && r.Reason == "" {
			t.Errorf("%s: neither mended nor refused", filepath.Base(file))
		}
		if after := mesh.Measure(r.Mesh).Volume; sound && math.Abs(after-before) > 1e-4*before {
			t.Errorf("%s: volume was %v and is %v", filepath.Base(file), before, after)
		}
		t.Logf("%s: solid %v %s %v", filepath.Base(file), r.Solid, r.Reason, r.Actions)
	}
}
