package bulkhead

import "time"

// Service is what a stamp runs for one service of its product, effective and
// frozen: variables filled in, defaults applied, image pinned. Values of secret
// settings are never in it; SecretRef stands in their place.
//
// The zero value of a field means what Compose means by leaving it out, except
// for budgets, which always have a value (see Budget).
type Service struct {
	Name     ServiceName `json:"name"`
	Image    Image       `json:"image"`
	Replicas int         `json:"replicas"` // tasks; 0 is allowed and runs none

	Entrypoint  []string          `json:"entrypoint,omitempty"` // nil: the image's
	Command     []string          `json:"command,omitempty"`    // nil: the image's
	Environment map[string]string `json:"environment,omitempty"`
	WorkingDir  string            `json:"workingDir,omitempty"`
	User        string            `json:"user,omitempty"`
	Hostname    string            `json:"hostname,omitempty"` // default: the service's label
	Labels      map[string]string `json:"labels,omitempty"`

	Mounts     []Mount           `json:"mounts,omitempty"`
	Networks   []Attachment      `json:"networks"` // at least one
	ExtraHosts map[string]string `json:"extraHosts,omitempty"`
	Ports      []int             `json:"ports,omitempty"` // container ports published or exposed, TCP

	DependsOn []Dependency `json:"dependsOn,omitempty"`
	Health    *Health      `json:"health,omitempty"` // nil: the image's; none if that has none
	Restart   Restart      `json:"restart"`

	Budget    Budget            `json:"budget"`
	Ulimits   map[string]Ulimit `json:"ulimits,omitempty"`
	CapDrop   []string          `json:"capDrop,omitempty"`
	ReadOnly  bool              `json:"readOnly,omitempty"` // the root file system
	Init      bool              `json:"init,omitempty"`
	StopSign  string            `json:"stopSignal,omitempty"` // "SIGTERM" by default
	StopGrace time.Duration     `json:"stopGrace"`            // 10 s by default

	// Secrets names the secret settings whose SecretRef occurs in this service.
	Secrets []string `json:"secrets,omitempty"`
}

// SecretRef is what stands for the value of a secret setting in a Service until
// the agent puts the value in, in memory, while it creates a task.
func SecretRef(setting string) string { return "\u27e6secret:" + setting + "\u27e7" }

// MountKind says where the content of a mount comes from.
type MountKind string

const (
	MountVolume MountKind = "volume" // a named volume of the stamp: Source is its VolumeName
	MountFile   MountKind = "file"   // a file or folder of the release's bundle, read-only: Source is its path
	MountInline MountKind = "inline" // Content, written by the agent (configs and secrets)
	MountTmpfs  MountKind = "tmpfs"
)

// Mount puts content at Target in a task's file system.
type Mount struct {
	Kind     MountKind `json:"kind"`
	Source   string    `json:"source,omitempty"`
	Subpath  string    `json:"subpath,omitempty"` // within a volume
	Target   string    `json:"target"`            // absolute
	ReadOnly bool      `json:"readOnly,omitempty"`
	NoCopy   bool      `json:"noCopy,omitempty"` // do not fill a new volume from the image
	// Content is what a MountInline holds; it may have SecretRefs in it. Of
	// a MountFile it is the digest of what is mounted, so that a release that
	// changes it changes the service.
	Content string `json:"content,omitempty"`
	Mode    uint32 `json:"mode,omitempty"` // permission bits; 0: 0444
	UID     int    `json:"uid,omitempty"`
	GID     int    `json:"gid,omitempty"`
	Size    int64  `json:"size,omitempty"` // bytes, tmpfs; 0: 64 MiB
}

// Attachment makes a service known under its name and Aliases to the services
// that share Network.
type Attachment struct {
	Network NetworkName `json:"network"`
	Aliases []string    `json:"aliases,omitempty"`
}

// Condition is what a dependency must have reached.
type Condition string

const (
	ConditionStarted   Condition = "service_started"
	ConditionHealthy   Condition = "service_healthy"
	ConditionCompleted Condition = "service_completed_successfully"
)

// Dependency is one edge of depends_on.
type Dependency struct {
	Service   ServiceName `json:"service"`
	Condition Condition   `json:"condition"`
	Required  bool        `json:"required"`          // false: an absent service does not matter
	Restart   bool        `json:"restart,omitempty"` // replace this service's tasks when that one's are updated
}

// Health is how a task is probed. A probe that exits 0 within Timeout succeeds.
type Health struct {
	// Test is a command and its arguments; {"CMD-SHELL", "..."} runs by
	// /bin/sh -c, {"CMD", ...} runs directly, {"NONE"} turns the image's off.
	Test     []string      `json:"test"`
	Interval time.Duration `json:"interval"` // 30 s by default
	Timeout  time.Duration `json:"timeout"`  // 30 s by default
	Retries  int           `json:"retries"`  // failures in a row that make a task unhealthy; 3 by default
	// StartPeriod is how long failures after the start do not count.
	StartPeriod time.Duration `json:"startPeriod"`
	// StartInterval is the pause between probes until the first success. Zero
	// lets the agent probe at 50 ms and double up to Interval.
	StartInterval time.Duration `json:"startInterval,omitempty"`
}

// Restart says what follows when a task exits by itself.
type Restart struct {
	// Policy is "no", "on-failure" or "always". ("unless-stopped" is "always":
	// a stamp is stopped as a whole.)
	Policy string `json:"policy"`
	// Attempts bounds restarts of "on-failure"; 0 is no bound.
	Attempts int           `json:"attempts,omitempty"`
	Delay    time.Duration `json:"delay,omitempty"` // least pause; the agent's back-off applies above it
}

const (
	RestartNo        = "no"
	RestartOnFailure = "on-failure"
	RestartAlways    = "always"
)

// Budget is what one task may use at the most (limits) and what placement
// counts for it (requests).
type Budget struct {
	CPU           float64 `json:"cpu"`           // cores, limit
	CPURequest    float64 `json:"cpuRequest"`    // cores
	Memory        int64   `json:"memory"`        // bytes, limit
	MemoryRequest int64   `json:"memoryRequest"` // bytes
	PIDs          int64   `json:"pids"`          // processes and threads
	// Extras are counted for placement alone; nothing is handed to the task.
	Extras map[string]float64 `json:"extras,omitempty"`
}

// DefaultBudget is what a task of a service that names no budget gets. It requests
// little, because most services of most stamps rest most of the time: 400 of them
// fit on two cores.
func DefaultBudget() Budget {
	return Budget{CPU: 1, CPURequest: 0.005, Memory: 512 << 20, MemoryRequest: 32 << 20, PIDs: 512}
}

// Ulimit is one resource limit of a process, as setrlimit(2) has them.
type Ulimit struct {
	Soft int64 `json:"soft"`
	Hard int64 `json:"hard"`
}
