package material

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"

	"go.yaml.in/yaml/v4"

	"inshape/price"
)

//go:embed materials.yaml
var document []byte

// Default is the set that comes with Inshape, made of typical published figures.
// A shop replaces it by its own.
func Default() *Set {
	s, err := Parse("materials.yaml", document)
	if err != nil {
		panic(err) // it is part of the program, and a test reads it
	}
	return s
}

// Bounds of a document.
const (
	maxBytes     = 1 << 20
	maxMaterials = 200
	maxList      = 50 // finishes, colours, breaks, rush
	maxProblems  = 20 // that are told at once
)

// Parse reads a document; file is its name for messages. All that is wrong with
// it comes back at once, as an Errors.
func Parse(file string, data []byte) (*Set, error) {
	r := &reader{file: file}
	if len(data) > maxBytes {
		r.refuse(&yaml.Node{Line: 1}, "the document has %d bytes; keep it below %d", len(data), maxBytes)
		return nil, r.problems
	}
	root := r.document(data)
	if root == nil {
		return nil, r.problems
	}
	digest := sha256.Sum256(data)
	s := &Set{Revision: hex.EncodeToString(digest[:8])}

	o := r.object(root, "")
	s.Currency = price.Currency(o.text("currency", 3))
	if _, ok := s.Currency.Digits(); !ok && s.Currency != "" {
		o.refuse("currency", "%q is no code of ISO 4217; write one like EUR or USD", s.Currency)
	}
	s.ValidDays = o.whole("valid_days", 1, 365)
	for _, m := range o.list("materials", maxMaterials) {
		s.Materials = append(s.Materials, m.material())
	}
	o.unique("materials", each(s.Materials, func(m Material) string { return string(m.ID) }))
	o.end()
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return s, nil
}

func (o *object) material() Material {
	m := Material{
		ID:        ID(o.id("id")),
		Title:     o.text("title", 60),
		Process:   Process(o.choice("process", string(SLS), string(MJF), string(SLA), string(FDM), string(DMLS))),
		Summary:   o.optional().text("summary", 300),
		Density:   o.number("density", 0.1, 25),
		Detail:    o.number("detail", 0.01, 50),
		Clearance: o.number("clearance", 0, 50),
		Shells:    o.optional().whole("shells", 1, 100_000),
		Facets:    o.optional().whole("facets", 1000, 100_000_000),
		LeadDays:  o.whole("lead_days", 0, 365),
	}
	if m.Shells == 0 {
		m.Shells = 100
	}
	if m.Facets == 0 {
		m.Facets = 2_000_000
	}

	wall := o.child("wall")
	m.Wall = Wall{
		Supported:   wall.number("supported", 0.01, 100),
		Unsupported: wall.number("unsupported", 0.01, 100),
		Tolerate:    wall.optional().number("tolerate", 0, 20),
	}
	if m.Wall.Unsupported < m.Wall.Supported {
		wall.refuse("unsupported", "%g is less than supported, %g; a wall that stands free needs at least as much", m.Wall.Unsupported, m.Wall.Supported)
	}
	wall.end()

	envelope := o.child("envelope")
	m.Envelope = [3]float64{envelope.number("x", 1, 10_000), envelope.number("y", 1, 10_000), envelope.number("z", 1, 10_000)}
	envelope.end()

	accuracy := o.child("accuracy")
	m.Accuracy = Accuracy{Millimetres: accuracy.number("mm", 0, 50), Percent: accuracy.number("percent", 0, 20)}
	accuracy.end()

	if o.has("cavities") {
		c := o.child("cavities")
		m.Cavities = &Cavities{
			Hole: c.number("hole", 0.1, 100), Holes: c.whole("holes", 1, 20),
			Refused: c.choice("closed", "refuse", "remark") == "refuse",
			Ignore:  c.optional().number("ignore", 0, 1e6),
		}
		c.end()
	}
	if o.has("supports") {
		c := o.child("supports")
		m.Supports = &Supports{Angle: c.number("angle", 0, 89)}
		c.end()
	}

	for _, f := range o.list("finishes", maxList) {
		m.Finishes = append(m.Finishes, f.finish())
	}
	o.unique("finishes", each(m.Finishes, func(f Finish) string { return string(f.ID) }))
	prices := o.child("prices")
	m.Prices = prices.rules(m.LeadDays)
	o.end()
	return m
}

func (o *object) finish() Finish {
	f := Finish{
		ID:    FinishID(o.id("id")),
		Title: o.text("title", 60),
		Price: price.Finish{
			Area:  o.optional().rate("area"),
			Part:  o.optional().rate("part"),
			Setup: o.optional().rate("setup"),
			Days:  o.optional().whole("days", 0, 365),
		},
	}
	for _, c := range o.list("colours", maxList) {
		f.Colours = append(f.Colours, Colour{ID: ColourID(c.id("id")), Title: c.text("title", 60), Hex: c.colour("hex")})
		c.end()
	}
	o.unique("colours", each(f.Colours, func(c Colour) string { return string(c.ID) }))
	o.end()
	return f
}

func (o *object) rules(days int) price.Rules {
	r := price.Rules{
		Material: o.rate("material"),
		Space:    o.optional().rate("space"),
		Support:  o.optional().rate("support"),
		Part:     o.optional().rate("part"),
		Shell:    o.optional().rate("shell"),
		Setup:    o.optional().rate("setup"),
		Minimum:  o.optional().rate("minimum"),
		Margin:   o.optional().number("margin", 0, 100),
	}
	for i, b := range o.optional().list("breaks", maxList) {
		r.Breaks = append(r.Breaks, price.Break{From: b.whole("from", 2, price.MaxQuantity), Off: b.decimal("off", 2, 0, 95)})
		if i > 0 && r.Breaks[i].From <= r.Breaks[i-1].From {
			b.refuse("from", "%d does not come after %d; order breaks by quantity", r.Breaks[i].From, r.Breaks[i-1].From)
		}
		if i > 0 && r.Breaks[i].Off.Less(r.Breaks[i-1].Off) {
			b.refuse("off", "%s %% is less than the break before it gives; more pieces never cost more each", r.Breaks[i].Off)
		}
		b.end()
	}
	for _, x := range o.optional().list("rush", maxList) {
		rush := price.Rush{
			ID: price.RushID(x.id("id")), Title: x.text("title", 60),
			Days: x.whole("days", 0, 365), Factor: x.decimal("factor", 2, 1, 10),
		}
		if rush.Days >= days && days > 0 {
			x.refuse("days", "%d is not faster than lead_days, %d", rush.Days, days)
		}
		x.end()
		r.Rush = append(r.Rush, rush)
	}
	o.unique("rush", each(r.Rush, func(x price.Rush) string { return string(x.ID) }))
	o.end()
	return r
}

func each[T any](in []T, key func(T) string) []string {
	out := make([]string, len(in))
	for i, x := range in {
		out[i] = key(x)
	}
	return out
}
