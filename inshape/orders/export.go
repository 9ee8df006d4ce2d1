package orders

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"inshape/frame"

	"github.com/danielgtaylor/huma/v2"
)

var exportHeader = []string{
	"number", "order", "placed", "state", "party", "party_name", "reference", "due", "currency", "line", "name", "model", "revision", "material",
	"finish", "tolerances", "quantity", "made", "scrapped", "shipped", "delivered", "line_state", "unit_price", "total", "reprint_of", "ship_to_country",
}

// exportOperation streams what a filter chooses, a page at a time.
func (m *module) exportOperation(ctx context.Context, in *struct {
	Filter
	Format string `query:"format" enum:"csv,json" default:"csv"`
},
) (*huma.StreamResponse, error) {
	if _, _, err := in.where(frame.Who(ctx)); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(answer huma.Context) {
		kind, write := "text/csv; charset=utf-8; header=present", writeCSV
		if in.Format == "json" {
			kind, write = "application/x-ndjson", writeJSONLines
		}
		answer.SetHeader("Content-Type", kind)
		answer.SetHeader("Content-Disposition", fmt.Sprintf(`attachment; filename="orders-%s.%s"`, time.Now().UTC().Format("20060102-1504"), in.Format))
		if err := write(answer.BodyWriter(), m.walk(ctx, in.Filter)); err != nil {
			m.log.Warn("export broke off", "error", err)
		}
	}}, nil
}

// walk gives all orders of a filter, a page at a time. An error ends it.
func (m *module) walk(ctx context.Context, f Filter) func(func(*Order, error) bool) {
	return func(yield func(*Order, error) bool) {
		page := frame.Page{Limit: 200}
		for {
			list, err := m.list(ctx, f, page)
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range list.Items {
				if !yield(&list.Items[i], nil) {
					return
				}
			}
			if list.Next == "" {
				return
			}
			page.After = list.Next
		}
	}
}

func writeCSV(w io.Writer, orders func(func(*Order, error) bool)) error {
	out := csv.NewWriter(w)
	if err := out.Write(exportHeader); err != nil {
		return err
	}
	for o, err := range orders {
		if err != nil {
			return err
		}
		for _, l := range o.Lines {
			row := []string{
				strconv.FormatInt(o.Number, 10), o.ID, o.At.UTC().Format(time.RFC3339), string(o.State), o.Party, o.PartyName, o.Reference, o.Due, o.Currency,
				l.ID, l.Name, l.Model, strconv.Itoa(l.Revision), l.Material, l.Requirements.Finish, l.Requirements.Tolerances, strconv.Itoa(l.Quantity),
				strconv.Itoa(l.Made), strconv.Itoa(l.Scrapped), strconv.Itoa(l.Shipped), strconv.Itoa(l.Delivered), string(l.State()), l.UnitPrice, l.Total,
				l.ReprintOf, o.ShipTo.Country,
			}
			for i, cell := range row {
				row[i] = inert(cell)
			}
			if err := out.Write(row); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}

// inert keeps a spreadsheet from taking a customer's text for a formula: OWASP,
// CSV Injection, with the wide forms of the signs.
func inert(cell string) string {
	if first, _ := utf8.DecodeRuneInString(cell); cell != "" && strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) {
		return "'" + cell
	}
	return cell
}

func writeJSONLines(w io.Writer, orders func(func(*Order, error) bool)) error {
	out := json.NewEncoder(w)
	for o, err := range orders {
		if err != nil {
			return err
		}
		if err := out.Encode(o); err != nil {
			return err
		}
	}
	return nil
}
