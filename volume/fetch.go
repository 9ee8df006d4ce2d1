package volume

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"bulkhead"
)

// memory is what one move remembers from pass to pass. It is lost with the process;
// then everything is compared again.
type memory struct {
	key      []byte
	versions map[string]version  // by path: what the copy is the same as
	hashes   map[string]hashList // by path: of the copy's blocks
	hashed   int                 // blocks in hashes
}

// memory is that of a move. A move has one pass at a time.
func (s *Store) memory(move string) *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.copies[move]
	if m == nil {
		m = &memory{key: make([]byte, keySize)}
		_, _ = rand.Read(m.key) // never fails
		s.copies[move] = m
	}
	return m
}

// Fetch makes this node's copy of a stamp's data the same as what the other end of conn
// has, which calls Send there: one pass of a move. It tells how many bytes of content
// came, and how many files were new or had changed; told hears now and then of the
// bytes. With last the copy is complete, and on the disk, when Fetch returns: Install
// makes it the stamp's data. The other end is not trusted: nothing that it names is
// outside of the copy.
//
// An error of kind ErrInvalid says that the data cannot be copied, ErrExhausted that
// the disk is full; others may pass.
func (s *Store) Fetch(ctx context.Context, conn io.ReadWriter, stamp bulkhead.StampRef, move string, last bool, told func(bytes int64)) (int64, int, error) {
	home, err := s.coming(stamp, move)
	if err != nil {
		return 0, 0, err
	}
	if err := makeDir(home, 0o711); err != nil {
		return 0, 0, fmt.Errorf("make a copy: %w", diskFull(err))
	}
	root, err := os.OpenRoot(home)
	if err != nil {
		return 0, 0, fmt.Errorf("make a copy: %w", err)
	}
	defer root.Close()
	f := &fetcher{
		wire: newWire(conn), conn: conn, ctx: ctx, root: root, told: told, last: last, was: s.memory(move),
		next:  memory{versions: map[string]version{}, hashes: map[string]hashList{}},
		links: map[int]string{}, claimed: map[uint64]bool{}, dirty: map[string]bool{},
	}
	if err := f.run(); err != nil {
		return f.bytes, f.files, fmt.Errorf("copy data of stamp %s: %w", stamp.Name, diskFull(err))
	}
	f.was.versions, f.was.hashes, f.was.hashed = f.next.versions, f.next.hashes, f.next.hashed
	if !last {
		return f.bytes, f.files, nil
	}
	s.mu.Lock()
	delete(s.copies, move)
	s.mu.Unlock()
	if err := complete(home, move); err != nil {
		return f.bytes, f.files, fmt.Errorf("copy data of stamp %s: %w", stamp.Name, diskFull(err))
	}
	return f.bytes, f.files, nil
}

// diskFull says so.
func diskFull(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return bulkhead.Errorf(bulkhead.ErrExhausted, "the disk is full: %w", err)
	}
	return err
}

// fetcher is the other end of a sender.
type fetcher struct {
	*wire
	conn  any
	ctx   context.Context
	root  *os.Root // of the copy; paths in it are VOLUME/_data/...
	told  func(int64)
	last  bool
	was   *memory
	next  memory
	bytes int64
	files int

	hasher  hasher
	entries int
	needs   int64 // bytes of disk that what is wanted takes beyond what is there
	wanted  []wanted
	folders []described // to be described when all is in them
	joins   []join
	links   map[int]string  // path of the first name of a file that has several
	claimed map[uint64]bool // inodes of the copy that such files have
	dirty   map[string]bool // folders and files to be flushed
}

// wanted is a file of which content is asked for.
type wanted struct {
	path    string
	entry   entry
	replace bool // what is there is not changed but left to its other names
	hashes  hashList
}

type described struct {
	path  string
	entry entry
}

// join makes path another name of the file first.
type join struct{ path, first string }

func (f *fetcher) run() error {
	var err error
	if f.hasher, err = newHasher(f.was.key); err != nil {
		return err
	}
	if err := f.root.RemoveAll(temporary); err != nil { // of a pass that was cut short
		return err
	}
	if err := f.object(kindHello, hello{Key: f.was.key, Last: f.last}); err != nil {
		return err
	}
	if err := f.w.Flush(); err != nil {
		return err
	}
	if err := f.list(); err != nil {
		return err
	}
	if err := f.room(); err != nil {
		return err
	}
	if err := f.contents(); err != nil {
		return err
	}
	for _, j := range f.joins {
		if err := f.join(j); err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(f.folders) {
		if err := f.describe(d.path, d.entry); err != nil {
			return err
		}
	}
	return f.flush()
}

// list reads what there is, makes folders and links, removes what is not there, and
// notes which files are wanted.
func (f *fetcher) list() error {
	volumes := map[string]bool{}
	for {
		k, b, err := f.hear()
		if err != nil {
			return err
		}
		if k == kindListed {
			return f.prune(".", func(name string) bool { return volumes[name] || strings.HasPrefix(name, ".") })
		}
		e, err := decode[entry](b)
		switch {
		case err != nil:
			return err
		case k != kindVolume || volumes[e.Name] || !volumePattern.MatchString(e.Name) || len(volumes) >= mostVolumes:
			return invalid("it names volume %.80q", e.Name)
		}
		volumes[e.Name] = true
		for _, dir := range []string{e.Name, path.Join(e.Name, dataFolder)} {
			if err := f.makeFolder(dir); err != nil {
				return err
			}
		}
		f.folders = append(f.folders, described{e.Name, entry{Type: typeFolder, Mode: 0o711}})
		f.links = map[int]string{}
		if err := f.folder(path.Join(e.Name, dataFolder), e); err != nil {
			return err
		}
	}
}

// hear reads a frame; trouble is an error.
func (f *fetcher) hear() (kind, []byte, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, nil, err
	}
	k, b, err := f.read()
	if err == nil && k == kindTrouble {
		t, err := decode[trouble](b)
		if err == nil {
			err = t.err()
		}
		return 0, nil, err
	}
	return k, b, err
}

func invalid(format string, args ...any) error {
	return bulkhead.Errorf(bulkhead.ErrInvalid, "the other node does not follow the rules: %s", fmt.Sprintf(format, args...))
}

// folder reads what is in a folder, to its end. Folders in it are not calls of their
// own: how deep they are is for the sender to say.
func (f *fetcher) folder(dir string, e entry) error {
	type level struct {
		path string
		seen map[string]bool
	}
	stack := []level{{dir, map[string]bool{}}}
	f.folders = append(f.folders, described{dir, e})
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		k, b, err := f.hear()
		if err != nil {
			return err
		}
		if k == kindUp {
			if err := f.prune(top.path, func(name string) bool { return top.seen[name] }); err != nil {
				return err
			}
			stack = stack[:len(stack)-1]
			continue
		}
		e, err := decode[entry](b)
		switch {
		case err != nil:
			return err
		case k != kindEntry:
			return invalid("a frame of kind %q in a list", byte(k))
		case e.Name == "" || e.Name == "." || e.Name == ".." || len(e.Name) > 255 || strings.ContainsAny(e.Name, "/\x00"):
			return invalid("it names %.80q", e.Name)
		case top.seen[e.Name]:
			return invalid("it names %.80q twice", e.Name)
		case e.Mode&^permissions != 0 || e.Version.Size < 0 || e.Version.Size > mostSize || e.Blocks < 0 || e.Blocks > mostSize || len(e.To) > 4096:
			return invalid("%.80q is described by what cannot be", e.Name)
		}
		if f.entries++; f.entries > mostEntries {
			return invalid("it names more than %d files", mostEntries)
		}
		top.seen[e.Name] = true
		at := top.path + "/" + e.Name
		if e.Type == typeFolder {
			if len(stack) > mostDepth {
				return invalid("folders are nested deeper than %d", mostDepth)
			}
			if err := f.makeFolder(at); err != nil {
				return err
			}
			f.folders = append(f.folders, described{at, e})
			stack = append(stack, level{at, map[string]bool{}})
			continue
		}
		if err := f.leaf(at, e); err != nil {
			return err
		}
	}
	return nil
}

// stat is what is at a path of the copy; nil: nothing.
func (f *fetcher) stat(at string) (*syscall.Stat_t, error) {
	info, err := f.root.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return info.Sys().(*syscall.Stat_t), nil
}

func (f *fetcher) makeFolder(at string) error {
	stat, err := f.stat(at)
	if err != nil || stat != nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return err
	}
	if stat != nil {
		if err := f.remove(at); err != nil {
			return err
		}
	}
	f.touch(at)
	return f.root.Mkdir(at, 0o700)
}

// touch notes that what a path names has changed, and so has the folder that it is in.
func (f *fetcher) touch(at string) {
	f.dirty[path.Dir(at)] = true
}

func (f *fetcher) remove(at string) error {
	f.touch(at)
	return f.root.RemoveAll(at)
}

// prune removes what keep does not want from a folder.
func (f *fetcher) prune(dir string, keep func(name string) bool) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var gone []string
	for {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			if !keep(name) {
				gone = append(gone, name)
			}
		}
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	for _, name := range gone {
		if err := f.remove(path.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// leaf makes the copy have a name that is no folder, or notes what is wanted for it.
func (f *fetcher) leaf(at string, e entry) error {
	stat, err := f.stat(at)
	if err != nil {
		return err
	}
	is := func(format uint32) bool { return stat != nil && stat.Mode&unix.S_IFMT == format }
	switch e.Type {
	case typeFile:
		if stat != nil && !is(unix.S_IFREG) {
			if err := f.remove(at); err != nil {
				return err
			}
			stat = nil
		}
		return f.file(at, e, stat)
	case typeLink:
		first, ok := f.links[e.Link]
		if !ok {
			return invalid("%.80q is a name of a file that was not named", e.Name)
		}
		if stat != nil && !is(unix.S_IFREG) {
			if err := f.remove(at); err != nil {
				return err
			}
		}
		f.joins = append(f.joins, join{at, first})
		return nil
	case typeSymlink:
		if is(unix.S_IFLNK) {
			if to, err := f.root.Readlink(at); err != nil {
				return err
			} else if to == e.To {
				return f.describe(at, e)
			}
		}
	case typeFIFO:
		if is(unix.S_IFIFO) {
			return f.describe(at, e)
		}
	default:
		return invalid("%.80q is of type %.10q", e.Name, string(e.Type))
	}
	if stat != nil {
		if err := f.remove(at); err != nil {
			return err
		}
	}
	f.touch(at)
	if e.Type == typeSymlink {
		err = f.root.Symlink(e.To, at)
	} else {
		err = f.inFolder(at, func(folder int, name string) error { return unix.Mkfifoat(folder, name, 0o600) })
	}
	if err != nil {
		return err
	}
	return f.describe(at, e)
}

// inFolder does something with the folder that a path is in, and its name there.
func (f *fetcher) inFolder(at string, do func(folder int, name string) error) error {
	d, err := f.root.Open(path.Dir(at))
	if err != nil {
		return err
	}
	defer d.Close()
	return do(int(d.Fd()), path.Base(at))
}

// file notes whether a file is wanted. stat is of the one that is there; nil: none.
func (f *fetcher) file(at string, e entry, stat *syscall.Stat_t) error {
	// What is there may be of several names, which are of different files by now: it is
	// changed for none of them then.
	replace := stat != nil && stat.Nlink > 1 && (e.Link == 0 || f.claimed[stat.Ino])
	if e.Link != 0 {
		if _, ok := f.links[e.Link]; ok {
			return invalid("%.80q begins a file that was named before", e.Name)
		}
		f.links[e.Link] = at
	}
	known, ok := f.was.versions[at]
	if stat != nil && !replace && ok && known == e.Version {
		f.next.versions[at] = known
		if h := f.was.hashes[at]; h != nil {
			f.remember(at, h)
		}
		if e.Link != 0 {
			f.claimed[stat.Ino] = true
		}
		return nil
	}
	w := wanted{path: at, entry: e, replace: replace || stat != nil && stat.Nlink > 1}
	if !w.replace && stat != nil && e.Version.Size > blockSize && stat.Size > 0 {
		w.hashes = f.was.hashes[at]
		if int64(w.hashes.len()) != (stat.Size+blockSize-1)/blockSize {
			w.hashes = nil // worked out when it is asked for
		}
	}
	f.wanted = append(f.wanted, w)
	f.needs += e.Blocks
	if stat != nil && !w.replace {
		f.needs -= min(e.Blocks, stat.Blocks*512)
	}
	return nil
}

// spare is how much of a disk a copy leaves free: other stamps write to it, too.
const spare = 256 << 20

// room refuses what would fill the disk.
func (f *fetcher) room() error {
	d, err := f.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &fs); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; f.needs > 0 && f.needs > free-spare {
		return bulkhead.Errorf(bulkhead.ErrExhausted, "its data takes %d MiB more, and of the %d MiB that are free on the disk %d stay so", f.needs>>20, free>>20, spare>>20)
	}
	return nil
}

// remember keeps hashes for the next pass, as far as there is room.
func (f *fetcher) remember(at string, h hashList) {
	if f.next.hashed+h.len() <= mostHashes {
		f.next.hashed += h.len()
		f.next.hashes[at] = h
	}
}

// contents asks for what is wanted and writes what comes. Questions go out while
// answers come in.
func (f *fetcher) contents() error {
	asked := make(chan *wanted, 64) // in the order of the questions, with their hashes
	quit := make(chan struct{})
	var asking sync.WaitGroup
	var failed error
	asking.Go(func() {
		defer close(asked)
		failed = f.ask(asked, quit)
	})
	var err error
	for w := range asked {
		if err = f.content(w); err != nil {
			err = fmt.Errorf("%.200q: %w", w.path, err)
			break
		}
	}
	close(quit)
	if c, ok := f.conn.(io.Closer); ok && err != nil { // who asks may wait for the other end, which waits for this one
		_ = c.Close()
	}
	asking.Wait()
	return cmp.Or(err, failed)
}

func (f *fetcher) ask(asked chan<- *wanted, quit <-chan struct{}) error {
	for i := range f.wanted {
		w := &f.wanted[i]
		if !w.replace && w.entry.Version.Size > blockSize && w.hashes == nil {
			if err := f.w.Flush(); err != nil { // this may take a while
				return err
			}
			if err := f.hash(w); err != nil {
				return err
			}
		}
		if err := f.object(kindWant, want{Path: w.path, Hashes: w.hashes.len()}); err != nil {
			return err
		}
		for part := range slices.Chunk([]byte(w.hashes), hashesPerFrame*hashSize) {
			if err := f.frame(kindHashes, part); err != nil {
				return err
			}
		}
		select {
		case asked <- w:
			continue
		default: // it is time that the other end hears
		}
		if err := f.w.Flush(); err != nil {
			return err
		}
		select {
		case asked <- w:
		case <-quit:
			return nil
		}
	}
	if err := f.frame(kindDone); err != nil {
		return err
	}
	return f.w.Flush()
}

// hash works out the hashes of a file of the copy, which an earlier process has made.
func (f *fetcher) hash(w *wanted) error {
	file, err := f.root.OpenFile(w.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	var hole func(offset, length int64) bool
	if info.Sys().(*syscall.Stat_t).Blocks*512 < info.Size() {
		hole = func(offset, length int64) bool { return nextData(file, offset) >= offset+length }
	}
	w.hashes = hashList{}
	return blocks(file, info.Size(), f.hasher, hole, func(b *block) error {
		w.hashes = append(w.hashes, b.hash[:]...)
		return nil
	})
}

// temporary is where a file is made that takes the place of another at once.
const temporary = ".new"

// content writes what comes of a file.
func (f *fetcher) content(w *wanted) error {
	at := w.path
	if w.replace {
		at = temporary
		if err := f.root.RemoveAll(at); err != nil {
			return err
		}
	}
	flags := os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW
	if len(w.hashes) == 0 {
		flags |= os.O_TRUNC
	}
	file, err := f.root.OpenFile(at, flags, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	f.files++
	f.touch(w.path)
	// Should this pass be cut short, what is known of the file is not so any more.
	delete(f.was.versions, w.path)
	delete(f.was.hashes, w.path)
	hashes := slices.Clone(w.hashes)
	var end ended
	for {
		k, b, err := f.hear()
		if err != nil {
			return err
		}
		if k == kindEnded {
			if end, err = decode[ended](b); err != nil {
				return err
			}
			break
		}
		if err := f.part(file, k, b, &hashes); err != nil {
			return err
		}
	}
	if end.Size < 0 || end.Size > mostSize {
		return invalid("a file of %d bytes", end.Size)
	}
	if err := file.Truncate(end.Size); err != nil {
		return err
	}
	if w.replace {
		if err := f.root.Rename(at, w.path); err != nil {
			return err
		}
	}
	if err := f.describeFile(file, w.entry); err != nil {
		return err
	}
	if w.entry.Link != 0 {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		f.claimed[info.Sys().(*syscall.Stat_t).Ino] = true
	}
	if f.last && len(f.wanted) <= mostFlushes { // else all is flushed together
		if err := file.Sync(); err != nil {
			return err
		}
	}
	if end.Version == w.entry.Version && end.Version.Size == end.Size { // else it was described as what it was before
		f.next.versions[w.path] = end.Version
	}
	if n := (end.Size + blockSize - 1) / blockSize; n > 1 && n <= mostHashes {
		if more := int(n) - hashes.len(); more > 0 { // holes at the end are not told
			hashes = append(hashes, make([]byte, more*hashSize)...)
		}
		f.remember(w.path, hashes[:n*hashSize])
	}
	return nil
}

// part writes a part of a file, and notes the hash of a block.
func (f *fetcher) part(file *os.File, k kind, b []byte, hashes *hashList) error {
	if k == kindHash {
		if len(b) != 8+hashSize {
			return invalid("a hash of %d bytes", len(b))
		}
		index := int64(binary.BigEndian.Uint64(b))
		if index < 0 || index >= mostHashes { // of files that are larger none are remembered
			return nil
		}
		if more := int(index) + 1 - hashes.len(); more > 0 { // holes between are not told
			*hashes = append(*hashes, make([]byte, more*hashSize)...)
		}
		copy((*hashes)[index*hashSize:], b[8:])
		return nil
	}
	offset, length, data, err := readExtent(b)
	if err != nil {
		return err
	}
	switch k {
	case kindData:
		if int64(len(data)) != length {
			return invalid("%d bytes that are said to be %d", len(data), length)
		}
		if _, err := file.WriteAt(data, offset); err != nil {
			return err
		}
		f.bytes += length
		f.told(f.bytes)
		return nil
	case kindHole:
		if length == 0 {
			return nil
		}
		err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = zero(file, offset, length)
		}
		return err
	}
	return invalid("a frame of kind %q in a file", byte(k))
}

// zero writes zeros where the file system knows no holes.
func zero(file *os.File, offset, length int64) error {
	none := make([]byte, min(length, blockSize))
	for at := offset; at < offset+length; at += int64(len(none)) {
		if _, err := file.WriteAt(none[:min(int64(len(none)), offset+length-at)], at); err != nil {
			return err
		}
	}
	return nil
}

// join makes a path another name of a file.
func (f *fetcher) join(j join) error {
	first, err := f.stat(j.first)
	if err != nil {
		return err
	}
	if first == nil || first.Mode&unix.S_IFMT != unix.S_IFREG {
		return invalid("%.80q is no file any more", j.first)
	}
	stat, err := f.stat(j.path)
	if err != nil || stat != nil && stat.Ino == first.Ino {
		return err
	}
	if stat != nil {
		if err := f.remove(j.path); err != nil {
			return err
		}
	}
	f.touch(j.path)
	return f.root.Link(j.first, j.path)
}

// describe gives a path that is no file owner, mode, attributes and time.
func (f *fetcher) describe(at string, e entry) error {
	stat, err := f.stat(at)
	if err != nil {
		return err
	}
	if stat == nil {
		return invalid("%.80q is gone", at)
	}
	return f.inFolder(at, func(folder int, name string) error {
		changed := stat.Uid != e.UID || stat.Gid != e.GID
		if changed {
			if err := unix.Fchownat(folder, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		if e.Type != typeSymlink {
			if changed || stat.Mode&permissions != e.Mode {
				// It is no link, and nobody else changes the copy.
				if err := unix.Fchmodat(folder, name, e.Mode, 0); err != nil {
					return err
				}
				changed = true
			}
			set, err := setAttributes("/proc/self/fd/"+strconv.Itoa(folder)+"/"+name, e.Attrs)
			if err != nil {
				return err
			}
			changed = changed || set
		}
		if e.MTime != 0 && unixNano(stat.Mtim) != e.MTime {
			times := []unix.Timespec{unix.NsecToTimespec(e.MTime), unix.NsecToTimespec(e.MTime)}
			if err := unix.UtimesNanoAt(folder, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
			changed = true
		}
		if changed && e.Type == typeFolder {
			f.dirty[at] = true
		} else if changed {
			f.touch(at)
		}
		return nil
	})
}

// describeFile is describe for a file that is open.
func (f *fetcher) describeFile(file *os.File, e entry) error {
	fd := int(file.Fd())
	if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		return err
	}
	if _, err := setAttributes("/proc/self/fd/"+strconv.Itoa(fd), e.Attrs); err != nil {
		return err
	}
	times := []unix.Timespec{unix.NsecToTimespec(e.MTime), unix.NsecToTimespec(e.MTime)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times, 0)
}

// setAttributes makes the extended attributes of a path those, as far as they are
// carried; it tells whether it changed any.
func setAttributes(at string, want map[string][]byte) (changed bool, err error) {
	n, err := unix.Listxattr(at, nil)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil || n == 0 && len(want) == 0 {
		return false, err
	}
	list := make([]byte, n)
	if n, err = unix.Listxattr(at, list); err != nil {
		return false, err
	}
	for attr := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if _, ok := want[attr]; !ok && carried(attr) {
			if err := unix.Removexattr(at, attr); err != nil && !errors.Is(err, unix.ENODATA) {
				return changed, err
			}
			changed = true
		}
	}
	for _, attr := range slices.Sorted(maps.Keys(want)) {
		if !carried(attr) {
			return changed, invalid("it has attribute %.80q", attr)
		}
		have := make([]byte, mostAttribute)
		if n, err := unix.Getxattr(at, attr, have); err == nil && bytes.Equal(have[:n], want[attr]) {
			continue
		}
		if err := unix.Setxattr(at, attr, want[attr], 0); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

// mostFlushes is how many files and folders are flushed one by one after the last
// pass; of more, the whole file system is, with whatever else waits there.
const mostFlushes = 256

// flush puts the copy on the disk: before the last pass, all that a pass brought;
// after it what is left.
func (f *fetcher) flush() error {
	if f.last && len(f.wanted) <= mostFlushes && len(f.dirty) <= mostFlushes {
		for dir := range f.dirty {
			d, err := f.root.Open(dir)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed with what it was in
			}
			if err != nil {
				return err
			}
			if err := errors.Join(d.Sync(), d.Close()); err != nil {
				return err
			}
		}
		return nil
	}
	d, err := f.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}
