package clustertest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead"
)

// baseline is how fast requests are answered while nothing happens.
func (f *trio) baseline() time.Duration {
	f.T.Helper()
	w := Watch(f.nodes, watched...)
	time.Sleep(5 * time.Second) // that is 450 requests
	w.End()
	return quantile(w.took, 99)
}

// bare has runc make containers that end at once, so many in that time, which nobody looks
// after: what others notice of them, they notice of the machine. It tells how fast requests
// are answered meanwhile.
func (f *trio) bare(count int, within time.Duration) time.Duration {
	f.T.Helper()
	program, err := probe()
	if err != nil {
		f.T.Fatal(err)
	}
	bundle := f.T.TempDir()
	const config = `{"ociVersion": "1.0.2", "root": {"path": "rootfs"},
		"process": {"user": {"uid": 0, "gid": 0}, "args": ["/probe", "exit", "0"], "cwd": "/"},
		"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
		"linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}]}}`
	if err := errors.Join(os.MkdirAll(filepath.Join(bundle, "rootfs", "proc"), 0o755),
		os.WriteFile(filepath.Join(bundle, "rootfs", "probe"), program, 0o755),
		os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600)); err != nil {
		f.T.Fatal(err)
	}
	w := Watch(f.nodes, watched...)
	pace := time.NewTicker(within / time.Duration(count))
	defer pace.Stop()
	for i := range count {
		name := fmt.Sprintf("bare-%d-%d", os.Getpid(), i)
		if out, err := exec.Command("runc", "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, name).CombinedOutput(); err != nil {
			f.T.Fatalf("runc: %v\n%s", err, out)
		}
		<-pace.C
	}
	w.End()
	return quantile(w.took, 99)
}

// tasksKilled kills tasks. Each comes back, after a pause that grows while it is killed
// again and again, and nobody else notices. How fast others are answered meanwhile is
// told, not judged: on two cores that others use, too, it says more of them.
func tasksKilled(t *testing.T, f *trio) {
	const inARow = 4
	s1, n3 := f.servers[0], f.nodes[2]
	kills := trials(6, 400)
	var victims []string
	for i := range (kills + inARow - 1) / inARow {
		victims = append(victims, fmt.Sprintf("victim-%d", i))
	}
	for _, victim := range victims {
		f.on(victim, "plain", n3)
	}
	baseline := f.baseline()
	w := Watch(f.nodes, watched...)
	before := f.processes()
	start := time.Now()
	var took []time.Duration
	for i := range kills {
		victim := victims[i/inARow]
		was := n3.MustGet(victim, "/")
		for id, pid := range n3.mains() {
			if strings.HasPrefix(id, victim+".") {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		began := time.Now()
		n3.Until(20*time.Second, victim+" is back", func() error {
			now, err := n3.Get(victim, "/")
			if err == nil && now == was {
				err = errors.New("it is the one that was killed")
			}
			return err
		})
		took = append(took, time.Since(began))
	}
	t.Logf("%d tasks killed: back after %v in the median, 95 of 100 within %v, slowest %v", len(took),
		quantile(took, 50).Round(time.Millisecond), quantile(took, 95).Round(time.Millisecond), slices.Max(took).Round(time.Millisecond))
	if p95 := quantile(took, 95); p95 > 5*time.Second*patience() {
		t.Errorf("of %d tasks 95 of 100 were back within %v", len(took), p95)
	}
	if after := f.processes(); !maps.Equal(after, before) {
		t.Errorf("others were touched: %v, before %v", after, before)
	}
	t.Logf("before, 99 of 100 requests for the others were answered within %v", baseline.Round(100*time.Microsecond))
	within := time.Since(start)
	w.Expect(t, "with tasks of others killed")
	t.Logf("with as many containers made by bare runc in the same time, 99 of 100 were answered within %v", f.bare(kills, within).Round(100*time.Microsecond))
	for _, victim := range victims {
		s1.Run("stamp", "delete", victim, "--purge", "--yes")
	}
}

// agentsKilled kills Bulkhead and the container engine on nodes: no task is restarted,
// and all is looked after again within seconds.
func agentsKilled(t *testing.T, f *trio) {
	s1, n2 := f.servers[0], f.nodes[1]
	w := Watch([]*Machine{f.nodes[0], f.nodes[2]}, "initech") // which is on n1
	before := f.processes()
	var adopted []time.Duration
	for i := range trials(4, 1000) {
		began := time.Now()
		if i%2 == 0 {
			n2.Kill()
			if now := f.processes(); !maps.Equal(now, before) {
				t.Fatalf("with Bulkhead dead: %v, before %v", now, before)
			}
			n2.Start()
		} else {
			was := n2.containerd()
			if err := syscall.Kill(was, syscall.SIGKILL); err != nil {
				t.Fatalf("kill containerd %d: %v", was, err)
			}
			n2.Until(20*time.Second, "another containerd runs", func() error {
				if now := n2.containerd(); now == 0 || now == was {
					return errors.New("none")
				}
				return nil
			})
		}
		f.serve(20*time.Second, []*Machine{n2}, watched...)
		// What is asked of the node now is done: a command in a task needs all of it.
		n2.Until(20*time.Second, "n2 takes orders", func() error {
			if n := s1.Nodes()["n2"]; n.State != bulkhead.NodeReady || !n.Silent.IsZero() {
				return fmt.Errorf("it is %s", n.State)
			}
			if out, code := s1.Try("stamp", "exec", "acme", "web", "--", "/probe", "get", "http://127.0.0.1:8080/health"); code != 0 {
				return errors.New(out)
			}
			return nil
		})
		adopted = append(adopted, time.Since(began))
		if now := f.processes(); !maps.Equal(now, before) {
			t.Fatalf("tasks were touched: %v, before %v", now, before)
		}
	}
	t.Logf("%d kills of agent or containerd, by turns: no task restarted, all taken up again within %v, in the median %v", len(adopted),
		slices.Max(adopted).Round(time.Millisecond), quantile(adopted, 50).Round(time.Millisecond))
	if slowest := slices.Max(adopted); slowest > 10*time.Second*patience() {
		t.Errorf("it took %v until all was taken up again", slowest)
	}
	w.Expect(t, "with another node's agent and containerd killed")
}
