// Command analysis is Inshape's module of that name. Settings are environment
// variables: see docs/modules.md. As "analysis work" it is one of its own workers.
package main

import (
	"os"

	"inshape/analysis"
)

func main() { os.Exit(analysis.Main()) }
