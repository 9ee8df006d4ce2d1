package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"bulkhead"

	"github.com/spf13/cobra"
)

// Exit codes. They are part of the interface: scripts depend on them.
const (
	exitOK          = 0
	exitError       = 1
	exitInvalid     = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitUnavailable = 5
	exitDenied      = 6
	exitExhausted   = 7
	exitInterrupted = 130
)

var exitKinds = []struct {
	kind error
	code int
}{
	{bulkhead.ErrInvalid, exitInvalid},
	{bulkhead.ErrNotFound, exitNotFound},
	{bulkhead.ErrConflict, exitConflict},
	{bulkhead.ErrUnavailable, exitUnavailable},
	{bulkhead.ErrDenied, exitDenied},
	{bulkhead.ErrExhausted, exitExhausted},
}

// exitStatus is an error that was already shown, or needs no words, with the
// exit code that it asks for.
type exitStatus int

func (e exitStatus) Error() string { return "exit status " + strconv.Itoa(int(e)) }

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[exitStatus](err); ok {
		return int(e)
	}
	kind := bulkhead.KindOf(err)
	for _, k := range exitKinds {
		if k.kind == kind {
			return k.code
		}
	}
	return exitError
}

// printError writes an error for people: one line, its faults if there are
// several, and a hint.
func (c *command) printError(err error) {
	if err == nil {
		return
	}
	if _, ok := errors.AsType[exitStatus](err); ok {
		return
	}
	w := c.env.Stderr
	fmt.Fprintf(w, "bulkhead: %s\n", oneLine(err.Error()))
	e, ok := errors.AsType[*bulkhead.Error](err)
	if !ok {
		return
	}
	for _, f := range e.Faults {
		fmt.Fprintf(w, "  %s\n", oneLine(f.String()))
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", e.Hint)
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// exitCodesTopic is `bulkhead help exit-codes`.
func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Exit codes of every command:

    0  done
    1  an error without a kind of its own, or something to mend (doctor)
    2  the command line or what it was given is invalid
    3  what it names does not exist
    4  what exists stands against it: a name is taken, a version is published
    5  the API does not answer, or not in time; trying again may help
    6  no token, or one that may not do this
    7  a bound is reached: disk, memory, size
  130  interrupted

"bulkhead stamp exec" ends with the exit code of the command that it ran.`,
	}
}
