// Package gateway is the front door: it takes the requests of the users of all
// stamps and hands each to a healthy task of the stamp that its host and path
// name.
//
// It is the standard library's server and reverse proxy around an immutable
// table: SetRoutes builds a new one and puts it in place, while requests go on
// with the one they began with. HTTP/1.1, HTTP/2 and HTTP/3 come in; HTTP/1.1,
// and HTTP/2 for gRPC, go out. Requests for a stamp that is starting or moving
// are held for a moment instead of being refused. Certificates come from ACME
// by CertMagic, for internal names from the gateway's own authority.
//
// It is not a web server and knows no users: it serves nothing itself but short
// pages that say why not. It decides nothing about routes either; they come
// from plan, by way of the daemon.
//
// Start at Gateway.ServeHTTP (exchange.go) for the way of a request, at table.go
// for what decides where it goes.
package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sync/errgroup"

	"bulkhead"
)

// Config says how a gateway listens and what it bears. The zero value of every
// field but HTTP means the default given there.
type Config struct {
	HTTP  string // address for HTTP/1.1 and HTTP/2 without TLS, "host:port"; required
	HTTPS string // address for TLS, and over UDP for HTTP/3; empty: none
	Data  string // folder for certificates and their keys; required with HTTPS

	Email   string         // of who answers for the certificates, given to the ACME authority; may be empty
	CA      string         // URL of the ACME directory; default: Let's Encrypt
	CARoots *x509.CertPool // whom to trust when speaking with CA; default: the system's

	// TrustedProxies are the networks whose X-Forwarded headers are believed and
	// extended. Headers from everywhere else are replaced. Default: none.
	TrustedProxies []netip.Prefix

	// Hold is the longest time that a request waits for its stamp; default 15 s. A move
	// that is cut off is taken back after the servers' lease (controller.Config.Lease,
	// 10 s), not earlier, and the stamp has to start again then.
	Hold         time.Duration
	HoldPerStamp int // requests that may wait for one stamp; default 768
	HoldInAll    int // requests that may wait at all; default 4,096

	HeaderBytes   int           // largest header of a request; default 32 KiB
	HeaderTimeout time.Duration // for a header to arrive, and for a TLS handshake; default 10 s
	IdleTimeout   time.Duration // between two requests of a connection; default 90 s
	// StallTimeout and StallBytes cut slow clients: while its body is awaited, a
	// client must send StallBytes in every StallTimeout; while it is sent to, it
	// must take something. Defaults 30 s and 1 KiB. gRPC requests and WebSockets
	// may rest.
	StallTimeout time.Duration
	StallBytes   int
	// MaxBody is the largest body of a request in bytes. Default 0: no limit,
	// because bodies are streamed and cost the gateway no memory; what is too
	// large, the backend knows better.
	MaxBody int64

	MaxConnections int // client connections; default 16,384
	// MaxConnectionsPerClient limits each IPv4 address and each IPv6 /64; default
	// 512. Trusted proxies and the machine itself are exempt.
	MaxConnectionsPerClient int
	MaxStreams              int // concurrent requests of an HTTP/2 or HTTP/3 connection; default 100

	// Hop dials the gateway of another node, over mutual TLS, for one of the
	// protocols (of ALPN) that are offered. Nil: stamps of other nodes are not reached.
	Hop func(ctx context.Context, node bulkhead.NodeName, protocols ...string) (net.Conn, error)

	Drain time.Duration // for requests in flight to end when the gateway stops; default 10 s

	Registerer prometheus.Registerer // nil: metrics are kept but not shown
	Logger     *slog.Logger          // nil: nothing is logged
}

// withDefaults checks c and fills in its defaults.
func (c Config) withDefaults() (Config, error) {
	var faults []bulkhead.Fault
	for _, a := range []struct {
		name, value string
		required    bool
	}{{"HTTP", c.HTTP, true}, {"HTTPS", c.HTTPS, false}} {
		if _, p, err := net.SplitHostPort(a.value); a.value == "" && a.required || a.value != "" && (err != nil || !validPort(p)) {
			faults = append(faults, bulkhead.Fault{Where: a.name, Message: fmt.Sprintf("%q is not an address like :8080 or 127.0.0.1:8080", a.value)})
		}
	}
	if c.HTTPS != "" && c.Data == "" {
		faults = append(faults, bulkhead.Fault{Where: "Data", Message: "HTTPS needs a folder for certificates"})
	}
	setDefault(&faults, "Hold", &c.Hold, 15*time.Second)
	setDefault(&faults, "HoldPerStamp", &c.HoldPerStamp, 768)
	setDefault(&faults, "HoldInAll", &c.HoldInAll, 4096)
	setDefault(&faults, "HeaderBytes", &c.HeaderBytes, 32<<10)
	setDefault(&faults, "HeaderTimeout", &c.HeaderTimeout, 10*time.Second)
	setDefault(&faults, "IdleTimeout", &c.IdleTimeout, 90*time.Second)
	setDefault(&faults, "StallTimeout", &c.StallTimeout, 30*time.Second)
	setDefault(&faults, "StallBytes", &c.StallBytes, 1<<10)
	setDefault(&faults, "MaxBody", &c.MaxBody, 0)
	setDefault(&faults, "MaxConnections", &c.MaxConnections, 16_384)
	setDefault(&faults, "MaxConnectionsPerClient", &c.MaxConnectionsPerClient, 512)
	setDefault(&faults, "MaxStreams", &c.MaxStreams, 100)
	setDefault(&faults, "Drain", &c.Drain, 10*time.Second)
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, bulkhead.Faulty("the gateway's configuration is wrong", faults)
}

func setDefault[T int | int64 | time.Duration](faults *[]bulkhead.Fault, name string, v *T, standard T) {
	if *v < 0 {
		*faults = append(*faults, bulkhead.Fault{Where: name, Message: "is negative"})
	}
	if *v == 0 {
		*v = standard
	}
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// Gateway is the front door of a node.
type Gateway struct {
	config       Config
	log          *slog.Logger
	metrics      *metrics
	limit        limit
	hold         hold
	table        atomic.Pointer[table]
	buffers      buffers
	http1, http2 *http.Transport
	// hop1 and hop2 are the same to gateways of other nodes; nil without Config.Hop.
	hop1, hop2   *http.Transport
	certificates *certificates // nil: no HTTPS
	altSvc       []string      // nil: no HTTPS

	// What every exchange gives its proxy, made once.
	proxyLog  *stdlog.Logger
	rewriting func(*httputil.ProxyRequest)
	// rewritingHopped is for requests that another gateway hands over.
	rewritingHopped func(*httputil.ProxyRequest)
	failing         func(http.ResponseWriter, *http.Request, error)

	// gate is held for reading by every exchange; who drains takes it for good.
	gate sync.RWMutex

	mu       sync.Mutex // guards the fields below, which only SetRoutes uses
	stamps   map[bulkhead.StampName]*stamp
	backends map[string]*backend // by address
	leaving  []*backend          // no more in the table, and not at rest when they left it

	// Set by Listen.
	plain, secure *net.TCPListener
	quic          *net.UDPConn
}

// New makes a gateway with an empty table. Faults of the configuration are one
// error of kind ErrInvalid.
func New(config Config) (*Gateway, error) {
	c, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		config:   c,
		log:      c.Logger,
		metrics:  newMetrics(),
		limit:    limit{inAll: c.MaxConnections, perClient: c.MaxConnectionsPerClient, trusted: c.TrustedProxies},
		hold:     hold{longest: c.Hold, perStamp: int64(c.HoldPerStamp), inAll: int64(c.HoldInAll)},
		stamps:   make(map[bulkhead.StampName]*stamp),
		backends: make(map[string]*backend),
		http1:    newTransport(),
		http2:    newTransport(),
	}
	g.http2.Protocols = new(http.Protocols)
	g.http2.Protocols.SetUnencryptedHTTP2(true)
	if c.Hop != nil {
		d := newDoors()
		g.hop1, g.hop2 = newHop(c.Hop, d, "http/1.1"), newHop(c.Hop, d, "h2")
	}
	g.proxyLog = slog.NewLogLogger(c.Logger.Handler(), slog.LevelDebug)
	g.rewriting, g.rewritingHopped, g.failing = g.rewrite, g.rewriteHopped, g.fail
	empty, _ := newTable(nil, nil, nil)
	g.table.Store(empty)
	if err := g.metrics.register(c.Registerer, &g.hold, &g.limit); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return g, nil
}

// newTransport is how requests reach backends: machines of our own, close by, so
// without proxy, name service, compression or TLS.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    512,
		IdleConnTimeout:        time.Minute,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// buffers lends the proxy what it copies answers through.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return p[:]
	}
	return new([32 << 10]byte)[:]
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }

// SetRoutes puts a new table in place of the old one. Requests in flight are not
// touched, held ones look again. A route that cannot work is left out with a
// warning; of two for the same host and path the first one counts.
func (g *Gateway) SetRoutes(routes []bulkhead.Route) {
	g.mu.Lock()
	defer g.mu.Unlock()
	stamps := make(map[bulkhead.StampName]*stamp)
	backends := make(map[string]*backend)
	next, faults := newTable(routes, func(name bulkhead.StampName) *stamp {
		return keep(stamps, g.stamps, name, func() *stamp { return &stamp{name: name} })
	}, func(address string) *backend {
		return keep(backends, g.backends, address, func() *backend { return &backend{address: address} })
	})
	for _, f := range faults {
		g.log.Warn("route left out", "route", f.Where, "why", f.Message)
	}
	previous := g.table.Swap(next)
	close(previous.replaced)
	for name, s := range g.stamps {
		if stamps[name] == nil {
			g.metrics.forget(s)
		}
	}
	for address, b := range g.backends {
		if backends[address] == nil {
			g.leaving = append(g.leaving, b)
		}
	}
	g.leaving = slices.DeleteFunc(g.leaving, (*backend).rests)
	g.stamps, g.backends = stamps, backends
}

// answerMost is how long Rest waits for answers that have begun: some of them, such as
// feeds of events, never end.
const answerMost = time.Second

// Rest waits until no request is on its way to an address that SetRoutes has taken out
// of the table, or ctx ends: then what listens there can be stopped. Answers that have
// begun get a moment to end, upgraded connections none: they end with what listens there.
func (g *Gateway) Rest(ctx context.Context, address netip.Addr) {
	g.mu.Lock()
	busy := slices.Clone(g.leaving)
	g.mu.Unlock()
	busy = slices.DeleteFunc(busy, func(b *backend) bool {
		at, err := netip.ParseAddrPort(b.address)
		return err != nil || at.Addr() != address
	})
	began := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		late := time.Since(began) > answerMost
		busy = slices.DeleteFunc(busy, func(b *backend) bool {
			return b.rests() || late && b.inFlight.Load() <= b.answering.Load()
		})
		if len(busy) == 0 {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// rests tells whether no request is on its way to the backend.
func (b *backend) rests() bool { return b.inFlight.Load() <= b.upgraded.Load() }

// keep carries an entry over from the previous table's, or makes it.
func keep[K comparable, V any](next, previous map[K]*V, key K, make func() *V) *V {
	v := next[key]
	if v == nil {
		v = previous[key]
	}
	if v == nil {
		v = make()
	}
	next[key] = v
	return v
}

// Handler serves requests as the gateway does, without its listeners and their
// limits. For tests.
func (g *Gateway) Handler() http.Handler { return g }

// Root is the certificate, in PEM, of the authority that signs for internal
// names such as *.localhost: who trusts it gets no warnings there. It can sign
// for no other names. Empty without HTTPS or before Listen.
func (g *Gateway) Root() []byte {
	if g.certificates == nil {
		return nil
	}
	return slices.Clone(g.certificates.authority.pem)
}

// Listen opens the addresses and the certificate authority's files, or says in
// one line what it cannot open. It starts nothing. Connections wait for Run.
func (g *Gateway) Listen() (err error) {
	defer func() {
		if err != nil {
			_ = g.Close()
		}
	}()
	if g.plain, err = listenTCP("HTTP", g.config.HTTP); err != nil {
		return err
	}
	if g.config.HTTPS == "" {
		return nil
	}
	a, err := openAuthority(filepath.Join(g.config.Data, "authority"), time.Now())
	if err != nil {
		return err
	}
	if g.secure, err = listenTCP("HTTPS", g.config.HTTPS); err != nil {
		return err
	}
	at := g.secure.Addr().(*net.TCPAddr)
	if g.quic, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at.AddrPort())); err != nil {
		return listenError("HTTP/3", "UDP "+g.config.HTTPS, err)
	}
	g.altSvc = []string{fmt.Sprintf(`h3=":%d"; ma=86400`, at.Port)}
	g.certificates = &certificates{authority: a, known: func(h bulkhead.Host) bool { return g.table.Load().hosts[h] != nil }}
	return nil
}

func listenTCP(purpose, address string) (*net.TCPListener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, listenError(purpose, address, err)
	}
	return l.(*net.TCPListener), nil
}

func listenError(purpose, address string, err error) error {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "listen on %s for %s: %w", address, purpose, err)
	}
	switch no {
	case syscall.EADDRINUSE:
		return bulkhead.Errorf(bulkhead.ErrConflict, "port in use: cannot listen on %s for %s", address, purpose).
			WithHint("stop what listens there (ss -ltnup shows it), or choose another address (bulkhead up --http, --https)")
	case syscall.EACCES:
		return bulkhead.Errorf(bulkhead.ErrDenied, "may not listen on %s for %s", address, purpose).
			WithHint("ports below 1024 need root or CAP_NET_BIND_SERVICE")
	}
	return bulkhead.Errorf(bulkhead.ErrUnavailable, "cannot listen on %s for %s: %s", address, purpose, no)
}

// Addr is where the gateway listens for HTTP, nil before Listen.
func (g *Gateway) Addr() net.Addr {
	if g.plain == nil {
		return nil
	}
	return g.plain.Addr()
}

// SecureAddr is where it listens for HTTPS and HTTP/3, nil without or before Listen.
func (g *Gateway) SecureAddr() net.Addr {
	if g.secure == nil {
		return nil
	}
	return g.secure.Addr()
}

// Close gives up what Listen has opened. Run does so itself.
func (g *Gateway) Close() error {
	var errs []error
	if g.plain != nil {
		errs = append(errs, g.plain.Close())
	}
	if g.secure != nil {
		errs = append(errs, g.secure.Close())
	}
	if g.quic != nil {
		errs = append(errs, g.quic.Close())
	}
	return errors.Join(errs...)
}

// Run serves until ctx is done. Then it takes no more connections, lets requests
// in flight end for at most the drain time, hangs up WebSockets, and returns when
// all handlers have. It can run once.
func (g *Gateway) Run(ctx context.Context) error {
	if g.plain == nil {
		if err := g.Listen(); err != nil {
			return err
		}
	}
	defer g.Close() // closed already unless serving did not begin
	base, hangUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer hangUp(nil)

	servers := []*http.Server{g.newServer(base)}
	var h3 *http3.Server
	var h3Listener *quic.EarlyListener
	if g.secure != nil {
		g.certificates.start(g.config, g.plain.Addr(), g.secure.Addr(), g.log)
		defer g.certificates.stop()
		secure := g.newServer(base)
		secure.TLSConfig = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: g.certificates.get,
			NextProtos:     []string{"h2", "http/1.1", alpnACME},
		}
		servers = append(servers, secure)

		transport := g.newQUIC()
		defer transport.Close()
		var err error
		h3Listener, err = transport.ListenEarly(http3.ConfigureTLSConfig(secure.TLSConfig), &quic.Config{
			MaxIncomingStreams:   int64(g.config.MaxStreams),
			HandshakeIdleTimeout: g.config.HeaderTimeout,
			MaxIdleTimeout:       g.config.IdleTimeout,
		})
		if err != nil {
			return fmt.Errorf("listen for HTTP/3: %w", err)
		}
		h3 = &http3.Server{Handler: g, MaxHeaderBytes: g.config.HeaderBytes, IdleTimeout: g.config.IdleTimeout, Logger: slog.New(slog.DiscardHandler)}
	}

	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return serving("HTTP", servers[0].Serve(g.listener(g.plain))) })
	if h3 != nil {
		group.Go(func() error { return serving("HTTPS", servers[1].ServeTLS(g.listener(g.secure), "", "")) })
		group.Go(func() error { return serving("HTTP/3", h3.ServeListener(h3Listener)) })
	}
	group.Go(func() error {
		<-running.Done()
		if h3 != nil {
			_ = h3Listener.Close() // open connections go on
		}
		g.drain(servers, h3, hangUp)
		return nil
	})
	err := group.Wait()
	g.http1.CloseIdleConnections()
	g.http2.CloseIdleConnections()
	if g.hop1 != nil {
		g.hop1.CloseIdleConnections()
		g.hop2.CloseIdleConnections()
	}
	return err
}

// serving names what err ended, if it was not the drain.
func serving(what string, err error) error {
	if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, quic.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", what, err)
}

func (g *Gateway) listener(l *net.TCPListener) *listener {
	return &listener{TCPListener: l, limit: &g.limit, stall: g.config.StallTimeout, refused: g.refused}
}

func (g *Gateway) refused(met string) { g.metrics.refused.WithLabelValues(met).Inc() }

func (g *Gateway) newServer(base context.Context) *http.Server {
	s := &http.Server{
		Handler:           g,
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: g.config.HeaderTimeout,
		IdleTimeout:       g.config.IdleTimeout,
		MaxHeaderBytes:    g.config.HeaderBytes,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: g.config.MaxStreams,
			// What a client may send ahead of a backend that does not read.
			MaxReceiveBufferPerStream:     256 << 10,
			MaxReceiveBufferPerConnection: 1 << 20,
			SendPingTimeout:               30 * time.Second,
		},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true) // gRPC without TLS, in development and behind other proxies
	return s
}

// newQUIC puts the limit on QUIC connections too. When there are many, clients
// must first show that their address is theirs.
func (g *Gateway) newQUIC() *quic.Transport {
	return &quic.Transport{
		Conn:                g.quic,
		VerifySourceAddress: func(net.Addr) bool { return g.limit.open() > int64(g.config.MaxConnections/4) },
		ConnContext: func(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
			from := client.RemoteAddr.(*net.UDPAddr).AddrPort().Addr()
			if met := g.limit.enter(from); met != "" {
				g.refused(met)
				return nil, errors.New("too many connections")
			}
			context.AfterFunc(ctx, func() { g.limit.leave(from) })
			return ctx, nil
		},
	}
}

// drain ends the servers, politely as long as the drain time lasts. h3 may be nil.
func (g *Gateway) drain(servers []*http.Server, h3 *http3.Server, hangUp context.CancelCauseFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), g.config.Drain)
	defer cancel()
	var servings, farewell sync.WaitGroup
	if h3 != nil {
		farewell.Go(func() { _ = h3.Shutdown(ctx) }) // waits for idle connections too
	}
	for _, s := range servers {
		servings.Go(func() {
			if s.Shutdown(ctx) != nil {
				_ = s.Close()
			}
		})
	}
	servings.Wait()
	// What is left of HTTP/1 and 2 are upgraded connections, which Shutdown does
	// not know, or the drain time is over.
	hangUp(errDraining)
	ended := make(chan struct{})
	go func() {
		g.gate.Lock()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	if h3 != nil {
		_ = h3.Close()
		farewell.Wait()
	}
	<-ended
}
