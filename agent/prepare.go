package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/plan"
)

// ground is what all tasks of a stamp stand on. Several steps may want it at the
// same time.
type ground struct {
	turn       chan struct{} // holds one of who works on it; guards what follows
	generation int64         // whose ceiling is set
	set        bool
}

// take waits for the turn: the one before may wait for the engine.
func (g *ground) take(ctx context.Context) error {
	select {
	case g.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g *ground) release() { <-g.turn }

// prepare does everything up to a container that waits to be started. When it
// fails nothing is left behind that clear would not find.
func (l *stampLoop) prepare(ctx context.Context, as bulkhead.Assignment, t bulkhead.Task, s bulkhead.Service) (Endpoint, error) {
	c := l.a.c
	if err := l.level(ctx, as.Stamp); err != nil {
		return Endpoint{}, err
	}
	if err := c.Runtime.Pull(ctx, s.Image); err != nil {
		return Endpoint{}, err
	}
	release, err := l.a.place(ctx)
	if err != nil {
		return Endpoint{}, err
	}
	defer release()
	endpoint, err := c.Network.Join(ctx, l.name, t.ID)
	if err != nil {
		return Endpoint{}, fmt.Errorf("join network: %w", err)
	}
	secrets := secretsOf(s, as.Secrets)
	binds, err := l.binds(ctx, as.Stamp, t, s, secrets)
	if err != nil {
		return Endpoint{}, err
	}
	names, err := l.nameFiles(t, s, endpoint)
	if err != nil {
		return Endpoint{}, err
	}
	logPath, err := c.Logs.Open(l.name, s.Name, t.ID)
	if err != nil {
		return Endpoint{}, fmt.Errorf("open log: %w", err)
	}
	err = c.Runtime.Prepare(ctx, Container{
		ID: t.ID, Stamp: l.name, Service: s, Secrets: secrets, Netns: endpoint.Netns,
		Binds: slices.Concat(binds, names), Labels: labels(ref(as.Stamp), t, careOf(s)), Log: logPath,
	})
	return endpoint, err
}

// level takes back kept data and sets the stamp's ceiling, once per generation.
func (l *stampLoop) level(ctx context.Context, s bulkhead.Stamp) error {
	if err := l.ground.take(ctx); err != nil {
		return err
	}
	defer l.ground.release()
	if l.ground.set && l.ground.generation == s.Generation {
		return nil
	}
	// A stamp that was deleted and taken back finds its data where it left it.
	if err := l.a.c.Volumes.Restore(ref(s)); err != nil && !errors.Is(err, bulkhead.ErrNotFound) {
		return fmt.Errorf("restore kept data: %w", err)
	}
	switch err := l.a.c.Runtime.Ceiling(ctx, s.Name, plan.Ceiling(s)); {
	case errors.Is(err, bulkhead.ErrUnavailable) && l.ground.set:
		// What still runs has more than the new ceiling: the old one goes on.
		l.log.Warn("ceiling not lowered", "err", err)
	case err != nil:
		return fmt.Errorf("set the stamp's ceiling: %w", err)
	}
	l.ground.set, l.ground.generation = true, s.Generation
	return nil
}

// binds turns a service's mounts into paths of this node.
func (l *stampLoop) binds(ctx context.Context, stamp bulkhead.Stamp, t bulkhead.Task, s bulkhead.Service, secrets map[string]string) ([]Bind, error) {
	var binds []Bind
	bundle := ""
	for i, m := range s.Mounts {
		b := Bind{Target: m.Target, ReadOnly: m.ReadOnly}
		switch m.Kind {
		case bulkhead.MountTmpfs:
			continue // the runtime makes it
		case bulkhead.MountVolume:
			path, fresh, err := l.a.c.Volumes.Create(ref(stamp), bulkhead.VolumeName(m.Source))
			if err != nil {
				return nil, fmt.Errorf("volume %s: %w", m.Source, err)
			}
			b.Source, b.Fill = filepath.Join(path, filepath.FromSlash(m.Subpath)), fresh && !m.NoCopy && m.Subpath == ""
		case bulkhead.MountFile:
			if bundle == "" {
				var err error
				if bundle, err = l.a.c.Files.Bundle(ctx, stamp.Bundle); err != nil {
					return nil, fmt.Errorf("fetch the release's files: %w", err)
				}
			}
			if !filepath.IsLocal(filepath.FromSlash(m.Source)) {
				return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "mount %s: %q leaves the release", m.Target, m.Source)
			}
			b.Source, b.ReadOnly = filepath.Join(bundle, filepath.FromSlash(m.Source)), true
		case bulkhead.MountInline:
			path := filepath.Join(l.a.taskDir(t.ID), "mount-"+strconv.Itoa(i))
			mode := os.FileMode(m.Mode)
			if mode == 0 {
				mode = 0o444
			}
			if err := writeOwned(path, reveal(m.Content, secrets), mode, m.UID, m.GID); err != nil {
				return nil, fmt.Errorf("write %s: %w", m.Target, err)
			}
			b.Source, b.ReadOnly = path, true
		default:
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "mount %s: kind %q is unknown to this node", m.Target, m.Kind)
		}
		binds = append(binds, b)
	}
	slices.SortStableFunc(binds, func(a, b Bind) int { return strings.Compare(a.Target, b.Target) })
	return binds, nil
}

// nameFiles writes the task's resolv.conf, hosts and hostname.
func (l *stampLoop) nameFiles(t bulkhead.Task, s bulkhead.Service, e Endpoint) ([]Bind, error) {
	host := hostname(s)
	hosts := "127.0.0.1\tlocalhost\n" + e.Address.String() + "\t" + host + "\n"
	extra := make([]string, 0, len(s.ExtraHosts))
	for name, addr := range s.ExtraHosts {
		extra = append(extra, addr+"\t"+name+"\n")
	}
	slices.Sort(extra)
	files := map[string]string{
		"/etc/resolv.conf": "nameserver " + e.Gateway.String() + "\noptions ndots:0 timeout:2 attempts:3\n",
		"/etc/hosts":       hosts + strings.Join(extra, ""),
		"/etc/hostname":    host + "\n",
	}
	var binds []Bind
	for _, target := range []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"} {
		if slices.ContainsFunc(s.Mounts, func(m bulkhead.Mount) bool { return m.Target == target }) {
			continue // the product brings its own
		}
		path := filepath.Join(l.a.taskDir(t.ID), filepath.Base(target))
		if err := writeOwned(path, files[target], 0o644, 0, 0); err != nil {
			return nil, fmt.Errorf("write %s: %w", target, err)
		}
		binds = append(binds, Bind{Source: path, Target: target})
	}
	return binds, nil
}

func hostname(s bulkhead.Service) string {
	if s.Hostname != "" {
		return s.Hostname
	}
	return s.Name.Label()
}

// clear takes away everything that prepare made for a task. Its output is kept.
// It returns when that is done or ctx ends.
func (l *stampLoop) clear(ctx context.Context, id bulkhead.TaskID) error {
	err := l.insist(ctx, "clear task", id, func() error {
		release, err := l.a.place(ctx)
		if err != nil {
			return err
		}
		defer release()
		return errors.Join(l.a.c.Runtime.Remove(ctx, id), l.a.c.Network.Leave(ctx, l.name, id))
	})
	if err != nil {
		return err
	}
	// On a full disk these may fail, and must not keep a stamp from being deleted.
	if err := errors.Join(l.a.c.Logs.Close(id), os.RemoveAll(l.a.taskDir(id))); err != nil {
		l.log.Error("clear task", "task", id, "err", err)
	}
	return nil
}

// insist tries until it is done or ctx ends: the engine may be away for a while.
func (l *stampLoop) insist(ctx context.Context, what string, id bulkhead.TaskID, do func() error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			l.log.Error(what, "task", id, "err", err)
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
}

// raze takes the stamp itself away; its data is set aside, or destroyed with Purge.
// left tells that another node has the stamp now.
func (l *stampLoop) raze(ctx context.Context, s bulkhead.Stamp, left bool) error {
	if err := l.ground.take(ctx); err != nil {
		return err
	}
	l.ground.set = false
	l.ground.release()
	err := errors.Join(
		l.a.c.Network.Remove(ctx, s.Name),
		l.a.c.Runtime.Forget(ctx, s.Name),
		l.a.c.Logs.Delete(s.Name),
	)
	if s.UID == "" { // nobody knows which life of the stamp that was: its data stays where it is
		return err
	}
	if left {
		return errors.Join(err, l.a.c.Volumes.Leave(ref(s)))
	}
	return errors.Join(err, l.a.c.Volumes.Delete(ref(s), s.Purge))
}

func ref(s bulkhead.Stamp) bulkhead.StampRef {
	return bulkhead.StampRef{Name: s.Name, UID: s.UID, Epoch: s.Epoch}
}

// secretsOf are the values of the secrets that a service refers to.
func secretsOf(s bulkhead.Service, secrets map[string]string) map[string]string {
	out := make(map[string]string, len(s.Secrets))
	for _, name := range s.Secrets {
		out[name] = secrets[name]
	}
	return out
}

// reveal puts values where a text refers to them.
func reveal(text string, secrets map[string]string) string {
	for name, value := range secrets {
		text = strings.ReplaceAll(text, bulkhead.SecretRef(name), value)
	}
	return text
}

func (a *Agent) taskDir(id bulkhead.TaskID) string {
	return filepath.Join(a.c.Run, "tasks", string(id))
}

func writeOwned(path, content string, mode os.FileMode, uid, gid int) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// failure is the state of a task that could not be made: tried again or not.
func failure(err error) bulkhead.TaskState {
	if errors.Is(err, bulkhead.ErrInvalid) {
		return bulkhead.TaskRejected
	}
	return bulkhead.TaskFailed
}

// conceal puts references where a text has values of secrets: messages are shown
// and stored in clear, and a probe or the engine may well quote what it was given.
func conceal(text string, secrets map[string]string) string {
	for name, value := range secrets {
		if len(value) >= 4 { // what is shorter occurs everywhere
			text = strings.ReplaceAll(text, value, bulkhead.SecretRef(name))
		}
	}
	return text
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
