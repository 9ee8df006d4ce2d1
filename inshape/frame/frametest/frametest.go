// Package frametest runs modules in tests: a real server on a loopback port and
// on a folder that goes with the test, and clients that ask as somebody, with
// an identity signed as the front signs it.
//
//	m := frametest.Start(t, orders.Module())
//	order := m.As(frametest.Staff).Post("/api/orders/orders", draft).Want(201)
//
// It is no front: it signs nobody in, and paths are the module's own.
package frametest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"inshape/frame"
)

// Secret is the secret of the shop that modules are started in.
const Secret = "a secret of tests alone"

// People to ask as.
var (
	Staff = frame.Identity{Subject: "usr_staff", Name: "Sam Staff", Email: "sam@shop.test", Role: frame.Staff}
	Admin = frame.Identity{Subject: "usr_admin", Name: "Ada Admin", Email: "ada@shop.test", Role: frame.Admin}
)

// Customer is somebody of a party.
func Customer(party string) frame.Identity {
	return frame.Identity{Subject: "usr_of_" + party, Name: "Cleo Customer", Email: "cleo@" + party + ".test", Role: frame.Customer, Party: party}
}

// Setting is one environment variable of the module.
type Setting struct{ Name, Value string }

// Module is a module that serves.
type Module struct {
	URL    string // http://127.0.0.1:PORT
	Server *frame.Server

	t    testing.TB
	stop func()
}

// Start starts a module, waits until it is well, and stops it when the test ends. Without settings it
// has a folder of its own, and its webhooks may go to loopback addresses. To
// start one again on the same data, give both INSHAPE_DATA.
func Start(t testing.TB, m frame.Module, settings ...Setting) *Module {
	t.Helper()
	env := map[string]string{
		"INSHAPE_LISTEN": "127.0.0.1:0", "INSHAPE_DATA": t.TempDir(), "INSHAPE_SECRET": Secret, "INSHAPE_WEBHOOKS_INSIDE": "true",
	}
	for _, s := range settings {
		env[s.Name] = s.Value
	}
	config, err := frame.ConfigFrom(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	server, err := frame.New(ctx, m, config, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		cancel()
		t.Fatal(errors.Join(err, server.Close()))
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s ended: %v", m.Name, err)
		}
	})
	t.Cleanup(stop)
	started := &Module{URL: "http://" + listener.Addr().String(), Server: server, t: t, stop: stop}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		health := started.As(frame.Identity{}).Get("/healthz")
		if health.Status == http.StatusOK {
			return started
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not become well: %s", m.Name, health.Body)
		}
	}
}

// Stop stops the module as SIGTERM does, and returns when it is gone.
func (m *Module) Stop() { m.stop() }

// As is a client that asks as somebody; the zero identity is nobody.
func (m *Module) As(who frame.Identity) *Client {
	return &Client{t: m.t, url: m.URL, who: who, http: &http.Client{
		Timeout:       time.Minute,
		Transport:     &http.Transport{DisableKeepAlives: true}, // leaves no goroutine behind
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Client asks a module as somebody. It follows no redirects. A module that does
// not answer fails the test.
type Client struct {
	t      testing.TB
	url    string
	who    frame.Identity
	header http.Header
	http   *http.Client
}

// With is the same client with one more header, such as If-Match.
func (c *Client) With(name, value string) *Client {
	other := *c
	other.header = c.header.Clone()
	if other.header == nil {
		other.header = http.Header{}
	}
	other.header.Set(name, value)
	return &other
}

// Get asks for a path, which may have a query.
func (c *Client) Get(path string) *Answer { c.t.Helper(); return c.Do(http.MethodGet, path, nil) }

// Post posts a body; see Do.
func (c *Client) Post(path string, body any) *Answer {
	c.t.Helper()
	return c.Do(http.MethodPost, path, body)
}

// Put puts a body; see Do.
func (c *Client) Put(path string, body any) *Answer {
	c.t.Helper()
	return c.Do(http.MethodPut, path, body)
}

// Patch patches with a body; see Do.
func (c *Client) Patch(path string, body any) *Answer {
	c.t.Helper()
	return c.Do(http.MethodPatch, path, body)
}

// Delete deletes a path.
func (c *Client) Delete(path string) *Answer { c.t.Helper(); return c.Do(http.MethodDelete, path, nil) }

// Do asks and reads the whole answer. An io.Reader, a text or bytes are sent as
// they are, url.Values as a form, anything else as JSON.
func (c *Client) Do(method, path string, body any) *Answer {
	c.t.Helper()
	var reader io.Reader
	kind := ""
	switch body := body.(type) {
	case nil:
	case io.Reader:
		reader = body
	case []byte:
		reader = bytes.NewReader(body)
	case string:
		reader = strings.NewReader(body)
	case url.Values:
		reader, kind = strings.NewReader(body.Encode()), "application/x-www-form-urlencoded"
	default:
		text, err := json.Marshal(body)
		if err != nil {
			c.t.Fatal(err)
		}
		reader, kind = bytes.NewReader(text), "application/json"
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, reader)
	if err != nil {
		c.t.Fatal(err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	for name := range c.header {
		r.Header.Set(name, c.header.Get(name))
	}
	if c.who.Subject != "" {
		if err := frame.Attach(r, Secret, c.who); err != nil {
			c.t.Fatal(err)
		}
	}
	answer, err := c.http.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		c.t.Fatalf("%s %s: read answer: %v", method, path, err)
	}
	return &Answer{Status: answer.StatusCode, Header: answer.Header, Body: text, t: c.t, request: method + " " + path}
}

// Answer is a whole answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte

	t       testing.TB
	request string
}

// Want ends the test unless the answer has a status.
func (a *Answer) Want(status int) *Answer {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("%s: got %d, want %d: %.500s", a.request, a.Status, status, a.Body)
	}
	return a
}

// Into reads the answer's JSON.
func (a *Answer) Into(out any) *Answer {
	a.t.Helper()
	if err := json.Unmarshal(a.Body, out); err != nil {
		a.t.Fatalf("%s: %v in %.500s", a.request, err, a.Body)
	}
	return a
}

// Refused ends the test unless the answer is a problem with a status, a code
// and a line that says what is wrong. It gives the problem.
func (a *Answer) Refused(status int, code string) frame.Problem {
	a.t.Helper()
	a.Want(status)
	var p frame.Problem
	a.Into(&p)
	if p.Code != code || p.Detail == "" || p.Status != status || a.Header.Get("Content-Type") != "application/problem+json" {
		a.t.Fatalf("%s: got problem %q (%s), want %q: %s", a.request, p.Code, a.Header.Get("Content-Type"), code, a.Body)
	}
	return p
}

// Has ends the test unless a page has every one of some texts.
func (a *Answer) Has(texts ...string) *Answer {
	a.t.Helper()
	for _, text := range texts {
		if !strings.Contains(string(a.Body), text) {
			a.t.Fatalf("%s: no %q in\n%.4000s", a.request, text, a.Body)
		}
	}
	return a
}

// SmallDisk is a folder on a file system of its own, of a size such as 3m, that
// goes with the test. Only root may mount one; others skip the test.
func SmallDisk(t testing.TB, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts a file system, which needs root")
	}
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size="+size); err != nil {
		t.Skip("mounts a file system, which this kernel refuses here: ", err)
	}
	t.Cleanup(func() {
		// A connection to the store may close a moment after its module has stopped.
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := syscall.Unmount(folder, 0)
			if err == nil {
				return
			}
			if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
				t.Error(err)
				return
			}
		}
	})
	return folder
}
