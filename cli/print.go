package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"bulkhead"

	"go.yaml.in/yaml/v4"
	"golang.org/x/term"
)

// print writes v as JSON or YAML, or calls table for people.
func (c *command) print(v any, table func()) error {
	switch c.output {
	case "json":
		enc := json.NewEncoder(c.env.Stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		b, err := toYAML(v)
		if err != nil {
			return err
		}
		_, err = c.env.Stdout.Write(b)
		return err
	}
	table()
	return nil
}

// printLine writes one item of a stream: a line of JSON, a YAML document, or
// what line writes.
func (c *command) printLine(v any, line func()) error {
	switch c.output {
	case "json":
		enc := json.NewEncoder(c.env.Stdout)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case "yaml":
		b, err := toYAML(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.env.Stdout, "---\n%s", b)
		return err
	}
	line()
	return nil
}

// toYAML writes v with the names and in the order of its JSON.
func toYAML(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var n yaml.Node // JSON is YAML
	if err := yaml.Unmarshal(b, &n); err != nil {
		return nil, err
	}
	block(&n)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	err = enc.Encode(&n)
	return out.Bytes(), err
}

// block makes a node, and what is in it, block style with plain scalars where
// these mean the same.
func block(n *yaml.Node) {
	if len(n.Content) > 0 {
		n.Style &^= yaml.FlowStyle
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = 0 // the encoder quotes what needs it
	}
	for _, child := range n.Content {
		block(child)
	}
}

// colour of a cell; the zero value is none.
type colour string

const (
	plain  colour = ""
	green  colour = "32"
	yellow colour = "33"
	red    colour = "31"
	faint  colour = "2"
)

type cell struct {
	text   string
	colour colour
}

// table prints rows in aligned columns. On a terminal, the flexible column gives
// way so that lines fit.
type table struct {
	head     []string
	rows     [][]cell
	flexible int // index of the column that may be cut; -1: none
}

func newTable(flexible int, head ...string) *table { return &table{head: head, flexible: flexible} }

// add takes strings and cells.
func (t *table) add(values ...any) {
	row := make([]cell, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case cell:
			row[i] = v
		case string:
			row[i] = cell{text: v}
		default:
			row[i] = cell{text: fmt.Sprint(v)}
		}
		if row[i].text == "" {
			row[i].text = "-"
		}
	}
	t.rows = append(t.rows, row)
}

func (c *command) table(t *table) {
	c.writeTable(c.env.Stdout, t)
}

func (c *command) writeTable(w io.Writer, t *table) {
	widths := make([]int, len(t.head))
	for i, h := range t.head {
		widths[i] = utf8.RuneCountInString(h)
	}
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell.text))
		}
	}
	if most := c.width(); most > 0 && t.flexible >= 0 {
		total := 2 * (len(widths) - 1)
		for _, n := range widths {
			total += n
		}
		if over := total - most; over > 0 {
			widths[t.flexible] = max(8, widths[t.flexible]-over)
		}
	}
	colours := c.colours()
	line := func(row []cell) {
		var b strings.Builder
		for i, cell := range row {
			text := cut(cell.text, widths[i])
			pad := widths[i] - utf8.RuneCountInString(text)
			if colours && cell.colour != plain {
				text = "\x1b[" + string(cell.colour) + "m" + text + "\x1b[0m"
			}
			b.WriteString(text)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", pad+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = cell{text: h}
	}
	line(head)
	for _, row := range t.rows {
		line(row)
	}
}

func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// width is the terminal's, 0 when stdout is none: then nothing is cut.
func (c *command) width() int {
	f, ok := c.env.Stdout.(*os.File)
	if !ok {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return n
}

func (c *command) colours() bool {
	return isTerminal(c.env.Stdout) && c.env.Getenv("NO_COLOR") == "" && c.env.Getenv("TERM") != "dumb"
}

func (c *command) paint(col colour, s string) string {
	if !c.colours() || col == plain {
		return s
	}
	return "\x1b[" + string(col) + "m" + s + "\x1b[0m"
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func phaseCell(p bulkhead.Phase) cell {
	switch p {
	case bulkhead.PhaseRunning:
		return cell{string(p), green}
	case bulkhead.PhaseFailed:
		return cell{string(p), red}
	case bulkhead.PhaseStopped, bulkhead.PhaseDeleted:
		return cell{string(p), faint}
	}
	return cell{string(p), yellow}
}

// age is how long ago t was, in one unit: "3m".
func (c *command) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(c.env.Now().Sub(t))
}

func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// size writes bytes for people: "12.3 MiB".
func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n), "KMGTP"
	i := -1
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// count writes a number with its noun: "1 stamp", "2 stamps".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// names joins values of string types.
func names[T ~string](list []T) string {
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = string(v)
	}
	return strings.Join(parts, ", ")
}
