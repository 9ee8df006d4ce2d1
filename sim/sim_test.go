package sim

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead"
)

// program builds the bulkhead binary.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bulkhead")
	if out, err := exec.Command("go", "build", "-o", path, "../cmd/bulkhead").CombinedOutput(); err != nil {
		t.Fatalf("build bulkhead: %v\n%s", err, out)
	}
	return path
}

func config(t *testing.T) Config {
	return Config{
		Folder: t.TempDir(), Scratch: t.TempDir(), Clients: 2, Say: t.Logf,
		Fleet: FleetConfig{Nodes: 200, Edges: 3, Zones: 3, CPU: 16, Memory: 64 << 30},
	}
}

// TestControlPlaneReturns: 200 nodes and their stamps, a server that is killed and
// comes back after a while. All nodes are back within a minute, spread over the time
// that they take, and nothing of what runs was touched.
func TestControlPlaneReturns(t *testing.T) {
	c := config(t)
	c.Program, c.Stamps, c.Outage = program(t), 1000, 5*time.Second
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)
	if r.Place.Stamps != c.Stamps || r.Place.PerSecond <= 0 || r.Place.ServerSeconds <= 0 || r.Settle.ServerMemory == 0 {
		t.Errorf("placed %+v, then %+v", r.Place, r.Settle)
	}
	x := r.Restart
	if x.Touched != 0 {
		t.Errorf("%d changes to what runs", x.Touched)
	}
	if x.Sessions < int64(c.Fleet.Nodes) || x.Refused < int64(c.Fleet.Nodes) {
		t.Errorf("%d nodes opened %d sessions, and %d attempts failed", c.Fleet.Nodes, x.Sessions, x.Refused)
	}
	if x.SteadySeconds > 60 || x.BackSeconds > x.SteadySeconds {
		t.Errorf("all nodes were back after %.1f s, all was steady after %.1f s", x.BackSeconds, x.SteadySeconds)
	}
	for _, folder := range []string{c.Folder, c.Scratch} {
		if left, err := filepath.Glob(filepath.Join(folder, "*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
}

// TestWrongConfig: what cannot work is said in one line, before anything starts.
func TestWrongConfig(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"0 nodes: give 1 to 100000 with --nodes":              func(c *Config) { c.Fleet.Nodes = 0 },
		"100001 nodes: give 1 to 100000 with --nodes":         func(c *Config) { c.Fleet.Nodes = MostNodes + 1 },
		"201 edges of 200 nodes":                              func(c *Config) { c.Fleet.Edges = 201 },
		"0 zones for 200 nodes":                               func(c *Config) { c.Fleet.Zones = 0 },
		"nodes of 0 cores":                                    func(c *Config) { c.Fleet.CPU = 0 },
		"nodes of 16 cores and 5 bytes of memory":             func(c *Config) { c.Fleet.Memory = 5 },
		"-1 stamps: give 0 to 1000000 with --stamps":          func(c *Config) { c.Stamps = -1 },
		"0 clients: give 1 to 64 with --clients":              func(c *Config) { c.Clients = 0 },
		"an outage of -1s: give 0 to 1h with --outage":        func(c *Config) { c.Outage = -time.Second },
		"folder /no/such/folder: no such file or directory":   func(c *Config) { c.Folder = "/no/such/folder" },
		"folder /no/such/scratch: no such file or directory":  func(c *Config) { c.Scratch = "/no/such/scratch" },
		"start the server: fork/exec /no/such/program: no su": func(c *Config) { c.Program = "/no/such/program" },
	} {
		c := config(t)
		change(&c)
		if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestServerThatEnds: a server that does not come up is quoted.
func TestServerThatEnds(t *testing.T) {
	c := config(t)
	c.Program = "/bin/false"
	began := time.Now()
	if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "the server ended") || time.Since(began) > upMost/2 {
		t.Errorf("got %v after %s", err, time.Since(began))
	}
}

func TestLimits(t *testing.T) {
	if err := enoughFiles(10); err != nil {
		t.Error(err)
	}
	if err := enoughFiles(2_000_000_000); !errors.Is(err, bulkhead.ErrExhausted) || !strings.Contains(err.Error(), "2000000000 nodes need 2000000500 open files in one process, and the limit is") {
		t.Error(err)
	}
	if err := enoughRoom(t.TempDir(), 1<<20, "--data"); err != nil {
		t.Error(err)
	}
	if err := enoughRoom(t.TempDir(), 1<<60, "--data"); !errors.Is(err, bulkhead.ErrExhausted) || !strings.Contains(err.Error(), "MiB free, and this takes some 1099511627776 MiB") {
		t.Error(err)
	}
}
