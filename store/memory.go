package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is an empty store without etcd: the same transactions on a map. It
// starts no goroutine, so it works in a testing/synctest bubble, and with Lead
// among its own callers. Its Close returns an error if a reader has changed what
// the snapshots share.
func Memory() *Store { return NewShared(nil).Open(Config{}, nil) }

// Shared is the state of several servers that are simulated: what for real ones the
// majority of etcd is. Each has a Store of its own, whose mirror follows over a Link,
// and which leads and attends under a lease.
type Shared struct {
	committed func(before, after *Snapshot, changed []Change)

	mu       sync.Mutex // guards what follows
	revision int64
	keys     map[string]memoryKey
	truth    *mirror // of the newest revision
	servers  []*memory
	// contenders are for the office of leader, in the order in which they came; the
	// first has it.
	contenders []*contender
}

type memoryKey struct {
	value    []byte
	revision int64
}

type contender struct {
	created int64
	first   chan struct{} // closed when it has the office
}

// Link is how a simulated server reaches the state. Both return when a message has
// passed, however long that takes, or with an error when ctx or the server has ended.
type Link interface {
	Ask(ctx context.Context) error    // from the server to the state
	Answer(ctx context.Context) error // from the state to the server
}

// NewShared is an empty state. committed, unless nil, is told of every change while
// nothing else can happen to the state: it must not call back.
func NewShared(committed func(before, after *Snapshot, changed []Change)) *Shared {
	return &Shared{committed: committed, keys: map[string]memoryKey{}, truth: newMirror()}
}

// View is the state itself, which a server may not have heard of yet.
func (s *Shared) View() *Snapshot { return s.truth.current.Load() }

// Open is the store of a server that starts, with what there is by now. Its Run must
// run if there is a link. Without a link it is at one with the state.
func (s *Shared) Open(c Config, link Link) *Store {
	c = c.withDefaults()
	e := &memory{shared: s, config: c, link: link, mirror: newMirror(), wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.mirror.current.Store(s.truth.current.Load())
	s.servers = append(s.servers, e)
	return newStore(c, e, e.mirror)
}

// commitLocked makes a transaction if its conditions hold.
func (s *Shared) commitLocked(t txn) (revision int64, ok bool, err error) {
	if t.office != nil && !slices.ContainsFunc(s.contenders, func(c *contender) bool { return c.created == t.office.created }) {
		return 0, false, ErrDeposed
	}
	for _, c := range t.conditions {
		if !s.holdsLocked(c) {
			return s.revision, false, nil
		}
	}
	changes := make([]change, 0, len(t.writes))
	for _, w := range t.writes {
		if w.value == nil {
			delete(s.keys, w.key)
		} else {
			s.keys[w.key] = memoryKey{w.value, s.revision + 1}
		}
		changes = append(changes, change{w.key, w.value, s.revision + 1})
	}
	return s.nextLocked(changes), true, nil
}

// nextLocked makes the next revision and lets everybody know.
func (s *Shared) nextLocked(changes []change) int64 {
	s.revision++
	before := s.View()
	after, notes, err := before.with(s.revision, changes)
	if err != nil {
		panic(fmt.Sprintf("store: what was encoded cannot be decoded: %v", err))
	}
	s.truth.publish(after, notes)
	if s.committed != nil {
		s.committed(before, after, notes)
	}
	for _, e := range s.servers {
		e.pending = append(e.pending, batch{after, notes})
		if e.link == nil {
			e.followLocked(s.revision)
			continue
		}
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
	return s.revision
}

func (s *Shared) holdsLocked(c condition) bool {
	if c.end == "" {
		return s.keys[c.key].revision == c.revision
	}
	for key, k := range s.keys {
		if c.key <= key && key < c.end && k.revision > c.revision {
			return false
		}
	}
	return true
}

// leaveLocked takes a contender out, and gives the office to the next if it had it.
func (s *Shared) leaveLocked(c *contender) {
	i := slices.Index(s.contenders, c)
	if i < 0 {
		return
	}
	s.contenders = slices.Delete(s.contenders, i, i+1)
	s.nextLocked(nil)
	if i == 0 && len(s.contenders) > 0 {
		close(s.contenders[0].first)
	}
}

// memory is the engine of one server.
type memory struct {
	shared *Shared
	config Config
	link   Link // nil: none
	mirror *mirror
	wake   chan struct{} // holds one when there is something pending

	pending []batch // that the mirror has not heard of; guarded by shared.mu
}

// batch is what changed at once, and the state with it, which all mirrors share.
type batch struct {
	after *Snapshot
	notes []Change
}

// followLocked brings the mirror up to a revision.
func (e *memory) followLocked(revision int64) {
	for len(e.pending) > 0 && e.pending[0].after.Revision <= revision {
		e.mirror.publish(e.pending[0].after, e.pending[0].notes)
		e.pending = e.pending[1:]
	}
}

// ask has do run at the state, and returns when the answer is here. It fails with
// ErrNoMajority when that takes too long: do may have run.
func (e *memory) ask(ctx context.Context, most time.Duration, do func()) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	pass := func(way func(context.Context) error) error {
		err := way(ctx)
		switch {
		case err == nil:
			return nil
		case outer.Err() != nil:
			return context.Cause(outer)
		case ctx.Err() != nil:
			return noMajority(err)
		default: // the server has ended
			return err
		}
	}
	if e.link != nil {
		if err := pass(e.link.Ask); err != nil {
			return err
		}
	} else if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.shared.mu.Lock()
	do()
	e.shared.mu.Unlock()
	if e.link != nil {
		return pass(e.link.Answer)
	}
	return nil
}

func (e *memory) commit(ctx context.Context, t txn) (revision int64, ok bool, err error) {
	if lost := e.ask(ctx, commitMost, func() { revision, ok, err = e.shared.commitLocked(t) }); lost != nil {
		return 0, false, lost
	}
	return revision, ok, err
}

// lease keeps ended from being called, as long as the state is reached and stop was not
// called. lost is closed when the server knows that it is over, and a lease's time
// after it could last be sure that it is not.
func (e *memory) lease(ended func()) (lost <-chan struct{}, stop func()) {
	if e.link == nil {
		return nil, func() {
			e.shared.mu.Lock()
			defer e.shared.mu.Unlock()
			ended()
		}
	}
	over := false // guarded by shared.mu
	end := func() {
		e.shared.mu.Lock()
		defer e.shared.mu.Unlock()
		if !over {
			over = true
			ended()
		}
	}
	expiry := time.AfterFunc(e.config.Lease, end)
	ctx, cancel := context.WithCancel(context.Background())
	lease := make(chan struct{})
	go func() {
		defer close(lease)
		sure := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(e.config.Lease / 3):
			}
			alive := false
			began := time.Now()
			err := e.ask(ctx, time.Until(sure.Add(e.config.Lease)), func() {
				if alive = !over; alive {
					expiry.Reset(e.config.Lease)
				}
			})
			switch {
			case err == nil && alive:
				sure = began
			case err == nil || time.Since(sure) >= e.config.Lease:
				return
			}
		}
	}()
	return lease, func() {
		cancel()
		<-lease
		revoking, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		if e.link.Ask(revoking) == nil { // else it ends by itself
			expiry.Stop()
			end()
		}
	}
}

func (e *memory) campaign(ctx context.Context) (office, error) {
	c := &contender{first: make(chan struct{})}
	s := e.shared
	err := e.ask(ctx, commitMost, func() {
		c.created = s.nextLocked(nil)
		if s.contenders = append(s.contenders, c); len(s.contenders) == 1 {
			close(c.first)
		}
	})
	lost, stop := e.lease(func() { s.leaveLocked(c) })
	if err != nil {
		stop()
		return office{}, err
	}
	select {
	case <-c.first:
	case <-lost:
		err = noMajority(errors.New("the lease ended"))
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil && e.link != nil {
		err = e.link.Answer(ctx)
	}
	if err != nil {
		stop()
		return office{}, err
	}
	return office{fence: fence{created: c.created}, lost: lost, resign: stop}, nil
}

func (e *memory) attend(ctx context.Context, key string, value []byte) error {
	for ctx.Err() == nil {
		put, _, err := e.commit(ctx, txn{writes: []write{{key, value}}})
		if err != nil {
			if e.link == nil {
				return err
			}
			_ = pause(ctx, retryCampaign)
			continue
		}
		lost, stop := e.lease(func() { // unless a later life of the server has put its own
			_, _, _ = e.shared.commitLocked(txn{conditions: []condition{{key: key, revision: put}}, writes: []write{{key: key}}})
		})
		select {
		case <-ctx.Done():
		case <-lost:
		}
		stop()
	}
	return nil
}

func (e *memory) barrier(ctx context.Context) (revision int64, err error) {
	err = e.ask(ctx, barrierMost, func() { revision = e.shared.revision })
	return revision, err
}

func (e *memory) dump(_ context.Context, begin func(int64) error, row func(string, []byte) error) error {
	s := e.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := begin(s.revision); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(s.keys)) {
		if err := row(key, s.keys[key].value); err != nil {
			return err
		}
	}
	return nil
}

// upkeep has the mirror follow.
func (e *memory) upkeep(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		}
		e.shared.mu.Lock()
		revision := e.shared.revision
		e.shared.mu.Unlock()
		if e.link.Answer(ctx) != nil {
			return nil
		}
		e.shared.mu.Lock()
		e.followLocked(revision)
		e.shared.mu.Unlock()
	}
}

func (e *memory) close() error {
	s := e.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers = slices.DeleteFunc(s.servers, func(other *memory) bool { return other == e })
	if e.mirror.current.Load().Revision != s.revision {
		return nil // it is behind
	}
	return e.mirror.current.Load().unchanged(s.keys)
}

// unchanged compares what the snapshot holds with the JSON it was made from.
func (s *Snapshot) unchanged(keys map[string]memoryKey) error {
	for key, k := range keys {
		name, object, ok := splitKey(key)
		if !ok || name == EventLog {
			continue
		}
		now, err := json.Marshal(s.table(name).peek(object))
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		if !bytes.Equal(now, k.value) {
			return fmt.Errorf("a reader changed the snapshot's %s: it is shared, change a copy from a Tx", key[len(root):])
		}
	}
	return nil
}
