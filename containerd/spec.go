package containerd

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead"
	"bulkhead/agent"
)

const (
	// defaultPath is what Docker gives to an image that sets no PATH.
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// initTarget is where a container finds its init process.
	initTarget = "/sbin/bulkhead-init"
	// groupAnnotation names the shim that containers share.
	groupAnnotation = "io.containerd.runc.v2.group"
	// oomScore makes the kernel end a task before Bulkhead and the machine's services.
	oomScore = 200
	// period is the CPU controller's period in µs.
	period = 100_000
)

// initCommand runs the init process; the container's own command follows.
var initCommand = [...]string{initTarget, "init", "--"}

// spec is how runc is to run a container. Its errors are of kind ErrInvalid.
func (r *Runtime) spec(ctx context.Context, c agent.Container, i *image, p place) (*oci.Spec, error) {
	service := c.Service
	args, err := command(service, i)
	if err != nil {
		return nil, err
	}
	userName := service.User
	if userName == "" {
		userName = i.config.User
	}
	user, err := i.execUser(userName)
	if err != nil {
		return nil, err
	}
	folder := firstOf(service.WorkingDir, i.config.WorkingDir, "/")
	if !path.IsAbs(folder) {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "working directory %q of service %s is not an absolute path", folder, service.Name)
	}
	rlimits, err := rlimits(service.Ulimits)
	if err != nil {
		return nil, err
	}
	dropCapabilities, err := withoutCapabilities(service.CapDrop)
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(c)
	if err != nil {
		return nil, err
	}
	if service.Init {
		if r.config.Init == "" {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "service %s asks for an init process: the node's bulkhead cannot be one, as it is not a static program", service.Name).
				WithHint("build bulkhead with CGO_ENABLED=0")
		}
		args = append(initCommand[:], args...)
		mounts = append(mounts, bind(r.config.Init, initTarget, true))
	}
	hostname := firstOf(service.Hostname, service.Name.Label())

	options := []oci.SpecOpts{
		oci.WithoutRunMount, // images keep files there
		oci.WithMounts([]specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}}}),
		oci.WithMounts(mounts),
		oci.WithEnv([]string{defaultPath, "HOSTNAME=" + hostname}),
		oci.WithEnv(i.config.Env),
		oci.WithEnv(environment(service.Environment)),
		oci.WithProcessArgs(args...),
		oci.WithProcessCwd(folder),
		oci.WithHostname(hostname),
		oci.WithNoNewPrivileges,
		oci.WithNamespacedCgroup(),
		oci.WithCgroup(r.cgroup(p.stamp, c.ID)),
		oci.WithAnnotations(map[string]string{groupAnnotation: p.group}),
		oci.WithDefaultUnixDevices,
		withProcess(user.Uid, user.Gid, user.Sgids, rlimits),
		withResources(service.Budget),
		// As Docker: a network of its own is what makes these harmless.
		withSysctls(map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}),
	}
	if c.Netns != "" {
		options = append(options, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: c.Netns}))
	}
	if service.ReadOnly {
		options = append(options, oci.WithRootFSReadonly())
	}
	// The profile allows what the capabilities allow, so it comes after them.
	options = append(options, dropCapabilities, seccomp.WithDefaultProfile(), withNativeCalls)

	ctx = namespaces.WithNamespace(ctx, r.namespace)
	s, err := oci.GenerateSpecWithPlatform(ctx, nil, "linux/"+runtime.GOARCH, &containers.Container{ID: containerID(c.ID)}, options...)
	if err != nil {
		return nil, fmt.Errorf("make container specification: %w", err)
	}
	return s, nil
}

// command is what a container runs, merged as Compose does: an entrypoint of the
// service's own drops the image's command too.
func command(service bulkhead.Service, i *image) ([]string, error) {
	entrypoint, arguments := service.Entrypoint, service.Command
	if entrypoint == nil {
		entrypoint = i.config.Entrypoint
		if arguments == nil {
			arguments = i.config.Cmd
		}
	}
	args := slices.Concat(entrypoint, arguments)
	if len(args) == 0 || args[0] == "" {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "service %s has no command, and neither has image %s", service.Name, i.reference).
			WithHint("give the service a command")
	}
	return args, nil
}

func environment(variables map[string]string) []string {
	var env []string
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		env = append(env, name+"="+variables[name])
	}
	return env
}

// mounts are the binds and tmpfs file systems of a container.
func mounts(c agent.Container) ([]specs.Mount, error) {
	var all []specs.Mount
	for _, m := range c.Service.Mounts {
		if m.Kind == bulkhead.MountTmpfs {
			all = append(all, tmpfs(m))
		}
	}
	for _, b := range c.Binds {
		all = append(all, bind(b.Source, b.Target, b.ReadOnly))
	}
	for _, m := range all {
		if !path.IsAbs(m.Destination) || path.Clean(m.Destination) == "/" {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "service %s: mount target %q is not an absolute path below /", c.Service.Name, m.Destination)
		}
	}
	return all, nil
}

func bind(source, target string, readOnly bool) specs.Mount {
	options := []string{"rbind", "rprivate", "rw"}
	if readOnly {
		options[2] = "ro"
	}
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: options}
}

func tmpfs(m bulkhead.Mount) specs.Mount {
	size, mode := m.Size, m.Mode
	if size == 0 {
		size = 64 << 20
	}
	if mode == 0 {
		mode = 0o1777
	}
	options := []string{
		"nosuid", "nodev", "noexec",
		fmt.Sprintf("size=%d", size), fmt.Sprintf("mode=%o", mode), fmt.Sprintf("uid=%d", m.UID), fmt.Sprintf("gid=%d", m.GID),
	}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: options}
}

func withProcess(uid, gid int, groups []int, limits []specs.POSIXRlimit) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Process.User = specs.User{UID: uint32(uid), GID: uint32(gid)}
		for _, group := range groups {
			s.Process.User.AdditionalGids = append(s.Process.User.AdditionalGids, uint32(group))
		}
		s.Process.Rlimits = limits
		score := oomScore
		s.Process.OOMScoreAdj = &score
		return nil
	}
}

// withNativeCalls lets the seccomp profile allow the machine's own architecture
// only. Programs for 32-bit x86 do not run, and a start takes 10 ms less CPU:
// runc compiles the profile anew for every architecture and container.
func withNativeCalls(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	s.Linux.Seccomp.Architectures = s.Linux.Seccomp.Architectures[:1]
	return nil
}

func withSysctls(values map[string]string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Linux.Sysctl = values
		return nil
	}
}

// withResources sets the limits of a budget; a zero is no limit.
func withResources(b bulkhead.Budget) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		limits := resources(b)
		limits.Devices = s.Linux.Resources.Devices
		s.Linux.Resources = limits
		return nil
	}
}

// resources is a budget in the terms of cgroups.
func resources(b bulkhead.Budget) *specs.LinuxResources {
	var limits specs.LinuxResources
	if b.Memory > 0 {
		limits.Memory = &specs.LinuxMemory{Limit: &b.Memory}
		if swapAccounting() {
			limits.Memory.Swap = &b.Memory // memory and swap together: no swap
		}
	}
	if b.CPU > 0 {
		// The kernel's least quota is 1 ms.
		quota, p := max(int64(b.CPU*period), 1000), uint64(period)
		limits.CPU = &specs.LinuxCPU{Quota: &quota, Period: &p}
	}
	if b.CPURequest > 0 {
		// 1024 shares are one core; 2 is the kernel's least, 262144 its most.
		shares := uint64(min(max(b.CPURequest*1024, 2), 262144))
		if limits.CPU == nil {
			limits.CPU = &specs.LinuxCPU{}
		}
		limits.CPU.Shares = &shares
	}
	if b.PIDs > 0 {
		limits.Pids = &specs.LinuxPids{Limit: &b.PIDs}
	}
	return &limits
}

// swapAccounting tells whether the kernel can limit swap. On cgroup v1 that
// depends on how it was built and booted.
func swapAccounting() bool {
	if unified() {
		return true
	}
	_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	return err == nil
}

// withoutCapabilities drops capabilities; "ALL" is every one.
func withoutCapabilities(names []string) (oci.SpecOpts, error) {
	var dropped []string
	for _, name := range names {
		full := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		if full == "CAP_ALL" {
			return oci.WithCapabilities(nil), nil
		}
		if !slices.Contains(cap.Known(), full) {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "capability %q is unknown: use a name such as NET_RAW, or ALL", name)
		}
		dropped = append(dropped, full)
	}
	return oci.WithDroppedCapabilities(dropped), nil
}

// resource is a resource limit of setrlimit(2).
type resource struct {
	name   string
	number int
}

// rlimitNames are the names that Compose knows.
var rlimitNames = map[string]resource{
	"as":         {"RLIMIT_AS", unix.RLIMIT_AS},
	"core":       {"RLIMIT_CORE", unix.RLIMIT_CORE},
	"cpu":        {"RLIMIT_CPU", unix.RLIMIT_CPU},
	"data":       {"RLIMIT_DATA", unix.RLIMIT_DATA},
	"fsize":      {"RLIMIT_FSIZE", unix.RLIMIT_FSIZE},
	"locks":      {"RLIMIT_LOCKS", unix.RLIMIT_LOCKS},
	"memlock":    {"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK},
	"msgqueue":   {"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE},
	"nice":       {"RLIMIT_NICE", unix.RLIMIT_NICE},
	"nofile":     {"RLIMIT_NOFILE", unix.RLIMIT_NOFILE},
	"nproc":      {"RLIMIT_NPROC", unix.RLIMIT_NPROC},
	"rss":        {"RLIMIT_RSS", unix.RLIMIT_RSS},
	"rtprio":     {"RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO},
	"rttime":     {"RLIMIT_RTTIME", unix.RLIMIT_RTTIME},
	"sigpending": {"RLIMIT_SIGPENDING", unix.RLIMIT_SIGPENDING},
	"stack":      {"RLIMIT_STACK", unix.RLIMIT_STACK},
}

// defaultFiles is the limit on open files of a service that names none.
var defaultFiles = bulkhead.Ulimit{Soft: 65536, Hard: 1 << 20}

// rlimits are a service's ulimits. Where this process may not raise a limit,
// hard limits end at what the machine gives it; a soft limit above that is refused.
func rlimits(ulimits map[string]bulkhead.Ulimit) ([]specs.POSIXRlimit, error) {
	raise := mayRaiseLimits()
	var limits []specs.POSIXRlimit
	set := func(name string, u bulkhead.Ulimit, mustHave bool) error {
		known, ok := rlimitNames[strings.ToLower(name)]
		if !ok {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "ulimit %q is unknown: use one of %s", name, strings.Join(slices.Sorted(maps.Keys(rlimitNames)), ", "))
		}
		soft, hard := uint64(u.Soft), uint64(u.Hard) // -1 is RLIM_INFINITY
		if hard < soft {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "ulimit %s: the soft limit %d is above the hard limit %d", name, u.Soft, u.Hard)
		}
		most := ^uint64(0)
		var own unix.Rlimit
		if err := unix.Getrlimit(known.number, &own); err == nil && !raise {
			most = own.Max
		}
		if known.number == unix.RLIMIT_NOFILE {
			most = min(most, filesOnMachine())
		}
		if mustHave && soft > most {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "ulimit %s: %d is above what this machine allows (%d)", name, u.Soft, most).
				WithHint("lower it, or raise the limit for containerd on the machine")
		}
		limits = append(limits, specs.POSIXRlimit{Type: known.name, Soft: min(soft, most), Hard: min(hard, most)})
		return nil
	}
	if _, named := ulimits["nofile"]; !named {
		if err := set("nofile", defaultFiles, false); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ulimits)) {
		if err := set(name, ulimits[name], true); err != nil {
			return nil, err
		}
	}
	return limits, nil
}

// filesOnMachine is how many files a process can have open at the most.
func filesOnMachine() uint64 {
	var n uint64
	content, err := os.ReadFile("/proc/sys/fs/nr_open")
	if _, scanErr := fmt.Sscan(string(content), &n); err != nil || scanErr != nil {
		return 1 << 20 // the kernel's default
	}
	return n
}

func firstOf(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}
