package analysis

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"inshape/frame"
	"inshape/mesh"
)

// Model is what somebody wants made: a file, and all the revisions that were made of it.
type Model struct {
	ID       string    `json:"id"`
	Party    string    `json:"party,omitempty" doc:"Whose it is; empty: the shop's own"`
	Name     string    `json:"name" doc:"Of the file"`
	By       string    `json:"by" doc:"Who brought it"`
	At       time.Time `json:"at"`
	Version  int64     `json:"version"`
	Current  int       `json:"current" doc:"The revision that is looked at and quoted unless another one is asked for"`
	Revision Revision  `json:"revision" doc:"The current one"`
	Busy     bool      `json:"busy" doc:"A revision waits or is under way"`
}

// State is how far the analysis of a revision is.
type State string

// The states.
const (
	Waiting     State = "waiting"
	Running     State = "running"
	Asking      State = "asking"      // for the unit of the file
	Done        State = "done"        // there are facts, and verdicts
	Refused     State = "refused"     // the file is wrong, or it cannot be changed like that
	Cancelled   State = "cancelled"   // by somebody
	Quarantined State = "quarantined" // it broke off twice
)

// Ended tells whether nothing more happens by itself.
func (s State) Ended() bool { return s != Waiting && s != Running }

// maxName bounds the names of models, in bytes.
const maxName = 200

// cleanName makes a file's name of whatever was sent as one: the last part of a
// path, without control characters.
func cleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.TrimSpace(name)
	for len(name) > maxName {
		runes := []rune(name)
		name = string(runes[len(runes)-len(runes)*maxName/len(name):]) // the extension stays
	}
	return name
}

const modelColumns = `m.id, m.party, m.name, m.by_name, m.at, m.version, m.current,
	EXISTS (SELECT 1 FROM revision b WHERE b.model = m.id AND b.state IN ('waiting', 'running')), ` + revisionColumns

const modelTables = "model m JOIN revision r ON r.model = m.id AND r.n = m.current"

func scanModel(row frame.Row) (Model, error) {
	var m Model
	var at string
	r := revisionScan{into: &m.Revision}
	err := row.Scan(append([]any{&m.ID, &m.Party, &m.Name, &m.By, &at, &m.Version, &m.Current, &m.Busy}, r.targets()...)...)
	m.At = frame.ParseStamp(at)
	return m, errors.Join(err, r.finish())
}

// findModel gives a model that the context's identity may see. Everybody else
// learns that there is none.
func findModel(ctx context.Context, tx frame.Querier, id string) (Model, error) {
	m, err := scanModel(tx.QueryRow("SELECT "+modelColumns+" FROM "+modelTables+" WHERE m.id = ? AND m.deleted = ''", id))
	if errors.Is(err, sql.ErrNoRows) || err == nil && !frame.Who(ctx).Sees(m.Party) {
		return Model{}, frame.NotFound("there is no model %s", id)
	}
	if err != nil {
		return Model{}, fmt.Errorf("read model: %w", err)
	}
	return m, nil
}

func (s *service) model(ctx context.Context, id string) (m Model, err error) {
	err = s.Store.View(ctx, func(tx *sql.Tx) error {
		m, err = findModel(ctx, tx, id)
		return err
	})
	return m, err
}

// Listing says which models are looked for.
type Listing struct {
	frame.Page
	Query string `query:"q" maxLength:"100" doc:"Part of the name"`
	State State  `query:"state" enum:"waiting,running,asking,done,refused,cancelled,quarantined" doc:"Of the current revision's analysis"`
	Party string `query:"party" maxLength:"64" doc:"Whose; for staff"`
}

func (s *service) models(ctx context.Context, l Listing) (frame.List[Model], error) {
	who := frame.Who(ctx)
	var found []Model
	err := s.Store.View(ctx, func(tx *sql.Tx) (err error) {
		party := l.Party
		if !who.May(frame.Staff) {
			if party = who.Party; party == "" {
				return nil
			}
		}
		found, err = frame.Select(tx, scanModel, "SELECT "+modelColumns+" FROM "+modelTables+` WHERE m.deleted = '' AND (? = '' OR m.party = ?)
			AND (? = '' OR instr(lower(m.name), lower(?)) > 0) AND (? = '' OR r.state = ?) AND (? = '' OR m.id < ?) ORDER BY m.id DESC LIMIT ?`,
			party, party, l.Query, l.Query, l.State, l.State, l.After, l.After, l.Limit+1)
		return err
	})
	if err != nil {
		return frame.List[Model]{}, fmt.Errorf("list models: %w", err)
	}
	return frame.ListOf(found, l.Limit, func(m Model) string { return m.ID }), nil
}

// arrival is a file that came.
type arrival struct {
	id     string // of the model that it becomes
	party  string
	name   string
	unit   mesh.Unit
	bytes  int64
	sha256 string
}

// add makes a model of a file that is in its place already, and queues its analysis.
func (s *service) add(tx *frame.Tx, a arrival) (Model, error) {
	who := frame.Who(tx.Context())
	now := frame.Stamp(time.Now())
	if _, err := tx.Exec("INSERT INTO model (id, party, name, by_id, by_name, at) VALUES (?, ?, ?, ?, ?, ?)",
		a.id, a.party, a.name, who.Subject, who.Name, now); err != nil {
		return Model{}, fmt.Errorf("keep model: %w", err)
	}
	if err := addRevision(tx, newRevision{model: a.id, n: 1, operation: Operation{Kind: Original}, unit: a.unit, bytes: a.bytes, sha256: a.sha256, by: who.Name}); err != nil {
		return Model{}, err
	}
	m, err := findModel(tx.Context(), tx, a.id)
	if err != nil {
		return Model{}, err
	}
	if err := tx.Audit("model.create", m.ID, "%s, %d bytes", m.Name, a.bytes); err != nil {
		return Model{}, err
	}
	return m, tx.Emit("model.created", m.ID, m.Party, map[string]any{"name": m.Name, "bytes": a.bytes, "by": who.Name})
}

// forWhom is whose a thing becomes that the context's identity brings: staff may
// say so, customers bring things of their own.
func forWhom(ctx context.Context, party string) (string, error) {
	who := frame.Who(ctx)
	switch {
	case who.May(frame.Staff):
		if party == "" {
			return who.Party, nil
		}
		return party, nil
	case who.Party == "":
		return "", frame.Forbidden("your account belongs to no party; ask the shop to add it to one")
	case party != "" && party != who.Party:
		return "", frame.Forbidden("party: you act for %s", who.Party)
	}
	return who.Party, nil
}

// ModelRef is a model in a path.
type ModelRef struct {
	ID string `path:"id" maxLength:"64" doc:"Of a model"`
}

type modelAnswer struct {
	ETag string `header:"ETag"`
	Body Model
}

func answerModel(m Model, err error) (*modelAnswer, error) {
	if err != nil {
		return nil, err
	}
	return &modelAnswer{frame.ETag(m.Version), m}, nil
}

func (s *service) modelAPI() {
	tags := []string{"Models"}
	huma.Register(s.API, huma.Operation{
		OperationID: "list-models", Method: http.MethodGet, Path: s.Base() + "/models", Tags: tags, Summary: "Models, newest first",
	}, func(ctx context.Context, in *struct{ Listing }) (*struct{ Body frame.List[Model] }, error) {
		list, err := s.models(ctx, in.Listing)
		if err != nil {
			return nil, err
		}
		return &struct{ Body frame.List[Model] }{list}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "get-model", Method: http.MethodGet, Path: s.Base() + "/models/{id}", Tags: tags, Summary: "One model with its current revision", Errors: []int{404},
	}, func(ctx context.Context, in *struct {
		ModelRef
		Wait int `query:"wait" minimum:"0" maximum:"60" doc:"Seconds to wait until nothing of it is under way"`
	},
	) (*modelAnswer, error) {
		patience, cancel := context.WithTimeout(ctx, time.Duration(in.Wait)*time.Second)
		defer cancel()
		for {
			more := s.Store.WaitForEvents()
			m, err := s.model(ctx, in.ID)
			if err != nil || !m.Busy || patience.Err() != nil {
				return answerModel(m, err)
			}
			select {
			case <-more:
			case <-patience.Done():
			}
		}
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "change-model", Method: http.MethodPatch, Path: s.Base() + "/models/{id}", Tags: tags, Summary: "Rename it, or choose its current revision", Errors: []int{404, 409, 412},
	}, func(ctx context.Context, in *struct {
		ModelRef
		frame.Match
		Body struct {
			Name    string `json:"name,omitempty" maxLength:"200"`
			Current int    `json:"current,omitempty" minimum:"1" doc:"A revision whose analysis is done"`
		}
	},
	) (*modelAnswer, error) {
		return answerModel(s.changeModel(ctx, in.ID, in.Match, in.Body.Name, in.Body.Current))
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "delete-model", Method: http.MethodDelete, Path: s.Base() + "/models/{id}", Tags: tags,
		Summary: "Delete it with all its files", Description: "What was quoted or accepted of it stays in the books; the geometry is gone.", Errors: []int{404, 412},
	}, func(ctx context.Context, in *struct {
		ModelRef
		frame.Match
	},
	) (*struct{}, error) {
		return nil, s.deleteModel(ctx, in.ID, in.Match)
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "set-unit", Method: http.MethodPut, Path: s.Base() + "/models/{id}/unit", Tags: tags,
		Summary: "Say which unit the file's lengths have", Description: "For a model that is asking. One that was read already gets a revision of kind unit instead.", Errors: []int{404, 409},
	}, func(ctx context.Context, in *struct {
		ModelRef
		Body struct {
			Unit mesh.Unit `json:"unit" enum:"micron,millimeter,centimeter,meter,inch,foot"`
		}
	},
	) (*modelAnswer, error) {
		return answerModel(s.setUnit(ctx, in.ID, in.Body.Unit))
	})
}

func (s *service) changeModel(ctx context.Context, id string, match frame.Match, name string, current int) (Model, error) {
	var m Model
	err := s.Store.Update(ctx, func(tx *frame.Tx) (err error) {
		if m, err = findModel(ctx, tx, id); err != nil {
			return err
		}
		if err := match.Check(m.Version); err != nil {
			return err
		}
		if name != "" {
			if m.Name = cleanName(name); m.Name == "" {
				return frame.Invalid("name: it is empty")
			}
		}
		if current > 0 {
			r, err := findRevision(tx, id, current)
			if err != nil {
				return err
			}
			if r.State != Done {
				return frame.Conflict("the analysis of revision %d is %s", current, r.State).Advise("Choose a revision whose analysis is done.")
			}
			m.Current = current
		}
		if _, err := tx.Exec("UPDATE model SET name = ?, current = ?, version = version + 1 WHERE id = ?", m.Name, m.Current, id); err != nil {
			return fmt.Errorf("change model: %w", err)
		}
		if err := tx.Audit("model.change", id, "name %s, current revision %d", m.Name, m.Current); err != nil {
			return err
		}
		m, err = findModel(ctx, tx, id)
		return err
	})
	return m, err
}

func (s *service) deleteModel(ctx context.Context, id string, match frame.Match) error {
	var revisions []int
	err := s.Store.Update(ctx, func(tx *frame.Tx) error {
		m, err := findModel(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := match.Check(m.Version); err != nil {
			return err
		}
		now := frame.Stamp(time.Now())
		if _, err := tx.Exec("UPDATE model SET deleted = ?, version = version + 1 WHERE id = ?", now, id); err != nil {
			return fmt.Errorf("delete model: %w", err)
		}
		if _, err := tx.Exec("UPDATE revision SET state = 'cancelled', ended = ?, version = version + 1 WHERE model = ? AND state IN ('waiting', 'running')", now, id); err != nil {
			return fmt.Errorf("delete model: %w", err)
		}
		list, err := revisionsOf(tx, id)
		if err != nil {
			return err
		}
		for _, r := range list {
			revisions = append(revisions, r.Number)
		}
		if err := tx.Audit("model.delete", id, "%s", m.Name); err != nil {
			return err
		}
		return tx.Emit("model.deleted", id, m.Party, map[string]any{"name": m.Name})
	})
	if err != nil {
		return err
	}
	for _, n := range revisions {
		s.queue.cancel(revisionKey{id, n})
	}
	// What is left after a crash here is found by the cleaner.
	if err := os.RemoveAll(s.Config.File("models", id)); err != nil {
		return fmt.Errorf("delete files: %w", err)
	}
	return nil
}

func (s *service) setUnit(ctx context.Context, id string, unit mesh.Unit) (Model, error) {
	if _, ok := unit.Millimetres(); !ok {
		return Model{}, frame.Invalid("unit: %q is none of micron, millimeter, centimeter, meter, inch and foot", unit)
	}
	var m Model
	err := s.Store.Update(ctx, func(tx *frame.Tx) (err error) {
		if m, err = findModel(ctx, tx, id); err != nil {
			return err
		}
		result, err := tx.Exec("UPDATE revision SET unit = ?, state = 'waiting', code = '', reason = '', guess = '', queued = ?, version = version + 1 WHERE model = ? AND n = 1 AND state = 'asking'",
			unit, frame.Stamp(time.Now()), id)
		if err != nil {
			return fmt.Errorf("set unit: %w", err)
		}
		if changed, err := result.RowsAffected(); err != nil || changed == 0 {
			return errors.Join(err, frame.Conflict("%s is not asking for its unit", m.Name).Advise("Make a revision of kind unit to read it in another one."))
		}
		if _, err := tx.Exec("UPDATE model SET version = version + 1 WHERE id = ?", id); err != nil {
			return fmt.Errorf("set unit: %w", err)
		}
		if err := tx.Audit("model.unit", id, "%s", unit); err != nil {
			return err
		}
		m, err = findModel(ctx, tx, id)
		return err
	})
	s.queue.notice()
	return m, err
}

// analysed does what follows when a revision is done: it becomes the current one,
// and Next is done to it.
func (s *service) analysed(tx *frame.Tx, j job, report *Report) error {
	if _, err := tx.Exec("UPDATE model SET current = ?, version = version + 1 WHERE id = ?", j.n, j.model); err != nil {
		return fmt.Errorf("choose revision: %w", err)
	}
	next, ok := Next(j.operation.Kind, report)
	if !ok {
		return nil
	}
	list, err := revisionsOf(tx, j.model)
	if err != nil {
		return err
	}
	return addRevision(tx, newRevision{
		model: j.model, n: len(list) + 1, source: j.n, operation: Operation{Kind: next}, unit: report.Unit, by: "by itself",
	})
}

// finished is the data of the event analysis.finished.
func (s *service) finished(j job, r revisionState, report *Report) any {
	data := map[string]any{"revision": j.n, "kind": j.operation.Kind, "state": r.state}
	if r.code != "" {
		data["problem"] = Reason{Code: r.code, Text: r.reason}
	}
	if report != nil {
		data["solid"] = report.Facts.Solid
		data["verdicts"] = s.verdictsOf(report)
	}
	return data
}

func decode(text string, into any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), into)
}
