package orders

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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
	Asked     bool      `json:"asked" doc:"The customer said the last word in the conversation"`
	Version   int64     `json:"version"`

	stage State
}

// Step is one thing that happened to an order.
type Step struct {
	Sequence int64     `json:"sequence"`
	At       time.Time `json:"at"`
	Kind     string    `json:"kind" doc:"placed, changed, confirmed, cancelled, verdict, requirements, price, reprint, or that of a line event"`
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
	Asked    bool   `query:"asked" doc:"Only those whose customer said the last word"`
	Sort     string `query:"sort" enum:"newest,due" default:"newest" doc:"due: what is needed first stands first"`
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
		OperationID: "list-orders", Method: http.MethodGet, Path: base, Tags: tags, Summary: "Orders, newest first unless sorted otherwise", Errors: []int{422},
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
	}, func(ctx context.Context, in *struct {
		OrderPath
		frame.Page
	},
	) (*struct{ Body frame.List[Step] }, error) {
		after, err := strconv.ParseInt(cmp.Or(in.After, "0"), 10, 64)
		if err != nil {
			return nil, frame.Invalid("after: %q is not what a list gave as next", in.After)
		}
		steps, err := m.history(ctx, in.ID, "seq > ? ORDER BY seq", after, in.Limit+1)
		return &struct{ Body frame.List[Step] }{frame.ListOf(steps, in.Limit, func(s Step) string { return strconv.FormatInt(s.Sequence, 10) })}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "change-order", Method: http.MethodPatch, Path: base + "/{id}", Tags: tags,
		Summary: "Change what is given: a customer while the order is placed, staff while it is open", Errors: []int{404, 409, 412, 422},
	}, func(ctx context.Context, in *struct {
		OrderPath
		frame.Match
		Body OrderChange
	},
	) (*orderAnswer, error) {
		return answer(m.edit(ctx, in.ID, in.Match, in.Body))
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
		Summary: "Orders with their lines, as CSV (a row per line) or JSON (an order per line)", Errors: []int{422},
	}, m.exportOperation)
}

// OrderChange is what can be changed of an order; what is left out stays.
type OrderChange struct {
	Reference *string  `json:"reference,omitempty" maxLength:"80"`
	Notes     *string  `json:"notes,omitempty" maxLength:"4000"`
	Due       *string  `json:"due,omitempty" pattern:"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$" doc:"Empty: it is not needed by a day"`
	ShipTo    *Address `json:"ship_to,omitempty" doc:"While nothing has been shipped"`
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
	if err := checkDue(in.Due); err != nil {
		return nil, err
	}
	o.ShipTo.ID = ""
	if o.BillTo != nil {
		o.BillTo.ID = ""
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

func checkDue(day string) error {
	if _, err := time.Parse(time.DateOnly, day); day != "" && err != nil {
		return frame.Invalid("due: %q is no date, such as 2027-01-31", day)
	}
	return nil
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
				Verdict: &Verdict{Verdict: item.Verdict, Accepted: true, By: "analysis", At: o.At},
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
			Requirements: l.Requirements, Progress: Progress{Quantity: l.Quantity},
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
		if err := line.cost(cmp.Or(l.UnitPrice, "0")); err != nil {
			return err
		}
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
	for i := range o.Lines {
		if err := insertLine(tx, o.ID, &o.Lines[i]); err != nil {
			return err
		}
	}
	return o.index(tx)
}

// index makes an order's words what search finds it by.
func (o *Order) index(tx *frame.Tx) error {
	text := []string{fmt.Sprint(o.Number), o.PartyName, o.Reference, o.Notes, o.ShipTo.Name, o.ShipTo.Company, o.ShipTo.City}
	for _, l := range o.Lines {
		text = append(text, l.Name, l.Material, l.MaterialTitle)
	}
	if _, err := tx.Exec("INSERT OR REPLACE INTO order_text (rowid, text) VALUES (?, ?)", o.Number, strings.Join(text, " ")); err != nil {
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
	if err := o.emit(tx, step, before); err != nil {
		return err
	}
	return tx.Audit(step.name(), o.ID, "%s", strings.TrimSpace(step.Line+" "+step.Note))
}

// name is the name of a step in events and in the audit log.
func (s Step) name() string {
	if s.Line != "" {
		return "line." + s.Kind
	}
	return "order." + s.Kind
}

const orderColumns = `o.id, o.number, o.party, CASE p.company WHEN '' THEN p.name ELSE p.company END, o.stage, o.state, o.currency, coalesce(o.quote, ''),
	o.reference, o.notes, o.due, o.ship_to, o.bill_to, o.actor, o.at, o.asked, o.version`

func scanOrder(row frame.Row) (*Order, error) {
	var o Order
	var at, shipTo, billTo string
	if err := row.Scan(&o.ID, &o.Number, &o.Party, &o.PartyName, &o.stage, &o.State, &o.Currency, &o.Quote, &o.Reference, &o.Notes, &o.Due,
		&shipTo, &billTo, &o.Actor, &at, &o.Asked, &o.Version); err != nil {
		return nil, err
	}
	o.At = frame.ParseStamp(at)
	return &o, errors.Join(json.Unmarshal([]byte(shipTo), &o.ShipTo), json.Unmarshal([]byte(billTo), &o.BillTo))
}

// reader is a transaction, one that may write among them.
type reader interface {
	Query(query string, args ...any) (*sql.Rows, error)
	QueryRow(query string, args ...any) *sql.Row
}

// loadOrder reads an order that who may see.
func loadOrder(tx reader, who frame.Identity, id string) (*Order, error) {
	o, err := scanOrder(tx.QueryRow("SELECT "+orderColumns+" FROM orders o JOIN party p ON p.id = o.party WHERE o.id = ?", id))
	if errors.Is(err, sql.ErrNoRows) || err == nil && !who.Sees(o.Party) {
		return nil, frame.NotFound("there is no order %s", id)
	}
	if err != nil {
		return nil, fmt.Errorf("load order: %w", err)
	}
	return o, loadLines(tx, o)
}

// mustSee refuses an order that is not there, or is not who's to see.
func mustSee(tx *sql.Tx, who frame.Identity, id string) error {
	var party string
	err := tx.QueryRow("SELECT party FROM orders WHERE id = ?", id).Scan(&party)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !who.Sees(party) {
		return frame.NotFound("there is no order %s", id)
	}
	if err != nil {
		return fmt.Errorf("load order: %w", err)
	}
	return nil
}

func (m *module) order(ctx context.Context, id string) (*Order, error) {
	var o *Order
	err := m.store.View(ctx, func(tx *sql.Tx) (err error) {
		o, err = loadOrder(tx, frame.Who(ctx), id)
		return err
	})
	return o, err
}

// change runs do on an order that the asker may see, notes the step that it
// gives, and answers with what is kept for a repetition of the request.
func change[T any](ctx context.Context, m *module, id string, match frame.Match, do func(*frame.Tx, *Order) (Step, error), result func(*Order) (T, error)) (T, error) {
	return frame.Once(ctx, m.store, func(tx *frame.Tx) (T, error) {
		var none T
		o, err := loadOrder(tx, frame.Who(ctx), id)
		if err != nil {
			return none, err
		}
		if err := match.Check(o.Version); err != nil {
			return none, err
		}
		step, err := do(tx, o)
		if err != nil {
			return none, err
		}
		if err := o.happened(tx, step); err != nil {
			return none, err
		}
		return result(o)
	})
}

// change is the function change for those who want the whole order.
func (m *module) change(ctx context.Context, id string, match frame.Match, do func(*frame.Tx, *Order) (Step, error)) (*Order, error) {
	return change(ctx, m, id, match, do, func(o *Order) (*Order, error) { return o, nil })
}

// not says that an order is in another state than the one that is needed.
func (o *Order) not(needed State) *frame.Problem {
	p := frame.Conflict("order %d is %s", o.Number, o.State)
	if needed == Confirmed && o.State == Placed {
		return p.Advise("Confirm it first.")
	}
	return p
}

// edit changes what an order says of itself.
func (m *module) edit(ctx context.Context, id string, match frame.Match, in OrderChange) (*Order, error) {
	staff := frame.Who(ctx).May(frame.Staff)
	return m.change(ctx, id, match, func(tx *frame.Tx, o *Order) (Step, error) {
		switch {
		case o.State == Cancelled || o.State == Delivered:
			return Step{}, o.not(Placed)
		case o.State != Placed && !staff:
			return Step{}, o.not(Placed).Advise("Ask the shop: leave a comment.")
		}
		var changed []string
		for _, field := range []struct {
			name string
			now  *string
			then *string
		}{{"reference", &o.Reference, in.Reference}, {"notes", &o.Notes, in.Notes}, {"due", &o.Due, in.Due}} {
			if field.then != nil && *field.then != *field.now {
				*field.now, changed = *field.then, append(changed, field.name)
			}
		}
		if err := checkDue(o.Due); err != nil {
			return Step{}, err
		}
		if in.ShipTo != nil {
			if slices.ContainsFunc(o.Lines, func(l Line) bool { return l.Shipped > 0 }) {
				return Step{}, frame.Conflict("ship_to: pieces of order %d have been shipped", o.Number)
			}
			o.ShipTo, changed = *in.ShipTo, append(changed, "address")
			o.ShipTo.ID = ""
		}
		if len(changed) == 0 {
			return Step{}, frame.Invalid("nothing is to be changed")
		}
		shipTo, err := json.Marshal(o.ShipTo)
		if err != nil {
			return Step{}, fmt.Errorf("make address: %w", err)
		}
		if _, err := tx.Exec("UPDATE orders SET reference = ?, notes = ?, due = ?, ship_to = ? WHERE id = ?", o.Reference, o.Notes, o.Due, string(shipTo), o.ID); err != nil {
			return Step{}, fmt.Errorf("save order: %w", err)
		}
		return Step{Kind: "changed", Note: strings.Join(changed, ", ")}, o.index(tx)
	})
}

func (m *module) confirm(ctx context.Context, id string, match frame.Match, text string) (*Order, error) {
	if err := frame.Require(ctx, frame.Staff); err != nil {
		return nil, err
	}
	return m.change(ctx, id, match, func(_ *frame.Tx, o *Order) (Step, error) {
		if o.stage != Placed {
			return Step{}, o.not(Placed)
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
		if l := o.uncancellable(staff); l != nil {
			return Step{}, frame.Conflict("order %d: %s is %s", o.Number, l.Name, l.State()).Advise("Ask the shop: leave a comment.")
		}
		for i := range o.Lines {
			l := &o.Lines[i]
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

// uncancellable is a line that keeps the order from being cancelled: staff may
// while nothing has left, a customer while nothing has begun.
func (o *Order) uncancellable(staff bool) *Line {
	for i, l := range o.Lines {
		if l.Shipped > 0 || !staff && l.State() != Waiting && l.State() != Cancelled {
			return &o.Lines[i]
		}
	}
	return nil
}

// open and dueKey are what the index orders_open has.
const (
	open   = "o.state NOT IN ('delivered', 'cancelled')"
	dueKey = "CASE o.due WHEN '' THEN '9' ELSE o.due END"
)

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
		add(open)
	case f.State != "" && !slices.Contains(OrderStates, State(f.State)):
		return "", nil, frame.Invalid("state: %q is none; there are open, %s", f.State, joinStates())
	case f.State != "":
		add("o.state = ?", f.State)
	}
	if f.Party != "" {
		add("o.party = ?", f.Party)
	}
	if f.Material != "" {
		add("o.id IN (SELECT order_id FROM line WHERE material = ?)", f.Material)
	}
	if f.Verdict != "" {
		add("o.state = 'placed' AND EXISTS (SELECT 1 FROM line l WHERE l.order_id = o.id AND l.verdict = '' AND NOT l.cancelled)")
	}
	if f.Late {
		add(open+" AND "+dueKey+" < ?", time.Now().UTC().Format(time.DateOnly))
	}
	if f.Asked {
		add("o.asked")
	}
	if utf8.RuneCountInString(f.Query) > 100 { // of a page; the API's schema says the same
		return "", nil, frame.Invalid("q: at most 100 characters")
	}
	if words := strings.FieldsFunc(f.Query, func(r rune) bool { return !isWord(r) }); len(words) > 0 {
		for i, w := range words {
			words[i] = `"` + w + `"*`
		}
		add("o.number IN (SELECT rowid FROM order_text WHERE text MATCH ?)", strings.Join(words, " "))
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
	order, cursor := " ORDER BY o.id DESC LIMIT ?", func(o Order) string { return o.ID }
	if f.Late { // + keeps SQLite from walking all orders by id instead of the few that are open
		order = " ORDER BY +o.id DESC LIMIT ?"
	}
	if f.Sort == "due" {
		order, cursor = " ORDER BY "+dueKey+", o.id LIMIT ?", func(o Order) string { return cmp.Or(o.Due, "9") + " " + o.ID }
	}
	if page.After != "" && f.Sort == "due" {
		due, id, ok := strings.Cut(page.After, " ")
		if !ok {
			return frame.List[Order]{}, frame.Invalid("after: %q is not what a list gave as next", page.After)
		}
		where, args = where+" AND ("+dueKey+", o.id) > (?, ?)", append(args, due, id)
	} else if page.After != "" {
		where, args = where+" AND o.id < ?", append(args, page.After)
	}
	var list []Order
	err = m.store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT "+orderColumns+" FROM orders o JOIN party p ON p.id = o.party WHERE "+where+order, append(args, page.Limit+1)...)
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
		orders := make([]*Order, len(list))
		for i := range list {
			orders[i] = &list[i]
		}
		return loadLines(tx, orders...)
	})
	if err != nil {
		return frame.List[Order]{}, fmt.Errorf("list orders: %w", err)
	}
	return frame.ListOf(list, page.Limit, cursor), nil
}

// history are up to limit steps of an order that the asker may see, of those
// and in the order that part says.
func (m *module) history(ctx context.Context, id, part string, cursor int64, limit int) ([]Step, error) {
	var steps []Step
	err := m.store.View(ctx, func(tx *sql.Tx) error {
		if err := mustSee(tx, frame.Who(ctx), id); err != nil {
			return err
		}
		rows, err := tx.Query("SELECT seq, at, kind, line, quantity, state, note, actor, name FROM history WHERE order_id = ? AND "+part+" LIMIT ?", id, cursor, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s Step
			var at string
			if err := rows.Scan(&s.Sequence, &at, &s.Kind, &s.Line, &s.Quantity, &s.State, &s.Note, &s.Actor, &s.Name); err != nil {
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
