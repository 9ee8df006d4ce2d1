package volume

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// sizeAge is how long a measured size is good for.
	sizeAge = time.Minute
	// sizeFiles is how many files are measured.
	sizeFiles = 1_000_000
	// sizeDepth is how deep folders are measured, with two open files for each.
	sizeDepth = 200
)

// sizes measures folders, each at most once in sizeAge. The zero value needs now.
type sizes struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	known map[string]*size
}

// size is the measure of one folder, by its base name.
type size struct {
	mu    sync.Mutex // held while measuring; guards what follows
	bytes int64
	at    time.Time
}

// of is the number of bytes that a folder takes on disk.
func (s *sizes) of(ctx context.Context, path string) (int64, error) {
	s.mu.Lock()
	if s.known == nil {
		s.known = map[string]*size{}
	}
	one := s.known[filepath.Base(path)]
	if one == nil {
		one = new(size)
		s.known[filepath.Base(path)] = one
	}
	s.mu.Unlock()

	one.mu.Lock()
	defer one.mu.Unlock()
	if age := s.now().Sub(one.at); !one.at.IsZero() && age >= 0 && age < sizeAge {
		return one.bytes, nil
	}
	bytes, err := measure(ctx, path)
	if err != nil {
		s.forget(filepath.Base(path))
		return 0, err
	}
	one.bytes, one.at = bytes, s.now()
	return bytes, nil
}

// forget drops what is known of a folder that is no more.
func (s *sizes) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, name)
}

// measure adds up the blocks of all files, each once however many names it has.
// Files come and go meanwhile, and links lead nowhere outside of the folder.
func measure(ctx context.Context, path string) (int64, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return 0, err
	}
	m := meter{ctx: ctx, left: sizeFiles, seen: map[inode]bool{}}
	m.walk(root, 0)
	return m.bytes, ctx.Err()
}

type inode struct{ device, number uint64 }

type meter struct {
	ctx   context.Context
	bytes int64
	left  int            // files still to be measured
	seen  map[inode]bool // files with several names
}

// walk measures a folder, a thousand entries at a time, and closes it.
func (m *meter) walk(root *os.Root, depth int) {
	defer root.Close()
	folder, err := root.Open(".")
	if err != nil {
		return // gone
	}
	defer folder.Close()
	for m.ctx.Err() == nil {
		entries, err := folder.ReadDir(1000)
		for _, entry := range entries {
			if m.left--; m.left < 0 {
				return
			}
			info, err := root.Lstat(entry.Name())
			if err != nil {
				continue // gone
			}
			m.add(info)
			if info.IsDir() && depth < sizeDepth {
				if sub, err := root.OpenRoot(entry.Name()); err == nil {
					m.walk(sub, depth+1)
				}
			}
		}
		if err != nil {
			return // the end
		}
	}
}

func (m *meter) add(info fs.FileInfo) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	if stat.Nlink > 1 && !info.IsDir() {
		id := inode{stat.Dev, stat.Ino}
		if m.seen[id] {
			return
		}
		m.seen[id] = true
	}
	m.bytes += stat.Blocks * 512
}
