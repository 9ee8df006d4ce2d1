// Package images finds the images of a product, checks them and uploads them to
// Bulkhead's own registry; it also carries the bundle of a release there and
// back. It is the only package that imports go-containerregistry's remote side.
//
// Nothing in it runs an image or unpacks a layer: containerd does. Start at
// Finder, then Push.
package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"bulkhead"
)

// Options says where a Finder looks, in this order.
type Options struct {
	// Archives are files as docker save and podman save write them (docker-archive
	// or OCI, plain or gzip-compressed) and OCI layout folders. "FILE=REFERENCE"
	// names the one image in a file that does not name it itself.
	Archives []string
	// Own is Bulkhead's registry; nil leaves it out.
	Own *Target
	// Engine is the socket of the local Docker engine, looked at only if it exists.
	// Default: /var/run/docker.sock.
	Engine string
	// Offline leaves out the registry that a reference names.
	Offline bool
	// Platform is what the nodes run. Default: linux/amd64.
	Platform Platform
	// Patience bounds how long one place may take to say whether it has an image.
	// Default: 30 s.
	Patience time.Duration
	// Limits bound what an image may hold. Default: DefaultLimits.
	Limits Limits
}

// Finder finds images. Its methods may be called at the same time.
type Finder struct {
	options  Options
	archives []*archive
	engine   *engine
	upstream *upstream
}

// Open reads the tables of contents of the archives. An archive that cannot be
// read, is truncated or holds no image is ErrInvalid. The caller closes the Finder,
// after the last Push of what it found.
func Open(ctx context.Context, o Options) (*Finder, error) {
	o.Engine = cmp.Or(o.Engine, "/var/run/docker.sock")
	o.Platform = cmp.Or(o.Platform, Platform{OS: "linux", Architecture: "amd64"})
	o.Patience = cmp.Or(o.Patience, 30*time.Second)
	o.Limits = cmp.Or(o.Limits, DefaultLimits())
	f := &Finder{options: o}
	for _, arg := range o.Archives {
		a, err := openArchiveArg(ctx, arg, o.Limits)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.archives = append(f.archives, a)
	}
	if _, err := os.Stat(o.Engine); err == nil {
		f.engine = newEngine(o.Engine, o.Limits)
	}
	if !o.Offline {
		var err error
		if f.upstream, err = newUpstream(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// Close closes the archives and removes what was unpacked for them.
func (f *Finder) Close() error {
	var errs []error
	for _, a := range f.archives {
		errs = append(errs, a.Close())
	}
	if f.engine != nil {
		errs = append(errs, f.engine.Close())
	}
	return errors.Join(errs...)
}

// Found is an image that has been found, for one platform. Its layers have not
// been read yet: Push reads and checks them.
type Found struct {
	Reference  string          // as it was asked for
	Repository string          // its path in Bulkhead's registry
	Digest     bulkhead.Digest // of the platform's manifest
	Size       int64           // bytes of the manifest, configuration and layers
	Where      string          // "archive shop.tar", "Docker engine"
	Platform   Platform
	// Note is what the user should know about the choice, or "".
	Note string

	tags     []string // that Push sets
	limits   Limits
	manifest manifest
	raw      []byte // of manifest
	config   config
	source   source
}

// Find finds the image that reference names. What is wrong with an archive ends
// the search; a place that has not got the image, or not for the platform, does
// not. If no place has it, the error is ErrNotFound and says what each answered.
func (f *Finder) Find(ctx context.Context, reference string) (Found, error) {
	ref, err := parseReference(reference)
	if err != nil {
		return Found{}, err
	}
	var answers []string
	for _, p := range f.places() {
		found, err := f.look(ctx, p, ref)
		switch {
		case err == nil:
			if p.own {
				found.Note = cmp.Or(f.stale(ctx, ref, found), found.Note)
			}
			return found, nil
		case ctx.Err() != nil:
			return Found{}, fmt.Errorf("find image %s: %w", reference, context.Cause(ctx))
		case errors.Is(err, bulkhead.ErrInvalid):
			return Found{}, inImage(err, reference, p.name)
		}
		answers = append(answers, p.name+": "+oneLine(err))
	}
	return Found{}, bulkhead.Errorf(bulkhead.ErrNotFound, "image %s is nowhere to be found: %s", reference, strings.Join(answers, "; ")).
		WithHint("build it, or write it with `docker save -o FILE %s` and give it with --images FILE", reference)
}

// place is somewhere to look. Its lookup is ErrNotFound when the image is not
// there; its message is what the user reads after the place's name.
type place struct {
	name   string
	own    bool
	local  bool // does its work on this machine, for as long as it takes
	lookup func(context.Context, ref) (source, []descriptor, error)
}

func (f *Finder) places() []place {
	var out []place
	for _, a := range f.archives {
		out = append(out, place{name: "archive " + a.name, local: true, lookup: a.lookup})
	}
	if f.options.Own != nil {
		out = append(out, place{name: "Bulkhead's registry", own: true, lookup: f.options.Own.lookup})
	}
	if f.engine != nil {
		out = append(out, place{name: "Docker engine", local: true, lookup: f.engine.lookup})
	} else {
		out = append(out, place{name: "Docker engine", lookup: func(context.Context, ref) (source, []descriptor, error) {
			return nil, nil, bulkhead.Errorf(bulkhead.ErrNotFound, "not running (no %s)", f.options.Engine)
		}})
	}
	if f.upstream != nil {
		out = append(out, place{name: "the registry named in it", lookup: f.upstream.lookup})
	}
	return out
}

func (f *Finder) look(ctx context.Context, p place, r ref) (Found, error) {
	patient := ctx
	if !p.local {
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeoutCause(ctx, f.options.Patience,
			bulkhead.Errorf(bulkhead.ErrUnavailable, "no answer in %v", f.options.Patience))
		defer cancel()
	}
	src, candidates, err := p.lookup(patient, r)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	var chosen chosen
	if err == nil {
		chosen, err = choose(patient, src, candidates, f.options.Platform)
	}
	if err != nil {
		if patient.Err() != nil && ctx.Err() == nil {
			err = context.Cause(patient)
		}
		return Found{}, err
	}
	found := Found{
		Reference:  r.given,
		Repository: r.repository,
		Digest:     chosen.descriptor.Digest,
		Size:       chosen.descriptor.Size,
		Where:      p.name,
		Platform:   f.options.Platform,
		Note:       chosen.note(f.options.Platform),
		tags:       r.tags(chosen.descriptor.Digest),
		limits:     f.options.Limits,
		manifest:   chosen.manifest,
		raw:        chosen.raw,
		config:     chosen.config,
		source:     src,
	}
	for _, d := range append(chosen.manifest.Layers, chosen.manifest.Config) {
		found.Size += d.Size
	}
	return found, nil
}

// stale warns of a trap: the tag has been published before, and the local engine
// has been given another image under the same tag since.
func (f *Finder) stale(ctx context.Context, r ref, found Found) string {
	if f.engine == nil || r.digest != "" {
		return ""
	}
	quick, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	id, err := f.engine.inspect(quick, r)
	if err != nil || id == found.Digest || id == found.manifest.Config.Digest {
		return ""
	}
	return fmt.Sprintf("the Docker engine has another %s (%s) than the one published before, which is taken; give that one with --images or tag it anew",
		r.given, id.Short())
}

// inImage makes err name the image and the place that it was found in.
func inImage(err error, reference, where string) error {
	var user *bulkhead.Error
	if !errors.As(err, &user) {
		return fmt.Errorf("image %s (%s): %w", reference, where, err)
	}
	out := *user
	out.Message = fmt.Sprintf("image %s (%s): %s", reference, where, user.Message)
	return &out
}

// oneLine is what a user reads of err.
func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
