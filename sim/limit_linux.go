package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"bulkhead"
)

// enoughFiles raises the limit of open files to what the connections of so many nodes
// take, or says that it cannot. What is started inherits it.
func enoughFiles(nodes int) error {
	need := uint64(nodes) + 500
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur >= need {
		return nil //nolint:nilerr // then what is missing shows later
	}
	raised := syscall.Rlimit{Cur: need, Max: max(l.Max, need)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		return bulkhead.Errorf(bulkhead.ErrExhausted, "%d nodes need %d open files in one process, and the limit is %d", nodes, need, l.Max).
			WithHint("ulimit -n %d, or fewer --nodes", need)
	}
	return nil
}

// enoughRoom refuses a folder whose file system has less free than need, in bytes.
func enoughRoom(folder string, need int64, flag string) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "folder %s: %w", folder, err).WithHint("name another one with %s", flag)
	}
	if free := int64(s.Bavail) * s.Bsize; free < need {
		return bulkhead.Errorf(bulkhead.ErrExhausted, "%s has %d MiB free, and this takes some %d MiB", folder, free>>20, need>>20).
			WithHint("name another folder with %s, or fewer nodes and stamps", flag)
	}
	return nil
}

// tick is the unit of time in /proc/PID/stat, on every platform that Bulkhead has.
const ticksASecond = 100

// processorOf is the processor time that a process has used, in seconds; zero if there
// is none.
func processorOf(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // from the third of proc(5) on
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticksASecond
}

// memoryOf is what a process has in memory, in bytes; zero if there is none.
func memoryOf(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// load is how many processes wanted to run, on average of the last minute.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(b), " ")
	return one
}
