package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode"

	"bulkhead"
	"bulkhead/compose"
	"bulkhead/store"
)

// Sealer encrypts the secrets of a stamp, bound to the stamp's UID: what was
// sealed for one cannot be opened as another's.
type Sealer interface {
	Seal(uid string, values map[string]string) ([]byte, error)
	Open(uid string, sealed []byte) (map[string]string, error)
}

// projects keeps the projects of the releases used lately: reading one costs
// more than all else of a stamp's creation.
type projects struct {
	mu   sync.Mutex // guards what follows
	list []loadedProject
}

type loadedProject struct {
	product bulkhead.ProductName
	bundle  bulkhead.Digest
	project *compose.Project
}

const mostProjects = 32

// project is the Compose project in a bundle. Its error is the user's: the
// bundle is not there, or what it holds is refused.
func (s *Server) project(ctx context.Context, product bulkhead.ProductName, bundle bulkhead.Digest) (*compose.Project, error) {
	s.projects.mu.Lock()
	for _, p := range s.projects.list {
		if p.bundle == bundle && p.product == product {
			s.projects.mu.Unlock()
			return p.project, nil
		}
	}
	s.projects.mu.Unlock()
	dir, err := s.c.Bundle(ctx, bundle)
	if err != nil {
		return nil, err
	}
	project, err := compose.Open(dir, product)
	if err != nil {
		return nil, err
	}
	s.projects.mu.Lock()
	defer s.projects.mu.Unlock()
	s.projects.list = append(s.projects.list, loadedProject{product, bundle, project})
	if len(s.projects.list) > mostProjects {
		s.projects.list = slices.Delete(s.projects.list, 0, 1)
	}
	return project, nil
}

// change is what a user wants of a stamp's design.
type change struct {
	ctx     context.Context
	name    bulkhead.StampName // of a new stamp
	product string             // empty: the old stamp's
	version string             // empty: the latest

	modules     []string
	keepModules bool

	set             map[string]json.RawMessage
	unset           []string
	replaceSettings bool // public settings that are not in set return to their default

	labels        map[string]string
	replaceLabels bool

	terms *bulkhead.Terms // nil: as they are
}

// design works out what a stamp should be: old (nil: none) with ch. It reads what
// it needs by tx and changes nothing.
func (s *Server) design(tx *store.Tx, old *bulkhead.Stamp, ch change) (bulkhead.Stamp, error) {
	next := bulkhead.Stamp{Name: ch.name, Desired: bulkhead.DesiredRunning, Generation: 1}
	if old != nil {
		next = *old
		if ch.product != "" && !strings.EqualFold(ch.product, string(old.Product)) {
			return next, bulkhead.Errorf(bulkhead.ErrConflict, "stamp %s is a copy of product %s, not of %s", old.Name, old.Product, ch.product).
				WithHint("create another stamp for the other product")
		}
		ch.product = string(old.Product)
	}
	release, err := findRelease(s.c.Store.View(), ch.product, ch.version)
	if err != nil {
		return next, err
	}
	if !tx.Releases.Has(store.NewReleaseKey(release.Product, release.Version)) { // it must still be there when this commits
		return next, bulkhead.Errorf(bulkhead.ErrConflict, "release %s %s was just deleted", release.Product, release.Version)
	}
	project, err := s.project(ch.ctx, release.Product, release.Bundle)
	if err != nil {
		return next, fmt.Errorf("read release %s %s: %w", release.Product, release.Version, err)
	}
	if old == nil {
		now := s.c.Now().UTC()
		next.UID, next.Created, next.Updated = rand.Text(), now, now
	}

	var modules []bulkhead.ModuleName
	for _, m := range slices.Sorted(slices.Values(ch.modules)) {
		modules = append(modules, bulkhead.ModuleName(m))
	}
	modules = slices.Compact(modules)
	if ch.keepModules {
		modules = next.Modules
	}
	secrets, err := s.c.Sealer.Open(next.UID, next.Sealed)
	if err != nil {
		return next, fmt.Errorf("open secrets of %s: %w", next.Name, err)
	}
	settings := map[string]json.RawMessage{}
	if !ch.replaceSettings {
		maps.Copy(settings, next.Settings)
	}
	maps.Copy(settings, ch.set)
	for _, name := range ch.unset {
		if _, both := ch.set[name]; both {
			return next, bulkhead.Errorf(bulkhead.ErrInvalid, "setting %s is both set and unset", name)
		}
		_, public := settings[name]
		_, secret := secrets[name]
		delete(settings, name)
		if secret {
			settings[name] = json.RawMessage("null")
		}
		if !public && !secret {
			// Unknown or not set: freezing tells the two apart.
			settings[name] = json.RawMessage("null")
		}
	}
	frozen, err := project.Freeze(compose.Inputs{
		Stamp: next.Name, Domain: bulkhead.Host(s.c.Domain), Modules: modules, Settings: settings, Secrets: secrets, Images: release.Images,
	})
	if err != nil {
		return next, err
	}

	next.Product, next.Version, next.Release, next.Bundle = release.Product, release.Version, release.Digest, release.Bundle
	next.Modules, next.Settings = modules, frozen.Settings
	next.Services, next.Volumes, next.Routes = frozen.Services, frozen.Volumes, frozen.Routes
	next.Hosts = hosts(next.Name, s.c.Domain, frozen.Routes)
	if err := validateLabels(ch.labels); err != nil {
		return next, err
	}
	next.Labels = labels(next.Labels, ch)
	next.Terms, next.ReleaseTerms = termsOf(next.Terms, ch), frozen.Terms
	if err := checkTerms(next.Terms, s.c.Store.View().Policy()); err != nil {
		return next, err
	}
	if old == nil || !reflect.DeepEqual([]bulkhead.Terms{old.Terms, old.ReleaseTerms}, []bulkhead.Terms{next.Terms, next.ReleaseTerms}) {
		if err := s.c.Meetable(s.c.Store.View(), &next); err != nil {
			return next, err
		}
	}
	if err := s.sealSecrets(&next, secrets, frozen.Secrets); err != nil {
		return next, err
	}
	if old != nil && runsOtherwise(*old, next) {
		next.Generation = old.Generation + 1
	}
	return next, nil
}

// runsOtherwise tells whether the two differ in what runs.
func runsOtherwise(a, b bulkhead.Stamp) bool {
	return !same([]any{a.Services, a.Volumes, a.Routes, a.Hosts, a.Bundle, a.SecretVersions}, []any{b.Services, b.Volumes, b.Routes, b.Hosts, b.Bundle, b.SecretVersions})
}

// hosts are a stamp's host names: its own, then one for every prefix.
func hosts(name bulkhead.StampName, domain string, routes []bulkhead.RouteRule) []bulkhead.Host {
	own := string(name) + "." + domain
	out := []bulkhead.Host{bulkhead.Host(own)}
	for _, r := range routes {
		if host := bulkhead.Host(r.Prefix + "." + own); r.Prefix != "" && !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}

// validateLabels keeps out what no selection could name: a label is KEY=VALUE.
func validateLabels(labels map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if key == "" || len(key) > 128 || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == '=' || r > '~' }) {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "label %q: a key has 1 to 128 printable ASCII characters, no space and no =", key)
		}
		if value := labels[key]; len(value) > 1024 || strings.ContainsFunc(value, unicode.IsControl) {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "label %s: a value has at most 1024 bytes and no control characters", key)
		}
	}
	return nil
}

func labels(old map[string]string, ch change) map[string]string {
	out := map[string]string{}
	if !ch.replaceLabels {
		maps.Copy(out, old)
	}
	for key, value := range ch.labels {
		if value == "" {
			delete(out, key)
		} else {
			out[key] = value
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// sealSecrets puts secrets into a stamp that had old ones. What has not changed
// stays sealed as it is, so that equal stamps stay equal.
func (s *Server) sealSecrets(st *bulkhead.Stamp, old, secrets map[string]string) error {
	if maps.Equal(old, secrets) {
		return nil
	}
	versions := map[string]int64{}
	for name, value := range secrets {
		versions[name] = st.SecretVersions[name]
		if was, had := old[name]; !had || was != value {
			versions[name]++
		}
	}
	st.SecretVersions, st.Sealed = versions, nil
	if len(secrets) == 0 {
		st.SecretVersions = nil
		return nil
	}
	var err error
	if st.Sealed, err = s.c.Sealer.Seal(st.UID, secrets); err != nil {
		return fmt.Errorf("seal secrets of %s: %w", st.Name, err)
	}
	return nil
}
