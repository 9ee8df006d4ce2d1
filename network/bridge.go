package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bulkhead"
	"bulkhead/agent"
)

// Interface names hold at most 15 bytes, and say which address they belong to:
// bk1a2b-0a8001 is the bridge of 10.128.1.0/24, bv1a2b0a800102 the host's end
// of 10.128.1.2. The firewall knows bridges, of every instance, by "bk".
const bridgePrefix = "bk"

func (n *Network) bridgeName(subnet netip.Prefix) string {
	a := subnet.Addr().As4()
	return fmt.Sprintf("%s%s-%x", bridgePrefix, n.cfg.Instance, a[:3])
}

func (n *Network) pairName(a netip.Addr) string {
	return fmt.Sprintf("bv%s%x", n.cfg.Instance, a.As4())
}

// subnetOf undoes bridgeName.
func (n *Network) subnetOf(bridge string) (netip.Prefix, bool) {
	var a [4]byte
	digits, ok := strings.CutPrefix(bridge, bridgePrefix+n.cfg.Instance+"-")
	if !ok || len(digits) != 6 {
		return netip.Prefix{}, false
	}
	_, err := fmt.Sscanf(digits, "%02x%02x%02x", &a[0], &a[1], &a[2])
	return netip.PrefixFrom(netip.AddrFrom4(a), 24), err == nil
}

// addressOf undoes pairName.
func (n *Network) addressOf(pair string) (netip.Addr, bool) {
	var a [4]byte
	digits, ok := strings.CutPrefix(pair, "bv"+n.cfg.Instance)
	if !ok || len(digits) != 8 {
		return netip.Addr{}, false
	}
	_, err := fmt.Sscanf(digits, "%02x%02x%02x%02x", &a[0], &a[1], &a[2], &a[3])
	return netip.AddrFrom4(a), err == nil
}

// alias is what marks an interface as complete.
func (n *Network) alias(owner string) string { return "bulkhead:" + n.cfg.Instance + ":" + owner }

func gateway(subnet netip.Prefix) netip.Addr { return subnet.Addr().Next() }

// hardwareAddr is derived from the address, so that a neighbour that remembers
// the one is never wrong about the other.
func hardwareAddr(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0xb4, b[0], b[1], b[2], b[3]}
}

// bridge returns the index of the stamp's bridge, made if need be.
func (n *Network) bridge(name bulkhead.StampName, s *stamp) (int, error) {
	if s.subnet.IsValid() {
		link, err := netlink.LinkByName(n.bridgeName(s.subnet))
		if err == nil {
			return link.Attrs().Index, nil
		}
		if !errors.As(err, new(netlink.LinkNotFoundError)) {
			return 0, fmt.Errorf("look up bridge: %w", err)
		}
		// Someone has deleted it, and its addresses with it. Its tasks keep their
		// places: each is attached anew when it joins again.
		s.stopServer()
		return n.makeBridge(name, s.subnet)
	}
	used, err := usedPrefixes()
	if err != nil {
		return 0, err
	}
	for subnet := n.firstSubnet(); n.cfg.Pool.Overlaps(subnet); subnet = nextSubnet(subnet) {
		if overlaps(used, subnet) || !n.take(subnet) {
			continue
		}
		index, err := n.makeBridge(name, subnet)
		if err == nil {
			s.subnet = subnet
			return index, nil
		}
		n.mu.Lock()
		delete(n.subnets, subnet)
		n.mu.Unlock()
		if !errors.Is(err, unix.EEXIST) { // EEXIST: another instance was faster
			return 0, err
		}
	}
	return 0, bulkhead.Errorf(bulkhead.ErrExhausted, "no /24 of the pool %s is free", n.cfg.Pool).
		WithHint("choose a pool that no route of this machine overlaps, or remove stamps")
}

func (n *Network) firstSubnet() netip.Prefix { return netip.PrefixFrom(n.cfg.Pool.Addr(), 24) }

func nextSubnet(p netip.Prefix) netip.Prefix {
	a := p.Addr().As4()
	for i := 2; i >= 0; i-- {
		a[i]++
		if a[i] != 0 {
			return netip.PrefixFrom(netip.AddrFrom4(a), 24)
		}
	}
	return netip.Prefix{} // past the last: overlaps no pool
}

// take reserves a subnet among the stamps of this process.
func (n *Network) take(subnet netip.Prefix) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.subnets[subnet] {
		return false
	}
	n.subnets[subnet] = true
	return true
}

func overlaps(list []netip.Prefix, p netip.Prefix) bool {
	for _, q := range list {
		if q.Overlaps(p) {
			return true
		}
	}
	return false
}

// usedPrefixes is every destination that the machine has a route to, in any
// table (the table "local" holds its own addresses), but for default routes.
func usedPrefixes() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var list []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		if bits, _ := r.Dst.Mask.Size(); bits > 0 {
			list = append(list, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	return list, nil
}

// makeBridge makes the stamp's bridge. It fails with EEXIST, and has changed
// nothing, when subnet has been taken meanwhile.
func (n *Network) makeBridge(stamp bulkhead.StampName, subnet netip.Prefix) (index int, err error) {
	name := n.bridgeName(subnet)
	if err := deleteLink(name); err != nil { // left by a crash halfway
		return 0, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.HardwareAddr = hardwareAddr(gateway(subnet)) // else it changes with every task
	snooping := false
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(br); err != nil {
		return 0, fmt.Errorf("make bridge %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, deleteLink(name))
		}
	}()
	for _, sysctl := range [][2]string{
		{"net/ipv4/conf/" + name + "/rp_filter", "1"},
		{"net/ipv4/conf/" + name + "/arp_ignore", "1"}, // ARP tells nothing of the host's other addresses
	} {
		if err := setSysctl(sysctl[0], sysctl[1]); err != nil {
			return 0, err
		}
	}
	if err := disableIPv6(name); err != nil {
		return 0, err
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return 0, fmt.Errorf("set %s up: %w", name, err)
	}
	// Instances race for subnets in different processes. The routing table is the
	// arbiter: this route is made exclusively, and when the address is there, the
	// kernel's own route to the same destination has taken its place.
	dst := &net.IPNet{IP: subnet.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}
	claim := &netlink.Route{LinkIndex: br.Index, Dst: dst, Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC}
	if err := netlink.RouteAdd(claim); err != nil {
		return 0, fmt.Errorf("claim subnet %s: %w", subnet, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: gateway(subnet).AsSlice(), Mask: dst.Mask}}
	if err := netlink.AddrAdd(br, address); err != nil {
		return 0, fmt.Errorf("add address to %s: %w", name, err)
	}
	if err := netlink.RouteDel(claim); err != nil {
		return 0, fmt.Errorf("release claim of %s: %w", subnet, err)
	}
	if err := netlink.LinkSetAlias(br, n.alias(string(stamp))); err != nil {
		return 0, fmt.Errorf("set alias of %s: %w", name, err)
	}
	return br.Index, nil
}

// disableIPv6 also spares the interface the wait for duplicate addresses.
func disableIPv6(name string) error {
	err := setSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil // this kernel runs without IPv6
	}
	return err
}

// found is what exists of this instance.
type found struct {
	bridges   map[bulkhead.StampName]bridge
	leftLinks []string // interfaces that are not complete
	leftFiles []string // of namespaces that are not complete
}

type bridge struct {
	subnet netip.Prefix
	tasks  map[bulkhead.TaskID]agent.Endpoint
}

// scan asks the kernel what exists.
func (n *Network) scan() (found, error) {
	f := found{bridges: map[bulkhead.StampName]bridge{}}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return f, fmt.Errorf("list interfaces: %w", err)
	}
	byIndex := map[int]bridge{}
	for _, link := range links {
		a := link.Attrs()
		subnet, ok := n.subnetOf(a.Name)
		if !ok {
			continue
		}
		owner, complete := strings.CutPrefix(a.Alias, n.alias(""))
		name := bulkhead.StampName(owner)
		if _, twice := f.bridges[name]; !complete || twice {
			f.leftLinks = append(f.leftLinks, a.Name)
			continue
		}
		f.bridges[name] = bridge{subnet, map[bulkhead.TaskID]agent.Endpoint{}}
		byIndex[a.Index] = f.bridges[name]
	}
	used := map[string]bool{}
	for _, link := range links {
		a := link.Attrs()
		address, ok := n.addressOf(a.Name)
		if !ok {
			continue
		}
		owner, complete := strings.CutPrefix(a.Alias, n.alias(""))
		id := bulkhead.TaskID(owner)
		b, ok := byIndex[a.MasterIndex]
		if !complete || !ok || !isNamespace(n.netns(id)) {
			f.leftLinks = append(f.leftLinks, a.Name)
			continue
		}
		b.tasks[id] = agent.Endpoint{Task: id, Netns: n.netns(id), Address: address, Gateway: gateway(b.subnet)}
		used[n.netns(id)] = true
	}
	files, err := filepath.Glob(n.netns("*"))
	if err != nil {
		return f, err
	}
	for _, path := range files {
		if !used[path] {
			f.leftFiles = append(f.leftFiles, path)
		}
	}
	return f, nil
}

// sweep removes what a crash halfway has left. It runs before the first Join.
func (n *Network) sweep() error {
	f, err := n.scan()
	if err != nil {
		return err
	}
	for _, name := range f.leftLinks {
		n.cfg.Log.Info("removing a leftover interface", "name", name)
		if err := deleteLink(name); err != nil {
			return err
		}
	}
	for _, path := range f.leftFiles {
		n.cfg.Log.Info("removing a leftover namespace", "path", path)
		if err := removeNamespace(path); err != nil {
			return err
		}
	}
	return nil
}
