package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// UnionOptions say what to join and how far to go. The zero value joins all that
// is inside any shell.
type UnionOptions struct {
	// Winding is how many shells must cover what is kept; 0: 1. With 2 the
	// outcome is the space that shells have in common instead.
	Winding int
	// MaxContacts bounds the pairs of facets that may meet, and with them time
	// and memory (about 1 KB each); 0: 1 million.
	MaxContacts int
}

// Overlap is two shells that have space or a part of a face in common, or one
// shell that crosses itself.
type Overlap struct {
	// Shells are those of Topology.Shell for a mesh that is solid; where edges
	// have more than two facets, what bounds one piece of space there is one
	// shell, and they are numbered by their first facets. They are the same for a
	// shell that crosses itself.
	Shells    [2]int32
	Crossings int // pairs of facets that cross or lie on each other; 0: one shell is inside the other
}

// Unioned is the outcome of a union.
type Unioned struct {
	Mesh     *Mesh
	Changed  bool       // false: Mesh is the one that was given
	Overlaps []Overlap  // what was joined or, with a Reason, would have to be; in the order of shells
	Volume   [2]float64 // before, where what overlaps counts as often as it is covered, and after; mm³
	Seams    int        // edges at which parts of the result only touch: each part has vertices of its own there
	Crossing int        // pairs of facets of the result that still cross, by no more than rounding, up to 1000; usually 0
	Reason   string     // why the mesh came back although it is no union; empty if it is one
}

const countedCrossings = 1000

// unjoinable is why a mesh comes back as it was.
type unjoinable string

func (u unjoinable) Error() string { return string(u) }

// Union joins the shells of a closed mesh where they overlap, lie on each other
// or cross themselves: what comes back is the outer surface of all that is
// inside, and is [Topology.Solid]. Inside is where the winding number is above 0,
// so that a shell that looks inward is a cavity of the one around it, and stays.
// A mesh with nothing to join comes back itself. What cannot be joined does too,
// with a Reason; the error is ctx's alone.
//
// Facets are cut along the lines where they meet, in exact arithmetic (the
// arrangement of Zhou, Grinspun, Zorin and Jacobson, Mesh arrangements for solid
// geometry, SIGGRAPH 2016), and the pieces are kept where the winding number
// passes from 0 to above. If facets are cut, vertices move onto a grid of at most
// 2⁻³¹ of the mesh's extent (0.05 nm for 100 mm), edges shorter than 2⁻²⁰ of it
// that cutting made (0.1 µm) are taken out again, and so are films thinner than
// an eighth of that. Rounding can make facets cross that did not: such a result
// is cut again, four times at most, and in the end left untidy.
//
// O((n+k) log n) for k pairs of facets that meet, if boxes part most facets; on
// all CPUs but for the sorting of windings.
func Union(ctx context.Context, m *Mesh, o UnionOptions) (*Unioned, error) {
	if o.Winding == 0 {
		o.Winding = 1
	}
	if o.MaxContacts == 0 {
		o.MaxContacts = 1_000_000
	}
	volume := Measure(m).Volume
	u := &Unioned{Mesh: m, Volume: [2]float64{volume, volume}}
	joined, err := u.join(ctx, m, o)
	if reason, ok := errors.AsType[unjoinable](err); ok {
		u.Reason = string(reason)
		return u, nil
	}
	if err != nil {
		return nil, fmt.Errorf("join shells: %w", err)
	}
	if joined != nil {
		u.Mesh, u.Changed = joined, true
		u.Volume[1] = Measure(joined).Volume
	}
	return u, nil
}

// join gives the union, or nil if there is nothing to do.
func (u *Unioned) join(ctx context.Context, m *Mesh, o UnionOptions) (*Mesh, error) {
	if slices.ContainsFunc(m.Vertices, func(v Vec) bool { return !v.finite() }) {
		return nil, unjoinable("a coordinate is not finite or beyond 1e9 mm")
	}
	topology := Analyse(m)
	m, shell, touching, err := m.closed(topology)
	if err != nil {
		return nil, err
	}
	tree := NewBVH(m)
	met, err := tree.meetings(ctx, 0, (*contact).cuts)
	if err != nil {
		return nil, err
	}
	var a *arrangement
	switch {
	case len(met) > 0 || touching:
		a, err = arrange(ctx, m, tree, o.MaxContacts)
	case topology.Shells > 1 || o.Winding > 1 || u.Volume[0] <= 0:
		a = stack(m, tree)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	before, buried, err := a.windings(shell)
	if err != nil {
		return nil, err
	}
	u.Overlaps = a.overlaps(buried, shell)
	if err := a.reversed(before, shell); err != nil {
		return nil, err
	}
	joined, all := a.keep(m, before, int32(o.Winding))
	if all && !a.laid && topology.Solid() {
		return nil, nil
	}
	u.Seams = a.assemble(joined, true)
	for round := 0; ; round++ {
		tree = NewBVH(joined)
		met, err = tree.meetings(ctx, countedCrossings, (*contact).crossing)
		if err != nil {
			return nil, err
		}
		if u.Crossing = min(len(met), countedCrossings); u.Crossing == 0 || round == 4 {
			break
		}
		a, err := arrange(ctx, joined, tree, o.MaxContacts)
		if err != nil {
			return nil, err
		}
		before, _, err := a.windings(make([]int32, len(joined.Facets))) // shells do not matter any more
		if err != nil {
			return nil, err
		}
		joined, _ = a.keep(joined, before, 1)
		u.Seams = a.assemble(joined, round < 2)
	}
	if len(joined.Facets) == 0 && o.Winding > 1 {
		return joined, nil
	}
	switch t := Analyse(joined); {
	case t.Edges == 0:
		return nil, unjoinable("the surface encloses no volume")
	case !t.Solid():
		return nil, unjoinable(fmt.Sprintf("parts touch along %d edges where they cannot be taken apart", t.NonManifoldEdges))
	}
	return joined, nil
}

// closed gives a welded copy, the shell of each facet, and whether shells
// touch at edges in a way that may be a crossing.
func (m *Mesh) closed(t *Topology) (welded *Mesh, shell []int32, touching bool, err error) {
	welded = m.Clone()
	removed := welded.Weld(0)
	welded.Facets = slices.DeleteFunc(welded.Facets, collapsed)
	welded.Compact()
	asSolid := t.Solid() && len(welded.Facets) == len(m.Facets)
	if asSolid && removed == 0 {
		return welded, t.Shell, false, nil
	}
	if open := welded.unbalanced(); open > 0 {
		return nil, nil, false, unjoinable(fmt.Sprintf("%d edges are open, or their facets look different ways: close the surface first", open))
	}
	mates, crowded := welded.mates()
	if asSolid {
		return welded, t.Shell, len(crowded) > 0 && !slices.Equal(mates, t.Twin), nil
	}
	return welded, welded.shells(mates), len(crowded) > 0, nil
}

// unbalanced counts the edges along which not as many facets run forward as
// backward.
func (m *Mesh) unbalanced() (edges int) {
	for low, group := range m.edges() {
		forward := 0
		for _, h := range group {
			if m.corner(h.at) == low {
				forward++
			}
		}
		if 2*forward != len(group) {
			edges++
		}
	}
	return edges
}

// keep gives the pieces where the winding number passes level, and whether
// they are all. m is the mesh that a arranges.
func (a *arrangement) keep(m *Mesh, before []int32, level int32) (kept *Mesh, all bool) {
	kept = &Mesh{}
	facets := m.Facets
	if a.apart {
		kept.Vertices = slices.Clone(m.Vertices)
	} else {
		facets = a.surface.Facets
		for _, p := range a.points {
			kept.Vertices = append(kept.Vertices, a.grid.place(p.at))
		}
	}
	for i, p := range a.pieces {
		if before[i] < level && before[i]+p.weight >= level {
			kept.Facets = append(kept.Facets, facets[i])
		}
	}
	return kept, len(kept.Facets) == len(a.pieces)
}

// reversed refuses a shell that nowhere bounds a solid: nobody means it to
// vanish.
func (a *arrangement) reversed(before, shell []int32) error {
	sound := map[int32]bool{}
	for i, p := range a.pieces {
		s := shell[p.facet]
		sound[s] = sound[s] || before[i]+p.weight > 0
	}
	for _, s := range slices.Sorted(maps.Keys(sound)) {
		if !sound[s] {
			return unjoinable(fmt.Sprintf("shell %d is inside out: turn it first", s+1))
		}
	}
	return nil
}

// overlaps lists the shells that cross or are buried in each other.
func (a *arrangement) overlaps(buried map[[2]int32]bool, shell []int32) (list []Overlap) {
	crossings := map[[2]int32]int{}
	for i := range a.met {
		if m := &a.met[i]; m.crossing() {
			p, q := shell[m.pair[0]], shell[m.pair[1]]
			crossings[[2]int32{min(p, q), max(p, q)}]++
		}
	}
	for pair := range buried {
		crossings[pair] += 0
	}
	for pair, n := range crossings {
		list = append(list, Overlap{pair, n})
	}
	slices.SortFunc(list, func(a, b Overlap) int { return slices.Compare(a.Shells[:], b.Shells[:]) })
	return list
}
