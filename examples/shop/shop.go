// Package shop is what the services of the example product share: an order, the
// client of its database, and how each of them serves. The product is the order
// board of a small workshop: web shows and moves the orders, db keeps them, and
// the optional stats counts them.
//
// It uses nothing but the standard library and nothing of Bulkhead: an ordinary
// Compose project, which also runs without. Start at compose.yaml.
package shop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// State is how far an order is. It moves along States, one by one.
type State string

// The states of an order, in their order.
const (
	New       State = "new"
	Making    State = "making"
	Ready     State = "ready"
	Collected State = "collected"
)

// States in the order in which an order passes them.
var States = []State{New, Making, Ready, Collected}

// Next is the state after s, and false after the last.
func (s State) Next() (State, bool) {
	for i, state := range States[:len(States)-1] {
		if s == state {
			return States[i+1], true
		}
	}
	return "", false
}

// Label is the state in the words of the pages.
func (s State) Label() string {
	return map[State]string{New: "New", Making: "In the making", Ready: "Ready", Collected: "Collected"}[s]
}

// Order is what a customer wants made.
type Order struct {
	ID       string    `json:"id"` // sorts by age
	Customer string    `json:"customer"`
	Item     string    `json:"item"`
	Quantity int       `json:"quantity"`
	Note     string    `json:"note,omitempty"`
	State    State     `json:"state"`
	Created  time.Time `json:"created"`
	Changed  time.Time `json:"changed"`

	Revision int64 `json:"revision"` // of the record; what a change is based on
}

// Check says what is wrong with an order, field by field; empty if nothing is.
func (o Order) Check() map[string]string {
	faults := map[string]string{}
	for _, field := range []struct {
		name, value string
		most        int
		needed      bool
	}{{"customer", o.Customer, 80, true}, {"item", o.Item, 120, true}, {"note", o.Note, 500, false}} {
		switch {
		case field.needed && strings.TrimSpace(field.value) == "":
			faults[field.name] = "Please fill this in."
		case !utf8.ValidString(field.value):
			faults[field.name] = "This is not text."
		case utf8.RuneCountInString(field.value) > field.most:
			faults[field.name] = fmt.Sprintf("At most %d characters, please.", field.most)
		}
	}
	if o.Quantity < 1 || o.Quantity > 10_000 {
		faults["quantity"] = "A number from 1 to 10000, please."
	}
	return faults
}

// Look is how pages look, as the settings of the stamp say.
type Look struct {
	Title  string // SHOP_TITLE
	Accent string // ACCENT, "#rrggbb"
}

var accentPattern = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`)

// LookOf reads the settings. It refuses what is no colour.
func LookOf(getenv func(string) string) (Look, error) {
	look := Look{
		Title:  cmp.Or(strings.TrimSpace(getenv("SHOP_TITLE")), "Workshop orders"),
		Accent: cmp.Or(getenv("ACCENT"), "#0f6b5c"),
	}
	if !accentPattern.MatchString(look.Accent) {
		return Look{}, fmt.Errorf("ACCENT is %q: give a colour such as #0f6b5c", look.Accent)
	}
	return look, nil
}

// OnAccent is the colour, black or white, of text on the accent colour that
// contrasts more with it (WCAG 2.2, relative luminance simplified to gamma 2.2).
func (l Look) OnAccent() string {
	rgb, _ := strconv.ParseUint(l.Accent[1:], 16, 32)
	linear := func(shift int) float64 {
		c := float64(rgb>>shift&0xff) / 255
		return c * c
	}
	if 0.2126*linear(16)+0.7152*linear(8)+0.0722*linear(0) > 0.18 {
		return "#000"
	}
	return "#fff"
}

// Main runs a service: "healthcheck" as the only argument asks the one that runs
// here whether it is well, anything else serves on the address in LISTEN until
// SIGTERM. It returns the exit code.
func Main(listen string, handler func() (http.Handler, error)) int {
	listen = cmp.Or(os.Getenv("LISTEN"), listen)
	if len(os.Args) == 2 && os.Args[1] == "healthcheck" {
		if err := healthcheck(listen); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	h, err := handler()
	if err == nil {
		err = serve(ctx, listen, h)
	}
	if err != nil {
		slog.Error(err.Error())
		return 1
	}
	return 0
}

func serve(ctx context.Context, listen string, handler http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("/", logged(handler))
	mux.Handle("GET /healthz", handler) // unlogged: it comes all the time
	server := &http.Server{
		Addr: listen, Handler: mux,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	slog.Info("serving", "listen", listen)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(ending)
}

// logged writes a line for every request.
func logged(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		status := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(status, r)
		slog.Info("request", "method", r.Method, "path", r.URL.Path, "status", status.status, "ms", time.Since(began).Milliseconds())
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func healthcheck(listen string) error {
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 3 * time.Second}
	response, err := client.Get("http://" + net.JoinHostPort("127.0.0.1", port) + "/healthz")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}
