package frame

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"

	"github.com/danielgtaylor/huma/v2"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Problem is an error for whoever asked: RFC 9457, with a stable code and what
// to do about it.
type Problem struct {
	Status int     `json:"status"`
	Title  string  `json:"title" doc:"The status in words"`
	Code   string  `json:"code" doc:"Stable, for programs: not-found, conflict, …"`
	Detail string  `json:"detail" doc:"One line: what is wrong, and where"`
	Hint   string  `json:"hint,omitempty" doc:"What to do"`
	Errors []Fault `json:"errors,omitempty" doc:"Every fault of the input"`

	cause error // for the log
}

// Fault is one thing that is wrong with an input.
type Fault struct {
	Location string `json:"location,omitempty" doc:"Such as body.lines[0].quantity"`
	Message  string `json:"message"`
}

// Error is the detail, so that a Problem is an error.
func (p *Problem) Error() string { return p.Detail }

// Unwrap is the cause, which users never see.
func (p *Problem) Unwrap() error { return p.cause }

// GetStatus makes a Problem huma's error.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType makes the API answer with RFC 9457's type.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// Because adds the cause for operators.
func (p *Problem) Because(err error) *Problem {
	p.cause = err
	return p
}

// Advise adds what to do.
func (p *Problem) Advise(format string, args ...any) *Problem {
	p.Hint = fmt.Sprintf(format, args...)
	return p
}

// NewProblem makes a problem with a code of the caller's.
func NewProblem(status int, code, format string, args ...any) *Problem {
	return &Problem{Status: status, Title: http.StatusText(status), Code: code, Detail: fmt.Sprintf(format, args...)}
}

// NotFound is for what does not exist, or is not the asker's to see.
func NotFound(format string, args ...any) *Problem {
	return NewProblem(http.StatusNotFound, "not-found", format, args...)
}

// Invalid is for an input that is well-formed and wrong.
func Invalid(format string, args ...any) *Problem {
	return NewProblem(http.StatusUnprocessableEntity, "invalid", format, args...)
}

// Conflict is for an act that the present state forbids.
func Conflict(format string, args ...any) *Problem {
	return NewProblem(http.StatusConflict, "conflict", format, args...)
}

// Forbidden is for somebody who is known and may not.
func Forbidden(format string, args ...any) *Problem {
	return NewProblem(http.StatusForbidden, "forbidden", format, args...)
}

// Unauthorized is for somebody who is not known.
func Unauthorized(format string, args ...any) *Problem {
	return NewProblem(http.StatusUnauthorized, "unauthorized", format, args...)
}

// Unavailable is for what may work again later.
func Unavailable(format string, args ...any) *Problem {
	return NewProblem(http.StatusServiceUnavailable, "unavailable", format, args...)
}

// AsProblem makes a problem of any error. One that was not meant for users
// becomes "internal" and keeps itself as the cause.
func AsProblem(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return NewProblem(http.StatusRequestEntityTooLarge, "too-large", "the request is larger than %d bytes", tooLarge.Limit)
	}
	if StorageFull(err) {
		return NewProblem(http.StatusInsufficientStorage, "storage-full", "there is no room left to keep this; nothing of it was kept").Because(err).
			Advise("The shop's operator has to make room.")
	}
	return NewProblem(http.StatusInternalServerError, "internal", "something went wrong here; it has been written down").Because(err)
}

// StorageFull tells whether an error comes from a disk without room.
func StorageFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	full, ok := errors.AsType[*sqlite.Error](err)
	return ok && (full.Code()&0xff == sqlite3.SQLITE_FULL || full.Code() == sqlite3.SQLITE_IOERR_SHMSIZE)
}

// newError is huma's way of making errors: of validation above all. What a
// handler gave that is no problem is not for users.
func newError(status int, message string, errs ...error) huma.StatusError {
	if status >= http.StatusInternalServerError {
		return AsProblem(errors.Join(append(errs, errors.New(message))...))
	}
	p := NewProblem(status, codeOf(status), "%s", message)
	for _, err := range errs {
		if err == nil {
			continue
		}
		if detailer, ok := err.(huma.ErrorDetailer); ok {
			d := detailer.ErrorDetail()
			p.Errors = append(p.Errors, Fault{Location: d.Location, Message: d.Message})
			continue
		}
		p.Errors = append(p.Errors, Fault{Message: err.Error()})
	}
	if len(p.Errors) == 1 {
		p.Detail = p.Errors[0].Message
		if p.Errors[0].Location != "" {
			p.Detail = p.Errors[0].Location + ": " + p.Detail
		}
	}
	return p
}

func codeOf(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "bad-request"
	case http.StatusNotFound:
		return "not-found"
	case http.StatusUnprocessableEntity:
		return "invalid"
	case http.StatusRequestEntityTooLarge:
		return "too-large"
	case http.StatusUnsupportedMediaType:
		return "unsupported-media-type"
	case http.StatusPreconditionFailed:
		return "precondition-failed"
	case http.StatusInternalServerError:
		return "internal"
	}
	return fmt.Sprintf("http-%d", status)
}

// writeProblem answers an API request outside huma.
func writeProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone if this cannot be written
}
