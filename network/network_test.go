package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"bulkhead"
	"bulkhead/agent"
)

func TestJoin(t *testing.T) {
	n := running(t, "0a01")
	e := join(t, n, "acme", "web.1-x")
	if again := join(t, n, "acme", "web.1-x"); again != e {
		t.Errorf("joined again: %v, want %v", again, e)
	}
	second := join(t, n, "acme", "web.2-x")
	if second.Gateway != e.Gateway || second.Address == e.Address {
		t.Errorf("second task: %v, first %v", second, e)
	}
	if other := join(t, n, "globex", "web.1-x"); other.Gateway == e.Gateway {
		t.Errorf("two stamps share the bridge at %s", e.Gateway)
	}
	for key, want := range map[string]string{
		"net/ipv4/ip_unprivileged_port_start": "0",
		"net/ipv4/ping_group_range":           "0\t2147483647",
	} {
		within(t, e.Netns, func() {
			if got, err := os.ReadFile("/proc/sys/" + key); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %q, %v; want %q", key, got, err, want)
			}
		})
	}

	if err := n.Leave(t.Context(), "acme", e.Task); err != nil {
		t.Fatal(err)
	}
	if err := n.Leave(t.Context(), "acme", e.Task); err != nil {
		t.Errorf("leave again: %v", err)
	}
	if _, err := os.Stat(e.Netns); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace is still there after Leave: %v", err)
	}
	if third := join(t, n, "acme", "web.3-x"); third.Address == e.Address {
		t.Errorf("address %s is used again at once", e.Address)
	}
	if err := errors.Join(n.Remove(t.Context(), "acme"), n.Remove(t.Context(), "acme"), n.Remove(t.Context(), "nobody")); err != nil {
		t.Error(err)
	}
	list, err := n.List(t.Context())
	if err != nil || len(list) != 1 || len(list["globex"]) != 1 {
		t.Errorf("list after removal: %v, %v", list, err)
	}
}

// TestJoinReachable: the gateway gets through to a task as soon as it has joined.
// The kernel drops what an interface sends before it has noticed its carrier.
func TestJoinReachable(t *testing.T) {
	n := running(t, "0a0b")
	for i := range 8 {
		e := join(t, n, bulkhead.StampName(fmt.Sprintf("s%d", i)), "web.1-x")
		began := time.Now()
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(e.Address, 80).String(), 5*time.Second)
		if err == nil {
			conn.Close()
		}
		if took := time.Since(began); !errors.Is(err, unix.ECONNREFUSED) || took > 500*time.Millisecond {
			t.Errorf("stamp %d: nothing listens; dialing gives %v after %s", i, err, took.Round(time.Millisecond))
		}
	}
}

func TestJoinRefuses(t *testing.T) {
	n := running(t, "0a02")
	for _, id := range []bulkhead.TaskID{"", "..", "../../etc/x", "a b", "a:b", bulkhead.TaskID(strings.Repeat("x", 201))} {
		if _, err := n.Join(t.Context(), "acme", id); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("task %q: %v", id, err)
		}
	}
	if list, _ := n.List(t.Context()); len(list) > 0 {
		t.Errorf("refused, yet made: %v", list)
	}
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	idle := newNetwork(t, "0a03", t.TempDir())
	if _, err := idle.Join(ctx, "acme", "web"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("joined without a firewall: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no instance":  {Dir: "/run/x"},
		"bad instance": {Dir: "/run/x", Instance: "ABCD"},
		"relative":     {Dir: "run", Instance: "0001"},
		"wide pool":    {Dir: "/run/x", Instance: "0001", Pool: netip.MustParsePrefix("0.0.0.0/0")},
		"small pool":   {Dir: "/run/x", Instance: "0001", Pool: netip.MustParsePrefix("10.0.0.0/25")},
		"IPv6 pool":    {Dir: "/run/x", Instance: "0001", Pool: netip.MustParsePrefix("fd00::/16")},
	} {
		if _, err := New(cfg); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A pool of two subnets, of which something else on the machine has one.
func TestPool(t *testing.T) {
	office := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	office.Name = "office"
	if err := netlink.LinkAdd(office); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteLink("office") })
	if err := netlink.AddrAdd(office, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, 0, 200), Mask: net.CIDRMask(30, 32)}}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n, err := New(Config{Instance: "0a04", Dir: dir, Pool: netip.MustParsePrefix("10.99.0.0/23")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(t, n) })
	start(t, n)
	if e := join(t, n, "acme", "web.1-x"); e.Gateway != netip.MustParseAddr("10.99.1.1") {
		t.Errorf("gateway %s overlaps another interface", e.Gateway)
	}
	if _, err := n.Join(t.Context(), "globex", "web"); !errors.Is(err, bulkhead.ErrExhausted) {
		t.Errorf("the pool is used up: %v", err)
	}
	if err := n.Remove(t.Context(), "globex"); err != nil {
		t.Error(err)
	}
	if err := n.Remove(t.Context(), "acme"); err != nil {
		t.Error(err)
	}
	if e := join(t, n, "globex", "web.1-x"); e.Gateway != netip.MustParseAddr("10.99.1.1") {
		t.Errorf("a freed subnet is not used again: %s", e.Gateway)
	}
}

func TestFreeAddress(t *testing.T) {
	s := &stamp{subnet: netip.MustParsePrefix("10.128.3.0/24"), tasks: map[bulkhead.TaskID]agent.Endpoint{}}
	seen := map[netip.Addr]bool{}
	for i := range 253 {
		a, err := s.freeAddress()
		if err != nil || seen[a] || !s.subnet.Contains(a) || a.As4()[3] < 2 || a.As4()[3] > 254 {
			t.Fatalf("address %d: %v, %v", i, a, err)
		}
		seen[a] = true
		s.tasks[bulkhead.TaskID(fmt.Sprint(i))] = agent.Endpoint{Address: a}
		s.last = a
	}
	if _, err := s.freeAddress(); !errors.Is(err, bulkhead.ErrExhausted) {
		t.Errorf("all are used: %v", err)
	}
	delete(s.tasks, "7")
	if a, err := s.freeAddress(); err != nil || a != netip.MustParseAddr("10.128.3.9") {
		t.Errorf("the only free address: %v, %v", a, err)
	}
}

// What a process that was killed has left is adopted where it is complete, and
// removed where it is not; connections go on.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	first := newNetwork(t, "0a05", dir)
	stop := start(t, first)
	web, db := join(t, first, "acme", "web.1-x"), join(t, first, "acme", "db.1-x")
	join(t, first, "globex", "web.1-x")
	before, err := first.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stop()

	// A process that was killed has done the same, and these halves:
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	half := newNetwork(t, "0a05", dir)
	_, err = half.makeBridge("initech", netip.MustParsePrefix("10.129.0.0/24"))
	must(err)
	br, err := netlink.LinkByName("bk0a05-0a8100")
	must(err)
	must(netlink.LinkSetAlias(br, "")) // a bridge without its last step
	acme, err := netlink.LinkByName(half.bridgeName(netip.PrefixFrom(web.Gateway, 24).Masked()))
	must(err)
	lost := agent.Endpoint{Task: "acme.lost", Netns: half.netns("acme.lost"), Address: web.Gateway.Next().Next().Next(), Gateway: web.Gateway}
	must(half.attach(lost, acme.Attrs().Index))
	pair, err := netlink.LinkByName(half.pairName(lost.Address))
	must(err)
	must(netlink.LinkSetAlias(pair, "")) // a task without its last step
	must(os.WriteFile(half.netns("acme.reboot"), nil, 0o600))

	n := newNetwork(t, "0a05", dir)
	t.Cleanup(func() { removeAll(t, n) })
	after, err := n.List(t.Context())
	if err != nil || !reflect.DeepEqual(after, before) {
		t.Fatalf("adopted %v, %v; want %v", after, err, before)
	}
	start(t, n)
	if links := linksOf(t, n); len(links) != 5 { // two bridges, three tasks
		t.Errorf("interfaces after the restart: %v", links)
	}
	if files, _ := filepath.Glob(n.netns("*")); len(files) != 3 {
		t.Errorf("namespaces after the restart: %v", files)
	}
	if again := join(t, n, "acme", "web.1-x"); again != web {
		t.Errorf("joined again after the restart: %v, want %v", again, web)
	}
	if next := join(t, n, "acme", "web.2-x"); next.Address == web.Address || next.Address == db.Address {
		t.Errorf("an address was given twice: %v", next)
	}
	if err := ping(t, web.Netns, db.Address, long); err != nil {
		t.Errorf("ping between adopted tasks: %v", err)
	}
	if _, err := query(t, web.Netns, "udp", web.Gateway, "localhost", typeA); err != nil {
		t.Errorf("the name server of an adopted stamp: %v", err)
	}
}

// Someone deletes what a task needs: the next Join mends it.
func TestJoinMends(t *testing.T) {
	n := running(t, "0a06")
	web, db := join(t, n, "acme", "web.1-x"), join(t, n, "acme", "db.1-x")
	harm := map[string]func() error{
		"bridge":    func() error { return deleteLink(n.bridgeName(netip.PrefixFrom(web.Gateway, 24).Masked())) },
		"interface": func() error { return deleteLink(n.pairName(web.Address)) },
		"namespace": func() error { return removeNamespace(web.Netns) },
	}
	for name, f := range harm {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		if again := join(t, n, "acme", "web.1-x"); again != web {
			t.Errorf("%s: joined again: %v, want %v", name, again, web)
		}
		join(t, n, "acme", "db.1-x")
		if err := ping(t, web.Netns, db.Address, long); err != nil {
			t.Errorf("%s: ping after mending: %v", name, err)
		}
	}
}

// Two instances make stamps at the same time, out of one pool.
func TestRace(t *testing.T) {
	one, two := running(t, "0a07"), running(t, "0a08")
	var group errgroup.Group
	var mu sync.Mutex
	owner := map[netip.Addr]string{}
	began := time.Now()
	const stamps = 40
	for i := range stamps {
		for _, n := range []*Network{one, two} {
			group.Go(func() error {
				stamp := bulkhead.StampName(fmt.Sprint("s", i))
				e, err := n.Join(t.Context(), stamp, bulkhead.TaskID(stamp)+".web.1-x")
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				name := n.cfg.Instance + "/" + string(stamp)
				if other, taken := owner[e.Gateway]; taken {
					return fmt.Errorf("%s and %s share %s", other, name, e.Gateway)
				}
				owner[e.Gateway] = name
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d stamps in %v", 2*stamps, time.Since(began))
}

// No thread of the process is left behind in a task's namespace.
func TestThreadsStayAtHome(t *testing.T) {
	n := running(t, "0a09")
	for i := range 20 {
		join(t, n, "acme", fmt.Sprintf("web.%d-x", i))
	}
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && at != home {
			t.Errorf("%s is %s, want %s", link, at, home)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Instance: "0a0a", Dir: dir, ResolvConf: filepath.Join(dir, "resolv.conf")}
	if err := os.WriteFile(cfg.ResolvConf, []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if findings := Check(cfg); len(findings) > 0 {
		t.Errorf("findings on a sound machine: %v", findings)
	}
	everywhere, err := net.ListenPacket("udp4", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	defer everywhere.Close()
	if err := os.Remove(cfg.ResolvConf); err != nil {
		t.Fatal(err)
	}
	findings := Check(cfg)
	if len(findings) != 2 {
		t.Errorf("findings: %v, want the name server and the missing resolver", findings)
	}
	for _, f := range findings {
		var e *bulkhead.Error
		if !errors.As(f, &e) || e.Hint == "" {
			t.Errorf("finding without a hint: %v", f)
		}
	}
}

func BenchmarkJoin(b *testing.B) {
	b.Run("stamp", func(b *testing.B) { // bridge, name server and first task
		n := running(b, "0b01")
		for i := 0; b.Loop(); i++ {
			if i%1000 == 999 {
				b.StopTimer()
				removeAll(b, n)
				b.StartTimer()
			}
			join(b, n, bulkhead.StampName(fmt.Sprint("s", i)), "web.1-x")
		}
	})
	b.Run("task", func(b *testing.B) {
		n := running(b, "0b02")
		for i := 0; b.Loop(); i++ {
			if i%200 == 199 {
				b.StopTimer()
				removeAll(b, n)
				b.StartTimer()
			}
			join(b, n, "acme", fmt.Sprintf("web.%d-x", i))
		}
	})
	b.Run("200 stamps at once", func(b *testing.B) {
		n := running(b, "0b03")
		for b.Loop() {
			var group errgroup.Group
			for i := range 200 {
				group.Go(func() error {
					_, err := n.Join(context.Background(), bulkhead.StampName(fmt.Sprint("s", i)), bulkhead.TaskID(fmt.Sprintf("s%d.web.1-x", i)))
					return err
				})
			}
			if err := group.Wait(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			for i := range 200 {
				group.Go(func() error { return n.Remove(context.Background(), bulkhead.StampName(fmt.Sprint("s", i))) })
			}
			if err := group.Wait(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}
