package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"bulkhead"
)

// two are the stores of two nodes, of which the first has a stamp with a volume.
type two struct {
	t        testing.TB
	from, to *Store
	stamp    bulkhead.StampRef
	data     string // folder of the volume
}

func newTwo(t testing.TB, dir string) *two {
	t.Helper()
	x := &two{t: t, stamp: bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 1}}
	x.from, x.to = newStore(t, filepath.Join(dir, "a")), newStore(t, filepath.Join(dir, "b"))
	var err error
	if x.data, _, err = x.from.Create(x.stamp, "data"); err != nil {
		t.Fatal(err)
	}
	return x
}

// pass makes one pass.
func (x *two) pass(last bool) (bytes int64, files int, err error) {
	a, b := net.Pipe()
	var sent error
	var wg sync.WaitGroup
	wg.Go(func() { sent = x.from.Send(context.Background(), a, x.stamp, last); a.Close() })
	bytes, files, err = x.to.Fetch(context.Background(), b, x.stamp, "m1", last, func(int64) {})
	b.Close()
	wg.Wait()
	if err == nil {
		err = sent
	}
	return bytes, files, err
}

func (x *two) mustPass(last bool) (bytes int64, files int) {
	x.t.Helper()
	bytes, files, err := x.pass(last)
	if err != nil {
		x.t.Fatal(err)
	}
	return bytes, files
}

// arrived is the folder of the volume at the second node, once it is installed.
func (x *two) arrived() string {
	x.t.Helper()
	next := x.stamp
	next.Epoch = 3
	if err := x.to.Install(next, "m1"); err != nil {
		x.t.Fatal(err)
	}
	path, _, err := x.to.Create(next, "data")
	if err != nil {
		x.t.Fatal(err)
	}
	return path
}

// picture is everything that can be seen of a tree, by path.
func picture(t testing.TB, root string) map[string]string {
	t.Helper()
	out, first := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, path)
		text := fmt.Sprintf("%o %d:%d %d", stat.Mode, stat.Uid, stat.Gid, unixNano(stat.Mtim))
		switch info.Mode().Type() {
		case 0:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d bytes %x", len(b), bytesHash(b))
			if stat.Nlink > 1 {
				if first[stat.Ino] == "" {
					first[stat.Ino] = rel
				}
				text += " = " + first[stat.Ino]
			}
		case fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + to
		}
		if info.Mode().Type() != fs.ModeSymlink {
			folder, err := os.Open(filepath.Dir(path))
			if err != nil {
				return err
			}
			attrs := attributes(folder, filepath.Base(path))
			folder.Close()
			for _, name := range slices.Sorted(maps.Keys(attrs)) {
				text += fmt.Sprintf(" %s=%q", name, attrs[name])
			}
		}
		out[rel] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func bytesHash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func differ(t testing.TB, want, got map[string]string) {
	t.Helper()
	for path, text := range want {
		if got[path] != text {
			t.Errorf("%s:\n is %s\nnot %s", path, got[path], text)
		}
	}
	for path, text := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s should not be there: %s", path, text)
		}
	}
}

// gardener changes a tree at random.
type gardener struct {
	t    *rapid.T
	root string
	n    int
}

func (g *gardener) below(n int, what string) int { return rapid.IntRange(0, n-1).Draw(g.t, what) }

// some is a path that exists, of that type; "" if there is none.
func (g *gardener) some(mode fs.FileMode) string {
	var all []string
	_ = filepath.WalkDir(g.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() == mode && path != g.root {
			all = append(all, path)
		}
		return nil
	})
	if len(all) == 0 {
		return ""
	}
	return all[g.below(len(all), "which")]
}

func (g *gardener) fresh() string {
	dir := g.root
	if g.below(2, "deep") == 1 {
		if d := g.some(fs.ModeDir); d != "" {
			dir = d
		}
	}
	g.n++
	name := fmt.Sprintf("n%d", g.n)
	if g.below(3, "again") == 0 { // a name that may have been something else
		name = fmt.Sprintf("r%d", g.below(4, "name"))
		_ = os.RemoveAll(filepath.Join(dir, name))
	}
	return filepath.Join(dir, name)
}

func (g *gardener) bytes(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(g.below(1000, "seed")), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (g *gardener) work() {
	file, dir := g.some(0), g.some(fs.ModeDir)
	switch g.below(15, "what") {
	case 0, 1:
		must(g.t, os.WriteFile(g.fresh(), g.bytes(g.below(3000, "size")), 0o640))
	case 2:
		must(g.t, os.WriteFile(g.fresh(), g.bytes(blockSize*g.below(4, "blocks")+g.below(9000, "rest")), 0o600))
	case 3:
		must(g.t, os.Mkdir(g.fresh(), 0o750))
	case 4:
		must(g.t, os.Symlink([]string{"/etc/passwd", "..", "r1", "nowhere", strings.Repeat("x", 300)}[g.below(5, "to")], g.fresh()))
	case 5:
		if file != "" {
			if at := g.fresh(); at != file {
				if _, err := os.Lstat(file); err == nil { // it may have gone with what was there
					must(g.t, os.Link(file, at))
				}
			}
		}
	case 6: // somewhere in the middle, as a database does
		if file != "" {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			must(g.t, err)
			info, _ := f.Stat()
			_, err = f.WriteAt(g.bytes(100), int64(g.below(int(info.Size())+1, "at")))
			must(g.t, errors.Join(err, f.Close()))
		}
	case 7:
		if file != "" {
			must(g.t, os.Truncate(file, int64(g.below(4*blockSize, "size")))) // longer: sparse at the end
		}
	case 8: // a sparse one
		f, err := os.OpenFile(g.fresh(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		must(g.t, err)
		must(g.t, f.Truncate(int64(6*blockSize+g.below(5000, "size"))))
		for range g.below(4, "islands") {
			_, err := f.WriteAt(g.bytes(3000), int64(g.below(6*blockSize, "at")))
			must(g.t, err)
		}
		must(g.t, f.Close())
	case 9:
		if p := cmpOr(file, dir); p != "" {
			must(g.t, os.RemoveAll(p))
		}
	case 10:
		if dir != "" {
			must(g.t, os.RemoveAll(dir))
		}
	case 11: // as an editor saves
		if file != "" {
			must(g.t, os.WriteFile(file+"~", g.bytes(500), 0o600))
			must(g.t, os.Rename(file+"~", file))
		}
	case 12:
		if p := cmpOr(dir, file); p != "" {
			must(g.t, os.Chown(p, g.below(3, "uid"), 7))
			must(g.t, unix.Chmod(p, uint32([]int{0o4755, 0o600, 0o2770, 0o1777, 0o444}[g.below(5, "mode")])))
		}
	case 13:
		if p := cmpOr(file, dir); p != "" {
			must(g.t, unix.Setxattr(p, fmt.Sprintf("user.a%d", g.below(2, "attr")), g.bytes(20), 0))
			_ = unix.Removexattr(p, fmt.Sprintf("user.a%d", g.below(2, "gone")))
		}
	case 14:
		if file != "" { // holes where there was data
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			must(g.t, err)
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(1+g.below(3*blockSize, "hole")))
			must(g.t, errors.Join(err, f.Close()))
		} else {
			at := g.fresh()
			must(g.t, unix.Mkfifo(at, 0o620))
		}
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// TestMove_AnyTree: whatever is done to a tree between the passes, after the last one
// the copy is the same, and sparse where the tree is. Some passes are cut short, and the
// process that copies begins anew now and then.
func TestMove_AnyTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		must(rt, err)
		defer os.RemoveAll(dir)
		x := newTwo(t, dir)
		g := &gardener{t: rt, root: x.data}
		for range 1 + g.below(4, "passes") {
			for range g.below(12, "changes") {
				g.work()
			}
			switch g.below(5, "trouble") {
			case 0:
				x.cutShort(int64(g.below(200_000, "after")))
			case 1:
				x.to = newStore(t, filepath.Join(dir, "b")) // a new process remembers nothing
			}
			if _, _, err := x.pass(false); err != nil {
				rt.Fatal(err)
			}
		}
		for range g.below(8, "last changes") {
			g.work()
		}
		want := picture(t, x.data)
		if _, _, err := x.pass(true); err != nil {
			rt.Fatal(err)
		}
		got := picture(t, x.arrived())
		if !maps.Equal(want, got) {
			differ(t, want, got)
			rt.Fatal("the copy is another tree")
		}
	})
}

// cutShort makes a pass whose connection breaks after so many bytes.
func (x *two) cutShort(after int64) {
	a, b := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = x.from.Send(context.Background(), a, x.stamp, false); a.Close() })
	_, _, _ = x.to.Fetch(context.Background(), &breaking{Conn: b, left: after}, x.stamp, "m1", false, func(int64) {})
	b.Close()
	wg.Wait()
}

type breaking struct {
	net.Conn
	left int64
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// TestMove_SendsWhatChanged: the second pass over a large file costs the blocks that
// changed; over files that did not change, nothing; holes cost nothing ever.
func TestMove_SendsWhatChanged(t *testing.T) {
	x := newTwo(t, t.TempDir())
	large := filepath.Join(x.data, "large")
	must(t, os.WriteFile(large, make([]byte, 40*blockSize), 0o600)) // zeros that are no hole
	must(t, os.WriteFile(filepath.Join(x.data, "small"), []byte("x"), 0o600))
	sparse, err := os.Create(filepath.Join(x.data, "sparse"))
	must(t, err)
	must(t, sparse.Truncate(64<<20))
	_, err = sparse.WriteAt([]byte("far"), 40<<20)
	must(t, errors.Join(err, sparse.Close()))
	old := time.Now().Add(2 * tick)
	for time.Now().Before(old) { // change times must be past for the first pass to trust them
		time.Sleep(tick / 10)
	}
	if n, files := x.mustPass(false); n < 40*blockSize || n > 41*blockSize || files != 3 {
		t.Errorf("first pass: %d bytes of %d files", n, files)
	}
	if n, files := x.mustPass(false); n != 0 || files != 0 {
		t.Errorf("second pass, with nothing changed: %d bytes of %d files", n, files)
	}
	f, err := os.OpenFile(large, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("changed"), 7*blockSize-3) // across two blocks
	must(t, errors.Join(err, f.Close()))
	if n, files := x.mustPass(false); n != 2*blockSize || files != 1 {
		t.Errorf("third pass, with two blocks changed: %d bytes of %d files", n, files)
	}
	x.to = newStore(t, x.to.dir) // remembers nothing: compares
	if n, files := x.mustPass(true); n > blockSize || files != 3 {
		t.Errorf("last pass of a new process: %d bytes of %d files", n, files)
	}
	got := x.arrived()
	differ(t, picture(t, x.data), picture(t, got))
	if info, _ := os.Stat(filepath.Join(got, "sparse")); info.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
		t.Error("the sparse file is not sparse any more")
	}
}

// TestMove_MappedWrites: what is written through a mapping between the passes comes
// along, also when the page was dirty before.
func TestMove_MappedWrites(t *testing.T) {
	x := newTwo(t, t.TempDir())
	// The copy is on another file system, because to flush it would clean the pages here.
	memory, err := os.MkdirTemp("/dev/shm", "copy")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(memory) })
	x.to = newStore(t, memory)
	f, err := os.Create(filepath.Join(x.data, "mapped"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(8<<10))
	m, err := unix.Mmap(int(f.Fd()), 0, 8<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	for i := range byte(6) {
		m[100] = i // no system call: only the fault of a clean page is seen
		end := time.Now().Add(2 * tick)
		for time.Now().Before(end) {
			time.Sleep(tick / 10)
		}
		x.mustPass(false)
		m[101] = i + 1
		x.mustPass(true)
		b, err := os.ReadFile(filepath.Join(x.to.comingDir(), "acme.u1.m1", "data", dataFolder, "mapped"))
		must(t, err)
		if b[100] != i || b[101] != i+1 {
			t.Fatalf("round %d: the copy has %d and %d", i, b[100], b[101])
		}
	}
}

// TestMove_CutShortAndUndone: what a pass that was cut short has written is not taken
// for what was there before it.
func TestMove_CutShortAndUndone(t *testing.T) {
	x := newTwo(t, t.TempDir())
	file := filepath.Join(x.data, "large")
	before := bytes.Repeat([]byte("before"), blockSize)
	must(t, os.WriteFile(file, before, 0o600))
	x.mustPass(false)
	at := func(offset int64, text string) {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt([]byte(text), offset)
		must(t, errors.Join(err, f.Close()))
	}
	for after := int64(0); after < 2*blockSize+8<<10; after += 16 << 10 {
		at(0, "after!")
		at(3*blockSize, "after!")
		x.cutShort(after)
		must(t, os.WriteFile(file, before, 0o600)) // undone
		x.mustPass(false)
		got, err := os.ReadFile(filepath.Join(x.to.comingDir(), "acme.u1.m1", "data", dataFolder, "large"))
		must(t, err)
		if !bytes.Equal(got, before) {
			t.Fatalf("cut short after %d bytes, the copy is of what was undone", after)
		}
	}
}

// TestMove_WhileItChanges: passes over a tree that changes all the time bring what they
// can; the last one, when nothing changes any more, brings the rest.
func TestMove_WhileItChanges(t *testing.T) {
	for seed := range uint64(6) {
		x := newTwo(t, t.TempDir())
		stop := make(chan struct{})
		var busy sync.WaitGroup
		for worker := range uint64(3) {
			busy.Go(func() {
				r := rand.New(rand.NewPCG(seed, worker))
				for {
					select {
					case <-stop:
						return
					default:
					}
					path := filepath.Join(x.data, fmt.Sprintf("f%d-%d", worker, r.IntN(12)))
					switch r.IntN(6) {
					case 0: // anew
						_ = os.WriteFile(path+"~", bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(3000)), 0o600)
						_ = os.Rename(path+"~", path)
					case 1:
						_ = os.Chmod(path, os.FileMode(0o400+r.IntN(0o200)))
					case 2:
						_ = os.Remove(path)
					default: // in place, and as long as it was
						if f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err == nil {
							_, _ = f.WriteAt([]byte{byte(r.Uint32())}, int64(r.IntN(100)))
							_ = f.Close()
						}
					}
				}
			})
		}
		for range 4 {
			if _, _, err := x.pass(false); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		busy.Wait()
		want := picture(t, x.data)
		x.mustPass(true)
		differ(t, want, picture(t, x.arrived()))
	}
}

// TestMove_ManyNames: hard links stay what they are, and part when they part.
func TestMove_ManyNames(t *testing.T) {
	x := newTwo(t, t.TempDir())
	at := func(name string) string { return filepath.Join(x.data, name) }
	must(t, os.WriteFile(at("a"), []byte("one"), 0o600))
	must(t, os.Link(at("a"), at("b")))
	must(t, os.Link(at("a"), at("c")))
	x.mustPass(false)
	must(t, os.Remove(at("b")))
	must(t, os.WriteFile(at("b"), []byte("two"), 0o600)) // its own by now
	must(t, os.Link(at("b"), at("d")))
	must(t, os.Remove(at("c")))
	must(t, os.Link(at("b"), at("c"))) // changed sides
	x.mustPass(false)
	must(t, os.WriteFile(at("d"), []byte("three"), 0o600)) // in place, for all three
	x.mustPass(true)
	differ(t, picture(t, x.data), picture(t, x.arrived()))
}

// TestMove_ThereAndBack: the copy that a stamp left behind is not what it comes back
// to, nor is it brought back by anything else.
func TestMove_ThereAndBack(t *testing.T) {
	x := newTwo(t, t.TempDir())
	must(t, os.WriteFile(filepath.Join(x.data, "f"), []byte("first"), 0o600))
	x.mustPass(true)
	there := x.arrived()
	must(t, x.from.Leave(x.stamp))
	if err := x.from.Restore(x.stamp); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("what was left behind comes back: %v", err)
	}
	if _, _, err := x.from.Create(x.stamp, "data"); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("the stamp begins with nothing where it left its data: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(there, "f"), []byte("second"), 0o600))

	back := &two{t: t, from: x.to, to: x.from, stamp: bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 3}, data: there}
	back.mustPass(false)
	if err := back.to.Install(bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 5}, "m1"); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("a copy that is not complete is installed: %v", err)
	}
	back.mustPass(true)
	home := bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 5}
	for range 2 { // the second time it is there
		must(t, back.to.Install(home, "m1"))
	}
	path, fresh, err := back.to.Create(home, "data")
	must(t, err)
	if b, _ := os.ReadFile(filepath.Join(path, "f")); string(b) != "second" || fresh {
		t.Errorf("back home it has %q, fresh %t", b, fresh)
	}
	// What was set aside there for another reason does not stand in the way.
	must(t, os.MkdirAll(filepath.Join(back.to.keptDir(), "acme.u1.5", "data"), 0o700))
	must(t, os.WriteFile(filepath.Join(back.to.keptDir(), "acme.u1.5", keptFile), []byte(`{"deleted":"2026-01-02T00:00:00Z"}`), 0o600))
	if err := back.to.Restore(home); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("what a move brought, and something is kept: %v", err)
	}
	if err := back.to.Install(bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 4}, "m9"); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("a move that never was: %v", err)
	}
	must(t, back.to.Delete(home, false)) // a user deletes it, and takes it back
	if holds, err := back.to.Holds(home, "m1"); err != nil || !holds {
		t.Errorf("deleted, it is not known as the move's copy: %t, %v", holds, err)
	}
	must(t, back.to.Restore(home))
	if b, _ := os.ReadFile(filepath.Join(path, "f")); string(b) != "second" {
		t.Errorf("restored it has %q", b)
	}
	must(t, back.to.Expire(time.Now().Add(bulkhead.KeepMoved+time.Minute)))
	if kept, _ := back.to.Kept(t.Context()); len(kept) != 0 {
		t.Errorf("what was left behind is kept for ever: %v", kept)
	}
	must(t, back.to.Sweep(func(string) bool { return false }))
	if left, _ := os.ReadDir(back.to.comingDir()); len(left) != 0 {
		t.Errorf("copies are left: %v", left)
	}
}

// TestSend_ConfinesWhatIsWanted: who asks gets nothing that is not in a volume.
func TestSend_ConfinesWhatIsWanted(t *testing.T) {
	x := newTwo(t, t.TempDir())
	secret := filepath.Join(x.from.dir, "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600))
	must(t, os.Symlink(secret, filepath.Join(x.data, "link")))
	must(t, unix.Mkfifo(filepath.Join(x.data, "pipe"), 0o600)) // to open one could last for ever
	for _, wanted := range []string{
		"data/_data/../../../../secret", "data/_data/link", "data/_data/pipe", "../secret", "other/_data/x", "data/_data/", "/etc/passwd", "",
		"data/_data//etc/passwd", "data/../data/_data/x", ".epoch",
	} {
		a, b := net.Pipe()
		go func() { _ = x.from.Send(context.Background(), a, x.stamp, false); a.Close() }()
		w := newWire(b)
		must(t, w.object(kindHello, hello{Key: make([]byte, keySize)}))
		must(t, w.w.Flush())
		for {
			k, _, err := w.read()
			must(t, err)
			if k == kindListed {
				break
			}
		}
		must(t, w.object(kindWant, want{Path: wanted}))
		must(t, w.frame(kindDone))
		must(t, w.w.Flush())
		for {
			k, body, err := w.read()
			if err != nil {
				break
			}
			if k == kindData || bytes.Contains(body, []byte("secret")) && k != kindTrouble {
				t.Errorf("%q: got %q %q", wanted, byte(k), body)
			}
		}
		b.Close()
	}
}

// TestFetch_ConfinesWhatIsSent: whatever the other end says, nothing outside of the
// copy changes, and what cannot be is refused.
func TestFetch_ConfinesWhatIsSent(t *testing.T) {
	file := func(name string) entry {
		return entry{Name: name, Type: typeFile, Mode: 0o600, Version: version{Size: 3}}
	}
	cases := map[string]func(w *wire){
		"a volume that leaves": func(w *wire) { w.object(kindVolume, entry{Name: ".."}) },
		"a volume with a dot":  func(w *wire) { w.object(kindVolume, entry{Name: ".move"}) },
		"a volume twice": func(w *wire) {
			w.object(kindVolume, entry{Name: "v"})
			w.frame(kindUp)
			w.object(kindVolume, entry{Name: "v"})
		},
		"a name with a slash": func(w *wire) { w.object(kindVolume, entry{Name: "v"}); w.object(kindEntry, file("../../x")) },
		"the name ..":         func(w *wire) { w.object(kindVolume, entry{Name: "v"}); w.object(kindEntry, file("..")) },
		"an empty name":       func(w *wire) { w.object(kindVolume, entry{Name: "v"}); w.object(kindEntry, file("")) },
		"a name twice": func(w *wire) {
			w.object(kindVolume, entry{Name: "v"})
			w.object(kindEntry, file("x"))
			w.object(kindEntry, file("x"))
		},
		"a device": func(w *wire) {
			w.object(kindVolume, entry{Name: "v"})
			w.object(kindEntry, entry{Name: "d", Type: "b"})
		},
		"a mode that is a type": func(w *wire) {
			w.object(kindVolume, entry{Name: "v"})
			w.object(kindEntry, entry{Name: "d", Type: typeFile, Mode: 0o60600})
		},
		"a name of a file that is not there": func(w *wire) {
			w.object(kindVolume, entry{Name: "v"})
			w.object(kindEntry, entry{Name: "h", Type: typeLink, Link: 5})
		},
		"an attribute of the kernel's": func(w *wire) {
			w.object(kindVolume, entry{Name: "v", Attrs: map[string][]byte{"security.selinux": []byte("x")}})
			w.frame(kindUp)
			w.frame(kindListed)
		},
		"a tree without end": func(w *wire) {
			w.object(kindVolume, entry{Name: "v"})
			for range mostDepth + 2 {
				w.object(kindEntry, entry{Name: "d", Type: typeFolder, Mode: 0o700})
			}
		},
		"a frame that is too long": func(w *wire) { w.w.Write([]byte{'V', 0xff, 0xff, 0xff, 0xff}) },
		"nonsense":                 func(w *wire) { w.w.Write(bytes.Repeat([]byte{'E', 0, 0, 0, 3, '{'}, 50)) },
		"a part that is nowhere": func(w *wire) {
			w.object(kindVolume, entry{Name: "v"})
			w.object(kindEntry, file("x"))
			w.frame(kindUp)
			w.frame(kindListed)
			w.extent(kindData, -5, 3, []byte("abc"))
		},
		"a part of another length": func(w *wire) {
			w.object(kindVolume, entry{Name: "v"})
			w.object(kindEntry, file("x"))
			w.frame(kindUp)
			w.frame(kindListed)
			w.extent(kindData, 0, 300, []byte("abc"))
		},
	}
	for name, say := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := fetchFrom(t, say); err == nil {
				t.Error("it is believed")
			}
		})
	}
	t.Run("a link and what is behind it", func(t *testing.T) {
		outside := t.TempDir()
		home, err := fetchFrom(t, func(w *wire) {
			w.object(kindVolume, entry{Name: "v", Mode: 0o755})
			w.object(kindEntry, entry{Name: "d", Type: typeFolder, Mode: 0o755})
			w.object(kindEntry, file("x"))
			w.frame(kindUp)
			w.frame(kindUp)
			w.frame(kindListed)
			w.extent(kindData, 0, 3, []byte("abc"))
			w.object(kindEnded, ended{Size: 3})
		})
		if err != nil {
			t.Fatal(err)
		}
		// The folder becomes a link out of the copy, and is written through.
		must(t, os.RemoveAll(filepath.Join(home, "v", dataFolder, "d")))
		must(t, os.Symlink(outside, filepath.Join(home, "v", dataFolder, "d")))
		if _, err := fetchInto(t, filepath.Dir(filepath.Dir(home)), func(w *wire) {
			w.object(kindVolume, entry{Name: "v", Mode: 0o755})
			w.object(kindEntry, entry{Name: "d", Type: typeFolder, Mode: 0o755})
			w.object(kindEntry, file("x"))
			w.frame(kindUp)
			w.object(kindEntry, entry{Name: "s", Type: typeSymlink, To: outside})
			w.frame(kindUp)
			w.frame(kindListed)
			w.extent(kindData, 0, 3, []byte("abc"))
			w.object(kindEnded, ended{Size: 3})
		}); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Errorf("it wrote outside: %v", left)
		}
	})
}

func fetchFrom(t *testing.T, say func(w *wire)) (home string, err error) {
	t.Helper()
	return fetchInto(t, filepath.Join(t.TempDir(), "s"), say)
}

// fetchInto fetches from somebody who says what say does.
func fetchInto(t *testing.T, dir string, say func(w *wire)) (home string, err error) {
	t.Helper()
	s := newStore(t, dir)
	a, b := net.Pipe()
	go func() {
		w := newWire(a)
		go io.Copy(io.Discard, w.r)
		say(w)
		_ = w.w.Flush()
		time.Sleep(10 * time.Millisecond) // what is wanted is written meanwhile
		a.Close()
	}()
	_, _, err = s.Fetch(t.Context(), b, bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 1}, "m1", false, func(int64) {})
	b.Close()
	return filepath.Join(s.comingDir(), "acme.u1.m1"), err
}

func BenchmarkHash(b *testing.B) {
	h, err := newHasher(make([]byte, keySize))
	must(b, err)
	block := make([]byte, blockSize)
	b.SetBytes(blockSize)
	for b.Loop() {
		h.of(block)
	}
}

// TestMove_SetAside: data that is set aside is not sent as none.
func TestMove_SetAside(t *testing.T) {
	s := newStore(t, t.TempDir())
	create(t, s, acme, "data")
	if err := s.Delete(acme, false); err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	if err := s.Send(t.Context(), near, acme, true); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("sent: %v", err)
	}
}
