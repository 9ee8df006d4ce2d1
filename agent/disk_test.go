package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
)

// threeRun boots an agent with three stamps and waits until they run.
func threeRun(t *testing.T, m *machine, s *server, dir string) life {
	t.Helper()
	for _, name := range []bulkhead.StampName{"acme", "globex", "initech"} {
		stamp := shop()
		stamp.Name, stamp.UID = name, "u-"+string(name)
		s.order(assign(stamp))
	}
	s.order(bulkhead.NodeOrder{Farm: &bulkhead.FarmNews{Places: []bulkhead.Place{{StampRef: bulkhead.StampRef{Name: "umbrella", UID: "u", Epoch: 1}, Node: "n2"}}}})
	s.order(bulkhead.NodeOrder{Synced: true})
	a := boot(t, m, s, dir)
	until(t, "all run", time.Minute, func() bool {
		for _, name := range []bulkhead.StampName{"acme", "globex", "initech"} {
			if s.of(name).Phase != bulkhead.PhaseRunning {
				return false
			}
		}
		return true
	})
	time.Sleep(2 * keepEvery) // what is known of other nodes is written down
	return a
}

// TestDisk_Mutants: of every file that the agent keeps, no bit can be flipped, nothing
// cut off and nothing put in its place without its being refused, and a file that is
// refused harms no other.
func TestDisk_Mutants(t *testing.T) {
	dir := t.TempDir()
	var before []savedStamp
	synctest.Test(t, func(t *testing.T) {
		a := threeRun(t, newMachine(), newServer(), dir)
		a.kill()
		var err error
		if before, err = a.load(); err != nil || len(before) != 3 || a.farm.load() != nil {
			t.Fatalf("%d stamps: %v", len(before), err)
		}
	})
	reader := func() *Agent {
		return New(Config{Node: func() bulkhead.Node { return bulkhead.Node{Name: "n1"} }, Dir: dir, Keys: plain{}, Log: slog.New(slog.DiscardHandler)})
	}
	files := []string{farmFile}
	for _, s := range before {
		files = append(files, assignmentFile(s.assignment.Stamp.Name), tasksFile(s.assignment.Stamp.Name))
	}
	mutants, silent, spread := 0, 0, 0
	for i, file := range files {
		path := filepath.Join(dir, file)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, content []byte) {
			mutants++
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			a := reader()
			if file == farmFile {
				if err := a.farm.load(); !errors.Is(err, errDamaged) || len(a.Places()) > 0 {
					silent++
					t.Errorf("%s, %s: %v, %v", file, what, err, a.Places())
				}
				return
			}
			after, err := a.load()
			if err != nil || len(after) != len(before) {
				t.Fatalf("%s, %s: %d stamps: %v", file, what, len(after), err)
			}
			for j, now := range after {
				want := before[j]
				switch {
				case file == assignmentFile(want.assignment.Stamp.Name):
					want.blind, want.assignment = true, bulkhead.Assignment{Stamp: bulkhead.Stamp{Name: want.assignment.Stamp.Name}}
				case file == tasksFile(want.assignment.Stamp.Name):
					want.savedTasks = savedTasks{}
				case !reflect.DeepEqual(now, want):
					spread++
					t.Errorf("%s, %s: %s is %+v", file, what, want.assignment.Stamp.Name, now)
					continue
				}
				if !reflect.DeepEqual(now, want) {
					silent++
					t.Errorf("%s, %s: taken for %+v", file, what, now)
				}
			}
		}
		for range 600 {
			bit := rand.IntN(8 * len(good))
			b := slices.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			try(fmt.Sprintf("bit %d", bit), b)
		}
		for n := range len(good) {
			try(fmt.Sprintf("cut at %d", n), good[:n])
		}
		try("twice", slices.Concat(good, good))
		try("more", append(slices.Clone(good), 'x'))
		other, err := os.ReadFile(filepath.Join(dir, files[(i+2)%len(files)])) // one of another stamp
		if err != nil {
			t.Fatal(err)
		}
		try("another's", other)
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d mutants of %d files: %d taken in silence, %d harmed another", mutants, len(files), silent, spread)
}

// damage flips a bit in a stamp's assignment on disk.
func damage(t *testing.T, dir string, name bulkhead.StampName) {
	t.Helper()
	path := filepath.Join(dir, assignmentFile(name))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAgentWithDamagedAssignment: what runs of a stamp whose assignment is damaged
// goes on; the others are looked after as ever; the servers' word mends it.
func TestAgentWithDamagedAssignment(t *testing.T) {
	for what, c := range map[string]struct {
		say  func(s *server) // what the servers say in the end
		left bool            // its tasks are still there then
	}{
		"it is still this node's": {func(*server) {}, true},
		"it is another node's": {func(s *server) {
			s.orders = slices.DeleteFunc(s.orders, func(o bulkhead.NodeOrder) bool { return o.Assign != nil && o.Assign.Stamp.Name == "acme" })
			forget := bulkhead.NodeOrder{Forget: &bulkhead.StampRef{Name: "acme", UID: "u-acme", Epoch: 2}}
			s.orders = append([]bulkhead.NodeOrder{forget}, s.orders...)
		}, false},
		"nobody knows it": {func(s *server) {
			s.orders = slices.DeleteFunc(s.orders, func(o bulkhead.NodeOrder) bool { return o.Assign != nil && o.Assign.Stamp.Name == "acme" })
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m, s := newMachine(), newServer()
				first := threeRun(t, m, s, dir)
				first.kill()
				damage(t, dir, "acme")
				started, before := m.started, len(m.calls)
				s.leave(true)
				second := boot(t, m, s, dir)
				time.Sleep(time.Hour)
				if m.started != started || len(m.calls) != before {
					t.Fatalf("without servers tasks were touched: %v", m.calls[before:])
				}
				if m.names["web"] != 1 || m.names["db"] != 1 {
					t.Errorf("names resolve to %v", m.names)
				}
				for _, local := range second.Stamps() {
					if blind := local.Stamp.Name == "acme"; len(local.Tasks) != 2 || (len(local.Stamp.Hosts) == 0) != blind {
						t.Errorf("%s has %d tasks and hosts %v", local.Stamp.Name, len(local.Tasks), local.Stamp.Hosts)
					}
				}
				for _, local := range second.Stamps() { // a crash among the others is healed
					if local.Stamp.Name == "globex" {
						m.end(local.Tasks[1].ID, 1)
					}
				}
				until(t, "the crashed task is replaced", time.Minute, func() bool { return m.started == started+1 })

				c.say(s)
				s.leave(false)
				if !c.left {
					until(t, "it is gone", time.Minute, func() bool {
						containers, _ := m.left()
						return containers == 4 && len(second.Stamps()) == 2
					})
					if !m.kept["u-acme"] {
						t.Error("its data is not kept")
					}
					return
				}
				until(t, "it is whole", time.Minute, func() bool {
					for _, local := range second.Stamps() {
						if local.Stamp.Name == "acme" {
							return local.Phase == bulkhead.PhaseRunning && len(local.Stamp.Hosts) > 0
						}
					}
					return false
				})
				if m.started != started+1 {
					t.Errorf("tasks were touched: %v", m.calls[before:])
				}
				second.kill() // and whole on disk
				saved, err := second.load()
				if err != nil || len(saved) != 3 || saved[0].blind || len(saved[0].assignment.Stamp.Hosts) == 0 {
					t.Errorf("on disk: %+v, %v", saved, err)
				}
			})
		})
	}
}

// TestAgentKeepsToTheNewestEpoch: what is said under an older epoch than a stamp's on
// this node changes nothing of it: not its tasks, and not its names, which nobody but
// its loop sets.
func TestAgentKeepsToTheNewestEpoch(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		stamp := shop()
		stamp.Epoch = 3
		s.order(assign(stamp))
		a := boot(t, m, s, dir)
		running(t, s, 1)
		started := m.started
		stale := shop()
		stale.Epoch, stale.Generation, stale.Services = 2, 9, stale.Services[:1]
		stale.Services[0].Networks[0].Aliases = []string{"stale"}
		s.order(assign(stale))
		s.order(bulkhead.NodeOrder{Forget: &bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 2}})
		time.Sleep(time.Minute)
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, ok := m.names["stale"]; ok || m.names["db"] != 1 || m.started != started {
			t.Errorf("names %v, %d tasks started", m.names, m.started-started)
		}
		if local := a.Stamps(); len(local) != 1 || local[0].Stamp.Epoch != 3 || local[0].Stamp.Generation != 1 {
			t.Errorf("the stamp is %+v", local)
		}
	})
}

// TestAgentSettles: what a node had before it was away is not shown as its own before
// the servers have been heard, unless they are away too.
func TestAgentSettles(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		first := threeRun(t, m, s, dir)
		first.kill()
		s.leave(true)
		second := boot(t, m, s, dir)
		began := time.Now()
		<-second.Settled()
		if took := time.Since(began); took != settleMost {
			t.Errorf("without servers it took %v", took)
		}
		second.kill()

		s.leave(false) // acme is elsewhere by now
		s.orders = slices.DeleteFunc(s.orders, func(o bulkhead.NodeOrder) bool { return o.Assign != nil && o.Assign.Stamp.Name == "acme" })
		third := boot(t, m, s, dir)
		began = time.Now()
		<-third.Settled()
		if took := time.Since(began); took >= settleMost {
			t.Errorf("with servers it took %v", took)
		}
		for _, local := range third.Stamps() {
			if local.Stamp.Name == "acme" && local.Stamp.Desired != bulkhead.DesiredDeleted {
				t.Errorf("acme is shown as %s, %s", local.Stamp.Desired, local.Phase)
			}
		}
	})
}
