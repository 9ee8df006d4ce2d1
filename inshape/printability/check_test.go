package printability

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"inshape/material"
	"inshape/mesh"
)

// sound is a part that every material of the default set makes without a remark.
func sound() *Facts {
	return &Facts{
		Solid: true, Volume: 12_000, Area: 8200, Box: [3]float64{40, 30, 20}, OrientedBox: [3]float64{40, 30, 20},
		Facets: 5000, Shells: 1, Unit: mesh.Millimetre, UnitGuess: mesh.Millimetre,
		Thickness: walls(3),
	}
}

// walls is a thickness that is the same everywhere.
func walls(mm float64) *Thickness {
	t := &Thickness{Places: []Place{{At: mesh.Vec{1, 2, 3}, Facet: 7, Value: mm}}, Curve: make([]float64, curvePoints)}
	for i := range t.Curve {
		if float64(i+1)*CurveStep > mm {
			t.Curve[i] = 100
		}
	}
	return t
}

func find(t *testing.T, id material.ID) material.Material {
	t.Helper()
	m, ok := material.Default().Find(id)
	if !ok {
		t.Fatalf("no %s", id)
	}
	return m
}

func TestSound(t *testing.T) {
	for _, v := range Matrix(sound(), material.Default()) {
		if v.Outcome != Printable || len(v.Findings) > 0 {
			t.Errorf("%s is %s: %+v", v.Material, v.Outcome, v.Findings)
		}
	}
	v := Judge(sound(), find(t, "pa12-sls"))
	if v.Accuracy != 0.3 || math.Abs(v.Weight-11.4) > 1e-9 || v.Title == "" || v.Process != material.SLS {
		t.Errorf("%+v", v)
	}
}

func TestFindings(t *testing.T) {
	at := Place{At: mesh.Vec{1, 1, 1}, Facet: 3}
	spot := func(v float64) Place { p := at; p.Value = v; return p }
	for _, c := range []struct {
		name     string
		change   func(*Facts)
		in       material.ID
		code     Code
		severity Severity
		text     string
		remedies string
		places   int
	}{
		{
			"open", func(f *Facts) { f.Solid, f.Open, f.Reason = false, 12, "12 edges are open" }, "pla",
			NotSolid, Error, "The part is no solid: 12 edges are open.", "repair it, or export it again as one closed body", 0,
		},
		{
			"open for no known reason", func(f *Facts) { f.Solid = false }, "pla",
			NotSolid, Error, "its surface does not bound a volume", "repair it, or export it again as one closed body", 0,
		},
		{
			"centimetres", func(f *Facts) { f.Box, f.UnitGuess = [3]float64{4, 3, 2}, mesh.Centimetre }, "pla",
			DoubtfulUnit, Warning, "Read in millimeters the part is 4 mm long; its size looks like centimeters, which would be 40 mm.", "read it in centimeters", 0,
		},
		{
			"too large", func(f *Facts) { f.Box, f.OrientedBox = [3]float64{100, 300, 100}, [3]float64{100, 300, 90} }, "pla",
			TooLarge, Error, "The part takes 300 × 100 × 90 mm in its best position; the machine builds 250 × 210 × 210 mm.", "scale by 0.83; split it into 2 parts that are joined later", 0,
		},
		{
			"much too large", func(f *Facts) { f.Box, f.OrientedBox = [3]float64{6000, 10, 10}, [3]float64{6000, 10, 10} }, "pla",
			TooLarge, Error, "6000 × 10 × 10 mm", "split it into 24 parts that are joined later", 0,
		},
		{
			"too small", func(f *Facts) { f.Box = [3]float64{0.4, 0.3, 0.2} }, "pla",
			TooSmall, Error, "The part is 0.4 × 0.3 × 0.2 mm; what is smaller than 0.5 mm does not show.", "scale by 2.5, or check the unit", 0,
		},
		{
			"flat", func(f *Facts) { f.Box = [3]float64{4, 0, 0} }, "pla",
			TooSmall, Error, "does not show", "", 0,
		},
		{
			"thin wall", func(f *Facts) { f.Thickness = walls(0.53) }, "pa12-sls",
			ThinWall, Error, "Walls are as thin as 0.53 mm; 100 % of the surface is below the least of 0.7 mm.", "thicken to 0.7 mm; scale by 1.35", 1,
		},
		{
			"thin wall of a large part", func(f *Facts) { f.Thickness, f.Box = walls(0.53), [3]float64{320, 320, 320} }, "pa12-sls",
			ThinWall, Error, "Walls are as thin as 0.53 mm", "thicken to 0.7 mm", 1,
		},
		{
			"thin wall that would have to grow too much", func(f *Facts) { f.Thickness, f.Box = walls(0.2), [3]float64{4, 3, 2} }, "pa12-sls",
			ThinWall, Error, "Walls are as thin as 0.2 mm", "thicken to 0.7 mm", 1,
		},
		{
			"foil", func(f *Facts) { f.Thickness = walls(0.004) }, "pa12-sls",
			ThinWall, Error, "Walls are as thin as less than 0.01 mm", "thicken to 0.7 mm", 1,
		},
		{
			"thin spot", func(f *Facts) { f.Thickness = walls(3); f.Thickness.Places = []Place{spot(0.1), spot(3)} }, "pa12-sls",
			ThinSpot, Warning, "Spots are as thin as 0.1 mm, on less than 0.1 % of the surface; below 0.7 mm they may be lost.", "thicken to 0.7 mm", 1,
		},
		{
			"weak wall", func(f *Facts) { f.Thickness = walls(0.85) }, "pa12-sls",
			WeakWall, Warning, "100 % of the surface is thinner than 1 mm", "thicken to 1 mm; scale by 1.2", 1,
		},
		{
			"narrow gap", func(f *Facts) { f.Gaps = []Place{spot(0.2), spot(0.3), spot(2)} }, "pa12-sls",
			NarrowGap, Warning, "Gaps down to 0.2 mm; what is closer than 0.5 mm fuses.", "widen gaps to 0.5 mm; close them, if nothing needs to move", 2,
		},
		{
			"loose shells", func(f *Facts) { f.Shells = 3 }, "steel-316l",
			LooseShells, Error, "The file holds 3 loose shells; one piece takes 1.", "order the shells as parts of their own; join them, if they belong together", 0,
		},
		{
			"powder", func(f *Facts) { f.Cavities = []Cavity{{Volume: 50}, {Volume: 400}, {Volume: 3000}} }, "pa12-sls",
			Trapped, Warning, "2 closed cavities with 3.4 cm³: what is in there cannot leave.", "add 2 escape holes of 4 mm to each", 2,
		},
		{
			"powder behind necks", func(f *Facts) {
				f.Openings = []float64{3.5, 4}
				f.Cavities = []Cavity{{Volume: 400}, {Volume: 3000, Neck: 2, Opening: 4}, {Volume: 9000, Neck: 2, Opening: 3.5}}
			}, "pa12-sls",
			Trapped, Warning, "2 cavities, closed or with too narrow a way out, with 3.4 cm³", "add 2 escape holes of 4 mm to each", 2,
		},
		{
			"resin", func(f *Facts) { f.Cavities = []Cavity{{Volume: 3000}} }, "resin-standard",
			Trapped, Error, "1 closed cavity with 3 cm³", "add 2 escape holes of 3.5 mm to each", 1,
		},
		{
			"overhang", func(f *Facts) {
				f.Overhangs = []Overhang{{Angle: 30, Area: 900}, {Angle: 45, Area: 820}, {Angle: 60, Area: 100}}
			}, "steel-316l",
			Overhanging, Info, "820 mm² (10 % of the surface) need supports, which leave marks.", "turn it so that less hangs over", 1,
		},
		{
			"massive", func(f *Facts) { f.Volume, f.Area = 64_000, 9600 }, "resin-standard",
			Massive, Info, "The part is massive: 64 cm³. Hollowed it takes 19.2 cm³ or less.", "hollow it to walls of 2 mm", 0,
		},
		{
			"crossing", func(f *Facts) { f.Intersections, f.Crossings = 40, slices.Repeat([]Place{at}, 40) }, "pla",
			Crossing, Warning, "40 pairs of facets cross each other", "unite the bodies that overlap", 16,
		},
		{
			"many facets", func(f *Facts) { f.Facets = 3_000_000 }, "pla",
			ManyFacets, Warning, "3000000 facets; job preparation takes 2000000.", "export it with a coarser tolerance", 0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := sound()
			c.change(f)
			v := Judge(f, find(t, c.in))
			i := slices.IndexFunc(v.Findings, func(x Finding) bool { return x.Code == c.code })
			if i < 0 {
				t.Fatalf("not found; %+v", v.Findings)
			}
			x := v.Findings[i]
			var remedies []string
			for _, r := range x.Remedies {
				remedies = append(remedies, r.Text)
			}
			if x.Severity != c.severity || !strings.Contains(x.Text, c.text) || len(x.Places) != c.places {
				t.Errorf("%s, %d places: %s", x.Severity, len(x.Places), x.Text)
			}
			if got := strings.Join(remedies, "; "); got != c.remedies {
				t.Errorf("remedies: %s", got)
			}
			if want := map[Severity]Outcome{Error: NotPrintable, Warning: WithRemarks, Info: Printable}[c.severity]; v.Outcome != want {
				t.Errorf("the part is %s, want %s: %+v", v.Outcome, want, v.Findings)
			}
		})
	}
}

// TestNotFound: what a material does not care for, it does not speak of.
func TestNotFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Facts)
		in     material.ID
		code   Code
	}{
		{"cavities in filament", func(f *Facts) { f.Cavities = []Cavity{{Volume: 3000}} }, "pla", Trapped},
		{"a bubble", func(f *Facts) { f.Cavities = []Cavity{{Volume: 99}} }, "pa12-sls", Trapped},
		{"overhang in powder", func(f *Facts) { f.Overhangs = []Overhang{{Angle: 45, Area: 900}} }, "pa12-sls", Overhanging},
		{"overhang not measured", func(*Facts) {}, "pla", Overhanging},
		{"massive filament", func(f *Facts) { f.Volume, f.Area = 64_000, 9600 }, "pla", Massive},
		{"a wall at the limit", func(f *Facts) { f.Thickness = walls(0.69999) }, "pa12-sls", ThinWall},
		{"walls that are thin, and few that are weak", func(f *Facts) {
			f.Thickness = walls(5)
			f.Thickness.Places = []Place{{Value: 0.3}}
			for i := range f.Thickness.Curve {
				f.Thickness.Curve[i] = max(f.Thickness.Curve[i], 1.2)
			}
		}, "pa12-sls", WeakWall},
		{"walls not measured", func(f *Facts) { f.Thickness = nil }, "pa12-sls", ThinWall},
		{"nothing opposite", func(f *Facts) { f.Thickness = &Thickness{} }, "pa12-sls", ThinWall},
		{"lies across", func(f *Facts) { f.Box = [3]float64{205, 205, 249} }, "pla", TooLarge},
		{"lies askew", func(f *Facts) { f.Box, f.OrientedBox = [3]float64{260, 260, 10}, [3]float64{240, 30, 10} }, "pla", TooLarge},
		{"loose shells in powder", func(f *Facts) { f.Shells = 90 }, "pa12-sls", LooseShells},
		{"walls of what is no solid", func(f *Facts) { f.Solid, f.Thickness = false, walls(0.1) }, "pa12-sls", ThinWall},
	} {
		f := sound()
		c.change(f)
		for _, x := range Check(f, find(t, c.in)) {
			if x.Code == c.code {
				t.Errorf("%s: %s", c.name, x.Text)
			}
		}
	}
}

func drawFacts(t *rapid.T) *Facts {
	size := rapid.Float64Range(0, 2000)
	f := &Facts{
		Solid: rapid.Bool().Draw(t, "solid"), Volume: rapid.Float64Range(0, 1e6).Draw(t, "volume"), Area: rapid.Float64Range(0, 1e5).Draw(t, "area"),
		Box:    [3]float64{size.Draw(t, "x"), size.Draw(t, "y"), size.Draw(t, "z")},
		Facets: rapid.IntRange(0, 5_000_000).Draw(t, "facets"), Shells: rapid.IntRange(0, 200).Draw(t, "shells"),
		Intersections: rapid.IntRange(0, 3).Draw(t, "crossings"), Unit: mesh.Millimetre,
		UnitGuess: rapid.SampledFrom([]mesh.Unit{"", mesh.Millimetre, mesh.Inch, mesh.Metre}).Draw(t, "guess"),
		Thickness: walls(rapid.Float64Range(1e-9, 12).Draw(t, "wall")),
	}
	if rapid.Bool().Draw(t, "cavity") {
		f.Cavities = []Cavity{{Volume: rapid.Float64Range(0, 1e5).Draw(t, "cavity volume")}}
	}
	if rapid.Bool().Draw(t, "gap") {
		f.Gaps = []Place{{Value: rapid.Float64Range(0, 2).Draw(t, "gap width")}}
	}
	return f
}

// TestVerdicts: the worst finding comes first and decides, each one says what it
// is about, and all of it can be written as JSON.
func TestVerdicts(t *testing.T) {
	rank := map[Severity]int{Error: 2, Warning: 1, Info: 0}
	rapid.Check(t, func(t *rapid.T) {
		for _, v := range Matrix(drawFacts(t), material.Default()) {
			worst := 0
			for i, x := range v.Findings {
				worst = max(worst, rank[x.Severity])
				if i > 0 && rank[x.Severity] > rank[v.Findings[i-1].Severity] {
					t.Errorf("%s comes after %s", x.Code, v.Findings[i-1].Code)
				}
				if !strings.HasSuffix(x.Text, ".") || strings.Contains(x.Text, "NaN") || strings.Contains(x.Text, "Inf") {
					t.Errorf("%s: %q", x.Code, x.Text)
				}
			}
			if v.Outcome != []Outcome{Printable, WithRemarks, NotPrintable}[worst] {
				t.Errorf("%s with %+v", v.Outcome, v.Findings)
			}
			if _, err := json.Marshal(v); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestRemediesHelp: a part that is scaled, thickened, opened or widened as it is
// told is no longer found for that reason.
func TestRemediesHelp(t *testing.T) {
	s := material.Default()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		f.Solid, f.OrientedBox = true, f.Box
		m := rapid.SampledFrom(s.Materials).Draw(t, "material")
		for _, x := range Check(f, m) {
			for _, r := range x.Remedies {
				mended := *f
				switch r.Action {
				case Scale:
					for k := range f.Box {
						mended.Box[k] = f.Box[k] * r.Value
					}
					mended.OrientedBox = mended.Box
					mended.Thickness = walls(f.Thickness.Places[0].Value * r.Value)
				case Thicken:
					mended.Thickness = walls(r.Value)
				case Separate:
					mended.Gaps = []Place{{Value: r.Value}}
				case Holes:
					mended.Cavities = nil
				default:
					continue
				}
				if slices.ContainsFunc(Check(&mended, m), func(y Finding) bool { return y.Code == x.Code }) {
					t.Errorf("%s: %s does not help", x.Text, r.Text)
				}
			}
		}
	})
}
