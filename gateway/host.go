package gateway

import (
	"strings"

	"bulkhead"
)

// maxHost is the longest host name in bytes (RFC 1035, section 2.3.4).
const maxHost = 253

// parseHost turns a Host header, an :authority or a TLS server name into the
// form that the table has: lower case, without port and without final dot. It
// says false for what cannot name a host of ours: anything but letters, digits,
// hyphens, underscores and single inner dots, and so also IPv6 addresses. It
// allocates only for names with capitals.
func parseHost(s string) (bulkhead.Host, bool) {
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		if !isPort(s[i+1:]) {
			return "", false
		}
		s = s[:i]
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxHost || s[len(s)-1] == '.' {
		return "", false
	}
	capitals := false
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case 'A' <= c && c <= 'Z':
			capitals = true
		case c == '.' && i > 0 && s[i-1] != '.':
		default:
			return "", false
		}
	}
	if capitals {
		s = strings.ToLower(s)
	}
	return bulkhead.Host(s), true
}

// isPort tells whether s may follow the colon of a host: nothing or up to five
// digits.
func isPort(s string) bool {
	if len(s) > 5 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
