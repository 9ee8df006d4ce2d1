package store

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// zapCore hands etcd's log to slog. Etcd tells at the level of information what
// matters only to who debugs it, so that becomes debugging.
type zapCore struct{ logger *slog.Logger }

func (c zapCore) level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

func (c zapCore) Enabled(l zapcore.Level) bool {
	return l > zapcore.DebugLevel && c.logger.Enabled(context.Background(), c.level(l))
}

func (c zapCore) With(fields []zapcore.Field) zapcore.Core {
	return zapCore{c.logger.With(attributes(fields)...)}
}

// noise are warnings and errors of etcd's that mean nothing here: it listens on
// no port at all, and writes its storage version again once a first term is over.
var noise = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
}

func (c zapCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !noise[e.Message] {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.logger.Log(context.Background(), c.level(e.Level), e.Message, attributes(fields)...)
	return nil
}

func (c zapCore) Sync() error { return nil }

func attributes(fields []zapcore.Field) []any {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(m)
	}
	attrs := make([]any, 0, len(m.Fields))
	for _, f := range fields {
		if v, ok := m.Fields[f.Key]; ok {
			attrs = append(attrs, slog.Any(f.Key, v))
		}
	}
	return attrs
}
