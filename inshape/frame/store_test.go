package frame

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

func openTestStore(t *testing.T) *Store {
	t.Helper()
	migrations := fstest.MapFS{"00001_thing.sql": {Data: []byte("-- +goose Up\nCREATE TABLE thing (id TEXT PRIMARY KEY, n INTEGER NOT NULL);\n")}}
	s, err := OpenStore(t.Context(), filepath.Join(t.TempDir(), "test.db"), migrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestUpdatesThatShareACommitAreApart(t *testing.T) {
	s := openTestStore(t)
	broken := errors.New("broken")
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			err := s.Update(t.Context(), func(tx *Tx) error {
				if _, err := tx.Exec("INSERT INTO thing VALUES (?, ?)", NewID("thg"), i); err != nil {
					return err
				}
				if i%3 == 0 {
					return broken
				}
				return tx.Emit("thing.made", "thing", "", i)
			})
			if (i%3 == 0) != errors.Is(err, broken) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	group.Wait()
	var n, events int
	err := s.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT (SELECT count(*) FROM thing WHERE n % 3 <> 0), (SELECT count(*) FROM outbox)").Scan(&n, &events)
	})
	if err != nil || n != 66 || events != 66 {
		t.Errorf("%d things and %d events, want 66 of each (%v)", n, events, err)
	}
}

func TestOnceGivesTheFirstResultAgain(t *testing.T) {
	s := openTestStore(t)
	make := func(key, body string) (string, error) {
		ctx := withOnce(WithIdentity(t.Context(), Identity{Subject: "key_a", Role: Staff}), key, "POST", "/x", []byte(body))
		return Once(ctx, s, func(tx *Tx) (string, error) {
			id := NewID("thg")
			_, err := tx.Exec("INSERT INTO thing VALUES (?, 1)", id)
			return id, err
		})
	}
	first, err := make("k", "a")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := make("k", "a"); err != nil || again != first {
		t.Errorf("again gave %q, %v; want %q", again, err, first)
	}
	if _, err := make("k", "b"); err == nil || AsProblem(err).Code != "idempotency-key-reused" {
		t.Errorf("another request under the same key: %v", err)
	}
	if other, err := make("l", "a"); err != nil || other == first {
		t.Errorf("another key gave %q, %v", other, err)
	}
}

func TestUpdateThatPanicsIsAlone(t *testing.T) {
	s := openTestStore(t)
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			err := s.Update(t.Context(), func(tx *Tx) error {
				if _, err := tx.Exec("INSERT INTO thing VALUES (?, ?)", NewID("thg"), i); err != nil {
					return err
				}
				if i%2 == 0 {
					panic("on purpose")
				}
				return nil
			})
			if (i%2 == 0) != (err != nil) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	group.Wait()
	if n := countThings(t, s); n != 25 {
		t.Errorf("there are %d things, want 25", n)
	}
}

func TestUpdateOfWhoHasGoneIsNotMade(t *testing.T) {
	s := openTestStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Update(ctx, func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO thing VALUES ('a', 1)")
		return err
	})
	if !errors.Is(err, context.Canceled) || countThings(t, s) != 0 {
		t.Errorf("%v, and there are %d things", err, countThings(t, s))
	}
}

func TestReadersSeeOnePicture(t *testing.T) {
	s := openTestStore(t)
	insert := func(id string) error {
		return s.Update(t.Context(), func(tx *Tx) error {
			_, err := tx.Exec("INSERT INTO thing VALUES (?, 1)", id)
			return err
		})
	}
	err := s.View(t.Context(), func(tx *sql.Tx) error {
		var before, after int
		if err := tx.QueryRow("SELECT count(*) FROM thing").Scan(&before); err != nil {
			return err
		}
		if err := insert("a"); err != nil {
			return err
		}
		if err := tx.QueryRow("SELECT count(*) FROM thing").Scan(&after); err != nil {
			return err
		}
		if before != after {
			t.Errorf("a reader saw %d things, then %d", before, after)
		}
		_, err := tx.Exec("INSERT INTO thing VALUES ('b', 1)")
		if err == nil {
			t.Error("a reader can write")
		}
		return nil
	})
	if err != nil || countThings(t, s) != 1 {
		t.Errorf("%v, and there are %d things", err, countThings(t, s))
	}
}

func TestStoreOpensAgainAndRefusesBadMigrations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "test.db")
	first := fstest.MapFS{"00001_thing.sql": {Data: []byte("-- +goose Up\nCREATE TABLE thing (id TEXT PRIMARY KEY, n INTEGER NOT NULL);\n")}}
	s, err := OpenStore(t.Context(), path, first)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	broken := fstest.MapFS{"00001_thing.sql": first["00001_thing.sql"], "00002_more.sql": {Data: []byte("-- +goose Up\nALTER TABLE thing ADD COLUMN more TEXT;\nALTER TABLE nothing ADD COLUMN more TEXT;\n")}}
	if _, err := OpenStore(t.Context(), path, broken); err == nil {
		t.Fatal("a migration that fails is taken")
	}
	mended := fstest.MapFS{"00001_thing.sql": first["00001_thing.sql"], "00002_more.sql": {Data: []byte("-- +goose Up\nALTER TABLE thing ADD COLUMN more TEXT NOT NULL DEFAULT '';\n")}}
	s, err = OpenStore(t.Context(), path, mended) // nothing of the one that failed has stayed
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.View(t.Context(), func(tx *sql.Tx) error { _, err := tx.Query("SELECT more FROM thing"); return err }); err != nil {
		t.Error(err)
	}
}

func TestOldThingsAreForgotten(t *testing.T) {
	s := openTestStore(t)
	now := time.Now()
	err := s.Update(t.Context(), func(tx *Tx) error {
		for i, age := range []time.Duration{100, 95, 80, 1} {
			at := Stamp(now.Add(-age * 24 * time.Hour))
			if _, err := tx.Exec("INSERT INTO outbox (id, at, type, subject, party, data) VALUES (?, ?, 'thing.made', '', '', '{}')", i, at); err != nil {
				return err
			}
			if _, err := tx.Exec("INSERT INTO idempotency VALUES ('s', ?, '', '', ?)", i, at); err != nil {
				return err
			}
		}
		if _, err := tx.Exec("INSERT INTO webhook (id, url, secret, types, at, after) VALUES ('w', '', '', '*', '', 4)"); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO delivery (webhook, seq, state, due) VALUES ('w', 1, 'waiting', ?), ('w', 2, 'delivered', ?), ('w', 4, 'delivered', ?)",
			Stamp(now), Stamp(now.Add(-31*24*time.Hour)), Stamp(now))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.forget(t.Context(), now, 90*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	var events, deliveries, keys string
	err = s.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT (SELECT group_concat(seq) FROM outbox), (SELECT group_concat(seq) FROM delivery), (SELECT group_concat(key) FROM idempotency)").Scan(&events, &deliveries, &keys)
	})
	if err != nil || events != "1,3,4" || deliveries != "1,4" || keys != "3" {
		t.Errorf("left are events %s, deliveries %s, keys %s (%v); want 1,3,4 and 1,4 and 3", events, deliveries, keys, err)
	}
}

func countThings(t *testing.T, s *Store) (n int) {
	t.Helper()
	if err := s.View(t.Context(), func(tx *sql.Tx) error { return tx.QueryRow("SELECT count(*) FROM thing").Scan(&n) }); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestIdentifiersSortByTime holds for those of one process, in any order of kinds.
func TestIdentifiersSortByTime(t *testing.T) {
	last := ""
	for range 10_000 {
		id := NewID("thg")
		if !ValidID(id) || id <= last {
			t.Fatalf("%s after %s", id, last)
		}
		last = id
	}
	for _, wrong := range []string{"", "thg_", "thg_06h1955221sn93btghnnn0a5c", "thg_06h1955221sn93btghnnn0a5ci", "THG_06h1955221sn93btghnnn0a5cc", "thg_06h1955221sn93btghnnn0a5cc\n", "../etc/passwd"} {
		if ValidID(wrong) {
			t.Errorf("%q can be an identifier", wrong)
		}
	}
}

// Statements are kept from commit to commit: what they do must not depend on
// that, nor may texts without end fill the memory.
func TestKeptStatements(t *testing.T) {
	s, err := OpenStore(t.Context(), filepath.Join(t.TempDir(), "kept.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	update := func(do func(*Tx) error) error { return s.Update(t.Context(), do) }
	if err := update(func(tx *Tx) error {
		_, err := tx.Exec("CREATE TABLE thing (name TEXT PRIMARY KEY, size INTEGER)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxStatements {
		err := update(func(tx *Tx) error {
			if _, err := tx.Exec("INSERT INTO thing (name, size) VALUES (?, ?)", fmt.Sprint(i), i); err != nil {
				return err
			}
			var size int
			if err := tx.QueryRow("SELECT size FROM thing WHERE name = ?", fmt.Sprint(i)).Scan(&size); err != nil || size != i {
				return fmt.Errorf("size %d, %w", size, err)
			}
			if err := tx.QueryRow(fmt.Sprintf("SELECT size + %d FROM thing WHERE name = ?", i), fmt.Sprint(i)).Scan(&size); err != nil || size != 2*i {
				return fmt.Errorf("size %d, %w", size, err)
			}
			if i%2 == 0 {
				return errors.New("undo")
			}
			return nil
		})
		if undone := err != nil && err.Error() == "undo"; undone != (i%2 == 0) {
			t.Fatalf("update %d: %v", i, err)
		}
	}
	if err := update(func(tx *Tx) error { _, err := tx.Exec("INSERT INTO nowhere VALUES (1)"); return err }); err == nil {
		t.Error("a table that is not there took something")
	}
	if err := update(func(tx *Tx) error { _, err := tx.Exec("ALTER TABLE thing ADD COLUMN colour TEXT"); return err }); err != nil {
		t.Fatal(err)
	}
	var count int
	if err := update(func(tx *Tx) error { return tx.QueryRow("SELECT count(*) FROM thing").Scan(&count) }); err != nil || count != 3*maxStatements/2 {
		t.Errorf("%d things are left, %v", count, err)
	}
	if len(s.statements) != maxStatements {
		t.Errorf("%d statements are kept", len(s.statements))
	}
}
