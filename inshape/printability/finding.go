package printability

import "inshape/material"

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	Info    Severity = "info"    // good to know
	Warning Severity = "warning" // it can be made, and may disappoint
	Error   Severity = "error"   // it cannot be made like this
)

// Code names what is found. Codes are stable.
type Code string

// What is looked for.
const (
	NotSolid     Code = "not-solid"
	TooLarge     Code = "too-large"     // for the machine
	TooSmall     Code = "too-small"     // to show, or to be found again
	ThinWall     Code = "thin-wall"     // thinner than the process can make
	ThinSpot     Code = "thin-spot"     // the same, on so little of the surface that the part holds
	WeakWall     Code = "weak-wall"     // holds only where it is held on two sides
	NarrowGap    Code = "narrow-gap"    // what fuses across it
	LooseShells  Code = "loose-shells"  // more than one piece takes
	Trapped      Code = "trapped"       // what cannot leave a closed cavity
	Overhanging  Code = "overhang"      // supports and their marks
	Crossing     Code = "self-crossing" // facets that cross each other
	ManyFacets   Code = "many-facets"
	DoubtfulUnit Code = "doubtful-unit"
	Massive      Code = "massive" // hollowing saves money
)

// Action is what a remedy does; an interface can offer those that it knows.
type Action string

// The remedies.
const (
	Repair   Action = "repair"
	Scale    Action = "scale"   // Value: the factor
	Thicken  Action = "thicken" // Value: mm
	Split    Action = "split"   // Count: parts
	Holes    Action = "holes"   // Value: mm diameter; Count: number per cavity
	Hollow   Action = "hollow"  // Value: mm of wall
	Orient   Action = "orient"
	Union    Action = "union"
	Simplify Action = "simplify" // Count: facets
	Separate Action = "separate" // Value: mm of gap
	SetUnit  Action = "set-unit" // Unit
)

// Remedy is one way to be rid of a finding.
type Remedy struct {
	Action Action  `json:"action"`
	Value  float64 `json:"value,omitempty"`
	Count  int     `json:"count,omitempty"`
	Unit   string  `json:"unit,omitempty"`
	Text   string  `json:"text"` // for a person: scale by 1.3
}

// Finding is one thing to know about a part in a material.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`             // one line: what, by how much
	Measured float64  `json:"measured"`         // in Unit
	Limit    float64  `json:"limit"`            // in Unit
	Unit     string   `json:"unit,omitempty"`   // mm, mm², mm³ or empty for a count
	Places   []Place  `json:"places,omitempty"` // at most 16, the worst first
	Remedies []Remedy `json:"remedies,omitempty"`
}

// Outcome is a verdict in one word.
type Outcome string

// The outcomes, from the best.
const (
	Printable    Outcome = "printable"
	WithRemarks  Outcome = "with-remarks"
	NotPrintable Outcome = "not-printable"
)

// Verdict is what a shop says about a part in one material.
type Verdict struct {
	Material material.ID      `json:"material"`
	Title    string           `json:"title"`
	Process  material.Process `json:"process"`
	Outcome  Outcome          `json:"outcome"`
	Accuracy float64          `json:"accuracy"` // mm that the longest side may be off by
	Weight   float64          `json:"weight"`   // g
	Findings []Finding        `json:"findings"` // the worst first
}
