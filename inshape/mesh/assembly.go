package mesh

import (
	"cmp"
	"math"
	"slices"
)

// assemble makes facets that are closed, as a whole, into a solid by indices: an
// edge at which four or more facets meet becomes several at one place, each
// with the two facets beside one piece of the solid. Vertices are doubled for
// that, and where they cannot be, edges are parted in the middle. It tells how
// many such edges there were. To be tidy, it takes out films and slivers. m has
// a's points for vertices.
func (a *arrangement) assemble(m *Mesh, tidy bool) (seams int) {
	size := a.grid.unit * sliver
	m.collapse()
	m.cancel()
	for round := range 16 {
		mates, split := m.mates()
		if round == 0 {
			seams = len(split)
		}
		if len(split) == 0 {
			if tidy {
				m.dropFilms(mates, size/8)
				mates, _ = m.mates()
				m.tidy(mates, int32(len(a.mesh.Vertices)), size)
			}
			break
		}
		m.fan(mates)
		m.part(mates)
	}
	m.Compact()
	return seams
}

// dropFilms drops closed surfaces that are thinner than thickness on the mean:
// the slits and flakes that rounding leaves between faces that should be one.
func (m *Mesh) dropFilms(mates []int32, thickness float64) {
	shell := m.shells(mates)
	type sums struct {
		volume, area float64
		start        Vec
	}
	of := map[int32]*sums{}
	for f, s := range shell {
		p, q, r := m.Corners(f)
		t := of[s]
		if t == nil {
			t = &sums{start: p}
			of[s] = t
		}
		n := q.Sub(p).Cross(r.Sub(p))
		t.volume += n.Dot(p.Sub(t.start)) / 6
		t.area += n.Len() / 2
	}
	kept := m.Facets[:0]
	for f, s := range shell {
		if t := of[s]; 2*math.Abs(t.volume) > thickness*t.area {
			kept = append(kept, m.Facets[f])
		}
	}
	m.Facets = kept
}

// shells numbers the facets' shells from 0, in the order of their first facets.
func (m *Mesh) shells(mates []int32) []int32 {
	shell := slices.Repeat([]int32{-1}, len(m.Facets))
	var stack []int32
	count := int32(0)
	for f := range shell {
		if shell[f] >= 0 {
			continue
		}
		shell[f] = count
		stack = append(stack, int32(f))
		for len(stack) > 0 {
			f := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for h := 3 * f; h < 3*f+3; h++ {
				if g := mates[h] / 3; shell[g] < 0 {
					shell[g] = count
					stack = append(stack, g)
				}
			}
		}
		count++
	}
	return shell
}

// collapse makes the ends of edges one that are at the same place, and drops
// the facets that vanish.
func (m *Mesh) collapse() {
	to := make([]int32, len(m.Vertices))
	for v := range to {
		to[v] = int32(v)
	}
	find := func(v int32) int32 {
		for to[v] != v {
			to[v] = to[to[v]]
			v = to[v]
		}
		return v
	}
	for _, f := range m.Facets {
		for k := range 3 {
			if a, b := f[k], f[(k+1)%3]; m.Vertices[a] == m.Vertices[b] {
				a, b = find(a), find(b)
				to[max(a, b)] = min(a, b)
			}
		}
	}
	kept := m.Facets[:0]
	for _, f := range m.Facets {
		f = Facet{find(f[0]), find(f[1]), find(f[2])}
		if f[0] != f[1] && f[1] != f[2] && f[2] != f[0] {
			kept = append(kept, f)
		}
	}
	m.Facets = kept
}

// cancel drops facets that look both ways.
func (m *Mesh) cancel() {
	key := func(f Facet) (Facet, bool) { // sorted, and whether that kept its turn
		k := 0
		for i := range f {
			if f[i] < f[k] {
				k = i
			}
		}
		f = Facet{f[k], f[(k+1)%3], f[(k+2)%3]}
		if f[1] < f[2] {
			return f, true
		}
		return Facet{f[0], f[2], f[1]}, false
	}
	type side struct {
		key Facet
		at  int32
		up  bool
	}
	sides := make([]side, len(m.Facets))
	for i, f := range m.Facets {
		k, up := key(f)
		sides[i] = side{k, int32(i), up}
	}
	slices.SortFunc(sides, func(a, b side) int {
		return cmp.Or(slices.Compare(a.key[:], b.key[:]), cmp.Compare(a.at, b.at))
	})
	var dropped []int32
	for len(sides) > 0 {
		n := 1
		for n < len(sides) && sides[n].key == sides[0].key {
			n++
		}
		var up, down []int32
		for _, s := range sides[:n] {
			if s.up {
				up = append(up, s.at)
			} else {
				down = append(down, s.at)
			}
		}
		pairs := min(len(up), len(down))
		dropped = append(append(dropped, up[:pairs]...), down[:pairs]...)
		sides = sides[n:]
	}
	if len(dropped) == 0 {
		return
	}
	for _, f := range dropped {
		m.Facets[f] = Facet{}
	}
	m.Facets = slices.DeleteFunc(m.Facets, func(f Facet) bool { return f[0] == f[1] })
}

// mates gives every half-edge its other one, and the half-edges of edges with
// more than two. There those are mates that bound the same piece of the solid.
func (m *Mesh) mates() (mates []int32, split []int32) {
	mates = make([]int32, 3*len(m.Facets))
	for low, group := range m.edges() {
		if len(group) == 2 {
			mates[group[0].at], mates[group[1].at] = group[1].at, group[0].at
			continue
		}
		split = append(split, group[0].at)
		m.radial(low, group)
		// The solid is counter-clockwise of a backward half-edge, up to the next forward one:
		// like brackets, also where rounding disturbs the order.
		var open []int32
		for _, h := range slices.Concat(group, group) {
			if m.corner(h.at) != low {
				open = append(open, h.at)
			} else if n := len(open); n > 0 {
				mates[h.at], mates[open[n-1]] = open[n-1], h.at
				open = open[:n-1]
			}
		}
	}
	return mates, split
}

// edges gives the half-edges of each edge, with its lower vertex.
func (m *Mesh) edges() func(yield func(int32, []half) bool) {
	return func(yield func(int32, []half) bool) {
		start := make([]int32, len(m.Vertices)+1)
		for _, f := range m.Facets {
			for k := range 3 {
				start[min(f[k], f[(k+1)%3])]++
			}
		}
		sum := int32(0)
		for v, n := range start {
			start[v] = sum
			sum += n
		}
		list := make([]half, sum)
		for i, f := range m.Facets {
			for k := range 3 {
				a, b := f[k], f[(k+1)%3]
				low := min(a, b)
				list[start[low]] = half{max(a, b), int32(3*i + k)}
				start[low]++
			}
		}
		from := int32(0)
		for low := range m.Vertices {
			group := list[from:start[low]]
			from = start[low]
			sortHalves(group)
			for len(group) > 0 {
				n := 1
				for n < len(group) && group[n].high == group[0].high {
					n++
				}
				if !yield(int32(low), group[:n]) {
					return
				}
				group = group[n:]
			}
		}
	}
}

// radial sorts half-edges counter-clockwise around their edge.
func (m *Mesh) radial(low int32, group []half) {
	p := m.Vertices[low]
	e := m.Vertices[group[0].high].Sub(p).Unit()
	var x, y Vec
	angle := make(map[int32]float64, len(group))
	for i, h := range group {
		d := m.Vertices[m.opposite(h.at)].Sub(p)
		d = d.Sub(e.Mul(d.Dot(e))).Unit()
		if i == 0 {
			x, y = d, e.Cross(d)
		}
		angle[h.at] = math.Atan2(d.Dot(y), d.Dot(x))
	}
	slices.SortFunc(group, func(a, b half) int {
		switch d := angle[a.at] - angle[b.at]; {
		case d != 0:
			return sign(d)
		case (m.corner(a.at) == low) != (m.corner(b.at) == low):
			if m.corner(a.at) == low { // one piece of the solid ends where the next begins
				return -1
			}
			return 1
		}
		return cmp.Compare(a.at, b.at)
	})
}

// fan gives each fan of facets around a vertex one of its own.
func (m *Mesh) fan(mates []int32) {
	lead := make([]int32, len(mates)) // of every corner
	for h := range lead {
		lead[h] = int32(h)
	}
	find := func(h int32) int32 {
		for lead[h] != h {
			lead[h] = lead[lead[h]]
			h = lead[h]
		}
		return h
	}
	for h, g := range mates {
		a, b := find(int32(h)), find(following(g))
		lead[max(a, b)] = min(a, b)
	}
	owner := make([]int32, len(m.Vertices)) // of a vertex: its first fan + 1
	vertex := make([]int32, len(mates))     // of a fan
	for h := range int32(len(mates)) {
		v := m.corner(h)
		if l := find(h); l != h {
			m.Facets[h/3][h%3] = vertex[l]
			continue
		}
		if owner[v] == 0 {
			owner[v] = h + 1
		} else {
			m.Vertices = append(m.Vertices, m.Vertices[v])
			v = int32(len(m.Vertices) - 1)
			m.Facets[h/3][h%3] = v
		}
		vertex[h] = v
	}
}

// part parts edges that still have more than two facets, each pair of mates
// at a middle of its own, as far as they are not of one facet.
func (m *Mesh) part(mates []int32) {
	touched := make([]bool, len(m.Facets))
	var halves []int32
	for _, group := range m.edges() {
		if len(group) > 2 {
			for _, h := range group[1:] {
				halves = append(halves, h.at)
			}
		}
	}
	for _, h := range halves {
		g := mates[h]
		if touched[h/3] || touched[g/3] {
			continue
		}
		touched[h/3], touched[g/3] = true, true
		a, b := m.corner(h), m.corner(g)
		middle := int32(len(m.Vertices))
		m.Vertices = append(m.Vertices, m.Vertices[a].Add(m.Vertices[b]).Mul(0.5))
		for _, e := range [2]int32{h, g} {
			f := m.Facets[e/3]
			f[e%3] = middle
			m.Facets = append(m.Facets, f)
			m.Facets[e/3][(e+1)%3] = middle
		}
	}
}
