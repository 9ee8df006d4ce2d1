package material

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/govalues/decimal"
	"go.yaml.in/yaml/v4"
)

// Error is one thing that is wrong with a document.
type Error struct {
	File string
	Line int
	Text string // what is wrong and what to do
}

// Error gives file, line and text in one line.
func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text) }

// Errors is all that is wrong with a document, one line each.
type Errors []*Error

// Error gives one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, x := range e {
		lines[i] = x.Error()
	}
	return strings.Join(lines, "\n")
}

// reader reads a document strictly: every key must be known and used once, and
// every value within its bounds. It goes on after a problem, so that all are
// told at once.
type reader struct {
	file     string
	problems Errors
}

func (r *reader) refuse(n *yaml.Node, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, &Error{File: r.file, Line: max(n.Line, 1), Text: fmt.Sprintf(format, args...)})
	}
}

// document gives the root of the one document in data, nil if there is none.
func (r *reader) document(data []byte) *yaml.Node {
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		at, text := &yaml.Node{}, strings.Join(strings.Fields(err.Error()), " ")
		if load, ok := errors.AsType[*yaml.LoadError](err); ok {
			at.Line, text = load.Mark.Line, load.Message
		}
		r.refuse(at, "this is not one YAML document: %s", text)
		return nil
	}
	if len(doc.Content) != 1 {
		r.refuse(&doc, "the document is empty; docs/materials.md shows one")
		return nil
	}
	return doc.Content[0]
}

// object is a mapping that is being read.
type object struct {
	r       *reader
	node    *yaml.Node
	path    string // for messages: materials[2].wall
	fields  map[string]*yaml.Node
	asked   map[string]bool
	lenient bool // keys may be absent
}

// object takes n as a mapping. It is never nil: what is no mapping is refused
// and reads as an empty one, silently.
func (r *reader) object(n *yaml.Node, path string) *object {
	o := &object{r: r, node: n, path: path, fields: map[string]*yaml.Node{}, asked: map[string]bool{}}
	if n.Kind != yaml.MappingNode {
		r.refuse(n, "%s is %s; write a mapping of keys to values", o.name(""), kind(n))
		o.lenient = true
		return o
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch _, twice := o.fields[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Tag == "!!merge":
			r.refuse(key, "%s has a key that is no plain word; anchors and merges are not read, write everything out", o.name(""))
		case twice:
			r.refuse(key, "%s is there twice; keep one", o.name(key.Value))
		default:
			o.fields[key.Value] = n.Content[i+1]
		}
	}
	return o
}

// name is the path of a key, or of the object itself.
func (o *object) name(key string) string {
	switch {
	case o.path == "" && key == "":
		return "the document"
	case o.path == "" || key == "":
		return o.path + key
	}
	return o.path + "." + key
}

// has tells whether an optional mapping is there.
func (o *object) has(key string) bool {
	o.asked[key] = true
	_, ok := o.fields[key]
	return ok
}

// optional is the same object for keys that may be absent and are zero then.
func (o *object) optional() *object {
	lenient := *o
	lenient.lenient = true
	return &lenient
}

// get gives a key's value, nil if it is absent.
func (o *object) get(key string) *yaml.Node {
	o.asked[key] = true
	n, ok := o.fields[key]
	if !ok && !o.lenient {
		o.r.refuse(o.node, "%s is missing; docs/materials.md says what it means", o.name(key))
	}
	return n
}

// refuse says what is wrong with a key's value.
func (o *object) refuse(key, format string, args ...any) {
	n := o.fields[key]
	if n == nil {
		return // it is missing, which was said
	}
	o.r.refuse(n, "%s: %s", o.name(key), fmt.Sprintf(format, args...))
}

// end refuses keys that were not asked for.
func (o *object) end() {
	if o.node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(o.node.Content); i += 2 {
		key := o.node.Content[i]
		if _, ok := o.fields[key.Value]; ok && !o.asked[key.Value] {
			o.r.refuse(key, "%s is not known here; the keys are %s", o.name(key.Value), strings.Join(slices.Sorted(maps.Keys(o.asked)), ", "))
		}
	}
}

// scalar gives a key's plain value.
func (o *object) scalar(key string) (value string, ok bool) {
	n := o.get(key)
	if n == nil {
		return "", false
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		o.refuse(key, "this is %s; write one value", kind(n))
		return "", false
	}
	return n.Value, true
}

// text is a line of at most limit characters.
func (o *object) text(key string, limit int) string {
	s, ok := o.scalar(key)
	if !ok {
		return ""
	}
	if strings.TrimSpace(s) == "" || utf8.RuneCountInString(s) > limit || strings.ContainsFunc(s, unicode.IsControl) {
		o.refuse(key, "%.40q will not do; write one line of 1 to %d characters", s, limit)
	}
	return s
}

// id is a name for machines.
func (o *object) id(key string) string {
	s, ok := o.scalar(key)
	if !ok {
		return ""
	}
	odd := func(c rune) bool { return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') }
	if s == "" || len(s) > 40 || strings.ContainsFunc(s, odd) {
		o.refuse(key, "%.40q will not do; write 1 to 40 of a-z, 0-9 and -", s)
	}
	return s
}

// choice is one of the words.
func (o *object) choice(key string, words ...string) string {
	s, ok := o.scalar(key)
	if ok && !slices.Contains(words, s) {
		o.refuse(key, "%.40q is not known; write one of %s", s, strings.Join(words, ", "))
	}
	return s
}

// colour is written #rrggbb.
func (o *object) colour(key string) string {
	s, ok := o.scalar(key)
	if !ok {
		return ""
	}
	if _, err := strconv.ParseUint(strings.TrimPrefix(s, "#"), 16, 32); err != nil || len(s) != 7 || s[0] != '#' {
		o.refuse(key, "%.40q is no colour; write one in quotes, like \"#f4f1ea\"", s)
	}
	return s
}

// decimal is a plain number of at most scale decimals in [lo, hi].
func (o *object) decimal(key string, scale int, lo, hi int64) decimal.Decimal {
	s, ok := o.scalar(key)
	if !ok {
		return decimal.Decimal{}
	}
	d, err := decimal.Parse(s)
	if err != nil || strings.ContainsAny(s, "eE+") || len(s) > 24 {
		o.refuse(key, "%.40q is no number; write one like 0.28", s)
		return decimal.Decimal{}
	}
	d = d.Trim(0)
	if d.Scale() > scale || d.Less(decimal.MustNew(lo, 0)) || decimal.MustNew(hi, 0).Less(d) {
		o.refuse(key, "%s will not do; write a number from %d to %d with at most %d decimals", s, lo, hi, scale)
		return decimal.Decimal{}
	}
	return d
}

// rate is an amount of money.
func (o *object) rate(key string) decimal.Decimal { return o.decimal(key, 4, 0, 10_000_000) }

// number is a measure in [lo, hi].
func (o *object) number(key string, lo, hi float64) float64 {
	s, ok := o.scalar(key)
	if !ok {
		return 0
	}
	x, err := strconv.ParseFloat(s, 64)
	if err != nil || strings.Trim(s, "0123456789.-") != "" {
		o.refuse(key, "%.40q is no number; write one like 0.8", s)
		return 0
	}
	if x < lo || x > hi {
		o.refuse(key, "%s is out of bounds; write a number from %g to %g", s, lo, hi)
	}
	return x
}

// whole is a whole number in [lo, hi].
func (o *object) whole(key string, lo, hi int) int {
	s, ok := o.scalar(key)
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < lo || n > hi {
		o.refuse(key, "%.40q will not do; write a whole number from %d to %d", s, lo, hi)
	}
	return n
}

// child is a mapping below key.
func (o *object) child(key string) *object {
	n := o.get(key)
	if n == nil {
		return &object{r: o.r, node: &yaml.Node{}, asked: map[string]bool{}, lenient: true}
	}
	return o.r.object(n, o.name(key))
}

// list is the mappings below key: at least one, unless it may be absent.
func (o *object) list(key string, limit int) []*object {
	n := o.get(key)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > limit {
		o.refuse(key, "this is %s; write a list of 1 to %d entries", kind(n), limit)
		return nil
	}
	entries := make([]*object, len(n.Content))
	for i, c := range n.Content {
		entries[i] = o.r.object(c, fmt.Sprintf("%s[%d]", o.name(key), i+1))
	}
	return entries
}

// unique refuses IDs below key that are there twice.
func (o *object) unique(key string, ids []string) {
	for i, id := range ids {
		if id != "" && slices.Contains(ids[:i], id) {
			o.r.refuse(o.fields[key].Content[i], "%s[%d]: the id %q was given before; give it another", o.name(key), i+1, id)
		}
	}
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return fmt.Sprintf("a list of %d", len(n.Content))
	case yaml.AliasNode:
		return "an alias, which is not read: write it out"
	}
	if n.Tag == "!!null" || n.Value == "" {
		return "empty"
	}
	return fmt.Sprintf("%.40q", n.Value)
}
