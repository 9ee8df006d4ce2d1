package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bulkhead"
	"bulkhead/api"
)

var errSettled = errors.New("settled")

// await follows a stamp until it is as its user wants it, and tells how each
// service comes along. A stamp that cannot get there is an error.
func (c *command) await(ctx context.Context, stamp api.Stamp, timeout time.Duration) (api.Stamp, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, bulkhead.Errorf(bulkhead.ErrUnavailable, "stamp %s is not done after %v: it goes on", stamp.Name, timeout).
		WithHint("bulkhead stamp show %s", stamp.Name))
	defer cancel()
	begin := time.Now()
	told := map[bulkhead.ServiceName]string{}
	seen, placement := false, "" // the last reason told why it has no node
	last := stamp
	err := c.client().WatchStamp(ctx, string(stamp.Name), func(s api.Stamp) error {
		if s.UID != stamp.UID {
			return errSettled
		}
		seen, last = true, s
		if c.output == "table" && s.Phase == bulkhead.PhasePending && s.Node == "" && s.Placement != placement {
			placement = s.Placement
			fmt.Fprintf(c.env.Stderr, "  %-16s %s %s\n", "placement", c.paint(yellow, placement), c.paint(faint, "("+took(time.Since(begin))+")"))
		}
		if c.output == "table" && s.Observed >= s.Generation {
			for _, service := range s.Services {
				line := service.State
				if service.Message != "" && service.State != "up" && service.State != "completed" {
					line += ": " + service.Message
				}
				if told[service.Name] == line || service.State == "pending" && told[service.Name] == "" {
					continue
				}
				told[service.Name] = line
				cell := stateCell(service.State)
				text := c.paint(cell.colour, line)
				fmt.Fprintf(c.env.Stderr, "  %-16s %s %s\n", service.Name, text, c.paint(faint, "("+took(time.Since(begin))+")"))
			}
		}
		if s.Settled() {
			return errSettled
		}
		return nil
	})
	switch {
	case errors.Is(err, errSettled):
	case ctx.Err() != nil:
		return last, context.Cause(ctx)
	case errors.Is(err, bulkhead.ErrNotFound), err == nil: // gone
		if stamp.Desired == bulkhead.DesiredDeleted {
			last.Phase = bulkhead.PhaseDeleted
			return last, nil
		}
		if err == nil && seen {
			err = bulkhead.Errorf(bulkhead.ErrNotFound, "stamp %s was deleted meanwhile", stamp.Name)
		}
		return last, err
	default:
		return last, err
	}
	if last.Phase == bulkhead.PhaseFailed && stamp.Desired != bulkhead.DesiredDeleted {
		return last, &bulkhead.Error{
			Kind: errors.New("failed"), Message: fmt.Sprintf("stamp %s cannot run: %s", last.Name, last.Message),
			Hint: fmt.Sprintf("bulkhead stamp logs %s; then bulkhead stamp update %s, or bulkhead stamp delete %s", last.Name, last.Name, last.Name),
		}
	}
	return last, nil
}

// took writes a short time for people: "0.3s".
func took(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
