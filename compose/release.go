package compose

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"bulkhead"
)

// Release makes a release of the project. bundle and size are those of what
// Bundle wrote; images pins what every service of Images runs. Created is left
// to the server. An empty version is the one of x-bulkhead; it is an error of
// kind ErrInvalid when that is empty too, or when an image is missing.
func (p *Project) Release(version string, bundle bulkhead.Digest, size int64, images map[bulkhead.ServiceName]bulkhead.Image) (bulkhead.Release, error) {
	if version == "" {
		version = p.Version
	}
	if version == "" {
		return bulkhead.Release{}, bulkhead.Errorf(bulkhead.ErrInvalid, "the release has no version").WithHint("give --version, or write x-bulkhead: {version: …} into the Compose file")
	}
	if err := bulkhead.ValidateVersion(version); err != nil {
		return bulkhead.Release{}, err
	}
	for _, image := range p.Images {
		if images[image.Service].Digest == "" {
			return bulkhead.Release{}, bulkhead.Errorf(bulkhead.ErrInvalid, "service %s: image %s was not found", image.Service, image.Reference)
		}
	}
	r := bulkhead.Release{
		Product: p.Product, Version: version, Bundle: bundle, BundleSize: size, Images: images,
		Modules: p.Modules, Settings: p.Settings, Routes: p.Routes, Warnings: p.Warnings,
	}
	r.Digest = Digest(r)
	return r, nil
}

// Digest is the address of a release's content: the SHA-256 of its JSON without
// Digest, Created and Warnings (their wording is Bulkhead's, not the product's),
// its keys in the order of the type and maps sorted.
func Digest(r bulkhead.Release) bulkhead.Digest {
	r.Digest, r.Created, r.Warnings = "", time.Time{}, nil
	encoded, err := json.Marshal(r)
	if err != nil {
		panic("compose: a release that is no JSON: " + err.Error()) // Settings were valid JSON once
	}
	sum := sha256.Sum256(encoded)
	return bulkhead.Digest("sha256:" + hex.EncodeToString(sum[:]))
}
