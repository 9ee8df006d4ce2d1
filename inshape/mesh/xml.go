package mesh

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// document is a pull reader of XML 1.0 with namespaces that takes what models
// need and refuses the rest: document types (and with them entities), encodings
// other than UTF-8 and UTF-16, bottomless nesting. It works on the bytes as they
// are and allocates per depth, not per element, because a model is millions of
// small elements; encoding/xml, with which its tests compare it, is ten times
// slower.
type document struct {
	data     []byte
	at       int // next byte to read
	format   Format
	part     string
	depth    int
	rooted   bool
	open     []openElement
	bindings []binding
	empty    bool // the current element is <empty/>: its end is due

	// What next found. Valid until the following call.
	element element
	text    []byte
}

type openElement struct {
	name     []byte // with its prefix, as it stands
	bindings int    // how many were there before it
}

type binding struct{ prefix, space string }

// element is a start tag.
type element struct {
	space      string
	local      []byte
	attributes []attribute
}

type attribute struct {
	space  string
	prefix []byte
	local  []byte
	value  []byte
}

type token int

const (
	startTag token = iota
	endTag
	textRun
)

const (
	maxXMLDepth      = 64
	maxXMLAttributes = 64
	maxXMLBindings   = 64

	xmlNS   = "http://www.w3.org/XML/1998/namespace"
	xmlnsNS = "http://www.w3.org/2000/xmlns/"
)

func newDocument(data []byte, f Format, part string) (*document, error) {
	wide := false
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		data = data[3:]
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		data, wide = fromUTF16(data[2:], binary.LittleEndian), true
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		data, wide = fromUTF16(data[2:], binary.BigEndian), true
	}
	d := &document{data: data, format: f, part: part}
	for i, c := range data {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			d.at = i
			return nil, d.refuse(Malformed, "byte %#02x is not allowed in XML", c)
		}
	}
	if !utf8.Valid(data) || bytes.Contains(data, []byte("\ufffe")) || bytes.Contains(data, []byte("\uffff")) {
		for d.at < len(data) {
			r, n := utf8.DecodeRune(data[d.at:])
			if r == utf8.RuneError && n <= 1 || r == 0xfffe || r == 0xffff {
				break
			}
			d.at += n
		}
		return nil, d.refuse(Malformed, "a character is not allowed, or not UTF-8; export the model as UTF-8")
	}
	if bytes.HasPrefix(data, []byte("<?xml")) && len(data) > 5 && space(data[5]) {
		end := bytes.Index(data, []byte("?>"))
		if end < 0 {
			return nil, d.refuse(Truncated, "the XML ends inside its declaration; send the file again")
		}
		if err := d.declaration(data[5:end], wide); err != nil {
			return nil, err
		}
		d.at = end + 2
	}
	return d, nil
}

func (d *document) declaration(text []byte, wide bool) error {
	value := func(name string) string {
		_, rest, ok := bytes.Cut(text, []byte(name))
		if !ok {
			return ""
		}
		rest = bytes.TrimLeft(rest, " \t\r\n=")
		if len(rest) == 0 || (rest[0] != '"' && rest[0] != '\'') {
			return "?"
		}
		inner, _, ok := bytes.Cut(rest[1:], rest[:1])
		if !ok {
			return "?"
		}
		return string(inner)
	}
	if v := value("version"); v != "1.0" {
		return d.refuse(Malformed, "XML version %.20q is not 1.0", v)
	}
	switch e := strings.ToLower(value("encoding")); {
	case e == "" || e == "utf-8" || (e == "utf-16" && wide):
		return nil
	default:
		return d.refuse(Malformed, "encoding %.40q is neither UTF-8 nor UTF-16 with its mark; export the model as UTF-8", e)
	}
}

func fromUTF16(data []byte, order binary.ByteOrder) []byte {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = order.Uint16(data[2*i:])
	}
	return []byte(string(utf16.Decode(units)))
}

func (d *document) refuse(code Code, format string, args ...any) *Error {
	where := fmt.Sprintf("line %d", 1+bytes.Count(d.data[:min(d.at, len(d.data))], []byte("\n")))
	if d.part != "" {
		where = d.part + " " + where
	}
	return refuse(d.format, code, where, format, args...)
}

// next gives the next start, end or text; io.EOF behind the root element.
func (d *document) next() (token, error) {
	if d.empty {
		d.empty = false
		d.close()
		return endTag, nil
	}
	for {
		if d.at >= len(d.data) {
			switch {
			case d.depth > 0:
				return 0, d.cut()
			case !d.rooted:
				return 0, d.refuse(Malformed, "there is no XML element")
			}
			return 0, io.EOF
		}
		if d.data[d.at] != '<' {
			if err := d.readText(); err != nil {
				return 0, err
			}
			if d.depth > 0 {
				return textRun, nil
			}
			if len(bytes.TrimLeft(d.text, " \t\r\n")) > 0 {
				return 0, d.refuse(Malformed, "there is text outside of the root element")
			}
			continue
		}
		rest := d.data[d.at+1:]
		switch {
		case len(rest) == 0:
			return 0, d.cut()
		case rest[0] == '/':
			return endTag, d.readEnd()
		case rest[0] == '?':
			end := 1 + bytes.Index(rest[1:], []byte("?>"))
			if end < 1 {
				return 0, d.cut()
			}
			if name, _ := nextField(rest[1:end]); space(rest[1]) || bytes.EqualFold(name, []byte("xml")) || !xmlName(name) {
				return 0, d.refuse(Malformed, "the processing instruction %.20q is not allowed here", name)
			}
			d.at += 1 + end + 2
		case bytes.HasPrefix(rest, []byte("!--")):
			end := bytes.Index(rest[3:], []byte("--"))
			if end < 0 || len(rest) < 3+end+3 {
				return 0, d.cut()
			}
			if rest[3+end+2] != '>' {
				return 0, d.refuse(Malformed, "a comment holds two hyphens")
			}
			d.at += 1 + 3 + end + 3
		case bytes.HasPrefix(rest, []byte("![CDATA[")) && d.depth > 0:
			end := bytes.Index(rest, []byte("]]>"))
			if end < 0 {
				return 0, d.cut()
			}
			d.text = oneNewline(rest[8:end])
			d.at += 1 + end + 3
			return textRun, nil
		case rest[0] == '!':
			if len(rest) < 8 && bytes.HasPrefix([]byte("!DOCTYPE"), rest) {
				return 0, d.cut()
			}
			return 0, d.refuse(XMLEntity, "document types and entities are refused; export without them")
		default:
			if d.rooted && d.depth == 0 {
				return 0, d.refuse(Malformed, "there is a second root element")
			}
			return startTag, d.readStart()
		}
	}
}

func (d *document) cut() error {
	d.at = len(d.data)
	return d.refuse(Truncated, "the XML ends before its elements do; send the file again")
}

func (d *document) readText() error {
	end := bytes.IndexByte(d.data[d.at:], '<')
	if end < 0 {
		end = len(d.data) - d.at
	}
	raw := d.data[d.at : d.at+end]
	if bytes.Contains(raw, []byte("]]>")) {
		return d.refuse(Malformed, "]]> stands in the text")
	}
	var err error
	if d.text, err = d.decoded(raw); err != nil {
		return err
	}
	d.at += end
	return nil
}

// readEnd reads an end tag, which must be the one of the innermost element.
func (d *document) readEnd() error {
	if d.depth == 0 {
		return d.refuse(Malformed, "an element ends that has not begun")
	}
	name := d.open[d.depth-1].name
	i := d.at + 2
	rest := d.data[i:]
	if !bytes.HasPrefix(rest, name) {
		if bytes.IndexByte(rest, '>') < 0 {
			return d.cut()
		}
		return d.refuse(Malformed, "%.40q does not end here", name)
	}
	for i += len(name); i < len(d.data) && space(d.data[i]); i++ {
	}
	switch {
	case i == len(d.data):
		return d.cut()
	case d.data[i] != '>':
		return d.refuse(Malformed, "%.40q does not end here", name)
	}
	d.at = i + 1
	d.close()
	return nil
}

func (d *document) close() {
	d.depth--
	d.bindings = d.bindings[:d.open[d.depth].bindings]
	d.open = d.open[:d.depth]
}

// readStart reads a start tag with its attributes.
func (d *document) readStart() error {
	i := d.at + 1
	name := d.data[i:nameEnd(d.data, i)]
	if i += len(name); i == len(d.data) {
		return d.cut()
	}
	if d.depth == maxXMLDepth {
		return d.refuse(Malformed, "elements are nested deeper than %d", maxXMLDepth)
	}
	d.open = append(d.open, openElement{name, len(d.bindings)})
	d.depth++
	d.rooted = true
	attributes := d.element.attributes[:0]
	bound := false // whether a prefix has to be looked up
	for {
		begin := i
		for i < len(d.data) && space(d.data[i]) {
			i++
		}
		if i == len(d.data) {
			return d.cut()
		}
		if c := d.data[i]; c == '>' || c == '/' {
			if c == '/' {
				if i++; i == len(d.data) {
					return d.cut()
				}
				if d.data[i] != '>' {
					return d.refuse(Malformed, "%.40q has a / inside", name)
				}
				d.empty = true
			}
			i++
			break
		}
		key := d.data[i:nameEnd(d.data, i)]
		if i == begin || len(key) == 0 {
			return d.refuse(Malformed, "%.40q is no tag", name)
		}
		i += len(key)
		for i < len(d.data) && space(d.data[i]) {
			i++
		}
		if i < len(d.data) && d.data[i] != '=' {
			return d.refuse(Malformed, "attribute %.40q has no value", key)
		}
		for i++; i < len(d.data) && space(d.data[i]); i++ {
		}
		if i >= len(d.data) {
			return d.cut()
		}
		quote := d.data[i]
		if quote != '"' && quote != '\'' {
			return d.refuse(Malformed, "the value of attribute %.40q has no quotes", key)
		}
		i++
		end := bytes.IndexByte(d.data[i:], quote)
		if end < 0 {
			return d.cut()
		}
		raw := d.data[i : i+end]
		i += end + 1
		if bytes.IndexByte(raw, '<') >= 0 {
			return d.refuse(Malformed, "the value of attribute %.40q holds a <", key)
		}
		value, err := d.decoded(raw)
		if err != nil {
			return err
		}
		a := attribute{local: key, value: value}
		if colon := bytes.IndexByte(key, ':'); colon >= 0 {
			a.prefix, a.local = key[:colon], key[colon+1:]
			bound = true
		}
		if !plainName(key) && (!xmlName(a.local) || (a.prefix != nil && !xmlName(a.prefix))) {
			return d.refuse(Malformed, "%.40q is no name for an attribute", key)
		}
		switch {
		case len(attributes) == maxXMLAttributes:
			return d.refuse(Malformed, "%.40q has more than %d attributes", name, maxXMLAttributes)
		case a.prefix == nil && string(key) == "xmlns":
			a.space = xmlnsNS
			d.bindings = append(d.bindings, binding{"", string(value)})
		case string(a.prefix) == "xmlns":
			if len(value) == 0 || string(a.local) == "xmlns" || string(a.local) == "xml" != (string(value) == xmlNS) {
				return d.refuse(Malformed, "prefix %.40q cannot be bound to %.80q", a.local, value)
			}
			d.bindings = append(d.bindings, binding{string(a.local), string(value)})
		}
		if len(d.bindings) > maxXMLBindings {
			return d.refuse(Malformed, "there are more than %d namespaces", maxXMLBindings)
		}
		attributes = append(attributes, a)
	}
	d.element.attributes = attributes
	d.element.local = name
	prefix := []byte(nil)
	if colon := bytes.IndexByte(name, ':'); colon >= 0 {
		prefix, d.element.local = name[:colon], name[colon+1:]
	}
	if !plainName(name) && (!xmlName(d.element.local) || (prefix != nil && !xmlName(prefix))) {
		return d.refuse(Malformed, "%.40q is no name for an element", name)
	}
	var ok bool
	if d.element.space, ok = d.namespace(prefix); !ok {
		return d.refuse(Malformed, "the prefix of %.40q is bound to no namespace", name)
	}
	if bound {
		for k := range attributes {
			a := &attributes[k]
			switch {
			case a.prefix == nil:
			case string(a.prefix) == "xmlns":
				a.space = xmlnsNS
			default:
				if a.space, ok = d.namespace(a.prefix); !ok {
					return d.refuse(Malformed, "the prefix of attribute %.40q is bound to no namespace", a.prefix)
				}
			}
		}
	}
	for k, a := range attributes {
		for _, b := range attributes[:k] {
			if bytes.Equal(a.local, b.local) && a.space == b.space {
				return d.refuse(Malformed, "attribute %.40q is there twice", a.local)
			}
		}
	}
	d.at = i
	return nil
}

// namespace is what a prefix is bound to; nil stands for the default.
func (d *document) namespace(prefix []byte) (string, bool) {
	for k := len(d.bindings) - 1; k >= 0; k-- {
		if d.bindings[k].prefix == string(prefix) {
			return d.bindings[k].space, true
		}
	}
	if string(prefix) == "xml" {
		return xmlNS, true
	}
	return "", prefix == nil
}

// decoded replaces references to characters and makes all line ends one newline.
func (d *document) decoded(raw []byte) ([]byte, error) {
	amp := bytes.IndexByte(raw, '&')
	if amp < 0 {
		return oneNewline(raw), nil
	}
	raw = oneNewline(raw)
	out := make([]byte, 0, len(raw))
	for {
		amp = bytes.IndexByte(raw, '&')
		if amp < 0 {
			return append(out, raw...), nil
		}
		out = append(out, raw[:amp]...)
		name, rest, ok := bytes.Cut(raw[amp+1:], []byte(";"))
		if !ok {
			return nil, d.refuse(Malformed, "an & stands alone")
		}
		raw = rest
		switch string(name) {
		case "lt":
			out = append(out, '<')
		case "gt":
			out = append(out, '>')
		case "amp":
			out = append(out, '&')
		case "quot":
			out = append(out, '"')
		case "apos":
			out = append(out, '\'')
		default:
			digits, numeric := bytes.CutPrefix(name, []byte("#"))
			if !numeric {
				return nil, d.refuse(XMLEntity, "entity %.40q is used; entities are refused", name)
			}
			base := 10
			if hex, ok := bytes.CutPrefix(digits, []byte("x")); ok {
				digits, base = hex, 16
			}
			code, err := strconv.ParseUint(string(digits), base, 32)
			r := rune(code)
			if err != nil || code > utf8.MaxRune || !utf8.ValidRune(r) || r == 0xfffe || r == 0xffff || (r < ' ' && r != '\t' && r != '\n' && r != '\r') {
				return nil, d.refuse(Malformed, "&%.20s; is no character", name)
			}
			out = utf8.AppendRune(out, r)
		}
	}
}

func oneNewline(raw []byte) []byte {
	if bytes.IndexByte(raw, '\r') < 0 {
		return raw
	}
	return bytes.ReplaceAll(bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
}

// nameEnd is where the name that begins at i ends.
func nameEnd(data []byte, i int) int {
	for ; i < len(data); i++ {
		switch c := data[i]; {
		case c == '=' || c == '>' || c == '/' || space(c) || c == '<' || c == '"' || c == '\'':
			return i
		}
	}
	return i
}

// plainName tells names of letters and digits, which need no closer look.
func plainName(name []byte) bool {
	if len(name) == 0 || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for _, c := range name {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// xmlName tells names without colon (Namespaces in XML 1.0, NCName).
func xmlName(name []byte) bool {
	for i, r := range string(name) {
		start := r == '_' || r|0x20 >= 'a' && r|0x20 <= 'z' && r < 0x80 ||
			r >= 0xc0 && r <= 0x2ff && r != 0xd7 && r != 0xf7 ||
			r >= 0x370 && r <= 0x1fff && r != 0x37e || r == 0x200c || r == 0x200d ||
			r >= 0x2070 && r <= 0x218f || r >= 0x2c00 && r <= 0x2fef || r >= 0x3001 && r <= 0xd7ff ||
			r >= 0xf900 && r <= 0xfdcf || r >= 0xfdf0 && r <= 0xfffd || r >= 0x10000 && r <= 0xeffff
		more := r == '-' || r == '.' || r >= '0' && r <= '9' || r == 0xb7 ||
			r >= 0x300 && r <= 0x36f || r == 0x203f || r == 0x2040
		if !start && (i == 0 || !more) {
			return false
		}
	}
	return len(name) > 0
}

// root reads up to the first start tag.
func (d *document) root() (*element, error) {
	if _, err := d.next(); err != nil { // at depth 0 it can only be a start tag
		return nil, err
	}
	return &d.element, nil
}

// finish reads what follows the root element, which must be well-formed too.
func (d *document) finish() error {
	for {
		if _, err := d.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// children calls do for each child element up to the end of the current one. What
// do leaves unread of a child is skipped. The element is valid until do reads on.
func (d *document) children(do func(e *element) error) error {
	depth := d.depth
	for {
		t, err := d.next()
		switch {
		case err != nil:
			return err
		case t == startTag:
			if err := do(&d.element); err != nil {
				return err
			}
			if err := d.leave(depth); err != nil {
				return err
			}
		case t == endTag:
			return nil
		}
	}
}

// leave skips to the end of the element that brought the depth above depth.
func (d *document) leave(depth int) error {
	for d.depth > depth {
		if _, err := d.next(); err != nil {
			return err
		}
	}
	return nil
}

// content is the text of the current element without space around it, to its
// end; valid until the document is read on.
func (d *document) content() ([]byte, error) {
	depth := d.depth
	var all []byte
	for d.depth >= depth {
		t, err := d.next()
		if err != nil {
			return nil, err
		}
		if t == textRun {
			if all == nil {
				all = d.text[:len(d.text):len(d.text)]
			} else {
				all = append(all, d.text...)
			}
		}
	}
	return bytes.TrimSpace(all), nil
}

// get is the value of an attribute.
func (e *element) get(space, name string) ([]byte, bool) {
	for i := range e.attributes {
		if a := &e.attributes[i]; string(a.local) == name && a.space == space {
			return a.value, true
		}
	}
	return nil, false
}

// is tells whether the element has this name.
func (e *element) is(space, name string) bool { return string(e.local) == name && e.space == space }
