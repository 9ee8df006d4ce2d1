package mesh

import "math"

// errBroken is an arrangement that contradicts itself. Exact predicates leave no
// way for it but a fault of this package, which must not take the process along.
const errBroken unjoinable = "the cuts contradict each other; please report this file"

// triangulation is a constrained triangulation in a plane, seen along an axis
// so that its triangles turn counter-clockwise. Points are put in one by one and
// edges flipped toward Delaunay's (Lawson, Software for C1 surface interpolation,
// 1977); constraints are forced in by flips (Sloan, A fast algorithm for
// generating constrained Delaunay triangulations, Computers & Structures 47,
// 1993), and where two of them cross, their crossing becomes a point. All turns
// are exact; only the choice among valid triangulations is by floating point.
type triangulation struct {
	axis   int
	base   *plane
	nodes  []node
	origin []int32 // of every half-edge; triangle t has 3t to 3t+2
	twin   []int32 // -1 on the rim
	wall   []*plane
	// jump is by how much the covering left of a half-edge exceeds that right of it.
	jump []int32
	out  []int32 // of every node: a half-edge from it
	hint int32   // where the last search ended
	dice uint32
}

// node is a point of a triangulation.
type node struct {
	spot
	flat [2]float64
	id   int32 // in the arrangement; made: found here; frame: of the enclosing triangle
}

const (
	made  = -1
	frame = -2
)

// newTriangulation begins with one triangle, given counter-clockwise.
func newTriangulation(axis int, base *plane, a, b, c node) *triangulation {
	t := &triangulation{axis: axis, base: base, dice: 1}
	for _, n := range []node{a, b, c} {
		n.flat = flat(n.at, axis)
		t.nodes = append(t.nodes, n)
	}
	t.out = []int32{0, 1, 2}
	t.grow()
	t.set(0, 0, -1, nil, 0)
	t.set(1, 1, -1, nil, 0)
	t.set(2, 2, -1, nil, 0)
	return t
}

// grow adds an unset triangle and gives its first half-edge.
func (t *triangulation) grow() int32 {
	h := int32(len(t.origin))
	t.origin = append(t.origin, 0, 0, 0)
	t.twin = append(t.twin, -1, -1, -1)
	t.wall = append(t.wall, nil, nil, nil)
	t.jump = append(t.jump, 0, 0, 0)
	return h
}

func (t *triangulation) set(h, origin, twin int32, wall *plane, jump int32) {
	t.origin[h], t.twin[h], t.wall[h], t.jump[h] = origin, twin, wall, jump
	if twin >= 0 {
		t.twin[twin] = h
	}
	t.out[origin] = h
}

func (t *triangulation) end(h int32) int32  { return t.origin[following(h)] }
func (t *triangulation) apex(h int32) int32 { return t.origin[preceding(h)] }

// turn is the exact orientation of three nodes.
func (t *triangulation) turn(a, b, c int32) int {
	return turn(&t.nodes[a].spot, &t.nodes[b].spot, &t.nodes[c].spot, t.axis)
}

// add puts a point in, unless it is there, and gives its node.
func (t *triangulation) add(n node) (int32, error) {
	n.flat = flat(n.at, t.axis)
	v := int32(len(t.nodes))
	t.nodes = append(t.nodes, n)
	t.out = append(t.out, -1)
	h, zeros, err := t.locate(v)
	if err != nil {
		return 0, err
	}
	switch zeros {
	case 0:
		t.splitTriangle(h, v)
	case 1:
		t.splitEdge(h, v)
	default:
		t.nodes, t.out = t.nodes[:v], t.out[:v]
		return t.origin[h], nil
	}
	t.legalize(v)
	return v, nil
}

// locate walks to the triangle that holds node v. It gives a half-edge of it;
// the one v is on if zeros is 1; the one that begins at v's place if it is 2.
func (t *triangulation) locate(v int32) (h int32, zeros int, err error) {
	h = t.hint - t.hint%3
walk:
	for range 8*len(t.origin) + 1024 {
		t.dice = t.dice*1664525 + 1013904223 // a fixed order could walk in circles
		e := h + int32(t.dice>>16)%3
		on, before := int32(-1), false
		zeros = 0
		for range 3 {
			switch t.turn(t.origin[e], t.end(e), v) {
			case -1:
				if t.twin[e] < 0 {
					return 0, 0, errBroken
				}
				h = t.twin[e] - t.twin[e]%3
				continue walk
			case 0:
				if zeros++; zeros == 1 || before {
					on = e // of two, the one where the other ends
				}
				before = true
			default:
				before = false
			}
			e = following(e)
		}
		t.hint = h
		if zeros == 0 {
			on = h
		}
		return on, zeros, nil
	}
	return 0, 0, errBroken
}

// splitTriangle parts h's triangle in three at node v inside.
func (t *triangulation) splitTriangle(h, v int32) {
	h0, h1, h2 := h, following(h), preceding(h)
	a, b, c := t.origin[h0], t.origin[h1], t.origin[h2]
	twin1, wall1, jump1 := t.twin[h1], t.wall[h1], t.jump[h1]
	twin2, wall2, jump2 := t.twin[h2], t.wall[h2], t.jump[h2]
	f, g := t.grow(), t.grow()
	t.set(f, b, twin1, wall1, jump1)
	t.set(g, c, twin2, wall2, jump2)
	t.set(h1, b, -1, nil, 0)
	t.set(h2, v, -1, nil, 0)
	t.set(f+1, c, -1, nil, 0)
	t.set(f+2, v, h1, nil, 0)
	t.set(g+1, a, h2, nil, 0)
	t.set(g+2, v, f+1, nil, 0)
}

// splitEdge parts the triangles beside h in two at node v on h.
func (t *triangulation) splitEdge(h, v int32) {
	h1, c := following(h), t.apex(h)
	b := t.origin[h1]
	g, wall, jump := t.twin[h], t.wall[h], t.jump[h]
	f := t.grow()
	t.set(f+1, b, t.twin[h1], t.wall[h1], t.jump[h1])
	t.set(f, v, -1, wall, jump)
	t.set(h1, v, -1, nil, 0)
	t.set(f+2, c, h1, nil, 0)
	if g < 0 {
		return
	}
	g1, d := following(g), t.apex(g)
	a := t.origin[g1]
	e := t.grow()
	t.set(e+1, a, t.twin[g1], t.wall[g1], t.jump[g1])
	t.set(e, v, h, wall, -jump)
	t.set(g1, v, -1, nil, 0)
	t.set(e+2, d, g1, nil, 0)
	t.set(f, v, g, wall, jump)
}

// flip turns the edge h in the four-cornered hole that its triangles leave.
// Then following(h) is the new edge.
func (t *triangulation) flip(h int32) {
	h1, h2 := following(h), preceding(h)
	g := t.twin[h]
	g1, g2 := following(g), preceding(g)
	a, b, c, d := t.origin[h], t.origin[g], t.origin[h2], t.origin[g2]
	twinH, wallH, jumpH := t.twin[h1], t.wall[h1], t.jump[h1]
	twinG, wallG, jumpG := t.twin[g1], t.wall[g1], t.jump[g1]
	t.set(h, a, twinG, wallG, jumpG)
	t.set(g, b, twinH, wallH, jumpH)
	t.set(h1, d, -1, nil, 0)
	t.set(g1, c, h1, nil, 0)
}

// convex tells whether the triangles beside h form a strictly convex quadrangle,
// so that h can be flipped.
func (t *triangulation) convex(h int32) bool {
	c, d := t.apex(h), t.apex(t.twin[h])
	return t.turn(c, d, t.origin[h])*t.turn(c, d, t.end(h)) < 0
}

// worse tells whether flipping h makes the smaller angles larger: whether the
// apex beyond it is well inside the circle around its triangle.
func (t *triangulation) worse(h int32) bool {
	d := t.nodes[t.apex(t.twin[h])].flat
	var x, y, s [3]float64
	for i, n := range [3]int32{t.origin[h], t.end(h), t.apex(h)} {
		x[i], y[i] = t.nodes[n].flat[0]-d[0], t.nodes[n].flat[1]-d[1]
		s[i] = x[i]*x[i] + y[i]*y[i]
	}
	bc, ca, ab := x[1]*y[2]-x[2]*y[1], x[2]*y[0]-x[0]*y[2], x[0]*y[1]-x[1]*y[0]
	det := s[0]*bc + s[1]*ca + s[2]*ab
	size := s[0]*(math.Abs(x[1]*y[2])+math.Abs(x[2]*y[1])) + s[1]*(math.Abs(x[2]*y[0])+math.Abs(x[0]*y[2])) +
		s[2]*(math.Abs(x[0]*y[1])+math.Abs(x[1]*y[0]))
	return det > 1e-10*size
}

// legalize flips edges opposite to the new node v, and what that makes
// opposite, while it helps.
func (t *triangulation) legalize(v int32) {
	var stack []int32
	for h := range t.around(v) {
		stack = append(stack, following(h))
	}
	t.improve(stack, 64+8*len(stack))
}

// improve flips the edges in stack, and those around them, while it helps.
func (t *triangulation) improve(stack []int32, budget int) {
	for len(stack) > 0 && budget > 0 {
		h := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if t.wall[h] != nil || t.twin[h] < 0 || !t.worse(h) || !t.convex(h) {
			continue
		}
		budget--
		g := t.twin[h]
		t.flip(h)
		stack = append(stack, h, preceding(h), g, preceding(g))
	}
}

// around gives the half-edges from v.
func (t *triangulation) around(v int32) func(yield func(int32) bool) {
	return func(yield func(int32) bool) {
		start := t.out[v]
		for h := start; ; {
			if !yield(h) {
				return
			}
			if h = t.twin[preceding(h)]; h == start {
				return
			}
			if h < 0 {
				break
			}
		}
		for h := t.twin[start]; h >= 0; h = t.twin[h] {
			if h = following(h); !yield(h) {
				return
			}
		}
	}
}

// force makes the line from a to b edges, walls on the plane wall, over which the
// covering jumps by jump, left over right.
func (t *triangulation) force(a, b int32, wall *plane, jump int32) error {
	for a != b {
		c, err := t.step(a, b, wall)
		if err != nil {
			return err
		}
		h := t.find(a, c)
		if h >= 0 {
			t.raise(h, wall, jump)
		} else if h = t.find(c, a); h >= 0 {
			t.raise(h, wall, -jump)
		} else {
			return errBroken
		}
		a = c
	}
	return nil
}

func (t *triangulation) raise(h int32, wall *plane, jump int32) {
	g := t.twin[h]
	if t.wall[h] == nil {
		t.wall[h] = wall
	}
	t.jump[h] += jump
	if g >= 0 {
		t.wall[g] = t.wall[h]
		t.jump[g] -= jump
	}
}

// find gives the half-edge from a to b, or -1.
func (t *triangulation) find(a, b int32) int32 {
	for h := range t.around(a) {
		if t.end(h) == b {
			return h
		}
	}
	return -1
}

// step makes an edge from a to the first node on the way to b, which it gives;
// where a wall is in the way, that is a new node on it.
func (t *triangulation) step(a, b int32, wall *plane) (int32, error) {
	cross := int32(-1) // the edge that the way passes, from right to left
	for h := range t.around(a) {
		x, y := t.end(h), t.apex(h)
		s, u := t.turn(a, x, b), t.turn(a, y, b)
		switch {
		case s == 0 && u < 0:
			return x, nil
		case u == 0 && s > 0:
			return y, nil
		case s > 0 && u < 0:
			cross = following(h)
		}
		if cross >= 0 {
			break
		}
	}
	if cross < 0 {
		return 0, errBroken
	}
	var passed [][2]int32
	var c int32
	for range len(t.origin) {
		if t.wall[cross] != nil {
			p, err := t.crossing(t.wall[cross], wall)
			if err != nil {
				return 0, err
			}
			v := int32(len(t.nodes))
			t.nodes = append(t.nodes, node{spot: p, flat: flat(p.at, t.axis), id: made})
			t.out = append(t.out, -1)
			t.splitEdge(cross, v)
			return t.step(a, v, wall)
		}
		passed = append(passed, [2]int32{t.origin[cross], t.end(cross)})
		g := t.twin[cross]
		if g < 0 {
			return 0, errBroken
		}
		c = t.apex(g)
		switch t.turn(a, b, c) {
		case 1:
			cross = following(g)
			continue
		case -1:
			cross = preceding(g)
			continue
		}
		return c, t.clear(a, c, passed)
	}
	return 0, errBroken
}

// clear flips the edges that the way from a to c passes until none is left.
func (t *triangulation) clear(a, c int32, passed [][2]int32) error {
	budget := 64 + 4*len(passed)*len(passed)
	for len(passed) > 0 {
		if budget--; budget < 0 {
			return errBroken
		}
		h := t.find(passed[0][0], passed[0][1])
		if h < 0 {
			return errBroken
		}
		edge := passed[0]
		passed = passed[1:]
		if !t.convex(h) {
			passed = append(passed, edge)
			continue
		}
		t.flip(h)
		d := following(h)
		x, y := t.origin[d], t.end(d)
		if x != a && x != c && y != a && y != c && t.turn(a, c, x)*t.turn(a, c, y) < 0 {
			passed = append(passed, [2]int32{x, y})
		}
	}
	return nil
}

// crossing is the point where two walls meet in the plane.
func (t *triangulation) crossing(a, b *plane) (spot, error) {
	p, ok := meet(t.base, a, b)
	if !ok {
		return spot{}, errBroken
	}
	return p, nil
}

// finish improves what the constraints left.
func (t *triangulation) finish() {
	stack := make([]int32, 0, len(t.origin))
	for h := range t.origin {
		stack = append(stack, int32(h))
	}
	t.improve(stack, 4*len(stack))
}

// covering floods the number of facets over every triangle, their upper sides
// less their lower ones, from the frame where it is 0.
func (t *triangulation) covering() ([]int32, error) {
	n := len(t.origin) / 3
	cover, seen := make([]int32, n), make([]bool, n)
	start := t.out[0] / 3
	stack := []int32{start}
	seen[start] = true
	for len(stack) > 0 {
		f := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for h := 3 * f; h < 3*f+3; h++ {
			g := t.twin[h]
			if g < 0 {
				continue
			}
			beyond := cover[f] - t.jump[h]
			if !seen[g/3] {
				seen[g/3], cover[g/3] = true, beyond
				stack = append(stack, g/3)
			} else if cover[g/3] != beyond {
				return nil, errBroken
			}
		}
	}
	return cover, nil
}
