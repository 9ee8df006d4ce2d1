package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"bulkhead"
	"bulkhead/network"
	"bulkhead/plan"
)

// Finding is what Doctor says of one thing that Bulkhead needs of the machine.
type Finding struct {
	Check   string // what was looked at
	OK      bool
	Found   string // one line
	Advice  string // what to do; empty when OK
	Warning bool   // not OK, but Bulkhead runs without it
}

// leastDisk is how much free disk Doctor asks for, in bytes.
const leastDisk = 2 << 30

// Doctor looks whether the machine has what Run with the same configuration
// needs. It changes nothing. Ports that a running Bulkhead of the same data
// folder holds are not held against it.
func Doctor(ctx context.Context, c Config) []Finding {
	var out []Finding
	add := func(check string, ok bool, found, advice string) {
		if ok {
			advice = ""
		}
		out = append(out, Finding{Check: check, OK: ok, Found: found, Advice: advice})
	}
	root := os.Geteuid() == 0
	add("root", root, map[bool]string{true: "running as root", false: fmt.Sprintf("running as user %d", os.Geteuid())}[root], "run as root: containers and networks need it")
	add("kernel", kernelAtLeast(5, 15), "Linux "+kernel(), "use a kernel from 5.15 on")
	for _, program := range []string{"containerd", "runc"} {
		path, err := exec.LookPath(program)
		found := "not found"
		if err == nil {
			found = path
			if b, err := exec.CommandContext(ctx, path, "--version").Output(); err == nil {
				found, _, _ = strings.Cut(string(b), "\n")
			}
		}
		add(program, err == nil, found, "apt-get install "+program)
	}
	v := cgroupVersion()
	add("cgroups", v > 0, map[int]string{0: "no memory controller is mounted", 1: "version 1", 2: "version 2"}[v],
		"mount the cgroup file system with the memory, cpu and pids controllers")
	if root {
		id, err := instanceOf(c.Data)
		if err != nil {
			add("data folder", false, err.Error(), "choose another folder with --data")
		}
		findings := network.Check(network.Config{Instance: id, Dir: filepath.Join(c.Data, "doctor"), Pool: c.Subnet})
		add("network", len(findings) == 0, "bridges, namespaces and nftables rules can be made", "")
		if err = errors.Join(findings...); err != nil {
			last := &out[len(out)-1]
			last.Found = strings.ReplaceAll(err.Error(), "\n", "; ")
			last.Advice = hints(findings)
		}
	}
	running := pidOf(c.Data) > 0
	for _, p := range c.ports() {
		if p.addr == "" {
			continue
		}
		l, err := net.Listen("tcp", p.addr)
		found := p.addr + " is free"
		switch {
		case err == nil:
			l.Close()
		case running:
			found = p.addr + " is held by this Bulkhead, which is running"
		default:
			found = portError(p, err).Error()
		}
		add("port "+p.name, err == nil || running, found, fmt.Sprintf("stop what holds it, or choose another address with --%s", p.flag))
	}
	free := diskFree(c.Data)
	add("disk", free >= leastDisk, plan.Bytes(free)+" free for "+c.Data, "free some, or choose another folder with --data")
	return out
}

func hints(errs []error) string {
	var out []string
	for _, err := range errs {
		var e *bulkhead.Error
		if errors.As(err, &e) && e.Hint != "" {
			out = append(out, e.Hint)
		}
	}
	return strings.Join(out, "; ")
}

// instanceOf is the instance of a data folder, or one that stands for none yet.
func instanceOf(data string) (string, error) {
	if _, err := os.Stat(filepath.Join(data, "instance")); err != nil {
		return "0000", nil
	}
	return instance(data)
}
