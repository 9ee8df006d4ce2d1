package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	benchTime   = 5 * time.Second // of one measurement
	targetRate  = 1000            // events a second, of the open loop
	senders     = 16              // of the closed loop
	benchOrders = 40              // of benchLines lines each
	benchLines  = 5
	benchKey    = "a key of the benchmark alone"
)

// shop is the module Orders as a process of its own, with orders to send events of.
type shop struct {
	binary, folder, url string
	command             *exec.Cmd
	client              *http.Client
	lines               []string     // paths of their events
	next                atomic.Int64 // number of the next event
}

// orders measures line events: "one good piece more", each under an
// Idempotency-Key of its own, each on disk before it is answered. The load
// comes from this process, on the same processors.
func orders(ctx context.Context, b *bench) (err error) {
	s := &shop{
		binary: filepath.Join(b.tmp, "orders"), folder: filepath.Join(b.tmp, "orders-data"),
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * targetRate}},
	}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", s.binary, "inshape/cmd/orders").CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.kill()) }()
	if err := s.fill(ctx); err != nil {
		return err
	}
	fmt.Println("| loop | events/s | p50 ms | p95 ms | p99 ms | longest ms | events per processor second of the server | load average |\n|---|---|---|---|---|---|---|---|")
	for _, loop := range []struct {
		name string
		run  func(context.Context) ([]time.Duration, error)
	}{{fmt.Sprintf("open, %d/s asked for", targetRate), s.openLoop}, {fmt.Sprintf("closed, %d at a time", senders), s.closedLoop}} {
		var rounds []measured
		for range b.rounds {
			one, err := s.measure(ctx, loop.run)
			if err != nil {
				return err
			}
			rounds = append(rounds, one)
		}
		slices.SortFunc(rounds, func(a, b measured) int { return int(a.at(99) - b.at(99)) })
		fmt.Printf("| %s | %s |\n", loop.name, rounds[len(rounds)/2])
	}
	fmt.Println()
	return s.survive(ctx)
}

// measured is what one round gave.
type measured struct {
	latencies []time.Duration // sorted
	wall, cpu time.Duration
	load      string
}

func (m measured) at(percent int) time.Duration {
	return m.latencies[min(len(m.latencies)*percent/100, len(m.latencies)-1)]
}

func (m measured) String() string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }
	n := float64(len(m.latencies))
	return fmt.Sprintf("%.0f | %s | %s | %s | %s | %.0f | %s", n/m.wall.Seconds(), ms(m.at(50)), ms(m.at(95)), ms(m.at(99)), ms(m.at(100)), n/m.cpu.Seconds(), m.load)
}

func (s *shop) measure(ctx context.Context, run func(context.Context) ([]time.Duration, error)) (measured, error) {
	before, err := s.cpuTime()
	if err != nil {
		return measured{}, err
	}
	began := time.Now()
	latencies, err := run(ctx)
	m := measured{latencies: latencies, wall: time.Since(began), load: load()}
	if err != nil {
		return m, err
	}
	after, err := s.cpuTime()
	m.cpu = after - before
	slices.Sort(m.latencies)
	return m, err
}

// openLoop sends on a clock that does not wait for answers. Latency counts from
// when an event was due, so that a stall is not hidden by sending less.
func (s *shop) openLoop(ctx context.Context) ([]time.Duration, error) {
	latencies := make([]time.Duration, targetRate*int(benchTime/time.Second))
	errs := make([]error, len(latencies))
	var group sync.WaitGroup
	began := time.Now()
	for i := range latencies {
		due := began.Add(time.Duration(i) * time.Second / targetRate)
		time.Sleep(time.Until(due))
		group.Go(func() {
			errs[i] = s.send(ctx, s.next.Add(1))
			latencies[i] = time.Since(due)
		})
	}
	group.Wait()
	return latencies, errors.Join(errs...)
}

func (s *shop) closedLoop(ctx context.Context) ([]time.Duration, error) {
	var mu sync.Mutex
	var latencies []time.Duration
	var errs error
	var group sync.WaitGroup
	end := time.Now().Add(benchTime)
	for range senders {
		group.Go(func() {
			var mine []time.Duration
			var err error
			for time.Now().Before(end) && err == nil {
				began := time.Now()
				err = s.send(ctx, s.next.Add(1))
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			latencies, errs = append(latencies, mine...), errors.Join(errs, err)
		})
	}
	group.Wait()
	return latencies, errs
}

// survive kills the process in the middle of the closed loop, starts it again,
// and counts the pieces; then it sends again what nobody acknowledged.
func (s *shop) survive(ctx context.Context) error {
	before, err := s.made(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var acknowledged int
	var lost []int64 // events without an answer
	var group sync.WaitGroup
	for range senders {
		group.Go(func() {
			for {
				n := s.next.Add(1)
				err := s.send(ctx, n)
				mu.Lock()
				if err != nil {
					lost = append(lost, n)
				} else {
					acknowledged++
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	time.Sleep(benchTime / 2)
	if err := s.kill(); err != nil {
		return err
	}
	group.Wait()
	if err := s.start(ctx); err != nil {
		return err
	}
	kept, err := s.made(ctx)
	if err != nil {
		return err
	}
	for _, n := range lost {
		if err := s.send(ctx, n); err != nil {
			return err
		}
	}
	all, err := s.made(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("kill -9 with %d events under way: %d acknowledged, %d kept; after those without an answer were repeated, %d of %d.\n\n",
		len(lost), acknowledged, kept-before, all-before, acknowledged+len(lost))
	if kept-before < acknowledged || all-before != acknowledged+len(lost) {
		return errors.New("acknowledged events are lost, or repeated ones counted twice")
	}
	return nil
}

func (s *shop) send(ctx context.Context, n int64) error {
	return s.ask(ctx, http.MethodPost, s.lines[n%int64(len(s.lines))], strconv.FormatInt(n, 10), map[string]any{"kind": "made", "quantity": 1}, nil)
}

// made is how many pieces all orders have.
func (s *shop) made(ctx context.Context) (sum int, err error) {
	var list struct {
		Items []struct{ Lines []struct{ Made int } }
	}
	if err := s.ask(ctx, http.MethodGet, "/orders?limit=200", "", nil, &list); err != nil {
		return 0, err
	}
	for _, o := range list.Items {
		for _, l := range o.Lines {
			sum += l.Made
		}
	}
	return sum, nil
}

// fill makes the orders.
func (s *shop) fill(ctx context.Context) error {
	type text = map[string]any
	var party struct{ ID string }
	if err := s.ask(ctx, http.MethodPost, "/parties", "", text{"name": "Ada"}, &party); err != nil {
		return err
	}
	for range benchOrders {
		var lines []text
		for i := range benchLines {
			lines = append(lines, text{"name": fmt.Sprintf("part %d", i+1), "material": "pa12", "quantity": 100_000})
		}
		var order struct {
			ID    string
			Lines []struct{ ID string }
		}
		address := text{"name": "Ada", "line1": "Ring 1", "city": "Wien", "country": "AT"}
		if err := s.ask(ctx, http.MethodPost, "/orders", "", text{"party": party.ID, "lines": lines, "ship_to": address}, &order); err != nil {
			return err
		}
		path := "/orders/" + order.ID
		for _, l := range order.Lines {
			if err := s.ask(ctx, http.MethodPut, path+"/lines/"+l.ID+"/verdict", "", text{"verdict": "printable"}, nil); err != nil {
				return err
			}
			s.lines = append(s.lines, path+"/lines/"+l.ID+"/events")
		}
		if err := s.ask(ctx, http.MethodPost, path+"/confirm", "", text{}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *shop) ask(ctx context.Context, method, path, key string, in, out any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, s.url+"/api/orders"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+benchKey)
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode >= 300:
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, body)
	case out == nil:
		return nil
	}
	return json.Unmarshal(body, out)
}

func (s *shop) start(ctx context.Context) error {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		return err
	}
	s.url, s.command = "http://"+address, exec.CommandContext(ctx, s.binary)
	s.command.Env = []string{"INSHAPE_LISTEN=" + address, "INSHAPE_DATA=" + s.folder, "INSHAPE_SECRET=0123456789abcdef", "INSHAPE_KEY=" + benchKey}
	s.command.Stderr = os.Stderr
	if err := s.command.Start(); err != nil {
		return fmt.Errorf("start orders: %w", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // nothing tells when a process of its own listens
		answer, err := s.client.Get(s.url + "/healthz")
		if err == nil {
			return answer.Body.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("start orders: %w", errors.Join(err, s.kill()))
		}
	}
}

func (s *shop) kill() error {
	if err := s.command.Process.Kill(); err != nil {
		return fmt.Errorf("kill orders: %w", err)
	}
	_ = s.command.Wait() // says that it was killed
	return nil
}

// cpuTime is the processor time of the server so far: proc_pid_stat(5), fields
// 14 and 15, in hundredths of a second.
func (s *shop) cpuTime() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.command.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from field 3 on
	if len(fields) < 13 {
		return 0, fmt.Errorf("read processor time: %q", text)
	}
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err, err2)
}
