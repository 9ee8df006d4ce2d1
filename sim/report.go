package sim

import "runtime"

// Report is what Run measures. Times are in seconds, memory in bytes; seconds of a
// process are of its use of a processor.
type Report struct {
	Nodes   int     `json:"nodes"`
	Silent  int     `json:"silent"`
	Edges   int     `json:"edges"`
	Clients int     `json:"clients"`
	Cores   int     `json:"cores"`
	Load    string  `json:"load"` // average of the minute before
	Join    Join    `json:"join"`
	Rest    Rest    `json:"rest"`
	Place   Place   `json:"place,omitzero"`
	Settle  Settle  `json:"settle,omitzero"`
	Restart Restart `json:"restart,omitzero"`
}

// Join is how the nodes came.
type Join struct {
	Seconds        float64 `json:"seconds"` // from the first to when all sessions have begun
	NodesPerSecond float64 `json:"nodesPerSecond"`
	ServerSeconds  float64 `json:"serverSeconds"`
}

// Rest is what they cost while nothing happens.
type Rest struct {
	ServerCores  float64 `json:"serverCores"`
	ServerMemory int64   `json:"serverMemory"`
	NodesMemory  int64   `json:"nodesMemory"`
}

// Place is how stamps were created and placed.
type Place struct {
	Stamps          int     `json:"stamps"`
	Seconds         float64 `json:"seconds"`
	PerSecond       float64 `json:"perSecond"`
	PerServerSecond float64 `json:"perServerSecond"`
	BatchMedian     float64 `json:"batchMedian"`
	ServerSeconds   float64 `json:"serverSeconds"`
	ClientSeconds   float64 `json:"clientSeconds"`
	NodesSeconds    float64 `json:"nodesSeconds"`
}

// Settle is how they came to run.
type Settle struct {
	Seconds      float64 `json:"seconds"` // after the last was placed
	ServerMemory int64   `json:"serverMemory"`
	NodesMemory  int64   `json:"nodesMemory"`
}

// Restart is how the farm took that its server was killed.
type Restart struct {
	OutageSeconds float64 `json:"outageSeconds"`
	UpSeconds     float64 `json:"upSeconds"`     // from its start until the server answers
	BackSeconds   float64 `json:"backSeconds"`   // until every node has its session again
	SteadySeconds float64 `json:"steadySeconds"` // until the server knows that all is as it was
	ServerSeconds float64 `json:"serverSeconds"`
	Sessions      int64   `json:"sessions"` // opened
	Refused       int64   `json:"refused"`  // attempts that failed, during the outage and after it
	Touched       int64   `json:"touched"`  // changes to what runs: there should be none
	ServerMemory  int64   `json:"serverMemory"`
}

func newReport(c Config) *Report {
	return &Report{Nodes: c.Fleet.Nodes, Silent: c.Fleet.Silent, Edges: c.Fleet.Edges, Clients: c.Clients, Cores: runtime.NumCPU(), Load: load()}
}
