package mesh_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"inshape/mesh"
)

func binarySTL(m *mesh.Mesh) []byte {
	var b bytes.Buffer
	if err := mesh.WriteSTL(&b, m); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func packed(parts ...string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		w, _ := z.Create(parts[i])
		w.Write([]byte(parts[i+1]))
	}
	z.Close()
	return b.Bytes()
}

const (
	tmfTypes = `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/><Default Extension="png" ContentType="image/png"/></Types>`
	tmfRels  = `<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Target="/3D/3dmodel.model" Id="r" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>`
	tmfOpen  = `<model unit="inch" xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"`
	tmfTetra = `<object id="1"><mesh><vertices><vertex x="0" y="0" z="0"/><vertex x="1" y="0" z="0"/><vertex x="0" y="1" z="0"/><vertex x="0" y="0" z="1"/></vertices><triangles><triangle v1="0" v2="2" v3="1"/><triangle v1="0" v2="1" v3="3"/><triangle v1="1" v2="2" v3="3"/><triangle v1="0" v2="3" v3="2"/></triangles></mesh></object>`
	amfTetra = `<amf unit="inch"><object id="0"><mesh><vertices><vertex><coordinates><x>0</x><y>0</y><z>0</z></coordinates></vertex><vertex><coordinates><x>1</x><y>0</y><z>0</z></coordinates></vertex><vertex><coordinates><x>0</x><y>1</y><z>0</z></coordinates></vertex><vertex><coordinates><x>0</x><y>0</y><z>1</z></coordinates></vertex></vertices><volume><triangle><v1>0</v1><v2>2</v2><v3>1</v3></triangle><triangle><v1>0</v1><v2>1</v2><v3>3</v3></triangle><triangle><v1>1</v1><v2>2</v2><v3>3</v3></triangle><triangle><v1>0</v1><v2>3</v2><v3>2</v3></triangle></volume></mesh></object></amf>`
	objTetra = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1/1 2//2 4/1/1\nf -3 -2 \\\n -1\nf 1 4 3\n"
	stlTetra = `solid tetra
facet normal 0 0 -1
outer loop
vertex 0 0 0
vertex 0 1e0 0
vertex 1.0 0 0
endloop
endfacet
FACET normal 0 0 0
outer loop
vertex 0 0 0
vertex 1 0 0
vertex 0 0 +1
endloop
endfacet
facet normal 0 0 0
outer loop
vertex 1 0 0
vertex 0 1 0
vertex 0 0 1
endloop
endfacet
facet normal 0 0 0
outer loop
vertex 0 0 0
vertex 0 0 1
vertex -0 1 0
endloop
endfacet
endsolid tetra
`
)

func tmf(attributes, resources, build string) []byte {
	return packed("[Content_Types].xml", tmfTypes, "_rels/.rels", tmfRels,
		"3D/3dmodel.model", tmfOpen+attributes+"><resources>"+resources+"</resources>"+build+"</model>")
}

func TestRead(t *testing.T) {
	tetraSTL := &mesh.Mesh{
		Vertices: []mesh.Vec{{}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
		Facets:   []mesh.Facet{{0, 2, 1}, {0, 1, 3}, {1, 2, 3}, {0, 3, 2}},
	}
	inch := math.Pow(25.4, 3) / 6
	tests := map[string]struct {
		data   []byte
		volume float64
	}{
		"stl binary":       {binarySTL(tetraSTL), inch},
		"stl ascii":        {[]byte(stlTetra), inch},
		"obj":              {[]byte(objTetra), inch},
		"amf":              {[]byte(amfTetra), inch},
		"amf zipped":       {packed("model.amf", amfTetra), inch},
		"amf placed twice": {[]byte(strings.Replace(amfTetra, "</amf>", `<constellation id="9"><instance objectid="0"><deltax>5</deltax><rz>90</rz></instance><instance objectid="0"/></constellation></amf>`, 1)), 2 * inch},
		"3mf":              {tmf("", tmfTetra, `<build><item objectid="1"/></build>`), inch},
		"3mf mirrored":     {tmf("", tmfTetra, `<build><item objectid="1" transform="-2 0 0 0 1 0 0 0 1 7 8 9"/></build>`), 2 * inch},
		"3mf components":   {tmf("", tmfTetra+`<object id="2"><components><component objectid="1"/><component objectid="1" transform="1 0 0 0 1 0 0 0 1 3 0 0"/></components></object>`, `<build><item objectid="2"/></build>`), 2 * inch},
		"3mf production": {packed("[Content_Types].xml", tmfTypes, "_rels/.rels", tmfRels, "3D/_rels/3dmodel.model.rels", strings.Replace(tmfRels, "3dmodel.model", "part.model", 1),
			"3D/3dmodel.model", tmfOpen+` xmlns:p="http://schemas.microsoft.com/3dmanufacturing/production/2015/06" requiredextensions="p"><resources/><build p:UUID="077b369d-c2d4-fbe0-94dd-201451c75dd9"><item p:UUID="077b369d-c2d4-fbe0-94dd-201451c75dda" objectid="1" p:path="/3D/part.model"/></build></model>`,
			"3D/part.model", tmfOpen+"><resources>"+tmfTetra+"</resources><build/></model>"), inch},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			model, err := mesh.Read(bytes.NewReader(test.data), mesh.Options{Unit: mesh.Inch})
			if err != nil {
				t.Fatal(err)
			}
			if got := mesh.Measure(model.Mesh).Volume; !near(got, test.volume, 1e-12) {
				t.Errorf("volume is %v, not %v", got, test.volume)
			}
			if !mesh.Analyse(model.Mesh).Solid() {
				t.Errorf("no solid: %+v", mesh.Analyse(model.Mesh))
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	cube := binarySTL(cuboid(1, 2, 3))
	with := func(at int, value uint32) []byte {
		b := bytes.Clone(cube)
		binary.LittleEndian.PutUint32(b[at:], value)
		return b
	}
	flat := binarySTL(&mesh.Mesh{Vertices: []mesh.Vec{{}, {1, 1, 1}, {2, 2, 2}}, Facets: []mesh.Facet{{0, 1, 2}}})
	bomb := packed("[Content_Types].xml", tmfTypes, "_rels/.rels", tmfRels, "3D/3dmodel.model", strings.Repeat(" ", 40<<20))
	components := tmfTetra
	for i := 2; i < 60; i++ {
		components += fmt.Sprintf(`<object id="%d"><components><component objectid="%d"/><component objectid="%[2]d"/></components></object>`, i, i-1)
	}
	item := `<build><item objectid="1"/></build>`
	tests := map[string]struct {
		data   []byte
		format mesh.Format
		code   mesh.Code
	}{
		"empty":                 {nil, mesh.STL, mesh.Empty},
		"stl without facets":    {make([]byte, 84), mesh.STL, mesh.Empty},
		"stl short header":      {cube[:50], mesh.STL, mesh.Truncated},
		"stl cut":               {cube[:len(cube)-20], mesh.STL, mesh.Truncated},
		"stl huge count":        {append(with(80, 1<<31), make([]byte, 0)...), mesh.STL, mesh.WrongCount},
		"stl small count":       {with(80, 3), mesh.STL, mesh.WrongCount},
		"stl nan":               {with(96, 0x7fc00000), "", mesh.NotFinite},
		"stl infinity":          {with(96, 0x7f800000), "", mesh.NotFinite},
		"stl flat":              {flat, "", mesh.OnlyDegenerate},
		"stl ascii cut":         {[]byte(stlTetra[:len(stlTetra)-30]), "", mesh.Truncated},
		"stl ascii nan":         {[]byte(strings.Replace(stlTetra, "1.0", "nan", 1)), "", mesh.NotFinite},
		"stl ascii word":        {[]byte(strings.Replace(stlTetra, "1.0", "one", 1)), "", mesh.Malformed},
		"obj index":             {[]byte(objTetra + "f 1 2 9\n"), "", mesh.BadIndex},
		"obj zero":              {[]byte(objTetra + "f 1 2 0\n"), "", mesh.BadIndex},
		"obj infinity":          {[]byte("v 1e999 0 0\n"), "", mesh.NotFinite},
		"obj points only":       {[]byte("v 1 0 0\n"), "", mesh.Empty},
		"amf cut":               {[]byte(amfTetra[:300]), "", mesh.Truncated},
		"amf index":             {[]byte(strings.Replace(amfTetra, "<v1>1</v1>", "<v1>4</v1>", 1)), "", mesh.BadIndex},
		"amf entity":            {[]byte(`<!DOCTYPE amf [<!ENTITY a "aaaa">]>` + amfTetra), "", mesh.XMLEntity},
		"amf undefined entity":  {[]byte(strings.Replace(amfTetra, "<x>1</x>", "<x>&a;</x>", 1)), "", mesh.XMLEntity},
		"text":                  {[]byte("hello"), "", mesh.WrongMagic},
		"picture":               {[]byte("\x89PNG\r\n\x1a\n\x00\x00"), "", mesh.WrongMagic},
		"zip said to be stl":    {tmf("", tmfTetra, item), mesh.STL, mesh.WrongMagic},
		"text said to be 3mf":   {[]byte("hello"), mesh.ThreeMF, mesh.WrongMagic},
		"3mf cut":               {tmf("", tmfTetra, item)[:200], "", mesh.Truncated},
		"3mf bomb":              {bomb, "", mesh.ZipBomb},
		"3mf components bomb":   {tmf("", components, `<build><item objectid="59"/></build>`), "", mesh.TooLarge},
		"3mf cycle":             {tmf("", `<object id="1"><components><component objectid="1"/></components></object>`, item), "", mesh.Invalid},
		"3mf missing object":    {tmf("", tmfTetra, `<build><item objectid="2"/></build>`), "", mesh.BadIndex},
		"3mf bad index":         {tmf("", strings.Replace(tmfTetra, `v3="3"`, `v3="4"`, 1), item), "", mesh.BadIndex},
		"3mf nan":               {tmf("", strings.Replace(tmfTetra, `z="1"`, `z="NaN"`, 1), item), "", mesh.NotFinite},
		"3mf no build":          {tmf("", tmfTetra, ""), "", mesh.Invalid},
		"3mf unknown extension": {tmf(` xmlns:b="http://example.com/unknown" requiredextensions="b"`, tmfTetra, item), "", mesh.UnsupportedExtension},
		"3mf entity":            {packed("[Content_Types].xml", tmfTypes, "_rels/.rels", tmfRels, "3D/3dmodel.model", `<!DOCTYPE x SYSTEM "file:///etc/passwd">`+tmfOpen+"/>"), "", mesh.XMLEntity},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			model, err := mesh.Parse(test.data, mesh.Options{Format: test.format, Unit: mesh.Millimetre})
			if !errors.Is(err, test.code) {
				t.Fatalf("error is %v, not %s (%v)", err, test.code, model)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
	for _, data := range [][]byte{cube, []byte(stlTetra), []byte(objTetra)} {
		_, err := mesh.Parse(data, mesh.Options{})
		var refused *mesh.Error
		if !errors.As(err, &refused) || refused.Code != mesh.MissingUnit || refused.Guess != mesh.Inch || !strings.Contains(err.Error(), "inch is likely") {
			t.Errorf("without a unit: %v", err)
		}
	}
	if _, err := mesh.Read(bytes.NewReader(cube), mesh.Options{MaxBytes: 100}); !errors.Is(err, mesh.TooLarge) {
		t.Errorf("above the limit: %v", err)
	}
}

// A header that promises two billion facets costs no memory.
func TestMemoryIsBoundedByWhatArrived(t *testing.T) {
	data := make([]byte, 584)
	binary.LittleEndian.PutUint32(data[80:], 1<<31)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := mesh.Parse(data, mesh.Options{Format: mesh.STL}); !errors.Is(err, mesh.WrongCount) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<16 {
		t.Errorf("%d bytes were allocated", used)
	}
}

func TestWritersRoundTrip(t *testing.T) {
	m := turned(prism(17, 9, 4, 11), 0.37)
	var b bytes.Buffer
	if err := mesh.WriteThreeMF(&b, m, `a <"part"> & more`); err != nil {
		t.Fatal(err)
	}
	back, err := mesh.Parse(b.Bytes(), mesh.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if back.Parts[0].Name != `a <"part"> & more` {
		t.Errorf("name is %q", back.Parts[0].Name)
	}
	for i, v := range back.Mesh.Vertices {
		if v != m.Vertices[i] {
			t.Fatalf("vertex %d is %v, not %v", i, v, m.Vertices[i])
		}
	}
	stl, err := mesh.Parse(binarySTL(m), mesh.Options{Unit: mesh.Millimetre})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := mesh.Measure(stl.Mesh).Volume, mesh.Measure(m).Volume; !near(got, want, 1e-6) {
		t.Errorf("volume is %v, not %v", got, want)
	}
}

// corpus gives the files of a folder of the corpus that INSHAPE_MODELS names:
// folders 3mf (the 3MF Consortium's samples) and so-arm100.
func corpus(t testing.TB, pattern string) []string {
	t.Helper()
	dir := os.Getenv("INSHAPE_MODELS")
	if dir == "" {
		t.Skip("INSHAPE_MODELS names no folder of real models")
	}
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s in %s (%v)", pattern, dir, err)
	}
	return files
}

// kept gives the files of the repository's own small corpus.
func kept(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files testdata/%s (%v)", pattern, err)
	}
	return files
}

func load(t testing.TB, file string) *mesh.Mesh {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	model, err := mesh.Parse(data, mesh.Options{Unit: mesh.Millimetre})
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return model.Mesh
}

func TestCorpus3MF(t *testing.T) {
	for _, file := range corpus(t, "3mf/*/*.3mf") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			model, err := mesh.Parse(data, mesh.Options{Format: mesh.FormatOf(file)})
			if filepath.Base(filepath.Dir(file)) == "mustfail" {
				var refused *mesh.Error
				if !errors.As(err, &refused) {
					t.Fatalf("accepted, or no refusal: %v", err)
				}
				t.Logf("%s: %v", refused.Code, refused)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			topology := mesh.Analyse(model.Mesh)
			t.Logf("%d facets, %d shells, volume %.6g mm³, solid %v", topology.Facets, topology.Shells, mesh.Measure(model.Mesh).Volume, topology.Solid())
		})
	}
}

func TestCorpusSTL(t *testing.T) {
	for _, file := range corpus(t, "so-arm100/*.[sS][tT][lL]") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			model, err := mesh.Parse(data, mesh.Options{Format: mesh.STL, Unit: mesh.Millimetre})
			if err != nil {
				t.Fatal(err)
			}
			topology, measures := mesh.Analyse(model.Mesh), mesh.Measure(model.Mesh)
			if measures.Volume <= 0 || measures.Area <= 0 {
				t.Errorf("volume %v, area %v", measures.Volume, measures.Area)
			}
			t.Logf("%d facets, %d shells, %d boundary edges, %d non-manifold, %d flipped, %d degenerate, %.6g mm³", topology.Facets, topology.Shells, topology.BoundaryEdges, topology.NonManifoldEdges, topology.InconsistentEdges, topology.Degenerate, measures.Volume)
		})
	}
}
