package frametest

import (
	"net/http"
	"testing"
	"testing/fstest"

	"inshape/frame"
)

func TestModuleServesWhoIsKnown(t *testing.T) {
	page := fstest.MapFS{"hello.html": {Data: []byte(`{{define "main"}}<h1>Hello {{.Who.Name}}</h1>{{end}}`)}}
	m := Start(t, frame.Module{Name: "greeter", Title: "Greeter", Pages: page, Set: func(s *frame.Server) error {
		s.Page("GET /greeter/{$}", func(w http.ResponseWriter, r *http.Request) error {
			return s.Render(w, r, http.StatusOK, "hello.html", "Hello", nil)
		})
		return nil
	}})
	m.As(Customer("pty_a")).Get("/greeter/").Want(200).Has("Hello Cleo Customer", "<title>Hello")
	m.As(frame.Identity{}).Get("/api/greeter/audit").Refused(401, "unauthorized")
	m.As(Customer("pty_a")).Get("/api/greeter/audit").Refused(403, "forbidden")
	m.As(Staff).Get("/api/greeter/audit").Want(200)
	m.As(Staff).Get("/api/greeter/nothing").Refused(404, "not-found")
}
