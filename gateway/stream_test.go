package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func echoSocket(t testing.TB) netip.AddrPort {
	return backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, data) != nil {
				return
			}
		}
	})
}

func TestWebSocket(t *testing.T) {
	g, stop := serveUntil(t, Config{Drain: 5 * time.Second}, to("acme.localhost", "/", echoSocket(t)))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hc := client(t, g)
	const many = 200
	conns := make([]*websocket.Conn, many)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			c, _, err := websocket.Dial(ctx, "ws://acme.localhost/", &websocket.DialOptions{HTTPClient: hc})
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = c
			for j := range 10 {
				want := fmt.Sprintf("%d/%d", i, j)
				if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
					t.Error(err)
					return
				}
				if _, got, err := c.Read(ctx); err != nil || string(got) != want {
					t.Errorf("%q %v, want %q", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	// A new table does not touch them.
	g.SetRoutes(nil)
	if err := conns[0].Write(ctx, websocket.MessageText, []byte("still")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conns[0].Read(ctx); err != nil || string(got) != "still" {
		t.Fatalf("%q %v", got, err)
	}
	// The end of the gateway is theirs, and does not take the drain time.
	start := time.Now()
	stop()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if _, _, err := conns[0].Read(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read after the end: %v", err)
	}
	for _, c := range conns {
		_ = c.CloseNow()
	}
}

// TestOnlyWebSocketUpgrades: other protocols would hide requests in a tunnel.
func TestOnlyWebSocketUpgrades(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "upgrade="+r.Header.Get("Upgrade"))
	})
	g := serve(t, Config{}, to("acme.localhost", "/", b))
	_, r := raw(t, g.Addr(), "GET / HTTP/1.1\r\nHost: acme.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := bodyOf(t, res); got != "upgrade=" {
		t.Errorf("%d %q", res.StatusCode, got)
	}
}

// bidi echoes every message of a stream, and tells in a trailer how many.
var bidi = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Echo", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error {
			n := 0
			for ; ; n++ {
				var m grpc_health_v1.HealthCheckRequest
				if err := s.RecvMsg(&m); err != nil {
					s.SetTrailer(metadata.Pairs("count", fmt.Sprint(n)))
					if errors.Is(err, io.EOF) {
						return status.Error(codes.DataLoss, "by design")
					}
					return err
				}
				if err := s.SendMsg(&m); err != nil {
					return err
				}
			}
		},
	}},
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	s.RegisterService(&bidi, nil)
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	g := serve(t, Config{StallTimeout: 300 * time.Millisecond}, to("acme.localhost", "/", netip.MustParseAddrPort(l.Addr().String())))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := grpc.NewClient("passthrough:///"+g.Addr().String(), grpc.WithAuthority("acme.localhost"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	res, err := grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("unary: %v %v", res, err)
	}
	_, err = grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "none"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("status in trailers: %v", err)
	}

	stream, err := c.NewStream(ctx, &bidi.Streams[0], "/test.Echo/Echo")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // one at a time: each must pass before the next is sent
		if i == 10 {
			time.Sleep(700 * time.Millisecond) // a stream may rest for longer than a body may stall
		}
		want := strings.Repeat("x", i*5000)
		if err := stream.SendMsg(&grpc_health_v1.HealthCheckRequest{Service: want}); err != nil {
			t.Fatal(err)
		}
		var got grpc_health_v1.HealthCheckRequest
		if err := stream.RecvMsg(&got); err != nil || got.Service != want {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&grpc_health_v1.HealthCheckRequest{}); status.Code(err) != codes.DataLoss {
		t.Errorf("end: %v", err)
	}
	if got := stream.Trailer().Get("count"); len(got) != 1 || got[0] != "20" {
		t.Errorf("trailer: %q", got)
	}

	g.SetRoutes(nil)
	_, err = grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) != codes.Unimplemented { // what gRPC makes of 404
		t.Errorf("no route: %v", err)
	}
}

// TestServerSentEvents: each event arrives before the next is sent.
func TestServerSentEvents(t *testing.T) {
	next := make(chan struct{})
	b := backendOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	})
	g := serve(t, Config{}, to("acme.localhost", "/", b))
	res, err := client(t, g).Get("http://acme.localhost/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	for i := range 3 {
		if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
		_, _ = r.ReadString('\n')
		next <- struct{}{}
	}
}

// TestBigUpload sends more than the gateway may keep in memory.
func TestBigUpload(t *testing.T) {
	const size = 64 << 20
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})
	g := serve(t, Config{}, to("acme.localhost", "/", b))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := client(t, g).Post("http://acme.localhost/", "application/octet-stream", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := bodyOf(t, res), fmt.Sprint(size, error(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 16<<20 {
		t.Errorf("%d bytes were allocated on the way", took)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestMaxBody(t *testing.T) {
	b := backendOf(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	g := serve(t, Config{MaxBody: 1000}, to("acme.localhost", "/", b))
	for name, tt := range map[string]struct {
		body   io.Reader
		status int
	}{
		"fits":              {strings.NewReader(strings.Repeat("x", 1000)), 200},
		"too long":          {strings.NewReader(strings.Repeat("x", 1001)), 413},
		"too long, unknown": {io.LimitReader(zeros{}, 100_000), 413},
	} {
		res, err := client(t, g).Post("http://acme.localhost/", "text/plain", tt.body)
		if err != nil {
			t.Fatal(name, err)
		}
		bodyOf(t, res)
		if res.StatusCode != tt.status {
			t.Errorf("%s: %d, want %d", name, res.StatusCode, tt.status)
		}
	}
}

// TestInformational: early hints and the answer to Expect pass through from the backend.
func TestInformational(t *testing.T) {
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusForbidden) // without reading, so without 100
			return
		}
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.Copy(w, r.Body)
	})
	g := serve(t, Config{}, to("acme.localhost", "/", b))
	for path, want := range map[string]string{"/yes": "103 100 200 hello", "/no": "403 "} {
		var got []string
		var mu sync.Mutex
		note := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, s)
		}
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			note(fmt.Sprint(code))
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://acme.localhost"+path, strings.NewReader("hello"))
		req.Header.Set("Expect", "100-continue")
		hc := client(t, g)
		hc.Transport.(*http.Transport).ExpectContinueTimeout = 5 * time.Second
		start := time.Now()
		res, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("%s: the client had to give up waiting, after %v", path, took)
		}
		note(fmt.Sprint(res.StatusCode))
		note(bodyOf(t, res))
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %q, want %q", path, s, want)
		}
	}
}

func TestHeadRangesTrailers(t *testing.T) {
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content)
	b := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/trailer" {
			w.Header().Set("Trailer", "X-Sum")
			_, _ = w.Write(content)
			w.Header().Set("X-Sum", fmt.Sprintf("%x", sha256.Sum256(content)))
			return
		}
		http.ServeContent(w, r, "x.bin", time.Unix(1, 0), bytes.NewReader(content))
	})
	g := serve(t, Config{}, to("acme.localhost", "/", b))
	hc := client(t, g)
	res, err := hc.Head("http://acme.localhost/")
	if err != nil {
		t.Fatal(err)
	}
	if got := bodyOf(t, res); got != "" || res.ContentLength != 1<<20 {
		t.Errorf("HEAD: %d bytes, length %d", len(got), res.ContentLength)
	}
	req, _ := http.NewRequest("GET", "http://acme.localhost/", nil)
	req.Header.Set("Range", "bytes=1000-1999")
	if res, err = hc.Do(req); err != nil {
		t.Fatal(err)
	}
	if got := bodyOf(t, res); res.StatusCode != 206 || got != string(content[1000:2000]) {
		t.Errorf("range: %d, %d bytes", res.StatusCode, len(got))
	}
	res, got := get(t, hc, "http://acme.localhost/trailer")
	if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(got))); res.Trailer.Get("X-Sum") != sum {
		t.Errorf("trailer %q, want %q", res.Trailer.Get("X-Sum"), sum)
	}
}
