package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bulkhead"
	"bulkhead/agent"
)

func (n *Network) netns(id bulkhead.TaskID) string {
	return filepath.Join(n.cfg.Dir, "netns", string(id))
}

// attach makes the task's namespace and connects it with the bridge that has
// the given index. It leaves what it has done when it fails: see detach.
func (n *Network) attach(e agent.Endpoint, bridge int) error {
	// What a crash has left under the same name or address would be in the way.
	if err := n.detach(e); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(e.Netns), 0o755); err != nil {
		return fmt.Errorf("make folder for namespaces: %w", err)
	}
	inside, fd, err := newNamespace(e.Netns)
	if err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	defer fd.Close()
	defer inside.Close()

	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.pairName(e.Address)
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0",
		PeerHardwareAddr: hardwareAddr(e.Address), PeerNamespace: netlink.NsFd(int(fd.Fd())),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make interface: %w", err)
	}
	if err := disableIPv6(attrs.Name); err != nil {
		return err
	}
	if err := netlink.LinkSetMasterByIndex(pair, bridge); err != nil {
		return fmt.Errorf("connect interface with bridge: %w", err)
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return fmt.Errorf("set interface up: %w", err)
	}
	eth0, err := configure(inside, e)
	if err != nil {
		return err
	}
	host := new(netlink.Handle)
	if err := errors.Join(awaitUp(inside, eth0), awaitUp(host, pair.Index), awaitUp(host, bridge)); err != nil {
		return err
	}
	// The alias comes last: it says that everything is there.
	if err := netlink.LinkSetAlias(pair, n.alias(string(e.Task))); err != nil {
		return fmt.Errorf("set alias of interface: %w", err)
	}
	return nil
}

// awaitUp returns when an interface passes packets. A worker of the kernel lets
// it do so a moment after it has been set up; what is sent before is lost, and a
// lost question for an address is asked again only after a second.
func awaitUp(h *netlink.Handle, index int) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		link, err := h.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("look up interface %d: %w", index, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("interface %s does not come up: it is %s", link.Attrs().Name, link.Attrs().OperState)
		}
	}
}

// configure sets up the interfaces inside of a namespace, and returns the index
// of eth0.
func configure(inside *netlink.Handle, e agent.Endpoint) (eth0 int, err error) {
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}} // the first of every namespace
	if err := inside.LinkSetUp(lo); err != nil {
		return 0, fmt.Errorf("set lo up: %w", err)
	}
	link, err := inside.LinkByName("eth0")
	if err != nil {
		return 0, fmt.Errorf("look up eth0: %w", err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: e.Address.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := inside.AddrAdd(link, address); err != nil {
		return 0, fmt.Errorf("add address: %w", err)
	}
	if err := inside.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set eth0 up: %w", err)
	}
	if err := inside.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: e.Gateway.AsSlice()}); err != nil {
		return 0, fmt.Errorf("add default route: %w", err)
	}
	return link.Attrs().Index, nil
}

// attached tells whether a task that has joined still has its network.
func (n *Network) attached(e agent.Endpoint) bool {
	link, err := netlink.LinkByName(n.pairName(e.Address))
	return err == nil && link.Attrs().Alias == n.alias(string(e.Task)) && link.Attrs().MasterIndex != 0 && isNamespace(e.Netns)
}

// detach undoes attach, also half of it.
func (n *Network) detach(e agent.Endpoint) error {
	return errors.Join(deleteLink(n.pairName(e.Address)), removeNamespace(e.Netns))
}

// newNamespace makes a network namespace that is kept alive by path, and returns
// a handle to configure it and a file to name it by. The caller closes both.
func newNamespace(path string) (inside *netlink.Handle, fd *os.File, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	file.Close()
	defer func() {
		if err == nil {
			return
		}
		if fd != nil {
			fd.Close()
		}
		err = errors.Join(err, removeNamespace(path))
	}()
	err = inNewNamespace(func() error {
		// Interfaces made later inherit this. lo keeps ::1, which concerns nobody else.
		if err := disableIPv6("default"); err != nil {
			return err
		}
		// As Docker has it: images that do not run as root may bind port 80, and ping.
		if err := setSysctl("net/ipv4/ip_unprivileged_port_start", "0"); err != nil {
			return err
		}
		if err := setSysctl("net/ipv4/ping_group_range", "0\t2147483647"); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", path, err)
		}
		if fd, err = os.Open(path); err != nil {
			return err
		}
		inside, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return inside, fd, err
}

// inNewNamespace calls f on an OS thread that is in a new network namespace for
// that time. Sockets that f opens stay there.
func inNewNamespace(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("unshare: %w", err)
			return
		}
		err = f()
		// A thread that cannot come home stays locked, and ends with this goroutine:
		// no other goroutine may find itself in a task's network.
		if homeErr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); homeErr != nil {
			err = errors.Join(err, fmt.Errorf("return from network namespace: %w", homeErr))
		} else {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

func removeNamespace(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// isNamespace tells whether path is a bound namespace, and not what a reboot has
// left of it.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// gone tells that an interface has vanished meanwhile.
func gone(err error) bool { return errors.Is(err, unix.ENODEV) }
