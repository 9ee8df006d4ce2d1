package network

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Purge removes every stamp's network and the firewall of this instance. It is
// for the end of an instance, when Run does not run.
func (n *Network) Purge(ctx context.Context) error {
	stamps, err := n.List(ctx)
	if err != nil {
		return err
	}
	for name := range stamps {
		if err := n.Remove(ctx, name); err != nil {
			return err
		}
	}
	c, err := n.firewall.connect()
	if err != nil {
		return err
	}
	c.DelTable(n.firewall.inetTable())
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove firewall: %w", err)
	}
	return nil
}
