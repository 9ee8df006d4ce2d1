package price

import (
	"fmt"
	"math"
	"strconv"

	"github.com/govalues/decimal"
)

var (
	one     = decimal.MustNew(1, 0)
	hundred = decimal.MustNew(100, 0)
)

// calculation does the arithmetic of one quote and keeps its first error, which
// can only be an overflow.
type calculation struct {
	currency Currency
	digits   int
	err      error
}

// piece gives the lines of one piece before breaks; all but the first only where
// they cost something.
func (c *calculation) piece(t Tariff, m Measures) []Line {
	space := 1.0
	for _, x := range m.Box {
		space *= x + 2*t.Rules.Margin
	}
	return append(
		[]Line{c.line(Material, "material", cubic(m.Volume), "cm³", t.Rules.Material)},
		paid(
			c.line(Space, "machine space", cubic(space), "cm³", t.Rules.Space),
			c.line(Support, "support", cubic(m.Support), "cm³", t.Rules.Support),
			c.line(Part, "handling", one, "", t.Rules.Part),
			c.line(Shells, "loose shells", count(max(m.Shells-1, 0)), "", t.Rules.Shell),
			c.line(Finished, "finish", fixed(m.Area/100, 2), "cm²", t.Finish.Area),
			c.line(Finished, "finish, per piece", one, "", t.Finish.Part),
		)...,
	)
}

// order gives the lines of quantity pieces at unit each.
func (c *calculation) order(t Tariff, unit decimal.Decimal, quantity int, rush *Rush) []Line {
	lines := append(
		[]Line{c.line(Pieces, "pieces", count(quantity), "", unit)},
		paid(
			c.line(Setup, "set-up", one, "", t.Rules.Setup),
			c.line(Setup, "set-up of the finish", one, "", t.Finish.Setup),
		)...,
	)
	least := t.Rules.Minimum.Ceil(c.digits).Pad(c.digits)
	if sum := c.sum(lines); sum.Less(least) {
		rest := c.add(least, sum.Neg())
		lines = append(lines, Line{
			Code: Minimum, Quantity: one, Rate: rest, Amount: rest,
			Text: fmt.Sprintf("up to the minimum of %s = %s", c.money(least), c.money(rest)),
		})
	}
	if rush != nil {
		sum := c.sum(lines)
		percent := c.exact(c.add(rush.Factor, one.Neg()).MulExact(hundred, rush.Factor.Scale())).Trim(0)
		amount := c.times(c.hundredth(percent), sum)
		lines = append(lines, Line{
			Code: Rushed, Quantity: percent, Unit: "%", Rate: sum, Amount: amount,
			Text: fmt.Sprintf("%s, %s %% of %s = %s", rush.Title, percent, c.money(sum), c.money(amount)),
		})
	}
	return lines
}

// discount gives the line that a break takes off a piece's list price.
func (c *calculation) discount(list decimal.Decimal, b Break) Line {
	// What is left is rounded, not what is taken off: so a higher break never
	// leaves a higher price.
	left := c.times(c.hundredth(c.add(hundred, b.Off.Neg())), list)
	amount := c.add(left, list.Neg())
	return Line{
		Code: Discount, Quantity: b.Off, Unit: "%", Rate: list.Neg(), Amount: amount,
		Text: fmt.Sprintf("from %d pieces %s %% off %s = %s", b.From, b.Off, c.money(list), c.money(amount)),
	}
}

// line is quantity times rate, rounded. A unit makes it a measure, none a count.
func (c *calculation) line(code Code, name string, quantity decimal.Decimal, unit string, rate decimal.Decimal) Line {
	l := Line{Code: code, Quantity: quantity, Unit: unit, Rate: rate, Amount: c.times(quantity, rate)}
	switch {
	case unit != "":
		l.Text = fmt.Sprintf("%s %s %s × %s = %s", name, quantity, unit, c.money(rate), c.money(l.Amount))
	case quantity.IsOne() && rate.Equal(l.Amount):
		l.Text = fmt.Sprintf("%s %s", name, c.money(l.Amount))
	default:
		l.Text = fmt.Sprintf("%s %s × %s = %s", name, quantity, c.money(rate), c.money(l.Amount))
	}
	return l
}

// times is the product of two numbers that are not negative, rounded half up to
// the currency's digits.
func (c *calculation) times(a, b decimal.Decimal) decimal.Decimal {
	product := c.exact(a.MulExact(b, min(a.Scale()+b.Scale(), decimal.MaxScale)))
	down := product.Trunc(c.digits).Pad(c.digits)
	if c.add(product, down.Neg()).Less(decimal.MustNew(5, c.digits+1)) {
		return down
	}
	return c.add(down, decimal.MustNew(1, c.digits))
}

// hundredth is percent/100, exactly.
func (c *calculation) hundredth(percent decimal.Decimal) decimal.Decimal {
	return c.exact(percent.MulExact(decimal.MustNew(1, 2), percent.Scale()+2))
}

func (c *calculation) sum(lines []Line) decimal.Decimal {
	total := decimal.MustNew(0, c.digits)
	for _, l := range lines {
		total = c.add(total, l.Amount)
	}
	return total
}

func (c *calculation) add(a, b decimal.Decimal) decimal.Decimal {
	return c.exact(a.AddExact(b, max(a.Scale(), b.Scale())))
}

func (c *calculation) exact(d decimal.Decimal, err error) decimal.Decimal {
	if err != nil && c.err == nil {
		c.err = err
	}
	return d
}

func (c *calculation) money(d decimal.Decimal) string {
	return d.Pad(c.digits).String() + " " + string(c.currency)
}

// paid keeps the lines that cost something.
func paid(lines ...Line) (kept []Line) {
	for _, l := range lines {
		if !l.Amount.IsZero() {
			kept = append(kept, l)
		}
	}
	return kept
}

func count(n int) decimal.Decimal { return decimal.MustNew(int64(n), 0) }

// cubic is mm³ as cm³, to the cubic millimetre.
func cubic(mm3 float64) decimal.Decimal { return fixed(mm3/1000, 3) }

// fixed is x rounded to digits. x is within the limits of Measures.check, so it
// always fits.
func fixed(x float64, digits int) decimal.Decimal {
	return decimal.MustParse(strconv.FormatFloat(math.Abs(x), 'f', digits, 64))
}
