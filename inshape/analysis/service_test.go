package analysis

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"testing"

	"inshape/frame"
	"inshape/frame/frametest"
	"inshape/mesh"
)

// TestMain lets the test binary be the module's program: a worker, or the whole
// service for tests that kill it.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "work", os.Getenv("INSHAPE_TEST_SERVES") != "":
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// box is a block of the given sides with a corner at a place.
func box(at mesh.Vec, x, y, z float64) *mesh.Mesh {
	m := &mesh.Mesh{}
	for i := range 8 {
		m.Vertices = append(m.Vertices, at.Add(mesh.Vec{float64(i&1) * x, float64(i>>1&1) * y, float64(i>>2) * z}))
	}
	for _, q := range [][4]int32{{0, 2, 3, 1}, {4, 5, 7, 6}, {0, 1, 5, 4}, {2, 6, 7, 3}, {0, 4, 6, 2}, {1, 3, 7, 5}} {
		m.Facets = append(m.Facets, mesh.Facet{q[0], q[1], q[2]}, mesh.Facet{q[0], q[2], q[3]})
	}
	return m
}

// block is a box that every material can make.
func block() *mesh.Mesh { return box(mesh.Vec{}, 40, 30, 20) }

// ball has 2·n·(n-1) facets.
func ball(radius float64, n int) *mesh.Mesh {
	m := &mesh.Mesh{Vertices: []mesh.Vec{{0, 0, -radius}}}
	for i := 1; i < n; i++ {
		lat := math.Pi * (float64(i)/float64(n) - 0.5)
		for j := range n {
			lon := 2 * math.Pi * float64(j) / float64(n)
			m.Vertices = append(m.Vertices, mesh.Vec{radius * math.Cos(lat) * math.Cos(lon), radius * math.Cos(lat) * math.Sin(lon), radius * math.Sin(lat)})
		}
	}
	top := int32(len(m.Vertices))
	m.Vertices = append(m.Vertices, mesh.Vec{0, 0, radius})
	at := func(i, j int) int32 { return int32(1 + (i-1)*n + j%n) }
	for j := range n {
		m.Facets = append(m.Facets, mesh.Facet{0, at(1, j+1), at(1, j)}, mesh.Facet{top, at(n-1, j), at(n-1, j+1)})
		for i := 1; i < n-1; i++ {
			m.Facets = append(m.Facets, mesh.Facet{at(i, j), at(i, j+1), at(i+1, j+1)}, mesh.Facet{at(i, j), at(i+1, j+1), at(i+1, j)})
		}
	}
	return m
}

func stl(t testing.TB, m *mesh.Mesh) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := mesh.WriteSTL(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const modelsPath = "/api/analysis/models"

// bring uploads a file and waits until nothing of it is under way.
func bring(t testing.TB, c *frametest.Client, name, unit string, data []byte) Model {
	t.Helper()
	var m Model
	c.With("Content-Type", "application/octet-stream").Post(modelsPath+"?name="+name+"&unit="+unit, data).Want(201).Into(&m)
	return wait(t, c, m.ID)
}

func wait(t testing.TB, c *frametest.Client, id string) Model {
	t.Helper()
	var m Model
	for range 3 {
		c.Get(modelsPath + "/" + id + "?wait=30").Want(200).Into(&m)
		if !m.Busy {
			return m
		}
	}
	t.Fatalf("%s is still under way", id)
	return m
}

func TestFromFileToAcceptedQuote(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	model := bring(t, c, "block.stl", "millimeter", stl(t, block()))
	if model.Revision.State != Done {
		t.Fatalf("the analysis is %s: %v", model.Revision.State, model.Revision.Problem)
	}
	r := model.Revision.Report
	if math.Abs(r.Facts.Volume-24000) > 0.01 || !r.Facts.Solid {
		t.Errorf("volume %g, solid %v", r.Facts.Volume, r.Facts.Solid)
	}
	var steps frame.List[StepTimes]
	c.Get(modelsPath + "/" + model.ID + "/revisions/1/steps").Want(200).Into(&steps)
	for _, s := range steps.Items {
		if s.State != StepDone || s.Began == nil || s.Ended == nil {
			t.Errorf("step %+v", s)
		}
	}
	var verdicts frame.List[struct {
		Material, Verdict string
		Accepted          bool
	}]
	c.Get(modelsPath + "/" + model.ID + "/revisions/1/verdicts").Want(200).Into(&verdicts)
	if len(verdicts.Items) < 5 || verdicts.Items[0].Verdict != "printable" {
		t.Fatalf("verdicts: %+v", verdicts.Items)
	}
	var q Quote
	c.Post("/api/analysis/quotes", fmt.Sprintf(`{"items":[{"model":%q,"material":"pa12-sls","quantity":10}]}`, model.ID)).Want(201).Into(&q)
	c.Post("/api/analysis/quotes/"+q.ID+"/accept", nil).Want(200).Into(&q)
	if q.State != Accepted {
		t.Errorf("the quote is %s", q.State)
	}
	c.Get(modelsPath + "/" + model.ID + "/revisions/1/verdicts").Want(200).Into(&verdicts)
	for _, v := range verdicts.Items {
		if v.Accepted != (v.Material == "pa12-sls") {
			t.Errorf("%s accepted: %v", v.Material, v.Accepted)
		}
	}
	var events frame.List[frame.Event]
	m.As(frametest.Staff).Get("/api/analysis/events").Want(200).Into(&events)
	var kinds []string
	for _, e := range events.Items {
		kinds = append(kinds, e.Type)
		if e.Party != "pty_a" {
			t.Errorf("%s is of party %q", e.Type, e.Party)
		}
	}
	if got, want := fmt.Sprint(kinds), "[model.created analysis.finished quote.created verdict.accepted quote.accepted]"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	for page, text := range map[string]string{
		"/analysis/": "block.stl", "/analysis/card": "block.stl", "/analysis/models/" + model.ID: "Verdicts",
		"/analysis/quotes": "block.stl", "/analysis/quotes/" + q.ID: q.Total.String(),
	} {
		c.Get(page).Want(200).Has(text)
	}
}

func TestOthersSeeNothing(t *testing.T) {
	m := frametest.Start(t, Module())
	owner, other, staff := m.As(frametest.Customer("pty_a")), m.As(frametest.Customer("pty_b")), m.As(frametest.Staff)
	model := bring(t, owner, "secret.stl", "millimeter", stl(t, block()))
	var q Quote
	order := fmt.Sprintf(`{"items":[{"model":%q,"material":"pa12-sls","quantity":1}]}`, model.ID)
	owner.Post("/api/analysis/quotes", order).Want(201).Into(&q)
	one := modelsPath + "/" + model.ID
	for _, ask := range []struct{ method, path, body string }{
		{"GET", one, ""},
		{"PATCH", one, `{"name":"mine"}`},
		{"DELETE", one, ""},
		{"PUT", one + "/unit", `{"unit":"inch"}`},
		{"GET", one + "/revisions", ""},
		{"POST", one + "/revisions", `{"kind":"repair"}`},
		{"GET", one + "/revisions/1", ""},
		{"GET", one + "/revisions/1/steps", ""},
		{"GET", one + "/revisions/1/verdicts", ""},
		{"GET", one + "/revisions/1/findings", ""},
		{"GET", one + "/revisions/1/picture.png", ""},
		{"GET", one + "/revisions/1/preview", ""},
		{"GET", one + "/revisions/1/file", ""},
		{"POST", one + "/revisions/1/cancel", ""},
		{"POST", one + "/revisions/1/retry", ""},
		{"POST", one + "/revisions/1/shares", `{"days":3}`},
		{"POST", "/api/analysis/prices", fmt.Sprintf(`{"model":%q,"material":"pa12-sls","quantity":1}`, model.ID)},
		{"POST", "/api/analysis/quotes", order},
		{"GET", "/api/analysis/quotes/" + q.ID, ""},
		{"POST", "/api/analysis/quotes/" + q.ID + "/accept", ""},
		{"POST", "/api/analysis/quotes/" + q.ID + "/refuse", ""},
	} {
		var body any
		if ask.body != "" {
			body = ask.body
		}
		other.Do(ask.method, ask.path, body).Refused(404, "not-found")
	}
	for _, page := range []string{"/analysis/models/" + model.ID, "/analysis/models/" + model.ID + "/progress", "/analysis/quotes/" + q.ID} {
		other.Get(page).Want(404)
	}
	for who, want := range map[*frametest.Client]int{owner: 1, other: 0, staff: 1} {
		var models frame.List[Model]
		var quotes frame.List[Quote]
		who.Get(modelsPath).Want(200).Into(&models)
		who.Get("/api/analysis/quotes").Want(200).Into(&quotes)
		if len(models.Items) != want || len(quotes.Items) != want {
			t.Errorf("%d models and %d quotes, want %d of each", len(models.Items), len(quotes.Items), want)
		}
	}
	// The party of another is not to be chosen, and one without a party has nothing.
	other.Post(modelsPath+"?name=a.stl&party=pty_a", stl(t, block())).Refused(403, "forbidden")
	m.As(frametest.Customer("")).Post(modelsPath+"?name=a.stl", stl(t, block())).Refused(403, "forbidden")
	m.As(frame.Identity{}).Get(modelsPath).Refused(401, "unauthorized")
}

func TestDeletedModelIsGone(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	model := bring(t, c, "gone.stl", "millimeter", stl(t, block()))
	c.With("If-Match", `"v999"`).Delete(modelsPath+"/"+model.ID).Refused(412, "changed-meanwhile")
	c.Delete(modelsPath + "/" + model.ID).Want(204)
	c.Get(modelsPath+"/"+model.ID).Refused(404, "not-found")
	if _, err := os.Stat(m.Server.Config.File("models", model.ID)); !os.IsNotExist(err) {
		t.Errorf("its files: %v", err)
	}
}
