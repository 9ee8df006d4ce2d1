package front

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"inshape/frame"
)

// Key is an API key: what a program shows instead of signing in.
type Key struct {
	ID    string     `json:"id"`
	Name  string     `json:"name"`
	Role  frame.Role `json:"role" enum:"customer,staff,admin"`
	Party string     `json:"party,omitempty"`
	At    time.Time  `json:"at"`
	Used  *time.Time `json:"used,omitempty" doc:"When it was shown last, to the minute"`
	Key   string     `json:"key,omitempty" doc:"Shown once, when the key is made"`
}

const usedEvery = time.Minute // how exactly it is known when a key was used

// makeKey makes a key. It takes no Idempotency-Key: to give the same key again
// it would have to be kept.
func (a *accounts) makeKey(ctx context.Context, k Key) (Key, error) {
	k.ID, k.Key, k.At = frame.NewID("key"), newSecret("ink_"), time.Now().UTC()
	err := a.store.Update(ctx, func(tx *frame.Tx) error {
		if err := checkParty(tx, k.Role, k.Party); err != nil {
			return err
		}
		if _, err := tx.Exec("INSERT INTO api_key (id, hash, name, role, party, maker, at) VALUES (?, ?, ?, ?, nullif(?, ''), ?, ?)",
			k.ID, hashSecret(k.Key), k.Name, k.Role, k.Party, frame.Who(ctx).Subject, frame.Stamp(k.At)); err != nil {
			return fmt.Errorf("keep key: %w", err)
		}
		return tx.Audit("key.create", k.ID, "%s as %s", k.Name, k.Role)
	})
	return k, err
}

func (a *accounts) keys(ctx context.Context, page frame.Page) (frame.List[Key], error) {
	var list []Key
	err := a.store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT id, name, role, coalesce(party, ''), at, used FROM api_key WHERE ? = '' OR id < ? ORDER BY id DESC LIMIT ?",
			page.After, page.After, page.Limit+1)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k Key
			var at, used string
			if err := rows.Scan(&k.ID, &k.Name, &k.Role, &k.Party, &at, &used); err != nil {
				return err
			}
			k.At = frame.ParseStamp(at)
			if last := frame.ParseStamp(used); !last.IsZero() {
				k.Used = &last
			}
			list = append(list, k)
		}
		return rows.Err()
	})
	if err != nil {
		return frame.List[Key]{}, fmt.Errorf("read keys: %w", err)
	}
	return frame.ListOf(list, page.Limit, func(k Key) string { return k.ID }), nil
}

// revoke makes a key worthless at once.
func (a *accounts) revoke(ctx context.Context, id string) error {
	return a.store.Update(ctx, func(tx *frame.Tx) error {
		var name string
		err := tx.QueryRow("DELETE FROM api_key WHERE id = ? RETURNING name", id).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return frame.NotFound("there is no key %s", id)
		}
		if err != nil {
			return fmt.Errorf("delete key: %w", err)
		}
		return tx.Audit("key.revoke", id, "%s", name)
	})
}

// keyHolder is who has a key.
func (a *accounts) keyHolder(ctx context.Context, key string) (frame.Identity, error) {
	var who frame.Identity
	var used string
	err := a.store.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT id, name, role, coalesce(party, ''), used FROM api_key WHERE hash = ?", hashSecret(key)).
			Scan(&who.Subject, &who.Name, &who.Role, &who.Party, &used)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return who, errors.New("no such API key")
	}
	if err != nil {
		return who, fmt.Errorf("look up key: %w", err)
	}
	if now := time.Now(); now.Sub(frame.ParseStamp(used)) > usedEvery {
		// Whether this can be written must not decide who may read.
		_ = a.store.Update(ctx, func(tx *frame.Tx) error {
			_, err := tx.Exec("UPDATE api_key SET used = ? WHERE id = ?", frame.Stamp(now), who.Subject)
			return err
		})
	}
	return who, nil
}
