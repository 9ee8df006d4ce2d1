package plan

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"bulkhead"
)

// The resources that every node has, in the order of amounts.
const (
	cpu    = iota // thousandths of a core
	memory        // bytes
	disk          // bytes
	pids
	resources // how many there are
)

// amounts are of the resources that every node has.
type amounts [resources]int64

func (a amounts) plus(b amounts) amounts {
	for i := range a {
		a[i] += b[i]
	}
	return a
}

func (a amounts) minus(b amounts) amounts {
	for i := range a {
		a[i] -= b[i]
	}
	return a
}

// within tells whether a is at most b in everything.
func (a *amounts) within(b *amounts) bool {
	// One branch, not four: which of them is short is hard to foretell.
	return (b[cpu]-a[cpu])|(b[memory]-a[memory])|(b[disk]-a[disk])|(b[pids]-a[pids]) >= 0
}

func amountsOf(r bulkhead.Resources) amounts {
	return amounts{cpu: thousandths(r.CPU), memory: r.Memory, disk: r.Disk, pids: r.PIDs}
}

// thousandths is f × 1000, whole.
func thousandths(f float64) int64 { return int64(math.Round(f * unit)) }

// A task counts with a sixteenth of the processes that it may have, and with eight
// at the least: the limit is there for the day on which one runs wild.
const (
	pidsPerRequest = 16
	leastPIDs      = 8
)

// request is what placement counts a stamp with.
type request struct {
	amounts
	extras []extraRequest // by kind
}

// request adds up what a stamp is counted with: the requests of every replica,
// its own disk and extras, and at the least what its tier says. A stamp that is
// deleted, or preempted, is counted with its data alone.
func (f *Farm) request(s *bulkhead.Stamp) request {
	var r request
	r.amounts[disk] = s.Terms.Disk + s.ReleaseTerms.Disk
	if s.Desired == bulkhead.DesiredDeleted {
		return r
	}
	extra := func(extras map[string]float64, times int) {
		if len(extras) == 0 || times == 0 {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(extras)) {
			kind := f.kind(name)
			i, found := slices.BinarySearchFunc(r.extras, kind, func(e extraRequest, kind int) int { return cmp.Compare(e.kind, kind) })
			if !found {
				r.extras = slices.Insert(r.extras, i, extraRequest{kind: kind})
			}
			for range times {
				r.extras[i].add(extras[name])
			}
		}
	}
	for i := range s.Services {
		b, n := &s.Services[i].Budget, int64(s.Services[i].Replicas)
		r.amounts[cpu] += thousandths(b.CPURequest) * n
		r.amounts[memory] += b.MemoryRequest * n
		r.amounts[pids] += max(leastPIDs, b.PIDs/pidsPerRequest) * n
		extra(b.Extras, int(n))
	}
	extra(s.Terms.Extras, 1)
	extra(s.ReleaseTerms.Extras, 1)
	if tier := tierOf(s); tier != "" {
		least := f.policy.Tiers[tier].Requests
		for i, n := range amountsOf(least) {
			r.amounts[i] = max(r.amounts[i], n)
		}
		for _, name := range slices.Sorted(maps.Keys(least.Extras)) {
			kind := f.kind(name)
			if !slices.ContainsFunc(r.extras, func(e extraRequest) bool { return e.kind == kind && e.milli() >= thousandths(least.Extras[name]) }) {
				r.extras = slices.DeleteFunc(r.extras, func(e extraRequest) bool { return e.kind == kind })
				extra(map[string]float64{name: least.Extras[name]}, 1)
			}
		}
	}
	return r
}

// tierOf is the stamp's tier; its own word comes before its release's.
func tierOf(s *bulkhead.Stamp) string { return cmp.Or(s.Terms.Tier, s.ReleaseTerms.Tier) }

// demands are the terms that a node either meets or does not, and how stamps of
// the product are spread: those of the stamp and of its release together.
type demands struct {
	regions     [][]string // one of each list
	zones       []string   // all of them: two that differ are met by no node
	pool        string
	constraints []bulkhead.Constraint
	spread      []string
	apart       []bulkhead.Apart
	empty       bool // the node with most room
}

func demandsOf(s *bulkhead.Stamp) demands {
	a, b := &s.Terms, &s.ReleaseTerms
	d := demands{pool: cmp.Or(a.Pool, b.Pool), empty: cmp.Or(a.Strategy, b.Strategy) == bulkhead.StrategyEmpty}
	for _, t := range []*bulkhead.Terms{a, b} {
		if t.Region != "" {
			d.regions = append(d.regions, []string{t.Region})
		}
		if len(t.Residency) > 0 {
			d.regions = append(d.regions, t.Residency)
		}
		if t.Zone != "" {
			d.zones = append(d.zones, t.Zone)
		}
	}
	d.constraints, d.spread, d.apart = joined(a.Constraints, b.Constraints), joined(a.Spread, b.Spread), joined(a.Apart, b.Apart)
	return d
}

// joined is a and then b, without a copy when one is empty.
func joined[T any](a, b []T) []T {
	switch {
	case len(b) == 0:
		return a
	case len(a) == 0:
		return b
	}
	return slices.Concat(a, b)
}

// metBy tells whether a node will do, whatever room it has.
func (d *demands) metBy(n *bulkhead.Node) bool {
	if n.Labels[bulkhead.PoolLabel] != d.pool {
		return false
	}
	for _, regions := range d.regions {
		if !slices.Contains(regions, n.Region) {
			return false
		}
	}
	for _, zone := range d.zones {
		if n.Zone != zone {
			return false
		}
	}
	for i := range d.constraints {
		if !d.constraints[i].Holds(n) {
			return false
		}
	}
	return true
}

// plain tells whether any node outside of pools will do.
func (d *demands) plain() bool {
	return d.pool == "" && len(d.regions) == 0 && len(d.zones) == 0 && len(d.constraints) == 0
}

// appendKey writes what tells the demands from others that a node may meet or not.
func (d *demands) appendKey(b []byte) []byte {
	if d.plain() {
		return b
	}
	b = append(b, d.pool...)
	for _, r := range d.regions {
		b = append(b, "\x00r"...)
		for _, name := range r {
			b = append(b, ' ')
			b = append(b, name...)
		}
	}
	for _, z := range d.zones {
		b = append(b, "\x00z"...)
		b = append(b, z...)
	}
	for i := range d.constraints {
		c := &d.constraints[i]
		b = append(b, "\x00c"...)
		b = append(b, c.Attribute...)
		if c.Not {
			b = append(b, '!')
		}
		b = append(b, '=')
		b = append(b, c.Value...)
	}
	return b
}

// String names the demands for people: "in region eu with node.labels.disk==ssd".
// It begins with a space, or is empty.
func (d *demands) String() string {
	var b strings.Builder
	for _, part := range d.each() {
		b.WriteByte(' ')
		b.WriteString(part.String())
	}
	return b.String()
}

// demand is one of demands, in words.
type demand struct {
	word, text string // "in" "region eu"
	met        func(n *bulkhead.Node) bool
}

func (d demand) String() string { return d.word + " " + d.text }

func (d *demands) each() []demand {
	var all []demand
	if d.pool != "" {
		all = append(all, demand{"in", "pool " + d.pool, func(n *bulkhead.Node) bool { return n.Labels[bulkhead.PoolLabel] == d.pool }})
	}
	for _, regions := range d.regions {
		all = append(all, demand{"in", "region " + strings.Join(regions, " or "), func(n *bulkhead.Node) bool { return slices.Contains(regions, n.Region) }})
	}
	for _, zone := range d.zones {
		all = append(all, demand{"in", "zone " + zone, func(n *bulkhead.Node) bool { return n.Zone == zone }})
	}
	for _, c := range d.constraints {
		all = append(all, demand{"with", c.String(), c.Holds})
	}
	return all
}

// Ceiling is what all tasks of a stamp may use together.
func Ceiling(s bulkhead.Stamp) bulkhead.Budget {
	var b bulkhead.Budget
	for _, svc := range s.Services {
		// One more than its replicas: an update runs the new task beside the old.
		n := svc.Replicas + 1
		b.CPU += svc.Budget.CPU * float64(svc.Replicas)
		b.Memory += svc.Budget.Memory * int64(n)
		b.PIDs += svc.Budget.PIDs * int64(n)
	}
	return b
}

// Bytes writes an amount of memory for people: "1.5 GiB".
func Bytes(n int64) string { return string(appendBytes(nil, n)) }

func appendBytes(b []byte, n int64) []byte {
	units := [...]string{" B", " KiB", " MiB", " GiB", " TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if f == float64(int64(f)) {
		b = strconv.AppendInt(b, int64(f), 10)
	} else {
		b = strconv.AppendFloat(b, f, 'f', 1, 64)
	}
	return append(b, units[i]...)
}
