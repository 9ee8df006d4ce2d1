package controller

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
	"bulkhead/plan"
	"bulkhead/store"
)

// TestControllerPreempts: a stamp of a greater tier waits until the lesser one has
// stopped, takes its room, and gives it back.
func TestControllerPreempts(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			tx.Policies.Put(bulkhead.Policy{Tiers: map[string]bulkhead.Tier{"gold": {Priority: 5}, "trial": {Preemptible: true}}})
			tx.Nodes.Put(node("n1", 1<<30))
			trial := stamp("trial", 1<<30)
			trial.Terms.Tier = "trial"
			tx.Stamps.Put(trial)
		})
		if got := get(t, s, "trial"); got.Node != "n1" {
			t.Fatalf("trial is on %q: %s", got.Node, got.Placement)
		}
		put(t, s, func(tx *store.Tx) {
			gold := stamp("gold", 1<<30)
			gold.Terms.Tier = "gold"
			tx.Stamps.Put(gold)
		})
		gold, trial := get(t, s, "gold"), get(t, s, "trial")
		if gold.Node != "" || !strings.HasPrefix(gold.Placement, "takes the room of trial on n1, of a lesser tier") {
			t.Errorf("gold is on %q: %s", gold.Node, gold.Placement)
		}
		if trial.Preempted != "stamp gold of a greater tier has taken its room" || trial.Generation != 2 || trial.Node != "n1" {
			t.Errorf("trial: %q, generation %d, on %q", trial.Preempted, trial.Generation, trial.Node)
		}
		report := func(phase bulkhead.Phase, generation int64) {
			put(t, s, func(tx *store.Tx) {
				tx.Statuses.Put(bulkhead.StampStatus{Name: "trial", UID: trial.UID, Node: "n1", Epoch: trial.Epoch, Generation: generation, Phase: phase})
			})
		}
		for _, still := range []struct {
			phase      bulkhead.Phase
			generation int64
		}{{bulkhead.PhaseStopped, 1}, {bulkhead.PhaseStopping, 2}} {
			report(still.phase, still.generation)
			if got := get(t, s, "gold"); got.Node != "" {
				t.Fatalf("gold is placed while trial is %s at generation %d", still.phase, still.generation)
			}
		}
		report(bulkhead.PhaseStopped, 2)
		if got := get(t, s, "gold"); got.Node != "n1" {
			t.Fatalf("gold is on %q: %s", got.Node, got.Placement)
		}
		if got := get(t, s, "trial"); got.Preempted == "" {
			t.Error("trial runs in gold's room")
		}
		put(t, s, func(tx *store.Tx) { tx.Stamps.Delete("gold") })
		if got := get(t, s, "trial"); got.Preempted != "" || got.Generation != 3 {
			t.Errorf("with room again, trial is %q at generation %d", got.Preempted, got.Generation)
		}
	})
}

// TestControllerPlacesMany: hundreds at once, on no node more than it has, and
// told in a few events.
func TestControllerPlacesMany(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			for i := range 60 {
				tx.Nodes.Put(node(bulkhead.NodeName(fmt.Sprintf("n%02d", i)), 10<<20))
			}
		})
		put(t, s, func(tx *store.Tx) {
			for i := range 610 {
				tx.Stamps.Put(stamp(bulkhead.StampName(fmt.Sprintf("s%03d", i)), 1<<20))
			}
		})
		synctest.Wait()
		on, waiting := map[bulkhead.NodeName]int{}, 0
		for st := range s.View().Stamps.All() {
			if st.Node == "" {
				waiting++
				if !strings.HasPrefix(st.Placement, "no node has 1 MiB free (60 of 60 nodes ready") {
					t.Errorf("%s waits: %s", st.Name, st.Placement)
				}
				continue
			}
			if st.Epoch != 1 || st.Placement == "" {
				t.Errorf("%s: epoch %d, %q", st.Name, st.Epoch, st.Placement)
			}
			on[st.Node]++
		}
		if waiting != 10 || len(on) != 60 {
			t.Errorf("%d wait, %d nodes are used", waiting, len(on))
		}
		for n, count := range on {
			if count > 10 {
				t.Errorf("%s has %d stamps of a tenth of it each", n, count)
			}
		}
		if n := s.View().Events.Len(); n > 30 {
			t.Errorf("%d events tell of it", n)
		}
	})
}

// TestControllerFollowsPolicy: what did not fit does when the policy allows it.
func TestControllerFollowsPolicy(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			tx.Nodes.Put(node("n1", 1<<30))
			large := stamp("large", 1<<20)
			large.Services[0].Budget.CPURequest = 3
			tx.Stamps.Put(large)
		})
		if got := get(t, s, "large"); got.Node != "" {
			t.Fatalf("3 cores are on a node of 2: %s", got.Placement)
		}
		put(t, s, func(tx *store.Tx) { tx.Policies.Put(bulkhead.Policy{CPUOvercommit: 2}) })
		if got := get(t, s, "large"); got.Node != "n1" {
			t.Errorf("on %q: %s", got.Node, got.Placement)
		}
	})
}

// TestControllerMovesAdrift: a stamp whose node is lost goes elsewhere, and neither
// its quota nor whom it keeps apart from are itself.
func TestControllerMovesAdrift(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			tx.Policies.Put(bulkhead.Policy{Quotas: map[bulkhead.ProductName]bulkhead.Quota{"shop": {Stamps: 1}}})
			tx.Nodes.Put(node("n1", 1<<30))
			acme := stamp("acme", 1<<30)
			acme.Product, acme.Terms.Apart = "shop", []bulkhead.Apart{{Key: "steel", Scope: bulkhead.ScopeRegion}}
			tx.Stamps.Put(acme)
		})
		if got := get(t, s, "acme"); got.Node != "n1" {
			t.Fatalf("on %q: %s", got.Node, got.Placement)
		}
		lost := node("n1", 1<<30)
		lost.State = bulkhead.NodeLost
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(lost) })
		if got := get(t, s, "acme"); got.Node != "n1" || got.Placement != "its node n1 is lost, and no node is ready (1 known)" {
			t.Errorf("with no other node, on %q: %s", got.Node, got.Placement)
		}
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n2", 1<<30)) })
		if got := get(t, s, "acme"); got.Node != "n2" || got.Epoch != 2 {
			t.Errorf("on %q, epoch %d: %s", got.Node, got.Epoch, got.Placement)
		}
	})
}

// TestControllerRebalances: a farm that is told to moves what stands where it may not.
func TestControllerRebalances(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			for _, name := range []bulkhead.NodeName{"n1", "n2"} {
				n := node(name, 1<<30)
				n.Region, n.Gateway = map[bulkhead.NodeName]string{"n1": "eu", "n2": "us"}[name], string(name)+":7073"
				tx.Nodes.Put(n)
			}
			acme := stamp("acme", 1<<20)
			acme.Terms.Region = "eu"
			tx.Stamps.Put(acme)
		})
		if got := get(t, s, "acme"); got.Node != "n1" {
			t.Fatalf("on %q: %s", got.Node, got.Placement)
		}
		put(t, s, func(tx *store.Tx) {
			acme, _ := tx.Stamps.Get("acme")
			acme.Terms.Region = "us"
			tx.Stamps.Put(acme)
		})
		time.Sleep(3 * plan.RebalanceEvery)
		if got := get(t, s, "acme"); got.Transfer != nil {
			t.Errorf("it moves though nobody has said so: %+v", got.Transfer)
		}
		put(t, s, func(tx *store.Tx) { tx.Policies.Put(bulkhead.Policy{Rebalance: true}) })
		time.Sleep(plan.RebalanceEvery)
		if got := get(t, s, "acme"); got.Transfer == nil || got.Transfer.To != "n2" || got.Transfer.Reason != "node n1 is not in region us any more" {
			t.Errorf("it is to move: %+v", got.Transfer)
		}
	})
}
