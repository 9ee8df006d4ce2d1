package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"bulkhead"
)

// Client is the user's end of the API. Its methods stand beside the handlers
// that answer them. Errors carry the server's kind, hint and faults; a server
// that does not answer is bulkhead.ErrUnavailable. It is safe for concurrent use.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// NewClient makes a client of the API at base, such as "http://127.0.0.1:7070",
// that presents token. It connects when it is used.
func NewClient(base, token string) *Client {
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	return &Client{
		base:  strings.TrimSuffix(base, "/"),
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

// Base is the address of the API.
func (c *Client) Base() string { return c.base }

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
		return c.unreachable(err)
	}
	return nil
}

// open sends a request and returns the answer if it is a success.
func (c *Client) open(ctx context.Context, method, path string, query url.Values, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "address of the API %q: %w", c.base, err)
	}
	c.authorize(req.Header)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, readProblem(resp)
	}
	return resp, nil
}

func (c *Client) authorize(h http.Header) {
	if c.token != "" {
		h.Set("Authorization", "Bearer "+c.token)
	}
}

// unreachable is an error of the way to the server.
func (c *Client) unreachable(err error) error {
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
	e := bulkhead.Errorf(bulkhead.ErrUnavailable, "cannot reach Bulkhead at %s: %s", c.base, text).WithHint("start it: bulkhead up")
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
