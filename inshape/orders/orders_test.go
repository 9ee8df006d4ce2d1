package orders

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"inshape/frame"
	"inshape/frame/frametest"
)

var (
	ada = frametest.Customer("pty_ada")
	bob = frametest.Customer("pty_bob")
)

var address = Address{Name: "Ada Byron", Line1: "Ring 1", City: "Wien", Postcode: "1010", Country: "AT"}

// byHand is an order as a shop without Analysis takes it.
func byHand(quantities ...int) NewOrder {
	o := NewOrder{ShipTo: address, Reference: "PO 77"}
	for i, q := range quantities {
		o.Lines = append(o.Lines, NewLine{Name: fmt.Sprintf("bracket %d", i+1), Material: "pa12", Quantity: q})
	}
	return o
}

// confirmed is an order that staff have confirmed.
func confirmed(m *frametest.Module, o NewOrder) Order {
	var made Order
	m.As(ada).Post("/api/orders/orders", o).Want(201).Into(&made)
	staff := m.As(frametest.Staff)
	for _, l := range made.Lines {
		staff.Put("/api/orders/orders/"+made.ID+"/lines/"+l.ID+"/verdict", map[string]string{"verdict": "printable"}).Want(200)
	}
	staff.Post("/api/orders/orders/"+made.ID+"/confirm", nil).Want(200).Into(&made)
	return made
}

func event(m *frametest.Module, o Order, line int, kind Kind, quantity int) *frametest.Answer {
	return m.As(frametest.Staff).Post("/api/orders/orders/"+o.ID+"/lines/"+o.Lines[line].ID+"/events", LineEvent{Kind: kind, Quantity: quantity})
}

func TestLifeOfAnOrderByHand(t *testing.T) {
	m := frametest.Start(t, Module())
	staff, customer := m.As(frametest.Staff), m.As(ada)
	var o Order
	answer := customer.Post("/api/orders/orders", byHand(2, 1)).Want(201).Into(&o)
	if o.State != Placed || o.Number != firstNumber || o.Party != "pty_ada" || o.Total != "0" || answer.Header.Get("ETag") != frame.ETag(o.Version) {
		t.Fatalf("%+v", o)
	}
	path := "/api/orders/orders/" + o.ID
	staff.Post(path+"/confirm", nil).Refused(409, "no-accepted-verdict")
	for _, l := range o.Lines {
		staff.Put(path+"/lines/"+l.ID+"/verdict", map[string]string{"verdict": "with-remarks", "note": "thin"}).Want(200)
	}
	customer.Post(path+"/confirm", nil).Refused(403, "forbidden")
	event(m, o, 0, Make, 1).Refused(409, "conflict")
	staff.Post(path+"/confirm", map[string]string{"note": "in two weeks"}).Want(200)
	var state LineState
	for _, e := range []struct {
		line, quantity int
		kind           Kind
		order          State
	}{
		{0, 0, Start, InProduction},
		{0, 1, Scrap, InProduction},
		{0, 2, Make, InProduction},
		{1, 1, Make, Made},
		{0, 2, Ship, Made},
		{1, 1, Ship, Shipped},
		{1, 1, Deliver, Shipped},
		{0, 2, Deliver, Delivered},
	} {
		event(m, o, e.line, e.kind, e.quantity).Want(201).Into(&state)
		if state.OrderState != e.order {
			t.Fatalf("after %+v the order is %s", e, state.OrderState)
		}
	}
	event(m, o, 0, Make, 1).Refused(409, "conflict")

	staff.Post(path+"/lines/"+o.Lines[0].ID+"/reprint", map[string]any{"quantity": 3, "reason": "warped"}).Refused(409, "conflict")
	staff.Post(path+"/lines/"+o.Lines[0].ID+"/reprint", map[string]any{"quantity": 1, "reason": "warped"}).Want(201).Into(&o)
	if o.State != InProduction && o.State != Confirmed || len(o.Lines) != 3 || o.Lines[2].ReprintOf != o.Lines[0].ID || o.Lines[2].Total != "0" {
		t.Fatalf("after a reprint: %s, %+v", o.State, o.Lines)
	}
	var steps frame.List[Step]
	customer.Get(path + "/history").Want(200).Into(&steps)
	var kinds []string
	for _, s := range steps.Items {
		kinds = append(kinds, s.Kind)
	}
	if got, want := strings.Join(kinds, " "), "placed verdict verdict confirmed started scrapped made made shipped shipped delivered delivered reprint"; got != want {
		t.Errorf("history is %q, want %q", got, want)
	}
	var events frame.List[frame.Event]
	staff.Get("/api/orders/events").Want(200).Into(&events)
	seen := map[string]bool{}
	for _, e := range events.Items {
		seen[e.Type] = true
		if e.Party != "pty_ada" || e.Subject != o.ID {
			t.Errorf("event %+v is of nobody", e)
		}
	}
	for _, want := range []string{"order.placed", "order.confirmed", "line.made", "order.made", "line.delivered", "order.delivered", "line.reprint"} {
		if !seen[want] {
			t.Errorf("no event %s among %v", want, seen)
		}
	}
}

func TestCustomersSeeTheirOwn(t *testing.T) {
	m := frametest.Start(t, Module())
	o := confirmed(m, byHand(1))
	m.As(frametest.Staff).Post("/api/orders/orders/"+o.ID+"/comments", map[string]any{"text": "he always pays late", "internal": true}).Want(201)
	m.As(ada).Do("POST", "/api/orders/orders/"+o.ID+"/attachments?name=drawing.pdf", strings.NewReader("%PDF-1.7")).Want(201)
	other := m.As(bob)
	for _, path := range []string{"", "/history", "/comments", "/attachments"} {
		other.Get("/api/orders/orders/"+o.ID+path).Refused(404, "not-found")
	}
	other.Post("/api/orders/orders/"+o.ID+"/cancel", nil).Refused(404, "not-found")
	other.Post("/api/orders/orders/"+o.ID+"/comments", map[string]any{"text": "hello"}).Refused(404, "not-found")
	other.Get("/api/orders/parties/pty_ada").Refused(404, "not-found")
	other.Get("/api/orders/parties/pty_ada/addresses").Refused(404, "not-found")
	other.Post("/api/orders/orders", NewOrder{Party: "pty_ada", ShipTo: address, Lines: byHand(1).Lines}).Refused(404, "not-found")
	other.Get("/orders/" + o.ID).Want(404)
	m.As(frame.Identity{}).Get("/api/orders/orders").Refused(401, "unauthorized")
	var list frame.List[Order]
	other.Get("/api/orders/orders?party=pty_ada").Want(200).Into(&list)
	if len(list.Items) != 0 {
		t.Errorf("bob sees %+v", list.Items)
	}
	export := other.Get("/api/orders/export?format=json").Want(200)
	if len(bytes.TrimSpace(export.Body)) != 0 {
		t.Errorf("bob exports %s", export.Body)
	}
	var comments frame.List[Comment]
	m.As(ada).Get("/api/orders/orders/" + o.ID + "/comments").Want(200).Into(&comments)
	if len(comments.Items) != 0 {
		t.Errorf("ada reads what staff say among themselves: %+v", comments.Items)
	}
	for _, act := range []string{"/parties", "/audit", "/events"} {
		m.As(ada).Get("/api/orders"+act).Refused(403, "forbidden")
	}
}

func TestCancel(t *testing.T) {
	m := frametest.Start(t, Module())
	customer, staff := m.As(ada), m.As(frametest.Staff)
	o := confirmed(m, byHand(1, 1))
	event(m, o, 0, Start, 0).Want(201)
	customer.Post("/api/orders/orders/"+o.ID+"/cancel", nil).Refused(409, "conflict")
	event(m, o, 1, Cancel, 0).Want(201)
	event(m, o, 0, Make, 1).Want(201)
	event(m, o, 0, Ship, 1).Want(201)
	staff.Post("/api/orders/orders/"+o.ID+"/cancel", nil).Refused(409, "conflict")

	p := confirmed(m, byHand(1))
	customer.With("If-Match", `"v1"`).Post("/api/orders/orders/"+p.ID+"/cancel", nil).Refused(412, "changed-meanwhile")
	customer.With("If-Match", frame.ETag(p.Version)).Post("/api/orders/orders/"+p.ID+"/cancel", nil).Want(200).Into(&p)
	if p.State != Cancelled || p.Total != "0" {
		t.Errorf("%+v", p)
	}
	event(m, p, 0, Start, 0).Refused(409, "conflict")
}

func TestRepeatedRequestsMakeOneOrder(t *testing.T) {
	m := frametest.Start(t, Module())
	customer := m.As(ada).With("Idempotency-Key", "try-1")
	var first, again Order
	customer.Post("/api/orders/orders", byHand(1)).Want(201).Into(&first)
	customer.Post("/api/orders/orders", byHand(1)).Want(201).Into(&again)
	if first.ID != again.ID {
		t.Errorf("made %s and %s", first.ID, again.ID)
	}
	customer.Post("/api/orders/orders", byHand(2)).Refused(422, "idempotency-key-reused")
	var list frame.List[Order]
	m.As(ada).Get("/api/orders/orders").Want(200).Into(&list)
	if len(list.Items) != 1 {
		t.Errorf("there are %d orders", len(list.Items))
	}
}

// stubAnalysis answers as the module Analysis does, for one quote.
func stubAnalysis(t *testing.T) (setting frametest.Setting, quotes map[string]*quote) {
	quotes = map[string]*quote{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := frame.Verify(frametest.Secret, r.Header.Get("Inshape-Identity"), time.Now()); err != nil {
			t.Errorf("analysis was asked by nobody: %v", err)
		}
		if q := quotes[strings.TrimPrefix(r.URL.Path, "/api/analysis/quotes/")]; q != nil {
			frame.WriteJSON(w, 200, q)
			return
		}
		if r.URL.Path == "/api/analysis/models/mod_1/revisions/2/verdicts" {
			fmt.Fprint(w, `{"items": [{"material": "pa12", "verdict": "printable", "accepted": true}, {"material": "steel", "verdict": "printable", "accepted": false}]}`)
			return
		}
		frame.WriteJSON(w, 404, frame.NotFound("there is nothing like that"))
	}))
	t.Cleanup(server.Close)
	return frametest.Setting{Name: "INSHAPE_ADDRESSES", Value: "analysis=" + server.URL}, quotes
}

func TestOrderOfAQuote(t *testing.T) {
	at, quotes := stubAnalysis(t)
	m := frametest.Start(t, Module(), at, frametest.Setting{Name: "INSHAPE_MODULES", Value: "analysis,orders"})
	item := quoteItem{Model: "mod_1", Revision: 2, Name: "gear.stl", Material: "pa12", MaterialTitle: "PA12", Finish: "dyed", Quantity: 10, UnitPrice: "3.61", Total: "36.10", Verdict: "printable"}
	quotes["quo_1"] = &quote{ID: "quo_1", Party: "pty_ada", State: "accepted", Currency: "EUR", Total: "36.10", Items: []quoteItem{item}}
	quotes["quo_2"] = &quote{ID: "quo_2", Party: "pty_ada", State: "open", Currency: "EUR", Items: []quoteItem{item}}
	quotes["quo_3"] = &quote{ID: "quo_3", Party: "pty_ada", State: "expired", Currency: "EUR", Items: []quoteItem{item}}
	byStaff := item // Analysis quotes what is not printable only if staff accepted it
	byStaff.Verdict = "not-printable"
	quotes["quo_4"] = &quote{ID: "quo_4", Party: "pty_ada", State: "accepted", Currency: "EUR", Items: []quoteItem{byStaff}}
	ask := func(who frame.Identity, quote string) *frametest.Answer {
		return m.As(who).Post("/api/orders/orders", NewOrder{Quote: quote, ShipTo: address, Requirements: []Requirements{{Tolerances: "ISO 2768-m"}}})
	}
	ask(bob, "quo_1").Refused(404, "not-found")
	ask(ada, "quo_2").Refused(409, "quote-not-accepted")
	ask(ada, "quo_3").Refused(409, "quote-not-accepted")
	var odd Order
	ask(ada, "quo_4").Want(201).Into(&odd)
	m.As(frametest.Staff).Post("/api/orders/orders/"+odd.ID+"/confirm", nil).Want(200)
	ask(ada, "quo_9").Refused(404, "not-found")
	var o Order
	ask(ada, "quo_1").Want(201).Into(&o)
	l := o.Lines[0]
	if o.Total != "36.10" || o.Currency != "EUR" || l.Quantity != 10 || !l.Verdict.Accepts() || l.Requirements.Finish != "dyed" || l.Requirements.Tolerances != "ISO 2768-m" {
		t.Errorf("%+v", o)
	}
	ask(ada, "quo_1").Refused(409, "already-ordered")
	m.As(frametest.Staff).Post("/api/orders/orders/"+o.ID+"/confirm", nil).Want(200)

	t.Run("lines need an accepted verdict", func(t *testing.T) {
		line := func(model string, revision int, material string) NewOrder {
			return NewOrder{ShipTo: address, Lines: []NewLine{{Model: model, Revision: revision, Name: "gear", Material: material, Quantity: 1}}}
		}
		m.As(ada).Post("/api/orders/orders", line("mod_1", 2, "pa12")).Want(201)
		m.As(ada).Post("/api/orders/orders", line("mod_1", 2, "steel")).Refused(409, "no-accepted-verdict")
		m.As(ada).Post("/api/orders/orders", line("mod_9", 2, "pa12")).Refused(422, "invalid")
		m.As(ada).Post("/api/orders/orders", line("", 0, "pa12")).Refused(422, "invalid")
	})
}

func TestAnalysisAway(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	m := frametest.Start(t, Module(), frametest.Setting{Name: "INSHAPE_MODULES", Value: "analysis,orders"}, frametest.Setting{Name: "INSHAPE_ADDRESSES", Value: "analysis=" + gone.URL})
	m.As(ada).Post("/api/orders/orders", NewOrder{Quote: "quo_1", ShipTo: address}).Refused(503, "unavailable")
	m.As(ada).Get("/orders/").Want(200)
	m.As(ada).Get("/orders/new?quote=quo_1").Want(503)
}

func TestWithoutAnalysisThereAreNoQuotes(t *testing.T) {
	m := frametest.Start(t, Module(), frametest.Setting{Name: "INSHAPE_MODULES", Value: "orders"})
	m.As(ada).Post("/api/orders/orders", NewOrder{Quote: "quo_1", ShipTo: address}).Refused(501, "no-analysis")
}

func TestWrongOrders(t *testing.T) {
	m := frametest.Start(t, Module())
	for name, body := range map[string]string{
		"no address":        `{"lines":[{"name":"a","material":"m","quantity":1}]}`,
		"no lines":          `{"ship_to":` + mustJSON(address) + `}`,
		"quantity 0":        `{"ship_to":` + mustJSON(address) + `,"lines":[{"name":"a","material":"m","quantity":0}]}`,
		"quantity too high": `{"ship_to":` + mustJSON(address) + `,"lines":[{"name":"a","material":"m","quantity":100001}]}`,
		"no name":           `{"ship_to":` + mustJSON(address) + `,"lines":[{"name":"","material":"m","quantity":1}]}`,
		"country":           `{"ship_to":{"name":"a","line1":"b","city":"c","country":"Germany"},"lines":[{"name":"a","material":"m","quantity":1}]}`,
		"due":               `{"ship_to":` + mustJSON(address) + `,"due":"2027-02-31","lines":[{"name":"a","material":"m","quantity":1}]}`,
		"unknown field":     `{"ship_to":` + mustJSON(address) + `,"linse":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			m.As(ada).Post("/api/orders/orders", json.RawMessage(body)).Refused(422, "invalid")
		})
	}
	m.As(ada).Post("/api/orders/orders", NewOrder{ShipTo: address, Lines: []NewLine{{Name: "a", Material: "m", Quantity: 1, UnitPrice: "1"}}}).Refused(403, "forbidden")
	for _, price := range []string{"-1", "1e400", "abc"} {
		m.As(frametest.Staff).Post("/api/orders/orders", NewOrder{Party: "pty_x", ShipTo: address, Lines: []NewLine{{Name: "a", Material: "m", Quantity: 1, UnitPrice: price}}}).Refused(422, "invalid")
	}
	m.As(ada).Get("/api/orders/orders?state=eaten").Refused(422, "invalid")
	m.As(ada).Get("/api/orders/orders/ord_nothing").Refused(404, "not-found")
}

func TestSearchAndExport(t *testing.T) {
	m := frametest.Start(t, Module())
	staff := m.As(frametest.Staff)
	first := byHand(3)
	first.Lines[0].Name, first.Reference, first.Due = "=HYPERLINK(\"x\")", "Zahnrad-Größe", "2020-01-01"
	var o, p Order
	m.As(ada).Post("/api/orders/orders", first).Want(201).Into(&o)
	m.As(bob).Post("/api/orders/orders", byHand(1)).Want(201).Into(&p)
	for query, want := range map[string]string{
		"q=zahnrad": o.ID, "q=grosse": "", "q=größe": o.ID, "q=grö": o.ID, "q=hyperlink": o.ID, "q=" + fmt.Sprint(p.Number): p.ID, "q=%22%29": "", "q=*": "",
		"late=true": o.ID, "party=pty_bob": p.ID, "state=placed&q=zahnrad": o.ID, "state=delivered": "", "material=steel": "",
	} {
		var list frame.List[Order]
		staff.Get("/api/orders/orders?" + query).Want(200).Into(&list)
		var got []string
		for _, o := range list.Items {
			got = append(got, o.ID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s finds %v, want %q", query, got, want)
		}
	}
	var list frame.List[Order]
	staff.Get("/api/orders/orders?limit=1").Want(200).Into(&list)
	if len(list.Items) != 1 || list.Items[0].ID != p.ID || list.Next == "" {
		t.Errorf("first part: %+v", list)
	}
	var rest frame.List[Order]
	staff.Get("/api/orders/orders?limit=1&after=" + list.Next).Want(200).Into(&rest)
	if len(rest.Items) != 1 || rest.Items[0].ID != o.ID || rest.Next != "" {
		t.Errorf("second part: %+v", rest)
	}

	rows, err := csv.NewReader(bytes.NewReader(staff.Get("/api/orders/export").Want(200).Body)).ReadAll()
	if err != nil || len(rows) != 3 || len(rows[0]) != len(exportHeader) {
		t.Fatalf("%v in %v", err, rows)
	}
	if rows[2][10] != `'=HYPERLINK("x")` || rows[2][16] != "3" {
		t.Errorf("the row is %v", rows[2])
	}
	export := staff.Get("/api/orders/export?format=json&q=zahnrad").Want(200)
	var exported Order
	if err := json.Unmarshal(export.Body, &exported); err != nil || exported.ID != o.ID {
		t.Errorf("%v in %s", err, export.Body)
	}
}

func TestAttachments(t *testing.T) {
	m := frametest.Start(t, Module())
	o := confirmed(m, byHand(1))
	path := "/api/orders/orders/" + o.ID + "/attachments"
	customer := m.As(ada)
	var a Attachment
	customer.Do("POST", path+"?name="+url.QueryEscape("../../etc/<b>.html"), strings.NewReader("<script>")).Want(201).Into(&a)
	if a.Name != "<b>.html" || a.Size != 8 {
		t.Errorf("%+v", a)
	}
	got := customer.Get(path + "/" + a.ID).Want(200)
	if string(got.Body) != "<script>" || got.Header.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(got.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("%v: %s", got.Header, got.Body)
	}
	customer.Do("POST", path, strings.NewReader("x")).Refused(422, "invalid")
	customer.Do("POST", path+"?name=empty", strings.NewReader("")).Refused(422, "invalid")
	customer.Do("POST", path+"?name=big", bytes.NewReader(make([]byte, maxAttachment+1))).Refused(413, "too-large")
	customer.Get(path+"/att_none").Refused(404, "not-found")
	m.As(bob).Get(path+"/"+a.ID).Refused(404, "not-found")
	m.As(bob).Do("POST", path+"?name=x", strings.NewReader("x")).Refused(404, "not-found")
}

func TestConcurrentEventsCountEveryPiece(t *testing.T) {
	m := frametest.Start(t, Module())
	o := confirmed(m, byHand(40))
	var group sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for range 60 {
		group.Go(func() {
			if event(m, o, 0, Make, 1).Status == 201 {
				mu.Lock()
				taken++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	m.As(ada).Get("/api/orders/orders/" + o.ID).Want(200).Into(&o)
	if taken != 40 || o.Lines[0].Made != 40 || o.State != Made {
		t.Errorf("%d events were taken, %d pieces are made, the order is %s", taken, o.Lines[0].Made, o.State)
	}
}

func TestPages(t *testing.T) {
	at, quotes := stubAnalysis(t)
	quotes["quo_1"] = &quote{ID: "quo_1", Party: "pty_ada", State: "accepted", Currency: "EUR", Total: "7.00", Items: []quoteItem{
		{Model: "mod_1", Revision: 2, Name: "<gear>.stl", Material: "pa12", MaterialTitle: "PA12", Quantity: 2, UnitPrice: "3.50", Total: "7.00", Verdict: "printable"},
	}}
	m := frametest.Start(t, Module(), at, frametest.Setting{Name: "INSHAPE_MODULES", Value: "analysis,orders"})
	customer, staff := m.As(ada), m.As(frametest.Staff)
	customer.Get("/orders/").Want(200).Has("No orders yet")
	customer.Get("/orders/new").Want(422)
	customer.Get("/orders/new?quote=quo_1").Want(200).Has("&lt;gear&gt;.stl", "7.00 EUR", `name="line1" required`)
	form := url.Values{
		"quote": {"quo_1"}, "key": {"key_1"}, "address": {"new"}, "name": {"Ada"}, "line1": {"Ring 1"}, "city": {"Wien"}, "country": {"a"},
		"r0-tolerances": {"ISO 2768-f"}, "reference": {"PO 1"},
	}
	customer.Post("/orders/new", form).Want(422).Has("country", "Ring 1", "PO 1")
	form.Set("country", "at")
	placed := customer.Post("/orders/new", form).Want(303).Header.Get("Location")
	if again := customer.Post("/orders/new", form).Want(303).Header.Get("Location"); again != placed {
		t.Errorf("sent twice, the form made %s and %s", placed, again)
	}
	page, _, _ := strings.Cut(placed, "?")
	customer.Get(placed).Want(200).Has("Your order is placed", "&lt;gear&gt;.stl", "ISO 2768-f", "Cancel order", "Ring 1")
	var addresses frame.List[Address]
	if customer.Get("/api/orders/parties/pty_ada/addresses").Want(200).Into(&addresses); len(addresses.Items) != 1 {
		t.Errorf("a form that was sent twice left %+v", addresses.Items)
	}
	customer.Get("/orders/card").Want(200).Has("Order 10001")
	staff.Get("/orders/card").Want(200).Has("To confirm")
	staff.Get("/orders/?q=gear&state=placed").Want(200).Has("10001", "Cleo Customer", "format=csv&amp;q=gear&amp;state=placed")
	staff.Get(page).Want(200).Has("Confirm</button>")
	staff.Post(page+"/confirm", url.Values{"version": {"99"}}).Want(412).Has("changed since")
	staff.Post(page+"/confirm", url.Values{"version": {"1"}}).Want(303)
	customer.Post(page+"/comments", url.Values{"text": {"When <soon>?"}}).Want(303)
	staff.Get(page).Want(200).Has("When &lt;soon&gt;?", `<option value="made">`)
	var o Order
	staff.Get("/api/orders" + page).Want(200).Into(&o)
	line := page + "/lines/" + o.Lines[0].ID
	staff.Post(line+"/events", url.Values{"key": {"k1"}, "kind": {"made"}, "quantity": {"2"}}).Want(303)
	staff.Post(line+"/events", url.Values{"key": {"k1"}, "kind": {"made"}, "quantity": {"2"}}).Want(303)
	staff.Post(line+"/events", url.Values{"key": {"k2"}, "kind": {"made"}, "quantity": {"1"}}).Want(409).Has("1 is more than the 0 to be made")
	staff.Get(page).Want(200).Has("2 of 2 made", "shipped")
	customer.Get("/orders/parties").Want(403)
	customer.Get("/orders/parties/pty_ada").Want(200).Has("Ring 1")
	staff.Get("/orders/parties?q=cleo").Want(200).Has("Cleo Customer")
	staff.Post("/orders/parties/pty_ada/details/save", url.Values{"version": {"1"}, "name": {"Ada"}, "company": {"Engines"}}).Want(303)
	staff.Get("/orders/").Want(200).Has("Engines")
	customer.Get("/orders/nothing").Want(404)
}

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}
