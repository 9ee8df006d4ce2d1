package price

import (
	"fmt"
	"time"

	"github.com/govalues/decimal"
)

// Limits of what is priced. They keep every product within the 19 digits of an
// exact decimal, whatever the rules.
const (
	MaxQuantity = 100_000
	maxVolume   = 1e9 // mm³, one cubic metre
	maxLength   = 1e4 // mm
	maxArea     = 1e9 // mm²
	maxShells   = 100_000
)

// Code names what a line of a quote is for.
type Code string

// The lines of a piece, and then those of the order.
const (
	Material Code = "material"
	Space    Code = "space"
	Support  Code = "support"
	Part     Code = "part"
	Shells   Code = "shells"
	Finished Code = "finish"
	Discount Code = "break" // negative

	Pieces  Code = "pieces"
	Setup   Code = "setup"
	Minimum Code = "minimum"
	Rushed  Code = "rush"
)

// Line is one reason to pay, or to pay less: Quantity times Rate, rounded. The
// amount of a discount is what rounding what is left gives, so it may differ by
// the least coin from its percentage.
type Line struct {
	Code     Code            `json:"code"`
	Text     string          `json:"text"` // the whole line for a person: material 12.314 cm³ × 0.28 EUR = 3.45 EUR
	Quantity decimal.Decimal `json:"quantity"`
	Unit     string          `json:"unit,omitempty"` // of Quantity: cm³, cm², % of Rate, or empty for a count
	Rate     decimal.Decimal `json:"rate"`           // per Unit
	Amount   decimal.Decimal `json:"amount"`         // rounded
}

// Tier is what a piece costs from a quantity on.
type Tier struct {
	From      int             `json:"from"`
	UnitPrice decimal.Decimal `json:"unit_price"`
}

// Quote is an offer for one line of an order. PerPiece adds up to UnitPrice, and
// Lines to Total, exactly. Decimals are strings in JSON, with all the digits
// that the currency has.
type Quote struct {
	Material   string          `json:"material,omitempty"` // what is quoted, as its owner names it
	Finish     string          `json:"finish,omitempty"`
	Colour     string          `json:"colour,omitempty"`
	Revision   string          `json:"revision,omitempty"` // of the rules, so that the quote can be made again
	Currency   Currency        `json:"currency"`
	Quantity   int             `json:"quantity"`
	Rush       RushID          `json:"rush,omitempty"`
	Days       int             `json:"days"` // working days from order to leaving
	PerPiece   []Line          `json:"per_piece"`
	UnitPrice  decimal.Decimal `json:"unit_price"`
	Lines      []Line          `json:"lines"`
	Total      decimal.Decimal `json:"total"`
	Tiers      []Tier          `json:"tiers"`
	Advice     string          `json:"advice,omitempty"` // a quantity that costs less in total, if there is one
	Notes      []string        `json:"notes"`            // rounding, tax
	IssuedAt   time.Time       `json:"issued_at"`
	ValidUntil string          `json:"valid_until"` // the last day, as 2026-12-25, in UTC
}

// Valid tells whether the quote still holds at now.
func (q *Quote) Valid(now time.Time) bool {
	return now.UTC().Format(time.DateOnly) <= q.ValidUntil
}

// Error is an order that cannot be priced as it stands.
type Error struct {
	Field string // of the request: quantity, rush, volume, …
	Text  string // what is wrong and what to do
}

// Error gives field and text in one line.
func (e *Error) Error() string { return e.Field + ": " + e.Text }

// Calculate prices quantity pieces with measures m by tariff t at the time now.
// What is wrong with the order or the measures is an *Error.
func Calculate(t Tariff, m Measures, o Order, now time.Time) (*Quote, error) {
	digits, ok := t.Currency.Digits()
	if !ok {
		return nil, &Error{"currency", fmt.Sprintf("%q is no code of ISO 4217; write one like EUR or USD", t.Currency)}
	}
	if o.Quantity < 1 || o.Quantity > MaxQuantity {
		return nil, &Error{"quantity", fmt.Sprintf("%d pieces cannot be ordered at once; order 1 to %d", o.Quantity, MaxQuantity)}
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	rush, err := t.rush(o.Rush)
	if err != nil {
		return nil, err
	}

	c := &calculation{currency: t.Currency, digits: digits}
	q := &Quote{
		Currency: t.Currency, Quantity: o.Quantity, Rush: o.Rush, Days: t.Days,
		PerPiece: c.piece(t, m), IssuedAt: now,
		ValidUntil: now.UTC().AddDate(0, 0, t.ValidDays).Format(time.DateOnly),
		Notes: []string{
			fmt.Sprintf("Each amount is rounded half up to %s; the lines add up exactly.", c.money(decimal.MustNew(1, digits))),
			"Tax is not included.",
		},
	}
	if rush != nil {
		q.Days = rush.Days
	}
	q.Days += t.Finish.Days

	list := c.sum(q.PerPiece)
	if off := t.Rules.off(o.Quantity); off != nil {
		q.PerPiece = append(q.PerPiece, c.discount(list, *off))
	}
	q.UnitPrice = c.sum(q.PerPiece)
	q.Lines = c.order(t, q.UnitPrice, o.Quantity, rush)
	q.Total = c.sum(q.Lines)

	q.Tiers = []Tier{{From: 1, UnitPrice: list}}
	for _, b := range t.Rules.Breaks {
		unit := c.add(list, c.discount(list, b).Amount)
		if b.From == 1 {
			q.Tiers = q.Tiers[:0]
		}
		q.Tiers = append(q.Tiers, Tier{From: b.From, UnitPrice: unit})
		if b.From <= o.Quantity || b.From > MaxQuantity || q.Advice != "" {
			continue
		}
		if more := c.sum(c.order(t, unit, b.From, rush)); more.Less(q.Total) {
			q.Advice = fmt.Sprintf("%d pieces cost %s, which is %s less than %d.",
				b.From, c.money(more), c.money(c.add(q.Total, more.Neg())), o.Quantity)
		}
	}
	if c.err != nil {
		return nil, &Error{"total", "the amount has more digits than money can have; order fewer pieces"}
	}
	return q, nil
}

func (m Measures) check() error {
	within := func(field string, x, limit float64, unit string) error {
		if !(x >= 0 && x <= limit) { // NaN, too
			return &Error{field, fmt.Sprintf("%g %s cannot be priced; it must be from 0 to %g", x, unit, limit)}
		}
		return nil
	}
	for _, err := range []error{
		within("volume", m.Volume, maxVolume, "mm³"),
		within("area", m.Area, maxArea, "mm²"),
		within("support", m.Support, maxVolume, "mm³"),
		within("shells", float64(m.Shells), maxShells, "shells"),
		within("box", m.Box[0], maxLength, "mm"),
		within("box", m.Box[1], maxLength, "mm"),
		within("box", m.Box[2], maxLength, "mm"),
		within("box", m.Box[0]*m.Box[1]*m.Box[2], maxVolume, "mm³"),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (t Tariff) rush(id RushID) (*Rush, error) {
	if id == "" {
		return nil, nil
	}
	known := ""
	for _, r := range t.Rules.Rush {
		if r.ID == id {
			return &r, nil
		}
		known += ", " + string(r.ID)
	}
	if known == "" {
		return nil, &Error{"rush", "there is no faster way for this material; leave it out"}
	}
	return nil, &Error{"rush", fmt.Sprintf("%q is not known; choose one of %s, or leave it out", id, known[2:])}
}

// off is the break that quantity pieces reach, nil for none.
func (r Rules) off(quantity int) *Break {
	var reached *Break
	for _, b := range r.Breaks {
		if b.From <= quantity {
			reached = &b
		}
	}
	return reached
}
