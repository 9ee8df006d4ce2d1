package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// docker is a Docker engine of the bench's own. It runs in a network namespace of
// its own, so that neither its bridges nor its firewall rules meet the machine's.
type docker struct {
	engine  *exec.Cmd
	ended   chan struct{}
	env     []string
	compose []string // the command
	name    string   // of the command
	version string
}

// startDocker returns exec.ErrNotFound where Docker is not installed.
func (b *bench) startDocker(ctx context.Context) (*docker, error) {
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "docker")
	socket := "unix://" + filepath.Join(dir, "socket")
	d := &docker{ended: make(chan struct{}), env: append(os.Environ(), "DOCKER_HOST="+socket, "HOME="+dir)}
	if _, err := command(ctx, os.Environ(), "docker", "compose", "version"); err == nil {
		d.compose, d.name = []string{"docker", "compose"}, "docker compose"
	} else if _, err := exec.LookPath("docker-compose"); err == nil {
		d.compose, d.name = []string{"docker-compose"}, "docker-compose"
	} else {
		return nil, errNoCompose
	}
	d.version = versionOf(ctx, dockerd, "--version") + "; " + versionOf(ctx, d.compose[0], append(d.compose[1:], "version")...)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.engine = exec.Command("/bin/sh", "-c", `ip link set lo up && exec "$@"`, "sh", dockerd, "--host", socket,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "run"), "--pidfile", filepath.Join(dir, "pid"))
	d.engine.Stdout, d.engine.Stderr = log, log
	d.engine.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNET}
	if err := d.engine.Start(); err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	go func() {
		_ = d.engine.Wait()
		close(d.ended)
	}()
	err = until(ctx, time.Minute, "Docker answers", func() error {
		_, err := d.run(ctx, "docker", "info")
		return err
	})
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, text), d.end())
	}
	return d, nil
}

func (d *docker) run(ctx context.Context, name string, args ...string) (string, error) {
	return command(ctx, d.env, name, args...)
}

// end ends the engine, and with it its containerd.
func (d *docker) end() error {
	if err := d.engine.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end dockerd: %w", err)
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("dockerd did not end in 30 s: killed"), d.engine.Process.Kill())
	}
}

// dial connects from within the engine's network namespace. The address must be
// an IP: only then is the socket made on the calling thread.
func (d *docker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	out := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes away with its namespace
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", d.engine.Process.Pid))
		if err == nil {
			err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		}
		if err != nil {
			out <- result{err: fmt.Errorf("enter Docker's network: %w", err)}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		out <- result{conn, err}
	}()
	r := <-out
	return r.conn, r.err
}
