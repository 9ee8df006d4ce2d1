// Package volume keeps the data of stamps on one node: a folder for each volume
// of each stamp, fenced against writers of an older epoch, set aside for
// bulkhead.KeepDeleted when the stamp is deleted, and brought back on demand. It
// copies the data of a stamp from one node to another.
//
// What is in a volume was written by a customer's code and is never trusted: no
// symbolic link in it is followed, and no depth or number of files in it exhausts
// the node.
//
//	DIR/stamps/STAMP.UID/.epoch           the highest epoch seen
//	DIR/stamps/STAMP.UID/.move            the move that brought it, if one did
//	DIR/stamps/STAMP.UID/VOLUME/_data/    what tasks mount
//	DIR/kept/STAMP.UID.TIME/              the same, of a deleted stamp, or of one that moved
//	DIR/coming/STAMP.UID.MOVE/            a copy of another node's, in the making
//	DIR/trash/                            on its way out
//
// A stamp's data moves between these as a whole by one rename, so a kill or
// a crash leaves it in one place or the other. It does not mount anything or
// measure quotas, and it opens no connections. Start at Store; send.go and fetch.go are
// the two ends of a copy.
package volume

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bulkhead"
)

// expireEvery is how often Run looks for kept data that has run out.
const expireEvery = time.Hour

// Config says where data is kept.
type Config struct {
	Dir    string           // made if need be; all of it is on one file system
	Logger *slog.Logger     // nil: discard
	Now    func() time.Time // nil: time.Now
}

// Store keeps the data of the stamps of one node. It implements agent.Volumes.
// All methods may be called at the same time.
type Store struct {
	dir    string
	logger *slog.Logger
	now    func() time.Time
	trash  *trash

	mu     sync.Mutex             // guards what follows
	copies map[string]*memory     // by move: of copies in the making
	locks  map[string]*sync.Mutex // by life; whoever changes a stamp's data holds its lock

	sizes sizes
}

// New opens the folder. It fails with ErrInvalid for a wrong configuration.
func New(config Config) (*Store, error) {
	if config.Dir == "" {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "volume: no folder given")
	}
	s := &Store{
		dir:    config.Dir,
		logger: cmp.Or(config.Logger, slog.New(slog.DiscardHandler)),
		now:    config.Now,
		locks:  map[string]*sync.Mutex{},
		copies: map[string]*memory{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.sizes.now = s.now
	// Users of containers pass through the folders down to their own; nobody but
	// root lists them.
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return nil, fmt.Errorf("make volume folder: %w", err)
	}
	for dir, mode := range map[string]os.FileMode{s.stampsDir(): 0o711, s.keptDir(): 0o700, s.trashDir(): 0o700, s.comingDir(): 0o700} {
		if err := makeDir(dir, mode); err != nil {
			return nil, fmt.Errorf("make volume folder: %w", err)
		}
	}
	s.trash = &trash{dir: s.trashDir(), logger: s.logger, wake: make(chan struct{}, 1)}
	return s, nil
}

func (s *Store) stampsDir() string { return filepath.Join(s.dir, "stamps") }
func (s *Store) keptDir() string   { return filepath.Join(s.dir, "kept") }
func (s *Store) trashDir() string  { return filepath.Join(s.dir, "trash") }
func (s *Store) comingDir() string { return filepath.Join(s.dir, "coming") }

// Run removes purged data, and hourly kept data that has run out, until ctx
// ends; it returns nil then.
func (s *Store) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { s.trash.run(ctx) })
	defer running.Wait()
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		if err := s.Expire(s.now()); err != nil {
			s.logger.Warn("kept data not expired", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

var (
	stampPattern  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	uidPattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	volumePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

// life is the folder name of one life of a stamp. Neither part holds a dot, so no
// two stamps share one.
func life(stamp bulkhead.StampRef) (string, error) {
	if !stampPattern.MatchString(string(stamp.Name)) {
		return "", bulkhead.Errorf(bulkhead.ErrInvalid, "volume: %.80q is not the name of a stamp", string(stamp.Name))
	}
	if !uidPattern.MatchString(stamp.UID) {
		return "", bulkhead.Errorf(bulkhead.ErrInvalid, "volume: %.80q is not the UID of a stamp", stamp.UID)
	}
	return string(stamp.Name) + "." + stamp.UID, nil
}

// lock keeps others from changing the stamp's data.
func (s *Store) lock(life string) (unlock func()) {
	s.mu.Lock()
	lock := s.locks[life]
	if lock == nil {
		lock = new(sync.Mutex)
		s.locks[life] = lock
	}
	s.mu.Unlock()
	lock.Lock()
	return lock.Unlock
}

// Create makes the volume if need be and returns the folder to mount. fresh tells
// that nothing is in it, so that the image's content belongs there first: as in
// Docker, by the folder itself, whatever was killed in between.
//
// It fails with ErrConflict if the stamp was granted to somebody under a later
// epoch, or if its data is set aside: Restore brings that back.
func (s *Store) Create(stamp bulkhead.StampRef, volume bulkhead.VolumeName) (path string, fresh bool, err error) {
	life, err := life(stamp)
	if err != nil {
		return "", false, err
	}
	if !volumePattern.MatchString(string(volume)) {
		return "", false, bulkhead.Errorf(bulkhead.ErrInvalid, "volume: %.80q is not the name of a volume", string(volume))
	}
	defer s.lock(life)()

	home := filepath.Join(s.stampsDir(), life)
	if err := s.inPlace(life, stamp); err != nil {
		return "", false, err
	}
	if err := makeDir(home, 0o711); err != nil {
		return "", false, fmt.Errorf("create volume %s: %w", volume, err)
	}
	if err := fence(home, stamp); err != nil {
		return "", false, err
	}
	path = filepath.Join(home, string(volume), dataFolder)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(makeDir(filepath.Dir(path), 0o711), makeDir(path, 0o755)); err != nil {
			return "", false, fmt.Errorf("create volume %s: %w", volume, err)
		}
	}
	fresh, err = empty(path)
	if err != nil {
		return "", false, fmt.Errorf("create volume %s: %w", volume, err)
	}
	return path, fresh, nil
}

// inPlace refuses with ErrConflict a stamp whose data is not where it is used but set
// aside.
func (s *Store) inPlace(life string, stamp bulkhead.StampRef) error {
	if _, err := os.Lstat(filepath.Join(s.stampsDir(), life)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	kept, err := s.find(life)
	if err != nil {
		return fmt.Errorf("look for data of stamp %s: %w", stamp.Name, err)
	}
	if len(kept) > 0 {
		why := "when it was deleted"
		if kept[len(kept)-1].Moved {
			why = "when it went to another node"
		}
		return bulkhead.Errorf(bulkhead.ErrConflict, "the data of stamp %s was set aside %s", stamp.Name, why).
			WithHint("restore it, or delete it for good")
	}
	return nil
}

// Delete sets the stamp's data aside for bulkhead.KeepDeleted; with purge it is
// gone, what was set aside before too. Its disk is free soon after. A stamp
// without data is deleted already. An older epoch than the data has seen is
// refused with ErrConflict.
func (s *Store) Delete(stamp bulkhead.StampRef, purge bool) error {
	life, err := life(stamp)
	if err != nil {
		return err
	}
	defer s.lock(life)()
	home := filepath.Join(s.stampsDir(), life)
	exists, err := exists(home)
	if err != nil {
		return fmt.Errorf("delete data of stamp %s: %w", stamp.Name, err)
	}
	if exists {
		if err := fence(home, stamp); err != nil {
			return err
		}
	}
	if err := s.delete(stamp, life, home, exists, purge); err != nil {
		return fmt.Errorf("delete data of stamp %s: %w", stamp.Name, err)
	}
	s.sizes.forget(life)
	return nil
}

func (s *Store) delete(stamp bulkhead.StampRef, life, home string, exists, purge bool) error {
	if !purge {
		if !exists {
			return nil
		}
		return s.setAside(life, home, false)
	}
	kept, err := s.find(life)
	if err != nil {
		return err
	}
	for _, k := range kept {
		if seen, _, err := epochOf(k.path, stamp); err != nil {
			return err
		} else if stamp.Epoch < seen {
			return over(stamp, seen)
		}
	}
	for _, k := range kept {
		if err := s.trash.put(k.path); err != nil {
			return err
		}
	}
	if exists {
		return s.trash.put(home)
	}
	return nil
}

// setAside moves a stamp's data to what is kept.
func (s *Store) setAside(life, home string, moved bool) error {
	now := s.now().UTC()
	content, err := json.Marshal(record{Deleted: now, Moved: moved})
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(home, keptFile), content); err != nil {
		return err
	}
	return move(home, filepath.Join(s.keptDir(), life+"."+strconv.FormatInt(now.UnixNano(), 10)))
}

// Restore brings back what Delete set aside for the stamp with this UID: the
// latest, if several. Data of before the stamp went to another node is not that: it
// stays aside. It fails with ErrNotFound if nothing was and with
// ErrConflict if the stamp has data again. Restoring what was restored before
// and has not been deleted since is no error.
func (s *Store) Restore(stamp bulkhead.StampRef) error {
	life, err := life(stamp)
	if err != nil {
		return err
	}
	defer s.lock(life)()
	home := filepath.Join(s.stampsDir(), life)
	kept, err := s.find(life)
	if err != nil {
		return fmt.Errorf("restore data of stamp %s: %w", stamp.Name, err)
	}
	kept = slices.DeleteFunc(kept, func(k Kept) bool { return k.Moved })
	there, err := exists(home)
	if err != nil {
		return fmt.Errorf("restore data of stamp %s: %w", stamp.Name, err)
	}
	if there { // what a move has brought is the stamp's data, whatever it had here before
		moved, err := exists(filepath.Join(home, moveFile))
		if err != nil {
			return fmt.Errorf("restore data of stamp %s: %w", stamp.Name, err)
		}
		if moved {
			kept = nil
		}
	}
	switch {
	case len(kept) > 0 && there:
		return bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s has data, and data set aside %s: one of them has to go first",
			stamp.Name, kept[len(kept)-1].Deleted.Format(time.RFC3339))
	case len(kept) == 0 && there:
		if restored, err := exists(filepath.Join(home, keptFile)); err != nil || restored {
			return err
		}
		fallthrough
	case len(kept) == 0:
		return bulkhead.Errorf(bulkhead.ErrNotFound, "no data of stamp %s is kept on this node", stamp.Name).
			WithHint("data of a deleted stamp is kept for %d days, unless it was purged", bulkhead.KeepDeleted/(24*time.Hour))
	}
	latest := kept[len(kept)-1]
	if err := fence(latest.path, stamp); err != nil {
		return err
	}
	if err := move(latest.path, home); err != nil {
		return fmt.Errorf("restore data of stamp %s: %w", stamp.Name, err)
	}
	s.sizes.forget(filepath.Base(latest.path))
	return nil
}

// Kept is data of a deleted stamp, or of one that went to another node.
type Kept struct {
	Name    bulkhead.StampName
	UID     string
	Deleted time.Time // when it was set aside
	Moved   bool      // because the stamp went to another node
	Bytes   int64     // on disk

	path string
}

// Until is when it runs out.
func (k Kept) Until() time.Time {
	if k.Moved {
		return k.Deleted.Add(bulkhead.KeepMoved)
	}
	return k.Deleted.Add(bulkhead.KeepDeleted)
}

// Kept lists what is set aside, by name and time of deletion.
func (s *Store) Kept(ctx context.Context) ([]Kept, error) {
	all, err := s.find("")
	if err != nil {
		return nil, fmt.Errorf("list kept data: %w", err)
	}
	for i := range all {
		if all[i].Bytes, err = s.sizes.of(ctx, all[i].path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("measure kept data: %w", err)
		}
	}
	return all, nil
}

// Aside is Kept without sizes, which take time, as the servers hear of it: the latest
// first, at most bulkhead.MostAside.
func (s *Store) Aside() ([]bulkhead.Aside, error) {
	all, err := s.find("")
	if err != nil {
		return nil, fmt.Errorf("list kept data: %w", err)
	}
	slices.SortFunc(all, func(a, b Kept) int { return b.Deleted.Compare(a.Deleted) })
	var out []bulkhead.Aside
	for _, k := range all[:min(len(all), bulkhead.MostAside)] {
		out = append(out, bulkhead.Aside{Stamp: k.Name, UID: k.UID, Moved: k.Moved, Since: k.Deleted, Until: k.Until()})
	}
	return out, nil
}

// Usage is how many bytes on disk the stamp's data takes, at most a minute old.
// Of more than a million files it is a lower bound. A stamp without data has 0.
func (s *Store) Usage(ctx context.Context, stamp bulkhead.StampRef) (int64, error) {
	life, err := life(stamp)
	if err != nil {
		return 0, err
	}
	size, err := s.sizes.of(ctx, filepath.Join(s.stampsDir(), life))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("measure data of stamp %s: %w", stamp.Name, err)
	}
	return size, nil
}

// Expire removes what has run out by now.
// Run calls it.
func (s *Store) Expire(now time.Time) error {
	all, err := s.find("")
	if err != nil {
		return fmt.Errorf("expire kept data: %w", err)
	}
	var faults []error
	for _, k := range all {
		if now.Before(k.Until()) {
			continue
		}
		unlock := s.lock(string(k.Name) + "." + k.UID)
		err := s.trash.put(k.path)
		unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // restored or purged meanwhile
			faults = append(faults, err)
			continue
		}
		s.sizes.forget(filepath.Base(k.path))
		s.logger.Info("kept data ran out", "stamp", k.Name, "uid", k.UID, "deleted", k.Deleted)
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("expire kept data: %w", err)
	}
	return nil
}

// Files beside the volumes of a stamp: the record of one that is or was set
// aside, the epoch, and the move that brought the data. No volume's name begins with a dot.
const (
	keptFile  = ".kept.json"
	epochFile = ".epoch"
	moveFile  = ".move"
)

// dataFolder is where in its folder a volume's content is.
const dataFolder = "_data"

// record is the content of keptFile. Stamp and UID are in the folder's name.
type record struct {
	Deleted time.Time `json:"deleted"`
	Moved   bool      `json:"moved,omitempty"`
}

// find lists what is set aside of one life, or of all for "", oldest last name
// by name. Its Bytes are 0.
func (s *Store) find(life string) ([]Kept, error) {
	entries, err := os.ReadDir(s.keptDir())
	if err != nil {
		return nil, err
	}
	var all []Kept
	for _, entry := range entries {
		name, rest, _ := strings.Cut(entry.Name(), ".")
		uid, _, ok := strings.Cut(rest, ".")
		if !ok || life != "" && life != name+"."+uid {
			continue
		}
		k := Kept{Name: bulkhead.StampName(name), UID: uid, path: filepath.Join(s.keptDir(), entry.Name())}
		var r record
		content, err := os.ReadFile(filepath.Join(k.path, keptFile))
		if err == nil {
			err = json.Unmarshal(content, &r)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // restored meanwhile
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Join(k.path, keptFile), err)
		}
		k.Deleted, k.Moved = r.Deleted, r.Moved
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b Kept) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Deleted.Compare(b.Deleted))
	})
	return all, nil
}

// fence refuses an epoch older than the highest that the stamp's data has seen,
// and remembers a newer one.
func fence(home string, stamp bulkhead.StampRef) error {
	seen, first, err := epochOf(home, stamp)
	switch {
	case err != nil:
		return err
	case stamp.Epoch < seen:
		return over(stamp, seen)
	case stamp.Epoch == seen && !first:
		return nil
	}
	if err := writeFile(filepath.Join(home, epochFile), strconv.AppendInt(nil, stamp.Epoch, 10)); err != nil {
		return fmt.Errorf("write epoch of stamp %s: %w", stamp.Name, err)
	}
	return nil
}

// epochOf is the highest epoch that data of a stamp has seen; first: none yet.
func epochOf(home string, stamp bulkhead.StampRef) (seen int64, first bool, err error) {
	content, err := os.ReadFile(filepath.Join(home, epochFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, true, nil
	}
	if err == nil {
		seen, err = strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	}
	if err != nil {
		return 0, false, fmt.Errorf("read epoch of stamp %s: %w", stamp.Name, err)
	}
	return seen, false, nil
}

// over refuses an epoch.
func over(stamp bulkhead.StampRef, seen int64) error {
	return bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s was granted anew: epoch %d is over, its data has seen %d", stamp.Name, stamp.Epoch, seen)
}
