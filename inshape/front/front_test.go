package front

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"inshape/frame"
	"inshape/frame/frametest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	adminEmail    = "ada@shop.test"
	adminPassword = "correct horse battery"
)

// echo is a module that answers with who asks and what the request was like.
func echo(name string) frame.Module {
	return frame.Module{
		Name: name, Title: "Echo", Icon: "package",
		Pages:  fstest.MapFS{"echo.html": {Data: []byte(`{{define "main"}}<h1>Echo for {{.Who.Name}}</h1>{{end}}`)}},
		Static: fstest.MapFS{"echo.css": {Data: []byte("b{}")}},
		Set: func(s *frame.Server) error {
			s.Page("GET /"+name+"/{$}", func(w http.ResponseWriter, r *http.Request) error {
				return s.Render(w, r, http.StatusOK, "echo.html", "Echo", nil)
			})
			s.PublicPage("GET /"+name+"/open", func(w http.ResponseWriter, r *http.Request) error {
				return s.Render(w, r, http.StatusOK, "echo.html", "Open", nil)
			})
			s.Handle("POST /api/"+name+"/upload", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sum := sha256.New()
				n, err := io.Copy(sum, r.Body)
				fmt.Fprintf(w, "%d %s %v", n, hex.EncodeToString(sum.Sum(nil)), err)
			}))
			s.Handle("POST /api/"+name+"/refuse", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.Fail(w, r, frame.NewProblem(http.StatusRequestEntityTooLarge, "too-large", "it is too large"))
			}))
			s.Handle("/api/"+name+"/see", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Connection", "X-Private")
				w.Header().Set("X-Private", "between the two of us")
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("ETag", `"v7"`)
				_ = json.NewEncoder(w).Encode(map[string]any{"who": frame.Who(r.Context()), "header": r.Header, "host": r.Host, "uri": r.RequestURI})
			}))
			return nil
		},
	}
}

// seen is what the module echo saw of a request.
type seen struct {
	Who    frame.Identity `json:"who"`
	Header http.Header    `json:"header"`
	Host   string         `json:"host"`
	URI    string         `json:"uri"`
}

func start(t *testing.T, settings ...frametest.Setting) *frametest.Module {
	t.Helper()
	return frametest.Start(t, Module(), append([]frametest.Setting{
		{Name: "INSHAPE_ADMIN_EMAIL", Value: adminEmail}, {Name: "INSHAPE_ADMIN_PASSWORD", Value: adminPassword},
	}, settings...)...)
}

// startWith is a shop with the module echo.
func startWith(t *testing.T, settings ...frametest.Setting) (shop, module *frametest.Module) {
	t.Helper()
	module = frametest.Start(t, echo("echo"))
	shop = start(t, append([]frametest.Setting{
		{Name: "INSHAPE_MODULES", Value: "echo,absent-minded"}, {Name: "INSHAPE_ADDRESSES", Value: "echo=" + module.URL + ",absent-minded=http://127.0.0.1:1"},
	}, settings...)...)
	return shop, module
}

// visitor is a client with cookies, that says where its requests come from.
type visitor struct {
	t    *testing.T
	url  string
	http *http.Client
}

func visit(t *testing.T, m *frametest.Module) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{t: t, url: m.URL, http: &http.Client{
		Jar: jar, Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

type page struct {
	*http.Response
	text string
}

func (v *visitor) do(r *http.Request) page {
	v.t.Helper()
	answer, err := v.http.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return page{answer, string(text)}
}

func (v *visitor) request(method, path string, body io.Reader) *http.Request {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.url+path, body)
	if err != nil {
		v.t.Fatal(err)
	}
	return r
}

func (v *visitor) get(path string) page { v.t.Helper(); return v.do(v.request("GET", path, nil)) }

func (v *visitor) post(path string, pairs ...string) page {
	v.t.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	r := v.request("POST", path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return v.do(r)
}

func (p page) want(t *testing.T, status int, texts ...string) page {
	t.Helper()
	if p.StatusCode != status {
		t.Fatalf("%s %s: got %d, want %d: %.1500s", p.Request.Method, p.Request.URL.Path, p.StatusCode, status, p.text)
	}
	for _, text := range texts {
		if !strings.Contains(p.text, text) {
			t.Fatalf("%s %s: no %q in %.6000s", p.Request.Method, p.Request.URL.Path, text, p.text)
		}
	}
	return p
}

func (p page) leads(t *testing.T, to string) page {
	t.Helper()
	p.want(t, http.StatusSeeOther)
	if got := p.Header.Get("Location"); got != to {
		t.Fatalf("%s leads to %q, want %q", p.Request.URL.Path, got, to)
	}
	return p
}

// asAdmin is a browser in which the admin is signed in.
func asAdmin(t *testing.T, m *frametest.Module) *visitor {
	t.Helper()
	v := visit(t, m)
	v.post("/sign-in", "email", adminEmail, "password", adminPassword).leads(t, "/")
	return v
}

func TestCustomerSignsUpAndIn(t *testing.T) {
	shop, _ := startWith(t)
	v := visit(t, shop)
	v.get("/").want(t, 200, "Sign in", "Create an account")
	v.get("/echo/").leads(t, "/sign-in?next=%2Fecho%2F")
	v.get("/sign-up").want(t, 200, `autocomplete="new-password"`)
	v.post("/sign-up", "name", "Cleo", "email", "Cleo@Initech.test", "password", "short").want(t, 422, "at least 10 characters", `value="cleo@initech.test"`)
	v.post("/sign-up", "name", "Cleo", "company", "Initech", "email", "Cleo@Initech.test", "password", "a long enough one").want(t, 303)
	v.post("/sign-in", "email", "cleo@initech.test", "password", "a wrong password").want(t, 422, "do not belong together")
	v.post("/sign-in", "email", "nobody@initech.test", "password", "a wrong password").want(t, 422, "do not belong together")
	v.post("/sign-in", "email", "CLEO@initech.test ", "password", "a long enough one", "next", "/echo/").leads(t, "/echo/")
	v.get("/echo/").want(t, 200, "Echo for Cleo", "Sign out")
	v.get("/account").want(t, 200, "Initech", "here")
	v.get("/admin/users").want(t, 403)

	// Who has the address already keeps their account, and the answer does not tell.
	p := visit(t, shop).post("/sign-up", "name", "Mallory", "email", "cleo@initech.test", "password", "another password")
	p.leads(t, "/sign-in?email=cleo%40initech.test&next=%2F")
	v.get("/account").want(t, 200, `value="Cleo"`)
	visit(t, shop).post("/sign-in", "email", "cleo@initech.test", "password", "another password").want(t, 422)

	v.post("/sign-out").leads(t, "/sign-in")
	v.get("/account").leads(t, "/sign-in?next=%2Faccount")
}

func TestClosedShopMakesNoAccounts(t *testing.T) {
	shop := start(t, frametest.Setting{Name: "INSHAPE_SIGN_UP", Value: "closed"})
	v := visit(t, shop)
	if p := v.get("/").want(t, 200); strings.Contains(p.text, "sign-up") {
		t.Error("the first page offers what does not work")
	}
	v.get("/sign-up").want(t, 404)
	v.post("/sign-up", "name", "Cleo", "email", "cleo@initech.test", "password", "a long enough one").want(t, 404)
}

func TestNextPageStaysHere(t *testing.T) {
	for next, want := range map[string]string{
		"/orders/?q=1": "/orders/?q=1", "/": "/", "": "/", "orders": "/", "//evil.test": "/", "/\\evil.test": "/", "https://evil.test/": "/",
		"/%2Fevil.test": "/", "javascript:alert(1)": "/", "/\tevil": "/", "/x\n": "/", "///evil.test": "/", "http:/evil.test": "/",
	} {
		if got := nextPage(next); got != want {
			t.Errorf("next %q leads to %q, want %q", next, got, want)
		}
	}
}

func TestOtherSitesCannotAct(t *testing.T) {
	shop := start(t)
	v := asAdmin(t, shop)
	for _, header := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.test"}} {
		r := v.request("POST", "/account", strings.NewReader("name=Owned"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set(header[0], header[1])
		v.do(r).want(t, 403)
	}
	v.get("/account").want(t, 200, `value="Administrator"`)
}

func TestGuessingPasswordsEnds(t *testing.T) {
	shop := start(t)
	asAdmin(t, shop) // so that the admin is there
	v := visit(t, shop)
	limited := 0
	for range 10 {
		switch p := v.post("/sign-in", "email", adminEmail, "password", "not the password"); p.StatusCode {
		case 422:
		case 429:
			p.want(t, 429, "Too many attempts")
			limited++
		default:
			t.Fatalf("got %d", p.StatusCode)
		}
	}
	if limited != 2 {
		t.Errorf("%d of 10 were limited, want 2", limited)
	}
	v.post("/sign-in", "email", adminEmail, "password", adminPassword).want(t, 429)
	v.post("/sign-in", "email", "somebody@else.test", "password", "not the password").want(t, 422)
}

func TestCookieIsSafe(t *testing.T) {
	shop := start(t)
	v := asAdmin(t, shop)
	cookie := func(p page) *http.Cookie {
		t.Helper()
		for _, c := range p.Cookies() {
			if strings.HasSuffix(c.Name, "inshape") {
				return c
			}
		}
		t.Fatal("there is no session cookie")
		return nil
	}
	c := cookie(v.post("/sign-in", "email", adminEmail, "password", adminPassword))
	if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.Secure {
		t.Errorf("over HTTP: %+v", c)
	}
	r := v.request("POST", "/sign-in", strings.NewReader(url.Values{"email": {adminEmail}, "password": {adminPassword}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Forwarded-Proto", "https")
	if c = cookie(v.do(r)); c.Name != "__Host-inshape" || !c.Secure || !c.HttpOnly {
		t.Errorf("over HTTPS: %+v", c)
	}
}

func TestPasswordChangeEndsOtherSessions(t *testing.T) {
	shop := start(t)
	here, there := asAdmin(t, shop), asAdmin(t, shop)
	here.post("/account/password", "password", "not it at all", "new", "a new long password").want(t, 422, "another one")
	here.post("/account/password", "password", adminPassword, "new", "short").want(t, 422, "at least 10")
	there.get("/account").want(t, 200)
	here.post("/account/password", "password", adminPassword, "new", "a new long password").leads(t, "/account")
	here.get("/account").want(t, 200, "signed out everywhere else")
	there.get("/account").want(t, 303)
	visit(t, shop).post("/sign-in", "email", adminEmail, "password", adminPassword).want(t, 422)
	visit(t, shop).post("/sign-in", "email", adminEmail, "password", "a new long password").leads(t, "/")
}

func TestAdminInvitesAndLocks(t *testing.T) {
	shop := start(t)
	admin := asAdmin(t, shop)
	p := admin.post("/admin/users", "name", "Sam", "email", "sam@shop.test", "role", "staff").want(t, 201, "/invitation?token=")
	admin.post("/admin/users", "name", "Sam", "email", "sam@shop.test", "role", "staff").want(t, 409, "has this e-mail address already")
	admin.post("/admin/users", "name", "Cleo", "email", "cleo@shop.test", "role", "customer").want(t, 422, "a customer belongs to one")
	admin.post("/admin/users", "name", "Cleo", "email", "cleo@shop.test", "role", "king").want(t, 422, "neither customer")
	_, after, _ := strings.Cut(p.text, "/invitation?token=")
	link := "/invitation?token=" + after[:43]
	sam := visit(t, shop)
	sam.get("/invitation?token=wrong").want(t, 404)
	sam.get(link).want(t, 200, "sam@shop.test")
	sam.post("/invitation", "token", after[:43], "password", "short").want(t, 422)
	sam.post("/invitation", "token", after[:43], "password", "sams own password").leads(t, "/")
	sam.get("/").want(t, 200, "Sam")
	sam.get("/admin/users").want(t, 403)
	visit(t, shop).get(link).want(t, 404, "used")

	list := admin.get("/admin/users?q=sam").want(t, 200, "sam@shop.test")
	_, after, _ = strings.Cut(list.text, `href="/admin/users/usr_`)
	path := "/admin/users/usr_" + after[:26]
	admin.get(path).want(t, 200, "sam@shop.test")
	admin.post(path, "name", "Sam", "role", "staff", "version", `"v1"`, "active", "yes").want(t, 412, "has changed since") // the password made it 2
	admin.post(path, "name", "Sam", "role", "staff", "version", `"v2"`).leads(t, path)
	sam.get("/account").want(t, 303)
	visit(t, shop).post("/sign-in", "email", "sam@shop.test", "password", "sams own password").want(t, 422)

	list = admin.get("/admin/users?q=ada").want(t, 200)
	_, after, _ = strings.Cut(list.text, `href="/admin/users/usr_`)
	admin.post("/admin/users/usr_"+after[:26], "name", "Ada", "role", "staff", "active", "yes").want(t, 409, "the last admin")
	admin.get("/admin/audit").want(t, 200, "user.change", "session.begin", "user.invite")
}

func TestSetupLinkWorksOnce(t *testing.T) {
	f := new(front)
	m := frametest.Start(t, f.module())
	v := visit(t, m)
	v.get("/setup?token=wrong").want(t, 404)
	v.get("/setup").want(t, 404)
	v.get("/setup?token="+f.setupToken).want(t, 200, "administers the shop")
	v.post("/setup", "token", f.setupToken, "name", "Ada", "email", "no address", "password", adminPassword).want(t, 422, "no e-mail address")
	v.post("/setup", "token", f.setupToken, "name", "Ada", "email", adminEmail, "password", adminPassword).leads(t, "/")
	v.get("/admin/users").want(t, 200, adminEmail)
	visit(t, m).get("/setup?token="+f.setupToken).want(t, 404, "has an admin already")
	visit(t, m).post("/setup", "token", f.setupToken, "name", "Eve", "email", "eve@evil.test", "password", adminPassword).want(t, 404)
}

func TestKeys(t *testing.T) {
	shop, _ := startWith(t)
	admin := asAdmin(t, shop)
	p := admin.post("/admin/keys", "name", "ERP", "role", "staff").want(t, 201, "not shown again")
	_, after, _ := strings.Cut(p.text, `id="key">`)
	key, _, _ := strings.Cut(after, "<")
	if !strings.HasPrefix(key, "ink_") {
		t.Fatalf("the key is %q", key)
	}
	if p := admin.get("/admin/keys").want(t, 200, "ERP", "never"); strings.Contains(p.text, key) {
		t.Error("the key is shown twice")
	}
	program := shop.As(frame.Identity{}).With("Authorization", "Bearer "+key)
	var saw seen
	program.Get("/api/echo/see").Want(200).Into(&saw)
	if saw.Who.Name != "ERP" || saw.Who.Role != frame.Staff || !strings.HasPrefix(saw.Who.Subject, "key_") || saw.Header.Get("Authorization") != "" {
		t.Errorf("the module saw %+v", saw)
	}
	program.Get("/api/front/keys").Refused(403, "forbidden")
	program.With("Origin", "https://elsewhere.test").Post("/api/front/parties", map[string]string{"name": "Initech"}).Want(201)
	admin.get("/admin/keys").want(t, 200, "<time datetime")
	var list frame.List[Key]
	r := admin.request("GET", "/api/front/keys", nil)
	if err := json.Unmarshal([]byte(admin.do(r).want(t, 200).text), &list); err != nil || len(list.Items) != 1 || list.Items[0].Used == nil || list.Items[0].Key != "" {
		t.Fatalf("the list is %+v, %v", list, err)
	}
	admin.post("/admin/keys/"+list.Items[0].ID+"/revoke").leads(t, "/admin/keys")
	program.Get("/api/echo/see").Refused(401, "unauthorized")
	program.Get("/api/front/me").Refused(401, "unauthorized")
}
