// Command placement measures how stamps are placed: how many decisions a second
// package plan makes on one core, in farms of 1,000 to 50,000 nodes; how full a
// farm gets before the first stamp is refused, on the trace of a real cluster and
// beside other ways to choose a node; and how many placements a second the whole
// way from the API to etcd's disk takes.
//
// Start at main; decide.go, trace.go and durable.go are the three parts.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
)

func main() {
	trace := flag.String("trace", "", "folder with openb_node_list_all_node.csv and openb_pod_list_default.csv; empty: no trace is played")
	rounds := flag.Int("rounds", 3, "how often each rate is measured; the median counts")
	decisions := flag.Int("decisions", 30_000, "decisions in a round")
	nodes := flag.String("nodes", "1000,5000,10000,50000", "sizes of farms, the first is what others are compared with")
	orders := flag.Int("orders", 10, "orders in which the trace is played: as it is, and shuffled")
	terms := flag.String("terms", "", "only decisions whose terms contain this, such as racks; empty: all")
	parts := flag.String("parts", "decide,trace,durable", "what to measure")
	agents := flag.Int("agents", 5000, "simulated nodes of the durable part")
	stamps := flag.Int("stamps", 50_000, "stamps of the durable part")
	profile := flag.String("profile", "", "file that gets a profile of the processor's time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(2)
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Printf("%d cores, Linux %s, %s, load average %s\n", runtime.NumCPU(), first("/proc/sys/kernel/osrelease"), runtime.Version(), first("/proc/loadavg"))
	for part := range strings.SplitSeq(*parts, ",") {
		var err error
		switch part {
		case "decide":
			err = decide(ctx, *nodes, *terms, *rounds, *decisions)
		case "trace":
			if *trace == "" {
				fmt.Println("\nThe trace is left out: give its folder by -trace")
				continue
			}
			err = play(ctx, *trace, *orders)
		case "durable":
			err = durable(ctx, *agents, *stamps)
		default:
			err = fmt.Errorf("no part %q: there are decide, trace and durable", part)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		debug.FreeOSMemory()
	}
}

// first is the first word of a file.
func first(path string) string {
	b, _ := os.ReadFile(path)
	word, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	return word
}

// processor is the processor time that this process has used, in seconds: other
// load on the machine changes it little, and what the clock shows much.
func processor() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted)%2 == 1 {
		return sorted[len(sorted)/2]
	}
	return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
}
