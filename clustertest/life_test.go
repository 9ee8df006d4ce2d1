package clustertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/api"
)

// shop is a product of three services, chained, with a volume, a module, public
// and secret settings.
const shop = `
name: %s
services:
  db:
    image: probe:1
    environment: {NAME: db}
    volumes: ["data:/data"]
    healthcheck: {test: [CMD, /probe, get, "http://127.0.0.1:8080/health"], interval: 1s, timeout: 10s, retries: 2}
  api:
    image: probe:1
    environment: {NAME: api, TOKEN: "${API_TOKEN}"}
    depends_on: {db: {condition: service_healthy}}
  web:
    image: probe:1
    environment: {NAME: "web ${COLOUR:-green}"}
    ports: ["80:8080"]
    depends_on: [api]
  extra:
    image: probe:1
    profiles: [reports]
    environment: {NAME: reports}
volumes: {data: {}}
x-bulkhead:
  version: %s
  modules: {reports: {title: Reports}}
  settings:
    type: object
    additionalProperties: false
    properties:
      COLOUR: {type: string, enum: [green, blue, red]}
      API_TOKEN: {type: string, secret: true, generate: 24}
  routes:
    - {path: /, service: web, port: 8080}
    - {path: /api, service: api, port: 8080}
    - {host: reports, path: /, service: extra, port: 8080}
`

func (n *Node) show(name string) (s api.Stamp) {
	n.T.Helper()
	out := n.Run("stamp", "show", name, "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		n.T.Fatalf("%v in %s", err, out)
	}
	return s
}

// ids are the running tasks of a stamp by service.
func (n *Node) ids(name string) map[bulkhead.ServiceName]bulkhead.TaskID {
	n.T.Helper()
	out := map[bulkhead.ServiceName]bulkhead.TaskID{}
	for _, t := range n.show(name).Tasks {
		if t.State == bulkhead.TaskRunning {
			out[t.Service] = t.ID
		}
	}
	return out
}

func TestLifeOfAStamp(t *testing.T) {
	n := shared(t)
	n.Publish("life", fmt.Sprintf(shop, "life", "1"))
	n.Run("stamp", "create", "acme", "--product", "life", "--set", "COLOUR=blue")
	if got := n.MustGet("acme", "/"); !strings.HasPrefix(got, "web blue ") {
		t.Errorf("/ answers %q", got)
	}
	if got := n.MustGet("acme", "/api/x"); !strings.HasPrefix(got, "api api /api/x ") {
		t.Errorf("/api/x answers %q", got)
	}
	if got, err := n.Get("reports.acme", "/"); err == nil {
		t.Errorf("a module that the stamp does not have answers %q", got)
	}

	t.Run("update replaces only what changed", func(t *testing.T) {
		before := n.ids("acme")
		n.Run("stamp", "update", "acme", "--set", "COLOUR=red")
		after := n.ids("acme")
		if before["db"] != after["db"] || before["api"] != after["api"] || before["web"] == after["web"] {
			t.Errorf("before %v, after %v", before, after)
		}
		if got := n.MustGet("acme", "/"); !strings.HasPrefix(got, "web red ") {
			t.Errorf("/ answers %q", got)
		}
		n.Run("stamp", "update", "acme", "--module", "reports")
		if got := n.MustGet("reports.acme", "/"); !strings.HasPrefix(got, "reports ") {
			t.Errorf("the module answers %q", got)
		}
		if again := n.ids("acme"); again["web"] != after["web"] || again["extra"] == "" {
			t.Errorf("after the module: %v", again)
		}
	})

	t.Run("an update costs no request", func(t *testing.T) {
		done := make(chan struct{})
		failed := make(chan string, 1000)
		finished := make(chan int)
		go func() {
			asked := 0
			defer func() { finished <- asked }()
			for {
				select {
				case <-done:
					return
				default:
				}
				asked++
				if _, err := n.Get("acme", "/"); err != nil {
					failed <- err.Error()
				}
			}
		}()
		n.Run("stamp", "update", "acme", "--set", "COLOUR=green")
		n.Run("stamp", "update", "acme", "--set", "COLOUR=blue")
		close(done)
		if asked := <-finished; asked < 10 || len(failed) > 0 {
			t.Errorf("%d of %d requests failed, one with %s", len(failed), asked, <-failed)
		}
	})

	t.Run("secrets are sealed and never shown", func(t *testing.T) {
		var env []string
		out := n.Run("stamp", "exec", "acme", "api", "--", "/probe", "get", "http://127.0.0.1:8080/env")
		if err := json.Unmarshal([]byte(out), &env); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		token := ""
		for _, e := range env {
			token = strings.TrimPrefix(e, "TOKEN=")
			if token != e {
				break
			}
		}
		if len(token) != 24 {
			t.Fatalf("the generated secret is %q", token)
		}
		for _, args := range [][]string{
			{"stamp", "show", "acme", "-o", "json"},
			{"stamp", "show", "acme"},
			{"stamp", "list", "-o", "yaml"},
			{"export"},
			{"events", "-o", "json"},
		} {
			if strings.Contains(n.Run(args...), token) {
				t.Errorf("bulkhead %s shows the secret", strings.Join(args, " "))
			}
		}
		if found := n.grepData(token); found != "" {
			t.Errorf("the secret is in clear text in %s", found)
		}
	})

	t.Run("stop and start keep data", func(t *testing.T) {
		n.Run("stamp", "exec", "acme", "db", "--", "/probe", "get", "http://127.0.0.1:8080/write?path=/data/note&text=kept")
		n.Run("stamp", "stop", "acme")
		if _, err := n.Get("acme", "/"); err == nil {
			t.Error("a stopped stamp answers")
		}
		n.Run("stamp", "start", "acme")
		n.MustGet("acme", "/")
		if got := n.Run("stamp", "exec", "acme", "db", "--", "/probe", "get", "http://127.0.0.1:8080/read?path=/data/note"); got != "kept" {
			t.Errorf("the note is %q", got)
		}
	})

	t.Run("restart replaces every task", func(t *testing.T) {
		before := n.ids("acme")
		n.Run("stamp", "restart", "acme")
		for service, id := range n.ids("acme") {
			if before[service] == id {
				t.Errorf("%s is still %s", service, id)
			}
		}
	})

	t.Run("logs", func(t *testing.T) {
		n.Run("stamp", "exec", "acme", "web", "--", "/probe", "get", "http://127.0.0.1:8080/log?lines=3&text=hello")
		n.Until(5*time.Second, "the lines are kept", func() error {
			out := n.Run("stamp", "logs", "acme")
			if strings.Count(out, "hello ") < 3 {
				return fmt.Errorf("got %s", out)
			}
			return nil
		})
	})

	t.Run("a token that is revoked ends what it has open", func(t *testing.T) {
		var guest api.TokenView
		if err := json.Unmarshal([]byte(n.Run("token", "create", "--role", "admin", "--name", "guest", "-o", "json")), &guest); err != nil {
			t.Fatal(err)
		}
		ends := make(chan string, 2)
		for _, args := range [][]string{{"stamp", "logs", "acme", "--follow"}, {"stamp", "exec", "acme", "web", "--", "/probe", "sleep"}} {
			go func() {
				out, code := n.Try(append([]string{"--token", guest.Token}, args...)...)
				ends <- fmt.Sprintf("%s: exit code %d, %s", strings.Join(args, " "), code, out[max(0, len(out)-200):])
			}()
		}
		n.Until(10*time.Second, "both are open", func() error {
			if log := n.Log(); !strings.Contains(log, "/probe sleep") {
				return errors.New("the command is not in the log")
			}
			return nil
		})
		n.Run("token", "revoke", "guest")
		for range 2 {
			if end := <-ends; !strings.Contains(end, fmt.Sprintf("exit code %d, ", exitDenied)) || !strings.Contains(end, "the token is not known here") {
				t.Error(end)
			}
		}
	})

	t.Run("delete keeps data, restore takes it back, purge destroys it", func(t *testing.T) {
		n.Run("stamp", "delete", "acme", "--yes")
		if _, err := n.Get("acme", "/"); err == nil {
			t.Error("a deleted stamp answers")
		}
		if out, code := n.Try("stamp", "create", "acme", "--product", "life"); code == 0 || !strings.Contains(out, "--restore") {
			t.Errorf("creating over kept data: exit code %d, %s", code, out)
		}
		n.Run("stamp", "create", "acme", "--product", "life", "--restore")
		n.MustGet("acme", "/")
		if got := n.Run("stamp", "exec", "acme", "db", "--", "/probe", "get", "http://127.0.0.1:8080/read?path=/data/note"); got != "kept" {
			t.Errorf("after restore the note is %q", got)
		}
		n.Run("stamp", "delete", "acme", "--purge", "--yes")
		n.Run("stamp", "create", "acme", "--product", "life")
		if out, code := n.Try("stamp", "exec", "acme", "db", "--", "/probe", "get", "http://127.0.0.1:8080/read?path=/data/note"); code == 0 {
			t.Errorf("after purge the note is %q", out)
		}
		if left := n.Run("stamp", "exec", "acme", "db", "--", "/probe", "get", "http://127.0.0.1:8080/read?path=/data/seed"); left != "from the image\n" {
			t.Errorf("a new volume begins with %q", left)
		}
		n.Run("stamp", "delete", "acme", "--purge", "--yes")
	})
}

func TestApplyIsIdempotent(t *testing.T) {
	n := shared(t)
	n.Publish("applied", fmt.Sprintf(shop, "applied", "1"))
	file := n.File("stamps.yaml", `
kind: Stamp
name: one
product: applied
settings: {COLOUR: blue}
---
kind: Stamp
name: two
product: applied
modules: [reports]
`)
	if out := n.Run("apply", "-f", file, "--dry-run"); !strings.Contains(out, "one") || strings.Contains(n.Run("stamp", "list"), "one") {
		t.Errorf("dry run: %s", out)
	}
	n.Run("apply", "-f", file)
	n.MustGet("one", "/")
	n.MustGet("reports.two", "/")
	before := n.ids("one")
	n.Run("apply", "-f", file)
	if after := n.ids("one"); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("applying again changed %v to %v", before, after)
	}
	exported := n.File("exported.yaml", n.Run("export"))
	n.Run("apply", "-f", exported)
	if after := n.ids("one"); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("applying the export changed %v to %v", before, after)
	}
	n.Run("stamp", "delete", "one", "--purge", "--yes")
	n.Run("stamp", "delete", "two", "--purge", "--yes")
}

func TestPublishIsImmutable(t *testing.T) {
	n := shared(t)
	n.Publish("fixed", fmt.Sprintf(shop, "fixed", "1"))
	before := n.Run("release", "show", "fixed", "1", "-o", "json")
	n.Publish("fixed", fmt.Sprintf(shop, "fixed", "1"))
	if after := n.Run("release", "show", "fixed", "1", "-o", "json"); before != after {
		t.Errorf("publishing again changed\n%s\nto\n%s", before, after)
	}
	file := n.File("fixed/compose.yaml", strings.Replace(fmt.Sprintf(shop, "fixed", "1"), "NAME: db", "NAME: other", 1))
	if out, code := n.Try("release", "publish", file, "--images", n.ProbeImage()); code == 0 {
		t.Errorf("the same version with other content was taken: %s", out)
	}
	if after := n.Run("release", "show", "fixed", "1", "-o", "json"); before != after {
		t.Error("the refused content changed the release")
	}
}
