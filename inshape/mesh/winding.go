package mesh

import (
	"cmp"
	"math"
	"math/big"
	"slices"
)

// windings gives the winding number before every piece: how often the surface
// goes around the points there, so that inside a solid it is 1 and where two
// overlap 2 (Zhou, Grinspun, Zorin and Jacobson, Mesh arrangements for solid
// geometry, SIGGRAPH 2016). Pieces that are alone at an edge have the same; where
// more meet, going around the edge tells; and one ray for each connected part
// gives the start. It also tells which shells were found inside which; shell
// is that of every facet.
func (a *arrangement) windings(shell []int32) (before []int32, buried map[[2]int32]bool, err error) {
	w := winder{arrangement: a, patch: make([]int32, len(a.pieces)), shell: shell, buried: map[[2]int32]bool{}}
	lead := map[int32]int32{}
	for p := range w.patch {
		w.patch[p] = int32(p)
		if a.apart {
			if _, ok := lead[shell[p]]; !ok {
				lead[shell[p]] = int32(p)
			}
			w.patch[p] = lead[shell[p]]
		}
	}
	if !a.apart {
		if err := w.edges(); err != nil {
			return nil, nil, err
		}
	}
	before, err = w.spread()
	return before, w.buried, err
}

type winder struct {
	*arrangement
	patch     []int32 // of every piece: a lower one with the same windings, or itself
	relations []relation
	shell     []int32
	buried    map[[2]int32]bool
	over      map[int32]int32 // during cast: by shell, the winding number
}

// relation says that the winding before q is that before p plus more.
type relation struct {
	p, q int32
	more int32
}

func (w *winder) find(p int32) int32 {
	for w.patch[p] != p {
		w.patch[p] = w.patch[w.patch[p]]
		p = w.patch[p]
	}
	return p
}

// edges joins pieces to patches and finds the relations between these.
func (w *winder) edges() error {
	for low, group := range w.surface.edges() {
		if err := w.edge(low, group); err != nil {
			return err
		}
	}
	return nil
}

// forward tells whether the half-edge begins at vertex low.
func (w *winder) forward(h, low int32) bool { return w.surface.corner(h) == low }

func (w *winder) edge(low int32, group []half) error {
	if len(group) == 2 {
		p, q := group[0].at/3, group[1].at/3
		if w.forward(group[0].at, low) == w.forward(group[1].at, low) || w.pieces[p].weight != w.pieces[q].weight {
			return errBroken
		}
		p, q = w.find(p), w.find(q)
		w.patch[max(p, q)] = min(p, q)
		return nil
	}
	turns, err := w.radial(low, group)
	if err != nil {
		return err
	}
	for i, t := range turns {
		u := turns[(i+1)%len(turns)]
		r := relation{p: t.piece, q: u.piece}
		if !t.forward {
			r.more += w.pieces[t.piece].weight
		}
		if u.forward {
			r.more -= w.pieces[u.piece].weight
		}
		w.relations = append(w.relations, r)
	}
	return nil
}

// spoke is a piece at an edge, seen along it.
type spoke struct {
	piece   int32
	forward bool
	normal  Vec     // of the side that looks counter-clockwise around the edge; rounded
	size    float64 // normal is off by at most 8·roundoff·size
	ahead   int     // of the first spoke: 0 at it, 1 up to half a turn, 2 at half, 3 beyond
}

// radial sorts the pieces at an edge counter-clockwise around it. All their
// planes hold the edge, so their normals turn as they do.
func (w *winder) radial(low int32, group []half) ([]spoke, error) {
	axis, direction := w.along(low, group[0].high)
	if direction == 0 {
		return nil, errBroken
	}
	spokes := make([]spoke, len(group))
	for i, h := range group {
		s := spoke{piece: h.at / 3, forward: w.forward(h.at, low)}
		a, b, c := w.mesh.Corners(int(w.pieces[s.piece].facet))
		u, v := b.Sub(a), c.Sub(a)
		s.normal, s.size = u.Cross(v), u.Len()*v.Len()
		if w.back(&s) {
			s.normal = s.normal.Mul(-1)
		}
		spokes[i] = s
	}
	ahead := func(a, b *spoke) int { return direction * w.crossSign(a, b, axis) }
	for i := range spokes {
		s := &spokes[i]
		switch {
		case i == 0:
		case ahead(&spokes[0], s) > 0:
			s.ahead = 1
		case ahead(&spokes[0], s) < 0:
			s.ahead = 3
		case w.dotSign(&spokes[0], s) < 0:
			s.ahead = 2
		default:
			return nil, errBroken // two pieces on one another
		}
	}
	slices.SortFunc(spokes, func(a, b spoke) int {
		return cmp.Or(cmp.Compare(a.ahead, b.ahead), -ahead(&a, &b))
	})
	return spokes, nil
}

// back tells whether a spoke's normal is opposite to its facet's.
func (w *winder) back(s *spoke) bool { return s.forward == w.pieces[s.piece].turned }

// along gives an axis along which an edge is not flat, and its direction.
func (w *winder) along(low, high int32) (axis, direction int) {
	p, q := &w.points[low], &w.points[high]
	d := q.at.Sub(p.at)
	for k := range 3 {
		if math.Abs(d[k]) > math.Abs(d[axis]) {
			axis = k
		}
	}
	if math.Abs(d[axis]) > 4*blur {
		return axis, sign(d[axis])
	}
	g, h := p.full(), q.full()
	var a, b big.Int
	for k := range 3 {
		if s := a.Mul(&h[k], &g[3]).Cmp(b.Mul(&g[k], &h[3])); s != 0 {
			return k, s
		}
	}
	return 0, 0
}

// crossSign is the exact sign of (a × b) along an axis.
func (w *winder) crossSign(a, b *spoke, axis int) int {
	i, j := (axis+1)%3, (axis+2)%3
	d := a.normal[i]*b.normal[j] - a.normal[j]*b.normal[i]
	if bound := 64 * roundoff * a.size * b.size; d > bound || -d > bound {
		return sign(d)
	}
	m, n := w.exact(a), w.exact(b)
	var x, y big.Int
	return w.sides(a, b) * x.Mul(&m.n[i], &n.n[j]).Cmp(y.Mul(&m.n[j], &n.n[i]))
}

// dotSign is the exact sign of a · b.
func (w *winder) dotSign(a, b *spoke) int {
	d := a.normal.Dot(b.normal)
	if bound := 64 * roundoff * a.size * b.size; d > bound || -d > bound {
		return sign(d)
	}
	m, n := w.exact(a), w.exact(b)
	var s, x big.Int
	for k := range 3 {
		s.Add(&s, x.Mul(&m.n[k], &n.n[k]))
	}
	return w.sides(a, b) * s.Sign()
}

func (w *winder) exact(s *spoke) *plane {
	return newPlane(w.mesh.Corners(int(w.pieces[s.piece].facet)))
}

// sides corrects a sign for normals that are opposite to their facets'.
func (w *winder) sides(a, b *spoke) int {
	if w.back(a) == w.back(b) {
		return 1
	}
	return -1
}

// spread follows the relations from a start in every connected part.
func (w *winder) spread() ([]int32, error) {
	n := len(w.pieces)
	first := make([]int32, n+1) // of a patch: where its relations begin
	for i := range w.relations {
		r := &w.relations[i]
		r.p, r.q = w.find(r.p), w.find(r.q)
		first[r.p+1]++
		first[r.q+1]++
	}
	for p := range n {
		first[p+1] += first[p]
	}
	links := make([]relation, 2*len(w.relations)) // from p on, both ways
	at := slices.Clone(first)
	for _, r := range w.relations {
		links[at[r.p]] = r
		at[r.p]++
		links[at[r.q]] = relation{r.q, r.p, -r.more}
		at[r.q]++
	}
	largest := make([]int32, n) // of a patch: its piece of the largest shadow
	areas := make([]float64, n)
	for i := range w.pieces {
		p := w.find(int32(i))
		a, b, c := w.surface.Corners(i)
		if area := b.Sub(a).Cross(c.Sub(a)).Len(); area >= areas[p] {
			areas[p], largest[p] = area, int32(i)
		}
	}
	before := make([]int32, n)
	known := make([]bool, n)
	var part []int32
	for p := range int32(n) {
		if w.find(p) != p || known[p] {
			continue
		}
		part = append(part[:0], p) // with windings less that of p
		known[p] = true
		best := p
		for i := 0; i < len(part); i++ {
			q := part[i]
			if areas[q] > areas[best] {
				best = q
			}
			for _, l := range links[first[q]:first[q+1]] {
				if value := before[q] + l.more; !known[l.q] {
					known[l.q], before[l.q] = true, value
					part = append(part, l.q)
				} else if before[l.q] != value {
					return nil, errBroken
				}
			}
		}
		start, err := w.cast(largest[best])
		if err != nil {
			return nil, err
		}
		start -= before[best]
		for _, q := range part {
			before[q] += start
		}
	}
	for p := range before {
		before[p] = before[w.find(int32(p))]
	}
	return before, nil
}

// cast gives the winding number before a piece by counting the facets over a
// point of it, exactly, along the axis that it looks along most.
func (w *winder) cast(p int32) (int32, error) {
	piece := &w.pieces[p]
	var corners [3]Vec
	corners[0], corners[1], corners[2] = w.mesh.Corners(int(piece.facet))
	axis := projection(&corners)
	if axis < 0 {
		return 0, nil // a shell that is nothing on the grid: it is left alone
	}
	up := orient2d(flat(corners[0], axis), flat(corners[1], axis), flat(corners[2], axis)) > 0
	base := newPlane(corners[0], corners[1], corners[2])
	at := w.surface.Facets[p]
	a, b, c := &w.points[at[0]], &w.points[at[1]], &w.points[at[2]]
	for try := range int64(64) {
		q := amid([3]*spot{a, b, c}, [3]int64{64 + try, 65 + try*try%97, 63})
		above, ok := w.above(&q, axis, base)
		if !ok {
			continue
		}
		if up == piece.turned { // its back looks up
			above -= piece.weight
		}
		if above > 0 {
			own := w.shell[piece.facet]
			for shell, winding := range w.over {
				if winding > 0 && shell != own {
					w.buried[[2]int32{min(own, shell), max(own, shell)}] = true
				}
			}
		}
		return above, nil
	}
	return 0, errBroken
}

// above is the winding number just over the point of base that q is the shadow
// of. It gives up where q is on the shadow of an edge.
func (w *winder) above(q *spot, axis int, base *plane) (sum int32, ok bool) {
	i, j := (axis+1)%3, (axis+2)%3
	beside := func(b *Box, k int) bool { return q.at[k] < b.Min[k]-blur || q.at[k] > b.Max[k]+blur }
	w.over = map[int32]int32{}
	stack := []int32{0}
	for len(stack) > 0 {
		n := &w.tree.nodes[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		if beside(&n.box, i) || beside(&n.box, j) {
			continue
		}
		if n.left >= 0 {
			stack = append(stack, n.left, n.right)
			continue
		}
		for _, f := range w.tree.order[n.from:n.to] {
			var g [3]spot
			for k, v := range w.mesh.Facets[f] {
				g[k].at = w.mesh.Vertices[v]
			}
			up := turn(&g[0], &g[1], &g[2], axis)
			var s [3]int
			for k := range 3 {
				s[k] = turn(&g[k], &g[(k+1)%3], q, axis)
			}
			where, within := between(s)
			switch {
			case up == 0 && s == [3]int{} && !w.mesh.flat(w.mesh.Facets[f]):
				return 0, false
			case up == 0 || !within:
				continue
			case where != inside:
				return 0, false
			}
			if over(q.exact, axis, newPlane(g[0].at, g[1].at, g[2].at), base) > 0 {
				sum += int32(up)
				w.over[w.shell[f]] += int32(up)
			}
		}
	}
	return sum, true
}

// over compares the heights of two planes along an axis over q's shadow.
func over(q *homogeneous, axis int, p, base *plane) int {
	i, j := (axis+1)%3, (axis+2)%3
	level := func(p *plane) *big.Int { // times n along the axis, and q's w
		var l, x big.Int
		l.Mul(&p.d, &q[3])
		l.Sub(&l, x.Mul(&p.n[i], &q[i]))
		return l.Sub(&l, x.Mul(&p.n[j], &q[j]))
	}
	var x, y big.Int
	return p.n[axis].Sign() * base.n[axis].Sign() * x.Mul(level(p), &base.n[axis]).Cmp(y.Mul(level(base), &p.n[axis]))
}
