package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/agent"
	"bulkhead/api"
	"bulkhead/containerd"
	"bulkhead/keys"
	"bulkhead/logs"
	"bulkhead/network"
	"bulkhead/plan"
	"bulkhead/store"
	"bulkhead/volume"
)

// openMember opens the keys of a machine that is no server: what it was given when
// it joined.
func (p *process) openMember(ctx context.Context) (err error) {
	path := filepath.Join(p.c.Data, "keys", authorityFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "an agent needs a farm to join").WithHint("on a machine of the farm: bulkhead token create; then here --join and --token")
	}
	if err != nil {
		return fmt.Errorf("read the farm's certificate: %w", err)
	}
	if p.pool, _, err = keys.ReadPool(text); err != nil {
		return err
	}
	if name := p.membership.get().Name; name != p.c.Node {
		return bulkhead.Errorf(bulkhead.ErrConflict, "this machine joined the farm as %s, not as %s", name, p.c.Node).
			WithHint("start it with --node %s", name)
	}
	p.node, p.way, err = joinedNode(ctx, p.c, p.pool, p.membership)
	return err
}

// openOwnNode opens the keys of the node on a server's machine, which signs for it. It
// asks any server, like every node: this one may be waiting for a majority.
func (p *process) openOwnNode(ctx context.Context) (err error) {
	was := p.membership.get()
	uid, servers := was.NodeUID, p.ownFirst(was.Servers)
	if uid == "" { // the others do not know it yet
		uid, servers = keys.Generate(16), servers[:1]
		if err := p.membership.change(func(s *savedMembership) { s.Name, s.NodeUID = p.c.Node, uid }); err != nil {
			return err
		}
	}
	if p.node, err = ownNode(ctx, p.authority, p.c, uid); err != nil {
		return err
	}
	if len(servers) == 1 {
		p.answering = p.serving
	}
	p.way = api.NewWay(servers, p.node.Client(p.pool))
	p.node.Renewed(p.way.Fresh)
	return nil
}

// enrollNode makes the node on a server's machine one of the farm.
func (p *process) enrollNode(ctx context.Context) error {
	uid := p.membership.get().NodeUID
	return p.patiently(ctx, func(tx *store.Tx) error {
		if gone, ok := tx.Removed.Get(uid); ok {
			return bulkhead.Errorf(bulkhead.ErrDenied, "node %s was removed from the farm by %s", gone.Name, gone.By).
				WithHint("start this server alone: bulkhead server")
		}
		was, ok := tx.Nodes.Get(p.c.Node)
		switch {
		case ok && was.UID == uid:
			return nil
		case ok && was.UID != "":
			return bulkhead.Errorf(bulkhead.ErrConflict, "a node %s is in the farm already, since %s", p.c.Node, was.Joined.Format("2006-01-02")).
				WithHint("choose another name with --node")
		case ok: // of a time when nodes had none
			was.UID = uid
			tx.Nodes.Put(was)
			return nil
		}
		now := time.Now().UTC()
		tx.Nodes.Put(bulkhead.Node{Name: p.c.Node, UID: uid, Version: p.c.Version, Joined: now, Seen: now, Silent: now, State: bulkhead.NodeUnreachable})
		tx.Event(bulkhead.Event{Time: now, Type: "node.joined", Node: p.c.Node, Message: fmt.Sprintf("node %s joined", p.c.Node)})
		return nil
	})
}

// openAgent opens what a node is made of: containers, networks, volumes, logs, the
// agent and the gateway.
func (p *process) openAgent(ctx context.Context) error {
	c := p.c
	runDir := runFolder(p.instance)
	if err := os.MkdirAll(runDir, 0o711); err != nil {
		return fmt.Errorf("make run folder: %w", err)
	}
	engine, err := containerd.Open(ctx, containerd.EngineConfig{
		Instance: p.instance, Folder: filepath.Join(c.Data, "containerd"), Socket: c.Containerd, Private: c.Containerd == "private",
	}, c.Log.With("part", "containerd"))
	if err != nil {
		return err
	}
	p.closers.add(engine.Close)
	engineVersion, err := engine.Version(ctx)
	if err != nil {
		return err
	}
	networks, err := network.New(network.Config{Instance: p.instance, Dir: filepath.Join(runDir, "net"), Pool: c.Subnet, Log: c.Log.With("part", "network")})
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
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	runtime, err := containerd.New(engine, containerd.Config{
		Registry: p.way.URL(), Client: p.way.Client(), Init: staticOnly(self), Self: self,
	}, c.Log.With("part", "containerd"))
	if err != nil {
		return err
	}
	joined := time.Now()
	var workers *agent.Agent
	var routing sync.Mutex
	feed := func() { // from what the agent knows to the gateway's table
		routing.Lock()
		defer routing.Unlock()
		p.gateway.SetRoutes(plan.Routes(workers.Stamps(), workers.Places()))
	}
	workers = agent.New(agent.Config{
		Node: func() bulkhead.Node {
			n := hostNode(c.Node, c.Data, c.Version, engineVersion, joined)
			n.Region, n.Zone, n.Labels = c.Region, c.Zone, c.Labels
			n.Capacity.Extras, n.Inner = c.Extras, c.Inner
			aside, err := volumes.Aside()
			if n.Aside = aside; err != nil {
				c.Log.Error("look for data that is set aside", "err", err)
			}
			if c.Advertise != "" {
				n.Gateway = c.advertised(p.listeners["hop"].Addr().String())
			}
			return n
		},
		Dir:     filepath.Join(c.Data, "agent"),
		Run:     runDir,
		Control: control{api.NewNodeClient(p.way), p.answering},
		Runtime: runtime, Network: networks, Volumes: volumes, Logs: outputs,
		Files:   p.bundles(p.way),
		Keys:    p.sealer,
		Changed: func() { poke(p.routes) },
		Servers: p.servers,
		Rest: func(ctx context.Context, task netip.Addr) {
			ctx, cancel := context.WithTimeout(ctx, restMost)
			defer cancel()
			feed()
			p.gateway.Rest(ctx, task)
		},
		Dial: func(ctx context.Context, node bulkhead.Peer) (net.Conn, error) {
			if c.Advertise == "" {
				return nil, bulkhead.Errorf(bulkhead.ErrUnavailable, "this node advertises no address")
			}
			return p.call(ctx, node, []string{copyProtocol})
		},
		Log: c.Log.With("part", "agent"),
	})
	p.metrics.MustRegister(newStampMetrics(c.Version, workers.Stamps))

	p.peers = workers.Peers
	p.add("keys", p.node.Run)
	p.add("containerd", engine.Run)
	p.add("network", networks.Run)
	p.add("volume", volumes.Run)
	p.add("logs", outputs.Run)
	// Nothing is served of what this node had before it was away until the servers have
	// had a moment to say what of it is elsewhere; who calls waits that long.
	routed := make(chan struct{})
	onceRouted := func(run func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			select {
			case <-routed:
				return run(ctx)
			case <-ctx.Done():
				return nil
			}
		}
	}
	p.add("gateway", onceRouted(p.gateway.Run))
	p.add("agent", workers.Run)
	if c.Advertise != "" {
		p.add("hop", onceRouted(func(ctx context.Context) error {
			s := &http.Server{Handler: p.gateway.HopHandler(), TLSConfig: p.node.Gateway(p.pool, p.known), Protocols: new(http.Protocols)}
			s.Protocols.SetHTTP1(true)
			s.Protocols.SetHTTP2(true)
			p.serveCopies(ctx, s, workers)
			return p.serve(ctx, p.listeners["hop"], s, func() {})
		}))
	}
	p.add("routes", func(ctx context.Context) error { // the route feed: from what the agent knows to the gateway's table
		select {
		case <-workers.Settled():
		case <-ctx.Done():
			return nil
		}
		feed()
		close(routed)
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-p.routes:
				feed()
			}
		}
	})
	return nil
}

// restMost is how long a task that is to stop is given for requests under way, before
// it is told.
const restMost = 5 * time.Second

// ownFirst has a server's machine ask itself first.
func (p *process) ownFirst(addresses []string) []string {
	own, known := p.own(), p.c.advertised(p.listeners["node-api"].Addr().String())
	return append([]string{own}, slices.DeleteFunc(slices.Clone(addresses), func(a string) bool { return a == own || a == known })...)
}

// servers takes the addresses of all servers.
func (p *process) servers(addresses []string) {
	if p.c.Server {
		addresses = p.ownFirst(addresses)
	}
	p.way.Set(addresses)
	if err := p.membership.learn(addresses); err != nil {
		p.c.Log.Error("keep addresses of servers", "err", err)
	}
}

// known tells whether a gateway that calls is one of the farm's.
func (p *process) known(caller keys.Caller) bool {
	return slices.ContainsFunc(p.peers(), func(n bulkhead.Peer) bool { return n.Node == caller.Name && n.UID == caller.UID })
}

// hopMost is how long another node's gateway may take to answer a call.
const hopMost = 2 * time.Second

// hop dials the gateway of another node.
func (p *process) hop(ctx context.Context, node bulkhead.NodeName, protocols []string) (net.Conn, error) {
	peers := p.peers()
	i := slices.IndexFunc(peers, func(n bulkhead.Peer) bool { return n.Node == node })
	if i < 0 {
		return nil, fmt.Errorf("the gateway of node %s is not known", node)
	}
	return p.call(ctx, peers[i], protocols)
}

// call dials where another node listens for the others, and makes sure that it is that
// node.
func (p *process) call(ctx context.Context, node bulkhead.Peer, protocols []string) (net.Conn, error) {
	config := p.node.Hop(p.pool, node.Node, node.UID)
	config.NextProtos = protocols
	ctx, cancel := context.WithTimeout(ctx, hopMost)
	defer cancel()
	return (&tls.Dialer{NetDialer: &net.Dialer{KeepAlive: 15 * time.Second}, Config: config}).DialContext(ctx, "tcp", node.Gateway)
}

// copyProtocol is what agents speak that copy a stamp's data from each other, over the
// listener of the gateways. The other end of Dial is Serve, both of package agent.
const copyProtocol = "bulkhead-copy/1"

// serveCopies lets other nodes copy stamps that move to them. Who may is not who may
// hand requests over, and gets nothing else.
func (p *process) serveCopies(ctx context.Context, s *http.Server, workers *agent.Agent) {
	copies := p.node.Gateway(p.pool, func(c keys.Caller) bool { return !c.Expired && workers.Expects(c.Name, c.UID) })
	copies.NextProtos = []string{copyProtocol}
	s.TLSConfig.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, copyProtocol) {
			return copies, nil
		}
		return nil, nil //nolint:nilnil // the server's own
	}
	s.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		copyProtocol: func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
			state := conn.ConnectionState()
			caller, err := keys.Identify(&state, p.pool, time.Now())
			if err != nil { // it was verified a moment ago
				p.c.Log.Error("identify node", "err", err)
				return
			}
			workers.Serve(ctx, conn, caller.Name, caller.UID)
		},
	}
}
