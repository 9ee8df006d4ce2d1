package frame

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const maxWebhooks = 32

// Webhook is somebody outside who is told of events.
type Webhook struct {
	ID     string    `json:"id"`
	URL    string    `json:"url" format:"uri" maxLength:"2000"`
	Types  []string  `json:"types" doc:"Which events: order.placed, order.*, or * for all"`
	At     time.Time `json:"at"`
	Paused string    `json:"paused,omitempty" doc:"Why nothing is delivered"`
	Secret string    `json:"secret,omitempty" doc:"Shown once, when the webhook is made: whsec_ and base 64"`
}

// Delivery is one event on its way to a webhook.
type Delivery struct {
	Sequence int64     `json:"sequence" doc:"Of the event"`
	Type     string    `json:"type"`
	State    string    `json:"state" enum:"waiting,delivered,given-up"`
	Attempts int       `json:"attempts"`
	Due      time.Time `json:"due" doc:"Of the next attempt, or when the last one was"`
	Answer   string    `json:"answer,omitempty" doc:"What came of the last attempt"`
}

// wants tells whether a subscription to patterns takes a type of event.
func wants(patterns []string, kind string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, wild := strings.CutSuffix(p, "*")
		return wild && strings.HasPrefix(kind, prefix) || p == kind
	})
}

func (s *Server) webhooks() {
	tags := []string{"Webhooks"}
	huma.Register(s.API, huma.Operation{
		OperationID: "create-webhook", Method: http.MethodPost, Path: s.Base() + "/webhooks", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Be told of events", Description: "Deliveries are signed as Standard Webhooks says: webhook-id, webhook-timestamp, webhook-signature.",
		Errors: []int{403, 409, 422},
	}, func(ctx context.Context, in *struct {
		Key  string `header:"Idempotency-Key"`
		Body struct {
			URL   string   `json:"url" format:"uri" maxLength:"2000"`
			Types []string `json:"types" minItems:"1" maxItems:"32" pattern:"^(\\*|[a-z][a-z0-9.-]*\\*?)$" maxLength:"64" doc:"order.placed, order.*, or *"`
		}
	},
	) (*struct{ Body Webhook }, error) {
		if err := Require(ctx, Admin); err != nil {
			return nil, err
		}
		if u, err := url.Parse(in.Body.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
			return nil, Invalid("url: %q is not an http or https address without a password", in.Body.URL)
		}
		hook, err := Once(ctx, s.Store, func(tx *Tx) (Webhook, error) {
			var count int
			var last int64
			if err := tx.QueryRow("SELECT (SELECT count(*) FROM webhook), (SELECT coalesce(max(seq), 0) FROM outbox)").Scan(&count, &last); err != nil {
				return Webhook{}, fmt.Errorf("count webhooks: %w", err)
			}
			if count >= maxWebhooks {
				return Webhook{}, Conflict("there are %d webhooks already", count).Advise("Delete one first.")
			}
			key := make([]byte, 24)
			_, _ = rand.Read(key) // never fails
			hook := Webhook{ID: NewID("whk"), URL: in.Body.URL, Types: in.Body.Types, At: time.Now().UTC(), Secret: "whsec_" + base64.StdEncoding.EncodeToString(key)}
			_, err := tx.Exec("INSERT INTO webhook (id, url, secret, types, at, after) VALUES (?, ?, ?, ?, ?, ?)",
				hook.ID, hook.URL, hook.Secret, strings.Join(hook.Types, ","), Stamp(hook.At), last)
			if err != nil {
				return hook, fmt.Errorf("keep webhook: %w", err)
			}
			return hook, tx.Audit("webhook.create", hook.ID, "%s for %s", hook.URL, strings.Join(hook.Types, ", "))
		})
		if err != nil {
			return nil, err
		}
		return &struct{ Body Webhook }{hook}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-webhooks", Method: http.MethodGet, Path: s.Base() + "/webhooks", Tags: tags, Summary: "Who is told of events", Errors: []int{403},
	}, func(ctx context.Context, _ *struct{}) (*struct{ Body List[Webhook] }, error) {
		if err := Require(ctx, Admin); err != nil {
			return nil, err
		}
		hooks, err := s.subscriptions(ctx)
		if err != nil {
			return nil, err
		}
		list := ListOf[Webhook](nil, maxWebhooks, nil)
		for _, h := range hooks {
			h.Secret = ""
			list.Items = append(list.Items, h.Webhook)
		}
		return &struct{ Body List[Webhook] }{list}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "delete-webhook", Method: http.MethodDelete, Path: s.Base() + "/webhooks/{id}", Tags: tags, Summary: "Tell nobody there any more", Errors: []int{403, 404},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	},
	) (*struct{}, error) {
		if err := Require(ctx, Admin); err != nil {
			return nil, err
		}
		return nil, s.Store.Update(ctx, func(tx *Tx) error {
			if err := changedOne(tx.Exec("DELETE FROM webhook WHERE id = ?", in.ID)); err != nil {
				return orNotFound(err, "webhook %s", in.ID)
			}
			return tx.Audit("webhook.delete", in.ID, "")
		})
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-deliveries", Method: http.MethodGet, Path: s.Base() + "/webhooks/{id}/deliveries", Tags: tags, Summary: "What was delivered, newest first", Errors: []int{403},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
		Page
	},
	) (*struct{ Body List[Delivery] }, error) {
		if err := Require(ctx, Admin); err != nil {
			return nil, err
		}
		before, err := in.Before()
		if err != nil {
			return nil, err
		}
		var deliveries []Delivery
		err = s.Store.View(ctx, func(tx *sql.Tx) error {
			rows, err := tx.Query(`SELECT d.seq, o.type, d.state, d.attempts, d.due, d.answer FROM delivery d JOIN outbox o ON o.seq = d.seq
				WHERE d.webhook = ? AND d.seq < ? ORDER BY d.seq DESC LIMIT ?`, in.ID, before, in.Limit+1)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var d Delivery
				var due string
				if err := rows.Scan(&d.Sequence, &d.Type, &d.State, &d.Attempts, &due, &d.Answer); err != nil {
					return err
				}
				d.Due = ParseStamp(due)
				deliveries = append(deliveries, d)
			}
			return rows.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("read deliveries: %w", err)
		}
		return &struct{ Body List[Delivery] }{ListOf(deliveries, in.Limit, func(d Delivery) string { return strconv.FormatInt(d.Sequence, 10) })}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "redeliver", Method: http.MethodPost, Path: s.Base() + "/webhooks/{id}/deliveries/{sequence}", Tags: tags, DefaultStatus: http.StatusAccepted,
		Summary: "Deliver once more", Errors: []int{403, 404},
	}, func(ctx context.Context, in *struct {
		ID       string `path:"id" maxLength:"64"`
		Sequence int64  `path:"sequence"`
	},
	) (*struct{}, error) {
		if err := Require(ctx, Admin); err != nil {
			return nil, err
		}
		return nil, s.Store.Update(ctx, func(tx *Tx) error {
			tx.events = true // wakes the deliverer
			return orNotFound(changedOne(tx.Exec("UPDATE delivery SET state = 'waiting', attempts = 0, due = ? WHERE webhook = ? AND seq = ?",
				Stamp(time.Now()), in.ID, in.Sequence)), "delivery %d to %s", in.Sequence, in.ID)
		})
	})
}

func (s *Server) resumeWebhook() {
	huma.Register(s.API, huma.Operation{
		OperationID: "resume-webhook", Method: http.MethodPost, Path: s.Base() + "/webhooks/{id}/resume", Tags: []string{"Webhooks"}, DefaultStatus: http.StatusNoContent,
		Summary: "Deliver again to one that was paused, what waits first", Errors: []int{403, 404},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	},
	) (*struct{}, error) {
		if err := Require(ctx, Admin); err != nil {
			return nil, err
		}
		return nil, s.Store.Update(ctx, func(tx *Tx) error {
			if err := changedOne(tx.Exec("UPDATE webhook SET paused = '' WHERE id = ?", in.ID)); err != nil {
				return orNotFound(err, "webhook %s", in.ID)
			}
			if _, err := tx.Exec("UPDATE delivery SET due = ? WHERE webhook = ? AND state = 'waiting'", Stamp(time.Now()), in.ID); err != nil {
				return fmt.Errorf("make deliveries due: %w", err)
			}
			tx.events = true // wakes the deliverer
			return tx.Audit("webhook.resume", in.ID, "")
		})
	})
}

// changedOne turns "no row was changed" into sql.ErrNoRows.
func changedOne(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return sql.ErrNoRows
}

func orNotFound(err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return NotFound("there is no "+format, args...)
	}
	return err
}
