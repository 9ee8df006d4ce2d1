package bulkhead

import "time"

// Node is a machine of the farm, as it reports itself.
type Node struct {
	Name     NodeName          `json:"name"`
	Region   string            `json:"region,omitempty"`
	Zone     string            `json:"zone,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Version  string            `json:"version"`  // of Bulkhead
	Platform string            `json:"platform"` // "linux/amd64"
	Kernel   string            `json:"kernel"`
	Runtime  string            `json:"runtime"`  // "containerd 1.6.20, runc 1.1.5"
	Capacity Resources         `json:"capacity"` // what tasks may use: the machine's less the reserve
	Joined   time.Time         `json:"joined"`

	// Set by the server.
	State NodeState `json:"state"`
	Seen  time.Time `json:"seen"`
}

// NodeState says whether the node's session is open.
type NodeState string

const (
	NodeReady       NodeState = "ready"
	NodeUnreachable NodeState = "unreachable"
)

// Resources are amounts that placement adds up.
type Resources struct {
	CPU    float64 `json:"cpu"`    // cores
	Memory int64   `json:"memory"` // bytes
	Disk   int64   `json:"disk"`   // bytes
	PIDs   int64   `json:"pids"`
}
