package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"

	"bulkhead"
	"bulkhead/agent"
)

const (
	// answerTTL is short because a task's address is as short-lived as the task.
	answerTTL = 1 // seconds
	// messageSize is the largest answer over UDP: it fits any path unfragmented.
	// (DNS Flag Day 2020)
	messageSize = 1232 // bytes

	queriesPerSecond = 2000 // of one stamp, answered
	forwardsAtOnce   = 32   // of one stamp, under way
	connections      = 32   // of one stamp over TCP, open
)

// zone is what the names of a stamp mean. It is never changed.
type zone struct {
	names    map[string][]agent.NameAddress
	networks map[netip.Addr][]bulkhead.NetworkName // of an asker
	reverse  map[netip.Addr]string
}

func newZone(list []agent.Name) *zone {
	z := &zone{
		names:    make(map[string][]agent.NameAddress, len(list)),
		networks: map[netip.Addr][]bulkhead.NetworkName{},
		reverse:  map[netip.Addr]string{},
	}
	for _, n := range list {
		name := strings.ToLower(strings.TrimSuffix(n.Name, "."))
		for _, a := range n.Addresses {
			for _, network := range a.Networks {
				if !slices.Contains(z.networks[a.Address], network) {
					z.networks[a.Address] = append(z.networks[a.Address], network)
				}
			}
			// The full name is the better answer to "who is this address?".
			if have := z.reverse[a.Address]; name != "" && (have == "" || !strings.Contains(have, ".") && strings.Contains(name, ".")) {
				z.reverse[a.Address] = name
			}
		}
		if name != "" {
			z.names[name] = append(z.names[name], n.Addresses...)
		}
	}
	return z
}

// lookup returns the addresses that name has for an asker, and whether it is a
// name at all to him: one that shares no network with him is not.
func (z *zone) lookup(name string, asker netip.Addr) (list []netip.Addr, known bool) {
	all, known := z.names[name]
	for _, a := range all {
		if z.visible(a.Networks, asker) && !slices.Contains(list, a.Address) {
			list = append(list, a.Address)
		}
	}
	return list, known && (len(all) == 0 || len(list) > 0)
}

func (z *zone) visible(networks []bulkhead.NetworkName, asker netip.Addr) bool {
	his, known := z.networks[asker]
	return !known || slices.ContainsFunc(networks, func(n bulkhead.NetworkName) bool { return slices.Contains(his, n) })
}

// owner is the name of an address for an asker.
func (z *zone) owner(a, asker netip.Addr) (string, bool) {
	name, ok := z.reverse[a]
	return name, ok && z.visible(z.networks[a], asker)
}

// names answers the questions of one stamp's tasks.
type names struct {
	zone     atomic.Pointer[zone]
	forward  *forwarder
	forwards chan struct{} // bounds what one stamp forwards at once
	turn     atomic.Uint32 // rotates answers
}

func newNames(f *forwarder) *names {
	n := &names{forward: f, forwards: make(chan struct{}, forwardsAtOnce)}
	n.zone.Store(newZone(nil))
	return n
}

// answer returns the reply to req, never nil.
//
// A name of the stamp that has no healthy task, like an address family or type
// that a name does not have, is answered by no records and no error. SERVFAIL
// would say "try again" in so many words, but musl waits for its timeout then,
// 5 s, and NXDOMAIN makes resolvers go on to other names. An empty answer without an SOA
// record returns at once everywhere and may not be cached (RFC 2308, section 5),
// so that the next attempt sees the task that has become healthy.
func (n *names) answer(ctx context.Context, req *dns.Msg, asker netip.Addr, tcp bool) *dns.Msg {
	reply := new(dns.Msg)
	if len(req.Question) != 1 {
		return reply.SetRcodeFormatError(req)
	}
	reply.SetReply(req)
	reply.RecursionAvailable = true
	reply.Compress = true
	n.resolve(ctx, req, reply, asker)

	size := dns.MinMsgSize
	if tcp {
		size = dns.MaxMsgSize
	}
	reply.Extra = slices.DeleteFunc(reply.Extra, func(r dns.RR) bool { return r == nil || r.Header().Rrtype == dns.TypeOPT })
	if opt := req.IsEdns0(); opt != nil {
		if !tcp {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), messageSize)
		}
		reply.SetEdns0(messageSize, opt.Do())
		if opt.Version() != 0 {
			reply.Rcode, reply.Answer, reply.Ns = dns.RcodeBadVers, nil, nil
		}
	} else if reply.Rcode > 0xf {
		reply.Rcode = dns.RcodeServerFailure // does not fit without EDNS
	}
	reply.Truncate(size)
	return reply
}

// resolve fills reply in.
func (n *names) resolve(ctx context.Context, req, reply *dns.Msg, asker netip.Addr) {
	q := req.Question[0]
	switch {
	case req.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
		return
	case q.Qclass != dns.ClassINET, q.Qtype == dns.TypeANY, q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		reply.Rcode = dns.RcodeRefused
		return
	}
	z := n.zone.Load()
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if addresses, known := z.lookup(name, asker); known {
		reply.Authoritative = true
		if q.Qtype == dns.TypeA && len(addresses) > 0 {
			first := int(n.turn.Add(1) % uint32(len(addresses)))
			for _, a := range slices.Concat(addresses[first:], addresses[:first]) {
				reply.Answer = append(reply.Answer, &dns.A{Hdr: header(q), A: a.AsSlice()})
			}
		}
		return
	}
	if a, ok := reverseName(name); ok {
		if owner, ok := z.owner(a, asker); ok {
			reply.Authoritative = true
			if q.Qtype == dns.TypePTR {
				reply.Answer = append(reply.Answer, &dns.PTR{Hdr: header(q), Ptr: dns.Fqdn(owner)})
			}
			return
		}
	}
	if private(name) {
		reply.Rcode = dns.RcodeNameError
		return
	}
	select {
	case n.forwards <- struct{}{}:
		defer func() { <-n.forwards }()
	default:
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	answer, err := n.forward.exchange(ctx, req)
	if err != nil {
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	reply.Rcode, reply.Truncated, reply.AuthenticatedData = answer.Rcode, answer.Truncated, answer.AuthenticatedData
	reply.Answer, reply.Ns, reply.Extra = answer.Answer, answer.Ns, answer.Extra
}

func header(q dns.Question) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: answerTTL}
}

// private tells of names that must not leave this machine: names without a dot,
// names of stamps, and localhost.
func private(name string) bool {
	labels := dns.SplitDomainName(dns.Fqdn(name))
	if len(labels) == 0 {
		return false // the root
	}
	top := labels[len(labels)-1]
	return len(labels) == 1 || top == "internal" || top == "localhost"
}

// reverseName undoes "1.0.128.10.in-addr.arpa".
func reverseName(name string) (netip.Addr, bool) {
	digits, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(digits, ".")
	slices.Reverse(parts)
	a, err := netip.ParseAddr(strings.Join(parts, "."))
	return a, err == nil
}

// nameServer listens on a bridge's address.
type nameServer struct {
	names    *names
	ctx      context.Context // of the queries under way; ended by close
	cancel   context.CancelFunc
	limit    *rate.Limiter
	udp, tcp *dns.Server
}

func listen(address netip.Addr, n *names) (*nameServer, error) {
	at := netip.AddrPortFrom(address, 53)
	packets, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, listenError(at, err)
	}
	stream, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		packets.Close()
		return nil, listenError(at, err)
	}
	s := &nameServer{names: n, limit: rate.NewLimiter(queriesPerSecond, queriesPerSecond)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	decorate := func(r dns.Reader) dns.Reader { return limitedReader{r, s} }
	s.udp = &dns.Server{
		PacketConn: packets, Handler: s, UDPSize: messageSize, DecorateReader: decorate,
		ReadTimeout: time.Hour, // does not concern clients, but wakes the server up
	}
	s.tcp = &dns.Server{Listener: netutil.LimitListener(stream, connections), Handler: s, DecorateReader: decorate}
	return s, nil
}

func listenError(at netip.AddrPort, err error) error {
	return bulkhead.Errorf(bulkhead.ErrUnavailable, "answer names on %s: %w", at, err).
		WithHint("if another name server of this machine listens on all addresses, make it listen only on its own")
}

// run serves until close.
func (s *nameServer) run() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.tcp.ActivateAndServe()
	}()
	s.udp.ActivateAndServe()
	<-done
}

func (s *nameServer) close() {
	s.cancel()
	// Closing the sockets ends the servers whether or not they have started yet.
	s.udp.PacketConn.Close()
	s.tcp.Listener.Close()
	s.udp.Shutdown()
	s.tcp.Shutdown()
}

// ServeDNS implements dns.Handler.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	// The error is the asker's who has gone away.
	_ = w.WriteMsg(s.names.answer(s.ctx, req, from.Addr().Unmap(), tcp))
}

// limitedReader lets a stamp take no more of the host's time than its share:
// what comes faster fills the socket's buffer, and the kernel drops the rest.
type limitedReader struct {
	dns.Reader
	server *nameServer
}

func (r limitedReader) ReadUDP(conn *net.UDPConn, timeout time.Duration) ([]byte, *dns.SessionUDP, error) {
	if err := r.server.limit.Wait(r.server.ctx); err != nil {
		return nil, nil, fmt.Errorf("read query: %w", err)
	}
	return r.Reader.ReadUDP(conn, timeout)
}

func (r limitedReader) ReadTCP(conn net.Conn, timeout time.Duration) ([]byte, error) {
	if err := r.server.limit.Wait(r.server.ctx); err != nil {
		return nil, fmt.Errorf("read query: %w", err)
	}
	return r.Reader.ReadTCP(conn, timeout)
}
