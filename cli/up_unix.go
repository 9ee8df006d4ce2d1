//go:build unix

package cli

import (
	"os/exec"
	"syscall"
)

// ownSession keeps what happens to the terminal from the command.
func ownSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
