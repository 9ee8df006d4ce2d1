package simulation

import (
	"fmt"
	"hash"
	"hash/fnv"
	"io"
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
	"bulkhead/plan"
	"bulkhead/store"
)

// invariant is what must hold; the package comment says what each means.
type invariant string

const (
	writer   invariant = "one writer"
	durable  invariant = "data is kept"
	capacity invariant = "capacity"
	sharing  invariant = "nothing is shared"
	acked    invariant = "acknowledged is durable"
	running  invariant = "no control plane stops a stamp"
	routing  invariant = "routes"
	frozen   invariant = "mass silence moves nothing"
	settling invariant = "all converges"
	process  invariant = "no process fails"
)

// judge sees everything that is done and says what must not have been.
type judge struct {
	f *farm

	mu       sync.Mutex // guards what follows
	verdict  string     // the first thing that was wrong
	broken   invariant
	trace    []string
	digest   hash.Hash64                                      // of the scheduler's lines
	course   hash.Hash64                                      // of all changes of the state, and when they were made
	versions map[string][]*bulkhead.Stamp                     // of every life of a stamp, oldest first
	told     map[bulkhead.NodeName]map[string]int             // how many versions of a life a node has heard of
	records  map[string]int                                   // written to a stamp's data, by life
	writers  map[string]map[bulkhead.TaskID]bulkhead.NodeName // that run, by life and slot
	secret   map[string]string                                // whose it is
	counts   map[string]int
	since    map[bulkhead.NodeName]time.Time // when the state of a node last changed
}

func newJudge(f *farm) *judge {
	return &judge{
		f: f, digest: fnv.New64a(), course: fnv.New64a(), versions: map[string][]*bulkhead.Stamp{}, told: map[bulkhead.NodeName]map[string]int{},
		records: map[string]int{}, writers: map[string]map[bulkhead.TaskID]bulkhead.NodeName{}, secret: map[string]string{}, counts: map[string]int{}, since: map[bulkhead.NodeName]time.Time{},
	}
}

// note adds a line to the trace. What the scheduler does is part of the digest; what
// comes of it is not.
func (j *judge) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.noteLocked(format, args...)
}

func (j *judge) noteLocked(format string, args ...any) {
	line := time.Now().Format("15:04:05.000000 ") + fmt.Sprintf(format, args...)
	if j.trace = append(j.trace, line); len(j.trace) > 4000 {
		j.trace = slices.Clone(j.trace[2000:])
	}
}

func (j *judge) schedule(kind, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts[kind]++
	line := kind + ": " + fmt.Sprintf(format, args...)
	_, _ = io.WriteString(j.digest, line)
	j.noteLocked("%s", line)
}

func (j *judge) fail(what invariant, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failLocked(what, format, args...)
}

func (j *judge) failLocked(what invariant, format string, args ...any) {
	if j.verdict == "" {
		j.broken, j.verdict = what, fmt.Sprintf(format, args...)
		j.noteLocked("BROKEN: %s: %s", what, j.verdict)
	}
}

func (j *judge) ok() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.verdict == ""
}

// committed sees every change of the state when it is made.
func (j *judge) committed(before, after *store.Snapshot, changed []store.Change) {
	j.mu.Lock()
	defer j.mu.Unlock()
	stamps := false
	for _, c := range changed {
		fmt.Fprintln(j.course, time.Now().UnixNano(), c.Revision, c.Table, c.Key)
		switch c.Table {
		case store.Stamps:
			stamps = true
			now, ok := after.Stamps.Get(bulkhead.StampName(c.Key))
			was, had := before.Stamps.Get(bulkhead.StampName(c.Key))
			if had && (!ok || now.UID != was.UID) {
				end := was
				end.Desired = bulkhead.DesiredDeleted
				j.versions[was.UID] = append(j.versions[was.UID], &end)
				if !was.Purge && was.Node != "" {
					j.failLocked(durable, "%s is erased, and nobody wanted it purged", was.Name)
				}
			}
			if !ok {
				j.noteLocked("  %s is erased", c.Key)
				continue
			}
			j.versions[now.UID] = append(j.versions[now.UID], &now)
			moved := had && was.UID == now.UID && was.Node != now.Node
			if moved || !had {
				j.noteLocked("  %s: on %q under epoch %d, was on %q under %d", c.Key, now.Node, now.Epoch, was.Node, was.Epoch)
			}
			switch {
			case had && was.UID == now.UID && now.Epoch < was.Epoch:
				j.failLocked(writer, "the epoch of %s goes from %d back to %d", now.Name, was.Epoch, now.Epoch)
			case moved && now.Node != "" && now.Epoch == was.Epoch:
				j.failLocked(writer, "%s is granted to %s under epoch %d, which %q had", now.Name, now.Node, now.Epoch, was.Node)
			case moved && was.Node != "" && now.Node == "" && was.Desired == bulkhead.DesiredDeleted:
			case moved && len(now.Volumes) > 0 && was.Node != "" && (was.Transfer == nil || was.Transfer.To != now.Node):
				j.failLocked(writer, "%s has data on %s and is granted to %q", now.Name, was.Node, now.Node)
			case moved && was.Node != "" && was.Transfer == nil:
				if n, ok := before.Nodes.Get(was.Node); ok && n.State != bulkhead.NodeLost {
					j.failLocked(running, "%s is taken from %s, which is %s", now.Name, was.Node, n.State)
				}
			}
		case store.Nodes:
			was, _ := before.Nodes.Get(bulkhead.NodeName(c.Key))
			now, _ := after.Nodes.Get(bulkhead.NodeName(c.Key))
			if was.State != now.State {
				j.noteLocked("  node %s is %s, was %s", c.Key, now.State, was.State)
				j.since[now.Name] = time.Now()
				if now.State == bulkhead.NodeLost {
					j.lostLocked(after, now)
				}
			}
		}
	}
	if stamps {
		j.roomLocked(after)
	}
}

// hearsay is how old what a leader knows may be.
const hearsay = 15 * time.Second

// lostLocked: a node is given up only when few are silent.
func (j *judge) lostLocked(after *store.Snapshot, lost bulkhead.Node) {
	all, silent := 1, 1
	for n := range after.Nodes.All() {
		if n.Region != lost.Region || n.State == bulkhead.NodeLost {
			continue
		}
		all++
		if n.State == bulkhead.NodeUnreachable && time.Since(j.since[n.Name]) > hearsay {
			silent++
		}
	}
	if silent > 1 && 3*silent > all {
		j.failLocked(frozen, "%s is given up while %d of %d nodes of its region are silent", lost.Name, silent, all)
	}
}

// need is how much memory a stamp is granted.
func need(s *bulkhead.Stamp) (memory int64) {
	for _, service := range s.Services {
		memory += service.Budget.MemoryRequest * int64(service.Replicas)
	}
	return memory
}

// room is how much of a node's memory is not granted.
func room(v *store.Snapshot, node bulkhead.NodeName) int64 { return nodeMemory - granted(v)[node] }

// granted is how much memory of each node is granted to stamps. A move that is only
// planned has nothing yet where it is to go.
func granted(v *store.Snapshot) map[bulkhead.NodeName]int64 {
	taken := map[bulkhead.NodeName]int64{}
	for s := range v.Stamps.All() {
		if s.Desired == bulkhead.DesiredDeleted || s.Node == "" || s.Preempted != "" {
			continue
		}
		nodes := s.Nodes()
		if s.Transfer != nil && s.Transfer.Phase == bulkhead.TransferPlanned {
			nodes = nodes[:1]
		}
		for _, n := range nodes {
			taken[n] += need(&s)
		}
	}
	return taken
}

// roomLocked: what is granted to a node fits there.
func (j *judge) roomLocked(v *store.Snapshot) {
	for n, memory := range granted(v) {
		if memory > nodeMemory {
			j.failLocked(capacity, "%s has %d MiB, %d are granted", n, nodeMemory>>20, memory>>20)
		}
	}
}

// heard notes what a node is told.
func (j *judge) heard(node bulkhead.NodeName, o bulkhead.NodeOrder) {
	if o.Assign == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &o.Assign.Stamp
	if j.told[node] == nil {
		j.told[node] = map[string]int{}
	}
	for i, v := range j.versions[s.UID] {
		if v.Generation == s.Generation && v.Epoch == s.Epoch {
			j.told[node][s.UID] = i + 1
		}
	}
}

// known is how many versions of a life a node has heard of.
func (j *judge) known(node bulkhead.NodeName, uid string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.told[node][uid]
}

// slotOf names the slot that a task writes for; empty: it writes nothing.
func slotOf(c *container) string {
	if c.data == "" {
		return ""
	}
	return c.Labels["bulkhead.uid"] + " " + c.Labels["bulkhead.service"] + " " + c.Labels["bulkhead.slot"]
}

// started sees a task start.
func (j *judge) started(node bulkhead.NodeName, c *container) {
	slot := slotOf(c)
	if slot == "" {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for other, where := range j.writers[slot] {
		j.failLocked(writer, "%s starts on %s while %s runs on %s", c.ID, node, other, where)
	}
	if j.writers[slot] == nil {
		j.writers[slot] = map[bulkhead.TaskID]bulkhead.NodeName{}
	}
	j.writers[slot][c.ID] = node
}

// ended sees a task end, by whatever.
func (j *judge) ended(_ bulkhead.NodeName, c *container) {
	if slot := slotOf(c); slot != "" {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.writers[slot], c.ID)
	}
}

// wrote sees a task write one more record after those that it has found.
func (j *judge) wrote(node bulkhead.NodeName, c *container, found int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	uid := c.Labels["bulkhead.uid"]
	if found != j.records[uid] {
		j.failLocked(durable, "%s on %s finds %d records of %d", c.ID, node, found, j.records[uid])
	}
	j.records[uid] = found + 1
}

// stopped sees a running task stopped by an agent: since the version that it was made
// from, one must have come that does not want it.
func (j *judge) stopped(node bulkhead.NodeName, c *container) {
	j.mu.Lock()
	defer j.mu.Unlock()
	uid := c.Labels["bulkhead.uid"]
	versions := j.versions[uid]
	for _, v := range versions[min(c.known, len(versions)):] {
		if !wants(v, node, c) {
			return
		}
	}
	j.failLocked(running, "%s runs on %s as it should, and is stopped", c.ID, node)
}

// wants tells whether a version of a stamp has a task run on a node.
func wants(v *bulkhead.Stamp, node bulkhead.NodeName, c *container) bool {
	if v.Node != node || v.Desired != bulkhead.DesiredRunning || v.Preempted != "" || v.Switching() {
		return false
	}
	i := slices.IndexFunc(v.Services, func(s bulkhead.Service) bool { return string(s.Name) == c.Labels["bulkhead.service"] })
	slot, _ := strconv.Atoi(c.Labels["bulkhead.slot"])
	return i >= 0 && slot <= v.Services[i].Replicas && plan.TaskHash(*v, v.Services[i]) == c.Labels["bulkhead.hash"]
}

// secrets: no two stamps are given the same.
func (j *judge) secrets(c agent.Container) {
	j.mu.Lock()
	defer j.mu.Unlock()
	uid := c.Labels["bulkhead.uid"]
	for name, value := range c.Secrets {
		if value == "" {
			j.failLocked(sharing, "%s has no value for its secret %s", c.ID, name)
		}
		if whose, ok := j.secret[value]; ok && whose != uid {
			j.failLocked(sharing, "%s has a secret of %s", c.ID, whose)
		}
		j.secret[value] = uid
	}
}

// look looks at the farm at a moment when nothing is under way.
func (j *judge) look() {
	for _, n := range j.f.nodes {
		life := n.life.Load()
		if life == nil {
			continue
		}
		routes := life.routes.Load()
		if routes == nil {
			continue
		}
		n.machine.mu.Lock()
		owners := map[netip.Addr]bulkhead.StampName{}
		for id, e := range n.machine.endpoints {
			owners[e.Address] = stampOf(id)
		}
		n.machine.mu.Unlock()
		for _, r := range *routes {
			for _, b := range r.Backends {
				if owner, ok := owners[b.Addr()]; ok && owner != r.Stamp {
					j.fail(routing, "%s routes %s, of %s, to a task of %s", n.name, r.Host, r.Stamp, owner)
				}
			}
		}
	}
}

// unsettled says what is not yet as it should be when nothing fails any more.
func (j *judge) unsettled() string {
	f := j.f
	v := f.shared.View()
	for s := range v.Servers.All() {
		if _, ok := v.Present.Get(s.Name); !ok {
			return fmt.Sprintf("server %s is not present", s.Name)
		}
	}
	for n := range v.Nodes.All() {
		if n.State != bulkhead.NodeReady || !n.Silent.IsZero() {
			return fmt.Sprintf("node %s is %s, silent since %s", n.Name, n.State, n.Silent)
		}
	}
	for a := range v.Alarms.All() {
		return fmt.Sprintf("an alarm: %s", a.Message)
	}
	type key struct {
		node bulkhead.NodeName
		uid  string
	}
	wanted := map[key]*bulkhead.Stamp{}
	hosts := map[bulkhead.Host]*bulkhead.Stamp{}
	for tomb := range v.Tombs.All() {
		return fmt.Sprintf("node %s has not said that nothing is left of %s, which was purged", tomb.Of.Node, tomb.UID)
	}
	lives := map[string]bool{}
	for s := range v.Stamps.All() {
		lives[s.UID] = true
		st, _ := v.Statuses.Get(s.Name)
		phase := map[bulkhead.Desired]bulkhead.Phase{
			bulkhead.DesiredRunning: bulkhead.PhaseRunning, bulkhead.DesiredStopped: bulkhead.PhaseStopped, bulkhead.DesiredDeleted: bulkhead.PhaseDeleted,
		}[s.Desired]
		if s.Preempted != "" && st.Phase == bulkhead.PhaseStopped && room(v, s.Node) < need(&s) {
			hosts[s.Hosts[0]] = &s
			continue // it waits for room
		}
		if s.Node == "" && s.Desired == bulkhead.DesiredDeleted && !s.Purge {
			continue // it was restored, and deleted again before it had a place
		}
		if s.Node == "" || s.Transfer != nil || s.Purge || st.UID != s.UID || st.Generation != s.Generation || st.Epoch != s.Epoch || st.Phase != phase {
			return fmt.Sprintf("%s is on %q (%s), transfer %+v, and said to be %s %q in generation %d of %d, epoch %d of %d",
				s.Name, s.Node, s.Placement, s.Transfer, st.Phase, st.Message, st.Generation, s.Generation, st.Epoch, s.Epoch)
		}
		if s.Desired == bulkhead.DesiredRunning {
			wanted[key{s.Node, s.UID}] = &s
		}
		if s.Desired != bulkhead.DesiredDeleted {
			for _, h := range s.Addressed() {
				hosts[h] = &s
			}
		}
	}
	for _, n := range f.nodes {
		m := n.machine
		m.mu.Lock()
		running, left := map[string]int{}, ""
		for id, c := range m.containers {
			uid := c.Labels["bulkhead.uid"]
			s := wanted[key{n.name, uid}]
			if s == nil || c.State != bulkhead.TaskRunning || !wants(s, n.name, c) {
				left = fmt.Sprintf("%s is on %s, %s", id, n.name, c.State)
				continue
			}
			running[uid]++
		}
		for id := range m.endpoints {
			if m.containers[id] == nil {
				left = fmt.Sprintf("%s has an endpoint on %s", id, n.name)
			}
		}
		m.mu.Unlock()
		if left == "" {
			left = remains(n, lives)
		}
		if left != "" {
			return left
		}
		for k, s := range wanted {
			want := 0
			for _, service := range s.Services {
				want += service.Replicas
			}
			if k.node == n.name && running[k.uid] != want {
				return fmt.Sprintf("%d tasks of %s run on %s, wanted %d", running[k.uid], s.Name, n.name, want)
			}
		}
		if life := n.life.Load(); life != nil {
			routes := life.routes.Load()
			if routes == nil {
				return fmt.Sprintf("%s has no routes yet", n.name)
			}
			if why := misrouted(n, *routes, hosts); why != "" {
				return why
			}
		}
	}
	return ""
}

// remains names data on a node's disk, in use, set aside or on its way there, whose stamp
// the state does not know: whoever it was, it was purged. Empty: there is none.
func remains(n *node, lives map[string]bool) string {
	for _, where := range []string{"stamps", "kept", "coming"} {
		entries, err := os.ReadDir(filepath.Join(n.dir("volumes"), where))
		if err != nil {
			return err.Error()
		}
		for _, e := range entries {
			if parts := strings.Split(e.Name(), "."); len(parts) < 2 || !lives[parts[1]] {
				return fmt.Sprintf("%s has %s/%s, of a stamp that was purged", n.name, where, e.Name())
			}
		}
	}
	return ""
}

// misrouted says what is wrong with a gateway's table.
func misrouted(n *node, routes []bulkhead.Route, hosts map[bulkhead.Host]*bulkhead.Stamp) string {
	found := map[bulkhead.Host]bool{}
	for _, r := range routes {
		s := hosts[r.Host]
		switch {
		case s == nil:
			return fmt.Sprintf("%s routes %s, which is nobody's", n.name, r.Host)
		case r.UID != s.UID || r.Epoch != s.Epoch:
			return fmt.Sprintf("%s routes %s under epoch %d of %s, which is at %d of %s", n.name, r.Host, r.Epoch, r.UID, s.Epoch, s.UID)
		case s.Node != n.name && r.Node != s.Node:
			return fmt.Sprintf("%s routes %s to %q, it is on %s", n.name, r.Host, r.Node, s.Node)
		case s.Node == n.name && s.Desired == bulkhead.DesiredRunning && s.Preempted == "" && len(r.Backends) == 0:
			return fmt.Sprintf("%s routes %s to no task", n.name, r.Host)
		}
		found[r.Host] = true
	}
	for h, s := range hosts {
		if !found[h] {
			return fmt.Sprintf("%s does not route %s, of %s on %s", n.name, h, s.Name, s.Node)
		}
	}
	return ""
}
