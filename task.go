package bulkhead

import (
	"net/netip"
	"time"
)

// Task is one container of a stamp's service. Its state only moves forward; a
// task is replaced, never revived.
type Task struct {
	ID      TaskID      `json:"id"`
	Stamp   StampName   `json:"stamp"`
	Service ServiceName `json:"service"`
	Slot    int         `json:"slot"` // from 1 to the service's replicas
	// Hash addresses what the task was made from; a task with another hash than
	// its service's is replaced.
	Hash     string     `json:"hash"`
	State    TaskState  `json:"state"`
	Health   TaskHealth `json:"health,omitempty"`
	Address  netip.Addr `json:"address,omitzero"`
	Message  string     `json:"message,omitempty"` // one line: why it is in this state
	ExitCode int        `json:"exitCode"`
	OOM      bool       `json:"oom,omitempty"` // ended by the kernel for memory
	// Restarts counts the tasks that this slot has lost to crashes and probes.
	Restarts int `json:"restarts"`
	// Streak counts the losses in a row that the back-off builds on; a task that
	// ran well for long enough ends it.
	Streak  int       `json:"streak,omitempty"`
	Created time.Time `json:"created"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
}

// TaskState is how far a task has come. The order of the constants is the only
// order in which a task passes them; it may leave some out.
type TaskState int

const (
	TaskPending  TaskState = iota // decided, nothing done
	TaskPrepared                  // image, network, volumes and container are there; not started
	TaskRunning                   // its process was started
	TaskStopping                  // asked to end
	TaskComplete                  // ended with exit code 0
	TaskFailed                    // ended otherwise, or could not start
	TaskRejected                  // can never start as it is: bad image, missing command
)

var taskStates = [...]string{"pending", "prepared", "running", "stopping", "complete", "failed", "rejected"}

func (s TaskState) String() string {
	if s < 0 || int(s) >= len(taskStates) {
		return "unknown"
	}
	return taskStates[s]
}

// MarshalText writes the state's name.
func (s TaskState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the state's name.
func (s *TaskState) UnmarshalText(b []byte) error {
	for i, name := range taskStates {
		if name == string(b) {
			*s = TaskState(i)
			return nil
		}
	}
	return Errorf(ErrInvalid, "task state %q is unknown", b)
}

// Ended tells whether no process is left.
func (s TaskState) Ended() bool { return s >= TaskComplete }

// TaskHealth is what the probes say.
type TaskHealth string

const (
	HealthNone      TaskHealth = ""         // no probe: running is healthy
	HealthStarting  TaskHealth = "starting" // no probe has succeeded yet
	HealthHealthy   TaskHealth = "healthy"
	HealthUnhealthy TaskHealth = "unhealthy"
)

// Healthy tells whether the task may get traffic.
func (t Task) Healthy() bool {
	return t.State == TaskRunning && (t.Health == HealthNone || t.Health == HealthHealthy)
}
