package compose

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"
	"go.yaml.in/yaml/v4"
)

// placement reads x-bulkhead.placement: what every stamp of the product asks of
// the node that it is placed on.
func (o *opening) placement(main *source, n *yaml.Node) {
	if n == nil {
		return
	}
	const place = "x-bulkhead.placement"
	keys := o.object(main, n, place, "region", "zone", "pool", "residency", "constraints", "spread", "strategy", "tier", "disk", "extras")
	text := func(key string) string { return o.text(main, keys[key], place+"."+key) }
	o.terms = bulkhead.Terms{
		Region: text("region"), Zone: text("zone"), Pool: text("pool"), Tier: text("tier"), Strategy: bulkhead.Strategy(text("strategy")),
		Residency: o.texts(main, keys["residency"], place+".residency"),
		Spread:    o.texts(main, keys["spread"], place+".spread"),
	}
	for _, s := range o.texts(main, keys["constraints"], place+".constraints") {
		c, err := bulkhead.ParseConstraint(s)
		if err != nil {
			o.fault(main.at(keys["constraints"]), "%s.constraints: %s", place, advice(err))
			continue
		}
		o.terms.Constraints = append(o.terms.Constraints, c)
	}
	if s := text("disk"); s != "" {
		size, err := units.RAMInBytes(s)
		if err != nil {
			o.fault(main.at(keys["disk"]), "%s.disk: %q is no size; write it as 10GiB", place, s)
			size = 0
		}
		o.terms.Disk = size
	}
	if extras := keys["extras"]; extras != nil {
		if extras.Kind != yaml.MappingNode {
			o.fault(main.at(extras), "%s.extras: a mapping of names and amounts", place)
		}
		o.terms.Extras = map[string]float64{}
		for _, e := range entries(extras) {
			amount, err := strconv.ParseFloat(target(e.value).Value, 64)
			if err != nil {
				o.fault(main.at(e.value), "%s.extras.%s: %q is no amount", place, e.key.Value, target(e.value).Value)
				continue
			}
			o.terms.Extras[e.key.Value] = amount
		}
	}
	for _, f := range o.terms.Validate(place) {
		_, key, _ := strings.Cut(strings.TrimPrefix(f.Where, place+"."), ".")
		where := keys[strings.TrimSuffix(strings.TrimPrefix(f.Where, place+"."), "."+key)]
		if where == nil {
			where = n
		}
		o.fault(main.at(where), "%s", f)
	}
}

// texts reads a list of scalars; nil is none.
func (o *opening) texts(s *source, n *yaml.Node, place string) []string {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		o.fault(s.at(n), "%s: a list", place)
		return nil
	}
	var list []string
	for i, item := range n.Content {
		list = append(list, o.text(s, target(item), fmt.Sprintf("%s[%d]", place, i)))
	}
	return list
}

// advice is an error's message and hint in one line.
func advice(err error) string {
	if e, ok := err.(*bulkhead.Error); ok && e.Hint != "" {
		return e.Message + "; " + e.Hint
	}
	return err.Error()
}

// placed are the terms of the product, and those that its services have under
// deploy.placement: a stamp is placed whole, so each holds for all of it.
func (f *freezing) placed() bulkhead.Terms {
	terms := f.terms
	terms.Constraints, terms.Spread = slices.Clone(terms.Constraints), slices.Clone(terms.Spread)
	for _, key := range sortedKeys(f.loaded.Services) {
		deploy := f.loaded.Services[key].Deploy
		if deploy == nil {
			continue
		}
		where := "services." + key + ".deploy.placement"
		for _, s := range deploy.Placement.Constraints {
			c, err := bulkhead.ParseConstraint(s)
			switch {
			case err != nil:
				f.fault(f.where(where+".constraints", s), "%s.constraints: %s", where, advice(err))
			case !slices.Contains(terms.Constraints, c):
				terms.Constraints = append(terms.Constraints, c)
			}
		}
		for _, p := range deploy.Placement.Preferences {
			switch err := bulkhead.ValidateAttribute(p.Spread); {
			case err != nil:
				f.fault(f.where(where+".preferences", p.Spread), "%s.preferences: %s", where, advice(err))
			case !slices.Contains(terms.Spread, p.Spread):
				terms.Spread = append(terms.Spread, p.Spread)
			}
		}
	}
	return terms
}

// extras are the resources that a task reserves beside those that every node has.
func extras(s types.ServiceConfig, refuse refuseFunc) map[string]float64 {
	if s.Deploy == nil || s.Deploy.Resources.Reservations == nil {
		return nil
	}
	out := map[string]float64{}
	for _, g := range s.Deploy.Resources.Reservations.GenericResources {
		if d := g.DiscreteResourceSpec; d != nil {
			out[d.Kind] += float64(d.Value)
		}
	}
	for _, f := range (bulkhead.Terms{Extras: out}).Validate("deploy.resources.reservations.generic_resources") {
		refuse("deploy.resources.reservations.generic_resources", "", "%s", f.Message)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
