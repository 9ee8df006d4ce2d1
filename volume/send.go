package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead"
)

// Send gives a stamp's data to the node at the other end of conn, which calls Fetch:
// all names, and of the files what that node asks for. last tells that nobody writes
// to the data any more. Sockets and devices are left out, and chattr(1)'s flags. It fails
// with ErrConflict if the stamp's data is set aside.
func (s *Store) Send(ctx context.Context, conn io.ReadWriter, stamp bulkhead.StampRef, last bool) error {
	life, err := life(stamp)
	if err != nil {
		return err
	}
	d := &sender{wire: newWire(conn), ctx: ctx, home: filepath.Join(s.stampsDir(), life), roots: map[string]*os.Root{}}
	defer d.close()
	// Of data that is set aside nothing would be sent, and that be taken for all.
	if err = s.inPlace(life, stamp); err == nil {
		err = d.run(last)
	}
	if err == nil {
		return nil
	}
	// The other end hears why, if it still listens.
	final := bulkhead.KindOf(err) == bulkhead.ErrInvalid
	if d.object(kindTrouble, trouble{Message: "the data cannot be sent: " + err.Error(), Final: final}) == nil {
		_ = d.w.Flush()
	}
	return fmt.Errorf("send data of stamp %s: %w", stamp.Name, err)
}

// sender is one end of a conversation.
type sender struct {
	*wire
	ctx    context.Context
	home   string
	roots  map[string]*os.Root // the volumes, by name
	hasher hasher
	// settled is before when a file must have been changed last for its change time to
	// tell any later change: see settle. Zero: no file is.
	settled time.Time
	entries int
	links   map[inode]int // files with several names, of the volume at hand
	numbers int           // of links
}

func (d *sender) close() {
	for _, r := range d.roots {
		_ = r.Close()
	}
}

func (d *sender) run(last bool) error {
	k, b, err := d.read()
	if err != nil {
		return err
	}
	h, err := decode[hello](b)
	if err != nil || k != kindHello || h.Last != last {
		return errors.Join(err, errors.New("the pass does not begin as it should"))
	}
	if d.hasher, err = newHasher(h.Key); err != nil {
		return err
	}
	if !last {
		d.settle()
	}
	volumes, err := volumesOf(d.home)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a stamp without data has none
		return err
	}
	for _, v := range volumes {
		if err := d.volume(string(v)); err != nil {
			return fmt.Errorf("volume %s: %w", v, err)
		}
	}
	if err := d.frame(kindListed); err != nil {
		return err
	}
	return d.answer()
}

// tick is more than what the kernel rounds change times to.
const tick = 100 * time.Millisecond

// settle flushes the file system. A file whose change time is older than this
// moment, and that is read after it, shows every later change by another change time:
// a write sets it, and so does the first write through a mapping of a page that is
// clean, as all pages of the file are by then. Only file systems that are known to do
// so are trusted with it; on others every file is compared in every pass.
func (d *sender) settle() {
	f, err := os.Open(filepath.Dir(d.home))
	if err != nil {
		return
	}
	defer f.Close()
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil {
		return
	}
	switch uint32(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
	default:
		return
	}
	began := time.Now()
	if unix.Syncfs(int(f.Fd())) == nil {
		d.settled = began.Add(-tick)
	}
}

// volume lists a volume.
func (d *sender) volume(name string) error {
	root, err := os.OpenRoot(filepath.Join(d.home, name, dataFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // in the making
	}
	if err != nil {
		return err
	}
	d.roots[name], d.links = root, map[inode]int{}
	info, err := root.Lstat(".")
	if err != nil {
		return err
	}
	folder, err := root.Open(".")
	if err != nil {
		return err
	}
	e := d.entry(folder, ".", info, typeFolder)
	if err := errors.Join(folder.Close(), d.object(kindVolume, named(e, name))); err != nil {
		return err
	}
	if err := d.folder(root, 0); err != nil {
		return err
	}
	return d.frame(kindUp)
}

func named(e entry, name string) entry {
	e.Name = name
	return e
}

// folder lists what is in a folder. Names come and go meanwhile.
func (d *sender) folder(root *os.Root, depth int) error {
	if depth > mostDepth {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "folders are nested deeper than %d", mostDepth)
	}
	folder, err := root.Open(".")
	if err != nil {
		return err
	}
	defer folder.Close()
	for {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		names, err := folder.Readdirnames(1000)
		for _, name := range names {
			if err := d.name(root, folder, name, depth); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// name lists one name in a folder, and if it is a folder what is in that.
func (d *sender) name(root *os.Root, folder *os.File, name string, depth int) error {
	info, err := root.Lstat(name)
	if err != nil {
		return ignoreGone(err)
	}
	if d.entries++; d.entries > mostEntries {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "there are more than %d files", mostEntries)
	}
	stat := info.Sys().(*syscall.Stat_t)
	switch info.Mode().Type() {
	case 0:
		e := d.entry(folder, name, info, typeFile)
		if stat.Nlink > 1 {
			id := inode{uint64(stat.Dev), stat.Ino}
			if n := d.links[id]; n != 0 {
				return d.object(kindEntry, entry{Name: name, Type: typeLink, Link: n})
			}
			d.numbers++
			d.links[id], e.Link = d.numbers, d.numbers
		}
		e.Version, e.Blocks = versionOf(stat), stat.Blocks*512
		return d.object(kindEntry, e)
	case fs.ModeSymlink:
		to, err := root.Readlink(name)
		if err != nil {
			return ignoreGone(err)
		}
		e := d.entry(folder, name, info, typeSymlink)
		e.To = to
		return d.object(kindEntry, e)
	case fs.ModeNamedPipe:
		return d.object(kindEntry, d.entry(folder, name, info, typeFIFO))
	case fs.ModeDir:
		sub, err := root.OpenRoot(name)
		if err != nil {
			return ignoreGone(err)
		}
		defer sub.Close()
		// It may be another by now, or a link to one.
		if now, err := sub.Lstat("."); err != nil || !os.SameFile(info, now) {
			return ignoreGone(err)
		}
		if err := d.object(kindEntry, d.entry(folder, name, info, typeFolder)); err != nil {
			return err
		}
		if err := d.folder(sub, depth+1); err != nil {
			return err
		}
		return d.frame(kindUp)
	}
	return nil // sockets are made anew by who listens; devices have no place in a volume
}

// ignoreGone makes nothing of a name that has gone, or become something else, since
// it was listed: the next pass sees it as it is then.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

func (d *sender) entry(folder *os.File, name string, info fs.FileInfo, t entryType) entry {
	stat := info.Sys().(*syscall.Stat_t)
	e := entry{Name: name, Type: t, Mode: stat.Mode & permissions, UID: stat.Uid, GID: stat.Gid, MTime: unixNano(stat.Mtim)}
	if t != typeSymlink {
		e.Attrs = attributes(folder, name)
	}
	return e
}

// permissions are the bits of a mode that are not the type.
const permissions = 0o7777

func unixNano(t syscall.Timespec) int64 { return t.Sec*1e9 + t.Nsec }

func versionOf(stat *syscall.Stat_t) version {
	return version{Inode: int64(stat.Ino), CTime: unixNano(stat.Ctim), Size: stat.Size}
}

// attributes are the extended attributes of a name in a folder that mean the same on
// another node. Those of security modules do not, but for file capabilities.
func attributes(folder *os.File, name string) map[string][]byte {
	at := "/proc/self/fd/" + strconv.Itoa(int(folder.Fd())) + "/" + name
	n, err := unix.Llistxattr(at, nil)
	if err != nil || n == 0 {
		return nil
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(at, list); err != nil {
		return nil // it has more by now: the next pass sees them
	}
	var out map[string][]byte
	total := 0
	for attr := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if !carried(attr) {
			continue
		}
		value := make([]byte, mostAttribute)
		n, err := unix.Lgetxattr(at, attr, value)
		if total += len(attr) + n; err != nil || total > mostAttributes {
			continue
		}
		if out == nil {
			out = map[string][]byte{}
		}
		out[attr] = value[:n]
	}
	return out
}

// Bounds of extended attributes: the kernel's of one, and of all of a file so that
// they fit a frame.
const (
	mostAttribute  = 64 << 10
	mostAttributes = 256 << 10
)

func carried(attribute string) bool {
	return strings.HasPrefix(attribute, "user.") || attribute == "security.capability" ||
		attribute == "system.posix_acl_access" || attribute == "system.posix_acl_default"
}

// answer gives the content of the files that are wanted.
func (d *sender) answer() error {
	for {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		if d.r.Buffered() == 0 { // nothing is asked just now: let it go
			if err := d.w.Flush(); err != nil {
				return err
			}
		}
		k, b, err := d.read()
		if err != nil {
			return err
		}
		switch k {
		case kindDone:
			return d.w.Flush()
		case kindWant:
			w, err := decode[want](b)
			if err != nil {
				return err
			}
			if w.Hashes < 0 || int64(w.Hashes) > mostSize/blockSize {
				return fmt.Errorf("%d hashes of a file", w.Hashes)
			}
			if err := d.content(w); err != nil {
				return fmt.Errorf("%.200q: %w", w.Path, err)
			}
		default:
			return fmt.Errorf("a frame of kind %q instead of what is wanted", k)
		}
	}
}

// open opens a wanted file. nil: it is no file any more.
func (d *sender) open(w want) (*os.File, *syscall.Stat_t, error) {
	volume, rest, ok := strings.Cut(w.Path, "/"+dataFolder+"/")
	root := d.roots[volume]
	if !ok || root == nil {
		return nil, nil, errors.New("it is in no volume of the stamp")
	}
	f, err := root.OpenFile(path.Clean(rest), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, ignoreGone(err)
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info.Sys().(*syscall.Stat_t), nil
}

// content gives what of a file is not the same at the other end.
func (d *sender) content(w want) error {
	f, before, err := d.open(w)
	if err != nil {
		return err
	}
	if f == nil {
		if err := d.skipHashes(w.Hashes); err != nil {
			return err
		}
		return d.object(kindEnded, ended{})
	}
	defer f.Close()
	sparse := before.Blocks*512 < before.Size
	var hole func(offset, length int64) bool
	if sparse {
		hole = func(offset, length int64) bool { return nextData(f, offset) >= offset+length }
	}
	size := int64(0)
	theirs, left := hashList{}, w.Hashes
	err = blocks(f, before.Size, d.hasher, hole, func(b *block) error {
		if left > 0 && len(theirs) == 0 {
			var err error
			if theirs, err = d.hashes(left); err != nil {
				return err
			}
			left -= theirs.len()
		}
		have, known := theirs.next()
		offset := b.index * blockSize
		length := min(blockSize, before.Size-offset)
		isHole := b.hash == hash{} && len(b.data) == 0
		if size = offset + int64(len(b.data)); isHole {
			size = offset + length
		}
		switch {
		case known && have == b.hash:
			return nil
		case isHole && !known: // nothing is there that would have to go
			return nil
		}
		if err := d.numbered(b.index, b.hash); err != nil {
			return err
		}
		if isHole {
			return d.extent(kindHole, offset, length, nil)
		}
		if !sparse {
			return d.extent(kindData, offset, int64(len(b.data)), b.data)
		}
		return d.runs(f, offset, b.data, known)
	})
	if err != nil {
		return err
	}
	if err := d.skipHashes(left); err != nil { // of what is there beyond the file's end
		return err
	}
	end := ended{Size: size}
	if info, err := f.Stat(); err == nil {
		was, is := versionOf(before), versionOf(info.Sys().(*syscall.Stat_t))
		if was == is && !d.settled.IsZero() && time.Unix(0, was.CTime).Before(d.settled) {
			end.Version = is
		}
	}
	return d.object(kindEnded, end)
}

// runs sends a block of a sparse file: what is a hole stays one.
func (d *sender) runs(f *os.File, offset int64, data []byte, known bool) error {
	for at := offset; at < offset+int64(len(data)); {
		end := offset + int64(len(data))
		begin := min(max(nextData(f, at), at), end)
		if begin > at && known {
			if err := d.extent(kindHole, at, begin-at, nil); err != nil {
				return err
			}
		}
		if begin == end {
			return nil
		}
		stop, err := unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
		if err != nil || stop > end || stop <= begin {
			stop = end
		}
		if err := d.extent(kindData, begin, stop-begin, data[begin-offset:stop-offset]); err != nil {
			return err
		}
		at = stop
	}
	return nil
}

// nextData is where data begins at or after offset; far away if none does.
func nextData(f *os.File, offset int64) int64 {
	at, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 1 << 62
	case err != nil: // the file system does not tell
		return offset
	}
	return at
}

// hashes reads a frame of the other end's hashes, of which left are to come.
func (d *sender) hashes(left int) (hashList, error) {
	k, b, err := d.read()
	if err != nil {
		return nil, err
	}
	if n := len(b) / hashSize; k != kindHashes || len(b)%hashSize != 0 || n == 0 || n > left {
		return nil, errors.New("hashes are not as they should be")
	}
	return hashList(slices.Clone(b)), nil
}

func (d *sender) skipHashes(left int) error {
	for left > 0 {
		l, err := d.hashes(left)
		if err != nil {
			return err
		}
		left -= l.len()
	}
	return nil
}

// hashList is hashes one after the other.
type hashList []byte

func (l hashList) len() int { return len(l) / hashSize }

// next takes the first.
func (l *hashList) next() (h hash, ok bool) {
	if len(*l) == 0 {
		return h, false
	}
	h = hash(*l)
	*l = (*l)[hashSize:]
	return h, true
}
