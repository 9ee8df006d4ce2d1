package mesh

import "math"

// The predicates give the exact sign of a determinant of coordinates: first by
// floating point with a bound on its error, and where that does not decide, by
// expansions, unevaluated sums of non-overlapping numbers (Shewchuk, Adaptive
// precision floating-point arithmetic and fast robust geometric predicates,
// Discrete & Computational Geometry 18, 1997). They are exact for coordinates
// of 0 or between 1e-70 and 1e70 in size: no product of three over- or
// underflows.

const roundoff = 1.0 / (1 << 53)

// orient2d is positive if a, b, c turn counter-clockwise, negative if they turn
// clockwise, and 0 if they are on a line.
func orient2d(a, b, c [2]float64) int {
	left := (a[0] - c[0]) * (b[1] - c[1])
	right := (a[1] - c[1]) * (b[0] - c[0])
	det := left - right
	if bound := (3 + 16*roundoff) * roundoff * (math.Abs(left) + math.Abs(right)); det > bound || -det > bound {
		return sign(det)
	}
	if left == 0 && right == 0 {
		return 0 // a difference is 0 only if it is exactly 0
	}
	var ab, bc, ca [4]float64
	var abc [8]float64
	var all [12]float64
	s := expand(abc[:0], minor(&ab, a, b), minor(&bc, b, c))
	s = expand(all[:0], s, minor(&ca, c, a))
	return sign(last(s))
}

// orient3d is positive if d is on the side of the plane through a, b, c from
// which these turn counter-clockwise, negative on the other, and 0 on it.
func orient3d(a, b, c, d Vec) int {
	ad, bd, cd := a.Sub(d), b.Sub(d), c.Sub(d)
	bc1, bc2 := bd[0]*cd[1], cd[0]*bd[1]
	ca1, ca2 := cd[0]*ad[1], ad[0]*cd[1]
	ab1, ab2 := ad[0]*bd[1], bd[0]*ad[1]
	det := ad[2]*(bc1-bc2) + bd[2]*(ca1-ca2) + cd[2]*(ab1-ab2)
	permanent := (math.Abs(bc1)+math.Abs(bc2))*math.Abs(ad[2]) +
		(math.Abs(ca1)+math.Abs(ca2))*math.Abs(bd[2]) +
		(math.Abs(ab1)+math.Abs(ab2))*math.Abs(cd[2])
	if bound := (7 + 56*roundoff) * roundoff * permanent; det > bound || -det > bound {
		return -sign(det)
	}
	if permanent == 0 {
		return 0
	}
	return -orient3dExact(a, b, c, d)
}

// orient3dExact expands the 4×4 determinant of (x, y, z, 1) by its z column.
func orient3dExact(a, b, c, d Vec) int {
	xy := func(v Vec) [2]float64 { return [2]float64{v[0], v[1]} }
	var ab, bc, cd, da, ac, bd [4]float64
	eab, ebc := minor(&ab, xy(a), xy(b)), minor(&bc, xy(b), xy(c))
	ecd, eda := minor(&cd, xy(c), xy(d)), minor(&da, xy(d), xy(a))
	eac, ebd := minor(&ac, xy(a), xy(c)), minor(&bd, xy(b), xy(d))
	var t [8]float64
	var three [12]float64
	var scaled [4][24]float64
	term := func(i int, z float64, e, f, g []float64) []float64 {
		return scale(scaled[i][:0], expand(three[:0], expand(t[:0], e, f), g), z)
	}
	ta := term(0, a[2], ebc, ecd, negated(ebd))
	negated(ebd)
	tb := term(1, -b[2], ecd, eda, eac)
	tc := term(2, c[2], eda, eab, ebd)
	td := term(3, -d[2], eab, ebc, negated(eac))
	var p, q [48]float64
	var all [96]float64
	return sign(last(expand(all[:0], expand(p[:0], ta, tb), expand(q[:0], tc, td))))
}

// sign is -1, 0 or 1.
func sign(x float64) int {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

// last is an expansion's largest component, which has its sign.
func last(e []float64) float64 {
	if len(e) == 0 {
		return 0
	}
	return e[len(e)-1]
}

// negated negates e in place.
func negated(e []float64) []float64 {
	for i := range e {
		e[i] = -e[i]
	}
	return e
}

// minor is a.x·b.y - b.x·a.y as an expansion in h.
func minor(h *[4]float64, a, b [2]float64) []float64 {
	var e, f [2]float64
	return expand(h[:0], product(&e, a[0], b[1]), product(&f, -b[0], a[1]))
}

// product is a·b as an expansion in h.
func product(h *[2]float64, a, b float64) []float64 {
	p := a * b
	h[1] = p
	if h[0] = math.FMA(a, b, -p); h[0] == 0 {
		if p == 0 {
			return nil
		}
		return h[1:]
	}
	return h[:]
}

// twoSum is a+b as a rounded sum and its error (Knuth, TAOCP 2, 4.2.2).
func twoSum(a, b float64) (sum, tail float64) {
	sum = a + b
	v := sum - a
	return sum, (a - (sum - v)) + (b - v)
}

// expand appends the sum of two expansions to h, without zeros (Shewchuk's
// fast expansion sum). h has room for both and overlaps neither.
func expand(h, e, f []float64) []float64 {
	i, j := 0, 0
	next := func() float64 {
		if j == len(f) || (i < len(e) && math.Abs(e[i]) < math.Abs(f[j])) {
			i++
			return e[i-1]
		}
		j++
		return f[j-1]
	}
	if len(e)+len(f) == 0 {
		return h
	}
	q := next()
	for i < len(e) || j < len(f) {
		var tail float64
		if q, tail = twoSum(q, next()); tail != 0 {
			h = append(h, tail)
		}
	}
	if q != 0 {
		h = append(h, q)
	}
	return h
}

// scale appends e·b to h, without zeros (Shewchuk's scale expansion). h has
// room for twice e and does not overlap it.
func scale(h, e []float64, b float64) []float64 {
	if len(e) == 0 || b == 0 {
		return h
	}
	q := e[0] * b
	if tail := math.FMA(e[0], b, -q); tail != 0 {
		h = append(h, tail)
	}
	for _, x := range e[1:] {
		p := x * b
		low := math.FMA(x, b, -p)
		sum, tail := twoSum(q, low)
		if tail != 0 {
			h = append(h, tail)
		}
		if q, tail = twoSum(p, sum); tail != 0 {
			h = append(h, tail)
		}
	}
	if q != 0 {
		h = append(h, q)
	}
	return h
}
