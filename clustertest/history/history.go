// Package history records what concurrent clients did with registers and what they
// were told, and tells whether one copy of the state, changed in one order, could
// have answered so (Herlihy and Wing, Linearizability, 1990). Porcupine searches for
// that order. It is for tests only, of the store and of whole farms.
//
// A register is anything with a name that holds a text, such as an object and its
// label; the empty text stands for one that is not there. Start with Recorder.
package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// ErrUnknown is for a change of which the client does not know whether it was made:
// nobody answered, or something between did. It may have been made at any time after
// it was asked for, even after everything else, or never.
var ErrUnknown = errors.New("made or not")

// ErrRefused is for a change that was not made because the register held another
// value than it said.
var ErrRefused = errors.New("refused: another value")

// ErrUnsent is for a change that was certainly not made, and says nothing of the
// register: it is left out of the history.
var ErrUnsent = errors.New("not sent")

// operation is what a client asks for.
type operation struct {
	key      string
	kind     kind
	from, to string
}

type kind int

const (
	read  kind = iota
	swap       // set the register to to if it holds from
	write      // set it to to
)

// answer is what the client was told.
type answer struct {
	value string // of a read
	err   error  // of a change: nil, ErrRefused or ErrUnknown
}

// Recorder keeps a history. Its methods may be called by many clients at once; one
// client does one thing at a time.
type Recorder struct {
	began time.Time

	mu         sync.Mutex
	operations []porcupine.Operation // guarded by mu
	unknown    int                   // guarded by mu
}

// NewRecorder begins a history. All registers are empty.
func NewRecorder() *Recorder { return &Recorder{began: time.Now()} }

// Read records a reading by do. One that fails has said nothing and is left out.
func (r *Recorder) Read(client int, key string, do func() (value string, err error)) (string, error) {
	call := time.Since(r.began)
	value, err := do()
	if err == nil {
		r.add(client, operation{key: key, kind: read}, answer{value: value}, call)
	}
	return value, err
}

// Swap records a change by do, from one value to another; no two changes of a
// register should be to the same value but the empty one. The error of do is nil,
// ErrRefused, ErrUnsent or, whatever else it is, taken for ErrUnknown.
func (r *Recorder) Swap(client int, key, from, to string, do func() error) error {
	return r.change(client, operation{key: key, kind: swap, from: from, to: to}, do)
}

// Write records a change by do from whatever the register holds. Its error is nil,
// ErrUnsent or taken for ErrUnknown.
func (r *Recorder) Write(client int, key, to string, do func() error) error {
	return r.change(client, operation{key: key, kind: write, to: to}, do)
}

func (r *Recorder) change(client int, in operation, do func() error) error {
	call := time.Since(r.began)
	err := do()
	if errors.Is(err, ErrUnsent) {
		return err
	}
	if err != nil && !errors.Is(err, ErrRefused) {
		err = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	r.add(client, in, answer{err: err}, call)
	return err
}

func (r *Recorder) add(client int, in operation, out answer, call time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(out.err, ErrUnknown) {
		r.unknown++
	}
	r.operations = append(r.operations, porcupine.Operation{
		ClientId: client, Input: in, Output: out, Call: int64(call), Return: int64(time.Since(r.began)),
	})
}

// Count is how many operations there are, and of how many the outcome is unknown.
func (r *Recorder) Count() (all, unknown int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.operations), r.unknown
}

// checkMost is how long one register's history may be looked at.
const checkMost = time.Minute

// Check returns an error that names the registers whose history no single copy could
// have had, or which are too entangled to tell.
func (r *Recorder) Check() error {
	r.mu.Lock()
	history := slices.Clone(r.operations)
	r.mu.Unlock()
	// What is unknown never returned: it may take effect after everything else, which
	// is the same as never.
	for i := range history {
		if errors.Is(history[i].Output.(answer).err, ErrUnknown) {
			history[i].Return = int64(1) << 62
		}
	}
	var wrong []string
	for _, part := range registers(history) {
		if result := porcupine.CheckOperationsTimeout(register, part, checkMost); result != porcupine.Ok {
			wrong = append(wrong, fmt.Sprintf("register %s, %d operations: %s\n%s", part[0].Input.(operation).key, len(part), strings.ToLower(string(result)), describe(part)))
		}
	}
	if len(wrong) > 0 {
		return errors.New("not linearizable: " + strings.Join(wrong, "\n"))
	}
	return nil
}

// describe lists a history by the time of its calls.
func describe(part []porcupine.Operation) string {
	part = slices.Clone(part)
	slices.SortFunc(part, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, o := range part {
		end := time.Duration(o.Return).Round(time.Microsecond).String()
		if errors.Is(o.Output.(answer).err, ErrUnknown) {
			end = "?"
		}
		fmt.Fprintf(&b, "  client %d, %s to %s: %s\n", o.ClientId, time.Duration(o.Call).Round(time.Microsecond), end, register.DescribeOperation(o.Input, o.Output))
	}
	return b.String()
}

// registers are the histories of the single registers: each must be linearizable by
// itself (the locality of linearizability).
func registers(history []porcupine.Operation) [][]porcupine.Operation {
	index := map[string]int{}
	var parts [][]porcupine.Operation
	for _, o := range history {
		key := o.Input.(operation).key
		i, ok := index[key]
		if !ok {
			i = len(parts)
			index[key], parts = i, append(parts, nil)
		}
		parts[i] = append(parts[i], o)
	}
	return parts
}

// register is one copy of one register.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(operation), output.(answer)
		fits := in.kind == write || state.(string) == in.from
		switch {
		case in.kind == read:
			return state.(string) == out.value, state
		case out.err == nil:
			return fits, in.to
		case errors.Is(out.err, ErrRefused):
			return !fits, state
		case fits: // unknown, and it could be made here
			return true, in.to
		}
		return true, state
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(operation), output.(answer)
		text := fmt.Sprintf("%q to %q", in.from, in.to)
		switch in.kind {
		case read:
			return fmt.Sprintf("read %q", out.value)
		case write:
			text = fmt.Sprintf("write %q", in.to)
		}
		if out.err != nil {
			text += ": " + out.err.Error()
		}
		return text
	},
}
