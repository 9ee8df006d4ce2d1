package store

import (
	"context"
	"slices"
	"sync"
)

// Change says that an object is new, different or gone. It names the object
// only: look it up in a View, which is at least as new.
type Change struct {
	Table    TableName
	Key      string // of the object in its table; of an event, an opaque one
	Revision int64
}

// Everything tells that so much has changed that single objects are not named:
// read all of a new View.
func (c Change) Everything() bool { return c.Table == "" }

// mostPending is how many changes wait for one slow watcher before they become
// one that stands for everything.
const mostPending = 10_000

// Watch returns the current state and every change after it, until ctx ends and
// the channel is closed. A slow reader never holds anybody up: changes of one
// object that it has not read yet become one.
func (s *Store) Watch(ctx context.Context) (*Snapshot, <-chan Change) {
	return watch(ctx, s.mirror, func(w *watcher) (Change, bool) { return w.next() })
}

// WatchMany is Watch for a reader that takes all pending changes at once, oldest
// first, and so keeps up however many there are.
func (s *Store) WatchMany(ctx context.Context) (*Snapshot, <-chan []Change) {
	return watch(ctx, s.mirror, func(w *watcher) (all []Change, ok bool) {
		for c, more := w.next(); more; c, more = w.next() {
			all = append(all, c)
		}
		return all, len(all) > 0
	})
}

// watch delivers what take takes of what is pending.
func watch[T any](ctx context.Context, m *mirror, take func(*watcher) (T, bool)) (*Snapshot, <-chan T) {
	w := &watcher{wake: make(chan struct{}, 1), revision: map[Change]int64{}}
	m.mu.Lock()
	m.watchers = append(m.watchers, w)
	snapshot := m.current.Load()
	m.mu.Unlock()

	changes := make(chan T)
	go func() {
		defer close(changes)
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.watchers = slices.DeleteFunc(m.watchers, func(other *watcher) bool { return other == w })
		}()
		for {
			select {
			case <-w.wake:
			case <-ctx.Done():
				return
			}
			for {
				c, ok := take(w)
				if !ok {
					break
				}
				select {
				case changes <- c:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return snapshot, changes
}

// watcher keeps what one reader has not read yet.
type watcher struct {
	wake chan struct{} // holds one when something is pending

	mu       sync.Mutex       // guards what follows
	order    []Change         // what is pending, oldest first, without revisions
	revision map[Change]int64 // of each of order
}

func (w *watcher) add(changes []Change) {
	if len(changes) == 0 {
		return
	}
	w.mu.Lock()
	for _, c := range changes {
		w.addLocked(c)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) addLocked(c Change) {
	object := Change{Table: c.Table, Key: c.Key}
	if _, all := w.revision[Change{}]; all || len(w.order) >= mostPending {
		object = Change{}
	}
	if _, known := w.revision[object]; !known {
		if object.Everything() {
			w.order = nil
			clear(w.revision)
		}
		w.order = append(w.order, object)
	}
	w.revision[object] = c.Revision
}

func (w *watcher) next() (Change, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.order) == 0 {
		return Change{}, false
	}
	c := w.order[0]
	w.order = w.order[1:]
	c.Revision = w.revision[c]
	delete(w.revision, Change{Table: c.Table, Key: c.Key})
	return c, true
}
