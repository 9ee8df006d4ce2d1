package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./cli -update rewrites it):\n%s", path, got)
	}
}

// TestCommands: commands and flags are what scripts depend on. The golden file
// shows every one of them; a change to it is a change to the interface.
func TestCommands(t *testing.T) {
	var b strings.Builder
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		fmt.Fprintf(&b, "%s\n", cmd.UseLine())
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			fmt.Fprintf(&b, "    --%s %s (%s)\n", f.Name, f.Value.Type(), f.DefValue)
		})
		if cmd.Short == "" {
			t.Errorf("%s says nothing about itself", cmd.CommandPath())
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	c := &command{}
	walk(c.root())
	golden(t, "commands", b.String())
}

// TestTable: columns are aligned, empty cells are dashes, and nothing is coloured
// or cut where no terminal is.
func TestTable(t *testing.T) {
	var out bytes.Buffer
	c := &command{env: Env{Stdout: &out, Getenv: func(string) string { return "" }, Now: func() time.Time { return time.Unix(1e9, 0) }}}
	tab := newTable(2, "NAME", "PHASE", "URL", "AGE")
	tab.add("acme", phaseCell(bulkhead.PhaseRunning), "http://acme.example.com:8080", c.age(time.Unix(1e9-200, 0)))
	tab.add("größe", phaseCell(bulkhead.PhaseFailed), strings.Repeat("x", 60), c.age(time.Unix(1e9-86400*9, 0)))
	tab.add("b", "", "", c.age(time.Time{}))
	c.table(tab)
	golden(t, "table", out.String())
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m",
		2 * time.Hour: "2h", 47 * time.Hour: "47h", 48 * time.Hour: "2d",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536 << 20: "1.5 GiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
