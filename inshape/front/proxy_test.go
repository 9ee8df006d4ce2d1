package front

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"inshape/frame"
	"inshape/frame/frametest"
)

func TestModuleSeesWhoAsksAndNothingElse(t *testing.T) {
	shop, _ := startWith(t)
	admin := asAdmin(t, shop)
	forged, err := frame.Sign(frametest.Secret, frame.Identity{Subject: "usr_evil", Name: "Eve", Role: frame.Staff}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := admin.request("GET", "/api/echo/see?q=a%2Fb&q=c", nil)
	r.AddCookie(admin.http.Jar.Cookies(r.URL)[0])
	r.Host = "acme.example"
	r.Header.Set("Inshape-Identity", forged)
	r.Header.Set("If-Match", `"v6"`)
	r.Header.Set("Idempotency-Key", "once")
	r.Header.Set("X-Forwarded-For", "192.0.2.7")
	r.Header.Set("Connection", "Keep-Alive, X-Hop")
	r.Header.Set("X-Hop", "for the next one alone")
	r.AddCookie(&http.Cookie{Name: "theme", Value: "dark"})
	answer := admin.do(r).want(t, 200)
	var saw seen
	if err := json.Unmarshal([]byte(answer.text), &saw); err != nil {
		t.Fatal(err)
	}
	if saw.Who.Email != adminEmail || saw.Who.Role != frame.Admin || !saw.Who.Front {
		t.Errorf("the module thinks that %+v asks", saw.Who)
	}
	up := map[string]bool{}
	for _, m := range saw.Who.Modules {
		up[m.Name] = m.Up
	}
	if len(up) != 2 || !up["echo"] || up["absent-minded"] {
		t.Errorf("the navigation has %v", saw.Who.Modules)
	}
	for name, want := range map[string]string{
		"If-Match": `"v6"`, "Idempotency-Key": "once", "X-Hop": "", "Cookie": "theme=dark", "X-Forwarded-Host": "acme.example",
		"X-Forwarded-Proto": "http", "X-Forwarded-For": "192.0.2.7",
	} {
		if got := saw.Header.Get(name); got != want {
			t.Errorf("the module saw %s: %q, want %q", name, got, want)
		}
	}
	if saw.Host != "acme.example" || saw.URI != "/api/echo/see?q=a%2Fb&q=c" {
		t.Errorf("the module was asked for %s at %s", saw.URI, saw.Host)
	}
	if answer.Header.Get("X-Private") != "" || answer.Header.Get("ETag") != `"v7"` {
		t.Errorf("the client got %v", answer.Header)
	}
	for _, name := range append([]string{"Content-Security-Policy"}, ours...) {
		if got := answer.Header.Values(name); len(got) != 1 {
			t.Errorf("the client got %s: %q, want it once", name, got)
		}
	}
}

func TestStrangersSeeOnlyWhatIsOpen(t *testing.T) {
	shop, _ := startWith(t)
	v := visit(t, shop)
	v.get("/echo/open").want(t, 200, "Echo for")
	v.get("/echo/?tab=2").leads(t, "/sign-in?next=%2Fecho%2F%3Ftab%3D2")
	v.get("/nothing").leads(t, "/sign-in?next=%2Fnothing")
	shop.As(frame.Identity{}).Get("/api/echo/see").Refused(401, "unauthorized")
	shop.As(frametest.Admin).Get("/api/echo/see").Refused(401, "unauthorized") // an identity that a client signed is nobody's
	v.get("/api/echo/openapi.json").want(t, 200, `"openapi":"3.1.0"`)
	v.get("/static/echo/echo.css").want(t, 200, "b{}")
	v.get("/static/inshape.css").want(t, 200)
	for _, path := range []string{"/echo/healthz", "/echo/metrics", "/api/echo/metrics", "/api/echo/healthz"} {
		if p := v.get(path); p.StatusCode == 200 {
			t.Errorf("%s is let through", path)
		}
	}
}

func TestAbsentAndDownModules(t *testing.T) {
	shop, module := startWith(t)
	admin := asAdmin(t, shop)
	admin.get("/echo").want(t, 308)
	admin.get("/routing/").want(t, 404, "There is nothing at /routing/")
	program := shop.As(frame.Identity{})
	if p := program.Get("/api/routing/routes").Refused(501, "no-such-module"); !strings.Contains(p.Detail, `"routing"`) {
		t.Errorf("it says %q", p.Detail)
	}
	admin.get("/absent-minded/").want(t, 503, "Absent-minded does not answer", "Sign out", "badge warn")
	program.Get("/api/absent-minded/x").Refused(503, "module-down")
	admin.get("/echo/").want(t, 200, "Absent-minded")

	module.Stop()
	admin.get("/echo/").want(t, 503, "Echo does not answer", "Everything else works", "Sign out")
	program.Get("/api/echo/see").Refused(503, "module-down")
	admin.get("/").want(t, 200, "Good ")
	admin.get("/admin/webhooks").want(t, 200)
}

func TestModuleComesBack(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	shop := start(t, frametest.Setting{Name: "INSHAPE_MODULES", Value: "echo"}, frametest.Setting{Name: "INSHAPE_ADDRESSES", Value: "echo=http://" + address})
	admin := asAdmin(t, shop)
	admin.get("/echo/").want(t, 503)
	frametest.Start(t, echo("echo"), frametest.Setting{Name: "INSHAPE_LISTEN", Value: address})
	admin.get("/echo/").want(t, 200) // at once: a module that was down is asked all the same
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		p := admin.get("/")
		if strings.Contains(p.text, `hx-get="/echo/card"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the home page does not notice: %s", p.text)
		}
	}
}

// repeated is a body of n bytes that are never in memory together.
type repeated struct {
	block []byte
	n     int64
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.block[:min(int64(len(r.block)), r.n)])
	r.n -= int64(n)
	return n, nil
}

func TestLargeUploadsStream(t *testing.T) {
	shop, _ := startWith(t)
	admin := asAdmin(t, shop)
	const size = 256 << 20
	block := bytes.Repeat([]byte("inshape "), 4096)
	sum := sha256.New()
	if _, err := io.Copy(sum, &repeated{block, size}); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := admin.request("POST", "/api/echo/upload", io.NopCloser(&repeated{block, size}))
	r.ContentLength = size
	r.Header.Set("Content-Type", "model/stl")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Idempotency-Key", "an upload")
	answer := admin.do(r).want(t, 200)
	runtime.ReadMemStats(&after)
	if want := fmt.Sprintf("%d %s <nil>", size, hex.EncodeToString(sum.Sum(nil))); answer.text != want {
		t.Errorf("the module got %q, want %q", answer.text, want)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%d MiB were allocated for an upload of %d", grown>>20, size>>20)
	}
}

func TestRefusalOfAnUploadArrives(t *testing.T) {
	shop, _ := startWith(t)
	admin := asAdmin(t, shop)
	for range 5 {
		r := admin.request("POST", "/api/echo/refuse", io.NopCloser(&repeated{make([]byte, 1<<16), 32 << 20}))
		r.ContentLength = 32 << 20
		r.Header.Set("Content-Type", "model/stl")
		admin.do(r).want(t, 413, "it is too large")
	}
}

func TestWaitForEventsPasses(t *testing.T) {
	shop, module := startWith(t)
	admin := asAdmin(t, shop)
	answers := make(chan page)
	go func() { answers <- admin.get("/api/echo/events?wait=30") }()
	select {
	case p := <-answers:
		t.Fatalf("it did not wait: %s", p.text)
	case <-time.After(200 * time.Millisecond): // long enough to have asked; the test holds without it
	}
	err := module.Server.Store.Update(t.Context(), func(tx *frame.Tx) error { return tx.Emit("echo.heard", "x", "", nil) })
	if err != nil {
		t.Fatal(err)
	}
	(<-answers).want(t, 200, "echo.heard")
}

func TestPathsAreNotRead(t *testing.T) {
	shop, _ := startWith(t)
	admin := asAdmin(t, shop)
	cookie := admin.http.Jar.Cookies(admin.request("GET", "/", nil).URL)[0]
	for _, path := range []string{"/echo/../healthz", "/echo/%2e%2e/metrics", "/echo/..%2fmetrics", "//echo/metrics", "/api/echo/../../metrics", "/echo//../metrics"} {
		connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(shop.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: x\r\nCookie: %s=%s\r\nConnection: close\r\n\r\n", path, cookie.Name, cookie.Value)
		answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		connection.Close()
		if answer.StatusCode == 200 || strings.Contains(string(text), "go_goroutines") {
			t.Errorf("%s gives %d: %.200s", path, answer.StatusCode, text)
		}
	}
}

func TestModulesAreFoundByName(t *testing.T) {
	module := frametest.Start(t, echo("orders"))
	shop := frametest.Start(t, echo("front"))
	config := shop.Server.Config
	config.Addresses = map[string]string{}
	n := newNeighbours(config, &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "orders:8080" {
			return nil, fmt.Errorf("%s was asked", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, strings.TrimPrefix(module.URL, "http://"))
	}}, shop.Server.Log)
	there := []string{"orders"}
	n.resolve = func(_ context.Context, host string) error {
		if slices.Contains(there, host) {
			return nil
		}
		return &net.DNSError{Name: host, IsNotFound: true}
	}
	close(n.first)
	look := func(want string) {
		t.Helper()
		n.look(t.Context())
		if got := fmt.Sprint(n.list(t.Context())); got != want {
			t.Errorf("found %s, want %s", got, want)
		}
	}
	look("[{orders Echo package true}]")
	there = []string{"orders", "analysis"}
	look("[{analysis Analysis  false} {orders Echo package true}]")
	there = nil // a container that starts again
	look("[{analysis Analysis  false} {orders Echo package false}]")
	there = []string{"orders"}
	look("[{analysis Analysis  false} {orders Echo package true}]")
	there = nil
	list := slices.Clone(*n.now.Load())
	for i := range list {
		list[i].seen = list[i].seen.Add(-goneAfter - time.Second)
	}
	n.now.Store(&list)
	look("[]")
}
