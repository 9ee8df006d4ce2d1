package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"bulkhead"
)

// DefaultSocket is where a machine's own containerd listens.
const DefaultSocket = "/run/containerd/containerd.sock"

// installHint is what to do when a program is missing or too old.
const installHint = "install them: apt-get install containerd runc"

// EngineConfig says which containerd to use.
type EngineConfig struct {
	// Instance tells the Bulkhead instances of one machine apart: a short DNS
	// label. It names the containerd namespace and the cgroup.
	Instance string
	// Folder keeps what must last: images, containers, the log of a private
	// containerd. Required.
	Folder string
	// RunFolder keeps sockets and run-time state. Its path must be short, since
	// socket paths are at most 107 bytes. Default: /run/bulkhead-INSTANCE/containerd.
	RunFolder string
	// Socket is where the machine's own containerd listens. Default: DefaultSocket.
	Socket string
	// Private never uses the machine's own containerd.
	Private bool
}

// Engine is a running containerd and the connection to it.
type Engine struct {
	config  EngineConfig
	log     *slog.Logger
	private bool
	socket  string
	client  *client.Client
	// snapshotter keeps the file systems of images and containers.
	snapshotter string
}

// Open connects to the containerd that the instance used before. The first time
// it takes the machine's own, and starts a private one when there is none. Its
// errors are one line for users, with a hint.
//
// A private containerd and all containers outlive the caller; Run restarts it
// when it dies.
func Open(ctx context.Context, config EngineConfig, log *slog.Logger) (*Engine, error) {
	named := config.Socket != "" && !config.Private
	if !named {
		config.Socket = DefaultSocket
	}
	if config.RunFolder == "" {
		config.RunFolder = filepath.Join("/run", "bulkhead-"+config.Instance, "containerd")
	}
	if !filepath.IsAbs(config.Folder) {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "containerd folder %q is not an absolute path", config.Folder)
	}
	e := &Engine{config: config, log: log}
	if len(e.privateSocket()+".ttrpc") > 107 {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "the path of socket %s is longer than 107 bytes: choose a shorter folder for run-time state", e.privateSocket())
	}
	if named && serving(config.Socket) == 0 {
		return nil, bulkhead.Errorf(bulkhead.ErrUnavailable, "no containerd serves at %s", config.Socket).
			WithHint("start it, or leave --containerd out: Bulkhead then starts one of its own if it must")
	}
	if err := e.choose(); err != nil {
		return nil, err
	}
	if named && e.socket != config.Socket {
		return nil, bulkhead.Errorf(bulkhead.ErrConflict, "this instance's containers are in the containerd at %s, not at %s", e.socket, config.Socket).
			WithHint("leave --containerd out")
	}
	if e.private {
		if err := e.ensure(ctx); err != nil {
			return nil, err
		}
	}
	if err := e.connect(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

// Close ends the connection. A private containerd goes on.
func (e *Engine) Close() error { return e.client.Close() }

// Socket is where the containerd in use listens.
func (e *Engine) Socket() string { return e.socket }

// LogFile is where a private containerd writes its log; empty for the machine's own.
func (e *Engine) LogFile() string {
	if !e.private {
		return ""
	}
	return filepath.Join(e.config.Folder, "containerd.log")
}

func (e *Engine) namespace() string { return "bulkhead-" + e.config.Instance }

func (e *Engine) privateSocket() string { return filepath.Join(e.config.RunFolder, "containerd.sock") }

// choose decides between the machine's containerd and a private one, and writes
// the choice down: containers of the other one would be lost from sight when,
// say, somebody installs containerd later.
func (e *Engine) choose() error {
	record := filepath.Join(e.config.Folder, "socket")
	chosen, err := os.ReadFile(record)
	switch {
	case err == nil:
		e.socket = strings.TrimSpace(string(chosen))
		e.private = e.socket == e.privateSocket()
		if !e.private && e.config.Private {
			return bulkhead.Errorf(bulkhead.ErrConflict, "this instance's containers are in the containerd at %s", e.socket).
				WithHint("remove %s to leave them there and start anew", record)
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read choice of containerd: %w", err)
	}
	e.socket, e.private = e.privateSocket(), true
	if !e.config.Private && serving(e.config.Socket) > 0 {
		e.socket, e.private = e.config.Socket, false
	}
	if err := os.MkdirAll(e.config.Folder, 0o700); err != nil {
		return fmt.Errorf("make containerd folder: %w", err)
	}
	if err := os.WriteFile(record, []byte(e.socket+"\n"), 0o600); err != nil {
		return fmt.Errorf("write choice of containerd: %w", err)
	}
	return nil
}

// connect opens the client, and checks that containerd can do what is needed.
func (e *Engine) connect(ctx context.Context) error {
	// The timeout is the longest pause between two attempts to reconnect.
	c, err := client.New(e.socket, client.WithDefaultNamespace(e.namespace()), client.WithTimeout(time.Second))
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	e.client = c
	if err := e.check(ctx); err != nil {
		c.Close()
		return err
	}
	return nil
}

// check refuses versions that are too old, and chooses the snapshotter.
func (e *Engine) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	version, err := e.client.Version(ctx)
	if err != nil {
		fault := bulkhead.Errorf(bulkhead.ErrUnavailable, "containerd at %s does not answer", e.socket)
		fault.Cause = err
		if e.private {
			return fault.WithHint("see %s", e.LogFile())
		}
		return fault.WithHint("start it: systemctl start containerd")
	}
	var major, minor int
	if _, err := fmt.Sscanf(strings.TrimPrefix(version.Version, "v"), "%d.%d", &major, &minor); err == nil && (major < 1 || major == 1 && minor < 6) {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "containerd %s is too old: 1.6 or newer is needed", version.Version).WithHint(installHint)
	}
	plugins, err := e.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return fmt.Errorf("list containerd's plugins: %w", err)
	}
	e.snapshotter = "native" // copies whole file systems: slow, but works everywhere
	for _, plugin := range plugins.Plugins {
		if plugin.ID == "overlayfs" && plugin.InitErr == nil {
			e.snapshotter = "overlayfs"
		}
	}
	return nil
}

// Version is the versions of containerd and runc for people:
// "containerd 1.6.20, runc 1.1.5".
func (e *Engine) Version(ctx context.Context) (string, error) {
	version, err := e.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", err)
	}
	// "runc version 1.1.5+ds1" is runc's first line.
	runc := "unknown"
	out, err := exec.CommandContext(ctx, "runc", "--version").Output()
	if fields := strings.Fields(string(out)); err == nil && len(fields) >= 3 {
		runc = fields[2]
	}
	return fmt.Sprintf("containerd %s, runc %s", plainVersion(version.Version), plainVersion(runc)), nil
}

// plainVersion drops what distributions add: "1.6.20~ds1" is 1.6.20.
func plainVersion(v string) string {
	v = strings.TrimPrefix(v, "v")
	if i := strings.IndexAny(v, "~+"); i > 0 {
		v = v[:i]
	}
	return v
}

// Run restarts a private containerd whenever it dies, until ctx ends. It leaves
// containerd running.
func (e *Engine) Run(ctx context.Context) error {
	if !e.private {
		<-ctx.Done()
		return nil
	}
	const longest = 30 * time.Second
	pause := 100 * time.Millisecond
	for {
		since := time.Now()
		if pid := serving(e.socket); pid > 0 {
			if err := gone(ctx, pid); err != nil && ctx.Err() == nil {
				return fmt.Errorf("watch containerd: %w", err)
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(since) > longest {
			pause = 100 * time.Millisecond
		}
		e.log.Warn("containerd has ended: starting it again", "log", e.LogFile(), "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, longest)
		if err := e.ensure(ctx); err != nil && ctx.Err() == nil {
			e.log.Error("start containerd", "error", err, "log", e.LogFile())
		}
	}
}

// Terminate ends a private containerd and returns when it is gone. Containers
// go on without it.
func (e *Engine) Terminate(ctx context.Context) error {
	pid := serving(e.socket)
	if !e.private || pid == 0 {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end containerd: %w", err)
	}
	if err := gone(ctx, pid); err != nil {
		return fmt.Errorf("wait for containerd's end: %w", err)
	}
	return nil
}

// ensure starts the private containerd unless it runs, and waits until it serves.
func (e *Engine) ensure(ctx context.Context) error {
	if serving(e.socket) > 0 {
		return nil
	}
	pid, err := e.start()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for serving(e.socket) == 0 {
		reap(pid)
		if unix.Kill(pid, 0) != nil {
			return bulkhead.Errorf(bulkhead.ErrUnavailable, "containerd does not start: %s", lastLine(e.LogFile())).WithHint("see %s", e.LogFile())
		}
		select {
		case <-ctx.Done():
			return bulkhead.Errorf(bulkhead.ErrUnavailable, "containerd does not serve on %s", e.socket).WithHint("see %s", e.LogFile())
		case <-time.After(2 * time.Millisecond):
		}
	}
	e.log.Info("started a private containerd", "socket", e.socket, "pid", pid, "log", e.LogFile())
	return nil
}

// start starts the private containerd in a session of its own, so that neither
// Bulkhead's end nor a signal to its terminal reaches it or the shims below it.
func (e *Engine) start() (pid int, err error) {
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			return 0, bulkhead.Errorf(bulkhead.ErrUnavailable, "%s is not installed on this machine", program).WithHint(installHint)
		}
	}
	for _, folder := range []string{e.config.Folder, e.config.RunFolder} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return 0, fmt.Errorf("make containerd folder: %w", err)
		}
	}
	file := filepath.Join(e.config.Folder, "config.toml")
	if err := os.WriteFile(file, []byte(e.settings()), 0o600); err != nil {
		return 0, fmt.Errorf("write containerd's configuration: %w", err)
	}
	log, err := openLog(e.LogFile())
	if err != nil {
		return 0, fmt.Errorf("open containerd's log: %w", err)
	}
	defer log.Close()
	command := exec.Command("containerd", "--config", file)
	command.Dir = "/"
	command.Env = []string{"PATH=" + os.Getenv("PATH")} // nothing of Bulkhead's own environment
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return 0, fmt.Errorf("start containerd: %w", err)
	}
	pid = command.Process.Pid
	return pid, command.Process.Release()
}

// settings is the private containerd's configuration file. Plugins that
// Bulkhead does not use are left out.
func (e *Engine) settings() string {
	var s strings.Builder
	fmt.Fprintf(&s, "version = 2\nroot = %q\nstate = %q\n", filepath.Join(e.config.Folder, "root"), filepath.Join(e.config.RunFolder, "state"))
	if mayRaiseLimits() {
		fmt.Fprintf(&s, "oom_score = -999\n") // the last one that the kernel kills
	}
	fmt.Fprintf(&s, "disabled_plugins = [%q, %q, %q, %q, %q, %q, %q]\n",
		"io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
		"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs")
	fmt.Fprintf(&s, "[grpc]\n  address = %q\n[debug]\n  level = \"warn\"\n", e.socket)
	return s.String()
}

// openLog opens the log for appending. A long one is begun anew; the one before is kept.
func openLog(file string) (*os.File, error) {
	const most = 16 << 20
	if info, err := os.Stat(file); err == nil && info.Size() > most {
		if err := os.Rename(file, file+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// lastLine is the last line of a file, for an error message.
func lastLine(file string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return lines[len(lines)-1]
}

// serving is the process that listens on a socket, or 0. Asking the kernel
// rather than a file with a number in it cannot be wrong.
func serving(socket string) (pid int) {
	connection, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return 0
	}
	defer connection.Close()
	raw, err := connection.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid
}

// gone returns when a process has ended, ours or not, or with ctx's error.
func gone(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	process := os.NewFile(uintptr(fd), "process") // non-blocking: waits in the runtime's poller
	defer process.Close()
	raw, err := process.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = process.SetReadDeadline(time.Now()) })
	defer stop()
	err = raw.Read(func(fd uintptr) (done bool) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	reap(pid)
	return err
}

// reap takes a dead child out of the process table; it does nothing to others.
func reap(pid int) {
	var status unix.WaitStatus
	_, _ = unix.Wait4(pid, &status, unix.WNOHANG, nil)
}

// mayRaiseLimits tells whether this process, and so what it starts, holds
// CAP_SYS_RESOURCE: it may raise limits and protect itself from the OOM killer.
func mayRaiseLimits() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
