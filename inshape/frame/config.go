package frame

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is what a module's process is told. Every field has the environment
// variable that is named behind it.
type Config struct {
	Listen string // INSHAPE_LISTEN; host:port, default :8080
	Data   string // INSHAPE_DATA; folder of the store and the files, default /data
	// Secret signs identities inside a stamp. INSHAPE_SECRET; at least 16
	// characters, no default. All modules of a stamp have the same one.
	Secret string
	// Key lets in who calls the module directly and not through the front.
	// INSHAPE_KEY; at least 16 characters; empty: nobody.
	Key string

	Shop     string // INSHAPE_SHOP; the shop's name, default Inshape
	Logo     string // INSHAPE_LOGO; https or data address of a picture; default: none
	Currency string // INSHAPE_CURRENCY; ISO 4217, default EUR
	Unit     string // INSHAPE_UNIT; what lengths are shown in: mm (default) or in

	// Modules are the modules of this stamp, by name. INSHAPE_MODULES, separated
	// by commas. Empty: those whose host name can be resolved.
	Modules []string
	// Addresses are base URLs of modules that are not at http://NAME:8080.
	// INSHAPE_ADDRESSES, such as analysis=http://127.0.0.1:8081,orders=http://127.0.0.1:8082.
	Addresses map[string]string

	// WebhooksInside allows webhooks to private and loopback addresses.
	// INSHAPE_WEBHOOKS_INSIDE; default false.
	WebhooksInside bool

	// EventLife is how long events can be asked for. INSHAPE_EVENT_DAYS; default 90.
	EventLife time.Duration

	getenv func(string) string
}

// ConfigFrom reads the configuration of module name from an environment, and
// tells all that is wrong with it at once.
func ConfigFrom(getenv func(string) string) (Config, error) {
	var faults []string
	or := func(name, fallback string) string {
		if v := strings.TrimSpace(getenv(name)); v != "" {
			return v
		}
		return fallback
	}
	c := Config{
		Listen:    or("INSHAPE_LISTEN", ":8080"),
		Data:      or("INSHAPE_DATA", "/data"),
		Secret:    getenv("INSHAPE_SECRET"),
		Key:       getenv("INSHAPE_KEY"),
		Shop:      or("INSHAPE_SHOP", "Inshape"),
		Logo:      or("INSHAPE_LOGO", ""),
		Currency:  strings.ToUpper(or("INSHAPE_CURRENCY", "EUR")),
		Unit:      or("INSHAPE_UNIT", "mm"),
		Addresses: map[string]string{},
		getenv:    getenv,
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		faults = append(faults, fmt.Sprintf("INSHAPE_LISTEN: %q is no host:port, such as :8080", c.Listen))
	}
	if len(c.Secret) < 16 {
		faults = append(faults, "INSHAPE_SECRET: needs at least 16 characters, the same for all modules of a shop")
	}
	if c.Key != "" && len(c.Key) < 16 {
		faults = append(faults, "INSHAPE_KEY: needs at least 16 characters, or none at all")
	}
	if len(c.Shop) > 60 {
		faults = append(faults, "INSHAPE_SHOP: a name of at most 60 bytes")
	}
	if u, err := url.Parse(c.Logo); c.Logo != "" && (err != nil || u.Scheme != "https" && !strings.HasPrefix(c.Logo, "data:image/")) {
		faults = append(faults, "INSHAPE_LOGO: an https address, or data:image/…")
	}
	if len(c.Currency) != 3 || strings.Trim(c.Currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		faults = append(faults, fmt.Sprintf("INSHAPE_CURRENCY: %q is no currency of three letters, such as EUR", c.Currency))
	}
	if c.Unit != "mm" && c.Unit != "in" {
		faults = append(faults, fmt.Sprintf("INSHAPE_UNIT: %q is neither mm nor in", c.Unit))
	}
	for name := range strings.SplitSeq(getenv("INSHAPE_MODULES"), ",") {
		if name = strings.TrimSpace(name); name != "" && !slices.Contains(c.Modules, name) {
			c.Modules = append(c.Modules, name)
		}
	}
	for pair := range strings.SplitSeq(getenv("INSHAPE_ADDRESSES"), ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		name, address, _ := strings.Cut(pair, "=")
		if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			faults = append(faults, fmt.Sprintf("INSHAPE_ADDRESSES: %q is not NAME=http://HOST:PORT", pair))
			continue
		}
		c.Addresses[name] = strings.TrimSuffix(address, "/")
	}
	if v := getenv("INSHAPE_WEBHOOKS_INSIDE"); v != "" {
		inside, err := strconv.ParseBool(v)
		if err != nil {
			faults = append(faults, fmt.Sprintf("INSHAPE_WEBHOOKS_INSIDE: %q is neither true nor false", v))
		}
		c.WebhooksInside = inside
	}
	if days, err := strconv.Atoi(or("INSHAPE_EVENT_DAYS", "90")); err != nil || days < 1 || days > 36500 {
		faults = append(faults, fmt.Sprintf("INSHAPE_EVENT_DAYS: %q is no number of days, such as 90", getenv("INSHAPE_EVENT_DAYS")))
	} else {
		c.EventLife = time.Duration(days) * 24 * time.Hour
	}
	if len(faults) > 0 {
		return c, fmt.Errorf("settings: %s", strings.Join(faults, "; "))
	}
	return c, nil
}

// Setting is a module's own setting, from the same environment.
func (c Config) Setting(name, fallback string) string {
	if c.getenv != nil {
		if v := strings.TrimSpace(c.getenv(name)); v != "" {
			return v
		}
	}
	return fallback
}

// Address is the base URL of a module of this stamp.
func (c Config) Address(module string) string {
	if a := c.Addresses[module]; a != "" {
		return a
	}
	return "http://" + module + ":8080"
}

// Has tells whether the stamp is said to have a module.
func (c Config) Has(module string) bool { return slices.Contains(c.Modules, module) }

// File is a path in the data folder.
func (c Config) File(elements ...string) string {
	return filepath.Join(append([]string{c.Data}, elements...)...)
}
