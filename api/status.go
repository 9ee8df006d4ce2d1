package api

import (
	"context"
	"net/http"
	"net/url"

	"bulkhead"
	"bulkhead/store"

	"github.com/danielgtaylor/huma/v2"
)

// Status sums up the cluster.
type Status struct {
	Version  string                     `json:"version" doc:"Of the server"`
	Domain   string                     `json:"domain" doc:"What stamps' host names end in"`
	Products int                        `json:"products"`
	Releases int                        `json:"releases"`
	Stamps   map[bulkhead.Phase]int     `json:"stamps" doc:"How many stamps are in which phase"`
	Nodes    map[bulkhead.NodeState]int `json:"nodes" doc:"How many nodes are in which state"`
	Troubles []Trouble                  `json:"troubles" nullable:"false" doc:"What needs attention"`
}

// Trouble is something that needs attention.
type Trouble struct {
	Stamp   bulkhead.StampName `json:"stamp,omitempty"`
	Node    bulkhead.NodeName  `json:"node,omitempty"`
	Message string             `json:"message"`
}

// Version says what runs.
type Version struct {
	Version string `json:"version"`
}

// Status sums up the cluster.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	return out, c.call(ctx, http.MethodGet, "/v1/status", nil, nil, &out)
}

// Version is the server's.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var out Version
	return out, c.call(ctx, http.MethodGet, "/v1/version", nil, nil, &out)
}

// Ready tells whether the server can serve requests.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, nil, nil)
}

// Nodes lists the nodes by name.
func (c *Client) Nodes(ctx context.Context) ([]NodeView, error) {
	var out []NodeView
	return out, c.call(ctx, http.MethodGet, "/v1/nodes", nil, nil, &out)
}

// Node shows one node.
func (c *Client) Node(ctx context.Context, name string) (NodeView, error) {
	var out NodeView
	return out, c.call(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(name), nil, nil, &out)
}

// NodeView is a node and what is on it.
type NodeView struct {
	bulkhead.Node
	Stamps []bulkhead.StampName `json:"stamps" nullable:"false" doc:"Stamps that are placed on it"`
}

func (s *Server) registerStatus(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/version", id: "version", tag: "Platform", summary: "Version of the server",
	}, func(context.Context, *struct{}) (*answer[Version], error) {
		return &answer[Version]{Version{s.c.Version}}, nil
	})
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/status", id: "status", tag: "Platform", summary: "The cluster at a glance",
	}, func(context.Context, *struct{}) (*answer[Status], error) {
		view := s.c.Store.View()
		out := Status{
			Version: s.c.Version, Domain: s.c.Domain, Releases: view.Releases.Len(),
			Stamps: map[bulkhead.Phase]int{}, Nodes: map[bulkhead.NodeState]int{}, Troubles: []Trouble{},
		}
		products := map[bulkhead.ProductName]bool{}
		for r := range view.Releases.All() {
			products[r.Product] = true
		}
		out.Products = len(products)
		for n := range view.Nodes.All() {
			out.Nodes[n.State]++
			switch n.State {
			case bulkhead.NodeUnreachable:
				out.Troubles = append(out.Troubles, Trouble{Node: n.Name, Message: "does not answer since " + n.Silent.UTC().Format("2006-01-02 15:04:05Z")})
			case bulkhead.NodeLost:
				out.Troubles = append(out.Troubles, Trouble{Node: n.Name, Message: "is lost, silent since " + n.Silent.UTC().Format("2006-01-02 15:04:05Z") + ": its stamps without data went elsewhere"})
			}
		}
		for a := range view.Alarms.All() {
			out.Troubles = append(out.Troubles, Trouble{Message: a.Message})
		}
		if view.Nodes.Len() == 0 {
			out.Troubles = append(out.Troubles, Trouble{Message: "no node has joined: stamps cannot run"})
		}
		for st := range view.Stamps.All() {
			shown := s.show(view, st, false)
			if shown.Phase == bulkhead.PhaseDeleted {
				continue
			}
			out.Stamps[shown.Phase]++
			if shown.Phase == bulkhead.PhaseFailed || shown.Phase == bulkhead.PhaseDegraded || (shown.Phase == bulkhead.PhasePending && shown.Message != "") {
				out.Troubles = append(out.Troubles, Trouble{Stamp: st.Name, Message: string(shown.Phase) + ": " + shown.Message})
			}
		}
		return &answer[Status]{out}, nil
	})
}

func (s *Server) registerNodes(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/nodes", id: "list-nodes", tag: "Nodes", summary: "List nodes",
	}, func(context.Context, *struct{}) (*answer[[]NodeView], error) {
		out, view := []NodeView{}, s.c.Store.View()
		for n := range view.Nodes.All() {
			out = append(out, showNode(view, n))
		}
		return &answer[[]NodeView]{out}, nil
	})
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/nodes/{name}", id: "show-node", tag: "Nodes", summary: "Show a node",
	}, func(_ context.Context, in *struct {
		Name string `path:"name"`
	},
	) (*answer[NodeView], error) {
		name, err := bulkhead.ParseNodeName(in.Name)
		if err != nil {
			return nil, err
		}
		view := s.c.Store.View()
		n, ok := view.Nodes.Get(name)
		if !ok {
			return nil, bulkhead.Errorf(bulkhead.ErrNotFound, "node %s does not exist", name).WithHint("bulkhead node list")
		}
		return &answer[NodeView]{showNode(view, n)}, nil
	})
}

func showNode(view *store.Snapshot, n bulkhead.Node) NodeView {
	out := NodeView{Node: n, Stamps: []bulkhead.StampName{}}
	for name := range view.Stamps.On(n.Name) {
		if s, ok := view.Stamps.Get(name); ok && s.Node == n.Name { // else it is on its way
			out.Stamps = append(out.Stamps, name)
		}
	}
	return out
}
