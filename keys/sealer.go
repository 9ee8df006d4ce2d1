package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"bulkhead"
)

// Sealer encrypts what nobody may read at rest, under the cluster's key. Its
// methods may be called by many goroutines at once.
//
// A sealed envelope is
//
//	1 byte    version, 1
//	8 bytes   which cluster key: the first of its SHA-256
//	60 bytes  a random key of this envelope, sealed under the cluster key
//	the rest  the values as JSON, sealed under that random key
//
// where "sealed" is AES-256-GCM (NIST SP 800-38D): a random nonce of 12 bytes,
// the ciphertext, a tag of 16 bytes. Additional data of both are the version,
// what is sealed, and the UID of the stamp: an envelope opens for its own stamp
// only. Names of values are inside, so they can be neither read nor exchanged.
// The cluster key encrypts random keys only, 2^32 of which are safe with random
// nonces.
type Sealer struct {
	id      []byte
	key     cipher.AEAD
	signing []byte
}

const (
	sealVersion = 1
	keySize     = 32
	keyIDSize   = 8
	wrappedSize = 12 + keySize + 16
	// maxSealed bounds the JSON of one envelope in bytes.
	maxSealed = 256 << 10
)

// OpenSealer reads the cluster key in folder/seal.key, and makes one when there
// is none. Whoever loses it loses everything that was sealed.
func OpenSealer(folder string) (*Sealer, error) {
	path := filepath.Join(folder, "seal.key")
	text, err := readOrMake(path, func() ([]byte, error) {
		key := make([]byte, keySize)
		_, _ = rand.Read(key) // never fails
		return append(base64.StdEncoding.AppendEncode(nil, key), '\n'), nil
	})
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != keySize {
		return nil, damaged(path, err)
	}
	id := sha256.Sum256(key)
	// A key of its own for another purpose (RFC 5869, section 3.2).
	signing, err := hkdf.Expand(sha256.New, key, "bulkhead sign", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return &Sealer{id[:keyIDSize], aead(key), signing}, nil
}

// Sign is a proof that who has the key wrote content under a name: HMAC-SHA256 (RFC
// 2104) of both. It hides nothing.
func (s *Sealer) Sign(name string, content []byte) []byte {
	mac := hmac.New(sha256.New, s.signing)
	_ = binary.Write(mac, binary.BigEndian, uint64(len(name))) // else part of a name could pass for content
	mac.Write([]byte(name))
	mac.Write(content)
	return mac.Sum(nil)
}

func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err == nil {
		var a cipher.AEAD
		if a, err = cipher.NewGCMWithRandomNonce(block); err == nil {
			return a
		}
	}
	panic(fmt.Sprintf("keys: AES-256-GCM: %v", err)) // only by a key of wrong size
}

// bound is the additional data: nothing in it is ambiguous, since only the UID
// has no fixed text.
func bound(what, uid string) []byte {
	return fmt.Appendf(nil, "bulkhead sealed v%d %s %s", sealVersion, what, uid)
}

// Seal encrypts values for the stamp with that UID. Sealing the same values
// twice gives two different envelopes. No values give nil.
func (s *Sealer) Seal(uid string, values map[string]string) ([]byte, error) {
	if len(values) == 0 {
		return nil, nil
	}
	if uid == "" {
		return nil, errors.New("seal: no UID")
	}
	plain, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if len(plain) > maxSealed {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "secret settings are %d bytes together: at most %d", len(plain), maxSealed)
	}
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails
	sealed := append([]byte{sealVersion}, s.id...)
	sealed = s.key.Seal(sealed, nil, key, bound("key", uid))
	return aead(key).Seal(sealed, nil, plain, bound("values", uid)), nil
}

// Open decrypts what Seal made for the same UID. An empty envelope holds no
// values. Its errors tell what is wrong, and nothing of what is inside.
func (s *Sealer) Open(uid string, sealed []byte) (map[string]string, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	if sealed[0] != sealVersion {
		return nil, bulkhead.Errorf(bulkhead.ErrConflict, "secrets of %s are sealed in format %d: this version of Bulkhead opens format %d", uid, sealed[0], sealVersion)
	}
	rest := sealed[1:]
	if len(rest) < keyIDSize+wrappedSize {
		return nil, s.broken(uid)
	}
	if !bytes.Equal(rest[:keyIDSize], s.id) {
		return nil, bulkhead.Errorf(bulkhead.ErrConflict, "secrets of %s are sealed under another cluster key", uid).
			WithHint("bring seal.key back from a backup, or set the secrets again")
	}
	rest = rest[keyIDSize:]
	key, err := s.key.Open(nil, nil, rest[:wrappedSize], bound("key", uid))
	if err != nil {
		return nil, s.broken(uid)
	}
	plain, err := aead(key).Open(nil, nil, rest[wrappedSize:], bound("values", uid))
	if err != nil {
		return nil, s.broken(uid)
	}
	var values map[string]string
	if err := json.Unmarshal(plain, &values); err != nil {
		return nil, s.broken(uid)
	}
	return values, nil
}

func (s *Sealer) broken(uid string) error {
	return bulkhead.Errorf(bulkhead.ErrInvalid, "secrets of %s were tampered with, or belong to another stamp", uid).
		WithHint("set the secrets again")
}
