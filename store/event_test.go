package store

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"bulkhead"
)

func TestEvents_AreBounded(t *testing.T) {
	onBoth(t, Config{StampEvents: 16, AllEvents: 64}, func(t *testing.T, s *Store) {
		ids := map[string]int64{}
		for i := range 300 {
			name := bulkhead.StampName(fmt.Sprint("s", i%10))
			if i >= 200 {
				name = "noisy"
			}
			update(t, s, func(tx *Tx) {
				tx.Event(bulkhead.Event{Stamp: name, Type: "stamp.tested", Message: fmt.Sprint(i)})
			})
			e := s.View().Events
			if e.Len() > 64 || len(e.Of(name)) > 16 || e.count(name) != len(e.Of(name)) {
				t.Fatalf("after %d events: %d are kept, %d (%d) of %s", i+1, e.Len(), len(e.Of(name)), e.count(name), name)
			}
			if i >= 100 && e.Len() < 50 {
				t.Fatalf("after %d events: only %d are kept", i+1, e.Len())
			}
			ids[fmt.Sprint(i)] = e.Last()
		}
		var last int64
		for e := range s.View().Events.All() {
			if e.ID <= last || e.ID != ids[e.Message] || e.Time.IsZero() {
				t.Errorf("event %+v after %d, was %d", e, last, ids[e.Message])
			}
			last = e.ID
		}
		noisy := s.View().Events.Of("noisy")
		if n := len(noisy); n < 14 || noisy[n-1].Message != "299" {
			t.Errorf("kept %d of noisy, last %+v", n, noisy[n-1])
		}
		if after := slices.Collect(s.View().Events.After(noisy[len(noisy)-3].ID)); len(after) != 2 {
			t.Errorf("%d events after the last but two", len(after))
		}
	})
}

// Whoever has read up to an ID never misses an event by asking for what is after.
func TestEvents_IDsGrowInTheOrderOfCommits(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					update(t, s, func(tx *Tx) {
						tx.Event(bulkhead.Event{Stamp: "acme", Message: "one"})
						tx.Event(bulkhead.Event{Message: "two"})
					})
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		var last int64
		for n, running := 0, true; n < 320 || running; {
			select {
			case <-done:
				running = false
			default:
			}
			before := n
			for e := range s.View().Events.After(last) {
				last = e.ID
				n++
			}
			if !running && n == before && n != 320 {
				t.Fatalf("a follower saw %d events, want 320", n)
			}
		}
	})
}
