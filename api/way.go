package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"bulkhead"
	"bulkhead/keys"
)

// Way is how a machine reaches the servers: the one that answered last, and when
// it does not answer any more, the next. All servers are alike: which of them
// answers is nobody's concern.
type Way struct {
	config    *tls.Config
	http      *http.Client // by RoundTrip
	transport atomic.Pointer[http.Transport]

	mu        sync.Mutex // guards what follows
	addresses []string   // HOST:PORT of node APIs, the preferred one first
}

// dialMost is how long one server may take to answer before the next is asked.
const dialMost = 3 * time.Second

// NewWay makes a way to the node APIs at addresses. config holds the machine's
// certificate and trusts the farm's authority.
func NewWay(addresses []string, config *tls.Config) *Way {
	w := &Way{addresses: slices.Clone(addresses), config: config.Clone()}
	w.config.NextProtos = []string{"h2", "http/1.1"}
	w.http = &http.Client{Transport: w}
	w.Fresh()
	return w
}

// Fresh has new requests open new connections, which show the certificate that the
// machine has now. What is under way goes on.
func (w *Way) Fresh() {
	old := w.transport.Swap(&http.Transport{
		DialTLSContext:        w.dial,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 15 * time.Second,
		// Sessions give signs of life more often, and so need no pings.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * nodePulse, PingTimeout: nodeSilence},
	})
	if old != nil {
		old.CloseIdleConnections()
	}
}

// RoundTrip asks whichever server answers.
func (w *Way) RoundTrip(r *http.Request) (*http.Response, error) {
	return w.transport.Load().RoundTrip(r)
}

// CloseIdleConnections is called by http.Client's.
func (w *Way) CloseIdleConnections() { w.transport.Load().CloseIdleConnections() }

// base is the URL of whichever server answers.
const base = "https://" + keys.ServerHostName

// URL is under which Client reaches a server.
func (w *Way) URL() string { return base }

// Client asks whichever server answers.
func (w *Way) Client() *http.Client { return w.http }

// Set replaces the servers that the way knows; an empty list changes nothing. The
// preferred one stays so.
func (w *Way) Set(addresses []string) {
	if len(addresses) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	next := slices.Clone(addresses)
	if i := slices.Index(next, w.addresses[0]); i > 0 {
		next[0], next[i] = next[i], next[0]
	}
	w.addresses = next
}

// Avoid puts the server that was asked last behind all others.
func (w *Way) Avoid() {
	w.mu.Lock()
	w.addresses = append(w.addresses[1:], w.addresses[0])
	w.mu.Unlock()
	w.Fresh()
}

func (w *Way) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	w.mu.Lock()
	addresses := slices.Clone(w.addresses)
	w.mu.Unlock()
	var errs []error
	for _, address := range addresses {
		conn, err := w.dialOne(ctx, network, address)
		if err == nil {
			w.prefer(address)
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, plainly(err)))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// plainly leaves out of an error of a connection what its address says already.
func plainly(err error) error {
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("it does not speak TLS, so it is not the address for nodes (%w)", e)
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return err
}

func (w *Way) dialOne(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialMost)
	defer cancel()
	return (&tls.Dialer{NetDialer: &net.Dialer{KeepAlive: 15 * time.Second}, Config: w.config}).DialContext(ctx, network, address)
}

func (w *Way) prefer(address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.addresses, address); i > 0 {
		w.addresses[0], w.addresses[i] = w.addresses[i], w.addresses[0]
	}
}

// ask posts a question to whichever server answers.
func (w *Way) ask(ctx context.Context, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.http.Do(req)
	if err != nil {
		return unanswered(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readProblem(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "read answer of server: %w", err)
	}
	return nil
}

// unanswered is an error of the way: one line, and of the kind of what was wrong
// with the other end, if something was.
func unanswered(err error) error {
	if e, ok := errors.AsType[*bulkhead.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*url.Error](err); ok { // its URL names nobody
		err = e.Err
	}
	return bulkhead.Errorf(bulkhead.ErrUnavailable, "no server answers: %w", err)
}
