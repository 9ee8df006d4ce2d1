package mesh_test

import (
	"errors"
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
