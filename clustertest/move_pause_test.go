package clustertest

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"bulkhead"
)

// moveThroughPauses stops Bulkhead on a node that takes part in a move, at each of its
// steps, for longer than its lease: it wakes with an epoch that may be another's by then.
// What it had taken on before, it must not go on with. Its tasks run meanwhile.
func moveThroughPauses(t *testing.T, f *trio) {
	n3 := f.nodes[2]
	pause := 12 * time.Second // the lease is 10 s
	if trials(2, 200) > 2 {
		pause = time.Minute
	}
	f.nodeOf("globex").blob(f.servers[0].Stamp("globex"), "blob", 150<<20)
	defer f.oneWriter("globex")()
	const path = "/data/paused"
	w := Write([]*Machine{n3}, "globex", path) // the gateways of those that pause, pause
	pauses := []killed{
		{"to", bulkhead.TransferSwitching},
		{"from", bulkhead.TransferSwitching},
		{"to", bulkhead.TransferStarting},
		{"from", bulkhead.TransferCopying},
		{"to", bulkhead.TransferCopying},
		{"from", bulkhead.TransferStarting},
	}
	client := f.servers[0].Client(f.servers[1:]...)
	for i := range trials(2, 200) {
		p := pauses[i%len(pauses)]
		from, to := f.between()
		victim := map[string]*Machine{"from": from, "to": to}[p.who]
		began := time.Now()
		seen := f.began(client, to, p.phase)
		victim.Signal(syscall.SIGSTOP)
		time.Sleep(pause)
		victim.Signal(syscall.SIGCONT)
		last := f.ended(client)
		f.ready()
		f.serve(20*time.Second, f.nodes, "globex")
		f.servers[0].Until(20*time.Second, "globex runs where it is said to", func() error {
			for _, n := range f.nodes {
				if has := n.tasks()["globex"]; has != (n.Name == string(last.Node)) {
					return errors.New(n.Name + fmt.Sprintf(" runs it: %t", has))
				}
			}
			return nil
		})
		t.Logf("%s stopped for %v while %s (seen %t): at %s after %v, given up: %q, held for %d ms", p.who, pause, p.phase, seen, last.Node,
			time.Since(began).Round(time.Millisecond), last.Move.Message, last.Move.HeldMS)
	}
	w.Kept(t, n3, "globex", path, "paused while it moves")
}
