package material

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"inshape/price"
)

// Order is what a customer asks to be priced.
type Order struct {
	Material ID           `json:"material"`
	Finish   FinishID     `json:"finish,omitempty"` // empty: the usual one
	Colour   ColourID     `json:"colour,omitempty"` // empty: the finish's usual one
	Quantity int          `json:"quantity"`
	Rush     price.RushID `json:"rush,omitempty"` // empty: the usual lead time
}

// Quote prices an order of a part with measures m at the time now. What is wrong
// with the order is a *price.Error.
func (s *Set) Quote(o Order, m price.Measures, now time.Time) (*price.Quote, error) {
	mat, ok := s.Find(o.Material)
	if !ok {
		return nil, unknown("material", o.Material, s.Materials, func(m Material) ID { return m.ID })
	}
	finish, colour, err := mat.finish(o.Finish, o.Colour)
	if err != nil {
		return nil, err
	}
	q, err := price.Calculate(price.Tariff{
		Currency: s.Currency, Rules: mat.Prices, Finish: finish.Price, Days: mat.LeadDays, ValidDays: s.ValidDays,
	}, m, price.Order{Quantity: o.Quantity, Rush: o.Rush}, now)
	if err != nil {
		return nil, err
	}
	q.Material, q.Finish, q.Colour, q.Revision = string(mat.ID), string(finish.ID), string(colour.ID), s.Revision
	return q, nil
}

func (m Material) finish(id FinishID, colour ColourID) (Finish, Colour, error) {
	f := slices.IndexFunc(m.Finishes, func(f Finish) bool { return f.ID == id || id == "" })
	if f < 0 {
		return Finish{}, Colour{}, unknown("finish", id, m.Finishes, func(f Finish) FinishID { return f.ID })
	}
	colours := m.Finishes[f].Colours
	c := slices.IndexFunc(colours, func(c Colour) bool { return c.ID == colour || colour == "" })
	if c < 0 {
		return Finish{}, Colour{}, unknown("colour", colour, colours, func(c Colour) ColourID { return c.ID })
	}
	return m.Finishes[f], colours[c], nil
}

func unknown[T any, K ~string](field string, id K, in []T, key func(T) K) error {
	known := make([]string, len(in))
	for i, x := range in {
		known[i] = string(key(x))
	}
	return &price.Error{Field: field, Text: fmt.Sprintf("%q is not known; choose one of %s", id, strings.Join(known, ", "))}
}
