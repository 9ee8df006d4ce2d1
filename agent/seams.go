package agent

import (
	"context"
	"io"
	"net/netip"
	"time"

	"bulkhead"
)

// Control is the agent's way to the servers. Implemented by api.NodeClient;
// the other end is the node session in api/node.go.
type Control interface {
	// Connect opens a session that begins with hello: the node and what it holds. It
	// fails when no server answers; the agent goes on with what it has and tries
	// again.
	Connect(ctx context.Context, hello bulkhead.NodeReport) (Session, error)
}

// Session is one open stream of orders and reports. Send and Receive may be
// called at the same time, each by one goroutine.
type Session interface {
	Receive() (bulkhead.NodeOrder, error)
	Send(bulkhead.NodeReport) error
	// Stream dials back for a StreamRequest. The caller closes it.
	Stream(ctx context.Context, r bulkhead.StreamRequest) (io.ReadWriteCloser, error)
	Close() error
}

// Runtime runs containers. Every method is idempotent: "already done" is
// success. Errors of kind bulkhead.ErrInvalid mean that the same call can never
// succeed; their message is one line for users.
type Runtime interface {
	// Pull makes sure the image is on this node, unpacked.
	Pull(ctx context.Context, image bulkhead.Image) error
	// Prepare creates the container, down to the process that waits to be
	// started. A failed Prepare leaves nothing behind.
	Prepare(ctx context.Context, c Container) error
	// Start lets the prepared process go.
	Start(ctx context.Context, id bulkhead.TaskID) error
	// Stop sends signal (such as "SIGTERM"), and SIGKILL after grace. It returns
	// when no process is left.
	Stop(ctx context.Context, id bulkhead.TaskID, signal string, grace time.Duration) error
	// Remove deletes the container and its file system, killing what still runs.
	Remove(ctx context.Context, id bulkhead.TaskID) error
	// List is every container of this Bulkhead instance on the node, for adoption.
	List(ctx context.Context) ([]Observed, error)
	// Exits delivers the end of every task until ctx ends, across restarts of the
	// container engine. A gap is announced by an Exit with an empty ID: the caller
	// lists again.
	Exits(ctx context.Context) <-chan Exit
	// Exec runs a command in a running task and returns its exit code.
	Exec(ctx context.Context, id bulkhead.TaskID, e Exec) (int, error)
	// Ceiling bounds what all tasks of a stamp use together.
	Ceiling(ctx context.Context, stamp bulkhead.StampName, most bulkhead.Budget) error
	// Forget removes what Ceiling made. The stamp has no containers any more.
	Forget(ctx context.Context, stamp bulkhead.StampName) error
}

// Container is what Runtime.Prepare makes a container from.
type Container struct {
	ID      bulkhead.TaskID
	Stamp   bulkhead.StampName
	Service bulkhead.Service
	// Secrets are the values that the SecretRefs in Service stand for. The runtime
	// keeps them off the disk, and puts them into the commands of Exec too.
	Secrets map[string]string
	Netns   string // path of the network namespace to join
	Binds   []Bind // in order of Target; replaces Service.Mounts but for tmpfs
	Labels  map[string]string
	Log     string // path of the file that gets stdout and stderr, in the order written
}

// Bind mounts a path of the node into a container.
type Bind struct {
	Source, Target string
	ReadOnly       bool
	// Fill copies what the image has at Target, with owners and modes, into
	// Source before the first start: a new volume begins with its image's content.
	Fill bool
}

// Observed is a container that exists.
type Observed struct {
	ID       bulkhead.TaskID
	Labels   map[string]string  // as given in Container
	State    bulkhead.TaskState // TaskPrepared, TaskRunning, TaskComplete or TaskFailed
	ExitCode int
	Ended    time.Time
}

// Exit is the end of a task's process.
type Exit struct {
	ID       bulkhead.TaskID
	ExitCode int
	OOM      bool
	Time     time.Time
}

// Exec is a command in a running task.
type Exec struct {
	Command        []string
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer // nil: discarded; with TTY only Stdout is used
	TTY            bool
	Resize         <-chan Size // with TTY
}

// Size of a terminal in characters.
type Size struct{ Width, Height uint16 }

// Network gives every stamp a bridge of its own and every task an address on it.
// Every method is idempotent.
type Network interface {
	// Join makes the stamp's bridge if need be, and a network namespace with an
	// address on it for the task.
	Join(ctx context.Context, stamp bulkhead.StampName, task bulkhead.TaskID) (Endpoint, error)
	// Leave removes the task's namespace and frees its address.
	Leave(ctx context.Context, stamp bulkhead.StampName, task bulkhead.TaskID) error
	// Remove takes the stamp's bridge and everything on it away.
	Remove(ctx context.Context, stamp bulkhead.StampName) error
	// Names replaces what the names of a stamp resolve to.
	Names(stamp bulkhead.StampName, names []Name)
	// List is what exists on this node, for adoption.
	List(ctx context.Context) (map[bulkhead.StampName][]Endpoint, error)
}

// Endpoint is a task's place in its stamp's network.
type Endpoint struct {
	Task    bulkhead.TaskID
	Netns   string     // path, to be joined by the container
	Address netip.Addr // of the task
	Gateway netip.Addr // of the bridge: default route and name server
}

// Name resolves to Addresses for tasks that share one of Networks.
type Name struct {
	// Name is in lower case, without final dot: "web", "web.acme.internal". An empty
	// one resolves nothing: it only tells which networks its addresses are on.
	Name      string
	Addresses []NameAddress
}

// NameAddress is the address of a healthy task and the networks it is known on.
type NameAddress struct {
	Address  netip.Addr
	Networks []bulkhead.NetworkName
}

// Volumes keeps the data of stamps on this node.
type Volumes interface {
	// Create makes the volume if need be and returns its folder; fresh tells that
	// nothing has been put into it yet. Epochs only grow: an older one than the
	// volume has seen is refused with ErrConflict.
	Create(stamp bulkhead.StampRef, volume bulkhead.VolumeName) (path string, fresh bool, err error)
	// Delete sets the stamp's data aside, to be kept; with purge it is gone.
	Delete(stamp bulkhead.StampRef, purge bool) error
	// Restore brings back what Delete set aside for the stamp with this UID;
	// ErrNotFound when nothing was.
	Restore(stamp bulkhead.StampRef) error

	// Send gives the stamp's data to the node at the other end of conn, as its Fetch
	// asks. last tells that nobody writes to it any more.
	Send(ctx context.Context, conn io.ReadWriter, stamp bulkhead.StampRef, last bool) error
	// Fetch makes a copy of the stamp's data that Send gives at the other end of conn
	// the same as that data, or for a first pass makes the copy. It tells how much
	// content came and how many files were new or had changed; told hears how much so
	// far. With last the copy is on the disk when it returns. Errors of kind
	// bulkhead.ErrInvalid and bulkhead.ErrExhausted would come again.
	Fetch(ctx context.Context, conn io.ReadWriter, stamp bulkhead.StampRef, move string, last bool, told func(bytes int64)) (bytes int64, files int, err error)
	// Holds tells whether the stamp's data is the copy that the move made.
	Holds(stamp bulkhead.StampRef, move string) (bool, error)
	// Install makes the copy that the move made the stamp's data; ErrConflict when
	// there is none. Data that the stamp has here from before it went elsewhere is set
	// aside.
	Install(stamp bulkhead.StampRef, move string) error
	// Leave sets the data of a stamp that went to another node aside, for a while.
	Leave(stamp bulkhead.StampRef) error
	// Sweep drops the copies of all moves but those that keep wants.
	Sweep(keep func(move string) bool) error
}

// Logs keeps what tasks write.
type Logs interface {
	// Open returns the path of the file that the container engine writes to.
	Open(stamp bulkhead.StampName, service bulkhead.ServiceName, task bulkhead.TaskID) (string, error)
	// Close says that the task has ended and its output is complete.
	Close(task bulkhead.TaskID) error
	// Delete drops all logs of a stamp.
	Delete(stamp bulkhead.StampName) error
	// Query calls yield for every line that q selects, oldest first, until yield
	// returns an error, ctx ends, or, without Follow, no line is left.
	Query(ctx context.Context, q bulkhead.LogQuery, yield func(bulkhead.LogLine) error) error
}

// Files unpacks the bundles of releases.
type Files interface {
	// Bundle makes sure the bundle is on this node, unpacked and read-only, and
	// returns its folder.
	Bundle(ctx context.Context, digest bulkhead.Digest) (string, error)
}

// Keys protect what the agent keeps on disk. Implemented by keys.Sealer.
type Keys interface {
	// Seal encrypts the secrets of the stamp with that UID, Open is its reverse.
	Seal(uid string, secrets map[string]string) ([]byte, error)
	Open(uid string, sealed []byte) (map[string]string, error)
	// Sign is a proof that whoever has the key wrote content under that name.
	Sign(name string, content []byte) []byte
}
