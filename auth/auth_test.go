package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
)

// door is a gate with an admin and a viewer, and what it has logged.
type door struct {
	gate          *Gate
	admin, viewer string
	log           bytes.Buffer
	handler       http.Handler
}

func newDoor() *door {
	d := &door{}
	admin, adminHash := New()
	viewer, viewerHash := New()
	d.admin, d.viewer = admin, viewer
	operators := map[string]Operator{adminHash: {"ann", RoleAdmin, adminHash}, viewerHash: {"vic", RoleViewer, viewerHash}}
	d.gate = &Gate{
		Lookup: func(_ context.Context, hash string) (Operator, error) {
			if o, ok := operators[hash]; ok {
				return o, nil
			}
			return Operator{}, ErrUnknown
		},
		Logger: slog.New(slog.NewJSONHandler(&d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	d.handler = d.gate.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o, _ := FromContext(r.Context())
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, o.Name)
	}))
	return d
}

func (d *door) knock(method, path, authorization string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	return w
}

func basic(password string) string {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth("anybody", password)
	return r.Header.Get("Authorization")
}

func TestGate(t *testing.T) {
	d := newDoor()
	other, _ := New()
	admin, viewer := "Bearer "+d.admin, "Bearer "+d.viewer
	for _, c := range []struct {
		method, path, authorization string
		headers                     []string
		want                        int
	}{
		{"GET", "/api/stamps", admin, nil, 202},
		{"DELETE", "/api/stamps/acme", admin, nil, 202},
		{"GET", "/api/stamps", "bearer " + d.admin, nil, 202},
		{"GET", "/api/stamps", viewer, nil, 202},
		{"HEAD", "/api/stamps", viewer, nil, 202},
		{"POST", "/api/stamps", viewer, nil, 403},
		{"DELETE", "/api/stamps/acme", viewer, nil, 403},
		{"GET", "/api/stamps/acme/exec", viewer, []string{"Upgrade", "websocket"}, 403},
		{"GET", "/api/stamps/acme/exec", admin, []string{"Upgrade", "websocket"}, 202},
		{"GET", "/api/stamps", "", nil, 401},
		{"GET", "/api/stamps", "Bearer", nil, 401},
		{"GET", "/api/stamps", "Bearer " + other, nil, 401},
		{"GET", "/api/stamps", "Bearer " + d.admin + "x", nil, 401},
		{"GET", "/api/stamps", "Bearer " + Hash(d.admin), nil, 401}, // what is stored opens nothing
		{"GET", "/api/stamps", "Digest " + d.admin, nil, 401},
		{"POST", "/api/stamps", basic(d.admin), nil, 401}, // a browser may have been tricked
		{"GET", "/v2/", basic(d.admin), nil, 202},
		{"PUT", "/v2/shop/manifests/1", basic(d.admin), nil, 202},
		{"PUT", "/v2/shop/manifests/1", basic(d.viewer), nil, 403},
		{"GET", "/v2/", basic("wrong"), nil, 401},
		{"GET", "/v2/", "", nil, 401},
	} {
		w := d.knock(c.method, c.path, c.authorization, c.headers...)
		if w.Code != c.want {
			t.Errorf("%s %s %v: %d, want %d", c.method, c.path, c.headers, w.Code, c.want)
		}
		challenge, want := w.Header().Get("WWW-Authenticate"), ""
		if c.want == 401 {
			if want = `Bearer realm="bulkhead"`; strings.HasPrefix(c.path, "/v2/") {
				want = `Basic realm="bulkhead"`
			}
		}
		if challenge != want {
			t.Errorf("%s %s: challenge %q, want %q", c.method, c.path, challenge, want)
		}
	}
	for _, secret := range []string{d.admin, d.viewer, other, strings.TrimPrefix(d.admin, prefix), basic(d.admin)[6:]} {
		if strings.Contains(d.log.String(), secret) {
			t.Error("a token is in the log")
		}
	}
}

func TestGate_RecordsWhoDidWhat(t *testing.T) {
	d := newDoor()
	d.knock("DELETE", "/api/stamps/acme?secret=hunter2", "Bearer "+d.admin)
	d.knock("POST", "/api/stamps", "Bearer "+d.viewer)
	d.knock("GET", "/api/stamps", "Bearer "+d.viewer)
	var got []string
	for line := range strings.Lines(d.log.String()) {
		var e struct {
			Level, Msg, Operator, Method, Path, Remote string
			Status                                     int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Level, " ", e.Msg, " ", e.Operator, " ", e.Method, " ", e.Path, " ", e.Remote, " ", e.Status))
	}
	want := []string{
		"INFO audit ann DELETE /api/stamps/acme 192.0.2.1 202",
		"INFO audit vic POST /api/stamps 192.0.2.1 403",
		"DEBUG audit vic GET /api/stamps 192.0.2.1 202",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestGate_SlowsGuessersDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor()
		wrong, _ := New()
		for i := range mostFailures + 30 {
			w := d.knock("GET", "/", "Bearer "+wrong)
			if want := map[bool]int{true: 401, false: 429}[i < mostFailures]; w.Code != want {
				t.Fatalf("attempt %d: %d, want %d", i, w.Code, want)
			}
			if w.Code == 429 && w.Header().Get("Retry-After") != "3" {
				t.Errorf("Retry-After: %q", w.Header().Get("Retry-After"))
			}
		}
		if n := strings.Count(d.log.String(), "\n"); n != mostFailures+1 {
			t.Errorf("%d lines in the log", n)
		}
		if w := d.knock("GET", "/", "Bearer "+d.admin); w.Code != 202 {
			t.Errorf("the operator is locked out: %d", w.Code)
		}
		if w := d.knock("GET", "/", ""); w.Code != 401 {
			t.Errorf("without a token: %d", w.Code)
		}
		time.Sleep(failurePause)
		if w := d.knock("GET", "/", "Bearer "+wrong); w.Code != 401 {
			t.Errorf("after a pause: %d", w.Code)
		}
		if w := d.knock("GET", "/", "Bearer "+wrong); w.Code != 429 {
			t.Errorf("after one more: %d", w.Code)
		}
	})
}

func TestAttempts_AreBoundedAndApart(t *testing.T) {
	var a attempts
	now := time.Unix(0, 0)
	fail := func(address string) bool { wait, _ := a.failed(address, now); return wait == 0 }
	for range mostFailures {
		fail("2001:db8::1")
	}
	if fail("2001:db8::2") {
		t.Error("another address of the same /64 starts anew")
	}
	if !fail("2001:db8:0:1::1") || !fail("192.0.2.1") || !fail("::ffff:192.0.2.2") || !fail("not an address") {
		t.Error("others are held responsible")
	}
	for i := range 3 * mostTracked {
		fail(fmt.Sprintf("10.%d.%d.1", i/256, i%256))
		now = now.Add(time.Millisecond)
	}
	if len(a.by) > mostTracked {
		t.Errorf("%d addresses are tracked", len(a.by))
	}
}

func TestGate_AnswersAsTold(t *testing.T) {
	d := newDoor()
	d.gate.Refuse = func(w http.ResponseWriter, _ *http.Request, status int, err *bulkhead.Error) {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "%v %s / %s", err.Kind, err.Message, err.Hint)
	}
	if w := d.knock("GET", "/", ""); w.Code != 401 || !strings.HasPrefix(w.Body.String(), "denied this needs a token / send") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Streams flush and connections can be taken over behind the gate.
func TestGate_HidesNothingOfTheConnection(t *testing.T) {
	d := newDoor()
	d.handler = d.gate.Require(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, ok := w.(http.Flusher); !ok {
			t.Error("no Flusher")
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 299 mine\r\nContent-Length: 0\r\n\r\n")
		_ = rw.Flush()
	}))
	s := httptest.NewServer(d.handler)
	defer s.Close()
	r, err := http.NewRequest(http.MethodPost, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+d.admin)
	answer, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 299 {
		t.Errorf("status %d", answer.StatusCode)
	}
}

func TestNew(t *testing.T) {
	one, hash := New()
	two, _ := New()
	if one == two || Hash(one) != hash || !wellFormed(one) || strings.Contains(hash, one[len(prefix):]) {
		t.Errorf("tokens %s and %s, hash %s", one[:6], two[:6], hash)
	}
	for s, ok := range map[string]bool{"admin": true, "viewer": true, "": false, "root": false} {
		if _, err := ParseRole(s); (err == nil) != ok {
			t.Errorf("role %q: %v", s, err)
		}
	}
	for s, ok := range map[string]bool{"ann": true, "ann.b+ci@example.com": true, "": false, "ann b": false, "ann\n": false, "größe": false, strings.Repeat("a", 64): false} {
		if _, err := ParseName(s); (err == nil) != ok {
			t.Errorf("name %q: %v", s, err)
		}
	}
}
