package orders

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"inshape/frame"
)

// quote is what Analysis says of one of its quotes.
type quote struct {
	ID       string      `json:"id"`
	Party    string      `json:"party"`
	State    string      `json:"state"`
	Currency string      `json:"currency"`
	Total    string      `json:"total"`
	Items    []quoteItem `json:"items"`
}

type quoteItem struct {
	Model         string `json:"model"`
	Revision      int    `json:"revision"`
	Name          string `json:"name"`
	Material      string `json:"material"`
	MaterialTitle string `json:"material_title"`
	Finish        string `json:"finish"`
	Quantity      int    `json:"quantity"`
	UnitPrice     string `json:"unit_price"`
	Total         string `json:"total"`
	Verdict       string `json:"verdict"`
	Picture       string `json:"picture"`
}

// noAnalysis refuses what only Analysis could answer.
func noAnalysis() error {
	return frame.NewProblem(http.StatusNotImplemented, "no-analysis", "this shop has no module Analysis, so there are no quotes and no models").
		Advise("Name the parts in lines of their own; staff will look at each.")
}

// acceptedQuote reads a quote that may be ordered: the asker's, and accepted.
// With it the verdicts on its items are accepted, those by hand of staff among them.
func (m *module) acceptedQuote(ctx context.Context, id string) (*quote, error) {
	if m.analysis == nil {
		return nil, noAnalysis()
	}
	var q quote
	if err := m.analysis.Get(ctx, "/quotes/"+url.PathEscape(id), &q); err != nil {
		return nil, err
	}
	if !frame.Who(ctx).Sees(q.Party) {
		return nil, frame.NotFound("there is no quote %s", id)
	}
	switch {
	case q.State == "open":
		return nil, frame.NewProblem(http.StatusConflict, "quote-not-accepted", "quote %s is not accepted yet", id).Advise("Accept it first.")
	case q.State != "accepted":
		return nil, frame.NewProblem(http.StatusConflict, "quote-not-accepted", "quote %s is %s", id, q.State).Advise("Ask for a new quote.")
	case len(q.Items) == 0:
		return nil, frame.Conflict("quote %s has no items", id)
	}
	for i, item := range q.Items {
		if item.Verdict == "" || item.Quantity < 1 {
			return nil, fmt.Errorf("read quote %s: item %d has no verdict or no quantity", id, i+1)
		}
	}
	return &q, nil
}

// acceptedVerdict makes sure that a line's model was accepted in its material.
func (m *module) acceptedVerdict(ctx context.Context, where, model string, revision int, material string) (*Verdict, error) {
	var answer struct {
		Items []struct {
			Material string `json:"material"`
			Verdict  string `json:"verdict"`
			Accepted bool   `json:"accepted"`
		} `json:"items"`
	}
	err := m.analysis.Get(ctx, fmt.Sprintf("/models/%s/revisions/%d/verdicts", url.PathEscape(model), revision), &answer)
	if err != nil {
		if p := frame.AsProblem(err); p.Status == http.StatusNotFound {
			return nil, frame.Invalid("%s: there is no model %s with revision %d", where, model, revision)
		}
		return nil, err
	}
	for _, v := range answer.Items {
		if v.Material == material && v.Accepted {
			return &Verdict{Verdict: v.Verdict, Accepted: true, By: "analysis", At: time.Now().UTC()}, nil
		}
	}
	return nil, frame.NewProblem(http.StatusConflict, "no-accepted-verdict", "%s: revision %d of %s has no accepted verdict for %s", where, revision, model, material).
		Advise("Accept a quote for it, or ask the shop to accept it by hand.")
}
