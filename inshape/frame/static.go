package frame

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
)

//go:embed static
var staticFiles embed.FS

// files are what is served under /static/: the frame's, and the module's below
// its name. Each has the hash of its content as ETag. Under the address that
// has the hash in it browsers never ask again.
type files struct {
	byPath map[string]file // by what stands behind /static/
}

type file struct {
	in   fs.FS
	name string // in it
	hash string
}

func newFiles(m Module) (*files, error) {
	f := &files{byPath: map[string]file{}}
	own, err := fs.Sub(staticFiles, "static")
	if err != nil {
		return nil, err
	}
	if err := f.add("", own); err != nil {
		return nil, err
	}
	if m.Static == nil {
		return f, nil
	}
	return f, f.add(m.Name+"/", m.Static)
}

func (f *files) add(prefix string, in fs.FS) error {
	return fs.WalkDir(in, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(in, name)
		if err != nil {
			return fmt.Errorf("read static file: %w", err)
		}
		sum := sha256.Sum256(content)
		f.byPath[prefix+name] = file{in, name, hex.EncodeToString(sum[:8])}
		return nil
	})
}

// address is where a file is, such as inshape.css or orders/list.js.
func (f *files) address(path string) (string, error) {
	known, ok := f.byPath[path]
	if !ok {
		return "", errors.New("static: there is no file " + path)
	}
	return "/static/" + path + "?v=" + known.hash, nil
}

func (f *files) has(path string) bool {
	_, ok := f.byPath[strings.TrimPrefix(path, "/static/")]
	return ok
}

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	known, ok := f.byPath[strings.TrimPrefix(r.URL.Path, "/static/")]
	if !ok {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	cache := "public, max-age=300"
	if r.URL.Query().Get("v") == known.hash {
		cache = "public, max-age=31536000, immutable"
	}
	w.Header().Set("Cache-Control", cache)
	w.Header().Set("Content-Security-Policy", contentPolicy("")) // of workers; "bare" would stop them
	w.Header().Set("ETag", `"`+known.hash+`"`)
	http.ServeFileFS(w, r, known.in, known.name)
}
