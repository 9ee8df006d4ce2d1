package clustertest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead"
)

const lonely = `
name: lonely
services:
  web:
    image: probe:1
    ports: ["80:8080"]
x-bulkhead: {version: "1"}
`

// ask lets a stamp's web service do something for us.
func (n *Node) ask(stamp, path string, query url.Values, out any) {
	n.T.Helper()
	got := n.MustGet(stamp, path+"?"+query.Encode())
	if err := json.Unmarshal([]byte(got), out); err != nil {
		n.T.Fatalf("%v in %q", err, got)
	}
}

func (n *Node) address(stamp string) string {
	n.T.Helper()
	for _, t := range n.show(stamp).Tasks {
		if t.Service == "web" && t.State == bulkhead.TaskRunning {
			return t.Address.String()
		}
	}
	n.T.Fatalf("stamp %s has no address", stamp)
	return ""
}

func TestIsolation(t *testing.T) {
	n := shared(t)
	n.Publish("lonely", lonely)
	names := []string{"iso1", "iso2", "iso3"}
	for _, name := range names {
		n.Run("stamp", "create", name, "--product", "lonely")
		n.MustGet(name, "/")
	}
	t.Cleanup(func() {
		for _, name := range names {
			n.Run("stamp", "delete", name, "--purge", "--yes")
		}
	})

	t.Run("no stamp reaches another: every port", func(t *testing.T) {
		for _, from := range names {
			for _, to := range names {
				var open []int
				n.ask(from, "/scan", url.Values{"host": {n.address(to)}, "from": {"1"}, "to": {"65535"}}, &open)
				switch {
				case from == to && fmt.Sprint(open) != "[8080]":
					t.Errorf("the scanner itself is wrong: %s sees %v of its own", from, open)
				case from != to && len(open) > 0:
					t.Errorf("%s reaches %s at %v", from, to, open)
				}
			}
		}
	})

	t.Run("no stamp reaches the machine", func(t *testing.T) {
		_, api, _ := net.SplitHostPort(n.API)
		_, http, _ := net.SplitHostPort(n.HTTP)
		gateway := n.address("iso1")
		gateway = gateway[:strings.LastIndexByte(gateway, '.')] + ".1"
		for _, host := range append(hostAddresses(t), gateway, "169.254.169.254") {
			for _, port := range []string{api, http, "22", "2379", "2380", "7070", "7071"} {
				p, _ := strconv.Atoi(port)
				var open []int
				n.ask("iso1", "/scan", url.Values{"host": {host}, "from": {port}, "to": {strconv.Itoa(p)}}, &open)
				if len(open) > 0 {
					t.Errorf("a stamp reaches %s:%s", host, port)
				}
			}
		}
	})

	t.Run("names of other stamps do not resolve", func(t *testing.T) {
		for name, want := range map[string]bool{"web": true, "web.iso1.internal": true, "web.iso2.internal": false, "iso2": false} {
			_, err := n.Get("iso1", "/lookup?name="+name)
			if (err == nil) != want {
				t.Errorf("lookup of %s: %v", name, err)
			}
		}
	})

	t.Run("the kernel's view of a task", func(t *testing.T) {
		pid := 0
		for name, pids := range n.Processes() {
			if strings.HasPrefix(name, "iso1.web.") {
				pid = pids[0]
			}
		}
		if pid == 0 {
			t.Fatalf("no process of iso1: %v", n.Processes())
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for field, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2"} {
			if got := statusField(string(status), field); got != want {
				t.Errorf("%s is %q, want %s", field, got, want)
			}
		}
		caps, _ := strconv.ParseUint(statusField(string(status), "CapBnd"), 16, 64)
		for name, bit := range map[string]uint{"SYS_ADMIN": 21, "NET_ADMIN": 12, "SYS_MODULE": 16, "SYS_PTRACE": 19} {
			if caps&(1<<bit) != 0 {
				t.Errorf("the task may use CAP_%s", name)
			}
		}
	})

	t.Run("a task that takes too much memory dies alone", func(t *testing.T) {
		bystander := n.MustGet("iso2", "/")
		n.Get("iso1", "/memory?mib=600") // the default limit is 512 MiB
		n.Until(10*time.Second, "the event says so", func() error {
			if out := n.Run("events", "--stamp", "iso1"); !strings.Contains(out, "more than 512 MiB of memory") {
				return fmt.Errorf("events:\n%s", out)
			}
			return nil
		})
		n.Until(10*time.Second, "it is back", func() error { _, err := n.Get("iso1", "/"); return err })
		if n.MustGet("iso2", "/") != bystander {
			t.Error("the bystander was restarted")
		}
	})
}

func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// hostAddresses are the machine's own IPv4 addresses, loopback apart.
func hostAddresses(t *testing.T) []string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			out = append(out, ip.IP.String())
		}
	}
	return out
}
