package clustertest

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead"
)

const pair = `
name: pair
services:
  db:
    image: probe:1
    environment: {NAME: db}
    volumes: ["data:/data"]
    healthcheck: {test: [CMD, /probe, get, "http://127.0.0.1:8080/health"], interval: 500ms, timeout: 10s, retries: 2}
  web:
    image: probe:1
    environment: {NAME: web}
    ports: ["80:8080"]
    depends_on: {db: {condition: service_healthy}}
  once:
    image: probe:1
    command: [write, /data/ran, "yes"]
    volumes: ["data:/data"]
volumes: {data: {}}
x-bulkhead: {version: "1"}
`

func (n *Node) crash(stamp, service string, code int) {
	n.T.Helper()
	n.Run("stamp", "exec", stamp, service, "--", "/probe", "get", fmt.Sprintf("http://127.0.0.1:8080/exit?code=%d", code))
}

func TestHealing(t *testing.T) {
	n := Start(t)
	n.Publish("pair", pair)
	for _, name := range []string{"acme", "globex"} {
		n.Run("stamp", "create", name, "--product", "pair")
		n.MustGet(name, "/")
	}

	t.Run("a crashed task is restarted", func(t *testing.T) {
		before := n.ids("acme")
		bystander := n.MustGet("globex", "/")
		n.crash("acme", "web", 3)
		n.Until(5*time.Second, "web is back", func() error {
			now := n.ids("acme")
			if now["web"] == "" || now["web"] == before["web"] {
				return fmt.Errorf("tasks %v", now)
			}
			_, err := n.Get("acme", "/")
			return err
		})
		if n.ids("acme")["db"] != before["db"] || n.MustGet("globex", "/") != bystander {
			t.Error("others were touched")
		}
		if out := n.Run("events", "--stamp", "acme"); !strings.Contains(out, "exited with code 3") {
			t.Errorf("no event says why:\n%s", out)
		}
	})

	t.Run("an unhealthy task is replaced", func(t *testing.T) {
		before := n.ids("acme")
		n.Run("stamp", "exec", "acme", "db", "--", "/probe", "get", "http://127.0.0.1:8080/sicken")
		n.Until(20*time.Second, "db is replaced", func() error {
			if now := n.ids("acme"); now["db"] == "" || now["db"] == before["db"] {
				return fmt.Errorf("tasks %v", now)
			}
			return nil
		})
		if out := n.Run("events", "--stamp", "acme"); !strings.Contains(out, "unhealthy: 2 probes failed") {
			t.Errorf("no event says why:\n%s", out)
		}
	})

	t.Run("what can never start says why", func(t *testing.T) {
		n.Publish("never", `
services:
  web: {image: "probe:1", entrypoint: [/no/such/command]}
x-bulkhead: {version: "1"}
`)
		out, code := n.Try("stamp", "create", "never", "--product", "never")
		if code == 0 || !strings.Contains(out, "/no/such/command") {
			t.Errorf("exit code %d: %s", code, out)
		}
		s := n.show("never")
		if s.Phase != bulkhead.PhaseFailed || !strings.Contains(s.Message, "/no/such/command") || strings.Contains(s.Message, "\n") {
			t.Errorf("phase %s, message %q", s.Phase, s.Message)
		}
		n.Run("stamp", "delete", "never", "--purge", "--yes")
	})

	settled := func(what string) {
		t.Helper()
		n.Until(20*time.Second, what, func() error {
			for _, name := range []string{"acme", "globex"} {
				if s := n.show(name); s.Phase != bulkhead.PhaseRunning {
					return fmt.Errorf("%s is %s: %s", name, s.Phase, s.Message)
				}
			}
			return nil
		})
	}
	settled("both stamps run")

	t.Run("kill -9 of Bulkhead restarts no task", func(t *testing.T) {
		before, data := n.mains(), n.MustGet("acme", "/")
		for range 5 {
			n.Kill()
			if now := n.mains(); !reflect.DeepEqual(now, before) {
				t.Fatalf("with Bulkhead dead: %v, before %v", now, before)
			}
			n.Up()
			n.Until(3*time.Second, "it routes again", func() error { _, err := n.Get("acme", "/"); return err })
		}
		settled("both stamps run again")
		if now := n.mains(); !reflect.DeepEqual(now, before) {
			t.Errorf("tasks were touched: %v, before %v", now, before)
		}
		if got := n.MustGet("acme", "/"); got != data {
			t.Errorf("web answers %q, before %q", got, data)
		}
		// What happens now is still noticed.
		n.crash("acme", "web", 1)
		n.Until(5*time.Second, "a crash after adoption is healed", func() error {
			got, err := n.Get("acme", "/")
			if err == nil && got == data {
				err = errors.New("the old task still answers")
			}
			return err
		})
		settled("both stamps run after that")
	})

	t.Run("kill -9 of containerd restarts no task", func(t *testing.T) {
		before := n.mains()
		pid := n.containerd()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.MustGet("acme", "/")
		n.Until(20*time.Second, "another containerd runs", func() error {
			if now := n.containerd(); now == 0 || now == pid {
				return errors.New("none")
			}
			return nil
		})
		settled("both stamps run")
		if now := n.mains(); !reflect.DeepEqual(now, before) {
			t.Errorf("tasks were touched: %v, before %v\n%s", now, before, n.Run("events", "--stamp", "acme"))
		}
		got := n.MustGet("acme", "/")
		n.MustGet("acme", "/exit?code=1")
		n.Until(10*time.Second, "a crash after that is healed", func() error {
			now, err := n.Get("acme", "/")
			if err == nil && now == got {
				err = errors.New("the old task still answers")
			}
			return err
		})
		settled("both stamps run at last")
	})

	t.Run("everything dies while Bulkhead is away", func(t *testing.T) {
		n.Run("stamp", "exec", "acme", "db", "--", "/probe", "get", "http://127.0.0.1:8080/write?path=/data/note&text=kept")
		n.Kill()
		killed := n.killTree()
		if killed < 6 {
			t.Fatalf("only %d processes were killed", killed)
		}
		n.Up()
		n.Until(20*time.Second, "all stamps answer", func() error {
			for _, name := range []string{"acme", "globex"} {
				if _, err := n.Get(name, "/"); err != nil {
					return err
				}
			}
			return nil
		})
		settled("both stamps run")
		if got := n.Run("stamp", "exec", "acme", "db", "--", "/probe", "get", "http://127.0.0.1:8080/read?path=/data/note"); got != "kept" {
			t.Errorf("the note is %q", got)
		}
	})
}

// containerd is the process of this node's private containerd, 0 if there is none.
func (n *Node) containerd() int {
	for pid, cmdline := range processes() {
		if strings.Contains(cmdline, "containerd") && !strings.Contains(cmdline, "shim") && strings.Contains(cmdline, n.Dir) {
			return pid
		}
	}
	return 0
}

// killTree kills containerd, shims and tasks of this node, as a power cut does,
// and tells how many processes that were.
func (n *Node) killTree() int {
	killed := 0
	kill := func(pid int) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if pid := n.containerd(); pid > 0 {
		kill(pid)
	}
	for pid, cmdline := range processes() {
		if strings.Contains(cmdline, "containerd-shim") && strings.Contains(cmdline, "bulkhead-"+n.Instance()) {
			kill(pid)
		}
	}
	for _, pids := range n.Processes() {
		for _, pid := range pids {
			kill(pid)
		}
	}
	n.Until(10*time.Second, "no task lives", func() error {
		if left := n.Processes(); len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	return killed
}

func processes() map[int]string {
	out := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if b, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(b) > 0 {
			out[pid] = strings.ReplaceAll(string(b), "\x00", " ")
		}
	}
	return out
}

// mains are the tasks' first processes; others are probes that come and go. The
// oldest is the first: numbers of processes begin anew when they run out.
func (n *Node) mains() map[string]int {
	out := map[string]int{}
	for name, pids := range n.Processes() {
		oldest := uint64(math.MaxUint64)
		for _, pid := range pids {
			if born := startTime(pid); born < oldest {
				oldest, out[name] = born, pid
			}
		}
	}
	return out
}

// startTime is when a process began, in ticks since the machine did: field 22 of
// /proc/PID/stat (proc_pid_stat(5)). One that has ended is as young as can be.
func startTime(pid int) uint64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return math.MaxUint64
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // behind the command, which may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return math.MaxUint64
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return math.MaxUint64
	}
	return ticks
}
