package bulkhead

import "time"

// LogQuery selects lines of a stamp's logs.
type LogQuery struct {
	Stamp   StampName   `json:"stamp"`
	Service ServiceName `json:"service,omitempty"` // empty: all
	Since   time.Time   `json:"since,omitzero"`
	Tail    int         `json:"tail,omitempty"` // only the last so many lines; 0: all
	Follow  bool        `json:"follow,omitempty"`
}

// LogLine is one line that a task wrote, without its newline.
type LogLine struct {
	Time    time.Time   `json:"time"` // when the node read it
	Service ServiceName `json:"service"`
	Task    TaskID      `json:"task"`
	Text    string      `json:"text"`
}

// ExecRequest runs a command in a running task of a service.
type ExecRequest struct {
	Stamp   StampName   `json:"stamp"`
	Service ServiceName `json:"service"`
	Slot    int         `json:"slot,omitempty"` // 0: any
	Command []string    `json:"command"`
	TTY     bool        `json:"tty,omitempty"`
	Width   uint16      `json:"width,omitempty"`  // columns, with TTY
	Height  uint16      `json:"height,omitempty"` // rows, with TTY
}
