package analysis

import (
	"encoding/binary"
	"math"

	"inshape/mesh"
)

// A preview is what the viewer in the browser draws: a mesh of at most
// previewFacets facets, coarser than the part if need be, with shading normals,
// the wall thickness, and the edges to mark. docs/analysis.md describes it for
// other programs. All numbers are little-endian:
//
//	magic     8 bytes  "inshprv1"
//	box       6 × float32: least and largest corner, mm
//	vertices  uint32, corners of triangles: three of them make one
//	lines     uint32, edges to mark
//	coarse    uint32: 1 if the mesh is coarser than the part
//	then for each vertex 12 bytes:
//	          3 × uint16 position: 0 is the least corner of the box and 65535 the largest
//	          uint16 thickness of the wall in 0.01 mm; 65534: more than was looked for; 65535: not measured
//	          3 × int8 normal × 127, and one byte 0
//	then for each edge 16 bytes:
//	          2 × 3 × uint16 position, uint16 kind (0 open, 1 of more than two facets, 2 crossing), uint16 0
const (
	previewMagic  = "inshprv1"
	previewFacets = 120_000
	wide          = 65534
	noThickness   = 65535
)

// creaseCosine is that of the angle above which an edge shows: 40°.
const creaseCosine = 0.766

func encodePreview(m *mesh.Mesh, tree *mesh.BVH, widths []float64, defects []defect) []byte {
	shown := m
	coarse := len(m.Facets) > previewFacets
	if coarse {
		shown = m.Decimate(previewFacets)
	}
	box := m.Bounds()
	out := make([]byte, 0, 48+36*len(shown.Facets)+16*len(defects))
	out = append(out, previewMagic...)
	for _, corner := range []mesh.Vec{box.Min, box.Max} {
		for _, x := range corner {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(x)))
		}
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(3*len(shown.Facets)))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(defects)))
	flag := uint32(0)
	if coarse {
		flag = 1
	}
	out = binary.LittleEndian.AppendUint32(out, flag)

	size := box.Size()
	place := func(p mesh.Vec) {
		for k, x := range p {
			v := 0.0
			if size[k] > 0 {
				v = min(max((x-box.Min[k])/size[k], 0), 1)
			}
			out = binary.LittleEndian.AppendUint16(out, uint16(math.Round(65535*v)))
		}
	}
	normals := shadingNormals(shown)
	for f := range shown.Facets {
		thickness := uint16(noThickness)
		if widths != nil {
			thickness = hundredths(widthAt(shown, f, tree, widths, coarse))
		}
		for k, v := range shown.Facets[f] {
			place(shown.Vertices[v])
			out = binary.LittleEndian.AppendUint16(out, thickness)
			for _, x := range normals[3*f+k] {
				out = append(out, byte(int8(math.Round(127*x))))
			}
			out = append(out, 0)
		}
	}
	for _, d := range defects {
		place(d.line[0])
		place(d.line[1])
		out = binary.LittleEndian.AppendUint16(out, uint16(d.kind))
		out = binary.LittleEndian.AppendUint16(out, 0)
	}
	return out
}

// widthAt is the thickness at facet f of the mesh that is shown: that of the
// nearest facet of the part, where the two are not the same.
func widthAt(shown *mesh.Mesh, f int, tree *mesh.BVH, widths []float64, coarse bool) float64 {
	if !coarse {
		return widths[f]
	}
	p, q, r := shown.Corners(f)
	_, facet, _ := tree.Nearest(p.Add(q).Add(r).Mul(1./3), math.Inf(1), nil)
	if facet < 0 {
		return math.Inf(1)
	}
	return widths[facet]
}

func hundredths(mm float64) uint16 {
	if !(mm < wide/100) { // NaN and +Inf, too
		return wide
	}
	return uint16(math.Round(100 * mm))
}

// shadingNormals are the normals of all corners: the mean, by area, of the
// facets around the vertex that turn by less than a crease.
func shadingNormals(m *mesh.Mesh) []mesh.Vec {
	flat := make([]mesh.Vec, len(m.Facets)) // of the length of twice the area
	unit := make([]mesh.Vec, len(m.Facets))
	first := make([]int32, len(m.Vertices)+1) // of each vertex's facets in around
	for f, corners := range m.Facets {
		p, q, r := m.Corners(f)
		flat[f] = q.Sub(p).Cross(r.Sub(p))
		unit[f] = flat[f].Unit()
		for _, v := range corners {
			first[v+1]++
		}
	}
	for v := range m.Vertices {
		first[v+1] += first[v]
	}
	around := make([]int32, 3*len(m.Facets))
	next := append([]int32(nil), first[:len(m.Vertices)]...)
	for f, corners := range m.Facets {
		for _, v := range corners {
			around[next[v]] = int32(f)
			next[v]++
		}
	}
	const most = 64 // facets around a vertex that are looked at: hubs would make it quadratic
	normals := make([]mesh.Vec, 3*len(m.Facets))
	for f, corners := range m.Facets {
		for k, v := range corners {
			sum := flat[f]
			for _, g := range around[first[v]:min(first[v+1], first[v]+most)] {
				if int(g) != f && unit[f].Dot(unit[g]) > creaseCosine {
					sum = sum.Add(flat[g])
				}
			}
			normals[3*f+k] = sum.Unit()
		}
	}
	return normals
}
