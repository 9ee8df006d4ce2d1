package front

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"inshape/frame"
)

func TestAdminKeepsWebhooksOfModules(t *testing.T) {
	shop, module := startWith(t)
	admin := asAdmin(t, shop)
	told := make(chan string, 10)
	outside := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { told <- r.Header.Get("webhook-id") }))
	defer outside.Close()
	admin.post("/admin/webhooks", "module", "echo", "url", "ftp://x/", "types", "*").want(t, 422, "not an http or https address")
	admin.post("/admin/webhooks", "module", "elsewhere", "url", outside.URL, "types", "*").want(t, 404)
	admin.post("/admin/webhooks", "module", "echo", "url", outside.URL, "types", "echo.*, other.made").want(t, 201, "whsec_", "not shown again")
	if p := admin.get("/admin/webhooks").want(t, 200, outside.URL, "echo.*", "other.made", "Accounts"); strings.Contains(p.text, "whsec_") {
		t.Error("the secret is shown twice")
	}
	err := module.Server.Store.Update(t.Context(), func(tx *frame.Tx) error { return tx.Emit("echo.heard", "x", "", nil) })
	if err != nil {
		t.Fatal(err)
	}
	first := <-told
	_, after, _ := strings.Cut(admin.get("/admin/webhooks").text, "/admin/webhooks/echo/whk_")
	path := "/admin/webhooks/echo/whk_" + after[:26]
	admin.get(path).want(t, 200, "echo.heard")
	admin.post(path+"/1").leads(t, path)
	if again := <-told; again != first {
		t.Errorf("delivered as %s, then as %s", first, again)
	}
	admin.get(path).want(t, 200, "It is being delivered once more")
	admin.post(path+"/none").want(t, 404)
	admin.post(path+"/resume").leads(t, path)
	admin.get("/admin/audit?module=echo").want(t, 200, "webhook.create", "webhook.resume", "Administrator")
	admin.post(path+"/delete").leads(t, "/admin/webhooks")
	admin.get(path).want(t, 404)

	// The front has events of its own.
	admin.post("/admin/webhooks", "module", "front", "url", outside.URL, "types", "user.created").want(t, 201)
	admin.post("/admin/users", "name", "Sam", "email", "sam@shop.test", "role", "staff").want(t, 201)
	<-told
}

func TestEveryPageIsThere(t *testing.T) {
	shop, _ := startWith(t)
	admin := asAdmin(t, shop)
	for path, text := range map[string]string{
		"/": "Good ", "/account": "Present password", "/docs": "/api/echo/docs", "/admin/users": "Invite somebody", "/admin/keys": "No keys yet",
		"/admin/webhooks": "New webhook", "/admin/audit": "session.begin", "/api/front/docs": "invite-user", "/api/echo/docs": "list-events",
	} {
		p := admin.get(path).want(t, 200, text, "Sign out", `href="#main"`)
		for _, in := range []string{"<script>", " onclick=", "javascript:", "<style"} {
			if strings.Contains(p.text, in) {
				t.Errorf("%s has %q", path, in)
			}
		}
	}
	admin.get("/admin/").leads(t, "/admin/users")
	admin.get("/admin/users?q=nobody").want(t, 200, "Nobody is called that")
	program := shop.As(frame.Identity{}).With("Authorization", "Bearer no key of ours")
	program.Get("/account").Want(401)
	program.Get("/echo/").Want(401)
}

func TestPartiesAndUsersByAPI(t *testing.T) {
	shop, _ := startWith(t)
	admin := asAdmin(t, shop)
	key := admin.post("/admin/keys", "name", "all", "role", "admin").want(t, 201).text
	_, after, _ := strings.Cut(key, `id="key">`)
	key, _, _ = strings.Cut(after, "<")
	api := shop.As(frame.Identity{}).With("Authorization", "Bearer "+key)
	var party, again Party
	api.With("Idempotency-Key", "p").Post("/api/front/parties", map[string]string{"name": "Initech"}).Want(201).Into(&party)
	api.With("Idempotency-Key", "p").Post("/api/front/parties", map[string]string{"name": "Initech"}).Want(201).Into(&again)
	if party.ID != again.ID {
		t.Errorf("made %s, then %s", party.ID, again.ID)
	}
	api.With("If-Match", `"v9"`).Patch("/api/front/parties/"+party.ID, map[string]string{"name": "Initrode"}).Refused(412, "changed-meanwhile")
	api.With("If-Match", `"v1"`).Patch("/api/front/parties/"+party.ID, map[string]string{"name": "Initrode"}).Want(200).Into(&party)
	if party.Name != "Initrode" || party.Version != 2 {
		t.Errorf("it is %+v", party)
	}
	var made invitation
	api.Post("/api/front/users", map[string]string{"email": "cleo@initech.test", "name": "Cleo", "role": "customer", "party": party.ID}).Want(201).Into(&made)
	api.Post("/api/front/users", map[string]string{"email": "CLEO@initech.test", "name": "Cleo", "role": "customer", "party": party.ID}).Refused(409, "conflict")
	api.Post("/api/front/users", map[string]string{"email": "tom@initech.test", "name": "Tom", "role": "customer", "party": "pty_nothing"}).Refused(422, "invalid")
	cleo := visit(t, shop)
	cleo.post("/invitation", "token", made.Token, "password", "a long enough one").leads(t, "/")
	if p := cleo.get("/api/front/parties/"+party.ID).want(t, 200, "Initrode"); p.Header.Get("ETag") != `"v2"` {
		t.Errorf("its tag is %s", p.Header.Get("ETag"))
	}
	var other Party
	api.Post("/api/front/parties", map[string]string{"name": "Hooli"}).Want(201).Into(&other)
	cleo.get("/api/front/parties/"+other.ID).want(t, 404)
	for _, path := range []string{"/api/front/parties", "/api/front/users", "/api/front/keys", "/api/front/audit", "/api/front/users/" + made.ID} {
		cleo.get(path).want(t, 403)
	}
	cleo.get("/api/front/me").want(t, 200, party.ID, `"role":"customer"`)
	inactive := false
	api.Patch("/api/front/users/"+made.ID, UserChange{Active: &inactive}).Want(200)
	cleo.get("/api/front/me").want(t, 401)
}

func TestLimitsCountInWindows(t *testing.T) {
	l := &limit{most: 2, window: time.Minute, counts: map[string]*count{}}
	now := time.Unix(1e9, 0)
	for i, step := range []struct {
		who   string
		after time.Duration
		wait  time.Duration
	}{
		{"a", 0, 0}, {"a", time.Second, 0}, {"a", 2 * time.Second, 58 * time.Second}, {"b", 2 * time.Second, 0}, {"a", 59 * time.Second, time.Second}, {"a", time.Minute, 0},
	} {
		if got := l.take(step.who, now.Add(step.after)); got != step.wait {
			t.Errorf("step %d: wait %v, want %v", i, got, step.wait)
		}
	}
	l.forgive("b")
	if first, second, third := l.take("b", now), l.take("b", now), l.take("b", now); first != 0 || second != 0 || third == 0 {
		t.Errorf("after it was forgiven: waits %v, %v, %v; the third alone should wait", first, second, third)
	}
	for i := range maxCounts + 10 {
		l.take(string(rune('a'+i%26))+time.Duration(i).String(), now)
	}
	if len(l.counts) > maxCounts {
		t.Errorf("it remembers %d", len(l.counts))
	}
}

func TestClientAddress(t *testing.T) {
	for _, c := range []struct{ peer, noted, want string }{
		{"203.0.113.9:1234", "", "203.0.113.9"},
		{"203.0.113.9:1234", "8.8.8.8", "203.0.113.9"},
		{"10.0.0.1:1234", "", "10.0.0.1"},
		{"10.0.0.1:1234", "8.8.8.8", "8.8.8.8"},
		{"10.0.0.1:1234", "1.1.1.1, 8.8.8.8", "8.8.8.8"},
		{"127.0.0.1:1", "nonsense", "127.0.0.1"},
		{"[2001:db8:1:2:3::4]:1", "", "2001:db8:1:2::/64"},
		{"10.0.0.1:1", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"},
		{"[::ffff:203.0.113.9]:1", "", "203.0.113.9"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.peer
		if c.noted != "" {
			r.Header.Set("X-Forwarded-For", c.noted)
		}
		if got := clientAddress(r); got != c.want {
			t.Errorf("%s noting %q: %s, want %s", c.peer, c.noted, got, c.want)
		}
	}
}

func TestPasswords(t *testing.T) {
	p := newPasswords()
	hash, err := p.hash(t.Context(), "correct horse battery")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("%s, %v", hash, err)
	}
	other, _ := p.hash(t.Context(), "correct horse battery")
	if hash == other {
		t.Error("two hashes are the same")
	}
	for _, c := range []struct {
		hash, password string
		want, fails    bool
	}{
		{hash, "correct horse battery", true, false},
		{hash, "correct horse", false, false},
		{hash, "", false, false},
		{"", "", false, false},
		{"$argon2id$v=19$m=19456,t=2,p=1$$", "", false, true},
		{"plain", "plain", false, true},
		{strings.Replace(hash, "v=19", "v=18", 1), "x", false, true},
	} {
		got, err := p.matches(t.Context(), c.hash, c.password)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%q against %q: %t, %v", c.password, c.hash, got, err)
		}
	}
	for password, fine := range map[string]bool{
		"correct horse battery": true, "short": false, "aaaaaaaaaaaaaaa": false, "cleo@initech.test": false, "cleo12345678": false, strings.Repeat("long ", 41): false, "пароль-длинный": true,
	} {
		if err := checkPassword(password, "cleo@initech.test"); (err == nil) != fine {
			t.Errorf("%q: %v", password, err)
		}
	}
	for email, fine := range map[string]bool{"a@b.test": true, "": false, "a": false, "a b@c.test": false, "Cleo <a@b.test>": false, "a@b.test\r\nBcc: x@y.test": false} {
		if err := checkEmail(email); (err == nil) != fine {
			t.Errorf("%q: %v", email, err)
		}
	}
}
