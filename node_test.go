package bulkhead_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"bulkhead"
)

func TestParseLabel(t *testing.T) {
	for text, want := range map[string][2]string{
		"disk=ssd": {"disk", "ssd"}, "example.com/rack=7_b": {"example.com/rack", "7_b"}, "gpu=": {"gpu", ""},
	} {
		name, value, err := bulkhead.ParseLabel(text)
		if err != nil || name != want[0] || value != want[1] {
			t.Errorf("%q is %q, %q, %v", text, name, value, err)
		}
	}
	for _, text := range []string{"", "disk", "=ssd", "a b=c", "a=b c", "a=b=c", "/x=y", "x/=y", "a/b/c=d", "ä=b", strings.Repeat("n", 64) + "=v", "n=" + strings.Repeat("v", 64)} {
		if _, _, err := bulkhead.ParseLabel(text); !errors.Is(err, bulkhead.ErrInvalid) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := (bulkhead.Node{Region: "eu west"}).CheckLabels(); err == nil {
		t.Error("a region with a space passes")
	}
}

func TestAttributes(t *testing.T) {
	type labels = map[string]string
	bound := bulkhead.Attributes{Region: "eu", Labels: labels{"disk": "ssd", "pool": ""}}
	for _, c := range []struct {
		said           bulkhead.Attributes
		region, zone   string
		labels         labels
		against, holds string
	}{
		{bulkhead.Attributes{}, "eu", "", labels{"disk": "ssd", "pool": ""}, "", ""},
		{bulkhead.Attributes{Region: "eu", Zone: "a", Labels: labels{"gpu": "x"}}, "eu", "a", labels{"disk": "ssd", "pool": "", "gpu": "x"}, "", ""},
		{bulkhead.Attributes{Region: "us", Labels: labels{"disk": "hdd"}}, "eu", "", labels{"disk": "ssd", "pool": ""}, "region us, label disk=hdd", "region eu, label disk=ssd"},
		{bulkhead.Attributes{Labels: labels{"pool": "gold"}}, "eu", "", labels{"disk": "ssd", "pool": ""}, "label pool=gold", "label pool="},
	} {
		n := bulkhead.Node{Bound: bound, Said: c.said}
		n.Settle()
		if n.Region != c.region || n.Zone != c.zone || !maps.Equal(n.Labels, c.labels) {
			t.Errorf("it says %q: settled are %q, %q, %v", c.said, n.Region, n.Zone, n.Labels)
		}
		if against, holds := c.said.Against(bound).String(), bound.Against(c.said).String(); against != c.against || holds != c.holds {
			t.Errorf("it says %q: against what is bound %q, which is %q", c.said, against, holds)
		}
	}
	n := bulkhead.Node{Bound: bound}
	n.Settle()
	if n.Labels["disk"] = "hdd"; bound.Labels["disk"] != "ssd" {
		t.Error("a node shares its labels with what it is bound to")
	}
}

func TestCompatible(t *testing.T) {
	for _, c := range []struct {
		ours, theirs string
		ok           bool
	}{
		{"v1.4.0", "v1.4.9", true},
		{"v1.4.0", "1.5.0-3-gabc", true},
		{"v1.4.0", "v1.3.2", true},
		{"v1.4.0", "v1.6.0", false},
		{"v1.4.0", "v1.2.0", false},
		{"v1.4.0", "v2.4.0", false},
		{"dev", "v9.9.9", true},
		{"v1.4.0", "9f3ab12", true},
	} {
		if err := bulkhead.Compatible(c.ours, c.theirs); (err == nil) != c.ok || err != nil && !errors.Is(err, bulkhead.ErrConflict) {
			t.Errorf("%s with %s: %v", c.theirs, c.ours, err)
		}
	}
}

func TestNode_TakesStampsOnlyReadyNotCordonedNotFull(t *testing.T) {
	for _, state := range []bulkhead.NodeState{bulkhead.NodeReady, bulkhead.NodeUnreachable, bulkhead.NodeLost} {
		for _, cordoned := range []bool{false, true} {
			for _, full := range []bool{false, true} {
				if got := (bulkhead.Node{State: state, Cordoned: cordoned, Full: full}).Takes(); got != (state == bulkhead.NodeReady && !cordoned && !full) {
					t.Errorf("%s, cordoned %t, full %t: %t", state, cordoned, full, got)
				}
			}
		}
	}
}
