// Command bench measures Inshape's geometry kernel beside admesh and PrusaSlicer,
// on the same files in the same run. It prints tables in Markdown, which
// docs/performance.md quotes. Times of one run are good for their ratios; absolute
// ones need a quiet machine.
//
//	go run ./bench FOLDER...            everything
//	go run ./bench -only kernel FOLDER  one section
//	go run ./bench -only orders         it needs no models
//
// A section is a function in a file of its own and a line in sections.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"inshape/mesh"
)

// section is a part of the report.
type section struct {
	name  string
	about string
	run   func(ctx context.Context, b *bench) error
}

var sections = []section{
	{"kernel", "read, weld, topology, volume and area of binary STL", kernel},
	{"formats", "the same of the other formats", formats},
	{"repair", "what repair makes of the files, and of broken copies of them", repair},
	{"analysis", "the whole analysis of a model: all checks, pictures, all materials, and the repair of what is no solid", analyse},
	{"thickness", "walls, gaps and trapped volumes", thickness},
	{"hollow", "hollowing with escape holes", hollow},
	{"orient", "the build direction", orient},
	{"orders", "line events of a server that is a process of its own", orders},
}

// bench is what the sections work with.
type bench struct {
	files  []string // the models of the folders
	rounds int
	tmp    string // a folder for files of the run, removed at its end
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rounds := flags.Int("rounds", 5, "how often each thing is measured; medians are printed")
	only := flags.String("only", "", "sections to run, with commas between: "+strings.Join(names, ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 && *only != "orders" || *rounds < 1 {
		return errors.New("name at least one folder of models, and one round")
	}
	b := &bench{rounds: *rounds}
	for _, folder := range flags.Args() {
		if err := b.collect(folder); err != nil {
			return fmt.Errorf("read folder %s: %w", folder, err)
		}
	}
	var err error
	if b.tmp, err = os.MkdirTemp("", "inshape-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.tmp)
	fmt.Printf("%s, %d CPUs, %s; %d files, medians of %d rounds; load average %s\n",
		runtime.Version(), runtime.NumCPU(), processor(), len(b.files), b.rounds, load())
	for _, s := range sections {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), s.name) {
			continue
		}
		fmt.Printf("\n## %s: %s\n\n", s.name, s.about)
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("measure %s: %w", s.name, err)
		}
	}
	return nil
}

func (b *bench) collect(folder string) error {
	return filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && mesh.FormatOf(path) != "" {
			b.files = append(b.files, path)
		}
		return err
	})
}

// cost is what one measured thing took.
type cost struct {
	wall, cpu time.Duration
}

func (c cost) minus(o cost) cost { return cost{max(0, c.wall-o.wall), max(0, c.cpu-o.cpu)} }

// median of what do takes, over the rounds.
func (b *bench) median(ctx context.Context, do func(ctx context.Context) (cost, error)) (cost, error) {
	var walls, cpus []time.Duration
	for range b.rounds {
		runtime.GC()
		c, err := do(ctx)
		if err != nil {
			return cost{}, err
		}
		walls, cpus = append(walls, c.wall), append(cpus, c.cpu)
	}
	slices.Sort(walls)
	slices.Sort(cpus)
	return cost{walls[len(walls)/2], cpus[len(cpus)/2]}, nil
}

// ours measures Go code with so many threads.
func (b *bench) ours(ctx context.Context, threads int, do func() error) (cost, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
	return b.median(ctx, func(context.Context) (cost, error) {
		before, begun := cpuTime(), time.Now()
		err := do()
		return cost{time.Since(begun), cpuTime() - before}, err
	})
}

// peer measures a program that is called once for each group of arguments.
func (b *bench) peer(ctx context.Context, program string, calls ...[]string) (cost, error) {
	return b.median(ctx, func(ctx context.Context) (cost, error) {
		var sum cost
		for _, args := range calls {
			cmd := exec.CommandContext(ctx, program, args...)
			begun := time.Now()
			// A peer that refuses a file has still done its work on it.
			if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
				return sum, err
			}
			sum.wall += time.Since(begun)
			sum.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		}
		return sum, nil
	})
}

// installed tells whether a peer is there, and says so if not.
func installed(program string) bool {
	if _, err := exec.LookPath(program); err != nil {
		fmt.Printf("%s is not installed: left out\n\n", program)
		return false
	}
	return true
}

// row is a line of a table of times.
type row struct {
	who string
	cost
}

// table prints rows with their speed, and how often faster the one of the same
// table that is called base is, by wall and by processor time.
func table(facets int, rows []row, base string) {
	var by cost
	for _, r := range rows {
		if r.who == base {
			by = r.cost
		}
	}
	fmt.Printf("| who | wall s | processor s | million facets/s | %s is faster, wall | processor |\n|---|---|---|---|---|---|\n", base)
	for _, r := range rows {
		fmt.Printf("| %s | %.3f | %.3f | %.2f | %.1f× | %.1f× |\n", r.who, r.wall.Seconds(), r.cpu.Seconds(),
			float64(facets)/1e6/r.wall.Seconds(), r.wall.Seconds()/by.wall.Seconds(), r.cpu.Seconds()/by.cpu.Seconds())
	}
	fmt.Println()
}

func processor() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func load() string {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	if first == "" {
		return "unknown"
	}
	return first
}
