package clustertest

import (
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"bulkhead"
)

// TestFarmOfUp is a farm of three machines that are server and node in one process. All
// lose power, and one comes back alone: its stamps serve from its own disk, although its
// server waits for another.
func TestFarmOfUp(t *testing.T) {
	if os.Getenv("BULKHEAD_TEST_BINARY") != "" {
		t.Skip("three machines are too many for an emulated one")
	}
	f := &trio{Farm: NewFarm(t)}
	for _, name := range []string{"m1", "m2", "m3"} {
		m := f.Machine(name, "up", "--containerd", "private", "--lost-after", lostAfter.String())
		flags := []string{"--api", m.API, "--advertise", m.IP}
		if len(f.servers) > 0 {
			token := f.servers[0].Token("server")
			flags = append(flags, "--join", token.Join, "--token", token.Token)
		}
		m.Start(flags...)
		m.Until(30*time.Second, name+" answers", func() error {
			out, code := m.Try("status")
			if code != 0 {
				return errors.New(out)
			}
			return nil
		})
		f.servers, f.nodes = append(f.servers, m), append(f.nodes, m)
	}
	f.ready("m1", "m2", "m3")
	m1, m2, m3 := f.servers[0], f.servers[1], f.servers[2]
	m3.Publish("keeper", keeperProduct)
	f.on("acme", "keeper", m1)
	f.serve(10*time.Second, f.nodes, "acme")

	for _, m := range f.servers {
		m.Kill()
	}
	m1.powerCut()
	began := time.Now()
	f.again(m1)
	f.serve(10*time.Second, f.nodes[:1], "acme")
	t.Logf("one of three machines alone, after a power cut: its stamp answered within %v", time.Since(began).Round(time.Millisecond))

	out, code := m1.Try("status")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code == 0 || !strings.HasPrefix(lines[0], "bulkhead: ") || !strings.Contains(lines[0], "majority of the servers") || len(lines) > 2 {
		t.Errorf("status without a majority is not one line and what to do: exit code %d\n%s", code, out)
	}

	w := Watch(f.nodes[:1], "acme")
	before := m1.mains()
	began = time.Now()
	f.again(m2)
	m1.Until(30*time.Second, "changes are possible with two of three", func() error {
		if out, code := m1.Try("stamp", "update", "acme", "--label", "again=yes"); code != 0 {
			return errors.New(out)
		}
		return nil
	})
	t.Logf("changes again %v after the second machine's start", time.Since(began).Round(time.Millisecond))
	m1.Until(10*time.Second, "the nodes of both are ready", func() error {
		for _, name := range []string{"m1", "m2"} {
			if state := m1.Nodes()[name].State; state != bulkhead.NodeReady {
				return errors.New(name + " is " + string(state))
			}
		}
		return nil
	})
	f.serve(10*time.Second, f.nodes[:2], "acme")
	w.Expect(t, "while the second machine comes back")
	if after := m1.mains(); len(before) != 1 || !maps.Equal(after, before) {
		t.Errorf("tasks were touched when the majority came back: %v, before %v", after, before)
	}
}
