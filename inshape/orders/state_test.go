package orders

import (
	"testing"

	"pgregory.net/rapid"
)

func TestLineStates(t *testing.T) {
	type step struct {
		kind     Kind
		quantity int
		want     State
		refusal  string
	}
	for name, steps := range map[string][]step{
		"a life": {
			{Start, 0, InProduction, ""},
			{Make, 2, InProduction, ""},
			{Make, 1, Made, ""},
			{Ship, 3, Shipped, ""},
			{Deliver, 2, Shipped, ""},
			{Deliver, 1, Delivered, ""},
		},
		"too many": {
			{Make, 4, Waiting, "4 are more than the 3 to be made"},
			{Ship, 1, Waiting, "1 is more than the 0 made and not yet shipped"},
			{Make, 3, Made, ""},
			{Deliver, 1, Made, "1 is more than the 0 under way"},
			{Make, 1, Made, "1 is more than the 0 to be made"},
		},
		"failures are made again": {
			{Scrap, 3, InProduction, ""},
			{Scrap, 3, InProduction, ""},
			{Scrap, 4, InProduction, "4 are more than the 3 to be made"},
			{Make, 3, Made, ""},
			{Scrap, 1, Made, "1 is more than the 0 to be made"},
		},
		"cancelled stays so":         {{Cancel, 0, Cancelled, ""}, {Make, 1, Cancelled, "the line is cancelled"}},
		"what left cannot be undone": {{Make, 1, InProduction, ""}, {Ship, 1, InProduction, ""}, {Cancel, 0, InProduction, "pieces of it have been shipped"}},
		"nonsense":                   {{"eaten", 1, Waiting, "there is no such event"}, {Make, 0, Waiting, "a quantity of at least 1 is needed"}, {Make, -1, Waiting, "a quantity of at least 1 is needed"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := Progress{Quantity: 3}
			for i, s := range steps {
				next, refusal := p.Apply(s.kind, s.quantity)
				if refusal != s.refusal || next.State() != s.want {
					t.Fatalf("step %d, %s %d: %s, %q; want %s, %q", i, s.kind, s.quantity, next.State(), refusal, s.want, s.refusal)
				}
				if refusal != "" && next != p {
					t.Fatalf("step %d was refused and changed the line: %+v", i, next)
				}
				p = next
			}
		})
	}
}

func TestOrderStateFollowsItsLines(t *testing.T) {
	line := func(made, shipped, delivered int) Progress {
		return Progress{Quantity: 2, Made: made, Shipped: shipped, Delivered: delivered}
	}
	gone := Progress{Quantity: 2, Cancelled: true}
	for _, c := range []struct {
		stage State
		lines []Progress
		want  State
	}{
		{Placed, []Progress{line(2, 2, 2)}, Placed},
		{Confirmed, []Progress{line(0, 0, 0)}, Confirmed},
		{Confirmed, []Progress{line(0, 0, 0), line(2, 0, 0)}, InProduction},
		{Confirmed, []Progress{line(2, 0, 0), line(2, 2, 0)}, Made},
		{Confirmed, []Progress{line(2, 2, 0), line(2, 2, 2)}, Shipped},
		{Confirmed, []Progress{line(2, 2, 2), gone}, Delivered},
		{Confirmed, []Progress{gone, gone}, Cancelled},
		{Placed, []Progress{gone, gone}, Cancelled},
		{Placed, []Progress{gone, line(0, 0, 0)}, Placed},
		{Cancelled, []Progress{line(1, 0, 0)}, Cancelled},
	} {
		if got := OrderState(c.stage, c.lines); got != c.want {
			t.Errorf("%s with %+v is %s, want %s", c.stage, c.lines, got, c.want)
		}
	}
}

// Whatever happens, counters never overtake each other, and a state that was
// reached is never left for an earlier one.
func TestLineNeverGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Progress{Quantity: rapid.IntRange(1, 20).Draw(t, "quantity")}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			kind := rapid.SampledFrom([]Kind{Start, Make, Scrap, Ship, Deliver}).Draw(t, "kind")
			next, refusal := p.Apply(kind, rapid.IntRange(-1, 21).Draw(t, "n"))
			if refusal != "" {
				continue
			}
			if next.Delivered > next.Shipped || next.Shipped > next.Made || next.Made > next.Quantity {
				t.Fatalf("%+v", next)
			}
			if before, after := rank(p.State()), rank(next.State()); after < before {
				t.Fatalf("%s became %s", p.State(), next.State())
			}
			p = next
		}
	})
}

func rank(s State) int {
	for i, r := range lineRank {
		if r == s {
			return i
		}
	}
	return -1
}
