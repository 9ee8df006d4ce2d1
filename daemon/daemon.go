// Package daemon wires the parts of Bulkhead by hand and runs them: server,
// agent and gateway in one process, or some of them. It starts them in order,
// stops them in reverse, and ends when the first of them fails.
//
// It holds no logic of its own but a machine's joining of a farm; what a part does
// is in the part. Start with Run, then server.go and node.go for the two roles.
package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/agent"
	"bulkhead/api"
	"bulkhead/auth"
	"bulkhead/gateway"
	"bulkhead/keys"
	"bulkhead/store"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
)

// serverGarbage is how much garbage a server lets come together, in percent of what it
// holds: Go's own 100 costs a third of its time in a farm of thousands of nodes, whose
// sessions and stamps are looked through again and again.
const serverGarbage = 200

// serverMemory is from when on a server would rather spend time than memory: garbage is
// then collected as often as it takes to stay there. The largest farms come to it. What
// it maps of its state's file is not in it.
const serverMemory = 3 << 30

// Run runs Bulkhead until ctx ends or a part of it fails. The tasks of stamps go
// on running after that. What cannot work (a port in use, a data folder of
// another instance, no containerd, a token that is not valid) is refused before
// anything is started.
func Run(ctx context.Context, c Config) (err error) {
	began := time.Now()
	if c, err = c.withDefaults(); err != nil {
		return err
	}
	if c.Agent && os.Geteuid() != 0 {
		return bulkhead.Errorf(bulkhead.ErrDenied, "bulkhead %s needs root: it makes containers and networks", c.verb()).WithHint("run it with sudo")
	}
	if c.Server && os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(serverGarbage))
	}
	if c.Server && os.Getenv("GOMEMLIMIT") == "" {
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(serverMemory))
	}
	p := &process{
		c: c, listeners: map[string]net.Listener{}, metrics: prometheus.NewRegistry(), routes: make(chan struct{}, 1),
		serving: make(chan struct{}),
	}
	defer func() {
		closing := p.closers.close()
		if err == nil {
			err = closing
		} else if closing != nil { // a consequence: what failed is what is shown
			c.Log.Error("close", "err", closing)
		}
	}()
	if err := p.open(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	start := func() {
		for _, part := range p.parts {
			g.Go(func() error { return named(part.name, part.run(ctx)) })
		}
		p.parts = nil
	}
	start()
	g.Go(func() error {
		if c.Server { // it may have to wait for a majority, and the node on its machine not with it
			if err := p.openServer(ctx); ctx.Err() != nil {
				return nil //nolint:nilerr // whoever waited was told to end
			} else if err != nil {
				return err
			}
			start()
		}
		c.Log.Info("Bulkhead is up", "version", c.Version, "server", c.Server, "agent", c.Agent, "took", time.Since(began))
		if c.Up == nil {
			return nil
		}
		return c.Up(p.running(time.Since(began)))
	})
	return g.Wait()
}

// process is a Bulkhead that is being put together: what the roles share.
type process struct {
	c       Config
	closers closers
	parts   []part // what is open and not started yet, in this order

	folder     *store.Folder
	instance   string
	membership *membership
	listeners  map[string]net.Listener // by flag
	metrics    *prometheus.Registry
	gateway    *gateway.Gateway // nil without the agent
	routes     chan struct{}    // poked when the gateway's table may have changed
	serving    chan struct{}    // closed once this server answers nodes

	pool      *x509.CertPool // the farm's authority
	authority *keys.Authority
	sealer    *keys.Sealer // for the state; of a node alone: for its own disk
	node      *keys.Identity
	way       *api.Way               // from the node to the servers
	answering <-chan struct{}        // for control.ready
	peers     func() []bulkhead.Peer // other nodes; set with the agent

	// Set by openServer, and the server's own.
	state *store.Store
	token string
}

type part struct {
	name string
	run  func(context.Context) error
}

func (p *process) add(name string, run func(context.Context) error) {
	p.parts = append(p.parts, part{name, run})
}

// open opens everything but the server, in order, and starts nothing that outlives an
// error. What it needs is on this machine.
func (p *process) open(ctx context.Context) (err error) {
	c := p.c
	if p.folder, err = store.Lock(c.Data); err != nil {
		return err
	}
	p.closers.add(p.folder.Close)
	if p.instance, err = instance(c.Data); err != nil {
		return err
	}
	if p.membership, err = openMembership(c.Data); err != nil {
		return err
	}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := p.listen(); err != nil {
		return err
	}
	if err := p.membership.join(ctx, c); err != nil {
		return err
	}
	if domain := p.membership.get().Domain; domain != "" {
		p.c.Domain = domain // the farm's
	}
	if p.sealer, err = keys.OpenSealer(filepath.Join(c.Data, "keys")); err != nil {
		return err
	}
	if c.Server {
		err = p.openAuthority()
	} else {
		err = p.openMember(ctx)
	}
	if err != nil || !c.Agent {
		return err
	}
	if c.Server {
		if err := p.openOwnNode(ctx); err != nil {
			return err
		}
	}
	return p.openAgent(ctx)
}

// patiently repeats a change of the state until a majority of the servers is there. The
// change reads what they have acknowledged, also if it then changes nothing.
func (p *process) patiently(ctx context.Context, change func(tx *store.Tx) error) error {
	for {
		err := p.state.Sync(ctx)
		if err == nil {
			err = p.state.Update(ctx, change)
		}
		if !errors.Is(err, store.ErrNoMajority) || ctx.Err() != nil {
			return err
		}
		p.c.Log.Warn("waiting for a majority of the servers", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// listen takes every port, so that one in use is told before anything begins.
func (p *process) listen() error {
	for _, port := range p.c.ports() {
		if port.flag == "http" || port.flag == "https" { // the gateway's own
			continue
		}
		l, err := listen(port)
		if err != nil {
			return err
		}
		if port.flag == "peer" { // etcd opens it itself
			if err := l.Close(); err != nil {
				return portError(port, err)
			}
			continue
		}
		p.closers.add(func() error { l.Close(); return nil })
		p.listeners[port.flag] = l
	}
	if !p.c.Agent {
		return nil
	}
	hop := func(ctx context.Context, node bulkhead.NodeName, protocols ...string) (net.Conn, error) {
		return p.hop(ctx, node, protocols)
	}
	if p.c.Advertise == "" {
		hop = nil
	}
	gate, err := gateway.New(gateway.Config{
		HTTP: p.c.HTTP, HTTPS: p.c.HTTPS, Data: filepath.Join(p.c.Data, "certificates"), Email: p.c.Email, CA: p.c.ACME, Hop: hop,
		Registerer: p.metrics, Logger: p.c.Log.With("part", "gateway"),
	})
	if err != nil {
		return err
	}
	if err := gate.Listen(); err != nil {
		return err
	}
	p.closers.add(gate.Close)
	p.gateway = gate
	return nil
}

// running tells how to reach what is up.
func (p *process) running(took time.Duration) Running {
	r := Running{Token: p.token, Took: took.Round(time.Millisecond).String()}
	if p.c.Server {
		r.API = p.api()
		if public(p.c.API) {
			r.Authority = p.authority.PEM()
		}
	}
	if p.gateway != nil {
		r.HTTP = urlOf("http", p.gateway.Addr(), p.c.Domain)
	}
	return r
}

// control fits the API's node client to the agent's seam.
type control struct {
	client *api.NodeClient
	ready  <-chan struct{} // nobody answers before it is closed; nil: somebody may
}

func (c control) Connect(ctx context.Context, hello bulkhead.NodeReport) (agent.Session, error) {
	if c.ready != nil {
		select {
		case <-c.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	s, err := c.client.Connect(ctx, hello)
	if err != nil {
		return nil, err // not a nil *NodeSession in an interface
	}
	return s, nil
}

// firstToken makes sure that the token kept in the data folder opens the API, and
// makes one the first time, and when that one was revoked: who may read the folder may do
// everything, and else a farm could be without an admin for good.
func (p *process) firstToken(ctx context.Context) (string, error) {
	path := filepath.Join(p.c.Data, "token")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("first token: %w", err)
	}
	token, valid := strings.TrimSpace(string(b)), false
	err = p.patiently(ctx, func(tx *store.Tx) error {
		t, ok := tx.Tokens.Get(auth.Hash(token))
		valid = ok && !t.Expired(time.Now())
		return nil
	})
	if err != nil || valid {
		return token, err
	}
	token, hash := auth.New()
	if err := keys.WriteFile(path, []byte(token+"\n")); err != nil { // first: else, after a crash, the state had a token that nobody knows
		return "", fmt.Errorf("first token: %w", err)
	}
	return token, p.patiently(ctx, func(tx *store.Tx) error {
		tx.Tokens.Put(store.Token{Hash: hash, Operator: "admin", Role: string(auth.RoleAdmin), Created: time.Now().UTC(), By: "server " + string(p.c.Node)})
		return nil
	})
}

// serve answers on l until ctx ends; then end ends what lasts, and requests
// under way get a moment.
func (p *process) serve(ctx context.Context, l net.Listener, s *http.Server, end func()) error {
	s.ErrorLog = slog.NewLogLogger(p.c.Log.Handler(), slog.LevelDebug) // who hangs up, and the like
	s.ReadHeaderTimeout, s.IdleTimeout = 10*time.Second, 2*time.Minute
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		end()
		timeout, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s.Shutdown(timeout) != nil {
			s.Close()
		}
	})
	var err error
	if s.TLSConfig != nil {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func named(part string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", part, err)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// urlHost is HOST:PORT under which this machine reaches what listens on a.
func urlHost(a net.Addr) string {
	host, port, _ := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func runFolder(instance string) string { return filepath.Join("/run", "bulkhead-"+instance) }

// closers run in reverse order.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c *closers) close() error {
	var errs []error
	for _, f := range slices.Backward(*c) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
