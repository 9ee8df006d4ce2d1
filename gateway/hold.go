package gateway

import (
	"context"
	"sync/atomic"
	"time"
)

// hold is the waiting room for requests whose stamp is starting or moving.
type hold struct {
	longest  time.Duration
	perStamp int64
	inAll    int64
	held     atomic.Int64
}

// enter takes a place in the room, or says that there is none left.
func (h *hold) enter(s *stamp) bool {
	if h.held.Add(1) > h.inAll {
		h.held.Add(-1)
		return false
	}
	if s.held.Add(1) > h.perStamp {
		s.held.Add(-1)
		h.held.Add(-1)
		return false
	}
	return true
}

func (h *hold) leave(s *stamp) {
	s.held.Add(-1)
	h.held.Add(-1)
}

// await returns nil when the table has been replaced, or after again, if that
// is positive; otherwise why there is no point in going on.
func await(ctx context.Context, t *table, deadline *time.Timer, again time.Duration) error {
	var retry <-chan time.Time
	if again > 0 {
		retry = time.After(again)
	}
	select {
	case <-t.replaced:
		return nil
	case <-retry:
		return nil
	case <-deadline.C:
		return errHeldTooLong
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
