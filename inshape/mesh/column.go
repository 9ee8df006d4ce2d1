package mesh

import (
	"cmp"
	"context"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
)

// lattice is a grid of nodes in space. Those of a column, along z, follow each other.
type lattice struct {
	origin Vec
	pitch  float64
	n      [3]int
}

// newLattice spans box with nodes, margin of them around it, at most about budget
// of them, pitch or more apart. It is shifted off round coordinates, where the
// vertices and edges of drawn parts are.
func newLattice(box Box, pitch float64, margin, budget int) lattice {
	size := box.Size()
	for {
		g := lattice{pitch: pitch}
		nodes := 1.0
		for k := range 3 {
			// The odd part is below half a pitch and differs from axis to axis.
			odd := [3]float64{0.3660254, 0.4142136, 0.2360680}[k]
			g.origin[k] = box.Min[k] - pitch*(float64(margin)-odd)
			g.n[k] = int(min(size[k]/pitch, 1e12)) + 2*margin + 1
			nodes *= float64(g.n[k])
		}
		if nodes <= float64(budget) {
			return g
		}
		pitch *= max(1.01, 0.999*math.Cbrt(nodes/float64(budget)))
	}
}

func (g *lattice) nodes() int            { return g.n[0] * g.n[1] * g.n[2] }
func (g *lattice) index(i, j, k int) int { return (i*g.n[1]+j)*g.n[2] + k }

func (g *lattice) at(i, j, k int) Vec {
	return Vec{g.origin[0] + g.pitch*float64(i), g.origin[1] + g.pitch*float64(j), g.origin[2] + g.pitch*float64(k)}
}

// crossing is where a column passes the surface.
type crossing struct {
	height float64
	facet  int32
	up     bool // the facet looks up: solid below it
}

// columns are the crossings of each column of g, by i·n[1] + j, from below. At a
// shared edge exactly one of two facets is hit, as each edge is judged in one
// direction. O(n + columns under facets' boxes + k log k).
func (m *Mesh) columns(g lattice) [][]crossing {
	type hit struct {
		column int32
		crossing
	}
	var hits []hit
	count := make([]int32, g.n[0]*g.n[1])
	for f, t := range m.Facets {
		a, b, c := m.Corners(f)
		normal := b.Sub(a).Cross(c.Sub(a))
		if normal[2] == 0 {
			continue
		}
		low, high := min(a[2], b[2], c[2]), max(a[2], b[2], c[2])
		var from, to [2]int
		for k := range 2 {
			from[k] = max(0, int((min(a[k], b[k], c[k])-g.origin[k])/g.pitch))
			to[k] = min(g.n[k]-1, int((max(a[k], b[k], c[k])-g.origin[k])/g.pitch)+1)
		}
		for i := from[0]; i <= to[0]; i++ {
			for j := from[1]; j <= to[1]; j++ {
				p := g.at(i, j, 0)
				left := m.leftOf(t[0], t[1], p)
				if left != m.leftOf(t[1], t[2], p) || left != m.leftOf(t[2], t[0], p) {
					continue
				}
				d := p.Sub(a)
				height := min(max(a[2]-(normal[0]*d[0]+normal[1]*d[1])/normal[2], low), high)
				column := int32(i*g.n[1] + j)
				count[column]++
				hits = append(hits, hit{column, crossing{height, int32(f), left}})
			}
		}
	}
	all := make([]crossing, len(hits))
	columns := make([][]crossing, len(count))
	at := 0
	for column, n := range count {
		columns[column] = all[at : at : at+int(n)]
		at += int(n)
	}
	for _, h := range hits {
		columns[h.column] = append(columns[h.column], h.crossing)
	}
	for _, c := range columns {
		slices.SortFunc(c, func(a, b crossing) int {
			return cmp.Or(cmp.Compare(a.height, b.height), cmp.Compare(a.facet, b.facet))
		})
	}
	return columns
}

// leftOf tells whether p is left of the line from v to w, seen from above; from w
// to v the answer is the other one, always.
func (m *Mesh) leftOf(v, w int32, p Vec) bool {
	turned := v > w
	if turned {
		v, w = w, v
	}
	a, b := m.Vertices[v], m.Vertices[w]
	return (b[0]-a[0])*(p[1]-a[1])-(b[1]-a[1])*(p[0]-a[0]) > 0 != turned
}

// voxels marks the nodes of g inside the solid: where the surface goes around them,
// so that overlapping shells are no matter.
func (m *Mesh) voxels(g lattice) []bool {
	inside := make([]bool, g.nodes())
	for c, crossings := range m.columns(g) {
		column := inside[c*g.n[2] : (c+1)*g.n[2]]
		winding, k := 0, 0
		for _, x := range crossings {
			end := min(max(int((x.height-g.origin[2])/g.pitch)+1, 0), g.n[2])
			for ; k < end; k++ {
				column[k] = winding > 0
			}
			if x.up {
				winding--
			} else {
				winding++
			}
		}
	}
	return inside
}

// inBlocks calls do for the numbers from 0 to n in blocks, on all CPUs, until all
// are done or the context is.
func inBlocks(ctx context.Context, n, block int, do func(from, to int)) error {
	var next atomic.Int64
	parallel(max(1, min(runtime.GOMAXPROCS(0), (n+block-1)/block)), func(int) {
		for ctx.Err() == nil {
			from := int(next.Add(int64(block))) - block
			if from >= n {
				return
			}
			do(from, min(from+block, n))
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
