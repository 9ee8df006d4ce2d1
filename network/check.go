package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"bulkhead"
)

// Check looks whether this machine can carry stamps, and returns what is in the
// way: each finding is one line with a hint. It changes nothing on the host: it
// tries the firewall and the interfaces in a network namespace that it throws
// away. It needs root.
func Check(cfg Config) []error {
	if err := cfg.validate(); err != nil {
		return []error{err}
	}
	if os.Geteuid() != 0 {
		return []error{bulkhead.Errorf(bulkhead.ErrDenied, "networks of stamps can only be made by root").
			WithHint("run Bulkhead as root")}
	}
	var findings []error
	finding := func(kind, err error, hint, format string, args ...any) {
		e := bulkhead.Errorf(kind, format, args...).WithHint("%s", hint)
		e.Cause = err
		findings = append(findings, e)
	}
	var rules, links error
	if err := inNewNamespace(func() error {
		_, rules = (&firewall{table: "bulkhead-" + cfg.Instance}).ensure()
		links = tryLinks()
		return nil
	}); err != nil {
		finding(bulkhead.ErrUnavailable, err, "give this machine or container the capability CAP_SYS_ADMIN", "network namespaces cannot be made: %v", err)
		return findings
	}
	if rules != nil {
		finding(bulkhead.ErrUnavailable, rules, "load the kernel modules nf_tables, nft_ct, nft_fib_inet, nft_reject_inet, nft_masq and nft_chain_nat",
			"nftables cannot hold the rules that keep stamps apart: %v", rules)
	}
	if links != nil {
		finding(bulkhead.ErrUnavailable, links, "load the kernel modules bridge and veth", "interfaces cannot be made: %v", links)
	}
	const forwarding = "/proc/sys/net/ipv4/ip_forward"
	if now, err := os.ReadFile(forwarding); err != nil || strings.TrimSpace(string(now)) != "1" {
		if file, err := os.OpenFile(forwarding, os.O_WRONLY, 0); err != nil {
			finding(bulkhead.ErrUnavailable, err, "sysctl -w net.ipv4.ip_forward=1", "packets are not forwarded, and that cannot be changed from here")
		} else {
			file.Close()
		}
	}
	if table := foreignDrop(); table != "" {
		finding(bulkhead.ErrConflict, nil,
			"let interfaces whose names begin with bk pass, with Docker: iptables -I DOCKER-USER -i bk+ -j ACCEPT; iptables -I DOCKER-USER -o bk+ -j ACCEPT (Bulkhead's own rules still hold)",
			"another firewall (%s) drops forwarded packets by default: stamps cannot reach the outside", table)
	}
	// Any loopback address that nobody has bound tells whether all are taken.
	if packets, err := net.ListenPacket("udp4", "127.98.107.1:53"); errors.Is(err, syscall.EADDRINUSE) {
		finding(bulkhead.ErrConflict, err, "make it listen only on the machine's own addresses (dnsmasq: bind-dynamic; unbound: interface)",
			"another name server listens on port 53 of all addresses: stamps would have no names")
	} else if err == nil {
		packets.Close()
	}
	if len(newForwarder(cfg.ResolvConf).resolvers()) == 0 {
		finding(bulkhead.ErrNotFound, nil, "add a line such as: nameserver 192.0.2.1", "%s names no resolver: stamps cannot look up names of the outside", cfg.ResolvConf)
	}
	return findings
}

// tryLinks makes a bridge and a pair of interfaces.
func tryLinks() error {
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name = bridgePrefix + "check"
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0"}
	pair.Name, pair.MasterIndex = "check", br.Index
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	return nil
}

// foreignDrop names a chain that drops forwarded packets by default. It does not
// see the chains of iptables-legacy.
func foreignDrop() string {
	c, err := nftables.New()
	if err != nil {
		return ""
	}
	for _, kind := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		chains, err := c.ListChainsOfTableFamily(kind)
		if err != nil {
			return ""
		}
		for _, chain := range chains {
			if chain.Hooknum != nil && *chain.Hooknum == *nftables.ChainHookForward && chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
				return fmt.Sprintf("table %s, chain %s", chain.Table.Name, chain.Name)
			}
		}
	}
	return ""
}
