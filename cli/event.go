package cli

import (
	"cmp"
	"fmt"

	"bulkhead"
	"bulkhead/api"

	"github.com/spf13/cobra"
)

func (c *command) eventsCommand() *cobra.Command {
	q := api.EventQuery{}
	cmd := &cobra.Command{
		Use: "events", Short: "What happened, and why", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.client().Events(cmd.Context(), q, func(e bulkhead.Event) error {
				return c.printLine(e, func() {
					subject := cmp.Or(string(e.Task), string(e.Stamp), string(e.Node), "-")
					by := ""
					if e.Actor != "" {
						by = c.paint(faint, " (by "+e.Actor+")")
					}
					fmt.Fprintf(c.env.Stdout, "%s  %-18s  %-20s  %s%s\n", c.paint(faint, e.Time.Local().Format("2006-01-02 15:04:05")), e.Type, subject, oneLine(e.Message), by)
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on with new events")
	cmd.Flags().StringVar(&q.Stamp, "stamp", "", "only of this stamp")
	cmd.Flags().IntVar(&q.Limit, "limit", 200, "the latest so many; 0: all that are kept")
	_ = cmd.RegisterFlagCompletionFunc("stamp", c.stampNames)
	return cmd
}
