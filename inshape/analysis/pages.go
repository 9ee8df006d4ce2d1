package analysis

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"inshape/frame"
	"inshape/material"
	"inshape/mesh"
	"inshape/price"
	"inshape/printability"
)

// units are offered where a file has none, the likeliest first.
var units = []mesh.Unit{mesh.Millimetre, mesh.Inch, mesh.Centimetre, mesh.Metre, mesh.Micron, mesh.Foot}

// funcs are what the module's templates may use.
func funcs() template.FuncMap {
	return template.FuncMap{
		"length":     length,
		"lengths":    func(unit string, v ...float64) string { return lengths(unit, v) },
		"volume":     volume,
		"percent":    func(x float64) string { return fmt.Sprintf("%.3g %%", x) },
		"area":       func(mm2 float64) string { return fmt.Sprintf("%.4g cm²", mm2/100) },
		"size":       size,
		"word":       word,
		"look":       look,
		"units":      func() []mesh.Unit { return units },
		"place":      func(v mesh.Vec) string { return fmt.Sprintf("%g,%g,%g", v[0], v[1], v[2]) },
		"box":        func(b [2]mesh.Vec) []float64 { s := b[1].Sub(b[0]); return s[:] },
		"key":        func() string { return frame.NewID("key") },
		"weight":     func(g float64) string { return weight(g) },
		"day":        day,
		"escapeHole": escapeHole,
		"processes": func() []material.Process {
			return []material.Process{material.SLS, material.MJF, material.SLA, material.FDM, material.DMLS}
		},
		"stepWord": func(s StepName) string { return stepWords[s] },
		"plus":     func(a, b int) int { return a + b },
	}
}

// length is a length in mm as text, in the shop's unit.
func length(unit string, mm float64) string {
	if unit == "in" {
		return fmt.Sprintf("%.4g in", mm/25.4)
	}
	return fmt.Sprintf("%.4g mm", mm)
}

func lengths(unit string, v []float64) string {
	var b strings.Builder
	for i, x := range v {
		if i > 0 {
			b.WriteString(" × ")
		}
		if unit == "in" {
			x /= 25.4
		}
		fmt.Fprintf(&b, "%.4g", x)
	}
	return b.String() + " " + unit
}

func volume(mm3 float64) string { return fmt.Sprintf("%.4g cm³", mm3/1000) }

func weight(g float64) string {
	if g >= 1000 {
		return fmt.Sprintf("%.3g kg", g/1000)
	}
	return fmt.Sprintf("%.3g g", g)
}

// size is a number of bytes as text.
func size(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.3g MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.3g KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

// day is a date of the form 2026-12-25 for a person.
func day(date string) string {
	t, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return date
	}
	return t.Format("2 Jan 2006")
}

var stepWords = map[StepName]string{
	Read: "Read the file", Make: "Make the revision", Topology: "Check the surface", Thickness: "Measure the walls", Cavities: "Look for cavities",
	Orientation: "Measure how it lies", Pictures: "Draw pictures", Printability: "Judge all materials",
}

// word is what a state or a kind is called.
func word(v any) string {
	switch v := fmt.Sprint(v); v {
	case "asking":
		return "needs a unit"
	case "quarantined":
		return "put aside"
	case "with-remarks":
		return "with remarks"
	case "not-printable":
		return "not printable"
	case "running":
		return "analysing"
	case "done":
		return "analysed"
	case "original":
		return "as uploaded"
	case "repair":
		return "repaired"
	case "hollow":
		return "hollowed"
	case "orient":
		return "turned"
	case "union":
		return "bodies united"
	case "scale":
		return "scaled"
	case "unit":
		return "read in another unit"
	default:
		return v
	}
}

// look is the colour of a state.
func look(v any) string {
	switch fmt.Sprint(v) {
	case "printable", "accepted", "done":
		return "good"
	case "with-remarks", "asking", "warning":
		return "warn"
	case "not-printable", "refused", "quarantined", "error":
		return "bad"
	case "waiting", "running", "open", "info":
		return "busy"
	}
	return ""
}

// offer is a remedy that a button does.
type offer struct {
	Text      string
	Operation Operation
}

// findingView is a finding with what can be done about it.
type findingView struct {
	Remark
	Offers []offer  // by a button
	Hints  []string // by the customer
	Walls  bool     // it shows where walls are coloured
}

func findingViews(list []Remark) []findingView {
	var views []findingView
	for _, f := range list {
		v := findingView{Remark: f, Walls: slices.Contains([]printability.Code{printability.ThinWall, printability.ThinSpot, printability.WeakWall}, f.Code)}
		for _, r := range f.Remedies {
			if o, ok := offerOf(r, f.material); ok {
				v.Offers = append(v.Offers, o)
			} else {
				v.Hints = append(v.Hints, r.Text)
			}
		}
		views = append(views, v)
	}
	return views
}

// escapeHole is the diameter of the holes that are proposed, mm: what a material
// asks for, or, where it asks for none, one through which powder and resin leave.
func escapeHole(m material.Material) float64 {
	if m.Cavities == nil {
		return 4
	}
	return m.Cavities.Hole
}

// offerOf is a remedy that can be done here.
func offerOf(r printability.Remedy, in material.Material) (offer, bool) {
	switch r.Action {
	case printability.Repair:
		return offer{"Repair it", Operation{Kind: Repair}}, true
	case printability.Hollow:
		return offer{fmt.Sprintf("Hollow it to %g mm", r.Value), Operation{Kind: Hollow, Wall: r.Value, Hole: escapeHole(in)}}, true
	case printability.Orient:
		return offer{fmt.Sprintf("Turn it for %s", in.Process), Operation{Kind: Orient, Process: in.Process}}, true
	case printability.Union:
		return offer{"Make it one body", Operation{Kind: Union}}, true
	case printability.Scale:
		return offer{fmt.Sprintf("Scale by %g", r.Value), Operation{Kind: Scale, Factor: r.Value}}, true
	case printability.SetUnit:
		return offer{fmt.Sprintf("Read it in %ss", r.Unit), Operation{Kind: ReadUnit, Unit: mesh.Unit(r.Unit)}}, true
	}
	return offer{}, false
}

func (s *service) pages() {
	s.Page("GET /analysis/{$}", s.listPage)
	s.Page("GET /analysis/card", s.cardPage)
	s.Page("POST /analysis/models", s.uploadPage)
	s.Page("GET /analysis/models/{id}", s.modelPage)
	s.Page("GET /analysis/models/{id}/progress", s.progressPart)
	s.Page("GET /analysis/models/{id}/price", s.pricePart)
	for path, do := range map[string]func(context.Context, string, url.Values) (string, error){
		"unit":    s.unitForm,
		"change":  s.changeForm,
		"current": s.currentForm,
		"cancel":  s.cancelForm,
		"retry":   s.retryForm,
		"delete":  s.deleteForm,
		"accept":  s.acceptForm,
	} {
		s.Page("POST /analysis/models/{id}/"+path, s.form(do))
	}
	s.Page("POST /analysis/models/{id}/share", s.sharePage)
	s.Page("GET /analysis/quotes", s.quotesPage)
	s.Page("POST /analysis/quotes", s.quoteForm)
	s.Page("GET /analysis/quotes/{id}", s.quotePage)
	s.Page("POST /analysis/quotes/{id}/accept", s.answerForm(Accepted))
	s.Page("POST /analysis/quotes/{id}/refuse", s.answerForm(RefusedByThem))
	s.PublicPage("GET /analysis/shared/{token}", s.sharedPage)
	s.PublicPage("GET /analysis/shared/{token}/picture.png", s.sharedPicture)
}

// form answers a form about a model: it does it and leads back to the page.
func (s *service) form(do func(context.Context, string, url.Values) (string, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := parseForm(w, r); err != nil {
			return err
		}
		where, err := do(frame.WithKey(r.Context(), r.PostForm.Get("key"), r.URL.Path), r.PathValue("id"), r.PostForm)
		if err != nil {
			return err
		}
		http.Redirect(w, r, where, http.StatusSeeOther)
		return nil
	}
}

func parseForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	if err := r.ParseForm(); err != nil {
		return frame.NewProblem(http.StatusBadRequest, "bad-request", "the form cannot be read").Because(err)
	}
	return nil
}

func modelPath(id string, n int) string {
	if n > 0 {
		return fmt.Sprintf("/analysis/models/%s?r=%d", id, n)
	}
	return "/analysis/models/" + id
}

// whole reads a number that a page put into a form.
func whole(form url.Values, name string) (int, error) {
	n, err := strconv.Atoi(form.Get(name))
	if err != nil || n < 1 {
		return 0, frame.Invalid("%s: %q is no number from 1", name, form.Get(name))
	}
	return n, nil
}

func (s *service) unitForm(ctx context.Context, id string, form url.Values) (string, error) {
	_, err := s.setUnit(ctx, id, mesh.Unit(form.Get("unit")))
	return modelPath(id, 0), err
}

func (s *service) changeForm(ctx context.Context, id string, form url.Values) (string, error) {
	source, err := whole(form, "source")
	if err != nil {
		return "", err
	}
	o := Operation{Kind: Kind(form.Get("kind")), Unit: mesh.Unit(form.Get("unit")), Process: material.Process(form.Get("process"))}
	for name, into := range map[string]*float64{"factor": &o.Factor, "wall": &o.Wall, "hole": &o.Hole} {
		text := strings.Replace(strings.TrimSpace(form.Get(name)), ",", ".", 1)
		if text == "" {
			continue
		}
		if *into, err = strconv.ParseFloat(text, 64); err != nil || math.IsNaN(*into) || math.IsInf(*into, 0) {
			return "", frame.Invalid("%s: %q is no number", name, form.Get(name))
		}
	}
	r, err := s.change(ctx, id, source, o)
	return modelPath(id, r.Number), err
}

func (s *service) currentForm(ctx context.Context, id string, form url.Values) (string, error) {
	n, err := whole(form, "revision")
	if err != nil {
		return "", err
	}
	_, err = s.changeModel(ctx, id, frame.Match{}, "", n)
	return modelPath(id, 0), err
}

func (s *service) cancelForm(ctx context.Context, id string, form url.Values) (string, error) {
	n, err := whole(form, "revision")
	if err != nil {
		return "", err
	}
	return modelPath(id, n), s.cancelAnalysis(ctx, id, n)
}

func (s *service) retryForm(ctx context.Context, id string, form url.Values) (string, error) {
	n, err := whole(form, "revision")
	if err != nil {
		return "", err
	}
	return modelPath(id, n), s.retryAnalysis(ctx, id, n)
}

func (s *service) deleteForm(ctx context.Context, id string, _ url.Values) (string, error) {
	return "/analysis/", s.deleteModel(ctx, id, frame.Match{})
}

func (s *service) acceptForm(ctx context.Context, id string, form url.Values) (string, error) {
	n, err := whole(form, "revision")
	if err != nil {
		return "", err
	}
	return modelPath(id, n) + "#verdicts", s.acceptVerdict(ctx, id, n, material.ID(form.Get("material")), form.Get("note"))
}

// listPage shows the models, and takes new ones.
func (s *service) listPage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	l := Listing{Page: frame.Page{Limit: 24, After: q.Get("after")}, Query: q.Get("q"), State: State(q.Get("state")), Party: q.Get("party")}
	list, err := s.models(r.Context(), l)
	if err != nil {
		return err
	}
	q.Del("after")
	type card struct {
		Model
		Fit, Remarks, Not int
	}
	data := struct {
		Cards   []card
		Next    string
		Listing Listing
		Filters template.URL
		States  []State
		Units   []mesh.Unit
		MaxMiB  int64
		Any     bool // there are models at all, whatever is looked for
	}{
		Next: list.Next, Listing: l, Filters: template.URL(q.Encode()), States: []State{Done, Running, Waiting, Asking, Refused, Quarantined, Cancelled}, //nolint:gosec // encoded
		Units: units, MaxMiB: s.settings.MaxUpload >> 20, Any: len(list.Items) > 0 || l.Query != "" || l.State != "" || l.Party != "",
	}
	for _, m := range list.Items {
		c := card{Model: m}
		if m.Revision.Report != nil {
			for _, v := range s.verdictsOf(m.Revision.Report) {
				switch v.Outcome {
				case printability.Printable:
					c.Fit++
				case printability.WithRemarks:
					c.Remarks++
				default:
					c.Not++
				}
			}
		}
		data.Cards = append(data.Cards, c)
	}
	return s.Render(w, r, http.StatusOK, "models.html", "Models", data)
}

// cardPage is what the shop's home page shows of this module.
func (s *service) cardPage(w http.ResponseWriter, r *http.Request) error {
	list, err := s.models(r.Context(), Listing{Page: frame.Page{Limit: 4}})
	if err != nil {
		return err
	}
	quotes, err := s.quotes(r.Context(), QuoteListing{Page: frame.Page{Limit: 20}, State: Open})
	if err != nil {
		return err
	}
	return s.RenderPart(w, r, "card.html", "main", struct {
		Models []Model
		Quotes int
	}{list.Items, len(quotes.Items)})
}

// uploadPage takes files of a form, for browsers without JavaScript.
func (s *service) uploadPage(w http.ResponseWriter, r *http.Request) error {
	parts, err := r.MultipartReader()
	if err != nil {
		return frame.NewProblem(http.StatusBadRequest, "bad-request", "the form has no files").Because(err)
	}
	if r.ContentLength > 20*s.settings.MaxUpload {
		return s.uploads.tooLarge()
	}
	control := http.NewResponseController(w)
	var unit mesh.Unit
	var last Model
	made := 0
	for {
		_ = control.SetReadDeadline(time.Now().Add(uploadStall)) // see lively
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return uploadProblem(fmt.Errorf("read form: %w", errors.Join(err, io.ErrUnexpectedEOF)))
		}
		switch part.FormName() {
		case "unit":
			text, err := io.ReadAll(io.LimitReader(part, 32))
			if err != nil {
				return uploadProblem(err)
			}
			unit = mesh.Unit(text)
		case "file":
			if part.FileName() == "" {
				continue // nothing was chosen
			}
			if last, err = s.uploads.take(r.Context(), &lively{part, control}, part.FileName(), unit, ""); err != nil {
				return uploadProblem(err)
			}
			made++
		}
	}
	_ = control.SetReadDeadline(time.Time{})
	switch made {
	case 0:
		return frame.Invalid("no file was chosen").Advise("Choose an STL, OBJ, 3MF or AMF file.")
	case 1:
		http.Redirect(w, r, modelPath(last.ID, 0), http.StatusSeeOther)
	default:
		http.Redirect(w, r, "/analysis/", http.StatusSeeOther)
	}
	return nil
}

// modelView is what the page of a model shows.
type modelView struct {
	Model     Model
	Revision  Revision // the one that is looked at
	Revisions []Revision
	Steps     []StepTimes
	Busy      int // number of a revision that is under way, 0 for none
	Verdicts  []Verdict
	Findings  []findingView
	Materials []material.Material
	Before    int // number of the revision to compare with, 0 for none
	Choice    choice
	Price     pricing
	Quotes    []Quote
	Staff     bool
	Base      string
}

// modelPage shows one model.
func (s *service) modelPage(w http.ResponseWriter, r *http.Request) error {
	v, err := s.modelView(r)
	if err != nil {
		return err
	}
	return s.Render(w, r, http.StatusOK, "model.html", v.Model.Name, v)
}

func (s *service) modelView(r *http.Request) (*modelView, error) {
	ctx := r.Context()
	n, _ := strconv.Atoi(r.URL.Query().Get("r")) // without one: the current revision
	v := &modelView{Materials: s.materials.Materials, Staff: frame.Who(ctx).May(frame.Staff), Base: s.Base()}
	err := s.Store.View(ctx, func(tx *sql.Tx) (err error) {
		if v.Model, v.Revision, err = findBoth(ctx, tx, r.PathValue("id"), max(n, 0)); err != nil {
			return err
		}
		if v.Revisions, err = revisionsOf(tx, v.Model.ID); err != nil {
			return err
		}
		for _, x := range v.Revisions {
			if !x.State.Ended() {
				v.Busy = x.Number
			}
		}
		shown := v.Revision.Number
		if v.Busy > 0 {
			shown = v.Busy
		}
		if v.Steps, err = stepsOf(tx, v.Model.ID, shown); err != nil {
			return err
		}
		if v.Revision.State != Done {
			return nil
		}
		if v.Verdicts, err = s.verdicts(tx, v.Model, v.Revision); err != nil {
			return err
		}
		v.Findings = findingViews(s.findings(v.Revision.Report, ""))
		v.Choice = s.choice(r.URL.Query(), v)
		v.Price = s.pricing(ctx, tx, v.Model.ID, v.Revision.Number, v.Choice)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if v.Revision.Source > 0 && v.Revision.State == Done {
		v.Before = v.Revision.Source
	}
	quotes, err := s.quotes(ctx, QuoteListing{Page: frame.Page{Limit: 10}, Model: v.Model.ID})
	if err != nil {
		return nil, err
	}
	v.Quotes = quotes.Items
	return v, nil
}

// progressPart is the state of an analysis under way, asked for again and again.
func (s *service) progressPart(w http.ResponseWriter, r *http.Request) error {
	v, err := s.modelView(r)
	if err != nil {
		return err
	}
	if v.Busy == 0 {
		w.Header().Set("HX-Refresh", "true")
		return nil
	}
	return s.RenderPart(w, r, "model.html", "progress", v)
}

// choice is what the quote builder is set to.
type choice struct {
	Material material.Material
	Finish   material.FinishID
	Colour   material.ColourID
	Quantity int
	Rush     price.RushID
}

// pricing is a choice with its price, or why it has none.
type pricing struct {
	Choice  choice
	Item    *QuoteItem
	Fault   *frame.Problem
	Finish  material.Finish
	Verdict printability.Outcome
	Tier    int // the quantity from which the price of a piece holds
}

// choice reads what the builder is set to. At first it is the material that fits best.
func (s *service) choice(q url.Values, v *modelView) choice {
	c := choice{Finish: material.FinishID(q.Get("finish")), Colour: material.ColourID(q.Get("colour")), Rush: price.RushID(q.Get("rush")), Quantity: 1}
	if n, err := strconv.Atoi(q.Get("quantity")); err == nil {
		c.Quantity = n
	}
	found, ok := s.materials.Find(material.ID(q.Get("material")))
	if !ok {
		found = s.materials.Materials[0]
		for _, want := range []printability.Outcome{printability.Printable, printability.WithRemarks} {
			if i := slices.IndexFunc(v.Verdicts, func(x Verdict) bool { return x.Outcome == want }); i >= 0 {
				found = s.materials.Materials[i]
				break
			}
		}
	}
	c.Material = found
	// A finish or a way to be faster of the material that was chosen before is none of this one's.
	if !slices.ContainsFunc(found.Finishes, func(f material.Finish) bool { return f.ID == c.Finish }) {
		c.Finish, c.Colour = found.Finishes[0].ID, ""
	}
	if !slices.ContainsFunc(found.Prices.Rush, func(x price.Rush) bool { return x.ID == c.Rush }) {
		c.Rush = ""
	}
	finish := found.Finishes[slices.IndexFunc(found.Finishes, func(f material.Finish) bool { return f.ID == c.Finish })]
	if !slices.ContainsFunc(finish.Colours, func(x material.Colour) bool { return x.ID == c.Colour }) {
		c.Colour = finish.Colours[0].ID
	}
	return c
}

func (s *service) pricing(ctx context.Context, tx frame.Querier, model string, n int, c choice) pricing {
	p := pricing{Choice: c}
	for _, f := range c.Material.Finishes {
		if f.ID == c.Finish {
			p.Finish = f
		}
	}
	item, _, err := s.priced(ctx, tx, Order{
		Model: model, Revision: n, Material: c.Material.ID, Finish: c.Finish, Colour: c.Colour, Quantity: c.Quantity, Rush: c.Rush,
	}, time.Now())
	if err != nil {
		p.Fault = frame.AsProblem(err)
		return p
	}
	p.Item, p.Verdict = &item, item.Verdict
	for _, t := range item.Price.Tiers {
		if t.From <= item.Quantity {
			p.Tier = t.From
		}
	}
	return p
}

// pricePart is the quote builder, set to what was chosen.
func (s *service) pricePart(w http.ResponseWriter, r *http.Request) error {
	v, err := s.modelView(r)
	if err != nil {
		return err
	}
	return s.RenderPart(w, r, "model.html", "builder", v)
}

// quoteForm makes a quote of what the builder is set to.
func (s *service) quoteForm(w http.ResponseWriter, r *http.Request) error {
	if err := parseForm(w, r); err != nil {
		return err
	}
	f := r.PostForm
	n, err := whole(f, "revision")
	if err != nil {
		return err
	}
	quantity, err := whole(f, "quantity")
	if err != nil {
		return err
	}
	ctx := frame.WithKey(r.Context(), f.Get("key"), f.Encode())
	q, err := s.makeQuote(ctx, draft{
		Items: []Order{{
			Model: f.Get("model"), Revision: n, Material: material.ID(f.Get("material")), Finish: material.FinishID(f.Get("finish")),
			Colour: material.ColourID(f.Get("colour")), Quantity: quantity, Rush: price.RushID(f.Get("rush")),
		}},
		Message: f.Get("message"), Proposal: f.Get("proposal") != "",
	})
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/analysis/quotes/"+q.ID, http.StatusSeeOther)
	return nil
}

func (s *service) quotesPage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	list, err := s.quotes(r.Context(), QuoteListing{Page: frame.Page{Limit: 50, After: q.Get("after")}, State: QuoteState(q.Get("state")), Party: q.Get("party")})
	if err != nil {
		return err
	}
	return s.Render(w, r, http.StatusOK, "quotes.html", "Quotes", struct {
		frame.List[Quote]
		State  QuoteState
		States []QuoteState
	}{list, QuoteState(q.Get("state")), []QuoteState{Open, Accepted, RefusedByThem, Expired}})
}

func (s *service) quotePage(w http.ResponseWriter, r *http.Request) error {
	q, err := s.quote(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	who := frame.Who(r.Context())
	title := "Quote"
	if q.Proposal {
		title = "Proposal"
	}
	return s.Render(w, r, http.StatusOK, "quote.html", title, struct {
		Quote
		Title  string
		Orders bool // the shop has the module that takes orders
	}{q, title, slices.ContainsFunc(who.Modules, func(m frame.ModuleState) bool { return m.Name == "orders" })})
}

func (s *service) answerForm(to QuoteState) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := parseForm(w, r); err != nil {
			return err
		}
		q, err := s.answerQuote(r.Context(), r.PathValue("id"), frame.Match{}, to, r.PostForm.Get("note"))
		if err != nil {
			return err
		}
		http.Redirect(w, r, "/analysis/quotes/"+q.ID, http.StatusSeeOther)
		return nil
	}
}

// sharePage makes a link and shows it, once.
func (s *service) sharePage(w http.ResponseWriter, r *http.Request) error {
	if err := parseForm(w, r); err != nil {
		return err
	}
	n, err := whole(r.PostForm, "revision")
	if err != nil {
		return err
	}
	days, err := whole(r.PostForm, "days")
	if err != nil {
		return err
	}
	made, err := s.share(r.Context(), r.PathValue("id"), n, days)
	if err != nil {
		return err
	}
	m, err := s.model(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.Render(w, r, http.StatusOK, "share.html", "Link to a picture", struct {
		Model Model
		Share Share
	}{m, made})
}

// sharedPage is what somebody with a link sees: a picture and no more.
func (s *service) sharedPage(w http.ResponseWriter, r *http.Request) error {
	m, rev, err := s.shared(r.Context(), r.PathValue("token"))
	if err != nil {
		return err
	}
	w.Header().Set("X-Robots-Tag", "noindex")
	return s.Render(w, r, http.StatusOK, "shared.html", m.Name, struct {
		Name  string
		Box   [2]mesh.Vec
		Token string
	}{m.Name, rev.Report.Box, r.PathValue("token")})
}

func (s *service) sharedPicture(w http.ResponseWriter, r *http.Request) error {
	m, rev, err := s.shared(r.Context(), r.PathValue("token"))
	if err != nil {
		return err
	}
	picture, err := os.ReadFile(s.path(m.ID, rev.Number, fileGuarded))
	if err != nil {
		return fmt.Errorf("read picture: %w", err)
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Cache-Control", "private, no-store")
	http.ServeContent(w, r, "", rev.At, bytes.NewReader(picture))
	return nil
}
