// Command images builds the images of the example product from static binaries,
// without Docker, and writes them as archives that "docker load" and
// "bulkhead release publish --images" read.
//
//	go run ./examples/shop/images DIR
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/imagebuild"
)

const (
	version = "1.0"
	user    = 65532
)

func main() {
	if len(os.Args) != 2 || strings.HasPrefix(os.Args[1], "-") {
		fmt.Fprintln(os.Stderr, "usage: go run ./examples/shop/images DIR (from the top of the repository)")
		os.Exit(2)
	}
	if err := run(context.Background(), "examples/shop", os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// run writes an archive SERVICE.tar into dir for each service in folder source.
func run(ctx context.Context, source, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for service, port := range map[string]string{"web": "8080/tcp", "db": "7000/tcp", "stats": "8081/tcp"} {
		binary, err := imagebuild.GoBinary(ctx, filepath.Join(source, service))
		if err != nil {
			return err
		}
		spec := imagebuild.Spec{
			Entrypoint: []string{"/" + service},
			User:       fmt.Sprintf("%d:%d", user, user),
			Ports:      []string{port},
			Files:      []imagebuild.File{{Path: "/" + service, Mode: 0o755, Content: binary}},
		}
		if service == "db" { // a new volume begins as this folder: its owner may write
			spec.Files = append(spec.Files, imagebuild.File{Path: "/data", Mode: fs.ModeDir | 0o700, UID: user, GID: user})
		}
		image, err := imagebuild.Build(spec)
		if err != nil {
			return fmt.Errorf("build %s: %w", service, err)
		}
		file, err := os.Create(filepath.Join(dir, service+".tar"))
		if err != nil {
			return err
		}
		if err := errors.Join(imagebuild.WriteDocker(file, "shop/"+service+":"+version, image), file.Close()); err != nil {
			return err
		}
		fmt.Println(file.Name())
	}
	return nil
}
