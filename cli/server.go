package cli

import "github.com/spf13/cobra"

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
