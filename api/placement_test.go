package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/store"
)

func TestTermsOfAStamp(t *testing.T) {
	f := newFixture(t)
	policy := bulkhead.Policy{
		Tiers:       map[string]bulkhead.Tier{"gold": {Priority: 5, Requests: bulkhead.Resources{CPU: 2}}},
		BlastRadius: bulkhead.BlastRadius{Node: 0.2},
	}
	if _, err := f.SetPolicy(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Policy(t.Context()); err != nil || fmt.Sprint(got) != fmt.Sprint(policy) {
		t.Errorf("the policy is %v, %v", got, err)
	}
	terms := bulkhead.Terms{
		Region: "eu", Tier: "gold", Constraints: []bulkhead.Constraint{{Attribute: "node.labels.disk", Not: true, Value: "hdd"}},
		Apart: []bulkhead.Apart{{Key: "steel"}}, Extras: map[string]float64{"gpu": 0.5}, Revenue: 12,
	}
	change, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop", Terms: &terms}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(change.Stamp.Terms); got != fmt.Sprint(terms) {
		t.Errorf("terms are %s", got)
	}
	if !slices.Contains(change.Differences, Difference{Field: "terms.region", New: `"eu"`}) {
		t.Errorf("differences: %v", change.Differences)
	}
	// An update without terms leaves them; with terms it sets all of them; what runs
	// stays as it is.
	title := map[string]string{"a": "b"}
	if change, err = f.UpdateStamp(t.Context(), "acme", StampUpdate{Labels: title}, false); err != nil || change.Stamp.Terms.Region != "eu" {
		t.Errorf("after an update of labels: %+v, %v", change.Stamp.Terms, err)
	}
	generation := change.Stamp.Generation
	if change, err = f.UpdateStamp(t.Context(), "acme", StampUpdate{Terms: &bulkhead.Terms{Zone: "a"}}, false); err != nil || fmt.Sprint(change.Stamp.Terms) != fmt.Sprint(bulkhead.Terms{Zone: "a"}) || change.Stamp.Generation != generation {
		t.Errorf("after an update of terms: %+v, generation %d, %v", change.Stamp.Terms, change.Stamp.Generation, err)
	}
	if change, err = f.ApplyStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false); err != nil || fmt.Sprint(change.Stamp.Terms) != fmt.Sprint(bulkhead.Terms{}) {
		t.Errorf("applied without terms: %+v, %v", change.Stamp.Terms, err)
	}
	for want, terms := range map[string]bulkhead.Terms{
		"tier silver does not exist: there are gold": {Tier: "silver"},
		"the terms of the stamp are refused":         {Region: "us", Residency: []string{"eu"}},
	} {
		_, err := f.CreateStamp(t.Context(), StampSpec{Name: "bolt", Product: "shop", Terms: &terms}, false, false)
		if !errors.Is(err, bulkhead.ErrInvalid) || err.Error() != want {
			t.Errorf("%+v: %v, want %s", terms, err, want)
		}
	}
	if _, err := f.SetPolicy(t.Context(), bulkhead.Policy{CPUOvercommit: -1}); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("a policy that is none: %v", err)
	}
}

// TestConstraintsOnTheWire sends what only the wire can say.
func TestConstraintsOnTheWire(t *testing.T) {
	f := newFixture(t)
	send := func(constraint string) error {
		body := map[string]any{"name": "acme", "product": "shop", "terms": map[string]any{"constraints": []string{constraint}}}
		return f.call(t.Context(), "POST", "/v1/stamps", nil, body, nil)
	}
	if err := send("node.role==manager"); !errors.Is(err, bulkhead.ErrInvalid) {
		t.Errorf("a constraint on roles: %v", err)
	}
	if err := send("node.labels.disk == ssd"); err != nil {
		t.Error(err)
	}
}

func TestBatch(t *testing.T) {
	f := newFixture(t)
	specs := func(names ...string) (out []StampSpec) {
		for _, n := range names {
			out = append(out, StampSpec{Name: n, Product: "shop"})
		}
		return out
	}
	count := func() int { return f.store.View().Stamps.Len() }
	if _, err := f.CreateStamps(t.Context(), specs("a", "b"), false); err != nil || count() != 2 {
		t.Fatalf("%v, and %d stamps", err, count())
	}
	many := make([]string, MostBatch+1)
	for i := range many {
		many[i] = fmt.Sprint("m-", i)
	}
	for want, names := range map[string][]string{
		"stamp b exists already":        {"c", "b"},
		"stamp c is twice in the batch": {"c", "C"},
		`stamp name "c_" is not a DNS`:  {"c", "c_"},
		"validation failed":             {},
		"":                              many,
		"product desk does not exist":   {"desk:c"},
	} {
		list := specs(names...)
		for i := range list {
			if product, name, ok := strings.Cut(list[i].Name, ":"); ok {
				list[i].Product, list[i].Name = product, name
			}
		}
		if _, err := f.CreateStamps(t.Context(), list, false); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.30v: %v", names, err)
		}
	}
	if count() != 2 {
		t.Errorf("refused batches have left %d stamps", count())
	}
	secrets := map[string]bool{}
	for st := range f.store.View().Stamps.All() {
		secrets[string(st.Sealed)] = true
	}
	if len(secrets) != 2 {
		t.Error("stamps of a batch share a generated secret")
	}

	// Who has heard no answer asks again, and is told that it is done; anybody else is
	// refused.
	ask := func(id string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/v1/stamps/batch", strings.NewReader(`{"stamps":[{"name":"r-1","product":"shop"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		f.authorize(req.Header)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(requestHeader, id)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if first, again, other := ask("one"), ask("one"), ask("two"); first != 200 || again != 200 || other != 409 {
		t.Errorf("asked, asked again, asked by another: %d, %d, %d", first, again, other)
	}

	// With placed it answers when each is placed, or refused.
	type outcome struct {
		placed []Placed
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		p, err := f.CreateStamps(t.Context(), specs("x", "y"), true)
		done <- outcome{p, err}
	}()
	place := func(name bulkhead.StampName, change func(*bulkhead.Stamp)) {
		for range 500 {
			found := false
			err := f.store.Update(t.Context(), func(tx *store.Tx) error {
				st, ok := tx.Stamps.Get(name)
				if found = ok; ok {
					change(&st)
					tx.Stamps.Put(st)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if found {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("stamp %s never came", name)
	}
	place("x", func(s *bulkhead.Stamp) { s.Node, s.Placement = "n1", "best fit" })
	select {
	case o := <-done:
		t.Fatalf("it answered before y was decided: %+v", o)
	case <-time.After(50 * time.Millisecond):
	}
	place("y", func(s *bulkhead.Stamp) { s.Placement = "no node is ready" })
	o := <-done
	if want := []Placed{{"x", "n1", "best fit"}, {"y", "", "no node is ready"}}; o.err != nil || !slices.Equal(o.placed, want) {
		t.Errorf("%+v", o)
	}
}

func TestForecastCrossesTheWire(t *testing.T) {
	f := newFixture(t)
	if _, err := f.Forecast(t.Context(), bulkhead.WhatIf{}); !errors.Is(err, bulkhead.ErrUnavailable) {
		t.Errorf("without anybody who can tell: %v", err)
	}
	var asked bulkhead.WhatIf
	f.server.c.Forecast = func(_ *store.Snapshot, what bulkhead.WhatIf) (bulkhead.Forecast, error) {
		asked = what
		return bulkhead.Forecast{Room: 3, New: map[bulkhead.NodeName]int{"n1": 2}, StampPrice: 1.5}, nil
	}
	what := bulkhead.WhatIf{Lost: []bulkhead.NodeName{"n4"}, Stamps: 50, Like: "acme", Machines: 1, Price: 90}
	got, err := f.Forecast(t.Context(), what)
	if err != nil || got.Room != 3 || got.StampPrice != 1.5 || !maps.Equal(got.New, map[bulkhead.NodeName]int{"n1": 2}) {
		t.Errorf("%+v, %v", got, err)
	}
	if fmt.Sprint(asked) != fmt.Sprint(what) {
		t.Errorf("asked %+v", asked)
	}
}

func TestPreemptedStampIsStopped(t *testing.T) {
	f := newFixture(t)
	if _, err := f.CreateStamp(t.Context(), StampSpec{Name: "acme", Product: "shop"}, false, false); err != nil {
		t.Fatal(err)
	}
	st, _ := f.store.View().Stamps.Get("acme")
	st.Preempted = "stamp gold of a greater tier has taken its room"
	a, err := f.server.nodes.assignment(st)
	if err != nil || a.Stamp.Desired != bulkhead.DesiredStopped {
		t.Errorf("its node is told %q, %v", a.Stamp.Desired, err)
	}
	shown := f.server.show(f.store.View(), st, false)
	if shown.Desired != bulkhead.DesiredRunning || shown.Phase != bulkhead.PhasePending || !strings.HasPrefix(shown.Message, st.Preempted) {
		t.Errorf("users are shown %s, %s: %s", shown.Desired, shown.Phase, shown.Message)
	}
}

// TestBatchInOneStep: a server that leads makes and places a batch in one transaction;
// one that does not leaves the placing to who does.
func TestBatchInOneStep(t *testing.T) {
	f := newFixture(t)
	leads, asked := true, 0
	f.server.c.Create = func(ctx context.Context, stamps []*bulkhead.Stamp, check func(tx *store.Tx) error) (bool, error) {
		asked++
		if !leads {
			return false, nil
		}
		return true, f.store.Update(ctx, func(tx *store.Tx) error {
			if err := check(tx); err != nil {
				return err
			}
			for _, st := range stamps {
				made := *st
				made.Node, made.Placement, made.Epoch = "n1", "by the leader", 1
				tx.Stamps.Put(made)
			}
			return nil
		})
	}
	spec := func(names ...string) (out []StampSpec) {
		for _, n := range names {
			out = append(out, StampSpec{Name: n, Product: "shop"})
		}
		return out
	}
	before := f.store.View().Revision
	got, err := f.CreateStamps(t.Context(), spec("a", "b"), true)
	if want := []Placed{{"a", "n1", "by the leader"}, {"b", "n1", "by the leader"}}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	if n := f.store.View().Revision - before; n != 1 || asked != 1 {
		t.Errorf("%d transactions, the leader was asked %d times", n, asked)
	}
	if _, err := f.CreateStamps(t.Context(), spec("c", "b"), true); !errors.Is(err, bulkhead.ErrConflict) || f.store.View().Stamps.Len() != 2 {
		t.Errorf("a batch with a name that is taken: %v", err)
	}
	// A name that is taken between the look and the commit.
	leader := f.server.c.Create
	f.server.c.Create = func(ctx context.Context, stamps []*bulkhead.Stamp, check func(tx *store.Tx) error) (bool, error) {
		f.update(func(tx *store.Tx) { tx.Stamps.Put(bulkhead.Stamp{Name: "d", UID: "another"}) })
		return leader(ctx, stamps, check)
	}
	if _, err := f.CreateStamps(t.Context(), spec("d", "e"), true); !errors.Is(err, bulkhead.ErrConflict) || f.store.View().Stamps.Len() != 3 {
		t.Errorf("a batch that came too late: %v", err)
	}
	f.server.c.Create, leads = leader, false
	done := make(chan error, 1)
	go func() {
		_, err := f.CreateStamps(t.Context(), spec("f"), true)
		done <- err
	}()
	f.await("the stamp is there", func(v *store.Snapshot) bool { _, ok := v.Stamps.Get("f"); return ok })
	f.place("f", "n2")
	if err := <-done; err != nil || f.stamp("f").Node != "n2" {
		t.Errorf("without a leader here: %v, on %q", err, f.stamp("f").Node)
	}
}
