package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"bulkhead"
	"bulkhead/agent"
)

// TestMain runs all tests in a network and a mount namespace of their own: this
// is "the host" of the tests. Nothing they do reaches the machine, several runs
// do not meet, and everything is gone with the process.
func TestMain(m *testing.M) {
	const inside = "BULKHEAD_NETWORK_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		runtime.LockOSThread() // Pdeathsig is the thread's death
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			os.Exit(max(exit.ExitCode(), 1))
		case err != nil:
			fmt.Fprintln(os.Stderr, "these tests make network namespaces, for which they need root:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}),
	); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// host is where all tests begin, and all threads belong.
const host = "/proc/thread-self/ns/net"

const webPort = 80

// newNetwork makes a Network that is not running. Its folder outlives it when
// the test makes another with the same instance and folder.
func newNetwork(t testing.TB, instance, dir string) *Network {
	t.Helper()
	n, err := New(Config{
		Instance: instance, Dir: dir, ResolvConf: filepath.Join(dir, "resolv.conf"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// start runs n until the returned function is called, or the test ends.
func start(t testing.TB, n *Network) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	select {
	case <-n.ready:
	case err := <-done:
		t.Fatalf("Run: %v", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// running is a started Network that leaves nothing behind.
func running(t testing.TB, instance string) *Network {
	t.Helper()
	n := newNetwork(t, instance, t.TempDir())
	t.Cleanup(func() { removeAll(t, n) })
	start(t, n)
	return n
}

func removeAll(t testing.TB, n *Network) {
	list, err := n.List(context.Background())
	if err != nil {
		t.Error(err)
	}
	var group errgroup.Group
	for stamp := range list {
		group.Go(func() error { return n.Remove(context.Background(), stamp) })
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if links := linksOf(t, n); len(links) > 0 {
		t.Errorf("interfaces left behind: %v", links)
	}
	if files, _ := filepath.Glob(n.netns("*")); len(files) > 0 {
		t.Errorf("namespaces left behind: %v", files)
	}
	if err := n.Purge(context.Background()); err != nil {
		t.Error(err)
	}
}

func linksOf(t testing.TB, n *Network) (list []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		name := link.Attrs().Name
		if _, ok := n.subnetOf(name); ok {
			list = append(list, name)
		}
		if _, ok := n.addressOf(name); ok {
			list = append(list, name)
		}
	}
	return list
}

func join(t testing.TB, n *Network, stamp bulkhead.StampName, task string) agent.Endpoint {
	t.Helper()
	e, err := n.Join(t.Context(), stamp, bulkhead.TaskID(string(stamp)+"."+task))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// within calls f on a thread that is in the network namespace at path. What f
// starts as goroutines is not in it.
func within(t testing.TB, path string, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			defer home.Close()
			there, err := os.Open(path)
			if err != nil {
				return err
			}
			defer there.Close()
			if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			f()
			if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			runtime.UnlockOSThread()
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Errorf("enter %s: %v", path, err)
	}
}

// serveEcho answers TCP and UDP at address, from within a namespace, until the
// test ends.
func serveEcho(t testing.TB, netns string, address netip.AddrPort) {
	t.Helper()
	within(t, netns, func() {
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(address))
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, c.RemoteAddr())
				c.Close()
			}
		}()
		u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(address))
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { u.Close() })
		go func() {
			b := make([]byte, 1500)
			for {
				_, from, err := u.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				_, _ = u.WriteToUDPAddrPort([]byte(from.String()), from)
			}
		}()
	})
}

// short is how long a test waits for what must not come; long, for what must.
const (
	short = 300 * time.Millisecond
	long  = 5 * time.Second
)

// reach exchanges a message with a server that serveEcho has started, from within
// a namespace ("": the host), and returns the address that it has seen.
func reach(t testing.TB, netns, network string, to netip.AddrPort, wait time.Duration) (seen string, err error) {
	t.Helper()
	return exchange(t, netns, network, netip.Addr{}, to, wait)
}

func exchange(t testing.TB, netns, network string, from netip.Addr, to netip.AddrPort, wait time.Duration) (seen string, err error) {
	t.Helper()
	if netns == "" {
		netns = host
	}
	within(t, netns, func() {
		var conn net.Conn
		dialer := net.Dialer{Timeout: wait}
		if from.IsValid() && network == "udp4" {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		} else if from.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		if conn, err = dialer.Dial(network, to.String()); err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(wait))
		if network == "udp4" {
			if _, err = conn.Write([]byte("?")); err != nil {
				return
			}
		}
		b := make([]byte, 100)
		var count int
		count, err = conn.Read(b)
		seen = string(b[:count])
	})
	return seen, err
}

// ping sends one ICMP echo request by an unprivileged socket.
func ping(t testing.TB, netns string, to netip.Addr, wait time.Duration) (err error) {
	t.Helper()
	within(t, netns, func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP); err != nil {
			return
		}
		defer unix.Close(fd)
		timeout := unix.NsecToTimeval(wait.Nanoseconds())
		if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return
		}
		if err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
			return
		}
		if _, err = unix.Write(fd, []byte{8, 0, 0, 0, 0, 0, 0, 1}); err != nil {
			return
		}
		_, err = unix.Read(fd, make([]byte, 100))
	})
	return err
}

// newOutside is a machine beyond the host: a namespace with the given address,
// that the host reaches directly and by default.
func newOutside(t testing.TB, uplinkAddress, address netip.Addr) (netns string) {
	t.Helper()
	netns = filepath.Join(t.TempDir(), "outside")
	inside, fd, err := newNamespace(netns)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	defer inside.Close()
	t.Cleanup(func() {
		if err := removeNamespace(netns); err != nil {
			t.Error(err)
		}
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink"
	uplink := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(fd.Fd()))}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(uplink))
	t.Cleanup(func() {
		if err := deleteLink("uplink"); err != nil {
			t.Error(err)
		}
	})
	must(netlink.AddrAdd(uplink, &netlink.Addr{IPNet: &net.IPNet{IP: uplinkAddress.AsSlice(), Mask: net.CIDRMask(24, 32)}}))
	must(netlink.LinkSetUp(uplink))
	_, err = configure(inside, agent.Endpoint{Address: address, Gateway: uplinkAddress})
	must(err)
	must(netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Index, Gw: address.AsSlice()}))
	return netns
}
