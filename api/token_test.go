package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/auth"
	"bulkhead/store"
)

func (f *fixture) operatorToken(spec TokenSpec) TokenView {
	f.t.Helper()
	v, err := f.CreateToken(f.t.Context(), spec)
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// TestOperatorTokens: what its role allows works with a token from the moment it is made
// until it is revoked or runs out, and lists never show it.
func TestOperatorTokens(t *testing.T) {
	f := newFixture(t)
	var late time.Duration
	f.server.c.Now = func() time.Time { return time.Now().Add(late) }
	bea := f.operatorToken(TokenSpec{Role: "admin", Name: "bea@example.com"})
	vic := f.operatorToken(TokenSpec{Role: "viewer", Name: "vic", Valid: "2h"})
	as := func(v TokenView) *Client { return NewClient(f.url, v.Token) }
	if _, err := as(vic).Stamps(t.Context(), StampQuery{}); err != nil {
		t.Errorf("a viewer looks: %v", err)
	}
	if _, err := as(vic).CreateToken(t.Context(), TokenSpec{Role: "admin", Name: "vic"}); !errors.Is(err, bulkhead.ErrDenied) {
		t.Errorf("a viewer makes a token: %v", err)
	}
	if err := as(vic).RevokeToken(t.Context(), bea.ID); !errors.Is(err, bulkhead.ErrDenied) {
		t.Errorf("a viewer revokes one: %v", err)
	}
	all, err := as(bea).Tokens(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("tokens: %+v, %v", all, err)
	}
	text, _ := json.Marshal(all)
	for _, v := range []TokenView{bea, vic} {
		if strings.Contains(string(text), v.Token[4:]) || strings.Contains(string(text), auth.Hash(v.Token)) {
			t.Errorf("a list shows a token: %s", text)
		}
		i := 0
		for i < len(all) && all[i].ID != v.ID {
			i++
		}
		if v.Token = ""; i == len(all) || fmt.Sprint(all[i]) != fmt.Sprint(v) || v.State != "valid" || v.By != "ann" {
			t.Errorf("of %+v is listed %+v", v, all)
		}
	}
	if !bea.Expires.IsZero() || vic.Expires.Sub(vic.Created) != 2*time.Hour {
		t.Errorf("they run out at %v and %v", bea.Expires, vic.Expires)
	}
	late = 2 * time.Hour
	if _, err := as(vic).Stamps(t.Context(), StampQuery{}); !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "the token of vic ran out at ") {
		t.Errorf("one that ran out: %v", err)
	}
	if all, err := f.Tokens(t.Context()); err != nil || all[0].ID != vic.ID || all[0].State != "expired" {
		t.Errorf("tokens: %+v, %v", all, err)
	}
	late += 25 * time.Hour
	f.operatorToken(TokenSpec{Role: "viewer", Name: "new"})
	if err := f.RevokeToken(t.Context(), "vic"); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("one that ran out long ago is kept: %v", err)
	}
	if err := f.RevokeToken(t.Context(), "bea@example.com"); err != nil {
		t.Error(err)
	}
	if _, err := as(bea).Stamps(t.Context(), StampQuery{}); !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "not known here") {
		t.Errorf("one that was revoked: %v", err)
	}
}

// TestTokenEndsWhatIsOpen: what goes on does not outlast its token, and says why it ends.
func TestTokenEndsWhatIsOpen(t *testing.T) {
	f := newFixture(t)
	vic := f.operatorToken(TokenSpec{Role: "viewer", Name: "vic"})
	follow := func(token string, heard chan<- bulkhead.Event) error {
		return NewClient(f.url, token).Events(t.Context(), EventQuery{Follow: true}, func(e bulkhead.Event) error { heard <- e; return nil })
	}
	heard, ended := make(chan bulkhead.Event, 100), make(chan error, 1)
	go func() { ended <- follow(vic.Token, heard) }()
	for e := range heard {
		if e.Type == "token.created" && strings.Contains(e.Message, "vic") {
			break
		}
	}
	if err := f.RevokeToken(t.Context(), vic.ID); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "not known here") {
		t.Errorf("it ended with %v", err)
	}
}

// TestTokenRefusals: one line each, and the farm is never without an admin.
func TestTokenRefusals(t *testing.T) {
	f := newFixture(t)
	for _, spec := range []TokenSpec{
		{Role: "admin"},
		{Role: "viewer", Name: "a b"},
		{Role: "viewer", Name: strings.Repeat("a", 64)},
		{Role: "viewer", Name: "ann", Valid: "-1h"},
		{Role: "viewer", Name: "ann", Valid: "soon"},
		{Role: "", Name: "ann"},
	} {
		if _, err := f.CreateToken(t.Context(), spec); !errors.Is(err, bulkhead.ErrInvalid) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v", spec, err)
		}
	}
	refused := func(what, id, want string, kind error) {
		t.Helper()
		before := f.store.View().Tokens.Len()
		err := f.RevokeToken(t.Context(), id)
		if !errors.Is(err, kind) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || f.store.View().Tokens.Len() != before {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("nobody's", "nobody/x", `token "nobody/x" does not exist`, bulkhead.ErrNotFound)
	refused("the last admin's", "ann", "is the last one of an admin", bulkhead.ErrConflict)
	f.operatorToken(TokenSpec{Role: "viewer", Name: "vic"})
	refused("the last admin's, with a viewer", "ann", "is the last one of an admin", bulkhead.ErrConflict)
	late := f.operatorToken(TokenSpec{Role: "admin", Name: "late", Valid: "1h"})
	f.update(func(tx *store.Tx) {
		k, _ := tx.Tokens.Get(auth.Hash(late.Token))
		k.Expires = time.Now()
		tx.Tokens.Put(k)
	})
	refused("the last admin's but for one that ran out", "ann", "is the last one of an admin", bulkhead.ErrConflict)
	second := f.operatorToken(TokenSpec{Role: "admin", Name: "ann"})
	refused("one of two", "ann", "ann has 2 tokens: ", bulkhead.ErrConflict)
	if err := f.RevokeToken(t.Context(), auth.ID(auth.Hash(f.Token()))); err != nil {
		t.Errorf("its own, with another: %v", err)
	}
	f.Client = NewClient(f.url, second.Token)
	refused("the last admin's", second.ID, "is the last one of an admin", bulkhead.ErrConflict)
}

// behind is the link of a server that hears of nothing before it asks.
type behind struct {
	mu    sync.Mutex
	asked chan struct{} // closed when it asks; guarded by mu
}

func (b *behind) now() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = make(chan struct{})
}

func (b *behind) Ask(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.asked:
	default:
		close(b.asked)
	}
	return nil
}

func (b *behind) Answer(ctx context.Context) error {
	b.mu.Lock()
	asked := b.asked
	b.mu.Unlock()
	select {
	case <-asked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestTokensAtEveryServer: the next request after the answer that a token is made, or
// revoked, is decided by that, whichever server it goes to.
func TestTokensAtEveryServer(t *testing.T) {
	f := newFixture(t)
	link := &behind{}
	link.now()
	c := f.server.c
	c.Name, c.Store = "s2", f.shared.Open(store.Config{}, link)
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { _ = c.Store.Run(ctx) })
	second, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(second)
	defer func() {
		second.Close()
		ts.Close()
		stop()
		following.Wait()
		if err := c.Store.Close(); err != nil {
			t.Error(err)
		}
	}()
	made := f.operatorToken(TokenSpec{Role: "admin", Name: "bea"})
	bea := NewClient(ts.URL, made.Token)
	if _, err := bea.Stamps(t.Context(), StampQuery{}); err != nil {
		t.Errorf("a token that another server made: %v", err)
	}
	for _, do := range []func() error{
		func() error { _, err := bea.Stamps(t.Context(), StampQuery{}); return err },
		func() error {
			_, err := bea.CreateToken(t.Context(), TokenSpec{Role: "admin", Name: "eve"})
			return err
		},
	} {
		link.now()
		if err := f.RevokeToken(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
		if err := do(); !errors.Is(err, bulkhead.ErrDenied) || !strings.Contains(err.Error(), "not known here") {
			t.Errorf("a token that another server revoked: %v", err)
		}
		made = f.operatorToken(TokenSpec{Role: "admin", Name: "bea"})
		if bea = NewClient(ts.URL, made.Token); bea.Ready(t.Context()) != nil {
			t.Error("the server is not ready")
		}
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
