package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"bulkhead"
	"bulkhead/store"

	"github.com/danielgtaylor/huma/v2"
)

// MostBatch is how many stamps one batch creates.
const MostBatch = 400

// StampBatch asks for many stamps at once: all are made, or none.
type StampBatch struct {
	Stamps []StampSpec `json:"stamps" maxItems:"400" nullable:"false" doc:"At most 400, and what they take of the state at most 4 MiB"`
}

// Placed says where one stamp of a batch is.
type Placed struct {
	Name      bulkhead.StampName `json:"name"`
	Node      bulkhead.NodeName  `json:"node,omitempty" doc:"Empty: it has none yet"`
	Placement string             `json:"placement,omitempty" doc:"Why that node, or why none"`
}

// CreateStamps makes new stamps: all, or none. With placed it waits until each has
// a node, or it is known why it has none.
func (c *Client) CreateStamps(ctx context.Context, specs []StampSpec, placed bool) ([]Placed, error) {
	v := map[string][]string{}
	if placed {
		v["placed"] = []string{"true"}
	}
	var out []Placed
	return out, c.call(ctx, http.MethodPost, "/v1/stamps/batch", v, StampBatch{specs}, &out)
}

// Policy is the farm's policy of placement.
func (c *Client) Policy(ctx context.Context) (bulkhead.Policy, error) {
	var out bulkhead.Policy
	return out, c.call(ctx, http.MethodGet, "/v1/policy", nil, nil, &out)
}

// SetPolicy sets the farm's policy of placement. Stamps that are placed stay.
func (c *Client) SetPolicy(ctx context.Context, p bulkhead.Policy) (bulkhead.Policy, error) {
	var out bulkhead.Policy
	return out, c.call(ctx, http.MethodPut, "/v1/policy", nil, p, &out)
}

// Forecast asks what would be if the farm were another than it is. It changes nothing.
func (c *Client) Forecast(ctx context.Context, what bulkhead.WhatIf) (bulkhead.Forecast, error) {
	var out bulkhead.Forecast
	return out, c.call(ctx, http.MethodPost, "/v1/plan/placement", nil, what, &out)
}

func (s *Server) registerPlacement(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodPost, path: "/v1/stamps/batch", id: "create-stamps", tag: "Stamps", summary: "Create many stamps",
		description: "All are made in one transaction, or none.",
	}, func(ctx context.Context, in *struct {
		Placed bool `query:"placed" doc:"Answer when each has a node, or it is known why it has none"`
		Body   StampBatch
	},
	) (*answer[[]Placed], error) {
		out, err := s.createStamps(ctx, in.Body.Stamps, in.Placed)
		return &answer[[]Placed]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/policy", id: "show-policy", tag: "Nodes", summary: "Show the policy of placement",
	}, func(context.Context, *struct{}) (*answer[bulkhead.Policy], error) {
		return &answer[bulkhead.Policy]{s.c.Store.View().Policy()}, nil
	})
	register(s, hapi, operation{
		method: http.MethodPut, path: "/v1/policy", id: "set-policy", tag: "Nodes", summary: "Set the policy of placement",
		description: "It counts for stamps that are placed from now on; those that are placed stay where they are.",
	}, func(ctx context.Context, in *struct{ Body bulkhead.Policy }) (*answer[bulkhead.Policy], error) {
		return &answer[bulkhead.Policy]{in.Body}, s.setPolicy(ctx, in.Body)
	})
	register(s, hapi, operation{
		method: http.MethodPost, path: "/v1/plan/placement", id: "plan-placement", tag: "Nodes", summary: "Say what would be if the farm were another",
		description: "Nodes lost, stamps and machines more. Nothing is changed.",
	}, func(_ context.Context, in *struct{ Body bulkhead.WhatIf }) (*answer[bulkhead.Forecast], error) {
		out, err := s.c.Forecast(s.c.Store.View(), in.Body)
		return &answer[bulkhead.Forecast]{out}, err
	})
}

func (s *Server) setPolicy(ctx context.Context, p bulkhead.Policy) error {
	if err := p.Validate(); err != nil {
		return err
	}
	return s.c.Store.Update(ctx, func(tx *store.Tx) error {
		if was, ok := tx.Policies.Get(store.PlacementPolicy); ok && same(was, p) {
			return nil
		}
		tx.Policies.Put(p)
		tx.Event(bulkhead.Event{Time: s.c.Now().UTC(), Type: "policy.changed", Actor: actor(ctx), Message: "the policy of placement was set"})
		return nil
	})
}

// createStamps makes all stamps or none.
func (s *Server) createStamps(ctx context.Context, specs []StampSpec, placed bool) ([]Placed, error) {
	if len(specs) == 0 || len(specs) > MostBatch {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "a batch of %d stamps: give 1 to %d", len(specs), MostBatch)
	}
	names := make([]bulkhead.StampName, len(specs))
	seen := map[bulkhead.StampName]bool{}
	for i, spec := range specs {
		var err error
		if names[i], err = bulkhead.ParseStampName(spec.Name); err != nil {
			return nil, err
		}
		if seen[names[i]] {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "stamp %s is twice in the batch", names[i])
		}
		seen[names[i]] = true
	}
	b := &batch{s: s, ctx: ctx, specs: specs, names: names, request: requestOf(ctx)}
	made := false
	if placed {
		var err error
		if made, err = b.createPlaced(); err != nil {
			return nil, err
		}
	}
	if !made {
		if err := s.c.Store.Update(ctx, b.create); err != nil {
			return nil, err
		}
	}
	if placed {
		if err := s.decided(ctx, names); err != nil {
			return nil, err
		}
	}
	view := s.c.Store.View()
	out := make([]Placed, len(names))
	for i, name := range names {
		st, _ := view.Stamps.Get(name) // or somebody has deleted it meanwhile
		out[i] = Placed{Name: name, Node: st.Node, Placement: st.Placement}
	}
	return out, nil
}

// batch are stamps that are made together.
type batch struct {
	s       *Server
	ctx     context.Context
	specs   []StampSpec
	names   []bulkhead.StampName
	request string
}

// design works out those of the stamps that this request has not made already.
func (b *batch) design(tx *store.Tx) ([]*bulkhead.Stamp, error) {
	var out []*bulkhead.Stamp
	for i, spec := range b.specs {
		if old, ok := tx.Stamps.Peek(b.names[i]); ok {
			if _, again := requested(old, b.request); again {
				continue
			}
			return nil, bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s exists already", b.names[i]).WithHint("no stamp of the batch was made")
		}
		st, err := b.s.design(tx, nil, change{
			name: b.names[i], product: spec.Product, version: spec.Release, modules: spec.Modules, set: spec.Settings, labels: spec.Labels, terms: spec.Terms, ctx: b.ctx,
		})
		if err != nil {
			return nil, err
		}
		st.Request = b.request
		out = append(out, &st)
	}
	return out, nil
}

// create makes the stamps; the leader places them.
func (b *batch) create(tx *store.Tx) error {
	stamps, err := b.design(tx)
	for _, st := range stamps {
		tx.Stamps.Put(*st)
	}
	b.tell(tx, len(stamps))
	return err
}

// tell adds an event for so many stamps that were made.
func (b *batch) tell(tx *store.Tx, made int) {
	if made > 0 {
		tx.Event(bulkhead.Event{
			Time: b.s.c.Now().UTC(), Type: "stamps.created", Actor: actor(b.ctx),
			Message: fmt.Sprintf("%d stamps created at once, from %s to %s", made, slices.Min(b.names), slices.Max(b.names)),
		})
	}
}

// createPlaced makes and places the stamps in one step, if this server leads. They are
// worked out before, on a view; that it still holds is a condition.
func (b *batch) createPlaced() (bool, error) {
	var stamps []*bulkhead.Stamp
	seen := errors.New("nothing is to be written yet")
	err := b.s.c.Store.Update(b.ctx, func(tx *store.Tx) (err error) {
		if stamps, err = b.design(tx); err == nil {
			err = seen
		}
		return err
	})
	if !errors.Is(err, seen) {
		return false, err
	}
	if len(stamps) == 0 {
		return true, nil
	}
	return b.s.c.Create(b.ctx, stamps, func(tx *store.Tx) error {
		missing := 0
		for _, st := range stamps {
			switch was, ok := tx.Stamps.Peek(st.Name); {
			case !ok:
				missing++
			case was.UID != st.UID:
				return bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s exists already", st.Name).WithHint("no stamp of the batch was made")
			}
			if !tx.Releases.Has(store.NewReleaseKey(st.Product, st.Version)) {
				return bulkhead.Errorf(bulkhead.ErrConflict, "release %s %s was just deleted", st.Product, st.Version)
			}
		}
		b.tell(tx, missing)
		return nil
	})
}

// decided waits until each of the stamps has a node, or a reason why not.
func (s *Server) decided(ctx context.Context, names []bulkhead.StampName) error {
	waiting := make(map[string]bool, len(names))
	for _, name := range names {
		waiting[string(name)] = true
	}
	look := func(view *store.Snapshot, name string) {
		if st, ok := view.Stamps.Get(bulkhead.StampName(name)); !ok || st.Node != "" || st.Placement != "" {
			delete(waiting, name)
		}
	}
	all := func(view *store.Snapshot) {
		for name := range waiting {
			look(view, name)
		}
	}
	if all(s.c.Store.View()); len(waiting) == 0 {
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	view, changes := s.c.Store.WatchMany(ctx)
	for all(view); len(waiting) > 0; {
		changed, ok := <-changes
		if !ok {
			return context.Cause(ctx)
		}
		view := s.c.Store.View()
		for _, c := range changed {
			switch {
			case c.Everything():
				all(view)
			case c.Table == store.Stamps && waiting[c.Key]:
				look(view, c.Key)
			}
		}
	}
	return nil
}

// checkTerms refuses terms that no farm could meet, or that name a tier which the
// policy does not have.
func checkTerms(t bulkhead.Terms, policy bulkhead.Policy) error {
	if err := bulkhead.Faulty("the terms of the stamp are refused", t.Validate("terms")); err != nil {
		return err
	}
	if _, ok := policy.Tiers[t.Tier]; t.Tier != "" && !ok {
		known := "the policy has none"
		if len(policy.Tiers) > 0 {
			known = "there are " + strings.Join(slices.Sorted(maps.Keys(policy.Tiers)), ", ")
		}
		return bulkhead.Errorf(bulkhead.ErrInvalid, "tier %s does not exist: %s", t.Tier, known).WithHint("bulkhead plan policy --set FILE sets tiers")
	}
	return nil
}

// termFacts are the terms of a stamp by field, for differences.
func termFacts(st *bulkhead.Stamp, put func(key, value string)) {
	for key, value := range object(st.Terms) {
		put("terms."+key, string(value))
	}
}

// preempted tells whether a stamp that should run was stopped for another's sake,
// and says so.
func preempted(st *bulkhead.Stamp) (message string, ok bool) {
	if st.Preempted == "" || st.Desired != bulkhead.DesiredRunning {
		return "", false
	}
	return st.Preempted + "; it runs again when there is room", true
}

// termsOf are the terms that a change leaves a stamp with.
func termsOf(old bulkhead.Terms, ch change) bulkhead.Terms {
	return *cmp.Or(ch.terms, &old)
}
