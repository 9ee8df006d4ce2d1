package analysis

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"inshape/frame"
	"inshape/mesh"
)

// Revision is one shape of a model: the file as it came, or what was made of an
// earlier revision. It never changes; only its analysis goes on.
type Revision struct {
	Number    int       `json:"number"`
	Source    int       `json:"source,omitempty" doc:"The revision that it is made of; none: a file"`
	Operation Operation `json:"operation" doc:"How it was made"`
	Bytes     int64     `json:"bytes,omitempty" doc:"Of the file"`
	SHA256    string    `json:"sha256,omitempty" doc:"Of the file"`
	By        string    `json:"by"`
	At        time.Time `json:"at"`
	State     State     `json:"state" doc:"Of its analysis"`
	Problem   *Reason   `json:"problem,omitempty" doc:"Why there is no analysis"`
	UnitGuess mesh.Unit `json:"unit_guess,omitempty" doc:"While it asks: the unit that the size suggests"`
	Report    *Report   `json:"report,omitempty" doc:"When it is done"`
	Version   int64     `json:"version"`
}

const revisionColumns = "r.n, r.source, r.operation, r.bytes, r.sha256, r.by_name, r.at, r.state, r.code, r.reason, r.guess, r.report, r.version"

// revisionScan reads revisionColumns.
type revisionScan struct {
	into                        *Revision
	operation, at               string
	code, reason, guess, report string
}

func (s *revisionScan) targets() []any {
	r := s.into
	return []any{&r.Number, &r.Source, &s.operation, &r.Bytes, &r.SHA256, &r.By, &s.at, &r.State, &s.code, &s.reason, &s.guess, &s.report, &r.Version}
}

func (s *revisionScan) finish() error {
	r := s.into
	r.At, r.UnitGuess = frame.ParseStamp(s.at), mesh.Unit(s.guess)
	if s.code != "" {
		r.Problem = &Reason{Code: s.code, Text: s.reason}
	}
	return errors.Join(decode(s.operation, &r.Operation), decode(s.report, &r.Report))
}

func scanRevision(row frame.Row) (Revision, error) {
	var r Revision
	scan := revisionScan{into: &r}
	err := row.Scan(scan.targets()...)
	return r, errors.Join(err, scan.finish())
}

// findRevision gives a revision of a model that was found before.
func findRevision(tx frame.Querier, model string, n int) (Revision, error) {
	r, err := scanRevision(tx.QueryRow("SELECT "+revisionColumns+" FROM revision r WHERE r.model = ? AND r.n = ?", model, n))
	if errors.Is(err, sql.ErrNoRows) {
		return r, frame.NotFound("%s has no revision %d", model, n)
	}
	if err != nil {
		return r, fmt.Errorf("read revision: %w", err)
	}
	return r, nil
}

func revisionsOf(tx frame.Querier, model string) ([]Revision, error) {
	list, err := frame.Select(tx, scanRevision, "SELECT "+revisionColumns+" FROM revision r WHERE r.model = ? ORDER BY r.n", model)
	if err != nil {
		return nil, fmt.Errorf("list revisions: %w", err)
	}
	return list, nil
}

// StepTimes is a step with its times.
type StepTimes struct {
	Step
	Began *time.Time `json:"began,omitempty"`
	Ended *time.Time `json:"ended,omitempty"`
}

func stepsOf(tx frame.Querier, model string, n int) ([]StepTimes, error) {
	rows, err := tx.Query("SELECT name, state, detail, began, ended FROM step WHERE model = ? AND n = ? ORDER BY seq", model, n)
	if err != nil {
		return nil, fmt.Errorf("list steps: %w", err)
	}
	defer rows.Close()
	list := []StepTimes{}
	for rows.Next() {
		var s StepTimes
		var began, ended string
		if err := rows.Scan(&s.Name, &s.State, &s.Detail, &began, &ended); err != nil {
			return nil, fmt.Errorf("list steps: %w", err)
		}
		for _, t := range []struct {
			text string
			into **time.Time
		}{{began, &s.Began}, {ended, &s.Ended}} {
			if t.text != "" {
				at := frame.ParseStamp(t.text)
				*t.into = &at
			}
		}
		list = append(list, s)
	}
	return list, rows.Err()
}

// newRevision is a revision to be made.
type newRevision struct {
	model     string
	n, source int
	operation Operation
	unit      mesh.Unit
	bytes     int64
	sha256    string
	by        string
}

// addRevision makes a revision, and queues its analysis.
func addRevision(tx *frame.Tx, r newRevision) error {
	operation, err := json.Marshal(r.operation)
	if err != nil {
		return fmt.Errorf("add revision: %w", err)
	}
	now := frame.Stamp(time.Now())
	if _, err := tx.Exec(`INSERT INTO revision (model, n, source, operation, unit, bytes, sha256, by_name, at, queued, state)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')`,
		r.model, r.n, r.source, string(operation), r.unit, r.bytes, r.sha256, r.by, now, now); err != nil {
		return fmt.Errorf("add revision: %w", err)
	}
	first := Read
	if r.source > 0 {
		first = Make
	}
	for i, name := range steps(first) {
		if _, err := tx.Exec("INSERT INTO step (model, n, seq, name, state) VALUES (?, ?, ?, ?, 'waiting')", r.model, r.n, i, name); err != nil {
			return fmt.Errorf("add step: %w", err)
		}
	}
	return nil
}

// maxRevisions bounds what is made of one model.
const maxRevisions = 100

// change makes a new revision of an old one and gives it.
func (s *service) change(ctx context.Context, id string, source int, o Operation) (Revision, error) {
	if err := o.check(); err != nil {
		return Revision{}, refusalProblem(err)
	}
	r, err := frame.Once(ctx, s.Store, func(tx *frame.Tx) (Revision, error) {
		m, err := findModel(ctx, tx, id)
		if err != nil {
			return Revision{}, err
		}
		of, err := findRevision(tx, id, source)
		if err != nil {
			return Revision{}, err
		}
		if of.State != Done {
			return Revision{}, frame.Conflict("the analysis of revision %d is %s", source, of.State).Advise("Wait until it is done.")
		}
		list, err := revisionsOf(tx, id)
		if err != nil {
			return Revision{}, err
		}
		if len(list) >= maxRevisions {
			return Revision{}, frame.Conflict("%s has %d revisions already", m.Name, len(list)).Advise("Upload it as a new model.")
		}
		n := len(list) + 1
		if err := addRevision(tx, newRevision{model: id, n: n, source: source, operation: o, unit: of.Report.Unit, by: frame.Who(ctx).Name}); err != nil {
			return Revision{}, err
		}
		if err := tx.Audit("revision.create", id, "revision %d: %s of revision %d", n, o.Kind, source); err != nil {
			return Revision{}, err
		}
		if err := tx.Emit("revision.created", id, m.Party, map[string]any{"revision": n, "source": source, "kind": o.Kind}); err != nil {
			return Revision{}, err
		}
		return findRevision(tx, id, n)
	})
	s.queue.notice()
	return r, err
}

// refusalProblem is a refusal as an answer.
func refusalProblem(err error) error {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return frame.NewProblem(http.StatusUnprocessableEntity, r.Code, "%s", r.Text)
	}
	return err
}

// cancelAnalysis ends an analysis that waits or runs.
func (s *service) cancelAnalysis(ctx context.Context, id string, n int) error {
	err := s.Store.Update(ctx, func(tx *frame.Tx) error {
		m, r, err := findBoth(ctx, tx, id, n)
		if err != nil {
			return err
		}
		if r.State.Ended() {
			return frame.Conflict("the analysis of revision %d is %s already", n, r.State)
		}
		now := frame.Stamp(time.Now())
		if _, err := tx.Exec("UPDATE revision SET state = 'cancelled', ended = ?, version = version + 1 WHERE model = ? AND n = ?", now, id, n); err != nil {
			return fmt.Errorf("cancel analysis: %w", err)
		}
		if _, err := tx.Exec("UPDATE step SET state = 'failed', detail = 'cancelled', ended = ? WHERE model = ? AND n = ? AND state = 'running'", now, id, n); err != nil {
			return fmt.Errorf("cancel analysis: %w", err)
		}
		if err := tx.Audit("analysis.cancel", id, "revision %d", n); err != nil {
			return err
		}
		return tx.Emit("analysis.finished", id, m.Party, map[string]any{"revision": n, "kind": r.Operation.Kind, "state": Cancelled})
	})
	if err == nil {
		s.queue.cancel(revisionKey{id, n})
	}
	return err
}

// retryAnalysis queues an analysis again that was cancelled, refused or put aside.
func (s *service) retryAnalysis(ctx context.Context, id string, n int) error {
	err := s.Store.Update(ctx, func(tx *frame.Tx) error {
		_, r, err := findBoth(ctx, tx, id, n)
		if err != nil {
			return err
		}
		if r.State != Cancelled && r.State != Refused && r.State != Quarantined {
			return frame.Conflict("the analysis of revision %d is %s", n, r.State)
		}
		if _, err := tx.Exec(`UPDATE revision SET state = 'waiting', code = '', reason = '', crashes = 0, stops = 0, queued = ?, version = version + 1 WHERE model = ? AND n = ?`,
			frame.Stamp(time.Now()), id, n); err != nil {
			return fmt.Errorf("retry analysis: %w", err)
		}
		return tx.Audit("analysis.retry", id, "revision %d", n)
	})
	s.queue.notice()
	return err
}

func findBoth(ctx context.Context, tx frame.Querier, id string, n int) (Model, Revision, error) {
	m, err := findModel(ctx, tx, id)
	if err != nil {
		return m, Revision{}, err
	}
	if n == 0 {
		return m, m.Revision, nil
	}
	r, err := findRevision(tx, id, n)
	return m, r, err
}

// both is findBoth in a view of its own; n is 0 for the current revision.
func (s *service) both(ctx context.Context, id string, n int) (m Model, r Revision, err error) {
	err = s.Store.View(ctx, func(tx *sql.Tx) error {
		m, r, err = findBoth(ctx, tx, id, n)
		return err
	})
	return m, r, err
}

// size is that of a revision's file, 0 if there is none.
func (s *service) size(model string, n int, name string) int64 {
	info, err := os.Stat(s.path(model, n, name))
	if err != nil {
		return 0
	}
	return info.Size()
}

type RevisionRef struct {
	ModelRef
	N int `path:"n" minimum:"1" maximum:"100" doc:"Number of a revision"`
}

type revisionAnswer struct {
	ETag string `header:"ETag"`
	Body Revision
}

func (s *service) revisionAPI() {
	tags := []string{"Revisions"}
	one := s.Base() + "/models/{id}/revisions/{n}"
	answer := func(r Revision, err error) (*revisionAnswer, error) {
		if err != nil {
			return nil, err
		}
		return &revisionAnswer{frame.ETag(r.Version), r}, nil
	}
	huma.Register(s.API, huma.Operation{
		OperationID: "list-revisions", Method: http.MethodGet, Path: s.Base() + "/models/{id}/revisions", Tags: tags, Summary: "All revisions, the file first", Errors: []int{404},
	}, func(ctx context.Context, in *struct{ ModelRef }) (*struct{ Body frame.List[Revision] }, error) {
		var list []Revision
		err := s.Store.View(ctx, func(tx *sql.Tx) error {
			_, err := findModel(ctx, tx, in.ID)
			if err == nil {
				list, err = revisionsOf(tx, in.ID)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		return &struct{ Body frame.List[Revision] }{frame.ListOf(list, maxRevisions, nil)}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "make-revision", Method: http.MethodPost, Path: s.Base() + "/models/{id}/revisions", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary:     "Repair, scale, … it: makes a new revision",
		Description: "The revision is there at once and its analysis begins; when it is done, it is the model's current one. What cannot be done ends in the state refused.",
		Errors:      []int{404, 409, 422},
	}, func(ctx context.Context, in *struct {
		ModelRef
		Key  string `header:"Idempotency-Key"`
		Body struct {
			Source int `json:"source,omitempty" minimum:"1" doc:"The revision to make it of; none: the current one"`
			Operation
		}
	},
	) (*revisionAnswer, error) {
		source := in.Body.Source
		if source == 0 {
			m, err := s.model(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			source = m.Current
		}
		return answer(s.change(ctx, in.ID, source, in.Body.Operation))
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "get-revision", Method: http.MethodGet, Path: one, Tags: tags, Summary: "One revision with what its analysis found", Errors: []int{404},
	}, func(ctx context.Context, in *struct{ RevisionRef }) (*revisionAnswer, error) {
		_, r, err := s.both(ctx, in.ID, in.N)
		return answer(r, err)
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-steps", Method: http.MethodGet, Path: one + "/steps", Tags: tags, Summary: "The steps of its analysis", Errors: []int{404},
	}, func(ctx context.Context, in *struct{ RevisionRef }) (*struct{ Body frame.List[StepTimes] }, error) {
		var list []StepTimes
		err := s.Store.View(ctx, func(tx *sql.Tx) error {
			_, _, err := findBoth(ctx, tx, in.ID, in.N)
			if err == nil {
				list, err = stepsOf(tx, in.ID, in.N)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		return &struct{ Body frame.List[StepTimes] }{frame.ListOf(list, 100, nil)}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "cancel-analysis", Method: http.MethodPost, Path: one + "/cancel", Tags: tags, DefaultStatus: http.StatusNoContent, Summary: "End its analysis", Errors: []int{404, 409},
	}, func(ctx context.Context, in *struct{ RevisionRef }) (*struct{}, error) {
		return nil, s.cancelAnalysis(ctx, in.ID, in.N)
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "retry-analysis", Method: http.MethodPost, Path: one + "/retry", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "Begin its analysis again", Description: "After it was cancelled, refused or put into quarantine.", Errors: []int{404, 409},
	}, func(ctx context.Context, in *struct{ RevisionRef }) (*struct{}, error) {
		return nil, s.retryAnalysis(ctx, in.ID, in.N)
	})
	s.verdictAPI(one)
	s.fileAPI(one)
}

// fileAPI adds what is not JSON: it is served beside huma and described to it.
func (s *service) fileAPI(one string) {
	for _, f := range []struct{ id, path, summary, kind string }{
		{"get-picture", "/picture.png", "A picture, 640 × 480", "image/png"},
		{"get-preview", "/preview", "The mesh for the viewer, in the format that docs/analysis.md describes", "application/octet-stream"},
		{"get-file", "/file", "The file as it came, or with ?format=stl or ?format=3mf as made here", "application/octet-stream"},
	} {
		s.API.OpenAPI().AddOperation(&huma.Operation{
			OperationID: f.id, Method: http.MethodGet, Path: one + f.path, Tags: []string{"Revisions"}, Summary: f.summary,
			Parameters: []*huma.Param{
				{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}},
				{Name: "n", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeInteger}},
			},
			Responses: map[string]*huma.Response{"200": {Description: f.summary, Content: map[string]*huma.MediaType{f.kind: {}}}},
		})
	}
	s.file("GET "+one+"/picture.png", func(w http.ResponseWriter, r *http.Request, m Model, rev Revision) error {
		w.Header().Set("Content-Type", "image/png")
		return s.serve(w, r, m, rev, filePicture)
	})
	s.file("GET "+one+"/preview", func(w http.ResponseWriter, r *http.Request, m Model, rev Revision) error {
		w.Header().Set("Content-Type", "application/octet-stream")
		return s.serve(w, r, m, rev, filePreview)
	})
	s.file("GET "+one+"/file", s.download)
}

func (s *service) file(pattern string, h func(http.ResponseWriter, *http.Request, Model, Revision) error) {
	s.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil || n < 1 {
			s.Fail(w, r, frame.NotFound("there is no revision %q", r.PathValue("n")))
			return
		}
		m, rev, err := s.both(r.Context(), r.PathValue("id"), n)
		if err == nil {
			err = h(w, r, m, rev)
		}
		if err != nil {
			s.Fail(w, r, err)
		}
	}))
}

// serve answers with a file of a revision. Its content never changes.
func (s *service) serve(w http.ResponseWriter, r *http.Request, m Model, rev Revision, name string) error {
	f, err := os.Open(s.path(m.ID, rev.Number, name))
	if errors.Is(err, os.ErrNotExist) {
		return frame.NotFound("revision %d of %s has no such file yet: its analysis is %s", rev.Number, m.Name, rev.State)
	}
	if err != nil {
		return fmt.Errorf("open file: %w", err)
	}
	defer f.Close()
	w.Header().Set("Cache-Control", "private, max-age=3600")
	http.ServeContent(w, r, "", rev.At, f)
	return nil
}

// download gives a revision as a file: as it came, or written anew.
func (s *service) download(w http.ResponseWriter, r *http.Request, m Model, rev Revision) error {
	stem := strings.TrimSuffix(m.Name, filepath.Ext(m.Name))
	if rev.Number > 1 {
		stem = fmt.Sprintf("%s-r%d", stem, rev.Number)
	}
	format := strings.ToLower(r.URL.Query().Get("format"))
	attach := func(name string) {
		w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	}
	if format == "" && rev.Source == 0 {
		attach(m.Name)
		w.Header().Set("Content-Type", "application/octet-stream")
		return s.serve(w, r, m, rev, fileSource)
	}
	var write func(io.Writer, *mesh.Mesh) error
	switch format {
	case "stl":
		write = mesh.WriteSTL
		w.Header().Set("Content-Type", "model/stl")
	case "", "3mf":
		format = "3mf"
		write = func(w io.Writer, geometry *mesh.Mesh) error { return mesh.WriteThreeMF(w, geometry, stem) }
		w.Header().Set("Content-Type", "model/3mf")
	default:
		return frame.Invalid("format: %q is neither stl nor 3mf", format)
	}
	data, err := os.ReadFile(s.path(m.ID, rev.Number, fileGeometry))
	if errors.Is(err, os.ErrNotExist) {
		return frame.Conflict("revision %d of %s has no mesh yet: its analysis is %s", rev.Number, m.Name, rev.State)
	}
	if err != nil {
		return fmt.Errorf("read mesh: %w", err)
	}
	geometry, err := readGeometry(data)
	if err != nil {
		return err
	}
	attach(stem + "." + format)
	if err := write(w, geometry); err != nil {
		s.log(r.Context(), "write model", err) // the answer has begun
	}
	return nil
}
