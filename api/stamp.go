package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
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

// StampSpec is what a user says of a stamp: the body of create and apply, and a
// document of `bulkhead apply`.
type StampSpec struct {
	Name    string   `json:"name" doc:"A DNS label, at most 40 bytes; normalised to lower case"`
	Product string   `json:"product" doc:"The product of which the stamp is a copy"`
	Release string   `json:"release,omitempty" doc:"Version of the release; empty: the latest published"`
	Modules []string `json:"modules,omitempty" nullable:"false" doc:"Modules of the product; what they need comes along"`
	// Settings that the stamp sets. Secret ones are sealed and never come back.
	Settings map[string]json.RawMessage `json:"settings,omitempty" doc:"Values of the release's settings, by name"`
	Labels   map[string]string          `json:"labels,omitempty" doc:"For people and selections"`
	Terms    *bulkhead.Terms            `json:"terms,omitempty" doc:"What the stamp asks of the node that it is placed on; absent: nothing but room"`
}

// StampUpdate changes a stamp. What is absent stays as it is.
type StampUpdate struct {
	Release  *string                    `json:"release,omitempty" doc:"Version of another release of the same product"`
	Modules  *[]string                  `json:"modules,omitempty" doc:"All modules that the stamp has from now on"`
	Settings map[string]json.RawMessage `json:"settings,omitempty" doc:"Settings to set; others stay"`
	Unset    []string                   `json:"unset,omitempty" nullable:"false" doc:"Settings that return to their default"`
	Labels   map[string]string          `json:"labels,omitempty" doc:"Labels to set; an empty value removes one"`
	Terms    *bulkhead.Terms            `json:"terms,omitempty" doc:"All terms that the stamp has from now on; where it is placed already it stays"`
}

// Stamp is what the API shows of a stamp.
type Stamp struct {
	Name       bulkhead.StampName         `json:"name"`
	UID        string                     `json:"uid" doc:"Tells this stamp from a later one of the same name"`
	Product    bulkhead.ProductName       `json:"product"`
	Release    string                     `json:"release" doc:"Version of the release"`
	Digest     bulkhead.Digest            `json:"digest" doc:"Of the release"`
	Modules    []bulkhead.ModuleName      `json:"modules" nullable:"false"`
	Settings   map[string]json.RawMessage `json:"settings" doc:"Settings that are set; not the secret ones"`
	Secrets    []string                   `json:"secrets" nullable:"false" doc:"Names of the secret settings that are set"`
	Labels     map[string]string          `json:"labels,omitempty"`
	Desired    bulkhead.Desired           `json:"desired"`
	Phase      bulkhead.Phase             `json:"phase"`
	Message    string                     `json:"message,omitempty" doc:"One line: why it is in this phase"`
	Generation int64                      `json:"generation" doc:"Grows with every change to what should run"`
	Observed   int64                      `json:"observed" doc:"The generation that phase and tasks answer to"`
	Node       bulkhead.NodeName          `json:"node,omitempty"`
	Placement  string                     `json:"placement,omitempty" doc:"Why that node, or why none"`
	Move       *StampMove                 `json:"move,omitempty" doc:"To another node: under way, or the last one"`
	Terms      bulkhead.Terms             `json:"terms,omitzero" doc:"What it asks of its node"`
	URL        string                     `json:"url" doc:"Where the stamp answers"`
	Hosts      []bulkhead.Host            `json:"hosts" nullable:"false"`
	Created    time.Time                  `json:"created"`
	Updated    time.Time                  `json:"updated"`
	Ready      *time.Time                 `json:"ready,omitempty" doc:"When this generation was first up"`
	Deleted    *time.Time                 `json:"deleted,omitempty" doc:"When deletion was asked"`
	KeptUntil  *time.Time                 `json:"keptUntil,omitempty" doc:"When the data of a deleted stamp goes"`
	Services   []StampService             `json:"services" nullable:"false"`
	Volumes    []bulkhead.VolumeName      `json:"volumes" nullable:"false"`
	Routes     []bulkhead.RouteRule       `json:"routes" nullable:"false"`
	Tasks      []bulkhead.Task            `json:"tasks,omitempty" nullable:"false" doc:"Absent from lists"`
}

// StampService sums up one service of a stamp.
type StampService struct {
	Name     bulkhead.ServiceName `json:"name"`
	Image    string               `json:"image"`
	Digest   bulkhead.Digest      `json:"digest"`
	Replicas int                  `json:"replicas" doc:"Tasks that it should have"`
	Up       int                  `json:"up" doc:"Tasks that are healthy, or have completed what they had to do"`
	State    string               `json:"state" doc:"pending, starting, up, completed, down, failed, stopping, stopped"`
	Message  string               `json:"message,omitempty"`
	Restarts int                  `json:"restarts"`
}

// Settled tells whether the stamp has reached what its user wants of it, or
// never will as it is.
func (s Stamp) Settled() bool {
	if s.Observed < s.Generation && s.Phase != bulkhead.PhaseDeleted {
		return false
	}
	switch s.Phase {
	case bulkhead.PhaseRunning:
		return s.Desired == bulkhead.DesiredRunning
	case bulkhead.PhaseStopped:
		return s.Desired == bulkhead.DesiredStopped
	case bulkhead.PhaseDeleted:
		return s.Desired == bulkhead.DesiredDeleted
	case bulkhead.PhaseFailed:
		return true
	}
	return false
}

// StampChange is the answer to whatever changes a stamp, or would change it.
type StampChange struct {
	Action string `json:"action" enum:"create,restore,update,unchanged,stop,start,restart,delete,purge" doc:"What was done, or would be done with dryRun"`
	DryRun bool   `json:"dryRun" doc:"Nothing was changed"`
	Stamp  Stamp  `json:"stamp"`
	// Differences between what was and what is wanted now.
	Differences []Difference `json:"differences" nullable:"false"`
	// Plan is what will happen to tasks, one line each.
	Plan []string `json:"plan" nullable:"false" doc:"What happens to tasks, one line each"`
}

// Difference is one thing that changes.
type Difference struct {
	Field string `json:"field" doc:"Such as settings.COLOR, modules, services.web.image"`
	Old   string `json:"old" doc:"Empty: was not there. Secret values are never shown"`
	New   string `json:"new" doc:"Empty: goes away"`
}

// StampQuery selects stamps.
type StampQuery struct {
	Product string `query:"product" doc:"Only of this product"`
	Phase   string `query:"phase" doc:"Only in this phase"`
	Label   string `query:"label" doc:"Only with this label: KEY or KEY=VALUE"`
	Deleted bool   `query:"deleted" doc:"Also deleted ones whose data is kept"`
}

// Stamps lists stamps by name, without their tasks.
func (c *Client) Stamps(ctx context.Context, q StampQuery) ([]Stamp, error) {
	v := url.Values{}
	for name, value := range map[string]string{"product": q.Product, "phase": q.Phase, "label": q.Label} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Deleted {
		v.Set("deleted", "true")
	}
	var out []Stamp
	return out, c.call(ctx, http.MethodGet, "/v1/stamps", v, nil, &out)
}

// Stamp shows one stamp.
func (c *Client) Stamp(ctx context.Context, name string) (Stamp, error) {
	var out Stamp
	return out, c.call(ctx, http.MethodGet, "/v1/stamps/"+url.PathEscape(name), nil, nil, &out)
}

// WatchStamp calls yield with the stamp as it is, and again whenever that
// changes, until yield returns an error or the stamp is gone.
func (c *Client) WatchStamp(ctx context.Context, name string, yield func(Stamp) error) error {
	return follow(ctx, c, "/v1/stamps/"+url.PathEscape(name)+"/watch", nil, yield)
}

// CreateStamp makes a new stamp. A name that is taken is bulkhead.ErrConflict.
// restore takes back the stamp of that name that was deleted and whose data is
// kept. A dry run changes nothing.
func (c *Client) CreateStamp(ctx context.Context, spec StampSpec, restore, dryRun bool) (StampChange, error) {
	return c.change(ctx, http.MethodPost, "/v1/stamps", flags{"restore": restore, "dryRun": dryRun}, spec)
}

// ApplyStamp creates the stamp or changes it until it is as spec says. Settings
// that spec leaves out return to their default; secret ones stay.
func (c *Client) ApplyStamp(ctx context.Context, spec StampSpec, dryRun bool) (StampChange, error) {
	return c.change(ctx, http.MethodPut, "/v1/stamps/"+url.PathEscape(spec.Name), flags{"dryRun": dryRun}, spec)
}

// UpdateStamp changes a stamp's release, modules, settings or labels.
func (c *Client) UpdateStamp(ctx context.Context, name string, u StampUpdate, dryRun bool) (StampChange, error) {
	return c.change(ctx, http.MethodPatch, "/v1/stamps/"+url.PathEscape(name), flags{"dryRun": dryRun}, u)
}

// StopStamp stops every task of a stamp; its data stays.
func (c *Client) StopStamp(ctx context.Context, name string) (StampChange, error) {
	return c.change(ctx, http.MethodPost, "/v1/stamps/"+url.PathEscape(name)+"/stop", nil, nil)
}

// StartStamp runs a stamp that was stopped.
func (c *Client) StartStamp(ctx context.Context, name string) (StampChange, error) {
	return c.change(ctx, http.MethodPost, "/v1/stamps/"+url.PathEscape(name)+"/start", nil, nil)
}

// RestartStamp replaces every task of a stamp.
func (c *Client) RestartStamp(ctx context.Context, name string) (StampChange, error) {
	return c.change(ctx, http.MethodPost, "/v1/stamps/"+url.PathEscape(name)+"/restart", nil, nil)
}

// DeleteStamp deletes a stamp. Its data is kept for bulkhead.KeepDeleted unless
// purge is set; purge of a stamp that was deleted drops what is kept.
func (c *Client) DeleteStamp(ctx context.Context, name string, purge bool) (StampChange, error) {
	return c.change(ctx, http.MethodDelete, "/v1/stamps/"+url.PathEscape(name), flags{"purge": purge}, nil)
}

// flags are boolean query parameters.
type flags map[string]bool

func (c *Client) change(ctx context.Context, method, path string, f flags, in any) (StampChange, error) {
	v := url.Values{}
	for name, set := range f {
		if set {
			v.Set(name, "true")
		}
	}
	var out StampChange
	return out, c.call(ctx, method, path, v, in, &out)
}

// StampInput names a stamp in a path. (Exported, so that huma sees what embeds it.)
type StampInput struct {
	Name string `path:"name" doc:"Of the stamp"`
}

func (s *Server) registerStamps(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/stamps", id: "list-stamps", tag: "Stamps", summary: "List stamps",
	}, func(_ context.Context, q *StampQuery) (*answer[[]Stamp], error) {
		phases := []bulkhead.Phase{
			bulkhead.PhasePending, bulkhead.PhaseStarting, bulkhead.PhaseRunning, bulkhead.PhaseDegraded, bulkhead.PhaseFailed,
			bulkhead.PhaseStopping, bulkhead.PhaseStopped, bulkhead.PhaseDeleting, bulkhead.PhaseDeleted,
		}
		if q.Phase != "" && !slices.Contains(phases, bulkhead.Phase(q.Phase)) {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "phase %q does not exist: there are %s", q.Phase, strings.Trim(fmt.Sprint(phases), "[]"))
		}
		if q.Product != "" {
			if _, err := findRelease(s.c.Store.View(), q.Product, ""); err != nil {
				return nil, err
			}
			q.Product = strings.ToLower(q.Product)
		}
		return &answer[[]Stamp]{s.listStamps(*q)}, nil
	})
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/stamps/{name}", id: "show-stamp", tag: "Stamps", summary: "Show a stamp",
	}, func(_ context.Context, in *StampInput) (*answer[Stamp], error) {
		view := s.c.Store.View()
		stamp, err := findStamp(view, in.Name)
		if err != nil {
			return nil, err
		}
		return &answer[Stamp]{s.show(view, stamp, true)}, nil
	})
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/stamps/{name}/watch", id: "watch-stamp", tag: "Stamps", stream: Stamp{}, summary: "Follow a stamp",
		description: "A stream of the stamp as it is, and again whenever that changes, until it is gone.",
	}, func(_ context.Context, in *StampInput) (*huma.StreamResponse, error) {
		stamp, err := s.stamp(in.Name)
		if err != nil {
			return nil, err
		}
		return s.streamed(func(ctx context.Context, send func(any) error) error { return s.watchStamp(ctx, stamp, send) }), nil
	})
	register(s, hapi, operation{
		method: http.MethodPost, path: "/v1/stamps", id: "create-stamp", tag: "Stamps", summary: "Create a stamp",
		description: "Of several at once with one name, one wins. With restore, a deleted stamp whose data is kept comes back; what the body leaves out is as it was.",
	}, func(ctx context.Context, in *struct {
		Restore bool `query:"restore" doc:"Take back the deleted stamp of that name"`
		DryRun  bool `query:"dryRun" doc:"Say what would happen and change nothing"`
		Body    StampSpec
	},
	) (*answer[StampChange], error) {
		out, err := s.createStamp(ctx, in.Body, in.Restore, in.DryRun)
		return &answer[StampChange]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodPut, path: "/v1/stamps/{name}", id: "apply-stamp", tag: "Stamps", summary: "Create a stamp, or make it as the body says",
		description: "Modules and public settings that the body leaves out go; secret settings and the release stay.",
	}, func(ctx context.Context, in *struct {
		StampInput
		DryRun bool `query:"dryRun" doc:"Say what would happen and change nothing"`
		Body   StampSpec
	},
	) (*answer[StampChange], error) {
		if in.Body.Name != in.Name {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "the path names stamp %q, the body %q", in.Name, in.Body.Name)
		}
		out, err := s.applyStamp(ctx, in.Body, in.DryRun)
		return &answer[StampChange]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodPatch, path: "/v1/stamps/{name}", id: "update-stamp", tag: "Stamps", summary: "Change a stamp",
		description: "Only the tasks that change are replaced.",
	}, func(ctx context.Context, in *struct {
		StampInput
		DryRun bool `query:"dryRun" doc:"Say what would happen and change nothing"`
		Body   StampUpdate
	},
	) (*answer[StampChange], error) {
		out, err := s.updateStamp(ctx, in.Name, in.Body, in.DryRun)
		return &answer[StampChange]{out}, err
	})
	verb := func(name, summary string, do func(*bulkhead.Stamp) (changed bool, err error)) {
		register(s, hapi, operation{
			method: http.MethodPost, path: "/v1/stamps/{name}/" + name, id: name + "-stamp", tag: "Stamps", summary: summary,
		}, func(ctx context.Context, in *StampInput) (*answer[StampChange], error) {
			out, err := s.amend(ctx, in.Name, name, do)
			return &answer[StampChange]{out}, err
		})
	}
	verb("stop", "Stop a stamp", func(st *bulkhead.Stamp) (bool, error) {
		changed := st.Desired != bulkhead.DesiredStopped
		st.Desired = bulkhead.DesiredStopped
		return changed, nil
	})
	verb("start", "Start a stamp", func(st *bulkhead.Stamp) (bool, error) {
		changed := st.Desired != bulkhead.DesiredRunning
		st.Desired = bulkhead.DesiredRunning
		return changed, nil
	})
	verb("restart", "Restart a stamp", func(st *bulkhead.Stamp) (bool, error) {
		if st.Desired != bulkhead.DesiredRunning {
			return false, bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is stopped", st.Name).WithHint("bulkhead stamp start %s", st.Name)
		}
		st.Restarted++
		return true, nil
	})
	register(s, hapi, operation{
		method: http.MethodDelete, path: "/v1/stamps/{name}", id: "delete-stamp", tag: "Stamps", summary: "Delete a stamp",
		description: "Its data is kept for 30 days, unless purge is set; until then the stamp can be restored.",
	}, func(ctx context.Context, in *struct {
		StampInput
		Purge bool `query:"purge" doc:"Delete the data too, also of a stamp that was deleted before"`
	},
	) (*answer[StampChange], error) {
		out, err := s.deleteStamp(ctx, in.Name, in.Purge)
		return &answer[StampChange]{out}, err
	})
}

// findStamp is a stamp, deleted or not.
func findStamp(view *store.Snapshot, name string) (bulkhead.Stamp, error) {
	parsed, err := bulkhead.ParseStampName(name)
	if err != nil {
		return bulkhead.Stamp{}, err
	}
	stamp, ok := view.Stamps.Get(parsed)
	if !ok {
		return stamp, noStamp(parsed)
	}
	return stamp, nil
}

func noStamp(name bulkhead.StampName) error {
	return bulkhead.Errorf(bulkhead.ErrNotFound, "stamp %s does not exist", name).WithHint("bulkhead stamp list")
}

// stamp is a stamp that is not deleted.
func (s *Server) stamp(name string) (bulkhead.Stamp, error) {
	return findStamp(s.c.Store.View(), name)
}

func (s *Server) listStamps(q StampQuery) []Stamp {
	view := s.c.Store.View()
	key, value, exact := strings.Cut(q.Label, "=")
	out := []Stamp{}
	for st := range view.Stamps.All() {
		label, has := st.Labels[key]
		switch {
		case q.Product != "" && string(st.Product) != q.Product:
		case q.Label != "" && (!has || exact && label != value):
		case st.Desired == bulkhead.DesiredDeleted && !q.Deleted:
		default:
			if shown := s.show(view, st, false); q.Phase == "" || string(shown.Phase) == q.Phase {
				out = append(out, shown)
			}
		}
	}
	return out
}

func (s *Server) watchStamp(ctx context.Context, stamp bulkhead.Stamp, send func(any) error) error {
	view, changes := s.c.Store.Watch(ctx)
	for {
		now, ok := view.Stamps.Get(stamp.Name)
		if !ok || now.UID != stamp.UID {
			return nil
		}
		if err := send(s.show(view, now, true)); err != nil {
			return err
		}
		for {
			c, ok := <-changes
			if !ok {
				return ctx.Err()
			}
			if c.Everything() || c.Key == string(stamp.Name) && (c.Table == store.Stamps || c.Table == store.Statuses || c.Table == store.Arrivals) ||
				c.Table == store.Nodes && c.Key == string(now.Node) {
				view = s.c.Store.View()
				break
			}
		}
	}
}

// createStamp makes a new stamp, or takes a deleted one back.
func (s *Server) createStamp(ctx context.Context, spec StampSpec, restore, dryRun bool) (StampChange, error) {
	name, err := bulkhead.ParseStampName(spec.Name)
	if err != nil {
		return StampChange{}, err
	}
	return s.commit(ctx, spec.Name, dryRun, func(tx *store.Tx) (was, is *bulkhead.Stamp, action string, err error) {
		old, exists := tx.Stamps.Get(name)
		switch {
		case exists && old.Desired != bulkhead.DesiredDeleted:
			return nil, nil, "", bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s exists already", name).
				WithHint("choose another name, or change it: bulkhead stamp update %s", name)
		case exists && old.Purge:
			return nil, nil, "", bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is being purged", name).WithHint("try again in a moment")
		case exists && !restore:
			return nil, nil, "", bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s was deleted, and its data is kept until %s", name, old.Deleted.Add(bulkhead.KeepDeleted).Format("2006-01-02")).
				WithHint("bulkhead stamp create %s --restore takes it back; bulkhead stamp delete %s --purge drops it", name, name)
		case !exists && restore:
			return nil, nil, "", bulkhead.Errorf(bulkhead.ErrNotFound, "nothing of a stamp %s is kept", name).
				WithHint("bulkhead stamp list --deleted")
		case exists:
			next, err := s.design(tx, &old, change{
				product: spec.Product, version: cmp.Or(spec.Release, old.Version), modules: spec.Modules, keepModules: spec.Modules == nil,
				set: spec.Settings, labels: spec.Labels, terms: spec.Terms, ctx: ctx,
			})
			if err != nil {
				return nil, nil, "", err
			}
			next.Desired, next.Deleted = bulkhead.DesiredRunning, nil
			// Its room may be another's by now. Where its data is it waits for it: the leader
			// says when. Without data it is placed anew.
			if len(next.Volumes) == 0 {
				if n, ok := tx.Nodes.Peek(next.Node); ok {
					next.Leave(n)
				}
				next.Node, next.Units = "", nil
			} else if next.Node != "" {
				next.Preempted = "it was deleted, and its room on its node is asked for again"
			}
			next.Generation = old.Generation + 1
			return &old, &next, "restore", nil
		}
		next, err := s.design(tx, nil, change{
			name: name, product: spec.Product, version: spec.Release, modules: spec.Modules, set: spec.Settings, labels: spec.Labels, terms: spec.Terms, ctx: ctx,
		})
		return nil, &next, "create", err
	})
}

// applyStamp creates a stamp or makes it as spec says.
func (s *Server) applyStamp(ctx context.Context, spec StampSpec, dryRun bool) (StampChange, error) {
	name, err := bulkhead.ParseStampName(spec.Name)
	if err != nil {
		return StampChange{}, err
	}
	stamp, exists := s.c.Store.View().Stamps.Get(name)
	if !exists || stamp.Desired == bulkhead.DesiredDeleted {
		return s.createStamp(ctx, spec, false, dryRun)
	}
	return s.commit(ctx, spec.Name, dryRun, func(tx *store.Tx) (was, is *bulkhead.Stamp, action string, err error) {
		old, err := liveStamp(tx, string(name))
		if err != nil {
			return nil, nil, "", err
		}
		next, err := s.design(tx, &old, change{
			product: spec.Product, version: cmp.Or(spec.Release, old.Version), modules: spec.Modules,
			set: spec.Settings, replaceSettings: true, labels: spec.Labels, replaceLabels: true,
			terms: cmp.Or(spec.Terms, &bulkhead.Terms{}), ctx: ctx,
		})
		return &old, &next, "update", err
	})
}

func (s *Server) updateStamp(ctx context.Context, name string, u StampUpdate, dryRun bool) (StampChange, error) {
	return s.commit(ctx, name, dryRun, func(tx *store.Tx) (was, is *bulkhead.Stamp, action string, err error) {
		old, err := liveStamp(tx, name)
		if err != nil {
			return nil, nil, "", err
		}
		ch := change{version: old.Version, keepModules: u.Modules == nil, set: u.Settings, unset: u.Unset, labels: u.Labels, terms: u.Terms, ctx: ctx}
		if u.Release != nil {
			ch.version = *u.Release
		}
		if u.Modules != nil {
			ch.modules = *u.Modules
		}
		next, err := s.design(tx, &old, ch)
		return &old, &next, "update", err
	})
}

// amend changes what is wanted of a stamp, not what it is.
func (s *Server) amend(ctx context.Context, name, verb string, do func(*bulkhead.Stamp) (bool, error)) (StampChange, error) {
	return s.commit(ctx, name, false, func(tx *store.Tx) (was, is *bulkhead.Stamp, action string, err error) {
		old, err := liveStamp(tx, name)
		if err != nil {
			return nil, nil, "", err
		}
		next := old
		changed, err := do(&next)
		if changed {
			next.Generation++
		}
		return &old, &next, verb, err
	})
}

func (s *Server) deleteStamp(ctx context.Context, name string, purge bool) (StampChange, error) {
	return s.commit(ctx, name, false, func(tx *store.Tx) (was, is *bulkhead.Stamp, action string, err error) {
		parsed, err := bulkhead.ParseStampName(name)
		if err != nil {
			return nil, nil, "", err
		}
		old, ok := tx.Stamps.Get(parsed)
		if !ok {
			return nil, nil, "", noStamp(parsed)
		}
		next := old
		if old.Desired != bulkhead.DesiredDeleted {
			now := s.c.Now().UTC()
			next.Desired, next.Deleted = bulkhead.DesiredDeleted, &now
			next.Generation++
		}
		action = "delete"
		if purge {
			action = "purge"
			if !old.Purge {
				next.Purge = true
				next.Generation = old.Generation + 1
			}
		}
		return &old, &next, action, nil
	})
}

// liveStamp is a stamp that is not deleted.
func liveStamp(tx *store.Tx, name string) (bulkhead.Stamp, error) {
	parsed, err := bulkhead.ParseStampName(name)
	if err != nil {
		return bulkhead.Stamp{}, err
	}
	stamp, ok := tx.Stamps.Get(parsed)
	if !ok {
		return stamp, noStamp(parsed)
	}
	if stamp.Desired == bulkhead.DesiredDeleted {
		return stamp, bulkhead.Errorf(bulkhead.ErrNotFound, "stamp %s is deleted", parsed).WithHint("bulkhead stamp create %s --restore takes it back", parsed)
	}
	return stamp, nil
}

// pastTense names the events of actions.
var pastTense = map[string]string{
	"create": "created", "restore": "restored", "update": "updated", "stop": "stopped", "start": "started",
	"restart": "restarted", "delete": "deleted", "purge": "purged",
}

// remembered is how many of the requests that changed a stamp are known: more than
// others make while a client asks again for its own.
const remembered = 16

// requested tells whether a stamp was changed by that request already, and how.
func requested(stamp bulkhead.Stamp, request string) (action string, ok bool) {
	for line := range strings.SplitSeq(stamp.Request, "\n") {
		if id, action, _ := strings.Cut(line, " "); id == request && id != "" {
			return action, true
		}
	}
	return "", false
}

// remember adds a request to those that are known, and drops the oldest.
func remember(known, request, action string) string {
	lines := strings.SplitN(known, "\n", remembered)
	return strings.Trim(strings.Join(append([]string{request + " " + action}, lines[:min(len(lines), remembered-1)]...), "\n"), "\n")
}

var errDryRun = errors.New("dry run")

// commit writes what decide makes of a stamp, with its event, in one transaction,
// and says what that changes. A dry run writes nothing. decide may run several
// times; when the same request has been carried out already, it does not run.
func (s *Server) commit(ctx context.Context, name string, dryRun bool, decide func(tx *store.Tx) (was, is *bulkhead.Stamp, action string, err error)) (StampChange, error) {
	var out StampChange
	var made bulkhead.Stamp
	request := requestOf(ctx)
	err := s.c.Store.Update(ctx, func(tx *store.Tx) error {
		if parsed, err := bulkhead.ParseStampName(name); err == nil && request != "" {
			old, ok := tx.Stamps.Get(parsed)
			if action, again := requested(old, request); ok && again {
				out, made = StampChange{Action: action, Differences: []Difference{}, Plan: []string{}}, old
				return nil
			}
		}
		was, is, action, err := decide(tx)
		if err != nil {
			return err
		}
		out = StampChange{Action: action, DryRun: dryRun, Differences: differences(was, is), Plan: tasksPlan(was, is)}
		if was != nil && same(was, is) {
			out.Action = "unchanged"
			made = *is
			return nil
		}
		now := s.c.Now().UTC()
		is.Updated = now
		if request != "" {
			is.Request = remember(is.Request, request, action)
		}
		made = *is
		if dryRun {
			return errDryRun
		}
		tx.Stamps.Put(*is)
		e := bulkhead.Event{Time: now, Type: "stamp." + pastTense[action], Stamp: is.Name, Actor: actor(ctx), Message: fmt.Sprintf("stamp %s %s", is.Name, pastTense[action])}
		if action == "create" || action == "update" || action == "restore" {
			e.Message += fmt.Sprintf(": %s %s", is.Product, is.Version)
			if fields := changedFields(out.Differences); action == "update" && fields != "" {
				e.Message += " (" + fields + ")"
			}
		}
		tx.Event(e)
		return nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return StampChange{}, err
	}
	out.Stamp = s.show(s.c.Store.View(), made, true)
	return out, nil
}
