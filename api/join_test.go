package api

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/keys"
	"bulkhead/store"
)

// joinRequest is that of a machine with a key of its own.
func joinRequest(t *testing.T, name bulkhead.NodeName, role keys.Role) JoinRequest {
	t.Helper()
	r, err := keys.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	return JoinRequest{Role: role, Name: name, Version: "v1.4.0", Request: r.PEM}
}

func (f *fixture) token(role string) keys.JoinToken {
	f.t.Helper()
	v, err := f.CreateToken(f.t.Context(), TokenSpec{Role: role})
	if err != nil {
		f.t.Fatal(err)
	}
	token, err := keys.ParseJoinToken(v.Token)
	if err != nil || v.Join != "https://"+f.listener {
		f.t.Fatalf("%+v: %v", v, err)
	}
	return token
}

// TestJoin: a token lets one machine in, once; the same machine may ask again, as
// it does when it has not heard the answer.
func TestJoin(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()
	token, ask := f.token("node"), joinRequest(t, "n1", keys.RoleNode)
	got, err := Join(t.Context(), f.listener, token, ask)
	if err != nil {
		t.Fatal(err)
	}
	node, ok := f.store.View().Nodes.Get("n1")
	if !ok || node.UID != got.UID || len(got.Secrets) > 0 || len(got.Certificate) == 0 || len(got.Servers) != 1 {
		t.Errorf("the node is %+v, the answer %+v", node, got)
	}
	again, err := Join(t.Context(), f.listener, token, ask)
	if err != nil || again.UID != got.UID {
		t.Errorf("the same machine again: %+v, %v", again, err)
	}
	for what, other := range map[string]JoinRequest{"another key": joinRequest(t, "n1", keys.RoleNode), "another machine": joinRequest(t, "n2", keys.RoleNode)} {
		if _, err := Join(t.Context(), f.listener, token, other); !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "used already") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if tokens, err := f.Tokens(t.Context()); err != nil || len(tokens) != 2 || tokens[0].State != "used" || tokens[0].Name != "n1" || tokens[0].Token != "" {
		t.Errorf("tokens: %+v, %v", tokens, err)
	}
}

// TestJoinRefusals: one line each, and nothing is changed.
func TestJoinRefusals(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()("n1")
	var now time.Time
	f.server.c.Now = func() time.Time { return time.Now().Add(now.Sub(time.Time{})) }
	refused := func(what, want string, kind error, token keys.JoinToken, change func(*JoinRequest)) {
		t.Helper()
		nodes, servers := f.store.View().Nodes.Len(), f.store.View().Servers.Len()
		r := joinRequest(t, "n2", keys.RoleNode)
		if change != nil {
			change(&r)
		}
		_, err := Join(t.Context(), f.listener, token, r)
		if !errors.Is(err, kind) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
		if v := f.store.View(); v.Nodes.Len() != nodes || v.Servers.Len() != servers {
			t.Errorf("%s: the state has changed", what)
		}
		if k, ok := f.store.View().JoinTokens.Get(token.ID); ok && !k.Used.IsZero() {
			t.Errorf("%s: the token is used up", what)
		}
	}
	good, server := f.token("node"), f.token("server")
	wrong := good
	wrong.Secret = keys.Generate(32)
	refused("a wrong secret", "not known here", bulkhead.ErrDenied, wrong, nil)
	forged := server
	forged.Role = keys.RoleNode
	refused("a role that was changed", "is for a server", bulkhead.ErrDenied, forged, nil)
	refused("a server's token", "is for a server", bulkhead.ErrDenied, server, nil)
	refused("a node's token", "is for a node", bulkhead.ErrDenied, good, func(r *JoinRequest) {
		r.Role, r.Server = keys.RoleServer, &bulkhead.Server{Peer: "a:1", NodeAPI: "a:2"}
	})
	refused("a name that is taken", "a node n1 is in the farm already", bulkhead.ErrConflict, good, func(r *JoinRequest) { r.Name = "n1" })
	refused("a name that is none", "node name", bulkhead.ErrInvalid, good, func(r *JoinRequest) { r.Name = "a b" })
	refused("a version two ahead", "cannot work with", bulkhead.ErrConflict, good, func(r *JoinRequest) { r.Version = "v1.6.0" })
	refused("a version two behind", "cannot work with", bulkhead.ErrConflict, good, func(r *JoinRequest) { r.Version = "v1.2.0" })
	refused("no certificate request", "certificate request", bulkhead.ErrInvalid, good, func(r *JoinRequest) { r.Request = []byte("x") })
	now = now.Add(-3 * time.Hour)
	refused("a clock that is ahead", "3h0m0s ahead of the servers'", bulkhead.ErrConflict, good, nil)
	now = time.Time{}.Add(5 * time.Minute)
	refused("a clock that is behind", "5m0s behind the servers'", bulkhead.ErrConflict, good, nil)
	now = time.Time{}
	if err := f.RevokeToken(t.Context(), good.ID); err != nil {
		t.Fatal(err)
	}
	refused("a revoked token", "not known here", bulkhead.ErrDenied, good, nil)
	short := f.token("node")
	f.update(func(tx *store.Tx) {
		k, _ := tx.JoinTokens.Get(short.ID)
		k.Expires = time.Now().Add(-time.Second)
		tx.JoinTokens.Put(k)
	})
	refused("a token that ran out", "ran out", bulkhead.ErrDenied, short, nil)
	foreign := f.token("node")
	foreign.Fingerprint = strings.Repeat("0", 64)
	refused("another farm's token", "another farm", bulkhead.ErrDenied, foreign, nil)
	for _, spec := range []TokenSpec{
		{Role: "root"},
		{Role: "node", Name: "ann"},
		{Role: "node", Bound: bulkhead.Attributes{Region: "eu west"}},
		{Role: "server", Bound: bulkhead.Attributes{Region: "eu"}},
		{Role: "viewer", Name: "ann", Bound: bulkhead.Attributes{Zone: "a"}},
		{Role: "node", Valid: "25h"},
		{Role: "node", Valid: "-1s"},
		{Role: "node", Valid: "soon"},
	} {
		if _, err := f.CreateToken(t.Context(), spec); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("%+v: %v", spec, err)
		}
	}
}

// TestJoinBinds: what a token binds, a node is, whatever it says when it joins or later;
// the rest is its own word.
func TestJoinBinds(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()
	type labels = map[string]string
	view := f.operatorToken(TokenSpec{Role: "node", Bound: bulkhead.Attributes{Region: "eu", Labels: labels{"disk": "ssd"}}})
	token, err := keys.ParseJoinToken(view.Token)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := f.Tokens(t.Context()); err != nil || all[0].Bound.String() != "region eu, label disk=ssd" {
		t.Errorf("tokens: %+v, %v", all, err)
	}
	ask := joinRequest(t, "n1", keys.RoleNode)
	refused := func(what, want string) {
		t.Helper()
		_, err := Join(t.Context(), f.listener, token, ask)
		if !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	ask.Said = bulkhead.Attributes{Region: "us", Zone: "a", Labels: labels{"disk": "ssd"}}
	refused("another region", "the token says region eu, and n1 says region us")
	ask.Said = bulkhead.Attributes{Region: "eu", Labels: labels{"disk": "hdd", "gpu": "x"}}
	refused("another label", "the token says label disk=ssd, and n1 says label disk=hdd")
	if k, _ := f.store.View().JoinTokens.Get(token.ID); !k.Used.IsZero() || f.store.View().Nodes.Len() != 0 {
		t.Error("what was refused has changed something")
	}
	ask.Said = bulkhead.Attributes{Zone: "a"}
	answer, err := Join(t.Context(), f.listener, token, ask)
	if err != nil {
		t.Fatal(err)
	}
	is := func(what, region, zone string, want labels) {
		t.Helper()
		n, err := f.Node(t.Context(), "n1")
		if err != nil || n.Region != region || n.Zone != zone || !maps.Equal(n.Labels, want) {
			t.Errorf("%s: %q, %q, %v; %v", what, n.Region, n.Zone, n.Labels, err)
		}
	}
	is("a machine that says nothing of it", "eu", "a", labels{"disk": "ssd"})
	ask.Said.Region = "us"
	refused("the same machine once more, otherwise", "the token says region eu, and n1 says region us")

	node := f.client(f.identity(keys.RoleNode, "n1", answer.UID))
	session := func(a bulkhead.Attributes) {
		t.Helper()
		h := hello()
		h.Node.Region, h.Node.Zone, h.Node.Labels = a.Region, a.Zone, a.Labels
		h.Node.Bound = a        // what is bound is not for it to say
		s := synced(t, node, h) // its word is recorded by then
		_ = s.Close()
	}
	disputes := func() (out []string) {
		for e := range f.store.View().Events.All() {
			if e.Type == "node.disputed" {
				out = append(out, e.Message)
			}
		}
		return out
	}
	session(bulkhead.Attributes{Region: "eu", Zone: "b", Labels: labels{"gpu": "x"}})
	is("what is not bound", "eu", "b", labels{"disk": "ssd", "gpu": "x"})
	if d := disputes(); len(d) > 0 {
		t.Errorf("nothing is in dispute: %q", d)
	}
	liar := bulkhead.Attributes{Region: "us", Zone: "b", Labels: labels{"disk": "hdd"}}
	session(liar)
	session(liar)
	is("a session that says otherwise", "eu", "b", labels{"disk": "ssd"})
	request, err := keys.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.way.Renew(t.Context(), request.PEM); err != nil {
		t.Fatal(err)
	}
	session(liar)
	is("after a new certificate", "eu", "b", labels{"disk": "ssd"})
	if d := disputes(); len(d) != 1 || d[0] != "node n1 says region us, label disk=hdd; it is bound to region eu, label disk=ssd, which holds" {
		t.Errorf("events: %q", d)
	}
	session(bulkhead.Attributes{Region: "us and more", Zone: "b"})
	is("a region that is none", "eu", "b", labels{"disk": "ssd"})

	// An operator binds and unbinds.
	ch, zone, none := "ch", "z", ""
	if n, err := f.UpdateNode(t.Context(), "n1", NodeUpdate{Region: &ch, Zone: &zone, Labels: labels{"pool": ""}, Unset: []string{"disk", "nothing"}}); err != nil || n.Bound.String() != "region ch, zone z, label pool=" {
		t.Errorf("binding: %+v, %v", n.Bound, err)
	}
	is("bound by an operator", "ch", "z", labels{"disk": "hdd", "pool": ""})
	session(liar)
	is("and then a session", "ch", "z", labels{"disk": "hdd", "pool": ""})
	if _, err := f.UpdateNode(t.Context(), "n1", NodeUpdate{Region: &none, Zone: &none, Unset: []string{"pool"}}); err != nil {
		t.Error(err)
	}
	is("bound to nothing", "us", "b", labels{"disk": "hdd"})
	wrong := "eu west"
	if _, err := f.UpdateNode(t.Context(), "n1", NodeUpdate{Region: &wrong}); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("a region that is none: %v", err)
	}
	if _, err := f.UpdateNode(t.Context(), "n9", NodeUpdate{}); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("no such node: %v", err)
	}
}
