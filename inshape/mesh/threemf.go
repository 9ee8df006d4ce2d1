package mesh

import (
	"archive/zip"
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The namespaces of the 3MF Consortium that are read: Core 1.4 (ISO/IEC 25422),
// Production 1.2; Materials and Slices are checked where they touch the
// geometry's references and otherwise ignored.
const (
	coreNS        = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
	materialNS    = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
	productionNS  = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
	sliceNS       = "http://schemas.microsoft.com/3dmanufacturing/slice/2015/07"
	triangleSetNS = "http://schemas.microsoft.com/3dmanufacturing/trianglesets/2021/07"
	xmlNS         = "http://www.w3.org/XML/1998/namespace"

	relationModel = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
)

// tmfModel is one .model part.
type tmfModel struct {
	part    string
	unit    Unit
	objects map[int]*tmfObject
	kinds   map[int]string // resource id to element name
	groups  map[int]int    // property group to its number of properties
	items   []tmfItem
}

type tmfObject struct {
	name, kind string
	mesh       *Mesh
	components []tmfItem
	facets     int // with components multiplied out; -1: being counted
	counted    bool
}

type tmfItem struct {
	id        int
	path      string // of the Production extension; empty: the same part
	transform Transform
}

type tmfReader struct {
	*archive
	options Options
	models  map[string]*tmfModel
}

func parseThreeMF(data []byte, o Options) (*Model, error) {
	a, err := openArchive(data, ThreeMF, o)
	if err != nil {
		return nil, err
	}
	r := &tmfReader{archive: a, options: o, models: map[string]*tmfModel{}}
	if !a.has("[Content_Types].xml") {
		return nil, refuse(ThreeMF, Invalid, "", "[Content_Types].xml is missing: this is no 3MF package")
	}
	root, err := r.start()
	if err != nil {
		return nil, err
	}
	top, err := r.load(root)
	if err != nil {
		return nil, err
	}
	if top.items == nil {
		return nil, refuse(ThreeMF, Invalid, root, "the build element is missing; export the model again")
	}
	total := 0
	for _, item := range top.items {
		n, err := r.count(top, item, 0)
		if err != nil {
			return nil, err
		}
		if total += n; total > o.MaxFacets {
			return nil, refuse(ThreeMF, TooLarge, root, "the build has more than %d facets; simplify the model", o.MaxFacets)
		}
	}
	model := &Model{Format: ThreeMF, Unit: top.unit, Mesh: &Mesh{Facets: make([]Facet, 0, total)}}
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

// start finds the root model by the package's relationships (OPC, ECMA-376-2).
func (r *tmfReader) start() (string, error) {
	targets, err := r.relationships("")
	if err != nil {
		return "", err
	}
	models := targets[relationModel]
	if len(models) != 1 {
		return "", refuse(ThreeMF, Invalid, "_rels/.rels", "%d relationships name the 3D model, not one", len(models))
	}
	return models[0], nil
}

// relationships gives the targets by type of the part's relationships, all of
// which must be parts of this package.
func (r *tmfReader) relationships(part string) (map[string][]string, error) {
	dir, base := path.Split(part)
	name := dir + "_rels/" + base + ".rels"
	if !r.has(name) {
		return nil, nil
	}
	data, err := r.read(name)
	if err != nil {
		return nil, err
	}
	doc, err := newDocument(data, ThreeMF, name)
	if err != nil {
		return nil, err
	}
	targets := map[string][]string{}
	seen := map[string]bool{}
	for {
		token, err := doc.next()
		if errors.Is(err, io.EOF) {
			return targets, nil
		}
		if err != nil {
			return nil, err
		}
		e, ok := token.(xml.StartElement)
		if !ok || e.Name.Local != "Relationship" {
			continue
		}
		target, _ := attribute(e, "", "Target")
		mode, _ := attribute(e, "", "TargetMode")
		kind, _ := attribute(e, "", "Type")
		id, _ := attribute(e, "", "Id")
		u, err := url.Parse(target)
		switch {
		case err != nil || target == "":
			return nil, doc.refuse(Invalid, "%.80q is no part name", target)
		case u.IsAbs() || u.Host != "" || strings.EqualFold(mode, "External"):
			return nil, doc.refuse(Invalid, "%.80q is outside of the package; a 3MF holds all that it needs", target)
		case id != "" && seen[id]:
			return nil, doc.refuse(Invalid, "relationship %.80q is there twice", id)
		}
		seen[id] = true
		to := u.Path
		if !strings.HasPrefix(to, "/") {
			to = path.Join("/", dir, to)
		}
		if !r.has(to) {
			return nil, doc.refuse(Invalid, "part %.80q is named and missing from the archive", target)
		}
		targets[kind] = append(targets[kind], strings.TrimPrefix(to, "/"))
	}
}

func (r *tmfReader) load(part string) (*tmfModel, error) {
	key := partKey(part)
	if m := r.models[key]; m != nil {
		return m, nil
	}
	if _, err := r.relationships(strings.TrimPrefix(part, "/")); err != nil {
		return nil, err
	}
	data, err := r.read(part)
	if err != nil {
		return nil, err
	}
	doc, err := newDocument(data, ThreeMF, part)
	if err != nil {
		return nil, err
	}
	m := &tmfModel{part: part, unit: Millimetre, objects: map[int]*tmfObject{}, kinds: map[int]string{}, groups: map[int]int{}}
	for {
		token, err := doc.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = doc.refuse(Malformed, "there is no model element")
			}
			return nil, err
		}
		if e, ok := token.(xml.StartElement); ok {
			if err := r.model(doc, m, e); err != nil {
				return nil, err
			}
			break
		}
	}
	for { // what follows the root must be well-formed too
		if _, err := doc.next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	r.models[key] = m
	return m, nil
}

func (r *tmfReader) model(doc *document, m *tmfModel, e xml.StartElement) error {
	if e.Name.Local != "model" || e.Name.Space != coreNS {
		return doc.refuse(WrongMagic, "the root is %.40q, not a 3MF model", e.Name.Local)
	}
	if unit, ok := attribute(e, "", "unit"); ok {
		m.unit = Unit(unit)
	}
	if _, ok := m.unit.Millimetres(); !ok {
		return doc.refuse(Invalid, "unit %.40q is none of 3MF's", string(m.unit))
	}
	if err := checkXMLAttributes(doc, e); err != nil {
		return err
	}
	required, _ := attribute(e, "", "requiredextensions")
	for prefix := range strings.FieldsSeq(required) {
		ns, ok := attribute(e, "xmlns", prefix)
		if !ok {
			return doc.refuse(Invalid, "required extension %.40q has no namespace", prefix)
		}
		switch ns {
		case coreNS, materialNS, productionNS, sliceNS, triangleSetNS:
		default:
			return doc.refuse(UnsupportedExtension, "extension %.120s is required and not supported; export without it", ns)
		}
	}
	names := map[string]bool{}
	return doc.children(func(e xml.StartElement) error {
		if e.Name.Space != coreNS {
			return nil
		}
		switch e.Name.Local {
		case "metadata":
			name, _ := attribute(e, "", "name")
			if names[name] {
				return doc.refuse(Invalid, "metadata %.40q is there twice", name)
			}
			names[name] = true
		case "resources":
			return doc.children(func(e xml.StartElement) error { return r.resource(doc, m, e) })
		case "build":
			if m.items != nil {
				return doc.refuse(Invalid, "the build element is there twice")
			}
			m.items = []tmfItem{}
			return doc.children(func(e xml.StartElement) error {
				if e.Name.Space != coreNS || e.Name.Local != "item" {
					return nil
				}
				item, err := reference(doc, e)
				if err == nil {
					m.items = append(m.items, item)
				}
				return err
			})
		}
		return nil
	})
}

// checkXMLAttributes refuses attributes of the xml namespace that 3MF's schema
// does not have (Core 2.3.4: xml:space among them).
func checkXMLAttributes(doc *document, e xml.StartElement) error {
	for _, a := range e.Attr {
		if (a.Name.Space == xmlNS || a.Name.Space == "xml") && a.Name.Local != "lang" {
			return doc.refuse(Invalid, "attribute xml:%.20s is not allowed in 3MF", a.Name.Local)
		}
	}
	return nil
}

func integer(doc *document, e xml.StartElement, name string) (int, error) {
	text, ok := attribute(e, "", name)
	if !ok {
		return 0, doc.refuse(Invalid, "%s has no %s", e.Name.Local, name)
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, doc.refuse(Malformed, "%s of %s is %.40q, not a number below 2³¹", name, e.Name.Local, text)
	}
	return int(n), nil
}

// reference reads an item or a component.
func reference(doc *document, e xml.StartElement) (tmfItem, error) {
	id, err := integer(doc, e, "objectid")
	if err != nil {
		return tmfItem{}, err
	}
	item := tmfItem{id: id, transform: Identity()}
	item.path, _ = attribute(e, productionNS, "path")
	text, ok := attribute(e, "", "transform")
	if !ok {
		return item, nil
	}
	// 3MF's matrix multiplies row vectors: its rows are the images of the axes.
	rest := []byte(text)
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

func (r *tmfReader) resource(doc *document, m *tmfModel, e xml.StartElement) error {
	switch e.Name.Space {
	case coreNS, materialNS, sliceNS:
	default:
		return nil
	}
	id, err := integer(doc, e, "id")
	if err != nil {
		return err
	}
	if m.kinds[id] != "" {
		return doc.refuse(Invalid, "resource id %d is there twice (%s and %s)", id, m.kinds[id], e.Name.Local)
	}
	if id == 0 {
		return doc.refuse(Invalid, "resource id 0 is not allowed")
	}
	m.kinds[id] = e.Name.Local
	switch e.Name.Local {
	case "object":
		return r.object(doc, m, e, id)
	case "texture2d":
		return r.texture(doc, e)
	case "compositematerials":
		matid, err := integer(doc, e, "matid")
		if err != nil {
			return err
		}
		if m.kinds[matid] != "basematerials" {
			return doc.refuse(BadIndex, "matid %d names no base materials", matid)
		}
		if _, ok := attribute(e, "", "matindices"); !ok {
			return doc.refuse(Invalid, "compositematerials has no matindices")
		}
	case "multiproperties":
		return multiproperties(doc, m, e)
	case "basematerials", "colorgroup", "texture2dgroup":
		return doc.children(func(xml.StartElement) error { m.groups[id]++; return nil })
	}
	return nil
}

func (r *tmfReader) texture(doc *document, e xml.StartElement) error {
	name, ok := attribute(e, "", "path")
	if !ok {
		return doc.refuse(Invalid, "texture2d has no path")
	}
	if !r.has(name) {
		return doc.refuse(Invalid, "texture %.80q is missing from the archive", name)
	}
	return nil
}

// multiproperties: Materials 1.2, chapter 5: at most one material and one
// colour group, no multiproperties among the layers.
func multiproperties(doc *document, m *tmfModel, e xml.StartElement) error {
	pids, ok := attribute(e, "", "pids")
	if !ok {
		return doc.refuse(Invalid, "multiproperties has no pids")
	}
	materials, colours := 0, 0
	for field := range strings.FieldsSeq(pids) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return doc.refuse(Malformed, "pids %.80q are not numbers", pids)
		}
		switch m.kinds[pid] {
		case "basematerials", "compositematerials":
			materials++
		case "colorgroup":
			colours++
		case "multiproperties":
			return doc.refuse(Invalid, "multiproperties refer to multiproperties %d", pid)
		case "":
			return doc.refuse(BadIndex, "pid %d names no resource", pid)
		}
	}
	if materials > 1 || colours > 1 {
		return doc.refuse(Invalid, "multiproperties refer to more than one material or colour group")
	}
	return nil
}

func (r *tmfReader) object(doc *document, m *tmfModel, e xml.StartElement, id int) error {
	o := &tmfObject{kind: "model"}
	o.name, _ = attribute(e, "", "name")
	if kind, ok := attribute(e, "", "type"); ok {
		o.kind = kind
	}
	if !slices.Contains([]string{"model", "support", "solidsupport", "surface", "other"}, o.kind) {
		return doc.refuse(Invalid, "object type %.40q is none of 3MF's", o.kind)
	}
	if thumbnail, ok := attribute(e, "", "thumbnail"); ok && !r.has(thumbnail) {
		return doc.refuse(Invalid, "thumbnail %.80q is missing from the archive", thumbnail)
	}
	if pid, ok := attribute(e, "", "pid"); ok {
		n, err := strconv.Atoi(pid)
		if err != nil || m.kinds[n] == "" {
			return doc.refuse(BadIndex, "pid %.40q names no resource before the object", pid)
		}
	}
	err := doc.children(func(e xml.StartElement) error {
		if e.Name.Space != coreNS {
			return nil
		}
		switch e.Name.Local {
		case "mesh":
			if o.mesh != nil || o.components != nil {
				return doc.refuse(Invalid, "object %d has more than one shape", id)
			}
			o.mesh = &Mesh{}
			return tmfMesh(doc, o.mesh)
		case "components":
			if o.mesh != nil || o.components != nil {
				return doc.refuse(Invalid, "object %d has more than one shape", id)
			}
			o.components = []tmfItem{}
			return doc.children(func(e xml.StartElement) error {
				if e.Name.Space != coreNS || e.Name.Local != "component" {
					return nil
				}
				c, err := reference(doc, e)
				if err == nil {
					o.components = append(o.components, c)
				}
				return err
			})
		}
		return nil
	})
	m.objects[id] = o
	return err
}

func tmfMesh(doc *document, mesh *Mesh) error {
	return doc.children(func(e xml.StartElement) error {
		if e.Name.Space != coreNS {
			return nil
		}
		switch e.Name.Local {
		case "vertices":
			for _, a := range e.Attr { // the schema's CT_Vertices has no attributes
				if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
					return doc.refuse(Invalid, "attribute %.40q is not allowed on vertices", a.Name.Local)
				}
			}
			return doc.children(func(e xml.StartElement) error {
				var p Vec
				for k, name := range []string{"x", "y", "z"} {
					text, ok := attribute(e, "", name)
					if !ok {
						return doc.refuse(Invalid, "vertex has no %s", name)
					}
					x, err := number([]byte(text))
					if err != nil {
						return doc.refuse(Malformed, "%s of a vertex is %.40q", name, text)
					}
					p[k] = x
				}
				if !p.finite() {
					return doc.refuse(NotFinite, "a coordinate is NaN, infinite or beyond 1e9; repair the export")
				}
				mesh.Vertices = append(mesh.Vertices, p)
				return nil
			})
		case "triangles":
			return doc.children(func(e xml.StartElement) error {
				if e.Name.Space != coreNS || e.Name.Local != "triangle" {
					return nil
				}
				var f Facet
				for k, name := range []string{"v1", "v2", "v3"} {
					i, err := integer(doc, e, name)
					if err != nil {
						return err
					}
					if i >= len(mesh.Vertices) {
						return doc.refuse(BadIndex, "%s is %d and the mesh has %d vertices", name, i, len(mesh.Vertices))
					}
					f[k] = int32(i)
				}
				mesh.Facets = append(mesh.Facets, f)
				return nil
			})
		}
		return nil
	})
}

func (r *tmfReader) resolve(m *tmfModel, item tmfItem) (*tmfModel, *tmfObject, error) {
	if item.path != "" {
		var err error
		if m, err = r.load(item.path); err != nil {
			return nil, nil, err
		}
	}
	o := m.objects[item.id]
	if o == nil {
		return nil, nil, refuse(ThreeMF, BadIndex, m.part, "object %d is referred to and not there", item.id)
	}
	return m, o, nil
}

// count tells the facets of an item before anything is multiplied out, so that
// components of components cannot be used as a bomb; it finds cycles too.
func (r *tmfReader) count(m *tmfModel, item tmfItem, depth int) (int, error) {
	m, o, err := r.resolve(m, item)
	if err != nil {
		return 0, err
	}
	if depth == 0 && o.kind == "other" {
		return 0, refuse(ThreeMF, Invalid, m.part, "the build names object %d of type other", item.id)
	}
	if o.counted {
		if o.facets < 0 {
			return 0, refuse(ThreeMF, Invalid, m.part, "object %d is a component of itself", item.id)
		}
		return o.facets, nil
	}
	if depth > maxXMLDepth {
		return 0, refuse(ThreeMF, Invalid, m.part, "components are nested deeper than %d", maxXMLDepth)
	}
	o.counted, o.facets = true, -1
	total := 0
	if o.mesh != nil {
		if total = len(o.mesh.Facets); total == 0 {
			return 0, refuse(ThreeMF, Empty, m.part, "the mesh of object %d has no triangles", item.id)
		}
	}
	for _, c := range o.components {
		n, err := r.count(m, c, depth+1)
		if err != nil {
			return 0, err
		}
		total = min(total+n, r.options.MaxFacets+1)
	}
	if total == 0 {
		return 0, refuse(ThreeMF, Empty, m.part, "object %d has no shape", item.id)
	}
	o.facets = total
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

// WriteThreeMF writes a 3MF package with one object, in millimetres;
// coordinates are exact.
func WriteThreeMF(w io.Writer, m *Mesh, name string) error {
	z := zip.NewWriter(w)
	var failed error
	part := func(name string, write func(b *bufio.Writer)) {
		if failed != nil {
			return
		}
		out, err := z.Create(name)
		if err != nil {
			failed = err
			return
		}
		b := bufio.NewWriterSize(out, 1<<16)
		b.WriteString(xml.Header)
		write(b)
		failed = b.Flush()
	}
	part("[Content_Types].xml", func(b *bufio.Writer) {
		b.WriteString(`<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">` +
			`<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>` +
			`<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>`)
	})
	part("_rels/.rels", func(b *bufio.Writer) {
		b.WriteString(`<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">` +
			`<Relationship Target="/3D/3dmodel.model" Id="rel0" Type="` + relationModel + `"/></Relationships>`)
	})
	part("3D/3dmodel.model", func(b *bufio.Writer) {
		fmt.Fprintf(b, `<model unit="millimeter" xmlns="%s"><resources><object id="1" type="model" name="`, coreNS)
		xml.EscapeText(b, []byte(name))
		b.WriteString(`"><mesh><vertices>` + "\n")
		var buf []byte
		for _, v := range m.Vertices {
			buf = append(buf[:0], `<vertex x="`...)
			buf = strconv.AppendFloat(buf, v[0], 'g', -1, 64)
			buf = append(buf, `" y="`...)
			buf = strconv.AppendFloat(buf, v[1], 'g', -1, 64)
			buf = append(buf, `" z="`...)
			buf = strconv.AppendFloat(buf, v[2], 'g', -1, 64)
			b.Write(append(buf, "\"/>\n"...))
		}
		b.WriteString("</vertices><triangles>\n")
		for _, f := range m.Facets {
			fmt.Fprintf(b, "<triangle v1=\"%d\" v2=\"%d\" v3=\"%d\"/>\n", f[0], f[1], f[2])
		}
		b.WriteString(`</triangles></mesh></object></resources><build><item objectid="1"/></build></model>`)
	})
	if err := errors.Join(failed, z.Close()); err != nil {
		return fmt.Errorf("write 3MF: %w", err)
	}
	return nil
}
