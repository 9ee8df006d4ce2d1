package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
)

// machine is a pretend node: it outlives the agents that run on it, as the
// kernel and the container engine do.
type machine struct {
	mu         sync.Mutex
	containers map[bulkhead.TaskID]*Observed
	started    int
	missing    map[string]bool   // images that cannot be had
	sick       map[string]string // services whose probe fails, with what
	listeners  []chan Exit
	data       map[string]bool   // volumes that exist
	kept       map[string]bool   // stamps whose data was set aside
	copies     map[string]string // by UID: the move that brought what is there
	names      map[string]int    // addresses behind each name
	nets       map[bulkhead.TaskID]Endpoint
	away       bool          // the container engine
	slow       time.Duration // of Remove
	calls      []string
	// fault, if set, is asked before and after every call that changes something.
	fault func(call string, id bulkhead.TaskID) error
	wrong []string // what must never happen and did
}

func newMachine() *machine {
	return &machine{
		containers: map[bulkhead.TaskID]*Observed{}, missing: map[string]bool{}, sick: map[string]string{},
		data: map[string]bool{}, kept: map[string]bool{}, copies: map[string]string{}, names: map[string]int{}, nets: map[bulkhead.TaskID]Endpoint{},
	}
}

func (m *machine) log(format string, args ...any) {
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

// trouble is the error of a call that the engine does not answer.
func (m *machine) trouble(call string, id bulkhead.TaskID) error {
	m.mu.Lock()
	fault := m.fault
	m.mu.Unlock()
	if fault != nil {
		if err := fault(call, id); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "the engine is away")
	}
	return nil
}

// breakBy lets calls fail as fault says.
func (m *machine) breakBy(fault func(call string, id bulkhead.TaskID) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// left are how many containers and endpoints there are.
func (m *machine) left() (containers, endpoints int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.containers), len(m.nets)
}

// leave takes the container engine away, or brings it back. Exits between are
// not told; that some may be missing is.
func (m *machine) leave(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away && !away {
		for _, l := range m.listeners {
			l <- Exit{}
		}
	}
	m.away = away
}

func (m *machine) Pull(ctx context.Context, image bulkhead.Image) error {
	if image.Reference == "hangs" {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := m.trouble("pull", ""); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.missing[image.Reference] {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "image %s is not in the registry", image.Reference)
	}
	return nil
}

func (m *machine) Prepare(_ context.Context, c Container) error {
	if err := m.trouble("prepare", c.ID); err != nil {
		return err
	}
	m.mu.Lock()
	m.log("prepare %s", c.ID.Name())
	m.containers[c.ID] = &Observed{ID: c.ID, Labels: c.Labels, State: bulkhead.TaskPrepared}
	m.mu.Unlock()
	if err := m.trouble("prepared", c.ID); err != nil { // a failed Prepare leaves nothing
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.containers, c.ID)
		return err
	}
	return nil
}

func (m *machine) Start(_ context.Context, id bulkhead.TaskID) error {
	if err := m.trouble("start", id); err != nil {
		return err
	}
	m.mu.Lock()
	m.log("start %s", id.Name())
	m.started++
	c := m.containers[id]
	if c == nil {
		m.mu.Unlock()
		return fmt.Errorf("no container %s", id)
	}
	if c.State == bulkhead.TaskPrepared {
		c.State = bulkhead.TaskRunning
	}
	for other, o := range m.containers {
		if other != id && other.Name() == id.Name() && o.State == bulkhead.TaskRunning && strings.Contains(id.Name(), ".db.") {
			m.wrong = append(m.wrong, fmt.Sprintf("%s runs beside %s", id, other))
		}
	}
	m.mu.Unlock()
	return m.trouble("started", id)
}

func (m *machine) Stop(_ context.Context, id bulkhead.TaskID, signal string, _ time.Duration) error {
	m.mu.Lock()
	m.log("stop %s with %s", id.Name(), signal)
	m.mu.Unlock()
	if err := m.trouble("stop", id); err != nil {
		return err
	}
	m.end(id, 0)
	return m.trouble("stopped", id)
}

// end lets a task's process end.
func (m *machine) end(id bulkhead.TaskID, code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	if c == nil || c.State.Ended() {
		return
	}
	c.State, c.ExitCode, c.Ended = bulkhead.TaskFailed, code, time.Now()
	if m.away {
		return // nobody tells
	}
	for _, l := range m.listeners {
		l <- Exit{ID: id, ExitCode: code, Time: time.Now()}
	}
}

func (m *machine) Remove(_ context.Context, id bulkhead.TaskID) error {
	time.Sleep(m.slow) // pretended time
	if err := m.trouble("remove", id); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.containers, id)
	m.mu.Unlock()
	return m.trouble("removed", id)
}

func (m *machine) List(context.Context) ([]Observed, error) {
	if err := m.trouble("list", ""); err != nil {
		return nil, err
	}
	return m.list(), nil
}

// list is by id, so that what a seed does depends on less.
func (m *machine) list() []Observed {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Observed
	for _, id := range slices.Sorted(maps.Keys(m.containers)) {
		out = append(out, *m.containers[id])
	}
	return out
}

func (m *machine) Exits(ctx context.Context) <-chan Exit {
	ch := make(chan Exit, 1000)
	m.mu.Lock()
	m.listeners = append(m.listeners, ch)
	ch <- Exit{} // from now on none is missed
	m.mu.Unlock()
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.listeners = slices.DeleteFunc(m.listeners, func(c chan Exit) bool { return c == ch })
	})
	return ch
}

func (m *machine) Exec(_ context.Context, id bulkhead.TaskID, e Exec) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return 0, bulkhead.Errorf(bulkhead.ErrUnavailable, "the engine is away")
	}
	service := strings.Split(string(id), ".")[1]
	if why := m.sick[service]; why != "" {
		io.WriteString(e.Stdout, why)
		return 1, nil
	}
	return 0, nil
}

func (m *machine) Ceiling(context.Context, bulkhead.StampName, bulkhead.Budget) error { return nil }
func (m *machine) Forget(context.Context, bulkhead.StampName) error                   { return nil }

// network is the machine's Network half; its Remove and List have other shapes.
type network struct{ *machine }

func (n network) Join(_ context.Context, _ bulkhead.StampName, task bulkhead.TaskID) (Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, ok := n.nets[task]
	if !ok {
		e = Endpoint{Task: task, Netns: "/netns/" + string(task), Address: netip.AddrFrom4([4]byte{10, 1, 0, byte(len(n.nets) + 2)}), Gateway: netip.MustParseAddr("10.1.0.1")}
		n.nets[task] = e
	}
	return e, nil
}

func (n network) Leave(_ context.Context, _ bulkhead.StampName, task bulkhead.TaskID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.nets, task)
	return nil
}

func (n network) Remove(context.Context, bulkhead.StampName) error { return n.trouble("raze", "") }

func (n network) Names(_ bulkhead.StampName, names []Name) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range names {
		n.names[name.Name] = len(name.Addresses)
	}
}

func (n network) List(context.Context) (map[bulkhead.StampName][]Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[bulkhead.StampName][]Endpoint{}
	for id, e := range n.nets {
		stamp, _, _ := cutTask(id)
		out[stamp] = append(out[stamp], e)
	}
	return out, nil
}

type volumes struct{ *machine }

func (v volumes) Create(s bulkhead.StampRef, name bulkhead.VolumeName) (string, bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.kept, s.UID)
	key := s.UID + "/" + string(name)
	fresh := !v.data[key]
	v.data[key] = true
	return "/volumes/" + key, fresh, nil
}

func (v volumes) Delete(s bulkhead.StampRef, purge bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kept[s.UID] = !purge
	return nil
}
func (v volumes) Restore(bulkhead.StampRef) error { return nil }

func (v volumes) Leave(s bulkhead.StampRef) error { return v.Delete(s, false) }

func (v volumes) Send(context.Context, io.ReadWriter, bulkhead.StampRef, bool) error { return nil }

func (v volumes) Fetch(context.Context, io.ReadWriter, bulkhead.StampRef, string, bool, func(int64)) (int64, int, error) {
	return 0, 0, nil
}

func (v volumes) Holds(s bulkhead.StampRef, move string) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.copies[s.UID] == move, nil
}

func (v volumes) Install(s bulkhead.StampRef, move string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.copies[s.UID] = move
	return nil
}

func (v volumes) Sweep(func(string) bool) error { return nil }

type outputs struct{ *machine }

func (o outputs) Open(_ bulkhead.StampName, _ bulkhead.ServiceName, task bulkhead.TaskID) (string, error) {
	return "/logs/" + string(task), nil
}
func (outputs) Close(bulkhead.TaskID) error     { return nil }
func (outputs) Delete(bulkhead.StampName) error { return nil }
func (outputs) Query(context.Context, bulkhead.LogQuery, func(bulkhead.LogLine) error) error {
	return nil
}

type bundles struct{}

func (bundles) Bundle(context.Context, bulkhead.Digest) (string, error) { return "/bundle", nil }

// server is the other end of the session: it hands out orders and remembers what
// it is told. It can be away.
type server struct {
	mu       sync.Mutex
	away     bool
	orders   []bulkhead.NodeOrder
	sessions []*session
	status   map[bulkhead.StampName]bulkhead.StampStatus
	events   []string
	purged   []bulkhead.StampRef
}

func (s *server) Connect(ctx context.Context, _ bulkhead.NodeReport) (Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, errors.New("connection refused")
	}
	x := &session{server: s, orders: make(chan bulkhead.NodeOrder, 100), done: make(chan struct{})}
	for _, o := range s.orders {
		x.orders <- o
	}
	s.sessions = append(s.sessions, x)
	return x, nil
}

func (s *server) order(o bulkhead.NodeOrder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders = append(s.orders, o)
	s.tellLocked(o)
}

func (s *server) tellLocked(o bulkhead.NodeOrder) {
	s.sessions = slices.DeleteFunc(s.sessions, func(x *session) bool {
		select {
		case <-x.done:
			return true
		default:
			x.orders <- o
			return false
		}
	})
}

// heard are all events, a line each.
func (s *server) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.events, "\n")
}

// leave takes the server away, or brings it back.
func (s *server) leave(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
	if away {
		for _, x := range s.sessions {
			x.Close()
		}
	}
}

func (s *server) of(name bulkhead.StampName) bulkhead.StampStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status[name]
}

// buried are the UIDs of the stamps of which nothing is left.
func (s *server) buried() (uids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range s.purged {
		uids = append(uids, ref.UID)
	}
	slices.Sort(uids)
	return uids
}

type session struct {
	server *server
	orders chan bulkhead.NodeOrder
	once   sync.Once
	done   chan struct{}
}

func (x *session) Receive() (bulkhead.NodeOrder, error) {
	select {
	case o := <-x.orders:
		return o, nil
	case <-x.done:
		return bulkhead.NodeOrder{}, io.EOF
	}
}

func (x *session) Send(r bulkhead.NodeReport) error {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	if r.Status != nil {
		x.server.status[r.Status.Name] = *r.Status
	}
	if r.Event != nil {
		x.server.events = append(x.server.events, r.Event.Type+": "+r.Event.Message)
	}
	if r.Purged != nil {
		x.server.purged = append(x.server.purged, *r.Purged)
	}
	return nil
}

func (x *session) Stream(context.Context, bulkhead.StreamRequest) (io.ReadWriteCloser, error) {
	return nil, errors.ErrUnsupported
}
func (x *session) Close() error { x.once.Do(func() { close(x.done) }); return nil }

// plain keys hide nothing; what they sign is bound to its name all the same.
type plain struct{}

func (plain) Seal(_ string, s map[string]string) ([]byte, error) { return json.Marshal(s) }
func (plain) Open(_ string, b []byte) (s map[string]string, err error) {
	return s, json.Unmarshal(b, &s)
}

func (plain) Sign(name string, content []byte) []byte {
	sum := sha256.Sum256(slices.Concat([]byte(name), content))
	return sum[:]
}

// life is one life of an agent on a machine.
type life struct {
	*Agent
	kill func()
}

func boot(t *testing.T, m *machine, s *server, dir string) life { return bootWith(t, m, s, dir, m) }

func bootWith(t *testing.T, m *machine, s *server, dir string, r Runtime) life {
	a := New(Config{
		Node: func() bulkhead.Node { return bulkhead.Node{Name: "n1"} }, Dir: dir, Run: t.TempDir(),
		Control: s, Runtime: r, Network: network{m}, Volumes: volumes{m}, Logs: outputs{m}, Files: bundles{},
		Keys: plain{},
		Log:  slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	kill := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	}
	t.Cleanup(kill)
	return life{a, kill}
}

func shop() bulkhead.Stamp {
	service := func(name string, deps ...bulkhead.Dependency) bulkhead.Service {
		return bulkhead.Service{
			Name: bulkhead.ServiceName(name), Replicas: 1, Image: bulkhead.Image{Reference: name + ":1", Digest: bulkhead.Digest(name + "1")},
			Networks: []bulkhead.Attachment{{Network: "default", Aliases: []string{name + "-alias"}}},
			Restart:  bulkhead.Restart{Policy: bulkhead.RestartOnFailure}, Budget: bulkhead.DefaultBudget(), DependsOn: deps,
		}
	}
	db := service("db")
	db.Mounts = []bulkhead.Mount{{Kind: bulkhead.MountVolume, Source: "data", Target: "/data"}}
	db.Health = &bulkhead.Health{Test: []string{"CMD", "ping"}, Interval: 10 * time.Second, Timeout: time.Second, Retries: 3}
	web := service("web", bulkhead.Dependency{Service: "db", Condition: bulkhead.ConditionHealthy, Required: true})
	return bulkhead.Stamp{
		Name: "acme", UID: "u1", Generation: 1, Epoch: 1, Node: "n1", Desired: bulkhead.DesiredRunning,
		Services: []bulkhead.Service{web, db}, Hosts: []bulkhead.Host{"acme.localhost"},
		Routes: []bulkhead.RouteRule{{Path: "/", Service: "web", Port: 80}},
	}
}

func assign(s bulkhead.Stamp) bulkhead.NodeOrder {
	return bulkhead.NodeOrder{Assign: &bulkhead.Assignment{Stamp: s}}
}

func newServer() *server { return &server{status: map[bulkhead.StampName]bulkhead.StampStatus{}} }

// until lets pretended time pass until ok, at most for a while.
func until(t *testing.T, what string, most time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for time.Since(began) < most {
		synctest.Wait()
		if ok() {
			return time.Since(began)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not within %s: %s", most, what)
	return 0
}

func TestAgentRunsStampInOrder(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		s.order(assign(shop()))
		boot(t, m, s, dir)
		until(t, "acme runs", time.Second, func() bool { return s.of("acme").Phase == bulkhead.PhaseRunning })
		var starts []string
		for _, c := range m.calls {
			if strings.HasPrefix(c, "start") {
				starts = append(starts, c)
			}
		}
		if got := strings.Join(starts, ", "); got != "start acme.db.1, start acme.web.1" {
			t.Errorf("order: %s", got)
		}
		for _, name := range []string{"db", "db-alias", "web", "web.acme.internal"} {
			if m.names[name] != 1 {
				t.Errorf("%s resolves to %d addresses", name, m.names[name])
			}
		}
	})
}

func TestAgentRestartsCrashedAndReplacesUnhealthy(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		s.order(assign(shop()))
		boot(t, m, s, dir)
		running := func() bool { return s.of("acme").Phase == bulkhead.PhaseRunning }
		until(t, "acme runs", time.Second, running)
		web := s.of("acme").Tasks[1].ID
		time.Sleep(time.Second) // what is made next is younger
		m.end(web, 3)
		until(t, "web is replaced", 10*time.Second, func() bool {
			tasks := s.of("acme").Tasks
			last := tasks[len(tasks)-1]
			return running() && last.Service == "web" && last.ID != web && last.Restarts == 1
		})
		m.mu.Lock()
		m.sick["db"] = "disk on fire"
		m.mu.Unlock()
		until(t, "the sick db is stopped", 2*time.Minute, func() bool { return !running() })
		m.mu.Lock()
		delete(m.sick, "db")
		m.mu.Unlock()
		until(t, "acme runs again", 2*time.Minute, running)
		events := strings.Join(s.events, "\n")
		for _, want := range []string{"task.failed: exited with code 3", "task.unhealthy: unhealthy: 3 probes failed, the last with: exit code 1: disk on fire"} {
			if !strings.Contains(events, want) {
				t.Errorf("no event %q in:\n%s", want, events)
			}
		}
	})
}

func TestAgentAdoptsWithoutTouching(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		s.order(assign(shop()))
		first := boot(t, m, s, dir)
		until(t, "acme runs", time.Second, func() bool { return s.of("acme").Phase == bulkhead.PhaseRunning })
		first.kill()
		started, before := m.started, len(m.calls)

		s.mu.Lock() // no server answers in the second life
		s.away = true
		s.mu.Unlock()
		second := boot(t, m, s, dir)
		synctest.Wait()
		local := second.Stamps()
		if len(local) != 1 || len(local[0].Tasks) != 2 || !local[0].Tasks[0].Healthy() || !local[0].Tasks[1].Healthy() {
			t.Fatalf("adopted %+v", local)
		}
		time.Sleep(time.Hour)
		if m.started != started || len(m.calls) != before {
			t.Errorf("tasks were touched: %v", m.calls[before:])
		}
		// And a crash is still healed, with the control plane away.
		m.end(local[0].Tasks[1].ID, 1)
		until(t, "the crashed task is replaced", 10*time.Second, func() bool { return m.started == started+1 })
		second.kill()

		// A reboot: everything is dead, no server answers.
		for _, c := range m.containers {
			c.State, c.ExitCode = bulkhead.TaskFailed, 137
		}
		m.nets = map[bulkhead.TaskID]Endpoint{}
		third := boot(t, m, s, dir)
		until(t, "all tasks are back", 10*time.Second, func() bool {
			healthy := 0
			for _, task := range third.Stamps()[0].Tasks {
				if task.Healthy() {
					healthy++
				}
			}
			return healthy == 2
		})
	})
}

func TestAgentKeepsTasksWhileTheEngineIsAway(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		s.order(assign(shop()))
		boot(t, m, s, dir)
		until(t, "acme runs", time.Second, func() bool { return s.of("acme").Phase == bulkhead.PhaseRunning })
		m.mu.Lock()
		m.away = true
		before := len(m.calls)
		m.mu.Unlock()
		time.Sleep(time.Hour) // many probes' time
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.calls) != before {
			t.Errorf("tasks were touched: %v", m.calls[before:])
		}
	})
}

func TestAgentTriesAgainToStopButNotTooOften(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		stamp := shop()
		s.order(assign(stamp))
		boot(t, m, s, dir)
		until(t, "acme runs", time.Second, func() bool { return s.of("acme").Phase == bulkhead.PhaseRunning })
		m.mu.Lock()
		m.away = true
		before := len(m.calls)
		m.mu.Unlock()
		stamp.Desired, stamp.Generation = bulkhead.DesiredStopped, 2
		s.order(assign(stamp))
		time.Sleep(time.Minute)
		m.mu.Lock()
		if n := len(m.calls) - before; n < 30 || n > 90 {
			t.Errorf("%d attempts in a minute", n)
		}
		m.away = false
		m.mu.Unlock()
		until(t, "acme is stopped", 10*time.Second, func() bool { return s.of("acme").Phase == bulkhead.PhaseStopped })
	})
}

func TestAgentRejectsWhatCanNeverStart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		m.missing["web:1"] = true
		s.order(assign(shop()))
		boot(t, m, s, dir)
		until(t, "acme has failed", time.Second, func() bool { return s.of("acme").Phase == bulkhead.PhaseFailed })
		if got := s.of("acme").Message; got != "web: image web:1 is not in the registry" {
			t.Errorf("message %q", got)
		}
		before := len(m.calls)
		time.Sleep(time.Hour)
		if len(m.calls) != before {
			t.Errorf("it was tried again: %v", m.calls[before:])
		}
	})
}

func TestAgentStopsAndStarts(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		m.slow = time.Second // to clear a task away
		stamp := shop()
		s.order(assign(stamp))
		boot(t, m, s, dir)
		until(t, "acme runs", time.Second, func() bool { return s.of("acme").Phase == bulkhead.PhaseRunning })
		stamp.Desired, stamp.Generation = bulkhead.DesiredStopped, 2
		s.order(assign(stamp))
		until(t, "acme is stopped", time.Minute, func() bool { return s.of("acme").Phase == bulkhead.PhaseStopped })
		// At once, while the old tasks are still being cleared away.
		stamp.Desired, stamp.Generation = bulkhead.DesiredRunning, 3
		s.order(assign(stamp))
		until(t, "acme runs again", time.Minute, func() bool {
			st := s.of("acme")
			return st.Generation == 3 && st.Phase == bulkhead.PhaseRunning
		})
		for _, task := range s.of("acme").Tasks {
			if task.State != bulkhead.TaskRunning {
				t.Errorf("acme is said to run while %s is %s", task.ID, task.State)
			}
		}
	})
}

func TestAgentDeletes(t *testing.T) {
	for _, purge := range []bool{false, true} {
		t.Run(fmt.Sprintf("purge=%t", purge), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m, s := newMachine(), newServer()
				stamp := shop()
				s.order(assign(stamp))
				boot(t, m, s, dir)
				until(t, "acme runs", time.Second, func() bool { return s.of("acme").Phase == bulkhead.PhaseRunning })
				stamp.Desired, stamp.Purge, stamp.Generation = bulkhead.DesiredDeleted, purge, 2
				s.order(assign(stamp))
				until(t, "acme is deleted", time.Minute, func() bool {
					st := s.of("acme")
					return st.Phase == bulkhead.PhaseDeleted && st.Generation == 2
				})
				if len(m.containers) != 0 || len(m.nets) != 0 {
					t.Errorf("left: %v %v", m.containers, m.nets)
				}
				if kept, asked := m.kept["u1"]; !asked || kept == purge {
					t.Errorf("data kept: %t", kept)
				}
				s.order(bulkhead.NodeOrder{Forget: &bulkhead.StampRef{Name: "acme", UID: "u1", Epoch: 1}})
				until(t, "nothing is on disk", time.Second, func() bool {
					entries, err := os.ReadDir(dir + "/stamps")
					return err == nil && len(entries) == 0
				})
			})
		})
	}
}
