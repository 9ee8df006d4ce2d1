package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// bugMost is how long a bug may stay unfound.
const bugMost = 90 * time.Second

// TestBugsAreFound plants a bug at a time, each of which a reviewer might have passed,
// and demands that the simulation finds it by the invariant that it breaks. A bug is a
// file in testdata/bugs: what it is, where, by which invariant, or one of several, it is found, and the text
// before and after. The compiler is shown the changed file in place of the real one (go
// help build: -overlay), so that the code of the platform holds no bug that only waits
// for a build tag, and so that a bug that does not fit any more is a failure here.
func TestBugsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program for each bug")
	}
	files, err := filepath.Glob("testdata/bugs/*.txtar")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d bugs: %v", len(files), err)
	}
	folder := t.TempDir()
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			bug := readBug(t, file)
			program := filepath.Join(folder, t.Name()+".test")
			if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
				t.Fatal(err)
			}
			plant(t, program, bug)
			found, by := hunt(t, program)
			switch {
			case found == "":
				t.Errorf("not found in %s", bugMost)
			case !slices.Contains(strings.Split(bug.invariant, ", "), by):
				t.Errorf("found by %q, want by %q: %s", by, bug.invariant, found)
			default:
				t.Logf("%s Found: %s", bug.comment, found)
			}
		})
	}
}

// bug is a change to a file of the module, or of Go's own library.
type bug struct {
	comment, invariant string
	file               string
	edits              [][2]string // the text before and after
}

func readBug(t *testing.T, file string) (b bug) {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b.comment = strings.TrimSpace(string(archive.Comment))
	for _, f := range archive.Files {
		switch text := strings.TrimSuffix(string(f.Data), "\n"); f.Name {
		case "file":
			b.file = text
		case "invariant":
			b.invariant = text
		case "before":
			b.edits = append(b.edits, [2]string{text})
		case "after":
			b.edits[len(b.edits)-1][1] = text
		}
	}
	return b
}

// plant builds the simulation with files changed.
func plant(t *testing.T, program string, bugs ...bug) {
	t.Helper()
	overlay := map[string]string{}
	for i, b := range bugs {
		path, library := strings.CutPrefix(b.file, "GOROOT/")
		if library {
			root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
			if err != nil {
				t.Fatal(err)
			}
			path = filepath.Join(strings.TrimSpace(string(root)), filepath.FromSlash(path))
		} else {
			path = filepath.Join("..", filepath.FromSlash(path))
		}
		path, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := string(source)
		for _, e := range b.edits {
			if n := strings.Count(text, e[0]); n != 1 {
				t.Fatalf("the text before is %d times in %s, want once: fit it to the code:\n%s", n, b.file, e[0])
			}
			text = strings.Replace(text, e[0], e[1], 1)
		}
		overlay[path] = fmt.Sprintf("%s.%d.go", program, i)
		if err := os.WriteFile(overlay[path], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program+".json", list, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", program+".json", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

// order builds the simulation with a runtime in which nothing but the seed decides what
// goroutines of a bubble do and in which order, as long as they have one processor.
func order(t *testing.T, program string) {
	t.Helper()
	files, err := filepath.Glob("testdata/ordered/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d changes: %v", len(files), err)
	}
	var changes []bug
	for _, file := range files {
		changes = append(changes, readBug(t, file))
	}
	plant(t, program, changes...)
}

var foundLine = regexp.MustCompile(`(seed \d+ after [^:]+): ([^:]+): (.*)`)

// hunt runs seeds until one fails; by is the invariant that was broken.
func hunt(t *testing.T, program string) (found, by string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bugMost+time.Minute)
	defer cancel()
	began := time.Now()
	out, err := exec.CommandContext(ctx, program, "-test.run", "TestSimulation$", "-budget", bugMost.String()).CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	m := foundLine.FindSubmatch(out)
	if m == nil {
		if err != nil {
			t.Fatalf("it failed, but broke no invariant: %v\n%s", err, out[max(0, len(out)-4000):])
		}
		return "", ""
	}
	return fmt.Sprintf("%s, in %s: %s", m[1], time.Since(began).Round(time.Second), m[3]), string(m[2])
}
