package store

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	clientv3 "go.etcd.io/etcd/client/v3"

	"bulkhead"
)

// Whoever keeps a copy by Watch ends with what View shows.
func TestWatch_MissesNothing(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp("first")) })
		ctx, cancel := context.WithCancel(t.Context())
		snapshot, changes := s.Watch(ctx)
		known := map[bulkhead.StampName]bool{}
		for st := range snapshot.Stamps.All() {
			known[st.Name] = true
		}
		go func() {
			for i := range 200 {
				_ = s.Update(ctx, func(tx *Tx) error {
					tx.Stamps.Delete(bulkhead.StampName(fmt.Sprint("s", i-3)))
					tx.Stamps.Put(stamp(fmt.Sprint("s", i)))
					return nil
				})
			}
			_ = s.Update(ctx, func(tx *Tx) error { tx.Notes.Put(Note{Name: "end"}); return nil })
		}()
		for c := range changes {
			view := s.View()
			if view.Revision < c.Revision {
				t.Fatalf("change at %d, but the view is of %d", c.Revision, view.Revision)
			}
			if c.Table == Notes {
				break
			}
			if _, ok := view.Stamps.Get(bulkhead.StampName(c.Key)); ok {
				known[bulkhead.StampName(c.Key)] = true
			} else {
				delete(known, bulkhead.StampName(c.Key))
			}
		}
		if len(known) != s.View().Stamps.Len() {
			t.Errorf("the watcher knows %d stamps, there are %d", len(known), s.View().Stamps.Len())
		}
		cancel()
		for range changes { // ends because it is closed
		}
	})
}

func TestWatch_SlowReaderGetsOneChangePerObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Memory()
		ctx, cancel := context.WithCancel(t.Context())
		_, changes := s.Watch(ctx)
		for range 50 {
			update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp("acme")); tx.Stamps.Put(stamp("beta")) })
		}
		got := map[string]int{}
		for {
			synctest.Wait()
			var c Change
			select {
			case c = <-changes:
			default:
			}
			if c.Table == "" {
				break
			}
			got[c.Key]++
		}
		// One may have been on its way to the reader already.
		if got["acme"] > 2 || got["beta"] > 2 || got["acme"] == 0 || got["beta"] == 0 {
			t.Errorf("100 changes of two objects reached the reader as %v", got)
		}
		cancel()
		synctest.Wait()
	})
}

func TestWatch_TooMuchBecomesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Memory()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, changes := s.Watch(ctx)
		for i := range mostPending/1000 + 2 {
			update(t, s, func(tx *Tx) {
				for j := range 1000 {
					tx.Notes.Put(Note{Name: fmt.Sprint(i, "/", j)})
				}
			})
		}
		n := 0
		for c := range changes {
			n++
			if c.Everything() {
				if c.Revision != s.View().Revision {
					t.Errorf("everything up to %d, want %d", c.Revision, s.View().Revision)
				}
				cancel()
			}
		}
		if n > 2 {
			t.Errorf("%d changes before everything", n)
		}
	})
}

// A mirror whose place in etcd's history was compacted away reads all anew.
func TestFollow_RecoversFromCompaction(t *testing.T) {
	s := open(t, Config{})
	first := s.engine.(*etcd)
	late := &etcd{config: first.config, client: first.client, mirror: newMirror()}
	if err := late.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp(fmt.Sprint("s", i))) })
	}
	update(t, s, func(tx *Tx) { tx.Stamps.Delete("s0") })
	if _, err := first.client.Compact(t.Context(), s.View().Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	behind := newStore(first.config, late, late.mirror)
	_, changes := behind.Watch(ctx)
	late.following.Go(func() { late.follow(ctx) })
	if c := <-changes; !c.Everything() {
		t.Errorf("got %+v, want everything", c)
	}
	update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp("after")) })
	if err := late.mirror.wait(t.Context(), s.View().Revision); err != nil {
		t.Fatal(err)
	}
	if got, want := behind.View().Stamps.Len(), s.View().Stamps.Len(); got != want {
		t.Errorf("the late mirror has %d stamps, want %d", got, want)
	}
	cancel()
	late.following.Wait()
}

// A reader that takes all at once gets what one that takes each gets.
func TestWatchMany(t *testing.T) {
	s := Memory()
	_, changes := s.WatchMany(t.Context())
	for i := range 3 {
		update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp(fmt.Sprint("a", i))); tx.Stamps.Put(stamp("same")) })
	}
	seen := map[string]int64{}
	for len(seen) < 4 || seen["same"] < s.View().Revision {
		for _, c := range <-changes {
			if c.Revision <= seen[c.Key] {
				t.Errorf("%s at revision %d after %d", c.Key, c.Revision, seen[c.Key])
			}
			seen[c.Key] = c.Revision
		}
	}
}
