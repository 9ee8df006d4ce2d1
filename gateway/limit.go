package gateway

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// limit bounds the client connections, in all and per client. A client is an
// IPv4 address or an IPv6 /64, the smallest part that one customer is given.
// Trusted proxies count in all only, because many clients are behind each; so
// does the machine itself, for tunnels and proxies that run beside the gateway.
type limit struct {
	inAll, perClient int
	trusted          []netip.Prefix

	mu      sync.Mutex // guards the fields below
	count   int
	clients map[netip.Addr]int
}

func (l *limit) client(a netip.Addr) (_ netip.Addr, limited bool) {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() || within(l.trusted, a) {
		return a, false
	}
	if a.Is6() {
		p, _ := a.Prefix(64)
		a = p.Addr()
	}
	return a, true
}

// enter counts a connection in. Otherwise it names the limit that it met.
func (l *limit) enter(from netip.Addr) (met string) {
	client, limited := l.client(from)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count >= l.inAll {
		return "total"
	}
	if limited {
		if l.clients[client] >= l.perClient {
			return "client"
		}
		if l.clients == nil {
			l.clients = make(map[netip.Addr]int)
		}
		l.clients[client]++
	}
	l.count++
	return ""
}

// leave counts a connection out that enter has counted in.
func (l *limit) leave(from netip.Addr) {
	client, limited := l.client(from)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count--
	if !limited {
		return
	}
	if l.clients[client]--; l.clients[client] == 0 {
		delete(l.clients, client)
	}
}

func (l *limit) open() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.count)
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// listener takes connections as far as the limit goes and closes others with a
// reset, which costs neither side anything more.
type listener struct {
	*net.TCPListener
	limit   *limit
	stall   time.Duration
	refused func(met string)
}

// Accept waits for the next connection within the limit.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if met := l.limit.enter(from); met != "" {
			l.refused(met)
			_ = c.SetLinger(0)
			_ = c.Close()
			continue
		}
		return &conn{TCPConn: c, stall: l.stall, leave: sync.OnceFunc(func() { l.limit.leave(from) })}, nil
	}
}

// conn is a client's connection. A client that takes nothing of a write for the
// stall time is cut.
type conn struct {
	*net.TCPConn
	stall    time.Duration
	extended atomic.Int64 // when the deadline was last moved, nanoseconds of Unix time
	leave    func()
}

// Write moves the deadline only when a sixteenth of it has passed, because most
// writes follow each other closely.
func (c *conn) Write(p []byte) (int, error) {
	now := time.Now()
	if now.UnixNano()-c.extended.Load() > int64(c.stall/16) {
		c.extended.Store(now.UnixNano())
		if err := c.TCPConn.SetWriteDeadline(now.Add(c.stall)); err != nil {
			return 0, err
		}
	}
	return c.TCPConn.Write(p)
}

// SetDeadline and SetWriteDeadline are how net/http takes deadlines away, after
// a handshake and at an upgrade: the next Write sets its own again.
func (c *conn) SetDeadline(t time.Time) error {
	c.extended.Store(0)
	return c.TCPConn.SetDeadline(t)
}

// SetWriteDeadline: see SetDeadline.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.extended.Store(0)
	return c.TCPConn.SetWriteDeadline(t)
}

// ReadFrom keeps io.Copy from passing by Write, as WebSockets would otherwise.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// Close counts the connection out.
func (c *conn) Close() error {
	c.leave()
	return c.TCPConn.Close()
}
