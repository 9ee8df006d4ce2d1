package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"bulkhead"
)

// open starts a store in a new folder.
func open(t testing.TB, config Config) *Store {
	t.Helper()
	folder, err := Lock(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	config.Folder = folder
	s, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, s) })
	return s
}

func shut(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s.config.Folder != nil {
		_ = s.config.Folder.Close()
	}
}

// onBoth runs a test on etcd and in memory: they must not differ.
func onBoth(t *testing.T, config Config, test func(t *testing.T, s *Store)) {
	t.Run("etcd", func(t *testing.T) { test(t, open(t, config)) })
	t.Run("memory", func(t *testing.T) {
		s := Memory()
		config := config.withDefaults()
		s.config = config
		t.Cleanup(func() { shut(t, s) })
		test(t, s)
	})
}

func update(t testing.TB, s *Store, fn func(tx *Tx)) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *Tx) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func stamp(name string) bulkhead.Stamp {
	return bulkhead.Stamp{Name: bulkhead.StampName(name), UID: "uid-" + name, Labels: map[string]string{"a": "b"}}
}

func TestUpdate_ShowsInTheNextView(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		empty := s.View()
		update(t, s, func(tx *Tx) {
			tx.Stamps.Put(stamp("acme"))
			tx.Stamps.Put(stamp("beta"))
			tx.Releases.Put(bulkhead.Release{Product: "shop", Version: "1"})
			tx.Releases.Put(bulkhead.Release{Product: "shop", Version: "2"})
			tx.Releases.Put(bulkhead.Release{Product: "shopping", Version: "1"})
			tx.Nodes.Put(bulkhead.Node{Name: "n1"})
			tx.Tokens.Put(Token{Hash: "h", Operator: "ann"})
			tx.Notes.Put(Note{Name: "cluster", Text: "c1"})
		})
		v := s.View()
		var names []bulkhead.StampName
		for st := range v.Stamps.All() {
			names = append(names, st.Name)
		}
		if !slices.Equal(names, []bulkhead.StampName{"acme", "beta"}) {
			t.Errorf("stamps: %v", names)
		}
		var versions []string
		for r := range v.Releases.Under(NewReleaseKey("shop", "")) {
			versions = append(versions, r.Version)
		}
		if !slices.Equal(versions, []string{"1", "2"}) {
			t.Errorf("releases of shop: %v", versions)
		}
		if token, ok := v.Tokens.Get("h"); !ok || token.Operator != "ann" || v.Nodes.Len() != 1 || v.Notes.Len() != 1 {
			t.Errorf("token %v, %d nodes, %d notes", token, v.Nodes.Len(), v.Notes.Len())
		}
		if empty.Stamps.Len() != 0 {
			t.Error("an earlier snapshot has changed")
		}

		update(t, s, func(tx *Tx) { tx.Stamps.Delete("acme"); tx.Stamps.Delete("nobody") })
		if _, ok := s.View().Stamps.Get("acme"); ok || s.View().Stamps.Len() != 1 {
			t.Error("acme is still there")
		}
		if _, ok := v.Stamps.Get("acme"); !ok {
			t.Error("an earlier snapshot has changed")
		}
	})
}

func TestUpdate_ReadsItsOwnWrites(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp("acme")) })
		update(t, s, func(tx *Tx) {
			tx.Stamps.Delete("acme")
			tx.Stamps.Put(stamp("beta"))
			b := stamp("gamma")
			tx.Stamps.Put(b)
			b.Labels["a"] = "changed after Put"
			if tx.Stamps.Has("acme") || !tx.Stamps.Has("beta") {
				t.Error("a transaction does not see what it wrote")
			}
			n := 0
			for st := range tx.Stamps.All() {
				n++
				if st.Labels["a"] != "b" {
					t.Errorf("%s shares its labels with the caller of Put", st.Name)
				}
			}
			if n != 2 {
				t.Errorf("%d stamps in the transaction, want 2", n)
			}
		})
		if n := s.View().Stamps.Len(); n != 2 {
			t.Errorf("%d stamps, want 2", n)
		}
	})
}

func TestUpdate_ErrorWritesNothing(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		before, mine := s.View().Revision, errors.New("mine")
		err := s.Update(t.Context(), func(tx *Tx) error { tx.Stamps.Put(stamp("acme")); return mine })
		if err != mine { //nolint:errorlint // as it is
			t.Errorf("got %v, want fn's own error", err)
		}
		for what, fn := range map[string]func(tx *Tx){
			"a nameless stamp": func(tx *Tx) { tx.Stamps.Put(bulkhead.Stamp{}) },
			"a huge stamp": func(tx *Tx) {
				st := stamp("acme")
				st.Sealed = make([]byte, MaxObject)
				tx.Stamps.Put(st)
			},
			"too many stamps": func(tx *Tx) {
				for i := range MaxChanges + 1 {
					tx.Stamps.Put(stamp(fmt.Sprint(i)))
				}
			},
			"too many events": func(tx *Tx) {
				for range 1<<placeBits + 1 {
					tx.Event(bulkhead.Event{})
				}
			},
		} {
			err := s.Update(t.Context(), func(tx *Tx) error { fn(tx); return nil })
			if bulkhead.KindOf(err) == nil {
				t.Errorf("%s: got %v", what, err)
			}
		}
		if s.View().Revision != before {
			t.Error("a failed Update has changed the state")
		}
	})
}

// The largest transaction that the bounds allow passes etcd's own.
func TestUpdate_TakesWhatItsBoundsAllow(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		update(t, s, func(tx *Tx) {
			for i := range MaxChanges {
				st := stamp(fmt.Sprint(i))
				st.Sealed = make([]byte, 2500)
				tx.Stamps.Put(st)
			}
		})
		update(t, s, func(tx *Tx) {
			for i := range MaxChanges - 1 { // and the mark of deletions
				tx.Stamps.Delete(bulkhead.StampName(fmt.Sprint(i)))
			}
		})
		if n := s.View().Stamps.Len(); n != 1 {
			t.Errorf("%d stamps left, want 1", n)
		}
	})
}

// What Update reads is still so when it writes: every way in which it could
// have changed makes fn run again.
func TestUpdate_RunsAgainWhenWhatItReadHasChanged(t *testing.T) {
	put := func(name string) func(tx *Tx) { return func(tx *Tx) { tx.Stamps.Put(stamp(name)) } }
	cases := map[string]struct {
		read    func(tx *Tx)
		meddle  func(tx *Tx)
		already bool // acme exists before
		again   bool
	}{
		"object changed":         {func(tx *Tx) { tx.Stamps.Get("acme") }, put("acme"), true, true},
		"object created":         {func(tx *Tx) { tx.Stamps.Get("acme") }, put("acme"), false, true},
		"object deleted":         {func(tx *Tx) { tx.Stamps.Has("acme") }, func(tx *Tx) { tx.Stamps.Delete("acme") }, true, true},
		"table got an object":    {func(tx *Tx) { scan(tx.Stamps.All()) }, put("beta"), false, true},
		"table lost an object":   {func(tx *Tx) { scan(tx.Stamps.All()) }, func(tx *Tx) { tx.Stamps.Delete("acme") }, true, true},
		"table's object changed": {func(tx *Tx) { scan(tx.Stamps.All()) }, put("acme"), true, true},
		"prefix got an object":   {func(tx *Tx) { scan(tx.Stamps.Under("b")) }, put("beta"), true, true},
		"other object":           {func(tx *Tx) { tx.Stamps.Get("acme") }, put("beta"), true, false},
		"other prefix":           {func(tx *Tx) { scan(tx.Stamps.Under("b")) }, put("acme"), true, false},
		"other table":            {func(tx *Tx) { scan(tx.Stamps.All()) }, func(tx *Tx) { tx.Nodes.Put(bulkhead.Node{Name: "n"}) }, true, false},
		"nothing read":           {func(tx *Tx) {}, put("acme"), true, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, Config{}, func(t *testing.T, s *Store) {
				if c.already {
					update(t, s, put("acme"))
				}
				runs := 0
				update(t, s, func(tx *Tx) {
					runs++
					c.read(tx)
					if runs == 1 {
						update(t, s, c.meddle)
					}
					tx.Notes.Put(Note{Name: "done", Text: fmt.Sprint(runs)})
				})
				if again := runs > 1; again != c.again {
					t.Errorf("fn ran %d times; run again: want %v", runs, c.again)
				}
			})
		})
	}
}

func scan[T any](all func(func(T) bool)) {
	for range all {
	}
}

func TestUpdate_GivesUpInTheEnd(t *testing.T) {
	s := Memory()
	err := s.Update(t.Context(), func(tx *Tx) error {
		tx.Stamps.Get("acme")
		update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp("acme")) })
		tx.Notes.Put(Note{Name: "never"})
		return nil
	})
	if !errors.Is(err, bulkhead.ErrConflict) || s.View().Notes.Len() != 0 {
		t.Errorf("got %v and %d notes", err, s.View().Notes.Len())
	}
}

func TestUpdate_OneOfAThousandRacingCreatesWins(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		var winners, losers atomic.Int32
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range 1000 {
			wg.Go(func() {
				<-start
				err := s.Update(t.Context(), func(tx *Tx) error {
					if tx.Stamps.Has("acme") {
						return bulkhead.Errorf(bulkhead.ErrConflict, "stamp acme exists")
					}
					st := stamp("acme")
					st.UID = fmt.Sprint(i)
					tx.Stamps.Put(st)
					return nil
				})
				switch {
				case err == nil:
					winners.Add(1)
					if st, _ := s.View().Stamps.Get("acme"); st.UID != fmt.Sprint(i) {
						t.Errorf("%d won, but the stamp is %s's", i, st.UID)
					}
				case errors.Is(err, bulkhead.ErrConflict):
					losers.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if winners.Load() != 1 || losers.Load() != 999 {
			t.Errorf("%d winners, %d losers", winners.Load(), losers.Load())
		}
	})
}

// Nobody starves: a hundred writers of one counter all get through.
func TestUpdate_CountsEveryIncrement(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range 5 {
					update(t, s, func(tx *Tx) {
						st, _ := tx.Stamps.Get("acme")
						st.Name = "acme"
						st.Generation++
						tx.Stamps.Put(st)
					})
				}
			})
		}
		wg.Wait()
		if st, _ := s.View().Stamps.Get("acme"); st.Generation != 500 {
			t.Errorf("counted %d, want 500", st.Generation)
		}
	})
}

// Transactions behave as if they ran one after the other, in an order that
// agrees with the clock: replayed in the order of their revisions, each reads
// what it read, and none that began after another had ended comes before it.
func TestUpdate_IsStrictlySerializable(t *testing.T) {
	type program struct{ Reads, Writes []string }
	type result struct {
		seen       map[string]string
		wrote      map[string]string
		began, end int64 // by a counter of all events
		revision   int64
	}
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		round := 0
		rapid.Check(t, func(t *rapid.T) {
			round++
			keys := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID)
			clients := rapid.SliceOfN(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) program {
				return program{keys.Draw(t, "reads"), keys.Draw(t, "writes")}
			}), 1, 4), 1, 4).Draw(t, "clients")

			var clock, failed atomic.Int64
			results := make([][]result, len(clients))
			var wg sync.WaitGroup
			for c, programs := range clients {
				wg.Go(func() {
					for i, p := range programs {
						r := result{began: clock.Add(1)}
						var err error
						r.revision, err = s.update(context.Background(), nil, func(tx *Tx) error {
							r.seen, r.wrote = map[string]string{}, map[string]string{}
							for _, key := range p.Reads {
								note, _ := tx.Notes.Get(fmt.Sprint(round, key))
								r.seen[key] = note.Text
							}
							for _, key := range p.Writes {
								r.wrote[key] = fmt.Sprint(c, "/", i)
								tx.Notes.Put(Note{fmt.Sprint(round, key), r.wrote[key]})
							}
							return nil
						})
						if err != nil {
							failed.Add(1)
						}
						r.end = clock.Add(1)
						results[c] = append(results[c], r)
					}
				})
			}
			wg.Wait()
			if failed.Load() > 0 {
				t.Fatalf("%d updates failed", failed.Load())
			}
			all := slices.Concat(results...)
			slices.SortStableFunc(all, func(a, b result) int {
				// A transaction that wrote nothing stands at the revision that it read.
				if a.revision != b.revision {
					return int(a.revision - b.revision)
				}
				return len(b.wrote) - len(a.wrote)
			})
			state := map[string]string{}
			for i, r := range all {
				for key, text := range r.seen {
					if state[key] != text {
						t.Fatalf("at revision %d %s was read as %q, is %q", r.revision, key, text, state[key])
					}
				}
				for key, text := range r.wrote {
					state[key] = text
				}
				for _, later := range all[i+1:] {
					if later.end < r.began && len(r.wrote)+len(later.wrote) > 0 && later.revision > r.revision {
						t.Fatalf("what ended at %d stands after what began at %d", later.end, r.began)
					}
				}
			}
		})
	})
}

func TestPutStatus(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		st := stamp("acme")
		st.Node, st.Epoch = "n1", 3
		update(t, s, func(tx *Tx) { tx.Stamps.Put(st) })
		good := bulkhead.StampStatus{
			Name: "acme", UID: st.UID, Node: "n1", Epoch: 3, Phase: bulkhead.PhaseRunning,
			Tasks: []bulkhead.Task{{ID: "acme.web.1-x", State: bulkhead.TaskRunning}},
		}
		if err := s.PutStatus(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		if got, ok := s.View().Statuses.Get("acme"); !ok || got.Tasks[0].State != bulkhead.TaskRunning {
			t.Errorf("status is %+v", got)
		}
		before := s.View().Revision
		if err := s.PutStatus(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		for want, change := range map[error]func(*bulkhead.StampStatus){
			bulkhead.ErrNotFound: func(s *bulkhead.StampStatus) { s.Name = "nobody" },
			bulkhead.ErrConflict: func(s *bulkhead.StampStatus) { s.Epoch = 2 },
		} {
			bad := good
			change(&bad)
			if err := s.PutStatus(t.Context(), bad); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		for _, change := range []func(*bulkhead.StampStatus){
			func(s *bulkhead.StampStatus) { s.UID = "earlier" },
			func(s *bulkhead.StampStatus) { s.Node = "n2" },
		} {
			bad := good
			change(&bad)
			if err := s.PutStatus(t.Context(), bad); !errors.Is(err, bulkhead.ErrConflict) {
				t.Errorf("got %v, want a conflict", err)
			}
		}
		if s.View().Revision != before {
			t.Error("statuses that say nothing new, or are refused, were written")
		}
	})
}

func TestMemory_TellsWhoChangesASnapshot(t *testing.T) {
	s := Memory()
	update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp("acme")) })
	update(t, s, func(tx *Tx) { st, _ := tx.Stamps.Get("acme"); st.Labels["a"] = "mine alone" })
	if err := s.Close(); err != nil {
		t.Errorf("a change of a private copy: %v", err)
	}
	st, _ := s.View().Stamps.Get("acme")
	st.Labels["a"] = "everybody's"
	if s.Close() == nil {
		t.Error("a change of a snapshot went unnoticed")
	}
}

func TestMemory_WorksInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Memory()
		ctx, cancel := context.WithCancel(t.Context())
		_, changes := s.Watch(ctx)
		go func() {
			_ = s.Lead(ctx, func(ctx context.Context, l *Leader) error {
				_ = l.Update(ctx, func(tx *Tx) error { tx.Stamps.Put(stamp("acme")); return nil })
				<-ctx.Done()
				return nil
			})
		}()
		if c := <-changes; c.Table != Stamps || c.Key != "acme" {
			t.Errorf("got %+v", c)
		}
		cancel()
		synctest.Wait()
	})
}

// The stamps of a node are those that the whole table says.
func TestStampTable_On(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Memory()
		nodes := []bulkhead.NodeName{"", "n1", "n10", "n2"}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "stamp")
			err := s.Update(context.Background(), func(tx *Tx) error {
				if rapid.IntRange(0, 4).Draw(t, "delete") == 0 {
					tx.Stamps.Delete(bulkhead.StampName(name))
					return nil
				}
				st := stamp(name)
				st.Node = rapid.SampledFrom(nodes).Draw(t, "node")
				tx.Stamps.Put(st)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			view := s.View()
			for _, node := range nodes[1:] {
				var want []bulkhead.StampName
				for st := range view.Stamps.All() {
					if st.Node == node {
						want = append(want, st.Name)
					}
				}
				if got := slices.Collect(view.Stamps.On(node)); !slices.Equal(got, want) {
					t.Fatalf("on %s: %v, want %v", node, got, want)
				}
			}
		}
	})
}

// Stamps that are alike share what they have in common; a transaction gets its own.
func TestParts_AreSharedAndPrivateInTransactions(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		with := func(name, command string) bulkhead.Stamp {
			st := stamp(name)
			st.Services = []bulkhead.Service{{Name: "web", Command: []string{command}, Networks: []bulkhead.Attachment{{Network: "default"}}}}
			st.Volumes = []bulkhead.Volume{{Name: "data"}}
			return st
		}
		update(t, s, func(tx *Tx) {
			tx.Stamps.Put(with("acme", "run"))
			tx.Stamps.Put(with("beta", "run"))
			tx.Stamps.Put(with("gamma", "walk"))
			tx.Stamps.Put(stamp("none"))
		})
		get := func(name bulkhead.StampName) bulkhead.Stamp { st, _ := s.View().Stamps.Get(name); return st }
		if a, b := get("acme"), get("beta"); &a.Services[0] != &b.Services[0] || &a.Volumes[0] != &b.Volumes[0] {
			t.Error("equal parts are kept twice")
		}
		if g := get("gamma"); g.Services[0].Command[0] != "walk" || g.Name != "gamma" {
			t.Errorf("gamma is %+v", g)
		}
		if n := get("none"); n.Services != nil || n.Volumes != nil || n.Routes != nil {
			t.Errorf("a stamp without parts got another's: %+v", n)
		}
		update(t, s, func(tx *Tx) {
			st, _ := tx.Stamps.Get("acme")
			st.Services[0].Command[0] = "jump"
			tx.Stamps.Put(st)
		})
		if a, b := get("acme"), get("beta"); a.Services[0].Command[0] != "jump" || b.Services[0].Command[0] != "run" {
			t.Errorf("a change of acme's: acme %v, beta %v", a.Services[0].Command, b.Services[0].Command)
		}
	})
}

// However many different parts there are, few are remembered, and all are right.
func TestParts_AreBounded(t *testing.T) {
	p := &parts{}
	for i := range 5 * mostParts {
		var st bulkhead.Stamp
		if err := p.decode(fmt.Appendf(nil, `{"name":"s","services":[{"name":"web","replicas":%d}]}`, i%(3*mostParts)), &st); err != nil {
			t.Fatal(err)
		}
		if st.Name != "s" || len(st.Services) != 1 || st.Services[0].Replicas != i%(3*mostParts) {
			t.Fatalf("%d: %+v", i, st)
		}
	}
	if n := len(p.services.known) + len(p.services.former); n > 2*mostParts {
		t.Errorf("%d parts are remembered", n)
	}
	if err := p.decode([]byte(`{"services":[{"name":7}]}`), &bulkhead.Stamp{}); err == nil {
		t.Error("what is no service was taken")
	}
}
