package daemon

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/controller"
	"bulkhead/images"
	"bulkhead/keys"
	"bulkhead/registry"
	"bulkhead/store"
)

// openAuthority opens the keys of a server's machine.
func (p *process) openAuthority() (err error) {
	if p.authority, err = keys.OpenAuthority(filepath.Join(p.c.Data, "keys")); err != nil {
		return err
	}
	p.authority.Life = p.c.CertificateLife
	p.pool = p.authority.Pool()
	return nil
}

// openServer opens what a server is made of: state, registry, API, controller. One of
// several waits here for a majority of them.
func (p *process) openServer(ctx context.Context) (err error) {
	c := p.c
	keyDir := filepath.Join(c.Data, "keys")
	identity, err := serverIdentity(ctx, p.authority, c)
	if err != nil {
		return err
	}
	config := store.Config{Folder: p.folder, Name: string(c.Node), Logger: c.Log.With("part", "store")}
	if c.Advertise != "" {
		config.Peers = &store.Peers{
			Listen: c.Peer, Advertise: c.advertised(c.Peer), Join: p.membership.get().Members, HostName: keys.ServerHostName,
			Certificate: filepath.Join(keyDir, serverFile), Key: filepath.Join(keyDir, serverFile), Authority: filepath.Join(keyDir, authorityFile),
		}
	}
	if config.Peers != nil {
		defer p.starting(identity)()
	}
	if p.state, err = store.Open(ctx, config); err != nil {
		return err
	}
	p.closers.add(p.state.Close)
	if err := p.enrollServer(ctx); err != nil {
		return err
	}
	if c.Agent {
		if err := p.enrollNode(ctx); err != nil {
			return err
		}
	}
	if p.token, err = p.firstToken(ctx); err != nil {
		return err
	}
	blobs, err := registry.New(registry.Config{Dir: filepath.Join(c.Data, "registry"), Logger: c.Log.With("part", "registry")})
	if err != nil {
		return err
	}
	p.closers.add(blobs.Close)

	dial := identity.Client(p.pool)
	own := api.NewWay([]string{p.own()}, dial)
	identity.Renewed(own.Fresh)
	bundles := p.bundles(own)
	leader := controller.New(controller.Config{Store: p.state, Log: c.Log.With("part", "controller"), LostAfter: c.LostAfter})
	users, err := api.NewServer(api.Config{
		Store: p.state, Sealer: p.sealer, Registry: blobs, Name: c.Node, Authority: p.authority, Dial: dial,
		Secrets: func() map[string][]byte { return secrets(keyDir, p.authority) },
		Bundle:  bundles.Bundle,
		HasImage: func(ctx context.Context, i bulkhead.Image) error {
			ok, err := blobs.Has(ctx, i.Repository, i.Digest)
			if err == nil && !ok {
				err = bulkhead.Errorf(bulkhead.ErrNotFound, "image %s (%s) is not in the registry", i.Reference, i.Digest.Short())
			}
			return err
		},
		Forecast: controller.Forecast, Meetable: controller.Meetable, Create: leader.Create, Target: controller.Target,
		Domain:  p.c.Domain,
		URL:     p.stampURL,
		Version: c.Version, Metrics: p.metrics, Logger: c.Log.With("part", "api"),
	})
	if err != nil {
		return err
	}

	p.add("keys", identity.Run)
	p.add("store", p.state.Run)
	p.add("presence", p.state.Attend)
	p.add("API", func(ctx context.Context) error {
		s := &http.Server{Handler: users}
		if public(c.API) {
			s.TLSConfig = identity.Public()
		}
		return p.serve(ctx, p.listeners["api"], s, users.Close)
	})
	p.add("node API", func(ctx context.Context) error {
		if err := p.present(ctx); err != nil { // else the nodes that call would pass for silent
			return nil //nolint:nilerr // ctx has ended
		}
		close(p.serving)
		return p.serve(ctx, p.listeners["node-api"], &http.Server{Handler: users.NodeHandler(), TLSConfig: identity.Server(p.pool)}, users.Close)
	})
	p.add("replica", func(ctx context.Context) error {
		return p.replicate(ctx, blobs, func(s bulkhead.Server) *api.Way { return api.NewWay([]string{s.NodeAPI}, dial) })
	})
	p.add("sessions", users.Run)
	p.add("controller", leader.Run)
	return nil
}

// bundles are those of releases, on this machine's disk; what is missing comes by way of
// servers.
func (p *process) bundles(way *api.Way) *images.Bundles {
	return images.NewBundles(filepath.Join(p.c.Data, "bundles"), &images.Target{URL: way.URL(), Client: way.Client()})
}

// own is the node API of this server, from this machine.
func (p *process) own() string {
	return urlHost(p.listeners["node-api"].Addr())
}

// api is the URL of the users' API.
func (p *process) api() string {
	if public(p.c.API) {
		return "https://" + p.c.advertised(p.listeners["api"].Addr().String())
	}
	return "http://" + urlHost(p.listeners["api"].Addr())
}

// stampURL is where users reach a host: the gateway of this machine, or what
// listens on the same port of a node.
func (p *process) stampURL(h bulkhead.Host) string {
	if p.gateway != nil {
		return urlOf("http", p.gateway.Addr(), string(h))
	}
	return "http://" + string(h)
}

// present waits until the state says that this server lives.
func (p *process) present(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	view, changes := p.state.Watch(ctx)
	for {
		if _, ok := view.Present.Get(p.c.Node); ok {
			return nil
		}
		if _, more := <-changes; !more {
			return context.Cause(ctx)
		}
		view = p.state.View()
	}
}

// enrollServer enters how this server is reached into the state.
func (p *process) enrollServer(ctx context.Context) error {
	next := p.c.asServer()
	next.UID = p.membership.get().ServerUID
	next.NodeAPI = p.c.advertised(p.listeners["node-api"].Addr().String())
	next.API = p.api()
	err := p.patiently(ctx, func(tx *store.Tx) error {
		was, ok := tx.Servers.Get(p.c.Node)
		switch {
		case ok && was.UID != next.UID:
			return bulkhead.Errorf(bulkhead.ErrConflict, "a server %s is in the farm already", p.c.Node).WithHint("choose another name with --node")
		case ok:
			next.Joined = was.Joined
		default:
			next.Joined = time.Now().UTC()
		}
		if !ok || was != next {
			tx.Servers.Put(next)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("enter server into the state: %w", err)
	}
	return nil
}

// secrets are the files of keys that another server needs.
func secrets(keyDir string, authority *keys.Authority) map[string][]byte {
	out := map[string][]byte{"ca.pem": authority.Secret()}
	if b, err := os.ReadFile(filepath.Join(keyDir, "seal.key")); err == nil { // else the other end says what is missing
		out["seal.key"] = b
	}
	return out
}
