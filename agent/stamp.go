package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
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
	// blind: the assignment on disk could not be believed, and what is in its place is
	// guessed. What runs goes on; nothing is done until the servers say what it should be.
	blind    bool
	tasks    map[bulkhead.TaskID]*task
	ready    *time.Time // when readyOf was first up; nil: never
	readyOf  int64      // the latest generation that was up
	reported bulkhead.StampStatus
	deleted  bool                 // everything is gone
	forget   bool                 // end the loop when everything is gone
	bury     bool                 // and report that then
	next     *bulkhead.Assignment // the stamp's next life, which begins then
	tearing  bool                 // the step that removes the stamp is under way
	retryAt  time.Time            // of that step; zero: now
	left     bool                 // it moved to another node: what it has here is set aside for a while only
	settled  string               // the move whose copy is known to be the stamp's data
	// stillness is who waits for the stamp to stand still.
	stillness []stillness

	ground ground   // what all tasks of the stamp stand on
	due    []func() // steps decided, not begun
	steps  sync.WaitGroup
}

// task is a bulkhead.Task and what the agent must remember to look after it.
type task struct {
	bulkhead.Task
	care   care
	made   time.Time          // when it was prepared; zero: in an earlier life
	busy   bool               // a step for it is under way
	cancel context.CancelFunc // of that step
	drop   bool               // forget it when it has ended
	exit   *Exit              // its end, if heard of
	probe  context.CancelFunc
}

func (a *Agent) newLoop(as bulkhead.Assignment) *stampLoop {
	l := &stampLoop{
		a: a, name: as.Stamp.Name, log: a.log.With("stamp", as.Stamp.Name),
		assignment: as, tasks: map[bulkhead.TaskID]*task{},
		box: mailbox{wake: make(chan struct{}, 1)}, ground: ground{turn: make(chan struct{}, 1)},
	}
	l.view.Store(&plan.Local{Stamp: as.Stamp, Phase: bulkhead.PhasePending})
	l.takeOver(as)
	return l
}

// takeOver takes up what was completed at the node that had the stamp before.
func (l *stampLoop) takeOver(as bulkhead.Assignment) {
	for _, t := range as.Completed {
		if t.State == bulkhead.TaskComplete && l.tasks[t.ID] == nil {
			l.tasks[t.ID] = &task{Task: t}
		}
	}
	l.assignment.Completed = nil
}

func (l *stampLoop) post(f func()) { l.box.put(f) }

// run is the loop: hear what happened, decide, act, tell.
func (l *stampLoop) run(ctx context.Context) {
	defer l.steps.Wait()
	defer func() {
		for _, w := range l.stillness {
			w.ended <- bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is not here any more", l.name)
		}
		for _, t := range l.tasks {
			t.stopProbe()
		}
	}()
	for ctx.Err() == nil {
		for _, f := range l.box.take() {
			f()
		}
		if l.blind {
			l.publish(plan.Next{Phase: bulkhead.PhasePending, Message: "its assignment on the disk of its node is damaged"})
			l.sleep(ctx, time.Time{})
			continue
		}
		now := time.Now()
		next := plan.Tasks(l.assignment.Stamp, l.list(), now)
		stuck := true
		if err := l.save(); err != nil {
			// Nothing is done that could not be found again after a crash.
			l.log.Error("save assignment", "err", err)
			next.Message, next.Wake = "cannot be saved on its node: "+oneLine(err), now.Add(time.Second)
		} else if err := l.settle(); err != nil {
			l.log.Error("take over the data", "err", err)
			next.Phase, next.Message, next.Wake = bulkhead.PhaseFailed, oneLine(err), now.Add(time.Second)
		} else if stuck = false; !l.tearing { // what is being torn down is not built on
			for _, action := range next.Actions {
				l.perform(ctx, action)
			}
		}
		if l.assignment.Stamp.Desired == bulkhead.DesiredDeleted && !stuck {
			l.teardown(ctx, &next)
		}
		l.tell(next)
		l.tellStill()
		if l.deleted && l.forget {
			l.a.reports.forget(l.name)
			if err := l.a.deleteSaved(l.name); err != nil {
				l.log.Error("delete assignment", "err", err)
			}
			if l.a.end(l) {
				if l.bury {
					l.a.reports.gone(ref(l.assignment.Stamp))
				}
				l.a.c.Changed()
				return
			}
			l.dirty = true
			continue
		}
		// Steps begin when what they change has been told: the gateway sends nothing
		// more to a task that is about to be stopped.
		for _, begin := range l.due {
			l.steps.Go(begin)
		}
		l.due = nil
		l.sleep(ctx, next.Wake)
	}
}

// settle makes sure that what a stamp which came from another node runs on is the
// copy that came with it, before anything is made for it.
func (l *stampLoop) settle() error {
	s := l.assignment.Stamp
	if s.Copy == l.settled || l.tearing || l.forget || l.deleted {
		return nil
	}
	if s.Copy == "" { // it was placed anew, and brought nothing
		l.settled = ""
		return nil
	}
	switch holds, err := l.a.c.Volumes.Holds(ref(s), s.Copy); {
	case err != nil:
		return err
	case !holds && !l.still(): // it is from before the stamp went elsewhere and came back
		for _, t := range l.tasks {
			if t.State == bulkhead.TaskRunning && !t.busy {
				l.stop(l.context(), t, "its data is not the stamp's any more", false)
			}
		}
		return fmt.Errorf("what it ran on is not its data any more")
	case !holds:
		err := l.a.c.Volumes.Install(ref(s), s.Copy)
		if err != nil && (s.Desired != bulkhead.DesiredDeleted || !errors.Is(err, bulkhead.ErrNotFound)) {
			return err
		}
	}
	l.settled = s.Copy
	return nil
}

// save makes the assignment durable if it is not.
func (l *stampLoop) save() error {
	if !l.dirty {
		return nil
	}
	if err := l.a.saveAssignment(l.assignment, l.left); err != nil {
		return err
	}
	l.dirty = false
	return nil
}

func (l *stampLoop) sleep(ctx context.Context, until time.Time) {
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
	if l.blind && (old.UID == "" || old.UID == as.Stamp.UID) {
		l.blind, l.assignment, l.dirty = false, as, true
		return
	}
	if as.Stamp.UID != old.UID {
		// Another life under the same name shares nothing with this one: it begins
		// when nothing is left of it.
		l.next = &as
		l.forgotten(ref(old))
		return
	}
	l.next = nil
	if as.Stamp.Epoch < old.Epoch {
		l.log.Warn("assignment of an older epoch", "epoch", as.Stamp.Epoch, "have", old.Epoch)
		return
	}
	l.takeOver(as)
	as.Completed = nil
	if reflect.DeepEqual(as, l.assignment) {
		return
	}
	l.assignment, l.dirty, l.left = as, true, false
	if l.deleted && (as.Stamp.Desired != bulkhead.DesiredDeleted || as.Stamp.Purge) {
		l.deleted = false
	}
	l.forget = false
}

// forgotten ends the stamp on this node for good.
func (l *stampLoop) forgotten(ref bulkhead.StampRef) {
	if l.next != nil && ref.UID == l.next.Stamp.UID {
		l.next = nil
		return
	}
	if ref.UID != l.assignment.Stamp.UID || ref.Epoch < l.assignment.Stamp.Epoch {
		return
	}
	l.blind = false
	if l.assignment.Stamp.Desired != bulkhead.DesiredDeleted {
		// It belongs elsewhere now: what it wrote here is set aside, not destroyed. If it
		// moved, the data that counts is there.
		l.assignment.Stamp.Desired, l.dirty = bulkhead.DesiredDeleted, true
		l.left = l.assignment.Stamp.Switching() && ref.Epoch > l.assignment.Stamp.Epoch
	}
	l.forget = true
}

// purged ends the stamp on this node and destroys its data, if it is this life of the stamp
// that was purged, and tells whether it is.
func (l *stampLoop) purged(ref bulkhead.StampRef) bool {
	s := &l.assignment.Stamp
	switch {
	case s.UID == "": // nobody knows which life this is; the next session asks again
		return true
	case ref.UID != s.UID:
		if l.next != nil && ref.UID == l.next.Stamp.UID {
			l.next = nil
		}
		return false
	case ref.Epoch < s.Epoch:
		l.log.Error("ordered to purge under an older epoch", "epoch", ref.Epoch, "have", s.Epoch)
		return true
	}
	if s.Desired != bulkhead.DesiredDeleted || !s.Purge || l.left {
		s.Desired, s.Purge, l.left, l.dirty = bulkhead.DesiredDeleted, true, false, true
		l.deleted = false // what was set aside goes, too
	}
	l.blind, l.forget, l.bury = false, true, true
	return true
}

// perform begins one action; tasks with a step under way are left alone.
func (l *stampLoop) perform(ctx context.Context, a plan.Action) {
	if a.Verb == plan.Create {
		l.create(ctx, a)
		return
	}
	t := l.tasks[a.Task]
	switch {
	case t == nil:
		return
	case t.busy:
		if a.Verb == plan.Remove && t.State == bulkhead.TaskPending { // nobody waits for it any more
			t.drop = true
			t.cancel()
		}
		return
	}
	switch a.Verb {
	case plan.Start:
		l.step(ctx, t, func(ctx context.Context) error { return l.a.c.Runtime.Start(ctx, t.ID) }, func(err error) {
			switch {
			case errors.Is(err, bulkhead.ErrInvalid):
				l.ended(ctx, t, bulkhead.TaskRejected, l.explain(err))
			case err != nil: // it may run all the same
				l.stop(ctx, t, l.explain(err), true)
			default:
				t.State, t.Started = bulkhead.TaskRunning, time.Now()
				l.startProbe(ctx, t)
			}
		})
	case plan.Stop:
		if a.Failed {
			l.event("task.unhealthy", t, a.Reason)
		}
		l.stop(ctx, t, a.Reason, a.Failed)
	case plan.Remove:
		if t.State.Ended() { // cleaned up already
			delete(l.tasks, t.ID)
			return
		}
		t.drop = true
		l.ended(ctx, t, bulkhead.TaskComplete, a.Reason)
	}
}

// stop ends a task's process, however long that takes: until then the task counts
// as one that may write. failed tells that something is wrong with it.
func (l *stampLoop) stop(ctx context.Context, t *task, reason string, failed bool) {
	t.State, t.Message, t.drop = bulkhead.TaskStopping, reason, !failed
	t.stopProbe()
	id, signal, grace, address := t.ID, t.care.Signal, t.care.Grace, t.Address
	l.step(ctx, t, func(ctx context.Context) error {
		if !failed && address.IsValid() {
			l.a.c.Rest(ctx, address)
		}
		return l.insist(ctx, "stop task", id, func() error {
			err := l.a.c.Runtime.Stop(ctx, id, signal, grace)
			if errors.Is(err, bulkhead.ErrInvalid) { // no such signal
				err = l.a.c.Runtime.Stop(ctx, id, "SIGKILL", 0)
			}
			return err
		})
	}, func(error) {
		state := bulkhead.TaskComplete
		if failed {
			state = bulkhead.TaskFailed
		}
		l.ended(ctx, t, state, reason)
	})
}

// explain is an error's one line for users.
func (l *stampLoop) explain(err error) string {
	return conceal(oneLine(err), l.assignment.Secrets)
}

// prepareMost bounds the preparation of a task, downloads included, so that what
// hangs is seen and tried again.
const prepareMost = 15 * time.Minute

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
		ctx, cancel := context.WithTimeoutCause(ctx, prepareMost, fmt.Errorf("not prepared within %s", prepareMost))
		defer cancel()
		if endpoint, err = l.prepare(ctx, as, record, service); err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}, func(err error) {
		switch {
		case t.drop:
			l.ended(ctx, t, bulkhead.TaskComplete, "")
		case err != nil:
			l.ended(ctx, t, failure(err), l.explain(err))
		default:
			t.State, t.Address, t.made = bulkhead.TaskPrepared, endpoint.Address, time.Now()
		}
	})
}

// step runs do beside the loop and done on it.
func (l *stampLoop) step(ctx context.Context, t *task, do func(context.Context) error, done func(error)) {
	within, cancel := context.WithCancel(ctx)
	t.busy, t.cancel = true, cancel
	l.due = append(l.due, func() {
		err := do(within)
		cancel()
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
	t.exit, t.ExitCode, t.OOM = &e, e.ExitCode, t.OOM || e.OOM
	if t.busy {
		return // the end of the step hears of it
	}
	state := bulkhead.TaskFailed
	if e.ExitCode == 0 {
		state = bulkhead.TaskComplete
	}
	l.ended(l.context(), t, state, exitMessage(t))
}

// endOf is when the task's process ended, as far as that is known.
func endOf(t *task) time.Time {
	now := time.Now()
	if t.exit == nil || t.exit.Time.After(now) || t.exit.Time.Before(t.Started) || t.exit.Time.Before(t.Created) {
		return now
	}
	return t.exit.Time
}

func exitMessage(t *task) string {
	ran := ""
	if !t.Started.IsZero() {
		ran = " after " + endOf(t).Sub(t.Started).Round(time.Millisecond).String()
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
func (l *stampLoop) ended(ctx context.Context, t *task, state bulkhead.TaskState, message string) {
	t.stopProbe()
	t.State, t.Message, t.Ended = state, message, endOf(t)
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
	l.step(ctx, t, func(ctx context.Context) error { return l.clear(ctx, id) }, func(error) {
		if t.drop {
			delete(l.tasks, id)
			l.saveTasks()
		}
	})
}

// compare takes the runtime's word for what ran at the given time, after exits may
// have been missed. Of tasks that were not prepared before that it says nothing.
func (l *stampLoop) compare(seen []Observed, at time.Time) {
	for id, t := range l.tasks {
		if t.State != bulkhead.TaskRunning && t.State != bulkhead.TaskPrepared || !t.made.Before(at) {
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
func (l *stampLoop) adopt(saved savedTasks, observed []Observed, endpoints []Endpoint) {
	l.ready, l.readyOf, l.reported.Phase = saved.Ready, saved.ReadyOf, saved.Phase
	l.ground.set = len(observed) > 0 // under a ceiling of that life; which, is not known
	was := map[bulkhead.TaskID]savedTask{}
	for _, s := range saved.Tasks {
		was[s.ID] = s
		if s.State.Ended() {
			l.tasks[s.ID] = &task{Task: s.Task, care: s.Care}
		}
	}
	for _, o := range observed {
		t := taskOf(o)
		if l.tasks[o.ID] != nil { // recorded as ended: its clearing was cut short
			if o.State == bulkhead.TaskRunning { // or it was taken for lost and is not
				l.tasks[o.ID] = t
				l.post(func() { l.stop(l.context(), t, "was taken for lost", false) })
				continue
			}
			l.clearLater(o.ID)
			continue
		}
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
			if was[o.ID].State == bulkhead.TaskStopping { // it has done what it was told
				t.State, t.drop = bulkhead.TaskComplete, true
				l.tasks[o.ID] = t
				l.post(func() { l.ended(l.context(), t, bulkhead.TaskComplete, t.Message) })
				continue
			}
			l.tasks[o.ID] = t
			t.State = bulkhead.TaskRunning
			l.post(func() { l.exited(Exit{ID: o.ID, ExitCode: o.ExitCode, Time: o.Ended}) })
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
		if t := l.tasks[e.Task]; t == nil || t.State.Ended() {
			l.clearLater(e.Task)
		}
	}
	for id, s := range was { // what was being made of them may yet appear
		if l.tasks[id] == nil && !s.State.Ended() {
			l.clearLater(id)
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
		l.steps.Go(func() { _ = l.clear(l.context(), id) }) // fails only when the agent ends
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
	if l.tearing || l.dirty {
		return
	}
	if time.Now().Before(l.retryAt) {
		next.Wake = l.retryAt
		return
	}
	l.tearing = true
	s, left := l.assignment.Stamp, l.left
	l.due = append(l.due, func() {
		err := l.raze(ctx, s, left)
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
			l.retryAt, l.settled = time.Time{}, ""
			l.deleted = l.assignment.Stamp.Desired == bulkhead.DesiredDeleted && l.assignment.Stamp.Purge == s.Purge
			l.saveTasks()
		})
	})
}

// tell publishes what changed: to the gateway and the names at once, to the
// servers through the session.
func (l *stampLoop) tell(next plan.Next) {
	s := l.assignment.Stamp
	if next.Phase == bulkhead.PhaseRunning && (l.ready == nil || l.readyOf != s.Generation) {
		now := time.Now()
		l.ready, l.readyOf = &now, s.Generation
	}
	// A stamp that was never up is starting, not degraded, while it still tries.
	if next.Phase == bulkhead.PhaseDegraded && l.ready == nil {
		next.Phase = bulkhead.PhaseStarting
	}
	changed := l.publish(next)
	status := bulkhead.StampStatus{
		Name: s.Name, UID: s.UID, Node: l.a.node, Epoch: s.Epoch, Generation: s.Generation,
		Phase: next.Phase, Message: next.Message, Tasks: l.view.Load().Tasks,
	}
	if l.readyOf == s.Generation {
		status.Ready = l.ready
	}
	if !reflect.DeepEqual(status, l.reported) {
		was := l.reported.Phase
		l.reported = status
		l.a.reports.status(status)
		if status.Phase != was {
			l.phaseEvent(was, status)
			l.saveTasks()
		}
	}
	if changed {
		l.a.c.Changed()
	}
}

// publish swaps the view and the stamp's names; it tells whether anything changed.
func (l *stampLoop) publish(next plan.Next) bool {
	view := &plan.Local{Stamp: l.assignment.Stamp, Tasks: l.list(), Phase: next.Phase, Message: next.Message, Left: l.left}
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
	if l.assignment.Stamp.Switching() { // the move tells
		return
	}
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
	out := savedTasks{Phase: l.reported.Phase, Ready: l.ready, ReadyOf: l.readyOf}
	for _, id := range slices.Sorted(maps.Keys(l.tasks)) {
		t := l.tasks[id]
		saved := savedTask{Task: t.Task, Care: t.care}
		if t.drop && t.State.Ended() { // until nothing is left of it: it did not end by itself
			saved.State = bulkhead.TaskStopping
		}
		out.Tasks = append(out.Tasks, saved)
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

func (m *mailbox) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.todo) == 0
}

func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	todo := m.todo
	m.todo = nil
	return todo
}
