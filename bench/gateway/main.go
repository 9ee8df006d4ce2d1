// Command gateway measures the gateway, with 10,000 hosts in its table, beside a
// bare httputil.ReverseProxy and, where they are installed, nginx, HAProxy and
// Traefik, all over the same backend, which answers with 1 KiB.
//
// Every proxy is a process of its own and all run for the whole time; wrk loads
// one after the other, round after round, so that whatever else the machine does
// meets all of them. The table has the medians of the rounds. CPU is what the
// proxy's own processes used, which other load disturbs least; the last column is
// requests a second divided by the bare proxy's of the same round.
//
// It needs wrk, listens on the loopback only, and ends what it has started.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often each proxy has its turn")
	turn := flag.Duration("turn", 5*time.Second, "how long a turn is")
	connections := flag.Int("connections", 64, "connections that wrk keeps open")
	only := flag.String("only", "", "proxies to measure, separated by commas; empty: all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if role := flag.Arg(0); role != "" {
		err = play(ctx, role, flag.Arg(1), flag.Arg(2))
	} else {
		b := bench{rounds: *rounds, turn: *turn, connections: *connections, only: *only}
		err = b.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one comparison.
type bench struct {
	rounds, connections int
	turn                time.Duration
	only                string
	dir                 string // for configuration files
	backend             string // address
}

// proxy is one that is compared, and what was measured.
type proxy struct {
	name    string
	address string
	command *exec.Cmd
	turns   []turn
}

// turn is one run of wrk.
type turn struct {
	rate     float64 // requests a second
	p50, p99 time.Duration
	cpu      time.Duration // of the proxy, per 1,000 requests
}

func (b *bench) run(ctx context.Context) error {
	if _, err := exec.LookPath("wrk"); err != nil {
		return errors.New("wrk is not installed: apt-get install wrk")
	}
	limit := time.Duration(b.rounds+1)*b.turn*10 + time.Minute
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var err error
	if b.dir, err = os.MkdirTemp("", "bulkhead-bench-"); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(b.dir)
	if b.backend, err = freeAddress(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	backend := &proxy{name: "backend", address: b.backend, command: exec.CommandContext(ctx, self, "backend", b.backend)}
	proxies := []*proxy{backend}
	defer func() {
		for _, p := range slices.Backward(proxies) {
			p.end()
		}
	}()
	if err := backend.start(ctx); err != nil {
		return err
	}
	for _, name := range []string{"bare", "bulkhead", "nginx", "haproxy", "traefik"} {
		if b.only != "" && name != "bare" && !slices.Contains(strings.Split(b.only, ","), name) {
			continue
		}
		p := &proxy{name: name}
		if p.address, err = freeAddress(); err != nil {
			return err
		}
		if p.command, err = b.command(ctx, self, name, p.address); err != nil {
			return err
		}
		if p.command == nil {
			fmt.Printf("%s is not installed: left out\n", name)
			continue
		}
		if err := p.start(ctx); err != nil {
			return err
		}
		proxies = append(proxies, p)
	}
	for _, p := range proxies[1:] { // warm up
		if _, err := b.load(ctx, p, time.Second); err != nil {
			return err
		}
	}
	for round := range b.rounds {
		for i := range proxies {
			p := proxies[(round+i)%len(proxies)]
			t, err := b.load(ctx, p, b.turn)
			if err != nil {
				return err
			}
			p.turns = append(p.turns, t)
		}
	}
	b.print(proxies)
	return nil
}

// command is what starts a proxy at address, nil if it is not installed.
func (b *bench) command(ctx context.Context, self, name, address string) (*exec.Cmd, error) {
	if name == "bare" || name == "bulkhead" {
		return exec.CommandContext(ctx, self, name, address, b.backend), nil
	}
	binary, err := exec.LookPath(name)
	if name == "nginx" || name == "haproxy" {
		// A user's PATH often lacks the folder for these.
		binary, err = exec.LookPath(cmp.Or(binary, "/usr/sbin/"+name))
	}
	if err != nil {
		return nil, nil
	}
	file := filepath.Join(b.dir, name+".conf")
	var args []string
	switch name {
	case "nginx":
		args = []string{"-p", b.dir, "-c", file, "-e", filepath.Join(b.dir, "nginx.log")}
	case "haproxy":
		args = []string{"-f", file}
	case "traefik":
		file = filepath.Join(b.dir, "traefik.yaml")
		args = []string{"--entrypoints.web.address=" + address, "--providers.file.filename=" + file, "--log.level=ERROR", "--global.checknewversion=false", "--global.sendanonymoususage=false"}
	}
	config := strings.NewReplacer("DIR", b.dir, "ADDRESS", address, "BACKEND", b.backend).Replace(configs[name])
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return exec.CommandContext(ctx, binary, args...), nil
}

// configs give each peer two workers and connections to the backend that stay
// open, as its manual advises for load.
var configs = map[string]string{
	"nginx": `daemon off; worker_processes 2; pid DIR/nginx.pid;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
  upstream backend { server BACKEND; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen ADDRESS;
    location / {
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}
`,
	"haproxy": `global
  nbthread 2
defaults
  mode http
  timeout connect 2s
  timeout client 90s
  timeout server 90s
  http-reuse always
frontend web
  bind ADDRESS
  default_backend backend
backend backend
  option forwardfor
  server one BACKEND
`,
	"traefik": `http:
  routers: {web: {rule: "PathPrefix(` + "`/`" + `)", service: backend, entryPoints: [web]}}
  services: {backend: {loadBalancer: {servers: [{url: "http://BACKEND"}]}}}
`,
}

// freeAddress is a free address of the loopback. Somebody else might take it
// before it is used; then a proxy says so.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// start starts the proxy in a process group of its own and waits until it takes
// connections.
func (p *proxy) start(ctx context.Context) error {
	p.command.Stderr = os.Stderr
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		c, err := net.Dial("tcp", p.address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			p.end()
			return fmt.Errorf("start %s: %w", p.name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// end ends the proxy's whole process group, and returns when its leader is gone.
func (p *proxy) end() {
	if p.command.Process == nil || p.command.ProcessState != nil {
		return
	}
	group := -p.command.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM)
	late := time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
	_ = p.command.Wait() // its exit code says nothing of interest
	late.Stop()
}

var wrkFigures = map[string]*regexp.Regexp{
	"rate":     regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`),
	"requests": regexp.MustCompile(`([0-9]+) requests in`),
	"p50":      regexp.MustCompile(`50%\s+([0-9.]+[a-z]+)`),
	"p99":      regexp.MustCompile(`99%\s+([0-9.]+[a-z]+)`),
}

// load has wrk load p for d. Errors of any request are errors of the bench.
func (b *bench) load(ctx context.Context, p *proxy, d time.Duration) (t turn, err error) {
	before, err := p.cpu()
	if err != nil {
		return t, err
	}
	out, err := exec.CommandContext(ctx, "wrk", "-t2", "-c", strconv.Itoa(b.connections), "-d", strconv.Itoa(max(int(d.Seconds()), 1)), "--timeout", "10", "--latency",
		"-H", "Host: stamp-4711.localhost", "http://"+p.address+"/").CombinedOutput()
	if err != nil {
		return t, fmt.Errorf("load %s: %w\n%s", p.name, err, out)
	}
	after, err := p.cpu()
	if err != nil {
		return t, err
	}
	if strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return t, fmt.Errorf("load %s: requests went wrong\n%s", p.name, out)
	}
	figures := make(map[string]string)
	for name, pattern := range wrkFigures {
		m := pattern.FindSubmatch(out)
		if m == nil {
			return t, fmt.Errorf("load %s: wrk printed no %s\n%s", p.name, name, out)
		}
		figures[name] = string(m[1])
	}
	t.rate, err = strconv.ParseFloat(figures["rate"], 64)
	requests, err1 := strconv.ParseFloat(figures["requests"], 64)
	var err2, err3 error
	t.p50, err2 = time.ParseDuration(figures["p50"])
	t.p99, err3 = time.ParseDuration(figures["p99"])
	t.cpu = time.Duration(float64(after-before) / requests * 1000)
	return t, errors.Join(err, err1, err2, err3)
}

// cpu is the time that the processes of p's group have used: fields 14 and 15 of
// /proc/PID/stat, in hundredths of a second (proc(5)).
func (p *proxy) cpu() (time.Duration, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // has ended meanwhile
		}
		// Fields count from the end of the name, which may hold anything.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) < 13 || fields[2] != strconv.Itoa(p.command.Process.Pid) {
			continue
		}
		user, err1 := strconv.ParseInt(fields[11], 10, 64)
		system, err2 := strconv.ParseInt(fields[12], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return 0, fmt.Errorf("read %s: %w", f, err)
		}
		ticks += user + system
	}
	return time.Duration(ticks) * time.Second / 100, nil
}

func (b *bench) print(proxies []*proxy) {
	fmt.Printf("1 KiB answer, wrk -t2 -c%d -d%v, median of %d rounds\n", b.connections, b.turn, b.rounds)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "proxy\treq/s\tp50 ms\tp99 ms\tCPU s per 1,000 req\tto bare\t")
	for i, p := range proxies {
		name := p.name
		if i == 0 {
			name = "none (backend)"
		}
		rate := median(p.turns, func(t turn) float64 { return t.rate })
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.2f\t%.4f\t%.3f\t\n", name, rate,
			median(p.turns, func(t turn) float64 { return float64(t.p50) / 1e6 }),
			median(p.turns, func(t turn) float64 { return float64(t.p99) / 1e6 }),
			median(p.turns, func(t turn) float64 { return t.cpu.Seconds() }), p.ratio(proxies[1]))
	}
	_ = w.Flush()
}

// ratio is the median of p's rate divided by other's in the same round.
func (p *proxy) ratio(other *proxy) float64 {
	i := -1
	return median(p.turns, func(t turn) float64 {
		i++
		return t.rate / other.turns[i].rate
	})
}

func median(turns []turn, of func(turn) float64) float64 {
	values := make([]float64, len(turns))
	for i, t := range turns {
		values[i] = of(t)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
