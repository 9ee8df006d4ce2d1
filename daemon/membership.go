package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/keys"
)

// membership is what a machine knows of its place in a farm, in the data folder.
// It is there before anything else of the farm is, and what it needs to start
// without asking anybody.
type membership struct {
	path string

	mu    sync.Mutex
	saved savedMembership // guarded by mu
}

type savedMembership struct {
	Name bulkhead.NodeName `json:"name"`
	// NodeUID and ServerUID are of the two roles; empty: it does not have the role, or
	// the farm began here.
	NodeUID   string   `json:"nodeUID,omitempty"`
	ServerUID string   `json:"serverUID,omitempty"`
	Servers   []string `json:"servers,omitempty"` // node APIs
	Members   []string `json:"members,omitempty"` // peers, for a server that has just joined
	Domain    string   `json:"domain,omitempty"`
}

// Files below the folder of keys.
const (
	authorityFile = "authority.pem" // the farm's certificate alone
	serverFile    = "server.pem"    // this server's, with its key
	nodeFile      = "node.pem"      // this node's, with its key
)

func openMembership(data string) (*membership, error) {
	m := &membership{path: filepath.Join(data, "membership.json")}
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m.saved)
	}
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "read %s: %w", m.path, err).WithHint("restore the file from a backup")
	}
	return m, nil
}

func (m *membership) get() savedMembership {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saved
}

// change changes what is saved, durably.
func (m *membership) change(do func(*savedMembership)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.saved
	do(&next)
	b, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return fmt.Errorf("encode membership: %w", err)
	}
	if err := keys.WriteFile(m.path, append(b, '\n')); err != nil {
		return err
	}
	m.saved = next
	return nil
}

// learn keeps the addresses of the servers.
func (m *membership) learn(servers []string) error {
	if len(servers) == 0 || slices.Equal(m.get().Servers, servers) {
		return nil
	}
	return m.change(func(s *savedMembership) { s.Servers = servers })
}

// join makes this machine a member of a farm, unless it is one already. What is
// cut short is taken up by the next start, with the same key and token.
func (m *membership) join(ctx context.Context, c Config) error {
	keyDir := filepath.Join(c.Data, "keys")
	was := m.get()
	role, have := keys.RoleNode, was.NodeUID
	if c.Server {
		role, have = keys.RoleServer, was.ServerUID
	}
	print, err := fingerprintOf(keyDir)
	if err != nil {
		return err
	}
	if c.Join == "" {
		if print == "" && !c.Server {
			return bulkhead.Errorf(bulkhead.ErrInvalid, "an agent needs a farm to join").
				WithHint("on a machine of the farm: bulkhead token create; then here --join and --token")
		}
		return nil
	}
	if have != "" && c.JoinToken == "" {
		return nil
	}
	token, err := keys.ParseJoinToken(c.JoinToken)
	switch {
	case err != nil && have != "":
		return nil // a member already: the token is not needed
	case err != nil:
		return err
	case print != "" && print != token.Fingerprint:
		return bulkhead.Errorf(bulkhead.ErrConflict, "the data folder %s belongs to a machine of another farm than the token", c.Data).
			WithHint("choose an empty folder with --data, or remove this one: bulkhead down --destroy")
	case have != "":
		return nil
	case m.occupied(c):
		return bulkhead.Errorf(bulkhead.ErrConflict, "the data folder %s belongs to a server or node already", c.Data).
			WithHint("choose an empty folder with --data")
	case token.Role != role:
		return bulkhead.Errorf(bulkhead.ErrDenied, "the token is for a %s, and this is to be a %s", token.Role, role).
			WithHint("bulkhead token create --role %s", role)
	}
	if err := os.MkdirAll(keyDir, 0o700); err != nil {
		return fmt.Errorf("make folder of keys: %w", err)
	}
	request, err := keys.OpenRequest(keyDir)
	if err != nil {
		return err
	}
	ask := api.JoinRequest{Role: role, Name: c.Node, Version: c.Version, Request: request.PEM}
	if c.Server {
		server := c.asServer()
		ask.Server = &server
	} else {
		ask.Said = bulkhead.Attributes{Region: c.Region, Zone: c.Zone, Labels: c.Labels}
	}
	c.Log.Info("joining the farm", "role", role, "name", c.Node, "at", c.Join)
	answer, err := api.Join(ctx, c.Join, token, ask)
	if err != nil {
		return err
	}
	if err := saveJoined(keyDir, role, request, answer); err != nil {
		return err
	}
	return m.change(func(s *savedMembership) {
		s.Name, s.Servers, s.Domain = c.Node, answer.Servers, answer.Domain
		if c.Server {
			s.ServerUID, s.Members = answer.UID, answer.Members
		} else {
			s.NodeUID = answer.UID
		}
	})
}

// occupied tells whether the data folder is that of another role already.
func (m *membership) occupied(c Config) bool {
	exists := func(parts ...string) bool {
		_, err := os.Stat(filepath.Join(append([]string{c.Data}, parts...)...))
		return err == nil
	}
	if c.Server {
		return exists("etcd") || m.get().NodeUID != ""
	}
	return exists("keys", "ca.pem")
}

// saveJoined keeps what a machine got when it joined.
func saveJoined(keyDir string, role keys.Role, request *keys.Request, answer api.JoinAnswer) error {
	if role == keys.RoleServer {
		for _, name := range []string{"seal.key", "ca.pem"} { // the authority last: with it the folder is a member's
			secret, ok := answer.Secrets[name]
			if !ok {
				return bulkhead.Errorf(bulkhead.ErrInvalid, "the farm's server gave no %s", name)
			}
			if err := keys.WriteFile(filepath.Join(keyDir, name), secret); err != nil {
				return err
			}
		}
	} else {
		certificate, err := request.Certificate(answer.Certificate)
		if err != nil {
			return err
		}
		if err := keys.SavePair(filepath.Join(keyDir, nodeFile), certificate); err != nil {
			return err
		}
	}
	return keys.WriteFile(filepath.Join(keyDir, authorityFile), answer.Authority)
}

// fingerprintOf is that of the farm whose keys are in a folder, "" if it is none's.
func fingerprintOf(keyDir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(keyDir, authorityFile))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = os.ReadFile(filepath.Join(keyDir, "ca.pem"))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the farm's certificate: %w", err)
	}
	_, print, err := keys.ReadPool(b)
	return print, err
}

// asServer is how others reach this server.
func (c Config) asServer() bulkhead.Server {
	s := bulkhead.Server{Name: c.Node, NodeAPI: c.advertised(c.NodeAPI), API: "http://" + c.advertised(c.API), Version: c.Version}
	if public(c.API) {
		s.API = "https://" + c.advertised(c.API)
	}
	if c.Advertise != "" {
		s.Peer = c.advertised(c.Peer)
	}
	return s
}

// serverIdentity is the certificate of a server, which it signs itself; etcd reads
// it from a file.
func serverIdentity(ctx context.Context, authority *keys.Authority, c Config) (*keys.Identity, error) {
	hosts := []string{"localhost", "127.0.0.1", "::1", string(c.Node)}
	for _, addr := range []string{c.advertised(c.API), c.advertised(c.NodeAPI)} {
		if host, _, err := net.SplitHostPort(addr); err == nil && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	if err := keys.WriteFile(filepath.Join(c.Data, "keys", authorityFile), authority.PEM()); err != nil {
		return nil, err
	}
	issue := func(context.Context) (*tls.Certificate, error) {
		certificate, err := authority.Issue(keys.Subject{Role: keys.RoleServer, Name: c.Node, Hosts: hosts})
		if err != nil {
			return nil, err
		}
		return certificate, keys.SavePair(filepath.Join(c.Data, "keys", serverFile), certificate)
	}
	return keys.NewIdentity(ctx, issue, c.Log.With("part", "keys"))
}

// ownNode is the certificate of a node on a server's machine, which can sign it
// itself.
func ownNode(ctx context.Context, authority *keys.Authority, c Config, uid string) (*keys.Identity, error) {
	return keys.NewIdentity(ctx, func(context.Context) (*tls.Certificate, error) {
		return authority.Issue(keys.Subject{Role: keys.RoleNode, Name: c.Node, UID: uid})
	}, c.Log.With("part", "keys"))
}

// joinedNode is the certificate of a node that joined: the one on disk, whether it
// has run out or not, and from then on what the servers give for a new key.
func joinedNode(ctx context.Context, c Config, pool *x509.CertPool, m *membership) (*keys.Identity, *api.Way, error) {
	path := filepath.Join(c.Data, "keys", nodeFile)
	if len(m.get().Servers) == 0 {
		return nil, nil, bulkhead.Errorf(bulkhead.ErrInvalid, "%s names no server", m.path).WithHint("restore the file from a backup")
	}
	var way *api.Way
	issue := func(ctx context.Context) (*tls.Certificate, error) {
		if way == nil { // the first
			return keys.LoadPair(path)
		}
		request, err := keys.NewRequest()
		if err != nil {
			return nil, err
		}
		chain, err := way.Renew(ctx, request.PEM)
		if err != nil {
			return nil, err
		}
		certificate, err := request.Certificate(chain)
		if err != nil {
			return nil, err
		}
		return certificate, keys.SavePair(path, certificate)
	}
	identity, err := keys.NewIdentity(ctx, issue, c.Log.With("part", "keys"))
	if err != nil {
		return nil, nil, err
	}
	way = api.NewWay(m.get().Servers, identity.Client(pool))
	identity.Renewed(way.Fresh)
	return identity, way, nil
}
