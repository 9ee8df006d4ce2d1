// Command orders is Inshape's module of that name. Settings are environment
// variables: see docs/modules.md.
package main

import (
	"os"

	"inshape/frame"
	"inshape/orders"
)

func main() { os.Exit(frame.Main(orders.Module())) }
