package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const single = `services:
  web:
    image: ` + image + `
    ports: ["8080:8080"]
`

// measureFleet fills the machine with stamps, lets them stand, kills Bulkhead and
// starts it again.
func (b *bench) measureFleet(ctx context.Context) (err error) {
	n, err := b.node("fleet")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.destroy(ctx)) }()
	if err := n.up(ctx); err != nil {
		return err
	}
	if err := n.publish(ctx, "single", single); err != nil {
		return err
	}
	names := make([]string, b.stamps)
	for i := range names {
		names[i] = fmt.Sprintf("customer-%03d", i)
		if _, err := b.write("stamps/"+names[i]+".yaml", "kind: Stamp\nname: "+names[i]+"\nproduct: single\n"); err != nil {
			return err
		}
	}

	b.title("%d stamps of one service", b.stamps)
	began := time.Now()
	if _, err := n.run(ctx, "apply", "-f", filepath.Join(b.dir, "stamps"), "--timeout", "5m"); err != nil {
		return err
	}
	b.say("  bulkhead apply -f FOLDER, all running        %6.1f s    (bar: 20 s)", time.Since(began).Seconds())
	if err := n.answer(ctx, names); err != nil {
		return err
	}
	b.say("  and every page answers                       %6.1f s", time.Since(began).Seconds())

	select { // what creating left behind comes to rest
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(b.idle):
	}
	b.title("%d stamps at rest", b.stamps)
	if err := b.atRest(ctx, n); err != nil {
		return err
	}
	var lists []time.Duration
	for range 10 {
		began := time.Now()
		out, err := n.run(ctx, "stamp", "list")
		if err != nil {
			return err
		}
		lists = append(lists, time.Since(began))
		if got := strings.Count(out, "running"); got < b.stamps {
			return fmt.Errorf("stamp list shows %d of %d stamps running:\n%s", got, b.stamps, out)
		}
	}
	b.times("bulkhead stamp list", lists, "bar: 100 ms")

	before := n.tasks()
	b.title("kill -9 of Bulkhead, and up again")
	if err := n.kill(); err != nil {
		return err
	}
	began = time.Now()
	if err := n.start(); err != nil {
		return err
	}
	if err := n.answer(ctx, names); err != nil {
		return err
	}
	b.say("  until all %d pages answer again             %6.2f s    (bar: 3 s)", b.stamps, time.Since(began).Seconds())
	if after := n.tasks(); before != after {
		return errors.New("some task was restarted")
	}
	return nil
}

// answer returns when every stamp has answered 200 once, asked by eight at a time.
func (n *node) answer(ctx context.Context, names []string) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	todo := make(chan string, len(names))
	for _, name := range names {
		todo <- name
	}
	close(todo)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for name := range todo {
				if errs[i] = until(ctx, time.Minute, name+" answers", func() error { return n.get(client, name) }); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// atRest prints the memory and processor time of Bulkhead, containerd and shims.
func (b *bench) atRest(ctx context.Context, n *node) error {
	groups := []struct {
		name string
		pids []string
		bars string
	}{
		{"bulkhead", []string{strconv.Itoa(n.process.Process.Pid)}, "(bars: 400 MB, 3 %)"},
		{"containerd", pids("containerd --config", n.data()), ""},
		{"shims", pids("containerd-shim", n.namespace()), ""},
	}
	before := make([]time.Duration, len(groups))
	for i, g := range groups {
		for _, pid := range g.pids {
			before[i] += processorTime(pid)
		}
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(b.idle):
	}
	took := time.Since(began)
	for i, g := range groups {
		var used, resident, own int64
		for _, pid := range g.pids {
			used += int64(processorTime(pid))
			resident += status(pid, "VmRSS")
			own += status(pid, "RssAnon")
		}
		b.say("  %-11s %3d processes   RSS %5d MB (not shared %5d MB)   CPU %5.2f %% of a core over %s  %s", g.name, len(g.pids), resident>>10, own>>10,
			float64(used-int64(before[i]))/float64(took)*100, took.Round(time.Second), g.bars)
	}
	return nil
}

// namespace is the one of containerd in which this Bulkhead's containers are.
func (n *node) namespace() string {
	b, err := os.ReadFile(filepath.Join(n.data(), "instance"))
	if err != nil {
		return "unknown"
	}
	return "-namespace bulkhead-" + strings.TrimSpace(string(b)) + " "
}

// tasks are the ids of all task processes, as the kernel's cgroups list them.
func (n *node) tasks() string {
	b, err := os.ReadFile(filepath.Join(n.data(), "instance"))
	if err != nil {
		return ""
	}
	var found []string
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		files, _ := filepath.Glob(filepath.Join(root, "bulkhead-"+strings.TrimSpace(string(b)), "*", "*", "cgroup.procs"))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			found = append(found, f+": "+string(b))
		}
		if len(found) > 0 {
			break
		}
	}
	return strings.Join(found, "\n")
}

// processorTime is what a process has used: fields 14 and 15 of /proc/PID/stat,
// in hundredths of a second (proc(5)).
func processorTime(pid string) time.Duration {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	// Fields count from the end of the name, which may hold anything.
	fields := strings.Fields(string(b)[strings.LastIndexByte(string(b), ')')+1:])
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// status is a figure of /proc/PID/status in KiB.
func status(pid, name string) int64 {
	b, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && key == name {
			figure, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return figure
		}
	}
	return 0
}
