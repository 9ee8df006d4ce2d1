package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// UnionOptions say what to join and how long to try.
type UnionOptions struct {
	// Winding is how many shells must cover what is kept. 0 is 1: all that is
	// inside any. With 2 Union gives the overlap instead.
	Winding int
	// MaxContacts bounds the pairs of facets that may touch, and with them time and
	// memory; 0: 2 million.
	MaxContacts int
}

// Overlap is two shells that have space in common, or one that crosses itself.
type Overlap struct {
	Shells    [2]int32 // as in Topology.Shell, in order; equal for a shell with itself
	Crossings int      // pairs of facets that cross or lie on each other; 0: one shell is inside the other
}

// Unioned is the outcome of a union.
type Unioned struct {
	Mesh     *Mesh
	Changed  bool       // false: Mesh is the one that was given
	Overlaps []Overlap  // what was joined, or would have to be
	Volume   [2]float64 // before and after, mm³
	Seams    int        // edges at which parts of the result only touch; their vertices are there once for each
	Crossing int        // pairs of facets of the result that cross all the same, by no more than rounding
	Reason   string     // why overlaps were left; empty if there are none or they are joined
}

var errCrowded = errors.New("too many facets touch each other")

// Union joins the shells of a closed mesh where they overlap, lie on each other
// or cross themselves: what comes back is the outer surface of all that is
// inside, a solid. Inside is where the winding number is 1 or more, so that a
// shell that looks inward is a cavity of the one around it, and stays. A mesh
// whose shells are apart comes back itself.
//
// Facets are cut where they meet, in exact arithmetic on a grid finer than
// 2⁻³¹ of the mesh's extent (0.05 nm for 100 mm), to which vertices are moved;
// the pieces are kept or dropped by winding number. What does not work comes
// back as it was, with a Reason; the error is ctx's alone. O((n+k) log n) for k
// contacts, but for many in one plane.
func Union(ctx context.Context, m *Mesh, o UnionOptions) (*Unioned, error) {
	if o.Winding == 0 {
		o.Winding = 1
	}
	if o.MaxContacts == 0 {
		o.MaxContacts = 2_000_000
	}
	u := &Unioned{Mesh: m}
	u.Volume[0] = Measure(m).Volume
	u.Volume[1] = u.Volume[0]
	welded := m.Clone()
	welded.Weld(0)
	welded.dropRepeated()
	if open := welded.unbalanced(); open > 0 {
		u.Reason = fmt.Sprintf("%d edges are open or their facets look different ways: close the surface first", open)
		return u, nil
	}
	mates, crowded := welded.mates()
	shell := welded.shells(mates)
	sound := Analyse(m)
	touching := len(crowded) > 0 && !(sound.Solid() && slices.Equal(mates, sound.Twin))
	const rounds = 4
	result, level := welded, int32(o.Winding)
	for round := range rounds {
		tree := NewBVH(result)
		met, err := tree.meetings(ctx, 0, func(c *contact) bool { return c.area || c.n == 2 })
		if err != nil {
			return nil, err
		}
		if len(met) == 0 && (round > 0 || (sound.Shells < 2 && !touching && level == 1)) {
			break
		}
		var a *arrangement
		if len(met) == 0 && !touching {
			a = stack(result, tree)
		} else {
			a, err = arrange(ctx, result, tree, o.MaxContacts)
		}
		if errors.Is(err, errCrowded) {
			u.Reason = fmt.Sprintf("more than %d pairs of facets touch each other", o.MaxContacts)
			return u, nil
		} else if errors.Is(err, errBroken) {
			u.Reason = err.Error()
			return u, nil
		} else if err != nil {
			return nil, err
		}
		before, buried, err := a.windings(shell)
		if err != nil {
			u.Reason = err.Error()
			return u, nil
		}
		if round == 0 {
			u.overlaps(a, buried, shell)
			if s := reversed(a, before, shell); s >= 0 {
				u.Reason = fmt.Sprintf("shell %d is inside out: turn it first", s)
				return u, nil
			}
		}
		next, all := a.keep(result, before, level)
		if all && !a.laid && round == 0 && sound.Solid() {
			return u, nil
		}
		u.Seams = assemble(next, int32(len(a.mesh.Vertices)), a.grid.unit*(1<<11))
		if len(next.Facets) == 0 && level == 1 {
			u.Reason = "the surface encloses no volume"
			return u, nil
		}
		result, level = next, 1
		shell = make([]int32, len(result.Facets))
	}
	if result == welded {
		return u, nil
	}
	if s := Analyse(result); !s.Solid() && s.Edges > 0 {
		u.Reason = fmt.Sprintf("bug %+v", s)
		return u, nil
	}
	u.Mesh, u.Changed = result, true
	u.Volume[1] = Measure(result).Volume
	u.Crossing = len(NewBVH(result).SelfIntersections(1000))
	return u, nil
}

// dropRepeated drops facets that have a vertex twice.
func (m *Mesh) dropRepeated() {
	m.Facets = slices.DeleteFunc(m.Facets, func(c Facet) bool { return c[0] == c[1] || c[1] == c[2] || c[2] == c[0] })
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

// reversed finds a shell that nowhere bounds a solid, or -1.
func reversed(a *arrangement, before, shell []int32) int32 {
	sound := map[int32]bool{}
	for i, p := range a.pieces {
		s := shell[p.facet]
		sound[s] = sound[s] || before[i]+p.weight > 0
	}
	for s, ok := range sound {
		if !ok {
			return s
		}
	}
	return -1
}

func (u *Unioned) overlaps(a *arrangement, buried map[[2]int32]bool, shell []int32) {
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
		u.Overlaps = append(u.Overlaps, Overlap{pair, n})
	}
	slices.SortFunc(u.Overlaps, func(a, b Overlap) int {
		return cmp.Or(cmp.Compare(a.Shells[0], b.Shells[0]), cmp.Compare(a.Shells[1], b.Shells[1]))
	})
}
