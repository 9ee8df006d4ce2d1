package main

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"bulkhead"
	"bulkhead/cli"
	"bulkhead/containerd"
	"bulkhead/daemon"
)

// runAs is what this binary does when containers run it: as their init process,
// or between containerd and runc.
func runAs(args []string) (code int, ok bool) {
	switch {
	case len(args) > 1 && args[1] == "init" && os.Getpid() == 1:
		return containerd.Init(args[2:]), true
	case filepath.Base(args[0]) == containerd.RuntimeName:
		return containerd.OCIRuntime(args[1:]), true
	}
	return 0, false
}

// machine gives the command line what runs on this machine.
func machine(env *cli.Env) {
	env.Up = func(ctx context.Context, o cli.UpOptions) error {
		c, err := config(o)
		if err != nil {
			return err
		}
		c.Log = logger(o, os.Stderr)
		c.Up = func(r daemon.Running) error {
			return o.Ready(cli.Up{API: r.API, Token: r.Token, Authority: r.Authority})
		}
		return daemon.Run(ctx, c)
	}
	env.Down = daemon.Down
	env.Destroy = func(ctx context.Context, data string) error {
		return daemon.Destroy(ctx, daemon.Config{Data: data, Version: version})
	}
	env.Restore = daemon.Restore
	env.Doctor = func(ctx context.Context, o cli.UpOptions) []cli.Finding {
		c, err := config(o)
		if err != nil {
			return []cli.Finding{{Check: "configuration", State: cli.FindingFailed, Message: err.Error()}}
		}
		return findings(daemon.Doctor(ctx, c))
	}
}

func config(o cli.UpOptions) (daemon.Config, error) {
	c := daemon.Config{
		Data: o.Data, API: o.API, NodeAPI: o.NodeAPI, HTTP: o.HTTP, HTTPS: o.HTTPS, Domain: o.Domain, Email: o.Email, ACME: o.ACME,
		Node: bulkhead.NodeName(o.Node), Containerd: o.Containerd, Version: version,
		Server: o.Server, Agent: o.Agent, Advertise: o.Advertise, Peer: o.Peer, Hop: o.Hop, Join: o.Join, JoinToken: o.JoinToken,
		Region: o.Region, Zone: o.Zone, Labels: o.NodeLabels(), Extras: o.NodeExtras(), Inner: !o.Edge, LostAfter: o.LostAfter, CertificateLife: o.CertificateLife,
	}
	if o.Subnet == "" {
		return c, nil
	}
	var err error
	if c.Subnet, err = netip.ParsePrefix(o.Subnet); err != nil {
		return c, bulkhead.Errorf(bulkhead.ErrInvalid, "--subnet %q is not a network such as 10.128.0.0/10", o.Subnet)
	}
	return c, nil
}

func logger(o cli.UpOptions, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: o.LogLevel}
	if o.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

func findings(in []daemon.Finding) []cli.Finding {
	out := make([]cli.Finding, len(in))
	for i, f := range in {
		out[i] = cli.Finding{Check: f.Check, State: cli.FindingOK, Message: f.Found, Fix: f.Advice}
		switch {
		case f.Warning:
			out[i].State = cli.FindingWarning
		case !f.OK:
			out[i].State = cli.FindingFailed
		}
	}
	return out
}
