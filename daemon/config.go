package daemon

import (
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

	// Up is called once everything answers. Its error ends Run.
	Up func(Running) error
}

// Running tells how to reach a Bulkhead that is up.
type Running struct {
	API   string // URL
	Token string // of the first operator; empty unless this data folder keeps it
	HTTP  string // URL of the gateway on this machine
	Took  string // how long it took to come up
}

func (c Config) withDefaults() (Config, error) {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.API, "127.0.0.1:7070")
	set(&c.NodeAPI, "127.0.0.1:7071")
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

// port is an address that Run listens on, and the flag that changes it.
type port struct{ name, flag, addr string }

func (c Config) ports() []port {
	return []port{
		{"API", "api", c.API},
		{"node API", "node-api", c.NodeAPI},
		{"gateway", "http", c.HTTP},
		{"gateway with TLS", "https", c.HTTPS},
	}
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
