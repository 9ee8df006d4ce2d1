package clustertest

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/api"
)

// Writer writes to a stamp, 50 times a second through one gateway after the other, as
// its users would: whether an earlier one has been answered or not.
type Writer struct {
	stop chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex    // guards what follows
	written  []int         // acknowledged
	failures []string      // of any request
	slowest  time.Duration // answer
}

// Write begins to write lines to a file of a stamp.
func Write(gateways []*Machine, stamp, path string) *Writer {
	w := &Writer{stop: make(chan struct{})}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	w.done.Go(func() {
		defer client.CloseIdleConnections()
		var under sync.WaitGroup
		defer under.Wait()
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			case <-t.C:
			}
			g := gateways[i%len(gateways)]
			under.Go(func() {
				began := time.Now()
				err := write(client, g, stamp, path, i)
				took := time.Since(began)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.slowest = max(w.slowest, took)
				if err != nil {
					w.failures = append(w.failures, fmt.Sprintf("%d at %s, %s after %s: %v", i, g.Name, began.Format("15:04:05.000"), took.Round(time.Millisecond), err))
				} else {
					w.written = append(w.written, i)
				}
			})
		}
	})
	return w
}

// write appends a line; every other request has a body, which a gateway that holds it
// must keep whole.
func write(client *http.Client, gateway *Machine, stamp, path string, n int) error {
	var body io.Reader
	method := http.MethodGet
	if n%2 == 1 {
		method, body = http.MethodPost, strings.NewReader(strings.Repeat("x", 10<<10))
	}
	req, err := http.NewRequest(method, fmt.Sprintf("http://%s/write?path=%s&text=%s", gateway.HTTP, url.QueryEscape(path), url.QueryEscape(fmt.Sprintln(n))), body)
	if err != nil {
		return err
	}
	req.Host = stamp + ".localhost"
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %.100s", resp.Status, text)
	}
	return nil
}

// Slowest is the slowest answer since it was last asked.
func (w *Writer) Slowest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	slowest := w.slowest
	w.slowest = 0
	return slowest
}

// Expect ends the writing, and fails the test when a request failed or when what was
// acknowledged is not in the file.
func (w *Writer) Expect(t testing.TB, m *Machine, stamp, path, what string) {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	got := map[int]bool{}
	for line := range strings.SplitSeq(m.MustGet(stamp, "/read?path="+url.QueryEscape(path)), "\n") {
		if n, err := strconv.Atoi(line); err == nil {
			got[n] = true
		}
	}
	var lost []int
	for _, n := range w.written {
		if !got[n] {
			lost = append(lost, n)
		}
	}
	t.Logf("%s: %d writes acknowledged, %d lost; %d requests failed", what, len(w.written), len(lost), len(w.failures))
	if len(lost) > 0 || len(w.written) == 0 {
		t.Errorf("%s: acknowledged writes are lost: %v", what, lost[:min(len(lost), 20)])
	}
	if len(w.failures) > 0 {
		t.Errorf("%s: %d requests failed:\n%s", what, len(w.failures), strings.Join(w.failures[:min(len(w.failures), 10)], "\n"))
	}
}

// Move moves a stamp and waits for the end.
func (m *Machine) Move(stamp, to string) api.StampMove {
	m.T.Helper()
	var s api.Stamp
	m.Read(&s, "stamp", "move", stamp, "--to", to)
	if s.Move == nil || s.Move.Ended == nil || s.Move.GivenUp || string(s.Node) != to {
		m.T.Fatalf("moved to %s: %+v", to, s)
	}
	return *s.Move
}

// TestMove moves a stamp with data to and fro while it is written to, kills whoever
// takes part, and drains a node.
func TestMove(t *testing.T) {
	if os.Getenv("BULKHEAD_TEST_BINARY") != "" {
		t.Skip("six machines are too many for an emulated one")
	}
	f := newTrio(t)
	s1, n1, nodes := f.servers[0], f.nodes[0], f.nodes
	s1.Publish("plain", plainProduct)
	s1.Publish("keeper", keeperProduct)
	f.on("acme", "plain", n1)
	f.on("globex", "keeper", n1)
	f.serve(10*time.Second, nodes, "acme", "globex")

	t.Run("there and back", func(t *testing.T) {
		w := Write(nodes, "globex", "/data/there")
		watch := Watch(nodes, "acme")
		for _, to := range []string{"n2", "n3", "n1"} {
			w.Slowest()
			m := s1.Move("globex", to)
			t.Logf("globex to %s in %v: %d bytes in %d passes, held for %d ms; slowest answer %v",
				to, m.Ended.Sub(m.Began).Round(time.Millisecond), m.Bytes, m.Passes, m.HeldMS, w.Slowest().Round(time.Millisecond))
			m = s1.Move("acme", to)
			t.Logf("acme to %s in %v: held for %d ms", to, m.Ended.Sub(m.Began).Round(time.Millisecond), m.HeldMS)
		}
		watch.Expect(t, "a stamp without data moves")
		w.Expect(t, nodes[1], "globex", "/data/there", "a stamp with data moves")
		if got := s1.Stamp("globex").Node; got != "n1" {
			t.Errorf("it is on %s", got)
		}
	})
}
