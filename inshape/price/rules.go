package price

import "github.com/govalues/decimal"

// Rules are the prices of one material, in whole units of the currency, at least
// 0, without tax. The zero value costs nothing. In JSON there is only what a
// customer chooses from.
type Rules struct {
	Material decimal.Decimal `json:"-"` // per cm³ of the part itself
	Space    decimal.Decimal `json:"-"` // per cm³ of the room that it takes in the machine
	Support  decimal.Decimal `json:"-"` // per cm³ of support
	Part     decimal.Decimal `json:"-"` // per piece
	Shell    decimal.Decimal `json:"-"` // per loose shell of a piece after its first
	Setup    decimal.Decimal `json:"-"` // once per line of an order
	Minimum  decimal.Decimal `json:"-"` // the least that a line of an order costs, before rush

	Margin float64 `json:"-"`                // mm of room kept free on every side of a piece; part of the space
	Breaks []Break `json:"breaks,omitempty"` // by rising From; Off never falls
	Rush   []Rush  `json:"rush,omitempty"`
}

// Break lowers the price of every piece from a quantity on.
type Break struct {
	From int             `json:"from"` // pieces
	Off  decimal.Decimal `json:"off"`  // percent
}

// RushID names a way to be faster.
type RushID string

// Rush is a shorter lead time at a higher price.
type Rush struct {
	ID     RushID          `json:"id"`
	Title  string          `json:"title"`
	Days   int             `json:"days"`   // working days until it leaves
	Factor decimal.Decimal `json:"factor"` // on all of the line, at least 1
}

// Finish is what a finish adds to the price of a material. The zero value adds nothing.
type Finish struct {
	Area  decimal.Decimal // per cm² of surface
	Part  decimal.Decimal // per piece
	Setup decimal.Decimal // once per line of an order
	Days  int             // working days that it adds
}

// Tariff is all that the price of one order line depends on, beside what is ordered.
type Tariff struct {
	Currency  Currency
	Rules     Rules
	Finish    Finish
	Days      int // working days until it leaves, without finish and rush
	ValidDays int // days that a quote holds
}

// Measures are what is priced of one piece.
type Measures struct {
	Volume  float64    `json:"volume"`  // mm³ of the part itself
	Area    float64    `json:"area"`    // mm² of its surface
	Box     [3]float64 `json:"box"`     // mm, of the box that it takes in the machine
	Support float64    `json:"support"` // mm³ of support
	Shells  int        `json:"shells"`
}

// Order is what is asked for.
type Order struct {
	Quantity int
	Rush     RushID // empty: the usual lead time
}
