package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead"
)

const cgroupMount = "/sys/fs/cgroup"

// unified tells cgroup v2 from v1.
func unified() bool { return cgroups.Mode() == cgroups.Unified }

// cgroup is the path of a task's cgroup; of its stamp's, if task is empty.
func (r *Runtime) cgroup(stamp bulkhead.StampName, task bulkhead.TaskID) string {
	if task == "" {
		return path.Join("/", r.namespace, string(stamp))
	}
	return path.Join("/", r.namespace, string(stamp), containerID(task))
}

// Ceiling implements agent.Runtime. A ceiling that what runs now exceeds is
// refused by the kernel: ErrUnavailable.
func (r *Runtime) Ceiling(_ context.Context, stamp bulkhead.StampName, most bulkhead.Budget) error {
	group, limits := r.cgroup(stamp, ""), resources(most)
	var err error
	if unified() {
		_, err = cgroup2.NewManager(cgroupMount, group, cgroup2.ToResources(limits))
	} else {
		var made cgroup1.Cgroup
		made, err = cgroup1.New(cgroup1.StaticPath(group), &specs.LinuxResources{}, cgroup1.WithHierarchy(limitingControllers))
		if err == nil && limits.Memory != nil && limits.Memory.Swap != nil {
			// Memory with swap can never be less than memory: on the way up it goes first,
			// on the way down this is refused and it follows.
			_ = made.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: limits.Memory.Swap}})
		}
		if err == nil {
			err = made.Update(limits)
		}
	}
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EINVAL) {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "the tasks of stamp %s have more now than its new ceiling: %w", stamp, err)
	}
	if err != nil {
		return fmt.Errorf("set ceiling of stamp %s: %w", stamp, err)
	}
	return nil
}

// limitingControllers are the controllers of cgroup v1 that a ceiling needs.
func limitingControllers() ([]cgroup1.Subsystem, error) {
	all, err := cgroup1.Default()
	var some []cgroup1.Subsystem
	for _, s := range all {
		switch s.Name() {
		case cgroup1.Memory, cgroup1.Cpu, cgroup1.Pids:
			some = append(some, s)
		}
	}
	return some, err
}

// Forget implements agent.Runtime.
func (r *Runtime) Forget(ctx context.Context, stamp bulkhead.StampName) error {
	// One folder with cgroup v2, one for every controller with v1.
	folders, err := filepath.Glob(filepath.Join(cgroupMount, "*", r.cgroup(stamp, "")))
	if err != nil {
		return err
	}
	folders = append(folders, filepath.Join(cgroupMount, r.cgroup(stamp, "")))
	for _, folder := range folders {
		if err := removeCgroup(ctx, folder); err != nil {
			return fmt.Errorf("remove cgroup of stamp %s: %w", stamp, err)
		}
	}
	return nil
}

// removeCgroup removes a cgroup with the ones below it. The kernel needs a moment
// to let go of one whose processes have just ended.
func removeCgroup(ctx context.Context, folder string) error {
	children, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, child := range children {
		if child.IsDir() {
			if err := removeCgroup(ctx, filepath.Join(folder, child.Name())); err != nil {
				return err
			}
		}
	}
	for pause := time.Millisecond; ; pause *= 2 {
		err := syscall.Rmdir(folder)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || pause > time.Second {
			return &fs.PathError{Op: "remove", Path: folder, Err: err}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// outOfMemory tells whether the kernel has ended a process of a task's cgroup
// for memory.
func outOfMemory(group string) bool {
	file := filepath.Join(cgroupMount, "memory", group, "memory.oom_control")
	if unified() {
		file = filepath.Join(cgroupMount, group, "memory.events")
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(content)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(count))
			return err == nil && n > 0
		}
	}
	return false
}
