package cli

import (
	"cmp"
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
	"github.com/spf13/pflag"
)

// UpOptions are the flags of up, server and agent.
type UpOptions struct {
	Server, Agent bool // the roles of the process

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

	Advertise string // host name or address of this machine for others of the farm
	Peer      string // address on which other servers call
	Hop       string // address on which other nodes' gateways call
	Join      string // address of a server of the farm to join
	JoinToken string // that lets this machine in
	Region    string
	Zone      string
	Labels    []string // NAME=VALUE
	Extras    []string // NAME=AMOUNT
	Edge      bool     // take requests for stamps of other nodes, too
	LostAfter time.Duration
	// CertificateLife is how long certificates of machines are valid.
	CertificateLife time.Duration

	// Ready is called once everything answers.
	Ready func(Up) error
}

// Up is how to reach a Bulkhead that is up.
type Up struct {
	API       string // URL; empty: this process is no server
	Token     string // for the user who called up
	Authority []byte // PEM, of who signs for the API; empty: it has no TLS
}

// NodeLabels are Labels by name; validate has checked them.
func (o UpOptions) NodeLabels() map[string]string {
	out := map[string]string{}
	for _, text := range o.Labels {
		if name, value, err := bulkhead.ParseLabel(text); err == nil {
			out[name] = value
		}
	}
	return out
}

// NodeExtras are Extras by name; validate has checked them.
func (o UpOptions) NodeExtras() map[string]float64 {
	extras := map[string]float64{}
	for _, text := range o.Extras {
		if name, amount, err := bulkhead.ParseExtra(text); err == nil {
			extras[name] = amount
		}
	}
	return extras
}

// upFlags adds the flags that the roles in o have.
func (c *command) upFlags(cmd *cobra.Command, o *UpOptions) {
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "/var/lib/bulkhead", "folder of everything that Bulkhead keeps")
	f.StringVar(&o.Node, "node", "", "name of this machine in the farm (default: its host name)")
	f.StringVar(&o.Join, "join", "", "address of a server of the farm to join, with --token; once joined, both are left alone")
	f.StringVar(&o.Advertise, "advertise", "", "host name or address under which other machines of the farm reach this one (default: none; when it joins, that of the way to --join)")
	if o.Server {
		f.StringVar(&o.NodeAPI, "node-api", "", "address on which nodes call, by mutual TLS (default: 127.0.0.1:7071; with --advertise :7071)")
		f.StringVar(&o.Peer, "peer", ":7072", "address on which other servers call, by mutual TLS; only with --advertise")
		f.StringVar(&o.Domain, "domain", "localhost", "what stamps' host names end in")
		f.DurationVar(&o.LostAfter, "lost-after", time.Minute, "after how long a silent node's stamps without data go elsewhere; alike on all servers")
		f.DurationVar(&o.CertificateLife, "certificate-life", 24*time.Hour, "how long certificates of machines are valid; they renew themselves")
	}
	if o.Agent {
		f.StringVar(&o.HTTP, "http", ":8080", "address of the gateway")
		f.StringVar(&o.HTTPS, "https", "", "address of the gateway's TLS (default: none)")
		f.StringVar(&o.Hop, "hop", ":7073", "address on which other nodes' gateways call, by mutual TLS; only with --advertise")
		f.BoolVar(&o.Edge, "edge", true, "take requests for stamps of other nodes, too; in farms of thousands of nodes few need to")
		f.StringVar(&o.Region, "region", "", "region of this node")
		f.StringVar(&o.Zone, "zone", "", "zone of this node")
		f.StringArrayVar(&o.Labels, "label", nil, "label of this node, NAME=VALUE; may be repeated")
		f.StringArrayVar(&o.Extras, "extra", nil, "what this node has a number of, NAME=AMOUNT, such as gpu=2; may be repeated")
		f.StringVar(&o.Email, "email", "", "of who answers for certificates; for ACME")
		f.StringVar(&o.ACME, "acme", "", "URL of the ACME directory (default: Let's Encrypt)")
		f.StringVar(&o.Containerd, "containerd", "", "socket of containerd, or private for one of Bulkhead's own (default: the machine's, if it runs)")
		f.StringVar(&o.Subnet, "subnet", "10.128.0.0/10", "from which stamps' networks are taken")
	}
	f.TextVar(&o.LogLevel, "log-level", slog.LevelInfo, "from which level on is logged: debug, info, warn or error")
	f.StringVar(&o.LogFormat, "log-format", "text", "how is logged: text or json")
}

// validate finds what is wrong with the options before anything starts.
func (c *command) validate(o *UpOptions) error {
	var faults []bulkhead.Fault
	for _, a := range []struct {
		flag, address string
		needed        bool
	}{
		{"--api", c.api, o.Server},
		{"--node-api", o.NodeAPI, false},
		{"--peer", o.Peer, o.Server && o.Advertise != ""},
		{"--hop", o.Hop, o.Agent && o.Advertise != ""},
		{"--http", o.HTTP, false},
		{"--https", o.HTTPS, false},
	} {
		if a.address == "" && !a.needed {
			continue
		}
		address := strings.TrimPrefix(strings.TrimPrefix(a.address, "http://"), "https://")
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			faults = append(faults, bulkhead.Fault{Where: a.flag, Message: fmt.Sprintf("%q is not HOST:PORT", a.address)})
		}
	}
	if o.Server && o.Domain == "" || strings.ContainsAny(o.Domain, "/: ") {
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
	if p, err := netip.ParsePrefix(o.Subnet); o.Agent && (err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 24) {
		faults = append(faults, bulkhead.Fault{Where: "--subnet", Message: fmt.Sprintf("%q is not an IPv4 network from /8 to /24, such as 10.128.0.0/10", o.Subnet)})
	}
	if o.Node != "" {
		if _, err := bulkhead.ParseNodeName(o.Node); err != nil {
			faults = append(faults, bulkhead.Fault{Where: "--node", Message: err.Error()})
		}
	}
	for _, label := range o.Labels {
		if _, _, err := bulkhead.ParseLabel(label); err != nil {
			faults = append(faults, bulkhead.Fault{Where: "--label", Message: err.Error()})
		}
	}
	for _, extra := range o.Extras {
		if _, _, err := bulkhead.ParseExtra(extra); err != nil {
			faults = append(faults, bulkhead.Fault{Where: "--extra", Message: err.Error()})
		}
	}
	if err := (bulkhead.Node{Region: o.Region, Zone: o.Zone}).CheckLabels(); err != nil {
		faults = append(faults, bulkhead.Fault{Where: "--region, --zone", Message: err.Error()})
	}
	if o.Server && (o.LostAfter < 10*time.Second || o.CertificateLife < time.Minute) {
		faults = append(faults, bulkhead.Fault{Where: "--lost-after, --certificate-life", Message: "less than ten seconds, or than a minute, is too short"})
	}
	if o.Join != "" { // a member needs no token any more; who is none yet is told
		o.JoinToken = c.token
	}
	if len(faults) == 1 {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%s", faults[0])
	}
	o.API = strings.TrimPrefix(c.api, "http://")
	return bulkhead.Faulty("up cannot start like this", faults)
}

func (c *command) upCommand() *cobra.Command {
	o := UpOptions{Server: true, Agent: true}
	return c.running(&cobra.Command{
		Use: "up", Short: "Start Bulkhead on this machine",
		Long: `Start Bulkhead on this machine: server, agent and gateway in one process. The API
listens on --api. A token for it is written to your configuration file, and this
API becomes the one that your other commands talk to.

With --advertise other machines can join: bulkhead token create. With --join and the
token of a server this machine becomes one of the servers of a farm, and a node.`,
		Args: exactly(),
	}, o)
}

// serverCommand is both a role and the family of what there is to do with servers.
func (c *command) serverCommand() *cobra.Command {
	cmd := c.running(&cobra.Command{
		Use: "server", Short: "Run a server of a farm on this machine; list and remove servers",
		Long: `Run a server, which keeps the state of a farm together with others: one, three or
five of them. It runs no stamps; bulkhead agent does, and bulkhead up is both.

  bulkhead server --advertise 10.0.0.1                             the first
  bulkhead token create --role server                              there, for each other
  bulkhead server --join https://10.0.0.1:7071 --token bhj_...     on another machine`,
		Args: exactly(),
	}, UpOptions{Server: true})
	cmd.AddCommand(c.serverList(), c.serverRemove())
	return cmd
}

func (c *command) agentCommand() *cobra.Command {
	return c.running(&cobra.Command{
		Use: "agent", Short: "Run a node of a farm on this machine: stamps, and a gateway",
		Long: `Run a node: an agent, which runs stamps, and a gateway, which takes requests for all
stamps of the farm.

  bulkhead token create                                            on a machine of the farm
  bulkhead agent --join https://10.0.0.1:7071 --token bhj_...      here`,
		Args: exactly(),
	}, UpOptions{Agent: true})
}

// running makes cmd run the roles in o until it is interrupted.
func (c *command) running(cmd *cobra.Command, o UpOptions) *cobra.Command {
	var detach bool
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := c.validate(&o); err != nil {
			return err
		}
		if detach {
			return c.detach(cmd, o)
		}
		if c.env.Up == nil {
			return bulkhead.Errorf(bulkhead.ErrUnavailable, "this build of bulkhead cannot run a server").WithHint("servers run on Linux")
		}
		o.Ready = func(up Up) error {
			if up.API == "" {
				c.say("Bulkhead's agent is up: gateway on %s, data %s", cmp.Or(o.HTTP, "no port"), o.Data)
				return nil
			}
			if err := c.login(up); err != nil {
				return err
			}
			c.say("Bulkhead is up: API %s, gateway %s, data %s", normalAPI(up.API), gatewayURL(o), o.Data)
			c.next("bulkhead release publish DIR")
			return nil
		}
		return c.env.Up(cmd.Context(), o)
	}
	c.upFlags(cmd, &o)
	if o.Server { // an agent has no API to wait for: give it to a service manager
		cmd.Flags().BoolVar(&detach, "detach", false, "go on in the background; returns when it is ready")
	}
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
func (c *command) detach(cmd *cobra.Command, o UpOptions) error {
	ctx := cmd.Context()
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
	// But for a token, which others could read there.
	child := exec.Command(exe, cmd.Name(), "--config", c.config.path, "--api", o.API)
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		switch values, several := f.Value.(pflag.SliceValue); {
		case f.Name == "detach" || f.Name == "help":
		case f.Name == "data":
			child.Args = append(child.Args, "--data="+o.Data)
		case several:
			for _, v := range values.GetSlice() {
				child.Args = append(child.Args, "--"+f.Name+"="+v)
			}
		default:
			child.Args = append(child.Args, "--"+f.Name+"="+f.Value.String())
		}
	})
	child.Stdout, child.Stderr = log, log
	child.Dir = "/"
	child.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BULKHEAD_DETACH=") })
	if o.JoinToken != "" {
		child.Env = append(child.Env, "BULKHEAD_TOKEN="+o.JoinToken)
	}
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
		address := normalAPI(o.API)
		if host, port, _ := net.SplitHostPort(o.API); host == "" || net.ParseIP(host).IsUnspecified() {
			address = config.Current // the name that it gave itself
			if !strings.HasSuffix(address, ":"+port) {
				continue
			}
		} else if tls := "https://" + o.API; config.Current == tls {
			address = tls
		}
		cl, err := config.client(address, "", nil)
		if err != nil {
			return err
		}
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
