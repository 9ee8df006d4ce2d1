package images

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
	"sync/atomic"

	"bulkhead"
)

// Limits bound what the layers of one image may hold together.
type Limits struct {
	Bytes   int64 // decompressed
	Entries int64 // files, folders and links
	// Ratio is how often larger than its compressed size a layer may be, once it
	// is larger than 1 GiB. (gzip cannot do more than 1032, zstd much more.)
	Ratio int64
}

// DefaultLimits are 20 GiB, a million entries and a ratio of 1000.
func DefaultLimits() Limits { return Limits{Bytes: 20 << 30, Entries: 1_000_000, Ratio: 1000} }

// spent counts against Limits, for all layers of an image.
type spent struct{ bytes, entries atomic.Int64 }

// checkLayer reads a layer to its end and says what is wrong with it. The
// decompressed content must have the digest diffID, unless that is "".
//
// Refused is whatever a careless unpacker would write outside of the container's
// root, and what Bulkhead's device rules make useless:
//   - names and hard links that are absolute or climb above the root,
//   - relative symbolic links that climb above the root,
//   - entries whose way leads through an absolute symbolic link of this layer,
//   - device nodes, but for the whiteouts of overlayfs (character device 0:0).
//
// An absolute symbolic link by itself, as in /bin/sh -> /bin/busybox, is usual
// and harmless: it is resolved inside of the container.
func checkLayer(r io.Reader, c compression, diffID bulkhead.Digest, limits Limits, used *spent) error {
	packed := &counter{Reader: r}
	content, err := c.open(packed)
	if err != nil {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%s", oneLine(err))
	}
	defer content.Close()
	unpacked := &bounded{r: content, packed: packed, limits: limits, used: used, hash: sha256.New()}
	err = checkEntries(tar.NewReader(unpacked), limits, used)
	if err == nil {
		_, err = io.Copy(io.Discard, unpacked) // padding
	}
	switch {
	case unpacked.err != nil:
		return unpacked.err
	case errors.Is(err, bulkhead.ErrInvalid):
		return err
	case err != nil:
		return bulkhead.Errorf(bulkhead.ErrInvalid, "is truncated or corrupt: %s", oneLine(err))
	}
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return err
	}
	if got := bulkhead.Digest("sha256:" + hex.EncodeToString(unpacked.hash.Sum(nil))); diffID != "" && got != diffID {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "is corrupt: its content is not what the image's configuration names (%s)", diffID.Short())
	}
	return nil
}

// bounded ends a stream that unpacks to more than it may.
type bounded struct {
	r      io.Reader
	packed *counter
	limits Limits
	used   *spent
	hash   hash.Hash
	n      int64
	err    error // the bound that was reached
}

// freely is how many bytes a layer may unpack to whatever its ratio.
const freely = 1 << 30

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.hash.Write(p[:n])
	b.n += int64(n)
	switch total := b.used.bytes.Add(int64(n)); {
	case total > b.limits.Bytes:
		b.err = bulkhead.Errorf(bulkhead.ErrInvalid, "the image unpacks to more than %d bytes", b.limits.Bytes)
	case b.n > freely && b.n/b.limits.Ratio > b.packed.n:
		b.err = bulkhead.Errorf(bulkhead.ErrInvalid, "unpacks to more than %d times its size", b.limits.Ratio)
	default:
		return n, err
	}
	return n, b.err
}

type counter struct {
	io.Reader
	n int64 // bytes read
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// Bounds on single entries, in bytes: PATH_MAX, and the memory for links.
const (
	maxName  = 4096
	maxLinks = 64 << 20
)

func checkEntries(r *tar.Reader, limits Limits, used *spent) error {
	l := links{targets: map[string]string{}}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if used.entries.Add(1) > limits.Entries {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "the image has more than %d entries", limits.Entries)
		}
		// A sparse file may claim more than its layer's bytes.
		if h.Size > limits.Bytes {
			return entryError(h, "is larger than %d bytes", limits.Bytes)
		}
		if err := l.check(h); err != nil {
			return err
		}
	}
}

func entryError(h *tar.Header, format string, args ...any) error {
	name := h.Name
	if len(name) > 200 {
		name = name[:200] + "..."
	}
	return bulkhead.Errorf(bulkhead.ErrInvalid, "entry %q %s", name, fmt.Sprintf(format, args...)).
		WithHint("such an entry could write outside of the container: build the layer anew without it")
}

// links remembers the symbolic links of a layer, by clean name.
type links struct {
	targets map[string]string
	size    int
}

func (l *links) check(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment
	}
	if len(h.Name) > maxName || len(h.Linkname) > maxName {
		return entryError(h, "has a name or link of more than %d bytes", maxName)
	}
	name, ok := inside(h.Name)
	if !ok {
		return entryError(h, "has an absolute name or one that climbs with ..")
	}
	if white, ok := strings.CutPrefix(path.Base(name), ".wh."); ok && (white == "" || white == "." || white == "..") {
		return entryError(h, "removes a folder that is not its own")
	}
	if l.leavesBy(path.Dir(name)) {
		return entryError(h, "would be written through a symbolic link that leaves the layer")
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeFifo:
	case tar.TypeDir:
		if t, ok := l.targets[name]; ok && path.IsAbs(t) {
			return entryError(h, "would be written through a symbolic link that leaves the layer")
		}
	case tar.TypeSymlink:
		if !path.IsAbs(h.Linkname) && climbs(path.Dir(name), h.Linkname) {
			return entryError(h, "is a symbolic link that climbs above the root: %q", h.Linkname)
		}
		if l.size += len(name) + len(h.Linkname); l.size > maxLinks {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "has more than %d MiB of symbolic links", maxLinks>>20)
		}
		l.targets[name] = h.Linkname
		return nil
	case tar.TypeLink:
		target, ok := inside(h.Linkname)
		if !ok {
			return entryError(h, "is a hard link that is absolute or climbs with ..: %q", h.Linkname)
		}
		if l.leavesBy(path.Dir(target)) {
			return entryError(h, "is a hard link through a symbolic link that leaves the layer: %q", h.Linkname)
		}
		if to, ok := l.targets[target]; ok { // a second name of a symbolic link
			l.targets[name] = to
			return nil
		}
	case tar.TypeChar:
		if h.Devmajor != 0 || h.Devminor != 0 {
			return entryError(h, "is a device node")
		}
	case tar.TypeBlock:
		return entryError(h, "is a device node")
	default:
		return entryError(h, "is of the unknown type %q", h.Typeflag)
	}
	if h.Typeflag != tar.TypeDir {
		delete(l.targets, name) // replaced
	}
	return nil
}

// inside cleans a name relative to the root. The root itself may be written "/".
func inside(name string) (string, bool) {
	if strings.Trim(name, "/") == "" {
		return ".", name != ""
	}
	if path.IsAbs(name) || climbs(".", name) {
		return "", false
	}
	return path.Clean(name), true
}

// climbs tells whether target, seen from folder dir, has a ".." that leads above
// the root at any step.
func climbs(dir, target string) bool {
	depth := 0
	if dir != "." {
		depth = strings.Count(dir, "/") + 1
	}
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// leavesBy tells whether the way to folder dir leads out of the layer: through
// a link of the layer that is absolute or, resolved, climbs above the root.
func (l *links) leavesBy(dir string) bool {
	if len(l.targets) == 0 || dir == "." {
		return false
	}
	todo := strings.Split(dir, "/")
	at := "." // resolved so far
	for hops := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at == "." {
				return true
			}
			at = path.Dir(at)
			continue
		}
		at = path.Join(at, part)
		target, ok := l.targets[at]
		if !ok {
			continue
		}
		if hops++; path.IsAbs(target) || hops > 40 { // as the kernel counts
			return true
		}
		at = path.Dir(at)
		todo = append(strings.Split(target, "/"), todo...)
	}
	return false
}
