package plan

import (
	"fmt"
	"time"

	"bulkhead"
)

// StampStep is what the controller should do for a stamp. The zero value is
// nothing.
type StampStep struct {
	Place  bulkhead.NodeName // give it to this node, under a new epoch
	Purge  bool              // its kept data has had its time: have it destroyed
	Erase  bool              // nothing is left of it anywhere: drop its record
	Reason string            // of the step; or of why a stamp without node stays so
	Wake   time.Time         // when the answer may change though nothing else does; zero: never
}

// Stamp decides the next step of one stamp in the farm. status is nil while no
// node has reported; all are all stamps, for what they take of the nodes.
func Stamp(stamp bulkhead.Stamp, status *bulkhead.StampStatus, nodes []bulkhead.Node, all []bulkhead.Stamp, now time.Time) StampStep {
	if stamp.Desired == bulkhead.DesiredDeleted {
		return deleted(stamp, status, now)
	}
	if stamp.Node != "" {
		return StampStep{} // moving a placed stamp is a step of its own
	}
	node, reason, err := Place(stamp, nodes, all)
	if err != nil {
		return StampStep{Reason: err.Error()}
	}
	return StampStep{Place: node, Reason: reason}
}

func deleted(stamp bulkhead.Stamp, status *bulkhead.StampStatus, now time.Time) StampStep {
	if stamp.Node == "" {
		return StampStep{Erase: true, Reason: "it was never placed"}
	}
	if stamp.Purge {
		if status != nil && status.UID == stamp.UID && status.Phase == bulkhead.PhaseDeleted && status.Generation == stamp.Generation {
			return StampStep{Erase: true, Reason: "its data is destroyed"}
		}
		return StampStep{}
	}
	if stamp.Deleted == nil {
		return StampStep{}
	}
	end := stamp.Deleted.Add(bulkhead.KeepDeleted)
	if now.Before(end) {
		return StampStep{Wake: end}
	}
	return StampStep{Purge: true, Reason: fmt.Sprintf("deleted %d days ago", int(now.Sub(*stamp.Deleted).Hours()/24))}
}
