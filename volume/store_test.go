package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead"
)

var acme = bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 1}

func newStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t testing.TB, s *Store, stamp bulkhead.StampRef, volume bulkhead.VolumeName) (string, bool) {
	t.Helper()
	path, fresh, err := s.Create(stamp, volume)
	if err != nil {
		t.Fatal(err)
	}
	return path, fresh
}

// put writes a file into a new volume of the stamp.
func put(t testing.TB, s *Store, stamp bulkhead.StampRef, text string) string {
	t.Helper()
	path, _ := create(t, s, stamp, "data")
	path = filepath.Join(path, "file")
	must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func must(t interface {
	Helper()
	Fatal(...any)
}, err error,
) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("error %v, want one of kind %v", err, kind)
	}
}

func wantText(t testing.TB, path, want string) {
	t.Helper()
	if content, err := os.ReadFile(path); err != nil || string(content) != want {
		t.Errorf("%s holds %q, %v; want %q", path, content, err, want)
	}
}

func emptyTrash(t testing.TB, s *Store) {
	t.Helper()
	must(t, s.trash.empty(t.Context()))
	if left, _ := os.ReadDir(s.trashDir()); len(left) > 0 {
		t.Errorf("trash still holds %v", left)
	}
}

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volumes")
	s := newStore(t, dir)
	path, fresh := create(t, s, acme, "db")
	if !fresh {
		t.Error("a new volume is not fresh")
	}
	// A crash before anything is put in: still fresh.
	s = newStore(t, dir)
	if again, fresh := create(t, s, acme, "db"); again != path || !fresh {
		t.Errorf("again %s, fresh %t", again, fresh)
	}
	must(t, os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
	if _, fresh := create(t, s, acme, "db"); fresh {
		t.Error("a volume with content is fresh")
	}
	if other, fresh := create(t, s, acme, "web"); !fresh || other == path {
		t.Error("another volume is not fresh")
	}
	// Neither a name that ends as another begins, nor a later stamp of the name,
	// shares anything.
	for _, stamp := range []bulkhead.StampRef{{Name: "acme-u1", UID: "u1"}, {Name: "acme", UID: "u2"}, {Name: "acme", UID: "1-u1"}} {
		if other, fresh := create(t, s, stamp, "db"); !fresh || other == path {
			t.Errorf("stamp %v is given %s, fresh %t", stamp, other, fresh)
		}
	}
}

func TestPermissions(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "volumes")
	s := newStore(t, dir)
	path, _ := create(t, s, acme, "db")
	for path, want := range map[string]os.FileMode{
		path:                             0o755,
		filepath.Dir(path):               0o711,
		filepath.Dir(filepath.Dir(path)): 0o711,
		s.stampsDir():                    0o711,
		s.keptDir():                      0o700,
		s.trashDir():                     0o700,
	} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
}

func TestEpochs(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	at := func(epoch int64) bulkhead.StampRef {
		return bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: epoch}
	}
	file := put(t, s, at(5), "data")
	create(t, s, at(5), "data")
	create(t, s, at(7), "data")
	s = newStore(t, dir)
	_, _, err := s.Create(at(6), "data")
	wantKind(t, err, bulkhead.ErrConflict)
	_, _, err = s.Create(at(6), "another")
	wantKind(t, err, bulkhead.ErrConflict)
	wantKind(t, s.Delete(at(6), false), bulkhead.ErrConflict)
	wantKind(t, s.Delete(at(6), true), bulkhead.ErrConflict)
	wantText(t, file, "data")
	must(t, s.Delete(at(8), false))
	wantKind(t, s.Restore(at(7)), bulkhead.ErrConflict)
	must(t, s.Restore(at(9)))
	_, _, err = s.Create(at(8), "data")
	wantKind(t, err, bulkhead.ErrConflict)
	wantText(t, file, "data")
	// Under a race the highest epoch stays.
	var group sync.WaitGroup
	for epoch := range int64(50) {
		group.Go(func() { s.Create(at(epoch+10), "data") })
	}
	group.Wait()
	_, _, err = s.Create(at(58), "data")
	wantKind(t, err, bulkhead.ErrConflict)
	create(t, s, at(59), "data")
}

func TestDeleteAndRestore(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	must(t, s.Delete(acme, false)) // nothing there
	wantKind(t, s.Restore(acme), bulkhead.ErrNotFound)
	file := put(t, s, acme, "precious")
	wantKind(t, s.Restore(acme), bulkhead.ErrNotFound)
	for range 2 {
		must(t, s.Delete(acme, false))
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted data is still in its place: %v", err)
	}
	s = newStore(t, dir)
	kept, err := s.Kept(t.Context())
	must(t, err)
	if len(kept) != 1 || kept[0].Name != "acme" || kept[0].UID != "u1" || time.Since(kept[0].Deleted) > time.Minute || kept[0].Bytes < 4096 {
		t.Fatalf("kept is %+v", kept)
	}
	if aside, err := s.Aside(); err != nil || len(aside) != 1 || aside[0].Stamp != "acme" || aside[0].UID != "u1" || aside[0].Since != kept[0].Deleted || aside[0].Until != kept[0].Until() {
		t.Fatalf("aside is %+v, %v", aside, err)
	}
	_, _, err = s.Create(acme, "data") // would stand in the way of Restore
	wantKind(t, err, bulkhead.ErrConflict)
	other := bulkhead.StampRef{Name: "acme", UID: "u2"}
	wantKind(t, s.Restore(other), bulkhead.ErrNotFound)
	put(t, s, other, "of the next stamp of the name")
	for range 2 {
		must(t, s.Restore(acme))
	}
	wantText(t, file, "precious")
	if _, fresh := create(t, s, acme, "data"); fresh {
		t.Error("restored data is taken for fresh")
	}
	if kept, _ := s.Kept(t.Context()); len(kept) > 0 {
		t.Errorf("restored data is still kept: %+v", kept)
	}
	// Something in the way.
	must(t, s.Delete(acme, false))
	must(t, os.Mkdir(filepath.Join(s.stampsDir(), "acme.u1"), 0o711))
	wantKind(t, s.Restore(acme), bulkhead.ErrConflict)
	if kept, _ := s.Kept(t.Context()); len(kept) != 1 {
		t.Errorf("refused restore left %+v", kept)
	}
}

// What a kill or a crash leaves between two steps is done again or tidied up.
func TestInterrupted(t *testing.T) {
	t.Run("delete before its rename", func(t *testing.T) {
		s := newStore(t, t.TempDir())
		file := put(t, s, acme, "data")
		must(t, os.WriteFile(filepath.Join(s.stampsDir(), "acme.u1", keptFile), []byte(`{"deleted":"2020-01-01T00:00:00Z"}`), 0o600))
		create(t, s, acme, "data") // goes on as if nothing had been
		must(t, s.Restore(acme))
		must(t, s.Expire(time.Now()))
		wantText(t, file, "data")
		must(t, s.Delete(acme, false))
		if kept, err := s.Kept(t.Context()); err != nil || len(kept) != 1 || time.Since(kept[0].Deleted) > time.Minute {
			t.Errorf("kept %+v, %v: not from the second delete", kept, err)
		}
	})
	t.Run("files half-written", func(t *testing.T) {
		s := newStore(t, t.TempDir())
		home := filepath.Join(s.stampsDir(), "acme.u1")
		must(t, os.Mkdir(home, 0o711))
		must(t, os.WriteFile(filepath.Join(home, epochFile+"~"), []byte("99"), 0o600))
		must(t, os.Mkdir(filepath.Join(home, "data"), 0o711)) // no _data in it yet
		if _, fresh := create(t, s, acme, "data"); !fresh {
			t.Error("not fresh")
		}
		wantText(t, filepath.Join(home, epochFile), "1")
	})
	t.Run("trash of a former life", func(t *testing.T) {
		dir := t.TempDir()
		s := newStore(t, dir)
		put(t, s, acme, "data")
		must(t, s.Delete(acme, true))
		s = newStore(t, dir)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if left, _ := os.ReadDir(s.trashDir()); len(left) == 0 {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("trash still holds %v", left)
			}
		}
		put(t, s, acme, "new")
		must(t, s.Delete(acme, true)) // while Run runs
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if left, _ := os.ReadDir(s.trashDir()); len(left) == 0 {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("trash still holds %v", left)
			}
		}
		cancel()
		must(t, <-done)
	})
}

func TestPurge(t *testing.T) {
	s := newStore(t, t.TempDir())
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.MkdirAll(filepath.Join(outside, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "precious"), []byte("precious"), 0o644))

	put(t, s, acme, "first")
	must(t, s.Delete(acme, false)) // purge takes what was set aside, too
	must(t, s.Restore(acme))
	must(t, s.Delete(acme, false))
	must(t, s.Delete(acme, true))
	if kept, _ := s.Kept(t.Context()); len(kept) > 0 {
		t.Errorf("purge left %+v", kept)
	}

	path, _ := create(t, s, acme, "data")
	must(t, os.Symlink(outside, filepath.Join(path, "link")))
	must(t, os.Symlink("../../../../..", filepath.Join(path, "up")))
	must(t, os.Symlink(filepath.Join(outside, "precious"), filepath.Join(path, "filelink")))
	must(t, os.Link(filepath.Join(outside, "precious"), filepath.Join(path, "hardlink")))
	must(t, unix.Mkfifo(filepath.Join(path, "fifo"), 0o600))
	must(t, os.MkdirAll(filepath.Join(path, "a/b/c"), 0))
	for i := range 2500 { // more than are read at a time
		must(t, os.WriteFile(filepath.Join(path, "a/b", fmt.Sprint(i)), nil, 0))
	}
	must(t, s.Delete(acme, true))
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("purged data is still in its place: %v", err)
	}
	if _, fresh := create(t, s, acme, "data"); !fresh {
		t.Error("not fresh after a purge")
	}
	emptyTrash(t, s)
	wantText(t, filepath.Join(outside, "precious"), "precious")
	if _, err := os.Stat(filepath.Join(outside, "sub")); err != nil {
		t.Error(err)
	}
}

// Data that was set aside under a newer epoch than that of whoever wants it purged stays.
func TestPurgeOlderEpoch(t *testing.T) {
	s := newStore(t, t.TempDir())
	put(t, s, acme, "first")
	newer := acme
	newer.Epoch++
	must(t, s.Delete(newer, false))
	if err := s.Delete(acme, true); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("purged under an older epoch: %v", err)
	}
	if kept, err := s.Kept(t.Context()); err != nil || len(kept) != 1 {
		t.Errorf("kept: %+v, %v", kept, err)
	}
	must(t, s.Delete(newer, true))
	if kept, err := s.Kept(t.Context()); err != nil || len(kept) != 0 {
		t.Errorf("left: %+v, %v", kept, err)
	}
}

// A link that takes the place of a folder at any moment of the removal leads
// nowhere.
func TestPurgeRace(t *testing.T) {
	s := newStore(t, t.TempDir())
	outside := t.TempDir()
	for i := range 100 {
		must(t, os.WriteFile(filepath.Join(outside, fmt.Sprint(i)), nil, 0o600))
	}
	path, _ := create(t, s, acme, "data")
	for i := range 200 {
		must(t, os.MkdirAll(filepath.Join(path, fmt.Sprint(i), "x", "y"), 0o755))
	}
	folder, err := os.OpenRoot(path) // as a task does that still runs
	must(t, err)
	defer folder.Close()
	must(t, s.Delete(acme, true))
	var stop atomic.Bool
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for i := 0; !stop.Load(); i++ {
			name := fmt.Sprint(i % 200)
			folder.Rename(name, "moved")
			folder.Symlink(outside, name)
			folder.Rename("moved", name+"b")
		}
	})
	for range 20 {
		s.trash.empty(t.Context())
	}
	stop.Store(true)
	swapping.Wait()
	emptyTrash(t, s)
	if left, _ := os.ReadDir(outside); len(left) != 100 {
		t.Errorf("%d of 100 files outside are left", len(left))
	}
}

// A tree deeper than any path may be long is removed, with few open files.
func TestPurgeDeep(t *testing.T) {
	s := newStore(t, t.TempDir())
	path, _ := create(t, s, acme, "data")
	root, err := os.OpenRoot(path)
	must(t, err)
	name := strings.Repeat("d", 100)
	for range 500 {
		must(t, root.Mkdir(name, 0o755))
		below, err := root.OpenRoot(name)
		must(t, err)
		root.Close()
		root = below
	}
	must(t, root.WriteFile("leaf", nil, 0o600))
	root.Close()
	if _, err := s.Usage(t.Context(), acme); err != nil {
		t.Errorf("usage of a deep tree: %v", err)
	}
	must(t, s.Delete(acme, true))
	emptyTrash(t, s)
}

func TestPurgeImmutable(t *testing.T) {
	s := newStore(t, t.TempDir())
	path, _ := create(t, s, acme, "data")
	must(t, os.MkdirAll(filepath.Join(path, "sub/deep"), 0o755))
	must(t, os.WriteFile(filepath.Join(path, "sub/deep/file"), nil, 0o600))
	for name, flag := range map[string]int{"sub/deep/file": flagImmutable, "sub/deep": flagAppend, "sub": flagImmutable} {
		f, err := os.Open(filepath.Join(path, name))
		must(t, err)
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flag); err != nil {
			t.Fatalf("set a flag of %s, which needs root and ext4, xfs or btrfs: %v", name, err)
		}
		f.Close()
	}
	must(t, s.Delete(acme, true))
	emptyTrash(t, s)
}

func TestExpire(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s, err := New(Config{Dir: t.TempDir(), Now: func() time.Time { return now }})
	must(t, err)
	put(t, s, acme, "old")
	must(t, s.Delete(acme, false))
	now = now.Add(24 * time.Hour)
	beta := bulkhead.StampRef{Name: "beta", UID: "u2", Epoch: 3}
	file := put(t, s, beta, "newer")
	must(t, s.Delete(beta, false))
	names := func() (names []bulkhead.StampName) {
		kept, err := s.Kept(t.Context())
		must(t, err)
		for _, k := range kept {
			names = append(names, k.Name)
		}
		return names
	}
	for _, step := range []struct {
		after time.Duration // of the first delete
		want  string
	}{
		{bulkhead.KeepDeleted - time.Second, "[acme beta]"},
		{bulkhead.KeepDeleted, "[beta]"},
		{bulkhead.KeepDeleted + 24*time.Hour - time.Second, "[beta]"},
	} {
		must(t, s.Expire(now.Add(-24*time.Hour).Add(step.after)))
		if got := fmt.Sprint(names()); got != step.want {
			t.Errorf("%v after the first delete %s is kept, want %s", step.after, got, step.want)
		}
	}
	wantKind(t, s.Restore(acme), bulkhead.ErrNotFound)
	must(t, s.Restore(beta))
	must(t, s.Expire(now.Add(100*24*time.Hour)))
	wantText(t, file, "newer")
	emptyTrash(t, s)
}

func TestUsage(t *testing.T) {
	now := time.Now()
	s, err := New(Config{Dir: t.TempDir(), Now: func() time.Time { return now }})
	must(t, err)
	usage := func() int64 {
		t.Helper()
		bytes, err := s.Usage(t.Context(), acme)
		must(t, err)
		return bytes
	}
	if got := usage(); got != 0 {
		t.Errorf("usage of nothing is %d", got)
	}
	file := put(t, s, acme, strings.Repeat("x", 1<<20))
	first := usage()
	if first < 1<<20 || first > 1<<20+64<<10 {
		t.Errorf("usage of 1 MiB is %d", first)
	}
	must(t, os.Link(file, file+"2")) // costs nothing
	must(t, os.Symlink("/", file+"3"))
	must(t, os.Truncate(file, 100<<20)) // sparse
	now = now.Add(2 * sizeAge)
	if got := usage(); got < first || got > first+64<<10 {
		t.Errorf("usage with links and a hole is %d, want about %d", got, first)
	}
	must(t, os.WriteFile(file+"4", make([]byte, 1<<20), 0o600))
	if got := usage(); got > first+64<<10 {
		t.Errorf("usage %d was measured again at once", got)
	}
	now = now.Add(2 * sizeAge)
	if got := usage(); got < 2<<20 {
		t.Errorf("usage %d is old", got)
	}
	must(t, s.Delete(acme, false))
	if got := usage(); got != 0 {
		t.Errorf("usage after delete is %d", got)
	}
}

func TestNames(t *testing.T) {
	s := newStore(t, t.TempDir())
	for _, stamp := range []bulkhead.StampRef{
		{Name: "", UID: "u"},
		{Name: "..", UID: "u"},
		{Name: "a/b", UID: "u"},
		{Name: "a.b", UID: "u"},
		{Name: "Acme", UID: "u"},
		{Name: "acme", UID: ""},
		{Name: "acme", UID: ".."},
		{Name: "acme", UID: "a.b"},
		{Name: "acme", UID: "../x"},
		{Name: "acme", UID: "u\n"},
	} {
		_, _, err := s.Create(stamp, "data")
		wantKind(t, err, bulkhead.ErrInvalid)
		wantKind(t, s.Delete(stamp, true), bulkhead.ErrInvalid)
		wantKind(t, s.Restore(stamp), bulkhead.ErrInvalid)
		_, err = s.Usage(t.Context(), stamp)
		wantKind(t, err, bulkhead.ErrInvalid)
	}
	for _, volume := range []bulkhead.VolumeName{"", ".", "..", "../x", "a/b", "/etc", "a\x00b", ".epoch", ".kept.json", "epoch~", bulkhead.VolumeName(strings.Repeat("x", 200))} {
		_, _, err := s.Create(acme, volume)
		wantKind(t, err, bulkhead.ErrInvalid)
	}
	if entries, _ := os.ReadDir(s.stampsDir()); len(entries) > 0 {
		t.Errorf("refused calls made %v", entries)
	}
	_, err := New(Config{})
	wantKind(t, err, bulkhead.ErrInvalid)
}

func BenchmarkCreate(b *testing.B) {
	s := newStore(b, b.TempDir())
	for i := 0; b.Loop(); i++ {
		create(b, s, bulkhead.StampRef{Name: "acme", UID: fmt.Sprint("u", i), Epoch: 1}, "data")
	}
}
