package frame

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed pages/*.html
var layoutFiles embed.FS

//go:embed static
var staticFiles embed.FS

// pages renders a module's templates inside the frame's layout.
type pages struct {
	server *Server
	byName map[string]*template.Template
}

// View is what a template gets.
type View struct {
	Title  string // of the page; the layout adds the shop's name
	Shop   string
	Logo   template.URL
	Unit   string
	Who    Identity
	Module string // the one that the page belongs to, for the navigation
	Path   string // of the request
	Data   any    // the module's own
}

// newPages parses every template of the module together with the layout. A
// template defines "main", and may use what files that begin with _ define.
func newPages(s *Server) (*pages, error) {
	p := &pages{server: s, byName: map[string]*template.Template{}}
	layout, err := template.New("layout.html").Funcs(templateFuncs()).ParseFS(layoutFiles, "pages/layout.html", "pages/_*.html")
	if err != nil {
		return nil, fmt.Errorf("parse layout: %w", err)
	}
	if err := p.add(layout, layoutFiles, "pages", "error.html", "docs.html"); err != nil {
		return nil, err
	}
	if s.Module.Pages == nil {
		return p, nil
	}
	var names, parts []string
	err = fs.WalkDir(s.Module.Pages, ".", func(file string, d fs.DirEntry, err error) error {
		switch base := path.Base(file); {
		case err != nil || d.IsDir() || path.Ext(file) != ".html":
		case strings.HasPrefix(base, "_"):
			parts = append(parts, file)
		default:
			names = append(names, file)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find pages: %w", err)
	}
	if len(parts) > 0 {
		if layout, err = layout.ParseFS(s.Module.Pages, parts...); err != nil {
			return nil, fmt.Errorf("parse pages: %w", err)
		}
	}
	return p, p.add(layout, s.Module.Pages, "", names...)
}

func (p *pages) add(layout *template.Template, files fs.FS, folder string, names ...string) error {
	for _, name := range names {
		page, err := template.Must(layout.Clone()).ParseFS(files, path.Join(folder, name))
		if err != nil {
			return fmt.Errorf("parse page %s: %w", name, err)
		}
		p.byName[path.Base(name)] = page
	}
	return nil
}

// Page adds a page for known callers, such as "GET /orders/{id}". An error that
// it gives becomes an error page.
func (s *Server) Page(pattern string, h func(http.ResponseWriter, *http.Request) error) {
	s.inside.HandleFunc(pattern, s.page(h))
}

// PublicPage is Page for everybody.
func (s *Server) PublicPage(pattern string, h func(http.ResponseWriter, *http.Request) error) {
	s.mux.HandleFunc(pattern, s.page(h))
}

func (s *Server) page(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.Fail(w, r, err)
		}
	}
}

// Render answers with a page of the module, whole or not at all. To a request
// of htmx for a part (HX-Request) it gives "main" without the layout.
func (s *Server) Render(w http.ResponseWriter, r *http.Request, status int, page, title string, data any) error {
	name := "layout.html"
	if r.Header.Get("HX-Request") == "true" && r.Header.Get("HX-Boosted") != "true" {
		name = "main"
	}
	return s.render(w, r, status, page, name, title, data)
}

// RenderPart answers with one template that the page or a part defines.
func (s *Server) RenderPart(w http.ResponseWriter, r *http.Request, page, part string, data any) error {
	return s.render(w, r, http.StatusOK, page, part, "", data)
}

func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, page, part, title string, data any) error {
	t := s.pages.byName[page]
	if t == nil {
		return fmt.Errorf("render %s: no such page", page)
	}
	view := View{
		Title: title, Shop: s.Config.Shop, Logo: template.URL(s.Config.Logo), Unit: s.Config.Unit, //nolint:gosec // the configuration was checked
		Who: Who(r.Context()), Module: s.Module.Name, Path: r.URL.Path, Data: data,
	}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, part, view); err != nil {
		return fmt.Errorf("render %s: %w", page, err)
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Add("Vary", "HX-Request")
	header.Set("Content-Security-Policy", contentPolicy)
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // the client is gone if this cannot be written
	return nil
}

// contentPolicy lets pages use what the shop itself serves, and pictures.
const contentPolicy = "default-src 'self'; img-src 'self' data: blob: https:; style-src 'self' 'unsafe-inline'; " +
	"script-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"

func (p *pages) fail(w http.ResponseWriter, r *http.Request, problem *Problem) {
	if err := p.server.render(w, r, problem.Status, "error.html", "layout.html", problem.Title, problem); err != nil {
		p.server.Log.Error("error page", "error", err)
		http.Error(w, problem.Detail, problem.Status)
	}
}

// documented answers with the page that shows the module's API.
func (s *Server) documented(w http.ResponseWriter, r *http.Request) {
	if err := s.render(w, r, http.StatusOK, "docs.html", "layout.html", s.Module.Title+" API", s.API.OpenAPI()); err != nil {
		s.Fail(w, r, err)
	}
}

// static serves the frame's files, and the module's below its name.
func (s *Server) static() http.Handler {
	mux := http.NewServeMux()
	own, err := fs.Sub(staticFiles, "static")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(own)))
	if s.Module.Static != nil {
		prefix := "/static/" + s.Module.Name + "/"
		mux.Handle("GET "+prefix, http.StripPrefix(prefix, http.FileServerFS(s.Module.Static)))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=300")
		mux.ServeHTTP(w, r)
	})
}

// templateFuncs are what every template may use.
func templateFuncs() template.FuncMap {
	return template.FuncMap{
		"date":     func(t time.Time) string { return t.Format("2 Jan 2006") },
		"datetime": func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"rfc3339":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"dict": func(pairs ...any) (map[string]any, error) {
			m := map[string]any{}
			for i := 0; i+1 < len(pairs); i += 2 {
				key, ok := pairs[i].(string)
				if !ok {
					return nil, fmt.Errorf("dict: key %v is no text", pairs[i])
				}
				m[key] = pairs[i+1]
			}
			return m, nil
		},
	}
}
