package registry

import (
	"context"
	"io"
	"log/slog"
	"reflect"

	"github.com/sirupsen/logrus"
)

// newLog makes what distribution logs to: logger, at debug.
func newLog(logger *slog.Logger) *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	if logger != nil && logger.Enabled(context.Background(), slog.LevelDebug) {
		l.SetLevel(logrus.DebugLevel)
		l.AddHook(bridge{logger})
	}
	return logrus.NewEntry(l)
}

// logged makes distribution log to entry. The library takes its logger from the
// context, by a key that only its internal packages can name; its public way
// would replace the logger of the whole process.
type logged struct {
	context.Context
	entry *logrus.Entry
}

func (c logged) Value(key any) any {
	if reflect.TypeOf(key).String() == "dcontext.loggerKey" {
		return c.entry
	}
	return c.Context.Value(key)
}

// bridge hands what logrus logs on to slog, all at debug: what matters to
// operators is said by whoever made the request.
type bridge struct{ logger *slog.Logger }

func (bridge) Levels() []logrus.Level { return logrus.AllLevels }

func (b bridge) Fire(e *logrus.Entry) error {
	args := make([]any, 0, 2*len(e.Data))
	for key, value := range e.Data {
		args = append(args, key, value)
	}
	b.logger.Debug(e.Message, args...)
	return nil
}
