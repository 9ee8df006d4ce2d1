package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/auth"
	"bulkhead/store"
)

// TestFirstToken: it stays what it is, also across restarts; one that was revoked is never
// made valid again.
func TestFirstToken(t *testing.T) {
	state := store.Memory()
	p := &process{c: Config{Data: t.TempDir(), Node: "s1", Log: slog.New(slog.DiscardHandler)}, state: state}
	start := func() string {
		t.Helper()
		token, err := p.firstToken(t.Context())
		kept, _ := os.ReadFile(filepath.Join(p.c.Data, "token"))
		record, ok := state.View().Tokens.Get(auth.Hash(token))
		if err != nil || strings.TrimSpace(string(kept)) != token || !ok || record.Role != string(auth.RoleAdmin) || record.By != "server s1" {
			t.Fatalf("%v; the file holds %d bytes, the state %+v", err, len(kept), record)
		}
		return token
	}
	first := start()
	if again := start(); again != first || state.View().Tokens.Len() != 1 {
		t.Errorf("a restart made another one: there are %d", state.View().Tokens.Len())
	}
	if err := state.Update(t.Context(), func(tx *store.Tx) error { tx.Tokens.Delete(auth.Hash(first)); return nil }); err != nil {
		t.Fatal(err)
	}
	if next := start(); next == first || state.View().Tokens.Len() != 1 {
		t.Errorf("after it was revoked there are %d, and the revoked one is valid again: %t", state.View().Tokens.Len(), next == first)
	}
	if err := state.Close(); err != nil {
		t.Error(err)
	}
}
