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
	"sync"
	"syscall"
	"testing"
	"time"

	"bulkhead"
)

// lostAfter is short, so that a test need not wait a minute for a node to be lost.
const lostAfter = 12 * time.Second

// trials is how often faults are repeated that need many to say something about
// the slowest: few where every commit is tested, BULKHEAD_TEST_TRIALS elsewhere.
func trials(few int) int {
	if n, err := strconv.Atoi(os.Getenv("BULKHEAD_TEST_TRIALS")); err == nil && n > 0 {
		return n
	}
	return few
}

// threeAndThree is a farm of three servers and three nodes. Certificates live for
// a minute, so that every test renews some.
func threeAndThree(t *testing.T) (f *Farm, servers, nodes []*Machine) {
	t.Helper()
	f = NewFarm(t)
	for i := range 3 {
		s := f.Machine(fmt.Sprintf("s%d", i+1), "server", "--lost-after", lostAfter.String(), "--certificate-life", "1m")
		flags := []string{"--api", s.API, "--advertise", s.IP}
		if i > 0 {
			token := servers[0].Token("server")
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
		servers = append(servers, s)
	}
	for i := range 3 {
		n := f.Machine(fmt.Sprintf("n%d", i+1), "agent", "--containerd", "private", "--region", "eu", "--label", "disk=ssd")
		token := servers[i].Token("node")
		n.Start("--join", token.Join, "--token", token.Token)
		nodes = append(nodes, n)
	}
	ready(t, servers[0], "n1", "n2", "n3")
	return f, servers, nodes
}

// ready waits until the nodes are.
func ready(t *testing.T, s *Machine, names ...string) {
	t.Helper()
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

// on makes a stamp on that node and no other.
func on(s *Machine, stamp, product, node string) {
	s.T.Helper()
	var others []string
	for name := range s.Nodes() {
		if name != node {
			others = append(others, name)
			s.Run("node", "cordon", name)
		}
	}
	s.Run("stamp", "create", stamp, "--product", product)
	for _, name := range others {
		s.Run("node", "uncordon", name)
	}
	if got := s.Stamp(stamp).Node; string(got) != node {
		s.T.Fatalf("%s is on %q, not on %s", stamp, got, node)
	}
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
// that docs/reliability.md lists. It takes about four minutes, most of them waiting
// for leases and certificates to run out.
func TestFarm(t *testing.T) {
	if os.Getenv("BULKHEAD_TEST_BINARY") != "" {
		t.Skip("six machines are too many for an emulated one")
	}
	_, servers, nodes := threeAndThree(t)
	s1, s2, s3 := servers[0], servers[1], servers[2]
	n1, n2, n3 := nodes[0], nodes[1], nodes[2]
	s1.Publish("plain", plainProduct)
	s2.Publish("keeper", keeperProduct)
	on(s3, "acme", "plain", "n2")
	on(s1, "globex", "keeper", "n2")
	on(s2, "initech", "plain", "n1")

	t.Run("every gateway serves every stamp", func(t *testing.T) {
		for _, n := range nodes {
			for _, stamp := range []string{"acme", "globex", "initech"} {
				n.Until(5*time.Second, stamp+" at "+n.Name, func() error { _, err := n.Get(stamp, "/"); return err })
			}
		}
		body := strings.Repeat("x", 100<<10)
		for _, n := range nodes { // with a body, and the client's address as it was
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
	})

	t.Run("any server answers for any node", func(t *testing.T) {
		for _, s := range servers {
			if out := s.Run("stamp", "exec", "acme", "web", "--", "/probe", "get", "http://127.0.0.1:8080/health"); strings.Contains(out, "bulkhead:") {
				t.Errorf("exec by %s: %s", s.Name, out)
			}
			s.Run("stamp", "logs", "acme", "--tail", "1")
		}
	})

	t.Run("wrong input", func(t *testing.T) { wrongFarmInput(t, servers, nodes) })

	t.Run("the leader dies", func(t *testing.T) {
		w := Watch(nodes, "acme", "globex", "initech")
		var pauses []time.Duration
		for i := range trials(3) {
			var leader *Machine
			var rest []*Machine
			s1.Until(20*time.Second, "three servers and a leader", func() error {
				leader, rest = nil, nil
				for name, view := range s1.Servers() {
					m := servers[slices.IndexFunc(servers, func(m *Machine) bool { return m.Name == name })]
					if view.State != "ready" {
						return fmt.Errorf("%s is %s", name, view.State)
					}
					if view.Leader {
						leader = m
					} else {
						rest = append(rest, m)
					}
				}
				if leader == nil {
					return errors.New("nobody leads")
				}
				return nil
			})
			// One fault at a time: a server that has just come back takes a moment to follow.
			time.Sleep(3 * time.Second)
			rest[0].Run("stamp", "update", "initech", "--no-wait", "--dry-run", "--label", "trial=x") // so that the client knows all servers
			leader.Kill()
			began := time.Now()
			rest[0].Run("stamp", "update", "initech", "--no-wait", "--label", fmt.Sprintf("trial=%d", i))
			pauses = append(pauses, time.Since(began))
			if got := rest[1].Stamp("initech").Labels["trial"]; got != fmt.Sprint(i) {
				t.Errorf("an acknowledged change is lost: trial is %q, want %d", got, i)
			}
			leader.Start("--api", leader.API, "--advertise", leader.IP)
		}
		slices.Sort(pauses)
		t.Logf("pause of writes after kill -9 of the leader, %d trials: median %v, slowest %v", len(pauses), pauses[len(pauses)/2].Round(time.Millisecond), pauses[len(pauses)-1].Round(time.Millisecond))
		// A handful says nothing of the hundredth: of few the median has to hold.
		judged := pauses[len(pauses)/2]
		if len(pauses) >= 50 {
			judged = pauses[len(pauses)*99/100]
		}
		if judged > 3*time.Second*patience() {
			t.Errorf("of %d pauses the one that counts is %v", len(pauses), judged)
		}
		ready(t, s1, "n1", "n2", "n3")
		w.Expect(t, "with leaders dying")
	})

	t.Run("a node cut off from the servers", func(t *testing.T) {
		w := Watch(nodes, "acme", "globex", "initech")
		n2.Cut("both", servers...)
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
		ready(t, s1, "n1", "n2", "n3")
		n2.Until(20*time.Second, "n2 has ended its old acme and kept globex", func() error {
			if tasks := n2.tasks(); tasks["acme"] || !tasks["globex"] {
				return fmt.Errorf("it runs %v", tasks)
			}
			return nil
		})
		w.Expect(t, "with a node cut off from all servers")
	})

	t.Run("a node that hears the servers and is not heard", func(t *testing.T) {
		w := Watch(nodes, "acme", "globex", "initech")
		where := s1.Stamp("globex").Node
		n2.Cut("out", servers...)
		s1.Until(25*time.Second, "n2 is unreachable", func() error {
			if n := s1.Nodes()["n2"]; n.State == bulkhead.NodeReady {
				return errors.New("it is ready")
			}
			return nil
		})
		n2.Heal()
		ready(t, s1, "n1", "n2", "n3")
		if got := s1.Stamp("globex").Node; got != where {
			t.Errorf("globex went from %s to %s", where, got)
		}
		w.Expect(t, "with a one-way cut")
	})

	t.Run("a frozen agent", func(t *testing.T) {
		n2.Signal(syscall.SIGSTOP)  // its gateway, too
		time.Sleep(5 * time.Second) // shorter than the lease: nothing may follow
		n2.Signal(syscall.SIGCONT)
		ready(t, s1, "n1", "n2", "n3")
		for _, e := range events(s1) {
			if e.Type == "node.lost" && e.Node == "n2" && time.Since(e.Time) < 8*time.Second {
				t.Error("a pause of 5 s lost the node")
			}
		}
	})

	t.Run("many nodes fall silent at once", func(t *testing.T) {
		w := Watch(nodes, "acme", "globex", "initech")
		before := map[string]bulkhead.NodeName{}
		for _, name := range []string{"acme", "globex", "initech"} {
			before[name] = s1.Stamp(name).Node
		}
		var cuts sync.WaitGroup
		for _, n := range []*Machine{n1, n2} {
			cuts.Go(func() { n.Cut("both", servers...) })
		}
		cuts.Wait()
		s1.Until(20*time.Second, "the alarm is raised", func() error {
			if out := s1.Run("status"); !strings.Contains(out, "silent at once") {
				return errors.New(out)
			}
			return nil
		})
		end := time.Now().Add(lostAfter + 3*time.Second)
		for time.Now().Before(end) { // nothing may happen: that takes time to see
			for name, node := range before {
				if got := s1.Stamp(name).Node; got != node {
					t.Fatalf("%s went from %s to %s while everything was frozen", name, node, got)
				}
			}
			time.Sleep(time.Second)
		}
		n1.Heal()
		n2.Heal()
		ready(t, s1, "n1", "n2", "n3")
		s1.Until(10*time.Second, "the alarm ends", func() error {
			if out := s1.Run("status"); strings.Contains(out, "silent at once") {
				return errors.New(out)
			}
			return nil
		})
		w.Expect(t, "with two of three nodes silent")
	})

	t.Run("two servers of three are stopped", func(t *testing.T) {
		w := Watch(nodes, "acme", "globex", "initech")
		for _, s := range []*Machine{s2, s3} {
			s.Signal(syscall.SIGSTOP)
		}
		began := time.Now()
		out, code := s1.Try("stamp", "update", "initech", "--no-wait", "--label", "quorum=no")
		if code == 0 || !strings.Contains(out, "no majority of the servers answers") {
			t.Errorf("a change without majority: exit code %d, %s", code, out)
		}
		if out, code := s1.Try("stamp", "list"); code != 0 || !strings.Contains(out, "initech") {
			t.Errorf("reading without majority: exit code %d, %s", code, out)
		}
		t.Logf("refused after %v", time.Since(began).Round(time.Millisecond))
		for _, s := range []*Machine{s2, s3} {
			s.Signal(syscall.SIGCONT)
		}
		began = time.Now()
		s1.Run("stamp", "update", "initech", "--no-wait", "--label", "quorum=yes")
		t.Logf("changes again %v after they went on", time.Since(began).Round(time.Millisecond))
		ready(t, s1, "n1", "n2", "n3")
		w.Expect(t, "without a majority of servers")
	})

	t.Run("all servers are gone, certificates run out, nodes restart", func(t *testing.T) {
		w := Watch([]*Machine{n3}, "acme", "globex", "initech")
		for _, s := range servers {
			s.Kill()
		}
		dead := time.Now()
		n1.Kill()
		n1.Start()
		for _, stamp := range []string{"acme", "globex", "initech"} {
			n1.Until(30*time.Second, stamp+" at n1, which has restarted", func() error { _, err := n1.Get(stamp, "/"); return err })
		}
		time.Sleep(time.Until(dead.Add(75 * time.Second))) // certificates live for a minute
		for _, n := range nodes {
			for _, stamp := range []string{"acme", "globex", "initech"} {
				if _, err := n.Get(stamp, "/"); err != nil {
					t.Errorf("with expired certificates, %s at %s: %v", stamp, n.Name, err)
				}
			}
		}
		_, failures := w.End()
		for _, f := range failures {
			if !strings.Contains(f, "initech") { // is on n1, which was killed and restarted
				t.Errorf("without servers: %s", f)
			}
		}
		for _, s := range servers {
			s.Start("--api", s.API, "--advertise", s.IP)
		}
		ready(t, s1, "n1", "n2", "n3")
		on(s1, "umbrella", "plain", "n3")
		for _, n := range nodes {
			n.Until(5*time.Second, "umbrella at "+n.Name, func() error { _, err := n.Get("umbrella", "/"); return err })
		}
	})

	t.Run("a node is removed", func(t *testing.T) {
		if out, code := s1.Try("node", "remove", "n3"); code != 4 || !strings.Contains(out, "cordon") {
			t.Errorf("removal of a node with stamps: exit code %d, %s", code, out)
		}
		s1.Run("node", "cordon", "n3")
		if out, code := s1.Try("node", "remove", "n2"); code != 4 || !strings.Contains(out, "globex") {
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
	})

	t.Run("servers are removed down to one", func(t *testing.T) {
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
		s2.Start("--api", s2.API, "--advertise", s2.IP)
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
	})
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

// wrongFarmInput: one line each, and nothing is changed by it.
func wrongFarmInput(t *testing.T, servers, nodes []*Machine) {
	f, s1 := nodes[0].farm, servers[0]
	stranger := f.Machine("x1", "agent", "--containerd", "private")
	before := s1.Run("node", "list", "-o", "json") + s1.Run("server", "list", "-o", "json")
	used := s1.Token("node")
	revoked, server := s1.Token("node"), s1.Token("server")
	s1.Run("token", "revoke", revoked.ID)
	short := s1.Token("node", "--valid", "1s")
	time.Sleep(1100 * time.Millisecond) // that long it is valid
	good := s1.Token("node")

	lines := func(what, want string, args ...string) {
		t.Helper()
		out, code := stranger.Try(append(slices.Clone(stranger.args), args...)...)
		out = strings.TrimSpace(out)
		first, rest, _ := strings.Cut(out[strings.Index(out+"\nbulkhead: ", "bulkhead: "):], "\n")
		if code == 0 || !strings.Contains(first, want) || rest != "" && !strings.HasPrefix(rest, "hint: ") {
			t.Errorf("%s: exit code %d, %q is not in\n%s", what, code, want, out)
		}
	}
	join := []string{"--join", good.Join}
	with := func(token string, more ...string) []string {
		return append(append(slices.Clone(join), "--token", token), more...)
	}
	lines("no token", "joining needs a token", join...)
	lines("no farm", "an agent needs a farm to join")
	lines("an operator's token", "operator's token", with("bh_x")...)
	lines("half a token", "no token for joining", with(good.Token[:40])...)
	lines("a revoked token", "not known here", with(revoked.Token)...)
	lines("a token that ran out", "ran out", with(short.Token)...)
	lines("a server's token", "is for a server", with(server.Token)...)
	lines("a name that is taken", "a node n1 is in the farm already", with(good.Token, "--node", "n1")...)
	lines("a label that is none", "is not NAME=VALUE", with(good.Token, "--label", "ssd")...)
	lines("a region that is none", "region", with(good.Token, "--region", "eu west")...)
	lines("no server there", "no server answers", "--join", f.net+".99:7071", "--token", good.Token)
	lines("the wrong port", "no server answers", "--join", s1.IP+":7079", "--token", good.Token)

	other := New(t) // another farm
	other.Up("--advertise", f.net+".254", "--node-api", f.net+".254:7171", "--peer", f.net+".254:7172", "--hop", f.net+".254:7173")
	lines("a server of another farm", "of another farm than the token", "--join", f.net+".254:7171", "--token", good.Token)

	// A token works once: the second machine is refused.
	second := f.Machine("x2", "agent", "--containerd", "private")
	second.Start("--join", used.Join, "--token", used.Token)
	ready(t, s1, "x2")
	lines("a used token", "was used already, by x2", with(used.Token)...)
	second.Stop()
	s1.Run("node", "remove", "x2")
	if after := s1.Run("node", "list", "-o", "json") + s1.Run("server", "list", "-o", "json"); after != before {
		t.Errorf("wrong input changed something:\n%s\nwas\n%s", after, before)
	}
	if out, code := s1.Try("token", "revoke", "nothere"); code != 3 {
		t.Errorf("revoking nothing: exit code %d, %s", code, out)
	}
}
