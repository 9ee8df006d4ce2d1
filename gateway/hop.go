package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"bulkhead"

	"golang.org/x/sync/semaphore"
)

// A request may come in at any node of the farm. The gateway there hands it to the
// gateway of the stamp's node: one hop, over mutual TLS, never two. The other end
// knows paths, tasks and what to hold; it believes what the first gateway says of
// the client, because only gateways of the farm get there.

// hopHeader in an answer says that the stamp is not at that node, or not any more:
// nothing was done with the request.
const hopHeader = "Bulkhead-Hop"

// hopAway is its value.
const hopAway = "not here"

// errAway is the error of a hop to a node that does not have the stamp.
var errAway = errors.New("the stamp is not at that node")

// doors bounds how many connections to another node are being made at a time. A node
// that does not answer is asked again and again by all requests that are held for it;
// when it wakes it would find thousands of callers who have hung up long ago, and be busy
// with them while those who still wait run out of patience.
type doors struct {
	mu sync.Mutex
	of map[bulkhead.NodeName]*semaphore.Weighted // guarded by mu
}

// mostDials is how many at a time.
const mostDials = 16

func newDoors() *doors { return &doors{of: map[bulkhead.NodeName]*semaphore.Weighted{}} }

func (d *doors) to(node bulkhead.NodeName) *semaphore.Weighted {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of[node] == nil {
		d.of[node] = semaphore.NewWeighted(mostDials)
	}
	return d.of[node]
}

// newHop is how requests reach gateways of other nodes. What is dialled is a node's
// name, as backend.address has it.
func newHop(dial func(context.Context, bulkhead.NodeName, ...string) (net.Conn, error), d *doors, protocol string) *http.Transport {
	t := newTransport()
	t.DialContext = nil
	t.ForceAttemptHTTP2 = protocol == "h2"
	// The other gateway always says that it wants the body, or why not; while it holds the
	// request it does neither, and the body has to stay here.
	t.ExpectContinueTimeout = time.Hour
	t.DialTLSContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		name, _, _ := strings.Cut(address, ":")
		node := bulkhead.NodeName(name)
		var conn net.Conn
		err := d.to(node).Acquire(ctx, 1)
		if err == nil {
			conn, err = dial(ctx, node, protocol)
			d.to(node).Release(1)
		}
		if err != nil { // whatever it is, nothing was sent
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
		return conn, nil
	}
	return t
}

// HopHandler serves what the gateways of other nodes hand over. Its listener must
// let in nobody else: what a request says of its client is believed.
func (g *Gateway) HopHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// How the client came is in X-Forwarded-Proto; the TLS of the hop is not its.
		secure := r.Header.Get("X-Forwarded-Proto") == "https"
		r.TLS = nil
		if secure {
			r.TLS = &tls.ConnectionState{}
		}
		g.serve(w, r, true)
	})
}

// heard makes sure that an answer to a body which nobody has read to its end
// arrives at the gateway that handed the request over: the server would close the
// connection at once, and what is still being sent would make the other kernel
// throw the answer away. That gateway hangs up when it has the answer.
func (x *exchange) heard(r *http.Request) {
	if x.body == nil || !x.body.read.Load() || x.body.whole.Load() || x.streams {
		return // of several streams in a connection one ends without it
	}
	if x.control.Flush() == nil && x.control.SetReadDeadline(time.Now().Add(heardWithin)) == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// heardWithin is how long an answer may take to the other gateway.
const heardWithin = 2 * time.Second

// refuseHop answers a gateway that took this node for the stamp's.
func refuseHop(w http.ResponseWriter) {
	w.Header().Set(hopHeader, hopAway)
	w.WriteHeader(http.StatusMisdirectedRequest)
}

// away tells whether an answer is refuseHop's, and takes the header off any other:
// it is not for clients.
func away(r *http.Response) bool {
	if r.Header.Get(hopHeader) == "" {
		return false
	}
	if r.StatusCode == http.StatusMisdirectedRequest && r.Header.Get(hopHeader) == hopAway {
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 4<<10)) // so that the connection can be used again
		_ = r.Body.Close()
		return true
	}
	r.Header.Del(hopHeader)
	return false
}
