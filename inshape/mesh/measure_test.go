package mesh_test

import (
	"bytes"
	"math"
	"slices"
	"testing"
	"time"

	"inshape/mesh"
)

// The polyhedra's own volumes and areas, exactly.
func TestAnalyticSolids(t *testing.T) {
	ngon := func(n int, r float64) (area, perimeter float64) {
		a := math.Pi / float64(n)
		return float64(n) * r * r * math.Sin(a) * math.Cos(a), 2 * float64(n) * r * math.Sin(a)
	}
	disc, round := ngon(64, 10)
	hole, inner := ngon(64, 6)
	octahedron := sphere(5, 0)
	tests := map[string]struct {
		m            *mesh.Mesh
		volume, area float64
	}{
		"cuboid":     {cuboid(2, 3, 5), 30, 62},
		"prism":      {prism(64, 10, 0, 7), disc * 7, 2*disc + 7*round},
		"tube":       {prism(64, 10, 6, 7), (disc - hole) * 7, 2*(disc-hole) + 7*(round+inner)},
		"octahedron": {octahedron, 4.0 / 3 * 125, 4 * math.Sqrt(3) * 25},
	}
	for name, test := range tests {
		for i := range 8 {
			for _, scale := range []float64{0.01, 1, 300} {
				m := turned(test.m, float64(i)/5).Transformed(mesh.Scaling(scale))
				if i%2 == 1 {
					m = refined(refined(m))
				}
				got := mesh.Measure(m)
				if want := test.volume * scale * scale * scale; math.Abs(got.Volume-want) > 1e-6*want {
					t.Errorf("%s %d ×%v: volume %v, not %v", name, i, scale, got.Volume, want)
				}
				if want := test.area * scale * scale; math.Abs(got.Area-want) > 1e-6*want {
					t.Errorf("%s %d ×%v: area %v, not %v", name, i, scale, got.Area, want)
				}
				topology := mesh.Analyse(m)
				if !topology.Solid() || !topology.Manifold() || topology.Shells != 1 {
					t.Errorf("%s %d: %+v", name, i, topology.Shells)
				}
				if euler := len(m.Vertices) - topology.Edges + topology.Facets; euler != map[bool]int{true: 0, false: 2}[name == "tube"] {
					t.Errorf("%s %d: Euler characteristic %d", name, i, euler)
				}
			}
		}
	}
}

func TestCentreAndBounds(t *testing.T) {
	m := cuboid(2, 4, 6)
	got := mesh.Measure(m)
	if got.Centre.Sub(mesh.Vec{1, 2, 3}).Len() > 1e-12 || got.Bounds.Size() != (mesh.Vec{2, 4, 6}) {
		t.Errorf("centre %v, size %v", got.Centre, got.Bounds.Size())
	}
	// A tetrahedron's centre is the mean of its corners, not the middle of its box.
	tetra := &mesh.Mesh{Vertices: []mesh.Vec{{}, {4, 0, 0}, {0, 4, 0}, {0, 0, 4}}, Facets: []mesh.Facet{{0, 2, 1}, {0, 1, 3}, {1, 2, 3}, {0, 3, 2}}}
	if c := mesh.Measure(tetra).Centre; c.Sub(mesh.Vec{1, 1, 1}).Len() > 1e-12 {
		t.Errorf("centre is %v", c)
	}
}

func TestOrientedBox(t *testing.T) {
	for i := range 6 {
		m := turned(cuboid(3, 11, 40), float64(i)/3)
		box := mesh.OrientedBounds(m)
		if !near(box.Volume(), 3*11*40, 1e-9) {
			t.Errorf("%d: box %v has volume %v", i, box.Size, box.Volume())
		}
		for _, v := range m.Vertices {
			for k, axis := range box.Axes {
				if d := math.Abs(v.Sub(box.Centre).Dot(axis)); d > box.Size[k]/2+1e-9 {
					t.Errorf("%d: %v is %v outside", i, v, d-box.Size[k]/2)
				}
			}
		}
	}
}

func TestOverhang(t *testing.T) {
	m := cuboid(2, 3, 5) // on the plate: nothing hangs over
	if a := m.OverhangArea(mesh.Vec{0, 0, 1}, math.Pi/4); a != 0 {
		t.Errorf("cuboid on the plate: %v", a)
	}
	table := cuboid(2, 3, 5)
	top := cuboid(10, 10, 1)
	for i := range top.Vertices {
		top.Vertices[i][2] += 5
	}
	table.Append(top)
	if a := table.OverhangArea(mesh.Vec{0, 0, 1}, math.Pi/4); !near(a, 100, 1e-12) {
		t.Errorf("table: %v", a)
	}
}

func TestWeld(t *testing.T) {
	m := refined(cuboid(1, 1, 1))
	soup := &mesh.Mesh{}
	for f := range m.Facets {
		a, b, c := m.Corners(f)
		n := int32(len(soup.Vertices))
		soup.Vertices = append(soup.Vertices, a, b, c.Add(mesh.Vec{1e-6, 0, 0}))
		soup.Facets = append(soup.Facets, mesh.Facet{n, n + 1, n + 2})
	}
	exact := soup.Clone()
	exact.Weld(0)
	if len(exact.Vertices) <= len(m.Vertices) {
		t.Errorf("exact welding left %d vertices", len(exact.Vertices))
	}
	soup.Weld(1e-5)
	if len(soup.Vertices) != len(m.Vertices) || !mesh.Analyse(soup).Solid() {
		t.Errorf("welding left %d vertices of %d", len(soup.Vertices), len(m.Vertices))
	}
}

func TestTopologyFaults(t *testing.T) {
	t.Run("open", func(t *testing.T) {
		m := cuboid(1, 1, 1)
		m.Facets = m.Facets[1:]
		top := mesh.Analyse(m)
		loops, open := top.Loops(m)
		if top.BoundaryEdges != 3 || top.Closed() || len(loops) != 1 || len(loops[0]) != 3 || open != 0 {
			t.Errorf("%+v, loops %v, %d open", top, loops, open)
		}
	})
	t.Run("flipped", func(t *testing.T) {
		m := cuboid(1, 1, 1)
		m.Facets[0][0], m.Facets[0][1] = m.Facets[0][1], m.Facets[0][0]
		if top := mesh.Analyse(m); top.InconsistentEdges != 3 || !top.Closed() || top.Solid() {
			t.Errorf("%+v", top)
		}
	})
	t.Run("duplicate", func(t *testing.T) {
		m := cuboid(1, 1, 1)
		m.Facets = append(m.Facets, m.Facets[3])
		if top := mesh.Analyse(m); top.Duplicate != 1 || top.NonManifoldEdges != 3 {
			t.Errorf("%+v", top)
		}
	})
	t.Run("degenerate", func(t *testing.T) {
		m := cuboid(1, 1, 1)
		m.Facets = append(m.Facets, mesh.Facet{1, 1, 2})
		if top := mesh.Analyse(m); top.Degenerate != 1 || !top.Solid() || top.Shell[12] != -1 {
			t.Errorf("%+v", top)
		}
	})
	t.Run("two cubes on an edge", func(t *testing.T) {
		m, o := cuboid(1, 1, 1), cuboid(1, 1, 1)
		for i := range o.Vertices {
			o.Vertices[i] = o.Vertices[i].Add(mesh.Vec{1, 1, 0})
		}
		m.Append(o)
		m.Weld(0)
		if top := mesh.Analyse(m); top.NonManifoldEdges != 1 || top.Shells != 2 {
			t.Errorf("%+v", top)
		}
	})
	t.Run("two cubes on a corner", func(t *testing.T) {
		m, o := cuboid(1, 1, 1), cuboid(1, 1, 1)
		for i := range o.Vertices {
			o.Vertices[i] = o.Vertices[i].Add(mesh.Vec{1, 1, 1})
		}
		m.Append(o)
		m.Weld(0)
		if top := mesh.Analyse(m); top.NonManifoldVertices != 1 || top.NonManifoldEdges != 0 || top.Manifold() || !top.Solid() {
			t.Errorf("%+v", top)
		}
	})
}

// What a million facets cost from the bytes to the answer; the bar is two
// million facets a second on two cores.
func BenchmarkAnalysis(b *testing.B) {
	m := sphere(50, 9)
	m.Facets = m.Facets[:2_000_000]
	var file bytes.Buffer
	if err := mesh.WriteSTL(&file, m); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		model, err := mesh.Parse(file.Bytes(), mesh.Options{Unit: mesh.Millimetre})
		if err != nil {
			b.Fatal(err)
		}
		mesh.Analyse(model.Mesh)
		mesh.Measure(model.Mesh)
	}
	b.ReportMetric(float64(b.N*len(m.Facets))/b.Elapsed().Seconds()/1e6, "Mfacets/s")
}

// A hub, where all facets meet, costs no more than others.
func TestHub(t *testing.T) {
	m := prism(200_000, 10, 0, 5)
	slices.Reverse(m.Vertices) // the hubs are the lowest vertices, which own the lists
	last := int32(len(m.Vertices) - 1)
	for i, f := range m.Facets {
		m.Facets[i] = mesh.Facet{last - f[0], last - f[1], last - f[2]}
	}
	start := time.Now()
	top := mesh.Analyse(m)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if !top.Solid() || !top.Manifold() || top.Shells != 1 || top.Edges != 3*len(m.Facets)/2 {
		t.Errorf("%d edges, %d shells", top.Edges, top.Shells)
	}
}

// What reading a mesh of half a million facets costs in every format.
func BenchmarkRead(b *testing.B) {
	m := sphere(50, 8)
	var threemf bytes.Buffer
	if err := mesh.WriteThreeMF(&threemf, m, "sphere"); err != nil {
		b.Fatal(err)
	}
	formats := map[string][]byte{
		"STL":       binarySTL(m),
		"ASCII STL": asciiSTL(m),
		"OBJ":       obj(m),
		"3MF":       threemf.Bytes(),
		"AMF":       amf(m),
	}
	for name, data := range formats {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := mesh.Parse(data, mesh.Options{Unit: mesh.Millimetre}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*len(m.Facets))/b.Elapsed().Seconds()/1e6, "Mfacets/s")
		})
	}
}
