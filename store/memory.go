package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Memory is an empty store without etcd: the same transactions on a map. It
// starts no goroutine, so it works in a testing/synctest bubble, and with Lead
// among its own callers. Its Close returns an error if a reader has changed what
// the snapshots share.
func Memory() *Store {
	m := newMirror()
	e := &memory{mirror: m, keys: map[string]memoryKey{}, office: make(chan struct{}, 1)}
	return &Store{config: Config{}.withDefaults(), engine: e, mirror: m}
}

// memory is the engine of Memory.
type memory struct {
	mirror *mirror
	office chan struct{} // holds one while somebody leads

	mu       sync.Mutex // guards what follows
	revision int64
	keys     map[string]memoryKey
	leader   int64 // revision at which the present leader came, 0: nobody leads
}

type memoryKey struct {
	value    []byte
	revision int64
}

func (e *memory) commit(ctx context.Context, t txn) (revision int64, ok bool, err error) {
	if ctx.Err() != nil {
		return 0, false, context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if t.office != nil && t.office.created != e.leader {
		return 0, false, ErrDeposed
	}
	for _, c := range t.conditions {
		if !e.holdsLocked(c) {
			return e.revision, false, nil
		}
	}
	e.revision++
	changes := make([]change, 0, len(t.writes))
	for _, w := range t.writes {
		if w.value == nil {
			delete(e.keys, w.key)
		} else {
			e.keys[w.key] = memoryKey{w.value, e.revision}
		}
		changes = append(changes, change{w.key, w.value, e.revision})
	}
	if err := e.mirror.apply(e.revision, changes); err != nil {
		return 0, false, err
	}
	return e.revision, true, nil
}

func (e *memory) holdsLocked(c condition) bool {
	if c.end == "" {
		return e.keys[c.key].revision == c.revision
	}
	for key, k := range e.keys {
		if c.key <= key && key < c.end && k.revision > c.revision {
			return false
		}
	}
	return true
}

func (e *memory) campaign(ctx context.Context) (office, error) {
	select {
	case e.office <- struct{}{}:
	case <-ctx.Done():
		return office{}, context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.revision++
	e.leader = e.revision
	if err := e.mirror.apply(e.revision, nil); err != nil {
		return office{}, err
	}
	return office{fence: fence{created: e.leader}, resign: func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.leader = 0
		<-e.office
	}}, nil
}

func (e *memory) attend(ctx context.Context, key string, value []byte) error {
	if _, _, err := e.commit(ctx, txn{writes: []write{{key, value}}}); err != nil {
		return err
	}
	<-ctx.Done()
	_, _, err := e.commit(context.WithoutCancel(ctx), txn{writes: []write{{key: key}}})
	return err
}

func (e *memory) barrier(context.Context) (int64, error) {
	return e.mirror.current.Load().Revision, nil
}

func (e *memory) dump(_ context.Context, begin func(int64) error, row func(string, []byte) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := begin(e.revision); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(e.keys)) {
		if err := row(key, e.keys[key].value); err != nil {
			return err
		}
	}
	return nil
}

func (e *memory) upkeep(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (e *memory) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mirror.current.Load().unchanged(e.keys)
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
