package controller

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"bulkhead"
	"bulkhead/store"
)

// leading runs a controller and hands it to the test, in pretended time.
func leading(t *testing.T, test func(t *testing.T, s *store.Store, c *Controller)) {
	synctest.Test(t, func(t *testing.T) {
		s := store.Memory()
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		c := New(Config{Store: s, Log: slog.New(slog.DiscardHandler)})
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		test(t, s, c)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("controller: %v", err)
		}
		if ok, err := c.Create(t.Context(), nil, nil); ok || err != nil {
			t.Errorf("after its end it creates: %v, %v", ok, err)
		}
	})
}

func agrees(*store.Tx) error { return nil }

// TestCreate: stamps are made and placed in one transaction; what finds no place is
// made all the same, and told why.
func TestCreate(t *testing.T) {
	leading(t, func(t *testing.T, s *store.Store, c *Controller) {
		put(t, s, func(tx *store.Tx) { tx.Nodes.Put(node("n1", 2<<30)) })
		synctest.Wait()
		before := s.View().Revision
		a, b := stamp("a", 900<<20), stamp("b", 900<<20)
		if ok, err := c.Create(t.Context(), []*bulkhead.Stamp{&a, &b}, agrees); !ok || err != nil {
			t.Fatal(ok, err)
		}
		view := s.View() // at once
		for _, name := range []bulkhead.StampName{"a", "b"} {
			if st, _ := view.Stamps.Get(name); st.Node != "n1" || st.Epoch != 1 || st.Placement == "" {
				t.Errorf("%s is on %q, epoch %d: %q", name, st.Node, st.Epoch, st.Placement)
			}
		}
		if view.Revision != before+1 {
			t.Errorf("it took %d transactions", view.Revision-before)
		}
		third := stamp("c", 900<<20)
		if ok, err := c.Create(t.Context(), []*bulkhead.Stamp{&third}, agrees); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if c := get(t, s, "c"); c.Node != "" || c.Placement == "" {
			t.Errorf("what has no room is on %q: %q", c.Node, c.Placement)
		}
	})
}

// TestCreateUndone: what was not written takes no room.
func TestCreateUndone(t *testing.T) {
	leading(t, func(t *testing.T, s *store.Store, c *Controller) {
		put(t, s, func(tx *store.Tx) {
			tx.Nodes.Put(node("n1", 1<<30))
			tx.Stamps.Put(stamp("old", 100<<20))
		})
		get(t, s, "old")
		refusal := errors.New("no")
		big := stamp("big", 800<<20)
		if ok, err := c.Create(t.Context(), []*bulkhead.Stamp{&big}, func(*store.Tx) error { return refusal }); ok || !errors.Is(err, refusal) {
			t.Fatal(ok, err)
		}
		if s.View().Stamps.Len() != 1 {
			t.Fatal("what was refused is there")
		}
		old := stamp("old", 200<<20)
		if ok, err := c.Create(t.Context(), []*bulkhead.Stamp{&old}, agrees); ok || err != nil {
			t.Errorf("a stamp that is there: %v, %v", ok, err)
		}
		if old := get(t, s, "old"); old.Services[0].Budget.MemoryRequest != 100<<20 {
			t.Error("a stamp that is there was changed")
		}
		other := stamp("other", 800<<20)
		if ok, err := c.Create(t.Context(), []*bulkhead.Stamp{&other}, agrees); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if got := get(t, s, "other"); got.Node != "n1" {
			t.Errorf("what was not made stands in the way: %s", got.Placement)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		late := stamp("late", 1<<20)
		if ok, err := c.Create(ended, []*bulkhead.Stamp{&late}, agrees); ok || err == nil {
			t.Errorf("who has gone creates: %v, %v", ok, err)
		}
	})
}
