package cli

import (
	"time"

	"bulkhead/api"

	"github.com/spf13/cobra"
)

func (c *command) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Tokens, by which machines join and operators are let in: create, list, revoke", Aliases: []string{"tokens"}}
	cmd.AddCommand(c.tokenCreate(), c.tokenList(), c.tokenRevoke())
	return family(cmd)
}

func (c *command) tokenCreate() *cobra.Command {
	var spec api.TokenSpec
	var labels []string
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token by which one machine joins, once, or one for an operator",
		Long: `Make a token. One for a node or a server lets one machine join, once, within ten
minutes; --region, --zone and --label bind the node: it has them whatever it says of
itself, and is not let in if it says otherwise. One for an admin, who may do everything,
or a viewer, who looks, lets the operator of that name use the API until it is revoked, or
runs out by --ttl.

A token is shown now and never again.`,
		Example: `  bulkhead token create                                     for a node
  bulkhead token create --region eu --label disk=ssd          for a node that is to be these
  bulkhead token create --role viewer --name ann --ttl 720h   for an operator`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			verb, machine := map[string]string{"node": "agent", "server": "server"}[spec.Role]
			if !machine && spec.Role != "admin" && spec.Role != "viewer" {
				return usage(cmd, "role %q is none of node, server, admin and viewer", spec.Role)
			}
			if !machine && spec.Name == "" {
				return usage(cmd, "a token for an operator needs a name: --name")
			}
			var err error
			if spec.Bound.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			t, err := c.client().CreateToken(cmd.Context(), spec)
			if err != nil {
				return err
			}
			return c.print(t, func() {
				c.say("%s", t.Token)
				if machine {
					c.say("for one %s, once, until %s", t.Role, t.Expires.UTC().Format("15:04:05Z"))
					if !t.Bound.IsZero() {
						c.say("which is bound to %s", t.Bound)
					}
					c.next("on the other machine: bulkhead %s --join %s --token TOKEN", verb, t.Join)
					return
				}
				c.say("for %s, whose role is %s, until %s", t.Name, t.Role, lifeEnd(t.Expires, "it is revoked: bulkhead token revoke "+t.ID))
				c.next("on their machine: export BULKHEAD_TOKEN=TOKEN")
			})
		},
	}
	cmd.Flags().StringVar(&spec.Role, "role", "node", "what the machine will be: node or server; or what the operator may do: admin or viewer")
	cmd.Flags().StringVar(&spec.Name, "name", "", "name of the operator")
	cmd.Flags().StringVar(&spec.Valid, "ttl", "", "for how long, such as 720h (default: 10m for a machine, at most 24h; without end for an operator)")
	cmd.Flags().StringVar(&spec.Valid, "valid", "", "the same, by its earlier name")
	cmd.Flags().StringVar(&spec.Bound.Region, "region", "", "region that the node will have, whatever it says itself")
	cmd.Flags().StringVar(&spec.Bound.Zone, "zone", "", "likewise its zone")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "likewise a label, NAME=VALUE; may be repeated")
	_ = cmd.Flags().MarkHidden("valid") // there is such a flag
	return cmd
}

// lifeEnd is when a token runs out, or what else if it does not.
func lifeEnd(expires time.Time, never string) string {
	if expires.IsZero() {
		return never
	}
	return expires.UTC().Format("2006-01-02 15:04:05Z")
}

func (c *command) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens, without their secrets", Aliases: []string{"ls"}, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tokens, err := c.client().Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(tokens, func() {
				t := newTable(2, "ID", "ROLE", "NAME", "STATE", "AGE", "EXPIRES", "BY", "BINDS")
				for _, k := range tokens {
					t.add(k.ID, k.Role, k.Name, k.State, c.age(k.Created), lifeEnd(k.Expires, "never"), k.By, k.Bound.String())
				}
				c.table(t)
			})
		},
	}
}

func (c *command) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID|NAME", Short: "Make a token useless, from the next request on; a machine that joined by it stays", Args: exactly("ID or NAME"),
		Long: `Make a token useless, by its id, or by the name of an operator who has no other. No
server answers to it from then on. A machine that joined by it stays: bulkhead node
remove. The last token of an admin is kept.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return usage(cmd, "ID or NAME is empty")
			}
			if err := c.client().RevokeToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			return c.print(map[string]string{"revoked": args[0]}, func() { c.say("token %s is revoked", args[0]) })
		},
	}
}
