package store

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"time"

	"bulkhead"
)

// Bounds of one transaction.
const (
	// MaxObject is the largest object in bytes of JSON.
	MaxObject = 1 << 20
	// MaxChanges is how many objects one transaction may write.
	MaxChanges = 1000
	// maxBytes is the largest transaction in bytes of JSON.
	maxBytes = 4 << 20
)

// Tx is a transaction: it reads one snapshot and what it has written itself,
// and remembers what it read. It commits only if all of that is still so.
// Unlike a Snapshot it returns private copies, to be changed and put back.
type Tx struct {
	Releases TxTable[ReleaseKey, bulkhead.Release]
	Stamps   TxTable[bulkhead.StampName, bulkhead.Stamp]
	Statuses TxTable[bulkhead.StampName, bulkhead.StampStatus]
	Nodes    TxTable[bulkhead.NodeName, bulkhead.Node]
	Tokens   TxTable[string, Token]
	Notes    TxTable[string, Note]

	Servers    TxTable[bulkhead.NodeName, bulkhead.Server]
	JoinTokens TxTable[string, bulkhead.JoinToken]
	Removed    TxTable[string, bulkhead.Removed]
	Alarms     TxTable[string, bulkhead.Alarm]
	Policies   TxTable[string, bulkhead.Policy]
	Arrivals   TxTable[bulkhead.StampName, bulkhead.Arrival]
	Tombs      TxTable[TombKey, bulkhead.Tomb]

	revision int64
	read     map[string]condition
	written  map[string][]byte
	creates  bool
	events   int
	noisy    []bulkhead.StampName // who got events
	token    string               // of this transaction's events
	err      error                // the first thing wrong; ends the transaction
}

func newTx(s *Snapshot) *Tx {
	tx := &Tx{revision: s.Revision, read: map[string]condition{}, written: map[string][]byte{}}
	tx.Releases = txTable(tx, Releases, s.Releases, func(r bulkhead.Release) ReleaseKey { return NewReleaseKey(r.Product, r.Version) })
	tx.Stamps = txTable(tx, Stamps, s.Stamps.Table, func(s bulkhead.Stamp) bulkhead.StampName { return s.Name })
	tx.Statuses = txTable(tx, Statuses, s.Statuses, func(s bulkhead.StampStatus) bulkhead.StampName { return s.Name })
	tx.Nodes = txTable(tx, Nodes, s.Nodes, func(n bulkhead.Node) bulkhead.NodeName { return n.Name })
	tx.Tokens = txTable(tx, Tokens, s.Tokens, func(t Token) string { return t.Hash })
	tx.Notes = txTable(tx, Notes, s.Notes, func(n Note) string { return n.Name })
	tx.Servers = txTable(tx, Servers, s.Servers, func(s bulkhead.Server) bulkhead.NodeName { return s.Name })
	tx.JoinTokens = txTable(tx, JoinTokens, s.JoinTokens, func(t bulkhead.JoinToken) string { return t.ID })
	tx.Removed = txTable(tx, Removed, s.Removed, func(r bulkhead.Removed) string { return r.UID })
	tx.Alarms = txTable(tx, Alarms, s.Alarms, func(a bulkhead.Alarm) string { return a.Name })
	tx.Policies = txTable(tx, Policies, s.Policies, func(bulkhead.Policy) string { return PlacementPolicy })
	tx.Arrivals = txTable(tx, Arrivals, s.Arrivals, func(a bulkhead.Arrival) bulkhead.StampName { return a.Name })
	tx.Tombs = txTable(tx, Tombs, s.Tombs, func(t bulkhead.Tomb) TombKey { return NewTombKey(t.Of.Node, t.UID) })
	return tx
}

// Event adds an event to the log. Its ID is set by the commit, its Time now if
// it is zero.
func (tx *Tx) Event(e bulkhead.Event) {
	if tx.events == 1<<placeBits {
		tx.fail(bulkhead.Errorf(bulkhead.ErrExhausted, "one change makes more than %d events", 1<<placeBits))
		return
	}
	if tx.token == "" {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		tx.token = hex.EncodeToString(b[:])
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.ID = 0
	tx.write(keyOf(EventLog, fmt.Sprintf("%s/%s-%03x", e.Stamp, tx.token, tx.events)), e)
	tx.events++
	if !slices.Contains(tx.noisy, e.Stamp) {
		tx.noisy = append(tx.noisy, e.Stamp)
	}
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// write notes a write and returns its JSON, nil if it is not a possible one.
func (tx *Tx) write(key string, value any) []byte {
	b, err := json.Marshal(value)
	switch {
	case err != nil:
		tx.fail(fmt.Errorf("encode %s: %w", key, err))
		return nil
	case len(b) > MaxObject:
		tx.fail(bulkhead.Errorf(bulkhead.ErrExhausted, "%s takes %d bytes of state: at most %d", key[len(root):], len(b), MaxObject))
		return nil
	}
	tx.written[key] = b
	return b
}

// txn is what to commit.
func (tx *Tx) txn() (txn, error) {
	if tx.err != nil {
		return txn{}, tx.err
	}
	t := txn{creates: tx.creates}
	for _, c := range tx.read {
		t.conditions = append(t.conditions, c)
	}
	size := 0
	for key, value := range tx.written {
		t.writes = append(t.writes, write{key, value})
		size += len(key) + len(value)
	}
	if len(t.writes) > MaxChanges || len(t.conditions) > MaxChanges || size > maxBytes {
		return txn{}, bulkhead.Errorf(bulkhead.ErrExhausted, "one change of %d objects (%d read, %d bytes): at most %d objects and %d bytes",
			len(t.writes), len(t.conditions), size, MaxChanges, maxBytes).WithHint("make it in several steps")
	}
	return t, nil
}

// TxTable is a Table inside a transaction.
type TxTable[K ~string, T any] struct {
	tx    *Tx
	name  TableName
	rows  *tree[*row[T]] // the snapshot's, and what the transaction wrote
	keyOf func(T) K
}

func txTable[K ~string, T any](tx *Tx, name TableName, t Table[K, T], keyOf func(T) K) TxTable[K, T] {
	return TxTable[K, T]{tx, name, &t.rows, keyOf}
}

// Get is a private copy of the object of that key.
func (t TxTable[K, T]) Get(key K) (T, bool) {
	value, ok := t.peek(key)
	if ok {
		value = t.clone(value)
	}
	return value, ok
}

// Peek is the object of that key, without a copy: change only the fields of the
// struct itself, and not what they refer to.
func (t TxTable[K, T]) Peek(key K) (T, bool) { return t.peek(key) }

// Has tells whether there is an object of that key.
func (t TxTable[K, T]) Has(key K) bool {
	_, ok := t.peek(key)
	return ok
}

// All yields private copies of all objects in the order of keys. The
// transaction then depends on the whole table: prefer Get.
func (t TxTable[K, T]) All() iter.Seq[T] { return t.Under("") }

// Under yields private copies of the objects whose keys begin with prefix.
func (t TxTable[K, T]) Under(prefix K) iter.Seq[T] {
	return func(yield func(T) bool) {
		from := keyOf(t.name, string(prefix))
		t.tx.read[from+"*"] = condition{key: from, end: prefixEnd(from), revision: t.tx.revision}
		gone := deletions(t.name)
		t.tx.read[gone] = condition{key: gone, end: gone + "\x00", revision: t.tx.revision}
		for _, r := range t.rows.all(string(prefix), prefixEnd(string(prefix))) {
			if !yield(t.clone(t.value(r))) {
				return
			}
		}
	}
}

// Put writes an object, new or in place of the old one.
func (t TxTable[K, T]) Put(value T) {
	key := string(t.keyOf(value))
	if key == "" {
		t.tx.fail(bulkhead.Errorf(bulkhead.ErrInvalid, "an object of %s has no name", t.name))
		return
	}
	b := t.tx.write(keyOf(t.name, key), value)
	if b == nil {
		return
	}
	if _, ok := t.rows.get(key); !ok {
		t.tx.creates = true
	}
	*t.rows = t.rows.put(key, &row[T]{written: b}) // the caller keeps its own
}

// PutNew is Put unless the object already is so.
func (t TxTable[K, T]) PutNew(value T) {
	if old, ok := t.peek(t.keyOf(value)); ok {
		was, err1 := json.Marshal(old)
		is, err2 := json.Marshal(value)
		if err1 == nil && err2 == nil && bytes.Equal(was, is) {
			return
		}
	}
	t.Put(value)
}

// Delete removes an object. It need not exist.
func (t TxTable[K, T]) Delete(key K) {
	if !t.Has(key) {
		return
	}
	*t.rows = t.rows.drop(string(key))
	t.tx.written[keyOf(t.name, string(key))] = nil
	t.tx.written[deletions(t.name)] = []byte(key)
}

// peek is Get without a copy.
func (t TxTable[K, T]) peek(key K) (T, bool) {
	r, ok := t.rows.get(string(key))
	full := keyOf(t.name, string(key))
	if _, own := t.tx.written[full]; !own {
		c := condition{key: full}
		if ok {
			c.revision = r.revision
		}
		t.tx.read[full] = c
	}
	if !ok {
		var zero T
		return zero, false
	}
	return t.value(r), true
}

// value is what a row holds. What the transaction has written itself is decoded
// when it is first read, which is seldom.
func (t TxTable[K, T]) value(r *row[T]) T {
	if r.written != nil {
		if err := json.Unmarshal(r.written, &r.value); err != nil {
			t.tx.fail(fmt.Errorf("decode %T: %w", r.value, err))
		}
		r.written = nil
	}
	return r.value
}

func (t TxTable[K, T]) clone(value T) (private T) {
	b, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(b, &private)
	}
	if err != nil {
		panic(fmt.Sprintf("store: copy %T that came from JSON: %v", value, err))
	}
	return private
}
