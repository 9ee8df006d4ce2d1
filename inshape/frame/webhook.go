package frame

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const (
	webhookTimeout  = 10 * time.Second
	webhookAttempts = 12 // the last about a day and a half after the first
	maxWebhooks     = 32
	maxUnderWay     = 8
)

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
			Types []string `json:"types" minItems:"1" maxItems:"32" doc:"order.placed, order.*, or *"`
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
		before := int64(1<<63 - 1)
		if in.After != "" {
			var err error
			if before, err = strconv.ParseInt(in.After, 10, 64); err != nil {
				return nil, Invalid("after: %q is not what a list gave as next", in.After)
			}
		}
		var deliveries []Delivery
		err := s.Store.View(ctx, func(tx *sql.Tx) error {
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

type subscription struct {
	Webhook
	after int64 // sequence number of the last event that has its delivery
}

func (s *Server) subscriptions(ctx context.Context) ([]subscription, error) {
	var list []subscription
	err := s.Store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT id, url, secret, types, at, paused, after FROM webhook ORDER BY id")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var w subscription
			var types, at string
			if err := rows.Scan(&w.ID, &w.URL, &w.Secret, &types, &at, &w.Paused, &w.after); err != nil {
				return err
			}
			w.Types, w.At = strings.Split(types, ","), ParseStamp(at)
			list = append(list, w)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read webhooks: %w", err)
	}
	return list, nil
}

// deliver is the loop that empties the outbox: it makes a delivery of each
// event for each webhook that wants it, and tries those that are due until they
// are taken or given up. All of it is on disk: a crash repeats at most the
// deliveries that were under way, with the same webhook-id.
func (s *Server) deliver(ctx context.Context) error {
	client := s.webhookClient()
	for {
		more := s.Store.WaitForEvents()
		if err := s.plan(ctx); err != nil {
			return err
		}
		next, err := s.attemptDue(ctx, client)
		if err != nil {
			return err
		}
		wait := time.NewTimer(next)
		select {
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		case <-more:
		case <-wait.C:
		}
		wait.Stop()
	}
}

// plan makes deliveries of the events that have none yet.
func (s *Server) plan(ctx context.Context) error {
	hooks, err := s.subscriptions(ctx)
	if err != nil {
		return err
	}
	for _, hook := range hooks {
		for {
			events, err := s.Store.Events(ctx, hook.after, 500)
			if err != nil {
				return err
			}
			if len(events) == 0 {
				break
			}
			hook.after = events[len(events)-1].Sequence
			err = s.Store.Update(ctx, func(tx *Tx) error {
				for _, e := range events {
					if !wants(hook.Types, e.Type) {
						continue
					}
					if _, err := tx.Exec("INSERT OR IGNORE INTO delivery (webhook, seq, state, due) SELECT id, ?, 'waiting', ? FROM webhook WHERE id = ?",
						e.Sequence, Stamp(time.Now()), hook.ID); err != nil {
						return err
					}
				}
				_, err := tx.Exec("UPDATE webhook SET after = ? WHERE id = ?", hook.after, hook.ID)
				return err
			})
			if err != nil {
				return fmt.Errorf("plan deliveries: %w", err)
			}
		}
	}
	return nil
}

type attempt struct {
	hook     subscription
	event    Event
	attempts int
}

// attemptDue tries what is due, a few at a time, and tells when to come again.
func (s *Server) attemptDue(ctx context.Context, client *http.Client) (time.Duration, error) {
	hooks, err := s.subscriptions(ctx)
	if err != nil {
		return 0, err
	}
	var due []attempt
	err = s.Store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT d.webhook, d.attempts, o.seq, o.id, o.at, o.type, o.subject, o.party, o.data
			FROM delivery d JOIN outbox o ON o.seq = d.seq WHERE d.state = 'waiting' AND d.due <= ? ORDER BY d.due LIMIT ?`, Stamp(time.Now()), maxUnderWay)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var a attempt
			var hook, at, data string
			if err := rows.Scan(&hook, &a.attempts, &a.event.Sequence, &a.event.ID, &at, &a.event.Type, &a.event.Subject, &a.event.Party, &data); err != nil {
				return err
			}
			a.event.At, a.event.Data = ParseStamp(at), json.RawMessage(data)
			if i := slices.IndexFunc(hooks, func(h subscription) bool { return h.ID == hook }); i >= 0 {
				a.hook = hooks[i]
				due = append(due, a)
			}
		}
		return rows.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("find due deliveries: %w", err)
	}
	if len(due) == 0 {
		return 5 * time.Second, nil
	}
	answers := make(chan error, len(due))
	for _, a := range due {
		go func() { answers <- s.attempt(ctx, client, a) }()
	}
	var failed error
	for range due {
		failed = errors.Join(failed, <-answers)
	}
	return 0, failed
}

// attempt posts one event and notes what came of it.
func (s *Server) attempt(ctx context.Context, client *http.Client, a attempt) error {
	refusal := post(ctx, client, a.hook, a.event)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	state, answer, due := "delivered", "taken", time.Now()
	if refusal != nil {
		answer = refusal.Error()
		state = "waiting"
		due = due.Add(min(5*time.Second<<a.attempts, 12*time.Hour))
		if a.attempts+1 >= webhookAttempts {
			state = "given-up"
		}
	}
	err := s.Store.Update(ctx, func(tx *Tx) error {
		_, err := tx.Exec("UPDATE delivery SET state = ?, attempts = ?, due = ?, answer = ? WHERE webhook = ? AND seq = ?",
			state, a.attempts+1, Stamp(due), answer, a.hook.ID, a.event.Sequence)
		return err
	})
	if err != nil {
		return fmt.Errorf("note delivery: %w", err)
	}
	return nil
}

// post delivers an event as Standard Webhooks 1.0 says.
func post(ctx context.Context, client *http.Client, hook subscription, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("make event: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Inshape")
	r.Header.Set("webhook-id", e.ID)
	r.Header.Set("webhook-timestamp", at)
	r.Header.Set("webhook-signature", SignWebhook(hook.Secret, e.ID, at, body))
	answer, err := client.Do(r)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // the address stands beside it anyway
		}
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("answered %s", answer.Status)
	}
	return nil
}

// SignWebhook is the webhook-signature of a delivery: v1, and the HMAC-SHA256
// of id.timestamp.body under the bytes that the secret encodes.
func SignWebhook(secret, id, timestamp string, body []byte) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		key = []byte(secret)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// webhookClient follows no redirects, and unless the shop says otherwise it
// connects to public addresses alone, whatever a name resolves to.
func (s *Server) webhookClient() *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	if !s.Config.WebhooksInside {
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			where, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if a := where.Addr().Unmap(); !a.IsGlobalUnicast() || a.IsPrivate() || netip.MustParsePrefix("100.64.0.0/10").Contains(a) {
				return fmt.Errorf("%s is not a public address (INSHAPE_WEBHOOKS_INSIDE allows it)", a)
			}
			return nil
		}
	}
	return &http.Client{
		Transport:     &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
