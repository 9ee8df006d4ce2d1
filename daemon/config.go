package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"bulkhead"
)

// Config says how one Bulkhead runs on this machine. The zero value of every
// field but Data means the default given there.
type Config struct {
	Data    string            // folder of everything that lasts; absolute
	API     string            // address of the users' API; default 127.0.0.1:7070
	NodeAPI string            // address of the nodes' API, mutual TLS; default 127.0.0.1:7071
	HTTP    string            // address of the gateway; default :8080
	HTTPS   string            // address of the gateway with TLS and HTTP/3; empty: none
	Domain  string            // stamps are known as STAMP.DOMAIN; default localhost
	Email   string            // of who answers for certificates; for ACME
	ACME    string            // URL of the ACME directory; default Let's Encrypt
	Node    bulkhead.NodeName // name of this machine; default its host name
	Subnet  netip.Prefix      // where stamps' networks are taken from; default 10.128.0.0/10
	// Containerd is the socket of the machine's containerd; default
	// /run/containerd/containerd.sock. "private": never that one.
	Containerd string
	Version    string       // of this binary; default "dev"
	Log        *slog.Logger // default: discarded

	// Server and Agent say which roles this process has; default both.
	Server, Agent bool
	// Advertise is a host name or address of this machine under which the other
	// machines of the farm reach it. Empty: there are no others, and no port is
	// opened for them; unless Join is set, which has a default for it.
	Advertise string
	Peer      string // address on which other servers call, mutual TLS; default :7072
	Hop       string // address on which other nodes' gateways call, mutual TLS; default :7073

	// Join is the address of a server of the farm to join, and JoinToken lets this
	// machine in. Once it has joined, both are left alone.
	Join, JoinToken string

	// Region, Zone, Labels and Extras are what placement knows of this node.
	Region, Zone string
	Labels       map[string]string
	Extras       map[string]float64 // see bulkhead.Resources
	// Inner: the gateway of this node serves only the node's own stamps.
	Inner bool

	LostAfter       time.Duration // see controller.Config
	CertificateLife time.Duration // default keys.CertificateLife

	// Up is called once everything answers. Its error ends Run.
	Up func(Running) error
}

// Running tells how to reach a Bulkhead that is up.
type Running struct {
	API   string // URL
	Token string // of the first operator; empty unless this data folder keeps it
	// Authority is the certificate, PEM, of who signs for the API; empty: it has no TLS.
	Authority []byte
	HTTP      string // URL of the gateway on this machine; empty: none
	Took      string // how long it took to come up
}

func (c Config) withDefaults() (Config, error) {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	if !c.Server && !c.Agent {
		c.Server, c.Agent = true, true
	}
	if c.Join != "" {
		join, err := joinAddress(c.Join)
		if err != nil {
			return c, err
		}
		c.Join = join
	}
	if c.Advertise == "" && (c.Join != "" || !c.Server || !c.Agent) {
		c.Advertise = outward(c.Join)
	}
	if strings.ContainsAny(c.Advertise, "/ ") || strings.Contains(c.Advertise, ":") && net.ParseIP(c.Advertise) == nil {
		return c, bulkhead.Errorf(bulkhead.ErrInvalid, "--advertise %q is neither a host name nor an address", c.Advertise).WithHint("for example --advertise 10.0.0.1; ports stand in --node-api, --peer and --hop")
	}
	set(&c.API, "127.0.0.1:7070")
	if c.Advertise != "" && c.Server {
		set(&c.NodeAPI, ":7071")
	}
	set(&c.NodeAPI, "127.0.0.1:7071")
	set(&c.Peer, ":7072")
	set(&c.Hop, ":7073")
	set(&c.HTTP, ":8080")
	set(&c.Domain, "localhost")
	set(&c.Version, "dev")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if !c.Subnet.IsValid() {
		c.Subnet = netip.MustParsePrefix("10.128.0.0/10")
	}
	if c.Node == "" {
		host, _ := os.Hostname()
		host, _, _ = strings.Cut(host, ".")
		name, err := bulkhead.ParseNodeName(host)
		if err != nil {
			name = "node"
		}
		c.Node = name
	}
	if _, err := bulkhead.ParseNodeName(string(c.Node)); err != nil {
		return c, err
	}
	if !filepath.IsAbs(c.Data) {
		return c, bulkhead.Errorf(bulkhead.ErrInvalid, "data folder %q is not an absolute path", c.Data)
	}
	c.Domain = strings.ToLower(strings.Trim(c.Domain, "."))
	for _, label := range strings.Split(c.Domain, ".") {
		if _, err := bulkhead.ParseProductName(label); err != nil {
			return c, bulkhead.Errorf(bulkhead.ErrInvalid, "domain %q is not a host name", c.Domain).WithHint("for example --domain example.com")
		}
	}
	return c, nil
}

// verb is the command that runs these roles.
func (c Config) verb() string {
	switch {
	case c.Server && c.Agent:
		return "up"
	case c.Server:
		return "server"
	}
	return "agent"
}

// port is an address that Run listens on, and the flag that changes it.
type port struct{ name, flag, addr string }

func (c Config) ports() []port {
	var out []port
	if c.Server {
		out = append(out, port{"API", "api", c.API}, port{"node API", "node-api", c.NodeAPI})
		if c.Advertise != "" {
			out = append(out, port{"servers", "peer", c.Peer})
		}
	}
	if c.Agent {
		out = append(out, port{"gateway", "http", c.HTTP}, port{"gateway with TLS", "https", c.HTTPS})
		if c.Advertise != "" {
			out = append(out, port{"gateways of other nodes", "hop", c.Hop})
		}
	}
	return out
}

// advertised is the address under which others reach what listens on addr, such
// as ":7071". Without Advertise it is that of this machine itself.
func (c Config) advertised(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = cmp.Or(c.Advertise, "127.0.0.1")
	}
	return net.JoinHostPort(host, port)
}

// public tells whether an address can be reached from other machines.
func public(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// joinAddress is HOST:PORT of a URL or address that a user gave.
func joinAddress(text string) (string, error) {
	address := strings.TrimSuffix(strings.TrimPrefix(text, "https://"), "/")
	if !strings.Contains(address, ":") {
		address += ":7071"
	}
	host, port, err := net.SplitHostPort(address)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 || strings.Contains(address, "/") {
		return "", bulkhead.Errorf(bulkhead.ErrInvalid, "--join %q is not the address of a server's node API", text).
			WithHint("for example --join https://10.0.0.1:7071; bulkhead token create prints it")
	}
	return address, nil
}

// outward is the address of this machine on the way to another, or to the world.
// Nothing is sent.
func outward(to string) string {
	if to == "" {
		to = "192.0.2.1:9" // of documentation (RFC 5737): only the route to it counts
	}
	conn, err := net.Dial("udp", to)
	if err != nil {
		return "127.0.0.1"
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

// portError says in one line why an address cannot be listened on.
func portError(p port, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return bulkhead.Errorf(bulkhead.ErrConflict, "the address of the %s, %s, is in use by another program", p.name, p.addr).
			WithHint("stop that program, or choose another address with --%s", p.flag)
	case errors.Is(err, syscall.EACCES):
		return bulkhead.Errorf(bulkhead.ErrDenied, "the address of the %s, %s, is only for root", p.name, p.addr)
	}
	return bulkhead.Errorf(bulkhead.ErrInvalid, "cannot listen on %s for the %s: %w", p.addr, p.name, err).
		WithHint("give an address such as 127.0.0.1:7070 with --%s", p.flag)
}

func listen(p port) (net.Listener, error) {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return nil, portError(p, err)
	}
	return l, nil
}

// pidOf is the process that holds a data folder, 0 if none does: the one that the
// lock file names, if it has that file open. Trying the lock itself would keep a
// Bulkhead that starts at that moment from getting it.
func pidOf(data string) int {
	path := filepath.Join(data, "lock")
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	lock, err := os.Stat(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	fds := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(fds) // none: the process has ended
	for _, e := range entries {
		if open, err := os.Stat(filepath.Join(fds, e.Name())); err == nil && os.SameFile(open, lock) {
			return pid
		}
	}
	return 0
}

// urlOf turns a listening address into a URL for this machine.
func urlOf(scheme string, addr net.Addr, host string) string {
	_, port, _ := net.SplitHostPort(addr.String())
	if scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		return fmt.Sprintf("%s://%s", scheme, host)
	}
	return fmt.Sprintf("%s://%s", scheme, net.JoinHostPort(host, port))
}
