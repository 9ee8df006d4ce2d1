//go:build unix

package store

import (
	"os"
	"syscall"
)

// flock locks a file for this process; EWOULDBLOCK when another one has it.
func flock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
