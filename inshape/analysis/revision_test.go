package analysis

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"inshape/frame"
	"inshape/frame/frametest"
	"inshape/material"
	"inshape/mesh"
	"inshape/printability"
)

func revisions(t *testing.T, c *frametest.Client, id string) []Revision {
	t.Helper()
	var list frame.List[Revision]
	c.Get(modelsPath + "/" + id + "/revisions").Want(200).Into(&list)
	return list.Items
}

func TestOpenFileIsRepaired(t *testing.T) {
	c := frametest.Start(t, Module()).As(frametest.Customer("pty_a"))
	open := block()
	open.Facets = open.Facets[:len(open.Facets)-1]
	m := bring(t, c, "open.stl", "millimeter", stl(t, open))
	list := revisions(t, c, m.ID)
	if len(list) != 2 || m.Current != 2 {
		t.Fatalf("%d revisions, the current one is %d", len(list), m.Current)
	}
	before, after := list[0].Report, list[1].Report
	if before.Facts.Solid || before.Surface.OpenEdges != 3 || !after.Facts.Solid || after.Surface.OpenEdges != 0 {
		t.Errorf("before %+v, after %+v", before.Surface, after.Surface)
	}
	if list[1].Operation.Kind != Repair || len(after.Actions) == 0 || math.Abs(after.Facts.Volume-24000) > 0.01 {
		t.Errorf("%s: %v, %g mm³", list[1].Operation.Kind, after.Actions, after.Facts.Volume)
	}
	// What is no solid has no price, what was made of it has one.
	order := fmt.Sprintf(`{"model":%q,"revision":%%d,"material":"pa12-sls","quantity":1}`, m.ID)
	c.Post("/api/analysis/prices", fmt.Sprintf(order, 1)).Refused(409, "not-solid")
	c.Post("/api/analysis/prices", fmt.Sprintf(order, 2)).Want(200)
}

func TestSoundFileIsLeftAlone(t *testing.T) {
	c := frametest.Start(t, Module()).As(frametest.Customer("pty_a"))
	data := stl(t, ball(20, 24))
	m := bring(t, c, "ball.stl", "millimeter", data)
	if n := len(revisions(t, c, m.ID)); n != 1 {
		t.Errorf("%d revisions", n)
	}
	if got := c.Get(modelsPath + "/" + m.ID + "/revisions/1/file").Want(200).Body; string(got) != string(data) {
		t.Error("the file is not what was sent")
	}
	// Asked for, the repair says that there is nothing to do.
	c.Post(modelsPath+"/"+m.ID+"/revisions", `{"kind":"repair"}`).Want(201)
	wait(t, c, m.ID)
	if r := revisions(t, c, m.ID)[1]; r.State != Refused || r.Problem.Code != "already-sound" {
		t.Errorf("%s: %+v", r.State, r.Problem)
	}
}

func TestOverlappingBodiesAreUnited(t *testing.T) {
	c := frametest.Start(t, Module()).As(frametest.Customer("pty_a"))
	two := block()
	two.Append(box(mesh.Vec{20, 10, 5}, 40, 10, 10))
	m := bring(t, c, "two.stl", "millimeter", stl(t, two))
	if k := m.Revision.Operation.Kind; k != Union || m.Revision.Report == nil {
		t.Fatalf("the current revision is %s, %s: %+v", k, m.Revision.State, m.Revision.Problem)
	}
	if v := m.Revision.Report.Facts.Volume; math.Abs(v-26000) > 0.1 {
		t.Errorf("%g mm³, want 26000", v)
	}
}

func TestChanges(t *testing.T) {
	c := frametest.Start(t, Module()).As(frametest.Customer("pty_a"))
	m := bring(t, c, "part.stl", "millimeter", stl(t, box(mesh.Vec{}, 60, 20, 40)))
	for _, want := range []struct {
		body   string
		volume float64 // 0: as of the file
		box    [3]float64
	}{
		{`{"source":1,"kind":"scale","factor":0.5}`, 6000, [3]float64{30, 10, 20}},
		{`{"source":1,"kind":"unit","unit":"centimeter"}`, 48e6, [3]float64{600, 200, 400}},
		{`{"source":1,"kind":"hollow","wall":3,"hole":4}`, 0, [3]float64{60, 20, 40}},
		{`{"source":1,"kind":"orient","process":"FDM"}`, 48000, [3]float64{60, 40, 20}},
	} {
		c.Post(modelsPath+"/"+m.ID+"/revisions", want.body).Want(201)
		m = wait(t, c, m.ID)
		r := m.Revision
		if r.Report == nil || r.Number == 1 {
			list := revisions(t, c, m.ID)
			t.Errorf("%s: %+v", want.body, list[len(list)-1].Problem)
			continue
		}
		f := r.Report.Facts
		switch {
		case want.volume > 0 && math.Abs(f.Volume/want.volume-1) > 1e-6:
			t.Errorf("%s: %g mm³, want %g", want.body, f.Volume, want.volume)
		case want.volume == 0 && (f.Volume > 40000 || !f.Solid):
			t.Errorf("%s: %g mm³, solid %v", want.body, f.Volume, f.Solid)
		}
		for k, x := range f.Box {
			if math.Abs(x-want.box[k]) > 1e-3 {
				t.Errorf("%s: %v, want %v", want.body, f.Box, want.box)
			}
		}
		for _, format := range []string{"stl", "3mf"} {
			data := c.Get(fmt.Sprintf("%s/%s/revisions/%d/file?format=%s", modelsPath, m.ID, r.Number, format)).Want(200).Body
			again, err := mesh.Parse(data, mesh.Options{Unit: mesh.Millimetre})
			if err != nil || math.Abs(mesh.Measure(again.Mesh).Volume/f.Volume-1) > 1e-4 {
				t.Errorf("%s as %s: %v", want.body, format, err)
			}
		}
	}
	if r := revisions(t, c, m.ID); r[2].Report.Unit != mesh.Centimetre || r[0].Report.Unit != mesh.Millimetre {
		t.Errorf("units %s and %s", r[0].Report.Unit, r[2].Report.Unit)
	}
	for body, code := range map[string]string{
		`{"kind":"scale"}`:                   "invalid",
		`{"kind":"scale","factor":5000}`:     "invalid",
		`{"kind":"hollow","wall":-1}`:        "invalid",
		`{"kind":"orient"}`:                  "invalid",
		`{"kind":"original"}`:                "invalid",
		`{"kind":"melt"}`:                    "invalid",
		`{"kind":"unit","unit":"parsec"}`:    "invalid",
		`{"kind":"scale","factor":"much"}`:   "invalid",
		`{"source":99,"kind":"repair"}`:      "not-found",
		`{"kind":"repair","unknown":"here"}`: "invalid",
	} {
		status := 422
		if code == "not-found" {
			status = 404
		}
		c.Post(modelsPath+"/"+m.ID+"/revisions", body).Refused(status, code)
	}
	// A wall that leaves no room is refused by the kernel, with its code.
	c.Post(modelsPath+"/"+m.ID+"/revisions", `{"source":1,"kind":"hollow","wall":15}`).Want(201)
	wait(t, c, m.ID)
	list := revisions(t, c, m.ID)
	if r := list[len(list)-1]; r.State != Refused || r.Problem.Code != string(mesh.NothingToHollow) {
		t.Errorf("%s: %+v", r.State, r.Problem)
	}
}

func TestMissingUnitIsAskedFor(t *testing.T) {
	c := frametest.Start(t, Module()).As(frametest.Customer("pty_a"))
	m := bring(t, c, "inches.stl", "", stl(t, box(mesh.Vec{}, 1.5, 1, 1)))
	if m.Revision.State != Asking || m.Revision.Problem.Code != string(mesh.MissingUnit) || m.Revision.UnitGuess != mesh.Inch {
		t.Fatalf("%s, %+v, guess %q", m.Revision.State, m.Revision.Problem, m.Revision.UnitGuess)
	}
	c.Get("/analysis/models/"+m.ID).Want(200).Has("Which unit is this file in?", "inch, likely")
	c.Put(modelsPath+"/"+m.ID+"/unit", `{"unit":"furlong"}`).Refused(422, "invalid")
	c.Put(modelsPath+"/"+m.ID+"/unit", `{"unit":"inch"}`).Want(200)
	m = wait(t, c, m.ID)
	if m.Revision.State != Done || math.Abs(m.Revision.Report.Facts.Box[0]-38.1) > 1e-3 {
		t.Errorf("%s, %+v", m.Revision.State, m.Revision.Report)
	}
	c.Put(modelsPath+"/"+m.ID+"/unit", `{"unit":"inch"}`).Refused(409, "conflict")
}

// A file that is read in the wrong unit is small beyond measure: that must cost
// nothing, and is told.
func TestWrongUnitCostsNothing(t *testing.T) {
	r, err := Analyse(t.Context(), Input{Name: "metres.stl", Data: stl(t, ball(0.02, 160)), Unit: mesh.Millimetre, Materials: material.Default()}, nil, func(s Step) {
		if s.Name == Thickness && s.State != StepSkipped {
			t.Errorf("the walls: %s, %s", s.State, s.Detail)
		}
	})
	if err != nil || r.Report.Facts.UnitGuess != mesh.Metre {
		t.Errorf("guess %q, %v", r.Report.Facts.UnitGuess, err)
	}
}

func TestSharedPicture(t *testing.T) {
	m := frametest.Start(t, Module())
	c, nobody := m.As(frametest.Customer("pty_a")), m.As(frame.Identity{})
	model := bring(t, c, "part.stl", "millimeter", stl(t, block()))
	var s Share
	c.Post(modelsPath+"/"+model.ID+"/revisions/1/shares", `{"days":3}`).Want(201).Into(&s)
	page := nobody.Get(s.Link).Want(200).Has("part.stl")
	if strings.Contains(string(page.Body), "/api/analysis") {
		t.Error("the page leads to the geometry")
	}
	picture := nobody.Get(s.Link + "/picture.png").Want(200)
	if full := c.Get(modelsPath + "/" + model.ID + "/revisions/1/picture.png").Want(200); string(full.Body) == string(picture.Body) {
		t.Error("the picture is the full one")
	}
	nobody.Get("/analysis/shared/" + strings.Repeat("A", 32)).Want(404)
	nobody.Get(modelsPath+"/"+model.ID+"/revisions/1/preview").Refused(401, "unauthorized")
	// One that has expired leads nowhere.
	err := m.Server.Store.Update(t.Context(), func(tx *frame.Tx) error {
		_, err := tx.Exec("UPDATE share SET expires = '2020-01-01T00:00:00.000000Z'")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	nobody.Get(s.Link).Want(404)
	nobody.Get(s.Link + "/picture.png").Want(404)
}

// A hollow ball is refused for what its holes let out, material by material.
func TestCavitiesBehindNarrowHoles(t *testing.T) {
	for _, c := range []struct {
		hole    float64
		trapped bool
	}{{0, true}, {1.5, true}, {5, false}} {
		h, err := mesh.Hollow(t.Context(), ball(15, 48), mesh.HollowOptions{Wall: 3, HoleDiameter: c.hole, Holes: 1})
		if err != nil {
			t.Fatal(err)
		}
		r, err := Analyse(t.Context(), Input{Name: "ball.stl", Data: stl(t, h.Mesh), Unit: mesh.Millimetre, Materials: material.Default()}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, v := range printability.Matrix(&r.Report.Facts, material.Default()) {
			for _, f := range v.Findings {
				found = found || f.Code == printability.Trapped
			}
		}
		if found != c.trapped {
			t.Errorf("with a hole of %g mm: trapped is %v, want %v (%+v)", c.hole, found, c.trapped, r.Report.Facts.Cavities)
		}
	}
}

// Of two rooms behind each other, the outer way is wide enough for steel and not
// for nylon, the inner one for nobody: each material tells of what stays in it.
func TestCavitiesBehindEachOther(t *testing.T) {
	solid := box(mesh.Vec{0, 0, 0}, 40, 20, 20)
	for _, hole := range []*mesh.Mesh{
		box(mesh.Vec{3, 3, 3}, 15, 14, 14), box(mesh.Vec{22, 3, 3}, 15, 14, 14),
		box(mesh.Vec{17, 9.25, 9.25}, 6, 1.5, 1.5), // from room to room
		box(mesh.Vec{-1, 8.2, 8.2}, 5, 3.6, 3.6),   // from outside into the first
	} {
		solid.Append(hole)
		for f := len(solid.Facets) - len(hole.Facets); f < len(solid.Facets); f++ {
			solid.Facets[f][1], solid.Facets[f][2] = solid.Facets[f][2], solid.Facets[f][1]
		}
	}
	// Union keeps what is inside more often than outside: a wall minus its holes.
	u, err := mesh.Union(t.Context(), solid, mesh.UnionOptions{})
	if err != nil || !mesh.Analyse(u.Mesh).Solid() {
		t.Fatalf("%v, %+v", err, u)
	}
	r, err := Analyse(t.Context(), Input{Name: "rooms.stl", Data: stl(t, u.Mesh), Unit: mesh.Millimetre, Materials: material.Default()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[material.ID]float64{"pa12-sls": 5376, "resin-standard": 2779, "steel-316l": 2828} // within a tenth: what the grid sees
	for _, v := range printability.Matrix(&r.Report.Facts, material.Default()) {
		volume := 0.0
		for _, f := range v.Findings {
			if f.Code == printability.Trapped {
				volume = f.Measured
			}
		}
		if w, ok := want[v.Material]; ok && math.Abs(volume-w) > w/10 {
			t.Errorf("%s: %g mm³ are trapped, want about %g (%+v)", v.Material, volume, w, r.Report.Facts.Cavities)
		}
	}
}
