package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"bulkhead"
)

// A copy of a stamp's data is made beside everything else, in a folder that is the
// move's. It becomes the stamp's data, by one rename, when the stamp is this node's
// and not before: until then nothing of it counts, and losing it loses nothing.

// coming is the folder of the copy that a move makes.
func (s *Store) coming(stamp bulkhead.StampRef, move string) (path string, err error) {
	life, err := life(stamp)
	if err != nil {
		return "", err
	}
	if !uidPattern.MatchString(move) {
		return "", bulkhead.Errorf(bulkhead.ErrInvalid, "volume: %.80q is not the ID of a move", move)
	}
	return filepath.Join(s.comingDir(), life+"."+move), nil
}

// Leave sets the data of a stamp that went to another node aside for
// bulkhead.KeepMoved. It is never taken back by itself: the data that counts is
// there. Where the stamp has none, nothing is kept.
func (s *Store) Leave(stamp bulkhead.StampRef) error {
	life, err := life(stamp)
	if err != nil {
		return err
	}
	defer s.lock(life)()
	home := filepath.Join(s.stampsDir(), life)
	if there, err := exists(home); err != nil || !there {
		return err
	}
	if err := s.leave(life, home); err != nil {
		return fmt.Errorf("set data of stamp %s aside: %w", stamp.Name, err)
	}
	s.sizes.forget(life)
	return nil
}

func (s *Store) leave(life, home string) error {
	volumes, err := volumesOf(home)
	if err != nil {
		return err
	}
	if len(volumes) == 0 {
		return s.trash.put(home)
	}
	return s.setAside(life, home, true)
}

// volumesOf are the names of the volumes of a stamp.
func volumesOf(home string) ([]bulkhead.VolumeName, error) {
	entries, err := os.ReadDir(home)
	if err != nil {
		return nil, err
	}
	var out []bulkhead.VolumeName
	for _, e := range entries {
		if e.IsDir() && volumePattern.MatchString(e.Name()) {
			out = append(out, bulkhead.VolumeName(e.Name()))
		}
	}
	return out, nil
}

// Holds tells whether the stamp's data, in use or set aside when it was deleted, is
// the copy that this move made.
func (s *Store) Holds(stamp bulkhead.StampRef, move string) (bool, error) {
	life, err := life(stamp)
	if err != nil {
		return false, err
	}
	defer s.lock(life)()
	return s.holds(life, move)
}

func (s *Store) holds(life, move string) (bool, error) {
	home := filepath.Join(s.stampsDir(), life)
	there, err := exists(home)
	if err != nil {
		return false, err
	}
	if !there {
		kept, err := s.find(life)
		if err != nil {
			return false, err
		}
		for _, k := range kept {
			if !k.Moved {
				home = k.path // the latest
			}
		}
	}
	content, err := os.ReadFile(filepath.Join(home, moveFile))
	if errors.Is(err, fs.ErrNotExist) {
		return move == "", nil
	}
	return string(content) == move, err
}

// Install makes the copy that a move has made the stamp's data. Data that is there
// from before the stamp went elsewhere is set aside. It fails with ErrNotFound when
// there is no such copy, and with ErrConflict for an older epoch than the data has
// seen. What was installed before is installed.
func (s *Store) Install(stamp bulkhead.StampRef, move string) error {
	life, err := life(stamp)
	if err != nil {
		return err
	}
	from, err := s.coming(stamp, move)
	if err != nil {
		return err
	}
	defer s.lock(life)()
	if holds, err := s.holds(life, move); err != nil || holds {
		return err
	}
	switch there, err := exists(filepath.Join(from, moveFile)); {
	case err != nil:
		return fmt.Errorf("install data of stamp %s: %w", stamp.Name, err)
	case !there:
		return bulkhead.Errorf(bulkhead.ErrNotFound, "the data of stamp %s, which move %s was to bring, is not on this node", stamp.Name, move)
	}
	if err := s.install(stamp, life, from); err != nil {
		return fmt.Errorf("install data of stamp %s: %w", stamp.Name, err)
	}
	s.sizes.forget(life)
	return nil
}

func (s *Store) install(stamp bulkhead.StampRef, life, from string) error {
	home := filepath.Join(s.stampsDir(), life)
	there, err := exists(home)
	if err != nil {
		return err
	}
	if there {
		if err := fence(home, stamp); err != nil {
			return err
		}
		if err := s.leave(life, home); err != nil {
			return err
		}
	}
	if err := fence(from, stamp); err != nil {
		return err
	}
	return move(from, home)
}

// complete says that the copy is whole: only such a one is installed.
func complete(path, move string) error { return writeFile(filepath.Join(path, moveFile), []byte(move)) }

// Sweep drops the copies of all moves but those that keep wants.
func (s *Store) Sweep(keep func(move string) bool) error {
	entries, err := os.ReadDir(s.comingDir())
	if err != nil {
		return fmt.Errorf("drop copies: %w", err)
	}
	s.mu.Lock()
	maps.DeleteFunc(s.copies, func(move string, _ *memory) bool { return !keep(move) })
	s.mu.Unlock()
	var faults []error
	for _, e := range entries {
		move := e.Name()[strings.LastIndexByte(e.Name(), '.')+1:]
		if keep(move) {
			continue
		}
		life := strings.TrimSuffix(e.Name(), "."+move)
		unlock := s.lock(life)
		err := s.trash.put(filepath.Join(s.comingDir(), e.Name()))
		unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // installed meanwhile
			faults = append(faults, err)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("drop copies: %w", err)
	}
	return nil
}
