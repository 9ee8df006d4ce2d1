package bulkhead

// NodeOrder is one message from the servers to a node, over its session. The
// first orders of a session carry every assignment of the node and end with
// Synced: what the node runs beyond them is not its own any more.
type NodeOrder struct {
	Assign *Assignment    `json:"assign,omitempty"` // run, stop or delete this stamp, as its Desired says
	Forget *StampRef      `json:"forget,omitempty"` // the stamp is no longer this node's
	Synced bool           `json:"synced,omitempty"`
	Stream *StreamRequest `json:"stream,omitempty"` // dial back with a stream
}

// StampRef names one life of a stamp.
type StampRef struct {
	Name  StampName `json:"name"`
	UID   string    `json:"uid"`
	Epoch int64     `json:"epoch"`
}

// NodeReport is one message from a node to the servers, over its session.
type NodeReport struct {
	Node   *Node        `json:"node,omitempty"` // first, and when it changes
	Status *StampStatus `json:"status,omitempty"`
	Event  *Event       `json:"event,omitempty"`
}

// StreamRequest asks a node to open a stream for a user: log lines or a command
// in a task. The node dials the server back with ID.
type StreamRequest struct {
	ID   string       `json:"id"`
	Logs *LogQuery    `json:"logs,omitempty"`
	Exec *ExecRequest `json:"exec,omitempty"`
}
