package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"

	"bulkhead"
)

// Copy brings an image or a bundle from one registry of Bulkhead's to another: its
// blobs, and then the manifest, so that what was cut short is not visible. What is
// there already is not sent again. Digests are checked on the way.
func Copy(ctx context.Context, from, to *Target, name string, d bulkhead.Digest) error {
	source, target := repository{from, name}, repository{to, name}
	if _, err := target.head(ctx, manifestPath(name, string(d))); !errors.Is(err, bulkhead.ErrNotFound) {
		return err // there, or not to be asked
	}
	raw, mediaType, err := from.get(ctx, name, string(d))
	if err != nil {
		return err
	}
	if digestOf(raw) != d {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "manifest %s of %s: the other registry gives another one", d.Short(), name)
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "manifest %s of %s: %w", d.Short(), name, err)
	}
	for _, blob := range append(m.Layers, m.Config) {
		if err := copyBlob(ctx, source, target, blob); err != nil {
			return err
		}
	}
	return target.put(ctx, string(d), mediaType, raw)
}

func copyBlob(ctx context.Context, source, target repository, d descriptor) error {
	have, err := target.has(ctx, d.Digest)
	if err != nil || have {
		return err
	}
	content, err := source.blob(ctx, d.Digest, d.Size)
	if err != nil {
		return err
	}
	defer content.Close()
	hash := sha256.New()
	return target.upload(ctx, d.Digest, d.Size, io.TeeReader(io.LimitReader(content, d.Size), hash), func() error {
		if got := bulkhead.Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))); got != d.Digest {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "blob %s of %s: the other registry gives another one", d.Digest.Short(), source.name)
		}
		return nil
	})
}
