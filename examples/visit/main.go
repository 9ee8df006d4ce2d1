// Command visit asks pages of stamps through the gateway of this machine, as a
// browser does, until each has answered 200. It resolves no names: what ends in
// "localhost" resolves in every browser, not with every resolver.
//
//	go run ./examples/visit URL...
//
// BULKHEAD_HTTP is the address of the gateway; of it, only the host matters.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	patience = 30 * time.Second // for all pages together
	pause    = 100 * time.Millisecond
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./examples/visit URL...")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := visitor(os.Getenv("BULKHEAD_HTTP"))
	for _, url := range os.Args[1:] {
		if err := visit(ctx, client, url); err != nil {
			fmt.Fprintf(os.Stderr, "%s does not answer: %v\n", url, err)
			os.Exit(1)
		}
	}
}

// visitor connects to the gateway, whatever host a URL names.
func visitor(gateway string) *http.Client {
	host, _, _ := net.SplitHostPort(gateway)
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = ""
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port))
		},
	}}
}

// visit returns once url has answered 200; what it said last is the error of
// one that does not until ctx ends.
func visit(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	last := fmt.Errorf("no answer within %v", patience)
	for {
		response, err := client.Do(request)
		switch {
		case ctx.Err() != nil:
			return last
		case err != nil:
			last = err
		default:
			text, _ := io.ReadAll(io.LimitReader(response.Body, 200))
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			last = fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(text)))
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(pause):
		}
	}
}
