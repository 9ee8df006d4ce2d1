package store

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/keys"
)

// wire is what lies between the members of a cluster in this process: each member's
// advertised address is a relay, which knows by its certificate who calls. So what
// one sends to another can be held up, in one direction or both, as if its packets
// were dropped: what was sent arrives when the wire is whole again.
type wire struct {
	mu   sync.Mutex
	cond *sync.Cond         // of changes of cut
	cut  map[[2]string]bool // from, to; guarded by mu
}

func newWire() *wire {
	w := &wire{cut: map[[2]string]bool{}}
	w.cond = sync.NewCond(&w.mu)
	return w
}

// set cuts the wire from one member to another, or mends it.
func (w *wire) set(cut bool, from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]string{from, to}] = cut
	w.cond.Broadcast()
}

// whole mends all of it.
func (w *wire) whole() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	w.cond.Broadcast()
}

// pass waits until something may go from one to the other.
func (w *wire) pass(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.cut[[2]string{from, to}] {
		w.cond.Wait()
	}
}

// carry copies what one sends to the other until either hangs up.
func (w *wire) carry(from, to string, source, sink net.Conn) {
	defer sink.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := source.Read(buffer)
		w.pass(from, to)
		if n > 0 {
			if _, err := sink.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cluster is several stores in this process that agree.
type cluster struct {
	t         *testing.T
	wire      *wire
	authority *keys.Authority
	members   []*clusterMember
}

type clusterMember struct {
	name   string
	peers  Peers
	relay  net.Listener
	folder *Folder

	mu    sync.Mutex
	store *Store // nil while it is down; guarded by mu
}

// get is the member's store, nil while it is down.
func (m *clusterMember) get() *Store {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store
}

// newCluster starts three members.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	authority, err := keys.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, wire: newWire(), authority: authority}
	pairs := map[*clusterMember]*tls.Certificate{}
	for i := range 3 {
		m, pair := c.member(fmt.Sprintf("s%d", i+1))
		c.members, pairs[m] = append(c.members, m), pair
	}
	for _, m := range c.members {
		go c.relay(m, pairs)
	}
	t.Cleanup(func() {
		c.wire.whole()
		var closing sync.WaitGroup
		for _, m := range c.members {
			closing.Go(func() { c.down(m); _ = m.folder.Close() })
		}
		closing.Wait()
	})
	for i, m := range c.members {
		if i > 0 {
			if m.peers.Join, err = c.members[0].get().AddMember(t.Context(), m.peers.Advertise); err != nil {
				t.Fatal(err)
			}
		}
		c.up(m)
	}
	return c
}

// member prepares a member and the relay before it.
func (c *cluster) member(name string) (*clusterMember, *tls.Certificate) {
	c.t.Helper()
	dir := c.t.TempDir()
	pair, err := c.authority.Issue(keys.Subject{Role: keys.RoleServer, Name: bulkhead.NodeName(name)})
	if err != nil {
		c.t.Fatal(err)
	}
	file, authority := filepath.Join(dir, "server.pem"), filepath.Join(dir, "authority.pem")
	if err := keys.SavePair(file, pair); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(authority, c.authority.PEM(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	folder, err := Lock(filepath.Join(dir, "data"))
	if err != nil {
		c.t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
	if err != nil {
		c.t.Fatal(err)
	}
	listen := inner.Addr().String()
	_ = inner.Close()
	relay, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = relay.Close() })
	return &clusterMember{name: name, relay: relay, folder: folder, peers: Peers{
		Listen: listen, Advertise: relay.Addr().String(), HostName: keys.ServerHostName,
		Certificate: file, Key: file, Authority: authority,
	}}, pair
}

// relay takes calls for a member and passes them on under the caller's certificate.
func (c *cluster) relay(to *clusterMember, pairs map[*clusterMember]*tls.Certificate) {
	config := &tls.Config{Certificates: []tls.Certificate{*pairs[to]}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.authority.Pool()}
	for {
		conn, err := to.relay.Accept()
		if err != nil {
			return
		}
		go func() {
			caller := tls.Server(conn, config)
			defer caller.Close()
			if caller.Handshake() != nil {
				return
			}
			name := caller.ConnectionState().PeerCertificates[0].Subject.CommonName
			from := c.members[slices.IndexFunc(c.members, func(m *clusterMember) bool { return m.name == name })]
			c.wire.pass(from.name, to.name)
			c.wire.pass(to.name, from.name)
			called, err := tls.Dial("tcp", to.peers.Listen, &tls.Config{
				RootCAs: c.authority.Pool(), ServerName: keys.ServerHostName, Certificates: []tls.Certificate{*pairs[from]},
			})
			if err != nil {
				return
			}
			go c.wire.carry(to.name, from.name, called, caller)
			c.wire.carry(from.name, to.name, caller, called)
		}()
	}
}

// up starts a member that is down.
func (c *cluster) up(m *clusterMember) {
	c.t.Helper()
	s, err := Open(c.t.Context(), Config{Folder: m.folder, Name: m.name, Peers: &m.peers, Lease: 2 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	m.mu.Lock()
	m.store = s
	m.mu.Unlock()
}

// down ends a member as kill does: it hands nothing over.
func (c *cluster) down(m *clusterMember) {
	m.mu.Lock()
	s := m.store
	m.store = nil
	m.mu.Unlock()
	if s != nil {
		s.engine.(*etcd).server.Server.HardStop()
		_ = s.Close()
	}
}

// leader waits until one member leads by the word of all that are up.
func (c *cluster) leader() *clusterMember {
	c.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		leaders := map[string]int{}
		for _, m := range c.members {
			if s := m.get(); s != nil {
				leaders[s.engine.(*etcd).server.Server.Leader().String()]++
			}
		}
		for _, m := range c.members {
			if s := m.get(); s != nil && len(leaders) == 1 && leaders[s.engine.(*etcd).server.Server.MemberID().String()] > 0 {
				return m
			}
		}
	}
	c.t.Fatal("the members do not agree on a leader within 30 s")
	return nil
}

// isolate cuts a member off from all others: what it sends ("out"), what it gets
// ("in"), or both.
func (c *cluster) isolate(m *clusterMember, direction string) {
	for _, other := range c.members {
		if other == m {
			continue
		}
		if direction != "in" {
			c.wire.set(true, m.name, other.name)
		}
		if direction != "out" {
			c.wire.set(true, other.name, m.name)
		}
	}
}
