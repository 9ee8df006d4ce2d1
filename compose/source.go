package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/template"
	"go.yaml.in/yaml/v4"
)

// Bounds of a project. They are far above what real projects need and far below
// what hurts a server.
const (
	maxSource   = 1 << 20 // bytes of one YAML or env file
	maxSources  = 64      // YAML files of a project
	maxDepth    = 64      // nesting of a YAML file
	maxNodes    = 100_000 // nodes of a YAML file with its aliases expanded
	maxServices = 256
	maxReplicas = 256 // tasks of one service
)

// source is one YAML file of a project, as a tree with line numbers.
type source struct {
	name string     // path in the project, with slashes
	base string     // folder that its paths start from
	root *yaml.Node // the document's mapping
	env  map[string]string
}

// use is one place where a variable stands.
type use struct {
	template.Variable
	where string // "compose.yaml:12"
	path  string // "services.web.ports.[]", as compose-go writes it
	row   string // path of the attribute's row
	text  string // the whole value
	env   map[string]string
}

// readFile reads a small file of the project.
func readFile(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSource+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSource {
		return nil, bulkhead.Errorf(bulkhead.ErrExhausted, "%s is larger than %d KiB", name, maxSource>>10)
	}
	return b, nil
}

// parse reads one YAML file. Its error is ready for users.
func parse(name, base string, content []byte) (*source, error) {
	refuse := func(line int, format string, args ...any) (*source, error) {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "%s:%d: %s", name, max(line, 1), fmt.Sprintf(format, args...))
	}
	var doc yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return refuse(1, "the file is empty; it needs services")
	} else if err != nil {
		line, message := syntaxError(err)
		return refuse(line, "YAML syntax: %s", message)
	}
	var more yaml.Node
	if err := decoder.Decode(&more); err == nil {
		return refuse(more.Line, "a second YAML document; keep everything in one")
	} else if !errors.Is(err, io.EOF) {
		line, message := syntaxError(err)
		return refuse(line, "YAML syntax: %s", message)
	}
	m := measure{seen: map[*yaml.Node]extent{}, open: map[*yaml.Node]bool{}}
	if _, err := m.node(&doc); err != nil {
		return refuse(m.line, "%s", err)
	}
	s := &source{name: name, base: base, root: target(doc.Content[0])}
	if s.root.Kind != yaml.MappingNode {
		return refuse(s.root.Line, "a Compose file is a mapping with services; this is something else")
	}
	return s, nil
}

var linePattern = regexp.MustCompile(`line (\d+): (.*)`)

// syntaxError takes the line and the message out of a YAML error.
func syntaxError(err error) (line int, message string) {
	var load *yaml.LoadError
	if errors.As(err, &load) {
		return load.Mark.Line, load.Message
	}
	if m := linePattern.FindStringSubmatch(err.Error()); m != nil {
		fmt.Sscan(m[1], &line)
		return line, m[2]
	}
	return 1, oneLine(err.Error())
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// measure bounds a YAML tree before anything walks it: aliases can make a small
// file stand for billions of nodes, or for itself.
type measure struct {
	seen map[*yaml.Node]extent
	open map[*yaml.Node]bool // on the way from the root to here
	line int                 // of the refusal
}

type extent struct{ nodes, depth int }

func (m *measure) node(n *yaml.Node) (extent, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if e, ok := m.seen[n]; ok {
		return e, nil
	}
	refuse := func(line int, format string, args ...any) (extent, error) {
		if m.line == 0 {
			m.line = line
		}
		return extent{}, fmt.Errorf(format, args...)
	}
	if m.open[n] {
		return refuse(n.Line, "the anchor contains itself")
	}
	m.open[n] = true
	defer delete(m.open, n)
	if len(m.open) > maxDepth+2 {
		return refuse(n.Line, "nested deeper than %d levels", maxDepth)
	}
	if n.Kind == yaml.MappingNode {
		keys := map[string]int{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode {
				return refuse(key.Line, "a key that is not a word")
			}
			if first, ok := keys[key.Value]; ok {
				return refuse(key.Line, "the key %q stands here twice, first in line %d; remove one", key.Value, first)
			}
			keys[key.Value] = key.Line
		}
	}
	e := extent{nodes: 1}
	for _, child := range n.Content {
		c, err := m.node(child)
		if err != nil {
			return c, err
		}
		e.nodes += c.nodes
		e.depth = max(e.depth, c.depth+1)
		if e.nodes > maxNodes {
			return refuse(child.Line, "aliases make this file larger than %d nodes", maxNodes)
		}
		if e.depth > maxDepth {
			return refuse(child.Line, "nested deeper than %d levels", maxDepth)
		}
	}
	m.seen[n] = e
	return e, nil
}

// target is what an alias stands for.
func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// entry is one key of a mapping.
type entry struct{ key, value *yaml.Node }

// entries lists the keys of a mapping with what its merge keys ("<<") bring.
func entries(n *yaml.Node) []entry {
	var own, merged []entry
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value != "<<" {
			own = append(own, entry{key, value})
			continue
		}
		if value = target(value); value.Kind == yaml.SequenceNode {
			for _, item := range value.Content {
				merged = append(merged, entries(target(item))...)
			}
		} else {
			merged = append(merged, entries(value)...)
		}
	}
	for _, e := range merged {
		if !slices.ContainsFunc(own, func(o entry) bool { return o.key.Value == e.key.Value }) {
			own = append(own, e)
		}
	}
	return own
}

// get is the value of a key of a mapping, or nil.
func get(n *yaml.Node, key string) *yaml.Node {
	if n == nil {
		return nil
	}
	for _, e := range entries(target(n)) {
		if e.key.Value == key {
			return target(e.value)
		}
	}
	return nil
}

// scalars lists the texts of a scalar or of a list of scalars.
func scalars(n *yaml.Node) []*yaml.Node {
	switch {
	case n == nil:
		return nil
	case n.Kind == yaml.ScalarNode:
		return []*yaml.Node{n}
	}
	var list []*yaml.Node
	for _, item := range n.Content {
		if item = target(item); n.Kind == yaml.SequenceNode && item.Kind == yaml.ScalarNode {
			list = append(list, item)
		}
	}
	return list
}

func (s *source) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", s.name, n.Line) }

// find follows path as far as it goes in this file. It returns the line it came
// to, and how many steps it went. Below the last step, the first text that
// contains needle gives the line.
func (s *source) find(steps []string, needle string) (line, went int) {
	n := s.root
	line = n.Line
	for _, step := range steps {
		if n.Kind == yaml.SequenceNode {
			break // indexes move when files are merged; needle tells better
		}
		i := slices.IndexFunc(entries(n), func(e entry) bool { return e.key.Value == step })
		if i < 0 {
			break
		}
		e := entries(n)[i]
		n, line = target(e.value), e.key.Line
		went++
	}
	if needle != "" {
		if found := search(n, needle); found > 0 {
			line = found
		}
	}
	return line, went
}

// search is the line of the first text below n that contains needle, or 0.
func search(n *yaml.Node, needle string) int {
	n = target(n)
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, needle) {
		return n.Line
	}
	for _, child := range n.Content {
		if line := search(child, needle); line > 0 {
			return line
		}
	}
	return 0
}

// reading is the first gate: it walks the files along the table of attributes
// and collects what is wrong, what is ignored and which variables there are.
type reading struct {
	rows     *rows
	faults   []bulkhead.Fault
	denied   int // how many of the faults are refused attributes
	warnings []string
	uses     []use
}

func (r *reading) fault(where, format string, args ...any) {
	f := bulkhead.Fault{Where: where, Message: plain(fmt.Sprintf(format, args...))}
	if !slices.Contains(r.faults, f) {
		r.faults = append(r.faults, f)
	}
}

func (r *reading) warn(where, format string, args ...any) {
	w := where + ": " + plain(fmt.Sprintf(format, args...))
	if !slices.Contains(r.warnings, w) {
		r.warnings = append(r.warnings, w)
	}
}

// plain leaves out the steps into lists: the line tells which item.
func plain(message string) string { return strings.ReplaceAll(message, ".[]", "") }

// walk reads n, which stands at path; at is its row.
func (r *reading) walk(s *source, n *yaml.Node, at *rows, path, row string) {
	n = target(n)
	switch n.Kind {
	case yaml.ScalarNode:
		r.variables(s, n, path, row)
	case yaml.SequenceNode:
		next := at
		if at.any != nil {
			next, row = at.any, row+".*"
		}
		for _, item := range n.Content {
			r.walk(s, item, next, join(path, "[]"), row)
		}
	case yaml.MappingNode:
		for _, e := range entries(n) {
			r.attribute(s, e, at, join(path, e.key.Value), row)
		}
	}
}

// attribute reads one key of a mapping.
func (r *reading) attribute(s *source, e entry, at *rows, path, row string) {
	name := e.key.Value
	next := at.names[name]
	if next == nil && at.any != nil {
		next, name = at.any, "*"
	}
	switch {
	case e.value.Tag == "!reset":
	case next != nil:
		// A row speaks for what is below it, unless that has rows of its own.
		row = join(row, name)
		if next.attribute != nil {
			switch next.effective(e.value) {
			case deny:
				before := len(r.faults)
				r.fault(s.at(e.key), "%s: %s", path, next.reason)
				r.denied += len(r.faults) - before
				return
			case ignore:
				r.warn(s.at(e.key), "%s: ignored: %s", path, next.reason)
				return
			}
			if next.verdict != allow {
				return
			}
		}
		r.walk(s, e.value, next, path, row)
	case at.names == nil:
		// Names and values of the author's, such as environment.
		r.walk(s, e.value, at, path, row)
	case name == "x-bulkhead" && row != "":
		r.fault(s.at(e.key), "%s: x-bulkhead stands at the top level of the Compose file; move it there", path)
	case !strings.HasPrefix(name, "x-"):
		r.fault(s.at(e.key), "%s: Compose has no such attribute; %s", path, suggest(name, at.names))
	}
}

// variables notes the variables of a text.
func (r *reading) variables(s *source, n *yaml.Node, path, row string) {
	found := template.ExtractVariables(map[string]any{"": n.Value}, nil)
	for _, name := range sortedKeys(found) {
		if !variablePattern.MatchString(name) {
			continue // compose-go refuses it
		}
		r.uses = append(r.uses, use{Variable: found[name], where: s.at(n), path: path, row: row, text: n.Value, env: s.env})
	}
	var name string
	switch {
	case row == "configs.*.environment" || row == "secrets.*.environment":
		name = n.Value
	case row != "services.*.environment":
	case strings.HasSuffix(path, ".[]") && !strings.Contains(n.Value, "="):
		name = n.Value // "- NAME" takes the variable of that name, and so does "NAME:"
	case n.Tag == "!!null":
		name = path[strings.LastIndexByte(path, '.')+1:]
	}
	if variablePattern.MatchString(name) {
		v := template.Variable{Name: name, Required: row != "services.*.environment"}
		r.uses = append(r.uses, use{Variable: v, where: s.at(n), path: path, row: row, text: n.Value, env: s.env})
	}
}

var variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// suggest names the attribute that was probably meant.
func suggest(name string, names map[string]*rows) string {
	best, least := "", 3
	for _, known := range sortedKeys(names) {
		if d := distance(name, known); d < least {
			best, least = known, d
		}
	}
	if best == "" {
		return "remove it, or begin it with x-"
	}
	return "is it " + best + "?"
}

// distance counts the letters to insert, delete or replace between a and b
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// local makes a path that is written in a file relative to the project's folder,
// or says why it leaves it.
func local(base, name string) (string, error) {
	switch {
	case strings.Contains(name, "://") || strings.HasPrefix(name, "git@") || strings.HasPrefix(name, "oci:"):
		return "", fmt.Errorf("%q is not in the project folder; copy it there", name)
	case path.IsAbs(name) || strings.HasPrefix(name, "~") || strings.Contains(name, `\`) || len(name) > 1 && name[1] == ':':
		return "", fmt.Errorf("%q is a path of the machine; use a file of the project folder, by its relative path", name)
	}
	name = path.Join(base, name)
	if name == ".." || strings.HasPrefix(name, "../") {
		return "", fmt.Errorf("%q climbs out of the project folder; move the file into it", name)
	}
	return name, nil
}
