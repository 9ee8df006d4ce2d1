package bulkhead

import "time"

// Transfer is a move of a stamp to another node, while it is under way. Its steps are
// recorded in the stamp, so that whoever is killed, the move goes on or is given up.
type Transfer struct {
	ID   string   `json:"id"` // tells this move from others of the stamp
	From NodeName `json:"from"`
	To   NodeName `json:"to,omitempty"`
	// ToUID is To's membership: nobody else is given the data.
	ToUID string `json:"toUID,omitempty"`
	// Units are reserved for the stamp of To's extras.
	Units  map[string][]UnitShare `json:"units,omitempty"`
	Phase  TransferPhase          `json:"phase"`
	Actor  string                 `json:"actor,omitempty"`  // who asked for it; empty: the platform
	Reason string                 `json:"reason,omitempty"` // why it moves, and why there
	Began  time.Time              `json:"began"`
	// Switched is when From lost the stamp: from then on its requests are held.
	Switched time.Time `json:"switched,omitzero"`
	// Bytes and Passes are what the copying came to. Set with TransferStarting.
	Bytes  int64 `json:"bytes,omitempty"`
	Passes int   `json:"passes,omitempty"`
}

// TransferPhase is how far a move has come.
type TransferPhase string

const (
	// TransferPlanned: it was asked for. The leader chooses To, or takes the one that
	// was asked for, and reserves room there.
	TransferPlanned TransferPhase = "planned"
	// TransferCopying: the stamp runs at From; To copies its data, again and again.
	TransferCopying TransferPhase = "copying"
	// TransferSwitching: nobody has the stamp. It stops at From, and To copies what
	// changed last.
	TransferSwitching TransferPhase = "switching"
	// TransferStarting: To has the stamp, which is not up there yet.
	TransferStarting TransferPhase = "starting"
)

// Transferred is how the last move of a stamp ended.
type Transferred struct {
	ID    string    `json:"id"`
	From  NodeName  `json:"from"`
	To    NodeName  `json:"to"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Held is for how long requests waited; 0: it was not running.
	Held   time.Duration `json:"held,omitempty"`
	Bytes  int64         `json:"bytes,omitempty"`  // copied, in all passes
	Passes int           `json:"passes,omitempty"` // over the data
	// GivenUp says why the stamp is still at From; empty: it is at To.
	GivenUp string `json:"givenUp,omitempty"`
}

// Nodes are those that have to hear of the stamp: the one that has it, and the one that
// is to have it.
func (s *Stamp) Nodes() []NodeName {
	if m := s.Transfer; m != nil && m.To != "" && m.To != s.Node {
		return []NodeName{s.Node, m.To}
	}
	return []NodeName{s.Node}
}

// Switching tells whether a move keeps the stamp from running anywhere.
func (s *Stamp) Switching() bool {
	return s.Transfer != nil && s.Transfer.Phase == TransferSwitching
}

// KeepMoved is how long a node keeps the data of a stamp that went to another one.
const KeepMoved = 24 * time.Hour

// Fetch asks a node to copy the data of a stamp that is to come to it, and to get
// ready for it in whatever else takes time. It gives it no right to run the stamp.
type Fetch struct {
	StampRef
	Move   string  `json:"move"` // Transfer.ID
	From   Peer    `json:"from"`
	Bundle Digest  `json:"bundle,omitempty"`
	Images []Image `json:"images,omitempty"`
	Rate   int64   `json:"rate,omitempty"` // Policy.CopyRate
	// Last: the stamp stops where it is, and the next copy is the one that counts.
	Last bool `json:"last,omitempty"`
}

// Arrival is what a node reports of a stamp that is to come to it. Only the session
// of that node writes it.
type Arrival struct {
	Name  StampName    `json:"name"`
	Move  string       `json:"move"`
	Node  NodeName     `json:"node"`
	State ArrivalState `json:"state"`
	// Bytes is what was copied so far, in Passes over the data.
	Bytes  int64 `json:"bytes,omitempty"`
	Passes int   `json:"passes,omitempty"`
	// Message is one line: what keeps it, or why it cannot be.
	Message string `json:"message,omitempty"`
}

// ArrivalState is how far a node is with a stamp that is to come to it.
type ArrivalState string

const (
	ArrivalCopying  ArrivalState = "copying"
	ArrivalReady    ArrivalState = "ready"    // what is left to copy takes a moment
	ArrivalComplete ArrivalState = "complete" // the last copy is on its disk
	ArrivalFailed   ArrivalState = "failed"   // it cannot be: Message says why
)
