package compose

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/types"
)

// Inputs is what one stamp brings to a release.
type Inputs struct {
	Stamp   bulkhead.StampName
	Domain  bulkhead.Host         // "example.com": the stamp answers to STAMP.DOMAIN
	Modules []bulkhead.ModuleName // chosen; what they need comes along
	// Settings are the values given, public and secret; null takes one back.
	Settings map[string]json.RawMessage
	// Secrets are values of secret settings that the stamp has already; those
	// that the release does not know any more are dropped.
	Secrets map[string]string
	// Images pins what services run. Nil leaves only their references, to show
	// what would run.
	Images map[bulkhead.ServiceName]bulkhead.Image
}

// Frozen is the effective configuration of a stamp.
type Frozen struct {
	Services []bulkhead.Service // by name
	Volumes  []bulkhead.Volume  // by name: those that Services mount
	Routes   []bulkhead.RouteRule
	// Terms are what the product asks of the node that a stamp is placed on.
	Terms bulkhead.Terms `json:",omitzero"`
	// Settings are the public settings given; defaults are not among them.
	Settings map[string]json.RawMessage
	// Secrets are the values of all secret settings, given, kept or generated:
	// to be sealed. Services hold a SecretRef in their place.
	Secrets map[string]string
}

// Freeze makes the effective configuration of one stamp. Errors are of kind
// ErrInvalid and hold every fault of settings and modules.
func (p *Project) Freeze(in Inputs) (*Frozen, error) {
	var faults []bulkhead.Fault
	for _, name := range in.Modules {
		if !slices.ContainsFunc(p.Modules, func(m bulkhead.Module) bool { return m.Name == name }) {
			faults = append(faults, bulkhead.Fault{Where: "modules." + string(name), Message: p.unknownModule()})
		}
	}
	public, secrets, wrong := p.schema.check(in.Settings, in.Secrets)
	err := refusal(fmt.Sprintf("stamp %s is refused", in.Stamp), append(faults, wrong...))
	if err != nil {
		return nil, err
	}
	in.Secrets = secrets
	key := in.key(public)
	made, ok := p.frozen.get(key)
	if !ok {
		if made, err = p.freeze(in, public); err != nil {
			return nil, err
		}
		p.frozen.put(key, in.Stamp, made)
	}
	made.Settings, made.Secrets = public, secrets
	return &made, nil
}

// freeze does what Freeze does once the settings are checked.
func (p *Project) freeze(in Inputs, public map[string]json.RawMessage) (Frozen, error) {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return Frozen{}, fmt.Errorf("open project: %w", err)
	}
	defer root.Close()
	var faults []bulkhead.Fault
	env := p.environment(public, in)
	loaded, err := p.load(string(in.Stamp), env, p.active(in.Modules))
	if err != nil {
		return Frozen{}, refusal(fmt.Sprintf("stamp %s is refused", in.Stamp), p.explain(err))
	}
	f := freezing{
		Project: p, loaded: loaded, env: env, root: root, images: in.Images, strict: in.Images != nil,
		fault: func(where, format string, args ...any) {
			faults = append(faults, bulkhead.Fault{Where: where, Message: fmt.Sprintf(format, args...)})
		},
		warn: func(string, string, ...any) {}, // said when the release was made
	}
	frozen := Frozen{Services: f.services(), Terms: f.placed()}
	if err := refusal(fmt.Sprintf("stamp %s is refused", in.Stamp), faults); err != nil {
		return Frozen{}, err
	}
	frozen.Volumes = f.volumes(frozen.Services)
	for _, r := range p.Routes {
		if _, runs := loaded.Services[string(r.Service)]; runs {
			frozen.Routes = append(frozen.Routes, r)
		}
	}
	return frozen, nil
}

func (p *Project) unknownModule() string {
	var names []string
	for _, m := range p.Modules {
		names = append(names, string(m.Name))
	}
	if len(names) == 0 {
		return "no such module; this product has none"
	}
	return "no such module; there are " + strings.Join(names, ", ")
}

// freezing copies what Bulkhead honours out of a loaded project.
type freezing struct {
	*Project
	loaded *types.Project
	env    map[string]string
	images map[bulkhead.ServiceName]bulkhead.Image
	strict bool // every image must be there
	root   *os.Root
	fault  func(where, format string, args ...any)
	warn   func(where, format string, args ...any)
}

func (f *freezing) services() []bulkhead.Service {
	services := make([]bulkhead.Service, 0, len(f.loaded.Services))
	for _, key := range sortedKeys(f.loaded.Services) {
		services = append(services, f.service(key, f.loaded.Services[key]))
	}
	f.links(services)
	return services
}

// volumes lists what services mount.
func (f *freezing) volumes(services []bulkhead.Service) []bulkhead.Volume {
	found := map[bulkhead.VolumeName]bulkhead.Volume{}
	for _, s := range services {
		for _, m := range s.Mounts {
			if m.Kind == bulkhead.MountVolume {
				name := bulkhead.VolumeName(m.Source)
				found[name] = bulkhead.Volume{Name: name, Labels: f.loaded.Volumes[m.Source].Labels}
			}
		}
	}
	var volumes []bulkhead.Volume
	for _, name := range sortedKeys(found) {
		volumes = append(volumes, found[name])
	}
	return volumes
}

// links gives a service the further names by which others link to it.
func (f *freezing) links(services []bulkhead.Service) {
	for _, key := range sortedKeys(f.loaded.Services) {
		for _, link := range f.loaded.Services[key].Links {
			name, alias, ok := strings.Cut(link, ":")
			if !ok {
				continue
			}
			i := slices.IndexFunc(services, func(s bulkhead.Service) bool { return string(s.Name) == name })
			if i < 0 {
				continue
			}
			for j, a := range services[i].Networks {
				if _, shared := f.loaded.Services[key].Networks[string(a.Network)]; shared && !slices.Contains(a.Aliases, alias) {
					services[i].Networks[j].Aliases = append(slices.Clone(a.Aliases), alias)
				}
			}
		}
	}
}
