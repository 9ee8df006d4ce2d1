package mesh

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
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

	twice []int32 // while analysing: facets that lie on earlier ones
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

// Analyse pairs half-edges, joins shells and walks the fans of every vertex.
// The mesh must be welded. O(n) for bounded vertex degrees,
// O(n log n) always.
//
// In a sound mesh one half-edge of each edge rises from its lower to its higher
// vertex and one falls. Rising ones are listed by their lower vertex (a counting
// sort), falling ones look theirs up in that list. Vertices where this leaves
// something over or finds something twice are looked at once more, with all
// that they have. The result does not depend on the number of CPUs.
func Analyse(m *Mesh) *Topology {
	n := len(m.Facets)
	t := &Topology{Facets: n, Twin: make([]int32, 3*n), Shell: make([]int32, n)}
	p := newPairing(m, t)
	p.match()
	p.settle()
	p.links()
	return t
}

func collapsed(c Facet) bool { return c[0] == c[1] || c[1] == c[2] || c[2] == c[0] }

// pairing is the state of one Analyse.
type pairing struct {
	m      *Mesh
	t      *Topology
	degree []int32 // of every vertex: facets that take part
	corner []int32 // of every vertex: one of its corners
	ends   []int32 // of every vertex: the end of its list in rising
	rising []half
	odd    []bool // vertices whose edges are not all pairs of opposed half-edges
}

// newPairing lists what rises. Each worker takes a range of vertices, and reads
// all facets for it: reading them in order is cheap beside what it would cost to
// share the counters.
func newPairing(m *Mesh, t *Topology) *pairing {
	nf, nv := len(m.Facets), len(m.Vertices)
	p := &pairing{m: m, t: t, degree: make([]int32, nv), corner: make([]int32, nv), ends: make([]int32, nv)}
	workers := max(1, min(runtime.GOMAXPROCS(0), 4, nv/8192))
	sums := make([]int32, workers+1)
	parallel(workers, func(w int) {
		for h := 3 * nf * w / workers; h < 3*nf*(w+1)/workers; h++ {
			t.Twin[h] = boundary
		}
		from, to := int32(nv*w/workers), int32(nv*(w+1)/workers)
		mine := func(v int32) bool { return v >= from && v < to }
		for f, c := range m.Facets {
			a, b, d := mine(c[0]), mine(c[1]), mine(c[2])
			if !a && !b && !d || collapsed(c) {
				continue
			}
			h := int32(3 * f)
			if a {
				p.degree[c[0]]++
				p.corner[c[0]] = h
				if c[0] < c[1] {
					p.ends[c[0]]++
				}
			}
			if b {
				p.degree[c[1]]++
				p.corner[c[1]] = h + 1
				if c[1] < c[2] {
					p.ends[c[1]]++
				}
			}
			if d {
				p.degree[c[2]]++
				p.corner[c[2]] = h + 2
				if c[2] < c[0] {
					p.ends[c[2]]++
				}
			}
		}
		for v := from; v < to; v++ {
			sums[w+1] += p.ends[v]
		}
	})
	for w := range workers {
		sums[w+1] += sums[w]
	}
	p.rising = make([]half, sums[workers])
	parallel(workers, func(w int) {
		from, to := int32(nv*w/workers), int32(nv*(w+1)/workers)
		sum := sums[w]
		for v := from; v < to; v++ {
			n := p.ends[v]
			p.ends[v] = sum
			sum += n
		}
		rises := func(v, high, h int32) {
			if v < high && v >= from && v < to {
				p.rising[p.ends[v]] = half{high, h}
				p.ends[v]++
			}
		}
		for f, c := range m.Facets {
			if collapsed(c) {
				continue
			}
			h := int32(3 * f)
			rises(c[0], c[1], h)
			rises(c[1], c[2], h+1)
			rises(c[2], c[0], h+2)
		}
		begin := sums[w]
		for v := from; v < to; v++ {
			if end := p.ends[v]; end-begin > longList {
				sortHalves(p.rising[begin:end])
			}
			begin = p.ends[v]
		}
	})
	return p
}

// list is what rises from v.
func (p *pairing) list(v int32) []half {
	if v == 0 {
		return p.rising[:p.ends[0]]
	}
	return p.rising[p.ends[v-1]:p.ends[v]]
}

// blocks calls do for [0, n) in pieces, on all CPUs.
func blocks(n int, do func(from, to int)) {
	const size = 1 << 14
	var next atomic.Int64
	parallel(max(1, min(runtime.GOMAXPROCS(0), n/size)), func(int) {
		for {
			from := int(next.Add(size)) - size
			if from >= n {
				return
			}
			do(from, min(from+size, n))
		}
	})
}

// longList bounds what is searched step by step; the lists of hubs, where
// thousands of facets may meet, are sorted.
const longList = 32

// match gives falling half-edges their rising ones, and notes the vertices
// where that does not come out even.
func (p *pairing) match() {
	m, twin := p.m, p.t.Twin
	var mu sync.Mutex // guards odd, twice and degenerate
	var odd, twice []int32
	degenerate := 0
	blocks(len(m.Facets), func(from, to int) {
		var myOdd, myTwice []int32
		myDegenerate := 0
		for f := from; f < to; f++ {
			if m.degenerate(f) {
				myDegenerate++
			}
			c := m.Facets[f]
			if collapsed(c) {
				continue
			}
			for k := range int32(3) {
				high, low := c[k], c[(k+1)%3]
				if high < low {
					continue
				}
				h, found := int32(3*f)+k, int32(-1)
				list := p.list(low)
				if len(list) > longList {
					first, _ := slices.BinarySearchFunc(list, high, func(r half, high int32) int { return cmp.Compare(r.high, high) })
					list = list[first:min(first+2, len(list))]
				}
				for _, r := range list {
					if r.high == high {
						if found >= 0 {
							found = -1
							break
						}
						found = r.at
					}
				}
				if found < 0 || !atomic.CompareAndSwapInt32(&twin[found], boundary, h) {
					myOdd = append(myOdd, low)
					continue
				}
				twin[h] = found
				if m.opposite(found) == m.opposite(h) {
					myTwice = append(myTwice, max(h, found)/3)
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		odd, twice, degenerate = append(odd, myOdd...), append(twice, myTwice...), degenerate+myDegenerate
	})
	blocks(len(m.Vertices), func(from, to int) {
		var mine []int32
		for v := int32(from); v < int32(to); v++ {
			for _, r := range p.list(v) {
				if twin[r.at] == boundary {
					mine = append(mine, v)
					break
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		odd = append(odd, mine...)
	})
	p.t.Degenerate = degenerate
	p.t.Edges = len(p.rising)
	if len(odd) > 0 {
		p.odd = make([]bool, len(m.Vertices))
		for _, v := range odd {
			p.odd[v] = true
		}
	}
	p.t.twice = twice
}

// settle pairs the edges whose lower vertex is odd from the beginning, by lists
// of all their half-edges.
func (p *pairing) settle() {
	m, t := p.m, p.t
	if p.odd != nil {
		type edge struct{ low, high, at int32 }
		var edges []edge
		ends := make([]int32, len(m.Vertices))
		for f, c := range m.Facets {
			if collapsed(c) {
				continue
			}
			for k := range int32(3) {
				a, b := c[k], c[(k+1)%3]
				if low := min(a, b); p.odd[low] {
					edges = append(edges, edge{low, max(a, b), int32(3*f) + k})
					ends[low]++
				}
			}
		}
		sum := int32(0)
		for v, k := range ends {
			ends[v] = sum
			sum += k
			if p.odd[v] {
				t.Edges -= len(p.list(int32(v)))
			}
		}
		all := make([]half, sum)
		for _, e := range edges {
			all[ends[e.low]] = half{e.high, e.at}
			ends[e.low]++
		}
		begin := int32(0)
		for v, end := range ends {
			if p.odd[v] {
				group := all[begin:end]
				sortHalves(group)
				for len(group) > 0 {
					k := 1
					for k < len(group) && group[k].high == group[0].high {
						k++
					}
					t.edge(m, group[:k])
					group = group[k:]
				}
			}
			begin = end
		}
	}
	slices.Sort(t.twice) // each is found along its three edges
	t.Duplicate = len(slices.Compact(t.twice))
	t.twice = nil
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

// edge judges the half-edges of one edge.
func (t *Topology) edge(m *Mesh, group []half) {
	t.Edges++
	switch len(group) {
	case 1:
		t.BoundaryEdges++
		t.Twin[group[0].at] = boundary
		return
	case 2:
		a, b := group[0].at, group[1].at
		t.Twin[a], t.Twin[b] = b, a
		if m.corner(a) == m.corner(b) {
			t.InconsistentEdges++
		}
		if m.opposite(a) == m.opposite(b) {
			t.twice = append(t.twice, b/3)
		}
		return
	}
	t.NonManifoldEdges++
	for _, e := range group {
		t.Twin[e.at] = ambiguous
	}
	slices.SortStableFunc(group, func(a, b half) int { return cmp.Compare(m.opposite(a.at), m.opposite(b.at)) })
	for i := 1; i < len(group); i++ {
		if m.opposite(group[i].at) == m.opposite(group[i-1].at) {
			t.twice = append(t.twice, group[i].at/3)
		}
	}
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

// links finds shells and fans, which do not need each other, side by side.
func (p *pairing) links() {
	m := p.m
	var fans atomic.Int64
	const size = 1 << 12
	var next atomic.Int64
	parallel(max(1, min(runtime.GOMAXPROCS(0), 1+len(m.Vertices)/size)), func(worker int) {
		if worker == 0 {
			p.t.shells(m)
		}
		for {
			from := int(next.Add(size)) - size
			if from >= len(m.Vertices) {
				return
			}
			found := 0
			for v := int32(from); v < int32(min(from+size, len(m.Vertices))); v++ {
				if p.degree[v] > 0 && p.t.fan(m, v, p.corner[v]) < p.degree[v] {
					found++
				}
			}
			fans.Add(int64(found))
		}
	})
	p.t.NonManifoldVertices = int(fans.Load())
}

// shells floods over twins, facet by facet.
func (t *Topology) shells(m *Mesh) {
	for f := range t.Shell {
		t.Shell[f] = -1
	}
	var stack []int32
	for f, c := range m.Facets {
		if t.Shell[f] >= 0 || collapsed(c) {
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

// fan counts v's corners that are reached from corner h by turning around v over
// twins, to the left and, if that ends at a boundary, to the right.
func (t *Topology) fan(m *Mesh, v, h int32) int32 {
	n, around := t.turn(m, v, h, preceding(h))
	if !around {
		right, _ := t.turn(m, v, h, h)
		n += right
	}
	return n + 1
}

// turn counts the corners of v behind corner h, the first step over edge, to a
// boundary or around to h. Twins may be inconsistent, so each step looks for v
// anew.
func (t *Topology) turn(m *Mesh, v, h, edge int32) (n int32, around bool) {
	for {
		next := t.Twin[edge]
		if next < 0 {
			return n, false
		}
		begin := next // the corner at v in the next facet: the edge's begin or its end
		if m.corner(next) != v {
			begin = following(next)
		}
		if begin == h {
			return n, true
		}
		n++
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
// in open. O(n).
func (t *Topology) Loops(m *Mesh) (loops [][]int32, open int) {
	outgoing := map[int32][]int32{} // by vertex: ends of boundary half-edges not walked yet
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
			position[v] = 0
			for at := v; len(outgoing[at]) > 0; {
				ways := outgoing[at]
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
			}
			if len(path) > 1 {
				open++
			}
			for _, gone := range path {
				delete(position, gone)
			}
		}
	}
	return loops, open
}
