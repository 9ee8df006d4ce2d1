package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/api"

	"github.com/spf13/cobra"
)

// UpOptions are the flags of up.
type UpOptions struct {
	Data    string // folder of everything that Bulkhead keeps
	API     string // address of the API
	NodeAPI string // address on which nodes call, by mutual TLS
	HTTP    string // address of the gateway; empty: none
	HTTPS   string // address of the gateway's TLS; empty: none
	Domain  string // what stamps' host names end in
	Node    string // name of this node; empty: the machine's
	Subnet  string // from which stamps' networks are taken

	Email      string     // of who answers for certificates; for ACME
	ACME       string     // URL of the ACME directory
	Containerd string     // socket of containerd, or "private"
	LogLevel   slog.Level // from which on is logged
	LogFormat  string     // "text" or "json"

	// Ready is called once the API answers, with its address and a token for the
	// user who called up.
	Ready func(address, token string) error
}

func (c *command) upFlags(cmd *cobra.Command, o *UpOptions) {
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "/var/lib/bulkhead", "folder of everything that Bulkhead keeps")
	f.StringVar(&o.NodeAPI, "node-api", "127.0.0.1:7071", "address on which nodes call, by mutual TLS")
	f.StringVar(&o.HTTP, "http", ":8080", "address of the gateway")
	f.StringVar(&o.HTTPS, "https", "", "address of the gateway's TLS (default: none)")
	f.StringVar(&o.Domain, "domain", "localhost", "what stamps' host names end in")
	f.StringVar(&o.Node, "node", "", "name of this node (default: the machine's)")
	f.StringVar(&o.Email, "email", "", "of who answers for certificates; for ACME")
	f.StringVar(&o.ACME, "acme", "", "URL of the ACME directory (default: Let's Encrypt)")
	f.StringVar(&o.Containerd, "containerd", "", "socket of containerd, or private for one of Bulkhead's own (default: the machine's, if it runs)")
	f.TextVar(&o.LogLevel, "log-level", slog.LevelInfo, "from which level on is logged: debug, info, warn or error")
	f.StringVar(&o.LogFormat, "log-format", "text", "how is logged: text or json")
	f.StringVar(&o.Subnet, "subnet", "10.128.0.0/10", "from which stamps' networks are taken")
}

// validate finds what is wrong with the options before anything starts.
func (c *command) validate(o *UpOptions) error {
	var faults []bulkhead.Fault
	for _, a := range []struct{ flag, address string }{{"--api", c.api}, {"--node-api", o.NodeAPI}, {"--http", o.HTTP}, {"--https", o.HTTPS}} {
		if a.address == "" && (a.flag == "--http" || a.flag == "--https") {
			continue
		}
		address := strings.TrimPrefix(strings.TrimPrefix(a.address, "http://"), "https://")
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			faults = append(faults, bulkhead.Fault{Where: a.flag, Message: fmt.Sprintf("%q is not HOST:PORT", a.address)})
		}
	}
	if o.Domain == "" || strings.ContainsAny(o.Domain, "/: ") {
		faults = append(faults, bulkhead.Fault{Where: "--domain", Message: fmt.Sprintf("%q is not a domain name", o.Domain)})
	}
	if o.Data == "" {
		faults = append(faults, bulkhead.Fault{Where: "--data", Message: "no folder is given"})
	} else if abs, err := filepath.Abs(o.Data); err == nil {
		o.Data = abs
	}
	if o.LogFormat != "text" && o.LogFormat != "json" {
		faults = append(faults, bulkhead.Fault{Where: "--log-format", Message: fmt.Sprintf("%q is neither text nor json", o.LogFormat)})
	}
	if p, err := netip.ParsePrefix(o.Subnet); err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 24 {
		faults = append(faults, bulkhead.Fault{Where: "--subnet", Message: fmt.Sprintf("%q is not an IPv4 network from /8 to /24, such as 10.128.0.0/10", o.Subnet)})
	}
	if o.Node != "" {
		if _, err := bulkhead.ParseNodeName(o.Node); err != nil {
			faults = append(faults, bulkhead.Fault{Where: "--node", Message: err.Error()})
		}
	}
	if len(faults) == 1 {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%s", faults[0])
	}
	o.API = strings.TrimPrefix(c.api, "http://")
	return bulkhead.Faulty("up cannot start like this", faults)
}

func (c *command) upCommand() *cobra.Command {
	var o UpOptions
	var detach bool
	cmd := &cobra.Command{
		Use: "up", Short: "Start Bulkhead on this machine",
		Long: `Start Bulkhead on this machine: server, agent and gateway in one process. The API
listens on --api. A token for it is written to your configuration file, and this
API becomes the one that your other commands talk to.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.validate(&o); err != nil {
				return err
			}
			if detach {
				return c.detach(cmd.Context(), o)
			}
			if c.env.Up == nil {
				return bulkhead.Errorf(bulkhead.ErrUnavailable, "this build of bulkhead cannot run a server").WithHint("servers run on Linux")
			}
			o.Ready = func(address, token string) error {
				if err := c.login(address, token); err != nil {
					return err
				}
				c.say("Bulkhead is up: API %s, gateway %s, data %s", normalAPI(address), gatewayURL(o), o.Data)
				c.next("bulkhead release publish DIR")
				return nil
			}
			return c.env.Up(cmd.Context(), o)
		},
	}
	c.upFlags(cmd, &o)
	cmd.Flags().BoolVar(&detach, "detach", false, "go on in the background; returns when it is ready")
	return cmd
}

func gatewayURL(o UpOptions) string {
	if o.HTTP == "" {
		return "off"
	}
	_, port, _ := net.SplitHostPort(o.HTTP)
	if port == "80" {
		return "http://NAME." + o.Domain
	}
	return "http://NAME." + o.Domain + ":" + port
}

// detach starts this command again in a session of its own and waits until its
// API is ready.
func (c *command) detach(ctx context.Context, o UpOptions) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := os.MkdirAll(o.Data, 0o700); errors.Is(err, fs.ErrPermission) {
		return needsRoot(err)
	} else if err != nil {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "make data folder: %w", err).WithHint("choose another one with --data")
	}
	logPath := filepath.Join(o.Data, "bulkhead.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		return needsRoot(err)
	} else if err != nil {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "open log: %w", err).WithHint("choose another folder with --data")
	}
	defer log.Close()
	begin, err := log.Stat()
	if err != nil {
		return err
	}
	// Everything is given by flag: the environment and the file have had their say.
	child := exec.Command(exe, "up", "--config", c.config.path, "--api", o.API, "--data", o.Data, "--node-api", o.NodeAPI,
		"--http", o.HTTP, "--https", o.HTTPS, "--domain", o.Domain, "--node", o.Node, "--subnet", o.Subnet,
		"--email", o.Email, "--acme", o.ACME, "--containerd", o.Containerd, "--log-level", o.LogLevel.String(), "--log-format", o.LogFormat)
	child.Stdout, child.Stderr = log, log
	child.Dir = "/"
	child.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BULKHEAD_DETACH=") })
	ownSession(child)
	if err := child.Start(); err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), child.Process.Signal(os.Interrupt))
		case err := <-ended:
			return c.childEnded(err, logPath, begin.Size())
		case <-timeout.C:
			return bulkhead.Errorf(bulkhead.ErrUnavailable, "Bulkhead runs (process %d) but is not ready after a minute", child.Process.Pid).WithHint("see %s", logPath)
		case <-t.C:
		}
		// The child writes its token when it is ready; only then has this API one.
		config, err := loadConfig(c.config.path)
		if err != nil {
			return err
		}
		cl := api.NewClient(o.API, config.APIs[normalAPI(o.API)].Token)
		if _, err := cl.Version(ctx); err == nil && cl.Ready(ctx) == nil {
			break
		}
	}
	return c.print(map[string]any{"api": normalAPI(o.API), "gateway": gatewayURL(o), "data": o.Data, "log": logPath, "pid": child.Process.Pid}, func() {
		c.say("Bulkhead is up: API %s, gateway %s, data %s, log %s", normalAPI(o.API), gatewayURL(o), o.Data, logPath)
		c.next("bulkhead release publish DIR")
	})
}

func needsRoot(err error) error {
	return bulkhead.Errorf(bulkhead.ErrDenied, "bulkhead up needs root: %w", err).WithHint("run it with sudo")
}

// childEnded is why a background up did not come up: what it last said, if it
// said so in the words of printError.
func (c *command) childEnded(err error, logPath string, from int64) error {
	code := 1
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	}
	b, readErr := os.ReadFile(logPath)
	if readErr == nil && int64(len(b)) > from {
		if i := strings.LastIndex("\n"+string(b[from:]), "\nbulkhead: "); i >= 0 {
			fmt.Fprint(c.env.Stderr, string(b[from:])[i:])
			return exitStatus(code)
		}
	}
	return bulkhead.Errorf(errors.New("ended"), "Bulkhead ended while it started (%v)", err).WithHint("see %s", logPath)
}

func (c *command) downCommand() *cobra.Command {
	var data string
	var stamps, destroy, yes bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "down", Short: "Stop Bulkhead on this machine; stamps go on running",
		Long: `Stop Bulkhead on this machine. Stamps go on running without it, and the next up
finds them; with --stamps every stamp is stopped before, and stays so until it is
started again. With --destroy everything of it is removed from the machine: stamps,
networks, releases and all data.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.env.Down == nil {
				return bulkhead.Errorf(bulkhead.ErrUnavailable, "this build of bulkhead runs no server").WithHint("servers run on Linux")
			}
			abs, err := filepath.Abs(data)
			if err != nil {
				return err
			}
			if destroy {
				return c.destroy(cmd.Context(), abs, yes)
			}
			var stopped []string
			if stamps {
				if stopped, err = c.stopAll(cmd.Context(), timeout); err != nil {
					return err
				}
			}
			ran, err := c.env.Down(cmd.Context(), abs)
			if err != nil {
				return err
			}
			return c.print(map[string]any{"data": abs, "ran": ran, "stopped": notNil(stopped)}, func() {
				switch {
				case !ran:
					c.say("Bulkhead does not run on %s: nothing to stop", abs)
				case stamps:
					c.say("Bulkhead is down; %s stopped before", count(len(stopped), "stamp"))
					if len(stopped) > 0 {
						c.next("bulkhead up --detach, then bulkhead stamp start %s", strings.Join(stopped, " "))
					}
				default:
					c.say("Bulkhead is down; stamps go on running")
					c.next("bulkhead up --detach finds them again")
				}
			})
		},
	}
	cmd.Flags().StringVar(&data, "data", "/var/lib/bulkhead", "the data folder that it runs on")
	cmd.Flags().BoolVar(&stamps, "stamps", false, "stop every stamp first")
	cmd.Flags().BoolVar(&destroy, "destroy", false, "remove everything from this machine, all data too; asks first")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --destroy: do not ask")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for stamps to stop")
	return cmd
}

// stopAll stops every stamp that runs.
func (c *command) stopAll(ctx context.Context, timeout time.Duration) ([]string, error) {
	stamps, err := c.client().Stamps(ctx, api.StampQuery{})
	if err != nil {
		return nil, err
	}
	var stopped []string
	var changes []api.StampChange
	for _, s := range stamps {
		if s.Desired != bulkhead.DesiredRunning {
			continue
		}
		change, err := c.client().StopStamp(ctx, string(s.Name))
		if err != nil {
			return stopped, err
		}
		changes = append(changes, change)
		stopped = append(stopped, string(s.Name))
	}
	for _, change := range changes {
		if _, err := c.await(ctx, change.Stamp, timeout); err != nil {
			return stopped, err
		}
	}
	return stopped, nil
}

// destroy removes everything from the machine, once its user has typed the
// folder's path.
func (c *command) destroy(ctx context.Context, data string, yes bool) error {
	if c.env.Destroy == nil {
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "this build of bulkhead runs no server").WithHint("servers run on Linux")
	}
	if !yes {
		if err := c.confirm(data, "This destroys every stamp and all data in "+data+". Nothing brings it back."); err != nil {
			return err
		}
	}
	if _, err := c.env.Down(ctx, data); err != nil {
		return err
	}
	if err := c.env.Destroy(ctx, data); err != nil {
		return err
	}
	return c.print(map[string]any{"data": data, "destroyed": true}, func() { c.say("everything in %s is destroyed", data) })
}
