// Package agent is a node's own loop: it runs the stamps that the servers
// assigned to its node, and goes on doing so when no server answers.
//
// It keeps its assignments on disk and what runs in the runtime's labels, so a
// restarted agent adopts running tasks without touching them. What should happen
// next is decided by plan.Tasks; the agent performs it through the interfaces in
// seams.go: Control, Runtime, Network, Volumes, Logs, Files.
//
// It does not decide where a stamp runs (the controller does), and it never sees
// another node's data. Start with Agent.Run here, then stamp.go: one loop per
// stamp, one goroutine per step under way and per task that is probed.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead"
	"bulkhead/plan"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Config is what an agent works with. Every field but those with a default is
// required.
type Config struct {
	Node func() bulkhead.Node // describes this machine now
	Dir  string               // assignments are kept here, 0700
	Run  string               // short-lived files of tasks, on tmpfs, 0700

	Control Control
	Runtime Runtime
	Network Network
	Volumes Volumes
	Logs    Logs
	Files   Files
	Keys    Keys

	// Dial reaches the agent of another node, to copy a stamp from there; that end calls
	// Serve. Default: other nodes are not reached.
	Dial func(ctx context.Context, node bulkhead.Peer) (net.Conn, error)

	// Rest waits, not for long, until nobody's request is on its way to a task that takes
	// none any more. Default: nothing is waited for.
	Rest func(ctx context.Context, task netip.Addr)
	// Changed is called whenever what Stamps, Places or Peers returns has changed. It
	// must not block.
	Changed func()
	// Servers is told the addresses of all servers whenever they may have changed.
	// It must not block. Default: nobody is told.
	Servers func([]string)

	Log *slog.Logger
	// Parallel bounds the tasks that are made or cleared away at the same time;
	// default 8. What only waits (a download, a task that takes its time to stop)
	// does not count.
	Parallel int
}

// Agent runs the stamps of one node.
type Agent struct {
	c       Config
	log     *slog.Logger
	node    bulkhead.NodeName
	disk    disk
	farm    *farm
	places  chan struct{} // one for every task that is being made or cleared away
	reports *reports
	pace    *rate.Limiter // of bytes that are copied of stamps that come

	settled chan struct{} // see Settled
	settle  func()        // closes it

	mu     sync.Mutex
	stamps map[bulkhead.StampName]*stampLoop // guarded by mu
	copies map[string]*incoming              // by move; guarded by mu
	runOn  map[bulkhead.StampName]string     // moves whose copies stamps here run on; guarded by mu
	group  *errgroup.Group                   // guarded by mu; nil before Run
	ctx    context.Context                   // of Run; guarded by mu
}

// New makes an agent. It starts nothing.
func New(c Config) *Agent {
	if c.Parallel <= 0 {
		c.Parallel = 8
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Rest == nil {
		c.Rest = func(context.Context, netip.Addr) {}
	}
	if c.Dial == nil {
		c.Dial = func(context.Context, bulkhead.Peer) (net.Conn, error) {
			return nil, bulkhead.Errorf(bulkhead.ErrUnavailable, "this node does not reach others: it advertises no address")
		}
	}
	if c.Servers == nil {
		c.Servers = func([]string) {}
	}
	d, name, settled := disk{c.Dir, c.Keys}, c.Node().Name, make(chan struct{})
	return &Agent{
		settled: settled, settle: sync.OnceFunc(func() { close(settled) }),
		c: c, log: c.Log, disk: d, farm: newFarm(d, name), node: name, places: make(chan struct{}, c.Parallel),
		reports: newReports(), pace: rate.NewLimiter(rate.Inf, paceStep), stamps: map[bulkhead.StampName]*stampLoop{}, copies: map[string]*incoming{}, runOn: map[bulkhead.StampName]string{},
	}
}

// Run adopts what runs and works until ctx ends. Tasks go on running after that.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	a.mu.Lock()
	a.group, a.ctx = g, ctx
	a.mu.Unlock()

	g.Go(func() error {
		exits := a.c.Runtime.Exits(ctx) // before adoption, so that no exit falls between
		if err := a.adopt(ctx); err != nil {
			return err
		}
		after := time.AfterFunc(settleMost, a.settle)
		g.Go(func() error { return a.dispatchExits(ctx, exits) })
		g.Go(func() error { return a.converse(ctx) })
		g.Go(func() error {
			defer after.Stop()
			a.keep(ctx)
			return nil
		})
		return nil
	})
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// settleMost is how long a node that starts asks the servers what of its stamps is
// elsewhere by now before it goes by what it has on disk.
const settleMost = 2 * time.Second

// Settled is closed when what Stamps returns is not older than the servers' word, or
// when they have not given it in time. Until then it may show what a node had before it
// was away: routes should not be made of it.
func (a *Agent) Settled() <-chan struct{} { return a.settled }

// settleSoon calls settle when every loop has published what it has been told so far.
func (a *Agent) settleSoon() {
	select {
	case <-a.settled:
		return
	default:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	left := new(atomic.Int64)
	left.Store(int64(len(a.stamps)) + 1)
	told := func() {
		if left.Add(-1) == 0 {
			a.settle()
		}
	}
	for _, loop := range a.stamps {
		loop.post(func() { loop.post(told) }) // the second comes after the first's round
	}
	told()
}

// Stamps is what this node knows of its stamps, by name.
func (a *Agent) Stamps() []plan.Local {
	a.mu.Lock()
	loops := slices.Collect(maps.Values(a.stamps))
	a.mu.Unlock()
	out := make([]plan.Local, 0, len(loops))
	for _, l := range loops {
		out = append(out, *l.view.Load())
	}
	slices.SortFunc(out, func(x, y plan.Local) int {
		if x.Stamp.Name < y.Stamp.Name {
			return -1
		}
		return 1
	})
	return out
}

// adopt takes up what an earlier life of the agent left: assignments on disk,
// containers and networks on the machine.
func (a *Agent) adopt(ctx context.Context) error {
	saved, err := a.load()
	if err != nil {
		return err
	}
	if err := a.farm.load(); err != nil { // it comes again with the next session
		a.log.Error("adopt", "err", err)
	}
	observed, err := a.observe(ctx)
	if err != nil {
		return err
	}
	endpoints, err := a.c.Network.List(ctx)
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	started := time.Now()
	var loops []*stampLoop
	living := map[bulkhead.TaskID]bool{}
	for _, s := range saved {
		if s.blind {
			guess(&s.assignment.Stamp, observed[s.assignment.Stamp.Name])
		}
		loop := a.newLoop(s.assignment)
		loop.blind, loop.left = s.blind, s.left
		loop.adopt(s.savedTasks, observed[loop.name], endpoints[loop.name])
		for id, t := range loop.tasks {
			if !t.State.Ended() {
				living[id] = true
			}
		}
		delete(observed, loop.name)
		delete(endpoints, loop.name)
		loops = append(loops, loop)
	}
	if err := a.sweep(living); err != nil {
		a.log.Error("remove files of tasks that are gone", "err", err)
	}
	// What belongs to no assignment is debris of a deletion that was cut short.
	for stamp, tasks := range observed {
		for _, t := range tasks {
			a.log.Warn("remove container without assignment", "task", t.ID)
			if err := a.c.Runtime.Remove(ctx, t.ID); err != nil {
				a.log.Error("remove container", "task", t.ID, "err", err)
			}
		}
		if err := a.c.Runtime.Forget(ctx, stamp); err != nil {
			a.log.Error("forget stamp", "stamp", stamp, "err", err)
		}
	}
	for stamp := range endpoints {
		a.log.Warn("remove network without assignment", "stamp", stamp)
		if err := a.c.Network.Remove(ctx, stamp); err != nil {
			a.log.Error("remove network", "stamp", stamp, "err", err)
		}
	}
	a.mu.Lock()
	for _, loop := range loops {
		a.startLocked(loop)
	}
	a.mu.Unlock()
	a.log.Info("adopted", "stamps", len(saved), "tasks", len(living), "took", time.Since(started).Round(time.Millisecond))
	a.c.Changed()
	return nil
}

// sweep removes the files of tasks that do not live: a former life of the agent
// may have been killed between taking their container and their files away.
func (a *Agent) sweep(living map[bulkhead.TaskID]bool) error {
	entries, err := os.ReadDir(filepath.Dir(a.taskDir("x")))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if id := bulkhead.TaskID(e.Name()); !living[id] {
			err = errors.Join(err, os.RemoveAll(a.taskDir(id)))
		}
	}
	return err
}

// observe lists the containers. While the engine is away it waits.
func (a *Agent) observe(ctx context.Context) (map[bulkhead.StampName][]Observed, error) {
	list, err := a.c.Runtime.List(ctx)
	for err != nil {
		a.log.Warn("list containers", "err", err)
		if err := wait(ctx, time.Second); err != nil {
			return nil, err
		}
		list, err = a.c.Runtime.List(ctx)
	}
	byStamp := map[bulkhead.StampName][]Observed{}
	for _, o := range list {
		stamp := bulkhead.StampName(o.Labels[labelStamp])
		byStamp[stamp] = append(byStamp[stamp], o)
	}
	return byStamp, nil
}

// dispatchExits hands each end of a task to its stamp's loop.
func (a *Agent) dispatchExits(ctx context.Context, exits <-chan Exit) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-exits:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("the runtime's exit feed ended")
			}
			if e.ID == "" {
				a.relist(ctx)
				continue
			}
			if loop := a.loopOf(e.ID); loop != nil {
				loop.post(func() { loop.exited(e) })
			}
		}
	}
}

// relist makes up for exits that were missed while the engine was away.
func (a *Agent) relist(ctx context.Context) {
	began := time.Now()
	byStamp, err := a.observe(ctx)
	if err != nil {
		return // the agent ends
	}
	a.mu.Lock()
	loops := slices.Collect(maps.Values(a.stamps))
	a.mu.Unlock()
	for _, loop := range loops {
		seen := byStamp[loop.name]
		loop.post(func() { loop.compare(seen, began) })
	}
}

func (a *Agent) loopOf(id bulkhead.TaskID) *stampLoop {
	stamp, _, _ := cutTask(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stamps[stamp]
}

// assign gives the agent a stamp, or a new version of one.
func (a *Agent) assign(as bulkhead.Assignment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrivedLocked(as.Stamp.Copy)
	if loop := a.stamps[as.Stamp.Name]; loop != nil {
		a.runOn[as.Stamp.Name] = as.Stamp.Copy
		loop.post(func() { loop.assigned(as) }) // under mu: see end
		return
	}
	a.beginLocked(as)
}

func (a *Agent) beginLocked(as bulkhead.Assignment) {
	loop := a.newLoop(as)
	loop.dirty = true
	a.startLocked(loop)
}

func (a *Agent) startLocked(loop *stampLoop) {
	a.stamps[loop.name], a.runOn[loop.name] = loop, loop.assignment.Stamp.Copy
	ctx := a.ctx
	a.group.Go(func() error {
		loop.run(ctx)
		return nil
	})
}

// end takes a loop out, and lets the next life of its stamp begin if there is one.
// It refuses when the loop has been told something meanwhile.
func (a *Agent) end(loop *stampLoop) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !loop.box.empty() {
		return false
	}
	delete(a.stamps, loop.name)
	delete(a.runOn, loop.name)
	if loop.next != nil {
		a.beginLocked(*loop.next)
	}
	return true
}

// place takes one of the places for tasks that are made or cleared away.
func (a *Agent) place(ctx context.Context) (release func(), err error) {
	select {
	case a.places <- struct{}{}:
		return func() { <-a.places }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// wait pauses; its error is that of ctx.
func wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
