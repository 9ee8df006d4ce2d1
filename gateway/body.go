package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// body is a request's body that cuts clients which trickle: while it is read, at
// least atLeast bytes must come in every stall. Time in which nobody reads,
// because the backend is slow, does not count.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	stall   time.Duration // 0: may rest
	atLeast int
	streams bool // see exchange

	waited time.Duration // in this window
	got    int           // in this window

	read  atomic.Bool // has begun; the request cannot be sent again
	whole atomic.Bool // was read to its end
	end   atomic.Pointer[error]
}

// Read reads within what is left of the window.
func (b *body) Read(p []byte) (int, error) {
	b.read.Store(true)
	if b.stall == 0 {
		return b.note(b.ReadCloser.Read(p))
	}
	start := time.Now()
	// Errors of deadlines mean a writer that knows none, as in tests of others.
	_ = b.control.SetReadDeadline(start.Add(b.stall - b.waited))
	n, err := b.ReadCloser.Read(p)
	if b.streams {
		// A deadline that stays would end the stream while the backend thinks. On
		// HTTP/1 it does no harm between reads, net/http takes it away at the
		// body's end, and until then it limits the server itself when that reads
		// what is left.
		_ = b.control.SetReadDeadline(time.Time{})
	}
	if b.got += n; b.got >= b.atLeast {
		b.got, b.waited = 0, 0
	} else {
		b.waited += time.Since(start)
	}
	return b.note(n, err)
}

// note remembers whether a body came to its end, or why it broke off.
func (b *body) note(n int, err error) (int, error) {
	switch err {
	case nil:
	case io.EOF:
		b.whole.Store(true)
	default:
		b.end.Store(&err)
	}
	return n, err
}

// broken is why the body ended before its end, or nil. Like the methods after
// it, it may be called on nil, the body of a request without.
func (b *body) broken() error {
	if b == nil {
		return nil
	}
	if err := b.end.Load(); err != nil {
		return *err
	}
	return nil
}

func (b *body) stalled() bool { return errors.Is(b.broken(), os.ErrDeadlineExceeded) }

func (b *body) tooLarge() bool {
	var e *http.MaxBytesError
	return errors.As(b.broken(), &e)
}

// unclosable keeps a body open when a backend has refused the connection, so
// that another one can have it.
type unclosable struct{ io.Reader }

func (unclosable) Close() error { return nil }
