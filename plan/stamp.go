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
	Units  map[string][]bulkhead.UnitShare
	Evict  []bulkhead.StampName // stop these first: their room is needed
	Resume bool                 // it was preempted, and has room again
	Purge  bool                 // its kept data has had its time: have it destroyed
	Erase  bool                 // nothing is left of it anywhere: drop its record
	Reason string               // of the step; or of why a stamp without node stays so
	Wake   time.Time            // when the answer may change though nothing else does; zero: never
}

// Stamp decides the next step of one stamp in the farm. status is nil while no
// node has reported. A stamp without data whose node is lost, or no longer of the
// farm, goes elsewhere. One with data stays where its data is, whatever happens to
// the node.
func Stamp(stamp *bulkhead.Stamp, status *bulkhead.StampStatus, farm *Farm, now time.Time) StampStep {
	if stamp.Desired == bulkhead.DesiredDeleted {
		return deleted(*stamp, status, now)
	}
	if stamp.Preempted != "" && !Releasing(stamp, status) {
		if units, ok := farm.Resume(stamp); ok {
			return StampStep{Resume: true, Units: units, Reason: "there is room for it again"}
		}
	}
	if stamp.Node != "" && !farm.Adrift(stamp) {
		return StampStep{} // moving a placed stamp is a step of its own
	}
	d, err := farm.Place(stamp)
	if err != nil {
		d.Reason = err.Error()
	}
	switch from := stamp.Node; {
	case from != "" && err != nil:
		d.Reason = fmt.Sprintf("its node %s is lost, and %s", from, d.Reason)
	case from != "":
		d.Reason = fmt.Sprintf("%s; its node %s is lost", d.Reason, from)
	}
	if len(d.Evict) > 0 {
		return StampStep{Evict: d.Evict, Reason: d.Reason}
	}
	return StampStep{Place: d.Node, Units: d.Units, Reason: d.Reason}
}

// Releasing tells whether a preempted stamp has not stopped yet, so that its room
// is still taken.
func Releasing(stamp *bulkhead.Stamp, status *bulkhead.StampStatus) bool {
	if stamp.Preempted == "" {
		return false
	}
	if status == nil || status.UID != stamp.UID || status.Epoch != stamp.Epoch {
		return true
	}
	if status.Phase == bulkhead.PhaseDeleted && status.Generation == stamp.Generation-1 {
		return false // it was just restored, and nothing has run since it was deleted
	}
	return status.Generation < stamp.Generation || status.Phase != bulkhead.PhaseStopped
}

func deleted(stamp bulkhead.Stamp, status *bulkhead.StampStatus, now time.Time) StampStep {
	switch {
	case stamp.Node != "":
	case stamp.Epoch == 0:
		return StampStep{Erase: true, Reason: "it was never placed"}
	case stamp.Purge:
		return StampStep{Erase: true, Reason: "it is on no node"}
	case len(stamp.Volumes) > 0:
		return StampStep{Erase: true, Reason: "its data was given up with its node"}
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
