package mesh

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
)

// transcript is what a document holds, one line for each token.
func (d *document) transcript() (string, error) {
	var b strings.Builder
	text := ""
	flush := func() {
		if text != "" {
			fmt.Fprintf(&b, "text %q\n", text)
			text = ""
		}
	}
	for {
		t, err := d.next()
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch t {
		case startTag:
			flush()
			fmt.Fprintf(&b, "start %s %s", d.element.space, d.element.local)
			for _, a := range d.element.attributes {
				if a.space != xmlnsNS {
					fmt.Fprintf(&b, " %s %s=%q", a.space, a.local, a.value)
				}
			}
			b.WriteByte('\n')
		case endTag:
			flush()
			b.WriteString("end\n")
		case textRun:
			text += string(d.text)
		}
	}
}

// oracle is the same by encoding/xml.
func oracle(data []byte) (string, error) {
	var b strings.Builder
	text := ""
	flush := func() {
		if text != "" {
			fmt.Fprintf(&b, "text %q\n", text)
			text = ""
		}
	}
	depth := 0
	for d := xml.NewDecoder(bytes.NewReader(data)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch t := token.(type) {
		case xml.StartElement:
			flush()
			depth++
			fmt.Fprintf(&b, "start %s %s", t.Name.Space, t.Name.Local)
			for _, a := range t.Attr {
				if a.Name.Space != "xmlns" && (a.Name.Space != "" || a.Name.Local != "xmlns") {
					fmt.Fprintf(&b, " %s %s=%q", a.Name.Space, a.Name.Local, a.Value)
				}
			}
			b.WriteByte('\n')
		case xml.EndElement:
			flush()
			depth--
			b.WriteString("end\n")
		case xml.CharData:
			if depth > 0 {
				text += string(t)
			}
		}
	}
}

var xmlSamples = []string{
	`<a/>`,
	`<?xml version="1.0" encoding="UTF-8"?><a b="1" c='2'><d>x &lt;&amp;&#65;&#x42; y</d><!-- z --><?p i?></a>`,
	"<a xmlns='u' xmlns:p=\"v\">\r\n<p:b p:c='1' c='2\r\n'/><![CDATA[<&]]]></a> \n",
	`<a xmlns:p="v"><b xmlns:p="w" p:x=""/><p:b/></a>`,
	"<ä ö='ü'>€</ä>",
	`<a><vertex x="1" y="2" z="3"/></a><!-- the end -->`,
	`<a b = "1" ></a >`,
}

func TestXMLAgreesWithTheStandardLibrary(t *testing.T) {
	for _, sample := range xmlSamples {
		want, err := oracle([]byte(sample))
		if err != nil {
			t.Fatalf("%s: %v", sample, err)
		}
		d, err := newDocument([]byte(sample), ThreeMF, "")
		if err != nil {
			t.Errorf("%s: %v", sample, err)
			continue
		}
		got, err := d.transcript()
		if err != nil || got != want {
			t.Errorf("%s: %v\n%s\nnot\n%s", sample, err, got, want)
		}
	}
}

func TestXMLRefusals(t *testing.T) {
	deep := strings.Repeat("<a>", 65) + strings.Repeat("</a>", 65)
	tests := map[string]Code{
		``:                 Malformed,
		`  `:               Malformed,
		`<a>`:              Truncated,
		`<a`:               Truncated,
		`<a b="`:           Truncated,
		`<a><!-- `:         Truncated,
		`<a><![CDATA[ ]]`:  Truncated,
		`<a></a`:           Truncated,
		`<a></b>`:          Malformed,
		`<a></ab>`:         Malformed,
		`</a>`:             Malformed,
		`<a/><b/>`:         Malformed,
		`<a/>text`:         Malformed,
		`text<a/>`:         Malformed,
		`<a b="1" b="2"/>`: Malformed,
		`<a xmlns:p="u" xmlns:q="u" p:b="" q:b=""/>`: Malformed,
		`<a b=1/>`:                  Malformed,
		`<a b/>`:                    Malformed,
		`<a b="<"/>`:                Malformed,
		`<a b="1"c="2"/>`:           Malformed,
		`<1/>`:                      Malformed,
		`< a/>`:                     Malformed,
		`<p:a/>`:                    Malformed,
		`<a p:b=""/>`:               Malformed,
		`<a>&</a>`:                  Malformed,
		`<a>&#0;</a>`:               Malformed,
		`<a>&#xD800;</a>`:           Malformed,
		`<a>]]></a>`:                Malformed,
		`<a><!-- -- --></a>`:        Malformed,
		"<a>\x00</a>":               Malformed,
		"<a>\xff</a>":               Malformed,
		`<?xml version="1.1"?><a/>`: Malformed,
		`<?xml version="1.0" encoding="latin1"?><a/>`: Malformed,
		`<a/><?xml version="1.0"?>`:                   Malformed,
		deep:                                          Malformed,
		`<!DOCTYPE a><a/>`:                            XMLEntity,
		`<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`:    XMLEntity,
		`<a>&nbsp;</a>`:                               XMLEntity,
		`<a b="&x;"/>`:                                XMLEntity,
		`<a><!ELEMENT b></a>`:                         XMLEntity,
	}
	for sample, code := range tests {
		d, err := newDocument([]byte(sample), ThreeMF, "part")
		if err == nil {
			_, err = d.transcript()
		}
		if !errors.Is(err, code) {
			t.Errorf("%.60s: %v, not %s", sample, err, code)
		}
	}
}

func TestXMLInUTF16(t *testing.T) {
	text := `<?xml version="1.0" encoding="utf-16"?><a b="é€"/>`
	var little, big []byte
	for _, r := range text {
		little = append(little, byte(r), byte(r>>8))
		big = append(big, byte(r>>8), byte(r))
	}
	for _, data := range [][]byte{append([]byte("\xff\xfe"), little...), append([]byte("\xfe\xff"), big...)} {
		d, err := newDocument(data, AMF, "")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.transcript(); err != nil || got != "start  a  b=\"é€\"\nend\n" {
			t.Errorf("%v %s", err, got)
		}
	}
}

// What the reader accepts, encoding/xml reads the same.
func FuzzXML(f *testing.F) {
	for _, sample := range xmlSamples {
		f.Add([]byte(sample))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) || bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
			return // encoding/xml knows no byte-order marks
		}
		d, err := newDocument(data, AMF, "")
		if err != nil {
			return
		}
		got, err := d.transcript()
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatal(err)
			}
			return
		}
		want, err := oracle(data)
		if err != nil && strings.Contains(err.Error(), "invalid XML name") {
			return // encoding/xml knows the names of XML's fourth edition only
		}
		if err != nil {
			t.Fatalf("accepted what encoding/xml refuses: %v", err)
		}
		if got != want {
			t.Fatalf("%s\nnot\n%s", got, want)
		}
	})
}

// Numbers are read to the last bit as strconv reads them.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{"0", "-0", "1", "+1.5", "3.14159265358979", "1e22", "1e-22", "123456789012345678", ".5", "5.", "1e999", "nan", "-Inf", "0x1p3", "1_0", "1e", "e5", "--1", "9007199254740993", "4.9e-324"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := number([]byte(s))
		want, wrong := strconv.ParseFloat(s, 64)
		if errors.Is(wrong, strconv.ErrRange) || strings.ContainsAny(s, "xX_") || len(s) > 400 {
			return
		}
		if (err != nil) != (wrong != nil) || err == nil && math.Float64bits(got) != math.Float64bits(want) && !math.IsNaN(want) {
			t.Fatalf("%q is %v (%v), not %v (%v)", s, got, err, want, wrong)
		}
	})
}
