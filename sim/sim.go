// Package sim runs Bulkhead with thousands of simulated nodes, so that anybody can see
// what the servers do in a large farm without having one. The server is a process of
// its own and all of a server: the real API, etcd on the disk, sessions over HTTP/2 and
// mutual TLS. The nodes are real agents (package agent) with certificates of their own,
// which joined by tokens as machines do; only what would touch a machine is pretended
// (machine.go): containers start at once, and nothing runs.
//
// It measures the servers, not containers, networks or disks of nodes. Start at Run,
// which measures; Fleet is the nodes.
package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/imagebuild"
)

// Config says what is simulated.
type Config struct {
	Program string // the bulkhead binary
	Version string // of it
	// Folder gets the server's state, and is removed at the end. It should be on a disk
	// as servers have.
	Folder string
	// Scratch gets the state of the nodes: each has a disk of its own in a farm, so here
	// it should be in memory.
	Scratch string

	Fleet   FleetConfig
	Stamps  int           // created in batches, then waited for
	Clients int           // that create stamps at the same time
	Outage  time.Duration // how long the server is away after it was killed; zero: it is not

	// Say is told what happens, a line at a time.
	Say func(format string, args ...any)
}

// Bounds of what can be simulated.
const (
	MostNodes   = 100_000
	MostStamps  = 1_000_000
	mostClients = 64
)

// validate finds what cannot work before anything starts.
func (c Config) validate() error {
	if err := c.Fleet.validate(); err != nil {
		return err
	}
	if c.Stamps < 0 || c.Stamps > MostStamps {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%d stamps: give 0 to %d with --stamps", c.Stamps, MostStamps)
	}
	if c.Clients < 1 || c.Clients > mostClients {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "%d clients: give 1 to %d with --clients", c.Clients, mostClients)
	}
	if c.Outage < 0 || c.Outage > time.Hour {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "an outage of %s: give 0 to 1h with --outage", c.Outage)
	}
	if os.Geteuid() > 0 { // agents give files to whom they are for
		return bulkhead.Errorf(bulkhead.ErrDenied, "bulkhead sim needs root: its nodes are real agents").WithHint("run it with sudo")
	}
	if err := enoughFiles(c.Fleet.live()); err != nil {
		return err
	}
	// A stamp is written twice by the servers and three times by its node's reports, and
	// etcd keeps what was for some minutes; a node has 16 KiB of files.
	disk := int64(512<<20) + int64(c.Stamps)*(24<<10) + int64(c.Fleet.Nodes)*(8<<10)
	memory := int64(64<<20) + int64(c.Fleet.Nodes)*(16<<10) + int64(c.Stamps)*(16<<10)
	if err := enoughRoom(c.Folder, disk, "--data"); err != nil {
		return err
	}
	return enoughRoom(c.Scratch, memory, "--scratch")
}

// product is what the stamps are copies of: no volume, so that a stamp can go to any
// node, and a usual number of settings.
const product = `name: shop
services:
  web:
    image: sim/web:1
    ports: ["8080:8080"]
    environment: {TITLE: "${TITLE:-Shop}"}
    deploy: {resources: {limits: {cpus: "0.5", memory: 64M}, reservations: {cpus: "0.02", memory: 16M}}}
x-bulkhead:
  version: "1"
`

// Run simulates and measures. Whatever it has started is gone when it returns.
func Run(ctx context.Context, c Config) (report *Report, err error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	for _, folder := range []*string{&c.Folder, &c.Scratch} {
		if *folder, err = os.MkdirTemp(*folder, "bulkhead-sim-"); err != nil {
			return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "make a folder: %w", err).WithHint("name another one with --data and --scratch")
		}
		defer os.RemoveAll(*folder)
	}
	r := &run{Config: c, report: newReport(c)}
	defer r.end()
	for _, step := range []func(context.Context) error{r.start, r.join, r.rest, r.place, r.settle, r.restart} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return r.report, nil
}

// run is one simulation.
type run struct {
	Config
	report *Report
	server *server
	nodes  *nodes
}

// end stops what was started.
func (r *run) end() {
	if r.nodes != nil {
		r.nodes.kill()
	}
	if r.server != nil {
		r.server.kill()
	}
}

// start brings a server up and publishes the product.
func (r *run) start(ctx context.Context) (err error) {
	if r.server, err = newServer(r.Program, r.Folder); err != nil {
		return err
	}
	took, err := r.server.start(ctx)
	if err != nil {
		return err
	}
	r.Say("a server is up after %s", took.Round(time.Millisecond))
	project := filepath.Join(r.Folder, "product")
	archive := filepath.Join(r.Folder, "web.tar")
	if err := errors.Join(os.Mkdir(project, 0o700), os.WriteFile(filepath.Join(project, "compose.yaml"), []byte(product), 0o600), writeImage(archive)); err != nil {
		return fmt.Errorf("write product: %w", err)
	}
	return r.server.bulkhead(ctx, "release", "publish", project, "--images", archive, "--offline")
}

// writeImage makes an archive of an image with nothing in it.
func writeImage(path string) error {
	image, err := imagebuild.Build(imagebuild.Spec{Architecture: "amd64", Entrypoint: []string{"/web"}, Ports: []string{"8080/tcp"}})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(imagebuild.WriteDocker(f, "sim/web:1", image), f.Close())
}

// join starts the nodes and waits until each has joined and its session has begun.
func (r *run) join(ctx context.Context) (err error) {
	began, used := time.Now(), r.server.processor()
	if r.nodes, err = startNodes(ctx, r.Program, r.Scratch, r.server, r.Fleet); err != nil {
		return err
	}
	r.Say("%d nodes join", r.Fleet.Nodes)
	now, err := r.nodes.await(ctx, r.Say, func(s Stats) bool { return s.Joined == r.Fleet.Nodes && s.Synced == r.Fleet.live() })
	if err != nil {
		return err
	}
	took := time.Since(began)
	r.report.Join = Join{Seconds: took.Seconds(), NodesPerSecond: float64(now.Joined) / took.Seconds(), ServerSeconds: r.server.processor() - used}
	r.Say("all are ready after %s", took.Round(time.Millisecond))
	return nil
}

// rest measures what nodes cost that have nothing to say.
func (r *run) rest(ctx context.Context) error {
	const pause = 5 * time.Second
	used := r.server.processor()
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.report.Rest = Rest{ServerCores: (r.server.processor() - used) / pause.Seconds(), ServerMemory: r.server.memory(), NodesMemory: r.nodes.memory()}
	return nil
}

// place creates the stamps, in batches each of which is answered when every stamp of
// it is in etcd and has a node that is in etcd, too.
func (r *run) place(ctx context.Context) error {
	if r.Stamps == 0 {
		return nil
	}
	batches := make(chan []api.StampSpec, r.Stamps/api.MostBatch+1)
	for first := 0; first < r.Stamps; first += api.MostBatch {
		specs := make([]api.StampSpec, min(api.MostBatch, r.Stamps-first))
		for i := range specs {
			specs[i] = api.StampSpec{Name: fmt.Sprintf("customer-%06d", first+i), Product: "shop"}
		}
		batches <- specs
	}
	close(batches)
	var mu sync.Mutex // guards what follows
	var latencies []time.Duration
	placed, refused := 0, ""
	errs := make([]error, r.Clients)
	began, server, own, nodes := time.Now(), r.server.processor(), processorOf(os.Getpid()), r.nodes.processor()
	var wg sync.WaitGroup
	for i := range r.Clients {
		client := r.server.client()
		wg.Go(func() {
			for specs := range batches {
				began := time.Now()
				out, err := client.CreateStamps(ctx, specs, true)
				if err != nil {
					errs[i] = err
					return
				}
				mu.Lock()
				latencies = append(latencies, time.Since(began))
				for _, p := range out {
					if p.Node != "" {
						placed++
					} else {
						refused = p.Placement
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("create stamps: %w", err)
	}
	if placed < r.Stamps {
		return bulkhead.Errorf(bulkhead.ErrExhausted, "%d of %d stamps found no node: %s", r.Stamps-placed, r.Stamps, refused).WithHint("give more --nodes, --cpu or --memory")
	}
	slices.Sort(latencies)
	r.report.Place = Place{
		Stamps: placed, Seconds: took.Seconds(), PerSecond: float64(placed) / took.Seconds(), BatchMedian: latencies[len(latencies)/2].Seconds(),
		ServerSeconds: r.server.processor() - server, ClientSeconds: processorOf(os.Getpid()) - own, NodesSeconds: r.nodes.processor() - nodes,
	}
	r.report.Place.PerServerSecond = float64(placed) / r.report.Place.ServerSeconds
	r.Say("%d stamps are placed after %s", placed, took.Round(time.Millisecond))
	return nil
}

// settle waits until the servers know that every stamp runs.
func (r *run) settle(ctx context.Context) error {
	if r.Stamps == 0 {
		return nil
	}
	began := time.Now()
	if err := r.steady(ctx); err != nil {
		return err
	}
	r.report.Settle = Settle{Seconds: time.Since(began).Seconds(), ServerMemory: r.server.memory(), NodesMemory: r.nodes.memory()}
	r.Say("all are reported running %s later", time.Since(began).Round(time.Millisecond))
	return nil
}

// steady waits until the servers say that every node is ready and every stamp runs.
func (r *run) steady(ctx context.Context) error {
	if _, err := r.nodes.await(ctx, r.Say, func(s Stats) bool { return s.Synced == r.Fleet.live() && s.Running >= r.Stamps }); err != nil {
		return err
	}
	client := r.server.client()
	for {
		status, err := client.Status(ctx)
		if err != nil {
			return fmt.Errorf("ask server: %w", err)
		}
		if status.Nodes[bulkhead.NodeReady] == r.Fleet.live() && status.Stamps[bulkhead.PhaseRunning] == r.Stamps {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// restart kills the server, starts it again after a while, and waits until everything
// is as it was. Nothing may have happened to what runs.
func (r *run) restart(ctx context.Context) error {
	if r.Outage == 0 {
		return nil
	}
	before := r.nodes.stats()
	r.server.kill()
	r.Say("the server was killed")
	select {
	case <-time.After(r.Outage):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	began := time.Now()
	up, err := r.server.start(ctx)
	if err != nil {
		return err
	}
	if _, err := r.nodes.await(ctx, r.Say, func(s Stats) bool { return s.Synced == r.Fleet.live() }); err != nil {
		return err
	}
	back := time.Since(began)
	if err := r.steady(ctx); err != nil {
		return err
	}
	after := r.nodes.stats()
	r.report.Restart = Restart{
		OutageSeconds: r.Outage.Seconds(), UpSeconds: up.Seconds(), BackSeconds: back.Seconds(), SteadySeconds: time.Since(began).Seconds(),
		ServerSeconds: r.server.processor(), Sessions: after.Sessions - before.Sessions, Refused: after.Refused - before.Refused,
		Touched: after.Changes - before.Changes, ServerMemory: r.server.memory(),
	}
	r.Say("the server was up after %s, all nodes were back after %s", up.Round(time.Millisecond), back.Round(time.Millisecond))
	return nil
}
