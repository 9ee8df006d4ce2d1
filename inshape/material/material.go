package material

import (
	"fmt"
	"image/color"

	"inshape/price"
)

// The names in a set. They are made of a-z, 0-9 and hyphens.
type (
	ID       string
	FinishID string
	ColourID string
)

// Process is how a material becomes a part.
type Process string

// The processes.
const (
	SLS  Process = "SLS"  // powder, sintered by laser
	MJF  Process = "MJF"  // powder, fused by lamps
	SLA  Process = "SLA"  // resin, cured by light
	FDM  Process = "FDM"  // filament, extruded
	DMLS Process = "DMLS" // metal powder, melted by laser
)

// Set is a shop's materials. It is not changed once it is in use.
type Set struct {
	Revision  string         // of the document: the first 16 hex digits of its SHA-256
	Currency  price.Currency // of all prices; a shop's setting may name another one for the same figures
	ValidDays int            // days that a quote holds
	Materials []Material     // in the order of the document, which is the order of display
}

// Material is one material with its limits.
type Material struct {
	ID        ID      `json:"id"`
	Title     string  `json:"title"`
	Process   Process `json:"process"`
	Summary   string  `json:"summary,omitempty"`
	Density   float64 `json:"density"` // g/cm³
	Wall      Wall    `json:"wall"`
	Detail    float64 `json:"detail"`    // mm, the smallest feature that shows; also the least size of a part
	Clearance float64 `json:"clearance"` // mm, the narrowest gap that does not fuse

	Envelope [3]float64 `json:"envelope"` // mm, what the machine builds
	Shells   int        `json:"shells"`   // the most loose shells in one piece
	Facets   int        `json:"facets"`   // the most facets that job preparation takes

	Cavities *Cavities `json:"cavities,omitempty"` // nil: closed ones may stay
	Supports *Supports `json:"supports,omitempty"` // nil: the process needs none
	Accuracy Accuracy  `json:"accuracy"`
	LeadDays int       `json:"lead_days"` // working days until it leaves

	Finishes []Finish    `json:"finishes"` // at least one; the first is the usual one
	Prices   price.Rules `json:"prices"`
}

// Wall is how thin a wall may be.
type Wall struct {
	Supported   float64 `json:"supported"`   // mm, held on two sides or more; thinner is refused
	Unsupported float64 `json:"unsupported"` // mm, held on one side; thinner is remarked on
	Tolerate    float64 `json:"tolerate"`    // percent of the surface that may be thinner, as sharp edges are
}

// Cavities is what hollow parts need for what is trapped in them to leave.
type Cavities struct {
	Hole    float64 `json:"hole"`    // mm, diameter of an escape hole
	Holes   int     `json:"holes"`   // number of them per cavity
	Refused bool    `json:"refused"` // a closed cavity is refused; otherwise remarked on
	Ignore  float64 `json:"ignore"`  // mm³, closed cavities up to this volume don't matter
}

// Supports is what overhangs need.
type Supports struct {
	Angle float64 `json:"angle"` // degrees from the vertical; what hangs over further is supported
}

// Accuracy is what a dimension may be off by: the larger one of the two.
type Accuracy struct {
	Millimetres float64 `json:"mm"`
	Percent     float64 `json:"percent"`
}

// Of is the accuracy of a dimension, mm.
func (a Accuracy) Of(length float64) float64 {
	return max(a.Millimetres, length*a.Percent/100)
}

// Finish is a way to treat the surface, with the colours it comes in.
type Finish struct {
	ID      FinishID     `json:"id"`
	Title   string       `json:"title"`
	Colours []Colour     `json:"colours"` // at least one; the first is the usual one
	Price   price.Finish `json:"-"`
}

// Colour is a colour of a finish.
type Colour struct {
	ID    ColourID `json:"id"`
	Title string   `json:"title"`
	Hex   string   `json:"hex"` // as #rrggbb, for pictures
}

// Find gives the material with an ID.
func (s *Set) Find(id ID) (Material, bool) {
	for _, m := range s.Materials {
		if m.ID == id {
			return m, true
		}
	}
	return Material{}, false
}

// Weight is the weight of a part of volume mm³, in grams.
func (m Material) Weight(volume float64) float64 { return m.Density * volume / 1000 }

// NRGBA is the colour for pictures.
func (c Colour) NRGBA() color.NRGBA {
	var n color.NRGBA
	if _, err := fmt.Sscanf(c.Hex, "#%02x%02x%02x", &n.R, &n.G, &n.B); err != nil {
		return n // a set that was read has none like this
	}
	n.A = 0xff
	return n
}
