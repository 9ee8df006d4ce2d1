package mesh

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
)

// HollowOptions say how to hollow.
type HollowOptions struct {
	Wall float64 // mm that stay everywhere; must be positive
	// HoleDiameter is that of the escape holes, mm. 0: none, the voids are closed.
	HoleDiameter float64
	Holes        int   // for each void; 0: 2, one to pour and one for the air
	At           []Vec // where holes go, on the outside; nil: they are proposed
	Up           Vec   // build direction, for the lowest points; zero: z
	// MinSaving is the share of the volume below which hollowing is refused; 0: 0.05.
	MinSaving float64
	// MaxNodes bounds the grid, and with it time and memory (14 bytes a node);
	// 0: 8 million.
	MaxNodes int
}

// Hollowed is a hollowed part.
type Hollowed struct {
	Mesh  *Mesh
	Voids []Void
	Holes []Hole
	Saved float64  // mm³, holes with the voids
	Wall  float64  // the least wall found between the part's surface and a void, mm
	Pitch float64  // of the grid, mm: finer detail inside is lost
	Notes []string // what could not be had, one line each
}

// Void is an enclosed space.
type Void struct {
	Volume float64 // mm³
	Lowest Vec     // its point furthest down the build direction
	Box    Box
}

// Hole is an escape hole: a channel through the wall.
type Hole struct {
	At       Vec     // the middle of its mouth
	Axis     Vec     // unit, inwards
	Diameter float64 // mm, of the circle in its 32 sides
	Length   float64 // through the wall, mm
	Void     int     // index in Voids
}

// Why a part is not hollowed, beside an invalid option.
const (
	NotSolid        Code = "not-solid"         // the mesh bounds no solid
	NothingToHollow Code = "nothing-to-hollow" // the wall leaves no room, or too little
	NoEscape        Code = "no-escape"         // no void can be reached by a hole of that size
)

// Hollow makes a part hollow, leaving a wall. The voids' surfaces are added and
// the outside stays as it is: to the last bit without holes, but for the holes and
// Union's rounding (0.05 nm for 100 mm) with them.
//
// The voids are where the distance to the surface is above the wall. It is
// sampled on a grid of a quarter of the wall's pitch (more for large parts), only
// near where it matters, as it changes no faster than one goes (it is
// 1-Lipschitz). Nodes of the void are taken away until no two touch in an edge
// or a corner alone: the boundary of what is left is a manifold (Latecki, Eckhardt
// and Rosenfeld, Well-composed sets, CVIU 61, 1995), and so is its dual, the
// surface net (Gibson, Constrained elastic surface nets, MICCAI 1998). Its
// vertices are moved to the wall's exact distance. Where the surface still comes
// within the wall less 0.1 mm, or crosses itself, the void is given up.
//
// Holes are proposed at the lowest point of each void along Up, then as far from
// each other as can be, through walls that are sound around them; they are cut by
// Union. A void that no hole reaches is left out, and Notes says so.
//
// The mesh must be a solid without overlaps. What is refused is an *Error with one
// of the codes above or Invalid; other errors are the context's. O(n log n) for
// the tree, and area/pitch² queries.
func Hollow(ctx context.Context, m *Mesh, o HollowOptions) (*Hollowed, error) {
	if !(o.Wall > 0) || !(o.HoleDiameter >= 0) || o.Holes < 0 || math.IsInf(o.Wall, 1) || math.IsInf(o.HoleDiameter, 1) {
		return nil, refuse("", Invalid, "", "the wall must be positive, the holes' diameter and number not negative")
	}
	if t := Analyse(m); !t.Solid() {
		return nil, refuse("", NotSolid, "", "the surface is not closed; repair it first")
	}
	before := Measure(m)
	if before.Volume <= 0 {
		return nil, refuse("", NotSolid, "", "the surface is inside out; repair it first")
	}
	h := hollower{HollowOptions: o, m: m, tree: NewBVH(m)}
	h.Holes = cmp.Or(o.Holes, 2)
	if h.Up = o.Up.Unit(); h.Up == (Vec{}) {
		h.Up = Vec{0, 0, 1}
	}
	if err := h.space(ctx); err != nil {
		return nil, err
	}
	voids, err := h.net(ctx)
	if err != nil {
		return nil, err
	}
	if len(voids) == 0 {
		return nil, refuse("", NothingToHollow, "", "a wall of %.3g mm leaves no room inside", o.Wall)
	}
	return h.finish(ctx, voids, before)
}

type hollower struct {
	HollowOptions
	m    *Mesh
	tree *BVH
	grid lattice
	void []bool
	part []int32 // of each node of the void, its connected part from 1
	// value is the distance to the surface less the level, at nodes near where it
	// is 0; elsewhere about a pitch with the right sign.
	value []float32
	level float64 // the distance of the void's surface
	least float64 // the least wall that was accepted
}

// space finds the nodes of the void.
func (h *hollower) space(ctx context.Context) error {
	box := h.m.Bounds()
	h.grid = newLattice(box, h.Wall/4, 1, cmp.Or(h.MaxNodes, 8_000_000))
	g := &h.grid
	if g.pitch > 0.55*h.Wall {
		return refuse("", TooLarge, "", "the part is too large for a wall of %.3g mm: from %.3g mm on it can be hollowed", h.Wall, g.pitch/0.55)
	}
	// A chord of the void's surface is nearer to an edge of the outside that it
	// goes around; half of that is put on.
	h.level = h.Wall + g.pitch*g.pitch/(8*h.Wall)
	h.void = h.m.voxels(*g)
	h.value = make([]float32, g.nodes())
	const block = 8
	blocks := [3]int{(g.n[0] + block - 1) / block, (g.n[1] + block - 1) / block, (g.n[2] + block - 1) / block}
	return inBlocks(ctx, blocks[0]*blocks[1]*blocks[2], 1, func(b, _ int) {
		h.settle(block*(b/(blocks[1]*blocks[2])), block*(b/blocks[2]%blocks[1]), block*(b%blocks[2]), block)
	})
}

// settle decides the nodes of a cube of size³ from (i, j, k) on.
func (h *hollower) settle(i, j, k, size int) {
	g := &h.grid
	to := [3]int{min(i+size, g.n[0]), min(j+size, g.n[1]), min(k+size, g.n[2])}
	if i >= to[0] || j >= to[1] || k >= to[2] {
		return
	}
	some := false
	for i := i; i < to[0] && !some; i++ {
		for j := j; j < to[1] && !some; j++ {
			some = slices.Contains(h.void[g.index(i, j, k):g.index(i, j, to[2]-1)+1], true)
		}
	}
	set := func(void bool, value float64) {
		for i := i; i < to[0]; i++ {
			for j := j; j < to[1]; j++ {
				for n := g.index(i, j, k); n < g.index(i, j, to[2]-1)+1; n++ {
					h.void[n] = h.void[n] && void
					h.value[n] = float32(value)
				}
			}
		}
	}
	if !some {
		set(false, -g.pitch)
		return
	}
	half := g.pitch * float64(size-1) / 2
	around := math.Sqrt(3) * half
	middle := g.at(i, j, k).Add(Vec{half, half, half})
	_, _, distance := h.tree.Nearest(middle, h.level+around+g.pitch, nil)
	switch {
	case size == 1:
		set(distance > h.level, max(distance-h.level, -g.pitch))
	case distance-around > h.level:
		set(true, g.pitch)
	case distance+around <= h.level:
		set(false, -g.pitch)
	default:
		half := size / 2
		for c := range 8 {
			h.settle(i+half*(c&1), j+half*(c>>1&1), k+half*(c>>2), half)
		}
	}
}

// give up a node of the void.
func (h *hollower) giveUp(n int) {
	h.void[n] = false
	h.value[n] = -float32(h.grid.pitch) / 64
}

// corners is where the nodes of a cell are after its first.
func (h *hollower) corners() (offset [8]int) {
	for c := range offset {
		offset[c] = h.grid.index(c&1, c>>1&1, c>>2)
	}
	return offset
}

// compose gives up nodes until the void is well-composed.
func (h *hollower) compose(offset [8]int) {
	g := &h.grid
	var work []int
	for i := range g.n[0] - 1 {
		for j := range g.n[1] - 1 {
			for k := range g.n[2] - 1 {
				work = append(work, g.index(i, j, k))
				h.composeCells(&work, offset)
			}
		}
	}
}

// composeCells mends the cells in work and those that this spoils.
func (h *hollower) composeCells(work *[]int, offset [8]int) {
	for len(*work) > 0 {
		cell := (*work)[len(*work)-1]
		*work = (*work)[:len(*work)-1]
		mask := h.mask(cell, offset)
		if !critical(mask) {
			continue
		}
		// The void's node with the least value goes.
		worst := -1
		for c := range 8 {
			if mask>>c&1 != 0 && (worst < 0 || h.value[cell+offset[c]] < h.value[cell+offset[worst]]) {
				worst = c
			}
		}
		n := cell + offset[worst]
		h.giveUp(n)
		for c := range 8 {
			*work = append(*work, n-offset[c])
		}
	}
}

func (h *hollower) mask(cell int, offset [8]int) (mask uint8) {
	for c := range 8 {
		if h.void[cell+offset[c]] {
			mask |= 1 << c
		}
	}
	return mask
}

// critical tells whether among a cell's eight nodes some of one kind meet in an
// edge or a corner alone: a face with a chequered pattern, or two opposite corners
// of one kind among six of the other.
func critical(mask uint8) bool {
	if mask == 0 || mask == 255 {
		return false
	}
	bit := func(c int) bool { return mask>>c&1 != 0 }
	for axis := range 3 {
		u, v := 1<<((axis+1)%3), 1<<((axis+2)%3)
		for _, c := range [2]int{0, 1 << axis} {
			if bit(c) == bit(c|u|v) && bit(c|u) == bit(c|v) && bit(c) != bit(c|u) {
				return true
			}
		}
	}
	for c := range 4 {
		if two := uint8(1<<c | 1<<(7-c)); mask == two || mask == ^two {
			return true
		}
	}
	return false
}

// net finds the voids and their surfaces, at which the wall was found sound, the
// largest first.
func (h *hollower) net(ctx context.Context) ([]cavity, error) {
	offset := h.corners()
	h.compose(offset)
	for range 24 {
		h.dropSmall()
		m, cells, err := h.surface(ctx, offset)
		if err != nil {
			return nil, err
		}
		bad, err := h.faults(ctx, m)
		if err != nil {
			return nil, err
		}
		if len(bad) == 0 {
			return h.split(m, cells, offset), nil
		}
		var work []int
		for _, v := range bad {
			for c := range 8 {
				if n := cells[v] + offset[c]; h.void[n] {
					h.giveUp(n)
					for c := range 8 {
						work = append(work, n-offset[c])
					}
				}
			}
		}
		h.composeCells(&work, offset)
	}
	return nil, refuse("", NothingToHollow, "", "no surface is found inside that keeps a wall of %.3g mm; try another wall", h.Wall)
}

// dropSmall gives up what is smaller than a cube of three pitches or of the holes'
// diameter: it would save nothing, and no hole finds it.
func (h *hollower) dropSmall() {
	g := &h.grid
	side := max(3*g.pitch, h.HoleDiameter) / g.pitch
	step := [3]int{g.n[1] * g.n[2], g.n[2], 1}
	h.part = make([]int32, len(h.void))
	parts := int32(0)
	var part []int
	for n, void := range h.void {
		if !void || h.part[n] != 0 {
			continue
		}
		parts++
		h.part[n] = parts
		part = append(part[:0], n)
		for i := 0; i < len(part); i++ {
			for _, d := range step {
				for _, o := range [2]int{part[i] - d, part[i] + d} {
					if h.void[o] && h.part[o] == 0 {
						h.part[o] = parts
						part = append(part, o)
					}
				}
			}
		}
		if float64(len(part)) < side*side*side {
			for _, n := range part {
				h.giveUp(n)
			}
		}
	}
}

// surface is the net, and the cell of each of its vertices.
func (h *hollower) surface(ctx context.Context, offset [8]int) (*Mesh, []int, error) {
	g := &h.grid
	vertexOf := make([]int32, len(h.void))
	var cells []int
	for i := range g.n[0] - 1 {
		for j := range g.n[1] - 1 {
			for k := range g.n[2] - 1 {
				cell := g.index(i, j, k)
				if mask := h.mask(cell, offset); mask != 0 && mask != 255 {
					vertexOf[cell] = int32(len(cells))
					cells = append(cells, cell)
				}
			}
		}
	}
	m := &Mesh{Vertices: make([]Vec, len(cells))}
	err := inBlocks(ctx, len(cells), 256, func(from, to int) {
		for v := from; v < to; v++ {
			m.Vertices[v] = h.place(cells[v], offset)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	step := [3]int{g.n[1] * g.n[2], g.n[2], 1}
	for n, void := range h.void {
		for axis, d := range step {
			// The last node of a column has the first of the next behind it: both are
			// outside, as the grid has a margin.
			if n+d >= len(h.void) || h.void[n+d] == void {
				continue
			}
			u, v := step[(axis+1)%3], step[(axis+2)%3]
			quad := [4]int32{vertexOf[n-u-v], vertexOf[n-v], vertexOf[n], vertexOf[n-u]}
			if void {
				quad[1], quad[3] = quad[3], quad[1]
			}
			p := func(c int) Vec { return m.Vertices[quad[c]] }
			if p(0).Sub(p(2)).Len() > p(1).Sub(p(3)).Len() {
				quad = [4]int32{quad[1], quad[2], quad[3], quad[0]}
			}
			m.Facets = append(m.Facets, Facet{quad[0], quad[1], quad[2]}, Facet{quad[0], quad[2], quad[3]})
		}
	}
	return m, cells, nil
}

// place puts a cell's vertex into the middle of where its edges cross the void's
// surface, and from there to the level as far as the cell reaches.
func (h *hollower) place(cell int, offset [8]int) Vec {
	g := &h.grid
	low := g.at(cell/(g.n[1]*g.n[2]), cell/g.n[2]%g.n[1], cell%g.n[2])
	var sum Vec
	crossed := 0.0
	for c := range 8 {
		for axis := range 3 {
			d := c | 1<<axis
			if d == c || h.void[cell+offset[c]] == h.void[cell+offset[d]] {
				continue
			}
			a, b := float64(h.value[cell+offset[c]]), float64(h.value[cell+offset[d]])
			at := Vec{float64(c & 1), float64(c >> 1 & 1), float64(c >> 2)}
			at[axis] = 0.5
			if a != b {
				at[axis] = min(max(a/(a-b), 0), 1)
			}
			sum = sum.Add(at)
			crossed++
		}
	}
	p := low.Add(sum.Mul(g.pitch / crossed))
	for range 2 {
		q, facet, distance := h.tree.Nearest(p, 2*h.level, nil)
		if facet < 0 || distance == 0 || math.Abs(distance-h.level) < 0.002*h.level {
			break
		}
		p = p.Add(p.Sub(q).Mul((h.level - distance) / distance))
		for k := range 3 {
			p[k] = min(max(p[k], low[k]+0.02*g.pitch), low[k]+0.98*g.pitch)
		}
	}
	return p
}

// faults are the vertices of m around which the wall is too thin or m crosses
// itself. It keeps the least wall.
func (h *hollower) faults(ctx context.Context, m *Mesh) ([]int32, error) {
	allowed := h.Wall - min(0.1, h.Wall/4)
	distances := make([]float64, len(m.Vertices)+len(m.Facets))
	err := inBlocks(ctx, len(distances), 256, func(from, to int) {
		for i := from; i < to; i++ {
			var p Vec
			if i < len(m.Vertices) {
				p = m.Vertices[i]
			} else {
				a, b, c := m.Corners(i - len(m.Vertices))
				p = a.Add(b).Add(c).Mul(1. / 3)
			}
			_, _, distances[i] = h.tree.Nearest(p, h.level, nil)
		}
	})
	if err != nil {
		return nil, err
	}
	var bad []int32
	h.least = h.level
	for i, d := range distances {
		h.least = min(h.least, d)
		if d >= allowed {
			continue
		}
		if i < len(m.Vertices) {
			bad = append(bad, int32(i))
		} else {
			bad = append(bad, m.Facets[i-len(m.Vertices)][:]...)
		}
	}
	if len(bad) > 0 {
		return bad, nil
	}
	for _, pair := range NewBVH(m).SelfIntersections(1 << 16) {
		for _, f := range pair {
			bad = append(bad, m.Facets[f][:]...)
		}
	}
	return bad, nil
}

// finish adds the voids and cuts the holes.
func (h *hollower) finish(ctx context.Context, voids []cavity, before Measures) (*Hollowed, error) {
	r := &Hollowed{Wall: h.least, Pitch: h.grid.pitch}
	var kept []cavity
	var tools []*Mesh
	for _, v := range voids {
		if h.HoleDiameter > 0 {
			holes := h.holes(v, r.Holes)
			if len(holes) == 0 {
				r.Notes = append(r.Notes, fmt.Sprintf("a void of %.3g mm³ stays filled: no sound wall for a hole of %.3g mm", v.Volume, h.HoleDiameter))
				continue
			}
			if want := h.Holes; len(holes) < want && h.At == nil {
				r.Notes = append(r.Notes, fmt.Sprintf("a void of %.3g mm³ has %d of %d holes: there is no place for more", v.Volume, len(holes), want))
			}
			for _, d := range holes {
				d.Void = len(kept)
				r.Holes = append(r.Holes, d.Hole)
				tools = append(tools, d.tool())
			}
		}
		kept = append(kept, v)
		r.Voids = append(r.Voids, v.Void)
	}
	if len(kept) == 0 {
		return nil, refuse("", NoEscape, "", "no void can have an escape hole of %.3g mm; try a smaller one", h.HoleDiameter)
	}
	if h.At != nil && len(tools) < len(h.At) {
		r.Notes = append(r.Notes, fmt.Sprintf("%d of the %d places given have no void behind them or no sound wall", len(h.At)-len(tools), len(h.At)))
	}
	r.Mesh = h.m.Clone()
	for _, v := range kept {
		r.Saved += v.Volume
		r.Mesh.Append(v.mesh)
	}
	if share := cmp.Or(h.MinSaving, 0.05); r.Saved < share*before.Volume {
		return nil, refuse("", NothingToHollow, "", "a wall of %.3g mm would save %.3g mm³ only, %.2g %% of the part", h.Wall, r.Saved, 100*r.Saved/before.Volume)
	}
	if len(tools) == 0 {
		return r, nil
	}
	return r, h.cut(ctx, r, tools, before)
}

// cavity is a void and its surface.
type cavity struct {
	Void
	mesh *Mesh
}

// split takes the net apart by voids. One may have several surfaces: around it,
// and around what stands free in it.
func (h *hollower) split(net *Mesh, cells []int, offset [8]int) []cavity {
	parts := map[int32]*Mesh{}
	var voids []cavity
	for _, f := range net.Facets {
		part := int32(0)
		for c := 0; part == 0; c++ {
			part = h.part[cells[f[0]]+offset[c]]
		}
		if parts[part] == nil {
			parts[part] = &Mesh{Vertices: slices.Clone(net.Vertices)}
			voids = append(voids, cavity{mesh: parts[part]})
		}
		parts[part].Facets = append(parts[part].Facets, f)
	}
	for i := range voids {
		v := &voids[i]
		v.mesh.Compact()
		measures := Measure(v.mesh)
		v.Volume, v.Box = -measures.Volume, measures.Bounds
		v.Lowest = slices.MinFunc(v.mesh.Vertices, func(a, b Vec) int { return cmp.Compare(a.Dot(h.Up), b.Dot(h.Up)) })
	}
	slices.SortStableFunc(voids, func(a, b cavity) int { return cmp.Compare(b.Volume, a.Volume) })
	return voids
}

// cut subtracts the tools.
func (h *hollower) cut(ctx context.Context, r *Hollowed, tools []*Mesh, before Measures) error {
	solid := r.Mesh
	cut := solid.Clone()
	for _, t := range tools {
		cut.Append(t)
	}
	u, err := Union(ctx, cut, UnionOptions{})
	if err != nil {
		return fmt.Errorf("cut escape holes: %w", err)
	}
	if u.Reason != "" {
		return refuse("", NoEscape, "", "the escape holes cannot be cut: %s", u.Reason)
	}
	r.Mesh = u.Mesh
	r.Saved = before.Volume - Measure(r.Mesh).Volume
	// Each hole that works makes its void's surface and the outside one.
	t := Analyse(r.Mesh)
	if shells := Analyse(solid).Shells - len(r.Voids); !t.Solid() || !t.Manifold() || t.Shells != shells {
		return refuse("", NoEscape, "", "the escape holes do not reach the voids; give other places or a smaller diameter")
	}
	return nil
}
