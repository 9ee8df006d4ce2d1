package analysis

import (
	"context"
	"fmt"

	"inshape/mesh"
)

// Kind is how a revision came to be.
type Kind string

// The kinds. All but Original are made here, of an earlier revision.
const (
	Original Kind = "original" // the file as it came
	Repair   Kind = "repair"   // mended, without guessing at the shape
	Union    Kind = "union"    // bodies that overlap made one
	Scale    Kind = "scale"    // larger or smaller
	ReadUnit Kind = "unit"     // the file's numbers read in another unit
)

// Operation makes a revision of another one.
type Operation struct {
	Kind   Kind      `json:"kind" enum:"repair,union,scale,unit" doc:"What to do"`
	Factor float64   `json:"factor,omitempty" minimum:"0" maximum:"1000" doc:"Of scale: on all lengths"`
	Unit   mesh.Unit `json:"unit,omitempty" enum:"micron,millimeter,centimeter,meter,inch,foot" doc:"Of unit: what the file's numbers are"`

	factor float64 // of ReadUnit: on all lengths
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

// apply gives the new mesh and what was done. m may be used up.
func (o Operation) apply(ctx context.Context, m *mesh.Mesh) (*mesh.Mesh, []Action, error) {
	switch o.Kind {
	case Repair:
		return repair(m)
	case Union:
		return union(ctx, m)
	case Scale:
		return m.Transformed(mesh.Scaling(o.Factor)), []Action{{Code: "scale", Text: fmt.Sprintf("scaled by %g", o.Factor)}}, nil
	case ReadUnit:
		return m.Transformed(mesh.Scaling(o.factor)), []Action{{Code: "unit", Text: fmt.Sprintf("read in %ss: all lengths × %.6g", o.Unit, o.factor)}}, nil
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
