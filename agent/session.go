package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"bulkhead"
)

// reports holds what the servers have yet to hear: the latest status of every
// stamp, and events in order. It is bounded: of statuses only the latest counts,
// and of events the oldest are dropped.
type reports struct {
	mu       sync.Mutex
	statuses map[bulkhead.StampName]bulkhead.StampStatus // unsent; guarded by mu
	latest   map[bulkhead.StampName]bulkhead.StampStatus // sent or not; guarded by mu
	events   []bulkhead.Event                            // unsent; guarded by mu
	arrivals map[string]arrival                          // the latest of each move; guarded by mu
	purged   []bulkhead.StampRef                         // unsent; guarded by mu
	wake     chan struct{}
}

// arrival is a report of a move, and whether it was sent.
type arrival struct {
	bulkhead.Arrival
	sent bool
}

const mostEvents = 1000

func newReports() *reports {
	return &reports{
		statuses: map[bulkhead.StampName]bulkhead.StampStatus{},
		latest:   map[bulkhead.StampName]bulkhead.StampStatus{},
		arrivals: map[string]arrival{},
		wake:     make(chan struct{}, 1),
	}
}

func (r *reports) status(s bulkhead.StampStatus) {
	r.mu.Lock()
	r.statuses[s.Name], r.latest[s.Name] = s, s
	r.mu.Unlock()
	r.poke()
}

func (r *reports) arrival(a bulkhead.Arrival) {
	r.mu.Lock()
	r.arrivals[a.Move] = arrival{Arrival: a}
	r.mu.Unlock()
	r.poke()
}

func (r *reports) forgetArrival(move string) {
	r.mu.Lock()
	delete(r.arrivals, move)
	r.mu.Unlock()
}

func (r *reports) event(e bulkhead.Event) {
	r.mu.Lock()
	if r.events = append(r.events, e); len(r.events) > mostEvents {
		r.events = r.events[len(r.events)-mostEvents:]
	}
	r.mu.Unlock()
	r.poke()
}

// gone says that nothing is left of a stamp that was purged. If that is not heard, the
// servers ask again.
func (r *reports) gone(stamp bulkhead.StampRef) {
	r.mu.Lock()
	r.purged = append(r.purged, stamp)
	r.mu.Unlock()
	r.poke()
}

// unsent takes events back that could not be sent.
func (r *reports) unsent(events []bulkhead.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = slices.Concat(events, r.events)
	r.events = r.events[max(0, len(r.events)-mostEvents):]
}

func (r *reports) forget(name bulkhead.StampName) {
	r.mu.Lock()
	delete(r.latest, name)
	delete(r.statuses, name)
	r.mu.Unlock()
}

// resend makes every latest report unsent: a new session knows nothing.
func (r *reports) resend() {
	r.mu.Lock()
	for name, s := range r.latest {
		r.statuses[name] = s
	}
	for move, a := range r.arrivals {
		a.sent = false
		r.arrivals[move] = a
	}
	r.mu.Unlock()
	r.poke()
}

func (r *reports) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take empties the box.
func (r *reports) take() (out []bulkhead.NodeReport, events []bulkhead.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for move, a := range r.arrivals {
		if !a.sent {
			a.sent = true
			r.arrivals[move] = a
			out = append(out, bulkhead.NodeReport{Arrival: &a.Arrival})
		}
	}
	for _, s := range r.statuses {
		out = append(out, bulkhead.NodeReport{Status: &s})
	}
	clear(r.statuses)
	for i := range r.purged {
		out = append(out, bulkhead.NodeReport{Purged: &r.purged[i]})
	}
	r.purged = nil
	events = r.events
	r.events = nil
	return out, events
}

// converse keeps a session with the servers open. Without one the node goes on
// with what it has.
func (a *Agent) converse(ctx context.Context) error {
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := a.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > 10*time.Second {
			pause = 50 * time.Millisecond
		}
		if errors.Is(err, errRemoved) { // nobody waits for it
			pause = time.Minute
		}
		a.log.Info("node session ended", "err", err, "again", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause + time.Duration(rand.Int64N(int64(pause)))): // spread: many nodes come back at once
		}
		pause = min(2*pause, 5*time.Second)
	}
	return nil
}

// errRemoved ends the session of a node that is no longer of the farm.
var errRemoved = errors.New("this node was removed from the farm")

func (a *Agent) session(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	node := a.c.Node()
	s, err := a.c.Control.Connect(ctx, bulkhead.NodeReport{Node: &node, Holds: a.holds()})
	if err != nil {
		return err
	}
	a.reports.resend()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.Close()
	wg.Go(func() { cancel(a.sendReports(ctx, s)) })
	wg.Go(func() { cancel(a.sendNode(ctx, s, node)) })
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	named := map[bulkhead.StampName]bool{} // since the session began or was last synced
	purged := map[string]bool{}            // lives of stamps, likewise
	coming := map[string]bool{}            // moves, likewise
	for {
		o, err := s.Receive()
		if err != nil {
			cancel(err) // ends what the session started; the first cause counts
			return context.Cause(ctx)
		}
		switch {
		case o.Farm != nil:
			a.farm.take(*o.Farm)
			a.c.Changed()
		case len(o.Servers) > 0:
			a.c.Servers(o.Servers)
		case o.Removed:
			a.removed()
			return errRemoved
		case o.Assign != nil:
			named[o.Assign.Stamp.Name] = true
			a.assign(*o.Assign)
		case o.Forget != nil:
			named[o.Forget.Name] = true
			a.forget(*o.Forget)
		case o.Purge != nil:
			purged[o.Purge.UID] = true
			a.purge(ctx, &wg, *o.Purge)
		case o.Fetch != nil:
			coming[o.Fetch.Move] = true
			a.fetch(*o.Fetch)
		case o.Unfetch != "":
			delete(coming, o.Unfetch)
			a.keepCopies(func(move string) bool { return move != o.Unfetch })
		case o.Synced:
			a.forgetOthers(named, purged)
			clear(named)
			clear(purged)
			a.keepCopies(func(move string) bool { return coming[move] })
			a.settleSoon()
		case o.Stream != nil:
			wg.Go(func() { a.stream(ctx, s, *o.Stream) })
		}
	}
}

// lookEvery is how often a node looks at its disk.
const lookEvery = 5 * time.Second

// sendNode tells when the node has become full, or is not any more, and what data is set
// aside on it.
func (a *Agent) sendNode(ctx context.Context, s Session, was bulkhead.Node) error {
	for wait(ctx, lookEvery) == nil {
		now := a.c.Node()
		if now.Full == was.Full && slices.Equal(now.Aside, was.Aside) {
			continue
		}
		if err := s.Send(bulkhead.NodeReport{Node: &now}); err != nil {
			return err
		}
		was = now
	}
	return nil
}

func (a *Agent) sendReports(ctx context.Context, s Session) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.reports.wake:
		}
		reports, events := a.reports.take()
		for i := range events {
			if err := s.Send(bulkhead.NodeReport{Event: &events[i]}); err != nil {
				a.reports.unsent(events[i:])
				return err
			}
		}
		for _, r := range reports {
			if err := s.Send(r); err != nil {
				return err
			}
		}
	}
}

// forget ends a stamp that the servers say is no longer this node's.
func (a *Agent) forget(ref bulkhead.StampRef) {
	a.mu.Lock()
	loop := a.stamps[ref.Name]
	a.mu.Unlock()
	if loop == nil {
		a.reports.forget(ref.Name)
		return
	}
	loop.post(func() { loop.forgotten(ref) })
}

// purge destroys what there is here of a stamp that was purged while another node had it,
// and reports when nothing is left. ctx and wg are the session's: the next one asks again.
func (a *Agent) purge(ctx context.Context, wg *sync.WaitGroup, ref bulkhead.StampRef) {
	destroy := func() {
		for {
			err := a.c.Volumes.Delete(ref, true)
			if err == nil {
				a.reports.gone(ref)
				return
			}
			a.log.Error("destroy data of a purged stamp", "stamp", ref.Name, "err", err)
			if errors.Is(err, bulkhead.ErrConflict) || wait(ctx, 5*time.Second) != nil {
				return
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	loop := a.stamps[ref.Name]
	if loop == nil {
		wg.Go(destroy)
		return
	}
	loop.post(func() { // under mu: see end
		if !loop.purged(ref) { // it is another life of the stamp
			loop.steps.Go(destroy)
		}
	})
}

// forgetOthers ends every stamp that the servers have not named as this node's.
// When that is most of several, it is the servers that have lost their memory:
// nothing is ended, and the log says so. Of what they have ordered to be purged, now
// or before, nothing goes on in any case, and it does not count.
func (a *Agent) forgetOthers(named map[bulkhead.StampName]bool, purged map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var others []*stampLoop
	stamps := 0
	for name, loop := range a.stamps {
		switch s := loop.view.Load().Stamp; {
		case named[name]:
			stamps++
		case purged[s.UID]:
		case s.Purge:
			loop.post(func() { loop.forgotten(ref(s)) })
		default:
			stamps++
			others = append(others, loop)
		}
	}
	if len(others) > 1 && 2*len(others) > stamps {
		a.log.Error("the servers do not know most of this node's stamps: they go on running", "unknown", len(others), "stamps", stamps)
		return
	}
	for _, loop := range others {
		a.log.Warn("the servers do not know this stamp as this node's: it is ended, its data kept", "stamp", loop.name)
		loop.post(func() { loop.forgotten(ref(loop.assignment.Stamp)) })
	}
}

// stream answers a StreamRequest: log lines as JSON, or a command's streams in
// the framing of execStream (exec.go).
func (a *Agent) stream(ctx context.Context, s Session, req bulkhead.StreamRequest) {
	conn, err := s.Stream(ctx, req)
	if err != nil {
		a.log.Warn("open stream", "id", req.ID, "err", err)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	switch {
	case req.Logs != nil:
		go func() { // the other end closes when its user has gone
			io.Copy(io.Discard, conn)
			cancel()
		}()
		enc := json.NewEncoder(conn)
		err = a.c.Logs.Query(ctx, *req.Logs, func(l bulkhead.LogLine) error { return enc.Encode(l) })
	case req.Exec != nil:
		err = a.exec(ctx, conn, *req.Exec)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		a.log.Debug("stream ended", "id", req.ID, "err", err)
	}
}
