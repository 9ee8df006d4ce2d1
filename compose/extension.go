package compose

import (
	"strings"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// extension is x-bulkhead, the part of a product that Compose has no words for.
type extension struct {
	modules, settings, routes, placement *yaml.Node // nil: not given
}

// extension reads the parts of x-bulkhead, strictly.
func (o *opening) extension(main *source) extension {
	n := get(main.root, "x-bulkhead")
	if n == nil || n.Tag == "!!null" {
		return extension{}
	}
	keys := o.object(main, n, "x-bulkhead", "version", "modules", "settings", "routes", "placement")
	if v := keys["version"]; v != nil {
		o.Version = v.Value
		if err := bulkhead.ValidateVersion(v.Value); err != nil || v.Kind != yaml.ScalarNode {
			o.fault(main.at(v), "x-bulkhead.version: %q: use letters, digits and . _ + -, at most 128 bytes", v.Value)
		}
	}
	return extension{modules: keys["modules"], settings: keys["settings"], routes: keys["routes"], placement: keys["placement"]}
}

// object reads a mapping that may have no other keys than known.
func (o *opening) object(s *source, n *yaml.Node, place string, known ...string) map[string]*yaml.Node {
	if n = target(n); n.Kind != yaml.MappingNode {
		o.fault(s.at(n), "%s: a mapping with %s", place, strings.Join(known, ", "))
		return nil
	}
	names := map[string]*rows{}
	for _, k := range known {
		names[k] = nil
	}
	found := map[string]*yaml.Node{}
	for _, e := range entries(n) {
		if _, ok := names[e.key.Value]; !ok {
			o.fault(s.at(e.key), "%s.%s: no such key (there are %s)", place, e.key.Value, strings.Join(known, ", "))
			continue
		}
		if value := target(e.value); value.Tag != "!!null" {
			found[e.key.Value] = value
		}
	}
	return found
}

// text reads a scalar; nil is empty.
func (o *opening) text(s *source, n *yaml.Node, place string) string {
	switch {
	case n == nil:
		return ""
	case n.Kind != yaml.ScalarNode:
		o.fault(s.at(n), "%s: a text", place)
		return ""
	}
	return n.Value
}

// modules makes a module of every profile, and checks that whatever a customer
// chooses, every service finds the ones that it depends on.
func (o *opening) modules(main *source, loaded *types.Project) {
	modules := map[bulkhead.ModuleName]*bulkhead.Module{}
	for _, key := range sortedKeys(loaded.Services) {
		for _, profile := range loaded.Services[key].Profiles {
			name := bulkhead.ModuleName(profile)
			if modules[name] == nil {
				modules[name] = &bulkhead.Module{Name: name}
			}
			modules[name].Services = append(modules[name].Services, bulkhead.ServiceName(key))
		}
	}
	o.moduleRules(main, modules)
	for _, name := range sortedKeys(modules) {
		o.Modules = append(o.Modules, *modules[name])
	}
	for _, key := range sortedKeys(loaded.Services) {
		s := loaded.Services[key]
		for _, dependency := range sortedKeys(s.DependsOn) {
			if !s.DependsOn[dependency].Required {
				continue
			}
			// Each of the service's modules alone must bring the dependency along.
			choices := s.Profiles
			if len(choices) == 0 {
				choices = []string{""}
			}
			for _, choice := range choices {
				var chosen []bulkhead.ModuleName
				if choice != "" {
					chosen = append(chosen, bulkhead.ModuleName(choice))
				}
				if !loaded.Services[dependency].HasProfile(o.active(chosen)) {
					place := "services." + key + ".depends_on"
					o.fault(o.where(place, dependency), "%s: %s belongs to module %s, which a stamp may lack; write required: false, or let a module need it in x-bulkhead.modules",
						place, dependency, strings.Join(loaded.Services[dependency].Profiles, " or "))
					break
				}
			}
		}
	}
}

// moduleRules reads x-bulkhead.modules.
func (o *opening) moduleRules(main *source, modules map[bulkhead.ModuleName]*bulkhead.Module) {
	n := get(get(main.root, "x-bulkhead"), "modules")
	if n == nil || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		o.fault(main.at(n), "x-bulkhead.modules: a mapping of modules, each with title and needs")
	}
	for _, e := range entries(n) {
		place := "x-bulkhead.modules." + e.key.Value
		m := modules[bulkhead.ModuleName(e.key.Value)]
		if m == nil {
			o.fault(main.at(e.key), "%s: no service has this profile", place)
			continue
		}
		keys := o.object(main, e.value, place, "title", "needs")
		m.Title = o.text(main, keys["title"], place+".title")
		for _, need := range scalars(keys["needs"]) {
			name := bulkhead.ModuleName(need.Value)
			if modules[name] == nil {
				o.fault(main.at(need), "%s.needs: no service has the profile %s", place, need.Value)
				continue
			}
			m.Needs = append(m.Needs, name)
		}
	}
}

// active is the chosen modules with all that they need, as Compose profiles.
func (p *Project) active(chosen []bulkhead.ModuleName) []string {
	seen := map[bulkhead.ModuleName]bool{}
	var add func([]bulkhead.ModuleName)
	add = func(names []bulkhead.ModuleName) {
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			for _, m := range p.Modules {
				if m.Name == name {
					add(m.Needs)
				}
			}
		}
	}
	add(chosen)
	var profiles []string
	for _, name := range sortedKeys(seen) {
		profiles = append(profiles, string(name))
	}
	return profiles
}
