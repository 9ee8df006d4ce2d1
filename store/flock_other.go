//go:build !unix

package store

import (
	"errors"
	"os"
)

// flock: servers run on Linux; elsewhere this package only has to build, for the
// command line.
func flock(*os.File) error { return errors.ErrUnsupported }
