package simulation

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/agent"
	"bulkhead/volume"
)

// machine is what of a node outlives its agents: the kernel, the container engine, the
// disk. Its tasks are pretended; their data is real files, kept by package volume.
type machine struct {
	f      *farm
	node   bulkhead.NodeName
	folder string

	mu         sync.Mutex // guards what follows
	dice       *rand.Rand
	containers map[bulkhead.TaskID]*container
	subnets    map[bulkhead.StampName]int
	endpoints  map[bulkhead.TaskID]agent.Endpoint
	listeners  []chan agent.Exit
	away       int                        // faults that keep the engine away
	slow       int                        // faults that make everything take long
	sick       map[bulkhead.StampName]int // whose probes fail
	seen       map[string]int64           // the newest epoch under which a volume was handed out, by life
}

// container is a task as the engine has it.
type container struct {
	agent.Observed
	image  agent.Container
	known  int    // how many versions of its stamp the node had heard of when it was made
	data   string // the folder to which it writes; empty: none
	unsure bool   // its agent was told that it may not have started
	wasIll bool
}

func newMachine(f *farm, node bulkhead.NodeName, folder string, seed uint64) *machine {
	h := fnv.New64a()
	io.WriteString(h, string(node))
	m := &machine{
		f: f, node: node, folder: folder, dice: rand.New(rand.NewPCG(seed, h.Sum64())),
		containers: map[bulkhead.TaskID]*container{}, subnets: map[bulkhead.StampName]int{},
		endpoints: map[bulkhead.TaskID]agent.Endpoint{}, sick: map[bulkhead.StampName]int{}, seen: map[string]int64{},
	}
	return m
}

// hand is the machine as one life of its agent has it: when that has ended, nothing
// more is done.
type hand struct {
	*machine
	ended   <-chan struct{}
	volumes *volume.Store
}

// step takes its time, and sometimes fails.
func (h *hand) step(ctx context.Context) error {
	h.mu.Lock()
	pause := time.Duration(100_000 + h.dice.Int64N(20_000_000))
	if h.slow > 0 {
		pause *= 100
	}
	fails := h.f.trouble() && h.dice.IntN(200) == 0
	h.mu.Unlock()
	if err := h.f.net.wait(ctx, h.ended, place(h.node), pause); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away > 0 || fails {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "the engine does not answer")
	}
	return nil
}

// act does something between two steps: a life that ends before has not done it, one
// that ends after does not know.
func (h *hand) act(ctx context.Context, do func() error) error {
	if err := h.step(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	select {
	case <-h.ended:
		h.mu.Unlock()
		return errEnded
	default:
	}
	err := do()
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.step(ctx)
}

func (h *hand) Pull(ctx context.Context, _ bulkhead.Image) error { return h.step(ctx) }

func (h *hand) Prepare(ctx context.Context, c agent.Container) error {
	err := h.act(ctx, func() error {
		data := ""
		for _, b := range c.Binds {
			if h.foreign(b.Source, c) {
				h.f.judge.fail(sharing, "%s of %s on %s has %s", c.ID, c.Stamp, h.node, b.Source)
			}
			if b.Target == "/data" {
				data = b.Source
			}
		}
		if e := h.endpoints[c.ID]; e.Netns != c.Netns {
			h.f.judge.fail(sharing, "%s on %s joins network %s, has %s", c.ID, h.node, c.Netns, e.Netns)
		}
		h.f.judge.secrets(c)
		h.containers[c.ID] = &container{
			Observed: agent.Observed{ID: c.ID, Labels: c.Labels, State: bulkhead.TaskPrepared}, image: c, data: data,
			known: h.f.judge.known(h.node, c.Labels["bulkhead.uid"]),
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnded) && ctx.Err() == nil { // a failed one leaves nothing
		h.mu.Lock()
		delete(h.containers, c.ID)
		h.mu.Unlock()
	}
	return err
}

// foreign tells whether a path of the machine is another stamp's.
func (h *hand) foreign(path string, c agent.Container) bool {
	rest, ok := strings.CutPrefix(path, filepath.Join(h.folder, "volumes", "stamps")+"/")
	if !ok {
		return false // the task's own files
	}
	return !strings.HasPrefix(rest, string(c.Stamp)+"."+c.Labels["bulkhead.uid"]+"/")
}

func (h *hand) Start(ctx context.Context, id bulkhead.TaskID) error {
	err := h.act(ctx, func() error {
		c := h.containers[id]
		if c == nil {
			return fmt.Errorf("no container %s", id)
		}
		if c.State != bulkhead.TaskPrepared {
			return nil
		}
		c.State = bulkhead.TaskRunning
		h.f.judge.started(h.node, c)
		h.write(c)
		return nil
	})
	if err != nil {
		h.mu.Lock()
		if c := h.containers[id]; c != nil {
			c.unsure = true
		}
		h.mu.Unlock()
	}
	return err
}

// write has a task write one more record to its data, after those that are there.
func (m *machine) write(c *container) {
	if c.data == "" || c.State != bulkhead.TaskRunning {
		return
	}
	path := filepath.Join(c.data, "records")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.f.judge.fail(durable, "%s on %s cannot read its data: %v", c.ID, m.node, err)
	}
	records, _ := strconv.Atoi(string(b))
	m.f.judge.wrote(m.node, c, records)
	if err := os.WriteFile(path, []byte(strconv.Itoa(records+1)), 0o600); err != nil {
		m.f.judge.fail(durable, "%s on %s cannot write: %v", c.ID, m.node, err)
	}
}

func (h *hand) Stop(ctx context.Context, id bulkhead.TaskID, _ string, _ time.Duration) error {
	return h.act(ctx, func() error {
		if c := h.containers[id]; c != nil {
			h.write(c) // to its last moment
			h.stopped(c)
			h.endLocked(c, 0)
		}
		return nil
	})
}

func (h *hand) stopped(c *container) {
	if c.State == bulkhead.TaskRunning && !c.unsure && !c.wasIll {
		h.f.judge.stopped(h.node, c)
	}
}

func (h *hand) Remove(ctx context.Context, id bulkhead.TaskID) error {
	return h.act(ctx, func() error {
		if c := h.containers[id]; c != nil {
			h.stopped(c)
			h.endLocked(c, 137)
			delete(h.containers, id)
		}
		return nil
	})
}

// endLocked lets a task's process end.
func (m *machine) endLocked(c *container, code int) {
	if c.State.Ended() {
		return
	}
	if c.State == bulkhead.TaskRunning {
		m.f.judge.ended(m.node, c)
	}
	c.State, c.ExitCode, c.Ended = bulkhead.TaskFailed, code, time.Now()
	if m.away > 0 {
		return // nobody tells
	}
	for _, l := range m.listeners {
		l <- agent.Exit{ID: c.ID, ExitCode: code, Time: time.Now()}
	}
}

func (h *hand) List(ctx context.Context) ([]agent.Observed, error) {
	if err := h.step(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []agent.Observed
	for _, id := range slices.Sorted(maps.Keys(h.containers)) {
		out = append(out, h.containers[id].Observed)
	}
	return out, nil
}

func (h *hand) Exits(ctx context.Context) <-chan agent.Exit {
	ch := make(chan agent.Exit, 10_000)
	h.mu.Lock()
	h.listeners = append(h.listeners, ch)
	ch <- agent.Exit{} // from now on none is missed
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.listeners = slices.DeleteFunc(h.listeners, func(c chan agent.Exit) bool { return c == ch })
	})
	return ch
}

func (h *hand) Exec(ctx context.Context, id bulkhead.TaskID, e agent.Exec) (int, error) {
	if err := h.step(ctx); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.containers[id]
	if c == nil || c.State != bulkhead.TaskRunning {
		return 1, nil
	}
	if h.sick[c.image.Stamp] > 0 {
		c.wasIll = true
		_, _ = io.WriteString(e.Stdout, "unwell")
		return 1, nil
	}
	return 0, nil
}

func (h *hand) Ceiling(ctx context.Context, _ bulkhead.StampName, _ bulkhead.Budget) error {
	return h.step(ctx)
}
func (h *hand) Forget(ctx context.Context, _ bulkhead.StampName) error { return h.step(ctx) }

// bridges is the machine's network. What is given back is given out again first.
type bridges struct{ *hand }

func (b bridges) Join(ctx context.Context, stamp bulkhead.StampName, task bulkhead.TaskID) (e agent.Endpoint, err error) {
	err = b.act(ctx, func() error {
		var ok bool
		if e, ok = b.endpoints[task]; ok {
			return nil
		}
		subnet, ok := b.subnets[stamp]
		for taken := slices.Collect(maps.Values(b.subnets)); !ok; {
			if subnet++; !slices.Contains(taken, subnet) {
				b.subnets[stamp], ok = subnet, true
			}
		}
		used := map[netip.Addr]bool{}
		for _, other := range b.endpoints {
			used[other.Address] = true
		}
		address := netip.AddrFrom4([4]byte{10, 1, byte(subnet), 2})
		for used[address] {
			address = address.Next()
		}
		e = agent.Endpoint{
			Task: task, Netns: "/netns/" + string(task), Address: address, Gateway: netip.AddrFrom4([4]byte{10, 1, byte(subnet), 1}),
		}
		b.endpoints[task] = e
		return nil
	})
	return e, err
}

func (b bridges) Leave(ctx context.Context, _ bulkhead.StampName, task bulkhead.TaskID) error {
	return b.act(ctx, func() error { delete(b.endpoints, task); return nil })
}

func (b bridges) Remove(ctx context.Context, stamp bulkhead.StampName) error {
	return b.act(ctx, func() error {
		for id := range b.endpoints {
			if stampOf(id) == stamp {
				delete(b.endpoints, id)
			}
		}
		delete(b.subnets, stamp)
		return nil
	})
}

func (bridges) Names(bulkhead.StampName, []agent.Name) {}

func (b bridges) List(context.Context) (map[bulkhead.StampName][]agent.Endpoint, error) {
	b.mu.Lock() // of the kernel, which is not away
	defer b.mu.Unlock()
	out := map[bulkhead.StampName][]agent.Endpoint{}
	for _, id := range slices.Sorted(maps.Keys(b.endpoints)) {
		out[stampOf(id)] = append(out[stampOf(id)], b.endpoints[id])
	}
	return out, nil
}

func stampOf(id bulkhead.TaskID) bulkhead.StampName {
	name, _, _ := strings.Cut(string(id), ".")
	return bulkhead.StampName(name)
}

// disks is the machine's data, kept by package volume.
type disks struct{ *hand }

func (d disks) Create(s bulkhead.StampRef, name bulkhead.VolumeName) (path string, fresh bool, err error) {
	err = d.act(context.Background(), func() error {
		path, fresh, err = d.volumes.Create(s, name)
		if err == nil {
			if seen := d.seen[s.UID]; s.Epoch < seen {
				d.f.judge.fail(writer, "%s on %s: data is handed out under epoch %d after %d", s.Name, d.node, s.Epoch, seen)
			}
			d.seen[s.UID] = max(d.seen[s.UID], s.Epoch)
		}
		return err
	})
	return path, fresh, err
}

// Where the disk is the real one nothing is pretended but that a life may have ended.
func (d disks) Delete(s bulkhead.StampRef, purge bool) error {
	return d.act(context.Background(), func() error { return d.volumes.Delete(s, purge) })
}

func (d disks) Restore(s bulkhead.StampRef) error {
	return d.act(context.Background(), func() error { return d.volumes.Restore(s) })
}

func (d disks) Send(ctx context.Context, conn io.ReadWriter, s bulkhead.StampRef, last bool) error {
	if err := d.step(ctx); err != nil {
		return err
	}
	return d.volumes.Send(ctx, conn, s, last)
}

func (d disks) Fetch(ctx context.Context, conn io.ReadWriter, s bulkhead.StampRef, move string, last bool, told func(int64)) (int64, int, error) {
	if err := d.step(ctx); err != nil {
		return 0, 0, err
	}
	return d.volumes.Fetch(ctx, conn, s, move, last, told)
}

func (d disks) Holds(s bulkhead.StampRef, move string) (bool, error) { return d.volumes.Holds(s, move) }

func (d disks) Install(s bulkhead.StampRef, move string) error {
	return d.act(context.Background(), func() error { return d.volumes.Install(s, move) })
}

func (d disks) Leave(s bulkhead.StampRef) error {
	return d.act(context.Background(), func() error { return d.volumes.Leave(s) })
}

func (d disks) Sweep(keep func(string) bool) error {
	return d.act(context.Background(), func() error { return d.volumes.Sweep(keep) })
}

// outputs and bundles are pretended.
type outputs struct{ *hand }

func (o outputs) Open(_ bulkhead.StampName, _ bulkhead.ServiceName, task bulkhead.TaskID) (string, error) {
	return "/logs/" + string(task), nil
}
func (outputs) Close(bulkhead.TaskID) error     { return nil }
func (outputs) Delete(bulkhead.StampName) error { return nil }
func (outputs) Query(context.Context, bulkhead.LogQuery, func(bulkhead.LogLine) error) error {
	return nil
}

type bundles struct{ *hand }

func (b bundles) Bundle(ctx context.Context, _ bulkhead.Digest) (string, error) {
	return "/bundle", b.step(ctx)
}

// seals neither hides nor proves anything: neither is tested here, and both take time.
type seals struct{}

func (seals) Seal(_ string, s map[string]string) ([]byte, error) { return json.Marshal(s) }
func (seals) Open(_ string, b []byte) (s map[string]string, err error) {
	if len(b) == 0 {
		return map[string]string{}, nil
	}
	return s, json.Unmarshal(b, &s)
}

func (seals) Sign(name string, content []byte) []byte {
	h := fnv.New64a()
	io.WriteString(h, name)
	_, _ = h.Write(content)
	return []byte(hex.EncodeToString(h.Sum(nil)))
}

// leave takes the container engine away, or brings it back. Ends between are not told;
// that some may be missing is.
func (m *machine) leave(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away += sign(away); m.away > 0 {
		return
	}
	for _, l := range m.listeners {
		l <- agent.Exit{}
	}
}
