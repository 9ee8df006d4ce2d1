package mesh

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
)

// TrappedOptions say what counts as trapped.
type TrappedOptions struct {
	// Opening is the diameter that powder or resin needs to get out, mm. 0: only
	// closed voids are looked for.
	Opening float64
	// MaxNodes bounds the grid, and with it time and memory (about 14 bytes a
	// node); 0: 8 million.
	MaxNodes int
}

// Trapped are the places that powder or resin cannot leave.
type Trapped struct {
	Pockets []Pocket // the largest first
	Pitch   float64  // of the grid, mm; 0: there was none
}

// Pocket is a place that powder or resin cannot leave.
type Pocket struct {
	Volume float64 // mm³
	At     Vec     // a point in it, far from the walls
	Box    Box
	Closed bool    // has no opening at all
	Neck   float64 // the diameter of its widest way out, mm, to within a pitch; 0 if closed
}

// TrappedVolumes finds closed voids, and pockets whose every way out is narrower
// than the opening and markedly narrower than the pocket.
//
// Closed voids are exact: shells that look inwards, less what stands in them.
//
// Pockets are found on a grid of a sixteenth of the opening's pitch (more for
// large parts): the air's distance to the solid (Felzenszwalb and Huttenlocher,
// Distance transforms of sampled functions, 2004/2012) is flooded from outside,
// widest ways first, so that each node is reached through the widest neck there
// is (Barnes, Lehman and Mulla, Priority-flood, Computers & Geosciences 62,
// 2014, upside down). Where it becomes wider than 1.3 necks and 1.5 pitches
// again, a pocket begins. Slots and blind holes that are narrow all along are no
// pockets. An opening as wide as Opening is never reported, one narrower by 4
// pitches always; in between it may be either. Volumes are off by up to half a
// pitch on the pocket's walls.
//
// The mesh must be a solid. O(n + nodes). The error is the context's.
func TrappedVolumes(ctx context.Context, m *Mesh, o TrappedOptions) (*Trapped, error) {
	r := &Trapped{Pockets: m.closedVoids()}
	if o.Opening > 0 && len(m.Facets) > 0 && !math.IsInf(o.Opening, 1) {
		f := flooder{opening: o.Opening}
		if err := f.flood(ctx, m, cmp.Or(o.MaxNodes, 8_000_000)); err != nil {
			return nil, fmt.Errorf("find trapped volumes: %w", err)
		}
		r.Pitch = f.grid.pitch
		r.Pockets = append(r.Pockets, f.pockets()...)
	}
	slices.SortStableFunc(r.Pockets, func(a, b Pocket) int { return cmp.Compare(b.Volume, a.Volume) })
	return r, nil
}

// closedVoids are the shells of negative volume inside one of positive volume.
func (m *Mesh) closedVoids() []Pocket {
	t := Analyse(m)
	shells := make([]Mesh, t.Shells)
	for f, s := range t.Shell {
		if s >= 0 {
			shells[s].Vertices = m.Vertices
			shells[s].Facets = append(shells[s].Facets, m.Facets[f])
		}
	}
	volume := make([]float64, len(shells))
	boxes := make([]Box, len(shells))
	around := make([][]int, len(shells)) // the shells that a shell is in
	for s := range shells {
		boxes[s] = emptyBox()
		var six float64
		origin := m.Vertices[shells[s].Facets[0][0]]
		for f := range shells[s].Facets {
			a, b, c := shells[s].Corners(f)
			boxes[s].add(a)
			boxes[s].add(b)
			boxes[s].add(c)
			six += a.Sub(origin).Dot(b.Sub(origin).Cross(c.Sub(origin)))
		}
		volume[s] = six / 6
	}
	for s := range shells {
		p := m.Vertices[shells[s].Facets[0][0]]
		for o := range shells {
			if o != s && boxes[o].distance2(p) == 0 && shells[o].surrounds(p) {
				around[s] = append(around[s], o)
			}
		}
	}
	var found []Pocket
	for s := range shells {
		if volume[s] >= 0 || !slices.ContainsFunc(around[s], func(o int) bool { return volume[o] > 0 }) {
			continue
		}
		p := Pocket{Volume: -volume[s], Box: boxes[s], Closed: true}
		for o := range shells {
			// What stands in it itself: one shell deeper.
			if volume[o] > 0 && len(around[o]) == len(around[s])+1 && slices.Contains(around[o], s) {
				p.Volume -= volume[o]
			}
		}
		p.At = m.within(&shells[s])
		found = append(found, p)
	}
	return found
}

// surrounds tells whether a closed mesh goes around p, by the facets above p.
func (m *Mesh) surrounds(p Vec) bool {
	winding := 0
	for f, t := range m.Facets {
		left := m.leftOf(t[0], t[1], p)
		if left != m.leftOf(t[1], t[2], p) || left != m.leftOf(t[2], t[0], p) {
			continue
		}
		a, b, c := m.Corners(f)
		if n := b.Sub(a).Cross(c.Sub(a)); a[2]-(n[0]*(p[0]-a[0])+n[1]*(p[1]-a[1]))/n[2] > p[2] {
			if left {
				winding++
			} else {
				winding--
			}
		}
	}
	return winding != 0
}

// within is a point in the void that is bounded by shell: half way from the middle
// of its largest facet to what of m is opposite.
func (m *Mesh) within(shell *Mesh) Vec {
	largest, most := 0, 0.0
	for f := range shell.Facets {
		a, b, c := shell.Corners(f)
		if l := b.Sub(a).Cross(c.Sub(a)).Len(); l > most {
			largest, most = f, l
		}
	}
	a, b, c := shell.Corners(largest)
	p, n := a.Add(b).Add(c).Mul(1./3), shell.Normal(largest)
	opposite := math.Inf(1)
	for f := range m.Facets {
		a, b, c := m.Corners(f)
		normal := b.Sub(a).Cross(c.Sub(a))
		down := normal.Dot(n)
		if down >= 0 {
			continue
		}
		// Möller and Trumbore's test (1997), without its divisions.
		t := a.Sub(p).Dot(normal) / down
		q := p.Add(n.Mul(t))
		if t > 0 && t < opposite &&
			b.Sub(a).Cross(q.Sub(a)).Dot(normal) >= 0 && c.Sub(b).Cross(q.Sub(b)).Dot(normal) >= 0 && a.Sub(c).Cross(q.Sub(c)).Dot(normal) >= 0 {
			opposite = t
		}
	}
	if math.IsInf(opposite, 1) {
		return p
	}
	return p.Add(n.Mul(opposite / 2))
}

// flooder floods the air from outside.
type flooder struct {
	opening float64
	grid    lattice
	solid   []bool
	// space is a node's distance to the nearest solid node, in pitches; squared
	// while it is made.
	space []float32
	// pocket is 0 for what was not reached, -1 for what is free, else the number of
	// the node's pocket from 1.
	pocket []int32
	necks  []float64 // of each pocket: the radius of its way out, in pitches
}

const (
	steps      = 4 // levels of the flood in a pitch
	wider      = 1.3
	widerPitch = 1.5
)

func (f *flooder) flood(ctx context.Context, m *Mesh, nodes int) error {
	f.grid = newLattice(m.Bounds(), f.opening/16, 11, nodes)
	g := &f.grid
	f.solid = m.voxels(*g)
	if err := f.measure(ctx); err != nil {
		return err
	}
	f.pocket = make([]int32, len(f.solid))
	// From here on it is wide enough. A ball that fits an opening has its middle
	// within a pitch of a chain of nodes.
	free := max(f.opening/2/g.pitch-1, 0.5)
	queue := make([][]int32, int(free*steps)+2) // by level, which is what is passed
	top := len(queue) - 1
	level := func(n int) int { return int(min(f.space[n]*steps, float32(top))) }
	step := [3]int{g.n[1] * g.n[2], g.n[2], 1}
	for _, n := range []int{0, len(f.solid) - 1} { // the corners are outside
		queue[top] = append(queue[top], int32(n))
		f.pocket[n] = -1
	}
	for l := top; l >= 0; l-- {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		neck := float64(l) / steps
		for len(queue[l]) > 0 {
			n := int(queue[l][len(queue[l])-1])
			queue[l] = queue[l][:len(queue[l])-1]
			at := [3]int{n / step[0], n / step[1] % g.n[1], n % g.n[2]}
			for axis, d := range step {
				for _, way := range [2]int{-1, 1} {
					if x := at[axis] + way; x < 0 || x >= g.n[axis] {
						continue
					}
					o := n + way*d
					if f.solid[o] || f.pocket[o] != 0 {
						continue
					}
					f.pocket[o] = f.pocket[n]
					if f.pocket[n] < 0 && l < top && float64(f.space[o]) > wider*neck+widerPitch {
						f.necks = append(f.necks, neck)
						f.pocket[o] = int32(len(f.necks))
					}
					to := min(l, level(o))
					queue[to] = append(queue[to], int32(o))
				}
			}
		}
	}
	return nil
}

// measure makes space: along each axis the lower envelope of parabolas.
func (f *flooder) measure(ctx context.Context) error {
	g := &f.grid
	f.space = make([]float32, len(f.solid))
	for n, solid := range f.solid {
		if !solid {
			f.space[n] = math.MaxFloat32
		}
	}
	step := [3]int{g.n[1] * g.n[2], g.n[2], 1}
	for axis, d := range step {
		n := g.n[axis]
		u, v := (axis+1)%3, (axis+2)%3
		if err := inBlocks(ctx, g.n[u], 8, func(from, to int) {
			line := newEnvelope(n)
			for i := from; i < to; i++ {
				for j := range g.n[v] {
					line.transform(f.space[i*step[u]+j*step[v]:], d)
				}
			}
		}); err != nil {
			return err
		}
	}
	for n, squared := range f.space {
		f.space[n] = float32(math.Sqrt(float64(squared)))
	}
	return nil
}

// envelope transforms lines of n squared distances.
type envelope struct {
	value []float32
	apex  []int32   // of the parabolas of the envelope
	from  []float64 // where each begins to be the lowest
}

func newEnvelope(n int) *envelope {
	return &envelope{make([]float32, n), make([]int32, n), make([]float64, n)}
}

// transform makes of every step-th number of line the least over all of them of
// that number plus the square of the way there.
func (e *envelope) transform(line []float32, step int) {
	k := 0
	for i := range e.value {
		e.value[i] = line[i*step]
		if e.value[i] == math.MaxFloat32 {
			continue
		}
		from := math.Inf(-1)
		for ; k > 0; k-- {
			j := int(e.apex[k-1])
			from = (float64(e.value[i]-e.value[j])/float64(i-j) + float64(i+j)) / 2
			if from > e.from[k-1] {
				break
			}
			from = math.Inf(-1)
		}
		e.apex[k], e.from[k] = int32(i), from
		k++
	}
	if k == 0 {
		return
	}
	at := 0
	for i := range e.value {
		for at+1 < k && e.from[at+1] <= float64(i) {
			at++
		}
		d := float32(i) - float32(e.apex[at])
		line[i*step] = e.value[e.apex[at]] + d*d
	}
}

// pockets measures what the flood found. Pockets that touch were entered through
// nodes of one neck and are one; crumbs of less than eight nodes are none.
func (f *flooder) pockets() []Pocket {
	g := &f.grid
	step := [3]int{g.n[1] * g.n[2], g.n[2], 1}
	of := make([]int32, len(f.necks)+1)
	for p := range of {
		of[p] = int32(p)
	}
	root := func(p int32) int32 {
		for of[p] != p {
			of[p] = of[of[p]]
			p = of[p]
		}
		return p
	}
	for n, p := range f.pocket {
		for _, d := range step {
			if p > 0 && n+d < len(f.pocket) && f.pocket[n+d] > 0 {
				a, b := root(p), root(f.pocket[n+d])
				of[max(a, b)] = min(a, b) // the first was entered through the wider neck
			}
		}
	}
	found := make([]Pocket, len(of))
	widest := make([]float32, len(of))
	nodes := make([]int, len(of))
	for p := range found {
		found[p].Box = emptyBox()
	}
	for n, p := range f.pocket {
		if p <= 0 {
			continue
		}
		p = root(p)
		nodes[p]++
		at := g.at(n/step[0], n/step[1]%g.n[1], n%g.n[2])
		found[p].Box.add(at)
		if f.space[n] > widest[p] {
			widest[p], found[p].At = f.space[n], at
		}
	}
	var pockets []Pocket
	for p, count := range nodes {
		if count < 8 {
			continue
		}
		k := found[p]
		k.Volume = float64(count) * g.pitch * g.pitch * g.pitch
		k.Neck = (2*f.necks[p-1] + 1./steps) * g.pitch
		pockets = append(pockets, k)
	}
	return pockets
}
