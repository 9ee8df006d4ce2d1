package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	serverTimeout  = 2 * time.Second // for one answer of one resolver
	forwardTimeout = 4 * time.Second // for all attempts: resolvers in tasks give up after 5 s
	allForwards    = 256             // under way, of all stamps: each holds a socket
)

// forwarder asks the machine's own resolvers.
type forwarder struct {
	path  string
	slots chan struct{}

	mu      sync.Mutex // guards what follows
	read    os.FileInfo
	checked time.Time
	servers []string // host:port
}

func newForwarder(path string) *forwarder {
	return &forwarder{path: path, slots: make(chan struct{}, allForwards)}
}

var (
	errBusy       = errors.New("too many queries are under way")
	errNoResolver = errors.New("the machine has no resolver")
)

// exchange asks one resolver after the other the question of req, and nothing
// else that req holds.
func (f *forwarder) exchange(ctx context.Context, req *dns.Msg) (*dns.Msg, error) {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	query := new(dns.Msg)
	query.Question = req.Question
	query.RecursionDesired = true
	query.CheckingDisabled = req.CheckingDisabled
	opt := req.IsEdns0()
	query.SetEdns0(messageSize, opt != nil && opt.Do())

	var answer *dns.Msg
	err := errNoResolver
	for _, server := range f.resolvers() {
		var got *dns.Msg
		if got, err = ask(ctx, query, server); err != nil {
			continue
		}
		answer = got
		if got.Rcode != dns.RcodeServerFailure && got.Rcode != dns.RcodeRefused {
			break
		}
	}
	if answer != nil {
		return answer, nil
	}
	return nil, err
}

// ask asks by UDP from a port of its own, and by TCP if the answer is too long.
func ask(ctx context.Context, query *dns.Msg, server string) (*dns.Msg, error) {
	query.Id = dns.Id()
	var short *dns.Msg
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: serverTimeout, UDPSize: messageSize}
		answer, _, err := client.ExchangeContext(ctx, query, server)
		if err != nil && short != nil {
			return short, nil // better than nothing: the asker sees that it is cut
		}
		if err != nil {
			return nil, fmt.Errorf("ask resolver %s: %w", server, err)
		}
		q := query.Question[0]
		if !answer.Response || len(answer.Question) != 1 || answer.Question[0].Qtype != q.Qtype || !strings.EqualFold(answer.Question[0].Name, q.Name) {
			return nil, fmt.Errorf("ask resolver %s: the answer is to another question", server)
		}
		if !answer.Truncated {
			return answer, nil
		}
		short = answer
	}
	return short, nil
}

// resolvers lists the machine's resolvers, at most three as resolv.conf(5) says.
// It looks at the file at most once a second.
func (f *forwarder) resolvers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) < time.Second {
		return f.servers
	}
	f.checked = time.Now()
	info, err := os.Stat(f.path)
	if err != nil {
		f.read, f.servers = nil, nil
		return nil
	}
	if f.read != nil && os.SameFile(info, f.read) && info.ModTime().Equal(f.read.ModTime()) && info.Size() == f.read.Size() {
		return f.servers
	}
	config, err := dns.ClientConfigFromFile(f.path)
	if err != nil {
		return f.servers // being written: the next look will tell
	}
	f.read, f.servers = info, nil
	for _, server := range config.Servers[:min(len(config.Servers), 3)] {
		f.servers = append(f.servers, net.JoinHostPort(server, config.Port))
	}
	return f.servers
}
