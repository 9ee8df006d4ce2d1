// Package store keeps the state of a cluster: releases, stamps and what their
// nodes report, nodes, operators' tokens and the log of events.
//
// The truth is in etcd, which runs inside the process; every object is one key
// with a JSON value. A mirror in memory follows it. View is the mirror's current
// snapshot and costs nothing; Update changes objects in one etcd transaction
// that holds only if everything it read is still so; Watch is a snapshot and
// what changes after it; Lead runs what only one server of the cluster may do,
// and fences its writes. What Update acknowledges is on disk.
//
// It decides nothing: what the objects mean is for plan, controller and api.
// Start with Lock and Open, in tests with Memory.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"bulkhead"
)

// Config says how to open a store. Folder is needed; the zero value of all
// else is its default.
type Config struct {
	// Folder is where the state is kept, locked by Lock.
	Folder *Folder
	// Name is this server's among the servers. Default: "server".
	Name string
	// Logger gets what the store and etcd have to say; etcd's information at the
	// level of debugging. Default: discarded.
	Logger *slog.Logger

	// StampEvents is how many events of one stamp are kept. Default: 200.
	StampEvents int
	// AllEvents is how many events are kept. Default: 10,000.
	AllEvents int

	// Quota is the size in bytes of etcd's file beyond which no new objects are
	// taken. Default: 2 GiB.
	Quota int64
	// Lease is how long a leader that went silent keeps its office; whole seconds,
	// at least one. Default: 5 s.
	Lease time.Duration

	// Peers is how this server and others of the cluster reach each other. Nil: it
	// is the only one, and opens no port.
	Peers *Peers
}

// Peers is the way between servers: mutual TLS, with certificates in files that
// may be replaced at any time.
type Peers struct {
	Listen    string // HOST:PORT
	Advertise string // HOST:PORT, under which the others dial this one
	// Certificate, Key and Authority are files in PEM.
	Certificate, Key, Authority string
	// HostName is a name that the certificates of servers carry and no other.
	HostName string
	// Join holds the addresses of all servers, this one included, when this one
	// joins them with an empty folder. Empty: it is the first.
	Join []string
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "server"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.StampEvents == 0 {
		c.StampEvents = 200
	}
	if c.AllEvents == 0 {
		c.AllEvents = 10_000
	}
	if c.Quota == 0 {
		c.Quota = 2 << 30
	}
	if c.Lease == 0 {
		c.Lease = 5 * time.Second
	}
	return c
}

// Store is the state. Its methods may be called by many goroutines at once.
type Store struct {
	config Config
	engine engine
	mirror *mirror

	turn    chan struct{} // holds one of an Update that lost several times
	pruning sync.Mutex
}

func newStore(c Config, e engine, m *mirror) *Store {
	return &Store{config: c, engine: e, mirror: m, turn: make(chan struct{}, 1)}
}

// engine agrees on transactions: etcd, or a map in tests. It feeds the mirror.
type engine interface {
	// commit makes the writes of t if all its conditions hold, and tells whether
	// they did. The mirror will come to revision, which shows why not. It returns
	// ErrDeposed when the office of t is lost.
	commit(ctx context.Context, t txn) (revision int64, ok bool, err error)
	// campaign waits for the office of leader.
	campaign(ctx context.Context) (office, error)
	// attend keeps a value at key while this process lives, until ctx ends.
	attend(ctx context.Context, key string, value []byte) error
	// barrier is a revision that is at least as new as every commit that was
	// acknowledged, by whichever server, before the call.
	barrier(ctx context.Context) (revision int64, err error)
	// dump tells the newest revision, and then every key and value at it.
	dump(ctx context.Context, begin func(revision int64) error, row func(key string, value []byte) error) error
	// upkeep works until ctx ends or the engine does.
	upkeep(ctx context.Context) error
	close() error
}

// txn is a transaction as an engine sees it.
type txn struct {
	office     *fence // nil: anybody's
	conditions []condition
	writes     []write
	creates    bool // writes objects that were not there; events do not count
}

// condition: the last change of key was at revision (0: there is no such key),
// or, with an end, no key from key to before end was changed after revision.
type condition struct {
	key, end string
	revision int64
}

// write puts value at key; nil deletes it.
type write struct {
	key   string
	value []byte
}

// View is the current state. It is at least as new as every Update that has
// returned in this process, and as every Change received from Watch.
func (s *Store) View() *Snapshot { return s.mirror.current.Load() }

// Update runs fn on a transaction and commits what it wrote; View then shows it,
// and it is on disk. When something that fn read has changed meanwhile, fn runs
// again on newer state: it must have no other effects. An error of fn's is
// returned as it is and nothing is written.
//
// An error of kind ErrUnavailable (or ctx's) leaves open whether the change was
// made; ErrConflict says that it was not. When the servers lose their leader while
// they commit, fn runs again, perhaps on a state in which its change is made.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	_, err := s.update(ctx, nil, fn)
	return err
}

// mostAttempts bounds how often one Update runs again. From the third on, those
// of one process take turns, so in practice few come near it.
const mostAttempts = 500

// electionMost is how long an Update tries again while the servers elect a leader.
const electionMost = 4 * time.Second

func (s *Store) update(ctx context.Context, office *fence, fn func(tx *Tx) error) (revision int64, err error) {
	for attempt, began := 0, time.Now(); attempt < mostAttempts; attempt++ {
		if attempt == 2 {
			select {
			case s.turn <- struct{}{}:
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
			defer func() { <-s.turn }()
		}
		tx := newTx(s.View())
		if err := fn(tx); err != nil {
			return 0, err
		}
		t, err := tx.txn()
		if err != nil {
			return 0, err
		}
		if len(t.writes) == 0 {
			return tx.revision, nil
		}
		t.office = office
		revision, ok, err := s.engine.commit(ctx, t)
		if errors.Is(err, ErrNoMajority) && ctx.Err() == nil && time.Since(began) < electionMost {
			// Made or not: what t read has changed if it was, and fn then sees it.
			continue
		}
		if err != nil {
			return 0, err
		}
		if err := s.mirror.wait(ctx, revision); err != nil {
			return 0, fmt.Errorf("follow state to revision %d: %w", revision, err)
		}
		if ok {
			s.prune(ctx, tx.noisy)
			return revision, nil
		}
	}
	return 0, bulkhead.Errorf(bulkhead.ErrConflict, "the state changed %d times while it was being changed", mostAttempts).
		WithHint("try again")
}

// PutStatus records what a node reports of a stamp. It refuses with ErrConflict
// what an older life of the stamp, another node or an older epoch says, and with
// ErrNotFound a stamp that is not there. A status that says nothing new costs
// nothing.
func (s *Store) PutStatus(ctx context.Context, status bulkhead.StampStatus) error {
	return s.Update(ctx, func(tx *Tx) error {
		stamp, ok := tx.Stamps.peek(status.Name)
		switch {
		case !ok:
			return bulkhead.Errorf(bulkhead.ErrNotFound, "stamp %s does not exist", status.Name)
		case stamp.UID != status.UID:
			return bulkhead.Errorf(bulkhead.ErrConflict, "status of stamp %s is about an earlier stamp of that name", status.Name)
		case stamp.Node != status.Node || stamp.Epoch != status.Epoch:
			return bulkhead.Errorf(bulkhead.ErrConflict, "status of stamp %s comes from node %s under epoch %d: it is node %s's under epoch %d",
				status.Name, status.Node, status.Epoch, stamp.Node, stamp.Epoch)
		}
		tx.Statuses.PutNew(status)
		return nil
	})
}

// Sync brings View up to everything that any server acknowledged before the call.
// It fails with ErrUnavailable when no majority of the servers answers in time;
// View then is what was last known.
func (s *Store) Sync(ctx context.Context) error {
	revision, err := s.engine.barrier(ctx)
	if err != nil {
		return err
	}
	return s.mirror.wait(ctx, revision)
}

// prune keeps the log of events within its bounds. The events are added by then:
// a failure is nobody's but the log's.
func (s *Store) prune(ctx context.Context, stamps []bulkhead.StampName) {
	if len(stamps) == 0 || !s.pruning.TryLock() {
		return
	}
	defer s.pruning.Unlock()
	keys := s.View().Events.excess(stamps, s.config.StampEvents, s.config.AllEvents)
	for len(keys) > 0 {
		n := min(len(keys), MaxChanges)
		t := txn{writes: make([]write, n)}
		for i, key := range keys[:n] {
			t.writes[i].key = key
		}
		keys = keys[n:]
		revision, _, err := s.engine.commit(ctx, t)
		if err == nil {
			err = s.mirror.wait(ctx, revision)
		}
		if err != nil {
			s.config.Logger.Warn("events not pruned", "error", err)
			return
		}
	}
}

// Run does the upkeep of the engine until ctx ends. It returns an error when the
// store can not go on, which then refuses all changes.
func (s *Store) Run(ctx context.Context) error { return s.engine.upkeep(ctx) }

// Close stops the store. Its folder stays locked.
func (s *Store) Close() error { return s.engine.close() }
