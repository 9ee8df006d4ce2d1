package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"bulkhead"
)

// Secrets never reach containerd's database, which is on disk: specifications are
// recorded with the references (bulkhead.SecretRef) that services have. The
// values wait in a file on tmpfs, and get into a container on the last step of
// the way: its runtime is this binary under another name (OCIRuntime), which puts
// them into the specification that runc is about to read, on tmpfs too, and
// becomes runc. Containers without secrets take no such detour.

// RuntimeName is the name under which this binary is a runtime.
const RuntimeName = "bulkhead-runc"

// secretsAnnotation names the file of a container's secrets.
const secretsAnnotation = "bulkhead.secrets"

// secretFile is where the values for a container are.
func (r *Runtime) secretFile(container string) string {
	return filepath.Join(r.run, "secrets", container+".json")
}

// keepSecrets writes the values that a container's references stand for.
func (r *Runtime) keepSecrets(container string, values map[string]string) error {
	refs := make(map[string]string, len(values))
	for name, value := range values {
		refs[bulkhead.SecretRef(name)] = value
	}
	b, err := json.Marshal(refs)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.secretFile(container)), 0o700); err != nil {
		return fmt.Errorf("keep secrets: %w", err)
	}
	if err := os.WriteFile(r.secretFile(container), b, 0o600); err != nil {
		return fmt.Errorf("keep secrets: %w", err)
	}
	return nil
}

// dropSecrets forgets them.
func (r *Runtime) dropSecrets(container string) error {
	if err := os.Remove(r.secretFile(container)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop secrets: %w", err)
	}
	return nil
}

// withSecrets are texts with values in place of references. A file that does not
// exist holds none.
func withSecrets(file string, texts []string) ([]string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return texts, nil
	}
	var refs map[string]string
	if err == nil {
		err = json.Unmarshal(b, &refs)
	}
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	var pairs []string
	for ref, value := range refs {
		pairs = append(pairs, ref, value)
	}
	replacer := strings.NewReplacer(pairs...)
	texts = slices.Clone(texts)
	for i := range texts {
		texts[i] = replacer.Replace(texts[i])
	}
	return texts, nil
}

// secretRuntime is the path of this binary under RuntimeName.
func (r *Runtime) secretRuntime() (string, error) {
	path := filepath.Join(r.run, RuntimeName)
	if to, err := os.Readlink(path); err == nil && to == r.config.Self {
		return path, nil
	}
	if err := os.MkdirAll(r.run, 0o711); err != nil {
		return "", fmt.Errorf("make run folder: %w", err)
	}
	temporary := path + "." + randomName()
	if err := os.Symlink(r.config.Self, temporary); err != nil {
		return "", fmt.Errorf("link runtime: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return "", fmt.Errorf("link runtime: %w", err)
	}
	return path, nil
}

// OCIRuntime is what this binary does under RuntimeName: it completes the
// specification of a container that is about to be created, and becomes runc. It
// returns only when that fails.
func OCIRuntime(args []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "complete container specification:", err)
		return 1
	}
	if slices.Contains(args, "create") {
		bundle := ""
		for i, arg := range args[:len(args)-1] {
			if arg == "--bundle" || arg == "-b" {
				bundle = args[i+1]
			}
		}
		if err := completeSpec(filepath.Join(bundle, "config.json")); err != nil {
			return fail(err)
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fail(err)
	}
	return fail(syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ()))
}

// completeSpec puts secrets into a specification and touches nothing else of it.
func completeSpec(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec, process map[string]json.RawMessage
	var annotations map[string]string
	if err := errors.Join(json.Unmarshal(b, &spec), json.Unmarshal(spec["process"], &process), json.Unmarshal(spec["annotations"], &annotations)); err != nil {
		return err
	}
	for _, field := range []string{"args", "env"} {
		var texts []string
		if err := json.Unmarshal(process[field], &texts); err != nil {
			return err
		}
		if texts, err = withSecrets(annotations[secretsAnnotation], texts); err != nil {
			return err
		}
		if process[field], err = json.Marshal(texts); err != nil {
			return err
		}
	}
	if spec["process"], err = json.Marshal(process); err != nil {
		return err
	}
	if b, err = json.Marshal(spec); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil { // it has values in it now
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
