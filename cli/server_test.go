package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/auth"
	"bulkhead/controller"
	"bulkhead/imagebuild"
	"bulkhead/images"
	"bulkhead/keys"
	"bulkhead/registry"
	"bulkhead/store"
)

// cluster is everything of a Bulkhead but containers: API, registry, controller
// and the node session are real; the node only says that tasks run.
type cluster struct {
	url    string
	token  string
	viewer string
	store  *store.Store
	stop   func()
	// join adds a node.
	join func(name bulkhead.NodeName) error
}

func newCluster(dir string) (*cluster, error) {
	state := store.Memory()
	token, hash := auth.New()
	viewer, viewerHash := auth.New()
	ctx, cancel := context.WithCancel(context.Background())
	err := state.Update(ctx, func(tx *store.Tx) error {
		tx.Tokens.Put(store.Token{Hash: hash, Operator: "ann", Role: string(auth.RoleAdmin)})
		tx.Tokens.Put(store.Token{Hash: viewerHash, Operator: "vic", Role: string(auth.RoleViewer)})
		return nil
	})
	if err != nil {
		cancel()
		return nil, err
	}
	authority, err1 := keys.OpenAuthority(filepath.Join(dir, "keys"))
	sealer, err2 := keys.OpenSealer(filepath.Join(dir, "keys"))
	blobs, err3 := registry.New(registry.Config{Dir: filepath.Join(dir, "registry"), Logger: slog.New(slog.DiscardHandler)})
	if err := errors.Join(err1, err2, err3); err != nil {
		cancel()
		return nil, err
	}
	identity := func(role keys.Role, name bulkhead.NodeName) *keys.Identity {
		id, err := keys.NewIdentity(ctx, func(context.Context) (*tls.Certificate, error) {
			return authority.Issue(keys.Subject{Role: role, Name: name, UID: "uid-" + string(name)})
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			panic(err)
		}
		return id
	}
	// The registry answers itself before the server that is in front of it exists.
	direct := httptest.NewServer(blobs)
	bundles := images.NewBundles(filepath.Join(dir, "bundles"), &images.Target{URL: direct.URL})
	server, err := api.NewServer(api.Config{
		Store: state, Sealer: sealer, Registry: blobs, Bundle: bundles.Bundle, Authority: authority, Version: "1.2.3",
		Forecast: controller.Forecast, Meetable: controller.Meetable, Target: controller.Target,
		HasImage: func(ctx context.Context, i bulkhead.Image) error {
			ok, err := blobs.Has(ctx, i.Repository, i.Digest)
			if err == nil && !ok {
				err = bulkhead.Errorf(bulkhead.ErrNotFound, "image %s is not in the registry", i.Reference)
			}
			return err
		},
		URL: func(h bulkhead.Host) string { return "http://" + string(h) + ":8080" },
	})
	if err != nil {
		cancel()
		return nil, err
	}
	users := httptest.NewServer(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, err
	}
	nodes := &http.Server{Handler: server.NodeHandler(), TLSConfig: identity(keys.RoleServer, "s1").Server(authority.Pool())}
	var wg sync.WaitGroup
	wg.Go(func() { _ = nodes.ServeTLS(listener, "", "") })
	wg.Go(func() { _ = server.Run(ctx) })
	wg.Go(func() {
		_ = controller.New(controller.Config{Store: state, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	})
	join := func(name bulkhead.NodeName) error {
		err := state.Update(ctx, func(tx *store.Tx) error {
			tx.Nodes.Put(bulkhead.Node{Name: name, UID: "uid-" + string(name)})
			return nil
		})
		way := api.NewWay([]string{listener.Addr().String()}, identity(keys.RoleNode, name).Client(authority.Pool()))
		node := &fakeNode{name: name, client: api.NewNodeClient(way)}
		wg.Go(func() { node.run(ctx) })
		return err
	}
	if err := join("n1"); err != nil {
		cancel()
		return nil, err
	}
	return &cluster{url: users.URL, token: token, viewer: viewer, store: state, join: join, stop: func() {
		cancel()
		server.Close()
		users.CloseClientConnections()
		users.Close()
		_ = nodes.Close()
		direct.Close()
		wg.Wait()
	}}, nil
}

// fakeNode answers as an agent would.
type fakeNode struct {
	name   bulkhead.NodeName
	client *api.NodeClient
}

func (n *fakeNode) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := n.session(ctx); err != nil && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func (n *fakeNode) session(ctx context.Context) error {
	s, err := n.client.Connect(ctx, bulkhead.NodeReport{Node: &bulkhead.Node{
		Version: "1.2.3", Gateway: string(n.name) + ":7073", Platform: "linux/amd64", Kernel: "6.1", Runtime: "containerd 1.6.20, runc 1.1.5",
		Capacity: bulkhead.Resources{CPU: 4, Memory: 8 << 30, Disk: 100 << 30, PIDs: 10000},
	}})
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		o, err := s.Receive()
		if err != nil {
			return err
		}
		switch {
		case o.Assign != nil:
			for _, st := range statuses(o.Assign.Stamp) {
				if err := s.Send(bulkhead.NodeReport{Status: &st}); err != nil {
					return err
				}
			}
		case o.Fetch != nil:
			a := bulkhead.Arrival{Name: o.Fetch.Name, Move: o.Fetch.Move, State: bulkhead.ArrivalReady, Bytes: 3 << 20, Passes: 2}
			if o.Fetch.Last {
				a.State = bulkhead.ArrivalComplete
			}
			if err := s.Send(bulkhead.NodeReport{Arrival: &a}); err != nil {
				return err
			}
		case o.Stream != nil:
			go n.stream(ctx, s, *o.Stream)
		}
	}
}

// statuses is what an agent would say of a stamp, one after the other.
func statuses(st bulkhead.Stamp) []bulkhead.StampStatus {
	status := bulkhead.StampStatus{Name: st.Name, UID: st.UID, Node: st.Node, Epoch: st.Epoch, Generation: st.Generation}
	switch st.Desired {
	case bulkhead.DesiredStopped:
		status.Phase = bulkhead.PhaseStopped
		return []bulkhead.StampStatus{status}
	case bulkhead.DesiredDeleted:
		status.Phase = bulkhead.PhaseDeleted
		return []bulkhead.StampStatus{status}
	}
	starting, done := status, status
	starting.Phase, done.Phase = bulkhead.PhaseStarting, bulkhead.PhaseRunning
	now := time.Now().UTC()
	done.Ready = &now
	for i, s := range st.Services {
		for slot := 1; slot <= s.Replicas; slot++ {
			task := bulkhead.Task{
				ID: bulkhead.NewTaskID(st.Name, s.Name, slot, "aaaaaa"), Stamp: st.Name, Service: s.Name, Slot: slot,
				State: bulkhead.TaskRunning, Health: bulkhead.HealthStarting, Created: now, Started: now,
				Address: netip.AddrFrom4([4]byte{10, 128, 0, byte(2 + i)}),
			}
			starting.Tasks = append(starting.Tasks, task)
			task.Health = bulkhead.HealthHealthy
			if s.Environment["BROKEN"] != "" {
				task.State, task.Message = bulkhead.TaskRejected, "exec: \"nothing\": no such file"
				done.Phase, done.Message, done.Ready = bulkhead.PhaseFailed, string(s.Name)+": "+task.Message, nil
			}
			done.Tasks = append(done.Tasks, task)
		}
	}
	return []bulkhead.StampStatus{starting, done}
}

func (n *fakeNode) stream(ctx context.Context, s *api.NodeSession, req bulkhead.StreamRequest) {
	conn, err := s.Stream(ctx, req)
	if err != nil {
		return
	}
	defer conn.Close()
	switch {
	case req.Logs != nil:
		enc := json.NewEncoder(conn)
		for i, service := range []bulkhead.ServiceName{"db", "web", "web"} {
			if req.Logs.Service != "" && req.Logs.Service != service {
				continue
			}
			_ = enc.Encode(bulkhead.LogLine{
				Time: time.Unix(int64(i), 0).UTC(), Service: service,
				Task: bulkhead.NewTaskID(req.Logs.Stamp, service, 1, "aaaaaa"), Text: fmt.Sprintf("line %d", i+1),
			})
		}
	case req.Exec != nil:
		fakeExec(conn, *req.Exec)
	}
}

// fakeExec knows `cat`, `echo ...` and `exit N`.
func fakeExec(conn io.ReadWriter, req bulkhead.ExecRequest) {
	var result bulkhead.ExecResult
	switch req.Command[0] {
	case "cat":
		for {
			kind, payload, err := bulkhead.ReadFrame(conn)
			if err != nil || kind == bulkhead.FrameStdinEnd {
				break
			}
			if kind == bulkhead.FrameStdin {
				_ = bulkhead.WriteFrame(conn, bulkhead.FrameStdout, payload)
			}
		}
	case "echo":
		_ = bulkhead.WriteFrame(conn, bulkhead.FrameStdout, []byte(strings.Join(req.Command[1:], " ")+"\n"))
		_ = bulkhead.WriteFrame(conn, bulkhead.FrameStderr, []byte("to stderr\n"))
	case "exit":
		_, _ = fmt.Sscan(req.Command[1], &result.Code)
	default:
		result = bulkhead.ExecResult{Code: -1, Error: "exec: \"" + req.Command[0] + "\": not found"}
	}
	b, _ := json.Marshal(result)
	_ = bulkhead.WriteFrame(conn, bulkhead.FrameExit, b)
}

// writeImage puts a docker-archive of one small image at path.
func writeImage(path, reference string) error {
	image, err := imagebuild.Build(imagebuild.Spec{
		Entrypoint: []string{"/app"}, Ports: []string{"8080/tcp"},
		Files: []imagebuild.File{{Path: "/app", Mode: 0o755, Content: bytes.Repeat([]byte(reference), 100)}},
	})
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := imagebuild.WriteDocker(&b, reference, image); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// freeAddress is an address that nobody listens on.
func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
