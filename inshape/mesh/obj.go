package mesh

import (
	"bytes"
	"fmt"
	"strconv"
)

// parseOBJ reads the polygonal part of Wavefront OBJ (Advanced Visualizer
// manual, appendix B1): v, f with positive or negative indices and with or
// without texture and normal indices, o and g as names. Polygons become fans
// from their first corner, which is exact for convex ones and keeps volume and
// boundary of planar ones. Everything else (materials, curves, lines) is ignored.
func parseOBJ(data []byte) (*Model, error) {
	m := &Mesh{}
	model := &Model{Format: OBJ, Mesh: m}
	name, begun := "", 0
	part := func() {
		if len(m.Facets) > begun {
			model.Parts = append(model.Parts, Part{name, [2]int{begun, len(m.Facets)}})
		}
		begun = len(m.Facets)
	}
	line := 0
	at := func() string { return fmt.Sprintf("line %d", line) }
	var polygon []int32
	var joined []byte
	for row := range bytes.Lines(data) {
		line++
		if body := bytes.TrimRight(row, "\r\n"); bytes.HasSuffix(body, []byte("\\")) {
			joined = append(append(joined, body[:len(body)-1]...), ' ')
			continue
		}
		if len(joined) > 0 {
			row = append(joined, row...)
			joined = joined[:0]
		}
		word, rest := nextField(row)
		switch string(word) {
		case "v":
			p, _, err := point(rest)
			if err != nil {
				return nil, refuse(OBJ, Malformed, at(), "v needs three numbers: %v", err)
			}
			if !p.finite() {
				return nil, refuse(OBJ, NotFinite, at(), "a coordinate is NaN, infinite or beyond 1e9; repair the export")
			}
			m.Vertices = append(m.Vertices, p)
		case "f":
			polygon = polygon[:0]
			for word, rest = nextField(rest); len(word) > 0 && word[0] != '#'; word, rest = nextField(rest) {
				text, _, _ := bytes.Cut(word, []byte("/"))
				i, err := strconv.Atoi(string(text))
				if err != nil {
					return nil, refuse(OBJ, Malformed, at(), "%.20q is not a corner", word)
				}
				if i < 0 {
					i += len(m.Vertices) + 1
				}
				if i < 1 || i > len(m.Vertices) {
					return nil, refuse(OBJ, BadIndex, at(), "corner %.20q names no vertex; %d are defined so far", word, len(m.Vertices))
				}
				polygon = append(polygon, int32(i-1))
			}
			if len(polygon) < 3 {
				return nil, refuse(OBJ, Malformed, at(), "a face has %d corners", len(polygon))
			}
			for k := 2; k < len(polygon); k++ {
				m.Facets = append(m.Facets, Facet{polygon[0], polygon[k-1], polygon[k]})
			}
		case "o", "g":
			part()
			name = string(bytes.TrimSpace(rest))
		}
	}
	if len(joined) > 0 {
		return nil, refuse(OBJ, Truncated, at(), "the file ends inside a continued line; send it again")
	}
	part()
	return model, nil
}
