package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"bulkhead/clustertest/history"
)

// clientMost is how long a client of a history waits for an answer.
const clientMost = 2 * time.Second

// access is how the clients of a history use a store: as they should, or by a
// mistake that the history must show.
type access struct {
	// sync comes before reading and changing, as in package api.
	sync func(context.Context, *Store) error
	// peek is what a change compares with.
	peek func(tx *Tx, s *Store, key string) string
}

func properly() access {
	return access{
		sync: func(ctx context.Context, s *Store) error { return s.Sync(ctx) },
		peek: func(tx *Tx, _ *Store, key string) string { n, _ := tx.Notes.Get(key); return n.Text },
	}
}

func (a access) read(ctx context.Context, s *Store, key string) (string, error) {
	if err := a.sync(ctx, s); err != nil {
		return "", err
	}
	n, _ := s.View().Notes.Get(key)
	return n.Text, nil
}

func (a access) swap(ctx context.Context, s *Store, key, from, to string) error {
	if err := a.sync(ctx, s); err != nil {
		return fmt.Errorf("%w: %w", history.ErrUnsent, err)
	}
	runs := 0
	return s.Update(ctx, func(tx *Tx) error {
		runs++
		switch now := a.peek(tx, s, key); {
		case now == to && to != "":
			return nil // an earlier run has made it, and nobody heard
		case now != from && runs > 1:
			return history.ErrUnknown // an earlier run may have made it, and another has changed it since
		case now != from:
			return history.ErrRefused
		case to == "":
			tx.Notes.Delete(key)
		default:
			tx.Notes.Put(Note{Name: key, Text: to})
		}
		return nil
	})
}

// play lets five clients use registers at all members until stop is closed, and
// reads every register at every member in the end.
func (c *cluster) play(r *history.Recorder, a access, seed uint64, stop <-chan struct{}) {
	const clients, registers = 5, 3
	key := func(i int) string { return fmt.Sprintf("history-%d-%d", seed, i) }
	var playing sync.WaitGroup
	for client := range clients {
		random := rand.New(rand.NewPCG(seed, uint64(client)))
		playing.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(random.IntN(20)) * time.Millisecond):
				}
				s := c.members[random.IntN(len(c.members))].get()
				if s == nil {
					continue
				}
				ctx, cancel := context.WithTimeout(c.t.Context(), clientMost)
				key := key(random.IntN(registers))
				value, err := r.Read(client, key, func() (string, error) { return a.read(ctx, s, key) })
				if err == nil && random.IntN(2) == 0 {
					to := fmt.Sprintf("%d.%d", client, i)
					if value != "" && random.IntN(4) == 0 {
						to = ""
					}
					_ = r.Swap(client, key, value, to, func() error { return a.swap(ctx, s, key, value, to) })
				}
				cancel()
			}
		})
	}
	playing.Wait()
	for i := range registers {
		for _, m := range c.members {
			var err error
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
				if _, err = r.Read(clients, key(i), func() (string, error) { return a.read(c.t.Context(), m.get(), key(i)) }); err == nil {
					break
				}
			}
			if err != nil {
				c.t.Errorf("read of %s at %s when all is well: %v", key(i), m.name, err)
			}
		}
	}
}

// faults of a cluster. Each ends what it began.
func (c *cluster) faults() map[string]func(*clusterMember) {
	lasting := func(direction string) func(*clusterMember) {
		return func(m *clusterMember) {
			c.isolate(m, direction)
			time.Sleep(2500 * time.Millisecond) // longer than an election takes
			c.wire.whole()
		}
	}
	return map[string]func(*clusterMember){
		"cut off":       lasting("both"),
		"not heard":     lasting("out"),
		"hears nothing": lasting("in"),
		"flapping": func(m *clusterMember) {
			for range 8 {
				c.isolate(m, "both")
				time.Sleep(150 * time.Millisecond)
				c.wire.whole()
				time.Sleep(150 * time.Millisecond)
			}
		},
		"killed": func(m *clusterMember) {
			c.down(m)
			time.Sleep(time.Second)
			c.up(m)
		},
		"everybody cut off from everybody": func(*clusterMember) {
			for _, m := range c.members {
				c.isolate(m, "both")
			}
			time.Sleep(2 * time.Second)
			c.wire.whole()
		},
	}
}

// trials is how often what needs many is done: few where every commit is tested,
// BULKHEAD_TEST_TRIALS elsewhere.
func trials(few int) int {
	if n, err := strconv.Atoi(os.Getenv("BULKHEAD_TEST_TRIALS")); err == nil && n > 0 {
		return n
	}
	return few
}

// TestCluster is three members with faults between them.
func TestCluster(t *testing.T) {
	c := newCluster(t)
	t.Run("histories", func(t *testing.T) { testHistories(t, c) })
	t.Run("mistakes show", func(t *testing.T) { testMistakes(t, c) })
	t.Run("a deposed leader", func(t *testing.T) { testDeposed(t, c) })
}

// testHistories: whatever is between three members, or happens to the one that
// leads, clients that use all of them at once see one state, changed in one order;
// what was acknowledged stays.
func testHistories(t *testing.T, c *cluster) {
	all, unknown := 0, 0
	for trial := range trials(1) {
		for name, fault := range c.faults() {
			t.Run(fmt.Sprintf("%s/%d", name, trial), func(t *testing.T) {
				seed := rand.Uint64() >> 40
				r, stop := history.NewRecorder(), make(chan struct{})
				leader := c.leader()
				go func() {
					defer close(stop)
					time.Sleep(200 * time.Millisecond)
					fault(leader)
					time.Sleep(300 * time.Millisecond)
				}()
				c.play(r, properly(), seed, stop)
				if err := r.Check(); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
				made, open := r.Count()
				if made < 20 {
					t.Errorf("only %d operations", made)
				}
				all, unknown = all+made, unknown+open
			})
		}
	}
	t.Logf("%d histories, %d operations, the outcome of %d unknown to their clients", trials(1)*len(c.faults()), all, unknown)
}

// testMistakes: clients that make a mistake are found out by what they see, or
// testHistories could not fail.
func testMistakes(t *testing.T, c *cluster) {
	mistakes := map[string]access{
		"a view is taken for the newest": {sync: func(context.Context, *Store) error { return nil }, peek: properly().peek},
		"a change depends on nothing that it reads": {sync: properly().sync, peek: func(_ *Tx, s *Store, key string) string {
			n, _ := s.View().Notes.Get(key)
			time.Sleep(50 * time.Millisecond) // and it takes its time
			return n.Text
		}},
	}
	for what, a := range mistakes {
		t.Run(what, func(t *testing.T) {
			for range 5 { // chance may hide it
				r, stop := history.NewRecorder(), make(chan struct{})
				leader := c.leader()
				go func() {
					defer close(stop)
					c.faults()["cut off"](leader)
				}()
				c.play(r, a, rand.Uint64()>>40, stop)
				if r.Check() != nil {
					return
				}
			}
			t.Error("nothing came to light")
		})
	}
	// And the store is still one: the members agree in the end.
	var texts []string
	for _, m := range c.members {
		if err := m.get().Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		text := ""
		for n := range m.get().View().Notes.All() {
			text += n.Name + "=" + n.Text + "\n"
		}
		texts = append(texts, text)
	}
	if len(slices.Compact(texts)) != 1 {
		t.Errorf("the members differ:\n%q", texts)
	}
}

// testDeposed: a leader that was cut off and does not know it writes nothing once
// another leads, however it tries, and neither does what it had on its way.
func testDeposed(t *testing.T, c *cluster) {
	for trial := range trials(2) {
		m := c.leader()
		ctx, stop := context.WithCancel(t.Context())
		first, _, firstDone := candidate(t, ctx, m.get())
		old := <-first
		next := c.members[(slices.Index(c.members, m)+1)%3]
		second, _, secondDone := candidate(t, ctx, next.get())
		c.isolate(m, "both")
		stale := make(chan error, 1)
		go func() { // on its way before anybody else leads, and again and again
			for {
				err := old.Update(ctx, func(tx *Tx) error { tx.Notes.Put(Note{Name: "stale", Text: fmt.Sprint(trial)}); return nil })
				if err == nil || errors.Is(err, ErrDeposed) || ctx.Err() != nil {
					stale <- err
					return
				}
			}
		}()
		lead := <-second
		if err := lead.Update(ctx, func(tx *Tx) error { tx.Notes.Put(Note{Name: "fresh", Text: fmt.Sprint(trial)}); return nil }); err != nil {
			t.Fatal(err)
		}
		c.wire.whole()
		if err := <-stale; !errors.Is(err, ErrDeposed) {
			t.Errorf("trial %d: the deposed leader's write: %v", trial, err)
		}
		for _, m := range c.members {
			if err := m.get().Sync(ctx); err != nil {
				t.Fatal(err)
			}
			if n, ok := m.get().View().Notes.Get("stale"); ok {
				t.Errorf("trial %d: at %s is written what a deposed leader wrote: %s", trial, m.name, n.Text)
			}
			if n, _ := m.get().View().Notes.Get("fresh"); n.Text != fmt.Sprint(trial) {
				t.Errorf("trial %d: at %s the new leader's write is %q", trial, m.name, n.Text)
			}
		}
		stop()
		<-firstDone
		<-secondDone
	}
}
