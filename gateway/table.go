package gateway

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"bulkhead"
)

// table answers which route a request takes. It is built once and never changed
// again; a new one takes its place.
type table struct {
	hosts map[bulkhead.Host]*route // the first route of each; see route.next
	// replaced is closed when a newer table has taken this one's place. Held
	// requests wait for it.
	replaced chan struct{}
}

// route is one entry of the table.
type route struct {
	next     *route // of the same host, with a path no longer than this one's
	path     string // without final slash; empty: the whole host
	stamp    *stamp
	service  bulkhead.ServiceName
	backends []*backend
	down     bool
	hop      bool // its only backend is the gateway of the stamp's node
}

// backend is one address that tasks of stamps listen on, or the gateway of another
// node. It outlives tables, so that its counts do too.
type backend struct {
	address string // HOST:PORT; of another node's gateway, its name
	// inFlight is the number of requests and upgraded connections it works on.
	inFlight atomic.Int64
	// answering are those of them whose answer has begun, upgraded those that have become
	// connections of another kind.
	answering, upgraded atomic.Int64
	// refused is when it last refused a connection, as nanoseconds of Unix time;
	// 0: not since it last took one.
	refused atomic.Int64
}

// shun is how long a backend that refused a connection comes last.
const shun = 2 * time.Second

// newTable builds a table. What it needs of the gateway's lasting things it asks
// for: the stamp of a name, the backend of an address. Routes that cannot work
// are left out and named in faults, because one bad route must not close all
// others.
func newTable(routes []bulkhead.Route, stampOf func(bulkhead.StampName) *stamp, backendOf func(address string) *backend) (t *table, faults []bulkhead.Fault) {
	t = &table{hosts: make(map[bulkhead.Host]*route, len(routes)), replaced: make(chan struct{})}
	// Few large pieces of memory instead of many small ones, because the garbage
	// collector visits each of them again and again.
	count := 0
	for _, r := range routes {
		count += len(r.Backends) + min(1, len(r.Node))
	}
	entries, backends := make([]route, 0, len(routes)), make([]*backend, 0, count)
	for _, r := range routes {
		where := string(r.Host) + r.Path
		if host, ok := parseHost(string(r.Host)); !ok || host != r.Host {
			faults = append(faults, bulkhead.Fault{Where: where, Message: "not a host name in lower case without port"})
			continue
		}
		if r.Path != "" && r.Path[0] != '/' {
			faults = append(faults, bulkhead.Fault{Where: where, Message: "path does not begin with a slash"})
			continue
		}
		path := strings.TrimRight(r.Path, "/")
		before := t.before(r.Host, path)
		if before != nil && before.path == path {
			faults = append(faults, bulkhead.Fault{Where: where, Message: fmt.Sprintf("stamp %s claims what stamp %s already has", r.Stamp, before.stamp.name)})
			continue
		}
		stamp := stampOf(r.Stamp)
		switch {
		case r.UID != stamp.uid:
			stamp.uid, stamp.epoch = r.UID, r.Epoch
		case r.Epoch < stamp.epoch:
			faults = append(faults, bulkhead.Fault{Where: where, Message: fmt.Sprintf("it is of epoch %d of stamp %s, whose newest is %d", r.Epoch, r.Stamp, stamp.epoch)})
			continue
		default:
			stamp.epoch = r.Epoch
		}
		first := len(backends)
		if r.Node != "" {
			backends = append(backends, backendOf(string(r.Node)))
		}
		for _, a := range r.Backends {
			backends = append(backends, backendOf(a.String()))
		}
		entries = append(entries, route{path: path, stamp: stamp, hop: r.Node != "", service: r.Service, down: r.Down != "", backends: backends[first:len(backends):len(backends)]})
		e := &entries[len(entries)-1]
		if before == nil {
			e.next, t.hosts[r.Host] = t.hosts[r.Host], e
		} else {
			e.next, before.next = before.next, e
		}
	}
	return t, faults
}

// before is the route after which one of path has its place: the last one of
// host whose path is longer, or the one that has the same path; nil: none.
func (t *table) before(host bulkhead.Host, path string) (last *route) {
	for r := t.hosts[host]; r != nil && len(r.path) >= len(path); r = r.next {
		last = r
		if r.path == path {
			break
		}
	}
	return last
}

// route is the entry whose path is the longest prefix of path by whole
// segments, or nil. Paths are compared as they are after decoding, without
// resolving dot segments: those are the backend's to read.
func (t *table) route(host bulkhead.Host, path string) *route {
	for r := t.hosts[host]; r != nil; r = r.next {
		n := len(r.path)
		if len(path) >= n && path[:n] == r.path && (len(path) == n || path[n] == '/') {
			return r
		}
	}
	return nil
}

// pick chooses one of the backends that are not in tried, or nil: the one with
// fewer requests in flight of two chosen at random (Mitzenmacher, The Power of
// Two Choices in Randomized Load Balancing, 2001). Those that refused a
// connection a moment ago come last.
func (r *route) pick(tried []*backend, now time.Time) *backend {
	if len(r.backends) == 1 && len(tried) == 0 {
		return r.backends[0]
	}
	var space [2][8]*backend // no allocation for the usual few
	left, shunned := space[0][:0], space[1][:0]
	for _, b := range r.backends {
		switch {
		case slices.Contains(tried, b):
		case now.UnixNano()-b.refused.Load() < int64(shun):
			shunned = append(shunned, b)
		default:
			left = append(left, b)
		}
	}
	if len(left) == 0 {
		left = shunned
	}
	switch len(left) {
	case 0:
		return nil
	case 1:
		return left[0]
	}
	i := rand.IntN(len(left))
	j := rand.IntN(len(left) - 1)
	if j >= i {
		j++
	}
	if left[j].inFlight.Load() < left[i].inFlight.Load() {
		i = j
	}
	return left[i]
}
