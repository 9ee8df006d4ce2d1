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

// TestMain lets the test binary be its own worker, as the module's program is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "work" {
		os.Exit(Work(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// box is a block of the given sides with a corner in the origin.
func box(x, y, z float64) *mesh.Mesh {
	m := &mesh.Mesh{}
	for i := range 8 {
		m.Vertices = append(m.Vertices, mesh.Vec{float64(i&1) * x, float64(i>>1&1) * y, float64(i>>2) * z})
	}
	for _, q := range [][4]int32{{0, 2, 3, 1}, {4, 5, 7, 6}, {0, 1, 5, 4}, {2, 6, 7, 3}, {0, 4, 6, 2}, {1, 3, 7, 5}} {
		m.Facets = append(m.Facets, mesh.Facet{q[0], q[1], q[2]}, mesh.Facet{q[0], q[2], q[3]})
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
	model := bring(t, c, "block.stl", "millimeter", stl(t, box(40, 30, 20)))
	if model.Revision.State != Done {
		t.Fatalf("the analysis is %s: %v", model.Revision.State, model.Revision.Problem)
	}
	r := model.Revision.Report
	if math.Abs(r.Facts.Volume-24000) > 0.01 || !r.Facts.Solid {
		t.Errorf("volume %g, solid %v", r.Facts.Volume, r.Facts.Solid)
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
	for _, page := range []string{"/analysis/", "/analysis/card", "/analysis/models/" + model.ID, "/analysis/quotes", "/analysis/quotes/" + q.ID} {
		c.Get(page).Want(200)
	}
}
