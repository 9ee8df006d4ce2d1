package cli

import (
	"bulkhead/api"

	"github.com/spf13/cobra"
)

func (c *command) serverList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List servers", Aliases: []string{"ls"}, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			servers, err := c.client().Servers(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(servers, func() {
				t := newTable(4, "NAME", "STATE", "LEADER", "NODE API", "PEER", "VERSION", "AGE")
				for _, s := range servers {
					state := cell{s.State, green}
					switch s.State {
					case "unreachable":
						state.colour = red
					case "learning":
						state.colour = yellow
					}
					leader := ""
					if s.Leader {
						leader = "yes"
					}
					t.add(string(s.Name), state, leader, s.NodeAPI, s.Peer, s.Version, c.age(s.Joined))
				}
				c.table(t)
			})
		},
	}
}

func (c *command) serverRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a server; refused when the others would be no majority", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.client().RemoveServer(cmd.Context(), args[0]); err != nil {
				return err
			}
			return c.print(map[string]string{"removed": args[0]}, func() {
				c.say("server %s is removed; its process ends by itself", args[0])
			})
		},
	}
}

func (c *command) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Tokens by which machines join the farm: create, list, revoke", Aliases: []string{"tokens"}}
	cmd.AddCommand(c.tokenCreate(), c.tokenList(), c.tokenRevoke())
	return family(cmd)
}

func (c *command) tokenCreate() *cobra.Command {
	var spec api.TokenSpec
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token by which one machine joins, once", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			verb := map[string]string{"node": "agent", "server": "server"}[spec.Role]
			if verb == "" {
				return usage(cmd, "role %q is neither node nor server", spec.Role)
			}
			t, err := c.client().CreateToken(cmd.Context(), spec)
			if err != nil {
				return err
			}
			return c.print(t, func() {
				c.say("%s", t.Token)
				c.say("for one %s, once, until %s", t.Role, t.Expires.UTC().Format("15:04:05Z"))
				c.next("on the other machine: bulkhead %s --join %s --token TOKEN", verb, t.Join)
			})
		},
	}
	cmd.Flags().StringVar(&spec.Role, "role", "node", "what the machine will be: node or server")
	cmd.Flags().StringVar(&spec.Valid, "valid", "10m", "for how long; at most 24h")
	return cmd
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
				t := newTable(5, "ID", "ROLE", "STATE", "EXPIRES", "BY", "USED BY")
				for _, k := range tokens {
					t.add(k.ID, k.Role, k.State, k.Expires.UTC().Format("2006-01-02 15:04:05Z"), k.By, string(k.Name))
				}
				c.table(t)
			})
		},
	}
}

func (c *command) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Make a token useless; a machine that joined by it stays", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.client().RevokeToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			return c.print(map[string]string{"revoked": args[0]}, func() { c.say("token %s is revoked", args[0]) })
		},
	}
}
