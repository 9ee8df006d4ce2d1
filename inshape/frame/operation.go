package frame

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Require refuses those who have less than a role.
func Require(ctx context.Context, role Role) error {
	if who := Who(ctx); !who.May(role) {
		return Forbidden("this is for %s; you are %s", role, who.Role)
	}
	return nil
}

// operations adds what every module's API has: events and the audit log, and
// the webhooks of webhook.go.
func (s *Server) operations() {
	huma.Register(s.API, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: s.Base() + "/events", Tags: []string{"Events"},
		Summary: "Events, oldest first; waits for the next one", Errors: []int{403},
	}, func(ctx context.Context, in *struct {
		After int64 `query:"after" minimum:"0" doc:"Sequence number of the last event that is known"`
		Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		Wait  int   `query:"wait" minimum:"0" maximum:"60" default:"0" doc:"Seconds to wait if there is none yet"`
	},
	) (*struct{ Body List[Event] }, error) {
		if err := Require(ctx, Staff); err != nil {
			return nil, err
		}
		patience, cancel := context.WithTimeout(ctx, time.Duration(in.Wait)*time.Second)
		defer cancel()
		for {
			more := s.Store.WaitForEvents()
			events, err := s.Store.Events(ctx, in.After, in.Limit+1)
			if err != nil {
				return nil, err
			}
			if len(events) == 0 && patience.Err() == nil {
				select {
				case <-more:
					continue
				case <-patience.Done():
				case <-s.ending: // the caller asks again, and the next process answers
				}
			}
			list := ListOf(events, in.Limit, func(e Event) string { return strconv.FormatInt(e.Sequence, 10) })
			return &struct{ Body List[Event] }{list}, nil
		}
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-audit", Method: http.MethodGet, Path: s.Base() + "/audit", Tags: []string{"Audit"},
		Summary: "Who did what, newest first", Errors: []int{403},
	}, func(ctx context.Context, in *struct {
		Page
		Subject string `query:"subject" maxLength:"128" doc:"Only what was done to this"`
	},
	) (*struct{ Body List[AuditEntry] }, error) {
		if err := Require(ctx, Staff); err != nil {
			return nil, err
		}
		before, err := in.Before()
		if err != nil {
			return nil, err
		}
		var entries []AuditEntry
		err = s.Store.View(ctx, func(tx *sql.Tx) error {
			rows, err := tx.Query(`SELECT seq, at, actor, name, action, subject, detail FROM audit
				WHERE seq < ? AND (? = '' OR subject = ?) ORDER BY seq DESC LIMIT ?`, before, in.Subject, in.Subject, in.Limit+1)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var e AuditEntry
				var at string
				if err := rows.Scan(&e.Sequence, &at, &e.Actor, &e.Name, &e.Action, &e.Subject, &e.Detail); err != nil {
					return err
				}
				e.At = ParseStamp(at)
				entries = append(entries, e)
			}
			return rows.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		return &struct{ Body List[AuditEntry] }{ListOf(entries, in.Limit, func(e AuditEntry) string { return strconv.FormatInt(e.Sequence, 10) })}, nil
	})
	s.webhooks()
	s.resumeWebhook()
}
