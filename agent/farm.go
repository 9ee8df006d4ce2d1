package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"bulkhead"
)

// farm is what this node knows of the others: where stamps are that it does not
// have, and how their nodes are reached. It is kept on disk, so that the gateway
// routes after a restart although no server answers.
type farm struct {
	disk disk

	mu     sync.Mutex                            // guards what follows
	places map[bulkhead.StampName]bulkhead.Place // of other nodes' stamps
	peers  []bulkhead.Peer                       // other nodes
	fresh  map[bulkhead.StampName]struct{}       // named since the session began; nil after Synced
	dirty  bool
}

// savedFarm is its file form.
type savedFarm struct {
	Places []bulkhead.Place `json:"places,omitempty"`
	Peers  []bulkhead.Peer  `json:"peers,omitempty"`
}

const farmFile = "farm.json"

func newFarm(d disk) *farm {
	return &farm{disk: d, places: map[bulkhead.StampName]bulkhead.Place{}}
}

// load reads what an earlier life has kept.
func (f *farm) load() error {
	var saved savedFarm
	if err := f.disk.read(farmFile, &saved); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read what is known of other nodes: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers = saved.Peers
	for _, p := range saved.Places {
		f.places[p.Name] = p
	}
	return nil
}

// keepEvery is how long changes are gathered before they are written down. What a
// crash takes of them the next session brings again.
const keepEvery = time.Second

// keep writes down what has changed.
func (f *farm) keep() error {
	f.mu.Lock()
	if !f.dirty {
		f.mu.Unlock()
		return nil
	}
	saved := savedFarm{Peers: slices.Clone(f.peers)}
	for _, name := range slices.Sorted(maps.Keys(f.places)) {
		saved.Places = append(saved.Places, f.places[name])
	}
	f.dirty = false
	f.mu.Unlock()
	return f.disk.write(farmFile, saved, true)
}

// begin says that a session begins: until synced, what it names is fresh.
func (f *farm) begin() {
	f.mu.Lock()
	f.fresh = map[bulkhead.StampName]struct{}{}
	f.mu.Unlock()
}

// take applies an order; it tells whether it was one about the farm.
func (f *farm) take(o bulkhead.NodeOrder) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case o.Place != nil:
		if was, ok := f.places[o.Place.Name]; ok && was.UID == o.Place.UID && was.Epoch > o.Place.Epoch {
			return true // a server that is behind
		}
		f.places[o.Place.Name] = *o.Place
		if f.fresh != nil {
			f.fresh[o.Place.Name] = struct{}{}
		}
	case o.Left != "":
		delete(f.places, o.Left)
	case o.Peers != nil:
		f.peers = *o.Peers
	default:
		return false
	}
	f.dirty = true
	return true
}

// synced drops what the session has not named.
func (f *farm) synced() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fresh == nil {
		return
	}
	for name := range f.places {
		if _, ok := f.fresh[name]; !ok {
			delete(f.places, name)
			f.dirty = true
		}
	}
	f.fresh = nil
}

// Places are the stamps of other nodes, by name.
func (a *Agent) Places() []bulkhead.Place {
	a.farm.mu.Lock()
	defer a.farm.mu.Unlock()
	return slices.SortedFunc(maps.Values(a.farm.places), func(x, y bulkhead.Place) int { return strings.Compare(string(x.Name), string(y.Name)) })
}

// Peers are the other nodes whose gateways can be reached.
func (a *Agent) Peers() []bulkhead.Peer {
	a.farm.mu.Lock()
	defer a.farm.mu.Unlock()
	return slices.Clone(a.farm.peers)
}

// holds is what this node has, for the servers to compare with what they know.
func (a *Agent) holds() []bulkhead.StampRef {
	var out []bulkhead.StampRef
	for _, l := range a.Stamps() {
		if l.Stamp.UID != "" { // else nobody knows what it is
			out = append(out, ref(l.Stamp))
		}
	}
	return out
}

// removed ends every stamp: the node is no longer of the farm. Data is set aside,
// not destroyed.
func (a *Agent) removed() {
	a.log.Error("this node was removed from the farm: its stamps are ended, their data is kept")
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, loop := range a.stamps {
		loop.post(func() { loop.forgotten(ref(loop.assignment.Stamp)) })
	}
}
