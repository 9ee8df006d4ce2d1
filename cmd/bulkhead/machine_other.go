//go:build !linux

package main

import "bulkhead/cli"

// runAs: there are no containers here.
func runAs([]string) (code int, ok bool) { return 0, false }

// machine: elsewhere than on Linux this is the command line alone.
func machine(*cli.Env) {}
