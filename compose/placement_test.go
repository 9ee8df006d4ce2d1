package compose

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead"
)

// projectOf is the project of a Compose file.
func projectOf(t *testing.T, file string) *Project {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFreezePlacement(t *testing.T) {
	p := projectOf(t, `name: shop
x-bulkhead:
  placement: {residency: [eu, ch], disk: 10GiB, tier: gold, constraints: [node.platform.arch==amd64], extras: {licence: 2}}
services:
  web:
    image: web
    deploy:
      placement: {constraints: [node.labels.disk == ssd, node.platform.arch==amd64], preferences: [{spread: node.zone}]}
      resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}}
  db:
    image: db
    deploy: {placement: {constraints: [node.labels.disk==ssd, node.hostname != n3], preferences: [{spread: node.zone}, {spread: node.labels.rack}]}}
`)
	frozen, err := p.Freeze(Inputs{Stamp: "acme", Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", frozen.Terms)
	want := fmt.Sprintf("%+v", bulkhead.Terms{
		Residency: []string{"eu", "ch"}, Disk: 10 << 30, Tier: "gold", Extras: map[string]float64{"licence": 2},
		Constraints: []bulkhead.Constraint{
			{Attribute: "node.platform.arch", Value: "amd64"}, {Attribute: "node.labels.disk", Value: "ssd"}, {Attribute: "node.hostname", Not: true, Value: "n3"},
		},
		Spread: []string{"node.zone", "node.labels.rack"},
	})
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if gpu := frozen.Services[1].Budget.Extras["gpu"]; gpu != 2 {
		t.Errorf("web reserves %v GPUs", gpu)
	}
}

// TestFreezeRemembers makes stamps of two projects, one of which shows the stamp's
// name to its tasks, and looks at what the others get.
func TestFreezeRemembers(t *testing.T) {
	const file = "name: shop\nservices:\n  web: {image: web, environment: {TITLE: '%s ${TITLE:-Shop}', KEY: '${API_KEY:-}'}}\n"
	for _, shows := range []bool{false, true} {
		title := "Of all"
		if shows {
			title = "Of ${BULKHEAD_STAMP}"
		}
		p := projectOf(t, fmt.Sprintf(file, title))
		for i := range 5 {
			name := bulkhead.StampName(fmt.Sprint("acme-", i))
			frozen, err := p.Freeze(Inputs{Stamp: name, Domain: "example.com", Secrets: map[string]string{"API_KEY": "of " + string(name)}})
			if err != nil {
				t.Fatal(err)
			}
			got := frozen.Services[0].Environment["TITLE"]
			if want := strings.ReplaceAll(title, "${BULKHEAD_STAMP}", string(name)) + " Shop"; got != want {
				t.Errorf("%s has the title %q, want %q", name, got, want)
			}
			if got := frozen.Secrets["API_KEY"]; got != "of "+string(name) {
				t.Errorf("%s has the key %q", name, got)
			}
			frozen.Services[0].Name = "changed" // by one stamp, for itself alone
		}
		remembered := 0
		for _, m := range p.frozen.made {
			if m.same {
				remembered++
			}
		}
		if (remembered > 0) == shows {
			t.Errorf("shows its name: %t; remembered %d", shows, remembered)
		}
	}
}
