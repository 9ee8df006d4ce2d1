package logs

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watch tells which files of a folder are written to: one inotify watch on the
// folder, however many files there are. Idle files cost nothing.
type watch struct {
	file *os.File
}

func newWatch(dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
	}
	return &watch{file: os.NewFile(uintptr(fd), "inotify")}, nil
}

// Each calls changed with the name of every file written to, and with "" when
// names were lost, until Close.
func (w *watch) Each(changed func(name string)) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
			end := unix.SizeofInotifyEvent + int(event.Len)
			if event.Mask&unix.IN_Q_OVERFLOW != 0 {
				seen[""] = true
			} else {
				seen[unix.ByteSliceToString(rest[unix.SizeofInotifyEvent:end])] = true
			}
			rest = rest[end:]
		}
		for name := range seen {
			changed(name)
		}
		time.Sleep(gather) // the kernel merges equal events meanwhile
	}
}

func (w *watch) Close() error { return w.file.Close() }
