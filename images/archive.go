package images

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"bulkhead"
)

// archive is a file or folder that holds images: an OCI image layout
// (image-layout.md of the specification) or what docker save writes.
type archive struct {
	name   string // as the user wrote it
	files  files
	images []archived
}

// archived is one image of an archive.
type archived struct {
	id    string // equal for the same image under several names
	names []string
	// open makes the image readable; it may have to read a layer for that.
	open func() (source, descriptor, error)
}

// files are the files of an archive, by slash-separated name.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// Bounds on the table of contents of an archive.
const (
	maxFiles = 100_000
	maxJSON  = 16 << 20 // bytes of index.json or manifest.json
)

// openArchiveArg opens what --images names: FILE or FILE=REFERENCE.
func openArchiveArg(ctx context.Context, arg string, limits Limits) (*archive, error) {
	file, name, named := arg, "", false
	if _, err := os.Stat(arg); errors.Is(err, fs.ErrNotExist) {
		if i := strings.LastIndexByte(arg, '='); i >= 0 {
			file, name, named = arg[:i], arg[i+1:], true
		}
	}
	a, err := openArchive(ctx, file, limits)
	if err != nil || !named {
		return a, err
	}
	if _, err := parseReference(name); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	if slices.ContainsFunc(a.images, func(i archived) bool { return i.id != a.images[0].id }) {
		return nil, errors.Join(bulkhead.Errorf(bulkhead.ErrInvalid, "archive %s holds several images, so that =%s names none of them: %s", file, name, a.contents()).
			WithHint("give the archive without =REFERENCE"), a.Close())
	}
	a.images = a.images[:1]
	a.images[0].names = []string{name}
	return a, nil
}

func openArchive(ctx context.Context, file string, limits Limits) (*archive, error) {
	a := &archive{name: file}
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "archive %s does not exist", file).
			WithHint("write it with `docker save -o FILE IMAGE...`")
	case err != nil:
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "archive %s cannot be read: %w", file, err)
	case info.IsDir():
		a.files, err = openFolder(file)
	default:
		a.files, err = openTar(ctx, file, limits)
	}
	if err == nil {
		if err = a.read(); err != nil {
			err = errors.Join(err, a.files.Close())
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, a.broken(err)
	}
	return a, nil
}

func (a *archive) broken(err error) error {
	return bulkhead.Errorf(bulkhead.ErrInvalid, "archive %s is truncated, corrupt or not an archive of images: %s", a.name, oneLine(err)).
		WithHint("write it anew with `docker save -o FILE IMAGE...`, or copy it again")
}

func (a *archive) Close() error { return a.files.Close() }

// contents lists the names in the archive, for people.
func (a *archive) contents() string {
	var names []string
	for _, i := range a.images {
		if len(i.names) == 0 {
			names = append(names, "an image without a name")
		}
		names = append(names, i.names...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 8 {
		names = append(names[:8], fmt.Sprintf("and %d more", len(names)-8))
	}
	return strings.Join(names, ", ")
}

func (a *archive) lookup(_ context.Context, r ref) (source, []descriptor, error) {
	var src source
	var candidates []descriptor
	for _, i := range a.images {
		if r.digest != "" && i.id != string(r.digest) && !slices.Contains(i.names, r.given) ||
			r.digest == "" && !slices.ContainsFunc(i.names, r.is) {
			continue
		}
		s, d, err := i.open()
		if err != nil {
			return nil, nil, a.broken(err)
		}
		if src, candidates = s, append(candidates, d); !isIndex(d.MediaType) && d.Platform == nil {
			break // the same name stands for several images only in an index of platforms
		}
	}
	if src == nil {
		return nil, nil, bulkhead.Errorf(bulkhead.ErrNotFound, "holds %s", a.contents())
	}
	return src, candidates, nil
}

// read reads the table of images. Docker's archives since version 25 are OCI
// layouts as well; as such they keep the digests that the engine knows.
func (a *archive) read() error {
	err := a.readLayout()
	if errors.Is(err, fs.ErrNotExist) {
		err = a.readDocker()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("it has neither index.json nor manifest.json")
	}
	if err == nil && len(a.images) == 0 {
		return errors.New("it holds no image")
	}
	return err
}

func (a *archive) readLayout() error {
	var i index
	if err := readJSON(a.files, "index.json", &i); err != nil {
		return err
	}
	for _, d := range i.Manifests {
		if err := d.validate(); err != nil {
			return err
		}
		d.MediaType = cmp.Or(d.MediaType, typeManifest)
		name := cmp.Or(d.Annotations["io.containerd.image.name"], d.Annotations["org.opencontainers.image.ref.name"])
		image := archived{id: string(d.Digest), open: func() (source, descriptor, error) { return layout{a.files}, d, nil }}
		if name != "" {
			image.names = []string{name}
		}
		a.images = append(a.images, image)
	}
	return nil
}

func (a *archive) readDocker() error {
	var images []dockerImage
	if err := readJSON(a.files, "manifest.json", &images); err != nil {
		return err
	}
	for _, i := range images {
		a.images = append(a.images, archived{id: i.Config, names: i.RepoTags, open: func() (source, descriptor, error) {
			return openDocker(a.files, i)
		}})
	}
	return nil
}

// layout reads an OCI image layout.
type layout struct{ files files }

func (l layout) manifest(_ context.Context, d bulkhead.Digest) ([]byte, error) {
	return readFile(l.files, blobFile(d), maxManifest)
}

func (l layout) blob(_ context.Context, d bulkhead.Digest, _ int64) (io.ReadCloser, error) {
	r, _, err := l.files.open(blobFile(d))
	return r, lacks(err, d)
}

func blobFile(d bulkhead.Digest) string { return "blobs/" + strings.Replace(string(d), ":", "/", 1) }

func lacks(err error, d bulkhead.Digest) error {
	if errors.Is(err, fs.ErrNotExist) {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "the archive lacks blob %s", d.Short())
	}
	return err
}

// dockerImage is one element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// docker reads one image of what docker save writes. That has no manifest in
// the sense of a registry, so one is made of the layers as they are stored; it is
// the same whenever it is made.
type docker struct {
	files files
	raw   []byte                     // the manifest
	names map[bulkhead.Digest]string // of blobs
}

func openDocker(f files, i dockerImage) (source, descriptor, error) {
	fail := func(err error) (source, descriptor, error) { return nil, descriptor{}, err }
	raw, err := readFile(f, i.Config, maxConfig)
	if err != nil {
		return fail(err)
	}
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return fail(fmt.Errorf("read configuration %s: %w", i.Config, err))
	}
	if len(c.RootFS.DiffIDs) != len(i.Layers) {
		return fail(fmt.Errorf("configuration %s names %d layers and manifest.json %d", i.Config, len(c.RootFS.DiffIDs), len(i.Layers)))
	}
	src := docker{files: f, names: map[bulkhead.Digest]string{}}
	m := manifest{
		SchemaVersion: 2,
		MediaType:     typeManifest,
		Config:        descriptor{MediaType: typeConfig, Digest: digestOf(raw), Size: int64(len(raw))},
		Layers:        []descriptor{},
	}
	src.names[m.Config.Digest] = i.Config
	for n, name := range i.Layers {
		d, err := describe(f, name, c.RootFS.DiffIDs[n])
		if err != nil {
			return fail(err)
		}
		src.names[d.Digest] = name
		m.Layers = append(m.Layers, d)
	}
	if src.raw, err = json.Marshal(m); err != nil {
		return fail(err)
	}
	return src, descriptor{MediaType: m.MediaType, Digest: digestOf(src.raw), Size: int64(len(src.raw))}, nil
}

// describe says what a layer's file is. A plain tar, the usual case, has the
// digest that the configuration names; a compressed one has to be read.
func describe(f files, name string, diffID bulkhead.Digest) (descriptor, error) {
	r, size, err := f.open(name)
	if err != nil {
		return descriptor{}, err
	}
	defer r.Close()
	head := bufio.NewReader(r)
	c := sniff(head)
	if c == plain {
		return descriptor{MediaType: typeLayer, Digest: diffID, Size: size}, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, head); err != nil {
		return descriptor{}, fmt.Errorf("read layer %s: %w", name, err)
	}
	return descriptor{
		MediaType: typeLayer + "+" + string(c),
		Digest:    bulkhead.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))),
		Size:      size,
	}, nil
}

func (s docker) manifest(context.Context, bulkhead.Digest) ([]byte, error) { return s.raw, nil }

func (s docker) blob(_ context.Context, d bulkhead.Digest, _ int64) (io.ReadCloser, error) {
	r, _, err := s.files.open(s.names[d])
	return r, lacks(err, d)
}

func readJSON(f files, name string, v any) error {
	raw, err := readFile(f, name, maxJSON)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func readFile(f files, name string, most int64) ([]byte, error) {
	r, size, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > most {
		return nil, fmt.Errorf("%s has %d bytes: at most %d", name, size, most)
	}
	raw, err := io.ReadAll(r)
	if err == nil && int64(len(raw)) < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return raw, nil
}

// folder is an archive that is a folder; nothing outside of it is read.
type folder struct{ *os.Root }

func openFolder(dir string) (files, error) {
	r, err := os.OpenRoot(dir)
	return folder{r}, err
}

func (f folder) open(name string) (io.ReadCloser, int64, error) {
	file, err := f.Open(filepath.FromSlash(path.Clean(name)))
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// tarball is an archive that is a tar file. Its files are read where they stand.
type tarball struct {
	file  *os.File
	temp  bool // remove file in the end
	spans map[string]span
	links map[string]string // name to name
}

type span struct{ offset, size int64 }

func openTar(ctx context.Context, name string, limits Limits) (files, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	t := &tarball{file: f, spans: map[string]span{}, links: map[string]string{}}
	head := bufio.NewReader(f)
	if c := sniff(head); c != plain {
		err = t.inflate(ctx, head, c, limits)
	} else {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = t.scan()
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// inflate replaces the file by a temporary one with its decompressed content.
func (t *tarball) inflate(ctx context.Context, r io.Reader, c compression, limits Limits) error {
	packed := t.file
	defer packed.Close()
	in, err := c.open(r)
	if err != nil {
		return err
	}
	defer in.Close()
	if t.file, err = spool(ctx, in, limits.Bytes); err != nil {
		return err
	}
	t.temp = true
	return nil
}

// spool copies at most so many bytes into a temporary file, and rewinds it.
func spool(ctx context.Context, r io.Reader, most int64) (*os.File, error) {
	f, err := os.CreateTemp("", "bulkhead-*")
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(interruptible{ctx, r}, most+1))
	if err == nil && n > most {
		err = fmt.Errorf("it holds more than %d bytes", most)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// interruptible makes a long copy end with its context.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (r interruptible) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// scan reads the headers, skipping content.
func (t *tarball) scan() error {
	r := tar.NewReader(t.file)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if n == maxFiles {
			return fmt.Errorf("it has more than %d files", maxFiles)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			offset, err := t.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			for key := range h.PAXRecords {
				if strings.HasPrefix(key, "GNU.sparse.") {
					return fmt.Errorf("%s is a sparse file", h.Name)
				}
			}
			t.spans[name] = span{offset, h.Size}
		case tar.TypeLink:
			t.links[name] = path.Clean(h.Linkname)
		case tar.TypeSymlink: // docker save links equal layers
			t.links[name] = path.Join(path.Dir(name), h.Linkname)
		}
	}
}

func (t *tarball) open(name string) (io.ReadCloser, int64, error) {
	name = path.Clean(name)
	for range 8 {
		if s, ok := t.spans[name]; ok {
			return io.NopCloser(io.NewSectionReader(t.file, s.offset, s.size)), s.size, nil
		}
		name = t.links[name]
	}
	return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (t *tarball) Close() error {
	err := t.file.Close()
	if t.temp {
		err = errors.Join(err, os.Remove(t.file.Name()))
	}
	return err
}
