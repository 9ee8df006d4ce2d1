package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// retry is the pause after a removal that did not succeed.
const retry = time.Minute

// trash removes folders in the background. What is put into it is gone for
// everybody else at once.
type trash struct {
	dir    string
	logger *slog.Logger
	wake   chan struct{} // holds one: there is something to remove

	mu   sync.Mutex // guards what follows
	last int64      // number of the last folder put in
}

// name is one that is in nobody's use.
func (t *trash) name() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = max(t.last+1, time.Now().UnixNano()) // later than a former life's
	return strconv.FormatInt(t.last, 10)
}

// put takes a folder out of its place.
func (t *trash) put(path string) error {
	if err := move(path, filepath.Join(t.dir, t.name())); err != nil {
		return err
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return nil
}

// run removes what is and what comes, until ctx ends.
func (t *trash) run(ctx context.Context) {
	for {
		var again <-chan time.Time
		if err := t.empty(ctx); err != nil && ctx.Err() == nil {
			t.logger.Warn("purged data not removed yet", "error", err)
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-again:
		}
	}
}

// empty removes everything. A folder inside a folder is first moved up to the
// trash itself: however deep a tree is, paths stay short, few files are open,
// and a kill in between loses nothing. Nothing outside is reachable through an
// os.Root, whatever links there are.
func (t *trash) empty(ctx context.Context) error {
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		entries, err := readSome(root, ".")
		if err != nil || len(entries) == 0 {
			return err
		}
		removed := false
		var faults []error
		for _, entry := range entries {
			if err := t.remove(ctx, root, entry); err != nil {
				faults = append(faults, err)
				continue
			}
			removed = true
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !removed { // else there may be more behind what resists
			return errors.Join(faults...)
		}
	}
}

// remove takes one entry of the trash away, its subfolders excepted, which it
// moves up.
func (t *trash) remove(ctx context.Context, root *os.Root, entry fs.DirEntry) error {
	if !entry.IsDir() {
		return mutable(root, ".", entry.Name(), func() error { return root.Remove(entry.Name()) })
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		children, err := readSome(root, entry.Name())
		if err != nil {
			return err
		}
		if len(children) == 0 {
			return mutable(root, ".", entry.Name(), func() error { return root.Remove(entry.Name()) })
		}
		for _, child := range children {
			path := filepath.Join(entry.Name(), child.Name())
			err := mutable(root, entry.Name(), path, func() error {
				if child.IsDir() {
					return root.Rename(path, t.name())
				}
				return root.Remove(path)
			})
			if err != nil {
				return err
			}
		}
	}
}

// readSome is up to a thousand entries of a folder.
func readSome(root *os.Root, path string) ([]fs.DirEntry, error) {
	d, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(1000)
	if err == io.EOF {
		err = nil
	}
	return entries, err
}

// mutable does something to the entry path of folder, and again after taking the
// "immutable" and "append only" flags (chattr(1)) off both if they forbade it.
func mutable(root *os.Root, folder, path string, do func() error) error {
	err := do()
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := errors.Join(clearFlags(root, folder), clearFlags(root, path)); err != nil {
		return fmt.Errorf("make %s removable: %w", path, err)
	}
	return do()
}

// The inode flags of linux/fs.h that forbid removal.
const (
	flagAppend    = 0x20 // FS_APPEND_FL
	flagImmutable = 0x10 // FS_IMMUTABLE_FL
)

func clearFlags(root *os.Root, path string) error {
	info, err := root.Lstat(path)
	if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
		return err // others have no flags, and to open a device could do anything
	}
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return os.NewSyscallError("ioctl FS_IOC_GETFLAGS", err)
	}
	flags &^= flagImmutable | flagAppend
	return os.NewSyscallError("ioctl FS_IOC_SETFLAGS", unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags)))
}
