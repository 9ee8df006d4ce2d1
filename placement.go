package bulkhead

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Terms are what a stamp asks of the node that it is placed on, and what it
// brings to that decision. The zero value asks for nothing but room. A stamp has
// its own, which a user sets, and those of its release; both must be met.
type Terms struct {
	// Region, Zone and Pool are the only ones that will do; empty: any region and
	// zone, and only nodes that are in no pool.
	Region string `json:"region,omitempty"`
	Zone   string `json:"zone,omitempty"`
	Pool   string `json:"pool,omitempty"`
	// Residency lists the regions in which the stamp's data may lie; empty: any.
	Residency []string `json:"residency,omitempty"`
	// Constraints must all hold on the node.
	Constraints []Constraint `json:"constraints,omitempty"`
	// Spread names node attributes (see Node.Attribute) over whose values the
	// stamps of one product are spread evenly, as far as there is room; the first
	// counts most.
	Spread []string `json:"spread,omitempty"`
	// Strategy says which of several nodes that will do.
	Strategy Strategy `json:"strategy,omitempty"`
	// Apart keeps stamps that have a key in common away from each other.
	Apart []Apart `json:"apart,omitempty"`
	// Tier is one of the farm's Policy; empty: none, priority 0.
	Tier string `json:"tier,omitempty"`
	// Ring is the release ring, and Revenue what the customer pays, in whatever
	// unit the vendor counts: the farm's BlastRadius bounds both.
	Ring    string `json:"ring,omitempty"`
	Revenue int64  `json:"revenue,omitempty"`
	// Disk is what the stamp's volumes are counted with, in bytes.
	Disk int64 `json:"disk,omitempty"`
	// Extras are counted for the stamp as a whole, beside what its tasks request.
	Extras map[string]float64 `json:"extras,omitempty"`
}

// Strategy says which of several nodes that will do a stamp gets.
type Strategy string

const (
	StrategyPack  Strategy = "pack"   // the default: the one that keeps room for what usually comes
	StrategyEmpty Strategy = "spread" // the one with most room
)

// Apart keeps a stamp out of every Scope in which another stamp has the same Key:
// competitors share no node, a standby no zone with its original.
type Apart struct {
	Key   string `json:"key"`
	Scope Scope  `json:"scope,omitempty"` // empty: ScopeNode
}

// Scope is a failure domain.
type Scope string

const (
	ScopeNode   Scope = "node"
	ScopeZone   Scope = "zone"
	ScopeRegion Scope = "region"
)

// Constraint is a condition on an attribute of the node, as Compose writes it:
// "node.labels.disk==ssd" or "node.zone!=a". An attribute that the node does not
// have is empty.
type Constraint struct {
	Attribute string
	Not       bool // the attribute must differ from Value
	Value     string
}

// ParseConstraint reads what Constraint.String writes, with or without space
// around the operator. Its error is of kind ErrInvalid.
func ParseConstraint(s string) (Constraint, error) {
	attribute, value, ok := strings.Cut(s, "==")
	not := false
	if i := strings.Index(s, "!="); i >= 0 && (!ok || i < len(attribute)) {
		attribute, value, not, ok = s[:i], s[i+2:], true, true
	}
	c := Constraint{strings.TrimSpace(attribute), not, strings.TrimSpace(value)}
	switch {
	case !ok:
		return c, Errorf(ErrInvalid, "constraint %q: write ATTRIBUTE==VALUE or ATTRIBUTE!=VALUE", s)
	case c.Value == "" || len(c.Value) > 256 || strings.ContainsAny(c.Value, "=!\n"):
		return c, Errorf(ErrInvalid, "constraint %q: a value has 1 to 256 characters, none of them = or !", s)
	}
	return c, ValidateAttribute(c.Attribute)
}

// String is the constraint as Compose writes it.
func (c Constraint) String() string {
	if c.Not {
		return c.Attribute + "!=" + c.Value
	}
	return c.Attribute + "==" + c.Value
}

// MarshalText writes the constraint as String does.
func (c Constraint) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what ParseConstraint does.
func (c *Constraint) UnmarshalText(b []byte) (err error) {
	*c, err = ParseConstraint(string(b))
	return err
}

// Holds tells whether the constraint holds on a node.
func (c Constraint) Holds(n *Node) bool { return (n.Attribute(c.Attribute) == c.Value) != c.Not }

// labelAttribute begins the attributes that are labels.
const labelAttribute = "node.labels."

// PoolLabel is the label of a node that puts it into a pool: only stamps that ask
// for that pool are placed on it.
const PoolLabel = "pool"

// Attribute is what constraints and spreads compare: node.hostname, node.region,
// node.zone, node.platform.os, node.platform.arch or node.labels.NAME. One that
// the node does not have is empty.
func (n *Node) Attribute(name string) string {
	switch name {
	case "node.hostname":
		return string(n.Name)
	case "node.region":
		return n.Region
	case "node.zone":
		return n.Zone
	case "node.platform.os":
		system, _, _ := strings.Cut(n.Platform, "/")
		return system
	case "node.platform.arch":
		_, arch, _ := strings.Cut(n.Platform, "/")
		return arch
	}
	if label, ok := strings.CutPrefix(name, labelAttribute); ok {
		return n.Labels[label]
	}
	return ""
}

// ValidateAttribute says what is wrong with the name of a node's attribute, or
// nil. What Swarm knows and Bulkhead does not is refused with the reason.
func ValidateAttribute(name string) error {
	switch name {
	case "node.hostname", "node.region", "node.zone", "node.platform.os", "node.platform.arch":
		return nil
	case "node.role":
		return Errorf(ErrInvalid, "%s: stamps run on every node, whether it is a server or not", name).
			WithHint("label the nodes that are meant, and use node.labels.NAME")
	case "node.id", "node.ip":
		return Errorf(ErrInvalid, "%s: nodes are known by their names", name).WithHint("use node.hostname")
	}
	if strings.HasPrefix(name, "engine.labels.") {
		return Errorf(ErrInvalid, "%s: the engine has no labels of its own", name).WithHint("label the node, and use node.labels.NAME")
	}
	if label, ok := strings.CutPrefix(name, labelAttribute); ok && nodeLabelPattern.MatchString(label) {
		return nil
	}
	return Errorf(ErrInvalid, "%q is no attribute of a node", name).
		WithHint("there are node.hostname, node.region, node.zone, node.platform.os, node.platform.arch and node.labels.NAME")
}

var (
	nodeLabelPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)
	wordPattern      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
)

// Bounds of Terms.
const (
	maxTerms  = 32             // entries of any list
	maxExtra  = 1024           // units of one extra
	maxAmount = int64(1) << 50 // bytes, or units of revenue: sums stay far from the end of an int64
	oneUnit   = float64(1)     // of an extra
	milli     = float64(1000)  // parts of a unit that are told apart
)

// Validate says everything that is wrong with t; where names it in the faults.
func (t Terms) Validate(where string) []Fault {
	var faults []Fault
	fault := func(field, format string, args ...any) {
		faults = append(faults, Fault{Where: where + "." + field, Message: fmt.Sprintf(format, args...)})
	}
	word := func(field, value string) {
		if value != "" && !wordPattern.MatchString(value) {
			fault(field, "%q: use letters, digits and . _ -, at most 63 bytes", value)
		}
	}
	word("region", t.Region)
	word("zone", t.Zone)
	word("pool", t.Pool)
	word("tier", t.Tier)
	word("ring", t.Ring)
	for _, list := range []struct {
		field string
		n     int
	}{{"residency", len(t.Residency)}, {"constraints", len(t.Constraints)}, {"spread", len(t.Spread)}, {"apart", len(t.Apart)}, {"extras", len(t.Extras)}} {
		if list.n > maxTerms {
			fault(list.field, "%d entries; at most %d", list.n, maxTerms)
		}
	}
	for _, r := range t.Residency {
		if !wordPattern.MatchString(r) {
			fault("residency", "%q is no region: use letters, digits and . _ -, at most 63 bytes", r)
		}
	}
	if t.Region != "" && len(t.Residency) > 0 && !slices.Contains(t.Residency, t.Region) {
		fault("region", "%s is not among the regions in which the data may lie: %s", t.Region, strings.Join(t.Residency, ", "))
	}
	for _, c := range t.Constraints {
		if err := ValidateAttribute(c.Attribute); err != nil {
			fault("constraints", "%v", err)
		}
	}
	for _, s := range t.Spread {
		if err := ValidateAttribute(s); err != nil {
			fault("spread", "%v", err)
		}
	}
	if t.Strategy != "" && t.Strategy != StrategyPack && t.Strategy != StrategyEmpty {
		fault("strategy", "%q: there are %s and %s", t.Strategy, StrategyPack, StrategyEmpty)
	}
	for _, a := range t.Apart {
		if a.Key == "" || len(a.Key) > 128 {
			fault("apart", "%q: a key has 1 to 128 bytes", a.Key)
		}
		if a.Scope != "" && a.Scope != ScopeNode && a.Scope != ScopeZone && a.Scope != ScopeRegion {
			fault("apart", "%q: there are %s, %s and %s", a.Scope, ScopeNode, ScopeZone, ScopeRegion)
		}
	}
	if t.Revenue < 0 || t.Revenue > maxAmount {
		fault("revenue", "%d: give 0 to %d", t.Revenue, maxAmount)
	}
	if t.Disk < 0 || t.Disk > maxAmount {
		fault("disk", "%d bytes: give 0 to %d", t.Disk, maxAmount)
	}
	return append(faults, validateExtras(where+".extras", t.Extras)...)
}

// ParseExtra reads what a node or a stamp has of an extra, "NAME=AMOUNT". Its error
// is of kind ErrInvalid.
func ParseExtra(s string) (name string, amount float64, err error) {
	name, text, ok := strings.Cut(s, "=")
	amount, wrong := strconv.ParseFloat(text, 64)
	if !ok || wrong != nil {
		return name, 0, Errorf(ErrInvalid, "extra %q is not NAME=AMOUNT", s)
	}
	if faults := validateExtras("extra", map[string]float64{name: amount}); len(faults) > 0 {
		return name, 0, Errorf(ErrInvalid, "%s", faults[0])
	}
	return name, amount, nil
}

// validateExtras checks amounts that are requested.
func validateExtras(where string, extras map[string]float64) []Fault {
	var faults []Fault
	for _, name := range slices.Sorted(maps.Keys(extras)) {
		amount := extras[name]
		switch {
		case !wordPattern.MatchString(name):
			faults = append(faults, Fault{where, fmt.Sprintf("%q: use letters, digits and . _ -, at most 63 bytes", name)})
		case math.IsNaN(amount) || amount <= 0 || amount > maxExtra:
			faults = append(faults, Fault{where + "." + name, fmt.Sprintf("%v: give more than 0 and at most %d", amount, maxExtra)})
		case amount > oneUnit && amount != math.Trunc(amount) || math.Round(amount*milli)/milli != amount:
			faults = append(faults, Fault{where + "." + name, fmt.Sprintf("%v: give whole units, or thousandths of one", amount)})
		}
	}
	return faults
}

// Policy is how a farm places stamps. The zero value is the default: every
// stamp has the same priority, CPU and memory are promised once, nothing is
// bounded.
type Policy struct {
	// CPUOvercommit is how many cores are promised for each that a node has;
	// 0: 1. Memory is never promised twice.
	CPUOvercommit float64 `json:"cpuOvercommit,omitempty"`
	// Reserve is kept free on every node, beyond what the node keeps for itself.
	Reserve Resources `json:"reserve,omitzero"`
	// Tiers by name.
	Tiers map[string]Tier `json:"tiers,omitempty"`
	// Quotas by product.
	Quotas map[ProductName]Quota `json:"quotas,omitempty"`
	// BlastRadius bounds what one failure can take along.
	BlastRadius BlastRadius `json:"blastRadius,omitzero"`
	// Sample is how many nodes are compared for one stamp; 0: 32, and all in a farm
	// of at most 256 nodes.
	Sample int `json:"sample,omitempty"`
	// Moves is how many stamps move at a time, and how many moves the rebalancer
	// proposes; 0: 8.
	Moves int `json:"moves,omitempty"`
	// CopyRate is how many bytes a second a node copies of the data of stamps that move
	// to it, all of them together; 0: as many as it can. The last copy of a stamp, while
	// it stands still, is not bounded.
	CopyRate int64 `json:"copyRate,omitempty"`
	// Rebalance lets the farm make the moves that it proposes.
	Rebalance bool `json:"rebalance,omitempty"`
}

// leastCopyRate keeps a slow copy from passing for one that is stuck.
const leastCopyRate = 1 << 20

// Tier is a class of stamps.
type Tier struct {
	// Priority orders who is placed first; greater is earlier.
	Priority int `json:"priority,omitempty"`
	// Preemptible lets a stamp of a tier with a greater priority take the room of
	// one of this tier.
	Preemptible bool `json:"preemptible,omitempty"`
	// Requests is what a whole stamp of this tier is counted with at the least.
	Requests Resources `json:"requests,omitzero"`
}

// Quota bounds what the stamps of a product request together.
type Quota struct {
	// Limit bounds each resource; 0: no bound.
	Limit Resources `json:"limit,omitzero"`
	// Stamps bounds their number; 0: no bound.
	Stamps int `json:"stamps,omitempty"`
	// Weight is the product's share when several wait for room: who has least of
	// what it takes most of, divided by its weight, is placed next; 0: 1.
	Weight float64 `json:"weight,omitempty"`
}

// BlastRadius bounds what one node, one zone and one release ring carry, as
// shares (0 to 1) of all placed stamps and of their revenue. 0 is no bound.
//
// A bound never falls below Floor stamps, nor below an even share: with two zones
// each may carry half, whatever Zone says.
type BlastRadius struct {
	Node  float64 `json:"node,omitempty"`
	Zone  float64 `json:"zone,omitempty"`
	Ring  float64 `json:"ring,omitempty"`
	Floor int     `json:"floor,omitempty"` // stamps; 0: 10
}

// Validate says everything that is wrong with p.
func (p Policy) Validate() error {
	var faults []Fault
	fault := func(where, format string, args ...any) {
		faults = append(faults, Fault{Where: where, Message: fmt.Sprintf(format, args...)})
	}
	resources := func(where string, r Resources) {
		if !(r.CPU >= 0 && r.CPU < 1e9) {
			fault(where+".cpu", "%v cores: give 0 or more", r.CPU)
		}
		for _, a := range []struct {
			name   string
			amount int64
		}{{"memory", r.Memory}, {"disk", r.Disk}, {"pids", r.PIDs}} {
			if a.amount < 0 || a.amount > maxAmount {
				fault(where+"."+a.name, "%d: give 0 to %d", a.amount, maxAmount)
			}
		}
		faults = append(faults, validateExtras(where+".extras", r.Extras)...)
	}
	if !(p.CPUOvercommit == 0 || p.CPUOvercommit >= 1 && p.CPUOvercommit <= 100) {
		fault("cpuOvercommit", "%v: give 1 to 100 cores for each", p.CPUOvercommit)
	}
	resources("reserve", p.Reserve)
	if len(p.Reserve.Extras) > 0 {
		fault("reserve.extras", "extras are not reserved: let the node report fewer")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Tiers)) {
		if !wordPattern.MatchString(name) {
			fault("tiers", "%q: use letters, digits and . _ -, at most 63 bytes", name)
		}
		resources("tiers."+name+".requests", p.Tiers[name].Requests)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Quotas)) {
		where := "quotas." + string(name)
		if _, err := ParseProductName(string(name)); err != nil {
			fault("quotas", "%v", err)
		}
		resources(where+".limit", p.Quotas[name].Limit)
		if w := p.Quotas[name].Weight; !(w >= 0 && w <= 1e6) {
			fault(where+".weight", "%v: give more than 0", w)
		}
		if p.Quotas[name].Stamps < 0 {
			fault(where+".stamps", "%d: give 0 or more", p.Quotas[name].Stamps)
		}
	}
	for _, share := range []struct {
		name  string
		value float64
	}{{"node", p.BlastRadius.Node}, {"zone", p.BlastRadius.Zone}, {"ring", p.BlastRadius.Ring}} {
		if !(share.value >= 0 && share.value <= 1) {
			fault("blastRadius."+share.name, "%v: give a share from 0 (no bound) to 1", share.value)
		}
	}
	if p.BlastRadius.Floor < 0 || p.Sample < 0 || p.Moves < 0 {
		fault("blastRadius.floor, sample, moves", "give 0 or more")
	}
	if p.CopyRate != 0 && p.CopyRate < leastCopyRate {
		fault("copyRate", "%d: give bytes a second, at least %d, or 0 for no bound", p.CopyRate, leastCopyRate)
	}
	return Faulty("the policy is refused", faults)
}

// UnitShare is what a stamp has of one unit of an extra on its node.
type UnitShare struct {
	Unit  int   `json:"unit"`  // from 0
	Milli int64 `json:"milli"` // thousandths of it
}
