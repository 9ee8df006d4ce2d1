package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"syscall"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"

	"bulkhead/agent"
)

// subscribedTopic is the topic of our own events, by which a subscription sees
// that it is in force.
const subscribedTopic = "/bulkhead/subscribed"

// Exits implements agent.Runtime. The first Exit is empty too: it says that
// from now on none is missed.
func (r *Runtime) Exits(ctx context.Context) <-chan agent.Exit {
	exits := make(chan agent.Exit)
	go func() {
		defer close(exits)
		const shortest, longest = 50 * time.Millisecond, 5 * time.Second
		pause := shortest
		for ctx.Err() == nil {
			since := time.Now()
			err := r.subscribe(ctx, exits)
			if ctx.Err() != nil {
				return
			}
			if time.Since(since) > longest {
				pause = shortest
			}
			if pause == shortest {
				r.log.Warn("exits of tasks are not seen for now", "error", err)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, longest)
		}
	}()
	return exits
}

// subscribe delivers exits until the subscription breaks.
func (r *Runtime) subscribe(ctx context.Context, exits chan<- agent.Exit) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	inNamespace := fmt.Sprintf("namespace==%s,topic==", r.namespace)
	envelopes, errs := r.client.EventService().Subscribe(ctx, inNamespace+`"/tasks/exit"`, inNamespace+`"`+subscribedTopic+`"`)

	// containerd does not say when the subscription is in force. We publish an
	// event of our own until it comes back.
	mark := randomName()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for inForce := false; ; {
		if !inForce {
			if err := r.client.EventService().Publish(ctx, subscribedTopic, &eventtypes.NamespaceCreate{Name: mark}); err != nil {
				return fmt.Errorf("publish event: %w", err)
			}
		}
		var exit agent.Exit
		select {
		case <-again.C:
			if inForce {
				again.Stop()
			}
			continue
		case err := <-errs:
			if err == nil {
				err = errors.New("containerd has ended the stream of events")
			}
			return err
		case envelope := <-envelopes:
			event, err := typeurl.UnmarshalAny(envelope.Event)
			if err != nil {
				return fmt.Errorf("decode event: %w", err)
			}
			switch event := event.(type) {
			case *eventtypes.NamespaceCreate:
				if inForce || event.Name != mark {
					continue
				}
				inForce = true
			case *eventtypes.TaskExit:
				var ok bool
				if exit, ok = r.exit(ctx, event); !ok {
					continue
				}
			}
		}
		select {
		case exits <- exit:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// exit is the end of a task, and not of a command that Exec ran in it.
func (r *Runtime) exit(ctx context.Context, event *eventtypes.TaskExit) (agent.Exit, bool) {
	if event.ID != event.ContainerID {
		return agent.Exit{}, false
	}
	p, ok := r.known.find(event.ContainerID)
	if !ok {
		container, err := r.client.ContainerService().Get(ctx, event.ContainerID)
		if err != nil {
			return agent.Exit{}, false // removed since: nobody waits for it
		}
		p = placeOf(container)
	}
	exit := agent.Exit{ID: p.task, ExitCode: int(event.ExitStatus), Time: event.ExitedAt.AsTime()}
	exit.OOM = exit.ExitCode == 128+int(syscall.SIGKILL) && outOfMemory(r.cgroup(p.stamp, p.task))
	return exit, true
}

// randomName is a name that nothing else has.
func randomName() string { return rand.Text() }
