package plan

import (
	"slices"

	"bulkhead"
)

// domain is a failure domain: a node, a zone or a region.
type domain struct {
	name string
	load load // of a zone
}

// zone is a zone of a region: zones of different regions are different ones.
type zone struct{ region, name string }

// load is how much of the farm's stamps is somewhere.
type load struct {
	count   int
	revenue int64
	nodes   int // open ones, of a zone
}

// scopes are the kinds of failure domains, the narrowest first.
var scopes = [...]bulkhead.Scope{bulkhead.ScopeNode, bulkhead.ScopeZone, bulkhead.ScopeRegion}

// breadth is the index of a scope in scopes.
func breadth(s bulkhead.Scope) int { return max(0, slices.Index(scopes[:], s)) }

// domains are those that a new node is in, by scope.
func (f *Farm) domains(n *bulkhead.Node) [len(scopes)]*domain {
	z, r := f.zones[zone{n.Region, n.Zone}], f.regions[n.Region]
	if r == nil {
		r = &domain{name: n.Region}
		f.regions[n.Region] = r
	}
	if z == nil {
		z = &domain{name: n.Region + "/" + n.Zone}
		f.zones[zone{n.Region, n.Zone}] = z
	}
	return [...]*domain{{name: string(n.Name)}, z, r}
}

func (p *place) zone() *load { return &p.domains[1].load }

// apartKey counts stamps with a key: all of them, or those that let no other with
// that key into the domain.
type apartKey struct {
	key    string
	closed bool
}

// spread counts the stamps that are spread over the values of an attribute.
type spread struct {
	values map[string]int // their numbers
	counts map[bulkhead.ProductName]counts
}

// counts are by the number of a value; those after the last are 0.
type counts []int

func (c counts) of(number int) int {
	if number < len(c) {
		return c[number]
	}
	return 0
}

// spread is the one over an attribute.
func (f *Farm) spread(attribute string) *spread {
	s := f.spreads[attribute]
	if s == nil {
		s = &spread{values: map[string]int{}, counts: map[bulkhead.ProductName]counts{}}
		f.spreads[attribute] = s
	}
	return s
}

// number is that of a value, which it keeps.
func (s *spread) number(value string) int {
	n, ok := s.values[value]
	if !ok {
		n = len(s.values)
		s.values[value] = n
	}
	return n
}

// separate counts a stamp on a node for those that keep apart from it or spread
// with it.
func (f *Farm) separate(p *place, t *tenant, sign int) {
	for _, a := range t.terms.apart {
		f.countApart(apartKey{a.Key, false}, p.domains[:], sign)
		if b := breadth(a.Scope); b > 0 { // any other with the key is kept out of the node anyway
			f.countApart(apartKey{a.Key, true}, p.domains[1:b+1], sign)
		}
	}
	for _, attribute := range t.terms.spread {
		s := f.spread(attribute)
		n, counts := s.number(p.node.Attribute(attribute)), s.counts[t.product]
		for len(counts) <= n {
			counts = append(counts, 0)
		}
		counts[n] += sign
		s.counts[t.product] = counts
	}
}

// countApart adds n in each of the domains.
func (f *Farm) countApart(key apartKey, domains []*domain, n int) {
	in := f.apart[key]
	if in == nil {
		in = map[*domain]int{}
		f.apart[key] = in
	}
	for _, d := range domains {
		if in[d] += n; in[d] == 0 {
			delete(in, d)
		}
	}
	if len(in) == 0 {
		delete(f.apart, key)
	}
}
