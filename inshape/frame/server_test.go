package frame_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"inshape/frame"
	"inshape/frame/frametest"
)

func TestMain(m *testing.M) {
	if os.Getenv("INSHAPE_TEST_CHILD") != "" {
		os.Exit(frame.Main(things()))
	}
	goleak.VerifyTestMain(m)
}

type thing struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Version int64  `json:"version"`
}

// things is a module that keeps things: the smallest that has everything.
func things() frame.Module {
	return frame.Module{
		Name: "things", Title: "Things", About: "Keeps things.",
		Migrations: fstest.MapFS{"00001_thing.sql": {Data: []byte("-- +goose Up\nCREATE TABLE thing (id TEXT PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 1);\n")}},
		Pages:      fstest.MapFS{"list.html": {Data: []byte(`{{define "main"}}<h1>Things of {{.Who.Name}}</h1><p>{{.Data}}</p>{{end}}`)}},
		Static:     fstest.MapFS{"things.css": {Data: []byte("b{}")}, "deep/er.txt": {Data: []byte("deep")}},
		Set: func(s *frame.Server) error {
			huma.Register(s.API, huma.Operation{
				OperationID: "create-thing", Method: http.MethodPost, Path: s.Base() + "/things", DefaultStatus: http.StatusCreated, Summary: "Make a thing",
			}, func(ctx context.Context, in *struct {
				Body struct {
					Name string `json:"name" minLength:"1" maxLength:"40" doc:"What it is called"`
				}
			},
			) (*struct{ Body thing }, error) {
				made, err := frame.Once(ctx, s.Store, func(tx *frame.Tx) (thing, error) {
					t := thing{ID: frame.NewID("thg"), Name: in.Body.Name, Version: 1}
					if _, err := tx.Exec("INSERT INTO thing (id, name) VALUES (?, ?)", t.ID, t.Name); err != nil {
						return t, fmt.Errorf("keep thing: %w", err)
					}
					if err := tx.Audit("thing.create", t.ID, "%s", t.Name); err != nil {
						return t, err
					}
					return t, tx.Emit("thing.made", t.ID, "", t)
				})
				return &struct{ Body thing }{made}, err
			})
			huma.Register(s.API, huma.Operation{
				OperationID: "rename-thing", Method: http.MethodPut, Path: s.Base() + "/things/{id}",
			}, func(ctx context.Context, in *struct {
				ID string `path:"id"`
				frame.Match
				Body struct {
					Name string `json:"name"`
				}
			},
			) (*struct {
				ETag string `header:"ETag"`
				Body thing
			}, error,
			) {
				out := &struct {
					ETag string `header:"ETag"`
					Body thing
				}{}
				err := s.Store.Update(ctx, func(tx *frame.Tx) error {
					t := &out.Body
					if err := tx.QueryRow("SELECT id, version FROM thing WHERE id = ?", in.ID).Scan(&t.ID, &t.Version); err != nil {
						return frame.NotFound("there is no thing %s", in.ID)
					}
					if err := in.Check(t.Version); err != nil {
						return err
					}
					t.Version++
					t.Name, out.ETag = in.Body.Name, frame.ETag(t.Version)
					_, err := tx.Exec("UPDATE thing SET name = ?, version = ? WHERE id = ?", t.Name, t.Version, t.ID)
					return err
				})
				return out, err
			})
			s.Page("GET /things/{$}", func(w http.ResponseWriter, r *http.Request) error {
				return s.Render(w, r, http.StatusOK, "list.html", "Things", strings.Repeat("many things ", 200))
			})
			s.Page("GET /things/panic", func(http.ResponseWriter, *http.Request) error { panic("on purpose") })
			s.Handle("GET /api/things/panic", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("on purpose") }))
			s.Page("GET /things/broken", func(http.ResponseWriter, *http.Request) error { return errors.New("a secret of the inside") })
			s.Page("POST /things/form", func(w http.ResponseWriter, r *http.Request) error {
				if err := r.ParseForm(); err != nil {
					return err
				}
				s.Flash(w, "good", "Kept %s ✓", r.PostFormValue("name"))
				http.Redirect(w, r, "/things/", http.StatusSeeOther)
				return nil
			})
			s.Handle("GET /api/things/file", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprint(w, "<script>alert(1)</script>")
			}))
			s.Handle("POST /api/things/upload", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				made, err := frame.Once(r.Context(), s.Store, func(*frame.Tx) (string, error) {
					n, err := io.Copy(io.Discard, r.Body)
					return fmt.Sprintf("%d bytes, %s", n, frame.NewID("upl")), err
				})
				if err != nil {
					s.Fail(w, r, err)
					return
				}
				fmt.Fprint(w, made)
			}))
			return nil
		},
	}
}

func TestOnlyKnownCallersPass(t *testing.T) {
	m := frametest.Start(t, things(), frametest.Setting{Name: "INSHAPE_KEY", Value: "sixteen characters"})
	nobody := m.As(frame.Identity{})
	sign := func(secret string, who frame.Identity, at time.Time) string {
		token, err := frame.Sign(secret, who, at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	claims := jwt.MapClaims{"aud": "inshape", "exp": time.Now().Add(time.Minute).Unix(), "who": frametest.Admin}
	signWith := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for name, token := range map[string]string{
		"expired":          sign(frametest.Secret, frametest.Admin, time.Now().Add(-2*time.Minute)),
		"another secret":   sign("another secret altogether", frametest.Admin, time.Now()),
		"unsigned":         signWith(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims),
		"another method":   signWith(jwt.SigningMethodHS512, []byte(frametest.Secret), claims),
		"another audience": signWith(jwt.SigningMethodHS256, []byte(frametest.Secret), jwt.MapClaims{"aud": "elsewhere", "exp": claims["exp"], "who": frametest.Admin}),
		"for ever":         signWith(jwt.SigningMethodHS256, []byte(frametest.Secret), jwt.MapClaims{"aud": "inshape", "who": frametest.Admin}),
		"no role":          sign(frametest.Secret, frame.Identity{Subject: "usr_a", Role: "king"}, time.Now()),
		"no subject":       sign(frametest.Secret, frame.Identity{Role: frame.Admin}, time.Now()),
		"no token":         "hello",
	} {
		if answer := nobody.With("Inshape-Identity", token).Get("/api/things/audit"); answer.Status != http.StatusUnauthorized {
			t.Errorf("%s: got %d", name, answer.Status)
		}
	}
	nobody.With("Inshape-Identity", signWith(jwt.SigningMethodHS256, []byte(frametest.Secret), claims)).Get("/api/things/audit").Want(200) // so that the others can fail
	nobody.With("Authorization", "Bearer sixteen characterS").Get("/api/things/audit").Refused(401, "unauthorized")
	nobody.With("Authorization", "Bearer ").Get("/api/things/audit").Refused(401, "unauthorized")
	nobody.With("Authorization", "bearer sixteen characters").Get("/api/things/audit").Want(200)
	if m := frametest.Start(t, things()); m.As(frame.Identity{}).With("Authorization", "Bearer ").Get("/api/things/audit").Status != 401 {
		t.Error("a module without a key lets an empty one in")
	}
}

func TestRoles(t *testing.T) {
	for _, c := range []struct {
		has, needs frame.Role
		may        bool
	}{
		{frame.Admin, frame.Staff, true},
		{frame.Staff, frame.Staff, true},
		{frame.Customer, frame.Staff, false},
		{"", frame.Customer, false},
		{"king", frame.Customer, false},
		{frame.Admin, "king", false},
		{"", "", false},
	} {
		if got := (frame.Identity{Role: c.has}).May(c.needs); got != c.may {
			t.Errorf("%q as %q: %t", c.has, c.needs, got)
		}
	}
	if (frame.Identity{Role: frame.Customer}).Sees("") || frametest.Customer("pty_a").Sees("pty_b") || !frametest.Customer("pty_a").Sees("pty_a") {
		t.Error("a customer sees what is not theirs, or not what is")
	}
}

func TestPanicsAndSecretsStayInside(t *testing.T) {
	m := frametest.Start(t, things())
	staff := m.As(frametest.Staff)
	staff.Get("/api/things/panic").Refused(500, "internal")
	for _, path := range []string{"/things/panic", "/things/broken"} {
		if p := staff.Get(path).Want(500).Has("Something went wrong here"); strings.Contains(string(p.Body), "secret of the inside") || strings.Contains(string(p.Body), "on purpose") {
			t.Errorf("%s tells what went wrong: %s", path, p.Body)
		}
	}
	p := staff.With("HX-Request", "true").Get("/things/broken").Want(500)
	var toast struct{ Toast frame.Flash }
	if err := json.Unmarshal([]byte(p.Header.Get("HX-Trigger")), &toast); err != nil || toast.Toast.Kind != "bad" {
		t.Errorf("htmx is told %q", p.Header.Get("HX-Trigger"))
	}
	staff.Get("/things/").Want(200)
}

func TestWrongInputIsExplained(t *testing.T) {
	m := frametest.Start(t, things())
	staff := m.As(frametest.Staff)
	if p := staff.Post("/api/things/things", map[string]any{"name": ""}).Refused(422, "invalid"); !strings.Contains(p.Detail, "body.name") {
		t.Errorf("it says %q", p.Detail)
	}
	staff.With("Content-Type", "application/json").Post("/api/things/things", "{").Want(400)
	staff.With("Content-Type", "application/json").Post("/api/things/things", `{"name":"`+strings.Repeat("x", 2<<20)+`"}`).Refused(413, "too-large")
	staff.With("Content-Type", "application/json").With("Idempotency-Key", "k").Post("/api/things/things", `{"name":"`+strings.Repeat("x", 2<<20)+`"}`).Refused(413, "too-large")
	staff.With("Idempotency-Key", strings.Repeat("k", 129)).Post("/api/things/things", map[string]any{"name": "a"}).Refused(422, "invalid")
	staff.With("Content-Type", "application/x-www-form-urlencoded").Post("/things/form", "name="+strings.Repeat("x", 2<<20)).Want(413)
	staff.Get("/api/things/audit?after=x").Refused(422, "invalid")
	staff.Get("/api/things/audit?limit=1000").Refused(422, "invalid")
	staff.Get("/api/things/nothing").Refused(404, "not-found")
	staff.Get("/elsewhere").Want(404).Has("There is nothing at /elsewhere.")
}

func TestChangesAreConditional(t *testing.T) {
	m := frametest.Start(t, things())
	staff := m.As(frametest.Staff)
	var made thing
	staff.Post("/api/things/things", map[string]any{"name": "a"}).Want(201).Into(&made)
	path, body := "/api/things/things/"+made.ID, map[string]any{"name": "b"}
	if tag := staff.With("If-Match", `"v1"`).Put(path, body).Want(200).Header.Get("ETag"); tag != `"v2"` {
		t.Errorf("its tag is %s", tag)
	}
	if p := staff.With("If-Match", `"v1"`).Put(path, body).Refused(412, "changed-meanwhile"); !strings.Contains(p.Detail, `"v2"`) {
		t.Errorf("it says %q", p.Detail)
	}
	staff.With("If-Match", `"v9", "v2"`).Put(path, body).Want(200)
	staff.With("If-Match", `*`).Put(path, body).Want(200)
	staff.Put(path, body).Want(200)
}

func TestRepetitionGivesTheSame(t *testing.T) {
	folder := t.TempDir()
	data := frametest.Setting{Name: "INSHAPE_DATA", Value: folder}
	m := frametest.Start(t, things(), data)
	keyed := m.As(frametest.Staff).With("Idempotency-Key", "k1")
	var first, again thing
	keyed.Post("/api/things/things", map[string]any{"name": "a"}).Want(201).Into(&first)
	keyed.Post("/api/things/things", map[string]any{"name": "a"}).Want(201).Into(&again)
	keyed.Post("/api/things/things", map[string]any{"name": "b"}).Refused(422, "idempotency-key-reused")
	m.As(frametest.Admin).With("Idempotency-Key", "k1").Post("/api/things/things", map[string]any{"name": "b"}).Want(201) // another's key is another key
	upload := keyed.With("Content-Type", "model/stl").With("Idempotency-Key", "k2")
	large := strings.Repeat("x", 3<<20)
	sent := upload.Post("/api/things/upload", large).Want(200)
	if repeated := upload.Post("/api/things/upload", large).Want(200); string(repeated.Body) != string(sent.Body) || !strings.HasPrefix(string(sent.Body), "3145728 bytes") {
		t.Errorf("the upload gave %s, then %s", sent.Body, repeated.Body)
	}
	upload.Post("/api/things/upload", large+"x").Refused(422, "idempotency-key-reused")
	m.Stop()
	m = frametest.Start(t, things(), data)
	m.As(frametest.Staff).With("Idempotency-Key", "k1").Post("/api/things/things", map[string]any{"name": "a"}).Want(201).Into(&again)
	if first != again {
		t.Errorf("made %v, then %v", first, again)
	}
}

func TestAuditOnlyGrows(t *testing.T) {
	m := frametest.Start(t, things())
	staff := m.As(frametest.Staff)
	for range 5 {
		staff.Post("/api/things/things", map[string]any{"name": "a"}).Want(201)
	}
	for _, statement := range []string{"DELETE FROM audit", "UPDATE audit SET actor = 'nobody'", "INSERT OR REPLACE INTO audit (seq, at, actor, name, action, subject, detail) VALUES (1, '', '', '', '', '', '')"} {
		err := m.Server.Store.Update(t.Context(), func(tx *frame.Tx) error {
			_, err := tx.Exec(statement)
			return err
		})
		if err == nil {
			t.Errorf("%s worked", statement)
		}
	}
	var list frame.List[frame.AuditEntry]
	var seen []int64
	for after := ""; ; after = list.Next {
		list = frame.List[frame.AuditEntry]{}
		staff.Get("/api/things/audit?limit=2&after=" + after).Want(200).Into(&list)
		for _, e := range list.Items {
			seen = append(seen, e.Sequence)
			if e.Actor != frametest.Staff.Subject || e.Action != "thing.create" {
				t.Errorf("it says %+v", e)
			}
		}
		if list.Next == "" {
			break
		}
	}
	if fmt.Sprint(seen) != "[5 4 3 2 1]" {
		t.Errorf("the log has %v", seen)
	}
}

func TestPagesAreSafeAndSmall(t *testing.T) {
	m := frametest.Start(t, things())
	staff := m.As(frametest.Staff)
	page := staff.Get("/things/").Want(200).Has("<title>Things · Inshape</title>", "Things of Sam Staff", `lang="en"`)
	if policy := page.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "script-src 'self'") || strings.Contains(policy, "script-src 'self' 'unsafe") {
		t.Errorf("its policy is %s", policy)
	}
	for _, in := range []string{"<script>", " onclick=", "javascript:", "<style"} {
		if strings.Contains(string(page.Body), in) {
			t.Errorf("the page has %q", in)
		}
	}
	if policy := staff.Get("/api/things/file").Want(200).Header.Get("Content-Security-Policy"); !strings.Contains(policy, "sandbox") {
		t.Errorf("what was uploaded may do %q", policy)
	}
	if part := staff.With("HX-Request", "true").Get("/things/").Want(200); strings.Contains(string(part.Body), "<html") {
		t.Error("htmx gets the whole page")
	}
	squeezed := staff.With("Accept-Encoding", "gzip").Get("/things/").Want(200)
	reader, err := gzip.NewReader(bytes.NewReader(squeezed.Body))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(reader); err != nil || string(text) != string(page.Body) || len(squeezed.Body) > len(text)/2 {
		t.Errorf("compressed it has %d of %d bytes, %v", len(squeezed.Body), len(text), err)
	}
	_, after, _ := strings.Cut(string(page.Body), `href="/static/inshape.css`)
	address, _, _ := strings.Cut(after, `"`)
	file := m.As(frame.Identity{}).Get("/static/inshape.css" + address).Want(200)
	if file.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
		t.Errorf("%s is kept %q", address, file.Header.Get("Cache-Control"))
	}
	if plain := m.As(frame.Identity{}).Get("/static/inshape.css?v=old").Want(200); plain.Header.Get("Cache-Control") != "public, max-age=300" {
		t.Errorf("another version is kept %q", plain.Header.Get("Cache-Control"))
	}
	m.As(frame.Identity{}).With("If-None-Match", file.Header.Get("ETag")).Get("/static/inshape.css").Want(304)
	m.As(frame.Identity{}).Get("/static/things/deep/er.txt").Want(200)
	for _, path := range []string{"/static/", "/static/things/", "/static/things/deep/", "/static/../pages/layout.html", "/static/things/..%2f..%2fserver.go", "/static/fonts/"} {
		if answer := m.As(frame.Identity{}).Get(path); answer.Status == 200 {
			t.Errorf("%s is there", path)
		}
	}
}

func TestFlashIsShownOnce(t *testing.T) {
	m := frametest.Start(t, things())
	staff := m.As(frametest.Staff)
	answer := staff.With("Content-Type", "application/x-www-form-urlencoded").Post("/things/form", "name=<b>it</b>").Want(303)
	cookie, _, _ := strings.Cut(answer.Header.Get("Set-Cookie"), ";")
	page := staff.With("Cookie", cookie).Get("/things/").Want(200).Has("Kept &lt;b&gt;it&lt;/b&gt; ✓")
	if !strings.Contains(page.Header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("the cookie stays: %q", page.Header.Get("Set-Cookie"))
	}
	staff.With("Cookie", "inshape_flash=%%%").Get("/things/").Want(200)
}

func TestAPIIsDescribed(t *testing.T) {
	m := frametest.Start(t, things())
	nobody := m.As(frame.Identity{})
	var document struct {
		OpenAPI string                               `json:"openapi"`
		Paths   map[string]map[string]map[string]any `json:"paths"`
	}
	nobody.Get("/api/things/openapi.json").Want(200).Into(&document)
	if !strings.HasPrefix(document.OpenAPI, "3.1") || document.Paths["/api/things/things"]["post"]["operationId"] != "create-thing" {
		t.Errorf("the document is %+v", document)
	}
	nobody.Get("/api/things/docs").Want(200).Has("/api/things/things", "Make a thing", "What it is called", "string, at most 40 characters", "list-events", "redeliver", "application/problem")
}

func TestMetricsAndHealth(t *testing.T) {
	m := frametest.Start(t, things())
	m.As(frametest.Staff).Get("/things/").Want(200)
	m.As(frametest.Staff).Get("/things/" + strings.Repeat("x", 20)).Want(404)
	nobody := m.As(frame.Identity{})
	metrics := nobody.Get("/metrics").Want(200).Has(`route="GET /things/{$}",status="2xx"`, `route="/",status="4xx"`, "inshape_deliveries_waiting 0", "go_goroutines")
	if strings.Contains(string(metrics.Body), "xxxxx") {
		t.Error("paths of strangers become labels")
	}
	var health frame.Health
	nobody.Get("/healthz").Want(200).Into(&health)
	if health.Module != "things" || health.Title != "Things" {
		t.Errorf("it is %+v", health)
	}
}

func TestStopAnswersWhoWaits(t *testing.T) {
	m := frametest.Start(t, things())
	answers := make(chan *frametest.Answer)
	go func() { answers <- m.As(frametest.Staff).Get("/api/things/events?wait=60") }()
	// The request has to be under way: its route is counted when it is over, so ask the listener's side.
	waitUntil(t, func() bool {
		return strings.Contains(string(m.As(frame.Identity{}).Get("/metrics").Body), `inshape_requests_under_way 2`)
	})
	began := time.Now()
	m.Stop()
	if answer := <-answers; answer.Status != 200 || time.Since(began) > 5*time.Second {
		t.Errorf("got %d after %v", answer.Status, time.Since(began))
	}
}

func waitUntil(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

func TestRefusedBodyIsAnsweredFirst(t *testing.T) {
	m := frametest.Start(t, things())
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(m.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprintf(connection, "POST /api/things/things HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n", 64<<20)
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(connection, zeros{}, 64<<20)
		sent <- err
	}()
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %d", answer.StatusCode)
	}
	if err := <-sent; err != nil {
		t.Errorf("the connection broke off: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestSettingsAreChecked(t *testing.T) {
	_, err := frame.ConfigFrom(func(name string) string {
		return map[string]string{
			"INSHAPE_LISTEN": "8080", "INSHAPE_SECRET": "short", "INSHAPE_KEY": "short", "INSHAPE_SHOP": strings.Repeat("x", 61), "INSHAPE_LOGO": "http://x/logo.png",
			"INSHAPE_CURRENCY": "euro", "INSHAPE_UNIT": "cm", "INSHAPE_ADDRESSES": "orders", "INSHAPE_WEBHOOKS_INSIDE": "perhaps", "INSHAPE_EVENT_DAYS": "0",
		}[name]
	})
	if err == nil {
		t.Fatal("all of it is taken")
	}
	for _, name := range []string{"LISTEN", "SECRET", "KEY", "SHOP", "LOGO", "CURRENCY", "UNIT", "ADDRESSES", "WEBHOOKS_INSIDE", "EVENT_DAYS"} {
		if !strings.Contains(err.Error(), "INSHAPE_"+name+":") {
			t.Errorf("nothing is said of INSHAPE_%s in %v", name, err)
		}
	}
}

func TestFullDiskRefusesClearly(t *testing.T) {
	folder := frametest.SmallDisk(t, "3m")
	m := frametest.Start(t, things(), frametest.Setting{Name: "INSHAPE_DATA", Value: folder})
	staff := m.As(frametest.Staff)
	var kept []string
	var made thing
	staff.Post("/api/things/things", map[string]any{"name": "the first"}).Want(201).Into(&made)
	kept = append(kept, made.ID)
	ballast := filepath.Join(folder, "ballast")
	file, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(file, zeros{}, 8<<20)
	if err = errors.Join(err, file.Close()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	refused := 0
	for range 200 { // what room there is in the log is used up first
		answer := staff.Post("/api/things/things", map[string]any{"name": "one more"})
		if answer.Status == http.StatusCreated {
			answer.Into(&made)
			kept = append(kept, made.ID)
			continue
		}
		answer.Refused(507, "storage-full")
		if refused++; refused == 3 {
			break
		}
	}
	if refused != 3 {
		t.Fatalf("%d were refused, %d kept", refused, len(kept))
	}
	staff.Get("/things/").Want(200)
	staff.Get("/api/things/audit").Want(200)
	m.As(frame.Identity{}).Get("/healthz").Want(200)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	staff.Post("/api/things/things", map[string]any{"name": "there is room again"}).Want(201)
	for _, id := range kept {
		staff.Put("/api/things/things/"+id, map[string]any{"name": "still here"}).Want(200)
	}
	m.Stop() // before the file system goes
}
