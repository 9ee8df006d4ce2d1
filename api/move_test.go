package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"bulkhead"
	"bulkhead/store"
)

// twoNodeFarm has acme on n1, and n2 beside it.
func twoNodeFarm(t *testing.T) *fixture {
	f := newFixture(t)
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false, false); err != nil {
		t.Fatal(err)
	}
	f.update(func(tx *store.Tx) {
		for _, name := range []bulkhead.NodeName{"n1", "n2"} {
			tx.Nodes.Put(bulkhead.Node{Name: name, UID: "uid-" + string(name), Gateway: string(name) + ":7443", State: bulkhead.NodeReady})
		}
	})
	f.place("acme", "n1")
	f.server.c.Target = func(_ *store.Snapshot, s *bulkhead.Stamp, to bulkhead.NodeName) (bulkhead.Transfer, error) {
		if to == "full" {
			return bulkhead.Transfer{}, bulkhead.Errorf(bulkhead.ErrExhausted, "no node has room")
		}
		return bulkhead.Transfer{From: s.Node, To: "n2", Reason: "best fit"}, nil
	}
	return f
}

// TestMoveStamp: a move is asked for once, by somebody, and ends when it is cancelled,
// unless the stamp was handed over.
func TestMoveStamp(t *testing.T) {
	f := twoNodeFarm(t)
	s, err := f.MoveStamp(t.Context(), "acme", "n2")
	if err != nil || s.Move == nil || s.Move.Phase != bulkhead.TransferPlanned || s.Move.From != "n1" || s.Node != "n1" {
		t.Fatalf("%+v, %v", s.Move, err)
	}
	if m := f.stamp("acme").Transfer; m.Actor != "ann" || m.To != "n2" || m.Units != nil {
		t.Errorf("the leader is asked for %+v", m)
	}
	if _, err := f.MoveStamp(t.Context(), "acme", ""); !errors.Is(err, bulkhead.ErrConflict) || err.Error() != "stamp acme is moving to n2 already" {
		t.Errorf("moved twice: %v", err)
	}
	phase := func(phase bulkhead.TransferPhase) {
		f.update(func(tx *store.Tx) {
			s, _ := tx.Stamps.Get("acme")
			s.Transfer.Phase = phase
			tx.Stamps.Put(s)
		})
	}
	epoch := f.stamp("acme").Epoch
	phase(bulkhead.TransferSwitching)
	if s, err = f.Stamp(t.Context(), "acme"); err != nil || s.Phase != bulkhead.PhaseStarting || s.Message != "it moves from n1 to n2" || s.Settled() {
		t.Errorf("while it is nobody's: %s, %s, %v", s.Phase, s.Message, err)
	}
	if s, err = f.CancelMove(t.Context(), "acme"); err != nil || !s.Move.GivenUp || s.Move.Ended == nil || s.Move.Message != "cancelled by ann" {
		t.Errorf("cancelled: %+v, %v", s.Move, err)
	}
	if got := f.stamp("acme"); got.Transfer != nil || got.Epoch != epoch+1 {
		t.Errorf("cancelled while it was nobody's: epoch %d after %d", got.Epoch, epoch)
	}
	if _, err := f.CancelMove(t.Context(), "acme"); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("cancelled twice: %v", err)
	}
	if _, err := f.MoveStamp(t.Context(), "acme", ""); err != nil {
		t.Fatal(err)
	}
	phase(bulkhead.TransferStarting)
	if _, err := f.CancelMove(t.Context(), "acme"); !errors.Is(err, bulkhead.ErrConflict) || !strings.Contains(err.Error(), "already") {
		t.Errorf("cancelled when it was there: %v", err)
	}
}

// TestMoveStamp_Refused: who asks hears why at once, and nothing has changed.
func TestMoveStamp_Refused(t *testing.T) {
	f := twoNodeFarm(t)
	before := fmt.Sprintf("%+v", f.stamp("acme"))
	for _, c := range []struct {
		name, to string
		kind     error
	}{
		{"nobody", "", bulkhead.ErrNotFound},
		{"acme", "full", bulkhead.ErrExhausted},
		{"acme", "No Node", bulkhead.ErrInvalid},
		{"A B", "", bulkhead.ErrInvalid},
	} {
		if _, err := f.MoveStamp(t.Context(), c.name, c.to); !errors.Is(err, c.kind) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s to %q: %v", c.name, c.to, err)
		}
	}
	if after := fmt.Sprintf("%+v", f.stamp("acme")); after != before {
		t.Error("the stamp has changed")
	}
	if _, err := f.DeleteStamp(t.Context(), "acme", false); err != nil {
		t.Fatal(err)
	}
	if _, err := f.MoveStamp(t.Context(), "acme", ""); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("a deleted one: %v", err)
	}
}

// TestDrainNode: a node is drained when all of its stamps have a place elsewhere, and
// else nothing is changed.
func TestDrainNode(t *testing.T) {
	f := twoNodeFarm(t)
	to := bulkhead.NodeName("")
	var asked bulkhead.WhatIf
	f.server.c.Forecast = func(_ *store.Snapshot, what bulkhead.WhatIf) (bulkhead.Forecast, error) {
		asked = what
		return bulkhead.Forecast{Moves: []bulkhead.Move{{Stamp: "acme", From: "n1", To: to, Reason: "no node has 4 GiB free"}}}, nil
	}
	_, err := f.DrainNode(t.Context(), "n1")
	if !errors.Is(err, bulkhead.ErrExhausted) || err.Error() != "node n1 cannot be drained: acme would have no place: no node has 4 GiB free" {
		t.Errorf("without room: %v", err)
	}
	if n, _ := f.Node(t.Context(), "n1"); n.Draining {
		t.Error("it is drained all the same")
	}
	if _, err := f.DrainNode(t.Context(), "n9"); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	to = "n2"
	for range 2 { // the second time it is so already
		out, err := f.DrainNode(t.Context(), "n1")
		if err != nil || !out.Node.Draining || len(out.Moves) != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	if fmt.Sprint(asked.Lost) != "[n1]" {
		t.Errorf("it is asked what if %v were lost", asked.Lost)
	}
	f.update(func(tx *store.Tx) {
		s, _ := tx.Stamps.Get("acme")
		s.Volumes, s.Desired = []bulkhead.Volume{{Name: "data"}}, bulkhead.DesiredDeleted
		tx.Stamps.Put(s)
	})
	if out, err := f.DrainNode(t.Context(), "n1"); err != nil || fmt.Sprint(out.Stays) != "[acme]" {
		t.Errorf("with the data of a deleted stamp: %+v, %v", out, err)
	}
	if n, err := f.UndrainNode(t.Context(), "n1"); err != nil || n.Draining || !n.Takes() {
		t.Errorf("undrained: %+v, %v", n, err)
	}
	f.update(func(tx *store.Tx) {
		n, _ := tx.Nodes.Get("n1")
		n.State = bulkhead.NodeUnreachable
		tx.Nodes.Put(n)
	})
	if _, err := f.DrainNode(t.Context(), "n1"); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("one that does not answer: %v", err)
	}
}

// TestMove_Sessions: the node that a stamp moves to hears what to copy, without
// secrets, and that it is over; what it says of it is believed from it alone, and as
// long as the stamp moves.
func TestMove_Sessions(t *testing.T) {
	f := twoNodeFarm(t)
	connect := f.nodeListener()
	sessions := map[bulkhead.NodeName]*NodeSession{}
	for _, name := range []bulkhead.NodeName{"n1", "n2"} {
		s, err := connect(name).Connect(t.Context(), hello())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		sessions[name] = s
	}
	last := map[bulkhead.NodeName]bulkhead.NodeOrder{}
	hear := func(node bulkhead.NodeName) bulkhead.NodeOrder {
		t.Helper()
		o := next(t, sessions[node])
		for o.Assign != nil && same(o, last[node]) { // of a change from before the session, which was heard of late
			o = next(t, sessions[node])
		}
		if !o.Synced {
			last[node] = o
		}
		return o
	}
	for node := range sessions {
		for !hear(node).Synced {
		}
	}
	step := func(change func(s *bulkhead.Stamp)) {
		f.update(func(tx *store.Tx) {
			s, _ := tx.Stamps.Get("acme")
			change(&s)
			tx.Stamps.Put(s)
		})
	}
	uid := f.stamp("acme").UID
	step(func(s *bulkhead.Stamp) {
		s.Transfer = &bulkhead.Transfer{ID: "m1", From: "n1", To: "n2", Phase: bulkhead.TransferCopying}
	})
	if o := hear("n1"); o.Assign == nil || o.Assign.Stamp.Transfer == nil || o.Assign.Stamp.Transfer.To != "n2" {
		t.Errorf("n1 hears %+v", o)
	}
	o := hear("n2")
	if o.Fetch == nil || o.Fetch.Move != "m1" || o.Fetch.UID != uid || o.Fetch.From.Node != "n1" || len(o.Fetch.Images) != 1 || o.Fetch.Last {
		t.Fatalf("n2 hears %+v", o)
	}
	if text := fmt.Sprintf("%+v", *o.Fetch); strings.Contains(text, "PASSWORD") {
		t.Errorf("n2 hears of secrets: %s", text)
	}
	f.update(func(tx *store.Tx) { tx.Policies.Put(bulkhead.Policy{CopyRate: 5 << 20}) })
	if o := hear("n2"); o.Fetch == nil || o.Fetch.Move != "m1" || o.Fetch.Rate != 5<<20 {
		t.Errorf("of a new policy n2 hears %+v", o)
	}
	arrival := func(state bulkhead.ArrivalState, move string) bulkhead.NodeReport {
		return bulkhead.NodeReport{Arrival: &bulkhead.Arrival{Name: "acme", Move: move, Node: "n2", State: state}}
	}
	for node, r := range map[bulkhead.NodeName]bulkhead.NodeReport{"n1": arrival(bulkhead.ArrivalComplete, "m1"), "n2": arrival(bulkhead.ArrivalComplete, "m0")} {
		if err := sessions[node].Send(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := sessions["n2"].Send(arrival(bulkhead.ArrivalReady, "m1")); err != nil {
		t.Fatal(err)
	}
	f.await("the arrival is known", func(view *store.Snapshot) bool {
		a, ok := view.Arrivals.Get("acme")
		if ok && a.State != bulkhead.ArrivalReady {
			t.Fatalf("it is believed of others: %+v", a)
		}
		return ok
	})
	step(func(s *bulkhead.Stamp) { s.Transfer.Phase = bulkhead.TransferSwitching; s.Epoch++ })
	if o := hear("n2"); o.Fetch == nil || !o.Fetch.Last {
		t.Errorf("at the switch n2 hears %+v", o)
	}
	if o := hear("n1"); o.Assign == nil || !o.Assign.Stamp.Switching() {
		t.Errorf("at the switch n1 hears %+v", o)
	}
	step(func(s *bulkhead.Stamp) {
		s.Transfer.Phase, s.Node, s.Copy = bulkhead.TransferStarting, "n2", "m1"
		s.Epoch++
	})
	if o := hear("n2"); o.Assign == nil || o.Assign.Stamp.Copy != "m1" || o.Assign.Secrets["PASSWORD"] == "" {
		t.Errorf("when it has it n2 hears %+v", o)
	}
	if o := hear("n1"); o.Forget == nil || o.Forget.Epoch != f.stamp("acme").Epoch {
		t.Errorf("when it is gone n1 hears %+v", o)
	}
	step(func(s *bulkhead.Stamp) {
		s.Transfer = &bulkhead.Transfer{ID: "m2", From: "n2", To: "n1", Phase: bulkhead.TransferCopying}
	})
	if o := hear("n1"); o.Fetch == nil || o.Fetch.Move != "m2" {
		t.Errorf("of the way back n1 hears %+v", o)
	}
	step(func(s *bulkhead.Stamp) { s.Transfer = nil })
	if o := hear("n1"); o.Unfetch != "m2" {
		t.Errorf("when that is given up n1 hears %+v", o)
	}
}
