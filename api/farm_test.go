package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"bulkhead"
	"bulkhead/keys"
	"bulkhead/store"
)

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
