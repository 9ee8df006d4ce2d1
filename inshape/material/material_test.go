package material

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"os"
	"strings"
	"testing"
	"time"

	"inshape/price"
)

var (
	now  = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	part = price.Measures{Volume: 12314, Area: 8200, Box: [3]float64{40, 30, 20}, Shells: 1}
)

// TestDefault: every offer of the set that comes with Inshape can be quoted.
func TestDefault(t *testing.T) {
	s := Default()
	if len(s.Materials) != 7 || s.Currency != "EUR" || len(s.Revision) != 16 {
		t.Fatalf("%d materials in %s, revision %q", len(s.Materials), s.Currency, s.Revision)
	}
	for _, m := range s.Materials {
		for _, f := range m.Finishes {
			for _, c := range f.Colours {
				for _, r := range append(m.Prices.Rush, price.Rush{}) {
					o := Order{Material: m.ID, Finish: f.ID, Colour: c.ID, Quantity: 3, Rush: r.ID}
					q, err := s.Quote(o, part, now)
					if err != nil {
						t.Fatalf("%+v: %v", o, err)
					}
					if q.Material != string(m.ID) || q.Finish != string(f.ID) || q.Colour != string(c.ID) || q.Revision != s.Revision {
						t.Errorf("%+v is quoted as %s, %s, %s of %s", o, q.Material, q.Finish, q.Colour, q.Revision)
					}
				}
				if c.NRGBA().A != 0xff {
					t.Errorf("%s has no colour", c.Title)
				}
			}
		}
	}
}

func TestQuoteRefuses(t *testing.T) {
	for _, c := range []struct {
		o           Order
		field, text string
	}{
		{Order{Material: "gold", Quantity: 1}, "material", `"gold" is not known; choose one of pa12-sls, pa12-mjf`},
		{Order{Quantity: 1}, "material", "choose one of"},
		{Order{Material: "pla", Finish: "dyed", Quantity: 1}, "finish", `"dyed" is not known; choose one of as-printed`},
		{Order{Material: "pla", Colour: "pink", Quantity: 1}, "colour", `"pink" is not known; choose one of white, black`},
		{Order{Material: "pla", Quantity: 1, Rush: "now"}, "rush", "choose one of express"},
		{Order{Material: "pla"}, "quantity", "order 1 to"},
	} {
		_, err := Default().Quote(c.o, part, now)
		if e, ok := errors.AsType[*price.Error](err); !ok || e.Field != c.field || !strings.Contains(e.Text, c.text) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

func TestUsualFinish(t *testing.T) {
	q, err := Default().Quote(Order{Material: "pa12-sls", Finish: "dyed", Quantity: 1}, part, now)
	if err != nil {
		t.Fatal(err)
	}
	if q.Colour != "black" || q.Days != 7 {
		t.Errorf("%s in %d days", q.Colour, q.Days)
	}
}

func TestAccuracyAndWeight(t *testing.T) {
	m, ok := Default().Find("pa12-sls")
	if !ok {
		t.Fatal("no PA12")
	}
	if a := m.Accuracy.Of(50); a != 0.3 {
		t.Errorf("%g mm at 50 mm", a)
	}
	if a := m.Accuracy.Of(200); fmt.Sprintf("%.2f", a) != "0.60" {
		t.Errorf("%g mm at 200 mm", a)
	}
	if w := m.Weight(10_000); fmt.Sprintf("%.2f", w) != "9.50" {
		t.Errorf("%g g", w)
	}
	if c := m.Finishes[0].Colours[0].NRGBA(); c != (color.NRGBA{0xef, 0xec, 0xe4, 0xff}) {
		t.Errorf("%v", c)
	}
	if _, ok := Default().Find("gold"); ok {
		t.Error("there is gold")
	}
}

// TestJSON: customers see what they choose from, and no rates.
func TestJSON(t *testing.T) {
	m, _ := Default().Find("pa12-mjf")
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(raw, &top); err != nil {
		t.Fatal(err)
	}
	want := `{"breaks":[{"from":10,"off":"8"},{"from":50,"off":"18"},{"from":200,"off":"28"}],` +
		`"rush":[{"id":"express","title":"Express","days":3,"factor":"1.5"}]}`
	if string(top["prices"]) != want {
		t.Errorf("%s", top["prices"])
	}
	if strings.Contains(string(top["finishes"]), "0.035") {
		t.Errorf("%s", top["finishes"])
	}
}

// minimal is the least that a document can be; the tests break it.
const minimal = `currency: EUR
valid_days: 30
materials:
  - id: pla
    title: PLA
    process: FDM
    density: 1.24
    wall: {supported: 0.8, unsupported: 1.2}
    detail: 0.5
    clearance: 0.4
    envelope: {x: 250, y: 210, z: 210}
    accuracy: {mm: 0.4, percent: 0.5}
    lead_days: 3
    finishes:
      - id: as-printed
        title: As printed
        colours:
          - {id: white, title: White, hex: "#f4f4f2"}
    prices:
      material: 0.14
`

func TestMinimal(t *testing.T) {
	s, err := Parse("m.yaml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	m := s.Materials[0]
	if m.Shells != 100 || m.Facets != 2_000_000 || m.Cavities != nil || m.Supports != nil || m.Wall.Tolerate != 0 {
		t.Errorf("defaults: %+v", m)
	}
	again, err := Parse("other.yaml", []byte(minimal+"# a comment\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Revision == again.Revision {
		t.Error("another document has the same revision")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, with, want string }{
		{"empty", minimal, "", "m.yaml:1: "},
		{"comment alone", minimal, "# nothing\n", "m.yaml:1: "},
		{"not YAML", "id: pla", "id: [pla", "this is not one YAML document"},
		{"two documents", "currency: EUR", "a: 1\n---\ncurrency: EUR", "this is not one YAML document"},
		{"a list", minimal, "- a\n", "m.yaml:1: the document is a list of 1; write a mapping"},
		{"a word", minimal, "hello\n", `the document is "hello"`},
		{"unknown key", "    detail: 0.5\n", "    detail: 0.5\n    colour: red\n", "m.yaml:10: materials[1].colour is not known here; the keys are accuracy, cavities,"},
		{"unknown at the top", "valid_days: 30", "valid_days: 30\nvat: 19", "m.yaml:3: vat is not known here; the keys are currency, materials, valid_days"},
		{"missing key", "    density: 1.24\n", "", "m.yaml:4: materials[1].density is missing; docs/materials.md"},
		{"missing object", "    wall: {supported: 0.8, unsupported: 1.2}\n", "", "materials[1].wall is missing"},
		{"twice", "    detail: 0.5\n", "    detail: 0.5\n    detail: 0.6\n", "m.yaml:10: materials[1].detail is there twice; keep one"},
		{"null", "density: 1.24", "density:", "m.yaml:7: materials[1].density: this is empty; write one value"},
		{"text for a number", "density: 1.24", "density: heavy", `m.yaml:7: materials[1].density: "heavy" is no number; write one like 0.8`},
		{"infinity", "density: 1.24", "density: .inf", "is no number"},
		{"hexadecimal", "density: 1.24", "density: 0x10", "is no number"},
		{"too dense", "density: 1.24", "density: 1240", "m.yaml:7: materials[1].density: 1240 is out of bounds; write a number from 0.1 to 25"},
		{"negative", "detail: 0.5", "detail: -0.5", "out of bounds"},
		{"a mapping for a number", "detail: 0.5", "detail: {mm: 1}", "this is a mapping; write one value"},
		{"a number for a mapping", "wall: {supported: 0.8, unsupported: 1.2}", "wall: 0.8", `materials[1].wall is "0.8"; write a mapping`},
		{"walls", "unsupported: 1.2", "unsupported: 0.7", "m.yaml:8: materials[1].wall.unsupported: 0.7 is less than supported, 0.8"},
		{"process", "process: FDM", "process: magic", `m.yaml:6: materials[1].process: "magic" is not known; write one of SLS, MJF, SLA, FDM, DMLS`},
		{"currency", "currency: EUR", "currency: EUX", `m.yaml:1: currency: "EUX" is no code of ISO 4217`},
		{"half a day", "lead_days: 3", "lead_days: 2.5", "write a whole number from 0 to 365"},
		{"no material", minimal[strings.Index(minimal, "  - id"):], "  []\n", "m.yaml:4: materials: this is a list of 0; write a list of 1 to 200 entries"},
		{"id", "id: pla", "id: PLA!", `materials[1].id: "PLA!" will not do; write 1 to 40 of a-z, 0-9 and -`},
		{"title", "title: PLA", `title: "a\nb"`, "write one line of 1 to 60 characters"},
		{"colour", `"#f4f4f2"`, `"white"`, "is no colour"},
		{"signed colour", `"#f4f4f2"`, `"#+4f4f2"`, "is no colour"},
		{"price", "material: 0.14", "material: 0.14159", "0.14159 will not do; write a number from 0 to 10000000 with at most 4 decimals"},
		{"negative price", "material: 0.14", "material: -1", "-1 will not do"},
		{"exponent", "material: 0.14", "material: 1e400000000", "is no number"},
		{"comma", "material: 0.14", "material: 0,14", "is no number"},
		{"alias", "    detail: 0.5\n    clearance: 0.4\n", "    detail: &d 0.5\n    clearance: *d\n", "this is an alias, which is not read: write it out"},
		{"merge", "    detail: 0.5\n", "    <<: {detail: 0.5}\n", "anchors and merges are not read"},
		{"breaks out of order", "material: 0.14\n", "material: 0.14\n      breaks: [{from: 10, off: 5}, {from: 10, off: 6}]\n", "breaks[2].from: 10 does not come after 10"},
		{"breaks that rise", "material: 0.14\n", "material: 0.14\n      breaks: [{from: 10, off: 5}, {from: 20, off: 4}]\n", "4 % is less than the break before"},
		{"break of one", "material: 0.14\n", "material: 0.14\n      breaks: [{from: 1, off: 5}]\n", "breaks[1].from"},
		{"slow rush", "material: 0.14\n", "material: 0.14\n      rush: [{id: x, title: X, days: 3, factor: 2}]\n", "rush[1].days: 3 is not faster than lead_days, 3"},
		{"cheap rush", "material: 0.14\n", "material: 0.14\n      rush: [{id: x, title: X, days: 1, factor: 0.5}]\n", "write a number from 1 to 10"},
		{"same finish", "    prices:\n", "      - {id: as-printed, title: Again, colours: [{id: a, title: A, hex: \"#000000\"}]}\n    prices:\n", `finishes[2]: the id "as-printed" was given before`},
		{"cavity", "    detail: 0.5\n", "    detail: 0.5\n    cavities: {hole: 4, holes: 2, closed: maybe}\n", "write one of refuse, remark"},
	} {
		t.Run(c.name, func(t *testing.T) {
			document := strings.Replace(minimal, c.old, c.with, 1)
			if document == minimal {
				t.Fatal("the case changes nothing")
			}
			_, err := Parse("m.yaml", []byte(document))
			if _, ok := errors.AsType[Errors](err); !ok {
				t.Fatalf("no Errors: %v", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}

// TestAllAtOnce: a person sees all mistakes at once, but no flood of them.
func TestAllAtOnce(t *testing.T) {
	_, err := Parse("m.yaml", []byte(strings.NewReplacer("1.24", "heavy", "0.5", "small", "FDM", "magic").Replace(minimal)))
	if n := strings.Count(err.Error(), "\n") + 1; n != 4 {
		t.Errorf("%d lines:\n%v", n, err)
	}
	_, err = Parse("m.yaml", []byte("materials:\n"+strings.Repeat("  - {}\n", 150)))
	if n := strings.Count(err.Error(), "\n") + 1; n != maxProblems {
		t.Errorf("%d lines", n)
	}
	_, err = Parse("m.yaml", make([]byte, maxBytes+1))
	if err == nil || !strings.Contains(err.Error(), "keep it below") {
		t.Errorf("%v", err)
	}
}

// TestDocument: the example in the documentation is read as it stands there.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/materials.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("docs/materials.md has no example")
	}
	if _, err := Parse("docs/materials.md", []byte(example)); err != nil {
		t.Error(err)
	}
	// Every key that is read is described.
	for _, key := range strings.Fields(`currency valid_days materials id title process summary density wall supported
		unsupported tolerate detail clearance envelope shells facets cavities hole holes closed ignore supports angle
		accuracy mm percent lead_days finishes area part setup days colours hex prices material space support shell
		minimum margin breaks from off rush factor`) {
		if !strings.Contains(string(text), "`"+key+"`") {
			t.Errorf("docs/materials.md does not describe %s", key)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(document)
	f.Add([]byte(minimal))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("materials: [{prices: {breaks: [{}]}}, 3]"))
	f.Add([]byte("<<: {? [a]: b}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("f.yaml", data)
		if err != nil {
			if errs, ok := errors.AsType[Errors](err); !ok || len(errs) == 0 || errs[0].Line < 1 {
				t.Fatalf("%v", err)
			}
			return
		}
		// Whatever is accepted can be quoted, or the amount is too large.
		for _, m := range s.Materials {
			q, err := s.Quote(Order{Material: m.ID, Quantity: 10}, part, now)
			if e, ok := errors.AsType[*price.Error](err); err != nil && (!ok || e.Field != "total") {
				t.Fatalf("%s: %v", m.ID, err)
			}
			if err == nil && q.Total.Less(m.Prices.Minimum) {
				t.Fatalf("%s: %s is below the minimum", m.ID, q.Total)
			}
		}
	})
}
