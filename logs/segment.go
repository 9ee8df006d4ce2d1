package logs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bulkhead"
)

// segments is into how many segments a full log is divided: the oldest goes at a
// time.
const segments = 16

// stampLog is the log of a stamp: segments of frames, in the order of reading.
type stampLog struct {
	dir    string
	most   int64 // bytes of all segments
	logger *slog.Logger

	mu       sync.Mutex // guards what follows
	opened   bool
	gone     bool
	segments []segment // oldest first; the last is written to
	file     *os.File  // the last segment, or nil
	next     uint64    // number of the next line; the stamp's first is 0
	last     time.Time // of the last frame
	frame    []byte
	changed  chan struct{} // closed and replaced when something is appended
}

// segment is a file whose name says what it begins with, so that the lines
// dropped before it are known, and the one to begin with is found by time.
type segment struct {
	first uint64    // number of its first line
	time  time.Time // of its first frame
	size  int64     // bytes
}

const segmentFormat = "%016x-%016x.log"

func (s segment) name() string { return fmt.Sprintf(segmentFormat, s.first, s.time.UnixNano()) }

// frame is lines that one task wrote and that were read at one time: a header
// in words, then as many lines as it says.
type frame struct {
	time    time.Time
	service bulkhead.ServiceName
	task    bulkhead.TaskID
	lines   int
	size    int // bytes of the lines, with their flags and newlines
}

const (
	frameTime = "2006-01-02T15:04:05.000000000Z"
	// maxFrame bounds the size of a frame: a turn of empty lines, and room.
	maxFrame = 4 * turn
)

func (f frame) append(b []byte) []byte {
	b = f.time.AppendFormat(b, frameTime)
	return fmt.Appendf(b, " %s %s %d %d\n", f.service, f.task, f.lines, f.size)
}

func parseFrame(header []byte) (f frame, _ error) {
	words := strings.Fields(string(header))
	if len(words) != 5 {
		return f, fmt.Errorf("frame header %.100q: %d words, not 5", header, len(words))
	}
	f.service, f.task = bulkhead.ServiceName(words[1]), bulkhead.TaskID(words[2])
	var errs [3]error
	f.time, errs[0] = time.Parse(frameTime, words[0])
	f.lines, errs[1] = strconv.Atoi(words[3])
	f.size, errs[2] = strconv.Atoi(words[4])
	if err := errors.Join(errs[:]...); err != nil {
		return f, fmt.Errorf("frame header %.100q: %w", header, err)
	}
	if f.lines < 0 || f.size < 0 || f.size > maxFrame || f.lines > f.size {
		return f, fmt.Errorf("frame header %.100q: out of bounds", header)
	}
	return f, nil
}

// frames reads the frames of a segment, from a frame's beginning on.
type frames struct {
	r      *bufio.Reader
	offset int64 // in the file, of the next frame
	unread int   // bytes of the lines of the current frame
}

func newFrames(f io.ReaderAt, from, to int64) *frames {
	return &frames{r: bufio.NewReaderSize(io.NewSectionReader(f, from, to-from), 64<<10), offset: from}
}

// Next is the header of the next frame; io.EOF when none is left and
// io.ErrUnexpectedEOF when the file ends within it.
func (r *frames) Next() (frame, error) {
	if _, err := r.r.Discard(r.unread); err != nil {
		return frame{}, io.ErrUnexpectedEOF
	}
	r.unread = 0
	header, err := r.r.ReadSlice('\n')
	if err != nil {
		if err == io.EOF && len(header) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	f, err := parseFrame(header)
	if err != nil {
		return frame{}, err
	}
	r.offset += int64(len(header) + f.size)
	r.unread = f.size
	return f, nil
}

// Lines is what the current frame holds.
func (r *frames) Lines(buf []byte) ([]byte, error) {
	buf = slices.Grow(buf[:0], r.unread)[:r.unread]
	_, err := io.ReadFull(r.r, buf)
	r.unread = 0
	return buf, err
}

// openLocked finds the segments and mends the last: a frame that a kill has left
// incomplete is taken off.
func (l *stampLog) openLocked() error {
	if l.opened {
		return nil
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.segments = nil
	for _, entry := range entries { // sorted by name, and so by number
		var (
			s     segment
			nanos int64
		)
		if _, err := fmt.Sscanf(entry.Name(), segmentFormat, &s.first, &nanos); err != nil {
			continue
		}
		s.time = time.Unix(0, nanos).UTC()
		info, err := entry.Info()
		if err != nil {
			return err
		}
		s.size = info.Size()
		l.segments = append(l.segments, s)
	}
	if len(l.segments) > 0 {
		if err := l.openLastLocked(); err != nil {
			return err
		}
	}
	l.opened = true
	return nil
}

func (l *stampLog) openLastLocked() error {
	last := &l.segments[len(l.segments)-1]
	file, err := os.OpenFile(filepath.Join(l.dir, last.name()), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	l.next, l.last = last.first, last.time
	complete := int64(0)
	for r := newFrames(file, 0, last.size); ; {
		f, err := r.Next()
		if err == nil && r.offset > last.size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			if err != io.EOF {
				l.logger.Warn("log mended: its last lines are incomplete", "segment", last.name(), "offset", complete, "error", err)
			}
			break
		}
		complete = r.offset
		l.next += uint64(f.lines)
		l.last = f.time
	}
	if err := file.Truncate(complete); err != nil {
		file.Close()
		return err
	}
	if l.file != nil {
		l.file.Close()
	}
	last.size = complete
	l.file = file
	return nil
}

// lines is how many lines the stamp's log has ever held.
func (l *stampLog) lines() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.openLocked(); err != nil {
		return 0, fmt.Errorf("open log %s: %w", l.dir, err)
	}
	return l.next, nil
}

// append adds a frame, whole or not at all. announce is called before with the
// number of lines that the log will then have held.
func (l *stampLog) append(now time.Time, service bulkhead.ServiceName, task bulkhead.TaskID, lines []byte, count int, announce func(after uint64) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.openLocked(); err != nil {
		return fmt.Errorf("open log %s: %w", l.dir, err)
	}
	if err := announce(l.next + uint64(count)); err != nil {
		return err
	}
	if count == 0 {
		return nil
	}
	if now = now.UTC(); now.Before(l.last) { // the clock was set back; lines stay in order
		now = l.last
	}
	l.frame = frame{now, service, task, count, len(lines)}.append(l.frame[:0])
	l.frame = append(l.frame, lines...)
	defer func() {
		if cap(l.frame) > 16<<10 { // too much to keep for every stamp
			l.frame = nil
		}
	}()
	if err := l.rotateLocked(now, int64(len(l.frame))); err != nil {
		return fmt.Errorf("begin log segment: %w", err)
	}
	last := &l.segments[len(l.segments)-1]
	if _, err := l.file.Write(l.frame); err != nil {
		// If this does not succeed either, openLastLocked does it.
		l.opened = l.file.Truncate(last.size) == nil
		return fmt.Errorf("append to log: %w", err)
	}
	last.size += int64(len(l.frame))
	l.next += uint64(count)
	l.last = now
	l.capLocked()
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// rotateLocked begins a new segment if the last has no room for more bytes.
func (l *stampLog) rotateLocked(now time.Time, more int64) error {
	if n := len(l.segments); n > 0 {
		if size := l.segments[n-1].size; size == 0 || size+more <= l.most/segments {
			return nil
		}
	} else if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	s := segment{first: l.next, time: now}
	file, err := os.OpenFile(filepath.Join(l.dir, s.name()), os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file = file
	l.segments = append(l.segments, s)
	return nil
}

// capLocked drops the oldest segments of a log that is too large.
func (l *stampLog) capLocked() {
	total := int64(0)
	for _, s := range l.segments {
		total += s.size
	}
	for total > l.most && len(l.segments) > 1 {
		oldest := l.segments[0]
		if err := removeFile(filepath.Join(l.dir, oldest.name())); err != nil {
			l.logger.Warn("oldest log segment stays", "segment", oldest.name(), "error", err)
			return
		}
		total -= oldest.size
		l.segments = slices.Delete(l.segments, 0, 1)
	}
}

// view is the log at one moment.
type view struct {
	segments []segment
	changed  <-chan struct{} // closed when there is more
	gone     bool            // deleted: there will never be more
}

func (l *stampLog) view() (view, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.openLocked(); err != nil {
		return view{}, fmt.Errorf("open log %s: %w", l.dir, err)
	}
	return view{slices.Clone(l.segments), l.changed, l.gone}, nil
}

// end closes the log of a stamp that is deleted.
func (l *stampLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened, l.gone = true, true
	l.segments = nil
	if l.file != nil {
		l.file.Close()
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// eachLine calls yield for the lines of a frame, pieces marked as such.
func eachLine(lines []byte, yield func(text string) error) error {
	for len(lines) > 0 {
		line, rest, _ := bytes.Cut(lines, []byte("\n"))
		lines = rest
		if len(line) == 0 {
			continue // not ours: every line begins with its flag
		}
		text := clean(line[1:])
		if line[0] == '+' {
			text += "…"
		}
		if err := yield(text); err != nil {
			return err
		}
	}
	return nil
}

// clean makes text fit to be shown on a terminal and sent as JSON. Tabs, colours
// and everything printable stay; bytes that are not UTF-8 become U+FFFD and
// control characters, which could steer a reader's terminal, become "\x1b".
func clean(text []byte) string {
	plain := true
	for _, c := range text {
		if c < ' ' && c != '\t' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return string(text)
	}
	var b strings.Builder
	s := strings.ToValidUTF8(string(text), "\uFFFD")
	for i := 0; i < len(s); {
		if n := colour(s[i:]); n > 0 {
			b.WriteString(s[i : i+n])
			i += n
			continue
		}
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			fmt.Fprintf(&b, `\x%02x`, c)
			i++
			continue
		}
		if s[i] == 0xc2 && s[i+1] < 0xa0 { // U+0080 to U+009F, the other controls
			fmt.Fprintf(&b, `\u%04x`, s[i+1])
			i += 2
			continue
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

// colour is the length of the "select graphic rendition" sequence (ECMA-48,
// 8.3.117) that s begins with, or 0.
func colour(s string) int {
	if !strings.HasPrefix(s, "\x1b[") {
		return 0
	}
	for i := 2; i < len(s); i++ {
		if c := s[i]; c == 'm' {
			return i + 1
		} else if (c < '0' || c > '9') && c != ';' {
			return 0
		}
	}
	return 0
}
