package frame

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// maxBatch bounds the updates that share one commit.
const maxBatch = 256

// Store is a module's own SQLite file. Nothing else reads it.
//
// Reads go through [Store.View], changes through [Store.Update]. Updates run one
// after the other; those that wait together are committed together, with one
// fsync, and each is answered only after it. Safe for concurrent use.
type Store struct {
	read  *sql.DB
	write *sql.DB // one connection

	mu         sync.Mutex
	waiting    []*update // guarded by mu
	committing bool      // guarded by mu

	committed *bell // tells readers of the outbox that there may be more

	// Statements of write, by their text: parsing one costs more than running it.
	// Both are only of the commit that is under way.
	statements map[string]*sql.Stmt
	wanted     []string // to be prepared before the next commit
}

// maxStatements bounds the statements that are kept: texts that are put
// together from parts could be without end.
const maxStatements = 256

type update struct {
	ctx  context.Context
	do   func(*Tx) error
	err  error
	done chan struct{}
}

// Tx is a transaction that may write.
type Tx struct {
	*sql.Tx
	store  *Store
	ctx    context.Context
	events bool
}

// Exec is that of sql.Tx, with a statement that is kept.
func (tx *Tx) Exec(query string, args ...any) (sql.Result, error) {
	if kept := tx.store.statements[query]; kept != nil {
		return tx.Stmt(kept).Exec(args...)
	}
	tx.store.wanted = append(tx.store.wanted, query)
	return tx.Tx.Exec(query, args...)
}

// QueryRow is that of sql.Tx, with a statement that is kept: the row is to be
// scanned before the same is asked again.
func (tx *Tx) QueryRow(query string, args ...any) *sql.Row {
	if kept := tx.store.statements[query]; kept != nil {
		return tx.Stmt(kept).QueryRow(args...)
	}
	tx.store.wanted = append(tx.store.wanted, query)
	return tx.Tx.QueryRow(query, args...)
}

// prepare keeps the statements that the commit before did not find. There is
// one connection, and no transaction on it now.
func (s *Store) prepare() {
	for _, query := range s.wanted {
		if s.statements[query] != nil || len(s.statements) >= maxStatements {
			continue
		}
		if kept, err := s.write.Prepare(query); err == nil { // what is wrong with it, whoever runs it is told
			s.statements[query] = kept
		}
	}
	s.wanted = s.wanted[:0]
}

// Context is that of the request that the transaction belongs to.
func (tx *Tx) Context() context.Context { return tx.ctx }

// OpenStore opens the file, makes it if there is none, and brings its tables up
// to date: the frame's own and those of the module's migrations, SQL files for
// goose such as 00001_orders.sql.
func OpenStore(ctx context.Context, path string, migrations fs.FS) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	source := func(options url.Values) string {
		options["_pragma"] = append(options["_pragma"], "busy_timeout(10000)", "foreign_keys(1)", "cache_size(-16000)")
		return "file:" + path + "?" + options.Encode()
	}
	write, err := sql.Open("sqlite", source(url.Values{"_txlock": {"immediate"}, "_pragma": {"journal_mode(WAL)", "synchronous(FULL)"}}))
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	s := &Store{write: write, committed: newBell(), statements: map[string]*sql.Stmt{}}
	for _, set := range []struct {
		table string
		files fs.FS
	}{{"frame_version", frameMigrations()}, {"module_version", migrations}} {
		if set.files == nil {
			continue
		}
		if err := migrate(ctx, write, set.table, set.files); err != nil {
			return nil, errors.Join(fmt.Errorf("migrate store %s: %w", path, err), write.Close())
		}
	}
	s.read, err = sql.Open("sqlite", source(url.Values{"mode": {"ro"}, "_pragma": {"query_only(1)"}}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), write.Close())
	}
	s.read.SetMaxOpenConns(8)
	return s, nil
}

func migrate(ctx context.Context, db *sql.DB, table string, files fs.FS) error {
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithTableName(table))
	if errors.Is(err, goose.ErrNoMigrations) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// Close closes the file. No call may be under way.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// View runs do on one unchanging picture of the data.
func (s *Store) View(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return do(tx)
}

// Update runs do in a transaction. When it returns nil, what do wrote is on
// disk. If do gives an error, nothing of it stays, and Update gives that error.
// do must use the database alone, not run long, and not keep tx.
func (s *Store) Update(ctx context.Context, do func(*Tx) error) error {
	u := &update{ctx: ctx, do: do, done: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, u)
	lead := !s.committing
	s.committing = true
	s.mu.Unlock()
	if lead {
		go s.commitWaiting()
	}
	<-u.done
	return u.err
}

// commitWaiting commits for everybody who waits, until nobody does.
func (s *Store) commitWaiting() {
	for {
		s.mu.Lock()
		batch := s.waiting[:min(len(s.waiting), maxBatch)]
		s.waiting = s.waiting[len(batch):]
		if len(batch) == 0 {
			s.committing = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.commit(batch)
		for _, u := range batch {
			close(u.done)
		}
	}
}

// commit runs a batch in one transaction, each update behind a savepoint.
func (s *Store) commit(batch []*update) {
	fail := func(err error) {
		for _, u := range batch {
			if u.err == nil {
				u.err = fmt.Errorf("write store: %w", err)
			}
		}
	}
	s.prepare()
	tx, err := s.write.BeginTx(context.Background(), nil)
	if err != nil {
		fail(err)
		return
	}
	events := false
	all := &Tx{Tx: tx, store: s}
	for _, u := range batch {
		if u.err = u.ctx.Err(); u.err != nil {
			continue
		}
		if _, err := all.Exec("SAVEPOINT one"); err != nil {
			fail(errors.Join(err, tx.Rollback()))
			return
		}
		inner := &Tx{Tx: tx, store: s, ctx: u.ctx}
		if u.err = runUpdate(u.do, inner); u.err != nil {
			if _, err := tx.Exec("ROLLBACK TO one"); err != nil {
				fail(errors.Join(err, tx.Rollback()))
				return
			}
		}
		if _, err := all.Exec("RELEASE one"); err != nil {
			fail(errors.Join(err, tx.Rollback()))
			return
		}
		events = events || u.err == nil && inner.events
	}
	if err := tx.Commit(); err != nil {
		fail(errors.Join(err, tx.Rollback()))
		return
	}
	if events {
		s.committed.ring()
	}
}

// runUpdate keeps one update's panic from the others that share its commit.
func runUpdate(do func(*Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("update panicked: %v", p)
		}
	}()
	return do(tx)
}

// bell wakes all who wait for the next change.
type bell struct {
	mu sync.Mutex
	ch chan struct{} // guarded by mu; closed by ring
}

func newBell() *bell { return &bell{ch: make(chan struct{})} }

func (s *bell) ring() {
	s.mu.Lock()
	close(s.ch)
	s.ch = make(chan struct{})
	s.mu.Unlock()
}

// next is closed at the next ring.
func (s *bell) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}
