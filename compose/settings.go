package compose

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/template"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"go.yaml.in/yaml/v4"
)

const (
	maxSettings = 256
	maxSetting  = 64 << 10 // bytes of one value
	maxGenerate = 256      // characters
)

// reservedPrefix begins the variables that the platform sets.
const reservedPrefix = "BULKHEAD_"

// builtIn are the variables that every stamp has.
var builtIn = []string{"BULKHEAD_STAMP", "BULKHEAD_HOST", "BULKHEAD_DOMAIN", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES"}

// schema is the JSON Schema of a product's settings, and what of it Bulkhead
// itself acts on.
type schema struct {
	// derived from the variables of the file: defaults are then notes for people,
	// and what Compose makes of an unset variable applies.
	derived    bool
	document   map[string]any
	properties map[string]*property
	compiled   *jsonschema.Schema
}

// property is one setting.
type property struct {
	Type     any         `json:"type"` // a word or a list of them
	Default  any         `json:"default"`
	Enum     []any       `json:"enum"`
	Minimum  json.Number `json:"minimum"`
	Secret   bool        `json:"secret"`
	Generate int         `json:"generate"`
}

// schemaProperties is the part of a schema's JSON that Bulkhead itself reads.
type schemaProperties struct {
	Properties map[string]*property `json:"properties"`
}

func (s *schema) has(name string) bool { return s != nil && s.properties[name] != nil }

// types are the JSON types that a setting may have; none means any.
func (p *property) types() []string {
	switch t := p.Type.(type) {
	case string:
		return []string{t}
	case []any:
		var list []string
		for _, item := range t {
			list = append(list, fmt.Sprint(item))
		}
		return list
	}
	return nil
}

// standIns are values that a setting without a default is given while a project
// is checked, most likely first.
func (s *schema) standIns(name string) []string {
	p := s.properties[name]
	switch {
	case p == nil:
		return nil
	case p.Secret:
		return nil // it stands for itself
	case len(p.Enum) > 0:
		var list []string
		for _, value := range p.Enum {
			list = append(list, settingText(value))
		}
		return list
	case p.Minimum != "":
		return []string{p.Minimum.String()}
	}
	return []string{"example", "1", "true", "10s", "64m"}
}

// need makes a setting of a derived schema required.
func (s *schema) need(name string) {
	required, _ := s.document["required"].([]any)
	if s.derived && !slices.Contains(required, any(name)) {
		required = append(required, name)
		slices.SortFunc(required, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		s.document["required"] = required
	}
}

// settings makes the schema: that of x-bulkhead, or one of the variables.
func (o *opening) settings(main *source) {
	o.envFileUses()
	x := o.extension(main)
	o.placement(main, x.placement)
	var document map[string]any
	if x.settings != nil {
		document = o.explicit(main, x.settings)
	} else {
		document = o.variables()
	}
	if len(o.faults) > o.denied {
		return
	}
	where := main.at(main.root)
	if x.settings != nil {
		where = main.at(x.settings)
	}
	s, err := newSchema(document)
	if err != nil {
		o.fault(where, "x-bulkhead.settings: %s", oneLine(err.Error()))
		return
	}
	s.derived = x.settings == nil
	o.schema = s
	o.checkProperties(main, x.settings)
	o.checkUses()
}

// newSchema compiles a schema.
func newSchema(document map[string]any) (*schema, error) {
	encoded, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	s := &schema{document: document}
	var parts schemaProperties
	if err := json.Unmarshal(encoded, &parts); err != nil {
		return nil, err
	}
	s.properties = parts.Properties
	plain, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource("settings.json", plain); err != nil {
		return nil, err
	}
	if s.compiled, err = compiler.Compile("settings.json"); err != nil {
		return nil, err
	}
	return s, nil
}

// noLoader keeps a schema from reaching out for others.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s: a schema of settings stands on its own", url)
}

// explicit reads x-bulkhead.settings: a whole schema, or its properties alone.
func (o *opening) explicit(main *source, n *yaml.Node) map[string]any {
	value, _ := jsonValue(n).(map[string]any)
	if n.Kind != yaml.MappingNode || value == nil {
		o.fault(main.at(n), "x-bulkhead.settings: a mapping of settings, or a JSON Schema with properties")
		return nil
	}
	document := map[string]any{}
	if _, whole := value["properties"].(map[string]any); whole {
		document = value
	} else {
		required := []any{}
		for _, name := range sortedKeys(value) {
			p, ok := value[name].(map[string]any)
			if value[name] == nil {
				p, ok, value[name] = map[string]any{}, true, map[string]any{}
			}
			if !ok {
				o.fault(main.at(get(n, name)), "x-bulkhead.settings.%s: a mapping such as {type: string, default: …}", name)
				continue
			}
			if needed, ok := p["required"].(bool); ok {
				if delete(p, "required"); needed {
					required = append(required, name)
				}
			}
			if _, ok := p["type"]; !ok && p["enum"] == nil && p["$ref"] == nil {
				p["type"] = "string"
			}
			value[name] = p
		}
		document["properties"] = value
		document["required"] = required
	}
	document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	document["type"] = "object"
	if _, ok := document["additionalProperties"]; !ok {
		document["additionalProperties"] = false
	}
	return document
}

// jsonValue is a YAML node as JSON has it: dates and the like stay texts.
func jsonValue(n *yaml.Node) any {
	n = target(n)
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for _, e := range entries(n) {
			m[e.key.Value] = jsonValue(e.value)
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			list = append(list, jsonValue(item))
		}
		return list
	}
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		var value any
		if err := n.Decode(&value); err == nil {
			if _, err := json.Marshal(value); err == nil { // not .inf
				return value
			}
		}
	}
	return n.Value
}

// variables derives a schema from the variables of the file.
func (o *opening) variables() map[string]any {
	properties := map[string]any{}
	required := []any{}
	byName := o.byName()
	for _, name := range sortedKeys(byName) {
		uses := byName[name]
		if slices.Contains(builtIn, name) || o.isImageOnly(uses) || strings.HasPrefix(name, reservedPrefix) {
			continue
		}
		p := map[string]any{"type": "string"}
		secret := looksSecret(name) && !slices.ContainsFunc(uses, func(u use) bool { return !secretPlace(u.row) })
		needed := slices.ContainsFunc(uses, func(u use) bool { return u.Required })
		fallback, given := o.dotenv[name]
		for _, u := range uses {
			if value, ok := u.env[name]; ok && !given {
				fallback, given = value, true
			}
			if u.DefaultValue != "" && !strings.Contains(u.DefaultValue, "$") && !given {
				fallback, given = u.DefaultValue, true
			}
		}
		switch _, inDotenv := o.dotenv[name]; {
		case secret:
			p["secret"] = true
			if inDotenv {
				delete(o.dotenv, name)
				o.files.withheld = append(o.files.withheld, name)
				o.warn(".env:1", "%s: not shipped, because every stamp has secrets of its own: it becomes a required setting", name)
				needed = true
			}
		case given:
			p["default"] = fallback
			needed = false
		}
		if needed {
			required = append(required, name)
		}
		properties[name] = p
	}
	slices.SortFunc(required, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	return map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
		"properties": properties, "required": required, "additionalProperties": false,
	}
}

func (o *opening) byName() map[string][]use {
	byName := map[string][]use{}
	for _, u := range o.uses {
		byName[u.Name] = append(byName[u.Name], u)
	}
	return byName
}

// isImageOnly tells variables that are filled in once, when a release is made.
func (o *opening) isImageOnly(uses []use) bool {
	return !slices.ContainsFunc(uses, func(u use) bool { return u.row != "services.*.image" })
}

func secretPlace(row string) bool {
	return slices.ContainsFunc(secretPlaces, func(place string) bool { return row == place || strings.HasPrefix(row, place+".") })
}

// looksSecret guesses from its name that a variable holds a secret.
func looksSecret(name string) bool {
	words := strings.Split(strings.ToUpper(name), "_")
	last := words[len(words)-1]
	if slices.Contains([]string{"FILE", "PATH", "DIR", "URL", "NAME", "TTL", "LENGTH"}, last) || slices.Contains(words, "PUBLIC") {
		return false
	}
	for _, w := range words {
		if strings.HasSuffix(w, "PASSWORD") || strings.HasSuffix(w, "SECRET") || slices.Contains([]string{"PASSWD", "PASSPHRASE", "SECRETS"}, w) {
			return true
		}
	}
	return slices.Contains([]string{"PASS", "PW", "PWD", "KEY", "APIKEY", "TOKEN", "CREDENTIAL", "CREDENTIALS"}, last)
}

// checkProperties holds the settings to Bulkhead's own rules.
func (o *opening) checkProperties(main *source, n *yaml.Node) {
	if len(o.schema.properties) > maxSettings {
		o.fault(main.at(main.root), "settings: %d of them; at most %d", len(o.schema.properties), maxSettings)
	}
	at := func(name string) string {
		place := n
		if p := get(n, "properties"); p != nil {
			place = p
		}
		if place != nil {
			for _, e := range entries(place) {
				if e.key.Value == name {
					return main.at(e.key)
				}
			}
		}
		return main.at(main.root)
	}
	defaults := map[string]any{}
	for _, name := range sortedKeys(o.schema.properties) {
		p := o.schema.properties[name]
		place := "x-bulkhead.settings." + name
		if p == nil {
			o.fault(at(name), "%s: a mapping such as {type: string, default: …}", place)
			continue
		}
		switch {
		case !variablePattern.MatchString(name):
			o.fault(at(name), "%s: not the name of a variable; use letters, digits and _", place)
		case strings.HasPrefix(name, reservedPrefix) || slices.Contains(builtIn, name):
			o.fault(at(name), "%s: the platform sets this variable itself; choose another name", place)
		case p.Secret && !slices.Equal(p.types(), []string{"string"}):
			o.fault(at(name), "%s: a secret is of type string", place)
		case p.Generate != 0 && !p.Secret:
			o.fault(at(name), "%s: generate makes secrets; add secret: true", place)
		case p.Generate < 0 || p.Generate > maxGenerate:
			o.fault(at(name), "%s: generate: %d; give a number of characters from 1 to %d", place, p.Generate, maxGenerate)
		}
		if _, given := o.dotenv[name]; given && p.Secret {
			delete(o.dotenv, name)
			o.files.withheld = append(o.files.withheld, name)
		}
		if p.Default != nil {
			defaults[name] = p.Default
		}
	}
	for name, message := range o.schema.validate(defaults) {
		if _, ok := defaults[name]; ok {
			o.fault(at(name), "x-bulkhead.settings.%s: its default: %s", name, message)
		}
	}
}

// checkUses holds the variables of the file against the settings.
func (o *opening) checkUses() {
	for _, u := range o.uses {
		_, given := o.dotenv[u.Name]
		switch {
		case slices.Contains(builtIn, u.Name):
		case strings.HasPrefix(u.Name, reservedPrefix):
			o.fault(u.where, "%s: no such variable of the platform; there are %s", u.Name, strings.Join(builtIn, ", "))
		case u.row == "services.*.image":
			o.warn(u.where, "%s: %s is filled in when a release is made, not per stamp", u.path, u.Name)
		case o.schema.has(u.Name):
			if o.schema.properties[u.Name].Secret && !secretPlace(u.row) {
				o.fault(u.where, "%s: %s is secret, and this would show it; use it in environment, command, entrypoint, healthcheck, configs or secrets", u.path, u.Name)
			}
		case given || u.env[u.Name] != "":
		case u.Required:
			o.fault(u.where, "%s: %s is required, but not among x-bulkhead.settings; add it there", u.path, u.Name)
		case u.DefaultValue == "" && u.PresenceValue == "":
			o.warn(u.where, "%s: %s is not among x-bulkhead.settings and has no default, so it is empty", u.path, u.Name)
		}
	}
}

// envFileUses adds the variables that values in env files hold.
func (o *opening) envFileUses() {
	for _, s := range o.sources {
		services := get(s.root, "services")
		if services == nil {
			continue
		}
		for _, service := range entries(services) {
			list := scalars(get(service.value, "env_file"))
			if n := get(service.value, "env_file"); n != nil && n.Kind == yaml.SequenceNode {
				for _, item := range n.Content {
					list = append(list, scalars(get(item, "path"))...)
				}
			}
			var environment any
			if n := get(service.value, "environment"); n != nil {
				environment = jsonValue(n)
			}
			for _, n := range list {
				name, err := local(s.base, n.Value)
				if err != nil {
					continue // the next gate refuses it
				}
				content, err := readFile(o.root, name)
				if err != nil {
					continue
				}
				own := map[string]string{}
				_ = readEnv(o.root, name, "", own, nil)
				number := 0
				for line := range strings.Lines(string(content)) {
					number++
					_, text, ok := strings.Cut(line, "=")
					if !ok || strings.HasPrefix(strings.TrimSpace(line), "#") || strings.HasPrefix(strings.TrimSpace(text), "'") {
						continue
					}
					for _, v := range template.ExtractVariables(map[string]any{"": text}, nil) {
						if _, ok := own[v.Name]; ok || mentions(environment, v.Name) {
							continue
						}
						o.uses = append(o.uses, use{Variable: v, where: fmt.Sprintf("%s:%d", name, number), path: name, row: "services.*.env_file", env: s.env})
					}
				}
			}
		}
	}
	slices.SortStableFunc(o.uses, func(a, b use) int { return comparePlaces(a.where, b.where) })
}

// mentions tells whether an environment, as list or mapping, sets name.
func mentions(environment any, name string) bool {
	switch e := environment.(type) {
	case map[string]any:
		return e[name] != nil
	case []any:
		return slices.ContainsFunc(e, func(item any) bool { return strings.HasPrefix(fmt.Sprint(item), name+"=") })
	}
	return false
}

// finish puts the schema into the project, once it is known what it needs.
func (o *opening) finish() {
	encoded, err := json.Marshal(o.schema.document)
	if err == nil {
		o.Settings = encoded
		derived := o.schema.derived
		if o.schema, err = newSchema(o.schema.document); err == nil {
			o.schema.derived = derived
		}
	}
	if err != nil {
		o.fault(o.sources[0].name, "settings: %s", oneLine(err.Error()))
	}
}

// validate returns what is wrong with each of values, by setting.
func (s *schema) validate(values map[string]any) map[string]string {
	err := s.compiled.Validate(values)
	var invalid *jsonschema.ValidationError
	if err == nil {
		return nil
	} else if !errors.As(err, &invalid) {
		return map[string]string{"": oneLine(err.Error())}
	}
	faults := map[string]string{}
	add := func(name, message string) {
		if faults[name] == "" {
			faults[name] = message
		} else if !strings.Contains(faults[name], message) {
			faults[name] += "; or " + message
		}
	}
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) > 0 {
			for _, cause := range e.Causes {
				walk(cause)
			}
			return
		}
		name := strings.Join(e.InstanceLocation, ".")
		switch k := e.ErrorKind.(type) {
		case *kind.Required:
			for _, missing := range k.Missing {
				add(join(name, missing), "required, but not set")
			}
		case *kind.AdditionalProperties:
			for _, extra := range k.Properties {
				add(join(name, extra), s.unknown())
			}
		default:
			if out := e.DetailedOutput(); out.Error != nil {
				add(name, out.Error.String())
			} else {
				add(name, oneLine(e.Error()))
			}
		}
	}
	walk(invalid)
	return faults
}

func (s *schema) unknown() string {
	if len(s.properties) == 0 {
		return "no such setting; this product has none"
	}
	return "no such setting; there are " + strings.Join(sortedKeys(s.properties), ", ")
}

// settingText is the value of a setting as variables have it: texts as they
// are, anything else as JSON.
func settingText(value any) string {
	if s, ok := value.(string); ok {
		return s
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(encoded)
}

// check validates what a stamp sets and completes it: secrets are given apart,
// generated where the schema asks for it. Faults are of the form
// {"settings.COLOR", "…"}.
func (s *schema) check(given map[string]json.RawMessage, kept map[string]string) (public map[string]json.RawMessage, secrets map[string]string, faults []bulkhead.Fault) {
	public, secrets = map[string]json.RawMessage{}, map[string]string{}
	all := map[string]any{}
	fault := func(name, message string) {
		faults = append(faults, bulkhead.Fault{Where: "settings." + name, Message: message})
	}
	fallback := func(name string, p *property) {
		if all[name] = p.Default; p.Secret {
			secrets[name] = settingText(p.Default)
		}
	}
	for name, p := range s.properties {
		if value, ok := kept[name]; ok && p.Secret {
			all[name], secrets[name] = value, value
		} else if p.Default != nil {
			fallback(name, p)
		}
	}
	for _, name := range sortedKeys(given) {
		raw := given[name]
		if len(raw) > maxSetting {
			fault(name, fmt.Sprintf("larger than %d KiB", maxSetting>>10))
			continue
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			fault(name, "not JSON")
			continue
		}
		p := s.properties[name]
		if value == nil {
			delete(all, name) // null takes a setting back
			delete(secrets, name)
			if p == nil {
				fault(name, s.unknown())
			} else if p.Default != nil {
				fallback(name, p)
			}
			continue
		}
		all[name] = value
		text := settingText(value)
		switch {
		case strings.Contains(text, secretMark):
			fault(name, "it holds "+secretMark+"…, which stands for secrets")
		case p != nil && p.Secret:
			secrets[name] = text
		default:
			public[name] = raw
		}
	}
	for name, p := range s.properties {
		if _, ok := all[name]; !ok && p.Generate > 0 {
			secrets[name] = generate(p.Generate)
			all[name] = secrets[name]
		}
	}
	problems := s.validate(all)
	for _, name := range sortedKeys(problems) {
		fault(name, problems[name])
	}
	return public, secrets, faults
}

// secretMark begins every SecretRef.
var secretMark = strings.SplitAfter(bulkhead.SecretRef(":"), ":")[0]

// generate makes n random letters and digits.
func generate(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(rand.Text())
	}
	return b.String()[:n]
}

// environment is what the variables of a stamp stand for.
func (p *Project) environment(public map[string]json.RawMessage, in Inputs) map[string]string {
	env := maps.Clone(p.dotenv)
	if p.schema != nil {
		for name, property := range p.schema.properties {
			if property.Default != nil && !property.Secret && !p.schema.derived {
				env[name] = settingText(property.Default)
			}
		}
	}
	for name, raw := range public {
		var value any
		if json.Unmarshal(raw, &value) == nil && value != nil {
			env[name] = string(raw)
			if text, ok := value.(string); ok {
				env[name] = text
			}
		}
	}
	for name, value := range in.Secrets {
		if env[name] = value; value != "" {
			env[name] = bulkhead.SecretRef(name)
		}
	}
	env["BULKHEAD_STAMP"] = string(in.Stamp)
	env["BULKHEAD_DOMAIN"] = string(in.Domain)
	env["BULKHEAD_HOST"] = string(in.Stamp) + "." + string(in.Domain)
	env["COMPOSE_PROFILES"] = strings.Join(p.active(in.Modules), ",")
	return env
}

// ParseSetting turns a value typed by a person, such as K=V on a command line,
// into the JSON that the schema of the settings wants: true for a boolean, 5
// for an integer, ["a","b"] or a,b for a list. It does not validate the value
// otherwise. Errors are of kind ErrInvalid.
func ParseSetting(settings json.RawMessage, name, text string) (json.RawMessage, error) {
	var parts schemaProperties
	if err := json.Unmarshal(settings, &parts); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	p := parts.Properties[name]
	if p == nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "settings.%s: %s", name, (&schema{properties: parts.Properties}).unknown())
	}
	types := p.types()
	if len(types) == 0 || slices.Contains(types, "string") {
		return json.Marshal(text)
	}
	if slices.Contains(types, "array") && !strings.HasPrefix(strings.TrimSpace(text), "[") {
		return json.Marshal(strings.Split(text, ","))
	}
	if !json.Valid([]byte(text)) {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "settings.%s: %q is not of type %s", name, text, strings.Join(types, " or "))
	}
	return json.RawMessage(strings.TrimSpace(text)), nil
}
