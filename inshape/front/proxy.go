package front

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"inshape/frame"
)

const (
	dialTime   = 3 * time.Second
	answerTime = 2 * time.Minute  // from the end of a request to the beginning of its answer; a wait for events takes one
	stallTime  = 90 * time.Second // without a byte in either direction
)

// pass is what becomes of a request that is none of the front's own: it goes to
// the module that its path names, with the identity of whoever asks.
func (f *front) pass(w http.ResponseWriter, r *http.Request) {
	name := moduleOf(r.URL.Path)
	to, ok := f.neighbours.named(r.Context(), name)
	who, err := f.identify(r)
	known := err == nil
	if known {
		r = r.WithContext(frame.WithIdentity(r.Context(), who))
	} else if _, tried := frame.Bearer(r); tried {
		f.Fail(w, r, frame.Unauthorized("this API key is not one of the shop's").Because(err).Advise("An admin makes keys on the page API keys."))
		return
	}
	switch {
	case !ok && strings.HasPrefix(r.URL.Path, "/api/") && name != "" && name != "front":
		f.Fail(w, r, frame.NewProblem(http.StatusNotImplemented, "no-such-module", "this shop does not have the module %q", name))
	case !ok && !known && !strings.HasPrefix(r.URL.Path, "/api/"):
		f.Fail(w, r, frame.Unauthorized("this needs a session").Because(err))
	case !ok:
		f.Fail(w, r, frame.NotFound("there is nothing at %s", r.URL.Path))
	case r.URL.Path == "/"+name:
		http.Redirect(w, r, r.URL.Path+"/", http.StatusPermanentRedirect)
	default:
		if !to.Up { // it may have come back since it was looked at
			f.neighbours.doubt()
		}
		f.forward(w, r, to, who, known)
	}
}

func unavailable(to neighbour) error {
	return frame.NewProblem(http.StatusServiceUnavailable, "module-down", "%s does not answer at the moment", to.Title).
		Advise("Everything else works. Try again in a moment.")
}

// moduleOf is the module that a path belongs to: /NAME/…, /api/NAME/… or /static/NAME/….
func moduleOf(path string) string {
	rest := strings.TrimPrefix(path, "/")
	for _, prefix := range []string{"api/", "static/"} {
		if inner, ok := strings.CutPrefix(rest, prefix); ok {
			rest = inner
			break
		}
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// roads is the transport to the modules. It follows no proxy of the environment.
func roads() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       time.Minute,
		ResponseHeaderTimeout: answerTime,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // what the module compressed for the client passes as it is
	}
}

// ours are headers that the front has set already when a module's answer comes.
var ours = []string{"X-Request-Id", "X-Content-Type-Options", "Referrer-Policy", "X-Frame-Options", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy"}

func (f *front) forward(w http.ResponseWriter, r *http.Request, to neighbour, who frame.Identity, known bool) {
	w.Header().Del("Content-Security-Policy") // the module's word counts
	control := http.NewResponseController(w)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &patient{ReadCloser: r.Body, deadline: control.SetReadDeadline}
	}
	proxy := &httputil.ReverseProxy{
		Transport:     f.transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(f.Log.Handler(), slog.LevelWarn),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to.address)
			p.Out.Host = p.In.Host
			p.Out.Header["X-Forwarded-For"] = []string{clientAddress(p.In)}
			p.Out.Header.Set("X-Forwarded-Host", p.In.Host)
			p.Out.Header.Set("X-Forwarded-Proto", map[bool]string{true: "https", false: "http"}[overTLS(p.In)])
			p.Out.Header.Del("Authorization")
			frame.Detach(p.Out)
			dropCookie(p.Out, cookieName(p.In))
			if known {
				if err := frame.Attach(p.Out, f.Config.Secret, who); err != nil {
					f.Log.Error("sign identity", "error", err) // the module refuses it then
				}
			}
		},
		ModifyResponse: func(answer *http.Response) error {
			for _, name := range ours {
				answer.Header.Del(name)
			}
			if answer.StatusCode == http.StatusUnauthorized && !known && !strings.HasPrefix(r.URL.Path, "/api/") {
				return errSignIn
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			switch {
			case errors.Is(err, errSignIn):
				f.Fail(w, r, frame.Unauthorized("this needs a session"))
			case r.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF): // the client has gone
				f.Log.Debug("client went away", "path", r.URL.Path)
			case errors.Is(err, errStalled):
				f.Fail(w, r, frame.NewProblem(http.StatusRequestTimeout, "stalled", "the request stopped coming"))
			default:
				f.neighbours.doubt()
				f.Fail(w, r, frame.AsProblem(unavailable(to)).Because(err))
			}
		},
	}
	proxy.ServeHTTP(w, r)
}

var errSignIn = errors.New("the module wants to know who asks")

// dropCookie takes one cookie out of a request: no module needs the session.
func dropCookie(r *http.Request, name string) {
	cookies := r.Cookies()
	r.Header.Del("Cookie")
	for _, c := range cookies {
		if c.Name != name {
			r.AddCookie(c)
		}
	}
}

// patient is a body that may take as long as it wants while it comes, and may
// not stall. It leaves no deadline behind: the connection goes on. To close it
// keeps the transport from it, and no more: the rest may have to be drained.
type patient struct {
	io.ReadCloser
	deadline func(time.Time) error
	closed   atomic.Bool
}

var errStalled = errors.New("the request stopped coming")

func (p *patient) Read(b []byte) (int, error) {
	if p.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	_ = p.deadline(time.Now().Add(stallTime)) // without deadlines a stalled client stays
	n, err := p.ReadCloser.Read(b)
	if err != nil {
		_ = p.deadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errStalled
	}
	return n, err
}

func (p *patient) Close() error {
	p.closed.Store(true)
	_ = p.deadline(time.Time{})
	return nil
}
