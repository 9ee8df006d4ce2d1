package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Format is a file format.
type Format string

// The formats that are read.
const (
	STL     Format = "STL"
	OBJ     Format = "OBJ"
	ThreeMF Format = "3MF"
	AMF     Format = "AMF"
)

// FormatOf tells the format by a file name's extension, empty if unknown.
func FormatOf(name string) Format {
	switch strings.ToLower(path.Ext(name)) {
	case ".stl":
		return STL
	case ".obj":
		return OBJ
	case ".3mf":
		return ThreeMF
	case ".amf":
		return AMF
	}
	return ""
}

// Unit is a unit of length.
type Unit string

// The units that 3MF and AMF know.
const (
	Micron     Unit = "micron"
	Millimetre Unit = "millimeter"
	Centimetre Unit = "centimeter"
	Metre      Unit = "meter"
	Inch       Unit = "inch"
	Foot       Unit = "foot"
)

// Millimetres is the unit's length; ok is false for a unit that is not known.
func (u Unit) Millimetres() (mm float64, ok bool) {
	switch u {
	case Micron:
		return 1e-3, true
	case Millimetre:
		return 1, true
	case Centimetre:
		return 10, true
	case Metre:
		return 1000, true
	case Inch:
		return 25.4, true
	case Foot:
		return 304.8, true
	}
	return 0, false
}

// GuessUnit proposes the unit of a mesh whose largest extent is size in the
// file's own numbers. It is a guess for a person to confirm: printed parts are
// mostly 10 to 500 mm, CAD in metres or inches gives small numbers.
func GuessUnit(size float64) Unit {
	switch {
	case size < 0.5:
		return Metre
	case size < 5:
		return Inch
	case size > 20000:
		return Micron
	}
	return Millimetre
}

// Options say how to read. The zero value detects the format, demands nothing
// but a unit and holds the default limits.
type Options struct {
	// Format is what the sender says that the input is; empty: by content.
	Format Format
	// Unit is the unit of a format that has none (STL, OBJ); empty: such
	// input is refused with MissingUnit and a guess. 3MF and AMF have their own.
	Unit Unit
	// MaxBytes bounds the input; 0: 256 MiB.
	MaxBytes int64
	// MaxExpanded bounds what a zip archive expands to, in bytes; 0: 1 GiB.
	// Beside it an archive may expand to no more than 100 times its size
	// (and always to 16 MiB).
	MaxExpanded int64
	// MaxFacets bounds the facets after instances are multiplied out; 0: 20 million.
	MaxFacets int
}

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.MaxExpanded == 0 {
		o.MaxExpanded = 1 << 30
	}
	if o.MaxFacets == 0 {
		o.MaxFacets = 20_000_000
	}
	return o
}

// Part is a range of facets that the file keeps apart: a solid, an object, an
// item of a build.
type Part struct {
	Name   string
	Facets [2]int // half-open range in Mesh.Facets
}

// Model is a file that was read.
type Model struct {
	Format   Format
	Unit     Unit  // of the file, or as given
	Mesh     *Mesh // in millimetres; bit-identical points of STL are one vertex
	Parts    []Part
	Warnings []string // what was tolerated
}

// Read reads r to its end, at most MaxBytes, and parses it.
func Read(r io.Reader, o Options) (*Model, error) {
	o = o.withDefaults()
	data, err := io.ReadAll(io.LimitReader(r, o.MaxBytes+1))
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, refuse(o.Format, Truncated, "", "the input was cut after %d bytes; send it again", len(data))
		}
		return nil, fmt.Errorf("read model: %w", err)
	}
	return Parse(data, o)
}

// Parse reads a model from memory. Everything that is wrong with the input is
// an [*Error]. It does not keep data. O(n).
func Parse(data []byte, o Options) (*Model, error) {
	o = o.withDefaults()
	switch {
	case len(data) == 0:
		return nil, refuse(o.Format, Empty, "", "the file is empty; export it again")
	case int64(len(data)) > o.MaxBytes:
		return nil, refuse(o.Format, TooLarge, "", "the file has more than %d bytes; simplify the model", o.MaxBytes)
	}
	found := detect(data)
	if o.Format == "" {
		if found == "" {
			return nil, refuse("", WrongMagic, "", "this is none of STL, OBJ, 3MF and AMF; export the model in one of them")
		}
		o.Format = found
	} else if found != "" && found != o.Format {
		return nil, refuse(o.Format, WrongMagic, "", "the content is %s; rename the file or export it as %s", found, o.Format)
	}
	var model *Model
	var err error
	switch o.Format {
	case STL:
		model, err = parseSTL(data)
	case OBJ:
		model, err = parseOBJ(data)
	case ThreeMF:
		model, err = parseThreeMF(data, o)
	case AMF:
		model, err = parseAMF(data, o)
	default:
		return nil, refuse("", WrongMagic, "", "%q is none of STL, OBJ, 3MF and AMF", string(o.Format))
	}
	if err != nil {
		return nil, err
	}
	return model, model.finish(o)
}

// finish applies what holds for every format: facets, unit, area, range.
func (model *Model) finish(o Options) error {
	m := model.Mesh
	if len(m.Facets) == 0 {
		return refuse(o.Format, Empty, "", "the file holds no facets; export the model as a triangle mesh")
	}
	if len(m.Facets) > o.MaxFacets {
		return refuse(o.Format, TooLarge, "", "the model has more than %d facets; simplify it", o.MaxFacets)
	}
	if model.Unit == "" {
		model.Unit = o.Unit
	}
	if model.Unit == "" {
		extent := m.Bounds().Size()
		size := max(extent[0], extent[1], extent[2])
		missing := refuse(o.Format, MissingUnit, "", "the format has no unit: say which it is; its largest extent is %.6g, so %s is likely", size, GuessUnit(size))
		missing.Guess = GuessUnit(size)
		return missing
	}
	mm, ok := model.Unit.Millimetres()
	if !ok {
		return refuse(o.Format, Invalid, "", "unit %q is not known; use micron, millimeter, centimeter, meter, inch or foot", string(model.Unit))
	}
	for i, v := range m.Vertices {
		if mm != 1 {
			v = v.Mul(mm)
			m.Vertices[i] = v
		}
		if !v.finite() {
			return refuse(o.Format, NotFinite, fmt.Sprintf("vertex %d", i), "a coordinate is not a number below 1e9 mm; repair the export")
		}
	}
	for f := range m.Facets {
		if !m.degenerate(f) {
			return nil
		}
	}
	return refuse(o.Format, OnlyDegenerate, "", "all %d facets have zero area; export the model again", len(m.Facets))
}

// detect tells a format by content, empty if it is none for sure.
func detect(data []byte) Format {
	if bytes.HasPrefix(data, []byte("PK\x03\x04")) || bytes.HasPrefix(data, []byte("PK\x05\x06")) {
		if bytes.Contains(data, []byte("3D/")) || bytes.Contains(data, []byte("[Content_Types].xml")) {
			return ThreeMF
		}
		if bytes.Contains(bytes.ToLower(data[:min(len(data), 512)]), []byte(".amf")) {
			return AMF
		}
		return ThreeMF
	}
	if stlSizeFits(data) {
		return STL
	}
	text := bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), " \t\r\n")
	head := text[:min(len(text), 4096)]
	switch {
	case bytes.HasPrefix(head, []byte("<")):
		if bytes.Contains(head, []byte("<amf")) || bytes.Contains(head, []byte("<!DOCTYPE amf")) {
			return AMF
		}
		return ""
	case asciiSTL(text):
		return STL
	case bytes.IndexByte(head, 0) >= 0:
		return ""
	}
	for line := range bytes.Lines(text) {
		word, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		switch string(word) {
		case "v", "mtllib", "o", "g":
			return OBJ
		case "":
			continue
		}
		if word[0] != '#' {
			return ""
		}
	}
	return ""
}
