package orders

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"inshape/frame"
	"inshape/frame/frametest"
)

// A verdict counts at the moment of confirming: afterwards nobody can take it back unseen.
func TestVerdictsEndWithConfirming(t *testing.T) {
	m := frametest.Start(t, Module())
	o := confirmed(m, byHand(1))
	path := "/api/orders/orders/" + o.ID + "/lines/" + o.Lines[0].ID
	staff := m.As(frametest.Staff)
	staff.Put(path+"/verdict", NewVerdict{Verdict: "not-printable"}).Refused(409, "conflict")
	staff.Put(path+"/price", Price{UnitPrice: "1"}).Refused(409, "conflict")
	m.As(ada).Put(path+"/requirements", Requirements{Tolerances: "H7"}).Refused(409, "conflict")
	staff.Put(path+"/requirements", Requirements{Tolerances: "H7"}).Want(200).Into(&o)
	if o.Lines[0].Requirements.Tolerances != "H7" || !o.Lines[0].Verdict.Accepts() {
		t.Errorf("%+v", o.Lines[0])
	}
	event(m, o, 0, Start, 0).Want(201)
	staff.Put(path+"/requirements", Requirements{Tolerances: "H8"}).Refused(409, "conflict")
}

func TestOrderWhoseLinesAreAllCancelledIsCancelled(t *testing.T) {
	m := frametest.Start(t, Module())
	var o Order
	m.As(ada).Post("/api/orders/orders", byHand(1)).Want(201).Into(&o)
	event(m, o, 0, Cancel, 7).Want(201)
	m.As(ada).Get("/api/orders/orders/" + o.ID).Want(200).Into(&o)
	if o.State != Cancelled || o.Total != "0" {
		t.Errorf("the order is %s, %s", o.State, o.Total)
	}
	var steps frame.List[Step]
	m.As(ada).Get("/api/orders/orders/" + o.ID + "/history").Want(200).Into(&steps)
	if last := steps.Items[len(steps.Items)-1]; last.Kind != "cancelled" || last.Quantity != 0 {
		t.Errorf("%+v", last)
	}
	m.As(frametest.Staff).Post("/api/orders/orders/"+o.ID+"/confirm", nil).Refused(409, "conflict")
}

func TestPricesAreExact(t *testing.T) {
	m := frametest.Start(t, Module())
	staff := m.As(frametest.Staff)
	var o Order
	m.As(ada).Post("/api/orders/orders", byHand(3, 100_000)).Want(201).Into(&o)
	path := "/api/orders/orders/" + o.ID + "/lines/"
	staff.Put(path+o.Lines[0].ID+"/price", Price{UnitPrice: "0.10"}).Want(200)
	staff.Put(path+o.Lines[1].ID+"/price", Price{UnitPrice: "9999999999.9999"}).Want(200).Into(&o)
	if o.Lines[0].Total != "0.30" || o.Lines[1].Total != "999999999999990.0000" || o.Total != "999999999999990.3000" {
		t.Errorf("%s + %s = %s", o.Lines[0].Total, o.Lines[1].Total, o.Total)
	}
	for _, wrong := range []string{"", "-1", "1e3", "1.00001", "12345678901", "١"} {
		staff.Put(path+o.Lines[0].ID+"/price", Price{UnitPrice: wrong}).Refused(422, "invalid")
	}
	m.As(ada).Put(path+o.Lines[0].ID+"/price", Price{UnitPrice: "0"}).Refused(403, "forbidden")
}

func TestChangeOfAnOrder(t *testing.T) {
	m := frametest.Start(t, Module())
	customer, staff := m.As(ada), m.As(frametest.Staff)
	var o Order
	customer.Post("/api/orders/orders", byHand(1)).Want(201).Into(&o)
	path := "/api/orders/orders/" + o.ID
	m.As(bob).Patch(path, map[string]string{"notes": "mine"}).Refused(404, "not-found")
	m.As(bob).Put(path+"/lines/"+o.Lines[0].ID+"/requirements", Requirements{}).Refused(404, "not-found")
	customer.Patch(path, map[string]string{"due": "2027-13-01"}).Refused(422, "invalid")
	customer.Patch(path, map[string]string{}).Refused(422, "invalid")
	customer.With("If-Match", `"v7"`).Patch(path, map[string]string{"notes": "x"}).Refused(412, "changed-meanwhile")
	customer.Patch(path, map[string]any{"reference": "Quetzal", "due": "2027-01-31", "ship_to": address}).Want(200).Into(&o)
	if o.Reference != "Quetzal" || o.Due != "2027-01-31" || o.Version != 2 {
		t.Errorf("%+v", o)
	}
	var found frame.List[Order]
	if staff.Get("/api/orders/orders?q=quetzal").Want(200).Into(&found); len(found.Items) != 1 {
		t.Error("the new reference is not found")
	}
	if staff.Get("/api/orders/orders?q=PO+77").Want(200).Into(&found); len(found.Items) != 0 {
		t.Error("the old reference is still found")
	}
	staff.Put(path+"/lines/"+o.Lines[0].ID+"/verdict", NewVerdict{Verdict: "printable"}).Want(200)
	staff.Post(path+"/confirm", nil).Want(200)
	customer.Patch(path, map[string]string{"notes": "late"}).Refused(409, "conflict")
	staff.Patch(path, map[string]string{"notes": "agreed by phone"}).Want(200)
	event(m, o, 0, Make, 1).Want(201)
	event(m, o, 0, Ship, 1).Want(201)
	staff.Patch(path, map[string]any{"ship_to": address}).Refused(409, "conflict")
}

func TestEventsTellWhatOtherModulesNeed(t *testing.T) {
	m := frametest.Start(t, Module())
	o := confirmed(m, byHand(2, 1))
	event(m, o, 0, Make, 2).Want(201)
	m.As(frametest.Staff).Post("/api/orders/orders/"+o.ID+"/comments", NewComment{Text: "odd", Internal: true}).Want(201)
	m.As(ada).Post("/api/orders/orders/"+o.ID+"/comments", NewComment{Text: "hello"}).Want(201)
	var events frame.List[frame.Event]
	m.As(frametest.Staff).Get("/api/orders/events").Want(200).Into(&events)
	for kind, want := range map[string][]string{
		"order.confirmed":     {`"lines":[{"id":"` + o.Lines[0].ID, `"material":"pa12"`, `"quantity":2`, `"reference":"PO 77"`},
		"line.made":           {`"line":{"id":"` + o.Lines[0].ID, `"made":2`, `"state":"made"`, `"order_state":"in-production"`},
		"order.in-production": {o.Lines[1].ID},
		"order.noted":         {`"comment":"cmt_`},
		"order.commented":     {`"role":"customer"`},
	} {
		i := slices.IndexFunc(events.Items, func(e frame.Event) bool { return e.Type == kind })
		if i < 0 {
			t.Errorf("no event %s", kind)
			continue
		}
		for _, part := range want {
			if !strings.Contains(string(events.Items[i].Data), part) {
				t.Errorf("%s lacks %s: %s", kind, part, events.Items[i].Data)
			}
		}
		if own := events.Items[i].Party == ""; own != (kind == "order.noted") {
			t.Errorf("%s is of %q", kind, events.Items[i].Party)
		}
		if strings.Contains(string(events.Items[i].Data), "odd") {
			t.Errorf("%s tells what staff say among themselves", kind)
		}
	}
}

func TestLongHistoriesComeInParts(t *testing.T) {
	m := frametest.Start(t, Module())
	o := confirmed(m, byHand(60))
	for range 60 {
		event(m, o, 0, Make, 1).Want(201)
	}
	got, after := 0, ""
	for {
		var part frame.List[Step]
		m.As(ada).Get("/api/orders/orders/" + o.ID + "/history?limit=25&after=" + after).Want(200).Into(&part)
		got += len(part.Items)
		if after = part.Next; after == "" {
			break
		}
	}
	if got != 63 {
		t.Errorf("%d steps, want 63", got)
	}
	m.As(ada).Get("/orders/" + o.ID).Want(200).Has("All that happened")
	m.As(ada).Get("/orders/history/" + o.ID).Want(200).Has("Placed")
	m.As(bob).Get("/orders/history/" + o.ID).Want(404)
	m.As(ada).Get("/api/orders/orders/"+o.ID+"/history?after=x").Refused(422, "invalid")
}

func TestWorkListByDayAndByQuestion(t *testing.T) {
	m := frametest.Start(t, Module())
	customer, staff := m.As(ada), m.As(frametest.Staff)
	var ids []string
	for _, due := range []string{"2027-03-01", "", "2027-01-01", "2027-02-01"} {
		in := byHand(1)
		in.Due = due
		var o Order
		customer.Post("/api/orders/orders", in).Want(201).Into(&o)
		ids = append(ids, o.ID)
	}
	var got []string
	for after := ""; ; {
		var part frame.List[Order]
		staff.Get("/api/orders/orders?sort=due&limit=1&after=" + url.QueryEscape(after)).Want(200).Into(&part)
		got = append(got, part.Items[0].ID)
		if after = part.Next; after == "" {
			break
		}
	}
	if want := []string{ids[2], ids[3], ids[0], ids[1]}; !slices.Equal(got, want) {
		t.Errorf("by day: %v, want %v", got, want)
	}
	asked := func() (n int) {
		var list frame.List[Order]
		staff.Get("/api/orders/orders?asked=true").Want(200).Into(&list)
		return len(list.Items)
	}
	customer.Post("/api/orders/orders/"+ids[0]+"/comments", NewComment{Text: "When?"}).Want(201)
	if asked() != 1 {
		t.Error("a question is not marked")
	}
	staff.Get("/orders/").Want(200).Has("1 to answer")
	staff.Post("/api/orders/orders/"+ids[0]+"/comments", NewComment{Text: "Soon."}).Want(201)
	if asked() != 0 {
		t.Error("an answered question is still marked")
	}
	customer.Post("/api/orders/orders/"+ids[0]+"/comments", NewComment{Text: " \n"}).Refused(422, "invalid")
}

func TestRepeatedUploadsAreOneFile(t *testing.T) {
	folder := t.TempDir()
	data := frametest.Setting{Name: "INSHAPE_DATA", Value: folder}
	m := frametest.Start(t, Module(), data)
	o := confirmed(m, byHand(1))
	path := "/api/orders/orders/" + o.ID + "/attachments?name=a.pdf"
	customer := m.As(ada).With("Idempotency-Key", "k").With("Content-Type", "application/octet-stream")
	var first, again Attachment
	customer.Do("POST", path, "drawing").Want(201).Into(&first)
	customer.Do("POST", path, "drawing").Want(201).Into(&again)
	if first.ID != again.ID {
		t.Errorf("kept %s and %s", first.ID, again.ID)
	}
	customer.Do("POST", path, "DRAWING").Refused(422, "idempotency-key-reused")
	for _, name := range []string{"..", "", "a%00b", "a%0d%0aSet-Cookie:x", "%ff", strings.Repeat("a", 201)} {
		m.As(ada).Do("POST", "/api/orders/orders/"+o.ID+"/attachments?name="+name, "x").Refused(422, "invalid")
	}
	files := func() (names []string) {
		list, err := os.ReadDir(filepath.Join(folder, "attachments"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			names = append(names, f.Name())
		}
		return names
	}
	if got := files(); !slices.Equal(got, []string{first.ID}) {
		t.Errorf("on disk are %v", got)
	}
	m.Stop()
	// What a crash can leave is gone after the next start; what is known stays.
	for _, left := range []string{"new-123", frame.NewID("att")} {
		if err := os.WriteFile(filepath.Join(folder, "attachments", left), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m = frametest.Start(t, Module(), data)
	if got := files(); !slices.Equal(got, []string{first.ID}) {
		t.Errorf("after a start there are %v", got)
	}
	m.As(ada).Get("/api/orders/orders/" + o.ID + "/attachments/" + first.ID).Want(200)
}

func TestBrokenUploadLeavesNothing(t *testing.T) {
	m := &module{files: t.TempDir()}
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("gone")))
	if err := m.keep(&Attachment{ID: "att_1"}, broken); err == nil || err.Error() != "gone" {
		t.Errorf("error %v", err)
	}
	if list, err := os.ReadDir(m.files); err != nil || len(list) != 0 {
		t.Errorf("left %v, %v", list, err)
	}
}

// Forms are held to the same limits as the API.
func TestFormsAreBounded(t *testing.T) {
	m := frametest.Start(t, Module())
	customer, staff := m.As(ada), m.As(frametest.Staff)
	form := func(more url.Values) url.Values {
		form := url.Values{
			"address": {"new"}, "name": {"Ada"}, "line1": {"Ring 1"}, "city": {"Wien"}, "country": {"AT"},
			"part": {"gear"}, "material": {"pa12"}, "quantity": {"2"},
		}
		for name, values := range more {
			form[name] = values
		}
		return form
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, c := range map[string]struct {
		more url.Values
		says string
	}{
		"reference": {url.Values{"reference": {long(81)}}, "reference"},
		"notes":     {url.Values{"notes": {long(4001)}}, "notes"},
		"part":      {url.Values{"part": {"gear" + long(201)}}, "part 1, name: at most 200 characters"},
		"material":  {url.Values{"material": {""}}, "part 1, material"},
		"quantity":  {url.Values{"quantity": {"100001"}}, "part 1, quantity"},
		"number":    {url.Values{"quantity": {"many"}}, "part 1, quantity"},
		"wish":      {url.Values{"r0-repairs": {long(401)}}, "part 1, repairs"},
		"country":   {url.Values{"country": {"Austria"}}, "country"},
		"street":    {url.Values{"line1": {" "}}, "street: this is needed"},
		"day":       {url.Values{"due": {"soon"}}, "due"},
	} {
		t.Run(name, func(t *testing.T) { customer.Post("/orders/new", form(c.more)).Want(422).Has(c.says, "gear") })
	}
	page, _, _ := strings.Cut(customer.Post("/orders/new", form(url.Values{"r0-inspection": {"measure"}})).Want(303).Header.Get("Location"), "?")
	var o Order
	customer.Get("/api/orders" + page).Want(200).Into(&o)
	if o.Lines[0].Requirements.Inspection != "measure" {
		t.Errorf("%+v", o.Lines[0])
	}
	line := page + "/lines/" + o.Lines[0].ID
	staff.Post(line+"/verdict", url.Values{"verdict": {"maybe"}}).Want(422)
	staff.Post(line+"/verdict", url.Values{"verdict": {"printable"}, "note": {long(1001)}}).Want(422)
	staff.Post(line+"/verdict", url.Values{"verdict": {"printable"}}).Want(303)
	staff.Post(line+"/price", url.Values{"unit_price": {"twelve"}}).Want(422).Has("amount of money")
	staff.Post(line+"/price", url.Values{"unit_price": {"12.50"}}).Want(303)
	staff.Post(line+"/events", url.Values{"kind": {"made"}, "quantity": {"-1"}}).Want(422)
	staff.Post(line+"/events", url.Values{"kind": {"eaten"}, "quantity": {"1"}}).Want(422)
	customer.Post(line+"/requirements", url.Values{"tolerances": {"H7"}, "finish": {"dyed"}, "version": {"3"}}).Want(303)
	customer.Post(line+"/requirements", url.Values{"tolerances": {"H8"}, "version": {"3"}}).Want(412)
	customer.Post(page+"/comments", url.Values{"text": {long(4001)}}).Want(422)
	customer.Post(page+"/comments", url.Values{"text": {strings.Repeat("ä", 4000)}}).Want(303)
	customer.Post(page+"/change", url.Values{"due": {"2027-05-05"}, "reference": {"PO 2"}}).Want(303)
	customer.Post(page+"/change", url.Values{"due": {"2027-02-31"}, "reference": {"PO 2"}}).Want(422)
	customer.Get(page).Want(200).Has("PO 2", "2027-05-05", "H7", "25.00 EUR")
	customer.Get("/orders/slip/"+o.ID).Want(200).Has("Packing slip", "gear")
	for _, path := range []string{"/orders/slip/" + o.ID, "/orders/history/" + o.ID, page} {
		m.As(bob).Get(path).Want(404)
	}
	for _, path := range []string{page + "/change", page + "/comments", page + "/cancel", line + "/requirements"} {
		m.As(bob).Post(path, url.Values{"text": {"x"}, "notes": {"x"}}).Want(404)
	}
	staff.Get("/orders/?q=" + long(101)).Want(422)
	m.As(bob).Post("/orders/parties/pty_ada/details/save", url.Values{"name": {"Bob"}, "version": {"1"}}).Want(404)
	customer.Post("/orders/parties/pty_ada/details/save", url.Values{"name": {long(121)}, "version": {"1"}}).Want(422)
	customer.Post("/orders/parties", url.Values{"name": {"Eve"}}).Want(403)
	staff.Get(staff.Post("/orders/parties", url.Values{"name": {"Eve"}, "key": {"k"}}).Want(303).Header.Get("Location")).Want(200).Has("Eve")
	customer.Post(page+"/cancel", url.Values{"note": {"too late"}}).Want(303)
	customer.Get(page).Want(200).Has("too late")
}

func TestCellsAreInert(t *testing.T) {
	for _, cell := range []string{"=1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "＝1"} {
		if got := inert(cell); got != "'"+cell {
			t.Errorf("%q became %q", cell, got)
		}
	}
	for _, cell := range []string{"", "1", "x=1", "ä"} {
		if got := inert(cell); got != cell {
			t.Errorf("%q became %q", cell, got)
		}
	}
}

// With 100,000 orders the work list still asks an index: no statement walks all orders.
func TestListsUseIndexes(t *testing.T) {
	m := frametest.Start(t, Module())
	confirmed(m, byHand(1))
	staff := frametest.Staff
	for name, c := range map[string]struct {
		filter Filter
		order  string
		who    frame.Identity
	}{
		"newest":   {Filter{}, "o.id DESC", staff},
		"due":      {Filter{State: "open", Sort: "due"}, dueKey + ", o.id", staff},
		"late":     {Filter{Late: true, Sort: "due"}, dueKey + ", o.id", staff},
		"late new": {Filter{Late: true}, "+o.id DESC", staff},
		"state":    {Filter{State: "placed"}, "o.id DESC", staff},
		"asked":    {Filter{Asked: true}, "o.id DESC", staff},
		"mine":     {Filter{}, "o.id DESC", ada},
		"words":    {Filter{Query: "gear"}, "o.id DESC", staff},
		"material": {Filter{Material: "pa12"}, "o.id DESC", staff},
	} {
		where, args, err := c.filter.where(c.who)
		if err != nil {
			t.Fatal(err)
		}
		plan := explain(t, m, "SELECT o.id FROM orders o JOIN party p ON p.id = o.party WHERE "+where+" ORDER BY "+c.order+" LIMIT 51", args...)
		first, _, _ := strings.Cut(plan, "\n")
		if strings.HasPrefix(name, "late") && !strings.Contains(first, "orders_open") {
			t.Errorf("%s: %s", name, plan)
		}
		if !strings.Contains(first, "INDEX") || strings.Contains(plan, "SCAN p") {
			t.Errorf("%s: %s", name, plan)
		}
		if sorts := strings.Contains(plan, "TEMP B-TREE"); sorts && name != "words" && name != "material" && name != "late new" {
			t.Errorf("%s sorts: %s", name, plan)
		}
	}
}

func explain(t *testing.T, m *frametest.Module, query string, args ...any) string {
	t.Helper()
	var lines []string
	err := m.Server.Store.View(t.Context(), func(tx *sql.Tx) error {
		rows, err := tx.Query("EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				return err
			}
			lines = append(lines, detail)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(fmt.Errorf("explain %s: %w", query, err))
	}
	return strings.Join(lines, "\n")
}
