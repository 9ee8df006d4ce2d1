package controller

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
	"bulkhead/store"
)

// TestControllerLooksAtAllSilentNodesTogether: a thousand nodes whose leases run out a
// millisecond apart are not looked at a thousand times, each time all of them.
func TestControllerLooksAtAllSilentNodesTogether(t *testing.T) {
	lead(t, func(t *testing.T, s *store.Store) {
		const nodes = 1000
		began := time.Now()
		for some := range nodes / 100 { // as many as go into a transaction
			put(t, s, func(tx *store.Tx) {
				for i := some * 100; i < some*100+100; i++ {
					n := node(bulkhead.NodeName(fmt.Sprintf("n%03d", i)), 1<<30)
					n.Silent = began.Add(time.Duration(i) * time.Millisecond)
					tx.Nodes.Put(n)
				}
			})
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		before := s.View().Revision
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for n := range s.View().Nodes.All() {
			if n.State != bulkhead.NodeUnreachable {
				t.Fatalf("node %s is %s", n.Name, n.State)
			}
		}
		if writes := s.View().Revision - before; writes > 30 {
			t.Errorf("%d transactions in the second in which they became unreachable", writes)
		}
	})
}
