package clustertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"bulkhead"
)

// staleNode: a node comes back with what its disk held long ago, as a virtual machine
// does that was put back to a snapshot: a stamp that has gone elsewhere since. Nothing
// of the old copy is served, by whichever gateway, and its end is the first that the
// node hears of.
func staleNode(t *testing.T, f *trio) {
	s1 := f.servers[0]
	returns, reads := trials(1, 200), 0
	var known []time.Duration
	for i := range returns {
		n := f.nodeOf("acme")
		n.Kill()
		old := filepath.Join(f.dir, "old")
		for _, folder := range []string{"agent", "volumes"} {
			if err := os.CopyFS(filepath.Join(old, folder), os.DirFS(filepath.Join(n.Data(), folder))); err != nil {
				t.Fatal(err)
			}
		}
		n.Start()
		f.ready()
		n.Cut("both", f.servers...)
		s1.Until(45*time.Second, "acme is elsewhere", func() error {
			if s := s1.Stamp("acme"); string(s.Node) == n.Name || s.Phase != bulkhead.PhaseRunning {
				return fmt.Errorf("%s on %s", s.Phase, s.Node)
			}
			return nil
		})
		now := f.nodeOf("acme").MustGet("acme", "/")
		n.Kill()
		n.powerCut()
		for _, folder := range []string{"agent", "volumes"} {
			if err := errors.Join(os.RemoveAll(filepath.Join(n.Data(), folder)), os.CopyFS(filepath.Join(n.Data(), folder), os.DirFS(filepath.Join(old, folder)))); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(old); err != nil {
			t.Fatal(err)
		}
		n.Heal()
		n.Start()
		began := time.Now()
		var quiet time.Time
		for quiet.IsZero() || time.Since(quiet) < 2*time.Second {
			for _, g := range f.nodes {
				switch got, err := g.Get("acme", "/"); {
				case err == nil && got != now:
					t.Fatalf("return %d: %s serves what was: %s", i, g.Name, got)
				case err == nil:
					reads++
				case g != n: // its own gateway may not be up yet
					t.Errorf("return %d: %s: %v", i, g.Name, err)
				}
			}
			if quiet.IsZero() && s1.Nodes()[n.Name].State == bulkhead.NodeReady && !n.tasks()["acme"] {
				quiet = time.Now()
				known = append(known, time.Since(began))
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("return %d: after a minute %s runs %v", i, n.Name, n.tasks())
			}
		}
		f.serve(20*time.Second, []*Machine{n}, watched...)
	}
	t.Logf("%d returns of a node with an old disk: %d reads, 0 of them old; the old copy was gone %v after its start", returns, reads, known)
	f.ready()
}
