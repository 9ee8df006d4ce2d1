package front

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"inshape/frame"
)

// known are the modules that are looked for by name where the settings name
// none, in the order of the navigation.
var known = []string{"analysis", "routing", "orders", "manufacturing", "monitoring", "fulfilment"}

const (
	pollEvery = 2 * time.Second
	pollTime  = 2 * time.Second
	// goneAfter is how long a module counts as down, not as absent, whose name
	// cannot be resolved any more: a container that starts again has none.
	goneAfter = 10 * time.Minute
)

// neighbours are the modules of the shop: which there are, and whether they
// are well. The loop run finds out; everybody else reads one unchanging list.
type neighbours struct {
	config  frame.Config
	log     *slog.Logger
	http    *http.Client
	resolve func(ctx context.Context, host string) error

	now   atomic.Pointer[[]neighbour]
	first chan struct{} // closed when it has been looked once
	again chan struct{} // asks for a look before its time
}

type neighbour struct {
	frame.ModuleState
	address *url.URL
	seen    time.Time // when its name was last found
	misses  int       // looks in a row that found it not well
}

func newNeighbours(config frame.Config, transport http.RoundTripper, log *slog.Logger) *neighbours {
	n := &neighbours{
		config: config, log: log, first: make(chan struct{}), again: make(chan struct{}, 1),
		http: &http.Client{Timeout: pollTime, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		resolve: func(ctx context.Context, host string) error {
			_, err := net.DefaultResolver.LookupHost(ctx, host)
			return err
		},
	}
	n.now.Store(&[]neighbour{})
	return n
}

// run looks for the modules again and again.
func (n *neighbours) run(ctx context.Context) error {
	defer n.http.CloseIdleConnections()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		n.look(ctx)
		if first {
			close(n.first)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-n.again:
		}
	}
}

// look makes the list anew.
func (n *neighbours) look(ctx context.Context) {
	before := map[string]neighbour{}
	for _, b := range *n.now.Load() {
		before[b.Name] = b
	}
	names := n.config.Modules
	sure := len(names) > 0
	if !sure {
		names = slices.Clone(known)
		for _, name := range slices.Sorted(maps.Keys(n.config.Addresses)) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	found := make([]*neighbour, len(names))
	var group sync.WaitGroup
	for i, name := range names {
		if name == "front" || name == "" || reserved[name] {
			continue
		}
		group.Go(func() { found[i] = n.find(ctx, name, before[name], sure) })
	}
	group.Wait()
	if ctx.Err() != nil {
		return // what was found out is not worth having
	}
	var list []neighbour
	for _, f := range found {
		if f == nil {
			continue
		}
		if was, ok := before[f.Name]; !ok || was.Up != f.Up {
			n.log.Info("module", "name", f.Name, "up", f.Up)
		}
		list = append(list, *f)
	}
	n.now.Store(&list)
}

// reserved are names whose paths are the front's own.
var reserved = map[string]bool{"account": true, "admin": true, "api": true, "docs": true, "invitation": true, "setup": true, "static": true, "sign-in": true, "sign-up": true, "sign-out": true, "healthz": true, "metrics": true}

// find looks at one module; nil means that the shop does not have it.
func (n *neighbours) find(ctx context.Context, name string, was neighbour, sure bool) *neighbour {
	address, err := url.Parse(n.config.Address(name))
	if err != nil {
		return nil // ConfigFrom has refused it
	}
	f := was
	f.Name, f.address = name, address
	if f.Title == "" {
		f.Title = strings.ToUpper(name[:1]) + name[1:]
	}
	if _, told := n.config.Addresses[name]; !sure && !told {
		patience, cancel := context.WithTimeout(ctx, pollTime)
		err := n.resolve(patience, address.Hostname())
		cancel()
		if err != nil {
			if was.Name == "" || time.Since(was.seen) > goneAfter {
				return nil
			}
			f.Up = false
			return &f
		}
	}
	f.seen = time.Now()
	health, err := n.health(ctx, address)
	if err != nil || health.Module != name {
		if f.misses++; f.misses >= 2 {
			f.Up = false
		}
		return &f
	}
	f.misses, f.Up, f.Title, f.Icon = 0, true, health.Title, health.Icon
	return &f
}

func (n *neighbours) health(ctx context.Context, address *url.URL) (frame.Health, error) {
	var h frame.Health
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String()+"/healthz", nil)
	if err != nil {
		return h, err
	}
	answer, err := n.http.Do(r)
	if err != nil {
		return h, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return h, errors.New("it is not well: " + answer.Status)
	}
	return h, json.NewDecoder(io.LimitReader(answer.Body, 64<<10)).Decode(&h)
}

// list is what the shop has, for the navigation. Right after the start it waits
// until it has been looked once.
func (n *neighbours) list(ctx context.Context) []frame.ModuleState {
	n.wait(ctx)
	all := *n.now.Load()
	list := make([]frame.ModuleState, len(all))
	for i, one := range all {
		list[i] = one.ModuleState
	}
	return list
}

// named is the module of a name.
func (n *neighbours) named(ctx context.Context, name string) (neighbour, bool) {
	n.wait(ctx)
	all := *n.now.Load()
	i := slices.IndexFunc(all, func(one neighbour) bool { return one.Name == name })
	if i < 0 {
		return neighbour{}, false
	}
	return all[i], true
}

func (n *neighbours) wait(ctx context.Context) {
	select {
	case <-n.first:
	case <-ctx.Done():
	}
}

// doubt has somebody look soon: a request did not get through.
func (n *neighbours) doubt() {
	select {
	case n.again <- struct{}{}:
	default: // it was asked for already
	}
}
