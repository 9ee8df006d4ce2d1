package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/store"

	"github.com/danielgtaylor/huma/v2"
)

// StampMove is a move of a stamp, under way or ended.
type StampMove struct {
	ID      string                 `json:"id"`
	From    bulkhead.NodeName      `json:"from"`
	To      bulkhead.NodeName      `json:"to,omitempty" doc:"Empty until it is chosen"`
	Phase   bulkhead.TransferPhase `json:"phase,omitempty" enum:"planned,copying,switching,starting" doc:"How far it has come; absent when it has ended"`
	Message string                 `json:"message,omitempty" doc:"What keeps it, or why it was given up"`
	Began   time.Time              `json:"began"`
	Ended   *time.Time             `json:"ended,omitempty"`
	Bytes   int64                  `json:"bytes" doc:"Copied so far, in all passes over the data"`
	Passes  int                    `json:"passes"`
	HeldMS  int64                  `json:"heldMs,omitempty" doc:"For how long requests were held, milliseconds"`
	GivenUp bool                   `json:"givenUp,omitempty" doc:"The stamp is still where it was"`
}

// MoveSpec says where a stamp is to move.
type MoveSpec struct {
	To string `json:"to,omitempty" doc:"Name of a node; empty: the best of all others"`
}

// NodeDrain is what draining a node leads to.
type NodeDrain struct {
	Node  NodeView        `json:"node"`
	Moves []bulkhead.Move `json:"moves" nullable:"false" doc:"Where each of its stamps could go now; they move one after the other, and where to is decided when each begins"`
	// Stays does not move.
	Stays []bulkhead.StampName `json:"stays" nullable:"false" doc:"Deleted stamps whose data is kept there: it stays until they are restored or purged"`
}

// MoveStamp begins to move a stamp to another node; empty: to the best.
func (c *Client) MoveStamp(ctx context.Context, name, to string) (Stamp, error) {
	var out Stamp
	return out, c.call(ctx, http.MethodPost, "/v1/stamps/"+url.PathEscape(name)+"/move", nil, MoveSpec{to}, &out)
}

// CancelMove ends the move of a stamp that has not been handed over.
func (c *Client) CancelMove(ctx context.Context, name string) (Stamp, error) {
	var out Stamp
	return out, c.call(ctx, http.MethodDelete, "/v1/stamps/"+url.PathEscape(name)+"/move", nil, nil, &out)
}

// DrainNode lets all stamps of a node move elsewhere.
func (c *Client) DrainNode(ctx context.Context, name string) (NodeDrain, error) {
	var out NodeDrain
	return out, c.call(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(name)+"/drain", nil, nil, &out)
}

// UndrainNode lets a node take stamps again. A move that is under way goes on.
func (c *Client) UndrainNode(ctx context.Context, name string) (NodeView, error) {
	var out NodeView
	return out, c.call(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(name)+"/undrain", nil, nil, &out)
}

func (s *Server) registerMoves(hapi huma.API) {
	type named struct {
		Name string `path:"name"`
	}
	register(s, hapi, operation{
		method: http.MethodPost, path: "/v1/stamps/{name}/move", id: "move-stamp", tag: "Stamps", summary: "Move a stamp to another node",
		description: "Its data is copied while it runs, then it stops, the rest is copied, and it starts there; meanwhile its requests are held.",
	}, func(ctx context.Context, in *struct {
		StampInput
		Body MoveSpec
	},
	) (*answer[Stamp], error) {
		out, err := s.moveStamp(ctx, in.Name, in.Body.To)
		return &answer[Stamp]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodDelete, path: "/v1/stamps/{name}/move", id: "cancel-move", tag: "Stamps", summary: "Cancel the move of a stamp",
		description: "Refused once the other node has the stamp.",
	}, func(ctx context.Context, in *StampInput) (*answer[Stamp], error) {
		out, err := s.cancelMove(ctx, in.Name)
		return &answer[Stamp]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodPost, path: "/v1/nodes/{name}/drain", id: "drain-node", tag: "Nodes", summary: "Move all stamps off a node",
		description: "Refused, and nothing changed, when one of them has no place elsewhere.",
	}, func(ctx context.Context, in *named) (*answer[NodeDrain], error) {
		out, err := s.drainNode(ctx, in.Name)
		return &answer[NodeDrain]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodPost, path: "/v1/nodes/{name}/undrain", id: "undrain-node", tag: "Nodes", summary: "Let a node that was drained take stamps again",
	}, func(ctx context.Context, in *named) (*answer[NodeView], error) {
		out, err := s.undrainNode(ctx, in.Name)
		return &answer[NodeView]{out}, err
	})
}

// moveStamp records that a stamp is to move. Whether it can is looked at here, so that
// who asks hears it at once; the leader decides anew.
func (s *Server) moveStamp(ctx context.Context, name, to string) (Stamp, error) {
	var target bulkhead.NodeName
	if to != "" {
		var err error
		if target, err = bulkhead.ParseNodeName(to); err != nil {
			return Stamp{}, err
		}
	}
	var made bulkhead.Stamp
	request := requestOf(ctx)
	err := s.c.Store.Update(ctx, func(tx *store.Tx) error {
		stamp, err := liveStamp(tx, name)
		if err != nil {
			return err
		}
		if _, again := requested(stamp, request); again { // it has heard no answer
			made = stamp
			return nil
		}
		if m := stamp.Transfer; m != nil {
			return bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is moving to %s already", stamp.Name, cmp.Or(m.To, "another node")).
				WithHint("bulkhead stamp move %s --cancel", stamp.Name)
		}
		move, err := s.c.Target(s.c.Store.View(), &stamp, target)
		if err != nil {
			return err
		}
		move.ID, move.Phase, move.Actor, move.Began = rand.Text(), bulkhead.TransferPlanned, actor(ctx), s.c.Now().UTC()
		move.To, move.Units, move.Reason = target, nil, ""
		stamp.Transfer = &move
		if request != "" {
			stamp.Request = remember(stamp.Request, request, "move")
		}
		tx.Stamps.Put(stamp)
		made = stamp
		return nil
	})
	if err != nil {
		return Stamp{}, err
	}
	return s.show(s.c.Store.View(), made, true), nil
}

// cancelMove gives a move up, as long as From has the stamp or can have it back.
func (s *Server) cancelMove(ctx context.Context, name string) (Stamp, error) {
	var made bulkhead.Stamp
	request := requestOf(ctx)
	err := s.c.Store.Update(ctx, func(tx *store.Tx) error {
		stamp, err := liveStamp(tx, name)
		if err != nil {
			return err
		}
		if _, again := requested(stamp, request); again {
			made = stamp
			return nil
		}
		m := stamp.Transfer
		switch {
		case m == nil:
			return bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is not moving", stamp.Name)
		case m.Phase == bulkhead.TransferStarting:
			return bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is on %s already", stamp.Name, m.To).
				WithHint("bulkhead stamp move %s --to %s takes it back", stamp.Name, m.From)
		case m.Phase == bulkhead.TransferSwitching:
			stamp.Epoch++ // From has it again
		}
		now := s.c.Now().UTC()
		stamp.Transferred = &bulkhead.Transferred{ID: m.ID, From: m.From, To: m.To, Began: m.Began, Ended: now, GivenUp: "cancelled by " + actor(ctx)}
		stamp.Transfer = nil
		if request != "" {
			stamp.Request = remember(stamp.Request, request, "cancel-move")
		}
		tx.Arrivals.Delete(stamp.Name)
		tx.Stamps.Put(stamp)
		tx.Event(bulkhead.Event{Time: now, Type: "stamp.move-cancelled", Stamp: stamp.Name, Node: m.From, Actor: actor(ctx), Message: fmt.Sprintf("it stays on %s", m.From)})
		made = stamp
		return nil
	})
	if err != nil {
		return Stamp{}, err
	}
	return s.show(s.c.Store.View(), made, true), nil
}

// drainNode asks whether all stamps of the node have a place elsewhere, and lets them
// go there. What has changed when they go is looked at then.
func (s *Server) drainNode(ctx context.Context, text string) (NodeDrain, error) {
	name, err := bulkhead.ParseNodeName(text)
	if err != nil {
		return NodeDrain{}, err
	}
	node, ok := s.c.Store.View().Nodes.Get(name)
	switch {
	case !ok:
		return NodeDrain{}, noNode(name)
	case node.State != bulkhead.NodeReady:
		return NodeDrain{}, bulkhead.Errorf(bulkhead.ErrConflict, "node %s is %s: what is on it cannot be copied", name, node.State).
			WithHint("when it is gone for good: bulkhead node remove %s", name)
	}
	lost := []bulkhead.NodeName{name}
	for n := range s.c.Store.View().Nodes.All() { // what is on them needs places, too
		if n.Draining && n.Name != name {
			lost = append(lost, n.Name)
		}
	}
	forecast, err := s.c.Forecast(s.c.Store.View(), bulkhead.WhatIf{Lost: lost})
	if err != nil {
		return NodeDrain{}, err
	}
	moves := []bulkhead.Move{}
	var stuck []string
	why := ""
	for _, m := range forecast.Moves {
		if m.From == name {
			moves = append(moves, m)
		}
		if m.To == "" {
			stuck = append(stuck, string(m.Stamp))
			why = cmp.Or(why, m.Reason)
		}
	}
	if len(stuck) > 0 {
		slices.Sort(stuck)
		if s.c.Store.View().Nodes.Len() == 1 {
			why = "it is the only node of the farm"
		}
		return NodeDrain{}, bulkhead.Errorf(bulkhead.ErrExhausted, "node %s cannot be drained: %s would have no place: %s", name, some(stuck), why).
			WithHint("add a node, or delete or shrink stamps; nothing was changed")
	}
	if len(moves) > 0 && node.Gateway == "" {
		return NodeDrain{}, bulkhead.Errorf(bulkhead.ErrConflict, "other nodes do not reach %s: it advertises no address", name).WithHint("start it with --advertise")
	}
	node, err = s.changeNode(ctx, name, func(n *bulkhead.Node) (kind, what string) {
		if n.Draining {
			return "", ""
		}
		n.Draining = true
		return "node.draining", "is being drained"
	})
	if err != nil {
		return NodeDrain{}, err
	}
	view, stays := s.c.Store.View(), []bulkhead.StampName{}
	for stamp := range view.Stamps.On(name) {
		if st, ok := view.Stamps.Get(stamp); ok && st.Node == name && st.Desired == bulkhead.DesiredDeleted && !st.Purge && len(st.Volumes) > 0 {
			stays = append(stays, stamp)
		}
	}
	return NodeDrain{Node: showNode(view, node), Moves: moves, Stays: stays}, nil
}

func (s *Server) undrainNode(ctx context.Context, text string) (NodeView, error) {
	name, err := bulkhead.ParseNodeName(text)
	if err != nil {
		return NodeView{}, err
	}
	node, err := s.changeNode(ctx, name, func(n *bulkhead.Node) (kind, what string) {
		if !n.Draining {
			return "", ""
		}
		n.Draining = false
		return "node.undrained", "takes new stamps again"
	})
	if err != nil {
		return NodeView{}, err
	}
	return showNode(s.c.Store.View(), node), nil
}

// showMove is the move of a stamp that is under way, or else its last; nil: none.
func showMove(view *store.Snapshot, st *bulkhead.Stamp) *StampMove {
	if m := st.Transfer; m != nil {
		out := &StampMove{ID: m.ID, From: m.From, To: m.To, Phase: m.Phase, Began: m.Began, Bytes: m.Bytes, Passes: m.Passes}
		if a, ok := view.Arrivals.Get(st.Name); ok && a.Move == m.ID && m.Phase != bulkhead.TransferStarting {
			out.Bytes, out.Passes, out.Message = a.Bytes, a.Passes, a.Message
		}
		return out
	}
	m := st.Transferred
	if m == nil {
		return nil
	}
	return &StampMove{
		ID: m.ID, From: m.From, To: m.To, Message: m.GivenUp, Began: m.Began, Ended: &m.Ended, Bytes: m.Bytes, Passes: m.Passes,
		HeldMS: m.Held.Milliseconds(), GivenUp: m.GivenUp != "",
	}
}

// tellFetch tells the node what to copy of a stamp that is to come to it, or that it
// need not any more. The stamp is the zero one if there is none of that name.
func (session *nodeSession) tellFetch(view *store.Snapshot, stamp bulkhead.Stamp, name bulkhead.StampName, conn NodeConn) error {
	was, had := session.asked[name]
	m := stamp.Transfer
	rate := view.Policy().CopyRate
	wanted := m != nil && m.To == session.node && (m.Phase == bulkhead.TransferCopying || m.Phase == bulkhead.TransferSwitching)
	switch {
	case !wanted && !had, wanted && had && was.Move == m.ID && was.Last == stamp.Switching() && was.Rate == rate:
		return nil
	case had && (!wanted || was.Move != m.ID):
		delete(session.asked, name)
		if stamp.Node != session.node || stamp.Copy != was.Move { // it has not come
			if err := conn.Send(bulkhead.NodeOrder{Unfetch: was.Move}); err != nil {
				return err
			}
		}
	}
	if !wanted {
		return nil
	}
	from, _ := view.Nodes.Get(m.From)
	fetch := bulkhead.Fetch{
		StampRef: bulkhead.StampRef{Name: name, UID: stamp.UID, Epoch: stamp.Epoch},
		Move:     m.ID, From: bulkhead.Peer{Node: m.From, UID: from.UID, Gateway: from.Gateway}, Bundle: stamp.Bundle, Rate: rate, Last: stamp.Switching(),
	}
	for _, s := range stamp.Services {
		if !slices.ContainsFunc(fetch.Images, func(i bulkhead.Image) bool { return i.Digest == s.Image.Digest }) {
			fetch.Images = append(fetch.Images, s.Image)
		}
	}
	session.asked[name] = fetch
	return conn.Send(bulkhead.NodeOrder{Fetch: &fetch})
}

// enterArrival takes the word of the node that a stamp moves to, as long as it does.
func enterArrival(tx *store.Tx, node bulkhead.NodeName, a bulkhead.Arrival) {
	stamp, ok := tx.Stamps.Peek(a.Name)
	if !ok || stamp.Transfer == nil || stamp.Transfer.ID != a.Move || stamp.Transfer.To != node || stamp.Transfer.Phase == bulkhead.TransferStarting {
		return
	}
	a.Node, a.Message = node, strings.ToValidUTF8(a.Message[:min(len(a.Message), 500)], "")
	tx.Arrivals.PutNew(a)
}
