package store

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"bulkhead"
)

// Member is a server as etcd's members see it.
type Member struct {
	Address string // HOST:PORT of its Peers; empty: none
	Learner bool   // it has joined and not caught up yet
	Answers bool   // it takes connections
	Leads   bool   // it orders the writes
}

// bind is Listen with an address, which etcd demands: every one of this machine,
// of the kind that is advertised, unless Listen names one.
func (p *Peers) bind() string {
	host, port, err := net.SplitHostPort(p.Listen)
	if err != nil || host != "" {
		return p.Listen
	}
	if advertised, _, _ := net.SplitHostPort(p.Advertise); strings.Contains(advertised, ":") {
		return net.JoinHostPort("::", port)
	}
	return net.JoinHostPort("0.0.0.0", port)
}

// members is what an engine of several servers can do besides.
type members interface {
	list(ctx context.Context) ([]Member, error)
	add(ctx context.Context, address string) ([]string, error)
	remove(ctx context.Context, address string) error
}

func (s *Store) members() (members, error) {
	if m, ok := s.engine.(members); ok && s.config.Peers != nil {
		return m, nil
	}
	return nil, bulkhead.Errorf(bulkhead.ErrConflict, "this server has no address for other servers").
		WithHint("start it again with --advertise and an address of this machine that the others reach")
}

// Members are the servers' etcd members. A server without Peers has none.
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	m, err := s.members()
	if err != nil {
		return nil, nil //nolint:nilerr // alone
	}
	return m.list(ctx)
}

// AddMember lets a server at the address of its Peers in, as one that learns: it
// has no vote before it has caught up, so that it cannot cost the others their
// majority. It returns the addresses of all, for Peers.Join. One joins at a time.
func (s *Store) AddMember(ctx context.Context, address string) ([]string, error) {
	m, err := s.members()
	if err != nil {
		return nil, err
	}
	return m.add(ctx, address)
}

// RemoveMember takes a server out. It refuses with ErrConflict when the servers
// that are left and answer would be no majority.
func (s *Store) RemoveMember(ctx context.Context, address string) error {
	m, err := s.members()
	if err != nil {
		return err
	}
	return m.remove(ctx, address)
}

// Attend keeps this server's entry in Present until ctx ends.
func (s *Store) Attend(ctx context.Context) error {
	name := bulkhead.NodeName(s.config.Name)
	b, err := json.Marshal(Presence{Name: name, Since: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("encode presence: %w", err)
	}
	return s.engine.attend(ctx, keyOf(Present, string(name)), b)
}

func (e *etcd) list(ctx context.Context) ([]Member, error) {
	var out []Member
	var mu sync.Mutex // guards out
	var wg sync.WaitGroup
	leader := e.server.Server.Leader()
	for _, m := range e.server.Server.Cluster().Members() {
		wg.Go(func() {
			member := Member{Learner: m.IsLearner, Leads: m.ID == leader, Answers: m.ID == e.server.Server.MemberID()}
			if len(m.PeerURLs) > 0 {
				member.Address = strings.TrimPrefix(m.PeerURLs[0], "https://")
			}
			if !member.Answers {
				member.Answers = e.answers(ctx, member.Address)
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, member)
		})
	}
	wg.Wait()
	return out, nil
}

// answers tells whether another server is up. A process that was stopped still
// has its connections taken by the kernel, so the handshake counts.
func (e *etcd) answers(ctx context.Context, address string) bool {
	config, err := e.embedConfig().PeerTLSInfo.ClientConfig()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func (e *etcd) find(address string) (uint64, bool) {
	for _, m := range e.server.Server.Cluster().Members() {
		for _, u := range m.PeerURLs {
			if u == "https://"+address {
				return uint64(m.ID), true
			}
		}
	}
	return 0, false
}

func (e *etcd) add(ctx context.Context, address string) ([]string, error) {
	for began := time.Now(); ; {
		if _, ok := e.find(address); ok { // it asks again
			break
		}
		_, err := e.client.MemberAddAsLearner(ctx, []string{"https://" + address})
		if err == nil || errors.Is(err, rpctypes.ErrPeerURLExist) {
			break
		}
		// etcd wants members to have heard each other for some seconds first.
		if !errors.Is(err, rpctypes.ErrUnhealthy) && !errors.Is(err, rpctypes.ErrTooManyLearners) || time.Since(began) > settleMost {
			return nil, membership("let a server in", err)
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	r, err := e.client.MemberList(ctx)
	if err != nil {
		return nil, membership("list servers", err)
	}
	return addresses(r), nil
}

// settleMost is how long one server waits for the one before it to have settled.
const settleMost = 9 * time.Second

func addresses(r *clientv3.MemberListResponse) []string {
	var out []string
	for _, m := range r.Members {
		for _, u := range m.PeerURLs {
			out = append(out, strings.TrimPrefix(u, "https://"))
		}
	}
	return out
}

func (e *etcd) remove(ctx context.Context, address string) error {
	id, ok := e.find(address)
	if !ok {
		return nil // gone already
	}
	all, err := e.list(ctx)
	if err != nil {
		return err
	}
	left, up := 0, 0
	for _, m := range all {
		if m.Address == address || m.Learner {
			continue
		}
		left++
		if m.Answers {
			up++
		}
	}
	switch {
	case left == 0:
		return bulkhead.Errorf(bulkhead.ErrConflict, "it is the only server: without it there is no state").WithHint("bulkhead down --destroy removes all of it")
	case up < left/2+1:
		return bulkhead.Errorf(bulkhead.ErrConflict, "without it %d of the %d servers left would answer: they need %d to agree", up, left, left/2+1).
			WithHint("bring the others up first: bulkhead server list")
	}
	for began := time.Now(); ; {
		_, err := e.client.MemberRemove(ctx, id)
		switch {
		case err == nil, errors.Is(err, rpctypes.ErrMemberNotFound):
			return nil
		case !errors.Is(err, rpctypes.ErrUnhealthy) || time.Since(began) > settleMost:
			return membership("remove a server", err)
		}
		if err := pause(ctx, time.Second); err != nil { // as in add
			return err
		}
	}
}

// membership words what etcd says against a change of its members.
func membership(what string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return bulkhead.Errorf(bulkhead.ErrConflict, "another server is joining: they join one at a time").
			WithHint("try again when it has joined, or remove it: bulkhead server list")
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return bulkhead.Errorf(bulkhead.ErrConflict, "%s: not enough of the servers answer for that", what).
			WithHint("bring the others up first: bulkhead server list")
	}
	return fmt.Errorf("%s: %w", what, kinded(err))
}
