package clustertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead"
)

// staleNode: a node comes back with what its disk held long ago, as a virtual machine
// does that was put back to a snapshot: stamps that have gone elsewhere since, one of
// them with its data. Nothing of the old copies is served, by whichever gateway; their
// end is the first that the node hears of, and the old data is set aside.
func staleNode(t *testing.T, f *trio) {
	s1, n, to := f.servers[0], f.nodes[2], f.nodes[0]
	returns, reads := trials(1, 200), 0
	var known []time.Duration
	for i := range returns {
		stale := []string{"hooli", "soylent"}
		f.on("hooli", "keeper", n)
		f.on("soylent", "plain", n)
		n.Kill()
		old := filepath.Join(f.dir, "old")
		for _, folder := range []string{"agent", "volumes"} {
			if err := os.CopyFS(filepath.Join(old, folder), os.DirFS(filepath.Join(n.Data(), folder))); err != nil {
				t.Fatal(err)
			}
		}
		n.Start()
		f.ready()
		now := map[string]string{}
		for _, stamp := range stale {
			s1.Run("stamp", "move", stamp, "--to", to.Name)
			now[stamp] = to.MustGet(stamp, "/")
		}
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
		n.Start()
		began := time.Now()
		var quiet time.Time // since when it has nothing old any more
		for quiet.IsZero() || time.Since(quiet) < 2*time.Second {
			for _, g := range f.nodes {
				for _, stamp := range stale {
					switch got, err := g.Get(stamp, "/"); {
					case err == nil && got != now[stamp]:
						t.Fatalf("return %d: %s serves what was of %s: %s", i, g.Name, stamp, got)
					case err == nil:
						reads++
					case g != n: // its own gateway may not be up yet
						t.Errorf("return %d: %s: %v", i, g.Name, err)
					}
				}
			}
			if tasks := n.tasks(); quiet.IsZero() && s1.Nodes()[n.Name].State == bulkhead.NodeReady && !tasks["hooli"] && !tasks["soylent"] {
				quiet = time.Now()
				known = append(known, time.Since(began))
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("return %d: after a minute %s runs %v", i, n.Name, n.tasks())
			}
		}
		s1.Until(20*time.Second, "the old data is listed", func() error {
			if out := s1.Run("node", "show", n.Name); !strings.Contains(out, "data of hooli") {
				return errors.New(out)
			}
			return nil
		})
		f.serve(20*time.Second, []*Machine{n}, watched...)
		for _, stamp := range stale {
			s1.Run("stamp", "delete", stamp, "--purge", "--yes")
		}
	}
	t.Logf("%d returns of a node with an old disk: %d reads, 0 of them old; the old copies were gone within %v of its start", returns, reads, slices.Max(known).Round(time.Millisecond))
	f.ready()
}

// purgedAway: while a node is away, all of its stamps but one are purged: two that went
// elsewhere because it is lost, one that had moved before and whose former data it keeps,
// and one that has its data there. They run on until it is back, and are gone seconds
// later, with their data; the one that is left goes on as if nothing had been.
func purgedAway(t *testing.T, f *trio) {
	s1, n := f.servers[0], f.nodes[2]
	purged := []string{"hooli", "soylent", "piper", "raviga"}
	f.on("hooli", "keeper", n)
	s1.Run("stamp", "move", "hooli", "--to", f.nodes[0].Name)
	f.on("soylent", "plain", n)
	f.on("piper", "plain", n)
	f.on("raviga", "keeper", n)
	f.on("hooper", "keeper", n)
	before := n.Processes()
	n.Kill()
	s1.Until(lostAfter+30*time.Second, "what has no data is elsewhere", func() error {
		for _, stamp := range []string{"soylent", "piper"} {
			if s := s1.Stamp(stamp); string(s.Node) == n.Name || s.Phase != bulkhead.PhaseRunning {
				return fmt.Errorf("%s is %s on %s", stamp, s.Phase, s.Node)
			}
		}
		return nil
	})
	for _, stamp := range purged[:3] {
		s1.Run("stamp", "delete", stamp, "--purge", "--yes") // their names are free
	}
	s1.Run("stamp", "delete", "raviga", "--purge", "--yes", "--no-wait")
	left := func() []string {
		var out []string
		for _, stamp := range purged {
			if n.tasks()[bulkhead.StampName(stamp)] {
				out = append(out, "tasks of "+stamp)
			}
			data, err := filepath.Glob(filepath.Join(n.Data(), "volumes", "[^t]*", stamp+".*")) // not in the trash
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, data...)
		}
		return out
	}
	if had := left(); len(had) != 5 {
		t.Errorf("while it is away it has %v", had)
	}
	n.Start()
	began := time.Now()
	s1.Until(30*time.Second, "what was purged is gone", func() error {
		if had := left(); len(had) > 0 {
			return fmt.Errorf("it has %v", had)
		}
		return nil
	})
	t.Logf("%d purged stamps: gone %v after their node was started", len(purged), time.Since(began).Round(time.Millisecond))
	s1.Until(10*time.Second, "the name of raviga is free", func() error {
		if out, code := s1.Try("stamp", "show", "raviga"); code != 3 {
			return errors.New(out)
		}
		return nil
	})
	f.serve(20*time.Second, f.nodes, append(slices.Clone(watched), "hooper")...)
	for id := range before {
		if _, runs := n.Processes()[id]; strings.HasPrefix(id, "hooper.") != runs {
			t.Errorf("%s runs: %t", id, runs)
		}
	}
	s1.Run("stamp", "delete", "hooper", "--purge", "--yes")
	f.ready()
}
