package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/auth"
	"bulkhead/controller"
	"bulkhead/keys"
	"bulkhead/store"
)

// product is what the stamps of the durable part are copies of.
const product = `name: shop
services:
  web:
    image: shop/web:1
    ports: ["8080:8080"]
    environment: {TITLE: "${TITLE:-Shop}"}
    deploy: {resources: {limits: {cpus: "0.5", memory: 64M}, reservations: {cpus: "0.02", memory: 16M}}}
`

// durable prints how many stamps a second are created by the API in batches,
// committed in etcd, given a node, committed again, and answered.
func durable(ctx context.Context, nodes, count int) error {
	dir, err := os.MkdirTemp("", "bulkhead-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := serve(ctx, dir)
	if err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	defer s.stop()
	if err := s.register(ctx, nodes); err != nil {
		return fmt.Errorf("register nodes: %w", err)
	}
	fmt.Printf("\nFrom the API to etcd's disk and back: %d nodes registered, %d stamps in batches of %d, each answered when all of it are placed\n\n", nodes, count, api.MostBatch)
	for _, clients := range []int{1, 4, 8} {
		began := processor()
		placed, took, latency, err := s.fill(ctx, fmt.Sprintf("c%d", clients), clients, count)
		if err != nil {
			return err
		}
		used := processor() - began
		fmt.Printf("%d clients: %d stamps in %.2f s, %.0f a second, %.0f in a second of one core's time (%.1f cores used); a batch takes %.0f ms (median)\n",
			clients, placed, took.Seconds(), float64(placed)/took.Seconds(), float64(placed)/used, used/took.Seconds(), latency*1000)
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	fmt.Printf("%d stamps in the end; %s of memory in the process (server and clients): %d MiB of heap in use\n", s.store.View().Stamps.Len(), resident(), memory.HeapInuse>>20)
	return nil
}

func resident() string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "unknown"
}

// server is a whole server but registry and nodes: API, state in etcd, controller.
type server struct {
	store *store.Store
	url   string
	token string
	stop  func()
}

func serve(ctx context.Context, dir string) (*server, error) {
	log := slog.New(slog.DiscardHandler)
	folder, err := store.Lock(filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	state, err := store.Open(ctx, store.Config{Folder: folder, Logger: log})
	if err != nil {
		return nil, err
	}
	sealer, err := keys.OpenSealer(filepath.Join(dir, "keys"))
	if err != nil {
		return nil, err
	}
	bundle := filepath.Join(dir, "bundle")
	if err := errors.Join(os.Mkdir(bundle, 0o755), os.WriteFile(filepath.Join(bundle, "compose.yaml"), []byte(product), 0o600)); err != nil {
		return nil, err
	}
	leader := controller.New(controller.Config{Store: state, Log: log})
	users, err := api.NewServer(api.Config{
		Store: state, Sealer: sealer, Logger: log, Forecast: controller.Forecast, Create: leader.Create, Registry: http.NotFoundHandler(),
		Bundle:   func(context.Context, bulkhead.Digest) (string, error) { return bundle, nil },
		HasImage: func(context.Context, bulkhead.Image) error { return nil },
	})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	token, hash := auth.New()
	err = state.Update(ctx, func(tx *store.Tx) error {
		tx.Tokens.Put(store.Token{Hash: hash, Operator: "bench", Role: string(auth.RoleAdmin), Created: time.Now()})
		return nil
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	web := &http.Server{Handler: users, ReadHeaderTimeout: 10 * time.Second}
	var parts sync.WaitGroup
	parts.Go(func() { _ = web.Serve(listener) })
	parts.Go(func() { _ = state.Run(ctx) })
	parts.Go(func() { _ = leader.Run(ctx) })
	s := &server{store: state, url: "http://" + listener.Addr().String(), token: token, stop: func() {
		cancel()
		users.Close()
		_ = web.Close()
		parts.Wait()
		_ = state.Close()
		_ = folder.Close()
	}}
	_, err = api.NewClient(s.url, token).Publish(ctx, api.ReleaseSpec{
		Version: "1", Bundle: bulkhead.Digest("sha256:" + strings.Repeat("a", 64)),
		Images: map[bulkhead.ServiceName]bulkhead.Image{
			"web": {Reference: "shop/web:1", Repository: "docker.io/shop/web", Digest: bulkhead.Digest("sha256:" + strings.Repeat("b", 64))},
		},
	})
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// register puts nodes into the state as their sessions would.
func (s *server) register(ctx context.Context, count int) error {
	nodes := farm(count)
	for len(nodes) > 0 {
		n := min(len(nodes), 500)
		err := s.store.Update(ctx, func(tx *store.Tx) error {
			for _, node := range nodes[:n] {
				node.Joined, node.Seen = time.Now(), time.Now()
				tx.Nodes.Put(node)
			}
			return nil
		})
		if err != nil {
			return err
		}
		nodes = nodes[n:]
	}
	return nil
}

// fill creates stamps by so many clients at once and returns how many have a
// place, how long all of it took, and the median time of a batch in seconds.
func (s *server) fill(ctx context.Context, prefix string, clients, count int) (placed int64, took time.Duration, latency float64, err error) {
	batches := make(chan int, count/api.MostBatch+1)
	total := 0
	for ; total < count; total += api.MostBatch {
		batches <- total
	}
	close(batches)
	var times []float64
	var mu sync.Mutex // guards times
	var done atomic.Int64
	errs := make([]error, clients)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range clients {
		client := api.NewClient(s.url, s.token)
		wg.Go(func() {
			for first := range batches {
				specs := make([]api.StampSpec, api.MostBatch)
				for j := range specs {
					specs[j] = api.StampSpec{Name: fmt.Sprintf("%s-customer-%06d", prefix, first+j), Product: "shop"}
				}
				began := time.Now()
				out, err := client.CreateStamps(ctx, specs, true)
				if err != nil {
					errs[i] = err
					return
				}
				mu.Lock()
				times = append(times, time.Since(began).Seconds())
				mu.Unlock()
				for _, p := range out {
					if p.Node != "" {
						done.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	took = time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return 0, 0, 0, err
	}
	return done.Load(), took, median(times), nil
}
