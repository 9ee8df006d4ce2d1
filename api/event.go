package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"bulkhead"
	"bulkhead/store"

	"github.com/danielgtaylor/huma/v2"
)

// EventQuery selects events.
type EventQuery struct {
	Stamp  string `query:"stamp" doc:"Only of this stamp"`
	After  int64  `query:"after" doc:"Only with a greater ID"`
	Limit  int    `query:"limit" minimum:"0" maximum:"10000" default:"200" doc:"The latest so many; 0: all that are kept"`
	Follow bool   `query:"follow" doc:"Go on with new ones until the client leaves"`
}

func (q EventQuery) values() url.Values {
	v := url.Values{"limit": {strconv.Itoa(q.Limit)}}
	if q.Stamp != "" {
		v.Set("stamp", q.Stamp)
	}
	if q.After > 0 {
		v.Set("after", strconv.FormatInt(q.After, 10))
	}
	if q.Follow {
		v.Set("follow", "true")
	}
	return v
}

// Events calls yield for every event that q selects, oldest first.
func (c *Client) Events(ctx context.Context, q EventQuery, yield func(bulkhead.Event) error) error {
	return follow(ctx, c, "/v1/events", q.values(), yield)
}

func (s *Server) registerEvents(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/events", id: "list-events", tag: "Platform", stream: bulkhead.Event{},
		summary: "What happened", description: "A stream of events, oldest first; with follow it does not end.",
	}, func(ctx context.Context, q *EventQuery) (*huma.StreamResponse, error) {
		stamp := bulkhead.StampName(q.Stamp)
		if q.Stamp != "" {
			var err error
			if stamp, err = bulkhead.ParseStampName(q.Stamp); err != nil {
				return nil, err
			}
			if err := s.heardOf(stamp); err != nil && !q.Follow {
				return nil, err
			}
		}
		return s.streamed(func(ctx context.Context, send func(any) error) error {
			view := s.c.Store.View()
			var changes <-chan store.Change
			if q.Follow {
				view, changes = s.c.Store.Watch(ctx)
			}
			var events []bulkhead.Event
			for e := range view.Events.After(q.After) {
				if stamp == "" || e.Stamp == stamp {
					events = append(events, e)
				}
			}
			if q.Limit > 0 && len(events) > q.Limit {
				events = events[len(events)-q.Limit:]
			}
			for _, e := range events {
				if err := send(e); err != nil {
					return err
				}
			}
			if !q.Follow {
				return nil
			}
			last := max(view.Events.Last(), q.After)
			for c := range changes {
				if c.Table != store.EventLog && !c.Everything() {
					continue
				}
				for e := range s.c.Store.View().Events.After(last) {
					last = e.ID
					if stamp != "" && e.Stamp != stamp {
						continue
					}
					if err := send(e); err != nil {
						return err
					}
				}
			}
			return nil
		}), nil
	})
}

// heardOf is an error if there is neither a stamp of that name nor an event of one.
func (s *Server) heardOf(name bulkhead.StampName) error {
	view := s.c.Store.View()
	if _, ok := view.Stamps.Get(name); ok {
		return nil
	}
	for e := range view.Events.After(0) {
		if e.Stamp == name {
			return nil
		}
	}
	return noStamp(name)
}
