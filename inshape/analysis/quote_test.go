package analysis

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/govalues/decimal"
	"pgregory.net/rapid"

	"inshape/frame"
	"inshape/frame/frametest"
	"inshape/material"
	"inshape/mesh"
	"inshape/price"
)

const quotesPath = "/api/analysis/quotes"

func TestQuoteAddsUp(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	models := []Model{
		bring(t, c, "a.stl", "millimeter", stl(t, block())),
		bring(t, c, "b.stl", "millimeter", stl(t, ball(17.3, 20))),
	}
	rapid.Check(t, func(t *rapid.T) {
		var d draft
		for range rapid.IntRange(1, 4).Draw(t, "items") {
			d.Items = append(d.Items, Order{
				Model:    rapid.SampledFrom(models).Draw(t, "model").ID,
				Material: "pa12-sls",
				Finish:   rapid.SampledFrom([]material.FinishID{"", "natural", "dyed"}).Draw(t, "finish"),
				Quantity: rapid.IntRange(1, 500).Draw(t, "quantity"),
			})
		}
		var q Quote
		c.Post(quotesPath, d).Want(201).Into(&q)
		total := decimal.Zero
		for _, i := range q.Items {
			if got := sum(i.Price.PerPiece); got.Cmp(i.UnitPrice) != 0 {
				t.Fatalf("the lines of a piece add up to %s, not %s", got, i.UnitPrice)
			}
			if got := sum(i.Price.Lines); got.Cmp(i.Total) != 0 {
				t.Fatalf("the lines add up to %s, not %s", got, i.Total)
			}
			total = must(total.Add(i.Total))
		}
		if total.Cmp(q.Total) != 0 {
			t.Fatalf("the items add up to %s, not %s", total, q.Total)
		}
	})
}

func sum(lines []price.Line) decimal.Decimal {
	total := decimal.Zero
	for _, l := range lines {
		total = must(total.Add(l.Amount))
	}
	return total
}

func must(d decimal.Decimal, err error) decimal.Decimal {
	if err != nil {
		panic(err)
	}
	return d
}

func TestQuoteIsWhatOrdersReads(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	model := bring(t, c, "bracket.stl", "millimeter", stl(t, block()))
	var q Quote
	c.Post(quotesPath, draft{Items: []Order{{Model: model.ID, Material: "pa12-sls", Quantity: 10}}}).Want(201).Into(&q)
	var got map[string]any
	c.Get(quotesPath + "/" + q.ID).Want(200).Into(&got)
	item := got["items"].([]any)[0].(map[string]any)
	for of, fields := range map[string]struct {
		in   map[string]any
		want map[string]any
	}{
		"quote": {got, map[string]any{"id": q.ID, "party": "pty_a", "state": "open", "currency": "EUR", "total": q.Total.String(), "valid_until": q.ValidUntil}},
		"item": {item, map[string]any{
			"model": model.ID, "revision": 1.0, "name": "bracket.stl", "material": "pa12-sls", "material_title": "Nylon PA12, laser sintered", "finish": "natural",
			"quantity": 10.0, "unit_price": q.Items[0].UnitPrice.String(), "total": q.Total.String(), "verdict": "printable",
			"picture": modelsPath + "/" + model.ID + "/revisions/1/picture.png",
		}},
	} {
		for name, want := range fields.want {
			if fields.in[name] != want {
				t.Errorf("%s: %s is %v, want %v", of, name, fields.in[name], want)
			}
		}
	}
	c.Get(item["picture"].(string)).Want(200)
}

func TestQuoteIsMadeOnce(t *testing.T) {
	c := frametest.Start(t, Module()).As(frametest.Customer("pty_a"))
	model := bring(t, c, "a.stl", "millimeter", stl(t, block()))
	order := func(n int) draft { return draft{Items: []Order{{Model: model.ID, Material: "pa12-sls", Quantity: n}}} }
	var first, again Quote
	keyed := c.With("Idempotency-Key", "one")
	keyed.Post(quotesPath, order(1)).Want(201).Into(&first)
	keyed.Post(quotesPath, order(1)).Want(201).Into(&again)
	if first.ID != again.ID {
		t.Error("a repetition made another quote")
	}
	keyed.Post(quotesPath, order(2)).Refused(422, "idempotency-key-reused")
}

func TestExpiredQuote(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	model := bring(t, c, "a.stl", "millimeter", stl(t, block()))
	var q Quote
	c.Post(quotesPath, draft{Items: []Order{{Model: model.ID, Material: "pa12-sls", Quantity: 1}}}).Want(201).Into(&q)
	err := m.Server.Store.Update(t.Context(), func(tx *frame.Tx) error {
		_, err := tx.Exec("UPDATE quote SET valid_until = '2020-02-29'")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Get(quotesPath + "/" + q.ID).Want(200).Into(&q)
	if q.State != Expired {
		t.Errorf("it is %s", q.State)
	}
	c.Post(quotesPath+"/"+q.ID+"/accept", nil).Refused(409, "expired")
	c.Get("/analysis/quotes/"+q.ID).Want(200).Has("expired", "29 Feb 2020")
	for state, want := range map[QuoteState]int{Open: 0, Expired: 1} {
		var list frame.List[Quote]
		c.Get(quotesPath + "?state=" + string(state)).Want(200).Into(&list)
		if len(list.Items) != want {
			t.Errorf("%d are %s, want %d", len(list.Items), state, want)
		}
	}
}

func TestProposal(t *testing.T) {
	m := frametest.Start(t, Module())
	c, staff := m.As(frametest.Customer("pty_a")), m.As(frametest.Staff)
	model := bring(t, c, "a.stl", "millimeter", stl(t, block()))
	d := draft{Items: []Order{{Model: model.ID, Material: "pa12-sls", Quantity: 3}}, Message: "Hollowed it would cost less.", Proposal: true}
	c.Post(quotesPath, d).Refused(403, "forbidden")
	var q Quote
	staff.Post(quotesPath, d).Want(201).Into(&q)
	if q.Party != "pty_a" || !q.Proposal {
		t.Errorf("%+v", q)
	}
	c.Get("/analysis/quotes/"+q.ID).Want(200).Has("Proposal", "Hollowed it would cost less.")
	c.Post(quotesPath+"/"+q.ID+"/refuse", `{"note":"too dear"}`).Want(200).Into(&q)
	c.Post(quotesPath+"/"+q.ID+"/refuse", nil).Want(200)
	c.Post(quotesPath+"/"+q.ID+"/accept", nil).Refused(409, "conflict")
	if q.State != RefusedByThem || q.Answer != "too dear" {
		t.Errorf("%s, %q", q.State, q.Answer)
	}
}

func TestNotPrintable(t *testing.T) {
	m := frametest.Start(t, Module())
	c, staff := m.As(frametest.Customer("pty_a")), m.As(frametest.Staff)
	sheet := bring(t, c, "sheet.stl", "millimeter", stl(t, box(mesh.Vec{}, 40, 30, 0.2)))
	d := draft{Items: []Order{{Model: sheet.ID, Material: "pa12-sls", Quantity: 1}}}
	c.Post(quotesPath, d).Refused(409, "not-printable")
	accept := modelsPath + "/" + sheet.ID + "/revisions/1/verdicts/pa12-sls/acceptance"
	c.Put(accept, `{}`).Refused(403, "forbidden")
	staff.Put(modelsPath+"/"+sheet.ID+"/revisions/1/verdicts/unobtainium/acceptance", `{}`).Refused(404, "not-found")
	staff.Put(accept, `{"note":"they know"}`).Want(204)
	c.Post(quotesPath, d).Want(201)
	var list frame.List[Verdict]
	c.Get(modelsPath + "/" + sheet.ID + "/revisions/1/verdicts").Want(200).Into(&list)
	if v := list.Items[0]; !v.Accepted || v.Acceptance.Note != "they know" || v.Outcome != "not-printable" {
		text, _ := json.Marshal(v)
		t.Errorf("%s", text)
	}
}

func TestOrderThatCannotBePriced(t *testing.T) {
	c := frametest.Start(t, Module()).As(frametest.Customer("pty_a"))
	model := bring(t, c, "a.stl", "millimeter", stl(t, block()))
	for body, status := range map[string]int{
		`{"model":%q,"material":"cheese","quantity":1}`:                        422,
		`{"model":%q,"material":"pa12-sls","quantity":0}`:                      422,
		`{"model":%q,"material":"pa12-sls","quantity":-4}`:                     422,
		`{"model":%q,"material":"pa12-sls","quantity":1,"finish":"gold"}`:      422,
		`{"model":%q,"material":"pa12-sls","quantity":1,"rush":"yesterday"}`:   422,
		`{"model":%q,"material":"pa12-sls","quantity":1,"revision":7}`:         404,
		`{"model":"mod_x%.0s","material":"pa12-sls","quantity":1}`:             404,
		`{"model":%q,"material":"pa12-sls","quantity":1000000000000000000000}`: 422,
	} {
		if p := c.Post("/api/analysis/prices", fmt.Sprintf(body, model.ID)).Want(status); len(p.Body) == 0 {
			t.Errorf("%s: nothing is said", body)
		}
	}
}
