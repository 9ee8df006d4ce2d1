package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"bulkhead"
)

// Bounds of a move. While a stamp is switching its requests wait, so that has to end
// soon one way or the other: the gateways hold a request for 15 s, and a task may
// take ten of them to stop.
const (
	// answerMost is how long the node that a stamp moves to may say nothing at all.
	answerMost = time.Minute
	// switchMost is how long a stamp may be nobody's.
	switchMost = 45 * time.Second
	// startMost is how long a move counts as under way while the stamp is not up.
	startMost = 5 * time.Minute
	// moveAgain is the pause after a move that was given up before a node that is
	// drained tries again with that stamp.
	moveAgain = time.Minute
)

// TransferStep is what the controller should do for a move. The zero value is
// nothing.
type TransferStep struct {
	// Phase is the next one. To and Units are the choice that TransferCopying begins
	// with.
	Phase bulkhead.TransferPhase
	To    bulkhead.NodeName
	Units map[string][]bulkhead.UnitShare
	// End: it is done. GiveUp: it is not, and the stamp stays with From.
	End, GiveUp bool
	Reason      string
	Wake        time.Time // when the answer may change though nothing else does; zero: never
}

// Transfer decides the next step of a stamp's move. status and arrival are the latest
// reports of the nodes, nil while there are none.
//
// The stamp is From's until the switch, then nobody's, then To's, each under an epoch
// of its own. To gets it when the last copy is on To's disk, and From serves that copy
// only once it has stopped the stamp. Whatever fails before, the stamp is From's again.
func Transfer(stamp *bulkhead.Stamp, status *bulkhead.StampStatus, arrival *bulkhead.Arrival, farm *Farm, now time.Time) TransferStep {
	m := stamp.Transfer
	if arrival == nil || arrival.Move != m.ID || arrival.Node != m.To {
		arrival = &bulkhead.Arrival{}
	}
	if m.Phase == bulkhead.TransferStarting {
		return starting(stamp, status, now)
	}
	if why := farm.hinders(stamp); why != "" {
		return TransferStep{GiveUp: true, Reason: why}
	}
	if m.Phase == bulkhead.TransferPlanned {
		d, err := farm.Target(stamp, m.To)
		if err != nil {
			return TransferStep{GiveUp: true, Reason: err.Error()}
		}
		return TransferStep{Phase: bulkhead.TransferCopying, To: d.Node, Units: d.Units, Reason: d.Reason}
	}
	if arrival.State == bulkhead.ArrivalFailed {
		return TransferStep{GiveUp: true, Reason: cmp.Or(arrival.Message, fmt.Sprintf("node %s cannot take it", m.To))}
	}
	from, to := farm.nodeOf(m.From), farm.nodeOf(m.To)
	if m.Phase == bulkhead.TransferCopying {
		switch {
		case arrival.State == bulkhead.ArrivalReady && from.State == bulkhead.NodeReady && to.State == bulkhead.NodeReady:
			return TransferStep{Phase: bulkhead.TransferSwitching, Reason: "what is left to copy takes a moment"}
		case arrival.State != "" || to.State != bulkhead.NodeReady:
			return TransferStep{}
		}
		if end := m.Began.Add(answerMost); now.Before(end) {
			return TransferStep{Wake: end}
		}
		return TransferStep{GiveUp: true, Reason: fmt.Sprintf("node %s has not begun to copy within %s", m.To, answerMost)}
	}
	end := m.Switched.Add(switchMost)
	switch {
	case to.State != bulkhead.NodeReady: // what it has is whole, but nobody would hear of it
		return TransferStep{GiveUp: true, Reason: fmt.Sprintf("node %s does not answer", m.To)}
	case arrival.State == bulkhead.ArrivalComplete:
		return TransferStep{Phase: bulkhead.TransferStarting, Reason: "its data is there"}
	case now.Before(end):
		return TransferStep{Wake: end}
	}
	return TransferStep{GiveUp: true, Reason: fmt.Sprintf("it could not be stopped and copied within %s", switchMost)}
}

// starting is the step of a stamp that To has.
func starting(stamp *bulkhead.Stamp, status *bulkhead.StampStatus, now time.Time) TransferStep {
	m := stamp.Transfer
	if stamp.Desired == bulkhead.DesiredDeleted || stamp.Preempted != "" || stamp.Node != m.To {
		return TransferStep{End: true, Reason: "it is not to run there any more"}
	}
	if status != nil && status.UID == stamp.UID && status.Node == m.To && status.Epoch == stamp.Epoch && status.Generation >= stamp.Generation {
		switch status.Phase {
		case bulkhead.PhaseRunning:
			return TransferStep{End: true, Reason: "it is up"}
		case bulkhead.PhaseStopped:
			return TransferStep{End: true, Reason: "it is there, stopped"}
		case bulkhead.PhaseFailed:
			return TransferStep{End: true, Reason: "it is there and has failed: " + status.Message}
		}
	}
	if end := m.Switched.Add(startMost); now.Before(end) {
		return TransferStep{Wake: end}
	}
	return TransferStep{End: true, Reason: fmt.Sprintf("it is there and not up after %s", startMost)}
}

// hinders says why a move that has not handed the stamp over cannot go on.
func (f *Farm) hinders(stamp *bulkhead.Stamp) string {
	m := stamp.Transfer
	switch from, to := f.nodeOf(m.From), f.nodeOf(m.To); {
	case stamp.Desired == bulkhead.DesiredDeleted:
		return "the stamp was deleted"
	case stamp.Preempted != "":
		return stamp.Preempted
	case stamp.Node != m.From:
		return fmt.Sprintf("the stamp is not on %s any more", m.From)
	case from == nil:
		return fmt.Sprintf("node %s was removed", m.From)
	case from.State == bulkhead.NodeLost:
		return fmt.Sprintf("node %s is lost", m.From)
	case m.To == "": // not chosen yet
		return ""
	case to == nil:
		return fmt.Sprintf("node %s was removed", m.To)
	case to.State == bulkhead.NodeLost:
		return fmt.Sprintf("node %s is lost", m.To)
	case to.Cordoned:
		return fmt.Sprintf("node %s is cordoned", m.To)
	case to.Draining:
		return fmt.Sprintf("node %s is being drained", m.To)
	}
	return ""
}

// nodeOf is a node, nil if it is not known.
func (f *Farm) nodeOf(name bulkhead.NodeName) *bulkhead.Node {
	i, ok := f.byName[name]
	if !ok {
		return nil
	}
	return f.nodes[i].node
}

// Target chooses where a placed stamp could move: to that node, or for "" to the
// best of all others. What the stamp has where it is does not stand in its way. It
// changes nothing that can be seen. The error says what is wrong with the node or
// the stamp (ErrNotFound, ErrConflict) or what is short where (ErrExhausted).
func (f *Farm) Target(s *bulkhead.Stamp, to bulkhead.NodeName) (Decision, error) {
	if err := f.movable(s, to); err != nil {
		return Decision{}, err
	}
	looser := f.looser // nothing has been given back
	defer func() { f.looser = looser }()
	if t, ok := f.stamps[s.Name]; ok {
		was := t.stamp
		f.RemoveStamp(s.Name)
		defer f.SetStamp(was, t.leaving)
	}
	there := *s
	c := bulkhead.Constraint{Attribute: "node.hostname", Value: string(cmp.Or(to, s.Node)), Not: to == ""}
	there.Terms.Constraints = append(slices.Clip(s.Terms.Constraints), c)
	d, err := f.Place(&there)
	switch {
	case err != nil && to == "":
		return Decision{}, bulkhead.Errorf(bulkhead.KindOf(err), "stamp %s has no other place: %w", s.Name, err)
	case err != nil:
		return Decision{}, err
	case len(d.Evict) > 0: // a move is not worth another one's stop
		return Decision{}, bulkhead.Errorf(bulkhead.ErrExhausted, "%s", d.Reason)
	case f.nodeOf(d.Node).Gateway == "":
		return Decision{}, noGateway(d.Node)
	}
	return d, nil
}

// movable says why a stamp cannot move to a node, or from where it is.
func (f *Farm) movable(s *bulkhead.Stamp, to bulkhead.NodeName) error {
	conflict := func(format string, args ...any) error { return bulkhead.Errorf(bulkhead.ErrConflict, format, args...) }
	from, target := f.nodeOf(s.Node), f.nodeOf(to)
	switch {
	case s.Node == "":
		return conflict("stamp %s is on no node yet: %s", s.Name, s.Placement)
	case s.Preempted != "":
		return conflict("stamp %s waits for its room: %s", s.Name, s.Preempted)
	case to == s.Node:
		return conflict("stamp %s is on %s already", s.Name, to)
	case to != "" && target == nil:
		return noNode(to)
	case from == nil || from.State != bulkhead.NodeReady:
		return conflict("stamp %s is on %s, which does not answer", s.Name, s.Node)
	case to == "" && len(f.byName) == 1:
		return conflict("%s is the only node of the farm: there is nowhere to move to", s.Node)
	case from.Gateway == "":
		return noGateway(s.Node)
	case to == "":
		return nil
	case target.State != bulkhead.NodeReady:
		return conflict("node %s is %s", to, target.State)
	case target.Cordoned:
		return bulkhead.Errorf(bulkhead.ErrConflict, "node %s is cordoned: it takes no stamps", to).WithHint("bulkhead node uncordon %s", to)
	case target.Draining:
		return bulkhead.Errorf(bulkhead.ErrConflict, "node %s is being drained: it takes no stamps", to).WithHint("bulkhead node undrain %s", to)
	case target.Gateway == "":
		return noGateway(to)
	}
	return nil
}

func noGateway(node bulkhead.NodeName) error {
	return bulkhead.Errorf(bulkhead.ErrConflict, "other nodes do not reach %s: it advertises no address", node).
		WithHint("start it with --advertise")
}

// depart counts a move for those that are decided after it.
func (f *Farm) depart(s *bulkhead.Stamp, d Decision, why string) Departure {
	moved := *s
	moved.Transfer = &bulkhead.Transfer{From: s.Node, To: d.Node, Units: d.Units, Phase: bulkhead.TransferCopying}
	f.SetStamp(&moved, false)
	return Departure{Stamp: s, To: d.Node, Units: d.Units, Reason: why}
}

// Departure is a stamp that should leave its node now.
type Departure struct {
	Stamp  *bulkhead.Stamp
	To     bulkhead.NodeName
	Units  map[string][]bulkhead.UnitShare
	Reason string
}

// Departures says which stamps of nodes that are drained begin to move now: one at
// a time from each node, and in the farm no more than the policy's number of moves.
// What takes least time goes first. wake is when the answer may change though nothing
// else does; zero: never.
func (f *Farm) Departures(now time.Time) (next []Departure, wake time.Time) {
	if len(f.draining) == 0 {
		return nil, time.Time{}
	}
	under := 0
	busy := map[bulkhead.NodeName]bool{}
	for _, t := range f.stamps {
		if t.moving {
			under++
			busy[t.stamp.Transfer.From] = true
		}
	}
	var nodes []bulkhead.NodeName
	for name := range f.draining {
		nodes = append(nodes, name)
	}
	slices.Sort(nodes)
	for _, name := range nodes {
		if busy[name] || under >= f.policy.Moves || f.nodeOf(name).State != bulkhead.NodeReady {
			continue
		}
		var on []*tenant
		for _, t := range f.onNode[name] {
			if t.data || t.moving || t.leaving {
				continue
			}
			if last := t.stamp.Transferred; last != nil && last.GivenUp != "" && last.From == name {
				if again := last.Ended.Add(moveAgain); now.Before(again) {
					if wake.IsZero() || again.Before(wake) {
						wake = again
					}
					continue
				}
			}
			on = append(on, t)
		}
		slices.SortFunc(on, func(a, b *tenant) int {
			return cmp.Or(cmp.Compare(len(a.stamp.Volumes), len(b.stamp.Volumes)), cmp.Compare(a.request.amounts[disk], b.request.amounts[disk]), strings.Compare(string(a.name), string(b.name)))
		})
		for _, t := range on {
			d, err := f.Target(t.stamp, "")
			if err != nil {
				continue // asked again when room is made
			}
			next = append(next, f.depart(t.stamp, d, fmt.Sprintf("node %s is drained; %s", name, d.Reason)))
			under++
			break
		}
	}
	return next, wake
}
