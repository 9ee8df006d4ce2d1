package clustertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead"
)

// lostAfter is short, so that a test need not wait a minute for a node to be lost, and
// longer than the lease by more than the time between two signs of life: of nodes that
// are cut off at the same moment one was heard so much later than another.
const lostAfter = 15 * time.Second

// trials is how often a fault is repeated: few times where every commit is tested,
// BULKHEAD_TEST_TRIALS elsewhere, but never more than most.
func trials(few, most int) int {
	if n, err := strconv.Atoi(os.Getenv("BULKHEAD_TEST_TRIALS")); err == nil && n > 0 {
		return min(n, most)
	}
	return few
}

// held is how long a fault lasts that has to be borne for any time: a moment where
// every commit is tested, BULKHEAD_TEST_HOLD elsewhere.
func held(moment time.Duration) time.Duration {
	if d, err := time.ParseDuration(os.Getenv("BULKHEAD_TEST_HOLD")); err == nil {
		return d
	}
	return moment
}

// trio is a farm of three servers and three nodes.
type trio struct {
	*Farm
	servers, nodes []*Machine
}

// newTrio makes one. Certificates live for a minute, so that every test renews some;
// n3 and s3 have disks of their own, which can be filled.
func newTrio(t testing.TB) *trio {
	t.Helper()
	f := &trio{Farm: NewFarm(t)}
	for i := range 3 {
		s := f.Machine(fmt.Sprintf("s%d", i+1), "server", "--lost-after", lostAfter.String(), "--certificate-life", "1m")
		if i == 2 {
			s.Disk(serverDisk)
		}
		flags := []string{"--api", s.API, "--advertise", s.IP}
		if i > 0 {
			token := f.servers[0].Token("server")
			flags = append(flags, "--join", token.Join, "--token", token.Token)
		}
		s.Start(flags...)
		s.Until(30*time.Second, s.Name+" answers", func() error {
			out, code := s.Try("status")
			if code != 0 {
				return errors.New(out)
			}
			return nil
		})
		f.servers = append(f.servers, s)
	}
	for i := range 3 {
		n := f.Machine(fmt.Sprintf("n%d", i+1), "agent", "--containerd", "private", "--region", "eu", "--label", "disk=ssd")
		if i == 2 {
			n.Disk(nodeDisk)
		}
		token := f.servers[i].Token("node")
		n.Start("--join", token.Join, "--token", token.Token)
		f.nodes = append(f.nodes, n)
	}
	f.ready("n1", "n2", "n3")
	return f
}

// Again starts a server that has ended.
func (f *trio) again(s *Machine) { s.Start("--api", s.API, "--advertise", s.IP) }

// ready waits until the nodes are; without names, all three.
func (f *trio) ready(names ...string) {
	f.T.Helper()
	if len(names) == 0 {
		names = []string{"n1", "n2", "n3"}
	}
	s := f.servers[0]
	s.Until(45*time.Second, strings.Join(names, ", ")+" ready", func() error {
		all := s.Nodes()
		for _, name := range names {
			if all[name].State != bulkhead.NodeReady {
				return fmt.Errorf("%s is %q", name, all[name].State)
			}
		}
		return nil
	})
}

// leader waits until all servers answer and one leads.
func (f *trio) leader() (leader *Machine, others []*Machine) {
	f.T.Helper()
	f.servers[0].Until(30*time.Second, "three servers and a leader", func() error {
		leader, others = nil, nil
		views := f.servers[0].Servers()
		for _, s := range f.servers {
			view := views[s.Name]
			if view.State != "ready" {
				return fmt.Errorf("%s is %s", s.Name, view.State)
			}
			if view.Leader {
				leader = s
			} else {
				others = append(others, s)
			}
		}
		if leader == nil {
			return errors.New("nobody leads")
		}
		return nil
	})
	return leader, others
}

// on makes a stamp on that node and no other.
func (f *trio) on(stamp, product string, node *Machine) {
	f.T.Helper()
	s := f.servers[0]
	var others []string
	for name, n := range s.Nodes() {
		if name != node.Name && !n.Cordoned {
			others = append(others, name)
			s.Run("node", "cordon", name)
		}
	}
	s.Run("stamp", "create", stamp, "--product", product)
	for _, name := range others {
		s.Run("node", "uncordon", name)
	}
	if got := s.Stamp(stamp).Node; string(got) != node.Name {
		f.T.Fatalf("%s is on %q, not on %s", stamp, got, node.Name)
	}
}

// watched are the stamps that are there from the beginning to the end.
var watched = []string{"acme", "globex", "initech"}

// serve waits until stamps answer at gateways.
func (f *trio) serve(most time.Duration, gateways []*Machine, stamps ...string) {
	f.T.Helper()
	for _, g := range gateways {
		for _, stamp := range stamps {
			g.Until(most, stamp+" at "+g.Name, func() error { _, err := g.Get(stamp, "/"); return err })
		}
	}
}

// nodeOf is the machine that a stamp is on.
func (f *trio) nodeOf(stamp string) *Machine {
	f.T.Helper()
	name := string(f.servers[0].Stamp(stamp).Node)
	i := slices.IndexFunc(f.nodes, func(m *Machine) bool { return m.Name == name })
	if i < 0 {
		f.T.Fatalf("%s is on %q", stamp, name)
	}
	return f.nodes[i]
}

// processes are the first processes of all tasks of the watched stamps, by node and
// task: while they are the same, nothing was stopped and nothing runs twice.
func (f *trio) processes() map[string]int {
	out := map[string]int{}
	for _, n := range f.nodes {
		for id, pid := range n.mains() {
			if stamp, _, _ := strings.Cut(id, "."); slices.Contains(watched, stamp) {
				out[n.Name+" "+id] = pid
			}
		}
	}
	return out
}

const plainProduct = `
name: plain
services:
  web: {image: "probe:1", environment: {NAME: plain}, ports: ["80:8080"]}
x-bulkhead: {version: "1"}
`

const keeperProduct = `
name: keeper
services:
  web: {image: "probe:1", environment: {NAME: keeper}, ports: ["80:8080"], volumes: ["data:/data"]}
volumes: {data: {}}
x-bulkhead: {version: "1"}
`

// TestFarm is the life of a farm of three servers and three nodes, with the faults
// that docs/reliability.md lists, one after the other. Most of its time it waits for
// leases and certificates to run out. Any of its tests can be run alone, but those at
// the end take the farm apart.
func TestFarm(t *testing.T) {
	if os.Getenv("BULKHEAD_TEST_BINARY") != "" {
		t.Skip("six machines are too many for an emulated one")
	}
	f := newTrio(t)
	f.servers[0].Publish("plain", plainProduct)
	f.servers[1].Publish("keeper", keeperProduct)
	f.on("acme", "plain", f.nodes[1])
	f.on("globex", "keeper", f.nodes[1])
	f.on("initech", "plain", f.nodes[0])
	f.serve(10*time.Second, f.nodes, watched...)

	for _, fault := range []struct {
		name string
		test func(*testing.T, *trio)
	}{
		{"any gateway and any server will do", anyWillDo},
		{"wrong input", wrongFarmInput},
		{"tasks are killed", tasksKilled},
		{"agents and engines are killed", agentsKilled},
		{"the leader dies", leaderDies},
		{"the leader pauses", leaderPauses},
		{"the leader is cut off", leaderCutOff},
		{"two servers of three are stopped", majorityStopped},
		{"a node cut off from the servers", nodeCutOff},
		{"one direction is cut", oneWayCuts},
		{"a link flaps", linkFlaps},
		{"a frozen agent", agentFrozen},
		{"many nodes fall silent at once", massSilence},
		{"all nodes are cut off from all servers", everythingCutOff},
		{"disks are full", disksFull},
		{"all servers are gone, certificates run out, nodes lose power", serversGone},
		{"a node comes back with what it had long ago", staleNode},
		{"stamps are purged while their node is away", purgedAway},
		{"a node is removed", nodeRemoved},
		{"servers are removed down to one", serversRemoved},
	} {
		f.run(t, fault.name, fault.test)
	}
}

// run runs a test of the farm: what fails, fails there.
func (f *trio) run(t *testing.T, name string, test func(*testing.T, *trio)) {
	of := func(t *testing.T) {
		f.T = t
		for _, m := range f.machines {
			m.T = t
		}
	}
	t.Run(name, func(t *testing.T) {
		of(t)
		test(t, f)
	})
	of(t)
}

func anyWillDo(t *testing.T, f *trio) {
	body := strings.Repeat("x", 100<<10)
	for _, n := range f.nodes { // with a body, and the client's address as it was
		req, _ := http.NewRequest(http.MethodPost, "http://"+n.HTTP+"/headers", strings.NewReader(body))
		req.Host = "acme.localhost"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("POST at %s: %s", n.Name, resp.Status)
		}
	}
	for _, s := range f.servers {
		if out := s.Run("stamp", "exec", "acme", "web", "--", "/probe", "get", "http://127.0.0.1:8080/health"); strings.Contains(out, "bulkhead:") {
			t.Errorf("exec by %s: %s", s.Name, out)
		}
		s.Run("stamp", "logs", "acme", "--tail", "1")
	}
}

func nodeRemoved(t *testing.T, f *trio) {
	s1, n3 := f.servers[0], f.nodes[2]
	f.on("umbrella", "plain", n3)
	if out, code := s1.Try("node", "remove", "n3"); code != 4 || !strings.Contains(out, "cordon") {
		t.Errorf("removal of a node with stamps: exit code %d, %s", code, out)
	}
	s1.Run("node", "cordon", "n3")
	if out, code := s1.Try("node", "remove", f.nodeOf("globex").Name); code != 4 || !strings.Contains(out, "globex") {
		t.Errorf("removal of a node with data: exit code %d, %s", code, out)
	}
	s1.Run("node", "remove", "n3")
	s1.Until(20*time.Second, "umbrella is elsewhere", func() error {
		if s := s1.Stamp("umbrella"); s.Node == "n3" || s.Phase != bulkhead.PhaseRunning {
			return fmt.Errorf("%s on %s", s.Phase, s.Node)
		}
		return nil
	})
	n3.Until(20*time.Second, "n3 runs nothing any more", func() error {
		if tasks := n3.tasks(); len(tasks) > 0 {
			return fmt.Errorf("it runs %v", tasks)
		}
		return nil
	})
	n3.Stop()
	n3.Start()
	n3.Until(20*time.Second, "n3 is told that it was removed", func() error {
		if log := n3.Log(); strings.Count(log, "this node was removed from the farm") < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if _, ok := s1.Nodes()["n3"]; ok {
		t.Error("n3 is back")
	}
}

func serversRemoved(t *testing.T, f *trio) {
	s1, s2, s3 := f.servers[0], f.servers[1], f.servers[2]
	s1.Run("server", "remove", "s3")
	s1.Until(20*time.Second, "s3 has ended", func() error {
		if syscall.Kill(s3.Pid(), 0) == nil {
			return errors.New("it lives")
		}
		return nil
	})
	s2.Kill()
	if out, code := s1.Try("server", "remove", "s1"); code != 5 || !strings.Contains(out, "no majority") {
		t.Errorf("removal of the server that is left: exit code %d, %s", code, out)
	}
	f.again(s2)
	s1.Until(30*time.Second, "s2 is back", func() error {
		if s := s1.Servers()["s2"]; s.State != "ready" {
			return errors.New(s.State)
		}
		return nil
	})
	s1.Run("server", "remove", "s2")
	if out, code := s1.Try("server", "remove", "s1"); code != 4 || !strings.Contains(out, "the only server") {
		t.Errorf("removal of the only server: exit code %d, %s", code, out)
	}
	s1.Run("stamp", "update", "initech", "--no-wait", "--label", "servers=one")
}

func events(m *Machine) (out []bulkhead.Event) {
	m.T.Helper()
	text := m.Run("events", "-o", "json")
	for line := range strings.SplitSeq(text, "\n") {
		var e bulkhead.Event
		if json.Unmarshal([]byte(line), &e) == nil {
			out = append(out, e)
		}
	}
	return out
}
