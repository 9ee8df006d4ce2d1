package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
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
		h.Node.Bound = a // what is bound is not for it to say
		s, err := node.Connect(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		for o := receive(t, s); !o.Synced; o = receive(t, s) { // its word is recorded by then
		}
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

// TestNodesSeeOnlyTheirOwn goes through every node and every stamp: a node is given
// the secrets of its own stamps and no other's, and is believed about its own only.
func TestNodesSeeOnlyTheirOwn(t *testing.T) {
	f := newFixture(t)
	dial := f.nodeListener()
	const many = 4
	owner := map[bulkhead.StampName]bulkhead.NodeName{}
	for i := range many {
		stamp, node := bulkhead.StampName("stamp"+string(rune('a'+i))), bulkhead.NodeName("n"+string(rune('a'+i)))
		if _, err := f.CreateStamp(t.Context(), StampSpec{Name: string(stamp), Product: "shop"}, false, false); err != nil {
			t.Fatal(err)
		}
		dial(node)
		f.place(stamp, node)
		owner[stamp] = node
	}
	for _, node := range owner {
		s, err := dial(node).Connect(t.Context(), hello())
		if err != nil {
			t.Fatal(err)
		}
		for o := receive(t, s); !o.Synced; o = receive(t, s) {
			if o.Assign != nil && owner[o.Assign.Stamp.Name] != node {
				t.Errorf("%s is given %s", node, o.Assign.Stamp.Name)
			}
			if o.Farm == nil {
				continue
			}
			for _, p := range o.Farm.Places {
				if owner[p.Name] != p.Node {
					t.Errorf("%s is told that %s is on %s", node, p.Name, p.Node)
				}
			}
		}
		for stamp := range owner { // as if each were its own
			st := f.stamp(stamp)
			if err := s.Send(bulkhead.NodeReport{Status: &bulkhead.StampStatus{Name: stamp, UID: st.UID, Node: owner[stamp], Epoch: st.Epoch, Generation: 1, Phase: bulkhead.PhaseFailed, Message: "said by " + string(node)}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Send(bulkhead.NodeReport{Event: &bulkhead.Event{Type: "fence." + string(node)}}); err != nil {
			t.Fatal(err)
		}
		f.await("everything sent is recorded", func(v *store.Snapshot) bool {
			for e := range v.Events.All() {
				if e.Type == "fence."+string(node) {
					return true
				}
			}
			return false
		})
		_ = s.Close()
	}
	for st := range f.store.View().Statuses.All() {
		if st.Message != "said by "+string(owner[st.Name]) {
			t.Errorf("of %s, which is on %s, is recorded what was %s", st.Name, owner[st.Name], st.Message)
		}
	}
}

// TestRemovedNode: a node that was removed loses its session at once, and nothing
// that it asks for is given, whatever its certificate says.
func TestRemovedNode(t *testing.T) {
	f := newFixture(t)
	client := f.nodeListener()("n1")
	s, err := client.Connect(t.Context(), hello())
	if err != nil {
		t.Fatal(err)
	}
	for o := receive(t, s); !o.Synced; o = receive(t, s) {
	}
	if _, err := f.RemoveNode(t.Context(), "n1", false); err != nil {
		t.Fatal(err)
	}
	if o := next(t, s); !o.Removed {
		t.Errorf("the open session is told %+v", o)
	}
	again, err := client.Connect(t.Context(), hello())
	if err != nil {
		t.Fatal(err)
	}
	if o := next(t, again); !o.Removed {
		t.Errorf("another session is told %+v", o)
	}
	request, _ := keys.NewRequest()
	if _, err := client.way.Renew(t.Context(), request.PEM); !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "was removed from the farm by ann") {
		t.Errorf("a new certificate: %v", err)
	}
	resp, err := client.way.http.Get(base + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != 403 {
		t.Errorf("a pull: %s", resp.Status)
	}
	if _, ok := f.store.View().Nodes.Get("n1"); ok {
		t.Error("the node is back")
	}
}

// TestExpiredCertificate: it opens no session, which is new work, and is enough to
// get another one.
func TestExpiredCertificate(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()("n1")
	f.authority.Life = -time.Minute
	old := f.client(f.identity(keys.RoleNode, "n1", "uid-n1"))
	f.authority.Life = 0
	if _, err := old.Connect(t.Context(), hello()); !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "has run out") {
		t.Fatalf("a session: %v", err)
	}
	request, err := keys.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := old.way.Renew(t.Context(), request.PEM)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := request.Certificate(chain)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := keys.NewIdentity(t.Context(), func(context.Context) (*tls.Certificate, error) { return certificate, nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.client(fresh).Connect(t.Context(), hello())
	if err != nil {
		t.Fatalf("with the new certificate: %v", err)
	}
	_ = s.Close()
	f.update(func(tx *store.Tx) { // another machine has the name now
		n, _ := tx.Nodes.Get("n1")
		n.UID = "another"
		tx.Nodes.Put(n)
	})
	if _, err := old.way.Renew(t.Context(), request.PEM); !errors.Is(err, bulkhead.ErrDenied) {
		t.Errorf("a renewal for an earlier life of the name: %v", err)
	}
}

// TestStaleNode: a node that comes back with stamps that are elsewhere by now is
// told so, under their epoch; of stamps that nobody knows it is told nothing.
func TestStaleNode(t *testing.T) {
	f := newFixture(t)
	dial := f.nodeListener()
	dial("n2")
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false, false); err != nil {
		t.Fatal(err)
	}
	f.place("acme", "n1")
	held := bulkhead.StampRef{Name: "acme", UID: f.stamp("acme").UID, Epoch: 1}
	f.place("acme", "n2")
	s, err := dial("n1").Connect(t.Context(), hello(held, bulkhead.StampRef{Name: "unknown", UID: "u", Epoch: 7}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var orders []bulkhead.NodeOrder
	for o := receive(t, s); !o.Synced; o = receive(t, s) {
		if o.Forget != nil {
			orders = append(orders, o)
		}
	}
	if len(orders) != 1 || orders[0].Forget.Name != "acme" || orders[0].Forget.UID != held.UID || orders[0].Forget.Epoch != 2 {
		t.Errorf("it is told %+v", orders)
	}
}

// TestTombs: a node hears which stamps were purged that it may have something of, before all
// else and when it happens, until it has said that nothing is left. Another node, and
// another machine of its name, hears nothing and has no say.
func TestTombs(t *testing.T) {
	f := newFixture(t)
	dial := f.nodeListener()
	n1, n2 := dial("n1"), dial("n2")
	member := func(name bulkhead.NodeName) bulkhead.Membership {
		n, _ := f.store.View().Nodes.Get(name)
		return bulkhead.Membership{Node: name, UID: n.UID}
	}
	bury := func(uid string, of bulkhead.Membership) {
		f.update(func(tx *store.Tx) {
			tx.Tombs.Put(bulkhead.Tomb{StampRef: bulkhead.StampRef{Name: "acme", UID: uid, Epoch: 3}, Of: of})
		})
	}
	open := func(c *NodeClient) (s *NodeSession, told []string) {
		t.Helper()
		s, err := c.Connect(t.Context(), hello())
		if err != nil {
			t.Fatal(err)
		}
		for o := receive(t, s); !o.Synced; o = receive(t, s) {
			if o.Purge != nil {
				told = append(told, fmt.Sprint(o.Purge.Name, " ", o.Purge.UID, " ", o.Purge.Epoch))
			}
		}
		return s, told
	}
	bury("u1", member("n1"))
	bury("u2", bulkhead.Membership{Node: "n1", UID: "a former machine"})
	first, told := open(n1)
	if fmt.Sprint(told) != "[acme u1 3]" {
		t.Errorf("n1 hears first: %q", told)
	}
	other, told := open(n2)
	defer other.Close()
	if len(told) > 0 {
		t.Errorf("n2 hears %q", told)
	}
	bury("u3", member("n1"))
	if o := next(t, first); o.Purge == nil || o.Purge.UID != "u3" { // u1 not again
		t.Errorf("n1 hears then: %+v", o)
	}
	say := func(s *NodeSession, uid string) {
		t.Helper()
		if err := s.Send(bulkhead.NodeReport{Purged: &bulkhead.StampRef{Name: "acme", UID: uid}}); err != nil {
			t.Fatal(err)
		}
	}
	say(other, "u3")
	say(first, "u1")
	f.await("n1 has said that nothing is left of u1", func(v *store.Snapshot) bool {
		_, left := v.Tombs.Get(store.NewTombKey("n1", "u1"))
		return !left
	})
	first.Close()
	again, told := open(n1)
	if fmt.Sprint(told) != "[acme u3 3]" {
		t.Errorf("n1 hears when it calls again: %q", told)
	}
	again.Close()
	f.update(func(tx *store.Tx) {
		n, _ := tx.Nodes.Get("n1")
		n.Cordoned = true
		tx.Nodes.Put(n)
	})
	if _, err := f.RemoveNode(t.Context(), "n1", false); err != nil {
		t.Fatal(err)
	}
	if n := f.store.View().Tombs.Len(); n > 0 {
		t.Errorf("%d tombs of a node that was removed", n)
	}
}

// TestRestoreElsewhere: a stamp without data that is taken back is placed anew, and who had
// it is known.
func TestRestoreElsewhere(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()("n1")
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false, false); err != nil {
		t.Fatal(err)
	}
	f.place("acme", "n1")
	f.update(func(tx *store.Tx) {
		s, _ := tx.Stamps.Get("acme")
		s.Volumes = nil
		tx.Stamps.Put(s)
	})
	if _, err := f.DeleteStamp(t.Context(), "acme", false); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, true, false); err != nil {
		t.Fatal(err)
	}
	n, _ := f.store.View().Nodes.Get("n1")
	if got := f.stamp("acme"); got.Node != "" || len(got.Former) != 1 || got.Former[0] != (bulkhead.Membership{Node: "n1", UID: n.UID}) {
		t.Errorf("on %q, was on %v", got.Node, got.Former)
	}
}

// TestAskTwice: a change that a client asks for again, having heard no answer, is
// made once, and the answer is that it is done.
func TestAskTwice(t *testing.T) {
	f := newFixture(t)
	ask := func(request, method, path string, in any) error {
		b := []byte(nil)
		if in != nil {
			b = []byte(`{"name":"acme","product":"shop"}`)
		}
		resp, _, err := f.send(t.Context(), method, path, request, b)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for range 2 {
		if err := ask("one", "POST", "/v1/stamps", true); err != nil {
			t.Errorf("create: %v", err)
		}
	}
	if err := ask("two", "POST", "/v1/stamps", true); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("another create: %v", err)
	}
	for _, request := range []string{"three", "three", "four"} {
		if err := ask(request, "POST", "/v1/stamps/acme/restart", nil); err != nil {
			t.Errorf("restart: %v", err)
		}
	}
	if got := f.stamp("acme").Restarted; got != 2 {
		t.Errorf("restarted %d times, asked for 2", got)
	}
	label := func(request, value string) {
		t.Helper()
		resp, _, err := f.send(t.Context(), "PATCH", "/v1/stamps/acme", request, []byte(`{"labels":{"is":"`+value+`"}}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	label("mine", "old")
	for i := range remembered - 1 { // others have changed it since, over and over
		label(fmt.Sprint("other", i), fmt.Sprint("new", i))
		label("mine", "old")
		if got := f.stamp("acme").Labels["is"]; got != fmt.Sprint("new", i) {
			t.Fatalf("after %d changes of others a change is made a second time: %q", i+1, got)
		}
	}
	for i := range 2 * remembered {
		label(fmt.Sprint("more", i), fmt.Sprint(i))
	}
	if n := strings.Count(f.stamp("acme").Request, "\n"); n >= remembered {
		t.Errorf("%d requests are 16", n+1)
	}
}

// TestCordonAndRemove: what has data or works is not removed by mistake.
func TestCordonAndRemove(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()("n1")
	f.update(func(tx *store.Tx) {
		n, _ := tx.Nodes.Get("n1")
		n.State = bulkhead.NodeReady
		tx.Nodes.Put(n)
	})
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false, false); err != nil {
		t.Fatal(err)
	}
	f.place("acme", "n1")
	f.update(func(tx *store.Tx) {
		s, _ := tx.Stamps.Get("acme")
		s.Volumes = nil
		tx.Stamps.Put(s)
	})
	if _, err := f.RemoveNode(t.Context(), "n1", false); !errors.Is(err, bulkhead.ErrConflict) || !strings.Contains(err.Error(), "is up and has 1 stamps") {
		t.Errorf("a node that works: %v", err)
	}
	if n, err := f.CordonNode(t.Context(), "n1", true); err != nil || !n.Cordoned {
		t.Errorf("cordon: %+v, %v", n, err)
	}
	f.update(func(tx *store.Tx) {
		s, _ := tx.Stamps.Get("acme")
		s.Volumes = []bulkhead.Volume{{Name: "data"}}
		tx.Stamps.Put(s)
	})
	if _, err := f.RemoveNode(t.Context(), "n1", false); !errors.Is(err, bulkhead.ErrConflict) || !strings.Contains(err.Error(), "has the data of acme") {
		t.Errorf("a node with data: %v", err)
	}
	wish := func(d bulkhead.Desired) {
		f.update(func(tx *store.Tx) {
			s, _ := tx.Stamps.Get("acme")
			s.Desired = d
			tx.Stamps.Put(s)
		})
	}
	wish(bulkhead.DesiredDeleted)
	if _, err := f.RemoveNode(t.Context(), "n1", false); !errors.Is(err, bulkhead.ErrConflict) || !strings.Contains(err.Error(), "has the data of acme, deleted and kept") {
		t.Errorf("a node with data of a deleted stamp: %v", err)
	}
	wish(bulkhead.DesiredRunning)
	out, err := f.RemoveNode(t.Context(), "n1", true)
	if err != nil || len(out.Lost) != 1 || f.stamp("acme").Node != "" {
		t.Errorf("with its data given up: %+v, %v", out, err)
	}
	for what, err := range map[string]error{
		"cordon": func() error { _, err := f.CordonNode(t.Context(), "n1", true); return err }(),
		"remove": func() error { _, err := f.RemoveNode(t.Context(), "n1", false); return err }(),
		"server": f.RemoveServer(t.Context(), "s9"),
	} {
		if !errors.Is(err, bulkhead.ErrNotFound) {
			t.Errorf("%s of what is not there: %v", what, err)
		}
	}
	if err := f.RemoveServer(t.Context(), "s1"); !errors.Is(err, bulkhead.ErrConflict) || !strings.Contains(err.Error(), "the only server") {
		t.Errorf("the only server: %v", err)
	}
}

// TestServerRemovesItself: it could not record that it has left, so the client asks
// another one, if it knows any.
func TestServerRemovesItself(t *testing.T) {
	f := newFixture(t)
	f.update(func(tx *store.Tx) {
		tx.Servers.Put(bulkhead.Server{Name: "s1"})
		tx.Servers.Put(bulkhead.Server{Name: "s2"})
	})
	if err := f.RemoveServer(t.Context(), "s1"); !errors.Is(err, bulkhead.ErrConflict) || !strings.Contains(err.Error(), "another one must be asked") {
		t.Errorf("the only one that the client knows: %v", err)
	}
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer other.Close()
	if err := f.Farm([]string{other.URL}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := f.RemoveServer(t.Context(), "s1"); err != nil || asked.Load() != 1 {
		t.Errorf("another is known: asked %d times, %v", asked.Load(), err)
	}
}

// TestWayToWhatIsNoServer says so in one line, without names of our own making.
func TestWayToWhatIsNoServer(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()
	plain := httptest.NewServer(http.NotFoundHandler())
	address := plain.Listener.Addr().String()
	ask := joinRequest(t, "n1", keys.RoleNode)
	if _, err := Join(t.Context(), address, f.token("node"), ask); err == nil || !strings.HasPrefix(err.Error(), "no server answers: "+address+": it does not speak TLS") {
		t.Errorf("an address of another kind: %v", err)
	}
	plain.Close()
	if _, err := Join(t.Context(), address, f.token("node"), ask); err == nil || err.Error() != "no server answers: "+address+": connection refused" {
		t.Errorf("an address where nobody listens: %v", err)
	}
}

// TestStaleTokens: tokens that ran out long ago go by and by, others stay.
func TestStaleTokens(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()
	f.update(func(tx *store.Tx) {
		for i := range 2*staleEvery - 1 {
			k := bulkhead.JoinToken{ID: fmt.Sprintf("old-%03d", i), Expires: time.Now().Add(-25 * time.Hour)}
			if i < 2 {
				k.ID, k.Expires = fmt.Sprintf("young-%d", i), time.Now().Add(-23*time.Hour)
			}
			tx.JoinTokens.Put(k)
		}
	})
	for range 3 {
		f.token("node")
	}
	young, old := 0, 0
	for k := range f.store.View().JoinTokens.All() {
		switch {
		case strings.HasPrefix(k.ID, "old-"):
			old++
		case strings.HasPrefix(k.ID, "young-"):
			young++
		}
	}
	if old != staleEvery-3 || young != 2 {
		t.Errorf("%d old and %d younger tokens are left", old, young)
	}
}

// TestSessionOfAnotherServer: a server that wrote late what it had heard of a node before
// takes the node's record; the session that the node has then ends, so that it calls
// again and the record is right.
func TestSessionOfAnotherServer(t *testing.T) {
	f := newFixture(t)
	client := f.nodeListener()("n1")
	s, err := client.Connect(t.Context(), hello())
	if err != nil {
		t.Fatal(err)
	}
	for o := receive(t, s); !o.Synced; o = receive(t, s) {
	}
	f.update(func(tx *store.Tx) {
		n, _ := tx.Nodes.Get("n1")
		n.Server, n.Silent = "s2", time.Now()
		tx.Nodes.Put(n)
	})
	for err == nil {
		_, err = s.Receive()
	}
	_ = s.Close()
	again, err := client.Connect(t.Context(), hello())
	if err != nil {
		t.Fatal(err)
	}
	f.await("the record is right", func(v *store.Snapshot) bool {
		n, _ := v.Nodes.Get("n1")
		return n.Server == "s1" && n.Silent.IsZero()
	})
	_ = again.Close()
}

// TestReportOfAnEarlierSession: a server that stood still while a node went on at
// another one writes what it had heard before: that is not how things are any more, and
// nobody would say it again.
func TestReportOfAnEarlierSession(t *testing.T) {
	f := newFixture(t)
	client := f.nodeListener()("n1")
	f.update(func(tx *store.Tx) {
		tx.Stamps.Put(bulkhead.Stamp{Name: "acme", UID: "uid-acme", Node: "n1", Epoch: 1})
	})
	says := func(phase bulkhead.Phase) bulkhead.NodeReport {
		return bulkhead.NodeReport{Status: &bulkhead.StampStatus{Name: "acme", UID: "uid-acme", Node: "n1", Epoch: 1, Phase: phase}}
	}
	connect := func() *NodeSession {
		s, err := client.Connect(t.Context(), hello())
		if err != nil {
			t.Fatal(err)
		}
		for o := receive(t, s); !o.Synced; o = receive(t, s) {
		}
		return s
	}
	s := connect()
	earlier := f.server.nodes.dispatch.session("n1")
	if err := s.Send(says(bulkhead.PhaseDegraded)); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = connect()
	defer s.Close()
	if err := s.Send(says(bulkhead.PhaseRunning)); err != nil {
		t.Fatal(err)
	}
	running := func(v *store.Snapshot) bool {
		st, _ := v.Statuses.Get("acme")
		return st.Phase == bulkhead.PhaseRunning
	}
	f.await("acme runs", running)
	ledger := f.server.nodes.ledger
	if err := ledger.record(t.Context(), earlier.entry(says(bulkhead.PhaseDegraded))); !errors.Is(err, errReplaced) {
		t.Errorf("a report of an earlier session: %v", err)
	}
	if !running(f.store.View()) {
		t.Error("what was before has been written over what is")
	}
	if err := ledger.record(t.Context(), f.server.nodes.dispatch.session("n1").entry(says(bulkhead.PhaseDegraded))); err != nil || running(f.store.View()) {
		t.Errorf("a report of the session that is: %v", err)
	}
}
