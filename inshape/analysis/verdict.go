package analysis

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"inshape/frame"
	"inshape/material"
	"inshape/printability"
)

// Verdict is what the shop says about a revision in one material, and whether
// that was accepted: by the customer with a quote, or by staff.
type Verdict struct {
	Material   material.ID            `json:"material"`
	Title      string                 `json:"title"`
	Process    material.Process       `json:"process"`
	Outcome    printability.Outcome   `json:"verdict" enum:"printable,with-remarks,not-printable"`
	Accepted   bool                   `json:"accepted"`
	Acceptance *Acceptance            `json:"acceptance,omitempty"`
	Accuracy   float64                `json:"accuracy" doc:"mm that the longest side may be off by"`
	Weight     float64                `json:"weight" doc:"g"`
	Findings   []printability.Finding `json:"findings" doc:"The worst first"`
}

// Acceptance says who takes a part as it is.
type Acceptance struct {
	Quote string    `json:"quote,omitempty" doc:"That was accepted; none: staff did so by hand"`
	By    string    `json:"by"`
	Note  string    `json:"note,omitempty"`
	At    time.Time `json:"at"`
}

// verdictsOf judges a report by today's materials.
func (s *service) verdictsOf(report *Report) []Verdict {
	var list []Verdict
	for _, v := range printability.Matrix(&report.Facts, s.materials) {
		list = append(list, Verdict{
			Material: v.Material, Title: v.Title, Process: v.Process, Outcome: v.Outcome, Accuracy: v.Accuracy, Weight: v.Weight, Findings: v.Findings,
		})
	}
	return list
}

// verdicts are those on a revision, which must be done.
func (s *service) verdicts(tx frame.Querier, m Model, r Revision) ([]Verdict, error) {
	if r.State != Done {
		return nil, frame.Conflict("there are no verdicts on revision %d of %s: its analysis is %s", r.Number, m.Name, r.State).Advise("Wait until it is done.")
	}
	list := s.verdictsOf(r.Report)
	rows, err := tx.Query("SELECT material, quote, by_name, note, at FROM acceptance WHERE model = ? AND n = ?", m.ID, r.Number)
	if err != nil {
		return nil, fmt.Errorf("read acceptances: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id material.ID
		var a Acceptance
		var at string
		if err := rows.Scan(&id, &a.Quote, &a.By, &a.Note, &at); err != nil {
			return nil, fmt.Errorf("read acceptances: %w", err)
		}
		a.At = frame.ParseStamp(at)
		for i := range list {
			if list[i].Material == id {
				list[i].Accepted, list[i].Acceptance = true, &a
			}
		}
	}
	return list, rows.Err()
}

func (s *service) verdictAPI(one string) {
	tags := []string{"Verdicts"}
	huma.Register(s.API, huma.Operation{
		OperationID: "list-verdicts", Method: http.MethodGet, Path: one + "/verdicts", Tags: tags, Summary: "What the shop says, material by material", Errors: []int{404, 409},
	}, func(ctx context.Context, in *struct{ RevisionRef }) (*struct{ Body frame.List[Verdict] }, error) {
		var list []Verdict
		err := s.Store.View(ctx, func(tx *sql.Tx) error {
			m, r, err := findBoth(ctx, tx, in.ID, in.N)
			if err == nil {
				list, err = s.verdicts(tx, m, r)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		return &struct{ Body frame.List[Verdict] }{frame.ListOf(list, len(list), nil)}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-findings", Method: http.MethodGet, Path: one + "/findings", Tags: tags,
		Summary: "What was found, for one material or for all", Description: "For all materials: each kind of finding once, in the material where it is worst.", Errors: []int{404, 409},
	}, func(ctx context.Context, in *struct {
		RevisionRef
		Material material.ID `query:"material" maxLength:"64"`
	},
	) (*struct {
		Body frame.List[Remark]
	}, error,
	) {
		_, r, err := s.both(ctx, in.ID, in.N)
		if err != nil {
			return nil, err
		}
		if r.State != Done {
			return nil, frame.Conflict("nothing is known of revision %d yet: its analysis is %s", in.N, r.State).Advise("Wait until it is done.")
		}
		list := s.findings(r.Report, in.Material)
		if _, ok := s.materials.Find(in.Material); in.Material != "" && !ok {
			return nil, frame.NotFound("there is no material %s", in.Material)
		}
		return &struct {
			Body frame.List[Remark]
		}{frame.ListOf(list, len(list), nil)}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "accept-verdict", Method: http.MethodPut, Path: one + "/verdicts/{material}/acceptance", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "Accept a verdict by hand", Description: "Staff takes the part as it is in this material, whatever the verdict says.", Errors: []int{403, 404, 409},
	}, func(ctx context.Context, in *struct {
		RevisionRef
		Material material.ID `path:"material" maxLength:"64"`
		Body     struct {
			Note string `json:"note,omitempty" maxLength:"1000" doc:"Why"`
		}
	},
	) (*struct{}, error) {
		return nil, s.acceptVerdict(ctx, in.ID, in.N, in.Material, in.Body.Note)
	})
}

// acceptVerdict accepts a verdict by hand.
func (s *service) acceptVerdict(ctx context.Context, id string, n int, in material.ID, note string) error {
	if err := frame.Require(ctx, frame.Staff); err != nil {
		return err
	}
	mat, ok := s.materials.Find(in)
	if !ok {
		return frame.NotFound("there is no material %s", in)
	}
	return s.Store.Update(ctx, func(tx *frame.Tx) error {
		m, r, err := findBoth(ctx, tx, id, n)
		if err != nil {
			return err
		}
		if r.State != Done {
			return frame.Conflict("there is no verdict on revision %d: its analysis is %s", n, r.State).Advise("Wait until it is done.")
		}
		return s.accept(tx, m, r.Number, mat.ID, "", note)
	})
}

// accept notes that a verdict is accepted.
func (s *service) accept(tx *frame.Tx, m Model, n int, in material.ID, quote, note string) error {
	_, err := tx.Exec(`INSERT INTO acceptance (model, n, material, quote, by_name, note, at) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (model, n, material) DO NOTHING`, m.ID, n, in, quote, frame.Who(tx.Context()).Name, note, frame.Stamp(time.Now()))
	if err != nil {
		return fmt.Errorf("accept verdict: %w", err)
	}
	if err := tx.Audit("verdict.accept", m.ID, "revision %d in %s %s", n, in, quote); err != nil {
		return err
	}
	return tx.Emit("verdict.accepted", m.ID, m.Party, map[string]any{"revision": n, "material": in, "quote": quote})
}

// accepted tells whether staff or a quote has accepted a revision in a material.
func accepted(tx frame.Querier, model string, n int, in material.ID) (bool, error) {
	var one int
	err := tx.QueryRow("SELECT 1 FROM acceptance WHERE model = ? AND n = ? AND material = ?", model, n, in).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// Remark is a finding with the material that it holds for.
type Remark struct {
	Material string `json:"material,omitempty" doc:"Title of the material where it is worst; none: it holds for all"`
	printability.Finding

	material material.Material // that one; for one that holds for all, some material where it does
}

// findings are those in one material, or without one the worst of each code.
func (s *service) findings(report *Report, in material.ID) []Remark {
	list := []Remark{}
	rank := []printability.Severity{printability.Error, printability.Warning, printability.Info}
	for _, m := range s.materials.Materials {
		if in != "" && m.ID != in {
			continue
		}
		for _, f := range printability.Check(&report.Facts, m) {
			i := slices.IndexFunc(list, func(have Remark) bool { return have.Code == f.Code })
			switch {
			case i < 0:
				list = append(list, Remark{m.Title, f, m})
			case list[i].Text == f.Text:
				list[i].Material = "" // not of one material alone
			case slices.Index(rank, f.Severity) < slices.Index(rank, list[i].Severity):
				list[i] = Remark{m.Title, f, m}
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Remark) int {
		return cmp.Compare(slices.Index(rank, a.Severity), slices.Index(rank, b.Severity))
	})
	return list
}
