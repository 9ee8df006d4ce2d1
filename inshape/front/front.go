// Package front is Inshape's door: it signs people and programs in, shows the
// modules that the shop has, and passes requests on to them.
package front

import "inshape/frame"

// Module is what the frame needs to run it.
func Module() frame.Module {
	return frame.Module{
		Name: "front", Title: "Front", About: "Accounts, sessions and API keys of the shop.",
		Set: func(*frame.Server) error { return nil },
	}
}
