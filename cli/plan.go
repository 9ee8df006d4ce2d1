package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"bulkhead"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

func (c *command) planCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "plan", Short: "Where stamps go: what would be if, and the policy"}
	cmd.AddCommand(c.planPlacement(), c.planPolicy())
	return family(cmd)
}

func (c *command) planPlacement() *cobra.Command {
	var ifs []string
	cmd := &cobra.Command{
		Use:   "placement [--what-if KEY=VALUE]...",
		Short: "Say how much room there is, what should move, and what would be if",
		Long: `Say how many more stamps find a place, and which should move. Nothing is changed.

  --what-if lost=NODE          if a node were lost; repeatable
  --what-if stamps=N           with N stamps more
  --what-if like=STAMP         what those are like (default: the usual size)
  --what-if machines=N         with N machines more
  --what-if machine-like=NODE  what those are like (default: the largest)
  --what-if price=P            what one of them costs

Several may stand together, with commas: --what-if stamps=50,lost=n4.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			what, err := whatIf(cmd, ifs)
			if err != nil {
				return err
			}
			f, err := c.client().Forecast(cmd.Context(), what)
			if err != nil {
				return err
			}
			return c.print(f, func() { c.showForecast(what, f) })
		},
	}
	cmd.Flags().StringArrayVar(&ifs, "what-if", nil, "KEY=VALUE, see above; repeatable")
	return cmd
}

// whatIf reads the values of --what-if.
func whatIf(cmd *cobra.Command, ifs []string) (what bulkhead.WhatIf, err error) {
	number := func(key, value string) int {
		n, wrong := strconv.Atoi(value)
		if wrong != nil || n < 0 {
			err = usage(cmd, "--what-if %s=%s: give a number", key, value)
		}
		return n
	}
	for _, list := range ifs {
		for part := range strings.SplitSeq(list, ",") {
			key, value, ok := strings.Cut(part, "=")
			if !ok || value == "" {
				return what, usage(cmd, "--what-if %q is not KEY=VALUE", part)
			}
			switch key {
			case "lost":
				what.Lost = append(what.Lost, bulkhead.NodeName(value))
			case "stamps":
				what.Stamps = number(key, value)
			case "like":
				what.Like = bulkhead.StampName(value)
			case "machines":
				what.Machines = number(key, value)
			case "machine-like":
				what.MachineLike = bulkhead.NodeName(value)
			case "price":
				var wrong error
				if what.Price, wrong = strconv.ParseFloat(value, 64); wrong != nil {
					err = usage(cmd, "--what-if price=%s: give an amount", value)
				}
			default:
				return what, usage(cmd, "--what-if %s: there are lost, stamps, like, machines, machine-like and price", key)
			}
		}
	}
	return what, err
}

func (c *command) showForecast(what bulkhead.WhatIf, f bulkhead.Forecast) {
	kind := fmt.Sprintf("of %g cores and %s", f.Like.CPU, size(f.Like.Memory))
	if what.Like != "" {
		kind = "like " + string(what.Like) + ", " + kind
	}
	c.say("room for %s more stamps %s", atLeast(f.RoomNow), kind)
	if len(f.Proposed) > 0 {
		c.say("")
		c.say("should move:")
		c.showMoves(f.Proposed)
	}
	if len(what.Lost) > 0 {
		found := 0
		for _, m := range f.Moves {
			if m.To != "" {
				found++
			}
		}
		c.say("")
		c.say("without %s: %d of %d stamps find another place", names(what.Lost), found, len(f.Moves))
		c.showMoves(f.Moves)
	}
	if what.Stamps > 0 {
		placed := 0
		for _, n := range f.New {
			placed += n
		}
		c.say("")
		c.say("%d more stamps: %d find a place on %d nodes", what.Stamps, placed, len(f.New))
		for _, reason := range slices.Sorted(maps.Keys(f.Refused)) {
			c.say("  %d do not: %s", f.Refused[reason], reason)
		}
	}
	if what.Machines > 0 {
		c.say("")
		c.say("%d machines more make room for %s stamps more", what.Machines, atLeast(f.Gain))
		if what.Price > 0 && f.Gain > 0 {
			c.say("  %.2f for each stamp", f.StampPrice)
		}
	}
	if len(what.Lost)+what.Stamps+what.Machines > 0 {
		c.say("")
		c.say("then there is room for %s more", atLeast(f.Room))
	}
}

func atLeast(n int) string {
	if n >= bulkhead.MostRoom {
		return fmt.Sprintf("at least %d", n)
	}
	return strconv.Itoa(n)
}

func (c *command) showMoves(moves []bulkhead.Move) {
	t := newTable(4, "  STAMP", "FROM", "TO", "DATA", "WHY")
	for _, m := range moves {
		to, data := cell{string(m.To), green}, "no"
		if m.To == "" {
			to = cell{"nowhere", red}
		}
		if m.Data {
			data = "yes"
		}
		t.add("  "+string(m.Stamp), string(m.From), to, data, m.Reason)
	}
	c.table(t)
}

func (c *command) planPolicy() *cobra.Command {
	var set string
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Show or set how the farm places stamps",
		Long: `Show the policy, or set all of it from a file. What a file leaves out is the default.

  cpuOvercommit: 2                                        # cores promised for each
  reserve: {cpu: 0.5, memory: 1073741824}                 # kept free on every node
  tiers:
    gold: {priority: 10, requests: {cpu: 2, memory: 4294967296}}
    trial: {preemptible: true}
  quotas:
    shop: {limit: {cpu: 100}, stamps: 500, weight: 2}
  blastRadius: {node: 0.1, zone: 0.4, ring: 0.5, floor: 10}
  copyRate: 104857600                                     # bytes a second that a node copies of stamps that move to it`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if set == "" {
				p, err := c.client().Policy(cmd.Context())
				if err != nil {
					return err
				}
				return c.print(p, func() { c.showPolicy(p) })
			}
			p, err := c.readPolicy(set)
			if err != nil {
				return err
			}
			if p, err = c.client().SetPolicy(cmd.Context(), p); err != nil {
				return err
			}
			return c.print(p, func() {
				c.say("the policy is set; stamps that are placed stay where they are")
				c.next("bulkhead plan placement")
			})
		},
	}
	cmd.Flags().StringVar(&set, "set", "", "file of YAML with the policy; - is standard input")
	return cmd
}

func (c *command) showPolicy(p bulkhead.Policy) {
	b, err := toYAML(p)
	if err != nil || string(b) == "{}\n" {
		c.say("the default: every stamp has the same priority, CPU and memory are promised once, nothing is bounded")
		return
	}
	c.say("%s", strings.TrimSuffix(string(b), "\n"))
}

// maxPolicy bounds a file of the policy in bytes.
const maxPolicy = 1 << 20

func (c *command) readPolicy(path string) (p bulkhead.Policy, err error) {
	var r io.Reader = c.env.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return p, bulkhead.Errorf(bulkhead.ErrNotFound, "no such file: %s", path)
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxPolicy+1))
	if err != nil {
		return p, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxPolicy {
		return p, bulkhead.Errorf(bulkhead.ErrExhausted, "%s is larger than %s", path, size(maxPolicy))
	}
	var document map[string]any
	if err := yaml.Unmarshal(b, &document); err != nil {
		return p, bulkhead.Errorf(bulkhead.ErrInvalid, "%s", yamlFault(path, err))
	}
	if err := strictly(document, &p); err != nil {
		return p, bulkhead.Errorf(bulkhead.ErrInvalid, "%s: %w", path, err)
	}
	return p, p.Validate()
}

// strictly reads a document by the names of out's JSON, and refuses other names.
func strictly(document map[string]any, out any) error {
	b, err := json.Marshal(document)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	err = dec.Decode(out)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s: %s is wanted, not %s", wrong.Field, wrong.Type, wrong.Value)
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// termFlags set what a stamp asks of its node.
type termFlags struct {
	region, zone, pool, tier, ring, strategy, disk string
	residency, constraints, spread, apart, extras  []string
	revenue                                        int64
}

var termFlagNames = []string{"region", "zone", "pool", "tier", "ring", "strategy", "disk", "residency", "constraint", "spread", "apart", "extra", "revenue"}

func (t *termFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.region, "region", "", "the only region that will do")
	f.StringVar(&t.zone, "zone", "", "the only zone that will do")
	f.StringVar(&t.pool, "pool", "", "pool of nodes")
	f.StringVar(&t.tier, "tier", "", "tier of the policy: priority and least requests")
	f.StringVar(&t.ring, "ring", "", "release ring, which the policy may bound")
	f.StringVar(&t.strategy, "strategy", "", "pack, or spread for the node with most room")
	f.StringVar(&t.disk, "disk", "", "what its volumes count with, such as 10GiB")
	f.StringArrayVar(&t.residency, "residency", nil, "region in which its data may lie; repeatable")
	f.StringArrayVar(&t.constraints, "constraint", nil, "condition on the node, such as node.labels.disk==ssd; repeatable")
	f.StringArrayVar(&t.spread, "spread", nil, "attribute over which stamps of the product are spread, such as node.zone; repeatable")
	f.StringArrayVar(&t.apart, "apart", nil, "KEY or KEY@zone: no other stamp with this key on its node (zone, region); repeatable")
	f.StringArrayVar(&t.extras, "extra", nil, "NAME=AMOUNT of what nodes have besides, such as gpu=0.5; repeatable")
	f.Int64Var(&t.revenue, "revenue", 0, "what the customer pays, for the blast radius")
	for _, name := range termFlagNames { // BULKHEAD_REGION is that of a node
		_ = f.SetAnnotation(name, deliberateMark, nil) // fails for an unknown flag only
	}
}

// given tells whether any is.
func (t *termFlags) given(cmd *cobra.Command) bool {
	return slices.ContainsFunc(termFlagNames, func(name string) bool { return cmd.Flags().Changed(name) })
}

// onto is terms with what the flags set; an empty value takes one back. Nil if
// none is given.
func (t *termFlags) onto(cmd *cobra.Command, terms bulkhead.Terms) (*bulkhead.Terms, error) {
	if !t.given(cmd) {
		return nil, nil
	}
	changed := cmd.Flags().Changed
	for name, field := range map[string]*string{"region": &terms.Region, "zone": &terms.Zone, "pool": &terms.Pool, "tier": &terms.Tier, "ring": &terms.Ring} {
		if changed(name) {
			*field, _ = cmd.Flags().GetString(name)
		}
	}
	if changed("strategy") {
		terms.Strategy = bulkhead.Strategy(t.strategy)
	}
	if changed("revenue") {
		terms.Revenue = t.revenue
	}
	if changed("disk") {
		bytes, err := units.RAMInBytes(t.disk)
		if t.disk != "" && err != nil {
			return nil, usage(cmd, "--disk %q is no size: write it as 10GiB", t.disk)
		}
		terms.Disk = max(0, bytes)
	}
	given := func(list []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == "" })
	}
	if changed("residency") {
		terms.Residency = given(t.residency)
	}
	if changed("spread") {
		terms.Spread = given(t.spread)
	}
	if changed("constraint") {
		terms.Constraints = nil
		for _, s := range given(t.constraints) {
			constraint, err := bulkhead.ParseConstraint(s)
			if err != nil {
				return nil, err
			}
			terms.Constraints = append(terms.Constraints, constraint)
		}
	}
	if changed("apart") {
		terms.Apart = nil
		for _, s := range given(t.apart) {
			key, scope, _ := strings.Cut(s, "@")
			terms.Apart = append(terms.Apart, bulkhead.Apart{Key: key, Scope: bulkhead.Scope(scope)})
		}
	}
	if changed("extra") {
		terms.Extras = nil
		for _, s := range given(t.extras) {
			name, amount, err := bulkhead.ParseExtra(s)
			if err != nil {
				return nil, err
			}
			if terms.Extras == nil {
				terms.Extras = map[string]float64{}
			}
			terms.Extras[name] = amount
		}
	}
	return &terms, nil
}

// termObject are terms by the names of their JSON.
func termObject(t bulkhead.Terms) map[string]any {
	out := map[string]any{}
	if b, err := json.Marshal(t); err == nil {
		_ = json.Unmarshal(b, &out) // a struct: it always is an object
	}
	return out
}

// termLines are terms for people: "region eu".
func termLines(t bulkhead.Terms) []string {
	object := map[string]json.RawMessage{}
	if b, err := json.Marshal(t); err == nil {
		_ = json.Unmarshal(b, &object)
	}
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(object)) {
		lines = append(lines, key+" "+plainSetting(object[key]))
	}
	return lines
}
