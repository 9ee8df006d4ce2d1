package store

import (
	"context"
	"errors"
	"time"

	"bulkhead"
)

// ErrDeposed says that a leader is one no longer: nothing was written. It is
// the cause with which the context of a deposed leader ends.
var ErrDeposed = errors.New("leadership is lost")

// Leader is what the leader of the cluster writes with.
type Leader struct {
	store  *Store
	office fence
	depose context.CancelCauseFunc
}

// office is the leadership of one who campaigned for it.
type office struct {
	fence  fence
	lost   <-chan struct{} // closed when it is lost; some time after the fence fell
	resign func()
}

// fence is the key that stands for an office, and the revision that created it.
// It is a condition of every write of the leader's.
type fence struct {
	key     string
	created int64
}

// retryCampaign is the pause after a campaign that failed.
const retryCampaign = time.Second

// Lead waits until this caller is the leader, one among all callers in the
// cluster, and runs fn. When leadership is lost, the context of fn ends with
// ErrDeposed and, after fn has returned, Lead waits again. Otherwise it returns
// what fn returns, and the cause of ctx when that ends.
func (s *Store) Lead(ctx context.Context, fn func(ctx context.Context, l *Leader) error) error {
	for {
		won, err := s.engine.campaign(ctx)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				won.resign()
			}
			return context.Cause(ctx)
		case errors.Is(err, bulkhead.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			// The last two are etcd's own patience: ctx goes on.
			s.config.Logger.Warn("campaign for leadership", "error", err)
			select {
			case <-time.After(retryCampaign):
			case <-ctx.Done():
			}
			continue
		case err != nil:
			return err
		}
		// A leader that was cut off until now must not decide by what it knew before.
		if err := s.Sync(ctx); err != nil {
			won.resign()
			s.config.Logger.Warn("campaign for leadership", "error", err)
			if pause(ctx, retryCampaign) != nil {
				return context.Cause(ctx)
			}
			continue
		}
		err = s.serve(ctx, won, fn)
		if !errors.Is(err, ErrDeposed) {
			return err
		}
		s.config.Logger.Warn("leadership lost", "server", s.config.Name)
	}
}

// serve runs fn while in office.
func (s *Store) serve(ctx context.Context, o office, fn func(ctx context.Context, l *Leader) error) error {
	leading, depose := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-o.lost:
			depose(ErrDeposed)
		case <-leading.Done():
		}
	}()
	s.config.Logger.Info("leading", "server", s.config.Name)
	err := fn(leading, &Leader{s, o.fence, depose})
	depose(nil)
	<-watched
	o.resign()
	if errors.Is(context.Cause(leading), ErrDeposed) {
		return ErrDeposed
	}
	return err
}

// View is the store's.
func (l *Leader) View() *Snapshot { return l.store.View() }

// Watch is the store's.
func (l *Leader) Watch(ctx context.Context) (*Snapshot, <-chan Change) { return l.store.Watch(ctx) }

// Update is the store's, on the condition that l still leads: otherwise nothing
// is written and it returns ErrDeposed.
func (l *Leader) Update(ctx context.Context, fn func(tx *Tx) error) error {
	_, err := l.store.update(ctx, &l.office, fn)
	if errors.Is(err, ErrDeposed) {
		l.depose(ErrDeposed)
	}
	return err
}
