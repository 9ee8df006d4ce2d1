package analysis

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"inshape/material"
	"inshape/mesh"
)

// task is the analysis of one revision, as files: what a worker is told.
type task struct {
	Folder    string        `json:"folder"` // of the revision; results go there
	Name      string        `json:"name"`   // of the file
	Unit      mesh.Unit     `json:"unit"`
	Source    string        `json:"source"` // mesh of the revision that Operation is applied to; empty: a file
	Operation Operation     `json:"operation"`
	Materials string        `json:"materials"`
	MaxBytes  int64         `json:"max_bytes"`
	Mark      string        `json:"mark"`
	Memory    int64         `json:"memory"` // bytes that it may take
	StepTime  time.Duration `json:"step_time"`
}

// The files of a revision.
const (
	fileSource   = "file"        // as it came
	fileGeometry = "mesh"        // see geometry.go
	filePreview  = "preview"     // see preview.go
	filePicture  = "picture.png" // what a picture is for
	fileGuarded  = "guarded.png"
)

// progress is what a worker tells of a step, as one line of JSON.
type progress struct {
	Begun   StepName  `json:"begun,omitempty"`
	Ended   *Step     `json:"ended,omitempty"`
	Report  *Report   `json:"report,omitempty"`
	Refused *Reason   `json:"refused,omitempty"`
	Guess   mesh.Unit `json:"guess,omitempty"` // with the refusal missing-unit
	Failed  string    `json:"failed,omitempty"`
}

// Reason is why there is no analysis.
type Reason struct {
	Code string `json:"code" doc:"Stable, for programs: truncated, missing-unit, not-repairable, crashed, …"`
	Text string `json:"text" doc:"What is wrong, where, and what to do"`
}

// perform does a task in this process.
func perform(ctx context.Context, t task, materials *material.Set, tell func(progress)) {
	refused, err := t.run(ctx, materials, tell)
	switch {
	case errors.Is(err, syscall.ENOSPC):
		tell(progress{Refused: diskFull()})
	case err != nil:
		tell(progress{Failed: err.Error()})
	case refused != nil:
		tell(*refused)
	}
}

func diskFull() *Reason {
	return &Reason{Code: "disk-full", Text: "the shop's disk is full; tell the shop, and try again when there is room"}
}

func (t task) run(ctx context.Context, materials *material.Set, tell func(progress)) (*progress, error) {
	in := Input{Name: t.Name, Unit: t.Unit, Operation: t.Operation, Materials: materials, MaxBytes: t.MaxBytes, Mark: t.Mark}
	source := t.Source
	if source == "" {
		source = filepath.Join(t.Folder, fileSource)
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	if t.Source == "" {
		in.Data = data
	} else if in.Mesh, err = readGeometry(data); err != nil {
		return nil, err
	}
	result, err := Analyse(ctx, in,
		func(name StepName) { tell(progress{Begun: name}) },
		func(s Step) { tell(progress{Ended: &s}) })
	if fault, ok := errors.AsType[*mesh.Error](err); ok {
		return &progress{Refused: &Reason{Code: string(fault.Code), Text: fault.Error()}, Guess: fault.Guess}, nil
	}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return &progress{Refused: &Reason{Code: refusal.Code, Text: refusal.Text}}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(t.Folder, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	geometry := &bytes.Buffer{}
	if err := writeGeometry(geometry, result.Mesh); err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		fileGeometry: geometry.Bytes(), filePreview: result.Preview, filePicture: result.Picture, fileGuarded: result.Guarded,
	} {
		if err := writeFile(filepath.Join(t.Folder, name), content); err != nil {
			return nil, err
		}
	}
	tell(progress{Report: &result.Report})
	return nil, nil
}

// writeFile writes a file whole or not at all, and to the disk.
func writeFile(path string, content []byte) error {
	temporary := path + ".part"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), errors.Join(err, os.Remove(temporary)))
	}
	return nil
}

// runner does a task. It tells what happens as it happens, and returns when
// nothing of the task is running any more. An error is a crash or the end of ctx.
type runner func(ctx context.Context, t task, tell func(progress)) error

// here does tasks in this process: one that hangs cannot be ended, and one that
// takes all memory takes the module with it.
func here(materials *material.Set) runner {
	return func(ctx context.Context, t task, tell func(progress)) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		perform(ctx, t, materials, tell)
		return ctx.Err()
	}
}

// slack is how much less memory the runtime of a worker keeps to than the kernel allows:
// it takes it in pieces of 64 MiB, and collects late when others want the processors.
const slack = 192 << 20

// apart does each task in a process of its own, which is killed when ctx ends or
// when a step takes too long, and which may crash without harm.
func apart(program string, arguments ...string) runner {
	return func(ctx context.Context, t task, tell func(progress)) error {
		order, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("order task: %w", err)
		}
		ctx, kill := context.WithCancelCause(ctx)
		defer kill(nil)
		cmd := exec.CommandContext(ctx, program, arguments...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("GOMEMLIMIT=%d", max(t.Memory/2, t.Memory-slack)))
		cmd.WaitDelay = 5 * time.Second
		stderr := &head{limit: 4096} // read after Wait alone
		cmd.Stderr = stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return fmt.Errorf("start worker: %w", err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return fmt.Errorf("start worker: %w", err)
		}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start worker: %w", err)
		}
		// The worker ends when its input does: with this process, however it ends.
		if _, err := stdin.Write(append(order, '\n')); err != nil {
			kill(fmt.Errorf("order task: %w", err))
		}
		limit := func(step StepName) *time.Timer {
			return time.AfterFunc(t.StepTime, func() { kill(&overdue{step: step, limit: t.StepTime}) })
		}
		clock := limit("start")
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			var p progress
			if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
				kill(fmt.Errorf("read progress: %w", err))
				break
			}
			if p.Begun != "" {
				clock.Stop()
				clock = limit(p.Begun)
			}
			tell(p)
		}
		clock.Stop()
		if err := lines.Err(); err != nil {
			kill(fmt.Errorf("read progress: %w", err))
		}
		err = cmd.Wait()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("the worker ended: %w: %s", err, stderr)
		}
		return nil
	}
}

// overdue is a step that took too long.
type overdue struct {
	step  StepName
	limit time.Duration
}

func (o *overdue) Error() string { return fmt.Sprintf("step %s took longer than %s", o.step, o.limit) }

// head keeps the beginning of what is written to it: a crash says first what it is.
type head struct {
	limit int
	text  []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.text = append(h.text, p[:min(len(p), h.limit-len(h.text))]...)
	return len(p), nil
}

func (h *head) String() string { return strings.TrimSpace(strings.ToValidUTF8(string(h.text), "")) }

// Work is the main of a worker process: it reads one task from its input, does
// it, tells of it on its output, and gives the exit code. It ends early when its
// input ends, so that it does not outlive who started it.
func Work(in io.Reader, out io.Writer) int {
	reader := bufio.NewReader(in)
	line, err := reader.ReadBytes('\n')
	var t task
	if err == nil {
		err = json.Unmarshal(line, &t)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "analysis work: read task: %v\n", err)
		return 2
	}
	go func() {
		_, _ = reader.ReadByte() // whatever it is, it is the end
		os.Exit(3)
	}()
	// The kernel refuses memory beyond the limit: the process ends, not the machine.
	if t.Memory > 0 {
		limit := uint64(t.Memory)
		if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			fmt.Fprintf(os.Stderr, "analysis work: limit memory: %v\n", err)
			return 2
		}
	}
	materials, _, err := readMaterials(t.Materials)
	if err != nil {
		fmt.Fprintf(os.Stderr, "analysis work: %v\n", err)
		return 2
	}
	encoder := json.NewEncoder(out)
	perform(context.Background(), t, materials, func(p progress) {
		if err := encoder.Encode(p); err != nil {
			os.Exit(3) // nobody listens
		}
	})
	return 0
}
