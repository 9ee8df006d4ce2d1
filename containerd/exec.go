package containerd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead"
	"bulkhead/agent"
)

// Exec implements agent.Runtime. The command has the task's user, environment,
// folder and limits. When ctx ends, it is killed.
func (r *Runtime) Exec(ctx context.Context, id bulkhead.TaskID, e agent.Exec) (code int, err error) {
	defer func() {
		// A time-out while containerd is away tells nothing about the task.
		if err != nil && ctx.Err() != nil && !r.answers(ctx) {
			err = bulkhead.Errorf(bulkhead.ErrUnavailable, "containerd does not answer")
		}
	}()
	if len(e.Command) == 0 {
		return 0, bulkhead.Errorf(bulkhead.ErrInvalid, "no command to run in task %s", id)
	}
	notRunning := bulkhead.Errorf(bulkhead.ErrConflict, "task %s is not running", id)
	container, err := r.client.LoadContainer(ctx, containerID(id))
	if errdefs.IsNotFound(err) {
		return 0, bulkhead.Errorf(bulkhead.ErrNotFound, "task %s does not exist on this node", id)
	}
	if err != nil {
		return 0, fmt.Errorf("load task %s: %w", id, fault(err))
	}
	spec, err := container.Spec(ctx)
	if err != nil {
		return 0, fmt.Errorf("load task %s: %w", id, fault(err))
	}
	own := execProcess(spec.Process, e)
	secrets := spec.Annotations[secretsAnnotation]
	for _, texts := range []*[]string{&own.Args, &own.Env} {
		if secrets == "" {
			break
		}
		if *texts, err = withSecrets(secrets, *texts); err != nil {
			return 0, err
		}
	}
	task, err := container.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return 0, notRunning
	}
	if err != nil {
		return 0, fmt.Errorf("load task %s: %w", id, fault(err))
	}
	stdin := &input{Reader: e.Stdin, started: make(chan func(), 1)}
	defer close(stdin.started)
	process, err := task.Exec(ctx, "exec-"+randomName(), own, r.streams(e, stdin))
	if err != nil && (errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) || strings.Contains(err.Error(), "cannot exec in a")) {
		return 0, notRunning
	}
	if err != nil {
		return 0, fmt.Errorf("make command in task %s: %w", id, fault(err))
	}
	// What follows ends the command even when ctx has ended.
	whole := context.WithoutCancel(ctx)
	defer func() {
		bounded, cancel := context.WithTimeout(whole, 10*time.Second)
		defer cancel()
		_, _ = process.Delete(bounded)
	}()
	ended, err := process.Wait(whole)
	if err != nil {
		return 0, fmt.Errorf("wait for command in task %s: %w", id, fault(err))
	}
	if err := process.Start(whole); err != nil {
		return 0, execFault(id, e.Command[0], fault(err))
	}
	stdin.started <- func() { _ = process.CloseIO(whole, client.WithStdinCloser) }
	for {
		select {
		case status := <-ended:
			if err := status.Error(); err != nil {
				return 0, fmt.Errorf("wait for command in task %s: %w", id, fault(err))
			}
			drain(process.IO())
			return int(status.ExitCode()), nil
		case size, open := <-e.Resize:
			if !open {
				e.Resize = nil
				continue
			}
			_ = process.Resize(ctx, uint32(size.Width), uint32(size.Height))
		case <-ctx.Done():
			_ = process.Kill(whole, syscall.SIGKILL)
			<-ended
			return 0, context.Cause(ctx)
		}
	}
}

// answers tells whether containerd does, within a moment.
func (r *Runtime) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, err := r.client.Version(ctx)
	return err == nil
}

// drain waits for the rest of a command's output, but not for long: processes
// that it has left behind may hold its streams open.
func drain(streams cio.IO) {
	done := make(chan struct{})
	go func() {
		streams.Wait() // deleting the command ends this
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// execProcess is the task's own process with another command.
func execProcess(own *specs.Process, e agent.Exec) *specs.Process {
	process := *own
	process.Args = e.Command
	process.Terminal = e.TTY
	if e.TTY {
		process.Env = append([]string{"TERM=xterm"}, process.Env...)
	}
	return &process
}

// streams connects what e gives. Streams that nobody reads or writes cost nothing.
func (r *Runtime) streams(e agent.Exec, stdin io.Reader) cio.Creator {
	if e.Stdin == nil && e.Stdout == nil && e.Stderr == nil && !e.TTY {
		return cio.NullIO
	}
	if e.Stdin == nil {
		stdin = nil
	}
	stdout, stderr := e.Stdout, e.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	options := []cio.Opt{cio.WithStreams(stdin, stdout, stderr), cio.WithFIFODir(filepath.Join(r.run, "exec"))}
	if e.TTY {
		options = append(options, cio.WithTerminal)
	}
	return cio.NewCreator(options...)
}

// execFault finds in runc's message what a user can mend.
func execFault(id bulkhead.TaskID, program string, err error) error {
	if missing(err.Error()) {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "command %q is not in task %s", program, id)
	}
	return fmt.Errorf("start command in task %s: %w", id, err)
}

// input is what a command reads. The command sees its end only when containerd
// is told, and that can happen only when the command has started.
type input struct {
	io.Reader
	started chan func() // gets what tells containerd; closed with the command
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.Reader.Read(p)
	if err != nil {
		if end := <-i.started; end != nil {
			end()
		}
	}
	return n, err
}

// releaseStreams opens the streams of commands that an earlier life of Bulkhead
// has left. A shim that was about to open one of them waits for its other end,
// and answers nothing else while it does: not even what its tasks' states are.
// done closes and removes the streams.
func (r *Runtime) releaseStreams() (done func()) {
	r.release.Lock()
	defer r.release.Unlock()
	if r.released {
		return func() {}
	}
	r.released = true
	var ends []*os.File
	folders, _ := filepath.Glob(filepath.Join(r.run, "exec", "*"))
	for _, folder := range folders {
		streams, _ := os.ReadDir(folder)
		for _, stream := range streams {
			// For both reading and writing, so that neither waits.
			if f, err := os.OpenFile(filepath.Join(folder, stream.Name()), os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
				ends = append(ends, f)
			}
		}
	}
	return func() {
		for _, f := range ends {
			f.Close()
		}
		for _, folder := range folders {
			if err := os.RemoveAll(folder); err != nil {
				r.log.Warn("remove streams of a former life", "error", err)
			}
		}
	}
}
