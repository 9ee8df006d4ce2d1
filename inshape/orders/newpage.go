package orders

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"inshape/frame"
)

type newData struct {
	Key       string
	Quote     *quote
	Lines     []NewLine
	Addresses []Address
	Chosen    string // identifier of an address, or new
	Address   Address
	Staff     bool
	Party     string
	Reference string
	Due       string
	Notes     string
	Wishes    []Requirements // of the quote's items
	Parties   []Party        // for staff to choose from
	Fault     *frame.Problem
}

// formLines is how many parts the form of an order by hand has.
const formLines = 5

func (m *module) newPage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	return m.showNew(w, r, http.StatusOK, newData{Party: q.Get("party")}, q.Get("quote"))
}

// showNew fills in what the asker and the quote say.
func (m *module) showNew(w http.ResponseWriter, r *http.Request, status int, data newData, quoteID string) error {
	ctx := r.Context()
	who := frame.Who(ctx)
	if quoteID == "" && m.analysis != nil {
		return frame.Invalid("orders begin with a quote here").Advise("Upload a file, ask for a quote and accept it.")
	}
	party := who.Party
	if quoteID != "" {
		q, err := m.acceptedQuote(ctx, quoteID)
		if err != nil {
			return err
		}
		data.Quote, party = q, q.Party
		data.Wishes = append(data.Wishes, make([]Requirements, max(0, len(q.Items)-len(data.Wishes)))...)
	} else if who.May(frame.Staff) {
		data.Staff, party = true, data.Party
		list, err := m.parties(ctx, "", frame.Page{Limit: 200})
		if err != nil {
			return err
		}
		data.Parties = list.Items
	}
	if party != "" {
		err := m.ensureParty(ctx, party)
		if err == nil {
			data.Addresses, err = m.addresses(ctx, party)
		}
		if err != nil && frame.AsProblem(err).Status != http.StatusNotFound {
			return err
		}
	}
	for len(data.Lines) < formLines {
		data.Lines = append(data.Lines, NewLine{})
	}
	if data.Key == "" {
		data.Key = frame.NewID("key")
	}
	if data.Chosen == "" && len(data.Addresses) > 0 {
		data.Chosen = data.Addresses[0].ID
	}
	if data.Address.Name == "" && len(data.Addresses) == 0 && who.Party == party {
		data.Address.Name = who.Name
	}
	return m.server.Render(w, r, status, "new.html", "New order", data)
}

func (m *module) place(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 256<<10)
	if err := r.ParseForm(); err != nil {
		return frame.Invalid("the form could not be read").Because(err)
	}
	form := r.PostForm
	who := frame.Who(r.Context())
	in := NewOrder{Quote: form.Get("quote"), Reference: form.Get("reference"), Notes: form.Get("notes"), Due: form.Get("due")}
	if who.May(frame.Staff) {
		in.Party = form.Get("party")
	}
	at := func(name string, i int) string {
		if values := form[name]; i < len(values) {
			return strings.TrimSpace(values[i])
		}
		return ""
	}
	for i := 0; in.Quote != "" && i < 500 && form.Has(prefix(i)+"tolerances"); i++ {
		in.Requirements = append(in.Requirements, requirementsFrom(form, prefix(i)))
	}
	for i := range min(len(form["part"]), formLines) {
		if in.Quote != "" || at("part", i) == "" {
			continue
		}
		quantity, _ := strconv.Atoi(at("quantity", i)) // 0 is refused below
		in.Lines = append(in.Lines, NewLine{Name: at("part", i), Material: at("material", i), Quantity: quantity, Requirements: requirementsFrom(form, prefix(i))})
	}
	o, err := m.placeForm(r.WithContext(frame.WithKey(r.Context(), form.Get("key"), form.Encode())), &in, form)
	if err != nil {
		p := frame.AsProblem(err)
		if p.Status >= 500 || p.Status == http.StatusNotFound || p.Code == "already-ordered" || p.Code == "quote-not-accepted" {
			return err
		}
		return m.showNew(w, r, p.Status, newData{
			Key: form.Get("key"), Wishes: in.Requirements, Lines: in.Lines, Chosen: form.Get("address"), Address: in.ShipTo, Party: in.Party, Reference: in.Reference,
			Due: in.Due, Notes: in.Notes, Fault: p,
		}, in.Quote)
	}
	http.Redirect(w, r, "/orders/"+o.ID+"?done=placed", http.StatusSeeOther)
	return nil
}

// placeForm checks what the API's schema checks for programs, finds or keeps the
// address, and makes the order.
func (m *module) placeForm(r *http.Request, in *NewOrder, form url.Values) (*Order, error) {
	ctx := r.Context()
	party := cmp.Or(in.Party, frame.Who(ctx).Party)
	if in.Quote != "" {
		q, err := m.acceptedQuote(ctx, in.Quote)
		if err != nil {
			return nil, err
		}
		party = q.Party
		in.Party = ""
	}
	if party == "" {
		return nil, frame.Invalid("party: say whose order it is")
	}
	if err := m.ensureParty(ctx, party); err != nil {
		if staff := frame.Who(ctx).May(frame.Staff); staff && frame.AsProblem(err).Status == http.StatusNotFound {
			return nil, frame.Invalid("party: there is no %s", party).Advise("Choose one of the list, or make one on the page Parties.")
		}
		return nil, err
	}
	if id := form.Get("address"); id != "new" && id != "" {
		known, err := m.addresses(ctx, party)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(known, func(a Address) bool { return a.ID == id })
		if i < 0 {
			return nil, frame.Invalid("address: there is no address %s", id)
		}
		in.ShipTo = known[i]
		if err := m.fits(*in); err != nil {
			return nil, err
		}
		return m.create(ctx, *in)
	}
	text := func(name string) string { return strings.TrimSpace(form.Get(name)) }
	in.ShipTo = Address{
		Name: text("name"), Company: text("company"), Line1: text("line1"), Line2: text("line2"), Postcode: text("postcode"),
		City: text("city"), Region: text("region"), Country: strings.ToUpper(text("country")), Phone: text("phone"),
	}
	if err := m.fits(*in); err != nil {
		return nil, err
	}
	o, err := m.create(ctx, *in)
	if err != nil {
		return nil, err
	}
	// The order has its address; that the next one is offered it is a courtesy.
	if err := m.store.Update(ctx, func(tx *frame.Tx) error {
		_, err := addAddress(tx, party, in.ShipTo)
		return err
	}); err != nil {
		m.log.Info("address not kept", "order", o.ID, "error", err)
	}
	return o, nil
}

// prefix is what the names of part i's requirements begin with in a form.
func prefix(i int) string { return fmt.Sprintf("r%d-", i) }

// requirementsFrom reads the fields of the template requirement-fields.
func requirementsFrom(form url.Values, prefix string) Requirements {
	text := func(name string) string {
		return strings.TrimSpace(strings.ReplaceAll(form.Get(prefix+name), "\r\n", "\n"))
	}
	return Requirements{
		FileFormat: text("file_format"), FileVersion: text("file_version"), Tolerances: text("tolerances"), Orientation: text("orientation"),
		Feedstock: text("feedstock"), Repairs: text("repairs"), Inspection: text("inspection"), Packaging: text("packaging"), Notes: text("notes"),
	}
}
