package analysis

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"inshape/frame"
	"inshape/mesh"
)

const (
	maxCrashes = 2 // of an analysis, then it is quarantined
	maxStops   = 5 // of the module during an analysis, then it is suspected of being the cause
)

// queue runs the analyses that wait, as many as there are workers and memory
// for. What waits and what runs stands in the store: a queue that is started
// again goes on where the last one ended, however it ended.
type queue struct {
	s    *service
	run  runner
	wake chan struct{} // holds one

	mu      sync.Mutex
	running map[revisionKey]context.CancelCauseFunc // guarded by mu
	memory  int64                                   // guarded by mu; that running tasks may take

	timings *prometheus.HistogramVec
}

// revisionKey names a revision.
type revisionKey struct {
	model string
	n     int
}

func newQueue(s *service, run runner) *queue {
	q := &queue{
		s: s, run: run, wake: make(chan struct{}, 1), running: map[revisionKey]context.CancelCauseFunc{},
		timings: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "inshape_analysis_step_seconds", Help: "Steps of analyses, in seconds.", Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120},
		}, []string{"step"}),
	}
	s.Metrics.MustRegister(q.timings, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "inshape_analyses_running", Help: "Analyses under way.",
	}, func() float64 {
		q.mu.Lock()
		defer q.mu.Unlock()
		return float64(len(q.running))
	}))
	return q
}

// notice tells the queue that something may wait.
func (q *queue) notice() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

var errCancelled = errors.New("cancelled")

// cancel ends the analysis of a revision, if it is running.
func (q *queue) cancel(key revisionKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if cancel := q.running[key]; cancel != nil {
		cancel(errCancelled)
	}
}

// Run works until ctx ends, and returns when nothing runs any more.
func (q *queue) Run(ctx context.Context) error {
	if err := q.resume(ctx); err != nil {
		return err
	}
	var work sync.WaitGroup
	defer work.Wait()
	for {
		started, err := q.startNext(ctx, &work)
		if err != nil {
			return err
		}
		if started {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-q.wake:
		}
	}
}

// resume puts back what was running when the module ended. One during which it
// ended again and again may be the reason, and is put aside.
func (q *queue) resume(ctx context.Context) error {
	err := q.s.Store.Update(ctx, func(tx *frame.Tx) error {
		if _, err := tx.Exec(`UPDATE revision SET state = 'quarantined', ended = ?, code = 'interrupted', version = version + 1,
			reason = 'the module ended ' || stops || ' times during this analysis; it is not tried again by itself'
			WHERE state = 'running' AND stops >= ?`, frame.Stamp(time.Now()), maxStops); err != nil {
			return err
		}
		_, err := tx.Exec("UPDATE revision SET state = 'waiting', version = version + 1 WHERE state = 'running'")
		return err
	})
	if err != nil {
		return fmt.Errorf("resume analyses: %w", err)
	}
	return nil
}

// startNext starts the next analysis that there is room for. The turn goes to
// the party with the fewest running ones: who brings a thousand files does not
// keep the others waiting.
func (q *queue) startNext(ctx context.Context, work *sync.WaitGroup) (started bool, err error) {
	q.mu.Lock()
	full := len(q.running) >= q.s.settings.Workers
	q.mu.Unlock()
	if full {
		return false, nil
	}
	var j job
	err = q.s.Store.View(ctx, func(tx *sql.Tx) error {
		return j.scan(tx.QueryRow(`SELECT r.model, r.n, r.source, r.operation, r.unit, r.bytes, m.name, m.party FROM revision r JOIN model m ON m.id = r.model
			WHERE r.state = 'waiting' AND m.deleted = ''
			ORDER BY (SELECT count(*) FROM revision x JOIN model y ON y.id = x.model WHERE x.state = 'running' AND y.party = m.party), r.queued LIMIT 1`))
	})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find waiting analysis: %w", err)
	}
	memory := q.need(j)
	q.mu.Lock()
	key := revisionKey{j.model, j.n}
	room := len(q.running) == 0 || q.memory+memory <= q.s.settings.Memory
	if q.running[key] != nil || !room { // one that was cancelled may still be ending
		q.mu.Unlock()
		return false, nil // the next one that ends wakes the queue
	}
	task, cancel := context.WithCancelCause(ctx)
	q.running[key] = cancel
	q.memory += memory
	q.mu.Unlock()
	end := func() {
		cancel(nil)
		q.mu.Lock()
		delete(q.running, key)
		q.memory -= memory
		q.mu.Unlock()
		q.notice()
	}
	begun, err := q.begin(ctx, key)
	if err != nil {
		end()
		return false, err
	}
	if !begun { // it was cancelled meanwhile; there may be another one
		end()
		return true, nil
	}
	work.Go(func() {
		defer end()
		q.analyse(task, j, memory)
	})
	return true, nil
}

// job is an analysis to be run.
type job struct {
	model     string
	n, source int
	operation Operation
	unit      mesh.Unit
	bytes     int64
	name      string
	party     string
}

func (j *job) scan(row *sql.Row) error {
	var operation string
	if err := row.Scan(&j.model, &j.n, &j.source, &operation, &j.unit, &j.bytes, &j.name, &j.party); err != nil {
		return err
	}
	return json.Unmarshal([]byte(operation), &j.operation)
}

// need is about the memory that an analysis takes, bytes, at most all that there
// is for analyses. A facet takes about 500 bytes: it is 50 bytes of a binary STL
// and about 10 of a packed 3MF.
func (q *queue) need(j job) int64 {
	factor := int64(12)
	switch strings.ToLower(filepath.Ext(j.name)) {
	case ".3mf", ".amf":
		factor = 60
	}
	bytes := j.bytes
	if j.source > 0 {
		factor, bytes = 12, max(j.bytes, q.s.size(j.model, j.source, fileGeometry))
	}
	return min(256<<20+factor*bytes, q.s.settings.Memory)
}

// begin marks a waiting revision as running. begun is false if it does not wait any more.
func (q *queue) begin(ctx context.Context, key revisionKey) (begun bool, err error) {
	err = q.s.Store.Update(ctx, func(tx *frame.Tx) error {
		result, err := tx.Exec("UPDATE revision SET state = 'running', stops = stops + 1, version = version + 1 WHERE model = ? AND n = ? AND state = 'waiting'", key.model, key.n)
		if err != nil {
			return err
		}
		changed, err := result.RowsAffected()
		if begun = changed == 1; err != nil || !begun {
			return err
		}
		_, err = tx.Exec("UPDATE step SET state = 'waiting', detail = '', began = '', ended = '' WHERE model = ? AND n = ?", key.model, key.n)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("begin analysis: %w", err)
	}
	return begun, nil
}

// analyse runs one analysis and notes what comes of it.
func (q *queue) analyse(ctx context.Context, j job, memory int64) {
	t := task{
		Folder: q.s.Config.File("models", j.model, fmt.Sprint(j.n)), Name: j.name, Unit: j.unit, Operation: j.operation,
		Materials: q.s.settings.Materials, MaxBytes: q.s.settings.MaxUpload, Mark: q.s.mark(), Memory: memory, StepTime: q.s.settings.StepTime,
	}
	if j.source > 0 {
		t.Source = q.s.path(j.model, j.source, fileGeometry)
	}
	var last progress
	began := time.Now()
	err := q.run(ctx, t, func(p progress) {
		switch {
		case p.Begun != "":
			began = time.Now()
			q.note(ctx, j, Step{Name: p.Begun, State: StepRunning})
		case p.Ended != nil:
			q.timings.WithLabelValues(string(p.Ended.Name)).Observe(time.Since(began).Seconds())
			q.note(ctx, j, *p.Ended)
		default:
			last = p
		}
	})
	if err != nil && errors.Is(context.Cause(ctx), errCancelled) {
		return // whoever cancelled it has noted that
	}
	if ctx.Err() != nil {
		// The module ends; the analysis is taken up again when it is back.
		err := q.s.Store.Update(context.WithoutCancel(ctx), func(tx *frame.Tx) error {
			_, err := tx.Exec("UPDATE revision SET state = 'waiting', stops = stops - 1, version = version + 1 WHERE model = ? AND n = ? AND state = 'running'", j.model, j.n)
			return err
		})
		if err != nil {
			q.s.Log.Error("put analysis back", "model", j.model, "error", err)
		}
		return
	}
	if err := q.finish(ctx, j, last, err); err != nil {
		q.s.Log.Error("note analysis", "model", j.model, "revision", j.n, "error", err)
	}
}

// note writes down how far a step is.
func (q *queue) note(ctx context.Context, j job, s Step) {
	column := "ended"
	if s.State == StepRunning {
		column = "began"
	}
	err := q.s.Store.Update(ctx, func(tx *frame.Tx) error {
		_, err := tx.Exec("UPDATE step SET state = ?, detail = ?, "+column+" = ? WHERE model = ? AND n = ? AND name = ? AND EXISTS (SELECT 1 FROM revision r WHERE r.model = step.model AND r.n = step.n AND r.state = 'running')",
			s.State, s.Detail, frame.Stamp(time.Now()), j.model, j.n, s.Name)
		return err
	})
	if err != nil {
		q.s.log(ctx, "note step", err)
	}
}

// finish notes how an analysis ended: it is done, the input is refused, or it
// crashed and is tried once more before it is put aside.
func (q *queue) finish(ctx context.Context, j job, last progress, crash error) error {
	if crash == nil && last.Report == nil && last.Refused == nil {
		crash = errors.New("the worker ended without a result")
		if last.Failed != "" {
			crash = errors.New(last.Failed)
		}
	}
	if crash != nil {
		q.s.Log.Warn("analysis crashed", "model", j.model, "revision", j.n, "error", crash)
	}
	defer q.notice()
	return q.s.Store.Update(ctx, func(tx *frame.Tx) error {
		var r revisionState
		switch {
		case last.Report != nil:
			r.state = Done
			text, err := json.Marshal(last.Report)
			if err != nil {
				return fmt.Errorf("keep report: %w", err)
			}
			r.report = string(text)
		case last.Refused != nil && last.Guess != "":
			r.state, r.code, r.reason, r.guess = Asking, last.Refused.Code, last.Refused.Text, string(last.Guess)
		case last.Refused != nil:
			r.state, r.code, r.reason = Refused, last.Refused.Code, last.Refused.Text
		default:
			var crashes int
			if err := tx.QueryRow("SELECT crashes + 1 FROM revision WHERE model = ? AND n = ?", j.model, j.n).Scan(&crashes); err != nil {
				return fmt.Errorf("count crashes: %w", err)
			}
			r.state, r.crashes = Waiting, 1
			if crashes >= maxCrashes {
				r.state, r.code = Quarantined, "crashed"
				r.reason = fmt.Sprintf("the analysis broke off %d times and is not tried again by itself: %s", crashes, firstLine(crash.Error()))
				if _, ok := errors.AsType[*overdue](crash); ok {
					r.code = "timed-out"
				} else if strings.Contains(r.reason, "out of memory") {
					r.code = "out-of-memory"
				}
			}
		}
		result, err := tx.Exec(`UPDATE revision SET state = ?, code = ?, reason = ?, guess = ?, report = ?, ended = ?, crashes = crashes + ?, stops = 0, version = version + 1
			WHERE model = ? AND n = ? AND state = 'running'`,
			r.state, r.code, r.reason, r.guess, r.report, frame.Stamp(time.Now()), r.crashes, j.model, j.n)
		if err != nil {
			return fmt.Errorf("note end of analysis: %w", err)
		}
		if changed, err := result.RowsAffected(); err != nil || changed == 0 {
			return err // it was cancelled or deleted at the last moment
		}
		if r.state == Waiting {
			return nil
		}
		// A step that was under way when it ended is the one that failed.
		if _, err := tx.Exec("UPDATE step SET state = 'failed', ended = ? WHERE model = ? AND n = ? AND state = 'running'", frame.Stamp(time.Now()), j.model, j.n); err != nil {
			return fmt.Errorf("note end of step: %w", err)
		}
		if r.state == Done {
			if err := q.s.analysed(tx, j, last.Report); err != nil {
				return err
			}
		}
		return tx.Emit("analysis.finished", j.model, j.party, q.s.finished(j, r, last.Report))
	})
}

type revisionState struct {
	state                       State
	code, reason, guess, report string
	crashes                     int
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.ToValidUTF8(line[:min(len(line), 300)], "")
}
