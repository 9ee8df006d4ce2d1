package compose

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"bulkhead"

	"github.com/rogpeppe/go-internal/txtar"
)

func project(t testing.TB, file string) *Project {
	t.Helper()
	return mustLoad(t, writeProject(t, []txtar.File{{Name: "compose.yaml", Data: []byte(file)}}))
}

const settingsFile = `
x-bulkhead:
  settings:
    COLOR: {enum: [blue, red], default: blue}
    WORKERS: {type: integer, minimum: 1, default: 2}
    RATIO: {type: number}
    BETA: {type: boolean, default: false}
    HOSTS: {type: array, items: {type: string}}
    MAIL: {type: string, format: email, required: true}
    DB_PASSWORD: {secret: true, generate: 30}
services:
  web:
    image: nginx
    environment: {A: "${COLOR} ${WORKERS} ${RATIO} ${BETA} ${HOSTS} ${MAIL}", B: "${DB_PASSWORD:-none}"}
  debug: {image: busybox, profiles: [debug]}
`

func set(pairs ...string) map[string]json.RawMessage {
	m := map[string]json.RawMessage{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = json.RawMessage(pairs[i+1])
	}
	return m
}

func TestFreezeRefusesAllAtOnce(t *testing.T) {
	p := project(t, settingsFile)
	_, err := p.Freeze(Inputs{
		Stamp: "acme", Domain: "localhost", Modules: []bulkhead.ModuleName{"gold"},
		Settings: set("COLOR", `"green"`, "WORKERS", `"3"`, "SHADE", `1`, "DB_PASSWORD", `5`, "RATIO", `{`, "HOSTS", `"`+bulkhead.SecretRef("DB_PASSWORD")+`"`),
		Images:   map[bulkhead.ServiceName]bulkhead.Image{},
	})
	const want = `invalid: stamp acme is refused: 9 faults
  modules.gold: no such module; there are debug
  settings.HOSTS: it holds ⟦secret:…, which stands for secrets
  settings.RATIO: not JSON
  settings.COLOR: value must be one of 'blue', 'red'
  settings.DB_PASSWORD: got number, want string
  settings.HOSTS: got string, want array
  settings.MAIL: required, but not set
  settings.SHADE: no such setting; there are BETA, COLOR, DB_PASSWORD, HOSTS, MAIL, RATIO, WORKERS
  settings.WORKERS: got string, want integer
`
	if err == nil || report(err) != want {
		t.Errorf("got:\n%s\nwant:\n%s", report(err), want)
	}
	_, err = p.Freeze(Inputs{Stamp: "acme", Domain: "localhost", Settings: set("MAIL", `"nobody"`)})
	if err == nil || !strings.HasPrefix(err.Error(), "settings.MAIL: 'nobody' is not valid email") {
		t.Errorf("a format: %v", err)
	}
	_, err = p.Freeze(Inputs{Stamp: "acme", Domain: "localhost", Settings: set("MAIL", `"a@example.com"`), Images: map[bulkhead.ServiceName]bulkhead.Image{}})
	if err == nil || !strings.Contains(err.Error(), "the release has no image for this service") {
		t.Errorf("no image: %v", err)
	}
}

func TestSecretsStayOut(t *testing.T) {
	p := project(t, settingsFile)
	frozen, err := p.Freeze(Inputs{Stamp: "acme", Domain: "localhost", Settings: set("MAIL", `"a@example.com"`, "WORKERS", `7`, "HOSTS", `["a","b"]`)})
	if err != nil {
		t.Fatal(report(err))
	}
	made := frozen.Secrets["DB_PASSWORD"]
	if len(made) != 30 {
		t.Errorf("generated %q, not 30 characters", made)
	}
	encoded, err := json.Marshal(frozen.Services)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(encoded), made) {
		t.Error("the services hold the secret's value")
	}
	web := frozen.Services[0]
	if got, want := web.Environment["A"], `blue 7  false ["a","b"] a@example.com`; got != want {
		t.Errorf("A is %q, not %q", got, want)
	}
	if web.Environment["B"] != bulkhead.SecretRef("DB_PASSWORD") || len(web.Secrets) != 1 || web.Secrets[0] != "DB_PASSWORD" {
		t.Errorf("B is %q, secrets %v", web.Environment["B"], web.Secrets)
	}
	if _, ok := frozen.Settings["DB_PASSWORD"]; ok || len(frozen.Settings) != 3 {
		t.Errorf("public settings: %v", frozen.Settings)
	}

	// An update keeps what there is; null takes a setting back.
	again, err := p.Freeze(Inputs{Stamp: "acme", Domain: "localhost", Settings: set("MAIL", `"b@example.com"`, "WORKERS", `null`), Secrets: frozen.Secrets})
	if err != nil {
		t.Fatal(report(err))
	}
	if again.Secrets["DB_PASSWORD"] != made {
		t.Error("the secret changed")
	}
	if got := again.Services[0].Environment["A"]; got != "blue 2  false  b@example.com" {
		t.Errorf("A is %q", got)
	}
}

func TestNoSecretValueGivesTheDefault(t *testing.T) {
	p := project(t, "services: {web: {image: nginx, environment: {B: '${API_TOKEN:-none}', C: '${API_TOKEN:+yes}'}}}\n")
	for value, want := range map[string]string{`null`: "none/", `""`: "none/", `"x"`: bulkhead.SecretRef("API_TOKEN") + "/yes"} {
		frozen, err := p.Freeze(Inputs{Stamp: "acme", Domain: "localhost", Settings: set("API_TOKEN", value)})
		if err != nil {
			t.Fatal(report(err))
		}
		env := frozen.Services[0].Environment
		if got := env["B"] + "/" + env["C"]; got != want {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
}

// TestSettingThatDoesNotFit: a derived setting may be any text, but its place
// may not take it.
func TestSettingThatDoesNotFit(t *testing.T) {
	p := mustLoad(t, writeProject(t, []txtar.File{
		{Name: "compose.yaml", Data: []byte("services:\n  web:\n    image: nginx\n    scale: ${N}\n    volumes: ['./themes/${THEME:-light}.css:/t.css:ro']\n")},
		{Name: "themes/light.css"},
		{Name: "themes/dark.css"},
		{Name: "secret.css"},
	}))
	for _, test := range []struct{ n, theme, want string }{
		{`"2"`, `"dark"`, ""},
		{`null`, `"dark"`, "settings.N: required, but not set"},
		{`"many"`, `"dark"`, `compose.yaml:4: services.web.scale: failed to cast to expected type: strconv.Atoi: parsing "many": invalid syntax`},
		{`"2"`, `"green"`, `compose.yaml:5: services.web.volumes: "./themes/green.css": no such file in the project`},
		{`"2"`, `"../secret"`, `compose.yaml:5: services.web.volumes: "./themes/../secret.css": no such file in the project`},
		{`"2"`, `"../../x"`, `compose.yaml:5: services.web.volumes: "../x.css" climbs out of the project folder; move the file into it`},
	} {
		_, err := p.Freeze(Inputs{Stamp: "acme", Domain: "localhost", Settings: set("N", test.n, "THEME", test.theme)})
		if got := ""; err != nil {
			if got = err.Error(); got != test.want {
				t.Errorf("N=%s THEME=%s: got %s, want %s", test.n, test.theme, got, test.want)
			}
		} else if test.want != "" {
			t.Errorf("N=%s THEME=%s: accepted", test.n, test.theme)
		}
	}
}

func TestParseSetting(t *testing.T) {
	p := project(t, settingsFile)
	for _, test := range []struct{ name, text, want string }{
		{"COLOR", "red", `"red"`},
		{"WORKERS", "5", `5`},
		{"RATIO", "0.5", `0.5`},
		{"BETA", "true", `true`},
		{"HOSTS", "a,b", `["a","b"]`},
		{"HOSTS", `["a"]`, `["a"]`},
		{"MAIL", "5", `"5"`},
		{"DB_PASSWORD", `a"b`, `"a\"b"`},
		{"MAIL", "", `""`},
	} {
		got, err := ParseSetting(p.Settings, test.name, test.text)
		if err != nil || string(got) != test.want {
			t.Errorf("%s=%s: got %s, %v; want %s", test.name, test.text, got, err, test.want)
		}
	}
	for _, test := range []struct{ name, text, want string }{
		{"WORKERS", "many", `settings.WORKERS: "many" is not of type integer`},
		{"SHADE", "x", "settings.SHADE: no such setting; there are BETA, COLOR, DB_PASSWORD, HOSTS, MAIL, RATIO, WORKERS"},
	} {
		_, err := ParseSetting(p.Settings, test.name, test.text)
		if !errors.Is(err, bulkhead.ErrInvalid) || err.Error() != test.want {
			t.Errorf("%s=%s: got %v; want %s", test.name, test.text, err, test.want)
		}
	}
}

func TestLooksSecret(t *testing.T) {
	for name, want := range map[string]bool{
		"PASSWORD": true, "DB_PASSWORD": true, "MYSQL_ROOT_PASSWORD": true, "PIHOLE_PW": true, "SECRET_KEY_BASE": true, "API_TOKEN": true,
		"JWT_SECRET": true, "STRIPE_API_KEY": true, "dbpassword": true,
		"DB_PASSWORD_FILE": false, "KEYCLOAK_HOST": false, "TIMEZONE": false, "PUBLIC_KEY": false, "TOKEN_TTL": false, "MONKEY": false,
	} {
		if looksSecret(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

func TestReleaseDigest(t *testing.T) {
	p := project(t, "services: {web: {image: nginx, ports: ['80']}}\n")
	images := map[bulkhead.ServiceName]bulkhead.Image{"web": {Reference: "nginx", Digest: "sha256:1"}}
	if _, err := p.Release("", "sha256:2", 3, images); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("no version: %v", err)
	}
	if _, err := p.Release("1", "sha256:2", 3, nil); err == nil || err.Error() != "service web: image nginx was not found" {
		t.Errorf("no image: %v", err)
	}
	r, err := p.Release("1", "sha256:2", 3, images)
	if err != nil || r.Digest.Validate() != nil {
		t.Fatalf("%v, %v", r, err)
	}
	// It survives the wire, and does not depend on when it was published.
	encoded, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back bulkhead.Release
	if err := json.Unmarshal(encoded, &back); err != nil {
		t.Fatal(err)
	}
	back.Created = back.Created.AddDate(1, 0, 0)
	if Digest(back) != r.Digest {
		t.Error("the same content has another digest")
	}
	back.BundleSize++
	if Digest(back) == r.Digest {
		t.Error("other content has the same digest")
	}
}

func TestModulesOfAStampAreAVariable(t *testing.T) {
	p := project(t, `
name: shop
x-bulkhead: {version: "1", modules: {reports: {needs: [cache]}, cache: {}, search: {}}}
services:
  web: {image: "web:1", environment: {MODULES: "${COMPOSE_PROFILES:-none}"}}
  reports: {image: "web:1", profiles: [reports]}
  cache: {image: "web:1", profiles: [cache]}
  search: {image: "web:1", profiles: [search]}
`)
	for want, modules := range map[string][]bulkhead.ModuleName{"none": nil, "cache,reports": {"reports"}} {
		frozen, err := p.Freeze(Inputs{Stamp: "acme", Domain: "localhost", Modules: modules})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(frozen.Services, func(s bulkhead.Service) bool { return s.Name == "web" })
		if got := frozen.Services[i].Environment["MODULES"]; got != want {
			t.Errorf("with %v: %q, want %q", modules, got, want)
		}
	}
}
