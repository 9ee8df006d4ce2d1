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

// world performs what Tasks decides, the way an agent does, on a pretend node
// whose images, processes and probes fail as the test wants.
type world struct {
	stamp bulkhead.Stamp
	tasks []bulkhead.Task
	now   time.Time
	made  int
	// badImage and sick name what cannot be prepared, and what never gets healthy.
	badImage map[string]bool // by image reference
	sick     map[string]bool
	log      []string
}

func newWorld(services ...bulkhead.Service) *world {
	for i := range services {
		if services[i].Replicas == 0 {
			services[i].Replicas = 1
		}
		if services[i].Restart.Policy == "" {
			services[i].Restart.Policy = bulkhead.RestartOnFailure
		}
	}
	return &world{
		stamp: bulkhead.Stamp{Name: "acme", Generation: 1, Desired: bulkhead.DesiredRunning, Services: services, SecretVersions: map[string]int64{}},
		now:   time.Unix(1000, 0), badImage: map[string]bool{}, sick: map[string]bool{},
	}
}

func (w *world) service(name bulkhead.ServiceName) bulkhead.Service {
	for _, s := range w.stamp.Services {
		if s.Name == name {
			return s
		}
	}
	return bulkhead.Service{}
}

// step performs one action.
func (w *world) step(a Action) {
	w.log = append(w.log, fmt.Sprintf("%s %s.%d: %s", a.Verb, a.Service, a.Slot, a.Reason))
	if a.Verb == Create {
		w.made++
		s := w.service(a.Service)
		t := bulkhead.Task{
			ID: bulkhead.NewTaskID("acme", a.Service, a.Slot, fmt.Sprintf("%04d", w.made)), Service: a.Service, Slot: a.Slot,
			Hash: a.Hash, State: bulkhead.TaskPrepared, Created: w.now, Restarts: a.Restarts, Streak: a.Streak,
		}
		if s.Health != nil {
			t.Health = bulkhead.HealthStarting
		}
		if w.badImage[s.Image.Reference] {
			t.State, t.Message, t.Ended = bulkhead.TaskRejected, "no such image", w.now
		}
		w.tasks = append(w.tasks, t)
		return
	}
	i := slices.IndexFunc(w.tasks, func(t bulkhead.Task) bool { return t.ID == a.Task })
	t := &w.tasks[i]
	switch a.Verb {
	case Start:
		t.State, t.Started = bulkhead.TaskRunning, w.now
	case Stop:
		if a.Failed {
			t.State, t.Ended, t.Message = bulkhead.TaskFailed, w.now, a.Reason
		} else {
			w.tasks = slices.Delete(w.tasks, i, i+1)
		}
	case Remove:
		w.tasks = slices.Delete(w.tasks, i, i+1)
	}
}

// probe makes every running task as healthy as it can be.
func (w *world) probe() {
	for i := range w.tasks {
		t := &w.tasks[i]
		if t.State == bulkhead.TaskRunning && t.Health != bulkhead.HealthNone {
			t.Health = bulkhead.HealthHealthy
			if w.sick[t.Hash] {
				t.Health = bulkhead.HealthUnhealthy
			}
		}
	}
}

// settle acts until nothing is left to do or to wait for; it fails after a bound.
func (w *world) settle(t interface{ Fatalf(string, ...any) }, check func(Action)) Next {
	for range 400 {
		next := Tasks(w.stamp, w.tasks, w.now)
		for _, a := range next.Actions {
			check(a)
			w.step(a)
		}
		if len(next.Actions) == 0 {
			before := slices.Clone(w.tasks)
			w.probe()
			if slices.Equal(before, w.tasks) {
				if next.Wake.IsZero() {
					return next
				}
				w.now = next.Wake
			}
		}
	}
	t.Fatalf("no end after 400 rounds:\n%s", strings.Join(w.log, "\n"))
	return Next{}
}

func service(name, image string, deps ...bulkhead.Dependency) bulkhead.Service {
	return bulkhead.Service{
		Name: bulkhead.ServiceName(name), Image: bulkhead.Image{Reference: image, Digest: bulkhead.Digest(image)},
		DependsOn: deps, Budget: bulkhead.DefaultBudget(),
	}
}

func on(name string, c bulkhead.Condition) bulkhead.Dependency {
	return bulkhead.Dependency{Service: bulkhead.ServiceName(name), Condition: c, Required: true}
}

func withProbe(s bulkhead.Service) bulkhead.Service {
	s.Health = &bulkhead.Health{Test: []string{"CMD", "ok"}}
	return s
}

func withVolume(s bulkhead.Service) bulkhead.Service {
	s.Mounts = []bulkhead.Mount{{Kind: bulkhead.MountVolume, Source: "data", Target: "/data"}}
	return s
}

func noCheck(Action) {}

func (w *world) running() string {
	var out []string
	for _, t := range w.tasks {
		if t.State == bulkhead.TaskRunning {
			out = append(out, fmt.Sprintf("%s.%d", t.Service, t.Slot))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestTasksStartInOrder(t *testing.T) {
	w := newWorld(
		service("web", "web:1", on("db", bulkhead.ConditionHealthy), on("migrate", bulkhead.ConditionCompleted)),
		service("migrate", "migrate:1", on("db", bulkhead.ConditionHealthy)),
		withVolume(withProbe(service("db", "db:1"))),
	)
	var starts []string
	check := func(a Action) {
		if a.Verb == Start {
			starts = append(starts, string(a.Service))
		}
	}
	next := w.settle(t, check)
	if next.Phase != bulkhead.PhaseStarting || !strings.Contains(next.Message, "web waits for migrate to complete") {
		t.Errorf("phase %s %q", next.Phase, next.Message)
	}
	for i := range w.tasks { // the migration ends well
		if w.tasks[i].Service == "migrate" {
			w.tasks[i].State, w.tasks[i].Ended = bulkhead.TaskComplete, w.now
		}
	}
	next = w.settle(t, check)
	if got := strings.Join(starts, " "); got != "db migrate web" {
		t.Errorf("started %s", got)
	}
	if next.Phase != bulkhead.PhaseRunning || w.running() != "db.1 web.1" {
		t.Errorf("phase %s, running %s", next.Phase, w.running())
	}
	// A stop goes the other way round, and the finished migration is not run again.
	var stops []string
	w.stamp.Desired = bulkhead.DesiredStopped
	w.settle(t, func(a Action) { stops = append(stops, string(a.Service)) })
	if got := strings.Join(stops, " "); got != "web db" {
		t.Errorf("stopped %s", got)
	}
	w.stamp.Desired = bulkhead.DesiredRunning
	starts = nil
	w.settle(t, check)
	if got := strings.Join(starts, " "); got != "db web" {
		t.Errorf("started again %s", got)
	}
}

func TestTasksReplaceOnlyWhatChanged(t *testing.T) {
	w := newWorld(withVolume(withProbe(service("db", "db:1"))), withProbe(service("web", "web:1", on("db", bulkhead.ConditionHealthy))))
	w.settle(t, noCheck)
	db := w.tasks[slices.IndexFunc(w.tasks, func(t bulkhead.Task) bool { return t.Service == "db" })].ID

	w.stamp.Services[1].Image.Digest = "web:2"
	w.stamp.Generation++
	var verbs []string
	w.settle(t, func(a Action) { verbs = append(verbs, fmt.Sprintf("%s %s", a.Verb, a.Service)) })
	// web writes nothing: the new one is up before the old one goes.
	if got := strings.Join(verbs, ", "); got != "create web, start web, stop web" {
		t.Errorf("update of web: %s", got)
	}
	verbs = nil
	w.stamp.Services[0].Image.Digest = "db:2"
	w.stamp.Generation++
	w.settle(t, func(a Action) { verbs = append(verbs, fmt.Sprintf("%s %s", a.Verb, a.Service)) })
	// db writes to a volume: the old one goes first.
	if got := strings.Join(verbs, ", "); got != "create db, stop db, start db" {
		t.Errorf("update of db: %s", got)
	}
	if slices.ContainsFunc(w.tasks, func(t bulkhead.Task) bool { return t.ID == db }) {
		t.Error("the old db task is still there")
	}
}

func TestTasksBadUpdateLeavesOldServing(t *testing.T) {
	for name, s := range map[string]bulkhead.Service{"stateless": service("web", "web:1"), "with volume": withVolume(service("web", "web:1"))} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(s)
			w.settle(t, noCheck)
			old := w.tasks[0].ID
			w.stamp.Services[0].Image = bulkhead.Image{Reference: "web:2", Digest: "web:2"}
			w.badImage["web:2"] = true
			next := w.settle(t, noCheck)
			i := slices.IndexFunc(w.tasks, func(t bulkhead.Task) bool { return t.ID == old })
			if i < 0 || w.tasks[i].State != bulkhead.TaskRunning {
				t.Fatalf("the old task does not serve any more:\n%s", strings.Join(w.log, "\n"))
			}
			if next.Phase != bulkhead.PhaseFailed || next.Message != "web: no such image" {
				t.Errorf("phase %s %q", next.Phase, next.Message)
			}
		})
	}
	t.Run("never healthy", func(t *testing.T) {
		w := newWorld(withProbe(service("web", "web:1")))
		w.settle(t, noCheck)
		old := w.tasks[0].ID
		w.stamp.Services[0].Image.Digest = "web:2"
		w.sick[TaskHash(w.stamp, w.stamp.Services[0])] = true
		for range 60 {
			next := Tasks(w.stamp, w.tasks, w.now)
			for _, a := range next.Actions {
				if a.Task == old {
					t.Fatalf("%s the old task: %s", a.Verb, a.Reason)
				}
				w.step(a)
			}
			w.probe()
			if !next.Wake.IsZero() {
				w.now = next.Wake
			}
		}
	})
}

func TestTasksBackoff(t *testing.T) {
	w := newWorld(service("web", "web:1"))
	var pauses []time.Duration
	for range 12 {
		ended := w.now
		w.settle(t, func(a Action) {
			if a.Verb == Start {
				pauses = append(pauses, w.now.Sub(ended))
			}
		})
		for i := range w.tasks {
			if w.tasks[i].State == bulkhead.TaskRunning {
				w.now = w.tasks[i].Started.Add(time.Millisecond) // it crashes at once
				w.tasks[i].State, w.tasks[i].Ended, w.tasks[i].ExitCode, w.tasks[i].Message = bulkhead.TaskFailed, w.now, 1, "exited with code 1"
			}
		}
	}
	want := "[0s 0s 200ms 400ms 800ms 1.6s 3.2s 6.4s 12.8s 25.6s 51.2s 1m0s]"
	if got := fmt.Sprint(pauses); got != want {
		t.Errorf("pauses %s, want %s", got, want)
	}
	// A long good run is forgiven.
	w.settle(t, noCheck)
	i := slices.IndexFunc(w.tasks, func(t bulkhead.Task) bool { return t.State == bulkhead.TaskRunning })
	w.now = w.now.Add(Settled)
	w.tasks[i].State, w.tasks[i].Ended = bulkhead.TaskFailed, w.now
	if next := Tasks(w.stamp, w.tasks, w.now); len(next.Actions) == 0 || next.Actions[0].Verb != Create {
		t.Errorf("after a long run: %+v", next)
	}
}

// TestTasksProperties: whatever the product looks like and whatever breaks, no
// slot ever has two tasks that write, a task starts only when its dependencies
// have been met, and the stamp ends in a state that says what it is.
func TestTasksProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "services")
		services := make([]bulkhead.Service, n)
		for i := range services {
			s := service(fmt.Sprintf("s%d", i), fmt.Sprintf("s%d:1", i))
			s.Replicas = rapid.IntRange(1, 3).Draw(t, "replicas")
			if rapid.Bool().Draw(t, "probe") {
				s = withProbe(s)
			}
			if rapid.Bool().Draw(t, "volume") {
				s = withVolume(s)
			}
			for d := range i {
				if rapid.Bool().Draw(t, "depends") {
					c := rapid.SampledFrom([]bulkhead.Condition{bulkhead.ConditionStarted, bulkhead.ConditionHealthy}).Draw(t, "condition")
					s.DependsOn = append(s.DependsOn, on(fmt.Sprintf("s%d", d), c))
				}
			}
			services[i] = s
		}
		w := newWorld(services...)
		check := func(a Action) {
			if a.Verb != Start {
				return
			}
			s := w.service(a.Service)
			for _, o := range w.tasks {
				if o.Service == a.Service && o.Slot == a.Slot && o.ID != a.Task && o.State == bulkhead.TaskRunning && writes(s) {
					t.Fatalf("%s starts beside %s, both write", a.Task, o.ID)
				}
			}
			for _, d := range s.DependsOn {
				for slot := 1; slot <= w.service(d.Service).Replicas; slot++ {
					if !slices.ContainsFunc(w.tasks, func(o bulkhead.Task) bool {
						return o.Service == d.Service && o.Slot == slot && o.State == bulkhead.TaskRunning &&
							(d.Condition == bulkhead.ConditionStarted || o.Healthy())
					}) {
						t.Fatalf("%s starts before %s.%d is %s", a.Task, d.Service, slot, d.Condition)
					}
				}
			}
		}
		for range rapid.IntRange(1, 8).Draw(t, "events") {
			next := w.settle(t, check)
			if next.Phase != bulkhead.PhaseRunning && w.stamp.Desired == bulkhead.DesiredRunning {
				t.Fatalf("settled as %s %q:\n%s", next.Phase, next.Message, strings.Join(w.log, "\n"))
			}
			for _, s := range w.stamp.Services {
				want := s.Replicas
				if w.stamp.Desired != bulkhead.DesiredRunning {
					want = 0
				}
				if got := strings.Count(w.running()+" ", string(s.Name)+"."); got != want {
					t.Fatalf("%s has %d running tasks, want %d:\n%s", s.Name, got, want, strings.Join(w.log, "\n"))
				}
			}
			i := rapid.IntRange(0, n-1).Draw(t, "service")
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0: // a crash
				for j := range w.tasks {
					if w.tasks[j].Service == w.stamp.Services[i].Name && w.tasks[j].State == bulkhead.TaskRunning {
						w.tasks[j].State, w.tasks[j].Ended, w.tasks[j].Message = bulkhead.TaskFailed, w.now, "exited with code 1"
						break
					}
				}
			case 1: // an update
				w.stamp.Services[i].Image.Digest += "x"
				w.stamp.Generation++
			case 2: // scale
				w.stamp.Services[i].Replicas = rapid.IntRange(1, 4).Draw(t, "scale")
			case 3:
				w.stamp.Desired = bulkhead.DesiredStopped
			case 4:
				w.stamp.Desired = bulkhead.DesiredRunning
			}
		}
	})
}
