// Package simulation runs a farm of three servers and ten nodes in pretended time
// (testing/synctest), lets everything go wrong as a seed says, and looks after every step
// whether what Bulkhead promises still holds. It has tests only: start with scheduler in
// simulation_test.go, then judge_test.go.
//
// Real are the servers' store, controllers, API and node sessions, package plan, the
// agents with what they keep on disk, and package volume. Pretended are etcd
// (store.Shared: one state, which servers reach over links and hold leases of), the
// network, containers, bridges, logs, images, and certificates.
//
// What must hold:
//
//   - one writer: a slot that writes to a volume has at most one running task in the whole
//     farm. The epoch of a stamp never falls, and rises whenever another node gets it. A
//     stamp with data goes only where a move has brought its data. A volume is not handed
//     out under an older epoch than before.
//   - data is kept: a task finds every record that tasks of its stamp have written, also
//     after crashes, moves and restores, until a user has it purged.
//   - capacity: what is granted to a node fits there, what is reserved for moves included.
//   - nothing is shared: no task gets another stamp's data, network or secrets.
//   - acknowledged is durable: what an answer to a user said is in the state then, can be
//     read at another server, and is as it was said when faults have ended.
//   - no control plane stops a stamp: an agent stops a running task only if the task is
//     unwell, or if a version of its stamp, later than the one it was made from, does not
//     want it there. No stamp is taken from a node that is not lost.
//   - mass silence moves nothing: no node is given up while more than a third of its
//     region, and more than one, have been silent for a while.
//   - routes: no gateway sends a request to another stamp's task, nor to a grant that it
//     knows to be over.
//   - all converges: when all faults have ended, within minutes every node is ready, every
//     stamp is where and as it is wanted, nothing is left of anything else, and every
//     gateway routes every stamp. Of a stamp that was purged no node keeps tasks or data.
//   - no process fails: servers and agents end only when they are told to.
//
// A seed decides what goes wrong, when, how long messages take, and what crypto/rand says.
// With -ordered it decides everything else, too: the program is built with the changes to
// Go's runtime in testdata/ordered, by which goroutines that are woken at the same moment
// run in the same order each time, and a seed that fails once fails again. See
// docs/reliability.md.
package simulation
