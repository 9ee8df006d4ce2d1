package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead"
)

// FuzzLoad: whatever the Compose file says, it is accepted or refused with a
// line; an accepted one can be frozen or says why not; nothing panics.
func FuzzLoad(f *testing.F) {
	names, err := filepath.Glob("testdata/foreign/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Add([]byte(settingsFile))
	f.Add([]byte("x-a: &a {x: 1}\nservices: {web: {<<: *a, image: '${A:-b}', ports: ['1-3:4-6']}}\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(dir, "compose.yaml")
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := Load(file)
		if err == nil {
			_, err = p.Freeze(Inputs{Stamp: "acme", Domain: "localhost"})
		}
		if err == nil {
			return
		}
		if bulkhead.KindOf(err) == nil {
			t.Errorf("an internal error: %v", err)
		}
		if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "nil pointer") || err.Error() == "" {
			t.Errorf("not one clear line: %q", err)
		}
	})
}
