package frame

import (
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
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
