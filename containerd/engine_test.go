package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead"
	"bulkhead/agent"
)

// shim is the process above a task's first process.
func (n *node) shim(c agent.Container) string {
	n.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pid(c)))
	if err != nil {
		n.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "PPid:")
	return strings.Fields(rest)[0]
}

func TestShimOfStamp(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	first, second, third := n.ready(n.run(n.container("acme", "sleep"))), n.ready(n.run(n.container("acme", "sleep"))), n.container("acme", "sleep")
	other := n.run(n.container("other", "sleep"))
	if n.shim(first) != n.shim(second) || n.shim(first) == n.shim(other) {
		t.Errorf("shims are %s, %s; of the other stamp %s", n.shim(first), n.shim(second), n.shim(other))
	}
	shim := n.shim(first)
	if err := n.runtime.Remove(ctx, first.ID); err != nil { // the one that the shim was started for
		t.Fatal(err)
	}
	n.kill() // without Bulkhead's memory either
	n.engine.Close()
	n.open()
	n.run(third)
	for _, c := range []agent.Container{second, third} {
		if o, ok := n.observed(c.ID); !ok || o.State != bulkhead.TaskRunning || n.shim(c) != shim {
			t.Errorf("%s is %+v with shim %s, want %s", c.ID, o, n.shim(c), shim)
		}
	}
	if code, err := n.runtime.Exec(ctx, second.ID, agent.Exec{Command: []string{"/bin/probe", "exit", "3"}}); err != nil || code != 3 {
		t.Errorf("exec: %d, %v", code, err)
	}
	for _, c := range []agent.Container{second, third} {
		if err := n.runtime.Remove(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		n.absent(c)
	}
	if p := n.runtime.known.join("next", place{stamp: "acme"}); p.group != "next" {
		t.Errorf("the next task joins shim %s, which is about to end", p.group)
	}
	n.eventually("the shim ends with its last task", func() bool {
		_, err := os.Stat("/proc/" + shim)
		return errors.Is(err, os.ErrNotExist)
	})
}

// TestEngineIsKilled kills containerd while tasks run and write.
func TestEngineIsKilled(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	exits := n.runtime.Exits(ctx)
	if exit := <-exits; exit.ID != "" {
		t.Fatalf("first exit is %+v", exit)
	}
	ticking, ending := n.run(n.container("acme", "tick")), n.ready(n.run(n.container("acme", "sleep")))
	pid := n.pid(ticking)
	endingPID := n.pid(ending)
	n.kill()
	before := strings.Count(n.log(ticking), "\n")
	n.eventually("the log grows without containerd", func() bool { return strings.Count(n.log(ticking), "\n") > before+10 })
	if err := unix.Kill(endingPID, unix.SIGKILL); err != nil { // nobody sees this end
		t.Fatal(err)
	}
	if err := n.runtime.Start(ctx, ticking.ID); !errors.Is(err, bulkhead.ErrUnavailable) {
		t.Errorf("start without containerd: %v", err)
	}
	n.restart()
	for exit := range exits { // the shim may bring the exit too, before or after the gap
		if exit.ID == "" {
			break
		}
	}
	if o, _ := n.observed(ticking.ID); o.State != bulkhead.TaskRunning || n.pid(ticking) != pid {
		t.Errorf("ticking task is %+v with pid %d, was %d", o, n.pid(ticking), pid)
	}
	if o, _ := n.observed(ending.ID); o.State != bulkhead.TaskFailed || o.ExitCode != 137 {
		t.Errorf("ended task is %+v", o)
	}
	before = strings.Count(n.log(ticking), "\n")
	n.eventually("the log grows with the new containerd", func() bool { return strings.Count(n.log(ticking), "\n") > before+10 })
	if err := n.runtime.Stop(ctx, ticking.ID, "SIGKILL", 0); err != nil {
		t.Fatal(err)
	}
	for exit := range exits {
		if exit.ID == ticking.ID {
			break
		}
	}
	lines := strings.Split(strings.TrimSpace(n.log(ticking)), "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != fmt.Sprintf("tick %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

// TestReboot kills everything.
func TestReboot(t *testing.T) {
	n := newNode(t)
	c := n.ready(n.run(n.container("acme", "sleep")))
	shim, pid := n.shim(c), n.pid(c)
	n.kill()
	for _, victim := range []string{shim, fmt.Sprint(pid)} {
		var number int
		fmt.Sscan(victim, &number)
		if err := unix.Kill(number, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.eventually("process is gone", func() bool {
			_, err := os.Stat("/proc/" + victim)
			return err != nil
		})
	}
	n.restart()
	if o, ok := n.observed(c.ID); !ok || o.State != bulkhead.TaskFailed || o.ExitCode != 137 {
		t.Errorf("task is %+v, %v", o, ok)
	}
	n.ready(n.run(n.container("acme", "sleep")))
	if err := n.runtime.Remove(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	n.absent(c)
}

func TestEngineRun(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.engine.Run(ctx) }()
	for range 2 {
		old := serving(n.engine.Socket())
		n.kill()
		n.eventually("containerd is started again", func() bool {
			pid := serving(n.engine.Socket())
			return pid > 0 && pid != old
		})
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if serving(n.engine.Socket()) == 0 {
		t.Error("containerd ends with Run")
	}
	session, err := unix.Getsid(serving(n.engine.Socket()))
	own, _ := unix.Getsid(0)
	if err != nil || session == own {
		t.Errorf("containerd is in our own session %d, %v", session, err)
	}
}

func TestEngineChoice(t *testing.T) {
	n := newNode(t) // stands for the machine's own
	logger := slog.New(slog.DiscardHandler)
	config := EngineConfig{Instance: n.instance + "b", Folder: filepath.Join(n.folder, "b"), RunFolder: filepath.Join(n.config.RunFolder, "b"), Socket: n.engine.Socket()}
	if config.RunFolder == "b" {
		config.RunFolder = filepath.Join("/run", "bulkhead-"+n.instance, "b")
	}
	e, err := Open(t.Context(), config, logger)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.Socket() != n.engine.Socket() || e.LogFile() != "" {
		t.Errorf("engine is at %s with log %q", e.Socket(), e.LogFile())
	}
	version, err := e.Version(t.Context())
	if err != nil || !strings.HasPrefix(version, "containerd ") || !strings.Contains(version, ", runc ") || strings.ContainsAny(version, "~+") {
		t.Errorf("version is %q, %v", version, err)
	}
	n.kill()
	if _, err := Open(t.Context(), config, logger); !errors.Is(err, bulkhead.ErrUnavailable) {
		t.Errorf("the chosen containerd is down: %v", err)
	}
	config.Private = true
	if _, err := Open(t.Context(), config, logger); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("another choice: %v", err)
	}
}

func TestEngineIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), EngineConfig{Instance: "x", Folder: t.TempDir(), RunFolder: "/run/bulkhead-missing", Private: true}, slog.New(slog.DiscardHandler))
	var fault *bulkhead.Error
	if !errors.As(err, &fault) || fault.Message != "containerd is not installed on this machine" || fault.Hint != installHint {
		t.Errorf("got %v", err)
	}
}

func TestEngineDoesNotStart(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "root"), nil, 0o600); err != nil { // where containerd wants a folder
		t.Fatal(err)
	}
	run := "/run/bulkhead-" + filepath.Base(filepath.Dir(folder))[:20]
	defer os.RemoveAll(run)
	_, err := Open(t.Context(), EngineConfig{Instance: "x", Folder: folder, RunFolder: run, Private: true}, slog.New(slog.DiscardHandler))
	if !errors.Is(err, bulkhead.ErrUnavailable) || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("got %v", err)
	}
}

func TestPlainVersion(t *testing.T) {
	for in, want := range map[string]string{"1.6.20~ds1": "1.6.20", "v2.0.0": "2.0.0", "1.1.5+ds1": "1.1.5", "1.7": "1.7"} {
		if got := plainVersion(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
