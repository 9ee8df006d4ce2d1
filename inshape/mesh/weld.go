package mesh

import (
	"math"
	"math/bits"
	"math/rand/v2"
)

// welder gives equal points one index. It is an open-addressing hash table of
// indices; -0 and 0 are the same.
type welder struct {
	vertices []Vec
	table    []int32 // index+1; 0 is free
	shift    uint
	factor   uint64 // secret, so that nobody can prepare points that collide
}

func newWelder(expected int) welder {
	size := max(64, 2*expected)
	log := uint(bits.Len(uint(size)))
	return welder{vertices: make([]Vec, 0, max(16, expected)), table: make([]int32, 1<<log), shift: 64 - log, factor: rand.Uint64() | 1}
}

func (w *welder) slot(p Vec) uint64 {
	k := w.factor // multiplicative hashing (Knuth, TAOCP 3, 6.4)
	h := math.Float64bits(p[0])*k ^ math.Float64bits(p[1])
	h = bits.RotateLeft64(h*k, 31) ^ math.Float64bits(p[2])
	h *= k
	return (h ^ h>>29) * k >> w.shift
}

func (w *welder) add(p Vec) int32 {
	p = Vec{p[0] + 0, p[1] + 0, p[2] + 0}
	mask := uint64(len(w.table) - 1)
	i := w.slot(p)
	for ; w.table[i] != 0; i = (i + 1) & mask {
		if w.vertices[w.table[i]-1] == p {
			return w.table[i] - 1
		}
	}
	w.vertices = append(w.vertices, p)
	w.table[i] = int32(len(w.vertices))
	if 4*len(w.vertices) > 3*len(w.table) {
		w.grow()
	}
	return int32(len(w.vertices) - 1)
}

func (w *welder) grow() {
	w.table = make([]int32, 2*len(w.table))
	w.shift--
	mask := uint64(len(w.table) - 1)
	for n, p := range w.vertices {
		i := w.slot(p)
		for w.table[i] != 0 {
			i = (i + 1) & mask
		}
		w.table[i] = int32(n + 1)
	}
}

// Weld makes vertices one that are at most tolerance apart (0: equal), and
// tells how many it removed. Facets that lose a corner stay, as degenerate
// ones. With a tolerance a vertex joins the first one before it that is near
// enough and was kept, so that welding never moves a vertex further than the
// tolerance. Vertices are kept in order. O(n) expected.
func (m *Mesh) Weld(tolerance float64) (removed int) {
	before := len(m.Vertices)
	to := make([]int32, before)
	if tolerance > 0 {
		m.Vertices = weldNear(m.Vertices, tolerance, to)
	} else {
		w := newWelder(before)
		for i, v := range m.Vertices {
			to[i] = w.add(v)
		}
		m.Vertices = w.vertices
	}
	for i, f := range m.Facets {
		m.Facets[i] = Facet{to[f[0]], to[f[1]], to[f[2]]}
	}
	return before - len(m.Vertices)
}

// weldNear looks in the 27 cells around a point of a grid with the tolerance
// as its pitch. Kept points are more than a tolerance apart, so that a cell
// holds few of them.
func weldNear(vertices []Vec, tolerance float64, to []int32) []Vec {
	type cell [3]int64
	first := make(map[cell]int32, len(vertices)) // the last kept vertex of a cell
	next := make([]int32, 0, len(vertices))      // the one before it, or -1
	kept := make([]Vec, 0, len(vertices))
	for i, v := range vertices {
		at := cell{int64(math.Floor(v[0] / tolerance)), int64(math.Floor(v[1] / tolerance)), int64(math.Floor(v[2] / tolerance))}
		found := int32(-1)
		for n := range 27 {
			k, ok := first[cell{at[0] + int64(n%3) - 1, at[1] + int64(n/3%3) - 1, at[2] + int64(n/9) - 1}]
			for ; ok && k >= 0; k = next[k] {
				if kept[k].Sub(v).Len() <= tolerance && (found < 0 || k < found) {
					found = k
				}
			}
		}
		if found < 0 {
			found = int32(len(kept))
			kept = append(kept, v)
			if k, ok := first[at]; ok {
				next = append(next, k)
			} else {
				next = append(next, -1)
			}
			first[at] = found
		}
		to[i] = found
	}
	return kept
}

// Compact drops vertices that no facet uses, and tells how many. O(n).
func (m *Mesh) Compact() (removed int) {
	to := make([]int32, len(m.Vertices))
	for _, f := range m.Facets {
		for _, v := range f {
			to[v] = 1
		}
	}
	n := int32(0)
	for i, used := range to {
		if used != 0 {
			m.Vertices[n] = m.Vertices[i]
			to[i] = n
			n++
		}
	}
	removed = len(m.Vertices) - int(n)
	m.Vertices = m.Vertices[:n]
	for i, f := range m.Facets {
		m.Facets[i] = Facet{to[f[0]], to[f[1]], to[f[2]]}
	}
	return removed
}
