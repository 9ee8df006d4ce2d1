package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bulkhead/examples/shop"
)

func TestFigures(t *testing.T) {
	now := time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
	var records []shop.Record
	for i, order := range []shop.Order{
		{Customer: "Eve", Quantity: 3, State: shop.New, Created: now},
		{Customer: "Bob <b>", Quantity: 5, State: shop.Ready, Created: now.AddDate(0, 0, -1)},
		{Customer: "Eve", Quantity: 1, State: shop.New, Created: now.AddDate(0, 0, -30)},
	} {
		value, _ := json.Marshal(order)
		records = append(records, shop.Record{Key: string(rune('a' + i)), Value: value})
	}
	up := true
	db := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up {
			w.WriteHeader(http.StatusInternalServerError)
		}
		json.NewEncoder(w).Encode(records)
	}))
	defer db.Close()
	h, err := handler(shop.NewClient(db.URL, ""), shop.Look{Title: "T", Accent: "#000000"}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	_, body := get("/stats/figures")
	want := `{"orders":3,"pieces":9,"states":{"new":2,"ready":1},"customers":[{"name":"Bob \u003cb\u003e","pieces":5},{"name":"Eve","pieces":4}],"days":[` +
		`{"date":"2026-03-02","orders":0},{"date":"2026-03-03","orders":0},{"date":"2026-03-04","orders":0},{"date":"2026-03-05","orders":0},` +
		`{"date":"2026-03-06","orders":0},{"date":"2026-03-07","orders":1},{"date":"2026-03-08","orders":1}]}`
	if strings.TrimSpace(body) != want {
		t.Errorf("got %s\nwant %s", body, want)
	}
	if status, page := get("/stats"); status != http.StatusOK || !strings.Contains(page, "Bob &lt;b&gt;: <b>5</b>") {
		t.Errorf("status %d: %s", status, page)
	}
	up = false
	for path, want := range map[string]int{"/stats": http.StatusBadGateway, "/healthz": http.StatusServiceUnavailable} {
		if status, _ := get(path); status != want {
			t.Errorf("%s without its database: status %d, want %d", path, status, want)
		}
	}
}
