package frame

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Client asks another module of the stamp. It speaks as this module, with
// the rights of staff, unless the context has somebody's identity.
type Client struct {
	module, address, self, secret string
	http                          *http.Client
}

// Client is for calls to a module. It tries nothing twice. A module that asks
// itself is answered in its own process.
func (s *Server) Client(module string) *Client {
	c := &Client{
		module: module, address: s.Config.Address(module), self: s.Module.Name, secret: s.Config.Secret,
		http: &http.Client{
			Timeout: 10 * time.Second, Transport: s.transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // it would take the identity along
		},
	}
	if module == s.Module.Name {
		c.http.Transport = inProcess{s}
	}
	return c
}

// inProcess is the way to the module itself. The identity of the context counts.
type inProcess struct{ server *Server }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	who, err := Verify(p.server.Config.Secret, r.Header.Get(identityHeader), time.Now())
	if err != nil {
		return nil, err
	}
	r = r.Clone(WithIdentity(r.Context(), who))
	if r.Body == nil {
		r.Body = http.NoBody // as a server has it
	}
	out := &answer{header: http.Header{}, status: http.StatusOK}
	p.server.keyed(p.server.inside).ServeHTTP(out, r)
	return &http.Response{
		StatusCode: out.status, Status: fmt.Sprintf("%d %s", out.status, http.StatusText(out.status)), Header: out.header,
		Body: io.NopCloser(&out.body), Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// answer is an http.ResponseWriter that keeps what is written.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// Get reads a resource, such as /models/mod_…, into out. What the other module
// refuses is a *Problem with its status and code; if it does not answer, the
// problem is Unavailable.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.call(ctx, http.MethodGet, path, nil, out)
}

// Post sends in and reads the answer into out; either may be nil.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, http.MethodPost, path, in, out)
}

// Delete deletes a resource.
func (c *Client) Delete(ctx context.Context, path string) error {
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("ask %s: %w", c.module, err)
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.address+"/api/"+c.module+path, body)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.module, err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	who := Who(ctx)
	if who.Subject == "" {
		who = Identity{Subject: "module:" + c.self, Name: c.self, Role: Staff}
	}
	if err := Attach(r, c.secret, who); err != nil {
		return err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return Unavailable("%s does not answer", c.module).Because(err).Advise("Try again in a moment.")
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err != nil {
		return Unavailable("%s broke off its answer", c.module).Because(err).Advise("Try again in a moment.")
	}
	if answer.StatusCode >= 300 {
		p := &Problem{}
		if json.Unmarshal(text, p) != nil || p.Status == 0 {
			return Unavailable("%s answered %s", c.module, answer.Status)
		}
		return p
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read answer of %s: %w", c.module, err)
	}
	return nil
}
