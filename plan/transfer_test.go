package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// reachable is a machine whose gateway others reach.
func reachable(name bulkhead.NodeName, cores float64, memory int64) bulkhead.Node {
	n := machine(name, cores, memory)
	n.Gateway, n.UID = string(name)+":7443", "uid-"+string(name)
	return n
}

// TestTransfer: every step of a move, and what ends it, is decided by what is known.
func TestTransfer(t *testing.T) {
	type world struct {
		stamp   *bulkhead.Stamp
		status  *bulkhead.StampStatus
		arrival *bulkhead.Arrival
		n1, n2  bulkhead.Node
		gone    bulkhead.NodeName
		now     time.Time
	}
	in := func(phase bulkhead.TransferPhase, more ...func(*world)) []func(*world) {
		return append([]func(*world){func(w *world) {
			w.stamp.Transfer.Phase = phase
			if phase == bulkhead.TransferStarting {
				w.stamp.Node = "n2"
			}
		}}, more...)
	}
	arrived := func(state bulkhead.ArrivalState, message string) func(*world) {
		return func(w *world) {
			w.arrival = &bulkhead.Arrival{Name: "acme", Move: "m1", Node: "n2", State: state, Message: message}
		}
	}
	after := func(d time.Duration) func(*world) { return func(w *world) { w.now = noon.Add(d) } }
	status := func(phase bulkhead.Phase, epoch int64) func(*world) {
		return func(w *world) {
			w.status = &bulkhead.StampStatus{Name: "acme", UID: "acme", Node: "n2", Epoch: epoch, Generation: 1, Phase: phase, Message: "why"}
		}
	}
	copying, switching, starting := bulkhead.TransferCopying, bulkhead.TransferSwitching, bulkhead.TransferStarting
	tests := map[string]struct {
		world []func(*world)
		want  string
	}{
		"planned":                    {in(bulkhead.TransferPlanned), "copying at n2: best fit of 1 node"},
		"planned, to nowhere chosen": {in(bulkhead.TransferPlanned, func(w *world) { w.stamp.Transfer.To = "" }), "copying at n2: best fit of 1 node"},
		"planned, no room":           {in(bulkhead.TransferPlanned, func(w *world) { w.n2.Capacity.Memory = gib }), "given up: no node has 2 GiB free"},
		"copying, nothing heard":     {in(copying), "nothing until 1m0s"},
		"copying, nothing for long":  {in(copying, after(61*time.Second)), "given up: node n2 has not begun to copy within 1m0s"},
		"copying":                    {in(copying, arrived(bulkhead.ArrivalCopying, ""), after(time.Hour)), "nothing"},
		"ready":                      {in(copying, arrived(bulkhead.ArrivalReady, "")), "switching: what is left to copy takes a moment"},
		"ready, of another move": {
			in(copying, arrived(bulkhead.ArrivalReady, ""), func(w *world) { w.arrival.Move = "m0" }),
			"nothing until 1m0s",
		},
		"ready, and silent":           {in(copying, arrived(bulkhead.ArrivalReady, ""), func(w *world) { w.n2.State = bulkhead.NodeUnreachable }), "nothing"},
		"ready, and the other silent": {in(copying, arrived(bulkhead.ArrivalReady, ""), func(w *world) { w.n1.State = bulkhead.NodeUnreachable }), "nothing"},
		"cannot":                      {in(copying, arrived(bulkhead.ArrivalFailed, "the disk is full")), "given up: the disk is full"},
		"cannot, and says nothing":    {in(switching, arrived(bulkhead.ArrivalFailed, "")), "given up: node n2 cannot take it"},
		"target lost":                 {in(copying, func(w *world) { w.n2.State = bulkhead.NodeLost }), "given up: node n2 is lost"},
		"target removed":              {in(copying, func(w *world) { w.gone = "n2" }), "given up: node n2 was removed"},
		"target cordoned":             {in(copying, func(w *world) { w.n2.Cordoned = true }), "given up: node n2 is cordoned"},
		"target drained":              {in(switching, func(w *world) { w.n2.Draining = true }), "given up: node n2 is being drained"},
		"source lost":                 {in(switching, func(w *world) { w.n1.State = bulkhead.NodeLost }), "given up: node n1 is lost"},
		"source removed":              {in(copying, func(w *world) { w.gone = "n1" }), "given up: node n1 was removed"},
		"deleted":                     {in(switching, func(w *world) { w.stamp.Desired = bulkhead.DesiredDeleted }), "given up: the stamp was deleted"},
		"preempted":                   {in(copying, func(w *world) { w.stamp.Preempted = "gone for gold" }), "given up: gone for gold"},
		"elsewhere":                   {in(copying, func(w *world) { w.stamp.Node = "" }), "given up: the stamp is not on n1 any more"},
		"switching":                   {in(switching), "nothing until 45s"},
		"switching, still ready":      {in(switching, arrived(bulkhead.ArrivalReady, "")), "nothing until 45s"},
		"switching for long":          {in(switching, after(46*time.Second)), "given up: it could not be stopped and copied within 45s"},
		"complete":                    {in(switching, arrived(bulkhead.ArrivalComplete, "")), "starting: its data is there"},
		"complete, just too late": {
			in(switching, arrived(bulkhead.ArrivalComplete, ""), after(time.Hour)),
			"starting: its data is there",
		},
		"complete, and silent": {
			in(switching, arrived(bulkhead.ArrivalComplete, ""), func(w *world) { w.n2.State = bulkhead.NodeUnreachable }),
			"given up: node n2 does not answer",
		},
		"starting":                 {in(starting), "nothing until 5m0s"},
		"starting, says the other": {in(starting, status(bulkhead.PhaseRunning, 0)), "nothing until 5m0s"},
		"up":                       {in(starting, status(bulkhead.PhaseRunning, 3)), "end: it is up"},
		"stopped":                  {in(starting, status(bulkhead.PhaseStopped, 3)), "end: it is there, stopped"},
		"failed":                   {in(starting, status(bulkhead.PhaseFailed, 3)), "end: it is there and has failed: why"},
		"never up":                 {in(starting, after(6*time.Minute)), "end: it is there and not up after 5m0s"},
		"deleted there":            {in(starting, func(w *world) { w.stamp.Desired = bulkhead.DesiredDeleted }), "end: it is not to run there any more"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := &world{stamp: customer("acme", 1, 2*gib), n1: reachable("n1", 4, 8*gib), n2: reachable("n2", 4, 8*gib), now: noon}
			w.stamp.Node, w.stamp.Epoch = "n1", 3
			w.stamp.Transfer = &bulkhead.Transfer{ID: "m1", From: "n1", To: "n2", Began: noon, Switched: noon}
			for _, change := range test.world {
				change(w)
			}
			f := farmOf(bulkhead.Policy{}, w.n1, w.n2)
			f.SetStamp(w.stamp, false)
			f.RemoveNode(w.gone)
			st := Transfer(w.stamp, w.status, w.arrival, f, w.now)
			got := "nothing"
			switch {
			case st.GiveUp:
				got = "given up: " + st.Reason
			case st.End:
				got = "end: " + st.Reason
			case st.To != "":
				got = fmt.Sprintf("%s at %s: %s", st.Phase, st.To, st.Reason)
			case st.Phase != "":
				got = fmt.Sprintf("%s: %s", st.Phase, st.Reason)
			case !st.Wake.IsZero():
				got = "nothing until " + st.Wake.Sub(noon).String()
			}
			if !strings.HasPrefix(got, test.want) || test.want == "nothing" && got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// TestTarget: a move finds its place as a stamp without one would, but not where the
// stamp is, and not kept away by itself; asking changes nothing.
func TestTarget(t *testing.T) {
	cordoned, drained, silent, mute := reachable("n4", 8, 16*gib), reachable("n5", 8, 16*gib), reachable("n6", 8, 16*gib), reachable("n7", 8, 16*gib)
	cordoned.Cordoned, drained.Draining, silent.State, mute.Gateway = true, true, bulkhead.NodeUnreachable, ""
	f := farmOf(bulkhead.Policy{}, reachable("n1", 4, 8*gib), reachable("n2", 4, 8*gib), reachable("n3", 4, 3*gib), cordoned, drained, silent, mute)
	s := customer("acme", 1, 4*gib)
	s.Terms.Apart = []bulkhead.Apart{{Key: "steel", Scope: bulkhead.ScopeRegion}} // all nodes are in one
	settle(f, s, "n1")
	before := fmt.Sprint(f.nodes[f.byName["n1"]].free, f.apart, f.count, f.Loosened())
	for to, want := range map[bulkhead.NodeName]string{
		"n1": "stamp acme is on n1 already", "n2": "", "n3": "no node has 4 GiB free with node.hostname==n3",
		"n4": "node n4 is cordoned: it takes no stamps", "n5": "node n5 is being drained: it takes no stamps", "n6": "node n6 is unreachable",
		"n7": "other nodes do not reach n7: it advertises no address", "n8": "node n8 does not exist",
	} {
		d, err := f.Target(s, to)
		switch {
		case want == "" && (err != nil || d.Node != to):
			t.Errorf("to %s: %s, %v", to, d.Node, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("to %s: %v, want %s", to, err, want)
		}
	}
	if d, err := f.Target(s, ""); err != nil || d.Node == "n1" {
		t.Errorf("to the best: %q, %v", d.Node, err)
	}
	if now := fmt.Sprint(f.nodes[f.byName["n1"]].free, f.apart, f.count, f.Loosened()); now != before {
		t.Errorf("asking has changed the farm:\n%s\n%s", before, now)
	}
	alone := farmOf(bulkhead.Policy{}, machine("n1", 4, 8*gib))
	settle(alone, s, "n1")
	if _, err := alone.Target(s, ""); err == nil || err.Error() != "n1 is the only node of the farm: there is nowhere to move to" {
		t.Errorf("in a farm of one: %v", err)
	}
}

// TestFarm_CountsWhatMovesTwice: while a stamp moves it has its room on both nodes, and
// its shares of their extras; when the move ends it has it on one.
func TestFarm_CountsWhatMovesTwice(t *testing.T) {
	n1, n2 := reachable("n1", 4, 8*gib), reachable("n2", 4, 8*gib)
	n1.Capacity.Extras, n2.Capacity.Extras = map[string]float64{"gpu": 1}, map[string]float64{"gpu": 1}
	f := farmOf(bulkhead.Policy{}, n1, n2)
	s := customer("acme", 1, 6*gib)
	s.Terms.Extras = map[string]float64{"gpu": 1}
	s.Terms.Apart = []bulkhead.Apart{{Key: "steel"}}
	placed(t, f, s)
	empty := fmt.Sprint(f.nodes[0].free, f.nodes[1].free, f.nodes[0].units, f.nodes[1].units, f.apart)
	d, err := f.Target(s, "")
	if err != nil {
		t.Fatal(err)
	}
	moving := *s
	moving.Transfer = &bulkhead.Transfer{ID: "m1", From: s.Node, To: d.Node, Units: d.Units, Phase: bulkhead.TransferCopying}
	f.SetStamp(&moving, false)
	other := customer("bolt", 1, 4*gib)
	if _, err := f.Place(other); err == nil {
		t.Error("the room that a move has reserved is given to another")
	}
	other = customer("bolt", 1, gib)
	other.Terms.Extras = map[string]float64{"gpu": 1}
	if _, err := f.Place(other); err == nil {
		t.Error("the extras that a move has reserved are given to another")
	}
	other = customer("bolt", 1, gib)
	other.Terms.Apart = []bulkhead.Apart{{Key: "steel"}}
	if _, err := f.Place(other); err == nil {
		t.Error("one to keep apart from it is placed where it goes")
	}
	if on := f.On(d.Node); len(on) != 1 || on[0] != "acme" {
		t.Errorf("on the target: %v", on)
	}
	f.SetNode(func() bulkhead.Node { n := n2; n.Labels = map[string]string{"a": "b"}; return n }()) // is counted anew
	f.SetStamp(s, false)
	if now := fmt.Sprint(f.nodes[0].free, f.nodes[1].free, f.nodes[0].units, f.nodes[1].units, f.apart); now != empty {
		t.Errorf("after a move that was given up:\n%s\n%s", empty, now)
	}
	there := *s
	there.Node, there.Units = d.Node, d.Units
	f.SetStamp(&moving, false)
	f.SetStamp(&there, false)
	f.SetStamp(s, false)
	if now := fmt.Sprint(f.nodes[0].free, f.nodes[1].free, f.nodes[0].units, f.nodes[1].units, f.apart); now != empty {
		t.Errorf("after it went there and back:\n%s\n%s", empty, now)
	}
}

// TestDepartures: a node is drained one stamp at a time, the farm within the policy's
// number of moves, what has no place is passed over, and what could not go is asked again
// later.
func TestDepartures(t *testing.T) {
	policy := bulkhead.Policy{Moves: 2}
	f := farmOf(policy)
	for i := range 4 {
		n := reachable(bulkhead.NodeName(fmt.Sprintf("n%d", i+1)), 16, 64*gib)
		n.Draining = i < 3
		f.SetNode(n)
	}
	stamps := map[bulkhead.StampName]*bulkhead.Stamp{}
	for i := range 3 {
		for j := range 3 {
			s := customer(bulkhead.StampName(fmt.Sprintf("s%d%d", i+1, j)), 1, gib)
			if j == 0 {
				s.Volumes = []bulkhead.Volume{{Name: "data"}} // takes longest
			}
			if j == 1 {
				s.Terms.Region = "nowhere" // has no other place
			}
			settle(f, s, bulkhead.NodeName(fmt.Sprintf("n%d", i+1)))
			stamps[s.Name] = s
		}
	}
	names := func(next []Departure) string {
		var out []string
		for _, d := range next {
			out = append(out, string(d.Stamp.Name)+">"+string(d.To))
		}
		return strings.Join(out, " ")
	}
	next, wake := f.Departures(noon)
	if got := names(next); got != "s12>n4 s22>n4" || !wake.IsZero() {
		t.Errorf("first: %s, wake %v", got, wake)
	}
	if next, _ := f.Departures(noon); len(next) != 0 {
		t.Errorf("while they are under way: %s", names(next))
	}
	for _, name := range []bulkhead.StampName{"s12", "s22"} { // one gets there, one is given up
		s := *stamps[name]
		if s.Transferred = (&bulkhead.Transferred{From: s.Node, To: "n4", Ended: noon, GivenUp: "why"}); name == "s12" {
			s.Node, s.Transferred.GivenUp = "n4", ""
		}
		f.SetStamp(&s, false)
	}
	next, wake = f.Departures(noon.Add(time.Second))
	if got := names(next); got != "s10>n4 s20>n4" || !wake.Equal(noon.Add(moveAgain)) {
		t.Errorf("second: %s, wake %v", got, wake)
	}
	still := farmOf(policy, reachable("n1", 16, 64*gib), reachable("n2", 16, 64*gib))
	settle(still, customer("acme", 1, gib), "n1")
	if next, _ := still.Departures(noon); len(next) != 0 {
		t.Errorf("where nothing is drained: %s", names(next))
	}
}

// TestFarm_TransfersInAnyOrder: however stamps come, move, arrive, are given up and go,
// and nodes with them, the farm counts as one that was told only of how it is in the
// end.
func TestFarm_TransfersInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := []bulkhead.NodeName{"n1", "n2", "n3"}
		node := func(what string) bulkhead.NodeName { return rapid.SampledFrom(nodes).Draw(t, what) }
		draw := func(name bulkhead.NodeName) bulkhead.Node {
			n := reachable(name, 64, 256*gib)
			n.Zone = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone")
			n.Draining = rapid.Bool().Draw(t, "draining")
			n.Capacity.Extras = map[string]float64{"gpu": 8}
			return n
		}
		f := NewFarm(bulkhead.Policy{})
		here, stamps := map[bulkhead.NodeName]bulkhead.Node{}, map[bulkhead.StampName]*bulkhead.Stamp{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := bulkhead.StampName(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "stamp"))
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				n := draw(node("node"))
				here[n.Name] = n
				f.SetNode(n)
			case 1:
				n := node("gone")
				delete(here, n)
				f.RemoveNode(n)
			case 2:
				delete(stamps, name)
				f.RemoveStamp(name)
			default:
				s := customer(name, float64(rapid.IntRange(1, 3).Draw(t, "cores")), gib)
				s.Node = node("at")
				s.Terms.Apart = []bulkhead.Apart{{Key: "steel", Scope: bulkhead.ScopeZone}}
				s.Terms.Extras = map[string]float64{"gpu": 1}
				// A unit for each stamp, so that it does not matter who is told of first.
				unit := int(name[0]-'a') * 2
				s.Units = map[string][]bulkhead.UnitShare{"gpu": {{Unit: unit, Milli: 1000}}}
				if rapid.Bool().Draw(t, "moves") {
					s.Transfer = &bulkhead.Transfer{
						From: s.Node, To: node("to"), Units: map[string][]bulkhead.UnitShare{"gpu": {{Unit: unit + 1, Milli: 1000}}},
						Phase: rapid.SampledFrom([]bulkhead.TransferPhase{bulkhead.TransferPlanned, bulkhead.TransferCopying, bulkhead.TransferSwitching}).Draw(t, "phase"),
					}
				}
				stamps[name] = s
				f.SetStamp(s, false)
			}
		}
		g := NewFarm(bulkhead.Policy{})
		for _, n := range here {
			g.SetNode(n)
		}
		for _, s := range stamps {
			g.SetStamp(s, false)
		}
		if a, b := counted(f), counted(g); a != b {
			t.Fatalf("the farm counts\n%s\none that was told of the end only counts\n%s", a, b)
		}
	})
}

// counted is what a farm has counted that decides over places.
func counted(f *Farm) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f.byName)) {
		p := f.nodes[f.byName[name]]
		fmt.Fprintln(&b, name, p.free, p.units, p.load, *p.zone(), len(f.onNode[name]), f.draining[name])
	}
	apart := map[string]int{}
	for key, in := range f.apart {
		for d, n := range in {
			apart[fmt.Sprint(key, d.name)] += n
		}
	}
	fmt.Fprintln(&b, apart, f.count, f.total, len(f.draining))
	return b.String()
}
