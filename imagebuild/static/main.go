// Command static builds the image of one service from a static Go binary,
// without Docker, and writes it as an archive that "docker load" and
// "bulkhead release publish --images" read.
//
//	go run ./imagebuild/static -tag shop/web:1.0 -port 8080/tcp -out web.tar ./examples/shop/web
//
// The binary is the image's only file and its entry point, named after its
// folder; it runs as user 65532. A folder given with -data belongs to that user,
// so that a new volume there does too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"bulkhead/imagebuild"
)

const user = 65532

func main() {
	flags := flag.NewFlagSet("static", flag.ExitOnError)
	tag := flags.String("tag", "", "name of the image, such as shop/web:1.0")
	port := flags.String("port", "8080/tcp", "port that it listens on")
	data := flags.String("data", "", "folder that the service may write, such as /data")
	out := flags.String("out", "", "archive to write")
	_ = flags.Parse(os.Args[1:]) // ends the program when it is wrong
	if flags.NArg() != 1 || *tag == "" || *out == "" {
		fmt.Fprintln(os.Stderr, "usage: go run ./imagebuild/static -tag NAME:VERSION -out FILE [-port PORT/tcp] [-data FOLDER] GO-PACKAGE-FOLDER")
		os.Exit(2)
	}
	if err := run(context.Background(), flags.Arg(0), *tag, *port, *data, *out); err != nil {
		fmt.Fprintln(os.Stderr, "static:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, source, tag, port, data, out string) error {
	source, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	binary, err := imagebuild.GoBinary(ctx, source)
	if err != nil {
		return err
	}
	entry := "/" + filepath.Base(source)
	spec := imagebuild.Spec{
		Entrypoint: []string{entry},
		User:       fmt.Sprintf("%d:%d", user, user),
		Ports:      []string{port},
		Files:      []imagebuild.File{{Path: entry, Mode: 0o755, Content: binary}},
	}
	if data != "" {
		spec.Files = append(spec.Files, imagebuild.File{Path: data, Mode: fs.ModeDir | 0o700, UID: user, GID: user})
	}
	image, err := imagebuild.Build(spec)
	if err != nil {
		return fmt.Errorf("build %s: %w", tag, err)
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(imagebuild.WriteDocker(file, tag, image), file.Close())
}
