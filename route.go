package bulkhead

import "net/netip"

// Route is one entry of the gateway's table: requests to Host whose path begins
// with Path go to one of Backends. No backends: the stamp is starting, moving
// or down; requests are held for a while.
type Route struct {
	Host  Host      `json:"host"`
	Path  string    `json:"path"`
	Stamp StampName `json:"stamp"`
	// UID and Epoch are those of the stamp's grant: a gateway takes none of an older
	// epoch than it has seen.
	UID      string           `json:"uid"`
	Epoch    int64            `json:"epoch"`
	Service  ServiceName      `json:"service"`
	Backends []netip.AddrPort `json:"backends,omitempty"`
	// Node is where the stamp is, if that is another node: requests go to the
	// gateway there, which knows paths and tasks.
	Node NodeName `json:"node,omitempty"`
	// Down is set when waiting is pointless: the stamp is stopped or has failed.
	// It is shown to operators, never to the stamp's users.
	Down string `json:"down,omitempty"`
}
