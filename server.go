package bulkhead

import (
	"strconv"
	"strings"
	"time"
)

// Server is one of the machines that agree on the state of the farm.
type Server struct {
	Name    NodeName  `json:"name"`
	UID     string    `json:"uid"`
	API     string    `json:"api"`            // URL of the users' API
	NodeAPI string    `json:"nodeAPI"`        // HOST:PORT, where nodes and joining servers call
	Peer    string    `json:"peer,omitempty"` // HOST:PORT, where other servers call; empty: none can
	Version string    `json:"version"`
	Joined  time.Time `json:"joined"`
}

// Removed is a machine whose membership has ended. Its certificate opens nothing.
type Removed struct {
	UID  string    `json:"uid"`
	Name NodeName  `json:"name"`
	Time time.Time `json:"time"`
	By   string    `json:"by"` // the operator
}

// JoinToken lets one machine into the farm, once. Only a hash of its secret is
// known.
type JoinToken struct {
	ID      string    `json:"id"`
	Role    string    `json:"role"` // "node" or "server"
	Hash    string    `json:"hash"` // hexadecimal SHA-256 of the secret
	Created time.Time `json:"created"`
	By      string    `json:"by"` // the operator
	Expires time.Time `json:"expires"`
	// Bound is what the node that joins by it is held to.
	Bound Attributes `json:"bound,omitzero"`

	// Set when it is used.
	Used  time.Time `json:"used,omitzero"`
	Name  NodeName  `json:"name,omitempty"`  // of the machine
	UID   string    `json:"uid,omitempty"`   // of its membership
	Proof string    `json:"proof,omitempty"` // hash of the machine's public key: it may ask again
}

// JoinLife is how long a join token is valid unless its maker says otherwise.
const JoinLife = 10 * time.Minute

// Alarm is a condition of the farm that its operators must know of.
type Alarm struct {
	Name    string    `json:"name"`
	Message string    `json:"message"` // one line
	Since   time.Time `json:"since"`
}

// Compatible says why machines of these two versions of Bulkhead cannot work
// together: at most one minor version may lie between them. Versions that are
// none, such as those of development builds, pass. Its error is of kind
// ErrConflict.
func Compatible(ours, theirs string) error {
	a, ok1 := minor(ours)
	b, ok2 := minor(theirs)
	if ok1 && ok2 && (a[0] != b[0] || max(a[1], b[1])-min(a[1], b[1]) > 1) {
		return Errorf(ErrConflict, "version %s cannot work with version %s: at most one minor version may lie between them", theirs, ours).
			WithHint("upgrade one minor version at a time, the servers first")
	}
	return nil
}

// minor reads "v1.2.3-..." as 1, 2.
func minor(version string) (v [2]int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 3 {
		return v, false
	}
	for i := range v {
		n, err := strconv.Atoi(parts[i])
		if err != nil || n < 0 {
			return v, false
		}
		v[i] = n
	}
	return v, true
}
