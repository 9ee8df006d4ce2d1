// Package daemon wires the parts of Bulkhead by hand and runs them: server,
// agent and gateway in one process. It starts them in order, stops them in
// reverse, and ends when the first of them fails.
//
// It holds no logic of its own; what a part does is in the part. Start with Run.
package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/agent"
	"bulkhead/api"
	"bulkhead/auth"
	"bulkhead/containerd"
	"bulkhead/controller"
	"bulkhead/gateway"
	"bulkhead/images"
	"bulkhead/keys"
	"bulkhead/logs"
	"bulkhead/network"
	"bulkhead/plan"
	"bulkhead/registry"
	"bulkhead/store"
	"bulkhead/volume"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
)

// Run runs Bulkhead until ctx ends or a part of it fails. The tasks of stamps go
// on running after that. What cannot work (a port in use, a data folder of
// another instance, no containerd) is refused before anything is started.
func Run(ctx context.Context, c Config) (err error) {
	began := time.Now()
	if c, err = c.withDefaults(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return bulkhead.Errorf(bulkhead.ErrDenied, "bulkhead up needs root: it makes containers and networks").WithHint("run it with sudo")
	}
	var closers closers
	defer func() {
		closing := closers.close()
		if err == nil {
			err = closing
		} else if closing != nil { // a consequence: what failed is what is shown
			c.Log.Error("close", "err", closing)
		}
	}()

	folder, err := store.Lock(c.Data)
	if err != nil {
		return err
	}
	closers.add(folder.Close)
	id, err := instance(c.Data)
	if err != nil {
		return err
	}
	runDir := runFolder(id)
	if err := os.MkdirAll(runDir, 0o711); err != nil {
		return fmt.Errorf("make run folder: %w", err)
	}

	listeners := map[string]net.Listener{}
	for _, p := range c.ports()[:2] {
		l, err := listen(p)
		if err != nil {
			return err
		}
		closers.add(func() error { l.Close(); return nil })
		listeners[p.flag] = l
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gate, err := gateway.New(gateway.Config{
		HTTP: c.HTTP, HTTPS: c.HTTPS, Data: filepath.Join(c.Data, "certificates"), Email: c.Email, CA: c.ACME,
		Registerer: metrics, Logger: c.Log.With("part", "gateway"),
	})
	if err != nil {
		return err
	}
	if err := gate.Listen(); err != nil {
		return err
	}
	closers.add(gate.Close)

	keyDir := filepath.Join(c.Data, "keys")
	authority, err := keys.OpenAuthority(keyDir)
	if err != nil {
		return err
	}
	sealer, err := keys.OpenSealer(keyDir)
	if err != nil {
		return err
	}
	server, err := identity(ctx, authority, c, keys.RoleServer)
	if err != nil {
		return err
	}
	node, err := identity(ctx, authority, c, keys.RoleNode)
	if err != nil {
		return err
	}

	engine, err := containerd.Open(ctx, containerd.EngineConfig{
		Instance: id, Folder: filepath.Join(c.Data, "containerd"), Socket: c.Containerd, Private: c.Containerd == "private",
	}, c.Log.With("part", "containerd"))
	if err != nil {
		return err
	}
	closers.add(engine.Close)
	engineVersion, err := engine.Version(ctx)
	if err != nil {
		return err
	}

	state, err := store.Open(ctx, store.Config{Folder: folder, Name: string(c.Node), Logger: c.Log.With("part", "store")})
	if err != nil {
		return err
	}
	closers.add(state.Close)
	token, err := firstToken(ctx, state, c.Data)
	if err != nil {
		return err
	}

	blobs, err := registry.New(registry.Config{Dir: filepath.Join(c.Data, "registry"), Logger: c.Log.With("part", "registry")})
	if err != nil {
		return err
	}
	closers.add(blobs.Close)
	networks, err := network.New(network.Config{Instance: id, Dir: filepath.Join(runDir, "net"), Pool: c.Subnet, Log: c.Log.With("part", "network")})
	if err != nil {
		return err
	}
	volumes, err := volume.New(volume.Config{Dir: filepath.Join(c.Data, "volumes"), Logger: c.Log.With("part", "volume")})
	if err != nil {
		return err
	}
	outputs, err := logs.New(logs.Config{Dir: filepath.Join(c.Data, "logs"), Logger: c.Log.With("part", "logs")})
	if err != nil {
		return err
	}

	nodeAddr := listeners["node-api"].Addr().String()
	nodeTLS := node.Client(authority.Pool())
	pulls := &http.Client{Transport: &http.Transport{TLSClientConfig: nodeTLS, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8}}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	runtime, err := containerd.New(engine, containerd.Config{Registry: "https://" + nodeAddr, Client: pulls, Init: staticOnly(self), Self: self}, c.Log.With("part", "containerd"))
	if err != nil {
		return err
	}
	bundles := images.NewBundles(filepath.Join(c.Data, "bundles"), &images.Target{URL: "https://" + nodeAddr, Client: pulls})
	routes := make(chan struct{}, 1)
	joined := time.Now()
	workers := agent.New(agent.Config{
		Node:    func() bulkhead.Node { return hostNode(c.Node, c.Data, c.Version, engineVersion, joined) },
		Dir:     filepath.Join(c.Data, "agent"),
		Run:     runDir,
		Control: control{api.NewNodeClient(nodeAddr, nodeTLS)},
		Runtime: runtime, Network: networks, Volumes: volumes, Logs: outputs,
		Files: bundles,
		Seal:  sealer.Seal, Open: sealer.Open,
		Changed: func() { poke(routes) },
		Log:     c.Log.With("part", "agent"),
	})

	metrics.MustRegister(newStampMetrics(c.Version, workers.Stamps))
	gatewayURL := urlOf("http", gate.Addr(), c.Domain)
	users, err := api.NewServer(api.Config{
		Store: state, Sealer: sealer, Registry: blobs, PeerNode: keys.NodeOf,
		Bundle: bundles.Bundle,
		HasImage: func(ctx context.Context, i bulkhead.Image) error {
			ok, err := blobs.Has(ctx, i.Repository, i.Digest)
			if err == nil && !ok {
				err = bulkhead.Errorf(bulkhead.ErrNotFound, "image %s (%s) is not in the registry", i.Reference, i.Digest.Short())
			}
			return err
		},
		Domain:  c.Domain,
		URL:     func(h bulkhead.Host) string { return urlOf("http", gate.Addr(), string(h)) },
		Version: c.Version, Metrics: metrics, Logger: c.Log.With("part", "api"),
	})
	if err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return named("keys", server.Run(ctx)) })
	g.Go(func() error { return named("keys", node.Run(ctx)) })
	g.Go(func() error { return named("store", state.Run(ctx)) })
	g.Go(func() error { return named("containerd", engine.Run(ctx)) })
	g.Go(func() error { return named("network", networks.Run(ctx)) })
	g.Go(func() error { return named("volume", volumes.Run(ctx)) })
	g.Go(func() error { return named("logs", outputs.Run(ctx)) })
	g.Go(func() error {
		return named("API", serve(ctx, listeners["api"], &http.Server{Handler: users}, users.Close))
	})
	g.Go(func() error {
		return named("node API", serve(ctx, listeners["node-api"], &http.Server{
			Handler: users.NodeHandler(), TLSConfig: server.Server(authority.Pool()),
		}, users.Close))
	})
	g.Go(func() error {
		return named("controller", controller.New(controller.Config{Store: state, Log: c.Log.With("part", "controller")}).Run(ctx))
	})
	g.Go(func() error { return named("gateway", gate.Run(ctx)) })
	g.Go(func() error { return named("agent", workers.Run(ctx)) })
	g.Go(func() error { // the route feed: from what the agent knows to the gateway's table
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-routes:
				gate.SetRoutes(plan.Routes(workers.Stamps()))
			}
		}
	})
	if c.Up != nil {
		g.Go(func() error {
			return c.Up(Running{
				API: urlOf("http", listeners["api"].Addr(), hostOf(listeners["api"].Addr())), Token: token, HTTP: gatewayURL,
				Took: time.Since(began).Round(time.Millisecond).String(),
			})
		})
	}
	c.Log.Info("Bulkhead is up", "version", c.Version, "api", listeners["api"].Addr().String(), "gateway", gate.Addr().String(), "took", time.Since(began))
	return g.Wait()
}

// control fits the API's node client to the agent's seam.
type control struct{ client *api.NodeClient }

func (c control) Connect(ctx context.Context, node bulkhead.Node) (agent.Session, error) {
	s, err := c.client.Connect(ctx, node)
	if err != nil {
		return nil, err // not a nil *NodeSession in an interface
	}
	return s, nil
}

func identity(ctx context.Context, authority *keys.Authority, c Config, role keys.Role) (*keys.Identity, error) {
	host, _, _ := net.SplitHostPort(c.NodeAPI)
	subject := keys.Subject{Role: role, Name: c.Node, Hosts: []string{"localhost", "127.0.0.1", "::1"}}
	if host != "" && !slices.Contains(subject.Hosts, host) {
		subject.Hosts = append(subject.Hosts, host)
	}
	issue := func(context.Context) (*tls.Certificate, error) { return authority.Issue(subject) }
	return keys.NewIdentity(ctx, issue, c.Log.With("part", "keys"))
}

// firstToken makes sure that the token kept in the data folder opens the API,
// and makes one the first time.
func firstToken(ctx context.Context, state *store.Store, data string) (string, error) {
	path := filepath.Join(data, "token")
	b, err := os.ReadFile(path)
	token := strings.TrimSpace(string(b))
	if errors.Is(err, os.ErrNotExist) {
		token, _ = auth.New()
		err = keys.WriteFile(path, []byte(token+"\n"))
	}
	if err != nil {
		return "", fmt.Errorf("first token: %w", err)
	}
	hash := auth.Hash(token)
	if _, ok := state.View().Tokens.Get(hash); ok {
		return token, nil
	}
	return token, state.Update(ctx, func(tx *store.Tx) error {
		tx.Tokens.Put(store.Token{Hash: hash, Operator: "admin", Role: string(auth.RoleAdmin), Created: time.Now()})
		return nil
	})
}

// serve answers on l until ctx ends; then end ends what lasts, and requests
// under way get a moment.
func serve(ctx context.Context, l net.Listener, s *http.Server, end func()) error {
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

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return host
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
