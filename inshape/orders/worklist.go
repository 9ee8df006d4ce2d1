package orders

import (
	"context"
	"database/sql"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"inshape/frame"
)

type listData struct {
	Filter    Filter
	Filters   template.URL // the filter as a query, without after
	States    []State
	Materials []string
	List      frame.List[Order]
	Counts    counts
	Today     string
	ByHand    bool // the shop has no Analysis: orders begin here
}

func (m *module) listPage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f := Filter{State: q.Get("state"), Party: q.Get("party"), Query: q.Get("q"), Material: q.Get("material"), Verdict: q.Get("verdict"), Late: q.Get("late") == "true", Asked: q.Get("asked") == "true", Sort: q.Get("sort")}
	list, err := m.list(r.Context(), f, frame.Page{Limit: 50, After: q.Get("after")})
	if err != nil {
		return err
	}
	data := listData{Filter: f, States: OrderStates, List: list, Today: time.Now().UTC().Format(time.DateOnly), ByHand: m.analysis == nil}
	q.Del("after")
	for name, values := range q {
		if strings.Join(values, "") == "" {
			q.Del(name)
		}
	}
	data.Filters = template.URL(q.Encode()) //nolint:gosec // encoded
	if data.Counts, err = m.counts(r.Context()); err != nil {
		return err
	}
	if data.Materials, err = m.materials(r.Context()); err != nil {
		return err
	}
	return m.server.Render(w, r, http.StatusOK, "list.html", "Orders", data)
}

type counts struct{ Placed, Open, Late, Asked int }

// counts are the numbers of a shop's work; a customer has none.
func (m *module) counts(ctx context.Context) (c counts, err error) {
	if !frame.Who(ctx).May(frame.Staff) {
		return c, nil
	}
	err = m.store.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT coalesce(sum(o.state = 'placed'), 0), count(*), coalesce(sum("+dueKey+" < ?), 0), (SELECT count(*) FROM orders WHERE asked) FROM orders o WHERE "+open,
			time.Now().UTC().Format(time.DateOnly)).Scan(&c.Placed, &c.Open, &c.Late, &c.Asked)
	})
	if err != nil {
		return c, fmt.Errorf("count orders: %w", err)
	}
	return c, nil
}

// materials are those of the last thousand lines, for the filter's suggestions.
func (m *module) materials(ctx context.Context) ([]string, error) {
	if !frame.Who(ctx).May(frame.Staff) {
		return nil, nil
	}
	var list []string
	err := m.store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT DISTINCT material FROM (SELECT material FROM line ORDER BY id DESC LIMIT 1000) ORDER BY material")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			list = append(list, name)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list materials: %w", err)
	}
	return list, nil
}

func (m *module) cardPage(w http.ResponseWriter, r *http.Request) error {
	numbers, err := m.counts(r.Context())
	if err != nil {
		return err
	}
	latest, err := m.list(r.Context(), Filter{}, frame.Page{Limit: 3})
	if err != nil {
		return err
	}
	return m.server.RenderPart(w, r, "card.html", "main", struct {
		Counts counts
		Latest []Order
	}{numbers, latest.Items})
}
