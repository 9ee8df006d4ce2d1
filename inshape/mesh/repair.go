package mesh

import (
	"fmt"
	"math"
	"slices"
)

// RepairOptions say how far a repair may go.
type RepairOptions struct {
	// Tolerance welds the edges of gaps up to this width, mm. 0: a millionth of
	// the box's diagonal, at most 0.01 mm. Only meshes with gaps are welded so.
	Tolerance float64
	// Debris drops shells whose box has a smaller diagonal, mm; 0: 0.1 mm.
	Debris float64
}

// Action is one kind of thing that a repair did.
type Action struct {
	Code  string // weld, degenerate, duplicate, flip, invert, fill, debris
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
}

func (r *Repaired) did(code string, count int, format string, args ...any) {
	if count > 0 {
		r.Actions = append(r.Actions, Action{code, count, fmt.Sprintf(format, args...)})
	}
}

// Repair mends what can be mended without guessing at the shape: it welds, drops
// facets without area, duplicates and debris, turns facets the way most of
// their shell's area looks, and fills holes. A sound mesh (welded, solid,
// positive volume) comes back as it is. What it cannot mend, it says in Reason:
// edges of more than two facets and overlapping shells are not taken apart.
// O(n log n), plus O(k³) for a hole of k ≤ 128 edges.
func Repair(m *Mesh, o RepairOptions) *Repaired {
	diagonal := m.Bounds().Size().Len()
	if o.Tolerance == 0 {
		o.Tolerance = min(0.01, 1e-6*diagonal)
	}
	if o.Debris == 0 {
		o.Debris = 0.1
	}
	r := &Repaired{Mesh: m.Clone()}
	r.Before = Analyse(r.Mesh)
	if r.Before.Solid() && r.Before.Degenerate == 0 && Measure(r.Mesh).Volume > 0 {
		if r.dropDebris(o.Debris); len(r.Actions) > 0 {
			r.Mesh.Compact()
		}
		r.judge()
		return r
	}
	r.did("weld", r.Mesh.Weld(0), "joined equal points")
	r.weldGaps(o.Tolerance)
	r.dropDegenerate()
	r.dropDuplicates()
	r.orient()
	r.dropDebris(o.Debris)
	r.fill()
	r.Mesh.Compact()
	r.judge()
	return r
}

func (r *Repaired) judge() {
	t := Analyse(r.Mesh)
	r.After = t
	volume := Measure(r.Mesh).Volume
	switch {
	case t.Edges == 0:
		r.Reason = "nothing is left of the mesh"
	case t.NonManifoldEdges > 0:
		r.Reason = fmt.Sprintf("%d edges belong to more than two facets: parts overlap or touch; join them in the CAD program", t.NonManifoldEdges)
	case t.BoundaryEdges > 0:
		r.Reason = fmt.Sprintf("%d edges are open and their holes could not be filled", t.BoundaryEdges)
	case t.InconsistentEdges > 0:
		r.Reason = "the surface has one side only, such as a Möbius strip: it bounds no solid"
	case t.Duplicate > 0:
		r.Reason = fmt.Sprintf("%d facets lie on others: the surface has no thickness there", t.Duplicate)
	case volume <= 0:
		r.Reason = "the surface encloses no volume"
	default:
		r.Solid = true
	}
}

func (r *Repaired) weldGaps(tolerance float64) {
	before := Analyse(r.Mesh)
	if before.BoundaryEdges == 0 || tolerance <= 0 {
		return
	}
	welded := r.Mesh.Clone()
	removed := welded.Weld(tolerance)
	if removed == 0 {
		return
	}
	if after := Analyse(welded); after.BoundaryEdges < before.BoundaryEdges && after.NonManifoldEdges <= before.NonManifoldEdges {
		r.Mesh = welded
		r.did("weld", removed, "joined points up to %.2g mm apart, closing %d open edges", tolerance, before.BoundaryEdges-after.BoundaryEdges)
	}
}

// dropDegenerate removes facets with a vertex twice. Slivers between three
// distinct vertices stay: they hold their neighbours together.
func (r *Repaired) dropDegenerate() {
	before := len(r.Mesh.Facets)
	r.Mesh.Facets = slices.DeleteFunc(r.Mesh.Facets, func(f Facet) bool {
		return f[0] == f[1] || f[1] == f[2] || f[2] == f[0]
	})
	r.did("degenerate", before-len(r.Mesh.Facets), "dropped facets without area")
}

func (r *Repaired) dropDuplicates() {
	before := len(r.Mesh.Facets)
	seen := make(map[Facet]bool, before)
	r.Mesh.Facets = slices.DeleteFunc(r.Mesh.Facets, func(f Facet) bool {
		slices.Sort(f[:])
		if seen[f] {
			return true
		}
		seen[f] = true
		return false
	})
	r.did("duplicate", before-len(r.Mesh.Facets), "dropped facets that were there twice")
}

// orient makes each shell consistent, in the direction of most of its area, and
// turns everything if the whole is inside out. Cavities keep their direction.
func (r *Repaired) orient() {
	m := r.Mesh
	t := Analyse(m)
	const unseen, kept, turned = 0, 1, 2
	state := make([]uint8, len(m.Facets))
	area := func(f int32) float64 {
		a, b, c := m.Corners(int(f))
		return b.Sub(a).Cross(c.Sub(a)).Len()
	}
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
			areas[state[g]] += area(g)
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
				f := m.Facets[g]
				state[g] |= 4 // after the loop: states of this shell are not read any more
				m.Facets[g] = Facet{f[0], f[2], f[1]}
			}
		}
	}
	r.did("flip", flips, "turned facets that looked the other way")
	if Measure(m).Volume < 0 {
		for i, f := range m.Facets {
			m.Facets[i] = Facet{f[0], f[2], f[1]}
		}
		r.did("invert", len(m.Facets), "turned the whole surface, which was inside out")
	}
}

func (r *Repaired) dropDebris(size float64) {
	m := r.Mesh
	t := Analyse(m)
	boxes := make([]Box, t.Shells)
	for i := range boxes {
		inf := math.Inf(1)
		boxes[i] = Box{Vec{inf, inf, inf}, Vec{-inf, -inf, -inf}}
	}
	for f, s := range t.Shell {
		for _, v := range m.Facets[f] {
			for k, x := range m.Vertices[v] {
				boxes[s].Min[k] = min(boxes[s].Min[k], x)
				boxes[s].Max[k] = max(boxes[s].Max[k], x)
			}
		}
	}
	largest := 0.0
	for _, b := range boxes {
		largest = max(largest, b.Size().Len())
	}
	small := func(s int32) bool { return boxes[s].Size().Len() < min(size, largest/100) }
	dropped := 0
	for s := range boxes {
		if small(int32(s)) {
			dropped++
		}
	}
	if dropped == 0 {
		return
	}
	kept := m.Facets[:0]
	for f, s := range t.Shell {
		if !small(s) {
			kept = append(kept, m.Facets[f])
		}
	}
	m.Facets = kept
	r.did("debris", dropped, "dropped loose crumbs below %.2g mm", size)
}

// fill closes the holes, twice: what touched in a vertex can need a second look.
func (r *Repaired) fill() {
	for range 2 {
		t := Analyse(r.Mesh)
		if t.BoundaryEdges == 0 {
			return
		}
		loops, _ := t.Loops(r.Mesh)
		filled := 0
		for _, loop := range loops {
			if len(loop) >= 3 {
				slices.Reverse(loop)
				r.Mesh.cap(loop)
				filled++
			}
		}
		r.did("fill", filled, "filled holes")
	}
}

// cap closes a ring with facets in its direction: of least area for up to 128
// edges (Barequet and Sharir, Filling gaps in the boundary of a polyhedron,
// 1995), a fan around its middle beyond.
func (m *Mesh) cap(loop []int32) {
	n := len(loop)
	if n > 128 {
		var middle Vec
		for _, v := range loop {
			middle = middle.Add(m.Vertices[v])
		}
		centre := int32(len(m.Vertices))
		m.Vertices = append(m.Vertices, middle.Mul(1/float64(n)))
		for i, v := range loop {
			m.Facets = append(m.Facets, Facet{v, loop[(i+1)%n], centre})
		}
		return
	}
	area := func(i, j, k int) float64 {
		a, b, c := m.Vertices[loop[i]], m.Vertices[loop[j]], m.Vertices[loop[k]]
		return b.Sub(a).Cross(c.Sub(a)).Len()
	}
	cost := make([]float64, n*n) // of the polygon from i to j
	via := make([]int, n*n)
	for span := 2; span < n; span++ {
		for i := 0; i+span < n; i++ {
			j := i + span
			best := math.Inf(1)
			for k := i + 1; k < j; k++ {
				if c := cost[i*n+k] + cost[k*n+j] + area(i, k, j); c < best {
					best, via[i*n+j] = c, k
				}
			}
			cost[i*n+j] = best
		}
	}
	var emit func(i, j int)
	emit = func(i, j int) {
		if j-i < 2 {
			return
		}
		k := via[i*n+j]
		m.Facets = append(m.Facets, Facet{loop[i], loop[k], loop[j]})
		emit(i, k)
		emit(k, j)
	}
	emit(0, n-1)
}
