package mesh

import "math"

// Decimate is a coarser copy for a preview, of at most about facets facets: all
// vertices in a cell of a grid become their mean (Rossignac and Borrel,
// Multi-resolution 3D approximations for rendering complex scenes, 1993), the
// grid as fine as the number allows. It keeps the look, not the topology: never
// measure or print it. O(n log n) in the number of tries.
func (m *Mesh) Decimate(facets int) *Mesh {
	if len(m.Facets) <= facets {
		return m.Clone()
	}
	size := m.Bounds().Size()
	longest := max(size[0], size[1], size[2])
	coarse, fine := 2, 1024 // cells along the longest side
	best := m.clustered(longest / float64(coarse))
	for fine-coarse > 1 {
		cells := int(math.Sqrt(float64(coarse) * float64(fine)))
		if cells == coarse {
			cells++
		}
		if try := m.clustered(longest / float64(cells)); len(try.Facets) <= facets {
			best, coarse = try, cells
			if 10*len(try.Facets) > 9*facets {
				break
			}
		} else {
			fine = cells
		}
	}
	return best
}

func (m *Mesh) clustered(cell float64) *Mesh {
	if cell <= 0 {
		return &Mesh{}
	}
	origin := m.Bounds().Min
	index := map[[3]int32]int32{}
	r := &Mesh{}
	var weight []float64
	to := make([]int32, len(m.Vertices))
	for i, v := range m.Vertices {
		d := v.Sub(origin)
		key := [3]int32{int32(d[0] / cell), int32(d[1] / cell), int32(d[2] / cell)}
		k, ok := index[key]
		if !ok {
			k = int32(len(r.Vertices))
			index[key] = k
			r.Vertices = append(r.Vertices, Vec{})
			weight = append(weight, 0)
		}
		r.Vertices[k] = r.Vertices[k].Add(v)
		weight[k]++
		to[i] = k
	}
	for i, w := range weight {
		r.Vertices[i] = r.Vertices[i].Mul(1 / w)
	}
	seen := map[Facet]bool{}
	for _, f := range m.Facets {
		f = Facet{to[f[0]], to[f[1]], to[f[2]]}
		if f[0] == f[1] || f[1] == f[2] || f[2] == f[0] {
			continue
		}
		for f[0] > f[1] || f[0] > f[2] { // the lowest first, the direction kept
			f = Facet{f[1], f[2], f[0]}
		}
		if !seen[f] {
			seen[f] = true
			r.Facets = append(r.Facets, f)
		}
	}
	return r
}
