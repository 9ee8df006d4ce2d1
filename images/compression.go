package images

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"bulkhead"
)

// compression of a layer or archive, as the suffix of OCI's media types has it.
type compression string

const (
	plain compression = ""
	gzipd compression = "gzip"
	zstdd compression = "zstd"
)

// compressionOf is the compression that a layer's media type names.
func compressionOf(mediaType string) (compression, error) {
	if suffix, ok := strings.CutPrefix(mediaType, typeLayer); ok {
		switch suffix {
		case "", "+gzip", "+zstd":
			return compression(strings.TrimPrefix(suffix, "+")), nil
		}
	}
	if suffix, ok := strings.CutPrefix(mediaType, typeDockerLayer); ok {
		switch suffix {
		case "", ".gzip", ".zstd":
			return compression(strings.TrimPrefix(suffix, ".")), nil
		}
	}
	return "", bulkhead.Errorf(bulkhead.ErrInvalid, "layers of type %q are not supported", mediaType).
		WithHint("use layers of tar, tar+gzip or tar+zstd that the image itself holds")
}

// sniff tells a stream's compression by its first bytes, without taking them.
func sniff(r *bufio.Reader) compression {
	head, _ := r.Peek(4)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipd
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstdd
	}
	return plain
}

// maxWindow bounds the memory that a zstd stream may ask for, in bytes.
const maxWindow = 128 << 20

func (c compression) open(r io.Reader) (io.ReadCloser, error) {
	switch c {
	case gzipd:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("is not a gzip stream: %w", err)
		}
		return z, nil
	case zstdd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("is not a zstd stream: %w", err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}
