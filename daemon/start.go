package daemon

import (
	"log/slog"
	"net"
	"net/http"
	"time"

	"bulkhead/api"
	"bulkhead/keys"
)

// starting keeps nobody waiting on the ports of a server that starts, which may take
// until a majority of the servers is there: users are told so, and nodes, which know
// other servers, are hung up on. The ports are as they were when stop returns.
func (p *process) starting(identity *keys.Identity) (stop func()) {
	users := &http.Server{Handler: api.Starting(), ReadHeaderTimeout: time.Second, ErrorLog: slog.NewLogLogger(p.c.Log.Handler(), slog.LevelDebug)}
	if public(p.c.API) {
		users.TLSConfig = identity.Public()
	}
	stopUsers := borrow(p.listeners["api"], func(l net.Listener) {
		if users.TLSConfig != nil {
			_ = users.ServeTLS(l, "", "")
		} else {
			_ = users.Serve(l)
		}
	}, users.Close)
	stopNodes := borrow(p.listeners["node-api"], func(l net.Listener) {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}, func() error { return nil })
	return func() {
		stopUsers()
		stopNodes()
	}
}

// borrow lets serve accept on a listener until the borrowing ends. Accept fails then;
// over tells serve why.
func borrow(l net.Listener, serve func(net.Listener), over func() error) (end func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(lent{l})
	}()
	return func() {
		deadline := l.(*net.TCPListener).SetDeadline
		_ = deadline(time.Unix(1, 0))
		_ = over()
		<-done
		_ = deadline(time.Time{})
	}
}

// lent is a listener that stays open when who has borrowed it closes it.
type lent struct{ net.Listener }

func (lent) Close() error { return nil }
