package analysis

import (
	"image/color"

	"inshape/mesh"
	"inshape/render"
)

// defectKind says what is wrong with an edge.
type defectKind uint16

const (
	openEdge     defectKind = iota // of one facet
	crowdedEdge                    // of three facets or more
	crossingEdge                   // of a facet that crosses another one
)

// defect is an edge to mark.
type defect struct {
	kind defectKind
	line [2]mesh.Vec
}

const maxDefects = 20_000 // edges that are marked

// findDefects gives the edges to mark, at most maxDefects.
func findDefects(m *mesh.Mesh, t *mesh.Topology, crossings [][2]int32) []defect {
	var found []defect
	for h, twin := range t.Twin {
		if twin >= 0 || t.Shell[h/3] < 0 || len(found) >= maxDefects {
			continue
		}
		facet := m.Facets[h/3]
		d := defect{kind: openEdge, line: [2]mesh.Vec{m.Vertices[facet[h%3]], m.Vertices[facet[(h+1)%3]]}}
		if twin < -1 {
			d.kind = crowdedEdge
		}
		found = append(found, d)
	}
	for _, pair := range crossings {
		for _, f := range pair {
			p, q, r := m.Corners(int(f))
			for _, line := range [][2]mesh.Vec{{p, q}, {q, r}, {r, p}} {
				if len(found) < maxDefects {
					found = append(found, defect{crossingEdge, line})
				}
			}
		}
	}
	return found
}

// picture is the usual one of a revision.
func picture(defects []defect) render.Picture {
	p := render.Picture{}
	for _, d := range defects {
		if d.kind != crossingEdge {
			p.Lines = append(p.Lines, d.line)
		}
	}
	return p
}

// guarded is the picture for those who may see what a part looks like and no more.
func guarded(mark string) render.Picture {
	return render.Picture{Background: color.NRGBA{0xf5, 0xf6, 0xf8, 0xff}}.Guarded(mark)
}
