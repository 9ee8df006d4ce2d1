package api

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"bulkhead"
)

// NodeConn carries one session of a node: orders one way, reports the other.
// NodeHandler makes one of an HTTP/2 request; what brings messages in another way, as
// the simulation's network does, has its own.
type NodeConn interface {
	// Receive waits for the next report. It fails when the node has hung up or was
	// silent for too long, and after Close.
	Receive() (bulkhead.NodeReport, error)
	Send(o bulkhead.NodeOrder) error
	// Heard is when the node was last heard.
	Heard() time.Time
	// Close ends Receive. It may be called more than once.
	Close()
}

// tellMany sends what many are told: encoded once for all, if conn takes lines.
func tellMany(conn NodeConn, news *news) error {
	to, ok := conn.(*lineConn)
	if !ok {
		return conn.Send(news.order)
	}
	line, err := news.line()
	if err != nil {
		return err
	}
	return to.write(line)
}

// lineConn is a NodeConn of lines of JSON, in the body of a request and in its answer.
type lineConn struct {
	*lines
	now    func() time.Time
	body   io.Reader
	dec    *json.Decoder
	heard  atomic.Int64 // as nanoseconds of Unix time
	closed atomic.Bool
	// pulse gives a sign of life, and silence closes the connection when the node gives
	// none: timers, because there may be thousands of sessions, and a deadline for each
	// read would cost more than the read.
	pulse, silence *time.Timer
}

func newLineConn(w http.ResponseWriter, body io.Reader, now func() time.Time) *lineConn {
	c := &lineConn{lines: &lines{w: w, rc: http.NewResponseController(w)}, now: now, body: body}
	c.dec = json.NewDecoder(c)
	c.hear()
	return c
}

// live gives signs of life from now on, and wants some, until end.
func (c *lineConn) live() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulse = time.AfterFunc(nodePulse, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.err != nil: // who was told so has closed, or will
		case c.writeLocked([]byte{'\n'}) != nil:
			c.Close() // it cannot hear us
		default:
			c.pulse.Reset(nodePulse)
		}
	})
	c.silence = time.AfterFunc(nodeSilence, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err == nil {
			c.Close()
		}
	})
}

// end returns when nothing is written any more, so that the answer can be given back.
func (c *lineConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, net.ErrClosed)
	c.pulse.Stop()
	c.silence.Stop()
}

func (c *lineConn) hear()            { c.heard.Store(c.now().UnixNano()) }
func (c *lineConn) Heard() time.Time { return time.Unix(0, c.heard.Load()) }

func (c *lineConn) Receive() (r bulkhead.NodeReport, err error) { return r, c.dec.Decode(&r) }

func (c *lineConn) Send(o bulkhead.NodeOrder) error { return c.send(o) }

func (c *lineConn) Close() {
	c.closed.Store(true)
	_ = c.rc.SetReadDeadline(time.Now())
}

// Read reads the body.
func (c *lineConn) Read(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.body.Read(p)
	if n > 0 {
		c.hear()
		c.silence.Reset(nodeSilence)
	}
	return n, err
}
