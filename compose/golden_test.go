package compose

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite golden files and the table in docs/products.md")

// writeProject makes a folder of the files of an archive.
func writeProject(t testing.TB, files []txtar.File) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shop")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// report is an error as a person sees it.
func report(err error) string {
	var e *bulkhead.Error
	if !errors.As(err, &e) {
		return "internal error: " + err.Error() + "\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %s\n", e.Kind, e.Message)
	for _, f := range e.Faults {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "hint: %s\n", e.Hint)
	}
	return b.String()
}

// outcome is what becomes of a project, and of a stamp of it.
func outcome(dir string, in Inputs) string {
	p, err := Load(dir)
	if err != nil {
		return report(err)
	}
	var b strings.Builder
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	show := func(what string, value any) {
		encoded, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&b, "%s: %s\n", what, encoded)
	}
	show("product", p.Product)
	show("version", p.Version)
	show("modules", p.Modules)
	show("settings", p.Settings)
	show("routes", p.Routes)
	show("images", p.Images)
	show("files", sortedKeys(p.files.names))
	frozen, err := p.Freeze(in)
	if err != nil {
		return b.String() + report(err)
	}
	show("frozen", frozen)
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./compose -update rewrites it); got:\n%s", name, got)
	}
}

// TestGolden holds each testdata/*.txtar, a project with an optional
// inputs.json, against what stands beside it in *.golden.
func TestGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatal("no projects in testdata", err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			in := Inputs{Stamp: "acme", Domain: "example.com"}
			var files []txtar.File
			for _, f := range archive.Files {
				if f.Name != "inputs.json" {
					files = append(files, f)
				} else if err := json.Unmarshal(f.Data, &in); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, strings.TrimSuffix(name, ".txtar")+".golden", outcome(writeProject(t, files), in))
		})
	}
}

// TestForeign shows what becomes of projects that were not written for Bulkhead.
func TestForeign(t *testing.T) {
	names, err := filepath.Glob("testdata/foreign/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal("no projects in testdata/foreign", err)
	}
	stand, err := txtar.ParseFile("testdata/foreign/files.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := writeProject(t, append(stand.Files, txtar.File{Name: "compose.yaml", Data: content}))
			golden(t, strings.TrimSuffix(name, ".yaml")+".golden", outcome(dir, Inputs{Stamp: "acme", Domain: "example.com"}))
		})
	}
}
