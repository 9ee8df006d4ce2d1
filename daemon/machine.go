package daemon

import (
	"bufio"
	"crypto/rand"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"bulkhead"
)

// instance tells this Bulkhead from others on the same machine: four random
// hexadecimal digits, made once and kept in the data folder. Bridges, cgroups
// and containerd namespaces carry it.
func instance(data string) (string, error) {
	path := filepath.Join(data, "instance")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		var digits [2]byte
		rand.Read(digits[:])
		id := hex.EncodeToString(digits[:])
		return id, os.WriteFile(path, []byte(id+"\n"), 0o600)
	}
	id := strings.TrimSpace(string(b))
	if err == nil && !regexp.MustCompile(`^[0-9a-f]{4}$`).MatchString(id) {
		err = bulkhead.Errorf(bulkhead.ErrConflict, "%s holds %q instead of four hexadecimal digits", path, id).
			WithHint("restore the file, or use another data folder")
	}
	return id, err
}

// hostNode describes this machine as a node.
func hostNode(name bulkhead.NodeName, data, version, engine string, joined time.Time) bulkhead.Node {
	return bulkhead.Node{
		Name: name, Version: version, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Kernel: kernel(), Runtime: engine, Capacity: capacity(data), Joined: joined, Full: full(data),
	}
}

// full tells whether the disk of the data folder has hardly any room left: less than a
// gigabyte and less than a tenth of it. What is left is for the stamps that are there.
func full(data string) bool {
	var s syscall.Statfs_t
	if syscall.Statfs(data, &s) != nil {
		return false
	}
	return s.Bavail < s.Blocks/10 && int64(s.Bavail)*s.Bsize < 1<<30
}

// capacity is what tasks may use: the machine's less a reserve for the system
// and Bulkhead itself, 512 MiB or a tenth of the memory, whichever is less.
func capacity(data string) bulkhead.Resources {
	total := memory("MemTotal")
	r := bulkhead.Resources{
		CPU: float64(runtime.NumCPU()), Memory: total - min(512<<20, total/10), Disk: diskFree(data), PIDs: 32768,
	}
	if b, err := os.ReadFile("/proc/sys/kernel/pid_max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			r.PIDs = n
		}
	}
	return r
}

// memory reads one line of /proc/meminfo in bytes.
func memory(field string) int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(s.Text(), field+": %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// diskFree is what non-root users may still write below path, in bytes.
func diskFree(path string) int64 {
	for {
		var s syscall.Statfs_t
		if err := syscall.Statfs(path, &s); err == nil {
			return int64(s.Bavail) * s.Bsize
		}
		parent := filepath.Dir(path)
		if parent == path {
			return 0
		}
		path = parent
	}
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// kernelAtLeast compares the running kernel's version.
func kernelAtLeast(major, minor int) bool {
	var have [2]int
	if n, _ := fmt.Sscanf(kernel(), "%d.%d", &have[0], &have[1]); n != 2 {
		return true // nothing to compare; what is missing will say so itself
	}
	return have[0] > major || have[0] == major && have[1] >= minor
}

// staticOnly is path if that program needs no libraries, so that it runs inside
// any container; else nothing.
func staticOnly(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return ""
		}
	}
	return path
}

// cgroupVersion is 2 when the unified hierarchy carries the controllers, 1 when
// the old ones do, 0 when neither is mounted.
func cgroupVersion() int {
	if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil && strings.Contains(string(b), "memory") {
		return 2
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		return 1
	}
	return 0
}
