package keys

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"bulkhead"
)

func TestGenerate(t *testing.T) {
	counts := map[rune]int{}
	text := Generate(62_000)
	for _, r := range text {
		counts[r]++
	}
	if len(text) != 62_000 || len(counts) != len(alphabet) {
		t.Fatalf("%d characters, %d different ones", len(text), len(counts))
	}
	for r, n := range counts { // 1000 each, standard deviation 31
		if !strings.ContainsRune(alphabet, r) || math.Abs(float64(n)-1000) > 250 {
			t.Errorf("%q occurs %d times of 62,000", r, n)
		}
	}
	if one, two := Generate(20), Generate(20); Generate(0) != "" || one == two {
		t.Error("generated texts are not random")
	}
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		info, _ := os.Stat(path)
		if err != nil || string(b) != text || info.Mode().Perm() != 0o600 {
			t.Errorf("%q, mode %v, %v", b, info.Mode(), err)
		}
	}
	if err := WriteFile(filepath.Join(path, "x"), nil); err == nil {
		t.Error("a file under a file was written")
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func openSealer(t testing.TB, folder string) *Sealer {
	t.Helper()
	s, err := OpenSealer(folder)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealer_OpensWhatItSealed(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "keys")
	s := openSealer(t, folder)
	again := openSealer(t, folder) // as after a restart
	rapid.Check(t, func(t *rapid.T) {
		uid := rapid.StringN(1, 40, -1).Draw(t, "uid")
		values := rapid.MapOf(rapid.StringMatching(`[A-Z_]{1,8}`), rapid.StringMatching(`.{0,40}`)).Draw(t, "values")
		sealed, err := s.Seal(uid, values)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := again.Open(uid, sealed)
		if err != nil || len(opened) != len(values) {
			t.Fatalf("got %v, %v", opened, err)
		}
		for name, value := range values {
			if opened[name] != value {
				t.Fatalf("%s is %q, was %q", name, opened[name], value)
			}
		}
	})
}

func TestSealer_RefusesWhatIsNotWhole(t *testing.T) {
	s := openSealer(t, t.TempDir())
	values := map[string]string{"DB_PASSWORD": "correct horse battery staple"}
	sealed, err := s.Seal("uid-1", values)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("DB_PASSWORD")) || bytes.Contains(sealed, []byte("staple")) {
		t.Error("the envelope can be read")
	}
	other, _ := s.Seal("uid-1", values)
	if bytes.Equal(sealed, other) {
		t.Error("equal values make equal envelopes")
	}
	refused := func(what, uid string, sealed []byte, kind error) {
		t.Helper()
		got, err := s.Open(uid, sealed)
		if !errors.Is(err, kind) || got != nil {
			t.Errorf("%s: got %v, %v", what, got, err)
		}
	}
	refused("another stamp's", "uid-2", sealed, bulkhead.ErrInvalid)
	for i := range sealed {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		kind := bulkhead.ErrInvalid
		if i < 1+keyIDSize {
			kind = bulkhead.ErrConflict // version or key
		}
		refused("tampered with", "uid-1", b, kind)
		if i > 0 {
			refused("truncated", "uid-1", sealed[:i], bulkhead.ErrInvalid)
		}
	}
	// The key of one envelope with the values of another.
	cut := 1 + keyIDSize + wrappedSize
	refused("put together", "uid-1", append(bytes.Clone(sealed[:cut]), other[cut:]...), bulkhead.ErrInvalid)
	_, err = openSealer(t, t.TempDir()).Open("uid-1", sealed)
	if !errors.Is(err, bulkhead.ErrConflict) || !strings.Contains(err.Error(), "another cluster key") {
		t.Errorf("under another key: %v", err)
	}
}

func TestSealer_Bounds(t *testing.T) {
	s := openSealer(t, t.TempDir())
	if _, err := s.Seal("uid", map[string]string{"A": strings.Repeat("x", maxSealed)}); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("too much: %v", err)
	}
	if _, err := s.Seal("", map[string]string{"A": "x"}); err == nil {
		t.Error("sealed for nobody")
	}
	if sealed, err := s.Seal("uid", nil); sealed != nil || err != nil {
		t.Errorf("nothing: %v, %v", sealed, err)
	}
	if values, err := s.Open("uid", nil); values != nil || err != nil {
		t.Errorf("nothing: %v, %v", values, err)
	}
}

func TestKeyFiles_AreLookedAfter(t *testing.T) {
	for file, openIt := range map[string]func(folder string) error{
		"seal.key": func(f string) error { _, err := OpenSealer(f); return err },
		"ca.pem":   func(f string) error { _, err := OpenAuthority(f); return err },
	} {
		folder := filepath.Join(t.TempDir(), "keys")
		if err := openIt(folder); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, file)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
		if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("folder of %s: %v, %v", file, info.Mode(), err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := openIt(folder); !errors.Is(err, bulkhead.ErrDenied) {
			t.Errorf("%s that others may read: %v", file, err)
		}
		for _, damage := range []string{"", "nonsense"} {
			_ = os.Remove(path)
			if err := os.WriteFile(path, []byte(damage), 0o600); err != nil {
				t.Fatal(err)
			}
			err := openIt(folder)
			if !errors.Is(err, bulkhead.ErrInvalid) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s with %q in it: %v", file, damage, err)
			}
			if b, _ := os.ReadFile(path); string(b) != damage {
				t.Errorf("%s was written anew", file)
			}
		}
	}
}

func FuzzSealer_Open(f *testing.F) {
	s := openSealer(f, f.TempDir())
	sealed, _ := s.Seal("uid", map[string]string{"A": "b"})
	f.Add(sealed)
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		values, err := s.Open("uid", b)
		if err == nil && len(b) > 0 && !bytes.Equal(b, sealed) {
			t.Errorf("opened a forgery: %v", values)
		}
	})
}

// TestSign: a proof is of one key, one name and one content.
func TestSign(t *testing.T) {
	folder := t.TempDir()
	s, err := OpenSealer(folder)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenSealer(folder)
	if err != nil {
		t.Fatal(err)
	}
	other, err := OpenSealer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	proof := s.Sign("a", []byte("bc"))
	if len(proof) != 32 || !bytes.Equal(proof, again.Sign("a", []byte("bc"))) {
		t.Error("the same key proves otherwise")
	}
	for what, proofOf := range map[string][]byte{
		"another key": other.Sign("a", []byte("bc")), "another name": s.Sign("b", []byte("bc")), "another content": s.Sign("a", []byte("bd")),
		"another border between them": s.Sign("ab", []byte("c")),
	} {
		if bytes.Equal(proof, proofOf) {
			t.Errorf("%s proves the same", what)
		}
	}
}
