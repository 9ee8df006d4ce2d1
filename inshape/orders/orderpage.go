package orders

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"inshape/frame"
)

type orderData struct {
	Order       *Order
	History     []Step
	Comments    []Comment
	Attachments []Attachment
	Life        []lifeStep
	Older       bool // there is more history than is shown
	MayCancel   bool
	MayChange   bool
	Said        *said
}

// What a page shows of a long conversation and a long history.
const (
	shownComments = 200
	shownSteps    = 25
)

type lifeStep struct{ Word, Class string }

func (m *module) orderPage(w http.ResponseWriter, r *http.Request) error {
	var word *said
	if text := doneTexts[r.URL.Query().Get("done")]; text != "" {
		word = &said{Text: text}
	}
	return m.showOrder(w, r, http.StatusOK, r.PathValue("id"), word)
}

func (m *module) showOrder(w http.ResponseWriter, r *http.Request, status int, id string, word *said) error {
	ctx := r.Context()
	o, err := m.order(ctx, id)
	if err != nil {
		return err
	}
	data := orderData{Order: o, Said: word, Life: life(o.State)}
	var errs [3]error
	data.History, errs[0] = m.history(ctx, id, "seq < ? ORDER BY seq DESC", math.MaxInt64, shownSteps+1)
	data.Comments, errs[1] = m.comments(ctx, id, "id < ? ORDER BY id DESC", "cmt_~", shownComments) // ~ is behind all identifiers
	data.Attachments, errs[2] = m.attachments(ctx, id)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	staff := frame.Who(ctx).May(frame.Staff)
	slices.Reverse(data.Comments)
	if data.Older = len(data.History) > shownSteps; data.Older {
		data.History = data.History[:shownSteps]
	}
	data.MayCancel = o.State != Cancelled && o.uncancellable(staff) == nil
	data.MayChange = o.State == Placed || staff && o.State != Delivered && o.State != Cancelled
	return m.server.Render(w, r, status, "order.html", fmt.Sprintf("Order %d", o.Number), data)
}

// life is an order's way, for the row of dots.
func life(now State) []lifeStep {
	var steps []lifeStep
	at := slices.Index(OrderStates, now)
	for i, s := range OrderStates[:len(OrderStates)-1] {
		step := lifeStep{Word: stateWord(s)}
		switch {
		case i < at:
			step.Class = "past"
		case i == at:
			step.Class = "now"
		}
		steps = append(steps, step)
	}
	return steps
}

func (m *module) attachPage(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	r.Body = http.MaxBytesReader(w, r.Body, maxAttachment+64<<10)
	form, err := r.MultipartReader()
	if err != nil {
		return frame.Invalid("the form could not be read").Because(err)
	}
	for {
		part, err := form.NextPart()
		if err != nil {
			return m.showOrder(w, r, http.StatusUnprocessableEntity, id, &said{Text: "Choose a file first.", Bad: true})
		}
		if part.FormName() == "key" {
			key, err := io.ReadAll(io.LimitReader(part, 128))
			if err != nil {
				return frame.Invalid("the form could not be read").Because(err)
			}
			r = r.WithContext(frame.WithKey(r.Context(), string(key), r.URL.Path))
		}
		if part.FormName() != "file" || part.FileName() == "" {
			continue
		}
		if _, err := m.attach(r.Context(), id, part.FileName(), part.Header.Get("Content-Type"), part); err != nil {
			if p := frame.AsProblem(err); p.Status < 500 && p.Status != http.StatusNotFound {
				return m.showOrder(w, r, p.Status, id, refusal(p))
			}
			return err
		}
		http.Redirect(w, r, "/orders/"+url.PathEscape(id)+"?done=attachments", http.StatusSeeOther)
		return nil
	}
}

// historyPage shows all that happened, a part at a time, newest first.
func (m *module) historyPage(w http.ResponseWriter, r *http.Request) error {
	o, err := m.order(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	before := int64(math.MaxInt64)
	if text := r.URL.Query().Get("before"); text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil {
			return frame.Invalid("before: %q is no step", text)
		}
	}
	const limit = 200
	steps, err := m.history(r.Context(), o.ID, "seq < ? ORDER BY seq DESC", before, limit+1)
	if err != nil {
		return err
	}
	list := frame.ListOf(steps, limit, func(s Step) string { return strconv.FormatInt(s.Sequence, 10) })
	return m.server.Render(w, r, http.StatusOK, "history.html", fmt.Sprintf("History of order %d", o.Number), struct {
		Order *Order
		List  frame.List[Step]
	}{o, list})
}

// slipPage is what lies in the parcel: for a printer.
func (m *module) slipPage(w http.ResponseWriter, r *http.Request) error {
	o, err := m.order(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return m.server.Render(w, r, http.StatusOK, "slip.html", fmt.Sprintf("Packing slip of order %d", o.Number), o)
}

func (m *module) confirmForm(r *http.Request, match frame.Match) error {
	_, err := m.confirm(r.Context(), r.PathValue("id"), match, "")
	return err
}

func (m *module) cancelForm(r *http.Request, match frame.Match) error {
	in := note{strings.TrimSpace(r.PostFormValue("note"))}
	if err := m.fits(in); err != nil {
		return err
	}
	_, err := m.cancel(r.Context(), r.PathValue("id"), match, in.Note)
	return err
}

func (m *module) changeForm(r *http.Request, match frame.Match) error {
	form := func(name string) *string {
		text := strings.TrimSpace(strings.ReplaceAll(r.PostFormValue(name), "\r\n", "\n"))
		return &text
	}
	in := OrderChange{Reference: form("reference"), Notes: form("notes"), Due: form("due")}
	if err := m.fits(in); err != nil {
		return err
	}
	_, err := m.edit(r.Context(), r.PathValue("id"), match, in)
	return err
}

func (m *module) commentForm(r *http.Request, _ frame.Match) error {
	in := NewComment{Text: strings.ReplaceAll(r.PostFormValue("text"), "\r\n", "\n"), Internal: r.PostFormValue("internal") == "true"}
	if err := m.fits(in); err != nil {
		return err
	}
	_, err := m.comment(r.Context(), r.PathValue("id"), in)
	return err
}

func (m *module) verdictForm(r *http.Request, match frame.Match) error {
	in := NewVerdict{Verdict: r.PostFormValue("verdict"), Note: r.PostFormValue("note")}
	if err := m.fits(in); err != nil {
		return err
	}
	_, err := m.decide(r.Context(), r.PathValue("id"), r.PathValue("line"), match, in)
	return err
}

func (m *module) eventForm(r *http.Request, match frame.Match) error {
	quantity, err := formNumber(r, "quantity")
	if err != nil {
		return err
	}
	in := LineEvent{Kind: Kind(r.PostFormValue("kind")), Quantity: quantity, Note: r.PostFormValue("note")}
	if err := m.fits(in); err != nil {
		return err
	}
	_, err = m.lineEvent(r.Context(), r.PathValue("id"), r.PathValue("line"), match, in)
	return err
}

func (m *module) reprintForm(r *http.Request, match frame.Match) error {
	quantity, err := formNumber(r, "quantity")
	if err != nil {
		return err
	}
	in := Reprint{Quantity: quantity, Reason: strings.TrimSpace(r.PostFormValue("reason"))}
	if err := m.fits(in); err != nil {
		return err
	}
	_, err = m.reprint(r.Context(), r.PathValue("id"), r.PathValue("line"), match, in)
	return err
}

func (m *module) requirementsForm(r *http.Request, match frame.Match) error {
	in := requirementsFrom(r.PostForm, "")
	in.Finish = strings.TrimSpace(r.PostFormValue("finish"))
	if err := m.fits(in); err != nil {
		return err
	}
	_, err := m.require(r.Context(), r.PathValue("id"), r.PathValue("line"), match, in)
	return err
}

func (m *module) priceForm(r *http.Request, match frame.Match) error {
	in := Price{UnitPrice: strings.TrimSpace(r.PostFormValue("unit_price"))}
	if err := m.fits(in); err != nil {
		return err
	}
	_, err := m.price(r.Context(), r.PathValue("id"), r.PathValue("line"), match, in)
	return err
}

// formNumber reads a number of a form; left empty it is 0.
func formNumber(r *http.Request, name string) (int, error) {
	text := cmp.Or(strings.TrimSpace(r.PostFormValue(name)), "0")
	number, err := strconv.Atoi(text)
	if err != nil {
		return 0, frame.Invalid("%s: %q is no number", name, text)
	}
	return number, nil
}
