package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"bulkhead"
)

// Problem is how an error crosses HTTP: an RFC 9457 problem document. The kind
// of the error is its status; the server maps it once (asProblem), the client
// maps it back once (Problem.Err), so errors.Is gives the same on both sides.
type Problem struct {
	Title  string  `json:"title" doc:"The kind of error"`
	Status int     `json:"status" doc:"The HTTP status"`
	Detail string  `json:"detail" doc:"One line: what is wrong, and where"`
	Hint   string  `json:"hint,omitempty" doc:"What to do about it"`
	Errors []Fault `json:"errors,omitempty" doc:"Everything that is wrong with the request, where it is several things"`
}

// Fault is one of several things wrong with one request.
type Fault struct {
	Location string `json:"location,omitempty" doc:"Where: a file and line, a setting, a field of the body"`
	Message  string `json:"message" doc:"What is wrong there"`
}

const problemType = "application/problem+json"

// kindStatus pairs each kind of error with its HTTP status.
var kindStatus = []struct {
	kind   error
	status int
}{
	{bulkhead.ErrInvalid, http.StatusUnprocessableEntity},
	{bulkhead.ErrNotFound, http.StatusNotFound},
	{bulkhead.ErrConflict, http.StatusConflict},
	{bulkhead.ErrDenied, http.StatusForbidden},
	{bulkhead.ErrUnavailable, http.StatusServiceUnavailable},
	{bulkhead.ErrExhausted, http.StatusInsufficientStorage},
}

// asProblem is what a user may see of err. An error without a kind is ours: its
// text stays in the server's log.
func asProblem(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	kind := bulkhead.KindOf(err)
	p := &Problem{Status: http.StatusInternalServerError, Detail: "internal error: the server's log says more"}
	for _, k := range kindStatus {
		if k.kind == kind {
			p.Status = k.status
			p.Detail = err.Error()
		}
	}
	if e, ok := errors.AsType[*bulkhead.Error](err); ok && kind != nil {
		p.Hint = e.Hint
		for _, f := range e.Faults {
			p.Errors = append(p.Errors, Fault{Location: f.Where, Message: f.Message})
		}
	}
	p.Title = http.StatusText(p.Status)
	return p
}

// Err is the error that the server had, with its kind.
func (p *Problem) Err() error {
	var kind error
	for _, k := range kindStatus {
		if k.status == p.Status {
			kind = k.kind
		}
	}
	switch p.Status {
	case http.StatusUnauthorized, http.StatusTooManyRequests: // the latter: too many wrong tokens
		kind = bulkhead.ErrDenied
	case http.StatusRequestEntityTooLarge:
		kind = bulkhead.ErrExhausted
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		kind = bulkhead.ErrUnavailable
	}
	if kind == nil && p.Status >= 400 && p.Status < 500 {
		kind = bulkhead.ErrInvalid
	}
	if kind == nil {
		return p
	}
	e := &bulkhead.Error{Kind: kind, Message: p.Detail, Hint: p.Hint}
	for _, f := range p.Errors {
		e.Faults = append(e.Faults, bulkhead.Fault{Where: f.Location, Message: f.Message})
	}
	return e
}

// Error makes a Problem an error without a kind.
func (p *Problem) Error() string {
	return fmt.Sprintf("the server answered %d: %s", p.Status, p.Detail)
}

// GetStatus lets huma answer with the problem as it is.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is called by huma.
func (p *Problem) ContentType(string) string { return problemType }

// writeProblem answers a request that no huma operation handles.
func writeProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone: nobody to tell
}

// readProblem reads the error of an answer that is not a success.
func readProblem(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	p := &Problem{}
	if json.Unmarshal(body, p) != nil || p.Detail == "" {
		u := *resp.Request.URL
		p = &Problem{
			Detail: fmt.Sprintf("what answers at %s://%s is not the API of Bulkhead: %s", u.Scheme, u.Host, resp.Status),
			Hint:   "bulkhead status works with the address of the API, usually 127.0.0.1:7070: give it with --api",
		}
	}
	p.Status = resp.StatusCode
	return p.Err()
}
