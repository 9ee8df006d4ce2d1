// Package bulkhead is the vocabulary of Bulkhead, a datacenter operating
// system for vendors of B2B software: a vendor publishes releases of a product,
// stamps out one complete, share-nothing copy of it for every customer, and
// nodes run the tasks of those stamps.
//
// It holds names, states, kinds of errors and their validation, and nothing
// else: no I/O, no clock, no goroutine. Every other package speaks in these
// words, so a reader starts here: Release, Stamp, Service, Task, Node, Route.
package bulkhead
