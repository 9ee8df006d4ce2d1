package api

import (
	"context"
	"encoding/json"
	"io"
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
	ctx    context.Context
	cancel context.CancelFunc
}

func newLineConn(w http.ResponseWriter, body io.Reader, now func() time.Time) *lineConn {
	c := &lineConn{lines: &lines{w: w, rc: http.NewResponseController(w)}, now: now, body: body}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.dec = json.NewDecoder(c)
	c.hear()
	return c
}

func (c *lineConn) hear()            { c.heard.Store(c.now().UnixNano()) }
func (c *lineConn) Heard() time.Time { return time.Unix(0, c.heard.Load()) }

func (c *lineConn) Receive() (r bulkhead.NodeReport, err error) { return r, c.dec.Decode(&r) }

func (c *lineConn) Send(o bulkhead.NodeOrder) error { return c.send(o) }

func (c *lineConn) Close() {
	c.cancel()
	_ = c.rc.SetReadDeadline(time.Now())
}

// Read reads the body, with a deadline for signs of life. Close first ends ctx and
// then sets a deadline in the past: that ends the reading, whatever it is about to do.
func (c *lineConn) Read(p []byte) (int, error) {
	_ = c.rc.SetReadDeadline(time.Now().Add(nodeSilence))
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.body.Read(p)
	if n > 0 {
		c.hear()
	}
	return n, err
}

// pulse gives signs of life until Close.
func (c *lineConn) pulse() {
	t := time.NewTicker(nodePulse)
	defer t.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-t.C:
			if c.write([]byte{'\n'}) != nil {
				c.Close() // it cannot hear us
				return
			}
		}
	}
}
