package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
	"bulkhead/store"
)

func stamp(name bulkhead.StampName, memory int64) bulkhead.Stamp {
	b := bulkhead.DefaultBudget()
	b.MemoryRequest = memory
	return bulkhead.Stamp{
		Name: name, UID: string(name) + "-1", Generation: 1, Desired: bulkhead.DesiredRunning,
		Services: []bulkhead.Service{{Name: "web", Replicas: 1, Budget: b}},
	}
}

func put(t *testing.T, s *store.Store, change func(tx *store.Tx)) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *store.Tx) error { change(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

// lead runs a controller on a store in memory, in pretended time.
func lead(t *testing.T, test func(t *testing.T, s *store.Store)) {
	synctest.Test(t, func(t *testing.T) {
		s := store.Memory()
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- New(Config{Store: s, Log: slog.New(slog.DiscardHandler)}).Run(ctx) }()
		test(t, s)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("controller: %v", err)
		}
	})
}

func get(t *testing.T, s *store.Store, name bulkhead.StampName) bulkhead.Stamp {
	t.Helper()
	synctest.Wait()
	got, ok := s.View().Stamps.Get(name)
	if !ok {
		t.Fatalf("stamp %s is gone", name)
	}
	return got
}

func node(name bulkhead.NodeName, memory int64) bulkhead.Node {
	return bulkhead.Node{Name: name, State: bulkhead.NodeReady, Capacity: bulkhead.Resources{CPU: 2, Memory: memory}}
}

func TestControllerPlacesAndSaysWhyNot(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) { tx.Stamps.Put(stamp("acme", 1<<30)) })
		if got := get(t, s, "acme"); got.Node != "" || got.Placement != "no node is ready (0 known)" {
			t.Errorf("without nodes: on %q, %q", got.Node, got.Placement)
		}
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("small", 512<<20)) })
		if got := get(t, s, "acme"); got.Node != "" || got.Placement != "no node has 1 GiB free (1 of 1 nodes ready; largest free: 512 MiB on small)" {
			t.Errorf("with a small node: on %q, %q", got.Node, got.Placement)
		}
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("large", 4<<30)) })
		if got := get(t, s, "acme"); got.Node != "large" || got.Epoch != 1 {
			t.Errorf("with a large node: on %q, epoch %d", got.Node, got.Epoch)
		}
	})
}

func TestControllerKeepsDeletedForThirtyDays(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n1", 4<<30)); tx.Stamps.Put(stamp("acme", 1<<20)) })
		deleted := get(t, s, "acme")
		now := time.Now()
		deleted.Desired, deleted.Deleted, deleted.Generation = bulkhead.DesiredDeleted, &now, 2
		report := func(generation int64) {
			put(t, s, func(tx *store.Tx) {
				tx.Statuses.Put(bulkhead.StampStatus{Name: "acme", UID: "acme-1", Node: "n1", Epoch: 1, Generation: generation, Phase: bulkhead.PhaseDeleted})
			})
		}
		put(t, s, func(tx *store.Tx) { tx.Stamps.Put(deleted) })
		report(2)
		time.Sleep(bulkhead.KeepDeleted - time.Minute)
		if get(t, s, "acme").Purge {
			t.Fatal("purged before its time")
		}
		time.Sleep(2 * time.Minute)
		got := get(t, s, "acme")
		if !got.Purge || got.Generation != 3 {
			t.Fatalf("after its time: purge %t, generation %d", got.Purge, got.Generation)
		}
		report(3) // the node has destroyed it
		synctest.Wait()
		if _, ok := s.View().Stamps.Get("acme"); ok {
			t.Error("its record is still there")
		}
	})
}

// TestControllerKeepsDeletedOfRemovedNode: a stamp that was deleted can be restored for thirty
// days, also when its node was removed meanwhile; not so one whose data was given up with
// the node, or that never had one.
func TestControllerKeepsDeletedOfRemovedNode(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		deleted := func(name bulkhead.StampName, epoch int64, volumes ...bulkhead.Volume) {
			put(t, s, func(tx *store.Tx) {
				st, now := stamp(name, 1<<20), time.Now()
				st.Desired, st.Deleted, st.Epoch, st.Volumes = bulkhead.DesiredDeleted, &now, epoch, volumes
				tx.Stamps.Put(st)
			})
		}
		deleted("acme", 1)
		deleted("globex", 1, bulkhead.Volume{Name: "data"})
		deleted("initech", 0)
		time.Sleep(bulkhead.KeepDeleted - time.Minute)
		get(t, s, "acme")
		if n := s.View().Stamps.Len(); n != 1 {
			t.Errorf("%d stamps are kept", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := s.View().Stamps.Len(); n != 0 {
			t.Errorf("%d stamps are kept for ever", n)
		}
	})
}

// TestControllerBuries: when nothing is left of a purged stamp where it is, every node that
// had it before has a tomb, unless it is another machine by now.
func TestControllerBuries(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			tx.Nodes.Put(gated("n1", 4<<30))
			tx.Stamps.Put(stamp("acme", 1<<30))
		})
		get(t, s, "acme")
		for _, place := range []struct{ from, to bulkhead.NodeName }{{"n1", "n2"}, {"n2", "n3"}, {"n3", "n1"}, {"n1", "n4"}} {
			put(t, s, func(tx *store.Tx) { // nobody hears of it any more, and it goes elsewhere
				n := gated(place.to, 4<<30)
				tx.Nodes.Put(n)
				n = gated(place.from, 4<<30)
				n.State = bulkhead.NodeLost
				tx.Nodes.Put(n)
			})
			if got := get(t, s, "acme"); got.Node != place.to {
				t.Fatalf("it is on %q: %s", got.Node, got.Placement)
			}
		}
		put(t, s, func(tx *store.Tx) { // there is another n2 since
			n := gated("n2", 4<<30)
			n.UID = "another"
			tx.Nodes.Put(n)
			st, _ := tx.Stamps.Get("acme")
			st.Desired, st.Purge = bulkhead.DesiredDeleted, true
			tx.Stamps.Put(st)
		})
		if got := get(t, s, "acme"); s.View().Tombs.Len() > 0 {
			t.Fatalf("buried while it is on %s", got.Node)
		}
		put(t, s, func(tx *store.Tx) {
			st, _ := tx.Stamps.Get("acme")
			tx.Statuses.Put(bulkhead.StampStatus{Name: "acme", UID: st.UID, Node: st.Node, Epoch: st.Epoch, Generation: st.Generation, Phase: bulkhead.PhaseDeleted})
		})
		synctest.Wait()
		if _, left := s.View().Stamps.Get("acme"); left {
			t.Fatal("it is not erased")
		}
		var tombs []string
		for tomb := range s.View().Tombs.All() {
			tombs = append(tombs, fmt.Sprint(tomb.Of, " ", tomb.StampRef))
		}
		if want := "[{n1 uid-n1} {acme acme-1 5} {n3 uid-n3} {acme acme-1 5}]"; fmt.Sprint(tombs) != want {
			t.Errorf("tombs are %v, want %s", tombs, want)
		}
	})
}

func TestControllerPlacesWhenRoomIsMade(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n1", 1<<30)) })
		put(t, s, func(tx *store.Tx) { tx.Stamps.Put(stamp("acme", 1<<30)) })
		if got := get(t, s, "acme"); got.Node != "n1" {
			t.Fatalf("acme is on %q", got.Node)
		}
		put(t, s, func(tx *store.Tx) { tx.Stamps.Put(stamp("bolt", 1<<30)) })
		if got := get(t, s, "bolt"); got.Node != "" {
			t.Fatalf("bolt is on %q", got.Node)
		}
		put(t, s, func(tx *store.Tx) { tx.Stamps.Delete("acme") })
		if got := get(t, s, "bolt"); got.Node != "n1" {
			t.Errorf("bolt is on %q: %s", got.Node, got.Placement)
		}
	})
}

// TestControllerRestoresWithinRoom: a stamp that was deleted has given its room away, and
// gets it back when it is free.
func TestControllerRestoresWithinRoom(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) {
			tx.Nodes.Put(node("n1", 1<<30))
			old := stamp("old", 1<<30)
			old.Volumes = []bulkhead.Volume{{Name: "data"}}
			tx.Stamps.Put(old)
		})
		old := get(t, s, "old")
		deleted := old
		deleted.Desired, deleted.Generation = bulkhead.DesiredDeleted, 2
		put(t, s, func(tx *store.Tx) {
			tx.Stamps.Put(deleted)
			tx.Statuses.Put(bulkhead.StampStatus{Name: "old", UID: old.UID, Node: "n1", Epoch: old.Epoch, Generation: 2, Phase: bulkhead.PhaseDeleted})
		})
		put(t, s, func(tx *store.Tx) { tx.Stamps.Put(stamp("new", 1<<30)) })
		if got := get(t, s, "new"); got.Node != "n1" {
			t.Fatalf("new is on %q: %s", got.Node, got.Placement)
		}
		restored := old
		restored.Preempted, restored.Generation = "it was deleted", 3
		put(t, s, func(tx *store.Tx) { tx.Stamps.Put(restored) })
		if got := get(t, s, "old"); got.Preempted == "" {
			t.Fatal("it has room that is another's")
		}
		put(t, s, func(tx *store.Tx) { tx.Stamps.Delete("new") })
		if got := get(t, s, "old"); got.Preempted != "" || got.Generation != 4 || got.Node != "n1" || got.Epoch != old.Epoch {
			t.Errorf("with room: %+v", got)
		}
	})
}

// TestControllerCountsWhoStays: a stamp that found no other place when its node was lost
// is counted there when the node is back.
func TestControllerCountsWhoStays(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n1", 1<<30)); tx.Stamps.Put(stamp("old", 1<<30)) })
		if got := get(t, s, "old"); got.Node != "n1" {
			t.Fatalf("old is on %q", got.Node)
		}
		lost := node("n1", 1<<30)
		lost.State, lost.Silent = bulkhead.NodeLost, time.Now()
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(lost) })
		if got := get(t, s, "old"); !strings.HasPrefix(got.Placement, "its node n1 is lost, and") {
			t.Fatalf("old is on %q: %s", got.Node, got.Placement)
		}
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n1", 1<<30)) })
		get(t, s, "old")
		put(t, s, func(tx *store.Tx) { tx.Stamps.Put(stamp("new", 1<<30)) })
		if got := get(t, s, "new"); got.Node != "" {
			t.Errorf("new is on %q, where old is", got.Node)
		}
	})
}

// behind is the way of a server to the state, of which it hears a second late.
type behind struct{}

// mirrors marks the context of what follows the state.
type mirrors struct{}

func (behind) Ask(context.Context) error { return nil }

func (behind) Answer(ctx context.Context) error {
	if ctx.Value(mirrors{}) != nil {
		time.Sleep(time.Second)
	}
	return nil
}

// leadBehind runs a controller that hears of the state a second late, and gives the test
// the state itself.
func leadBehind(t *testing.T, test func(t *testing.T, truth *store.Store, c *Controller)) {
	synctest.Test(t, func(t *testing.T) {
		farm := store.NewShared(nil)
		truth, late := farm.Open(store.Config{}, nil), farm.Open(store.Config{}, behind{})
		ctx, cancel := context.WithCancel(t.Context())
		c := New(Config{Store: late, Log: slog.New(slog.DiscardHandler)})
		var parts sync.WaitGroup
		parts.Go(func() { _ = late.Run(context.WithValue(ctx, mirrors{}, true)) })
		parts.Go(func() { _ = c.Run(ctx) })
		test(t, truth, c)
		cancel()
		parts.Wait()
		if err := errors.Join(late.Close(), truth.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestControllerLeavesWhoIsBack: a leader that has not yet heard that a lost node is back
// takes no stamp from it.
func TestControllerLeavesWhoIsBack(t *testing.T) {
	leadBehind(t, func(t *testing.T, s *store.Store, _ *Controller) {
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n1", 1<<30)); tx.Stamps.Put(stamp("acme", 1<<30)) })
		time.Sleep(time.Minute)
		if got := get(t, s, "acme"); got.Node != "n1" {
			t.Fatalf("acme is on %q", got.Node)
		}
		lost := node("n1", 1<<30)
		lost.State, lost.Silent = bulkhead.NodeLost, time.Now()
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(lost) })
		time.Sleep(time.Minute)
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n2", 1<<30)) }) // there acme could go
		time.Sleep(500 * time.Millisecond)
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n1", 1<<30)) })
		time.Sleep(time.Minute)
		if got := get(t, s, "acme"); got.Node != "n1" || got.Epoch != 1 {
			t.Errorf("acme is on %q under epoch %d: %s", got.Node, got.Epoch, got.Placement)
		}
	})
}

// TestCreateAfterImpatience: who went before the answer came may have got the room; it is
// not given out again.
func TestCreateAfterImpatience(t *testing.T) {
	leadBehind(t, func(t *testing.T, s *store.Store, c *Controller) {
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n1", 1<<30)) })
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		acme, bolt := stamp("acme", 1<<30), stamp("bolt", 1<<30)
		_, _ = c.Create(ctx, []*bulkhead.Stamp{&acme}, agrees)
		if ok, err := c.Create(t.Context(), []*bulkhead.Stamp{&bolt}, agrees); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if a, b := get(t, s, "acme"), get(t, s, "bolt"); a.Node != "n1" || b.Node != "" {
			t.Errorf("acme is on %q, bolt on %q", a.Node, b.Node)
		}
	})
}

// TestControllerCountsWhoStaysFirst: a move that is asked for when a node is back finds
// what has stayed there.
func TestControllerCountsWhoStaysFirst(t *testing.T) {
	for range 10 { // the order of what is planned is any
		lead(t, func(t *testing.T, s *store.Store) {
			put(t, s, func(tx *store.Tx) { tx.Nodes.Put(gated("n1", 1<<30)); tx.Stamps.Put(stamp("old", 1<<30)) })
			get(t, s, "old")
			put(t, s, func(tx *store.Tx) { tx.Nodes.Put(gated("n2", 1<<30)); tx.Stamps.Put(stamp("new", 1<<30)) })
			if got := get(t, s, "new"); got.Node != "n2" {
				t.Fatalf("new is on %q", got.Node)
			}
			lost := gated("n1", 1<<30)
			lost.State, lost.Silent = bulkhead.NodeLost, time.Now()
			put(t, s, func(tx *store.Tx) { tx.Nodes.Put(lost) })
			moves := get(t, s, "new")
			moves.Transfer = &bulkhead.Transfer{ID: "m1", From: "n2", To: "n1", Phase: bulkhead.TransferPlanned, Began: time.Now()}
			put(t, s, func(tx *store.Tx) { tx.Nodes.Put(gated("n1", 1<<30)); tx.Stamps.Put(moves) })
			if got := get(t, s, "new"); got.Transfer != nil || got.Transferred == nil || !strings.Contains(got.Transferred.GivenUp, "free") {
				t.Errorf("new moves to n1, which is full: %+v, %+v", got.Transfer, got.Transferred)
			}
		})
	}
}
