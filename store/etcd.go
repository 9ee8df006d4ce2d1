package store

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"

	"bulkhead"
)

const (
	// formatKey holds the format of the cluster's objects.
	formatKey = "/bulkhead/format"
	// electionPrefix and the lease of a candidate make its key.
	electionPrefix = "/bulkhead/leader"

	// tick is raft's. A single server has nobody to wait for, so it is short, and
	// the server elects itself within ten ticks of its start.
	tick = 20 * time.Millisecond
	// farmTick is raft's among several servers: their heartbeat. Who has heard none
	// for ten to twenty of them calls an election.
	farmTick = 100 * time.Millisecond

	// upkeepInterval is how often the size of etcd's file is looked at.
	upkeepInterval = time.Minute
	// tidyPause is the least time between two efforts to make room for a write.
	tidyPause = 10 * time.Second
	// slack is how much free space in etcd's file is worth a defragmentation, in
	// bytes, if it is also half of the file.
	slack = 64 << 20

	pageSize = 1000 // keys read at once

	// commitMost is how long a commit may take: longer than an election, shorter than
	// the patience of who waits.
	commitMost = 8 * time.Second
	// stepMost is how long a step of the start may take before it is begun again.
	stepMost = 30 * time.Second
	// barrierMost is how long reading may wait for the other servers.
	barrierMost = 3 * time.Second
)

// etcd is the engine of Open.
type etcd struct {
	config Config
	life   string // Name and this process's run of it; the value of election keys
	server *embed.Etcd
	client *clientv3.Client
	mirror *mirror

	stop      context.CancelFunc // of follow
	following sync.WaitGroup
	closing   sync.Once

	tidying sync.Mutex // held while tidying; guards tidied
	tidied  time.Time
}

// Open starts etcd in the folder and reads the state. Clients are in the process;
// the only port is that of Peers. It ends early with ctx.
func Open(ctx context.Context, config Config) (*Store, error) {
	config = config.withDefaults()
	if config.Folder == nil {
		return nil, errors.New("open store: no folder")
	}
	e := &etcd{config: config, life: config.Name + "/" + rand.Text(), mirror: newMirror(), stop: func() {}}
	if err := e.start(ctx); err != nil {
		_ = e.close()
		return nil, err
	}
	return newStore(config, e, e.mirror), nil
}

func (e *etcd) start(ctx context.Context) (err error) {
	e.server, err = embed.StartEtcd(e.embedConfig())
	if err != nil {
		return fmt.Errorf("start etcd in %s: %w", e.config.Folder.Path(), err)
	}
	select {
	case <-e.server.Server.ReadyNotify():
	case <-e.server.Server.StopNotify():
		return fmt.Errorf("start etcd in %s: it stopped", e.config.Folder.Path())
	case <-ctx.Done():
		return fmt.Errorf("start etcd in %s: %w", e.config.Folder.Path(), context.Cause(ctx))
	}
	e.client = v3client.New(e.server.Server)
	for _, step := range []func(context.Context) error{e.takePart, e.checkFormat, e.endEarlierLives, e.load} {
		if err := e.patiently(ctx, step); err != nil {
			return err
		}
	}
	follow, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	e.following.Go(func() { e.follow(follow) })
	return nil
}

// patiently repeats a step of the start until a majority of the servers is there:
// after a power cut they come back one by one.
func (e *etcd) patiently(ctx context.Context, step func(context.Context) error) error {
	if e.config.Peers == nil {
		return step(ctx)
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, stepMost)
		stop := e.afterElection(attempt, cancel) // as in commit
		err := step(attempt)
		stop()
		late := attempt.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil || !late && !errors.Is(err, ErrNoMajority) {
			return err
		}
		e.config.Logger.Warn("waiting for a majority of the servers", "error", err)
		if err := pause(ctx, retryCampaign); err != nil {
			return err
		}
	}
}

func (e *etcd) embedConfig() *embed.Config {
	c := embed.NewConfig()
	c.Name = e.config.Name
	c.Dir = filepath.Join(e.config.Folder.Path(), "etcd")
	c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil
	c.InitialClusterToken = "bulkhead"
	c.AuthToken = "" // no users: the process is the only client
	if p := e.config.Peers; p == nil {
		c.ListenPeerUrls = nil
		c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Host: e.config.Name + ":0"}} // a name only: nobody listens
		c.InitialCluster = c.InitialClusterFromName(c.Name)
		c.TickMs = uint(tick.Milliseconds())
		c.ElectionMs = 5 * c.TickMs
	} else {
		c.ListenPeerUrls = []url.URL{{Scheme: "https", Host: p.bind()}}
		c.AdvertisePeerUrls = []url.URL{{Scheme: "https", Host: p.Advertise}}
		c.PeerTLSInfo = transport.TLSInfo{
			CertFile: p.Certificate, KeyFile: p.Key, TrustedCAFile: p.Authority,
			ClientCertAuth: true, SkipClientSANVerify: true, // of addresses; names count:
			ServerName: p.HostName, AllowedHostnames: []string{p.HostName}, MinVersion: tls.VersionTLS13,
		}
		c.InitialCluster = c.InitialClusterFromName(c.Name)
		if len(p.Join) > 0 {
			c.ClusterState = embed.ClusterStateFlagExisting
			members := make([]string, len(p.Join))
			for i, address := range p.Join {
				name := fmt.Sprintf("member-%d", i)
				if address == p.Advertise {
					name = c.Name
				}
				members[i] = name + "=https://" + address
			}
			c.InitialCluster = strings.Join(members, ",")
		}
		c.TickMs = uint(farmTick.Milliseconds())
		c.ElectionMs = 10 * c.TickMs
	}

	// Beyond the quota room refuses what is new; this leaves space to delete.
	c.QuotaBackendBytes = e.config.Quota / 4 * 5
	c.MaxTxnOps = 2*MaxChanges + 10 // with the marks of deletions; conditions count separately
	c.MaxRequestBytes = 2 * maxBytes
	c.AutoCompactionMode = embed.CompactorModePeriodic
	c.AutoCompactionRetention = "5m" // only the mirror reads history, and it is near
	c.BootstrapDefragThresholdMegabytes = slack >> 20
	// Entries stay in memory until a snapshot; nobody needs to catch up.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 2000, 200
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	c.WarningApplyDuration = time.Second // a small machine is no news
	c.WarningUnaryRequestDuration = 2 * time.Second
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapCore{e.config.Logger.With("part", "etcd")}))
	return c
}

// takePart makes a member that has just joined a full one, and tells the others
// under which address this server is now.
func (e *etcd) takePart(ctx context.Context) error {
	p := e.config.Peers
	if p == nil {
		return nil
	}
	id := uint64(e.server.Server.MemberID())
	promoted := false // told; this member hears of it in its turn
	for e.server.Server.IsLearner() {
		if !promoted {
			_, err := e.client.MemberPromote(ctx, id)
			promoted = err == nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("become a full server: %w", err)
		}
	}
	address := "https://" + p.Advertise
	for _, m := range e.server.Server.Cluster().Members() {
		if uint64(m.ID) != id || len(m.PeerURLs) == 1 && m.PeerURLs[0] == address {
			continue
		}
		if _, err := e.client.MemberUpdate(ctx, id, []string{address}); err != nil {
			return fmt.Errorf("tell address of server: %w", kinded(err))
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkFormat refuses the state of another version and marks an empty one.
func (e *etcd) checkFormat(ctx context.Context) error {
	ours := strconv.Itoa(format)
	r, err := e.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(formatKey), "=", 0)).
		Then(clientv3.OpPut(formatKey, ours)).
		Else(clientv3.OpGet(formatKey)).
		Commit()
	if err != nil {
		return fmt.Errorf("read format of state: %w", kinded(err))
	}
	if r.Succeeded {
		return nil
	}
	return checkFormat("the state in "+e.config.Folder.Path(), string(r.Responses[0].GetResponseRange().Kvs[0].Value))
}

// endEarlierLives ends what an earlier process of this server has left: the
// folder is locked, so it is dead, and nobody need wait for its lease to end.
func (e *etcd) endEarlierLives(ctx context.Context) error {
	r, err := e.client.Get(ctx, electionPrefix+"/", clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("read candidates: %w", kinded(err))
	}
	for _, kv := range r.Kvs {
		if !strings.HasPrefix(string(kv.Value), e.config.Name+"/") {
			continue
		}
		_, err := e.client.Revoke(ctx, clientv3.LeaseID(kv.Lease))
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return fmt.Errorf("end earlier candidate: %w", kinded(err))
		}
	}
	return nil
}

// load fills the mirror anew with the state at one revision.
func (e *etcd) load(ctx context.Context) error {
	next := &Snapshot{}
	err := e.scan(ctx, func(revision int64) error { next.Revision = revision; return nil }, func(key string, value []byte, revision int64) error {
		name, object, ok := splitKey(key)
		if table := next.table(name); ok && table != nil {
			return table.set(object, value, revision)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	e.mirror.publish(next, []Change{{Revision: next.Revision}})
	return nil
}

func (e *etcd) dump(ctx context.Context, begin func(int64) error, row func(string, []byte) error) error {
	return e.scan(ctx, begin, func(key string, value []byte, _ int64) error { return row(key, value) })
}

// scan reads every key at the newest revision, which it tells first.
func (e *etcd) scan(ctx context.Context, begin func(revision int64) error, row func(key string, value []byte, revision int64) error) error {
	key, at := "", int64(0)
	for more := true; more; {
		r, err := e.client.Get(ctx, key, clientv3.WithFromKey(), clientv3.WithLimit(pageSize), clientv3.WithRev(at))
		if err != nil {
			return kinded(err)
		}
		if at == 0 {
			at = r.Header.Revision
			if err := begin(at); err != nil {
				return err
			}
		}
		for _, kv := range r.Kvs {
			if err := row(string(kv.Key), kv.Value, kv.ModRevision); err != nil {
				return err
			}
			key = string(kv.Key) + "\x00"
		}
		more = r.More
	}
	return nil
}

// follow keeps the mirror up with etcd until ctx ends. It follows every key, also
// those of no table, so that the mirror comes to every revision.
func (e *etcd) follow(ctx context.Context) {
	for {
		err := e.followOnce(ctx)
		switch {
		case ctx.Err() != nil:
			e.mirror.fail(bulkhead.Errorf(bulkhead.ErrUnavailable, "the store is closed"))
			return
		case errors.Is(err, rpctypes.ErrCompacted):
			e.config.Logger.Warn("state changed faster than it was followed: reading all of it")
			err = e.load(ctx)
		}
		if err != nil {
			e.mirror.fail(bulkhead.Errorf(bulkhead.ErrUnavailable, "follow state: %w", err))
			return
		}
	}
}

func (e *etcd) followOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := e.mirror.current.Load().Revision + 1
	for r := range e.client.Watch(ctx, "", clientv3.WithFromKey(), clientv3.WithRev(next)) {
		if err := r.Err(); err != nil {
			return err
		}
		if len(r.Events) == 0 {
			continue
		}
		changes := make([]change, len(r.Events))
		for i, event := range r.Events {
			changes[i] = change{key: string(event.Kv.Key), revision: event.Kv.ModRevision}
			if event.Type == clientv3.EventTypePut {
				changes[i].value = event.Kv.Value
			}
		}
		if err := e.mirror.apply(changes[len(changes)-1].revision, changes); err != nil {
			return err
		}
	}
	return errors.New("etcd ended the watch")
}

func (e *etcd) commit(ctx context.Context, t txn) (revision int64, ok bool, err error) {
	if t.creates {
		if err := e.room(ctx); err != nil {
			return 0, false, err
		}
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, commitMost)
	defer cancel()
	var conditions []clientv3.Cmp
	var otherwise []clientv3.Op
	if t.office != nil {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(t.office.key), "=", t.office.created))
		otherwise = append(otherwise, clientv3.OpGet(t.office.key, clientv3.WithKeysOnly()))
	}
	for _, c := range t.conditions {
		if c.end == "" {
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(c.key), "=", c.revision))
		} else {
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(c.key), "<", c.revision+1).WithRange(c.end))
		}
	}
	writes := make([]clientv3.Op, len(t.writes))
	for i, w := range t.writes {
		if w.value == nil {
			writes[i] = clientv3.OpDelete(w.key)
		} else {
			writes[i] = clientv3.OpPut(w.key, string(w.value))
		}
	}
	// What was on its way to a leader that died is lost, and nobody says so: a moment
	// after another leader is there, it is not waited for any more.
	stop := e.afterElection(ctx, cancel)
	r, err := e.client.Txn(ctx).If(conditions...).Then(writes...).Else(otherwise...).Commit()
	stop()
	switch {
	case err != nil && ctx.Err() != nil && outer.Err() == nil:
		return 0, false, noMajority(err)
	case err != nil:
		return 0, false, fmt.Errorf("commit: %w", kinded(err))
	case !r.Succeeded && t.office != nil:
		kvs := r.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 || kvs[0].CreateRevision != t.office.created {
			return 0, false, ErrDeposed
		}
	}
	return r.Header.Revision, r.Succeeded, nil
}

// afterElection calls cancel when the leader has changed and a moment has passed,
// unless stop is called first.
func (e *etcd) afterElection(ctx context.Context, cancel context.CancelFunc) (stop func()) {
	if e.config.Peers == nil {
		return func() {}
	}
	changed := e.server.Server.LeaderChangedNotify()
	done := make(chan struct{})
	go func() {
		select {
		case <-changed:
		case <-done:
			return
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(5 * farmTick):
			cancel()
		case <-done:
		}
	}()
	return func() { close(done) }
}

func (e *etcd) attend(ctx context.Context, key string, value []byte) error {
	for ctx.Err() == nil {
		err := e.attendOnce(ctx, key, value)
		if err != nil && ctx.Err() == nil {
			e.config.Logger.Warn("say that this server lives", "error", err)
			_ = pause(ctx, retryCampaign)
		}
	}
	return nil
}

// attendOnce holds a lease with the key until the lease or ctx ends.
func (e *etcd) attendOnce(ctx context.Context, key string, value []byte) error {
	session, err := concurrency.NewSession(e.client, concurrency.WithTTL(max(1, int(e.config.Lease/time.Second))))
	if err != nil {
		return fmt.Errorf("open lease: %w", kinded(err))
	}
	defer session.Close()
	if _, err := e.client.Put(ctx, key, string(value), clientv3.WithLease(session.Lease())); err != nil {
		return fmt.Errorf("write presence: %w", kinded(err))
	}
	select {
	case <-session.Done():
		return errors.New("the lease ended")
	case <-ctx.Done():
		return nil
	}
}

func (e *etcd) barrier(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, barrierMost)
	defer cancel()
	r, err := e.client.Get(ctx, formatKey, clientv3.WithKeysOnly())
	if err != nil && ctx.Err() != nil {
		return 0, noMajority(err)
	}
	if err != nil {
		return 0, fmt.Errorf("ask the servers: %w", kinded(err))
	}
	return r.Header.Revision, nil
}

func (e *etcd) campaign(ctx context.Context) (office, error) {
	seconds := max(1, int(e.config.Lease/time.Second))
	session, err := concurrency.NewSession(e.client, concurrency.WithTTL(seconds))
	if err != nil {
		return office{}, fmt.Errorf("campaign: %w", kinded(err))
	}
	election := concurrency.NewElection(session, electionPrefix)
	campaigning, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(session.Ctx(), cancel)() // no lease, no use
	if err := election.Campaign(campaigning, e.life); err != nil {
		_ = session.Close()
		if ctx.Err() != nil {
			return office{}, context.Cause(ctx)
		}
		return office{}, fmt.Errorf("campaign: %w", kinded(err))
	}
	return office{
		fence:  fence{election.Key(), election.Rev()},
		lost:   session.Done(),
		resign: func() { _ = session.Close() }, // if it can not be revoked, the lease ends
	}, nil
}

func (e *etcd) upkeep(ctx context.Context) error {
	ticker := time.NewTicker(upkeepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.server.Server.StopNotify():
			if e.server.Server.IsIDRemoved(uint64(e.server.Server.MemberID())) {
				return bulkhead.Errorf(bulkhead.ErrDenied, "this server was removed from the farm").
					WithHint("to join again it needs an empty data folder, and a token: bulkhead token create --role server")
			}
			return errors.New("etcd stopped")
		case <-ticker.C:
			if err := e.tidy(ctx); err != nil && ctx.Err() == nil {
				e.config.Logger.Warn("upkeep of etcd", "error", err)
			}
		}
		e.mirror.mu.Lock()
		err := e.mirror.err
		e.mirror.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// room refuses new objects when etcd's file has reached the quota and can not be
// made smaller. What changes or deletes an object still finds space.
func (e *etcd) room(ctx context.Context) error {
	if e.server.Server.Backend().Size() < e.config.Quota {
		return nil
	}
	e.tidying.Lock()
	defer e.tidying.Unlock()
	if time.Since(e.tidied) >= tidyPause {
		if err := e.tidyLocked(ctx); err != nil {
			return fmt.Errorf("make room: %w", kinded(err))
		}
	}
	if e.server.Server.Backend().Size() < e.config.Quota {
		return nil
	}
	return full(nil)
}

func (e *etcd) tidy(ctx context.Context) error {
	e.tidying.Lock()
	defer e.tidying.Unlock()
	return e.tidyLocked(ctx)
}

// tidyLocked gives free space in etcd's file back. Near the quota it drops
// history first.
func (e *etcd) tidyLocked(ctx context.Context) error {
	e.tidied = time.Now()
	b := e.server.Server.Backend()
	near := b.Size() > e.config.Quota/10*8
	if near {
		_, err := e.client.Compact(ctx, e.mirror.current.Load().Revision, clientv3.WithCompactPhysical())
		if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			return fmt.Errorf("compact: %w", err)
		}
	}
	free := b.Size() - b.SizeInUse()
	if near && free > 0 || free > slack && free > b.Size()/2 {
		if err := b.Defrag(); err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
	}
	// Beyond its own quota etcd refuses all writes until it is told to go on.
	if s, err := e.client.Status(ctx, ""); err != nil {
		return fmt.Errorf("read status: %w", err)
	} else if len(s.Errors) > 0 && b.Size() < e.config.Quota/4*5 {
		if _, err := e.client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
			return fmt.Errorf("disarm alarm: %w", err)
		}
	}
	return nil
}

func (e *etcd) close() error {
	e.closing.Do(func() {
		e.stop()
		e.following.Wait()
		if e.client != nil {
			_ = e.client.Close() // only says that it is closed
		}
		if e.server != nil {
			e.server.Close()
		}
	})
	return nil
}

// ErrNoMajority says that too few servers answer to change anything now. Whether
// the change was made is open.
var ErrNoMajority = errors.New("no majority of the servers answers")

// kinded gives etcd's errors the kinds that the rest of Bulkhead knows.
func kinded(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, rpctypes.ErrNoSpace):
		return full(err)
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged),
		errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost),
		strings.Contains(err.Error(), "raft proposal dropped"): // by a member without leader; the error has no other name
		return noMajority(err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return bulkhead.Errorf(bulkhead.ErrExhausted, "%w", err)
	default:
		return bulkhead.Errorf(bulkhead.ErrUnavailable, "%w", err)
	}
}

func noMajority(cause error) error {
	return &bulkhead.Error{
		Kind: bulkhead.ErrUnavailable, Message: "no majority of the servers answers", Cause: errors.Join(ErrNoMajority, cause),
		Hint: "bulkhead server list; stamps go on running meanwhile",
	}
}

func full(cause error) error {
	return &bulkhead.Error{
		Kind: bulkhead.ErrExhausted, Cause: cause,
		Message: "the state has reached its quota",
		Hint:    "delete releases and stamps that are not needed; their space is given back within a minute",
	}
}
