// Package plan decides. Every decision of the platform is a pure function here:
// what the tasks of a stamp should do next, on which node a stamp belongs, what
// the gateway's table holds. State and the time go in; actions with reasons come
// out. Nothing here reads a clock, a file or a socket, so that production,
// simulation and "what would happen" are the same code.
//
// Start with Tasks (task.go), which an agent calls in a loop for each of its
// stamps, and with Farm (farm.go) and its Place (place.go), which the controller
// asks for places.
package plan
