package frame

import (
	"bytes"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

//go:embed pages/*.html
var layoutFiles embed.FS

// pages renders a module's templates inside the frame's layout.
type pages struct {
	server *Server
	byName map[string]*template.Template
	policy string // Content-Security-Policy of every page
}

// View is what a template gets.
type View struct {
	Title  string // of the page; the layout adds the shop's name
	Shop   string
	Logo   template.URL
	Unit   string
	Who    Identity
	Module string // the one that the page belongs to
	Path   string // of the request
	At     string // the entry of the navigation that the page is below: /, /orders, /admin/users
	Flash  *Flash // what the request before had to say
	Data   any    // the module's own
}

// Flash is one line that the next page shows.
type Flash struct {
	Kind string `json:"kind,omitempty"` // good, warn, bad or nothing
	Text string `json:"text"`
}

// newPages parses every template of the module together with the layout. A
// template defines "main", and may use what files that begin with _ define.
func newPages(s *Server) (*pages, error) {
	p := &pages{server: s, byName: map[string]*template.Template{}, policy: contentPolicy(s.Config.Logo)}
	layout, err := template.New("layout.html").Funcs(templateFuncs(s.static)).Funcs(s.Module.Funcs).ParseFS(layoutFiles, "pages/layout.html", "pages/_*.html")
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

// PublicPage is Page for everybody; who is known is known there too.
func (s *Server) PublicPage(pattern string, h func(http.ResponseWriter, *http.Request) error) {
	s.mux.HandleFunc(pattern, s.perhaps(s.page(h)))
}

func (s *Server) page(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
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
		Who: Who(r.Context()), Module: s.Module.Name, Path: r.URL.Path, At: entry(r.URL.Path), Data: data,
	}
	if part == "layout.html" {
		view.Flash = takeFlash(w, r)
	}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, part, view); err != nil {
		return fmt.Errorf("render %s: %w", page, err)
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Add("Vary", "HX-Request")
	header.Set("Content-Security-Policy", s.pages.policy)
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // the client is gone if this cannot be written
	return nil
}

// bareContent is the policy of whatever is no page: should a browser take
// something that was uploaded for a document, it is one that can do nothing.
const bareContent = "default-src 'none'; sandbox; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// contentPolicy lets pages use what the shop itself serves, and its logo. No
// script stands in a page; style attributes may, for widths and the like.
func contentPolicy(logo string) string {
	pictures := "img-src 'self' data: blob:"
	if u, err := url.Parse(logo); err == nil && u.Scheme == "https" {
		pictures += " https://" + u.Host
	}
	return "default-src 'self'; " + pictures + "; style-src 'self'; style-src-attr 'unsafe-inline'; script-src 'self'; " +
		"worker-src 'self' blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
}

// entry is the entry of the navigation that a path is below.
func entry(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case parts[0] == "admin" && len(parts) > 1:
		return "/admin/" + parts[1]
	case parts[0] == "api": // of pages, the one about it
		return "/docs"
	}
	return "/" + parts[0]
}

// flashCookie carries a Flash from an answer to the page that comes next.
const flashCookie = "inshape_flash"

// Flash gives the next page that the reader sees a line to show: "Saved". To be
// called before the answer, which is usually a redirect.
func (s *Server) Flash(w http.ResponseWriter, kind, format string, args ...any) {
	text, err := json.Marshal(Flash{Kind: kind, Text: fmt.Sprintf(format, args...)})
	if err != nil || len(text) > 2000 {
		return // not worth an error: the page shows what is
	}
	http.SetCookie(w, &http.Cookie{
		Name: flashCookie, Value: base64.RawURLEncoding.EncodeToString(text), Path: "/", MaxAge: 60, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

func takeFlash(w http.ResponseWriter, r *http.Request) *Flash {
	cookie, err := r.Cookie(flashCookie)
	if err != nil {
		return nil
	}
	http.SetCookie(w, &http.Cookie{Name: flashCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	text, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil {
		return nil
	}
	var flash Flash
	if json.Unmarshal(text, &flash) != nil || !slices.Contains([]string{"", "good", "warn", "bad"}, flash.Kind) {
		return nil
	}
	return &flash
}

// fail shows a problem: as a page, or to htmx as a toast beside what is there.
func (p *pages) fail(w http.ResponseWriter, r *http.Request, problem *Problem) {
	if text, err := json.Marshal(map[string]Flash{"toast": {Kind: "bad", Text: strings.TrimSpace(Sentence(problem.Detail) + " " + problem.Hint)}}); err == nil &&
		r.Header.Get("HX-Request") == "true" {
		w.Header().Set("HX-Trigger", headerText(string(text)))
	}
	title := people[problem.Status]
	switch {
	case title != "":
	case problem.Status >= 500:
		title = "Something went wrong"
	default:
		title = "That does not work"
	}
	shown := struct {
		Status              int
		Title, Detail, Hint string
	}{problem.Status, title, Sentence(problem.Detail), Sentence(problem.Hint)}
	if err := p.server.render(w, r, problem.Status, "error.html", "layout.html", title, shown); err != nil {
		p.server.Log.Error("error page", "error", err)
		http.Error(w, problem.Detail, problem.Status)
	}
}

// people are titles of error pages, which are for people; others have one of two.
var people = map[int]string{
	http.StatusNotFound: "There is nothing here", http.StatusForbidden: "This is not for you", http.StatusUnauthorized: "Who is asking?",
	http.StatusPreconditionFailed: "Somebody was faster", http.StatusTooManyRequests: "Slowly", http.StatusServiceUnavailable: "Back in a moment",
	http.StatusInsufficientStorage: "There is no room left", http.StatusRequestEntityTooLarge: "That is too large",
}

// Sentence makes a sentence of a problem's line, for a page.
func Sentence(line string) string {
	if line == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(line)
	line = string(unicode.ToUpper(first)) + line[size:]
	if last := line[len(line)-1]; last != '.' && last != '?' && last != '!' {
		line += "."
	}
	return line
}

// headerText makes JSON fit for a header, which takes ASCII alone.
func headerText(text string) string {
	var b strings.Builder
	for _, c := range utf16.Encode([]rune(text)) {
		if c < 0x80 {
			b.WriteByte(byte(c))
		} else {
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}

// documented answers with the page that shows the module's API.
func (s *Server) documented(w http.ResponseWriter, r *http.Request) {
	if err := s.render(w, r, http.StatusOK, "docs.html", "layout.html", s.Module.Title+" API", documentation(s.API.OpenAPI(), s.Base()+"/openapi.json")); err != nil {
		s.Fail(w, r, err)
	}
}

// templateFuncs are what every template may use.
func templateFuncs(files *files) template.FuncMap {
	return template.FuncMap{
		"date":     func(t time.Time) string { return t.Format("2 Jan 2006") },
		"datetime": func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"rfc3339":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"icon":     icon,
		"static":   files.address,
		"initials": initials,
		"short":    short,
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

//go:embed icons/*.svg
var iconFiles embed.FS

// icon is one of the frame's pictures, to stand in a page. It says nothing to
// those who do not see it: words stand beside it, or an aria-label around it.
func icon(name string) (template.HTML, error) {
	text, err := iconFiles.ReadFile("icons/" + name + ".svg")
	if err != nil {
		return "", fmt.Errorf("icon %q: there is none of that name", name)
	}
	return template.HTML(strings.Replace(strings.TrimSpace(string(text)), "<svg ", `<svg class="icon" aria-hidden="true" `, 1)), nil //nolint:gosec // compiled in
}

// short is an identifier for a narrow place: what it is of, and its end, which
// is what differs.
func short(id string) string {
	if !ValidID(id) {
		return id
	}
	return id[:4] + "…" + id[len(id)-6:]
}

// initials are the first letters of up to two words of a name.
func initials(name string) string {
	var letters []rune
	for word := range strings.FieldsSeq(name) {
		if first, _ := utf8.DecodeRuneInString(word); unicode.IsLetter(first) || unicode.IsDigit(first) {
			letters = append(letters, unicode.ToUpper(first))
		}
	}
	if len(letters) > 2 {
		letters = []rune{letters[0], letters[len(letters)-1]}
	}
	return string(letters)
}
