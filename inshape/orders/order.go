package orders

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"inshape/frame"

	"github.com/danielgtaylor/huma/v2"
	"github.com/govalues/decimal"
)

// firstNumber is the number of a shop's first order.
const firstNumber = 10001

// Order is what a party has ordered.
type Order struct {
	ID        string    `json:"id"`
	Number    int64     `json:"number" doc:"For people; counts up from 10001"`
	Party     string    `json:"party"`
	PartyName string    `json:"party_name"`
	State     State     `json:"state" enum:"placed,confirmed,in-production,made,shipped,delivered,cancelled"`
	Currency  string    `json:"currency"`
	Total     string    `json:"total" doc:"Sum of the lines that are not cancelled; exact; without tax"`
	Quote     string    `json:"quote,omitempty"`
	Reference string    `json:"reference,omitempty" doc:"The party's own number for it"`
	Notes     string    `json:"notes,omitempty"`
	Due       string    `json:"due,omitempty" format:"date"`
	ShipTo    Address   `json:"ship_to"`
	BillTo    *Address  `json:"bill_to,omitempty" doc:"Left out: as ship_to"`
	Lines     []Line    `json:"lines"`
	At        time.Time `json:"at"`
	Actor     string    `json:"actor" doc:"Who placed it"`
	Version   int64     `json:"version"`

	stage State
}

// Step is one thing that happened to an order.
type Step struct {
	At       time.Time `json:"at"`
	Kind     string    `json:"kind" doc:"placed, confirmed, cancelled, verdict, reprint, or that of a line event"`
	Line     string    `json:"line,omitempty"`
	Quantity int       `json:"quantity,omitempty"`
	State    State     `json:"state" doc:"The order's, afterwards"`
	Note     string    `json:"note,omitempty"`
	Actor    string    `json:"actor"`
	Name     string    `json:"name"`
}

// NewOrder asks for an order: of an accepted quote, or of lines.
type NewOrder struct {
	Quote     string    `json:"quote,omitempty" maxLength:"64" doc:"An accepted quote of Analysis; the lines are its items"`
	Party     string    `json:"party,omitempty" maxLength:"64" doc:"Whose order it is; left out: the asker's own, or the quote's"`
	Currency  string    `json:"currency,omitempty" pattern:"^([A-Z]{3})?$" doc:"ISO 4217; left out: the shop's, or the quote's"`
	Lines     []NewLine `json:"lines,omitempty" maxItems:"500"`
	ShipTo    Address   `json:"ship_to"`
	BillTo    *Address  `json:"bill_to,omitempty"`
	Reference string    `json:"reference,omitempty" maxLength:"80"`
	Notes     string    `json:"notes,omitempty" maxLength:"4000"`
	Due       string    `json:"due,omitempty" pattern:"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$" doc:"When it is needed, as 2027-01-31"`
	// Requirements by item of the quote, in its order; fewer are allowed.
	Requirements []Requirements `json:"requirements,omitempty" maxItems:"500" doc:"With a quote: what else its items need, in their order"`
}

type orderAnswer struct {
	ETag string `header:"ETag"`
	Body Order
}

func answer(o *Order, err error) (*orderAnswer, error) {
	if err != nil {
		return nil, err
	}
	return &orderAnswer{frame.ETag(o.Version), *o}, nil
}

// Filter chooses orders. The zero value chooses all that the asker may see.
type Filter struct {
	State    string `query:"state" maxLength:"20" doc:"A state, or open: neither delivered nor cancelled"`
	Party    string `query:"party" maxLength:"64"`
	Query    string `query:"q" maxLength:"100" doc:"Words in number, names, references, notes, parts, materials"`
	Material string `query:"material" maxLength:"64"`
	Verdict  string `query:"verdict" enum:"missing," doc:"missing: with a line that nobody has accepted"`
	Late     bool   `query:"late" doc:"Only those that are due before today and not delivered"`
}

func (m *module) orderOperations() {
	api, base, tags := m.server.API, m.server.Base()+"/orders", []string{"Orders"}
	huma.Register(api, huma.Operation{
		OperationID: "create-order", Method: http.MethodPost, Path: base, Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Order an accepted quote, or lines", Errors: []int{403, 404, 409, 422, 501, 503},
	}, func(ctx context.Context, in *struct {
		Key  string `header:"Idempotency-Key"`
		Body NewOrder
	},
	) (*orderAnswer, error) {
		return answer(m.create(ctx, in.Body))
	})
	huma.Register(api, huma.Operation{
		OperationID: "list-orders", Method: http.MethodGet, Path: base, Tags: tags, Summary: "Orders, newest first",
	}, func(ctx context.Context, in *struct {
		frame.Page
		Filter
	},
	) (*struct{ Body frame.List[Order] }, error) {
		list, err := m.list(ctx, in.Filter, in.Page)
		return &struct{ Body frame.List[Order] }{list}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-order", Method: http.MethodGet, Path: base + "/{id}", Tags: tags, Summary: "An order", Errors: []int{404},
	}, func(ctx context.Context, in *OrderPath) (*orderAnswer, error) { return answer(m.order(ctx, in.ID)) })
	huma.Register(api, huma.Operation{
		OperationID: "get-order-history", Method: http.MethodGet, Path: base + "/{id}/history", Tags: tags, Summary: "What happened to it, oldest first", Errors: []int{404},
	}, func(ctx context.Context, in *OrderPath) (*struct{ Body frame.List[Step] }, error) {
		if _, err := m.order(ctx, in.ID); err != nil {
			return nil, err
		}
		steps, err := m.history(ctx, in.ID)
		return &struct{ Body frame.List[Step] }{frame.ListOf(steps, max(len(steps), 1), nil)}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "confirm-order", Method: http.MethodPost, Path: base + "/{id}/confirm", Tags: tags, Summary: "Say that the shop will make it", Errors: []int{403, 404, 409, 412},
	}, func(ctx context.Context, in *struct {
		OrderPath
		frame.Match
		Body *note
	},
	) (*orderAnswer, error) {
		return answer(m.confirm(ctx, in.ID, in.Match, in.Body.text()))
	})
	huma.Register(api, huma.Operation{
		OperationID: "cancel-order", Method: http.MethodPost, Path: base + "/{id}/cancel", Tags: tags,
		Summary: "Cancel it: a customer while nothing has begun, staff while nothing has left", Errors: []int{403, 404, 409, 412},
	}, func(ctx context.Context, in *struct {
		OrderPath
		frame.Match
		Body *note
	},
	) (*orderAnswer, error) {
		return answer(m.cancel(ctx, in.ID, in.Match, in.Body.text()))
	})
	huma.Register(api, huma.Operation{
		OperationID: "export-orders", Method: http.MethodGet, Path: m.server.Base() + "/export", Tags: tags,
		Summary: "Orders with their lines, as CSV (a row per line) or JSON (an order per line)", Errors: []int{403},
	}, m.exportOperation)
}

// OrderPath names an order in a path.
type OrderPath struct {
	ID string `path:"id" maxLength:"64"`
}

type note struct {
	Note string `json:"note,omitempty" maxLength:"1000"`
}

// text is the note of a body that may be left out.
func (n *note) text() string {
	if n == nil {
		return ""
	}
	return n.Note
}

// create makes an order, after asking Analysis where the shop has it.
func (m *module) create(ctx context.Context, in NewOrder) (*Order, error) {
	who := frame.Who(ctx)
	o := &Order{
		ID: frame.NewID("ord"), Party: in.Party, Currency: in.Currency, Quote: in.Quote, Reference: in.Reference, Notes: in.Notes, Due: in.Due,
		ShipTo: in.ShipTo, BillTo: in.BillTo, At: time.Now().UTC(), Actor: who.Subject, State: Placed, stage: Placed,
	}
	if _, err := time.Parse(time.DateOnly, in.Due); in.Due != "" && err != nil {
		return nil, frame.Invalid("due: %q is no date, such as 2027-01-31", in.Due)
	}
	if err := m.fill(ctx, o, in); err != nil {
		return nil, err
	}
	if o.Party == "" {
		o.Party = who.Party
	}
	if o.Party == "" {
		return nil, frame.Invalid("party: say whose order it is")
	}
	if err := m.ensureParty(ctx, o.Party); err != nil {
		return nil, err
	}
	made, err := frame.Once(ctx, m.store, func(tx *frame.Tx) (Order, error) {
		if o.Quote != "" {
			var number int64
			switch err := tx.QueryRow("SELECT number FROM orders WHERE quote = ?", o.Quote).Scan(&number); {
			case err == nil:
				return *o, frame.NewProblem(http.StatusConflict, "already-ordered", "quote %s is order %d already", o.Quote, number)
			case !errors.Is(err, sql.ErrNoRows):
				return *o, fmt.Errorf("look for quote: %w", err)
			}
		}
		if err := insertOrder(tx, o); err != nil {
			return *o, err
		}
		err := o.happened(tx, Step{Kind: "placed"})
		return *o, err
	})
	return &made, err
}

// fill gives an order its lines and prices.
func (m *module) fill(ctx context.Context, o *Order, in NewOrder) error {
	if in.Quote != "" {
		if len(in.Lines) > 0 {
			return frame.Invalid("lines: an order of a quote has the quote's lines")
		}
		q, err := m.acceptedQuote(ctx, in.Quote)
		if err != nil {
			return err
		}
		if o.Party != "" && o.Party != q.Party {
			return frame.Invalid("party: the quote is for %s", q.Party)
		}
		o.Party, o.Currency = q.Party, q.Currency
		for i, item := range q.Items {
			line := Line{
				ID: frame.NewID("lin"), Model: item.Model, Revision: item.Revision, Name: item.Name, Picture: item.Picture, Material: item.Material,
				MaterialTitle: item.MaterialTitle, Progress: Progress{Quantity: item.Quantity}, UnitPrice: item.UnitPrice, Total: item.Total,
				Verdict: &Verdict{Verdict: item.Verdict, By: "analysis", At: o.At},
			}
			if i < len(in.Requirements) {
				line.Requirements = in.Requirements[i]
			}
			line.Requirements.Finish = item.Finish
			o.Lines = append(o.Lines, line)
		}
		return o.sum()
	}
	if len(in.Lines) == 0 {
		return frame.Invalid("lines: at least one is needed, or a quote")
	}
	if o.Currency == "" {
		o.Currency = m.server.Config.Currency
	}
	staff := frame.Who(ctx).May(frame.Staff)
	for i, l := range in.Lines {
		where := fmt.Sprintf("lines[%d]", i)
		line := Line{
			ID: frame.NewID("lin"), Model: l.Model, Revision: l.Revision, Name: l.Name, Material: l.Material, MaterialTitle: l.MaterialTitle,
			Requirements: l.Requirements, Progress: Progress{Quantity: l.Quantity}, UnitPrice: l.UnitPrice,
		}
		switch {
		case l.UnitPrice != "" && !staff:
			return frame.Forbidden("%s.unit_price: prices are the shop's to set", where)
		case m.analysis == nil && l.Model != "":
			return noAnalysis()
		case m.analysis != nil && l.Model == "":
			return frame.Invalid("%s.model: a model of Analysis is needed, whose verdict was accepted", where)
		}
		if l.Model != "" {
			verdict, err := m.acceptedVerdict(ctx, where, l.Model, l.Revision, l.Material)
			if err != nil {
				return err
			}
			line.Verdict = verdict
			line.Picture = fmt.Sprintf("/api/analysis/models/%s/revisions/%d/picture.png", l.Model, l.Revision)
		}
		if line.MaterialTitle == "" {
			line.MaterialTitle = line.Material
		}
		if line.UnitPrice == "" {
			line.UnitPrice = "0"
		}
		price, err := decimal.Parse(line.UnitPrice)
		if err != nil || price.IsNeg() {
			return frame.Invalid("%s.unit_price: %q is no amount of money, such as 12.50", where, line.UnitPrice)
		}
		total, err := price.MulExact(decimal.MustNew(int64(l.Quantity), 0), price.Scale())
		if err != nil {
			return frame.Invalid("%s: the amount is too large", where)
		}
		line.Total = total.String()
		o.Lines = append(o.Lines, line)
	}
	return o.sum()
}

// sum adds the lines up.
func (o *Order) sum() error {
	var total decimal.Decimal
	for i, l := range o.Lines {
		if l.Cancelled {
			continue
		}
		amount, err := decimal.Parse(l.Total)
		if err != nil {
			return fmt.Errorf("sum order %s: line %d: %w", o.ID, i+1, err)
		}
		if total, err = total.AddExact(amount, max(total.Scale(), amount.Scale())); err != nil {
			return frame.Invalid("the order's total is too large")
		}
	}
	o.Total = total.String()
	return nil
}

func insertOrder(tx *frame.Tx, o *Order) error {
	if err := tx.QueryRow("SELECT coalesce(max(number) + 1, ?) FROM orders", firstNumber).Scan(&o.Number); err != nil {
		return fmt.Errorf("number order: %w", err)
	}
	if err := tx.QueryRow("SELECT CASE company WHEN '' THEN name ELSE company END FROM party WHERE id = ?", o.Party).Scan(&o.PartyName); err != nil {
		return fmt.Errorf("name party: %w", err)
	}
	shipTo, err := json.Marshal(o.ShipTo)
	if err != nil {
		return fmt.Errorf("make address: %w", err)
	}
	billTo, err := json.Marshal(o.BillTo)
	if err != nil {
		return fmt.Errorf("make address: %w", err)
	}
	var quote any
	if o.Quote != "" {
		quote = o.Quote
	}
	if _, err := tx.Exec(`INSERT INTO orders (id, number, party, stage, state, currency, quote, reference, notes, due, ship_to, bill_to, actor, at, version)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)`, o.ID, o.Number, o.Party, o.stage, o.State, o.Currency, quote, o.Reference, o.Notes, o.Due,
		string(shipTo), string(billTo), o.Actor, frame.Stamp(o.At)); err != nil {
		return fmt.Errorf("save order: %w", err)
	}
	text := []string{fmt.Sprint(o.Number), o.PartyName, o.Reference, o.Notes, o.ShipTo.Name, o.ShipTo.Company, o.ShipTo.City}
	for i := range o.Lines {
		if err := insertLine(tx, o.ID, &o.Lines[i]); err != nil {
			return err
		}
		text = append(text, o.Lines[i].Name, o.Lines[i].Material, o.Lines[i].MaterialTitle)
	}
	if _, err := tx.Exec("INSERT INTO order_text (order_id, text) VALUES (?, ?)", o.ID, strings.Join(text, " ")); err != nil {
		return fmt.Errorf("index order: %w", err)
	}
	return nil
}

// happened brings an order's record up to date after a step: state, version,
// history, event, audit.
func (o *Order) happened(tx *frame.Tx, step Step) error {
	progress := make([]Progress, len(o.Lines))
	for i, l := range o.Lines {
		progress[i] = l.Progress
	}
	before := o.State
	o.State = OrderState(o.stage, progress)
	if o.State == Cancelled {
		o.stage = Cancelled
	}
	o.Version++
	if err := o.sum(); err != nil {
		return err
	}
	if _, err := tx.Exec("UPDATE orders SET stage = ?, state = ?, version = ? WHERE id = ?", o.stage, o.State, o.Version, o.ID); err != nil {
		return fmt.Errorf("save order: %w", err)
	}
	who := frame.Who(tx.Context())
	if _, err := tx.Exec("INSERT INTO history (order_id, line, kind, quantity, state, note, actor, name, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		o.ID, step.Line, step.Kind, step.Quantity, o.State, step.Note, who.Subject, who.Name, frame.Stamp(time.Now())); err != nil {
		return fmt.Errorf("save history: %w", err)
	}
	event := map[string]any{"order": o.ID, "number": o.Number, "state": o.State}
	kind := "order." + step.Kind
	if step.Line != "" {
		event["line"], event["quantity"] = step.Line, step.Quantity
		kind = "line." + step.Kind
	}
	if err := tx.Emit(kind, o.ID, o.Party, event); err != nil {
		return err
	}
	// What a line did may have moved the whole order on; who waits for that need not count lines.
	if step.Line != "" && o.State != before {
		if err := tx.Emit("order."+string(o.State), o.ID, o.Party, map[string]any{"order": o.ID, "number": o.Number, "state": o.State}); err != nil {
			return err
		}
	}
	return tx.Audit(kind, o.ID, "%s", strings.TrimSpace(step.Line+" "+step.Note))
}

const orderColumns = `o.id, o.number, o.party, CASE p.company WHEN '' THEN p.name ELSE p.company END, o.stage, o.state, o.currency, coalesce(o.quote, ''),
	o.reference, o.notes, o.due, o.ship_to, o.bill_to, o.actor, o.at, o.version`

func scanOrder(row interface{ Scan(...any) error }) (*Order, error) {
	var o Order
	var at, shipTo, billTo string
	if err := row.Scan(&o.ID, &o.Number, &o.Party, &o.PartyName, &o.stage, &o.State, &o.Currency, &o.Quote, &o.Reference, &o.Notes, &o.Due,
		&shipTo, &billTo, &o.Actor, &at, &o.Version); err != nil {
		return nil, err
	}
	o.At = frame.ParseStamp(at)
	return &o, errors.Join(json.Unmarshal([]byte(shipTo), &o.ShipTo), json.Unmarshal([]byte(billTo), &o.BillTo))
}

// loadOrder reads an order that who may see.
func loadOrder(tx *sql.Tx, who frame.Identity, id string) (*Order, error) {
	o, err := scanOrder(tx.QueryRow("SELECT "+orderColumns+" FROM orders o JOIN party p ON p.id = o.party WHERE o.id = ?", id))
	if errors.Is(err, sql.ErrNoRows) || err == nil && !who.Sees(o.Party) {
		return nil, frame.NotFound("there is no order %s", id)
	}
	if err != nil {
		return nil, fmt.Errorf("load order: %w", err)
	}
	if o.Lines, err = loadLines(tx, id); err != nil {
		return nil, err
	}
	return o, o.sum()
}

func (m *module) order(ctx context.Context, id string) (*Order, error) {
	var o *Order
	err := m.store.View(ctx, func(tx *sql.Tx) (err error) {
		o, err = loadOrder(tx, frame.Who(ctx), id)
		return err
	})
	return o, err
}

// change runs do on an order that the asker may see, and notes the step that it gives.
func (m *module) change(ctx context.Context, id string, match frame.Match, do func(*frame.Tx, *Order) (Step, error)) (*Order, error) {
	o, err := frame.Once(ctx, m.store, func(tx *frame.Tx) (Order, error) {
		o, err := loadOrder(tx.Tx, frame.Who(ctx), id)
		if err != nil {
			return Order{}, err
		}
		if err := match.Check(o.Version); err != nil {
			return Order{}, err
		}
		step, err := do(tx, o)
		if err != nil {
			return Order{}, err
		}
		err = o.happened(tx, step)
		return *o, err
	})
	return &o, err
}

func (m *module) confirm(ctx context.Context, id string, match frame.Match, text string) (*Order, error) {
	if err := frame.Require(ctx, frame.Staff); err != nil {
		return nil, err
	}
	return m.change(ctx, id, match, func(_ *frame.Tx, o *Order) (Step, error) {
		if o.stage != Placed {
			return Step{}, frame.Conflict("order %d is %s", o.Number, o.State)
		}
		for i, l := range o.Lines {
			if !l.Cancelled && !l.Verdict.Accepts() {
				return Step{}, frame.NewProblem(http.StatusConflict, "no-accepted-verdict", "line %d: nobody has accepted yet that %s can be made in %s", i+1, l.Name, l.MaterialTitle).
					Advise("Give a verdict for the line first.")
			}
		}
		o.stage = Confirmed
		return Step{Kind: "confirmed", Note: text}, nil
	})
}

func (m *module) cancel(ctx context.Context, id string, match frame.Match, text string) (*Order, error) {
	staff := frame.Who(ctx).May(frame.Staff)
	return m.change(ctx, id, match, func(tx *frame.Tx, o *Order) (Step, error) {
		if o.State == Cancelled {
			return Step{}, frame.Conflict("order %d is cancelled already", o.Number)
		}
		for i := range o.Lines {
			l := &o.Lines[i]
			if l.Shipped > 0 || !staff && l.State() != Waiting && l.State() != Cancelled {
				return Step{}, frame.Conflict("order %d: %s is %s", o.Number, l.Name, l.State()).Advise("Ask the shop: leave a comment.")
			}
			if l.Cancelled {
				continue
			}
			l.Cancelled = true
			if err := updateLine(tx, l); err != nil {
				return Step{}, err
			}
		}
		o.stage = Cancelled
		return Step{Kind: "cancelled", Note: text}, nil
	})
}

// where makes a Filter's condition on orders o.
func (f Filter) where(who frame.Identity) (string, []any, error) {
	conditions, args := []string{"1"}, []any{}
	add := func(condition string, values ...any) {
		conditions, args = append(conditions, condition), append(args, values...)
	}
	if !who.May(frame.Staff) {
		add("o.party = ?", who.Party)
	}
	switch {
	case f.State == "open":
		add("o.state NOT IN ('delivered', 'cancelled')")
	case f.State != "" && !slices.Contains(OrderStates, State(f.State)):
		return "", nil, frame.Invalid("state: %q is none; there are open, %s", f.State, joinStates())
	case f.State != "":
		add("o.state = ?", f.State)
	}
	if f.Party != "" {
		add("o.party = ?", f.Party)
	}
	if f.Material != "" {
		add("EXISTS (SELECT 1 FROM line l WHERE l.order_id = o.id AND l.material = ?)", f.Material)
	}
	if f.Verdict != "" {
		add("o.state = 'placed' AND EXISTS (SELECT 1 FROM line l WHERE l.order_id = o.id AND l.verdict = '' AND NOT l.cancelled)")
	}
	if f.Late {
		add("o.due <> '' AND o.due < ? AND o.state NOT IN ('delivered', 'cancelled')", time.Now().UTC().Format(time.DateOnly))
	}
	if words := strings.FieldsFunc(f.Query, func(r rune) bool { return !isWord(r) }); len(words) > 0 {
		for i, w := range words {
			words[i] = `"` + w + `"*`
		}
		add("o.id IN (SELECT order_id FROM order_text WHERE text MATCH ?)", strings.Join(words, " "))
	} else if strings.TrimSpace(f.Query) != "" {
		add("0") // nothing that could be found
	}
	return strings.Join(conditions, " AND "), args, nil
}

func (m *module) list(ctx context.Context, f Filter, page frame.Page) (frame.List[Order], error) {
	where, args, err := f.where(frame.Who(ctx))
	if err != nil {
		return frame.List[Order]{}, err
	}
	var list []Order
	err = m.store.View(ctx, func(tx *sql.Tx) error {
		args := append(args, page.After, page.After, page.Limit+1)
		rows, err := tx.Query("SELECT "+orderColumns+" FROM orders o JOIN party p ON p.id = o.party WHERE "+where+
			" AND (? = '' OR o.id < ?) ORDER BY o.id DESC LIMIT ?", args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			o, err := scanOrder(rows)
			if err != nil {
				return err
			}
			list = append(list, *o)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for i := range list {
			if list[i].Lines, err = loadLines(tx, list[i].ID); err != nil {
				return err
			}
			if err := list[i].sum(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return frame.List[Order]{}, fmt.Errorf("list orders: %w", err)
	}
	return frame.ListOf(list, page.Limit, func(o Order) string { return o.ID }), nil
}

func (m *module) history(ctx context.Context, id string) ([]Step, error) {
	var steps []Step
	err := m.store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT at, kind, line, quantity, state, note, actor, name FROM history WHERE order_id = ? ORDER BY seq", id)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s Step
			var at string
			if err := rows.Scan(&at, &s.Kind, &s.Line, &s.Quantity, &s.State, &s.Note, &s.Actor, &s.Name); err != nil {
				return err
			}
			s.At = frame.ParseStamp(at)
			steps = append(steps, s)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return steps, nil
}
