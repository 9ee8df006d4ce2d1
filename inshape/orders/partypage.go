package orders

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"

	"inshape/frame"
)

func (m *module) partiesPage(w http.ResponseWriter, r *http.Request) error {
	if err := frame.Require(r.Context(), frame.Staff); err != nil {
		return err
	}
	query := r.URL.Query().Get("q")
	list, err := m.parties(r.Context(), query, frame.Page{Limit: 50, After: r.URL.Query().Get("after")})
	if err != nil {
		return err
	}
	return m.server.Render(w, r, http.StatusOK, "parties.html", "Parties", struct {
		Query, Key string
		List       frame.List[Party]
	}{query, frame.NewID("key"), list})
}

func (m *module) partyPage(w http.ResponseWriter, r *http.Request) error {
	var word *said
	if text := doneTexts[r.URL.Query().Get("done")]; text != "" {
		word = &said{Text: text}
	}
	return m.showParty(w, r, http.StatusOK, r.PathValue("id"), word)
}

func (m *module) showParty(w http.ResponseWriter, r *http.Request, status int, id string, word *said) error {
	p, err := m.party(r.Context(), id)
	if err != nil {
		return err
	}
	addresses, err := m.addresses(r.Context(), id)
	if err != nil {
		return err
	}
	return m.server.Render(w, r, status, "party.html", cmp.Or(p.Company, p.Name), struct {
		Party     Party
		Addresses []Address
		Said      *said
	}{p, addresses, word})
}

func (m *module) saveParty(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return frame.Invalid("the form could not be read").Because(err)
	}
	id, form := r.PathValue("id"), r.PostForm
	p := partyFrom(form)
	err := m.fits(p)
	if err == nil {
		_, err = m.changeParty(r.Context(), id, frame.Match{IfMatch: `"v` + form.Get("version") + `"`}, p)
	}
	if err != nil {
		if problem := frame.AsProblem(err); problem.Status < 500 && problem.Status != http.StatusNotFound {
			return m.showParty(w, r, problem.Status, id, refusal(problem))
		}
		return err
	}
	http.Redirect(w, r, "/orders/parties/"+url.PathEscape(id)+"?done=party", http.StatusSeeOther)
	return nil
}

func (m *module) forgetAddress(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if err := m.deleteAddress(r.Context(), id, r.PathValue("address")); err != nil {
		return err
	}
	http.Redirect(w, r, "/orders/parties/"+url.PathEscape(id)+"?done=address", http.StatusSeeOther)
	return nil
}

func partyFrom(form url.Values) Party {
	text := func(name string) string { return strings.TrimSpace(form.Get(name)) }
	return Party{Name: text("name"), Company: text("company"), Email: text("email"), Phone: text("phone"), TaxID: text("tax_id")}
}

// addParty makes a party that has no account of its own.
func (m *module) addParty(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return frame.Invalid("the form could not be read").Because(err)
	}
	in := partyFrom(r.PostForm)
	if err := m.fits(in); err != nil {
		return err
	}
	p, err := m.createParty(frame.WithKey(r.Context(), r.PostForm.Get("key"), r.URL.Path+"?"+r.PostForm.Encode()), in)
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/orders/parties/"+p.ID+"?done=party", http.StatusSeeOther)
	return nil
}
