package clustertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browser is somebody's browser at one stamp: it keeps cookies, also where the
// test would rather it did not.
type browser struct {
	n      *Node
	host   string
	client *http.Client
	key    string // an API key to show, instead of cookies
}

func (n *Node) browser(stamp string) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		n.T.Fatal(err)
	}
	return &browser{n: n, host: stamp + ".localhost", client: &http.Client{
		Timeout: 90 * time.Second, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// at is the same browser, with its cookies and keys, at another stamp.
func (b *browser) at(stamp string) *browser {
	other := *b
	other.host = stamp + ".localhost"
	return &other
}

func (b *browser) ask(method, path, kind string, body io.Reader) (status int, text string) {
	b.n.T.Helper()
	r, err := http.NewRequest(method, "http://"+b.n.HTTP+path, body)
	if err != nil {
		b.n.T.Fatal(err)
	}
	r.Host = b.host
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if b.key != "" {
		r.Header.Set("Authorization", "Bearer "+b.key)
	}
	answer, err := b.client.Do(r)
	if err != nil {
		b.n.T.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		b.n.T.Fatal(err)
	}
	return answer.StatusCode, string(content)
}

func (b *browser) get(path string) (int, string) {
	b.n.T.Helper()
	return b.ask(http.MethodGet, path, "", nil)
}

func (b *browser) post(path string, form url.Values) int {
	b.n.T.Helper()
	status, _ := b.ask(http.MethodPost, path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	return status
}

func (b *browser) postJSON(want int, path, body string, out any) {
	b.n.T.Helper()
	status, text := b.ask(http.MethodPost, path, "application/json", strings.NewReader(body))
	if status != want {
		b.n.T.Fatalf("%s%s: %d, %s", b.host, path, status, text)
	}
	if err := json.Unmarshal([]byte(text), out); err != nil {
		b.n.T.Fatalf("%v in %s", err, text)
	}
}

const adminPassword = "correct horse battery"

// admin becomes the first administrator of a stamp by the link in its log, and
// signs in.
func (n *Node) admin(stamp string) *browser {
	n.T.Helper()
	link := ""
	n.Until(time.Minute, "the front of "+stamp+" shows its setup link", func() error {
		found := regexp.MustCompile(`/setup\?token=([^"]+)"`).FindStringSubmatch(n.Run("stamp", "logs", stamp, "front"))
		if found == nil {
			return fmt.Errorf("no link yet")
		}
		link = found[1]
		return nil
	})
	b := n.browser(stamp)
	email := "admin@" + stamp + ".test"
	if status := b.post("/setup", url.Values{"token": {link}, "name": {"Admin of " + stamp}, "email": {email}, "password": {adminPassword}}); status != http.StatusSeeOther {
		n.T.Fatalf("setup of %s: %d", stamp, status)
	}
	if status := b.post("/sign-in", url.Values{"email": {email}, "password": {adminPassword}}); status != http.StatusSeeOther {
		n.T.Fatalf("sign in at %s: %d", stamp, status)
	}
	return b
}

// tetrahedron is a solid, as ASCII STL.
const tetrahedron = `solid t
facet normal 0 0 0
outer loop
vertex 0 0 0
vertex 0 20 0
vertex 20 0 0
endloop
endfacet
facet normal 0 0 0
outer loop
vertex 0 0 0
vertex 20 0 0
vertex 0 0 20
endloop
endfacet
facet normal 0 0 0
outer loop
vertex 0 0 0
vertex 0 0 20
vertex 0 20 0
endloop
endfacet
facet normal 0 0 0
outer loop
vertex 20 0 0
vertex 0 20 0
vertex 0 0 20
endloop
endfacet
endsolid t
`

// Inshape is stamped for two partners, one with Analysis, one with Orders as
// well: each has its modules, and nothing of the other.
func TestInshape(t *testing.T) {
	n := shared(t)
	product, err := filepath.Abs("../inshape")
	if err != nil {
		t.Fatal(err)
	}
	publish := []string{"release", "publish", product}
	for _, service := range []string{"front", "analysis", "orders"} {
		archive := filepath.Join(n.Dir, service+".tar")
		build := exec.Command("go", "run", "bulkhead/imagebuild/static", "-tag", "inshape/"+service+":1.0", "-data", "/data", "-out", archive, filepath.Join(product, "cmd", service))
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		publish = append(publish, "--images", archive)
	}
	n.Run(publish...)
	n.Run("stamp", "create", "acme", "--product", "inshape", "--module", "analysis", "--set", "SHOP=Acme Prototypes")
	n.Run("stamp", "create", "globex", "--product", "inshape", "--module", "analysis", "--module", "orders", "--set", "CURRENCY=USD")
	t.Cleanup(func() {
		for _, name := range []string{"acme", "globex"} {
			n.Run("stamp", "delete", name, "--purge", "--yes")
		}
	})
	acme, globex := n.admin("acme"), n.admin("globex")
	for b, modules := range map[*browser]int{acme: 1, globex: 2} {
		n.Until(time.Minute, "the front at "+b.host+" has found its modules", func() error {
			if _, text := b.get("/api/front/modules"); strings.Count(text, `"up":true`) != modules {
				return errors.New(text)
			}
			return nil
		})
	}

	t.Run("each has its modules", func(t *testing.T) {
		if status, page := acme.get("/"); status != 200 || !strings.Contains(page, "Acme Prototypes") || !strings.Contains(page, `href="/analysis/"`) || strings.Contains(page, `href="/orders/"`) {
			t.Errorf("acme's home: %d, %s", status, page)
		}
		if status, page := globex.get("/"); status != 200 || !strings.Contains(page, `href="/orders/"`) {
			t.Errorf("globex's home: %d, %s", status, page)
		}
		if status, text := acme.get("/api/orders/orders"); status != 501 || !strings.Contains(text, "orders") {
			t.Errorf("acme's orders: %d, %s", status, text)
		}
		if status, _ := acme.get("/orders/"); status != 404 {
			t.Errorf("acme's page of orders: %d", status)
		}
		if status, text := globex.get("/api/orders/orders"); status != 200 {
			t.Errorf("globex's orders: %d, %s", status, text)
		}
	})

	var model struct{ ID string }
	status, text := acme.ask(http.MethodPost, "/api/analysis/models?name=secret-bracket.stl&unit=millimeter", "application/octet-stream", strings.NewReader(tetrahedron))
	if err := json.Unmarshal([]byte(text), &model); err != nil || status != 201 {
		t.Fatalf("upload: %d, %s", status, text)
	}
	n.Until(time.Minute, "the model is analysed", func() error {
		_, text := acme.get("/api/analysis/models/" + model.ID)
		if !strings.Contains(text, `"state":"done"`) {
			return fmt.Errorf("it is %s", text)
		}
		return nil
	})
	if _, text := acme.get("/api/analysis/models/" + model.ID + "/revisions/1/verdicts"); !strings.Contains(text, `"printable"`) {
		t.Errorf("verdicts: %s", text)
	}

	t.Run("globex sees nothing of acme", func(t *testing.T) {
		for _, path := range []string{"", "/revisions/1", "/revisions/1/verdicts", "/revisions/1/file", "/revisions/1/picture.png"} {
			if status, text := globex.get("/api/analysis/models/" + model.ID + path); status != 404 {
				t.Errorf("%s%s at globex: %d, %s", model.ID, path, status, text)
			}
		}
		for _, path := range []string{"/api/analysis/models", "/analysis/", "/api/front/users", "/api/front/audit"} {
			if status, text := globex.get(path); status != 200 || strings.Contains(text, "secret-bracket") || strings.Contains(strings.ToLower(text), "acme") {
				t.Errorf("%s at globex: %d, %s", path, status, text)
			}
		}
	})
	t.Run("what opens acme opens nothing at globex", func(t *testing.T) {
		if status, _ := acme.at("globex").get("/api/front/me"); status != 401 {
			t.Errorf("acme's session at globex: %d", status)
		}
		if status := n.browser("globex").post("/sign-in", url.Values{"email": {"admin@acme.test"}, "password": {adminPassword}}); status == http.StatusSeeOther {
			t.Error("acme's admin signs in at globex")
		}
		var key struct{ Key string }
		acme.postJSON(201, "/api/front/keys", `{"name": "erp", "role": "admin"}`, &key)
		program := n.browser("acme")
		program.key = key.Key
		if status, text := program.get("/api/analysis/models"); status != 200 || !strings.Contains(text, "secret-bracket") {
			t.Fatalf("acme's key at acme: %d, %s", status, text)
		}
		if status, text := program.at("globex").get("/api/analysis/models"); status != 401 {
			t.Errorf("acme's key at globex: %d, %s", status, text)
		}
	})
	t.Run("their data lies apart", func(t *testing.T) {
		of := map[string]int{}
		stamps := filepath.Join(n.Data(), "volumes", "stamps")
		err := filepath.WalkDir(stamps, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, []byte("secret-bracket")) {
				stamp, _, _ := strings.Cut(strings.TrimPrefix(path, stamps+"/"), ".")
				of[stamp]++
			}
			return err
		})
		if err != nil || len(of) != 1 || of["acme"] == 0 {
			t.Errorf("the name of acme's model stands in %v (%v)", of, err)
		}
	})
}
