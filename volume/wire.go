package volume

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"

	"bulkhead"
)

// One pass over a stamp's data is one conversation. The node that gets the data says
// by what key blocks are told apart and whether the pass is the last. The other lists
// every volume, depth first; then it answers wants, one after the other: the content
// of a file, or of it what is not the same already.
//
//	to the sender     hello, want and its hashes ..., done
//	from the sender   volume, entry ..., up ..., listed, then for each want: hash, data
//	                  and hole ..., ended; at any time: trouble
//
// Neither end trusts the other: what it names is confined to the stamp's volumes, and
// how much it names is bounded.

// kind of a frame, its first byte. Four bytes of length follow, then the body.
type kind byte

const (
	kindHello   kind = 'I' // hello
	kindWant    kind = 'W' // want
	kindHashes  kind = 'K' // of blocks that are there already, in order
	kindDone    kind = 'N' // no more wants
	kindVolume  kind = 'V' // entry: the volume's own folder
	kindEntry   kind = 'E' // entry; of a folder: what follows is in it
	kindUp      kind = 'U' // the folder, or the volume, ends
	kindListed  kind = 'L' // all volumes do
	kindHash    kind = 'H' // of the block that follows: its number and hash
	kindData    kind = 'X' // offset and bytes
	kindHole    kind = 'O' // offset and length
	kindEnded   kind = 'Z' // ended: the content of a wanted file does
	kindTrouble kind = '!' // trouble: the sender cannot go on
)

// Bounds of a conversation.
const (
	blockSize   = 128 << 10
	mostFrame   = 512 << 10
	mostEntries = 4_000_000
	mostDepth   = 200 // folders in folders; each costs two open files
	mostVolumes = 1000
	mostSize    = int64(1) << 50 // bytes of a file
	hashSize    = 16
	// mostHashes is how many blocks' hashes one move remembers: of 64 GiB.
	mostHashes = 512 << 10
	// hashesPerFrame is how many go at once.
	hashesPerFrame = 4096
)

// hello begins a pass.
type hello struct {
	Key  []byte `json:"key"` // of blockHash
	Last bool   `json:"last,omitempty"`
}

// entryType is what an entry is.
type entryType string

const (
	typeFolder  entryType = "d"
	typeFile    entryType = "f"
	typeSymlink entryType = "l"
	typeFIFO    entryType = "p"
	typeLink    entryType = "h" // another name of a file that was named before
)

// entry is one name in a folder and what there is to know of it.
type entry struct {
	Name  string            `json:"n"`
	Type  entryType         `json:"t"`
	Mode  uint32            `json:"m,omitempty"` // permissions, set-UID and the like
	UID   uint32            `json:"u,omitempty"`
	GID   uint32            `json:"g,omitempty"`
	MTime int64             `json:"w,omitempty"` // nanoseconds of Unix time
	Attrs map[string][]byte `json:"x,omitempty"` // extended ones
	To    string            `json:"k,omitempty"` // of a symbolic link
	// Link is not 0 for files with several names: those with one number are one.
	Link    int     `json:"l,omitempty"`
	Version version `json:"v,omitzero"`  // of a file
	Blocks  int64   `json:"b,omitempty"` // bytes that a file takes on the disk
}

// version tells whether a file is the one that was read: users can set neither
// number nor change time.
type version struct {
	Inode int64 `json:"i"`
	CTime int64 `json:"c"` // nanoseconds of Unix time
	Size  int64 `json:"s"`
}

// want asks for the content of a file. So many hashes of blocks that are there
// already follow.
type want struct {
	Path   string `json:"p"` // VOLUME/_data/...
	Hashes int    `json:"h,omitempty"`
}

// ended closes the content of a file: what it was while it was read.
type ended struct {
	Size int64 `json:"s"`
	// Version is that of the file, if it can be trusted to tell a later change. Zero:
	// the file was changing, or is gone.
	Version version `json:"v,omitzero"`
}

// trouble is why the sender cannot go on.
type trouble struct {
	Message string `json:"message"`
	Final   bool   `json:"final,omitempty"` // it would be so again
}

func (t trouble) err() error {
	message := strings.ToValidUTF8(t.Message[:min(len(t.Message), 500)], "")
	if t.Final {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%s", message)
	}
	return bulkhead.Errorf(bulkhead.ErrUnavailable, "%s", message)
}

// wire reads and writes frames. Each half is for one goroutine at a time.
type wire struct {
	r *bufio.Reader
	w *bufio.Writer
	b []byte // body of the frame that was read last
}

func newWire(conn io.ReadWriter) *wire {
	return &wire{r: bufio.NewReaderSize(conn, 256<<10), w: bufio.NewWriterSize(conn, 256<<10)}
}

// frame writes one, of several parts.
func (w *wire) frame(k kind, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > mostFrame {
		return fmt.Errorf("a frame of %d bytes: at most %d", n, mostFrame)
	}
	var head [5]byte
	head[0] = byte(k)
	binary.BigEndian.PutUint32(head[1:], uint32(n))
	if _, err := w.w.Write(head[:]); err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := w.w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

func (w *wire) object(k kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.frame(k, b)
}

// extent writes that a part of the file at hand is a hole, or what it is.
func (w *wire) extent(k kind, offset, length int64, data []byte) error {
	var head [16]byte
	binary.BigEndian.PutUint64(head[:8], uint64(offset))
	binary.BigEndian.PutUint64(head[8:], uint64(length))
	return w.frame(k, head[:], data)
}

// readExtent reads the body that extent has written.
func readExtent(b []byte) (offset, length int64, data []byte, err error) {
	if len(b) < 16 {
		return 0, 0, nil, errors.New("a part of a file is cut short")
	}
	offset, length = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
	if offset < 0 || length < 0 || offset > mostSize || length > mostSize-offset {
		return 0, 0, nil, fmt.Errorf("a part of a file at %d, of %d bytes", offset, length)
	}
	return offset, length, b[16:], nil
}

// numbered writes the hash of a block.
func (w *wire) numbered(index int64, h hash) error {
	return w.frame(kindHash, binary.BigEndian.AppendUint64(nil, uint64(index)), h[:])
}

// read reads the next frame. Its body is good until the one after it.
func (w *wire) read() (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > mostFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes: at most %d", n, mostFrame)
	}
	if cap(w.b) < int(n) {
		w.b = make([]byte, n)
	}
	w.b = w.b[:n]
	if _, err := io.ReadFull(w.r, w.b); err != nil {
		return 0, nil, err
	}
	return kind(head[0]), w.b, nil
}

func decode[T any](b []byte) (v T, err error) {
	if err = json.Unmarshal(b, &v); err != nil {
		err = fmt.Errorf("a frame cannot be read: %w", err)
	}
	return v, err
}

// hash of a block.
type hash [hashSize]byte

// hasher tells blocks apart. It is GHASH, the universal hash of GCM, under a key that
// the two nodes make for one move and nobody else knows: whoever wrote the blocks,
// and does not know the key, makes two of them look alike with a probability of no
// more than 2^-114 (McGrew and Viega, The Security and Performance of GCM, 2004). A
// hash without a key that is as fast could be fooled by what a customer's customers
// upload, and SHA-256 is slower: BenchmarkHash.
type hasher struct{ gcm cipher.AEAD }

const keySize = 16

func newHasher(key []byte) (hasher, error) {
	if len(key) != keySize {
		return hasher{}, fmt.Errorf("a key of %d bytes instead of %d", len(key), keySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return hasher{}, err
	}
	gcm, err := cipher.NewGCM(block)
	return hasher{gcm}, err
}

// of is the hash of a block. It may be called by several goroutines.
func (h hasher) of(block []byte) (sum hash) {
	var nonce [12]byte // nothing is encrypted: one is as good as another
	h.gcm.Seal(sum[:0], nonce[:], nil, block)
	return sum
}

// block is a part of a file, read and hashed.
type block struct {
	index int64
	data  []byte // shorter at the end of the file
	hash  hash
	err   error
}

// blocks reads a file of that size, spread over the CPUs, and yields its blocks in
// order. A file that has become shorter ends early. skip, if not nil, tells blocks
// that need not be read: they are yielded without data.
func blocks(f io.ReaderAt, size int64, h hasher, skip func(offset, length int64) bool, yield func(*block) error) error {
	count := (size + blockSize - 1) / blockSize
	workers := int(min(int64(runtime.GOMAXPROCS(0)), count))
	if workers <= 0 {
		return nil
	}
	free := make(chan *block, 3*workers)
	for range cap(free) {
		free <- &block{data: make([]byte, 0, blockSize)}
	}
	type job struct {
		b    *block
		done chan struct{}
	}
	todo, order := make(chan job), make(chan job, cap(free))
	quit := make(chan struct{})
	var running sync.WaitGroup
	defer running.Wait()
	defer close(quit)
	running.Go(func() { // deals the blocks out
		defer close(todo)
		defer close(order)
		for i := range count {
			var b *block
			select {
			case b = <-free:
			case <-quit:
				return
			}
			b.index, b.err = i, nil
			j := job{b, make(chan struct{})}
			order <- j // has room for every block there is
			select {
			case todo <- j:
			case <-quit:
				return
			}
		}
	})
	for range workers {
		running.Go(func() {
			for j := range todo {
				offset := j.b.index * blockSize
				length := min(blockSize, size-offset)
				if skip != nil && skip(offset, length) {
					j.b.data, j.b.hash = j.b.data[:0], hash{}
				} else {
					n, err := f.ReadAt(j.b.data[:length], offset)
					if err == io.EOF {
						err = nil
					}
					j.b.data, j.b.err = j.b.data[:n], err
					j.b.hash = h.of(j.b.data)
				}
				close(j.done)
			}
		})
	}
	for j := range order {
		<-j.done
		if j.b.err != nil {
			return j.b.err
		}
		if err := yield(j.b); err != nil {
			return err
		}
		j.b.data = j.b.data[:0]
		free <- j.b
	}
	return nil
}
