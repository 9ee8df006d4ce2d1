package mesh

import (
	"cmp"
	"runtime"
	"slices"
)

// Topology says how the facets hang together. Corner h = 3·facet + k stands for
// the half-edge from the facet's corner k to its next one. Facets with the same
// vertex twice take no part.
type Topology struct {
	Facets              int // all of them
	Edges               int
	BoundaryEdges       int // of one facet
	NonManifoldEdges    int // of three or more facets
	InconsistentEdges   int // of two facets that run along it in the same direction
	NonManifoldVertices int // where facets meet in more than one fan
	Degenerate          int // facets without area
	Duplicate           int // facets on the same three vertices as an earlier one
	Shells              int // parts connected through edges of two facets

	Twin  []int32 // of every half-edge: the other one of its edge, -1 on a boundary, -2 where more than two facets meet
	Shell []int32 // of every facet: its shell from 0, -1 for facets that take no part
}

// Closed tells whether each edge has exactly two facets.
func (t *Topology) Closed() bool {
	return t.Edges > 0 && t.BoundaryEdges == 0 && t.NonManifoldEdges == 0
}

// Manifold tells whether the surface has no edge of more than two facets and no
// vertex of more than one fan.
func (t *Topology) Manifold() bool { return t.NonManifoldEdges == 0 && t.NonManifoldVertices == 0 }

// Solid is 3MF's rule (Core 1.4, 4.1.5.1): each edge in exactly two facets that
// run along it in opposed directions.
func (t *Topology) Solid() bool { return t.Closed() && t.InconsistentEdges == 0 && t.Duplicate == 0 }

const (
	boundary  = -1
	ambiguous = -2
)

// half is a half-edge in the list of its lower vertex.
type half struct {
	high int32 // the higher vertex
	at   int32 // the half-edge
}

// Analyse pairs half-edges in lists by their lower vertex (a counting sort;
// then lists of about six are sorted), joins shells by union-find and walks the
// fans of every vertex. The mesh must be welded. O(n) for bounded vertex
// degrees, O(n log n) always.
func Analyse(m *Mesh) *Topology {
	n := len(m.Facets)
	t := &Topology{Facets: n, Twin: make([]int32, 3*n), Shell: make([]int32, n)}
	start := make([]int32, len(m.Vertices)+1)
	for f, c := range m.Facets {
		if m.degenerate(f) {
			t.Degenerate++
		}
		if c[0] == c[1] || c[1] == c[2] || c[2] == c[0] {
			continue
		}
		start[min(c[0], c[1])]++
		start[min(c[1], c[2])]++
		start[min(c[2], c[0])]++
	}
	sum := int32(0)
	for v, k := range start {
		start[v] = sum
		sum += k
	}
	list := make([]half, sum)
	for f, c := range m.Facets {
		h := int32(3 * f)
		t.Twin[h], t.Twin[h+1], t.Twin[h+2] = boundary, boundary, boundary
		if c[0] == c[1] || c[1] == c[2] || c[2] == c[0] {
			continue
		}
		for k := range int32(3) {
			a, b := c[k], c[(k+1)%3]
			low := min(a, b)
			list[start[low]] = half{max(a, b), h + k}
			start[low]++
		}
	}
	t.pair(m, start, list)
	t.shells(m)
	t.fans(m)
	return t
}

// pair finds the half-edges of each edge. start holds the ends of the lists.
func (t *Topology) pair(m *Mesh, start []int32, list []half) {
	nv := len(m.Vertices)
	workers := max(1, min(runtime.GOMAXPROCS(0), nv/8192))
	parts := make([]Topology, workers)
	duplicates := make([][]int32, workers)
	parallel(workers, func(w int) {
		var p Topology
		for v := nv * w / workers; v < nv*(w+1)/workers; v++ {
			from := int32(0)
			if v > 0 {
				from = start[v-1]
			}
			edges := list[from:start[v]]
			sortHalves(edges)
			for len(edges) > 0 {
				k := 1
				for k < len(edges) && edges[k].high == edges[0].high {
					k++
				}
				duplicates[w] = p.edge(m, t.Twin, edges[:k], duplicates[w])
				edges = edges[k:]
			}
		}
		parts[w] = p
	})
	var twice []int32
	for w, p := range parts {
		t.Edges += p.Edges
		t.BoundaryEdges += p.BoundaryEdges
		t.NonManifoldEdges += p.NonManifoldEdges
		t.InconsistentEdges += p.InconsistentEdges
		twice = append(twice, duplicates[w]...)
	}
	slices.Sort(twice) // each is found along its three edges
	t.Duplicate = len(slices.Compact(twice))
}

func sortHalves(edges []half) {
	if len(edges) > 24 {
		slices.SortFunc(edges, func(a, b half) int {
			if a.high != b.high {
				return cmp.Compare(a.high, b.high)
			}
			return cmp.Compare(a.at, b.at)
		})
		return
	}
	for i := 1; i < len(edges); i++ { // stable, so equal ones stay in order of at
		e := edges[i]
		j := i
		for ; j > 0 && edges[j-1].high > e.high; j-- {
			edges[j] = edges[j-1]
		}
		edges[j] = e
	}
}

// edge judges the half-edges of one edge and adds facets that lie on an earlier
// one to twice.
func (t *Topology) edge(m *Mesh, twin []int32, group []half, twice []int32) []int32 {
	t.Edges++
	switch len(group) {
	case 1:
		t.BoundaryEdges++
		return twice
	case 2:
		a, b := group[0].at, group[1].at
		twin[a], twin[b] = b, a
		if m.corner(a) == m.corner(b) {
			t.InconsistentEdges++
		}
		if m.opposite(a) == m.opposite(b) {
			twice = append(twice, b/3)
		}
		return twice
	}
	t.NonManifoldEdges++
	for _, e := range group {
		twin[e.at] = ambiguous
	}
	sorted := slices.Clone(group)
	slices.SortStableFunc(sorted, func(a, b half) int { return cmp.Compare(m.opposite(a.at), m.opposite(b.at)) })
	for i := 1; i < len(sorted); i++ {
		if m.opposite(sorted[i].at) == m.opposite(sorted[i-1].at) {
			twice = append(twice, sorted[i].at/3)
		}
	}
	return twice
}

// corner is the vertex where half-edge h begins.
func (m *Mesh) corner(h int32) int32 { return m.Facets[h/3][h%3] }

// opposite is the vertex of h's facet that is not on h.
func (m *Mesh) opposite(h int32) int32 { return m.Facets[h/3][(h+2)%3] }

func following(h int32) int32 {
	if h%3 == 2 {
		return h - 2
	}
	return h + 1
}

func preceding(h int32) int32 {
	if h%3 == 0 {
		return h + 2
	}
	return h - 1
}

// shells floods over twins, facet by facet.
func (t *Topology) shells(m *Mesh) {
	for f := range t.Shell {
		t.Shell[f] = -1
	}
	var stack []int32
	for f, c := range m.Facets {
		if t.Shell[f] >= 0 || c[0] == c[1] || c[1] == c[2] || c[2] == c[0] {
			continue
		}
		shell := int32(t.Shells)
		t.Shells++
		t.Shell[f] = shell
		stack = append(stack, int32(f))
		for len(stack) > 0 {
			g := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for k := range int32(3) {
				if h := t.Twin[3*g+k]; h >= 0 && t.Shell[h/3] < 0 {
					t.Shell[h/3] = shell
					stack = append(stack, h/3)
				}
			}
		}
	}
}

// fans counts the vertices with more than one fan of facets: every half-edge
// begins at one vertex, and the facets of a fan are reached by turning around
// it in either direction over twins.
func (t *Topology) fans(m *Mesh) {
	seen := make([]bool, len(t.Twin))
	fans := make([]uint8, len(m.Vertices))
	for f, c := range m.Facets {
		if t.Shell[f] < 0 {
			continue
		}
		for k, v := range c {
			h := int32(3*f + k)
			if seen[h] {
				continue
			}
			if fans[v] < 2 {
				if fans[v]++; fans[v] == 2 {
					t.NonManifoldVertices++
				}
			}
			t.turn(m, seen, v, h, true)
			t.turn(m, seen, v, h, false)
		}
	}
}

// turn marks v's corners from corner h on, in one direction, to the start or to
// a boundary. Twins may be inconsistent, so each step looks for v anew.
func (t *Topology) turn(m *Mesh, seen []bool, v, h int32, left bool) {
	seen[h] = true
	edge := h
	if left {
		edge = preceding(h)
	}
	for {
		next := t.Twin[edge]
		if next < 0 {
			return
		}
		begin := next // the corner at v in the next facet: the edge's begin or its end
		if m.corner(next) != v {
			begin = following(next)
		}
		if seen[begin] {
			return
		}
		seen[begin] = true
		if begin == next {
			edge = preceding(begin)
		} else {
			edge = begin
		}
	}
}

// Loops are the boundaries: rings of vertices, each in the direction of the
// facets beside it, so that a cap runs against it. Where boundaries touch in a
// vertex they are cut into simple rings. Chains that do not close (possible
// only where facets are inconsistent or edges have more than two) are counted
// in open. O(boundary).
func (t *Topology) Loops(m *Mesh) (loops [][]int32, open int) {
	outgoing := map[int32][]int32{} // by vertex: boundary half-edges not walked yet
	var begins []int32
	for h, twin := range t.Twin {
		if twin == boundary && t.Shell[h/3] >= 0 {
			v := m.corner(int32(h))
			if len(outgoing[v]) == 0 {
				begins = append(begins, v)
			}
			outgoing[v] = append(outgoing[v], m.corner(following(int32(h))))
		}
	}
	position := map[int32]int{} // of a vertex in the path
	for _, v := range begins {
		for len(outgoing[v]) > 0 {
			path := []int32{v}
			clear(position)
			position[v] = 0
			for at := v; ; {
				ways := outgoing[at]
				if len(ways) == 0 {
					if len(path) > 1 {
						open++
					}
					break
				}
				next := ways[len(ways)-1]
				outgoing[at] = ways[:len(ways)-1]
				if i, ok := position[next]; ok {
					loops = append(loops, slices.Clone(path[i:]))
					for _, gone := range path[i+1:] {
						delete(position, gone)
					}
					path = path[:i+1]
				} else {
					position[next] = len(path)
					path = append(path, next)
				}
				at = next
				if len(path) == 1 && len(outgoing[at]) == 0 {
					break
				}
			}
		}
	}
	return loops, open
}
