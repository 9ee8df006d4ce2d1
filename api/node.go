package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/keys"
	"bulkhead/store"
)

// The node session is one of the crossings that are not plain calls: NodeClient,
// here, is the node's end, on which package agent builds (agent.Control); nodeAPI
// is the servers'. It is one HTTP/2 request over mutual TLS that never ends:
// reports in its body, orders in its answer, a line of JSON each. Either side
// sends an empty line every nodePulse and hangs up on a peer that is silent for
// nodeSilence.
const (
	nodePulse   = 2500 * time.Millisecond
	nodeSilence = 4 * nodePulse
)

// NodeClient is a node's way to the servers.
type NodeClient struct{ way *Way }

// NewNodeClient makes a client of the servers' node listeners.
func NewNodeClient(way *Way) *NodeClient { return &NodeClient{way} }

// NodeSession is an open session; see agent.Session.
type NodeSession struct {
	way    *Way
	cancel context.CancelFunc
	orders *json.Decoder
	body   io.Closer

	mu sync.Mutex // guards w
	w  *io.PipeWriter

	done sync.WaitGroup
}

// Connect opens a session that begins with hello: the node and what it holds. It
// fails when no server answers within 10 s; the session ends when ctx does.
func (c *NodeClient) Connect(ctx context.Context, hello bulkhead.NodeReport) (*NodeSession, error) {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := c.way.open(ctx, base+"/v1/node/session", http.Header{versionHeader: {hello.Node.Version}})
	if err != nil {
		cancel()
		c.way.Avoid() // the next may be of use
		return nil, fmt.Errorf("open node session: %w", err)
	}
	alive := &watchdog{r: conn.r, timer: time.AfterFunc(nodeSilence, cancel)}
	s := &NodeSession{way: c.way, cancel: cancel, orders: json.NewDecoder(alive), body: conn.r, w: conn.w}
	if err := s.Send(hello); err != nil {
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

// versionHeader tells a server which version of Bulkhead a node is.
const versionHeader = "Bulkhead-Version"

// Receive waits for the next order.
func (s *NodeSession) Receive() (o bulkhead.NodeOrder, err error) {
	if err := s.orders.Decode(&o); err != nil {
		s.way.Avoid() // this server has ended it, or is gone
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

// Stream dials back for an order's StreamRequest: to the server that has the
// session, or to the one that the request names.
func (s *NodeSession) Stream(ctx context.Context, r bulkhead.StreamRequest) (io.ReadWriteCloser, error) {
	way := s.way
	if r.At != "" {
		way = NewWay([]string{r.At}, s.way.config)
		context.AfterFunc(ctx, way.http.CloseIdleConnections)
	}
	conn, err := way.open(ctx, base+"/v1/node/streams/"+url.PathEscape(r.ID), nil)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", r.ID, err)
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

// open begins a request whose body and answer stay open.
func (w *Way) open(ctx context.Context, address string, header http.Header) (*duplex, error) {
	r, body := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, r)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return nil, unanswered(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		_ = body.Close()
		return nil, readProblem(resp)
	}
	return &duplex{r: resp.Body, w: body}, nil
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

// nodeAPI is the servers' end of the node sessions. What nodes are to be told comes
// from the dispatcher, what they report goes into the ledger.
type nodeAPI struct {
	s        *Server
	dispatch *dispatcher
	ledger   *ledger

	mu      sync.Mutex           // guards waiting
	waiting map[string]*dialBack // by stream id
}

func newNodeAPI(s *Server) *nodeAPI {
	n := &nodeAPI{s: s, dispatch: newDispatcher(s.c.Store), waiting: map[string]*dialBack{}}
	n.ledger = &ledger{n: n}
	return n
}

// run works until ctx ends.
func (n *nodeAPI) run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { n.dispatch.run(ctx) })
	parts.Go(func() { n.watch(ctx) })
	parts.Wait()
}

// nodeSession is one open session of a node.
type nodeSession struct {
	node   bulkhead.NodeName
	uid    string // of its membership
	number int64  // bulkhead.Node.Session, once the node has introduced itself
	cancel context.CancelCauseFunc
	inbox  *inbox                  // what has changed for the node
	orders chan bulkhead.NodeOrder // stream requests
	done   <-chan struct{}

	// What follows is of the goroutine that sends the orders. told is what the node
	// has, as far as it was told.
	told   map[bulkhead.StampName]bulkhead.StampRef
	asked  map[bulkhead.StampName]bulkhead.Fetch // likewise, of what is to come to it
	buried map[string]bool                       // UIDs of the stamps whose purge it was told of
	kept   bool                                  // back something that is the node's
	named  []string                              // servers that the node was told of
}

// NodeHandler serves the listener on which nodes, other servers and machines that
// join call: joining, sessions, streams, and pulls from the registry. The listener
// must verify client certificates that are shown (keys.Identity.Server) and speak
// HTTP/2; who a caller is comes from its certificate alone, and whether it may from
// the state.
func (s *Server) NodeHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/join", s.nodes.join)
	mux.HandleFunc("POST /v1/node/renew", s.nodes.renew)
	mux.HandleFunc("POST /v1/node/session", s.nodes.session)
	mux.HandleFunc("POST /v1/node/streams/{id}", s.nodes.stream)
	mux.HandleFunc("POST /v1/server/orders", s.nodes.orders)
	mux.HandleFunc("/v2/", s.nodes.pull)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, asProblem(bulkhead.Errorf(bulkhead.ErrNotFound, "this is the address for nodes; users have another")))
	})
	return mux
}

// pull lets nodes and servers read the registry.
func (n *nodeAPI) pull(w http.ResponseWriter, r *http.Request) {
	caller, err := n.caller(r)
	if err == nil && caller.Role == keys.RoleNode {
		caller, err = n.worker(r)
	} else if err == nil {
		err = n.fellow(caller)
	}
	switch {
	case err == nil && r.Method != http.MethodGet && r.Method != http.MethodHead:
		err = bulkhead.Errorf(bulkhead.ErrDenied, "nodes may only pull")
	case err == nil && n.s.c.Registry == nil:
		err = bulkhead.Errorf(bulkhead.ErrNotFound, "this server has no registry")
	}
	if err != nil {
		n.refuse(w, r, caller, err)
		return
	}
	n.elsewhere(w, r)
}

func (n *nodeAPI) session(w http.ResponseWriter, r *http.Request) {
	caller, err := n.worker(r)
	if err == nil {
		err = bulkhead.Compatible(n.s.c.Version, r.Header.Get(versionHeader))
	}
	if err == nil && n.ledger.busy() { // nodes try again, each at another moment
		writeProblem(w, asProblem(bulkhead.Errorf(bulkhead.ErrUnavailable, "the server has more to write than it can at the moment: come back later")))
		return
	}
	if errors.Is(err, errRemoved) { // told as an order, on which the node acts
		n.turnedAway(r, caller, err)
		out := &lines{w: w, rc: http.NewResponseController(w)}
		_ = out.send(bulkhead.NodeOrder{Removed: true})
		_ = out.rc.SetReadDeadline(time.Now().Add(nodePulse))
		_, _ = io.Copy(io.Discard, r.Body) // until it has heard and hangs up
		return
	}
	if err != nil {
		n.refuse(w, r, caller, err)
		return
	}
	conn := newLineConn(w, r.Body, n.s.c.Now)
	if conn.write(nil) != nil { // the head, so that the node knows that it is let in
		return
	}
	conn.live()
	defer conn.end()
	n.serve(r.Context(), caller, conn)
}

// ServeNode runs the session of a node over conn until it ends. Who the node is, the
// caller has found out; whether it may is for the state to say.
func (s *Server) ServeNode(ctx context.Context, caller keys.Caller, conn NodeConn) error {
	err := s.nodes.member(caller)
	if errors.Is(err, errRemoved) {
		_ = conn.Send(bulkhead.NodeOrder{Removed: true})
	}
	if err == nil {
		s.nodes.serve(ctx, caller, conn)
	}
	return err
}

// serve runs the session of a node that was let in, and closes conn.
func (n *nodeAPI) serve(ctx context.Context, caller keys.Caller, conn NodeConn) {
	name := caller.Name
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(n.s.ctx, func() { cancel(errShutdown) })
	defer stop()
	// A certificate that runs out ends what it opened: the node has another by then.
	expiry := time.AfterFunc(caller.Expires.Sub(n.s.c.Now()), func() { cancel(errExpired) })
	defer expiry.Stop()
	session := &nodeSession{
		node: name, uid: caller.UID, cancel: cancel, done: ctx.Done(), inbox: newInbox(),
		orders: make(chan bulkhead.NodeOrder), told: map[bulkhead.StampName]bulkhead.StampRef{},
		asked: map[bulkhead.StampName]bulkhead.Fetch{},
	}
	if old := n.dispatch.open(session); old != nil {
		old.cancel(errReplaced)
	}
	cancel(n.converse(ctx, session, conn))
	cause := context.Cause(ctx)
	current := n.dispatch.close(session)
	n.s.c.Logger.Info("node session ended", "node", name, "cause", cause)
	if current && !errors.Is(cause, errShutdown) {
		n.silent(name, caller.UID, conn.Heard())
	}
}

// converse runs a session: the node introduces itself, and then orders and reports
// pass each other.
func (n *nodeAPI) converse(ctx context.Context, session *nodeSession, conn NodeConn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		conn.Close() // nobody waits for the node any more
	})
	defer func() {
		cancel(nil)
		wg.Wait()
		<-closed
	}()
	hello, err := conn.Receive()
	if err != nil {
		return err
	}
	if hello.Node == nil {
		return errors.New("the node did not introduce itself")
	}
	first := session.entry(hello)
	first.opens = true
	if err := n.ledger.record(ctx, first); err != nil {
		return err
	}
	session.number = first.session
	wg.Go(func() { cancel(n.receive(ctx, session, conn)) })
	cancel(n.assign(ctx, session, hello, conn))
	return context.Cause(ctx)
}

var errExpired = errors.New("the certificate of the session has run out")

var errReplaced = errors.New("the node opened another session")

var errShutdown = errors.New("the server stops")

// assign sends a node everything that is its own, and then what changes. The
// other end is agent.session.
func (n *nodeAPI) assign(ctx context.Context, session *nodeSession, hello bulkhead.NodeReport, conn NodeConn) error {
	n.holds(session, hello.Holds)
	news := n.dispatch.news(hello.Node.Inner)
	news.join(session)
	session.inbox.everything()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case o := <-session.orders:
			if err := conn.Send(o); err != nil {
				return err
			}
		case <-session.inbox.wake:
			if err := n.tell(ctx, session, session.inbox.take(), news, conn); err != nil {
				return err
			}
		}
	}
}

// tell tells the node what was in its session's inbox.
func (n *nodeAPI) tell(ctx context.Context, session *nodeSession, p pending, news *broadcast, conn NodeConn) error {
	if p.everything || p.tombs {
		if err := n.tellTombs(session, conn); err != nil {
			return err
		}
	}
	if err := n.tellStamps(session, p, conn); err != nil {
		return err
	}
	if err := n.tellNews(session, p, news, conn); err != nil {
		return err
	}
	if p.everything && !session.kept { // else the node would take that for another's, and end it
		if err := conn.Send(bulkhead.NodeOrder{Synced: true}); err != nil {
			return err
		}
	}
	if p.node {
		return n.still(ctx, session, conn)
	}
	return nil
}

// holds counts what the node says that it has as told: so it hears what of it is
// elsewhere by now. Of stamps that the state does not know at all it hears nothing: it
// may be the state that has forgotten.
func (n *nodeAPI) holds(session *nodeSession, holds []bulkhead.StampRef) {
	view := n.s.c.Store.View()
	for _, ref := range holds {
		if _, ok := view.Stamps.Get(ref.Name); ok {
			session.told[ref.Name] = ref
		}
	}
}

// tellStamps tells the node of those of its own stamps that have changed.
func (n *nodeAPI) tellStamps(session *nodeSession, p pending, conn NodeConn) error {
	names := maps.Keys(p.stamps)
	if p.everything {
		session.kept = false
		all := maps.Clone(session.told)
		for name := range session.asked {
			all[name] = bulkhead.StampRef{}
		}
		for name := range n.s.c.Store.View().Stamps.On(session.node) {
			all[name] = bulkhead.StampRef{}
		}
		names = maps.Keys(all)
	}
	for name := range names {
		if err := n.tellStamp(session, name, conn); err != nil {
			return err
		}
	}
	return nil
}

// tellStamp tells the node what became of a stamp.
func (n *nodeAPI) tellStamp(session *nodeSession, name bulkhead.StampName, conn NodeConn) error {
	n.dispatch.hold(session, name) // first: see dispatcher
	defer func() {
		_, told := session.told[name]
		if _, asked := session.asked[name]; !told && !asked {
			n.dispatch.release(session, name)
		}
	}()
	view := n.s.c.Store.View()
	stamp, ok := view.Stamps.Get(name)
	if err := session.tellFetch(view, stamp, name, conn); err != nil {
		return err
	}
	was, had := session.told[name]
	if had && (!ok || stamp.Node != session.node || stamp.UID != was.UID) {
		if ok && stamp.UID == was.UID {
			was.Epoch = max(was.Epoch, stamp.Epoch) // under which another node has it
		}
		delete(session.told, name)
		if err := conn.Send(bulkhead.NodeOrder{Forget: &was}); err != nil {
			return err
		}
	}
	if !ok || stamp.Node != session.node {
		return nil
	}
	a, err := n.assignment(stamp)
	if err != nil { // the node's other stamps must not suffer
		n.s.c.Logger.Error("stamp not assigned", "stamp", name, "node", session.node, "err", err)
		session.kept = true
		return nil
	}
	session.told[name] = bulkhead.StampRef{Name: name, UID: stamp.UID, Epoch: stamp.Epoch}
	return conn.Send(bulkhead.NodeOrder{Assign: &a})
}

// tellTombs has the node destroy what it may have of stamps that were purged, of each
// once in a session.
func (n *nodeAPI) tellTombs(session *nodeSession, conn NodeConn) error {
	buried := map[string]bool{}
	for tomb := range n.s.c.Store.View().Tombs.Under(store.NewTombKey(session.node, "")) {
		if tomb.Of.UID != session.uid { // of another machine, which had the name
			continue
		}
		if buried[tomb.UID] = true; session.buried[tomb.UID] {
			continue
		}
		if err := conn.Send(bulkhead.NodeOrder{Purge: &tomb.StampRef}); err != nil {
			return err
		}
	}
	session.buried = buried
	return nil
}

// tellNews tells the node of the rest of the farm.
func (n *nodeAPI) tellNews(session *nodeSession, p pending, b *broadcast, conn NodeConn) error {
	for _, news := range b.take(session) {
		if err := tellMany(conn, news); err != nil {
			return err
		}
	}
	if servers := n.s.nodeAPIs(); p.servers && len(servers) > 0 && !slices.Equal(servers, session.named) {
		session.named = servers
		return conn.Send(bulkhead.NodeOrder{Servers: servers})
	}
	return nil
}

// entry is what is to be written of what the node says in this session.
func (s *nodeSession) entry(reports ...bulkhead.NodeReport) *entry {
	return &entry{node: s.node, uid: s.uid, session: s.number, reports: reports}
}

// still ends the session of a node that is no longer of the farm, or whose record says
// that its session is another one, or with another server: that one may be right, or may
// have written late what it had heard before; when the node calls again it is clear. It
// sets the record right of one that passes for silent while it speaks: the servers were
// cut off from each other, not the node.
func (n *nodeAPI) still(ctx context.Context, session *nodeSession, conn NodeConn) error {
	view := n.s.c.Store.View()
	if node, ok := view.Nodes.Get(session.node); ok && node.UID == session.uid {
		switch {
		case node.Server != n.s.c.Name, node.Session != session.number:
			return errReplaced
		case node.Silent.IsZero() && node.State == bulkhead.NodeReady:
			return nil
		}
		return n.ledger.record(ctx, session.entry(bulkhead.NodeReport{Node: &node}))
	}
	if _, ok := view.Removed.Get(session.uid); ok {
		_ = conn.Send(bulkhead.NodeOrder{Removed: true}) // it hears it again when it calls
	}
	return errRemoved
}

// assignment opens the secrets of a stamp for its node.
func (n *nodeAPI) assignment(stamp bulkhead.Stamp) (bulkhead.Assignment, error) {
	secrets, err := n.s.c.Sealer.Open(stamp.UID, stamp.Sealed)
	if err != nil {
		return bulkhead.Assignment{}, fmt.Errorf("open secrets of %s: %w", stamp.Name, err)
	}
	stamp.Sealed, stamp.Former = nil, nil
	if _, ok := preempted(&stamp); ok {
		stamp.Desired = bulkhead.DesiredStopped
	}
	a := bulkhead.Assignment{Stamp: stamp, Secrets: secrets}
	if status, ok := n.s.c.Store.View().Statuses.Get(stamp.Name); ok && stamp.Copy != "" && status.UID == stamp.UID && status.Node != stamp.Node {
		for _, t := range status.Tasks { // as the node said it that had the stamp
			if t.State == bulkhead.TaskComplete {
				a.Completed = append(a.Completed, t)
			}
		}
	}
	return a, nil
}

// receive has recorded what a node reports, until the session ends.
func (n *nodeAPI) receive(ctx context.Context, session *nodeSession, conn NodeConn) error {
	box := newPostbox(n.ledger, session)
	for {
		r, err := conn.Receive()
		if err != nil {
			return err
		}
		if err := box.add(ctx, r); err != nil {
			return err
		}
	}
}

func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// silent records when a node that has no session here any more was last heard. What
// follows from that, if it does not come back, is for the controller (plan.Nodes).
func (n *nodeAPI) silent(name bulkhead.NodeName, uid string, heard time.Time) {
	n.ledger.submit(&entry{node: name, uid: uid, silent: heard, done: func(err error) {
		if err != nil && !errors.Is(err, errRemoved) { // watch tries again
			n.s.c.Logger.Warn("record silence of node", "node", name, "err", err)
		}
	}})
}

// watch finds nodes that pass for this server's and have no session here: their
// silence could not be recorded when it began, or began while this server was down.
func (n *nodeAPI) watch(ctx context.Context) {
	since := map[bulkhead.NodeName]time.Time{}
	t := time.NewTicker(nodePulse)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now, missing := n.s.c.Now(), map[bulkhead.NodeName]time.Time{}
		for node := range n.s.c.Store.View().Nodes.All() {
			if node.Server != n.s.c.Name || !node.Silent.IsZero() || n.dispatch.session(node.Name) != nil {
				continue
			}
			first, ok := since[node.Name]
			if !ok {
				first = now
			} else {
				n.silent(node.Name, node.UID, first)
			}
			missing[node.Name] = first
		}
		since = missing
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
	n.waiting[req.ID] = wait
	n.mu.Unlock()
	session := n.dispatch.session(node)
	hangup = sync.OnceFunc(func() {
		n.mu.Lock()
		delete(n.waiting, req.ID)
		n.mu.Unlock()
		close(wait.done)
	})
	if session == nil { // another server may have it
		if err := n.relay(ctx, node, bulkhead.NodeOrder{Stream: &req}); err != nil {
			hangup()
			return nil, nil, err
		}
		session = &nodeSession{}
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
			return nil, nil, silent(node)
		case <-timeout.C:
			hangup()
			return nil, nil, silent(node)
		}
	}
}

// stream takes a node's dial-back and couples it with the user who waits.
func (n *nodeAPI) stream(w http.ResponseWriter, r *http.Request) {
	caller, err := n.worker(r)
	if err != nil {
		n.refuse(w, r, caller, err)
		return
	}
	name := caller.Name
	n.mu.Lock()
	wait := n.waiting[r.PathValue("id")]
	if wait != nil && wait.node == name {
		delete(n.waiting, r.PathValue("id")) // a stream is taken once
	}
	n.mu.Unlock()
	if wait == nil || wait.node != name {
		n.refuse(w, r, caller, bulkhead.Errorf(bulkhead.ErrNotFound, "nobody waits for this stream"))
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
