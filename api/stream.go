package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"bulkhead"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Streams are newline-delimited JSON: one item a line. An empty line is a sign
// of life. An error in mid-stream is a last line {"problem": ...}.

// streamPulse is how often an idle stream says that it is alive.
const streamPulse = 10 * time.Second

// maxLine bounds one line of a stream in bytes.
const maxLine = 4 << 20

// lastLine is how a stream tells that it ended with an error.
type lastLine struct {
	Problem *Problem `json:"problem"`
}

// lines writes one stream.
type lines struct {
	mu  sync.Mutex // guards w
	w   io.Writer
	rc  *http.ResponseController
	err error
	// until is the deadline of writing. It is set anew when a third of it has passed,
	// because setting it costs as much as writing a line.
	until time.Time
}

// send writes one item, at once.
func (l *lines) send(item any) error {
	b, err := json.Marshal(item)
	if err != nil {
		return err
	}
	return l.write(append(b, '\n'))
}

func (l *lines) write(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writeLocked(b)
}

func (l *lines) writeLocked(b []byte) error {
	if l.err != nil {
		return l.err
	}
	if now := time.Now(); l.until.Sub(now) < 2*streamPulse {
		l.until = now.Add(3 * streamPulse)
		_ = l.rc.SetWriteDeadline(l.until)
	}
	if _, l.err = l.w.Write(b); l.err == nil {
		l.err = l.rc.Flush()
	}
	return l.err
}

// pulse writes signs of life until ctx ends; then, or when the other end is
// gone, it calls cancel.
func (l *lines) pulse(ctx context.Context, cancel context.CancelFunc) {
	defer cancel()
	t := time.NewTicker(streamPulse)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if l.write([]byte{'\n'}) != nil {
				return
			}
		}
	}
}

// streamed is a huma answer that run writes item by item. The status is 200 from
// the first byte on, so whatever can be checked is checked before.
func (s *Server) streamed(run func(ctx context.Context, send func(item any) error) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		s.serveLines(w, r, run)
	}}
}

func (s *Server) serveLines(w http.ResponseWriter, r *http.Request, run func(ctx context.Context, send func(item any) error) error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Accel-Buffering", "no") // nginx in front: do not wait for more
	ctx, cancel := context.WithCancel(r.Context())
	defer context.AfterFunc(s.ctx, cancel)()
	l := &lines{w: w, rc: http.NewResponseController(w)}
	_ = l.rc.SetReadDeadline(time.Time{})
	if l.write(nil) != nil { // the head, so that the client knows that it has begun
		cancel()
		return
	}
	var pulse sync.WaitGroup
	pulse.Go(func() { l.pulse(ctx, cancel) })
	err := run(ctx, l.send)
	denied := context.Cause(ctx)
	if errors.Is(denied, bulkhead.ErrDenied) {
		err = denied
	}
	if err != nil && (ctx.Err() == nil || err == denied) {
		_ = l.send(lastLine{asProblem(s.logged(r.Context(), err))})
	}
	cancel()
	pulse.Wait()
}

// readLines calls yield for every item of a stream until it ends.
func readLines[T any](r io.Reader, yield func(T) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	for sc.Scan() {
		if len(sc.Bytes()) == 0 {
			continue
		}
		var last lastLine
		if json.Unmarshal(sc.Bytes(), &last) == nil && last.Problem != nil {
			return last.Problem.Err()
		}
		var item T
		if err := json.Unmarshal(sc.Bytes(), &item); err != nil {
			return bulkhead.Errorf(bulkhead.ErrUnavailable, "the stream broke: %w", err)
		}
		if err := yield(item); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil && !errors.Is(err, context.Canceled) {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "the stream broke: %w", err)
	}
	return nil
}
