package mesh

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

// determinant is the exact sign of the matrix' determinant.
func determinant(rows [][]float64) int {
	n := len(rows)
	m := make([][]*big.Rat, n)
	for i, row := range rows {
		for _, x := range row {
			m[i] = append(m[i], new(big.Rat).SetFloat64(x))
		}
	}
	result := 1
	for k := range n {
		p := k
		for p < n && m[p][k].Sign() == 0 {
			p++
		}
		if p == n {
			return 0
		}
		if p != k {
			m[p], m[k] = m[k], m[p]
			result = -result
		}
		result *= m[k][k].Sign()
		for i := k + 1; i < n; i++ {
			f := new(big.Rat).Quo(m[i][k], m[k][k])
			for j := k; j < n; j++ {
				m[i][j].Sub(m[i][j], new(big.Rat).Mul(f, m[k][j]))
			}
		}
	}
	return result
}

// TestPredicates compares with rational arithmetic, mostly on points that are
// on a line or in a plane but for rounding.
func TestPredicates(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	number := func() float64 {
		switch r.IntN(4) {
		case 0:
			return float64(r.IntN(7) - 3)
		case 1:
			return 1e6 * (r.Float64() - 0.5)
		case 2:
			return 1e-9 * r.Float64()
		}
		return float64(float32(r.Float64()))
	}
	zeros, signs := 0, map[int]int{}
	for range 20000 {
		var p [4]Vec
		for i := range p {
			p[i] = Vec{number(), number(), number()}
		}
		switch s, u := r.Float64(), r.Float64(); r.IntN(3) {
		case 0: // in the plane, but for rounding
			p[3] = p[0].Add(p[1].Sub(p[0]).Mul(s)).Add(p[2].Sub(p[0]).Mul(u))
		case 1:
			p[3] = p[0].Add(p[1]).Sub(p[2])
		}
		want := determinant([][]float64{
			{p[0][0], p[0][1], p[0][2], 1},
			{p[1][0], p[1][1], p[1][2], 1},
			{p[2][0], p[2][1], p[2][2], 1},
			{p[3][0], p[3][1], p[3][2], 1},
		})
		if got := orient3d(p[0], p[1], p[2], p[3]); got != -want {
			t.Fatalf("orient3d(%v) is %d, not %d", p, got, -want)
		}
		if want == 0 {
			zeros++
		}
		q := [3][2]float64{{p[0][0], p[0][1]}, {p[1][0], p[1][1]}, {p[2][0], p[2][1]}}
		if s := r.Float64(); r.IntN(2) == 0 {
			q[2] = [2]float64{q[0][0] + s*(q[1][0]-q[0][0]), q[0][1] + s*(q[1][1]-q[0][1])}
		}
		want = determinant([][]float64{{q[0][0], q[0][1], 1}, {q[1][0], q[1][1], 1}, {q[2][0], q[2][1], 1}})
		if got := orient2d(q[0], q[1], q[2]); got != want {
			t.Fatalf("orient2d(%v) is %d, not %d", q, got, want)
		}
		signs[want]++
	}
	if zeros == 0 || len(signs) != 3 {
		t.Errorf("too easy: %d coplanar, %v", zeros, signs)
	}
	if orient3d(Vec{}, Vec{1, 0, 0}, Vec{0, 1, 0}, Vec{0, 0, 1}) != 1 {
		t.Error("the point above is not above")
	}
}
