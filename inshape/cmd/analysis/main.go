// Command analysis is Inshape's module of that name. Settings are environment
// variables: see docs/modules.md.
package main

import (
	"os"

	"inshape/analysis"
	"inshape/frame"
)

func main() { os.Exit(frame.Main(analysis.Module())) }
