package bulkhead

// Move is a stamp that should be on another node, and why.
type Move struct {
	Stamp  StampName `json:"stamp"`
	From   NodeName  `json:"from"`
	To     NodeName  `json:"to,omitempty"` // empty: no node will do
	Data   bool      `json:"data"`         // it has volumes, which must come along
	Must   bool      `json:"must"`         // where it is it breaks its terms, a bound or the node's capacity
	Reason string    `json:"reason"`       // why it should move, or why it cannot
}

// WhatIf is a question about a farm that is another than it is. Its parts add up.
type WhatIf struct {
	// Lost nodes are gone, and what is on them needs another place.
	Lost []NodeName `json:"lost,omitempty"`
	// Stamps more, each like Like, or of the size that is most usual in the farm.
	Stamps int       `json:"stamps,omitempty"`
	Like   StampName `json:"like,omitempty"`
	// Machines more, each like the node MachineLike, or the largest one, at Price
	// each in whatever unit the caller counts.
	Machines    int      `json:"machines,omitempty"`
	MachineLike NodeName `json:"machineLike,omitempty"`
	Price       float64  `json:"price,omitempty"`
}

// Forecast is the answer to a WhatIf.
type Forecast struct {
	// Moves are of the stamps on lost nodes.
	Moves []Move `json:"moves"`
	// New says where the new stamps would go, node by node, and Refused how many find
	// no place, by reason.
	New     map[NodeName]int `json:"new"`
	Refused map[string]int   `json:"refused"`
	// Like is what the stamps that are counted are like.
	Like Resources `json:"like"`
	// Room is how many more of them find a place after all that, and RoomNow how many
	// would in the farm as it is; at most MostRoom.
	Room    int `json:"room"`
	RoomNow int `json:"roomNow"`
	// Gain is how many more stamps the machines make room for, and StampPrice what
	// one of them costs.
	Gain       int     `json:"gain"`
	StampPrice float64 `json:"stampPrice"`
	// Proposed are moves that would make the farm as it is better.
	Proposed []Move `json:"proposed"`
}

// MostRoom is where counting of room ends.
const MostRoom = 20_000
