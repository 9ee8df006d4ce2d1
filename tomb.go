package bulkhead

import "slices"

// Membership is one life of a node in the farm: a machine that joins under the name of
// one that was removed is another.
type Membership struct {
	Node NodeName `json:"node"`
	UID  string   `json:"uid"`
}

// mostFormer bounds Stamp.Former. A node that had the stamp so many moves ago, and has
// been away since, ends what it has of it as any node does what is not its own.
const mostFormer = 32

// Leave notes that a node which had the stamp, and may have something of it still, is to
// have it no longer. Who changes Node calls it.
func (s *Stamp) Leave(n Node) {
	var former []Membership // a new one: the old one may be shared
	for _, m := range s.Former {
		if m.Node != n.Name {
			former = append(former, m)
		}
	}
	former = append(former, Membership{n.Name, n.UID})
	s.Former = slices.Clip(former[max(0, len(former)-mostFormer):])
}

// Tomb is what the state keeps of a stamp that was purged: that a node which had it before
// may have something of it still. It is there until that node has said that nothing is
// left, or is removed.
type Tomb struct {
	StampRef            // under the last epoch that there was
	Of       Membership `json:"of"`
}
