package mesh_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"inshape/mesh"
)

func TestRepair(t *testing.T) {
	solid := func() *mesh.Mesh { return turned(refined(refined(cuboid(10, 20, 30))), 0.4) }
	tests := map[string]struct {
		damage func(m *mesh.Mesh)
		action string
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
		}, "weld"},
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

func TestRepairSaysWhyNot(t *testing.T) {
	m, o := cuboid(1, 1, 1), cuboid(1, 1, 1)
	for i := range o.Vertices {
		o.Vertices[i] = o.Vertices[i].Add(mesh.Vec{1, 1, 0})
	}
	m.Append(o)
	m.Weld(0)
	if r := mesh.Repair(m, mesh.RepairOptions{}); r.Solid || r.Reason == "" {
		t.Errorf("two cubes on an edge became a solid: %v", r.Actions)
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
