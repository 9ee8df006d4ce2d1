package mesh

import (
	"math/rand/v2"
	"testing"
)

// TestTurn compares the filter with exact arithmetic on points where planes
// meet, of which the third is on the line of the others or a hair beside it.
func TestTurn(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	corner := func() Vec {
		return Vec{float64(r.Int64N(1<<31) - 1<<30), float64(r.Int64N(1<<31) - 1<<30), float64(r.Int64N(1<<31) - 1<<30)}
	}
	signs := map[int]int{}
	for range 3000 {
		wall := newPlane(corner(), corner(), corner())
		a, b := corner(), corner()
		p, okP := wall.pass(a, b)
		q, okQ := meet(wall, newPlane(corner(), corner(), corner()), newPlane(corner(), corner(), corner()))
		if !okP || !okQ {
			t.Fatal("parallel by chance")
		}
		// Nearly a mean of p, and q twice over: w is exact where it is in between.
		w := amid([3]*spot{&p, &q, &q}, [3]int64{1 + r.Int64N(9), 1 + r.Int64N(9), 1 + r.Int64N(9)})
		if n := r.IntN(3); n > 0 {
			w = amid([3]*spot{&w, &w, {at: corner()}}, [3]int64{1 << 50, 1 << 50, int64(n - 1)})
			w = amid([3]*spot{&w, &w, {at: corner()}}, [3]int64{1 << 61, 1 << 60, int64(r.IntN(1 << 10))})
		}
		for axis := range 3 {
			got, want := turn(&p, &q, &w, axis), turnExact(&p, &q, &w, axis)
			if got != want {
				t.Fatalf("turn of %v, %v, %v along %d is %d, not %d", p.at, q.at, w.at, axis, got, want)
			}
			signs[want]++
		}
	}
	if len(signs) != 3 {
		t.Errorf("too easy: %v", signs)
	}
}

// TestSpots meets the same point on different ways.
func TestSpots(t *testing.T) {
	a, b, c := newPlane(Vec{0, 0, 5}, Vec{7, 0, 5}, Vec{0, 3, 5}), newPlane(Vec{3, 0, 0}, Vec{3, 7, 0}, Vec{3, 0, 2}), newPlane(Vec{0, 0, 0}, Vec{3, 1, 5}, Vec{6, 2, 9})
	three, ok := meet(a, b, c)
	if !ok || three.at != (Vec{3, 1, 5}) {
		t.Fatalf("three planes meet at %v", three.at)
	}
	line, ok := c.pass(Vec{3, 0, 5}, Vec{3, 3, 5})
	if !ok || !line.same(&three) || !(&spot{at: Vec{3, 1, 5}}).same(&line) || line.same(&spot{at: Vec{3, 1, 4}}) {
		t.Errorf("a line passes at %v", line.at)
	}
	if _, ok := a.pass(Vec{0, 0, 1}, Vec{1, 0, 1}); ok {
		t.Error("a line beside a plane passes it")
	}
	if _, ok := meet(a, a, c); ok {
		t.Error("two planes meet in a point")
	}
}
