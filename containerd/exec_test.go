package containerd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/agent"
	"bulkhead/imagebuild"
)

func TestExec(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	exits := n.runtime.Exits(ctx)
	<-exits
	c := n.container("acme", "sleep")
	c.Service.User = "app"
	c.Service.Environment = map[string]string{"ADDED": "1"}
	n.ready(n.run(c))
	exec := func(e agent.Exec, args ...string) (stdout, stderr string, code int) {
		t.Helper()
		var out, errs bytes.Buffer
		e.Command, e.Stdout, e.Stderr = append([]string{"/bin/probe"}, args...), &out, &errs
		code, err := n.runtime.Exec(ctx, c.ID, e)
		if err != nil {
			t.Fatal(err)
		}
		return out.String(), errs.String(), code
	}
	if _, _, code := exec(agent.Exec{}, "exit", "9"); code != 9 {
		t.Errorf("exit code is %d", code)
	}
	if out, errs, _ := exec(agent.Exec{}, "both"); out != "out\n" || errs != "err\n" {
		t.Errorf("streams are %q and %q", out, errs)
	}
	if out, _, _ := exec(agent.Exec{}, "id"); !strings.HasPrefix(out, "100 200 [300]") {
		t.Errorf("id is %q", out)
	}
	if out, _, _ := exec(agent.Exec{}, "env"); !strings.Contains(out, "ADDED=1\n") {
		t.Errorf("environment is %q", out)
	}
	input := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	if out, _, _ := exec(agent.Exec{Stdin: strings.NewReader(input)}, "cat"); out != input {
		t.Errorf("cat returned %d bytes of %d", len(out), len(input))
	}
	if _, err := n.runtime.Exec(ctx, c.ID, agent.Exec{Command: []string{"nothing"}}); !errors.Is(err, bulkhead.ErrInvalid) || !strings.HasPrefix(err.Error(), `command "nothing" is not in task acme.web.1-`) {
		t.Errorf("missing command: %v", err)
	}
	if _, err := n.runtime.Exec(ctx, "acme.web.1-none", agent.Exec{Command: []string{"x"}}); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("missing task: %v", err)
	}

	terminal := make(chan agent.Size, 1)
	reader, writer := io.Pipe()
	go func() {
		buffer := make([]byte, 100)
		_, _ = reader.Read(buffer) // "ready"
		terminal <- agent.Size{Width: 132, Height: 50}
		rest, _ := io.ReadAll(reader)
		if !strings.Contains(string(rest), "size 132 50") {
			t.Errorf("terminal shows %q", rest)
		}
		terminal <- agent.Size{}
	}()
	if code, err := n.runtime.Exec(ctx, c.ID, agent.Exec{Command: []string{"/bin/probe", "size"}, TTY: true, Stdout: writer, Resize: terminal}); err != nil || code != 0 {
		t.Errorf("with terminal: %d, %v", code, err)
	}
	writer.Close()
	<-terminal

	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := n.runtime.Exec(short, c.ID, agent.Exec{Command: []string{"/bin/probe", "hang"}, Stdout: io.Discard}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled command: %v", err)
	}
	if processes, err := os.ReadFile(filepath.Join(cgroupMount, "pids", n.runtime.cgroup(c.Stamp, c.ID), "cgroup.procs")); err == nil && strings.Count(string(processes), "\n") != 1 {
		t.Errorf("processes that are left: %q", processes)
	}
	if left, _ := os.ReadDir(filepath.Join(n.runtime.run, "exec")); len(left) > 0 {
		t.Errorf("pipes are left: %v", left)
	}

	if err := n.runtime.Stop(ctx, c.ID, "SIGKILL", 0); err != nil {
		t.Fatal(err)
	}
	if exit := <-exits; exit.ID != c.ID || exit.ExitCode != 137 { // and none of the commands above
		t.Errorf("exit is %+v", exit)
	}
	if _, err := n.runtime.Exec(ctx, c.ID, agent.Exec{Command: []string{"/bin/probe"}}); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("ended task: %v", err)
	}
}

func TestInit(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	// Init alone, as a program: it needs nothing but the standard library.
	source, err := os.ReadFile("init.go")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	program := strings.Replace(string(source), "package containerd", "package main", 1) + "\nfunc main() { os.Exit(Init(os.Args[2:])) }\n"
	for name, content := range map[string]string{"main.go": program, "go.mod": "module init\n"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary, err := imagebuild.GoBinary(ctx, folder)
	if err != nil {
		t.Fatal(err)
	}
	n.runtime.config.Init = filepath.Join(n.folder, "init")
	if err := os.WriteFile(n.runtime.config.Init, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	exits := n.runtime.Exits(ctx)
	<-exits
	c := n.container("acme", "orphan")
	c.Service.Init = true
	c.Service.ReadOnly = true
	n.run(c)
	n.eventually("the probe has looked", func() bool { return strings.Contains(n.log(c), "pid") })
	if log := n.log(c); strings.Contains(log, "zombie") || strings.Contains(log, "pid 1\n") {
		t.Errorf("log is %q", log)
	}
	if err := n.runtime.Stop(ctx, c.ID, "SIGTERM", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if exit := <-exits; exit.ExitCode != 7 {
		t.Errorf("exit is %+v", exit)
	}
	c = n.container("acme")
	c.Service.Entrypoint, c.Service.Init = []string{"nothing"}, true
	if err := n.runtime.Prepare(ctx, c); !errors.Is(err, bulkhead.ErrInvalid) || err.Error() != `command "nothing" is not in image probe:1` {
		t.Errorf("missing command: %v", err)
	}
}

// TestExecWithoutEngine: whoever probes a task must be able to tell a sick task
// from an engine that is away.
func TestExecWithoutEngine(t *testing.T) {
	n := newNode(t)
	c := n.run(n.container("acme", "tick"))
	n.kill()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := n.runtime.Exec(ctx, c.ID, agent.Exec{Command: []string{"/probe"}})
		cancel()
		if !errors.Is(err, bulkhead.ErrUnavailable) {
			t.Errorf("without containerd: %v", err)
		}
	}
	n.restart()
}
