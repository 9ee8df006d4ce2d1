package store

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"bulkhead"
)

// Snapshot is the whole state at one revision. It never changes, so it can be
// kept and read by anybody without a lock.
//
// What it returns shares its inner maps, slices and pointers with every other
// reader: do not change them. Inside Update, a Tx returns private copies.
type Snapshot struct {
	// Revision grows with every change of the state. Zero is the empty state.
	Revision int64

	Releases Table[ReleaseKey, bulkhead.Release]
	Stamps   StampTable
	Statuses Table[bulkhead.StampName, bulkhead.StampStatus]
	Nodes    Table[bulkhead.NodeName, bulkhead.Node]
	Tokens   Table[string, Token]
	Notes    Table[string, Note]
	Events   Events

	Servers    Table[bulkhead.NodeName, bulkhead.Server]
	JoinTokens Table[string, bulkhead.JoinToken]
	Removed    Table[string, bulkhead.Removed]
	Alarms     Table[string, bulkhead.Alarm]
	// Present are the servers whose process lives, as far as the lease of each
	// tells. Only Attend writes it.
	Present Table[bulkhead.NodeName, Presence]
	// Policies has at most one, under PlacementPolicy.
	Policies Table[string, bulkhead.Policy]
	// Arrivals are what nodes report of stamps that are to come to them.
	Arrivals Table[bulkhead.StampName, bulkhead.Arrival]
	// Tombs are of purged stamps. Tombs.Under(NewTombKey(n, "")) are all that a node has
	// yet to hear of.
	Tombs Table[TombKey, bulkhead.Tomb]
}

// PlacementPolicy is the key of the farm's policy of placement.
const PlacementPolicy = "placement"

// Policy is the farm's policy of placement; the default one if none was set.
func (s *Snapshot) Policy() bulkhead.Policy {
	p, _ := s.Policies.Get(PlacementPolicy)
	return p
}

// Presence says that a server's process lives.
type Presence struct {
	Name  bulkhead.NodeName `json:"name"`
	Since time.Time         `json:"since"`
}

// ReleaseKey is "PRODUCT/VERSION". Releases.Under(NewReleaseKey(p, "")) are all
// releases of a product.
type ReleaseKey string

// NewReleaseKey builds the key of a release.
func NewReleaseKey(product bulkhead.ProductName, version string) ReleaseKey {
	return ReleaseKey(string(product) + "/" + version)
}

// TombKey is "NODE/UID", the UID being the stamp's.
type TombKey string

// NewTombKey builds the key of a tomb.
func NewTombKey(node bulkhead.NodeName, uid string) TombKey {
	return TombKey(string(node) + "/" + uid)
}

// Token lets an operator in. Only the hash of its text is known.
type Token struct {
	Hash     string    `json:"hash"` // hexadecimal SHA-256 of the token's text
	Operator string    `json:"operator"`
	Role     string    `json:"role"`
	Created  time.Time `json:"created"`
	By       string    `json:"by,omitempty"`     // the operator who made it, or the server
	Expires  time.Time `json:"expires,omitzero"` // zero: never
}

// Expired tells whether the token has run out.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Note is a small fact about the cluster, such as its identity.
type Note struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// TableName names a table, in keys and in Change.
type TableName string

// The tables.
const (
	Releases TableName = "releases"
	Stamps   TableName = "stamps"
	Statuses TableName = "statuses"
	Nodes    TableName = "nodes"
	Tokens   TableName = "tokens"
	Notes    TableName = "notes"
	EventLog TableName = "events"

	Servers    TableName = "servers"
	JoinTokens TableName = "jointokens"
	Removed    TableName = "removed"
	Alarms     TableName = "alarms"
	Present    TableName = "present"
	Policies   TableName = "policies"
	Arrivals   TableName = "arrivals"
	Tombs      TableName = "tombs"
)

// root is where all objects are: root/TABLE/KEY. The v1 is the format of the
// objects; see format in folder.go.
const root = "/bulkhead/v1/"

func keyOf(table TableName, key string) string { return root + string(table) + "/" + key }

// deletions is a key that is written with every deletion from a table, so that
// whoever has read the whole table notices. It belongs to no table.
func deletions(table TableName) string { return root + string(table) }

// splitKey is the opposite of keyOf.
func splitKey(key string) (table TableName, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return "", "", false
	}
	t, name, ok := strings.Cut(rest, "/")
	return TableName(t), name, ok
}

// rows is what a table is to the mirror.
type rows interface {
	set(key string, value []byte, revision int64) error
	drop(key string)
	peek(key string) any // the object, nil if there is none
}

// table is the table of that name, nil if this version knows none.
func (s *Snapshot) table(name TableName) rows {
	switch name {
	case Releases:
		return &s.Releases
	case Stamps:
		return &s.Stamps
	case Statuses:
		return &s.Statuses
	case Nodes:
		return &s.Nodes
	case Tokens:
		return &s.Tokens
	case Notes:
		return &s.Notes
	case EventLog:
		return &s.Events
	case Servers:
		return &s.Servers
	case JoinTokens:
		return &s.JoinTokens
	case Removed:
		return &s.Removed
	case Alarms:
		return &s.Alarms
	case Present:
		return &s.Present
	case Policies:
		return &s.Policies
	case Arrivals:
		return &s.Arrivals
	case Tombs:
		return &s.Tombs
	default:
		return nil
	}
}

// Table holds objects of one type, sorted by key. The zero value is empty.
type Table[K ~string, T any] struct{ rows tree[*row[T]] }

type row[T any] struct {
	value    T
	revision int64  // of its last change
	written  []byte // in a transaction: its JSON, from which value is still to be made
}

// Get is the object of that key. Do not change what it refers to.
func (t Table[K, T]) Get(key K) (T, bool) {
	if r, ok := t.rows.get(string(key)); ok {
		return r.value, true
	}
	var zero T
	return zero, false
}

// All yields every object in the order of keys. Do not change what they refer to.
func (t Table[K, T]) All() iter.Seq[T] { return t.Under("") }

// Under yields every object whose key begins with prefix, like All.
func (t Table[K, T]) Under(prefix K) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, r := range t.rows.all(string(prefix), prefixEnd(string(prefix))) {
			if !yield(r.value) {
				return
			}
		}
	}
}

// Len is the number of objects.
func (t Table[K, T]) Len() int { return t.rows.len() }

func (t *Table[K, T]) set(key string, value []byte, revision int64) error {
	r := &row[T]{revision: revision}
	if err := json.Unmarshal(value, &r.value); err != nil {
		return fmt.Errorf("decode %T %q: %w", r.value, key, err)
	}
	t.rows = t.rows.put(key, r)
	return nil
}

func (t *Table[K, T]) peek(key string) any {
	if r, ok := t.rows.get(key); ok {
		return r.value
	}
	return nil
}

func (t *Table[K, T]) drop(key string) { t.rows = t.rows.drop(key) }

// StampTable is the table of stamps, which knows where each of them is.
type StampTable struct {
	Table[bulkhead.StampName, bulkhead.Stamp]
	byNode tree[bulkhead.StampName] // key: NODE/STAMP
	parts  *parts                   // of the one goroutine that feeds the mirror
}

// On yields the stamps of a node and those that move to it, by name, at the price of
// those alone.
func (t StampTable) On(node bulkhead.NodeName) iter.Seq[bulkhead.StampName] {
	return func(yield func(bulkhead.StampName) bool) {
		prefix := string(node) + "/"
		for _, name := range t.byNode.all(prefix, prefixEnd(prefix)) {
			if !yield(name) {
				return
			}
		}
	}
}

func (t *StampTable) set(key string, value []byte, revision int64) error {
	if t.parts == nil {
		t.parts = &parts{}
	}
	r := &row[bulkhead.Stamp]{revision: revision}
	if err := t.parts.decode(value, &r.value); err != nil {
		return fmt.Errorf("decode stamp %q: %w", key, err)
	}
	var was []bulkhead.NodeName
	if old, ok := t.rows.get(key); ok {
		was = old.value.Nodes()
	}
	t.rows = t.rows.put(key, r)
	if is := r.value.Nodes(); !slices.Equal(is, was) {
		t.leave(was, key)
		for _, node := range is {
			if node != "" {
				t.byNode = t.byNode.put(string(node)+"/"+key, r.value.Name)
			}
		}
	}
	return nil
}

func (t *StampTable) drop(key string) {
	was, _ := t.Get(bulkhead.StampName(key))
	t.leave(was.Nodes(), key)
	t.Table.drop(key)
}

func (t *StampTable) leave(nodes []bulkhead.NodeName, key string) {
	for _, node := range nodes {
		if node != "" {
			t.byNode = t.byNode.drop(string(node) + "/" + key)
		}
	}
}
