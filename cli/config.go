package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bulkhead"
	"bulkhead/api"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
)

const defaultAPI = "127.0.0.1:7070"

// config is the user's file: how to reach which API, and defaults for flags. It
// holds tokens, so it is readable by its owner only.
type config struct {
	// Current is the API that commands talk to unless told otherwise.
	Current string `yaml:"current,omitempty"`
	// APIs by address.
	APIs map[string]apiConfig `yaml:"apis,omitempty"`
	// Defaults of flags by name, such as "http: :80" or "output: json".
	Defaults map[string]string `yaml:"defaults,omitempty"`

	path string
}

type apiConfig struct {
	Token string `yaml:"token"`
	// Servers are further addresses of the same API; the client learns them by itself.
	Servers []string `yaml:"servers,omitempty"`
	// Authority is the certificate, PEM, of who signs for the API.
	Authority string `yaml:"authority,omitempty"`
}

// client is the way to the API at address. learned is told of other servers; nil:
// nobody is.
func (c *config) client(address, token string, learned func(servers []string)) (*api.Client, error) {
	known := c.APIs[normalAPI(address)]
	cl := api.NewClient(address, cmp.Or(token, known.Token))
	if err := cl.Farm(known.Servers, []byte(known.Authority), learned); err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "configuration %s: authority of %s: %w", c.path, address, err)
	}
	return cl, nil
}

func loadConfig(path string) (*config, error) {
	c := &config{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		kind := bulkhead.ErrInvalid
		if errors.Is(err, fs.ErrPermission) {
			kind = bulkhead.ErrDenied
		}
		return nil, bulkhead.Errorf(kind, "read configuration: %w", err).WithHint("name a file that you may read with --config or BULKHEAD_CONFIG")
	}
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil && len(strings.TrimSpace(string(b))) > 0 {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "configuration %s", yamlFault(path, err)).WithHint("mend or remove the file; it may hold current, apis and defaults")
	}
	return c, nil
}

// save replaces the file as a whole.
func (c *config) save() error {
	b, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(c.path), ".config-*") // 0600
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	if err := os.Rename(f.Name(), c.path); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	return nil
}

// login keeps the token for an API and makes that the current one. It reads the
// file again first: another instance may have written meanwhile.
func (c *command) login(up Up) error {
	fresh, err := loadConfig(c.config.path)
	if err != nil {
		return err
	}
	if fresh.APIs == nil {
		fresh.APIs = map[string]apiConfig{}
	}
	address := normalAPI(up.API)
	fresh.Current = address
	if up.Token != "" { // else the one that is there goes on to hold
		known := fresh.APIs[address]
		known.Token, known.Authority = up.Token, string(up.Authority)
		fresh.APIs[address] = known
	}
	c.config = fresh
	return fresh.save()
}

// learn keeps the servers that an API has named. A file that cannot be written is
// no reason to fail what was asked for.
func (c *command) learn(address string, servers []string) {
	address = normalAPI(address)
	known, ok := c.config.APIs[address]
	if !ok || slices.Equal(known.Servers, servers) {
		return
	}
	fresh, err := loadConfig(c.config.path)
	if err != nil {
		return
	}
	if known, ok = fresh.APIs[address]; ok {
		known.Servers = servers
		fresh.APIs[address] = known
		c.config.APIs = fresh.APIs
		_ = fresh.save()
	}
}

// normalAPI is how an address stands in the configuration.
func normalAPI(address string) string {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	return strings.TrimSuffix(address, "/")
}

// deliberate flags are given on the command line or not at all: an environment
// variable that lies around must not delete data.
var deliberate = []string{"purge", "yes", "restore", "stamps", "config", "help"}

// deliberateMark annotates flags that are deliberate in one command, and of the
// same name as a flag of another that is not.
const deliberateMark = "deliberate"

// configure fills in what the command line leaves open: flag, then environment,
// then configuration file, then the default.
func (c *command) configure(cmd *cobra.Command) error {
	path := c.configPath
	if path == "" {
		path = c.env.Getenv("BULKHEAD_CONFIG")
	}
	if path == "" {
		dir := c.env.Getenv("XDG_CONFIG_HOME")
		if dir == "" && c.env.Getenv("HOME") != "" {
			dir = filepath.Join(c.env.Getenv("HOME"), ".config")
		}
		if dir == "" {
			dir = "/etc"
		}
		path = filepath.Join(dir, "bulkhead", "config.yaml")
	}
	var err error
	if c.config, err = loadConfig(path); err != nil {
		return err
	}
	if _, err := os.Stat(path); c.configPath != "" && !runsHere(cmd) && errors.Is(err, fs.ErrNotExist) {
		return bulkhead.Errorf(bulkhead.ErrNotFound, "configuration %s does not exist", path).WithHint("bulkhead up writes it; without --config the usual one is read")
	}
	var faults []bulkhead.Fault
	known := flagNames(cmd.Root())
	for _, name := range slices.Sorted(maps.Keys(c.config.Defaults)) {
		if !known[name] {
			faults = append(faults, bulkhead.Fault{Where: path + ": defaults." + name, Message: "no command has a flag of that name"})
		}
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, marked := f.Annotations[deliberateMark]; f.Changed || marked || slices.Contains(deliberate, f.Name) {
			return
		}
		name := "BULKHEAD_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v := c.env.Getenv(name); v != "" {
			if err := cmd.Flags().Set(f.Name, v); err != nil {
				faults = append(faults, bulkhead.Fault{Where: name, Message: wrongValue(f, v)})
			}
			return
		}
		if v, ok := c.config.Defaults[f.Name]; ok {
			if err := cmd.Flags().Set(f.Name, v); err != nil {
				faults = append(faults, bulkhead.Fault{Where: path + ": defaults." + f.Name, Message: wrongValue(f, v)})
			}
			return
		}
		if f.Name == "api" && c.config.Current != "" && !runsHere(cmd) {
			c.api = c.config.Current
		}
	})
	if len(faults) > 0 {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%s", faults[0]).WithHint("mend it; bulkhead COMMAND --help lists the flags")
	}
	if c.output != "table" && c.output != "json" && c.output != "yaml" {
		return usage(cmd, "output %q is not table, json or yaml", c.output)
	}
	if runsHere(cmd) { // validate looks at theirs
	} else if u, err := url.Parse(normalAPI(c.api)); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" && !strings.Contains(c.api, "://") {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "the address of the API, %q, is neither HOST:PORT nor a URL of http or https", c.api).
			WithHint("give it with --api, BULKHEAD_API or current in %s; usual is %s", path, defaultAPI)
	}
	if strings.ContainsFunc(c.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "the token holds characters that no token has").WithHint("give one line, such as bh_..., with --token or BULKHEAD_TOKEN")
	}
	if c.token == "" && !runsHere(cmd) {
		c.token = c.config.APIs[normalAPI(c.api)].Token
	}
	return nil
}

// runsHere tells whether a command is about this machine's own Bulkhead, not about
// an API somewhere.
func runsHere(cmd *cobra.Command) bool {
	return slices.Contains([]string{"up", "server", "agent", "doctor"}, cmd.Name())
}

// flagNames are the flags of a command and of all below it.
func flagNames(cmd *cobra.Command) map[string]bool {
	out := map[string]bool{}
	note := func(f *pflag.Flag) { out[f.Name] = true }
	cmd.PersistentFlags().VisitAll(note)
	cmd.Flags().VisitAll(note)
	for _, child := range cmd.Commands() {
		maps.Copy(out, flagNames(child))
	}
	return out
}

// wrongValue says that value is none for a flag.
func wrongValue(f *pflag.Flag, value string) string {
	wanted := map[string]string{"bool": "true or false", "duration": "a duration such as 30s or 5m", "int": "a whole number"}[f.Value.Type()]
	if wanted == "" {
		return fmt.Sprintf("%q is no value for --%s: %s", value, f.Name, f.Usage)
	}
	return fmt.Sprintf("%q is no value for --%s: %s is wanted", value, f.Name, wanted)
}
