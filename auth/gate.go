package auth

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"bulkhead"
)

// Gate lets operators pass and nobody else. Lookup and Logger are needed.
type Gate struct {
	// Lookup finds the operator whose token has that Hash. Its error tells the bearer
	// why the token opens nothing.
	Lookup func(ctx context.Context, hash string) (Operator, error)
	// Logger gets the record: who did what with which outcome. Changes and
	// refusals are recorded at the level of information, looks at that of
	// debugging. It never gets a token, nor the query of a URL.
	Logger *slog.Logger
	// Refuse answers who may not pass. Default: the message as text.
	Refuse func(w http.ResponseWriter, r *http.Request, status int, err *bulkhead.Error)

	attempts attempts
}

// Require is next behind the gate, with the operator in the request's context.
// Without credentials or with wrong ones the answer is 401; when one address
// has tried too many, 429 with Retry-After; what the role does not allow, 403.
// The right token passes even then: nobody can lock an operator out.
func (g *Gate) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, given := credential(r)
		if !given { // how clients of registries begin, and no attempt to get in
			g.Challenge(w, r, "this needs a token")
			return
		}
		operator, err := Operator{}, ErrUnknown
		if wellFormed(token) {
			operator, err = g.Lookup(r.Context(), Hash(token))
		}
		if err != nil {
			g.turnAway(w, r, err)
			return
		}
		if !operator.Role.may(r) {
			g.record(r, operator, http.StatusForbidden)
			g.refuse(w, r, http.StatusForbidden, bulkhead.Errorf(bulkhead.ErrDenied, "%s is %s and may not do that", operator.Name, operator.Role).
				WithHint("ask an operator whose role is admin"))
			return
		}
		answer := &answer{ResponseWriter: w}
		defer func() { g.record(r, operator, answer.outcome()) }()
		next.ServeHTTP(answer, r.WithContext(WithOperator(r.Context(), operator)))
	})
}

// ErrUnknown says that a token is nobody's.
var ErrUnknown error = bulkhead.Errorf(bulkhead.ErrDenied, "the token is not known here")

// turnAway answers a wrong token.
func (g *Gate) turnAway(w http.ResponseWriter, r *http.Request, why error) {
	wait, first := g.attempts.failed(address(r), time.Now())
	if wait == 0 {
		g.Logger.Warn("wrong token", "remote", address(r), "method", r.Method, "path", r.URL.Path)
		g.Challenge(w, r, why.Error())
		return
	}
	if first {
		g.Logger.Warn("too many wrong tokens: answering none for a while", "remote", address(r))
	}
	w.Header().Set("Retry-After", seconds(wait))
	g.refuse(w, r, http.StatusTooManyRequests, bulkhead.Errorf(bulkhead.ErrDenied, "too many wrong tokens from %s", address(r)).
		WithHint("try again in %s s", seconds(wait)))
}

// Challenge answers who bears no token that opens anything: 401.
func (g *Gate) Challenge(w http.ResponseWriter, r *http.Request, message string) {
	scheme := "Bearer"
	if ofRegistry(r) {
		scheme = "Basic"
	}
	w.Header().Set("WWW-Authenticate", scheme+` realm="bulkhead"`)
	g.refuse(w, r, http.StatusUnauthorized, bulkhead.Errorf(bulkhead.ErrDenied, "%s", message).
		WithHint("send it as \"Authorization: Bearer bh_...\" (with bulkhead: --token or BULKHEAD_TOKEN); bulkhead up writes it to your configuration file"))
}

func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, status int, err *bulkhead.Error) {
	if g.Refuse != nil {
		g.Refuse(w, r, status, err)
		return
	}
	http.Error(w, err.Message, status)
}

func (g *Gate) record(r *http.Request, o Operator, status int) {
	level := slog.LevelInfo
	if status < 400 && (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.Header.Get("Upgrade") == "" {
		level = slog.LevelDebug
	}
	g.Logger.Log(r.Context(), level, "audit", "operator", o.Name, "role", o.Role, "token", ID(o.Hash), "remote", address(r),
		"method", r.Method, "path", r.URL.Path, "status", status)
}

// address is who is at the other end of the connection. What a proxy says of
// the client behind it is not believed.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// answer remembers the status. By Unwrap, http.ResponseController finds what
// else the connection can do.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status < 200 { // those before are provisional, but for 101
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status < 200 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

func (a *answer) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) outcome() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}
