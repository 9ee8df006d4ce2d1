// Package api is both ends of HTTP: Server answers users (and, on another
// listener, nodes), Client asks, and the types between them are the wire. The
// client's method and the handler that answers it stand in one file, so a
// feature is read on one screen: stamp.go, release.go, event.go, node.go.
//
// The OpenAPI document at /openapi.json is made from the handlers' types. Errors
// cross as RFC 9457 problems (problem.go), streams as lines of JSON (stream.go),
// commands in tasks over a WebSocket (exec.go). It decides nothing: what a
// stamp's tasks do is for package plan.
package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/auth"
	"bulkhead/keys"
	"bulkhead/store"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config says what a Server works with. What has no default is needed.
type Config struct {
	Store *store.Store
	// Sealer encrypts the secret settings of stamps.
	Sealer Sealer
	// Bundle unpacks the bundle of a release from the registry, unless it has done so
	// before, and returns its folder; ErrNotFound.
	Bundle func(ctx context.Context, digest bulkhead.Digest) (dir string, err error)
	// HasImage checks that everything an image consists of is in the registry, and
	// says what is missing.
	HasImage func(ctx context.Context, image bulkhead.Image) error
	// Registry is the built-in OCI registry, mounted at /v2/. Nil: none.
	Registry http.Handler

	// Name is this server's among the servers. Default: "server".
	Name bulkhead.NodeName
	// Authority certifies the machines of the farm. Nil: NodeHandler admits nobody.
	Authority *keys.Authority
	// Secrets are the files of keys that a server needs which joins. Default: none.
	Secrets func() map[string][]byte
	// Dial is how this server reaches others: its certificate, and trust in the
	// farm's authority. Nil: it does not.
	Dial *tls.Config

	// Domain is what stamps' host names end in. Default: "localhost".
	Domain string
	// URL is where users reach a host of a stamp. Default: "http://HOST".
	URL func(host bulkhead.Host) string
	// Forecast answers what would be if the farm were another than it is in view.
	// Nil: nobody can tell.
	Forecast func(view *store.Snapshot, what bulkhead.WhatIf) (bulkhead.Forecast, error)
	// Meetable refuses a stamp whose terms no node meets. Nil: nobody looks.
	Meetable func(view *store.Snapshot, s *bulkhead.Stamp) error
	// Create makes stamps that are not there and places them, in one transaction that
	// check agrees to and may add to. False: it cannot, and nothing was done. Nil: it
	// never can; the leader places what was made.
	Create func(ctx context.Context, stamps []*bulkhead.Stamp, check func(tx *store.Tx) error) (bool, error)
	// Target says where a stamp could move: to that node, or for "" to the best of all
	// others. Nil: nobody can tell.
	Target func(view *store.Snapshot, stamp *bulkhead.Stamp, to bulkhead.NodeName) (bulkhead.Transfer, error)
	// Ready says why the server cannot do its work, or nil. Default: always nil.
	Ready func() error
	// Version of Bulkhead. Default: "dev".
	Version string
	// Metrics are served at /metrics. Default: none.
	Metrics prometheus.Gatherer
	// Logger gets what users may not see. Default: discarded.
	Logger *slog.Logger
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Server answers the users of a cluster, and by NodeHandler its nodes.
type Server struct {
	c        Config
	handler  http.Handler
	docs     func() ([]byte, error)
	nodes    *nodeAPI
	projects projects

	ctx    context.Context // of everything that lasts; ended by Close
	cancel context.CancelFunc
}

// NewServer makes a server. It starts nothing.
func NewServer(c Config) (*Server, error) {
	if c.Domain == "" {
		c.Domain = "localhost"
	}
	if c.URL == nil {
		c.URL = func(h bulkhead.Host) string { return "http://" + string(h) }
	}
	if c.Forecast == nil {
		c.Forecast = func(*store.Snapshot, bulkhead.WhatIf) (bulkhead.Forecast, error) {
			return bulkhead.Forecast{}, bulkhead.Errorf(bulkhead.ErrUnavailable, "this server makes no forecasts")
		}
	}
	if c.Meetable == nil {
		c.Meetable = func(*store.Snapshot, *bulkhead.Stamp) error { return nil }
	}
	if c.Create == nil {
		c.Create = func(context.Context, []*bulkhead.Stamp, func(tx *store.Tx) error) (bool, error) { return false, nil }
	}
	if c.Target == nil {
		c.Target = func(*store.Snapshot, *bulkhead.Stamp, bulkhead.NodeName) (bulkhead.Transfer, error) {
			return bulkhead.Transfer{}, bulkhead.Errorf(bulkhead.ErrUnavailable, "this server plans no moves")
		}
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Name == "" {
		c.Name = "server"
	}
	if c.Secrets == nil {
		c.Secrets = func() map[string][]byte { return nil }
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{c: c}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.nodes = newNodeAPI(s)

	mux := http.NewServeMux()
	hapi := humago.New(mux, openAPIConfig(c.Version))
	s.registerReleases(hapi)
	s.registerStamps(hapi)
	s.registerPlacement(hapi)
	s.registerLogs(hapi)
	s.registerExec(hapi)
	s.registerEvents(hapi)
	s.registerNodes(hapi)
	s.registerFarm(hapi)
	s.registerMoves(hapi)
	s.registerStatus(hapi)

	metrics := promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{})
	s.plain(hapi, mux, "/metrics", "metrics", "Prometheus metrics of the platform", "text/plain", metrics.ServeHTTP)
	s.plain(hapi, mux, "/healthz", "health", "Whether the process lives; needs no token", "text/plain", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	s.plain(hapi, mux, "/readyz", "ready", "Whether requests can be served; needs no token", "text/plain", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.c.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	s.plain(hapi, mux, "/docs", "docs", "This page; needs no token", "text/html", s.serveDocs)
	// Both are made when they are first asked for: that takes longer than all else of a start.
	document := sync.OnceValues(func() ([]byte, error) { return json.MarshalIndent(hapi.OpenAPI(), "", " ") })
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, r *http.Request) {
		s.page(w, r, "application/vnd.oai.openapi+json;version=3.1", document)
	})
	s.docs = sync.OnceValues(func() ([]byte, error) { return docsPage(hapi.OpenAPI()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/docs", http.StatusFound) })
	if c.Registry != nil {
		mux.Handle("/v2/", c.Registry)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, asProblem(bulkhead.Errorf(bulkhead.ErrNotFound, "no such operation: %s %s", r.Method, r.URL.Path).WithHint("see /docs")))
	})
	s.handler = s.guard(mux)
	return s, nil
}

// page answers with what make makes.
func (s *Server) page(w http.ResponseWriter, r *http.Request, contentType string, make func() ([]byte, error)) {
	b, err := make()
	if err != nil {
		writeProblem(w, asProblem(s.logged(r.Context(), err)))
		return
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(b)
}

// Run looks after the nodes whose sessions are with this server, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	s.nodes.run(ctx)
	return nil
}

// Close ends every stream and session. The server must not be used after it.
func (s *Server) Close() { s.cancel() }

// ServeHTTP answers a user.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// guard lets in who presents a token, and everybody to what holds no data.
func (s *Server) guard(next http.Handler) http.Handler {
	gate := &auth.Gate{
		Lookup: func(ctx context.Context, hash string) (auth.Operator, error) {
			o, err := s.operator(hash)
			if err != nil && s.c.Store.Sync(ctx) == nil { // one that was made a moment ago at another server
				o, err = s.operator(hash)
			}
			return o, err
		},
		Logger: s.c.Logger,
		Refuse: func(w http.ResponseWriter, _ *http.Request, status int, err *bulkhead.Error) {
			p := asProblem(err)
			p.Status, p.Title = status, http.StatusText(status)
			writeProblem(w, p)
		},
	}
	guarded := gate.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, ok := s.current(w, r)
		if !ok {
			return
		}
		o, _ := auth.FromContext(r.Context())
		if _, err := s.operator(o.Hash); err != nil { // it was revoked a moment ago at another server
			gate.Challenge(w, r, err.Error())
			return
		}
		ctx, end := context.WithCancelCause(r.Context())
		defer end(nil)
		defer s.outlast(ctx, o, end)()
		next.ServeHTTP(w, r.WithContext(ctx))
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/", "/healthz", "/readyz", "/docs", "/openapi.json":
			next.ServeHTTP(w, r)
		default:
			guarded.ServeHTTP(w, r)
		}
	})
}

// requestKey is that of a request's id in its context.
type requestKey struct{}

// requestOf is the id that a client has given its request, so that it may ask again.
func requestOf(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// current brings this server's view up to what any server has acknowledged, so that
// a user may ask one after the other; it names the others and notes the request's
// id. When no majority answers, who looks gets what is known and is told that it may be
// old, and who changes is told to ask again.
func (s *Server) current(w http.ResponseWriter, r *http.Request) (*http.Request, bool) {
	var apis []string
	for server := range s.c.Store.View().Servers.All() {
		if strings.HasPrefix(server.API, "https://") {
			apis = append(apis, server.API)
		}
	}
	if len(apis) > 1 {
		w.Header().Set(serversHeader, strings.Join(apis, ","))
	}
	looks := r.Method == http.MethodGet || r.Method == http.MethodHead
	if err := s.c.Store.Sync(r.Context()); err != nil && !looks {
		p := asProblem(s.logged(r.Context(), err))
		w.Header().Set(retryHeader, "1")
		writeProblem(w, p)
		return nil, false
	} else if err != nil {
		w.Header().Set(staleHeader, "1")
	}
	if id := r.Header.Get(requestHeader); id != "" && len(id) <= 64 && !strings.Contains(id, " ") {
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
	}
	return r, true
}

// Starting answers users of a server that is not there yet: another one may be.
func Starting() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(retryHeader, "1")
		writeProblem(w, asProblem(bulkhead.Errorf(bulkhead.ErrUnavailable, "this server is starting: it waits for a majority of the servers").
			WithHint("start the others; stamps go on running meanwhile")))
	})
}

// actor is who made the request of ctx.
func actor(ctx context.Context) string {
	o, _ := auth.FromContext(ctx)
	return o.Name
}

// logged writes down what users may not see of err, and returns it.
func (s *Server) logged(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "the request was given up")
	}
	if bulkhead.KindOf(err) == nil {
		if _, ok := errors.AsType[*Problem](err); !ok {
			s.c.Logger.Error("request failed", "operator", actor(ctx), "err", err)
		}
	} else if e, ok := errors.AsType[*bulkhead.Error](err); ok && e.Cause != nil {
		s.c.Logger.Info("request refused", "operator", actor(ctx), "err", err, "cause", e.Cause)
	}
	return err
}

// maxBody bounds the body of a request in bytes.
const maxBody = 1 << 20

func openAPIConfig(version string) huma.Config {
	config := huma.DefaultConfig("Bulkhead API", version)
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", "" // ours
	config.CreateHooks = nil                                             // no $schema in answers
	config.Info.Description = `Everything that the bulkhead command does, it does by this API.

Requests carry "Authorization: Bearer TOKEN". Errors are RFC 9457 problems with a hint; a stream is one JSON value a line, an empty line a sign of life, and a last line {"problem": ...} tells of an error in mid-stream.`
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	config.Security = []map[string][]string{{"token": {}}}
	config.Tags = []*huma.Tag{
		{Name: "Releases", Description: "Immutable versions of products. Images and bundles are uploaded to the OCI registry at /v2/ (Basic authentication, the token as password) before a release is published."},
		{Name: "Stamps", Description: "Customers' complete copies of a product."},
		{Name: "Nodes", Description: "Machines of the farm."},
		{Name: "Platform", Description: "What the platform says of itself."},
	}
	return config
}

// operation describes one endpoint.
type operation struct {
	method, path, id, tag, summary, description string
	stream                                      any // an item of its stream, if it answers with one
}

// register adds an operation whose errors become problems.
func register[I, O any](s *Server, hapi huma.API, o operation, handle func(ctx context.Context, in *I) (*O, error)) {
	op := huma.Operation{
		Method: o.method, Path: o.path, OperationID: o.id, Tags: []string{o.tag},
		Summary: o.summary, Description: o.description, MaxBodyBytes: maxBody, BodyReadTimeout: 30 * time.Second,
		Responses: map[string]*huma.Response{"default": problemResponse(hapi)},
	}
	if o.stream != nil {
		op.Responses["200"] = &huma.Response{Description: "One item a line", Content: map[string]*huma.MediaType{
			"application/x-ndjson": {Schema: schemaOf(hapi, o.stream)},
		}}
	}
	huma.Register(hapi, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			p := asProblem(s.logged(ctx, err))
			switch {
			case errors.Is(err, store.ErrNoMajority): // it may or may not be done: the client asks again
				return nil, huma.ErrorWithHeaders(p, http.Header{retryHeader: {"1"}})
			case errors.Is(err, errAnotherServer):
				return nil, huma.ErrorWithHeaders(p, http.Header{retryHeader: {retryAnother}})
			}
			return nil, p
		}
		return out, nil
	})
}

// plain adds an endpoint that huma does not handle, and its description.
func (s *Server) plain(hapi huma.API, mux *http.ServeMux, path, id, summary, contentType string, handle http.HandlerFunc) {
	op := &huma.Operation{
		Method: http.MethodGet, Path: path, OperationID: id, Summary: summary, Tags: []string{"Platform"},
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{contentType: {Schema: &huma.Schema{Type: "string"}}}}},
	}
	if path != "/metrics" {
		op.Security = []map[string][]string{{}}
	}
	hapi.OpenAPI().AddOperation(op)
	mux.HandleFunc("GET "+path, handle)
}

// answer is a JSON body.
type answer[T any] struct{ Body T }

func problemResponse(hapi huma.API) *huma.Response {
	return &huma.Response{Description: "Error", Content: map[string]*huma.MediaType{problemType: {Schema: schemaOf(hapi, Problem{})}}}
}

func schemaOf(hapi huma.API, v any) *huma.Schema {
	return hapi.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(v), true, "")
}
