package frame

import (
	"encoding/base32"
	"regexp"

	"github.com/google/uuid"
)

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID makes an identifier such as mod_01j9…: a kind of three letters, then a
// UUIDv7 in Crockford's base 32, so that identifiers sort by time.
func NewID(kind string) string {
	id := uuid.Must(uuid.NewV7())
	return kind + "_" + idEncoding.EncodeToString(id[:])
}

// IDPattern is what identifiers look like, for OpenAPI schemas.
const IDPattern = `^[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}$`

var idPattern = regexp.MustCompile(IDPattern)

// ValidID tells whether a text can be an identifier at all.
func ValidID(s string) bool { return idPattern.MatchString(s) }
