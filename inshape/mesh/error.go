package mesh

import "fmt"

// Code names a fault of an input. It is an error, so that
// errors.Is(err, mesh.Truncated) asks for one.
type Code string

// The faults that reading tells apart. Their texts are stable: interfaces show
// them as machine-readable codes.
const (
	Empty                Code = "empty"                 // no bytes, or no facet
	Truncated            Code = "truncated"             // the file ends before its structure does
	WrongCount           Code = "wrong-count"           // the declared and the actual number of facets differ
	WrongMagic           Code = "wrong-magic"           // not the format that it is said to be, or none that is known
	NotFinite            Code = "not-finite"            // a coordinate is NaN, infinite or beyond 1e9 mm
	OnlyDegenerate       Code = "only-degenerate"       // every facet has zero area
	BadIndex             Code = "bad-index"             // a facet or a reference names something that is not there
	ZipBomb              Code = "zip-bomb"              // the archive expands out of all proportion
	XMLEntity            Code = "xml-entity"            // a document type or entity declaration
	MissingUnit          Code = "missing-unit"          // the format has no unit and none was given
	TooLarge             Code = "too-large"             // above a limit of Options
	UnsupportedExtension Code = "unsupported-extension" // a 3MF extension that is required and not known here
	Malformed            Code = "malformed"             // the syntax is broken
	Invalid              Code = "invalid"               // well-formed, and against the format's rules
)

// Error makes a code usable as the target of errors.Is.
func (c Code) Error() string { return string(c) }

// Error is a refused input.
type Error struct {
	Code   Code
	Format Format // what the input was taken for; empty if unknown
	Where  string // line, byte or part; empty for the whole file
	Text   string // one clear line: what is wrong and what to do
	Guess  Unit   // with MissingUnit: the unit that is likely, for a person to confirm
}

// Error gives format, place and text in one line.
func (e *Error) Error() string {
	s := e.Text
	if e.Where != "" {
		s = e.Where + ": " + s
	}
	if e.Format != "" {
		s = string(e.Format) + ": " + s
	}
	return s
}

// Unwrap gives the code.
func (e *Error) Unwrap() error { return e.Code }

func refuse(f Format, code Code, where, format string, args ...any) *Error {
	return &Error{Code: code, Format: f, Where: where, Text: fmt.Sprintf(format, args...)}
}
