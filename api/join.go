package api

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"bulkhead"
	"bulkhead/keys"
	"bulkhead/store"
)

// JoinRequest is what a machine says that wants to join the farm.
type JoinRequest struct {
	Token   string              `json:"token"`
	Role    keys.Role           `json:"role"`
	Name    bulkhead.NodeName   `json:"name"`
	Version string              `json:"version"`
	Time    time.Time           `json:"time"`          // by its clock
	Request []byte              `json:"request"`       // for a certificate, PEM
	Said    bulkhead.Attributes `json:"said,omitzero"` // of a node, by its own word
	// Server is how others reach it, if it is to be a server.
	Server *bulkhead.Server `json:"server,omitempty"`
}

// JoinAnswer is what it gets.
type JoinAnswer struct {
	UID         string   `json:"uid"`         // of its membership
	Certificate []byte   `json:"certificate"` // chain, PEM; a node's
	Authority   []byte   `json:"authority"`   // the farm's certificate, PEM
	Servers     []string `json:"servers"`     // node APIs, HOST:PORT
	Domain      string   `json:"domain"`
	// Secrets are files for a server's folder of keys.
	Secrets map[string][]byte `json:"secrets,omitempty"`
	// Members are the peer addresses of all servers, the new one included.
	Members []string `json:"members,omitempty"`
}

// clockMost is how far the clock of a machine that joins may be off.
const clockMost = 30 * time.Second

// Join asks a server of a farm to take this machine in. It knows the server by
// the token's fingerprint of the farm's authority.
func Join(ctx context.Context, address string, token keys.JoinToken, r JoinRequest) (JoinAnswer, error) {
	way := NewWay([]string{address}, token.Stranger())
	defer way.http.CloseIdleConnections()
	r.Token, r.Time = token.String(), time.Now()
	var out JoinAnswer
	if err := way.ask(ctx, "/v1/join", r, &out); err != nil {
		return out, err
	}
	if _, print, err := keys.ReadPool(out.Authority); err != nil || print != token.Fingerprint {
		return out, bulkhead.Errorf(bulkhead.ErrDenied, "the server answers with the authority of another farm")
	}
	return out, nil
}

// Renew gets a new certificate for this node's key, also when the old one has run
// out.
func (w *Way) Renew(ctx context.Context, request []byte) (chain []byte, err error) {
	var out JoinAnswer
	err = w.ask(ctx, "/v1/node/renew", JoinRequest{Request: request}, &out)
	return out.Certificate, err
}

// join takes a machine in: the only thing that the node API does for who has no
// certificate.
func (n *nodeAPI) join(w http.ResponseWriter, r *http.Request) {
	var in JoinRequest
	err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&in)
	if err != nil {
		err = bulkhead.Errorf(bulkhead.ErrInvalid, "the request to join cannot be read: %w", err)
	}
	var out JoinAnswer
	if err == nil {
		out, err = n.admit(r.Context(), in)
	}
	if err != nil {
		n.s.c.Logger.Warn("machine not let in", "name", in.Name, "role", in.Role, "from", r.RemoteAddr, "err", err)
	}
	writeAnswer(w, out, err)
}

func writeAnswer(w http.ResponseWriter, out any, err error) {
	if err != nil {
		writeProblem(w, asProblem(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the machine is gone: it asks again
}

// admit checks a request to join and makes the machine a member. The same machine
// may ask again with the same token, as it does when it has not heard the answer.
func (n *nodeAPI) admit(ctx context.Context, in JoinRequest) (JoinAnswer, error) {
	authority := n.s.c.Authority
	if authority == nil {
		return JoinAnswer{}, bulkhead.Errorf(bulkhead.ErrDenied, "this server takes no machines in")
	}
	token, err := keys.ParseJoinToken(in.Token)
	if err != nil {
		return JoinAnswer{}, err
	}
	name, err := bulkhead.ParseNodeName(string(in.Name))
	if err != nil {
		return JoinAnswer{}, err
	}
	proof, err := keys.RequestProof(in.Request)
	if err != nil {
		return JoinAnswer{}, err
	}
	if err := bulkhead.Compatible(n.s.c.Version, in.Version); err != nil {
		return JoinAnswer{}, err
	}
	now := n.s.c.Now().UTC()
	if off := in.Time.Sub(now); off.Abs() > clockMost {
		word := "ahead of"
		if off < 0 {
			word = "behind"
		}
		return JoinAnswer{}, bulkhead.Errorf(bulkhead.ErrConflict, "the clock of %s is %s %s the servers'", name, off.Abs().Round(time.Second), word).
			WithHint("set the clocks of both by NTP, then join again")
	}
	if in.Role == keys.RoleServer && (in.Server == nil || in.Server.Peer == "" || in.Server.NodeAPI == "") {
		return JoinAnswer{}, bulkhead.Errorf(bulkhead.ErrInvalid, "server %s does not say where the others reach it", name).WithHint("start it with --advertise")
	}
	used, err := n.redeem(ctx, token, in, name, proof, now)
	if err != nil {
		return JoinAnswer{}, err
	}
	out := JoinAnswer{UID: used.UID, Authority: authority.PEM(), Servers: n.s.nodeAPIs(), Domain: n.s.c.Domain}
	if in.Role == keys.RoleServer {
		out.Secrets = n.s.c.Secrets()
		if out.Members, err = n.s.c.Store.AddMember(ctx, in.Server.Peer); err != nil {
			return JoinAnswer{}, errors.Join(err, n.restore(ctx, used))
		}
		return out, nil
	}
	out.Certificate, err = authority.Sign(keys.Subject{Role: in.Role, Name: name, UID: used.UID}, in.Request)
	return out, err
}

// redeem uses a token up and enters its machine into the state, in one step.
func (n *nodeAPI) redeem(ctx context.Context, token keys.JoinToken, in JoinRequest, name bulkhead.NodeName, proof string, now time.Time) (used bulkhead.JoinToken, err error) {
	another := "make another one: bulkhead token create"
	if err := n.s.c.Store.Sync(ctx); err != nil { // a token that was made a moment ago at another server
		return used, err
	}
	err = n.s.c.Store.Update(ctx, func(tx *store.Tx) error {
		t, ok := tx.JoinTokens.Get(token.ID)
		if !ok || subtle.ConstantTimeCompare([]byte(t.Hash), []byte(token.Hash())) != 1 {
			return bulkhead.Errorf(bulkhead.ErrDenied, "the token is not known here: it was revoked, or never made").WithHint("%s", another)
		}
		if keys.Role(t.Role) != in.Role || token.Role != in.Role {
			return bulkhead.Errorf(bulkhead.ErrDenied, "the token is for a %s, and this is to be a %s", t.Role, in.Role).
				WithHint("bulkhead token create --role %s", in.Role)
		}
		again := t.Proof == proof && t.Name == name && now.Before(t.Expires.Add(time.Hour))
		switch {
		case !t.Used.IsZero() && !again:
			return bulkhead.Errorf(bulkhead.ErrDenied, "the token was used already, by %s at %s", t.Name, t.Used.Format("2006-01-02 15:04:05Z")).WithHint("%s", another)
		case t.Used.IsZero() && !now.Before(t.Expires):
			return bulkhead.Errorf(bulkhead.ErrDenied, "the token ran out at %s", t.Expires.Format("2006-01-02 15:04:05Z")).WithHint("%s", another)
		}
		if theirs := in.Said.Against(t.Bound); !theirs.IsZero() {
			return bulkhead.Errorf(bulkhead.ErrDenied, "the token says %s, and %s says %s", t.Bound.Against(in.Said), name, theirs).
				WithHint("start it as the token says, or without those flags; or make another token: bulkhead token create")
		}
		if !t.Used.IsZero() {
			used = t
			return nil
		}
		t.Used, t.Name, t.UID, t.Proof = now, name, keys.Generate(16), proof
		switch in.Role {
		case keys.RoleNode:
			if was, ok := tx.Nodes.Get(name); ok {
				return bulkhead.Errorf(bulkhead.ErrConflict, "a node %s is in the farm already, since %s", name, was.Joined.Format("2006-01-02")).
					WithHint("choose another name with --node, or remove the old one: bulkhead node remove %s", name)
			}
			node := bulkhead.Node{
				Name: name, UID: t.UID, Version: in.Version, Joined: now, Seen: now, Silent: now, State: bulkhead.NodeUnreachable,
				Bound: t.Bound, Said: in.Said,
			}
			node.Settle()
			if err := node.CheckLabels(); err != nil {
				return err
			}
			tx.Nodes.Put(node)
			tx.Event(bulkhead.Event{Time: now, Type: "node.joined", Node: name, Actor: t.By, Message: fmt.Sprintf("node %s joined by a token of %s", name, t.By)})
		case keys.RoleServer:
			if _, ok := tx.Servers.Get(name); ok {
				return bulkhead.Errorf(bulkhead.ErrConflict, "a server %s is in the farm already", name).
					WithHint("choose another name with --node, or remove the old one: bulkhead server remove %s", name)
			}
			server := *in.Server
			server.Name, server.UID, server.Joined, server.Version = name, t.UID, now, in.Version
			tx.Servers.Put(server)
			tx.Event(bulkhead.Event{Time: now, Type: "server.joined", Actor: t.By, Message: fmt.Sprintf("server %s joined by a token of %s", name, t.By)})
		}
		tx.JoinTokens.Put(t)
		used = t
		return nil
	})
	return used, err
}

// restore makes a token that was used up in vain good again.
func (n *nodeAPI) restore(ctx context.Context, used bulkhead.JoinToken) error {
	return n.s.c.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if t, ok := tx.JoinTokens.Get(used.ID); ok {
			t.Used, t.Name, t.UID, t.Proof = time.Time{}, "", "", ""
			tx.JoinTokens.Put(t)
		}
		if server, ok := tx.Servers.Get(used.Name); ok && server.UID == used.UID {
			tx.Servers.Delete(used.Name)
		}
		return nil
	})
}

// renew certifies a node's key anew. A certificate that has run out is enough to
// ask with: it proves who it was, and the state tells whether that still holds.
func (n *nodeAPI) renew(w http.ResponseWriter, r *http.Request) {
	caller, err := n.caller(r)
	if err == nil {
		err = n.member(caller)
	}
	if err != nil {
		n.refuse(w, r, caller, err)
		return
	}
	var in JoinRequest
	if err = json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&in); err != nil {
		err = bulkhead.Errorf(bulkhead.ErrInvalid, "the request for a certificate cannot be read: %w", err)
	}
	var out JoinAnswer
	if err == nil {
		out.Certificate, err = n.s.c.Authority.Sign(keys.Subject{Role: keys.RoleNode, Name: caller.Name, UID: caller.UID}, in.Request)
	}
	writeAnswer(w, out, err)
}

// caller is who its certificate names.
func (n *nodeAPI) caller(r *http.Request) (keys.Caller, error) {
	if n.s.c.Authority == nil {
		return keys.Caller{}, bulkhead.Errorf(bulkhead.ErrDenied, "this server takes no nodes")
	}
	return keys.Identify(r.TLS, n.s.c.Authority.Pool(), n.s.c.Now())
}

// errRemoved is the cause of the refusal of a node that was removed.
var errRemoved = errors.New("removed")

// member checks that a node is of the farm now: a certificate alone outlives that.
func (n *nodeAPI) member(caller keys.Caller) error {
	view := n.s.c.Store.View()
	if gone, ok := view.Removed.Get(caller.UID); ok && caller.UID != "" {
		return &bulkhead.Error{
			Kind: bulkhead.ErrDenied, Cause: errRemoved,
			Message: fmt.Sprintf("%s was removed from the farm by %s at %s", gone.Name, gone.By, gone.Time.Format("2006-01-02 15:04:05Z")),
			Hint:    "to join again it needs an empty data folder and a new token",
		}
	}
	if caller.Role != keys.RoleNode {
		return bulkhead.Errorf(bulkhead.ErrDenied, "%s is a %s, not a node", caller.Name, caller.Role)
	}
	node, ok := view.Nodes.Get(caller.Name)
	if !ok || node.UID != caller.UID {
		return bulkhead.Errorf(bulkhead.ErrDenied, "this farm knows no such node as %s", caller.Name).
			WithHint("it was removed, or the state is older than the node: let it join again")
	}
	return nil
}

// fellow checks that a caller is another server of the farm now.
func (n *nodeAPI) fellow(caller keys.Caller) error {
	switch {
	case caller.Role != keys.RoleServer:
		return bulkhead.Errorf(bulkhead.ErrDenied, "%s %s is not a server", caller.Role, caller.Name)
	case caller.Expired:
		return bulkhead.Errorf(bulkhead.ErrDenied, "the certificate of server %s has run out", caller.Name)
	}
	if _, ok := n.s.c.Store.View().Servers.Get(caller.Name); !ok {
		return bulkhead.Errorf(bulkhead.ErrDenied, "this farm knows no such server as %s", caller.Name)
	}
	return nil
}

// refuse answers a caller that may not do what it asks for, and writes down who it was.
func (n *nodeAPI) refuse(w http.ResponseWriter, r *http.Request, caller keys.Caller, err error) {
	n.turnedAway(r, caller, err)
	writeProblem(w, asProblem(err))
}

func (n *nodeAPI) turnedAway(r *http.Request, caller keys.Caller, err error) {
	n.s.c.Logger.Warn("turned away", "role", caller.Role, "name", caller.Name, "from", r.RemoteAddr, "method", r.Method, "path", r.URL.Path, "err", err)
}

// worker is a caller that may have new work: a node of the farm whose certificate
// is valid.
func (n *nodeAPI) worker(r *http.Request) (keys.Caller, error) {
	caller, err := n.caller(r)
	if err == nil {
		err = n.member(caller)
	}
	if err == nil && caller.Expired {
		err = bulkhead.Errorf(bulkhead.ErrDenied, "the certificate of node %s has run out", caller.Name).WithHint("it renews it by itself: /v1/node/renew")
	}
	return caller, err
}

// nodeAPIs are the addresses at which nodes reach the servers.
func (s *Server) nodeAPIs() []string {
	out := []string{}
	for server := range s.c.Store.View().Servers.All() {
		out = append(out, server.NodeAPI)
	}
	return out
}
