package analysis

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/govalues/decimal"

	"inshape/frame"
	"inshape/material"
	"inshape/price"
	"inshape/printability"
)

// QuoteState is what became of a quote.
type QuoteState string

// The states of a quote. An open one past its date is expired.
const (
	Open          QuoteState = "open"
	Accepted      QuoteState = "accepted"
	RefusedByThem QuoteState = "refused"
	Expired       QuoteState = "expired"
)

// Quote is an offer for some models, each in a material and a quantity. A
// proposal is one that the shop makes for a customer of its own accord.
type Quote struct {
	ID         string          `json:"id"`
	Party      string          `json:"party,omitempty"`
	State      QuoteState      `json:"state" enum:"open,accepted,refused,expired"`
	Proposal   bool            `json:"proposal" doc:"The shop made it for the customer"`
	Message    string          `json:"message,omitempty" doc:"Of who made it"`
	By         string          `json:"by"`
	At         time.Time       `json:"at"`
	Currency   price.Currency  `json:"currency"`
	Total      decimal.Decimal `json:"total"`
	ValidUntil string          `json:"valid_until" doc:"The last day, UTC"`
	Items      []QuoteItem     `json:"items"`
	AnsweredAt *time.Time      `json:"answered_at,omitempty"`
	AnsweredBy string          `json:"answered_by,omitempty"`
	Answer     string          `json:"answer,omitempty" doc:"What they say to it"`
	Version    int64           `json:"version"`
}

// QuoteItem is one model of a quote.
type QuoteItem struct {
	Model    string      `json:"model"`
	Revision int         `json:"revision"`
	Name     string      `json:"name"`
	Material material.ID `json:"material"`
	ItemTitles
	Finish    material.FinishID    `json:"finish"`
	Colour    material.ColourID    `json:"colour"`
	Quantity  int                  `json:"quantity"`
	UnitPrice decimal.Decimal      `json:"unit_price"`
	Total     decimal.Decimal      `json:"total"`
	Verdict   printability.Outcome `json:"verdict" enum:"printable,with-remarks,not-printable"`
	Picture   string               `json:"picture"`
	Price     Pricing              `json:"price" doc:"The amounts, line by line"`
}

// Pricing is a price, line by line.
type Pricing price.Quote

// ItemTitles are the names of what was chosen, as they were then.
type ItemTitles struct {
	MaterialTitle string `json:"material_title"`
	FinishTitle   string `json:"finish_title"`
	ColourTitle   string `json:"colour_title"`
}

// Order is what is to be priced.
type Order struct {
	Model    string            `json:"model" maxLength:"64"`
	Revision int               `json:"revision,omitempty" minimum:"1" doc:"None: the current one"`
	Material material.ID       `json:"material" maxLength:"64"`
	Finish   material.FinishID `json:"finish,omitempty" maxLength:"64" doc:"None: the usual one"`
	Colour   material.ColourID `json:"colour,omitempty" maxLength:"64" doc:"None: the usual one"`
	Quantity int               `json:"quantity" minimum:"1" maximum:"100000"`
	Rush     price.RushID      `json:"rush,omitempty" maxLength:"64" doc:"None: the usual lead time"`
}

const maxItems = 100 // of a quote

// measures are what of a part is priced in a material.
func measures(f *printability.Facts, m material.Material) price.Measures {
	out := price.Measures{Volume: f.Volume, Area: f.Area, Box: f.Box, Shells: f.Shells}
	if m.Supports != nil {
		if o, ok := f.OverhangAt(m.Supports.Angle); ok {
			out.Support = o.Volume
		}
	}
	return out
}

// priced is an order with its price: an item of a quote. What stands against
// making the part is told as well.
func (s *service) priced(ctx context.Context, tx frame.Querier, o Order, now time.Time) (QuoteItem, Model, error) {
	m, r, err := findBoth(ctx, tx, o.Model, o.Revision)
	if err != nil {
		return QuoteItem{}, m, err
	}
	if r.State != Done {
		return QuoteItem{}, m, frame.Conflict("%s cannot be priced: the analysis of revision %d is %s", m.Name, r.Number, r.State).Advise("Wait until it is done.")
	}
	if !r.Report.Facts.Solid {
		return QuoteItem{}, m, frame.NewProblem(http.StatusConflict, "not-solid", "%s has no price: revision %d is no solid: %s", m.Name, r.Number, r.Report.Facts.Reason).
			Advise("Choose a repaired revision.")
	}
	mat, ok := s.materials.Find(o.Material)
	if !ok {
		return QuoteItem{}, m, frame.Invalid("material: there is no %q", o.Material)
	}
	q, err := s.materials.Quote(material.Order{Material: o.Material, Finish: o.Finish, Colour: o.Colour, Quantity: o.Quantity, Rush: o.Rush},
		measures(&r.Report.Facts, mat), now)
	if fault, ok := errors.AsType[*price.Error](err); ok {
		p := frame.Invalid("%s", fault.Error())
		p.Errors = []frame.Fault{{Location: "body." + fault.Field, Message: fault.Text}}
		return QuoteItem{}, m, p
	}
	if err != nil {
		return QuoteItem{}, m, fmt.Errorf("price %s: %w", m.ID, err)
	}
	item := QuoteItem{
		Model: m.ID, Revision: r.Number, Name: m.Name, Material: mat.ID,
		Verdict: printability.Judge(&r.Report.Facts, mat).Outcome, Price: Pricing(*q),
	}
	item.MaterialTitle = mat.Title
	for _, f := range mat.Finishes {
		if string(f.ID) != q.Finish {
			continue
		}
		item.FinishTitle = f.Title
		for _, c := range f.Colours {
			if string(c.ID) == q.Colour {
				item.ColourTitle = c.Title
			}
		}
	}
	item.complete(s.Base())
	return item, m, nil
}

// complete fills in what follows from the rest.
func (i *QuoteItem) complete(base string) {
	i.Finish, i.Colour, i.Quantity = material.FinishID(i.Price.Finish), material.ColourID(i.Price.Colour), i.Price.Quantity
	i.UnitPrice, i.Total = i.Price.UnitPrice, i.Price.Total
	i.Picture = fmt.Sprintf("%s/models/%s/revisions/%d/picture.png", base, i.Model, i.Revision)
}

// draft is a quote to be made.
type draft struct {
	Items    []Order `json:"items" minItems:"1" maxItems:"100"`
	Message  string  `json:"message,omitempty" maxLength:"2000" doc:"To the customer or to the shop"`
	Proposal bool    `json:"proposal,omitempty" doc:"Made by staff for the customer whose models these are"`
}

func (s *service) makeQuote(ctx context.Context, d draft) (Quote, error) {
	if len(d.Items) == 0 || len(d.Items) > maxItems {
		return Quote{}, frame.Invalid("items: give 1 to %d", maxItems)
	}
	if d.Proposal {
		if err := frame.Require(ctx, frame.Staff); err != nil {
			return Quote{}, err
		}
	}
	return frame.Once(ctx, s.Store, func(tx *frame.Tx) (Quote, error) {
		who, now := frame.Who(ctx), time.Now()
		q := Quote{ID: frame.NewID("quo"), Proposal: d.Proposal, Message: d.Message}
		for i, o := range d.Items {
			item, m, err := s.priced(ctx, tx, o, now)
			if err != nil {
				return Quote{}, at(i, err)
			}
			if i > 0 && m.Party != q.Party {
				return Quote{}, frame.Invalid("items: %s belongs to another party than the first one", m.Name).Advise("Make a quote for each party.")
			}
			q.Party = m.Party
			if item.Verdict == printability.NotPrintable {
				taken, err := accepted(tx, item.Model, item.Revision, item.Material)
				if err != nil {
					return Quote{}, err
				}
				if !taken && !who.May(frame.Staff) {
					return Quote{}, frame.NewProblem(http.StatusConflict, "not-printable", "%s cannot be made in %s as it is", m.Name, item.MaterialTitle).
						Advise("Choose another material, or ask the shop to accept it by hand.")
				}
			}
			q.Items = append(q.Items, item)
			if q.ValidUntil == "" || item.Price.ValidUntil < q.ValidUntil {
				q.ValidUntil = item.Price.ValidUntil
			}
			q.Currency = item.Price.Currency
			if q.Total, err = q.Total.AddExact(item.Total, item.Total.Scale()); err != nil {
				return Quote{}, frame.Invalid("items: the total has more digits than money can have").Because(err).Advise("Order fewer pieces.")
			}
		}
		if _, err := tx.Exec(`INSERT INTO quote (id, party, by_id, by_name, proposal, message, state, currency, total, valid_until, at) VALUES (?, ?, ?, ?, ?, ?, 'open', ?, ?, ?, ?)`,
			q.ID, q.Party, who.Subject, who.Name, q.Proposal, q.Message, q.Currency, q.Total.String(), q.ValidUntil, frame.Stamp(now)); err != nil {
			return Quote{}, fmt.Errorf("keep quote: %w", err)
		}
		for i, item := range q.Items {
			titles, err := json.Marshal(item.ItemTitles)
			if err != nil {
				return Quote{}, fmt.Errorf("keep quote: %w", err)
			}
			explained, err := json.Marshal(item.Price)
			if err != nil {
				return Quote{}, fmt.Errorf("keep quote: %w", err)
			}
			if _, err := tx.Exec("INSERT INTO quote_item (quote, seq, model, n, name, material, verdict, titles, price) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
				q.ID, i, item.Model, item.Revision, item.Name, item.Material, item.Verdict, string(titles), string(explained)); err != nil {
				return Quote{}, fmt.Errorf("keep quote: %w", err)
			}
		}
		q, err := s.findQuote(ctx, tx, q.ID, now)
		if err != nil {
			return Quote{}, err
		}
		if err := tx.Audit("quote.create", q.ID, "%s %s", q.Total, q.Currency); err != nil {
			return Quote{}, err
		}
		return q, tx.Emit("quote.created", q.ID, q.Party, q.event())
	})
}

// at says which item an error is about.
func at(i int, err error) error {
	if p, ok := errors.AsType[*frame.Problem](err); ok && i > 0 {
		p.Detail = fmt.Sprintf("items[%d]: %s", i, p.Detail)
	}
	return err
}

// event is what others are told of a quote.
func (q *Quote) event() any {
	return map[string]any{"state": q.State, "total": q.Total, "currency": q.Currency, "valid_until": q.ValidUntil, "items": len(q.Items), "proposal": q.Proposal}
}

const quoteColumns = "id, party, by_name, proposal, message, state, currency, total, valid_until, at, answered, answered_by, answer, version"

func scanQuote(row frame.Row, now time.Time) (Quote, error) {
	var q Quote
	var total, at, answered string
	if err := row.Scan(&q.ID, &q.Party, &q.By, &q.Proposal, &q.Message, &q.State, &q.Currency, &total, &q.ValidUntil, &at, &answered, &q.AnsweredBy, &q.Answer, &q.Version); err != nil {
		return q, err
	}
	q.At = frame.ParseStamp(at)
	if answered != "" {
		t := frame.ParseStamp(answered)
		q.AnsweredAt = &t
	}
	if q.State == Open && now.UTC().Format(time.DateOnly) > q.ValidUntil {
		q.State = Expired
	}
	var err error
	q.Total, err = decimal.Parse(total)
	return q, err
}

// items reads what a quote is for.
func (s *service) items(tx frame.Querier, q *Quote) error {
	rows, err := tx.Query("SELECT model, n, name, material, verdict, titles, price FROM quote_item WHERE quote = ? ORDER BY seq", q.ID)
	if err != nil {
		return fmt.Errorf("read quote: %w", err)
	}
	defer rows.Close()
	q.Items = []QuoteItem{}
	for rows.Next() {
		var i QuoteItem
		var titles, explained string
		if err := rows.Scan(&i.Model, &i.Revision, &i.Name, &i.Material, &i.Verdict, &titles, &explained); err != nil {
			return fmt.Errorf("read quote: %w", err)
		}
		if err := errors.Join(decode(titles, &i.ItemTitles), decode(explained, &i.Price)); err != nil {
			return fmt.Errorf("read quote: %w", err)
		}
		i.complete(s.Base())
		q.Items = append(q.Items, i)
	}
	return rows.Err()
}

// findQuote gives a quote that the context's identity may see.
func (s *service) findQuote(ctx context.Context, tx frame.Querier, id string, now time.Time) (Quote, error) {
	q, err := scanQuote(tx.QueryRow("SELECT "+quoteColumns+" FROM quote WHERE id = ?", id), now)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !frame.Who(ctx).Sees(q.Party) {
		return Quote{}, frame.NotFound("there is no quote %s", id)
	}
	if err != nil {
		return Quote{}, fmt.Errorf("read quote: %w", err)
	}
	return q, s.items(tx, &q)
}

func (s *service) quote(ctx context.Context, id string) (q Quote, err error) {
	err = s.Store.View(ctx, func(tx *sql.Tx) error {
		q, err = s.findQuote(ctx, tx, id, time.Now())
		return err
	})
	return q, err
}

// QuoteListing says which quotes are looked for.
type QuoteListing struct {
	frame.Page
	State QuoteState `query:"state" enum:"open,accepted,refused,expired"`
	Party string     `query:"party" maxLength:"64" doc:"Whose; for staff"`
	Model string     `query:"model" maxLength:"64" doc:"Only quotes with this model"`
}

func (s *service) quotes(ctx context.Context, l QuoteListing) (frame.List[Quote], error) {
	who, now := frame.Who(ctx), time.Now()
	var found []Quote
	err := s.Store.View(ctx, func(tx *sql.Tx) error {
		party := l.Party
		if !who.May(frame.Staff) {
			if party = who.Party; party == "" {
				return nil
			}
		}
		rows, err := tx.Query("SELECT "+quoteColumns+` FROM quote WHERE (? = '' OR party = ?) AND (? = '' OR id < ?)
			AND (? = '' OR EXISTS (SELECT 1 FROM quote_item i WHERE i.quote = quote.id AND i.model = ?))
			AND (? = '' OR CASE WHEN state = 'open' AND valid_until < ? THEN 'expired' ELSE state END = ?) ORDER BY id DESC LIMIT ?`,
			party, party, l.After, l.After, l.Model, l.Model, l.State, now.UTC().Format(time.DateOnly), l.State, l.Limit+1)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			q, err := scanQuote(rows, now)
			if err != nil {
				return err
			}
			found = append(found, q)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for i := range found {
			if err := s.items(tx, &found[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return frame.List[Quote]{}, fmt.Errorf("list quotes: %w", err)
	}
	return frame.ListOf(found, l.Limit, func(q Quote) string { return q.ID }), nil
}

// answerQuote accepts or refuses a quote. Repeating the same answer changes nothing.
func (s *service) answerQuote(ctx context.Context, id string, match frame.Match, to QuoteState, note string) (Quote, error) {
	var q Quote
	err := s.Store.Update(ctx, func(tx *frame.Tx) (err error) {
		now := time.Now()
		if q, err = s.findQuote(ctx, tx, id, now); err != nil {
			return err
		}
		switch {
		case q.State == to:
			return nil
		case q.State == Expired:
			return frame.NewProblem(http.StatusConflict, "expired", "the quote was valid until %s", q.ValidUntil).Advise("Ask for a new one.")
		case q.State != Open:
			return frame.Conflict("the quote is %s already", q.State)
		}
		if err := match.Check(q.Version); err != nil {
			return err
		}
		who := frame.Who(ctx)
		if _, err := tx.Exec("UPDATE quote SET state = ?, answered = ?, answered_by = ?, answer = ?, version = version + 1 WHERE id = ?",
			to, frame.Stamp(now), who.Name, note, id); err != nil {
			return fmt.Errorf("answer quote: %w", err)
		}
		if to == Accepted {
			for _, i := range q.Items {
				m, err := findModel(ctx, tx, i.Model)
				if err != nil {
					return frame.Conflict("%s was deleted", i.Name).Because(err).Advise("Upload it again and ask for a new quote.")
				}
				if err := s.accept(tx, m, i.Revision, i.Material, q.ID, ""); err != nil {
					return err
				}
			}
		}
		if q, err = s.findQuote(ctx, tx, id, now); err != nil {
			return err
		}
		if err := tx.Audit("quote."+string(to), id, "%s", note); err != nil {
			return err
		}
		return tx.Emit("quote."+string(to), id, q.Party, q.event())
	})
	return q, err
}

type quoteAnswer struct {
	ETag string `header:"ETag"`
	Body Quote
}

func (s *service) quoteAPI() {
	tags := []string{"Quotes"}
	answer := func(q Quote, err error) (*quoteAnswer, error) {
		if err != nil {
			return nil, err
		}
		return &quoteAnswer{frame.ETag(q.Version), q}, nil
	}
	huma.Register(s.API, huma.Operation{
		OperationID: "list-materials", Method: http.MethodGet, Path: s.Base() + "/materials", Tags: tags, Summary: "What the shop prints in",
	}, func(context.Context, *struct{}) (*struct{ Body frame.List[material.Material] }, error) {
		return &struct{ Body frame.List[material.Material] }{frame.ListOf(s.materials.Materials, len(s.materials.Materials), nil)}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "calculate-price", Method: http.MethodPost, Path: s.Base() + "/prices", Tags: tags,
		Summary: "What it would cost; keeps nothing", Errors: []int{404, 409, 422},
	}, func(ctx context.Context, in *struct{ Body Order }) (*struct{ Body QuoteItem }, error) {
		var item QuoteItem
		err := s.Store.View(ctx, func(tx *sql.Tx) (err error) {
			item, _, err = s.priced(ctx, tx, in.Body, time.Now())
			return err
		})
		if err != nil {
			return nil, err
		}
		return &struct{ Body QuoteItem }{item}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "create-quote", Method: http.MethodPost, Path: s.Base() + "/quotes", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make a quote, or a proposal", Errors: []int{403, 404, 409, 422},
	}, func(ctx context.Context, in *struct {
		Key  string `header:"Idempotency-Key"`
		Body draft
	},
	) (*quoteAnswer, error) {
		return answer(s.makeQuote(ctx, in.Body))
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-quotes", Method: http.MethodGet, Path: s.Base() + "/quotes", Tags: tags, Summary: "Quotes, newest first",
	}, func(ctx context.Context, in *struct{ QuoteListing }) (*struct{ Body frame.List[Quote] }, error) {
		list, err := s.quotes(ctx, in.QuoteListing)
		if err != nil {
			return nil, err
		}
		return &struct{ Body frame.List[Quote] }{list}, nil
	})
	type QuoteRef struct {
		ID string `path:"id" maxLength:"64" doc:"Of a quote"`
	}
	huma.Register(s.API, huma.Operation{
		OperationID: "get-quote", Method: http.MethodGet, Path: s.Base() + "/quotes/{id}", Tags: tags, Summary: "One quote, line by line", Errors: []int{404},
	}, func(ctx context.Context, in *struct{ QuoteRef }) (*quoteAnswer, error) {
		return answer(s.quote(ctx, in.ID))
	})
	for _, a := range []struct {
		id, path, summary string
		to                QuoteState
	}{
		{"accept-quote", "/accept", "Take it, and with it the verdicts on its models", Accepted},
		{"refuse-quote", "/refuse", "Leave it", RefusedByThem},
	} {
		huma.Register(s.API, huma.Operation{
			OperationID: a.id, Method: http.MethodPost, Path: s.Base() + "/quotes/{id}" + a.path, Tags: tags, Summary: a.summary, Errors: []int{404, 409, 412},
		}, func(ctx context.Context, in *struct {
			QuoteRef
			frame.Match
			Body *struct {
				Note string `json:"note,omitempty" maxLength:"2000"`
			}
		},
		) (*quoteAnswer, error) {
			note := ""
			if in.Body != nil {
				note = in.Body.Note
			}
			return answer(s.answerQuote(ctx, in.ID, in.Match, a.to, note))
		})
	}
}
