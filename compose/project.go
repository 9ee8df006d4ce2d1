package compose

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/dotenv"
	interp "github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v4"
)

// Project is a Compose project that passed every check. It does not change, and
// may be used by several goroutines at once.
type Project struct {
	Product bulkhead.ProductName
	Version string // as x-bulkhead has it; may be empty
	Modules []bulkhead.Module
	// Settings is the JSON Schema (2020-12) of what a stamp may set.
	Settings json.RawMessage
	Routes   []bulkhead.RouteRule
	Images   []ImageRef // by service name
	Warnings []string   // "compose.yaml:12: services.web.build: ignored: …"

	dir     string // absolute
	sources []*source
	files   *files
	schema  *schema
	dotenv  map[string]string // what the project's .env gives to variables
	images  map[string]string // reference by service
	terms   bulkhead.Terms    // x-bulkhead.placement
	frozen  frozen
}

// ImageRef says which image a service runs.
type ImageRef struct {
	Service bulkhead.ServiceName `json:"service"`
	// Reference is the image's name in the Compose file, or the name that Docker
	// Compose gives to what it builds: PROJECT-SERVICE.
	Reference string `json:"reference"`
	Build     bool   `json:"build,omitempty"` // the service has a build section
}

// fileNames are the names of a Compose file, in the order in which they are tried.
var fileNames = []string{"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"}

// Load reads the project in a folder, or the project of a Compose file. Errors
// are of kind ErrNotFound when there is none and ErrInvalid with every fault,
// each with file and line, when it is refused.
func Load(path string) (*Project, error) {
	dir, file := path, ""
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, bulkhead.Errorf(bulkhead.ErrNotFound, "no such file or folder: %s", path).WithHint("give the folder of a compose.yaml, or the file")
	case !info.IsDir():
		dir, file = filepath.Split(path)
	default:
		for _, name := range fileNames {
			if info, err := os.Stat(filepath.Join(dir, name)); err == nil && !info.IsDir() {
				file = name
				break
			}
		}
		if file == "" {
			return nil, bulkhead.Errorf(bulkhead.ErrNotFound, "no compose.yaml in %s", path).WithHint("give the folder of a compose.yaml, or the file")
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("find folder: %w", err)
	}
	p, err := open(dir, file, "")
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"compose.override.yaml", "compose.override.yml", "docker-compose.override.yaml", "docker-compose.override.yml"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			p.Warnings = append(p.Warnings, name+": ignored: a release is made from "+file+" alone")
		}
	}
	return p, nil
}

// Open reads a project from the folder that its bundle was unpacked to. The
// bundle does not say what the folder of the original was called, so product
// names the product of a Compose file without a name.
func Open(dir string, product bulkhead.ProductName) (*Project, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find folder: %w", err)
	}
	return open(dir, fileNames[0], product)
}

// opening is a project while it is read.
type opening struct {
	*Project
	reading
	root *os.Root
	// walked tells which files, and which services of files that are only
	// extended ("base.yaml#web"), have been walked.
	walked map[string]bool
}

func open(dir, file string, product bulkhead.ProductName) (*Project, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open project: %w", err)
	}
	defer root.Close()
	o := &opening{
		Project: &Project{dir: dir, images: map[string]string{}},
		reading: reading{rows: newRows()},
		root:    root,
		walked:  map[string]bool{},
	}
	main, err := o.source(file, ".", nil)
	if err != nil {
		return nil, err
	}
	o.files = &files{main: main.name, names: map[string]string{}}
	for _, step := range []func(*source){
		func(main *source) { o.name(main, product) },
		o.references,
		o.dotEnv,
		o.settings,
		o.probe,
	} {
		// A step relies on the ones before, but refused attributes do not keep
		// the next one from finding more.
		if step(main); len(o.faults) > o.denied {
			break
		}
	}
	if err := o.refusal(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(o.warnings, comparePlaces)
	o.Warnings = o.warnings
	return o.Project, nil
}

// refusal is the error of the faults found so far, or nil.
func (o *opening) refusal() error {
	slices.SortStableFunc(o.faults, func(a, b bulkhead.Fault) int { return comparePlaces(a.Where, b.Where) })
	return refusal(o.sources[0].name+" is refused", o.faults)
}

// refusal makes one fault the message itself, and several a list.
func refusal(message string, faults []bulkhead.Fault) error {
	if len(faults) == 1 {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%s", faults[0].String())
	}
	return bulkhead.Faulty(fmt.Sprintf("%s: %d faults", message, len(faults)), faults)
}

// comparePlaces orders "compose.yaml:9" before "compose.yaml:12".
func comparePlaces(a, b string) int {
	fileA, restA, _ := strings.Cut(a, ":")
	fileB, restB, _ := strings.Cut(b, ":")
	lineA, _, _ := strings.Cut(restA, ":")
	lineB, _, _ := strings.Cut(restB, ":")
	numberA, _ := strconv.Atoi(lineA)
	numberB, _ := strconv.Atoi(lineB)
	return cmp.Or(strings.Compare(fileA, fileB), cmp.Compare(numberA, numberB))
}

// source reads the YAML file name, once.
func (o *opening) source(name, base string, env map[string]string) (*source, error) {
	for _, s := range o.sources {
		if s.name == name {
			if s.env == nil {
				s.env = env
			}
			return s, nil
		}
	}
	if len(o.sources) == maxSources {
		return nil, bulkhead.Errorf(bulkhead.ErrExhausted, "%s: the project has more than %d Compose files", name, maxSources)
	}
	content, err := readFile(o.root, name)
	if err != nil {
		if bulkhead.KindOf(err) != nil {
			return nil, err
		}
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "%s: %s", name, fileProblem(err))
	}
	s, err := parse(name, base, content)
	if err != nil {
		return nil, err
	}
	s.env = env
	o.sources = append(o.sources, s)
	return s, nil
}

// fileProblem says in plain words why a file of the project cannot be read.
func fileProblem(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file in the project"
	case errors.Is(err, fs.ErrPermission):
		return "not readable"
	case strings.Contains(err.Error(), "escapes from parent"):
		return "a link leads out of the project folder; copy the file into it"
	case bulkhead.KindOf(err) != nil:
		return err.Error()
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}

// name finds the product's name: the file's, else product, else the folder's.
func (o *opening) name(main *source, product bulkhead.ProductName) {
	text, where := filepath.Base(o.dir), main.name
	if product != "" {
		text = string(product)
	}
	if n := get(main.root, "name"); n != nil {
		text, where = n.Value, main.at(n)
		if strings.Contains(text, "$") {
			o.fault(where, "name: a product's name holds no variables; write it out")
			return
		}
	}
	label := bulkhead.ServiceName(loader.NormalizeProjectName(text)).Label()
	name, err := bulkhead.ParseProductName(label)
	if err != nil {
		o.fault(where, "name: %q gives no product name; write name: with a-z, 0-9 and hyphens", text)
	}
	o.Product = name
}

// references walks the main file and those that it includes and extends.
func (o *opening) references(main *source) {
	o.walked[main.name] = true
	o.walk(main, main.root, o.rows, "", "")
	if n := get(main.root, "services"); n == nil || len(entries(n)) == 0 && get(main.root, "include") == nil {
		o.fault(main.at(main.root), "services: there are none; a product has at least one")
	}
	o.includes(main)
	o.extends(main, get(main.root, "services"))
}

func (o *opening) includes(s *source) {
	include := get(s.root, "include")
	if include == nil {
		return
	}
	for _, item := range include.Content {
		item = target(item)
		paths, base := scalars(item), ""
		if item.Kind == yaml.MappingNode {
			paths = scalars(get(item, "path"))
			if n := cmp.Or(get(item, "project_directory"), get(item, "env_file")); n != nil && s != o.sources[0] {
				o.fault(s.at(n), "include: project_directory and env_file are understood in %s only; include this file there", o.sources[0].name)
				continue
			}
			if n := get(item, "project_directory"); n != nil {
				var ok bool
				if base, ok = o.local(s, n, "include.project_directory"); !ok {
					continue
				}
			}
		}
		for i, n := range paths {
			name, ok := o.local(s, n, "include")
			if !ok {
				continue
			}
			if i == 0 && base == "" {
				base = path.Dir(name)
			}
			if o.walked[name] {
				continue
			}
			o.walked[name] = true
			included, err := o.source(name, base, o.includeEnv(s, item, base))
			if err != nil {
				o.fault(s.at(n), "include: %s", err)
				continue
			}
			if n := get(included.root, "x-bulkhead"); n != nil {
				o.warn(included.at(n), "x-bulkhead: ignored: that of %s counts", o.sources[0].name)
			}
			o.walk(included, included.root, o.rows, "", "")
			o.includes(included)
			o.extends(included, get(included.root, "services"))
		}
	}
}

// includeEnv is what the env files of an include give to variables.
func (o *opening) includeEnv(s *source, item *yaml.Node, base string) map[string]string {
	env := map[string]string{}
	if item.Kind == yaml.MappingNode && get(item, "env_file") != nil {
		for _, n := range scalars(get(item, "env_file")) {
			if n.Value == "/dev/null" {
				continue
			}
			if name, ok := o.local(s, n, "include.env_file"); ok {
				err := readEnv(o.root, name, "", env, nil)
				if err == nil {
					err = o.addAll(name)
				}
				if err != nil {
					o.fault(s.at(n), "include.env_file: %s: %s", n.Value, fileProblem(err))
				}
			}
		}
	} else if name := path.Join(base, ".env"); base != "." {
		if readEnv(o.root, name, "", env, nil) == nil { // there need not be one
			_ = o.addAll(name)
		}
	}
	return env
}

// extends reads the files that services extend, as far as they are extended.
func (o *opening) extends(s *source, services *yaml.Node) {
	if services == nil {
		return
	}
	for _, e := range entries(services) {
		o.extend(s, e.value)
	}
}

func (o *opening) extend(s *source, service *yaml.Node) {
	extends := get(service, "extends")
	if extends == nil {
		return
	}
	name, base := extends, s // "extends: NAME" is of the same file
	if extends.Kind == yaml.MappingNode {
		name = get(extends, "service")
	}
	if file := get(extends, "file"); file != nil {
		from, ok := o.local(s, file, "extends.file")
		if !ok {
			return
		}
		var err error
		if base, err = o.source(from, path.Dir(from), nil); err != nil {
			o.fault(s.at(file), "extends.file: %s", err)
			return
		}
	}
	if name == nil || o.walked[base.name] || o.walked[base.name+"#"+name.Value] {
		return
	}
	o.walked[base.name+"#"+name.Value] = true
	if n := get(get(base.root, "services"), name.Value); n != nil {
		o.walk(base, n, o.rows.names["services"].any, "services."+name.Value, "services.*")
		o.extend(base, n)
	}
}

// local resolves a path that must not depend on variables.
func (o *opening) local(s *source, n *yaml.Node, what string) (string, bool) {
	if strings.Contains(n.Value, "$") {
		o.fault(s.at(n), "%s: %q holds a variable; a release ships fixed files, write it out", what, n.Value)
		return "", false
	}
	name, err := local(s.base, n.Value)
	if err == nil {
		if _, statErr := o.root.Stat(name); statErr != nil {
			err = fmt.Errorf("%q: %s", n.Value, fileProblem(statErr))
		}
	}
	if err != nil {
		o.fault(s.at(n), "%s: %s", what, err)
		return "", false
	}
	return name, true
}

// dotEnv takes what the project's .env gives to variables. Values of secrets
// stay out: stamps share none.
func (o *opening) dotEnv(*source) {
	o.dotenv = map[string]string{}
	all := map[string]string{}
	if err := readEnv(o.root, ".env", "", all, nil); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			o.fault(".env:1", "%s", fileProblem(err))
		}
		return
	}
	for _, u := range o.uses {
		if value, ok := all[u.Name]; ok {
			o.dotenv[u.Name] = value
		}
	}
}

// readEnv adds the variables of an env file to env; lookup resolves variables
// that its values hold, before those of env.
func readEnv(root *os.Root, name, format string, env map[string]string, lookup func(string) (string, bool)) error {
	content, err := readFile(root, name)
	if err != nil {
		return err
	}
	if format == "raw" {
		for line := range strings.Lines(string(content)) {
			line = strings.TrimRight(line, "\r\n")
			if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				env[strings.TrimSpace(key)] = value
			}
		}
		return nil
	}
	if format != "" && format != dotenv.DotEnv {
		return fmt.Errorf("format %q is unknown; leave it out, or use raw", format)
	}
	values, err := dotenv.ParseWithLookup(strings.NewReader(string(content)), func(key string) (string, bool) {
		if lookup != nil {
			if value, ok := lookup(key); ok {
				return value, true
			}
		}
		// An unset variable is empty, as everywhere in Compose.
		return env[key], true
	})
	if err != nil {
		return errors.New(oneLine(err.Error()))
	}
	maps.Copy(env, values)
	return nil
}

// probe loads the project as a stamp with every module would, with stand-ins for
// the settings that have no default, and checks what comes out.
func (o *opening) probe(main *source) {
	env, loaded := o.rehearse()
	if loaded == nil {
		return
	}
	o.finish()
	o.services(loaded)
	o.modules(main, loaded)
	o.collect(loaded)
	o.routes(main, loaded)
	if len(o.faults) > 0 {
		return
	}
	// What one stamp would run shows the faults of single attributes.
	f := freezing{Project: o.Project, loaded: loaded, env: env, fault: o.fault, warn: o.warn, root: o.root}
	f.services()
	f.placed()
}

var interpolatingPattern = regexp.MustCompile(`^(?:error while interpolating|invalid interpolation format for) ([^\s:]+?)(?:\.\s|:)`)

// rehearse loads the project with stand-ins for settings without default,
// trying other stand-ins where one does not fit its place. It returns the
// stand-ins that were needed; faults are noted.
func (o *opening) rehearse() (map[string]string, *types.Project) {
	in := Inputs{Stamp: "stamp", Domain: "localhost", Secrets: map[string]string{}}
	for name, p := range o.schema.properties {
		if p.Secret {
			in.Secrets[name] = "example"
		}
	}
	env := o.environment(nil, in)
	tried := map[string]int{}
	for {
		loaded, err := o.load(string(o.Product), env, []string{"*"})
		if err == nil {
			for name := range tried {
				o.schema.need(name)
			}
			return env, loaded
		}
		again := false
		for _, leaf := range leaves(err) {
			m := interpolatingPattern.FindStringSubmatch(leaf.Error())
			if m == nil {
				continue
			}
			for _, u := range o.uses {
				if u.path != m[1] || !o.schema.has(u.Name) {
					continue
				}
				if _, set := env[u.Name]; set && tried[u.Name] == 0 {
					continue
				}
				var missing *template.MissingRequiredError
				if errors.As(leaf, &missing) && missing.Variable != u.Name {
					continue
				}
				if candidates := o.schema.standIns(u.Name); tried[u.Name] < len(candidates) {
					env[u.Name] = candidates[tried[u.Name]]
					tried[u.Name]++
					again = true
				}
			}
		}
		if !again {
			o.faults = append(o.faults, o.explain(err)...)
			return nil, nil
		}
	}
}

// load gives the project to compose-go.
func (p *Project) load(name string, env map[string]string, profiles []string) (loaded *types.Project, err error) {
	defer func() {
		// compose-go trusts its input; a file that it stumbles over is not our end.
		if r := recover(); r != nil {
			loaded, err = nil, fmt.Errorf("the file is not understood: %v", r)
		}
	}()
	main := p.sources[0]
	content, err := os.ReadFile(filepath.Join(p.dir, main.name))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", main.name, err)
	}
	var model map[string]any
	if err := yaml.Unmarshal(content, &model); err != nil {
		return nil, err
	}
	delete(model, "version")
	delete(model, "x-bulkhead")
	delete(model, "name")
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  p.dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(p.dir, main.name), Config: model}},
		Environment: maps.Clone(env),
	}, func(o *loader.Options) {
		o.SetProjectName(name, true)
		o.Profiles = profiles
		o.ResolvePaths = false // paths stay relative to the project
		o.SkipResolveEnvironment = true
		o.SkipResolveLabels = true
		o.Interpolate = &interp.Options{
			Substitute:      p.substitute,
			LookupValue:     o.Interpolate.LookupValue,
			TypeCastMapping: o.Interpolate.TypeCastMapping,
		}
	})
}

// substitute fills in the variables of a text. A required one that is no setting
// stands where its value does not matter, such as in a build section.
func (p *Project) substitute(text string, lookup template.Mapping) (string, error) {
	for {
		result, err := template.SubstituteWithOptions(text, lookup, template.WithoutLogging)
		var missing *template.MissingRequiredError
		if !errors.As(err, &missing) || p.schema.has(missing.Variable) {
			return result, err
		}
		outer := lookup
		lookup = func(name string) (string, bool) {
			if name == missing.Variable {
				return "-", true
			}
			return outer(name)
		}
	}
}

// leaves are the single errors that were joined into err.
func leaves(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && strings.Contains(err.Error(), "\n") {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, leaves(e)...)
		}
		return all
	}
	return []error{err}
}

var (
	validatingPattern = regexp.MustCompile(`^validating .*?\.ya?ml: `)
	placePattern      = regexp.MustCompile(`\b(services|networks|volumes|configs|secrets|include)\.[\w.\[\]-]*\w`)
	servicePattern    = regexp.MustCompile(`(?:[Ss]ervice) "([^"]+)"|dependency cycle detected: ([^\s]+)`)
	needlePattern     = regexp.MustCompile(`undefined (?:service|network|volume|config|secret|build secret) "?([\w.-]+)`)
)

// explain turns an error of compose-go into faults with file and line.
func (p *Project) explain(err error) []bulkhead.Fault {
	var faults []bulkhead.Fault
	for _, leaf := range leaves(err) {
		text := validatingPattern.ReplaceAllString(leaf.Error(), "")
		text = strings.ReplaceAll(text, p.dir+string(filepath.Separator), "")
		text = strings.TrimSuffix(oneLine(text), ": invalid compose project")
		place, needle := "", ""
		if m := interpolatingPattern.FindStringSubmatch(text); m != nil {
			place = m[1]
			var template *template.InvalidTemplateError
			if errors.As(leaf, &template) {
				text, needle = fmt.Sprintf("%s: %q is no variable; write $$ for a plain $", place, template.Template), template.Template
			} else {
				_, text, _ = strings.Cut(text, place+": ")
				text = place + ": " + text
			}
		} else if strings.HasPrefix(text, "include") {
			place = "include"
		} else if m := placePattern.FindString(text); m != "" {
			place = m
			if rest, ok := strings.CutPrefix(text, place+" "); ok {
				text = place + ": " + rest
			}
		} else if m := servicePattern.FindStringSubmatch(text); m != nil {
			place = "services." + m[1] + m[2]
			if strings.Contains(text, "depend") {
				place += ".depends_on"
			}
			text = place + ": " + text
		}
		if m := needlePattern.FindStringSubmatch(text); m != nil {
			needle = m[1]
		}
		faults = append(faults, bulkhead.Fault{Where: p.where(place, needle), Message: text})
	}
	return faults
}

// where is the file and line of a place such as "services.web.ports" in whichever
// file goes furthest along it.
func (p *Project) where(place, needle string) string {
	best, where := -1, ""
	var steps []string
	for step := range strings.SplitSeq(strings.NewReplacer("[", ".", "]", "").Replace(place), ".") {
		if step != "" {
			steps = append(steps, step)
		}
	}
	for _, s := range p.sources {
		// A service's name may hold dots: join what makes up a known one.
		if services := get(s.root, "services"); services != nil && len(steps) > 2 && steps[0] == "services" {
			for i := len(steps); i > 2; i-- {
				if joined := strings.Join(steps[1:i], "."); get(services, joined) != nil {
					steps = slices.Concat([]string{"services", joined}, steps[i:])
					break
				}
			}
		}
		if line, went := s.find(steps, needle); went > best {
			best, where = went, fmt.Sprintf("%s:%d", s.name, line)
		}
	}
	return where
}

// services checks what a stamp with every module would run.
func (o *opening) services(loaded *types.Project) {
	if len(loaded.Services) > maxServices {
		o.fault(o.where("services", ""), "services: %d of them; at most %d", len(loaded.Services), maxServices)
	}
	for _, key := range sortedKeys(loaded.Services) {
		s := loaded.Services[key]
		place := "services." + key
		if err := bulkhead.ServiceName(key).Validate(); err != nil {
			o.fault(o.where(place, ""), "%s: %s", place, err)
			continue
		}
		reference := s.Image
		if reference == "" {
			reference = fmt.Sprintf("%s-%s", o.projectName(), key)
		}
		if _, err := name.ParseReference(reference, name.WeakValidation); err != nil {
			o.fault(o.where(place+".image", ""), "%s.image: %q is not the name of an image; a variable in it needs a default", place, reference)
		}
		o.images[key] = reference
		o.Images = append(o.Images, ImageRef{Service: bulkhead.ServiceName(key), Reference: reference, Build: s.Build != nil})
	}
	for _, kind := range []struct {
		name string
		keys []string
	}{
		{"volumes", sortedKeys(loaded.Volumes)},
		{"networks", sortedKeys(loaded.Networks)},
		{"configs", sortedKeys(loaded.Configs)},
		{"secrets", sortedKeys(loaded.Secrets)},
	} {
		for _, key := range kind.keys {
			if err := bulkhead.ServiceName(key).Validate(); err != nil {
				place := kind.name + "." + key
				o.fault(o.where(place, ""), "%s: use letters, digits, dots, hyphens and underscores, at most 63 bytes", place)
			}
		}
	}
}

// projectName is the name that Docker Compose gives the project.
func (o *opening) projectName() string {
	if n := get(o.sources[0].root, "name"); n != nil {
		return loader.NormalizeProjectName(n.Value)
	}
	if name := loader.NormalizeProjectName(filepath.Base(o.dir)); o.Product == bulkhead.ProductName(bulkhead.ServiceName(name).Label()) {
		return name
	}
	return string(o.Product)
}

func sortedKeys[M ~map[K]V, K cmp.Ordered, V any](m M) []K {
	return slices.Sorted(maps.Keys(m))
}
