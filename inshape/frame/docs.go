package frame

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// apiDocs is an OpenAPI document as the page about a module's API shows it.
type apiDocs struct {
	Title, About, Version, Document string
	Groups                          []docGroup
}

type docGroup struct {
	Name       string
	Operations []docOperation
}

type docOperation struct {
	ID, Method, Path, Summary, About string
	Tone                             string // the colour of the method
	Parameters                       []docField
	Body                             []docField
	Takes                            []string // types of the body
	Example                          string   // of the body, as JSON
	Answers                          []docAnswer
	Curl                             string
}

type docAnswer struct {
	Status string
	About  string
	Types  []string
	Fields []docField
}

// docField is one field of a body, or a parameter.
type docField struct {
	Name, Type, In, About string
	Needed                bool
}

// documentation reads an OpenAPI document into what the page shows.
func documentation(document *huma.OpenAPI, address string) apiDocs {
	d := apiDocs{Title: document.Info.Title, About: document.Info.Description, Version: document.Info.Version, Document: address}
	groups := map[string][]docOperation{}
	var names []string
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		item := document.Paths[path]
		for _, o := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if o == nil || o.Hidden {
				continue
			}
			group := "Other"
			if len(o.Tags) > 0 {
				group = o.Tags[0]
			}
			if _, ok := groups[group]; !ok {
				names = append(names, group)
			}
			groups[group] = append(groups[group], describe(document, o))
		}
	}
	// What every module has comes last.
	common := []string{"Events", "Webhooks", "Audit", "Other"}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(slices.Index(common, a), slices.Index(common, b)) })
	for _, name := range names {
		d.Groups = append(d.Groups, docGroup{name, groups[name]})
	}
	return d
}

func describe(document *huma.OpenAPI, o *huma.Operation) docOperation {
	tone := map[string]string{http.MethodGet: "good", http.MethodPost: "busy", http.MethodPut: "warn", http.MethodPatch: "warn", http.MethodDelete: "bad"}
	out := docOperation{ID: o.OperationID, Method: o.Method, Path: o.Path, Summary: o.Summary, About: o.Description, Tone: tone[o.Method]}
	read := schemaReader{document: document}
	for _, p := range o.Parameters {
		f := read.field(p.Name, p.Schema, p.Required)
		f.In = p.In
		if p.Description != "" {
			f.About = p.Description
		}
		out.Parameters = append(out.Parameters, f)
	}
	if o.RequestBody != nil {
		for _, kind := range slices.Sorted(maps.Keys(o.RequestBody.Content)) {
			out.Takes = append(out.Takes, kind)
			schema := o.RequestBody.Content[kind].Schema
			out.Body = read.fields("", schema, 0)
			if kind == "application/json" && schema != nil {
				if text, err := json.MarshalIndent(read.example(schema, 0), "", "  "); err == nil {
					out.Example = string(text)
				}
			}
		}
	}
	out.Curl = curl(out)
	for _, status := range slices.Sorted(maps.Keys(o.Responses)) {
		response := o.Responses[status]
		answer := docAnswer{Status: status, About: response.Description, Types: slices.Sorted(maps.Keys(response.Content))}
		for _, kind := range answer.Types {
			if kind != "application/problem+json" {
				answer.Fields = read.fields("", response.Content[kind].Schema, 0)
			}
		}
		out.Answers = append(out.Answers, answer)
	}
	return out
}

// curl is how to try an operation from a shell.
func curl(o docOperation) string {
	line := `curl -H "Authorization: Bearer $KEY"`
	if o.Method != http.MethodGet {
		line += " -X " + o.Method
	}
	if o.Example != "" {
		line += ` -H "Content-Type: application/json" -d @body.json`
	}
	return line + ` "$SHOP` + o.Path + `"`
}

// schemaReader writes schemas as lists of fields and as examples, to a depth at
// which a reader still follows.
type schemaReader struct{ document *huma.OpenAPI }

const docDepth = 4

func (r schemaReader) resolve(s *huma.Schema) *huma.Schema {
	for s != nil && s.Ref != "" {
		s = r.document.Components.Schemas.SchemaFromRef(s.Ref)
	}
	return s
}

// fields are the fields of an object and of what is in it: "lines[].quantity".
func (r schemaReader) fields(prefix string, s *huma.Schema, depth int) []docField {
	s = r.resolve(s)
	if s == nil || depth > docDepth {
		return nil
	}
	if s.Type == huma.TypeArray {
		return r.fields(prefix+"[]", s.Items, depth)
	}
	names := slices.SortedFunc(maps.Keys(s.Properties), func(a, b string) int {
		if needed := slices.Contains(s.Required, a); needed != slices.Contains(s.Required, b) {
			if needed {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	var list []docField
	for _, name := range names {
		full := name
		if prefix != "" {
			full = prefix + "." + name
		}
		list = append(list, r.field(full, s.Properties[name], slices.Contains(s.Required, name)))
		list = append(list, r.fields(full, s.Properties[name], depth+1)...)
	}
	return list
}

func (r schemaReader) field(name string, s *huma.Schema, needed bool) docField {
	f := docField{Name: name, Needed: needed}
	if s == nil {
		return f
	}
	f.About = s.Description
	full := r.resolve(s)
	if full == nil {
		return f
	}
	if f.About == "" {
		f.About = full.Description
	}
	f.Type = r.kind(full)
	var bounds []string
	for _, b := range []struct {
		text  string
		value *float64
	}{{"at least %v", full.Minimum}, {"at most %v", full.Maximum}, {"more than %v", full.ExclusiveMinimum}} {
		if b.value != nil {
			bounds = append(bounds, fmt.Sprintf(b.text, *b.value))
		}
	}
	if full.MaxLength != nil {
		bounds = append(bounds, fmt.Sprintf("at most %d characters", *full.MaxLength))
	}
	if full.Default != nil {
		bounds = append(bounds, fmt.Sprintf("default %v", full.Default))
	}
	if len(bounds) > 0 {
		f.Type += ", " + strings.Join(bounds, ", ")
	}
	return f
}

func (r schemaReader) kind(s *huma.Schema) string {
	switch {
	case len(s.Enum) > 0:
		var values []string
		for _, v := range s.Enum {
			values = append(values, fmt.Sprint(v))
		}
		return strings.Join(values, " | ")
	case s.Type == huma.TypeArray:
		if items := r.resolve(s.Items); items != nil {
			return "list of " + r.kind(items)
		}
		return "list"
	case s.Type == huma.TypeObject && s.Properties == nil:
		return "object of any names"
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	case s.Type == "":
		return "anything"
	}
	return s.Type
}

// example is a value that a schema would take, with the fields that are needed
// and those that are plain.
func (r schemaReader) example(s *huma.Schema, depth int) any {
	s = r.resolve(s)
	switch {
	case s == nil || depth > docDepth:
		return nil
	case len(s.Examples) > 0:
		return s.Examples[0]
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Default != nil:
		return s.Default
	}
	switch s.Type {
	case huma.TypeObject:
		object := map[string]any{}
		for name, property := range s.Properties {
			if slices.Contains(s.Required, name) {
				object[name] = r.example(property, depth+1)
			}
		}
		return object
	case huma.TypeArray:
		return []any{r.example(s.Items, depth+1)}
	case huma.TypeInteger, huma.TypeNumber:
		if s.Minimum != nil {
			return *s.Minimum
		}
		return 1
	case huma.TypeBoolean:
		return true
	case huma.TypeString:
		return map[string]string{"date-time": "2026-01-31T12:00:00Z", "date": "2026-01-31", "email": "somebody@example.com", "uri": "https://example.com/"}[s.Format]
	}
	return nil
}
