// Package keys holds the secrets of a cluster: the authority that certifies its
// servers and nodes to each other, the certificates themselves, and the key
// under which secret settings of stamps are sealed at rest.
//
// It knows nothing of operators (that is auth's), nor of the certificates that
// the gateway shows to the world. Start with OpenAuthority, NewIdentity and
// OpenSealer. All files are in one folder, which only root may read.
package keys

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"bulkhead"
)

// alphabet of generated secrets: letters and digits pass through every shell,
// URL and configuration file. 64 less two symbols, so a random byte chooses one
// without bias if those beyond are thrown away.
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// Generate returns n random letters and digits: about 5.95 bits each.
func Generate(n int) string {
	text := make([]byte, 0, n)
	var random [64]byte
	for len(text) < n {
		_, _ = rand.Read(random[:]) // never fails
		for _, b := range random {
			if i := int(b >> 2); i < len(alphabet) && len(text) < n {
				text = append(text, alphabet[i])
			}
		}
	}
	return string(text)
}

// WriteFile writes a file that only its owner may read (0600). After a crash it
// holds either what it held before or all of data.
func WriteFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// readOrMake returns the content of a secret file, and makes the file with its
// folder when there is none.
func readOrMake(path string, generate func() ([]byte, error)) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("make folder of keys: %w", err)
		}
		data, err := generate()
		if err != nil {
			return nil, err
		}
		return data, WriteFile(path, data)
	case err != nil:
		return nil, fmt.Errorf("read key: %w", err)
	case info.Mode().Perm()&0o077 != 0:
		return nil, bulkhead.Errorf(bulkhead.ErrDenied, "key file %s may be read by others (mode %04o)", path, info.Mode().Perm()).
			WithHint("chmod 600 %s, and think about who may have read it", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return data, nil
}

// damaged says that a key file does not hold what it should.
func damaged(path string, cause error) error {
	return &bulkhead.Error{
		Kind: bulkhead.ErrInvalid, Cause: cause,
		Message: fmt.Sprintf("key file %s is damaged", path),
		Hint:    "bring it back from a backup: what was made with it can not be used without it",
	}
}
