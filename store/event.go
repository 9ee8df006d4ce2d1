package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"bulkhead"
)

// Events is the log of what happened, oldest first. It is bounded: see
// Config.StampEvents and Config.AllEvents.
//
// An event's ID is made of the revision that added it and its place in that
// transaction, so IDs grow in the order of commits: who has seen ID n will never
// find a smaller one that is new.
type Events struct {
	byID  tree[*eventRow]
	byKey tree[*eventRow]
}

type eventRow struct {
	key   string // in the table: STAMP/TOKEN-PLACE
	event bulkhead.Event
}

// placeBits is how many bits of an event's ID are its place in its transaction.
const placeBits = 10

// Len is the number of events kept.
func (e Events) Len() int { return e.byID.len() }

// All yields every event, oldest first.
func (e Events) All() iter.Seq[bulkhead.Event] { return e.After(0) }

// After yields every event with a greater ID, oldest first.
func (e Events) After(id int64) iter.Seq[bulkhead.Event] {
	return func(yield func(bulkhead.Event) bool) {
		for _, r := range e.byID.all(idKey(id+1), "") {
			if !yield(r.event) {
				return
			}
		}
	}
}

// Of is the events of one stamp, oldest first; of "", those of no stamp.
func (e Events) Of(stamp bulkhead.StampName) []bulkhead.Event {
	rows := e.of(stamp)
	events := make([]bulkhead.Event, len(rows))
	for i, r := range rows {
		events[i] = r.event
	}
	return events
}

// Last is the greatest ID, 0 if there is no event.
func (e Events) Last() int64 {
	n := e.byID.root
	if n == nil {
		return 0
	}
	for n.right != nil {
		n = n.right
	}
	return n.value.event.ID
}

func (e Events) of(stamp bulkhead.StampName) []*eventRow {
	var rows []*eventRow
	prefix := string(stamp) + "/"
	for _, r := range e.byKey.all(prefix, prefixEnd(prefix)) {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *eventRow) int { return cmp.Compare(a.event.ID, b.event.ID) })
	return rows
}

// count is len(e.of(stamp)) at the price of two look-ups.
func (e Events) count(stamp bulkhead.StampName) int {
	prefix := string(stamp) + "/"
	return e.byKey.rank(prefixEnd(prefix)) - e.byKey.rank(prefix)
}

func (e *Events) set(key string, value []byte, revision int64) error {
	r := &eventRow{key: key}
	if err := json.Unmarshal(value, &r.event); err != nil {
		return fmt.Errorf("decode event %q: %w", key, err)
	}
	place, err := strconv.ParseInt(key[strings.LastIndexByte(key, '-')+1:], 16, 64)
	if err != nil || place >= 1<<placeBits {
		return fmt.Errorf("decode event %q: no place in its key", key)
	}
	e.drop(key)
	r.event.ID = revision<<placeBits | place
	e.byID = e.byID.put(idKey(r.event.ID), r)
	e.byKey = e.byKey.put(key, r)
	return nil
}

func (e *Events) peek(key string) any {
	if r, ok := e.byKey.get(key); ok {
		return r.event
	}
	return nil
}

func (e *Events) drop(key string) {
	if r, ok := e.byKey.get(key); ok {
		e.byID = e.byID.drop(idKey(r.event.ID))
		e.byKey = e.byKey.drop(key)
	}
}

// excess is the keys to delete when more than perStamp events of one of stamps,
// or more than all, are kept: the oldest ones, and an eighth more than needed,
// so that not every event costs a deletion.
func (e Events) excess(stamps []bulkhead.StampName, perStamp, all int) []string {
	excess := map[string]bool{}
	for _, stamp := range stamps {
		if e.count(stamp) <= perStamp {
			continue
		}
		rows := e.of(stamp)
		for _, r := range rows[:len(rows)-(perStamp-perStamp/8)] {
			excess[r.key] = true
		}
	}
	if e.Len() > all {
		surplus := e.Len() - (all - all/8)
		for _, r := range e.byID.all("", "") {
			if len(excess) >= surplus {
				break
			}
			excess[r.key] = true
		}
	}
	keys := make([]string, 0, len(excess))
	for key := range excess {
		keys = append(keys, keyOf(EventLog, key))
	}
	return keys
}

func idKey(id int64) string { return fmt.Sprintf("%016x", id) }
