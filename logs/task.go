package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"bulkhead"
)

const (
	block = 4096 // what a hole is aligned to
	// reclaimStep is how much is read before a hole is made of it.
	reclaimStep = 64 << 10
	seekData    = 3 // SEEK_DATA of lseek(2)
)

// task is one raw file and how far it has been read.
type task struct {
	store   *Store
	id      bulkhead.TaskID
	stamp   bulkhead.StampName
	service bulkhead.ServiceName
	log     *stampLog

	abandoned bool // left by a former life, and nobody has the raw file open; guarded by store.mu

	mu       sync.Mutex // guards what follows; taken before log.mu
	raw      *os.File
	progress *os.File
	header   int      // bytes of the progress file before its mark
	settled  bool     // at holds; if not, mark still has to be compared with the log
	mark     mark     // as in the progress file, until settled
	at       position // what is before it is in the log
	punched  int64    // what is before it is a hole
	looked   int64    // size of the raw file at the last look
	grown    time.Time
	gone     bool
}

// position is a place in a raw file.
type position struct {
	offset int64
	inside bool // the line before it is kept without its end
}

// mark is what a progress file says: lines between from and to are in the log
// once that holds lines up to the number after.
type mark struct {
	from, to position
	after    uint64
}

const markFormat = "%016x %t %016x %t %016x\n"

func (m mark) append(b []byte) []byte {
	return fmt.Appendf(b, markFormat, m.from.offset, m.from.inside, m.to.offset, m.to.inside, m.after)
}

// buffers are reused from read to read.
type buffers struct {
	raw, lines []byte
}

func (t *task) rawPath() string      { return filepath.Join(t.store.rawDir(), string(t.id)) }
func (t *task) progressPath() string { return filepath.Join(t.store.progressDir(), string(t.id)) }

// newTask makes the files of a task. store.mu is held.
func (s *Store) newTask(id bulkhead.TaskID, stamp bulkhead.StampName, service bulkhead.ServiceName) (*task, error) {
	t := &task{store: s, id: id, stamp: stamp, service: service, log: s.logLocked(stamp), settled: true}
	var err error
	if t.raw, err = os.OpenFile(t.rawPath(), os.O_RDWR|os.O_CREATE, 0o640); err != nil {
		return nil, err
	}
	head := fmt.Sprintf("%s %s\n", stamp, service)
	t.header = len(head)
	t.at.offset = firstData(t.raw, 0) // a raw file that lost its progress file goes on after the hole
	content := mark{from: t.at, to: t.at}.append([]byte(head))
	// Whole or not at all: "~" is in no task's name.
	temp := t.progressPath() + "~"
	if err := errors.Join(os.WriteFile(temp, content, 0o640), os.Rename(temp, t.progressPath())); err != nil {
		t.raw.Close()
		return nil, err
	}
	if t.progress, err = os.OpenFile(t.progressPath(), os.O_RDWR, 0); err != nil {
		t.raw.Close()
		return nil, err
	}
	return t, nil
}

// loadTask opens the files of a task of a former life.
func (s *Store) loadTask(id bulkhead.TaskID) (_ *task, err error) {
	t := &task{store: s, id: id}
	if t.progress, err = os.OpenFile(t.progressPath(), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.progress.Close()
		}
	}()
	content, err := io.ReadAll(io.LimitReader(t.progress, 4096))
	if err != nil {
		return nil, err
	}
	t.header = bytes.IndexByte(content, '\n') + 1
	m := &t.mark
	if _, err := fmt.Sscanf(string(content), "%s %s\n"+markFormat, &t.stamp, &t.service,
		&m.from.offset, &m.from.inside, &m.to.offset, &m.to.inside, &m.after); err != nil {
		return nil, err
	}
	if err := errors.Join(checkStamp(t.stamp), t.service.Validate()); err != nil {
		return nil, err
	}
	if t.raw, err = os.OpenFile(t.rawPath(), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	t.log = s.logLocked(t.stamp)
	t.abandoned = !inUse(t.raw)
	return t, nil
}

// read takes one turn of what the task wrote into its stamp's log and says when
// to read again even if nothing is written; zero is never.
func (t *task) read(b *buffers) (time.Time, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.readLocked(b, false)
}

// readToEnd reads all there is, a last line without its end, too.
func (t *task) readToEnd(b *buffers) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		next, err := t.readLocked(b, true)
		if err != nil || next.IsZero() {
			return err
		}
	}
}

func (t *task) readLocked(b *buffers, ended bool) (time.Time, error) {
	if t.gone {
		return time.Time{}, nil
	}
	now := t.store.now()
	if err := t.settleLocked(); err != nil {
		return time.Time{}, err
	}
	info, err := t.raw.Stat()
	if err != nil {
		return time.Time{}, err
	}
	size := info.Size()
	if size < t.at.offset { // somebody has cut the file
		t.at, t.punched, t.looked = position{}, 0, 0
	}
	if size-t.at.offset > t.store.maxBacklog {
		if err := t.skipLocked(size); err != nil {
			return time.Time{}, err
		}
	}
	if size > t.looked {
		t.looked, t.grown = size, now
	}

	if b.raw == nil {
		b.raw = make([]byte, turn)
	}
	n, err := t.raw.ReadAt(b.raw[:min(int64(len(b.raw)), size-t.at.offset)], t.at.offset)
	if err != nil && err != io.EOF {
		return time.Time{}, err
	}
	atEnd := t.at.offset+int64(n) == size
	flush := atEnd && (ended || now.Sub(t.grown) >= silence)
	lines, count, used, inside := cut(b.lines[:0], b.raw[:n], t.at.inside, flush)
	b.lines = lines
	if used > 0 {
		to := position{t.at.offset + int64(used), inside}
		if err := t.commitLocked(lines, count, to); err != nil {
			return time.Time{}, err
		}
		t.reclaimLocked(size)
	}
	switch {
	case t.at.offset == size:
		return time.Time{}, nil
	case atEnd: // a line without its end
		return t.grown.Add(silence), nil
	default:
		return now, nil
	}
}

// settleLocked finds out, after a restart, whether the frame that the mark
// announces reached the log.
func (t *task) settleLocked() error {
	if t.settled {
		return nil
	}
	reached, err := t.log.lines()
	if err != nil {
		return err
	}
	t.at = t.mark.from
	if reached >= t.mark.after {
		t.at = t.mark.to
	}
	// What is a hole was read, even if the log that has it is lost.
	if data := firstData(t.raw, t.at.offset); data > t.at.offset {
		t.at = position{offset: data}
	}
	t.punched = t.at.offset / block * block
	t.settled = true
	return nil
}

// skipLocked leaves out the oldest of what is not read, since it comes faster
// than it can be kept. As much again as a whole log would be dropped anyway.
func (t *task) skipLocked(size int64) error {
	to := size - t.store.maxBacklog/4
	// Go on with a whole line, if one begins soon.
	piece := make([]byte, MaxLine)
	n, err := t.raw.ReadAt(piece, to)
	if err != nil && err != io.EOF {
		return err
	}
	to += int64(bytes.IndexByte(piece[:n], '\n') + 1)
	note := fmt.Sprintf(" bulkhead: %d bytes left out here: they were written faster than they can be kept\n", to-t.at.offset)
	if err := t.commitLocked([]byte(note), 1, position{offset: to}); err != nil {
		return err
	}
	t.store.logger.Warn("log lines left out", "task", t.id, "stamp", t.stamp, "offset", to)
	t.reclaimLocked(size)
	return nil
}

// commitLocked appends lines to the stamp's log and moves on to the position to.
func (t *task) commitLocked(lines []byte, count int, to position) error {
	err := t.log.append(t.store.now(), t.service, t.id, lines, count, func(after uint64) error {
		return t.markLocked(mark{from: t.at, to: to, after: after})
	})
	if err != nil {
		// The log goes on without these lines: what the mark announces must not
		// come true by the lines of others.
		return errors.Join(err, t.markLocked(mark{from: t.at, to: t.at}))
	}
	t.at = to
	return nil
}

func (t *task) markLocked(m mark) error {
	_, err := t.progress.WriteAt(m.append(nil), int64(t.header))
	return err
}

// reclaimLocked gives the disk back what has been read. Where holes are not to
// be had, a raw file that is read to its end is emptied once it is large; what
// is written in the instant of doing that is lost, which the disk's filling up
// would be worse than.
func (t *task) reclaimLocked(size int64) {
	to := t.at.offset / block * block
	if to-t.punched < reclaimStep {
		return
	}
	err := t.store.punch(t.raw, t.punched, to)
	if err == nil {
		t.punched = to
		if to > t.store.maxRaw {
			t.shortenLocked(to, func() error {
				return unix.Fallocate(int(t.raw.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, to)
			})
		}
		return
	}
	if t.at.offset == size && size > t.store.maxBacklog/4 {
		t.store.logger.Warn("log file emptied: the file system cannot make holes", "task", t.id, "error", err)
		t.shortenLocked(size, func() error {
			if info, err := t.raw.Stat(); err != nil || info.Size() != size {
				return errors.Join(err, unix.EAGAIN) // it has grown: another time
			}
			return t.raw.Truncate(0)
		})
	}
}

// shortenLocked takes the first n bytes, which are read, off the raw file. For a
// kill in between, the mark points to the beginning of the file: after a hole,
// less than a block of lines is then repeated.
func (t *task) shortenLocked(n int64, shorten func() error) {
	if err := t.markLocked(mark{}); err != nil {
		return
	}
	if err := shorten(); err == nil {
		t.at.offset -= n
		t.punched = 0
		t.looked -= n
	}
	_ = t.markLocked(mark{from: t.at, to: t.at}) // as it was marked before; the next commit does it again
}

// remove drops the task's files, whatever is in them.
func (t *task) remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return nil
	}
	t.gone = true
	t.raw.Close()
	t.progress.Close()
	return errors.Join(removeFile(t.rawPath()), removeFile(t.progressPath()))
}

// cut appends the lines of data to dst, each as a flag, the line and a newline:
// ' ' is a line or the last piece of one, '+' a piece that goes on in the next.
// A line without its end stays, unless flush is set. inside tells that the line
// before data was flushed or split, so that a mere newline ends that one. It
// returns how many lines and bytes of data were taken.
func cut(dst, data []byte, inside, flush bool) (lines []byte, count, used int, nowInside bool) {
	for used < len(data) {
		rest := data[used:]
		end := bytes.IndexByte(rest[:min(len(rest), MaxLine+1)], '\n')
		flag := byte(' ')
		var text []byte
		switch {
		case end >= 0:
			text = bytes.TrimSuffix(rest[:end], []byte("\r"))
			used += end + 1
			if inside && len(text) == 0 {
				inside = false
				continue
			}
			inside = false
		case len(rest) > MaxLine:
			text, flag = wholeRunes(rest[:MaxLine]), '+'
			used += len(text)
			inside = true
		case flush:
			text = rest
			used += len(text)
			inside = true
		default:
			return dst, count, used, inside
		}
		dst = append(dst, flag)
		dst = append(dst, text...)
		dst = append(dst, '\n')
		count++
	}
	return dst, count, used, inside
}

// wholeRunes is b without the beginning of a rune at its end.
func wholeRunes(b []byte) []byte {
	for i := 1; i < utf8.UTFMax && i < len(b); i++ {
		if last := b[len(b)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return b[:len(b)-i]
			}
			break
		}
	}
	return b
}

// firstData is the first offset from on that is not in a hole; the size of the
// file when there is none, from when the file system does not tell.
func firstData(f *os.File, from int64) int64 {
	offset, err := f.Seek(from, seekData)
	if err == nil {
		return offset
	}
	if info, statErr := f.Stat(); errors.Is(err, unix.ENXIO) && statErr == nil {
		return max(from, info.Size())
	}
	return from
}

func punchHole(f *os.File, from, to int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
}

// inUse tells whether anybody else has the file open: if not, a write lease is
// granted (fcntl(2), F_SETLEASE). In doubt it says yes.
func inUse(f *os.File) bool {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return true
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	return err != nil
}
