package mesh

import (
	"bytes"
	"strconv"
)

// property reads the resources that colour a model (Core 1.4, chapter 5;
// Materials 1.2): none changes the geometry, so their rules are checked and only
// what triangles refer to is kept, the number of properties of each group.
func (r *tmfReader) property(doc *document, m *tmfModel, e *element, id int) error {
	kind := string(e.local)
	switch kind {
	case "texture2d":
		return r.texture(doc, e)
	case "basematerials":
		return properties(doc, m, id, coreNS, "base", func(e *element) error {
			return need(doc, e, "name", "displaycolor")
		})
	case "colorgroup":
		return properties(doc, m, id, materialNS, "color", func(e *element) error { return need(doc, e, "color") })
	case "texture2dgroup":
		if err := reference(doc, m, e, "texid", "texture2d"); err != nil {
			return err
		}
		return properties(doc, m, id, materialNS, "tex2coord", func(e *element) error { return numbers(doc, e, "u", "v") })
	case "compositematerials":
		if err := reference(doc, m, e, "matid", "basematerials"); err != nil {
			return err
		}
		base, _ := integer(doc, e, "matid")
		if err := need(doc, e, "matindices"); err != nil {
			return err
		}
		indices, _ := e.get("", "matindices")
		if err := list(doc, indices, m.groups[base]); err != nil {
			return err
		}
		return properties(doc, m, id, materialNS, "composite", func(e *element) error { return need(doc, e, "values") })
	case "multiproperties":
		return multiproperties(doc, m, e, id)
	}
	return nil // display properties: how it looks on a screen
}

// isProperty tells the kinds of resources that a pid can name.
func isProperty(kind string) bool {
	switch kind {
	case "basematerials", "colorgroup", "texture2dgroup", "compositematerials", "multiproperties", extensionResource:
		return true
	}
	return false
}

// need refuses an element without one of the attributes.
func need(doc *document, e *element, names ...string) error {
	for _, name := range names {
		if v, ok := e.get("", name); !ok || len(v) == 0 {
			return doc.refuse(Invalid, "%s has no %s", e.local, name)
		}
	}
	return nil
}

func numbers(doc *document, e *element, names ...string) error {
	for _, name := range names {
		v, ok := e.get("", name)
		if !ok {
			return doc.refuse(Invalid, "%s has no %s", e.local, name)
		}
		if _, err := number(v); err != nil {
			return doc.refuse(Malformed, "%s of %s is %.40q, not a number", name, e.local, v)
		}
	}
	return nil
}

// reference refuses an attribute that names no resource of the kind, defined
// before.
func reference(doc *document, m *tmfModel, e *element, name, kind string) error {
	id, err := integer(doc, e, name)
	if err != nil {
		return err
	}
	if m.kinds[id] != kind {
		return doc.refuse(BadIndex, "%s %d of %s names no %s defined before", name, id, e.local, kind)
	}
	return nil
}

// properties counts the children of a group and checks each.
func properties(doc *document, m *tmfModel, id int, space, name string, check func(e *element) error) error {
	n := 0
	err := doc.children(func(e *element) error {
		if !e.is(space, name) {
			if e.space == space {
				return doc.refuse(Invalid, "element %.40q is not allowed here", e.local)
			}
			return nil
		}
		n++
		return check(e)
	})
	if err == nil && n == 0 {
		return doc.refuse(Invalid, "resource %d is an empty group", id)
	}
	m.groups[id] = n
	return err
}

// list checks numbers of properties, all below limit.
func list(doc *document, text []byte, limit int) error {
	for word, rest := nextField(text); len(word) > 0; word, rest = nextField(rest) {
		n, ok := index(word)
		if !ok {
			return doc.refuse(Malformed, "%.80q are not indices", text)
		}
		if int(n) >= limit {
			return doc.refuse(BadIndex, "index %d is not below %d, the number of properties", n, limit)
		}
	}
	return nil
}

func (r *tmfReader) texture(doc *document, e *element) error {
	if err := need(doc, e, "path", "contenttype"); err != nil {
		return err
	}
	kind, _ := e.get("", "contenttype")
	if k := string(kind); k != "image/png" && k != "image/jpeg" {
		return doc.refuse(Invalid, "a texture is of type %.60q, neither image/png nor image/jpeg", kind)
	}
	for _, name := range []string{"tilestyleu", "tilestylev"} {
		switch v, ok := e.get("", name); string(v) {
		case "wrap", "mirror", "clamp", "none":
		default:
			if ok {
				return doc.refuse(Invalid, "%s is %.40q, none of 3MF's", name, v)
			}
		}
	}
	name, _ := e.get("", "path")
	if !r.has(string(name)) {
		return doc.refuse(Invalid, "texture %.80q is missing from the archive", name)
	}
	return nil
}

// multiproperties: Materials 1.2, chapter 5: at most one material, as the first
// layer, at most one colour group, no multiproperties among the layers.
func multiproperties(doc *document, m *tmfModel, e *element, id int) error {
	if err := need(doc, e, "pids"); err != nil {
		return err
	}
	text, _ := e.get("", "pids")
	layers, colours := 0, 0
	for word, rest := nextField(text); len(word) > 0; word, rest = nextField(rest) {
		pid, err := strconv.Atoi(string(word))
		if err != nil {
			return doc.refuse(Malformed, "pids %.80q are not numbers", text)
		}
		switch kind := m.kinds[pid]; kind {
		case "basematerials", "compositematerials":
			if layers > 0 {
				return doc.refuse(Invalid, "a material is not the first of the multiproperties, or not the only one")
			}
		case "colorgroup":
			if colours++; colours > 1 {
				return doc.refuse(Invalid, "multiproperties refer to more than one colour group")
			}
		case "multiproperties":
			return doc.refuse(Invalid, "multiproperties refer to multiproperties %d", pid)
		case "":
			return doc.refuse(BadIndex, "pid %d names no resource defined before", pid)
		}
		layers++
	}
	if methods, ok := e.get("", "blendmethods"); ok {
		n := 0
		for word, rest := nextField(methods); len(word) > 0; word, rest = nextField(rest) {
			if !bytes.Equal(word, []byte("mix")) && !bytes.Equal(word, []byte("multiply")) {
				return doc.refuse(Invalid, "blend method %.40q is none of 3MF's", word)
			}
			n++
		}
		if n >= layers {
			return doc.refuse(Invalid, "there are %d blend methods for %d layers", n, layers)
		}
	}
	// Their indices are not held against the layers: the consortium's own samples
	// that must pass go beyond them.
	return properties(doc, m, id, materialNS, "multi", func(e *element) error { return need(doc, e, "pindices") })
}
