package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/api"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

// document is one stamp in a file of `apply` and `export`.
type document struct {
	Kind     string            `yaml:"kind"`
	Name     string            `yaml:"name"`
	Product  string            `yaml:"product"`
	Release  string            `yaml:"release,omitempty"`
	Modules  []string          `yaml:"modules,omitempty"`
	Settings map[string]any    `yaml:"settings,omitempty"`
	Labels   map[string]string `yaml:"labels,omitempty"`
	Terms    map[string]any    `yaml:"terms,omitempty"` // a bulkhead.Terms, by the names of its JSON

	where string // file:line
}

// maxDocuments bounds a file of `apply` in bytes.
const maxDocuments = 16 << 20

func (c *command) applyCommand() *cobra.Command {
	var file string
	var dryRun, wait, noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "apply -f FILE|DIR", Short: "Make stamps as files say",
		Long: `Create the stamps that files describe, or change them until they are so. Applying
again changes nothing. Stamps that no file names stay as they are; secret settings
and releases that a file leaves out stay, too.

  kind: Stamp
  name: acme
  product: shop
  release: 1.4.0          # optional
  modules: [reports]
  settings: {TITLE: Acme's shop}
  labels: {ring: early}
  terms: {region: eu, tier: gold, apart: [{key: steel}]}   # see docs/placement.md`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usage(cmd, "-f FILE|DIR is missing")
			}
			docs, err := c.readDocuments(file)
			if err != nil {
				return err
			}
			specs := make([]api.StampSpec, len(docs))
			for i, d := range docs { // all of them first: one that is refused must not leave the others half applied
				if specs[i], err = d.spec(); err != nil {
					return err
				}
			}
			if !dryRun && len(docs) > 1 {
				for i, spec := range specs {
					if _, err := c.client().ApplyStamp(cmd.Context(), spec, true); err != nil {
						return at(docs[i].where, err)
					}
				}
			}
			changes := []api.StampChange{}
			marks := map[string]string{"create": c.paint(green, "+"), "restore": c.paint(green, "+"), "update": c.paint(yellow, "~"), "unchanged": "="}
			counts := map[string]int{}
			for i, spec := range specs {
				change, err := c.client().ApplyStamp(cmd.Context(), spec, dryRun)
				if err != nil {
					return at(docs[i].where, err)
				}
				changes = append(changes, change)
				counts[change.Action]++
				c.say("%s %s", marks[change.Action], change.Stamp.Name)
				if change.Action == "update" || dryRun && change.Action != "unchanged" {
					for _, diff := range change.Differences {
						c.say("    %s", c.difference(diff))
					}
				}
			}
			if !dryRun && wait && !noWait {
				for i, change := range changes {
					if change.Action == "unchanged" || change.Stamp.Desired != bulkhead.DesiredRunning {
						continue
					}
					if changes[i].Stamp, err = c.await(cmd.Context(), change.Stamp, timeout); err != nil {
						return err
					}
				}
			}
			return c.print(changes, func() {
				c.say("%d to create, %d to change, %d as they are", counts["create"], counts["update"], counts["unchanged"])
				if dryRun {
					c.say("dry run: nothing was changed")
				} else {
					c.next("bulkhead stamp list")
				}
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file or folder of YAML; - is standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the difference and change nothing")
	c.addWaitFlags(cmd, &wait, &noWait, &timeout)
	return cmd
}

// at puts a place before an error of the server.
func at(where string, err error) error {
	e, ok := errors.AsType[*bulkhead.Error](err)
	if !ok || bulkhead.KindOf(err) == bulkhead.ErrUnavailable {
		return err
	}
	located := *e
	located.Message = where + ": " + e.Message
	return &located
}

// readDocuments reads every document of a file, or of the .yaml files of a
// folder, before anything is applied.
func (c *command) readDocuments(path string) ([]document, error) {
	if path == "-" {
		docs, err := readDocuments("stdin", c.env.Stdin)
		if err != nil {
			return nil, err
		}
		return distinct("stdin", docs)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bulkhead.Errorf(bulkhead.ErrNotFound, "no such file or folder: %s", path).WithHint("give a file of stamps, or a folder of .yaml files, with -f")
	} else if err != nil {
		return nil, err
	}
	files := []string{path}
	if info.IsDir() {
		files = nil
		for _, pattern := range []string{"*.yaml", "*.yml"} {
			found, err := filepath.Glob(filepath.Join(path, pattern))
			if err != nil {
				return nil, err
			}
			files = append(files, found...)
		}
		slices.Sort(files)
		if len(files) == 0 {
			return nil, bulkhead.Errorf(bulkhead.ErrNotFound, "no .yaml file in %s", path).WithHint("bulkhead export > %s/stamps.yaml writes one", path)
		}
	}
	var docs []document
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		more, err := readDocuments(name, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		docs = append(docs, more...)
	}
	return distinct(path, docs)
}

// distinct is docs, if there are any and no stamp is described twice.
func distinct(path string, docs []document) ([]document, error) {
	if len(docs) == 0 {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "%s describes no stamp", path).WithHint("bulkhead apply --help shows what a stamp looks like")
	}
	seen := map[string]string{}
	for _, d := range docs {
		name := strings.ToLower(d.Name)
		if was := seen[name]; was != "" {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "%s: stamp %s was described at %s already", d.where, name, was).WithHint("keep one of the two")
		}
		seen[name] = d.where
	}
	return docs, nil
}

func readDocuments(name string, r io.Reader) ([]document, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocuments+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxDocuments {
		return nil, bulkhead.Errorf(bulkhead.ErrExhausted, "%s is larger than %s", name, size(maxDocuments))
	}
	var docs []document
	var faults []bulkhead.Fault
	dec := yaml.NewDecoder(bytes.NewReader(b))
	for {
		var n yaml.Node
		if err := dec.Decode(&n); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "%s", yamlFault(name, err))
		}
		if len(n.Content) == 0 || n.Content[0].Tag == "!!null" {
			continue
		}
		root := n.Content[0]
		d := document{where: fmt.Sprintf("%s:%d", name, root.Line)}
		faults = append(faults, d.check(name, root)...)
		if err := root.Decode(&d); err != nil && len(faults) == 0 { // else check has said it better
			faults = append(faults, yamlFault(name, err))
		}
		docs = append(docs, d)
	}
	if len(faults) == 1 {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "%s", faults[0])
	}
	return docs, bulkhead.Faulty(fmt.Sprintf("%s: %d faults", name, len(faults)), faults)
}

// yamlFault is an error of the YAML library as a place and a sentence.
func yamlFault(name string, err error) bulkhead.Fault {
	message := strings.TrimPrefix(oneLine(err.Error()), "yaml: ")
	message = strings.TrimPrefix(message, "construct errors: ")
	if rest, ok := strings.CutPrefix(message, "line "); ok {
		if line, rest, ok := strings.Cut(rest, ": "); ok {
			name, message = name+":"+line, rest
		}
	}
	return bulkhead.Fault{Where: name, Message: "YAML: " + message}
}

// check tells what is wrong with the shape of a document, with the line.
func (d *document) check(name string, root *yaml.Node) (faults []bulkhead.Fault) {
	fault := func(n *yaml.Node, format string, args ...any) {
		faults = append(faults, bulkhead.Fault{Where: fmt.Sprintf("%s:%d", name, n.Line), Message: fmt.Sprintf(format, args...)})
	}
	if root.Kind != yaml.MappingNode {
		fault(root, "not a stamp: a mapping with kind, name and product is wanted")
		return faults
	}
	known := []string{"kind", "name", "product", "release", "modules", "settings", "labels", "terms"}
	shapes := map[string]yaml.Kind{"modules": yaml.SequenceNode, "settings": yaml.MappingNode, "labels": yaml.MappingNode, "terms": yaml.MappingNode}
	has := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		switch {
		case !slices.Contains(known, key.Value):
			fault(key, "unknown key %q: a stamp has %s", key.Value, strings.Join(known, ", "))
		case has[key.Value]:
			fault(key, "%s is given twice", key.Value)
		case key.Value == "kind" && value.Value != "Stamp":
			fault(value, "kind %q is unknown: write kind: Stamp", value.Value)
		case shapes[key.Value] == 0 && value.Kind != yaml.ScalarNode && value.Kind != yaml.AliasNode:
			fault(value, "%s is one text", key.Value)
		case shapes[key.Value] == yaml.SequenceNode && value.Kind != yaml.SequenceNode && value.Kind != yaml.AliasNode:
			fault(value, "%s is a list, such as [reports]", key.Value)
		case shapes[key.Value] == yaml.MappingNode && value.Kind != yaml.MappingNode && value.Kind != yaml.AliasNode:
			fault(value, "%s is a mapping, such as {KEY: value}", key.Value)
		}
		has[key.Value] = true
	}
	for _, key := range []string{"kind", "name", "product"} {
		if !has[key] {
			fault(root, "%s is missing", key)
		}
	}
	return faults
}

func (d document) spec() (api.StampSpec, error) {
	spec := api.StampSpec{Name: d.Name, Product: d.Product, Release: d.Release, Modules: d.Modules, Labels: d.Labels, Settings: map[string]json.RawMessage{}}
	name, err := bulkhead.ParseStampName(d.Name)
	if err != nil {
		return spec, at(d.where, err)
	}
	spec.Name = string(name)
	for key, value := range d.Settings {
		b, err := json.Marshal(value)
		if err != nil {
			return spec, bulkhead.Errorf(bulkhead.ErrInvalid, "%s: setting %s: %w", d.where, key, err)
		}
		spec.Settings[key] = b
	}
	if d.Terms != nil {
		spec.Terms = &bulkhead.Terms{}
		if err := strictly(d.Terms, spec.Terms); err != nil {
			return spec, at(d.where, bulkhead.Errorf(bulkhead.ErrInvalid, "terms: %w", err))
		}
	}
	return spec, nil
}

func (c *command) exportCommand() *cobra.Command {
	var q api.StampQuery
	cmd := &cobra.Command{
		Use: "export [NAME...]", Short: "Write stamps as files for apply",
		Long: "Write stamps as YAML for `bulkhead apply`. Secret settings are left out: applying keeps those that a stamp has.",
		Args: between(0, 1000, "[NAME...]"), ValidArgsFunction: c.stampNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			var stamps []api.Stamp
			if len(args) == 0 {
				var err error
				if stamps, err = c.client().Stamps(cmd.Context(), q); err != nil {
					return err
				}
			}
			for _, name := range args {
				s, err := c.client().Stamp(cmd.Context(), name)
				if err != nil {
					return err
				}
				stamps = append(stamps, s)
			}
			docs := []document{}
			for _, s := range stamps {
				d := document{Kind: "Stamp", Name: string(s.Name), Product: string(s.Product), Release: s.Release, Labels: s.Labels, Settings: map[string]any{}}
				for key, raw := range termObject(s.Terms) {
					if d.Terms == nil {
						d.Terms = map[string]any{}
					}
					d.Terms[key] = raw
				}
				for _, m := range s.Modules {
					d.Modules = append(d.Modules, string(m))
				}
				for key, raw := range s.Settings {
					var value any
					dec := json.NewDecoder(bytes.NewReader(raw))
					dec.UseNumber()
					if err := dec.Decode(&value); err != nil {
						return fmt.Errorf("setting %s of %s: %w", key, s.Name, err)
					}
					d.Settings[key] = plainNumber(value)
				}
				docs = append(docs, d)
			}
			if c.output == "json" {
				return c.print(jsonDocuments(docs), nil)
			}
			for i, d := range docs {
				if i > 0 {
					fmt.Fprintln(c.env.Stdout, "---")
				}
				var b bytes.Buffer
				enc := yaml.NewEncoder(&b)
				enc.SetIndent(2)
				if err := errors.Join(enc.Encode(d), enc.Close()); err != nil {
					return err
				}
				if _, err := c.env.Stdout.Write(b.Bytes()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&q.Product, "product", "", "only of this product")
	cmd.Flags().StringVar(&q.Label, "label", "", "only with this label, KEY or KEY=VALUE")
	return cmd
}

// plainNumber makes whole numbers integers again, which JSON does not tell apart.
func plainNumber(v any) any {
	n, ok := v.(json.Number)
	if !ok {
		return v
	}
	if i, err := n.Int64(); err == nil {
		return i
	}
	f, err := n.Float64()
	if err != nil {
		return n.String()
	}
	return f
}

func jsonDocuments(docs []document) []map[string]any {
	out := []map[string]any{}
	for _, d := range docs {
		m := map[string]any{"kind": d.Kind, "name": d.Name, "product": d.Product, "release": d.Release}
		if len(d.Modules) > 0 {
			m["modules"] = d.Modules
		}
		if len(d.Settings) > 0 {
			m["settings"] = maps.Clone(d.Settings)
		}
		if len(d.Labels) > 0 {
			m["labels"] = d.Labels
		}
		out = append(out, m)
	}
	return out
}
