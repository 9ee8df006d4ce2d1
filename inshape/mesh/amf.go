package mesh

import (
	"bytes"
	"math"
	"strings"
)

// parseAMF reads AMF (ISO/ASTM 52915), plain or zipped: objects of vertices and
// volumes, and constellations of instances (turned by rx, ry, rz degrees in
// this order, then moved). Curved edges, materials and textures are ignored
// with a warning-free conscience: they do not change the flat facets.
func parseAMF(data []byte, o Options) (*Model, error) {
	if bytes.HasPrefix(data, []byte("PK")) {
		a, err := openArchive(data, AMF, o)
		if err != nil {
			return nil, err
		}
		name := ""
		for key := range a.parts {
			if strings.HasSuffix(key, ".amf") && (name == "" || key < name) {
				name = key
			}
		}
		if name == "" {
			return nil, refuse(AMF, WrongMagic, "", "the archive holds no .amf")
		}
		if data, err = a.read(name); err != nil {
			return nil, err
		}
	}
	doc, err := newDocument(data, AMF, "")
	if err != nil {
		return nil, err
	}
	r := &amfReader{doc: doc, model: &Model{Format: AMF, Mesh: &Mesh{}}, objects: map[string]*amfObject{}, instances: map[string][]amfInstance{}}
	e, err := doc.root()
	if err != nil {
		return nil, err
	}
	if !e.is("", "amf") {
		return nil, doc.refuse(WrongMagic, "the root is %.40q, not amf", e.local)
	}
	if err := r.root(e); err != nil {
		return nil, err
	}
	if err := doc.finish(); err != nil {
		return nil, err
	}
	return r.model, r.build(o)
}

type amfReader struct {
	doc       *document
	model     *Model
	objects   map[string]*amfObject
	order     []string
	instances map[string][]amfInstance // by constellation
	stars     []string                 // constellations in order
}

type amfObject struct {
	mesh Mesh
	name string
}

type amfInstance struct {
	object    string
	transform Transform
}

func (r *amfReader) root(e *element) error {
	r.model.Unit = Millimetre // ISO/ASTM 52915: the default
	if unit, ok := e.get("", "unit"); ok {
		r.model.Unit = Unit(strings.ToLower(string(unit)))
		if r.model.Unit == "feet" { // AMF's own name for it
			r.model.Unit = Foot
		}
	}
	return r.doc.children(func(e *element) error {
		value, _ := e.get("", "id")
		id := string(value)
		switch string(e.local) {
		case "object":
			if r.objects[id] != nil {
				return r.doc.refuse(Invalid, "object %.40q is there twice", id)
			}
			o := &amfObject{}
			r.objects[id] = o
			r.order = append(r.order, id)
			return r.object(o)
		case "constellation":
			if _, twice := r.instances[id]; twice {
				return r.doc.refuse(Invalid, "constellation %.40q is there twice", id)
			}
			r.instances[id] = []amfInstance{}
			r.stars = append(r.stars, id)
			return r.doc.children(func(e *element) error {
				if string(e.local) != "instance" {
					return nil
				}
				i := amfInstance{}
				object, _ := e.get("", "objectid")
				i.object = string(object)
				var err error
				i.transform, err = r.placement()
				r.instances[id] = append(r.instances[id], i)
				return err
			})
		}
		return nil
	})
}

func (r *amfReader) object(o *amfObject) error {
	return r.doc.children(func(e *element) error {
		switch string(e.local) {
		case "metadata":
			if kind, _ := e.get("", "type"); string(kind) == "name" {
				name, err := r.doc.content()
				o.name = string(name)
				return err
			}
		case "mesh":
			base := len(o.mesh.Vertices)
			return r.doc.children(func(e *element) error {
				switch string(e.local) {
				case "vertices":
					return r.vertices(&o.mesh)
				case "volume":
					return r.volume(&o.mesh, base)
				}
				return nil
			})
		}
		return nil
	})
}

func (r *amfReader) vertices(m *Mesh) error {
	return r.doc.children(func(e *element) error {
		if string(e.local) != "vertex" {
			return nil
		}
		p := Vec{math.NaN(), math.NaN(), math.NaN()}
		found := 0
		err := r.doc.children(func(e *element) error {
			if string(e.local) != "coordinates" {
				return nil
			}
			return r.numbers([]string{"x", "y", "z"}, func(k int, x float64) { p[k] = x; found++ })
		})
		switch {
		case err != nil:
			return err
		case found != 3:
			return r.doc.refuse(Invalid, "a vertex has %d coordinates", found)
		case !p.finite():
			return r.doc.refuse(NotFinite, "a coordinate is NaN, infinite or beyond 1e9; repair the export")
		}
		m.Vertices = append(m.Vertices, p)
		return nil
	})
}

func (r *amfReader) volume(m *Mesh, base int) error {
	return r.doc.children(func(e *element) error {
		if string(e.local) != "triangle" {
			return nil
		}
		var f Facet
		found := 0
		var bad error
		err := r.numbers([]string{"v1", "v2", "v3"}, func(k int, x float64) {
			found++
			if x != math.Trunc(x) || x < 0 || int(min(x, 1e10))+base >= len(m.Vertices) {
				bad = r.doc.refuse(BadIndex, "triangle corner %g names no vertex; there are %d", x, len(m.Vertices)-base)
				return
			}
			f[k] = int32(int(x) + base)
		})
		switch {
		case err != nil:
			return err
		case bad != nil:
			return bad
		case found != 3:
			return r.doc.refuse(Invalid, "a triangle has %d corners", found)
		}
		m.Facets = append(m.Facets, f)
		return nil
	})
}

func (r *amfReader) placement() (Transform, error) {
	t := Identity()
	axes := [3]Vec{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
	var shift, turn Vec
	err := r.numbers([]string{"deltax", "deltay", "deltaz", "rx", "ry", "rz"}, func(k int, x float64) {
		if k < 3 {
			shift[k] = x
		} else {
			turn[k-3] = x
		}
	})
	if err == nil && (!shift.finite() || !turn.finite()) {
		err = r.doc.refuse(NotFinite, "the place of an instance is not finite")
	}
	for k, degrees := range turn {
		t = t.Then(Rotation(axes[k], degrees*math.Pi/180))
	}
	t.Shift = shift
	return t, err
}

// numbers reads the children of the names as numbers.
func (r *amfReader) numbers(names []string, got func(k int, x float64)) error {
	return r.doc.children(func(e *element) error {
		for k, name := range names {
			if string(e.local) != name {
				continue
			}
			text, err := r.doc.content()
			if err != nil {
				return err
			}
			x, err := number(text)
			if err != nil {
				return r.doc.refuse(Malformed, "%s is %.40q, not a number", name, text)
			}
			got(k, x)
		}
		return nil
	})
}

// build places the instances of all constellations, or each object once where
// there are none.
func (r *amfReader) build(o Options) error {
	var all []amfInstance
	for _, id := range r.stars {
		all = append(all, r.instances[id]...)
	}
	if len(r.stars) == 0 {
		for _, id := range r.order {
			all = append(all, amfInstance{id, Identity()})
		}
	}
	m := r.model.Mesh
	for _, i := range all {
		object := r.objects[i.object]
		if object == nil {
			return r.doc.refuse(BadIndex, "object %.40q is referred to and not there", i.object)
		}
		if len(m.Facets)+len(object.mesh.Facets) > o.MaxFacets || len(m.Vertices)+len(object.mesh.Vertices) > 3*o.MaxFacets {
			return r.doc.refuse(TooLarge, "the model has more than %d facets; simplify it", o.MaxFacets)
		}
		begun := len(m.Facets)
		m.Append(object.mesh.Transformed(i.transform))
		r.model.Parts = append(r.model.Parts, Part{object.name, [2]int{begun, len(m.Facets)}})
	}
	return nil
}
