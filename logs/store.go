// Package logs keeps what tasks write, on the node where they run.
//
// The container engine's shim appends the output of a task to a raw file, by
// itself: neither the death of Bulkhead nor that of containerd loses a byte or
// blocks a writer. Store follows the raw files, cuts their content into lines,
// stamps them with the time of reading and appends them to the one log of their
// stamp, whose oldest segments go when it is full. What has been read is taken
// out of the raw file again, as a hole, so that it never grows on disk.
//
// Every line is kept exactly once across a kill -9 of Bulkhead: before a frame
// of lines is appended, the task's progress file says from where to where it
// takes the raw file and which line number the log has reached when the frame
// is complete; after a restart the log itself tells which of the two ends
// counts. Nothing is synced to disk: a crash of the machine may cost or repeat
// the lines of the last seconds.
//
// It is not a search engine and does not ship logs elsewhere. Start at Store;
// task.go reads raw files, segment.go keeps a stamp's log, query.go reads it.
package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"bulkhead"
)

const (
	// MaxLine is the longest line in bytes; longer ones are kept in pieces, of
	// which all but the last end in "…".
	MaxLine = 16 << 10
	// DefaultMaxPerStamp is how many bytes of a stamp's log are kept.
	DefaultMaxPerStamp = 64 << 20
	// leastMaxPerStamp is the smallest bound that leaves room for segments.
	leastMaxPerStamp = 1 << 20

	// turn is how much of one task's output a round takes. With gather it is the
	// share of a task that writes without end: 25 MiB a second.
	turn = 128 << 10
	// gather is the least time between two rounds: lines that come in drops are
	// then read in batches.
	gather = 5 * time.Millisecond
	// silence is how long a line may stay without its end before it is shown.
	silence = time.Second
	// retry is the pause after an error, such as a full disk.
	retry = time.Second
)

// Config says where logs are and how much is kept.
type Config struct {
	Dir         string       // made if need be, mode 0700
	MaxPerStamp int64        // bytes; 0: DefaultMaxPerStamp; at least 1 MiB
	Logger      *slog.Logger // nil: discard
}

// Store keeps the logs of the stamps of one node. It implements agent.Logs.
// All methods may be called at the same time, and without Run.
type Store struct {
	dir         string
	maxPerStamp int64
	maxBacklog  int64 // bytes of a raw file not yet read; beyond that the oldest are skipped
	maxRaw      int64 // size of a raw file, holes included, that makes reclaim shorten it
	logger      *slog.Logger
	now         func() time.Time
	punch       func(f *os.File, from, to int64) error

	wake chan struct{} // holds one: dirty is not empty

	mu     sync.Mutex // guards what follows; never held while task.mu is taken
	tasks  map[bulkhead.TaskID]*task
	stamps map[bulkhead.StampName]*stampLog
	dirty  map[*task]struct{} // to be read in the next round
}

// New opens the folder and finds the tasks of a former life. It fails with
// ErrInvalid for a wrong configuration.
func New(config Config) (*Store, error) {
	most := cmp.Or(config.MaxPerStamp, DefaultMaxPerStamp)
	if config.Dir == "" {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "logs: no folder given")
	}
	if most < leastMaxPerStamp {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "logs: %d bytes for a stamp's log: at least %d", most, leastMaxPerStamp)
	}
	s := &Store{
		dir:         config.Dir,
		maxPerStamp: most,
		maxBacklog:  most,
		maxRaw:      1 << 40, // ext4 ends files at 16 TiB, and writers with them
		logger:      cmp.Or(config.Logger, slog.New(slog.DiscardHandler)),
		now:         time.Now,
		punch:       punchHole,
		wake:        make(chan struct{}, 1),
		tasks:       map[bulkhead.TaskID]*task{},
		stamps:      map[bulkhead.StampName]*stampLog{},
		dirty:       map[*task]struct{}{},
	}
	for _, dir := range []string{s.dir, s.rawDir(), s.progressDir(), s.stampsDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make log folder: %w", err)
		}
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("load tasks of %s: %w", s.dir, err)
	}
	return s, nil
}

// The parts of the folder. Raw files are alone in theirs, so that one inotify
// watch on it tells of nothing else.
func (s *Store) rawDir() string      { return filepath.Join(s.dir, "raw") }      // TASK: output not yet read
func (s *Store) progressDir() string { return filepath.Join(s.dir, "progress") } // TASK: how far it is read
func (s *Store) stampsDir() string   { return filepath.Join(s.dir, "stamps") }   // STAMP/: segments

// load finds the tasks that a former life left.
func (s *Store) load() error {
	entries, err := os.ReadDir(s.progressDir())
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !taskPattern.MatchString(entry.Name()) {
			os.Remove(filepath.Join(s.progressDir(), entry.Name())) // left half-written by a kill
			continue
		}
		t, err := s.loadTask(bulkhead.TaskID(entry.Name()))
		if err != nil {
			// Without its progress file, Open starts the task anew where its raw
			// file's data begins.
			s.logger.Warn("log progress unreadable", "task", entry.Name(), "error", err)
			os.Remove(filepath.Join(s.progressDir(), entry.Name()))
			continue
		}
		s.tasks[t.id] = t
		s.dirty[t] = struct{}{}
	}
	return nil
}

// Run reads what tasks write until ctx ends, and returns nil then.
func (s *Store) Run(ctx context.Context) error {
	watch, err := newWatch(s.rawDir())
	if err != nil {
		return fmt.Errorf("watch log folder: %w", err)
	}
	s.markDirty("") // what was written before there was a watch
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		return watch.Close()
	})
	group.Go(func() error {
		err := watch.Each(s.markDirty)
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch log folder: %w", err)
	})
	group.Go(func() error {
		s.closeAbandoned()
		s.readAll(ctx)
		return nil
	})
	return group.Wait()
}

// closeAbandoned ends tasks of a former life that nobody can write for any more.
func (s *Store) closeAbandoned() {
	s.mu.Lock()
	var abandoned []bulkhead.TaskID
	for id, t := range s.tasks {
		if t.abandoned {
			abandoned = append(abandoned, id)
		}
	}
	s.mu.Unlock()
	for _, id := range abandoned {
		if err := s.end(id, func(t *task) bool { return t.abandoned }); err != nil {
			s.logger.Warn("ended task's log stays open", "task", id, "error", err)
		}
	}
}

// markDirty has tasks read in the next round: the named one, or all for "".
func (s *Store) markDirty(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" {
		for _, t := range s.tasks {
			s.dirty[t] = struct{}{}
		}
	} else if t := s.tasks[bulkhead.TaskID(name)]; t != nil {
		s.dirty[t] = struct{}{}
	}
	s.wakeLocked()
}

func (s *Store) wakeLocked() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// readAll reads dirty tasks in rounds, a turn each, so that none starves. It
// rests as long as it works: whatever tasks write costs half a core at most.
func (s *Store) readAll(ctx context.Context) {
	var (
		buffers = new(buffers)
		due     = map[*task]time.Time{} // tasks to be read again without being told
		rest    = time.NewTimer(0)
	)
	defer rest.Stop()
	for {
		select { // the pause after a round
		case <-ctx.Done():
			return
		case <-rest.C:
		}

		var next <-chan time.Time
		if len(due) > 0 {
			next = time.After(time.Until(slices.MinFunc(slices.Collect(maps.Values(due)), time.Time.Compare)))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-next:
		}

		began := time.Now()
		s.mu.Lock()
		round := s.dirty
		s.dirty = map[*task]struct{}{}
		s.mu.Unlock()
		for t, at := range due {
			if !at.After(began) {
				round[t] = struct{}{}
			}
		}
		for t := range round {
			delete(due, t)
			at, err := t.read(buffers)
			if err != nil {
				s.logger.Warn("task's log not read", "task", t.id, "stamp", t.stamp, "error", err)
				at = time.Now().Add(retry)
			}
			if !at.IsZero() {
				due[t] = at
			}
		}
		rest.Reset(max(gather, time.Since(began)))
	}
}

// Names become file names. A task's is its stamp's, a dot and more.
var (
	stampPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	taskPattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*\.[a-zA-Z0-9][a-zA-Z0-9._-]*$`)
)

func checkStamp(stamp bulkhead.StampName) error {
	if len(stamp) > 63 || !stampPattern.MatchString(string(stamp)) {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "logs: %.80q is not the name of a stamp", string(stamp))
	}
	return nil
}

// Open returns the path of the file that the container engine appends to, and
// begins or goes on to read it. It is idempotent. Names that are not the
// platform's are refused with ErrInvalid, a task of another stamp or service
// than before with ErrConflict.
func (s *Store) Open(stamp bulkhead.StampName, service bulkhead.ServiceName, id bulkhead.TaskID) (string, error) {
	if err := checkStamp(stamp); err != nil {
		return "", err
	}
	if err := service.Validate(); err != nil {
		return "", err
	}
	if len(id) > 200 || !taskPattern.MatchString(string(id)) || !strings.HasPrefix(string(id), string(stamp)+".") {
		return "", bulkhead.Errorf(bulkhead.ErrInvalid, "logs: %.80q is not a task of stamp %q", string(id), string(stamp))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[id]
	if t == nil {
		var err error
		if t, err = s.newTask(id, stamp, service); err != nil {
			return "", fmt.Errorf("open log of task %s: %w", id, err)
		}
		s.tasks[id] = t
	} else if t.stamp != stamp || t.service != service {
		return "", bulkhead.Errorf(bulkhead.ErrConflict, "logs: task %s belongs to service %s of stamp %s", id, t.service, t.stamp)
	}
	t.abandoned = false
	s.dirty[t] = struct{}{}
	s.wakeLocked()
	return t.rawPath(), nil
}

// Close says that the task has ended and its output is complete: the rest is
// read and the raw file removed. Closing an unknown task is no error.
func (s *Store) Close(id bulkhead.TaskID) error {
	return s.end(id, func(*task) bool { return true })
}

// end takes a task out if which, called under mu, says so.
func (s *Store) end(id bulkhead.TaskID, which func(*task) bool) error {
	s.mu.Lock()
	t := s.tasks[id]
	if t == nil || !which(t) {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	if err := t.readToEnd(new(buffers)); err != nil {
		return fmt.Errorf("close log of task %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[id] != t || !which(t) {
		return nil
	}
	delete(s.tasks, id)
	delete(s.dirty, t)
	return t.remove()
}

// Delete drops all logs of a stamp. Followers of it come to their end.
func (s *Store) Delete(stamp bulkhead.StampName) error {
	if err := checkStamp(stamp); err != nil {
		return err
	}
	s.mu.Lock()
	var mine []*task
	for id, t := range s.tasks {
		if t.stamp == stamp {
			mine = append(mine, t)
			delete(s.tasks, id)
			delete(s.dirty, t)
		}
	}
	log := s.stamps[stamp]
	delete(s.stamps, stamp)
	s.mu.Unlock()

	var faults []error
	for _, t := range mine {
		faults = append(faults, t.remove())
	}
	if log != nil {
		log.end()
	}
	faults = append(faults, os.RemoveAll(filepath.Join(s.stampsDir(), string(stamp))))
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("delete logs of stamp %s: %w", stamp, err)
	}
	return nil
}

// log is the log of a stamp, opened when it is first used.
func (s *Store) log(stamp bulkhead.StampName) *stampLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logLocked(stamp)
}

func (s *Store) logLocked(stamp bulkhead.StampName) *stampLog {
	log := s.stamps[stamp]
	if log == nil {
		log = &stampLog{
			dir:     filepath.Join(s.stampsDir(), string(stamp)),
			most:    s.maxPerStamp,
			logger:  s.logger.With("stamp", stamp),
			changed: make(chan struct{}),
		}
		s.stamps[stamp] = log
	}
	return log
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
