package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"bulkhead"
)

// cursor is how far a query has come in a stamp's log.
type cursor struct {
	segment uint64 // first line of the segment
	offset  int64  // in it, of the next frame
	line    uint64 // number of the next line
	skip    int    // so many of the lines that the query selects are not wanted
}

// Query calls yield for every line that q selects, oldest first, until yield
// returns an error, which Query returns, ctx ends, or, without Follow, no line
// is left. A stamp without logs has no lines. With Follow it ends, without
// error, when the stamp's logs are deleted.
//
// Where lines were dropped to stay within the bound, a line without service and
// task says how many. A reader that is too slow loses lines in the same way; it
// never holds up the writers.
func (s *Store) Query(ctx context.Context, q bulkhead.LogQuery, yield func(bulkhead.LogLine) error) error {
	if err := checkStamp(q.Stamp); err != nil {
		return err
	}
	if q.Tail < 0 {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "logs: the last %d lines are asked for: 0 is all", q.Tail)
	}
	log := s.log(q.Stamp)
	v, err := log.view()
	if err != nil {
		return err
	}
	at, err := log.find(ctx, v, q)
	if err != nil {
		return err
	}
	for {
		if at, err = log.read(ctx, v, at, q, yield); err != nil || !q.Follow || v.gone {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.changed:
		}
		if v, err = log.view(); err != nil {
			return err
		}
	}
}

// selects tells whether q wants the lines of f.
func selects(q bulkhead.LogQuery, f frame) bool {
	return (q.Service == "" || q.Service == f.service) && !f.time.Before(q.Since)
}

// find is where q begins.
func (l *stampLog) find(ctx context.Context, v view, q bulkhead.LogQuery) (cursor, error) {
	if q.Tail > 0 { // from the newest segment back; headers say how many lines there are
		wanted := 0
		for i := len(v.segments) - 1; i >= 0; i-- {
			s := v.segments[i]
			err := l.frames(ctx, s, 0, func(_ *frames, f frame) error {
				if selects(q, f) {
					wanted += f.lines
				}
				return nil
			})
			if err != nil {
				return cursor{}, err
			}
			if wanted >= q.Tail {
				return cursor{segment: s.first, line: s.first, skip: wanted - q.Tail}, nil
			}
			if s.time.Before(q.Since) {
				return cursor{segment: s.first, line: s.first}, nil
			}
		}
		return cursor{}, nil
	}
	for i := len(v.segments) - 1; i >= 0 && !q.Since.IsZero(); i-- {
		if s := v.segments[i]; s.time.Before(q.Since) {
			return cursor{segment: s.first, line: s.first}, nil
		}
	}
	return cursor{}, nil
}

// read yields what q selects from at to the end of v and returns that end.
func (l *stampLog) read(ctx context.Context, v view, at cursor, q bulkhead.LogQuery, yield func(bulkhead.LogLine) error) (cursor, error) {
	var buf []byte
	for _, s := range v.segments {
		if s.first < at.segment {
			continue
		}
		if s.first > at.segment {
			if dropped := s.first - at.line; dropped > 0 {
				note := fmt.Sprintf("bulkhead: %d older lines of this stamp were dropped: its logs are kept up to %d MiB", dropped, l.most>>20)
				if err := yield(bulkhead.LogLine{Time: s.time, Text: note}); err != nil {
					return at, err
				}
			}
			at.segment, at.offset, at.line = s.first, 0, s.first
		}
		err := l.frames(ctx, s, at.offset, func(r *frames, f frame) error {
			if selects(q, f) {
				if at.skip >= f.lines {
					at.skip -= f.lines
				} else {
					var err error
					if buf, err = r.Lines(buf); err != nil {
						return err
					}
					err = eachLine(buf, func(text string) error {
						if at.skip > 0 {
							at.skip--
							return nil
						}
						return yield(bulkhead.LogLine{Time: f.time, Service: f.service, Task: f.task, Text: text})
					})
					if err != nil {
						return err
					}
				}
			}
			at.offset = r.offset
			at.line += uint64(f.lines)
			return nil
		})
		if err != nil {
			return at, err
		}
	}
	return at, nil
}

// frames calls each for the frames of s from an offset on. A segment dropped
// since has none; one that is damaged ends there.
func (l *stampLog) frames(ctx context.Context, s segment, from int64, each func(*frames, frame) error) error {
	if from >= s.size {
		return nil
	}
	file, err := os.Open(filepath.Join(l.dir, s.name()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer file.Close()
	for r := newFrames(file, from, s.size); ; {
		f, err := r.Next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			l.logger.Warn("log segment damaged", "segment", s.name(), "offset", r.offset, "error", err)
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := each(r, f); err != nil {
			return err
		}
	}
}
