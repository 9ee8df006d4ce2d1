package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/keys"
	"bulkhead/store"
)

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
	s := synced(t, client, hello())
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

// TestSessionOfAnotherServer: a server that wrote late what it had heard of a node before
// takes the node's record; the session that the node has then ends, so that it calls
// again and the record is right.
func TestSessionOfAnotherServer(t *testing.T) {
	f := newFixture(t)
	client := f.nodeListener()("n1")
	s := synced(t, client, hello())
	f.update(func(tx *store.Tx) {
		n, _ := tx.Nodes.Get("n1")
		n.Server, n.Silent = "s2", time.Now()
		tx.Nodes.Put(n)
	})
	var err error
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
		s := synced(t, client, hello())
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
