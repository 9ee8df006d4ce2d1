// Package analysis is Inshape's module of that name.
package analysis

import "inshape/frame"

// Module is what the frame needs to run it.
func Module() frame.Module {
	return frame.Module{
		Name: "analysis", Title: "Analysis", About: "Can the file be made, in which material, and for how much.",
		Set: func(*frame.Server) error { return nil },
	}
}
