package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"bulkhead"
)

// differences says what is changes about was (nil: there was nothing).
func differences(was, is *bulkhead.Stamp) []Difference {
	out := []Difference{}
	before, after := facts(was), facts(is)
	keys := map[string]bool{}
	for key := range before {
		keys[key] = true
	}
	for key := range after {
		keys[key] = true
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if before[key] != after[key] {
			out = append(out, Difference{Field: key, Old: before[key], New: after[key]})
		}
	}
	if was == nil || is == nil {
		return out
	}
	for name, version := range is.SecretVersions {
		if old, ok := was.SecretVersions[name]; ok && old != version {
			out = append(out, Difference{Field: "settings." + name, Old: "(secret)", New: "(another secret)"})
		}
	}
	return out
}

// facts are what a user sees of a stamp, by field.
func facts(st *bulkhead.Stamp) map[string]string {
	out := map[string]string{}
	if st == nil {
		return out
	}
	put := func(key, value string) {
		if value != "" {
			out[key] = value
		}
	}
	put("product", string(st.Product))
	put("release", st.Version)
	put("desired", string(st.Desired))
	modules := make([]string, len(st.Modules))
	for i, m := range st.Modules {
		modules[i] = string(m)
	}
	put("modules", strings.Join(modules, ", "))
	for key, value := range st.Settings {
		put("settings."+key, string(value))
	}
	for key := range st.SecretVersions {
		put("settings."+key, "(secret)")
	}
	for key, value := range st.Labels {
		put("labels."+key, value)
	}
	termFacts(st, put)
	for _, v := range st.Volumes {
		put("volumes."+string(v.Name), "yes")
	}
	for _, r := range st.Routes {
		place := r.Path
		if r.Prefix != "" {
			place = r.Prefix + "." + place
		}
		put("routes."+place, fmt.Sprintf("%s:%d", r.Service, r.Port))
	}
	for _, s := range st.Services {
		key := "services." + string(s.Name)
		put(key+".image", s.Image.Reference+"@"+s.Image.Digest.Short())
		put(key+".replicas", strconv.Itoa(s.Replicas))
		for name, value := range s.Environment {
			put(key+".environment."+name, value)
		}
	}
	return out
}

func changedFields(diffs []Difference) string {
	var fields []string
	for _, d := range diffs {
		if !strings.HasPrefix(d.Field, "services.") {
			fields = append(fields, d.Field)
		}
	}
	return some(fields)
}

// tasksPlan says what happens to the tasks of each service.
func tasksPlan(was, is *bulkhead.Stamp) []string {
	out := []string{}
	before, after := running(was), running(is)
	if is != nil {
		for _, s := range is.Services {
			old, had := before[s.Name]
			_, has := after[s.Name]
			switch {
			case has && !had:
				out = append(out, fmt.Sprintf("start %s (%s)%s%s", s.Name, s.Image.Reference, times(s.Replicas), waits(s)))
			case had && !has:
				out = append(out, fmt.Sprintf("stop %s", s.Name))
			case had && has:
				if why := changes(was, is, old, s); why != "" {
					out = append(out, fmt.Sprintf("replace %s (%s)", s.Name, why))
				}
			}
		}
	}
	if was != nil {
		for _, s := range was.Services {
			if _, still := after[s.Name]; !still && is != nil && !slices.ContainsFunc(is.Services, func(n bulkhead.Service) bool { return n.Name == s.Name }) {
				if _, ran := before[s.Name]; ran {
					out = append(out, fmt.Sprintf("stop %s", s.Name))
				}
			}
		}
	}
	return out
}

func running(st *bulkhead.Stamp) map[bulkhead.ServiceName]bulkhead.Service {
	out := map[bulkhead.ServiceName]bulkhead.Service{}
	if st != nil && st.Desired == bulkhead.DesiredRunning {
		for _, s := range st.Services {
			out[s.Name] = s
		}
	}
	return out
}

func times(n int) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf(" x%d", n)
}

func waits(s bulkhead.Service) string {
	var on []string
	for _, d := range s.DependsOn {
		on = append(on, string(d.Service))
	}
	if len(on) == 0 {
		return ""
	}
	return " after " + strings.Join(on, ", ")
}

// changes names the fields of a service that differ.
func changes(was, is *bulkhead.Stamp, old, s bulkhead.Service) string {
	var fields []string
	a, b := object(old), object(s)
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if !bytes.Equal(a[key], b[key]) {
			fields = append(fields, key)
		}
		delete(a, key)
	}
	fields = append(fields, slices.Sorted(maps.Keys(a))...)
	for _, name := range s.Secrets {
		if was.SecretVersions[name] != is.SecretVersions[name] {
			fields = append(fields, "secret "+name)
		}
	}
	if was.Restarted != is.Restarted {
		fields = append(fields, "restart")
	}
	return strings.Join(fields, ", ")
}

func object(v any) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	if b, err := json.Marshal(v); err == nil {
		_ = json.Unmarshal(b, &out) // v is a struct: it always is an object
	}
	return out
}
