package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/plan"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// A stamp moves in steps that the controller records (plan.Transfer). This node takes
// part in two ways. As the one that the stamp goes to it is asked for a copy
// (bulkhead.Fetch): it pulls images ahead and copies the data from the other node, pass
// by pass while the stamp runs there, until a pass brings little; then it waits for the
// switch, and makes the last copy. As the one that the stamp leaves it serves these
// copies (Serve), the last one only when no process of the stamp is left.
//
// Nothing of this is remembered but the copy itself: after a restart the servers ask
// again, and what is on the disk already is compared instead of copied.

const (
	// enough is what a pass may bring for the next one to be the last.
	enough = 16 << 20
	// mostPasses bounds the passes while the stamp runs: one that writes faster than it
	// is copied is stopped for the rest.
	mostPasses = 8
	// passAgain is how long a copy waits for the switch before another pass keeps it
	// fresh.
	passAgain = 15 * time.Second
	// copyTrouble is for how long a copy is tried that does not come along.
	copyTrouble = 2 * time.Minute
	// tellEvery is how often the servers hear of a pass that takes long.
	tellEvery = 30 * time.Second
)

// incoming is a stamp that is to come to this node.
type incoming struct {
	a        *Agent
	log      *slog.Logger
	cancel   context.CancelFunc
	done     chan struct{} // closed when nobody works on it any more
	switched chan struct{} // closed by the order that the next copy is the last

	mu     sync.Mutex
	order  bulkhead.Fetch   // guarded by mu
	report bulkhead.Arrival // guarded by mu
}

// fetch begins to copy a stamp, or hears that the next copy is the last.
func (a *Agent) fetch(order bulkhead.Fetch) {
	most := rate.Inf
	if order.Rate > 0 {
		most = rate.Limit(order.Rate)
	}
	a.pace.SetLimit(most) // the farm's: every order has the same
	a.mu.Lock()
	defer a.mu.Unlock()
	if in := a.copies[order.Move]; in != nil {
		in.mu.Lock()
		defer in.mu.Unlock()
		if order.Last && !in.order.Last {
			close(in.switched)
		}
		in.order = order
		return
	}
	ctx, cancel := context.WithCancel(a.ctx)
	in := &incoming{
		a: a, log: a.log.With("stamp", order.Name, "from", order.From.Node), cancel: cancel, done: make(chan struct{}), switched: make(chan struct{}),
		order: order, report: bulkhead.Arrival{Name: order.Name, Move: order.Move, Node: a.node, State: bulkhead.ArrivalCopying},
	}
	if order.Last {
		close(in.switched)
	}
	a.copies[order.Move] = in
	a.group.Go(func() error {
		defer close(in.done)
		defer cancel()
		in.run(ctx)
		return nil
	})
}

// arrivedLocked ends what is left of a move that has brought its stamp here.
func (a *Agent) arrivedLocked(move string) {
	if in := a.copies[move]; in != nil {
		in.cancel()
		delete(a.copies, move)
		a.reports.forgetArrival(move)
	}
}

// keepCopies ends all copying but that of the moves that keep wants, and drops the
// copies. One that a stamp here runs on, or is about to, stays.
func (a *Agent) keepCopies(keep func(move string) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ended []*incoming
	for move, in := range a.copies {
		if keep(move) {
			continue
		}
		in.cancel()
		ended = append(ended, in)
		delete(a.copies, move)
		a.reports.forgetArrival(move)
	}
	a.group.Go(func() error {
		for _, in := range ended { // who still writes would make it anew
			<-in.done
		}
		for pause := time.Second; ; pause = min(2*pause, time.Minute) {
			err := a.c.Volumes.Sweep(a.wants)
			if err == nil {
				return nil
			}
			a.log.Error("drop copies of moves that are over", "err", err, "again", pause)
			if wait(a.ctx, pause) != nil {
				return nil
			}
		}
	})
}

// wants tells whether the copy of a move is being made, or a stamp here is to run on
// it.
func (a *Agent) wants(move string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.copies[move] != nil {
		return true
	}
	for _, m := range a.runOn {
		if m == move {
			return true
		}
	}
	return false
}

// run copies until the last copy is here, the move cannot be, or ctx ends.
func (in *incoming) run(ctx context.Context) {
	in.tell(bulkhead.ArrivalCopying, "")
	ahead := make(chan error, 1)
	in.mu.Lock()
	order := in.order
	in.mu.Unlock()
	in.a.group.Go(func() error { ahead <- in.ahead(ctx, order); return nil })
	before, passes := int64(0), 0 // bytes of the passes that are over, and their number
	latest := int64(0)            // of the one before
	pulled := false
	var trouble time.Time
	for {
		final := in.last()
		bytes, files, err := in.pass(ctx, final, before)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if trouble.IsZero() {
				trouble = time.Now()
			}
			in.log.Warn("copy of a stamp", "err", err)
			if kind := bulkhead.KindOf(err); kind == bulkhead.ErrInvalid || kind == bulkhead.ErrExhausted || time.Since(trouble) > copyTrouble {
				in.tell(bulkhead.ArrivalFailed, oneLine(err))
				return
			}
			if time.Since(trouble) > 5*time.Second { // not for what mends itself in a moment
				in.tell(bulkhead.ArrivalCopying, oneLine(err))
			}
			if in.wait(ctx, final, 200*time.Millisecond) != nil {
				return
			}
			continue
		}
		trouble = time.Time{}
		before += bytes
		passes++
		in.log.Info("pass over the data", "pass", passes, "bytes", bytes, "files", files, "last", final)
		in.count(before, passes)
		if final {
			in.tell(bulkhead.ArrivalComplete, "")
			return
		}
		converged := bytes <= enough || passes > 1 && bytes > latest*3/4 || passes >= mostPasses
		latest = bytes
		if !converged {
			in.tell(bulkhead.ArrivalCopying, "")
			continue
		}
		if !pulled {
			select {
			case err := <-ahead:
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					in.tell(bulkhead.ArrivalFailed, oneLine(err))
					return
				}
				pulled = true
			case <-time.After(passAgain):
				continue
			case <-ctx.Done():
				return
			}
		}
		in.tell(bulkhead.ArrivalReady, "")
		if in.wait(ctx, false, passAgain) != nil {
			return
		}
	}
}

// ahead pulls the images and the release's files.
func (in *incoming) ahead(ctx context.Context, order bulkhead.Fetch) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, image := range order.Images {
		g.Go(func() error { return in.insist(ctx, func() error { return in.a.c.Runtime.Pull(ctx, image) }) })
	}
	if order.Bundle != "" {
		g.Go(func() error {
			return in.insist(ctx, func() error {
				_, err := in.a.c.Files.Bundle(ctx, order.Bundle)
				return err
			})
		})
	}
	return g.Wait()
}

// insist tries for a while what may only need another try.
func (in *incoming) insist(ctx context.Context, do func() error) error {
	for began := time.Now(); ; {
		err := do()
		if err == nil || errors.Is(err, bulkhead.ErrInvalid) || time.Since(began) > copyTrouble {
			return err
		}
		if err := wait(ctx, time.Second); err != nil {
			return err
		}
	}
}

// wait pauses, not longer than until the switch unless that has been.
func (in *incoming) wait(ctx context.Context, final bool, pause time.Duration) error {
	switched := in.switched
	if final {
		switched = nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-switched:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (in *incoming) last() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.order.Last
}

func (in *incoming) count(bytes int64, passes int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.report.Bytes, in.report.Passes = bytes, passes
}

func (in *incoming) tell(state bulkhead.ArrivalState, message string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.report.State, in.report.Message = state, message
	in.a.reports.arrival(in.report)
}

// pass goes over the data once.
func (in *incoming) pass(ctx context.Context, last bool, before int64) (bytes int64, files int, err error) {
	in.mu.Lock()
	order := in.order
	in.mu.Unlock()
	conn, err := in.a.c.Dial(ctx, order.From)
	if err != nil {
		return 0, 0, fmt.Errorf("reach node %s: %w", order.From.Node, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	other := paced{patient{conn}, in, ctx}
	if err := writeMessage(other, copyRequest{order.StampRef, order.Move, last}); err != nil {
		return 0, 0, fmt.Errorf("ask node %s for the data: %w", order.From.Node, err)
	}
	var answer copyAnswer
	if err := readMessage(other, &answer); err != nil {
		return 0, 0, fmt.Errorf("ask node %s for the data: %w", order.From.Node, err)
	}
	if answer.Refused != "" {
		return 0, 0, fmt.Errorf("node %s: %s", order.From.Node, answer.Refused)
	}
	told := time.Now()
	return in.a.c.Volumes.Fetch(ctx, other, order.StampRef, order.Move, last, func(bytes int64) {
		if time.Since(told) > tellEvery {
			told = time.Now()
			in.count(before+bytes, in.passes())
			in.tell(bulkhead.ArrivalCopying, "")
		}
	})
}

func (in *incoming) passes() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.report.Passes
}

// copyRequest begins a connection between two agents; copyAnswer is the other end's
// first word. After that the connection is Volumes'.
type copyRequest struct {
	bulkhead.StampRef
	Move string `json:"move"`
	Last bool   `json:"last"`
}

type copyAnswer struct {
	Refused string `json:"refused,omitempty"` // one line
}

// askMost is how long the other end may take to say what it wants, or to read why
// it does not get it.
const askMost = 10 * time.Second

// Expects tells whether a stamp of this node moves to that membership of a node:
// only then it may call Serve's end at all.
func (a *Agent) Expects(node bulkhead.NodeName, uid string) bool {
	return slices.ContainsFunc(a.Stamps(), func(l plan.Local) bool {
		return l.Stamp.Transfer != nil && l.Stamp.Transfer.To == node && l.Stamp.Transfer.ToUID == uid
	})
}

// Serve answers one connection from another node, which is caller, of membership uid,
// by its certificate: it gets a copy of a stamp's data if the stamp moves there.
func (a *Agent) Serve(ctx context.Context, conn net.Conn, caller bulkhead.NodeName, uid string) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(askMost))
	var want copyRequest
	if err := readMessage(conn, &want); err != nil {
		a.log.Warn("a node asks for data and cannot be understood", "node", caller, "err", err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	err := a.released(ctx, want, caller, uid)
	if err == nil { // what was deleted and restored, and has not run since, is set aside yet
		if err = a.c.Volumes.Restore(want.StampRef); errors.Is(err, bulkhead.ErrNotFound) {
			err = nil
		}
	}
	if err != nil {
		a.log.Warn("data refused to another node", "stamp", want.Name, "node", caller, "err", err)
		_ = conn.SetDeadline(time.Now().Add(askMost))
		_ = writeMessage(conn, copyAnswer{Refused: oneLine(err)})
		return
	}
	if err := writeMessage(conn, copyAnswer{}); err != nil {
		return
	}
	if err := a.c.Volumes.Send(ctx, patient{conn}, want.StampRef, want.Last); err != nil && ctx.Err() == nil {
		a.log.Warn("data not sent", "stamp", want.Name, "node", caller, "err", err)
	}
}

// released says why a node does not get what it wants, or nil when it may have it:
// for the last copy that is when no process of the stamp is left here.
func (a *Agent) released(ctx context.Context, want copyRequest, caller bulkhead.NodeName, uid string) error {
	a.mu.Lock()
	loop := a.stamps[want.Name]
	a.mu.Unlock()
	denied := bulkhead.Errorf(bulkhead.ErrDenied, "stamp %s does not move from here to node %s", want.Name, caller)
	if loop == nil {
		return denied
	}
	s := loop.view.Load().Stamp
	if m := s.Transfer; s.UID != want.UID || m == nil || m.ID != want.Move || m.To != caller || m.ToUID != uid {
		return denied
	}
	if !want.Last {
		return nil
	}
	ended := make(chan error, 1)
	a.mu.Lock()
	if a.stamps[want.Name] == loop { // else nobody would hear
		loop.post(func() { loop.stillness = append(loop.stillness, stillness{want.Move, ended}) })
	} else {
		ended <- denied
	}
	a.mu.Unlock()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stillness is somebody who waits until no process of the stamp is left, because it
// moves.
type stillness struct {
	move  string
	ended chan<- error // has room for one
}

// tellStill tells who waits whether the stamp stands still, or will not.
func (l *stampLoop) tellStill() {
	s := l.assignment.Stamp
	waiting := l.stillness[:0]
	for _, w := range l.stillness {
		switch {
		case s.Transfer == nil || s.Transfer.ID != w.move || l.forget:
			w.ended <- bulkhead.Errorf(bulkhead.ErrConflict, "the move of stamp %s is over", l.name)
		case s.Switching() && !l.dirty && !l.tearing && l.settled == s.Copy && l.still():
			w.ended <- nil
		default:
			waiting = append(waiting, w)
		}
	}
	l.stillness = waiting
}

// still tells whether no process of the stamp is left on this node, nor will be.
func (l *stampLoop) still() bool {
	for _, t := range l.tasks {
		if !t.State.Ended() {
			return false
		}
	}
	return true
}

// patience is how long the other end of a copy may be silent: a pass begins with
// flushing its disk.
const patience = 2 * time.Minute

// patient ends a connection whose other end is silent for too long.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(patience))
	return p.Conn.Read(b)
}

func (p patient) Write(b []byte) (int, error) {
	_ = p.SetWriteDeadline(time.Now().Add(patience))
	return p.Conn.Write(b)
}

// paced takes what is copied no faster than the farm's policy has it; the other end
// waits then. From the switch on requests wait for the stamp, and nothing else does.
type paced struct {
	net.Conn
	in  *incoming
	ctx context.Context
}

// paceStep is how much is taken at a time, in bytes.
const paceStep = 256 << 10

func (p paced) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b[:min(len(b), paceStep)])
	if p.in.last() {
		return n, err
	}
	if pause := p.in.a.pace.ReserveN(time.Now(), n).Delay(); pause > 0 {
		_ = p.in.wait(p.ctx, false, pause) // whose end closes the connection
	}
	return n, err
}

// mostMessage bounds what two agents say to each other before data.
const mostMessage = 4 << 10

func writeMessage(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readMessage(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > mostMessage {
		return fmt.Errorf("a message of %d bytes: at most %d", n, mostMessage)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
