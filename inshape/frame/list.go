package frame

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Page asks for a part of a list. Lists are newest first unless they say
// otherwise; identifiers sort by time.
type Page struct {
	Limit int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"At most so many"`
	After string `query:"after" maxLength:"128" doc:"The next of the part before"`
}

// List is a part of a list.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"What to give as after for the next part; empty: there is none"`
}

// ListOf cuts items, of which one more than the limit was asked for, and finds
// where the next part begins.
func ListOf[T any](items []T, limit int, cursor func(T) string) List[T] {
	l := List[T]{Items: items}
	if len(items) > limit {
		l.Items = items[:limit]
		l.Next = cursor(items[limit-1])
	}
	if l.Items == nil {
		l.Items = []T{}
	}
	return l
}

// ETag is the tag of a resource's version.
func ETag(version int64) string { return `"v` + strconv.FormatInt(version, 10) + `"` }

// Match is the condition of a change: If-Match with the tag that was read.
type Match struct {
	IfMatch string `header:"If-Match" maxLength:"64" doc:"The ETag that was read; without it the change is made to whatever is there"`
}

// Check refuses a change of something that has changed since it was read.
func (m Match) Check(version int64) error {
	if m.IfMatch == "" || m.IfMatch == "*" {
		return nil
	}
	for tag := range strings.SplitSeq(m.IfMatch, ",") {
		if strings.TrimSpace(tag) == ETag(version) {
			return nil
		}
	}
	return NewProblem(http.StatusPreconditionFailed, "changed-meanwhile", "it has changed since it was read: it is now %s", fmt.Sprint(ETag(version))).
		Advise("Read it again and repeat the change.")
}
