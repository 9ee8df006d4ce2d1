package store

import (
	"context"
	"sync"
	"sync/atomic"
)

// mirror is the state in memory. One goroutine at a time feeds it, in the order
// of revisions; anybody reads it.
type mirror struct {
	current atomic.Pointer[Snapshot]

	mu       sync.Mutex // guards what follows, and the order of storing current
	err      error      // set once: nothing feeds the mirror any more
	waiters  []waiter
	watchers []*watcher
}

type waiter struct {
	revision int64
	done     chan struct{}
}

// change is one changed key; a nil value means that it was deleted.
type change struct {
	key      string
	value    []byte
	revision int64
}

func newMirror() *mirror {
	m := &mirror{}
	m.current.Store(&Snapshot{})
	return m
}

// apply makes what changed up to revision visible, at once.
func (m *mirror) apply(revision int64, changes []change) error {
	next, notes, err := m.current.Load().with(revision, changes)
	if err != nil {
		return err
	}
	m.publish(next, notes)
	return nil
}

// with is the snapshot after what changed up to revision.
func (s *Snapshot) with(revision int64, changes []change) (*Snapshot, []Change, error) {
	next := *s
	next.Revision = revision
	notes := make([]Change, 0, len(changes))
	for _, c := range changes {
		name, key, ok := splitKey(c.key)
		table := next.table(name)
		if !ok || table == nil {
			continue
		}
		if c.value == nil {
			table.drop(key)
		} else if err := table.set(key, c.value, c.revision); err != nil {
			return nil, nil, err
		}
		notes = append(notes, Change{Table: name, Key: key, Revision: c.revision})
	}
	return &next, notes, nil
}

// publish makes next the current snapshot and tells everybody.
func (m *mirror) publish(next *Snapshot, notes []Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current.Store(next)
	waiting := m.waiters[:0]
	for _, w := range m.waiters {
		if w.revision <= next.Revision {
			close(w.done)
		} else {
			waiting = append(waiting, w)
		}
	}
	clear(m.waiters[len(waiting):])
	m.waiters = waiting
	for _, w := range m.watchers {
		w.add(notes)
	}
}

// fail ends the mirror: whoever waits gets err.
func (m *mirror) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return
	}
	m.err = err
	for _, w := range m.waiters {
		close(w.done)
	}
	m.waiters = nil
}

// wait returns when the current snapshot is at least of revision.
func (m *mirror) wait(ctx context.Context, revision int64) error {
	m.mu.Lock()
	if m.current.Load().Revision >= revision || m.err != nil {
		defer m.mu.Unlock()
		return m.err
	}
	w := waiter{revision, make(chan struct{})}
	m.waiters = append(m.waiters, w)
	m.mu.Unlock()
	select {
	case <-w.done:
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.current.Load().Revision >= revision {
			return nil
		}
		return m.err
	case <-ctx.Done():
		return context.Cause(ctx) // the waiter goes when its revision comes
	}
}
