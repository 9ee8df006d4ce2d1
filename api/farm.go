package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/store"

	"github.com/danielgtaylor/huma/v2"
)

// ServerView is a server and how it is.
type ServerView struct {
	bulkhead.Server
	State  string `json:"state" enum:"ready,learning,unreachable" doc:"Whether it answers"`
	Leader bool   `json:"leader" doc:"It orders the writes now"`
}

// Servers lists the servers by name.
func (c *Client) Servers(ctx context.Context) ([]ServerView, error) {
	var out []ServerView
	return out, c.call(ctx, http.MethodGet, "/v1/servers", nil, nil, &out)
}

// RemoveServer takes a server out of the farm.
func (c *Client) RemoveServer(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/servers/"+url.PathEscape(name), nil, nil, nil)
}

// CordonNode keeps new stamps off a node, or lets them on it again.
func (c *Client) CordonNode(ctx context.Context, name string, cordoned bool) (NodeView, error) {
	verb := map[bool]string{true: "/cordon", false: "/uncordon"}[cordoned]
	var out NodeView
	return out, c.call(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(name)+verb, nil, nil, &out)
}

// NodeUpdate binds attributes of a node, or leaves them to its own word again.
type NodeUpdate struct {
	Region *string           `json:"region,omitempty" doc:"Empty: its own word"`
	Zone   *string           `json:"zone,omitempty" doc:"Empty: its own word"`
	Labels map[string]string `json:"labels,omitempty" doc:"Labels to bind; the others stay as they are"`
	Unset  []string          `json:"unset,omitempty" doc:"Labels to leave to its own word"`
}

// UpdateNode changes what a node is bound to.
func (c *Client) UpdateNode(ctx context.Context, name string, u NodeUpdate) (NodeView, error) {
	var out NodeView
	return out, c.call(ctx, http.MethodPatch, "/v1/nodes/"+url.PathEscape(name), nil, u, &out)
}

// NodeRemoved is what the removal of a node leads to.
type NodeRemoved struct {
	Node  bulkhead.NodeName    `json:"node"`
	Moved []bulkhead.StampName `json:"moved" nullable:"false" doc:"Stamps without data, which are placed elsewhere"`
	Lost  []bulkhead.StampName `json:"lost" nullable:"false" doc:"Stamps whose data was on it, which begin with none elsewhere"`
}

// RemoveNode ends the membership of a node. loseData says that the data of stamps
// on it may be given up.
func (c *Client) RemoveNode(ctx context.Context, name string, loseData bool) (NodeRemoved, error) {
	v := url.Values{}
	if loseData {
		v.Set("lose-data", "true")
	}
	var out NodeRemoved
	return out, c.call(ctx, http.MethodDelete, "/v1/nodes/"+url.PathEscape(name), v, nil, &out)
}

func (s *Server) registerFarm(hapi huma.API) {
	type named struct {
		Name string `path:"name"`
	}
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/servers", id: "list-servers", tag: "Nodes", summary: "List servers",
	}, func(ctx context.Context, _ *struct{}) (*answer[[]ServerView], error) {
		out, err := s.listServers(ctx)
		return &answer[[]ServerView]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodDelete, path: "/v1/servers/{name}", id: "remove-server", tag: "Nodes", summary: "Remove a server",
		description: "Refused when the servers that are left would be no majority.",
	}, func(ctx context.Context, in *named) (*struct{}, error) {
		return nil, s.removeServer(ctx, in.Name)
	})
	s.registerTokens(hapi)
	register(s, hapi, operation{
		method: http.MethodPatch, path: "/v1/nodes/{name}", id: "update-node", tag: "Nodes", summary: "Bind a node's region, zone and labels",
		description: "What is bound holds against the node's own word. No stamp moves because of it.",
	}, func(ctx context.Context, in *struct {
		Name string `path:"name"`
		Body NodeUpdate
	},
	) (*answer[NodeView], error) {
		out, err := s.updateNode(ctx, in.Name, in.Body)
		return &answer[NodeView]{out}, err
	})
	s.registerSnapshot(hapi)
	for verb, cordoned := range map[string]bool{"cordon": true, "uncordon": false} {
		summary := map[bool]string{true: "Keep new stamps off a node", false: "Let new stamps on a node again"}[cordoned]
		register(s, hapi, operation{
			method: http.MethodPost, path: "/v1/nodes/{name}/" + verb, id: verb + "-node", tag: "Nodes", summary: summary,
		}, func(ctx context.Context, in *named) (*answer[NodeView], error) {
			out, err := s.cordonNode(ctx, in.Name, cordoned)
			return &answer[NodeView]{out}, err
		})
	}
	register(s, hapi, operation{
		method: http.MethodDelete, path: "/v1/nodes/{name}", id: "remove-node", tag: "Nodes", summary: "Remove a node",
		description: "Its certificate opens nothing from then on. Stamps without data are placed elsewhere.",
	}, func(ctx context.Context, in *struct {
		Name     string `path:"name"`
		LoseData bool   `query:"lose-data" doc:"Give up the data of stamps that are on it"`
	},
	) (*answer[NodeRemoved], error) {
		out, err := s.removeNode(ctx, in.Name, in.LoseData)
		return &answer[NodeRemoved]{out}, err
	})
}

func (s *Server) listServers(ctx context.Context) ([]ServerView, error) {
	members, err := s.c.Store.Members(ctx)
	if err != nil {
		return nil, err
	}
	out := []ServerView{}
	for server := range s.c.Store.View().Servers.All() {
		v := ServerView{Server: server, State: "unreachable"}
		if len(members) == 0 { // alone, and answering
			v.State, v.Leader = "ready", true
		}
		for _, m := range members {
			if m.Address != server.Peer {
				continue
			}
			v.Leader = m.Leads
			switch {
			case m.Learner:
				v.State = "learning"
			case m.Answers:
				v.State = "ready"
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// errAnotherServer: a server that has left could not record it.
var errAnotherServer = bulkhead.Errorf(bulkhead.ErrConflict, "a server does not remove itself: another one must be asked").
	WithHint("bulkhead server list; then bulkhead server remove NAME --api ADDRESS with the address of another")

func (s *Server) removeServer(ctx context.Context, text string) error {
	name, err := bulkhead.ParseNodeName(text)
	if err != nil {
		return err
	}
	server, ok := s.c.Store.View().Servers.Get(name)
	if !ok {
		return bulkhead.Errorf(bulkhead.ErrNotFound, "server %s does not exist", name).WithHint("bulkhead server list")
	}
	if s.c.Store.View().Servers.Len() == 1 {
		return bulkhead.Errorf(bulkhead.ErrConflict, "%s is the only server: without it there is no state", name).WithHint("bulkhead down --destroy removes all of it")
	}
	if name == s.c.Name {
		return errAnotherServer
	}
	if err := s.c.Store.RemoveMember(ctx, server.Peer); err != nil {
		if e := bulkhead.KindOf(err); e == bulkhead.ErrConflict {
			return bulkhead.Errorf(e, "server %s cannot be removed: %w", name, err).WithHint("bring the others up first: bulkhead server list")
		}
		return err
	}
	return s.c.Store.Update(ctx, func(tx *store.Tx) error {
		server, ok := tx.Servers.Get(name)
		if !ok {
			return nil
		}
		tx.Servers.Delete(name)
		now := s.c.Now().UTC()
		if server.UID != "" {
			tx.Removed.Put(bulkhead.Removed{UID: server.UID, Name: name, Time: now, By: actor(ctx)})
		}
		tx.Event(bulkhead.Event{Time: now, Type: "server.removed", Actor: actor(ctx), Message: fmt.Sprintf("server %s", name)})
		return nil
	})
}

func (s *Server) cordonNode(ctx context.Context, text string, cordoned bool) (NodeView, error) {
	name, err := bulkhead.ParseNodeName(text)
	if err != nil {
		return NodeView{}, err
	}
	node, err := s.changeNode(ctx, name, func(n *bulkhead.Node) (kind, what string) {
		if n.Cordoned == cordoned {
			return "", ""
		}
		n.Cordoned = cordoned
		if cordoned {
			return "node.cordoned", "takes no new stamps"
		}
		return "node.uncordoned", "takes new stamps again"
	})
	if err != nil {
		return NodeView{}, err
	}
	return showNode(s.c.Store.View(), node), nil
}

func (s *Server) updateNode(ctx context.Context, text string, u NodeUpdate) (NodeView, error) {
	name, err := bulkhead.ParseNodeName(text)
	if err != nil {
		return NodeView{}, err
	}
	node, err := s.changeNode(ctx, name, func(n *bulkhead.Node) (kind, what string) {
		was := n.Bound.String()
		if u.Region != nil {
			n.Bound.Region = *u.Region
		}
		if u.Zone != nil {
			n.Bound.Zone = *u.Zone
		}
		if n.Bound.Labels == nil {
			n.Bound.Labels = map[string]string{}
		}
		for _, label := range u.Unset {
			delete(n.Bound.Labels, label)
		}
		maps.Copy(n.Bound.Labels, u.Labels)
		n.Settle()
		if is := n.Bound.String(); is != was {
			return "node.bound", "is bound to " + cmp.Or(is, "nothing")
		}
		return "", ""
	})
	if err != nil {
		return NodeView{}, err
	}
	return showNode(s.c.Store.View(), node), nil
}

// checkAttributes checks attributes that are to be bound.
func checkAttributes(a bulkhead.Attributes) error {
	return bulkhead.Node{Region: a.Region, Zone: a.Zone, Labels: a.Labels}.CheckLabels()
}

// changeNode changes what operators say of a node, with the event that change names;
// none: it is so already.
func (s *Server) changeNode(ctx context.Context, name bulkhead.NodeName, change func(*bulkhead.Node) (kind, what string)) (bulkhead.Node, error) {
	var node bulkhead.Node
	err := s.c.Store.Update(ctx, func(tx *store.Tx) error {
		var ok bool
		if node, ok = tx.Nodes.Get(name); !ok {
			return noNode(name)
		}
		kind, what := change(&node)
		if kind == "" {
			return nil
		}
		if err := node.CheckLabels(); err != nil {
			return err
		}
		tx.Nodes.Put(node)
		tx.Event(bulkhead.Event{Type: kind, Node: name, Actor: actor(ctx), Message: fmt.Sprintf("node %s %s", name, what)})
		return nil
	})
	return node, err
}

func noNode(name bulkhead.NodeName) error {
	return bulkhead.Errorf(bulkhead.ErrNotFound, "node %s does not exist", name).WithHint("bulkhead node list")
}

// atOnce is how many stamps of a removed node one transaction moves.
const atOnce = 300

// removeNode ends a membership. The node's session ends with it (see assign), its
// certificate is refused from then on, and other gateways forget it.
func (s *Server) removeNode(ctx context.Context, text string, loseData bool) (NodeRemoved, error) {
	name, err := bulkhead.ParseNodeName(text)
	if err != nil {
		return NodeRemoved{}, err
	}
	out := NodeRemoved{Node: name, Moved: []bulkhead.StampName{}, Lost: []bulkhead.StampName{}}
	err = s.c.Store.Update(ctx, func(tx *store.Tx) error {
		out.Moved, out.Lost = out.Moved[:0], out.Lost[:0]
		var stays []string // as drainNode says
		node, ok := tx.Nodes.Get(name)
		if !ok {
			return noNode(name)
		}
		for stamp := range tx.Stamps.All() { // all: none may come to the node meanwhile
			if stamp.Node != name {
				continue
			}
			if len(stamp.Volumes) > 0 {
				out.Lost = append(out.Lost, stamp.Name)
				if stamp.Desired == bulkhead.DesiredDeleted && !stamp.Purge {
					stays = append(stays, string(stamp.Name))
				}
			} else {
				out.Moved = append(out.Moved, stamp.Name)
			}
		}
		switch {
		case len(stays) > 0 && len(stays) == len(out.Lost) && !loseData:
			return bulkhead.Errorf(bulkhead.ErrConflict, "node %s has the data of %s, deleted and kept", name, some(stays)).
				WithHint("bulkhead stamp delete NAME --purge drops it, bulkhead stamp create NAME --restore takes it back; --lose-data gives it up")
		case len(out.Lost) > 0 && !loseData:
			return bulkhead.Errorf(bulkhead.ErrConflict, "node %s has the data of %s", name, some(names(out.Lost))).
				WithHint("bulkhead node drain %s moves stamps elsewhere, bulkhead stamp delete NAME --purge drops what is deleted; --lose-data gives all up", name)
		case len(out.Moved)+len(out.Lost) > 0 && node.Takes():
			return bulkhead.Errorf(bulkhead.ErrConflict, "node %s is up and has %d stamps", name, len(out.Moved)+len(out.Lost)).
				WithHint("bulkhead node cordon %s first: so nobody removes a machine by mistake", name)
		}
		now := s.c.Now().UTC()
		tx.Nodes.Delete(name)
		if node.UID != "" {
			tx.Removed.Put(bulkhead.Removed{UID: node.UID, Name: name, Time: now, By: actor(ctx)})
		}
		tx.Event(bulkhead.Event{Time: now, Type: "node.removed", Node: name, Actor: actor(ctx), Message: fmt.Sprintf("node %s", name)})
		return nil
	})
	if err != nil {
		return NodeRemoved{}, err
	}
	if err := s.unbury(ctx, name); err != nil {
		return out, err
	}
	for some := range slices.Chunk(slices.Concat(out.Moved, out.Lost), atOnce) {
		if err := s.unplace(ctx, name, some); err != nil {
			return out, err
		}
	}
	return out, nil
}

// unbury drops the tombs of a node that is no longer of the farm. Those that are left when
// this server ends meanwhile are of a membership that nobody has.
func (s *Server) unbury(ctx context.Context, node bulkhead.NodeName) error {
	tombs := slices.Collect(s.c.Store.View().Tombs.Under(store.NewTombKey(node, "")))
	for some := range slices.Chunk(tombs, atOnce) {
		err := s.c.Store.Update(ctx, func(tx *store.Tx) error {
			for _, t := range some {
				tx.Tombs.Delete(store.NewTombKey(node, t.UID))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unplace takes stamps from a node that is no longer of the farm. The controller
// does the same for those that are left when this server ends meanwhile.
func (s *Server) unplace(ctx context.Context, node bulkhead.NodeName, stamps []bulkhead.StampName) error {
	return s.c.Store.Update(ctx, func(tx *store.Tx) error {
		for _, name := range stamps {
			if stamp, ok := tx.Stamps.Get(name); ok && stamp.Node == node {
				stamp.Node, stamp.Placement = "", fmt.Sprintf("node %s was removed", node)
				tx.Stamps.Put(stamp)
			}
		}
		return nil
	})
}

func names[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, n := range in {
		out[i] = string(n)
	}
	return out
}

// relay hands an order for a node to the server that has its session. It is the
// caller's end; orders is the other.
func (n *nodeAPI) relay(ctx context.Context, node bulkhead.NodeName, o bulkhead.NodeOrder) error {
	view := n.s.c.Store.View()
	record, ok := view.Nodes.Get(node)
	server, known := view.Servers.Get(record.Server)
	self, _ := view.Servers.Get(n.s.c.Name)
	if !ok || !known || record.Server == n.s.c.Name || n.s.c.Dial == nil || o.Stream == nil {
		return silent(node)
	}
	o.Stream.At = self.NodeAPI
	way := NewWay([]string{server.NodeAPI}, n.s.c.Dial)
	defer way.http.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return way.ask(ctx, "/v1/server/orders", relayed{node, o}, &struct{}{})
}

// relayed is an order that one server hands to another.
type relayed struct {
	Node  bulkhead.NodeName  `json:"node"`
	Order bulkhead.NodeOrder `json:"order"`
}

func silent(node bulkhead.NodeName) error {
	return bulkhead.Errorf(bulkhead.ErrUnavailable, "node %s does not answer", node).WithHint("bulkhead node list")
}

// orders takes an order for a node whose session is here from another server.
func (n *nodeAPI) orders(w http.ResponseWriter, r *http.Request) {
	caller, err := n.caller(r)
	if err == nil {
		err = n.fellow(caller)
	}
	if err != nil {
		n.refuse(w, r, caller, err)
		return
	}
	var in relayed
	if err = json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&in); err != nil {
		err = bulkhead.Errorf(bulkhead.ErrInvalid, "the order cannot be read: %w", err)
	}
	if err == nil && in.Order.Stream == nil {
		err = bulkhead.Errorf(bulkhead.ErrInvalid, "only requests for streams are passed on")
	}
	if err == nil {
		session := n.dispatch.session(in.Node)
		err = silent(in.Node)
		if session != nil {
			select {
			case session.orders <- in.Order:
				err = nil
			case <-session.done:
			case <-r.Context().Done():
			}
		}
	}
	writeAnswer(w, struct{}{}, err)
}

// elsewhere serves what the registry of this server lacks from those of others:
// a release is published to one server and copied to the rest afterwards.
func (n *nodeAPI) elsewhere(w http.ResponseWriter, r *http.Request) {
	first := &unlessMissing{ResponseWriter: w}
	n.s.c.Registry.ServeHTTP(first, r)
	if !first.missing {
		return
	}
	if r.Header.Get(fromServer) == "" && n.s.c.Dial != nil {
		for server := range n.s.c.Store.View().Servers.All() {
			if server.Name != n.s.c.Name && n.pass(w, r, server.NodeAPI) {
				return
			}
		}
	}
	http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no server has it"}]}`, http.StatusNotFound)
}

// fromServer marks a pull that another server asks for: it is not passed on again.
const fromServer = "Bulkhead-From-Server"

// pass answers a pull with what another server has; false: it has nothing.
func (n *nodeAPI) pass(w http.ResponseWriter, r *http.Request, address string) bool {
	way := NewWay([]string{address}, n.s.c.Dial)
	defer way.http.CloseIdleConnections()
	req, err := http.NewRequestWithContext(r.Context(), r.Method, base+r.URL.RequestURI(), nil)
	if err != nil {
		return false
	}
	for _, name := range []string{"Accept", "Range", "If-Match", "If-None-Match"} {
		if v := r.Header.Values(name); len(v) > 0 {
			req.Header[name] = v
		}
	}
	req.Header.Set(fromServer, string(n.s.c.Name))
	resp, err := way.http.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return false
	}
	for name, v := range resp.Header {
		w.Header()[name] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // cut short: the node's digest check finds it, and it asks again
	return true
}

// unlessMissing passes an answer on unless it is that nothing was found.
type unlessMissing struct {
	http.ResponseWriter
	missing, begun bool
}

func (u *unlessMissing) WriteHeader(status int) {
	if status == http.StatusNotFound && !u.begun {
		u.missing = true
		for name := range u.Header() {
			if strings.HasPrefix(name, "Content-") {
				u.Header().Del(name)
			}
		}
		return
	}
	u.begun = true
	u.ResponseWriter.WriteHeader(status)
}

func (u *unlessMissing) Write(b []byte) (int, error) {
	if u.missing {
		return len(b), nil
	}
	u.begun = true
	return u.ResponseWriter.Write(b)
}

func (u *unlessMissing) Unwrap() http.ResponseWriter { return u.ResponseWriter }
