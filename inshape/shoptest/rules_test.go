package shoptest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rooms is the table of who may import whom; docs/architecture.md says what each
// package is. A package that is not here is not allowed to exist.
var rooms = map[string][]string{
	"mesh":            {},
	"price":           {},
	"frame":           {},
	"material":        {"price"},
	"printability":    {"material", "mesh"},
	"render":          {"mesh"},
	"analysis":        {"frame", "material", "mesh", "price", "printability", "render"},
	"orders":          {"frame"},
	"front":           {"frame"},
	"frame/frametest": {"frame"},
	"cmd/analysis":    {"analysis", "frame"},
	"cmd/orders":      {"orders", "frame"},
	"cmd/front":       {"front", "frame"},
	"bench":           {"analysis", "material", "mesh", "printability", "render"},
	"shoptest":        {},
}

// alone are packages that use the standard library and nothing else.
var alone = []string{"mesh"}

func TestImports(t *testing.T) {
	documented := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "testdata" {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		room := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(path), "../"))
		allowed, ok := rooms[room]
		if !ok {
			t.Errorf("%s: the package %s is not in the table", path, room)
		}
		if strings.HasSuffix(path, "_test.go") {
			return nil
		}
		documented[room] = documented[room] || file.Doc != nil
		for _, i := range file.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			ours, isOurs := strings.CutPrefix(name, "inshape/")
			first, _, _ := strings.Cut(name, "/")
			switch {
			case isOurs && !slices.Contains(allowed, ours):
				t.Errorf("%s imports %s", path, name)
			case first == "bulkhead":
				t.Errorf("%s imports %s: a product imports nothing of its platform", path, name)
			case strings.Contains(first, ".") && slices.Contains(alone, room):
				t.Errorf("%s imports %s, and %s uses the standard library alone", path, name, room)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range rooms {
		if !documented[room] {
			t.Errorf("the package %s says nowhere what it is", room)
		}
	}
}
