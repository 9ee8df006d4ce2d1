package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"time"

	"bulkhead"
)

// Why a request gets no backend.
var (
	errNoRoute      = errors.New("no route")
	errDown         = errors.New("stamp is down")
	errHoldFull     = errors.New("too many requests are held")
	errHeldTooLong  = errors.New("held too long")
	errNoBackend    = errors.New("no backend takes connections")
	errBodyConsumed = errors.New("body was read already")
	errDraining     = errors.New("gateway is stopping")
)

// exchange is one request on its way: the writer of its answer, the transport
// that finds it a backend, and what is known of it so far.
type exchange struct {
	http.ResponseWriter
	proxy   httputil.ReverseProxy
	gateway *Gateway
	control *http.ResponseController // of ResponseWriter
	start   time.Time
	host    bulkhead.Host
	table   *table
	route   *route   // of table; nil: none
	backend *backend // that has the request
	body    *body    // nil: the request has none
	status  int
	// streams tells that the connection carries several exchanges, so that a
	// deadline of the connection says nothing about this one's client.
	streams bool
	hopped  bool // another gateway has handed it over
	// As the backend counts it.
	answering, upgraded bool
}

// ServeHTTP answers a request, the gateway's only task. The way from here:
// admit and table.route; ReverseProxy, which calls rewrite, exchange.RoundTrip, and fail
// if there was an error.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.serve(w, r, false) }

// serve is ServeHTTP; hopped says that another gateway hands the request over.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, hopped bool) {
	if !g.gate.TryRLock() {
		w.Header().Set("Connection", "close")
		pageStarting.write(w, r)
		return
	}
	defer g.gate.RUnlock()
	g.metrics.inFlight.Inc()
	defer g.metrics.inFlight.Dec()

	x := &exchange{ResponseWriter: w, gateway: g, hopped: hopped, start: time.Now(), streams: r.ProtoMajor > 1}
	defer x.finish(r) // also when the proxy panics because the answer broke off
	if x.streams || r.ContentLength != 0 {
		x.control = http.NewResponseController(w)
	}
	if g.altSvc != nil && !hopped && r.TLS != nil && r.ProtoMajor < 3 {
		w.Header()["Alt-Svc"] = g.altSvc
	}
	if r.TLS == nil && !hopped && g.certificates != nil && g.certificates.challenge(x, r) {
		return
	}
	host, refusal := admit(r)
	if refusal != nil {
		refusal.write(x, r)
		return
	}
	x.host = host
	x.table = g.table.Load()
	x.route = x.table.route(host, r.URL.Path)
	switch {
	case hopped && (x.route == nil && x.table.hosts[host] == nil || x.route != nil && x.route.hop):
		refuseHop(x)
		return
	case x.route == nil:
		pageNotFound.write(x, r)
		return
	case x.route.down:
		pageDown.write(x, r)
		return
	case g.config.MaxBody > 0 && r.ContentLength > g.config.MaxBody:
		pageTooLarge.write(x, r)
		return
	}
	if r.ContentLength != 0 {
		r = x.guardBody(r)
	}
	if u := r.Header["Upgrade"]; u != nil && !strings.EqualFold(u[0], "websocket") {
		// Other protocols, such as h2c, would hide requests from the table.
		delete(r.Header, "Upgrade")
	}
	rewriting := g.rewriting
	if hopped {
		rewriting = g.rewritingHopped
	}
	// A proxy of its own, with itself as transport, is the cheapest way for an
	// exchange to pass through: one allocation and no search in contexts.
	x.proxy = httputil.ReverseProxy{Rewrite: rewriting, Transport: x, BufferPool: &g.buffers, ErrorHandler: g.failing, ErrorLog: g.proxyLog}
	x.proxy.ServeHTTP(x, r)
	if hopped {
		x.heard(r)
	}
}

// admit is the host that a request is for, or the page that refuses it.
func admit(r *http.Request) (bulkhead.Host, *page) {
	if r.Method == http.MethodConnect {
		return "", &pageMethod
	}
	if s := r.URL.Scheme; s != "" && s != "http" && s != "https" {
		return "", &pageBadRequest
	}
	host, ok := parseHost(r.Host)
	if !ok || !strings.HasPrefix(r.URL.Path, "/") {
		return "", &pageBadRequest
	}
	if r.TLS != nil && r.TLS.ServerName != "" {
		// A certificate shown for one host must not carry requests to another.
		if name, ok := parseHost(r.TLS.ServerName); !ok || name != host {
			return "", &pageMisdirected
		}
	}
	return host, nil
}

// guardBody puts the limits on the request's body, in a copy: the server looks
// at the body of the original to know whether the connection can go on.
func (x *exchange) guardBody(r *http.Request) *http.Request {
	c := &x.gateway.config
	guarded := r.WithContext(r.Context())
	if c.MaxBody > 0 {
		guarded.Body = http.MaxBytesReader(x.ResponseWriter, r.Body, c.MaxBody)
	}
	x.body = &body{ReadCloser: guarded.Body, control: x.control, stall: c.StallTimeout, atLeast: c.StallBytes, streams: x.streams}
	if isGRPC(r) {
		x.body.stall = 0 // its streams may rest for hours, as WebSockets do
	} else if !x.streams {
		// For what nobody reads, which the server does away with after the answer.
		_ = x.control.SetReadDeadline(x.start.Add(c.Hold + c.StallTimeout))
	}
	guarded.Body = x.body
	return guarded
}

// isGRPC tells whether a request speaks gRPC, which needs HTTP/2 all the way.
func isGRPC(r *http.Request) bool {
	if r.ProtoMajor < 2 {
		return false
	}
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// rewrite makes the request that the backend gets. It is what came, but for the
// headers about the client: those say what the gateway knows, not what the
// client claims.
func (g *Gateway) rewrite(p *httputil.ProxyRequest) {
	out, in := p.Out, p.In
	out.URL.Scheme = "http"
	out.URL.RawQuery = in.URL.RawQuery // the proxy drops what Go cannot parse; backends may
	for name := range out.Header {
		if aboutClient(name) {
			delete(out.Header, name)
		}
	}
	client := in.RemoteAddr
	if i := strings.LastIndexByte(client, ':'); i >= 0 {
		client = client[:i]
	}
	if strings.HasPrefix(client, "[") {
		client, _, _ = strings.Cut(strings.Trim(client, "[]"), "%")
	}
	// One allocation for the four values.
	v := &[4]string{client, in.Host, "http", client}
	if in.TLS != nil {
		v[2] = "https"
	}
	if len(g.config.TrustedProxies) > 0 {
		g.trust(in, v)
	}
	h := out.Header
	h["X-Forwarded-For"] = v[0:1:1]
	h["X-Forwarded-Host"] = v[1:2:2]
	h["X-Forwarded-Proto"] = v[2:3:3]
	h["X-Real-Ip"] = v[3:4:4]
}

// rewriteHopped is rewrite for what another gateway hands over: it has said who the
// client is.
func (g *Gateway) rewriteHopped(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme = "http"
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	for name, values := range p.In.Header {
		if aboutClient(name) {
			p.Out.Header[name] = values
		}
	}
	delete(p.Out.Header, "Expect") // between the gateways: see send
}

// aboutClient tells whether a header says who the client is. Many servers read
// underscores as hyphens, so both count.
func aboutClient(name string) bool {
	if len(name) < len("Forwarded") || (name[0] != 'X' && name[0] != 'F') {
		return false
	}
	if strings.IndexByte(name, '_') >= 0 {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	return strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" || name == "Forwarded"
}

// trust lets a trusted proxy speak for its client: v is changed to what it says.
func (g *Gateway) trust(in *http.Request, v *[4]string) {
	peer, err := netip.ParseAddr(v[0])
	if err != nil || !within(g.config.TrustedProxies, peer.Unmap()) {
		return
	}
	if chain := strings.Join(in.Header["X-Forwarded-For"], ", "); chain != "" {
		v[0] = chain + ", " + v[0]
		// The client is the last address that no trusted proxy vouches for.
		hops := strings.Split(chain, ",")
		for i := len(hops) - 1; i >= 0; i-- {
			a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
			if err != nil {
				break
			}
			v[3] = a.String()
			if !within(g.config.TrustedProxies, a.Unmap()) {
				break
			}
		}
	}
	if host := in.Header.Get("X-Forwarded-Host"); host != "" {
		v[1] = host
	}
	if proto := in.Header.Get("X-Forwarded-Proto"); proto == "http" || proto == "https" {
		v[2] = proto
	}
}

// RoundTrip sends the request to a backend of its route. While there is none, the
// request is held until a table says otherwise, as long as the hold lasts.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		body := unclosable{r.Body}
		r.Body = body
		if x.body != nil {
			// Lets the transport repeat a request of which nothing was sent because
			// an idle connection had just been closed.
			r.GetBody = func() (io.ReadCloser, error) {
				if x.body.read.Load() {
					return nil, errBodyConsumed
				}
				return body, nil
			}
		}
	}
	res, err := x.send(r)
	if err != errNoBackend { //nolint:errorlint // our own, never wrapped
		return res, err
	}

	h, stamp := &x.gateway.hold, x.route.stamp
	if !h.enter(stamp) {
		return nil, errHoldFull
	}
	defer h.leave(stamp)
	deadline := time.NewTimer(h.longest)
	defer deadline.Stop()
	for pause := 4 * time.Millisecond; ; pause = min(pause+pause/4, time.Second) { // a quarter of the wait
		again := pause
		if len(x.route.backends) == 0 {
			again = 0 // only a new table helps
		}
		if err := await(r.Context(), x.table, deadline, again); err != nil {
			return nil, err
		}
		x.table = x.gateway.table.Load()
		x.route = x.table.route(x.host, r.URL.Path)
		switch {
		case x.hopped && (x.route == nil && x.table.hosts[x.host] == nil || x.route != nil && x.route.hop):
			return nil, errAway
		case x.route == nil:
			return nil, errNoRoute
		case x.route.down:
			return nil, errDown
		}
		if res, err := x.send(r); err != errNoBackend {
			return res, err
		}
	}
}

// stands tells whether a backend is still the route's now that the request counts as
// on its way there: from then on Rest waits for it.
func (x *exchange) stands(r *http.Request, b *backend) bool {
	t := x.gateway.table.Load()
	if t == x.table {
		return true
	}
	now := t.route(x.host, r.URL.Path)
	return now != nil && slices.Contains(now.backends, b)
}

// send tries the route's backends until one takes the connection.
func (x *exchange) send(r *http.Request) (*http.Response, error) {
	transport := x.gateway.http1
	switch grpc := isGRPC(r); {
	case x.route.hop && x.gateway.hop1 == nil:
		return nil, errNoBackend
	case x.route.hop && grpc:
		transport, r.URL.Scheme = x.gateway.hop2, "https"
	case x.route.hop:
		transport, r.URL.Scheme = x.gateway.hop1, "https"
	case grpc:
		transport, r.URL.Scheme = x.gateway.http2, "http"
	default:
		r.URL.Scheme = "http"
	}
	if x.route.hop && x.body != nil {
		// The body stays here until the other gateway wants it: if it does not have
		// the stamp, the next one gets the request whole. The hop ends there.
		r.Header["Expect"] = []string{"100-continue"}
	}
	var tried []*backend
	for {
		b := x.route.pick(tried, x.start)
		if b == nil {
			return nil, errNoBackend
		}
		x.backend = b
		b.inFlight.Add(1)
		if !x.stands(r, b) {
			b.inFlight.Add(-1)
			x.backend = nil
			return nil, errNoBackend // which looks again
		}
		r.URL.Host = b.address
		res, err := transport.RoundTrip(r)
		if err == nil && x.route.hop && away(res) {
			b.inFlight.Add(-1)
			x.backend = nil
			if x.body.broken() != nil || x.body != nil && x.body.read.Load() {
				return nil, errAway // what was read of the body cannot be read again
			}
			b.refused.Store(time.Now().UnixNano())
			return nil, errNoBackend
		}
		if err == nil {
			if b.refused.Load() != 0 {
				b.refused.Store(0)
			}
			b.answering.Add(1)
			x.answering = true
			if res.StatusCode == http.StatusSwitchingProtocols {
				b.upgraded.Add(1)
				x.upgraded = true
			}
			return res, nil
		}
		b.inFlight.Add(-1)
		x.backend = nil
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" || r.Context().Err() != nil {
			return nil, err
		}
		// Nothing has been sent, so the next one may have it whatever it is.
		b.refused.Store(time.Now().UnixNano())
		x.gateway.metrics.redials.Inc()
		tried = append(tried, b)
	}
}

// fail answers a request that no backend has answered.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	x := w.(*exchange)
	p := pageBadGateway
	switch {
	case errors.Is(err, errNoRoute):
		p = pageNotFound
	case errors.Is(err, errAway) && x.hopped:
		refuseHop(x)
		return
	case errors.Is(err, errDown):
		p = pageDown
	case errors.Is(err, errHoldFull), errors.Is(err, errHeldTooLong), errors.Is(err, errAway), errors.Is(context.Cause(r.Context()), errDraining):
		p = pageStarting
	case x.body.stalled(): // before the context, which ends with every error of a connection
		p = pageTimeout
	case x.body.tooLarge():
		p = pageTooLarge
	case r.Context().Err() != nil:
		x.status = statusClientGone
		panic(http.ErrAbortHandler) // nobody is there to read an answer
	case x.body.broken() != nil:
		p = pageBadRequest
	default:
		g.log.Warn("backend broke off", "stamp", x.route.stamp.name, "service", x.route.service, "host", x.host, "err", err)
	}
	if x.body.broken() != nil {
		w.Header().Set("Connection", "close") // the rest may still come
	}
	p.write(x, r)
}

// statusClientGone counts requests whose client left before the answer (nginx's
// number for it).
const statusClientGone = 499

// finish counts the request.
func (x *exchange) finish(r *http.Request) {
	if x.backend != nil {
		if x.upgraded {
			x.backend.upgraded.Add(-1)
		}
		if x.answering {
			x.backend.answering.Add(-1)
		}
		x.backend.inFlight.Add(-1)
	}
	var s *stamp
	if x.route != nil {
		s = x.route.stamp
	}
	took := time.Since(x.start)
	x.gateway.metrics.observe(s, x.status, took)
	if log := x.gateway.log; log.Enabled(r.Context(), slog.LevelDebug) {
		log.Debug("request", "method", r.Method, "host", r.Host, "path", r.URL.Path, "proto", r.Proto,
			"client", r.RemoteAddr, "status", x.status, "took", took)
	}
}

// WriteHeader remembers the status.
func (x *exchange) WriteHeader(status int) {
	if x.status < http.StatusOK {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write cuts clients that take nothing for the stall time. On HTTP/1 the
// connection does that itself; see conn.
func (x *exchange) Write(p []byte) (int, error) {
	if x.streams {
		defer x.bound()()
	}
	return x.ResponseWriter.Write(p)
}

// FlushError flushes under the same deadline as Write.
func (x *exchange) FlushError() error {
	if !x.streams {
		return http.NewResponseController(x.ResponseWriter).Flush()
	}
	defer x.bound()()
	return x.control.Flush()
}

// bound sets the deadline of a write and returns what takes it away.
func (x *exchange) bound() func() {
	_ = x.control.SetWriteDeadline(time.Now().Add(x.gateway.config.StallTimeout))
	return func() { _ = x.control.SetWriteDeadline(time.Time{}) }
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }
