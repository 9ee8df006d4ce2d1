package plan

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"bulkhead"
)

// Silence says how long a node may be silent before what follows.
type Silence struct {
	// Lease is after how long it is unreachable.
	Lease time.Duration
	// LostAfter is after how long it is lost: its stamps without data go elsewhere.
	LostAfter time.Duration
}

// NodeStep is what the controller should do for a node.
type NodeStep struct {
	Node   bulkhead.NodeName
	State  bulkhead.NodeState // its new state; empty: as it is
	Silent bool               // its server is gone: the silence begins now
	Spared bool               // up to now its silence does not count towards being lost
	Reason string
}

// NodesPlan is what Nodes decides.
type NodesPlan struct {
	Steps  []NodeStep
	Alarms []bulkhead.Alarm // every one there should be, by name; Since is not set
	Wake   time.Time        // when the answer may change though nothing else does; zero: never
}

// massShare: when more than a third of a region's nodes, and more than one, are
// silent and not given up yet, it is rather the servers that are cut off than the
// nodes that have died, and nothing is moved in that region. One silent node never
// counts as many, or else a region of two could never lose one.
const massShare = 3

// Nodes decides what silence means. present tells which servers live: a node whose
// session was with one that does not is silent from when that is noticed. Nothing
// is decided about a node that speaks.
func Nodes(nodes iter.Seq[bulkhead.Node], present func(bulkhead.NodeName) bool, s Silence, now time.Time) NodesPlan {
	var p NodesPlan
	wake := func(at time.Time) {
		if p.Wake.IsZero() || at.Before(p.Wake) {
			p.Wake = at
		}
	}
	frozen := map[string]bool{}
	for region, silent := range massSilence(nodes, s, now) {
		frozen[region] = true
		name, where := "frozen", "the farm"
		if region != "" {
			name, where = "frozen "+region, "region "+region
		}
		p.Alarms = append(p.Alarms, bulkhead.Alarm{Name: name, Message: fmt.Sprintf(
			"%d nodes of %s are silent at once (%s): nothing is moved there until they answer or are removed", len(silent), where, some(silent))})
	}
	slices.SortFunc(p.Alarms, func(a, b bulkhead.Alarm) int { return cmp.Compare(a.Name, b.Name) })
	for n := range nodes {
		switch {
		case n.Silent.IsZero() && n.Server != "" && !present(n.Server):
			p.Steps = append(p.Steps, NodeStep{Node: n.Name, Silent: true, Reason: fmt.Sprintf("server %s, which had its session, is gone", n.Server)})
			continue
		case n.Silent.IsZero():
			continue
		}
		quiet := now.Sub(n.Silent)
		switch {
		case n.State == bulkhead.NodeReady && quiet >= s.Lease:
			p.Steps = append(p.Steps, NodeStep{Node: n.Name, State: bulkhead.NodeUnreachable, Reason: fmt.Sprintf("silent for %s", quiet.Round(time.Second))})
			wake(now) // the next step may be due
		case n.State == bulkhead.NodeReady:
			wake(n.Silent.Add(s.Lease))
		case n.State == bulkhead.NodeUnreachable && frozen[n.Region]:
			// When the others answer again, this one gets its time, too: they do not come
			// back at the same moment. A step now and then does.
			if due := doubted(n).Add(s.LostAfter / 2); now.Before(due) {
				wake(due)
			} else {
				p.Steps = append(p.Steps, NodeStep{Node: n.Name, Spared: true, Reason: "many nodes are silent at once"})
			}
		case n.State == bulkhead.NodeUnreachable && now.Sub(doubted(n)) >= s.LostAfter:
			p.Steps = append(p.Steps, NodeStep{Node: n.Name, State: bulkhead.NodeLost, Reason: fmt.Sprintf("silent for %s: its stamps without data go elsewhere", quiet.Round(time.Second))})
		case n.State == bulkhead.NodeUnreachable:
			wake(doubted(n).Add(s.LostAfter))
		}
	}
	return p
}

// doubted is since when a node's silence counts towards its being lost.
func doubted(n bulkhead.Node) time.Time {
	if n.Spared.After(n.Silent) {
		return n.Spared
	}
	return n.Silent
}

// massSilence is the silent nodes of each region in which there are too many to
// believe that they have died.
func massSilence(nodes iter.Seq[bulkhead.Node], s Silence, now time.Time) map[string][]string {
	all, silent := map[string]int{}, map[string][]string{}
	for n := range nodes {
		if n.State == bulkhead.NodeLost { // given up already
			continue
		}
		all[n.Region]++
		// The clock by which it became unreachable may have been another server's.
		if !n.Silent.IsZero() && (n.State == bulkhead.NodeUnreachable || now.Sub(n.Silent) >= s.Lease) {
			silent[n.Region] = append(silent[n.Region], string(n.Name))
		}
	}
	for region, names := range silent {
		if len(names) < 2 || massShare*len(names) <= all[region] {
			delete(silent, region)
		}
	}
	return silent
}

// some lists names, the first few of many.
func some(names []string) string {
	slices.Sort(names)
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", len(names)-5)
	}
	return strings.Join(names, ", ")
}
