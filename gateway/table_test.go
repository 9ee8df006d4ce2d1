package gateway

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead"
)

var update = flag.Bool("update", false, "write golden files anew")

// TestTable reads testdata/table.txt: routes, then requests. The golden file
// has where each request goes.
func TestTable(t *testing.T) {
	in, err := os.ReadFile("testdata/table.txt")
	if err != nil {
		t.Fatal(err)
	}
	var routes []bulkhead.Route
	var requests [][2]string
	for line := range strings.Lines(string(in)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] == "#":
		case fields[0] == "route":
			host, path, _ := strings.Cut(fields[1], "/")
			if strings.Contains(fields[1], "/") {
				path = "/" + path
			}
			routes = append(routes, bulkhead.Route{Host: bulkhead.Host(host), Path: path, Stamp: bulkhead.StampName(fields[2]), Service: "web"})
		default:
			request := strings.TrimSuffix(line, "\n")
			host, path, _ := strings.Cut(request, "/")
			requests = append(requests, [2]string{host, "/" + path})
		}
	}
	table, faults := newTable(routes, func(n bulkhead.StampName) *stamp { return &stamp{name: n} }, nil)
	var out bytes.Buffer
	for _, f := range faults {
		fmt.Fprintln(&out, "left out:", f)
	}
	for _, r := range requests {
		to := "400"
		if host, ok := parseHost(r[0]); ok {
			to = "404"
			if r := table.route(host, r[1]); r != nil {
				to = string(r.stamp.name)
			}
		}
		fmt.Fprintf(&out, "%-40s %s\n", r[0]+r[1], to)
	}
	golden := filepath.Join("testdata", "table.golden")
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("got:\n%s\nwant:\n%s", out.Bytes(), want)
	}
}

// FuzzRoute compares the table with the plainest way to say what it should do.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{"acme.localhost/api", "ACME.localhost.:80/api/x", "[::1]:80/", "a..b/", "/", "acme.localhost//api/../x", "acme.localhost:0x50/apix"} {
		f.Add(s, "/api")
	}
	backends := func(a string) *backend { return &backend{address: a} }
	stamps := func(n bulkhead.StampName) *stamp { return &stamp{name: n} }
	f.Fuzz(func(t *testing.T, request, prefix string) {
		routes := []bulkhead.Route{
			{Host: "acme.localhost", Path: "/", Stamp: "root"},
			{Host: "acme.localhost", Path: prefix, Stamp: "prefix"},
			{Host: "acme.localhost", Path: "/api", Stamp: "api"},
			{Host: "acme.localhost", Path: "/api/v1/", Stamp: "v1"},
		}
		table, faults := newTable(routes, stamps, backends)
		name, path, _ := strings.Cut(request, "/")
		path = "/" + path
		host, ok := parseHost(name)
		if !ok {
			return
		}
		if again, ok := parseHost(string(host)); !ok || again != host || len(host) > maxHost || strings.ContainsAny(string(host), ":/[]ABCDEFGHIJKLMNOPQRSTUVWXYZ ") {
			t.Fatalf("%q became %q, which is no host", name, host)
		}
		got := table.route(host, path)
		if host != "acme.localhost" {
			if got != nil {
				t.Fatalf("%q goes to %s", request, got.stamp.name)
			}
			return
		}
		var want bulkhead.Route
		for _, r := range routes {
			p := strings.TrimRight(r.Path, "/")
			if r.Path != "" && r.Path[0] != '/' || !strings.HasPrefix(path+"/", p+"/") || len(p) < len(strings.TrimRight(want.Path, "/")) {
				continue
			}
			if want.Stamp == "" || len(p) > len(strings.TrimRight(want.Path, "/")) {
				want = r
			}
		}
		if got == nil || got.stamp.name != want.Stamp {
			t.Fatalf("%q with %q: got %v, want %s (faults %v)", request, prefix, got, want.Stamp, faults)
		}
	})
}
