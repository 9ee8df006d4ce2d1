package agent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
)

// TestSimulation lets everything fail at random and asserts what must hold
// whatever happens: no slot that writes ever has two running tasks, and once the
// faults have ended exactly what is wanted runs, and nothing is left of the rest.
// SEED=n runs one seed again.
func TestSimulation(t *testing.T) {
	first, count := 1, 12
	if s := os.Getenv("SEED"); s != "" {
		first, _ = strconv.Atoi(s)
		count = 1
	}
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { newSimulation(t, dir, uint64(seed)).run() })
		})
	}
}

type simulation struct {
	t    *testing.T
	m    *machine
	s    *server
	dir  string
	life life
	log  []string

	mu   sync.Mutex // guards rand and calm
	rand *rand.Rand
	calm bool // no more faults

	want map[bulkhead.StampName]bulkhead.Stamp
	made int

	serverAway, engineAway bool
}

func newSimulation(t *testing.T, dir string, seed uint64) *simulation {
	x := &simulation{
		t: t, m: newMachine(), s: newServer(), dir: dir, rand: rand.New(rand.NewPCG(seed, 0)),
		want: map[bulkhead.StampName]bulkhead.Stamp{},
	}
	x.m.fault = x.fault
	return x
}

func (x *simulation) chance(percent int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.calm && x.rand.IntN(100) < percent
}

func (x *simulation) below(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rand.IntN(n)
}

// fault makes calls take their time, and some fail, with or without effect.
func (x *simulation) fault(call string, id bulkhead.TaskID) error {
	if x.chance(40) {
		time.Sleep(time.Duration(x.below(3000)) * time.Millisecond)
	}
	if call == "started" && strings.Contains(string(id), ".migrate.") {
		time.AfterFunc(time.Duration(1+x.below(2000))*time.Millisecond, func() { x.m.end(id, 0) })
	}
	if x.chance(4) {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "the engine does not answer")
	}
	return nil
}

// life is a new life of a stamp: db and web are shop's, migrate runs once.
func (x *simulation) stamp(name bulkhead.StampName) bulkhead.Stamp {
	x.made++
	s := shop()
	s.Name, s.UID = name, fmt.Sprintf("u%d", x.made)
	for i := range s.Services {
		s.Services[i].Restart.Policy = bulkhead.RestartAlways
	}
	migrate := s.Services[0]
	migrate.Name, migrate.Restart.Policy = "migrate", bulkhead.RestartOnFailure
	s.Services[0].DependsOn = append(s.Services[0].DependsOn, bulkhead.Dependency{Service: "migrate", Condition: bulkhead.ConditionCompleted, Required: true})
	s.Services = append(s.Services, migrate)
	return s
}

// set changes what is wanted and tells the agent, if it listens.
func (x *simulation) set(s bulkhead.Stamp) {
	x.note("want %s %s %s", s.Name, s.UID, s.Desired)
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.want[s.Name] = s
	x.s.orders = nil
	for _, s := range x.want {
		x.s.orders = append(x.s.orders, assign(s))
	}
	x.s.orders = append(x.s.orders, bulkhead.NodeOrder{Synced: true})
	x.s.tellLocked(assign(s))
}

func (x *simulation) note(format string, args ...any) {
	x.log = append(x.log, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (x *simulation) boot() { x.life = boot(x.t, x.m, x.s, x.dir) }

func (x *simulation) run() {
	x.set(x.stamp("acme"))
	x.set(x.stamp("bolt"))
	x.boot()
	for range 40 {
		time.Sleep(time.Duration(x.below(6000)) * time.Millisecond)
		x.event()
	}
	x.mu.Lock()
	x.calm = true
	x.mu.Unlock()
	x.m.mu.Lock()
	clear(x.m.sick)
	x.m.mu.Unlock()
	x.m.leave(false)
	x.s.leave(false)
	x.note("calm")
	end := time.Now().Add(10 * time.Minute)
	for why := x.unsettled(); why != ""; why = x.unsettled() {
		if time.Now().After(end) {
			x.t.Fatalf("not settled: %s\n%s", why, strings.Join(x.log, "\n"))
		}
		time.Sleep(time.Second)
		synctest.Wait()
	}
	x.life.kill()
	if len(x.m.wrong) > 0 {
		x.t.Fatalf("%s\n%s", strings.Join(x.m.wrong, "\n"), strings.Join(x.log, "\n"))
	}
}

// event lets one thing go wrong, or changes what is wanted.
func (x *simulation) event() {
	name := []bulkhead.StampName{"acme", "bolt"}[x.below(2)]
	s := x.want[name]
	s.Services = append([]bulkhead.Service(nil), s.Services...)
	i := x.below(len(s.Services))
	switch x.below(14) {
	case 0, 1:
		x.note("crash")
		x.life.kill()
		time.Sleep(time.Duration(x.below(5000)) * time.Millisecond)
		x.boot()
		return
	case 2:
		x.note("reboot")
		x.life.kill()
		x.m.mu.Lock()
		for _, c := range x.m.containers {
			c.State, c.ExitCode = bulkhead.TaskFailed, 137
		}
		clear(x.m.nets)
		x.m.mu.Unlock()
		x.boot()
		return
	case 3, 4:
		for _, o := range x.m.list() {
			if o.State == bulkhead.TaskRunning {
				x.note("end %s", o.ID)
				x.m.end(o.ID, 1)
				break
			}
		}
		return
	case 5:
		service := string(s.Services[i].Name)
		x.note("sick %s", service)
		x.m.mu.Lock()
		if x.m.sick[service] == "" {
			x.m.sick[service] = "unwell"
		} else {
			delete(x.m.sick, service)
		}
		x.m.mu.Unlock()
		return
	case 6:
		x.serverAway = !x.serverAway
		x.note("server away %t", x.serverAway)
		x.s.leave(x.serverAway)
		return
	case 7:
		x.engineAway = !x.engineAway
		x.note("engine away %t", x.engineAway)
		x.m.leave(x.engineAway)
		return
	case 8:
		s.Services[i].Image.Digest += "x"
	case 9:
		if s.Services[i].Name != "migrate" {
			s.Services[i].Replicas = x.below(4)
		}
	case 10:
		s.Desired = []bulkhead.Desired{bulkhead.DesiredRunning, bulkhead.DesiredStopped, bulkhead.DesiredDeleted}[x.below(3)]
	case 11:
		s.Desired, s.Purge = bulkhead.DesiredDeleted, true
		x.set(s)
		s = x.stamp(name) // a new life, before the old one is over
	case 12:
		s.Restarted++
	case 13:
		s.Epoch++
	}
	s.Generation++
	x.set(s)
}

// unsettled says what is not yet as it should be.
func (x *simulation) unsettled() string {
	containers, running := 0, map[string]int{}
	x.m.mu.Lock()
	for id, c := range x.m.containers {
		containers++
		if c.State == bulkhead.TaskRunning {
			running[strings.Join(strings.Split(string(id), ".")[:2], ".")]++
		}
	}
	nets := len(x.m.nets)
	kept := map[bulkhead.TaskID]string{}
	for id := range x.m.nets {
		kept[id] = string(id) + " has an endpoint"
	}
	for id, c := range x.m.containers {
		kept[id] = fmt.Sprintf("%s is %s", id, c.State)
	}
	x.m.mu.Unlock()
	wanted := 0
	for name, s := range x.want {
		phase := map[bulkhead.Desired]bulkhead.Phase{
			bulkhead.DesiredRunning: bulkhead.PhaseRunning, bulkhead.DesiredStopped: bulkhead.PhaseStopped, bulkhead.DesiredDeleted: bulkhead.PhaseDeleted,
		}[s.Desired]
		if st := x.s.of(name); st.UID != s.UID || st.Generation != s.Generation || st.Phase != phase {
			return fmt.Sprintf("%s %s is said to be %s %q in generation %d, wanted %s in %d", name, st.UID, st.Phase, st.Message, st.Generation, phase, s.Generation)
		}
		for _, service := range s.Services {
			want := service.Replicas
			if s.Desired != bulkhead.DesiredRunning || service.Name == "migrate" {
				want = 0
			}
			wanted += want
			if got := running[string(name)+"."+string(service.Name)]; got != want {
				return fmt.Sprintf("%d tasks of %s.%s run, wanted %d", got, name, service.Name, want)
			}
		}
	}
	if containers != wanted || nets != wanted {
		return fmt.Sprintf("%d containers and %d endpoints, wanted %d: %v", containers, nets, wanted, slices.Sorted(maps.Values(kept)))
	}
	return ""
}
