package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"inshape/frame"

	"github.com/danielgtaylor/huma/v2"
	"github.com/govalues/decimal"
)

// Line is so many pieces of one part in one material.
type Line struct {
	ID            string       `json:"id"`
	Model         string       `json:"model,omitempty" doc:"Of Analysis"`
	Revision      int          `json:"revision,omitempty"`
	Name          string       `json:"name"`
	Picture       string       `json:"picture,omitempty" doc:"Path of a picture"`
	Material      string       `json:"material"`
	MaterialTitle string       `json:"material_title"`
	Requirements  Requirements `json:"requirements"`
	UnitPrice     string       `json:"unit_price" doc:"Exact decimal, without tax"`
	Total         string       `json:"total"`
	Verdict       *Verdict     `json:"verdict,omitempty" doc:"Left out: nobody has said yet whether it can be made"`
	ReprintOf     string       `json:"reprint_of,omitempty" doc:"The line that this one makes good"`
	Status        State        `json:"state" enum:"waiting,in-production,made,shipped,delivered,cancelled"`
	Progress
}

// NewLine asks for a line.
type NewLine struct {
	Model         string       `json:"model,omitempty" maxLength:"64" doc:"Of Analysis, where the shop has it; its verdict must be accepted"`
	Revision      int          `json:"revision,omitempty" minimum:"0" maximum:"1000000"`
	Name          string       `json:"name" minLength:"1" maxLength:"200" doc:"Of the part or its file"`
	Material      string       `json:"material" minLength:"1" maxLength:"64"`
	MaterialTitle string       `json:"material_title,omitempty" maxLength:"120"`
	Quantity      int          `json:"quantity" minimum:"1" maximum:"100000"`
	UnitPrice     string       `json:"unit_price,omitempty" pattern:"^([0-9]{1,10}([.][0-9]{1,4})?)?$" patternDescription:"an amount of money, such as 12.50" doc:"Staff only; left out: 0, to be agreed"`
	Requirements  Requirements `json:"requirements,omitempty"`
}

// Requirements are what ISO/ASTM 52901 wants an order to say of a part, beside
// material and quantity. All are free text; empty ones mean the shop's usual.
type Requirements struct {
	FileFormat  string `json:"file_format,omitempty" maxLength:"60" doc:"Format and its version, such as 3MF 1.4"`
	FileVersion string `json:"file_version,omitempty" maxLength:"60" doc:"Revision of the drawing or model"`
	Finish      string `json:"finish,omitempty" maxLength:"120"`
	Tolerances  string `json:"tolerances,omitempty" maxLength:"1000" doc:"Such as ISO 2768-m, or by dimension"`
	Orientation string `json:"orientation,omitempty" maxLength:"400" doc:"How it must lie in the machine, if it must"`
	Feedstock   string `json:"feedstock,omitempty" maxLength:"400" doc:"Lot, certificate, share of used powder"`
	Repairs     string `json:"repairs,omitempty" maxLength:"400" doc:"What may be mended in the file or on the part"`
	Inspection  string `json:"inspection,omitempty" maxLength:"400"`
	Packaging   string `json:"packaging,omitempty" maxLength:"400"`
	Notes       string `json:"notes,omitempty" maxLength:"2000"`
}

// Verdict says that a line can be made, or not, and who says so.
type Verdict struct {
	Verdict  string    `json:"verdict" enum:"printable,with-remarks,not-printable"`
	Accepted bool      `json:"accepted" doc:"The line may be made; in Analysis staff can accept what is not printable, too"`
	By       string    `json:"by" doc:"analysis, or the name of whoever decided by hand"`
	Note     string    `json:"note,omitempty"`
	At       time.Time `json:"at"`
}

// Accepts tells whether the line may be made; nil means not yet.
func (v *Verdict) Accepts() bool { return v != nil && v.Accepted }

// NewVerdict is a decision by hand.
type NewVerdict struct {
	Verdict string `json:"verdict" enum:"printable,with-remarks,not-printable"`
	Note    string `json:"note,omitempty" maxLength:"1000"`
}

// Price is what one piece of a line costs.
type Price struct {
	UnitPrice string `json:"unit_price" pattern:"^[0-9]{1,10}([.][0-9]{1,4})?$" patternDescription:"an amount of money, such as 12.50"`
}

// Reprint asks for pieces to be made again.
type Reprint struct {
	Quantity int    `json:"quantity" minimum:"1" maximum:"100000"`
	Reason   string `json:"reason" minLength:"1" maxLength:"1000"`
}

// maxLines is how many lines an order can have, reprints among them.
const maxLines = 1000

func (m *module) lineOperations() {
	api, base, tags := m.server.API, m.server.Base()+"/orders/{id}/lines/{line}", []string{"Lines"}
	huma.Register(api, huma.Operation{
		OperationID: "create-line-event", Method: http.MethodPost, Path: base + "/events", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Tell what happened to a line", Errors: []int{403, 404, 409, 412, 422},
	}, func(ctx context.Context, in *struct {
		LinePath
		frame.Match
		Key  string `header:"Idempotency-Key"`
		Body LineEvent
	},
	) (*struct{ Body LineState }, error) {
		state, err := m.lineEvent(ctx, in.ID, in.Line, in.Match, in.Body)
		return &struct{ Body LineState }{state}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "set-line-verdict", Method: http.MethodPut, Path: base + "/verdict", Tags: tags,
		Summary: "Decide by hand whether a line can be made", Errors: []int{403, 404, 409, 412, 422},
	}, func(ctx context.Context, in *struct {
		LinePath
		frame.Match
		Body NewVerdict
	},
	) (*orderAnswer, error) {
		return answer(m.decide(ctx, in.ID, in.Line, in.Match, in.Body))
	})
	huma.Register(api, huma.Operation{
		OperationID: "set-line-requirements", Method: http.MethodPut, Path: base + "/requirements", Tags: tags,
		Summary: "Say what a part must be like: a customer while the order is placed, staff while nothing of it has begun", Errors: []int{404, 409, 412, 422},
	}, func(ctx context.Context, in *struct {
		LinePath
		frame.Match
		Body Requirements
	},
	) (*orderAnswer, error) {
		return answer(m.require(ctx, in.ID, in.Line, in.Match, in.Body))
	})
	huma.Register(api, huma.Operation{
		OperationID: "set-line-price", Method: http.MethodPut, Path: base + "/price", Tags: tags,
		Summary: "Say what a part costs, while the order is placed; a quote's prices stay", Errors: []int{403, 404, 409, 412, 422},
	}, func(ctx context.Context, in *struct {
		LinePath
		frame.Match
		Body Price
	},
	) (*orderAnswer, error) {
		return answer(m.price(ctx, in.ID, in.Line, in.Match, in.Body))
	})
	huma.Register(api, huma.Operation{
		OperationID: "reprint-line", Method: http.MethodPost, Path: base + "/reprint", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make pieces again that were shipped and turned out bad: a new line, free of charge", Errors: []int{403, 404, 409, 412, 422},
	}, func(ctx context.Context, in *struct {
		LinePath
		frame.Match
		Key  string `header:"Idempotency-Key"`
		Body Reprint
	},
	) (*orderAnswer, error) {
		return answer(m.reprint(ctx, in.ID, in.Line, in.Match, in.Body))
	})
}

// LinePath names a line of an order in a path.
type LinePath struct {
	OrderPath
	Line string `path:"line" maxLength:"64"`
}

// LineEvent is something that happened to a line.
type LineEvent struct {
	Kind     Kind   `json:"kind" enum:"started,made,scrapped,shipped,delivered,cancelled"`
	Quantity int    `json:"quantity,omitempty" minimum:"0" maximum:"100000" doc:"Of made, scrapped, shipped, delivered"`
	Note     string `json:"note,omitempty" maxLength:"1000" doc:"Machine, batch, tracking number, reason"`
}

// LineState is a line's state after an event, and its order's.
type LineState struct {
	Line  string `json:"line"`
	State State  `json:"state"`
	Progress
	OrderState State `json:"order_state"`
}

func (m *module) lineEvent(ctx context.Context, id, line string, match frame.Match, e LineEvent) (LineState, error) {
	if err := frame.Require(ctx, frame.Staff); err != nil {
		return LineState{}, err
	}
	if !e.Kind.Counts() {
		e.Quantity = 0
	}
	return change(ctx, m, id, match, func(tx *frame.Tx, o *Order) (Step, error) {
		l, err := o.line(line)
		if err != nil {
			return Step{}, err
		}
		if o.stage != Confirmed && e.Kind != Cancel {
			return Step{}, o.not(Confirmed)
		}
		next, refusal := l.Apply(e.Kind, e.Quantity)
		if refusal != "" {
			return Step{}, frame.Conflict("%s: %s", l.Name, refusal)
		}
		l.Progress, l.Status = next, next.State()
		if err := updateLine(tx, l); err != nil {
			return Step{}, err
		}
		return Step{Kind: string(e.Kind), Line: line, Quantity: e.Quantity, Note: e.Note}, nil
	}, func(o *Order) (LineState, error) {
		l, err := o.line(line)
		if err != nil {
			return LineState{}, err
		}
		return LineState{Line: l.ID, State: l.State(), Progress: l.Progress, OrderState: o.State}, nil
	})
}

// decide gives a line a verdict by hand. It can be changed until the order is
// confirmed, which is what makes it count.
func (m *module) decide(ctx context.Context, id, line string, match frame.Match, in NewVerdict) (*Order, error) {
	if err := frame.Require(ctx, frame.Staff); err != nil {
		return nil, err
	}
	return m.change(ctx, id, match, func(tx *frame.Tx, o *Order) (Step, error) {
		l, err := o.line(line)
		if err != nil {
			return Step{}, err
		}
		switch {
		case l.Model != "":
			return Step{}, frame.Conflict("%s: its verdict is Analysis's to give", l.Name)
		case o.stage != Placed:
			return Step{}, o.not(Placed)
		case l.Cancelled:
			return Step{}, frame.Conflict("%s: the line is cancelled", l.Name)
		}
		l.Verdict = &Verdict{Verdict: in.Verdict, Accepted: in.Verdict != "not-printable", By: frame.Who(ctx).Name, Note: in.Note, At: time.Now().UTC()}
		if err := updateLine(tx, l); err != nil {
			return Step{}, err
		}
		return Step{Kind: "verdict", Line: line, Note: joined(in.Verdict, in.Note)}, nil
	})
}

// require replaces a line's requirements. The finish of a quote stays: it has a price.
func (m *module) require(ctx context.Context, id, line string, match frame.Match, in Requirements) (*Order, error) {
	staff := frame.Who(ctx).May(frame.Staff)
	return m.change(ctx, id, match, func(tx *frame.Tx, o *Order) (Step, error) {
		l, err := o.line(line)
		if err != nil {
			return Step{}, err
		}
		switch {
		case o.stage != Placed && !staff:
			return Step{}, o.not(Placed).Advise("Ask the shop: leave a comment.")
		case l.State() != Waiting:
			return Step{}, frame.Conflict("%s is %s", l.Name, l.State())
		}
		if o.Quote != "" {
			in.Finish = l.Requirements.Finish
		}
		l.Requirements = in
		text, err := json.Marshal(in)
		if err != nil {
			return Step{}, fmt.Errorf("make requirements: %w", err)
		}
		if _, err := tx.Exec("UPDATE line SET requirements = ? WHERE id = ?", string(text), l.ID); err != nil {
			return Step{}, fmt.Errorf("save requirements: %w", err)
		}
		return Step{Kind: "requirements", Line: line}, nil
	})
}

func (m *module) price(ctx context.Context, id, line string, match frame.Match, in Price) (*Order, error) {
	if err := frame.Require(ctx, frame.Staff); err != nil {
		return nil, err
	}
	return m.change(ctx, id, match, func(tx *frame.Tx, o *Order) (Step, error) {
		l, err := o.line(line)
		if err != nil {
			return Step{}, err
		}
		switch {
		case o.stage != Placed:
			return Step{}, o.not(Placed)
		case o.Quote != "":
			return Step{}, frame.Conflict("order %d has the prices of quote %s", o.Number, o.Quote)
		}
		if err := l.cost(in.UnitPrice); err != nil {
			return Step{}, err
		}
		if _, err := tx.Exec("UPDATE line SET unit_price = ?, total = ? WHERE id = ?", l.UnitPrice, l.Total, l.ID); err != nil {
			return Step{}, fmt.Errorf("save price: %w", err)
		}
		return Step{Kind: "price", Line: line, Note: l.UnitPrice + " " + o.Currency}, nil
	})
}

// cost gives a line its price, and the exact total.
func (l *Line) cost(unit string) error {
	price, err := decimal.Parse(unit)
	if err != nil || price.IsNeg() {
		return frame.Invalid("unit_price: %q is no amount of money, such as 12.50", unit)
	}
	total, err := price.MulExact(decimal.MustNew(int64(l.Quantity), 0), price.Scale())
	if err != nil {
		return frame.Invalid("unit_price: the amount is too large")
	}
	l.UnitPrice, l.Total = price.String(), total.String()
	return nil
}

func (m *module) reprint(ctx context.Context, id, line string, match frame.Match, in Reprint) (*Order, error) {
	if err := frame.Require(ctx, frame.Staff); err != nil {
		return nil, err
	}
	return m.change(ctx, id, match, func(tx *frame.Tx, o *Order) (Step, error) {
		l, err := o.line(line)
		if err != nil {
			return Step{}, err
		}
		again := 0
		for _, other := range o.Lines {
			if other.ReprintOf == l.ID && !other.Cancelled {
				again += other.Quantity
			}
		}
		if in.Quantity > l.Shipped-again {
			return Step{}, frame.Conflict("%s: %s", l.Name, sayLeft(in.Quantity, l.Shipped-again, "shipped and not yet made again")).
				Advise("Pieces that fail before they are shipped are scrapped, and made again within their line.")
		}
		if len(o.Lines) >= maxLines {
			return Step{}, frame.Conflict("order %d has %d lines already", o.Number, len(o.Lines)).Advise("Make a new order for what is to be made again.")
		}
		fresh := *l
		fresh.ID, fresh.ReprintOf, fresh.Progress, fresh.Status = frame.NewID("lin"), l.ID, Progress{Quantity: in.Quantity}, Waiting
		fresh.UnitPrice, fresh.Total = "0", "0"
		if err := insertLine(tx, o.ID, &fresh); err != nil {
			return Step{}, err
		}
		o.Lines = append(o.Lines, fresh)
		return Step{Kind: "reprint", Line: fresh.ID, Quantity: in.Quantity, Note: in.Reason}, nil
	})
}

func (o *Order) line(id string) (*Line, error) {
	for i := range o.Lines {
		if o.Lines[i].ID == id {
			return &o.Lines[i], nil
		}
	}
	return nil, frame.NotFound("order %d has no line %s", o.Number, id)
}

func insertLine(tx *frame.Tx, order string, l *Line) error {
	l.Status = l.State()
	requirements, err := json.Marshal(l.Requirements)
	if err != nil {
		return fmt.Errorf("make requirements: %w", err)
	}
	_, err = tx.Exec(`INSERT INTO line (id, order_id, model, revision, name, picture, material, material_title, requirements, quantity, unit_price, total, reprint_of)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		l.ID, order, l.Model, l.Revision, l.Name, l.Picture, l.Material, l.MaterialTitle, string(requirements), l.Quantity, l.UnitPrice, l.Total, l.ReprintOf)
	if err != nil {
		return fmt.Errorf("save line: %w", err)
	}
	return updateLine(tx, l)
}

// updateLine writes what changes of a line.
func updateLine(tx *frame.Tx, l *Line) error {
	l.Status = l.State()
	verdict := ""
	if l.Verdict != nil {
		text, err := json.Marshal(l.Verdict)
		if err != nil {
			return fmt.Errorf("make verdict: %w", err)
		}
		verdict = string(text)
	}
	_, err := tx.Exec("UPDATE line SET verdict = ?, started = ?, made = ?, scrapped = ?, shipped = ?, delivered = ?, cancelled = ? WHERE id = ?",
		verdict, l.Started, l.Made, l.Scrapped, l.Shipped, l.Delivered, l.Cancelled, l.ID)
	if err != nil {
		return fmt.Errorf("save line: %w", err)
	}
	return nil
}

// loadLines reads the lines of orders, each order's in the order they were made.
func loadLines(tx reader, orders ...*Order) error {
	if len(orders) == 0 {
		return nil
	}
	ids, byID := make([]string, len(orders)), make(map[string]*Order, len(orders))
	for i, o := range orders {
		ids[i], byID[o.ID], o.Lines = o.ID, o, []Line{}
	}
	condition, which := "order_id = ?", ids[0]
	if len(ids) > 1 {
		text, err := json.Marshal(ids)
		if err != nil {
			return fmt.Errorf("load lines: %w", err)
		}
		condition, which = "order_id IN (SELECT value FROM json_each(?))", string(text)
	}
	rows, err := tx.Query(`SELECT order_id, id, model, revision, name, picture, material, material_title, requirements, quantity, unit_price, total, verdict, reprint_of,
		started, made, scrapped, shipped, delivered, cancelled FROM line
		WHERE `+condition+` ORDER BY order_id, id`, which)
	if err != nil {
		return fmt.Errorf("load lines: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var l Line
		var order, requirements, verdict string
		err := rows.Scan(&order, &l.ID, &l.Model, &l.Revision, &l.Name, &l.Picture, &l.Material, &l.MaterialTitle, &requirements, &l.Quantity, &l.UnitPrice, &l.Total,
			&verdict, &l.ReprintOf, &l.Started, &l.Made, &l.Scrapped, &l.Shipped, &l.Delivered, &l.Cancelled)
		if err == nil {
			err = json.Unmarshal([]byte(requirements), &l.Requirements)
		}
		if err == nil && verdict != "" {
			err = json.Unmarshal([]byte(verdict), &l.Verdict)
		}
		if err != nil {
			return fmt.Errorf("load lines: %w", err)
		}
		l.Status = l.State()
		o := byID[order]
		o.Lines = append(o.Lines, l)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("load lines: %w", err)
	}
	for _, o := range orders {
		if err := o.sum(); err != nil {
			return err
		}
	}
	return nil
}

// joined puts what there is of a remark behind a word.
func joined(word, remark string) string {
	if remark == "" {
		return word
	}
	return word + ": " + remark
}

func joinStates() string {
	names := make([]string, len(OrderStates))
	for i, s := range OrderStates {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
