package front

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"inshape/frame"
)

// pageOf is the part of a list that a page's address asks for.
func pageOf(r *http.Request) frame.Page {
	return frame.Page{Limit: 50, After: r.URL.Query().Get("after")}
}

type usersData struct {
	Users   frame.List[User]
	Parties []Party
	Names   map[string]string // of parties
	Search  string
	Link    string // an invitation, to be handed over
	For     string // whom it is for
	Fault   string
}

func (f *front) usersPage(w http.ResponseWriter, r *http.Request) error {
	return f.showUsers(w, r, http.StatusOK, usersData{})
}

func (f *front) showUsers(w http.ResponseWriter, r *http.Request, status int, data usersData) error {
	var err error
	data.Search = strings.TrimSpace(r.URL.Query().Get("q"))
	if data.Users, err = f.accounts.users(r.Context(), data.Search, pageOf(r)); err != nil {
		return err
	}
	if data.Parties, data.Names, err = f.partyNames(r); err != nil {
		return err
	}
	return f.Render(w, r, status, "users.html", "Users", data)
}

// partyNames are the newest parties, to choose from and to show names.
func (f *front) partyNames(r *http.Request) ([]Party, map[string]string, error) {
	parties, err := f.accounts.parties(r.Context(), "", frame.Page{Limit: 1000})
	if err != nil {
		return nil, nil, err
	}
	names := map[string]string{}
	for _, p := range parties.Items {
		names[p.ID] = p.Name
	}
	return parties.Items, names, nil
}

func (f *front) inviteUser(w http.ResponseWriter, r *http.Request) error {
	u := User{
		Email: normalEmail(r.PostFormValue("email")), Name: strings.TrimSpace(r.PostFormValue("name")),
		Role: frame.Role(r.PostFormValue("role")), Party: r.PostFormValue("party"),
	}
	made, token, err := f.accounts.inviteNew(r.Context(), u, strings.TrimSpace(r.PostFormValue("new-party")))
	if err != nil {
		p := frame.AsProblem(err)
		if p.Status >= 500 {
			return err
		}
		return f.showUsers(w, r, p.Status, usersData{Fault: frame.Sentence(p.Detail)})
	}
	return f.showUsers(w, r, http.StatusCreated, usersData{Link: invitationLink(r, token), For: made.Email})
}

func invitationLink(r *http.Request, token string) string {
	return map[bool]string{true: "https://", false: "http://"}[overTLS(r)] + r.Host + "/invitation?token=" + url.QueryEscape(token)
}

type userData struct {
	User    User
	Parties []Party
	Link    string
	Fault   string
}

func (f *front) userPage(w http.ResponseWriter, r *http.Request) error {
	return f.showUser(w, r, http.StatusOK, userData{})
}

func (f *front) showUser(w http.ResponseWriter, r *http.Request, status int, data userData) error {
	var err error
	if data.User, err = f.accounts.user(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	if data.Parties, _, err = f.partyNames(r); err != nil {
		return err
	}
	return f.Render(w, r, status, "user.html", data.User.Name, data)
}

func (f *front) changeUser(w http.ResponseWriter, r *http.Request) error {
	name, role, party, active := strings.TrimSpace(r.PostFormValue("name")), frame.Role(r.PostFormValue("role")), r.PostFormValue("party"), r.PostFormValue("active") != ""
	_, err := f.accounts.change(r.Context(), r.PathValue("id"), frame.Match{IfMatch: r.PostFormValue("version")},
		UserChange{Name: &name, Role: &role, Party: &party, Active: &active})
	if err != nil {
		p := frame.AsProblem(err)
		if p.Status >= 500 || p.Status == http.StatusNotFound {
			return err
		}
		return f.showUser(w, r, p.Status, userData{Fault: frame.Sentence(p.Detail) + " " + p.Hint})
	}
	f.Flash(w, "good", "Saved.")
	http.Redirect(w, r, "/admin/users/"+url.PathEscape(r.PathValue("id")), http.StatusSeeOther)
	return nil
}

func (f *front) inviteAgain(w http.ResponseWriter, r *http.Request) error {
	u, err := f.accounts.user(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if !u.Active {
		return frame.Conflict("%s may not sign in", u.Email)
	}
	token, err := f.accounts.invite(r.Context(), u.ID)
	if err != nil {
		return err
	}
	return f.showUser(w, r, http.StatusOK, userData{Link: invitationLink(r, token)})
}

type keysData struct {
	Keys    frame.List[Key]
	Parties []Party
	Names   map[string]string
	Made    Key
	Fault   string
}

func (f *front) keysPage(w http.ResponseWriter, r *http.Request) error {
	return f.showKeys(w, r, http.StatusOK, keysData{})
}

func (f *front) showKeys(w http.ResponseWriter, r *http.Request, status int, data keysData) error {
	var err error
	if data.Keys, err = f.accounts.keys(r.Context(), pageOf(r)); err != nil {
		return err
	}
	if data.Parties, data.Names, err = f.partyNames(r); err != nil {
		return err
	}
	return f.Render(w, r, status, "keys.html", "API keys", data)
}

func (f *front) makeKey(w http.ResponseWriter, r *http.Request) error {
	k := Key{Name: strings.TrimSpace(r.PostFormValue("name")), Role: frame.Role(r.PostFormValue("role")), Party: r.PostFormValue("party")}
	err := checkName("name", k.Name)
	if err == nil {
		err = checkRole(k.Role)
	}
	if err == nil {
		k, err = f.accounts.makeKey(r.Context(), k)
	}
	if err != nil {
		p := frame.AsProblem(err)
		if p.Status >= 500 {
			return err
		}
		return f.showKeys(w, r, p.Status, keysData{Fault: frame.Sentence(p.Detail)})
	}
	return f.showKeys(w, r, http.StatusCreated, keysData{Made: k})
}

func (f *front) revokeKey(w http.ResponseWriter, r *http.Request) error {
	if err := f.accounts.revoke(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	f.Flash(w, "good", "The key opens nothing any more.")
	http.Redirect(w, r, "/admin/keys", http.StatusSeeOther)
	return nil
}

// everyone is this module and its neighbours that are up: whose webhooks and
// audit log there are.
func (f *front) everyone(r *http.Request) []frame.ModuleState {
	list := []frame.ModuleState{{Name: f.Module.Name, Title: "Accounts", Icon: "users", Up: true}}
	for _, m := range f.neighbours.list(r.Context()) {
		if m.Up {
			list = append(list, m)
		}
	}
	return list
}

// one is the module that a page's address or form names.
func (f *front) one(r *http.Request, name string) (frame.ModuleState, error) {
	for _, m := range f.everyone(r) {
		if m.Name == name {
			return m, nil
		}
	}
	return frame.ModuleState{}, frame.NotFound("there is no module %q, or it does not answer", name)
}

type webhooksData struct {
	Modules []moduleWebhooks
	Made    frame.Webhook
	In      string // the module that it was made in
	Fault   string
}

type moduleWebhooks struct {
	frame.ModuleState
	Webhooks []frame.Webhook
	Trouble  string
}

func (f *front) webhooksPage(w http.ResponseWriter, r *http.Request) error {
	return f.showWebhooks(w, r, http.StatusOK, webhooksData{})
}

func (f *front) showWebhooks(w http.ResponseWriter, r *http.Request, status int, data webhooksData) error {
	for _, m := range f.everyone(r) {
		one := moduleWebhooks{ModuleState: m}
		var list frame.List[frame.Webhook]
		if err := f.Client(m.Name).Get(r.Context(), "/webhooks", &list); err != nil {
			one.Trouble = frame.AsProblem(err).Detail
		}
		one.Webhooks = list.Items
		data.Modules = append(data.Modules, one)
	}
	return f.Render(w, r, status, "webhooks.html", "Webhooks", data)
}

func (f *front) makeWebhook(w http.ResponseWriter, r *http.Request) error {
	m, err := f.one(r, r.PostFormValue("module"))
	if err != nil {
		return err
	}
	in := map[string]any{"url": strings.TrimSpace(r.PostFormValue("url")), "types": strings.FieldsFunc(r.PostFormValue("types"), func(c rune) bool { return c == ',' || c == ' ' })}
	var made frame.Webhook
	if err := f.Client(m.Name).Post(r.Context(), "/webhooks", in, &made); err != nil {
		p := frame.AsProblem(err)
		if p.Status >= 500 {
			return err
		}
		return f.showWebhooks(w, r, p.Status, webhooksData{Fault: frame.Sentence(p.Detail)})
	}
	return f.showWebhooks(w, r, http.StatusCreated, webhooksData{Made: made, In: m.Title})
}

func (f *front) deleteWebhook(w http.ResponseWriter, r *http.Request) error {
	return f.atWebhook(w, r, "/admin/webhooks", "It is told of nothing any more.", func(c *frame.Client, path string) error {
		return c.Delete(r.Context(), path)
	})
}

func (f *front) resumeWebhook(w http.ResponseWriter, r *http.Request) error {
	return f.atWebhook(w, r, r.PathValue("module")+"/"+r.PathValue("id"), "Deliveries go on.", func(c *frame.Client, path string) error {
		return c.Post(r.Context(), path+"/resume", nil, nil)
	})
}

func (f *front) redeliver(w http.ResponseWriter, r *http.Request) error {
	sequence, err := strconv.ParseInt(r.PathValue("sequence"), 10, 64)
	if err != nil {
		return frame.NotFound("there is no such delivery")
	}
	return f.atWebhook(w, r, r.PathValue("module")+"/"+r.PathValue("id"), "It is being delivered once more.", func(c *frame.Client, path string) error {
		return c.Post(r.Context(), fmt.Sprintf("%s/deliveries/%d", path, sequence), nil, nil)
	})
}

// atWebhook does something to the webhook of an address, and shows another page.
func (f *front) atWebhook(w http.ResponseWriter, r *http.Request, then, said string, do func(c *frame.Client, path string) error) error {
	m, err := f.one(r, r.PathValue("module"))
	if err != nil {
		return err
	}
	if err := do(f.Client(m.Name), "/webhooks/"+url.PathEscape(r.PathValue("id"))); err != nil {
		return err
	}
	if !strings.HasPrefix(then, "/") {
		then = "/admin/webhooks/" + then
	}
	f.Flash(w, "good", "%s", said)
	http.Redirect(w, r, then, http.StatusSeeOther)
	return nil
}

func (f *front) deliveriesPage(w http.ResponseWriter, r *http.Request) error {
	m, err := f.one(r, r.PathValue("module"))
	if err != nil {
		return err
	}
	var hooks frame.List[frame.Webhook]
	if err := f.Client(m.Name).Get(r.Context(), "/webhooks", &hooks); err != nil {
		return err
	}
	data := struct {
		Module     frame.ModuleState
		Webhook    frame.Webhook
		Deliveries frame.List[frame.Delivery]
	}{Module: m}
	for _, h := range hooks.Items {
		if h.ID == r.PathValue("id") {
			data.Webhook = h
		}
	}
	if data.Webhook.ID == "" {
		return frame.NotFound("there is no such webhook")
	}
	path := "/webhooks/" + url.PathEscape(data.Webhook.ID) + "/deliveries?" + url.Values{"limit": {"50"}, "after": {r.URL.Query().Get("after")}}.Encode()
	if err := f.Client(m.Name).Get(r.Context(), path, &data.Deliveries); err != nil {
		return err
	}
	return f.Render(w, r, http.StatusOK, "deliveries.html", "Deliveries", data)
}

func (f *front) auditPage(w http.ResponseWriter, r *http.Request) error {
	name := r.URL.Query().Get("module")
	if name == "" {
		name = f.Module.Name
	}
	m, err := f.one(r, name)
	if err != nil {
		return err
	}
	data := struct {
		Modules []frame.ModuleState
		Module  frame.ModuleState
		Subject string
		Entries frame.List[frame.AuditEntry]
	}{Modules: f.everyone(r), Module: m, Subject: strings.TrimSpace(r.URL.Query().Get("subject"))}
	query := url.Values{"limit": {"50"}, "after": {r.URL.Query().Get("after")}, "subject": {data.Subject}}
	if err := f.Client(m.Name).Get(r.Context(), "/audit?"+query.Encode(), &data.Entries); err != nil {
		return err
	}
	return f.Render(w, r, http.StatusOK, "audit.html", "Audit log", data)
}
