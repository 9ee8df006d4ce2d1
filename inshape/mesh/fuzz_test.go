package mesh_test

import (
	"errors"
	"slices"
	"testing"

	"inshape/mesh"
)

// Every parser accepts or refuses with an Error; what it accepts is a mesh whose
// indices hold and that everything else can work on.
func fuzz(f *testing.F, format mesh.Format, seeds ...[]byte) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		model, err := mesh.Parse(data, mesh.Options{Format: format, Unit: mesh.Millimetre, MaxFacets: 20_000})
		if err != nil {
			var refused *mesh.Error
			if !errors.As(err, &refused) || refused.Code == "" || refused.Text == "" {
				t.Fatalf("no refusal: %v", err)
			}
			return
		}
		top := mesh.Analyse(model.Mesh)
		mesh.Measure(model.Mesh)
		top.Loops(model.Mesh)
		for _, p := range model.Parts {
			if p.Facets[0] < 0 || p.Facets[0] > p.Facets[1] || p.Facets[1] > len(model.Mesh.Facets) {
				t.Fatalf("part %v of %d facets", p, len(model.Mesh.Facets))
			}
		}
	})
}

func FuzzSTL(f *testing.F) {
	fuzz(f, mesh.STL, binarySTL(cuboid(1, 2, 3)), []byte(stlTetra))
}

func FuzzOBJ(f *testing.F) { fuzz(f, mesh.OBJ, []byte(objTetra)) }

func FuzzAMF(f *testing.F) {
	fuzz(f, mesh.AMF, []byte(amfTetra), packed("a.amf", amfTetra))
}

func FuzzThreeMF(f *testing.F) {
	fuzz(f, mesh.ThreeMF, tmf("", tmfTetra, `<build><item objectid="1" transform="1 0 0 0 1 0 0 0 1 0 0 0"/></build>`))
}

// FuzzThreeMFModel goes past the zip: what it varies is the XML. Coverage of
// compress/flate wavers, so that minimising would take all the time: run it
// with -fuzzminimizetime 1x.
func FuzzThreeMFModel(f *testing.F) {
	f.Add(tmfOpen + "><resources>" + tmfTetra + `<object id="2"><components><component objectid="1"/></components></object></resources><build><item objectid="2"/></build></model>`)
	f.Fuzz(func(t *testing.T, xml string) {
		data := packed("[Content_Types].xml", tmfTypes, "_rels/.rels", tmfRels, "3D/3dmodel.model", xml)
		_, err := mesh.Parse(data, mesh.Options{Format: mesh.ThreeMF, MaxFacets: 20_000})
		var refused *mesh.Error
		if err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
	})
}

// meshOf reads points on a small grid and facets between them from data: few
// enough points that facets meet in every way.
func meshOf(data []byte) *mesh.Mesh {
	m := &mesh.Mesh{}
	for i := range 8 {
		m.Vertices = append(m.Vertices, mesh.Vec{float64(i & 1), float64(i >> 1 & 1), float64(i >> 2)})
	}
	m.Vertices = append(m.Vertices, mesh.Vec{0.5, 0.5, 0.5}, mesh.Vec{0.5, 0, 0})
	for ; len(data) >= 3; data = data[3:] {
		n := byte(len(m.Vertices))
		m.Facets = append(m.Facets, mesh.Facet{int32(data[0] % n), int32(data[1] % n), int32(data[2] % n)})
	}
	return m
}

func addMeshes(f *testing.F) {
	for _, m := range []*mesh.Mesh{{}, cuboid(1, 1, 1)} {
		var data []byte
		for _, c := range m.Facets {
			data = append(data, byte(c[0]), byte(c[1]), byte(c[2]))
		}
		f.Add(data)
		f.Add(append(data, data...))
		if len(data) > 6 {
			f.Add(data[3:])
			f.Add(append(data, data[4], data[3], data[5], 0, 1, 8))
		}
	}
}

// The topology is what a plain count by edges gives.
func FuzzTopology(f *testing.F) {
	addMeshes(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := meshOf(data)
		got := mesh.Analyse(m)
		type use struct {
			facet   int
			forward bool
		}
		uses := map[[2]int32][]use{}
		var twice int
		seen := map[mesh.Facet]bool{}
		for i, c := range m.Facets {
			if c[0] == c[1] || c[1] == c[2] || c[2] == c[0] {
				continue
			}
			for k, a := range c {
				b := c[(k+1)%3]
				key := [2]int32{min(a, b), max(a, b)}
				uses[key] = append(uses[key], use{i, a < b})
			}
			slices.Sort(c[:])
			if seen[c] {
				twice++
			}
			seen[c] = true
		}
		var open, crowded, turned int
		for _, u := range uses {
			switch {
			case len(u) == 1:
				open++
			case len(u) > 2:
				crowded++
			case u[0].forward == u[1].forward:
				turned++
			}
		}
		if got.Edges != len(uses) || got.BoundaryEdges != open || got.NonManifoldEdges != crowded || got.InconsistentEdges != turned || got.Duplicate != twice {
			t.Errorf("%d edges, %d open, %d crowded, %d turned, %d twice; not %d, %d, %d, %d, %d",
				got.Edges, got.BoundaryEdges, got.NonManifoldEdges, got.InconsistentEdges, got.Duplicate, len(uses), open, crowded, turned, twice)
		}
		for h, twin := range got.Twin {
			if twin >= 0 && got.Twin[twin] != int32(h) {
				t.Fatalf("the twin of half-edge %d is %d, whose twin is %d", h, twin, got.Twin[twin])
			}
		}
	})
}

// Whatever is repaired is a solid or comes with a reason; repairing a solid again
// changes nothing.
func FuzzRepair(f *testing.F) {
	addMeshes(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := mesh.Repair(meshOf(data[:min(len(data), 300)]), mesh.RepairOptions{})
		if !r.Solid {
			if r.Reason == "" {
				t.Fatal("neither mended nor refused")
			}
			return
		}
		if top := mesh.Analyse(r.Mesh); !top.Solid() || !top.Manifold() || !(mesh.Measure(r.Mesh).Volume > 0) {
			t.Fatalf("called a solid: %+v", r.Actions)
		}
		// A union of what only touches may find that a rounding error overlaps.
		if again := mesh.Repair(r.Mesh, mesh.RepairOptions{KeepOverlaps: true}); !again.Solid || len(again.Actions) != 0 {
			t.Fatalf("repaired again: %s %v after %v", again.Reason, again.Actions, r.Actions)
		}
	})
}
