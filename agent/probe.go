package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"bulkhead"
)

// firstProbe is the pause before the second probe of a starting task; it doubles
// up to the interval, so that a quick service is up quickly.
const firstProbe = 50 * time.Millisecond

// startProbe watches a running task's health until stopProbe.
func (l *stampLoop) startProbe(ctx context.Context, t *task) {
	if !t.care.probed() || t.probe != nil || t.State != bulkhead.TaskRunning {
		return
	}
	ctx, t.probe = context.WithCancel(ctx)
	id, h, started, was := t.ID, *t.care.Health, t.Started, t.Health
	l.steps.Go(func() {
		p := prober{h: h, started: started, health: was}
		pause := cmpDuration(h.StartInterval, firstProbe)
		for {
			ok, output, err := l.probeOnce(ctx, id, h)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				l.log.Debug("no answer to a probe", "task", id, "err", err)
			} else if health, message, changed := p.result(ok, output, time.Now()); changed {
				l.post(func() { l.probed(id, health, message) })
			}
			interval := h.Interval
			if p.health == bulkhead.HealthStarting {
				interval = min(pause, h.Interval)
				if h.StartInterval == 0 {
					pause *= 2
				}
			}
			if wait(ctx, interval) != nil {
				return
			}
		}
	})
}

func cmpDuration(d, fallback time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return fallback
}

func (t *task) stopProbe() {
	if t.probe != nil {
		t.probe()
		t.probe = nil
	}
}

func (l *stampLoop) probed(id bulkhead.TaskID, health bulkhead.TaskHealth, message string) {
	if t := l.tasks[id]; t != nil && t.State == bulkhead.TaskRunning {
		t.Health, t.Message = health, conceal(message, l.assignment.Secrets)
	}
}

// prober counts the results of one task's probes.
type prober struct {
	h        bulkhead.Health
	started  time.Time
	health   bulkhead.TaskHealth
	failures int       // in a row
	counted  time.Time // of the latest failure that did while the task was starting
}

// result takes one probe's outcome; changed tells that the health is another now.
func (p *prober) result(ok bool, output string, now time.Time) (health bulkhead.TaskHealth, message string, changed bool) {
	was := p.health
	if ok {
		p.failures, p.health = 0, bulkhead.HealthHealthy
		return p.health, "", was != p.health
	}
	if p.health == bulkhead.HealthStarting {
		// Probes follow each other quickly while a task starts. Failures count as they
		// would at the usual interval, the first one interval after the start.
		since := p.started
		if p.counted.After(since) {
			since = p.counted
		}
		if now.Sub(p.started) < p.h.StartPeriod || now.Sub(since) < p.h.Interval {
			return p.health, "", false
		}
		p.counted = now
	}
	p.failures++
	if p.failures >= max(1, p.h.Retries) {
		p.health = bulkhead.HealthUnhealthy
	}
	return p.health, fmt.Sprintf("unhealthy: %d probes failed, the last with: %s", p.failures, output), was != p.health
}

// probeOnce runs the probe's command in the task. Its error says that the runtime
// is away, which tells nothing about the task.
func (l *stampLoop) probeOnce(ctx context.Context, id bulkhead.TaskID, h bulkhead.Health) (ok bool, output string, err error) {
	command := h.Test
	switch command[0] {
	case "CMD":
		command = command[1:]
	case "CMD-SHELL":
		command = []string{"/bin/sh", "-c", strings.Join(command[1:], " ")}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("no answer within %s", h.Timeout))
	defer cancel()
	var out tail
	code, err := l.a.c.Runtime.Exec(ctx, id, Exec{Command: command, Stdout: &out, Stderr: &out})
	switch {
	case errors.Is(err, bulkhead.ErrUnavailable):
		return false, "", err
	case ctx.Err() != nil:
		return false, context.Cause(ctx).Error(), nil
	case err != nil:
		return false, oneLine(err), nil
	case code != 0:
		if text := out.String(); text != "" {
			return false, fmt.Sprintf("exit code %d: %s", code, text), nil
		}
		return false, fmt.Sprintf("exit code %d", code), nil
	}
	return true, "", nil
}

// tail keeps the last bytes written to it.
type tail struct{ b []byte }

const tailBytes = 200

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > tailBytes {
		t.b = t.b[len(t.b)-tailBytes:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	return strings.Join(strings.Fields(string(bytes.ToValidUTF8(t.b, nil))), " ")
}
