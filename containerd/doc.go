// Package containerd is agent.Runtime on containerd 1.6 or newer: the machine's
// own, or a private one that it starts and that outlives it.
//
// Every Bulkhead instance has a containerd namespace of its own, so that several
// share one containerd without seeing each other's containers. What is known of
// a container stands in its labels; after a restart of anything it is read back
// from there. All tasks of a stamp share one shim process and one parent cgroup.
//
// It is no general client: it decides nothing about when a task runs. Start at
// Open, then New.
package containerd
