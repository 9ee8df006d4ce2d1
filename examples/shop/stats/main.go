// Command stats is the optional module of the example product: a page of figures
// about the orders, under /stats.
//
//	GET /stats           the page
//	GET /stats/figures   the same as JSON
//	GET /healthz
package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"time"

	"bulkhead/examples/shop"
)

//go:embed page.html
var pageText string

func main() {
	os.Exit(shop.Main(":8081", func() (http.Handler, error) {
		look, err := shop.LookOf(os.Getenv)
		if err != nil {
			return nil, err
		}
		db := shop.NewClient(cmp.Or(os.Getenv("DB_URL"), "http://db:7000"), os.Getenv("DB_TOKEN"))
		return handler(db, look, time.Now)
	}))
}

// figures are what the page shows.
type figures struct {
	Orders    int                `json:"orders"`
	Pieces    int                `json:"pieces"`
	States    map[shop.State]int `json:"states"`
	Customers []customer         `json:"customers"` // the five with most pieces
	Days      []day              `json:"days"`      // the last seven, today last
}

type customer struct {
	Name   string `json:"name"`
	Pieces int    `json:"pieces"`
}

type day struct {
	Date   string `json:"date"`
	Orders int    `json:"orders"`
}

// count makes the figures of orders.
func count(orders []shop.Order, now time.Time) figures {
	const days, most = 7, 5
	f := figures{Orders: len(orders), States: map[shop.State]int{}}
	pieces, perDay := map[string]int{}, map[string]int{}
	for _, o := range orders {
		f.Pieces += o.Quantity
		f.States[o.State]++
		pieces[o.Customer] += o.Quantity
		perDay[o.Created.UTC().Format(time.DateOnly)]++
	}
	for name, n := range pieces {
		f.Customers = append(f.Customers, customer{name, n})
	}
	slices.SortFunc(f.Customers, func(a, b customer) int {
		return cmp.Or(cmp.Compare(b.Pieces, a.Pieces), cmp.Compare(a.Name, b.Name))
	})
	f.Customers = f.Customers[:min(len(f.Customers), most)]
	for i := days - 1; i >= 0; i-- {
		date := now.UTC().AddDate(0, 0, -i).Format(time.DateOnly)
		f.Days = append(f.Days, day{date, perDay[date]})
	}
	return f
}

func handler(db *shop.Client, look shop.Look, now func() time.Time) (http.Handler, error) {
	page, err := template.New("page").Parse(pageText)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	show := func(kind string, render func(*bytes.Buffer, figures) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			orders, err := db.Orders(r.Context())
			if err != nil {
				slog.Error("list orders", "error", err)
				http.Error(w, "The orders cannot be read just now.", http.StatusBadGateway)
				return
			}
			var b bytes.Buffer
			if err := render(&b, count(orders, now())); err != nil {
				slog.Error("show figures", "error", err)
				http.Error(w, "The figures cannot be shown.", http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "no-store")
			_, _ = w.Write(b.Bytes()) // whoever asked has gone
		}
	}
	mux.HandleFunc("GET /stats", show("text/html; charset=utf-8", func(b *bytes.Buffer, f figures) error {
		return page.Execute(b, map[string]any{"Look": look, "Figures": f, "States": shop.States})
	}))
	mux.HandleFunc("GET /stats/figures", show("application/json", func(b *bytes.Buffer, f figures) error {
		return json.NewEncoder(b).Encode(f)
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := db.Healthy(r.Context()); err != nil {
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux, nil
}
