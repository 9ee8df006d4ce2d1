package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"bulkhead"
)

// firewall is one table of rules that never change: bridges are known by the
// beginning of their name, and their subnets by the routing table. In the
// language of nft:
//
//	table inet bulkhead-INSTANCE {
//	  chain prerouting { type filter hook prerouting priority raw
//	    iifname bk* meta nfproto ipv6 drop
//	    iifname bk* fib saddr . iif oif missing drop                            # forged source
//	    iifname bk* fib daddr . iif oif missing fib daddr oifname bk* reject    # another stamp
//	  }
//	  chain forward { type filter hook forward priority filter
//	    iifname bk* oifname bk* ct status dnat drop
//	    iifname bk* oifname bk* accept            # within one bridge, with br_netfilter
//	    iifname bk* ip daddr METADATA reject
//	    iifname bk* accept
//	    oifname bk* ct state established,related accept
//	    oifname bk* drop
//	  }
//	  chain input { type filter hook input priority filter
//	    iifname bk* jump stamp
//	  }
//	  chain stamp {
//	    ct state established,related accept
//	    fib daddr . iif type != local reject      # not the bridge's own address
//	    icmp type echo-request accept
//	    udp dport 53 accept
//	    tcp dport 53 accept
//	    reject
//	  }
//	  chain postrouting { type nat hook postrouting priority srcnat
//	    iifname bk* oifname != bk* masquerade
//	  }
//	}
//
// Stamps are told apart in prerouting, because before Linux 5.19 a lookup of
// the route back is allowed only there.
type firewall struct {
	table   string
	inPlace []string // fingerprint of the rules that ensure has put in place; used by one goroutine
}

// metadata is where clouds answer a machine's questions about itself, its
// credentials among them.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),     // AWS, Google, Azure, OpenStack and most others; link-local
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's host
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}

// ensure puts the rules in place unless they are there just as it has left them.
// The first call always does, in one transaction: an older version's rules are
// replaced without a gap.
func (f *firewall) ensure() (restored bool, err error) {
	if f.inPlace != nil {
		now, err := f.fingerprint()
		if err != nil {
			return false, err
		}
		if slices.Equal(now, f.inPlace) {
			return false, nil
		}
	}
	c, err := f.connect()
	if err != nil {
		return false, err
	}
	size := f.install(c)
	if err := c.Flush(); err != nil {
		return false, bulkhead.Errorf(bulkhead.ErrUnavailable, "put firewall rules in place: %w", err).
			WithHint("the kernel needs nf_tables with fib, ct, reject and masquerade for inet")
	}
	now, err := f.fingerprint()
	if err != nil {
		return true, err
	}
	if f.inPlace = now; len(now) != size {
		f.inPlace = nil // somebody was here between: the change is being told, and we come again
	}
	return true, nil
}

// fingerprint lists the table's chains, and the handles of their rules in order.
// The kernel never uses a handle twice.
func (f *firewall) fingerprint() ([]string, error) {
	c, err := f.connect()
	if err != nil {
		return nil, err
	}
	list := []string{}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list firewall chains: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name != f.table {
			continue
		}
		list = append(list, "chain "+chain.Name)
		rules, err := c.GetRules(chain.Table, chain)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile: the list differs
		}
		if err != nil {
			return nil, fmt.Errorf("list firewall rules: %w", err)
		}
		for _, rule := range rules {
			list = append(list, fmt.Sprint("rule ", rule.Handle))
		}
	}
	return list, nil
}

func (f *firewall) connect() (*nftables.Conn, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return c, nil
}

func (f *firewall) inetTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: f.table}
}

// install writes the table to c, and returns how many chains and rules it has.
func (f *firewall) install(c *nftables.Conn) (size int) {
	table := f.inetTable()
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)

	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		size++
		return c.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: priority})
	}
	rule := func(to *nftables.Chain, parts ...[]expr.Any) {
		size++
		c.AddRule(&nftables.Rule{Table: table, Chain: to, Exprs: slices.Concat(parts...)})
	}
	// Connections are reset and everything else is told that it is prohibited.
	rejectAll := func(to *nftables.Chain, parts ...[]expr.Any) {
		match := slices.Concat(parts...)
		rule(to, match, protocol(unix.IPPROTO_TCP), verdict(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
		rule(to, match, verdict(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}))
	}
	accept, drop := &expr.Verdict{Kind: expr.VerdictAccept}, &expr.Verdict{Kind: expr.VerdictDrop}
	fromStamp := bridgeName(expr.MetaKeyIIFNAME, expr.CmpOpEq)
	toStamp := bridgeName(expr.MetaKeyOIFNAME, expr.CmpOpEq)
	answer := conntrack(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)

	prerouting := chain("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	rule(prerouting, fromStamp, family(unix.NFPROTO_IPV6), verdict(drop))
	rule(prerouting, fromStamp, notVia(&expr.Fib{FlagSADDR: true}), verdict(drop))
	rejectAll(prerouting, fromStamp, notVia(&expr.Fib{FlagDADDR: true}), routedToStamp())

	forward := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	const dnat = 1 << 5 // IPS_DST_NAT
	rule(forward, fromStamp, toStamp, conntrack(expr.CtKeySTATUS, dnat), verdict(drop))
	rule(forward, fromStamp, toStamp, verdict(accept))
	for _, p := range metadata {
		rejectAll(forward, fromStamp, destination(p))
	}
	rule(forward, fromStamp, verdict(accept))
	rule(forward, toStamp, answer, verdict(accept))
	rule(forward, toStamp, verdict(drop))

	stamp := chain("stamp", "", nil, nil)
	rule(stamp, answer, verdict(accept))
	rejectAll(stamp, notLocal())
	rule(stamp, protocol(unix.IPPROTO_ICMP), transport(0, 8), verdict(accept)) // type: echo-request
	rule(stamp, protocol(unix.IPPROTO_UDP), transport(2, 0, 53), verdict(accept))
	rule(stamp, protocol(unix.IPPROTO_TCP), transport(2, 0, 53), verdict(accept))
	rejectAll(stamp)

	input := chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	rule(input, fromStamp, verdict(&expr.Verdict{Kind: expr.VerdictJump, Chain: stamp.Name}))

	postrouting := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	rule(postrouting, fromStamp, bridgeName(expr.MetaKeyOIFNAME, expr.CmpOpNeq), verdict(&expr.Masq{}))
	return size
}

// What follows are the matches of rules, each as nft would compile it.

func verdict(e expr.Any) []expr.Any { return []expr.Any{e} }

func equal(data ...byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

// bridgeName is "iifname bk*" and the like.
func bridgeName(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte(bridgePrefix)}}
}

func family(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal(proto)}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal(number)}
}

// transport compares bytes of the TCP, UDP or ICMP header.
func transport(offset uint32, data ...byte) []expr.Any {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(data))}
	return []expr.Any{load, equal(data...)}
}

// destination is "ip daddr p". IPv6 never comes as far.
func destination(p netip.Prefix) []expr.Any {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), p.Bits()).Masked().Addr()
	masked := &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask.AsSlice(), Xor: make([]byte, 4)}
	return []expr.Any{load, masked, equal(p.Addr().AsSlice()...)}
}

// conntrack matches any of bits.
func conntrack(key expr.CtKey, bits uint32) []expr.Any {
	mask := binaryutil.NativeEndian.PutUint32(bits)
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// notVia is "fib ADDRESS . iif oif missing": the packet's interface is not the
// way to the address.
func notVia(address *expr.Fib) []expr.Any {
	address.Register, address.FlagIIF, address.ResultOIF, address.FlagPRESENT = 1, true, true, true
	return []expr.Any{address, equal(0)}
}

// routedToStamp is "fib daddr oifname bk*".
func routedToStamp() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultOIFNAME: true}, equal([]byte(bridgePrefix)...)}
}

// notLocal is "fib daddr . iif type != local".
func notLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, FlagIIF: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// changes tells on C that somebody, perhaps we, has changed rules in the kernel.
type changes struct {
	C       chan struct{}
	socket  *nl.NetlinkSocket
	closing chan struct{}
	done    chan struct{}
}

// watchFirewall subscribes to changes of all tables until close.
func watchFirewall() (*changes, error) {
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, fmt.Errorf("watch firewall: %w", err)
	}
	w := &changes{C: make(chan struct{}, 1), socket: socket, closing: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			// What has changed does not matter, nor does an overrun (ENOBUFS): the
			// receiver compares everything.
			_, _, err := socket.Receive()
			select {
			case <-w.closing:
				return
			case w.C <- struct{}{}:
			default: // told already
			}
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return // restoreEvery is left
			}
		}
	}()
	return w, nil
}

func (w *changes) close() {
	close(w.closing)
	w.socket.Close()
	<-w.done
}
