package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/auth"
	"bulkhead/keys"
	"bulkhead/store"

	"github.com/danielgtaylor/huma/v2"
)

// TokenView is a token as lists show it: one by which a machine joins, or an
// operator's.
type TokenView struct {
	ID      string    `json:"id"`
	Role    string    `json:"role" enum:"node,server,admin,viewer"`
	Name    string    `json:"name,omitempty" doc:"Operator whose it is, or machine that used it"`
	State   string    `json:"state" enum:"unused,used,valid,expired" doc:"A machine's is unused or used, an operator's valid"`
	Created time.Time `json:"created"`
	By      string    `json:"by" doc:"Operator who made it, or the server whose first one it is"`
	Expires time.Time `json:"expires,omitzero" doc:"Left out: it does not"`
	// Bound is what the node that joins by it is held to.
	Bound bulkhead.Attributes `json:"bound,omitzero" doc:"Region, zone and labels that the node will have, whatever it says itself"`
	// Token is shown once, to who makes it.
	Token string `json:"token,omitempty" doc:"The token itself; only in the answer to its making"`
	// Join is where the machine is to call.
	Join string `json:"join,omitempty" doc:"Address for --join"`
}

// TokenSpec says which token to make.
type TokenSpec struct {
	Role  string `json:"role" enum:"node,server,admin,viewer" doc:"What the machine will be, or what the operator may do"`
	Name  string `json:"name,omitempty" doc:"The operator's; a machine brings its own"`
	Valid string `json:"valid,omitempty" doc:"For how long, such as 10m. A machine's: 10m by default, at most 24h; an operator's: until it is revoked by default"`
	// Bound is what the node will be held to.
	Bound bulkhead.Attributes `json:"bound,omitzero" doc:"Region, zone and labels that the node will have, whatever it says itself"`
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, spec TokenSpec) (TokenView, error) {
	var out TokenView
	return out, c.call(ctx, http.MethodPost, "/v1/tokens", nil, spec, &out)
}

// Tokens lists the tokens, the newest first.
func (c *Client) Tokens(ctx context.Context) ([]TokenView, error) {
	var out []TokenView
	return out, c.call(ctx, http.MethodGet, "/v1/tokens", nil, nil, &out)
}

// RevokeToken makes a token useless, by its id, or by the name of an operator who has
// no other. A machine that used it stays.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, nil, nil)
}

func (s *Server) registerTokens(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodPost, path: "/v1/tokens", id: "create-token", tag: "Nodes", summary: "Make a token, by which one machine joins or which lets an operator in",
	}, func(ctx context.Context, in *struct{ Body TokenSpec }) (*answer[TokenView], error) {
		out, err := s.createToken(ctx, in.Body)
		return &answer[TokenView]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/tokens", id: "list-tokens", tag: "Nodes", summary: "List tokens",
	}, func(context.Context, *struct{}) (*answer[[]TokenView], error) {
		return &answer[[]TokenView]{s.listTokens()}, nil
	})
	register(s, hapi, operation{
		method: http.MethodDelete, path: "/v1/tokens/{id}", id: "revoke-token", tag: "Nodes", summary: "Revoke a token",
		description: "By its id, or by the name of an operator who has no other. Refused for the last one of an admin.",
	}, func(ctx context.Context, in *struct {
		ID string `path:"id"`
	},
	) (*struct{}, error) {
		return nil, s.revokeToken(ctx, in.ID)
	})
}

func (s *Server) createToken(ctx context.Context, spec TokenSpec) (TokenView, error) {
	if spec.Role != string(keys.RoleNode) && !spec.Bound.IsZero() {
		return TokenView{}, bulkhead.Errorf(bulkhead.ErrInvalid, "only a token for a node binds a region, a zone or labels, and this one is for a %s", spec.Role)
	}
	if role, err := auth.ParseRole(spec.Role); err == nil {
		return s.createOperatorToken(ctx, spec, role)
	}
	if s.c.Authority == nil {
		return TokenView{}, bulkhead.Errorf(bulkhead.ErrConflict, "this server takes no machines in")
	}
	if spec.Name != "" {
		return TokenView{}, bulkhead.Errorf(bulkhead.ErrInvalid, "a token for a %s has no name: the machine brings its own", spec.Role).
			WithHint("an operator's has one: its role is admin or viewer")
	}
	valid, err := time.ParseDuration(cmp.Or(spec.Valid, bulkhead.JoinLife.String()))
	if err != nil || valid <= 0 || valid > 24*time.Hour {
		return TokenView{}, bulkhead.Errorf(bulkhead.ErrInvalid, "%q is no time for a machine's token to be valid: more than nothing, at most 24h", spec.Valid)
	}
	if err := checkAttributes(spec.Bound); err != nil {
		return TokenView{}, err
	}
	join, err := s.joinAddress(spec.Role)
	if err != nil {
		return TokenView{}, err
	}
	token, now := s.c.Authority.NewJoinToken(keys.Role(spec.Role)), s.c.Now().UTC()
	record := bulkhead.JoinToken{ID: token.ID, Role: spec.Role, Hash: token.Hash(), Created: now, By: actor(ctx), Expires: now.Add(valid), Bound: spec.Bound}
	what := fmt.Sprintf("token %s for a %s, valid until %s", record.ID, record.Role, record.Expires.Format("15:04:05Z"))
	if !record.Bound.IsZero() {
		what += ", bound to " + record.Bound.String()
	}
	stale := staleJoinTokens(s.c.Store.View(), now)
	err = s.c.Store.Update(ctx, func(tx *store.Tx) error {
		for _, id := range stale {
			tx.JoinTokens.Delete(id)
		}
		tx.JoinTokens.Put(record)
		tx.Event(bulkhead.Event{Time: now, Type: "token.created", Actor: record.By, Message: what})
		return nil
	})
	out := showJoinToken(record, now)
	out.Token, out.Join = token.String(), join
	return out, err
}

func (s *Server) createOperatorToken(ctx context.Context, spec TokenSpec, role auth.Role) (TokenView, error) {
	name, err := auth.ParseName(spec.Name)
	if err != nil {
		return TokenView{}, err
	}
	now := s.c.Now().UTC()
	token, hash := auth.New()
	record := store.Token{Hash: hash, Operator: name, Role: string(role), Created: now, By: actor(ctx)}
	until := "until it is revoked"
	if spec.Valid != "" {
		valid, err := time.ParseDuration(spec.Valid)
		if err != nil || valid <= 0 {
			return TokenView{}, bulkhead.Errorf(bulkhead.ErrInvalid, "%q is no time for a token to be valid: more than nothing, such as 720h", spec.Valid)
		}
		record.Expires = now.Add(valid)
		until = "until " + record.Expires.Format("2006-01-02 15:04:05Z")
	}
	stale := staleTokens(s.c.Store.View(), now)
	err = s.c.Store.Update(ctx, func(tx *store.Tx) error {
		for _, hash := range stale {
			tx.Tokens.Delete(hash)
		}
		tx.Tokens.Put(record)
		tx.Event(bulkhead.Event{Time: now, Type: "token.created", Actor: record.By, Message: fmt.Sprintf("token %s for %s, %s, valid %s", auth.ID(hash), name, role, until)})
		return nil
	})
	out := showToken(record, now)
	out.Token = token
	return out, err
}

// staleEvery is after how many tokens stale ones are looked for, and how many go at a
// time: a farm may begin with thousands of tokens.
const staleEvery = 100

// staleJoinTokens are those that ran out so long ago that nobody asks about them any more.
func staleJoinTokens(view *store.Snapshot, now time.Time) (ids []string) {
	if view.JoinTokens.Len()%staleEvery != 0 {
		return nil
	}
	for old := range view.JoinTokens.All() {
		if now.Sub(old.Expires) > 24*time.Hour && len(ids) < staleEvery {
			ids = append(ids, old.ID)
		}
	}
	return ids
}

// staleTokens is the same of operators' tokens, by their hashes.
func staleTokens(view *store.Snapshot, now time.Time) (hashes []string) {
	for old := range view.Tokens.All() {
		if old.Expired(now.Add(-24*time.Hour)) && len(hashes) < staleEvery {
			hashes = append(hashes, old.Hash)
		}
	}
	return hashes
}

// joinAddress is where machines call this farm, if other machines can.
func (s *Server) joinAddress(role string) (string, error) {
	self, ok := s.c.Store.View().Servers.Get(s.c.Name)
	if !ok || self.NodeAPI == "" || role == string(keys.RoleServer) && self.Peer == "" {
		return "", bulkhead.Errorf(bulkhead.ErrConflict, "other machines do not reach this server: it listens for itself alone").
			WithHint("start it again with --advertise and an address of this machine; stamps go on meanwhile")
	}
	return "https://" + self.NodeAPI, nil
}

func (s *Server) listTokens() []TokenView {
	out, now, view := []TokenView{}, s.c.Now(), s.c.Store.View()
	for t := range view.Tokens.All() {
		out = append(out, showToken(t, now))
	}
	for t := range view.JoinTokens.All() {
		out = append(out, showJoinToken(t, now))
	}
	slices.SortFunc(out, func(a, b TokenView) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID))
	})
	return out
}

func showJoinToken(t bulkhead.JoinToken, now time.Time) TokenView {
	v := TokenView{ID: t.ID, Role: t.Role, Name: string(t.Name), State: "unused", Created: t.Created, By: t.By, Expires: t.Expires, Bound: t.Bound}
	switch {
	case !t.Used.IsZero():
		v.State = "used"
	case !now.Before(t.Expires):
		v.State = "expired"
	}
	return v
}

func showToken(t store.Token, now time.Time) TokenView {
	v := TokenView{ID: auth.ID(t.Hash), Role: t.Role, Name: t.Operator, State: "valid", Created: t.Created, By: t.By, Expires: t.Expires}
	if t.Expired(now) {
		v.State = "expired"
	}
	return v
}

// operator is who may come in with the token of that hash.
func (s *Server) operator(hash string) (auth.Operator, error) {
	t, ok := s.c.Store.View().Tokens.Get(hash)
	switch {
	case !ok:
		return auth.Operator{}, auth.ErrUnknown
	case t.Expired(s.c.Now()):
		return auth.Operator{}, bulkhead.Errorf(bulkhead.ErrDenied, "the token of %s ran out at %s", t.Operator, t.Expires.Format("2006-01-02 15:04:05Z"))
	}
	return auth.Operator{Name: t.Operator, Role: auth.Role(t.Role), Hash: hash}, nil
}

// tokenLook is how long a request that goes on, such as a log that is followed, may outlast
// its token.
const tokenLook = time.Second

// outlast ends what is under way for an operator when the token is revoked or runs out,
// until stop is called and ctx has ended.
func (s *Server) outlast(ctx context.Context, o auth.Operator, end context.CancelCauseFunc) (stop func() bool) {
	var look *time.Timer
	look = time.AfterFunc(time.Hour, func() {
		if _, err := s.operator(o.Hash); err != nil {
			end(err)
		}
		if ctx.Err() == nil {
			look.Reset(tokenLook)
		}
	})
	look.Reset(tokenLook)
	return look.Stop
}

func (s *Server) revokeToken(ctx context.Context, text string) error {
	return s.c.Store.Update(ctx, func(tx *store.Tx) error {
		if tx.JoinTokens.Has(text) {
			tx.JoinTokens.Delete(text)
			tx.Event(bulkhead.Event{Type: "token.revoked", Actor: actor(ctx), Message: "token " + text})
			return nil
		}
		t, err := namedToken(tx, text)
		if err != nil {
			return err
		}
		tx.Tokens.Delete(t.Hash)
		for other := range tx.Tokens.All() {
			if other.Role == string(auth.RoleAdmin) && !other.Expired(s.c.Now()) {
				tx.Event(bulkhead.Event{Type: "token.revoked", Actor: actor(ctx), Message: fmt.Sprintf("token %s of %s", auth.ID(t.Hash), t.Operator)})
				return nil
			}
		}
		return bulkhead.Errorf(bulkhead.ErrConflict, "token %s is the last one of an admin: without it nobody could change anything", auth.ID(t.Hash)).
			WithHint("make another one first: bulkhead token create --role admin --name NAME")
	})
}

// namedToken finds an operator's token by its id, or by the operator's name.
func namedToken(tx *store.Tx, text string) (store.Token, error) {
	var own []store.Token
	var ids []string
	for t := range tx.Tokens.All() {
		id := auth.ID(t.Hash)
		if id == text {
			return t, nil
		}
		if t.Operator == text {
			own, ids = append(own, t), append(ids, id)
		}
	}
	switch len(own) {
	case 0:
		return store.Token{}, bulkhead.Errorf(bulkhead.ErrNotFound, "token %q does not exist", text).WithHint("bulkhead token list shows their ids")
	case 1:
		return own[0], nil
	}
	return store.Token{}, bulkhead.Errorf(bulkhead.ErrConflict, "%s has %d tokens: %s", text, len(own), some(ids)).WithHint("name one by its id: bulkhead token list shows when each was made")
}
