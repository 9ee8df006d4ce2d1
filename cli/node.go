package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bulkhead"
	"bulkhead/api"

	"github.com/spf13/cobra"
)

func (c *command) nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Nodes of the farm: list, show, label, cordon, drain, remove", Aliases: []string{"nodes"}}
	cmd.AddCommand(c.nodeList(), c.nodeShow(), c.nodeLabel(), c.nodeCordon(true), c.nodeCordon(false), c.nodeDrain(), c.nodeUndrain(), c.nodeRemove())
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
				t := newTable(7, "NAME", "STATE", "REGION", "STAMPS", "CPU", "MEMORY", "VERSION", "RUNTIME", "AGE")
				for _, n := range nodes {
					t.add(string(n.Name), nodeCell(n.Node), n.Region, len(n.Stamps), fmt.Sprintf("%g", n.Capacity.CPU), size(n.Capacity.Memory), n.Version, n.Runtime, c.age(n.Joined))
				}
				c.table(t)
			})
		},
	}
}

func nodeCell(n bulkhead.Node) cell {
	switch {
	case n.State != bulkhead.NodeReady:
		return cell{string(n.State), red}
	case n.Draining:
		return cell{"ready, draining", yellow}
	case n.Cordoned:
		return cell{"ready, cordoned", yellow}
	case n.Full:
		return cell{"ready, disk is full", yellow}
	}
	return cell{string(n.State), green}
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
				state := nodeCell(n.Node)
				for _, line := range [][2]string{
					{"name", string(n.Name)},
					{"state", c.paint(state.colour, state.text)},
					{"region", n.Region + bound(n.Bound.Region != "", n.Bound.Region, n.Said.Region)},
					{"zone", n.Zone + bound(n.Bound.Zone != "", n.Bound.Zone, n.Said.Zone)},
					{"labels", labels(n.Node)},
					{"gateway", n.Gateway},
					{"session", string(n.Server)},
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
				for _, a := range n.Aside {
					why := "deleted"
					if a.Moved {
						why = "gone elsewhere"
					}
					c.say("%-10sdata of %s (%s), %s %s, kept until %s", "aside", a.Stamp, a.UID, why, a.Since.Format("2006-01-02 15:04"), a.Until.Format("2006-01-02"))
				}
			})
		},
	}
}

// labels writes a node's labels as they are given.
func labels(n bulkhead.Node) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(n.Labels)) {
		value, is := n.Bound.Labels[name]
		out = append(out, name+"="+n.Labels[name]+bound(is, value, n.Said.Labels[name]))
	}
	return strings.Join(out, ", ")
}

// bound tells of an attribute whether it is, and what else the machine says.
func bound(is bool, value, said string) string {
	switch {
	case !is:
		return ""
	case said != "" && said != value:
		return " (bound; the machine says " + said + ")"
	}
	return " (bound)"
}

func (c *command) nodeLabel() *cobra.Command {
	var region, zone string
	cmd := &cobra.Command{
		Use: "label NAME [LABEL=VALUE | LABEL-]...", Short: "Bind a node's labels, region and zone, whatever it says of itself",
		Long: `Bind a node's labels, region and zone: they hold, whatever the machine says of itself.
LABEL- leaves a label to the machine again, and an empty region or zone likewise. No
stamp moves because of it; bulkhead plan placement lists those that should.`,
		Example: `  bulkhead node label n3 disk=ssd gpu- --region eu`,
		Args:    between(1, 2*bulkhead.MaxLabels, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var u api.NodeUpdate
			var set []string
			for _, text := range args[1:] {
				if label, unset := strings.CutSuffix(text, "-"); unset && !strings.Contains(text, "=") {
					u.Unset = append(u.Unset, label)
				} else {
					set = append(set, text)
				}
			}
			var err error
			if u.Labels, err = parseLabels(set); err != nil {
				return err
			}
			if cmd.Flags().Changed("region") {
				u.Region = &region
			}
			if cmd.Flags().Changed("zone") {
				u.Zone = &zone
			}
			if len(args) == 1 && u.Region == nil && u.Zone == nil {
				return usage(cmd, "nothing to bind: give LABEL=VALUE, LABEL-, --region or --zone")
			}
			n, err := c.client().UpdateNode(cmd.Context(), args[0], u)
			if err != nil {
				return err
			}
			return c.print(n, func() { c.say("node %s is bound to %s", n.Name, cmp.Or(n.Bound.String(), "nothing")) })
		},
	}
	cmd.Flags().StringVar(&region, "region", "", "its region; empty: as the machine says")
	cmd.Flags().StringVar(&zone, "zone", "", "its zone; empty: as the machine says")
	return cmd
}

// parseLabels reads labels, NAME=VALUE each.
func parseLabels(texts []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range texts {
		name, value, err := bulkhead.ParseLabel(text)
		if err != nil {
			return nil, err
		}
		out[name] = value
	}
	return out, nil
}

func (c *command) nodeCordon(cordoned bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: "cordon NAME", Short: "Keep new stamps off a node; those on it stay",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := c.client().CordonNode(cmd.Context(), args[0], cordoned)
			if err != nil {
				return err
			}
			return c.print(n, func() {
				if cordoned {
					c.say("node %s takes no new stamps; it keeps %s", n.Name, count(len(n.Stamps), "stamp"))
				} else {
					c.say("node %s takes new stamps", n.Name)
				}
			})
		},
	}
	if !cordoned {
		cmd.Use, cmd.Short = "uncordon NAME", "Let new stamps on a node again"
	}
	return cmd
}

func (c *command) nodeRemove() *cobra.Command {
	var loseData, yes bool
	cmd := &cobra.Command{
		Use: "remove NAME", Short: "Remove a node from the farm; its certificate opens nothing any more",
		Long: `Remove a node from the farm. Its certificate opens nothing from then on. Stamps
without data are placed elsewhere. A node that has the data of a stamp is kept,
unless --lose-data says that the data may be given up; one that is up and has stamps
has to be cordoned first.`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if loseData && !yes {
				if err := c.confirm(args[0], "This gives up the data of every stamp on node "+args[0]+"."); err != nil {
					return err
				}
			}
			out, err := c.client().RemoveNode(cmd.Context(), args[0], loseData)
			if err != nil {
				return err
			}
			return c.print(out, func() {
				c.say("node %s is removed; %s placed elsewhere, data of %d lost", out.Node, count(len(out.Moved), "stamp"), len(out.Lost))
			})
		},
	}
	cmd.Flags().BoolVar(&loseData, "lose-data", false, "give up the data of stamps that are on it; asks first")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --lose-data: do not ask")
	return cmd
}
