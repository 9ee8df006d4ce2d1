package compose

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"bulkhead"

	composeschema "github.com/compose-spec/compose-go/v2/schema"
	"github.com/rogpeppe/go-internal/txtar"
)

// schemaAttributes lists every attribute of the Compose schema by the path that
// the table uses: properties by name, author's names and list items as "*".
func schemaAttributes(t *testing.T) []string {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal([]byte(composeschema.Schema), &document); err != nil {
		t.Fatal(err)
	}
	definitions := document["$defs"].(map[string]any)
	found := map[string]bool{}
	var walk func(node map[string]any, path string, open []string)
	walk = func(node map[string]any, path string, open []string) {
		if ref, ok := node["$ref"].(string); ok {
			if slices.Contains(open, ref) {
				t.Fatalf("the schema refers to itself at %s: teach this test to stop", path)
			}
			name, ok := strings.CutPrefix(ref, "#/$defs/")
			if !ok {
				t.Fatalf("%s: unknown reference %s", path, ref)
			}
			walk(definitions[name].(map[string]any), path, append(open, ref))
		}
		for _, key := range []string{"oneOf", "anyOf", "allOf"} {
			list, _ := node[key].([]any)
			for _, item := range list {
				walk(item.(map[string]any), path, open)
			}
		}
		properties, _ := node["properties"].(map[string]any)
		for name, property := range properties {
			found[join(path, name)] = true
			walk(property.(map[string]any), join(path, name), open)
		}
		patterns, _ := node["patternProperties"].(map[string]any)
		for pattern, property := range patterns {
			if pattern != "^x-" {
				walk(property.(map[string]any), join(path, "*"), open)
			}
		}
		if items, ok := node["items"].(map[string]any); ok {
			walk(items, join(path, "*"), open)
		}
		for _, key := range []string{"additionalProperties", "unevaluatedProperties"} {
			if more, ok := node[key].(map[string]any); ok {
				walk(more, join(path, "*"), open)
			}
		}
	}
	walk(document, "", nil)
	return sortedKeys(found)
}

// covers tells whether a row decides on path: its own, or one above that ignores
// or denies all below.
func covers(path string) bool {
	for i := range attributes {
		a := &attributes[i]
		if a.path == path || a.verdict != allow && strings.HasPrefix(path, a.path+".") {
			return true
		}
	}
	return false
}

func TestAttributesAreComplete(t *testing.T) {
	known := schemaAttributes(t)
	if len(known) < 300 {
		t.Fatalf("found only %d attributes in the schema", len(known))
	}
	for _, path := range known {
		if !covers(path) {
			t.Errorf("no row for %s", path)
		}
	}
	seen := map[string]bool{}
	for _, a := range attributes {
		if seen[a.path] {
			t.Errorf("two rows for %s", a.path)
		}
		seen[a.path] = true
		if !slices.Contains(known, a.path) {
			t.Errorf("a row for %s, which the schema lacks", a.path)
		}
		if (a.reason == "") != (a.verdict == allow) {
			t.Errorf("%s: a reason belongs to every row that ignores or denies, and to no other", a.path)
		}
		if a.verdict == deny && !strings.Contains(a.reason, "; ") {
			t.Errorf("%s: the refusal does not say what to do", a.path)
		}
		if parent := a.path[:max(strings.LastIndexByte(a.path, '.'), 0)]; parent != "" {
			for _, above := range attributes {
				if above.verdict != allow && strings.HasPrefix(a.path, above.path+".") {
					t.Errorf("%s is decided by %s already", a.path, above.path)
				}
			}
		}
	}
	for _, place := range secretPlaces {
		if !slices.Contains(known, place) {
			t.Errorf("secretPlaces: %s is no attribute", place)
		}
	}
}

// attributeTable is the part of docs/products.md that shows the table.
func attributeTable() string {
	var b strings.Builder
	group := func(title string, v verdict) {
		fmt.Fprintf(&b, "\n### %s\n\n| attribute | |\n|---|---|\n", title)
		for _, a := range attributes {
			if a.verdict != v {
				continue
			}
			note := a.reason
			if len(a.unless) > 0 {
				var values []string
				for _, value := range a.unless {
					if value != "" {
						values = append(values, "`"+value+"`")
					}
				}
				note += " (without effect and accepted: " + strings.Join(values, ", ") + ")"
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", a.path, note)
		}
	}
	b.WriteString("\n### Honoured\n")
	for _, above := range []string{"", "include.*.", "services.*.", "volumes.*.", "configs.*.", "secrets.*."} {
		var names []string
		for _, a := range attributes {
			name, ok := strings.CutPrefix(a.path, above)
			if ok && a.verdict == allow && (above != "" || !strings.Contains(name, ".")) {
				names = append(names, "`"+name+"`")
			}
		}
		title := "At the top level"
		if above != "" {
			title = "`" + strings.TrimSuffix(above, ".") + "`"
		}
		fmt.Fprintf(&b, "\n%s: %s\n", title, strings.Join(names, ", "))
	}
	group("Ignored, with a warning", ignore)
	group("Refused", deny)
	return b.String() + "\n"
}

// TestDocumentedExample: the example of docs/products.md is a product.
func TestDocumentedExample(t *testing.T) {
	content, err := os.ReadFile("../docs/products.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("no example")
	}
	p := mustLoad(t, writeProject(t, []txtar.File{{Name: "compose.yaml", Data: []byte(example)}, {Name: "theme/x.css"}}))
	if len(p.Warnings) > 0 {
		t.Errorf("warnings: %v", p.Warnings)
	}
	frozen, err := p.Freeze(Inputs{Stamp: "acme", Domain: "example.com", Modules: []bulkhead.ModuleName{"reports"}, Settings: set("MAIL_FROM", `"a@example.com"`)})
	if err != nil {
		t.Fatal(report(err))
	}
	if len(frozen.Services) != 5 || len(frozen.Routes) != 3 {
		t.Errorf("%d services, %d routes", len(frozen.Services), len(frozen.Routes))
	}
}

// TestDocumentedAttributes keeps docs/products.md and the table the same.
func TestDocumentedAttributes(t *testing.T) {
	const name = "../docs/products.md"
	const begin, end = "<!-- attributes: made by go test ./compose -run Documented -update -->\n", "<!-- end of attributes -->"
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(content), begin)
	shown, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has lost the marks around its table", name)
	}
	if shown == attributeTable() {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is not that of attributes.go; go test ./compose -run Documented -update rewrites it", name)
	}
	if err := os.WriteFile(name, []byte(before+begin+attributeTable()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
