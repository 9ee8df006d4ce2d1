package cli

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead"

	"github.com/spf13/cobra"
)

func (c *command) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "The cluster at a glance", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(s, func() {
				c.say("Bulkhead %s at %s, domain %s", s.Version, c.client().Base(), s.Domain)
				c.say("products  %d (%s)", s.Products, count(s.Releases, "release"))
				c.say("stamps    %s", tally(s.Stamps))
				c.say("nodes     %s", tally(s.Nodes))
				if len(s.Troubles) > 0 {
					c.say("")
					t := newTable(1, "NEEDS ATTENTION", "WHY")
					for _, trouble := range s.Troubles {
						t.add(cell{cmp.Or(string(trouble.Stamp), string(trouble.Node), "-"), yellow}, trouble.Message)
					}
					c.table(t)
				}
				if s.Releases == 0 {
					c.next("bulkhead release publish DIR")
				}
			})
		},
	}
}

// tally writes counts by name: "3: 2 running, 1 failed".
func tally[K ~string](counts map[K]int) string {
	total := 0
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		total += counts[key]
		parts = append(parts, strconv.Itoa(counts[key])+" "+string(key))
	}
	if total == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func (c *command) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Version of this command and of the server", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			out := struct {
				Client string `json:"client"`
				Server string `json:"server,omitempty"`
			}{Client: c.env.Version}
			v, err := c.client().Version(ctx)
			if err == nil {
				out.Server = v.Version
			}
			return c.print(out, func() {
				c.say("bulkhead %s", out.Client)
				switch {
				case err == nil:
					c.say("server   %s at %s", out.Server, c.client().Base())
				case bulkhead.KindOf(err) == bulkhead.ErrUnavailable:
					c.say("server   does not answer at %s", c.client().Base())
				default:
					c.say("server   %s", err)
				}
			})
		},
	}
}
