package imagebuild

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// WriteDocker writes the image as `docker save` does, under reference, such as
// "web:1".
func WriteDocker(w io.Writer, reference string, image v1.Image) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return fmt.Errorf("parse reference %q: %w", reference, err)
	}
	if err := tarball.Write(tag, image, w); err != nil {
		return fmt.Errorf("write image %s: %w", reference, err)
	}
	return nil
}

// WriteOCI writes the image as a tar of an OCI image layout, under reference,
// such as "web:1".
func WriteOCI(w io.Writer, reference string, image v1.Image) error {
	folder, err := os.MkdirTemp("", "imagebuild-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(folder)
	index, err := layout.Write(folder, empty.Index)
	if err != nil {
		return fmt.Errorf("write image layout: %w", err)
	}
	err = index.AppendImage(image, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": reference,
		"io.containerd.image.name":          reference,
	}))
	if err != nil {
		return fmt.Errorf("write image %s: %w", reference, err)
	}
	return writeFolder(w, folder)
}

// writeFolder writes the files of a folder as a tar, in the order of their names.
func writeFolder(w io.Writer, folder string) error {
	writer := tar.NewWriter(w)
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(relative), Mode: 0o644, Size: int64(len(content)), ModTime: epoch}
		if err := writer.WriteHeader(header); err != nil {
			return err
		}
		_, err = writer.Write(content)
		return err
	})
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	if err := writer.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}
