package containerd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	signals "github.com/moby/sys/signal"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/status"

	"bulkhead"
	"bulkhead/agent"
)

// Config is what a Runtime needs beside containerd.
type Config struct {
	// Registry is the base URL of the built-in registry: "https://127.0.0.1:7071".
	Registry string
	// Client makes the requests to the registry. Default: http.DefaultClient.
	Client *http.Client
	// Init is the path of a static binary that, run as "PATH init -- COMMAND",
	// calls Init. Services that ask for an init process get it. Default: such
	// services are refused.
	Init string
	// Self is the path of a binary that, run under the name RuntimeName, calls
	// OCIRuntime. Needed by services that have secrets.
	Self string
}

// Runtime implements agent.Runtime.
type Runtime struct {
	config   Config
	registry *url.URL
	log      *slog.Logger

	client      *client.Client
	namespace   string // of containerd, and the name of the cgroup above all stamps
	snapshotter string
	run         string // folder for what lasts as long as containers do: streams, secrets

	release  sync.Mutex
	released bool // streams of a former life; guarded by release

	locks  locks // of images, by digest, and of containers, by id
	images imageCache
	known  known
}

var _ agent.Runtime = (*Runtime)(nil)

// New makes a Runtime on an open engine.
func New(engine *Engine, config Config, log *slog.Logger) (*Runtime, error) {
	registry, err := url.Parse(config.Registry)
	if err != nil || registry.Host == "" || (registry.Scheme != "http" && registry.Scheme != "https") {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "registry %q is not a URL such as https://127.0.0.1:7071", config.Registry)
	}
	if config.Client == nil {
		config.Client = http.DefaultClient
	}
	return &Runtime{
		config:      config,
		registry:    registry,
		log:         log,
		client:      engine.client,
		namespace:   engine.namespace(),
		snapshotter: engine.snapshotter,
		run:         engine.config.RunFolder,
	}, nil
}

// The labels of a container, beside the caller's own.
const (
	labelTask  = "bulkhead.task"
	labelStamp = "bulkhead.stamp"
	labelGroup = "bulkhead.group" // the shim that it runs under
	labelOwn   = "bulkhead.label/"
)

// containerID is the id under which containerd knows a task: the task's own
// where containerd allows it, else an address of it.
func containerID(id bulkhead.TaskID) string {
	if identifiers.Validate(string(id)) == nil {
		return string(id)
	}
	return fmt.Sprintf("task-%x", sha256.Sum256([]byte(id)))[:40]
}

// Start implements agent.Runtime.
func (r *Runtime) Start(ctx context.Context, id bulkhead.TaskID) error {
	_, err := r.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: containerID(id)})
	if err == nil {
		return nil
	}
	switch status, _ := r.status(ctx, containerID(id)); status {
	case tasktypes.Status_RUNNING, tasktypes.Status_STOPPED:
		return nil // started before
	}
	return fmt.Errorf("start task %s: %w", id, fault(err))
}

// Stop implements agent.Runtime.
func (r *Runtime) Stop(ctx context.Context, id bulkhead.TaskID, signal string, grace time.Duration) error {
	number := syscall.SIGTERM
	if signal != "" {
		var err error
		if number, err = signals.ParseSignal(signal); err != nil {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "signal %q is unknown: use a name such as SIGTERM, or a number", signal)
		}
	}
	status, err := r.status(ctx, containerID(id))
	switch {
	case err != nil:
		return fmt.Errorf("stop task %s: %w", id, err)
	case status == tasktypes.Status_CREATED:
		number = syscall.SIGKILL // nothing runs yet that could heed another one
	case status != tasktypes.Status_RUNNING:
		return nil
	}
	if err := r.stop(ctx, containerID(id), number, grace); err != nil {
		return fmt.Errorf("stop task %s: %w", id, err)
	}
	return nil
}

// stop sends signal, SIGKILL after grace, and waits for the end.
func (r *Runtime) stop(ctx context.Context, container string, signal syscall.Signal, grace time.Duration) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.wait(waiting, container) }()

	if err := r.kill(ctx, container, signal); err != nil {
		cancel()
		<-ended
		return err
	}
	if signal != syscall.SIGKILL {
		select {
		case err := <-ended:
			return err
		case <-time.After(grace):
		}
		if err := r.kill(ctx, container, syscall.SIGKILL); err != nil {
			cancel()
			<-ended
			return err
		}
	}
	return <-ended
}

// kill sends a signal to a container's first process; SIGKILL to all of them.
func (r *Runtime) kill(ctx context.Context, container string, signal syscall.Signal) error {
	_, err := r.client.TaskService().Kill(ctx, &tasks.KillRequest{
		ContainerID: container, Signal: uint32(signal), All: signal == syscall.SIGKILL,
	})
	if err := fault(err); err != nil && !gonealready(err) {
		return fmt.Errorf("send signal %s: %w", signal, err)
	}
	return nil
}

// gonealready tells whether err says that there is no process any more.
func gonealready(err error) bool {
	return errdefs.IsNotFound(err) || strings.Contains(err.Error(), "process already finished")
}

// wait returns when a container's first process has ended.
func (r *Runtime) wait(ctx context.Context, container string) error {
	for {
		_, err := r.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: container})
		err = fault(err)
		switch {
		case err == nil || errdefs.IsNotFound(err):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("wait for its end: %w", context.Cause(ctx))
		}
		// containerd is being restarted; it knows the task afterwards.
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// status is how a container's first process does; unknown when it has none.
func (r *Runtime) status(ctx context.Context, container string) (tasktypes.Status, error) {
	response, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: container})
	if err := fault(err); errdefs.IsNotFound(err) {
		return tasktypes.Status_UNKNOWN, nil
	} else if err != nil {
		return tasktypes.Status_UNKNOWN, err
	}
	return response.Process.Status, nil
}

// Remove implements agent.Runtime.
func (r *Runtime) Remove(ctx context.Context, id bulkhead.TaskID) error {
	container := containerID(id)
	unlock, err := r.locks.lock(ctx, container)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.known.load(ctx, r); err != nil {
		return err
	}
	if err := r.remove(ctx, container); err != nil {
		return fmt.Errorf("remove task %s: %w", id, err)
	}
	return nil
}

// remove deletes a container. Its lock is held.
func (r *Runtime) remove(ctx context.Context, container string) error {
	// First of all, so that no new task joins a shim that is about to end.
	r.known.delete(container)
	err := r.deleteTask(ctx, container)
	if err != nil && strings.Contains(err.Error(), "cannot delete a running process") {
		if err := r.stop(ctx, container, syscall.SIGKILL, 0); err != nil {
			return err
		}
		err = r.deleteTask(ctx, container)
	}
	// The shim has ended with its last task: containerd notices in a moment.
	for attempt := 0; err != nil && shimEnded(err) && attempt < 10; attempt++ {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
		err = r.deleteTask(ctx, container)
	}
	if err != nil {
		return fmt.Errorf("delete process: %w", err)
	}
	if err := r.client.SnapshotService(r.snapshotter).Remove(ctx, container); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete file system: %w", err)
	}
	// Last, so that a failure above leaves something that List finds.
	if err := r.client.ContainerService().Delete(ctx, container); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container: %w", err)
	}
	return r.dropSecrets(container)
}

func (r *Runtime) deleteTask(ctx context.Context, container string) error {
	_, err := r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: container})
	if err := fault(err); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// List implements agent.Runtime. Containers that are being prepared or removed
// right now are left out. One that has lost its process, as by a reboot, counts
// as failed with exit code 137.
func (r *Runtime) List(ctx context.Context) ([]agent.Observed, error) {
	defer r.releaseStreams()()
	var made []containers.Container
	processes := map[string]*tasktypes.Process{}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		made, err = r.client.ContainerService().List(gctx)
		return err
	})
	group.Go(func() error {
		response, err := r.client.TaskService().List(gctx, &tasks.ListTasksRequest{})
		if err != nil {
			return fault(err)
		}
		for _, process := range response.Tasks {
			processes[process.ID] = process
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var observed []agent.Observed
	for _, container := range made {
		if container.Labels[labelTask] == "" || r.locks.held(container.ID) {
			continue
		}
		r.known.add(container.ID, placeOf(container))
		observed = append(observed, observe(container, processes[container.ID]))
	}
	return observed, nil
}

func observe(container containers.Container, process *tasktypes.Process) agent.Observed {
	o := agent.Observed{ID: bulkhead.TaskID(container.Labels[labelTask]), Labels: map[string]string{}}
	for name, value := range container.Labels {
		if own, ok := strings.CutPrefix(name, labelOwn); ok {
			o.Labels[own] = value
		}
	}
	switch {
	case process == nil:
		o.State, o.ExitCode, o.Ended = bulkhead.TaskFailed, 128+int(syscall.SIGKILL), container.UpdatedAt
	case process.Status == tasktypes.Status_CREATED:
		o.State = bulkhead.TaskPrepared
	case process.Status == tasktypes.Status_STOPPED:
		o.State, o.ExitCode, o.Ended = bulkhead.TaskFailed, int(process.ExitStatus), process.ExitedAt.AsTime()
		if process.ExitStatus == 0 {
			o.State = bulkhead.TaskComplete
		}
	default:
		o.State = bulkhead.TaskRunning
	}
	return o
}

// fault turns an error of a plain RPC into one that errdefs and the kinds of
// bulkhead know.
func fault(err error) error {
	if err == nil {
		return nil
	}
	if _, plain := status.FromError(err); plain {
		err = errgrpc.ToNative(err) // a second time it would forget the kind
	}
	switch {
	case strings.Contains(err.Error(), "no space left on device"):
		return &bulkhead.Error{Kind: bulkhead.ErrExhausted, Message: "the disk of containerd is full", Hint: "free some space", Cause: err}
	case errdefs.IsUnavailable(err):
		return &bulkhead.Error{Kind: bulkhead.ErrUnavailable, Message: "containerd does not answer", Cause: err}
	}
	return err
}

// place is where a task runs.
type place struct {
	task  bulkhead.TaskID
	stamp bulkhead.StampName
	group string // of the shim
}

func placeOf(container containers.Container) place {
	return place{
		task:  bulkhead.TaskID(container.Labels[labelTask]),
		stamp: bulkhead.StampName(container.Labels[labelStamp]),
		group: container.Labels[labelGroup],
	}
}

// known remembers the places of the containers that exist, so that most
// questions need no call. The zero value is ready.
type known struct {
	mu     sync.Mutex
	loaded bool             // guarded by mu
	places map[string]place // by container id; guarded by mu
}

// load reads the containers that exist, once.
func (k *known) load(ctx context.Context, r *Runtime) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.loaded {
		return nil
	}
	made, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", fault(err))
	}
	for _, container := range made {
		k.addLocked(container.ID, placeOf(container))
	}
	k.loaded = true
	return nil
}

func (k *known) add(container string, p place) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addLocked(container, p)
}

func (k *known) addLocked(container string, p place) {
	if k.places == nil {
		k.places = map[string]place{}
	}
	k.places[container] = p
}

// join adds a container to the shim of its stamp. A stamp without containers
// gets a new one: the shim of its last container may be about to end.
func (k *known) join(container string, p place) place {
	k.mu.Lock()
	defer k.mu.Unlock()
	p.group = container
	for _, other := range k.places {
		if other.stamp == p.stamp {
			p.group = other.group
			break
		}
	}
	k.addLocked(container, p)
	return p
}

func (k *known) delete(container string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.places, container)
}

func (k *known) find(container string) (place, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, ok := k.places[container]
	return p, ok
}

// locks gives each name to one holder at a time. The zero value is ready.
type locks struct {
	mu    sync.Mutex
	names map[string]chan struct{} // closed when the holder lets go; guarded by mu
}

// lock waits for the name. It fails only with ctx.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		free, taken := l.names[name]
		if !taken {
			defer l.mu.Unlock()
			if l.names == nil {
				l.names = map[string]chan struct{}{}
			}
			free = make(chan struct{})
			l.names[name] = free
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.names, name)
				close(free)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (l *locks) held(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, taken := l.names[name]
	return taken
}

// kinded tells whether err is already meant for users.
func kinded(err error) bool {
	var e *bulkhead.Error
	return errors.As(err, &e)
}
