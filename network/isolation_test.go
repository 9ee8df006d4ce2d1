package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bulkhead"
	"bulkhead/agent"
)

// Two instances with two stamps each, two tasks in every stamp: whoever shares
// a stamp talks by all means, whoever does not by none.
func TestStampsAreApart(t *testing.T) {
	one, two := running(t, "00a1"), running(t, "00a2")
	type member struct {
		stamp string
		agent.Endpoint
	}
	var all []member
	for i, n := range []*Network{one, one, two, two} {
		for j := range 2 {
			stamp := fmt.Sprint("stamp", i)
			e := join(t, n, bulkhead.StampName(stamp), fmt.Sprintf("web.%d-x", j+1))
			serveEcho(t, e.Netns, netip.AddrPortFrom(e.Address, webPort))
			all = append(all, member{stamp, e})
		}
	}
	var group sync.WaitGroup
	for _, from := range all {
		group.Go(func() {
			for _, to := range all {
				target := netip.AddrPortFrom(to.Address, webPort)
				if from.stamp == to.stamp {
					for _, network := range []string{"tcp4", "udp4"} {
						if _, err := reach(t, from.Netns, network, target, long); err != nil {
							t.Errorf("%s %s to %s in one stamp: %v", network, from.Task, to.Task, err)
						}
					}
					if err := ping(t, from.Netns, to.Address, long); err != nil {
						t.Errorf("ping %s to %s in one stamp: %v", from.Task, to.Task, err)
					}
					continue
				}
				if _, err := reach(t, from.Netns, "tcp4", target, short); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("tcp4 %s to %s in another stamp: %v, want %v", from.Task, to.Task, err, unix.ECONNREFUSED)
				}
				// The kernel bounds the rate of ICMP errors: some attempts end by a timeout.
				if _, err := reach(t, from.Netns, "udp4", target, short); err == nil {
					t.Errorf("udp4 %s to %s in another stamp: reached", from.Task, to.Task)
				}
				if err := ping(t, from.Netns, to.Address, short); err == nil {
					t.Errorf("%s can ping %s in another stamp", from.Task, to.Task)
				}
			}
		})
	}
	group.Wait()
}

// Every port of a task is open, its neighbour sees that, another stamp sees none.
func TestNoPortIsOpenToOtherStamps(t *testing.T) {
	n := running(t, "00b1")
	web, neighbour, stranger := join(t, n, "acme", "web.1-x"), join(t, n, "acme", "web.2-x"), join(t, n, "globex", "web.1-x")
	within(t, web.Netns, func() { // whatever comes in goes to port 80
		c, err := nftables.New()
		if err != nil {
			t.Error(err)
			return
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "all"})
		chain := c.AddChain(&nftables.Chain{
			Name: "all", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(protocol(unix.IPPROTO_TCP),
			&expr.Immediate{Register: 1, Data: []byte{0, webPort}}, &expr.Redir{RegisterProtoMin: 1})})
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
	serveEcho(t, web.Netns, netip.AddrPortFrom(web.Address, webPort))

	for _, port := range []uint16{1, 22, 80, 5432, 65535} {
		if _, err := reach(t, neighbour.Netns, "tcp4", netip.AddrPortFrom(web.Address, port), long); err != nil {
			t.Fatalf("the test is worthless: port %d is closed to a neighbour: %v", port, err)
		}
	}
	if open := scan(t, stranger.Netns, web.Address); len(open) > 0 {
		t.Errorf("%d ports of %s are open to another stamp, among them %d", len(open), web.Address, open[0])
	}
}

// scan returns the ports, of all, to which a connection can be made. It gives up
// when attempts are not refused at once.
func scan(t *testing.T, netns string, to netip.Addr) (open []int) {
	t.Helper()
	within(t, netns, func() {
		timeout := unix.NsecToTimeval(short.Nanoseconds())
		slow := 0
		for port := 1; port <= 65535; port++ {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout) // of connect, too
			switch err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: to.As4()}); err {
			case nil:
				open = append(open, port)
			case unix.EINPROGRESS:
				slow++
			}
			unix.Close(fd)
			if slow > 5 {
				t.Errorf("attempts to reach %s are not refused but run into timeouts", to)
				return
			}
		}
	})
	return open
}

// A task reaches nothing of the host but its own name server.
func TestHostIsClosed(t *testing.T) {
	n := running(t, "00c1")
	uplink, beyond := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	outside := newOutside(t, uplink, beyond)
	web, other := join(t, n, "acme", "web.1-x"), join(t, n, "globex", "web.1-x")
	const api = 7070
	everywhere := netip.AddrPortFrom(netip.IPv4Unspecified(), api)
	serveEcho(t, host, everywhere)
	if _, err := reach(t, "", "tcp4", netip.AddrPortFrom(web.Gateway, api), long); err != nil {
		t.Fatalf("the test is worthless: the host cannot reach itself: %v", err)
	}
	if _, err := reach(t, outside, "tcp4", netip.AddrPortFrom(uplink, api), long); err != nil {
		t.Fatalf("the rules are in the way of the host's own services: %v", err)
	}
	for _, address := range []netip.Addr{web.Gateway, other.Gateway, uplink, netip.MustParseAddr("127.0.0.1")} {
		for _, network := range []string{"tcp4", "udp4"} {
			if _, err := reach(t, web.Netns, network, netip.AddrPortFrom(address, api), short); err == nil {
				t.Errorf("a task reaches the host by %s at %s:%d", network, address, api)
			}
		}
	}
	if _, err := reach(t, web.Netns, "tcp4", netip.AddrPortFrom(other.Gateway, 53), short); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("another stamp's name server: %v, want %v", err, unix.ECONNREFUSED)
	}
	if err := ping(t, web.Netns, web.Gateway, long); err != nil {
		t.Errorf("ping the task's own gateway: %v", err)
	}
	for _, address := range []netip.Addr{other.Gateway, uplink} {
		if err := ping(t, web.Netns, address, short); err == nil {
			t.Errorf("a task can ping the host at %s", address)
		}
	}
	for _, p := range metadata {
		address := p.Addr()
		if !p.IsSingleIP() {
			address = netip.MustParseAddr("169.254.169.254")
		}
		// Someone is there: the host could reach it.
		within(t, outside, func() {
			lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
				t.Error(err)
			}
		})
		target := netip.AddrPortFrom(address, webPort)
		serveEcho(t, outside, target)
		if _, err := reach(t, "", "tcp4", target, long); err != nil {
			t.Fatalf("the test is worthless: the host cannot reach %s: %v", address, err)
		}
		if _, err := reach(t, web.Netns, "tcp4", target, short); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("metadata at %s: %v, want %v", address, err, unix.ECONNREFUSED)
		}
	}
}

func TestOutside(t *testing.T) {
	n := running(t, "00d1")
	uplink, beyond := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	outside := newOutside(t, uplink, beyond)
	web := join(t, n, "acme", "web.1-x")
	serveEcho(t, web.Netns, netip.AddrPortFrom(web.Address, webPort))
	serveEcho(t, outside, netip.AddrPortFrom(beyond, webPort))

	for _, network := range []string{"tcp4", "udp4"} {
		seen, err := reach(t, web.Netns, network, netip.AddrPortFrom(beyond, webPort), long)
		if err != nil || !strings.HasPrefix(seen, uplink.String()+":") {
			t.Errorf("%s to the outside: seen as %q, %v; want the host's address %s", network, seen, err, uplink)
		}
		if _, err := reach(t, "", network, netip.AddrPortFrom(web.Address, webPort), long); err != nil {
			t.Errorf("%s from the host to the task: %v", network, err)
		}
		if _, err := reach(t, outside, network, netip.AddrPortFrom(web.Address, webPort), short); err == nil {
			t.Errorf("%s from the outside reaches a task", network)
		}
	}
	if err := ping(t, web.Netns, beyond, long); err != nil {
		t.Errorf("ping the outside: %v", err)
	}

	t.Run("IPv6", func(t *testing.T) {
		within(t, web.Netns, func() {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				t.Error(err)
				return
			}
			if list, err := netlink.AddrList(eth0, netlink.FAMILY_V6); err != nil || len(list) > 0 {
				t.Errorf("the task has IPv6 addresses: %v, %v", list, err)
			}
		})
	})
}

// IPv6 is off, and would lead nowhere if a task could turn it on.
func TestIPv6(t *testing.T) {
	n := running(t, "00d2")
	web := join(t, n, "acme", "web.1-x")
	const api = "[fd00:b4::1]:53" // a port that IPv4 may reach
	// turnOn returns when address can be used, which the kernel does not wait for.
	turnOn := func(name, address, listen, peer string, at netip.Addr) {
		err := setSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "0")
		link, linkErr := netlink.LinkByName(name)
		if err := errors.Join(err, linkErr); err != nil {
			t.Error(err)
			return
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(address), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
		neighbour := &netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(peer), HardwareAddr: hardwareAddr(at)}
		if err := errors.Join(netlink.AddrAdd(link, a), netlink.NeighSet(neighbour)); err != nil {
			t.Error(err)
			return
		}
		l, err := net.Listen("tcp6", listen)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { l.Close() })
		for deadline := time.Now().Add(long); ; {
			c, err := net.DialTimeout("tcp6", listen, short)
			if err == nil {
				c.Close()
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("the test is worthless: %s is not reachable at home: %v", listen, err)
				return
			}
		}
	}
	turnOn(n.bridgeName(netip.PrefixFrom(web.Gateway, 24).Masked()), "fd00:b4::1", api, "fd00:b4::2", web.Address)
	within(t, web.Netns, func() { turnOn("eth0", "fd00:b4::2", "[fd00:b4::2]:7070", "fd00:b4::1", web.Gateway) })
	within(t, web.Netns, func() {
		if c, err := net.DialTimeout("tcp6", api, short); err == nil {
			c.Close()
			t.Error("a task reaches the host by IPv6")
		}
	})
}

// A task that sends from an address that is not of its bridge is not heard.
func TestForgedSource(t *testing.T) {
	n := running(t, "00e1")
	uplink, beyond := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	outside := newOutside(t, uplink, beyond)
	web, victim := join(t, n, "acme", "web.1-x"), join(t, n, "globex", "web.1-x")
	target := netip.AddrPortFrom(beyond, webPort)
	heard := make(chan netip.AddrPort, 100)
	within(t, outside, func() {
		u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(target))
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { u.Close() })
		go func() {
			for {
				_, from, err := u.ReadFromUDPAddrPort(make([]byte, 100))
				if err != nil {
					return
				}
				heard <- from
			}
		}()
	})
	send := func(source netip.Addr) {
		t.Helper()
		within(t, web.Netns, func() {
			lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
			if source != web.Address {
				if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: source.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
					t.Error(err)
					return
				}
			}
			c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), net.UDPAddrFromAddrPort(target))
			if err != nil {
				t.Errorf("send from %s: %v", source, err)
				return
			}
			defer c.Close()
			if _, err := c.Write([]byte("?")); err != nil {
				t.Error(err)
			}
		})
	}
	// rp_filter of the bridge would do alone what the rules do: without it, they must.
	if err := setSysctl("net/ipv4/conf/"+n.bridgeName(netip.PrefixFrom(web.Gateway, 24).Masked())+"/rp_filter", "0"); err != nil {
		t.Fatal(err)
	}
	for _, source := range []netip.Addr{victim.Address, uplink, netip.MustParseAddr("203.0.113.7")} {
		send(source)
	}
	send(web.Address) // whatever was sent before has arrived by now, or never will
	select {
	case <-heard:
	case <-time.After(long):
		t.Fatal("an honest packet is not heard either")
	}
	select {
	case from := <-heard:
		t.Errorf("a forged packet was heard, too, as from %s", from)
	case <-time.After(short):
	}
}

// The rules come back when someone takes them away, in whole or in part.
func TestRulesAreRestored(t *testing.T) {
	n := running(t, "00f1")
	web, stranger := join(t, n, "acme", "web.1-x"), join(t, n, "globex", "web.1-x")
	target := netip.AddrPortFrom(web.Address, webPort)
	serveEcho(t, web.Netns, target)
	take := map[string]func(c *nftables.Conn){
		"flush": func(c *nftables.Conn) { c.FlushRuleset() },
		"rule": func(c *nftables.Conn) {
			table := n.firewall.inetTable()
			rules, err := c.GetRules(table, &nftables.Chain{Name: "prerouting", Table: table})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				if err := c.DelRule(r); err != nil {
					t.Fatal(err)
				}
			}
		},
	}
	for name, away := range take {
		t.Run(name, func(t *testing.T) {
			c, err := n.firewall.connect()
			if err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			away(c)
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			for {
				_, err := reach(t, stranger.Netns, "tcp4", target, short)
				if errors.Is(err, unix.ECONNREFUSED) {
					break
				}
				if time.Since(before) > restoreEvery/2 {
					t.Fatalf("the rules are still away: %v", err)
				}
			}
			t.Logf("restored after %v", time.Since(before))
		})
	}
}

// br_netfilter lets the firewall see what passes within one bridge. That is on
// or off depending on what else runs on a machine, and must not matter.
func TestBridgeNetfilter(t *testing.T) {
	n := running(t, "00f2")
	one, two, stranger := join(t, n, "acme", "web.1-x"), join(t, n, "acme", "web.2-x"), join(t, n, "globex", "web.1-x")
	target := netip.AddrPortFrom(two.Address, webPort)
	serveEcho(t, two.Netns, target)
	for _, value := range []string{"0", "1"} {
		if err := setSysctl("net/bridge/bridge-nf-call-iptables", value); err != nil {
			t.Skip("this kernel has no br_netfilter:", err)
		}
		if _, err := reach(t, one.Netns, "tcp4", target, long); err != nil {
			t.Errorf("bridge-nf-call-iptables=%s: within a stamp: %v", value, err)
		}
		if _, err := reach(t, stranger.Netns, "tcp4", target, short); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("bridge-nf-call-iptables=%s: between stamps: %v", value, err)
		}
	}
}
