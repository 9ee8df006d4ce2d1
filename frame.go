package bulkhead

import (
	"encoding/binary"
	"io"
)

// FrameKind says what a frame of an exec stream carries.
type FrameKind byte

const (
	FrameStdin    FrameKind = iota // bytes for the command
	FrameStdinEnd                  // no more of them
	FrameStdout                    // bytes of the command
	FrameStderr
	FrameResize // Width and Height as two big-endian uint16
	FrameExit   // JSON ExecResult; the last frame
)

// ExecResult is how a command ended.
type ExecResult struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"` // it could not be run: why
}

// MaxFrame is the largest payload of a frame in bytes.
const MaxFrame = 64 << 10

// WriteFrame writes one frame in one Write: a kind, the payload's length as
// big-endian uint32, the payload. The frames of an exec stream are the same from
// the user's client through the servers to the node.
func WriteFrame(w io.Writer, kind FrameKind, payload []byte) error {
	b := make([]byte, 5, 5+len(payload))
	b[0] = byte(kind)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

// ReadFrame reads one frame. A payload above MaxFrame is refused.
func ReadFrame(r io.Reader) (FrameKind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, Errorf(ErrInvalid, "frame of %d bytes: at most %d", n, MaxFrame)
	}
	payload := make([]byte, n)
	_, err := io.ReadFull(r, payload)
	return FrameKind(head[0]), payload, err
}
