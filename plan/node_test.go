package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead"

	"pgregory.net/rapid"
)

var silence = Silence{Lease: 10 * time.Second, LostAfter: time.Minute}

func allPresent(bulkhead.NodeName) bool { return true }

// quietNodes makes nodes of one region, the first few of which are silent for so long.
func quietNodes(n, quiet int, since time.Duration, state bulkhead.NodeState, now time.Time) []bulkhead.Node {
	var out []bulkhead.Node
	for i := range n {
		node := bulkhead.Node{Name: bulkhead.NodeName(fmt.Sprintf("n%d", i)), Region: "eu", State: bulkhead.NodeReady, Server: "s1"}
		if i < quiet {
			node.Silent, node.State = now.Add(-since), state
		}
		out = append(out, node)
	}
	return out
}

func TestNodes_SilenceIsFollowedByStates(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		since time.Duration
		was   bulkhead.NodeState
		want  bulkhead.NodeState
		wake  time.Duration // from now; 0: not looked at
	}{
		{4 * time.Second, bulkhead.NodeReady, "", 6 * time.Second},
		{10 * time.Second, bulkhead.NodeReady, bulkhead.NodeUnreachable, 0},
		{time.Hour, bulkhead.NodeReady, bulkhead.NodeUnreachable, 0}, // one step after the other
		{30 * time.Second, bulkhead.NodeUnreachable, "", 30 * time.Second},
		{time.Minute, bulkhead.NodeUnreachable, bulkhead.NodeLost, 0},
		{time.Hour, bulkhead.NodeLost, "", 0},
	} {
		p := Nodes(slices.Values(quietNodes(4, 1, c.since, c.was, now)), allPresent, silence, now)
		var got bulkhead.NodeState
		if len(p.Steps) > 0 {
			got = p.Steps[0].State
		}
		if got != c.want || len(p.Steps) > 1 || len(p.Alarms) > 0 || c.wake > 0 && p.Wake.Sub(now) != c.wake {
			t.Errorf("%s for %v: %+v", c.was, c.since, p)
		}
	}
}

// A server that is gone takes the sessions of its nodes with it: from then on they
// count as silent.
func TestNodes_ServerGone(t *testing.T) {
	now := time.Unix(1e9, 0)
	p := Nodes(slices.Values(quietNodes(2, 0, 0, "", now)), func(s bulkhead.NodeName) bool { return s != "s1" }, silence, now)
	if len(p.Steps) != 2 || !p.Steps[0].Silent || p.Steps[0].State != "" || !strings.Contains(p.Steps[0].Reason, "server s1") {
		t.Errorf("%+v", p)
	}
}

// More than a third of a region silent at once freezes that region, and no other.
func TestNodes_MassSilenceFreezes(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		nodes, quiet int
		frozen       bool
	}{{1, 1, false}, {2, 1, false}, {2, 2, true}, {3, 1, false}, {3, 2, true}, {6, 2, false}, {6, 3, true}, {9, 3, false}, {9, 4, true}} {
		nodes := quietNodes(c.nodes, c.quiet, time.Hour, bulkhead.NodeUnreachable, now)
		other := bulkhead.Node{Name: "us1", Region: "us", State: bulkhead.NodeUnreachable, Silent: now.Add(-time.Hour), Server: "s1"}
		p := Nodes(slices.Values(append(nodes, other)), allPresent, silence, now)
		lost := map[bulkhead.NodeName]bool{}
		for _, s := range p.Steps {
			lost[s.Node] = s.State == bulkhead.NodeLost
		}
		if (len(p.Alarms) == 1) != c.frozen || lost["n0"] == c.frozen || !lost["us1"] {
			t.Errorf("%d of %d silent: alarms %+v, steps %+v", c.quiet, c.nodes, p.Alarms, p.Steps)
		}
		if c.frozen && (!strings.Contains(p.Alarms[0].Message, "region eu") || strings.Contains(p.Alarms[0].Message, "\n")) {
			t.Errorf("the alarm says %q", p.Alarms[0].Message)
		}
	}
	// Who is left when the others answer again is not given up at that moment.
	nodes := quietNodes(3, 2, time.Hour, bulkhead.NodeUnreachable, now)
	p := Nodes(slices.Values(nodes), allPresent, silence, now)
	if len(p.Steps) != 2 || !p.Steps[0].Spared || !p.Steps[1].Spared {
		t.Fatalf("while many are silent: %+v", p.Steps)
	}
	nodes[0].Spared = now
	nodes[1].Silent, nodes[1].State = time.Time{}, bulkhead.NodeReady
	for _, c := range []struct {
		after time.Duration
		lost  bool
	}{{time.Second, false}, {silence.LostAfter - time.Second, false}, {silence.LostAfter, true}} {
		p := Nodes(slices.Values(nodes), allPresent, silence, now.Add(c.after))
		if lost := len(p.Steps) == 1 && p.Steps[0].State == bulkhead.NodeLost; lost != c.lost || len(p.Alarms) > 0 {
			t.Errorf("%v after the others answer: %+v", c.after, p)
		}
	}
	// Nodes that were given up before do not count: they are not silent at once.
	nodes = quietNodes(6, 3, time.Hour, bulkhead.NodeLost, now)
	nodes[3].State, nodes[3].Silent = bulkhead.NodeUnreachable, now.Add(-2*time.Minute)
	if p = Nodes(slices.Values(nodes), allPresent, silence, now); len(p.Alarms) > 0 || len(p.Steps) != 1 || p.Steps[0].Node != "n3" {
		t.Errorf("after three were given up: %+v", p)
	}
}

// Whatever the farm, nothing is decided about a node that speaks, a node only goes
// from ready to unreachable to lost, and a plan that does nothing tells when it may.
func TestNodes_Property(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1e9, 0)
		var nodes []bulkhead.Node
		for i := range rapid.IntRange(0, 12).Draw(t, "nodes") {
			n := bulkhead.Node{Name: bulkhead.NodeName(fmt.Sprintf("n%d", i)), Server: "s1", State: bulkhead.NodeReady}
			n.Region = rapid.SampledFrom([]string{"", "eu", "us"}).Draw(t, "region")
			if rapid.Bool().Draw(t, "silent") {
				n.Silent = now.Add(-time.Duration(rapid.IntRange(0, 200).Draw(t, "since")) * time.Second)
				n.State = rapid.SampledFrom([]bulkhead.NodeState{bulkhead.NodeReady, bulkhead.NodeUnreachable, bulkhead.NodeLost}).Draw(t, "state")
			}
			nodes = append(nodes, n)
		}
		p := Nodes(slices.Values(nodes), allPresent, silence, now)
		for _, s := range p.Steps {
			for _, n := range nodes {
				if n.Name != s.Node {
					continue
				}
				if n.Silent.IsZero() {
					t.Fatalf("a node that speaks gets %+v", s)
				}
				if s.Spared && n.State == bulkhead.NodeUnreachable {
					continue
				}
				if !(n.State == bulkhead.NodeReady && s.State == bulkhead.NodeUnreachable || n.State == bulkhead.NodeUnreachable && s.State == bulkhead.NodeLost) {
					t.Fatalf("%s becomes %s", n.State, s.State)
				}
			}
		}
		for _, n := range nodes {
			waits := n.State == bulkhead.NodeReady && !n.Silent.IsZero() && now.Sub(n.Silent) < silence.Lease
			if waits && p.Wake.IsZero() {
				t.Fatal("nobody looks again when a lease ends")
			}
		}
	})
}

// TestRoutes_OfTheFarm: own stamps by their tasks, others by their node; of two
// that claim one stamp the newer epoch has it.
func TestRoutes_OfTheFarm(t *testing.T) {
	own := func(uid string, epoch int64) []Local {
		return []Local{{Stamp: bulkhead.Stamp{
			Name: "acme", UID: uid, Epoch: epoch, Node: "n1", Hosts: []bulkhead.Host{"acme.localhost"}, Desired: bulkhead.DesiredRunning,
			Routes: []bulkhead.RouteRule{{Path: "/", Service: "web", Port: 80}},
		}}}
	}
	place := func(uid string, epoch int64) []bulkhead.Place {
		return []bulkhead.Place{{StampRef: bulkhead.StampRef{Name: "acme", UID: uid, Epoch: epoch}, Node: "n2", Hosts: []bulkhead.Host{"acme.localhost", "api.acme.localhost"}}}
	}
	for what, c := range map[string]struct {
		stamps []Local
		places []bulkhead.Place
		node   bulkhead.NodeName
	}{
		"own alone":                 {own("u", 3), nil, ""},
		"another's alone":           {nil, place("u", 3), "n2"},
		"own is newer":              {own("u", 4), place("u", 3), ""},
		"own is of the same epoch":  {own("u", 3), place("u", 3), ""},
		"own is stale":              {own("u", 3), place("u", 4), "n2"},
		"own is of an earlier life": {own("old", 9), place("u", 1), "n2"},
	} {
		routes := Routes(c.stamps, c.places)
		if len(routes) == 0 || routes[0].Node != c.node || routes[0].Host != "acme.localhost" {
			t.Errorf("%s: %+v", what, routes)
		}
		for _, r := range routes {
			if r.Node != c.node {
				t.Errorf("%s: of both nodes: %+v", what, routes)
			}
		}
	}
}

// TestNodes_OtherClock: a node that is unreachable is silent, also by a leader's clock
// that is behind the one by which it became so.
func TestNodes_OtherClock(t *testing.T) {
	now := time.Unix(10_000, 0)
	node := func(name bulkhead.NodeName, silent time.Time) bulkhead.Node {
		return bulkhead.Node{Name: name, Server: "s1", State: bulkhead.NodeUnreachable, Silent: silent}
	}
	nodes := []bulkhead.Node{node("n1", now.Add(-time.Hour)), node("n2", now.Add(time.Minute)), node("n3", time.Time{})}
	nodes[2].State = bulkhead.NodeReady
	p := Nodes(slices.Values(nodes), func(bulkhead.NodeName) bool { return true }, Silence{Lease: 10 * time.Second, LostAfter: time.Minute}, now)
	if len(p.Alarms) != 1 {
		t.Errorf("two of three nodes are silent: %+v", p)
	}
	for _, step := range p.Steps {
		if step.State == bulkhead.NodeLost {
			t.Errorf("%s is given up", step.Node)
		}
	}
}
