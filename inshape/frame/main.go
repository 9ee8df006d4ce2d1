package frame

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

// version is set by the linker.
var version = ""

// Version is the build's version, such as 1.4.0, or its revision.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value[:min(12, len(setting.Value))]
			}
		}
	}
	return "dev"
}

// Main is a module's main: it serves until SIGTERM, or does what its first
// argument says, and gives the exit code.
//
//	NAME               serve, with the settings of the environment
//	NAME healthcheck   ask the module on this machine whether it is well
//	NAME openapi       print its OpenAPI document
func Main(m Module) int {
	flags := flag.NewFlagSet(m.Name, flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "usage: %s [healthcheck|openapi]\nSettings are environment variables: INSHAPE_LISTEN, INSHAPE_DATA, INSHAPE_SECRET, …\n", m.Name)
	}
	if err := flags.Parse(os.Args[1:]); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	switch what := flags.Arg(0); what {
	case "":
		err = serve(ctx, m)
	case "healthcheck":
		err = healthcheck(ctx, os.Getenv)
	case "openapi":
		err = printOpenAPI(ctx, m, os.Stdout)
	default:
		flags.Usage()
		return 2
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", m.Name, err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, m Module) error {
	config, err := ConfigFrom(os.Getenv)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	s, err := New(ctx, m, config, log)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

func healthcheck(ctx context.Context, getenv func(string) string) error {
	listen := getenv("INSHAPE_LISTEN")
	if listen == "" {
		listen = ":8080"
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("INSHAPE_LISTEN: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New("it is not well: " + answer.Status)
	}
	return nil
}

func printOpenAPI(ctx context.Context, m Module, w io.Writer) error {
	folder, err := os.MkdirTemp("", m.Name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	s, err := New(ctx, m, Config{Data: folder, Secret: "only to print the document"}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer s.Close()
	text, err := json.MarshalIndent(s.API.OpenAPI(), "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}

// WriteJSON answers with a value.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this cannot be written
}
