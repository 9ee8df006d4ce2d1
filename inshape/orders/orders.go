// Package orders is Inshape's module of that name.
package orders

import "inshape/frame"

// Module is what the frame needs to run it.
func Module() frame.Module {
	return frame.Module{
		Name: "orders", Title: "Orders", About: "Orders from quote to delivery.",
		Set: func(*frame.Server) error { return nil },
	}
}
