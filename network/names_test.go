package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bulkhead"
	"bulkhead/agent"
)

const typeA = dns.TypeA

// query asks a server from within a namespace.
func query(t testing.TB, netns, network string, server netip.Addr, name string, kind uint16) (answer *dns.Msg, err error) {
	t.Helper()
	within(t, netns, func() {
		var conn net.Conn
		if conn, err = net.DialTimeout(network+"4", netip.AddrPortFrom(server, 53).String(), long); err != nil {
			return
		}
		defer conn.Close()
		req := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
		c := dns.Client{Net: network, Timeout: long}
		answer, _, err = c.ExchangeWithConn(req, &dns.Conn{Conn: conn})
	})
	return answer, err
}

// values are the answers' addresses or names, in order, and the code if it is an
// error.
func values(m *dns.Msg) string {
	var list []string
	if m.Rcode != dns.RcodeSuccess {
		list = append(list, dns.RcodeToString[m.Rcode])
	}
	for _, r := range m.Answer {
		switch r := r.(type) {
		case *dns.A:
			list = append(list, r.A.String())
		case *dns.PTR:
			list = append(list, r.Ptr)
		case *dns.TXT:
			list = append(list, fmt.Sprintf("%d bytes", len(strings.Join(r.Txt, ""))))
		}
	}
	return strings.Join(list, " ")
}

func address(s string, networks ...bulkhead.NetworkName) agent.NameAddress {
	return agent.NameAddress{Address: netip.MustParseAddr(s), Networks: networks}
}

// A stamp with two networks: the proxy is on both.
func exampleNames() []agent.Name {
	web, proxy, db := address("10.0.0.2", "front"), address("10.0.0.3", "front", "back"), address("10.0.0.4", "back")
	return []agent.Name{
		{Name: "web", Addresses: []agent.NameAddress{web}},
		{Name: "proxy", Addresses: []agent.NameAddress{proxy}},
		{Name: "proxy.acme.internal", Addresses: []agent.NameAddress{proxy}},
		{Name: "db", Addresses: []agent.NameAddress{db}},
		{Name: "db.example.com", Addresses: []agent.NameAddress{db}}, // an alias
		{Name: "cache"}, // exists, no healthy task
		{Name: "", Addresses: []agent.NameAddress{address("10.0.0.5", "back")}}, // not healthy
	}
}

func TestAnswer(t *testing.T) {
	upstream := newResolver(t, "127.0.0.53")
	n := newNames(newForwarder(resolvConf(t, "127.0.0.53")))
	n.zone.Store(newZone(exampleNames()))
	const web, proxy, db, starting, stranger = "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.99"
	for _, test := range []struct {
		asker, name string
		kind        uint16
		want        string
	}{
		{web, "web.", dns.TypeA, "10.0.0.2"},
		{web, "WeB.", dns.TypeA, "10.0.0.2"},
		{web, "proxy.", dns.TypeA, "10.0.0.3"},
		{web, "db.", dns.TypeA, "NXDOMAIN"}, // no network in common
		{proxy, "db.", dns.TypeA, "10.0.0.4"},
		{db, "web.", dns.TypeA, "NXDOMAIN"},
		{starting, "db.", dns.TypeA, "10.0.0.4"},
		{starting, "web.", dns.TypeA, "NXDOMAIN"},
		{stranger, "web.", dns.TypeA, "10.0.0.2"}, // nothing is known of the asker
		{stranger, "db.", dns.TypeA, "10.0.0.4"},
		{web, "proxy.acme.internal.", dns.TypeA, "10.0.0.3"},
		{web, "proxy.", dns.TypeAAAA, ""},
		{web, "proxy.", dns.TypeTXT, ""},
		{web, "cache.", dns.TypeA, ""},
		{web, "2.0.0.10.in-addr.arpa.", dns.TypePTR, "web."},
		{web, "3.0.0.10.in-addr.arpa.", dns.TypePTR, "proxy.acme.internal."},
		{web, "nobody.", dns.TypeA, "NXDOMAIN"},
		{web, "localhost.", dns.TypeA, "NXDOMAIN"},
		{web, "proxy.globex.internal.", dns.TypeA, "NXDOMAIN"},
		{web, "internal.", dns.TypeSOA, "NXDOMAIN"},
		{web, "PROXY.Globex.InterNal.", dns.TypeA, "NXDOMAIN"},
		{web, "example.com.", dns.TypeANY, "REFUSED"},
		{web, "example.com.", dns.TypeAXFR, "REFUSED"},
	} {
		req := new(dns.Msg).SetQuestion(test.name, test.kind)
		reply := n.answer(t.Context(), req, netip.MustParseAddr(test.asker), false)
		if got := values(reply); got != test.want || reply.Id != req.Id || !reply.Response {
			t.Errorf("%s asks for %s %s: %q, want %q", test.asker, test.name, dns.TypeToString[test.kind], got, test.want)
		}
		for _, r := range reply.Answer {
			if r.Header().Ttl != answerTTL {
				t.Errorf("%s: TTL %d", test.name, r.Header().Ttl)
			}
		}
		if len(reply.Ns) > 0 {
			t.Errorf("%s: the answer can be cached negatively: %v", test.name, reply.Ns)
		}
	}
	if asked := upstream.asked.Load(); asked != 0 {
		t.Errorf("%d of these questions left the machine", asked)
	}
	for name, asker := range map[string]string{"www.example.com.": web, "db.example.com.": web} { // the alias is not his
		reply := n.answer(t.Context(), new(dns.Msg).SetQuestion(name, dns.TypeA), netip.MustParseAddr(asker), false)
		if got := values(reply); got != "203.0.113.80" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if asked := upstream.asked.Load(); asked != 2 {
		t.Errorf("%d questions were forwarded, want 2", asked)
	}
}

func TestAnswerRotates(t *testing.T) {
	n := newNames(newForwarder(""))
	n.zone.Store(newZone([]agent.Name{{Name: "web", Addresses: []agent.NameAddress{address("10.0.0.2"), address("10.0.0.3"), address("10.0.0.4")}}}))
	first := map[string]int{}
	for range 30 {
		reply := n.answer(t.Context(), new(dns.Msg).SetQuestion("web.", dns.TypeA), netip.Addr{}, false)
		list := strings.Fields(values(reply))
		first[list[0]]++
		slices.Sort(list)
		if !slices.Equal(list, []string{"10.0.0.2", "10.0.0.3", "10.0.0.4"}) {
			t.Fatalf("answer: %v", list)
		}
	}
	if first["10.0.0.2"] != 10 || first["10.0.0.3"] != 10 || first["10.0.0.4"] != 10 {
		t.Errorf("addresses that came first: %v", first)
	}
}

func TestAnswerFits(t *testing.T) {
	n := newNames(newForwarder(""))
	var many []agent.NameAddress
	for i := range 253 {
		many = append(many, address(fmt.Sprintf("10.0.0.%d", i+2)))
	}
	n.zone.Store(newZone([]agent.Name{{Name: "web", Addresses: many}}))
	for _, test := range []struct {
		edns uint16
		tcp  bool
		most int
		all  bool
	}{{0, false, 512, false}, {100, false, 512, false}, {1000, false, 1000, false}, {65535, false, messageSize, false}, {0, true, 65535, true}, {512, true, 65535, true}} {
		req := new(dns.Msg).SetQuestion("web.", dns.TypeA)
		if test.edns > 0 {
			req.SetEdns0(test.edns, false)
		}
		reply := n.answer(t.Context(), req, netip.Addr{}, test.tcp)
		packed, err := reply.Pack()
		if err != nil || len(packed) > test.most || reply.Truncated == test.all || len(reply.Answer) == 0 {
			t.Errorf("%+v: %d bytes, truncated %v, %d answers, %v", test, len(packed), reply.Truncated, len(reply.Answer), err)
		}
		if (reply.IsEdns0() != nil) != (test.edns > 0) {
			t.Errorf("%+v: EDNS in the answer: %v", test, reply.IsEdns0())
		}
	}
}

// The whole way: sockets, firewall, stamps.
func TestNameServer(t *testing.T) {
	newResolver(t, "127.0.0.53")
	n := running(t, "0c01")
	if err := os.WriteFile(n.cfg.ResolvConf, []byte("nameserver 127.0.0.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Names("acme", []agent.Name{{Name: "web", Addresses: []agent.NameAddress{address("10.0.0.2")}}}) // before the first Join
	web, other := join(t, n, "acme", "web.1-x"), join(t, n, "globex", "web.1-x")
	ask := func(e agent.Endpoint, network, name, want string) {
		t.Helper()
		m, err := query(t, e.Netns, network, e.Gateway, name, dns.TypeA)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := values(m); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		ask(web, network, "web", "10.0.0.2")
		ask(other, network, "web", "NXDOMAIN")
		ask(web, network, "www.example.com", "203.0.113.80")
	}
	n.Names("acme", []agent.Name{{Name: "web", Addresses: []agent.NameAddress{{Address: web.Address}}}})
	ask(web, "udp", "web", web.Address.String())

	// Garbage is survived, on both protocols.
	within(t, web.Netns, func() {
		for _, network := range []string{"udp4", "tcp4"} {
			for _, garbage := range []string{"", "x", "\x00\x01", strings.Repeat("\xff", 600), "\x00\x0c\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"} {
				if c, err := net.Dial(network, netip.AddrPortFrom(web.Gateway, 53).String()); err == nil {
					_, _ = c.Write([]byte(garbage))
					c.Close()
				}
			}
		}
	})
	ask(web, "udp", "web", web.Address.String())
	ask(web, "tcp", "web", web.Address.String())

	// Open connections are bounded, and do not stop UDP.
	var conns []net.Conn
	within(t, web.Netns, func() {
		for range connections + 5 {
			c, err := net.Dial("tcp4", netip.AddrPortFrom(web.Gateway, 53).String())
			if err != nil {
				t.Error(err)
				return
			}
			conns = append(conns, c)
		}
	})
	ask(web, "udp", "web", web.Address.String())
	for _, c := range conns {
		c.Close()
	}
	ask(web, "tcp", "web", web.Address.String())

	if err := n.Remove(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if c, err := net.ListenPacket("udp4", web.Gateway.String()+":53"); err == nil {
		c.Close()
		t.Error("the bridge's address is still there")
	}
}

// resolver stands for one of the machine's.
type resolver struct {
	asked atomic.Int32 // over UDP
	tcp   atomic.Int32
	rcode atomic.Int32
}

// newResolver answers at port 53 of address: an A record for everything, a text
// of 1000 bytes over TCP only, and nothing for "silent.".
func newResolver(t testing.TB, address string) *resolver {
	t.Helper()
	r := new(resolver)
	packets, err := net.ListenPacket("udp4", address+":53")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := net.Listen("tcp4", address+":53")
	if err != nil {
		t.Fatal(err)
	}
	handle := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		_, tcp := w.RemoteAddr().(*net.TCPAddr)
		if tcp {
			r.tcp.Add(1)
		} else {
			r.asked.Add(1)
		}
		q := req.Question[0]
		if strings.HasPrefix(q.Name, "silent.") {
			return
		}
		m := new(dns.Msg).SetRcode(req, int(r.rcode.Load()))
		hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
		switch {
		case m.Rcode != 0:
		case q.Qtype == dns.TypeTXT && !tcp:
			m.Truncated = true
		case q.Qtype == dns.TypeTXT:
			m.Answer = append(m.Answer, &dns.TXT{Hdr: hdr, Txt: slices.Repeat([]string{strings.Repeat("x", 100)}, 10)})
		case q.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: net.IPv4(203, 0, 113, 80)})
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handle}, {Listener: stream, Handler: handle}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return r
}

func resolvConf(t testing.TB, servers ...string) (path string) {
	t.Helper()
	path = t.TempDir() + "/resolv.conf"
	writeResolvConf(t, path, servers...)
	return path
}

func writeResolvConf(t testing.TB, path string, servers ...string) {
	t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintln(&b, "nameserver", s)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestForward(t *testing.T) {
	first, second := newResolver(t, "127.0.0.53"), newResolver(t, "127.0.0.54")
	path := resolvConf(t, "127.0.0.53", "127.0.0.54")
	n := newNames(newForwarder(path))
	ask := func(name string, kind uint16, tcp bool, edns uint16) *dns.Msg {
		req := new(dns.Msg).SetQuestion(name, kind)
		if edns > 0 {
			req.SetEdns0(edns, false)
		}
		return n.answer(t.Context(), req, netip.Addr{}, tcp)
	}
	if got := values(ask("Example.com.", dns.TypeA, false, 0)); got != "203.0.113.80" || second.asked.Load() != 0 {
		t.Errorf("answer %q, second resolver asked %d times", got, second.asked.Load())
	}
	// Too long for UDP: asked by TCP, and as much as fits is passed on.
	if m := ask("example.com.", dns.TypeTXT, true, 0); values(m) != "1000 bytes" || first.tcp.Load() != 1 {
		t.Errorf("long answer by TCP: %s", values(m))
	}
	if m := ask("example.com.", dns.TypeTXT, false, 0); !m.Truncated {
		t.Errorf("long answer by UDP is not marked as cut: %s", values(m))
	}
	if m := ask("example.com.", dns.TypeTXT, false, 1232); m.Truncated || values(m) != "1000 bytes" {
		t.Errorf("long answer to who can take it: %s", values(m))
	}
	// An error of one resolver makes us ask the next; NXDOMAIN is no error.
	first.rcode.Store(dns.RcodeServerFailure)
	if got := values(ask("example.com.", dns.TypeA, false, 0)); got != "203.0.113.80" {
		t.Errorf("with one resolver broken: %q", got)
	}
	first.rcode.Store(dns.RcodeNameError)
	if got := values(ask("example.com.", dns.TypeA, false, 0)); got != "NXDOMAIN" {
		t.Errorf("no such name: %q", got)
	}
	// The file changes.
	writeResolvConf(t, path, "127.0.0.54")
	for deadline := time.Now().Add(long); values(ask("example.com.", dns.TypeA, false, 0)) != "203.0.113.80"; {
		if time.Now().After(deadline) {
			t.Fatal("the changed resolv.conf is not read")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	n.forward.checked = time.Time{}
	if got := values(ask("example.com.", dns.TypeA, false, 0)); got != "SERVFAIL" {
		t.Errorf("without resolvers: %q", got)
	}
}

// A resolver that is silent costs a stamp its own places, no other's, and nobody
// more than the time that a client waits.
func TestForwardIsBounded(t *testing.T) {
	r := newResolver(t, "127.0.0.53")
	forward := newForwarder(resolvConf(t, "127.0.0.53"))
	greedy, modest := newNames(forward), newNames(forward)
	results := make(chan string)
	const extra = 10
	began := time.Now()
	for range forwardsAtOnce + extra {
		go func() {
			results <- values(greedy.answer(t.Context(), new(dns.Msg).SetQuestion("silent.example.com.", dns.TypeA), netip.Addr{}, false))
		}()
	}
	for range extra {
		if got := <-results; got != "SERVFAIL" {
			t.Errorf("too many at once: %q", got)
		}
	}
	if took := time.Since(began); took > serverTimeout/2 {
		t.Errorf("refused only after %v", took)
	}
	if got := values(modest.answer(t.Context(), new(dns.Msg).SetQuestion("example.com.", dns.TypeA), netip.Addr{}, false)); got != "203.0.113.80" {
		t.Errorf("another stamp: %q", got)
	}
	for range forwardsAtOnce {
		if got := <-results; got != "SERVFAIL" {
			t.Errorf("a silent resolver: %q", got)
		}
	}
	if took := time.Since(began); took > forwardTimeout+time.Second {
		t.Errorf("given up only after %v", took)
	}
	if asked := r.asked.Load(); asked > forwardsAtOnce+1 {
		t.Errorf("the resolver was asked %d times", asked)
	}
}

// Whatever comes, the answer is to it, fits, and can be sent.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.", "proxy.acme.internal.", "3.0.0.10.in-addr.arpa.", ".", "nobody.", "1.2.3.4.5.in-addr.arpa.", "a..b."} {
		m := new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(4096, true)
		if b, err := m.Pack(); err == nil {
			f.Add(b, false)
		}
	}
	n := newNames(newForwarder("/nonexistent"))
	n.zone.Store(newZone(exampleNames()))
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		req := new(dns.Msg)
		if req.Unpack(b) != nil {
			return
		}
		reply := n.answer(t.Context(), req, netip.MustParseAddr("10.0.0.2"), tcp)
		if reply.Id != req.Id || !reply.Response {
			t.Errorf("not an answer to it: %v", reply)
		}
		packed, err := reply.Pack()
		if err != nil {
			t.Fatalf("pack: %v", err)
		}
		most := messageSize
		if tcp {
			most = dns.MaxMsgSize
		}
		if len(packed) > most {
			t.Errorf("%d bytes, at most %d", len(packed), most)
		}
	})
}
