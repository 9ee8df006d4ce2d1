package bulkhead

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Node is a machine of the farm, as it reports itself.
type Node struct {
	Name     NodeName          `json:"name"`
	Region   string            `json:"region,omitempty"`
	Zone     string            `json:"zone,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Version  string            `json:"version"`  // of Bulkhead
	Platform string            `json:"platform"` // "linux/amd64"
	Kernel   string            `json:"kernel"`
	Runtime  string            `json:"runtime"`  // "containerd 1.6.20, runc 1.1.5"
	Capacity Resources         `json:"capacity"` // what tasks may use: the machine's less the reserve
	Joined   time.Time         `json:"joined"`
	// Gateway is HOST:PORT, where the gateways of other nodes reach this node's own
	// over mutual TLS. Empty: they cannot.
	Gateway string `json:"gateway,omitempty"`
	// Inner: its gateway serves only the node's own stamps. It is not told where others
	// are, which in a farm of thousands of nodes is most of what there is to tell.
	Inner bool `json:"inner,omitempty"`
	// Full: its disk has hardly any room left. It keeps its stamps and gets no new ones.
	Full bool `json:"full,omitempty"`
	// Aside is data on it that no stamp of its uses, the latest first, and of more than
	// MostAside the latest.
	Aside []Aside `json:"aside,omitempty"`

	// UID tells this membership from that of another machine that had the name
	// before. Its certificate carries it. Set when the node joins.
	UID string `json:"uid,omitempty"`
	// Bound is what its join token or an operator has settled of its region, zone and
	// labels, and Said what the machine itself says of them; Settle makes Region, Zone and
	// Labels of both.
	Bound Attributes `json:"bound,omitzero"`
	Said  Attributes `json:"said,omitzero"`
	// Cordoned by an operator: it keeps its stamps and gets no new ones.
	Cordoned bool `json:"cordoned,omitempty"`
	// Draining: an operator wants it empty. It gets no new stamps, and its stamps move
	// elsewhere one after the other.
	Draining bool `json:"draining,omitempty"`

	// Set by the servers.
	State  NodeState `json:"state"`
	Seen   time.Time `json:"seen"`             // when State last changed
	Server NodeName  `json:"server,omitempty"` // which server has, or had, its session
	// Session counts its sessions. What it said in one that is not the last is not written
	// any more: a server that stood still would bring back what was long ago.
	Session int64 `json:"session,omitempty"`
	// Silent is when the node was last heard; zero while its session is open.
	Silent time.Time `json:"silent,omitzero"`
	// Spared is when its silence was last put down to something else than its own death:
	// many were silent at once. Its silence before that does not count towards being lost.
	Spared time.Time `json:"spared,omitzero"`
}

// Attributes are what placement asks of a node by names that people have chosen. What is
// empty is left open.
type Attributes struct {
	Region string            `json:"region,omitempty"`
	Zone   string            `json:"zone,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// IsZero tells whether everything is left open; JSON's omitzero asks.
func (a Attributes) IsZero() bool { return a.Region == "" && a.Zone == "" && len(a.Labels) == 0 }

// String is such as "region eu, label disk=ssd".
func (a Attributes) String() string {
	var out []string
	if a.Region != "" {
		out = append(out, "region "+a.Region)
	}
	if a.Zone != "" {
		out = append(out, "zone "+a.Zone)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Labels)) {
		out = append(out, "label "+name+"="+a.Labels[name])
	}
	return strings.Join(out, ", ")
}

// Against is what of a is otherwise in b. What one of them leaves open is not.
func (a Attributes) Against(b Attributes) (out Attributes) {
	if b.Region != "" && b.Region != a.Region {
		out.Region = a.Region
	}
	if b.Zone != "" && b.Zone != a.Zone {
		out.Zone = a.Zone
	}
	for name, value := range a.Labels {
		if other, ok := b.Labels[name]; ok && other != value {
			if out.Labels == nil {
				out.Labels = map[string]string{}
			}
			out.Labels[name] = value
		}
	}
	return out
}

// Settle makes the node's attributes: what is bound, and its own word for the rest.
func (n *Node) Settle() {
	n.Region, n.Zone = cmp.Or(n.Bound.Region, n.Said.Region), cmp.Or(n.Bound.Zone, n.Said.Zone)
	n.Labels = maps.Clone(n.Said.Labels)
	if n.Labels == nil && len(n.Bound.Labels) > 0 {
		n.Labels = map[string]string{}
	}
	maps.Copy(n.Labels, n.Bound.Labels)
}

// Aside is data that nothing uses: of a stamp that was deleted, or that is another
// node's by now.
type Aside struct {
	Stamp StampName `json:"stamp"`
	UID   string    `json:"uid"`
	Moved bool      `json:"moved,omitempty"` // it went to another node
	Since time.Time `json:"since"`
	Until time.Time `json:"until"` // then it is destroyed
}

// MostAside bounds Node.Aside.
const MostAside = 50

// Takes tells whether the node takes new stamps.
func (n Node) Takes() bool {
	return n.State == NodeReady && !n.Cordoned && !n.Draining && !n.Full
}

// NodeState is how the servers see a node.
type NodeState string

const (
	NodeReady       NodeState = "ready"
	NodeUnreachable NodeState = "unreachable" // silent for longer than its lease; nothing follows for its stamps
	NodeLost        NodeState = "lost"        // silent for so long that stamps without data went elsewhere
)

// MaxLabels bounds the labels of a node.
const MaxLabels = 64

// ParseLabel reads a node's label, "NAME=VALUE": names and values are up to 63
// letters, digits, dots, hyphens and underscores, and a name may have a prefix
// with a slash. Its error is of kind ErrInvalid.
func ParseLabel(s string) (name, value string, err error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return "", "", Errorf(ErrInvalid, "label %q is not NAME=VALUE", s)
	}
	prefix, rest, prefixed := strings.Cut(name, "/")
	if !prefixed {
		prefix, rest = "x", name
	}
	if !labelText(prefix) || !labelText(rest) {
		return "", "", Errorf(ErrInvalid, "label %q: its name is not of 1 to 63 letters, digits, dots, hyphens and underscores", s)
	}
	if value != "" && !labelText(value) {
		return "", "", Errorf(ErrInvalid, "label %q: its value is not of up to 63 letters, digits, dots, hyphens and underscores", s)
	}
	return name, value, nil
}

// CheckLabels checks the labels, extras, region and zone of a node, which a node
// sends itself. Its error is of kind ErrInvalid.
func (n Node) CheckLabels() error {
	if len(n.Labels) > MaxLabels {
		return Errorf(ErrInvalid, "%d labels: a node has at most %d", len(n.Labels), MaxLabels)
	}
	for name, value := range n.Labels {
		if _, _, err := ParseLabel(name + "=" + value); err != nil {
			return err
		}
	}
	if len(n.Capacity.Extras) > MaxLabels {
		return Errorf(ErrInvalid, "%d extras: a node has at most %d", len(n.Capacity.Extras), MaxLabels)
	}
	if faults := validateExtras("extras", n.Capacity.Extras); len(faults) > 0 {
		return Errorf(ErrInvalid, "%s", faults[0])
	}
	for what, text := range map[string]string{"region": n.Region, "zone": n.Zone} {
		if text != "" && !labelText(text) {
			return Errorf(ErrInvalid, "%s %q is not of up to 63 letters, digits, dots, hyphens and underscores", what, text)
		}
	}
	return nil
}

func labelText(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for _, r := range s {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_') {
			return false
		}
	}
	return true
}

// Resources are amounts that placement adds up.
type Resources struct {
	CPU    float64 `json:"cpu,omitempty"`    // cores
	Memory int64   `json:"memory,omitempty"` // bytes
	Disk   int64   `json:"disk,omitempty"`   // bytes
	PIDs   int64   `json:"pids,omitempty"`
	// Extras are whatever else a node has a number of, by name: GPUs, licences.
	Extras map[string]float64 `json:"extras,omitempty"`
}
