package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead"
	"bulkhead/plan"
)

// stampLoop runs one stamp. Its fields belong to the goroutine of run; others
// reach it through post and read view.
type stampLoop struct {
	a    *Agent
	name bulkhead.StampName
	log  *slog.Logger

	box  mailbox
	view atomic.Pointer[plan.Local]

	assignment bulkhead.Assignment
	dirty      bool // assignment is not on disk yet
	tasks      map[bulkhead.TaskID]*task
	ready      *time.Time // when this generation was first up
	readyGen   int64
	reported   bulkhead.StampStatus
	deleted    bool // everything is gone
	forget     bool // end the loop when everything is gone
	tearing    bool // the step that removes the stamp is under way
	retryAt    time.Time

	ground ground // what all tasks of the stamp stand on
	steps  sync.WaitGroup
}

// task is a bulkhead.Task and what the agent must remember to look after it.
type task struct {
	bulkhead.Task
	care   care
	busy   bool      // a step for it is under way
	drop   bool      // forget it when it has ended
	exit   *Exit     // its end, heard of while busy
	failed bool      // being stopped because something is wrong with it
	again  time.Time // not before: its last step could not be made
	probe  context.CancelFunc
}

func (a *Agent) newLoop(as bulkhead.Assignment) *stampLoop {
	l := &stampLoop{
		a: a, name: as.Stamp.Name, log: a.log.With("stamp", as.Stamp.Name),
		assignment: as, tasks: map[bulkhead.TaskID]*task{},
		box: mailbox{wake: make(chan struct{}, 1)},
	}
	l.view.Store(&plan.Local{Stamp: as.Stamp, Phase: bulkhead.PhasePending})
	return l
}

func (l *stampLoop) post(f func()) { l.box.put(f) }

// run is the loop: hear what happened, decide, act, tell.
func (l *stampLoop) run(ctx context.Context) {
	defer l.steps.Wait()
	defer func() {
		for _, t := range l.tasks {
			t.stopProbe()
		}
	}()
	for ctx.Err() == nil {
		for _, f := range l.box.take() {
			f()
		}
		if l.dirty {
			if err := l.a.saveAssignment(l.assignment); err != nil {
				// Nothing is done that could not be found again after a crash.
				l.log.Error("save assignment", "err", err)
				l.sleep(ctx, time.Now().Add(time.Second))
				continue
			}
			l.dirty = false
		}
		next := plan.Tasks(l.assignment.Stamp, l.list(), time.Now())
		for _, action := range next.Actions {
			l.perform(ctx, action)
		}
		if l.assignment.Stamp.Desired == bulkhead.DesiredDeleted {
			l.teardown(ctx, &next)
		}
		l.tell(next)
		if l.deleted && l.forget {
			l.a.reports.forget(l.name)
			if err := l.a.deleteSaved(l.name); err != nil {
				l.log.Error("delete assignment", "err", err)
			}
			l.a.forgetLoop(l.name)
			return
		}
		l.sleep(ctx, next.Wake)
	}
}

func (l *stampLoop) sleep(ctx context.Context, until time.Time) {
	if !time.Now().Before(l.retryAt) {
		l.retryAt = time.Time{}
	}
	if !l.retryAt.IsZero() && (until.IsZero() || l.retryAt.Before(until)) {
		until = l.retryAt
	}
	var timer <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-l.box.wake:
	case <-timer:
	}
}

// list is what there is to plan and to show: all tasks but those that ended on
// request and are only being cleared away.
func (l *stampLoop) list() []bulkhead.Task {
	out := make([]bulkhead.Task, 0, len(l.tasks))
	for _, t := range l.tasks {
		if !t.drop || !t.State.Ended() {
			out = append(out, t.Task)
		}
	}
	return out
}

// assigned takes a new version of the stamp.
func (l *stampLoop) assigned(as bulkhead.Assignment) {
	old := l.assignment.Stamp
	if as.Stamp.Epoch < old.Epoch && as.Stamp.UID == old.UID {
		l.log.Warn("assignment of an older epoch", "epoch", as.Stamp.Epoch, "have", old.Epoch)
		return
	}
	if reflect.DeepEqual(as, l.assignment) {
		return
	}
	l.assignment, l.dirty = as, true
	if l.deleted && (as.Stamp.Desired != bulkhead.DesiredDeleted || as.Stamp.Purge) {
		l.deleted = false
	}
	l.forget = false
}

// forgotten ends the stamp on this node for good.
func (l *stampLoop) forgotten(ref bulkhead.StampRef) {
	if ref.UID != l.assignment.Stamp.UID || ref.Epoch < l.assignment.Stamp.Epoch {
		return
	}
	if l.assignment.Stamp.Desired != bulkhead.DesiredDeleted {
		// It belongs elsewhere now: what it wrote here is set aside, not destroyed.
		l.assignment.Stamp.Desired, l.dirty = bulkhead.DesiredDeleted, true
	}
	l.forget = true
}

// perform begins one action; tasks with a step under way are left alone.
func (l *stampLoop) perform(ctx context.Context, a plan.Action) {
	if a.Verb == plan.Create {
		l.create(ctx, a)
		return
	}
	t := l.tasks[a.Task]
	if t == nil || t.busy || time.Now().Before(t.again) {
		return
	}
	switch a.Verb {
	case plan.Start:
		l.step(ctx, t, func(ctx context.Context) error { return l.a.c.Runtime.Start(ctx, t.ID) }, func(err error) {
			if err != nil {
				l.ended(ctx, t, failure(err), oneLine(err), 0)
				return
			}
			t.State, t.Started = bulkhead.TaskRunning, time.Now()
			l.startProbe(ctx, t)
		})
	case plan.Stop:
		t.State, t.Message = bulkhead.TaskStopping, a.Reason
		t.failed, t.drop = a.Failed, !a.Failed
		t.stopProbe()
		if a.Failed {
			l.event("task.unhealthy", t, a.Reason)
		}
		signal, grace := t.care.Signal, t.care.Grace
		l.step(ctx, t, func(ctx context.Context) error { return l.a.c.Runtime.Stop(ctx, t.ID, signal, grace) }, func(err error) {
			if err != nil {
				l.log.Error("stop task", "task", t.ID, "err", err)
				t.State = bulkhead.TaskRunning // as far as we know; planned again
				t.again = time.Now().Add(time.Second)
				l.retryAt = t.again
				return
			}
			state := bulkhead.TaskComplete
			if t.failed {
				state = bulkhead.TaskFailed
			}
			l.ended(ctx, t, state, t.Message, t.ExitCode)
		})
	case plan.Remove:
		if t.State.Ended() { // cleaned up already
			delete(l.tasks, t.ID)
			return
		}
		t.drop = true
		l.ended(ctx, t, bulkhead.TaskComplete, a.Reason, 0)
	}
}

// create makes the slot's next task and prepares it.
func (l *stampLoop) create(ctx context.Context, a plan.Action) {
	for _, t := range l.tasks {
		if t.Service == a.Service && t.Slot == a.Slot && t.Hash == a.Hash && !t.State.Ended() {
			return
		}
	}
	i := slices.IndexFunc(l.assignment.Stamp.Services, func(s bulkhead.Service) bool { return s.Name == a.Service })
	service := l.assignment.Stamp.Services[i]
	t := &task{
		Task: bulkhead.Task{
			ID:    bulkhead.NewTaskID(l.name, service.Name, a.Slot, instance()),
			Stamp: l.name, Service: service.Name, Slot: a.Slot, Hash: a.Hash,
			State: bulkhead.TaskPending, Restarts: a.Restarts, Streak: a.Streak, Created: time.Now(),
		},
		care: careOf(service),
	}
	if t.care.probed() {
		t.Health = bulkhead.HealthStarting
	}
	l.tasks[t.ID] = t
	as, record := l.assignment, t.Task
	var endpoint Endpoint
	l.step(ctx, t, func(ctx context.Context) (err error) {
		endpoint, err = l.prepare(ctx, as, record, service)
		return err
	}, func(err error) {
		if err != nil {
			l.ended(ctx, t, failure(err), oneLine(err), 0)
			return
		}
		t.State, t.Address = bulkhead.TaskPrepared, endpoint.Address
	})
}

// step runs do beside the loop and done on it.
func (l *stampLoop) step(ctx context.Context, t *task, do func(context.Context) error, done func(error)) {
	t.busy = true
	l.steps.Go(func() {
		release, err := l.a.step(ctx)
		if err == nil {
			err = do(ctx)
			release()
		}
		if ctx.Err() != nil {
			return // the agent ends; the next life finds what was done
		}
		l.post(func() {
			t.busy = false
			done(err)
			if t.exit != nil && !t.State.Ended() && !t.busy {
				l.exited(*t.exit)
			}
		})
	})
}

// exited hears that a task's process has ended.
func (l *stampLoop) exited(e Exit) {
	t := l.tasks[e.ID]
	if t == nil || t.State.Ended() {
		return
	}
	t.ExitCode, t.OOM = e.ExitCode, t.OOM || e.OOM
	if t.busy || t.State == bulkhead.TaskStopping {
		t.exit = &e
		return
	}
	state := bulkhead.TaskFailed
	if e.ExitCode == 0 {
		state = bulkhead.TaskComplete
	}
	l.a.mu.Lock()
	ctx := l.a.ctx
	l.a.mu.Unlock()
	l.ended(ctx, t, state, l.exitMessage(t), e.ExitCode)
}

func (l *stampLoop) exitMessage(t *task) string {
	ran := ""
	if !t.Started.IsZero() {
		ran = " after " + time.Since(t.Started).Round(time.Millisecond).String()
	}
	switch {
	case t.OOM:
		return fmt.Sprintf("killed by the kernel: more than %s of memory%s", plan.Bytes(t.care.Memory), ran)
	case t.ExitCode > 128 && t.ExitCode < 128+65:
		return fmt.Sprintf("killed by signal %d%s", t.ExitCode-128, ran)
	default:
		return fmt.Sprintf("exited with code %d%s", t.ExitCode, ran)
	}
}

// ended records that a task is over and clears away what it had.
func (l *stampLoop) ended(ctx context.Context, t *task, state bulkhead.TaskState, message string, code int) {
	t.stopProbe()
	t.State, t.Message, t.ExitCode, t.Ended = state, message, code, time.Now()
	if !t.drop {
		l.saveTasks()
		switch state {
		case bulkhead.TaskFailed:
			l.event("task.failed", t, message)
		case bulkhead.TaskRejected:
			l.event("task.rejected", t, message)
		}
	}
	id := t.ID
	l.step(ctx, t, func(ctx context.Context) error { return l.clear(ctx, id) }, func(err error) {
		if err != nil {
			l.log.Error("clear task", "task", id, "err", err)
		}
		if t.drop {
			delete(l.tasks, id)
			l.saveTasks()
		}
	})
}

// compare takes the runtime's word for what runs, after exits may have been missed.
func (l *stampLoop) compare(seen []Observed) {
	for id, t := range l.tasks {
		if t.State != bulkhead.TaskRunning && t.State != bulkhead.TaskPrepared {
			continue
		}
		i := slices.IndexFunc(seen, func(o Observed) bool { return o.ID == id })
		switch {
		case i < 0:
			l.exited(Exit{ID: id, ExitCode: lostCode, Time: time.Now()})
		case seen[i].State.Ended():
			l.exited(Exit{ID: id, ExitCode: seen[i].ExitCode, Time: seen[i].Ended})
		}
	}
}

// lostCode stands for the exit code of a process whose end nobody saw.
const lostCode = 255

// adopt takes up the tasks of an earlier life. It runs before the loop.
func (l *stampLoop) adopt(saved []savedTask, observed []Observed, endpoints []Endpoint) {
	was := map[bulkhead.TaskID]savedTask{}
	for _, s := range saved {
		was[s.ID] = s
		if s.State.Ended() {
			l.tasks[s.ID] = &task{Task: s.Task, care: s.Care}
		}
	}
	for _, o := range observed {
		if l.tasks[o.ID] != nil { // recorded as ended: its clearing was cut short
			l.clearLater(o.ID)
			continue
		}
		t := taskOf(o)
		if s, ok := was[o.ID]; ok {
			t.Health, t.Started, t.Message = s.Health, s.Started, s.Message
		}
		if o.State.Ended() {
			// A process that was killed from outside while nobody watched, as a reboot
			// does, was lost, not failed: it is made anew whatever its restart policy.
			if o.ExitCode == 128+9 || o.ExitCode == 128+15 || o.ExitCode == lostCode {
				l.clearLater(o.ID)
				continue
			}
			l.tasks[o.ID] = t
			t.State, t.exit = bulkhead.TaskRunning, &Exit{ID: o.ID, ExitCode: o.ExitCode, Time: o.Ended}
			l.post(func() { l.exited(*t.exit) })
			continue
		}
		if i := slices.IndexFunc(endpoints, func(e Endpoint) bool { return e.Task == o.ID }); i >= 0 {
			t.Address = endpoints[i].Address
		} else if o.State == bulkhead.TaskPrepared {
			l.clearLater(o.ID)
			continue
		}
		l.tasks[o.ID] = t
		if t.State == bulkhead.TaskRunning {
			l.post(func() { l.startProbe(l.context(), t) })
			if _, err := l.a.c.Logs.Open(l.name, t.Service, t.ID); err != nil {
				l.log.Error("reopen log", "task", t.ID, "err", err)
			}
		}
	}
	for _, e := range endpoints {
		if l.tasks[e.Task] == nil {
			l.clearLater(e.Task)
		}
	}
	l.publish(plan.Tasks(l.assignment.Stamp, l.list(), time.Now()))
}

func (l *stampLoop) context() context.Context {
	l.a.mu.Lock()
	defer l.a.mu.Unlock()
	return l.a.ctx
}

// clearLater clears what is left of a task that is not in tasks.
func (l *stampLoop) clearLater(id bulkhead.TaskID) {
	l.post(func() {
		l.steps.Go(func() {
			if err := l.clear(l.context(), id); err != nil {
				l.log.Error("clear leftover", "task", id, "err", err)
			}
		})
	})
}

// teardown removes the stamp itself once no task is left.
func (l *stampLoop) teardown(ctx context.Context, next *plan.Next) {
	switch {
	case l.deleted:
		next.Phase = bulkhead.PhaseDeleted
		return
	case len(l.tasks) > 0:
		for id, t := range l.tasks { // records of tasks that ended by themselves
			if t.State.Ended() && !t.busy {
				delete(l.tasks, id)
			}
		}
		if len(l.tasks) > 0 {
			next.Phase = bulkhead.PhaseDeleting
			return
		}
	}
	next.Phase = bulkhead.PhaseDeleting
	if l.tearing || time.Now().Before(l.retryAt) {
		return
	}
	l.tearing = true
	s := l.assignment.Stamp
	l.steps.Go(func() {
		err := l.raze(ctx, s)
		if ctx.Err() != nil {
			return
		}
		l.post(func() {
			l.tearing = false
			if err != nil {
				l.log.Error("remove stamp", "err", err)
				l.retryAt = time.Now().Add(5 * time.Second)
				return
			}
			l.retryAt = time.Time{}
			l.deleted = l.assignment.Stamp.Desired == bulkhead.DesiredDeleted && l.assignment.Stamp.Purge == s.Purge
			l.saveTasks()
		})
	})
}

// tell publishes what changed: to the gateway and the names at once, to the
// servers through the session.
func (l *stampLoop) tell(next plan.Next) {
	s := l.assignment.Stamp
	if next.Phase == bulkhead.PhaseRunning && l.readyGen != s.Generation {
		now := time.Now()
		l.ready, l.readyGen = &now, s.Generation
	}
	// A stamp that was never up is starting, not degraded, while it still tries.
	if next.Phase == bulkhead.PhaseDegraded && l.reported.Ready == nil && l.ready == nil {
		next.Phase = bulkhead.PhaseStarting
	}
	changed := l.publish(next)
	status := bulkhead.StampStatus{
		Name: s.Name, UID: s.UID, Node: l.a.node, Epoch: s.Epoch, Generation: s.Generation,
		Phase: next.Phase, Message: next.Message, Tasks: l.view.Load().Tasks, Ready: l.ready,
	}
	if !reflect.DeepEqual(status, l.reported) {
		if status.Phase != l.reported.Phase {
			l.phaseEvent(l.reported.Phase, status)
		}
		l.reported = status
		l.a.reports.status(status)
	}
	if changed {
		l.a.c.Changed()
	}
}

// publish swaps the view and the stamp's names; it tells whether anything changed.
func (l *stampLoop) publish(next plan.Next) bool {
	view := &plan.Local{Stamp: l.assignment.Stamp, Tasks: l.list(), Phase: next.Phase, Message: next.Message}
	slices.SortFunc(view.Tasks, func(a, b bulkhead.Task) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Slot, b.Slot), a.Created.Compare(b.Created))
	})
	old := l.view.Load()
	if reflect.DeepEqual(old, view) {
		return false
	}
	l.view.Store(view)
	if view.Stamp.Desired != bulkhead.DesiredDeleted {
		l.a.c.Network.Names(l.name, namesOf(view.Stamp, view.Tasks))
	}
	if !slices.EqualFunc(old.Tasks, view.Tasks, func(a, b bulkhead.Task) bool {
		return a.ID == b.ID && a.State == b.State && a.Health == b.Health
	}) {
		l.saveTasks()
	}
	return true
}

func (l *stampLoop) phaseEvent(was bulkhead.Phase, s bulkhead.StampStatus) {
	switch s.Phase {
	case bulkhead.PhaseRunning, bulkhead.PhaseDegraded, bulkhead.PhaseFailed, bulkhead.PhaseStopped, bulkhead.PhaseDeleted:
		m := s.Message
		if m == "" {
			m = fmt.Sprintf("%s, was %s", s.Phase, cmp.Or(was, bulkhead.PhasePending))
		}
		l.a.reports.event(bulkhead.Event{Time: time.Now(), Type: "stamp." + string(s.Phase), Stamp: s.Name, Node: s.Node, Message: m})
	}
}

func (l *stampLoop) event(kind string, t *task, message string) {
	l.a.reports.event(bulkhead.Event{
		Time: time.Now(), Type: kind, Stamp: l.name, Node: l.a.node, Task: t.ID, Message: message,
	})
}

func (l *stampLoop) saveTasks() {
	var out []savedTask
	for _, id := range slices.Sorted(maps.Keys(l.tasks)) {
		t := l.tasks[id]
		if !t.drop {
			out = append(out, savedTask{Task: t.Task, Care: t.care})
		}
	}
	if err := l.a.saveTasks(l.name, out); err != nil {
		l.log.Error("save tasks", "err", err)
	}
}

func instance() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// mailbox is an unbounded queue of what a loop has yet to hear. It is unbounded
// so that no step ever waits for its loop; what is in it is bounded by the tasks.
type mailbox struct {
	mu   sync.Mutex
	todo []func() // guarded by mu
	wake chan struct{}
}

func (m *mailbox) put(f func()) {
	m.mu.Lock()
	m.todo = append(m.todo, f)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	todo := m.todo
	m.todo = nil
	return todo
}
