package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"bulkhead"
)

// farm is what this node knows of the others: where stamps are that it does not
// have, and how their nodes are reached. It is kept on disk, so that the gateway
// routes after a restart although no server answers.
type farm struct {
	disk disk
	node bulkhead.NodeName // this one

	mu     sync.Mutex                            // guards what follows
	places map[bulkhead.StampName]bulkhead.Place // where stamps are; here: without node
	peers  map[bulkhead.NodeName]bulkhead.Peer   // other nodes
	list   []bulkhead.Peer                       // peers by name; replaced, never changed

	dirty chan struct{} // holds one when something is not written down
}

// savedFarm is its file form.
type savedFarm struct {
	Places []bulkhead.Place `json:"places,omitempty"`
	Peers  []bulkhead.Peer  `json:"peers,omitempty"`
}

const farmFile = "farm.json"

func newFarm(d disk, node bulkhead.NodeName) *farm {
	return &farm{
		disk: d, node: node,
		places: map[bulkhead.StampName]bulkhead.Place{}, peers: map[bulkhead.NodeName]bulkhead.Peer{},
		dirty: make(chan struct{}, 1),
	}
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
	for _, p := range saved.Peers {
		f.peers[p.Node] = p
	}
	f.list = sorted(f.peers)
	for _, p := range saved.Places {
		f.places[p.Name] = p
	}
	return nil
}

// keepEvery is how long changes are gathered before they are written down. What a
// crash takes of them the next session brings again.
const keepEvery = time.Second

// keep writes down what is known of other nodes, until ctx ends.
func (a *Agent) keep(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-a.farm.dirty:
			_ = wait(ctx, keepEvery)
			if err := a.farm.save(); err != nil {
				a.log.Error("keep what is known of other nodes", "err", err)
			}
		case <-ctx.Done():
		}
	}
}

// save writes it down.
func (f *farm) save() error {
	f.mu.Lock()
	saved := savedFarm{Places: sorted(f.places), Peers: f.list}
	f.mu.Unlock()
	return f.disk.write(farmFile, saved, true)
}

// take learns what the servers tell. Of a stamp it keeps what has the newer epoch: a
// server may be behind.
func (f *farm) take(news bulkhead.FarmNews) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case f.dirty <- struct{}{}:
	default:
	}
	was := f.places
	if news.All {
		f.places, f.peers = map[bulkhead.StampName]bulkhead.Place{}, map[bulkhead.NodeName]bulkhead.Peer{}
	}
	for _, p := range news.Places {
		if p.Node == f.node {
			p.Node = ""
		}
		switch old, ok := was[p.Name]; {
		case ok && old.UID == p.UID && old.Epoch > p.Epoch:
			f.places[p.Name] = old
		default:
			f.places[p.Name] = p
		}
	}
	for _, name := range news.Left {
		delete(f.places, name)
	}
	for _, p := range news.Peers {
		if p.Node != f.node {
			f.peers[p.Node] = p
		}
	}
	for _, name := range news.Gone {
		delete(f.peers, name)
	}
	f.list = sorted(f.peers)
}

// Places are where the farm's stamps are, by name; this node's own, some of which it
// may yet have to hear of, are without node.
func (a *Agent) Places() []bulkhead.Place {
	a.farm.mu.Lock()
	defer a.farm.mu.Unlock()
	return sorted(a.farm.places)
}

// Peers are the other nodes whose gateways can be reached, by name. Do not change the
// list.
func (a *Agent) Peers() []bulkhead.Peer {
	a.farm.mu.Lock()
	defer a.farm.mu.Unlock()
	return a.farm.list
}

func sorted[K cmp.Ordered, V any](m map[K]V) []V {
	out := make([]V, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[key])
	}
	return out
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
