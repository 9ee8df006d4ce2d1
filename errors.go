package bulkhead

import (
	"errors"
	"fmt"
)

// The kinds of errors. They cross the wire: the API maps each to an HTTP status
// and the client maps it back, so errors.Is works on both sides.
var (
	// ErrInvalid: the request itself is wrong and will stay wrong.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: what the request names does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the request is right, but what exists stands against it.
	ErrConflict = errors.New("conflict")
	// ErrDenied: who asks may not do that.
	ErrDenied = errors.New("denied")
	// ErrUnavailable: the same request may succeed later.
	ErrUnavailable = errors.New("unavailable")
	// ErrExhausted: a bound is reached: disk, memory, quota, size.
	ErrExhausted = errors.New("exhausted")
)

// Error is an error for users: a kind, one line that says what and where, and a
// hint that says what to do. The cause, if any, is for operators' logs.
type Error struct {
	Kind    error  // one of the sentinels above
	Message string // one line, no final full stop
	Hint    string // what to do; may be empty
	Faults  []Fault
	Cause   error // never shown to users
}

// Fault is one of several things wrong with one request. All are reported at
// once, so that nobody mends them one by one.
type Fault struct {
	Where   string `json:"where"`   // "compose.yaml:12", "settings.COLOR"
	Message string `json:"message"` // what is wrong
}

func (f Fault) String() string {
	if f.Where == "" {
		return f.Message
	}
	return f.Where + ": " + f.Message
}

func (e *Error) Error() string { return e.Message }

// Unwrap lets errors.Is match the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// Errorf makes an error of a kind. %w works as in fmt.Errorf.
func Errorf(kind error, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// WithHint returns e with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Faulty makes one ErrInvalid of several faults, nil of none.
func Faulty(message string, faults []Fault) error {
	if len(faults) == 0 {
		return nil
	}
	return &Error{Kind: ErrInvalid, Message: message, Faults: faults}
}

// KindOf is the kind of err, or nil when it has none (an internal error).
func KindOf(err error) error {
	for _, kind := range []error{ErrInvalid, ErrNotFound, ErrConflict, ErrDenied, ErrUnavailable, ErrExhausted} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}
