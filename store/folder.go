package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"bulkhead"
)

// format is the version of the layout of a data folder and of the objects in
// etcd. Raise it, with a conversion, when an older Bulkhead would misread them.
const format = 1

// Folder is a data folder that belongs to this process until Close.
type Folder struct {
	path string
	lock *os.File
}

// Path is the folder's absolute path.
func (f *Folder) Path() string { return f.path }

// Lock takes the data folder at path for this process, and makes it if need be.
// It comes before everything else that reads or writes there. One that belongs
// to a running instance or to another version is refused with ErrConflict. The
// lock goes with the process, however that ends.
func Lock(path string) (*Folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find data folder: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "make data folder: %w", err).
			WithHint("choose another one with --data")
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "lock data folder: %w", err).
			WithHint("run as the user who owns it, or choose another one with --data")
	}
	f := &Folder{path, lock}
	if err := f.take(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return f, nil
}

func (f *Folder) take() error {
	err := flock(f.lock)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		who := "another process"
		if b, err := io.ReadAll(io.LimitReader(f.lock, 32)); err == nil && len(b) > 0 {
			who = "process " + strings.TrimSpace(string(b))
		}
		return bulkhead.Errorf(bulkhead.ErrConflict, "data folder %s is in use by %s", f.path, who).
			WithHint("stop that Bulkhead first (bulkhead down --data %s), or choose another folder with --data", f.path)
	}
	if err != nil {
		return fmt.Errorf("lock data folder %s: %w", f.path, err)
	}
	if err := f.check(); err != nil {
		return err
	}
	if err := f.lock.Truncate(0); err != nil {
		return fmt.Errorf("write lock of data folder: %w", err)
	}
	if _, err := f.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("write lock of data folder: %w", err)
	}
	return nil
}

// check reads the folder's format, or marks a new folder with ours.
func (f *Folder) check() error {
	path := filepath.Join(f.path, "format")
	b, err := os.ReadFile(path)
	if err == nil {
		return checkFormat("data folder "+f.path, string(b))
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read format of data folder: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(f.path, "etcd")); err == nil {
		return bulkhead.Errorf(bulkhead.ErrConflict, "data folder %s holds an etcd, but no format file of Bulkhead's", f.path).
			WithHint("choose an empty folder with --data")
	}
	return writeSynced(path, strconv.Itoa(format)+"\n")
}

// checkFormat compares what was found in the named place with our format.
func checkFormat(place, found string) error {
	found = strings.TrimSpace(found)
	if found == strconv.Itoa(format) {
		return nil
	}
	return bulkhead.Errorf(bulkhead.ErrConflict, "%s has format %.20q; this version of Bulkhead reads format %d only", place, found, format).
		WithHint("run the version of Bulkhead that wrote it, or choose another folder with --data")
}

// writeSynced writes a new file so that a crash leaves all of it or nothing.
func writeSynced(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".format-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// Close lets go of the folder.
func (f *Folder) Close() error {
	if err := f.lock.Close(); err != nil {
		return fmt.Errorf("unlock data folder: %w", err)
	}
	return nil
}
