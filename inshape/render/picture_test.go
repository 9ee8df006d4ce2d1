package render

import (
	"bytes"
	"errors"
	"flag"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"inshape/mesh"
)

var update = flag.Bool("update", false, "rewrite the golden pictures; look at them")

// TestGolden compares with pictures that a person has looked at. Arithmetic
// differs a little between processors, so the pixels may, too.
func TestGolden(t *testing.T) {
	white := color.NRGBA{0xff, 0xff, 0xff, 0xff}
	open := knot(120, 24)
	open.Facets = open.Facets[:len(open.Facets)-900]
	heights := make([]float64, 2*120*24)
	k := knot(120, 24)
	for f := range heights {
		a, _, _ := k.Corners(f)
		heights[f] = a[2] + 14
	}
	for name, c := range map[string]struct {
		p Picture
		m *mesh.Mesh
	}{
		"knot":        {Picture{Background: white}, k},
		"transparent": {Picture{Colour: color.NRGBA{0x26, 0x26, 0x2a, 0xff}, Samples: 3}, k},
		"heat":        {Picture{Background: white, Facets: Scale{Limit: 14}.Heat(heights)}, k},
		"open":        {Picture{Background: white, View: Top, Lines: [][2]mesh.Vec{{{-20, -20, 0}, {20, 20, 0}}}}, open},
		"guarded":     {Picture{Background: white}.Guarded("for review only"), cube()},
	} {
		t.Run(name, func(t *testing.T) {
			p := c.p
			if p.Width == 0 {
				p.Width, p.Height = 240, 180
			}
			var out bytes.Buffer
			if err := p.PNG(&out, c.m); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".png")
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer golden.Close()
			want, err := png.Decode(golden)
			if err != nil {
				t.Fatal(err)
			}
			got, err := png.Decode(&out)
			if err != nil {
				t.Fatal(err)
			}
			if got.Bounds() != want.Bounds() {
				t.Fatalf("%v, want %v", got.Bounds(), want.Bounds())
			}
			if mean, far := compare(got, want); mean > 0.5 || far > 0.002 {
				t.Errorf("pixels differ by %.2f of 255 in the mean, %.2f %% of them by more than 16", mean, 100*far)
			}
		})
	}
}

// compare gives the mean difference of all channels, and the share of pixels
// with one that differs by more than 16.
func compare(a, b image.Image) (mean, far float64) {
	r := a.Bounds()
	n := float64(r.Dx() * r.Dy())
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			p, q := color.NRGBAModel.Convert(a.At(x, y)).(color.NRGBA), color.NRGBAModel.Convert(b.At(x, y)).(color.NRGBA)
			var worst float64
			for _, d := range [4]int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B), int(p.A) - int(q.A)} {
				mean += math.Abs(float64(d)) / (4 * n)
				worst = max(worst, math.Abs(float64(d)))
			}
			if worst > 16 {
				far += 1 / n
			}
		}
	}
	return mean, far
}

// TestViews: each view shows the side that it is named after, upright.
func TestViews(t *testing.T) {
	m := cube()
	sides := []color.NRGBA{ // in the order of cube: bottom, top, front, back, left, right
		{200, 0, 0, 255}, {0, 200, 0, 255}, {0, 0, 200, 255}, {200, 200, 0, 255}, {0, 200, 200, 255}, {200, 0, 200, 255},
	}
	var facets []color.NRGBA
	for _, c := range sides {
		facets = append(facets, c, c)
	}
	at := func(v View, x, y int) color.NRGBA {
		img, err := Picture{Width: 100, Height: 100, View: v, Facets: facets, Flat: true}.Draw(m)
		if err != nil {
			t.Fatal(err)
		}
		return img.NRGBAAt(x, y)
	}
	same := func(a, b color.NRGBA) bool {
		return (a.R > 90) == (b.R > 90) && (a.G > 90) == (b.G > 90) && (a.B > 90) == (b.B > 90)
	}
	for v, side := range map[View]int{Bottom: 0, Top: 1, Front: 2, Back: 3, Left: 4, Right: 5} {
		if c := at(v, 50, 50); !same(c, sides[side]) || c.A != 255 {
			t.Errorf("%s shows %v in the middle, want a shade of %v", v, c, sides[side])
		}
	}
	for _, c := range []struct{ x, y, side int }{{50, 30, 1}, {32, 60, 2}, {68, 60, 5}} {
		if got := at(Isometric, c.x, c.y); !same(got, sides[c.side]) {
			t.Errorf("isometric shows %v at %d,%d, want a shade of %v", got, c.x, c.y, sides[c.side])
		}
	}
}

// TestCover: the picture covers what the part covers, without cracks.
func TestCover(t *testing.T) {
	img, err := Picture{Width: 200, Height: 200, View: Front}.Draw(cube())
	if err != nil {
		t.Fatal(err)
	}
	var cover float64
	for i := 3; i < len(img.Pix); i += 4 {
		cover += float64(img.Pix[i]) / 255
	}
	if want := 164. * 164; math.Abs(cover-want) > 0.01*want {
		t.Errorf("%.0f pixels, want %.0f", cover, want)
	}
}

// TestOutside: of a closed part the inside is never seen, not even at outlines.
func TestOutside(t *testing.T) {
	for name, m := range map[string]*mesh.Mesh{"knot": knot(300, 24), "cube": cube()} {
		for _, v := range Views {
			img, err := Picture{View: v, Samples: 1, Colour: color.NRGBA{0, 0, 255, 255}, Flat: true}.Draw(m)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(img.Pix); i += 4 {
				if img.Pix[i] > img.Pix[i+2] {
					t.Fatalf("%s, %s: pixel %d is %v", name, v, i/4, img.Pix[i:i+4])
				}
			}
		}
	}
}

// TestFill: a sample is filled exactly if its middle is in the facet.
func TestFill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		coordinate := rapid.Float32Range(-10, 40)
		var c [3]vec
		for i := range c {
			c[i] = vec{coordinate.Draw(t, "x"), coordinate.Draw(t, "y"), coordinate.Draw(t, "z")}
		}
		b := newBuffer(32, 32)
		b.fill(7, c[0], c[1], c[2])
		for y := range 32 {
			for x := range 32 {
				// The least distance from the edges' lines, positive inside.
				px, py := float64(x)+0.5, float64(y)+0.5
				lo, hi := math.Inf(1), math.Inf(-1)
				for i := range 3 {
					p, q := c[i], c[(i+1)%3]
					dx, dy := float64(q[0]-p[0]), float64(q[1]-p[1])
					d := (dx*(py-float64(p[1])) - dy*(px-float64(p[0]))) / max(math.Hypot(dx, dy), 1e-9)
					lo, hi = min(lo, d), max(hi, d)
				}
				inside, outside := lo > 1e-3 || hi < -1e-3, lo < -1e-3 && hi > 1e-3
				if got := b.facet[y*32+x] == 7; got && outside || !got && inside {
					t.Fatalf("%d,%d filled %t, distances %g to %g", x, y, got, lo, hi)
				}
				if z := b.z[y*32+x]; inside && (z < min(c[0][2], c[1][2], c[2][2]) || z > max(c[0][2], c[1][2], c[2][2])) {
					t.Fatalf("%d,%d: depth %g is outside the facet", x, y, z)
				}
			}
		}
	})
}

// TestNearest: what is in front hides what is behind, in whatever order they come.
func TestNearest(t *testing.T) {
	m := cube()
	behind := m.Clone()
	for i, v := range behind.Vertices {
		behind.Vertices[i] = v.Add(mesh.Vec{0, 20, 0})
	}
	red, blue := color.NRGBA{255, 0, 0, 255}, color.NRGBA{0, 0, 255, 255}
	for _, first := range []bool{true, false} {
		var both mesh.Mesh
		facets := make([]color.NRGBA, 24)
		for i := range facets {
			facets[i] = red
			if (i < 12) != first {
				facets[i] = blue
			}
		}
		if first {
			both.Append(m)
			both.Append(behind)
		} else {
			both.Append(behind)
			both.Append(m)
		}
		img, err := Picture{Width: 64, Height: 64, View: Front, Facets: facets}.Draw(&both)
		if err != nil {
			t.Fatal(err)
		}
		if c := img.NRGBAAt(32, 32); c.R < 100 || c.B > 60 {
			t.Errorf("in front is red; seen is %v", c)
		}
	}
}

// TestLines: a line in front is bright, one behind shines through.
func TestLines(t *testing.T) {
	strength := func(y, z float64) int {
		img, err := Picture{
			Width: 100, Height: 100, View: Front, Background: color.NRGBA{255, 255, 255, 255},
			Lines: [][2]mesh.Vec{{{2, y, z}, {8, y, z}}},
		}.Draw(cube())
		if err != nil {
			t.Fatal(err)
		}
		c := img.NRGBAAt(50, 50)
		return int(c.R) - int(c.G)
	}
	before, behind, none := strength(0, 5), strength(10, 5), strength(0, 1e6)
	if before < 200 || behind < none+20 || behind > before/2 || none > 3 {
		t.Errorf("red over green: %d in front, %d behind, %d far away", before, behind, none)
	}
}

func TestGuarded(t *testing.T) {
	p := Picture{Width: 2000, Height: 2000, Samples: 1, View: Top}.Guarded("sample")
	img, err := p.Draw(cube())
	if err != nil {
		t.Fatal(err)
	}
	p.Watermark = ""
	bare, err := p.Draw(cube())
	if err != nil {
		t.Fatal(err)
	}
	if img.Rect.Dx() != 320 || img.Rect.Dy() != 240 {
		t.Errorf("%v", img.Rect)
	}
	// The mark goes over all of the picture: no sixteenth of it is free.
	for y := 0; y < 240; y += 60 {
		for x := 0; x < 320; x += 80 {
			r := image.Rect(x, y, x+80, y+60)
			if mean, _ := compare(img.SubImage(r), bare.SubImage(r)); mean == 0 {
				t.Errorf("%v is not marked", r)
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, p := range map[string]Picture{
		"too large":       {Width: 4000},
		"too small":       {Height: 3},
		"negative height": {Height: -480},
		"too many":        {Width: 2048, Height: 2048, Samples: 4},
		"samples":         {Samples: 9},
		"view":            {View: "inside"},
		"colours":         {Facets: make([]color.NRGBA, 3)},
		"watermark":       {Watermark: "a watermark that goes on and on and on and on and on and on and on"},
	} {
		if _, err := p.Draw(cube()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOdd: meshes that have nothing to see are drawn as nothing.
func TestOdd(t *testing.T) {
	for name, m := range map[string]*mesh.Mesh{
		"empty":    {},
		"point":    {Vertices: []mesh.Vec{{1, 2, 3}}, Facets: []mesh.Facet{{0, 0, 0}}},
		"needle":   {Vertices: []mesh.Vec{{0, 0, 0}, {0, 0, 9}}, Facets: []mesh.Facet{{0, 1, 0}}},
		"vertices": {Vertices: []mesh.Vec{{0, 0, 0}, {0, 0, 9}}},
	} {
		for _, v := range Views {
			img, err := Picture{Width: 64, Height: 48, View: v, Flat: true}.Draw(m)
			if err != nil {
				t.Fatalf("%s, %s: %v", name, v, err)
			}
			if bytes.ContainsFunc(img.Pix, func(r rune) bool { return r != 0 }) {
				t.Errorf("%s, %s: something is there", name, v)
			}
		}
	}
}

// TestBusy: meshes that are made to take long don't. Each of these takes minutes
// if it is drawn as it is.
func TestBusy(t *testing.T) {
	cone := &mesh.Mesh{Vertices: []mesh.Vec{{0, 0, 10}}}
	const sides = 200_000
	for i := range int32(sides) {
		sin, cos := math.Sincos(2 * math.Pi * float64(i) / sides)
		cone.Vertices = append(cone.Vertices, mesh.Vec{10 * cos, 10 * sin, 0})
		cone.Facets = append(cone.Facets, mesh.Facet{0, i + 1, (i+1)%sides + 1})
	}
	stack := &mesh.Mesh{}
	for i := range int32(100_000) {
		z := float64(i) * 1e-4
		stack.Vertices = append(stack.Vertices, mesh.Vec{0, 0, z}, mesh.Vec{40, 0, z}, mesh.Vec{0, 30, z})
		stack.Facets = append(stack.Facets, mesh.Facet{3 * i, 3*i + 1, 3*i + 2})
	}
	edgewise := &mesh.Mesh{ // nothing to see but their shadow
		Vertices: []mesh.Vec{{0, 0, 0}, {30, -30, 30}, {30, 0, 0}},
		Facets:   slices.Repeat([]mesh.Facet{{0, 1, 2}}, 1_000_000),
	}
	lines := make([][2]mesh.Vec, 10_000)
	for i := range lines {
		lines[i] = [2]mesh.Vec{{0, 0, float64(i)}, {10, 10, 0}}
	}
	for name, c := range map[string]struct {
		p Picture
		m *mesh.Mesh
	}{
		"cone":     {Picture{}, cone},
		"stack":    {Picture{View: Top}, stack},
		"edgewise": {Picture{}, edgewise},
		"lines":    {Picture{Lines: lines}, cube()},
	} {
		start := processorTime(t)
		if _, err := c.p.Draw(c.m); err != nil {
			t.Fatal(err)
		}
		if d := processorTime(t) - start; d > 10*time.Second {
			t.Errorf("%s takes %v", name, d)
		}
	}
}

// processorTime is what this process has used: other than the clock, it is the
// same on a busy machine.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPicture draws 100,000 facets at 640×480, with PNG. On a busy machine
// the processor's time tells more than the clock's.
func BenchmarkPicture(b *testing.B) {
	m := knot(1000, 50)
	start := processorTime(b)
	for b.Loop() {
		if err := (Picture{}).PNG(io.Discard, m); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((processorTime(b)-start).Milliseconds())/float64(b.N), "cpu-ms/op")
}
