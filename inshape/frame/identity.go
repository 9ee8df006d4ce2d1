package frame

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Role is what somebody may do.
type Role string

// The roles. Each may do what the ones before it may.
const (
	Customer Role = "customer" // sees what is theirs
	Staff    Role = "staff"    // sees and does the shop's work
	Admin    Role = "admin"    // also users, keys, webhooks
)

var roles = []Role{Customer, Staff, Admin}

// Identity is who asks. The front signs it into every request that it passes
// on, and modules sign one when they ask each other.
type Identity struct {
	Subject string `json:"sub"`            // usr_… of a person, key_… of an API key, or module:NAME
	Name    string `json:"name"`           // to be shown
	Email   string `json:"email,omitzero"` // of a person
	Role    Role   `json:"role"`
	Party   string `json:"party,omitzero"` // whose things a customer sees: one subject for all of a company's people
	// Modules is what the shop has, for the navigation of pages.
	Modules []ModuleState `json:"modules,omitzero"`
	// Front tells that the request came through the front, so that pages may
	// link to what only the front has: the account, the administration.
	Front bool `json:"front,omitzero"`
}

// ModuleState is one module as the front sees it.
type ModuleState struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Icon  string `json:"icon,omitzero"`
	Up    bool   `json:"up"`
}

// identityHeader carries a signed identity.
const identityHeader = "Inshape-Identity"

// identityLife is how long a signed identity holds: long enough for a slow
// machine, too short to be worth stealing. It is checked when a request begins.
const identityLife = time.Minute

// May tells whether the identity has at least a role.
func (i Identity) May(role Role) bool {
	needed := slices.Index(roles, role)
	return needed >= 0 && slices.Index(roles, i.Role) >= needed
}

// Sees tells whether a thing of a party is the identity's to see.
func (i Identity) Sees(party string) bool {
	return i.May(Staff) || i.Party != "" && i.Party == party
}

type claims struct {
	jwt.RegisteredClaims
	Identity Identity `json:"who"`
}

// Sign makes the header value of an identity: a JWT under the stamp's secret.
func Sign(secret string, who Identity, now time.Time) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Audience:  jwt.ClaimStrings{"inshape"},
			ExpiresAt: jwt.NewNumericDate(now.Add(identityLife)),
			IssuedAt:  jwt.NewNumericDate(now),
		},
		Identity: who,
	})
	signed, err := token.SignedString([]byte(secret))
	if err != nil {
		return "", fmt.Errorf("sign identity: %w", err)
	}
	return signed, nil
}

// Verify reads a header value that Sign made.
func Verify(secret, value string, now time.Time) (Identity, error) {
	var c claims
	_, err := jwt.ParseWithClaims(value, &c, func(*jwt.Token) (any, error) { return []byte(secret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithAudience("inshape"), jwt.WithExpirationRequired(),
		jwt.WithLeeway(5*time.Second), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return Identity{}, fmt.Errorf("verify identity: %w", err)
	}
	if !slices.Contains(roles, c.Identity.Role) || c.Identity.Subject == "" {
		return Identity{}, errors.New("verify identity: no role or subject")
	}
	return c.Identity, nil
}

// Attach signs an identity into a request to a module.
func Attach(r *http.Request, secret string, who Identity) error {
	value, err := Sign(secret, who, time.Now())
	if err != nil {
		return err
	}
	r.Header.Set(identityHeader, value)
	return nil
}

// Detach takes away what a client may have put there itself.
func Detach(r *http.Request) { r.Header.Del(identityHeader) }

type identityKey struct{}

// Who is the identity of a request's context. The zero identity may nothing.
func Who(ctx context.Context) Identity {
	who, _ := ctx.Value(identityKey{}).(Identity)
	return who
}

// WithIdentity gives a context an identity: for tests and for a module's own work.
func WithIdentity(ctx context.Context, who Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, who)
}

// identify finds out who asks: the front's word, or the module's own key.
func (s *Server) identify(r *http.Request) (Identity, error) {
	if value := r.Header.Get(identityHeader); value != "" {
		return Verify(s.Config.Secret, value, time.Now())
	}
	if bearer, ok := Bearer(r); ok && s.Config.IsKey(bearer) {
		return KeyIdentity, nil
	}
	return Identity{}, errors.New("neither identity nor key")
}

// KeyIdentity is who has the key of the settings, INSHAPE_KEY.
var KeyIdentity = Identity{Subject: "key:setting", Name: "INSHAPE_KEY", Role: Admin}

// Bearer is the key that a request has in its Authorization header.
func Bearer(r *http.Request) (key string, ok bool) {
	scheme, key, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(key), ok && strings.EqualFold(scheme, "Bearer")
}

// IsKey tells, in a time that depends on nothing, whether a text is INSHAPE_KEY.
func (c Config) IsKey(text string) bool {
	return c.Key != "" && subtle.ConstantTimeCompare([]byte(text), []byte(c.Key)) == 1
}

// authenticated lets only known callers pass; what is public is mounted beside it.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := s.whoAsks(r)
		if err != nil {
			s.Fail(w, r, Unauthorized("this needs a session or an API key").Because(err).
				Advise("Send Authorization: Bearer KEY, or sign in."))
			return
		}
		next.ServeHTTP(w, r.WithContext(WithIdentity(r.Context(), who)))
	})
}

// perhaps lets everybody pass, and knows those who are known.
func (s *Server) perhaps(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if who, err := s.whoAsks(r); err == nil {
			r = r.WithContext(WithIdentity(r.Context(), who))
		}
		next(w, r)
	}
}

func (s *Server) whoAsks(r *http.Request) (Identity, error) {
	if s.door != nil {
		return s.door.Identify(r)
	}
	return s.identify(r)
}
