package cli

import (
	"context"
	"time"

	"bulkhead/api"

	"github.com/spf13/cobra"
)

// complete offers values of a flag to the shell, from the API if it answers.
func (c *command) complete(cmd *cobra.Command, flag string, values func(ctx context.Context, cl *api.Client) []string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return c.ask(cmd, values), cobra.ShellCompDirectiveNoFileComp
	})
}

func (c *command) ask(cmd *cobra.Command, values func(ctx context.Context, cl *api.Client) []string) []string {
	if c.configure(cmd) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 2*time.Second)
	defer cancel()
	return values(ctx, c.client())
}

// stampNames completes the names of stamps.
func (c *command) stampNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return c.ask(cmd, func(ctx context.Context, cl *api.Client) []string {
		stamps, _ := cl.Stamps(ctx, api.StampQuery{Deleted: true}) // a shell completes what it can
		var out []string
		for _, s := range stamps {
			out = append(out, string(s.Name))
		}
		return out
	}), cobra.ShellCompDirectiveNoFileComp
}

func productNames(ctx context.Context, cl *api.Client) []string {
	products, _ := cl.Products(ctx) // a shell completes what it can
	var out []string
	for _, p := range products {
		out = append(out, string(p.Name))
	}
	return out
}
