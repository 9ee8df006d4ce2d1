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
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/plan"

	"golang.org/x/sync/errgroup"
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

	// Seal and Open protect the secrets of assignments at rest.
	Seal func(uid string, secrets map[string]string) ([]byte, error)
	Open func(uid string, sealed []byte) (map[string]string, error)

	// Changed is called whenever what Stamps returns has changed. It must not block.
	Changed func()

	Log *slog.Logger
	// Parallel bounds the steps under way at the same time; default 8.
	Parallel int
}

// Agent runs the stamps of one node.
type Agent struct {
	c       Config
	log     *slog.Logger
	node    bulkhead.NodeName
	steps   chan struct{} // a place per step under way
	reports *reports

	mu     sync.Mutex
	stamps map[bulkhead.StampName]*stampLoop // guarded by mu
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
	return &Agent{
		c: c, log: c.Log, node: c.Node().Name, steps: make(chan struct{}, c.Parallel),
		reports: newReports(), stamps: map[bulkhead.StampName]*stampLoop{},
	}
}

// Run adopts what runs and works until ctx ends. Tasks go on running after that.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	a.mu.Lock()
	a.group, a.ctx = g, ctx
	a.mu.Unlock()

	exits := a.c.Runtime.Exits(ctx) // before adoption, so that no exit falls between
	if err := a.adopt(ctx); err != nil {
		return err
	}
	g.Go(func() error { return a.dispatchExits(ctx, exits) })
	g.Go(func() error { return a.converse(ctx) })
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
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
	observed, err := a.observe(ctx)
	if err != nil {
		return err
	}
	endpoints, err := a.c.Network.List(ctx)
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	started := time.Now()
	adopted := 0
	for _, s := range saved {
		loop := a.newLoop(s.assignment)
		loop.adopt(s.tasks, observed[s.assignment.Stamp.Name], endpoints[s.assignment.Stamp.Name])
		adopted += len(loop.tasks)
		delete(observed, s.assignment.Stamp.Name)
		delete(endpoints, s.assignment.Stamp.Name)
		a.start(loop)
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
	a.log.Info("adopted", "stamps", len(saved), "tasks", adopted, "took", time.Since(started).Round(time.Millisecond))
	a.c.Changed()
	return nil
}

// observe lists the containers, waiting for the engine if it is just starting.
func (a *Agent) observe(ctx context.Context) (map[bulkhead.StampName][]Observed, error) {
	list, err := a.c.Runtime.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
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
	byStamp, err := a.observe(ctx)
	if err != nil {
		a.log.Warn("list after a gap in the exit feed", "err", err)
		return
	}
	a.mu.Lock()
	loops := slices.Collect(maps.Values(a.stamps))
	a.mu.Unlock()
	for _, loop := range loops {
		seen := byStamp[loop.name]
		loop.post(func() { loop.compare(seen) })
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
	loop, ok := a.stamps[as.Stamp.Name]
	a.mu.Unlock()
	if ok {
		loop.post(func() { loop.assigned(as) })
		return
	}
	loop = a.newLoop(as)
	loop.dirty = true
	a.start(loop)
}

func (a *Agent) start(loop *stampLoop) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stamps[loop.name] = loop
	g, ctx := a.group, a.ctx
	g.Go(func() error {
		loop.run(ctx)
		return nil
	})
}

// forgetLoop ends a stamp's loop for good.
func (a *Agent) forgetLoop(name bulkhead.StampName) {
	a.mu.Lock()
	delete(a.stamps, name)
	a.mu.Unlock()
	a.c.Changed()
}

// step takes one of the places for steps under way.
func (a *Agent) step(ctx context.Context) (release func(), err error) {
	select {
	case a.steps <- struct{}{}:
		return func() { <-a.steps }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
