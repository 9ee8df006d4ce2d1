package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/api"
)

// tenant is a stamp's user, who does one thing at a time and remembers what was
// acknowledged.
type tenant struct {
	f       *farm
	name    string
	product string

	mu     sync.Mutex // guards what follows
	busy   bool
	titles int
	want   wish
	unsure bool // whether something was done that was not acknowledged
}

// wish is what a user has been told that a stamp is.
type wish struct {
	exists  bool // or its data is kept
	desired bulkhead.Desired
	title   string
}

func tenants(f *farm) []*tenant {
	var out []*tenant
	for i, name := range []string{"acme", "bolt", "cask", "dune", "echo", "fern", "gale", "hull", "iris", "jade", "kelp", "lime", "mast", "nova"} {
		out = append(out, &tenant{f: f, name: name, product: []string{"shop", "page"}[i%2]})
	}
	return out
}

// act does something that fits, if the user is not busy. dice is the scheduler's.
func (u *tenant) act(dice *rand.Rand, verb string) {
	at, to := dice.IntN(serverCount), fmt.Sprintf("n%02d", 1+dice.IntN(nodeCount))
	other := dice.IntN(serverCount)
	patience := time.Minute
	if dice.IntN(8) == 0 { // who has gone before the answer comes
		patience = time.Duration(dice.Int64N(int64(30 * time.Millisecond)))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy {
		return
	}
	u.busy = true
	was, next := u.want, u.want
	title := fmt.Sprint("title", u.titles+1)
	settings := map[string]json.RawMessage{"TITLE": json.RawMessage(`"` + title + `"`)}
	c := u.f.client(at)
	var do func(ctx context.Context) (api.Stamp, error)
	change := func(ch api.StampChange, err error) (api.Stamp, error) { return ch.Stamp, err }
	switch {
	case !was.exists:
		u.titles++
		next = wish{true, bulkhead.DesiredRunning, title}
		verb = "create"
		do = func(ctx context.Context) (api.Stamp, error) {
			return change(c.CreateStamp(ctx, api.StampSpec{Name: u.name, Product: u.product, Settings: settings}, false, false))
		}
	case was.desired == bulkhead.DesiredDeleted && verb != "purge":
		next.desired = bulkhead.DesiredRunning
		verb = "restore"
		do = func(ctx context.Context) (api.Stamp, error) {
			return change(c.CreateStamp(ctx, api.StampSpec{Name: u.name, Product: u.product}, true, false))
		}
	case verb == "update":
		u.titles++
		next.title = title
		do = func(ctx context.Context) (api.Stamp, error) {
			return change(c.UpdateStamp(ctx, u.name, api.StampUpdate{Settings: settings}, false))
		}
	case verb == "stop":
		next.desired = bulkhead.DesiredStopped
		do = func(ctx context.Context) (api.Stamp, error) { return change(c.StopStamp(ctx, u.name)) }
	case verb == "start":
		next.desired = bulkhead.DesiredRunning
		do = func(ctx context.Context) (api.Stamp, error) { return change(c.StartStamp(ctx, u.name)) }
	case verb == "delete":
		next.desired = bulkhead.DesiredDeleted
		do = func(ctx context.Context) (api.Stamp, error) { return change(c.DeleteStamp(ctx, u.name, false)) }
	case verb == "purge":
		next = wish{}
		do = func(ctx context.Context) (api.Stamp, error) { return change(c.DeleteStamp(ctx, u.name, true)) }
	case verb == "move":
		do = func(ctx context.Context) (api.Stamp, error) { return c.MoveStamp(ctx, u.name, to) }
	case verb == "cancel":
		do = func(ctx context.Context) (api.Stamp, error) { return c.CancelMove(ctx, u.name) }
	default:
		panic(verb)
	}
	u.f.judge.schedule("operation", "%s %s by s%d", verb, u.name, at+1)
	u.f.users.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		got, err := do(ctx)
		u.done(verb, was, next, got, err)
		if err == nil {
			u.again(ctx, other, got)
		}
		u.mu.Lock()
		u.busy = false
		u.mu.Unlock()
	})
}

// done hears the answer to an operation.
func (u *tenant) done(verb string, was, next wish, got api.Stamp, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	j := u.f.judge
	kind := bulkhead.KindOf(err)
	switch {
	case err == nil:
		j.note("  %s %s is acknowledged: generation %d", verb, u.name, got.Generation)
		now, ok := u.f.shared.View().Stamps.Get(bulkhead.StampName(u.name))
		switch {
		case verb == "purge" && (!ok || now.UID != got.UID):
		case verb == "delete" && now.Node == "": // it had no place, so nothing of it is kept
			u.unsure = true
			return
		case !ok || now.UID != got.UID || now.Generation < got.Generation:
			j.fail(acked, "%s %s is acknowledged in generation %d and not there: %t, %d", verb, u.name, got.Generation, ok, now.Generation)
		}
		if verb == "move" || verb == "cancel" { // of no consequence for what is wanted
			return
		}
		u.want = next
	case kind != nil && !errors.Is(err, bulkhead.ErrUnavailable):
		j.note("  %s %s is refused: %v", verb, u.name, err)
		switch {
		case verb == "purge": // it may be done and over before the user asked again
			u.unsure = true
		case errors.Is(err, bulkhead.ErrNotFound) && !u.unsure:
			j.fail(acked, "%s %s is refused, although %+v was acknowledged: %v", verb, u.name, was, err)
		}
	default:
		j.note("  %s %s: %v", verb, u.name, err)
		u.unsure = true
	}
}

// again looks for what was acknowledged at another server.
func (u *tenant) again(ctx context.Context, at int, want api.Stamp) {
	stale := false
	c := u.f.client(at)
	c.Stale(func() { stale = true })
	got, err := c.Stamp(ctx, u.name)
	if err == nil && !stale && got.UID == want.UID && got.Generation < want.Generation {
		u.f.judge.fail(acked, "%s is acknowledged in generation %d, and read in %d", u.name, want.Generation, got.Generation)
	}
}

// wrong says what is not as the user was told. Of what was done without an answer
// everything is right, from now on.
func (u *tenant) wrong() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	s, ok := u.f.shared.View().Stamps.Get(bulkhead.StampName(u.name))
	is := wish{exists: ok}
	if ok {
		var title string
		_ = json.Unmarshal(s.Settings["TITLE"], &title)
		is.desired, is.title = s.Desired, title
	}
	if u.unsure {
		u.want, u.unsure = is, false
		return ""
	}
	if is != u.want {
		return fmt.Sprintf("%s is %+v, acknowledged was %+v", u.name, is, u.want)
	}
	return ""
}
