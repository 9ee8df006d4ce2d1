package network

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
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

var _ = time.Second
