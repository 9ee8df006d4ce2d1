package plan

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead"

	"pgregory.net/rapid"
)

const gib = 1 << 30

func machine(name bulkhead.NodeName, cores float64, memory int64) bulkhead.Node {
	return bulkhead.Node{
		Name: name, State: bulkhead.NodeReady, Platform: "linux/amd64",
		Capacity: bulkhead.Resources{CPU: cores, Memory: memory, Disk: 100 * gib, PIDs: 10_000},
	}
}

// customer is a stamp of one task that requests so much.
func customer(name bulkhead.StampName, cores float64, memory int64) *bulkhead.Stamp {
	return &bulkhead.Stamp{
		Name: name, UID: string(name), Product: "shop", Desired: bulkhead.DesiredRunning, Generation: 1,
		Services: []bulkhead.Service{{Name: "web", Replicas: 1, Budget: bulkhead.Budget{CPURequest: cores, MemoryRequest: memory, PIDs: 64}}},
	}
}

func farmOf(policy bulkhead.Policy, nodes ...bulkhead.Node) *Farm {
	f := NewFarm(policy)
	for _, n := range nodes {
		f.SetNode(n)
	}
	return f
}

// settle puts a stamp on a node without asking.
func settle(f *Farm, s *bulkhead.Stamp, node bulkhead.NodeName) {
	s.Node = node
	f.SetStamp(s, false)
}

// placed asks for a place, and acts on the answer.
func placed(t *testing.T, f *Farm, s *bulkhead.Stamp) bulkhead.NodeName {
	t.Helper()
	d, err := f.Place(s)
	if err != nil {
		t.Fatalf("place %s: %v", s.Name, err)
	}
	s.Node, s.Units = d.Node, d.Units
	f.SetStamp(s, false)
	return d.Node
}

func TestPlaceExplains(t *testing.T) {
	in := func(n bulkhead.Node, region, zone string, labels map[string]string) bulkhead.Node {
		n.Region, n.Zone, n.Labels = region, zone, labels
		return n
	}
	gone := machine("n9", 8, 64*gib)
	gone.State = bulkhead.NodeUnreachable
	cordoned, full := machine("n8", 8, 64*gib), machine("n7", 8, 64*gib)
	cordoned.Cordoned, full.Full = true, true
	tests := map[string]struct {
		policy bulkhead.Policy
		nodes  []bulkhead.Node
		there  map[bulkhead.StampName]bulkhead.NodeName // each 1 core and 1 GiB
		change func(s *bulkhead.Stamp)                  // of a stamp of 1 core and 4 GiB
		want   string                                   // the reason, or the refusal
	}{
		"best fit": {
			nodes: []bulkhead.Node{machine("n1", 16, 64*gib), machine("n2", 2, 8*gib)},
			want:  "n2: best fit of 2 nodes for 1 cores and 4 GiB; leaves 1 cores and 4 GiB",
		},
		"most room": {
			nodes:  []bulkhead.Node{machine("n1", 16, 64*gib), machine("n2", 2, 8*gib)},
			change: func(s *bulkhead.Stamp) { s.Terms.Strategy = bulkhead.StrategyEmpty },
			want:   "n1: most room of 2 nodes for 1 cores and 4 GiB; leaves 15 cores and 60 GiB",
		},
		"exact fit": {
			nodes: []bulkhead.Node{machine("n1", 1, 4*gib)},
			want:  "n1: best fit of 1 node for 1 cores and 4 GiB; leaves 0 cores and 0 B",
		},
		"in its region": {
			nodes:  []bulkhead.Node{in(machine("n1", 4, 8*gib), "us", "a", nil), in(machine("n2", 16, 64*gib), "eu", "a", nil)},
			change: func(s *bulkhead.Stamp) { s.Terms.Region = "eu" },
			want:   "n2: best fit of 1 node for 1 cores and 4 GiB in region eu; leaves 15 cores and 60 GiB",
		},
		"spread over zones": {
			nodes:  []bulkhead.Node{in(machine("n1", 4, 8*gib), "eu", "a", nil), in(machine("n2", 16, 64*gib), "eu", "b", nil)},
			there:  map[bulkhead.StampName]bulkhead.NodeName{"acme": "n1"},
			change: func(s *bulkhead.Stamp) { s.Terms.Spread = []string{"node.zone"} },
			want:   "n2: best fit of 1 node for 1 cores and 4 GiB; zone b had 0 of product shop; leaves 15 cores and 60 GiB",
		},
		"no node at all": {want: "no node is ready (0 known)"},
		"none ready":     {nodes: []bulkhead.Node{gone}, want: "no node is ready (1 known)"},
		"none takes any": {nodes: []bulkhead.Node{gone, cordoned, full}, want: "no node takes new stamps (3 known, 1 cordoned or draining, 1 with a full disk)"},
		"memory short in a region": {
			nodes: []bulkhead.Node{
				machine("n1", 8, 64*gib), machine("n2", 8, 64*gib), gone,
				in(machine("n3", 8, 3*gib), "eu", "", nil), in(machine("n4", 8, 3*gib+100<<20), "eu", "", nil),
			},
			change: func(s *bulkhead.Stamp) { s.Terms.Region = "eu" },
			want:   "no node has 4 GiB free in region eu (2 of 5 nodes match; largest free: 3.1 GiB on n4)",
		},
		"two things short": {
			nodes: []bulkhead.Node{machine("n1", 0.5, 3*gib), machine("n2", 0.25, 2*gib)},
			want:  "no node has 1 cores and 4 GiB free (2 of 2 nodes ready; largest free: 0.5 cores on n1, 3 GiB on n1)",
		},
		"not together": {
			nodes: []bulkhead.Node{machine("n1", 0.5, 8*gib), machine("n2", 8, 2*gib)},
			want:  "no node has 1 cores, 4 GiB and 8 processes free together (2 of 2 nodes ready; largest free: 8 cores on n2, 8 GiB on n1, 10000 processes on n1)",
		},
		"taken": {
			nodes: []bulkhead.Node{machine("n1", 2, 4*gib)},
			there: map[bulkhead.StampName]bulkhead.NodeName{"acme": "n1"},
			want:  "no node has 4 GiB free (1 of 1 nodes ready; largest free: 3 GiB on n1)",
		},
		"no node of the region": {
			nodes:  []bulkhead.Node{machine("n1", 2, 4*gib), in(machine("n2", 2, 4*gib), "us", "", nil)},
			change: func(s *bulkhead.Stamp) { s.Terms.Region = "eu" },
			want:   "no node is in region eu (0 of 2 nodes match)",
		},
		"terms that no node meets at once": {
			nodes: []bulkhead.Node{in(machine("n1", 2, 4*gib), "eu", "", nil), in(machine("n2", 2, 4*gib), "us", "", map[string]string{"disk": "ssd"})},
			change: func(s *bulkhead.Stamp) {
				s.Terms.Region = "eu"
				s.Terms.Constraints = []bulkhead.Constraint{{Attribute: "node.labels.disk", Value: "ssd"}}
			},
			want: "no node is in region eu with node.labels.disk==ssd (0 of 2 nodes match; 1 in region eu, 1 with node.labels.disk==ssd)",
		},
		"residency of the release against the region": {
			nodes: []bulkhead.Node{in(machine("n1", 2, 8*gib), "eu", "", nil), in(machine("n2", 2, 8*gib), "us", "", nil)},
			change: func(s *bulkhead.Stamp) {
				s.Terms.Region, s.ReleaseTerms.Residency = "us", []string{"eu", "ch"}
			},
			want: "no node is in region us in region eu or ch (0 of 2 nodes match; 1 in region us, 1 in region eu or ch)",
		},
		"pools are for those who ask": {
			nodes: []bulkhead.Node{in(machine("n1", 2, 8*gib), "", "", map[string]string{"pool": "gpu"})},
			want:  "no node is outside of pools (1 known)",
		},
		"pool": {
			nodes:  []bulkhead.Node{in(machine("n1", 2, 8*gib), "", "", map[string]string{"pool": "gpu"}), machine("n2", 1, 4*gib)},
			change: func(s *bulkhead.Stamp) { s.Terms.Pool = "gpu" },
			want:   "n1: best fit of 1 node for 1 cores and 4 GiB in pool gpu; leaves 1 cores and 4 GiB",
		},
		"extras": {
			nodes: []bulkhead.Node{machine("n1", 8, 64*gib), func() bulkhead.Node {
				n := machine("n2", 8, 64*gib)
				n.Capacity.Extras = map[string]float64{"gpu": 2}
				return n
			}()},
			change: func(s *bulkhead.Stamp) { s.Terms.Extras, s.Terms.Disk = map[string]float64{"gpu": 0.5}, gib },
			want:   "n2: best fit of 1 node for 1 cores, 4 GiB, 1 GiB of disk and 0.5 gpu; leaves 7 cores and 60 GiB",
		},
		"extras short": {
			nodes:  []bulkhead.Node{machine("n1", 8, 64*gib)},
			change: func(s *bulkhead.Stamp) { s.Terms.Extras = map[string]float64{"gpu": 2} },
			want:   "no node has 2 gpu free (1 of 1 nodes ready; largest free: 0 gpu on n1)",
		},
		"competitors": {
			nodes: []bulkhead.Node{machine("n1", 8, 64*gib)},
			there: map[bulkhead.StampName]bulkhead.NodeName{"rival": "n1"},
			change: func(s *bulkhead.Stamp) {
				s.Terms.Apart = []bulkhead.Apart{{Key: "steel"}}
			},
			want: "no node with room may have the stamp (1 of 1 nodes ready, 1 with room): 1 by stamps to keep apart from (steel)",
		},
		"blast radius of a node": {
			policy: bulkhead.Policy{BlastRadius: bulkhead.BlastRadius{Node: 0.5, Floor: 1}},
			nodes:  []bulkhead.Node{machine("n1", 8, 64*gib), machine("n2", 8, 2*gib)},
			there:  map[bulkhead.StampName]bulkhead.NodeName{"a": "n1", "b": "n1", "c": "n2"},
			want:   "no node with room may have the stamp (2 of 2 nodes ready, 1 with room): 1 by the blast radius of a node (at most 2 stamps and 0 of revenue, 50 % of all)",
		},
		"blast radius of a ring": {
			policy: bulkhead.Policy{BlastRadius: bulkhead.BlastRadius{Ring: 0.4, Floor: 1}},
			nodes:  []bulkhead.Node{machine("n1", 8, 64*gib)},
			there:  map[bulkhead.StampName]bulkhead.NodeName{"early-a": "n1", "early-b": "n1", "late-c": "n1", "late-d": "n1"},
			change: func(s *bulkhead.Stamp) { s.Terms.Ring = "early"; s.Terms.Revenue = 1 },
			want:   "n1: best fit of 1 node for 1 cores and 4 GiB; leaves 3 cores and 56 GiB",
		},
		"quota": {
			policy: bulkhead.Policy{Quotas: map[bulkhead.ProductName]bulkhead.Quota{"shop": {Limit: bulkhead.Resources{Memory: 4 * gib}}}},
			nodes:  []bulkhead.Node{machine("n1", 8, 64*gib)},
			there:  map[bulkhead.StampName]bulkhead.NodeName{"a": "n1"},
			want:   "product shop is at its quota: 4 GiB more than 1 GiB of 4 GiB",
		},
		"quota of stamps": {
			policy: bulkhead.Policy{Quotas: map[bulkhead.ProductName]bulkhead.Quota{"shop": {Stamps: 1}}},
			nodes:  []bulkhead.Node{machine("n1", 8, 64*gib)},
			there:  map[bulkhead.StampName]bulkhead.NodeName{"a": "n1"},
			want:   "product shop is at its quota: 1 of 1 stamps",
		},
		"overcommitted cores": {
			policy: bulkhead.Policy{CPUOvercommit: 2},
			nodes:  []bulkhead.Node{machine("n1", 0.5, 8*gib)},
			want:   "n1: best fit of 1 node for 1 cores and 4 GiB; leaves 0 cores and 4 GiB",
		},
		"reserve": {
			policy: bulkhead.Policy{Reserve: bulkhead.Resources{Memory: gib}},
			nodes:  []bulkhead.Node{machine("n1", 2, 4*gib)},
			want:   "no node has 4 GiB free (1 of 1 nodes ready; largest free: 3 GiB on n1)",
		},
		"tier asks for more": {
			policy: bulkhead.Policy{Tiers: map[string]bulkhead.Tier{"gold": {Requests: bulkhead.Resources{CPU: 3, Extras: map[string]float64{"seat": 2}}}}},
			nodes: []bulkhead.Node{func() bulkhead.Node {
				n := machine("n1", 8, 64*gib)
				n.Capacity.Extras = map[string]float64{"seat": 1}
				return n
			}()},
			change: func(s *bulkhead.Stamp) { s.Terms.Tier = "gold" },
			want:   "no node has 2 seat free (1 of 1 nodes ready; largest free: 1 seat on n1)",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := farmOf(test.policy, test.nodes...)
			for _, name := range slices.Sorted(maps.Keys(test.there)) {
				s := customer(name, 1, gib)
				s.Terms.Spread = []string{"node.zone"}
				ring, _, _ := strings.Cut(string(name), "-")
				s.Terms.Ring = ring
				if name == "rival" {
					s.Terms.Apart = []bulkhead.Apart{{Key: "steel"}}
				}
				settle(f, s, test.there[name])
			}
			s := customer("zeta", 1, 4*gib)
			if test.change != nil {
				test.change(s)
			}
			d, err := f.Place(s)
			got := string(d.Node) + ": " + d.Reason
			if err != nil {
				got = err.Error()
				if !errors.Is(err, bulkhead.ErrExhausted) {
					t.Errorf("refused with kind %v", bulkhead.KindOf(err))
				}
			}
			if got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestPlaceFindsTheOnlyNode hides one node that will do among thousands that seem
// to: what they lack is not what they are ordered by.
func TestPlaceFindsTheOnlyNode(t *testing.T) {
	f := NewFarm(bulkhead.Policy{})
	for i := range 3000 {
		n := machine(bulkhead.NodeName(fmt.Sprintf("n%04d", i)), 8, 64*gib)
		if n.Zone = "a"; i != 1234 {
			n.Capacity.Disk = 0
		}
		f.SetNode(n)
	}
	for _, spread := range [][]string{nil, {"node.zone"}, {"node.hostname"}} {
		s := customer("acme", 1, gib)
		s.Terms.Disk, s.Terms.Spread = gib, spread
		if d, err := f.Place(s); err != nil || d.Node != "n1234" {
			t.Errorf("spread %v: on %q, %v", spread, d.Node, err)
		}
	}
}

func TestApartIsMutual(t *testing.T) {
	a, b := machine("n1", 8, 64*gib), machine("n2", 8, 64*gib)
	a.Zone, b.Zone = "a", "a"
	f := farmOf(bulkhead.Policy{}, a, b)
	standby := customer("acme-standby", 1, gib)
	standby.Terms.Apart = []bulkhead.Apart{{Key: "acme", Scope: bulkhead.ScopeZone}}
	placed(t, f, standby)
	// acme itself asks for another node only; but its standby lets it into no node of
	// the zone.
	acme := customer("acme", 1, gib)
	acme.Terms.Apart = []bulkhead.Apart{{Key: "acme"}}
	if d, err := f.Place(acme); err == nil {
		t.Errorf("placed on %s, in the zone of its standby", d.Node)
	}
	c := machine("n3", 8, 64*gib)
	c.Zone = "b"
	f.SetNode(c)
	if got := placed(t, f, acme); got != "n3" {
		t.Errorf("on %s", got)
	}
}

func TestPreemption(t *testing.T) {
	policy := bulkhead.Policy{Tiers: map[string]bulkhead.Tier{
		"gold": {Priority: 10}, "silver": {Priority: 5, Preemptible: true}, "trial": {Priority: 1, Preemptible: true}, "steady": {Priority: 1},
	}}
	f := farmOf(policy, machine("n1", 8, 8*gib), machine("n2", 8, 8*gib), machine("n3", 8, 8*gib))
	tenants := []*bulkhead.Stamp{}
	add := func(name bulkhead.StampName, node bulkhead.NodeName, memory int64, tier string, revenue int64) {
		s := customer(name, 1, memory)
		s.Terms.Tier, s.Terms.Revenue = tier, revenue
		settle(f, s, node)
		tenants = append(tenants, s)
	}
	add("s1", "n1", 8*gib, "silver", 1)
	add("t1", "n2", 2*gib, "trial", 90)
	add("t2", "n2", 4*gib, "trial", 5)
	add("t3", "n2", 2*gib, "trial", 7)
	add("st", "n3", 8*gib, "steady", 0)
	gold := customer("gold", 1, 5*gib)
	gold.Terms.Tier = "gold"
	d, err := f.Place(gold)
	if err != nil {
		t.Fatal(err)
	}
	// Trials go before silver, the one that pays most stays, steady is not preemptible.
	if d.Node != "n2" || !slices.Equal(d.Evict, []bulkhead.StampName{"t2", "t3"}) {
		t.Fatalf("evicts %v on %s: %s", d.Evict, d.Node, d.Reason)
	}
	if want := "takes the room of t2 and t3 on n2, of a lesser tier: no node has 5 GiB free (3 of 3 nodes ready; largest free: 0 B on n1)"; d.Reason != want {
		t.Errorf("says %s", d.Reason)
	}
	// While they stop, the answer stays the same; when they have, there is room.
	for _, s := range tenants {
		if slices.Contains(d.Evict, s.Name) {
			s.Preempted = "by gold"
			f.SetStamp(s, true)
		}
	}
	if again, err := f.Place(gold); err != nil || !slices.Equal(again.Evict, d.Evict) {
		t.Errorf("while they stop: %v, %v", again.Evict, err)
	}
	for _, s := range tenants {
		if s.Preempted != "" {
			f.SetStamp(s, false)
		}
	}
	if got := placed(t, f, gold); got != "n2" {
		t.Errorf("gold is on %s", got)
	}
	if _, ok := f.Resume(tenants[2]); ok {
		t.Error("t2 would resume into gold's room")
	}
	f.RemoveStamp("gold")
	if _, ok := f.Resume(tenants[2]); !ok {
		t.Error("t2 has room again and would not resume")
	}
	// Nobody gives way to an equal or a lesser one.
	silver := customer("silver", 1, 9*gib)
	silver.Terms.Tier = "trial"
	if _, err := f.Place(silver); err == nil {
		t.Error("a trial preempts trials")
	}
}

func TestQueueIsFair(t *testing.T) {
	policy := bulkhead.Policy{
		Tiers:  map[string]bulkhead.Tier{"gold": {Priority: 1}},
		Quotas: map[bulkhead.ProductName]bulkhead.Quota{"heavy": {Weight: 2}},
	}
	f := farmOf(policy, machine("n1", 10, 100*gib))
	var waiting []*bulkhead.Stamp
	for i := range 4 {
		for _, p := range []bulkhead.ProductName{"cpu", "memory", "heavy"} {
			s := customer(bulkhead.StampName(fmt.Sprintf("%s-%d", p, i)), 1, gib) // a tenth of the CPU
			if p == "memory" {
				s = customer(s.Name, 0.1, 10*gib) // a tenth of the memory
			}
			s.Product = p
			waiting = append(waiting, s)
		}
	}
	first := customer("zz-first", 1, gib)
	first.Terms.Tier, first.Product = "gold", "cpu"
	queue := f.Queue(append(waiting, first))
	got := map[bulkhead.ProductName]int{}
	for i := range 9 {
		s := queue.Next()
		if i == 0 && s != first {
			t.Errorf("first is %s", s.Name)
		}
		placed(t, f, s)
		got[s.Product]++
	}
	// Equal dominant shares, and heavy's counts half; the last goes to the first by name.
	if want := map[bulkhead.ProductName]int{"cpu": 3, "memory": 2, "heavy": 4}; !maps.Equal(got, want) {
		t.Errorf("placed %v, want %v", got, want)
	}
}

func TestUnitsAreNotShared(t *testing.T) {
	n := machine("n1", 64, 64*gib)
	n.Capacity.Extras = map[string]float64{"gpu": 2}
	f := farmOf(bulkhead.Policy{}, n)
	ask := func(name bulkhead.StampName, gpu float64) *bulkhead.Stamp {
		s := customer(name, 1, gib)
		s.Terms.Extras = map[string]float64{"gpu": gpu}
		return s
	}
	a, b := ask("a", 0.6), ask("b", 0.6)
	placed(t, f, a)
	placed(t, f, b)
	if a.Units["gpu"][0].Unit == b.Units["gpu"][0].Unit {
		t.Error("two of 0.6 share a unit")
	}
	if _, err := f.Place(ask("c", 0.5)); err == nil {
		t.Error("0.5 has a place though each unit has 0.4 left")
	}
	if _, err := f.Place(ask("d", 1)); err == nil {
		t.Error("a whole unit has a place though both are taken in part")
	}
	placed(t, f, ask("e", 0.4))
	// Told in another order, by a fresh farm, each has what it was granted.
	g := farmOf(bulkhead.Policy{}, n)
	for _, s := range []*bulkhead.Stamp{b, a} {
		g.SetStamp(s, false)
	}
	if g.nodes[0].units[0][a.Units["gpu"][0].Unit] != 400 {
		t.Errorf("units %v", g.nodes[0].units)
	}
}

func TestForecast(t *testing.T) {
	nodes := []bulkhead.Node{machine("n1", 8, 8*gib), machine("n2", 8, 8*gib), machine("n3", 8, 4*gib)}
	var stamps []*bulkhead.Stamp
	for i, node := range []bulkhead.NodeName{"n1", "n1", "n2", "n3"} {
		s := customer(bulkhead.StampName(fmt.Sprint("s", i)), 1, 2*gib)
		s.Node = node
		stamps = append(stamps, s)
	}
	got, err := Forecast(bulkhead.Policy{}, nodes, stamps, bulkhead.WhatIf{Lost: []bulkhead.NodeName{"n1"}, Stamps: 4, Machines: 1, Price: 90})
	if err != nil {
		t.Fatal(err)
	}
	// 20 GiB less 8 used is room for 6; without n1 the farm of 12 GiB has 8 used and
	// room for 2; a machine like the largest adds 4.
	if got.RoomNow != 6 || len(got.Moves) != 2 || total(got.New) != 4 || len(got.Refused) != 0 || got.Room != 2 || got.Gain != 4 || got.StampPrice != 22.5 {
		t.Errorf("%+v", got)
	}
	for _, m := range got.Moves {
		if m.To == "" || m.To == "n1" {
			t.Errorf("%s goes to %q", m.Stamp, m.To)
		}
	}
	if _, err := Forecast(bulkhead.Policy{}, nodes, stamps, bulkhead.WhatIf{Lost: []bulkhead.NodeName{"n7"}}); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("an unknown node: %v", err)
	}
	if _, err := Forecast(bulkhead.Policy{}, nodes, stamps, bulkhead.WhatIf{Stamps: -1}); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("less than no stamps: %v", err)
	}
}

func TestRebalance(t *testing.T) {
	a, b := machine("n1", 8, 8*gib), machine("n2", 8, 8*gib)
	a.Region, b.Region = "eu", "eu"
	f := farmOf(bulkhead.Policy{Moves: 1}, a, b)
	for i := range 3 {
		s := customer(bulkhead.StampName(fmt.Sprint("s", i)), 1, gib)
		s.Terms.Region = "eu"
		settle(f, s, "n1")
	}
	before := f.nodes[0].free
	if moves := f.Rebalance(); len(moves) != 0 {
		t.Errorf("all is well, and it moves %v", moves)
	}
	a.Region = "us"
	f.SetNode(a)
	moves := f.Rebalance()
	if len(moves) != 1 || !moves[0].Must || moves[0].To != "n2" || moves[0].Reason != "node n1 is not in region eu any more" {
		t.Errorf("%+v", moves)
	}
	if f.nodes[0].free != before || f.count != 3 {
		t.Error("asking has changed the farm")
	}
}

// TestRebalancing: what is proposed is made if the policy says so, within the budget,
// while all nodes answer, and no stamp moves again and again.
func TestRebalancing(t *testing.T) {
	policy := bulkhead.Policy{Moves: 2, Rebalance: true}
	a, b := reachable("n1", 8, 8*gib), reachable("n2", 8, 8*gib)
	a.Region, b.Region = "us", "eu"
	at := func(policy bulkhead.Policy, change func(s *bulkhead.Stamp)) *Farm {
		f := farmOf(policy, a, b)
		for i := range 3 {
			s := customer(bulkhead.StampName(fmt.Sprint("s", i)), 1, gib)
			s.Terms.Region = "eu"
			change(s)
			settle(f, s, "n1")
		}
		return f
	}
	plain := func(*bulkhead.Stamp) {}
	f := at(policy, plain)
	if next := f.Rebalancing(noon); len(next) != 2 || next[0].To != "n2" || next[0].Reason != "node n1 is not in region eu any more" {
		t.Errorf("two at a time: %+v", next)
	}
	if next := f.Rebalancing(noon); len(next) != 0 {
		t.Errorf("while two are under way: %+v", next)
	}
	off := policy
	off.Rebalance = false
	if next := at(off, plain).Rebalancing(noon); len(next) != 0 {
		t.Errorf("without the policy: %+v", next)
	}
	f = at(policy, plain)
	silent := reachable("n3", 8, 8*gib)
	silent.State = bulkhead.NodeUnreachable
	f.SetNode(silent)
	if next := f.Rebalancing(noon); len(next) != 0 {
		t.Errorf("while a node is silent: %+v", next)
	}
	f = at(policy, func(s *bulkhead.Stamp) {
		s.Transferred = &bulkhead.Transferred{From: "n1", To: "n2", Ended: noon.Add(-time.Second), GivenUp: "why"}
	})
	if next := f.Rebalancing(noon); len(next) != 0 {
		t.Errorf("right after it was given up: %+v", next)
	}
	if next := f.Rebalancing(noon.Add(moveAgain)); len(next) != 2 {
		t.Errorf("later: %+v", next)
	}
}

// farmWorld draws farms and what happens to them.
type farmWorld struct {
	t      *rapid.T
	policy bulkhead.Policy
	farm   *Farm
	nodes  map[bulkhead.NodeName]bulkhead.Node
	stamps map[bulkhead.StampName]*bulkhead.Stamp // placed
	next   int
}

func (w *farmWorld) node() bulkhead.Node {
	n := machine(bulkhead.NodeName(fmt.Sprint("n", rapid.IntRange(0, 11).Draw(w.t, "node"))), rapid.SampledFrom([]float64{1, 2, 4}).Draw(w.t, "cores"), rapid.SampledFrom([]int64{2, 4, 8}).Draw(w.t, "gib")*gib)
	n.Region = rapid.SampledFrom([]string{"eu", "us"}).Draw(w.t, "region")
	n.Zone = rapid.SampledFrom([]string{"a", "b"}).Draw(w.t, "zone")
	if rapid.IntRange(0, 5).Draw(w.t, "away") == 0 {
		n.State = bulkhead.NodeUnreachable
	}
	if rapid.Bool().Draw(w.t, "ssd") {
		n.Labels = map[string]string{"disk": "ssd"}
	}
	if g := rapid.IntRange(0, 2).Draw(w.t, "gpus"); g > 0 {
		n.Capacity.Extras = map[string]float64{"gpu": float64(g)}
	}
	return n
}

func (w *farmWorld) stamp() *bulkhead.Stamp {
	w.next++
	s := customer(bulkhead.StampName(fmt.Sprint("s", w.next)), float64(rapid.IntRange(1, 12).Draw(w.t, "cpu"))/8, int64(rapid.IntRange(1, 12).Draw(w.t, "memory"))*gib/4)
	s.Product = rapid.SampledFrom([]bulkhead.ProductName{"shop", "desk"}).Draw(w.t, "product")
	terms := &s.Terms
	if rapid.IntRange(0, 3).Draw(w.t, "regional") == 0 {
		terms.Region = "eu"
	}
	if rapid.IntRange(0, 3).Draw(w.t, "resident") == 0 {
		s.ReleaseTerms.Residency = []string{"eu", "ch"}
	}
	if rapid.IntRange(0, 3).Draw(w.t, "constrained") == 0 {
		terms.Constraints = []bulkhead.Constraint{{Attribute: "node.labels.disk", Not: rapid.Bool().Draw(w.t, "not"), Value: "ssd"}}
	}
	if rapid.IntRange(0, 2).Draw(w.t, "apart") == 0 {
		terms.Apart = []bulkhead.Apart{{Key: rapid.SampledFrom([]string{"steel", "wood"}).Draw(w.t, "key"), Scope: rapid.SampledFrom([]bulkhead.Scope{"", "zone", "region"}).Draw(w.t, "scope")}}
	}
	if rapid.IntRange(0, 2).Draw(w.t, "spread") == 0 {
		terms.Spread = []string{"node.zone", "node.hostname"}
	}
	if rapid.IntRange(0, 3).Draw(w.t, "extra") == 0 {
		terms.Extras = map[string]float64{"gpu": rapid.SampledFrom([]float64{0.25, 0.6, 1, 2}).Draw(w.t, "gpu")}
	}
	terms.Tier = rapid.SampledFrom([]string{"", "gold", "trial"}).Draw(w.t, "tier")
	terms.Revenue = int64(rapid.IntRange(0, 9).Draw(w.t, "revenue"))
	return s
}

// load is counted from scratch, by the rules as docs/placement.md has them.
func (w *farmWorld) free(n bulkhead.Node) (cores float64, memory int64) {
	cores, memory = n.Capacity.CPU*w.policy.CPUOvercommit, n.Capacity.Memory
	for _, s := range w.stamps {
		if s.Node == n.Name {
			b := s.Services[0].Budget
			cores, memory = cores-b.CPURequest, memory-b.MemoryRequest
		}
	}
	return cores, memory
}

// may is the oracle: whether a node may have a stamp, looked up node by node and
// stamp by stamp.
func (w *farmWorld) may(n bulkhead.Node, s *bulkhead.Stamp) bool {
	cores, memory := w.free(n)
	b := s.Services[0].Budget
	if n.State != bulkhead.NodeReady || b.CPURequest > cores+1e-9 || b.MemoryRequest > memory {
		return false
	}
	if s.Terms.Region != "" && n.Region != s.Terms.Region || len(s.ReleaseTerms.Residency) > 0 && n.Region != "eu" {
		return false
	}
	for _, c := range s.Terms.Constraints {
		if (n.Labels["disk"] == c.Value) == c.Not {
			return false
		}
	}
	for _, other := range w.stamps {
		m := w.nodes[other.Node]
		for _, x := range s.Terms.Apart {
			for _, y := range other.Terms.Apart {
				if x.Key == y.Key && near(n, m, max(breadth(x.Scope), breadth(y.Scope))) {
					return false
				}
			}
		}
	}
	if ask := s.Terms.Extras["gpu"]; ask > 0 {
		units := make([]float64, int(n.Capacity.Extras["gpu"]))
		for _, other := range w.stamps {
			if other.Node == n.Name {
				for _, share := range other.Units["gpu"] {
					units[share.Unit] += float64(share.Milli) / 1000
				}
			}
		}
		whole := 0
		ok := false
		for _, used := range units {
			if used < 1e-9 {
				whole++
			}
			ok = ok || ask < 1 && used+ask <= 1+1e-9
		}
		if !ok && (ask < 1 || float64(whole) < ask) {
			return false
		}
	}
	return w.within(n, s)
}

func near(a, b bulkhead.Node, breadth int) bool {
	switch breadth {
	case 0:
		return a.Name == b.Name
	case 1:
		return a.Zone == b.Zone && a.Region == b.Region
	}
	return a.Region == b.Region
}

// within tells whether the blast radius allows it.
func (w *farmWorld) within(n bulkhead.Node, s *bulkhead.Stamp) bool {
	r := w.policy.BlastRadius
	if r.Node == 0 {
		return true
	}
	open, zones := 0, map[string]bool{}
	for _, m := range w.nodes {
		if m.State == bulkhead.NodeReady {
			open++
			zones[m.Region+m.Zone] = true
		}
	}
	check := func(share float64, parts, breadth int) bool {
		share = max(share, 1/float64(parts))
		count, revenue, all := 0, int64(0), s.Terms.Revenue
		for _, other := range w.stamps {
			all += other.Terms.Revenue
			if near(n, w.nodes[other.Node], breadth) {
				count++
				revenue += other.Terms.Revenue
			}
		}
		if count < r.Floor {
			return true
		}
		return float64(count+1) <= math.Ceil(share*float64(len(w.stamps)+1)) && float64(revenue+s.Terms.Revenue) <= math.Ceil(share*float64(all))
	}
	return check(r.Node, open, 0) && check(r.Zone, len(zones), 1)
}

// TestPlaceAgreesWithOracle lets nodes and stamps come, change and go, and asks
// after every step: a place is found exactly when one exists, and the one that is
// given may have the stamp; so capacity is never exceeded, terms are always met
// and the blast radius is kept. A second farm, told of the outcome alone, agrees.
func TestPlaceAgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := bulkhead.Policy{
			CPUOvercommit: rapid.SampledFrom([]float64{1, 2}).Draw(t, "overcommit"),
			Sample:        rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "sample"),
			Tiers:         map[string]bulkhead.Tier{"gold": {Priority: 2}, "trial": {Priority: 1}},
		}
		if rapid.Bool().Draw(t, "bounded") {
			policy.BlastRadius = bulkhead.BlastRadius{Node: 0.3, Zone: 0.4, Floor: 2}
		}
		w := &farmWorld{t: t, policy: policy, farm: NewFarm(policy), nodes: map[bulkhead.NodeName]bulkhead.Node{}, stamps: map[bulkhead.StampName]*bulkhead.Stamp{}}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				n := w.node()
				if was, known := w.nodes[n.Name]; known { // a machine does not shrink below what it carries
					n.Capacity = was.Capacity
				}
				w.nodes[n.Name] = n
				w.farm.SetNode(n)
			case 2:
				if names := slices.Sorted(maps.Keys(w.stamps)); len(names) > 0 {
					name := rapid.SampledFrom(names).Draw(t, "gone")
					delete(w.stamps, name)
					w.farm.RemoveStamp(name)
				}
			case 3:
				if names := slices.Sorted(maps.Keys(w.nodes)); len(names) > 0 {
					name := rapid.SampledFrom(names).Draw(t, "left")
					if !slices.ContainsFunc(slices.Collect(maps.Values(w.stamps)), func(s *bulkhead.Stamp) bool { return s.Node == name }) {
						delete(w.nodes, name)
						w.farm.RemoveNode(name)
					}
				}
			default:
				s := w.stamp()
				exists := false
				for _, n := range w.nodes {
					exists = exists || w.may(n, s)
				}
				d, err := w.farm.Place(s)
				switch {
				case (err == nil) != exists:
					t.Fatalf("a place exists: %t; the farm says %v, %q", exists, err, d.Reason)
				case err != nil:
					if !errors.Is(err, bulkhead.ErrExhausted) || err.Error() == "" {
						t.Fatalf("refused with %v", err)
					}
				case !w.may(w.nodes[d.Node], s):
					t.Fatalf("%s may not be on %s", s.Name, d.Node)
				default:
					if again, err := w.farm.Place(s); err != nil || again.Node != d.Node {
						t.Fatalf("asked again it says %s, %v instead of %s", again.Node, err, d.Node)
					}
					s.Node, s.Units = d.Node, d.Units
					w.stamps[s.Name] = s
					w.farm.SetStamp(s, false)
				}
			}
		}
		fresh := NewFarm(policy)
		for _, s := range w.stamps {
			fresh.SetStamp(s, false)
		}
		for _, n := range w.nodes {
			fresh.SetNode(n)
		}
		for name := range w.nodes {
			a, b := w.farm.nodes[w.farm.byName[name]], fresh.nodes[fresh.byName[name]]
			if a.free != b.free || a.load != b.load || !slices.EqualFunc(a.units, b.units, slices.Equal) {
				t.Fatalf("%s: %v %v %v here, %v %v %v in a farm told afresh", name, a.free, a.load, a.units, b.free, b.load, b.units)
			}
		}
		for range 3 {
			s := w.stamp()
			_, err := w.farm.Place(s)
			if _, other := fresh.Place(s); (err == nil) != (other == nil) {
				t.Fatalf("%v here, %v in a farm told afresh", err, other)
			}
		}
	})
}

// TestMeetable: terms that no node meets are told from a lack of room, which may pass.
func TestMeetable(t *testing.T) {
	full, away := machine("n1", 0.1, 1), machine("n2", 8, 8*gib)
	full.Region, away.Region, away.State = "eu", "us", bulkhead.NodeUnreachable
	all := []bulkhead.Node{full, away}
	for region, want := range map[string]string{
		"": "", "eu": "", "us": "", "mars": "no node is in region mars (0 of 2 nodes match)",
	} {
		s := &bulkhead.Stamp{Name: "acme", Terms: bulkhead.Terms{Region: region}}
		err := Meetable(s, slices.Values(all))
		if (err == nil) != (want == "") || err != nil && (err.Error() != want || !errors.Is(err, bulkhead.ErrConflict)) {
			t.Errorf("region %q: %v, want %q", region, err, want)
		}
		if err := Meetable(s, slices.Values([]bulkhead.Node(nil))); err != nil {
			t.Errorf("a farm without nodes: %v", err)
		}
	}
}
