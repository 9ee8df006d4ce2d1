package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"bulkhead"
)

// TestBackup: what is saved is restored, but for what is of the moment; and epochs
// are ahead of what any node can hold.
func TestBackup(t *testing.T) {
	from := open(t, Config{})
	update(t, from, func(tx *Tx) {
		tx.Stamps.Put(bulkhead.Stamp{Name: "acme", UID: "u", Node: "n1", Epoch: 3, Sealed: []byte("sealed")})
		tx.Stamps.Put(bulkhead.Stamp{Name: "homeless", UID: "v"})
		tx.Nodes.Put(bulkhead.Node{Name: "n1", UID: "un"})
		tx.Tokens.Put(Token{Hash: "h", Operator: "ann"})
		tx.Removed.Put(bulkhead.Removed{UID: "gone"})
		tx.Servers.Put(bulkhead.Server{Name: "s1"})
		tx.JoinTokens.Put(bulkhead.JoinToken{ID: "t"})
		tx.Event(bulkhead.Event{Type: "x", Stamp: "acme"})
	})
	var file bytes.Buffer
	if err := from.Save(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	folder, err := Lock(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	restored := func(b []byte) error {
		_, _, err := Restore(t.Context(), Config{Folder: folder}, bytes.NewReader(b))
		return err
	}
	for n := range file.Len() - 32 { // cut short anywhere but in the end of the gzip: the last line sums everything up
		if err := restored(file.Bytes()[:n]); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Fatalf("the first %d bytes of %d: %v", n, file.Len(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(folder.Path(), "etcd")); err == nil {
		t.Fatal("a backup that is refused has left a state")
	}
	if err := restored(file.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := restored(file.Bytes()); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("over a state: %v", err)
	}
	to, err := Open(t.Context(), Config{Folder: folder, Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	v := to.View()
	acme, _ := v.Stamps.Get("acme")
	if acme.Epoch != 3+epochLead || acme.Node != "n1" || string(acme.Sealed) != "sealed" {
		t.Errorf("acme is %+v", acme)
	}
	if v.Stamps.Len() != 2 || v.Nodes.Len() != 1 || v.Tokens.Len() != 1 || v.Removed.Len() != 1 || v.Servers.Len() != 0 || v.JoinTokens.Len() != 0 {
		t.Errorf("restored: %+v", v)
	}
}
