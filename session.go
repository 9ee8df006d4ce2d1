package bulkhead

// NodeOrder is one message from the servers to a node, over its session. The
// first orders of a session carry every assignment of the node and end with
// Synced: what the node runs beyond them is not its own any more.
type NodeOrder struct {
	Assign *Assignment    `json:"assign,omitempty"` // run, stop or delete this stamp, as its Desired says
	Forget *StampRef      `json:"forget,omitempty"` // the stamp is no longer this node's
	Purge  *StampRef      `json:"purge,omitempty"`  // destroy whatever is left of the stamp, and say when it is done
	Synced bool           `json:"synced,omitempty"`
	Stream *StreamRequest `json:"stream,omitempty"` // dial back with a stream

	Fetch   *Fetch    `json:"fetch,omitempty"`   // copy a stamp that is to come to the node; those before Synced are all
	Unfetch string    `json:"unfetch,omitempty"` // the move of that ID is over; the stamp did not come
	Farm    *FarmNews `json:"farm,omitempty"`    // for the node's gateway
	Servers []string  `json:"servers,omitempty"` // all node APIs, HOST:PORT
	// Removed: the node is no longer of the farm. It ends what it runs, keeps the
	// data, and does not come back.
	Removed bool `json:"removed,omitempty"`
}

// FarmNews is what a node's gateway needs of the rest of the farm. All nodes are told
// the same, so it speaks of the node that hears it, too. A node that is Inner hears
// of no places, and only of the peers that may call it.
type FarmNews struct {
	All    bool        `json:"all,omitempty"`    // it is all there is: what it does not name is gone
	Places []Place     `json:"places,omitempty"` // where stamps are
	Left   []StampName `json:"left,omitempty"`   // stamps that are nowhere any more
	Peers  []Peer      `json:"peers,omitempty"`  // nodes whose gateways can be reached
	Gone   []NodeName  `json:"gone,omitempty"`   // nodes whose gateways cannot be reached any more
}

// Place is where a stamp is, for the gateways of other nodes. It tells nothing
// else of the stamp.
type Place struct {
	StampRef
	Node  NodeName `json:"node"`
	Hosts []Host   `json:"hosts,omitempty"`
}

// Peer is a node as the gateways of others reach it.
type Peer struct {
	Node    NodeName `json:"node"`
	UID     string   `json:"uid"`
	Gateway string   `json:"gateway"` // HOST:PORT, mutual TLS
}

// StampRef names one life of a stamp.
type StampRef struct {
	Name  StampName `json:"name"`
	UID   string    `json:"uid"`
	Epoch int64     `json:"epoch"`
}

// NodeReport is one message from a node to the servers, over its session.
type NodeReport struct {
	Node *Node `json:"node,omitempty"` // first, and when it changes
	// Holds, beside Node, is what the node has: the servers end there what they know
	// to be elsewhere by now.
	Holds  []StampRef   `json:"holds,omitempty"`
	Status *StampStatus `json:"status,omitempty"`
	Event  *Event       `json:"event,omitempty"`
	// Arrival answers a Fetch.
	Arrival *Arrival `json:"arrival,omitempty"`
	// Purged answers Purge: nothing is left of the stamp.
	Purged *StampRef `json:"purged,omitempty"`
}

// StreamRequest asks a node to open a stream for a user: log lines or a command
// in a task. The node dials the server back with ID.
type StreamRequest struct {
	ID string `json:"id"`
	// At is the node API to dial back to, if not the one that the session is with.
	At   string       `json:"at,omitempty"`
	Logs *LogQuery    `json:"logs,omitempty"`
	Exec *ExecRequest `json:"exec,omitempty"`
}
