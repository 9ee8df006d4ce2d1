// Command web is the front of the example product: the order board as a page
// that works without JavaScript, and the same as JSON.
//
//	GET  /                      the board
//	POST /orders                customer, item, quantity, note: a new order
//	POST /orders/ID/next        revision: on to the next state
//	POST /orders/ID/delete
//	GET  /api/orders            JSON; POST: a new order, as JSON
//	GET  /healthz
package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"bulkhead/examples/shop"
)

var (
	//go:embed page.html
	pageText string
	//go:embed style.css
	style []byte
	//go:embed refresh.js
	script []byte
)

const maxBody = 16 << 10 // bytes

func main() {
	os.Exit(shop.Main(":8080", func() (http.Handler, error) {
		look, err := shop.LookOf(os.Getenv)
		if err != nil {
			return nil, err
		}
		db := shop.NewClient(cmp.Or(os.Getenv("DB_URL"), "http://db:7000"), os.Getenv("DB_TOKEN"))
		stats := &module{health: cmp.Or(os.Getenv("STATS_URL"), "http://stats:8081") + "/healthz"}
		return handler(db, look, stats.there, time.Now)
	}))
}

// web serves the board.
type web struct {
	db    *shop.Client
	look  shop.Look
	stats func() bool // whether there is a page /stats
	now   func() time.Time
	page  *template.Template
}

func handler(db *shop.Client, look shop.Look, stats func() bool, now func() time.Time) (http.Handler, error) {
	s := &web{db: db, look: look, stats: stats, now: now}
	var err error
	if s.page, err = template.New("page").Funcs(template.FuncMap{"ago": s.ago, "action": action}).Parse(pageText); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.board)
	mux.HandleFunc("POST /orders", s.create)
	mux.HandleFunc("POST /orders/{id}/next", s.next)
	mux.HandleFunc("POST /orders/{id}/delete", s.remove)
	mux.HandleFunc("GET /api/orders", s.list)
	mux.HandleFunc("POST /api/orders", s.createJSON)
	mux.HandleFunc("GET /style.css", static("text/css", style))
	mux.HandleFunc("GET /refresh.js", static("text/javascript", script))
	mux.HandleFunc("GET /accent.css", static("text/css", fmt.Appendf(nil, ":root { --accent: %s; --on-accent: %s; }\n", look.Accent, look.OnAccent())))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := db.Healthy(r.Context()); err != nil {
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	// Forms of other sites change nothing here.
	return secure(http.NewCrossOriginProtection().Handler(mux)), nil
}

// module is a service that a stamp may have or not.
type module struct {
	health string // URL

	mu      sync.Mutex // guards what follows
	checked time.Time
	found   bool
}

// there tells whether the module answers. It asks every ten seconds at most, so
// that pages do not wait for what is not there.
func (m *module) there() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.checked) < 10*time.Second {
		return m.found
	}
	client := http.Client{Timeout: 300 * time.Millisecond}
	response, err := client.Get(m.health)
	if err == nil {
		response.Body.Close()
	}
	m.checked, m.found = time.Now(), err == nil && response.StatusCode == http.StatusOK
	return m.found
}

func secure(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src data:; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "same-origin")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h.ServeHTTP(w, r)
	})
}

func static(kind string, content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind+"; charset=utf-8")
		w.Header().Set("Cache-Control", "max-age=300")
		_, _ = w.Write(content) // whoever asked has gone
	}
}

// board is what the page shows.
type board struct {
	Look    shop.Look
	Stats   bool
	Columns []column
	Draft   draft
	Faults  map[string]string // of the draft, by field
	Message string
}

type column struct {
	State  shop.State
	Orders []shop.Order
}

// draft is a form as it was sent, so that nobody types it twice.
type draft struct{ Customer, Item, Quantity, Note string }

func (s *web) board(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, http.StatusOK, board{Draft: draft{Quantity: "1"}})
}

func (s *web) show(w http.ResponseWriter, r *http.Request, status int, b board) {
	orders, err := s.db.Orders(r.Context())
	if err != nil {
		slog.Error("list orders", "error", err)
		status, b.Message = http.StatusBadGateway, "The orders cannot be read just now. Please try again in a moment."
	}
	b.Look, b.Stats = s.look, s.stats()
	for _, state := range shop.States {
		c := column{State: state}
		for _, order := range orders {
			if order.State == state {
				c.Orders = append(c.Orders, order)
			}
		}
		b.Columns = append(b.Columns, c)
	}
	var page bytes.Buffer
	if err := s.page.Execute(&page, b); err != nil {
		slog.Error("show page", "error", err)
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // whoever asked has gone
}

func (s *web) create(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		s.show(w, r, http.StatusBadRequest, board{Message: "The form could not be read. Please try again."})
		return
	}
	d := draft{r.PostForm.Get("customer"), r.PostForm.Get("item"), r.PostForm.Get("quantity"), r.PostForm.Get("note")}
	quantity, _ := strconv.Atoi(strings.TrimSpace(d.Quantity)) // 0, which Check refuses
	order := s.fresh(shop.Order{Customer: d.Customer, Item: d.Item, Quantity: quantity, Note: d.Note})
	if faults := order.Check(); len(faults) > 0 {
		s.show(w, r, http.StatusUnprocessableEntity, board{Draft: d, Faults: faults, Message: "The order is not complete yet."})
		return
	}
	if _, err := s.db.Put(r.Context(), order); err != nil {
		s.fail(w, r, err, board{Draft: d})
		return
	}
	http.Redirect(w, r, "/#order-"+order.ID, http.StatusSeeOther)
}

// fresh completes what a customer asks for to a new order.
func (s *web) fresh(o shop.Order) shop.Order {
	now := s.now().UTC()
	return shop.Order{
		ID:       fmt.Sprintf("%013d-%s", now.UnixMilli(), strings.ToLower(rand.Text()[:6])),
		Customer: strings.TrimSpace(o.Customer), Item: strings.TrimSpace(o.Item), Quantity: o.Quantity, Note: strings.TrimSpace(o.Note),
		State: shop.New, Created: now, Changed: now,
	}
}

func (s *web) next(w http.ResponseWriter, r *http.Request) {
	order, err := s.db.Order(r.Context(), r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err, board{})
		return
	}
	// The button was pressed for the state that its page showed.
	if r.PostFormValue("revision") != strconv.FormatInt(order.Revision, 10) {
		s.fail(w, r, shop.ErrChanged, board{})
		return
	}
	state, ok := order.State.Next()
	if !ok {
		s.fail(w, r, shop.ErrChanged, board{})
		return
	}
	order.State, order.Changed = state, s.now().UTC()
	if _, err := s.db.Put(r.Context(), order); err != nil {
		s.fail(w, r, err, board{})
		return
	}
	http.Redirect(w, r, "/#order-"+order.ID, http.StatusSeeOther)
}

func (s *web) remove(w http.ResponseWriter, r *http.Request) {
	if err := s.db.Delete(r.Context(), r.PathValue("id")); err != nil {
		s.fail(w, r, err, board{})
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// fail shows the board with what went wrong.
func (s *web) fail(w http.ResponseWriter, r *http.Request, err error, b board) {
	status := http.StatusBadGateway
	b.Message = "That could not be saved just now. Please try again in a moment."
	switch {
	case errors.Is(err, shop.ErrNotFound):
		status, b.Message = http.StatusNotFound, "This order has been removed meanwhile."
	case errors.Is(err, shop.ErrChanged):
		status, b.Message = http.StatusConflict, "Somebody has moved this order meanwhile. Here is how it stands now."
	case errors.Is(err, shop.ErrFull):
		status, b.Message = http.StatusInsufficientStorage, "The board is full. Remove some collected orders first."
	default:
		slog.Error("save order", "error", err)
	}
	s.show(w, r, status, b)
}

func (s *web) list(w http.ResponseWriter, r *http.Request) {
	orders, err := s.db.Orders(r.Context())
	if err != nil {
		slog.Error("list orders", "error", err)
		answer(w, http.StatusBadGateway, map[string]string{"error": "the orders cannot be read just now"})
		return
	}
	answer(w, http.StatusOK, orders)
}

func (s *web) createJSON(w http.ResponseWriter, r *http.Request) {
	var asked shop.Order
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": "the body is no order: " + err.Error()})
		return
	}
	order := s.fresh(asked)
	if faults := order.Check(); len(faults) > 0 {
		answer(w, http.StatusUnprocessableEntity, map[string]any{"error": "the order is not complete", "fields": faults})
		return
	}
	order, err := s.db.Put(r.Context(), order)
	if err != nil {
		slog.Error("save order", "error", err)
		answer(w, http.StatusBadGateway, map[string]string{"error": "the order could not be saved"})
		return
	}
	answer(w, http.StatusCreated, order)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever asked has gone
}

// action is what the button to the next state says; none after the last.
func action(s shop.State) string {
	return map[shop.State]string{shop.New: "Start making", shop.Making: "Mark as ready", shop.Ready: "Hand over"}[s]
}

func (s *web) ago(t time.Time) string {
	d := s.now().Sub(t)
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / unit.size); n == 1 {
			return "1 " + unit.name + " ago"
		} else if n > 1 {
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		}
	}
	return "just now"
}
