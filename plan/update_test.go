package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead"
)

func TestTasksFollowTheirDependency(t *testing.T) {
	follows := on("db", bulkhead.ConditionHealthy)
	follows.Restart = true
	w := newWorld(
		withProbe(service("db", "db:1")),
		withProbe(service("cache", "cache:1", on("db", bulkhead.ConditionHealthy))),
		withProbe(service("api", "api:1", follows)),
		withProbe(service("web", "web:1", bulkhead.Dependency{Service: "api", Condition: bulkhead.ConditionHealthy, Required: true, Restart: true})),
	)
	w.settle(t, noCheck)
	w.stamp.Services[0].Image.Digest = "db:2"
	var starts []string
	w.settle(t, func(a Action) {
		if a.Verb == Start {
			starts = append(starts, string(a.Service))
		}
	})
	if got := strings.Join(starts, " "); got != "db api web" {
		t.Errorf("an update of db started %s", got)
	}
	// A crash is no update.
	i := slices.IndexFunc(w.tasks, func(t bulkhead.Task) bool { return t.Service == "db" })
	w.tasks[i].State, w.tasks[i].Ended = bulkhead.TaskFailed, w.now
	starts = nil
	w.settle(t, func(a Action) {
		if a.Verb == Start {
			starts = append(starts, string(a.Service))
		}
	})
	if got := strings.Join(starts, " "); got != "db" {
		t.Errorf("a crash of db started %s", got)
	}
}

// TestTasksCrashingUpdateLeavesOldServing: without a probe, too.
func TestTasksCrashingUpdateLeavesOldServing(t *testing.T) {
	w := newWorld(service("web", "web:1"))
	w.settle(t, noCheck)
	old := w.tasks[0].ID
	w.stamp.Services[0].Image.Digest = "web:2"
	for range 20 {
		next := Tasks(w.stamp, w.tasks, w.now)
		for _, a := range next.Actions {
			if a.Task == old {
				t.Fatalf("%s the old task: %s", a.Verb, a.Reason)
			}
			w.step(a)
		}
		if next.Phase == bulkhead.PhaseRunning {
			t.Fatalf("said to run: %v", w.tasks)
		}
		for i := range w.tasks {
			if w.tasks[i].State == bulkhead.TaskRunning && w.tasks[i].ID != old {
				w.now = w.now.Add(time.Second)
				if next := Tasks(w.stamp, w.tasks, w.now); len(next.Actions) > 0 || next.Phase == bulkhead.PhaseRunning {
					t.Fatalf("after a second: %s %+v", next.Phase, next.Actions)
				}
				w.tasks[i].State, w.tasks[i].Ended, w.tasks[i].Message = bulkhead.TaskFailed, w.now, "exited with code 1"
			}
		}
		if !next.Wake.IsZero() {
			w.now = next.Wake
		}
	}
}

// TestTasksReplacedOneOff: the old task of a one-off service goes although the new
// one has ended before anybody could have called it healthy.
func TestTasksReplacedOneOff(t *testing.T) {
	w := newWorld(service("migrate", "migrate:1"))
	w.settle(t, noCheck)
	w.stamp.Services[0].Image.Digest = "migrate:2"
	for w.running() != "migrate.1 migrate.1" {
		for _, a := range Tasks(w.stamp, w.tasks, w.now).Actions {
			w.step(a)
		}
	}
	for i := range w.tasks {
		if w.tasks[i].Hash == TaskHash(w.stamp, w.stamp.Services[0]) {
			w.tasks[i].State, w.tasks[i].Ended = bulkhead.TaskComplete, w.now
		}
	}
	if next := w.settle(t, noCheck); next.Phase != bulkhead.PhaseRunning || w.running() != "" {
		t.Errorf("%s, running: %s", next.Phase, w.running())
	}
}

// TestTasksOfOtherTimes: what is only being prepared is dropped when it is not
// wanted any more, and what could not run gets another chance by stop and start.
func TestTasksOfOtherTimes(t *testing.T) {
	w := newWorld(service("web", "web:1"))
	pending := bulkhead.Task{ID: "acme.web.1-1", Service: "web", Slot: 1, Hash: TaskHash(w.stamp, w.stamp.Services[0]), State: bulkhead.TaskPending}
	w.stamp.Desired = bulkhead.DesiredStopped
	if next := Tasks(w.stamp, []bulkhead.Task{pending}, w.now); len(next.Actions) != 1 || next.Actions[0].Verb != Remove {
		t.Errorf("%+v", next)
	}
	w.stamp.Desired = bulkhead.DesiredRunning
	w.badImage["web:1"] = true
	if next := w.settle(t, noCheck); next.Phase != bulkhead.PhaseFailed {
		t.Fatal(next.Phase)
	}
	delete(w.badImage, "web:1")
	for _, desired := range []bulkhead.Desired{bulkhead.DesiredStopped, bulkhead.DesiredRunning} {
		w.stamp.Desired = desired
		w.settle(t, noCheck)
	}
	if w.running() != "web.1" {
		t.Error(fmt.Sprint(w.tasks))
	}
}
