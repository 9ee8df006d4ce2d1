package price

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/govalues/decimal"
	"pgregory.net/rapid"
)

var (
	d   = decimal.MustParse
	now = time.Date(2026, 11, 25, 23, 30, 0, 0, time.UTC)
)

// tariff has everything that a tariff can have.
func tariff() Tariff {
	return Tariff{
		Currency: "EUR", Days: 6, ValidDays: 30,
		Rules: Rules{
			Material: d("0.28"), Space: d("0.06"), Support: d("0.1"), Part: d("1.50"), Shell: d("0.4"), Setup: d("3"),
			Minimum: d("15"), Margin: 1,
			Breaks: []Break{{10, d("5")}, {50, d("12.5")}},
			Rush:   []Rush{{"express", "Express", 3, d("1.5")}},
		},
		Finish: Finish{Area: d("0.035"), Part: d("0.6"), Setup: d("4"), Days: 1},
	}
}

var part = Measures{Volume: 12314, Area: 8200, Box: [3]float64{40, 30, 20}, Support: 2000, Shells: 3}

func texts(lines []Line) (t []string) {
	for _, l := range lines {
		t = append(t, l.Text)
	}
	return t
}

func TestQuote(t *testing.T) {
	q, err := Calculate(tariff(), part, Order{Quantity: 12, Rush: "express"}, now)
	if err != nil {
		t.Fatal(err)
	}
	piece := []string{
		"material 12.314 cm³ × 0.28 EUR = 3.45 EUR",
		"machine space 29.568 cm³ × 0.06 EUR = 1.77 EUR",
		"support 2.000 cm³ × 0.10 EUR = 0.20 EUR",
		"handling 1.50 EUR",
		"loose shells 2 × 0.40 EUR = 0.80 EUR",
		"finish 82.00 cm² × 0.035 EUR = 2.87 EUR",
		"finish, per piece 0.60 EUR",
		"from 10 pieces 5 % off 11.19 EUR = -0.56 EUR",
	}
	if got := texts(q.PerPiece); !slices.Equal(got, piece) {
		t.Errorf("a piece:\n%s", strings.Join(got, "\n"))
	}
	order := []string{
		"pieces 12 × 10.63 EUR = 127.56 EUR",
		"set-up 3.00 EUR",
		"set-up of the finish 4.00 EUR",
		"Express, 50 % of 134.56 EUR = 67.28 EUR",
	}
	if got := texts(q.Lines); !slices.Equal(got, order) {
		t.Errorf("the order:\n%s", strings.Join(got, "\n"))
	}
	if q.UnitPrice.String() != "10.63" || q.Total.String() != "201.84" || q.Days != 4 || q.ValidUntil != "2026-12-25" {
		t.Errorf("unit %s, total %s, %d days, until %s", q.UnitPrice, q.Total, q.Days, q.ValidUntil)
	}
	want := []Tier{{1, d("11.19")}, {10, d("10.63")}, {50, d("9.79")}}
	if !slices.Equal(q.Tiers, want) {
		t.Errorf("tiers %v", q.Tiers)
	}
	if len(q.Notes) != 2 || !strings.Contains(q.Notes[0], "half up to 0.01 EUR") || !strings.Contains(q.Notes[1], "Tax is not included") {
		t.Errorf("notes %q", q.Notes)
	}
}

// TestBreak: a break holds from its first piece on.
func TestBreak(t *testing.T) {
	for quantity, want := range map[int]string{1: "11.19", 9: "11.19", 10: "10.63", 49: "10.63", 50: "9.79", MaxQuantity: "9.79"} {
		q, err := Calculate(tariff(), part, Order{Quantity: quantity}, now)
		if err != nil {
			t.Fatal(err)
		}
		if q.UnitPrice.String() != want {
			t.Errorf("%d pieces at %s, want %s", quantity, q.UnitPrice, want)
		}
	}
}

func TestMinimum(t *testing.T) {
	q, err := Calculate(tariff(), Measures{Volume: 1}, Order{Quantity: 1}, now)
	if err != nil {
		t.Fatal(err)
	}
	if last := q.Lines[len(q.Lines)-1]; last.Code != Minimum || last.Text != "up to the minimum of 15.00 EUR = 5.90 EUR" || q.Total.String() != "15.00" {
		t.Errorf("%q, total %s", last.Text, q.Total)
	}
}

func TestAdvice(t *testing.T) {
	for quantity, want := range map[int]string{
		9:  "",
		49: "50 pieces cost 496.50 EUR, which is 31.37 EUR less than 49.",
		50: "",
	} {
		q, err := Calculate(tariff(), part, Order{Quantity: quantity}, now)
		if err != nil {
			t.Fatal(err)
		}
		if q.Advice != want {
			t.Errorf("%d pieces for %s: %q", quantity, q.Total, q.Advice)
		}
	}
}

func TestCurrencies(t *testing.T) {
	for currency, want := range map[Currency][2]string{
		"JPY": {"material 12.314 cm³ × 30.5 JPY = 376 JPY", "376"},
		"EUR": {"material 12.314 cm³ × 30.50 EUR = 375.58 EUR", "375.58"},
		"KWD": {"material 12.314 cm³ × 30.500 KWD = 375.577 KWD", "375.577"},
	} {
		q, err := Calculate(Tariff{Currency: currency, Rules: Rules{Material: d("30.5")}}, part, Order{Quantity: 1}, now)
		if err != nil {
			t.Fatal(err)
		}
		if q.PerPiece[0].Text != want[0] || q.Total.String() != want[1] {
			t.Errorf("%q, %s", q.PerPiece[0].Text, q.Total)
		}
	}
	for _, c := range []Currency{"", "eur", "XXX", "EURO", "E R", "R A", " EU"} {
		if digits, ok := c.Digits(); ok {
			t.Errorf("%q has %d digits", c, digits)
		}
	}
}

func TestHalfUp(t *testing.T) {
	for rate, want := range map[string]string{"0.0449": "0.04", "0.0450": "0.05", "0.0451": "0.05", "0.005": "0.01", "0.0049": "0.00"} {
		q, err := Calculate(Tariff{Currency: "EUR", Rules: Rules{Material: d(rate)}}, Measures{Volume: 1000}, Order{Quantity: 1}, now)
		if err != nil {
			t.Fatal(err)
		}
		if q.Total.String() != want {
			t.Errorf("%s is rounded to %s", rate, q.Total)
		}
	}
}

func TestValid(t *testing.T) {
	q := Quote{ValidUntil: "2026-12-25"}
	if !q.Valid(time.Date(2026, 12, 25, 23, 59, 59, 0, time.UTC)) || q.Valid(time.Date(2026, 12, 26, 0, 0, 0, 0, time.UTC)) {
		t.Error("a quote holds to the end of its last day")
	}
	// Half an hour after midnight in Kyiv is still the day before in UTC.
	if kyiv := time.FixedZone("EET", 2*3600); !q.Valid(time.Date(2026, 12, 26, 0, 30, 0, 0, kyiv)) {
		t.Error("days are in UTC")
	}
}

func TestRefuses(t *testing.T) {
	huge := tariff()
	huge.Rules.Material, huge.Rules.Space = d("9999999.9999"), d("9999999.9999")
	none := tariff()
	none.Rules.Rush = nil
	for name, c := range map[string]struct {
		t     Tariff
		m     Measures
		o     Order
		field string
		text  string
	}{
		"no piece":    {tariff(), part, Order{}, "quantity", "order 1 to 100000"},
		"minus":       {tariff(), part, Order{Quantity: -1}, "quantity", "order 1 to 100000"},
		"many":        {tariff(), part, Order{Quantity: MaxQuantity + 1}, "quantity", "order 1 to 100000"},
		"rush":        {tariff(), part, Order{Quantity: 1, Rush: "now"}, "rush", `"now" is not known; choose one of express`},
		"no rush":     {none, part, Order{Quantity: 1, Rush: "express"}, "rush", "leave it out"},
		"currency":    {Tariff{Currency: "EUX"}, part, Order{Quantity: 1}, "currency", "ISO 4217"},
		"NaN":         {tariff(), Measures{Volume: math.NaN()}, Order{Quantity: 1}, "volume", "from 0 to"},
		"infinite":    {tariff(), Measures{Area: math.Inf(1)}, Order{Quantity: 1}, "area", "from 0 to"},
		"inside out":  {tariff(), Measures{Volume: -3}, Order{Quantity: 1}, "volume", "from 0 to"},
		"long":        {tariff(), Measures{Box: [3]float64{1, 2e4, 1}}, Order{Quantity: 1}, "box", "from 0 to"},
		"vast":        {tariff(), Measures{Box: [3]float64{9e3, 9e3, 9e3}}, Order{Quantity: 1}, "box", "from 0 to"},
		"shells":      {tariff(), Measures{Shells: -1}, Order{Quantity: 1}, "shells", "from 0 to"},
		"much money":  {huge, Measures{Volume: 1e9, Box: [3]float64{1e3, 1e3, 1e3}}, Order{Quantity: MaxQuantity}, "total", "order fewer"},
		"more digits": {Tariff{Currency: "EUR", Rules: Rules{Part: d("999999999999999.9")}}, part, Order{Quantity: MaxQuantity}, "total", "order fewer"},
	} {
		_, err := Calculate(c.t, c.m, c.o, now)
		if e, ok := errors.AsType[*Error](err); !ok || e.Field != c.field || !strings.Contains(e.Text, c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func drawDecimal(t *rapid.T, name string, whole int64, scale int) decimal.Decimal {
	return decimal.MustNew(rapid.Int64Range(0, whole*int64(math.Pow10(scale))).Draw(t, name), scale)
}

func drawTariff(t *rapid.T) Tariff {
	r := Rules{
		Material: drawDecimal(t, "material", 100, 4), Space: drawDecimal(t, "space", 10, 4), Support: drawDecimal(t, "support", 10, 4),
		Part: drawDecimal(t, "part", 1000, 4), Shell: drawDecimal(t, "shell", 10, 4), Setup: drawDecimal(t, "setup", 1000, 4),
		Minimum: drawDecimal(t, "minimum", 10000, 4), Margin: rapid.Float64Range(0, 10).Draw(t, "margin"),
	}
	from, off := 1, int64(0)
	for range rapid.IntRange(0, 4).Draw(t, "breaks") {
		from += rapid.IntRange(1, 200).Draw(t, "from")
		off += rapid.Int64Range(0, 2000).Draw(t, "off")
		r.Breaks = append(r.Breaks, Break{from, decimal.MustNew(off, 2)})
	}
	r.Rush = []Rush{{"express", "Express", 1, decimal.MustNew(rapid.Int64Range(100, 1000).Draw(t, "factor"), 2)}}
	return Tariff{
		Currency: rapid.SampledFrom([]Currency{"EUR", "JPY", "KWD", "USD"}).Draw(t, "currency"),
		Rules:    r, Finish: Finish{Area: drawDecimal(t, "area", 10, 4), Setup: drawDecimal(t, "finish", 100, 4)}, ValidDays: 30,
	}
}

func drawMeasures(t *rapid.T) Measures {
	return Measures{
		Volume: rapid.Float64Range(0, 1e7).Draw(t, "mm³"), Area: rapid.Float64Range(0, 1e6).Draw(t, "mm²"),
		Box: [3]float64{
			rapid.Float64Range(0, 500).Draw(t, "x"), rapid.Float64Range(0, 500).Draw(t, "y"), rapid.Float64Range(0, 500).Draw(t, "z"),
		},
		Support: rapid.Float64Range(0, 1e6).Draw(t, "below"), Shells: rapid.IntRange(0, 50).Draw(t, "shells"),
	}
}

// rational is a decimal in other arithmetic than the one under test.
func rational(x decimal.Decimal) *big.Rat {
	r, ok := new(big.Rat).SetString(x.String())
	if !ok {
		panic(x)
	}
	return r
}

// halfUp rounds a rational that is not negative to digits.
func halfUp(x *big.Rat, digits int) *big.Rat {
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil)
	y := new(big.Rat).Mul(x, new(big.Rat).SetInt(unit))
	y.Add(y, big.NewRat(1, 2))
	return new(big.Rat).SetFrac(new(big.Int).Div(y.Num(), y.Denom()), unit)
}

// TestQuoteAddsUp: whatever the rules, the measures and the order.
func TestQuoteAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tariff, m := drawTariff(t), drawMeasures(t)
		o := Order{Quantity: rapid.IntRange(1, 2000).Draw(t, "quantity"), Rush: rapid.SampledFrom([]RushID{"", "express"}).Draw(t, "rush")}
		q, err := Calculate(tariff, m, o, now)
		if err != nil {
			t.Fatal(err)
		}
		digits, _ := q.Currency.Digits()
		sum := func(lines []Line) *big.Rat {
			total := new(big.Rat)
			for _, l := range lines {
				total.Add(total, rational(l.Amount))
				if l.Amount.Scale() != digits {
					t.Fatalf("%s has %d decimals", l.Text, l.Amount.Scale())
				}
				product := new(big.Rat).Mul(rational(l.Quantity), rational(l.Rate))
				if l.Unit == "%" {
					product.Quo(product, big.NewRat(100, 1))
				}
				if l.Code == Discount {
					// What is left of the price is what is rounded.
					left := halfUp(product.Sub(product, rational(l.Rate)), digits)
					product = left.Add(left, rational(l.Rate))
				} else {
					product = halfUp(product, digits)
				}
				if product.Cmp(rational(l.Amount)) != 0 {
					t.Fatalf("%s, but it is %s", l.Text, product.FloatString(5))
				}
				if !strings.HasSuffix(l.Text, l.Amount.String()+" "+string(q.Currency)) {
					t.Fatalf("%s is %s", l.Text, l.Amount)
				}
			}
			return total
		}
		if sum(q.PerPiece).Cmp(rational(q.UnitPrice)) != 0 || sum(q.Lines).Cmp(rational(q.Total)) != 0 {
			t.Fatalf("%v\n%v\nunit %s, total %s", texts(q.PerPiece), texts(q.Lines), q.UnitPrice, q.Total)
		}
		if q.Total.Less(tariff.Rules.Minimum) {
			t.Fatalf("%s is below the minimum of %s", q.Total, tariff.Rules.Minimum)
		}
		raw, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		var back Quote
		if err := json.Unmarshal(raw, &back); err != nil || !reflect.DeepEqual(*q, back) {
			t.Fatalf("JSON gives back another quote: %v\n%s", err, raw)
		}
	})
}

// TestMoreIsNeverDearer: a piece never costs more because more are ordered, and
// never less because it is larger.
func TestMoreIsNeverDearer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tariff, m := drawTariff(t), drawMeasures(t)
		few := rapid.IntRange(1, 1000).Draw(t, "few")
		many := few + rapid.IntRange(0, 1000).Draw(t, "more")
		larger := m
		larger.Volume += rapid.Float64Range(0, 1e6).Draw(t, "larger")
		larger.Box[0] += rapid.Float64Range(0, 50).Draw(t, "longer")
		price := func(m Measures, n int) *Quote {
			q, err := Calculate(tariff, m, Order{Quantity: n}, now)
			if err != nil {
				t.Fatal(err)
			}
			return q
		}
		a, b, c := price(m, few), price(m, many), price(larger, few)
		if a.UnitPrice.Less(b.UnitPrice) {
			t.Errorf("%d pieces at %s, %d at %s", few, a.UnitPrice, many, b.UnitPrice)
		}
		if c.Total.Less(a.Total) {
			t.Errorf("%s, but larger %s", a.Total, c.Total)
		}
		for i, tier := range a.Tiers[1:] {
			if a.Tiers[i].UnitPrice.Less(tier.UnitPrice) {
				t.Errorf("tiers %v", a.Tiers)
			}
		}
	})
}
