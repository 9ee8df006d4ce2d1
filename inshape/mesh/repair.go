package mesh

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// RepairOptions say how far a repair may go. The zero value is a careful repair.
type RepairOptions struct {
	// Tolerance is the widest gap that is closed by joining its sides, mm;
	// 0: 0.05, and never more than a thousandth of the box's diagonal. Points
	// that are not on a boundary are never moved.
	Tolerance float64
	// Debris drops shells whose box has a smaller diagonal, mm; 0: 0.1, and
	// never more than a hundredth of the largest shell's.
	Debris float64
	// KeepOverlaps leaves shells that overlap as they are, for parts that must stay
	// apart, as of different materials.
	KeepOverlaps bool
}

// ActionCode names a kind of thing that a repair does. The texts are stable.
type ActionCode string

// What a repair does, in this order.
const (
	Welded     ActionCode = "weld"         // joined points
	Dropped    ActionCode = "degenerate"   // dropped facets with a corner twice
	Undoubled  ActionCode = "duplicate"    // dropped facets that lie on others
	Stitched   ActionCode = "stitch"       // joined the sides of a gap
	Fitted     ActionCode = "t-junction"   // gave an edge the points that lie on it
	Flipped    ActionCode = "flip"         // turned facets
	Unwalled   ActionCode = "wall"         // dropped walls inside of the solid
	SplitEdge  ActionCode = "split-edge"   // took parts that touch along an edge apart
	SplitPoint ActionCode = "split-vertex" // gave parts that touch in a point a point each
	Inverted   ActionCode = "invert"       // turned shells that were inside out
	Cleaned    ActionCode = "debris"       // dropped crumbs and loose sheets
	Filled     ActionCode = "fill"         // closed holes
	United     ActionCode = "union"        // joined shells that overlapped
)

// Action is one kind of thing that a repair did.
type Action struct {
	Code  ActionCode
	Count int
	Text  string // one line for the customer
}

// Repaired is the outcome of a repair.
type Repaired struct {
	Mesh    *Mesh
	Actions []Action // none: the mesh was sound and Mesh is a copy of it
	Before  *Topology
	After   *Topology
	Solid   bool   // Mesh bounds a solid with a positive volume
	Reason  string // why it does not; empty for a solid

	current *Topology // of Mesh; nil: to be found
	sheets  int       // shells that are open sheets
}

// topology is that of the mesh as it is.
func (r *Repaired) topology() *Topology {
	if r.current == nil {
		r.current = Analyse(r.Mesh)
	}
	return r.current
}

// did notes what was done. Every step that changes the mesh ends with it.
func (r *Repaired) did(code ActionCode, count int, format string, args ...any) {
	if count <= 0 {
		return
	}
	r.current = nil
	for i, a := range r.Actions {
		if a.Code == code {
			r.Actions[i].Count += count
			return
		}
	}
	r.Actions = append(r.Actions, Action{code, count, fmt.Sprintf(format, args...)})
}

// Repair mends what can be mended without guessing at the shape. It welds equal
// points, drops facets with a corner twice, doubled facets and crumbs, joins the sides
// of narrow gaps, turns facets the way most of their shell's area looks and
// shells that are inside out, takes apart what touches along an edge or in a
// point, and fills holes; in the end it joins shells that overlap or cross
// themselves ([Union]). A mesh that is welded and [Topology.Solid], has no such
// point, no shell inside out and no overlap, comes back as it is, crumbs apart.
// What Repair cannot mend, it says in Reason; Mesh is then the best that it could
// do.
//
// Nothing that is not at a fault is moved: parts are taken apart by a few of
// float32's smallest steps, gaps are joined up to Tolerance, a union moves points
// by 2⁻³² of the extent. O(n log n), plus O(k²) for the holes of k edges.
func Repair(m *Mesh, o RepairOptions) *Repaired {
	diagonal := m.Bounds().Size().Len()
	if o.Tolerance == 0 {
		o.Tolerance = min(0.05, 1e-3*diagonal)
	}
	if o.Debris == 0 {
		o.Debris = 0.1
	}
	r := &Repaired{Mesh: m.Clone()}
	r.Before = r.topology()
	if r.Before.Solid() {
		r.dropDegenerate()
		r.dropDebris(o.Debris)
		r.splitEdges()
		r.invert()
	} else {
		r.did(Welded, r.Mesh.Weld(0), "joined equal points")
		r.dropDegenerate()
		r.dropDoubled()
		r.closeGaps(o.Tolerance, diagonal)
		r.dropDoubled() // what joining has laid on others
		r.orient()
		r.dropWalls()
		r.splitEdges()
		r.orient()
		r.dropDebris(o.Debris)
		r.fill()
		r.splitEdges()
		r.invert()
	}
	if len(r.Actions) > 0 {
		r.Mesh.Compact()
	}
	r.judge()
	if !o.KeepOverlaps && r.unite() {
		r.judge()
	}
	return r
}

// unite joins shells that overlap or cross themselves, and tells whether any did.
// What has no union stays as it was: it may be a solid by its edges all the same.
func (r *Repaired) unite() bool {
	u, err := Union(context.Background(), r.Mesh, UnionOptions{})
	if err != nil || !u.Changed {
		return false
	}
	r.Mesh = u.Mesh
	r.did(United, max(len(u.Overlaps), 1), "joined parts that overlapped: of %.4g mm³, counting twice what was covered twice, %.4g are left", u.Volume[0], u.Volume[1])
	if u.Seams > 0 {
		r.Mesh.Weld(0)
		r.current = nil
	}
	r.splitEdges()
	return true
}

func (r *Repaired) judge() {
	t := r.topology()
	r.After, r.Solid, r.Reason = t, false, ""
	switch {
	case t.Edges == 0:
		r.Reason = "nothing is left of the mesh: it bounds no volume anywhere"
	case t.NonManifoldEdges > 0:
		r.Reason = fmt.Sprintf("%d edges belong to more than two facets, and which of them belong together is open; join the parts in the CAD program", t.NonManifoldEdges)
	case t.InconsistentEdges > 0:
		r.Reason = "the surface has one side only, such as a Möbius strip: it bounds no solid"
	case r.sheets > 0:
		r.Reason = fmt.Sprintf("%d parts of the surface are open sheets without thickness; give them one in the CAD program", r.sheets)
	case t.BoundaryEdges > 0:
		r.Reason = fmt.Sprintf("%d edges are open and their holes could not be filled", t.BoundaryEdges)
	case t.Duplicate > 0:
		r.Reason = fmt.Sprintf("%d facets lie on others: the surface has no thickness there", t.Duplicate)
	case !(Measure(r.Mesh).Volume > 0):
		r.Reason = "the surface encloses no volume"
	default:
		r.Solid = true
	}
}

// dropDegenerate removes facets with a vertex twice. Slivers between three
// distinct vertices stay: they hold their neighbours together.
func (r *Repaired) dropDegenerate() {
	before := len(r.Mesh.Facets)
	r.Mesh.Facets = slices.DeleteFunc(r.Mesh.Facets, collapsed)
	r.did(Dropped, before-len(r.Mesh.Facets), "dropped facets with a corner twice, which have no area")
}

// dropDoubled thins out facets on the same three vertices: of those that look
// the same way one stays; of two that look against each other both go where they
// are a wall inside the solid, as between two parts that share a face, and one
// stays where the whole surface is there twice. Their neighbours tell: around a
// wall, the other facets of its border make pairs without it.
func (r *Repaired) dropDoubled() {
	m := r.Mesh
	type copies struct {
		first  [2]int32 // facets plus one, by direction
		number int
	}
	groups := make(map[Facet]copies, len(m.Facets))
	drop := make([]bool, len(m.Facets))
	dropped := 0
	for i, f := range m.Facets {
		key, way := f, 0
		if slices.Sort(key[:]); !sameTurn(f, key) {
			way = 1
		}
		g := groups[key]
		if g.first[way] != 0 {
			drop[i] = true
			dropped++
		} else {
			g.first[way] = int32(i + 1)
			g.number++
			groups[key] = g
		}
	}
	// Patches of facets that are there in both directions.
	other := map[int32]int32{}
	border := map[[2]int32]int{} // of edges of such facets: how many others there are
	for _, g := range groups {
		if g.number == 2 {
			other[g.first[0]-1], other[g.first[1]-1] = g.first[1]-1, g.first[0]-1
			for k, v := range m.Facets[g.first[0]-1] {
				border[edgeKey(v, m.Facets[g.first[0]-1][(k+1)%3])] = 0
			}
		}
	}
	if len(other) > 0 {
		beside := map[[2]int32][]int32{} // the doubled facets at an edge, one of each two
		for i, f := range m.Facets {
			o, doubled := other[int32(i)]
			for k, v := range f {
				key := edgeKey(v, f[(k+1)%3])
				n, ok := border[key]
				switch {
				case !ok || drop[i]:
				case !doubled:
					border[key] = n + 1
				case int32(i) < o:
					beside[key] = append(beside[key], int32(i))
				}
			}
		}
		seen := map[int32]bool{}
		for i := range m.Facets {
			o, doubled := other[int32(i)]
			if !doubled || o < int32(i) || seen[int32(i)] {
				continue
			}
			patch := []int32{int32(i)}
			seen[int32(i)] = true
			even, odd := 0, 0
			for n := 0; n < len(patch); n++ {
				f := m.Facets[patch[n]]
				for k, v := range f {
					key := edgeKey(v, f[(k+1)%3])
					switch others := border[key]; {
					case others == 0:
					case others%2 == 0:
						even++
					default:
						odd++
					}
					if len(beside[key]) > 2 {
						continue // three walls meet: each is judged alone
					}
					for _, next := range beside[key] {
						if !seen[next] {
							seen[next] = true
							patch = append(patch, next)
						}
					}
				}
			}
			for _, f := range patch {
				drop[other[f]] = true
				dropped++
				if even > odd {
					drop[f] = true
					dropped++
				}
			}
		}
	}
	kept := m.Facets[:0]
	for i, f := range m.Facets {
		if !drop[i] {
			kept = append(kept, f)
		}
	}
	m.Facets = kept
	r.did(Undoubled, dropped, "dropped facets that lay on others")
}

func edgeKey(a, b int32) [2]int32 { return [2]int32{min(a, b), max(a, b)} }

// sameTurn tells whether f is a rotation of key, which has the same corners.
func sameTurn(f, key Facet) bool {
	for f[0] != key[0] {
		f = Facet{f[1], f[2], f[0]}
	}
	return f == key
}

// orient makes each shell consistent, in the direction of most of its area.
func (r *Repaired) orient() {
	m := r.Mesh
	t := r.topology()
	if t.InconsistentEdges == 0 {
		return
	}
	const unseen, kept, turned = 0, 1, 2
	state := make([]uint8, len(m.Facets))
	flips := 0
	for f := range m.Facets {
		if state[f] != unseen {
			continue
		}
		state[f] = kept
		shell := []int32{int32(f)}
		var areas [3]float64
		for i := 0; i < len(shell); i++ {
			g := shell[i]
			areas[state[g]] += m.doubleArea(int(g))
			for h := 3 * g; h < 3*g+3; h++ {
				o := t.Twin[h]
				if o < 0 || state[o/3] != unseen {
					continue
				}
				state[o/3] = state[g]
				if m.corner(h) == m.corner(o) {
					state[o/3] = kept + turned - state[g]
				}
				shell = append(shell, o/3)
			}
		}
		minority := uint8(turned)
		if areas[turned] > areas[kept] {
			minority = kept
		}
		for _, g := range shell {
			if state[g] == minority {
				flips++
				m.flip(int(g))
			}
		}
	}
	r.did(Flipped, flips, "turned facets that looked the other way")
}

func (m *Mesh) flip(f int) { m.Facets[f][1], m.Facets[f][2] = m.Facets[f][2], m.Facets[f][1] }

func (m *Mesh) doubleArea(f int) float64 {
	a, b, c := m.Corners(f)
	return b.Sub(a).Cross(c.Sub(a)).Len()
}

// shellMeasure is what tells shells apart.
type shellMeasure struct {
	box     Box
	volume  float64 // signed, from the box's middle
	area    float64
	open    bool
	example int32 // a facet
}

func measureShells(m *Mesh, t *Topology) []shellMeasure {
	shells := make([]shellMeasure, t.Shells)
	inf := math.Inf(1)
	for i := range shells {
		shells[i].box = Box{Vec{inf, inf, inf}, Vec{-inf, -inf, -inf}}
	}
	for f, s := range t.Shell {
		if s < 0 {
			continue
		}
		shell := &shells[s]
		shell.example = int32(f)
		for _, v := range m.Facets[f] {
			for k, x := range m.Vertices[v] {
				shell.box.Min[k] = min(shell.box.Min[k], x)
				shell.box.Max[k] = max(shell.box.Max[k], x)
			}
		}
	}
	for f, s := range t.Shell {
		if s < 0 {
			continue
		}
		shell := &shells[s]
		middle := shell.box.Min.Add(shell.box.Max).Mul(0.5)
		a, b, c := m.Corners(f)
		n := b.Sub(a).Cross(c.Sub(a))
		shell.volume += a.Sub(middle).Dot(n) / 6
		shell.area += n.Len() / 2
		for h := 3 * f; h < 3*f+3; h++ {
			shell.open = shell.open || t.Twin[h] == boundary
		}
	}
	return shells
}

// invert turns shells with a negative volume that lie in no other shell. Those
// inside another one are its cavities and stay.
func (r *Repaired) invert() {
	m := r.Mesh
	t := r.topology()
	shells := measureShells(m, t)
	turn := make([]bool, len(shells))
	work := 200_000_000 // facets looked at: beyond it, a negative shell in another's box counts as its cavity
	turned := 0
	for s, shell := range shells {
		if shell.volume >= 0 {
			continue
		}
		a, b, c := m.Corners(int(shell.example))
		p := a.Add(b).Add(c).Mul(1. / 3)
		around := make([]bool, len(shells))
		boxed := false
		for o, other := range shells {
			around[o] = o != s && other.volume > 0 && other.box.distance2(p) == 0
			boxed = boxed || around[o]
		}
		if boxed {
			if work -= len(m.Facets); work < 0 || math.Abs(windingOf(m, t, around, p)) > 0.5 {
				continue
			}
		}
		turn[s] = true
		turned++
	}
	if turned == 0 {
		return
	}
	for f, s := range t.Shell {
		if s >= 0 && turn[s] {
			m.flip(f)
		}
	}
	r.did(Inverted, turned, "turned shells that were inside out")
}

// windingOf is how often the chosen shells wind around p: the sum of the solid
// angles of their facets over 4π (Van Oosterom and Strackee, The solid angle of a
// plane triangle, IEEE Trans. Biomed. Eng. 30(2), 1983).
func windingOf(m *Mesh, t *Topology, chosen []bool, p Vec) float64 {
	sum := 0.0
	for f, s := range t.Shell {
		if s < 0 || !chosen[s] {
			continue
		}
		a, b, c := m.Corners(f)
		a, b, c = a.Sub(p), b.Sub(p), c.Sub(p)
		la, lb, lc := a.Len(), b.Len(), c.Len()
		sum += 2 * math.Atan2(a.Dot(b.Cross(c)), la*lb*lc+a.Dot(b)*lc+b.Dot(c)*la+c.Dot(a)*lb)
	}
	return sum / (4 * math.Pi)
}

func (r *Repaired) dropDebris(size float64) {
	m := r.Mesh
	t := r.topology()
	shells := measureShells(m, t)
	largest := 0.0
	for _, s := range shells {
		largest = max(largest, s.box.Size().Len())
	}
	small := make([]bool, len(shells))
	dropped := 0
	for i, s := range shells {
		if s.box.Size().Len() < min(size, largest/100) {
			small[i] = true
			dropped++
		}
	}
	if dropped > 0 {
		m.dropShells(t, small)
		r.did(Cleaned, dropped, "dropped loose crumbs below %.2g mm", size)
	}
}

// dropShells removes the facets of the chosen shells.
func (m *Mesh) dropShells(t *Topology, chosen []bool) {
	kept := m.Facets[:0]
	for f, s := range t.Shell {
		if s < 0 || !chosen[s] {
			kept = append(kept, m.Facets[f])
		}
	}
	m.Facets = kept
}

// dropWalls removes sheets inside the solid that divide it: shells all of whose
// borders are edges of three facets, where without it two facets are left that
// run along the edge in opposed directions. Of several that could go, the
// smallest goes first: a wall is smaller than what it divides.
func (r *Repaired) dropWalls() {
	m := r.Mesh
	for range 64 {
		t := r.topology()
		if t.NonManifoldEdges == 0 {
			return
		}
		groups := ambiguousEdges(m, t)
		shells := measureShells(m, t)
		candidate := make([]bool, len(shells))
		for _, g := range groups {
			for _, h := range g {
				candidate[t.Shell[h/3]] = true
			}
		}
		for _, g := range groups {
			for _, h := range g {
				var rest []int32
				for _, o := range g {
					if t.Shell[o/3] != t.Shell[h/3] {
						rest = append(rest, o)
					}
				}
				if len(g) != 3 || len(rest) != 2 || m.corner(rest[0]) == m.corner(rest[1]) {
					candidate[t.Shell[h/3]] = false
				}
			}
		}
		best := -1
		for s, shell := range shells {
			if candidate[s] && !shell.open && (best < 0 || shell.area < shells[best].area) {
				best = s
			}
		}
		if best < 0 {
			return
		}
		chosen := make([]bool, len(shells))
		chosen[best] = true
		m.dropShells(t, chosen)
		r.did(Unwalled, 1, "dropped walls that divided the inside")
	}
}

// ambiguousEdges gives the half-edges of every edge of more than two facets, in
// the order of their first ones.
func ambiguousEdges(m *Mesh, t *Topology) [][]int32 {
	number := map[[2]int32]int{}
	var groups [][]int32
	for h, twin := range t.Twin {
		if twin != ambiguous {
			continue
		}
		key := edgeKey(m.corner(int32(h)), m.corner(following(int32(h))))
		n, ok := number[key]
		if !ok {
			n = len(groups)
			number[key] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], int32(h))
	}
	return groups
}
