package mesh

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"strings"
)

// archive is a zip file with a budget: what it expands to is counted in bytes
// that really came out, not in what its directory says.
type archive struct {
	format Format
	parts  map[string]*zip.File // by key: OPC names ignore case
	budget int64
}

const maxArchiveParts = 10_000

func openArchive(data []byte, f Format, o Options) (*archive, error) {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		if bytes.HasPrefix(data, []byte("PK")) {
			return nil, refuse(f, Truncated, "", "the zip archive has no readable directory at its end; send the file again")
		}
		return nil, refuse(f, WrongMagic, "", "the file is not a zip archive; export it as %s again", f)
	}
	if len(z.File) > maxArchiveParts {
		return nil, refuse(f, ZipBomb, "", "the archive has more than %d parts", maxArchiveParts)
	}
	a := &archive{format: f, parts: map[string]*zip.File{}, budget: min(o.MaxExpanded, max(16<<20, 100*int64(len(data))))}
	for _, file := range z.File {
		if strings.HasSuffix(file.Name, "/") {
			continue
		}
		if file.Flags&1 != 0 {
			return nil, refuse(f, Invalid, file.Name, "the part is encrypted; save without a password")
		}
		key := partKey(file.Name)
		if a.parts[key] != nil {
			return nil, refuse(f, Invalid, file.Name, "the archive holds the part twice")
		}
		a.parts[key] = file
	}
	return a, nil
}

func partKey(name string) string { return strings.ToLower(strings.TrimPrefix(name, "/")) }

func (a *archive) has(name string) bool { return a.parts[partKey(name)] != nil }

func (a *archive) read(name string) ([]byte, error) {
	file := a.parts[partKey(name)]
	if file == nil {
		return nil, refuse(a.format, Invalid, name, "the part is missing from the archive")
	}
	in, err := file.Open()
	if err != nil {
		return nil, refuse(a.format, Malformed, name, "the part cannot be unpacked: %v", err)
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, a.budget+1))
	if int64(len(data)) > a.budget {
		return nil, refuse(a.format, ZipBomb, name, "the archive expands out of proportion to its size; it is refused")
	}
	a.budget -= int64(len(data))
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, refuse(a.format, Truncated, name, "the packed part ends early; send the file again")
		}
		return nil, refuse(a.format, Malformed, name, "the part cannot be unpacked: %v", err)
	}
	return data, nil
}
