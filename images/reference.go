package images

import (
	"strings"

	"github.com/distribution/reference"

	"bulkhead"
)

// ref is an image reference, normalised as Docker does: "redis" is
// docker.io/library/redis:latest.
type ref struct {
	given      string
	named      reference.Named // with tag, digest or both
	repository string          // path in Bulkhead's registry
	tag        string          // "" when only a digest is given
	digest     bulkhead.Digest // "" when none is given
}

func parseReference(given string) (ref, error) {
	invalid := func(reason string) (ref, error) {
		return ref{}, bulkhead.Errorf(bulkhead.ErrInvalid, "image reference %q is not valid: %s", given, reason).
			WithHint("write NAME:TAG or NAME@sha256:DIGEST, such as redis:7 or registry.example.com/shop/web:1.4")
	}
	named, err := reference.ParseNormalizedNamed(given)
	if err != nil {
		return invalid(err.Error())
	}
	named = reference.TagNameOnly(named)
	// A registry's port cannot stand in a path; "_" can, and occurs in no host.
	host := strings.ToLower(strings.ReplaceAll(reference.Domain(named), ":", "_"))
	r := ref{given: given, named: named, repository: host + "/" + reference.Path(named)}
	if _, err := reference.WithName(r.repository); err != nil {
		return invalid("its registry cannot be part of a repository's name")
	}
	if t, ok := named.(reference.Tagged); ok {
		r.tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.digest = bulkhead.Digest(d.Digest())
		if err := r.digest.Validate(); err != nil {
			return invalid("its digest is not a sha256 digest")
		}
	}
	return r, nil
}

// tags are what the image gets in Bulkhead's registry, so that it is found again
// by the same reference. A reference by the digest of an index has to be found by
// it, although only one platform's manifest is kept.
func (r ref) tags(manifest bulkhead.Digest) []string {
	switch {
	case r.digest == "":
		return []string{r.tag}
	case r.digest != manifest:
		return []string{indexTag(r.digest)}
	}
	return nil
}

func indexTag(d bulkhead.Digest) string { return "index-" + strings.TrimPrefix(string(d), "sha256:") }

// is tells whether name, as an archive has it, means the same image. Podman
// calls images without a registry localhost/NAME.
func (r ref) is(name string) bool {
	for _, n := range []string{name, strings.TrimPrefix(name, "localhost/")} {
		if other, err := parseReference(n); err == nil && other.repository == r.repository && other.tag == r.tag {
			return true
		}
	}
	return false
}
