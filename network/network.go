// Package network is the agent's Network on the Linux kernel: a bridge, a /24
// and a name server for every stamp, a network namespace with an address for
// every task, and one static set of firewall rules that keeps stamps apart.
// It implements agent.Network.
//
// It is not an overlay: a stamp lives whole on one node. It does not publish
// ports: the gateway, being a process of the host, reaches tasks at their
// addresses.
//
// The kernel holds the truth. A bridge is named bkINSTANCE-SUBNET, the host's
// end of a task's pair of interfaces bvINSTANCEADDRESS, and the alias of each,
// written last, says which stamp or task it belongs to. New learns everything
// from there, so a restart adopts what runs; what has no alias was left by a
// crash halfway, and Run takes it away. After a reboot all is made anew.
//
// The rules (see firewall.go) allow a task to reach the tasks of its stamp, its
// own name server, and whatever is outside of this machine, masqueraded; and
// nothing else: no other stamp, of no instance, no address of the host, no
// metadata service of a cloud, no IPv6. What is refused is rejected, not
// dropped, so that a wrong address fails at once and not after a timeout.
// Nothing reaches a task but its stamp, the host, and answers.
//
// What it changes on the host beside its own interfaces and its own table:
// net.ipv4.ip_forward is set to 1. What it cannot change: a packet passes only
// if every firewall lets it. Where another one drops forwarded packets by
// default, as Docker's does, stamps are cut off from the outside (and, with
// net.bridge.bridge-nf-call-iptables=1, tasks from each other) until it is told
// to let interfaces "bk+" pass; Check finds that and says how.
//
// Start reading at Network.Join.
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"bulkhead"
	"bulkhead/agent"
)

// Config says where a Network finds its place on the machine.
type Config struct {
	// Instance tells the Bulkhead instances of one machine apart: four lower-case
	// hexadecimal digits. Required.
	Instance string
	// Dir is the run folder, absolute, best on tmpfs. Namespaces are bound in
	// Dir/netns. Required.
	Dir string
	// Pool is where stamps' subnets are taken from: IPv4, from /8 to /24. Default
	// 10.128.0.0/10: 16384 stamps. Instances may share a pool.
	Pool netip.Prefix
	// ResolvConf names the file that lists the resolvers to forward to. It is read
	// again when it changes. Default /etc/resolv.conf.
	ResolvConf string
	// Log is for operators. Default: nothing is logged.
	Log *slog.Logger
}

var instancePattern = regexp.MustCompile(`^[0-9a-f]{4}$`)

func (c *Config) validate() error {
	c.Pool = cmp.Or(c.Pool, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128}), 10)).Masked()
	c.ResolvConf = cmp.Or(c.ResolvConf, "/etc/resolv.conf")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case !instancePattern.MatchString(c.Instance):
		return bulkhead.Errorf(bulkhead.ErrInvalid, "network: instance %q is not four hexadecimal digits", c.Instance)
	case !filepath.IsAbs(c.Dir):
		return bulkhead.Errorf(bulkhead.ErrInvalid, "network: run folder %q is not an absolute path", c.Dir)
	case !c.Pool.Addr().Is4() || c.Pool.Bits() < 8 || c.Pool.Bits() > 24:
		return bulkhead.Errorf(bulkhead.ErrInvalid, "network: pool %s is not an IPv4 prefix from /8 to /24", c.Pool)
	}
	return nil
}

// Network is agent.Network. Its methods may be called at the same time. Join
// waits until Run has put the firewall in place.
type Network struct {
	cfg      Config
	firewall *firewall
	forward  *forwarder
	ready    chan struct{} // closed by Run when the firewall is in place
	// making is held, by sending, while interfaces are made. The kernel has one lock
	// for all of them: 200 stamps at once take half as long one after the other as
	// by four threads that wake each other up (measured on two busy cores).
	making chan struct{}

	mu      sync.Mutex // guards what follows; taken after a stamp's mu, never before
	stamps  map[bulkhead.StampName]*stamp
	subnets map[netip.Prefix]bool // taken by stamps
	serving bool                  // Run goes on: name servers may be started
	servers sync.WaitGroup        // Add only while serving
}

var _ agent.Network = (*Network)(nil)

// stamp is the network of one stamp.
type stamp struct {
	names *names // has its own locking

	mu     sync.Mutex   // guards what follows
	gone   bool         // removed: look the stamp up again
	subnet netip.Prefix // invalid: there is no bridge
	tasks  map[bulkhead.TaskID]agent.Endpoint
	last   netip.Addr // handed out last; the next one follows, so that none is soon used again
	server *nameServer
}

// New learns what exists of this instance on the machine. It changes nothing.
func New(cfg Config) (*Network, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Network{
		cfg:      cfg,
		firewall: &firewall{table: "bulkhead-" + cfg.Instance},
		forward:  newForwarder(cfg.ResolvConf),
		ready:    make(chan struct{}),
		making:   make(chan struct{}, 1),
		stamps:   map[bulkhead.StampName]*stamp{},
		subnets:  map[netip.Prefix]bool{},
	}
	found, err := n.scan()
	if err != nil {
		return nil, fmt.Errorf("learn networks: %w", err)
	}
	for name, b := range found.bridges {
		s := n.newStamp()
		s.subnet, s.tasks = b.subnet, b.tasks
		for _, e := range b.tasks {
			if s.last.Less(e.Address) {
				s.last = e.Address
			}
		}
		n.stamps[name] = s
		n.subnets[s.subnet] = true
	}
	return n, nil
}

// restoreEvery is how often Run looks whether the rules are in place although
// the kernel has told of no change.
const restoreEvery = 10 * time.Second

// Run puts the firewall in place, removes what a crash has left, answers names,
// and puts the firewall back whenever someone takes it away, until ctx ends.
// Bridges, namespaces and rules stay: tasks go on without this process. It
// fails only before Joins are served. It is called once.
func (n *Network) Run(ctx context.Context) error {
	changes, err := watchFirewall()
	if err != nil {
		return err
	}
	defer changes.close()
	if err := n.secure(); err != nil {
		return err
	}
	if err := n.sweep(); err != nil {
		return err
	}
	n.mu.Lock()
	n.serving = true
	n.mu.Unlock()
	n.startServers()
	close(n.ready)

	// Apart from the firewall, which must not wait for a stamp's mu.
	var retries sync.WaitGroup
	retries.Go(func() {
		for every := time.Tick(restoreEvery); ; n.startServers() {
			select {
			case <-ctx.Done():
				return
			case <-every:
			}
		}
	})
	defer func() {
		retries.Wait()
		n.stopServers()
	}()
	every := time.Tick(restoreEvery)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes.C:
		case <-every:
		}
		if err := n.secure(); err != nil {
			n.cfg.Log.Error("stamps may not be kept apart: the firewall cannot be put in place", "err", err)
		}
	}
}

// secure makes sure that the rules are in place and packets are forwarded.
func (n *Network) secure() error {
	restored, err := n.firewall.ensure()
	if err != nil {
		return err
	}
	if restored {
		n.cfg.Log.Info("firewall put in place", "table", n.firewall.table)
	}
	return setSysctl("net/ipv4/ip_forward", "1")
}

// Join makes the stamp's bridge if need be, and a network namespace with an
// address on it for the task. A task that has joined gets the same endpoint
// again. It fails with ErrExhausted when the pool or the stamp's 253 addresses
// are used up, with ErrInvalid for a name that cannot be a file name.
func (n *Network) Join(ctx context.Context, name bulkhead.StampName, id bulkhead.TaskID) (agent.Endpoint, error) {
	if err := validate("stamp", string(name)); err != nil {
		return agent.Endpoint{}, err
	}
	if err := validate("task", string(id)); err != nil {
		return agent.Endpoint{}, err
	}
	select {
	case <-n.ready:
	case <-ctx.Done():
		return agent.Endpoint{}, fmt.Errorf("join %s: wait for the firewall: %w", id, context.Cause(ctx))
	}
	s := n.lock(name)
	defer s.mu.Unlock()
	select {
	case n.making <- struct{}{}:
		defer func() { <-n.making }()
	case <-ctx.Done():
		return agent.Endpoint{}, fmt.Errorf("join %s: %w", id, context.Cause(ctx))
	}

	index, err := n.bridge(name, s)
	if err != nil {
		return agent.Endpoint{}, fmt.Errorf("join %s: %w", id, err)
	}
	if err := n.serve(s); err != nil {
		return agent.Endpoint{}, fmt.Errorf("join %s: %w", id, err)
	}
	e, ok := s.tasks[id]
	if ok {
		if n.attached(e) {
			return e, nil
		}
		if err := n.detach(e); err != nil {
			return agent.Endpoint{}, fmt.Errorf("join %s: %w", id, err)
		}
	} else {
		address, err := s.freeAddress()
		if err != nil {
			return agent.Endpoint{}, fmt.Errorf("join %s: %w", id, err)
		}
		e = agent.Endpoint{Task: id, Netns: n.netns(id), Address: address, Gateway: gateway(s.subnet)}
	}
	if err := n.attach(e, index); err != nil {
		delete(s.tasks, id)
		return agent.Endpoint{}, fmt.Errorf("join %s: %w", id, errors.Join(err, n.detach(e)))
	}
	s.tasks[id] = e
	s.last = e.Address
	return e, nil
}

// freeAddress is the first address after the one handed out last that no task
// has.
func (s *stamp) freeAddress() (netip.Addr, error) {
	taken := make(map[netip.Addr]bool, len(s.tasks))
	for _, e := range s.tasks {
		taken[e.Address] = true
	}
	base := s.subnet.Addr().As4()
	start := 1 // the gateway's
	if s.subnet.Contains(s.last) {
		start = int(s.last.As4()[3])
	}
	const first, count = 2, 253 // .2 to .254
	for i := range count {
		base[3] = byte(first + (start-first+1+i)%count)
		if a := netip.AddrFrom4(base); !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, bulkhead.Errorf(bulkhead.ErrExhausted, "all %d addresses of the stamp's network %s are in use", count, s.subnet).
		WithHint("run fewer replicas")
}

// Leave removes the task's namespace and frees its address.
func (n *Network) Leave(_ context.Context, name bulkhead.StampName, id bulkhead.TaskID) error {
	if err := validate("task", string(id)); err != nil {
		return err
	}
	s := n.lookup(name)
	if s == nil {
		return nil
	}
	defer s.mu.Unlock()
	e, ok := s.tasks[id]
	if !ok {
		return nil
	}
	if err := n.detach(e); err != nil {
		return fmt.Errorf("leave %s: %w", id, err)
	}
	delete(s.tasks, id)
	return nil
}

// Remove takes the stamp's bridge away, its tasks' namespaces, and its names.
func (n *Network) Remove(_ context.Context, name bulkhead.StampName) error {
	s := n.lookup(name)
	if s == nil {
		return nil
	}
	defer s.mu.Unlock()
	// The kernel takes 20 ms and more for an interface, most of it waiting.
	var group errgroup.Group
	for _, e := range s.tasks {
		group.Go(func() error { return n.detach(e) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("remove network of %s: %w", name, err)
	}
	clear(s.tasks)
	s.stopServer()
	if s.subnet.IsValid() {
		if err := deleteLink(n.bridgeName(s.subnet)); err != nil {
			return fmt.Errorf("remove network of %s: %w", name, err)
		}
	}
	s.gone = true
	n.mu.Lock()
	delete(n.stamps, name)
	delete(n.subnets, s.subnet)
	n.mu.Unlock()
	return nil
}

// Names replaces what the names of a stamp resolve to. It may be called before
// the stamp's first Join. Askers are told apart by the networks that some Name
// gives for their address; an asker of whom nothing is known yet (it is not
// healthy) sees all names of its stamp. A Name whose Name is empty resolves
// nothing but makes the networks of its addresses known.
func (n *Network) Names(name bulkhead.StampName, list []agent.Name) {
	n.mu.Lock()
	s := n.stamps[name]
	if s == nil {
		if len(list) == 0 {
			n.mu.Unlock()
			return // nothing, of a stamp that has been removed
		}
		s = n.newStamp()
		n.stamps[name] = s
	}
	n.mu.Unlock()
	s.names.zone.Store(newZone(list))
}

// List is what exists: the endpoints of every stamp that has a bridge, in order
// of their addresses.
func (n *Network) List(context.Context) (map[bulkhead.StampName][]agent.Endpoint, error) {
	list := map[bulkhead.StampName][]agent.Endpoint{}
	for _, name := range n.known() {
		s := n.lookup(name)
		if s == nil {
			continue
		}
		if s.subnet.IsValid() {
			endpoints := make([]agent.Endpoint, 0, len(s.tasks))
			for _, e := range s.tasks {
				endpoints = append(endpoints, e)
			}
			slices.SortFunc(endpoints, func(a, b agent.Endpoint) int { return a.Address.Compare(b.Address) })
			list[name] = endpoints
		}
		s.mu.Unlock()
	}
	return list, nil
}

func (n *Network) newStamp() *stamp {
	return &stamp{names: newNames(n.forward), tasks: map[bulkhead.TaskID]agent.Endpoint{}}
}

func (n *Network) known() []bulkhead.StampName {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]bulkhead.StampName, 0, len(n.stamps))
	for name := range n.stamps {
		list = append(list, name)
	}
	return list
}

// lock returns the stamp, new if need be, with its mu held.
func (n *Network) lock(name bulkhead.StampName) *stamp {
	for {
		n.mu.Lock()
		s := n.stamps[name]
		if s == nil {
			s = n.newStamp()
			n.stamps[name] = s
		}
		n.mu.Unlock()
		s.mu.Lock()
		if !s.gone {
			return s
		}
		s.mu.Unlock()
	}
}

// lookup returns the stamp with its mu held, or nil if there is none.
func (n *Network) lookup(name bulkhead.StampName) *stamp {
	n.mu.Lock()
	s := n.stamps[name]
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return nil
	}
	return s
}

// serve starts the stamp's name server unless it runs.
func (n *Network) serve(s *stamp) error {
	if s.server != nil {
		return nil
	}
	server, err := listen(gateway(s.subnet), s.names)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.serving {
		server.close()
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "the node is stopping")
	}
	s.server = server
	n.servers.Go(server.run)
	return nil
}

func (s *stamp) stopServer() {
	if s.server != nil {
		s.server.close()
		s.server = nil
	}
}

// startServers starts the name servers of all stamps that lack one.
func (n *Network) startServers() {
	for _, name := range n.known() {
		s := n.lookup(name)
		if s == nil {
			continue
		}
		if s.subnet.IsValid() {
			if err := n.serve(s); err != nil {
				n.cfg.Log.Error("a stamp is without names", "stamp", name, "err", err)
			}
		}
		s.mu.Unlock()
	}
}

func (n *Network) stopServers() {
	n.mu.Lock()
	n.serving = false
	n.mu.Unlock()
	for _, name := range n.known() {
		if s := n.lookup(name); s != nil {
			s.stopServer()
			s.mu.Unlock()
		}
	}
	n.servers.Wait()
}

// validate checks a name that becomes part of an alias or a file name. (A stamp
// or task that the servers sent has a stricter form anyway.)
func validate(kind, name string) error {
	if name == "" || name[0] == '.' || len(name) > 200 || strings.ContainsAny(name, "/: \x00\n") {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "network: %s name %.80q cannot be a file name", kind, name)
	}
	return nil
}

func setSysctl(key, value string) error {
	path := "/proc/sys/" + key
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil // also where /proc/sys is read-only
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}
