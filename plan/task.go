package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"bulkhead"
)

// Back-off between the tasks of one slot: the first loss is answered at once,
// then the pause doubles from BackoffFirst to BackoffMost. A task that ran for
// Settled ends the streak. A task without a probe that follows a crash, or that is
// to replace one that runs, counts as up only after Proving.
const (
	BackoffFirst = 200 * time.Millisecond
	BackoffMost  = time.Minute
	Settled      = time.Minute
	Proving      = 3 * time.Second
)

// Verb is what to do with a task.
type Verb int

const (
	Create Verb = iota // make the slot's next task and prepare it
	Start              // let a prepared task go
	Stop               // end a running task
	Remove             // drop what is left of a task that never ran or has ended
)

func (v Verb) String() string { return [...]string{"create", "start", "stop", "remove"}[v] }

// Action is one step for one task, with the reason for it.
type Action struct {
	Verb    Verb
	Task    bulkhead.TaskID // empty for Create
	Service bulkhead.ServiceName
	Slot    int
	Hash    string // Create only
	// Restarts and Streak are what the created task starts with.
	Restarts int
	Streak   int
	// Failed: a task that is stopped for this reason counts as lost.
	Failed bool
	Reason string
}

// Next is what Tasks decides.
type Next struct {
	Actions []Action
	// Wake is when the answer may change though nothing else does; zero: never.
	Wake time.Time
	// Phase and Message sum the stamp up.
	Phase   bulkhead.Phase
	Message string
}

// TaskHash addresses everything that a task of s is made from. Equal hashes: the
// task can stay.
func TaskHash(stamp bulkhead.Stamp, s bulkhead.Service) string {
	// What only says when and how often to run does not change a task.
	dependsOn := s.DependsOn // without cycles: compose refuses them
	s.Replicas, s.DependsOn, s.Restart = 0, nil, bulkhead.Restart{}
	s.Budget.CPURequest, s.Budget.MemoryRequest = 0, 0
	s.Image.Reference, s.Image.Size = "", 0
	versions := map[string]int64{}
	for _, name := range s.Secrets {
		versions[name] = stamp.SecretVersions[name]
	}
	var follows []string // with restart: true, a dependency's update is this service's too
	for _, d := range dependsOn {
		if i := slices.IndexFunc(stamp.Services, func(o bulkhead.Service) bool { return d.Restart && o.Name == d.Service }); i >= 0 {
			follows = append(follows, TaskHash(stamp, stamp.Services[i]))
		}
	}
	b, err := json.Marshal(struct {
		Service   bulkhead.Service
		Secrets   map[string]int64
		Restarted int64
		Follows   []string `json:",omitempty"`
	}{s, versions, stamp.Restarted, follows})
	if err != nil {
		panic(fmt.Sprintf("hash service %s: %v", s.Name, err)) // plain data always marshals
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Tasks decides the next steps for one stamp on its node. tasks holds every task
// that the node knows of it: living ones, and for each slot at least the latest
// that ended. The caller performs the actions in any order and at the same time,
// records what came of them in tasks, and calls again; calling again without a
// change gives the same actions.
//
// The rules: every task is prepared at once, so that images, networks and
// containers are made side by side; it starts when the conditions of its
// service's depends_on hold. A task made from something else than its service
// now says is replaced: if the service writes to a volume the old one stops
// before the new one starts (one writer), else the new one must be healthy
// before the old one stops. Either way a new task that cannot even be prepared
// leaves the old one serving. Stopping goes the other way round: dependants first.
func Tasks(stamp bulkhead.Stamp, tasks []bulkhead.Task, now time.Time) Next {
	if stamp.Switching() && stamp.Desired == bulkhead.DesiredRunning {
		stamp.Desired = bulkhead.DesiredStopped // until the other node has it, or this one again
	}
	p := newPlanner(stamp, tasks, now)
	if stamp.Desired == bulkhead.DesiredRunning {
		for _, s := range stamp.Services {
			p.service(s)
		}
	} else {
		for _, s := range stamp.Services {
			p.stopService(s.Name, 0, "stamp is "+string(stamp.Desired))
		}
	}
	p.orphans()
	p.leftovers()
	p.summary()
	return p.next
}

type slotKey struct {
	service bulkhead.ServiceName
	slot    int
}

type planner struct {
	stamp    bulkhead.Stamp
	now      time.Time
	next     Next
	services map[bulkhead.ServiceName]bulkhead.Service
	hashes   map[bulkhead.ServiceName]string
	slots    map[slotKey][]bulkhead.Task // oldest first
	tasks    []bulkhead.Task
	blocked  map[bulkhead.ServiceName]string // why a service's tasks wait
}

func newPlanner(stamp bulkhead.Stamp, tasks []bulkhead.Task, now time.Time) *planner {
	p := &planner{
		stamp: stamp, now: now, tasks: slices.Clone(tasks),
		services: map[bulkhead.ServiceName]bulkhead.Service{},
		hashes:   map[bulkhead.ServiceName]string{},
		slots:    map[slotKey][]bulkhead.Task{},
		blocked:  map[bulkhead.ServiceName]string{},
	}
	slices.SortStableFunc(p.tasks, func(a, b bulkhead.Task) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Slot, b.Slot), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	for _, s := range stamp.Services {
		p.services[s.Name] = s
		p.hashes[s.Name] = TaskHash(stamp, s)
	}
	for _, t := range p.tasks {
		k := slotKey{t.Service, t.Slot}
		p.slots[k] = append(p.slots[k], t)
	}
	return p
}

func (p *planner) do(a Action) { p.next.Actions = append(p.next.Actions, a) }

func (p *planner) wake(at time.Time) {
	if p.next.Wake.IsZero() || at.Before(p.next.Wake) {
		p.next.Wake = at
	}
}

// service plans every slot of a service that should run.
func (p *planner) service(s bulkhead.Service) {
	hash := p.hashes[s.Name]
	waitsFor := p.gate(s)
	for slot := 1; slot <= s.Replicas; slot++ {
		p.slot(s, slot, hash, waitsFor)
	}
	p.stopService(s.Name, s.Replicas, "fewer replicas")
}

// slot plans one slot: at most one task of the wanted hash, and none of another
// once that one can serve.
func (p *planner) slot(s bulkhead.Service, slot int, hash, waitsFor string) {
	var current, last *bulkhead.Task // living; latest that ended; both of the wanted hash
	var lastAny *bulkhead.Task       // latest that ended, of any hash
	var old []bulkhead.Task          // living tasks of another hash
	slotTasks := p.slots[slotKey{s.Name, slot}]
	for i := range slotTasks {
		t := &slotTasks[i]
		switch {
		case t.State.Ended():
			lastAny = t
			if t.Hash == hash {
				last = t
			}
		case t.State == bulkhead.TaskStopping:
			old = append(old, *t)
		case t.Hash == hash:
			current = t
		default:
			old = append(old, *t)
		}
	}

	if current == nil {
		create, at, why := p.again(s, last, lastAny)
		if !create {
			if !at.IsZero() {
				p.wake(at)
			} else if last.State == bulkhead.TaskComplete {
				p.stop(old, "replaced by a task that is complete")
			}
			return
		}
		a := Action{Verb: Create, Service: s.Name, Slot: slot, Hash: hash, Reason: why}
		if lastAny != nil {
			a.Restarts = lastAny.Restarts
		}
		if last != nil {
			a.Restarts++
			a.Streak = streak(*last) + 1
		}
		p.do(a)
		return
	}

	switch {
	case current.State == bulkhead.TaskPrepared && waitsFor != "":
		p.blocked[s.Name] = waitsFor
	case current.State == bulkhead.TaskPrepared && writes(s) && len(old) > 0:
		p.stop(old, "replaced by a task of generation "+fmt.Sprint(p.stamp.Generation))
	case current.State == bulkhead.TaskPrepared:
		p.do(Action{Verb: Start, Task: current.ID, Service: s.Name, Slot: slot, Reason: "its dependencies are up"})
	case current.State == bulkhead.TaskRunning && current.Health == bulkhead.HealthUnhealthy:
		p.do(Action{Verb: Stop, Task: current.ID, Service: s.Name, Slot: slot, Failed: true, Reason: cmp.Or(current.Message, "unhealthy")})
	case p.proven(*current, old):
		p.stop(old, "replaced by a task of generation "+fmt.Sprint(p.stamp.Generation))
	}
}

// proven tells whether a task is as healthy as it has to be: one without a probe
// must run for a moment if it follows a crash, or before an old one goes for it.
func (p *planner) proven(t bulkhead.Task, old []bulkhead.Task) bool {
	if !t.Healthy() {
		return false
	}
	replaces := slices.ContainsFunc(old, func(o bulkhead.Task) bool { return o.State == bulkhead.TaskRunning })
	if end := t.Started.Add(Proving); t.Health == bulkhead.HealthNone && (t.Streak > 0 || replaces) && p.now.Before(end) {
		p.wake(end)
		return false
	}
	return true
}

func (p *planner) stop(tasks []bulkhead.Task, why string) {
	for _, t := range tasks {
		switch t.State {
		case bulkhead.TaskPending, bulkhead.TaskPrepared:
			p.do(Action{Verb: Remove, Task: t.ID, Service: t.Service, Slot: t.Slot, Reason: why})
		case bulkhead.TaskRunning:
			p.do(Action{Verb: Stop, Task: t.ID, Service: t.Service, Slot: t.Slot, Reason: why})
		}
	}
}

// again tells whether a slot without a living task gets one now, or when.
func (p *planner) again(s bulkhead.Service, last, lastAny *bulkhead.Task) (create bool, at time.Time, why string) {
	if last == nil {
		if lastAny == nil {
			return true, time.Time{}, "new"
		}
		return true, time.Time{}, "changed"
	}
	switch last.State {
	case bulkhead.TaskRejected:
		return false, time.Time{}, "" // the same would be rejected again
	case bulkhead.TaskComplete:
		if s.Restart.Policy != bulkhead.RestartAlways {
			return false, time.Time{}, ""
		}
	case bulkhead.TaskFailed:
		// A task that never started (its node could not make it) is always tried again.
		if !last.Started.IsZero() {
			if s.Restart.Policy == bulkhead.RestartNo {
				return false, time.Time{}, ""
			}
			if s.Restart.Policy == bulkhead.RestartOnFailure && s.Restart.Attempts > 0 && streak(*last) >= s.Restart.Attempts {
				return false, time.Time{}, ""
			}
		}
	}
	at = last.Ended.Add(max(Backoff(streak(*last)), s.Restart.Delay))
	if p.now.Before(at) {
		return false, at, ""
	}
	return true, time.Time{}, "restart: " + cmp.Or(last.Message, "it ended")
}

// Backoff is the pause after the n-th loss in a row (0: the first).
func Backoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	d := BackoffFirst
	for range n - 1 {
		if d *= 2; d >= BackoffMost {
			return BackoffMost
		}
	}
	return d
}

// streak is a task's Streak, forgiven when it ran for long.
func streak(t bulkhead.Task) int {
	if !t.Started.IsZero() && t.Ended.Sub(t.Started) >= Settled {
		return 0
	}
	return t.Streak
}

// writes tells whether two tasks of the service must never run at the same time.
func writes(s bulkhead.Service) bool {
	return slices.ContainsFunc(s.Mounts, func(m bulkhead.Mount) bool {
		return m.Kind == bulkhead.MountVolume && !m.ReadOnly
	})
}

// gate says what the service still waits for, or "".
func (p *planner) gate(s bulkhead.Service) string {
	for _, d := range s.DependsOn {
		dep, ok := p.services[d.Service]
		if !ok {
			if d.Required {
				return fmt.Sprintf("waits for %s, which this stamp does not have", d.Service)
			}
			continue
		}
		for slot := 1; slot <= dep.Replicas; slot++ {
			if !p.reached(dep, slot, d.Condition) {
				what := map[bulkhead.Condition]string{
					bulkhead.ConditionStarted:   "to start",
					bulkhead.ConditionHealthy:   "to be healthy",
					bulkhead.ConditionCompleted: "to complete",
				}[d.Condition]
				return fmt.Sprintf("waits for %s %s", d.Service, what)
			}
		}
	}
	return ""
}

// reached tells whether the slot's task of the wanted hash meets the condition.
func (p *planner) reached(dep bulkhead.Service, slot int, c bulkhead.Condition) bool {
	for _, t := range p.slots[slotKey{dep.Name, slot}] {
		if t.Hash != p.hashes[dep.Name] {
			continue
		}
		switch c {
		case bulkhead.ConditionCompleted:
			if t.State == bulkhead.TaskComplete {
				return true
			}
		case bulkhead.ConditionHealthy:
			if t.Healthy() {
				return true
			}
		default:
			if t.State == bulkhead.TaskRunning || t.State == bulkhead.TaskComplete {
				return true
			}
		}
	}
	return false
}

// stopService stops the living tasks of slots above most, dependants first.
func (p *planner) stopService(name bulkhead.ServiceName, most int, why string) {
	if p.stamp.Desired != bulkhead.DesiredRunning {
		for _, other := range p.stamp.Services {
			for _, d := range other.DependsOn {
				if d.Service == name && d.Condition != bulkhead.ConditionCompleted && p.alive(other.Name) {
					return
				}
			}
		}
	}
	for _, t := range p.tasks {
		if t.Service == name && t.Slot > most {
			p.stop([]bulkhead.Task{t}, why)
		}
	}
}

func (p *planner) alive(name bulkhead.ServiceName) bool {
	return slices.ContainsFunc(p.tasks, func(t bulkhead.Task) bool {
		return t.Service == name && (t.State == bulkhead.TaskRunning || t.State == bulkhead.TaskStopping)
	})
}

// orphans stops the tasks of services that the stamp no longer has.
func (p *planner) orphans() {
	for _, t := range p.tasks {
		if _, ok := p.services[t.Service]; !ok {
			p.stop([]bulkhead.Task{t}, "the service is no longer part of the stamp")
		}
	}
}

// leftovers drops the records of tasks that tell nothing any more: of each slot
// the latest that ended stays, and of a slot that should not exist none. Of a stamp
// that does not run only what is complete stays: the rest gets another chance
// when it is started again.
func (p *planner) leftovers() {
	for _, t := range p.tasks {
		if !t.State.Ended() {
			continue
		}
		s, ok := p.services[t.Service]
		slot := p.slots[slotKey{t.Service, t.Slot}]
		latest := slot[len(slot)-1].ID == t.ID
		for i := len(slot) - 1; i >= 0 && !latest; i-- { // the latest among the ended
			if slot[i].State.Ended() {
				latest = slot[i].ID == t.ID
				break
			}
		}
		stale := p.stamp.Desired != bulkhead.DesiredRunning && t.State != bulkhead.TaskComplete
		if !ok || t.Slot > s.Replicas || !latest || stale {
			p.do(Action{Verb: Remove, Task: t.ID, Service: t.Service, Slot: t.Slot, Reason: "superseded"})
		}
	}
}
