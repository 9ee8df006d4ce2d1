package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"bulkhead"
)

var (
	seedFlag  = flag.Int64("seed", 0, "run this seed only, and print what happens")
	seedsFlag = flag.Int("seeds", 0, "simulate this many seeds; default: as many as go into -budget")
	budget    = flag.Duration("budget", 20*time.Second, "stop to begin seeds after this time")
	first     = flag.Int64("first", 1, "the first seed")
	mostFlag  = flag.Int("most", 1, "stop after so many seeds that fail")
	rounds    = flag.Int("rounds", 3, "rounds of a seed")
	ordered   = flag.Bool("ordered", false, "build a program in which the seed decides everything, and run that")
	times     = flag.Int("times", 1, "run every seed so often, and demand the same course each time")
	resultIn  = flag.String("result", "", "write what came of -seed to this file, and print nothing")
)

const (
	// roundTroubled and roundCalm are the parts of a round: things go wrong, and then
	// all must become right again.
	roundTroubled = 14 * time.Minute
	roundCalm     = 8 * time.Minute
)

// TestSimulation simulates hours of a farm, one of each seed, and prints how many. A
// seed that fails prints how to run it again. Every seed has a process of its own.
func TestSimulation(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if *ordered {
		program = filepath.Join(t.TempDir(), "ordered.test")
		order(t, program)
	}
	switch {
	case *resultIn != "":
		b, err := json.Marshal(run(t, *seedFlag, slog.New(slog.DiscardHandler)))
		if err == nil {
			err = os.WriteFile(*resultIn, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	case *seedFlag != 0 && *ordered:
		cmd := command(t, program, *seedFlag, "-test.v")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			t.Error(err)
		}
	case *seedFlag != 0:
		r := run(t, *seedFlag, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: pretended})))
		t.Logf("schedule %016x, course %016x", r.Digest, r.Course)
		r.report(t)
	default:
		many(t, program)
	}
}

// many runs seeds.
func many(t *testing.T, program string) {
	began := time.Now()
	var mu sync.Mutex // guards what follows
	next, failed, total := *first, 0, results{Counts: map[string]int{}}
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for {
				mu.Lock()
				seed := next
				over := time.Since(began) >= *budget
				if *seedsFlag > 0 {
					over = seed-*first >= int64(*seedsFlag)
				}
				if over || failed >= *mostFlag {
					mu.Unlock()
					return
				}
				next++
				mu.Unlock()
				r, err := start(t, program, seed)
				for range *times - 1 {
					again, wrong := start(t, program, seed)
					if err = errors.Join(err, wrong); err == nil && again.Course != r.Course {
						err = fmt.Errorf("its course is %016x and %016x", r.Course, again.Course)
					}
				}
				switch {
				case err != nil:
					t.Errorf("seed %d: %v", seed, err)
				case *times > 1:
					t.Logf("seed %d: course %016x, %d times", seed, r.Course, *times)
				}
				r.report(t)
				mu.Lock()
				total.add(r)
				if err != nil || r.Verdict != "" {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	t.Logf("%.1f hours of %d nodes and %d servers in %s: %.0f hours an hour; seeds %d to %d, %d steps, %d changes of the state",
		total.Time.Hours(), nodeCount, serverCount, took.Round(time.Second), total.Time.Hours()/took.Hours(), *first, next-1, total.Steps, total.Revisions)
	for _, kind := range slices.Sorted(maps.Keys(total.Counts)) {
		t.Logf("%7d %s", total.Counts[kind], kind)
	}
}

// command runs a seed in a process of its own. That uses one processor, so that several
// go on beside each other, and collects garbage only where collect does.
func command(t *testing.T, program string, seed int64, args ...string) *exec.Cmd {
	args = append([]string{"-test.run", "TestSimulation$", "-seed", fmt.Sprint(seed), "-rounds", fmt.Sprint(*rounds)}, args...)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=1GiB")
	return cmd
}

// start runs a seed and returns what came of it.
func start(t *testing.T, program string, seed int64) (r result, err error) {
	file, err := os.CreateTemp(t.TempDir(), "result-*.json")
	if err != nil {
		return r, err
	}
	defer file.Close()
	if out, err := command(t, program, seed, "-result", file.Name()).CombinedOutput(); err != nil {
		return r, fmt.Errorf("%w\n%s", err, out)
	}
	return r, json.NewDecoder(file).Decode(&r)
}

// pretended shows pretended times in the log.
func pretended(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.String("at", a.Value.Time().Format("15:04:05.000000"))
	}
	return a
}

// result is what came of a seed.
type result struct {
	Seed      int64
	Broken    invariant
	Verdict   string
	Trace     []string
	Digest    uint64
	Course    uint64
	Time      time.Duration
	Steps     int
	Revisions int64
	Counts    map[string]int
}

type results result

func (t *results) add(r result) {
	t.Time += r.Time
	t.Steps += r.Steps
	t.Revisions += r.Revisions
	for kind, n := range r.Counts {
		t.Counts[kind] += n
	}
}

// shown is how much of a trace is shown.
const shown = 60

func (r result) report(t *testing.T) {
	t.Helper()
	if r.Verdict == "" {
		return
	}
	again := fmt.Sprintf("go test ./simulation -run 'TestSimulation$' -seed=%d", r.Seed)
	if *ordered {
		again += " -ordered"
	}
	t.Errorf("seed %d after %s: %s: %s\n%s\nagain: %s", r.Seed, r.Time, r.Broken, r.Verdict, strings.Join(r.Trace, "\n"), again)
}

// run runs a seed in pretended time.
func run(t *testing.T, seed int64, log *slog.Logger) (r result) {
	folder := t.TempDir()
	if dir, err := os.MkdirTemp("/dev/shm", "simulation-"); err == nil { // the kernel's, in memory
		folder = dir
		defer os.RemoveAll(dir)
	}
	cryptotest.SetGlobalRandom(t, uint64(seed))
	synctest.Test(t, func(t *testing.T) {
		s := &scheduler{seed: seed, dice: rand.New(rand.NewPCG(uint64(seed), 1)), farm: newFarm(t, folder, uint64(seed), log)}
		s.tenants = tenants(s.farm)
		began := time.Now()
		s.run()
		s.farm.stop()
		j := s.farm.judge
		r = result{
			Seed: seed, Broken: j.broken, Verdict: j.verdict, Trace: j.trace[max(0, len(j.trace)-shown):], Digest: j.digest.Sum64(), Course: j.course.Sum64(),
			Time: time.Since(began), Steps: s.steps, Revisions: s.farm.shared.View().Revision, Counts: j.counts,
		}
	})
	return r
}

// scheduler lets things go wrong, and users work, as its dice say. What it does depends
// on the seed alone, and not on what comes of it.
type scheduler struct {
	seed    int64
	farm    *farm
	dice    *rand.Rand
	tenants []*tenant
	ends    []ending // of faults, soonest first
	steps   int
}

type ending struct {
	at   time.Time
	what string
	end  func()
}

func (s *scheduler) run() {
	s.farm.calm.Store(true)
	s.farm.start()
	time.Sleep(10 * time.Second)
	s.farm.publish()
	for _, u := range s.tenants {
		u.act(s.dice, "create")
		s.sleep(500 * time.Millisecond)
	}
	s.settle()
	for round := range *rounds {
		if !s.farm.judge.ok() {
			return
		}
		s.dice = rand.New(rand.NewPCG(uint64(s.seed), uint64(2+round))) // whatever became of the last round
		s.trouble()
		s.settle()
	}
}

// sleep lets time pass, at moments that nothing else has, and looks at the farm.
func (s *scheduler) sleep(d time.Duration) {
	time.Sleep(d + time.Duration(s.dice.Int64N(1_000_000)))
	synctest.Wait()
	if s.steps++; s.steps%100 == 0 {
		collect()
	}
	s.farm.judge.look()
}

// collect collects garbage if there is much: at a moment when nothing runs whose order it
// could change.
func collect() {
	var m runtime.MemStats
	if runtime.ReadMemStats(&m); m.HeapAlloc > 64<<20 {
		runtime.GC()
	}
}

// trouble is the first part of a round.
func (s *scheduler) trouble() {
	s.farm.calm.Store(false)
	pace := time.Duration(2+s.dice.IntN(60)) * time.Second
	for end := time.Now().Add(roundTroubled); time.Now().Before(end) && s.farm.judge.ok(); {
		pause := time.Duration(s.dice.Int64N(int64(pace)))
		if s.dice.IntN(4) == 0 { // one fault right after another
			pause /= 100
		}
		for at := time.Now().Add(pause); len(s.ends) > 0 && s.ends[0].at.Before(at); {
			s.sleep(max(0, time.Until(s.ends[0].at)))
			s.endNext()
		}
		s.sleep(pause)
		if s.dice.IntN(4) == 0 {
			s.operate()
		} else {
			s.fail()
		}
	}
}

func (s *scheduler) endNext() {
	e := s.ends[0]
	s.ends = s.ends[1:]
	s.farm.judge.schedule("end", "%s", e.what)
	e.end()
}

// fail begins a fault.
func (s *scheduler) fail() {
	total := 0
	for _, f := range faults {
		total += f.often
	}
	pick := s.dice.IntN(total)
	for _, f := range faults {
		if pick -= f.often; pick >= 0 {
			continue
		}
		lasts := lasting(s.dice)
		what, end := f.begin(s, lasts)
		s.farm.judge.schedule(f.kind, "%s, for %s", what, lasts)
		e := ending{time.Now().Add(lasts), f.kind + ", " + what, end}
		i, _ := slices.BinarySearchFunc(s.ends, e, func(a, b ending) int { return a.at.Compare(b.at) })
		s.ends = slices.Insert(s.ends, i, e)
		return
	}
}

// operate has a user, or the farm's operator, do something.
func (s *scheduler) operate() {
	u := s.tenants[s.dice.IntN(len(s.tenants))]
	verbs := []string{"update", "update", "stop", "start", "start", "start", "delete", "purge", "move", "move", "move", "cancel", "cordon", "uncordon", "drain", "undrain"}
	verb := verbs[s.dice.IntN(len(verbs))]
	switch verb {
	case "cordon", "uncordon", "drain", "undrain":
		s.mind(verb, s.node().name, s.dice.IntN(serverCount))
	default:
		u.act(s.dice, verb)
	}
}

// mind has the operator do something with a node.
func (s *scheduler) mind(verb string, node bulkhead.NodeName, at int) {
	f := s.farm
	f.judge.schedule("operation", "%s %s by s%d", verb, node, at+1)
	f.users.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c := f.client(at)
		var err error
		switch verb {
		case "cordon", "uncordon":
			_, err = c.CordonNode(ctx, string(node), verb == "cordon")
		case "drain":
			_, err = c.DrainNode(ctx, string(node))
		case "undrain":
			_, err = c.UndrainNode(ctx, string(node))
		}
		if err != nil {
			f.judge.note("  %s %s: %v", verb, node, err)
		}
	})
}

// settle ends all faults and waits until all is as it should be.
func (s *scheduler) settle() {
	j := s.farm.judge
	for len(s.ends) > 0 {
		s.endNext()
	}
	s.farm.calm.Store(true)
	s.farm.users.Wait() // what was begun is answered
	for _, n := range s.farm.nodes {
		s.mind("undrain", n.name, 0)
		s.farm.users.Wait()
		s.mind("uncordon", n.name, 0)
		s.farm.users.Wait()
	}
	why := "it was not looked at"
	for end := time.Now().Add(roundCalm); time.Now().Before(end) && j.ok(); s.sleep(time.Second) {
		if why == "" {
			continue
		}
		if why = j.unsettled(); why == "" {
			for _, u := range s.tenants {
				if wrong := u.wrong(); wrong != "" {
					j.fail(acked, "%s", wrong)
				}
			}
			s.sleep(30 * time.Second)
		}
	}
	if why != "" && j.ok() {
		j.fail(settling, "%s after the last fault: %s", roundCalm, why)
	}
}
