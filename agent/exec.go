package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"sync"

	"bulkhead"
)

// exec runs a command for a user, whose end of conn speaks in frames
// (bulkhead.ReadFrame). The command is killed when conn closes.
func (a *Agent) exec(ctx context.Context, conn io.ReadWriter, req bulkhead.ExecRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &frameWriter{w: conn}
	result := func(r bulkhead.ExecResult) error {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return out.frame(bulkhead.FrameExit, b)
	}
	id, err := a.execTask(req)
	if err != nil {
		return result(bulkhead.ExecResult{Code: -1, Error: err.Error()})
	}
	stdin, stdinW := io.Pipe()
	resize := make(chan Size, 1)
	if req.Width > 0 {
		resize <- Size{req.Width, req.Height}
	}
	go func() {
		defer cancel() // the user has gone
		defer stdinW.Close()
		for {
			kind, payload, err := bulkhead.ReadFrame(conn)
			if err != nil {
				return
			}
			switch kind {
			case bulkhead.FrameStdin:
				if _, err := stdinW.Write(payload); err != nil {
					continue // the command reads no more; go on hearing resizes and the end
				}
			case bulkhead.FrameStdinEnd:
				stdinW.Close()
			case bulkhead.FrameResize:
				if len(payload) == 4 {
					select {
					case resize <- Size{binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])}:
					default:
					}
				}
			}
		}
	}()
	code, err := a.c.Runtime.Exec(ctx, id, Exec{
		Command: req.Command, Stdin: stdin, TTY: req.TTY, Resize: resize,
		Stdout: out.of(bulkhead.FrameStdout), Stderr: out.of(bulkhead.FrameStderr),
	})
	stdin.Close()
	if err != nil {
		return result(bulkhead.ExecResult{Code: -1, Error: oneLine(err)})
	}
	return result(bulkhead.ExecResult{Code: code})
}

// execTask finds the task that a request means.
func (a *Agent) execTask(req bulkhead.ExecRequest) (bulkhead.TaskID, error) {
	a.mu.Lock()
	loop := a.stamps[req.Stamp]
	a.mu.Unlock()
	if loop == nil {
		return "", bulkhead.Errorf(bulkhead.ErrNotFound, "stamp %q is not on this node", req.Stamp)
	}
	view := loop.view.Load()
	known := false
	for _, s := range view.Stamp.Services {
		known = known || s.Name == req.Service
	}
	if !known {
		return "", bulkhead.Errorf(bulkhead.ErrNotFound, "stamp %s has no service %q", req.Stamp, req.Service)
	}
	for _, t := range view.Tasks {
		if t.Service == req.Service && t.State == bulkhead.TaskRunning && (req.Slot == 0 || t.Slot == req.Slot) {
			return t.ID, nil
		}
	}
	return "", bulkhead.Errorf(bulkhead.ErrConflict, "no task of %s.%s is running", req.Stamp, req.Service)
}

// frameWriter lets several streams share one connection.
type frameWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (f *frameWriter) frame(kind bulkhead.FrameKind, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bulkhead.WriteFrame(f.w, kind, payload)
}

func (f *frameWriter) of(kind bulkhead.FrameKind) io.Writer { return &frameStream{f, kind} }

type frameStream struct {
	f    *frameWriter
	kind bulkhead.FrameKind
}

func (s *frameStream) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		chunk := p[:min(len(p), bulkhead.MaxFrame)]
		if err := s.f.frame(s.kind, chunk); err != nil {
			return n, err
		}
		n, p = n+len(chunk), p[len(chunk):]
	}
	return n, nil
}
