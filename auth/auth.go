// Package auth tells who asks and what they may do: operators, their bearer
// tokens and roles, and the record of what they did.
//
// It is a gate in front of HTTP handlers; it knows no API and no store. Start
// with New, which makes a token, and Gate, which lets its bearer pass. The
// nodes of the cluster do not come this way: they have certificates (keys).
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"

	"bulkhead"
)

// Operator is who asks.
type Operator struct {
	Name string
	Role Role
	Hash string // of the token that was shown
}

// ParseName checks the name of an operator: 1 to 63 letters, digits and the
// characters ".", "-", "_", "+" and "@", as mail addresses have them. Its error is of
// kind ErrInvalid.
func ParseName(s string) (string, error) {
	other := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(".-_+@", r))
	}
	if s == "" || len(s) > 63 || strings.ContainsFunc(s, other) {
		return "", bulkhead.Errorf(bulkhead.ErrInvalid, "operator %q: a name is of 1 to 63 letters, digits, dots, hyphens, underscores, + and @", s)
	}
	return s, nil
}

// Role is what an operator may do.
type Role string

const (
	RoleAdmin  Role = "admin"  // everything
	RoleViewer Role = "viewer" // look, but change nothing and enter nothing
)

// ParseRole checks the name of a role. Its error is of kind ErrInvalid.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case RoleAdmin, RoleViewer:
		return r, nil
	default:
		return "", bulkhead.Errorf(bulkhead.ErrInvalid, "role %q: use admin or viewer", s)
	}
}

// may tells whether the role allows r. A request to change protocols is not
// just looking: a command in a task begins so.
func (role Role) may(r *http.Request) bool {
	switch role {
	case RoleAdmin:
		return true
	case RoleViewer:
		looks := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
		return looks && r.Header.Get("Upgrade") == ""
	default:
		return false
	}
}

// prefix begins every token, so that people and scanners for leaked secrets
// know one when they see it.
const prefix = "bh_"

// tokenLength is prefix and 256 bits in base64 without padding.
const tokenLength = len(prefix) + 43

// New makes a token of 256 random bits. It is shown once, to its operator; only
// its hash is kept. A plain hash is enough for a secret that nobody can guess.
func New() (token, hash string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	token = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	return token, Hash(token)
}

// Hash is under what a token is kept: its SHA-256 in hexadecimal. Looking it up
// takes no constant time and need not: what the time tells is about the hash,
// from which nothing about the token follows.
func Hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// ID names a token in lists, by its hash: eight hexadecimal digits, which say
// nothing about the token.
func ID(hash string) string { return hash[:8] }

type operatorKey struct{}

// WithOperator is ctx with the operator who asks.
func WithOperator(ctx context.Context, o Operator) context.Context {
	return context.WithValue(ctx, operatorKey{}, o)
}

// FromContext is the operator who asks, and whether there is one.
func FromContext(ctx context.Context) (Operator, bool) {
	o, ok := ctx.Value(operatorKey{}).(Operator)
	return o, ok
}

// credential is the token that r bears, and whether it bears anything. Clients
// of registries know only Basic, where the token is the password. It counts in
// the registry alone (paths of the OCI Distribution Specification), because
// browsers send it along with requests that other sites make.
func credential(r *http.Request) (token string, given bool) {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return strings.TrimSpace(value), true
	case strings.EqualFold(scheme, "Basic") && ofRegistry(r):
		_, password, _ := r.BasicAuth()
		return password, true
	default:
		return "", scheme != ""
	}
}

func ofRegistry(r *http.Request) bool {
	return r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/")
}

func wellFormed(token string) bool {
	return len(token) == tokenLength && strings.HasPrefix(token, prefix)
}
