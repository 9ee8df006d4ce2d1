package mesh

import (
	"math"
	"math/big"
)

// blur bounds how far off the coordinates of a computed point are, in units of
// the grid: they are below 2³² and rounded to a relative 2⁻⁵².
const blur = 1.0 / (1 << 20)

// spot is a point of an arrangement on its grid. A computed one is not on the
// grid: its place is exact in homogeneous coordinates, and at is rounded.
type spot struct {
	at    Vec
	exact *homogeneous // nil: at is exact, and integer
}

// homogeneous is the point (x/w, y/w, z/w), w > 0.
type homogeneous [4]big.Int

// full gives exact coordinates.
func (p *spot) full() *homogeneous {
	if p.exact != nil {
		return p.exact
	}
	var h homogeneous
	for k, x := range p.at {
		h[k].SetInt64(int64(x))
	}
	h[3].SetInt64(1)
	return &h
}

// newSpot takes over h, whose w may be negative but not 0.
func newSpot(h *homogeneous) spot {
	if h[3].Sign() < 0 {
		for k := range h {
			h[k].Neg(&h[k])
		}
	}
	p := spot{exact: h}
	var x, w, q big.Float
	w.SetPrec(64).SetInt(&h[3])
	for k := range p.at {
		p.at[k], _ = q.SetPrec(64).Quo(x.SetPrec(64).SetInt(&h[k]), &w).Float64()
	}
	return p
}

// same tells whether two points are at one place.
func (p *spot) same(q *spot) bool {
	if p.exact == nil && q.exact == nil {
		return p.at == q.at
	}
	for k := range p.at {
		if d := p.at[k] - q.at[k]; d > 2*blur || d < -2*blur {
			return false
		}
	}
	g, h := p.full(), q.full()
	var a, b big.Int
	for k := range p.at {
		if a.Mul(&g[k], &h[3]).Cmp(b.Mul(&h[k], &g[3])) != 0 {
			return false
		}
	}
	return true
}

// amid is the mean of three points with weights above 0.
func amid(p [3]*spot, weights [3]int64) spot {
	h := &homogeneous{}
	h[3].SetInt64(weights[0] + weights[1] + weights[2])
	var x, y big.Int
	for i := range 3 {
		a, b, c := p[i].full(), p[(i+1)%3].full(), p[(i+2)%3].full()
		x.Mul(x.SetInt64(weights[i]), y.Mul(&b[3], &c[3]))
		for k := range 3 {
			h[k].Add(&h[k], y.Mul(&x, &a[k]))
		}
		h[3].Mul(&h[3], &a[3])
	}
	return newSpot(h)
}

// turn is orient2d along an axis, exact.
func turn(p, q, r *spot, axis int) int {
	a, b, c := flat(p.at, axis), flat(q.at, axis), flat(r.at, axis)
	if p.exact == nil && q.exact == nil && r.exact == nil {
		return orient2d(a, b, c)
	}
	ux, uy := a[0]-c[0], a[1]-c[1]
	vx, vy := b[0]-c[0], b[1]-c[1]
	left, right := ux*vy, uy*vx
	bound := 4*blur*(math.Abs(ux)+math.Abs(uy)+math.Abs(vx)+math.Abs(vy)) + 8*roundoff*(math.Abs(left)+math.Abs(right)) + 32*blur*blur
	if det := left - right; det > bound || -det > bound {
		return sign(det)
	}
	return turnExact(p, q, r, axis)
}

// turnExact is turn for points near a line.
func turnExact(p, q, r *spot, axis int) int {
	a, b, c := p.full(), q.full(), r.full()
	x, y := (axis+1)%3, (axis+2)%3
	var det, s, t, u big.Int
	term := func(a, b, c *homogeneous) { // c.w·(a × b)
		s.Sub(t.Mul(&a[x], &b[y]), u.Mul(&a[y], &b[x]))
		det.Add(&det, t.Mul(&s, &c[3]))
	}
	term(a, b, c)
	term(b, c, a)
	term(c, a, b)
	return det.Sign()
}

// plane is n·p = d, in units of the grid.
type plane struct {
	n [3]big.Int
	d big.Int
}

// newPlane goes through three points of the grid; n is on the side from which
// they turn counter-clockwise.
func newPlane(a, b, c Vec) *plane {
	var u, v [3]big.Int
	for k := range 3 {
		u[k].SetInt64(int64(b[k]) - int64(a[k]))
		v[k].SetInt64(int64(c[k]) - int64(a[k]))
	}
	p := &plane{}
	cross(&p.n, &u, &v)
	var x, y big.Int
	for k := range 3 {
		p.d.Add(&p.d, x.Mul(&p.n[k], y.SetInt64(int64(a[k]))))
	}
	return p
}

// upright goes through a and b, along an axis.
func upright(a, b Vec, axis int) *plane {
	c := a
	c[axis]++
	return newPlane(a, b, c)
}

func cross(r, u, v *[3]big.Int) {
	var a, b big.Int
	for k := range 3 {
		i, j := (k+1)%3, (k+2)%3
		r[k].Sub(a.Mul(&u[i], &v[j]), b.Mul(&u[j], &v[i]))
	}
}

// height is n·p - d for a point of the grid.
func (p *plane) height(v Vec) *big.Int {
	var x, y big.Int
	h := new(big.Int).Neg(&p.d)
	for k := range 3 {
		h.Add(h, x.Mul(&p.n[k], y.SetInt64(int64(v[k]))))
	}
	return h
}

// pass is the point where the line through a and b passes the plane:
// (b·hᵃ - a·hᵇ)/(hᵃ - hᵇ) for their heights.
func (p *plane) pass(a, b Vec) (spot, bool) {
	ha, hb := p.height(a), p.height(b)
	h := &homogeneous{}
	h[3].Sub(ha, hb)
	if h[3].Sign() == 0 {
		return spot{}, false
	}
	var x, y big.Int
	for k := range 3 {
		x.Mul(ha, y.SetInt64(int64(b[k])))
		h[k].Sub(&x, y.Mul(hb, y.SetInt64(int64(a[k]))))
	}
	return newSpot(h), true
}

// meet is the point that three planes share, by Cramer's rule.
func meet(p, q, r *plane) (spot, bool) {
	var qr, rp, pq [3]big.Int
	cross(&qr, &q.n, &r.n)
	cross(&rp, &r.n, &p.n)
	cross(&pq, &p.n, &q.n)
	h := &homogeneous{}
	var x big.Int
	for k := range 3 {
		h[3].Add(&h[3], x.Mul(&p.n[k], &qr[k]))
		h[k].Add(&h[k], x.Mul(&p.d, &qr[k]))
		h[k].Add(&h[k], x.Mul(&q.d, &rp[k]))
		h[k].Add(&h[k], x.Mul(&r.d, &pq[k]))
	}
	if h[3].Sign() == 0 {
		return spot{}, false
	}
	return newSpot(h), true
}
