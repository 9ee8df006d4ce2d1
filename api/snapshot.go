package api

import (
	"context"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// SaveState writes a backup of the state to w: see store.Store.Save for what it is.
func (c *Client) SaveState(ctx context.Context, w io.Writer) error {
	resp, err := c.open(ctx, http.MethodPost, "/v1/snapshot", nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return c.unreachable(c.Base(), err)
	}
	return nil
}

// registerSnapshot: a POST, because only who may change things may have all that is
// in it.
func (s *Server) registerSnapshot(hapi huma.API) {
	op := huma.Operation{
		Method: http.MethodPost, Path: "/v1/snapshot", OperationID: "save-state", Tags: []string{"Platform"},
		Summary:     "A backup of the state",
		Description: "It ends with a sum: one that breaks off is refused when it is restored.",
		Responses: map[string]*huma.Response{
			"200":     {Description: "OK", Content: map[string]*huma.MediaType{"application/gzip": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}},
			"default": problemResponse(hapi),
		},
	}
	huma.Register(hapi, op, func(context.Context, *struct{}) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			w.Header().Set("Content-Type", "application/gzip")
			if err := s.c.Store.Save(r.Context(), w); err != nil { // its end is missing: nobody takes it for whole
				s.c.Logger.Error("save state", "operator", actor(r.Context()), "err", err)
			}
		}}, nil
	})
}
