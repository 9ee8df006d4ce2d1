package mesh

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// document is a pull reader of XML that refuses what no model needs: document
// types (and with them entities), foreign encodings, bottomless nesting.
type document struct {
	d      *xml.Decoder
	format Format
	part   string
	depth  int
	rooted bool
}

const maxXMLDepth = 64

func newDocument(data []byte, f Format, part string) (*document, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		data = data[3:]
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		data = fromUTF16(data[2:], binary.LittleEndian)
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		data = fromUTF16(data[2:], binary.BigEndian)
	}
	r := &document{d: xml.NewDecoder(bytes.NewReader(data)), format: f, part: part}
	r.d.CharsetReader = func(charset string, in io.Reader) (io.Reader, error) {
		if strings.EqualFold(charset, "utf-16") {
			return in, nil // converted above
		}
		return nil, fmt.Errorf("encoding %q is neither UTF-8 nor UTF-16", charset)
	}
	return r, nil
}

func fromUTF16(data []byte, order binary.ByteOrder) []byte {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = order.Uint16(data[2*i:])
	}
	return []byte(string(utf16.Decode(units)))
}

func (r *document) refuse(code Code, format string, args ...any) *Error {
	line, _ := r.d.InputPos()
	where := fmt.Sprintf("line %d", line)
	if r.part != "" {
		where = r.part + " " + where
	}
	return refuse(r.format, code, where, format, args...)
}

// next gives the next start, end or text; io.EOF behind the root element.
func (r *document) next() (xml.Token, error) {
	for {
		token, err := r.d.Token()
		if errors.Is(err, io.EOF) {
			if !r.rooted {
				return nil, r.refuse(Malformed, "there is no XML element")
			}
			return nil, io.EOF
		}
		if err != nil {
			var syntax *xml.SyntaxError
			if errors.As(err, &syntax) {
				switch {
				case strings.Contains(syntax.Msg, "unexpected EOF"):
					return nil, r.refuse(Truncated, "the XML ends before its elements do; send the file again")
				case strings.Contains(syntax.Msg, "invalid character entity"):
					return nil, r.refuse(XMLEntity, "an entity is used that XML does not define; entities are refused")
				}
				return nil, r.refuse(Malformed, "the XML is broken: %s", syntax.Msg)
			}
			return nil, r.refuse(Malformed, "the XML is broken: %v", err)
		}
		switch token := token.(type) {
		case xml.Directive:
			return nil, r.refuse(XMLEntity, "document types and entities are refused; export without them")
		case xml.StartElement:
			r.rooted = true
			if r.depth++; r.depth > maxXMLDepth {
				return nil, r.refuse(Malformed, "elements are nested deeper than %d", maxXMLDepth)
			}
			return token, nil
		case xml.EndElement:
			r.depth--
			return token, nil
		case xml.CharData:
			if r.depth > 0 {
				return token, nil
			}
		}
	}
}

// children calls do for each child element up to the end of the current one. What
// do leaves unread of a child is skipped.
func (r *document) children(do func(e xml.StartElement) error) error {
	depth := r.depth
	for {
		token, err := r.next()
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case xml.StartElement:
			if r.depth != depth+1 {
				continue
			}
			if err := do(token); err != nil {
				return err
			}
			if err := r.leave(depth); err != nil {
				return err
			}
		case xml.EndElement:
			if r.depth < depth {
				return nil
			}
		}
	}
}

// leave skips to the end of the element that brought the depth above depth.
func (r *document) leave(depth int) error {
	for r.depth > depth {
		if _, err := r.next(); err != nil {
			return err
		}
	}
	return nil
}

// text is the text of the current element, to its end.
func (r *document) text() (string, error) {
	depth := r.depth
	var b strings.Builder
	for r.depth >= depth {
		token, err := r.next()
		if err != nil {
			return "", err
		}
		if t, ok := token.(xml.CharData); ok {
			b.Write(t)
		}
	}
	return strings.TrimSpace(b.String()), nil
}

func attribute(e xml.StartElement, space, name string) (string, bool) {
	for _, a := range e.Attr {
		if a.Name.Space == space && a.Name.Local == name {
			return a.Value, true
		}
	}
	return "", false
}
