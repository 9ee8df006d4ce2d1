package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/store"
)

// The node session is one of the crossings that are not plain calls: NodeClient,
// here, is the node's end, on which package agent builds (agent.Control); nodeAPI
// is the servers'. It is one HTTP/2 request over mutual TLS that never ends:
// reports in its body, orders in its answer, a line of JSON each. Either side
// sends an empty line every nodePulse and hangs up on a peer that is silent for
// nodeSilence.
const (
	nodePulse   = 3 * time.Second
	nodeSilence = 4 * nodePulse
)

// NodeClient is a node's way to the servers.
type NodeClient struct {
	base string
	http *http.Client
}

// NewNodeClient makes a client of the servers' node listener at address
// ("host:port"). config holds the node's certificate and trusts the cluster's CA.
func NewNodeClient(address string, config *tls.Config) *NodeClient {
	return &NodeClient{
		base: "https://" + address,
		http: &http.Client{Transport: &http.Transport{
			TLSClientConfig:       config,
			ForceAttemptHTTP2:     true,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: 10 * time.Second,
			HTTP2:                 &http.HTTP2Config{SendPingTimeout: nodePulse, PingTimeout: nodeSilence},
		}},
	}
}

// NodeSession is an open session; see agent.Session.
type NodeSession struct {
	client *NodeClient
	cancel context.CancelFunc
	orders *json.Decoder
	body   io.Closer

	mu sync.Mutex // guards w
	w  *io.PipeWriter

	done sync.WaitGroup
}

// Connect opens a session in which node reports itself. It fails when the server
// does not answer within 10 s; the session ends when ctx does.
func (c *NodeClient) Connect(ctx context.Context, node bulkhead.Node) (*NodeSession, error) {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := c.open(ctx, "/v1/node/session")
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open node session: %w", err)
	}
	alive := &watchdog{r: conn.r, timer: time.AfterFunc(nodeSilence, cancel)}
	s := &NodeSession{client: c, cancel: cancel, orders: json.NewDecoder(alive), body: conn.r, w: conn.w}
	if err := s.Send(bulkhead.NodeReport{Node: &node}); err != nil {
		return nil, errors.Join(fmt.Errorf("open node session: %w", err), s.Close())
	}
	s.done.Go(func() {
		t := time.NewTicker(nodePulse)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				s.w.CloseWithError(ctx.Err())
				return
			case <-t.C:
				if s.write([]byte{'\n'}) != nil {
					return
				}
			}
		}
	})
	return s, nil
}

// Receive waits for the next order.
func (s *NodeSession) Receive() (o bulkhead.NodeOrder, err error) {
	if err := s.orders.Decode(&o); err != nil {
		return o, bulkhead.Errorf(bulkhead.ErrUnavailable, "node session: %w", err)
	}
	return o, nil
}

// Send reports.
func (s *NodeSession) Send(r bulkhead.NodeReport) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.write(append(b, '\n'))
}

func (s *NodeSession) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.w.Write(b); err != nil {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "node session: %w", err)
	}
	return nil
}

// Stream dials back for an order's StreamRequest.
func (s *NodeSession) Stream(ctx context.Context, id string) (io.ReadWriteCloser, error) {
	conn, err := s.client.open(ctx, "/v1/node/streams/"+url.PathEscape(id))
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", id, err)
	}
	return conn, nil
}

// Close ends the session. It may be called more than once.
func (s *NodeSession) Close() error {
	s.cancel()
	_ = s.w.Close()
	err := s.body.Close()
	s.done.Wait()
	return err
}

// duplex is a request whose body and answer are open at the same time.
type duplex struct {
	r io.ReadCloser
	w *io.PipeWriter
}

func (d *duplex) Read(p []byte) (int, error)  { return d.r.Read(p) }
func (d *duplex) Write(p []byte) (int, error) { return d.w.Write(p) }

// Close says that no more is written, and waits a moment for the other end to say
// the same: hanging up at once would take what was written last with it.
func (d *duplex) Close() error {
	err := d.w.Close()
	stop := time.AfterFunc(5*time.Second, func() { _ = d.r.Close() })
	defer stop.Stop()
	_, _ = io.Copy(io.Discard, d.r)
	return errors.Join(err, d.r.Close())
}

func (c *NodeClient) open(ctx context.Context, path string) (*duplex, error) {
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrUnavailable, "servers at %s: %w", c.base, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		_ = w.Close()
		return nil, readProblem(resp)
	}
	return &duplex{r: resp.Body, w: w}, nil
}

// watchdog ends what timer ends when nothing is read for nodeSilence.
type watchdog struct {
	r     io.Reader
	timer *time.Timer
}

func (d *watchdog) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil {
		d.timer.Stop()
	} else {
		d.timer.Reset(nodeSilence)
	}
	return n, err
}

// nodeAPI is the servers' end of the node sessions.
type nodeAPI struct {
	s *Server

	mu       sync.Mutex // guards what follows
	sessions map[bulkhead.NodeName]*nodeSession
	waiting  map[string]*dialBack // by stream id
}

// nodeSession is one open session of a node.
type nodeSession struct {
	node   bulkhead.NodeName
	cancel context.CancelCauseFunc
	orders chan bulkhead.NodeOrder // stream requests; assignments come from the store
	done   <-chan struct{}
}

// NodeHandler serves the listener on which nodes call: sessions, streams, and
// pulls from the registry. The listener must demand client certificates of the
// cluster's CA and speak HTTP/2; who a node is comes from its certificate alone.
func (s *Server) NodeHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/node/session", s.nodes.session)
	mux.HandleFunc("POST /v1/node/streams/{id}", s.nodes.stream)
	if s.c.Registry != nil {
		mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead { // nodes pull only
				writeProblem(w, asProblem(bulkhead.Errorf(bulkhead.ErrDenied, "nodes may only pull")))
				return
			}
			s.c.Registry.ServeHTTP(w, r)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.nodes.peer(r); err != nil {
			writeProblem(w, asProblem(err))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// peer is the node that its certificate names.
func (n *nodeAPI) peer(r *http.Request) (bulkhead.NodeName, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", bulkhead.Errorf(bulkhead.ErrDenied, "no verified client certificate")
	}
	return n.s.c.PeerNode(r.TLS)
}

func (n *nodeAPI) session(w http.ResponseWriter, r *http.Request) {
	name, err := n.peer(r)
	if err != nil {
		writeProblem(w, asProblem(err))
		return
	}
	log := n.s.c.Logger.With("node", name)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	stop := context.AfterFunc(n.s.ctx, func() { cancel(errShutdown) })
	defer stop()
	session := &nodeSession{node: name, cancel: cancel, orders: make(chan bulkhead.NodeOrder, 16), done: ctx.Done()}

	n.mu.Lock()
	if old := n.sessions[name]; old != nil {
		old.cancel(errors.New("the node opened another session"))
	}
	n.sessions[name] = session
	n.mu.Unlock()

	rc := http.NewResponseController(w)
	out := &lines{w: w, rc: rc}
	var wg sync.WaitGroup
	wg.Go(func() { cancel(n.receive(ctx, name, r.Body, rc)) })
	if err := out.write(nil); err == nil {
		wg.Go(func() {
			t := time.NewTicker(nodePulse)
			defer t.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-t.C:
					if err := out.write([]byte{'\n'}); err != nil {
						cancel(err)
						return
					}
				}
			}
		})
		cancel(n.assign(ctx, session, out))
	}
	cause := context.Cause(ctx)
	_ = rc.SetReadDeadline(time.Now()) // receive must not wait for the node any more
	wg.Wait()

	n.mu.Lock()
	current := n.sessions[name] == session
	if current {
		delete(n.sessions, name)
	}
	n.mu.Unlock()
	log.Info("node session ended", "cause", cause)
	if current && !errors.Is(cause, errShutdown) {
		n.lost(name, log)
	}
}

var errShutdown = errors.New("the server stops")

// assign sends a node everything that is its own, and then what changes. The
// other end is agent.session.
func (n *nodeAPI) assign(ctx context.Context, session *nodeSession, out *lines) error {
	sent := map[bulkhead.StampName]bulkhead.StampRef{}
	kept := false // back something that is the node's
	forget := func(ref bulkhead.StampRef) error {
		delete(sent, ref.Name)
		return out.send(bulkhead.NodeOrder{Forget: &ref})
	}
	update := func(name bulkhead.StampName, view *store.Snapshot) error {
		stamp, ok := view.Stamps.Get(name)
		was, had := sent[name]
		if had && (!ok || stamp.Node != session.node || stamp.UID != was.UID) {
			if err := forget(was); err != nil {
				return err
			}
		}
		if !ok || stamp.Node != session.node {
			return nil
		}
		a, err := n.assignment(stamp)
		if err != nil { // the node's other stamps must not suffer
			n.s.c.Logger.Error("stamp not assigned", "stamp", name, "node", session.node, "err", err)
			kept = true
			return nil
		}
		sent[name] = bulkhead.StampRef{Name: name, UID: stamp.UID, Epoch: stamp.Epoch}
		return out.send(bulkhead.NodeOrder{Assign: &a})
	}
	everything := func(view *store.Snapshot) error {
		kept = false
		for stamp := range view.Stamps.All() {
			if err := update(stamp.Name, view); err != nil {
				return err
			}
		}
		for name, ref := range maps.Clone(sent) {
			if _, ok := view.Stamps.Get(name); !ok {
				if err := forget(ref); err != nil {
					return err
				}
			}
		}
		if kept {
			return nil // the node would take it for another's, and end it
		}
		return out.send(bulkhead.NodeOrder{Synced: true})
	}
	view, changes := n.s.c.Store.Watch(ctx)
	if err := everything(view); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case o := <-session.orders:
			err = out.send(o)
		case c, ok := <-changes:
			switch {
			case !ok:
				return errors.New("the watch of the state ended")
			case c.Everything():
				err = everything(n.s.c.Store.View())
			case c.Table == store.Stamps:
				err = update(bulkhead.StampName(c.Key), n.s.c.Store.View())
			}
		}
		if err != nil {
			return err
		}
	}
}

// assignment opens the secrets of a stamp for its node.
func (n *nodeAPI) assignment(stamp bulkhead.Stamp) (bulkhead.Assignment, error) {
	secrets, err := n.s.c.Sealer.Open(stamp.UID, stamp.Sealed)
	if err != nil {
		return bulkhead.Assignment{}, fmt.Errorf("open secrets of %s: %w", stamp.Name, err)
	}
	stamp.Sealed = nil
	return bulkhead.Assignment{Stamp: stamp, Secrets: secrets}, nil
}

// receive records what a node reports, until the session ends. Reports that come
// while others are being written are written together.
func (n *nodeAPI) receive(ctx context.Context, name bulkhead.NodeName, body io.Reader, rc *http.ResponseController) error {
	reports := make(chan bulkhead.NodeReport, 256)
	lost := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(reports)
	wg.Go(func() {
		for r := range reports {
			batch := []bulkhead.NodeReport{r}
			for len(batch) < 200 && len(reports) > 0 {
				batch = append(batch, <-reports)
			}
			err := n.record(ctx, name, batch)
			if err == nil || ctx.Err() != nil {
				continue
			}
			n.s.c.Logger.Warn("record node reports", "node", name, "err", err)
			if kind := bulkhead.KindOf(err); kind == bulkhead.ErrInvalid || kind == bulkhead.ErrExhausted {
				continue // the same would be refused again
			}
			select { // a new session brings them again
			case lost <- fmt.Errorf("record reports: %w", err):
			default:
			}
		}
	})
	dec := json.NewDecoder(&deadlineReader{ctx, body, rc})
	for {
		var r bulkhead.NodeReport
		if err := dec.Decode(&r); err != nil {
			return err
		}
		select {
		case reports <- r:
		case err := <-lost:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// deadlineReader gives every read nodeSilence. Who ends ctx and then sets a
// deadline in the past ends the reading, whatever it is about to do.
type deadlineReader struct {
	ctx context.Context
	r   io.Reader
	rc  *http.ResponseController
}

func (d *deadlineReader) Read(p []byte) (int, error) {
	_ = d.rc.SetReadDeadline(time.Now().Add(nodeSilence))
	if d.ctx.Err() != nil {
		return 0, context.Cause(d.ctx)
	}
	return d.r.Read(p)
}

// record writes reports in one transaction. A status that does not fit (another
// life of the stamp, another node, an older epoch) is left out: its node will
// hear, or has heard, that the stamp is not its own.
func (n *nodeAPI) record(ctx context.Context, name bulkhead.NodeName, batch []bulkhead.NodeReport) error {
	return n.s.c.Store.Update(ctx, func(tx *store.Tx) error {
		for _, r := range batch {
			switch {
			case r.Node != nil:
				n.recordNode(tx, name, *r.Node)
			case r.Status != nil:
				st := *r.Status
				stamp, ok := tx.Stamps.Get(st.Name)
				if !ok || st.Node != name || stamp.Node != name || stamp.UID != st.UID || stamp.Epoch != st.Epoch {
					continue
				}
				if was, ok := tx.Statuses.Get(st.Name); !ok || !same(was, st) {
					tx.Statuses.Put(st)
				}
			case r.Event != nil:
				e := *r.Event
				if e.Stamp != "" {
					if stamp, ok := tx.Stamps.Get(e.Stamp); !ok || stamp.Node != name {
						continue
					}
				}
				e.Node, e.Actor = name, "" // a node acts for nobody
				tx.Event(e)
			}
		}
		return nil
	})
}

func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func (n *nodeAPI) recordNode(tx *store.Tx, name bulkhead.NodeName, node bulkhead.Node) {
	now := n.s.c.Now().UTC()
	was, known := tx.Nodes.Get(name)
	node.Name, node.State, node.Seen, node.Joined = name, bulkhead.NodeReady, now, now
	message := "joined"
	if known {
		node.Joined, message = was.Joined, "answers"
	}
	tx.Nodes.Put(node)
	if !known || was.State != bulkhead.NodeReady {
		tx.Event(bulkhead.Event{Time: now, Type: "node.ready", Node: name, Message: fmt.Sprintf("node %s %s", name, message)})
	}
}

// lost marks a node whose session ended. Nothing else follows from it here: its
// stamps go on without the servers.
func (n *nodeAPI) lost(name bulkhead.NodeName, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.s.ctx), 5*time.Second)
	defer cancel()
	err := n.s.c.Store.Update(ctx, func(tx *store.Tx) error {
		n.mu.Lock()
		back := n.sessions[name] != nil
		n.mu.Unlock()
		node, ok := tx.Nodes.Get(name)
		if !ok || back || node.State == bulkhead.NodeUnreachable {
			return nil
		}
		node.State, node.Seen = bulkhead.NodeUnreachable, n.s.c.Now().UTC()
		tx.Nodes.Put(node)
		tx.Event(bulkhead.Event{Time: node.Seen, Type: "node.unreachable", Node: name, Message: fmt.Sprintf("node %s does not answer", name)})
		return nil
	})
	if err != nil {
		log.Warn("mark node unreachable", "err", err)
	}
}

// dialBack is a user's request that waits for its node.
type dialBack struct {
	node  bulkhead.NodeName
	conns chan io.ReadWriter // gets one
	done  chan struct{}      // closed when the user has finished
}

// dial asks a node for a stream and waits until it dials back. The caller ends
// the stream with hangup.
func (n *nodeAPI) dial(ctx context.Context, node bulkhead.NodeName, req bulkhead.StreamRequest) (conn io.ReadWriter, hangup func(), err error) {
	req.ID = rand.Text()
	wait := &dialBack{node: node, conns: make(chan io.ReadWriter, 1), done: make(chan struct{})}
	n.mu.Lock()
	session := n.sessions[node]
	n.waiting[req.ID] = wait
	n.mu.Unlock()
	hangup = sync.OnceFunc(func() {
		n.mu.Lock()
		delete(n.waiting, req.ID)
		n.mu.Unlock()
		close(wait.done)
	})
	silent := bulkhead.Errorf(bulkhead.ErrUnavailable, "node %s does not answer", node).WithHint("bulkhead node list")
	if session == nil {
		hangup()
		return nil, nil, silent
	}
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	orders := session.orders
	for {
		select {
		case orders <- bulkhead.NodeOrder{Stream: &req}:
			orders = nil // sent
		case conn := <-wait.conns:
			return conn, hangup, nil
		case <-ctx.Done():
			hangup()
			return nil, nil, ctx.Err()
		case <-session.done:
			hangup()
			return nil, nil, silent
		case <-timeout.C:
			hangup()
			return nil, nil, silent
		}
	}
}

// stream takes a node's dial-back and couples it with the user who waits.
func (n *nodeAPI) stream(w http.ResponseWriter, r *http.Request) {
	name, err := n.peer(r)
	if err != nil {
		writeProblem(w, asProblem(err))
		return
	}
	n.mu.Lock()
	wait := n.waiting[r.PathValue("id")]
	if wait != nil && wait.node == name {
		delete(n.waiting, r.PathValue("id")) // a stream is taken once
	}
	n.mu.Unlock()
	if wait == nil || wait.node != name {
		writeProblem(w, asProblem(bulkhead.Errorf(bulkhead.ErrNotFound, "nobody waits for this stream")))
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Time{})
	w.WriteHeader(http.StatusOK)
	if rc.Flush() != nil {
		return
	}
	wait.conns <- struct {
		io.Reader
		io.Writer
	}{r.Body, flushWriter{w, rc}}
	<-wait.done // not r.Context(): its user may still be writing to w
}

type flushWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f flushWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}
