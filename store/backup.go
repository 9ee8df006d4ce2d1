package store

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"bulkhead"
)

// A backup of the state is gzip of lines of JSON: a head, one line for each key at
// one revision, and a last line with their number and the SHA-256 of all lines
// before it. So a copy that is cut short or changed is told from a whole one. It
// holds secrets of stamps as they are kept, sealed: the key is not in it.

// backupHead is the first line.
type backupHead struct {
	Bulkhead string    `json:"bulkhead"` // "state"
	Format   int       `json:"format"`
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
}

// backupRow is a key and its value, or, as the last line, the sum of all.
type backupRow struct {
	Key   string          `json:"k,omitempty"`
	Value json.RawMessage `json:"v,omitempty"`

	Rows int    `json:"rows,omitempty"`
	Sum  string `json:"sum,omitempty"`
}

// epochLead is what a restored state puts on every stamp's epoch: more than nodes
// can have been granted since the backup was made, so that they obey it.
const epochLead = 1 << 20

// errNoBackup says that what is to be restored is no backup, or not a whole one.
func errNoBackup(why string) error {
	return bulkhead.Errorf(bulkhead.ErrInvalid, "this is no backup of a state, or not all of one: %s", why).
		WithHint("bulkhead snapshot save writes them")
}

// Save writes a backup of the state at one revision.
func (s *Store) Save(ctx context.Context, w io.Writer) error {
	zip := gzip.NewWriter(w)
	sum := sha256.New()
	enc := json.NewEncoder(io.MultiWriter(zip, sum))
	rows := 0
	err := s.engine.dump(ctx, func(revision int64) error {
		return enc.Encode(backupHead{Bulkhead: "state", Format: format, Revision: revision, Time: time.Now().UTC()})
	}, func(key string, value []byte) error {
		table, _, ok := splitKey(key)
		if !ok || table == Present { // leases and offices are of the moment
			return nil
		}
		rows++
		return enc.Encode(backupRow{Key: key, Value: value})
	})
	if err == nil {
		err = json.NewEncoder(zip).Encode(backupRow{Rows: rows, Sum: hex.EncodeToString(sum.Sum(nil))})
	}
	return errors.Join(err, zip.Close())
}

// Restore makes the state of a backup in a folder that has none: that of one
// server, which others may join. Servers of the backup are not of it any more, and
// join tokens are void.
func Restore(ctx context.Context, config Config, r io.Reader) (backup time.Time, rows int, err error) {
	if _, err := os.Stat(filepath.Join(config.Folder.Path(), "etcd")); err == nil {
		return backup, 0, bulkhead.Errorf(bulkhead.ErrConflict, "data folder %s holds a state already", config.Folder.Path()).
			WithHint("move its folder etcd away first")
	}
	head, all, err := readBackup(r)
	if err != nil {
		return backup, 0, err
	}
	config.Peers = nil
	s, err := Open(ctx, config)
	if err != nil {
		return backup, 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	client := s.engine.(*etcd).client
	for len(all) > 0 {
		n, size := 0, 0
		var ops []clientv3.Op
		for ; n < len(all) && len(ops) < MaxChanges && size < maxBytes/2; n++ {
			ops = append(ops, clientv3.OpPut(all[n].Key, string(all[n].Value)))
			size += len(all[n].Value)
		}
		if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return backup, 0, fmt.Errorf("write restored state: %w", kinded(err))
		}
		rows += n
		all = all[n:]
	}
	return head.Time, rows, nil
}

// readBackup reads and checks all of a backup before anything is made of it.
func readBackup(r io.Reader) (head backupHead, rows []backupRow, err error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return head, nil, errNoBackup(err.Error())
	}
	sum, seen := sha256.New(), 0
	lines := bufio.NewReaderSize(zip, 64<<10)
	for first := true; ; first = false {
		line, err := readLine(lines)
		if err != nil {
			return head, nil, errNoBackup("it ends too early")
		}
		if first {
			if err := json.Unmarshal(line, &head); err != nil || head.Bulkhead != "state" {
				return head, nil, errNoBackup("its first line says something else")
			}
			if err := checkFormat("the backup", fmt.Sprint(head.Format)); err != nil {
				return head, nil, err
			}
			sum.Write(line)
			continue
		}
		var row backupRow
		if err := json.Unmarshal(line, &row); err != nil {
			return head, nil, errNoBackup(err.Error())
		}
		if row.Sum != "" {
			return head, rows, checkSum(row, sum, seen)
		}
		sum.Write(line)
		seen++
		if row, ok := restorable(row); ok {
			rows = append(rows, row)
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
		if len(line) > 2*MaxObject {
			return nil, errors.New("a line is too long")
		}
	}
}

func checkSum(last backupRow, sum hash.Hash, rows int) error {
	if want := hex.EncodeToString(sum.Sum(nil)); last.Sum != want || last.Rows != rows {
		return errNoBackup("its sum does not fit")
	}
	return nil
}

// restorable is a row as the restored state has it; false: it has no use there.
func restorable(row backupRow) (backupRow, bool) {
	table, _, ok := splitKey(row.Key)
	switch {
	case !ok || table == Servers || table == JoinTokens || table == Alarms || table == Present || table == Arrivals:
		return row, false
	case table != Stamps:
		return row, true
	}
	var s bulkhead.Stamp
	dec := json.NewDecoder(bytes.NewReader(row.Value))
	if dec.Decode(&s) != nil || s.Node == "" {
		return row, true
	}
	s.Epoch += epochLead
	s.Transfer = nil // it has long ended one way or the other
	if b, err := json.Marshal(s); err == nil {
		row.Value = b
	}
	return row, true
}
