// Package cli is the bulkhead command: one file per command, each a thin layer
// over api.Client. What must run on the machine itself (up, down, doctor) comes
// in by Env, so the package links no server and builds wherever Go does.
//
// Start with Run; exit.go lists the exit codes, config.go where flags come from.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/api"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Env is the world around a command.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string // nil: os.Getenv
	Now            func() time.Time    // nil: time.Now; for ages
	Version        string              // of this binary

	// Up runs Bulkhead in the foreground until ctx ends. Nil: this binary cannot.
	Up func(ctx context.Context, o UpOptions) error
	// Down ends the Bulkhead that runs on the data folder and returns when it is
	// gone; false: none ran.
	Down func(ctx context.Context, data string) (ran bool, err error)
	// Destroy removes everything of the Bulkhead on the data folder, which does not
	// run. Nil: this binary cannot.
	Destroy func(ctx context.Context, data string) error
	// Restore makes the state in a file that of the server on the data folder, which
	// does not run; it tells when the backup was made and how many objects it holds.
	Restore func(ctx context.Context, data, file string) (made time.Time, objects int, err error)
	// Doctor examines the machine for what up with the same options needs.
	Doctor func(ctx context.Context, o UpOptions) []Finding
}

// command is what every command has at hand.
type command struct {
	env    Env
	config *config     // loaded before any command runs
	way    *api.Client // made by client

	// Global flags.
	api, token, configPath, output string
}

// Run executes one command line and returns its exit code.
func Run(ctx context.Context, args []string, env Env) int {
	if env.Getenv == nil {
		env.Getenv = os.Getenv
	}
	if env.Now == nil {
		env.Now = time.Now
	}
	c := &command{env: env}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil && !errors.Is(err, bulkhead.ErrInvalid) {
		return exitInterrupted
	}
	c.printError(err)
	return exitCode(err)
}

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "bulkhead",
		Short: "Stamp out one complete copy of your product for every customer",
		Long: `Bulkhead runs one complete, share-nothing copy of a product, a stamp, for every
customer of its vendor.

  bulkhead up                              start Bulkhead on this machine
  bulkhead release publish                 publish the Compose project in this folder
  bulkhead stamp create acme --product P   stamp out a customer

Every flag can also be given by the environment (--http: BULKHEAD_HTTP) and by
"defaults" in the configuration file; a flag wins over the environment, and the
environment over the file.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return c.configure(cmd)
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
			return usage(cmd, "%s", wrongValue(e.GetFlag(), e.GetValue()))
		}
		return usage(cmd, "%v", err)
	})
	f := root.PersistentFlags()
	f.StringVar(&c.api, "api", defaultAPI, "address of the API")
	f.StringVar(&c.token, "token", "", "token for the API (default: the one in the configuration file)")
	f.StringVar(&c.configPath, "config", "", "configuration file (default: ~/.config/bulkhead/config.yaml)")
	f.StringVarP(&c.output, "output", "o", "table", "how to print: table, json or yaml")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddGroup(
		&cobra.Group{ID: "product", Title: "Products and customers:"},
		&cobra.Group{ID: "watch", Title: "See what happens:"},
		&cobra.Group{ID: "farm", Title: "The farm:"},
		&cobra.Group{ID: "machine", Title: "This machine:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add("product", c.releaseCommand(), c.stampCommand(), c.applyCommand(), c.exportCommand())
	add("watch", c.statusCommand(), c.eventsCommand())
	add("farm", c.nodeCommand(), c.tokenCommand(), c.planCommand(), c.snapshotCommand(), c.simCommand())
	add("machine", c.upCommand(), c.downCommand(), c.serverCommand(), c.agentCommand(), c.doctorCommand(), c.versionCommand())
	root.AddCommand(exitCodesTopic())
	family(root)
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			family(cmd)
		}
	}
	return root
}

// family makes a command that only holds others: alone it prints its help; an
// unknown child is an error, not a help page with exit code 0.
func family(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usage(cmd, "unknown command %q: did you mean %s?", args[0], strings.Join(near, " or "))
		}
		return usage(cmd, "unknown command %q", args[0])
	}
	return cmd
}

// exactly and between bound the arguments of a command; what names them.
func exactly(what ...string) cobra.PositionalArgs {
	return between(len(what), len(what), strings.Join(what, " "))
}

func between(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage(cmd, "%s is missing", what)
		case most == 0 && len(args) > 0:
			return usage(cmd, "unexpected argument %q", args[0])
		case most > 0 && len(args) > most:
			return usage(cmd, "unexpected argument %q after %s", args[most], what)
		}
		return nil
	}
}

// usage is an error in how the command was called.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return bulkhead.Errorf(bulkhead.ErrInvalid, format, args...).WithHint("%s --help", cmd.CommandPath())
}

// client is the way to the API.
func (c *command) client() *api.Client {
	if c.way == nil {
		cl, err := c.config.client(c.api, c.token, func(servers []string) { c.learn(c.api, servers) })
		if err != nil { // the authority in the file: without it no server is trusted
			cl = api.NewClient(c.api, c.token)
		}
		cl.Stale(sync.OnceFunc(func() {
			fmt.Fprintln(c.env.Stderr, "bulkhead: no majority of the servers answers: this is what was known last")
		}))
		c.way = cl
	}
	return c.way
}

// next tells what to do next, where a person reads.
func (c *command) next(format string, args ...any) {
	if c.output == "table" {
		fmt.Fprintf(c.env.Stdout, "next: "+format+"\n", args...)
	}
}

// say prints a line for people.
func (c *command) say(format string, args ...any) {
	if c.output == "table" {
		fmt.Fprintf(c.env.Stdout, format+"\n", args...)
	}
}
