package frame

import (
	"database/sql"
	"fmt"
	"math"
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

// Before is where a list by sequence number, newest first, goes on.
func (p Page) Before() (int64, error) {
	if p.After == "" {
		return math.MaxInt64, nil
	}
	n, err := strconv.ParseInt(p.After, 10, 64)
	if err != nil {
		return 0, Invalid("after: %q is not what a list gave as next", p.After)
	}
	return n, nil
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

// Row is a row of a query: *sql.Row or *sql.Rows.
type Row interface{ Scan(into ...any) error }

// Querier asks a store: *sql.Tx or *Tx.
type Querier interface {
	Query(query string, args ...any) (*sql.Rows, error)
	QueryRow(query string, args ...any) *sql.Row
}

// Select collects what scan makes of every row of a query.
func Select[T any](tx Querier, scan func(Row) (T, error), query string, args ...any) ([]T, error) {
	rows, err := tx.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		x, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	return list, rows.Err()
}
