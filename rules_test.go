package bulkhead_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rooms is the table of who may import whom, besides the root: docs/architecture.md
// says what each package is. A package that is not here is not allowed to exist.
var rooms = map[string][]string{
	"bulkhead":          {},
	"plan":              {},
	"compose":           {},
	"store":             {},
	"keys":              {},
	"auth":              {},
	"controller":        {"store", "plan"},
	"agent":             {"plan"},
	"containerd":        {"agent"}, // the types of its seam
	"network":           {"agent"}, // the types of its seam
	"volume":            {},
	"logs":              {},
	"gateway":           {},
	"registry":          {},
	"images":            {},
	"imagebuild":        {},
	"imagebuild/static": {"imagebuild"},
	"api":               {"store", "auth", "compose", "keys"},
	"sim":               {"agent", "api", "imagebuild", "keys"},
	"cli":               {"api", "compose", "images", "sim"},
	"daemon": {
		"agent", "api", "auth", "containerd", "controller", "gateway", "images", "keys", "logs",
		"network", "plan", "registry", "store", "volume",
	},
	"cmd/bulkhead":        {"cli", "daemon", "containerd"},
	"clustertest":         {"daemon", "api", "imagebuild"},
	"clustertest/history": {},
	"simulation":          {},
}

// owners names the libraries that one package alone may import, tests apart.
var owners = map[string][]string{
	"github.com/containerd/containerd":     {"containerd"},
	"github.com/containerd/cgroups":        {"containerd"},
	"go.etcd.io/etcd":                      {"store"},
	"github.com/caddyserver/certmagic":     {"gateway"},
	"github.com/quic-go/quic-go":           {"gateway"},
	"github.com/compose-spec":              {"compose"},
	"github.com/distribution/distribution": {"registry"},
	"github.com/google/nftables":           {"network"},
	"github.com/vishvananda/netlink":       {"network"},
	"github.com/miekg/dns":                 {"network"},
	"github.com/spf13/cobra":               {"cli"},
	"github.com/danielgtaylor/huma":        {"api"},
}

// pure packages do no I/O and read no clock.
var pure = map[string][]string{
	"bulkhead": {"net", "net/http", "os", "io/fs", "log/slog", "os/exec", "syscall", "context"},
	"plan":     {"net", "net/http", "os", "io", "io/fs", "log/slog", "os/exec", "syscall", "context"},
}

type file struct {
	path, room string
	test       bool
	imports    []string
	doc        bool
	nowCalled  bool
}

func sources(t *testing.T) []file {
	t.Helper()
	var files []file
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			if path != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "inshape" || base == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		f := file{path: path, room: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(path, "_test.go"), doc: parsed.Doc != nil}
		if f.room == "." {
			f.room = "bulkhead"
		}
		for _, i := range parsed.Imports {
			f.imports = append(f.imports, strings.Trim(i.Path.Value, `"`))
		}
		f.nowCalled = strings.Contains(string(src), "time.Now(")
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// roomOf folds sub-packages of programs into their folder's rules.
func roomOf(room string) (name string, free bool) {
	top, _, _ := strings.Cut(room, "/")
	return room, top == "examples" || top == "bench"
}

func TestImportRules(t *testing.T) {
	for _, f := range sources(t) {
		room, free := roomOf(f.room)
		if free {
			continue
		}
		allowed, known := rooms[room]
		if !known {
			t.Errorf("%s: package %s is not in the table of rooms", f.path, room)
			continue
		}
		if f.test {
			continue
		}
		for _, path := range f.imports {
			if ours, ok := strings.CutPrefix(path, "bulkhead/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s: %s may not import %s", f.path, room, ours)
			}
			for library, who := range owners {
				if strings.HasPrefix(path, library) && !slices.Contains(who, room) {
					t.Errorf("%s: only %s may import %s", f.path, strings.Join(who, ", "), library)
				}
			}
			if slices.Contains(pure[room], path) {
				t.Errorf("%s: %s is pure and may not import %s", f.path, room, path)
			}
			if room == "bulkhead" && strings.Contains(path, ".") {
				t.Errorf("%s: the vocabulary needs the standard library only, not %s", f.path, path)
			}
		}
		if _, ok := pure[room]; ok && f.nowCalled {
			t.Errorf("%s: %s may not read the clock", f.path, room)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	docs := map[string]int{}
	for _, f := range sources(t) {
		if !f.test {
			docs[f.room] += 0
			if f.doc {
				docs[f.room]++
			}
		}
	}
	for _, room := range slices.Sorted(maps.Keys(docs)) {
		if docs[room] != 1 {
			t.Errorf("package %s has %d package comments, want exactly one", room, docs[room])
		}
	}
}
