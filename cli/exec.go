package cli

import (
	"context"
	"os"
	"time"

	"bulkhead"
	"bulkhead/api"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (c *command) stampExec() *cobra.Command {
	var slot int
	var noTTY bool
	cmd := &cobra.Command{
		Use: "exec NAME SERVICE -- CMD [ARG...]", Short: "Run a command in a running task", ValidArgsFunction: c.stampNames,
		Example: "  bulkhead stamp exec acme web -- sh\n  bulkhead stamp exec acme db -- pg_dump shop > shop.sql",
		Args:    between(3, 1000, "NAME SERVICE -- CMD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e := api.Exec{
				ExecRequest: bulkhead.ExecRequest{Stamp: bulkhead.StampName(args[0]), Service: bulkhead.ServiceName(args[1]), Slot: slot, Command: args[2:]},
				Stdin:       c.env.Stdin, Stdout: c.env.Stdout, Stderr: c.env.Stderr,
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			if !noTTY && isTerminal(c.env.Stdin) && isTerminal(c.env.Stdout) {
				in, out := c.env.Stdin.(*os.File), c.env.Stdout.(*os.File)
				w, h, err := term.GetSize(int(out.Fd()))
				if err == nil {
					e.TTY, e.Width, e.Height = true, uint16(w), uint16(h)
				}
				state, err := term.MakeRaw(int(in.Fd()))
				if err != nil {
					return err
				}
				defer func() { _ = term.Restore(int(in.Fd()), state) }()
				e.Resize = watchSize(ctx, out, w, h)
			}
			code, err := c.client().Exec(ctx, e)
			if err != nil {
				return err
			}
			if code != 0 {
				return exitStatus(code)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&slot, "slot", 0, "which of the service's tasks (default: any)")
	cmd.Flags().BoolVarP(&noTTY, "no-tty", "T", false, "no terminal, even if there is one")
	cmd.Flags().SetInterspersed(true)
	return cmd
}

// watchSize delivers a terminal's size whenever it changes. It looks twice a
// second: a signal for it does not exist on every system.
func watchSize(ctx context.Context, f *os.File, w, h int) <-chan api.TerminalSize {
	out := make(chan api.TerminalSize)
	go func() {
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			nw, nh, err := term.GetSize(int(f.Fd()))
			if err != nil || nw == w && nh == h {
				continue
			}
			w, h = nw, nh
			select {
			case out <- api.TerminalSize{Width: uint16(w), Height: uint16(h)}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
