package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"bulkhead": func() {
			os.Exit(Run(context.Background(), os.Args[1:], Env{
				Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: "1.2.3",
				Up: fakeUp, Down: fakeDown, Doctor: fakeDoctor,
			}))
		},
	})
}

// fakeUp says what it was given, and is ready at once. Its API is the one that
// the script's server has.
func fakeUp(_ context.Context, o UpOptions) error {
	if o.Data == "/taken" {
		return bulkhead.Errorf(bulkhead.ErrConflict, "data folder /taken belongs to process 1").WithHint("choose another one with --data")
	}
	fmt.Printf("%+v\n", struct{ Data, API, NodeAPI, HTTP, HTTPS, Domain, Node, Subnet string }{o.Data, o.API, o.NodeAPI, o.HTTP, o.HTTPS, o.Domain, o.Node, o.Subnet})
	return o.Ready(Up{API: "http://" + o.API, Token: os.Getenv("TEST_TOKEN")})
}

func fakeDown(_ context.Context, data string) (bool, error) { return data != "/nothing", nil }

func fakeDoctor(_ context.Context, o UpOptions) []Finding {
	out := []Finding{{Check: "root", State: FindingOK, Message: "running as root"}}
	if o.HTTP == ":1" {
		out = append(out, Finding{Check: "port gateway", State: FindingFailed, Message: ":1 is in use", Fix: "choose another with --http"})
	}
	return out
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "bulkhead-cli-")
			if err != nil {
				return err
			}
			c, err := newCluster(dir)
			if err != nil {
				return err
			}
			env.Defer(func() {
				c.stop()
				_ = os.RemoveAll(dir)
			})
			env.Values["cluster"] = c
			env.Setenv("BULKHEAD_API", c.url)
			env.Setenv("BULKHEAD_TOKEN", c.token)
			env.Setenv("BULKHEAD_CONFIG", filepath.Join(env.WorkDir, "config.yaml"))
			env.Setenv("BULKHEAD_TIMEOUT", "10s")
			env.Setenv("VIEWER", c.viewer)
			env.Setenv("TEST_TOKEN", "bh_fromup")
			env.Setenv("NOBODY", freeAddress(env.T().(testing.TB)))
			env.Setenv("HOME", env.WorkDir)
			return errors.Join(writeImage(filepath.Join(env.WorkDir, "web.tar"), "web:1"), writeImage(filepath.Join(env.WorkDir, "db.tar"), "db:1"))
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// code N CMD... runs a command and wants its exit code.
			"code": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec(args[1], args[2:]...)
				got := 0
				if e, ok := errors.AsType[*exec.ExitError](err); ok {
					got = e.ExitCode()
				} else {
					ts.Check(err)
				}
				if (got == want) == neg {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
			// oneline FILE: the file holds one line, and perhaps a hint.
			"oneline": func(ts *testscript.TestScript, _ bool, args []string) {
				lines := strings.Split(strings.TrimRight(ts.ReadFile(args[0]), "\n"), "\n")
				lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "  ") || strings.HasPrefix(l, "warning: ") }) // progress
				if len(lines) > 2 || !strings.HasPrefix(lines[0], "bulkhead: ") || len(lines) == 2 && !strings.HasPrefix(lines[1], "hint: ") {
					ts.Fatalf("not one line with a hint:\n%s", strings.Join(lines, "\n"))
				}
			},
			// mode OCTAL FILE wants the file's permissions.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[1]))
				ts.Check(err)
				if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
					ts.Fatalf("mode of %s is %s, want %s", args[1], got, args[0])
				}
			},
			// join NAME adds a node, and waits until it is ready.
			"join": func(ts *testscript.TestScript, _ bool, args []string) {
				c := ts.Value("cluster").(*cluster)
				name := bulkhead.NodeName(args[0])
				ts.Check(c.join(name))
				for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
					if n, _ := c.store.View().Nodes.Get(name); n.State == bulkhead.NodeReady {
						return
					}
					if time.Now().After(end) {
						ts.Fatalf("node %s is not ready", name)
					}
				}
			},
			// publish puts the shop of testdata/shop on the server.
			"publish": func(ts *testscript.TestScript, _ bool, args []string) {
				shop, err := filepath.Abs(filepath.Join("testdata", "shop"))
				ts.Check(err)
				ts.Check(ts.Exec("bulkhead", append([]string{"release", "publish", shop, "--images", ts.MkAbs("web.tar"), "--images", ts.MkAbs("db.tar")}, args...)...))
			},
		},
	})
}
