// Command front is Inshape's module of that name. Settings are environment
// variables: see docs/modules.md.
package main

import (
	"os"

	"inshape/frame"
	"inshape/front"
)

func main() { os.Exit(frame.Main(front.Module())) }
