package frame

import (
	"context"
	"database/sql"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	forgetEvery  = time.Hour
	deliveryLife = 30 * 24 * time.Hour // of the note that something was delivered
)

// forget is the loop that keeps the store from growing for ever: answers to
// Idempotency-Keys, deliveries that are over, and events that are older than
// the settings say and wait for nobody. The audit log is never shortened.
func (s *Server) forget(ctx context.Context) error {
	for {
		if err := s.Store.forget(ctx, time.Now(), s.Config.EventLife); err != nil && ctx.Err() == nil {
			s.Log.Error("forget what is old", "error", err) // it is tried again
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(forgetEvery):
		}
	}
}

// forget deletes a little at a time, so that nobody waits for it.
func (s *Store) forget(ctx context.Context, now time.Time, eventLife time.Duration) error {
	if eventLife <= 0 {
		eventLife = 100 * 365 * 24 * time.Hour // a configuration that nobody read
	}
	for _, old := range []struct {
		statement string
		before    time.Time
	}{
		{"DELETE FROM idempotency WHERE (subject, key) IN (SELECT subject, key FROM idempotency WHERE at < ? LIMIT 500)", now.Add(-onceLife)},
		{`DELETE FROM delivery WHERE (webhook, seq) IN (SELECT webhook, seq FROM delivery WHERE state <> 'waiting' AND due < ? LIMIT 500)`, now.Add(-deliveryLife)},
		{`DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox o WHERE at < ? AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = o.seq)
			AND NOT EXISTS (SELECT 1 FROM webhook w WHERE w.after < o.seq) ORDER BY seq LIMIT 500)`, now.Add(-eventLife)},
	} {
		for deleted := int64(500); deleted == 500; {
			err := s.Update(ctx, func(tx *Tx) error {
				result, err := tx.Exec(old.statement, Stamp(old.before))
				if err != nil {
					return err
				}
				deleted, err = result.RowsAffected()
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// newWaitingGauge counts the deliveries that wait when somebody asks.
func newWaitingGauge(s *Store) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "inshape_deliveries_waiting", Help: "Deliveries to webhooks that are neither taken nor given up.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var n float64
		_ = s.View(ctx, func(tx *sql.Tx) error { // a gauge that cannot be read is 0
			return tx.QueryRow("SELECT count(*) FROM delivery WHERE state = 'waiting'").Scan(&n)
		})
		return n
	})
}
