package printability

import "inshape/mesh"

// Facts are what is known of a part after its analysis, in any material.
type Facts struct {
	Solid  bool   `json:"solid"`  // closed, oriented, positive volume; as it came or after a repair
	Reason string `json:"reason"` // why it is no solid; empty for one
	Open   int    `json:"open"`   // edges that are not shared by exactly two facets

	Volume      float64    `json:"volume"`       // mm³
	Area        float64    `json:"area"`         // mm²
	Box         [3]float64 `json:"box"`          // mm, along the axes of the file
	OrientedBox [3]float64 `json:"oriented_box"` // mm, of the smallest box in any direction; zero if not known

	Facets        int     `json:"facets"`
	Shells        int     `json:"shells"`        // loose ones; a shell that bounds a cavity is none
	Intersections int     `json:"intersections"` // pairs of facets that cross
	Crossings     []Place `json:"crossings"`     // some of them

	Unit      mesh.Unit `json:"unit"`       // that lengths were read in
	UnitGuess mesh.Unit `json:"unit_guess"` // that the size suggests; empty: none

	Thickness *Thickness `json:"thickness"` // nil: not measured
	Gaps      []Place    `json:"gaps"`      // outside the part, the narrowest first; Value is mm
	Cavities  []Cavity   `json:"cavities"`
	Openings  []float64  `json:"openings"`  // mm, rising; the escape holes that cavities were looked for with
	Overhangs []Overhang `json:"overhangs"` // by rising angle; none: not measured
}

// Place is a point where something was measured.
type Place struct {
	At    mesh.Vec `json:"at"`    // mm, in the part's own coordinates
	Facet int32    `json:"facet"` // of the mesh that was measured; -1 for none
	Value float64  `json:"value"` // what was measured there; its unit is the finding's
}

// Cavity is a room in a part that is closed, or whose ways out are all narrower
// than an escape hole. Rooms behind each other are one for a wide hole and may be
// another, smaller one for a narrow hole: they are told hole by hole.
type Cavity struct {
	At      mesh.Vec `json:"at"`                // a point in it
	Volume  float64  `json:"volume"`            // mm³
	Neck    float64  `json:"neck,omitempty"`    // mm; diameter of its widest way out; 0: closed
	Opening float64  `json:"opening,omitempty"` // mm; the escape hole it is too narrow for; 0: closed
}

// CavitiesFor are the cavities that an escape hole of a diameter would be needed
// for: the closed ones, and those that were found with that hole. If none was
// looked for with it, the next wider one counts, which at worst tells of more
// than there is.
func (f *Facts) CavitiesFor(hole float64) []Cavity {
	opening := 0.0
	for _, o := range f.Openings {
		if opening = o; o >= hole {
			break
		}
	}
	var list []Cavity
	for _, x := range f.Cavities {
		if x.Opening == 0 || x.Opening == opening && x.Neck < hole {
			list = append(list, x)
		}
	}
	return list
}

// Overhang is what hangs over by more than an angle, the part lying as it would be built.
type Overhang struct {
	Angle  float64  `json:"angle"`  // degrees from the vertical
	Area   float64  `json:"area"`   // mm² of surface
	Volume float64  `json:"volume"` // mm³ below it, down to the plate or the part
	At     mesh.Vec `json:"at"`     // a point of it
}

// OverhangAt gives the overhang of the nearest angle that was measured and is not
// above angle: at worst it tells of more than there is. ok is false if none was.
func (f *Facts) OverhangAt(angle float64) (o Overhang, ok bool) {
	for _, x := range f.Overhangs {
		if ok && x.Angle > angle {
			break
		}
		o, ok = x, true
	}
	return o, ok
}
