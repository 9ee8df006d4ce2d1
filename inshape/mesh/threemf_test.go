package mesh_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"inshape/mesh"
)

const (
	tmfBuild    = `<build><item objectid="1"/></build>`
	tmfMaterial = ` xmlns:m="http://schemas.microsoft.com/3dmanufacturing/material/2015/02"`
	tmfSlice    = ` xmlns:s="http://schemas.microsoft.com/3dmanufacturing/slice/2015/07"`
	tmfProduct  = ` xmlns:p="http://schemas.microsoft.com/3dmanufacturing/production/2015/06"`
	tmfSets     = ` xmlns:t="http://schemas.microsoft.com/3dmanufacturing/trianglesets/2021/07"`
	tmfBase     = `<basematerials id="7"><base name="PLA" displaycolor="#0000FF"/><base name="ABS" displaycolor="#FF0000"/></basematerials>`
	tmfColour   = `<m:colorgroup id="8"><m:color color="#FFFFFF"/></m:colorgroup>`
)

// The rules of 3MF, each with what keeps it and what breaks it.
func TestThreeMFRules(t *testing.T) {
	edit := func(old, new string) string {
		if !strings.Contains(tmfTetra, old) {
			panic(old)
		}
		return strings.Replace(tmfTetra, old, new, 1)
	}
	tests := map[string]struct {
		attributes, resources, build string
		code                         mesh.Code // empty: it is kept
	}{
		"plain":                      {"", tmfTetra, tmfBuild, ""},
		"unknown namespace":          {` xmlns:u="urn:unknown"`, `<u:thing/>` + tmfTetra, `<build u:a="1"><item u:b="2" objectid="1"/><u:c/></build><u:d/>`, ""},
		"unknown attribute":          {"", edit(`v3="1"/>`, `v3="1" paint="4"/>`), `<build><item objectid="1" printable="1"/></build>`, ""},
		"unknown element":            {"", tmfTetra, tmfBuild + `<model/>`, mesh.Invalid},
		"unknown unit":               {` unit2="x"`, tmfTetra, tmfBuild, ""},
		"xsi attribute":              {` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="a"`, tmfTetra, tmfBuild, mesh.Invalid},
		"xml:space":                  {` xml:space="preserve"`, tmfTetra, tmfBuild, mesh.Invalid},
		"xml:lang":                   {` xml:lang="de"`, tmfTetra, tmfBuild, ""},
		"prefix without namespace":   {` requiredextensions="z"`, tmfTetra, tmfBuild, mesh.Invalid},
		"extension recommended":      {` xmlns:z="urn:z" recommendedextensions="z"`, tmfTetra, tmfBuild, ""},
		"metadata":                   {"", tmfTetra, tmfBuild, ""},
		"two builds":                 {"", tmfTetra, tmfBuild + tmfBuild, mesh.Invalid},
		"id 0":                       {"", edit(`id="1"`, `id="0"`), tmfBuild, mesh.Invalid},
		"id negative":                {"", edit(`id="1"`, `id="-1"`), tmfBuild, mesh.Malformed},
		"id too large":               {"", edit(`id="1"`, `id="2147483648"`), tmfBuild, mesh.Malformed},
		"id of two kinds":            {tmfMaterial, `<m:colorgroup id="1"><m:color color="#FFF"/></m:colorgroup>` + tmfTetra, tmfBuild, mesh.Invalid},
		"id of an extension":         {` xmlns:u="urn:u"`, `<u:thing id="1"/>` + tmfTetra, tmfBuild, mesh.Invalid},
		"object type":                {"", edit(`id="1"`, `id="1" type="thing"`), tmfBuild, mesh.Invalid},
		"object without shape":       {"", `<object id="1"/>`, tmfBuild, mesh.Empty},
		"object with two shapes":     {"", edit(`</mesh>`, `</mesh><components/>`), tmfBuild, mesh.Invalid},
		"thumbnail missing":          {"", edit(`id="1"`, `id="1" thumbnail="/a.png"`), tmfBuild, mesh.Invalid},
		"later component":            {"", `<object id="2"><components><component objectid="1"/></components></object>` + tmfTetra, `<build><item objectid="2"/></build>`, mesh.BadIndex},
		"triangles first":            {"", `<object id="1"><mesh><triangles/><vertices/></mesh></object>`, tmfBuild, mesh.Invalid},
		"vertex without z":           {"", edit(` z="0"`, ``), tmfBuild, mesh.Invalid},
		"vertex of words":            {"", edit(` z="0"`, ` z="low"`), tmfBuild, mesh.Malformed},
		"triangle without v2":        {"", edit(` v2="2"`, ``), tmfBuild, mesh.Invalid},
		"triangle with corner twice": {"", edit(`v1="0" v2="2" v3="1"/>`, `v1="0" v2="2" v3="1"/><triangle v1="0" v2="0" v3="1"/>`), tmfBuild, ""},
		"attribute on vertices":      {"", edit(`<vertices>`, `<vertices a="b">`), tmfBuild, mesh.Invalid},
		"transform short":            {"", tmfTetra, `<build><item objectid="1" transform="1 0 0"/></build>`, mesh.Malformed},
		"transform long":             {"", tmfTetra, `<build><item objectid="1" transform="1 0 0 0 1 0 0 0 1 0 0 0 0"/></build>`, mesh.Malformed},
		"transform flat":             {"", tmfTetra, `<build><item objectid="1" transform="1 0 0 0 1 0 0 0 0 0 0 0"/></build>`, mesh.Invalid},
		"transform endless":          {"", tmfTetra, `<build><item objectid="1" transform="1 0 0 0 1 0 0 0 INF 0 0 0"/></build>`, mesh.NotFinite},
		"empty build":                {"", tmfTetra, `<build/>`, mesh.Empty},
		"model in support":           {"", edit(`id="1"`, `id="1" type="support"`), tmfBuild, ""},

		"pid":                      {"", tmfBase + edit(`id="1"`, `id="1" pid="7" pindex="1"`), tmfBuild, ""},
		"pid of nothing":           {"", edit(`id="1"`, `id="1" pid="7"`), tmfBuild, mesh.BadIndex},
		"pid of an object":         {"", `<object id="7"/>` + edit(`id="1"`, `id="1" pid="7"`), tmfBuild, mesh.BadIndex},
		"pid behind":               {"", edit(`id="1"`, `id="1" pid="7"`) + tmfBase, tmfBuild, mesh.BadIndex},
		"pindex without pid":       {"", tmfBase + edit(`id="1"`, `id="1" pindex="0"`), tmfBuild, mesh.Invalid},
		"pindex beyond":            {"", tmfBase + edit(`id="1"`, `id="1" pid="7" pindex="2"`), tmfBuild, mesh.BadIndex},
		"p1":                       {"", tmfBase + edit(`v3="1"/>`, `v3="1" pid="7" p1="0" p2="1" p3="1"/>`), tmfBuild, ""},
		"p1 of the object":         {"", tmfBase + strings.Replace(edit(`v3="1"/>`, `v3="1" p1="1"/>`), `id="1"`, `id="1" pid="7" pindex="0"`, 1), tmfBuild, ""},
		"p1 without pid":           {"", tmfBase + edit(`v3="1"/>`, `v3="1" p1="1"/>`), tmfBuild, mesh.Invalid},
		"p2 without p1":            {"", tmfBase + edit(`v3="1"/>`, `v3="1" pid="7" p2="1"/>`), tmfBuild, mesh.Invalid},
		"p1 beyond":                {"", tmfBase + edit(`v3="1"/>`, `v3="1" pid="7" p1="2"/>`), tmfBuild, mesh.BadIndex},
		"base without name":        {"", `<basematerials id="7"><base displaycolor="#000000"/></basematerials>` + tmfTetra, tmfBuild, mesh.Invalid},
		"no base":                  {"", `<basematerials id="7"/>` + tmfTetra, tmfBuild, mesh.Invalid},
		"colour without value":     {tmfMaterial, `<m:colorgroup id="8"><m:color/></m:colorgroup>` + tmfTetra, tmfBuild, mesh.Invalid},
		"texture":                  {tmfMaterial, `<m:texture2d id="9" path="/3D/a.png" contenttype="image/png" tilestyleu="clamp"/>` + tmfTetra, tmfBuild, mesh.Invalid},
		"texture type":             {tmfMaterial, `<m:texture2d id="9" path="/3D/3dmodel.model" contenttype="image/gif"/>` + tmfTetra, tmfBuild, mesh.Invalid},
		"texture group":            {tmfMaterial, `<m:texture2d id="9" path="/3D/3dmodel.model" contenttype="image/png"/><m:texture2dgroup id="10" texid="9"><m:tex2coord u="0" v="1"/></m:texture2dgroup>` + tmfTetra, tmfBuild, ""},
		"texture group of nothing": {tmfMaterial, `<m:texture2dgroup id="10" texid="9"><m:tex2coord u="0" v="1"/></m:texture2dgroup>` + tmfTetra, tmfBuild, mesh.BadIndex},
		"texture group without":    {tmfMaterial, `<m:texture2dgroup id="10"><m:tex2coord u="0" v="1"/></m:texture2dgroup>` + tmfTetra, tmfBuild, mesh.Invalid},
		"texture coordinate":       {tmfMaterial, `<m:texture2d id="9" path="/3D/3dmodel.model" contenttype="image/png"/><m:texture2dgroup id="10" texid="9"><m:tex2coord u="0"/></m:texture2dgroup>` + tmfTetra, tmfBuild, mesh.Invalid},
		"composite":                {tmfMaterial, tmfBase + `<m:compositematerials id="9" matid="7" matindices="0 1"><m:composite values="0.2 0.8"/></m:compositematerials>` + tmfTetra, tmfBuild, ""},
		"composite beyond":         {tmfMaterial, tmfBase + `<m:compositematerials id="9" matid="7" matindices="0 2"><m:composite values="0.2 0.8"/></m:compositematerials>` + tmfTetra, tmfBuild, mesh.BadIndex},
		"composite of colours":     {tmfMaterial, tmfColour + `<m:compositematerials id="9" matid="8" matindices="0"><m:composite values="1"/></m:compositematerials>` + tmfTetra, tmfBuild, mesh.BadIndex},
		"composite without":        {tmfMaterial, tmfBase + `<m:compositematerials id="9" matid="7"><m:composite values="1"/></m:compositematerials>` + tmfTetra, tmfBuild, mesh.Invalid},
		"multi":                    {tmfMaterial, tmfBase + tmfColour + `<m:multiproperties id="9" pids="7 8" blendmethods="mix"><m:multi pindices="0 0"/></m:multiproperties>` + tmfTetra, tmfBuild, ""},
		"multi material second":    {tmfMaterial, tmfBase + tmfColour + `<m:multiproperties id="9" pids="8 7"><m:multi pindices="0 0"/></m:multiproperties>` + tmfTetra, tmfBuild, mesh.Invalid},
		"multi two colours":        {tmfMaterial, tmfColour + `<m:multiproperties id="9" pids="8 8"><m:multi pindices="0 0"/></m:multiproperties>` + tmfTetra, tmfBuild, mesh.Invalid},
		"multi of nothing":         {tmfMaterial, `<m:multiproperties id="9" pids="8"><m:multi pindices="0"/></m:multiproperties>` + tmfTetra, tmfBuild, mesh.BadIndex},
		"multi blends":             {tmfMaterial, tmfColour + `<m:multiproperties id="9" pids="8" blendmethods="mix"><m:multi pindices="0"/></m:multiproperties>` + tmfTetra, tmfBuild, mesh.Invalid},

		"uuid":               {tmfProduct + ` requiredextensions="p"`, strings.Replace(tmfTetra, `id="1"`, `id="1" p:UUID="077b369d-c2d4-fbe0-94dd-201451c75dd9"`, 1), `<build p:UUID="077b369d-c2d4-fbe0-94dd-201451c75dd8"><item objectid="1" p:UUID="077b369d-c2d4-fbe0-94dd-201451c75dd7"/></build>`, ""},
		"uuid missing":       {tmfProduct + ` requiredextensions="p"`, tmfTetra, tmfBuild, mesh.Invalid},
		"uuid broken":        {tmfProduct, tmfTetra, `<build p:UUID="077b369d-c2d4-fbe0-94dd-201451c75dg8"><item objectid="1"/></build>`, mesh.Invalid},
		"path missing":       {tmfProduct, tmfTetra, `<build><item objectid="1" p:path="/3D/other.model"/></build>`, mesh.Invalid},
		"path relative":      {tmfProduct, tmfTetra, `<build><item objectid="1" p:path="3dmodel.model"/></build>`, mesh.Invalid},
		"path not related":   {tmfProduct, tmfTetra, `<build><item objectid="1" p:path="/_rels/.rels"/></build>`, mesh.Invalid},
		"slices":             {tmfSlice, `<s:slicestack id="2" zbottom="0"><s:slice ztop="1"><s:vertices><s:vertex x="0" y="0"/><s:vertex x="1" y="0"/></s:vertices><s:polygon startv="0"><s:segment v2="1"/><s:segment v2="0"/></s:polygon></s:slice><s:slice ztop="2"/></s:slicestack>` + edit(`id="1"`, `id="1" s:slicestackid="2"`), tmfBuild, ""},
		"slices downwards":   {tmfSlice, `<s:slicestack id="2"><s:slice ztop="2"/><s:slice ztop="1"/></s:slicestack>` + tmfTetra, tmfBuild, mesh.Invalid},
		"slice point":        {tmfSlice, `<s:slicestack id="2"><s:slice ztop="2"><s:vertices/><s:polygon startv="0"/></s:slice></s:slicestack>` + tmfTetra, tmfBuild, mesh.BadIndex},
		"slices of nothing":  {tmfSlice, edit(`id="1"`, `id="1" s:slicestackid="2"`), tmfBuild, mesh.BadIndex},
		"slices elsewhere":   {tmfSlice, `<s:slicestack id="2"><s:sliceref slicestackid="1" slicepath="/2D/a.model"/></s:slicestack>` + tmfTetra, tmfBuild, mesh.Invalid},
		"slices both ways":   {tmfSlice, `<s:slicestack id="2"><s:sliceref slicestackid="1" slicepath="/3D/3dmodel.model"/><s:slice ztop="2"/></s:slicestack>` + tmfTetra, tmfBuild, mesh.Invalid},
		"low resolution":     {tmfSlice, edit(`id="1"`, `id="1" s:meshresolution="lowres"`), tmfBuild, mesh.Invalid},
		"triangle set":       {tmfSets, edit(`</mesh>`, `<t:trianglesets><t:triangleset name="a" identifier="b"><t:ref index="3"/><t:refrange startindex="0" endindex="2"/></t:triangleset></t:trianglesets></mesh>`), tmfBuild, ""},
		"triangle set index": {tmfSets, edit(`</mesh>`, `<t:trianglesets><t:triangleset name="a" identifier="b"><t:ref index="4"/></t:triangleset></t:trianglesets></mesh>`), tmfBuild, mesh.BadIndex},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := mesh.Parse(tmf(test.attributes, test.resources, test.build), mesh.Options{})
			if test.code == "" && err != nil || test.code != "" && !errors.Is(err, test.code) {
				t.Errorf("%v, not %q", err, test.code)
			}
		})
	}
}

// The rules of the package around the model.
func TestThreeMFPackage(t *testing.T) {
	model := tmfOpen + "><resources>" + tmfTetra + "</resources>" + tmfBuild + "</model>"
	relations := func(more string) string {
		return strings.Replace(tmfRels, "</Relationships>", more+"</Relationships>", 1)
	}
	tests := map[string]struct {
		types, rels, model string
		code               mesh.Code
	}{
		"plain":             {tmfTypes, tmfRels, model, ""},
		"override":          {strings.NewReplacer("Default", "Override", `Extension="model"`, `PartName="/3D/3DModel.model"`, `Extension="png"`, `PartName="/a"`).Replace(tmfTypes), tmfRels, model, ""},
		"no content type":   {`<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>`, tmfRels, model, mesh.Invalid},
		"type twice":        {strings.Replace(tmfTypes, `"png"`, `"MODEL"`, 1), tmfRels, model, mesh.Invalid},
		"types elsewhere":   {strings.Replace(tmfTypes, "2006", "2007", 1), tmfRels, model, mesh.Invalid},
		"relations":         {tmfTypes, strings.Replace(tmfRels, "2006", "2007", 1), model, mesh.Invalid},
		"no model":          {tmfTypes, strings.Replace(tmfRels, "3dmodel\"", "2dmodel\"", 1), model, mesh.Invalid},
		"two models":        {tmfTypes, relations(`<Relationship Target="/3D/3dmodel.model" Id="s" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>`), model, mesh.Invalid},
		"relation twice":    {tmfTypes, relations(`<Relationship Target="/3D/3dmodel.model" Id="r" Type="urn:other"/>`), model, mesh.Invalid},
		"relation of none":  {tmfTypes, relations(`<Relationship Target="/3D/3dmodel.model" Type="urn:other"/>`), model, mesh.Invalid},
		"part missing":      {tmfTypes, relations(`<Relationship Target="/gone" Id="s" Type="urn:other"/>`), model, mesh.Invalid},
		"outside":           {tmfTypes, relations(`<Relationship Target="http://example.com/" TargetMode="External" Id="s" Type="urn:other"/>`), model, mesh.Invalid},
		"two print tickets": {tmfTypes, relations(`<Relationship Target="/3D/3dmodel.model" Id="s" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/printticket"/><Relationship Target="/3D/3dmodel.model" Id="t" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/printticket"/>`), model, mesh.Invalid},
		"two roots":         {tmfTypes, tmfRels, model + model, mesh.Malformed},
		"no resources":      {tmfTypes, tmfRels, tmfOpen + ">" + tmfBuild + "</model>", mesh.Invalid},
		"build first":       {tmfTypes, tmfRels, tmfOpen + ">" + tmfBuild + "<resources>" + tmfTetra + "</resources></model>", mesh.Invalid},
		"metadata":          {tmfTypes, tmfRels, strings.Replace(model, "<resources>", `<metadata name="Title">T</metadata><metadata name="Own">x</metadata><resources>`, 1), ""},
		"metadata nameless": {tmfTypes, tmfRels, strings.Replace(model, "<resources>", `<metadata>T</metadata><resources>`, 1), mesh.Invalid},
		"metadata twice":    {tmfTypes, tmfRels, strings.Replace(model, "<resources>", `<metadata name="Title">T</metadata><metadata name="Title">x</metadata><resources>`, 1), mesh.Invalid},
		"metadata prefix":   {tmfTypes, tmfRels, strings.Replace(model, "<resources>", `<metadata name="z:Title">T</metadata><resources>`, 1), mesh.Invalid},
		"unit":              {tmfTypes, tmfRels, strings.Replace(model, `"inch"`, `"mile"`, 1), mesh.Invalid},
		"not a model":       {tmfTypes, tmfRels, `<amf/>`, mesh.WrongMagic},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := mesh.Parse(packed("[Content_Types].xml", test.types, "_rels/.rels", test.rels, "3D/3dmodel.model", test.model), mesh.Options{})
			if test.code == "" && err != nil || test.code != "" && !errors.Is(err, test.code) {
				t.Errorf("%v, not %q", err, test.code)
			}
		})
	}
}

// Parts that refer to others: only the root model may.
func TestThreeMFProduction(t *testing.T) {
	other := func(part, build string) []byte {
		return packed("[Content_Types].xml", tmfTypes, "_rels/.rels", tmfRels,
			"3D/_rels/3dmodel.model.rels", strings.Replace(tmfRels, "3dmodel.model", "part.model", 1),
			"3D/_rels/part.model.rels", tmfRels,
			"3D/3dmodel.model", tmfOpen+tmfProduct+`><resources/><build><item objectid="1" p:path="/3D/part.model"/></build></model>`,
			"3D/part.model", part+build+"</model>")
	}
	tests := map[string]struct {
		data []byte
		code mesh.Code
	}{
		"plain":          {other(tmfOpen+"><resources>"+tmfTetra+"</resources>", "<build/>"), ""},
		"another build":  {other(tmfOpen+"><resources>"+tmfTetra+"</resources>", tmfBuild), mesh.Invalid},
		"another unit":   {other(strings.Replace(tmfOpen, "inch", "meter", 1)+"><resources>"+tmfTetra+"</resources>", "<build/>"), mesh.Invalid},
		"object missing": {other(tmfOpen+"><resources/>", "<build/>"), mesh.BadIndex},
		"back again":     {other(tmfOpen+tmfProduct+`><resources><object id="1"><components><component objectid="1" p:path="/3D/3dmodel.model"/></components></object></resources>`, "<build/>"), mesh.Invalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := mesh.Parse(test.data, mesh.Options{})
			if test.code == "" && err != nil || test.code != "" && !errors.Is(err, test.code) {
				t.Errorf("%v, not %q", err, test.code)
			}
		})
	}
}

// The consortium's verification files that are kept here. The folder tells what
// must become of them, the names why.
func TestThreeMFVerification(t *testing.T) {
	for _, file := range kept(t, "3mf/*/*.3mf") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = mesh.Parse(data, mesh.Options{})
			var refused *mesh.Error
			switch fail := filepath.Base(filepath.Dir(file)) == "mustfail"; {
			case fail && !errors.As(err, &refused):
				t.Errorf("accepted, or no refusal: %v", err)
			case !fail && err != nil:
				t.Error(err)
			}
		})
	}
}
