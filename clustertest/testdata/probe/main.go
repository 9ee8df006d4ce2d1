// Command probe is what test stamps run: an HTTP server that tells what it sees
// and does what a test asks of it. It is one static binary.
//
//	probe serve [ADDR]        the server, default :8080; UDP echo on the same port
//	probe get URL             exit 0 when URL answers 200 (health checks)
//	probe write FILE TEXT     and exit (one-off services)
//	probe exit CODE           at once
//	probe sleep               until a signal
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var client = &http.Client{Timeout: 3 * time.Second}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "probe: what?")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "serve":
		addr := ":8080"
		if len(os.Args) > 2 {
			addr = os.Args[2]
		}
		serve(addr)
	case "get":
		resp, err := client.Get(os.Args[2])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		io.Copy(os.Stdout, io.LimitReader(resp.Body, 1<<20))
		if resp.StatusCode != 200 {
			os.Exit(1)
		}
	case "write":
		if err := os.WriteFile(os.Args[2], []byte(os.Args[3]), 0o644); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "sleep":
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT)
		<-ch
	default:
		fmt.Fprintf(os.Stderr, "probe: %q?\n", os.Args[1])
		os.Exit(2)
	}
}

var sick atomic.Bool

func serve(addr string) {
	if f := os.Getenv("PROBE_DELAY"); f != "" {
		d, _ := time.ParseDuration(f)
		time.Sleep(d)
	}
	go echo(addr)
	answer := func(path string, f func(r *http.Request) (any, error)) {
		http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			if s, ok := v.(string); ok {
				io.WriteString(w, s)
				return
			}
			json.NewEncoder(w).Encode(v)
		})
	}
	q := func(r *http.Request, k string) string { return r.URL.Query().Get(k) }
	host, _ := os.Hostname()
	started := time.Now().UnixNano()
	answer("/", func(r *http.Request) (any, error) {
		return fmt.Sprintf("%s %s %s %d\n", os.Getenv("NAME"), host, r.URL.Path, started), nil
	})
	answer("/health", func(*http.Request) (any, error) {
		if sick.Load() {
			return nil, errors.New("sick")
		}
		return "ok", nil
	})
	answer("/sicken", func(*http.Request) (any, error) { sick.Store(true); return "sick", nil })
	answer("/exit", func(r *http.Request) (any, error) {
		code, _ := strconv.Atoi(q(r, "code"))
		time.AfterFunc(20*time.Millisecond, func() { os.Exit(code) })
		return "exiting", nil
	})
	answer("/headers", func(r *http.Request) (any, error) {
		return map[string]any{"host": r.Host, "headers": r.Header, "remote": r.RemoteAddr}, nil
	})
	answer("/env", func(*http.Request) (any, error) { return os.Environ(), nil })
	answer("/whoami", func(*http.Request) (any, error) {
		u, _ := user.Current()
		wd, _ := os.Getwd()
		return map[string]any{"uid": os.Getuid(), "gid": os.Getgid(), "user": u, "dir": wd, "host": host, "args": os.Args}, nil
	})
	answer("/read", func(r *http.Request) (any, error) {
		b, err := os.ReadFile(q(r, "path"))
		return string(b), err
	})
	answer("/write", func(r *http.Request) (any, error) {
		f, err := os.OpenFile(q(r, "path"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if _, err := io.WriteString(f, q(r, "text")); err != nil {
			return nil, err
		}
		return "written", f.Sync()
	})
	answer("/poke", func(r *http.Request) (any, error) { // somewhere in a file that is there
		f, err := os.OpenFile(q(r, "path"), os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		at, err := strconv.ParseInt(q(r, "at"), 10, 64)
		if err != nil {
			return nil, err
		}
		if _, err := f.WriteAt([]byte(q(r, "text")), at); err != nil {
			return nil, err
		}
		return "poked", f.Sync()
	})
	answer("/lookup", func(r *http.Request) (any, error) { return net.DefaultResolver.LookupHost(r.Context(), q(r, "name")) })
	answer("/fetch", func(r *http.Request) (any, error) {
		resp, err := client.Get(q(r, "url"))
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		return string(b), err
	})
	answer("/udp", func(r *http.Request) (any, error) {
		c, err := net.Dial("udp", q(r, "addr"))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		io.WriteString(c, q(r, "text"))
		b := make([]byte, 1500)
		n, err := c.Read(b)
		return string(b[:n]), err
	})
	answer("/scan", func(r *http.Request) (any, error) {
		from, _ := strconv.Atoi(q(r, "from"))
		to, _ := strconv.Atoi(q(r, "to"))
		return scan(q(r, "host"), from, to), nil
	})
	answer("/memory", func(r *http.Request) (any, error) {
		n, _ := strconv.Atoi(q(r, "mib"))
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		hog = b
		return "held", nil
	})
	answer("/log", func(r *http.Request) (any, error) {
		n, _ := strconv.Atoi(q(r, "lines"))
		for i := range n {
			fmt.Printf("%s %d\n", q(r, "text"), i)
		}
		return "logged", nil
	})
	http.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		for i := range 5 {
			fmt.Fprintf(w, "%d\n", i)
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	fmt.Println("serving on", addr)
	if err := http.ListenAndServe(addr, nil); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

var hog []byte

func echo(addr string) {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return
	}
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo([]byte("echo "+string(b[:n])), from)
	}
}

// scan tries every TCP port and returns those that take a connection.
func scan(host string, from, to int) []int {
	open := []int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 512)
	for port := from; port <= to; port++ {
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer func() { <-slots; wg.Done() }()
			c, err := net.DialTimeout("tcp", net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port)), time.Second)
			if err == nil {
				c.Close()
				mu.Lock()
				open = append(open, port)
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	return open
}
