package controller

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
	"bulkhead/store"
)

// gated is a node that others reach.
func gated(name bulkhead.NodeName, memory int64) bulkhead.Node {
	n := node(name, memory)
	n.Gateway, n.UID = string(name)+":7443", "uid-"+string(name)
	return n
}

// ask begins a move as the API does.
func ask(t *testing.T, s *store.Store, name bulkhead.StampName, to bulkhead.NodeName) {
	t.Helper()
	put(t, s, func(tx *store.Tx) {
		st, _ := tx.Stamps.Get(name)
		st.Transfer = &bulkhead.Transfer{ID: "m-" + string(name), From: st.Node, To: to, Phase: bulkhead.TransferPlanned, Actor: "ann", Began: time.Now()}
		tx.Stamps.Put(st)
	})
}

// arrive reports what the node that a stamp moves to would.
func arrive(t *testing.T, s *store.Store, name bulkhead.StampName, state bulkhead.ArrivalState) {
	t.Helper()
	m := get(t, s, name).Transfer
	if m == nil {
		t.Fatalf("%s does not move", name)
	}
	put(t, s, func(tx *store.Tx) {
		tx.Arrivals.Put(bulkhead.Arrival{Name: name, Move: m.ID, Node: m.To, State: state, Bytes: 1 << 20, Passes: 2})
	})
}

// up reports that a stamp runs where it is.
func up(t *testing.T, s *store.Store, name bulkhead.StampName) {
	t.Helper()
	st := get(t, s, name)
	put(t, s, func(tx *store.Tx) {
		tx.Statuses.Put(bulkhead.StampStatus{Name: name, UID: st.UID, Node: st.Node, Epoch: st.Epoch, Generation: st.Generation, Phase: bulkhead.PhaseRunning})
	})
}

func moveEvents(s *store.Store, name bulkhead.StampName) string {
	var out []string
	for e := range s.View().Events.All() {
		if e.Stamp == name {
			out = append(out, strings.TrimPrefix(e.Type, "stamp."))
		}
	}
	return strings.Join(out, " ")
}

// TestControllerMoves: the steps of a move, each under an epoch of its own as soon as
// who may run the stamp changes.
func TestControllerMoves(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			tx.Nodes.Put(gated("n1", 4<<30))
			tx.Stamps.Put(stamp("acme", 1<<30))
		})
		get(t, s, "acme")
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(gated("n2", 4<<30)) })
		up(t, s, "acme")
		ask(t, s, "acme", "")
		got := get(t, s, "acme")
		if m := got.Transfer; m == nil || m.Phase != bulkhead.TransferCopying || m.To != "n2" || m.ToUID != "uid-n2" || got.Node != "n1" || got.Epoch != 1 {
			t.Fatalf("begun: %+v, epoch %d", m, got.Epoch)
		}
		time.Sleep(10 * time.Second)
		arrive(t, s, "acme", bulkhead.ArrivalReady)
		if got = get(t, s, "acme"); !got.Switching() || got.Node != "n1" || got.Epoch != 2 {
			t.Fatalf("ready: %+v, epoch %d", got.Transfer, got.Epoch)
		}
		time.Sleep(time.Second)
		arrive(t, s, "acme", bulkhead.ArrivalComplete)
		if got = get(t, s, "acme"); got.Transfer.Phase != bulkhead.TransferStarting || got.Node != "n2" || got.Epoch != 3 || got.Copy != "m-acme" || fmt.Sprint(got.Former) != "[{n1 uid-n1}]" {
			t.Fatalf("complete: %+v, epoch %d", got.Transfer, got.Epoch)
		}
		time.Sleep(time.Second)
		up(t, s, "acme")
		got = get(t, s, "acme")
		if last := got.Transferred; got.Transfer != nil || last == nil || last.GivenUp != "" || last.Held != 2*time.Second || last.Bytes != 1<<20 || last.Passes != 2 {
			t.Fatalf("up: %+v, %+v", got.Transfer, last)
		}
		if _, left := s.View().Arrivals.Get("acme"); left {
			t.Error("its arrival is left")
		}
		if events := moveEvents(s, "acme"); events != "placed move-begun switched handed-over moved" {
			t.Errorf("events: %s", events)
		}
	})
}

// TestControllerDrainsThePreempted: a stamp that was preempted leaves a node that is drained,
// too: others leave, it has room again, and then it moves as they did.
func TestControllerDrainsThePreempted(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			tx.Policies.Put(bulkhead.Policy{Tiers: map[string]bulkhead.Tier{"gold": {Priority: 5}, "trial": {Preemptible: true}}})
			tx.Nodes.Put(gated("n1", 1<<30))
			trial := stamp("trial", 1<<30)
			trial.Terms.Tier = "trial"
			tx.Stamps.Put(trial)
		})
		get(t, s, "trial")
		put(t, s, func(tx *store.Tx) {
			gold := stamp("gold", 1<<30)
			gold.Terms.Tier = "gold"
			tx.Stamps.Put(gold)
		})
		trial := get(t, s, "trial")
		put(t, s, func(tx *store.Tx) {
			tx.Statuses.Put(bulkhead.StampStatus{Name: "trial", UID: trial.UID, Node: "n1", Epoch: trial.Epoch, Generation: trial.Generation, Phase: bulkhead.PhaseStopped})
		})
		if got := get(t, s, "gold"); got.Node != "n1" {
			t.Fatalf("gold is on %q: %s", got.Node, got.Placement)
		}
		put(t, s, func(tx *store.Tx) {
			tx.Nodes.Put(gated("n2", 4<<30))
			n, _ := tx.Nodes.Get("n1")
			n.Draining = true
			tx.Nodes.Put(n)
		})
		for _, name := range []bulkhead.StampName{"gold", "trial"} {
			arrive(t, s, get(t, s, name).Name, bulkhead.ArrivalReady)
			arrive(t, s, get(t, s, name).Name, bulkhead.ArrivalComplete)
			get(t, s, name)
			up(t, s, name)
			if got := get(t, s, name); got.Node != "n2" || got.Preempted != "" || got.Transfer != nil {
				t.Fatalf("%s is on %q, preempted: %q, moves: %+v", name, got.Node, got.Preempted, got.Transfer)
			}
		}
	})
}

// TestControllerGivesUp: a stamp that is nobody's is From's again, under a new epoch,
// when the move does not come to its end.
func TestControllerGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		trouble func(t *testing.T, s *store.Store)
		why     string
	}{
		"time":   {func(*testing.T, *store.Store) { time.Sleep(50 * time.Second) }, "it could not be stopped and copied within 45s"},
		"failed": {func(t *testing.T, s *store.Store) { arrive(t, s, "acme", bulkhead.ArrivalFailed) }, "node n2 cannot take it"},
		"silent": {func(t *testing.T, s *store.Store) {
			put(t, s, func(tx *store.Tx) {
				n, _ := tx.Nodes.Get("n2")
				n.State = bulkhead.NodeUnreachable
				tx.Nodes.Put(n)
			})
		}, "node n2 does not answer"},
		"removed": {func(t *testing.T, s *store.Store) { put(t, s, func(tx *store.Tx) { tx.Nodes.Delete("n2") }) }, "node n2 was removed"},
	} {
		t.Run(name, func(t *testing.T) {
			lead(t, func(t *testing.T, s *store.Store) {
				put(t, s, func(tx *store.Tx) { tx.Nodes.Put(gated("n1", 4<<30)); tx.Stamps.Put(stamp("acme", 1<<30)) })
				get(t, s, "acme")
				put(t, s, func(tx *store.Tx) { tx.Nodes.Put(gated("n2", 4<<30)) })
				ask(t, s, "acme", "n2")
				synctest.Wait()
				arrive(t, s, "acme", bulkhead.ArrivalReady)
				if got := get(t, s, "acme"); !got.Switching() {
					t.Fatalf("not switching: %+v", got.Transfer)
				}
				c.trouble(t, s)
				got := get(t, s, "acme")
				if got.Transfer != nil || got.Node != "n1" || got.Epoch != 3 || got.Copy != "" || got.Transferred.GivenUp != c.why {
					t.Errorf("on %s, epoch %d: %+v", got.Node, got.Epoch, got.Transferred)
				}
			})
		})
	}
}

// TestControllerDrains: stamps leave a node that is drained one after the other, until
// it is empty.
func TestControllerDrains(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			tx.Nodes.Put(gated("n1", 8<<30))
			for i := range 4 {
				tx.Stamps.Put(stamp(bulkhead.StampName(fmt.Sprintf("s%d", i)), 1<<30))
			}
		})
		synctest.Wait()
		put(t, s, func(tx *store.Tx) {
			n, _ := tx.Nodes.Get("n1")
			n.Draining = true
			tx.Nodes.Put(n)
			tx.Nodes.Put(gated("n2", 3<<30)) // one too few for all
		})
		for range 3 {
			synctest.Wait()
			moving := bulkhead.StampName("")
			for st := range s.View().Stamps.All() {
				if st.Transfer == nil {
					continue
				}
				if moving != "" {
					t.Errorf("%s and %s move at the same time", moving, st.Name)
				}
				moving = st.Name
			}
			if moving == "" {
				t.Fatal("nobody moves")
			}
			arrive(t, s, moving, bulkhead.ArrivalReady)
			synctest.Wait()
			arrive(t, s, moving, bulkhead.ArrivalComplete)
			synctest.Wait()
			up(t, s, moving)
		}
		synctest.Wait()
		for st := range s.View().Stamps.All() {
			if st.Transfer != nil {
				t.Errorf("%s moves to where no room is", st.Name)
			}
		}
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(gated("n3", 3<<30)) })
		synctest.Wait()
		under := 0
		for st := range s.View().Stamps.All() {
			if st.Transfer != nil && st.Transfer.To == "n3" {
				under++
			}
		}
		if under != 1 {
			t.Errorf("when there is room %d move there", under)
		}
	})
}
