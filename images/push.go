package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"bulkhead"
)

// Progress of one image's upload, in bytes.
type Progress struct {
	Image   string // its reference
	Done    int64  // uploaded or skipped
	Total   int64
	Skipped int64 // of Done: the registry had them already
}

// uploads is how many blobs of an image are uploaded at the same time.
const uploads = 3

// Push uploads what Bulkhead's registry does not have yet of a found image,
// checking digests, sizes and the entries of every layer on the way. The manifest
// goes last, so that an image that fails never becomes visible. Pushing the same
// image again uploads nothing. progress, which may be nil, is called by one
// goroutine at a time.
//
// A faulty image is ErrInvalid; a full disk on the server ErrExhausted.
func Push(ctx context.Context, target *Target, found Found, progress func(Progress)) (bulkhead.Image, error) {
	p := &push{
		repository: repository{target, found.Repository},
		found:      found,
		report:     progress,
		progress:   Progress{Image: found.Reference, Total: found.Size},
	}
	if err := p.run(ctx); err != nil {
		return bulkhead.Image{}, inImage(err, found.Reference, found.Where)
	}
	return found.image(), nil
}

type push struct {
	repository repository
	found      Found
	used       spent
	report     func(Progress)

	mu       sync.Mutex // guards progress, and calls of report
	progress Progress
}

func (p *push) run(ctx context.Context) error {
	p.advance(0, false)
	f := p.found
	present, err := p.resolves(ctx, string(f.Digest))
	if err != nil {
		return err
	}
	if !present {
		// What an image names twice is sent once.
		distinct := map[bulkhead.Digest]bool{}
		group, groupCtx := errgroup.WithContext(ctx)
		group.SetLimit(uploads)
		for i, d := range f.manifest.Layers {
			if distinct[d.Digest] {
				p.advance(d.Size, true)
				continue
			}
			distinct[d.Digest] = true
			group.Go(func() error { return p.blob(groupCtx, i, d) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		// The configuration comes last: an image whose layer is refused leaves none behind.
		if err := p.blob(ctx, -1, f.manifest.Config); err != nil {
			return err
		}
	} else {
		p.advance(f.Size-int64(len(f.raw)), true)
	}
	sent := false
	for _, tag := range f.tags {
		ok, err := p.resolves(ctx, tag)
		if err != nil {
			return err
		}
		if !ok {
			if err := p.repository.put(ctx, tag, f.manifest.MediaType, f.raw); err != nil {
				return err
			}
			sent = true
		}
	}
	if !present && !sent {
		if err := p.repository.put(ctx, string(f.Digest), f.manifest.MediaType, f.raw); err != nil {
			return err
		}
	}
	p.advance(int64(len(f.raw)), present && !sent)
	return nil
}

// resolves tells whether a tag or digest leads to the image's manifest.
func (p *push) resolves(ctx context.Context, name string) (bool, error) {
	var d bulkhead.Digest
	err := retry(ctx, func() (err error) {
		d, err = p.repository.head(ctx, manifestPath(p.repository.name, name))
		return err
	})
	if errors.Is(err, bulkhead.ErrNotFound) {
		return false, nil
	}
	return d == p.found.Digest, err
}

// blob uploads a layer, or the configuration (layer -1), if it is missing.
func (p *push) blob(ctx context.Context, layer int, d descriptor) error {
	err := retry(ctx, func() error {
		have, err := p.repository.has(ctx, d.Digest)
		if err != nil {
			return err
		}
		if have {
			p.advance(d.Size, true)
			return nil
		}
		content, err := p.found.source.blob(ctx, d.Digest, d.Size)
		if err != nil {
			return err
		}
		defer content.Close()
		i := &inspection{Reader: interruptible{ctx, content}, hash: sha256.New(), want: d, progress: p}
		if layer >= 0 {
			i.check(layer, p)
		}
		defer i.verify() // ends the check, however little was sent
		if err = p.repository.upload(ctx, d.Digest, d.Size, i, i.verify); err != nil {
			p.advance(-i.n, false)
		}
		return err
	})
	var user *bulkhead.Error
	if layer >= 0 && errors.As(err, &user) && user.Kind == bulkhead.ErrInvalid {
		out := *user
		out.Message = fmt.Sprintf("layer %d of %d (%s): %s", layer+1, len(p.found.manifest.Layers), d.Digest.Short(), user.Message)
		return &out
	}
	return err
}

func (p *push) advance(n int64, skipped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress.Done += n
	if skipped {
		p.progress.Skipped += n
	}
	if p.report != nil {
		p.report(p.progress)
	}
}

// inspection passes a blob on while it checks it.
type inspection struct {
	io.Reader
	hash     hash.Hash
	want     descriptor
	progress *push
	n        int64
	fault    error // what is wrong with the content

	pipe    *io.PipeWriter // to the check of a layer; nil for other blobs
	checked chan error
}

// check starts checking the content as a layer; verify waits for it.
func (i *inspection) check(layer int, p *push) {
	c, _ := compressionOf(i.want.MediaType) // parseManifest has seen to it
	diffID := p.found.config.RootFS.DiffIDs[layer]
	if c == plain && diffID == i.want.Digest {
		diffID = "" // need not be computed twice
	}
	var r *io.PipeReader
	r, i.pipe = io.Pipe()
	i.checked = make(chan error, 1)
	go func() {
		err := checkLayer(r, c, diffID, p.found.limits, &p.used)
		r.CloseWithError(err)
		i.checked <- err
	}()
}

func (i *inspection) Read(b []byte) (int, error) {
	n, err := i.Reader.Read(b)
	i.hash.Write(b[:n])
	i.n += int64(n)
	i.progress.advance(int64(n), false)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		i.fault = fmt.Errorf("read blob %s: %w", i.want.Digest.Short(), err)
		if bulkhead.KindOf(err) == nil {
			i.fault = bulkhead.Errorf(bulkhead.ErrUnavailable, "reading broke off: %s", oneLine(cause(err)))
		}
	case i.n > i.want.Size || errors.Is(err, io.EOF) && i.n < i.want.Size:
		i.fault = bulkhead.Errorf(bulkhead.ErrInvalid, "is truncated or corrupt: it has not the %d bytes that its manifest names", i.want.Size)
	case i.pipe != nil && n > 0:
		if _, bad := i.pipe.Write(b[:n]); bad != nil {
			i.fault = bad // what checkLayer found
		}
	}
	if i.fault != nil {
		return n, i.fault
	}
	return n, err
}

// verify ends the check and says what is wrong with the content. After an
// upload that broke off it only says what had been found until then.
func (i *inspection) verify() error {
	whole := i.fault == nil && i.n == i.want.Size
	if whole && bulkhead.Digest("sha256:"+hex.EncodeToString(i.hash.Sum(nil))) != i.want.Digest {
		i.fault = bulkhead.Errorf(bulkhead.ErrInvalid, "is corrupt: its content does not match its digest")
	}
	if i.pipe == nil {
		return i.fault
	}
	if i.fault == nil && whole {
		i.pipe.Close()
		i.fault = <-i.checked
	} else {
		i.pipe.CloseWithError(io.ErrUnexpectedEOF)
		<-i.checked
	}
	i.pipe = nil
	return i.fault
}
