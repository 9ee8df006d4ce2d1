package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"bulkhead"
)

// place is where messages come from and go to: a server, a node, the state, or users.
type place string

const (
	state place = "state" // the majority of the servers' etcd
	users place = "users"
)

// network carries messages, slowly, not everywhere, and not to those that stand still.
type network struct {
	seed uint64

	mu      sync.Mutex // guards what follows
	dice    map[way]*rand.Rand
	cuts    map[way]int         // how many faults cut it
	shut    map[way]time.Time   // since when it is cut
	frozen  map[place]int       // who stands still
	since   map[place]time.Time // of frozen
	slow    map[place]int       // whose messages take a hundred times as long
	changed chan struct{}       // closed, and replaced, when something of this changes
	calls   []*call
}

// way is one direction between two places.
type way struct{ from, to place }

func newNetwork(seed uint64) *network {
	return &network{
		seed: seed, dice: map[way]*rand.Rand{}, cuts: map[way]int{}, shut: map[way]time.Time{}, frozen: map[place]int{},
		since: map[place]time.Time{}, slow: map[place]int{}, changed: make(chan struct{}),
	}
}

// change changes what is cut, who stands still, and who is slow.
func (n *network) change(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
	close(n.changed)
	n.changed = make(chan struct{})
	n.calls = slices.DeleteFunc(n.calls, func(c *call) bool {
		broken := !n.openLocked(c.there) || !n.openLocked(c.back)
		if broken {
			c.near.Close()
			c.far.Close()
		}
		return broken
	})
}

func (n *network) cut(on bool, ways ...way) {
	n.change(func() {
		for _, w := range ways {
			n.cuts[w] += sign(on)
			if n.cuts[w] == 1 && on {
				n.shut[w] = time.Now()
			}
		}
	})
}

func (n *network) freeze(on bool, p place) {
	n.change(func() {
		if n.frozen[p] += sign(on); n.frozen[p] == 1 && on {
			n.since[p] = time.Now()
		}
	})
}

// shutLocked is since when nothing passes, if it is not open.
func (n *network) shutLocked(w way) (since time.Time) {
	for _, at := range []struct {
		count int
		since time.Time
	}{{n.cuts[w], n.shut[w]}, {n.frozen[w.from], n.since[w.from]}, {n.frozen[w.to], n.since[w.to]}} {
		if at.count > 0 && (since.IsZero() || at.since.Before(since)) {
			since = at.since
		}
	}
	return since
}

func sign(on bool) int {
	if on {
		return 1
	}
	return -1
}

func (n *network) openLocked(w way) bool {
	return n.cuts[w] == 0 && n.frozen[w.from] == 0 && n.frozen[w.to] == 0
}

// delay is what a message takes on a way: every way has its own dice, so that what
// others do changes nothing.
func (n *network) delay(w way) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.dice[w]
	if d == nil {
		h := fnv.New64a()
		io.WriteString(h, string(w.from)+">"+string(w.to))
		d = rand.New(rand.NewPCG(n.seed, h.Sum64()))
		n.dice[w] = d
	}
	t := time.Duration(200_000 + d.Int64N(3_000_000)) // nanoseconds; hardly ever the same twice
	if n.slow[w.from]+n.slow[w.to] > 0 {
		t *= 100
	}
	if d.IntN(50) == 0 { // lost, and sent again
		t += 200*time.Millisecond + time.Duration(d.Int64N(800_000_000))
	}
	return t
}

// pass returns when a message of, or for, self has passed.
func (n *network) pass(ctx context.Context, ended <-chan struct{}, self place, w way) error {
	err := n.wait(ctx, ended, self, n.delay(w))
	for err == nil {
		n.mu.Lock()
		open, changed := n.openLocked(w), n.changed
		n.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-changed:
		case <-ended:
			err = errEnded
		case <-ctx.Done():
			err = n.thaw(ended, self, context.Cause(ctx))
		}
	}
	return err
}

// wait lets time pass at self.
func (n *network) wait(ctx context.Context, ended <-chan struct{}, self place, d time.Duration) (err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ended:
		return errEnded
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return n.thaw(ended, self, err)
}

// thaw returns err when self does not stand still any more: who does notices nothing,
// and not that its patience is at an end.
func (n *network) thaw(ended <-chan struct{}, self place, err error) error {
	for {
		n.mu.Lock()
		still, changed := n.frozen[self] > 0, n.changed
		n.mu.Unlock()
		if !still {
			return err
		}
		select {
		case <-changed:
		case <-ended:
			return errEnded
		}
	}
}

// errEnded is what is heard of a process that has ended.
var errEnded = errors.New("connection reset by peer")

// silence is after how long without a sign of life an end of a session hangs up.
const silence = 10 * time.Second

// lane is one direction of a session: messages stay in order, none is lost, and after a
// silence that is too long nobody listens any more.
type lane struct {
	n     *network
	way   way
	ended <-chan struct{} // the receiver's process

	mu    sync.Mutex // guards what follows
	queue []parcel
	last  time.Time // when the latest message arrives
	over  time.Time // when the sender's hanging up arrives; zero: it has not
	gone  bool      // the receiver listens no more
	heard time.Time
	wake  chan struct{}
}

type parcel struct {
	at   time.Time
	line []byte
}

func newLane(n *network, w way, ended <-chan struct{}) *lane {
	return &lane{n: n, way: w, ended: ended, heard: time.Now(), wake: make(chan struct{}, 1)}
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	at := time.Now().Add(l.n.delay(l.way))
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over.IsZero() {
		return net.ErrClosed
	}
	if !at.After(l.last) {
		at = l.last.Add(time.Microsecond)
	}
	l.last = at
	l.queue = append(l.queue, parcel{at, b})
	l.poke()
	return nil
}

// hangUp is the sender's; told tells whether the receiver hears of it.
func (l *lane) hangUp(told bool) {
	at := time.Now().Add(l.n.delay(l.way))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over.IsZero() {
		if l.over = at; at.Before(l.last) {
			l.over = l.last.Add(time.Microsecond)
		}
		if !told {
			l.over = time.Now().Add(24 * time.Hour)
			l.heard = time.Now()
		}
	}
	l.poke()
}

// leave is the receiver's.
func (l *lane) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	l.poke()
}

// lately is when the receiver last heard of the sender.
func (l *lane) lately() time.Time {
	l.n.mu.Lock()
	open, shut := l.n.openLocked(l.way), l.n.shutLocked(l.way)
	l.n.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case open && (l.over.IsZero() || l.over.Before(time.Now())):
		l.heard = time.Now()
	case !open && shut.After(l.heard):
		l.heard = shut
	}
	return l.heard
}

func (l *lane) receive(v any) error {
	for {
		l.n.mu.Lock()
		open, changed := l.n.openLocked(l.way), l.n.changed
		still := l.n.frozen[l.way.to] > 0 // no clock of its own meanwhile
		l.n.mu.Unlock()
		heard := l.lately()
		now := time.Now()
		l.mu.Lock()
		var until time.Time
		switch {
		case l.gone:
			l.mu.Unlock()
			return net.ErrClosed
		case still:
		case open && len(l.queue) > 0 && !l.queue[0].at.After(now):
			line := l.queue[0].line
			l.queue = l.queue[1:]
			l.mu.Unlock()
			return json.Unmarshal(line, v)
		case open && len(l.queue) == 0 && !l.over.IsZero() && !l.over.After(now):
			l.mu.Unlock()
			return io.EOF
		case !now.Before(heard.Add(silence)):
			l.gone = true
			l.mu.Unlock()
			return errors.New("silent for too long")
		case open && len(l.queue) > 0:
			until = l.queue[0].at
		case open && !l.over.IsZero() && l.over.Before(now.Add(time.Hour)):
			until = l.over
		case !open || !l.over.IsZero():
			until = heard.Add(silence)
		}
		l.mu.Unlock()
		var due <-chan time.Time
		if !until.IsZero() {
			t := time.NewTimer(time.Until(until))
			defer t.Stop()
			due = t.C
		}
		select {
		case <-due:
		case <-changed:
		case <-l.wake:
		case <-l.ended:
			return errEnded
		}
	}
}

// wire is a session between a node and a server.
type wire struct {
	up, down *lane // of reports, of orders
	clock    func() time.Time
	heard    func(bulkhead.NodeOrder) // is told what the node hears, before it does
}

// nodeEnd is an agent.Session, serverEnd an api.NodeConn.
type (
	nodeEnd   struct{ *wire }
	serverEnd struct{ *wire }
)

func (e nodeEnd) Receive() (o bulkhead.NodeOrder, err error) {
	if err = e.down.receive(&o); err == nil {
		e.heard(o)
	}
	return o, err
}
func (e nodeEnd) Send(r bulkhead.NodeReport) error { return e.up.send(r) }
func (e nodeEnd) Stream(context.Context, bulkhead.StreamRequest) (io.ReadWriteCloser, error) {
	return nil, errors.ErrUnsupported
}

func (e nodeEnd) Close() error {
	e.up.hangUp(true)
	e.down.leave()
	return nil
}

func (e serverEnd) Receive() (r bulkhead.NodeReport, err error) { return r, e.up.receive(&r) }
func (e serverEnd) Send(o bulkhead.NodeOrder) error             { return e.down.send(o) }
func (e serverEnd) Heard() time.Time                            { return e.clock().Add(-time.Since(e.up.lately())) }

func (e serverEnd) Close() {
	e.down.hangUp(true)
	e.up.leave()
}

// call is a connection between two agents. When anything lies between them, it breaks.
type call struct {
	there, back way
	near, far   net.Conn
}

func (n *network) connect(from, to place) *call {
	c := &call{there: way{from, to}, back: way{to, from}}
	c.near, c.far = net.Pipe()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, c)
	return c
}

func (n *network) hangUp(c *call) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = slices.DeleteFunc(n.calls, func(other *call) bool { return other == c })
	c.near.Close()
	c.far.Close()
}
