package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// node is a Bulkhead with a folder and addresses of its own.
type node struct {
	b         *bench
	dir, http string
	api       string
	env       []string
	process   *exec.Cmd
}

func (b *bench) node(name string) (*node, error) {
	n := &node{b: b, dir: filepath.Join(b.dir, name)}
	nodeAPI := ""
	for _, address := range []*string{&n.http, &n.api, &nodeAPI} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		*address = l.Addr().String()
		l.Close() // should somebody else take it before Bulkhead does, up says so
	}
	n.env = append(os.Environ(), "HOME="+n.dir, "BULKHEAD_CONFIG="+filepath.Join(n.dir, "config.yaml"), "BULKHEAD_DATA="+n.data(),
		"BULKHEAD_API="+n.api, "BULKHEAD_NODE_API="+nodeAPI, "BULKHEAD_HTTP="+n.http, "BULKHEAD_CONTAINERD=private", "NO_COLOR=1")
	return n, os.MkdirAll(n.dir, 0o755)
}

func (n *node) data() string { return filepath.Join(n.dir, "data") }

// start starts Bulkhead and does not wait.
func (n *node) start() error {
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.process = exec.Command(n.b.binary, "up")
	n.process.Env, n.process.Stdout, n.process.Stderr = n.env, log, log
	n.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // containerd outlives it
	return n.process.Start()
}

func (n *node) up(ctx context.Context) error {
	if err := n.start(); err != nil {
		return err
	}
	return until(ctx, time.Minute, "Bulkhead is ready", func() error {
		resp, err := http.Get("http://" + n.api + "/readyz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// kill ends Bulkhead as a crash would; its tasks go on.
func (n *node) kill() error {
	if err := n.process.Process.Kill(); err != nil {
		return err
	}
	_ = n.process.Wait() // "killed" is what it should say
	return nil
}

// destroy removes everything, even when the bench was interrupted.
func (n *node) destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
	defer cancel()
	_, err := n.run(ctx, "down", "--destroy", "--yes")
	if n.process != nil && n.process.ProcessState == nil {
		_ = n.process.Process.Kill() // has ended already, unless down went wrong
		_ = n.process.Wait()
	}
	return err
}

// run executes a command line of Bulkhead.
func (n *node) run(ctx context.Context, args ...string) (string, error) {
	return command(ctx, n.env, n.b.binary, args...)
}

// publish publishes a project whose services run the bench's image.
func (n *node) publish(ctx context.Context, product, compose string) error {
	file, err := n.b.write(product+"/compose.yaml", compose)
	if err != nil {
		return err
	}
	_, err = n.run(ctx, "release", "publish", file, "--version", "1", "--images", n.b.archive)
	return err
}

// get asks a stamp's page and wants 200.
func (n *node) get(client *http.Client, stamp string) error {
	return get(client, "http://"+n.http+"/", stamp+".localhost")
}

func get(client *http.Client, url, host string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", host, resp.Status)
	}
	return nil
}

// pids are the processes whose command line has every one of parts.
func pids(parts ...string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
next:
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // has ended meanwhile
		}
		line := strings.ReplaceAll(string(b), "\x00", " ")
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		found = append(found, filepath.Base(filepath.Dir(f)))
	}
	return found
}
