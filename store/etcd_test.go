package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bulkhead"
)

// The test binary is also the process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BULKHEAD_STORE_TEST_WRITER"); dir != "" {
		if err := write1by1(dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// write1by1 tells what it finds, then counts up, telling after each is acknowledged.
func write1by1(dir string) error {
	f, err := Lock(dir)
	if err != nil {
		return err
	}
	s, err := Open(context.Background(), Config{Folder: f, StampEvents: 1 << 20, AllEvents: 1 << 20})
	if err != nil {
		return err
	}
	n := int64(s.View().Notes.Len())
	for i := range n {
		if _, ok := s.View().Notes.Get(fmt.Sprint(i)); !ok {
			return fmt.Errorf("note %d of %d is lost", i, n)
		}
	}
	if s.View().Events.Len() != int(n) {
		return fmt.Errorf("%d notes, but %d events", n, s.View().Events.Len())
	}
	fmt.Println("found", n)
	return s.Lead(context.Background(), func(ctx context.Context, l *Leader) error {
		for ; ; n++ {
			err := l.Update(ctx, func(tx *Tx) error {
				tx.Notes.Put(Note{Name: fmt.Sprint(n), Text: strings.Repeat("x", 1000)})
				tx.Event(bulkhead.Event{Message: fmt.Sprint(n)})
				return nil
			})
			if err != nil {
				return err
			}
			fmt.Println("wrote", n)
		}
	})
}

// What was acknowledged survives kill -9, whole: a note and its event are there
// or not, together. The next process leads at once.
func TestKill_LosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acknowledged := int64(-1)
	for round := range 25 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "BULKHEAD_STORE_TEST_WRITER="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		killed := false
		lines := bufio.NewScanner(out)
		left := 1 + rand.IntN(200)
		for lines.Scan() {
			var n int64
			switch line := lines.Text(); {
			case scanned(line, "found %d", &n):
				if n <= acknowledged {
					t.Errorf("round %d: %d was acknowledged, only %d are there", round, acknowledged, n)
				}
			case scanned(line, "wrote %d", &n):
				acknowledged = n
				if left--; left == 0 {
					killed = true
					_ = child.Process.Kill()
				}
			default:
				t.Errorf("round %d: %s", round, line)
			}
		}
		_ = child.Wait()
		if !killed {
			t.Fatalf("round %d: the writer ended by itself after %v", round, time.Since(started))
		}
	}
	if acknowledged < 100 {
		t.Errorf("only %d writes in all", acknowledged)
	}
}

func scanned(line, format string, n *int64) bool {
	_, err := fmt.Sscanf(line, format, n)
	return err == nil
}

// Every acknowledged write has waited for a sync of the log.
func TestUpdate_SyncsBeforeItReturns(t *testing.T) {
	s := open(t, Config{})
	before := syncs(t)
	for i := range 50 {
		update(t, s, func(tx *Tx) { tx.Notes.Put(Note{Name: fmt.Sprint(i)}) })
	}
	if n := syncs(t) - before; n < 50 {
		t.Errorf("50 writes one after the other made %d syncs", n)
	}
}

func syncs(t *testing.T) uint64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "etcd_disk_wal_fsync_duration_seconds" {
			return f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	t.Fatal("etcd does not count its syncs")
	return 0
}

func TestOpen_KeepsTheState(t *testing.T) {
	dir := t.TempDir()
	f, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var revision, last int64
	for i := range 3 {
		s, err := Open(t.Context(), Config{Folder: f})
		if err != nil {
			t.Fatal(err)
		}
		if v := s.View(); v.Stamps.Len() != i*(pageSize/2) || v.Events.Last() != last || v.Revision < revision {
			t.Errorf("run %d: %d stamps, last event %d (want %d), revision %d (was %d)",
				i, v.Stamps.Len(), v.Events.Last(), last, v.Revision, revision)
		}
		update(t, s, func(tx *Tx) {
			for j := range pageSize / 2 {
				tx.Stamps.Put(stamp(fmt.Sprint(i, "-", j)))
			}
			tx.Event(bulkhead.Event{Message: "run"})
			tx.Event(bulkhead.Event{Message: "run"})
		})
		revision, last = s.View().Revision, s.View().Events.Last()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Open is quick, and opens no port.
func TestOpen_IsQuickAndPrivate(t *testing.T) {
	listening := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(target, "socket:") {
				n++
			}
		}
		return n
	}
	before := listening()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if listening() != before+1 {
		t.Fatal("this test does not see sockets")
	}
	_ = l.Close()
	started := time.Now()
	s := open(t, Config{})
	if took := time.Since(started); took > 5*time.Second { // 0.1 s on an idle machine
		t.Errorf("Open took %v", took)
	}
	update(t, s, func(tx *Tx) { tx.Stamps.Put(stamp("acme")) })
	if n := listening(); n > before {
		t.Errorf("the store has %d sockets", n-before)
	}
}

func TestOpen_EndsWithItsContext(t *testing.T) {
	f, err := Lock(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{Folder: f}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A full store refuses in one line, and takes writes again once there is room.
func TestQuota_RefusesAndRecovers(t *testing.T) {
	s := open(t, Config{Quota: 8 << 20})
	var err error
	n := 0
	for ; n < 100 && err == nil; n++ {
		s.engine.(*etcd).server.Server.Backend().ForceCommit() // which is when etcd learns its size
		err = s.Update(t.Context(), func(tx *Tx) error {
			tx.Notes.Put(Note{Name: fmt.Sprint(n), Text: strings.Repeat("x", 200_000)})
			return nil
		})
	}
	if !errors.Is(err, bulkhead.ErrExhausted) {
		t.Fatalf("after %d writes: %v", n, err)
	}
	update(t, s, func(tx *Tx) { tx.Notes.Put(Note{Name: "0", Text: "an old one, changed"}) })
	update(t, s, func(tx *Tx) {
		for i := range n {
			tx.Notes.Delete(fmt.Sprint(i))
		}
	})
	if err := s.engine.(*etcd).tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *Tx) { tx.Notes.Put(Note{Name: "again"}) })
}

func TestClose_RefusesChanges(t *testing.T) {
	s := open(t, Config{})
	_ = s.Close()
	err := s.Update(t.Context(), func(tx *Tx) error { tx.Stamps.Put(stamp("acme")); return nil })
	if !errors.Is(err, bulkhead.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("Run goes on without an engine")
	}
	_ = s.Close()
}
