package frame

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

const (
	maxBody      = 1 << 20          // bytes of an API request; uploads have their own limit
	headerTime   = 10 * time.Second // to send a request's header
	shutdownTime = 8 * time.Second  // for requests under way when a module stops
	drainTime    = 30 * time.Second // for the rest of a body that nobody wanted
)

// Module is what a module tells the frame of itself.
type Module struct {
	Name       string // analysis: its API is at /api/analysis, its pages at /analysis
	Title      string // Analysis: as the navigation shows it
	About      string // one line for the API's page
	Migrations fs.FS  // of its store; nil: it has no tables of its own
	Pages      fs.FS  // its templates, *.html; nil: it has no pages
	Static     fs.FS  // its files under /static/NAME/; nil: none
	// Funcs are what its templates may use beside the frame's.
	Funcs template.FuncMap
	Icon  string // in the navigation: a name from frame/icons; default box
	// Set adds what the module does: operations, pages, loops. It starts nothing.
	Set func(*Server) error
}

// Server is one module's process.
type Server struct {
	Module  Module
	Config  Config
	Log     *slog.Logger
	Store   *Store
	API     huma.API // operations under /api/NAME; only known callers reach them
	Metrics *prometheus.Registry

	pages     *pages
	static    *files
	mux       *http.ServeMux // everything, in the end
	inside    *http.ServeMux // for known callers
	handler   http.Handler
	loops     []loop
	ready     []func(context.Context) error
	timings   *prometheus.HistogramVec
	underWay  prometheus.Gauge       // requests
	attempts  *prometheus.CounterVec // of webhook deliveries, by outcome
	door      *Door                  // nil: the module stands behind one
	transport *http.Transport        // to other modules: no proxy of the environment gets to see identities
	wraps     []func(http.Handler) http.Handler
	ending    chan struct{} // closed when the server begins to stop
}

// Door is what makes a module the one that knows who somebody is.
type Door struct {
	// Identify finds out who asks. It replaces the frame's own way: a signed
	// identity in a request means nothing to a door.
	Identify func(*http.Request) (Identity, error)
	// SignIn is the path of the page that people are sent to who must be known
	// and are not; it gets where they wanted to go as the parameter next.
	SignIn string
	// Rest gets every request for which the module has no handler, without
	// anybody having been identified.
	Rest http.Handler
}

// SetDoor makes the module the door of the shop.
func (s *Server) SetDoor(d Door) { s.door = &d }

type loop struct {
	name string
	run  func(context.Context) error
}

var setErrors sync.Once

// New opens the module's store and puts the server together. It starts nothing;
// Close closes the store if Run is never called.
func New(ctx context.Context, m Module, c Config, log *slog.Logger) (*Server, error) {
	setErrors.Do(func() { huma.NewError = newError })
	store, err := OpenStore(ctx, c.File(m.Name+".db"), m.Migrations)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Module: m, Config: c, Log: log, Store: store,
		Metrics:   prometheus.NewRegistry(),
		transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute},
		mux:       http.NewServeMux(), inside: http.NewServeMux(), ending: make(chan struct{}),
		timings: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "inshape_request_seconds", Help: "Requests by route and status class, in seconds.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route", "status"}),
	}
	s.attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "inshape_webhook_attempts_total", Help: "Attempts to deliver an event to a webhook, by outcome.",
	}, []string{"outcome"})
	s.underWay = prometheus.NewGauge(prometheus.GaugeOpts{Name: "inshape_requests_under_way", Help: "Requests that are not answered yet."})
	s.Metrics.MustRegister(s.timings, s.underWay, s.attempts, newWaitingGauge(store), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.static, err = newFiles(m); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if s.pages, err = newPages(s); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	config := huma.DefaultConfig("Inshape "+m.Title, Version())
	config.Info.Description = m.About
	config.CreateHooks = nil // no $schema in answers
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = s.Base()+"/openapi", "", ""
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"key": {Type: "http", Scheme: "bearer", Description: "An API key of the shop"}}
	config.Security = []map[string][]string{{"key": {}}}
	config.Transformers = append(config.Transformers, s.logged)
	s.API = humago.New(s.inside, config)
	s.mount()
	if m.Set != nil {
		if err := m.Set(s); err != nil {
			return nil, errors.Join(fmt.Errorf("set up %s: %w", m.Name, err), store.Close())
		}
	}
	var all http.Handler = s.mux
	for _, wrap := range s.wraps {
		all = wrap(all)
	}
	if s.handler, err = compressed(s.observed(all)); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return s, nil
}

// Base is where the module's API is: /api/NAME.
func (s *Server) Base() string { return "/api/" + s.Module.Name }

// mount adds what every module has.
func (s *Server) mount() {
	known := s.authenticated(s.keyed(s.inside))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if s.door != nil {
			if _, pattern := s.inside.Handler(r); pattern == "/" {
				s.door.Rest.ServeHTTP(w, r)
				return
			}
		}
		known.ServeHTTP(w, r)
	})
	s.mux.HandleFunc("GET "+s.Base()+"/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		text, err := s.API.OpenAPI().MarshalJSON()
		if err != nil {
			writeProblem(w, AsProblem(err))
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = w.Write(text)
	})
	s.mux.HandleFunc("GET "+s.Base()+"/docs", s.perhaps(s.documented))
	s.mux.HandleFunc("GET /healthz", s.health)
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{}))
	s.mux.HandleFunc("GET /static/", func(w http.ResponseWriter, r *http.Request) {
		if s.door != nil && !s.static.has(r.URL.Path) {
			s.door.Rest.ServeHTTP(w, r)
			return
		}
		s.static.ServeHTTP(w, r)
	})
	s.inside.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.Fail(w, r, NotFound("there is nothing at %s", r.URL.Path))
	})
	s.operations()
}

// Public adds a handler that needs no identity.
func (s *Server) Public(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// Handle adds a handler for known callers outside the API's document, such as uploads.
func (s *Server) Handle(pattern string, h http.Handler) { s.inside.Handle(pattern, h) }

// Loop adds something that runs as long as the module does. If it ends before
// its context does, the module ends.
func (s *Server) Loop(name string, run func(context.Context) error) {
	s.loops = append(s.loops, loop{name, run})
}

// Wrap puts something around all that the module serves.
func (s *Server) Wrap(wrap func(http.Handler) http.Handler) { s.wraps = append(s.wraps, wrap) }

// Ready adds a check to the module's health.
func (s *Server) Ready(check func(context.Context) error) { s.ready = append(s.ready, check) }

// Handler is the whole module, for tests.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves on the configured address until ctx ends, then lets requests under
// way finish and closes the store. The first loop that fails ends it.
func (s *Server) Run(ctx context.Context) error {
	listener, err := net.Listen("tcp", s.Config.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", s.Config.Listen, err), s.Store.Close())
	}
	return s.Serve(ctx, listener)
}

// Serve is Run on a listener, which it closes.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	defer s.transport.CloseIdleConnections()
	group, ctx := errgroup.WithContext(ctx)
	server := &http.Server{
		MaxHeaderBytes:    64 << 10,
		Handler:           s.handler,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	for _, l := range append(s.loops, loop{"deliver webhooks", s.deliver}, loop{"forget", s.forget}) {
		group.Go(func() error {
			err := l.run(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = errors.New("it ended")
			}
			return fmt.Errorf("%s: %w", l.name, err)
		})
	}
	group.Go(func() error {
		s.Log.Info("serving", "module", s.Module.Name, "listen", listener.Addr().String(), "version", Version())
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		close(s.ending)
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if err := server.Shutdown(ending); err != nil {
			return errors.Join(fmt.Errorf("stop serving: %w", err), server.Close())
		}
		return nil
	})
	return errors.Join(group.Wait(), s.Store.Close())
}

// Ending is closed when the server begins to stop: who waits in a request for
// something to happen answers then.
func (s *Server) Ending() <-chan struct{} { return s.ending }

// Close closes the store of a server that never ran.
func (s *Server) Close() error { return s.Store.Close() }

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	status := Health{Module: s.Module.Name, Title: s.Module.Title, Icon: s.Module.Icon, Version: Version()}
	err := s.Store.read.PingContext(ctx)
	for _, check := range s.ready {
		err = errors.Join(err, check(ctx))
	}
	if err != nil {
		s.Log.Warn("not healthy", "error", err)
		status.Trouble = "not ready"
		WriteJSON(w, http.StatusServiceUnavailable, status)
		return
	}
	WriteJSON(w, http.StatusOK, status)
}

// Health is the answer of /healthz: 200, or 503 with the trouble.
type Health struct {
	Module  string `json:"module"`
	Title   string `json:"title"`
	Icon    string `json:"icon,omitempty"`
	Version string `json:"version"`
	Trouble string `json:"trouble,omitempty"`
}

// logged writes down why an operation failed, as Fail does for the rest.
func (s *Server) logged(c huma.Context, _ string, answer any) (any, error) {
	if p, ok := answer.(*Problem); ok && p.Status >= 500 && c.Context().Err() == nil {
		s.Log.Error("request failed", "method", c.Method(), "path", c.URL().Path, "code", p.Code, "error", errors.Join(p, p.cause))
	}
	return answer, nil
}

// Fail answers with an error, as a problem to programs and as a page to people.
// What users must not see goes to the log.
func (s *Server) Fail(w http.ResponseWriter, r *http.Request, err error) {
	p := AsProblem(err)
	if p.Status >= 500 && r.Context().Err() == nil {
		s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "code", p.Code, "error", errors.Join(p, p.cause))
	}
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="inshape"`)
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		writeProblem(w, p)
		return
	}
	if p.Status == http.StatusUnauthorized && s.door != nil {
		if r.Header.Get("HX-Request") == "true" {
			w.Header().Set("HX-Redirect", s.door.SignIn)
		} else if r.Method == http.MethodGet && r.Header.Get("Authorization") == "" { // programs have no use for the page
			http.Redirect(w, r, s.door.SignIn+"?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
	}
	s.pages.fail(w, r, p)
}

// compressed sends texts compressed to those who take it.
func compressed(next http.Handler) (http.Handler, error) {
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(1024), gzhttp.ContentTypes([]string{
		"text/html", "text/css", "text/javascript", "text/plain", "text/csv", "application/json", "application/problem+json",
		"application/vnd.oai.openapi+json", "image/svg+xml", "model/gltf+json",
	}))
	if err != nil {
		return nil, fmt.Errorf("set up compression: %w", err)
	}
	return wrap(next), nil
}

// keyed takes note of a request's Idempotency-Key. What it asks is its method,
// its path and its body; of an upload, which is not to be held in memory, the
// length and the type stand for the body.
func (s *Server) keyed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get(idempotencyHeader)
		if key == "" {
			next.ServeHTTP(w, r)
			return
		}
		if len(key) > 128 {
			s.Fail(w, r, Invalid("Idempotency-Key: at most 128 characters"))
			return
		}
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if kind != "" && kind != "application/json" && kind != "application/x-www-form-urlencoded" {
			digest := fmt.Appendf(nil, "%s %d %s", kind, r.ContentLength, r.Header.Get("Content-Digest"))
			next.ServeHTTP(w, r.WithContext(withOnce(r.Context(), key, r.Method, r.URL.RequestURI(), digest)))
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			s.Fail(w, r, err)
			return
		}
		r = r.WithContext(withOnce(r.Context(), key, r.Method, r.URL.RequestURI(), body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// observed logs, measures and survives what the handlers do.
func (s *Server) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		s.underWay.Inc()
		defer s.underWay.Dec()
		id := r.Header.Get("X-Request-Id")
		if len(id) == 0 || len(id) > 64 {
			id = NewID("req")
		}
		r.Header.Set("X-Request-Id", id)
		header := w.Header()
		header.Set("X-Request-Id", id)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Content-Security-Policy", bareContent)
		out := &recorder{ResponseWriter: w, status: http.StatusOK}
		body := &ending{ReadCloser: r.Body, ended: r.Body == nil || r.Body == http.NoBody}
		if !body.ended {
			r.Body = body
		}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.Log.Error("handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				if !out.wrote {
					s.Fail(out, r, errors.New("panic"))
				}
			}
			_, route := s.mux.Handler(r)
			if route == "/" {
				_, route = s.inside.Handler(r)
			}
			took := time.Since(began)
			s.timings.WithLabelValues(route, strconv.Itoa(out.status/100)+"xx").Observe(took.Seconds())
			level := slog.LevelInfo
			if r.URL.Path == "/healthz" || r.URL.Path == "/metrics" || strings.HasPrefix(r.URL.Path, "/static/") {
				level = slog.LevelDebug
			}
			s.Log.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path, "status", out.status,
				"ms", took.Milliseconds(), "id", id)
		}()
		next.ServeHTTP(out, r)
		if !body.ended && r.Header.Get("Expect") == "" {
			drain(out, body)
		}
	})
}

// ending is a body that knows whether it was read to its end.
type ending struct {
	io.ReadCloser
	ended bool
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.ended = e.ended || err == io.EOF
	return n, err
}

// drain reads what is left of a body that nobody wanted: it was refused, or sent
// once more. A client that still sends when the connection is closed loses the
// answer: it would see a reset.
func drain(w http.ResponseWriter, body io.Reader) {
	control := http.NewResponseController(w)
	if control.Flush() != nil || control.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, body) // what comes of it is the same
	_ = control.SetReadDeadline(time.Time{})
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.wrote && status >= 200 {
		r.status, r.wrote = status, true
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
