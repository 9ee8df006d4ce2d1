package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"bulkhead"

	"github.com/danielgtaylor/huma/v2"
)

// Logs calls yield for every line that q selects, oldest first.
func (c *Client) Logs(ctx context.Context, q bulkhead.LogQuery, yield func(bulkhead.LogLine) error) error {
	v := url.Values{}
	if q.Service != "" {
		v.Set("service", string(q.Service))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Tail > 0 {
		v.Set("tail", strconv.Itoa(q.Tail))
	}
	if q.Follow {
		v.Set("follow", "true")
	}
	return follow(ctx, c, "/v1/stamps/"+url.PathEscape(string(q.Stamp))+"/logs", v, yield)
}

func (s *Server) registerLogs(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/stamps/{name}/logs", id: "stamp-logs", tag: "Stamps", stream: bulkhead.LogLine{},
		summary:     "What a stamp's tasks wrote",
		description: "A stream of lines, oldest first, from the stamp's node; with follow it does not end.",
	}, func(ctx context.Context, in *struct {
		Name    string    `path:"name"`
		Service string    `query:"service" doc:"Only of this service"`
		Since   time.Time `query:"since" doc:"Only lines that are not older"`
		Tail    int       `query:"tail" minimum:"0" doc:"Only the last so many; 0: all"`
		Follow  bool      `query:"follow" doc:"Go on with new ones until the client leaves"`
	},
	) (*huma.StreamResponse, error) {
		stamp, err := s.placed(in.Name, in.Service)
		if err != nil {
			return nil, err
		}
		conn, hangup, err := s.nodes.dial(ctx, stamp.Node, bulkhead.StreamRequest{Logs: &bulkhead.LogQuery{
			Stamp: stamp.Name, Service: bulkhead.ServiceName(in.Service), Since: in.Since, Tail: in.Tail, Follow: in.Follow,
		}})
		if err != nil {
			return nil, err
		}
		return s.streamed(func(ctx context.Context, send func(any) error) error {
			defer hangup()
			return readLines(contextReader(ctx, conn), func(l bulkhead.LogLine) error { return send(l) })
		}), nil
	})
}

// placed is a stamp that a node has, with a service of that name if it is not
// empty.
func (s *Server) placed(name, service string) (bulkhead.Stamp, error) {
	stamp, err := s.stamp(name)
	if err != nil {
		return stamp, err
	}
	if service != "" {
		if err := hasService(stamp, bulkhead.ServiceName(service)); err != nil {
			return stamp, err
		}
	}
	if stamp.Node == "" {
		return stamp, bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is on no node: %s", stamp.Name, stamp.Placement)
	}
	return stamp, nil
}

// contextReader stops reading when ctx ends: r's reads may block for ever, so
// they happen beside.
func contextReader(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() { // ends with the stream: hangup closes what r reads from
		_, err := io.Copy(pw, r)
		pw.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { pr.CloseWithError(ctx.Err()) })
	return pr
}
