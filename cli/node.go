package cli

import (
	"fmt"

	"bulkhead"

	"github.com/spf13/cobra"
)

func (c *command) nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Machines of the farm: list, show", Aliases: []string{"nodes"}}
	cmd.AddCommand(c.nodeList(), c.nodeShow())
	return family(cmd)
}

func (c *command) nodeList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List nodes", Aliases: []string{"ls"}, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes, err := c.client().Nodes(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(nodes, func() {
				t := newTable(6, "NAME", "STATE", "STAMPS", "CPU", "MEMORY", "VERSION", "RUNTIME", "AGE")
				for _, n := range nodes {
					t.add(string(n.Name), nodeCell(n.State), len(n.Stamps), fmt.Sprintf("%g", n.Capacity.CPU), size(n.Capacity.Memory), n.Version, n.Runtime, c.age(n.Joined))
				}
				c.table(t)
			})
		},
	}
}

func nodeCell(s bulkhead.NodeState) cell {
	if s == bulkhead.NodeReady {
		return cell{string(s), green}
	}
	return cell{string(s), red}
}

func (c *command) nodeShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a node and what is on it", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := c.client().Node(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(n, func() {
				state := nodeCell(n.State)
				for _, line := range [][2]string{
					{"name", string(n.Name)},
					{"state", c.paint(state.colour, state.text)},
					{"region", n.Region},
					{"zone", n.Zone},
					{"version", n.Version},
					{"platform", n.Platform},
					{"kernel", n.Kernel},
					{"runtime", n.Runtime},
					{"cpu", fmt.Sprintf("%g cores", n.Capacity.CPU)},
					{"memory", size(n.Capacity.Memory)},
					{"disk", size(n.Capacity.Disk)},
					{"joined", c.age(n.Joined) + " ago"},
					{"seen", c.age(n.Seen) + " ago"},
					{"stamps", names(n.Stamps)},
				} {
					if line[1] != "" {
						c.say("%-10s%s", line[0], line[1])
					}
				}
			})
		},
	}
}
