package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sort"
	"strings"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/compose"
	"bulkhead/images"

	"github.com/spf13/cobra"
)

func (c *command) releaseCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "release", Short: "Products: check, publish, list, show, delete releases", Aliases: []string{"releases"}}
	cmd.AddCommand(c.releaseCheck(), c.releasePublish(), c.releaseList(), c.releaseShow(), c.releaseDelete())
	return family(cmd)
}

// Check is what `release check` finds in a project.
type Check struct {
	Product  bulkhead.ProductName  `json:"product"`
	Version  string                `json:"version"`
	Services []bulkhead.Service    `json:"services"`
	Images   []compose.ImageRef    `json:"images"`
	Routes   []bulkhead.RouteRule  `json:"routes"`
	Modules  []bulkhead.Module     `json:"modules"`
	Volumes  []bulkhead.VolumeName `json:"volumes"`
	Settings json.RawMessage       `json:"settings"`
	Warnings []string              `json:"warnings"`
}

func (c *command) releaseCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check [DIR|compose.yaml]", Short: "Validate a project and show what would run",
		Long: "Validate a Compose project and show what a stamp of it would run. Needs no server and no images, and changes nothing.",
		Args: between(0, 1, "[DIR|compose.yaml]"),
		RunE: func(_ *cobra.Command, args []string) error {
			path := "."
			if len(args) > 0 {
				path = args[0]
			}
			p, err := compose.Load(path)
			if err != nil {
				return err
			}
			check := Check{
				Product: p.Product, Version: p.Version, Images: p.Images, Routes: notNil(p.Routes), Modules: notNil(p.Modules),
				Settings: p.Settings, Warnings: notNil(p.Warnings), Services: []bulkhead.Service{}, Volumes: []bulkhead.VolumeName{},
			}
			rehearsal, err := rehearse(p)
			if err == nil { // settings without a default: the project is right, but what runs depends on them
				check.Services = rehearsal.Services
				for _, v := range rehearsal.Volumes {
					check.Volumes = append(check.Volumes, v.Name)
				}
			}
			return c.print(check, func() { c.showCheck(check, path) })
		},
	}
}

// rehearse freezes a stamp with every module and example values for the settings
// that need one.
func rehearse(p *compose.Project) (*compose.Frozen, error) {
	in := compose.Inputs{Stamp: "example", Domain: "localhost", Settings: map[string]json.RawMessage{}}
	for _, m := range p.Modules {
		in.Modules = append(in.Modules, m.Name)
	}
	for _, s := range settingsOf(p.Settings) {
		if s.Required && s.Default == "" && s.Generate == 0 {
			in.Settings[s.Name] = s.example()
		}
	}
	return p.Freeze(in)
}

func (c *command) showCheck(check Check, path string) {
	c.say("product %s %s", check.Product, check.Version)
	c.say("")
	t := newTable(1, "SERVICE", "IMAGE", "TASKS", "AFTER", "CPU", "MEMORY", "MODULE")
	modules := map[bulkhead.ServiceName]string{}
	for _, m := range check.Modules {
		for _, s := range m.Services {
			modules[s] = string(m.Name)
		}
	}
	refs := map[bulkhead.ServiceName]string{}
	for _, i := range check.Images {
		refs[i.Service] = i.Reference
	}
	for _, s := range check.Services {
		var after []string
		for _, d := range s.DependsOn {
			after = append(after, string(d.Service))
		}
		t.add(string(s.Name), refs[s.Name], s.Replicas, strings.Join(after, ","), fmt.Sprintf("%g", s.Budget.CPU), size(s.Budget.Memory), modules[s.Name])
	}
	if len(check.Services) == 0 {
		for _, i := range check.Images {
			t.add(string(i.Service), i.Reference, "", "", "", "", modules[i.Service])
		}
	}
	c.table(t)
	c.say("")
	c.showRoutes(check.Routes)
	if len(check.Modules) > 0 {
		c.showModules(check.Modules)
	}
	c.showSettings(check.Settings)
	if len(check.Volumes) > 0 {
		c.say("volumes: %s", names(check.Volumes))
		c.say("")
	}
	for _, w := range check.Warnings {
		c.say("%s %s", c.paint(yellow, "warning:"), w)
	}
	c.say("%s nothing was changed", c.paint(green, "ok:"))
	c.next("bulkhead release publish %s", path)
}

func (c *command) showRoutes(routes []bulkhead.RouteRule) {
	t := newTable(-1, "ROUTE", "SERVICE")
	for _, r := range routes {
		prefix := ""
		if r.Prefix != "" {
			prefix = r.Prefix + "."
		}
		t.add(prefix+"STAMP.DOMAIN"+r.Path, fmt.Sprintf("%s:%d", r.Service, r.Port))
	}
	if len(routes) == 0 {
		c.say("no routes: no service publishes a port, so nothing is reached from outside")
	} else {
		c.table(t)
	}
	c.say("")
}

func (c *command) showModules(modules []bulkhead.Module) {
	t := newTable(1, "MODULE", "TITLE", "NEEDS", "SERVICES")
	for _, m := range modules {
		t.add(string(m.Name), m.Title, names(m.Needs), names(m.Services))
	}
	c.table(t)
	c.say("")
}

// setting is what people see of one property of a settings schema.
type setting struct {
	Name, Type, Default, Title string
	Required, Secret           bool
	Generate                   int
	first                      json.RawMessage // of an enum
}

func (s setting) example() json.RawMessage {
	switch {
	case s.first != nil:
		return s.first
	case s.Type == "integer" || s.Type == "number":
		return json.RawMessage("1")
	case s.Type == "boolean":
		return json.RawMessage("true")
	case s.Type == "array":
		return json.RawMessage("[]")
	case s.Type == "object":
		return json.RawMessage("{}")
	}
	return json.RawMessage(`"example"`)
}

func settingsOf(schema json.RawMessage) []setting {
	var doc struct {
		Properties map[string]struct {
			Type        any               `json:"type"`
			Default     json.RawMessage   `json:"default"`
			Title       string            `json:"title"`
			Description string            `json:"description"`
			Secret      bool              `json:"secret"`
			Generate    int               `json:"generate"`
			Enum        []json.RawMessage `json:"enum"`
		} `json:"properties"`
		Required []string `json:"required"`
	}
	if json.Unmarshal(schema, &doc) != nil {
		return nil
	}
	required := map[string]bool{}
	for _, name := range doc.Required {
		required[name] = true
	}
	var out []setting
	for name, p := range doc.Properties {
		s := setting{Name: name, Title: cmp.Or(p.Title, p.Description), Required: required[name], Secret: p.Secret, Generate: p.Generate}
		if p.Type != nil {
			s.Type = fmt.Sprint(p.Type)
		}
		if p.Default != nil {
			s.Default = plainSetting(p.Default)
		}
		if len(p.Enum) > 0 {
			s.first = p.Enum[0]
			var values []string
			for _, v := range p.Enum {
				values = append(values, plainSetting(v))
			}
			s.Type = strings.Join(values, "|")
		}
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func (c *command) showSettings(schema json.RawMessage) {
	settings := settingsOf(schema)
	if len(settings) == 0 {
		return
	}
	t := newTable(3, "SETTING", "TYPE", "DEFAULT", "ABOUT")
	for _, s := range settings {
		value := s.Default
		switch {
		case s.Secret && s.Generate > 0:
			value = "(secret, generated)"
		case s.Secret && s.Required:
			value = "(secret, required)"
		case s.Secret:
			value = "(secret)"
		case s.Required && s.Default == "":
			value = "(required)"
		}
		t.add(s.Name, s.Type, value, s.Title)
	}
	c.table(t)
	c.say("")
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func (c *command) releasePublish() *cobra.Command {
	var version string
	var archives []string
	var offline bool
	cmd := &cobra.Command{
		Use: "publish [DIR|compose.yaml] [--images FILE...]", Short: "Publish a project as a release",
		Long: `Publish a Compose project as an immutable release. Every image is looked for in the
archives given by --images, Bulkhead's own registry, the local Docker engine and
the registry that its name says, in this order; only what is missing is uploaded.`,
		Example: "  bulkhead release publish\n  bulkhead release publish shop/ --version 1.4.0 --images shop.tar\n  bulkhead release publish shop/ --images images/*.tar",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "."
			if len(archives) > 0 { // a shell makes several arguments of --images *.tar
				args = slices.DeleteFunc(args, func(arg string) bool {
					if isArchive(arg) {
						archives = append(archives, arg)
					}
					return isArchive(arg)
				})
			}
			if err := between(0, 1, "[DIR|compose.yaml]")(cmd, args); err != nil {
				return err
			}
			if len(args) > 0 {
				path = args[0]
			}
			p, err := compose.Load(path)
			if err != nil {
				return err
			}
			if version == "" && p.Version == "" {
				return bulkhead.Errorf(bulkhead.ErrInvalid, "the release has no version").WithHint("give --version, or write x-bulkhead: {version: ...} into the Compose file")
			}
			if err := bulkhead.ValidateVersion(cmp.Or(version, p.Version)); err != nil {
				return err // before anything is uploaded
			}
			out, err := c.publish(cmd.Context(), p, version, archives, offline)
			if err != nil {
				return err
			}
			return c.print(out, func() {
				r := out.Release
				if out.Unchanged {
					c.say("release %s %s is published already: nothing was changed", r.Product, r.Version)
				} else {
					c.say("release %s %s is published (%s)", r.Product, r.Version, r.Digest.Short())
				}
				c.next("bulkhead stamp create NAME --product %s", r.Product)
			})
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "version of the release (default: x-bulkhead.version)")
	cmd.Flags().StringArrayVar(&archives, "images", nil, "archive with images, as docker save or an OCI layout; FILE or FILE=REFERENCE; repeatable")
	cmd.Flags().BoolVar(&offline, "offline", false, "do not ask the registries that images' names say")
	return cmd
}

// isArchive tells an archive of images from a project, by its name.
func isArchive(path string) bool {
	return slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz"}, func(end string) bool { return strings.HasSuffix(path, end) })
}

func (c *command) publish(ctx context.Context, p *compose.Project, version string, archives []string, offline bool) (api.Published, error) {
	cl := c.client()
	if err := cl.Ready(ctx); err != nil { // before minutes of uploading
		return api.Published{}, err
	}
	target := &images.Target{URL: cl.Base(), Client: &http.Client{Transport: withToken{cl.Token(), cl.Transport()}}}
	finder, err := images.Open(ctx, images.Options{Archives: archives, Own: target, Offline: offline})
	if err != nil {
		return api.Published{}, err
	}
	defer finder.Close()
	for _, w := range p.Warnings {
		fmt.Fprintf(c.env.Stderr, "%s %s\n", c.paint(yellow, "warning:"), w)
	}
	spec := api.ReleaseSpec{Product: p.Product, Version: cmp.Or(version, p.Version), Images: map[bulkhead.ServiceName]bulkhead.Image{}}
	pushed := map[string]bulkhead.Image{}
	for _, ref := range p.Images {
		image, ok := pushed[ref.Reference]
		if !ok {
			found, err := finder.Find(ctx, ref.Reference)
			if err != nil {
				return api.Published{}, err
			}
			if found.Note != "" {
				fmt.Fprintf(c.env.Stderr, "%s %s: %s\n", c.paint(yellow, "warning:"), ref.Reference, found.Note)
			}
			bar := c.uploadBar(ref.Reference, found.Where)
			image, err = images.Push(ctx, target, found, bar.update)
			bar.end(err)
			if err != nil {
				return api.Published{}, err
			}
			pushed[ref.Reference] = image
		}
		spec.Images[ref.Service] = image
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(p.Bundle(w)) }()
	spec.Bundle, spec.BundleSize, err = images.PushBundle(ctx, target, r)
	_ = r.Close() // ends Bundle if the upload has failed
	if err != nil {
		return api.Published{}, err
	}
	return cl.Publish(ctx, spec)
}

// withToken authorises requests to the registry.
type withToken struct {
	token string
	next  http.RoundTripper
}

func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+t.token)
	}
	return t.next.RoundTrip(r)
}

func (c *command) releaseList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [PRODUCT]", Short: "List releases", Aliases: []string{"ls"}, Args: between(0, 1, "[PRODUCT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			product := ""
			if len(args) > 0 {
				product = args[0]
			}
			releases, err := c.client().Releases(cmd.Context(), product)
			if err != nil {
				return err
			}
			return c.print(releases, func() {
				if len(releases) == 0 {
					c.say("no releases")
					c.next("bulkhead release publish DIR")
					return
				}
				t := newTable(-1, "PRODUCT", "RELEASE", "SERVICES", "SIZE", "AGE", "DIGEST")
				for _, r := range releases {
					var bytes int64
					seen := map[bulkhead.Digest]bool{}
					for _, i := range r.Images {
						if !seen[i.Digest] {
							bytes += i.Size
						}
						seen[i.Digest] = true
					}
					t.add(string(r.Product), r.Version, len(r.Images), size(bytes+r.BundleSize), c.age(r.Created), r.Digest.Short())
				}
				c.table(t)
			})
		},
	}
	cmd.ValidArgsFunction = c.products
	return cmd
}

func (c *command) releaseShow() *cobra.Command {
	return &cobra.Command{
		Use: "show PRODUCT [VERSION]", Short: "Show a release, the latest unless told otherwise", Args: between(1, 2, "PRODUCT [VERSION]"), ValidArgsFunction: c.products,
		RunE: func(cmd *cobra.Command, args []string) error {
			product, version := releaseName(args)
			r, err := c.client().Release(cmd.Context(), product, version)
			if err != nil {
				return err
			}
			return c.print(r, func() {
				c.say("product   %s\nrelease   %s\ndigest    %s\ncreated   %s ago\n", r.Product, r.Version, r.Digest, c.age(r.Created))
				t := newTable(1, "SERVICE", "IMAGE", "SIZE", "DIGEST")
				var services []string
				for name := range r.Images {
					services = append(services, string(name))
				}
				sort.Strings(services)
				for _, name := range services {
					i := r.Images[bulkhead.ServiceName(name)]
					t.add(name, i.Reference, size(i.Size), i.Digest.Short())
				}
				c.table(t)
				c.say("")
				c.showRoutes(r.Routes)
				if len(r.Modules) > 0 {
					c.showModules(r.Modules)
				}
				c.showSettings(r.Settings)
				for _, w := range r.Warnings {
					c.say("%s %s", c.paint(yellow, "warning:"), w)
				}
				c.next("bulkhead stamp create NAME --product %s --release %s", r.Product, r.Version)
			})
		},
	}
}

func (c *command) releaseDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete PRODUCT VERSION", Short: "Delete a release that no stamp uses", Args: between(1, 2, "PRODUCT VERSION"), ValidArgsFunction: c.products,
		RunE: func(cmd *cobra.Command, args []string) error {
			product, version := releaseName(args)
			if version == "" {
				return usage(cmd, "VERSION is missing")
			}
			if err := c.client().DeleteRelease(cmd.Context(), product, version); err != nil {
				return err
			}
			return c.print(map[string]string{"product": product, "version": version, "action": "delete"}, func() {
				c.say("release %s %s is deleted", product, version)
			})
		},
	}
}

// releaseName reads PRODUCT VERSION or PRODUCT@VERSION.
func releaseName(args []string) (product, version string) {
	if len(args) > 1 {
		return args[0], args[1]
	}
	product, version, _ = strings.Cut(args[0], "@")
	return product, version
}

func (c *command) products(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.ask(cmd, productNames), cobra.ShellCompDirectiveNoFileComp
}
