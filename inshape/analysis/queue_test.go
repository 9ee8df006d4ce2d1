package analysis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"inshape/frame"
	"inshape/frame/frametest"
	"inshape/material"
)

func TestPoisonIsPutAside(t *testing.T) {
	var runs atomic.Int32
	poison := func(_ context.Context, t task, tell func(progress)) error {
		runs.Add(1)
		tell(progress{Begun: Read})
		return errors.New("the worker ended: exit status 2: panic: runtime error")
	}
	m := frametest.Start(t, module(poison))
	c := m.As(frametest.Customer("pty_a"))
	model := bring(t, c, "poison.stl", "millimeter", stl(t, block()))
	if r := model.Revision; r.State != Quarantined || r.Problem.Code != "crashed" || !strings.Contains(r.Problem.Text, "panic") {
		t.Errorf("%s: %+v", r.State, r.Problem)
	}
	var steps frame.List[StepTimes]
	c.Get(modelsPath + "/" + model.ID + "/revisions/1/steps").Want(200).Into(&steps)
	if steps.Items[0].State != StepFailed {
		t.Errorf("the step under way is %s", steps.Items[0].State)
	}
	// Nothing tries it again: neither another model nor a restart.
	m.Stop()
	m = frametest.Start(t, module(poison), frametest.Setting{Name: "INSHAPE_DATA", Value: m.Server.Config.Data})
	c = m.As(frametest.Customer("pty_a"))
	bring(t, c, "poison2.stl", "millimeter", stl(t, block()))
	if n := runs.Load(); n != 4 {
		t.Errorf("%d runs, want 2 for each of 2 models", n)
	}
	// Asked to, it is tried again, twice.
	c.Post(modelsPath+"/"+model.ID+"/revisions/1/retry", nil).Want(204)
	if model = wait(t, c, model.ID); model.Revision.State != Quarantined || runs.Load() != 6 {
		t.Errorf("%s after %d runs", model.Revision.State, runs.Load())
	}
}

func TestCancel(t *testing.T) {
	begun := make(chan struct{}, 10)
	m := frametest.Start(t, module(func(ctx context.Context, _ task, _ func(progress)) error {
		begun <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}), frametest.Setting{Name: "INSHAPE_WORKERS", Value: "1"})
	c := m.As(frametest.Customer("pty_a"))
	bytesOf := c.With("Content-Type", "application/octet-stream")
	var running, waiting Model
	bytesOf.Post(modelsPath+"?name=a.stl&unit=millimeter", stl(t, block())).Want(201).Into(&running)
	<-begun
	bytesOf.Post(modelsPath+"?name=b.stl&unit=millimeter", stl(t, block())).Want(201).Into(&waiting)
	for _, model := range []Model{waiting, running} {
		c.Post(modelsPath+"/"+model.ID+"/revisions/1/cancel", nil).Want(204)
		if got := wait(t, c, model.ID); got.Revision.State != Cancelled {
			t.Errorf("%s is %s", got.Name, got.Revision.State)
		}
		c.Post(modelsPath+"/"+model.ID+"/revisions/1/cancel", nil).Refused(409, "conflict")
	}
	c.Post(modelsPath+"/"+waiting.ID+"/revisions/1/retry", nil).Want(204)
	<-begun // the place of the one that was cancelled is free
}

func TestOnePartyDoesNotKeepOthersWaiting(t *testing.T) {
	order := make(chan string, 100)
	next := make(chan struct{})
	m := frametest.Start(t, module(func(ctx context.Context, t task, _ func(progress)) error {
		order <- t.Name
		select {
		case <-next:
		case <-ctx.Done():
		}
		return errors.New("enough")
	}), frametest.Setting{Name: "INSHAPE_WORKERS", Value: "2"})
	data := stl(t, block())
	for _, who := range []string{"a", "a", "a", "a", "b"} {
		m.As(frametest.Customer("pty_"+who)).Post(modelsPath+"?unit=millimeter&name="+who+".stl", data).Want(201)
	}
	first := []string{<-order, <-order}
	next <- struct{}{}
	if third := <-order; third != "b.stl" {
		t.Errorf("after %v came %s, want b.stl", first, third)
	}
	close(next)
}

// worker is a task for a worker process, on a file that is in its place.
func workerTask(t *testing.T, data []byte) task {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, fileSource), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return task{Folder: folder, Name: "a.stl", Unit: "millimeter", Memory: 1 << 30, StepTime: time.Minute}
}

func TestWorkerDoesWhatTheModuleDoes(t *testing.T) {
	data := stl(t, ball(20, 30))
	reports := map[string]string{}
	for name, run := range map[string]runner{"here": here(material.Default()), "apart": apart(os.Args[0], "work")} {
		var kinds []string
		err := run(t.Context(), workerTask(t, data), func(p progress) {
			if p.Report != nil {
				text, err := json.Marshal(p.Report)
				if err != nil {
					t.Error(err)
				}
				reports[name] = string(text)
			}
			if p.Ended != nil {
				kinds = append(kinds, string(p.Ended.Name))
			}
		})
		if err != nil || len(kinds) != len(steps(Read)) {
			t.Errorf("%s: %v, steps %v", name, err, kinds)
		}
	}
	if reports["here"] != reports["apart"] || reports["here"] == "" {
		t.Errorf("here:  %s\napart: %s", reports["here"], reports["apart"])
	}
}

func TestWorkerThatTakesTooMuchIsEnded(t *testing.T) {
	quiet := func(progress) {}
	data := stl(t, ball(20, 300)) // 180,000 facets
	slow := workerTask(t, data)
	slow.StepTime = time.Millisecond
	err := apart(os.Args[0], "work")(t.Context(), slow, quiet)
	if _, ok := errors.AsType[*overdue](err); !ok {
		t.Errorf("a step that takes too long: %v", err)
	}
	greedy := workerTask(t, data)
	greedy.Memory = 48 << 20
	if err := apart(os.Args[0], "work")(t.Context(), greedy, quiet); err == nil || !strings.Contains(err.Error(), "out of memory") && !strings.Contains(err.Error(), "cannot allocate") {
		t.Errorf("one that takes too much memory: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	err = apart(os.Args[0], "work")(ctx, workerTask(t, data), func(progress) { cancel(errCancelled) })
	if !errors.Is(err, errCancelled) {
		t.Errorf("one that is cancelled: %v", err)
	}
	if err := apart("/nowhere/to/be/found")(t.Context(), workerTask(t, data), quiet); err == nil {
		t.Error("a program that is not there did something")
	}
}

// process is the module as a process of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	data string
}

func startProcess(t *testing.T, data string) *process {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "INSHAPE_TEST_SERVES=1", "INSHAPE_LISTEN="+address, "INSHAPE_DATA="+data, "INSHAPE_SECRET="+frametest.Secret)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, url: "http://" + address, data: data}
	t.Cleanup(p.kill)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(p.url + "/healthz")
		if err == nil {
			_ = answer.Body.Close()
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve: %v", err)
		}
	}
}

func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

func (p *process) ask(method, path string, body []byte, into any) {
	p.t.Helper()
	r, err := http.NewRequest(method, p.url+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := frame.Attach(r, frametest.Secret, frametest.Customer("pty_a")); err != nil {
		p.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		p.t.Fatalf("%s %s: %s", method, path, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		p.t.Fatal(err)
	}
}

// TestKilledInTheMiddle: kill -9 of the module while workers are at work loses
// nothing, and leaves no worker behind.
func TestKilledInTheMiddle(t *testing.T) {
	data := t.TempDir()
	p := startProcess(t, data)
	file := stl(t, ball(30, 200)) // 80,000 facets
	var models [3]Model
	for i := range models {
		p.ask("POST", fmt.Sprintf("%s?name=%d.stl&unit=millimeter", modelsPath, i), file, &models[i])
	}
	running := func() (n int) {
		for _, m := range models {
			var now Model
			p.ask("GET", modelsPath+"/"+m.ID, nil, &now)
			if now.Revision.State == Running {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(20 * time.Second); running() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no analysis has begun")
		}
	}
	workers := childrenOf(t, p.cmd.Process.Pid)
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	for _, pid := range workers {
		for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("worker %d outlives the module", pid)
			}
		}
	}
	p = startProcess(t, data)
	for _, m := range models {
		var now Model
		for range 3 {
			if p.ask("GET", modelsPath+"/"+m.ID+"?wait=60", nil, &now); !now.Busy {
				break
			}
		}
		if now.Revision.State != Done || now.Revision.Report.Facts.Facets != 80_000-400 {
			t.Errorf("%s is %s: %+v", m.Name, now.Revision.State, now.Revision.Problem)
		}
	}
}

func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	var list []int
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(paths) == 0 {
		t.Skipf("this system does not tell the children of a process: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				list = append(list, child)
			}
		}
	}
	return list
}

// alive tells whether a process runs; one that is dead and not yet buried does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z")
}
