// Command stamps measures Bulkhead as its users meet it: real processes, the
// real command line, real containers.
//
// It times how long a stamp of three services takes until its first answer, and
// how long Docker Compose takes for the same project and image where Docker is
// installed; then what 200 stamps cost: to create, to keep, to list, and to find
// again after Bulkhead was killed. Each figure stands beside its bar.
//
// It needs root and containerd, runs a Bulkhead and a Docker of its own in a
// temporary folder, and ends and removes what it has started. Start at
// bench.run; chain.go and fleet.go are the two halves.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"bulkhead/imagebuild"
)

func main() {
	b := bench{out: os.Stdout}
	flag.StringVar(&b.binary, "bulkhead", "bin/bulkhead", "the program to measure")
	flag.IntVar(&b.rounds, "rounds", 15, "how often the stamp of three services is created")
	flag.IntVar(&b.composeRounds, "compose-rounds", 7, "how often Compose starts the same; 0: never")
	flag.IntVar(&b.stamps, "stamps", 200, "how many stamps the machine is filled with; 0: none")
	flag.DurationVar(&b.idle, "idle", 20*time.Second, "how long the idle CPU is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of all measurements.
type bench struct {
	out           io.Writer
	binary        string
	rounds        int
	composeRounds int
	stamps        int
	idle          time.Duration
	dir           string // for everything that the bench writes
	archive       string // of image, as "docker load" reads it
}

// image is what every service of the bench runs.
const image = "bench:1"

func (b *bench) run(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("containers and networks are made: run this as root")
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return fmt.Errorf("find program: %w", err)
	}
	if b.dir, err = os.MkdirTemp("", "bulkhead-bench-"); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if err := b.buildImage(ctx); err != nil {
		return err
	}
	b.say("%s, %d cores, %s of memory, Linux %s, %s", cpuModel(), runtime.NumCPU(), memory(), kernel(), versionOf(ctx, b.binary, "version"))
	ours, err := b.measureChain(ctx)
	if err != nil {
		return fmt.Errorf("stamp of three services: %w", err)
	}
	if b.composeRounds > 0 {
		switch theirs, err := b.measureCompose(ctx); {
		case errors.Is(err, exec.ErrNotFound):
			b.say("  Docker Compose is not here, left out: %v", err)
		case err != nil:
			return fmt.Errorf("measure Docker Compose: %w", err)
		default:
			b.say("  Bulkhead is %.1f times faster (bar: 3)", float64(theirs)/float64(ours))
		}
	}
	if b.stamps > 0 {
		if err := b.measureFleet(ctx); err != nil {
			return fmt.Errorf("%d stamps: %w", b.stamps, err)
		}
	}
	return nil
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

// title begins a part; other load on the machine is part of its figures.
func (b *bench) title(format string, args ...any) {
	b.say("\n%s (load average %s)", fmt.Sprintf(format, args...), loadAverage())
}

// buildImage writes the archive of the image.
func (b *bench) buildImage(ctx context.Context) error {
	program, err := imagebuild.GoBinary(ctx, "bench/stamps/web")
	if err != nil {
		return fmt.Errorf("build image (from the top of the repository): %w", err)
	}
	img, err := imagebuild.Build(imagebuild.Spec{
		Entrypoint: []string{"/web"}, Ports: []string{"8080/tcp"},
		Files: []imagebuild.File{{Path: "/web", Mode: 0o755, Content: program}},
	})
	if err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	b.archive = filepath.Join(b.dir, "image.tar")
	f, err := os.Create(b.archive)
	if err != nil {
		return err
	}
	return errors.Join(imagebuild.WriteDocker(f, image, img), f.Close())
}

// write writes a file below the bench's folder and returns its path.
func (b *bench) write(name, text string) (string, error) {
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// command runs a program to its end and returns what it printed.
func command(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

// until asks ok every 5 ms until it says yes.
func until(ctx context.Context, most time.Duration, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w (after %s)", what, err, most)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// percentile is the value that p % of times are not above.
func percentile(times []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memory() string {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return "unknown size"
	}
	return fmt.Sprintf("%d GiB", uint64(info.Totalram)*uint64(info.Unit)>>30)
}

func kernel() string { return firstField("/proc/sys/kernel/osrelease") }

func loadAverage() string { return firstField("/proc/loadavg") }

func firstField(path string) string {
	b, _ := os.ReadFile(path)
	field, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	return cmp.Or(field, "unknown")
}

// versionOf is the first line that a program prints of itself.
func versionOf(ctx context.Context, name string, args ...string) string {
	out, err := command(ctx, os.Environ(), name, args...)
	if err != nil {
		return filepath.Base(name)
	}
	line, _, _ := strings.Cut(out, "\n")
	return line
}
