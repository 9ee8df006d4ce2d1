package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/examples/shop"
)

// fakeDB speaks the protocol of db, in memory.
type fakeDB struct {
	mu       sync.Mutex // guards what follows
	records  map[string]shop.Record
	revision int64
	down     bool
}

func (d *fakeDB) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		http.Error(w, "down", http.StatusInternalServerError)
		return
	}
	key := strings.TrimPrefix(r.URL.Path, "/records/")
	record, ok := d.records[key]
	switch {
	case r.URL.Path == "/healthz":
	case r.URL.Path == "/records":
		all := []shop.Record{}
		for _, record := range d.records {
			all = append(all, record)
		}
		json.NewEncoder(w).Encode(all)
	case r.Method == "PUT":
		if r.Header.Get("If-Match") != strconv.Quote(strconv.FormatInt(record.Revision, 10)) {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		value, _ := io.ReadAll(r.Body)
		d.revision++
		d.records[key] = shop.Record{Key: key, Revision: d.revision, Value: value}
		json.NewEncoder(w).Encode(d.records[key])
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == "DELETE":
		delete(d.records, key)
		w.WriteHeader(http.StatusNoContent)
	default:
		json.NewEncoder(w).Encode(record)
	}
}

// site is web with a database of its own.
type site struct {
	db  *fakeDB
	url string
}

func newSite(t *testing.T) *site {
	t.Helper()
	db := &fakeDB{records: map[string]shop.Record{}}
	dbServer := httptest.NewServer(db)
	t.Cleanup(dbServer.Close)
	h, err := handler(shop.NewClient(dbServer.URL, "t"), shop.Look{Title: "Tom & Sons <b>", Accent: "#ffee00"}, func() bool { return true }, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return &site{db, server.URL}
}

func (s *site) do(t *testing.T, request *http.Request) (int, string) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func (s *site) get(t *testing.T, path string) (int, string) {
	request, _ := http.NewRequest("GET", s.url+path, nil)
	return s.do(t, request)
}

func (s *site) post(t *testing.T, path string, fields ...string) (int, string) {
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	request, _ := http.NewRequest("POST", s.url+path, strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", s.url)
	return s.do(t, request)
}

func contains(t *testing.T, page string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(page, part) {
			t.Errorf("page lacks %q:\n%s", part, page)
		}
	}
}

// An order goes over the board by the buttons of the page.
func TestLifeOfAnOrder(t *testing.T) {
	s := newSite(t)
	status, page := s.post(t, "/orders", "item", "Bench <oak>", "customer", "Müller", "quantity", "2", "note", "by Friday")
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	contains(t, page, "Bench &lt;oak&gt;", "for Müller", "by Friday", "Tom &amp; Sons &lt;b&gt;", "Start making", `href="/stats"`, "just now")
	next := regexp.MustCompile(`action="(/orders/[^"]+/next)"><input type="hidden" name="revision" value="(\d+)">`)
	first := next.FindStringSubmatch(page)
	for _, want := range []string{"Mark as ready", "Hand over", "Collected"} {
		found := next.FindStringSubmatch(page)
		if found == nil {
			t.Fatalf("no button to move the order:\n%s", page)
		}
		if status, page = s.post(t, found[1], "revision", found[2]); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		contains(t, page, want)
	}
	if next.MatchString(page) {
		t.Error("a collected order can be moved further")
	}
	// The first page's button again, as from another window.
	if status, page = s.post(t, first[1], "revision", first[2]); status != http.StatusConflict {
		t.Errorf("status %d", status)
	}
	contains(t, page, "moved this order meanwhile")
	remove := strings.Replace(first[1], "/next", "/delete", 1)
	if status, page = s.post(t, remove); status != http.StatusOK || strings.Contains(page, "Müller") {
		t.Errorf("after removal status %d:\n%s", status, page)
	}
	if status, _ = s.post(t, first[1], "revision", first[2]); status != http.StatusNotFound {
		t.Errorf("moving a removed order: status %d", status)
	}
}

func TestFaults(t *testing.T) {
	s := newSite(t)
	status, page := s.post(t, "/orders", "item", " ", "customer", strings.Repeat("x", 81), "quantity", "many", "note", "keep me")
	if status != http.StatusUnprocessableEntity || len(s.db.records) > 0 {
		t.Errorf("status %d, %d records", status, len(s.db.records))
	}
	contains(t, page, "Please fill this in.", "At most 80 characters", "A number from 1 to 10000", `value="keep me"`, `role="alert"`)
	if status, _ := s.post(t, "/orders", "note", strings.Repeat("x", maxBody+1)); status != http.StatusBadRequest {
		t.Errorf("too large a form: status %d", status)
	}
	request, _ := http.NewRequest("POST", s.url+"/orders", strings.NewReader("item=x&customer=y&quantity=1"))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", "https://elsewhere.example")
	if status, _ := s.do(t, request); status != http.StatusForbidden || len(s.db.records) > 0 {
		t.Errorf("another site's form: status %d", status)
	}
	if status, _ := s.get(t, "/nothing"); status != http.StatusNotFound {
		t.Errorf("status %d", status)
	}
}

func TestDatabaseDown(t *testing.T) {
	s := newSite(t)
	if status, _ := s.get(t, "/healthz"); status != http.StatusOK {
		t.Errorf("healthy: status %d", status)
	}
	s.db.down = true
	if status, _ := s.get(t, "/healthz"); status != http.StatusServiceUnavailable {
		t.Errorf("unhealthy: status %d", status)
	}
	status, page := s.get(t, "/")
	if status != http.StatusBadGateway {
		t.Errorf("status %d", status)
	}
	contains(t, page, "cannot be read just now")
	status, page = s.post(t, "/orders", "item", "Bench", "customer", "Eve", "quantity", "1")
	if status != http.StatusBadGateway {
		t.Errorf("status %d", status)
	}
	contains(t, page, `value="Bench"`)
}

func TestAPI(t *testing.T) {
	s := newSite(t)
	create := func(body string) (int, string) {
		request, _ := http.NewRequest("POST", s.url+"/api/orders", strings.NewReader(body))
		return s.do(t, request)
	}
	if status, body := create(`{"item":"Bench","customer":"Eve","quantity":1,"state":"collected","id":"mine"}`); status != http.StatusCreated || !strings.Contains(body, `"state":"new"`) || strings.Contains(body, "mine") {
		t.Errorf("status %d: %s", status, body)
	}
	if status, body := create(`{"item":"Bench"}`); status != http.StatusUnprocessableEntity || !strings.Contains(body, `"customer"`) {
		t.Errorf("status %d: %s", status, body)
	}
	if status, _ := create(`{`); status != http.StatusBadRequest {
		t.Errorf("status %d", status)
	}
	var orders []shop.Order
	_, body := s.get(t, "/api/orders")
	if err := json.Unmarshal([]byte(body), &orders); err != nil || len(orders) != 1 || orders[0].Item != "Bench" {
		t.Errorf("%v: %s", err, body)
	}
}

func TestAccent(t *testing.T) {
	s := newSite(t)
	_, css := s.get(t, "/accent.css")
	contains(t, css, "--accent: #ffee00", "--on-accent: #000")
	if got := (shop.Look{Accent: "#0f6b5c"}).OnAccent(); got != "#fff" {
		t.Errorf("on dark green %s", got)
	}
	_, err := shop.LookOf(func(name string) string { return map[string]string{"ACCENT": "red;}"}[name] })
	if err == nil {
		t.Error("a colour that is none is taken")
	}
}
