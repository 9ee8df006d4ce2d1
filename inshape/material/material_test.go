package material

import (
	"testing"
	"time"

	"inshape/price"
)

func TestDefault(t *testing.T) {
	s := Default()
	if len(s.Materials) != 7 || s.Currency != "EUR" {
		t.Fatalf("%d materials in %s", len(s.Materials), s.Currency)
	}
	q, err := s.Quote(Order{Material: "pa12-sls", Quantity: 9, Finish: "dyed", Rush: "express"},
		price.Measures{Volume: 12314, Area: 8200, Box: [3]float64{40, 30, 20}, Shells: 1}, time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range append(q.PerPiece, q.Lines...) {
		t.Log(l.Text)
	}
	t.Log(q.UnitPrice, q.Total, q.Tiers, q.Advice, q.ValidUntil, q.Notes)
}
