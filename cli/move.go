package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"bulkhead"
	"bulkhead/api"

	"github.com/spf13/cobra"
)

func (c *command) stampMove() *cobra.Command {
	var to string
	var cancel, wait, noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "move NAME [--to NODE]",
		Short: "Move a stamp to another node; its requests are held meanwhile, not failed",
		Long: `Move a stamp with its data to another node: the one that is given, or the best. Its
data is copied while it runs; then it stops, what has changed is copied, and it starts
there. Meanwhile its requests are held. What goes wrong before that leaves it where it
is.`,
		Args: exactly("NAME"), ValidArgsFunction: c.stampNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cancel && to != "" {
				return usage(cmd, "--cancel and --to exclude each other")
			}
			if cancel {
				s, err := c.client().CancelMove(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.print(s, func() { c.say("stamp %s stays on %s", s.Name, s.Node) })
			}
			s, err := c.client().MoveStamp(cmd.Context(), args[0], to)
			if err != nil {
				return err
			}
			if noWait || !wait {
				return c.print(s, func() {
					c.say("stamp %s moves", s.Name)
					c.next("bulkhead stamp show %s", s.Name)
				})
			}
			if s, err = c.awaitMove(cmd.Context(), s, timeout); err != nil {
				return err
			}
			return c.print(s, func() { c.say("%s", moved(s.Name, s.Move)) })
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the node to move to (default: the best of all others)")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "end a move that is under way; the stamp stays where it is")
	c.addWaitFlags(cmd, &wait, &noWait, &timeout)
	c.complete(cmd, "to", nodeNames)
	return cmd
}

func nodeNames(ctx context.Context, cl *api.Client) []string {
	nodes, _ := cl.Nodes(ctx) // a shell completes what it can
	var out []string
	for _, n := range nodes {
		out = append(out, string(n.Name))
	}
	return out
}

// moved sums a move up that has ended.
func moved(name bulkhead.StampName, m *api.StampMove) string {
	text := fmt.Sprintf("stamp %s moved from %s to %s", name, m.From, m.To)
	if m.Ended != nil {
		text += " in " + took(m.Ended.Sub(m.Began))
	}
	if m.HeldMS > 0 {
		text += fmt.Sprintf("; requests were held for %.1fs", float64(m.HeldMS)/1000)
	}
	return text + fmt.Sprintf("; %s copied in %s", cmp.Or(size(m.Bytes), "nothing"), passes(m.Passes))
}

func passes(n int) string {
	if n == 1 {
		return "1 pass"
	}
	return fmt.Sprintf("%d passes", n)
}

// lookEvery is how often a move is looked at. It is asked for anew each time: a server
// that dies meanwhile is not noticed.
const lookEvery = 250 * time.Millisecond

// awaitMove waits for the end of a move and tells how it comes along. One that is given
// up is an error.
func (c *command) awaitMove(ctx context.Context, s api.Stamp, timeout time.Duration) (api.Stamp, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, bulkhead.Errorf(bulkhead.ErrUnavailable, "stamp %s is not there after %v: its move goes on", s.Name, timeout).
		WithHint("bulkhead stamp show %s; bulkhead stamp move %s --cancel", s.Name, s.Name))
	defer cancel()
	begin, id, told := time.Now(), s.Move.ID, ""
	for {
		m := s.Move
		switch {
		case m == nil || m.ID != id:
			return s, bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s moves another way by now", s.Name)
		case m.GivenUp:
			return s, &bulkhead.Error{
				Kind: errors.New("given up"), Message: fmt.Sprintf("stamp %s stays on %s: %s", s.Name, m.From, m.Message),
				Hint: fmt.Sprintf("bulkhead events --stamp %s", s.Name),
			}
		case m.Ended != nil:
			return s, nil
		}
		if line := moving(m); c.output == "table" && line != told {
			told = line
			fmt.Fprintf(c.env.Stderr, "  %s %s\n", line, c.paint(faint, "("+took(time.Since(begin))+")"))
		}
		select {
		case <-ctx.Done():
			return s, context.Cause(ctx)
		case <-time.After(lookEvery):
		}
		next, err := c.client().Stamp(ctx, string(s.Name))
		switch {
		case ctx.Err() != nil:
			return s, context.Cause(ctx)
		case err != nil && errors.Is(err, bulkhead.ErrUnavailable): // it comes again
		case err != nil:
			return s, err
		default:
			s = next
		}
	}
}

// moving is how far a move has come, in one line.
func moving(m *api.StampMove) string {
	line := string(m.Phase)
	if m.To != "" {
		line += fmt.Sprintf(" %s to %s", m.From, m.To)
	}
	if m.Bytes > 0 {
		line += fmt.Sprintf(", %s in %s", size(m.Bytes), passes(m.Passes))
	}
	if m.Message != "" {
		line += ": " + m.Message
	}
	return line
}

// stampNode is where a stamp is, and where it goes.
func stampNode(s api.Stamp) string {
	if m := s.Move; m != nil && m.Ended == nil && m.To != "" && m.To != s.Node {
		return string(s.Node) + " > " + string(m.To)
	}
	return string(s.Node)
}

func (c *command) nodeDrain() *cobra.Command {
	var wait, noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "drain NAME", Short: "Move every stamp off a node, one after the other",
		Long: `Move every stamp off a node, one after the other, as "bulkhead stamp move" does; the
node takes no new ones. It is refused, and nothing changed, when one of them would have
no place elsewhere. The data of deleted stamps stays.`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := c.client().Stamps(cmd.Context(), api.StampQuery{})
			if err != nil {
				return err
			}
			out, err := c.client().DrainNode(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if noWait || !wait {
				return c.print(out, func() {
					c.say("node %s is being drained of %s", out.Node.Name, count(len(out.Moves), "stamp"))
					c.next("bulkhead node show %s", out.Node.Name)
				})
			}
			begin := time.Now()
			if err := c.awaitDrain(cmd.Context(), out, before, timeout); err != nil {
				return err
			}
			if out.Node, err = c.client().Node(cmd.Context(), args[0]); err != nil {
				return err
			}
			return c.print(out, func() {
				c.say("node %s is drained %s", out.Node.Name, c.paint(faint, "("+took(time.Since(begin))+")"))
				if len(out.Stays) > 0 {
					c.say("data of deleted stamps is kept there: %s", names(out.Stays))
					c.next("bulkhead stamp delete NAME --purge, or bulkhead stamp create NAME --restore, before bulkhead node remove %s", out.Node.Name)
					return
				}
				c.next("bulkhead node undrain %s lets it take stamps again; bulkhead node remove %s takes it out", out.Node.Name, out.Node.Name)
			})
		},
	}
	c.addWaitFlags(cmd, &wait, &noWait, &timeout)
	_ = cmd.Flags().Set("timeout", "1h")
	cmd.Flags().Lookup("timeout").DefValue = "1h0m0s"
	return cmd
}

// awaitDrain waits until no stamp is left on a node, and tells of each that goes. What
// stamps did before is no news.
func (c *command) awaitDrain(ctx context.Context, d api.NodeDrain, before []api.Stamp, timeout time.Duration) error {
	name := d.Node.Name
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, bulkhead.Errorf(bulkhead.ErrUnavailable, "node %s is not empty after %v: it is drained on", name, timeout).
		WithHint("bulkhead node show %s; bulkhead node undrain %s", name, name))
	defer cancel()
	told, going := map[string]bool{}, map[bulkhead.StampName]bool{}
	for _, m := range d.Moves {
		going[m.Stamp] = true
	}
	for _, s := range before {
		if s.Move != nil && s.Move.Ended != nil {
			told[s.Move.ID] = true
		}
	}
	for {
		stamps, err := c.client().Stamps(ctx, api.StampQuery{})
		if err != nil && !errors.Is(err, bulkhead.ErrUnavailable) {
			return err
		}
		left := err != nil
		for _, s := range stamps {
			m := s.Move
			ended := m != nil && m.Ended != nil && m.From == name && going[s.Name]
			left = left || s.Node == name || m != nil && m.Ended == nil && m.From == name
			if !ended || told[m.ID] || c.output != "table" {
				continue
			}
			told[m.ID] = true
			if m.GivenUp {
				fmt.Fprintf(c.env.Stderr, "  %s\n", c.paint(yellow, fmt.Sprintf("stamp %s stays on %s for now: %s", s.Name, m.From, m.Message)))
			} else {
				fmt.Fprintf(c.env.Stderr, "  %s\n", moved(s.Name, m))
			}
		}
		if !left {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * lookEvery):
		}
	}
}

func (c *command) nodeUndrain() *cobra.Command {
	return &cobra.Command{
		Use: "undrain NAME", Short: "Let a node that was drained take stamps again", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := c.client().UndrainNode(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(n, func() { c.say("node %s takes new stamps", n.Name) })
		},
	}
}
