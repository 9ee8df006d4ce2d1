// Package imagebuild makes container images from static Go binaries and files,
// without Docker and without a base image. Equal input gives an equal digest,
// on every machine and at every time.
//
// It is for tests, and for the example products. It is no general builder: it
// runs nothing inside the image. Start at Build.
package imagebuild

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec says what an image holds and how it runs. The zero value is an empty
// image for this machine's architecture.
type Spec struct {
	Architecture string // GOARCH; default: this machine's

	Entrypoint []string
	Command    []string
	Env        []string // "NAME=value"
	User       string   // "name", "uid" or "uid:gid"; default: root
	WorkingDir string   // default: "/"
	Ports      []string // "8080/tcp"
	Volumes    []string // absolute paths
	StopSignal string   // default: "SIGTERM"
	Health     *v1.HealthConfig
	Labels     map[string]string

	Files []File // a later one replaces an earlier one of the same path
}

// File is one entry of an image's file system. Folders above it that are not
// listed belong to root, with mode 0755.
type File struct {
	Path    string      // absolute, or relative to the root
	Mode    fs.FileMode // permissions, and fs.ModeDir for a folder; 0: 0644
	UID     int
	GID     int
	Content []byte
	Link    string // what a symbolic link says; Content and Mode are ignored
}

// Build makes the image, in one layer.
func Build(spec Spec) (v1.Image, error) {
	layerTar, err := archive(spec.Files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layerTar)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	file = file.DeepCopy()
	file.OS = "linux"
	file.Architecture = spec.Architecture
	if file.Architecture == "" {
		file.Architecture = runtime.GOARCH
	}
	file.Created = v1.Time{Time: epoch}
	file.Config = v1.Config{
		Entrypoint:   spec.Entrypoint,
		Cmd:          spec.Command,
		Env:          spec.Env,
		User:         spec.User,
		WorkingDir:   spec.WorkingDir,
		ExposedPorts: set(spec.Ports),
		Volumes:      set(spec.Volumes),
		StopSignal:   spec.StopSignal,
		Healthcheck:  spec.Health,
		Labels:       spec.Labels,
	}
	image, err = mutate.ConfigFile(image, file)
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return image, nil
}

// GoBinary compiles the main package in folder dir into a static Linux binary
// without debug information.
func GoBinary(ctx context.Context, dir string) ([]byte, error) {
	folder, err := os.MkdirTemp("", "imagebuild-")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(folder)
	out := filepath.Join(folder, "binary")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if output, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build %s: %w: %s", dir, err, bytes.TrimSpace(output))
	}
	return os.ReadFile(out)
}

// epoch is the time of everything in an image.
var epoch = time.Unix(0, 0).UTC()

// archive writes files as a tar, sorted, with the folders above them.
func archive(files []File) ([]byte, error) {
	entries := map[string]File{}
	for _, file := range files {
		name := strings.TrimPrefix(path.Clean("/"+file.Path), "/")
		if name == "" {
			return nil, fmt.Errorf("file %q has no name", file.Path)
		}
		entries[name] = file
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, listed := entries[dir]; !listed {
				entries[dir] = File{Mode: fs.ModeDir | 0o755}
			}
		}
	}
	var names []string
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)

	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, name := range names {
		file := entries[name]
		header := &tar.Header{
			Name: name, Uid: file.UID, Gid: file.GID, ModTime: epoch, Format: tar.FormatPAX,
			Typeflag: tar.TypeReg, Mode: permissions(file.Mode), Size: int64(len(file.Content)),
		}
		switch {
		case file.Link != "":
			header.Typeflag, header.Linkname, header.Mode, header.Size = tar.TypeSymlink, file.Link, 0o777, 0
		case file.Mode.IsDir():
			header.Typeflag, header.Name, header.Size = tar.TypeDir, name+"/", 0
		}
		if err := writer.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		if header.Size > 0 {
			if _, err := writer.Write(file.Content); err != nil {
				return nil, fmt.Errorf("write %s: %w", name, err)
			}
		}
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	return buffer.Bytes(), nil
}

// permissions are the bits that tar knows: rwx, set-user-id, set-group-id, sticky.
func permissions(mode fs.FileMode) int64 {
	bits := int64(mode.Perm())
	if mode == 0 {
		bits = 0o644
	}
	for bit, flag := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

func set(names []string) map[string]struct{} {
	if len(names) == 0 {
		return nil
	}
	members := map[string]struct{}{}
	for _, name := range names {
		members[name] = struct{}{}
	}
	return members
}
