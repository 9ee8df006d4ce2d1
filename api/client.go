package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"bulkhead"
	"bulkhead/keys"
)

// Client is the user's end of the API. Its methods stand beside the handlers
// that answer them. Errors carry the server's kind, hint and faults; a server
// that does not answer is bulkhead.ErrUnavailable. It is safe for concurrent use.
//
// It may know several servers: when one does not answer, or cannot because the
// servers have just lost their leader, it asks again, the next one if there is
// one. A change that it asks for twice is made once (requestHeader).
type Client struct {
	token string
	http  *http.Client

	mu      sync.Mutex // guards what follows
	bases   []string   // the one that answered last first
	learned func(servers []string)
	stale   func()
}

// NewClient makes a client of the API at base, such as "http://127.0.0.1:7070",
// that presents token. It connects when it is used.
func NewClient(base, token string) *Client {
	return &Client{
		bases: []string{normalBase(base)},
		token: token,
		http: &http.Client{Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute,
			MaxIdleConnsPerHost:   16,
			ForceAttemptHTTP2:     true,
		}},
	}
}

func normalBase(base string) string {
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	return strings.TrimSuffix(base, "/")
}

// Farm tells the client of other servers, the farm's authority (PEM; empty: that of
// the system) by whose certificate it knows them, and whom to tell when a server
// names others. Call it before the first request.
func (c *Client) Farm(servers []string, authority []byte, learned func(servers []string)) error {
	for _, s := range servers {
		if base := normalBase(s); !slices.Contains(c.bases, base) {
			c.bases = append(c.bases, base)
		}
	}
	c.learned = learned
	if t := c.http.Transport.(*http.Transport); len(c.bases) > 1 { // who does not take the call within that is dead, or as good as
		t.DialContext = (&net.Dialer{Timeout: connectMost, KeepAlive: 15 * time.Second}).DialContext
		t.TLSHandshakeTimeout = connectMost
	}
	if len(authority) == 0 {
		return nil
	}
	pool, _, err := keys.ReadPool(authority)
	if err != nil {
		return err
	}
	t := c.http.Transport.(*http.Transport)
	// A server's certificate names its role, so that its address may change.
	t.TLSClientConfig = &tls.Config{RootCAs: pool, ServerName: keys.ServerHostName, MinVersion: tls.VersionTLS13}
	t.Proxy = nil // it would have to be trusted
	return nil
}

// Via has the client reach servers by transport. Call it after Farm and
// before the first request.
func (c *Client) Via(transport http.RoundTripper) { c.http.Transport = transport }

// Stale has tell called for every answer that may not be the newest: the server could
// not ask the others. Call it before the first request.
func (c *Client) Stale(tell func()) { c.stale = tell }

// Base is the address of the API that answered last.
func (c *Client) Base() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bases[0]
}

// Transport is how the client reaches a server, for what speaks another protocol
// with it. It does not present the token.
func (c *Client) Transport() http.RoundTripper { return c.http.Transport }

// Token is what the client presents.
func (c *Client) Token() string { return c.token }

// call sends in as JSON (nil: no body) and reads the answer into out (nil:
// ignored).
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	resp, err := c.open(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return c.unreachable(c.Base(), err)
	}
	return nil
}

// requestHeader names a change, so that a server which is asked for it again knows
// that it has been made.
const requestHeader = "Bulkhead-Request"

// serversHeader names the APIs of all servers in an answer.
const serversHeader = "Bulkhead-Servers"

// retryHeader in an answer says that it may be another one in a moment.
const retryHeader = "Bulkhead-Retry"

// retryAnother is its value when the same server will not answer otherwise.
const retryAnother = "another"

// staleHeader in an answer says that it tells what the server knew last: no majority
// of the servers answers, so there may be news.
const staleHeader = "Bulkhead-Stale"

// connectMost is how long one of several servers may take to take a call, before the
// next one is asked.
const connectMost = time.Second

// patience is how long the client asks again when no server can answer: longer than
// the servers take to agree on a new leader.
const patience = 15 * time.Second

// open sends a request and returns the answer if it is a success.
func (c *Client) open(ctx context.Context, method, path string, query url.Values, in any) (*http.Response, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	request := rand.Text()
	pause := 50 * time.Millisecond
	for began := time.Now(); ; {
		resp, again, err := c.send(ctx, method, path, request, body)
		if err == nil || !again || time.Since(began) > patience {
			return resp, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
}

// send asks every server once, the one that answered last first. again tells that
// asking again may help.
func (c *Client) send(ctx context.Context, method, path, request string, body []byte) (resp *http.Response, again bool, err error) {
	c.mu.Lock()
	bases := slices.Clone(c.bases)
	c.mu.Unlock()
	var said, unreached error // by a server that answered; of the first that did not
	for _, base := range bases {
		req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
		if err != nil {
			return nil, false, bulkhead.Errorf(bulkhead.ErrInvalid, "address of the API %q: %w", base, err)
		}
		c.authorize(req.Header)
		req.Header.Set(requestHeader, request)
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := c.http.Do(req)
		if err != nil {
			err = c.unreachable(base, err)
			if ctx.Err() != nil {
				return nil, false, err
			}
			unreached = cmp.Or(unreached, err)
			continue
		}
		c.answered(base, resp)
		if resp.StatusCode < 300 {
			return resp, false, nil
		}
		said = readProblem(resp)
		resp.Body.Close()
		switch retry := resp.Header.Get(retryHeader); {
		case retry == "", retry == retryAnother && len(bases) == 1:
			return nil, false, said
		}
	}
	return nil, said != nil || len(bases) > 1, cmp.Or(said, unreached)
}

// answered prefers the server that answered, and learns of others.
func (c *Client) answered(base string, resp *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.bases, base); i > 0 && resp.Header.Get(retryHeader) == "" {
		c.bases[0], c.bases[i] = c.bases[i], c.bases[0]
	}
	if text := resp.Header.Get(serversHeader); text != "" && c.learned != nil {
		c.learned(strings.Split(text, ","))
	}
	if resp.Header.Get(staleHeader) != "" && c.stale != nil {
		c.stale()
	}
}

func (c *Client) authorize(h http.Header) {
	if c.token != "" {
		h.Set("Authorization", "Bearer "+c.token)
	}
}

// unreachable is an error of the way to the server.
func (c *Client) unreachable(base string, err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	reason := err
	if e, ok := errors.AsType[*url.Error](err); ok {
		reason = e.Err
	}
	text := reason.Error()
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		text = e.Error()
	} else if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		text = "no answer in time"
	} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		text = "the connection was closed"
	}
	e := bulkhead.Errorf(bulkhead.ErrUnavailable, "cannot reach Bulkhead at %s: %s", base, text).WithHint("start it: bulkhead up")
	e.Cause = err
	return e
}

// follow reads a stream until it ends, ctx ends or yield returns an error.
func follow[T any](ctx context.Context, c *Client, path string, query url.Values, yield func(T) error) error {
	resp, err := c.open(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = readLines(resp.Body, yield)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
