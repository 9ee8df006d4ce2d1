//go:build !linux

package main

import "bulkhead/cli"

// asInit: there are no containers here.
func asInit([]string) (code int, ok bool) { return 0, false }

// machine: elsewhere than on Linux this is the command line alone.
func machine(*cli.Env) {}
