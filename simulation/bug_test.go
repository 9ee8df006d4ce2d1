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
			bug, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			part := map[string]string{}
			for _, f := range bug.Files {
				part[f.Name] = strings.TrimSuffix(string(f.Data), "\n")
			}
			program := filepath.Join(folder, t.Name()+".test")
			if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
				t.Fatal(err)
			}
			plant(t, part["file"], part["before"], part["after"], program)
			found, by := hunt(t, program)
			switch {
			case found == "":
				t.Errorf("not found in %s", bugMost)
			case !slices.Contains(strings.Split(part["invariant"], ", "), by):
				t.Errorf("found by %q, want by %q: %s", by, part["invariant"], found)
			default:
				t.Logf("%s Found: %s", strings.TrimSpace(string(bug.Comment)), found)
			}
		})
	}
}

// plant builds the simulation with before replaced by after in one file.
func plant(t *testing.T, file, before, after, program string) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), before); n != 1 {
		t.Fatalf("the text before is %d times in %s, want once: fit the bug to the code", n, file)
	}
	changed := program + ".go"
	if err := os.WriteFile(changed, []byte(strings.Replace(string(source), before, after, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program+".json", overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", program+".json", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
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
