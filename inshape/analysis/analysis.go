// Package analysis is the module that says whether a file can be made, in which
// material, and for how much. It takes models in, checks them step by step in
// worker processes, mends and changes them as revisions that never change
// themselves, gives verdicts for each of the shop's materials, and quotes.
//
// The geometry is package mesh's, the verdicts are package printability's and the
// prices package price's; here is what holds them together and what people see.
//
// Start with [Analyse], which is the whole analysis as one function, and
// [Module], which is the service around it.
package analysis

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"inshape/frame"
	"inshape/material"
	"inshape/price"
)

//go:embed migrations/*.sql pages/*.html static
var files embed.FS

func folder(name string) fs.FS {
	sub, err := fs.Sub(files, name)
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return sub
}

// Module is what the frame needs to run it, with the analyses in its own
// process: for tests, and where nothing harmful can come. [Main] keeps them apart.
func Module() frame.Module { return module(nil) }

// Main is the main of the module's program, and of the worker processes that it
// starts of itself.
func Main() int {
	if len(os.Args) == 2 && os.Args[1] == "work" {
		return Work(os.Stdin, os.Stdout)
	}
	program, err := os.Executable()
	if err != nil {
		fmt.Fprintf(os.Stderr, "analysis: find own program: %v\n", err)
		return 1
	}
	return frame.Main(module(apart(program, "work")))
}

func module(run runner) frame.Module {
	return frame.Module{
		Name: "analysis", Title: "Analysis", About: "Can the file be made, in which material, and for how much.",
		Migrations: folder("migrations"), Pages: folder("pages"), Static: folder("static"), Funcs: funcs(), Icon: "scan-search",
		Set: func(s *frame.Server) error { return set(s, run) },
	}
}

// service is the module at work.
type service struct {
	*frame.Server
	settings  settings
	materials *material.Set
	queue     *queue
	uploads   *uploads
}

// settings are the module's own.
type settings struct {
	MaxUpload int64         // INSHAPE_MAX_UPLOAD; MiB of a file, default 256
	Materials string        // INSHAPE_MATERIALS; file of the shop's materials, default those that come with Inshape
	Workers   int           // INSHAPE_WORKERS; analyses at a time, default the number of CPUs
	Memory    int64         // INSHAPE_MEMORY; MiB for all analyses together, default half of what there is
	StepTime  time.Duration // INSHAPE_STEP_TIME; for one step of an analysis, default 2m
}

func readSettings(c frame.Config) (settings, error) {
	var faults []string
	number := func(name string, least, most, fallback int64) int64 {
		text := c.Setting(name, strconv.FormatInt(fallback, 10))
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < least || n > most {
			faults = append(faults, fmt.Sprintf("%s: %q is no whole number from %d to %d", name, text, least, most))
		}
		return n
	}
	s := settings{
		MaxUpload: number("INSHAPE_MAX_UPLOAD", 1, 4096, 256) << 20,
		Materials: c.Setting("INSHAPE_MATERIALS", ""),
		Workers:   int(number("INSHAPE_WORKERS", 1, 256, int64(runtime.GOMAXPROCS(0)))),
		Memory:    number("INSHAPE_MEMORY", 256, 1<<20, max(256, machineMemory()>>21)) << 20,
	}
	var err error
	if s.StepTime, err = time.ParseDuration(c.Setting("INSHAPE_STEP_TIME", "2m")); err != nil || s.StepTime < time.Second {
		faults = append(faults, "INSHAPE_STEP_TIME: give a time of at least 1s, such as 2m")
	}
	if len(faults) > 0 {
		return s, errors.New("settings: " + strings.Join(faults, "; "))
	}
	return s, nil
}

// machineMemory is what this process may use, in bytes: the limit of its cgroup,
// or all that the machine has.
func machineMemory() int64 {
	least := int64(1) << 62
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if text, err := os.ReadFile(path); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
				least = min(least, n)
			}
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "MemTotal:" {
				if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
					least = min(least, n<<10)
				}
			}
		}
	}
	if least == 1<<62 {
		return 2 << 30 // not Linux
	}
	return least
}

// readMaterials reads the shop's materials; without a file, or with an empty
// one, those that come with Inshape.
func readMaterials(path string) (set *material.Set, builtIn bool, err error) {
	var text []byte
	if path != "" {
		if text, err = os.ReadFile(path); err != nil {
			return nil, false, fmt.Errorf("read materials: %w", err)
		}
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return material.Default(), true, nil
	}
	if set, err = material.Parse(path, text); err != nil {
		return nil, false, fmt.Errorf("read materials: %w", err)
	}
	return set, false, nil
}

// shopMaterials are the materials in the shop's currency. Those that come with
// Inshape are an example: their figures are taken for that currency.
func shopMaterials(path, currency string) (*material.Set, error) {
	set, builtIn, err := readMaterials(path)
	switch {
	case err != nil:
		return nil, err
	case currency == "": // only the API's document is printed
	case builtIn:
		set.Currency = price.Currency(currency)
		if _, ok := set.Currency.Digits(); !ok {
			return nil, fmt.Errorf("settings: INSHAPE_CURRENCY: %q is no code of ISO 4217, such as EUR", currency)
		}
	case string(set.Currency) != currency:
		return nil, fmt.Errorf("settings: INSHAPE_CURRENCY is %s, and %s has prices in %s; make them the same", currency, path, set.Currency)
	}
	return set, nil
}

func set(server *frame.Server, run runner) error {
	own, err := readSettings(server.Config)
	if err != nil {
		return err
	}
	materials, err := shopMaterials(own.Materials, server.Config.Currency)
	if err != nil {
		return err
	}
	if run == nil {
		run = here(materials)
	}
	s := &service{Server: server, settings: own, materials: materials}
	for _, name := range []string{"models", "uploads"} {
		if err := os.MkdirAll(server.Config.File(name), 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	s.queue = newQueue(s, run)
	s.uploads = newUploads(s)
	s.modelAPI()
	s.revisionAPI()
	s.uploadAPI()
	s.quoteAPI()
	s.shareAPI()
	s.pages()
	server.Loop("analyse", s.queue.Run)
	server.Loop("clean uploads", s.uploads.Run)
	return nil
}

// path is a file of a revision.
func (s *service) path(model string, n int, name string) string {
	return s.Config.File("models", model, strconv.Itoa(n), name)
}

// mark is what stands across guarded pictures.
func (s *service) mark() string {
	runes := []rune(s.Config.Shop)
	return string(runes[:min(len(runes), 60)])
}

func (s *service) log(ctx context.Context, message string, err error) {
	if ctx.Err() == nil {
		s.Log.Error(message, slog.Any("error", err))
	}
}
