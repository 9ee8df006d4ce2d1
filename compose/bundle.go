package compose

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/types"
)

// Bounds of a bundle.
const (
	maxFiles  = 10_000
	maxBundle = 256 << 20 // bytes of all files together
)

// files is what of the project's folder belongs to a release.
type files struct {
	main     string            // name of the Compose file in the folder
	names    map[string]string // name in the bundle to name in the folder; folders end in "/"
	size     int64
	withheld []string // variables of .env whose values are not shipped
	dotenv   bool     // a .env of its own making goes along
}

// has tells whether the bundle holds a file or folder.
func (f *files) has(name string) bool {
	_, file := f.names[name]
	_, folder := f.names[name+"/"]
	return file || folder || name == "."
}

// collect finds the files that the project refers to.
func (o *opening) collect(loaded *types.Project) {
	for _, s := range o.sources {
		name := s.name
		if name == o.files.main {
			name = fileNames[0]
		}
		if other, ok := o.files.names[name]; ok {
			o.fault(other+":1", "%s and %s would both be %s in the release; rename one", other, s.name, name)
		}
		if err := o.add(name, s.name); err != nil {
			o.fault(s.name+":1", "%s", err)
		}
	}
	need := func(place, name string) {
		clean, err := local(".", filepath.ToSlash(name))
		if err == nil {
			err = o.addAll(clean)
		}
		if err != nil {
			o.fault(o.where(place, path.Base(name)), "%s: %s", place, describe(name, err))
		}
	}
	for _, key := range sortedKeys(loaded.Services) {
		s := loaded.Services[key]
		for _, f := range s.EnvFiles {
			if name, err := local(".", f.Path); err == nil && !bool(f.Required) {
				if _, err := o.root.Stat(name); errors.Is(err, fs.ErrNotExist) {
					continue
				}
			}
			need("services."+key+".env_file", f.Path)
		}
		for _, f := range s.LabelFiles {
			need("services."+key+".label_file", f)
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			place := "services." + key + ".volumes"
			if isSocket(v.Source) {
				o.fault(o.where(place, path.Base(v.Source)), "%s: %s: the container engine's socket owns the machine and every stamp on it; remove it", place, v.Source)
				continue
			}
			clean, err := local(".", filepath.ToSlash(v.Source))
			if err == nil {
				err = o.addAll(clean)
			}
			if err != nil {
				message := describe(v.Source, err)
				if errors.Is(err, fs.ErrNotExist) {
					message += "; for data, use a named volume"
				}
				o.fault(o.where(place, v.Target), "%s: %s", place, message)
			} else if !v.ReadOnly {
				o.warn(o.where(place, v.Target), "%s: %s is mounted read-only: project files are part of the release", place, v.Source)
			}
		}
	}
	for _, key := range sortedKeys(loaded.Configs) {
		if f := loaded.Configs[key].File; f != "" {
			need("configs."+key+".file", f)
		}
	}
	for _, key := range sortedKeys(loaded.Secrets) {
		if f := loaded.Secrets[key].File; f != "" {
			need("secrets."+key+".file", f)
			o.warn(o.where("secrets."+key+".file", ""), "secrets.%s.file: every stamp gets the same secret, from the release; to give each its own, use environment: NAME", key)
		}
	}
	o.folders()
	if _, whole := o.files.names[".env"]; !whole && len(o.dotenv)+len(o.files.withheld) > 0 {
		o.files.dotenv = true
	}
}

// describe says what is wrong with a path that was written in the file.
func describe(name string, err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return fmt.Sprintf("%q: %s", name, fileProblem(err))
	}
	return err.Error()
}

func isSocket(name string) bool {
	base := path.Base(name)
	return strings.HasSuffix(base, ".sock") && (strings.HasPrefix(base, "docker") || strings.HasPrefix(base, "containerd") || strings.HasPrefix(base, "podman"))
}

// folders adds what a variable may choose in a folder: for a path such as
// ./themes/${THEME}.css everything in themes.
func (o *opening) folders() {
	for _, u := range o.uses {
		switch strings.TrimSuffix(u.row, ".*") {
		case "services.*.volumes", "services.*.volumes.*.source", "services.*.env_file", "services.*.env_file.*.path",
			"services.*.label_file", "configs.*.file", "secrets.*.file":
		default:
			continue
		}
		for _, s := range o.sources {
			if !strings.HasPrefix(u.where, s.name+":") {
				continue
			}
			before, _, _ := strings.Cut(u.text, "$")
			folder, prefix := path.Split(before)
			name, err := local(s.base, folder)
			if err != nil || folder == "" {
				continue // the default's file alone
			}
			dir, err := fs.ReadDir(o.root.FS(), name)
			for _, item := range dir {
				if err == nil && strings.HasPrefix(item.Name(), prefix) && item.Name() != ".git" {
					err = o.addAll(path.Join(name, item.Name()))
				}
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				o.fault(u.where, "%s: %s", u.path, describe(folder, err))
			}
		}
	}
}

// addAll adds a file, or a folder with all that is in it. Links are followed
// within the project and shipped as what they lead to.
func (o *opening) addAll(name string) error { return o.addTree(name, nil) }

func (o *opening) addTree(name string, above []fs.FileInfo) error {
	info, err := o.root.Stat(name)
	if err != nil {
		return err
	}
	switch {
	case info.Mode().IsRegular():
		return o.add(name, name)
	case !info.IsDir():
		return fmt.Errorf("%q is neither a file nor a folder", name)
	case slices.ContainsFunc(above, func(a fs.FileInfo) bool { return os.SameFile(a, info) }):
		return fmt.Errorf("%q links back to a folder that it lies in; remove the link", name)
	}
	if name != "." {
		if _, done := o.files.names[name+"/"]; done {
			return nil
		}
		o.files.names[name+"/"] = name
	}
	dir, err := o.root.Open(name)
	if err != nil {
		return err
	}
	items, err := dir.ReadDir(-1)
	dir.Close()
	if err != nil {
		return err
	}
	for _, item := range items {
		if item.Name() == ".git" {
			continue // the history of the source is no part of a product
		}
		if err := o.addTree(path.Join(name, item.Name()), append(above, info)); err != nil {
			return err
		}
	}
	return nil
}

// add adds a file, and counts.
func (o *opening) add(name, from string) error {
	if _, done := o.files.names[name]; done {
		return nil
	}
	info, err := o.root.Stat(from)
	if err != nil {
		return err
	}
	o.files.names[name] = from
	o.files.size += info.Size()
	if len(o.files.names) > maxFiles {
		return fmt.Errorf("the project ships more than %d files; mount less", maxFiles)
	}
	if o.files.size > maxBundle {
		return fmt.Errorf("the project ships more than %d MiB; put large files into images or volumes", maxBundle>>20)
	}
	return nil
}

// Bundle writes the project as a tar: compose.yaml and every file that it refers
// to. The same content gives the same bytes, wherever and whenever it is
// written. Errors are of kind ErrConflict when a file changed meanwhile.
func (p *Project) Bundle(w io.Writer) error {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return fmt.Errorf("open project: %w", err)
	}
	defer root.Close()
	t := tar.NewWriter(w)
	names := p.files.names
	if p.files.dotenv {
		names = make(map[string]string, len(names)+1)
		for name, from := range p.files.names {
			names[name] = from
		}
		names[".env"] = ""
	}
	for _, name := range sortedKeys(names) {
		if err := p.bundleFile(t, root, name, names[name]); err != nil {
			return fmt.Errorf("bundle %s: %w", name, err)
		}
	}
	return t.Close()
}

func (p *Project) bundleFile(t *tar.Writer, root *os.Root, name, from string) error {
	header := &tar.Header{Name: name, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	switch {
	case strings.HasSuffix(name, "/"):
		header.Typeflag, header.Mode = tar.TypeDir, 0o755
		return t.WriteHeader(header)
	case from == "":
		content := p.dotenvFile()
		header.Typeflag, header.Size = tar.TypeReg, int64(len(content))
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		_, err := io.WriteString(t, content)
		return err
	}
	f, err := root.Open(from)
	if err != nil {
		return bulkhead.Errorf(bulkhead.ErrConflict, "%s: %s", from, fileProblem(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return bulkhead.Errorf(bulkhead.ErrConflict, "%s changed while it was read; try again", from)
	}
	if info.Mode()&0o111 != 0 {
		header.Mode = 0o755
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if err := t.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.CopyN(t, f, info.Size()); err != nil {
		return bulkhead.Errorf(bulkhead.ErrConflict, "%s changed while it was read; try again", from)
	}
	return nil
}

// dotenvFile is the .env of the bundle: values of variables that the project
// uses, without the secrets, whose names alone go along.
func (p *Project) dotenvFile() string {
	var b strings.Builder
	for _, name := range sortedKeys(p.dotenv) {
		fmt.Fprintf(&b, "%s='%s'\n", name, strings.ReplaceAll(p.dotenv[name], "'", `\'`))
	}
	for _, name := range slices.Sorted(slices.Values(p.files.withheld)) {
		fmt.Fprintf(&b, "%s=\n", name)
	}
	return b.String()
}
