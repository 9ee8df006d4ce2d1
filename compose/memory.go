package compose

import (
	"encoding/json"
	"slices"
	"sync"

	"bulkhead"
)

// frozen remembers effective configurations, because most stamps of a product
// differ in their names alone, and loading the project anew for each costs a
// hundred times what all else does. What came out the same for stamps of two
// names does not depend on the name, and is not made a third time. Settings and
// modules are still checked for each.
type frozen struct {
	mu   sync.Mutex // guards what follows
	made map[string]*memory
}

// memory is what came out for one set of inputs, names apart.
type memory struct {
	name    bulkhead.StampName // whose it was
	outcome Frozen
	same    bool // another's was the same
	differs bool // another's was not
}

// mostFrozen bounds what is remembered of one release.
const mostFrozen = 64

// key is all that a configuration depends on, but the stamp's name. Of secrets it
// is only which there are: their values are not in it.
func (in Inputs) key(public map[string]json.RawMessage) string {
	present := map[string]bool{}
	for name, value := range in.Secrets {
		present[name] = value != ""
	}
	b, err := json.Marshal([]any{in.Domain, slices.Sorted(slices.Values(in.Modules)), public, present, in.Images})
	if err != nil {
		return "" // a setting that is no JSON: it is refused elsewhere
	}
	return string(b)
}

// get is what was made before, for whatever name.
func (f *frozen) get(key string) (Frozen, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.made[key]; key != "" && m != nil && m.same {
		return m.outcome.copy(), true
	}
	return Frozen{}, false
}

// put notes what came out for a stamp.
func (f *frozen) put(key string, name bulkhead.StampName, outcome Frozen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.made[key]
	switch {
	case m == nil:
		if f.made == nil || len(f.made) >= mostFrozen {
			f.made = map[string]*memory{}
		}
		f.made[key] = &memory{name: name, outcome: outcome.copy()}
	case m.name != name && !m.same && !m.differs:
		m.same = sameConfiguration(m.outcome, outcome)
		m.differs = !m.same
	}
}

// copy is f without what belongs to one stamp, and with lists of its own. What
// their entries refer to nobody changes.
func (f Frozen) copy() Frozen {
	f.Services, f.Volumes, f.Routes = slices.Clone(f.Services), slices.Clone(f.Volumes), slices.Clone(f.Routes)
	f.Settings, f.Secrets = nil, nil
	return f
}

func sameConfiguration(a, b Frozen) bool {
	x, err1 := json.Marshal([]any{a.Services, a.Volumes, a.Routes, a.Terms})
	y, err2 := json.Marshal([]any{b.Services, b.Volumes, b.Routes, b.Terms})
	return err1 == nil && err2 == nil && string(x) == string(y)
}
