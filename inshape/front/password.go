package front

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The cost of a password: argon2id with 19 MiB and two passes, the first choice
// of OWASP's Password Storage Cheat Sheet (2024).
const (
	argonMemory = 19 * 1024 // KiB
	argonTime   = 2
	argonWays   = 1
	argonBytes  = 32
)

const (
	minPassword = 10 // characters
	maxPassword = 200
)

// passwords hashes them, a few at a time: a crowd that signs in waits, and the
// machine's memory stays the shop's.
type passwords struct {
	turns chan struct{}
	// nobody is what an unknown address is compared with, so that it takes as
	// long as a known one.
	nobody string
}

func newPasswords() *passwords {
	p := &passwords{turns: make(chan struct{}, 4)}
	p.nobody = encodePassword(argon2.IDKey([]byte(newSecret("")), []byte("sixteen bytes of"), argonTime, argonMemory, argonWays, argonBytes), []byte("sixteen bytes of"))
	return p
}

func (p *passwords) turn(ctx context.Context) (done func(), err error) {
	select {
	case p.turns <- struct{}{}:
		return func() { <-p.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// hash makes what is kept of a password.
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	done, err := p.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	return encodePassword(argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonWays, argonBytes), salt), nil
}

// matches tells whether a password is the one that was hashed. With an empty
// hash it takes its time all the same, and says no.
func (p *passwords) matches(ctx context.Context, hash, password string) (bool, error) {
	done, err := p.turn(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	known := hash != ""
	if !known {
		hash = p.nobody
	}
	var version, memory, time uint32
	var ways uint8
	fields := strings.Split(hash, "$")
	if len(fields) != 6 || fields[1] != "argon2id" {
		return false, fmt.Errorf("read password hash: unknown form")
	}
	if _, err := fmt.Sscanf(fields[2]+" "+fields[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &time, &ways); err != nil || version != argon2.Version {
		return false, fmt.Errorf("read password hash: unknown parameters")
	}
	salt, saltErr := base64.RawStdEncoding.DecodeString(fields[4])
	want, wantErr := base64.RawStdEncoding.DecodeString(fields[5])
	if saltErr != nil || wantErr != nil || len(want) == 0 {
		return false, fmt.Errorf("read password hash: it is damaged")
	}
	got := argon2.IDKey([]byte(password), salt, time, memory, ways, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1 && known, nil
}

// encodePassword writes a hash in the PHC string format.
func encodePassword(key, salt []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonWays,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
}

// newSecret makes 256 bits that nobody guesses, behind a prefix that tells
// what it is.
func newSecret(prefix string) string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(secret)
}

// hashSecret is what is kept of such a secret. It needs no salt and no
// slowness: there is nothing to guess.
func hashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
