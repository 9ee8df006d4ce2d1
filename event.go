package bulkhead

import "time"

// Event says what happened to a stamp, a node or a release, and why.
type Event struct {
	ID      int64     `json:"id"` // grows; unique in a cluster
	Time    time.Time `json:"time"`
	Type    string    `json:"type"` // "task.failed", "stamp.created": noun.verb in the past
	Stamp   StampName `json:"stamp,omitempty"`
	Node    NodeName  `json:"node,omitempty"`
	Task    TaskID    `json:"task,omitempty"`
	Actor   string    `json:"actor,omitempty"` // who asked for it; empty: the platform itself
	Message string    `json:"message"`
}
