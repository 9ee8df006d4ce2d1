package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"bulkhead"
	"bulkhead/agent"
)

// Prepare implements agent.Runtime. Its three calls are the fewest that
// containerd needs: the container's record, its file system, its process.
func (r *Runtime) Prepare(ctx context.Context, c agent.Container) error {
	id := containerID(c.ID)
	unlock, err := r.locks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.known.load(ctx, r); err != nil {
		return err
	}
	i, err := r.image(ctx, c.Service.Image)
	if err != nil {
		return err
	}
	if _, exists := r.known.find(id); exists {
		status, err := r.status(ctx, id)
		if err != nil {
			return fmt.Errorf("look for task %s: %w", c.ID, err)
		}
		if status == tasktypes.Status_CREATED || status == tasktypes.Status_RUNNING {
			return nil
		}
		if err := r.remove(ctx, id); err != nil { // half-made, or ended
			return fmt.Errorf("remove what is left of task %s: %w", c.ID, err)
		}
	}
	err = r.create(ctx, c, i)
	for attempt := 0; err != nil && shimEnded(err) && attempt < 3; attempt++ {
		err = r.create(ctx, c, i)
	}
	if err == nil || kinded(err) {
		return err
	}
	return fmt.Errorf("prepare task %s: %w", c.ID, err)
}

// create makes the container, or nothing.
func (r *Runtime) create(ctx context.Context, c agent.Container, i *image) (err error) {
	id := containerID(c.ID)
	p := r.known.join(id, place{task: c.ID, stamp: c.Stamp})
	defer func() {
		if err != nil {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if removeErr := r.remove(clean, id); removeErr != nil {
				r.log.Warn("remove half-made container", "task", c.ID, "error", removeErr)
			}
		}
	}()
	spec, err := r.spec(ctx, c, i, p)
	if err != nil {
		return err
	}
	runcOptions := &options.Options{}
	if len(c.Secrets) > 0 {
		if err := r.keepSecrets(id, c.Secrets); err != nil {
			return err
		}
		spec.Annotations[secretsAnnotation] = r.secretFile(id)
		if runcOptions.BinaryName, err = r.secretRuntime(); err != nil {
			return err
		}
	}
	if err := r.record(ctx, c, p, spec, runcOptions); err != nil {
		return err
	}
	mounts, err := r.client.SnapshotService(r.snapshotter).Prepare(ctx, id, i.chain)
	if errdefs.IsNotFound(err) {
		r.images.delete(c.Service.Image.Digest)
		return bulkhead.Errorf(bulkhead.ErrNotFound, "image %s is not on this node", i.reference)
	}
	if err != nil {
		return fmt.Errorf("make file system: %w", fault(err))
	}
	if err := fill(ctx, mounts, c.Binds); err != nil {
		return err
	}
	if c.Service.Init {
		if err := lookForCommand(ctx, mounts, c, spec, i); err != nil {
			return err
		}
	}
	request := &tasks.CreateTaskRequest{ContainerID: id, Rootfs: mountsToProto(mounts)}
	if c.Log != "" {
		if request.Stdout, request.Stderr, err = logPaths(c.Log); err != nil {
			return err
		}
	}
	if _, err := r.client.TaskService().Create(ctx, request); err != nil {
		return createFault(fault(err), spec, i)
	}
	return nil
}

// record writes the container's record. From then on its id keeps the garbage
// collector away from the file system of the same name.
func (r *Runtime) record(ctx context.Context, c agent.Container, p place, spec *oci.Spec, runc *options.Options) error {
	packed, err := typeurl.MarshalAny(spec)
	if err != nil {
		return fmt.Errorf("encode container specification: %w", err)
	}
	runcOptions, err := typeurl.MarshalAny(runc)
	if err != nil {
		return fmt.Errorf("encode runtime options: %w", err)
	}
	labels := map[string]string{labelTask: string(c.ID), labelStamp: string(c.Stamp), labelGroup: p.group}
	for name, value := range c.Labels {
		labels[labelOwn+name] = value
	}
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID:          containerID(c.ID),
		Labels:      labels,
		Image:       imageName(c.Service.Image),
		Runtime:     containers.RuntimeInfo{Name: "io.containerd.runc.v2", Options: runcOptions},
		Spec:        packed,
		SnapshotKey: containerID(c.ID),
		Snapshotter: r.snapshotter,
	})
	if err != nil {
		return fmt.Errorf("record container: %w", fault(err))
	}
	return nil
}

// logPaths makes the log and names it for both streams. The shim appends to it
// without containerd's help. The two names differ, because a shim that is given
// the same one twice closes the file for both streams when the first one ends.
func logPaths(log string) (stdout, stderr string, err error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return "", "", fmt.Errorf("make log: %w", err)
	}
	folder, name := filepath.Split(log)
	return log, folder + "./" + name, file.Close()
}

func mountsToProto(mounts []mount.Mount) []*types.Mount {
	var all []*types.Mount
	for _, m := range mounts {
		all = append(all, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return all
}

// shimEnded tells whether a container joined a shim at the moment that it ended.
func shimEnded(err error) bool {
	return strings.Contains(err.Error(), "ttrpc: closed") || strings.Contains(err.Error(), "ttrpc: server closed")
}

// createFault finds in runc's message what a user can mend.
func createFault(err error, spec *oci.Spec, i *image) error {
	program := spec.Process.Args[0]
	message := err.Error()
	invalid := func(format string, args ...any) *bulkhead.Error {
		e := bulkhead.Errorf(bulkhead.ErrInvalid, format, args...)
		e.Cause = err
		return e
	}
	switch {
	case missing(message):
		return invalid("command %q is not in image %s", program, i.reference)
	case strings.Contains(message, "exec: ") && strings.Contains(message, "permission denied"),
		strings.Contains(message, "exec: ") && strings.Contains(message, "is a directory"):
		return invalid("command %q in image %s is not executable", program, i.reference)
	case strings.Contains(message, "chdir to cwd"), strings.Contains(message, "mkdir") && strings.Contains(message, spec.Process.Cwd+": not a directory"):
		return invalid("working directory %q cannot be used in image %s", spec.Process.Cwd, i.reference)
	case strings.Contains(message, "error mounting") && (strings.Contains(message, "not a directory") || strings.Contains(message, "is a directory")):
		return invalid("a mount puts a folder where image %s has a file, or a file where it has a folder", i.reference)
	}
	return fmt.Errorf("create process: %w", err)
}

// missing tells whether runc says that a command does not exist.
func missing(message string) bool {
	return strings.Contains(message, "executable file not found") ||
		strings.Contains(message, "exec: ") && strings.Contains(message, "no such file or directory")
}

// lookForCommand refuses a command that does not exist. runc does that by
// itself, but behind an init process it does not see the command.
func lookForCommand(ctx context.Context, mounts []mount.Mount, c agent.Container, spec *oci.Spec, i *image) error {
	program := spec.Process.Args[len(initCommand)]
	folders := []string{spec.Process.Cwd}
	if !strings.Contains(program, "/") {
		folders = nil
		for _, variable := range spec.Process.Env {
			if list, ok := strings.CutPrefix(variable, "PATH="); ok {
				folders = filepath.SplitList(list)
			}
		}
	}
	found := false
	err := mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		for _, folder := range folders {
			path := filepath.Join(folder, program)
			if filepath.IsAbs(program) {
				path = program
			}
			for _, b := range c.Binds {
				if path == b.Target || strings.HasPrefix(path, strings.TrimSuffix(b.Target, "/")+"/") {
					found = true // not the image's: we shall see
					return nil
				}
			}
			real, err := continuity.RootPath(root, path)
			if err != nil {
				continue
			}
			if info, err := os.Stat(real); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				found = true
				return nil
			}
		}
		return nil
	})
	if err == nil && !found {
		err = bulkhead.Errorf(bulkhead.ErrInvalid, "command %q is not in image %s", program, i.reference)
	}
	return err
}

// fill copies into fresh volumes what the image has at their targets. A volume
// that holds anything is left alone.
func fill(ctx context.Context, mounts []mount.Mount, binds []agent.Bind) error {
	var fresh []agent.Bind
	for _, b := range binds {
		if !b.Fill {
			continue
		}
		entries, err := os.ReadDir(b.Source)
		if err != nil {
			return fmt.Errorf("look into volume for %s: %w", b.Target, err)
		}
		if len(entries) == 0 {
			fresh = append(fresh, b)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		for _, b := range fresh {
			if err := fillOne(root, b); err != nil {
				return fmt.Errorf("fill volume for %s: %w", b.Target, err)
			}
		}
		return nil
	})
}

// fillOne copies one folder below root, with owners, modes and links, and gives
// the volume itself the folder's owner and mode.
func fillOne(root string, b agent.Bind) error {
	source, err := continuity.RootPath(root, b.Target) // links inside the image stay inside
	if err != nil {
		return err
	}
	info, err := os.Lstat(source)
	if errors.Is(err, os.ErrNotExist) || err == nil && !info.IsDir() {
		return nil // the image has nothing there; or a file, which Prepare refuses
	}
	if err != nil {
		return err
	}
	if err := continuity.CopyDir(b.Source, source, continuity.WithAllowXAttrErrors()); err != nil {
		return errors.Join(err, clearFolder(b.Source)) // so that the next attempt begins anew
	}
	return nil
}

// clearFolder removes everything in a folder.
func clearFolder(folder string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := os.ReadDir(folder)
	for _, entry := range entries {
		err = errors.Join(err, root.RemoveAll(entry.Name()))
	}
	return err
}
