package clustertest

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bulkhead"
)

// nodeCutOff: silence is not death. What has no data goes elsewhere when the node is
// given up, what has data stays, and nobody who asks for either notices.
func nodeCutOff(t *testing.T, f *trio) {
	w := Watch(f.nodes, watched...)
	s1, n2 := f.servers[0], f.nodes[1]
	n2.Cut("both", f.servers...)
	s1.Until(20*time.Second, "n2 is unreachable", func() error {
		if n := s1.Nodes()["n2"]; n.State != bulkhead.NodeUnreachable {
			return fmt.Errorf("it is %s", n.State)
		}
		return nil
	})
	s1.Until(30*time.Second, "acme, which has no data, is elsewhere", func() error {
		if s := s1.Stamp("acme"); s.Node == "n2" || s.Phase != bulkhead.PhaseRunning {
			return fmt.Errorf("%s on %s", s.Phase, s.Node)
		}
		return nil
	})
	if s := s1.Stamp("globex"); s.Node != "n2" {
		t.Errorf("globex, which has data on n2, is on %s", s.Node)
	}
	n2.Heal()
	f.ready()
	n2.Until(20*time.Second, "n2 has ended its old acme and kept globex", func() error {
		if tasks := n2.tasks(); tasks["acme"] || !tasks["globex"] {
			return fmt.Errorf("it runs %v", tasks)
		}
		return nil
	})
	w.Expect(t, "with a node cut off from all servers")
}

// oneWayCuts drop what one side sends, or what it gets: one direction is as good as
// none. The node without a session takes no new work; nothing that has data moves.
func oneWayCuts(t *testing.T, f *trio) {
	w := Watch(f.nodes, watched...)
	s1 := f.servers[0]
	n := f.nodeOf("globex")
	cuts := trials(2, 200)
	for i := range cuts {
		direction := []string{"out", "in"}[i%2]
		n.Cut(direction, f.servers...)
		s1.Until(30*time.Second, n.Name+" is unreachable", func() error {
			if n := s1.Nodes()[n.Name]; n.State == bulkhead.NodeReady {
				return errors.New("it is ready")
			}
			return nil
		})
		for _, m := range f.nodes {
			if has := m.tasks()["globex"]; has != (m == n) {
				t.Errorf("cut %d, %s: globex runs at %s: %t", i, direction, m.Name, has)
			}
		}
		n.Heal()
		f.ready()
		if got := f.nodeOf("globex"); got != n {
			t.Fatalf("cut %d, %s: globex went from %s to %s", i, direction, n.Name, got.Name)
		}
	}
	t.Logf("%d one-way cuts of a node", cuts)
	w.Expect(t, "with one-way cuts")
}

// linkFlaps cuts a node off for five seconds and lets it be for five, over and over.
func linkFlaps(t *testing.T, f *trio) {
	w := Watch(f.nodes, watched...)
	n, began := f.nodeOf("globex"), time.Now()
	flaps := trials(3, 60)
	for range flaps {
		n.Cut("both", f.servers...)
		time.Sleep(5 * time.Second)
		n.Heal()
		time.Sleep(5 * time.Second)
	}
	moves := map[bulkhead.StampName]int{}
	for _, e := range events(f.servers[0]) {
		if e.Type == "stamp.placed" && e.Time.After(began) {
			moves[e.Stamp]++
		}
	}
	for stamp, n := range moves {
		if n > 1 {
			t.Errorf("%s was moved %d times", stamp, n)
		}
	}
	f.ready()
	t.Logf("%d flaps in %v: stamps moved: %v", flaps, time.Since(began).Round(time.Second), moves)
	w.Expect(t, "with a link that flaps")
}

// agentFrozen: a pause shorter than the lease is no fault.
func agentFrozen(t *testing.T, f *trio) {
	n := f.nodes[1]
	began := time.Now()
	n.Signal(syscall.SIGSTOP) // its gateway, too
	time.Sleep(5 * time.Second)
	n.Signal(syscall.SIGCONT)
	f.ready()
	for _, e := range events(f.servers[0]) {
		if e.Type == "node.lost" && e.Time.After(began) {
			t.Errorf("a pause of 5 s: %s", e.Message)
		}
	}
}

// cutOff cuts nodes off from all servers for longer than it takes to give one up, and
// fails if anything follows.
func (f *trio) cutOff(t *testing.T, nodes ...*Machine) {
	t.Helper()
	s1 := f.servers[0]
	w := Watch(f.nodes, watched...)
	before, places := f.processes(), map[string]bulkhead.NodeName{}
	for _, name := range watched {
		places[name] = s1.Stamp(name).Node
	}
	var cuts sync.WaitGroup
	for _, n := range nodes {
		cuts.Go(func() { n.Cut("both", f.servers...) })
	}
	cuts.Wait()
	s1.Until(20*time.Second, "the alarm is raised", func() error {
		if out := s1.Run("status"); !strings.Contains(out, "silent at once") {
			return errors.New(out)
		}
		return nil
	})
	end := time.Now().Add(held(lostAfter + 3*time.Second))
	for time.Now().Before(end) { // nothing may happen: that takes time to see
		for name, node := range places {
			if got := s1.Stamp(name).Node; got != node {
				t.Fatalf("%s went from %s to %s while everything was frozen", name, node, got)
			}
		}
		time.Sleep(time.Second)
	}
	for _, n := range nodes {
		n.Heal()
	}
	f.ready()
	s1.Until(10*time.Second, "the alarm ends", func() error {
		if out := s1.Run("status"); strings.Contains(out, "silent at once") {
			return errors.New(out)
		}
		return nil
	})
	if after := f.processes(); !maps.Equal(after, before) {
		t.Errorf("tasks were stopped or doubled: %v, before %v", after, before)
	}
	w.Expect(t, fmt.Sprintf("with %d of %d nodes silent", len(nodes), len(f.nodes)))
}

// massSilence of most nodes is the servers' own failure, not the nodes' death.
func massSilence(t *testing.T, f *trio) {
	f.cutOff(t, f.nodes[0], f.nodes[1])
}

// everythingCutOff: servers and nodes do not hear of each other at all.
func everythingCutOff(t *testing.T, f *trio) {
	for range trials(1, 20) {
		f.cutOff(t, f.nodes...)
	}
}
