package clustertest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/api"
)

// Writer writes to a stamp, 50 times a second through one gateway after the other, as
// its users would: whether an earlier one has been answered or not.
type Writer struct {
	stop chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex    // guards what follows
	written  []int         // acknowledged
	failures []string      // of any request
	slowest  time.Duration // answer
}

// Write begins to write lines to a file of a stamp.
func Write(gateways []*Machine, stamp, path string) *Writer {
	return begin(gateways, func(client *http.Client, g *Machine, n int) error { return write(client, g, stamp, path, n) })
}

// begin begins to make requests.
func begin(gateways []*Machine, request func(client *http.Client, gateway *Machine, n int) error) *Writer {
	w := &Writer{stop: make(chan struct{})}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	w.done.Go(func() {
		defer client.CloseIdleConnections()
		var under sync.WaitGroup
		defer under.Wait()
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			case <-t.C:
			}
			g := gateways[i%len(gateways)]
			under.Go(func() {
				began := time.Now()
				err := request(client, g, i)
				took := time.Since(began)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.slowest = max(w.slowest, took)
				if err != nil {
					w.failures = append(w.failures, fmt.Sprintf("%d at %s, %s after %s: %v", i, g.Name, began.Format("15:04:05.000"), took.Round(time.Millisecond), err))
				} else {
					w.written = append(w.written, i)
				}
			})
		}
	})
	return w
}

// poke changes a place somewhere in a file of that size.
func poke(client *http.Client, gateway *Machine, stamp, path string, n int, size int64) error {
	at := (int64(n) * 7919 << 12) % size
	return get(client, gateway, stamp, fmt.Sprintf("/poke?path=%s&at=%d&text=%d", url.QueryEscape(path), at, n))
}

func get(client *http.Client, gateway *Machine, stamp, path string) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+gateway.HTTP+path, nil)
	if err != nil {
		return err
	}
	return do(client, req, stamp)
}

// write appends a line; every other request has a body, which a gateway that holds it
// must keep whole.
func write(client *http.Client, gateway *Machine, stamp, path string, n int) error {
	var body io.Reader
	method := http.MethodGet
	if n%2 == 1 {
		method, body = http.MethodPost, strings.NewReader(strings.Repeat("x", 10<<10))
	}
	req, err := http.NewRequest(method, fmt.Sprintf("http://%s/write?path=%s&text=%s", gateway.HTTP, url.QueryEscape(path), url.QueryEscape(fmt.Sprintln(n))), body)
	if err != nil {
		return err
	}
	return do(client, req, stamp)
}

func do(client *http.Client, req *http.Request, stamp string) error {
	req.Host = stamp + ".localhost"
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %.100s", resp.Status, text)
	}
	return nil
}

// Slowest is the slowest answer since it was last asked.
func (w *Writer) Slowest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	slowest := w.slowest
	w.slowest = 0
	return slowest
}

// Expect ends the writing, and fails the test when a request failed or when what was
// acknowledged is not in the file.
func (w *Writer) Expect(t testing.TB, m *Machine, stamp, path, what string) {
	t.Helper()
	w.Kept(t, m, stamp, path, what)
	if len(w.failures) > 0 {
		t.Errorf("%s: %d requests failed:\n%s", what, len(w.failures), strings.Join(w.failures[:min(len(w.failures), 10)], "\n"))
	}
}

// Kept ends the writing, and fails the test when what was acknowledged is not in the
// file.
func (w *Writer) Kept(t testing.TB, m *Machine, stamp, path, what string) {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	got := map[int]bool{}
	for line := range strings.SplitSeq(m.MustGet(stamp, "/read?path="+url.QueryEscape(path)), "\n") {
		if n, err := strconv.Atoi(line); err == nil {
			got[n] = true
		}
	}
	var lost []int
	for _, n := range w.written {
		if !got[n] {
			lost = append(lost, n)
		}
	}
	t.Logf("%s: %d writes acknowledged, %d lost; %d requests failed", what, len(w.written), len(lost), len(w.failures))
	if len(lost) > 0 || len(w.written) == 0 {
		t.Errorf("%s: acknowledged writes are lost: %v", what, lost[:min(len(lost), 20)])
	}
}

// blob writes a file of random content into the volume of a stamp of the keeper product.
func (m *Machine) blob(s api.Stamp, name string, size int64) {
	m.T.Helper()
	f, err := os.Create(filepath.Join(m.Data(), "volumes", "stamps", string(s.Name)+"."+s.UID, "data", "_data", name))
	if err != nil {
		m.T.Fatal(err)
	}
	source := rand.NewChaCha8([32]byte{1})
	if _, err := io.CopyN(f, source, size); err != nil {
		m.T.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		m.T.Fatal(err)
	}
}

// oneWriter looks all the time whether a stamp's tasks run at more than one node, until
// the returned function is called.
func (f *trio) oneWriter(stamp string) (end func()) {
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(25 * time.Millisecond):
			}
			var at []string
			for _, n := range f.nodes {
				if n.tasks()[bulkhead.StampName(stamp)] {
					at = append(at, n.Name)
				}
			}
			if len(at) > 1 {
				f.T.Errorf("%s runs at %v at the same time", stamp, at)
				return
			}
		}
	})
	return func() { close(stop); done.Wait() }
}

// killed is who is killed in the middle of a move, and when.
type killed struct {
	who   string // from, to or leader
	phase bulkhead.TransferPhase
}

// moveThroughKills kills whoever takes part in a move at each of its steps: it goes on,
// or the stamp stays where it is; either way it runs in one place, with all that was
// acknowledged.
func moveThroughKills(t *testing.T, f *trio) {
	n1 := f.nodes[0]
	f.nodeOf("globex").blob(f.servers[0].Stamp("globex"), "blob", 150<<20)
	end := f.oneWriter("globex")
	defer end()
	path := "/data/killed"
	w := Write(f.nodes, "globex", path)
	kills := []killed{
		{"from", bulkhead.TransferCopying},
		{"to", bulkhead.TransferCopying},
		{"leader", bulkhead.TransferCopying},
		{"from", bulkhead.TransferSwitching},
		{"to", bulkhead.TransferSwitching},
		{"leader", bulkhead.TransferSwitching},
		{"from", bulkhead.TransferStarting},
		{"to", bulkhead.TransferStarting},
		{"leader", bulkhead.TransferStarting},
	}
	for i := range trials(len(kills), 1000) {
		k := kills[i%len(kills)]
		leader, others := f.leader()
		from, to := f.between()
		victim := map[string]*Machine{"from": from, "to": to, "leader": leader}[k.who]
		client := others[0].Client(others[1])
		began := time.Now()
		seen := f.began(client, to, k.phase)
		victim.Kill()
		if k.who == "leader" {
			f.again(victim)
		} else {
			victim.Start()
		}
		var last api.Stamp
		others[0].Until(2*time.Minute, "the move is over and globex runs", func() error {
			s, err := client.Stamp(t.Context(), "globex")
			if last = s; err != nil || s.Move.Ended == nil || s.Phase != bulkhead.PhaseRunning {
				return fmt.Errorf("%s %+v %w", s.Phase, s.Move, err)
			}
			return nil
		})
		f.serve(20*time.Second, f.nodes, "globex")
		t.Logf("%s killed while %s (seen %t): at %s after %v, given up: %q, held for %d ms", k.who, k.phase, seen, last.Node,
			time.Since(began).Round(time.Millisecond), last.Move.Message, last.Move.HeldMS)
		f.ready()
	}
	w.Kept(t, n1, "globex", path, "killed while it moves")
}

// Move moves a stamp and waits for the end.
func (m *Machine) Move(stamp, to string) api.StampMove {
	m.T.Helper()
	var s api.Stamp
	m.Read(&s, "stamp", "move", stamp, "--to", to)
	if s.Move == nil || s.Move.Ended == nil || s.Move.GivenUp || string(s.Node) != to {
		m.T.Fatalf("moved to %s: %+v", to, s)
	}
	return *s.Move
}

// TestMove moves a stamp with data to and fro while it is written to, kills whoever
// takes part, and drains a node.
func TestMove(t *testing.T) {
	if os.Getenv("BULKHEAD_TEST_BINARY") != "" {
		t.Skip("six machines are too many for an emulated one")
	}
	f := newTrio(t)
	s1, n1, nodes := f.servers[0], f.nodes[0], f.nodes
	s1.Publish("plain", plainProduct)
	s1.Publish("keeper", keeperProduct)
	f.on("acme", "plain", n1)
	f.on("globex", "keeper", n1)
	f.serve(10*time.Second, nodes, "acme", "globex")

	f.run(t, "there and back", movedAndBack)
	f.run(t, "killed in the middle", moveThroughKills)
	f.run(t, "paused in the middle", moveThroughPauses)
	f.run(t, "cut off in the middle", moveThroughCuts)
	f.run(t, "no room", moveToFullDisk)
	f.run(t, "a node is drained", drained)
	f.run(t, "wrong input", wrongMoves)
}

// movedAndBack moves a stamp with data and one without while both are used.
func movedAndBack(t *testing.T, f *trio) {
	s1, nodes := f.servers[0], f.nodes
	w := Write(nodes, "globex", "/data/there")
	watch := Watch(nodes, "acme")
	for _, to := range []string{"n2", "n3", "n1"} {
		w.Slowest()
		m := s1.Move("globex", to)
		t.Logf("globex to %s in %v: %d bytes in %d passes, held for %d ms; slowest answer %v",
			to, m.Ended.Sub(m.Began).Round(time.Millisecond), m.Bytes, m.Passes, m.HeldMS, w.Slowest().Round(time.Millisecond))
		m = s1.Move("acme", to)
		t.Logf("acme to %s in %v: held for %d ms", to, m.Ended.Sub(m.Began).Round(time.Millisecond), m.HeldMS)
	}
	watch.Expect(t, "a stamp without data moves")
	w.Expect(t, nodes[1], "globex", "/data/there", "a stamp with data moves")
	if got := s1.Stamp("globex").Node; got != "n1" {
		t.Errorf("it is on %s", got)
	}
}

// between are the node that globex is on, and n1 or n2 to move it to.
func (f *trio) between() (from, to *Machine) {
	f.T.Helper()
	if from = f.nodeOf("globex"); from == f.nodes[1] {
		return from, f.nodes[0]
	}
	return from, f.nodes[1]
}

// began moves globex and waits until that has come to a phase; false: it ended before
// anybody saw it there.
func (f *trio) began(client *api.Client, to *Machine, phase bulkhead.TransferPhase) bool {
	f.T.Helper()
	if _, err := client.MoveStamp(f.T.Context(), "globex", to.Name); err != nil {
		f.T.Fatal(err)
	}
	for {
		s, err := client.Stamp(f.T.Context(), "globex")
		switch {
		case err != nil:
			f.T.Fatal(err)
		case s.Move.Ended != nil:
			return false
		case s.Move.Phase == phase:
			return true
		}
	}
}

// ended waits for the end of the move of globex.
func (f *trio) ended(client *api.Client) (s api.Stamp) {
	f.T.Helper()
	f.servers[0].Until(2*time.Minute, "the move is over and globex runs", func() (err error) {
		if s, err = client.Stamp(f.T.Context(), "globex"); err != nil || s.Move.Ended == nil || s.Phase != bulkhead.PhaseRunning {
			return fmt.Errorf("%s %+v %w", s.Phase, s.Move, err)
		}
		return nil
	})
	return s
}

// moveThroughCuts cuts the node that a stamp moves to off from everybody: the stamp stays
// where it is, or is there again.
func moveThroughCuts(t *testing.T, f *trio) {
	client := f.servers[0].Client(f.servers[1:]...)
	for _, phase := range []bulkhead.TransferPhase{bulkhead.TransferCopying, bulkhead.TransferSwitching} {
		tries := 1
		for !f.cutWhile(client, phase) {
			if tries++; tries > 10 {
				t.Fatalf("ten times the move was past %s before the cut", phase)
			}
		}
	}
}

// cutWhile moves globex and cuts the other node off in a phase of the move. It returns
// false when the move had gone on before the cut: then the stamp is there.
func (f *trio) cutWhile(client *api.Client, phase bulkhead.TransferPhase) bool {
	f.T.Helper()
	from, to := f.between()
	defer f.oneWriter("globex")()
	path := fmt.Sprintf("/data/cut-%s-%s", phase, from.Name)
	w := Write([]*Machine{from, f.nodes[2]}, "globex", path)
	f.began(client, to, phase) // or it has ended: then the cut is too late
	to.Cut("both", append(slices.Clone(f.servers), from, f.nodes[2])...)
	var s api.Stamp
	f.servers[0].Until(2*time.Minute, "the move is given up or has gone on", func() (err error) {
		if s, err = client.Stamp(f.T.Context(), "globex"); err != nil || s.Move.Ended == nil && s.Move.Phase == phase {
			return fmt.Errorf("%+v %w", s.Move, err)
		}
		return nil
	})
	if !s.Move.GivenUp {
		to.Heal()
		f.ready()
		f.ended(client)
		w.Kept(f.T, f.nodeOf("globex"), "globex", path, "cut off too late")
		return false
	}
	s = f.ended(client)
	if string(s.Node) != from.Name || !s.Move.GivenUp {
		f.T.Errorf("cut off while %s: on %s, %+v", phase, s.Node, s.Move)
	}
	f.T.Logf("cut off while %s: given up after %v (%s), held for %d ms", phase, s.Move.Ended.Sub(s.Move.Began).Round(time.Millisecond), s.Move.Message, s.Move.HeldMS)
	to.Heal()
	f.ready()
	w.Expect(f.T, from, "globex", path, fmt.Sprintf("cut off while %s", phase))
	return true
}

// moveToFullDisk moves more than the other node's disk has room for: the stamp stays
// where it is, and that disk is not filled.
func moveToFullDisk(t *testing.T, f *trio) {
	from, n3 := f.nodeOf("globex"), f.nodes[2]
	s1 := f.servers[0]
	from.blob(s1.Stamp("globex"), "large", nodeDisk)
	w := Write(f.nodes, "globex", "/data/full")
	out, code := s1.Try("stamp", "move", "globex", "--to", n3.Name)
	if code == 0 || !strings.Contains(out, "its data takes") || !strings.Contains(out, "stays on "+from.Name) {
		t.Errorf("exit code %d, %s", code, out)
	}
	w.Expect(t, from, "globex", "/data/full", "moved to a disk without room")
	if n := s1.Nodes()[n3.Name]; n.Full {
		t.Error("the disk is full now")
	}
	large := filepath.Join(from.Data(), "volumes", "stamps", "globex."+s1.Stamp("globex").UID, "data", "_data", "large")
	if err := os.Remove(large); err != nil {
		t.Fatal(err)
	}
}

// drained empties a node of several stamps while they are used, and lets it take some
// again.
func drained(t *testing.T, f *trio) {
	s1, n2 := f.servers[0], f.nodes[1]
	stamps := []string{"kilo", "lima", "mike", "november"}
	for i, name := range stamps {
		f.on(name, []string{"plain", "keeper"}[i%2], n2)
	}
	f.serve(10*time.Second, f.nodes, stamps...)
	watch, w := Watch(f.nodes, "kilo", "mike"), Write(f.nodes, "lima", "/data/drained")
	began := time.Now()
	out := s1.Run("node", "drain", "n2")
	t.Logf("drained in %v:\n%s", time.Since(began).Round(time.Millisecond), out)
	for _, name := range stamps {
		if !strings.Contains(out, "stamp "+name+" moved from n2 to n") {
			t.Errorf("the move of %s is not told", name)
		}
		if got := s1.Stamp(name).Node; got == "n2" {
			t.Errorf("%s is still there", name)
		}
	}
	if tasks := n2.tasks(); len(tasks) > 0 {
		t.Errorf("it runs %v", tasks)
	}
	watch.Expect(t, "a node is drained")
	w.Expect(t, f.nodes[0], "lima", "/data/drained", "a node is drained")
	s1.Run("stamp", "create", "oscar", "--product", "plain")
	if got := s1.Stamp("oscar").Node; got == "n2" {
		t.Error("a node that is drained is given a stamp")
	}
	if out := s1.Run("node", "list"); !strings.Contains(out, "draining") {
		t.Errorf("the list does not show it:\n%s", out)
	}
	s1.Run("node", "undrain", "n2")
	s1.Move("lima", "n2")
}

// wrongMoves are refused in one line each, and change nothing.
func wrongMoves(t *testing.T, f *trio) {
	s1 := f.servers[0]
	s1.Run("stamp", "create", "papa", "--product", "plain", "--constraint", "node.hostname==n2")
	f.serve(10*time.Second, f.nodes, "papa")
	s1.Run("node", "cordon", "n3")
	defer s1.Run("node", "uncordon", "n3")
	state := func() (out string) {
		for _, n := range s1.Nodes() {
			out += fmt.Sprintln(n.Name, n.Draining, n.Cordoned, n.Stamps)
		}
		return out
	}
	sorted := func(s string) string {
		lines := strings.Split(s, "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	before := sorted(state())
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"node", "drain", "n2"}, "node n2 cannot be drained: papa would have no place: no node is with node.hostname==n2"},
		{[]string{"node", "drain", "n9"}, "node n9 does not exist"},
		{[]string{"node", "undrain", "n9"}, "node n9 does not exist"},
		{[]string{"node", "drain"}, "NAME"},
		{[]string{"stamp", "move", "papa", "--to", "n9"}, "node n9 does not exist"},
		{[]string{"stamp", "move", "papa", "--to", "n2"}, "stamp papa is on n2 already"},
		{[]string{"stamp", "move", "papa", "--to", "n3"}, "node n3 is cordoned: it takes no stamps"},
		{[]string{"stamp", "move", "papa", "--to", "n1"}, "no node is with node.hostname==n2 with node.hostname==n1"},
		{[]string{"stamp", "move", "papa", "--to", "No Node"}, "is not a DNS label"},
		{[]string{"stamp", "move", "papa"}, "no node is with node.hostname==n2"},
		{[]string{"stamp", "move", "nobody"}, "stamp nobody does not exist"},
		{[]string{"stamp", "move", "papa", "--cancel"}, "stamp papa is not moving"},
		{[]string{"stamp", "move", "papa", "--cancel", "--to", "n1"}, "exclude each other"},
	} {
		out, code := s1.Try(c.args...)
		if code == 0 || !strings.Contains(out, c.want) || strings.Count(strings.TrimSpace(out), "\n") > 1 {
			t.Errorf("bulkhead %s: exit code %d, %s", strings.Join(c.args, " "), code, out)
		}
	}
	if after := sorted(state()); after != before {
		t.Errorf("something has changed:\n%s\n%s", before, after)
	}
}

// BenchmarkMove moves a stamp with 1 GiB of data, in which 50 requests a second change
// something, between two nodes. It prints the medians of how long requests were held, of
// the slowest answer, of the move as a whole, and of what was copied while the stamp
// stood still.
func BenchmarkMove(b *testing.B) {
	const size = 1 << 30
	f := newTrio(b)
	s1, n1 := f.servers[0], f.nodes[0]
	s1.Publish("keeper", keeperProduct)
	f.on("globex", "keeper", n1)
	f.serve(10*time.Second, f.nodes, "globex")
	n1.blob(s1.Stamp("globex"), "blob", size)
	if err := os.Chown(filepath.Join(n1.Data(), "volumes", "stamps", "globex."+s1.Stamp("globex").UID, "data", "_data", "blob"), 1000, 1000); err != nil {
		b.Fatal(err)
	}
	w := begin(f.nodes, func(client *http.Client, g *Machine, n int) error {
		return poke(client, g, "globex", "/data/blob", n, size)
	})
	var held, slowest, took []time.Duration
	for i := 0; b.Loop(); i++ {
		w.Slowest()
		m := s1.Move("globex", []string{"n2", "n1"}[i%2])
		held = append(held, time.Duration(m.HeldMS)*time.Millisecond)
		took = append(took, m.Ended.Sub(m.Began))
		slowest = append(slowest, w.Slowest())
		b.Logf("to %s: held for %v, slowest answer %v, in all %v, %d MiB in %d passes", m.To, held[i], slowest[i].Round(time.Millisecond), took[i].Round(time.Millisecond), m.Bytes>>20, m.Passes)
	}
	close(w.stop)
	w.done.Wait()
	if len(w.failures) > 0 {
		b.Errorf("%d requests of %d failed: %s", len(w.failures), len(w.written)+len(w.failures), w.failures[0])
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(quantile(held, 50).Milliseconds()), "held-ms")
	b.ReportMetric(float64(quantile(slowest, 50).Milliseconds()), "slowest-ms")
	b.ReportMetric(float64(slices.Max(slowest).Milliseconds()), "worst-ms")
	b.ReportMetric(float64(quantile(took, 50).Milliseconds()), "move-ms")
	b.ReportMetric(float64(len(w.written)), "requests")
}
