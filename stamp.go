package bulkhead

import (
	"encoding/json"
	"slices"
	"time"
)

// Stamp is one customer's complete copy of a product. It is the unit of
// placement, isolation, upgrade, backup, move and failure.
type Stamp struct {
	// Set by the API for a user.
	Name       StampName                  `json:"name"`
	UID        string                     `json:"uid"` // tells this stamp from a later one of the same name
	Product    ProductName                `json:"product"`
	Version    string                     `json:"version"` // of the release
	Release    Digest                     `json:"release"`
	Bundle     Digest                     `json:"bundle"`
	Modules    []ModuleName               `json:"modules,omitempty"`
	Settings   map[string]json.RawMessage `json:"settings,omitempty"` // public ones only
	Labels     map[string]string          `json:"labels,omitempty"`
	Desired    Desired                    `json:"desired"`
	Generation int64                      `json:"generation"` // grows with every change to what should run
	Restarted  int64                      `json:"restarted,omitempty"`
	Created    time.Time                  `json:"created"`
	Updated    time.Time                  `json:"updated"`
	Deleted    *time.Time                 `json:"deleted,omitempty"` // when deletion was asked; data is kept until it ran out
	Purge      bool                       `json:"purge,omitempty"`   // delete the data too
	// Request holds the ids of the requests that last changed the stamp, a line each with
	// what they did: who asks again, having heard no answer, is told that it is done.
	Request string `json:"request,omitempty"`

	// Services is the frozen effective configuration.
	Services []Service   `json:"services"`
	Volumes  []Volume    `json:"volumes,omitempty"`
	Routes   []RouteRule `json:"routes,omitempty"`
	Hosts    []Host      `json:"hosts"` // the stamp's own host names, the first is the main one

	// Terms are what the user asks of the place, ReleaseTerms what the release does.
	Terms        Terms `json:"terms,omitzero"`
	ReleaseTerms Terms `json:"releaseTerms,omitzero"`

	// Sealed holds the values of secret settings, encrypted under the cluster's
	// sealing key and bound to UID. It never leaves the API.
	Sealed []byte `json:"sealed,omitempty"`
	// SecretVersions grow when the value of a secret setting changes, so that a
	// change of value replaces the tasks that use it.
	SecretVersions map[string]int64 `json:"secretVersions,omitempty"`

	// Set by the controller.
	Node NodeName `json:"node,omitempty"`
	// Former are the nodes that had it before, the latest last, the node that has it now
	// perhaps among them. When it is purged, they are told.
	Former []Membership `json:"former,omitempty"`
	// Epoch fences writers: it grows with every grant of the stamp to a node, and when
	// a grant is taken back; whoever acts under an older one is refused.
	Epoch     int64  `json:"epoch,omitempty"`
	Placement string `json:"placement,omitempty"` // why that node, or why none
	// Units are the stamp's shares of its node's extras, by name.
	Units map[string][]UnitShare `json:"units,omitempty"`
	// Preempted says who took the stamp's room and why; while it is set the stamp is
	// stopped where it is, and keeps its data.
	Preempted string `json:"preempted,omitempty"`
	// Transfer is the move that is under way; nil: none. The API begins one for a user
	// and marks it cancelled by taking it away; every other step is the controller's.
	Transfer *Transfer `json:"transfer,omitempty"`
	// Transferred is how the last one ended; nil: there was none.
	Transferred *Transferred `json:"transferred,omitempty"`
	// Copy is the ID of the move that brought the stamp's data to Node: that copy is
	// what it runs on, and no other. Empty: its data was made there.
	Copy string `json:"copy,omitempty"`
}

// Addressed are the host names that lead to the stamp: its main one, and those
// that routes put a prefix to.
func (s Stamp) Addressed() []Host {
	if len(s.Hosts) == 0 {
		return nil
	}
	out := []Host{s.Hosts[0]}
	for _, r := range s.Routes {
		if h := Host(r.Prefix + "." + string(s.Hosts[0])); r.Prefix != "" && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// Desired is what a user wants of a stamp.
type Desired string

const (
	DesiredRunning Desired = "running"
	DesiredStopped Desired = "stopped"
	DesiredDeleted Desired = "deleted"
)

// KeepDeleted is how long the data of a deleted stamp is kept.
const KeepDeleted = 30 * 24 * time.Hour

// Phase sums up a stamp for people.
type Phase string

const (
	PhasePending  Phase = "pending"  // not placed yet, or its node has not answered
	PhaseStarting Phase = "starting" // tasks are on their way
	PhaseRunning  Phase = "running"  // every service is up and healthy
	PhaseDegraded Phase = "degraded" // was up; some service is not
	PhaseFailed   Phase = "failed"   // a task can never start: Message says why
	PhaseStopping Phase = "stopping"
	PhaseStopped  Phase = "stopped"
	PhaseDeleting Phase = "deleting"
	PhaseDeleted  Phase = "deleted" // gone; data kept until KeepDeleted has passed
)

// StampStatus is what the stamp's node reports. Only that node's session writes it.
type StampStatus struct {
	Name       StampName  `json:"name"`
	UID        string     `json:"uid"`
	Node       NodeName   `json:"node"`
	Epoch      int64      `json:"epoch"`
	Generation int64      `json:"generation"` // that Tasks answer to
	Phase      Phase      `json:"phase"`
	Message    string     `json:"message,omitempty"` // one line; why it is not running
	Tasks      []Task     `json:"tasks,omitempty"`   // by name, living ones and each slot's last dead one
	Ready      *time.Time `json:"ready,omitempty"`   // when this generation was first up
}

// Volume is a named volume of a stamp.
type Volume struct {
	Name   VolumeName        `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Assignment is everything a node needs to run a stamp, without asking anybody.
type Assignment struct {
	Stamp   Stamp             `json:"stamp"`             // Sealed is empty
	Secrets map[string]string `json:"secrets,omitempty"` // values of secret settings
	// Completed are tasks that have done what they had to do where the stamp was before:
	// they are not done again.
	Completed []Task `json:"completed,omitempty"`
}
