package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"bulkhead"
	"bulkhead/store"

	"github.com/danielgtaylor/huma/v2"
)

// ReleaseSpec is the body of publish: what was uploaded to the registry before.
type ReleaseSpec struct {
	Product    bulkhead.ProductName                    `json:"product,omitempty" doc:"For a Compose file that names none"`
	Version    string                                  `json:"version,omitempty" doc:"Empty: as x-bulkhead has it. Letters, digits and . _ + -, at most 128 bytes"`
	Bundle     bulkhead.Digest                         `json:"bundle" doc:"Of the tar of the project"`
	BundleSize int64                                   `json:"bundleSize" minimum:"0" doc:"Bytes of the bundle"`
	Images     map[bulkhead.ServiceName]bulkhead.Image `json:"images" doc:"What each service runs"`
}

// Published is the answer to publish.
type Published struct {
	Release   bulkhead.Release `json:"release"`
	Unchanged bool             `json:"unchanged" doc:"This very release was there already"`
}

// Product sums up the releases of one product.
type Product struct {
	Name     bulkhead.ProductName `json:"name"`
	Latest   string               `json:"latest" doc:"Version of the release published last"`
	Releases int                  `json:"releases"`
	Stamps   int                  `json:"stamps"`
}

// Products lists products by name.
func (c *Client) Products(ctx context.Context) ([]Product, error) {
	var out []Product
	return out, c.call(ctx, http.MethodGet, "/v1/products", nil, nil, &out)
}

// Releases lists the releases of a product, of all if it is empty, each product's
// latest first.
func (c *Client) Releases(ctx context.Context, product string) ([]bulkhead.Release, error) {
	v := url.Values{}
	if product != "" {
		v.Set("product", product)
	}
	var out []bulkhead.Release
	return out, c.call(ctx, http.MethodGet, "/v1/releases", v, nil, &out)
}

// Release shows a release; the latest if version is empty.
func (c *Client) Release(ctx context.Context, product, version string) (bulkhead.Release, error) {
	var out bulkhead.Release
	return out, c.call(ctx, http.MethodGet, releasePath(product, cmp.Or(version, "latest")), nil, nil, &out)
}

// Publish makes a release of what was uploaded. Publishing the same again changes
// nothing; the same version with other content is bulkhead.ErrConflict.
func (c *Client) Publish(ctx context.Context, spec ReleaseSpec) (Published, error) {
	var out Published
	return out, c.call(ctx, http.MethodPost, "/v1/releases", nil, spec, &out)
}

// DeleteRelease deletes a release that no stamp uses.
func (c *Client) DeleteRelease(ctx context.Context, product, version string) error {
	return c.call(ctx, http.MethodDelete, releasePath(product, version), nil, nil, nil)
}

func releasePath(product, version string) string {
	return "/v1/releases/" + url.PathEscape(product) + "/" + url.PathEscape(version)
}

type releaseInput struct {
	Product string `path:"product"`
	Version string `path:"version" doc:"latest stands for the one published last"`
}

func (s *Server) registerReleases(hapi huma.API) {
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/products", id: "list-products", tag: "Releases", summary: "List products",
	}, func(context.Context, *struct{}) (*answer[[]Product], error) {
		return &answer[[]Product]{listProducts(s.c.Store.View())}, nil
	})
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/releases", id: "list-releases", tag: "Releases", summary: "List releases",
	}, func(_ context.Context, in *struct {
		Product string `query:"product" doc:"Only of this product"`
	},
	) (*answer[[]bulkhead.Release], error) {
		if in.Product != "" {
			if _, err := findRelease(s.c.Store.View(), in.Product, ""); err != nil {
				return nil, err
			}
			in.Product = strings.ToLower(in.Product)
		}
		out := []bulkhead.Release{}
		for r := range s.c.Store.View().Releases.All() {
			if in.Product == "" || string(r.Product) == in.Product {
				out = append(out, r)
			}
		}
		slices.SortStableFunc(out, func(a, b bulkhead.Release) int {
			return cmp.Or(cmp.Compare(a.Product, b.Product), b.Created.Compare(a.Created))
		})
		return &answer[[]bulkhead.Release]{out}, nil
	})
	register(s, hapi, operation{
		method: http.MethodGet, path: "/v1/releases/{product}/{version}", id: "show-release", tag: "Releases", summary: "Show a release",
	}, func(_ context.Context, in *releaseInput) (*answer[bulkhead.Release], error) {
		r, err := findRelease(s.c.Store.View(), in.Product, in.Version)
		return &answer[bulkhead.Release]{r}, err
	})
	register(s, hapi, operation{
		method: http.MethodPost, path: "/v1/releases", id: "publish-release", tag: "Releases", summary: "Publish a release",
		description: "The bundle and every image must be in the registry. The same content again changes nothing; the same version with other content is a conflict.",
	}, func(ctx context.Context, in *struct{ Body ReleaseSpec }) (*answer[Published], error) {
		out, err := s.publish(ctx, in.Body)
		return &answer[Published]{out}, err
	})
	register(s, hapi, operation{
		method: http.MethodDelete, path: "/v1/releases/{product}/{version}", id: "delete-release", tag: "Releases", summary: "Delete a release",
		description: "Refused while a stamp uses it.",
	}, func(ctx context.Context, in *releaseInput) (*struct{}, error) {
		return nil, s.deleteRelease(ctx, in.Product, in.Version)
	})
}

func listProducts(view *store.Snapshot) []Product {
	products := map[bulkhead.ProductName]*Product{}
	latest := map[bulkhead.ProductName]bulkhead.Release{}
	for r := range view.Releases.All() {
		p := products[r.Product]
		if p == nil {
			p = &Product{Name: r.Product}
			products[r.Product] = p
		}
		p.Releases++
		if was, ok := latest[r.Product]; !ok || r.Created.After(was.Created) {
			latest[r.Product], p.Latest = r, r.Version
		}
	}
	for st := range view.Stamps.All() {
		if p := products[st.Product]; p != nil && st.Desired != bulkhead.DesiredDeleted {
			p.Stamps++
		}
	}
	out := []Product{}
	for _, name := range slices.Sorted(maps.Keys(products)) {
		out = append(out, *products[name])
	}
	return out
}

// findRelease is a release by product and version; "" and "latest" stand for the
// version that was published last.
func findRelease(view *store.Snapshot, product, version string) (bulkhead.Release, error) {
	name, err := bulkhead.ParseProductName(product)
	if err != nil {
		return bulkhead.Release{}, err
	}
	var found *bulkhead.Release
	var versions []string
	for r := range view.Releases.Under(store.NewReleaseKey(name, "")) {
		versions = append(versions, r.Version)
		switch {
		case r.Version == version:
			return r, nil
		case version != "" && version != "latest":
		case found == nil || r.Created.After(found.Created):
			found = &r
		}
	}
	switch {
	case found != nil:
		return *found, nil
	case len(versions) == 0:
		e := bulkhead.Errorf(bulkhead.ErrNotFound, "product %s does not exist", name)
		if products := listProducts(view); len(products) > 0 {
			var known []string
			for _, p := range products {
				known = append(known, string(p.Name))
			}
			return bulkhead.Release{}, e.WithHint("published: %s", strings.Join(known, ", "))
		}
		return bulkhead.Release{}, e.WithHint("nothing is published yet: bulkhead release publish")
	}
	return bulkhead.Release{}, bulkhead.Errorf(bulkhead.ErrNotFound, "product %s has no release %q", name, version).
		WithHint("it has: %s", strings.Join(versions[max(0, len(versions)-10):], ", "))
}

func (s *Server) publish(ctx context.Context, spec ReleaseSpec) (Published, error) {
	if spec.Version == "latest" {
		return Published{}, bulkhead.Errorf(bulkhead.ErrInvalid, `version "latest" stands for the release published last: choose another`)
	}
	if err := spec.Bundle.Validate(); err != nil {
		return Published{}, err
	}
	// The project is checked again: a client may be older, or someone else's.
	project, err := s.project(ctx, spec.Product, spec.Bundle)
	if err != nil {
		return Published{}, err
	}
	r, err := project.Release(spec.Version, spec.Bundle, spec.BundleSize, spec.Images)
	if err != nil {
		return Published{}, err
	}
	var faults []bulkhead.Fault
	services := map[bulkhead.ServiceName]bool{}
	for _, ref := range project.Images {
		services[ref.Service] = true
		if err := s.c.HasImage(ctx, spec.Images[ref.Service]); err != nil {
			if bulkhead.KindOf(err) == nil {
				return Published{}, fmt.Errorf("check image of %s: %w", ref.Service, err)
			}
			faults = append(faults, bulkhead.Fault{Where: "images." + string(ref.Service), Message: err.Error()})
		}
	}
	for name := range spec.Images {
		if !services[name] {
			faults = append(faults, bulkhead.Fault{Where: "images." + string(name), Message: "the project has no such service"})
		}
	}
	if err := bulkhead.Faulty(fmt.Sprintf("release %s %s cannot be published", r.Product, r.Version), faults); err != nil {
		return Published{}, err
	}
	r.Created = s.c.Now().UTC()
	out := Published{Release: r}
	err = s.c.Store.Update(ctx, func(tx *store.Tx) error {
		out = Published{Release: r}
		if was, ok := tx.Releases.Get(store.NewReleaseKey(r.Product, r.Version)); ok {
			if was.Digest != r.Digest {
				return bulkhead.Errorf(bulkhead.ErrConflict, "release %s %s is published already, with other content", r.Product, r.Version).
					WithHint("releases never change: publish under a new version")
			}
			out = Published{Release: was, Unchanged: true}
			return nil
		}
		tx.Releases.Put(r)
		tx.Event(bulkhead.Event{Time: r.Created, Type: "release.published", Actor: actor(ctx), Message: fmt.Sprintf("release %s %s (%s)", r.Product, r.Version, r.Digest.Short())})
		return nil
	})
	return out, err
}

func (s *Server) deleteRelease(ctx context.Context, product, version string) error {
	name, err := bulkhead.ParseProductName(product)
	if err != nil {
		return err
	}
	return s.c.Store.Update(ctx, func(tx *store.Tx) error {
		r, ok := tx.Releases.Get(store.NewReleaseKey(name, version))
		if !ok {
			return bulkhead.Errorf(bulkhead.ErrNotFound, "release %s %s does not exist", name, version).WithHint("bulkhead release list")
		}
		var users []string
		for st := range tx.Stamps.All() { // all: a stamp that is created meanwhile must be seen
			if st.Release == r.Digest {
				users = append(users, string(st.Name))
			}
		}
		if len(users) > 0 {
			return bulkhead.Errorf(bulkhead.ErrConflict, "release %s %s is used by %s", name, version, some(users)).
				WithHint("update or purge those first; a deleted stamp whose data is kept counts, too")
		}
		tx.Releases.Delete(store.NewReleaseKey(name, version))
		tx.Event(bulkhead.Event{Type: "release.deleted", Actor: actor(ctx), Message: fmt.Sprintf("release %s %s", name, version)})
		return nil
	})
}

// some lists names, the first few of many.
func some(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", len(names)-5)
	}
	return strings.Join(names, ", ")
}
