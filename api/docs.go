package api

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"slices"
	"sort"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.html
var docsHTML string

// docsPage renders the OpenAPI document as one page that needs nothing else: no
// script, no font, no other server.
func docsPage(doc *huma.OpenAPI) ([]byte, error) {
	page := docs{Title: doc.Info.Title, Version: doc.Info.Version, Intro: doc.Info.Description}
	groups := map[string]*docsGroup{}
	for _, tag := range doc.Tags {
		page.Groups = append(page.Groups, &docsGroup{Name: tag.Name, Intro: tag.Description})
		groups[tag.Name] = page.Groups[len(page.Groups)-1]
	}
	for path, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op == nil || len(op.Tags) == 0 || groups[op.Tags[0]] == nil {
				continue
			}
			g := groups[op.Tags[0]]
			g.Operations = append(g.Operations, describe(doc, path, op))
		}
	}
	for _, g := range page.Groups {
		slices.SortFunc(g.Operations, func(a, b docsOperation) int {
			if c := strings.Compare(a.Path, b.Path); c != 0 {
				return c
			}
			return strings.Compare(a.Method, b.Method)
		})
	}
	t, err := template.New("docs").Parse(docsHTML)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, page)
	return out.Bytes(), err
}

type docs struct {
	Title, Version, Intro string
	Groups                []*docsGroup
}

type docsGroup struct {
	Name, Intro string
	Operations  []docsOperation
}

type docsOperation struct {
	ID, Method, Path, Summary, Intro string
	Parameters                       []docsField
	Body, Answer                     []docsField
	AnswerType                       string
}

type docsField struct {
	Name, Type, Text string
	Required         bool
}

func describe(doc *huma.OpenAPI, path string, op *huma.Operation) docsOperation {
	d := docsOperation{ID: op.OperationID, Method: op.Method, Path: path, Summary: op.Summary, Intro: op.Description}
	for _, p := range op.Parameters {
		text := p.Description
		if text == "" && p.Schema != nil {
			text = p.Schema.Description
		}
		d.Parameters = append(d.Parameters, docsField{Name: p.Name + " (" + p.In + ")", Type: typeName(doc, p.Schema), Text: text, Required: p.Required})
	}
	if op.RequestBody != nil {
		for _, m := range op.RequestBody.Content {
			d.Body = fields(doc, m.Schema, "", 0)
		}
	}
	for status, resp := range op.Responses {
		if !strings.HasPrefix(status, "2") {
			continue
		}
		for kind, m := range resp.Content {
			d.AnswerType = status + " " + kind
			d.Answer = fields(doc, m.Schema, "", 0)
			if len(d.Answer) == 0 && m.Schema != nil {
				d.AnswerType += ", " + typeName(doc, m.Schema)
			}
		}
		if d.AnswerType == "" {
			d.AnswerType = status + " " + resp.Description
		}
	}
	return d
}

// fields flattens a schema: "stamp.tasks[].state".
func fields(doc *huma.OpenAPI, s *huma.Schema, under string, depth int) []docsField {
	s = resolve(doc, s)
	if s == nil || depth > 3 {
		return nil
	}
	if s.Items != nil {
		return fields(doc, s.Items, under+"[]", depth)
	}
	if extra, ok := s.AdditionalProperties.(*huma.Schema); ok {
		return fields(doc, extra, under+"{}", depth+1)
	}
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	sort.Strings(names)
	var out []docsField
	for _, name := range names {
		p := s.Properties[name]
		full := strings.TrimPrefix(under+"."+name, ".")
		text := p.Description
		out = append(out, docsField{Name: full, Type: typeName(doc, p), Text: text, Required: slices.Contains(s.Required, name)})
		out = append(out, fields(doc, p, full, depth+1)...)
	}
	return out
}

func resolve(doc *huma.OpenAPI, s *huma.Schema) *huma.Schema {
	if s != nil && s.Ref != "" {
		return doc.Components.Schemas.SchemaFromRef(s.Ref)
	}
	return s
}

func typeName(doc *huma.OpenAPI, s *huma.Schema) string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case s.Items != nil:
		return "list of " + typeName(doc, s.Items)
	case s.Type == "":
		return "any"
	case s.Type == "object":
		if extra, ok := s.AdditionalProperties.(*huma.Schema); ok {
			return "map of " + typeName(doc, extra)
		}
		return "object"
	case len(s.Enum) > 0:
		var values []string
		for _, v := range s.Enum {
			if text, ok := v.(string); ok {
				values = append(values, text)
			}
		}
		return strings.Join(values, " | ")
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	}
	return s.Type
}

// serveDocs answers GET /docs.
func (s *Server) serveDocs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:")
	s.page(w, r, "text/html; charset=utf-8", s.docs)
}
