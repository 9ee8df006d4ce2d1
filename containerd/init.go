package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// Init is the first process of a container: it runs a command, hands signals on
// to it, and reaps every process that loses its parent. args may begin with
// "--". It returns the command's exit code: 128 and its number for a signal, 127
// when the command does not exist, 126 when it cannot be run.
//
// It reaps all children of its process, so nothing else may run in that process.
func Init(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "init: no command")
		return 127
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	program, err := exec.LookPath(args[0])
	if err != nil {
		return initFault(args[0], err)
	}
	child, err := os.StartProcess(program, args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return initFault(args[0], err)
	}
	for received := range signals {
		switch received {
		case syscall.SIGCHLD:
			if code, ended := reapAll(child.Pid); ended {
				return code
			}
		case syscall.SIGURG: // Go's own
		default:
			_ = syscall.Kill(child.Pid, received.(syscall.Signal))
		}
	}
	return 0
}

// reapAll reaps every process that has ended, and tells whether child was one.
func reapAll(child int) (code int, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil {
			return code, ended
		}
		if pid == child && (status.Exited() || status.Signaled()) {
			code, ended = status.ExitStatus(), true
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
		}
	}
}

func initFault(program string, err error) int {
	fmt.Fprintf(os.Stderr, "init: run %q: %v\n", program, err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}
