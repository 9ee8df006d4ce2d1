package frame

import (
	"bytes"
	"context"
	"crypto/hmac"
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
	"sync"
	"syscall"
	"time"
)

const (
	webhookTimeout  = 10 * time.Second
	webhookAttempts = 12 // the last about a day and a half after the first
	maxUnderWay     = 8  // to one webhook
	troubleTime     = 5 * time.Second
	longestRest     = 5 * time.Minute
)

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

// deliverer empties the outbox: it makes a delivery of each event for each
// webhook that wants it, and tries those that are due until they are taken or
// given up. All of it is on disk: a crash repeats at most the deliveries that
// were under way, with the same webhook-id.
//
// Each webhook has its own pace: one that does not answer rests longer and
// longer, and keeps nobody else waiting.
type deliverer struct {
	server *Server
	client *http.Client
	pace   map[string]*pace // by webhook; only the loop's
	ended  chan turnEnd
}

type turnEnd struct {
	webhook string
	taken   bool // at least one delivery was
}

type pace struct {
	busy     bool
	failures int       // turns in a row in which nothing was taken
	rest     time.Time // no turn before
}

// deliver is the loop.
func (s *Server) deliver(ctx context.Context) error {
	d := &deliverer{server: s, client: s.webhookClient(), pace: map[string]*pace{}, ended: make(chan turnEnd)}
	defer d.client.CloseIdleConnections()
	var turns sync.WaitGroup
	defer turns.Wait()
	for {
		more := s.Store.WaitForEvents()
		wait, err := d.next(ctx, func(hook subscription, due []attempt) {
			turns.Go(func() {
				end := turnEnd{hook.ID, d.turn(ctx, hook, due)}
				select {
				case d.ended <- end:
				case <-ctx.Done():
				}
			})
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // a full disk, above all: what is there stays, and goes on when there is room
			s.Log.Error("deliver webhooks", "error", err)
			wait = troubleTime
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-more:
		case <-timer.C:
		case end := <-d.ended:
			d.rest(end)
		}
		timer.Stop()
	}
}

// rest sets the pace of a webhook after its turn.
func (d *deliverer) rest(end turnEnd) {
	p := d.pace[end.webhook]
	p.busy = false
	if end.taken {
		p.failures = 0
		return
	}
	p.rest = time.Now().Add(min(time.Second<<min(p.failures, 20), longestRest))
	p.failures++
}

// next plans what there is, starts a turn for each webhook with something due,
// and tells when to come again.
func (d *deliverer) next(ctx context.Context, start func(subscription, []attempt)) (time.Duration, error) {
	hooks, err := d.server.subscriptions(ctx)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	wake := now.Add(time.Minute)
	for _, hook := range hooks {
		if err := d.plan(ctx, hook); err != nil {
			return 0, err
		}
		p := d.pace[hook.ID]
		if p == nil {
			p = &pace{}
			d.pace[hook.ID] = p
		}
		if hook.Paused != "" || p.busy {
			continue
		}
		if now.Before(p.rest) {
			wake = earlier(wake, p.rest)
			continue
		}
		due, next, err := d.due(ctx, hook.ID, now)
		if err != nil {
			return 0, err
		}
		if len(due) > 0 {
			p.busy = true
			start(hook, due)
		} else if !next.IsZero() {
			wake = earlier(wake, next)
		}
	}
	return max(time.Until(wake), 10*time.Millisecond), nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// plan makes deliveries of the events that have none yet.
func (d *deliverer) plan(ctx context.Context, hook subscription) error {
	for {
		events, err := d.server.Store.Events(ctx, hook.after, 500)
		if err != nil || len(events) == 0 {
			return err
		}
		hook.after = events[len(events)-1].Sequence
		err = d.server.Store.Update(ctx, func(tx *Tx) error {
			now := Stamp(time.Now())
			for _, e := range events {
				if !wants(hook.Types, e.Type) {
					continue
				}
				if _, err := tx.Exec("INSERT OR IGNORE INTO delivery (webhook, seq, state, due) SELECT id, ?, 'waiting', ? FROM webhook WHERE id = ?",
					e.Sequence, now, hook.ID); err != nil {
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

type attempt struct {
	event    Event
	attempts int // before this one
}

// due are the next deliveries to a webhook that are due; if there are none,
// next is when one will be.
func (d *deliverer) due(ctx context.Context, hook string, now time.Time) (due []attempt, next time.Time, err error) {
	err = d.server.Store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT d.attempts, d.due, o.seq, o.id, o.at, o.type, o.subject, o.party, o.data FROM delivery d JOIN outbox o ON o.seq = d.seq
			WHERE d.webhook = ? AND d.state = 'waiting' ORDER BY d.due, d.seq LIMIT ?`, hook, maxUnderWay)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var a attempt
			var when, at, data string
			if err := rows.Scan(&a.attempts, &when, &a.event.Sequence, &a.event.ID, &at, &a.event.Type, &a.event.Subject, &a.event.Party, &data); err != nil {
				return err
			}
			if t := ParseStamp(when); t.After(now) {
				if next.IsZero() {
					next = t
				}
				continue
			}
			a.event.At, a.event.Data = ParseStamp(at), json.RawMessage(data)
			due = append(due, a)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, next, fmt.Errorf("find due deliveries: %w", err)
	}
	return due, next, nil
}

// turn tries some deliveries at once, and tells whether any was taken.
func (d *deliverer) turn(ctx context.Context, hook subscription, due []attempt) (taken bool) {
	results := make([]bool, len(due))
	var group sync.WaitGroup
	for i, a := range due {
		group.Go(func() { results[i] = d.try(ctx, hook, a) })
	}
	group.Wait()
	return slices.Contains(results, true)
}

// errGone is what somebody answers who wants to be told nothing any more.
var errGone = errors.New("answered 410 Gone")

// try posts one event and notes what came of it.
func (d *deliverer) try(ctx context.Context, hook subscription, a attempt) bool {
	refusal := post(ctx, d.client, hook, a.event)
	if ctx.Err() != nil {
		return false // it stays due
	}
	state, answer, due, outcome := "delivered", "taken", time.Now(), "taken"
	if refusal != nil {
		state, answer, outcome = "waiting", refusal.Error(), "refused"
		due = due.Add(min(5*time.Second<<a.attempts, 12*time.Hour))
		if a.attempts+1 >= webhookAttempts {
			state, outcome = "given-up", "given-up"
		}
	}
	d.server.attempts.WithLabelValues(outcome).Inc()
	err := d.server.Store.Update(ctx, func(tx *Tx) error {
		if errors.Is(refusal, errGone) {
			if _, err := tx.Exec("UPDATE webhook SET paused = 'it answered 410 Gone' WHERE id = ?", hook.ID); err != nil {
				return err
			}
		}
		_, err := tx.Exec("UPDATE delivery SET state = ?, attempts = ?, due = ?, answer = ? WHERE webhook = ? AND seq = ?",
			state, a.attempts+1, Stamp(due), answer, hook.ID, a.event.Sequence)
		return err
	})
	if err != nil { // it stays due, and is posted again with the same webhook-id
		d.server.Log.Error("note delivery", "error", err)
		return false
	}
	return refusal == nil
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
	if answer.StatusCode == http.StatusGone {
		return errGone
	}
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

// notPublic are networks that are no one's on the internet, beside those that
// netip knows: IANA's special-purpose registries, and ways of writing an IPv4
// address as an IPv6 one.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// isPublic tells whether an address is somebody's on the internet.
func isPublic(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsGlobalUnicast() && !a.IsPrivate() && !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

// webhookClient follows no redirects and no proxy of the environment, and
// unless the shop says otherwise it connects to public addresses alone, whatever
// a name resolves to at that moment.
func (s *Server) webhookClient() *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	if !s.Config.WebhooksInside {
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			where, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if !isPublic(where.Addr()) {
				return fmt.Errorf("%s is not a public address (INSHAPE_WEBHOOKS_INSIDE allows it)", where.Addr())
			}
			return nil
		}
	}
	return &http.Client{
		Transport:     &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: maxUnderWay, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
