package plan

import (
	"fmt"
	"math"
	"testing"

	"bulkhead"

	"pgregory.net/rapid"
)

// TestLostIsWhatDoesNotFit: whatever the usual sizes and the room that is left, what
// is lost is the weight of the sizes that do not fit, each looked at by itself.
func TestLostIsWhatDoesNotFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := machine("n1", 64, 256*gib)
		n.Capacity.Extras = map[string]float64{"gpu": 2}
		f := farmOf(bulkhead.Policy{}, n)
		few := rapid.IntRange(0, 4)
		for i := range rapid.IntRange(0, 12).Draw(t, "stamps") {
			s := customer(bulkhead.StampName(fmt.Sprint("s", i)), float64(few.Draw(t, "cores")), int64(few.Draw(t, "memory"))*gib)
			if rapid.IntRange(0, 3).Draw(t, "extra") == 0 {
				s.Terms.Extras = map[string]float64{"gpu": float64(rapid.IntRange(1, 2).Draw(t, "gpus"))}
			}
			settle(f, s, "n1")
			f.learn()
		}
		p := f.nodes[0]
		free := amounts{cpu: int64(few.Draw(t, "free cores")) * unit, memory: int64(few.Draw(t, "free memory")) * gib, disk: gib, pids: int64(8 * few.Draw(t, "free pids"))}
		want := 0.0
		for _, u := range f.sizes.usual {
			if fits := (&place{free: free, units: p.units}).fits(&u.request); !fits {
				want += u.weight
			}
		}
		if got := f.sizes.lost(&free, p); math.Abs(got-want) > 1e-9 {
			t.Fatalf("with %v free %v is lost, not %v, of %+v", free, got, want, f.sizes.usual)
		}
	})
}
