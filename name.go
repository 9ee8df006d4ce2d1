package bulkhead

import (
	"fmt"
	"regexp"
	"strings"
)

// Names are DNS labels (RFC 1123, section 2.1): lower-case letters, digits and
// inner hyphens. They become host names, cgroup names and folder names, which
// is why nothing else is allowed.
type (
	// ProductName names a product: one Compose project that a vendor sells.
	ProductName string
	// ModuleName names a module of a product: a Compose profile. It may also
	// hold inner dots and underscores, as Compose allows.
	ModuleName string
	// StampName names one customer's copy of a product. At most 40 bytes.
	StampName string
	// ServiceName names a service of a product, as written in the Compose file:
	// letters, digits, dots, hyphens and underscores.
	ServiceName string
	// VolumeName names a volume inside its stamp.
	VolumeName string
	// NetworkName names a Compose network inside its stamp.
	NetworkName string
	// NodeName names a machine of the farm.
	NodeName string
	// Host is a host name in lower case without port and without final dot.
	Host string
	// Digest is a content address, "sha256:" and 64 hexadecimal digits.
	Digest string
)

// MaxStampName is the longest stamp name in bytes: a label of at most 63 bytes
// less what "SERVICE-" or a generated suffix may need.
const MaxStampName = 40

var (
	labelPattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	servicePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)
	digestPattern  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)
)

// reservedStamps are labels that the platform itself answers to.
var reservedStamps = map[string]bool{"localhost": true, "bulkhead": true, "internal": true, "api": true, "console": true}

// ParseStampName normalises s to lower case without surrounding space and
// checks it. Its error is of kind ErrInvalid.
func ParseStampName(s string) (StampName, error) {
	n, err := parseLabel("stamp", s, MaxStampName)
	if err == nil && reservedStamps[n] {
		err = Errorf(ErrInvalid, "stamp name %q is reserved by the platform: choose another", n)
	}
	return StampName(n), err
}

// ParseProductName normalises and checks s like ParseStampName.
func ParseProductName(s string) (ProductName, error) {
	n, err := parseLabel("product", s, 63)
	return ProductName(n), err
}

// ParseNodeName normalises and checks s like ParseStampName.
func ParseNodeName(s string) (NodeName, error) {
	n, err := parseLabel("node", s, 63)
	return NodeName(n), err
}

func parseLabel(kind, s string, most int) (string, error) {
	n := strings.ToLower(strings.TrimSpace(s))
	switch {
	case n == "":
		return "", Errorf(ErrInvalid, "%s name is empty", kind)
	case len(n) > most:
		return "", Errorf(ErrInvalid, "%s name %q is %d bytes long: at most %d", kind, n, len(n), most)
	case !labelPattern.MatchString(n):
		return "", Errorf(ErrInvalid, "%s name %q is not a DNS label: use a-z, 0-9 and inner hyphens", kind, n)
	case len(n) > 3 && n[2:4] == "--":
		// Browsers show such a label as other letters, which may look like another's name
		// (RFC 5890, section 2.3.1).
		return "", Errorf(ErrInvalid, "%s name %q has hyphens in its third and fourth place, which stand for an encoding", kind, n)
	}
	return n, nil
}

// Validate says what is wrong with a service name, or nil.
func (n ServiceName) Validate() error {
	if !servicePattern.MatchString(string(n)) || len(n) > 63 {
		return Errorf(ErrInvalid, "service name %q: use letters, digits, dots, hyphens and underscores, at most 63 bytes", string(n))
	}
	return nil
}

// Label is the service's name as one DNS label: lower case, with hyphens for
// what a label cannot hold.
func (n ServiceName) Label() string {
	s := strings.ToLower(string(n))
	s = strings.Map(func(r rune) rune {
		if r == '.' || r == '_' {
			return '-'
		}
		return r
	}, s)
	return strings.Trim(s, "-")
}

// Validate says what is wrong with a digest, or nil.
func (d Digest) Validate() error {
	if !digestPattern.MatchString(string(d)) {
		return Errorf(ErrInvalid, "%q is not a sha256 digest", string(d))
	}
	return nil
}

// Short is the digest's first twelve hexadecimal digits, for people.
func (d Digest) Short() string {
	_, hex, ok := strings.Cut(string(d), ":")
	if !ok || len(hex) < 12 {
		return string(d)
	}
	return hex[:12]
}

// ValidateVersion checks the version of a release: letters, digits and . _ + -,
// at most 128 bytes, beginning with a letter or digit.
func ValidateVersion(v string) error {
	if !versionPattern.MatchString(v) {
		return Errorf(ErrInvalid, "version %q: use letters, digits and . _ + -, at most 128 bytes", v)
	}
	return nil
}

// TaskID names one running container: STAMP.SERVICE.SLOT-INSTANCE, such as
// "acme.web.1-4f2a91". Its name without the instance, "acme.web.1", is the slot
// that it fills; a task that is replaced leaves the slot to a new instance.
type TaskID string

// NewTaskID builds the id of the instance that fills slot (from 1) of service.
func NewTaskID(stamp StampName, service ServiceName, slot int, instance string) TaskID {
	return TaskID(fmt.Sprintf("%s.%s.%d-%s", stamp, service, slot, instance))
}

// Name is the id without its instance: "acme.web.1".
func (id TaskID) Name() string {
	if i := strings.LastIndexByte(string(id), '-'); i >= 0 {
		return string(id[:i])
	}
	return string(id)
}
