package api

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"bulkhead"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Exec is a command in a task as its user sees it.
type Exec struct {
	bulkhead.ExecRequest
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer
	Resize         <-chan TerminalSize // nil: never
}

// TerminalSize is a terminal's, in characters.
type TerminalSize struct{ Width, Height uint16 }

// Exec runs a command in a running task of a stamp and returns its exit code.
// The frames of the WebSocket are those that the agent reads and writes
// (bulkhead.ReadFrame): the servers only pass them on.
func (c *Client) Exec(ctx context.Context, e Exec) (int, error) {
	v := url.Values{"service": {string(e.Service)}, "command": e.Command}
	if e.Slot > 0 {
		v.Set("slot", strconv.Itoa(e.Slot))
	}
	if e.TTY {
		v.Set("tty", "true")
		v.Set("width", strconv.Itoa(int(e.Width)))
		v.Set("height", strconv.Itoa(int(e.Height)))
	}
	header := http.Header{}
	c.authorize(header)
	base := c.Base()
	address := base + "/v1/stamps/" + url.PathEscape(string(e.Stamp)) + "/exec?" + v.Encode()
	ws, resp, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: header})
	if err != nil {
		if resp != nil && resp.StatusCode >= 400 {
			defer resp.Body.Close()
			return 0, readProblem(resp)
		}
		return 0, c.unreachable(base, err)
	}
	defer ws.CloseNow()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn := wsConn(ctx, ws)
	var mu sync.Mutex // guards writing to conn
	frame := func(kind bulkhead.FrameKind, payload []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return bulkhead.WriteFrame(conn, kind, payload)
	}
	go func() { // a read from a terminal cannot be called off: it ends with the process
		if e.Stdin != nil {
			buf := make([]byte, 32<<10)
			for {
				n, err := e.Stdin.Read(buf)
				if n > 0 && frame(bulkhead.FrameStdin, buf[:n]) != nil {
					return
				}
				if err != nil {
					break
				}
			}
		}
		_ = frame(bulkhead.FrameStdinEnd, nil) // the connection is gone: the reader below says so
	}()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case size := <-e.Resize:
				var b [4]byte
				binary.BigEndian.PutUint16(b[:], size.Width)
				binary.BigEndian.PutUint16(b[2:], size.Height)
				_ = frame(bulkhead.FrameResize, b[:])
			}
		}
	}()
	for {
		kind, payload, err := bulkhead.ReadFrame(conn)
		if err != nil {
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			if closed, ok := errors.AsType[websocket.CloseError](err); ok && closed.Code == websocket.StatusPolicyViolation {
				return 0, bulkhead.Errorf(bulkhead.ErrDenied, "%s", closed.Reason)
			}
			return 0, bulkhead.Errorf(bulkhead.ErrUnavailable, "the connection to the command broke: %w", err)
		}
		switch kind {
		case bulkhead.FrameStdout:
			_, err = e.Stdout.Write(payload)
		case bulkhead.FrameStderr:
			_, err = e.Stderr.Write(payload)
		case bulkhead.FrameExit:
			var r bulkhead.ExecResult
			if err := json.Unmarshal(payload, &r); err != nil {
				return 0, bulkhead.Errorf(bulkhead.ErrUnavailable, "the connection to the command broke: %w", err)
			}
			if r.Error != "" {
				return r.Code, bulkhead.Errorf(bulkhead.ErrInvalid, "%s", r.Error)
			}
			return r.Code, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func wsConn(ctx context.Context, ws *websocket.Conn) net.Conn {
	ws.SetReadLimit(bulkhead.MaxFrame + 16)
	return websocket.NetConn(ctx, ws, websocket.MessageBinary)
}

func (s *Server) registerExec(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/stamps/{name}/exec", id: "stamp-exec", tag: "Stamps",
		summary:     "Run a command in a task",
		description: `A WebSocket of binary messages that carry frames: one byte kind (0 stdin, 1 end of stdin, 2 stdout, 3 stderr, 4 terminal size as two big-endian uint16, 5 exit as JSON {code, error}), the payload's length as a big-endian uint32, the payload of at most 64 KiB.`,
	}, func(ctx context.Context, in *struct {
		Name    string   `path:"name"`
		Service string   `query:"service" required:"true"`
		Slot    int      `query:"slot" minimum:"0" doc:"Of the service's tasks; 0: any"`
		Command []string `query:"command,explode" required:"true" minItems:"1" doc:"The command and its arguments"`
		TTY     bool     `query:"tty"`
		Width   uint16   `query:"width" doc:"Columns, with tty"`
		Height  uint16   `query:"height" doc:"Rows, with tty"`
	},
	) (*huma.StreamResponse, error) {
		stamp, err := s.placed(in.Name, in.Service)
		if err != nil {
			return nil, err
		}
		if stamp.Desired != bulkhead.DesiredRunning {
			again := map[bool]string{true: "bulkhead stamp create %s --restore", false: "bulkhead stamp start %s"}[stamp.Desired == bulkhead.DesiredDeleted]
			return nil, bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is %s: no task of it runs", stamp.Name, stamp.Desired).WithHint(again, stamp.Name)
		}
		conn, hangup, err := s.nodes.dial(ctx, stamp.Node, bulkhead.StreamRequest{Exec: &bulkhead.ExecRequest{
			Stamp: stamp.Name, Service: bulkhead.ServiceName(in.Service), Slot: in.Slot, Command: in.Command,
			TTY: in.TTY, Width: in.Width, Height: in.Height,
		}})
		if err != nil {
			return nil, err
		}
		by := actor(ctx)
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{})
			if err != nil {
				hangup()
				return // Accept has answered
			}
			s.c.Logger.Info("exec", "operator", by, "stamp", stamp.Name, "service", in.Service, "command", strings.Join(in.Command, " "))
			stop := context.AfterFunc(ctx, func() {
				if why := context.Cause(ctx); errors.Is(why, bulkhead.ErrDenied) {
					_ = ws.Close(websocket.StatusPolicyViolation, why.Error())
				}
				_ = ws.CloseNow()
			})
			defer stop()
			s.couple(wsConn(s.ctx, ws), conn, hangup)
			_ = ws.Close(websocket.StatusNormalClosure, "")
		}}, nil
	})
}

// couple passes bytes between a user and a node until one of them is gone.
func (s *Server) couple(user net.Conn, node io.ReadWriter, hangup func()) {
	var toNode sync.WaitGroup
	toNode.Go(func() {
		_, _ = io.Copy(node, user)
		hangup() // only now: the node's answer must not be written to after it
	})
	_, _ = io.Copy(user, node) // ends after the frame with the exit code
	_ = user.Close()
	toNode.Wait()
}

func hasService(stamp bulkhead.Stamp, service bulkhead.ServiceName) error {
	var known []string
	for _, s := range stamp.Services {
		if s.Name == service {
			return nil
		}
		known = append(known, string(s.Name))
	}
	return bulkhead.Errorf(bulkhead.ErrNotFound, "stamp %s has no service %q", stamp.Name, service).
		WithHint("it has: %s", strings.Join(known, ", "))
}
