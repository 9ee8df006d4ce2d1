package orders

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"inshape/frame"
)

// said is what a page tells after something was done, or was not.
type said struct {
	Text string
	Bad  bool
}

// doneTexts are what ?done= may say; other values say nothing.
var doneTexts = map[string]string{
	"placed": "Thank you. Your order is placed.", "confirm": "The order is confirmed.", "cancel": "The order is cancelled.", "verdict": "The verdict is noted.",
	"events": "Noted.", "reprint": "A new line was added, free of charge.", "comments": "Sent.", "attachments": "The file is added.", "party": "Saved.",
	"address": "The address is forgotten.",
}

func (m *module) pages() {
	s := m.server
	s.Page("GET /orders/{$}", m.listPage)
	s.Page("GET /orders/card", m.cardPage)
	s.Page("GET /orders/new", m.newPage)
	s.Page("POST /orders/new", m.place)
	s.Page("GET /orders/parties", m.partiesPage)
	s.Page("GET /orders/parties/{id}", m.partyPage)
	s.Page("POST /orders/parties/{id}/details/save", m.saveParty)
	s.Page("POST /orders/parties/{id}/addresses/{address}/delete", m.forgetAddress)
	s.Page("GET /orders/{id}", m.orderPage)
	s.Page("POST /orders/{id}/confirm", m.act("confirm", func(r *http.Request, id string, match frame.Match) error {
		_, err := m.confirm(r.Context(), id, match, "")
		return err
	}))
	s.Page("POST /orders/{id}/cancel", m.act("cancel", func(r *http.Request, id string, match frame.Match) error {
		_, err := m.cancel(r.Context(), id, match, "")
		return err
	}))
	s.Page("POST /orders/{id}/comments", m.act("comments", func(r *http.Request, id string, _ frame.Match) error {
		text := strings.TrimSpace(r.PostFormValue("text"))
		if text == "" || len(text) > 4000 {
			return frame.Invalid("text: 1 to 4,000 characters are needed")
		}
		_, err := m.comment(r.Context(), id, text, r.PostFormValue("internal") == "true")
		return err
	}))
	s.Page("POST /orders/{id}/lines/{line}/verdict", m.act("verdict", func(r *http.Request, id string, match frame.Match) error {
		verdict := r.PostFormValue("verdict")
		if !slices.Contains([]string{"printable", "with-remarks", "not-printable"}, verdict) {
			return frame.Invalid("verdict: %q is none", verdict)
		}
		_, err := m.decide(r.Context(), id, r.PathValue("line"), match, verdict, r.PostFormValue("note"))
		return err
	}))
	s.Page("POST /orders/{id}/lines/{line}/events", m.act("events", func(r *http.Request, id string, match frame.Match) error {
		quantity, err := strconv.Atoi(cmp.Or(r.PostFormValue("quantity"), "0"))
		if err != nil {
			return frame.Invalid("quantity: %q is no number", r.PostFormValue("quantity"))
		}
		_, err = m.lineEvent(r.Context(), id, r.PathValue("line"), match, LineEvent{Kind: Kind(r.PostFormValue("kind")), Quantity: quantity, Note: r.PostFormValue("note")})
		return err
	}))
	s.Page("POST /orders/{id}/lines/{line}/reprint", m.act("reprint", func(r *http.Request, id string, match frame.Match) error {
		quantity, err := strconv.Atoi(r.PostFormValue("quantity"))
		reason := strings.TrimSpace(r.PostFormValue("reason"))
		if err != nil || quantity < 1 || reason == "" {
			return frame.Invalid("a quantity of at least 1 and a reason are needed")
		}
		_, err = m.reprint(r.Context(), id, r.PathValue("line"), match, quantity, reason)
		return err
	}))
	s.Page("POST /orders/{id}/attachments", m.attachPage)
}

// act is a form's handler: it does something to an order and shows the order
// again, with what came of it.
func (m *module) act(done string, do func(*http.Request, string, frame.Match) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			return frame.Invalid("the form could not be read").Because(err)
		}
		id := r.PathValue("id")
		var match frame.Match
		if version := r.PostForm.Get("version"); version != "" {
			match.IfMatch = `"v` + version + `"`
		}
		r = r.WithContext(frame.WithKey(r.Context(), r.PostForm.Get("key"), r.URL.Path+"?"+r.PostForm.Encode()))
		if err := do(r, id, match); err != nil {
			if p := frame.AsProblem(err); p.Status < 500 && p.Status != http.StatusNotFound {
				return m.showOrder(w, r, p.Status, id, &said{Text: strings.TrimSpace(p.Detail + ". " + p.Hint), Bad: true})
			}
			return err
		}
		http.Redirect(w, r, "/orders/"+url.PathEscape(id)+"?done="+done, http.StatusSeeOther)
		return nil
	}
}

type listData struct {
	Filter    Filter
	Filters   string // the filter as a query, without after
	States    []State
	Materials []string
	List      frame.List[Order]
	Counts    counts
	Today     string
	ByHand    bool // the shop has no Analysis: orders begin here
}

func (m *module) listPage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f := Filter{State: q.Get("state"), Party: q.Get("party"), Query: q.Get("q"), Material: q.Get("material"), Verdict: q.Get("verdict"), Late: q.Get("late") == "true"}
	list, err := m.list(r.Context(), f, frame.Page{Limit: 50, After: q.Get("after")})
	if err != nil {
		return err
	}
	data := listData{Filter: f, States: OrderStates, List: list, Today: time.Now().UTC().Format(time.DateOnly), ByHand: m.analysis == nil}
	q.Del("after")
	for name, values := range q {
		if strings.Join(values, "") == "" {
			q.Del(name)
		}
	}
	data.Filters = q.Encode()
	if data.Counts, err = m.counts(r.Context()); err != nil {
		return err
	}
	if data.Materials, err = m.materials(r.Context()); err != nil {
		return err
	}
	return m.server.Render(w, r, http.StatusOK, "list.html", "Orders", data)
}

type counts struct{ Placed, Open, Late int }

// counts are the numbers of a shop's work; a customer has none.
func (m *module) counts(ctx context.Context) (c counts, err error) {
	if !frame.Who(ctx).May(frame.Staff) {
		return c, nil
	}
	err = m.store.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRow(`SELECT coalesce(sum(state = 'placed'), 0), count(*), coalesce(sum(due <> '' AND due < ?), 0)
			FROM orders WHERE state NOT IN ('delivered', 'cancelled')`, time.Now().UTC().Format(time.DateOnly)).Scan(&c.Placed, &c.Open, &c.Late)
	})
	if err != nil {
		return c, fmt.Errorf("count orders: %w", err)
	}
	return c, nil
}

// materials are those of the last thousand lines, for the filter's suggestions.
func (m *module) materials(ctx context.Context) ([]string, error) {
	if !frame.Who(ctx).May(frame.Staff) {
		return nil, nil
	}
	var list []string
	err := m.store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT DISTINCT material FROM (SELECT material FROM line ORDER BY id DESC LIMIT 1000) ORDER BY material")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			list = append(list, name)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list materials: %w", err)
	}
	return list, nil
}

func (m *module) cardPage(w http.ResponseWriter, r *http.Request) error {
	numbers, err := m.counts(r.Context())
	if err != nil {
		return err
	}
	latest, err := m.list(r.Context(), Filter{}, frame.Page{Limit: 3})
	if err != nil {
		return err
	}
	return m.server.RenderPart(w, r, "card.html", "main", struct {
		Counts counts
		Latest []Order
	}{numbers, latest.Items})
}

type orderData struct {
	Order       *Order
	History     []Step
	Comments    []Comment
	Attachments []Attachment
	Life        []lifeStep
	MayCancel   bool
	Said        *said
}

type lifeStep struct{ Word, Class string }

func (m *module) orderPage(w http.ResponseWriter, r *http.Request) error {
	var word *said
	if text := doneTexts[r.URL.Query().Get("done")]; text != "" {
		word = &said{Text: text}
	}
	return m.showOrder(w, r, http.StatusOK, r.PathValue("id"), word)
}

func (m *module) showOrder(w http.ResponseWriter, r *http.Request, status int, id string, word *said) error {
	ctx := r.Context()
	o, err := m.order(ctx, id)
	if err != nil {
		return err
	}
	data := orderData{Order: o, Said: word, Life: life(o.State)}
	var errs [3]error
	data.History, errs[0] = m.history(ctx, id)
	data.Comments, errs[1] = m.comments(ctx, id)
	data.Attachments, errs[2] = m.attachments(ctx, id)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	staff := frame.Who(ctx).May(frame.Staff)
	data.MayCancel = o.State != Cancelled && !slices.ContainsFunc(o.Lines, func(l Line) bool {
		return l.Shipped > 0 || !staff && l.State() != Waiting && l.State() != Cancelled
	})
	return m.server.Render(w, r, status, "order.html", fmt.Sprintf("Order %d", o.Number), data)
}

// life is an order's way, for the row of dots.
func life(now State) []lifeStep {
	var steps []lifeStep
	at := slices.Index(OrderStates, now)
	for i, s := range OrderStates[:len(OrderStates)-1] {
		step := lifeStep{Word: stateWord(s)}
		switch {
		case i < at:
			step.Class = "past"
		case i == at:
			step.Class = "now"
		}
		steps = append(steps, step)
	}
	return steps
}

func (m *module) attachPage(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	r.Body = http.MaxBytesReader(w, r.Body, maxAttachment+64<<10)
	form, err := r.MultipartReader()
	if err != nil {
		return frame.Invalid("the form could not be read").Because(err)
	}
	for {
		part, err := form.NextPart()
		if err != nil {
			return m.showOrder(w, r, http.StatusUnprocessableEntity, id, &said{Text: "Choose a file first.", Bad: true})
		}
		if part.FormName() != "file" || part.FileName() == "" {
			continue
		}
		if _, err := m.attach(r.Context(), id, part.FileName(), part.Header.Get("Content-Type"), part); err != nil {
			if p := frame.AsProblem(err); p.Status < 500 && p.Status != http.StatusNotFound {
				return m.showOrder(w, r, p.Status, id, &said{Text: p.Detail, Bad: true})
			}
			return err
		}
		http.Redirect(w, r, "/orders/"+url.PathEscape(id)+"?done=attachments", http.StatusSeeOther)
		return nil
	}
}

type newData struct {
	Key       string
	Quote     *quote
	Lines     []NewLine
	Addresses []Address
	Chosen    string // identifier of an address, or new
	Address   Address
	Staff     bool
	Party     string
	Reference string
	Due       string
	Notes     string
	Fault     *frame.Problem
}

// formLines is how many parts the form of an order by hand has.
const formLines = 5

func (m *module) newPage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	return m.showNew(w, r, http.StatusOK, newData{Party: q.Get("party")}, q.Get("quote"))
}

// showNew fills in what the asker and the quote say.
func (m *module) showNew(w http.ResponseWriter, r *http.Request, status int, data newData, quoteID string) error {
	ctx := r.Context()
	who := frame.Who(ctx)
	if quoteID == "" && m.analysis != nil {
		return frame.Invalid("orders begin with a quote here").Advise("Upload a file, ask for a quote and accept it.")
	}
	party := who.Party
	if quoteID != "" {
		q, err := m.acceptedQuote(ctx, quoteID)
		if err != nil {
			return err
		}
		data.Quote, party = q, q.Party
	} else if who.May(frame.Staff) {
		data.Staff, party = true, data.Party
	}
	if party != "" {
		if _, err := m.party(ctx, party); err == nil {
			if data.Addresses, err = m.addresses(ctx, party); err != nil {
				return err
			}
		}
	}
	for len(data.Lines) < formLines {
		data.Lines = append(data.Lines, NewLine{})
	}
	if data.Key == "" {
		data.Key = frame.NewID("key")
	}
	if data.Chosen == "" && len(data.Addresses) > 0 {
		data.Chosen = data.Addresses[0].ID
	}
	if data.Address.Name == "" && len(data.Addresses) == 0 && who.Party == party {
		data.Address.Name = who.Name
	}
	return m.server.Render(w, r, status, "new.html", "New order", data)
}

func (m *module) place(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 256<<10)
	if err := r.ParseForm(); err != nil {
		return frame.Invalid("the form could not be read").Because(err)
	}
	form := r.PostForm
	who := frame.Who(r.Context())
	in := NewOrder{Quote: form.Get("quote"), Reference: form.Get("reference"), Notes: form.Get("notes"), Due: form.Get("due")}
	if who.May(frame.Staff) {
		in.Party = form.Get("party")
	}
	at := func(name string, i int) string {
		if values := form[name]; i < len(values) {
			return strings.TrimSpace(values[i])
		}
		return ""
	}
	for i := range form["tolerances"] {
		requirements := Requirements{Tolerances: at("tolerances", i), Notes: at("line_notes", i)}
		if in.Quote != "" {
			in.Requirements = append(in.Requirements, requirements)
			continue
		}
		if at("part", i) == "" {
			continue
		}
		quantity, _ := strconv.Atoi(at("quantity", i)) // 0 is refused below
		in.Lines = append(in.Lines, NewLine{Name: at("part", i), Material: at("material", i), Quantity: quantity, Requirements: requirements})
	}
	o, err := m.placeForm(r.WithContext(frame.WithKey(r.Context(), form.Get("key"), form.Encode())), &in, form)
	if err != nil {
		p := frame.AsProblem(err)
		if p.Status >= 500 || p.Status == http.StatusNotFound || p.Code == "already-ordered" || p.Code == "quote-not-accepted" {
			return err
		}
		return m.showNew(w, r, p.Status, newData{
			Lines: in.Lines, Chosen: form.Get("address"), Address: in.ShipTo, Party: in.Party, Reference: in.Reference,
			Due: in.Due, Notes: in.Notes, Fault: p,
		}, in.Quote)
	}
	http.Redirect(w, r, "/orders/"+o.ID+"?done=placed", http.StatusSeeOther)
	return nil
}

// placeForm checks what the API's schema checks for programs, finds or keeps the
// address, and makes the order.
func (m *module) placeForm(r *http.Request, in *NewOrder, form url.Values) (*Order, error) {
	ctx := r.Context()
	for i, l := range in.Lines {
		if l.Quantity < 1 || l.Quantity > 100_000 {
			return nil, frame.Invalid("part %d: a quantity from 1 to 100,000 is needed", i+1)
		}
		if l.Material == "" {
			return nil, frame.Invalid("part %d: say which material", i+1)
		}
	}
	party := cmp.Or(in.Party, frame.Who(ctx).Party)
	if in.Quote != "" {
		q, err := m.acceptedQuote(ctx, in.Quote)
		if err != nil {
			return nil, err
		}
		party = q.Party
		in.Party = ""
	}
	if party == "" {
		return nil, frame.Invalid("party: say whose order it is")
	}
	if _, err := m.party(ctx, party); err != nil {
		return nil, err
	}
	if id := form.Get("address"); id != "new" && id != "" {
		known, err := m.addresses(ctx, party)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(known, func(a Address) bool { return a.ID == id })
		if i < 0 {
			return nil, frame.Invalid("address: there is no address %s", id)
		}
		in.ShipTo = known[i]
		in.ShipTo.ID = ""
		return m.create(ctx, *in)
	}
	in.ShipTo = Address{
		Name: form.Get("name"), Company: form.Get("company"), Line1: form.Get("line1"), Line2: form.Get("line2"), Postcode: form.Get("postcode"),
		City: form.Get("city"), Region: form.Get("region"), Country: strings.ToUpper(form.Get("country")), Phone: form.Get("phone"),
	}
	if err := in.ShipTo.check(); err != nil {
		return nil, err
	}
	o, err := m.create(ctx, *in)
	if err != nil {
		return nil, err
	}
	// The order has its address; that the next one is offered it is a courtesy.
	if err := m.store.Update(ctx, func(tx *frame.Tx) error {
		_, err := addAddress(tx, party, in.ShipTo)
		return err
	}); err != nil {
		m.log.Info("address not kept", "order", o.ID, "error", err)
	}
	return o, nil
}

// check is the API's schema of an address, for forms.
func (a Address) check() error {
	for _, f := range []struct {
		name, value string
		min, max    int
	}{
		{"receiver", a.Name, 1, 120},
		{"company", a.Company, 0, 120},
		{"street", a.Line1, 1, 120},
		{"further line", a.Line2, 0, 120},
		{"postcode", a.Postcode, 0, 20},
		{"city", a.City, 1, 120},
		{"region", a.Region, 0, 120},
		{"phone", a.Phone, 0, 40},
	} {
		if n := len([]rune(strings.TrimSpace(f.value))); n < f.min || n > f.max {
			return frame.Invalid("address: %s: %d to %d characters are needed", f.name, f.min, f.max)
		}
	}
	if len(a.Country) != 2 || strings.Trim(a.Country, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return frame.Invalid("address: country: two letters are needed, such as DE")
	}
	return nil
}

func (m *module) partiesPage(w http.ResponseWriter, r *http.Request) error {
	if err := frame.Require(r.Context(), frame.Staff); err != nil {
		return err
	}
	query := r.URL.Query().Get("q")
	list, err := m.parties(r.Context(), query, frame.Page{Limit: 50, After: r.URL.Query().Get("after")})
	if err != nil {
		return err
	}
	return m.server.Render(w, r, http.StatusOK, "parties.html", "Parties", struct {
		Query string
		List  frame.List[Party]
	}{query, list})
}

func (m *module) partyPage(w http.ResponseWriter, r *http.Request) error {
	var word *said
	if text := doneTexts[r.URL.Query().Get("done")]; text != "" {
		word = &said{Text: text}
	}
	return m.showParty(w, r, http.StatusOK, r.PathValue("id"), word)
}

func (m *module) showParty(w http.ResponseWriter, r *http.Request, status int, id string, word *said) error {
	p, err := m.party(r.Context(), id)
	if err != nil {
		return err
	}
	addresses, err := m.addresses(r.Context(), id)
	if err != nil {
		return err
	}
	return m.server.Render(w, r, status, "party.html", cmp.Or(p.Company, p.Name), struct {
		Party     Party
		Addresses []Address
		Said      *said
	}{p, addresses, word})
}

func (m *module) saveParty(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return frame.Invalid("the form could not be read").Because(err)
	}
	id, form := r.PathValue("id"), r.PostForm
	p := Party{Name: strings.TrimSpace(form.Get("name")), Company: form.Get("company"), Email: form.Get("email"), Phone: form.Get("phone"), TaxID: form.Get("tax_id")}
	_, err := m.changeParty(r.Context(), id, frame.Match{IfMatch: `"v` + form.Get("version") + `"`}, p)
	if err != nil {
		if problem := frame.AsProblem(err); problem.Status < 500 && problem.Status != http.StatusNotFound {
			return m.showParty(w, r, problem.Status, id, &said{Text: strings.TrimSpace(problem.Detail + ". " + problem.Hint), Bad: true})
		}
		return err
	}
	http.Redirect(w, r, "/orders/parties/"+url.PathEscape(id)+"?done=party", http.StatusSeeOther)
	return nil
}

func (m *module) forgetAddress(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if err := m.deleteAddress(r.Context(), id, r.PathValue("address")); err != nil {
		return err
	}
	http.Redirect(w, r, "/orders/parties/"+url.PathEscape(id)+"?done=address", http.StatusSeeOther)
	return nil
}

func stateWord(s State) string {
	text := strings.ReplaceAll(string(s), "-", " ")
	return strings.ToUpper(text[:1]) + text[1:]
}

// named is one requirement that was given.
type named struct{ Name, Text string }

func requirementsOf(r Requirements) []named {
	all := []named{
		{"File format", r.FileFormat},
		{"File version", r.FileVersion},
		{"Tolerances", r.Tolerances},
		{"Orientation", r.Orientation},
		{"Feedstock", r.Feedstock},
		{"Repairs", r.Repairs},
		{"Inspection", r.Inspection},
		{"Packaging", r.Packaging},
		{"Notes", r.Notes},
	}
	return slices.DeleteFunc(all, func(n named) bool { return n.Text == "" })
}

// possible are the events that a line can take now, the likeliest first.
func possible(o *Order, l Line) []Kind {
	var kinds []Kind
	if o.stage == Confirmed {
		for _, kind := range []Kind{Start, Make, Scrap, Ship, Deliver} {
			if _, refusal := l.Apply(kind, 1); refusal == "" && !(kind == Start && l.Started) {
				kinds = append(kinds, kind)
			}
		}
		if l.Made == l.Quantity { // what is left to do stands first
			kinds = slices.DeleteFunc(kinds, func(k Kind) bool { return k == Scrap })
		}
	}
	if o.stage == Confirmed || o.stage == Placed {
		if _, refusal := l.Apply(Cancel, 0); refusal == "" {
			kinds = append(kinds, Cancel)
		}
	}
	return kinds
}

// suggest is how many pieces the next event is likely about.
func suggest(l Line) int {
	switch {
	case l.Made < l.Quantity:
		return l.Quantity - l.Made
	case l.Shipped < l.Made:
		return l.Made - l.Shipped
	case l.Delivered < l.Shipped:
		return l.Shipped - l.Delivered
	}
	return 1
}

// stepWord says a step of the history in words.
func stepWord(o *Order, s Step) string {
	name := ""
	if l, err := o.line(s.Line); s.Line != "" && err == nil {
		name = l.Name
	}
	switch {
	case s.Line == "":
		return stateWord(State(s.Kind))
	case s.Kind == "reprint":
		return fmt.Sprintf("%d × %s are made again", s.Quantity, name)
	case s.Kind == "verdict":
		return "Verdict for " + name
	case s.Quantity > 0:
		return fmt.Sprintf("%d × %s %s", s.Quantity, name, s.Kind)
	}
	return name + " " + s.Kind
}

func size(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

// funcs are what the pages of this module use beside the frame's.
func funcs() template.FuncMap {
	return template.FuncMap{
		"stateWord": stateWord,
		"stateLook": func(s State) string {
			switch s {
			case Delivered:
				return "good"
			case Cancelled:
				return "bad"
			case Placed, Waiting:
				return "warn"
			}
			return "busy"
		},
		"missingVerdict": func(o Order) bool {
			return o.State == Placed && slices.ContainsFunc(o.Lines, func(l Line) bool { return l.Verdict == nil && !l.Cancelled })
		},
		"late": func(o Order, today string) bool { return o.Due < today && o.State != Delivered && o.State != Cancelled },
		"pick": func(so bool, yes, no string) string {
			if so {
				return yes
			}
			return no
		},
		"minus":        func(a, b int) int { return a - b },
		"plus":         func(a, b int) int { return a + b },
		"percent":      func(part, whole int) int { return 100 * part / max(whole, 1) },
		"bytes":        size,
		"requirements": requirementsOf,
		"events":       possible,
		"eventWord": func(k Kind) string {
			return map[Kind]string{Start: "Started", Make: "Made", Scrap: "Failed", Ship: "Shipped", Deliver: "Delivered", Cancel: "Cancel the line"}[k]
		},
		"suggest":  suggest,
		"stepWord": stepWord,
		"newKey":   func() string { return frame.NewID("key") },
	}
}
