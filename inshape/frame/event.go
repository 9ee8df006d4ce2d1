package frame

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"time"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

func frameMigrations() fs.FS {
	sub, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return sub
}

// Event is something that happened in a module, for webhooks and for other
// modules. It is written in the transaction that made it so.
type Event struct {
	Sequence int64           `json:"sequence" doc:"Grows with every event of the module"`
	ID       string          `json:"id"`
	At       time.Time       `json:"at"`
	Type     string          `json:"type" doc:"MODULE.WHAT, such as order.placed"`
	Subject  string          `json:"subject" doc:"The identifier of what it is about"`
	Party    string          `json:"party,omitempty" doc:"Whose it is; empty: the shop's own"`
	Data     json.RawMessage `json:"data"`
}

// Emit adds an event to the outbox.
func (tx *Tx) Emit(kind, subject, party string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("emit %s: %w", kind, err)
	}
	_, err = tx.Exec("INSERT INTO outbox (id, at, type, subject, party, data) VALUES (?, ?, ?, ?, ?, ?)",
		NewID("evt"), Stamp(time.Now()), kind, subject, party, string(text))
	if err != nil {
		return fmt.Errorf("emit %s: %w", kind, err)
	}
	tx.events = true
	return nil
}

// Audit notes who did what. The actor is the identity of the transaction's context.
func (tx *Tx) Audit(action, subject, format string, args ...any) error {
	who := Who(tx.ctx)
	if who.Subject == "" {
		who = Identity{Subject: "system", Name: "system"}
	}
	_, err := tx.Exec("INSERT INTO audit (at, actor, name, action, subject, detail) VALUES (?, ?, ?, ?, ?, ?)",
		Stamp(time.Now()), who.Subject, who.Name, action, subject, fmt.Sprintf(format, args...))
	if err != nil {
		return fmt.Errorf("audit %s: %w", action, err)
	}
	return nil
}

// AuditEntry is one line of the audit log.
type AuditEntry struct {
	Sequence int64     `json:"sequence"`
	At       time.Time `json:"at"`
	Actor    string    `json:"actor"`
	Name     string    `json:"name"`
	Action   string    `json:"action"`
	Subject  string    `json:"subject"`
	Detail   string    `json:"detail"`
}

// Events are up to limit events after a sequence number.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]Event, error) {
	var list []Event
	err := s.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT seq, id, at, type, subject, party, data FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Event
			var at, data string
			if err := rows.Scan(&e.Sequence, &e.ID, &at, &e.Type, &e.Subject, &e.Party, &data); err != nil {
				return err
			}
			e.At, e.Data = ParseStamp(at), json.RawMessage(data)
			list = append(list, e)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return list, nil
}

// WaitForEvents returns when events may have come after the call to Events
// that ready was taken before, or when ctx ends.
func (s *Store) WaitForEvents() (ready <-chan struct{}) { return s.committed.next() }

// stampLayout has a fixed width, so that stamps sort as texts.
const stampLayout = "2006-01-02T15:04:05.000000Z"

// Stamp is how times are kept in stores: UTC, microseconds.
func Stamp(t time.Time) string { return t.UTC().Format(stampLayout) }

// ParseStamp reads what Stamp made; the zero time for anything else.
func ParseStamp(s string) time.Time {
	t, err := time.Parse(stampLayout, s)
	if err != nil {
		return time.Time{}
	}
	return t
}
