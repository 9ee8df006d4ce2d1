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
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/auth"
	"bulkhead/keys"
	"bulkhead/store"
)

// TestStolenJoinToken: a token that was used, or revoked, opens nothing to anybody else,
// however often and under whatever name it is shown.
func TestStolenJoinToken(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()
	token, owner := f.token("node"), joinRequest(t, "n1", keys.RoleNode)
	if _, err := Join(t.Context(), f.listener, token, owner); err != nil {
		t.Fatal(err)
	}
	revoked := f.token("server")
	if err := f.RevokeToken(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	before := f.store.View()
	thief := joinRequest(t, "n1", keys.RoleNode)
	way := NewWay([]string{f.listener}, token.Stranger()) // one connection: the handshake is not what is tried
	const replays, thieves = 10_000, 8
	var accepted, other atomic.Int64
	var trying sync.WaitGroup
	for k := range thieves {
		trying.Go(func() {
			for i := range replays / thieves {
				r := thief
				r.Token, r.Time = token.String(), time.Now()
				switch i % 4 {
				case 1: // another machine's name
					r.Name = bulkhead.NodeName(fmt.Sprintf("thief-%d-%d", k, i))
				case 2: // to be a server
					r.Role, r.Server = keys.RoleServer, &bulkhead.Server{Peer: "a:1", NodeAPI: "a:2"}
				case 3: // one that was revoked
					r.Token = revoked.String()
					r.Role, r.Server = keys.RoleServer, &bulkhead.Server{Peer: "a:1", NodeAPI: "a:2"}
				}
				var out JoinAnswer
				err := way.ask(t.Context(), "/v1/join", r, &out)
				switch {
				case err == nil || len(out.Certificate) > 0 || len(out.Secrets) > 0:
					accepted.Add(1)
				case !errors.Is(err, bulkhead.ErrDenied):
					other.Add(1)
					t.Logf("refused for another reason: %v", err)
				}
			}
		})
	}
	trying.Wait()
	after := f.store.View()
	if accepted.Load() > 0 || other.Load() > 0 || after.Nodes.Len() != before.Nodes.Len() || after.Servers.Len() != before.Servers.Len() {
		t.Errorf("%d accepted, %d refused for another reason; %d nodes (were %d), %d servers (were %d)", accepted.Load(), other.Load(),
			after.Nodes.Len(), before.Nodes.Len(), after.Servers.Len(), before.Servers.Len())
	}
	t.Logf("%d replays of a used and of a revoked token: %d accepted", replays, accepted.Load())
}

// TestForeignTokens goes through what a user's API is asked for and tokens that are not
// for it: none of them opens anything, and a viewer's only looks.
func TestForeignTokens(t *testing.T) {
	f := newFixture(t)
	f.nodeListener()
	join := f.token("node")
	viewer := f.operatorToken(TokenSpec{Role: "viewer", Name: "val"})
	gone := f.operatorToken(TokenSpec{Role: "admin", Name: "old"})
	late := f.operatorToken(TokenSpec{Role: "admin", Name: "late", Valid: "1h"})
	f.update(func(tx *store.Tx) {
		k, _ := tx.Tokens.Get(auth.Hash(late.Token))
		k.Expires = time.Now().Add(-time.Second)
		tx.Tokens.Put(k)
	})
	stranger, _ := auth.New()
	operations := [][2]string{
		{"GET", "/v1/stamps"},
		{"POST", "/v1/stamps"},
		{"PATCH", "/v1/stamps/acme"},
		{"DELETE", "/v1/stamps/acme"},
		{"POST", "/v1/stamps/acme/stop"},
		{"GET", "/v1/stamps/acme/logs"},
		{"POST", "/v1/tokens"},
		{"GET", "/v1/tokens"},
		{"DELETE", "/v1/nodes/n1"},
		{"POST", "/v1/nodes/n1/cordon"},
		{"DELETE", "/v1/servers/s1"},
		{"GET", "/v1/events"},
		{"POST", "/v1/releases"},
		{"GET", "/v1/snapshot"},
	}
	ask := func(token, method, path string) int {
		req, err := http.NewRequest(method, f.url+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	began := time.Now()
	if err := f.RevokeToken(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	tried := 0
	before := f.store.View()
	for who, token := range map[string]string{
		"nobody": "", "one who made it up": stranger, "one with a token for joining": join.String(), "an operator whose token was withdrawn": gone.Token, "an operator whose token ran out": late.Token, "a viewer": viewer.Token,
	} {
		for _, o := range operations {
			tried++
			status := ask(token, o[0], o[1])
			looks := who == "a viewer" && o[0] == "GET"
			if denied := status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusTooManyRequests; denied == looks {
				t.Errorf("%s, %s %s: %d", who, o[0], o[1], status)
			}
		}
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v until the token that was withdrawn was tried", took)
	}
	if after := f.store.View(); after.Stamps.Len() != before.Stamps.Len() || after.JoinTokens.Len() != before.JoinTokens.Len() {
		t.Error("something was changed")
	}
	t.Logf("%d operations with foreign tokens", tried)
}

// audit keeps what a server logs.
type audit struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (a *audit) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.Write(p)
}

// take is what was logged since the last time.
func (a *audit) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.text.Reset()
	return a.text.String()
}

// TestForeignIdentities goes through everything that a node API does and everybody who
// is not meant by it: all of it is refused, nothing leaks, and it is written down who
// asked.
func TestForeignIdentities(t *testing.T) {
	f := newFixture(t)
	log := &audit{}
	f.server.c.Logger = slog.New(slog.NewTextHandler(log, nil))
	dial := f.nodeListener()
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop", Settings: map[string]json.RawMessage{"PASSWORD": json.RawMessage(`"of acme"`)}}, false, false); err != nil {
		t.Fatal(err)
	}
	dial("n1")
	dial("n2")
	f.place("acme", "n1")
	now := time.Now()
	f.update(func(tx *store.Tx) {
		tx.Removed.Put(bulkhead.Removed{UID: "uid-gone", Name: "gone", Time: now, By: "ann"})
		tx.Servers.Put(bulkhead.Server{Name: "s2", UID: "uid-s2"})
		tx.Removed.Put(bulkhead.Removed{UID: "uid-s9", Name: "s9", Time: now, By: "ann"})
	})
	elsewhere, err := keys.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	of := func(a *keys.Authority, s keys.Subject) *NodeClient {
		id, err := keys.NewIdentity(t.Context(), func(context.Context) (*tls.Certificate, error) { return a.Issue(s) }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return f.client(id)
	}
	f.authority.Life = -time.Minute
	expired, expiredServer := of(f.authority, keys.Subject{Role: keys.RoleNode, Name: "n1", UID: "uid-n1"}), of(f.authority, keys.Subject{Role: keys.RoleServer, Name: "s2"})
	f.authority.Life = 0
	who := map[string]*NodeClient{
		"nobody":                    NewNodeClient(NewWay([]string{f.listener}, &tls.Config{InsecureSkipVerify: true})), //nolint:gosec // the point
		"n1 of another farm":        of(elsewhere, keys.Subject{Role: keys.RoleNode, Name: "n1", UID: "uid-n1"}),
		"a server of another farm":  of(elsewhere, keys.Subject{Role: keys.RoleServer, Name: "s1"}),
		"a node that was removed":   of(f.authority, keys.Subject{Role: keys.RoleNode, Name: "gone", UID: "uid-gone"}),
		"n1 in an earlier life":     of(f.authority, keys.Subject{Role: keys.RoleNode, Name: "n1", UID: "uid-old"}),
		"n1 without a life":         of(f.authority, keys.Subject{Role: keys.RoleNode, Name: "n1"}),
		"a node that never joined":  of(f.authority, keys.Subject{Role: keys.RoleNode, Name: "ghost", UID: "uid-ghost"}),
		"n1, run out":               expired,
		"s2, run out":               expiredServer,
		"n2":                        of(f.authority, keys.Subject{Role: keys.RoleNode, Name: "n2", UID: "uid-n2"}),
		"s2":                        of(f.authority, keys.Subject{Role: keys.RoleServer, Name: "s2"}),
		"a server that was removed": of(f.authority, keys.Subject{Role: keys.RoleServer, Name: "s9"}),
	}
	// What each may all the same. n2 may have a session, in which it hears nothing of acme.
	may := map[string][]string{
		"n1, run out": {"renew"},
		"n2":          {"session", "renew", "pull"},
		"s2":          {"pull", "order"},
	}
	request := func(c *NodeClient, method, path, body string) (int, string) {
		req, err := http.NewRequest(method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.way.http.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return resp.StatusCode, string(b)
	}
	order, err := json.Marshal(relayed{Node: "n1", Order: bulkhead.NodeOrder{Stream: &bulkhead.StreamRequest{ID: "x", Logs: &bulkhead.LogQuery{Stamp: "acme"}}}})
	if err != nil {
		t.Fatal(err)
	}
	n1, err := dial("n1").Connect(t.Context(), hello()) // it has a session, and hears what it is asked for
	if err != nil {
		t.Fatal(err)
	}
	defer n1.Close()
	operations := map[string]func(c *NodeClient) (allowed bool, heard string){
		"session": func(c *NodeClient) (bool, string) {
			s, err := c.Connect(t.Context(), hello(bulkhead.StampRef{Name: "acme", UID: f.stamp("acme").UID, Epoch: 9}))
			if err != nil {
				return false, err.Error()
			}
			defer s.Close()
			heard := ""
			for {
				o, err := s.Receive()
				if err != nil {
					return false, heard + err.Error()
				}
				b, _ := json.Marshal(o)
				heard += string(b)
				switch {
				case o.Removed:
					return false, heard
				case o.Assign != nil:
					t.Errorf("a session is given %s", o.Assign.Stamp.Name)
				case o.Synced:
					return true, heard
				}
			}
		},
		"renew": func(c *NodeClient) (bool, string) {
			r, err := keys.NewRequest()
			if err != nil {
				t.Fatal(err)
			}
			chain, err := c.way.Renew(t.Context(), r.PEM)
			return len(chain) > 0, fmt.Sprint(err)
		},
		"another's stream": func(c *NodeClient) (bool, string) {
			wait := &dialBack{node: "n1", conns: make(chan io.ReadWriter, 1), done: make(chan struct{})}
			f.server.nodes.mu.Lock()
			f.server.nodes.waiting["secret"] = wait
			f.server.nodes.mu.Unlock()
			close(wait.done)
			status, heard := request(c, http.MethodPost, "/v1/node/streams/secret", "")
			return status == http.StatusOK || len(wait.conns) > 0, heard
		},
		"order": func(c *NodeClient) (bool, string) {
			status, heard := request(c, http.MethodPost, "/v1/server/orders", string(order))
			return status == http.StatusOK, heard
		},
		"pull": func(c *NodeClient) (bool, string) {
			status, heard := request(c, http.MethodGet, "/v2/library/web/manifests/1", "")
			return status == http.StatusOK || status == http.StatusNotFound, heard // the registry of this test is empty
		},
		"push": func(c *NodeClient) (bool, string) {
			status, heard := request(c, http.MethodPut, "/v2/library/web/manifests/1", "{}")
			return status != http.StatusForbidden && status != 0, heard
		},
		"join without a token": func(c *NodeClient) (bool, string) {
			r := joinRequest(t, "n7", keys.RoleNode)
			r.Time = time.Now()
			var out JoinAnswer
			err := c.way.ask(t.Context(), "/v1/join", r, &out)
			return err == nil, fmt.Sprint(err)
		},
		"users' API": func(c *NodeClient) (bool, string) {
			status, heard := request(c, http.MethodGet, "/v1/stamps/acme", "")
			return status != http.StatusNotFound && status != 0, heard
		},
	}
	tried, accepted, leaked := 0, 0, 0
	for name, client := range who {
		for what, do := range operations {
			log.take()
			tried++
			allowed, heard := do(client)
			want := false
			for _, m := range may[name] {
				want = want || m == what
			}
			if allowed != want {
				accepted++
				t.Errorf("%s, %s: allowed is %t\n%s", name, what, allowed, heard)
			}
			if strings.Contains(heard, "of acme") {
				leaked++
				t.Errorf("%s, %s: it hears %s", name, what, heard)
			}
			// No record of who never got as far as a request, nor of a path that is nobody's.
			if record := log.take(); !want && what != "users' API" && !strings.HasSuffix(name, "another farm") && !strings.Contains(record, "127.0.0.1") {
				t.Errorf("%s, %s: it is not written down who asked: %s", name, what, record)
			}
		}
	}
	t.Logf("%d identities, %d operations: %d tried, %d answered otherwise than they should be, %d leaks", len(who), len(operations), tried, accepted, leaked)
}
