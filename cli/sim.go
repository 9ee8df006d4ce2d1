package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"bulkhead"
	"bulkhead/sim"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func (c *command) simCommand() *cobra.Command {
	var o sim.Config
	var memory string
	cmd := &cobra.Command{
		Use: "sim", Short: "Measure a farm of simulated nodes: a server of its own, thousands of agents",
		Long: `Measure what a server does in a farm of thousands of nodes, on this machine. It
starts a server of its own, with its state in a folder that is removed at the end;
lets simulated nodes join, which are real agents whose containers are pretended; and
creates stamps through the API. With --outage it kills the server, and starts it again
after so long. It touches no Bulkhead that runs here, and needs root as agents do.

The nodes share this machine with the server, at a lower priority. See
docs/performance.md for what the figures mean.`,
		Example: "  bulkhead sim --nodes 5000 --stamps 20000\n  bulkhead sim --nodes 1000 --stamps 5000 --outage 15s -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Fleet.Memory, err = units.RAMInBytes(memory); err != nil {
				return usage(cmd, "--memory %q is no size: write it as 64GiB", memory)
			}
			if o.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			o.Folder, o.Scratch = cmp.Or(o.Folder, os.TempDir()), cmp.Or(o.Scratch, inMemory())
			o.Say = func(format string, args ...any) { fmt.Fprintf(c.env.Stderr, "  "+format+"\n", args...) }
			report, err := sim.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			return c.print(report, func() { c.showSim(report) })
		},
	}
	f := cmd.Flags()
	fleetFlags(cmd, &o.Fleet, &memory)
	f.IntVar(&o.Stamps, "stamps", 4000, "stamps to create, in batches of 400")
	f.IntVar(&o.Clients, "clients", 4, "clients that create stamps at the same time")
	f.DurationVar(&o.Outage, "outage", 0, "kill the server in the end and start it again after so long (default: do not)")
	f.StringVar(&o.Folder, "data", "", "folder in which the server keeps its state meanwhile (default: that of the system for temporary files)")
	f.StringVar(&o.Scratch, "scratch", "", "folder in which the nodes keep theirs, best in memory (default: /dev/shm, if there is one)")
	cmd.AddCommand(c.simNodes())
	return cmd
}

// fleetFlags are what the simulated nodes are.
func fleetFlags(cmd *cobra.Command, c *sim.FleetConfig, memory *string) {
	f := cmd.Flags()
	f.IntVar(&c.Nodes, "nodes", 1000, "simulated nodes")
	f.IntVar(&c.Silent, "silent", 0, "of them, those that join and open no session, as if another server had it")
	f.IntVar(&c.Edges, "edges", 0, "of them, those whose gateways are told where all stamps are, as with agent --edge")
	f.IntVar(&c.Zones, "zones", 3, "zones over which they are spread")
	f.Float64Var(&c.CPU, "cpu", 16, "cores of each")
	f.StringVar(memory, "memory", "64GiB", "memory of each")
}

// inMemory is a folder that is kept in memory, where there is one.
func inMemory() string {
	const shared = "/dev/shm"
	if info, err := os.Stat(shared); err == nil && info.IsDir() {
		return shared
	}
	return os.TempDir()
}

// simNodes is the process of the nodes; it also lets simulated nodes join a farm that
// runs.
func (c *command) simNodes() *cobra.Command {
	var o sim.FleetConfig
	var memory, scratch string
	cmd := &cobra.Command{
		Use: "nodes", Short: "Let simulated nodes join the farm, until interrupted",
		Long: `Let simulated nodes join the farm that the API belongs to. Each makes itself a token,
so this takes an administrator. Their stamps seem to run, and nothing does: use it for
farms that are there to be tried. When it ends the nodes are silent; bulkhead node
remove takes them out.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Memory, err = units.RAMInBytes(memory); err != nil {
				return usage(cmd, "--memory %q is no size: write it as 64GiB", memory)
			}
			dir, err := os.MkdirTemp(cmp.Or(scratch, inMemory()), "bulkhead-nodes-")
			if err != nil {
				return bulkhead.Errorf(bulkhead.ErrInvalid, "make a folder: %w", err).WithHint("name another one with --scratch")
			}
			defer os.RemoveAll(dir)
			fleet, err := sim.NewFleet(o, c.client(), dir, slog.New(slog.NewTextHandler(c.env.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
			if err != nil {
				return err
			}
			work, ctx := errgroup.WithContext(cmd.Context())
			work.Go(func() error { return fleet.Run(ctx) })
			work.Go(func() error { return c.follow(ctx, fleet) })
			if err := work.Wait(); cmd.Context().Err() == nil {
				return err
			}
			return nil
		},
	}
	fleetFlags(cmd, &o, &memory)
	cmd.Flags().StringVar(&scratch, "scratch", "", "folder in which the nodes keep their state, best in memory (default: /dev/shm, if there is one)")
	return cmd
}

// follow prints what the nodes are at whenever that changes.
func (c *command) follow(ctx context.Context, fleet *sim.Fleet) error {
	pause := time.Second
	if c.output == "json" { // somebody measures by it
		pause = 50 * time.Millisecond
	}
	t := time.NewTicker(pause)
	defer t.Stop()
	var last sim.Stats
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
		now := fleet.Stats()
		if now == last {
			continue
		}
		last = now
		if c.output != "json" {
			c.say("%d joined, %d connected, %s", now.Joined, now.Synced, count(now.Running, "stamp")+" running")
			continue
		}
		if err := json.NewEncoder(c.env.Stdout).Encode(now); err != nil {
			return errors.New("nobody reads what the nodes are at")
		}
	}
}

func (c *command) showSim(r *sim.Report) {
	t := newTable(-1, "FIGURE", "VALUE", "SCOPE")
	t.add("nodes joined", fmt.Sprintf("%d in %.1f s, %.0f/s", r.Nodes, r.Join.Seconds, r.Join.NodesPerSecond), fmt.Sprintf("token, certificate, session, all assignments known; server %.1f core-s", r.Join.ServerSeconds))
	t.add("server at rest", fmt.Sprintf("%.2f cores, %s", r.Rest.ServerCores, size(r.Rest.ServerMemory)), fmt.Sprintf("%d open sessions, %d of edges; nodes' process %s", r.Nodes-r.Silent, r.Edges, size(r.Rest.NodesMemory)))
	if p := r.Place; p.Stamps > 0 {
		t.add("durable placements", fmt.Sprintf("%.0f/s", p.PerSecond), fmt.Sprintf("%d stamps, %d clients, batches of 400, median %.0f ms", p.Stamps, r.Clients, p.BatchMedian*1000))
		t.add("per server core-second", fmt.Sprintf("%.0f", p.PerServerSecond), fmt.Sprintf("server %.1f, clients %.1f, nodes %.1f core-s in %.1f s", p.ServerSeconds, p.ClientSeconds, p.NodesSeconds, p.Seconds))
		t.add("all running", fmt.Sprintf("%.1f s later", r.Settle.Seconds), "as the server knows it")
		t.add("server memory", size(r.Settle.ServerMemory), fmt.Sprintf("%d nodes, %d stamps running; nodes' process %s", r.Nodes, p.Stamps, size(r.Settle.NodesMemory)))
	}
	if x := r.Restart; x.OutageSeconds > 0 {
		t.add("server up again", fmt.Sprintf("%.1f s", x.UpSeconds), fmt.Sprintf("killed, away for %.0f s; %d attempts failed", x.OutageSeconds, x.Refused))
		t.add("all nodes back", fmt.Sprintf("%.1f s", x.BackSeconds), fmt.Sprintf("%d sessions opened", x.Sessions))
		t.add("steady", fmt.Sprintf("%.1f s", x.SteadySeconds), fmt.Sprintf("all ready and running as the server knows it; server %.1f core-s, %s", x.ServerSeconds, size(x.ServerMemory)))
		t.add("containers touched", fmt.Sprint(x.Touched), "by all of that")
	}
	c.table(t)
	c.say("")
	c.say("%d cores, load average %s before it began", r.Cores, r.Load)
}
