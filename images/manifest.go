package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead"
)

// The media types of the OCI image specification 1.1 (media-types.md) and of
// Docker's image manifest version 2, schema 2.
const (
	typeIndex          = "application/vnd.oci.image.index.v1+json"
	typeManifest       = "application/vnd.oci.image.manifest.v1+json"
	typeConfig         = "application/vnd.oci.image.config.v1+json"
	typeLayer          = "application/vnd.oci.image.layer.v1.tar"
	typeEmpty          = "application/vnd.oci.empty.v1+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	typeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// Bounds on what is read into memory, in bytes. Registries refuse manifests
// above 4 MiB, too.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
)

// Platform is what an image was built for. An empty Variant is any.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

func (p Platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// runs tells whether an image for other runs on p.
func (p Platform) runs(other Platform) bool {
	return p.OS == other.OS && p.Architecture == other.Architecture &&
		(p.Variant == other.Variant || p.Variant == "" || other.Variant == "")
}

// descriptor addresses a blob or manifest (descriptor.md of the specification).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      bulkhead.Digest   `json:"digest"`
	Size        int64             `json:"size"` // bytes
	Platform    *Platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// validate says what is wrong with a descriptor that somebody else wrote.
func (d descriptor) validate() error {
	if err := d.Digest.Validate(); err != nil {
		return err
	}
	if d.Size < 0 {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%s has a negative size", d.Digest)
	}
	return nil
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	Manifests []descriptor `json:"manifests"`
}

// config is what Bulkhead reads of an image's configuration (config.md; the
// health check is Docker's addition).
type config struct {
	Platform
	Config struct {
		Healthcheck *struct {
			Test          []string
			Interval      time.Duration
			Timeout       time.Duration
			StartPeriod   time.Duration
			StartInterval time.Duration
			Retries       int
		}
		StopSignal   string
		Volumes      map[string]struct{}
		ExposedPorts map[string]struct{}
	} `json:"config"`
	RootFS struct {
		DiffIDs []bulkhead.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// image is f in the words of the platform.
func (f Found) image() bulkhead.Image {
	c := f.config.Config
	out := bulkhead.Image{
		Reference:  f.Reference,
		Repository: f.Repository,
		Digest:     f.Digest,
		Size:       f.Size,
		StopSignal: c.StopSignal,
	}
	if h := c.Healthcheck; h != nil && len(h.Test) > 0 && h.Test[0] != "NONE" {
		out.Health = &bulkhead.Health{
			Test:          h.Test,
			Interval:      orDefault(h.Interval, 30*time.Second),
			Timeout:       orDefault(h.Timeout, 30*time.Second),
			Retries:       orDefault(h.Retries, 3),
			StartPeriod:   max(h.StartPeriod, 0),
			StartInterval: max(h.StartInterval, 0),
		}
	}
	for path := range c.Volumes {
		out.Volumes = append(out.Volumes, path)
	}
	slices.Sort(out.Volumes)
	for port := range c.ExposedPorts {
		number, protocol, _ := strings.Cut(port, "/")
		n, err := strconv.Atoi(number)
		if err == nil && 0 < n && n < 1<<16 && (protocol == "" || strings.EqualFold(protocol, "tcp")) {
			out.Ports = append(out.Ports, n)
		}
	}
	slices.Sort(out.Ports)
	return out
}

func orDefault[T int | time.Duration](v, standard T) T {
	if v <= 0 {
		return standard
	}
	return v
}

// source holds manifests and blobs. What it returns is not trusted.
type source interface {
	manifest(ctx context.Context, d bulkhead.Digest) ([]byte, error)
	// blob returns at least the first size bytes, if there are so many.
	blob(ctx context.Context, d bulkhead.Digest, size int64) (io.ReadCloser, error)
}

// chosen is the one manifest that fits the platform.
type chosen struct {
	descriptor descriptor
	raw        []byte
	manifest   manifest
	config     config
	others     int // manifests for other platforms
}

func (c chosen) note(p Platform) string {
	if c.others == 0 {
		return ""
	}
	return fmt.Sprintf("only %s is taken, %d other platforms are left out", p, c.others)
}

// choose reads the candidates, and the indexes among them, until one fits.
// No fit is ErrNotFound; what does not match its digest or cannot be read as
// what it claims to be is ErrInvalid.
func choose(ctx context.Context, src source, candidates []descriptor, want Platform) (chosen, error) {
	var have []string
	var visit func(candidates []descriptor, depth int) (chosen, bool, error)
	visit = func(candidates []descriptor, depth int) (chosen, bool, error) {
		fits := slices.DeleteFunc(slices.Clone(candidates), func(d descriptor) bool {
			if d.Platform == nil || want.runs(*d.Platform) {
				return false
			}
			if d.Platform.OS != "unknown" { // attestations
				have = append(have, d.Platform.String())
			}
			return true
		})
		for _, d := range fits {
			if err := d.validate(); err != nil {
				return chosen{}, false, err
			}
			raw, err := readManifest(ctx, src, d)
			if err != nil {
				return chosen{}, false, err
			}
			d.Size = int64(len(raw))
			if isIndex(d.MediaType) {
				var i index
				if err := json.Unmarshal(raw, &i); err != nil || depth == 0 {
					return chosen{}, false, bulkhead.Errorf(bulkhead.ErrInvalid, "index %s cannot be read", d.Digest.Short())
				}
				if c, ok, err := visit(i.Manifests, depth-1); ok || err != nil {
					return c, ok, err
				}
				continue
			}
			c := chosen{descriptor: d, raw: raw}
			if c.manifest, err = parseManifest(d, raw); err != nil {
				return chosen{}, false, err
			}
			if c.config, err = readConfig(ctx, src, c.manifest); err != nil {
				return chosen{}, false, err
			}
			if !want.runs(c.config.Platform) {
				have = append(have, c.config.Platform.String())
				continue
			}
			return c, true, nil
		}
		return chosen{}, false, nil
	}
	c, ok, err := visit(candidates, 3)
	if err == nil && !ok {
		err = bulkhead.Errorf(bulkhead.ErrNotFound, "has it for %s, not for %s", strings.Join(have, ", "), want)
	}
	c.others = len(have)
	return c, err
}

func isIndex(mediaType string) bool { return mediaType == typeIndex || mediaType == typeDockerList }

func readManifest(ctx context.Context, src source, d descriptor) ([]byte, error) {
	switch d.MediaType {
	case typeIndex, typeDockerList, typeManifest, typeDockerManifest:
	default:
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "manifest %s is of the unknown type %q", d.Digest.Short(), d.MediaType).
			WithHint("build the image anew with a current builder")
	}
	raw, err := src.manifest(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	if digestOf(raw) != d.Digest {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "manifest %s is corrupt: its content does not match its digest", d.Digest.Short())
	}
	return raw, nil
}

func parseManifest(d descriptor, raw []byte) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil || m.SchemaVersion != 2 {
		return m, bulkhead.Errorf(bulkhead.ErrInvalid, "manifest %s cannot be read", d.Digest.Short())
	}
	if m.MediaType == "" { // optional in OCI manifests
		m.MediaType = d.MediaType
	}
	if m.MediaType != d.MediaType {
		return m, bulkhead.Errorf(bulkhead.ErrInvalid, "manifest %s claims to be of another type than its index says", d.Digest.Short())
	}
	if t := m.Config.MediaType; t != typeConfig && t != typeDockerConfig {
		return m, bulkhead.Errorf(bulkhead.ErrInvalid, "is not a container image but %q", t)
	}
	for _, l := range append(m.Layers, m.Config) {
		if err := l.validate(); err != nil {
			return m, err
		}
	}
	for i, l := range m.Layers {
		if _, err := compressionOf(l.MediaType); err != nil {
			return m, bulkhead.Errorf(bulkhead.ErrInvalid, "layer %d of %d (%s): %w", i+1, len(m.Layers), l.Digest.Short(), err)
		}
	}
	return m, nil
}

func readConfig(ctx context.Context, src source, m manifest) (config, error) {
	var c config
	raw, err := readConfigBytes(ctx, src, m)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, bulkhead.Errorf(bulkhead.ErrInvalid, "configuration %s cannot be read", m.Config.Digest.Short())
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return c, bulkhead.Errorf(bulkhead.ErrInvalid, "its configuration names %d layers and its manifest %d", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	return c, nil
}

func readConfigBytes(ctx context.Context, src source, m manifest) ([]byte, error) {
	if m.Config.Size > maxConfig {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "its configuration has %d bytes: at most %d", m.Config.Size, maxConfig)
	}
	r, err := src.blob(ctx, m.Config.Digest, m.Config.Size)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxConfig))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if digestOf(raw) != m.Config.Digest {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "configuration %s is corrupt: its content does not match its digest", m.Config.Digest.Short())
	}
	return raw, nil
}

func digestOf(raw []byte) bulkhead.Digest {
	sum := sha256.Sum256(raw)
	return bulkhead.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// bytesBlob is a blob in memory.
func bytesBlob(raw []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(raw)) }
