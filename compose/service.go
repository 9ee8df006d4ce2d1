package compose

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/types"
)

const (
	leastMemory = 6 << 20  // bytes; less starts no process
	maxInline   = 64 << 10 // bytes of a file that is mounted with an owner or mode of its own
)

// service freezes one service.
func (f *freezing) service(key string, s types.ServiceConfig) bulkhead.Service {
	place := "services." + key
	refuse := func(attribute, needle, format string, args ...any) {
		where := place + "." + attribute
		f.fault(f.where(where, needle), "%s: %s", where, fmt.Sprintf(format, args...))
	}
	image := f.images[bulkhead.ServiceName(key)]
	if image.Reference == "" {
		image.Reference = f.Project.images[key]
	}
	if f.strict && image.Digest == "" {
		refuse("image", "", "the release has no image for this service; publish it again")
	}
	out := bulkhead.Service{
		Name:       bulkhead.ServiceName(key),
		Image:      image,
		Replicas:   s.GetScale(),
		Entrypoint: s.Entrypoint,
		Command:    s.Command,
		WorkingDir: s.WorkingDir,
		User:       s.User,
		Hostname:   cmp.Or(s.Hostname, bulkhead.ServiceName(key).Label()),
		ReadOnly:   s.ReadOnly,
		Init:       s.Init != nil && *s.Init,
		StopSign:   signal(cmp.Or(s.StopSignal, image.StopSignal, "SIGTERM")),
		StopGrace:  10 * time.Second,
		Ports:      tcpPorts(s),
	}
	if out.Replicas > maxReplicas {
		refuse("deploy.replicas", "", "%d tasks; at most %d", out.Replicas, maxReplicas)
	}
	if len(out.Hostname) > 63 || !prefixPattern.MatchString(strings.ToLower(out.Hostname)) {
		refuse("hostname", "", "%q is no host name; use letters, digits and hyphens, at most 63 bytes", out.Hostname)
	}
	if s.WorkingDir != "" && !path.IsAbs(s.WorkingDir) {
		refuse("working_dir", "", "%q is not absolute; begin it with /", s.WorkingDir)
	}
	if s.StopGracePeriod != nil {
		out.StopGrace = time.Duration(*s.StopGracePeriod)
	}
	if out.StopGrace < 0 || out.StopGrace > time.Hour {
		refuse("stop_grace_period", "", "%s; at most 1h", out.StopGrace)
	}
	if len(out.Ports) == 0 {
		out.Ports = slices.Clone(image.Ports)
		slices.Sort(out.Ports)
	}
	if !strings.HasPrefix(out.StopSign, "SIG") {
		if _, err := strconv.Atoi(out.StopSign); err != nil {
			refuse("stop_signal", "", "%q is no signal; write SIGTERM, SIGINT, …", s.StopSignal)
		}
	}
	out.Environment = f.environmentOf(s, refuse)
	out.Labels = f.labelsOf(s, refuse)
	out.Networks = f.networks(key, s)
	out.ExtraHosts = f.extraHosts(s, refuse)
	out.DependsOn = f.dependsOn(s)
	out.Health = health(s.HealthCheck, image.Health)
	out.Restart = restart(s, refuse)
	out.Budget = budget(s, refuse)
	out.Budget.Extras = extras(s, refuse)
	out.Ulimits = ulimits(s)
	out.CapDrop = capDrop(s)
	out.Mounts = f.mounts(key, s, image, refuse)
	out.Secrets = f.secretsOf(out, refuse)
	return out
}

// refuseFunc notes a fault of an attribute of a service; needle finds the line.
type refuseFunc func(attribute, needle, format string, args ...any)

// signal spells a signal with SIG, and leaves numbers alone.
func signal(s string) string {
	s = strings.ToUpper(s)
	if _, err := strconv.Atoi(s); err != nil && !strings.HasPrefix(s, "SIG") && len(s) <= 6 {
		return "SIG" + s
	}
	return s
}

// environmentOf is env_file, each over the ones before, and environment over all.
func (f *freezing) environmentOf(s types.ServiceConfig, refuse refuseFunc) map[string]string {
	env := map[string]string{}
	lookup := func(name string) (string, bool) {
		if value, ok := f.env[name]; ok {
			return value, true
		}
		if value := s.Environment[name]; value != nil {
			return *value, true
		}
		return "", false
	}
	for _, file := range s.EnvFiles {
		name, err := f.file(file.Path)
		if err == nil {
			err = readEnv(f.root, name, file.Format, env, lookup)
		}
		if err != nil && (bool(file.Required) || !errors.Is(err, fs.ErrNotExist)) {
			refuse("env_file", path.Base(file.Path), "%q: %s", file.Path, fileProblem(err))
		}
	}
	for name, value := range s.Environment {
		if value != nil {
			env[name] = *value
		} else {
			delete(env, name) // "- NAME" without a value unsets it
		}
	}
	for name := range env {
		if strings.ContainsAny(name, "=\x00") || name == "" || strings.Contains(name, secretMark) {
			refuse("environment", name, "%q is no name of a variable", name)
		}
	}
	return orNil(env)
}

// file is the name in the bundle of a path that the project refers to.
func (f *freezing) file(name string) (string, error) {
	clean, err := local(".", filepath.ToSlash(name))
	if err != nil {
		return "", err
	}
	if !f.files.has(clean) {
		return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return clean, nil
}

// digest addresses a file or folder of the bundle: the SHA-256 of its tar.
func (f *freezing) digest(name string, failed func(error)) string {
	sum := sha256.New()
	t := tar.NewWriter(sum)
	for _, n := range sortedKeys(f.files.names) {
		if n != name && n != name+"/" && !strings.HasPrefix(n, name+"/") && name != "." {
			continue
		}
		if err := f.bundleFile(t, f.root, n, f.files.names[n]); err != nil {
			failed(err)
			return ""
		}
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

func (f *freezing) labelsOf(s types.ServiceConfig, refuse refuseFunc) map[string]string {
	labels := map[string]string{}
	for _, file := range s.LabelFiles {
		name, err := f.file(file)
		if err == nil {
			err = readEnv(f.root, name, "", labels, func(string) (string, bool) { return "", false })
		}
		if err != nil {
			refuse("label_file", path.Base(file), "%q: %s", file, fileProblem(err))
		}
	}
	maps.Copy(labels, s.Labels)
	return orNil(labels)
}

func orNil[M ~map[K]V, K comparable, V any](m M) M {
	if len(m) == 0 {
		return nil
	}
	return m
}

func (f *freezing) networks(key string, s types.ServiceConfig) []bulkhead.Attachment {
	if s.NetworkMode == "none" {
		// A network of its own: nothing knows the service by name, nor it anything.
		return []bulkhead.Attachment{{Network: bulkhead.NetworkName("none." + key)}}
	}
	var list []bulkhead.Attachment
	for _, name := range sortedKeys(s.Networks) {
		a := bulkhead.Attachment{Network: bulkhead.NetworkName(name)}
		if config := s.Networks[name]; config != nil {
			a.Aliases = config.Aliases
		}
		list = append(list, a)
	}
	if len(list) == 0 {
		list = []bulkhead.Attachment{{Network: "default"}}
	}
	return list
}

func (f *freezing) extraHosts(s types.ServiceConfig, refuse refuseFunc) map[string]string {
	hosts := map[string]string{}
	for _, name := range sortedKeys(s.ExtraHosts) {
		addresses := s.ExtraHosts[name]
		switch {
		case slices.Contains(addresses, "host-gateway"):
			refuse("extra_hosts", name, "%s: a stamp cannot reach the machine that it runs on; remove it", name)
		case len(addresses) != 1:
			refuse("extra_hosts", name, "%s: give one address", name)
		default:
			if _, err := netip.ParseAddr(addresses[0]); err != nil {
				refuse("extra_hosts", name, "%s: %q is no IP address", name, addresses[0])
			}
			hosts[name] = addresses[0]
		}
	}
	return orNil(hosts)
}

func (f *freezing) dependsOn(s types.ServiceConfig) []bulkhead.Dependency {
	var list []bulkhead.Dependency
	for _, name := range sortedKeys(s.DependsOn) {
		if _, runs := f.loaded.Services[name]; !runs {
			continue // of a module that the stamp lacks
		}
		d := s.DependsOn[name]
		list = append(list, bulkhead.Dependency{
			Service:   bulkhead.ServiceName(name),
			Condition: bulkhead.Condition(cmp.Or(d.Condition, types.ServiceConditionStarted)),
			Required:  d.Required,
			Restart:   d.Restart,
		})
	}
	return list
}

// health is the service's probe over the image's, field by field.
func health(h *types.HealthCheckConfig, image *bulkhead.Health) *bulkhead.Health {
	if h != nil && (h.Disable || len(h.Test) > 0 && h.Test[0] == "NONE") {
		return &bulkhead.Health{Test: []string{"NONE"}}
	}
	out := bulkhead.Health{}
	if image != nil {
		out = *image
	}
	if h != nil {
		if len(h.Test) > 0 {
			out.Test = h.Test
		}
		for _, field := range []struct {
			to   *time.Duration
			from *types.Duration
		}{
			{&out.Interval, h.Interval}, {&out.Timeout, h.Timeout}, {&out.StartPeriod, h.StartPeriod}, {&out.StartInterval, h.StartInterval},
		} {
			if field.from != nil {
				*field.to = time.Duration(*field.from)
			}
		}
		if h.Retries != nil {
			out.Retries = int(min(*h.Retries, math.MaxInt32))
		}
	}
	if len(out.Test) == 0 {
		return nil
	}
	out.Interval = cmp.Or(max(out.Interval, 0), 30*time.Second)
	out.Timeout = cmp.Or(max(out.Timeout, 0), 30*time.Second)
	out.Retries = cmp.Or(max(out.Retries, 0), 3)
	out.StartPeriod, out.StartInterval = max(out.StartPeriod, 0), max(out.StartInterval, 0)
	return &out
}

// restart is deploy.restart_policy, else restart. A service that says neither is
// restarted when it fails: a customer waits for it.
func restart(s types.ServiceConfig, refuse refuseFunc) bulkhead.Restart {
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		p := s.Deploy.RestartPolicy
		out := bulkhead.Restart{}
		switch p.Condition {
		case "", "any":
			out.Policy = bulkhead.RestartAlways
		case "on-failure":
			out.Policy = bulkhead.RestartOnFailure
		case "none":
			out.Policy = bulkhead.RestartNo
		default:
			refuse("deploy.restart_policy.condition", "", "%q; use none, on-failure or any", p.Condition)
		}
		if p.Delay != nil {
			out.Delay = max(time.Duration(*p.Delay), 0)
		}
		if p.MaxAttempts != nil {
			out.Attempts = int(min(*p.MaxAttempts, math.MaxInt32))
		}
		return out
	}
	policy, attempts, counted := strings.Cut(s.Restart, ":")
	out := bulkhead.Restart{}
	switch policy {
	case "":
		out.Policy = bulkhead.RestartOnFailure
	case "no":
		out.Policy = bulkhead.RestartNo
	case "always", "unless-stopped":
		out.Policy = bulkhead.RestartAlways
	case "on-failure":
		out.Policy = bulkhead.RestartOnFailure
	default:
		refuse("restart", "", "%q; use no, on-failure, always or unless-stopped", s.Restart)
	}
	if counted {
		n, err := strconv.ParseUint(attempts, 10, 31)
		if err != nil || policy != "on-failure" {
			refuse("restart", "", "%q; a number of attempts goes with on-failure, such as on-failure:3", s.Restart)
		}
		out.Attempts = int(n)
	}
	return out
}

// budget is deploy.resources, else the older attributes, else the default.
func budget(s types.ServiceConfig, refuse refuseFunc) bulkhead.Budget {
	out := bulkhead.DefaultBudget()
	limits, reservations := types.Resource{}, types.Resource{}
	if s.Deploy != nil {
		if l := s.Deploy.Resources.Limits; l != nil {
			limits = *l
		}
		if r := s.Deploy.Resources.Reservations; r != nil {
			reservations = *r
		}
	}
	cpu := cores(cmp.Or(float32(limits.NanoCPUs), s.CPUS))
	cpuRequest := cores(float32(reservations.NanoCPUs))
	memory := int64(cmp.Or(limits.MemoryBytes, s.MemLimit))
	memoryRequest := int64(cmp.Or(reservations.MemoryBytes, s.MemReservation))
	pids := cmp.Or(limits.Pids, s.PidsLimit)
	for _, amount := range []struct {
		attribute string
		value     float64
	}{
		{"deploy.resources.limits.cpus", cpu},
		{"deploy.resources.reservations.cpus", cpuRequest},
		{"deploy.resources.limits.memory", float64(memory)},
		{"deploy.resources.reservations.memory", float64(memoryRequest)},
	} {
		if amount.value < 0 || math.IsNaN(amount.value) || math.IsInf(amount.value, 0) {
			refuse(amount.attribute, "", "%v is no amount; give one above 0", amount.value)
		}
	}
	if memory > 0 && memory < leastMemory {
		refuse("deploy.resources.limits.memory", "", "%d bytes start no process; give at least 6m", memory)
	}
	if cpu > 0 && cpuRequest > cpu {
		refuse("deploy.resources.reservations.cpus", "", "%v cores are more than the limit of %v", cpuRequest, cpu)
	}
	if memory > 0 && memoryRequest > memory {
		refuse("deploy.resources.reservations.memory", "", "%d bytes are more than the limit of %d", memoryRequest, memory)
	}
	out.CPU = cmp.Or(cpu, max(out.CPU, cpuRequest))
	out.CPURequest = cmp.Or(cpuRequest, min(out.CPURequest, out.CPU))
	out.Memory = cmp.Or(memory, max(out.Memory, memoryRequest))
	out.MemoryRequest = cmp.Or(memoryRequest, min(out.MemoryRequest, out.Memory))
	if pids > 0 { // Compose's -1 lifts the limit; a stamp always has one
		out.PIDs = pids
	}
	return out
}

// cores rounds to thousandths what compose-go keeps in 32 bits.
func cores(f float32) float64 { return math.Round(float64(f)*1000) / 1000 }

func ulimits(s types.ServiceConfig) map[string]bulkhead.Ulimit {
	out := map[string]bulkhead.Ulimit{}
	for name, u := range s.Ulimits {
		switch {
		case u == nil:
		case u.Single != 0:
			out[name] = bulkhead.Ulimit{Soft: int64(u.Single), Hard: int64(u.Single)}
		default:
			out[name] = bulkhead.Ulimit{Soft: int64(u.Soft), Hard: int64(u.Hard)}
		}
	}
	return orNil(out)
}

// capDrop lists what is dropped, without CAP_. "Drop all, add some" becomes the
// list of the default ones that are not added.
func capDrop(s types.ServiceConfig) []string {
	var drop, add []string
	for _, c := range s.CapDrop {
		drop = append(drop, capability(c))
	}
	for _, c := range s.CapAdd {
		add = append(add, capability(c))
	}
	if slices.Contains(drop, "ALL") && len(add) > 0 {
		drop = slices.Clone(defaultCapabilities)
	}
	drop = slices.DeleteFunc(drop, func(c string) bool { return slices.Contains(add, c) })
	slices.Sort(drop)
	return slices.Compact(drop)
}

// mounts puts together volumes, tmpfs, configs, secrets and the image's volumes.
func (f *freezing) mounts(key string, s types.ServiceConfig, image bulkhead.Image, refuse refuseFunc) []bulkhead.Mount {
	var list []bulkhead.Mount
	add := func(attribute string, m bulkhead.Mount) {
		m.Target = path.Clean(m.Target)
		switch first, _, _ := strings.Cut(strings.TrimPrefix(m.Target, "/"), "/"); {
		case !path.IsAbs(m.Target) || m.Target == "/":
			refuse(attribute, m.Target, "%q is no place to mount at; give a path that begins with /", m.Target)
		case first == "proc" || first == "sys" || first == "dev" && m.Target != "/dev/shm":
			refuse(attribute, m.Target, "%s belongs to the system; mount elsewhere", m.Target)
		case slices.ContainsFunc(list, func(o bulkhead.Mount) bool { return o.Target == m.Target }):
			refuse(attribute, m.Target, "%s is mounted twice; remove one", m.Target)
		}
		list = append(list, m)
	}
	for _, v := range s.Volumes {
		add("volumes", f.volumeMount(key, v, refuse))
	}
	for _, text := range s.Tmpfs {
		add("tmpfs", tmpfs(text, refuse))
	}
	for _, c := range s.Configs {
		object := types.FileObjectConfig(f.loaded.Configs[c.Source])
		c.Target = cmp.Or(c.Target, c.Source)
		if !path.IsAbs(c.Target) {
			c.Target = "/" + c.Target
		}
		add("configs", f.fileMount("configs", types.FileReferenceConfig(c), object, refuse))
	}
	for _, c := range s.Secrets {
		object := types.FileObjectConfig(f.loaded.Secrets[c.Source])
		c.Target = cmp.Or(c.Target, c.Source)
		if !path.IsAbs(c.Target) {
			c.Target = "/run/secrets/" + c.Target
		}
		add("secrets", f.fileMount("secrets", types.FileReferenceConfig(c), object, refuse))
	}
	for _, target := range image.Volumes {
		target = path.Clean(target)
		if path.IsAbs(target) && !slices.ContainsFunc(list, func(o bulkhead.Mount) bool { return o.Target == target }) {
			add("image", bulkhead.Mount{Kind: bulkhead.MountVolume, Source: f.anonymous(key, target), Target: target})
		}
	}
	slices.SortStableFunc(list, func(a, b bulkhead.Mount) int { return strings.Compare(a.Target, b.Target) })
	return list
}

func (f *freezing) volumeMount(key string, v types.ServiceVolumeConfig, refuse refuseFunc) bulkhead.Mount {
	m := bulkhead.Mount{Target: v.Target, ReadOnly: v.ReadOnly}
	switch v.Type {
	case types.VolumeTypeBind:
		m.Kind, m.ReadOnly = bulkhead.MountFile, true
		name, err := f.file(v.Source)
		if err != nil {
			refuse("volumes", v.Target, "%s", describe(v.Source, err))
			return m
		}
		m.Source, m.Content = name, f.digest(name, func(err error) { refuse("volumes", v.Target, "%s", describe(v.Source, err)) })
	case types.VolumeTypeVolume:
		m.Kind, m.Source = bulkhead.MountVolume, v.Source
		if v.Source == "" {
			m.Source = f.anonymous(key, path.Clean(v.Target))
		}
		if v.Volume != nil {
			m.NoCopy = v.Volume.NoCopy
			if m.Subpath = v.Volume.Subpath; m.Subpath != "" && !filepath.IsLocal(m.Subpath) {
				refuse("volumes", v.Target, "subpath %q leaves the volume", m.Subpath)
			}
		}
	case types.VolumeTypeTmpfs:
		m.Kind = bulkhead.MountTmpfs
		if v.Tmpfs != nil {
			m.Size, m.Mode = int64(v.Tmpfs.Size), v.Tmpfs.Mode&0o7777
		}
	default:
		refuse("volumes", v.Target, "type %q cannot be mounted; use volume, bind or tmpfs", v.Type)
	}
	return m
}

// anonymous names the volume that a service has at a path without naming it.
// Slashes become dots; a path with other signs gets a hash, to stay unique.
func (f *freezing) anonymous(key, target string) string {
	exact := true
	name := key + strings.Map(func(r rune) rune {
		switch {
		case r == '/':
			return '.'
		case r < utf8.RuneSelf && (r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'):
			return r
		}
		exact = false
		return '-'
	}, target)
	if _, declared := f.loaded.Volumes[name]; exact && !declared && len(name) <= 100 {
		return name
	}
	sum := sha256.Sum256([]byte(target))
	return name[:min(len(name), 90)] + "-" + hex.EncodeToString(sum[:4])
}

// tmpfs reads "PATH" or "PATH:size=64m,mode=1777,uid=0,gid=0". Other options
// are mount flags, which the platform sets itself.
func tmpfs(text string, refuse refuseFunc) bulkhead.Mount {
	target, options, _ := strings.Cut(text, ":")
	m := bulkhead.Mount{Kind: bulkhead.MountTmpfs, Target: target}
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		var n int64
		var err error
		switch name {
		case "size":
			var size types.UnitBytes
			err = size.DecodeMapstructure(value)
			n, m.Size = int64(size), int64(size)
		case "mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 12)
			m.Mode = uint32(mode)
		case "uid":
			m.UID, err = strconv.Atoi(value)
		case "gid":
			m.GID, err = strconv.Atoi(value)
		case "ro":
			m.ReadOnly = true
		}
		if err != nil || n < 0 {
			refuse("tmpfs", target, "%s: option %q is not understood", target, option)
		}
	}
	return m
}

// fileMount mounts a config or secret. A file of the release is mounted from
// there, unless it is to have an owner or mode of its own.
func (f *freezing) fileMount(kind string, ref types.FileReferenceConfig, object types.FileObjectConfig, refuse refuseFunc) bulkhead.Mount {
	m := bulkhead.Mount{Kind: bulkhead.MountInline, Target: ref.Target, ReadOnly: true}
	if ref.Mode != nil {
		m.Mode = uint32(*ref.Mode) & 0o7777
	}
	for _, id := range []struct {
		text string
		to   *int
	}{{ref.UID, &m.UID}, {ref.GID, &m.GID}} {
		if id.text == "" {
			continue
		}
		n, err := strconv.ParseUint(id.text, 10, 31)
		if err != nil {
			refuse(kind, ref.Source, "%s: uid and gid are numbers, %q is none", ref.Source, id.text)
		}
		*id.to = int(n)
	}
	switch {
	case object.File != "":
		name, err := f.file(object.File)
		if err != nil {
			refuse(kind, ref.Source, "%s: %s", ref.Source, describe(object.File, err))
			return m
		}
		if ref.Mode == nil && ref.UID == "" && ref.GID == "" {
			m.Kind, m.Source = bulkhead.MountFile, name
			m.Content = f.digest(name, func(err error) { refuse(kind, ref.Source, "%s: %s", ref.Source, describe(object.File, err)) })
			return m
		}
		content, err := readFile(f.root, name)
		if err != nil || len(content) > maxInline || !utf8.Valid(content) {
			refuse(kind, ref.Source, "%s: only a text of at most %d KiB can have uid, gid or mode; remove them", ref.Source, maxInline>>10)
		}
		m.Content = string(content)
	case object.Environment != "":
		value, ok := f.env[object.Environment]
		if !ok && f.strict {
			place := kind + "." + ref.Source
			f.fault(f.where(place+".environment", ""), "%s.environment: %s has no value; set it", place, object.Environment)
		}
		m.Content = value
	default:
		m.Content = object.Content
	}
	return m
}

// secretsOf lists the secret settings that a service uses, and refuses those
// that stand where the agent would not fill them in.
func (f *freezing) secretsOf(s bulkhead.Service, refuse refuseFunc) []string {
	all, err := json.Marshal(s)
	if err != nil {
		refuse("environment", "", "not UTF-8: %s", err)
		return nil
	}
	var names []string
	for _, name := range sortedKeys(f.schema.properties) {
		if f.schema.properties[name].Secret && strings.Contains(string(all), bulkhead.SecretRef(name)) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	// What is left without the places of secrets must hold none.
	s.Environment, s.Command, s.Entrypoint, s.Health = nil, nil, nil, nil
	s.Mounts = slices.Clone(s.Mounts)
	for i := range s.Mounts {
		s.Mounts[i].Content = ""
	}
	if rest, _ := json.Marshal(s); strings.Contains(string(rest), secretMark) {
		refuse("environment", "", "a secret setting stands where it would be shown; use it in environment, command, entrypoint, healthcheck, configs or secrets")
	}
	return names
}
