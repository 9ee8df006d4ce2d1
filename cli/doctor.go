package cli

import (
	"bulkhead"

	"github.com/spf13/cobra"
)

// Finding is the outcome of one check of doctor.
type Finding struct {
	Check   string       `json:"check"`         // "containerd"
	State   FindingState `json:"state"`         //
	Message string       `json:"message"`       // what was found: "1.6.20"
	Fix     string       `json:"fix,omitempty"` // what to do; empty when it is fine
}

// FindingState grades a Finding.
type FindingState string

const (
	FindingOK      FindingState = "ok"
	FindingWarning FindingState = "warning" // works, with a limit
	FindingFailed  FindingState = "failed"  // up would not work
)

func (c *command) doctorCommand() *cobra.Command {
	o := UpOptions{Server: true, Agent: true}
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run Bulkhead, and how to mend it", Args: exactly(),
		Long: "Check what `bulkhead up` with the same flags needs of this machine. The exit code is 1 when something is missing.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.env.Doctor == nil {
				return bulkhead.Errorf(bulkhead.ErrUnavailable, "this build of bulkhead runs no server").WithHint("servers run on Linux")
			}
			if err := c.validate(&o); err != nil {
				return err
			}
			findings := c.env.Doctor(cmd.Context(), o)
			failed := 0
			for _, f := range findings {
				if f.State == FindingFailed {
					failed++
				}
			}
			err := c.print(notNil(findings), func() {
				colours := map[FindingState]colour{FindingOK: green, FindingWarning: yellow, FindingFailed: red}
				t := newTable(2, "CHECK", "STATE", "FOUND")
				for _, f := range findings {
					t.add(f.Check, cell{string(f.State), colours[f.State]}, f.Message)
				}
				c.table(t)
				for _, f := range findings {
					if f.Fix != "" {
						c.say("%s %s", c.paint(colours[f.State], f.Check+":"), f.Fix)
					}
				}
				if failed == 0 {
					c.next("bulkhead up --detach")
				}
			})
			if err == nil && failed > 0 {
				return exitStatus(exitError)
			}
			return err
		},
	}
	c.upFlags(cmd, &o)
	return cmd
}
