package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// The namespaces of the 3MF Consortium that are read: Core 1.4 (ISO/IEC 25422),
// Production 1.2; Materials 1.2 and Slice 1.0.2 are checked and otherwise
// ignored, because they do not change the geometry.
const (
	coreNS        = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
	materialNS    = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
	productionNS  = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
	sliceNS       = "http://schemas.microsoft.com/3dmanufacturing/slice/2015/07"
	triangleSetNS = "http://schemas.microsoft.com/3dmanufacturing/trianglesets/2021/07"
	xsiNS         = "http://www.w3.org/2001/XMLSchema-instance"

	extensionResource = "resource of an extension"
)

// tmfModel is one .model part.
type tmfModel struct {
	part     string
	root     bool
	unit     Unit
	required map[string]bool // namespaces of required extensions
	objects  map[int]*tmfObject
	kinds    map[int]string  // resource id to element name
	groups   map[int]int     // property group to its number of properties
	related  map[string]bool // model parts that it may refer to, by key
	items    []tmfItem       // nil: no build element
}

type tmfObject struct {
	name, kind string
	mesh       *Mesh
	components []tmfItem
	pid        int // of its properties, 0: none
	facets     int // with components multiplied out, once counted
	counted    bool
}

type tmfItem struct {
	id        int
	path      string // of the Production extension; empty: the same part
	transform Transform
}

type tmfReader struct {
	*opcPackage
	options  Options
	models   map[string]*tmfModel
	warnings []string
}

func (r *tmfReader) warn(format string, args ...any) {
	if len(r.warnings) < 20 {
		r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
	}
}

// parseThreeMF reads the build of the root model. The rules of the formats that
// say MUST are held where a part that broke them could be read in two ways, or
// not be read by others. Unknown attributes are tolerated, and elements in unknown
// namespaces ignored, as the standard asks.
func parseThreeMF(data []byte, o Options) (*Model, error) {
	p, err := openPackage(data, ThreeMF, o)
	if err != nil {
		return nil, err
	}
	r := &tmfReader{opcPackage: p, options: o, models: map[string]*tmfModel{}}
	targets, err := r.relationships("")
	if err != nil {
		return nil, err
	}
	if n := len(targets[relationModel]); n != 1 {
		return nil, refuse(ThreeMF, Invalid, "_rels/.rels", "%d relationships name the 3D model, not one", n)
	}
	top, err := r.load(targets[relationModel][0], true)
	if err != nil {
		return nil, err
	}
	total := 0
	for _, item := range top.items {
		n, err := r.count(top, item, 0)
		if err != nil {
			return nil, err
		}
		if total += n; total > o.MaxFacets {
			return nil, refuse(ThreeMF, TooLarge, top.part, "the build has more than %d facets; simplify the model", o.MaxFacets)
		}
	}
	model := &Model{Format: ThreeMF, Unit: top.unit, Mesh: &Mesh{Facets: make([]Facet, 0, total)}, Warnings: r.warnings}
	for _, item := range top.items {
		begun := len(model.Mesh.Facets)
		if err := r.place(model.Mesh, top, item, Identity()); err != nil {
			return nil, err
		}
		_, object, err := r.resolve(top, item)
		if err != nil {
			return nil, err
		}
		model.Parts = append(model.Parts, Part{object.name, [2]int{begun, len(model.Mesh.Facets)}})
	}
	return model, nil
}

func (r *tmfReader) load(part string, root bool) (*tmfModel, error) {
	key := partKey(part)
	if m := r.models[key]; m != nil {
		return m, nil
	}
	targets, err := r.relationships(part)
	if err != nil {
		return nil, err
	}
	doc, err := r.document(part)
	if err != nil {
		return nil, err
	}
	if kind := r.contentType(part); kind != modelContentType {
		return nil, refuse(ThreeMF, Invalid, part, "the part's content type is %.80q, not a 3D model's", kind)
	}
	m := &tmfModel{
		part: part, root: root, unit: Millimetre, required: map[string]bool{}, objects: map[int]*tmfObject{},
		kinds: map[int]string{}, groups: map[int]int{}, related: map[string]bool{},
	}
	for _, target := range targets[relationModel] {
		m.related[partKey(target)] = true
	}
	e, err := doc.root()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = doc.refuse(Malformed, "there is no model element")
		}
		return nil, err
	}
	if err := r.model(doc, m, e); err != nil {
		return nil, err
	}
	if err := doc.finish(); err != nil {
		return nil, err
	}
	r.models[key] = m
	return m, nil
}

func (r *tmfReader) model(doc *document, m *tmfModel, e *element) error {
	if !e.is(coreNS, "model") {
		return doc.refuse(WrongMagic, "the root is %.40q, not a 3MF model", e.local)
	}
	if unit, ok := e.get("", "unit"); ok {
		m.unit = Unit(unit)
	}
	if _, ok := m.unit.Millimetres(); !ok {
		return doc.refuse(Invalid, "unit %.40q is none of 3MF's", string(m.unit))
	}
	if err := foreign(doc, e); err != nil {
		return err
	}
	for _, list := range []string{"requiredextensions", "recommendedextensions"} {
		text, _ := e.get("", list)
		for prefix, rest := nextField(text); len(prefix) > 0; prefix, rest = nextField(rest) {
			ns, ok := doc.namespace(prefix)
			if !ok {
				return doc.refuse(Invalid, "extension %.40q of %s has no namespace", prefix, list)
			}
			if list == "recommendedextensions" {
				continue
			}
			switch ns {
			case coreNS, materialNS, productionNS, sliceNS, triangleSetNS:
				m.required[ns] = true
			default:
				return doc.refuse(UnsupportedExtension, "extension %.120s is required and not supported; export without it", ns)
			}
		}
	}
	names := map[string]bool{}
	resources := false
	err := doc.children(func(e *element) error {
		if e.space != coreNS {
			return nil
		}
		if err := foreign(doc, e); err != nil {
			return err
		}
		switch string(e.local) {
		case "metadata":
			return metadata(doc, e, names)
		case "resources":
			if resources || m.items != nil {
				return doc.refuse(Invalid, "resources are there twice, or behind the build")
			}
			resources = true
			return doc.children(func(e *element) error { return r.resource(doc, m, e) })
		case "build":
			if m.items != nil || !resources {
				return doc.refuse(Invalid, "the build is there twice, or before the resources")
			}
			m.items = []tmfItem{}
			if m.root {
				if err := checkUUID(doc, m, e); err != nil {
					return err
				}
			}
			return doc.children(func(e *element) error { return r.item(doc, m, e) })
		}
		return doc.refuse(Invalid, "element %.40q is not allowed in a model", e.local)
	})
	switch {
	case err != nil:
		return err
	case !resources:
		return doc.refuse(Invalid, "the resources element is missing; export the model again")
	case m.items == nil:
		return doc.refuse(Invalid, "the build element is missing; export the model again")
	case !m.root && len(m.items) > 0:
		return doc.refuse(Invalid, "a part that others refer to has a build of its own")
	}
	return nil
}

// foreign refuses attributes of the namespaces xml and xsi that 3MF's schema does
// not have (Core 1.4, 2.3.2 and 2.3.4: xml:space among them).
func foreign(doc *document, e *element) error {
	for _, a := range e.attributes {
		if a.space == xsiNS || a.space == xmlNS && string(a.local) != "lang" {
			return doc.refuse(Invalid, "attribute %.20s:%.20s is not allowed in 3MF", a.prefix, a.local)
		}
	}
	return nil
}

// metadata: names are there once, and those of others have a namespace.
func metadata(doc *document, e *element, names map[string]bool) error {
	name, ok := e.get("", "name")
	if !ok || len(name) == 0 {
		return doc.refuse(Invalid, "metadata has no name")
	}
	if names[string(name)] {
		return doc.refuse(Invalid, "metadata %.40q is there twice", name)
	}
	names[string(name)] = true
	if colon := bytes.IndexByte(name, ':'); colon >= 0 {
		if _, ok := doc.namespace(name[:colon]); !ok {
			return doc.refuse(Invalid, "metadata %.40q has a prefix without namespace", name)
		}
	}
	return nil
}

// checkUUID: Production 1.2, chapter 4: eight, four, four, four and twelve
// hexadecimal digits; there where the extension is required.
func checkUUID(doc *document, m *tmfModel, e *element) error {
	id, ok := e.get(productionNS, "UUID")
	if !ok {
		if m.required[productionNS] {
			return doc.refuse(Invalid, "%s has no UUID, which the required Production extension asks for", e.local)
		}
		return nil
	}
	good := len(id) == 36
	for i, c := range id {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			good = good && c == '-'
		} else {
			good = good && (c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f')
		}
	}
	if !good {
		return doc.refuse(Invalid, "%.60q is no UUID", id)
	}
	return nil
}

func integer(doc *document, e *element, name string) (int, error) {
	text, ok := e.get("", name)
	if !ok {
		return 0, doc.refuse(Invalid, "%s has no %s", e.local, name)
	}
	n, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil {
		return 0, doc.refuse(Malformed, "%s of %s is %.40q, not a number below 2³¹", name, e.local, text)
	}
	return int(n), nil
}

func (r *tmfReader) item(doc *document, m *tmfModel, e *element) error {
	if e.space != coreNS {
		return nil
	}
	if string(e.local) != "item" {
		return doc.refuse(Invalid, "element %.40q is not allowed in a build", e.local)
	}
	item, err := r.placement(doc, m, e)
	if err == nil {
		m.items = append(m.items, item)
	}
	return err
}

// placement reads an item or a component.
func (r *tmfReader) placement(doc *document, m *tmfModel, e *element) (tmfItem, error) {
	item := tmfItem{transform: Identity()}
	var err error
	if item.id, err = integer(doc, e, "objectid"); err != nil {
		return item, err
	}
	if err := foreign(doc, e); err != nil {
		return item, err
	}
	if err := checkUUID(doc, m, e); err != nil {
		return item, err
	}
	if where, ok := e.get(productionNS, "path"); ok {
		item.path = string(where)
		switch key := partKey(item.path); {
		case !m.root:
			return item, doc.refuse(Invalid, "only the root model may refer to other parts, not this one to %.80q", where)
		case !bytes.HasPrefix(where, []byte("/")):
			return item, doc.refuse(Invalid, "path %.80q is not absolute", where)
		case !r.has(item.path):
			return item, doc.refuse(Invalid, "part %.80q is named and missing from the archive", where)
		case !m.related[key]:
			return item, doc.refuse(Invalid, "part %.80q is named without a relationship to it", where)
		case key == partKey(m.part):
			item.path = ""
		}
	}
	text, ok := e.get("", "transform")
	if !ok {
		return item, nil
	}
	// 3MF's matrix multiplies row vectors: its rows are the images of the axes.
	rest := text
	var rows [4]Vec
	for i := range rows {
		if rows[i], rest, err = point(rest); err != nil {
			return item, doc.refuse(Malformed, "transform %.80q is not twelve numbers", text)
		}
		if !rows[i].finite() {
			return item, doc.refuse(NotFinite, "transform %.80q is not finite", text)
		}
	}
	if word, _ := nextField(rest); len(word) != 0 {
		return item, doc.refuse(Malformed, "transform %.80q is more than twelve numbers", text)
	}
	for i := range 3 {
		for j := range 3 {
			item.transform.Linear[i][j] = rows[j][i]
		}
	}
	item.transform.Shift = rows[3]
	if item.transform.Determinant() == 0 {
		return item, doc.refuse(Invalid, "transform %.80q flattens the object", text)
	}
	return item, nil
}

func (r *tmfReader) resource(doc *document, m *tmfModel, e *element) error {
	known := true
	switch e.space {
	case coreNS, materialNS, sliceNS:
		if err := foreign(doc, e); err != nil {
			return err
		}
	default:
		if _, ok := e.get("", "id"); !ok {
			return nil
		}
		known = false
	}
	id, err := integer(doc, e, "id")
	if err != nil {
		return err
	}
	if m.kinds[id] != "" {
		return doc.refuse(Invalid, "resource id %d is there twice (%s and %s)", id, m.kinds[id], e.local)
	}
	if id == 0 {
		return doc.refuse(Invalid, "resource id 0 is not allowed")
	}
	kind := string(e.local)
	switch {
	case !known:
		m.kinds[id] = extensionResource
		return nil
	case e.is(coreNS, "object"):
		// Its id counts from its end on: an object cannot refer to itself.
		return r.object(doc, m, e, id)
	case e.space == coreNS && kind != "basematerials":
		return doc.refuse(Invalid, "element %.40q is not allowed in resources", e.local)
	}
	m.kinds[id] = kind
	if e.space == sliceNS {
		return r.sliceStack(doc, e)
	}
	return r.property(doc, m, e, id)
}

func (r *tmfReader) object(doc *document, m *tmfModel, e *element, id int) error {
	o := &tmfObject{kind: "model"}
	name, _ := e.get("", "name")
	o.name = string(name)
	if kind, ok := e.get("", "type"); ok {
		o.kind = string(kind)
	}
	switch o.kind {
	case "model", "support", "solidsupport", "surface", "other":
	default:
		return doc.refuse(Invalid, "object type %.40q is none of 3MF's", o.kind)
	}
	if thumbnail, ok := e.get("", "thumbnail"); ok {
		if err := r.checkImage(doc, "thumbnail", thumbnail); err != nil {
			return err
		}
	}
	if err := checkUUID(doc, m, e); err != nil {
		return err
	}
	if err := objectProperties(doc, m, e, o); err != nil {
		return err
	}
	if err := r.objectSlices(doc, m, e, id); err != nil {
		return err
	}
	err := doc.children(func(e *element) error {
		if e.space != coreNS {
			return nil
		}
		if err := foreign(doc, e); err != nil {
			return err
		}
		switch string(e.local) {
		case "metadatagroup":
			names := map[string]bool{}
			return doc.children(func(e *element) error {
				if !e.is(coreNS, "metadata") {
					return nil
				}
				return metadata(doc, e, names)
			})
		case "mesh":
			if o.mesh != nil || o.components != nil {
				return doc.refuse(Invalid, "object %d has more than one shape", id)
			}
			o.mesh = &Mesh{}
			return r.mesh(doc, m, o, id)
		case "components":
			if o.mesh != nil || o.components != nil {
				return doc.refuse(Invalid, "object %d has more than one shape", id)
			}
			o.components = []tmfItem{}
			return doc.children(func(e *element) error { return r.component(doc, m, o, e, id) })
		}
		return doc.refuse(Invalid, "element %.40q is not allowed in an object", e.local)
	})
	m.kinds[id] = "object"
	m.objects[id] = o
	return err
}

// objectProperties: pindex counts in the group that pid names.
func objectProperties(doc *document, m *tmfModel, e *element, o *tmfObject) error {
	_, indexed := e.get("", "pindex")
	if _, ok := e.get("", "pid"); !ok {
		if indexed {
			return doc.refuse(Invalid, "an object has a pindex without pid")
		}
		return nil
	}
	var err error
	if o.pid, err = integer(doc, e, "pid"); err != nil {
		return err
	}
	if !isProperty(m.kinds[o.pid]) {
		return doc.refuse(BadIndex, "pid %d names no properties defined before the object", o.pid)
	}
	if !indexed {
		return nil
	}
	index, err := integer(doc, e, "pindex")
	if err != nil {
		return err
	}
	return m.property(doc, o.pid, index)
}

// property refuses an index that its group does not have.
func (m *tmfModel) property(doc *document, pid, index int) error {
	if n := m.groups[pid]; index >= n && m.kinds[pid] != extensionResource {
		return doc.refuse(BadIndex, "property %d of group %d does not exist; there are %d", index, pid, n)
	}
	return nil
}

func (r *tmfReader) component(doc *document, m *tmfModel, o *tmfObject, e *element, id int) error {
	if e.space != coreNS {
		return nil
	}
	if string(e.local) != "component" {
		return doc.refuse(Invalid, "element %.40q is not allowed in components", e.local)
	}
	c, err := r.placement(doc, m, e)
	if err != nil {
		return err
	}
	if c.path == "" {
		switch {
		case c.id == id:
			return doc.refuse(Invalid, "object %d is a component of itself", id)
		case m.objects[c.id] == nil:
			return doc.refuse(BadIndex, "component %d of object %d is not defined before it", c.id, id)
		}
	}
	o.components = append(o.components, c)
	return nil
}

func (r *tmfReader) mesh(doc *document, m *tmfModel, o *tmfObject, id int) error {
	vertices, triangles := false, false
	return doc.children(func(e *element) error {
		switch e.space {
		case coreNS:
		case triangleSetNS:
			return triangleSets(doc, len(o.mesh.Facets))
		default:
			return nil
		}
		switch string(e.local) {
		case "vertices":
			if vertices {
				return doc.refuse(Invalid, "a mesh has its vertices twice")
			}
			vertices = true
			for _, a := range e.attributes { // the schema's CT_Vertices has none
				if a.space != xmlnsNS {
					return doc.refuse(Invalid, "attribute %.40q is not allowed on vertices", a.local)
				}
			}
			return tmfVertices(doc, o.mesh)
		case "triangles":
			if triangles || !vertices {
				return doc.refuse(Invalid, "a mesh has its triangles twice, or before its vertices")
			}
			triangles = true
			flat := 0
			if err := tmfTriangles(doc, m, o, &flat); err != nil {
				return err
			}
			if flat > 0 {
				r.warn("%d triangles of object %d have a corner twice; repair drops them", flat, id)
			}
			return nil
		}
		return doc.refuse(Invalid, "element %.40q is not allowed in a mesh", e.local)
	})
}

func tmfVertices(doc *document, mesh *Mesh) error {
	return doc.children(func(e *element) error {
		if !e.is(coreNS, "vertex") {
			if e.space == coreNS {
				return doc.refuse(Invalid, "element %.40q is not allowed in vertices", e.local)
			}
			return nil
		}
		var p Vec
		found := 0
		for i := range e.attributes {
			a := &e.attributes[i]
			if a.space != "" || len(a.local) != 1 || a.local[0] < 'x' || a.local[0] > 'z' {
				continue
			}
			x, err := number(a.value)
			if err != nil {
				return doc.refuse(Malformed, "%s of a vertex is %.40q", a.local, a.value)
			}
			p[a.local[0]-'x'] = x
			found++
		}
		switch {
		case found != 3:
			return doc.refuse(Invalid, "vertex %d has %d coordinates", len(mesh.Vertices), found)
		case !p.finite():
			return doc.refuse(NotFinite, "a coordinate is NaN, infinite or beyond 1e9; repair the export")
		}
		mesh.Vertices = append(mesh.Vertices, p)
		return nil
	})
}

// tmfTriangles reads the facets and counts those with a corner twice in flat.
func tmfTriangles(doc *document, m *tmfModel, o *tmfObject, flat *int) error {
	return doc.children(func(e *element) error {
		if !e.is(coreNS, "triangle") {
			if e.space == coreNS {
				return doc.refuse(Invalid, "element %.40q is not allowed in triangles", e.local)
			}
			return nil
		}
		f := Facet{-1, -1, -1}
		properties := false
		for i := range e.attributes {
			a := &e.attributes[i]
			if a.space != "" || len(a.local) != 2 || a.local[0] != 'v' || a.local[1] < '1' || a.local[1] > '3' {
				properties = properties || a.space == "" && len(a.local) > 0 && a.local[0] == 'p'
				continue
			}
			n, ok := index(a.value)
			if !ok {
				return doc.refuse(Malformed, "%s of a triangle is %.40q, not a number below 2³¹", a.local, a.value)
			}
			if int(n) >= len(o.mesh.Vertices) {
				return doc.refuse(BadIndex, "%s is %d and the mesh has %d vertices", a.local, n, len(o.mesh.Vertices))
			}
			f[a.local[1]-'1'] = n
		}
		if f[0] < 0 || f[1] < 0 || f[2] < 0 {
			return doc.refuse(Invalid, "triangle %d has not all of v1, v2, v3", len(o.mesh.Facets))
		}
		if collapsed(f) {
			*flat++
		}
		if properties {
			if err := triangleProperties(doc, m, o, e); err != nil {
				return err
			}
		}
		o.mesh.Facets = append(o.mesh.Facets, f)
		return nil
	})
}

// index reads a number from 0 to 2³¹-1.
func index(text []byte) (int32, bool) {
	if len(text) == 0 || len(text) > 10 {
		return 0, false
	}
	n := int64(0)
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return int32(n), n < 1<<31
}

// triangleProperties: p1 to p3 count in the group of the triangle's pid or else
// the object's; p2 and p3 need p1.
func triangleProperties(doc *document, m *tmfModel, o *tmfObject, e *element) error {
	pid := o.pid
	if _, ok := e.get("", "pid"); ok {
		var err error
		if pid, err = integer(doc, e, "pid"); err != nil {
			return err
		}
		if !isProperty(m.kinds[pid]) {
			return doc.refuse(BadIndex, "pid %d of a triangle names no properties defined before", pid)
		}
	}
	_, first := e.get("", "p1")
	for _, name := range []string{"p1", "p2", "p3"} {
		if _, ok := e.get("", name); !ok {
			continue
		}
		index, err := integer(doc, e, name)
		switch {
		case err != nil:
			return err
		case pid == 0:
			return doc.refuse(Invalid, "a triangle has %s, but neither it nor its object a pid", name)
		case !first:
			return doc.refuse(Invalid, "a triangle has %s without p1", name)
		}
		if err := m.property(doc, pid, index); err != nil {
			return err
		}
	}
	return nil
}

// triangleSets: names for some of the mesh's triangles.
func triangleSets(doc *document, triangles int) error {
	return doc.children(func(e *element) error {
		if !e.is(triangleSetNS, "triangleset") {
			return nil
		}
		if err := need(doc, e, "name", "identifier"); err != nil {
			return err
		}
		return doc.children(func(e *element) error {
			var names []string
			switch {
			case e.is(triangleSetNS, "ref"):
				names = []string{"index"}
			case e.is(triangleSetNS, "refrange"):
				names = []string{"startindex", "endindex"}
			}
			for _, name := range names {
				n, err := integer(doc, e, name)
				if err != nil {
					return err
				}
				if n >= triangles {
					return doc.refuse(BadIndex, "%s of a triangle set is %d and the mesh has %d triangles", name, n, triangles)
				}
			}
			return nil
		})
	})
}

func (r *tmfReader) resolve(m *tmfModel, item tmfItem) (*tmfModel, *tmfObject, error) {
	if item.path != "" {
		unit := m.unit
		var err error
		if m, err = r.load(item.path, false); err != nil {
			return nil, nil, err
		}
		if m.unit != unit {
			return nil, nil, refuse(ThreeMF, Invalid, m.part, "its unit is %s and that of the model which refers to it is %s; export with one unit", m.unit, unit)
		}
	}
	o := m.objects[item.id]
	if o == nil {
		return nil, nil, refuse(ThreeMF, BadIndex, m.part, "object %d is referred to and not there", item.id)
	}
	return m, o, nil
}

// count tells the facets of an item before anything is multiplied out, so that
// components of components cannot be used as a bomb. There are no cycles: objects
// refer to earlier ones, and only the root model to other parts.
func (r *tmfReader) count(m *tmfModel, item tmfItem, depth int) (int, error) {
	m, o, err := r.resolve(m, item)
	if err != nil {
		return 0, err
	}
	switch {
	case depth == 0 && o.kind == "other":
		return 0, refuse(ThreeMF, Invalid, m.part, "the build names object %d of type other", item.id)
	case o.counted:
		return o.facets, nil
	case depth > maxXMLDepth:
		return 0, refuse(ThreeMF, Invalid, m.part, "components are nested deeper than %d", maxXMLDepth)
	}
	total := 0
	if o.mesh != nil {
		total = len(o.mesh.Facets)
	}
	for _, c := range o.components {
		n, err := r.count(m, c, depth+1)
		if err != nil {
			return 0, err
		}
		total = min(total+n, r.options.MaxFacets+1)
	}
	if total == 0 {
		return 0, refuse(ThreeMF, Empty, m.part, "object %d has no triangles", item.id)
	}
	o.facets, o.counted = total, true
	return total, nil
}

func (r *tmfReader) place(to *Mesh, m *tmfModel, item tmfItem, outer Transform) error {
	m, o, err := r.resolve(m, item)
	if err != nil {
		return err
	}
	t := item.transform.Then(outer)
	if o.mesh != nil {
		to.Append(o.mesh.Transformed(t))
		return nil
	}
	for _, c := range o.components {
		if err := r.place(to, m, c, t); err != nil {
			return err
		}
	}
	return nil
}
