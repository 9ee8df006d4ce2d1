package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"bulkhead/examples/shop"
)

const (
	maxRecords = 10_000
	maxValue   = 64 << 10 // bytes
	// slack is how much the journal may hold beyond twice its records before it
	// is written anew.
	slack = 1 << 20
)

var (
	errNotFound = errors.New("no such record")
	errChanged  = errors.New("the record has another revision")
	errFull     = errors.New("no room for more records")
)

// entry is a line of the journal: a record as it is from then on.
type entry struct {
	shop.Record
	Deleted bool `json:"deleted,omitempty"`
}

// journal is a set of records in one file, a line for every change. What a method
// confirmed is on the disk.
type journal struct {
	path string

	mu       sync.Mutex // guards what follows
	file     *os.File
	size     int64 // bytes of the file
	compact  int64 // size at which to look whether most of it no longer counts
	revision int64
	records  map[string]shop.Record
	broken   error // set when the file is in an unknown state; nothing is written then
}

// openJournal reads the journal in folder dir, or begins one. A last line that
// a crash has left incomplete was never confirmed, and is cut off; any other
// damage is an error.
func openJournal(dir string) (*journal, error) {
	j := &journal{path: filepath.Join(dir, "records.jsonl"), records: map[string]shop.Record{}, compact: slack}
	if err := os.Remove(j.path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, statErr := os.Stat(j.path)
	file, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j.file = file
	if errors.Is(statErr, fs.ErrNotExist) {
		if err := syncFolder(dir); err != nil {
			return nil, err
		}
	}
	lines := bufio.NewReader(file)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break // with or without a line that was never finished
		} else if err != nil {
			return nil, err
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", j.path, number, err)
		}
		j.apply(e, int64(len(line)))
	}
	if err := errors.Join(file.Truncate(j.size), file.Sync()); err != nil {
		return nil, err
	}
	return j, nil
}

// apply takes a line of n bytes into memory.
func (j *journal) apply(e entry, n int64) {
	j.size += n
	j.revision = max(j.revision, e.Revision)
	if e.Deleted {
		delete(j.records, e.Key)
	} else {
		j.records[e.Key] = e.Record
	}
}

func (j *journal) all() []shop.Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sortedLocked()
}

func (j *journal) sortedLocked() []shop.Record {
	records := make([]shop.Record, 0, len(j.records))
	for _, key := range slices.Sorted(maps.Keys(j.records)) {
		records = append(records, j.records[key])
	}
	return records
}

func (j *journal) get(key string) (shop.Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	record, ok := j.records[key]
	if !ok {
		return record, errNotFound
	}
	return record, nil
}

// put stores a value if the record has the revision base; 0 is that of none, and
// a negative one any.
func (j *journal) put(key string, value json.RawMessage, base int64) (shop.Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	old, exists := j.records[key]
	if base >= 0 && old.Revision != base {
		return shop.Record{}, errChanged
	}
	if !exists && len(j.records) >= maxRecords {
		return shop.Record{}, errFull
	}
	record := shop.Record{Key: key, Revision: j.revision + 1, Value: value}
	return record, j.writeLocked(entry{Record: record})
}

func (j *journal) delete(key string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.records[key]; !ok {
		return errNotFound
	}
	return j.writeLocked(entry{Record: shop.Record{Key: key, Revision: j.revision + 1}, Deleted: true})
}

func (j *journal) writeLocked(e entry) error {
	if j.broken != nil {
		return j.broken
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if _, err := j.file.Write(line); err != nil { // such as a full disk
		if truncated := j.file.Truncate(j.size); truncated != nil {
			j.broken = errors.Join(err, truncated)
		}
		return err
	}
	if err := j.file.Sync(); err != nil {
		j.broken = err // nobody knows what is on the disk: a restart reads it
		return err
	}
	j.apply(e, int64(len(line)))
	if j.size >= j.compact {
		j.compactLocked()
	}
	return nil
}

// compactLocked writes the journal anew if most of it no longer counts. What is
// in it stays confirmed, whether that succeeds or not.
func (j *journal) compactLocked() {
	// The first line keeps the revision growing though its own line may go.
	entries := []entry{{Record: shop.Record{Revision: j.revision}, Deleted: true}}
	for _, record := range j.sortedLocked() {
		entries = append(entries, entry{Record: record})
	}
	var fresh bytes.Buffer
	encoder := json.NewEncoder(&fresh)
	for _, e := range entries {
		if err := encoder.Encode(e); err != nil {
			slog.Error("compact records", "error", err)
			return
		}
	}
	size := int64(fresh.Len())
	j.compact = max(2*size+slack, j.size)
	if j.size < 2*size+slack {
		return
	}
	file, err := replaceFile(j.path, fresh.Bytes())
	if err != nil {
		j.compact += slack // not at once again
		slog.Error("compact records", "error", err)
		return
	}
	j.file.Close()
	j.file, j.size, j.compact = file, size, 2*size+slack
	if err := syncFolder(filepath.Dir(j.path)); err != nil {
		j.broken = err
	}
}

// replaceFile puts a file with new content in the place of path.
func replaceFile(path string, content []byte) (*os.File, error) {
	file, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(path+".new"))
	}
	return file, nil
}

// healthy is why nothing can be written any more, or nil.
func (j *journal) healthy() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = fs.ErrClosed
	return j.file.Close()
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
