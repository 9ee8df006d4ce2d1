// Command bulkhead is all of Bulkhead: the server, the agent and the gateway
// (`bulkhead up`), and the command line that talks to them. It hands over to
// package cli, and on Linux to package daemon for what must run on the machine.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"bulkhead/cli"
)

var version = "dev" // set by the linker

func main() {
	if code, ok := runAs(os.Args); ok {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	env := cli.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: version}
	machine(&env)
	code := cli.Run(ctx, os.Args[1:], env)
	stop()
	os.Exit(code)
}
