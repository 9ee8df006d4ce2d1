package analysis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"inshape/material"
	"inshape/mesh"
	"inshape/printability"
)

// StepName names a step of an analysis.
type StepName string

// The steps, in their order. The first one is Read for a file that came from
// outside and Make for a revision that is made of another one.
const (
	Read         StepName = "read"
	Make         StepName = "make"
	Topology     StepName = "topology"
	Thickness    StepName = "thickness"
	Cavities     StepName = "cavities"
	Orientation  StepName = "orientation"
	Pictures     StepName = "pictures"
	Printability StepName = "printability"
)

// steps are the steps of an analysis that begins with first.
func steps(first StepName) []StepName {
	return []StepName{first, Topology, Thickness, Cavities, Orientation, Pictures, Printability}
}

// StepState is how far a step is.
type StepState string

// The states of a step.
const (
	StepWaiting StepState = "waiting"
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepSkipped StepState = "skipped"
	StepFailed  StepState = "failed"
)

// Step is the state of one step.
type Step struct {
	Name   StepName  `json:"name"`
	State  StepState `json:"state"`
	Detail string    `json:"detail,omitempty" doc:"What came of it, in one line"`
}

// Input is what is analysed: a file with its name, or an operation on the mesh
// of another revision.
type Input struct {
	Name string    // of the file: its extension is its format
	Data []byte    // of the file
	Unit mesh.Unit // of lengths in a file that has none, and of the mesh otherwise

	Mesh      *mesh.Mesh // of the revision that Operation is applied to; nil for a file
	Operation Operation

	Materials *material.Set
	MaxBytes  int64  // of the file; 0: the kernel's limit
	Mark      string // written across the guarded picture, such as the shop's name
}

// Result is all that is known of a revision.
type Result struct {
	Mesh    *mesh.Mesh // welded, mm
	Widths  []float64  // of every facet's wall, mm; nil if it was not measured
	Report  Report
	Picture []byte // PNG
	Guarded []byte // PNG: small and marked, for those who may not have the geometry
	Preview []byte // for the viewer: see preview.go
}

// Report is what is kept of an analysis as data.
type Report struct {
	Format   mesh.Format        `json:"format,omitempty" doc:"Of the file; empty for a revision that was made here"`
	Unit     mesh.Unit          `json:"unit" doc:"That the file's lengths were read in"`
	Warnings []string           `json:"warnings" doc:"What was tolerated in the file"`
	Parts    []string           `json:"parts" doc:"Names of what the file keeps apart"`
	Actions  []Action           `json:"actions" doc:"What was done to make this revision"`
	Surface  Surface            `json:"surface"`
	Box      [2]mesh.Vec        `json:"box" doc:"Least and largest corner, mm"`
	Centre   mesh.Vec           `json:"centre" doc:"Of mass, mm"`
	Thinnest *float64           `json:"thinnest,omitempty" doc:"Thickness of the thinnest wall, mm"`
	Facts    printability.Facts `json:"facts"`
}

// Surface is the topology of a revision in numbers.
type Surface struct {
	Facets              int `json:"facets"`
	Vertices            int `json:"vertices"`
	Edges               int `json:"edges"`
	OpenEdges           int `json:"open_edges" doc:"Edges of one facet"`
	NonManifoldEdges    int `json:"non_manifold_edges" doc:"Edges of three or more facets"`
	InconsistentEdges   int `json:"inconsistent_edges" doc:"Edges whose facets disagree which side is outside"`
	NonManifoldVertices int `json:"non_manifold_vertices"`
	Degenerate          int `json:"degenerate" doc:"Facets without area"`
	Duplicate           int `json:"duplicate"`
	Shells              int `json:"shells"`
	SelfIntersections   int `json:"self_intersections" doc:"Pairs of facets that cross, counted up to 2000"`
}

// Action is one thing that was done to make a revision.
type Action struct {
	Code  string `json:"code"`
	Count int    `json:"count,omitempty"`
	Text  string `json:"text"`
}

const maxCrossings = 2000 // pairs of facets that are counted

// Analyse runs all steps, one after the other. begin is told of each before it
// starts, and end after it ended; both may be nil. What is wrong with the input is
// a *mesh.Error or a *Refusal; the context is looked at between the steps.
func Analyse(ctx context.Context, in Input, begin func(StepName), end func(Step)) (*Result, error) {
	a := &analysis{in: in, r: &Result{Report: Report{Warnings: []string{}, Parts: []string{}, Actions: []Action{}}}}
	first := Read
	if in.Mesh != nil {
		first = Make
	}
	work := map[StepName]func(context.Context) (string, error){
		Read: a.read, Make: a.make, Topology: a.topology, Thickness: a.thickness, Cavities: a.cavities,
		Orientation: a.orientation, Pictures: a.pictures, Printability: a.printability,
	}
	for _, name := range steps(first) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("analyse %s: %w", in.Name, err)
		}
		if begin != nil {
			begin(name)
		}
		detail, err := work[name](ctx)
		step := Step{Name: name, State: StepDone, Detail: detail}
		switch {
		case errors.Is(err, errSkip):
			step.State = StepSkipped
		case err != nil:
			step.State, step.Detail = StepFailed, err.Error()
		}
		if end != nil {
			end(step)
		}
		if step.State == StepFailed {
			return nil, err
		}
	}
	return a.r, nil
}

// errSkip is a step that makes no sense for this input.
var errSkip = errors.New("skipped")

// analysis is one run of Analyse.
type analysis struct {
	in        Input
	r         *Result
	topo      *mesh.Topology
	tree      *mesh.BVH // of a mesh that has facets
	crossings [][2]int32
	volumes   []float64 // of every shell
	defects   []defect
}

func (a *analysis) read(context.Context) (string, error) {
	model, err := mesh.Parse(a.in.Data, mesh.Options{Format: mesh.FormatOf(a.in.Name), Unit: a.in.Unit, MaxBytes: a.in.MaxBytes})
	if err != nil {
		return "", err
	}
	a.in.Data = nil // it is as large as the mesh
	a.r.Mesh = model.Mesh
	a.r.Report.Format, a.r.Report.Unit = model.Format, model.Unit
	a.r.Report.Warnings = append(a.r.Report.Warnings, model.Warnings...)
	for _, p := range model.Parts[:min(len(model.Parts), 100)] {
		a.r.Report.Parts = append(a.r.Report.Parts, p.Name)
	}
	return fmt.Sprintf("%s, %s, in %ss", model.Format, count(len(model.Mesh.Facets), "facet"), model.Unit), nil
}

func (a *analysis) make(ctx context.Context) (string, error) {
	made, actions, err := a.in.Operation.apply(ctx, a.in.Mesh, a.in.Unit)
	if err != nil {
		return "", err
	}
	a.in.Mesh = nil
	a.r.Mesh, a.r.Report.Actions, a.r.Report.Unit = made, actions, a.in.Unit
	if a.in.Operation.Kind == ReadUnit {
		a.r.Report.Unit = a.in.Operation.Unit
	}
	detail := ""
	for i, action := range actions {
		if i > 0 {
			detail += "; "
		}
		detail += action.Text
	}
	return detail, nil
}

func (a *analysis) topology(context.Context) (string, error) {
	m := a.r.Mesh
	m.Weld(0)
	t := mesh.Analyse(m)
	a.topo, a.tree = t, mesh.NewBVH(m)
	a.crossings = a.tree.SelfIntersections(maxCrossings)
	a.volumes = shellVolumes(m, t)
	measured := mesh.Measure(m)
	r := &a.r.Report
	r.Surface = Surface{
		Facets: t.Facets, Vertices: len(m.Vertices), Edges: t.Edges, OpenEdges: t.BoundaryEdges, NonManifoldEdges: t.NonManifoldEdges,
		InconsistentEdges: t.InconsistentEdges, NonManifoldVertices: t.NonManifoldVertices,
		Degenerate: t.Degenerate, Duplicate: t.Duplicate, Shells: t.Shells, SelfIntersections: len(a.crossings),
	}
	r.Box, r.Centre = [2]mesh.Vec{measured.Bounds.Min, measured.Bounds.Max}, measured.Centre
	f := &r.Facts
	f.Volume, f.Area = measured.Volume, measured.Area
	f.Box = [3]float64(measured.Bounds.Size())
	f.Facets, f.Intersections = t.Facets, len(a.crossings)
	f.Open = t.BoundaryEdges + t.NonManifoldEdges + t.InconsistentEdges
	f.Unit = r.Unit
	if a.in.Operation.Kind == "" && (r.Format == mesh.STL || r.Format == mesh.OBJ) {
		mm, _ := r.Unit.Millimetres()
		f.UnitGuess = mesh.GuessUnit(max(f.Box[0], f.Box[1], f.Box[2]) / mm)
	}
	for _, v := range a.volumes {
		if v >= 0 {
			f.Shells++
		}
	}
	f.Solid = t.Solid() && measured.Volume > 0
	if !f.Solid {
		f.Reason = reason(r.Surface)
	}
	for _, pair := range a.crossings[:min(len(a.crossings), 16)] {
		p, q, s := m.Corners(int(pair[0]))
		f.Crossings = append(f.Crossings, printability.Place{At: p.Add(q).Add(s).Mul(1. / 3), Facet: pair[0]})
	}
	a.defects = findDefects(m, t, a.crossings)
	if f.Solid {
		return fmt.Sprintf("a solid of %s, %.4g cm³", count(f.Shells, "shell"), f.Volume/1000), nil
	}
	return "no solid: " + f.Reason, nil
}

// reason says in one line why a surface bounds no solid.
func reason(s Surface) string {
	switch {
	case s.OpenEdges > 0:
		return count(s.OpenEdges, "edge") + " open: the surface has holes"
	case s.NonManifoldEdges > 0:
		return count(s.NonManifoldEdges, "edge") + " with more than two facets"
	case s.InconsistentEdges > 0:
		return count(s.InconsistentEdges, "edge") + " whose facets disagree which side is outside"
	case s.Duplicate > 0:
		return count(s.Duplicate, "facet") + " on top of others"
	}
	return "it is inside out, or encloses nothing"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// shellVolumes are the signed volumes of the shells of a mesh: a shell that
// bounds a cavity has a negative one.
func shellVolumes(m *mesh.Mesh, t *mesh.Topology) []float64 {
	volumes := make([]float64, t.Shells)
	box := m.Bounds()
	middle := box.Min.Add(box.Max).Mul(0.5)
	for f, shell := range t.Shell {
		if shell >= 0 {
			p, q, r := m.Corners(f)
			volumes[shell] += p.Sub(middle).Dot(q.Sub(middle).Cross(r.Sub(middle))) / 6
		}
	}
	return volumes
}

// thickness measures walls and gaps: as wide as they matter in any material.
func (a *analysis) thickness(ctx context.Context) (string, error) {
	f := &a.r.Report.Facts
	if !f.Solid {
		return "only a solid has walls", errSkip
	}
	var wall, gap float64
	for _, m := range a.in.Materials.Materials {
		wall, gap = max(wall, m.Wall.Unsupported), max(gap, m.Clearance)
	}
	if largest := max(f.Box[0], f.Box[1], f.Box[2]); largest < 2*wall {
		// As when it was read in the wrong unit: every point would be as near to all facets.
		return fmt.Sprintf("it is %.3g mm long, which is less than the walls that count", largest), errSkip
	}
	walls, err := a.tree.Thickness(ctx, mesh.WidthOptions{Limit: wall, Reach: max(5, 3*wall), Samples: maxSamples, Places: maxPlaces})
	if err != nil {
		return "", err
	}
	gaps, err := a.tree.Clearance(ctx, mesh.WidthOptions{Limit: gap, Reach: gap, Samples: maxSamples, Places: maxPlaces})
	if err != nil {
		return "", err
	}
	a.r.Widths = walls.Facets
	f.Thickness = thin(a.r.Mesh, walls, wall, f.Area)
	for _, p := range gaps.Places {
		f.Gaps = append(f.Gaps, printability.Place{At: p.At, Facet: p.Facet, Value: p.Width})
	}
	if len(f.Thickness.Places) == 0 {
		return fmt.Sprintf("no walls below %.3g mm", max(5, 3*wall)), nil
	}
	a.r.Report.Thinnest = &f.Thickness.Places[0].Value
	return fmt.Sprintf("thinnest wall %.3g mm", *a.r.Report.Thinnest), nil
}

const (
	maxPlaces  = 64     // of thin walls and narrow gaps that are kept
	maxSamples = 20_000 // of walls, and of gaps, beside the facets' middles
)

// thin sums up the widths of walls. Below limit the kernel tells walls from
// edges, which the middles of facets alone do not; a place counts if it has
// 1 mm², or a thousandth of a small part's area.
func thin(m *mesh.Mesh, w *mesh.Widths, limit, area float64) *printability.Thickness {
	t := printability.NewThickness(m, w.Facets)
	for i, share := range t.Curve {
		if float64(i+1)*printability.CurveStep <= limit {
			t.Curve[i] = min(share, 100*w.Thin)
		}
	}
	places := make([]printability.Place, 0, len(w.Places)+len(t.Places))
	for _, p := range w.Places {
		if p.Area >= min(1, area/1000) {
			places = append(places, printability.Place{At: p.At, Facet: p.Facet, Value: p.Width})
		}
	}
	for _, p := range t.Places {
		if p.Value >= limit {
			places = append(places, p)
		}
	}
	t.Places = places
	return t
}

// cavities looks for what the materials' escape holes would not let out: once
// for each hole, since behind a neck that is wide enough for one material there
// may be another that is too narrow for the next. Closed ones are the same for all.
func (a *analysis) cavities(ctx context.Context) (string, error) {
	f := &a.r.Report.Facts
	if !f.Solid {
		return "only a solid has cavities", errSkip
	}
	for _, m := range a.in.Materials.Materials {
		if m.Cavities != nil {
			f.Openings = append(f.Openings, m.Cavities.Hole)
		}
	}
	slices.Sort(f.Openings)
	f.Openings = slices.Compact(f.Openings)
	closed := 0
	for i, opening := range f.Openings {
		trapped, err := mesh.TrappedVolumes(ctx, a.r.Mesh, mesh.TrappedOptions{Opening: opening})
		if err != nil {
			return "", err
		}
		for _, p := range trapped.Pockets {
			switch {
			case !p.Closed:
				f.Cavities = append(f.Cavities, printability.Cavity{At: p.At, Volume: p.Volume, Neck: p.Neck, Opening: opening})
			case i == 0:
				f.Cavities = append(f.Cavities, printability.Cavity{At: p.At, Volume: p.Volume})
				closed++
			}
		}
	}
	switch open := len(f.Cavities) > closed; {
	case open:
		return fmt.Sprintf("%d closed, others with narrow ways out", closed), nil
	case closed == 0:
		return "none", nil
	}
	return count(closed, "closed room"), nil
}

// orientation measures what depends on how the part lies: the smallest box in
// any direction, and what hangs over as it lies now.
func (a *analysis) orientation(context.Context) (string, error) {
	f := &a.r.Report.Facts
	box := mesh.OrientedBounds(a.r.Mesh)
	f.OrientedBox = [3]float64(box.Size)
	if !f.Solid {
		return "only a solid has overhangs", errSkip
	}
	var angles []float64
	for _, m := range a.in.Materials.Materials {
		if m.Supports != nil && !slices.Contains(angles, m.Supports.Angle) {
			angles = append(angles, m.Supports.Angle)
		}
	}
	slices.Sort(angles)
	for _, angle := range angles {
		f.Overhangs = append(f.Overhangs, overhang(a.r.Mesh, angle))
	}
	return fmt.Sprintf("smallest box %.4g × %.4g × %.4g mm", box.Size[0], box.Size[1], box.Size[2]), nil
}

// overhang sums up the facets that look down by more than angle degrees from the
// vertical, those on the plate apart, and the room below them.
func overhang(m *mesh.Mesh, angle float64) printability.Overhang {
	up, limit := mesh.Vec{0, 0, 1}, angle*math.Pi/180
	o := printability.Overhang{Angle: angle, Area: m.OverhangArea(up, limit)}
	if o.Area == 0 {
		return o
	}
	o.Volume = m.SupportVolume(up, limit, 0).Volume
	// The place to show is the largest facet of it.
	const onPlate = 0.01 // mm
	floor, steep, largest := m.Bounds().Min[2], -math.Sin(limit), 0.0
	for f := range m.Facets {
		p, q, r := m.Corners(f)
		n := q.Sub(p).Cross(r.Sub(p))
		if l := n.Len(); l > largest && n[2] < steep*l && max(p[2], q[2], r[2]) > floor+onPlate {
			largest, o.At = l, p.Add(q).Add(r).Mul(1./3)
		}
	}
	return o
}

func (a *analysis) pictures(context.Context) (string, error) {
	a.r.Preview = encodePreview(a.r.Mesh, a.tree, a.r.Widths, a.defects)
	var large, small bytes.Buffer
	if err := picture(a.defects).PNG(&large, a.r.Mesh); err != nil {
		return "", err
	}
	if err := guarded(a.in.Mark).PNG(&small, a.r.Mesh); err != nil {
		return "", err
	}
	a.r.Picture, a.r.Guarded = large.Bytes(), small.Bytes()
	return "", nil
}

func (a *analysis) printability(context.Context) (string, error) {
	fit := 0
	verdicts := printability.Matrix(&a.r.Report.Facts, a.in.Materials)
	for _, v := range verdicts {
		if v.Outcome != printability.NotPrintable {
			fit++
		}
	}
	return fmt.Sprintf("%d of %s fit", fit, count(len(verdicts), "material")), nil
}
