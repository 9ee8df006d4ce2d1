package printability

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"inshape/material"
)

const (
	maxPlaces = 16
	slack     = 0.02 // mm by which a wall may miss its limit: what measuring a facetted surface is off by
	maxScale  = 3.0  // beyond it, scaling up is no remedy but another part
)

// Matrix judges a part in every material of a set, in its order.
func Matrix(f *Facts, s *material.Set) []Verdict {
	verdicts := make([]Verdict, len(s.Materials))
	for i, m := range s.Materials {
		verdicts[i] = Judge(f, m)
	}
	return verdicts
}

// Judge gives the verdict on a part in one material.
func Judge(f *Facts, m material.Material) Verdict {
	v := Verdict{
		Material: m.ID, Title: m.Title, Process: m.Process, Outcome: Printable, Findings: Check(f, m),
		Accuracy: m.Accuracy.Of(max(f.Box[0], f.Box[1], f.Box[2])),
	}
	if f.Solid {
		v.Weight = m.Weight(f.Volume)
	}
	for _, x := range v.Findings {
		switch {
		case x.Severity == Error:
			v.Outcome = NotPrintable
		case x.Severity == Warning && v.Outcome == Printable:
			v.Outcome = WithRemarks
		}
	}
	return v
}

// Check gives all that there is to say about a part in a material, the worst first.
func Check(f *Facts, m material.Material) []Finding {
	c := &check{f: f, m: m}
	c.solid()
	c.unit()
	c.size()
	if f.Solid {
		c.walls()
		c.gaps()
		c.shells()
		c.cavities()
		c.overhang()
		c.massive()
	}
	c.crossings()
	c.facets()
	rank := []Severity{Error, Warning, Info}
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(rank, a.Severity), slices.Index(rank, b.Severity))
	})
	return c.findings
}

// check collects the findings on one part in one material.
type check struct {
	f        *Facts
	m        material.Material
	findings []Finding
}

func (c *check) found(f Finding) {
	f.Places = f.Places[:min(len(f.Places), maxPlaces)]
	c.findings = append(c.findings, f)
}

func (c *check) solid() {
	if c.f.Solid {
		return
	}
	reason := c.f.Reason
	if reason == "" {
		reason = "its surface does not bound a volume"
	}
	c.found(Finding{
		Code: NotSolid, Severity: Error, Text: "The part is no solid: " + reason + ".", Measured: float64(c.f.Open),
		Remedies: []Remedy{{Action: Repair, Text: "repair it, or export it again as one closed body"}},
	})
}

func (c *check) unit() {
	guess := c.f.UnitGuess
	if guess == "" || guess == c.f.Unit {
		return
	}
	largest := max(c.f.Box[0], c.f.Box[1], c.f.Box[2])
	factor := 1.0
	was, ok := c.f.Unit.Millimetres()
	if is, known := guess.Millimetres(); ok && known {
		factor = is / was
	}
	c.found(Finding{
		Code: DoubtfulUnit, Severity: Warning, Measured: largest, Unit: "mm",
		Text: fmt.Sprintf("Read in %ss the part is %s mm long; its size looks like %ss, which would be %s mm.",
			c.f.Unit, short(largest), guess, short(largest*factor)),
		Remedies: []Remedy{{Action: SetUnit, Value: factor, Unit: string(guess), Text: fmt.Sprintf("read it in %ss", guess)}},
	})
}

func (c *check) size() {
	box, envelope := sorted(c.f.Box), sorted(c.m.Envelope)
	if !fits(box, envelope) && c.f.OrientedBox != [3]float64{} {
		box = sorted(c.f.OrientedBox)
	}
	if !fits(box, envelope) {
		// The side that passes its limit by the largest factor decides.
		factor, parts, worst := 1.0, 1, 0
		for i := range box {
			if f := envelope[i] / box[i]; f < factor {
				factor, worst = f, i
			}
			parts *= int(math.Ceil(box[i] / envelope[i]))
		}
		down := math.Floor(factor*100) / 100
		remedies := []Remedy{{Action: Split, Count: parts, Text: fmt.Sprintf("split it into %d parts that are joined later", parts)}}
		if down >= 0.1 {
			remedies = slices.Insert(remedies, 0, Remedy{Action: Scale, Value: down, Text: "scale by " + short(down)})
		}
		c.found(Finding{
			Code: TooLarge, Severity: Error, Measured: box[worst], Limit: envelope[worst], Unit: "mm",
			Text:     fmt.Sprintf("The part takes %s mm in its best position; the machine builds %s mm.", sides(box), sides(envelope)),
			Remedies: remedies,
		})
	}
	if largest := box[2]; largest < 2*c.m.Detail || box[1] < c.m.Detail {
		x := Finding{
			Code: TooSmall, Severity: Error, Measured: box[1], Limit: c.m.Detail, Unit: "mm",
			Text: fmt.Sprintf("The part is %s mm; what is smaller than %s mm does not show.", sides(box), short(c.m.Detail)),
		}
		// Much smaller, and it is not the size but the unit that is wrong.
		if up := math.Ceil(10*max(2*c.m.Detail/largest, c.m.Detail/box[1])) / 10; up <= 100 {
			x.Remedies = []Remedy{{Action: Scale, Value: up, Text: "scale by " + short(up) + ", or check the unit"}}
		}
		c.found(x)
	}
}

func (c *check) walls() {
	t, w := c.f.Thickness, c.m.Wall
	if t == nil || len(t.Places) == 0 {
		return
	}
	thinnest, thin, weak := t.Places[0].Value, t.Below(w.Supported-slack), t.Below(w.Unsupported-slack)
	if places := below(t.Places, w.Supported-slack); len(places) > 0 {
		x := Finding{
			Code: ThinWall, Severity: Error, Measured: thinnest, Limit: w.Supported, Unit: "mm", Places: places,
			Text: fmt.Sprintf("Walls are as thin as %s mm; %s of the surface is below the least of %s mm.",
				short(thinnest), percent(thin), short(w.Supported)),
			Remedies: c.thicker(thinnest, w.Supported),
		}
		if thin <= w.Tolerate {
			x.Code, x.Severity = ThinSpot, Warning
			x.Text = fmt.Sprintf("Spots are as thin as %s mm, on %s of the surface; below %s mm they may be lost.",
				short(thinnest), percent(thin), short(w.Supported))
			thinnest = w.Supported // of what is no spot
		}
		c.found(x)
	}
	if places := below(t.Places, w.Unsupported-slack); len(places) > 0 && weak > thin+w.Tolerate {
		c.found(Finding{
			Code: WeakWall, Severity: Warning, Measured: thinnest, Limit: w.Unsupported, Unit: "mm", Places: places,
			Text: fmt.Sprintf("%s of the surface is thinner than %s mm, which holds only where the wall is held on two sides or more.",
				percent(weak), short(w.Unsupported)),
			Remedies: c.thicker(thinnest, w.Unsupported),
		})
	}
}

// thicker gives the remedies for a wall.
func (c *check) thicker(thickness, limit float64) []Remedy {
	r := []Remedy{{Action: Thicken, Value: limit, Text: "thicken to " + short(limit) + " mm"}}
	up := math.Ceil(20*limit/max(thickness, 1e-6)-1e-9) / 20
	larger := c.f.Box
	for i := range larger {
		larger[i] *= up
	}
	if up <= maxScale && fits(sorted(larger), sorted(c.m.Envelope)) {
		r = append(r, Remedy{Action: Scale, Value: up, Text: "scale by " + short(up)})
	}
	return r
}

func (c *check) gaps() {
	narrow := below(c.f.Gaps, c.m.Clearance-slack)
	if len(narrow) == 0 {
		return
	}
	c.found(Finding{
		Code: NarrowGap, Severity: Warning, Measured: narrow[0].Value, Limit: c.m.Clearance, Unit: "mm", Places: narrow,
		Text: fmt.Sprintf("Gaps down to %s mm; what is closer than %s mm fuses.", short(narrow[0].Value), short(c.m.Clearance)),
		Remedies: []Remedy{
			{Action: Separate, Value: c.m.Clearance, Text: "widen gaps to " + short(c.m.Clearance) + " mm"},
			{Action: Union, Text: "close them, if nothing needs to move"},
		},
	})
}

func (c *check) shells() {
	if c.f.Shells <= c.m.Shells {
		return
	}
	c.found(Finding{
		Code: LooseShells, Severity: Error, Measured: float64(c.f.Shells), Limit: float64(c.m.Shells),
		Text: fmt.Sprintf("The file holds %d loose shells; one piece takes %d.", c.f.Shells, c.m.Shells),
		Remedies: []Remedy{
			{Action: Split, Count: c.f.Shells, Text: "order the shells as parts of their own"},
			{Action: Union, Text: "join them, if they belong together"},
		},
	})
}

func (c *check) cavities() {
	need := c.m.Cavities
	if need == nil {
		return
	}
	var volume float64
	var places []Place
	what := []string{"closed cavity", "closed cavities"}
	for _, x := range c.f.CavitiesFor(need.Hole) {
		if x.Volume > need.Ignore {
			volume += x.Volume
			places = append(places, Place{At: x.At, Facet: -1, Value: x.Volume})
			if x.Neck > 0 {
				what = []string{"cavity with too narrow a way out", "cavities, closed or with too narrow a way out,"}
			}
		}
	}
	if len(places) == 0 {
		return
	}
	slices.SortStableFunc(places, func(a, b Place) int { return cmp.Compare(b.Value, a.Value) })
	x := Finding{
		Code: Trapped, Severity: Warning, Measured: volume, Limit: need.Ignore, Unit: "mm³", Places: places,
		Text: fmt.Sprintf("%s with %s cm³: what is in there cannot leave.", plural(len(places), what[0], what[1]), short(volume/1000)),
		Remedies: []Remedy{{
			Action: Holes, Value: need.Hole, Count: need.Holes,
			Text: fmt.Sprintf("add %s of %s mm to each", plural(need.Holes, "escape hole", "escape holes"), short(need.Hole)),
		}},
	}
	if need.Refused {
		x.Severity = Error
	}
	c.found(x)
}

func (c *check) overhang() {
	if c.m.Supports == nil {
		return
	}
	o, ok := c.f.OverhangAt(c.m.Supports.Angle)
	if !ok || o.Area < 1 {
		return
	}
	c.found(Finding{
		Code: Overhanging, Severity: Info, Measured: o.Area, Unit: "mm²", Places: []Place{{At: o.At, Facet: -1, Value: o.Area}},
		Text:     fmt.Sprintf("%s mm² (%s of the surface) need supports, which leave marks.", short(o.Area), percent(100*o.Area/c.f.Area)),
		Remedies: []Remedy{{Action: Orient, Text: "turn it so that less hangs over"}},
	})
}

func (c *check) massive() {
	// A shell of the wall's thickness on all of the surface is more than what
	// hollowing leaves.
	wall := max(2, 2*c.m.Wall.Supported)
	left := c.f.Area * wall
	if c.m.Process == material.FDM || c.f.Volume < 20_000 || left > 0.6*c.f.Volume {
		return // an extruded part is filled sparsely anyway
	}
	c.found(Finding{
		Code: Massive, Severity: Info, Measured: c.f.Volume, Limit: left, Unit: "mm³",
		Text:     fmt.Sprintf("The part is massive: %s cm³. Hollowed it takes %s cm³ or less.", short(c.f.Volume/1000), short(left/1000)),
		Remedies: []Remedy{{Action: Hollow, Value: wall, Text: "hollow it to walls of " + short(wall) + " mm"}},
	})
}

func (c *check) crossings() {
	if c.f.Intersections == 0 {
		return
	}
	c.found(Finding{
		Code: Crossing, Severity: Warning, Measured: float64(c.f.Intersections), Places: c.f.Crossings,
		Text:     fmt.Sprintf("%s of facets cross each other; what is inside there is a guess.", plural(c.f.Intersections, "pair", "pairs")),
		Remedies: []Remedy{{Action: Union, Text: "unite the bodies that overlap"}},
	})
}

func (c *check) facets() {
	if c.f.Facets <= c.m.Facets {
		return
	}
	c.found(Finding{
		Code: ManyFacets, Severity: Warning, Measured: float64(c.f.Facets), Limit: float64(c.m.Facets),
		Text:     fmt.Sprintf("%d facets; job preparation takes %d.", c.f.Facets, c.m.Facets),
		Remedies: []Remedy{{Action: Simplify, Count: c.m.Facets, Text: "export it with a coarser tolerance"}},
	})
}

// below gives the places with a value under limit; they are ordered by value.
func below(places []Place, limit float64) []Place {
	n, _ := slices.BinarySearchFunc(places, limit, func(p Place, limit float64) int { return cmp.Compare(p.Value, limit) })
	return places[:n:n]
}

// fits tells whether a box goes into another one along the same axes, both sorted.
func fits(box, into [3]float64) bool {
	return box[0] <= into[0] && box[1] <= into[1] && box[2] <= into[2]
}

func sorted(box [3]float64) [3]float64 {
	slices.Sort(box[:])
	return box
}

func sides(box [3]float64) string {
	return short(box[2]) + " × " + short(box[1]) + " × " + short(box[0])
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// short writes a number for a person: two decimals below 10, one below 100, none above.
func short(x float64) string {
	if x > 0 && x < 0.01 {
		return "less than 0.01"
	}
	scale := 100.0
	if x >= 100 {
		scale = 1
	} else if x >= 10 {
		scale = 10
	}
	return fmt.Sprintf("%g", math.Round(x*scale)/scale)
}

func percent(x float64) string {
	if x < 0.1 {
		return "less than 0.1 %"
	}
	return short(x) + " %"
}
