package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// ResolvConf is the content of the /etc/resolv.conf of a task whose endpoint has
// this gateway: the stamp's name server and no other, and no search list, so
// that a name means the same in every stamp and on every node.
func ResolvConf(gateway netip.Addr) []byte {
	return fmt.Appendf(nil, "nameserver %s\noptions ndots:0\n", gateway)
}

// Hosts is the content of the /etc/hosts of a task: localhost, its own host name,
// and extra (name to address, as extra_hosts has them; IPv6 addresses may stand
// in brackets). An entry for "host-gateway" is left out, because a stamp has no
// way to its host, and so is one whose name or address is not one: it could not
// be looked up and must not forge another line.
func Hosts(address netip.Addr, hostname string, extra map[string]string) []byte {
	b := []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if validHostname(hostname) {
		b = fmt.Appendf(b, "%s\t%s\n", address, hostname)
	}
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		a, err := netip.ParseAddr(strings.Trim(extra[name], "[]"))
		if err == nil && validHostname(name) {
			b = fmt.Appendf(b, "%s\t%s\n", a, name)
		}
	}
	return b
}

func validHostname(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsAny(s, " \t\r\n\v\f#\x00")
}
