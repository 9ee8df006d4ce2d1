package sim

import (
	"cmp"
	"context"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead"
	"bulkhead/agent"
)

// machine is the agent's Runtime on a pretended machine: containers are entries of a
// map, and run from the moment they are started until they are stopped.
type machine struct {
	changes *atomic.Int64 // to what runs, on all machines

	mu         sync.Mutex // guards containers
	containers map[bulkhead.TaskID]*agent.Observed
}

func newMachine(changes *atomic.Int64) *machine {
	return &machine{changes: changes, containers: map[bulkhead.TaskID]*agent.Observed{}}
}

func (m *machine) change(do func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes.Add(1)
	do()
	return nil
}

func (m *machine) Pull(context.Context, bulkhead.Image) error { return nil }

func (m *machine) Prepare(_ context.Context, c agent.Container) error {
	return m.change(func() {
		m.containers[c.ID] = &agent.Observed{ID: c.ID, Labels: c.Labels, State: bulkhead.TaskPrepared}
	})
}

func (m *machine) Start(_ context.Context, id bulkhead.TaskID) error {
	return m.change(func() {
		if c := m.containers[id]; c != nil {
			c.State = bulkhead.TaskRunning
		}
	})
}

func (m *machine) Stop(_ context.Context, id bulkhead.TaskID, _ string, _ time.Duration) error {
	return m.change(func() {
		if c := m.containers[id]; c != nil {
			c.State, c.Ended = bulkhead.TaskComplete, time.Now()
		}
	})
}

func (m *machine) Remove(_ context.Context, id bulkhead.TaskID) error {
	return m.change(func() { delete(m.containers, id) })
}

func (m *machine) List(context.Context) ([]agent.Observed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []agent.Observed
	for _, c := range m.containers {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b agent.Observed) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Exits delivers nothing: no process ends by itself.
func (m *machine) Exits(ctx context.Context) <-chan agent.Exit {
	exits := make(chan agent.Exit)
	context.AfterFunc(ctx, func() { close(exits) })
	return exits
}

func (m *machine) Exec(context.Context, bulkhead.TaskID, agent.Exec) (int, error) {
	return 0, bulkhead.Errorf(bulkhead.ErrInvalid, "a simulated task runs no commands")
}

func (m *machine) Ceiling(context.Context, bulkhead.StampName, bulkhead.Budget) error { return nil }
func (m *machine) Forget(context.Context, bulkhead.StampName) error                   { return nil }

// network is the agent's Network: every task has the same address, at which nobody
// answers.
type network struct{}

func (network) Join(_ context.Context, _ bulkhead.StampName, task bulkhead.TaskID) (agent.Endpoint, error) {
	return agent.Endpoint{Task: task, Netns: "/none", Address: netip.AddrFrom4([4]byte{192, 0, 2, 2}), Gateway: netip.AddrFrom4([4]byte{192, 0, 2, 1})}, nil
}

func (network) Leave(context.Context, bulkhead.StampName, bulkhead.TaskID) error { return nil }
func (network) Remove(context.Context, bulkhead.StampName) error                 { return nil }
func (network) Names(bulkhead.StampName, []agent.Name)                           {}
func (network) List(context.Context) (map[bulkhead.StampName][]agent.Endpoint, error) {
	return map[bulkhead.StampName][]agent.Endpoint{}, nil
}

// storage is the agent's Volumes, Logs and Files: there is nothing in it.
type storage struct{}

func (storage) Create(bulkhead.StampRef, bulkhead.VolumeName) (string, bool, error) {
	return "/none", false, nil
}
func (storage) Restore(bulkhead.StampRef) error { return bulkhead.ErrNotFound }

func (storage) Open(bulkhead.StampName, bulkhead.ServiceName, bulkhead.TaskID) (string, error) {
	return "/none", nil
}
func (storage) Close(bulkhead.TaskID) error { return nil }
func (storage) Query(context.Context, bulkhead.LogQuery, func(bulkhead.LogLine) error) error {
	return nil
}

func (storage) Bundle(context.Context, bulkhead.Digest) (string, error) { return "/none", nil }

// volumes and logs differ in what Delete takes.
type volumes struct{ storage }

func (volumes) Delete(bulkhead.StampRef, bool) error { return nil }

func (volumes) Send(context.Context, io.ReadWriter, bulkhead.StampRef, bool) error { return nil }

func (volumes) Fetch(context.Context, io.ReadWriter, bulkhead.StampRef, string, bool, func(int64)) (int64, int, error) {
	return 0, 0, nil
}
func (volumes) Holds(_ bulkhead.StampRef, move string) (bool, error) { return move == "", nil }
func (volumes) Install(bulkhead.StampRef, string) error              { return nil }
func (volumes) Leave(bulkhead.StampRef) error                        { return nil }
func (volumes) Sweep(func(string) bool) error                        { return nil }

type logs struct{ storage }

func (logs) Delete(bulkhead.StampName) error { return nil }
