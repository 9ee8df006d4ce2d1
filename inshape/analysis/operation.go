package analysis

import (
	"context"
	"fmt"
	"math"

	"inshape/material"
	"inshape/mesh"
)

// Kind is how a revision came to be.
type Kind string

// The kinds. All but Original are made here, of an earlier revision.
const (
	Original Kind = "original" // the file as it came
	Repair   Kind = "repair"   // mended, without guessing at the shape
	Union    Kind = "union"    // bodies that overlap made one
	Hollow   Kind = "hollow"   // a wall is left, with holes for what is inside to leave
	Orient   Kind = "orient"   // turned to how it is best built
	Scale    Kind = "scale"    // larger or smaller
	ReadUnit Kind = "unit"     // the file's numbers read in another unit
)

// Operation makes a revision of another one.
type Operation struct {
	Kind   Kind      `json:"kind" enum:"repair,union,hollow,orient,scale,unit" doc:"What to do"`
	Factor float64   `json:"factor,omitempty" minimum:"0" maximum:"1000" doc:"Of scale: on all lengths"`
	Unit   mesh.Unit `json:"unit,omitempty" enum:"micron,millimeter,centimeter,meter,inch,foot" doc:"Of unit: what the file's numbers are"`
	Wall   float64   `json:"wall,omitempty" minimum:"0" maximum:"1000" doc:"Of hollow: mm that stay everywhere"`
	Hole   float64   `json:"hole,omitempty" minimum:"0" maximum:"1000" doc:"Of hollow: diameter of the escape holes, mm; none: closed cavities"`
	Holes  int       `json:"holes,omitempty" minimum:"0" maximum:"20" doc:"Of hollow: for each cavity; none: 2"`
	// Process is what a part is oriented for: what is best differs.
	Process material.Process `json:"process,omitempty" enum:"SLS,MJF,SLA,FDM,DMLS" doc:"Of orient: what it is to be made by"`
}

// Refusal is an operation that cannot be done to this part.
type Refusal struct {
	Code string // stable, for programs
	Text string // one line: why, and what to do
}

// Error gives the text.
func (r *Refusal) Error() string { return r.Text }

func refuse(code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Text: fmt.Sprintf(format, args...)}
}

// check refuses an operation with parameters that make no sense.
func (o Operation) check() error {
	switch o.Kind {
	case Repair, Union:
		return nil
	case Hollow:
		if !(o.Wall >= 0.1 && o.Wall <= 1000) || !(o.Hole >= 0 && o.Hole <= 1000) || o.Holes < 0 || o.Holes > 20 {
			return refuse("invalid", "wall: give 0.1 to 1000 mm; hole: 0 to 1000 mm; holes: 0 to 20")
		}
		return nil
	case Orient:
		if _, ok := weights[o.Process]; !ok {
			return refuse("invalid", "process: %q is none of SLS, MJF, SLA, FDM and DMLS", o.Process)
		}
		return nil
	case Scale:
		if !(o.Factor >= 0.001 && o.Factor <= 1000) {
			return refuse("invalid", "factor: %g is not from 0.001 to 1000", o.Factor)
		}
		return nil
	case ReadUnit:
		if _, ok := o.Unit.Millimetres(); !ok {
			return refuse("invalid", "unit: %q is none of micron, millimeter, centimeter, meter, inch and foot", o.Unit)
		}
		return nil
	}
	return refuse("invalid", "kind: %q is nothing that can be done to a model", o.Kind)
}

// Next is what is done by itself to a revision of a kind after its analysis: a file
// that is no solid is repaired, and bodies that overlap are made one, since what
// they have in common would be paid for twice. ok is false for nothing.
func Next(kind Kind, r *Report) (next Kind, ok bool) {
	switch {
	case kind == Original && !r.Facts.Solid:
		return Repair, true
	case (kind == Original || kind == Repair) && r.Facts.Solid && r.Surface.SelfIntersections > 0 && r.Surface.Shells > 1:
		return Union, true
	}
	return "", false
}

// apply gives the new mesh and what was done to m, which was read in unit. m may
// be used up.
func (o Operation) apply(ctx context.Context, m *mesh.Mesh, unit mesh.Unit) (*mesh.Mesh, []Action, error) {
	switch o.Kind {
	case Repair:
		return repair(m)
	case Union:
		return union(ctx, m)
	case Hollow:
		return o.hollow(ctx, m)
	case Orient:
		return o.orient(ctx, m)
	case Scale:
		return m.Transformed(mesh.Scaling(o.Factor)), []Action{{Code: "scale", Text: fmt.Sprintf("scaled by %g", o.Factor)}}, nil
	case ReadUnit:
		was, _ := unit.Millimetres()
		is, _ := o.Unit.Millimetres()
		if was == is || was == 0 {
			return nil, nil, refuse("same-unit", "it was read in %ss already", unit)
		}
		return m.Transformed(mesh.Scaling(is / was)), []Action{{Code: "unit", Text: fmt.Sprintf("read in %ss: all lengths × %.6g", o.Unit, is/was)}}, nil
	}
	return nil, nil, o.check()
}

func repair(m *mesh.Mesh) (*mesh.Mesh, []Action, error) {
	r := mesh.Repair(m, mesh.RepairOptions{})
	if !r.Solid {
		return nil, nil, refuse("not-repairable", "%s", r.Reason)
	}
	if len(r.Actions) == 0 {
		return nil, nil, refuse("already-sound", "there is nothing to repair: the part is a sound solid as it is")
	}
	actions := make([]Action, len(r.Actions))
	for i, a := range r.Actions {
		actions[i] = Action{Code: string(a.Code), Count: a.Count, Text: a.Text}
	}
	return r.Mesh, actions, nil
}

func union(ctx context.Context, m *mesh.Mesh) (*mesh.Mesh, []Action, error) {
	u, err := mesh.Union(ctx, m, mesh.UnionOptions{})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("unite bodies: %w", err)
	case u.Reason != "":
		return nil, nil, refuse("not-unitable", "%s", u.Reason)
	case !u.Changed:
		return nil, nil, refuse("nothing-to-unite", "no bodies overlap: the part is what it was")
	}
	return u.Mesh, []Action{{Code: "union", Count: len(u.Overlaps), Text: fmt.Sprintf(
		"made bodies that overlap one: %.4g cm³ are %.4g cm³ now", u.Volume[0]/1000, u.Volume[1]/1000)}}, nil
}

func (o Operation) hollow(ctx context.Context, m *mesh.Mesh) (*mesh.Mesh, []Action, error) {
	h, err := mesh.Hollow(ctx, m, mesh.HollowOptions{Wall: o.Wall, HoleDiameter: o.Hole, Holes: o.Holes})
	if err != nil {
		return nil, nil, err
	}
	actions := []Action{{Code: "hollow", Count: len(h.Voids), Text: fmt.Sprintf("hollowed: %.4g cm³ saved, walls of %.3g mm and more stay", h.Saved/1000, h.Wall)}}
	if len(h.Holes) > 0 {
		actions = append(actions, Action{Code: "holes", Count: len(h.Holes), Text: count(len(h.Holes), "escape hole") + fmt.Sprintf(" of %g mm", o.Hole)})
	}
	for _, note := range h.Notes {
		actions = append(actions, Action{Code: "note", Text: note})
	}
	return h.Mesh, actions, nil
}

// weights are what counts in the orientation for a process.
var weights = map[material.Process]func() mesh.OrientWeights{
	material.SLS: mesh.WeightsPowder, material.MJF: mesh.WeightsPowder, material.SLA: mesh.WeightsResin,
	material.FDM: mesh.WeightsFDM, material.DMLS: mesh.WeightsMetal,
}

func (o Operation) orient(ctx context.Context, m *mesh.Mesh) (*mesh.Mesh, []Action, error) {
	found, err := mesh.Orient(ctx, m, weights[o.Process](), 1)
	if err != nil {
		return nil, nil, err
	}
	if len(found) == 0 {
		return nil, nil, refuse("not-orientable", "the part has no surface to stand on")
	}
	best := found[0]
	up := mesh.Vec{0, 0, 1}
	angle := math.Acos(min(max(best.Up.Dot(up), -1), 1)) * 180 / math.Pi
	if angle < 0.5 {
		return nil, nil, refuse("well-oriented", "it stands best for %s as it is", o.Process)
	}
	limit := weights[o.Process]().Limit
	return m.Transformed(best.Transform), []Action{{Code: "orient", Text: fmt.Sprintf(
		"turned by %.0f° for %s: %.4g mm high, %.3g cm² hang over instead of %.3g",
		angle, o.Process, best.Height, best.Overhang/100, m.OverhangArea(up, limit)/100)}}, nil
}
