package mesh

// The Slice extension (1.0.2) gives an object ready-made layers beside its mesh.
// They are not read, because the mesh is; their rules are checked.

func (r *tmfReader) objectSlices(doc *document, m *tmfModel, e *element, id int) error {
	switch resolution, ok := e.get(sliceNS, "meshresolution"); {
	case !ok || string(resolution) == "fullres":
	case string(resolution) != "lowres":
		return doc.refuse(Invalid, "mesh resolution %.40q is none of 3MF's", resolution)
	case !m.required[sliceNS]:
		return doc.refuse(Invalid, "object %d has a mesh of low resolution without requiring the Slice extension", id)
	default:
		r.warn("the mesh of object %d is of low resolution: its layers, which are not read, are finer", id)
	}
	stack, ok := e.get(sliceNS, "slicestackid")
	if !ok {
		return nil
	}
	n, ok := index(stack)
	if !ok {
		return doc.refuse(Malformed, "slicestackid is %.40q, not a number below 2³¹", stack)
	}
	if where, ok := e.get(sliceNS, "slicepath"); ok {
		if !r.has(string(where)) {
			return doc.refuse(Invalid, "part %.80q is named and missing from the archive", where)
		}
		return nil
	}
	if m.kinds[int(n)] != "slicestack" {
		return doc.refuse(BadIndex, "slicestackid %d names no slice stack defined before", n)
	}
	return nil
}

// sliceStack reads layers, upwards, or references to layers in other parts.
func (r *tmfReader) sliceStack(doc *document, e *element) error {
	if string(e.local) != "slicestack" {
		return doc.refuse(Invalid, "element %.40q is not allowed in resources", e.local)
	}
	height := 0.0
	if text, ok := e.get("", "zbottom"); ok {
		var err error
		if height, err = number(text); err != nil {
			return doc.refuse(Malformed, "zbottom is %.40q, not a number", text)
		}
	}
	slices, others := 0, 0
	err := doc.children(func(e *element) error {
		switch {
		case e.is(sliceNS, "slice"):
			slices++
			if err := numbers(doc, e, "ztop"); err != nil {
				return err
			}
			text, _ := e.get("", "ztop")
			top, _ := number(text)
			if !(top > height || slices == 1 && top == height) {
				return doc.refuse(Invalid, "slice %d ends at %g, below the one before it at %g", slices, top, height)
			}
			height = top
			return slice(doc)
		case e.is(sliceNS, "sliceref"):
			others++
			if _, err := integer(doc, e, "slicestackid"); err != nil {
				return err
			}
			if err := need(doc, e, "slicepath"); err != nil {
				return err
			}
			where, _ := e.get("", "slicepath")
			if !r.has(string(where)) {
				return doc.refuse(Invalid, "part %.80q is named and missing from the archive", where)
			}
		}
		return nil
	})
	if err == nil && slices > 0 && others > 0 {
		return doc.refuse(Invalid, "a slice stack has slices and references to slices")
	}
	return err
}

// slice checks that the polygons of a layer name its points.
func slice(doc *document) error {
	points := 0
	name := func(e *element, attribute string) error {
		n, err := integer(doc, e, attribute)
		if err == nil && n >= points {
			return doc.refuse(BadIndex, "%s of a polygon is %d and the slice has %d points", attribute, n, points)
		}
		return err
	}
	return doc.children(func(e *element) error {
		switch {
		case e.is(sliceNS, "vertices"):
			return doc.children(func(e *element) error {
				if !e.is(sliceNS, "vertex") {
					return nil
				}
				points++
				return numbers(doc, e, "x", "y")
			})
		case e.is(sliceNS, "polygon"):
			if err := name(e, "startv"); err != nil {
				return err
			}
			return doc.children(func(e *element) error {
				if !e.is(sliceNS, "segment") {
					return nil
				}
				return name(e, "v2")
			})
		}
		return nil
	})
}
