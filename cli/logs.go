package cli

import (
	"fmt"
	"strings"
	"time"

	"bulkhead"

	"github.com/spf13/cobra"
)

func (c *command) stampLogs() *cobra.Command {
	var q bulkhead.LogQuery
	var since, service string
	cmd := &cobra.Command{
		Use: "logs NAME [SERVICE]", Short: "What a stamp's tasks wrote", Args: between(1, 2, "NAME [SERVICE]"), ValidArgsFunction: c.stampNames,
		Example: "  bulkhead stamp logs acme -f\n  bulkhead stamp logs acme web --since 10m",
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Stamp, q.Service = bulkhead.StampName(args[0]), bulkhead.ServiceName(service)
			if len(args) > 1 {
				q.Service = bulkhead.ServiceName(args[1])
			}
			if since != "" {
				t, err := c.moment(cmd, since)
				if err != nil {
					return err
				}
				q.Since = t
			}
			width := 0
			return c.client().Logs(cmd.Context(), q, func(l bulkhead.LogLine) error {
				return c.printLine(l, func() {
					_, name, _ := strings.Cut(l.Task.Name(), ".") // without the stamp
					width = max(width, len(name))
					fmt.Fprintf(c.env.Stdout, "%s %s\n", c.paint(serviceColour(string(l.Service)), fmt.Sprintf("%-*s |", width, name)), l.Text)
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on with new lines")
	cmd.Flags().StringVar(&since, "since", "", "only lines since then: 10m, 2h, or 2026-01-31T15:04:05Z")
	cmd.Flags().IntVar(&q.Tail, "tail", 0, "only the last so many lines (default: all)")
	cmd.Flags().StringVar(&service, "service", "", "only of this service")
	return cmd
}

// moment reads a time, or how long ago it was.
func (c *command) moment(cmd *cobra.Command, s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return c.env.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage(cmd, "--since %q is neither a duration such as 10m nor a time such as 2026-01-31T15:04:05Z", s)
}

// serviceColour gives each service a colour of its own, as far as they go.
func serviceColour(service string) colour {
	palette := []colour{"36", "35", "34", "33", "32", "96", "95", "94"}
	n := 0
	for _, r := range service {
		n = n*31 + int(r)
	}
	return palette[uint(n)%uint(len(palette))]
}
