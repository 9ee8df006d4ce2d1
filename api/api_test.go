package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/auth"
	"bulkhead/keys"
	"bulkhead/store"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const testBundle = bulkhead.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")

const testProject = `name: shop
services:
  web:
    image: web:1
    ports: ["8080"]
    environment: {TITLE: "${TITLE}", PASSWORD: "${PASSWORD}"}
x-bulkhead:
  settings:
    TITLE: {type: string, default: Shop}
    PASSWORD: {type: string, secret: true, generate: 20}
`

type fixture struct {
	*Client
	t      testing.TB
	url    string
	shared *store.Shared
	store  *store.Store
	server *Server
	keys   string

	authority *keys.Authority
	listener  string // address of the node API, once nodeListener was called
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	dir := t.TempDir()
	shared := store.NewShared(nil)
	state := shared.Open(store.Config{}, nil)
	token, hash := auth.New()
	if err := state.Update(t.Context(), func(tx *store.Tx) error {
		tx.Tokens.Put(store.Token{Hash: hash, Operator: "ann", Role: string(auth.RoleAdmin)})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	sealer, err := keys.OpenSealer(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(testProject), 0o600); err != nil {
		t.Fatal(err)
	}
	authority, err := keys.OpenAuthority(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServer(Config{
		Store: state, Sealer: sealer, Name: "s1", Authority: authority, Version: "v1.4.0", Registry: http.NotFoundHandler(),
		Bundle: func(_ context.Context, d bulkhead.Digest) (string, error) {
			if d != testBundle {
				return "", bulkhead.Errorf(bulkhead.ErrNotFound, "bundle %s is not in the registry", d.Short())
			}
			return dir, nil
		},
		HasImage: func(context.Context, bulkhead.Image) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(server)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		server.Close()
		ts.CloseClientConnections()
		ts.Close()
		if err := state.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{Client: NewClient(ts.URL, token), t: t, url: ts.URL, shared: shared, store: state, server: server, keys: filepath.Join(dir, "keys"), authority: authority}
	if _, err := f.Publish(t.Context(), spec("1")); err != nil {
		t.Fatal(err)
	}
	return f
}

func spec(version string) ReleaseSpec {
	return ReleaseSpec{Version: version, Bundle: testBundle, Images: map[bulkhead.ServiceName]bulkhead.Image{
		"web": {Reference: "web:1", Repository: "docker.io/library/web", Digest: "sha256:" + bulkhead.Digest(strings.Repeat("b", 64))},
	}}
}

// TestErrorsCrossTheWire: kind, message, hint and faults are the same on both
// sides, and what has no kind shows nothing.
func TestErrorsCrossTheWire(t *testing.T) {
	for _, k := range kindStatus {
		sent := &bulkhead.Error{Kind: k.kind, Message: "the message", Hint: "the hint", Faults: []bulkhead.Fault{{Where: "f:1", Message: "wrong"}}, Cause: errors.New("a secret cause")}
		w := httptest.NewRecorder()
		writeProblem(w, asProblem(fmt.Errorf("do it: %w", sent)))
		if strings.Contains(w.Body.String(), "secret cause") {
			t.Errorf("%v: the cause is shown: %s", k.kind, w.Body)
		}
		resp := w.Result()
		resp.Request = httptest.NewRequest(http.MethodGet, "/", nil)
		err := readProblem(resp)
		var got *bulkhead.Error
		if !errors.Is(err, k.kind) || !errors.As(err, &got) || got.Message != "do it: the message" || got.Hint != "the hint" || !reflect.DeepEqual(got.Faults, sent.Faults) {
			t.Errorf("%v: came back as %#v", k.kind, err)
		}
	}
	if p := asProblem(errors.New("password=hunter2")); p.Status != 500 || strings.Contains(p.Detail, "hunter2") || bulkhead.KindOf(p.Err()) != nil {
		t.Errorf("internal error is shown as %+v", p)
	}
}

func TestOpenAPI(t *testing.T) {
	f := newFixture(t)
	var doc map[string]any
	f.get("/openapi.json", &doc)
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi is %v", doc["openapi"])
	}
	// Every schema is one of JSON Schema 2020-12, and every reference resolves.
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("mem:doc", doc); err != nil {
		t.Fatal(err)
	}
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	for name := range schemas {
		if _, err := c.Compile("mem:doc#/components/schemas/" + name); err != nil {
			t.Errorf("schema %s: %v", name, err)
		}
	}
	var refs func(v any)
	refs = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok && schemas[strings.TrimPrefix(ref, "#/components/schemas/")] == nil {
				t.Errorf("%s leads nowhere", ref)
			}
			for _, child := range v {
				refs(child)
			}
		case []any:
			for _, child := range v {
				refs(child)
			}
		}
	}
	refs(doc)
	// Every route of the client is documented, and every operation says what it is.
	ids := map[string]bool{}
	page := f.text("/docs")
	for path, item := range doc["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			op := op.(map[string]any)
			id, _ := op["operationId"].(string)
			if id == "" || ids[id] || op["summary"] == nil || op["tags"] == nil || op["responses"] == nil {
				t.Errorf("%s %s: id %q, summary %v, tags %v", method, path, id, op["summary"], op["tags"])
			}
			ids[id] = true
			if !strings.Contains(page, `id="`+id+`"`) || !strings.Contains(page, path) {
				t.Errorf("/docs does not show %s %s", method, path)
			}
		}
	}
	for _, id := range []string{
		"list-products", "list-releases", "show-release", "publish-release", "delete-release", "list-stamps", "show-stamp", "watch-stamp",
		"create-stamp", "apply-stamp", "update-stamp", "stop-stamp", "start-stamp", "restart-stamp", "delete-stamp", "stamp-logs", "stamp-exec",
		"list-events", "list-nodes", "show-node", "status", "version", "metrics", "health", "ready", "docs",
	} {
		if !ids[id] {
			t.Errorf("operation %s is not documented", id)
		}
	}
	for _, other := range []string{"http://", "https://", "<script", "@import"} {
		if strings.Contains(page, other) {
			t.Errorf("/docs is not self-contained: it has %s", other)
		}
	}
}

// TestTokenOfNobody: without a token that is known, nothing that holds data
// answers, whatever the method.
func TestTokenOfNobody(t *testing.T) {
	f := newFixture(t)
	var doc struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	f.get("/openapi.json", &doc)
	open := map[string]bool{"/healthz": true, "/readyz": true, "/docs": true}
	for _, token := range []string{"", "Bearer bh_nobody", "Bearer " + strings.Repeat("a", 46), "Basic YW5uOmFubg=="} {
		for path, item := range doc.Paths {
			for method := range item {
				req, err := http.NewRequest(strings.ToUpper(method), f.url+strings.NewReplacer("{name}", "acme", "{product}", "shop", "{version}", "1").Replace(path), strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				if token != "" {
					req.Header.Set("Authorization", token)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				denied := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusTooManyRequests
				if denied == open[path] {
					t.Errorf("%s %s with %q: %s", method, path, token, resp.Status)
				}
			}
		}
	}
	if resp, err := http.Get(f.url + "/v2/"); err != nil || resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("/v2/ without a token: %v %v", resp, err)
	}
}

// TestRacingCreates: of a thousand creates of one name, one wins and the others
// hear that it is taken.
func TestRacingCreates(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	var won, lost atomic.Int64
	for range 1000 {
		wg.Go(func() {
			_, err := f.server.createStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false, false)
			switch {
			case err == nil:
				won.Add(1)
			case errors.Is(err, bulkhead.ErrConflict):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 999 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
}

func TestStampRecord(t *testing.T) {
	f := newFixture(t)
	change, err := f.CreateStamp(t.Context(), StampSpec{Name: " ACME ", Product: "shop", Settings: map[string]json.RawMessage{"PASSWORD": json.RawMessage(`"hunter2hunter2"`)}}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	record := f.stamp("acme")
	if record.UID == "" || record.Generation != 1 || record.Desired != bulkhead.DesiredRunning || record.Hosts[0] != "acme.localhost" || record.SecretVersions["PASSWORD"] != 1 {
		t.Errorf("record is %+v", record)
	}
	for what, v := range map[string]any{"answer": change, "record": record} {
		if b, _ := json.Marshal(v); bytes.Contains(b, []byte("hunter2")) {
			t.Errorf("%s holds the secret: %s", what, b)
		}
	}
	if b, _ := json.Marshal(change); bytes.Contains(b, []byte("sealed")) {
		t.Errorf("answer holds what is sealed: %s", b)
	}
	// Labels change nothing that runs; a secret does; the same again nothing at all.
	steps := []struct {
		update     StampUpdate
		action     string
		generation int64
	}{
		{StampUpdate{Labels: map[string]string{"ring": "early"}}, "update", 1},
		{StampUpdate{Labels: map[string]string{"ring": "early"}}, "unchanged", 1},
		{StampUpdate{Settings: map[string]json.RawMessage{"PASSWORD": json.RawMessage(`"another"`)}}, "update", 2},
		{StampUpdate{Settings: map[string]json.RawMessage{"PASSWORD": json.RawMessage(`"another"`)}}, "unchanged", 2},
		{StampUpdate{Settings: map[string]json.RawMessage{"TITLE": json.RawMessage(`"New"`)}}, "update", 3},
		{StampUpdate{Unset: []string{"TITLE"}}, "update", 4},
	}
	for i, s := range steps {
		dry, err := f.UpdateStamp(t.Context(), "acme", s.update, true)
		if err != nil || dry.Action != s.action {
			t.Errorf("step %d, dry: %v, %v", i, dry.Action, err)
		}
		got, err := f.UpdateStamp(t.Context(), "acme", s.update, false)
		if err != nil || got.Action != s.action || got.Stamp.Generation != s.generation {
			t.Errorf("step %d: action %s, generation %d, %v; want %s, %d", i, got.Action, got.Stamp.Generation, err, s.action, s.generation)
		}
	}
	if _, err := f.UpdateStamp(t.Context(), "acme", StampUpdate{Settings: map[string]json.RawMessage{"TITLE": json.RawMessage(`5`), "COLOUR": json.RawMessage(`1`)}}, false); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("wrong settings: %v", err)
	} else if e := new(bulkhead.Error); !errors.As(err, &e) || len(e.Faults) != 2 {
		t.Errorf("wrong settings: not all faults: %+v", e)
	}
	if got := f.stamp("acme").Generation; got != 4 {
		t.Errorf("a refused update changed the generation to %d", got)
	}
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "big", Product: "shop", Labels: map[string]string{"x": strings.Repeat("x", maxBody)}}, false, false); !errors.Is(err, bulkhead.ErrExhausted) {
		t.Errorf("a body above the bound: %v", err)
	}
}

// identity is a machine's, with a certificate that lives as long as given.
func (f *fixture) identity(role keys.Role, name bulkhead.NodeName, uid string) *keys.Identity {
	f.t.Helper()
	id, err := keys.NewIdentity(f.t.Context(), func(context.Context) (*tls.Certificate, error) {
		return f.authority.Issue(keys.Subject{Role: role, Name: name, UID: uid})
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// nodeListener serves the node API by mutual TLS and returns a client for each
// node named, which is made one of the farm.
func (f *fixture) nodeListener() func(name bulkhead.NodeName) *NodeClient {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	server := &http.Server{Handler: f.server.NodeHandler(), TLSConfig: f.identity(keys.RoleServer, "s1", "").Server(f.authority.Pool())}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
	f.t.Cleanup(func() {
		f.server.Close()
		_ = server.Close()
		<-done
	})
	f.listener = l.Addr().String()
	f.update(func(tx *store.Tx) { tx.Servers.Put(bulkhead.Server{Name: "s1", NodeAPI: f.listener, Peer: "s1:7072"}) })
	return func(name bulkhead.NodeName) *NodeClient {
		f.update(func(tx *store.Tx) {
			if !tx.Nodes.Has(name) {
				tx.Nodes.Put(bulkhead.Node{Name: name, UID: "uid-" + string(name)})
			}
		})
		return f.client(f.identity(keys.RoleNode, name, "uid-"+string(name)))
	}
}

// client is that of a machine with this identity.
func (f *fixture) client(id *keys.Identity) *NodeClient {
	return NewNodeClient(NewWay([]string{f.listener}, id.Client(f.authority.Pool())))
}

func (f *fixture) update(change func(tx *store.Tx)) {
	f.t.Helper()
	if err := f.store.Update(f.t.Context(), func(tx *store.Tx) error { change(tx); return nil }); err != nil {
		f.t.Fatal(err)
	}
}

// hello is how a node begins a session.
func hello(holds ...bulkhead.StampRef) bulkhead.NodeReport {
	return bulkhead.NodeReport{Node: &bulkhead.Node{Version: "v1.4.1"}, Holds: holds}
}

// next is the next order that is not about the rest of the farm.
func next(t *testing.T, s *NodeSession) bulkhead.NodeOrder {
	t.Helper()
	for {
		if o := receive(t, s); o.Farm == nil && o.Servers == nil {
			return o
		}
	}
}

// place does what the controller does.
func (f *fixture) place(name bulkhead.StampName, node bulkhead.NodeName) {
	f.t.Helper()
	if err := f.store.Update(f.t.Context(), func(tx *store.Tx) error {
		st, _ := tx.Stamps.Get(name)
		st.Node = node
		st.Epoch++
		tx.Stamps.Put(st)
		return nil
	}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) stamp(name bulkhead.StampName) bulkhead.Stamp {
	st, ok := f.store.View().Stamps.Get(name)
	if !ok {
		f.t.Fatalf("no stamp %s", name)
	}
	return st
}

// TestNodeSession: a node gets its own stamps with their secrets and hears of no
// other; what it says of others' is not believed; its name is its certificate's.
func TestNodeSession(t *testing.T) {
	f := newFixture(t)
	dial := f.nodeListener()
	for _, name := range []string{"acme", "globex"} {
		if _, err := f.CreateStamp(t.Context(), StampSpec{Name: name, Product: "shop", Settings: map[string]json.RawMessage{"PASSWORD": json.RawMessage(`"of ` + name + `"`)}}, false, false); err != nil {
			t.Fatal(err)
		}
	}
	f.place("acme", "n1")
	f.place("globex", "n2")
	s, err := dial("n1").Connect(t.Context(), bulkhead.NodeReport{Node: &bulkhead.Node{Name: "n2", Version: "v1.4.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o := next(t, s)
	if o.Assign == nil || o.Assign.Stamp.Name != "acme" || o.Assign.Secrets["PASSWORD"] != "of acme" || len(o.Assign.Stamp.Sealed) > 0 {
		t.Fatalf("first order is %+v", o)
	}
	if o := next(t, s); !o.Synced {
		t.Fatalf("second order is %+v, want synced", o)
	}
	acme, globex := f.stamp("acme"), f.stamp("globex")
	for _, st := range []bulkhead.StampStatus{
		{Name: "acme", UID: acme.UID, Node: "n1", Epoch: 1, Generation: 1, Phase: bulkhead.PhaseRunning},
		{Name: "globex", UID: globex.UID, Node: "n2", Epoch: 1, Phase: bulkhead.PhaseFailed},
		{Name: "globex", UID: globex.UID, Node: "n1", Epoch: 1, Phase: bulkhead.PhaseFailed},
		{Name: "acme", UID: "another", Node: "n1", Epoch: 1, Phase: bulkhead.PhaseFailed},
		{Name: "acme", UID: acme.UID, Node: "n1", Epoch: 0, Phase: bulkhead.PhaseFailed},
	} {
		if err := s.Send(bulkhead.NodeReport{Status: &st}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Send(bulkhead.NodeReport{Event: &bulkhead.Event{Type: "fence", Stamp: "globex"}}); err != nil { // another's: left out
		t.Fatal(err)
	}
	if err := s.Send(bulkhead.NodeReport{Event: &bulkhead.Event{Type: "fence", Stamp: "acme", Actor: "ann"}}); err != nil {
		t.Fatal(err)
	}
	var fences []bulkhead.Event
	f.await("everything sent is recorded", func(v *store.Snapshot) bool { // reports are, in their order
		for e := range v.Events.All() {
			if e.Type == "fence" {
				fences = append(fences, e)
			}
		}
		return len(fences) > 0
	})
	if len(fences) != 1 || fences[0].Stamp != "acme" || fences[0].Node != "n1" || fences[0].Actor != "" {
		t.Errorf("events recorded: %+v", fences)
	}
	if st, _ := f.store.View().Statuses.Get("acme"); st.Phase != bulkhead.PhaseRunning {
		t.Errorf("a status of another life, node or epoch was taken: %+v", st)
	}
	if st, ok := f.store.View().Statuses.Get("globex"); ok {
		t.Errorf("a node reported another's stamp: %+v", st)
	}
	if _, ok := f.store.View().Nodes.Get("n2"); ok {
		t.Error("a node chose its own name")
	}
	if n, _ := f.store.View().Nodes.Get("n1"); n.State != bulkhead.NodeReady {
		t.Errorf("node is %+v", n)
	}

	// A change is pushed; a stamp that moves away is to be forgotten.
	if _, err := f.StopStamp(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if o := next(t, s); o.Assign == nil || o.Assign.Stamp.Desired != bulkhead.DesiredStopped {
		t.Errorf("after stop: %+v", o)
	}
	f.place("acme", "n2")
	if o := next(t, s); o.Forget == nil || o.Forget.UID != acme.UID {
		t.Errorf("after a move: %+v", o)
	}
	f.place("globex", "n1")
	if o := next(t, s); o.Assign == nil || o.Assign.Stamp.Name != "globex" {
		t.Errorf("after the other's move: %+v", o)
	}

	// Another session of the node takes the place of the first; the end of the last
	// makes the node silent.
	again, err := dial("n1").Connect(t.Context(), hello())
	if err != nil {
		t.Fatal(err)
	}
	for err = error(nil); err == nil; {
		var o bulkhead.NodeOrder
		if o, err = s.Receive(); o.Assign != nil { // news of the farm may still be on its way
			t.Fatalf("the first session goes on: %+v", o)
		}
	}
	if !errors.Is(err, bulkhead.ErrUnavailable) {
		t.Errorf("the first session ended with %v", err)
	}
	next(t, again)
	if err := again.Close(); err != nil && !errors.Is(err, context.Canceled) {
		t.Logf("close: %v", err)
	}
	f.await("n1 is silent", func(v *store.Snapshot) bool {
		n, _ := v.Nodes.Get("n1")
		return n.State == bulkhead.NodeReady && !n.Silent.IsZero() && n.Server == "s1"
	})
}

// TestNodeMayOnlyPull: the registry behind the node listener takes nothing, and
// who has no certificate is not spoken to.
func TestNodeMayOnlyPull(t *testing.T) {
	f := newFixture(t)
	n := f.nodeListener()("n1")
	for method, want := range map[string]int{http.MethodGet: 404, http.MethodPut: 403, http.MethodPost: 403, http.MethodDelete: 403} {
		req, _ := http.NewRequest(method, base+"/v2/x/manifests/1", nil)
		resp, err := n.way.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", method, resp.Status, want)
		}
	}
	bare := NewNodeClient(NewWay([]string{f.listener}, &tls.Config{InsecureSkipVerify: true})) //nolint:gosec // the point
	if _, err := bare.Connect(t.Context(), hello()); err == nil {
		t.Error("a session without a certificate")
	}
	w := httptest.NewRecorder()
	f.server.NodeHandler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/node/session", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("a session without TLS: %d", w.Code)
	}
}

func TestEventsFollow(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- f.Events(ctx, EventQuery{Follow: true, Stamp: "acme"}, func(e bulkhead.Event) error {
			got <- e.Type + " by " + e.Actor
			return nil
		})
	}()
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "other", Product: "shop"}, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := f.DeleteStamp(t.Context(), "acme", false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"stamp.created by ann", "stamp.deleted by ann"} {
		select {
		case e := <-got:
			if e != want {
				t.Errorf("event %q, want %q", e, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event %q", want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("follow ended with %v", err)
	}
}

// await waits until the state is as ok wants it.
func (f *fixture) await(what string, ok func(*store.Snapshot) bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	view, changes := f.store.Watch(ctx)
	for !ok(view) {
		if _, more := <-changes; !more {
			f.t.Fatalf("never: %s", what)
		}
		view = f.store.View()
	}
}

// synced opens a node's session and returns when it has heard all that is the node's own.
func synced(t *testing.T, c *NodeClient, says bulkhead.NodeReport) *NodeSession {
	t.Helper()
	s, err := c.Connect(t.Context(), says)
	if err != nil {
		t.Fatal(err)
	}
	for o := receive(t, s); !o.Synced; o = receive(t, s) {
	}
	return s
}

func receive(t *testing.T, s *NodeSession) bulkhead.NodeOrder {
	t.Helper()
	got := make(chan bulkhead.NodeOrder, 1)
	go func() {
		if o, err := s.Receive(); err == nil {
			got <- o
		} else {
			t.Error(err)
			close(got)
		}
	}()
	select {
	case o := <-got:
		return o
	case <-time.After(10 * time.Second):
		t.Fatal("no order")
	}
	return bulkhead.NodeOrder{}
}

func (f *fixture) get(path string, out any) {
	f.t.Helper()
	if err := json.Unmarshal([]byte(f.text(path)), out); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) text(path string) string {
	f.t.Helper()
	resp, err := http.Get(f.url + path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		f.t.Fatalf("%s: %s %v", path, resp.Status, err)
	}
	return string(b)
}
