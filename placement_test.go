package bulkhead

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestParseConstraint(t *testing.T) {
	for in, want := range map[string]string{
		"node.labels.disk==ssd":     "node.labels.disk==ssd",
		" node.zone != a ":          "node.zone!=a",
		"node.hostname==n1":         "node.hostname==n1",
		"node.labels.a.b/c==x y":    "node.labels.a.b/c==x y",
		"node.platform.arch==arm64": "node.platform.arch==arm64",
	} {
		c, err := ParseConstraint(in)
		if err != nil || c.String() != want {
			t.Errorf("%q: %v, %v", in, c, err)
		}
		b, _ := json.Marshal(c)
		var back Constraint
		if err := json.Unmarshal(b, &back); err != nil || back != c {
			t.Errorf("%q comes back from %s as %v, %v", in, b, back, err)
		}
	}
	for in, want := range map[string]string{
		"":                      "write ATTRIBUTE==VALUE",
		"node.zone":             "write ATTRIBUTE==VALUE",
		"node.zone=a":           "write ATTRIBUTE==VALUE",
		"node.zone==":           "a value has 1 to 256 characters",
		"node.zone==a!=b":       "none of them = or !",
		"node.role==manager":    "stamps run on every node",
		"node.id==x":            "nodes are known by their names",
		"engine.labels.os==x":   "the engine has no labels",
		"node.labels.==x":       "no attribute of a node",
		"node.labels.a\nb == x": "no attribute of a node",
		"zone==a":               "no attribute of a node",
	} {
		if _, err := ParseConstraint(in); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestParseExtra(t *testing.T) {
	if name, amount, err := ParseExtra("gpu=0.5"); err != nil || name != "gpu" || amount != 0.5 {
		t.Error(name, amount, err)
	}
	for _, in := range []string{"", "gpu", "gpu=", "gpu=half", "gpu=0", "gpu=-1", "gpu=NaN", "gpu=1.5", "=1", "g u=1", "gpu=1e9"} {
		if _, _, err := ParseExtra(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", in, err)
		}
	}
	if err := (Node{Capacity: Resources{Extras: map[string]float64{"gpu": -1}}}).CheckLabels(); err == nil {
		t.Error("a node with less than no GPU passes")
	}
}

func TestConstraintHolds(t *testing.T) {
	n := Node{Name: "n1", Zone: "a", Platform: "linux/amd64", Labels: map[string]string{"disk": "ssd"}}
	for text, want := range map[string]bool{
		"node.hostname==n1": true, "node.hostname!=n1": false, "node.zone==a": true, "node.region==eu": false, "node.region!=eu": true,
		"node.platform.os==linux": true, "node.platform.arch==arm64": false, "node.labels.disk==ssd": true, "node.labels.gpu!=a100": true, "node.labels.gpu==a100": false,
	} {
		c, err := ParseConstraint(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Holds(&n); got != want {
			t.Errorf("%s holds: %t", text, got)
		}
	}
}

func TestTermsValidate(t *testing.T) {
	if faults := (Terms{}).Validate("terms"); len(faults) > 0 {
		t.Errorf("nothing is asked, and it is refused: %v", faults)
	}
	good := Terms{
		Region: "eu", Zone: "eu-1", Pool: "gpu", Residency: []string{"eu"}, Spread: []string{"node.zone"}, Strategy: StrategyEmpty, Tier: "gold", Ring: "early",
		Apart: []Apart{{"steel", ScopeZone}}, Extras: map[string]float64{"gpu": 0.25, "seat": 3}, Revenue: 5, Disk: 1 << 30,
	}
	if faults := good.Validate("terms"); len(faults) > 0 {
		t.Errorf("refused: %v", faults)
	}
	for want, bad := range map[string]Terms{
		"terms.region: \"e u\"":                    {Region: "e u"},
		"terms.region: us is not among":            {Region: "us", Residency: []string{"eu"}},
		"terms.constraints: \"zone\"":              {Constraints: []Constraint{{Attribute: "zone", Value: "a"}}},
		"terms.spread: \"rack\"":                   {Spread: []string{"rack"}},
		"terms.strategy: \"best\"":                 {Strategy: "best"},
		"terms.apart: \"\"":                        {Apart: []Apart{{}}},
		"terms.apart: \"rack\"":                    {Apart: []Apart{{"k", "rack"}}},
		"terms.revenue: -1":                        {Revenue: -1},
		"terms.disk: -1 bytes":                     {Disk: -1},
		"terms.extras.gpu: 1.5: give whole":        {Extras: map[string]float64{"gpu": 1.5}},
		"terms.extras.gpu: 0: give more":           {Extras: map[string]float64{"gpu": 0}},
		"terms.extras.gpu: 0.0001: give":           {Extras: map[string]float64{"gpu": 0.0001}},
		"terms.extras.gpu: 2000: give more":        {Extras: map[string]float64{"gpu": 2000}},
		"terms.residency: 33 entries":              {Residency: make([]string, 33)},
		"terms.tier: \"" + strings.Repeat("x", 64): {Tier: strings.Repeat("x", 64)},
	} {
		faults := bad.Validate("terms")
		if len(faults) == 0 || !strings.HasPrefix(faults[0].String(), want) {
			t.Errorf("%+v: %v, want %s", bad, faults, want)
		}
	}
}

func TestPolicyValidate(t *testing.T) {
	if err := (Policy{}).Validate(); err != nil {
		t.Error(err)
	}
	for want, bad := range map[string]Policy{
		"cpuOvercommit":             {CPUOvercommit: 0.5},
		"copyRate":                  {CopyRate: 1000},
		"reserve.memory":            {Reserve: Resources{Memory: -1}},
		"reserve.extras":            {Reserve: Resources{Extras: map[string]float64{"gpu": 1}}},
		"tiers":                     {Tiers: map[string]Tier{"a b": {}}},
		"tiers.gold.requests.cpu":   {Tiers: map[string]Tier{"gold": {Requests: Resources{CPU: -1}}}},
		"quotas":                    {Quotas: map[ProductName]Quota{"A B": {}}},
		"quotas.shop.weight":        {Quotas: map[ProductName]Quota{"shop": {Weight: -1}}},
		"quotas.shop.stamps":        {Quotas: map[ProductName]Quota{"shop": {Stamps: -1}}},
		"blastRadius.node":          {BlastRadius: BlastRadius{Node: 1.5}},
		"blastRadius.floor, sample": {Sample: -1},
	} {
		err := bad.Validate()
		e, ok := errors.AsType[*Error](err)
		if !ok || len(e.Faults) != 1 || !strings.HasPrefix(e.Faults[0].Where, want) {
			t.Errorf("%+v: %v %+v", bad, err, e)
		}
	}
}
