package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead"
)

// refused expects one clear line with a hint.
func refused(t *testing.T, err error, words ...string) {
	t.Helper()
	var e *bulkhead.Error
	if !errors.As(err, &e) || !errors.Is(err, bulkhead.ErrConflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
	for _, word := range words {
		if !strings.Contains(e.Message, word) {
			t.Errorf("%q does not say %q", e.Message, word)
		}
	}
	if e.Hint == "" || strings.Contains(e.Message, "\n") {
		t.Errorf("%q has the hint %q", e.Message, e.Hint)
	}
}

func TestLock_RefusesAnotherInstance(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	f, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(dir)
	refused(t, err, dir, fmt.Sprint("process ", os.Getpid()))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f, err = Lock(dir)
	if err != nil {
		t.Fatalf("after the other let go: %v", err)
	}
	_ = f.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v, %v", info.Mode(), err)
	}
}

func TestLock_RefusesAnotherVersion(t *testing.T) {
	for _, found := range []string{"2\n", "0", "", "something else"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "format"), []byte(found), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Lock(dir)
		refused(t, err, dir, "format")
		if b, err := os.ReadFile(filepath.Join(dir, "format")); err != nil || string(b) != found {
			t.Errorf("the folder has changed: format is %q", b)
		}
	}
}

func TestLock_RefusesSomebodyElsesEtcd(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Lock(dir)
	refused(t, err, dir)
}

func TestOpen_RefusesAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	f, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := Open(t.Context(), Config{Folder: f})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.engine.(*etcd).client.Put(t.Context(), formatKey, "7"); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	_, err = Open(t.Context(), Config{Folder: f})
	refused(t, err, dir, `"7"`)
}
